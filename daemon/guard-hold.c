/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one hold that a guard makes, as seen by its main thread: which phase it is in, what is owed to vssd, when to look
 * again. The threads do the work; this moves on whenever one of them, the deadline, a signal or vssd woke it.
 *
 *   COLLECTING ─ARM─► ARMED ◄───► FLUSHING
 *                       │HOLD
 *                       ▼
 *                    HOLDING ───────► HOLDS ─RELEASE, or cancelled─► RELEASING ──► DONE
 *                       │ a FIFREEZE failed, or cancelled                ▲          ▲
 *                       └──────────► UNDOING ── something in flight ─────┘          │
 *                                       └───────────────────────────────────────────┘
 *
 * Every way out of HOLDING and HOLDS thaws everything, "cancelled" is final. An answer is never put off beyond the
 * deadline by a FIFREEZE that hangs: then HELD says so and a RELEASE nobody asked for follows when it is over.
 */
#include "daemon/guard-program.h"
#include <malloc.h>
#include <stdio.h>
#include <sys/timerfd.h>

/* As guard_is_through(), but what refuses to thaw counts as answered: its thread goes on trying. */
static bool hold_can_answer(const GuardProgram *p) {
        for (uint32_t i = 0; i < p->n_volumes; i++) {
                typeof(p->shared->fs[0]) *fs = &p->shared->fs[i];
                if (p->volumes[i].order == GUARD_ORDER_FREEZE)
                        return false;
                if (guard_state_is_busy(fs->state) && !(fs->state == GUARD_FS_THAWING && fs->thaw_result < 0))
                        return false;
        }
        return true;
}

static uint64_t earliest(uint64_t a, uint64_t b) {
        return a == 0 ? b : b == 0 ? a : MIN_OF(a, b);
}

static void hold_fill_times(const GuardProgram *p, struct GuardReply *reply) {
        for (uint32_t i = 0; i < p->n_volumes; i++) {
                typeof(p->shared->fs[0]) *fs = &p->shared->fs[i];
                reply->first_hold_usec = earliest(reply->first_hold_usec, fs->hold_begin_usec);
                reply->last_hold_usec = MAX_OF(reply->last_hold_usec, fs->hold_end_usec);
                reply->first_release_usec = earliest(reply->first_release_usec, fs->release_begin_usec);
                reply->last_release_usec = MAX_OF(reply->last_release_usec, fs->release_end_usec);
        }
}

static const char *hold_mount_point(const GuardProgram *p, uint32_t index) {
        return index < p->n_volumes ? p->volumes[index].mount_point : "the set";
}

static const char *arm_error(int error) {
        if (error == -ESTALE)
                return "not the file system that was planned; something else is mounted there now";
        if (error == -EDEADLK)
                return "the guard's own list lies on it; the runtime directory must be a tmpfs";
        return strerrordesc_np(-error);
}

static const char *cancel_reason(const GuardProgram *p) {
        switch ((int) p->pair->reason) {
        case ETIME:
                return "its deadline passed";
        case EINTR:
                return "a signal told the guard to let go";
        default:
                return "the guard did not answer in time";
        }
}

static void hold_describe_forced(const GuardProgram *p, char *m, size_t size, uint32_t index) {
        bool named = index < p->n_volumes;
        (void) snprintf(m, size, "the hold ended by force (%s)%s%s%s", cancel_reason(p), named ? "; last was " : "",
                        named ? hold_mount_point(p, index) : "",
                        guard_is_busy(p) ? ", which the kernel is still freezing; it thaws the moment that ends" : "");
}

