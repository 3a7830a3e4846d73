/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-probe: answers one question of vssd about paths and ends. It may hang on a dead network mount and be killed for
 * it, and it may be lied to: it opens every path once, with the rights of who named it, and from then on looks at the
 * descriptor.
 */
#include "daemon/capabilities.h"
#include "daemon/probe.h"
#include "daemon/probe-resolve.h"
#include "protocol/urgency.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/openat2.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { GROUPS_MAX = 65536 };

typedef struct Path {
        struct ProbeRequest *request;
        int fd; /* -EBADF: could not be opened */
        Failure failure;
        size_t volume;
} Path;

typedef struct Question {
        Path *paths;
        size_t n_paths;
        uint32_t flags;
        uid_t uid;
        int links; /* directory with the names of engine volumes; -EBADF: there is none */
} Question;

static int send_reply(const struct ProbeReply *reply, int fd) {
        int r;

        while ((r = child_send(CHILD_SOCKET_FD, reply, sizeof(*reply), fd)) == -EAGAIN)
                (void) poll(&(struct pollfd) { .fd = CHILD_SOCKET_FD, .events = POLLOUT }, 1, -1);
        return r;
}

/* ---- the question ---- */

static int receive_request(struct ProbeRequest *request) {
        int r;

        while ((r = child_receive(CHILD_SOCKET_FD, request, sizeof(*request), NULL)) == 0)
                (void) poll(&(struct pollfd) { .fd = CHILD_SOCKET_FD, .events = POLLIN }, 1, -1);
        request->path[sizeof(request->path) - 1] = '\0';
        return r;
}

static int receive_question(Question *q) {
        q->paths = calloc(PROBE_PATHS_MAX, sizeof(*q->paths));
        if (!q->paths)
                return -ENOMEM;
        for (;;) {
                struct ProbeRequest *request = malloc(sizeof(*request));
                int r;

                if (!request)
                        return -ENOMEM;
                r = receive_request(request);
                if (r < 0 || request->op == PROBE_END) {
                        q->flags = request->flags;
                        q->uid = request->uid;
                        free(request);
                        return MIN_OF(r, 0);
                }
                if (request->op != PROBE_PATH || q->n_paths == PROBE_PATHS_MAX) {
                        free(request);
                        return -EBADMSG;
                }
                q->paths[q->n_paths++] = (Path) { .request = request, .fd = -EBADF };
        }
}

static void question_done(Question *q) {
        for (size_t i = 0; i < q->n_paths; i++) {
                (void) close_fd(q->paths[i].fd);
                free(q->paths[i].request);
        }
        free(q->paths);
        (void) close_fd(q->links);
}

/* ---- opening ---- */

/* Group memberships are half of what somebody may see. Nobody known by this number is in no group. */
static int take_groups(uid_t uid, gid_t *ret_gid) {
        struct passwd *pw = getpwuid(uid);
        _cleanup_free_ gid_t *groups = NULL;
        int n = GROUPS_MAX;

        if (!pw) {
                *ret_gid = (gid_t) 65534;
                return setgroups(0, NULL) < 0 ? -errno : 0;
        }
        groups = calloc((size_t) n, sizeof(*groups));
        if (!groups)
                return -ENOMEM;
        if (getgrouplist(pw->pw_name, pw->pw_gid, groups, &n) < 0)
                return -E2BIG;
        *ret_gid = pw->pw_gid;
        return setgroups((size_t) n, groups) < 0 ? -errno : 0;
}

/* From here on paths are looked up as this user would; everything else about us stays root. */
static int become(uid_t uid) {
        gid_t gid;
        int r;

        if (uid == geteuid())
                return 0;
        r = take_groups(uid, &gid);
        if (r < 0)
                return r;
        (void) setfsgid(gid);
        (void) setfsuid(uid);
        return (uid_t) setfsuid((uid_t) -1) == uid && (gid_t) setfsgid((gid_t) -1) == gid ? 0 : -EPERM;
}

static int become_ourselves(void) {
        (void) setfsuid(geteuid());
        (void) setfsgid(getegid());
        return (uid_t) setfsuid((uid_t) -1) == geteuid() ? 0 : -EPERM;
}

/* RESOLVE_NO_MAGICLINKS: /proc/self would be ours, not the caller's. */
static int open_path(const char *path) {
        struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS };
        int fd = (int) syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));

        return fd < 0 ? -errno : fd;
}

/* What does not exist yet will be made in the nearest directory that does. */
static int open_nearest(char *path) {
        int fd;

        while (((fd = open_path(path)) == -ENOENT || fd == -ENOTDIR) && !streq(path, "/")) {
                char *slash = strrchr(path, '/');
                slash[slash == path] = '\0';
        }
        return fd;
}

