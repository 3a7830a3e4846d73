/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sequence machine against a world that answers in any order, refuses, dies, hangs and cancels. The world knows
 * nothing of the machine's state: it looks only at the actions and checks the guarantees S1 to S7 of daemon/sequence.h
 * from outside.
 */
#include "daemon/sequence.h"
#include <check.h>
#include <stdio.h>

enum { WRITERS = 4, PROVIDERS = 2, PENDING_MAX = 64 };

typedef struct Pending {
        SequenceActionType type; /* writer, provider, guard, store, window */
        unsigned index, op;
} Pending;

typedef struct World {
        Sequence s;
        SequenceWriter writers[WRITERS];
        SequenceProvider providers[PROVIDERS];
        Pending pending[PENDING_MAX];
        unsigned n_pending, n_steps;
        uint64_t now;
        bool holding, held, hold_failed, committed, released, finished, created, rescuing, guard_dead;
        bool freeze_sent[WRITERS], resumed[WRITERS], prepared[WRITERS], ended[WRITERS], lost[WRITERS], dropped[WRITERS];
        unsigned n_ended[WRITERS], n_abort[PROVIDERS];
        bool begun[PROVIDERS];
        bool gated[PROVIDERS]; /* told to hold; neither let go nor killed */
        bool anything_failed;
        unsigned freeze_order[WRITERS], n_frozen, thaw_order[WRITERS], n_thawed;
        uint32_t seed;
} World;

static uint32_t rnd(World *w, uint32_t n) {
        w->seed = w->seed * 1664525u + 1013904223u;
        return (w->seed >> 8) % n;
}

static void drop_pending(World *w, SequenceActionType type, unsigned index) {
        for (unsigned i = 0; i < w->n_pending; i++)
                if (w->pending[i].type == type && w->pending[i].index == index)
                        w->pending[i--] = w->pending[--w->n_pending];
}

static void add_pending(World *w, SequenceActionType type, unsigned index, unsigned op) {
        ck_assert_uint_lt(w->n_pending, PENDING_MAX);
        w->pending[w->n_pending++] = (Pending) { type, index, op };
}

static void see_writer(World *w, const SequenceAction *a) {
        unsigned i = a->index;

        ck_assert_msg(!(w->holding && !w->released), "S3: writer %u called while held", i);
        for (unsigned k = 0; k < PROVIDERS; k++)
                ck_assert_msg(!w->gated[k], "S3: writer %u called while gate %u is closed", i, k);
        ck_assert_uint_ne(a->deadline_usec, USEC_INFINITY);
        ck_assert_msg(!w->ended[i], "writer %u called after its last word", i);
        drop_pending(w, SEQ_DO_WRITER, i); /* an overtaken call is never answered */
        switch ((WriterEvent) a->op) {
        case EVENT_PREPARE_BACKUP:
                w->prepared[i] = true;
                break;
        case EVENT_FREEZE:
                ck_assert(!w->freeze_sent[i]);
                w->freeze_sent[i] = true;
                w->freeze_order[w->n_frozen++] = i;
                break;
        case EVENT_THAW:
                ck_assert_msg(!w->holding || w->released, "S2: Thaw before the release");
                w->resumed[i] = true;
                w->thaw_order[w->n_thawed++] = i;
                break;
        case EVENT_ABORT:
        case EVENT_BACKUP_SHUTDOWN:
                w->resumed[i] = w->ended[i] = true;
                w->n_ended[i]++;
                break;
        default:
                break;
        }
        add_pending(w, SEQ_DO_WRITER, i, a->op);
}

static void see_provider(World *w, const SequenceAction *a) {
        if (a->op == SEQ_BEGIN_PREPARE)
                w->begun[a->index] = true;
        if (a->op == SEQ_COMMIT) {
                ck_assert_msg(!w->s.has_guard || (w->held && !w->released), "S3: commit without a hold");
                w->committed = true;
        }
        if (a->op == SEQ_HOLD_BLOCKS) {
                ck_assert_msg(!w->s.has_guard || w->held, "a gate closes before every file system is held");
                w->gated[a->index] = true;
        }
        if (a->op == SEQ_ABORT) {
                ck_assert_msg(!w->gated[a->index], "S8: aborted while it holds");
                w->n_abort[a->index]++;
        }
        add_pending(w, SEQ_DO_PROVIDER, a->index, a->op);
}

