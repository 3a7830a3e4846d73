/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The threads of the first. A file system has one thread that does its syncfs, its FIFREEZE and its FITHAW; nobody else
 * in this process ever calls into that file system, so that a call that does not return (a FIFREEZE waits as long as
 * any writer is inside, a FITHAW as long as the FIFREEZE before it) delays nothing but its own file system. The
 * deadline thread only sets a flag and wakes the others. No locks: a thread looks at the flags after every step it
 * made, and whoever sets a flag posts the semaphore after it, so one of the two always sees the other.
 */
#include "daemon/guard-program.h"
#include <linux/fs.h>
#include <pthread.h>
#include <sys/ioctl.h>

void guard_sleep_msec(unsigned msec) {
        struct timespec ts = { .tv_sec = msec / 1000, .tv_nsec = (long) (msec % 1000) * 1000000 };
        while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
                ;
}

/* Passes go on while they pay: the first writes what had gathered, the next ones only what came meanwhile. */
static void volume_flush(GuardVolume *v) {
        GuardProgram *p = v->program;
        uint64_t previous = USEC_INFINITY, usec = 0;
        int r = 0;
        for (unsigned pass = 0; pass < GUARD_FLUSH_PASSES; pass++) {
                uint64_t begin = now_usec();
                r = syncfs(v->fd) < 0 ? -errno : 0;
                usec = now_usec() - begin;
                if (r < 0 || usec <= GUARD_FLUSH_ENOUGH_USEC || usec >= previous / 2 || p->shared->cancelled ||
                    now_usec() >= p->flush_deadline_usec)
                        break;
                previous = usec;
        }
        v->last_pass_usec = usec;
        v->flush_result = r;
}

static void volume_freeze(GuardVolume *v) {
        typeof(v->program->shared->fs[0]) *fs = &v->program->shared->fs[v->index];
        if (v->program->shared->cancelled) {
                fs->freeze_result = -ECANCELED;
                return;
        }
        *v->held_mark = v->flags & GUARD_WATCHED ? GUARD_MARK_WATCHED :
                        v->flags & GUARD_MAPPED  ? GUARD_MARK_MAPPED :
                                                   GUARD_MARK_HELD;
        fs->state = GUARD_FS_FREEZING;
        fs->hold_begin_usec = now_usec();
        int r = !(v->flags & GUARD_WATCHED) && ioctl(v->fd, FIFREEZE, 0) < 0 ? -errno : 0;
        fs->hold_end_usec = now_usec();
        fs->freeze_result = r;
        fs->state = r < 0 ? GUARD_FS_IDLE : GUARD_FS_HELD;
        if (r < 0)
                *v->held_mark = GUARD_MARK_FREE;
}

int guard_let_go(const GuardVolume *v) {
        (void) guard_dm_resume(v->program->dm_control, &v->dm);
        return !(v->flags & GUARD_WATCHED) && ioctl(v->fd, FITHAW, 0) < 0 ? -errno : 0;
}

/* Until it is thawed, by us or by anybody. An error is shown at once (main reports it) but never a reason to give up.
 */
static void volume_thaw(GuardVolume *v) {
        typeof(v->program->shared->fs[0]) *fs = &v->program->shared->fs[v->index];
        fs->state = GUARD_FS_THAWING;
        fs->release_begin_usec = now_usec();
        for (;;) {
                int r = guard_let_go(v);
                fs->thaw_result = r;
                if (r == 0 || r == -EINVAL)
                        break;
                guard_wake(v->program);
                guard_sleep_msec(GUARD_RETRY_MSEC);
        }
        fs->release_end_usec = now_usec();
        *v->held_mark = GUARD_MARK_FREE;
        fs->state = GUARD_FS_THAWED;
}

static void *volume_run(void *argument) {
        GuardVolume *v = argument;
        GuardProgram *p = v->program;
        for (;;) {
                while (sem_wait(&v->go) < 0)
                        ;
                uint32_t order = v->order;
                if (order == GUARD_ORDER_FLUSH)
                        volume_flush(v);
                if (order == GUARD_ORDER_FREEZE)
                        volume_freeze(v);
                if (p->shared->fs[v->index].state == GUARD_FS_HELD && (p->shared->cancelled || p->releasing))
                        volume_thaw(v);
                if (order != GUARD_ORDER_NONE)
                        v->order = GUARD_ORDER_NONE;
                guard_wake(p);
        }
        return NULL;
}

static void *deadline_run(void *argument) {
        GuardProgram *p = argument;
        for (;;) {
                uint64_t expirations;
                if (read(p->timer, &expirations, sizeof(expirations)) == sizeof(expirations))
                        guard_cancel(p, ETIME, true);
        }
        return NULL;
}

void guard_order(GuardVolume *v, GuardOrder order) {
        assert(v->order == GUARD_ORDER_NONE);
        v->order = order;
        (void) sem_post(&v->go);
}

int guard_thread_new(void *(*run)(void *), void *argument) {
        pthread_attr_t attr;
        pthread_t thread;
        int r = pthread_attr_init(&attr);
        if (r != 0)
                return -r;
        r = pthread_attr_setstacksize(&attr, GUARD_STACK_BYTES);
        if (r == 0)
                r = pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
        if (r == 0)
                r = pthread_create(&thread, &attr, run, argument);
        (void) pthread_attr_destroy(&attr);
        return -r;
}

int guard_threads_start(GuardProgram *p) {
        int r = guard_thread_new(deadline_run, p);
        if (r >= 0)
                r = guard_thread_new(guard_scout_run, p);
        for (uint32_t i = 0; i < p->n_volumes && r >= 0; i++)
                r = guard_thread_new(volume_run, &p->volumes[i]);
        return r;
}
