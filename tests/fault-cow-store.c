/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stores that somebody has damaged: cut off, with bits flipped, with blocks exchanged or zeroed. check must say so, and
 * name what suffers, and nothing else. Bits of superblocks and manifest are all tried, one at a time; the rest at many
 * places, or at random with fixed seeds. fault-cow-engine.c does it to the engine.
 */
#include "protocol/base.h"
#include "tests/sim-random.h"
#include "tests/store-maker.h"
#include "tests/support.h"
#include <check.h>

static Made pristine;

/* --- check -------------------------------------------------------------------------------------------------------- */

START_TEST(test_a_whole_store_is_clean) {
        Verdict v = verdict_of(&pristine);
        ck_assert_msg(v.damages == 0 && v.notes == 0, "%s", v.first);
}
END_TEST

static void flip_must_show(Made *m, uint64_t byte, unsigned bit) {
        m->bytes[byte] ^= (uint8_t) (1u << bit);
        Verdict v = verdict_of(m); /* number 42 is the newest: its second copy and the first of 43 may be torn */
        bool super = byte / BLOCK_SIZE == made_super(2) || byte / BLOCK_SIZE == made_super(1);
        ck_assert_msg(v.damages > 0 || (super && v.notes > 0), "bit %u of byte %lu of block %lu went unnoticed", bit,
                      byte % BLOCK_SIZE, byte / BLOCK_SIZE);
        m->bytes[byte] ^= (uint8_t) (1u << bit);
}

/* Every bit of what is used, one bit of each byte behind it. */
static void block_must_show(Made *m, uint64_t block, unsigned used) {
        for (unsigned at = 0; at < BLOCK_SIZE; at++)
                for (unsigned bit = at < used ? 0 : at % 8; bit < 8; bit += at < used ? 1 : 8)
                        flip_must_show(m, block * BLOCK_SIZE + at, bit);
}

START_TEST(test_every_bit_of_the_superblocks) {
        Made m;
        made_copy(&pristine, &m);
        for (unsigned n = 0; n < SUPER_COPIES; n++)
                block_must_show(&m, made_super(n), 104);
        made_done(&m);
}
END_TEST

START_TEST(test_every_bit_of_the_manifest) {
        Made m;
        made_copy(&pristine, &m);
        for (uint64_t at = 0; at < m.manifest_bytes; at++)
                for (unsigned bit = 0; bit < 8; bit++)
                        flip_must_show(&m, m.manifest_block * BLOCK_SIZE + at, bit);
        made_done(&m);
}
END_TEST

START_TEST(test_bits_of_pages_and_data) {
        Made m;
        made_copy(&pristine, &m);
        for (unsigned k = 0; k < ELEMENTSOF(m.run_page); k++)
                for (unsigned at = 0; at < BLOCK_SIZE; at += 3)
                        flip_must_show(&m, m.run_page[k] * BLOCK_SIZE + at, at % 8);
        for (unsigned k = 0; k < ELEMENTSOF(m.map_page); k++)
                for (unsigned at = 0; at < BLOCK_SIZE; at += 3)
                        flip_must_show(&m, m.map_page[k] * BLOCK_SIZE + at, at % 8);
        for (unsigned at = 0; at < BLOCK_SIZE; at += 7)
                flip_must_show(&m, m.run_data * BLOCK_SIZE + at, at % 8);
        made_done(&m);
}
END_TEST

/* The last record was never acknowledged, as far as anybody knows: it may be torn, and that is no damage. */
START_TEST(test_a_torn_tail_is_no_damage) {
        Made m;
        made_copy(&pristine, &m);
        for (uint64_t at = m.record[4] * BLOCK_SIZE; at < m.log_end * BLOCK_SIZE; at += 509) {
                m.bytes[at] ^= 0x10;
                Verdict v = verdict_of(&m);
                ck_assert_msg(v.damages == 0, "%s", v.first);
                m.bytes[at] ^= 0x10;
        }
        memset(made_at(&m, m.record[4]), 0, BLOCK_SIZE);
        ck_assert_uint_eq(verdict_of(&m).damages, 0);
        made_done(&m);
}
END_TEST

