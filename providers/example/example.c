/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A complete provider outside the tree, to copy from. It needs only libc and the installed header:
 *
 *     cc -std=c11 -D_GNU_SOURCE -fPIC -shared -o example.so example.c
 *     install -m 644 -o root -g root example.so /usr/lib/.../vss/providers/
 *
 * It "copies" a volume by writing a line of text about it, and shows what the contract asks of everybody: what is made
 * carries the ids of its set and snapshot and an "uncommitted" mark in its name, so that a fresh process can abort what
 * a killed one left; and from pre_commit to post_commit nothing is opened, allocated or written.
 *
 *     DIRECTORY/SET.SNAPSHOT.pending     from begin_prepare
 *     DIRECTORY/SET.SNAPSHOT             renamed by clear_mark
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <vss-provider.h>

#define PENDING ".pending"
enum { IDS_LENGTH = 2 * (VSS_ID_SIZE - 1) + 1, NAME_SIZE = IDS_LENGTH + sizeof(PENDING) };

struct record {
        int fd;
        uint64_t created_at, size_bytes;
        uint32_t flags;
        char volume[1024];
};

struct state {
        int directory;
        struct record records[VSS_VOLUMES_MAX]; /* of the one set this process works for */
        unsigned count;
};

static int fail(struct vss_call *c, int error, const char *what) {
        (void) snprintf(c->message, sizeof(c->message), "example: cannot %s: %s", what, strerror(error));
        return -error;
}

static int example_load(void **ret_state) {
        static struct state state;
        const char *path = getenv("VSS_EXAMPLE_DIRECTORY");
        if (!path)
                path = "/var/lib/vss-example";
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        state.directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (state.directory < 0)
                return -errno;
        *ret_state = &state;
        return 0;
}

static uint64_t example_capabilities(void *state) {
        (void) state;
        return VSS_CAP_COPY | VSS_CAP_PERSISTENT;
}

static int example_probe(void *state, struct vss_call *c, const struct vss_volume *v, struct vss_probe *ret) {
        (void) c, (void) v;
        ret->capabilities = example_capabilities(state);
        ret->free_bytes = UINT64_MAX;
        return 0;
}

static int write_record(const struct record *r) {
        char text[1200];
        int n = snprintf(text, sizeof(text), "%llu %llu %u %s\n", (unsigned long long) r->created_at,
                         (unsigned long long) r->size_bytes, r->flags, r->volume);
        return pwrite(r->fd, text, (size_t) n, 0) == n && fdatasync(r->fd) == 0 ? 0 : errno ? errno : ENOSPC;
}

