/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between fork and exec a child of a process with threads may call nothing but system calls. */
#include "writers/program-child.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { EXIT_NO_EXEC = 126, FIRST_FREE_FD = 3 };

/* ---- in the child: system calls only ---- */

static void reset_signals(void) {
        struct sigaction action = { .sa_handler = SIG_DFL };
        sigset_t none;
        for (int s = 1; s < _NSIG; s++)
                (void) sigaction(s, &action, NULL);
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
}

/* By the system calls: the library's functions would want to change the threads that the child does not have. */
static bool take_account(const ProgramAccount *a) {
        return syscall(SYS_setgroups, 1, &a->gid) == 0 && syscall(SYS_setresgid, a->gid, a->gid, a->gid) == 0 &&
               syscall(SYS_setresuid, a->uid, a->uid, a->uid) == 0;
}

static bool arrange(int in, int out, int err) {
        /* Above the numbers that they get, so that none overwrites another. */
        int high[] = { fcntl(in, F_DUPFD, FIRST_FREE_FD), fcntl(out, F_DUPFD, FIRST_FREE_FD),
                       fcntl(err, F_DUPFD, FIRST_FREE_FD) };
        for (int i = 0; i < FIRST_FREE_FD; i++)
                if (high[i] < 0 || dup2(high[i], i) < 0)
                        return false;
        return close_range(FIRST_FREE_FD, UINT_MAX, 0) == 0;
}

static _Noreturn void child_main(char *const argv[], const ProgramAccount *account, bool change, pid_t parent, int in,
                                 int out, int err) {
        static char *const env[] = { (char *) "PATH=/usr/sbin:/usr/bin:/sbin:/bin", (char *) "LC_ALL=C", NULL };
        reset_signals();
        (void) setsid();
        if (!arrange(in, out, err) || (change && !take_account(account)))
                _exit(EXIT_NO_EXEC);
        /* After the account: to change it clears this. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
                _exit(EXIT_NO_EXEC);
        (void) execve(argv[0], argv, env);
        _exit(EXIT_NO_EXEC);
}

/* ---- in ourselves ---- */

int program_child_start(char *const argv[], const ProgramAccount *account, int in, int out, int err,
                        ProgramChild *ret) {
        _cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        pid_t parent = getpid();
        bool change = geteuid() == 0;
        if (null < 0)
                return -errno;
        pid_t pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0)
                child_main(argv, account, change, parent, in < 0 ? null : in, out < 0 ? null : out,
                           err < 0 ? null : err);
        *ret = (ProgramChild) { .pid = pid, .pidfd = (int) syscall(SYS_pidfd_open, pid, 0) };
        if (ret->pidfd >= 0)
                return 0;
        int r = -errno;
        (void) kill(pid, SIGKILL);
        (void) waitpid(pid, NULL, 0);
        *ret = PROGRAM_CHILD_NONE;
        return r;
}

static int collect(ProgramChild *c) {
        int status = 0;
        while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
                ;
        c->pidfd = close_fd(c->pidfd);
        c->pid = 0;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static bool ends_in(const ProgramChild *c, uint64_t until_usec) {
        for (;;) {
                struct pollfd p = { .fd = c->pidfd, .events = POLLIN };
                uint64_t now = now_usec(), msec = until_usec > now ? (until_usec - now) / USEC_PER_MSEC + 1 : 0;
                int r = poll(&p, 1, (int) MIN_OF(msec, (uint64_t) INT_MAX));
                if (r > 0)
                        return true;
                if (r == 0 || errno != EINTR)
                        return false;
        }
}

bool program_child_ended(ProgramChild *c, int *ret_status) {
        if (c->pid == 0 || !ends_in(c, 0))
                return false;
        *ret_status = collect(c);
        return true;
}

int program_child_end(ProgramChild *c, uint64_t until_usec) {
        if (c->pid == 0)
                return 0;
        (void) kill(c->pid, SIGTERM);
        bool ended = ends_in(c, until_usec);
        if (!ended)
                (void) kill(c->pid, SIGKILL);
        int status = collect(c);
        return ended ? status : -ETIME;
}
