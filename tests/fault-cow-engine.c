/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine on stores that somebody has damaged: it refuses them with a sentence, or a read fails, or the snapshot is
 * marked as damaged, or what is read is what was there. Never a wrong block of a snapshot that claims to be good. What
 * is right is read from the whole store first.
 */
#include "protocol/base.h"
#include "providers/cow/engine.h"
#include "tests/sim-disk.h"
#include "tests/store-maker.h"
#include "tests/support.h"
#include <check.h>
#include <stdio.h>

enum { VOLUMES = 2, BLOCKS = 1024, SNAPSHOTS = 8, READ_BLOCKS = 32, BYTES = BLOCKS * BLOCK_SIZE - 512 };

typedef struct Contents { /* of each snapshot, by the last byte of its id */
        uint8_t *bytes[SNAPSHOTS];
} Contents;

typedef struct Waiting {
        Reply reply;
        Request request;
        bool done;
        int result;
} Waiting;

static Made pristine;
static SimDisk *base;
static Contents right;
static uint64_t opened_n, refused_n, failed_reads, marked_n;
static uint8_t transfer[READ_BLOCKS * BLOCK_SIZE] __attribute__((aligned(4096)));

static void reply_came(Reply *r, int result) {
        Waiting *w = r->owner;
        w->done = true;
        w->result = result;
}

static void request_came(Request *q, int result) {
        Waiting *w = q->owner;
        w->done = true;
        w->result = result;
}

static int wait_for(SimDisk *d, Waiting *w) {
        while (!w->done)
                ck_assert_msg(sim_disk_step(d) || w->done, "it hangs");
        return w->result;
}

/* The volumes now: noise, but where the last record says what it preserved, that is still there. */
static void origins_fill(SimDisk *d) {
        uint8_t block[BLOCK_SIZE];
        const struct record_head *h = (const struct record_head *) made_at(&pristine, pristine.record[4]);
        const struct descriptor *last = (const struct descriptor *) (h + 1);
        for (unsigned v = 0; v < VOLUMES; v++)
                for (uint64_t b = 0; b < BLOCKS; b++) {
                        memset(block, (int) (0x80 | ((b + v) & 0x7f)), sizeof(block));
                        for (uint32_t i = 0; i < h->count; i++)
                                if (last[i].volblock == VOLBLOCK(v, b) && last[i].flags & ENTRY_ZERO)
                                        memset(block, 0, sizeof(block));
                                else if (last[i].volblock == VOLBLOCK(v, b))
                                        memcpy(block, made_at(&pristine, pristine.record[4] + 1 + last[i].payload),
                                               sizeof(block));
                        sim_disk_poke(d, DISK_FIRST_ORIGIN + v, b * BLOCK_SIZE, block,
                                      b + 1 < BLOCKS ? BLOCK_SIZE : BLOCK_SIZE - 512);
                }
}

static Engine *engine_on(SimDisk *d) {
        Engine *e;
        EngineOptions o = {
                .disk = sim_disk_interface(d),
                .store_bytes = sim_disk_bytes(d, DISK_STORE),
                .limits = { .requests = 8, .memtable = 256, .tail_segments = 2, .reserved = 4, .cache_pages = 16 }
        };
        ck_assert_int_eq(engine_new(&o, &e), 0);
        return e;
}

static int engine_opened(Engine *e, SimDisk *d) {
        static Waiting w;
        w = (Waiting) { .reply = { .done = reply_came, .owner = &w } };
        engine_open(e, &w.reply);
        int r = wait_for(d, &w);
        ck_assert_msg(r == 0 || w.reply.message[0], "refused with %d and no word", r);
        for (unsigned v = 0; r == 0 && v < VOLUMES; v++) {
                Volume *volume = engine_volume_by_number(e, v);
                ck_assert_ptr_nonnull(volume);
                w = (Waiting) { .reply = { .done = reply_came, .owner = &w } };
                engine_attach(e, volume, DISK_FIRST_ORIGIN + v, &w.reply);
                r = wait_for(d, &w);
        }
        return r;
}

static int snapshot_read(Engine *e, SimDisk *d, const SnapshotInfo *s, uint64_t block, uint32_t bytes) {
        static Waiting w;
        w = (Waiting) { .request = { .op = REQUEST_READ,
                                     .volume = s->volume,
                                     .snapshot = s->id,
                                     .offset = block * BLOCK_SIZE,
                                     .length = bytes,
                                     .buffer = transfer,
                                     .done = request_came,
                                     .owner = &w } };
        engine_submit(e, &w.request);
        return wait_for(d, &w);
}

