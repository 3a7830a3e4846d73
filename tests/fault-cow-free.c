/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What free maps cost the store: their segments can be used again as soon as they count as free, and small maps do not
 * each take a segment. Found by reading: a map that nobody needed any more kept its segments from being used, and a
 * full store counted on them. And a set whose maps had been struck too often for its record was refused.
 */
#include "protocol/base.h"
#include "providers/cow/engine.h"
#include "tests/sim-disk.h"
#include <check.h>
#include <stdio.h>

enum {
        SEGMENT = 64,      /* blocks */
        LEAST = 16,        /* … of the smallest store: its records have 64 KiB */
        MANY = 38,         /* members of a set, with the longest labels: 41 KiB */
        STRUCK = 3,        /* … of these with 8 KiB of strikes */
        LARGE = 1 << 22,   /* blocks of volume 0: enough for a map of many segments */
        SMALL = 8192,      /* … of volume 1: larger than the store */
        EXTENTS = 131072,  /* of the large map: 12 segments */
        STEP = 16,         /* blocks of one write */
        CHECKPOINTS = 100, /* until the store would have noticed */
        SNAPSHOTS = 24,
};

static SimDisk *disk;
static Engine *engine;
static Volume *volumes[MANY];
static bool came, lost;
static int result;
static Reply reply;
static uint8_t buffer[STEP * BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));

static void reply_came(Reply *r, int x) {
        came = true;
        result = x;
}

static void request_came(Request *r, int x) {
        came = true;
        result = x;
}

static Reply *expect(void) {
        came = false;
        reply = (Reply) { .done = reply_came };
        return &reply;
}

static int wait_for_it(void) {
        while (!came && sim_disk_step(disk))
                ;
        ck_assert(came);
        return result;
}

static void event_came(void *userdata, EngineEvent event, const uint8_t id[16], const char *text) {
        lost = lost || event == ENGINE_STORE_LOST;
}

static void engine_make(uint32_t segments, uint32_t segment) {
        const EngineOptions o = {
                .disk = sim_disk_interface(disk),
                .store_bytes = (uint64_t) segments * segment * BLOCK_SIZE,
                .event = event_came,
                .limits = { .requests = 8, .memtable = 1024, .tail_segments = 4, .reserved = 12, .cache_pages = 16 },
        };
        ck_assert_int_eq(engine_new(&o, &engine), 0);
}

static void store_begin(uint32_t segments, uint32_t segment) {
        static const uint8_t uuid[16] = { 9 };
        lost = false;
        disk = sim_disk_new(1);
        sim_disk_add(disk, DISK_STORE, (uint64_t) segments * segment * BLOCK_SIZE);
        engine_make(segments, segment);
        engine_format(engine, uuid, segments, segment, expect());
        ck_assert_int_eq(wait_for_it(), 0);
        engine_free(engine);
        engine_make(segments, segment);
        engine_open(engine, expect());
        ck_assert_int_eq(wait_for_it(), 0);
}

static void volume_begin(unsigned i, uint64_t blocks) {
        const uint8_t id[16] = { (uint8_t) (i + 1) };
        char name[8];
        (void) snprintf(name, sizeof(name), "v%u", i);
        sim_disk_add(disk, DISK_FIRST_ORIGIN + i, blocks * BLOCK_SIZE);
        engine_volume_create(engine, id, name, "/origin", blocks * BLOCK_SIZE, expect());
        ck_assert_int_eq(wait_for_it(), 0);
        volumes[i] = engine_volume_by_name(engine, name);
        engine_attach(engine, volumes[i], DISK_FIRST_ORIGIN + i, expect());
        ck_assert_int_eq(wait_for_it(), 0);
}

static void world_begin(uint32_t segments) {
        store_begin(segments, SEGMENT);
        volume_begin(0, LARGE);
        volume_begin(1, SMALL);
}

static void world_end(void) {
        sim_disk_forget(disk);
        engine_free(engine);
        sim_disk_free(disk);
}

static void map_give(Volume *v, uint32_t extents) {
        FreeExtent *x = calloc(extents, sizeof(*x));
        ck_assert_ptr_nonnull(x);
        for (uint32_t i = 0; i < extents; i++)
                x[i] = (FreeExtent) { i * 32, 7 };
        ck_assert_int_eq(engine_track(engine, v), 0);
        engine_free_map(engine, v, x, extents, expect());
        ck_assert_int_eq(wait_for_it(), 0);
        free(x);
}

static void snapshot_make(Volume *v, uint8_t number, bool skip) {
        uint64_t token;
        const uint8_t set[16] = { number };
        Member m = { .volume = v, .label = "", .skips_free = skip };
        m.snapshot[0] = number;
        engine_hold(engine, &v, 1, &token, expect());
        ck_assert_int_eq(wait_for_it(), 0);
        engine_snapshot(engine, token, set, 0, &m, 1, expect());
        ck_assert_int_eq(wait_for_it(), 0);
        ck_assert(engine_release(engine, token));
}

static void snapshot_delete(uint8_t number) {
        const uint8_t id[16] = { number };
        engine_delete(engine, id, expect());
        ck_assert_int_eq(wait_for_it(), 0);
}

static int checkpoint(void) {
        engine_checkpoint(engine, expect());
        return wait_for_it();
}

