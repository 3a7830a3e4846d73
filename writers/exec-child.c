/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between fork and exec a child of a process with threads may call nothing but system calls: everything it needs has
 * been made before. It first gives up all descriptors but its own, because a copy of our bus connection, or of the
 * control socket of a sibling, would hide our death from those who wait for it.
 */
#include "writers/exec-child.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define END_GENTLY_USEC (300 * USEC_PER_MSEC) /* between SIGTERM and SIGKILL */
#define UNDO_GRACE_USEC (1 * USEC_PER_SEC)    /* how much later than us the child thaws by itself */
enum { CONTROL_FD = 3, BEFORE_FD = 4, FIRST_FREE_FD = 5, EXIT_NO_EXEC = 126 };

typedef struct Message {
        char what; /* 'a' arm, 'g' go, 'q' end */
        uint64_t deadline_usec, thaw_by_usec;
} Message;

static int pidfd_open_(pid_t pid) {
        return (int) syscall(SYS_pidfd_open, pid, 0);
}

static bool readable(int fd, uint64_t timeout_usec) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        struct timespec ts = { (time_t) (timeout_usec / USEC_PER_SEC),
                               (long) (timeout_usec % USEC_PER_SEC * NSEC_PER_USEC) };

        return ppoll(&p, 1, timeout_usec == USEC_INFINITY ? NULL : &ts, NULL) > 0;
}

/* A child is the leader of its session, so its group is its pid; pidfd tells that the number is still its own. */
static void end_group(pid_t pid, int pidfd) {
        if (readable(pidfd, 0))
                return;
        (void) kill(-pid, SIGTERM);
        if (readable(pidfd, END_GENTLY_USEC))
                return;
        (void) kill(-pid, SIGKILL);
        (void) readable(pidfd, END_GENTLY_USEC);
}

/* ---- in the child: system calls only ---- */

static void put_deadline(char *env, uint64_t usec) {
        static const char name[] = "VSS_DEADLINE_USEC=";
        char digits[24];
        size_t n = 0;

        do
                digits[n++] = (char) ('0' + usec % 10);
        while ((usec /= 10) > 0);
        memcpy(env, name, sizeof(name) - 1);
        env += sizeof(name) - 1;
        while (n > 0)
                *env++ = digits[--n];
        *env = 0;
}

static void set_signals(sighandler_t handler) {
        static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGPIPE };
        struct sigaction action = { .sa_handler = handler };
        sigset_t none;

        for (size_t i = 0; i < ELEMENTSOF(signals); i++)
                (void) sigaction(signals[i], &action, NULL);
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Returns when it is time to run; *deadline is when the answer is due. */
static void wait_for_go(ChildKind kind, pid_t before, uint64_t *deadline) {
        uint64_t until = USEC_INFINITY;
        bool armed = false;

        for (;;) {
                uint64_t now = now_usec();
                Message m;
                ssize_t n = 0;
                if (until > now && readable(CONTROL_FD, until == USEC_INFINITY ? until : until - now)) {
                        n = recv(CONTROL_FD, &m, sizeof(m), 0);
                        if (n < 0 && errno == EINTR)
                                continue;
                } else if (until > now_usec())
                        continue;
                if (n == sizeof(m) && m.what == 'a') {
                        armed = true;
                        until = usec_add(m.thaw_by_usec, UNDO_GRACE_USEC);
                } else if (n == sizeof(m) && m.what == 'g') {
                        *deadline = m.deadline_usec;
                        return;
                } else if (n > 0 || !armed || kind != CHILD_UNDOES)
                        _exit(0);
                else {
                        end_group(before, BEFORE_FD); /* half a freeze must not go on behind the thaw */
                        *deadline = usec_add(now, BUDGET_THAW_USEC);
                        return;
                }
        }
}

static void give_up_descriptors(int null, int output, int control, int before) {
        /* Above the numbers that they get, so that none overwrites another. */
        int high[4] = { null, output, control, before };

        for (size_t i = 0; i < ELEMENTSOF(high); i++)
                high[i] = high[i] < 0 ? high[i] : fcntl(high[i], F_DUPFD, 16);
        (void) dup2(high[0], STDIN_FILENO);
        (void) dup2(high[1], STDOUT_FILENO);
        (void) dup2(high[1], STDERR_FILENO);
        if (control >= 0)
                (void) dup2(high[2], CONTROL_FD);
        if (before >= 0)
                (void) dup2(high[3], BEFORE_FD);
        (void) close_range(before >= 0 ? FIRST_FREE_FD : control >= 0 ? BEFORE_FD : CONTROL_FD, ~0U, 0);
}

