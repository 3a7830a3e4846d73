/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rules of the engine about what is only half done: sets that are being taken apart, epochs whose snapshot never was,
 * origins that could not be flushed. Each is brought about on purpose, step by step, since a random run hardly ever
 * comes by.
 */
#include "protocol/base.h"
#include "providers/cow/engine.h"
#include "tests/sim-disk.h"
#include "tests/store-maker.h"
#include "tests/support.h"
#include <check.h>
#include <stdio.h>

enum {
        VOLUMES = 2,
        BLOCKS = 256, /* of each volume */
        SEGMENTS = 64,
        STEP_BLOCKS = 16, /* of one write, and of a segment */
        SETS = 2,
};

typedef struct World {
        SimDisk *disk;
        Engine *engine;
        Volume *volumes[VOLUMES];
        unsigned dropped[SETS]; /* members of each set that the engine said it drops */
} World;

typedef struct Waiting {
        Reply reply;
        Request request;
        bool came;
        int result;
} Waiting;

static uint8_t transfer[STEP_BLOCKS * BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));

/* --- calls -------------------------------------------------------------------------------------------------------- */

static void reply_came(Reply *r, int result) {
        Waiting *w = r->owner;
        w->came = true;
        w->result = result;
}

static void request_came(Request *q, int result) {
        Waiting *w = q->owner;
        w->came = true;
        w->result = result;
}

static Reply *expect(Waiting *w) {
        *w = (Waiting) { .reply = { .done = reply_came, .owner = w } };
        return &w->reply;
}

static int result_of(World *w, Waiting *x) {
        while (!x->came)
                ck_assert_msg(sim_disk_step(w->disk) || x->came, "it hangs");
        return x->result;
}

/* The result of an asynchronous call; `reply` is what it answers to. */
#define CALL(w, ...) \
        ({ \
                Waiting waiting; \
                Reply *reply = expect(&waiting); \
                __VA_ARGS__; \
                result_of(w, &waiting); \
        })
#define MUST(w, ...) \
        do { \
                int result = CALL(w, __VA_ARGS__); \
                ck_assert_int_eq(result, 0); \
        } while (false)

static void request_begin(World *w, Waiting *x, RequestOp op, unsigned volume, uint64_t block, uint32_t blocks) {
        *x = (Waiting) { .request = { .op = op,
                                      .volume = w->volumes[volume],
                                      .offset = block * BLOCK_SIZE,
                                      .length = blocks * BLOCK_SIZE,
                                      .buffer = transfer,
                                      .done = request_came,
                                      .owner = x } };
        engine_submit(w->engine, &x->request);
}

static int request(World *w, RequestOp op, unsigned volume, uint64_t block, uint32_t blocks) {
        Waiting x;
        request_begin(w, &x, op, volume, block, blocks);
        return result_of(w, &x);
}

/* --- the world ---------------------------------------------------------------------------------------------------- */

/* Ids say what they are of: the set first, then the volume; both from 1. */
static void id_make(uint8_t id[16], unsigned set, unsigned volume) {
        memset(id, 0, 16);
        id[0] = (uint8_t) set;
        id[15] = (uint8_t) volume;
}

static void event_came(void *userdata, EngineEvent event, const uint8_t id[16], const char *text) {
        World *w = userdata;
        ck_assert_msg(event != ENGINE_STORE_LOST, "the store is lost: %s", text);
        if (event == ENGINE_SNAPSHOT_DROPPED)
                w->dropped[id[0] - 1]++;
}

static Engine *engine_on(SimDisk *d, World *w) {
        Engine *e;
        EngineOptions o = {
                .disk = sim_disk_interface(d),
                .store_bytes = sim_disk_bytes(d, DISK_STORE),
                .limits = { .requests = 8, .memtable = 64, .tail_segments = 2, .reserved = 4, .cache_pages = 16 },
                .event = w ? event_came : NULL,
                .userdata = w,
        };
        ck_assert_int_eq(engine_new(&o, &e), 0);
        return e;
}

/* Volumes are attached here, or not at all. */
static void world_open(World *w, bool attach) {
        w->engine = engine_on(w->disk, w);
        MUST(w, engine_open(w->engine, reply));
        for (unsigned i = 0; i < VOLUMES; i++) {
                w->volumes[i] = engine_volume_by_number(w->engine, i);
                ck_assert_ptr_nonnull(w->volumes[i]);
                if (attach)
                        MUST(w, engine_attach(w->engine, w->volumes[i], DISK_FIRST_ORIGIN + i, reply));
        }
}

