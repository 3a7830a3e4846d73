/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vssd's side of a provider host when the host is hostile: whatever it sends, vssd sees only terminated, clean text,
 * ids that are ids, and answers to what was asked; anything else ends that host. And jobs answer exactly once, whatever
 * happens.
 */
#include "daemon/provider.h"
#include "protocol/text.h"
#include "tests/support-provider.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

static ProviderHost host; /* of the fixture: nothing runs, the other end is peer */
static int peer;
static struct vss_wire_request request;
static struct vss_wire_reply reply;
static int reply_fd;

static void setup(void) {
        int pair[2];
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        host = (ProviderHost) { .child = CHILD_NULL, .life = -EBADF, .name = "null" };
        host.child.socket = pair[0];
        peer = pair[1];
        reply_fd = -EBADF;
}

static void teardown(void) {
        (void) close_fd(host.child.socket);
        peer = close_fd(peer);
}

/* Asks, and leaves a well-formed answer in reply. */
static void ask(enum vss_wire_op op) {
        struct vss_wire_request received;
        request = (struct vss_wire_request) { .op = op };
        ck_assert_int_eq(provider_host_send(&host, &request, USEC_INFINITY, -1), 0);
        ck_assert_int_eq(child_receive(peer, &received, sizeof(received), NULL), 1);
        ck_assert_uint_eq(received.serial, host.serial);
        reply = (struct vss_wire_reply) { .op = op, .serial = received.serial };
}

static int answer(int fd) {
        ck_assert_int_eq(child_send(peer, &reply, sizeof(reply), fd), 0);
        return provider_host_receive(&host, &reply, &reply_fd);
}

START_TEST(a_good_answer_is_taken) {
        ask(VSS_WIRE_ABORT);
        ck_assert_int_eq(provider_host_send(&host, &request, USEC_INFINITY, -1), -EBUSY);
        ck_assert_int_eq(provider_host_receive(&host, &reply, &reply_fd), 0);
        reply = (struct vss_wire_reply) { .op = VSS_WIRE_ABORT, .serial = host.serial, .result = -EBUSY };
        ck_assert_int_eq(answer(-1), 1);
        ck_assert_int_eq(reply.result, -EBUSY);
        ck_assert_uint_eq(host.serial, 0);
}
END_TEST

START_TEST(answers_to_something_else_are_refused) {
        ask(VSS_WIRE_ABORT);
        reply.serial++;
        ck_assert_int_eq(answer(-1), -EBADMSG);
        reply.serial = host.serial;
        reply.op = VSS_WIRE_COMMIT;
        ck_assert_int_eq(answer(-1), -EBADMSG);
        reply = (struct vss_wire_reply) { .op = VSS_WIRE_ABORT, .serial = host.serial };
        ck_assert_int_eq(answer(-1), 1);
        reply = (struct vss_wire_reply) { .op = VSS_WIRE_ABORT, .serial = 1 };
        ck_assert_int_eq(answer(-1), -EBADMSG); /* nobody asked */
}
END_TEST

START_TEST(impossible_results_are_refused) {
        static const int results[] = { 1, 4711, -5000, INT32_MIN };
        for (size_t i = 0; i < ELEMENTSOF(results); i++) {
                setup();
                ask(VSS_WIRE_COMMIT);
                reply.result = results[i];
                ck_assert_int_eq(answer(-1), -EBADMSG);
                teardown();
        }
        setup();
        ask(VSS_WIRE_COMMIT);
        reply.more = 1;
        ck_assert_int_eq(answer(-1), -EBADMSG);
}
END_TEST

START_TEST(texts_without_an_end_are_refused) {
        char *const texts[] = { reply.message, reply.text,   reply.id,   reply.set,
                                reply.volume,  reply.device, reply.path, reply.token };
        static const size_t sizes[] = { sizeof(reply.message), sizeof(reply.text),   sizeof(reply.id),
                                        sizeof(reply.set),     sizeof(reply.volume), sizeof(reply.device),
                                        sizeof(reply.path),    sizeof(reply.token) };
        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                setup();
                ask(VSS_WIRE_LIST);
                memset(texts[i], 'x', sizes[i]);
                ck_assert_int_eq(answer(-1), -EBADMSG);
                teardown();
        }
        setup();
}
END_TEST

START_TEST(texts_are_cleaned) {
        ask(VSS_WIRE_COMMIT);
        reply.result = -EIO;
        (void) snprintf(reply.message, sizeof(reply.message), "a\nb\033[2J\xff");
        ck_assert_int_eq(answer(-1), 1);
        ck_assert(text_is_valid(reply.message, sizeof(reply.message)));
}
END_TEST

START_TEST(list_items_have_ids) {
        ask(VSS_WIRE_LIST);
        reply.more = 1;
        ck_assert_int_eq(answer(-1), -EBADMSG);
        reply = (struct vss_wire_reply) { .op = VSS_WIRE_LIST, .serial = host.serial, .more = 1 };
        id_make(reply.id);
        id_make(reply.set);
        ck_assert_int_eq(answer(-1), 1);
        ck_assert_uint_ne(host.serial, 0); /* not over */
        reply.more = 0;
        ck_assert_int_eq(answer(-1), 1);
        ck_assert_uint_eq(host.serial, 0);
}
END_TEST

