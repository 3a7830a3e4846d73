/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A provider that copies nothing: the file systems are held by the guard and let go again, and all that remains is a
 * record per volume. It is the test double and the example to read first. Records are small files in
 * STATE_DIRECTORY/null; the name
 * ".pending-SET-SNAPSHOT" is the uncommitted mark, "SNAPSHOT" a good one. The directory may lie on a file system that
 * is being held, so nothing touches it from pre_commit to release: commit only notes the time, post_commit writes it
 * down.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include "providers/builtin.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define PENDING ".pending-"

enum { PENDING_LENGTH = sizeof(PENDING) - 1, RECORD_NAME_MAX = PENDING_LENGTH + 2 * VSS_ID_SIZE };
/* ".pending-", two ids, "-" between them, NUL: RECORD_NAME_MAX bytes */

typedef struct NullState { /* of the one set this process works for */
        struct vss_snapshot records[VSS_VOLUMES_MAX];
        int fds[VSS_VOLUMES_MAX];
        unsigned n_records;
} NullState;

static NullState null_state; /* static, so that the window needs no memory */

static int fail(struct vss_call *c, int r, const char *what) {
        (void) snprintf(c->message, sizeof(c->message), "null: cannot %s in its state directory: %s", what,
                        strerror(-r));
        return r;
}

static int open_directory(struct vss_call *c) {
        const char *state = secure_getenv("STATE_DIRECTORY");
        char path[LIMIT_PATH_BYTES];
        int n = snprintf(path, sizeof(path), "%s/null", isempty(state) ? "/var/lib/vss" : state);
        if (n < 0 || (size_t) n >= sizeof(path))
                return fail(c, -ENAMETOOLONG, "find anything");
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return errno == ENOENT ? -ENOENT : fail(c, -errno, "make a directory");
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? fail(c, -errno, "open a directory") : fd;
}

static void pending_name(const char *set, const char *id, char ret[static RECORD_NAME_MAX]) {
        (void) snprintf(ret, RECORD_NAME_MAX, PENDING "%.36s-%.36s", set, id);
}

static bool pending_parse(const char *name, struct vss_snapshot *ret) {
        char expected[RECORD_NAME_MAX];
        if (strlen(name) != RECORD_NAME_MAX - 1 || strncmp(name, PENDING, PENDING_LENGTH) != 0)
                return false;
        memcpy(ret->set, name + PENDING_LENGTH, VSS_ID_LENGTH);
        memcpy(ret->id, name + PENDING_LENGTH + VSS_ID_LENGTH + 1, VSS_ID_LENGTH);
        pending_name(ret->set, ret->id, expected);
        return id_is_valid(ret->set) && id_is_valid(ret->id) && streq(name, expected);
}

static bool text_ends(const char *s, size_t size) {
        return memchr(s, 0, size);
}

/* Whoever wrote the file, only a well-formed record leaves this function. */
static bool record_read(int dir, const char *name, struct vss_snapshot *ret) {
        _cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct vss_snapshot s;
        if (fd < 0 || read(fd, &s, sizeof(s)) != sizeof(s) || s.struct_size != sizeof(s))
                return false;
        if (!text_ends(s.id, sizeof(s.id)) || !text_ends(s.set, sizeof(s.set)) ||
            !text_ends(s.volume, sizeof(s.volume)))
                return false;
        if (!id_is_valid(s.id) || !id_is_valid(s.set))
                return false;
        s.device[0] = s.path[0] = s.token[0] = '\0';
        *ret = s;
        return true;
}

typedef int (*RecordFunction)(int dir, const char *name, struct vss_snapshot *record, void *userdata);

static void closedirp(DIR **d) {
        if (*d)
                (void) closedir(*d);
}

/* Calls f for every record of the set ("" all). Prepared ones have created_at 0. Stops at the first result other than
 * 0. */
static int each_record(struct vss_call *c, const char *set, RecordFunction f, void *userdata) {
        _cleanup_close_ int dir = open_directory(c);
        if (dir < 0)
                return dir == -ENOENT ? 0 : dir;
        int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(closedirp) DIR *d = copy < 0 ? NULL : fdopendir(copy);
        if (!d) {
                (void) close_fd(copy);
                return fail(c, -errno, "read a directory");
        }
        for (struct dirent *e; (e = readdir(d));) {
                struct vss_snapshot s = {};
                bool pending = pending_parse(e->d_name, &s);
                if (!pending && !id_is_valid(e->d_name))
                        continue;
                /* A pending one that was cut short is still one to abort. */
                if ((!record_read(dir, e->d_name, &s) && !pending) || (!isempty(set) && !streq(s.set, set)))
                        continue;
                if (pending)
                        s.flags |= VSS_SNAPSHOT_PENDING;
                int r = f(dir, e->d_name, &s, userdata);
                if (r != 0)
                        return r;
        }
        return 0;
}

static uint64_t null_capabilities(void *state) {
        return VSS_CAP_REDIRECT | VSS_CAP_PERSISTENT;
}

