/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/sim-world.h"
#include <inttypes.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>

void world_fail(World *w, const char *format, ...) {
        va_list ap;
        if (w->failed)
                return;
        w->failed = true;
        va_start(ap, format);
        (void) vsnprintf(w->message, sizeof(w->message), format, ap);
        va_end(ap);
        world_trace(w, "FAILED: %s", w->message);
}

void world_trace(const World *w, const char *format, ...) {
        va_list ap;
        if (!w->options.trace)
                return;
        va_start(ap, format);
        (void) fprintf(stderr, "%7" PRIu64 " ", w->boundary);
        (void) vfprintf(stderr, format, ap);
        (void) fputc('\n', stderr);
        va_end(ap);
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static void limits_random(World *w) {
        SimRandom *r = &w->random;
        w->limits = (EngineLimits) {
                .requests = 2 + sim_below(r, 10),
                .memtable = 8 + sim_below(r, sim_chance(r, 1, 2) ? 24 : 200),
                .tail_segments = 1 + sim_below(r, 4),
                .reserved = 3 + sim_below(r, 8),
                .cache_pages = 4 + sim_below(r, 8),
                .merge_runs = 2 + sim_below(r, 3),
                .record_worth = w->options.seed % 2 == 0 ? 1 : 64, /* several small records with the disk, or few */
        };
        w->segment_blocks = 16u << (sim_chance(r, 2, 3) ? 0 : sim_below(r, 3));
        w->segments = w->options.roomy ? 3000 / w->segment_blocks * 4 : 24 + sim_below(r, 90);
        if (w->options.tiny) {
                w->segment_blocks = 16;
                w->segments = 16 + sim_below(r, 10);
                w->limits.memtable = 4 + sim_below(r, 12);
                w->limits.merge_runs = 2;
        }
}

World *world_new(const WorldOptions *o) {
        /* engines come and go by the thousand: what they had is kept for the next */
        (void) mallopt(M_MMAP_THRESHOLD, 1 << 28);
        (void) mallopt(M_TRIM_THRESHOLD, 1 << 30);
        (void) mallopt(M_TOP_PAD, 1 << 24);
        World *w = calloc(1, sizeof(World));
        if (!w)
                abort();
        w->options = *o;
        w->random.state = sim_mix(o->seed + 1);
        w->disk = sim_disk_new(sim_random(&w->random));
        sim_disk_trace(w->disk, o->trace);
        limits_random(w);
        for (unsigned i = 0; i < WORLD_OPS; i++) {
                SimOp *op = &w->ops[i];
                op->versions = calloc(WORLD_BUFFER / SIM_SECTOR, sizeof(uint64_t));
                op->buffer = aligned_alloc(SIM_PAGE, WORLD_BUFFER);
                if (!op->versions || !op->buffer)
                        abort();
        }
        for (unsigned i = 0; i < WORLD_VOLUMES; i++) {
                (void) snprintf(w->volumes[i].name, sizeof(w->volumes[i].name), "v%u", i);
                w->volumes[i].hold = -1;
        }
        return w;
}

World *world_free(World *w) {
        if (!w)
                return NULL;
        sim_disk_forget(w->disk);
        engine_free(w->engine);
        sim_disk_free(w->disk);
        for (unsigned i = 0; i < WORLD_OPS; i++) {
                free(w->ops[i].versions);
                free(w->ops[i].buffer);
        }
        for (unsigned i = 0; i < WORLD_VOLUMES; i++) {
                oracle_done(&w->volumes[i].oracle);
                free_forget(&w->volumes[i]);
                free(w->volumes[i].held);
        }
        for (unsigned i = 0; i < w->n_snaps; i++) {
                free(w->snaps[i].content);
                free(w->snaps[i].free_blocks);
        }
        free(w);
        return NULL;
}

bool world_step(World *w) {
        w->boundary++;
        uint64_t seed = sim_mix(w->options.seed * 0x10001 + w->boundary);
        if (w->options.state_in && seed % w->options.state_in == 0 && !w->failed)
                check_state(w, sim_mix(seed));
        return sim_disk_step(w->disk);
}

bool world_wait(World *w, SimOp *op) {
        unsigned number = op->number;
        while (op->busy && op->number == number && !w->failed)
                if (!world_step(w) && op->busy && op->number == number)
                        world_fail(w, "#%u: %s hangs: nothing is with the disk", number, op_name(op->kind));
        return !w->failed;
}

static int engine_start(World *w) {
        EngineOptions o = {
                .disk = sim_disk_interface(w->disk),
                .store_bytes = sim_disk_bytes(w->disk, DISK_STORE),
                .shared = &w->shared,
                .limits = w->limits,
                .event = world_event,
                .userdata = w,
        };
        w->engine = engine_free(w->engine);
        return engine_new(&o, &w->engine);
}

static void start_done(Reply *r, int result) {
        SimOp *op = r->owner;
        world_trace(op->world, "#%u %s ends: %d %s", op->number, op_name(op->kind), result, r->message);
        op->answered = true;
        op->result = result;
        op_give(op);
}

static SimOp *start_take(World *w, SimOpKind kind) {
        SimOp *op = op_take(w, kind);
        assert(op);
        op->reply.done = start_done;
        world_trace(w, "#%u %s", op->number, op_name(kind));
        return op;
}

/* Volumes that were attached are attached again, and all snapshots are read. */
static void world_resume(World *w) {
        for (unsigned i = 0; i < WORLD_VOLUMES && !w->failed; i++) {
                Vol *v = &w->volumes[i];
                VolumeInfo info;
                if (v->state != VOL_PRESENT)
                        continue;
                engine_volume_info(v->handle, &info);
                if ((info.flags & VOLUME_ATTACHED) || sim_chance(&w->random, 1, 2))
                        volume_begin(w, OP_ATTACH, i);
        }
        world_drain(w);
}

/* Whatever a lost store still shows must say that it is not good. */
static void world_lost(World *w) {
        EngineStats stats;
        SnapshotInfo info;
        engine_stats(w->engine, &stats);
        if (!w->lost || stats.lost)
                return;
        for (unsigned position = 0; engine_snapshot_next(w->engine, &position, &info);)
                if (!(info.flags & SNAPSHOT_DAMAGED))
                        world_fail(w, "the store was lost, and has a good snapshot");
}

static bool world_refused(World *w, const char *what, int result, const char *message) {
        w->refused = w->options.may_lose;
        if (!w->refused)
                world_fail(w, "%s: %d %s", what, result, message);
        return false;
}

bool world_open(World *w) {
        int r = engine_start(w);
        if (r < 0)
                return world_refused(w, "there is no engine", r, "");
        SimOp *op = start_take(w, OP_OPEN);
        engine_open(w->engine, &op->reply);
        if (!world_wait(w, op))
                return false;
        w->recoveries++;
        if (op->result < 0)
                return world_refused(w, "the store does not open", op->result, op->reply.message);
        w->refused = false;
        world_lost(w);
        if (check_lists(w, w->engine, true))
                world_resume(w);
        for (unsigned i = 0; i < w->n_snaps && !w->failed; i++)
                (void) check_snap(w, w->engine, w->disk, &w->snaps[i]);
        return !w->failed;
}

bool world_make(World *w) {
        uint8_t uuid[16];
        unsigned n = w->options.volumes ?: 1 + sim_below(&w->random, WORLD_VOLUMES);
        for (unsigned i = 0; i < 16; i++)
                uuid[i] = (uint8_t) sim_random(&w->random);
        sim_disk_add(w->disk, DISK_STORE, (uint64_t) w->segments * w->segment_blocks * SIM_PAGE);
        int r = engine_start(w);
        if (r < 0)
                return world_refused(w, "there is no engine", r, "");
        unsigned state_in = w->options.state_in;
        w->options.state_in = 0; /* half a store is none */
        SimOp *op = start_take(w, OP_OPEN);
        engine_format(w->engine, uuid, w->segments, w->segment_blocks, &op->reply);
        if (!world_wait(w, op))
                return false;
        w->options.state_in = state_in;
        if (op->result < 0)
                return world_refused(w, "the store cannot be made", op->result, op->reply.message);
        if (!world_open(w))
                return false;
        for (unsigned i = 0; i < n; i++)
                volume_begin(w, OP_CREATE, i);
        world_drain(w);
        for (unsigned i = 0; i < n && !w->failed; i++)
                if (w->volumes[i].state == VOL_PRESENT)
                        volume_begin(w, OP_ATTACH, i);
        world_drain(w);
        return !w->failed;
}

/* --- deaths ------------------------------------------------------------------------------------------------------- */

/* The process is gone: nobody is answered, gates are open. */
static void world_dead(World *w, SimDisk *disk) {
        sim_disk_forget(w->disk);
        w->engine = engine_free(w->engine);
        sim_disk_free(w->disk);
        w->disk = disk;
        for (unsigned i = 0; i < WORLD_OPS; i++)
                w->ops[i].busy = false;
        w->busy = 0;
        for (unsigned i = 0; i < w->n_snaps; i++)
                w->snaps[i].dropping = false;
        for (unsigned i = 0; i < WORLD_HOLDS; i++)
                w->holds[i] = (SimHold) { 0 };
        for (unsigned i = 0; i < WORLD_VOLUMES; i++) {
                Vol *v = &w->volumes[i];
                v->handle = NULL;
                v->attach = VOL_DETACHED;
                free_forget(v);
                v->hold = -1;
                v->flush_failed = 0;
                free(TAKE_PTR(v->held));
        }
}

void world_power_cut(World *w, SimCut how, uint64_t seed) {
        world_trace(w, "power cut (%d), %u writes are not stable", how, sim_disk_unstable(w->disk));
        world_dead(w, sim_disk_cut(w->disk, how, seed));
        w->shared = (EngineShared) { 0 };
        (void) check_volumes_cut(w, w->disk, true);
}

static void volume_killed(World *w, unsigned i) {
        uint8_t sector[SIM_SECTOR];
        Vol *v = &w->volumes[i];
        for (uint32_t k = 0; k < v->oracle.n; k++) {
                bool whole;
                sim_disk_peek(w->disk, DISK_FIRST_ORIGIN + i, (uint64_t) k * SIM_SECTOR, sector, SIM_SECTOR);
                uint64_t version = content_version(sector, &whole);
                if (!whole || !oracle_killed(&v->oracle, k, version))
                        world_fail(w, "%s sector %u holds %" PRIx64 " after the kill", v->name, k, version);
        }
}

void world_kill(World *w, uint64_t seed) {
        world_trace(w, "killed, %u in flight", sim_disk_in_flight(w->disk));
        world_dead(w, sim_disk_killed(w->disk, seed));
        for (unsigned i = 0; i < WORLD_VOLUMES; i++)
                volume_killed(w, i);
}

void world_stop(World *w) {
        world_drain(w);
        if (w->failed)
                return;
        SimOp *op = start_take(w, OP_STOP);
        engine_stop(w->engine, &op->reply);
        if (!world_wait(w, op))
                return;
        if (op->result < 0 && !w->options.may_lose)
                world_fail(w, "stop: %d %s", op->result, op->reply.message);
        else if (sim_disk_in_flight(w->disk) > 0)
                world_fail(w, "stopped, and still %u in flight", sim_disk_in_flight(w->disk));
        else
                world_kill(w, sim_random(&w->random));
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static bool holds_open(World *w) {
        bool any = false;
        for (unsigned i = 0; i < WORLD_HOLDS; i++) {
                if (w->holds[i].state == HOLD_FREE)
                        continue;
                any = true;
                hold_release(w, i);
        }
        return any;
}

void world_drain(World *w) {
        bool quiet = w->quiet;
        w->quiet = true;
        while (!w->failed) {
                if (world_step(w))
                        continue;
                if (!holds_open(w) && w->busy == 0)
                        break;
                if (w->busy > 0 && sim_disk_in_flight(w->disk) == 0 && !holds_open(w)) {
                        for (unsigned i = 0; i < WORLD_OPS; i++)
                                if (w->ops[i].busy)
                                        world_fail(w, "#%u: %s hangs: nothing is with the disk", w->ops[i].number,
                                                   op_name(w->ops[i].kind));
                        world_fail(w, "something hangs");
                }
        }
        w->quiet = quiet;
}

static bool death_random(World *w) {
        uint32_t x = sim_below(&w->random, 1500 / (w->options.accidents ?: 1));
        unsigned features = w->options.features;
        if (x < 3 && features & FEATURE_CUTS)
                world_power_cut(w, (SimCut) sim_below(&w->random, SIM_CUT_MAX), sim_random(&w->random));
        else if (x >= 3 && x < 6 && features & FEATURE_KILLS)
                world_kill(w, sim_random(&w->random));
        else if (x == 7 && features & FEATURE_STOPS)
                world_stop(w);
        else
                return false;
        if (!w->failed)
                (void) world_open(w);
        return true;
}

void world_steps(World *w, unsigned steps) {
        for (unsigned i = 0; i < steps && !w->failed; i++) {
                if (i % 128 == 0)
                        w->depth = 1 + sim_below(&w->random, sim_chance(&w->random, 1, 3) ? 2 : WORLD_OPS - 3);
                if (death_random(w))
                        continue;
                if (w->busy < w->depth && (sim_disk_in_flight(w->disk) == 0 || sim_chance(&w->random, 1, 2))) {
                        if (sim_chance(&w->random, 7, 10))
                                data_random(w);
                        else
                                upkeep_random(w);
                }
                if (!world_step(w) && w->busy >= w->depth)
                        upkeep_random(w); /* what waits at a gate fills the queue */
        }
}

bool world_end(World *w) {
        world_drain(w);
        for (unsigned i = 0; i < w->n_snaps && !w->failed; i++)
                (void) check_snap(w, w->engine, w->disk, &w->snaps[i]);
        return !w->failed;
}

bool world_run(World *w) {
        if (world_make(w))
                world_steps(w, w->options.steps);
        if (!w->failed)
                (void) world_end(w);
        if (!w->failed) { /* and once more after a clean stop */
                world_stop(w);
                if (!w->failed)
                        (void) world_open(w);
        }
        return !w->failed;
}
