/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two tables of steps, forward and unwinding; a step calls some actors and is over when they have answered. The machine
 * stands on one step of one table. A failure moves it from wherever it stands to the first step of the unwinding table,
 * once; failures during unwinding change nothing (the first cause wins) except that nobody waits any longer for who
 * failed.
 *
 * Time comes in with every event. The only arithmetic on it is here: the freeze clock of a writer runs from the sending
 * of its Freeze to the answer of its Thaw; the smallest clock bounds the window; Freeze answers are due FREEZE_MARGIN
 * before it and the hold ends HOLD_MARGIN before it, so that a slow back-end cannot use up what a front-end promised.
 */
#include "daemon/sequence-private.h"

#define FREEZE_MARGIN_USEC (2 * USEC_PER_SEC)
#define HOLD_MARGIN_USEC (500 * USEC_PER_MSEC)
#define GUARD_GRACE_USEC (500 * USEC_PER_MSEC) /* beyond the guard's own deadline, before we stop believing in it */
#define THAW_PATIENCE_USEC (2 * USEC_PER_SEC)  /* then the next level is thawed although this one has not answered */
#define STORE_BUDGET_USEC (30 * USEC_PER_SEC)  /* and the window of another set, in which the catalogue waits */

static const Step forward[] = {
        { PHASE_PREPARE_BACKUP, STEP_WRITERS, EVENT_PREPARE_BACKUP, -1 },
        { PHASE_BEGIN_PREPARE, STEP_PROVIDERS, SEQ_BEGIN_PREPARE, -1 },
        { PHASE_END_PREPARE, STEP_PROVIDERS, SEQ_END_PREPARE, -1 },
        { PHASE_PREPARE_SNAPSHOT, STEP_WRITERS, EVENT_PREPARE_SNAPSHOT, -1 },
        { PHASE_PRE_FLUSH, STEP_STORE, SEQ_DO_STORE_INTENT, -1 },
        { PHASE_PRE_FLUSH, STEP_WINDOW, 0, -1 },
        { PHASE_PRE_FLUSH, STEP_GUARD, SEQ_FLUSH, -1 },
        { PHASE_FREEZE, STEP_WRITERS, EVENT_FREEZE, LEVEL_FRONT_END },
        { PHASE_FREEZE, STEP_WRITERS, EVENT_FREEZE, LEVEL_BACK_END },
        { PHASE_FREEZE, STEP_WRITERS, EVENT_FREEZE, LEVEL_SYSTEM },
        { PHASE_PRE_COMMIT, STEP_PROVIDERS, SEQ_PRE_COMMIT, -1 },
        { PHASE_HOLD, STEP_GUARD, SEQ_HOLD, -1 },
        { PHASE_HOLD, STEP_PROVIDERS, SEQ_HOLD_BLOCKS, -1 },
        { PHASE_COMMIT, STEP_PROVIDERS, SEQ_COMMIT, -1 },
        { PHASE_RELEASE, STEP_PROVIDERS, SEQ_RELEASE_BLOCKS, -1 },
        { PHASE_RELEASE, STEP_GUARD, SEQ_RELEASE, -1 },
        { PHASE_POST_COMMIT, STEP_PROVIDERS, SEQ_POST_COMMIT, -1 },
        { PHASE_THAW, STEP_THAW, EVENT_THAW, LEVEL_SYSTEM },
        { PHASE_THAW, STEP_THAW, EVENT_THAW, LEVEL_BACK_END },
        { PHASE_THAW, STEP_THAW, EVENT_THAW, LEVEL_FRONT_END },
        { PHASE_THAW, STEP_THAWED, EVENT_THAW, -1 },
        { PHASE_PRE_FINAL, STEP_PROVIDERS, SEQ_PRE_FINAL, -1 },
        { PHASE_POST_SNAPSHOT, STEP_STORE, SEQ_DO_EXCLUDE, -1 },
        { PHASE_POST_SNAPSHOT, STEP_WRITERS, EVENT_POST_SNAPSHOT, -1 },
        { PHASE_POST_FINAL, STEP_PROVIDERS, SEQ_POST_FINAL, -1 },
        { PHASE_POST_FINAL, STEP_PROVIDERS, SEQ_CLEAR_MARK, -1 },
        { PHASE_POST_FINAL, STEP_STORE, SEQ_DO_STORE_RESULT, -1 },
        { PHASE_POST_FINAL, STEP_END, 1, -1 },
};

