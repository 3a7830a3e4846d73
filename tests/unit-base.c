/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The small macros that everything is built on. */
#include "protocol/base.h"
#include "tests/support.h"
#include <check.h>

static unsigned calls;

/* 7 at first and more after it, as a clock does. */
static uint64_t later(void) {
        return 7 + 100ULL * calls++;
}

/*
 * What an argument does, it does once. When it was evaluated again to be returned, a gate lost its timer: the first
 * answer was sooner than the other argument, and the second was "never".
 */
START_TEST(arguments_are_evaluated_once) {
        calls = 0;
        ck_assert_uint_eq(MIN_OF(50ULL, later()), 7);
        ck_assert_uint_eq(calls, 1);
        ck_assert_uint_eq(MAX_OF(later(), 50ULL), 107);
        ck_assert_uint_eq(calls, 2);
}
END_TEST

START_TEST(they_nest) {
        calls = 0;
        ck_assert_int_eq(MIN_OF(MAX_OF(1, 3), MIN_OF(9, 5)), 3);
        ck_assert_uint_eq(MAX_OF(MIN_OF(later(), 1000ULL), MIN_OF(2ULL, MAX_OF(1ULL, 3ULL))), 7);
        ck_assert_uint_eq(calls, 1);
}
END_TEST

int main(void) {
        Suite *s = suite_create("base");
        TCase *t = tcase_create("macros");
        tcase_add_test(t, arguments_are_evaluated_once);
        tcase_add_test(t, they_nest);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
