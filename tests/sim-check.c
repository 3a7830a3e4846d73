/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a store must be after it was opened again. */
#include "tests/sim-world.h"
#include <inttypes.h>
#include <stdio.h>

enum { SNAPS_READ_MAX = 6 };

/* --- lists -------------------------------------------------------------------------------------------------------- */

static void check_volume(World *w, Engine *e, unsigned i, bool resolve) {
        Vol *v = &w->volumes[i];
        Volume *handle = engine_volume_by_name(e, v->name);
        VolumeInfo info;
        if (!handle && v->state == VOL_PRESENT)
                world_fail(w, "%s is not there any more", v->name);
        else if (handle && v->state == VOL_ABSENT)
                world_fail(w, "%s is there again", v->name);
        if (handle) {
                engine_volume_info(handle, &info);
                if (info.bytes != v->bytes)
                        world_fail(w, "%s has %" PRIu64 " bytes instead of %" PRIu64, v->name, info.bytes, v->bytes);
        }
        if (resolve) {
                v->state = handle ? VOL_PRESENT : VOL_ABSENT;
                v->handle = handle;
        }
}

static bool snap_may_be_missing(const World *w, const Snap *s) {
        return s->state != SNAP_MADE || w->lost || w->dropping;
}

static void check_snap_info(World *w, const Snap *s, const SnapshotInfo *info) {
        unsigned number = (unsigned) (s - w->snaps);
        VolumeInfo v;
        engine_volume_info(info->volume, &v);
        if (s->state == SNAP_GONE)
                world_fail(w, "snapshot %u is there again", number);
        if (!streq(v.name, w->volumes[s->volume].name) || memcmp(info->set, s->set, 16) != 0)
                world_fail(w, "snapshot %u is of another volume or set", number);
        if ((s->pending == PENDING_YES && !(info->flags & SNAPSHOT_PENDING)) ||
            (s->pending == PENDING_NO && (info->flags & SNAPSHOT_PENDING)))
                world_fail(w, "snapshot %u is %spending", number, s->pending == PENDING_NO ? "" : "not ");
        if (info->flags & SNAPSHOT_DAMAGED && !w->options.may_lose)
                world_fail(w, "snapshot %u is damaged", number);
}

/* All of a set or nothing. */
static void check_set(World *w, const Snap *s) {
        for (unsigned i = 0; i < w->n_snaps; i++)
                if (w->snaps[i].state == SNAP_MAKING && memcmp(w->snaps[i].set, s->set, 16) == 0 &&
                    w->snaps[i].seen != s->seen)
                        world_fail(w, "half of a set is there: snapshots %u and %u", (unsigned) (s - w->snaps), i);
}

bool check_lists(World *w, Engine *e, bool resolve) {
        SnapshotInfo info;
        unsigned position = 0, known = 0, there = 0;
        for (unsigned i = 0; i < WORLD_VOLUMES; i++)
                check_volume(w, e, i, resolve);
        for (unsigned i = 0; i < w->n_snaps; i++) {
                Snap *s = &w->snaps[i];
                s->seen = engine_snapshot_info(e, s->id, &info);
                known += s->seen;
                if (s->seen)
                        check_snap_info(w, s, &info);
                else if (!snap_may_be_missing(w, s))
                        world_fail(w, "snapshot %u is not there any more", i);
        }
        for (unsigned i = 0; i < w->n_snaps; i++) {
                Snap *s = &w->snaps[i];
                if (s->state == SNAP_MAKING)
                        check_set(w, s);
        }
        for (unsigned i = 0; resolve && i < w->n_snaps; i++) {
                Snap *s = &w->snaps[i];
                s->state = !s->seen ? SNAP_GONE : s->dropping ? SNAP_GOING : SNAP_MADE;
                if (s->seen && s->pending == PENDING_PERHAPS && engine_snapshot_info(e, s->id, &info))
                        s->pending = info.flags & SNAPSHOT_PENDING ? PENDING_YES : PENDING_NO;
        }
        while (engine_snapshot_next(e, &position, &info))
                there++;
        if (there != known)
                world_fail(w, "there are %u snapshots, and %u of them are known", there, known);
        return !w->failed;
}

/* --- content ------------------------------------------------------------------------------------------------------ */

typedef struct Wait {
        Request request;
        Reply reply;
        bool done;
        int result;
} Wait;

static void request_waited(Request *q, int result) {
        Wait *x = q->owner;
        x->done = true;
        x->result = result;
}

static void reply_waited(Reply *r, int result) {
        Wait *x = r->owner;
        x->done = true;
        x->result = result;
}