static const Step unwind[] = {
        { PHASE_ABORT, STEP_GUARD, SEQ_RELEASE, -1 },
        { PHASE_ABORT, STEP_ABORT_PROVIDERS, 0, -1 },
        { PHASE_ABORT, STEP_THAW, EVENT_THAW, LEVEL_SYSTEM },
        { PHASE_ABORT, STEP_THAW, EVENT_THAW, LEVEL_BACK_END },
        { PHASE_ABORT, STEP_THAW, EVENT_THAW, LEVEL_FRONT_END },
        { PHASE_ABORT, STEP_THAWED, EVENT_THAW, -1 },
        { PHASE_ABORT, STEP_ABORT_WRITERS, EVENT_ABORT, -1 },
        { PHASE_ABORT, STEP_END, 0, -1 },
};

const Step *step_now(const Sequence *s) {
        return s->unwinding ? &unwind[s->step] : &forward[s->step];
}

/* Where the forward table stands relative to one of its steps; everything counts as past once it unwinds. */
bool step_before(const Sequence *s, StepKind kind, unsigned op) {
        if (s->unwinding)
                return false;
        for (unsigned i = 0; i < s->step; i++)
                if (forward[i].kind == kind && forward[i].op == op)
                        return false;
        return !(forward[s->step].kind == kind && forward[s->step].op == op);
}

static void call_writer(Sequence *s, unsigned i, WriterEvent e, uint64_t deadline_usec) {
        SequenceWriter *w = &s->writers[i];

        assert(!w->lost && !w->ended);
        assert(!sequence_in_hold(s));
        if (!w->outstanding)
                s->writers_outstanding++;
        w->outstanding = true;
        w->call = e;
        if (e == EVENT_ABORT || e == EVENT_BACKUP_SHUTDOWN)
                w->ended = true;
        sequence_push(s,
                      (SequenceAction) { .type = SEQ_DO_WRITER, .index = i, .op = e, .deadline_usec = deadline_usec });
}

void writer_settled(Sequence *s, unsigned i) {
        if (!s->writers[i].outstanding)
                return;
        s->writers[i].outstanding = false;
        s->writers_outstanding--;
}

/* Its last word from us for this set: nobody waits for the answer of one that was silent. */
void writer_end(Sequence *s, unsigned i, uint64_t now, bool wait) {
        SequenceWriter *w = &s->writers[i];

        if (!w->prepared || w->ended)
                return;
        if (w->lost) {
                w->ended = true;
                return;
        }
        call_writer(s, i, w->post_snapshot ? EVENT_BACKUP_SHUTDOWN : EVENT_ABORT, usec_add(now, s->budgets.abort));
        if (!wait)
                writer_settled(s, i);
}

static void call_provider(Sequence *s, unsigned i, SequenceProviderOp op, uint64_t deadline_usec) {
        SequenceProvider *p = &s->providers[i];

        assert(!p->outstanding);
        p->outstanding = true;
        p->call = op;
        p->deadline_usec = deadline_usec;
        if (op == SEQ_BEGIN_PREPARE)
                p->begun = true;
        if (op == SEQ_HOLD_BLOCKS)
                p->gated = true;
        if (op == SEQ_ABORT)
                p->aborted = true;
        s->providers_outstanding++;
        sequence_push(s, (SequenceAction) { .type = SEQ_DO_PROVIDER,
                                            .index = i,
                                            .op = op,
                                            .fresh = op == SEQ_ABORT && p->dead,
                                            .deadline_usec = deadline_usec });
}

void provider_settled(Sequence *s, unsigned i) {
        if (!s->providers[i].outstanding)
                return;
        s->providers[i].outstanding = false;
        s->providers_outstanding--;
}

void provider_kill(Sequence *s, unsigned i) {
        provider_settled(s, i);
        s->providers[i].dead = true;
        s->providers[i].gated = false; /* a hold ends with the process that has it */
        sequence_push(s, (SequenceAction) { .type = SEQ_DO_KILL_PROVIDER, .index = i });
}

static void call_guard(Sequence *s, SequenceGuardOp op, uint64_t deadline_usec) {
        s->guard_outstanding = true;
        s->guard_op = op;
        if (op == SEQ_HOLD)
                s->hold_sent = true;
        sequence_push(s, (SequenceAction) { .type = SEQ_DO_GUARD, .op = op, .deadline_usec = deadline_usec });
}

static bool step_is_over(const Sequence *s) {
        const Step *step = step_now(s);

        switch (step->kind) {
        case STEP_THAW:
                for (unsigned i = 0; i < s->n_writers; i++)
                        if (s->writers[i].outstanding && s->writers[i].call == EVENT_THAW &&
                            (int) s->writers[i].level == step->level)
                                return false;
                return true;
        case STEP_THAWED:
                for (unsigned i = 0; i < s->n_writers; i++)
                        if (s->writers[i].outstanding && s->writers[i].call == EVENT_THAW)
                                return false;
                return true;
        case STEP_WRITERS:
                return s->writers_outstanding == 0;
        case STEP_PROVIDERS:
                return s->providers_outstanding == 0 && !s->rescuing;
        case STEP_GUARD:
                return !s->guard_outstanding && !s->rescuing;
        case STEP_STORE:
        case STEP_WINDOW:
                return !s->waiting;
        case STEP_ABORT_PROVIDERS:
                return true;
        case STEP_ABORT_WRITERS:
                return s->writers_outstanding == 0 && s->providers_outstanding == 0;
        case STEP_END:
                return false;
        }
        assert(!"no such step");
        return false;
}

