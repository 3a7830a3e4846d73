/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Power cuts and deaths of the copy-on-write engine. Seeds make runs (sim-world.h), and between any two steps of the
 * disk a run can be cut off: the crash state is opened with a new engine, all that must be there is looked for and
 * read, and the run goes on as if nothing had been. In the end there is one line with what was seen.
 *
 *   crash-cow                    fixed seeds: what CI does
 *   crash-cow --seed=N           only this one, with a trace if it fails (--trace: in any case)
 *   crash-cow --states=N         more crash states; --minutes=N: for so long; --from=N: seeds from N on
 *   crash-cow --exhaustive=N     all sequences of N operations, and nothing else
 */
#include "tests/sim-world.h"
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#ifdef __SANITIZE_ADDRESS__
enum { CI_STATES = 20000 };
#else
enum { CI_STATES = 100000 };
#endif

enum { STEPS = 1200, STATE_IN = 12, WORDS = 8 };

typedef struct Totals {
        uint64_t runs, states, recoveries, blocks_read, made, failures;
} Totals;

static uint64_t seed_now;
static const char *what_now = "seed";

/* An assertion of the core ends the process: say where we were. */
static void say_where(int signal_number) {
        char text[128];
        int n = snprintf(text, sizeof(text), "%s %" PRIu64 ": signal %d\n", what_now, seed_now, signal_number);
        if (n > 0)
                (void) !write(STDERR_FILENO, text, (size_t) n);
        (void) signal(signal_number, SIG_DFL);
        (void) raise(signal_number);
}

static void totals_add(Totals *t, const World *w) {
        t->runs++;
        t->states += w->states;
        t->recoveries += w->recoveries;
        t->blocks_read += w->blocks_read;
        t->made += w->made;
        t->failures += w->failed;
}

static bool run_seed(uint64_t seed, bool trace, Totals *t) {
        WorldOptions o = {
                .seed = seed, .steps = STEPS, .state_in = STATE_IN, .features = FEATURE_ALL, .trace = trace
        };
        if (seed % 4 == 1)
                o.features &= ~(unsigned) (FEATURE_CUTS | FEATURE_KILLS | FEATURE_STOPS); /* one life, long */
        if (seed % 4 == 2)
                o.features &= ~(unsigned) FEATURE_VOLUMES;
        o.roomy = seed % 8 == 3;
        o.tiny = seed % 8 == 7;
        o.upkeep = seed % 16 == 7;
        o.accidents = seed % 16 == 11 ? 20 : 1;
        seed_now = seed;
        (void) alarm(60);
        World *w = world_new(&o);
        bool good = world_run(w);
        if (!good && !trace)
                fprintf(stderr, "seed %" PRIu64 ", step %" PRIu64 ": %s\n", seed, w->boundary, w->message);
        totals_add(t, w);
        world_free(w);
        (void) alarm(0);
        return good;
}

/* --- all short sequences ------------------------------------------------------------------------------------------ */

typedef enum Word { WRITE_A, WRITE_B, WRITE_OVER, SNAPSHOT, DELETE, FLUSH, CHECKPOINT, COLLECT } Word;

static void say_write(World *w, uint64_t sector, uint32_t sectors) {
        SimOp *op = op_take(w, OP_WRITE);
        if (!op)
                return;
        op->volume = 0;
        data_begin(w, op, sector * SIM_SECTOR, sectors * SIM_SECTOR, false);
}

static void say_delete(World *w) {
        for (unsigned i = 0; i < w->n_snaps; i++)
                if (w->snaps[i].state == SNAP_MADE) {
                        delete_begin(w, i);
                        return;
                }
}

static void say(World *w, Word word) {
        SimOp *op;
        switch (word) {
        case WRITE_A:
                say_write(w, 0, 8);
                break;
        case WRITE_B:
                say_write(w, 24, 16);
                break;
        case WRITE_OVER: /* the end of a, all between, the beginning of b */
                say_write(w, 5, 22);
                break;
        case SNAPSHOT:
                world_snapshot(w);
                break;
        case DELETE:
                say_delete(w);
                break;
        case FLUSH:
                op = op_take(w, OP_FLUSH);
                op->volume = 0;
                data_begin(w, op, 0, 0, false);
                break;
        default:
                store_begin(w, word == CHECKPOINT ? OP_CHECKPOINT : OP_COLLECT);
        }
}