/* B7: behind a record that is gone lies one that says it had been durable. */
START_TEST(test_a_hole_in_the_log_is_damage) {
        for (unsigned i = 0; i < 3; i++) {
                Made m;
                made_copy(&pristine, &m);
                made_at(&m, m.record[i])[200] ^= 1;
                Verdict v = verdict_of(&m);
                ck_assert_msg(strstr(v.first, "is gone, and 102 had been durable"), "record %u: %s", i, v.first);
                ck_assert_uint_eq(v.concerned & 6, 6);
                made_done(&m);
        }
}
END_TEST

START_TEST(test_a_durable_record_with_wrong_payload_is_a_damaged_block) {
        Made m;
        made_copy(&pristine, &m);
        made_at(&m, m.record[0] + 2)[77] ^= 1; /* second of the blocks 600 and on of volume 1, epoch 3 */
        Verdict v = verdict_of(&m);
        ck_assert_uint_eq(v.damages, 1);
        ck_assert_msg(strstr(v.first, "block 601 of volume srv-data.1, epoch 3, in record 100"), "%s", v.first);
        ck_assert_uint_eq(v.concerned, 1u << 4); /* snapshot 3 was deleted in the log; 5 and 6 are newer */
        made_done(&m);
}
END_TEST

START_TEST(test_the_snapshots_concerned_are_named) {
        Made m;
        made_copy(&pristine, &m);
        made_at(&m, m.run_data)[0] ^= 1; /* the first entry: block 10 of volume 0 at epoch 1 */
        Verdict v = verdict_of(&m);
        ck_assert_uint_eq(v.damages, 1);
        ck_assert_msg(strstr(v.first, "block 10 of volume root, epoch 1"), "%s", v.first);
        ck_assert_uint_eq(v.concerned, 1u << 1);
        made_at(&m, m.run_data)[0] ^= 1;
        made_at(&m, m.run_data + 1)[0] ^= 1; /* the second: at epoch 2, which the snapshot of epoch 1 does not read */
        ck_assert_uint_eq(verdict_of(&m).concerned, 1u << 2);
        made_done(&m);
}
END_TEST

START_TEST(test_lost_copies_of_the_superblock) {
        for (unsigned mask = 1; mask < 16; mask++) {
                Made m;
                made_copy(&pristine, &m);
                for (unsigned n = 0; n < SUPER_COPIES; n++)
                        if (mask >> n & 1)
                                memset(made_at(&m, made_super(n)), 0, BLOCK_SIZE);
                Verdict v = verdict_of(&m);
                bool pair = (mask & 5) == 5 || (mask & 10) == 10;
                ck_assert_uint_gt(v.damages + v.notes, 0);
                ck_assert_msg((v.damages == 0) == ((mask & 9) == 0 && mask != 0), "mask %u: %s", mask, v.first);
                ck_assert_msg(mask == 15 || (v.concerned != 0) == pair, "mask %u", mask);
                made_done(&m);
        }
}
END_TEST

START_TEST(test_cut_off_anywhere) {
        Made m;
        made_copy(&pristine, &m);
        for (uint64_t bytes = 0; bytes < m.size; bytes += 3 * BLOCK_SIZE - 512) {
                m.source.bytes = bytes;
                ck_assert_uint_gt(verdict_of(&m).damages, 0);
        }
        made_done(&m);
}
END_TEST

static bool is_used(const Made *m, uint64_t block) {
        static const uint8_t zeros[BLOCK_SIZE];
        return memcmp(made_at(m, block), zeros, BLOCK_SIZE) != 0;
}

/* Data of the last record and what nobody points to may be exchanged without anybody's loss; all else must show. */
static bool must_show(const Made *m, uint64_t block) {
        uint64_t segment = block / MADE_SEGMENT_BLOCKS;
        if (block == made_super(1) || block == made_super(2)) /* as if torn */
                return false;
        return is_used(m, block) && !(block >= m->record[4] && block < m->log_end) && segment < 8 &&
               block != m->record[3];
}

