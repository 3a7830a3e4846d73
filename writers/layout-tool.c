/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tools that read disks, each in a process that may crash, talk without end or sit in the kernel on a disk that hangs:
 * what it says is bounded, and so is the time that we give it. A child that cannot be killed is left to whenever the
 * kernel lets it go; it is collected by a later call.
 */
#include "writers/layout.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { READ_STEP = 16 * 1024, COMPLAINT_BYTES = 256 };
#define KILLED_USEC (200 * USEC_PER_MSEC) /* for the kernel to end a child that was killed */

extern char **environ;

typedef struct Output {
        int fd;
        char *data;
        size_t size, allocated, max;
        bool keeps; /* all of it, or it is an error; else what fits */
} Output;

/* ---- files ---- */

int layout_read_file(const char *path, size_t max, char **ret, size_t *ret_size) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
        _cleanup_free_ char *data = malloc(max + 1);
        struct stat st;
        size_t size = 0;

        if (fd < 0 || !data || fstat(fd, &st) < 0)
                return fd < 0 || data ? -errno : -ENOMEM;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        for (ssize_t n = 1; n > 0 && size <= max; size += (size_t) MAX_OF(n, (ssize_t) 0)) {
                n = read(fd, data + size, max + 1 - size);
                if (n < 0 && errno != EINTR)
                        return -errno;
                n = n < 0 ? 0 : n;
        }
        if (size > max)
                return -EFBIG;
        data[size] = '\0';
        *ret_size = size;
        *ret = realloc(data, size + 1);
        data = *ret ? NULL : data;
        return *ret ? 0 : -ENOMEM;
}

char *layout_read_line(const char *path) {
        char *text;
        size_t size;

        if (layout_read_file(path, 4096, &text, &size) < 0)
                return NULL;
        text[strcspn(text, "\r\n")] = '\0';
        for (size_t n = strlen(text); n > 0 && text[n - 1] == ' ';)
                text[--n] = '\0';
        return text;
}

/* ---- processes ---- */

/* 0: its end, or nothing more for now. */
static int output_read(Output *o) {
        if (o->allocated - o->size < READ_STEP) {
                char *grown = realloc(o->data, o->allocated + 4 * READ_STEP);
                if (!grown)
                        return -ENOMEM;
                o->data = grown;
                o->allocated += 4 * (size_t) READ_STEP;
        }
        ssize_t n = read(o->fd, o->data + o->size, READ_STEP - 1);
        if (n < 0)
                return errno == EINTR || errno == EAGAIN ? 0 : -errno;
        if (n == 0) {
                o->fd = close_fd(o->fd);
                return 0;
        }
        o->size += (size_t) n;
        if (o->size > o->max && o->keeps)
                return -EFBIG;
        o->size = MIN_OF(o->size, o->max);
        return 0;
}

