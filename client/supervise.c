/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs the command of `vssctl run` so that the copy can only go after everybody who reads it.
 *
 *   vssctl ── supervisor ── CMD ── whatever it starts
 *
 * The supervisor is a fork of vssctl that adopts all orphans below it (child subreaper) and keeps our bus connection
 * open; vssd takes the copies away when that connection closes. If vssctl is killed, the supervisor sees the end of the
 * control pipe, ends everything below it and only then goes itself, and with it the connection. If the supervisor is
 * killed, CMD gets SIGKILL (parent death signal) and vssctl, which adopts orphans too, ends the rest. CMD has a process
 * group of its own, so that what is meant for it reaches its children too; where vssctl had the terminal, CMD's group
 * gets it.
 */
#include "client/verbs.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#define SUPERVISE_GRACE_USEC (2 * USEC_PER_SEC) /* between SIGTERM and SIGKILL for what CMD left behind */

typedef struct Report { /* supervisor → vssctl */
        int status, exec_error;
        bool setup_failed;
        char message[LIMIT_MESSAGE_BYTES];
} Report;

typedef struct Supervision {
        char **command;
        SuperviseSetup setup;
        void *userdata;
        int stdout_fd;
        int control[2], report[2]; /* control: vssctl → supervisor, one byte per signal */
        bool terminal;
} Supervision;

static void signals_default(void) {
        sigset_t none;
        for (int n = 1; n < NSIG; n++)
                (void) signal(n, SIG_DFL);
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
}

/* In CMD, before exec: what fails goes through the pipe. */
static void command_exec(const Supervision *s, pid_t supervisor, int fd) {
        int error = 0;
        (void) setpgid(0, 0);
        if (s->terminal) {
                (void) signal(SIGTTOU, SIG_IGN);
                (void) tcsetpgrp(STDIN_FILENO, getpid());
        }
        signals_default();
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != supervisor)
                _exit(125);
        if (s->stdout_fd >= 0)
                (void) dup2(s->stdout_fd, STDOUT_FILENO);
        (void) execvp(s->command[0], s->command);
        error = errno;
        if (write(fd, &error, sizeof(error)) != sizeof(error))
                _exit(125);
        _exit(error == ENOENT ? 127 : 126);
}

static pid_t command_start(const Supervision *s, int *ret_exec_error) {
        int fds[2];
        pid_t self = getpid();
        if (pipe2(fds, O_CLOEXEC) < 0)
                return -1;
        pid_t pid = fork();
        if (pid == 0)
                command_exec(s, self, fds[1]);
        (void) close(fds[1]);
        if (pid > 0) {
                (void) setpgid(pid, pid);
                if (read(fds[0], ret_exec_error, sizeof(*ret_exec_error)) != sizeof(*ret_exec_error))
                        *ret_exec_error = 0; /* the pipe closed at exec: it runs */
        }
        (void) close(fds[0]);
        return pid;
}

/* Everything below us: children of each of our threads, and theirs in turn come to us when their parent ends. */
static unsigned signal_children(int number) {
        char path[64], line[4096];
        unsigned n = 0;
        (void) snprintf(path, sizeof(path), "/proc/self/task/%d/children", (int) getpid());
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t size = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
        if (size <= 0)
                return 0;
        line[size] = 0;
        for (char *p = line, *end; (end = strchr(p, ' ')); p = end + 1) {
                *end = 0;
                pid_t pid = (pid_t) strtol(p, NULL, 10);
                if (pid > 1) {
                        (void) kill(pid, number);
                        n++;
                }
        }
        return n;
}

/* Orphans too; true once CMD itself is gone. */
static bool reap(pid_t command, int *ret_status) {
        bool gone = false;
        int status;
        for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
                if (pid == command) {
                        *ret_status = status;
                        gone = true;
                }
        return gone;
}

static void nap(unsigned msec) {
        struct timespec ts = { .tv_nsec = (long) msec * 1000000 };
        (void) nanosleep(&ts, NULL);
}

/* Until nothing is left below us. Orphans of orphans come one generation at a time, hence the loop. */
static void end_all(void) {
        uint64_t kill_usec = now_usec() + SUPERVISE_GRACE_USEC;
        bool asked = false;
        for (;;) {
                int status;
                while (waitpid(-1, &status, WNOHANG) > 0)
                        ;
                if (waitpid(-1, &status, WNOHANG) < 0 && errno == ECHILD)
                        return;
                bool late = now_usec() >= kill_usec;
                if (late || !asked)
                        (void) signal_children(late ? SIGKILL : SIGTERM);
                asked = true;
                nap(10);
        }
}

/* 0: go on; -1: vssctl is gone */
static int take_control(int fd, pid_t command) {
        unsigned char number;
        ssize_t n = read(fd, &number, 1);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
                return -1;
        if (n == 1)
                (void) kill(-command, number);
        return 0;
}

