/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fault decorator does what VSS_FAULT says, exactly that often, and nothing else; and what hosts do then is
 * contained. */
#include "tests/support-provider.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* Sanitizers turn mlockall() into nothing. */
#if defined(__SANITIZE_ADDRESS__)
#define LOCKS_MEMORY 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LOCKS_MEMORY 0
#endif
#endif
#ifndef LOCKS_MEMORY
#define LOCKS_MEMORY 1
#endif

static char set[VSS_WIRE_ID], snapshot[VSS_WIRE_ID];
static char *state, *runtime;

static void setup(void) {
        id_make(set);
        id_make(snapshot);
        state = temp_dir_new();
        runtime = temp_dir_new();
        ck_assert_int_eq(setenv("STATE_DIRECTORY", state, 1) | setenv("RUNTIME_DIRECTORY", runtime, 1), 0);
}

static void teardown(void) {
        state = temp_dir_free(state);
        runtime = temp_dir_free(runtime);
}

static void rules(const char *text) {
        ck_assert_int_eq(setenv("VSS_FAULT", text, 1), 0);
}

static const Answer *load(ProviderHost **ret) {
        struct vss_wire_request q;
        *ret = host_new_empty("fault:null");
        provider_fill_load(&q, "fault:null");
        return host_ask(*ret, &q, -1);
}

static int begin_prepare(ProviderHost *h) {
        struct vss_wire_request *q = request_new(VSS_WIRE_BEGIN_PREPARE, set, snapshot);
        (void) snprintf(q->volume, sizeof(q->volume), "/volume");
        return host_ask(h, q, -1)->result;
}

/* Runs a set up to and including op; the result of that step. */
static int run_to(ProviderHost *h, enum vss_wire_op op) {
        static const enum vss_wire_op steps[] = {
                VSS_WIRE_END_PREPARE, VSS_WIRE_PRE_COMMIT, VSS_WIRE_HOLD,       VSS_WIRE_COMMIT,     VSS_WIRE_RELEASE,
                VSS_WIRE_POST_COMMIT, VSS_WIRE_PRE_FINAL,  VSS_WIRE_POST_FINAL, VSS_WIRE_CLEAR_MARK,
        };
        int r = begin_prepare(h);
        for (size_t i = 0; r == 0 && op != VSS_WIRE_BEGIN_PREPARE && i < ELEMENTSOF(steps); i++) {
                r = host_step(h, steps[i], set, NULL);
                if (steps[i] == op)
                        break;
        }
        return r;
}

static void abort_elsewhere(void) {
        rules("");
        ProviderHost *h = host_new("null");
        ck_assert_int_eq(host_step(h, VSS_WIRE_ABORT, set, NULL), 0);
        ck_assert_uint_eq(host_ask(h, request_new(VSS_WIRE_LIST, set, NULL), -1)->n_listed, 0);
        (void) provider_host_free(h);
}

static const struct {
        const char *name;
        enum vss_wire_op op;
} set_calls[] = {
        { "begin-prepare", VSS_WIRE_BEGIN_PREPARE },
        { "end-prepare", VSS_WIRE_END_PREPARE },
        { "pre-commit", VSS_WIRE_PRE_COMMIT },
        { "hold", VSS_WIRE_HOLD },
        { "commit", VSS_WIRE_COMMIT },
        { "release", VSS_WIRE_RELEASE },
        { "post-commit", VSS_WIRE_POST_COMMIT },
        { "pre-final", VSS_WIRE_PRE_FINAL },
        { "post-final", VSS_WIRE_POST_FINAL },
        { "clear-mark", VSS_WIRE_CLEAR_MARK },
};

START_TEST(any_step_can_fail_and_leaves_nothing) {
        for (size_t i = 0; i < ELEMENTSOF(set_calls); i++) {
                char text[64];
                (void) snprintf(text, sizeof(text), "%s:fail", set_calls[i].name);
                rules(text);
                ProviderHost *h = host_new("fault:null");
                ck_assert_msg(run_to(h, set_calls[i].op) == -EAGAIN, "%s did not fail", text);
                ck_assert_int_eq(host_step(h, VSS_WIRE_ABORT, set, NULL), 0);
                (void) provider_host_free(h);
                abort_elsewhere();
        }
}
END_TEST

START_TEST(any_step_can_die_and_leaves_nothing) {
        for (size_t i = 0; i < ELEMENTSOF(set_calls); i++) {
                char text[64];
                (void) snprintf(text, sizeof(text), "%s:die", set_calls[i].name);
                rules(text);
                ProviderHost *h = host_new("fault:null");
                ck_assert_msg(run_to(h, set_calls[i].op) == -EPIPE, "%s did not die", text);
                host_wait_gone(h);
                (void) provider_host_free(h);
                abort_elsewhere();
        }
}
END_TEST