/* learn: this is how it must be. False: it cannot be read. */
static bool piece_compare(Engine *e, SimDisk *d, const SnapshotInfo *s, uint64_t block, uint32_t blocks,
                          Contents *learn, const char *what) {
        uint8_t *content = right.bytes[s->id[15]];
        uint32_t bytes = (uint32_t) MIN_OF((uint64_t) blocks * BLOCK_SIZE, BYTES - block * BLOCK_SIZE);
        if (snapshot_read(e, d, s, block, bytes) < 0)
                return false;
        if (learn)
                memcpy(content + block * BLOCK_SIZE, transfer, bytes);
        else
                ck_assert_msg(!content || memcmp(content + block * BLOCK_SIZE, transfer, bytes) == 0,
                              "%s: snapshot %u, at block %lu it is wrong", what, s->id[15], block);
        return true;
}

/* One block at a time where more fails. */
static void snapshot_compare(Engine *e, SimDisk *d, const SnapshotInfo *s, Contents *learn, const char *what) {
        for (uint64_t block = 0; block < BLOCKS; block += READ_BLOCKS) {
                if (piece_compare(e, d, s, block, READ_BLOCKS, learn, what))
                        continue;
                for (uint64_t b = block; b < block + READ_BLOCKS; b++)
                        failed_reads += !piece_compare(e, d, s, b, 1, learn, what);
        }
}

static void snapshots_compare(Engine *e, SimDisk *d, Contents *learn, const char *what) {
        SnapshotInfo s;
        unsigned position = 0, seen = 0;
        bool hole = false; /* in the log: then all that are left are marked, and what came behind it is not there */
        while (engine_snapshot_next(e, &position, &s)) {
                if (learn)
                        ck_assert_ptr_nonnull(learn->bytes[s.id[15]] = calloc(BLOCKS, BLOCK_SIZE));
                seen |= 1u << s.id[15];
                hole = hole || s.flags & SNAPSHOT_DAMAGED;
                marked_n += (s.flags & SNAPSHOT_DAMAGED) != 0;
                if (!(s.flags & SNAPSHOT_DAMAGED))
                        snapshot_compare(e, d, &s, learn, what);
        }
        for (unsigned n = 0; n < SNAPSHOTS && !learn; n++)
                ck_assert_msg(hole || !right.bytes[n] || seen >> n & 1, "%s: snapshot %u is missing", what, n);
}

static SimDisk *copy(void) {
        return sim_disk_cut(base, SIM_CUT_ALL, 1);
}

static void store_poke(SimDisk *d, uint64_t block, const void *bytes) {
        sim_disk_poke(d, DISK_STORE, block * BLOCK_SIZE, bytes, BLOCK_SIZE);
}

/* What is right is learnt here; without it nothing else can be asked. */
static void world_make(void) {
        base = sim_disk_new(1);
        sim_disk_add(base, DISK_STORE, pristine.size);
        for (unsigned v = 0; v < VOLUMES; v++)
                sim_disk_add(base, DISK_FIRST_ORIGIN + v, BYTES);
        for (uint64_t b = 0; b < pristine.size / BLOCK_SIZE; b++)
                store_poke(base, b, made_at(&pristine, b));
        origins_fill(base);
        SimDisk *d = copy();
        Engine *e = engine_on(d);
        ck_assert_int_eq(engine_opened(e, d), 0);
        snapshots_compare(e, d, &right, "the whole store");
        while (sim_disk_step(d))
                ;
        engine_free(e);
        sim_disk_free(d);
}

static void world_drop(void) {
        for (unsigned n = 0; n < SNAPSHOTS; n++)
                free(TAKE_PTR(right.bytes[n]));
        base = sim_disk_free(base);
}

/* A store on which one thing has been done. */
static void damaged_open(SimDisk *d, const char *what) {
        Engine *e = engine_on(d);
        if (engine_opened(e, d) == 0) {
                opened_n++;
                snapshots_compare(e, d, NULL, what);
        } else
                refused_n++;
        while (sim_disk_step(d))
                ;
        engine_free(e);
        sim_disk_free(d);
}

static void flip(uint64_t block, unsigned at, unsigned bit) {
        uint8_t bytes[BLOCK_SIZE];
        char what[96];
        SimDisk *d = copy();
        memcpy(bytes, made_at(&pristine, block), sizeof(bytes));
        bytes[at] ^= (uint8_t) (1u << bit);
        store_poke(d, block, bytes);
        (void) snprintf(what, sizeof(what), "bit %u of byte %u of block %lu", bit, at, block);
        damaged_open(d, what);
}

static bool is_zeros(unsigned snapshot, uint64_t block) {
        static const uint8_t zeros[BLOCK_SIZE];
        return memcmp(right.bytes[snapshot] + block * BLOCK_SIZE, zeros, BLOCK_SIZE) == 0;
}