static int example_begin_prepare(void *state, struct vss_call *c, const struct vss_volume *v,
                                 const struct vss_request *q) {
        struct state *s = state;
        struct record r = { .size_bytes = v->size_bytes, .flags = q->flags };
        char name[NAME_SIZE];
        if (s->count == VSS_VOLUMES_MAX)
                return fail(c, EDQUOT, "take another volume");
        if (snprintf(r.volume, sizeof(r.volume), "%s", v->name) >= (int) sizeof(r.volume))
                return fail(c, EINVAL, "keep so long a name");
        (void) snprintf(name, sizeof(name), "%s.%s" PENDING, c->set, q->snapshot);
        r.fd = openat(s->directory, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (r.fd < 0)
                return fail(c, errno, "make a record");
        int error = write_record(&r);
        if (error != 0) {
                (void) unlinkat(s->directory, name, 0);
                (void) close(r.fd);
                return fail(c, error, "write a record");
        }
        s->records[s->count++] = r;
        return 0;
}

static int example_commit(void *state, struct vss_call *c) {
        struct state *s = state;
        struct timespec now;
        (void) c;
        if (clock_gettime(CLOCK_REALTIME, &now) < 0)
                return -errno;
        for (unsigned i = 0; i < s->count; i++)
                s->records[i].created_at = (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
        return 0;
}

static int example_post_commit(void *state, struct vss_call *c) {
        struct state *s = state;
        for (unsigned i = 0; i < s->count; i++) {
                int error = write_record(&s->records[i]);
                if (error != 0)
                        return fail(c, error, "write a record");
        }
        return 0;
}

/* Fills id, set and the mark from a file name; 0 if it is not one of ours. */
static int parse_name(const char *name, struct vss_snapshot *ret) {
        size_t n = strlen(name);
        if (n < IDS_LENGTH || name[VSS_ID_SIZE - 1] != '.' ||
            (name[IDS_LENGTH] != '\0' && strcmp(name + IDS_LENGTH, PENDING) != 0))
                return 0;
        *ret = (struct vss_snapshot) { .struct_size = sizeof(*ret),
                                       .flags = name[IDS_LENGTH] ? VSS_SNAPSHOT_PENDING : 0 };
        memcpy(ret->set, name, VSS_ID_SIZE - 1);
        memcpy(ret->id, name + VSS_ID_SIZE, VSS_ID_SIZE - 1);
        return 1;
}

/* Fills the rest from the file; 0 if it was never committed. */
static int parse_record(int directory, const char *name, struct vss_snapshot *s) {
        char text[1200], volume[1024];
        unsigned long long created_at, size_bytes;
        unsigned flags;
        int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return 0;
        ssize_t n = read(fd, text, sizeof(text) - 1);
        (void) close(fd);
        text[n < 0 ? 0 : n] = '\0';
        if (sscanf(text, "%llu %llu %u %1023[^\n]", &created_at, &size_bytes, &flags, volume) != 4 || created_at == 0)
                return 0;
        s->created_at = created_at;
        s->size_bytes = size_bytes;
        s->flags |= flags & (VSS_REQUEST_PERSISTENT | VSS_REQUEST_WRITABLE);
        memcpy(s->volume, volume, sizeof(volume));
        return 1;
}

typedef int (*record_fn)(struct state *state, const char *name, struct vss_snapshot *s, void *userdata);

/* f for every record; stops at the first result other than 0. */
static int each_record(struct state *state, record_fn f, void *userdata) {
        int r = 0, fd = openat(state->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d)
                return -errno;
        for (struct dirent *e; r == 0 && (e = readdir(d));) {
                struct vss_snapshot s;
                if (parse_name(e->d_name, &s))
                        r = f(state, e->d_name, &s, userdata);
        }
        (void) closedir(d);
        return r;
}

static void forget(struct state *s) {
        while (s->count > 0)
                (void) close(s->records[--s->count].fd);
}

static int abort_one(struct state *state, const char *name, struct vss_snapshot *s, void *set) {
        if (strcmp(s->set, set) != 0 || !(s->flags & VSS_SNAPSHOT_PENDING))
                return 0;
        return unlinkat(state->directory, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static int example_abort(void *state, struct vss_call *c) {
        forget(state);
        int r = each_record(state, abort_one, (void *) c->set);
        return r < 0 ? fail(c, -r, "remove a record") : 0;
}

struct clearing {
        const char *set;
        int found;
};

static int clear_one(struct state *state, const char *name, struct vss_snapshot *s, void *userdata) {
        struct clearing *clearing = userdata;
        char cleared[NAME_SIZE];
        if (strcmp(s->set, clearing->set) != 0)
                return 0;
        clearing->found = 1;
        (void) snprintf(cleared, sizeof(cleared), "%s.%s", s->set, s->id);
        return renameat(state->directory, name, state->directory, cleared) < 0 ? -errno : 0;
}

static int example_clear_mark(void *state, struct vss_call *c) {
        struct state *s = state;
        struct clearing clearing = { .set = c->set };
        int r = each_record(s, clear_one, &clearing);
        if (r < 0 || fsync(s->directory) < 0)
                return fail(c, r < 0 ? -r : errno, "rename a record");
        forget(s);
        return clearing.found ? 0 : fail(c, ENOENT, "find that set");
}

struct listing {
        struct vss_call *call;
        vss_snapshot_fn found;
        void *userdata;
};

static int list_one(struct state *state, const char *name, struct vss_snapshot *s, void *userdata) {
        struct listing *l = userdata;
        if (l->call->set[0] && strcmp(l->call->set, s->set) != 0)
                return 0;
        return parse_record(state->directory, name, s) ? l->found(s, l->userdata) : 0;
}

static int example_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata) {
        struct listing l = { .call = c, .found = found, .userdata = userdata };
        return each_record(state, list_one, &l);
}

static int remove_one(struct state *state, const char *name, struct vss_snapshot *s, void *id) {
        if (strcmp(s->id, id) != 0)
                return 0;
        return unlinkat(state->directory, name, 0) < 0 ? -errno : 1;
}

static int example_remove(void *state, struct vss_call *c, const char *snapshot) {
        int r = each_record(state, remove_one, (void *) snapshot);
        return r == 0 ? -ENOENT : r < 0 ? fail(c, -r, "remove a record") : 0;
}

static const struct vss_provider example_provider = {
        VSS_PROVIDER,
        .priority = 98,
        .name = "example",
        .version = "1",
        .load = example_load,
        .capabilities = example_capabilities,
        .probe = example_probe,
        .begin_prepare = example_begin_prepare,
        .commit = example_commit,
        .post_commit = example_post_commit,
        .abort = example_abort,
        .list = example_list,
        .remove = example_remove,
        .clear_mark = example_clear_mark,
};
VSS_REGISTER_PROVIDER(example_provider)
