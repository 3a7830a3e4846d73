/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The keeper of a call. It is forked before it is needed, waits at a socket and starts lvm when it is told to, with a
 * clean environment and nothing open but what is said here. In the window that means: no process of ours is made or
 * loaded then but lvm itself, which reads its program and writes nothing but volume groups. While lvm runs, whoever
 * asked may die or give up: the keeper waits on, in a session of its own, and the lock stays taken, which tells later
 * calls why they must not try. When it has nothing running and nobody to serve, it goes.
 */
#include "providers/lvm/held.h"
#include "providers/lvm/lvm.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define HELD_LIBRARY VSS_LIBEXECDIR "/vss-lvm-held.so"

enum { KEEPER_LOCK = 1, KEEPER_RUN };
enum { LOCK_TICK_MSEC = 20, KEEPER_SOCKET_FD = 3, KEEPER_LOCK_FD = 4 };

typedef struct KeeperRequest {
        uint32_t op, n_arguments, held;
        uint64_t deadline_usec;
        char text[LVM_REQUEST_BYTES]; /* arguments, each with its NUL */
} KeeperRequest;

typedef struct KeeperAnswer {
        int32_t result; /* LOCK: 0 or -errno. RUN: -errno if lvm could not be started */
        int32_t status; /* RUN: as from waitpid */
        char said[LVM_SAID_BYTES];
} KeeperAnswer;

/* Static: in the window there is no memory to be had. */
static KeeperRequest request;

const char *lvm_program(void) {
        static const char *const places[] = { "/usr/sbin/lvm", "/sbin/lvm" };
        const char *given = secure_getenv("VSS_LVM"); /* whoever sets the environment of vssd is root */
        if (!isempty(given))
                return given[0] == '/' && access(given, X_OK) >= 0 ? given : NULL;
        for (size_t i = 0; i < ELEMENTSOF(places); i++)
                if (access(places[i], X_OK) >= 0)
                        return places[i];
        return NULL;
}

static void sleep_msec(unsigned msec) {
        struct timespec ts = { .tv_sec = msec / 1000, .tv_nsec = (long) (msec % 1000) * 1000000 };
        (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
}

/* The keeper */

static int keeper_take_lock(uint64_t deadline_usec) {
        for (;;) {
                if (flock(KEEPER_LOCK_FD, LOCK_EX | LOCK_NB) >= 0)
                        return 0;
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return -errno;
                if (now_usec() >= deadline_usec)
                        return -EBUSY;
                sleep_msec(LOCK_TICK_MSEC);
        }
}

static _Noreturn void keeper_exec(const KeeperRequest *q, int output, int said) {
        char *arguments[LVM_ARGUMENTS_MAX + 2] = { (char *) "lvm" };
        char *environment[] = { (char *) "PATH=/usr/sbin:/usr/bin:/sbin:/bin", (char *) "LC_ALL=C",
                                (char *) "LVM_SUPPRESS_FD_WARNINGS=1",
                                q->held ? (char *) "LD_PRELOAD=" HELD_LIBRARY : NULL, NULL };
        const char *program = lvm_program();
        size_t at = 0;
        sigset_t none;
        for (uint32_t i = 0; i < q->n_arguments; i++) {
                arguments[i + 1] = (char *) q->text + at;
                at += strlen(q->text + at) + 1;
        }
        int null = open("/dev/null", O_RDWR);
        if (q->held && access(HELD_LIBRARY, R_OK) < 0) /* it was there a moment ago: ld.so would go on without */
                _exit(127);
        if (!program || null < 0 || dup2(null, 0) < 0 || dup2(output >= 0 ? output : null, 1) < 0 || dup2(said, 2) < 0)
                _exit(127);
        (void) syscall(SYS_close_range, 3, ~0U, 0);
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        (void) signal(SIGPIPE, SIG_DFL);
        (void) execve(program, arguments, environment);
        _exit(127);
}

/* Everything lvm says is read, so that it never waits for us; the first lines are kept: they name the cause. */
static void keeper_listen(int pidfd, int said, KeeperAnswer *a) {
        char more[1024];
        size_t n = 0;
        for (bool ended = false; said >= 0;) {
                struct pollfd p[] = { { .fd = said, .events = POLLIN },
                                      { .fd = ended ? -1 : pidfd, .events = POLLIN } };
                if (poll(p, ELEMENTSOF(p), ended ? 0 : -1) < 0 && errno == EINTR)
                        continue;
                if (p[0].revents) {
                        ssize_t got = read(said, more, sizeof(more));
                        if (got <= 0)
                                break;
                        size_t take = MIN_OF((size_t) got, sizeof(a->said) - 1 - n);
                        memcpy(a->said + n, more, take);
                        n += take;
                } else if (ended) /* a child that it left behind may keep the pipe */
                        break;
                ended = ended || p[1].revents;
        }
        a->said[n] = '\0';
}

static void keeper_run(const KeeperRequest *q, int output, KeeperAnswer *a) {
        int said[2];
        if (pipe2(said, O_CLOEXEC) < 0) {
                a->result = -errno;
                return;
        }
        pid_t pid = fork();
        if (pid == 0)
                keeper_exec(q, output, said[1]);
        (void) close(said[1]);
        (void) close_fd(output);
        if (pid < 0)
                a->result = -errno;
        else {
                int pidfd = (int) syscall(SYS_pidfd_open, pid, 0);
                keeper_listen(pidfd, said[0], a);
                while (waitpid(pid, &a->status, 0) < 0 && errno == EINTR)
                        ;
                (void) close_fd(pidfd);
        }
        (void) close(said[0]);
}

/* One message and at most one descriptor. 0: the other end is gone. */
static ssize_t receive(int socket, void *message, size_t size, int *ret_fd) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control = {};
        struct iovec iov = { message, size };
        struct msghdr m = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        ssize_t n;
        do
                n = recvmsg(socket, &m, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        struct cmsghdr *h = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
        *ret_fd = -EBADF;
        if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS && h->cmsg_len == CMSG_LEN(sizeof(int)))
                memcpy(ret_fd, CMSG_DATA(h), sizeof(int));
        return n;
}