static void hold_describe(const GuardProgram *p, struct GuardReply *reply) {
        const char *where = hold_mount_point(p, reply->index), *why = strerrordesc_np(-reply->result);
        char *m = reply->message;
        size_t size = sizeof(reply->message);
        if (reply->op == GUARD_ARM)
                (void) snprintf(m, size, "%s: %s", where, arm_error(reply->result));
        else if (reply->op == GUARD_FLUSH && reply->result == -ETIME)
                (void) snprintf(
                        m, size,
                        "%s has more unwritten data than its device takes in the time for the flush; try again when there "
                        "is less load, or raise pre_flush= in vssd.conf",
                        where);
        else if (reply->op == GUARD_FLUSH)
                (void) snprintf(m, size, "%s: write-back failed: %s", where, why);
        else if (reply->result == -EBUSY)
                (void) snprintf(m, size, "%s is frozen by somebody else", where);
        else if (reply->result == -EOPNOTSUPP)
                (void) snprintf(m, size, "%s: this file system cannot be frozen", where);
        else if (reply->result == -EINVAL && reply->op == GUARD_RELEASE)
                (void) snprintf(m, size, "%s was thawed by somebody else during the hold", where);
        else if (reply->result == -ETIME)
                hold_describe_forced(p, m, size, reply->index);
        else
                (void) snprintf(m, size, "%s: cannot %s: %s", where, reply->op == GUARD_HOLD ? "freeze" : "thaw", why);
        size_t n = strlen(m);
        if (p->scout_done && p->blockers[0])
                (void) snprintf(m + n, size - n, "; %.500s", p->blockers);
}

/* A full socket means that vssd does not read; then nothing depends on the answer any more. */
void guard_reply(GuardProgram *p, uint32_t op, int result, uint32_t index, int fd) {
        struct GuardReply reply = { .op = op, .result = result, .index = index };
        if (p->shared) {
                reply.forced = p->shared->forced;
                hold_fill_times(p, &reply);
        }
        for (uint32_t i = 0; i < p->n_volumes && op == GUARD_FLUSH; i++)
                reply.last_pass_usec = MAX_OF(reply.last_pass_usec, p->volumes[i].last_pass_usec);
        if (result < 0)
                hold_describe(p, &reply);
        else if (op == GUARD_ARM)
                memcpy(reply.message, p->notes, sizeof(reply.message));
        else if (p->scout_done)
                memcpy(reply.message, p->blockers, sizeof(reply.message));
        (void) child_send(p->socket, &reply, sizeof(reply), fd);
}

static void hold_set_timer(GuardProgram *p, uint64_t boot_usec) {
        struct itimerspec it = { .it_value = { (time_t) (boot_usec / USEC_PER_SEC),
                                               (long) (boot_usec % USEC_PER_SEC) * 1000 } };
        p->pair->deadline_boot_usec = boot_usec;
        (void) timerfd_settime(p->timer, TFD_TIMER_ABSTIME, &it, NULL);
}

static void hold_freeze_level(GuardProgram *p) {
        p->level_begin_usec = now_usec();
        for (uint32_t i = 0; i < p->n_volumes; i++)
                if (p->volumes[i].level == p->level)
                        guard_order(&p->volumes[i], GUARD_ORDER_FREEZE);
}

void hold_begin(GuardProgram *p, uint64_t deadline_usec) {
        if (p->phase != GUARD_ARMED)
                return guard_reply(p, GUARD_HOLD, -EPROTO, UINT32_MAX, -EBADF);
        uint64_t now = now_usec(), left = deadline_usec > now ? deadline_usec - now : 0, one = 1;
        p->shared->deadline_usec = deadline_usec;
        hold_set_timer(p, MAX_OF(usec_add(clock_usec(CLOCK_BOOTTIME), left), 1ULL));
        (void) !write(p->wake_second, &one, sizeof(one));
        p->allocated = mallinfo2().uordblks;
        p->level = 0;
        for (uint32_t i = 0; i < p->n_volumes; i++)
                p->level = MAX_OF(p->level, p->volumes[i].level);
        p->phase = GUARD_HOLDING;
        if (left == 0)
                guard_cancel(p, ETIME, true);
        guard_expedite_begin(p);
        hold_freeze_level(p);
}

