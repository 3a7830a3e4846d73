/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/mounts.h"
#include "daemon/host-mounts.h"
#include "daemon/peers.h"
#include "protocol/text.h"
#include <stdio.h>
#include <sys/epoll.h>
#include <syslog.h>

struct MountJob {
        Manager *manager;
        Child child;
        sd_event_source *io, *timer;
        MountDone done; /* NULL: nobody waits; the job frees itself */
        void *userdata;
};

struct Mounts {
        Manager *manager;
        char *note;
        LIST_HEAD(, MountEntry) list;
        unsigned n;
        bool doomed; /* some entry is */
};

MountJob *mount_job_free(MountJob *j) {
        if (!j)
                return NULL;
        sd_event_source_disable_unref(j->io);
        sd_event_source_disable_unref(j->timer);
        int status;
        child_kill(&j->child);
        (void) child_reap(&j->child, &status);
        child_done(&j->child);
        free(j);
        return NULL;
}

static void mount_job_finish(MountJob *j, const struct MounterReply *reply, int fd, Condition condition,
                             const char *text) {
        Failure f = {};
        j->io = sd_event_source_disable_unref(j->io);
        j->timer = sd_event_source_disable_unref(j->timer);
        if (condition != CONDITION_NONE)
                (void) failure_set(&f, condition, "%s", text);
        if (j->done)
                j->done(reply, fd, condition != CONDITION_NONE ? &f : NULL, j->userdata);
        else {
                if (condition != CONDITION_NONE)
                        manager_log(j->manager, LOG_WARNING, NULL, "%s", text);
                (void) close_fd(fd);
                mount_job_free(j);
        }
}

static Condition condition_of_reply(const struct MounterReply *reply) {
        switch (-reply->result) {
        case EINVAL:
                return CONDITION_INVALID_ARGUMENT;
        case ENOTDIR:
        case ELOOP:
        case ENOENT:
                return CONDITION_NOT_FOUND;
        case EACCES:
        case EPERM:
                return CONDITION_NOT_AUTHORIZED;
        case EOPNOTSUPP:
        case ENODEV:
                return CONDITION_NOT_SUPPORTED;
        case EBUSY:
                return CONDITION_BUSY;
        default:
                return CONDITION_FAILED;
        }
}

static int on_reply(sd_event_source *source, int socket, uint32_t events, void *userdata) {
        MountJob *j = userdata;
        struct MounterReply reply;
        int fd = -EBADF, r = child_receive(socket, &reply, sizeof(reply), &fd);
        if (r == 0)
                return 0;
        if (r < 0) {
                mount_job_finish(j, NULL, -EBADF, CONDITION_FAILED, "vss-mount ended without an answer");
                return 0;
        }
        reply.path[sizeof(reply.path) - 1] = '\0';
        reply.message[sizeof(reply.message) - 1] = '\0';
        if (reply.result < 0) {
                (void) close_fd(fd);
                mount_job_finish(j, NULL, -EBADF, condition_of_reply(&reply), reply.message);
        } else
                mount_job_finish(j, &reply, fd, CONDITION_NONE, NULL);
        return 0;
}

static int on_late(sd_event_source *source, uint64_t usec, void *userdata) {
        mount_job_finish(userdata, NULL, -EBADF, CONDITION_DEADLINE_PASSED, "the mount did not come to an end in time");
        return 0;
}

int mount_job_new(Manager *m, const struct MounterRequest *request, int fd, MountDone done, void *userdata,
                  MountJob **ret) {
        char path[LIMIT_PATH_BYTES];
        MountJob *j = calloc(1, sizeof(*j));
        if (!j)
                return -ENOMEM;
        *j = (MountJob) { .manager = m, .child = CHILD_NULL, .done = done, .userdata = userdata };
        int r = child_program_path("vss-mount", path, sizeof(path));
        if (r >= 0)
                r = child_spawn((char *[]) { path, NULL }, CHILD_DIES_WITH_US, &j->child);
        if (r >= 0)
                r = child_send(j->child.socket, request, sizeof(*request), fd);
        if (r >= 0)
                r = sd_event_add_io(m->event, &j->io, j->child.socket, EPOLLIN, on_reply, j);
        if (r >= 0)
                r = sd_event_add_time_relative(m->event, &j->timer, CLOCK_MONOTONIC, m->settings.budgets.provider, 0,
                                               on_late, j);
        if (r < 0) {
                mount_job_free(j);
                return r;
        }
        if (ret)
                *ret = j;
        return 0;
}

