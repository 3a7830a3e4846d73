/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vssd's side of the guard. Requests are fire and forget, answers are read when the socket is readable; the shared page
 * says at any time what is held, without asking anybody. guard_rescue() is the last of four who thaw (the guard's
 * threads, its second, this, and the leftovers at the next start): it makes a FITHAW only where no FIFREEZE can be in
 * flight, because vssd has one thread and a FITHAW sleeps as long as the FIFREEZE it waits for.
 */
#include "daemon/guard.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <poll.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

enum {
        RESCUE_GRACE_MSEC = 300, /* what the second needs when it is well */
        LEFTOVERS_WAIT_MSEC = 5000,
};

static int guard_shared_new(int *ret_fd, struct GuardShared **ret) {
        _cleanup_close_ int fd = memfd_create("vss-guard", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0)
                return -errno;
        if (ftruncate(fd, sizeof(struct GuardShared)) < 0)
                return -errno;
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
                return -errno;
        void *shared = mmap(NULL, sizeof(struct GuardShared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
        if (shared == MAP_FAILED)
                return -errno;
        *ret = shared;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

/* Starts the program; mode is its first argument. */
static int guard_spawn(const char *mode, const char *runtime_directory, Child *ret) {
        char program[PATH_MAX], runtime[PATH_MAX + sizeof("--runtime-directory=")], argument[32];
        int r = child_program_path("vss-guard", program, sizeof(program));
        if (r < 0)
                return r;
        (void) snprintf(argument, sizeof(argument), "%s", mode);
        if (snprintf(runtime, sizeof(runtime), "--runtime-directory=%s", runtime_directory) >= (int) sizeof(runtime))
                return -ENAMETOOLONG;
        return child_spawn((char *[]) { program, argument, runtime, NULL }, CHILD_OWN_SESSION, ret);
}

/*
 * One that somebody else starts, or -errno: there is nobody who does. Its pidfd comes with HELLO. A listener that does
 * not take the connection at once is as good as none: vssd waits for nobody.
 */
static int guard_connect(const char *runtime_directory, Child *ret) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        if (snprintf(a.sun_path, sizeof(a.sun_path), "%s/guard.socket", runtime_directory) >= (int) sizeof(a.sun_path))
                return -ENAMETOOLONG;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0 || connect(fd, (const struct sockaddr *) &a, sizeof(a)) < 0)
                return -errno;
        *ret = CHILD_NULL;
        ret->socket = TAKE_FD(fd);
        return 0;
}

int guard_new(const char *set, const char *runtime_directory, Guard **ret) {
        assert(id_is_valid(set));
        assert(runtime_directory && ret);
        _cleanup_(guard_freep) Guard *g = calloc(1, sizeof(*g));
        if (!g)
                return -ENOMEM;
        g->child = CHILD_NULL;
        g->shared_fd = g->second_pidfd = g->dm_control = -EBADF;
        strcpy(g->set, set);
        g->runtime_directory = runtime_directory;
        int r = guard_shared_new(&g->shared_fd, &g->shared);
        if (r >= 0 && guard_connect(runtime_directory, &g->child) < 0)
                r = guard_spawn("--socket-fd=3", runtime_directory, &g->child);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(g);
        return 0;
}

static int guard_send(Guard *g, struct GuardRequest *q, int fd) {
        memcpy(q->set, g->set, sizeof(q->set));
        int r = child_send(g->child.socket, q, sizeof(*q), fd);
        if (r >= 0 && q->op != GUARD_ADD)
                g->awaited = q->op;
        return r;
}

static int add(Guard *g, int fd, uint64_t dev, unsigned level, const char *mount_point, uint32_t flags) {
        assert(fd >= 0 && mount_point);
        struct GuardRequest q = { .op = GUARD_ADD, .index = g->n_fds, .level = level, .dev = dev, .flags = flags };
        if (g->n_fds >= LIMIT_VOLUMES)
                return -E2BIG;
        if (strlen(mount_point) >= LIMIT_PATH_BYTES)
                return -ENAMETOOLONG;
        strcpy(g->shared->mount_points[g->n_fds], mount_point);
        _cleanup_close_ int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (copy < 0)
                return -errno;
        int r = guard_send(g, &q, copy);
        if (r < 0)
                return r;
        g->fds[g->n_fds++] = TAKE_FD(copy);
        return 0;
}

int guard_add(Guard *g, int fd, uint64_t dev, unsigned level, const char *mount_point) {
        return add(g, fd, dev, level, mount_point, 0);
}

int guard_add_mapped(Guard *g, int fd, uint64_t dev, unsigned level, const char *mount_point, bool watched) {
        uint32_t index = g->n_fds;
        if (index >= LIMIT_VOLUMES)
                return -E2BIG;
        if (g->dm_control < 0)
                g->dm_control = guard_dm_open();
        if (g->dm_control < 0 || guard_dm_init(g->dm_control, dev, &g->dm[index]) < 0)
                return watched ? 0 : guard_add(g, fd, dev, level, mount_point);
        g->watched[index] = watched;
        return add(g, fd, dev, level, mount_point, GUARD_MAPPED | (watched ? GUARD_WATCHED : 0));
}

int guard_arm(Guard *g, uint32_t flags) {
        struct GuardRequest q = { .op = GUARD_ARM, .flags = flags };
        g->expedite = flags & GUARD_EXPEDITE;
        return guard_send(g, &q, g->shared_fd);
}

int guard_flush(Guard *g, uint64_t deadline_usec) {
        struct GuardRequest q = { .op = GUARD_FLUSH, .deadline_usec = deadline_usec };
        return guard_send(g, &q, -EBADF);
}

int guard_hold(Guard *g, uint64_t deadline_usec) {
        struct GuardRequest q = { .op = GUARD_HOLD, .deadline_usec = deadline_usec };
        return guard_send(g, &q, -EBADF);
}

int guard_release(Guard *g) {
        struct GuardRequest q = { .op = GUARD_RELEASE };
        return guard_send(g, &q, -EBADF);
}

int guard_receive(Guard *g, struct GuardReply *ret) {
        struct GuardReply reply;
        int fd = -EBADF;
        int r = child_receive(g->child.socket, &reply, sizeof(reply), &fd);
        if (r <= 0)
                return r;
        _cleanup_close_ int pidfd = fd;
        if (reply.op == GUARD_ARM && g->second_pidfd < 0)
                g->second_pidfd = TAKE_FD(pidfd);
        if (reply.op == GUARD_HELLO && g->child.pidfd >= 0)
                return guard_receive(g, ret);
        if (reply.op == GUARD_HELLO)
                g->child.pidfd = TAKE_FD(pidfd);
        if (reply.op == g->awaited)
                g->awaited = 0;
        reply.message[sizeof(reply.message) - 1] = 0;
        *ret = reply;
        return 1;
}

static bool state_is_busy(uint32_t state) {
        return state == GUARD_FS_FREEZING || state == GUARD_FS_HELD || state == GUARD_FS_THAWING;
}

bool guard_holds(const Guard *g) {
        for (uint32_t i = 0; i < g->n_fds; i++)
                if (state_is_busy(g->shared->fs[i].state))
                        return true;
        return false;
}

/* A pidfd becomes readable when the last thread of the process is gone, so also the one inside FIFREEZE. */
static bool pidfd_is_gone(int pidfd) {
        struct pollfd p = { .fd = pidfd, .events = POLLIN };
        return pidfd < 0 || (poll(&p, 1, 0) > 0 && p.revents);
}

static int rescue_volume(Guard *g, uint32_t i) {
        uint32_t state = g->shared->fs[i].state;
        (void) guard_dm_resume(g->dm_control, &g->dm[i]);
        int r = !g->watched[i] && ioctl(g->fds[i], FITHAW, 0) < 0 ? -errno : 0;
        if (r < 0 && r != -EINVAL)
                return r;
        g->shared->fs[i].thaw_result = r;
        g->shared->fs[i].release_end_usec = now_usec();
        (void) atomic_compare_exchange_strong(&g->shared->fs[i].state, &state, GUARD_FS_THAWED);
        return 0;
}

int guard_rescue(Guard *g) {
        uint64_t now = now_usec();
        g->shared->forced = 1;
        g->shared->cancelled = 1;
        if (g->rescue_begin_usec == 0)
                g->rescue_begin_usec = now;
        bool gone = pidfd_is_gone(g->child.pidfd);
        /* Stopped, or wedged: dying is all that it can still do right. */
        if (!gone && g->awaited)
                child_kill(&g->child);
        bool alone = pidfd_is_gone(g->second_pidfd) ||
                     now >= usec_add(g->rescue_begin_usec, RESCUE_GRACE_MSEC * USEC_PER_MSEC);
        int r = 0;
        for (uint32_t i = 0; i < g->n_fds && alone; i++) {
                uint32_t state = g->shared->fs[i].state;
                if (state == GUARD_FS_HELD || (gone && state_is_busy(state))) {
                        int k = rescue_volume(g, i);
                        r = r < 0 ? r : k;
                }
        }
        if (r < 0)
                return r;
        return (gone || !g->awaited) && !guard_holds(g);
}

/* Both were killed before they had let go, and nobody has set back what is the machine's (guard-expedite.c). */
static bool leaves_expedited(const Guard *g) {
        return g->expedite && !g->shared->released && g->child.pidfd >= 0 && pidfd_is_gone(g->child.pidfd) &&
               pidfd_is_gone(g->second_pidfd);
}

/*
 * Nobody of the guard's is left who could thaw what a FIFREEZE that is stuck in the kernel leaves behind when it
 * returns: a process for that, which waits for it. One that finds the first alive after all leaves it to it. What is to
 * be written below /sys is for a new guard, because vssd's own children may not (units/vssd.service): one to whom
 * nobody says anything does that and goes.
 */
static void guard_leave_behind(Guard *g) {
        Child child = CHILD_NULL;
        bool holds = guard_holds(g) && pidfd_is_gone(g->second_pidfd);
        if (leaves_expedited(g) && guard_connect(g->runtime_directory, &child) >= 0)
                child_done(&child);
        else if (leaves_expedited(g))
                holds = true;
        if (holds && guard_spawn("--release-leftovers", g->runtime_directory, &child) >= 0)
                child_done(&child);
}

/*
 * Both died, and what they held is thawed: a list that stayed would have a later clean-up thaw what somebody else has
 * frozen by then. Its lock says that no guard of the set lives. It lies on tmpfs, so nothing here waits.
 */
static void guard_forget_list(const Guard *g) {
        char path[PATH_MAX];
        if (guard_holds(g) || !pidfd_is_gone(g->child.pidfd) || !pidfd_is_gone(g->second_pidfd) ||
            snprintf(path, sizeof(path), "%s/held/%s", g->runtime_directory, g->set) >= (int) sizeof(path))
                return;
        _cleanup_close_ int list = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (list >= 0 && flock(list, LOCK_EX | LOCK_NB) >= 0)
                (void) unlink(path);
}

Guard *guard_free(Guard *g) {
        if (!g)
                return NULL;
        guard_leave_behind(g);
        guard_forget_list(g);
        /* One that owes an answer and holds nothing may be stopped, and would keep the mounts busy for ever. */
        if (g->awaited && !guard_holds(g))
                child_kill(&g->child);
        child_done(&g->child);
        g->shared_fd = close_fd(g->shared_fd);
        g->dm_control = close_fd(g->dm_control);
        g->second_pidfd = close_fd(g->second_pidfd);
        for (uint32_t i = 0; i < g->n_fds; i++)
                g->fds[i] = close_fd(g->fds[i]);
        if (g->shared)
                (void) munmap(g->shared, sizeof(*g->shared));
        free(g);
        return NULL;
}

int guard_release_leftovers(const char *runtime_directory) {
        Child child = CHILD_NULL;
        int r = guard_spawn("--release-leftovers", runtime_directory, &child), status = 0;
        if (r < 0)
                return r;
        struct pollfd p = { .fd = child.pidfd, .events = POLLIN };
        uint64_t deadline = usec_add(now_usec(), LEFTOVERS_WAIT_MSEC * USEC_PER_MSEC);
        bool gone = false;
        for (uint64_t now = now_usec(); !gone && now < deadline; now = now_usec())
                gone = poll(&p, 1, (int) ((deadline - now) / USEC_PER_MSEC) + 1) > 0 && child_reap(&child, &status);
        child_done(&child);
        if (!gone)
                return -ETIME;
        return status == 0 ? 0 : -EIO;
}