/* The process dies, and its disks keep what they were given. */
static void world_kill(World *w) {
        SimDisk *after = sim_disk_killed(w->disk, 1);
        sim_disk_forget(w->disk);
        engine_free(w->engine);
        sim_disk_free(w->disk);
        w->disk = after;
}

static void world_begin(World *w) {
        const uint64_t bytes = (uint64_t) SEGMENTS * STEP_BLOCKS * BLOCK_SIZE;
        uint8_t uuid[16] = { 7 };
        *w = (World) { .disk = sim_disk_new(1) };
        sim_disk_add(w->disk, DISK_STORE, bytes);
        memset(transfer, 0xaa, sizeof(transfer));
        for (unsigned i = 0; i < VOLUMES; i++) {
                sim_disk_add(w->disk, DISK_FIRST_ORIGIN + i, BLOCKS * BLOCK_SIZE);
                for (uint64_t b = 0; b < BLOCKS; b += STEP_BLOCKS)
                        sim_disk_poke(w->disk, DISK_FIRST_ORIGIN + i, b * BLOCK_SIZE, transfer, sizeof(transfer));
        }
        w->engine = engine_on(w->disk, w);
        MUST(w, engine_format(w->engine, uuid, SEGMENTS, STEP_BLOCKS, reply));
        engine_free(w->engine);
        w->engine = engine_on(w->disk, w);
        MUST(w, engine_open(w->engine, reply));
        for (unsigned i = 0; i < VOLUMES; i++) {
                char name[] = { 'v', (char) ('0' + i), '\0' };
                uuid[0] = (uint8_t) (8 + i);
                MUST(w, engine_volume_create(w->engine, uuid, name, "/origin", BLOCKS * BLOCK_SIZE, reply));
        }
        world_kill(w);
        world_open(w, true);
}

static void world_end(World *w) {
        while (sim_disk_step(w->disk))
                ;
        engine_free(w->engine);
        sim_disk_free(w->disk);
}

/* --- sets --------------------------------------------------------------------------------------------------------- */

/* Of all volumes. */
static void set_make(World *w, unsigned set, uint32_t flags) {
        Member members[VOLUMES];
        uint64_t token;
        uint8_t id[16];
        for (unsigned i = 0; i < VOLUMES; i++) {
                members[i] = (Member) { .volume = w->volumes[i], .flags = flags };
                id_make(members[i].snapshot, set, i + 1);
        }
        id_make(id, set, 0);
        MUST(w, engine_hold(w->engine, w->volumes, VOLUMES, &token, reply));
        MUST(w, engine_snapshot(w->engine, token, id, 1, members, VOLUMES, reply));
        ck_assert(engine_release(w->engine, token));
}

/* How many of its members are there, and how many of these are pending. */
static unsigned set_members(Engine *e, unsigned set, unsigned *ret_pending) {
        SnapshotInfo s;
        unsigned n = 0, pending = 0;
        for (unsigned position = 0; engine_snapshot_next(e, &position, &s);)
                if (s.set[0] == set) {
                        n++;
                        pending += (s.flags & SNAPSHOT_PENDING) != 0;
                }
        if (ret_pending)
                *ret_pending = pending;
        return n;
}

static void commit_is_refused(World *w, unsigned set, int error) {
        Waiting x;
        uint8_t id[16];
        id_make(id, set, 0);
        engine_commit_set(w->engine, id, expect(&x));
        int r = result_of(w, &x);
        ck_assert_int_eq(r, error);
}

static void one_is_left_and_pending(World *w) {
        unsigned pending, n = set_members(w->engine, 1, &pending);
        ck_assert_uint_eq(n, 1);
        ck_assert_uint_eq(pending, 1);
}