int mounts_new(Manager *m, Mounts **ret) {
        Mounts *b = calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->manager = m;
        LIST_INIT(&b->list);
        if (asprintf(&b->note, "%s/mounts.list", m->settings.runtime_directory) < 0) {
                free(b);
                return -ENOMEM;
        }
        *ret = b;
        return 0;
}

static void entry_free(MountEntry *e) {
        free(e->path);
        free(e->bound_to);
        free(e);
}

Mounts *mounts_free(Mounts *b) {
        if (!b)
                return NULL;
        while (!LIST_EMPTY(&b->list)) {
                MountEntry *e = LIST_FIRST(&b->list);
                LIST_REMOVE(e, entries);
                entry_free(e);
        }
        free(b->note);
        free(b);
        return NULL;
}

bool mounts_is_empty(const Mounts *b) {
        return LIST_EMPTY(&b->list);
}

/* tmpfs: no wait for a disk, and gone after a reboot, as the mounts are. */
static void mounts_write(const Mounts *b) {
        _cleanup_free_ char *next = NULL;
        const MountEntry *e;
        if (asprintf(&next, "%s.new", b->note) < 0)
                return;
        FILE *f = fopen(next, "we");
        if (!f)
                return;
        LIST_FOREACH(e, &b->list, entries)
                (void) fprintf(f, "%s %llu %d %s\n", e->snapshot, (unsigned long long) e->mount_id, e->ours, e->path);
        if (fclose(f) == 0)
                (void) rename(next, b->note);
}

/* Snapshot.Mounts follows from the list. */
static void mounts_publish(Mounts *b, const char *snapshot) {
        Snapshot *s = manager_find_snapshot(b->manager, snapshot);
        const MountEntry *e;
        if (!s)
                return;
        s->mounts = strings_free(s->mounts);
        LIST_FOREACH(e, &b->list, entries)
                if (streq(e->snapshot, snapshot))
                        (void) strings_append(&s->mounts, e->path);
        manager_snapshot_changed(b->manager, s);
}

static int mounts_insert(Mounts *b, const char *snapshot, const char *path, uint64_t mount_id, const char *bound_to,
                         bool ours) {
        if (b->n >= LIMIT_MOUNTS)
                return -EDQUOT;
        MountEntry *e = calloc(1, sizeof(*e));
        if (!e)
                return -ENOMEM;
        e->path = strdup(path);
        e->bound_to = bound_to ? strdup(bound_to) : NULL;
        e->mount_id = mount_id;
        e->ours = ours;
        (void) snprintf(e->snapshot, sizeof(e->snapshot), "%s", snapshot);
        int r = e->path && (!bound_to || e->bound_to) ? 0 : -ENOMEM;
        if (r >= 0 && bound_to)
                r = peers_watch(b->manager->peers, bound_to);
        if (r < 0) {
                entry_free(e);
                return r;
        }
        LIST_INSERT_HEAD(&b->list, e, entries);
        b->n++;
        return 0;
}

int mounts_add(Mounts *b, const char *snapshot, const char *path, uint64_t mount_id, const char *bound_to, bool ours) {
        int r = mounts_insert(b, snapshot, path, mount_id, bound_to, ours);
        if (r >= 0) {
                mounts_write(b);
                mounts_publish(b, snapshot);
        }
        return r;
}

void mounts_remove(Mounts *b, MountEntry *e) {
        char snapshot[VSS_ID_LENGTH + 1];
        memcpy(snapshot, e->snapshot, sizeof(snapshot));
        if (e->bound_to)
                peers_unwatch(b->manager->peers, e->bound_to);
        LIST_REMOVE(e, entries);
        b->n--;
        entry_free(e);
        mounts_write(b);
        mounts_publish(b, snapshot);
}

MountEntry *mounts_find(Mounts *b, const char *snapshot, const char *path) {
        MountEntry *e;
        LIST_FOREACH(e, &b->list, entries)
                if (streq(e->snapshot, snapshot) && (!path || streq(e->path, path)))
                        return e;
        return NULL;
}

void mounts_request_unmount(const MountEntry *e, bool lazy, struct MounterRequest *ret) {
        *ret = (struct MounterRequest) {
                .op = MOUNTER_UNMOUNT,
                .flags = (lazy ? MOUNTER_LAZY : 0) | (e->ours ? MOUNTER_OURS : 0),
                .mount_id = e->mount_id,
        };
        (void) snprintf(ret->path, sizeof(ret->path), "%s", e->path);
}

void mounts_drop(Mounts *b, const char *snapshot, const char *bound_to) {
        MountEntry *e;
        LIST_FOREACH(e, &b->list, entries)
                if ((!snapshot || streq(e->snapshot, snapshot)) && (!bound_to || streq_null(e->bound_to, bound_to)))
                        b->doomed = e->doomed = true;
        if (!b->manager->window)
                mounts_settle(b);
}

