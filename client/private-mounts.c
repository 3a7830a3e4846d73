/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is mounted below a volume and not part of the set (proc, a backup disk, a network mount) is put back on top of
 * the copy, so that a command sees its tools and its target; only the volumes change. A copy of "/" becomes the root
 * directory. The current directory is entered again at the end: it would otherwise still be that of the live volume.
 */
#include "client/private-mounts.h"
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/syscall.h>

enum { PRIVATE_MOUNTS_MAX = 8192 };

void private_mounts_done(PrivateMounts *p) {
        for (size_t i = 0; i < p->n_mounts; i++) {
                free(p->mounts[i].path);
                (void) close_fd(p->mounts[i].fd);
        }
        free(p->mounts);
        *p = (PrivateMounts) {};
}

int private_mounts_add(PrivateMounts *p, const char *path, int fd, bool copy) {
        PrivateMount *grown = p->n_mounts < PRIVATE_MOUNTS_MAX ?
                                      reallocarray(p->mounts, p->n_mounts + 1, sizeof(*grown)) :
                                      NULL;
        char *own = strdup(path);
        if (grown)
                p->mounts = grown;
        if (!grown || !own) {
                free(own);
                (void) close_fd(fd);
                return -ENOMEM;
        }
        p->mounts[p->n_mounts++] = (PrivateMount) { own, fd, copy };
        return 0;
}

static bool is_below(const char *path, const char *directory) {
        size_t n = streq(directory, "/") ? 0 : strlen(directory);
        return strncmp(path, directory, n) == 0 && path[n] == '/' && path[n + 1];
}

static bool stays_visible(const PrivateMounts *p, const char *path) {
        bool below = false;
        for (size_t i = 0; i < p->n_mounts; i++) {
                if (streq(p->mounts[i].path, path))
                        return false; /* a copy, or there already */
                below = below || (p->mounts[i].copy && is_below(path, p->mounts[i].path));
        }
        return below;
}

/* \040 and its like, in place */
static void unescape(char *text) {
        char *q = text;
        for (const char *p = text; *p;) {
                unsigned byte;
                if (p[0] == '\\' && sscanf(p + 1, "%3o", &byte) == 1 && byte > 0 && byte < 256) {
                        *q++ = (char) byte;
                        p += 4;
                } else
                        *q++ = *p++;
        }
        *q = 0;
}

/* Clones what must stay visible, while the way to it is not covered yet. */
static int collect(PrivateMounts *p) {
        _cleanup_free_ char *line = NULL;
        size_t size = 0;
        int r = 0;
        FILE *f = fopen("/proc/self/mountinfo", "re");
        if (!f)
                return -errno;
        while (r >= 0 && getline(&line, &size, f) > 0) {
                _cleanup_free_ char *path = malloc(strlen(line) + 1);
                if (!path || sscanf(line, "%*u %*u %*u:%*u %*s %s", path) != 1)
                        continue;
                unescape(path);
                if (!stays_visible(p, path))
                        continue;
                int fd = open_tree(AT_FDCWD, path,
                                   OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT);
                if (fd >= 0)
                        r = private_mounts_add(p, path, fd, false);
        }
        (void) fclose(f);
        return r;
}

/* A parent's path is a prefix of its child's, so it sorts before it. */
static int by_path(const void *a, const void *b) {
        const PrivateMount *x = a, *y = b;
        return strcmp(x->path, y->path);
}

static int open_target(const char *path) {
        struct open_how how = { .flags = O_PATH | O_CLOEXEC | O_NOFOLLOW,
                                .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
        int fd = (int) syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
        return fd < 0 ? -errno : fd;
}

static int attach(const PrivateMount *m) {
        _cleanup_close_ int target = open_target(m->path);
        if (target < 0)
                return target;
        if (move_mount(m->fd, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
                return -errno;
        /* move_mount() may have made it shared with its parent; nothing below may ever propagate. */
        char self[64];
        (void) snprintf(self, sizeof(self), "/proc/self/fd/%d", m->fd);
        if (m->copy && mount(NULL, self, NULL, MS_PRIVATE, NULL) < 0 && errno != ENOENT)
                return -errno;
        if (streq(m->path, "/") && (fchdir(m->fd) < 0 || chroot(".") < 0))
                return -errno;
        return 0;
}

int private_mounts_enter(PrivateMounts *p, char *reterr, size_t size) {
        _cleanup_free_ char *cwd = get_current_dir_name();
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0) {
                (void) snprintf(reterr, size, "cannot make a private mount namespace: %s; run needs root",
                                strerror(errno));
                return -errno;
        }
        int r = collect(p);
        if (p->n_mounts > 0)
                qsort(p->mounts, p->n_mounts, sizeof(*p->mounts), by_path);
        for (size_t i = 0; r >= 0 && i < p->n_mounts; i++) {
                r = attach(&p->mounts[i]);
                if (r < 0 && !p->mounts[i].copy)
                        r = 0; /* its directory is younger than the copy */
                if (r < 0)
                        (void) snprintf(reterr, size, "cannot mount the copy on %s: %s", p->mounts[i].path,
                                        strerror(-r));
        }
        if (r >= 0 && cwd && chdir(cwd) < 0) {
                r = -errno;
                (void) snprintf(reterr, size,
                                "the current directory %s does not exist in the copy; change to another one", cwd);
        }
        if (r < 0 && !reterr[0])
                (void) snprintf(reterr, size, "cannot read the mount table: %s", strerror(-r));
        return r;
}
