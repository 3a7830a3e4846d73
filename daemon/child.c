/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Children of vssd. posix_spawn() cannot close every descriptor, make a session, or give the pidfd without a race, so
 * this is vfork and exec by hand. vssd's memory is locked, and copying what maps it for a child that drops it at once
 * is a third of what a set costs vssd; so the child runs in it, on a stack of its own, while vssd stands still, and
 * does only what is safe there. Whether exec worked comes back through a pipe that exec closes: "could not start" and
 * "started and died" are different failures, and only the first is known at once. What vssd set up for itself (blocked
 * signals, ignored SIGPIPE, a negative oom_score_adj, the I/O flusher flag, its slice) is undone for the child: a child
 * that needs it asks for it again.
 */
#include "daemon/child.h"
#include "protocol/urgency.h"
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

enum {
        ERROR_FD = CHILD_SOCKET_FD + 1, /* where the child keeps the error pipe until exec closes it */
        SAFE_FD = 16,                   /* above every descriptor the child rearranges */
        STATUS_UNKNOWN = 0xff00,        /* as exit(255): somebody else took the real one */
        STACK_SIZE = 16 * 1024,         /* of a child until exec, which needs less than 2 KiB */
};

typedef struct Start {
        char *const *argv;
        unsigned flags;
        int socket, error;
        pid_t parent;
} Start;

static int mounts_fd = -EBADF;

void child_set_mounts(int namespace_fd) {
        mounts_fd = namespace_fd;
}

static void child_reset_signals(void) {
        struct sigaction sa = { .sa_handler = SIG_DFL };
        for (int sig = 1; sig < _NSIG; sig++)
                if (sig != SIGKILL && sig != SIGSTOP)
                        (void) sigaction(sig, &sa, NULL);
        sigset_t none;
        (void) sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Only upwards: a positive value was given to us by somebody who wants us to go first. */
static void child_reset_oom_score(void) {
        char buf[16] = {};
        _cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
        if (fd >= 0 && read(fd, buf, sizeof(buf) - 1) > 0 && buf[0] == '-')
                (void) !pwrite(fd, "0", 1, 0);
}

/* stdin from /dev/null, stdout and stderr as they are (or /dev/null), the socket at 3, nothing else. */
static int child_arrange_fds(int socket, int error) {
        int high_socket = fcntl(socket, F_DUPFD_CLOEXEC, SAFE_FD), high_error = fcntl(error, F_DUPFD_CLOEXEC, SAFE_FD);
        if (high_socket < 0 || high_error < 0)
                return -errno;
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0)
                return -errno;
        /* Close-on-exec at 1 or 2 is no stdout but something of ours that found the number free. */
        for (int fd = 0; fd <= 2; fd++)
                if ((fd == 0 || fcntl(fd, F_GETFD) != 0) && null != fd && dup2(null, fd) < 0)
                        return -errno;
        if (null <= 2 && fcntl(null, F_SETFD, 0) < 0)
                return -errno;
        if (dup2(high_socket, CHILD_SOCKET_FD) < 0 || dup3(high_error, ERROR_FD, O_CLOEXEC) < 0)
                return -errno;
        return close_range(ERROR_FD + 1, UINT_MAX, 0) < 0 ? -errno : 0;
}

/* In vssd's memory: what it writes there stays. The sanitizer does not know its stack, and would say so. */
__attribute__((no_sanitize_address)) static int child_run(void *userdata) {
        const Start *s = userdata;
        int error = s->error,
            r = mounts_fd >= 0 && setns(mounts_fd, CLONE_NEWNS) < 0 ? -errno : child_arrange_fds(s->socket, error);
        if (r >= 0) {
                error = ERROR_FD;
                child_reset_signals();
                child_reset_oom_score();
                (void) prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0);
                urgency_set(s->flags & CHILD_LATER ? URGENCY_LATER : URGENCY_USUAL);
                if (s->flags & CHILD_OWN_SESSION)
                        (void) setsid();
                if (s->flags & CHILD_DIES_WITH_US && (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != s->parent))
                        _exit(EXIT_FAILURE);
                (void) execv(s->argv[0], s->argv);
                r = -errno;
        }
        (void) !write(error, &r, sizeof(r));
        _exit(EXIT_FAILURE);
}

/* 0 once exec has closed the pipe, else what stopped it. */
static int child_wait_for_exec(int error) {
        int result = 0;
        ssize_t n;
        do
                n = read(error, &result, sizeof(result));
        while (n < 0 && errno == EINTR);
        if (n < 0)
                return -errno;
        return n == sizeof(result) ? result : 0;
}

/*
 * A handler of ours that ran in the child would run in our memory: none does until exec, or child_reset_signals(). The
 * stack is there from the start, and locked with the rest: while something is held, a new guard needs no memory of
 * ours. There is one, since whoever starts children has one thread.
 */
static pid_t child_clone(Start *s, int *ret_pidfd) {
        static _Alignas(16) char stack[STACK_SIZE];
        sigset_t all, before;
        (void) sigfillset(&all);
        (void) sigprocmask(SIG_SETMASK, &all, &before);
        pid_t pid = clone(child_run, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, s,
                          ret_pidfd);
        int error = errno;
        (void) sigprocmask(SIG_SETMASK, &before, NULL);
        return pid < 0 ? -error : pid;
}

static void child_collect(pid_t pid) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
                ;
}

