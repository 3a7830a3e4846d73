/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulator that notices nothing proves nothing. The core is built once more with its ordering points (order.h) to be
 * taken out one at a time; for each of them runs are made until one fails: a wrong block, a snapshot that is gone, a
 * failed assertion, a hang. Each in a process of its own. An ordering point that nobody misses is either not needed or
 * not tested, and then this test fails.
 *
 *   crash-cow-mutations [--only=NAME] [--runs=N]
 */
#include "providers/cow/order.h"
#include "tests/sim-core.h"
#include "tests/sim-world.h"
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>

enum { RUNS_MAX = 2400, STEPS = 700, FOUND = 3 };

static const char *const names[ORDER_MAX] = {
#define X(name) #name,
        ORDER_POINTS(X)
#undef X
};

/* The answer of a child: how many runs it took, or 0. */
typedef struct Found {
        uint64_t runs, states;
        char message[200];
} Found;

static Found *found_now;
static uint64_t seed_now;

static void found_say(const char *message, uint64_t seed, uint64_t states) {
        found_now->runs = seed + 1;
        found_now->states = states;
        (void) snprintf(found_now->message, sizeof(found_now->message), "%.190s", message);
}

static void found_by_signal(int signal_number) {
        found_say(signal_number == SIGALRM ? "it does not end" :
                  signal_number == SIGABRT ? "an assertion failed" :
                                             "a bad address",
                  seed_now, 0);
        _exit(FOUND);
}

/* Dies again and again in the middle of a checkpoint, and every crash state of the next one is looked at. */
static void deaths_in_checkpoints(World *w) {
        if (!world_make(w))
                return;
        for (unsigned i = 0; i < 4 && !w->failed; i++) {
                world_snapshot(w);
                store_begin(w, OP_CHECKPOINT);
                for (unsigned k = sim_below(&w->random, 14); k > 0 && world_step(w); k--)
                        ;
                world_kill(w, sim_random(&w->random));
                if (!world_open(w))
                        return;
                w->options.state_in = 1;
                store_begin(w, OP_CHECKPOINT);
                world_drain(w);
                w->options.state_in = 0;
        }
}

static void child_end(World *w, uint64_t *states) {
        *states += w->states;
        if (w->failed) {
                found_say(w->message, seed_now, *states);
                _exit(FOUND);
        }
        world_free(w);
}

static void child_scenario(uint64_t seed, uint64_t *states) {
        WorldOptions o = { .seed = seed, .volumes = 1, .volume_blocks = 8, .roomy = true };
        seed_now = seed;
        (void) alarm(20);
        World *w = world_new(&o);
        deaths_in_checkpoints(w);
        child_end(w, states);
}

static void child_seed(uint64_t seed, uint64_t *states) {
        WorldOptions o = { .seed = seed, .steps = STEPS, .state_in = 8, .features = FEATURE_ALL };
        switch (seed % 4) {
        case 1: /* long lives */
                o.features &= ~(unsigned) (FEATURE_CUTS | FEATURE_KILLS | FEATURE_STOPS);
                break;
        case 2: /* nothing but data and snapshots, in one place */
                o.features &= ~(unsigned) (FEATURE_VOLUMES | FEATURE_SETS | FEATURE_DISCARD);
                o.volumes = 1;
                o.volume_blocks = 8;
                break;
        case 3: /* in a store that is full */
                o.tiny = true;
                o.volume_blocks = 8 + (unsigned) (seed / 4 % 8);
                o.upkeep = seed % 8 == 3;
                o.features &= ~(unsigned) FEATURE_FREE; /* a full store takes no maps, and asking takes the time */
                break;
        default:
                break;
        }
        seed_now = seed;
        (void) alarm(20);
        World *w = world_new(&o);
        (void) world_run(w);
        child_end(w, states);
}

static void child_run(int point, uint64_t runs) {
        uint64_t states = 0;
        order_disabled = point;
        (void) signal(SIGABRT, found_by_signal);
        (void) signal(SIGALRM, found_by_signal);
        (void) signal(SIGSEGV, found_by_signal);
        if (!freopen("/dev/null", "w", stderr))
                _exit(1);
        for (uint64_t seed = 0; seed < runs; seed++)
                if (seed % 2)
                        child_scenario(seed, &states);
                else
                        child_seed(seed / 2, &states);
        _exit(0);
}

static bool mutation_is_found(int point, uint64_t runs) {
        uint64_t begun = now_usec();
        int status = 0;
        *found_now = (Found) { 0 };
        (void) fflush(stdout);
        pid_t pid = fork();
        if (pid < 0)
                abort();
        if (pid == 0)
                child_run(point, runs);
        bool found = waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == FOUND;
        printf("%-30s %s %5" PRIu64 " runs, %6" PRIu64 " crash states, %5.1f s: %s\n", names[point],
               found ? "found after" : "NOT FOUND  ", found ? found_now->runs : runs, found_now->states,
               (double) (now_usec() - begun) / USEC_PER_SEC, found_now->message);
        return found;
}

int main(int argc, char **argv) {
        static const struct option options[] = { { "only", required_argument, NULL, 'o' },
                                                 { "runs", required_argument, NULL, 'r' },
                                                 { 0 } };
        const char *only = NULL;
        uint64_t runs = RUNS_MAX;
        unsigned found = 0, tried = 0;
        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
                if (c == '?')
                        return 2;
                if (c == 'o')
                        only = optarg;
                else
                        runs = strtoull(optarg, NULL, 10);
        }
        found_now = mmap(NULL, sizeof(Found), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (found_now == MAP_FAILED)
                return 1;
        for (int i = 0; i < ORDER_MAX; i++) {
                if (only && !streq(only, names[i]))
                        continue;
                tried++;
                found += mutation_is_found(i, runs);
        }
        printf("%u of %u mutations found\n", found, tried);
        return found == tried ? 0 : 1;
}