static uint64_t freeze_timeout(const Sequence *s, const SequenceWriter *w) {
        uint64_t t = w->freeze_timeout_usec ? MIN_OF(w->freeze_timeout_usec, s->budgets.freeze) : s->budgets.freeze;

        return MAX_OF(t, BUDGET_MIN_FREEZE_USEC);
}

static void begin_freeze(Sequence *s, const Step *step, uint64_t now) {
        if (step->level == LEVEL_FRONT_END) {
                s->freeze_begin_usec = now;
                s->window_deadline_usec = s->thaw_by_usec = usec_add(now, s->budgets.window);
        }
        for (unsigned i = 0; i < s->n_writers; i++) {
                SequenceWriter *w = &s->writers[i];
                if ((int) w->level != step->level || w->dropped || w->lost)
                        continue;
                w->frozen = true;
                w->freeze_sent_usec = now;
                w->thaw_by_usec = MIN_OF(usec_add(now, freeze_timeout(s, w)), s->window_deadline_usec);
                s->thaw_by_usec = MIN_OF(s->thaw_by_usec, w->thaw_by_usec);
        }
        s->deadline_usec = s->thaw_by_usec - FREEZE_MARGIN_USEC;
        for (unsigned i = 0; i < s->n_writers; i++)
                if (s->writers[i].frozen && s->writers[i].freeze_sent_usec == now &&
                    (int) s->writers[i].level == step->level)
                        call_writer(s, i, EVENT_FREEZE, s->deadline_usec);
}

static void begin_writers(Sequence *s, const Step *step, uint64_t now) {
        uint64_t budget = step->op == EVENT_PREPARE_BACKUP   ? s->budgets.prepare_backup :
                          step->op == EVENT_PREPARE_SNAPSHOT ? s->budgets.prepare_snapshot :
                                                               s->budgets.post_snapshot;

        if (step->op == EVENT_FREEZE) {
                begin_freeze(s, step, now);
                return;
        }
        s->deadline_usec = usec_add(now, budget);
        for (unsigned i = 0; i < s->n_writers; i++) {
                SequenceWriter *w = &s->writers[i];
                if (w->dropped || w->lost)
                        continue;
                w->prepared = true;
                w->post_snapshot = step->op == EVENT_POST_SNAPSHOT;
                call_writer(s, i, step->op, s->deadline_usec);
        }
}

static uint64_t provider_deadline(Sequence *s, SequenceProviderOp op, uint64_t now) {
        switch (op) {
        case SEQ_BEGIN_PREPARE: /* begin and end share one budget */
                return s->prepare_deadline_usec = usec_add(now, s->budgets.provider);
        case SEQ_END_PREPARE:
                return s->prepare_deadline_usec;
        case SEQ_PRE_COMMIT:
                return MIN_OF(usec_add(now, s->budgets.provider_step), s->thaw_by_usec - HOLD_MARGIN_USEC);
        case SEQ_HOLD_BLOCKS:
        case SEQ_COMMIT:
                return s->hold_deadline_usec;
        case SEQ_RELEASE_BLOCKS:
                return usec_add(s->hold_deadline_usec, GUARD_GRACE_USEC);
        case SEQ_POST_COMMIT:
                return usec_add(now, s->budgets.provider_step);
        case SEQ_PRE_FINAL:
        case SEQ_POST_FINAL:
        case SEQ_CLEAR_MARK:
        case SEQ_ABORT:
        case _SEQ_PROVIDER_OP_MAX:
                break;
        }
        return usec_add(now, s->budgets.provider);
}

static void begin_providers(Sequence *s, const Step *step, uint64_t now) {
        bool holds_only = step->op == SEQ_HOLD_BLOCKS || step->op == SEQ_RELEASE_BLOCKS;

        s->deadline_usec = provider_deadline(s, step->op, now);
        for (unsigned i = 0; i < s->n_providers; i++)
                if (!holds_only || s->providers[i].holds)
                        call_provider(s, i, step->op, s->deadline_usec);
}

/*
 * Before file systems are released, whoever does it: thawing one writes to its device, and would wait for a gate that
 * is closed. Nobody waits for a provider here; the end of its process opens its gates, whatever it is doing.
 */
void open_gates(Sequence *s) {
        for (unsigned i = 0; i < s->n_providers; i++)
                if (s->providers[i].gated)
                        provider_kill(s, i);
}