void hold_flush(GuardProgram *p, uint64_t deadline_usec) {
        if (p->phase != GUARD_ARMED)
                return guard_reply(p, GUARD_FLUSH, -EPROTO, UINT32_MAX, -EBADF);
        p->phase = GUARD_FLUSHING;
        p->flush_deadline_usec = deadline_usec;
        for (uint32_t i = 0; i < p->n_volumes; i++)
                guard_order(&p->volumes[i], GUARD_ORDER_FLUSH);
}

/* All at once, the lowest level first in line: what lies on something can only thaw fully when that has. */
static void hold_let_go(GuardProgram *p) {
        uint32_t highest = 0;
        p->releasing = 1;
        for (uint32_t i = 0; i < p->n_volumes; i++)
                highest = MAX_OF(highest, p->volumes[i].level);
        for (uint32_t level = 0; level <= highest; level++)
                for (uint32_t i = 0; i < p->n_volumes; i++)
                        if (p->volumes[i].level == level)
                                (void) sem_post(&p->volumes[i].go);
        guard_expedite_end(p);
}

static void hold_ask_scout(GuardProgram *p) {
        if (p->scout_asked)
                return;
        p->scout_asked = 1;
        (void) sem_post(&p->scout);
}

static bool hold_any_in(const GuardProgram *p, uint32_t state, uint32_t *ret_index) {
        for (uint32_t i = 0; i < p->n_volumes; i++)
                if (p->shared->fs[i].state == state) {
                        *ret_index = i;
                        return true;
                }
        return false;
}

/* The hold failed or was cancelled while it was being made. */
static void hold_undo(GuardProgram *p) {
        uint32_t index = UINT32_MAX;
        if (hold_any_in(p, GUARD_FS_FREEZING, &index))
                hold_ask_scout(p);
        if (p->failure >= 0)
                guard_fail(p, -ETIME, index);
        guard_cancel(p, -p->failure, false);
        guard_expedite_end(p);
        uint64_t soon = usec_add(now_usec(), GUARD_ANSWER_MSEC * USEC_PER_MSEC);
        p->answer_by_usec = MAX_OF(soon, usec_add(p->shared->deadline_usec, GUARD_ANSWER_MSEC * USEC_PER_MSEC));
        p->phase = GUARD_UNDOING;
}

static void hold_advance_flushing(GuardProgram *p) {
        uint32_t busy = UINT32_MAX, failed = UINT32_MAX;
        for (uint32_t i = 0; i < p->n_volumes; i++)
                if (p->volumes[i].order == GUARD_ORDER_FLUSH)
                        busy = MIN_OF(busy, i);
                else if (p->volumes[i].flush_result < 0)
                        failed = MIN_OF(failed, i);
        if (busy == UINT32_MAX) {
                p->phase = GUARD_ARMED;
                guard_reply(p, GUARD_FLUSH, failed == UINT32_MAX ? 0 : p->volumes[failed].flush_result, failed, -EBADF);
        } else if (now_usec() >= p->flush_deadline_usec || p->shared->cancelled) {
                p->phase = GUARD_DONE;
                guard_reply(p, GUARD_FLUSH, -ETIME, busy, -EBADF);
        }
}

/* One level at a time, and the next only when every FIFREEZE of the last has succeeded. */
static void hold_advance_holding(GuardProgram *p) {
        uint32_t next = UINT32_MAX;
        bool open = false;
        for (uint32_t i = 0; i < p->n_volumes; i++) {
                GuardVolume *v = &p->volumes[i];
                /* The order first: when it is done the result is there, not the other way round. */
                if (v->order == GUARD_ORDER_FREEZE)
                        open = true;
                else if (p->shared->fs[i].freeze_result < 0 && p->shared->fs[i].freeze_result != -ECANCELED)
                        guard_fail(p, p->shared->fs[i].freeze_result, i);
                if (v->level < p->level && (next == UINT32_MAX || v->level > next))
                        next = v->level;
        }
        if (p->failure < 0 || p->shared->cancelled)
                hold_undo(p);
        else if (open && now_usec() >= usec_add(p->level_begin_usec, GUARD_LATE_MSEC * USEC_PER_MSEC))
                hold_ask_scout(p);
        else if (!open && next != UINT32_MAX) {
                p->level = next;
                hold_freeze_level(p);
        } else if (!open) {
                p->phase = GUARD_HOLDS;
                guard_reply(p, GUARD_HOLD, 0, UINT32_MAX, -EBADF);
        }
}

