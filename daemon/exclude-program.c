/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-exclude. It removes files as root in a tree that may be laid out against it, so every step goes by descriptor and
 * stays beneath the copy's root: no symbolic link is followed, no other file system entered, and the copy is a mount of
 * its own that nobody else sees. Directories stay.
 */
#include "daemon/capabilities.h"
#include "daemon/child.h"
#include "daemon/exclude-wire.h"
#include "protocol/text.h"
#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum { EXCLUDE_DEPTH_MAX = 256 }; /* directories open at once */

typedef struct Walk {
        const char *pattern;
        bool recursive;
        struct ExcludeReply *reply;
} Walk;

static int open_beneath(int dir, const char *name) {
        const struct open_how how = {
                .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW,
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
        };
        int fd = (int) syscall(SYS_openat2, dir, name, &how, sizeof(how));
        return fd < 0 ? -errno : fd;
}

static void note(struct ExcludeReply *reply, const char *name, int error) {
        _cleanup_free_ char *shown = NULL;
        if (reply->failed++ > 0)
                return;
        (void) path_escape(name, &shown);
        (void) snprintf(reply->message, sizeof(reply->message), "%.300s: %s", shown ? shown : "?", strerror(error));
}

static void remove_one(const Walk *w, int dir, const char *name, const struct stat *st) {
        if (unlinkat(dir, name, 0) < 0) {
                if (errno != ENOENT)
                        note(w->reply, name, errno);
                return;
        }
        w->reply->removed++;
        if (S_ISREG(st->st_mode) && st->st_nlink == 1)
                w->reply->bytes += (uint64_t) st->st_blocks * 512;
}

static void walk(const Walk *w, int fd, unsigned depth) {
        DIR *d = fdopendir(fd);
        if (!d) {
                note(w->reply, ".", errno);
                (void) close_fd(fd);
                return;
        }
        for (struct dirent *e; (e = readdir(d));) {
                struct stat st;
                if (streq(e->d_name, ".") || streq(e->d_name, ".."))
                        continue;
                if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) {
                        note(w->reply, e->d_name, errno);
                        continue;
                }
                if (!S_ISDIR(st.st_mode)) {
                        if (fnmatch(w->pattern, e->d_name, 0) == 0)
                                remove_one(w, fd, e->d_name, &st);
                        continue;
                }
                if (!w->recursive)
                        continue;
                int below = depth < EXCLUDE_DEPTH_MAX ? open_beneath(fd, e->d_name) : -ELOOP;
                if (below >= 0)
                        walk(w, below, depth + 1);
                else if (below != -EXDEV) /* a mount, or another subvolume: not of this copy */
                        note(w->reply, e->d_name, -below);
        }
        (void) closedir(d);
}

static void handle(const struct ExcludeRequest *q, int copy, struct ExcludeReply *reply) {
        _cleanup_free_ char *root = NULL, *pattern = NULL;
        int r = path_unescape(q->root, &root);
        if (r >= 0)
                r = path_unescape(q->pattern, &pattern);
        int fd = r < 0 ? r : open_beneath(copy, root[0] ? root : ".");
        if (fd == -ENOENT)
                return; /* nothing there to keep out */
        if (fd < 0) {
                note(reply, q->root[0] ? q->root : "/", -fd);
                return;
        }
        Walk w = { .pattern = pattern, .recursive = q->recursive != 0, .reply = reply };
        walk(&w, fd, 0);
}

static const unsigned capabilities[] = { CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER };

int main(void) {
        static struct ExcludeRequest q;
        int copy = -EBADF;
        capabilities_keep(capabilities, ELEMENTSOF(capabilities));
        for (;;) {
                struct ExcludeReply reply = {};
                int fd = -EBADF;
                if (child_receive(CHILD_SOCKET_FD, &q, sizeof(q), &fd) != 1)
                        return EXIT_FAILURE;
                q.root[sizeof(q.root) - 1] = q.pattern[sizeof(q.pattern) - 1] = '\0';
                if (fd >= 0) {
                        (void) close_fd(copy);
                        copy = fd;
                }
                if (q.op == EXCLUDE_END)
                        copy = close_fd(copy);
                else if (q.op == EXCLUDE_REMOVE && copy >= 0)
                        handle(&q, copy, &reply);
                else
                        return EXIT_FAILURE;
                if (child_send(CHILD_SOCKET_FD, &reply, sizeof(reply), -1) < 0)
                        return EXIT_FAILURE;
                if (q.op == EXCLUDE_END)
                        return EXIT_SUCCESS;
        }
}