/* No partial commit: while one member is on its way out, the set is none any more. */
START_TEST(a_set_with_a_dying_member_is_not_committed) {
        World w;
        Waiting gone;
        uint8_t id[16];
        world_begin(&w);
        set_make(&w, 1, SNAPSHOT_PENDING);
        id_make(id, 1, 1 + (unsigned) _i);
        engine_delete(w.engine, id, expect(&gone));
        ck_assert_msg(!gone.came, "its deletion is durable before anything was written");
        commit_is_refused(&w, 1, -ESTALE);
        ck_assert_int_eq(result_of(&w, &gone), 0);
        one_is_left_and_pending(&w);
        world_kill(&w);
        world_open(&w, true);
        one_is_left_and_pending(&w);
        world_end(&w);
}
END_TEST

/* --- a full store ------------------------------------------------------------------------------------------------- */

/* None of the sets is there in part, now or after a power cut at this moment. */
static void sets_are_whole(World *w, uint64_t seed) {
        World after = { .disk = sim_disk_cut(w->disk, (SimCut) (seed % SIM_CUT_MAX), seed) };
        world_open(&after, false);
        for (unsigned set = 1; set <= SETS; set++) {
                unsigned now = set_members(w->engine, set, NULL), then = set_members(after.engine, set, NULL);
                unsigned dropped = w->dropped[set - 1];
                ck_assert_msg(dropped == 0 || dropped == VOLUMES, "%u of %d of set %u are dropped", dropped, VOLUMES,
                              set);
                ck_assert_msg(now == 0 || now == VOLUMES, "%u of %d of set %u are there", now, VOLUMES, set);
                ck_assert_msg(then == 0 || then == VOLUMES, "%u of %d of set %u are there after a cut", then, VOLUMES,
                              set);
        }
        ck_assert_msg(w->dropped[1] == 0 || set_members(w->engine, 1, NULL) == 0, "the younger set went first");
        world_end(&after);
}

/* Writes until the policy has dropped the older set, and goes on until it is gone; everything is looked at in between.
 */
static void write_until_dropped(World *w) {
        Waiting x = { .came = true };
        uint64_t steps = 0, block = 0;
        while (set_members(w->engine, 1, NULL) > 0) {
                if (x.came && w->dropped[0] == 0) {
                        ck_assert_uint_lt(block, VOLUMES * BLOCKS);
                        memset(transfer, (int) block + 1, sizeof(transfer));
                        request_begin(w, &x, REQUEST_WRITE, block / BLOCKS, block % BLOCKS, STEP_BLOCKS);
                        block += STEP_BLOCKS;
                }
                ck_assert(sim_disk_step(w->disk));
                steps++;
                if (w->dropped[0] > 0 && set_members(w->engine, 1, NULL) > 0)
                        commit_is_refused(w, 1, -ESTALE);
                if (w->dropped[0] > 0 || steps % 64 == 0)
                        sets_are_whole(w, steps);
        }
        ck_assert_int_eq(result_of(w, &x), 0);
}

/* Half a set is of no use to anybody (hazards D5): when there is no room, the oldest goes as a whole. */
START_TEST(the_oldest_set_is_dropped_as_a_whole) {
        World w;
        world_begin(&w);
        set_make(&w, 1, SNAPSHOT_PENDING);
        set_make(&w, 2, 0);
        write_until_dropped(&w);
        ck_assert_uint_eq(w.dropped[0], VOLUMES);
        commit_is_refused(&w, 1, -ENOENT);
        world_end(&w);
}
END_TEST

/* --- epochs ------------------------------------------------------------------------------------------------------- */

enum { REFUSED_EPOCH = 9, MADE_BYTES = 1024 * BLOCK_SIZE - 512 };

/* A store whose last record preserved blocks under an epoch that no snapshot has; what it says of them is made up. */
static void refused_store(SimDisk *d) {
        Made m;
        made_example(&m);
        struct record_head *h = (struct record_head *) made_at(&m, m.record[4]);
        struct descriptor *of = (struct descriptor *) (h + 1);
        ck_assert_uint_eq(h->type, RECORD_PRESERVE);
        for (uint32_t i = 0; i < h->count; i++)
                of[i].epoch = REFUSED_EPOCH;
        fix_record(h);
        sim_disk_add(d, DISK_STORE, m.size);
        sim_disk_poke(d, DISK_STORE, 0, m.bytes, m.size);
        for (unsigned i = 0; i < VOLUMES; i++)
                sim_disk_add(d, DISK_FIRST_ORIGIN + i, MADE_BYTES);
        made_done(&m);
}