/* number names the sequence in base 8, and in its last bit whether one operation ends before the next begins. */
static bool run_sequence(uint64_t number, unsigned length, bool trace, Totals *t) {
        WorldOptions o = {
                .seed = number, .state_in = 1, .volumes = 1, .volume_blocks = 8, .roomy = true, .trace = trace
        };
        World *w = world_new(&o);
        bool together = number & 1;
        uint64_t rest = number >> 1;
        seed_now = number;
        (void) alarm(60);
        w->options.state_in = 0;
        if (world_make(w)) {
                world_snapshot(w);
                w->options.state_in = 1;
                for (unsigned i = 0; i < length && !w->failed; i++, rest /= WORDS) {
                        say(w, (Word) (rest % WORDS));
                        if (!together)
                                world_drain(w);
                }
                (void) world_end(w);
        }
        bool good = !w->failed;
        if (!good && !trace)
                fprintf(stderr, "sequence %" PRIu64 ", step %" PRIu64 ": %s\n", number, w->boundary, w->message);
        totals_add(t, w);
        world_free(w);
        (void) alarm(0);
        return good;
}

static bool run_exhaustive(unsigned length, Totals *t) {
        uint64_t n = 2;
        for (unsigned i = 0; i < length; i++)
                n *= WORDS;
        what_now = "sequence";
        for (uint64_t i = 0; i < n; i++)
                if (!run_sequence(i, length, false, t)) {
                        (void) run_sequence(i, length, true, t);
                        return false;
                }
        return true;
}

/* --- all together ------------------------------------------------------------------------------------------------- */

typedef struct Wish {
        uint64_t seed, from, states;
        unsigned minutes, exhaustive;
        bool one, trace;
} Wish;

static bool wish_parse(int argc, char **argv, Wish *wish) {
        static const struct option options[] = {
                { "seed", required_argument, NULL, 's' },
                { "from", required_argument, NULL, 'f' },
                { "states", required_argument, NULL, 'n' },
                { "minutes", required_argument, NULL, 'm' },
                { "trace", no_argument, NULL, 't' },
                { "exhaustive", required_argument, NULL, 'e' },
                { 0 },
        };
        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
                uint64_t n = optarg ? strtoull(optarg, NULL, 10) : 0;
                switch (c) {
                case 's':
                        wish->seed = n;
                        wish->one = true;
                        break;
                case 'f':
                        wish->from = n;
                        break;
                case 'n':
                        wish->states = n;
                        break;
                case 'm':
                        wish->minutes = (unsigned) n;
                        break;
                case 't':
                        wish->trace = true;
                        break;
                case 'e':
                        wish->exhaustive = (unsigned) n;
                        break;
                default:
                        return false;
                }
        }
        return optind == argc;
}

static void totals_print(const char *what, const Totals *t, uint64_t begun) {
        printf("%s: %" PRIu64 " runs, %" PRIu64 " crash states, %" PRIu64 " recoveries in runs, %" PRIu64
               " snapshots made, %" PRIu64 " of their blocks compared, %" PRIu64 " wrong, %.1f s\n",
               what, t->runs, t->states, t->recoveries, t->made, t->blocks_read, t->failures,
               (double) (now_usec() - begun) / USEC_PER_SEC);
        (void) fflush(stdout);
}

static bool run_seeds(const Wish *wish, Totals *t) {
        uint64_t end = usec_add(now_usec(), wish->minutes ? wish->minutes * 60 * USEC_PER_SEC : USEC_INFINITY);
        uint64_t seed = wish->from;
        for (; t->states < wish->states && now_usec() < end; seed++)
                if (!run_seed(seed, wish->trace, t)) {
                        (void) run_seed(seed, true, t);
                        return false;
                }
        printf("seeds %" PRIu64 " to %" PRIu64 "\n", wish->from, seed - 1);
        return true;
}

int main(int argc, char **argv) {
        Wish wish = { .states = CI_STATES };
        Totals seeds = { 0 }, sequences = { 0 };
        uint64_t begun = now_usec();
        bool good;

        if (!wish_parse(argc, argv, &wish))
                return 2;
        if (wish.minutes)
                wish.states = UINT64_MAX;
        (void) signal(SIGABRT, say_where);
        (void) signal(SIGALRM, say_where);
        (void) signal(SIGSEGV, say_where);
        if (wish.one) {
                good = run_seed(wish.seed, wish.trace, &seeds) || (!wish.trace && run_seed(wish.seed, true, &seeds));
                totals_print("this seed", &seeds, begun);
                return good ? 0 : 1;
        }
        good = run_exhaustive(wish.exhaustive ?: 3, &sequences);
        totals_print("all short sequences", &sequences, begun);
        if (good && !wish.exhaustive) {
                begun = now_usec();
                what_now = "seed";
                good = run_seeds(&wish, &seeds);
                totals_print("random runs", &seeds, begun);
        }
        return good ? 0 : 1;
}