int child_spawn(char *const argv[], unsigned flags, Child *ret) {
        assert(argv && argv[0] && argv[0][0] == '/');
        assert(ret);
        int pair[2], error[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
                return -errno;
        _cleanup_close_ int ours = pair[0], theirs = pair[1];
        if (fcntl(ours, F_SETFL, O_NONBLOCK) < 0)
                return -errno;
        if (pipe2(error, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int error_read = error[0], error_write = error[1];

        int fd = -EBADF;
        Start start = { .argv = argv, .flags = flags, .socket = theirs, .error = error_write, .parent = getpid() };
        pid_t pid = child_clone(&start, &fd); /* and not pidfd_open(), which valgrind 3.19 does not know */
        if (pid < 0)
                return (int) pid;
        theirs = close_fd(theirs);
        error_write = close_fd(error_write);

        _cleanup_close_ int pidfd = fd;
        int r = child_wait_for_exec(error_read);
        if (r < 0) {
                (void) kill(pid, SIGKILL);
                child_collect(pid);
                return r;
        }
        *ret = (Child) { .pid = pid, .pidfd = TAKE_FD(pidfd), .socket = TAKE_FD(ours) };
        return 0;
}

int child_send(int socket, const void *message, size_t size, int fd) {
        assert(message && size > 0);
        union {
                char bytes[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } control = {};
        struct iovec iov = { .iov_base = (void *) (uintptr_t) message, .iov_len = size };
        struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
        if (fd >= 0) {
                mh.msg_control = control.bytes;
                mh.msg_controllen = sizeof(control.bytes);
                struct cmsghdr *cmsg = CMSG_FIRSTHDR(&mh);
                cmsg->cmsg_level = SOL_SOCKET;
                cmsg->cmsg_type = SCM_RIGHTS;
                cmsg->cmsg_len = CMSG_LEN(sizeof(int));
                memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
        }
        ssize_t n;
        do
                n = sendmsg(socket, &mh, MSG_NOSIGNAL);
        while (n < 0 && errno == EINTR);
        if (n >= 0)
                return 0;
        return errno == ECONNRESET ? -EPIPE : -errno;
}

/* Takes the first descriptor that came along; whatever else came is closed. Returns how many there were. */
static size_t child_take_fds(struct msghdr *mh, int *ret_fd) {
        size_t count = 0;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
                if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
                        continue;
                size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                for (size_t i = 0; i < n; i++, count++) {
                        int fd;
                        memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
                        if (count == 0)
                                *ret_fd = fd;
                        else
                                (void) close_fd(fd);
                }
        }
        return count;
}

int child_receive(int socket, void *message, size_t size, int *ret_fd) {
        assert(message && size > 0);
        /* Padding makes room for a second descriptor: it must be looked for, or it would stay open unseen. */
        union {
                char bytes[CMSG_SPACE(sizeof(int))];
                struct cmsghdr align;
        } control = {};
        struct iovec iov = { .iov_base = message, .iov_len = size };
        struct msghdr mh = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control)
        };
        ssize_t n;
        do
                n = recvmsg(socket, &mh, MSG_CMSG_CLOEXEC);
        while (n < 0 && errno == EINTR);
        if (n < 0 && errno == EAGAIN)
                return 0;
        if (n < 0)
                return errno == ECONNRESET ? -EPIPE : -errno;

        _cleanup_close_ int fd = -EBADF;
        size_t fds = child_take_fds(&mh, &fd);
        if (n == 0)
                return -EPIPE;
        if ((size_t) n != size || fds > 1 || mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
                return -EBADMSG;
        if (ret_fd)
                *ret_fd = TAKE_FD(fd);
        return 1;
}

void child_kill(Child *c) {
        if (c->pidfd < 0 || c->reaped)
                return;
        if (syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0) < 0 && errno == ENOSYS && c->pid > 0)
                (void) kill(c->pid, SIGKILL); /* under valgrind */
}

bool child_reap(Child *c, int *ret_status) {
        if (c->pid <= 0)
                return true;
        if (!c->reaped) {
                int status;
                pid_t r;
                do
                        r = waitpid(c->pid, &status, WNOHANG);
                while (r < 0 && errno == EINTR);
                if (r == 0)
                        return false;
                c->status = r > 0 ? status : STATUS_UNKNOWN;
                c->reaped = true;
        }
        if (ret_status)
                *ret_status = c->status;
        return true;
}

void child_done(Child *c) {
        c->socket = close_fd(c->socket);
        c->pidfd = close_fd(c->pidfd);
        c->pid = 0;
}

/* Where the parts of a build tree lie, seen from the directory of any program of it (tests and the client included). */
static const char *const child_build_places[] = { "", "../daemon/", "../providers/", "../providers/cow/",
                                                  "../../daemon/" };

int child_program_path(const char *name, char *ret, size_t size) {
        assert(name && name[0] && !strchr(name, '/'));
        assert(ret);
        char self[PATH_MAX], path[PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
        if (n < 0)
                return -errno;
        self[n] = 0;
        char *slash = strrchr(self, '/');
        if (!slash)
                return -ENOENT;
        slash[1] = 0;

        int k = -1;
        for (size_t i = 0; i < ELEMENTSOF(child_build_places) && k < 0; i++) {
                k = snprintf(path, sizeof(path), "%s%s%s", self, child_build_places[i], name);
                if (k < 0 || (size_t) k >= sizeof(path))
                        return -ENAMETOOLONG;
                if (access(path, X_OK) < 0)
                        k = -1;
        }
        if (k < 0)
                k = snprintf(path, sizeof(path), "%s/%s", VSS_LIBEXECDIR, name);
        if (k < 0 || (size_t) k >= MIN_OF(size, sizeof(path)))
                return -ENAMETOOLONG;
        memcpy(ret, path, (size_t) k + 1);
        return 0;
}
