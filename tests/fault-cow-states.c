/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check on stores that the engine wrote, as power cuts and deaths at random moments leave them: all of them are whole,
 * or check is wrong about what a power cut may do. And a bit that flips in one of their blocks that is in use is found.
 */
#include "providers/cow/check.h"
#include "tests/sim-world.h"
#include "tests/support.h"
#include <check.h>
#include <stdio.h>

enum { SEEDS = 24, STATES = 30, STEPS_BETWEEN = 30 };

typedef struct SimSource {
        Source source;
        SimDisk *disk;
} SimSource;

static int sim_read(Source *s, uint64_t block, uint32_t blocks, void *buffer) {
        const SimSource *x = container_of(s, SimSource, source);
        sim_disk_peek(x->disk, DISK_STORE, block * BLOCK_SIZE, buffer, (size_t) blocks * BLOCK_SIZE);
        return 0;
}

static uint64_t states_n, entries_n, records_n, torn_n, flips_n;

/* Damages; what: the first of them. in_use: one block that something points to. */
static uint64_t check_disk(SimDisk *d, char what[320], uint64_t *ret_in_use) {
        SimSource x = { .disk = d, .source = { .read = sim_read, .bytes = sim_disk_bytes(d, DISK_STORE) } };
        Check c = { 0 };
        ck_assert_int_eq(check_store(&c, &x.source), 0);
        uint64_t damages = c.damages;
        for (size_t i = 0; i < c.n_findings; i++)
                if (c.findings[i].damage) {
                        (void) snprintf(what, 320, "%s: %s", c.findings[i].structure, c.findings[i].text);
                        break;
                }
        entries_n += c.entries;
        records_n += c.log.records;
        torn_n += c.log.torn;
        *ret_in_use = c.image.manifest ? c.image.super->manifest_block : 0;
        if (c.image.manifest && c.image.view.head->runs > 0) {
                const struct run_extent *e = run_extents(c.image.view.runs);
                *ret_in_use = (uint64_t) e->segment * c.image.super->segment_blocks + e->block;
        }
        check_done(&c);
        return damages;
}

static void state_check(World *w, uint64_t seed) {
        char what[320] = "";
        uint64_t in_use, ignored;
        uint8_t byte;
        SimDisk *d = seed % 3 ? sim_disk_cut(w->disk, (SimCut) (seed % SIM_CUT_MAX), seed) :
                                sim_disk_killed(w->disk, seed);
        uint64_t damages = check_disk(d, what, &in_use);
        ck_assert_msg(damages == 0, "seed %lu, step %lu: %s", w->options.seed, w->boundary, what);
        states_n++;
        uint64_t at = in_use * BLOCK_SIZE + 40 + seed % 50;
        sim_disk_peek(d, DISK_STORE, at, &byte, 1);
        byte ^= (uint8_t) (1u << seed % 8);
        sim_disk_poke(d, DISK_STORE, at, &byte, 1);
        ck_assert_uint_gt(check_disk(d, what, &ignored), 0);
        flips_n++;
        sim_disk_free(d);
}

START_TEST(test_power_cuts_leave_stores_that_are_whole) {
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
                WorldOptions o = { .seed = seed, .features = FEATURE_ALL };
                World *w = world_new(&o);
                ck_assert_msg(world_make(w), "%s", w->message);
                for (unsigned i = 0; i < STATES && !w->failed; i++) {
                        world_steps(w, 1 + sim_below(&w->random, STEPS_BETWEEN));
                        if (!w->failed && !w->lost)
                                state_check(w, sim_mix(seed * STATES + i));
                }
                world_free(w);
        }
}
END_TEST

int main(void) {
        Suite *s = suite_create("cow-states");
        TCase *t = tcase_create("check");
        tcase_set_timeout(t, 280);
        tcase_add_test(t, test_power_cuts_leave_stores_that_are_whole);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_set_fork_status(r, CK_NOFORK);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        printf("%lu states, %lu entries, %lu records in logs, %lu torn ends, %lu flipped bits found\n", states_n,
               entries_n, records_n, torn_n, flips_n);
        return failed ? 1 : 0;
}