static void begin_guard(Sequence *s, const Step *step, uint64_t now) {
        if (s->unwinding)
                open_gates(s);
        if (step->op == SEQ_HOLD) {
                s->freeze_end_usec = now;
                s->hold_deadline_usec = MIN_OF(usec_add(now, s->budgets.hold), s->thaw_by_usec - HOLD_MARGIN_USEC);
                if (s->hold_deadline_usec <= now) {
                        sequence_fail(s, now, SEQ_ACTOR_NONE, 0, NULL, CONDITION_DEADLINE_PASSED);
                        return;
                }
        }
        if (!s->has_guard || s->guard_gone)
                return;
        if (step->op == SEQ_RELEASE && (!s->hold_sent || s->released))
                return;
        s->deadline_usec = step->op == SEQ_FLUSH ? usec_add(now, s->budgets.pre_flush) : s->hold_deadline_usec;
        call_guard(s, step->op, s->deadline_usec);
        s->deadline_usec = usec_add(MAX_OF(s->deadline_usec, now), GUARD_GRACE_USEC);
}

static void begin_thaw(Sequence *s, const Step *step, uint64_t now) {
        s->deadline_usec = usec_add(now, THAW_PATIENCE_USEC);
        for (unsigned i = 0; i < s->n_writers; i++) {
                SequenceWriter *w = &s->writers[i];
                if ((int) w->level != step->level || !w->frozen || w->thawed || w->ended || w->lost)
                        continue;
                w->thawed = true; /* it has been told; the answer settles the rest */
                call_writer(s, i, EVENT_THAW, usec_add(now, s->budgets.thaw));
        }
}

void provider_abort(Sequence *s, unsigned i, uint64_t now) {
        if (s->providers[i].begun && !s->providers[i].aborted && !s->providers[i].outstanding)
                call_provider(s, i, SEQ_ABORT, usec_add(now, s->budgets.provider));
}

static void begin_abort_writers(Sequence *s, uint64_t now) {
        for (unsigned i = 0; i < s->n_writers; i++)
                writer_end(s, i, now, true);
        s->deadline_usec = usec_add(now, s->budgets.abort);
}

static void finish(Sequence *s, bool created) {
        if (s->window_open) {
                s->window_open = false;
                sequence_push(s, (SequenceAction) { .type = SEQ_DO_CLOSE_WINDOW });
        }
        s->finished = true;
        s->created = created;
        s->deadline_usec = USEC_INFINITY;
        sequence_push(s, (SequenceAction) { .type = SEQ_DO_FINISH, .op = created });
}

void step_begin(Sequence *s, uint64_t now) {
        const Step *step = step_now(s);

        if (s->step == 0 || step[-1].phase != step->phase)
                sequence_push(s, (SequenceAction) { .type = SEQ_DO_PHASE, .op = step->phase });
        s->deadline_usec = USEC_INFINITY;
        switch (step->kind) {
        case STEP_WRITERS:
                begin_writers(s, step, now);
                break;
        case STEP_PROVIDERS:
                begin_providers(s, step, now);
                break;
        case STEP_GUARD:
                begin_guard(s, step, now);
                break;
        case STEP_STORE:
                if (step->op == SEQ_DO_EXCLUDE && !s->excludes)
                        break;
                s->waiting = true;
                s->deadline_usec = usec_add(now, STORE_BUDGET_USEC + s->budgets.window);
                if (step->op == SEQ_DO_EXCLUDE) /* has a deadline of its own, before this one */
                        s->deadline_usec = usec_add(s->deadline_usec, s->budgets.post_snapshot);
                sequence_push(s, (SequenceAction) { .type = step->op });
                break;
        case STEP_WINDOW:
                s->waiting = true;
                s->deadline_usec = usec_add(now, s->budgets.window + s->budgets.pre_flush);
                sequence_push(s, (SequenceAction) { .type = SEQ_DO_ASK_WINDOW });
                break;
        case STEP_THAW:
                begin_thaw(s, step, now);
                break;
        case STEP_THAWED:
                s->deadline_usec = usec_add(now, s->budgets.thaw);
                break;
        case STEP_ABORT_PROVIDERS:
                for (unsigned i = 0; i < s->n_providers; i++)
                        provider_abort(s, i, now);
                break;
        case STEP_ABORT_WRITERS:
                begin_abort_writers(s, now);
                break;
        case STEP_END:
                finish(s, step->op == 1);
                break;
        }
}

void step_advance(Sequence *s, uint64_t now) {
        while (!s->finished && step_is_over(s)) {
                if (step_now(s)->kind == STEP_THAWED)
                        s->thawed_usec = now;
                if (step_now(s)->kind == STEP_THAWED && s->window_open) {
                        s->window_open = false;
                        sequence_push(s, (SequenceAction) { .type = SEQ_DO_CLOSE_WINDOW });
                }
                s->step++;
                step_begin(s, now);
        }
}
