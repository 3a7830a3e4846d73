/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guard of a set: started before the window, asked to flush, hold and release, and replaced by a rescue when it is
 * gone or says nothing. What it answers becomes events of the machine; nothing here decides anything about the order.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>

#define RESCUE_TICK_USEC (20 * USEC_PER_MSEC)
#define RESCUE_PATIENCE_USEC (2 * USEC_PER_SEC)

static Outcome guard_outcome(const struct GuardReply *reply, const Conductor *c, Failure *f) {
        if (reply->op == GUARD_FLUSH && reply->result == 0 && reply->last_pass_usec > c->budgets.hold / 2) {
                (void) failure_set(
                        f, CONDITION_DEADLINE_PASSED,
                        "the volumes have too much unwritten data: the last flush took %.1f s, more than half of what they "
                        "may be held for; try again when there is less load, or raise hold= in vssd.conf",
                        (double) reply->last_pass_usec / (double) USEC_PER_SEC);
                return OUTCOME_FAILED;
        }
        if (reply->result == 0 && !reply->forced)
                return OUTCOME_OK;
        (void) failure_set(f, reply->forced ? CONDITION_HOLD_EXPIRED : condition_from_errno(-reply->result), "%s",
                           reply->message[0] ? reply->message : strerror(-reply->result));
        if (reply->result == -EINVAL) /* somebody else thawed: the instant is lost */
                f->condition = CONDITION_BUSY;
        else if (f->condition == CONDITION_PROVIDER_FAILED)
                f->condition = CONDITION_FAILED;
        f->retryable = condition_retryable(f->condition);
        return OUTCOME_FAILED;
}

static void take_hold_times(Conductor *c, const struct GuardReply *reply) {
        if (reply->op == GUARD_HOLD && reply->result == 0) {
                memcpy(c->hold_note, reply->message, sizeof c->hold_note);
                c->hold_begin_usec = reply->first_hold_usec;
        } else if (reply->op == GUARD_RELEASE && c->hold_begin_usec && reply->last_release_usec > c->hold_begin_usec) {
                c->set->timing.hold_usec = reply->last_release_usec - c->hold_begin_usec;
                c->hold_begin_usec = 0;
        }
}

static int on_guard_exit(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        conductor_guard_lost(userdata);
        return 0;
}

static int watch_guard_exit(Conductor *c) {
        int r = sd_event_add_io(c->manager->event, &c->guard_exit, c->guard->child.pidfd, EPOLLIN, on_guard_exit, c);
        return r < 0 ? r : sd_event_source_set_priority(c->guard_exit, SD_EVENT_PRIORITY_NORMAL + 1);
}

void conductor_guard_dispatch(Conductor *c) {
        static const SequenceGuardOp ops[] = {
                [GUARD_FLUSH] = SEQ_FLUSH, [GUARD_HOLD] = SEQ_HOLD, [GUARD_RELEASE] = SEQ_RELEASE
        };
        struct GuardReply reply;
        SequenceEvent e = { .type = SEQ_EVENT_GUARD, .now_usec = now_usec() };
        Failure f = { 0 };
        int r;

        if (!c->guard || c->rescuing)
                return;
        r = guard_receive(c->guard, &reply);
        if (r < 0)
                conductor_guard_lost(c);
        if (r <= 0)
                return;
        if (reply.op == GUARD_HELLO && !c->guard_exit && watch_guard_exit(c) < 0)
                conductor_guard_lost(c);
        if (reply.op == GUARD_ARM) {
                c->guard_armed = true;
                if (reply.result < 0) {
                        (void) failure_set(&f, condition_from_errno(-reply.result), "%s", reply.message);
                        e.op = SEQ_FLUSH;
                        e.outcome = OUTCOME_FAILED;
                        conductor_feed(c, &e, &f);
                } else if (c->flush_waits)
                        (void) guard_flush(c->guard, c->flush_deadline_usec);
                c->flush_waits = false;
                return;
        }
        if (reply.op != GUARD_FLUSH && reply.op != GUARD_HOLD && reply.op != GUARD_RELEASE)
                return;
        take_hold_times(c, &reply);
        e.op = ops[reply.op];
        e.forced = reply.op == GUARD_RELEASE && reply.forced;
        e.outcome = guard_outcome(&reply, c, &f);
        conductor_feed(c, &e, &f);
}

void conductor_guard_lost(Conductor *c) {
        if (c->rescuing || !c->guard)
                return;
        c->rescuing = true;
        (void) sd_event_source_set_enabled(c->guard_io, SD_EVENT_OFF);
        if (c->guard_exit)
                (void) sd_event_source_set_enabled(c->guard_exit, SD_EVENT_OFF);
        conductor_feed(c, &(SequenceEvent) { .type = SEQ_EVENT_GUARD_LOST, .now_usec = now_usec() }, NULL);
        conductor_rescue(c);
}