START_TEST(a_hanging_call_is_ended_by_kill) {
        rules("commit:hang");
        ProviderHost *h = host_new("fault:null");
        ck_assert_int_eq(run_to(h, VSS_WIRE_PRE_COMMIT), 0);
        ck_assert_int_eq(provider_host_send(h, request_new(VSS_WIRE_COMMIT, set, NULL), now_usec(), -1), 0);
        struct pollfd p = { .fd = h->child.socket, .events = POLLIN };
        ck_assert_int_eq(poll(&p, 1, 200), 0);
        ck_assert_int_eq(provider_host_send(h, request_new(VSS_WIRE_ABORT, set, NULL), USEC_INFINITY, -1), -EBUSY);
        child_kill(&h->child);
        host_wait_gone(h);
        (void) provider_host_free(h);
        abort_elsewhere();
}
END_TEST

START_TEST(a_delayed_call_goes_on_afterwards) {
        rules("probe:delay=150");
        ProviderHost *h = host_new("fault:null");
        struct vss_wire_request *q = request_new(VSS_WIRE_PROBE, NULL, NULL);
        (void) snprintf(q->volume, sizeof(q->volume), "/volume");
        uint64_t before = now_usec();
        ck_assert_int_eq(host_ask(h, q, -1)->result, 0);
        ck_assert_uint_ge(now_usec() - before, 150 * USEC_PER_MSEC);
        (void) provider_host_free(h);
}
END_TEST

START_TEST(an_unknown_error_becomes_provider_failed_with_clean_text) {
        rules("end-prepare:garbage");
        ProviderHost *h = host_new("fault:null");
        ck_assert_int_eq(begin_prepare(h), 0);
        const Answer *a = host_ask(h, request_new(VSS_WIRE_END_PREPARE, set, NULL), -1);
        ck_assert_int_eq(a->result, -EREMOTEIO);
        for (const char *s = a->reply.message; *s; s++)
                ck_assert_int_eq(*s, '?');
        Failure failure;
        provider_reply_failure("fault:null", &a->reply, &failure);
        ck_assert_int_eq(failure.condition, CONDITION_PROVIDER_FAILED);
        ck_assert_int_eq(host_step(h, VSS_WIRE_ABORT, set, NULL), 0);
        (void) provider_host_free(h);
}
END_TEST

START_TEST(a_refusal_says_whether_to_try_again) {
        Failure failure;
        struct vss_wire_reply reply = { .result = -EAGAIN, .message = "null: no" };
        provider_reply_failure("null", &reply, &failure);
        ck_assert_int_eq(failure.condition, CONDITION_VETOED);
        ck_assert(failure.retryable);
        ck_assert_str_eq(failure.message, "provider null: no");
        provider_reply_failure("fault:null", &reply, &failure);
        ck_assert_str_eq(failure.message, "provider null: no");
        provider_reply_failure("example", &reply, &failure);
        ck_assert_str_eq(failure.message, "provider example: null: no");
        reply.result = -EPERM;
        provider_reply_failure("null", &reply, &failure);
        ck_assert_int_eq(failure.condition, CONDITION_VETOED);
        ck_assert(!failure.retryable);
}
END_TEST

START_TEST(n_times_are_counted_over_all_hosts) {
        rules("remove:fail:2");
        for (unsigned i = 0; i < 4; i++) {
                ProviderHost *h = host_new("fault:null");
                ck_assert_int_eq(host_step(h, VSS_WIRE_REMOVE, NULL, snapshot), i < 2 ? -EAGAIN : -ENOENT);
                (void) provider_host_free(h);
        }
}
END_TEST

START_TEST(several_rules_of_one_call_follow_each_other) {
        rules("remove:delay=1,remove:fail:1,list:fail");
        ProviderHost *h = host_new("fault:null");
        ck_assert_int_eq(host_step(h, VSS_WIRE_REMOVE, NULL, snapshot), -EAGAIN);
        ck_assert_int_eq(host_step(h, VSS_WIRE_REMOVE, NULL, snapshot), -ENOENT);
        ck_assert_int_eq(host_step(h, VSS_WIRE_LIST, NULL, NULL), -EAGAIN);
        (void) provider_host_free(h);
}
END_TEST

START_TEST(loading_can_fail) {
        ProviderHost *h;
        rules("load:fail");
        ck_assert_int_eq(load(&h)->result, -EPERM); /* a veto: by now nobody knows that it may be retried */
        (void) provider_host_free(h);
}
END_TEST

START_TEST(rules_that_cannot_be_read_are_refused) {
        static const char *const bad[] = {
                "x",
                "commit",
                "commit:",
                "commit:x",
                ":fail",
                "commit:fail:",
                "commit:fail:0",
                "commit:fail:x",
                "commit:fail:-1",
                "commit:fail:1:1",
                "commit:fail=1",
                "commit:delay",
                "commit:delay=",
                "commit:delay=1s",
                "commit:delay=99999999999999999999",
                "commit:fail,",
                ",commit:fail",
                "commit:fail;list:fail",
                "Commit:fail",
                "begin prepare:fail",
                " commit:fail",
        };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                ProviderHost *h;
                rules(bad[i]);
                const Answer *a = load(&h);
                ck_assert_msg(a->result == -EINVAL, "'%s' was read as a rule", bad[i]);
                ck_assert_ptr_nonnull(strstr(a->reply.message, "VSS_FAULT"));
                (void) provider_host_free(h);
        }
}
END_TEST