static void see(World *w, const SequenceAction *a) {
        switch (a->type) {
        case SEQ_DO_WRITER:
                see_writer(w, a);
                break;
        case SEQ_DO_PROVIDER:
                see_provider(w, a);
                break;
        case SEQ_DO_KILL_PROVIDER:
                drop_pending(w, SEQ_DO_PROVIDER, a->index);
                w->gated[a->index] = false;
                break;
        case SEQ_DO_GUARD:
                if (a->op == SEQ_HOLD)
                        w->holding = true;
                for (unsigned i = 0; a->op == SEQ_RELEASE && i < PROVIDERS; i++)
                        ck_assert_msg(!w->gated[i], "S8: file systems are released while gate %u is closed", i);
                drop_pending(w, SEQ_DO_GUARD, 0);
                add_pending(w, SEQ_DO_GUARD, 0, a->op);
                break;
        case SEQ_DO_RESCUE:
                w->rescuing = true;
                drop_pending(w, SEQ_DO_GUARD, 0);
                break;
        case SEQ_DO_STORE_INTENT:
        case SEQ_DO_STORE_RESULT:
        case SEQ_DO_EXCLUDE:
        case SEQ_DO_ASK_WINDOW:
                add_pending(w, a->type, 0, 0);
                break;
        case SEQ_DO_DROP_WRITER:
                w->dropped[a->index] = true;
                break;
        case SEQ_DO_FINISH:
                w->finished = true;
                w->created = a->op == 1;
                break;
        case SEQ_DO_PHASE:
        case SEQ_DO_CLOSE_WINDOW:
                break;
        }
}

static void feed(World *w, SequenceEvent e) {
        SequenceAction a;

        e.now_usec = w->now;
        if (e.type == SEQ_EVENT_PROVIDER_LOST)
                w->gated[e.index] = false;
        sequence_feed(&w->s, &e);
        while (sequence_next(&w->s, &a))
                see(w, &a);
        for (unsigned i = 0; i < PROVIDERS; i++)
                ck_assert_msg(!w->gated[i] || sequence_in_hold(&w->s), "gate %u is closed and the bus is on", i);
}

static void answer(World *w, unsigned which, Outcome outcome) {
        Pending p = w->pending[which];
        SequenceEvent e = { .index = p.index, .op = p.op, .outcome = outcome };

        w->pending[which] = w->pending[--w->n_pending];
        if (outcome != OUTCOME_OK)
                w->anything_failed = true;
        switch (p.type) {
        case SEQ_DO_WRITER:
                e.type = SEQ_EVENT_WRITER;
                if (outcome == OUTCOME_DIED)
                        w->lost[p.index] = true;
                break;
        case SEQ_DO_PROVIDER:
                e.type = SEQ_EVENT_PROVIDER;
                if (outcome == OUTCOME_DIED || (p.op == SEQ_RELEASE_BLOCKS && outcome == OUTCOME_OK))
                        w->gated[p.index] = false;
                break;
        case SEQ_DO_GUARD:
                e.type = SEQ_EVENT_GUARD;
                if (p.op == SEQ_HOLD) {
                        w->held = outcome == OUTCOME_OK;
                        w->released = !w->held; /* a failed hold is undone by the guard */
                }
                if (p.op == SEQ_RELEASE)
                        w->released = true;
                break;
        default:
                e.type = p.type == SEQ_DO_ASK_WINDOW ? SEQ_EVENT_WINDOW : SEQ_EVENT_STORED;
        }
        feed(w, e);
}

