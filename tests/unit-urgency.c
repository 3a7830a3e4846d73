/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the scheduler is asked for: the slice and nothing else, passed on to what is started, and never of a policy that
 * somebody else chose. */
#include "daemon/child.h"
#include "protocol/urgency.h"
#include "tests/support.h"
#include <check.h>
#include <linux/sched.h>
#include <linux/sched/types.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

static struct sched_attr attributes(void) {
        struct sched_attr a = {};
        ck_assert_int_eq(syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0), 0);
        return a;
}

/* Before 6.12 there is one slice for all, which the kernel does not tell. */
static bool has_slices(void) {
        struct utsname u;
        unsigned major = 0, minor = 0;
        ck_assert_int_eq(uname(&u), 0);
        ck_assert_int_eq(sscanf(u.release, "%u.%u", &major, &minor), 2);
        return major > 6 || (major == 6 && minor >= 12);
}

static void expect_slice(uint64_t usec) {
        struct sched_attr a = attributes();
        ck_assert_uint_eq(a.sched_policy, SCHED_NORMAL);
        if (has_slices())
                ck_assert_uint_eq(a.sched_runtime, usec * 1000);
}

START_TEST(sets_the_slice_and_nothing_else) {
        uint64_t usual = attributes().sched_runtime / 1000;
        ck_assert_int_eq(setpriority(PRIO_PROCESS, 0, 3), 0);
        urgency_set(URGENCY_LATER);
        expect_slice(10000);
        urgency_set(URGENCY_HOLD);
        expect_slice(100);
        urgency_set(URGENCY_USUAL);
        expect_slice(usual);
        ck_assert_int_eq(getpriority(PRIO_PROCESS, 0), 3);
}
END_TEST

START_TEST(a_child_has_it_until_it_says_otherwise) {
        urgency_set(URGENCY_LATER);
        pid_t pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                bool inherited = !has_slices() || attributes().sched_runtime == 10000000;
                urgency_set(URGENCY_USUAL);
                _exit(inherited && attributes().sched_runtime != 10000000 ? 0 : 1);
        }
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(status, 0);
        expect_slice(10000);
}
END_TEST

/* vssd's own is for nobody whom it starts, but for those of whom it is said. */
START_TEST(what_is_started_has_the_usual_one_or_waits) {
        static const struct {
                Urgency ours;
                unsigned flags;
                uint64_t usec;
        } rows[] = { { URGENCY_LATER, 0, 0 }, { URGENCY_HOLD, 0, 0 }, { URGENCY_HOLD, CHILD_LATER, 10000 } };
        uint64_t usual = attributes().sched_runtime / 1000;
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                char *argv[] = { (char *) "/bin/sleep", (char *) "30", NULL };
                Child c = CHILD_NULL;
                struct sched_attr a = {};
                urgency_set(rows[i].ours);
                ck_assert_int_eq(child_spawn(argv, CHILD_DIES_WITH_US | rows[i].flags, &c), 0);
                ck_assert_int_eq(syscall(SYS_sched_getattr, c.pid, &a, sizeof(a), 0), 0);
                child_kill(&c);
                ck_assert_int_eq(waitpid(c.pid, NULL, 0), c.pid);
                child_done(&c);
                if (has_slices())
                        ck_assert_uint_eq(a.sched_runtime / 1000, rows[i].usec ?: usual);
        }
}
END_TEST

START_TEST(another_policy_stays) {
        struct sched_attr a = { .size = sizeof(a), .sched_policy = SCHED_IDLE };
        ck_assert_int_eq(syscall(SYS_sched_setattr, 0, &a, 0), 0);
        urgency_set(URGENCY_HOLD);
        ck_assert_uint_eq(attributes().sched_policy, SCHED_IDLE);
}
END_TEST

int main(void) {
        Suite *s = suite_create("urgency");
        TCase *t = tcase_create("urgency");
        tcase_add_test(t, sets_the_slice_and_nothing_else);
        tcase_add_test(t, a_child_has_it_until_it_says_otherwise);
        tcase_add_test(t, what_is_started_has_the_usual_one_or_waits);
        tcase_add_test(t, another_policy_stays);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
