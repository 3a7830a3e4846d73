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

/* --- promises ----------------------------------------------------------------------------------------------------- */

enum { BLOCKS = 8, BAD = 3 };

static World *small_world(uint64_t seed) {
        WorldOptions o = {
                .seed = seed, .volumes = 1, .volume_blocks = BLOCKS, .roomy = true, .may_lose = true, .features = 0
        };
        World *w = world_new(&o);
        name_now = "promise";
        nth_now = seed;
        (void) world_make(w);
        return w;
}

/* Of the first volume; the result of the request. */
static int request(World *w, SimOpKind kind, uint64_t offset, uint32_t length) {
        SimOp *op = op_take(w, kind);
        op->volume = 0;
        data_begin(w, op, offset, length, false);
        (void) world_wait(w, op);
        return op->result;
}

static int snap_block(World *w, unsigned snap, unsigned block) {
        SimOp *op = op_take(w, OP_SNAP_READ);
        op->snap = snap;
        op->volume = 0;
        data_begin(w, op, (uint64_t) block * SIM_PAGE, SIM_PAGE, false);
        (void) world_wait(w, op);
        return op->result;
}

static void only_the_bad_block_fails(World *w) {
        for (unsigned i = 0; i < BLOCKS && !w->failed; i++) {
                int r = snap_block(w, 0, i);
                if (r != (i == BAD ? -EIO : 0))
                        world_fail(w, "block %u of the snapshot: %d", i, r);
        }
}

/* A block that cannot be read before it is overwritten is bad in the snapshot, for ever; the write goes on. */
static void promise_bad_block(World *w) {
        SimFault fault = { .disk = 1,
                           .ops = READS,
                           .offset = BAD * SIM_PAGE,
                           .length = SIM_PAGE,
                           .nth = 1,
                           .permanent = true,
                           .error = EIO };
        (void) request(w, OP_WRITE, 0, BLOCKS * SIM_PAGE);
        world_snapshot(w);
        sim_disk_fault(w->disk, &fault);
        if (request(w, OP_WRITE, 0, BLOCKS * SIM_PAGE) != 0)
                world_fail(w, "the write failed");
        sim_disk_faults_clear(w->disk);
        only_the_bad_block_fails(w);
        for (unsigned i = 0; i < 4 && !w->failed; i++) {
                if (i % 2)
                        world_kill(w, i);
                else
                        world_power_cut(w, SIM_CUT_NONE, i);
                if (world_open(w))
                        only_the_bad_block_fails(w);
        }
}

/* What a flush could not write may be gone: no later flush of that volume may say that all is well (hazards D8). */
static void promise_flush_latched(World *w) {
        SimFault fault = { .disk = 1, .ops = FLUSHES, .nth = 1, .error = EIO };
        (void) request(w, OP_WRITE, 0, SIM_PAGE);
        sim_disk_fault(w->disk, &fault);
        if (w->options.seed % 2)
                world_snapshot(w); /* the hold flushes */
        else
                (void) request(w, OP_FLUSH, 0, 0);
        if (request(w, OP_FLUSH, 0, 0) == 0)
                world_fail(w, "a flush after one that failed");
        unsigned n = w->n_snaps;
        world_snapshot(w);
        if (w->n_snaps != n)
                world_fail(w, "a snapshot after a flush that failed");
}

/* The store takes nothing any more: volumes go on, and no snapshot is shown, now or later. */
static void promise_lost(World *w) {
        SimFault fault = { .disk = DISK_STORE, .ops = WRITES, .nth = 1, .error = ENOSPC };
        (void) request(w, OP_WRITE, 0, BLOCKS * SIM_PAGE);
        world_snapshot(w);
        sim_disk_fault(w->disk, &fault);
        if (request(w, OP_WRITE, SIM_PAGE, 2 * SIM_PAGE) != 0 || request(w, OP_FLUSH, 0, 0) != 0)
                world_fail(w, "the volume does not go on");
        if (!w->lost)
                world_fail(w, "nobody said that the store is lost");
        for (unsigned i = 0; i < 4 && !w->failed; i++) {
                if (snap_block(w, 0, 0) == 0)
                        world_fail(w, "a snapshot of a lost store can be read");
                if (i % 2)
                        world_kill(w, i);
                else
                        world_power_cut(w, SIM_CUT_NONE, i);
                if (world_open(w) && request(w, OP_WRITE, 0, SIM_PAGE) != 0)
                        world_fail(w, "the volume does not go on");
                SnapshotInfo info;
                unsigned position = 0;
                if (!w->failed && engine_snapshot_next(w->engine, &position, &info))
                        world_fail(w, "a lost store shows a snapshot");
        }
}

static bool promise(const char *name, void (*keep)(World *w)) {
        for (uint64_t seed = 0; seed < 20; seed++) {
                World *w = small_world(seed);
                if (!w->failed)
                        keep(w);
                bool failed = w->failed;
                if (failed)
                        printf("%s, seed %" PRIu64 ": %s\n", name, seed, w->message);
                world_free(w);
                if (failed)
                        return false;
        }
        printf("%-24s kept\n", name);
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
        if (!only) {
                good = promise("bad-block", promise_bad_block) && good;
                good = promise("flush-latched", promise_flush_latched) && good;
                good = promise("lost", promise_lost) && good;
        }
        return good ? 0 : 1;
}
