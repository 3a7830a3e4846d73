/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Provider hosts that somebody else starts for vssd's connection, as systemd does: they have vssd's environment, end
 * with vssd in the middle of a call, and one that comes too late loads nothing. The test is the one who starts them.
 */
#include "daemon/provider-unit.h"
#include "daemon/provider.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WAIT_MSEC = 20000 };

static char *state, path[100], program[LIMIT_PATH_BYTES];
static int listener;
static struct vss_wire_request request;

static void setup(void) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        state = temp_dir_new();
        (void) snprintf(path, sizeof(path), "%s/provider.socket", state);
        (void) snprintf(a.sun_path, sizeof(a.sun_path), "%.99s", path);
        listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(listener, (const struct sockaddr *) &a, sizeof(a)), 0);
        ck_assert_int_eq(listen(listener, 16), 0);
        ck_assert_int_eq(provider_unit_set_socket(path), 0);
        ck_assert_int_eq(child_program_path("vss-provider-host", program, sizeof(program)), 0);
        ck_assert_int_eq(setenv("STATE_DIRECTORY", state, 1) | setenv("RUNTIME_DIRECTORY", state, 1), 0);
}

static void teardown(void) {
        listener = close_fd(listener);
        (void) temp_dir_free(state);
}

/* What systemd does: nothing of the environment but a word that is not vssd's. fd is closed. */
static pid_t start_program(const char *mode, int fd) {
        char *const argv[] = { program, (char *) (uintptr_t) mode, NULL };
        char *const environment[] = { (char *) "VSS_FAULT=load:fail", NULL };
        pid_t pid = fork();
        if (pid == 0) {
                if (fd == CHILD_SOCKET_FD ? fcntl(fd, F_SETFD, 0) < 0 : dup2(fd, CHILD_SOCKET_FD) < 0)
                        _exit(126);
                (void) execve(program, argv, environment);
                _exit(127);
        }
        (void) close(fd);
        return pid;
}

/* For the oldest connection, as our child. */
static pid_t start_host(void) {
        struct pollfd p = { .fd = listener, .events = POLLIN };
        ck_assert_int_eq(poll(&p, 1, WAIT_MSEC), 1);
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        ck_assert_int_ge(fd, 0);
        return start_program("--attach", fd);
}

/* As from waitpid; -1: it stays. */
static int wait_host(pid_t pid) {
        int status;
        for (int msec = 0; msec < WAIT_MSEC; msec += 5) {
                if (waitpid(pid, &status, WNOHANG) == pid)
                        return status;
                (void) usleep(5000);
        }
        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, &status, 0);
        return -1;
}

/* Starts a host for each connection. */
static pid_t start_listener(void) {
        return start_program("--listen", dup(listener));
}

typedef struct JobResult {
        unsigned done;
        Condition condition;
        ProviderJob *job;
        sd_event *event;
        char message[LIMIT_MESSAGE_BYTES];
} JobResult;

static void on_done(const struct vss_wire_reply *answered, int fd, const Failure *failure, void *userdata) {
        JobResult *result = userdata;
        (void) close_fd(fd);
        result->job = provider_job_free(result->job);
        result->done++;
        result->condition = failure ? failure->condition : CONDITION_NONE;
        (void) snprintf(result->message, sizeof(result->message), "%s", failure ? failure->message : "");
        (void) sd_event_exit(result->event, 0);
}

static JobResult run_job(const char *provider, const char *rules, uint64_t budget_usec) {
        JobResult result = {};
        ck_assert_int_eq(setenv("VSS_FAULT", rules, 1), 0);
        request = (struct vss_wire_request) { .op = VSS_WIRE_LIST };
        ck_assert_int_ge(sd_event_new(&result.event), 0);
        ck_assert_int_eq(provider_job_new(result.event, provider, &request, -1, budget_usec, NULL, on_done, &result,
                                          &result.job),
                         0);
        ck_assert_int_ge(sd_event_loop(result.event), 0);
        ck_assert_uint_eq(result.done, 1);
        result.event = sd_event_unref(result.event);
        return result;
}

START_TEST(a_job_answers_once_there_too) {
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
                { "no-such-provider", "", CONDITION_NOT_FOUND },
        };
        pid_t pid = start_listener();
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                bool hangs = strstr(cases[i].rules, "hang");
                JobResult result = run_job(cases[i].provider, cases[i].rules,
                                           hangs ? 300 * USEC_PER_MSEC : 20 * USEC_PER_SEC);
                ck_assert_msg(result.condition == cases[i].condition, "%s %s: %s", cases[i].provider, cases[i].rules,
                              result.message);
        }
        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, NULL, 0);
}
END_TEST

START_TEST(counted_faults_count_over_hosts_of_one_vssd) {
        pid_t pid = start_listener();
        JobResult first = run_job("fault:null", "list:fail:1", 20 * USEC_PER_SEC),
                  second = run_job("fault:null", "list:fail:1", 20 * USEC_PER_SEC);
        ck_assert_int_eq(first.condition, CONDITION_VETOED);
        ck_assert_int_eq(second.condition, CONDITION_NONE);
        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, NULL, 0);
}
END_TEST