static int null_probe(void *state, struct vss_call *c, const struct vss_volume *v, struct vss_probe *ret) {
        ret->capabilities = null_capabilities(state);
        ret->free_bytes = UINT64_MAX;
        return 0;
}

static int null_begin_prepare(void *state, struct vss_call *c, const struct vss_volume *v,
                              const struct vss_request *q) {
        NullState *n = &null_state;
        if (n->n_records == VSS_VOLUMES_MAX) {
                (void) snprintf(c->message, sizeof(c->message),
                                "null: %s would be volume %d of the set, %d are allowed", v->name, VSS_VOLUMES_MAX + 1,
                                VSS_VOLUMES_MAX);
                return -EDQUOT;
        }
        _cleanup_close_ int dir = open_directory(c);
        if (dir < 0)
                return dir == -ENOENT ? fail(c, -EIO, "find a place: there is no directory") : dir;

        struct vss_snapshot s = { .struct_size = sizeof(s), .size_bytes = v->size_bytes, .flags = q->flags };
        (void) snprintf(s.id, sizeof(s.id), "%s", q->snapshot);
        (void) snprintf(s.set, sizeof(s.set), "%s", c->set);
        (void) snprintf(s.volume, sizeof(s.volume), "%s", v->name);
        char name[RECORD_NAME_MAX];
        pending_name(c->set, q->snapshot, name);
        _cleanup_close_ int fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return fail(c, errno == EEXIST ? -EINVAL : -errno, "make a record");
        ssize_t written = pwrite(fd, &s, sizeof(s), 0);
        if (written != sizeof(s)) {
                int r = written < 0 ? -errno : -ENOSPC;
                (void) unlinkat(dir, name, 0);
                return fail(c, r, "write a record");
        }
        n->records[n->n_records] = s;
        n->fds[n->n_records++] = TAKE_FD(fd);
        return 0;
}

static int null_commit(void *state, struct vss_call *c) {
        uint64_t at = clock_usec(CLOCK_REALTIME);
        for (unsigned i = 0; i < null_state.n_records; i++)
                null_state.records[i].created_at = at;
        return 0;
}

static int null_post_commit(void *state, struct vss_call *c) {
        for (unsigned i = 0; i < null_state.n_records; i++) {
                const struct vss_snapshot *s = &null_state.records[i];
                if (pwrite(null_state.fds[i], s, sizeof(*s), 0) != sizeof(*s) || fdatasync(null_state.fds[i]) < 0)
                        return fail(c, -EIO, "write a record");
        }
        return 0;
}

static void forget_set(void) {
        while (null_state.n_records > 0)
                (void) close_fd(null_state.fds[--null_state.n_records]);
}

static int clear_one(int dir, const char *name, struct vss_snapshot *s, void *userdata) {
        bool *found = userdata;
        *found = *found || s->created_at > 0;
        if (!(s->flags & VSS_SNAPSHOT_PENDING) || s->created_at == 0)
                return 0;
        return renameat(dir, name, dir, s->id) < 0 || fsync(dir) < 0 ? -errno : 0;
}

static int null_clear_mark(void *state, struct vss_call *c) {
        bool found = false;
        int r = each_record(c, c->set, clear_one, &found);
        if (r < 0)
                return fail(c, r, "rename a record");
        forget_set();
        return found ? 0 : -ENOENT;
}

static int abort_one(int dir, const char *name, struct vss_snapshot *s, void *userdata) {
        if (!(s->flags & VSS_SNAPSHOT_PENDING))
                return 0;
        return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static int null_abort(void *state, struct vss_call *c) {
        int r = each_record(c, c->set, abort_one, NULL);
        forget_set();
        return r < 0 ? fail(c, r, "remove a record") : 0;
}

typedef struct ListCall {
        vss_snapshot_fn found;
        void *userdata;
} ListCall;

static int list_one(int dir, const char *name, struct vss_snapshot *s, void *userdata) {
        ListCall *l = userdata;
        return s->created_at > 0 ? l->found(s, l->userdata) : 0;
}

static int null_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata) {
        ListCall l = { .found = found, .userdata = userdata };
        return each_record(c, c->set, list_one, &l);
}

static int remove_one(int dir, const char *name, struct vss_snapshot *s, void *userdata) {
        if (!streq(s->id, userdata) || s->created_at == 0)
                return 0;
        return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? -errno : 1;
}

static int null_remove(void *state, struct vss_call *c, const char *snapshot) {
        int r = each_record(c, NULL, remove_one, (void *) (uintptr_t) snapshot);
        return r < 0 ? fail(c, r, "remove a record") : r == 0 ? -ENOENT : 0;
}

const struct vss_provider null_provider = {
        VSS_PROVIDER,
        .priority = 99,
        .name = "null",
        .version = VSS_VERSION,
        .capabilities = null_capabilities,
        .probe = null_probe,
        .begin_prepare = null_begin_prepare,
        .commit = null_commit,
        .post_commit = null_post_commit,
        .abort = null_abort,
        .list = null_list,
        .remove = null_remove,
        .clear_mark = null_clear_mark,
};
