/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an event means to the machine, and the ring of actions it leaves behind. The steps themselves: sequence-step.c.
 */
#include "daemon/sequence-private.h"

int sequence_init(Sequence *s, SequenceWriter *writers, unsigned n_writers, SequenceProvider *providers,
                  unsigned n_providers, const SequenceBudgets *budgets, bool has_guard, bool degrade) {
        /* Between two drains every actor is asked for at most: kill, abort, one call, one drop. */
        unsigned size = 4 * (n_writers + n_providers) + 32;
        SequenceAction *actions = calloc(size, sizeof *actions);

        if (!actions)
                return -ENOMEM;
        *s = (Sequence) {
                .budgets = *budgets,
                .degrade = degrade,
                .has_guard = has_guard,
                .writers = writers,
                .n_writers = n_writers,
                .providers = providers,
                .n_providers = n_providers,
                .deadline_usec = USEC_INFINITY,
                .hold_deadline_usec = USEC_INFINITY,
                .window_deadline_usec = USEC_INFINITY,
                .thaw_by_usec = USEC_INFINITY,
                .actions = actions,
                .size = size,
        };
        for (unsigned i = 0; i < n_writers; i++)
                writers[i] = (SequenceWriter) {
                        .level = writers[i].level,
                        .freeze_timeout_usec = writers[i].freeze_timeout_usec,
                        .required = writers[i].required,
                        .thaw_by_usec = USEC_INFINITY,
                };
        for (unsigned i = 0; i < n_providers; i++)
                providers[i] = (SequenceProvider) { .holds = providers[i].holds };
        return 0;
}

void sequence_done(Sequence *s) {
        free(s->actions);
        s->actions = NULL;
}

void sequence_push(Sequence *s, SequenceAction a) {
        assert((s->tail + 1) % s->size != s->head);
        s->actions[s->tail] = a;
        s->tail = (s->tail + 1) % s->size;
}

bool sequence_next(Sequence *s, SequenceAction *ret) {
        if (s->head == s->tail)
                return false;
        *ret = s->actions[s->head];
        s->head = (s->head + 1) % s->size;
        return true;
}

/*
 * Whoever is still being waited for in the forward step is let go: a writer gets Abort at once (writer.c lets it
 * overtake the unanswered call), unless it is being thawed already; a provider inside the commit keeps its deadline,
 * because a killed ioctl may still complete, any other is killed and aborted from a fresh process.
 */
void sequence_fail(Sequence *s, uint64_t now, SequenceActor actor, unsigned index, const Failure *failure,
                   Condition condition) {
        if (s->failed || s->finished)
                return;
        s->failed = true;
        s->cause_actor = actor;
        s->cause_index = index;
        s->cause_phase = step_now(s)->phase;
        if (failure && failure->condition != CONDITION_NONE)
                s->cause = *failure;
        else
                s->cause = (Failure) { .condition = condition, .retryable = condition_retryable(condition) };
        s->waiting = false;
        if (!s->hold_sent)
                s->guard_outstanding = false; /* nobody needs the end of a flush any more */
        for (unsigned i = 0; i < s->n_providers; i++)
                if (s->providers[i].outstanding &&
                    (s->providers[i].call < SEQ_PRE_COMMIT || s->providers[i].call > SEQ_POST_COMMIT))
                        provider_kill(s, i);
        s->unwinding = true;
        s->step = 0;
        step_begin(s, now);
        if (sequence_in_hold(s))
                return; /* writers are called after the release: S3 */
        for (unsigned i = 0; i < s->n_writers; i++)
                if (s->writers[i].outstanding && s->writers[i].call != EVENT_THAW)
                        writer_end(s, i, now, true);
}

static Condition outcome_condition(Outcome outcome, Condition failed, Condition died) {
        switch (outcome) {
        case OUTCOME_TIMEOUT:
                return CONDITION_DEADLINE_PASSED;
        case OUTCOME_DIED:
                return died;
        case OUTCOME_CANCELLED:
                return CONDITION_CANCELLED;
        default:
                return failed;
        }
}