START_TEST(descriptors_come_only_with_open) {
        ask(VSS_WIRE_LIST);
        ck_assert_int_eq(answer(peer), -EBADMSG);
        host.serial = 0;
        ask(VSS_WIRE_OPEN);
        ck_assert_int_eq(answer(-1), -EBADMSG);
        host.serial = 0;
        ask(VSS_WIRE_OPEN);
        ck_assert_int_eq(answer(peer), 1);
        ck_assert_int_ge(reply_fd, 0);
        (void) close_fd(reply_fd);
}
END_TEST

START_TEST(a_short_message_is_refused) {
        ask(VSS_WIRE_LIST);
        ck_assert_int_eq(child_send(peer, &reply, 10, -1), 0);
        ck_assert_int_eq(provider_host_receive(&host, &reply, &reply_fd), -EBADMSG);
        peer = close_fd(peer);
        ck_assert_int_eq(provider_host_receive(&host, &reply, &reply_fd), -EPIPE);
}
END_TEST

typedef struct JobResult {
        unsigned done, items;
        Failure failure;
        ProviderJob *job;
        sd_event *event;
} JobResult;

static void on_item(const struct vss_wire_reply *item, void *userdata) {
        JobResult *result = userdata;
        result->items++;
}

/* Frees the job first, as its owner may, and reads the arguments then. */
static void on_done(const struct vss_wire_reply *answered, int fd, const Failure *failure, void *userdata) {
        JobResult *result = userdata;
        (void) close_fd(fd);
        result->job = provider_job_free(result->job);
        result->done++;
        ck_assert(!answered != !failure);
        result->failure = failure ? *failure : (Failure) {};
        (void) sd_event_exit(result->event, 0);
}

static JobResult run_job(const char *provider, const char *rules, uint64_t budget_usec) {
        JobResult result = {};
        char *state = temp_dir_new();
        ck_assert_int_eq(setenv("STATE_DIRECTORY", state, 1) | setenv("RUNTIME_DIRECTORY", state, 1) |
                                 setenv("VSS_FAULT", rules, 1),
                         0);
        request = (struct vss_wire_request) { .op = VSS_WIRE_LIST };
        ck_assert_int_ge(sd_event_new(&result.event), 0);
        ck_assert_int_eq(provider_job_new(result.event, provider, &request, -1, budget_usec, on_item, on_done, &result,
                                          &result.job),
                         0);
        ck_assert_int_ge(sd_event_loop(result.event), 0);
        ck_assert_uint_eq(result.done, 1);
        ck_assert_ptr_null(result.job);
        result.event = sd_event_unref(result.event);
        (void) temp_dir_free(state);
        return result;
}

START_TEST(a_job_answers_once_whatever_happens) {
        static const struct {
                const char *provider, *rules;
                Condition condition;
        } cases[] = {
                { "null", "", CONDITION_NONE },
                { "fault:null", "list:fail", CONDITION_VETOED },
                { "fault:null", "list:die", CONDITION_PROVIDER_LOST },
                { "fault:null", "list:hang", CONDITION_DEADLINE_PASSED },
                { "fault:null", "list:garbage", CONDITION_PROVIDER_FAILED },
                { "fault:null", "load:hang", CONDITION_DEADLINE_PASSED },
                { "fault:null", "load:die", CONDITION_PROVIDER_LOST },
                { "fault:null", "nonsense", CONDITION_INVALID_ARGUMENT },
                { "no-such-provider", "", CONDITION_NOT_FOUND },
        };
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                bool hangs = strstr(cases[i].rules, "hang");
                JobResult result = run_job(cases[i].provider, cases[i].rules,
                                           hangs ? 200 * USEC_PER_MSEC : 20 * USEC_PER_SEC);
                ck_assert_msg(result.failure.condition == cases[i].condition, "%s %s: %s", cases[i].provider,
                              cases[i].rules, result.failure.message);
        }
}
END_TEST

START_TEST(names_of_all_providers_are_listed) {
        char **names = NULL;
        ck_assert_int_eq(setenv("VSS_PROVIDER_DIRECTORY", "/does/not/exist", 1), 0);
        ck_assert_int_eq(provider_names(&names), 0);
        ck_assert(strings_contain(names, "null"));
        ck_assert(!strings_contain(names, "fault"));
        (void) strings_free(names);
}
END_TEST

int main(void) {
        sandbox_enter(55);
        Suite *suite = suite_create("unit-provider");
        TCase *t = tcase_create("replies");
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, a_good_answer_is_taken);
        tcase_add_test(t, answers_to_something_else_are_refused);
        tcase_add_test(t, impossible_results_are_refused);
        tcase_add_test(t, texts_without_an_end_are_refused);
        tcase_add_test(t, texts_are_cleaned);
        tcase_add_test(t, list_items_have_ids);
        tcase_add_test(t, descriptors_come_only_with_open);
        tcase_add_test(t, a_short_message_is_refused);
        suite_add_tcase(suite, t);
        t = tcase_create("jobs");
        tcase_set_timeout(t, 40);
        tcase_add_test(t, a_job_answers_once_whatever_happens);
        tcase_add_test(t, names_of_all_providers_are_listed);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