static int hold_release_result(const GuardProgram *p, uint32_t *ret_index) {
        *ret_index = UINT32_MAX;
        for (uint32_t i = 0; i < p->n_volumes && !p->shared->forced; i++)
                if (p->shared->fs[i].thaw_result < 0) {
                        *ret_index = i;
                        return p->shared->fs[i].thaw_result;
                }
        if (p->failure < 0)
                *ret_index = p->failure_index;
        return p->shared->forced ? -ETIME : p->failure;
}

static void hold_answer_release(GuardProgram *p) {
        uint32_t index;
        int r = hold_release_result(p, &index);
        p->owes_release = false;
        guard_reply(p, GUARD_RELEASE, r, index, -EBADF);
}

static void hold_done(GuardProgram *p) {
        hold_set_timer(p, 0);
        p->shared->released = 1;
        p->phase = GUARD_DONE;
        assert(mallinfo2().uordblks == p->allocated);
}

static void hold_advance_undoing(GuardProgram *p) {
        uint64_t now = now_usec();
        if (!hold_can_answer(p) && now < p->answer_by_usec)
                return;
        guard_reply(p, GUARD_HOLD, p->failure, p->failure_index, -EBADF);
        p->phase = GUARD_RELEASING;
        p->owes_release = p->owes_release || !guard_is_through(p);
}

static void hold_advance_releasing(GuardProgram *p) {
        if (p->owes_release && hold_can_answer(p))
                hold_answer_release(p);
        /* Between the two questions the last one may have thawed: never through with an answer owed. */
        if (!p->owes_release && guard_is_through(p))
                hold_done(p);
}

void hold_advance(GuardProgram *p) {
        GuardPhase before;
        do {
                before = p->phase;
                switch (p->phase) {
                case GUARD_FLUSHING:
                        hold_advance_flushing(p);
                        break;
                case GUARD_HOLDING:
                        hold_advance_holding(p);
                        break;
                case GUARD_HOLDS:
                        if (p->shared->cancelled) {
                                hold_let_go(p); /* the second cannot post our threads */
                                p->owes_release = true;
                                p->phase = GUARD_RELEASING;
                        }
                        break;
                case GUARD_UNDOING:
                        hold_advance_undoing(p);
                        break;
                case GUARD_RELEASING:
                        hold_advance_releasing(p);
                        break;
                case GUARD_COLLECTING:
                case GUARD_ARMED:
                case GUARD_DONE:
                        break;
                }
        } while (p->phase != before);
}

void hold_release(GuardProgram *p) {
        if (p->phase == GUARD_HOLDING)
                hold_undo(p);
        if (p->phase == GUARD_HOLDS) {
                hold_let_go(p);
                p->phase = GUARD_RELEASING;
        }
        if (p->phase == GUARD_UNDOING || p->phase == GUARD_RELEASING)
                p->owes_release = true;
        else if (p->shared)
                hold_answer_release(p);
        else
                guard_reply(p, GUARD_RELEASE, -EPROTO, UINT32_MAX, -EBADF);
}

/* When to look again although nobody woke us: absolute CLOCK_MONOTONIC. */
uint64_t hold_next_usec(const GuardProgram *p) {
        if (p->phase == GUARD_FLUSHING)
                return p->flush_deadline_usec;
        if (p->phase == GUARD_HOLDING && !p->scout_asked)
                return usec_add(p->level_begin_usec, GUARD_LATE_MSEC * USEC_PER_MSEC);
        if (p->phase == GUARD_UNDOING)
                return p->answer_by_usec;
        return USEC_INFINITY;
}