static uint32_t epoch_of(World *w, unsigned set) {
        SnapshotInfo s;
        uint8_t id[16];
        id_make(id, set, 1);
        ck_assert(engine_snapshot_info(w->engine, id, &s));
        return s.epoch;
}

/* All that the record had preserved, as the snapshot of the volume has it: it is younger, so it has the volume's own.
 */
static void snapshot_has_what_the_volume_has(World *w, unsigned set) {
        static const uint8_t zeros[8 * BLOCK_SIZE];
        uint8_t id[16];
        Waiting x = { .request = { .op = REQUEST_READ,
                                   .volume = w->volumes[0],
                                   .snapshot = id,
                                   .offset = 700 * BLOCK_SIZE,
                                   .length = sizeof(zeros),
                                   .buffer = transfer,
                                   .done = request_came,
                                   .owner = &x } };
        id_make(id, set, 1);
        engine_submit(w->engine, &x.request);
        int r = result_of(w, &x);
        ck_assert_int_eq(r, 0);
        ck_assert_msg(memcmp(transfer, zeros, sizeof(zeros)) == 0, "the snapshot has what is older than it");
}

/*
 * From the moment its record is given to the disk, blocks are preserved under the epoch of a snapshot. Should it be
 * refused after all, they stay, and they are older than any snapshot to come: it must not get their epoch.
 */
START_TEST(the_epoch_of_a_refused_snapshot_is_not_given_again) {
        World w = { .disk = sim_disk_new(2) };
        uint32_t newest = REFUSED_EPOCH;
        refused_store(w.disk);
        world_open(&w, true);
        for (unsigned set = 1; set <= 2 + (unsigned) _i; set++) {
                set_make(&w, set, 0);
                snapshot_has_what_the_volume_has(&w, set);
                uint32_t epoch = epoch_of(&w, set);
                ck_assert_uint_gt(epoch, newest);
                newest = epoch;
                if (_i == 0)
                        continue;
                world_kill(&w);
                world_open(&w, true);
        }
        world_end(&w);
}
END_TEST

/* --- flushes ------------------------------------------------------------------------------------------------------ */

static void flush_fails_once(World *w, unsigned volume) {
        SimFault fault = { .disk = (int) (DISK_FIRST_ORIGIN + volume), .ops = 1 << IO_FLUSH, .nth = 1, .error = EIO };
        (void) sim_disk_fault(w->disk, &fault);
}

static void volume_is(World *w, unsigned volume, bool attached, bool store_says_so) {
        VolumeInfo info;
        engine_volume_info(w->volumes[volume], &info);
        ck_assert_int_eq(info.attached, attached);
        ck_assert_int_eq((info.flags & VOLUME_ATTACHED) != 0, store_says_so);
        ck_assert_msg(!info.gated, "its gate is closed");
}

static int detach(World *w, unsigned volume) {
        static const uint8_t stamp[88] = { 1 };
        return CALL(w, engine_detach(w->engine, w->volumes[volume], stamp, reply));
}

/* It is detached all the same, but not in order: the store says so for as long as nobody has attached it again. */
START_TEST(a_volume_that_cannot_be_flushed_is_detached_without_order) {
        World w;
        world_begin(&w);
        set_make(&w, 1, 0);
        ck_assert_int_eq(request(&w, REQUEST_WRITE, 0, 0, STEP_BLOCKS), 0);
        flush_fails_once(&w, 0);
        if (_i) /* the flush of somebody else was the one that failed */
                ck_assert_int_eq(request(&w, REQUEST_FLUSH, 0, 0, 0), -EIO);
        ck_assert_int_eq(detach(&w, 0), -EIO);
        volume_is(&w, 0, false, true);
        ck_assert_int_eq(detach(&w, 1), 0);
        volume_is(&w, 1, false, false);
        world_kill(&w);
        world_open(&w, false);
        volume_is(&w, 0, false, true);
        volume_is(&w, 1, false, false);
        MUST(&w, engine_attach(w.engine, w.volumes[0], DISK_FIRST_ORIGIN, reply));
        ck_assert_int_eq(detach(&w, 0), 0);
        volume_is(&w, 0, false, false);
        world_end(&w);
}
END_TEST