/* A writer that said no, died, hung or resumed too late: fails the set, or only loses its place in it. */
static void writer_failed(Sequence *s, unsigned i, uint64_t now, Outcome outcome, const Failure *failure) {
        SequenceWriter *w = &s->writers[i];
        Condition c = outcome_condition(outcome, CONDITION_VETOED, CONDITION_WRITER_LOST);
        Failure f = failure && failure->condition != CONDITION_NONE ?
                            *failure :
                            (Failure) { .condition = c, .retryable = condition_retryable(c) };

        if (w->failure.condition == CONDITION_NONE)
                w->failure = f;
        if (outcome == OUTCOME_TIMEOUT)
                w->silent = true;
        if (outcome == OUTCOME_DIED)
                w->lost = true;
        if (s->unwinding || w->dropped)
                return;
        if (s->degrade && !w->required) {
                w->dropped = true;
                sequence_push(s, (SequenceAction) { .type = SEQ_DO_DROP_WRITER, .index = i });
                writer_end(s, i, now, false);
                return;
        }
        if (w->silent)
                writer_end(s, i, now, false);
        sequence_fail(s, now, SEQ_ACTOR_WRITER, i, &f, f.condition);
}

static void on_writer(Sequence *s, const SequenceEvent *e) {
        SequenceWriter *w = &s->writers[e->index];
        bool late;

        if (!w->outstanding || w->call != e->op)
                return; /* the answer to a call that was overtaken */
        writer_settled(s, e->index);
        if (e->op == EVENT_FREEZE && e->outcome == OUTCOME_FAILED)
                w->frozen = false; /* it said no: nothing to thaw */
        if (e->op == EVENT_THAW)
                w->thaw_answered_usec = e->now_usec;
        late = e->op == EVENT_THAW && e->outcome == OUTCOME_OK && e->now_usec > w->thaw_by_usec;
        if (late)
                writer_failed(s, e->index, e->now_usec, OUTCOME_TIMEOUT, NULL);
        else if (e->outcome != OUTCOME_OK)
                writer_failed(s, e->index, e->now_usec, e->outcome, e->failure);
}

static void on_writer_lost(Sequence *s, const SequenceEvent *e) {
        SequenceWriter *w = &s->writers[e->index];

        if (w->lost)
                return;
        if (w->outstanding) {
                writer_settled(s, e->index);
                writer_failed(s, e->index, e->now_usec, OUTCOME_DIED, e->failure);
                return;
        }
        w->lost = true;
        if (!w->post_snapshot) /* one that has answered PostSnapshot owes this set nothing more */
                writer_failed(s, e->index, e->now_usec, OUTCOME_DIED, e->failure);
}

static void on_provider(Sequence *s, const SequenceEvent *e) {
        SequenceProvider *p = &s->providers[e->index];

        if (e->type == SEQ_EVENT_PROVIDER_LOST && !p->dead) {
                bool was_outstanding = p->outstanding;
                p->dead = true;
                p->gated = false;
                provider_settled(s, e->index);
                if (was_outstanding || !s->unwinding)
                        sequence_fail(s, e->now_usec, SEQ_ACTOR_PROVIDER, e->index, e->failure,
                                      CONDITION_PROVIDER_LOST);
        } else if (e->type == SEQ_EVENT_PROVIDER) {
                if (!p->outstanding || p->call != e->op)
                        return;
                provider_settled(s, e->index);
                if (e->outcome == OUTCOME_DIED)
                        p->dead = true;
                if (p->dead || (e->op == SEQ_RELEASE_BLOCKS && e->outcome == OUTCOME_OK))
                        p->gated = false;
                if (e->outcome != OUTCOME_OK)
                        sequence_fail(s, e->now_usec, SEQ_ACTOR_PROVIDER, e->index, e->failure,
                                      outcome_condition(e->outcome, CONDITION_PROVIDER_FAILED,
                                                        CONDITION_PROVIDER_LOST));
        }
        if (s->unwinding && s->step > 0)
                provider_abort(s, e->index, e->now_usec);
}

