/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated disk keeps what it has to keep, and loses what it may lose. */
#include "protocol/base.h"
#include "tests/sim-disk.h"
#include "tests/sim-oracle.h"
#include "tests/sim-world.h"
#include <check.h>

enum { BYTES = 64 * SIM_PAGE, SEEDS = 300 };

typedef struct Call {
        Io io;
        bool done;
        int result;
} Call;

#define aligned __attribute__((aligned(SIM_SECTOR)))
static uint8_t ones[SIM_PAGE] aligned, twos[SIM_PAGE] aligned;

static void call_done(Io *io, int result) {
        Call *c = io->owner;
        ck_assert(!c->done);
        c->done = true;
        c->result = result;
}

static void begin(SimDisk *d, Call *c, IoOp op, unsigned disk, uint64_t offset, size_t length, void *buffer) {
        *c = (Call) { .io = { .op = op,
                              .disk = disk,
                              .offset = offset,
                              .length = length,
                              .buffer = buffer,
                              .done = call_done,
                              .owner = c } };
        disk_submit(sim_disk_interface(d), &c->io);
        ck_assert(!c->done);
}

static int complete(SimDisk *d, Call *c) {
        while (!c->done)
                ck_assert(sim_disk_step(d));
        return c->result;
}

static int do_io(SimDisk *d, IoOp op, uint64_t offset, size_t length, void *buffer) {
        Call c;
        begin(d, &c, op, DISK_STORE, offset, length, buffer);
        return complete(d, &c);
}

static SimDisk *disk_new(uint64_t seed) {
        SimDisk *d = sim_disk_new(seed);
        sim_disk_add(d, DISK_STORE, BYTES);
        sim_disk_add(d, DISK_FIRST_ORIGIN, BYTES);
        memset(ones, 1, sizeof(ones));
        memset(twos, 2, sizeof(twos));
        return d;
}

/* How many sectors of the first page have that byte after the cut. */
static unsigned count_after(const SimDisk *d, SimCut how, uint64_t seed, uint8_t byte) {
        uint8_t page[SIM_PAGE] aligned;
        unsigned n = 0;
        SimDisk *cut = sim_disk_cut(d, how, seed);
        sim_disk_peek(cut, DISK_STORE, 0, page, sizeof(page));
        for (unsigned i = 0; i < SIM_PAGE / SIM_SECTOR; i++)
                n += page[i * SIM_SECTOR + SIM_SECTOR - 1] == byte;
        sim_disk_free(cut);
        return n;
}

START_TEST(a_write_is_seen_and_not_yet_stable) {
        uint8_t page[SIM_PAGE] aligned;
        bool lost = false, whole = false, torn = false;
        SimDisk *d = disk_new(1);
        ck_assert_int_eq(do_io(d, IO_WRITE, 0, SIM_PAGE, ones), SIM_PAGE);
        ck_assert_int_eq(do_io(d, IO_READ, 0, SIM_PAGE, page), SIM_PAGE);
        ck_assert_mem_eq(page, ones, SIM_PAGE);
        ck_assert_uint_eq(sim_disk_unstable(d), 1);
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
                unsigned n = count_after(d, SIM_CUT_RANDOM, seed, 1);
                lost = lost || n == 0;
                whole = whole || n == 8;
                torn = torn || (n > 0 && n < 8);
                ck_assert_uint_eq(count_after(d, SIM_CUT_NONE, seed, 1), 0);
        }
        ck_assert(lost && whole && torn);
        sim_disk_free(d);
}
END_TEST

START_TEST(a_flush_covers_what_was_done_before_it) {
        Call late, flush;
        bool lost = false;
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
                SimDisk *d = disk_new(seed);
                (void) do_io(d, IO_WRITE, 0, SIM_PAGE, ones);
                begin(d, &late, IO_WRITE, DISK_STORE, SIM_PAGE, SIM_PAGE, ones);
                begin(d, &flush, IO_FLUSH, DISK_STORE, 0, 0, NULL);
                ck_assert_int_eq(complete(d, &flush), 0);
                ck_assert_uint_eq(count_after(d, SIM_CUT_NONE, seed, 1), 8);
                (void) complete(d, &late);
                ck_assert_uint_eq(sim_disk_unstable(d), 1); /* it was under way when the flush began */
                SimDisk *cut = sim_disk_cut(d, SIM_CUT_NONE, seed);
                uint8_t byte[SIM_SECTOR];
                sim_disk_peek(cut, DISK_STORE, SIM_PAGE, byte, sizeof(byte));
                lost = lost || byte[0] == 0;
                sim_disk_free(cut);
                sim_disk_free(d);
        }
        ck_assert(lost);
}
END_TEST