static int supervisor_wait(Supervision *s, pid_t command, int signal_fd, int *ret_status) {
        bool gone = false;
        while (!gone) {
                struct pollfd fds[] = { { .fd = signal_fd, .events = POLLIN },
                                        { .fd = s->control[0], .events = POLLIN } };
                if (poll(fds, ELEMENTSOF(fds), -1) < 0 && errno != EINTR)
                        return -errno;
                struct signalfd_siginfo info;
                if (fds[0].revents && read(signal_fd, &info, sizeof(info)) < 0 && errno != EAGAIN)
                        return -errno;
                gone = reap(command, ret_status);
                if (!gone && fds[1].revents && take_control(s->control[0], command) < 0) {
                        (void) kill(-command, SIGKILL);
                        return -EPIPE;
                }
        }
        return 0;
}

/* A process of its own; vssctl learns all by the report. */
static void supervisor_run(Supervision *s) {
        Report report = {};
        sigset_t child;
        static const int ignored[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTTOU, SIGTTIN, SIGTSTP, SIGPIPE };
        for (size_t i = 0; i < ELEMENTSOF(ignored); i++)
                (void) signal(ignored[i], SIG_IGN);
        (void) sigemptyset(&child);
        (void) sigaddset(&child, SIGCHLD);
        (void) sigprocmask(SIG_BLOCK, &child, NULL);
        int signal_fd = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
        report.setup_failed = signal_fd < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0 ||
                              s->setup(s->userdata, report.message, sizeof(report.message)) < 0;
        if (!report.setup_failed) {
                pid_t command = command_start(s, &report.exec_error);
                if (command < 0)
                        report.setup_failed = true;
                else
                        (void) supervisor_wait(s, command, signal_fd, &report.status);
                end_all();
        }
        if (write(s->report[1], &report, sizeof(report)) != sizeof(report))
                _exit(1);
        _exit(0);
}

static void forward(Supervision *s) {
        unsigned char number = (unsigned char) interrupted;
        interrupted = 0;
        if (write(s->control[1], &number, 1) < 0)
                return; /* the supervisor is gone: its report tells */
}

/* The signals are blocked but inside ppoll(), so none is noticed too late. */
static int read_report(Supervision *s, Report *report, const sigset_t *open) {
        for (;;) {
                struct pollfd fds[] = { { .fd = s->report[0], .events = POLLIN } };
                if (ppoll(fds, 1, NULL, open) < 0 && errno != EINTR)
                        return -errno;
                if (interrupted)
                        forward(s);
                else if (fds[0].revents)
                        return read(s->report[0], report, sizeof(*report)) == sizeof(*report) ?
                                       0 :
                                       -EPIPE; /* it was killed */
        }
}

static int supervise_run(Supervision *s, Report *report) {
        sigset_t blocked, open;
        (void) prctl(PR_SET_CHILD_SUBREAPER, 1);
        (void) sigemptyset(&blocked);
        (void) sigaddset(&blocked, SIGINT);
        (void) sigaddset(&blocked, SIGTERM);
        (void) sigaddset(&blocked, SIGHUP);
        (void) sigprocmask(SIG_BLOCK, &blocked, &open);
        pid_t pid = fork();
        if (pid < 0)
                return -errno;
        if (pid == 0) {
                s->control[1] = close_fd(s->control[1]);
                s->report[0] = close_fd(s->report[0]);
                supervisor_run(s);
        }
        s->control[0] = close_fd(s->control[0]);
        s->report[1] = close_fd(s->report[1]);
        int r = read_report(s, report, &open);
        (void) sigprocmask(SIG_SETMASK, &open, NULL);
        end_all(); /* the supervisor itself, and what it could not end if it was killed */
        return r;
}

int supervise(char **command, SuperviseSetup setup, void *userdata, int stdout_fd, int *ret_status, int *ret_exec_error,
              char *reterr, size_t size) {
        Supervision s = { .command = command,
                          .setup = setup,
                          .userdata = userdata,
                          .stdout_fd = stdout_fd,
                          .control = { -EBADF, -EBADF },
                          .report = { -EBADF, -EBADF } };
        Report report = {};
        s.terminal = isatty(STDIN_FILENO) > 0 && tcgetpgrp(STDIN_FILENO) == getpgrp();
        int r = pipe2(s.control, O_CLOEXEC) < 0 || pipe2(s.report, O_CLOEXEC) < 0 ? -errno : supervise_run(&s, &report);
        for (size_t i = 0; i < 2; i++) {
                (void) close_fd(s.control[i]);
                (void) close_fd(s.report[i]);
        }
        if (s.terminal) {
                void (*before)(int) = signal(SIGTTOU, SIG_IGN);
                (void) tcsetpgrp(STDIN_FILENO, getpgrp());
                (void) signal(SIGTTOU, before);
        }
        if (r >= 0 && report.setup_failed) {
                (void) snprintf(reterr, size, "%s", report.message[0] ? report.message : "cannot start the command");
                return -ECANCELED;
        }
        *ret_status = report.status;
        *ret_exec_error = report.exec_error;
        return r;
}