static bool wait_for(World *w, SimDisk *d, Wait *x, const char *what) {
        while (!x->done && !w->failed)
                if (!(d == w->disk ? world_step(w) : sim_disk_step(d)) && !x->done)
                        world_fail(w, "after a crash: %s hangs: nothing is with the disk", what);
        return !w->failed;
}

/*
 * What belongs to the engine if it hangs is not on the stack. Two of them: crash states are examined in the middle of
 * the reads of the run itself.
 */
typedef struct Transfer {
        uint8_t buffer[REQUEST_BYTES_MAX] __attribute__((aligned(4096)));
        Wait wait;
} Transfer;

static Transfer *transfer_of(const World *w, const SimDisk *d) {
        static Transfer run, state;
        return d == w->disk ? &run : &state;
}

static int transfer_do(World *w, Engine *e, SimDisk *d, const Request *q) {
        Transfer *t = transfer_of(w, d);
        t->wait = (Wait) { .request = *q };
        t->wait.request.buffer = t->buffer;
        t->wait.request.done = request_waited;
        t->wait.request.owner = &t->wait;
        engine_submit(e, &t->wait.request);
        return wait_for(w, d, &t->wait, q->snapshot ? "reading a snapshot" : "a request") ? t->wait.result : -EIO;
}

bool check_snap(World *w, Engine *e, SimDisk *d, Snap *s) {
        SnapshotInfo info;
        VolumeInfo v;
        uint64_t bytes = (uint64_t) s->n * SIM_SECTOR;
        if (w->failed || !engine_snapshot_info(e, s->id, &info))
                return !w->failed;
        engine_volume_info(info.volume, &v);
        for (uint64_t at = 0; v.attached && at < bytes && !w->failed; at += REQUEST_BYTES_MAX) {
                uint32_t n = (uint32_t) MIN_OF(bytes - at, (uint64_t) REQUEST_BYTES_MAX);
                int r = transfer_do(w, e, d,
                                    &(Request) { .op = REQUEST_READ,
                                                 .volume = info.volume,
                                                 .snapshot = s->id,
                                                 .offset = at,
                                                 .length = n });
                if (r == 0)
                        (void) snap_content_is_right(w, s, transfer_of(w, d)->buffer, at, n);
                else if (!w->options.may_lose && !(r == -ENOENT && snap_may_be_missing(w, s)))
                        world_fail(w, "reading snapshot %u: %s", (unsigned) (s - w->snaps), strerror(-r));
        }
        return !w->failed;
}

bool check_volumes_cut(World *w, const SimDisk *d, bool resolve) {
        static uint8_t data[WORLD_SECTORS_MAX * SIM_SECTOR];
        char text[256];
        for (unsigned i = 0; i < WORLD_VOLUMES; i++) {
                Vol *v = &w->volumes[i];
                if (v->oracle.n == 0)
                        continue;
                sim_disk_peek(d, DISK_FIRST_ORIGIN + i, 0, data, v->bytes);
                for (uint32_t k = 0; k < v->oracle.n && !w->failed; k++) {
                        bool whole;
                        uint64_t version = content_version(data + (size_t) k * SIM_SECTOR, &whole);
                        if (whole &&
                            (resolve ? oracle_cut(&v->oracle, k, version) : oracle_survives(&v->oracle, k, version)))
                                continue;
                        oracle_describe(&v->oracle, k, text, sizeof(text));
                        world_fail(w, "%s sector %u is %s%" PRIx64 " after a power cut and may be:%s", v->name, k,
                                   whole ? "" : "torn ", version, text);
                }
        }
        return !w->failed;
}

/* --- crash states ------------------------------------------------------------------------------------------------- */

typedef struct State {
        World *world;
        SimRandom random;
        SimDisk *disk;
        Engine *engine;
        EngineShared shared;
} State;

static void state_event(void *userdata, EngineEvent event, const uint8_t id[16], const char *text) {
        State *s = userdata;
        if (event == ENGINE_SNAPSHOT_DROPPED)
                s->world->dropping = true;
        if ((event == ENGINE_STORE_LOST || event == ENGINE_SNAPSHOT_DAMAGED) && !s->world->options.may_lose)
                world_fail(s->world, "after a crash: %s: %s",
                           event == ENGINE_STORE_LOST ? "the store is lost" : "a snapshot is damaged", text);
}

static void state_cut(State *s) {
        SimDisk *d = s->disk;
        SimCut how = (SimCut) sim_below(&s->random, SIM_CUT_MAX);
        world_trace(s->world, "  crash state: power cut (%d)", how);
        s->disk = sim_disk_cut(d, how, sim_random(&s->random));
        s->shared = (EngineShared) { 0 };
        if (d != s->world->disk)
                sim_disk_free(d);
        (void) check_volumes_cut(s->world, s->disk, false);
}