static void fire_timer(World *w) {
        uint64_t deadline = sequence_deadline(&w->s);

        ck_assert_uint_ne(deadline, USEC_INFINITY);
        w->now = w->now > deadline ? w->now : deadline;
        feed(w, (SequenceEvent) { .type = SEQ_EVENT_TIMER });
        w->anything_failed |= w->s.failed; /* impatience in Thaw is no failure yet */
}

static void world_init(World *w, uint32_t seed, bool guard, bool degrade) {
        static const SequenceBudgets budgets = {
                .prepare_backup = 3600 * USEC_PER_SEC,
                .provider = 60 * USEC_PER_SEC,
                .provider_step = 2 * USEC_PER_SEC,
                .prepare_snapshot = 60 * USEC_PER_SEC,
                .pre_flush = 10 * USEC_PER_SEC,
                .freeze = 60 * USEC_PER_SEC,
                .hold = 10 * USEC_PER_SEC,
                .thaw = 10 * USEC_PER_SEC,
                .post_snapshot = 600 * USEC_PER_SEC,
                .abort = 10 * USEC_PER_SEC,
                .window = 60 * USEC_PER_SEC,
        };

        *w = (World) { .seed = seed, .now = 1000000 };
        for (unsigned i = 0; i < PROVIDERS; i++)
                w->providers[i].holds = seed >> (2 + i) & 1 || seed == 1;
        w->writers[0].level = LEVEL_BACK_END;
        w->writers[1].level = LEVEL_FRONT_END;
        w->writers[2].level = LEVEL_SYSTEM;
        w->writers[3].level = LEVEL_FRONT_END;
        ck_assert_int_eq(sequence_init(&w->s, w->writers, WRITERS, w->providers, PROVIDERS, &budgets, guard, degrade),
                         0);
        feed(w, (SequenceEvent) { .type = SEQ_EVENT_START });
}

static void check_end(World *w) {
        ck_assert(w->finished);
        for (unsigned i = 0; i < WRITERS; i++) {
                bool gone = w->lost[i];
                ck_assert_msg(!w->freeze_sent[i] || w->resumed[i] || gone, "S1: writer %u was left frozen", i);
                ck_assert_msg(w->created || !w->prepared[i] || w->n_ended[i] == 1 || gone,
                              "S7: writer %u: %u last words", i, w->n_ended[i]);
        }
        ck_assert_msg(!w->holding || w->released, "S2: left held");
        for (unsigned i = 0; i < PROVIDERS; i++)
                ck_assert_msg(!w->gated[i], "S8: gate %u left closed", i);
        for (unsigned i = 0; i < PROVIDERS; i++)
                ck_assert_msg(w->created || !w->begun[i] || w->n_abort[i] >= 1, "S5: provider %u not asked to abort",
                              i);
        if (!w->s.degrade)
                ck_assert_msg(w->created == !w->anything_failed || !w->created,
                              "S4: created although something failed");
        if (!w->created)
                ck_assert_int_ne(sequence_cause(&w->s)->condition, CONDITION_NONE);
        sequence_done(&w->s);
}

/* The whole sequence; the k-th answer gets outcome bad, the rest are good. Returns how many answers there were. */
static unsigned run_with_failure(World *w, unsigned k, Outcome bad, Pending *ret_failed) {
        unsigned n = 0;

        while (!w->finished) {
                w->now += 100;
                if (w->rescuing) {
                        w->rescuing = false;
                        w->released = true;
                        feed(w, (SequenceEvent) { .type = SEQ_EVENT_GUARD_GONE });
                        continue;
                }
                if (w->n_pending == 0 || (n == k && bad == OUTCOME_TIMEOUT)) {
                        if (n == k)
                                *ret_failed = w->pending[0];
                        n += n == k;
                        fire_timer(w);
                        continue;
                }
                if (n == k)
                        *ret_failed = w->pending[0];
                answer(w, 0, n++ == k ? bad : OUTCOME_OK);
                ck_assert_uint_lt(n, 1000);
        }
        return n;
}