static bool request_is_sound(const KeeperRequest *q) {
        size_t at = 0;
        if (q->n_arguments > LVM_ARGUMENTS_MAX)
                return false;
        for (uint32_t i = 0; i < q->n_arguments; i++) {
                const char *end = memchr(q->text + at, '\0', sizeof(q->text) - at);
                if (!end)
                        return false;
                at = (size_t) (end - q->text) + 1;
        }
        return true;
}

static _Noreturn void keeper_main(void) {
        static KeeperRequest q;
        (void) prctl(PR_SET_NAME, "vss-lvm-keeper");
        (void) mlockall(MCL_CURRENT | MCL_FUTURE);
        for (;;) {
                KeeperAnswer a = {};
                int fd;
                if (receive(KEEPER_SOCKET_FD, &q, sizeof(q), &fd) != sizeof(q) || !request_is_sound(&q))
                        _exit(EXIT_SUCCESS);
                if (q.op == KEEPER_LOCK)
                        a.result = keeper_take_lock(q.deadline_usec);
                else
                        keeper_run(&q, fd, &a);
                if (send(KEEPER_SOCKET_FD, &a, sizeof(a), MSG_NOSIGNAL) < 0)
                        _exit(EXIT_SUCCESS);
        }
}

/* Our own end */

int lvm_keeper_start(struct vss_call *c, LvmKeeper *ret) {
        int pair[2];
        _cleanup_close_ int lock = lvm_place_open_lock();
        if (lock < 0)
                return lvm_fail(c, lock, "the lock in the runtime directory cannot be opened: %s", strerror(-lock));
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return lvm_fail(c, -errno, "no socket: %s", strerror(errno));
        pid_t pid = fork();
        if (pid == 0) {
                /* above what they are to become, so that neither overwrites the other */
                int s = fcntl(pair[1], F_DUPFD, 16), l = fcntl(lock, F_DUPFD, 16);
                if (setsid() < 0 || s < 0 || l < 0 || dup2(s, KEEPER_SOCKET_FD) < 0 || dup2(l, KEEPER_LOCK_FD) < 0)
                        _exit(EXIT_FAILURE);
                (void) syscall(SYS_close_range, KEEPER_LOCK_FD + 1, ~0U, 0);
                (void) fcntl(KEEPER_SOCKET_FD, F_SETFD, FD_CLOEXEC);
                (void) fcntl(KEEPER_LOCK_FD, F_SETFD, FD_CLOEXEC);
                keeper_main();
        }
        (void) close(pair[1]);
        if (pid < 0) {
                (void) close(pair[0]);
                return lvm_fail(c, -errno, "no process to run lvm in: %s", strerror(errno));
        }
        *ret = (LvmKeeper) { .pid = pid, .socket = pair[0] };
        return 0;
}