/* steps: so many, and then the next accident; 0: until it is open. */
static bool state_open(State *s, unsigned steps) {
        static Wait x;
        World *w = s->world;
        EngineOptions o = {
                .disk = sim_disk_interface(s->disk),
                .store_bytes = sim_disk_bytes(s->disk, DISK_STORE),
                .shared = &s->shared,
                .limits = w->limits,
                .event = state_event,
                .userdata = s,
        };
        o.limits.requests = 4;
        if (engine_new(&o, &s->engine) < 0) {
                world_fail(w, "there is no engine");
                return false;
        }
        x = (Wait) { .reply = { .done = reply_waited, .owner = &x } };
        engine_open(s->engine, &x.reply);
        if (steps > 0) {
                for (unsigned i = 0; i < steps && sim_disk_step(s->disk); i++)
                        ;
                return !w->failed;
        }
        if (wait_for(w, s->disk, &x, "opening the store") && x.result < 0)
                world_fail(w, "after a crash the store does not open: %d %s", x.result, x.reply.message);
        return !w->failed;
}

static bool state_attach(State *s) {
        static Wait x[WORLD_VOLUMES];
        World *w = s->world;
        for (unsigned i = 0; i < WORLD_VOLUMES; i++) {
                Volume *v = engine_volume_by_name(s->engine, w->volumes[i].name);
                x[i] = (Wait) { .done = !v, .reply = { .done = reply_waited, .owner = &x[i] } };
                if (v)
                        engine_attach(s->engine, v, DISK_FIRST_ORIGIN + i, &x[i].reply);
        }
        for (unsigned i = 0; i < WORLD_VOLUMES; i++)
                if (wait_for(w, s->disk, &x[i], "attaching") && x[i].result < 0)
                        world_fail(w, "after a crash: attaching %s: %s", w->volumes[i].name, strerror(-x[i].result));
        return !w->failed;
}

static void state_read(State *s) {
        World *w = s->world;
        unsigned n = w->n_snaps, first = n > 0 ? sim_below(&s->random, n) : 0, seen = 0;
        for (unsigned i = 0; i < n && seen < SNAPS_READ_MAX; i++) {
                Snap *snap = &w->snaps[(first + i) % n];
                if (!snap->seen)
                        continue;
                seen++;
                (void) check_snap(w, s->engine, s->disk, snap);
        }
}

/* Every block is written once: whatever the snapshots still take from the volumes has to be preserved now. */
static void state_overwrite(State *s) {
        World *w = s->world;
        for (unsigned i = 0; i < WORLD_VOLUMES && !w->failed; i++) {
                const Vol *v = &w->volumes[i];
                Volume *handle = engine_volume_by_name(s->engine, v->name);
                for (uint64_t at = 0; handle && at < v->bytes && !w->failed; at += REQUEST_BYTES_MAX) {
                        uint32_t n = (uint32_t) MIN_OF(v->bytes - at, (uint64_t) REQUEST_BYTES_MAX);
                        memset(transfer_of(w, s->disk)->buffer, 0xa5, n);
                        int r = transfer_do(w, s->engine, s->disk,
                                            &(Request) {
                                                    .op = REQUEST_WRITE, .volume = handle, .offset = at, .length = n });
                        if (r < 0 && r != -ENOSPC && !w->options.may_lose)
                                world_fail(w, "after a crash: writing %s: %s", v->name, strerror(-r));
                }
        }
}

void check_state(World *w, uint64_t seed) {
        State s = { .world = w, .random.state = seed, .disk = w->disk, .shared = w->shared };
        w->states++;
        if (sim_chance(&s.random, 1, 6)) {
                world_trace(w, "  crash state: killed");
                s.disk = sim_disk_killed(w->disk, sim_random(&s.random));
        } else
                state_cut(&s);
        if (sim_chance(&s.random, 1, 5) && !w->failed) { /* and again while it is being opened */
                (void) state_open(&s, 1 + sim_below(&s.random, 60));
                state_cut(&s);
                s.engine = engine_free(s.engine);
        }
        if (!w->failed && state_open(&s, 0) && check_lists(w, s.engine, false) && state_attach(&s)) {
                state_read(&s);
                if (sim_chance(&s.random, 1, 4) && !w->failed) {
                        state_overwrite(&s);
                        state_read(&s);
                }
        }
        sim_disk_forget(s.disk);
        engine_free(s.engine);
        sim_disk_free(s.disk);
        w->dropping = false;
}
