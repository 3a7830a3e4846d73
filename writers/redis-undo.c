/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process that undoes has a socket of ours and nothing else. Each change is told to it before it is made; when the
 * socket says that we are gone, it undoes the last it was told, over a connection of its own. It ignores the signals
 * that end us, since they may come to both, and ends when we do.
 */
#include "writers/redis-undo.h"
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define UNDO_TIMEOUT_USEC (30 * USEC_PER_SEC) /* how long a server that does not answer is asked again */
#define UNDO_AGAIN_USEC (100 * USEC_PER_MSEC)

static bool percentage_is_valid(const char *p) {
        size_t n = strspn(p, "0123456789");
        return n > 0 && n < REDIS_PERCENTAGE_BYTES && p[n] == '\0';
}

static int undo(RedisServer *s, const RedisChanges *c, uint64_t until_usec, Failure *reterr) {
        int r = 0, q = 0;
        if (c->paused)
                r = REDIS_CALL(s, until_usec, NULL, reterr, "CLIENT", "UNPAUSE");
        if (c->percentage[0])
                q = REDIS_CALL(s, until_usec, NULL, reterr, "CONFIG", "SET", "auto-aof-rewrite-percentage",
                               c->percentage);
        return r < 0 ? r : q;
}

/* --- the process that undoes -------------------------------------------------------------------------------------- */

static void record_remove(const RedisUndo *u) {
        if (u->record)
                (void) unlink(u->record);
}

_Noreturn static void keeper(RedisUndo *u, int fd) {
        RedisChanges told = {}, next;
        ssize_t n;
        (void) setsid();
        (void) signal(SIGTERM, SIG_IGN);
        (void) signal(SIGINT, SIG_IGN);
        (void) signal(SIGHUP, SIG_IGN);
        (void) dup2(fd, 3);
        (void) close_range(4, ~0U, 0);
        while ((n = recv(3, &next, sizeof(next), 0)) > 0 || (n < 0 && errno == EINTR))
                if (n == sizeof(next))
                        told = next;
        uint64_t end = usec_add(now_usec(), UNDO_TIMEOUT_USEC);
        while ((told.paused || told.percentage[0]) && now_usec() < end) {
                if (undo(u->server, &told, usec_add(now_usec(), USEC_PER_SEC), NULL) >= 0) {
                        record_remove(u);
                        break;
                }
                (void) usleep(UNDO_AGAIN_USEC);
        }
        _exit(EXIT_SUCCESS);
}

static int keeper_start(RedisUndo *u, Failure *reterr) {
        int fds[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
                return failure_set(reterr, CONDITION_FAILED, "no pair of sockets: %s", strerror(errno));
        pid_t pid = fork();
        if (pid == 0)
                keeper(u, fds[1]);
        (void) close(fds[1]);
        u->fd = fds[0];
        return pid < 0 ? failure_set(reterr, CONDITION_FAILED, "no process: %s", strerror(errno)) : 0;
}

/* --- the record --------------------------------------------------------------------------------------------------- */

/* Redis forgets a pause by itself; only the setting has to be kept. */
static int record_write(const RedisUndo *u, const char *percentage, Failure *reterr) {
        if (!u->record)
                return 0;
        _cleanup_close_ int fd = open(u->record, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        size_t n = strlen(percentage);
        if (fd < 0 || write(fd, percentage, n) != (ssize_t) n)
                return failure_set(reterr, CONDITION_FAILED, "%s: %s", u->record, strerror(errno));
        return 0;
}

static void record_heed(RedisUndo *u) {
        RedisChanges c = {};
        _cleanup_close_ int fd = open(u->record, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, c.percentage, sizeof(c.percentage) - 1);
        if (n <= 0 || !percentage_is_valid(c.percentage))
                return;
        if (undo(u->server, &c, usec_add(now_usec(), 5 * USEC_PER_SEC), NULL) >= 0)
                record_remove(u);
}

/* --- for the writer ----------------------------------------------------------------------------------------------- */

int redis_undo_start(RedisUndo *u, RedisServer *s, const char *name, Failure *reterr) {
        const char *directory = getenv("RUNTIME_DIRECTORY");
        *u = (RedisUndo) { .server = s, .fd = -EBADF };
        if (directory && directory[0] == '/' && asprintf(&u->record, "%s/%s.rewrite-percentage", directory, name) < 0)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        if (u->record)
                record_heed(u);
        redis_disconnect(s); /* the process that undoes makes its own */
        return keeper_start(u, reterr);
}

int redis_undo_note(RedisUndo *u, const RedisChanges *c, Failure *reterr) {
        if (c->percentage[0] && !percentage_is_valid(c->percentage))
                return failure_set(reterr, CONDITION_FAILED, "redis has an auto-aof-rewrite-percentage of %s",
                                   c->percentage);
        if (c->percentage[0] && !u->changes.percentage[0]) {
                int r = record_write(u, c->percentage, reterr);
                if (r < 0)
                        return r;
        }
        if (send(u->fd, c, sizeof(*c), MSG_NOSIGNAL) != sizeof(*c))
                return failure_set(reterr, CONDITION_FAILED, "the process that undoes is gone: %s", strerror(errno));
        u->changes = *c;
        return 0;
}

int redis_undo_now(RedisUndo *u, uint64_t until_usec, Failure *reterr) {
        if (!u->changes.paused && !u->changes.percentage[0])
                return 0;
        int r = undo(u->server, &u->changes, until_usec, reterr);
        if (r < 0)
                return r;
        u->changes = (RedisChanges) {};
        record_remove(u);
        (void) send(u->fd, &u->changes, sizeof(u->changes), MSG_NOSIGNAL);
        return 0;
}

void redis_undo_done(RedisUndo *u) {
        close_fd(u->fd);
        free(u->record);
}