START_TEST(nobody_starts_hosts) {
        ProviderJob *job = NULL;
        sd_event *event = NULL;
        listener = close_fd(listener);
        request = (struct vss_wire_request) { .op = VSS_WIRE_LIST };
        ck_assert_int_ge(sd_event_new(&event), 0);
        ck_assert_int_eq(provider_job_new(event, "null", &request, -1, USEC_PER_SEC, NULL, on_done, NULL, &job),
                         -ECONNREFUSED);
        ck_assert_ptr_null(job);
        (void) sd_event_unref(event);
}
END_TEST

START_TEST(a_host_that_comes_too_late_loads_nothing) {
        JobResult result = run_job("fault:null", "load:hang", 100 * USEC_PER_MSEC);
        ck_assert_int_eq(result.condition, CONDITION_DEADLINE_PASSED);
        ck_assert_int_eq(wait_host(start_host()), 0);
}
END_TEST

static void await_socket(const ProviderHost *h) {
        struct pollfd p = { .fd = h->child.socket, .events = POLLIN };
        ck_assert_int_eq(poll(&p, 1, WAIT_MSEC), 1);
}

/* A vssd with a host that hangs in its second call. */
static _Noreturn void be_vssd(int tell) {
        static struct vss_wire_reply reply;
        ProviderHost *h;
        int fd, r = 0;
        (void) setenv("VSS_FAULT", "list:hang", 1);
        ck_assert_int_eq(provider_host_new("fault:null", &h), 0);
        provider_fill_load(&request, "fault:null");
        ck_assert_int_eq(provider_host_send(h, &request, USEC_INFINITY, -1), 0);
        while (r == 0) {
                await_socket(h);
                r = provider_host_receive(h, &reply, &fd);
        }
        ck_assert_int_eq(r, 1);
        ck_assert_int_ge(h->child.pidfd, 0);
        request = (struct vss_wire_request) { .op = VSS_WIRE_LIST };
        ck_assert_int_eq(provider_host_send(h, &request, USEC_INFINITY, -1), 0);
        (void) usleep(300000);
        ck_assert_int_eq(write(tell, "x", 1), 1);
        for (;;)
                (void) pause();
}

START_TEST(a_host_inside_a_call_ends_with_vssd) {
        int ends[2];
        char c;
        ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
        pid_t vssd = fork();
        if (vssd == 0)
                be_vssd(ends[1]);
        pid_t host = start_host();
        ck_assert_int_eq(read(ends[0], &c, 1), 1);
        ck_assert_int_eq(waitpid(host, NULL, WNOHANG), 0);
        (void) kill(vssd, SIGKILL);
        int status = wait_host(host);
        ck_assert_msg(status >= 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %d", status);
        (void) waitpid(vssd, NULL, 0);
}
END_TEST

/* Its own end is the only one: what a host starts has no part in it, and outlives it. */
START_TEST(a_host_is_killed_by_its_owner) {
        ProviderHost *h;
        struct vss_wire_reply reply;
        int fd;
        ck_assert_int_eq(setenv("VSS_FAULT", "load:hang", 1), 0);
        ck_assert_int_eq(provider_host_new("fault:null", &h), 0);
        provider_fill_load(&request, "fault:null");
        ck_assert_int_eq(provider_host_send(h, &request, USEC_INFINITY, -1), 0);
        pid_t host = start_host();
        await_socket(h);
        ck_assert_int_eq(provider_host_receive(h, &reply, &fd), 0);
        ck_assert_int_ge(h->child.pidfd, 0);
        (void) provider_host_free(h);
        int status = wait_host(host);
        ck_assert_msg(status >= 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %d", status);
}
END_TEST

START_TEST(only_vssd_is_served) {
        ck_assert_int_eq(chmod(state, 0755) | chmod(path, 0777), 0);
        pid_t other = fork();
        if (other == 0) {
                ProviderHost *h;
                _exit(setuid(65534) < 0 || provider_host_new("null", &h) < 0 || pause() == 0);
        }
        int status = wait_host(start_host());
        ck_assert_msg(status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_FAILURE, "status %d", status);
        (void) kill(other, SIGKILL);
        (void) waitpid(other, NULL, 0);
}
END_TEST

START_TEST(nonsense_instead_of_vssd_ends_it) {
        static const struct {
                enum vss_wire_op op;
                uint64_t size;
        } cases[] = {
                { VSS_WIRE_LOAD, 0 },
                { VSS_WIRE_ENVIRONMENT, 4 },
                { VSS_WIRE_LIFE, 0 },
        };
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                struct sockaddr_un a = { .sun_family = AF_UNIX };
                (void) snprintf(a.sun_path, sizeof(a.sun_path), "%.99s", path);
                int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), ends[2];
                ck_assert_int_eq(connect(fd, (const struct sockaddr *) &a, sizeof(a)) | pipe2(ends, O_CLOEXEC), 0);
                request = (struct vss_wire_request) { .op = cases[i].op, .size_bytes = cases[i].size };
                for (int n = 0; n < 2; n++) /* never an environment after a life */
                        ck_assert_int_eq(child_send(fd, &request, sizeof(request), ends[0]), 0);
                int status = wait_host(start_host());
                ck_assert_msg(status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_FAILURE,
                              "case %zu: status %d", i, status);
                (void) close(fd);
                (void) close(ends[0]);
                (void) close(ends[1]);
        }
}
END_TEST

