/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The second. A process that dies inside FIFREEZE dies only when FIFREEZE returns and leaves the file system frozen; a
 * process that is stopped thaws nothing. So there are two. The second never freezes. It sleeps until the first's main
 * thread is gone, or the deadline passed 100 ms ago and something is still held, or it is told to (SIGTERM), and then
 * repeats FITHAW on everything that the shared page shows as frozen by us. For a FREEZING one it goes on until no
 * thread of the first exists any more and one last FITHAW found nothing: before that, the freeze may still come. A
 * first that still says nothing long after the deadline, with nothing held, was stopped for good: it is killed, or it
 * would keep the mounts busy for ever.
 */
#include "daemon/guard-program.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

static void volume_take_over(GuardVolume *v) {
        GuardProgram *p = v->program;
        typeof(p->shared->fs[0]) *fs = &p->shared->fs[v->index];
        for (;;) {
                /* In this order: "gone" must have been true before a FITHAW that proves anything. */
                bool gone = p->first_gone;
                uint32_t state = fs->state;
                if (guard_state_is_busy(state)) {
                        int r = guard_let_go(v);
                        if (r == 0 || (r == -EINVAL && (gone || state != GUARD_FS_FREEZING))) {
                                fs->release_end_usec = now_usec();
                                *v->held_mark = GUARD_MARK_FREE;
                                (void) atomic_compare_exchange_strong(&fs->state, &state, GUARD_FS_THAWED);
                                continue;
                        }
                } else if (gone)
                        return;
                guard_sleep_msec(GUARD_RETRY_MSEC);
        }
}

static void *second_volume_run(void *argument) {
        GuardVolume *v = argument;
        while (sem_wait(&v->go) < 0)
                ;
        volume_take_over(v);
        v->order = GUARD_ORDER_GONE;
        uint64_t one = 1;
        (void) !write(v->program->wake_second, &one, sizeof(one));
        return NULL;
}

static bool second_is_through(const GuardProgram *p) {
        for (uint32_t i = 0; i < p->n_volumes; i++)
                if (p->volumes[i].order != GUARD_ORDER_GONE)
                        return false;
        return true;
}

static bool deadline_passed(const GuardProgram *p, unsigned by_msec) {
        uint64_t deadline = p->pair->deadline_boot_usec;
        return deadline > 0 && clock_usec(CLOCK_BOOTTIME) >= usec_add(deadline, by_msec * USEC_PER_MSEC);
}

/* Sleeps until something may have happened. Returns true if a signal told us to thaw. */
static bool second_wait(GuardProgram *p) {
        struct pollfd fds[] = {
                { .fd = p->first_gone ? -1 : p->first_pidfd, .events = POLLIN },
                { .fd = p->signals, .events = POLLIN },
                { .fd = p->wake_second, .events = POLLIN },
        };
        bool holding = p->pair->deadline_boot_usec > 0 || p->shared->cancelled;
        (void) poll(fds, ELEMENTSOF(fds), holding ? GUARD_RETRY_MSEC : -1);
        if (fds[0].revents)
                p->first_gone = 1;
        uint64_t count;
        if (fds[2].revents & POLLIN)
                (void) !read(p->wake_second, &count, sizeof(count));
        struct signalfd_siginfo si;
        return fds[1].revents & POLLIN && read(p->signals, &si, sizeof(si)) == sizeof(si);
}

static _Noreturn void second_run(GuardProgram *p) {
        bool taken = false, dead = false;
        while (!p->first_gone || !second_is_through(p)) {
                bool told = second_wait(p);
                dead = dead || p->first_gone || pthread_mutex_trylock(&p->pair->alive) != EBUSY;
                bool busy = guard_is_busy(p);
                if (!taken && (dead || told || (busy && deadline_passed(p, GUARD_SECOND_MSEC)))) {
                        taken = true;
                        guard_cancel(p, dead ? EOWNERDEAD : told ? EINTR : ETIME, true);
                        guard_expedite_end(p);
                }
                if (taken && !dead && !busy && !p->shared->released && deadline_passed(p, GUARD_KILL_MSEC))
                        (void) syscall(SYS_pidfd_send_signal, p->first_pidfd, SIGKILL, NULL, 0);
        }
        p->shared->released = 1;
        guard_held_remove(p);
        guard_expedite_end(p); /* the first may have begun its hold after we had let go */
        _exit(EXIT_SUCCESS);
}

static _Noreturn void second_main(GuardProgram *p) {
        (void) prctl(PR_SET_NAME, "vss-guard-2");
        (void) setsid();
        p->socket = close_fd(p->socket);
        p->timer = close_fd(p->timer);
        guard_lock_memory(p);
        int r = 0;
        for (uint32_t i = 0; i < p->n_volumes && r >= 0; i++)
                r = guard_thread_new(second_volume_run, &p->volumes[i]);
        if (r < 0)
                _exit(EXIT_FAILURE);
        p->pair->second_ready = 1;
        guard_wake(p);
        second_run(p);
}

/* Ready, or it is not: a second that is only half there would be counted on. */
static int second_await_ready(GuardProgram *p) {
        uint64_t deadline = usec_add(now_usec(), GUARD_SECOND_READY_MSEC * USEC_PER_MSEC);
        while (!p->pair->second_ready) {
                struct pollfd fds[] = {
                        { .fd = p->wake, .events = POLLIN },
                        { .fd = p->second_pidfd, .events = POLLIN },
                };
                uint64_t now = now_usec(), count;
                if (now >= deadline)
                        return -ETIME;
                (void) poll(fds, ELEMENTSOF(fds), (int) ((deadline - now) / USEC_PER_MSEC) + 1);
                if (fds[1].revents)
                        return -ECHILD;
                if (fds[0].revents)
                        (void) !read(p->wake, &count, sizeof(count));
        }
        return 0;
}

int guard_second_fork(GuardProgram *p) {
        p->first_pidfd = (int) syscall(SYS_pidfd_open, p->first_pid, 0);
        if (p->first_pidfd < 0)
                return -errno;
        pid_t pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0)
                second_main(p);
        p->second_pid = pid;
        p->second_pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
        return p->second_pidfd < 0 ? -errno : second_await_ready(p);
}