START_TEST(a_host_of_another_build_is_refused) {
        ProviderHost *h = host_new_empty("null");
        struct vss_wire_request q;
        provider_fill_load(&q, "null");
        (void) snprintf(q.text, sizeof(q.text), "0.1-other");
        ck_assert_int_eq(host_ask(h, &q, -1)->result, -EOPNOTSUPP);
        ck_assert_int_eq(host_step(h, VSS_WIRE_LIST, NULL, NULL), -EINVAL);
        (void) provider_host_free(h);
}
END_TEST

static unsigned long long status_field(pid_t pid, const char *name, int base) {
        char path[64], *line;
        (void) snprintf(path, sizeof(path), "/proc/%d/status", (int) pid);
        _cleanup_free_ char *text = file_read(path);
        line = strstr(text, name);
        ck_assert_ptr_nonnull(line);
        return strtoull(line + strlen(name), NULL, base);
}

START_TEST(the_host_is_armed_for_the_window) {
        rules("");
        ProviderHost *h = host_new("null");
        ck_assert_int_eq(begin_prepare(h), 0);
        ck_assert_uint_eq(status_field(h->child.pid, "VmLck:", 10), 0);
        ck_assert_int_eq(host_step(h, VSS_WIRE_END_PREPARE, set, NULL), 0);
        ck_assert_uint_eq(status_field(h->child.pid, "VmLck:", 10) > 0, LOCKS_MEMORY);
        ck_assert_uint_eq(status_field(h->child.pid, "NoNewPrivs:", 10), 1);
        uint64_t had = status_field(getpid(), "CapEff:", 16), has = status_field(h->child.pid, "CapEff:", 16);
        ck_assert_uint_eq(has & ~had, 0);
        /* not CAP_SYS_PTRACE: vss-cow, which it starts, looks who has a device open before it takes one away */
        ck_assert_uint_eq(
                has & (1ULL << CAP_NET_ADMIN | 1ULL << CAP_SYS_RAWIO | 1ULL << CAP_SYS_MODULE | 1ULL << CAP_SETUID), 0);
        ck_assert_uint_eq(has & 1ULL << CAP_SYS_ADMIN, had & 1ULL << CAP_SYS_ADMIN);
        ck_assert_int_eq(host_step(h, VSS_WIRE_ABORT, set, NULL), 0);
        (void) provider_host_free(h);
}
END_TEST

START_TEST(the_host_goes_with_whoever_started_it) {
        rules("commit:hang");
        int out[2];
        pid_t pid = 0, child;
        ck_assert_int_eq(pipe2(out, O_CLOEXEC), 0);
        child = fork();
        if (child == 0) { /* stands for vssd: dies while its host is inside a call */
                ProviderHost *h = host_new("fault:null");
                (void) run_to(h, VSS_WIRE_PRE_COMMIT);
                (void) provider_host_send(h, request_new(VSS_WIRE_COMMIT, set, NULL), USEC_INFINITY, -1);
                (void) !write(out[1], &h->child.pid, sizeof(pid));
                (void) raise(SIGKILL);
        }
        ck_assert_int_eq(read(out[0], &pid, sizeof(pid)), sizeof(pid));
        (void) waitpid(child, NULL, 0);
        for (unsigned i = 0; kill(pid, 0) == 0; i++) {
                ck_assert_uint_lt(i, 400);
                nap_msec(5);
        }
        (void) close_fd(out[0]);
        (void) close_fd(out[1]);
        abort_elsewhere();
}
END_TEST

int main(void) {
        sandbox_enter(170);
        Suite *suite = suite_create("contract-fault");
        TCase *t = tcase_create("fault");
        tcase_set_timeout(t, 60);
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, any_step_can_fail_and_leaves_nothing);
        tcase_add_test(t, any_step_can_die_and_leaves_nothing);
        tcase_add_test(t, a_hanging_call_is_ended_by_kill);
        tcase_add_test(t, a_delayed_call_goes_on_afterwards);
        tcase_add_test(t, an_unknown_error_becomes_provider_failed_with_clean_text);
        tcase_add_test(t, a_refusal_says_whether_to_try_again);
        tcase_add_test(t, n_times_are_counted_over_all_hosts);
        tcase_add_test(t, several_rules_of_one_call_follow_each_other);
        tcase_add_test(t, loading_can_fail);
        tcase_add_test(t, rules_that_cannot_be_read_are_refused);
        tcase_add_test(t, a_host_of_another_build_is_refused);
        tcase_add_test(t, the_host_is_armed_for_the_window);
        tcase_add_test(t, the_host_goes_with_whoever_started_it);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