static void collect(void) {
        engine_collect(engine, expect());
        ck_assert_int_eq(wait_for_it(), 0);
        for (unsigned i = 0; i < 3; i++)
                ck_assert_int_eq(checkpoint(), 0);
}

/* No two blocks ever have the same content. */
static int overwrite(Volume *v, uint64_t block) {
        static uint64_t serial;
        for (unsigned i = 0; i < STEP; i++)
                memcpy(buffer + (size_t) i * BLOCK_SIZE, &(uint64_t) { ++serial }, sizeof(serial));
        Request q = { .op = REQUEST_WRITE,
                      .volume = v,
                      .offset = block * BLOCK_SIZE,
                      .length = sizeof(buffer),
                      .buffer = buffer,
                      .done = request_came };
        came = false;
        engine_submit(engine, &q);
        return wait_for_it();
}

static uint32_t segments_free(void) {
        EngineStats s;
        engine_stats(engine, &s);
        return s.segments_free;
}

START_TEST(a_full_store_does_not_count_on_the_map_of_a_deleted_snapshot) {
        int r = 0;
        world_begin(64);
        engine_set_policy(engine, POLICY_FAIL_WRITES, expect());
        ck_assert_int_eq(wait_for_it(), 0);
        uint32_t before = segments_free();
        map_give(volumes[0], EXTENTS);
        snapshot_make(volumes[0], 1, true);
        ck_assert_uint_lt(segments_free() + 8, before);
        snapshot_delete(1);
        collect();
        ck_assert_uint_ge(segments_free() + 4, before);
        for (uint64_t block = 0; block < SMALL; block += STEP)
                ck_assert_int_eq(overwrite(volumes[1], block), 0);
        snapshot_make(volumes[1], 2, false);
        for (uint64_t block = 0; r == 0 && block < SMALL; block += STEP)
                r = overwrite(volumes[1], block);
        ck_assert_int_eq(r, -ENOSPC);
        for (unsigned i = 0; i < CHECKPOINTS; i++)
                ck_assert_int_eq(checkpoint(), 0);
        ck_assert(!lost);
        world_end();
}
END_TEST

/* Between two snapshots the segment for pages is filled with runs and manifests, which die soon. */
START_TEST(small_maps_lie_together) {
        world_begin(256);
        uint32_t before = segments_free();
        for (unsigned i = 1; i <= SNAPSHOTS; i++) {
                map_give(volumes[0], 100);
                snapshot_make(volumes[0], (uint8_t) i, true);
                for (unsigned k = 0; k < 2 * SEGMENT; k++)
                        ck_assert_int_eq(checkpoint(), 0);
        }
        collect();
        ck_assert_uint_ge(segments_free() + 6, before);
        ck_assert(!lost);
        world_end();
}
END_TEST

/* One that is not, or is just going to be somebody else's, is not tracked. */
START_TEST(only_an_attached_volume_is_tracked) {
        static const uint8_t stamp[88] = { 0 };
        world_begin(64);
        engine_detach(engine, volumes[0], stamp, expect());
        ck_assert_int_eq(engine_track(engine, volumes[0]), -ENODEV);
        ck_assert_int_eq(wait_for_it(), 0);
        ck_assert_int_eq(engine_track(engine, volumes[0]), -ENODEV);
        world_end();
}
END_TEST

/* Then the set does without the maps: everything is preserved, and it is one instant all the same. */
START_TEST(strikes_that_do_not_fit_are_done_without) {
        uint64_t token;
        const uint8_t set[16] = { 7 };
        char label[LABEL_MAX + 1];
        Member members[MANY] = { 0 };
        SnapshotInfo info;
        store_begin(512, LEAST);
        memset(label, 'x', LABEL_MAX);
        label[LABEL_MAX] = '\0';
        for (unsigned i = 0; i < MANY; i++) {
                volume_begin(i, LARGE);
                if (i < STRUCK)
                        map_give(volumes[i], STRIKES_MAX);
                for (uint64_t k = 0; i < STRUCK && k < STRIKES_MAX; k++) /* the last block of an extent, and more */
                        ck_assert_int_eq(overwrite(volumes[i], k * 32 + 6), 0);
                members[i] = (Member) { .volume = volumes[i], .label = label, .skips_free = i < STRUCK };
                members[i].snapshot[0] = (uint8_t) (i + 1);
        }
        engine_hold(engine, volumes, MANY, &token, expect());
        ck_assert_int_eq(wait_for_it(), 0);
        engine_snapshot(engine, token, set, 0, members, MANY, expect());
        ck_assert_int_eq(wait_for_it(), 0);
        ck_assert(engine_release(engine, token));
        for (unsigned i = 0; i < MANY; i++) {
                ck_assert(engine_snapshot_info(engine, members[i].snapshot, &info));
                ck_assert(!info.skips_free);
        }
        world_end();
}
END_TEST

int main(void) {
        Suite *s = suite_create("free");
        TCase *t = tcase_create("free");
        tcase_set_timeout(t, 60);
        tcase_add_test(t, a_full_store_does_not_count_on_the_map_of_a_deleted_snapshot);
        tcase_add_test(t, small_maps_lie_together);
        tcase_add_test(t, only_an_attached_volume_is_tracked);
        tcase_add_test(t, strikes_that_do_not_fit_are_done_without);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_ENV);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? 1 : 0;
}