static void on_guard(Sequence *s, const SequenceEvent *e) {
        bool asked = s->guard_outstanding && s->guard_op == e->op;

        if (e->op == SEQ_RELEASE)
                s->released = true;
        if (e->op == SEQ_HOLD && e->outcome != OUTCOME_OK)
                s->released = true; /* the guard undoes a hold that failed before it answers */
        if (asked || s->released)
                s->guard_outstanding = false;
        if (e->forced) {
                s->forced = true;
                sequence_fail(s, e->now_usec, SEQ_ACTOR_GUARD, 0, e->failure, CONDITION_HOLD_EXPIRED);
        } else if (e->outcome != OUTCOME_OK)
                sequence_fail(s, e->now_usec, SEQ_ACTOR_GUARD, 0, e->failure,
                              outcome_condition(e->outcome, CONDITION_FAILED, CONDITION_HOLD_EXPIRED));
}

/*
 * Its rescue begins: that is a FITHAW, in which vssd would stand behind a gate that is closed. Why the set fails is
 * known when the rescue has ended.
 */
static void on_guard_lost(Sequence *s) {
        if (s->guard_gone || s->released)
                return;
        s->rescuing = true;
        open_gates(s);
}

static void on_guard_gone(Sequence *s, const SequenceEvent *e) {
        bool in_hold = s->hold_sent && !s->released;
        bool needed = !s->unwinding && (!s->hold_sent || !s->released);

        s->guard_gone = true;
        s->released = true;
        s->guard_outstanding = false;
        s->rescuing = false;
        if (in_hold)
                s->forced = true;
        if (needed)
                sequence_fail(s, e->now_usec, SEQ_ACTOR_GUARD, 0, e->failure,
                              in_hold ? CONDITION_HOLD_EXPIRED : CONDITION_FAILED);
}

/* The armed deadline has come: whoever this step still waits for has failed. */
static void on_timer(Sequence *s, uint64_t now) {
        for (unsigned i = 0; i < s->n_providers; i++)
                if (s->providers[i].outstanding && now >= s->providers[i].deadline_usec) {
                        provider_kill(s, i);
                        sequence_fail(s, now, SEQ_ACTOR_PROVIDER, i, NULL, CONDITION_DEADLINE_PASSED);
                        if (s->unwinding && s->step > 0)
                                provider_abort(s, i, now);
                }
        if (now < s->deadline_usec)
                return;
        s->deadline_usec = USEC_INFINITY;
        if (step_now(s)->kind == STEP_THAW) {
                s->step++; /* patience is over, the next level must not wait for this one */
                step_begin(s, now);
                return;
        }
        if (step_now(s)->kind == STEP_GUARD && s->guard_outstanding) {
                s->rescuing = true;
                s->guard_outstanding = false;
                sequence_push(s, (SequenceAction) { .type = SEQ_DO_RESCUE });
                return;
        }
        for (unsigned i = 0; i < s->n_writers; i++)
                if (s->writers[i].outstanding) {
                        writer_settled(s, i);
                        writer_failed(s, i, now, OUTCOME_TIMEOUT, NULL);
                }
        if (s->waiting)
                sequence_fail(s, now, SEQ_ACTOR_NONE, 0, NULL,
                              step_now(s)->kind == STEP_WINDOW ? CONDITION_BUSY : CONDITION_DEADLINE_PASSED);
}