/* What is learnt must be right itself: of a free map, what was not struck, and in its own snapshot alone. */
START_TEST(test_what_was_free_is_zeros) {
        static const struct {
                unsigned snapshot;
                uint64_t block;
                bool zeros;
        } known[] = { { 1, 99, false },  { 1, 100, false }, { 1, 101, true },  { 1, 102, false }, { 1, 104, true },
                      { 1, 106, true },  { 1, 107, false }, { 1, 152, false }, { 1, 160, true },  { 1, 848, true },
                      { 1, 850, true },  { 1, 851, false }, { 2, 101, false }, { 2, 848, false }, { 6, 500, true },
                      { 6, 501, false }, { 6, 502, false }, { 6, 503, true },  { 6, 505, false }, { 6, 606, true },
                      { 6, 607, false }, { 5, 900, false }, { 5, 1022, false } };
        for (unsigned i = 0; i < ELEMENTSOF(known); i++)
                ck_assert_msg(is_zeros(known[i].snapshot, known[i].block) == known[i].zeros, "snapshot %u, block %lu",
                              known[i].snapshot, known[i].block);
}
END_TEST

START_TEST(test_bits_of_superblocks_and_manifest) {
        for (unsigned n = 0; n < SUPER_COPIES; n++)
                for (unsigned at = 0; at < 104; at++)
                        flip(made_super(n), at, (at + n) % 8);
        for (unsigned at = 0; at < pristine.manifest_bytes; at++)
                for (unsigned bit = 0; bit < 8; bit++)
                        flip(pristine.manifest_block, at, bit);
}
END_TEST

/* Those of runs and of free maps, one after the other. */
static uint64_t page_of(const Made *m, unsigned n) {
        n %= ELEMENTSOF(m->run_page) + ELEMENTSOF(m->map_page);
        return n < ELEMENTSOF(m->run_page) ? m->run_page[n] : m->map_page[n - ELEMENTSOF(m->run_page)];
}

START_TEST(test_bits_of_pages_data_and_log) {
        SimRandom random = { 11 };
        for (unsigned i = 0; i < 800; i++) {
                uint64_t block = i % 3 == 0 ? page_of(&pristine, i / 3) : 0;
                uint64_t log = pristine.record[0] +
                               sim_below(&random, (uint32_t) (pristine.log_end - pristine.record[0]));
                uint64_t data = pristine.run_data + sim_below(&random, 20);
                flip(block      ? block :
                     i % 3 == 1 ? log :
                                  data,
                     sim_below(&random, i % 2 ? 200 : BLOCK_SIZE), sim_below(&random, 8));
        }
}
END_TEST

START_TEST(test_blocks_exchanged_and_zeroed) {
        static const uint8_t zeros[BLOCK_SIZE];
        SimRandom random = { 12 };
        char what[96];
        for (unsigned i = 0; i < 500; i++) {
                uint64_t a = sim_below(&random, 7 * MADE_SEGMENT_BLOCKS),
                         b = sim_below(&random, 7 * MADE_SEGMENT_BLOCKS);
                SimDisk *d = copy();
                store_poke(d, a, i % 2 ? zeros : made_at(&pristine, b));
                if (i % 2 == 0)
                        store_poke(d, b, made_at(&pristine, a));
                (void) snprintf(what, sizeof(what), "%lu %s %lu", a, i % 2 ? "zeroed," : "exchanged with", b);
                damaged_open(d, what);
        }
}
END_TEST

START_TEST(test_copies_of_the_superblock_gone) {
        static const uint8_t zeros[BLOCK_SIZE];
        char what[96];
        for (unsigned mask = 1; mask < 16; mask++) {
                SimDisk *d = copy();
                for (unsigned n = 0; n < SUPER_COPIES; n++)
                        if (mask >> n & 1)
                                store_poke(d, made_super(n), zeros);
                (void) snprintf(what, sizeof(what), "copies %x gone", mask);
                damaged_open(d, what);
        }
}
END_TEST

static int call(SimDisk *d, void (*start)(Engine *e, Reply *r), Engine *e) {
        static Waiting w;
        w = (Waiting) { .reply = { .done = reply_came, .owner = &w } };
        start(e, &w.reply);
        return wait_for(d, &w);
}