START_TEST(a_flush_is_of_one_disk) {
        uint8_t sector[SIM_SECTOR];
        Call c;
        SimDisk *d = disk_new(2);
        begin(d, &c, IO_WRITE, DISK_FIRST_ORIGIN, 0, SIM_SECTOR, ones);
        (void) complete(d, &c);
        (void) do_io(d, IO_FLUSH, 0, 0, NULL);
        SimDisk *cut = sim_disk_cut(d, SIM_CUT_NONE, 0);
        sim_disk_peek(cut, DISK_FIRST_ORIGIN, 0, sector, sizeof(sector));
        ck_assert_uint_eq(sector[0], 0);
        sim_disk_free(cut);
        sim_disk_free(d);
}
END_TEST

START_TEST(a_durable_write_stays_and_covers_only_itself) {
        SimDisk *d = disk_new(3);
        (void) do_io(d, IO_WRITE, 0, SIM_PAGE, ones);
        (void) do_io(d, IO_WRITE_DURABLE, 0, SIM_PAGE, twos);
        for (uint64_t seed = 0; seed < SEEDS; seed++)
                for (SimCut how = 0; how < SIM_CUT_MAX; how++) /* what it overwrote does not come back */
                        ck_assert_uint_eq(count_after(d, how, seed, 2), 8);
        sim_disk_free(d);
}
END_TEST

START_TEST(a_write_under_way_may_have_happened) {
        Call c;
        bool there = false, missing = false;
        SimDisk *d = disk_new(4);
        begin(d, &c, IO_WRITE_DURABLE, DISK_STORE, 0, SIM_PAGE, ones);
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
                unsigned n = count_after(d, SIM_CUT_WHOLE, seed, 1);
                there = there || n == 8;
                missing = missing || n == 0;
        }
        ck_assert(there && missing);
        (void) complete(d, &c);
        sim_disk_free(d);
}
END_TEST

START_TEST(a_prefix_and_all_but_one) {
        bool prefix[9] = { false };
        SimDisk *d = disk_new(5);
        (void) do_io(d, IO_WRITE, 0, SIM_PAGE, ones);
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
                prefix[count_after(d, SIM_CUT_PREFIX, seed, 1)] = true;
                ck_assert_uint_ge(count_after(d, SIM_CUT_BUT_ONE, seed, 0), 0);
        }
        for (unsigned i = 0; i < ELEMENTSOF(prefix); i++)
                ck_assert(prefix[i]);
        ck_assert_uint_eq(count_after(d, SIM_CUT_ALL, 4, 1), 8);
        sim_disk_free(d);
}
END_TEST

/* The cache of the disk outlives the process; a flush of the next one makes it stable. */
START_TEST(a_kill_loses_nothing_that_was_done) {
        SimDisk *d = disk_new(6);
        (void) do_io(d, IO_WRITE, 0, SIM_PAGE, ones);
        SimDisk *after = sim_disk_killed(d, 1);
        uint8_t page[SIM_PAGE] aligned;
        sim_disk_peek(after, DISK_STORE, 0, page, sizeof(page));
        ck_assert_mem_eq(page, ones, SIM_PAGE);
        ck_assert_uint_eq(count_after(after, SIM_CUT_NONE, 1, 1), 0);
        (void) do_io(after, IO_FLUSH, 0, 0, NULL);
        ck_assert_uint_eq(count_after(after, SIM_CUT_NONE, 1, 1), 8);
        sim_disk_free(after);
        sim_disk_free(d);
}
END_TEST

START_TEST(a_copy_shares_and_does_not_change_the_original) {
        uint8_t page[SIM_PAGE] aligned;
        SimDisk *d = disk_new(7);
        (void) do_io(d, IO_WRITE_DURABLE, 0, SIM_PAGE, ones);
        SimDisk *copy = sim_disk_cut(d, SIM_CUT_ALL, 0);
        (void) do_io(copy, IO_WRITE, 0, SIM_PAGE, twos);
        sim_disk_peek(d, DISK_STORE, 0, page, sizeof(page));
        ck_assert_mem_eq(page, ones, SIM_PAGE);
        sim_disk_free(copy);
        sim_disk_free(d);
}
END_TEST

