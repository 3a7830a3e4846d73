/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/unit-guard.h"
#include "writers/program.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { GUARD_FD = 3, RECORD_BYTES_MAX = GUARD_CGROUPS_MAX * LIMIT_PATH_BYTES };
#define HOLD_USEC (2 * USEC_PER_SEC) /* for a guard that only has to write down a time */

static const char *runtime_directory(void) {
        const char *d = getenv("RUNTIME_DIRECTORY");
        return isempty(d) || d[0] != '/' ? "/run/vss" : d;
}

/* --- its process -------------------------------------------------------------------------------------------------- */

static int guard_connect(void) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        if (snprintf(a.sun_path, sizeof(a.sun_path), "%s/guard.socket", runtime_directory()) >=
            (int) sizeof(a.sun_path))
                return -ENAMETOOLONG;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *) &a, sizeof(a)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

/* Where vss-guard is: in a build tree beside us, else where it is installed. */
static int guard_path(char ret[static PATH_MAX]) {
        char self[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        if (n < 0)
                return -errno;
        self[n] = '\0';
        *strrchr(self, '/') = '\0';
        if (snprintf(ret, PATH_MAX, "%s/../daemon/vss-guard", self) < PATH_MAX && access(ret, X_OK) == 0)
                return 0;
        return snprintf(ret, PATH_MAX, "%s/vss-guard", VSS_LIBEXECDIR) < PATH_MAX ? 0 : -ENAMETOOLONG;
}

/* In a session of its own. Without a service manager nobody can put it into another control group than ours. */
static int guard_spawn(void) {
        char path[PATH_MAX], runtime[PATH_MAX + 32], fd_argument[] = "--socket-fd=3";
        char *const argv[] = { path, fd_argument, runtime, NULL };
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        pid_t pid;
        int fds[2], r = guard_path(path);
        if (r < 0)
                return r;
        (void) snprintf(runtime, sizeof(runtime), "--runtime-directory=%s", runtime_directory());
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                return -errno;
        (void) posix_spawn_file_actions_init(&actions);
        (void) posix_spawnattr_init(&attributes);
        r = posix_spawn_file_actions_adddup2(&actions, fds[1], GUARD_FD);
        r = r ?: posix_spawn_file_actions_addclosefrom_np(&actions, GUARD_FD + 1);
        r = r ?: posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
        r = r ?: posix_spawn(&pid, path, &actions, &attributes, argv, environ);
        (void) posix_spawn_file_actions_destroy(&actions);
        (void) posix_spawnattr_destroy(&attributes);
        close_fd(fds[1]);
        if (r == 0)
                return fds[0];
        close_fd(fds[0]);
        return -r;
}

/* --- what is said to it ------------------------------------------------------------------------------------------- */

static int tell(const UnitGuard *g, struct GuardRequest *q, int fd) {
        union {
                char bytes[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } control = {};
        struct iovec iov = { .iov_base = q, .iov_len = sizeof(*q) };
        struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
        if (fd >= 0) {
                mh.msg_control = control.bytes;
                mh.msg_controllen = sizeof(control.bytes);
                struct cmsghdr *c = CMSG_FIRSTHDR(&mh);
                *c = (struct cmsghdr) { CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
                memcpy(CMSG_DATA(c), &fd, sizeof(int));
        }
        return sendmsg(g->socket, &mh, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* Its answer to op; whatever else it says is passed over. */
static int hear(const UnitGuard *g, uint32_t op, uint64_t until_usec, struct GuardReply *ret) {
        for (;;) {
                uint64_t now = now_usec();
                struct pollfd p = { .fd = g->socket, .events = POLLIN };
                if (now >= until_usec ||
                    poll(&p, 1, (int) MIN_OF((until_usec - now) / USEC_PER_MSEC + 1, 60000ULL)) == 0)
                        return -ETIME;
                ssize_t n = recv(g->socket, ret, sizeof(*ret), 0);
                if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
                        return -EPIPE;
                if (n == sizeof(*ret) && ret->op == op)
                        return ret->result;
        }
}

static int ask(const UnitGuard *g, struct GuardRequest *q, uint64_t until_usec, struct GuardReply *ret) {
        int r = tell(g, q, -EBADF);
        return r < 0 ? r : hear(g, q->op, until_usec, ret);
}

static int fail(Failure *reterr, int r) {
        return failure_set(reterr, CONDITION_FAILED, "the guard of what is frozen cannot do its work: %s",
                           strerror(-r));
}

/* --- the record --------------------------------------------------------------------------------------------------- */

static int record_open(const char *name, int flags, char ret_path[static LIMIT_PATH_BYTES]) {
        char directory[LIMIT_PATH_BYTES];
        struct stat st;
        (void) snprintf(directory, sizeof(directory), "%s", runtime_directory());
        (void) mkdir(directory, 0700);
        (void) snprintf(directory, sizeof(directory), "%s/frozen", runtime_directory());
        (void) mkdir(directory, 0700);
        if (snprintf(ret_path, LIMIT_PATH_BYTES, "%s/%s", directory, name) >= LIMIT_PATH_BYTES)
                return -ENAMETOOLONG;
        _cleanup_close_ int fd = open(ret_path, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_uid != geteuid())
                return -EPERM;
        return flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : TAKE_FD(fd);
}

static int record_write(UnitGuard *g, const char *name, const Cgroup *const groups[], size_t n) {
        g->record = record_open(name, O_RDWR | O_CREAT, g->record_path);
        if (g->record < 0 || ftruncate(g->record, 0) < 0)
                return g->record < 0 ? g->record : -errno;
        for (size_t i = 0; i < n; i++)
                if (dprintf(g->record, "%s\n", groups[i]->path) < 0)
                        return -errno;
        return 0;
}

static void record_remove(UnitGuard *g) {
        if (g->record >= 0)
                (void) unlink(g->record_path);
        g->record = close_fd(g->record);
}

static void thaw_lines(char *text) {
        char *state = NULL;
        for (char *path = strtok_r(text, "\n", &state); path; path = strtok_r(NULL, "\n", &state)) {
                Cgroup c;
                if (cgroup_open(path, &c, NULL) < 0)
                        continue; /* it is no more */
                (void) cgroup_set(&c, false);
                cgroup_close(&c);
        }
}

int unit_guard_leftovers(const char *name, Failure *reterr) {
        UnitGuard g = UNIT_GUARD_NULL;
        g.record = record_open(name, O_RDWR, g.record_path);
        if (g.record == -ENOENT)
                return 0;
        if (g.record == -EWOULDBLOCK)
                return failure_set(reterr, CONDITION_EXISTS, "a writer %s runs and has frozen its units", name);
        if (g.record < 0)
                return failure_set(reterr, CONDITION_FAILED, "%s: %s", g.record_path, strerror(-g.record));
        _cleanup_free_ char *text = calloc(1, RECORD_BYTES_MAX + 1);
        ssize_t n = text ? pread(g.record, text, RECORD_BYTES_MAX, 0) : -1;
        if (n > 0)
                thaw_lines(text);
        record_remove(&g);
        return n < 0 ? failure_set(reterr, CONDITION_FAILED, "%s: cannot be read", g.record_path) : 1;
}

/* --- for the writer ----------------------------------------------------------------------------------------------- */

int unit_guard_open(UnitGuard *g, const char *name, const Cgroup *const groups[], size_t n, uint64_t until_usec,
                    Failure *reterr) {
        struct GuardRequest q = { .op = GUARD_CGROUP };
        struct GuardReply reply;
        *g = UNIT_GUARD_NULL;
        int r = record_write(g, name, groups, n);
        if (r >= 0) {
                g->socket = guard_connect();
                if (g->socket < 0)
                        g->socket = guard_spawn();
                r = MIN_OF(g->socket, 0);
        }
        for (; r >= 0 && q.index < n; q.index++)
                r = tell(g, &q, groups[q.index]->freeze);
        q.op = GUARD_ARM;
        r = r < 0 ? r : ask(g, &q, until_usec, &reply);
        if (r >= 0)
                return 0;
        unit_guard_close(g, false);
        return fail(reterr, r);
}

int unit_guard_hold(UnitGuard *g, uint64_t thaw_by_usec, bool unsettled, Failure *reterr) {
        struct GuardRequest q = { .op = GUARD_HOLD,
                                  .flags = unsettled ? GUARD_UNSETTLED : 0,
                                  .deadline_usec = thaw_by_usec };
        struct GuardReply reply;
        int r = ask(g, &q, usec_add(now_usec(), HOLD_USEC), &reply);
        return r < 0 ? fail(reterr, r) : 0;
}

int unit_guard_release(UnitGuard *g, uint64_t until_usec) {
        struct GuardRequest q = { .op = GUARD_RELEASE };
        struct GuardReply reply;
        int r = ask(g, &q, until_usec, &reply);
        return r < 0 ? r : reply.forced ? -ETIME : 0;
}

void unit_guard_close(UnitGuard *g, bool keep) {
        struct GuardRequest q = { .op = GUARD_EXIT };
        if (g->socket >= 0 && !keep)
                (void) tell(g, &q, -EBADF);
        g->socket = close_fd(g->socket);
        record_remove(g);
}