void sequence_feed(Sequence *s, const SequenceEvent *e) {
        if (s->finished)
                return;
        switch (e->type) {
        case SEQ_EVENT_START:
                assert(!s->started);
                s->started = true;
                step_begin(s, e->now_usec);
                break;
        case SEQ_EVENT_WRITER:
                on_writer(s, e);
                break;
        case SEQ_EVENT_WRITER_LOST:
                on_writer_lost(s, e);
                break;
        case SEQ_EVENT_PROVIDER:
        case SEQ_EVENT_PROVIDER_LOST:
                on_provider(s, e);
                break;
        case SEQ_EVENT_GUARD:
                on_guard(s, e);
                break;
        case SEQ_EVENT_GUARD_LOST:
                on_guard_lost(s);
                break;
        case SEQ_EVENT_GUARD_GONE:
                on_guard_gone(s, e);
                break;
        case SEQ_EVENT_STORED:
        case SEQ_EVENT_WINDOW:
                if (!s->waiting || (e->type == SEQ_EVENT_WINDOW) != (step_now(s)->kind == STEP_WINDOW)) {
                        if (e->type == SEQ_EVENT_WINDOW) /* granted too late: give it back */
                                sequence_push(s, (SequenceAction) { .type = SEQ_DO_CLOSE_WINDOW });
                        break;
                }
                s->waiting = false;
                s->window_open = s->window_open || e->type == SEQ_EVENT_WINDOW;
                if (e->outcome != OUTCOME_OK)
                        sequence_fail(s, e->now_usec, SEQ_ACTOR_NONE, 0, e->failure, CONDITION_FAILED);
                break;
        case SEQ_EVENT_TIMER:
                on_timer(s, e->now_usec);
                break;
        case SEQ_EVENT_CANCEL:
                if (e->forced || sequence_may_cancel(s))
                        sequence_fail(s, e->now_usec, SEQ_ACTOR_NONE, 0, e->failure, CONDITION_CANCELLED);
                break;
        }
        step_advance(s, e->now_usec);
        sequence_check(s);
}

uint64_t sequence_deadline(const Sequence *s) {
        uint64_t deadline = s->deadline_usec;

        if (s->finished)
                return USEC_INFINITY;
        for (unsigned i = 0; i < s->n_providers; i++)
                if (s->providers[i].outstanding)
                        deadline = MIN_OF(deadline, s->providers[i].deadline_usec);
        return deadline;
}

bool sequence_may_cancel(const Sequence *s) {
        return s->started && !s->finished && step_before(s, STEP_PROVIDERS, SEQ_COMMIT);
}

bool sequence_in_hold(const Sequence *s) {
        return s->hold_sent && !s->released && !s->finished;
}

bool sequence_in_window(const Sequence *s) {
        return s->window_open && s->freeze_begin_usec && !s->finished;
}

const Failure *sequence_cause(const Sequence *s) {
        return &s->cause;
}

void sequence_check(const Sequence *s) {
        unsigned writers = 0, providers = 0;

        for (unsigned i = 0; i < s->n_writers; i++) {
                const SequenceWriter *w = &s->writers[i];
                writers += w->outstanding;
                if (!s->finished)
                        continue;
                assert(!w->frozen || w->thawed || w->ended || w->lost);                  /* S1 */
                assert(s->created || !w->prepared || w->ended || w->lost || w->dropped); /* S7 */
        }
        for (unsigned i = 0; i < s->n_providers; i++) {
                providers += s->providers[i].outstanding;
                assert(!s->finished || s->created || !s->providers[i].begun || s->providers[i].aborted); /* S5 */
                assert((!s->finished && !s->unwinding) || !s->providers[i].gated);                       /* S8 */
        }
        assert(writers == s->writers_outstanding && providers == s->providers_outstanding);
        assert(!s->finished || !s->hold_sent || s->released);                        /* S2 */
        assert(!s->finished || s->created == !s->failed);                            /* S4 */
        assert(s->finished || s->rescuing || sequence_deadline(s) != USEC_INFINITY); /* S6 */
        (void) writers;
        (void) providers;
}
