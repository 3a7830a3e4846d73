/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guard of control groups. A frozen one stays frozen for ever when whoever froze it dies, so a descriptor of its
 * cgroup.freeze lies here, in a process that ends with neither vssd nor the writer, and zero is written to it at EOF,
 * at the deadline and at SIGTERM. Unlike a file system it never keeps anybody waiting who thaws it, so one process with
 * no thread is enough.
 */
#include "daemon/guard-program.h"
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdio.h>
#include <sys/timerfd.h>
#include <sys/vfs.h>

enum { LINGER_LOOK_MSEC = 20, FORCED_LOOK_MSEC = 200 };

typedef struct GuardCgroups {
        GuardProgram *program;
        int fds[GUARD_CGROUPS_MAX];
        uint32_t n;
        int failure;
        bool holds, unsettled, forced;
} GuardCgroups;

static int cgroup_add(GuardCgroups *g, const struct GuardRequest *q, int fd) {
        struct statfs fs;
        if (g->holds || q->index != g->n || g->n >= GUARD_CGROUPS_MAX || fd < 0)
                return -EPROTO;
        if (fstatfs(fd, &fs) < 0)
                return -errno;
        if (fs.f_type != CGROUP2_SUPER_MAGIC)
                return -EINVAL;
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (copy < 0)
                return -errno;
        g->fds[g->n++] = copy;
        return 0;
}

/* One that is no more has nothing frozen. */
static int thaw_all(GuardCgroups *g) {
        int r = 0;
        for (uint32_t i = 0; i < g->n; i++)
                if (pwrite(g->fds[i], "0", 1, 0) < 0 && errno != ENODEV)
                        r = -errno;
        return r;
}

static void set_deadline(GuardCgroups *g, uint64_t deadline_usec) {
        uint64_t now = now_usec(), left = deadline_usec > now ? deadline_usec - now : 1;
        struct itimerspec t = {};
        if (deadline_usec != USEC_INFINITY && deadline_usec > 0)
                t.it_value = (struct timespec) { (time_t) (left / USEC_PER_SEC),
                                                 (long) (left % USEC_PER_SEC * NSEC_PER_USEC) };
        (void) timerfd_settime(g->program->timer, 0, &t, NULL);
}

/* By itself: whatever the reason, the hold was not unbroken. */
static void let_go(GuardCgroups *g) {
        if (!g->holds)
                return;
        g->forced = true;
        (void) thaw_all(g);
}

static void answer(GuardCgroups *g, uint32_t op, int result) {
        struct GuardReply reply = { .op = op, .result = result, .index = UINT32_MAX, .forced = g->forced };
        (void) snprintf(reply.message, sizeof(reply.message), "%s", g->program->notes);
        (void) child_send(g->program->socket, &reply, sizeof(reply), -1);
}

static void arm(GuardCgroups *g) {
        GuardProgram *p = g->program;
        int r = g->failure < 0 ? g->failure : guard_open_surroundings(p);
        if (r >= 0)
                guard_prepare(p);
        answer(g, GUARD_ARM, r);
}

static void hold(GuardCgroups *g, const struct GuardRequest *q) {
        if (g->forced)
                return answer(g, GUARD_HOLD, -ETIME);
        g->holds = true;
        g->unsettled = q->flags & GUARD_UNSETTLED;
        set_deadline(g, q->deadline_usec);
        answer(g, GUARD_HOLD, 0);
}

static void release(GuardCgroups *g) {
        int r = thaw_all(g);
        g->holds = false;
        set_deadline(g, 0);
        answer(g, GUARD_RELEASE, r);
}

static void handle(GuardCgroups *g, const struct GuardRequest *q, int fd) {
        switch (q->op) {
        case GUARD_CGROUP:
                if (g->failure >= 0)
                        g->failure = cgroup_add(g, q, fd);
                return;
        case GUARD_ARM:
                return arm(g);
        case GUARD_HOLD:
                return hold(g, q);
        case GUARD_RELEASE:
                return release(g);
        case GUARD_EXIT:
                _exit(EXIT_SUCCESS);
        }
}

/* False: EOF. */
static bool listen_once(GuardCgroups *g) {
        for (;;) {
                struct GuardRequest q;
                _cleanup_close_ int fd = -EBADF;
                int r = child_receive(g->program->socket, &q, sizeof(q), &fd);
                if (r == 0)
                        return true;
                if (r > 0)
                        handle(g, &q, fd);
                else if (r != -EBADMSG)
                        return false;
        }
}

/* What was asked to freeze them may only do it now. */
static void linger(GuardCgroups *g) {
        uint64_t end = usec_add(now_usec(), GUARD_LINGER_USEC);
        while (g->unsettled && now_usec() < end) {
                guard_sleep_msec(LINGER_LOOK_MSEC);
                (void) thaw_all(g);
        }
}

_Noreturn void guard_cgroups(GuardProgram *p, const struct GuardRequest *first, int fd) {
        static GuardCgroups groups;
        GuardCgroups *g = &groups;
        uint64_t sink[16];
        bool there = true;
        g->program = p;
        handle(g, first, fd);
        while (there) {
                struct pollfd fds[] = { { .fd = p->socket, .events = POLLIN },
                                        { .fd = p->signals, .events = POLLIN },
                                        { .fd = p->timer, .events = POLLIN } };
                bool late = g->forced && g->holds; /* its owner has not said anything since */
                if (poll(fds, ELEMENTSOF(fds), late ? FORCED_LOOK_MSEC : -1) < 0)
                        continue;
                if (late)
                        (void) thaw_all(g);
                for (size_t i = 1; i < ELEMENTSOF(fds); i++)
                        if (fds[i].revents) {
                                (void) !read(fds[i].fd, sink, sizeof(sink));
                                let_go(g);
                        }
                if (fds[0].revents)
                        there = listen_once(g);
        }
        let_go(g);
        linger(g);
        _exit(EXIT_SUCCESS);
}
