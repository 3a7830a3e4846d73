/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a child of vssd gets and what it must not get: a descriptor too many there keeps an EOF from arriving here. */
#include "daemon/child.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { ANSWER_BYTES = 4096 };

/* Runs a shell script whose stdout is the socket; returns the child. */
static Child spawn_shell(const char *script, unsigned flags) {
        Child c = CHILD_NULL;
        char *argv[] = { (char *) "/bin/sh", (char *) "-c", (char *) (uintptr_t) script, NULL };
        ck_assert_int_eq(child_spawn(argv, flags, &c), 0);
        return c;
}

static int wait_gone(Child *c) {
        int status = -1;
        struct pollfd p = { .fd = c->pidfd, .events = POLLIN };
        ck_assert_int_eq(poll(&p, 1, 10000), 1);
        ck_assert(child_reap(c, &status));
        return status;
}

/* One message of any size, as text. */
static void read_answer(Child *c, char answer[static ANSWER_BYTES]) {
        struct pollfd p = { .fd = c->socket, .events = POLLIN };
        ck_assert_int_eq(poll(&p, 1, 10000), 1);
        ssize_t n = recv(c->socket, answer, ANSWER_BYTES - 1, 0);
        ck_assert_int_ge(n, 0);
        answer[n] = 0;
}

START_TEST(child_has_four_descriptors) {
        char answer[ANSWER_BYTES];
        /* no CLOEXEC, as a careless library would open it */
        int leak = open("/dev/null", O_RDONLY);
        ck_assert_int_ge(fcntl(leak, F_DUPFD, 100), 100);
        Child c = spawn_shell("x=; for i in $(seq 0 200); do [ -e /proc/$$/fd/$i ] && x=\"$x$i \"; done;"
                              "echo $x $(readlink /proc/$$/fd/0) >&3",
                              0);
        read_answer(&c, answer);
        ck_assert_str_eq(answer, "0 1 2 3 /dev/null\n");
        ck_assert_int_eq(wait_gone(&c), 0);
        child_done(&c);
        (void) close(leak);
}
END_TEST

START_TEST(eof_arrives_when_child_dies) {
        Child c = spawn_shell("exit 7", 0);
        char buf[8];
        int status = wait_gone(&c);
        ck_assert(WIFEXITED(status));
        ck_assert_int_eq(WEXITSTATUS(status), 7);
        ck_assert_int_eq(child_receive(c.socket, buf, sizeof(buf), NULL), -EPIPE);
        ck_assert_int_eq(child_send(c.socket, "x", 1, -EBADF), -EPIPE);
        /* asked again the answer is the same */
        ck_assert(child_reap(&c, &status));
        ck_assert_int_eq(WEXITSTATUS(status), 7);
        child_done(&c);
}
END_TEST

/* Closed low numbers must not end up as somebody's stderr or be taken for the socket. */
START_TEST(closed_standard_descriptors_are_filled) {
        char answer[ANSWER_BYTES];
        int out = dup(1), err = dup(2), in = dup(0);
        (void) close(0);
        (void) close(1);
        (void) close(2);
        Child c = CHILD_NULL;
        char *argv[] = { (char *) "/bin/sh", (char *) "-c", (char *) "cd /proc/$$/fd; echo $(readlink 0 1 2) >&3",
                         NULL };
        int r = child_spawn(argv, 0, &c);
        c.socket = fcntl(c.socket, F_DUPFD_CLOEXEC, 10);
        c.pidfd = fcntl(c.pidfd, F_DUPFD_CLOEXEC, 10);
        (void) dup2(in, 0);
        (void) dup2(out, 1);
        (void) dup2(err, 2);
        ck_assert_int_eq(r, 0);
        read_answer(&c, answer);
        ck_assert_str_eq(answer, "/dev/null /dev/null /dev/null\n");
        (void) wait_gone(&c);
        child_done(&c);
}
END_TEST

START_TEST(signals_are_as_new) {
        char answer[ANSWER_BYTES];
        sigset_t all;
        (void) sigfillset(&all);
        (void) sigprocmask(SIG_SETMASK, &all, NULL);
        (void) signal(SIGPIPE, SIG_IGN);
        Child c = spawn_shell("exec grep -E 'SigBlk|SigIgn' /proc/self/status >&3", 0);
        read_answer(&c, answer);
        ck_assert_ptr_nonnull(strstr(answer, "SigBlk:\t0000000000000000"));
        ck_assert_ptr_nonnull(strstr(answer, "SigIgn:\t0000000000000000"));
        (void) wait_gone(&c);
        child_done(&c);
}
END_TEST