static int send_request(const LvmKeeper *k, int fd) {
        union {
                struct cmsghdr header;
                char space[CMSG_SPACE(sizeof(int))];
        } control = {};
        struct iovec iov = { &request, sizeof(request) };
        struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
        if (fd >= 0) {
                m.msg_control = &control;
                m.msg_controllen = sizeof(control);
                struct cmsghdr *h = CMSG_FIRSTHDR(&m);
                h->cmsg_level = SOL_SOCKET;
                h->cmsg_type = SCM_RIGHTS;
                h->cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(h), &fd, sizeof(int));
        }
        return sendmsg(k->socket, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* -ETIME: the keeper is busy and stays so without us. */
static int await_answer(LvmKeeper *k, uint64_t deadline_usec, KeeperAnswer *ret) {
        for (;;) {
                uint64_t now = now_usec();
                struct pollfd p = { .fd = k->socket, .events = POLLIN };
                int msec = deadline_usec == UINT64_MAX ? -1 :
                           deadline_usec <= now        ? 0 :
                                                  (int) MIN_OF((deadline_usec - now) / USEC_PER_MSEC + 1, 3600000ULL);
                int n = poll(&p, 1, msec), fd;
                if (n < 0 && errno == EINTR)
                        continue;
                if (n == 0 && now_usec() < deadline_usec)
                        continue;
                if (n == 0)
                        return -ETIME;
                return receive(k->socket, ret, sizeof(*ret), &fd) == sizeof(*ret) ? 0 : -EPIPE;
        }
}

int lvm_keeper_lock(struct vss_call *c, LvmKeeper *k, uint64_t deadline_usec) {
        KeeperAnswer a;
        request = (KeeperRequest) { .op = KEEPER_LOCK, .deadline_usec = deadline_usec };
        int r = send_request(k, -EBADF);
        if (r >= 0)
                r = await_answer(k, usec_add(deadline_usec, USEC_PER_SEC), &a);
        if (r >= 0)
                r = a.result;
        return r >= 0 ?
                       0 :
                       lvm_fail(c, r == -ETIME ? -EBUSY : r,
                                "another set, or an earlier call of lvm that has not come back, has the lock (look for "
                                "vss-lvm-keeper and its child): nothing else is done with LVM until it has ended");
}

/* What lvm says becomes one line. */
static void one_line(char *s) {
        char *to = s;
        for (const char *from = s; *from; from++) {
                char ch = *from == '\n' ? ';' : *from;
                if (ch == ' ' && (to == s || to[-1] == ' '))
                        continue;
                *to++ = ch >= ' ' && ch < 0x7f ? ch : ' ';
        }
        while (to > s && (to[-1] == ' ' || to[-1] == ';'))
                to--;
        *to = '\0';
}

int lvm_keeper_run(LvmKeeper *k, const char *const *arguments, uint64_t deadline_usec, int output,
                   char said[static LVM_SAID_BYTES]) {
        KeeperAnswer a;
        size_t at = 0;
        said[0] = '\0';
        request.op = KEEPER_RUN;
        request.held = k->held;
        request.n_arguments = 0;
        for (; *arguments; arguments++) {
                size_t n = strlen(*arguments) + 1;
                if (n > sizeof(request.text) - at || request.n_arguments == LVM_ARGUMENTS_MAX)
                        return -E2BIG;
                memcpy(request.text + at, *arguments, n);
                at += n;
                request.n_arguments++;
        }
        int r = send_request(k, output);
        if (r >= 0)
                r = await_answer(k, deadline_usec, &a);
        if (r < 0)
                return r;
        if (a.result < 0)
                return a.result;
        memcpy(said, a.said, LVM_SAID_BYTES);
        said[LVM_SAID_BYTES - 1] = '\0';
        one_line(said);
        if (WIFSIGNALED(a.status))
                return -EOWNERDEAD;
        return WEXITSTATUS(a.status) == 0 ? 0 : WEXITSTATUS(a.status) == 127 ? -ENOENT : -EIO;
}

int lvm_keeper_check_held(struct vss_call *c, LvmKeeper *k) {
        static const char *const arguments[] = { "version", NULL };
        char said[LVM_SAID_BYTES], text[4096];
        _cleanup_close_ int output = memfd_create("lvm-version", MFD_CLOEXEC);
        if (output < 0)
                return lvm_fail(c, -errno, "no memory for what lvm says: %s", strerror(errno));
        k->held = true;
        int r = lvm_keeper_run(k, arguments, lvm_deadline(c), output, said);
        k->held = false;
        ssize_t n = r < 0 ? 0 : pread(output, text, sizeof(text), 0);
        if (n > 0 && memmem(text, (size_t) n, LVM_HELD_WORD, sizeof(LVM_HELD_WORD) - 1))
                return 0;
        return lvm_fail(c, -EOPNOTSUPP,
                        HELD_LIBRARY
                        " does not work in %s%s%.200s, so the file system would be frozen twice: install vss again; "
                        "or set lvm_hold=no in vssd.conf, then a set has one logical volume, which lvm freezes itself",
                        lvm_program() ? lvm_program() : "lvm", said[0] ? ": " : "", said);
}

void lvm_keeper_done(LvmKeeper *k) {
        if (k->socket < 0)
                return;
        k->socket = close_fd(k->socket);
        /* One that still waits for lvm is left behind: whoever inherits it reaps it. */
        for (unsigned i = 0; i < 50 && waitpid(k->pid, NULL, WNOHANG) == 0; i++)
                sleep_msec(2);
        *k = LVM_KEEPER_NULL;
}