START_TEST(a_socket_that_does_not_listen_is_an_error) {
        int status = wait_host(start_program("--listen", socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0)));
        ck_assert_msg(status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_FAILURE, "status %d", status);
}
END_TEST

static uint64_t msec_until_end(pid_t pid, uint64_t since_usec) {
        ck_assert_int_eq(wait_host(pid), 0);
        return (now_usec() - since_usec) / USEC_PER_MSEC;
}

static void load_null(ProviderHost *h) {
        struct vss_wire_reply reply;
        int fd, r = 0;
        provider_fill_load(&request, "null");
        ck_assert_int_eq(provider_host_send(h, &request, USEC_INFINITY, -1), 0);
        while (r == 0) {
                await_socket(h);
                r = provider_host_receive(h, &reply, &fd);
        }
        ck_assert_int_eq(r, 1);
}

static void make_host(ProviderHost **ret) {
        ck_assert_int_eq(provider_host_new("null", ret), 0);
        load_null(*ret);
}

START_TEST(a_listener_without_work_goes) {
        uint64_t begin = now_usec();
        ck_assert_uint_ge(msec_until_end(start_program("--listen=200", dup(listener)), begin), 200);
}
END_TEST

/* A host at work, for longer than that: its listener is there until it has gone, and for others. */
START_TEST(a_listener_with_a_host_stays) {
        ProviderHost *first, *second;
        pid_t pid = start_program("--listen=200", dup(listener));
        make_host(&first);
        (void) usleep(700 * USEC_PER_MSEC);
        ck_assert_int_eq(waitpid(pid, NULL, WNOHANG), 0);
        make_host(&second); /* by it: nobody else is there */
        (void) provider_host_free(second);
        (void) provider_host_free(first);
        ck_assert_uint_le(msec_until_end(pid, now_usec()), WAIT_MSEC / 2);
}
END_TEST

/* Who connects after the last look is taken by the next listener, which the socket's owner starts for it. */
START_TEST(who_comes_when_it_goes_is_served_by_the_next) {
        ProviderHost *h;
        (void) msec_until_end(start_program("--listen=50", dup(listener)), now_usec());
        ck_assert_int_eq(provider_host_new("null", &h), 0);
        struct pollfd waiting = { .fd = listener, .events = POLLIN };
        ck_assert_int_eq(poll(&waiting, 1, 0), 1);
        pid_t pid = start_program("--listen=50", dup(listener));
        load_null(h);
        (void) provider_host_free(h);
        (void) msec_until_end(pid, now_usec());
}
END_TEST

START_TEST(how_long_it_stays_is_a_number) {
        static const char *const words[] = { "--listen=",   "--listen=0",      "--listen=-1",
                                             "--listen=1x", "--listen=300001", "--listens" };
        for (size_t i = 0; i < ELEMENTSOF(words); i++) {
                int status = wait_host(start_program(words[i], dup(listener)));
                ck_assert_msg(status >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_FAILURE, "%s: status %d",
                              words[i], status);
        }
}
END_TEST

START_TEST(a_socket_has_a_path) {
        char longest[200];
        memset(longest, 'x', sizeof(longest));
        longest[0] = '/';
        longest[sizeof(longest) - 1] = '\0';
        ck_assert_int_eq(provider_unit_set_socket("relative"), -EINVAL);
        ck_assert_int_eq(provider_unit_set_socket(longest), -EINVAL);
}
END_TEST

int main(void) {
        sandbox_enter(55);
        Suite *suite = suite_create("unit-provider-unit");
        TCase *t = tcase_create("hosts");
        tcase_set_timeout(t, 40);
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, a_job_answers_once_there_too);
        tcase_add_test(t, counted_faults_count_over_hosts_of_one_vssd);
        tcase_add_test(t, nobody_starts_hosts);
        tcase_add_test(t, a_host_that_comes_too_late_loads_nothing);
        tcase_add_test(t, a_host_inside_a_call_ends_with_vssd);
        tcase_add_test(t, a_host_is_killed_by_its_owner);
        tcase_add_test(t, only_vssd_is_served);
        tcase_add_test(t, nonsense_instead_of_vssd_ends_it);
        tcase_add_test(t, a_socket_that_does_not_listen_is_an_error);
        tcase_add_test(t, a_listener_without_work_goes);
        tcase_add_test(t, a_listener_with_a_host_stays);
        tcase_add_test(t, who_comes_when_it_goes_is_served_by_the_next);
        tcase_add_test(t, how_long_it_stays_is_a_number);
        tcase_add_test(t, a_socket_has_a_path);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
