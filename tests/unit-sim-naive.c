/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The simulator against an engine without any order (sim-naive.c). Power cuts, and requests that overtake each other,
 * break it, and the simulator must say so.
 */
#include "tests/sim-world.h"
#include <check.h>
#include <inttypes.h>
#include <stdio.h>

enum { RUNS = 40, STEPS = 800 };

/* What the run has to say, or "". */
static void run_one(uint64_t seed, unsigned features, unsigned state_in, char *message, size_t size) {
        WorldOptions o = {
                .seed = seed, .steps = STEPS, .state_in = state_in, .features = features, .roomy = true, .volumes = 1
        };
        World *w = world_new(&o);
        (void) world_run(w);
        (void) snprintf(message, size, "%s", w->message);
        world_free(w);
}

static unsigned count_noticed(unsigned features, unsigned state_in) {
        char message[600];
        unsigned n = 0;
        for (uint64_t seed = 0; seed < RUNS; seed++) {
                run_one(seed, features, state_in, message, sizeof(message));
                n += message[0] != '\0';
                if (message[0] && n == 1)
                        printf("seed %" PRIu64 ": %s\n", seed, message);
        }
        printf("%u of %u runs noticed\n", n, RUNS);
        return n;
}

START_TEST(power_cuts_are_noticed) {
        ck_assert_uint_eq(count_noticed(FEATURE_UNALIGNED, 8), RUNS);
}
END_TEST

START_TEST(power_cuts_of_the_run_itself_are_noticed) {
        ck_assert_uint_gt(count_noticed(FEATURE_UNALIGNED | FEATURE_CUTS, 0), RUNS / 2);
}
END_TEST

START_TEST(races_are_noticed) {
        ck_assert_uint_gt(count_noticed(FEATURE_UNALIGNED, 0), RUNS / 2);
}
END_TEST

int main(void) {
        Suite *s = suite_create("sim-naive");
        TCase *t = tcase_create("all");
        tcase_set_timeout(t, 50);
        tcase_add_test(t, power_cuts_are_noticed);
        tcase_add_test(t, power_cuts_of_the_run_itself_are_noticed);
        tcase_add_test(t, races_are_noticed);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? 1 : 0;
}