START_TEST(nothing_fails) {
        World w;
        Pending failed;

        world_init(&w, 1, true, false);
        (void) run_with_failure(&w, UINT32_MAX, OUTCOME_OK, &failed);
        ck_assert(w.created);
        ck_assert(w.released);
        ck_assert_uint_eq(w.n_frozen, WRITERS);
        ck_assert_uint_eq(w.n_thawed, WRITERS);
        /* front-end, front-end, back-end, system; and back */
        ck_assert_int_eq(w.writers[w.freeze_order[0]].level, LEVEL_FRONT_END);
        ck_assert_int_eq(w.writers[w.freeze_order[1]].level, LEVEL_FRONT_END);
        ck_assert_int_eq(w.writers[w.freeze_order[2]].level, LEVEL_BACK_END);
        ck_assert_int_eq(w.writers[w.freeze_order[3]].level, LEVEL_SYSTEM);
        ck_assert_int_eq(w.writers[w.thaw_order[0]].level, LEVEL_SYSTEM);
        ck_assert_int_eq(w.writers[w.thaw_order[1]].level, LEVEL_BACK_END);
        ck_assert_int_eq(w.writers[w.thaw_order[3]].level, LEVEL_FRONT_END);
        check_end(&w);
}
END_TEST

/* n = 1, 2, 3 … until the whole sequence passes: every single failure point, three ways, with and without guard. */
START_TEST(every_single_failure) {
        static const Outcome bad[] = { OUTCOME_FAILED, OUTCOME_DIED, OUTCOME_TIMEOUT };
        unsigned n = 0, aborted = 0;

        for (unsigned guard = 0; guard < 2; guard++)
                for (size_t b = 0; b < ELEMENTSOF(bad); b++)
                        for (unsigned k = 0;; k++) {
                                Pending failed = { 0 };
                                World w;
                                world_init(&w, 1, guard, false);
                                unsigned total = run_with_failure(&w, k, bad[b], &failed);
                                bool hit = w.anything_failed;
                                bool created = w.created;
                                check_end(&w);
                                if (k >= total) {
                                        ck_assert(created && !hit);
                                        break;
                                }
                                if (bad[b] == OUTCOME_TIMEOUT && failed.type == SEQ_DO_WRITER &&
                                    failed.op == EVENT_THAW)
                                        continue; /* late by more than patience, but within its clock */
                                ck_assert_msg(!created, "created although call %u of type %d op %u went wrong", k,
                                              failed.type, failed.op);
                                n++;
                                aborted += !created;
                        }
        ck_assert_uint_gt(n, 150);
        ck_assert_uint_eq(n, aborted);
}
END_TEST

/* Its rescue thaws, so no gate may be closed then; what else happens meanwhile is up to the next events. */
static void lose_guard(World *w) {
        bool held = w->held && !w->released;

        feed(w, (SequenceEvent) { .type = SEQ_EVENT_GUARD_LOST });
        for (unsigned i = 0; held && i < PROVIDERS; i++)
                ck_assert_msg(!w->gated[i], "S8: a rescue begins while gate %u is closed", i);
        w->rescuing = true;
}

