/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of a layout, in a directory that only we write to. A backup program may be reading it for another set, so a
 * file is replaced in one step, and one that is still the same is left alone.
 */
#include "writers/layout.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define TEMPORARY ".new" /* excluded from the component */

enum { DEPTH_MAX = 16 };

static int fail(Failure *reterr, int error, const char *what, const char *name) {
        return failure_set(reterr, error == -ENOSPC || error == -EDQUOT ? CONDITION_NO_SPACE : CONDITION_FAILED,
                           "%s %.300s: %s", what, name, strerror(-error));
}

/* The directory that holds it, made if it is missing, and its last part. */
static int open_parent(int dfd, const char *name, const char **ret_base) {
        int fd = openat(dfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        for (const char *slash; fd >= 0 && (slash = strchr(name, '/')); name = slash + 1) {
                _cleanup_free_ char *part = strndup(name, (size_t) (slash - name));
                if (!part || (mkdirat(fd, part, 0700) < 0 && errno != EEXIST)) {
                        int r = part ? -errno : -ENOMEM;
                        (void) close(fd);
                        return r;
                }
                int next = openat(fd, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = -errno;
                (void) close(fd);
                if (next < 0)
                        return r;
                fd = next;
        }
        *ret_base = name;
        return fd < 0 ? -errno : fd;
}

static bool is_same(int dfd, const char *name, const LayoutFile *f) {
        _cleanup_close_ int fd = openat(dfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        _cleanup_free_ char *data = malloc(f->size + 1);
        struct stat st;
        if (fd < 0 || !data || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size != (off_t) f->size)
                return false;
        for (size_t done = 0; done < f->size;) {
                ssize_t n = read(fd, data + done, f->size - done);
                if (n <= 0)
                        return false;
                done += (size_t) n;
        }
        return memcmp(data, f->data, f->size) == 0;
}

static int write_file(int dfd, const char *name, const LayoutFile *f) {
        (void) unlinkat(dfd, TEMPORARY, 0);
        _cleanup_close_ int fd = openat(dfd, TEMPORARY, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        for (size_t done = 0; done < f->size;) {
                ssize_t n = write(fd, f->data + done, f->size - done);
                if (n < 0 && errno != EINTR)
                        return -errno;
                done += (size_t) MAX_OF(n, (ssize_t) 0);
        }
        return fsync(fd) < 0 || renameat(dfd, TEMPORARY, dfd, name) < 0 || fsync(dfd) < 0 ? -errno : 0;
}

static bool is_known(const Layout *l, const char *path, bool directory) {
        size_t n = strlen(path);
        for (size_t i = 0; i < l->n_files; i++)
                if (strncmp(l->files[i].name, path, n) == 0 && l->files[i].name[n] == (directory ? '/' : '\0'))
                        return true;
        return false;
}

/* What a layout before this one had. Takes fd. */
static void clear(const Layout *l, int fd, const char *path, unsigned depth) {
        DIR *d = depth < DEPTH_MAX ? fdopendir(fd) : NULL;
        if (!d) {
                (void) close(fd);
                return;
        }
        for (struct dirent *e; (e = readdir(d));) {
                _cleanup_free_ char *own = NULL;
                if (streq(e->d_name, ".") || streq(e->d_name, "..") ||
                    asprintf(&own, "%s%s%s", path, path[0] ? "/" : "", e->d_name) < 0)
                        continue;
                int child = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                if (child >= 0)
                        clear(l, child, own, depth + 1);
                if (!is_known(l, own, child >= 0))
                        (void) unlinkat(dirfd(d), e->d_name, child >= 0 ? AT_REMOVEDIR : 0);
        }
        (void) closedir(d);
}

/* What is of no layout belongs to somebody: a directory that was given by mistake is not emptied. */
static int check_own(int dfd, const char *directory, Failure *reterr) {
        static const char *const own[] = { ".", "..", "disks", "files", "layout.json", TEMPORARY };
        int fd = openat(dfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d) {
                r = -errno;
                (void) close_fd(fd);
                return fail(reterr, r, "cannot read", directory);
        }
        for (struct dirent *e; r >= 0 && (e = readdir(d));) {
                bool known = false;
                for (size_t i = 0; i < ELEMENTSOF(own); i++)
                        known = known || streq(e->d_name, own[i]);
                if (!known)
                        r = failure_set(reterr, CONDITION_EXISTS,
                                        "%.200s holds %.100s, which is of no layout: a directory of its own is needed",
                                        directory, e->d_name);
        }
        (void) closedir(d);
        return r;
}

int layout_save(const Layout *l, const char *directory, Failure *reterr) {
        if (mkdir(directory, 0700) < 0 && errno != EEXIST)
                return fail(reterr, -errno, "cannot make", directory);
        _cleanup_close_ int top = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;
        if (top < 0 || fstat(top, &st) < 0)
                return fail(reterr, -errno, "cannot open", directory);
        if (st.st_uid != geteuid() || (st.st_mode & 022))
                return failure_set(reterr, CONDITION_NOT_AUTHORIZED,
                                   "%.300s is not a directory that only uid %u writes to", directory,
                                   (unsigned) geteuid());
        if (check_own(top, directory, reterr) < 0)
                return -EEXIST;
        int own = openat(top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (own >= 0)
                clear(l, own, "", 0);
        for (size_t i = 0; i < l->n_files; i++) {
                const char *base = "";
                _cleanup_close_ int parent = open_parent(top, l->files[i].name, &base);
                int r = parent < 0                          ? parent :
                        is_same(parent, base, l->files + i) ? 0 :
                                                              write_file(parent, base, l->files + i);
                if (r < 0)
                        return fail(reterr, r, "cannot write", l->files[i].name);
        }
        return 0;
}