START_TEST(session_is_its_own) {
        char answer[ANSWER_BYTES];
        Child c = spawn_shell("echo $$ $(ps -o sid= -p $$) >&3", CHILD_OWN_SESSION);
        int pid, sid;
        read_answer(&c, answer);
        ck_assert_int_eq(sscanf(answer, "%d %d", &pid, &sid), 2);
        ck_assert_int_eq(pid, c.pid);
        ck_assert_int_eq(sid, c.pid);
        (void) wait_gone(&c);
        child_done(&c);
}
END_TEST

/* It runs in our memory until exec: nothing of what it does for itself may be left there. */
START_TEST(what_blocks_signals_here_is_as_before) {
        char *missing[] = { (char *) "/nonexistent/program", NULL };
        sigset_t some, now;
        (void) sigemptyset(&some);
        (void) sigaddset(&some, SIGUSR1);
        ck_assert_int_eq(sigprocmask(SIG_SETMASK, &some, NULL), 0);
        Child c = spawn_shell("exit 0", 0), none = CHILD_NULL;
        ck_assert_int_eq(child_spawn(missing, 0, &none), -ENOENT);
        ck_assert_int_eq(sigprocmask(SIG_SETMASK, NULL, &now), 0);
        for (int sig = 1; sig < SIGRTMIN; sig++)
                ck_assert_int_eq(sigismember(&now, sig), sig == SIGUSR1);
        (void) wait_gone(&c);
        child_done(&c);
}
END_TEST

START_TEST(missing_program_is_told) {
        char *argv[] = { (char *) "/nonexistent/program", NULL };
        Child c = CHILD_NULL;
        ck_assert_int_eq(child_spawn(argv, 0, &c), -ENOENT);
        ck_assert_int_eq(c.pid, 0);
        ck_assert_int_eq(c.socket, -EBADF);
        /* and leaves no zombie */
        ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
        ck_assert_int_eq(errno, ECHILD);
}
END_TEST

START_TEST(negative_oom_score_is_not_inherited) {
        char answer[ANSWER_BYTES];
        int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        ck_assert_int_eq(write(fd, "-500", 4), 4);
        (void) close(fd);
        Child c = spawn_shell("cat /proc/$$/oom_score_adj >&3", 0);
        read_answer(&c, answer);
        ck_assert_str_eq(answer, "0\n");
        (void) wait_gone(&c);
        child_done(&c);
}
END_TEST

START_TEST(kill_reaches_and_is_repeatable) {
        Child c = spawn_shell("sleep 60", 0);
        int status;
        ck_assert(!child_reap(&c, &status));
        child_kill(&c);
        status = wait_gone(&c);
        ck_assert(WIFSIGNALED(status));
        child_kill(&c);
        child_done(&c);
        child_kill(&c);
}
END_TEST

START_TEST(child_dies_with_us) {
        int p[2];
        pid_t pid;
        ck_assert_int_eq(pipe2(p, O_CLOEXEC), 0);
        pid_t parent = fork();
        if (parent == 0) {
                char *argv[] = { (char *) "/bin/sleep", (char *) "60", NULL };
                Child c = CHILD_NULL;
                if (child_spawn(argv, CHILD_DIES_WITH_US, &c) < 0 || write(p[1], &c.pid, sizeof(c.pid)) < 0)
                        _exit(1);
                _exit(0);
        }
        ck_assert_int_eq(read(p[0], &pid, sizeof(pid)), sizeof(pid));
        (void) waitpid(parent, NULL, 0);
        uint64_t end = now_usec() + 5 * USEC_PER_SEC;
        char path[64], state = 'R';
        while (now_usec() < end && state != 'Z') {
                snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
                FILE *f = fopen(path, "re");
                if (!f || fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
                        state = 'Z';
                if (f)
                        (void) fclose(f);
                nap_msec(5);
        }
        ck_assert_int_eq(state, 'Z');
}
END_TEST

/* A pair of sockets without a process. */
static void pair_new(int pair[static 2]) {
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
}

static unsigned count_fds(void) {
        unsigned n = 0;
        for (int fd = 0; fd < 256; fd++)
                if (fcntl(fd, F_GETFD) >= 0)
                        n++;
        return n;
}

START_TEST(descriptor_rides_along_close_on_exec) {
        int pair[2], fd = -1, got = -1;
        char byte = 0;
        pair_new(pair);
        fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(child_send(pair[0], "a", 1, fd), 0);
        ck_assert_int_eq(child_receive(pair[1], &byte, 1, &got), 1);
        ck_assert_int_ge(got, 0);
        ck_assert_int_eq(fcntl(got, F_GETFD), FD_CLOEXEC);
        ck_assert_int_eq(child_receive(pair[1], &byte, 1, &got), 0);
        ck_assert_int_eq(child_send(pair[0], "b", 1, -EBADF), 0);
        ck_assert_int_eq(child_receive(pair[1], &byte, 1, &got), 1);
        ck_assert_int_eq(got, -EBADF);
}
END_TEST

START_TEST(unwanted_descriptors_are_closed) {
        int pair[2];
        char byte;
        pair_new(pair);
        int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        unsigned before = count_fds();
        ck_assert_int_eq(child_send(pair[0], "a", 1, fd), 0);
        ck_assert_int_eq(child_receive(pair[1], &byte, 1, NULL), 1);
        ck_assert_uint_eq(count_fds(), before);

        /* two at once are a protocol error, and neither may stay */
        union {
                char bytes[CMSG_SPACE(2 * sizeof(int))];
                struct cmsghdr align;
        } control = {
                .align = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(2 * sizeof(int)) }
        };
        memcpy(CMSG_DATA(&control.align), (int[]) { fd, fd }, 2 * sizeof(int));
        struct iovec iov = { .iov_base = &byte, .iov_len = 1 };
        struct msghdr mh = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)
        };
        ck_assert_int_eq(sendmsg(pair[0], &mh, 0), 1);
        int got = -1;
        ck_assert_int_eq(child_receive(pair[1], &byte, 1, &got), -EBADMSG);
        ck_assert_uint_eq(count_fds(), before);
}
END_TEST

