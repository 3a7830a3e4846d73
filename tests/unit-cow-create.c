/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the engine costs, counted. A snapshot: one record of one block, one flush of the origin, nothing else, whatever
 * the size of the volume and however many snapshots there are. A first overwrite: the old block once, and one block
 * more for as many of them as the queue is deep; the next overwrite of it: nothing. No flush for either. How long that
 * takes is for bench-create and bench-engine.
 */
#include "providers/cow/engine.h"
#include "providers/cow/ring.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>

#define GIB (1ULL << 30)
#define LARGEST ((16ULL << 40) - BLOCK_SIZE) /* a file on ext4 */
enum { STORE_BYTES = 256 << 20, MANY = 511, MEASURED = 3 };

typedef struct World {
        Ring *ring;
        Engine *engine;
        Volume *volume;
        char *directory;
        int fds[2];
        int result; /* of the last reply; 1: it has not come */
} World;

static void reply_came(Reply *r, int result) {
        World *w = r->owner;
        w->result = result;
        ck_assert_msg(result == 0, "%s", r->message);
}

#define CALL(w, ...) \
        do { \
                Reply reply = { .done = reply_came, .owner = (w) }; \
                (w)->result = 1; \
                __VA_ARGS__; \
                while ((w)->result == 1) \
                        ck_assert_int_ge(ring_wait((w)->ring), 0); \
        } while (false)

static void file_make(World *w, unsigned disk, const char *name, uint64_t bytes) {
        char path[512];
        (void) snprintf(path, sizeof(path), "%s/%s", w->directory, name);
        int fd = w->fds[disk] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(ftruncate(fd, (off_t) bytes), 0);
        ck_assert_int_ge(ring_set_file(w->ring, disk, fd), 0);
}

static void world_begin(World *w, uint64_t bytes) {
        const uint8_t uuid[16] = { 9 };
        *w = (World) { .directory = temp_dir_new() };
        ck_assert_int_ge(ring_new(&w->ring), 0);
        file_make(w, DISK_STORE, "store", STORE_BYTES);
        file_make(w, DISK_FIRST_ORIGIN, "origin", bytes);
        EngineOptions o = { .disk = ring_disk(w->ring), .store_bytes = STORE_BYTES };
        ck_assert_int_ge(engine_new(&o, &w->engine), 0);
        CALL(w, engine_format(w->engine, uuid, STORE_BYTES / SEGMENT_BLOCKS / BLOCK_SIZE, SEGMENT_BLOCKS, &reply));
        engine_free(w->engine);
        ck_assert_int_ge(engine_new(&o, &w->engine), 0);
        CALL(w, engine_open(w->engine, &reply));
        CALL(w, engine_volume_create(w->engine, uuid, "v", "/v", bytes, &reply));
        w->volume = engine_volume_by_name(w->engine, "v");
        CALL(w, engine_attach(w->engine, w->volume, DISK_FIRST_ORIGIN, &reply));
}

static void world_end(World *w) {
        CALL(w, engine_stop(w->engine, &reply));
        engine_free(w->engine);
        ring_free(w->ring);
        (void) close_fd(w->fds[0]);
        (void) close_fd(w->fds[1]);
        temp_dir_free(w->directory);
}

static void create(World *w, uint32_t serial) {
        uint64_t token;
        Member m = { .volume = w->volume };
        uint8_t set[16] = { 1 };
        memcpy(m.snapshot, &serial, sizeof(serial));
        memcpy(set + 4, &serial, sizeof(serial));
        CALL(w, engine_hold(w->engine, &w->volume, 1, &token, &reply));
        CALL(w, engine_snapshot(w->engine, token, set, 1, &m, 1, &reply));
        ck_assert(engine_release(w->engine, token));
}

static void create_and_count(World *w, uint32_t serial) {
        EngineStats before, after;
        engine_stats(w->engine, &before);
        create(w, serial);
        engine_stats(w->engine, &after);
        ck_assert_uint_eq(after.snapshots, before.snapshots + 1);
        ck_assert_uint_eq(after.records, before.records + 1);
        ck_assert_uint_eq(after.record_bytes, before.record_bytes + BLOCK_SIZE);
        ck_assert_uint_eq(after.store_writes, before.store_writes + 1);
        ck_assert_uint_eq(after.origin_flushes, before.origin_flushes + 1);
        ck_assert_uint_eq(after.origin_writes, before.origin_writes);
        ck_assert_uint_eq(after.checkpoints, before.checkpoints);
        ck_assert_uint_eq(after.memory_bytes, before.memory_bytes);
}