START_TEST(the_nth_fails) {
        SimDisk *d = disk_new(8);
        SimFault fault = { .disk = DISK_STORE, .ops = 1 << IO_WRITE, .nth = 2, .error = EIO };
        SimFault range = { .disk = -1,
                           .ops = 1 << IO_READ,
                           .offset = 4 * SIM_PAGE,
                           .length = SIM_PAGE,
                           .nth = 1,
                           .permanent = true,
                           .error = ENOSPC };
        uint8_t page[SIM_PAGE] aligned;
        sim_disk_fault(d, &fault);
        sim_disk_fault(d, &range);
        ck_assert_int_eq(do_io(d, IO_WRITE, 0, SIM_PAGE, ones), SIM_PAGE);
        ck_assert_int_eq(do_io(d, IO_WRITE, 0, SIM_PAGE, ones), -EIO);
        ck_assert_int_eq(do_io(d, IO_WRITE, 0, SIM_PAGE, ones), SIM_PAGE);
        for (unsigned i = 0; i < 3; i++) {
                ck_assert_int_eq(do_io(d, IO_READ, 4 * SIM_PAGE, SIM_PAGE, page), -ENOSPC);
                ck_assert_int_eq(do_io(d, IO_READ, 3 * SIM_PAGE, SIM_PAGE, page), SIM_PAGE);
        }
        sim_disk_free(d);
}
END_TEST

START_TEST(what_the_oracle_allows) {
        Oracle o;
        uint64_t one[1] = { 7 }, two[1] = { 8 };
        oracle_init(&o, SIM_SECTOR);
        uint64_t a = oracle_write_begins(&o, 0, SIM_SECTOR, one);
        ck_assert(oracle_allows(&o, 0, 0, a) && oracle_allows(&o, 0, 7, a) && oracle_survives(&o, 0, 7));
        oracle_write_ends(&o, a, 0, SIM_SECTOR, WRITE_DONE);
        uint64_t now = ++o.now;
        ck_assert(!oracle_allows(&o, 0, 0, now) && oracle_allows(&o, 0, 7, now) && oracle_survives(&o, 0, 0));
        oracle_flush_ends(&o, ++o.now);
        ck_assert(!oracle_survives(&o, 0, 0) && oracle_survives(&o, 0, 7));
        uint64_t b = oracle_write_begins(&o, 0, SIM_SECTOR, two);
        oracle_write_ends(&o, b, 0, SIM_SECTOR, WRITE_MAYBE);
        now = ++o.now;
        ck_assert(oracle_allows(&o, 0, 7, now) && oracle_allows(&o, 0, 8, now));
        ck_assert(oracle_settle(&o, 0, 8) && !oracle_survives(&o, 0, 7) && !oracle_settle(&o, 0, 7));
        uint64_t c = oracle_write_begins(&o, 0, SIM_SECTOR, one);
        oracle_write_ends(&o, c, 0, SIM_SECTOR, WRITE_DURABLE);
        ck_assert(!oracle_survives(&o, 0, 8) && oracle_cut(&o, 0, 7));
        oracle_done(&o);
}
END_TEST

/* Without a death nothing may be left behind; the sanitizers look. */
START_TEST(whole_lives) {
        for (uint64_t seed = 0; seed < 12; seed++) {
                WorldOptions o = { .seed = 1000 + seed, .steps = 800, .features = FEATURE_ALL };
                o.features &= ~(unsigned) (FEATURE_CUTS | FEATURE_KILLS);
                World *w = world_new(&o);
                ck_assert_msg(world_run(w), "seed %lu: %s", seed, w->message);
                world_free(w);
        }
}
END_TEST

int main(void) {
        Suite *s = suite_create("sim-disk");
        TCase *t = tcase_create("all");
        tcase_set_timeout(t, 50);
        tcase_add_test(t, a_write_is_seen_and_not_yet_stable);
        tcase_add_test(t, a_flush_covers_what_was_done_before_it);
        tcase_add_test(t, a_flush_is_of_one_disk);
        tcase_add_test(t, a_durable_write_stays_and_covers_only_itself);
        tcase_add_test(t, a_write_under_way_may_have_happened);
        tcase_add_test(t, a_prefix_and_all_but_one);
        tcase_add_test(t, a_kill_loses_nothing_that_was_done);
        tcase_add_test(t, a_copy_shares_and_does_not_change_the_original);
        tcase_add_test(t, the_nth_fails);
        tcase_add_test(t, what_the_oracle_allows);
        tcase_add_test(t, whole_lives);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? 1 : 0;
}
