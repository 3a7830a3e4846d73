/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * I/O and allocations of the copy-on-write engine that fail: the first, the second, and so on, until a run gets through
 * without meeting the failure. Whatever happens, nothing hangs or crashes, volumes go on, no block is wrong, and a
 * store that was lost never shows a snapshot as good again. Then each of the promises for itself.
 *
 *   fault-cow [--only=NAME] [--nth=N]: one of them, with a trace
 */
#include "tests/sim-core.h"
#include "tests/sim-world.h"
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

enum {
        READS = 1 << IO_READ,
        WRITES = 1 << IO_WRITE | 1 << IO_WRITE_DURABLE | 1 << IO_ZERO,
        FLUSHES = 1 << IO_FLUSH,
        ALLOCATES = 1 << IO_ALLOCATE,
        STEPS = 1500,
        NTH_MAX = 5000,
};

typedef struct Plan {
        const char *name;
        SimFault fault;
        bool memory, for_ever;
        bool cut; /* the power goes afterwards, instead of the process only */
} Plan;

static const Plan plans[] = {
        { "store-write-once", { .disk = DISK_STORE, .ops = WRITES, .error = EIO }, .cut = true },
        { "store-write-full", { .disk = DISK_STORE, .ops = WRITES, .error = ENOSPC }, .cut = true },
        { "store-write-for-ever", { .disk = DISK_STORE, .ops = WRITES | FLUSHES, .error = EIO, .permanent = true } },
        { "store-flush", { .disk = DISK_STORE, .ops = FLUSHES, .error = EIO }, .cut = true },
        { "store-read-once", { .disk = DISK_STORE, .ops = READS, .error = EIO }, .cut = true },
        { "store-read-for-ever", { .disk = DISK_STORE, .ops = READS, .error = EIO, .permanent = true }, .cut = true },
        { "store-allocate-once", { .disk = DISK_STORE, .ops = ALLOCATES, .error = ENOSPC }, .cut = true },
        { "store-allocate-for-ever",
          { .disk = DISK_STORE, .ops = ALLOCATES, .error = ENOSPC, .permanent = true },
          .cut = true },
        { "origin-read-once", { .disk = 1, .ops = READS, .error = EIO }, .cut = true },
        { "origin-read-for-ever", { .disk = 1, .ops = READS, .error = EIO, .permanent = true }, .cut = true },
        { "origin-write-once", { .disk = 1, .ops = WRITES, .error = EIO }, .cut = true },
        { "origin-write-full", { .disk = 1, .ops = WRITES, .error = ENOSPC, .permanent = true }, .cut = true },
        { "origin-flush", { .disk = 1, .ops = FLUSHES, .error = EIO }, .cut = true },
        { "memory-once", .memory = true, .cut = true },
        { "memory-for-ever", .memory = true, .for_ever = true, .cut = true },
};

static const char *name_now;
static uint64_t nth_now;

static void say_where(int signal_number) {
        char text[128];
        int n = snprintf(text, sizeof(text), "%s, nth %" PRIu64 ": signal %d\n", name_now, nth_now, signal_number);
        if (n > 0)
                (void) !write(STDERR_FILENO, text, (size_t) n);
        (void) signal(signal_number, SIG_DFL);
        (void) raise(signal_number);
}

/* True: the failure was met. */
static bool run_once(const Plan *p, uint64_t nth, bool trace, char *message, size_t size) {
        WorldOptions o = {
                .seed = nth % 7,
                .steps = STEPS,
                .features = FEATURE_ALL & ~(unsigned) (FEATURE_CUTS | FEATURE_KILLS | FEATURE_STOPS),
                .may_lose = true,
                .tiny = nth % 3 == 0,
                .trace = trace,
        };
        World *w = world_new(&o);
        SimFault fault = p->fault, *seen = NULL;
        name_now = p->name;
        nth_now = nth;
        (void) alarm(60);
        fault.nth = nth;
        core_fail_allocation(p->memory ? nth : 0, p->for_ever);
        if (!p->memory)
                seen = sim_disk_fault(w->disk, &fault);
        if (world_make(w))
                world_steps(w, o.steps);
        if (!w->failed && !w->refused)
                (void) world_end(w);
        bool met = p->memory ? core_allocations() >= nth : seen->seen >= nth;
        core_fail_allocation(0, false);
        bool made = w->n_snaps > 0 || w->volumes[0].state != VOL_ABSENT;
        if (!w->failed && made) {
                if (p->cut && nth % 2 == 0)
                        world_power_cut(w, SIM_CUT_RANDOM, nth);
                else
                        world_kill(w, nth);
                w->options.may_lose = w->lost || p->fault.ops & READS; /* a bad block stays bad */
                (void) world_open(w);
        }
        (void) snprintf(message, size, "%s", w->failed ? w->message : "");
        world_free(w);
        (void) alarm(0);
        return met;
}

static bool plan_run(const Plan *p, uint64_t only_nth) {
        char message[600];
        uint64_t nth = only_nth ?: 1, begun = now_usec();
        unsigned unmet = 0; /* seeds that got through */
        for (; nth < NTH_MAX && unmet < 7; nth++) {
                unmet = run_once(p, nth, only_nth > 0, message, sizeof(message)) ? 0 : unmet + 1;
                if (message[0]) {
                        printf("%s, nth %" PRIu64 ": %s\n", p->name, nth, message);
                        return false;
                }
                if (only_nth)
                        return true;
        }
        printf("%-24s %5" PRIu64 " failures, %5.1f s\n", p->name, nth - unmet - 1,
               (double) (now_usec() - begun) / USEC_PER_SEC);
        (void) fflush(stdout);
        return true;
}

int main(int argc, char **argv) {
        static const struct option options[] = { { "only", required_argument, NULL, 'o' },
                                                 { "nth", required_argument, NULL, 'n' },
                                                 { 0 } };
        const char *only = NULL;
        uint64_t nth = 0;
        bool good = true;
        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
                if (c == '?')
                        return 2;
                if (c == 'o')
                        only = optarg;
                else
                        nth = strtoull(optarg, NULL, 10);
        }
        (void) signal(SIGABRT, say_where);
        (void) signal(SIGALRM, say_where);
        (void) signal(SIGSEGV, say_where);
        for (unsigned i = 0; i < ELEMENTSOF(plans); i++)
                if (!only || streq(only, plans[i].name))
                        good = plan_run(&plans[i], nth) && good;
        return good ? 0 : 1;
}