static int hold(World *w, unsigned first, unsigned n) {
        uint64_t token;
        int r = CALL(w, engine_hold(w->engine, w->volumes + first, n, &token, reply));
        ck_assert(r < 0 || engine_release(w->engine, token));
        return r;
}

/*
 * What the kernel could not write it may have forgotten, and the next flush succeeds: it says nothing (hazards D8). So
 * no flush and no snapshot of that volume, alone or with others, until the process has gone; all else goes on.
 */
START_TEST(a_flush_that_failed_once_fails_for_ever) {
        World w;
        world_begin(&w);
        ck_assert_int_eq(request(&w, REQUEST_WRITE, 0, 0, STEP_BLOCKS), 0);
        flush_fails_once(&w, 0);
        if (_i)
                ck_assert_int_eq(hold(&w, 0, 1), -EIO);
        else
                ck_assert_int_eq(request(&w, REQUEST_FLUSH, 0, 0, 0), -EIO);
        sim_disk_faults_clear(w.disk);
        for (unsigned i = 0; i < 3; i++) {
                ck_assert_int_eq(request(&w, REQUEST_FLUSH, 0, 0, 0), -EIO);
                ck_assert_int_eq(hold(&w, 0, 1), -EIO);
                ck_assert_int_eq(hold(&w, 0, VOLUMES), -EIO);
                ck_assert_int_eq(hold(&w, 1, 1), 0);
                ck_assert_int_eq(request(&w, REQUEST_WRITE, i % VOLUMES, 0, STEP_BLOCKS), 0);
                volume_is(&w, 0, true, true);
                volume_is(&w, 1, true, true);
                if (i == 1) { /* letting it go and taking it again changes nothing */
                        ck_assert_int_eq(detach(&w, 0), -EIO);
                        MUST(&w, engine_attach(w.engine, w.volumes[0], DISK_FIRST_ORIGIN, reply));
                }
        }
        world_kill(&w);
        world_open(&w, true);
        ck_assert_int_eq(request(&w, REQUEST_FLUSH, 0, 0, 0), 0);
        set_make(&w, 1, 0);
        world_end(&w);
}
END_TEST

/* --- numbers ------------------------------------------------------------------------------------------------------ */

/* A ublk device says by number whose it is: so none is given twice, and none that has no room there. */
START_TEST(a_store_gives_no_number_twice) {
        static const uint8_t uuid[16] = { 7 };
        World w;
        world_begin(&w);
        for (unsigned number = VOLUMES; number < VOLUME_NUMBERS; number++) {
                MUST(&w, engine_volume_create(w.engine, uuid, "next", "/next", 1 << 20, reply));
                Volume *v = engine_volume_by_name(w.engine, "next");
                ck_assert_ptr_eq(engine_volume_by_number(w.engine, number), v);
                MUST(&w, engine_volume_remove(w.engine, v, false, reply));
        }
        int r = CALL(&w, engine_volume_create(w.engine, uuid, "next", "/next", 1 << 20, reply));
        ck_assert_int_eq(r, -EDQUOT);
        world_kill(&w);
        world_open(&w, true); /* and what it has it can still read */
        r = CALL(&w, engine_volume_create(w.engine, uuid, "next", "/next", 1 << 20, reply));
        ck_assert_int_eq(r, -EDQUOT);
        world_end(&w);
}
END_TEST

/* --- all together ------------------------------------------------------------------------------------------------- */

int main(void) {
        Suite *s = suite_create("cow-rules");
        TCase *t = tcase_create("sets");
        tcase_add_loop_test(t, a_set_with_a_dying_member_is_not_committed, 0, VOLUMES);
        tcase_add_test(t, the_oldest_set_is_dropped_as_a_whole);
        suite_add_tcase(s, t);
        t = tcase_create("epochs");
        tcase_add_loop_test(t, the_epoch_of_a_refused_snapshot_is_not_given_again, 0, 2);
        suite_add_tcase(s, t);
        t = tcase_create("numbers");
        tcase_add_test(t, a_store_gives_no_number_twice);
        suite_add_tcase(s, t);
        t = tcase_create("flushes");
        tcase_add_loop_test(t, a_volume_that_cannot_be_flushed_is_detached_without_order, 0, 2);
        tcase_add_loop_test(t, a_flush_that_failed_once_fails_for_ever, 0, 2);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed > 0;
}