static _Noreturn void child_main(const ChildStart *s, uint64_t deadline_usec, int null, int output, int control) {
        char *const argv[] = { (char *) s->path, (char *) s->event, NULL };
        static const char message[] = "cannot be executed";
        bool waits = s->kind != CHILD_NOW;

        (void) setsid();
        set_signals(waits ? SIG_IGN : SIG_DFL);
        give_up_descriptors(null, output, control, s->before ? s->before->pidfd : -EBADF);
        if (waits) {
                wait_for_go(s->kind, s->before ? s->before->pid : 0, &deadline_usec);
                set_signals(SIG_DFL);
        }
        (void) close_range(CONTROL_FD, ~0U, 0);
        put_deadline(s->env[0], deadline_usec);
        (void) execve(s->path, argv, s->env);
        (void) !write(STDERR_FILENO, message, sizeof(message) - 1);
        _exit(EXIT_NO_EXEC);
}

/* ---- in ourselves ---- */

static int make_output(size_t size, int *ret) {
        _cleanup_close_ int fd = memfd_create("vss-writer-exec", MFD_CLOEXEC | MFD_ALLOW_SEALING);

        if (fd < 0 || ftruncate(fd, (off_t) size) < 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0)
                return -errno;
        *ret = TAKE_FD(fd);
        return 0;
}

int child_start(const ChildStart *s, uint64_t deadline_usec, Child *ret) {
        _cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC), output = -EBADF, ours = -EBADF,
                            theirs = -EBADF;
        Child c = CHILD_NONE;
        int r, pair[2];

        if (null < 0)
                return -errno;
        r = make_output(s->output_size, &output);
        if (r < 0)
                return r;
        if (s->kind != CHILD_NOW) {
                if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                        return -errno;
                ours = pair[0];
                theirs = pair[1];
        }
        c.pid = fork();
        if (c.pid < 0)
                return -errno;
        if (c.pid == 0)
                child_main(s, deadline_usec, null, output, theirs);
        c.pidfd = pidfd_open_(c.pid);
        if (c.pidfd < 0) {
                r = -errno;
                (void) kill(c.pid, SIGKILL);
                (void) waitpid(c.pid, NULL, 0);
                return r;
        }
        c.control = TAKE_FD(ours);
        c.output = TAKE_FD(output);
        c.output_size = s->output_size;
        *ret = c;
        return 0;
}

static int tell(const Child *c, const Message *m) {
        return send(c->control, m, sizeof(*m), MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof(*m) ? 0 : -errno;
}

int child_arm(const Child *c, uint64_t thaw_by_usec) {
        return tell(c, &(Message) { .what = 'a', .thaw_by_usec = thaw_by_usec });
}

int child_go(const Child *c, uint64_t deadline_usec) {
        return tell(c, &(Message) { .what = 'g', .deadline_usec = deadline_usec });
}

static int reap(Child *c) {
        int status = 0;

        while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
                ;
        c->pid = 0;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int child_wait(Child *c, uint64_t deadline_usec, int cancel_fd, int *ret_status) {
        struct pollfd p[2] = { { .fd = c->pidfd, .events = POLLIN }, { .fd = cancel_fd, .events = POLLIN } };

        for (;;) {
                uint64_t now = now_usec(), left = deadline_usec > now ? deadline_usec - now : 0;
                struct timespec ts = { (time_t) (left / USEC_PER_SEC), (long) (left % USEC_PER_SEC * NSEC_PER_USEC) };
                int n = ppoll(p, 2, deadline_usec == USEC_INFINITY ? NULL : &ts, NULL);
                if (n < 0 && errno != EINTR)
                        return -errno;
                if (n > 0 && p[0].revents) {
                        *ret_status = reap(c);
                        return 0;
                }
                if (n > 0 && p[1].revents)
                        break;
                if (n == 0 && left == 0)
                        break;
        }
        end_group(c->pid, c->pidfd);
        return p[1].revents ? -ECANCELED : -ETIME;
}

int child_read(const Child *c, char **ret) {
        char *text = malloc(c->output_size + 1);
        ssize_t n;

        if (!text)
                return -ENOMEM;
        n = pread(c->output, text, c->output_size, 0);
        text[n < 0 ? 0 : n] = 0; /* what was not written is zeros: the text ends there */
        *ret = text;
        return 0;
}

void child_done(Child *c) {
        if (c->pid > 0) {
                if (c->control >= 0)
                        (void) tell(c, &(Message) { .what = 'q' });
                if (c->control < 0 || !readable(c->pidfd, END_GENTLY_USEC))
                        end_group(c->pid, c->pidfd);
                if (readable(c->pidfd, 0))
                        (void) reap(c);
        }
        close_fd(c->pidfd);
        close_fd(c->control);
        close_fd(c->output);
        *c = CHILD_NONE;
}