static void random_event(World *w, unsigned percent_bad) {
        static const Outcome bad[] = { OUTCOME_FAILED, OUTCOME_DIED, OUTCOME_TIMEOUT };
        bool fail = rnd(w, 1000) < percent_bad;
        unsigned kind = rnd(w, 100);

        w->now += rnd(w, 50000);
        if (w->rescuing) {
                w->rescuing = false;
                w->released = true;
                feed(w, (SequenceEvent) { .type = SEQ_EVENT_GUARD_GONE });
        } else if (fail && kind < 15)
                feed(w, (SequenceEvent) { .type = SEQ_EVENT_CANCEL, .forced = rnd(w, 2) });
        else if (fail && kind < 30 && !(w->holding && !w->released)) {
                unsigned i = rnd(w, WRITERS);
                w->lost[i] = true;
                drop_pending(w, SEQ_DO_WRITER, i);
                feed(w, (SequenceEvent) { .type = SEQ_EVENT_WRITER_LOST, .index = i });
        } else if (fail && kind < 45) {
                unsigned i = rnd(w, PROVIDERS);
                drop_pending(w, SEQ_DO_PROVIDER, i);
                feed(w, (SequenceEvent) { .type = SEQ_EVENT_PROVIDER_LOST, .index = i });
        } else if (fail && kind < 55 && w->s.has_guard && !w->guard_dead) {
                w->guard_dead = true;
                drop_pending(w, SEQ_DO_GUARD, 0);
                lose_guard(w);
        } else if (fail && kind < 60 && w->holding && !w->released) {
                w->released = true;
                drop_pending(w, SEQ_DO_GUARD, 0);
                feed(w,
                     (SequenceEvent) {
                             .type = SEQ_EVENT_GUARD, .op = SEQ_RELEASE, .outcome = OUTCOME_FAILED, .forced = true });
        } else if (w->n_pending == 0 || (fail && kind < 75))
                fire_timer(w);
        else
                answer(w, rnd(w, w->n_pending), fail ? bad[rnd(w, 3)] : OUTCOME_OK);
}

/* Any order, any mixture; the seed of a failure is printed. */
START_TEST(random_worlds) {
        unsigned created = 0, runs = 50000;

        for (uint32_t seed = 1; seed <= runs; seed++) {
                World w;
                world_init(&w, seed, seed & 1, seed & 2);
                for (w.n_steps = 0; !w.finished; w.n_steps++) {
                        ck_assert_msg(w.n_steps < 3000, "seed %u does not end", seed);
                        random_event(&w, 1 + seed % 200);
                }
                created += w.created;
                check_end(&w);
        }
        fprintf(stderr, "%u worlds, %u sets created, %u aborted\n", runs, created, runs - created);
        ck_assert_uint_gt(created, runs / 100);
        ck_assert_uint_gt(runs - created, runs / 2);
}
END_TEST

/* The earliest freeze clock bounds everything that follows it. */
START_TEST(smallest_clock_is_the_deadline) {
        World w;

        world_init(&w, 1, true, false);
        w.writers[1].freeze_timeout_usec = 5 * USEC_PER_SEC;
        while (w.s.freeze_begin_usec == 0)
                answer(&w, 0, OUTCOME_OK);
        ck_assert_uint_eq(w.writers[1].thaw_by_usec, w.now + 5 * USEC_PER_SEC);
        ck_assert_uint_eq(w.writers[3].thaw_by_usec, w.now + 60 * USEC_PER_SEC);
        ck_assert_uint_eq(sequence_deadline(&w.s), w.now + 3 * USEC_PER_SEC);
        while (!w.holding)
                answer(&w, 0, OUTCOME_OK);
        ck_assert_uint_eq(w.s.hold_deadline_usec, w.now + 5 * USEC_PER_SEC - 500 * USEC_PER_MSEC);
        sequence_done(&w.s);
}
END_TEST

START_TEST(cancel_is_refused_once_commit_was_sent) {
        World w;

        world_init(&w, 1, true, false);
        while (!w.committed) {
                ck_assert(sequence_may_cancel(&w.s));
                answer(&w, 0, OUTCOME_OK);
        }
        ck_assert(!sequence_may_cancel(&w.s));
        feed(&w, (SequenceEvent) { .type = SEQ_EVENT_CANCEL });
        while (!w.finished)
                answer(&w, 0, OUTCOME_OK);
        ck_assert(w.created);
        check_end(&w);
}
END_TEST

int main(void) {
        Suite *s = suite_create("sequence");
        TCase *t = tcase_create("machine");
        SRunner *r;
        int failed;

        tcase_set_timeout(t, 120);
        tcase_add_test(t, nothing_fails);
        tcase_add_test(t, every_single_failure);
        tcase_add_test(t, random_worlds);
        tcase_add_test(t, smallest_clock_is_the_deadline);
        tcase_add_test(t, cancel_is_refused_once_commit_was_sent);
        suite_add_tcase(s, t);
        r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? 1 : 0;
}