void mounts_settle(Mounts *b) {
        MountEntry *e, *following;
        if (!b->doomed)
                return;
        b->doomed = false;
        for (e = LIST_FIRST(&b->list); e; e = following) {
                struct MounterRequest q;
                following = LIST_NEXT(e, entries);
                if (!e->doomed)
                        continue;
                mounts_request_unmount(e, true, &q);
                int r = mount_job_new(b->manager, &q, -1, NULL, NULL, NULL);
                if (r < 0)
                        manager_log(b->manager, LOG_WARNING, NULL, "%s cannot be unmounted: %s", e->path, strerror(-r));
                mounts_remove(b, e);
        }
}

/* \040 and the like, in place. */
static void unescape(char *place) {
        char *out = place;
        for (const char *in = place; *in;)
                if (in[0] == '\\' && strspn(in + 1, "01234567") >= 3) {
                        *out++ = (char) ((in[1] - '0') << 6 | (in[2] - '0') << 3 | (in[3] - '0'));
                        in += 4;
                } else
                        *out++ = *in++;
        *out = '\0';
}

typedef bool (*MountFunction)(uint64_t mount_id, const char *place, void *userdata);

/* Field 5 of a line, as text as on the bus. Users choose names and lengths of directories that something is mounted on.
 */
static bool mount_line_take(char *line, MountFunction f, void *userdata) {
        _cleanup_free_ char *place = NULL;
        unsigned long long id;
        int at = 0;
        if (sscanf(line, "%llu %*u %*s %*s %n", &id, &at) != 1 || at == 0)
                return false;
        line[at + (int) strcspn(line + at, " \n")] = '\0';
        unescape(line + at);
        return path_escape(line + at, &place) >= 0 && f(id, place, userdata);
}

/* The mount table instead of the path: looking at a path can hang. True as soon as f says so. */
static bool mount_table_find(MountFunction f, void *userdata) {
        _cleanup_free_ char *line = NULL;
        size_t size = 0;
        bool found = false;
        FILE *table = host_mounts_open_table();
        while (table && !found && getline(&line, &size, table) > 0)
                found = mount_line_take(line, f, userdata);
        if (table)
                (void) fclose(table);
        return found;
}

typedef struct Wanted {
        const char *place;
        uint64_t mount_id;
} Wanted;

static bool is_wanted(uint64_t mount_id, const char *place, void *userdata) {
        const Wanted *w = userdata;
        return mount_id == w->mount_id && streq(place, w->place);
}

static bool is_mounted(const char *path, uint64_t mount_id) {
        return mount_table_find(is_wanted, &(Wanted) { path, mount_id });
}

/* A vssd that died between a provider's mount and vss-mount's taking it away. */
static bool drop_stage(uint64_t mount_id, const char *place, void *userdata) {
        Mounts *b = userdata;
        struct MounterRequest q = { .op = MOUNTER_UNMOUNT, .flags = MOUNTER_LAZY | MOUNTER_OURS, .mount_id = mount_id };
        const char *runtime = b->manager->settings.runtime_directory;
        size_t n = strlen(runtime);
        if (strncmp(place, runtime, n) != 0 || strncmp(place + n, "/mounts/.", 9) != 0)
                return false;
        (void) snprintf(q.path, sizeof(q.path), "%s", place);
        (void) mount_job_new(b->manager, &q, -1, NULL, NULL, NULL);
        return false;
}

/* Those of copies that are gone are taken away, like everything bound to a caller of the vssd before. */
void mounts_adopt(Mounts *b) {
        (void) mount_table_find(drop_stage, b);
        char line[LIMIT_PATH_BYTES + 128];
        FILE *f = fopen(b->note, "re");
        while (f && fgets(line, sizeof(line), f)) {
                unsigned long long mount_id;
                char snapshot[VSS_ID_LENGTH + 1];
                int ours, at = 0;
                line[strcspn(line, "\n")] = '\0';
                if (sscanf(line, "%36s %llu %d %n", snapshot, &mount_id, &ours, &at) < 3 || at == 0 ||
                    !id_is_valid(snapshot) || !is_mounted(line + at, mount_id))
                        continue;
                (void) mounts_insert(b, snapshot, line + at, mount_id, NULL, ours);
        }
        if (f)
                (void) fclose(f);
        MountEntry *e;
        LIST_FOREACH(e, &b->list, entries)
                if (manager_find_snapshot(b->manager, e->snapshot))
                        mounts_publish(b, e->snapshot);
                else
                        b->doomed = e->doomed = true;
        mounts_settle(b);
}