static int output_open(Output *o, int *ret_child) {
        int fds[2];
        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        o->fd = fds[0];
        *ret_child = fds[1];
        return fcntl(o->fd, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

static void output_done(Output *o) {
        (void) close_fd(o->fd);
        free(o->data);
}

/* Both streams until they end. -ETIME. */
static int outputs_read(Output *o, uint64_t until_usec) {
        while (o[0].fd >= 0 || o[1].fd >= 0) {
                struct pollfd p[2] = { { .fd = o[0].fd, .events = POLLIN }, { .fd = o[1].fd, .events = POLLIN } };
                uint64_t now = now_usec();
                if (now >= until_usec)
                        return -ETIME;
                if (poll(p, 2, (int) ((until_usec - now) / USEC_PER_MSEC + 1)) < 0 && errno != EINTR)
                        return -errno;
                for (int i = 0; i < 2; i++) {
                        int r = p[i].fd >= 0 && p[i].revents ? output_read(o + i) : 0;
                        if (r < 0)
                                return r;
                }
        }
        return 0;
}

/* Its exit status; -ETIME: it does not end, and has been killed. */
static int child_wait(pid_t pid, uint64_t until_usec) {
        for (bool killed = false;;) {
                int status;
                pid_t k = waitpid(pid, &status, WNOHANG);
                if (k < 0 && errno != EINTR)
                        return -errno;
                if (k == pid)
                        return killed ? -ETIME : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
                if (now_usec() >= until_usec && killed)
                        return -ETIME;
                if (now_usec() >= until_usec) {
                        (void) kill(-pid, SIGKILL);
                        killed = true;
                        until_usec = usec_add(now_usec(), KILLED_USEC);
                }
                (void) poll(NULL, 0, 1);
        }
}

static int spawn(const char *const argv[], int out, int complaints, pid_t *ret) {
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        sigset_t none, all;
        int r = posix_spawn_file_actions_init(&actions);
        r = r ? r : posix_spawnattr_init(&attributes);
        if (r)
                return -r;
        (void) sigemptyset(&none);
        (void) sigfillset(&all);
        (void) posix_spawnattr_setsigmask(&attributes, &none);
        (void) posix_spawnattr_setsigdefault(&attributes, &all);
        (void) posix_spawnattr_setflags(&attributes,
                                        POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                POSIX_SPAWN_SETPGROUP); /* its own, so that all of it is killed */
        r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        r = r ? r : posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
        r = r ? r : posix_spawn_file_actions_adddup2(&actions, complaints, STDERR_FILENO);
        r = r ? r : posix_spawnp(ret, argv[0], &actions, &attributes, (char *const *) argv, environ);
        (void) posix_spawn_file_actions_destroy(&actions);
        (void) posix_spawnattr_destroy(&attributes);
        return -r;
}

static int run(const char *const argv[], Output *o, uint64_t until_usec) {
        _cleanup_close_ int out = -EBADF, complaints = -EBADF;
        pid_t pid;
        int r = output_open(o, &out);
        r = r < 0 ? r : output_open(o + 1, &complaints);
        r = r < 0 ? r : spawn(argv, out, complaints, &pid);
        if (r < 0)
                return r;
        out = close_fd(out);
        complaints = close_fd(complaints);
        r = outputs_read(o, until_usec);
        int status = child_wait(pid, r < 0 ? 0 : until_usec);
        return r < 0 ? r : status;
}

/* Children that could not be killed when their time was up. */
static void collect(void) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
}

static void explain(const char *tool, int r, const Output *complaints, Failure *reterr) {
        if (r == -ENOENT)
                (void) failure_set(reterr, CONDITION_NOT_SUPPORTED, "%s is not installed", tool);
        else if (r == -EFBIG)
                (void) failure_set(reterr, CONDITION_LIMIT_REACHED, "%s says more than %d bytes", tool,
                                   LAYOUT_TOOL_BYTES_MAX);
        else if (r == -ETIME)
                (void) failure_set(reterr, CONDITION_DEADLINE_PASSED, "%s does not end", tool);
        else if (r < 0)
                (void) failure_set(reterr, CONDITION_FAILED, "%s: %s", tool, strerror(-r));
        else
                (void) failure_set(reterr, CONDITION_FAILED, "%s: %.*s", tool,
                                   (int) (complaints->data ? complaints->size : 0), complaints->data);
        reterr->message[strcspn(reterr->message, "\n")] = '\0';
}

int layout_tool(const char *const argv[], uint64_t until_usec, char **ret, size_t *ret_size, Failure *reterr) {
        Output o[2] = { { .fd = -EBADF, .max = LAYOUT_TOOL_BYTES_MAX, .keeps = true },
                        { .fd = -EBADF, .max = COMPLAINT_BYTES } };
        collect();
        int r = run(argv, o, MIN_OF(until_usec, usec_add(now_usec(), LAYOUT_TOOL_USEC)));
        if (r != 0)
                explain(argv[0], r, o + 1, reterr);
        else if (o[0].data) {
                o[0].data[o[0].size] = '\0';
                *ret_size = o[0].size;
                *ret = TAKE_PTR(o[0].data);
        } else
                r = failure_set(reterr, CONDITION_FAILED, "%s says nothing", argv[0]);
        output_done(o);
        output_done(o + 1);
        return r > 0 ? -EIO : r;
}

int layout_tool_json(const char *const argv[], uint64_t until_usec, json_object **ret, Failure *reterr) {
        _cleanup_free_ char *text = NULL;
        size_t size;
        Failure f = {};
        int r = layout_tool(argv, until_usec, &text, &size, reterr);
        if (r < 0)
                return r;
        r = json_tree_parse(text, size, LAYOUT_TOOL_BYTES_MAX, &f, ret);
        return r < 0 ? failure_set(reterr, CONDITION_INVALID_DOCUMENT, "%s: what it says is not good JSON: %.400s",
                                   argv[0], f.message) :
                       0;
}