static int refuse_open(Path *p, int error) {
        const char *text = p->request->path;
        Condition c = CONDITION_FAILED;

        if (error == -ENOENT || error == -ENOTDIR)
                return failure_set(&p->failure, CONDITION_NOT_FOUND, "%.300s does not exist", text);
        if (error == -EACCES || error == -EPERM)
                return failure_set(&p->failure, CONDITION_NOT_AUTHORIZED,
                                   "You may not look at %.300s: permission denied", text);
        if (error == -ELOOP)
                return failure_set(
                        &p->failure, CONDITION_NOT_FOUND,
                        "%.300s leads in a circle of symbolic links or through /proc/PID; name the place itself", text);
        if (error == -ENAMETOOLONG)
                c = CONDITION_INVALID_ARGUMENT;
        return failure_set(&p->failure, c, "Cannot look up %.300s: %s", text, strerror(-error));
}

/* A bare word is the name of an engine volume: a link to its device, in a directory that is looked up with our rights.
 */
static int open_engine_volume(int links, Path *p) {
        const char *text = p->request->path;
        struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS };
        int fd = links < 0 || text[0] == '.' ? -1 : (int) syscall(SYS_openat2, links, text, &how, sizeof(how));
        struct stat st;

        if (fd >= 0 && fstat(fd, &st) >= 0 && S_ISBLK(st.st_mode)) {
                p->fd = fd;
                return 0;
        }
        (void) close_fd(fd);
        return failure_set(&p->failure, CONDITION_NOT_FOUND,
                           "There is no volume %.300s that is attached (vssctl volume list); paths begin with \"/\"",
                           text);
}

static int open_request(int links, Path *p) {
        _cleanup_free_ char *path = NULL;
        const char *text = p->request->path;
        int fd;

        if (isempty(text))
                return failure_set(&p->failure, CONDITION_INVALID_ARGUMENT, "The name of a volume is empty");
        if (text[0] != '/' && !strchr(text, '/'))
                return open_engine_volume(links, p);
        if (text[0] != '/')
                return failure_set(&p->failure, CONDITION_INVALID_ARGUMENT, "%.300s is not an absolute path", text);
        if (path_unescape(text, &path) < 0)
                return failure_set(&p->failure, CONDITION_INVALID_ARGUMENT,
                                   "%.300s has a backslash that does not begin \\xHH; write \\x5c for a backslash",
                                   text);
        fd = p->request->may_be_missing ? open_nearest(path) : open_path(path);
        if (fd < 0)
                return refuse_open(p, fd);
        p->fd = fd;
        return 0;
}

static int open_all(Question *q, bool arguments) {
        struct ProbeReply at = { .op = PROBE_AT };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < q->n_paths; i++) {
                if (!q->paths[i].request->is_argument == arguments)
                        continue;
                at.index = (int32_t) q->paths[i].request->index;
                r = arguments ? send_reply(&at, -1) : 0;
                if (r >= 0)
                        (void) open_request(q->links, &q->paths[i]);
        }
        return r;
}

static int open_paths(Question *q) {
        char links[LIMIT_PATH_BYTES];
        struct rlimit limit;
        pid_t parent = getppid();
        int r;

        if (getrlimit(RLIMIT_NOFILE, &limit) >= 0) {
                limit.rlim_cur = MIN_OF(limit.rlim_max, (rlim_t) 4 * PROBE_PATHS_MAX);
                (void) setrlimit(RLIMIT_NOFILE, &limit);
        }
        engine_links(links, sizeof(links));
        q->links = open(links, O_PATH | O_DIRECTORY | O_CLOEXEC);
        r = open_all(q, false);
        if (r >= 0)
                r = become(q->uid);
        if (r >= 0)
                r = parent_death_arm(parent); /* the paths of somebody else may hang for ever */
        if (r >= 0)
                r = open_all(q, true);
        if (r >= 0)
                r = become_ourselves();
        return r < 0 ? r : parent_death_arm(parent);
}

/* ---- the answer ---- */

typedef struct Texts {
        uint32_t op;
        int32_t volume;
        unsigned n;
} Texts;

static int send_text(const char *name, const char *text, void *userdata) {
        Texts *t = userdata;
        struct ProbeReply reply = { .op = t->op, .index = -1, .volume = t->volume };

        if (t->n++ >= PROBE_TEXTS_MAX)
                return 0;
        (void) snprintf(reply.name, sizeof(reply.name), "%s", name);
        (void) snprintf(reply.text, sizeof(reply.text), "%s", text);
        text_clean(reply.text); /* it may quote a name that was cut */
        return send_reply(&reply, -1);
}

static int resolve_paths(Resolver *r, Question *q, bool arguments) {
        for (size_t i = 0; i < q->n_paths; i++) {
                Path *p = &q->paths[i];
                Failure f = {};

                if (p->fd < 0 || !p->request->is_argument == arguments)
                        continue;
                if (resolver_resolve(r, p->fd, arguments ? (int) p->request->index : -1, &f, &p->volume) < 0) {
                        (void) failure_set(&p->failure, f.condition, "%.200s: %.250s", p->request->path, f.message);
                        p->fd = close_fd(p->fd);
                }
        }
        return 0;
}