START_TEST(test_any_two_blocks_exchanged) {
        Made m;
        uint8_t block[BLOCK_SIZE];
        uint64_t blocks = pristine.size / BLOCK_SIZE;
        made_copy(&pristine, &m);
        for (uint64_t a = 0; a < blocks; a++)
                for (uint64_t b = a + 1; b < blocks && is_used(&m, a); b += 1 + b / 64) {
                        if (memcmp(made_at(&m, a), made_at(&m, b), BLOCK_SIZE) == 0)
                                continue;
                        memcpy(block, made_at(&m, a), BLOCK_SIZE);
                        memcpy(made_at(&m, a), made_at(&m, b), BLOCK_SIZE);
                        memcpy(made_at(&m, b), block, BLOCK_SIZE);
                        Verdict v = verdict_of(&m);
                        bool must = must_show(&pristine, a) || must_show(&pristine, b);
                        if (a == m.record[2] && b == m.record[4])
                                must = false; /* gone, and with it what said so */
                        ck_assert_msg(v.damages > 0 || !must, "%lu and %lu exchanged", a, b);
                        memcpy(made_at(&m, b), made_at(&m, a), BLOCK_SIZE);
                        memcpy(made_at(&m, a), block, BLOCK_SIZE);
                }
        made_done(&m);
}
END_TEST

START_TEST(test_any_block_zeroed) {
        Made m;
        made_copy(&pristine, &m);
        for (uint64_t a = 0; a < pristine.size / BLOCK_SIZE; a++) {
                if (!must_show(&pristine, a))
                        continue;
                memset(made_at(&m, a), 0, BLOCK_SIZE);
                ck_assert_msg(verdict_of(&m).damages > 0, "block %lu zeroed", a);
                memcpy(made_at(&m, a), made_at(&pristine, a), BLOCK_SIZE);
        }
        made_done(&m);
}
END_TEST

/* Right checksums around wrong numbers: whoever made that is no disk. Refused or shown, and nobody goes astray. */
START_TEST(test_numbers_that_lie) {
        static const uint8_t values[] = { 0, 1, 2, 4, 0x7f, 0x80, 0xff };
        SimRandom random = { 5 };
        Made m;
        made_copy(&pristine, &m);
        for (unsigned i = 0; i < 20000; i++) {
                uint8_t *p = made_at(&m, m.manifest_block) + sim_below(&random, m.manifest_bytes);
                uint8_t before = *p;
                *p = sim_below(&random, 2) ? values[sim_below(&random, ELEMENTSOF(values))] :
                                             (uint8_t) sim_random(&random);
                fix_manifest(&m);
                if (*p != before)
                        (void) verdict_of(&m);
                *p = before;
        }
        made_done(&m);
}
END_TEST

int main(void) {
        Suite *s = suite_create("cow-store");
        TCase *t = tcase_create("check");
        made_example(&pristine);
        tcase_set_timeout(t, 280);
        tcase_add_test(t, test_a_whole_store_is_clean);
        tcase_add_test(t, test_every_bit_of_the_superblocks);
        tcase_add_test(t, test_every_bit_of_the_manifest);
        tcase_add_test(t, test_bits_of_pages_and_data);
        tcase_add_test(t, test_a_torn_tail_is_no_damage);
        tcase_add_test(t, test_a_hole_in_the_log_is_damage);
        tcase_add_test(t, test_a_durable_record_with_wrong_payload_is_a_damaged_block);
        tcase_add_test(t, test_the_snapshots_concerned_are_named);
        tcase_add_test(t, test_lost_copies_of_the_superblock);
        tcase_add_test(t, test_cut_off_anywhere);
        tcase_add_test(t, test_any_two_blocks_exchanged);
        tcase_add_test(t, test_any_block_zeroed);
        tcase_add_test(t, test_numbers_that_lie);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        made_done(&pristine);
        return failed ? 1 : 0;
}