START_TEST(wrong_size_is_refused) {
        int pair[2];
        char buf[8];
        pair_new(pair);
        ck_assert_int_eq(child_send(pair[0], "abc", 3, -EBADF), 0);
        ck_assert_int_eq(child_receive(pair[1], buf, sizeof(buf), NULL), -EBADMSG);
        ck_assert_int_eq(child_send(pair[0], "0123456789", 10, -EBADF), 0);
        ck_assert_int_eq(child_receive(pair[1], buf, sizeof(buf), NULL), -EBADMSG);
        ck_assert_int_eq(child_send(pair[0], "01234567", 8, -EBADF), 0);
        ck_assert_int_eq(child_receive(pair[1], buf, sizeof(buf), NULL), 1);
}
END_TEST

START_TEST(full_socket_does_not_block) {
        int pair[2], r = 0;
        static char message[4096];
        pair_new(pair);
        for (unsigned i = 0; i < 10000 && r == 0; i++)
                r = child_send(pair[0], message, sizeof(message), -EBADF);
        ck_assert_int_eq(r, -EAGAIN);
}
END_TEST

START_TEST(programs_of_the_build_tree_are_found) {
        char path[4096];
        ck_assert_int_eq(child_program_path("vss-guard", path, sizeof(path)), 0);
        ck_assert_int_eq(access(path, X_OK), 0);
        ck_assert_int_eq(child_program_path("vss-no-such-program", path, sizeof(path)), 0);
        ck_assert_str_eq(path, VSS_LIBEXECDIR "/vss-no-such-program");
        ck_assert_int_eq(child_program_path("vss-guard", path, 4), -ENAMETOOLONG);
}
END_TEST

static bool may_lower_oom_score(void) {
        _cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
        if (fd >= 0 && write(fd, "-1", 2) == 2 && write(fd, "0", 1) == 1)
                return true;
        fprintf(stderr, "not run: negative_oom_score_is_not_inherited (CAP_SYS_RESOURCE is missing)\n");
        return false;
}

int main(void) {
        Suite *s = suite_create("child");
        TCase *t = tcase_create("child");
        tcase_set_timeout(t, 30);
        tcase_add_test(t, child_has_four_descriptors);
        tcase_add_test(t, eof_arrives_when_child_dies);
        tcase_add_test(t, closed_standard_descriptors_are_filled);
        tcase_add_test(t, signals_are_as_new);
        tcase_add_test(t, session_is_its_own);
        tcase_add_test(t, what_blocks_signals_here_is_as_before);
        tcase_add_test(t, missing_program_is_told);
        if (may_lower_oom_score())
                tcase_add_test(t, negative_oom_score_is_not_inherited);
        tcase_add_test(t, kill_reaches_and_is_repeatable);
        tcase_add_test(t, child_dies_with_us);
        tcase_add_test(t, descriptor_rides_along_close_on_exec);
        tcase_add_test(t, unwanted_descriptors_are_closed);
        tcase_add_test(t, wrong_size_is_refused);
        tcase_add_test(t, full_socket_does_not_block);
        tcase_add_test(t, programs_of_the_build_tree_are_found);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