static void lying_volume(Engine *e, SimDisk *d, Volume *v, unsigned n) {
        static Waiting w;
        VolumeInfo info;
        engine_volume_info(v, &info);
        if (info.bytes != BYTES) /* whoever attaches looks at the size */
                return;
        w = (Waiting) { .reply = { .done = reply_came, .owner = &w } };
        engine_attach(e, v, DISK_FIRST_ORIGIN + n % VOLUMES, &w.reply);
        ck_assert_int_eq(wait_for(d, &w), 0);
        for (uint64_t block = 0; block < BLOCKS - 1; block += 100) { /* overwrites, so that something is preserved */
                w = (Waiting) { .request = { .op = REQUEST_WRITE,
                                             .volume = v,
                                             .offset = block * BLOCK_SIZE,
                                             .length = BLOCK_SIZE,
                                             .buffer = transfer,
                                             .done = request_came,
                                             .owner = &w } };
                engine_submit(e, &w.request);
                (void) wait_for(d, &w);
        }
}

static void lying_use(Engine *e, SimDisk *d) {
        SnapshotInfo s;
        VolumeInfo v;
        unsigned position = 0, n = 0;
        for (Volume *volume = engine_volume_next(e, NULL); volume; volume = engine_volume_next(e, volume))
                lying_volume(e, d, volume, n++);
        while (engine_snapshot_next(e, &position, &s)) {
                engine_volume_info(s.volume, &v);
                if (!v.attached)
                        continue;
                for (uint64_t block = 0; block < BLOCKS && (block + READ_BLOCKS) * BLOCK_SIZE <= v.bytes;
                     block += READ_BLOCKS)
                        (void) snapshot_read(e, d, &s, block, READ_BLOCKS * BLOCK_SIZE);
        }
        (void) call(d, engine_collect, e);
        (void) call(d, engine_stop, e);
}

static void lying_open(SimDisk *d) {
        static Waiting w;
        Engine *e = engine_on(d);
        w = (Waiting) { .reply = { .done = reply_came, .owner = &w } };
        engine_open(e, &w.reply);
        int r = wait_for(d, &w);
        opened_n += r == 0;
        refused_n += r < 0;
        if (r == 0)
                lying_use(e, d);
        while (sim_disk_step(d))
                ;
        engine_free(e);
        sim_disk_free(d);
}

/*
 * Right checksums around wrong numbers. What a snapshot holds then is anybody's guess, but the engine refuses or works:
 * it does not go astray, now or when it writes its own manifest.
 */
START_TEST(test_numbers_that_lie) {
        static const uint8_t values[] = { 0, 1, 2, 3, 4, 0x10, 0x7f, 0x80, 0xff };
        SimRandom random = { 13 };
        for (unsigned i = 0; i < 1500; i++) {
                Made m;
                made_copy(&pristine, &m);
                for (unsigned n = sim_below(&random, 2) + 1; n > 0; n--)
                        made_at(&m, m.manifest_block)[sim_below(&random, m.manifest_bytes)] =
                                values[sim_below(&random, ELEMENTSOF(values))];
                unsigned page = sim_below(&random, 7);
                struct run_page *p = (struct run_page *) made_at(&m, page_of(&m, page));
                if (i % 2)
                        ((uint8_t *) p)[20 + sim_below(&random, 100)] = values[sim_below(&random, ELEMENTSOF(values))];
                fix_page(p);
                fix_manifest(&m);
                SimDisk *d = copy();
                store_poke(d, m.manifest_block, made_at(&m, m.manifest_block));
                store_poke(d, page_of(&m, page), (const uint8_t *) p);
                for (unsigned k = 0; k < SUPER_COPIES; k++)
                        store_poke(d, made_super(k), made_at(&m, made_super(k)));
                made_done(&m);
                lying_open(d);
        }
}
END_TEST

int main(void) {
        Suite *s = suite_create("cow-engine");
        TCase *t = tcase_create("damaged");
        made_example(&pristine);
        tcase_set_timeout(t, 280);
        tcase_add_unchecked_fixture(t, world_make, world_drop);
        tcase_add_test(t, test_what_was_free_is_zeros);
        tcase_add_test(t, test_copies_of_the_superblock_gone);
        tcase_add_test(t, test_bits_of_superblocks_and_manifest);
        tcase_add_test(t, test_bits_of_pages_data_and_log);
        tcase_add_test(t, test_blocks_exchanged_and_zeroed);
        suite_add_tcase(s, t);
        t = tcase_create("lying");
        tcase_add_unchecked_fixture(t, world_make, world_drop);
        tcase_set_timeout(t, 280);
        tcase_add_test(t, test_numbers_that_lie);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_set_fork_status(r, CK_NOFORK);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        printf("%lu stores opened, %lu refused, %lu reads failed, %lu snapshots marked as damaged\n", opened_n,
               refused_n, failed_reads, marked_n);
        made_done(&pristine);
        return failed ? 1 : 0;
}