START_TEST(a_snapshot_costs_one_record_and_one_flush) {
        static const uint64_t sizes[] = { GIB, LARGEST };
        World w;
        uint32_t serial = 1;
        world_begin(&w, sizes[_i % 2]);
        while (_i >= 2 && serial <= MANY - MEASURED)
                create(&w, serial++);
        for (unsigned i = 0; i < MEASURED; i++)
                create_and_count(&w, serial++);
        world_end(&w);
}
END_TEST

/* --- overwrites --------------------------------------------------------------------------------------------------- */

enum { DEPTH_MAX = 32, OVERWRITES = 512 }; /* too few for a checkpoint */

typedef struct Load {
        World *world;
        Request requests[DEPTH_MAX];
        uint8_t *buffer;
        uint64_t begun, ended;
} Load;

static void write_next(Load *l, Request *q);

static void written(Request *q, int result) {
        Load *l = q->owner;
        ck_assert_int_eq(result, 0);
        l->ended++;
        write_next(l, q);
}

static void write_next(Load *l, Request *q) {
        if (l->begun == OVERWRITES)
                return;
        *q = (Request) { .op = REQUEST_WRITE,
                         .volume = l->world->volume,
                         .offset = l->begun++ * 3 * BLOCK_SIZE, /* no two are neighbours */
                         .length = BLOCK_SIZE,
                         .buffer = l->buffer,
                         .done = written,
                         .owner = l };
        engine_submit(l->world->engine, q);
}

static void write_all(World *w, unsigned depth, uint8_t with) {
        Load l = { .world = w, .buffer = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE) };
        memset(l.buffer, with, BLOCK_SIZE);
        for (unsigned i = 0; i < depth; i++)
                write_next(&l, &l.requests[i]);
        while (l.ended < OVERWRITES)
                ck_assert_int_ge(ring_wait(w->ring), 0);
        free(l.buffer);
}

static void write_and_count(World *w, unsigned depth, uint64_t blocks, uint64_t records) {
        EngineStats before, after;
        engine_stats(w->engine, &before);
        write_all(w, depth, 2);
        engine_stats(w->engine, &after);
        ck_assert_uint_eq(after.preserved_blocks - before.preserved_blocks, blocks);
        ck_assert_uint_eq(after.records - before.records, records);
        ck_assert_uint_eq(after.record_bytes - before.record_bytes, (blocks + records) * BLOCK_SIZE);
        ck_assert_uint_eq(after.store_writes - before.store_writes, records);
        ck_assert_uint_eq(after.origin_writes - before.origin_writes, OVERWRITES);
        ck_assert_uint_eq(after.origin_flushes, before.origin_flushes);
        ck_assert_uint_eq(after.checkpoints, before.checkpoints);
}

START_TEST(an_overwrite_costs_its_old_block_once) {
        static const unsigned depths[] = { 1, 8, DEPTH_MAX };
        unsigned depth = depths[_i];
        World w;
        world_begin(&w, GIB);
        write_and_count(&w, depth, 0, 0); /* nobody wants the old blocks */
        create(&w, 1);
        write_and_count(&w, depth, OVERWRITES, OVERWRITES / depth);
        write_and_count(&w, depth, 0, 0);
        create(&w, 2);
        write_and_count(&w, depth, OVERWRITES, OVERWRITES / depth);
        world_end(&w);
}
END_TEST

/* xfs and btrfs have files that long, ext4 and tmpfs too; older file systems do not. */
static void need_large_files(void) {
        char *directory = temp_dir_new(), path[512];
        (void) snprintf(path, sizeof(path), "%s/large", directory);
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        int r = fd < 0 || ftruncate(fd, (off_t) LARGEST) < 0 ? -errno : 0;
        (void) close_fd(fd);
        temp_dir_free(directory);
        if (r < 0)
                test_skip("no file of %llu bytes: %s", LARGEST, strerror(-r));
}

int main(void) {
        need_large_files();
        Suite *suite = suite_create("unit-cow-create");
        TCase *t = tcase_create("cost");
        tcase_set_timeout(t, 50);
        tcase_add_loop_test(t, a_snapshot_costs_one_record_and_one_flush, 0, 4);
        tcase_add_loop_test(t, an_overwrite_costs_its_old_block_once, 0, 3);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