static void rescue_later(Conductor *c) {
        if (!c->rescue_timer)
                return;
        (void) sd_event_source_set_time(c->rescue_timer, now_usec() + RESCUE_TICK_USEC);
        (void) sd_event_source_set_enabled(c->rescue_timer, SD_EVENT_ONESHOT);
}

/*
 * A FIFREEZE that is stuck in the kernel returns when it likes, and the guard's second, which needs nobody, thaws it
 * then. The writers need not stand still for it: after RESCUE_PATIENCE_USEC the set goes on to its end without.
 */
void conductor_rescue(Conductor *c) {
        Failure f;
        int r;

        if (!c->rescuing || !c->guard)
                return;
        if (!c->rescue_begin_usec)
                c->rescue_begin_usec = now_usec();
        r = guard_rescue(c->guard);
        if (r <= 0 && now_usec() < c->rescue_begin_usec + RESCUE_PATIENCE_USEC) {
                rescue_later(c);
                return;
        }
        child_kill(&c->guard->child);
        c->rescuing = false;
        (void) sd_event_source_set_enabled(c->rescue_timer, SD_EVENT_OFF);
        (void) failure_set(
                &f, c->sequence.hold_sent ? CONDITION_HOLD_EXPIRED : CONDITION_FAILED, "%s",
                r > 0 ? "the guard that holds the file systems ended or hung; everything has been released" :
                r < 0 ? "the guard ended or hung, and a file system could not be thawed: look at vssd's log and use fsfreeze -u" :
                        "the guard ended inside a freeze that the kernel has not finished; it is thawed when that returns");
        f.retryable = r >= 0;
        conductor_feed(c, &(SequenceEvent) { .type = SEQ_EVENT_GUARD_GONE, .now_usec = now_usec() }, &f);
}

static int on_guard_io(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        conductor_guard_dispatch(userdata);
        return 0;
}

static int on_rescue(sd_event_source *source, uint64_t usec, void *userdata) {
        conductor_rescue(userdata);
        return 0;
}

/* The guard wants small numbers: how many volumes of the set lie lower. */
static unsigned rank_of(const Set *s, const Volume *v) {
        unsigned rank = 0;

        for (size_t i = 0; i < s->n_volumes; i++)
                rank += s->volumes[i]->level < v->level;
        return rank;
}

static int add_held_volumes(Conductor *c) {
        int r = 0;

        for (size_t i = 0; i < c->set->n_volumes && r >= 0; i++) {
                const Volume *v = c->set->volumes[i];
                bool held = c->plan.volumes[i].held, mapped = plan_is_mapped(&c->plan, i), again = !held && !mapped;
                for (size_t j = 0; j < i; j++)
                        again |= (c->plan.volumes[j].held || plan_is_mapped(&c->plan, j)) &&
                                 c->set->volumes[j]->superblock == v->superblock;
                if (!again && mapped)
                        r = guard_add_mapped(c->guard, v->root_fd, v->dev, rank_of(c->set, v), v->name, !held);
                else if (!again)
                        r = guard_add(c->guard, v->root_fd, v->dev, rank_of(c->set, v), v->name);
        }
        return r;
}

int conductor_start_guard(Conductor *c, Failure *reterr) {
        sd_event *event = c->manager->event;
        const Settings *s = &c->manager->settings;
        uint32_t flags = (s->stuck_freeze == STUCK_KILL ? GUARD_KILL_STUCK : 0) | (s->expedite ? GUARD_EXPEDITE : 0);
        int r;

        (void) mlockall(MCL_CURRENT); /* not what comes later: a limit must not make vssd fail (hazards D1) */
        r = guard_new(c->set->id, c->manager->settings.runtime_directory, &c->guard);
        if (r >= 0)
                r = add_held_volumes(c);
        if (r >= 0)
                r = guard_arm(c->guard, flags);
        if (r >= 0)
                r = sd_event_add_io(event, &c->guard_io, c->guard->child.socket, EPOLLIN, on_guard_io, c);
        if (r >= 0 && c->guard->child.pidfd >= 0)
                r = watch_guard_exit(c);
        if (r >= 0)
                r = sd_event_add_time(event, &c->rescue_timer, CLOCK_MONOTONIC, USEC_INFINITY, 1000, on_rescue, c);
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "cannot start the guard that freezes and thaws: %s",
                                   strerror(-r));
        return 0;
}

void conductor_act_guard(Conductor *c, const SequenceAction *a) {
        int r = -EPIPE;

        if (a->op == SEQ_FLUSH && !c->guard_armed) {
                c->flush_waits = true;
                c->flush_deadline_usec = a->deadline_usec;
                return;
        }
        if (c->guard && !c->rescuing)
                r = a->op == SEQ_FLUSH ? guard_flush(c->guard, a->deadline_usec) :
                    a->op == SEQ_HOLD  ? guard_hold(c->guard, a->deadline_usec) :
                                         guard_release(c->guard);
        if (r < 0)
                conductor_guard_lost(c);
}