/* Below the place that was named; a device means the file system on it. */
static int resolve_nested(Resolver *r, Question *q, Texts *left_out) {
        for (size_t i = 0; i < q->n_paths; i++) {
                const Path *p = &q->paths[i];
                char link[64], path[PATH_MAX];
                Identity identity;
                ssize_t n;
                int result;

                if (p->fd < 0 || !p->request->is_argument)
                        continue;
                (void) snprintf(link, sizeof(link), "/proc/self/fd/%d", p->fd);
                n = readlink(link, path, sizeof(path) - 1);
                if (n < 0)
                        return -errno;
                path[n] = '\0';
                if (identity_of(p->fd, &identity) >= 0 && S_ISBLK(identity.mode))
                        (void) snprintf(path, sizeof(path), "%s", r->found[p->volume]->target);
                if (isempty(path)) /* a device without a file system that is mounted: nothing is below it */
                        continue;
                result = resolver_nested(r, path, send_text, left_out);
                if (result < 0)
                        return result;
        }
        return 0;
}

static int send_volumes(Resolver *r) {
        for (size_t i = 0; i < r->n_found; i++) {
                Texts mounts = { .op = PROBE_MOUNT, .volume = (int32_t) i };
                Found *f = r->found[i];
                int result;

                f->reply.volume = (int32_t) i;
                f->reply.chosen = f->chosen;
                /* disks and whoever mounts something by FUSE say what they are in bytes of their own */
                text_clean(f->reply.device);
                text_clean(f->reply.fs_type);
                text_clean(f->reply.fs_uuid);
                text_clean(f->reply.text);
                result = send_reply(&f->reply, f->reply.has_fd ? f->fd : -1);
                if (result >= 0)
                        result = resolver_mount_points(r, f, send_text, &mounts);
                if (result < 0)
                        return result;
        }
        return 0;
}

/* Of what was opened, not of what the path leads to by now. A server that hangs is not asked. */
static uint32_t owner_of(int fd) {
        struct statx st;

        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_UID, &st) < 0 || !S_ISDIR(st.stx_mode))
                return UINT32_MAX;
        return st.stx_uid;
}

static int send_paths(const Question *q) {
        for (size_t i = 0; i < q->n_paths; i++) {
                const Path *p = &q->paths[i];
                struct ProbeReply reply = { .op = PROBE_FOUND, .index = (int32_t) p->request->index, .volume = -1 };
                int r;

                reply.owner = UINT32_MAX;
                if (p->fd >= 0) {
                        reply.volume = (int32_t) p->volume;
                        reply.owner = owner_of(p->fd);
                }
                reply.condition = p->failure.condition;
                (void) snprintf(reply.text, sizeof(reply.text), "%s", p->failure.message);
                r = send_reply(&reply, -1);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int answer(Question *q) {
        Texts left_out = { .op = PROBE_LEFT_OUT, .volume = -1 }, stalls = { .op = PROBE_STALLS, .volume = -1 },
              warnings = { .op = PROBE_WARNING, .volume = -1 };
        Resolver r = {};
        int result = open_paths(q);

        if (result >= 0)
                result = resolver_init(&r);
        if (result >= 0)
                result = resolve_paths(&r, q, true);
        if (result >= 0 && q->flags & PROBE_NESTED)
                result = resolve_nested(&r, q, &left_out);
        if (result >= 0)
                result = resolve_paths(&r, q, false);
        if (result >= 0 && q->flags & PROBE_LIST)
                result = resolver_list(&r);
        else if (result >= 0)
                resolver_refuse_unknown(&r);
        if (result >= 0)
                result = send_volumes(&r);
        if (result >= 0)
                result = send_paths(q);
        if (result >= 0)
                result = resolver_stalls(&r, send_text, &stalls);
        if (result >= 0 && !(q->flags & PROBE_LIST))
                result = resolver_warn(&r, send_text, &warnings);
        resolver_done(&r);
        return result;
}

/* Looking everywhere, and looking as somebody else. */
static const unsigned capabilities[] = { CAP_DAC_READ_SEARCH, CAP_SETUID, CAP_SETGID };

int main(int argc, char *argv[]) {
        struct ProbeReply last = { .op = PROBE_DONE, .index = -1, .volume = -1 };
        Question question = { .links = -EBADF };
        int r;

        if (argc != 1 || fcntl(CHILD_SOCKET_FD, F_GETFD) < 0) {
                (void) fprintf(stderr, "%s is a part of vssd and is started by it, without arguments\n", argv[0]);
                return EXIT_FAILURE;
        }
        urgency_set(URGENCY_LATER);
        capabilities_keep(capabilities, ELEMENTSOF(capabilities));
        r = receive_question(&question);
        if (r >= 0)
                r = answer(&question);
        if (r < 0) {
                Failure f;
                (void) failure_set(&f, CONDITION_FAILED, "Cannot look at the volumes: %s", strerror(-r));
                last.condition = f.condition;
                memcpy(last.text, f.message, sizeof(last.text));
        }
        (void) send_reply(&last, -1);
        question_done(&question);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
