/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading a file as root is running it as root. So the file and everything on the way to it must be out of everybody
 * else's hands, and what was checked is what is loaded: the descriptor goes to dlopen(), not the path.
 */
#include "providers/directory.h"
#include "protocol/vocabulary.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static const char *const builtin_names[] = {
#if HAVE_BTRFS
        "btrfs",
#endif
        "lvm",   "cow", "null", NULL,
};

const char *const *provider_builtin_names(void) {
        return builtin_names;
}

bool provider_is_builtin(const char *name) {
        for (const char *const *n = builtin_names; *n; n++)
                if (streq(*n, name))
                        return true;
        return false;
}

const char *provider_directory(void) {
        const char *e = secure_getenv("VSS_PROVIDER_DIRECTORY");
        return isempty(e) ? VSS_PROVIDERDIR : e;
}

static int open_no_symlinks(int dir, const char *path, uint64_t flags, uint64_t resolve) {
        struct open_how how = { .flags = flags | O_CLOEXEC | O_NOFOLLOW, .resolve = resolve | RESOLVE_NO_SYMLINKS };
        int fd = (int) syscall(SYS_openat2, dir, path, &how, sizeof(how));
        return fd < 0 ? -errno : fd;
}

static bool owner_is_trusted(const struct stat *st) {
        return st->st_uid == 0 || st->st_uid == geteuid();
}

/* Nobody untrusted can put another entry in the place of one that is ours. */
static bool parent_is_safe(const struct stat *st) {
        return owner_is_trusted(st) && (!(st->st_mode & (S_IWGRP | S_IWOTH)) || st->st_mode & S_ISVTX);
}

static bool is_private_to_us(const struct stat *st) {
        return owner_is_trusted(st) && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

/* -EPERM and the path of the first ancestor that others can change; path is cut at each step. */
static int check_ancestors(char *path, char **reterr_path) {
        for (char *slash; (slash = strrchr(path, '/'));) {
                struct stat st;
                slash[slash == path ? 1 : 0] = '\0';
                if (lstat(path, &st) < 0)
                        return -errno;
                if (!S_ISDIR(st.st_mode) || !parent_is_safe(&st)) {
                        if (reterr_path)
                                *reterr_path = strdup(path);
                        return -EPERM;
                }
                if (slash == path)
                        return 0;
        }
        return 0;
}

int provider_directory_open(int *ret_fd, char **reterr_path) {
        /* Symbolic links are resolved once, and only along directories that check_ancestors() then trusts. */
        _cleanup_free_ char *path = realpath(provider_directory(), NULL);
        if (!path)
                return -errno;
        int r = open_no_symlinks(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0);
        if (r < 0)
                return r;
        _cleanup_close_ int fd = r;
        struct stat st;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!is_private_to_us(&st)) {
                if (reterr_path)
                        *reterr_path = TAKE_PTR(path);
                return -EPERM;
        }
        r = check_ancestors(path, reterr_path);
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int provider_file_open(int directory_fd, const char *name, int *ret_fd) {
        char file[NAME_MAX + 1];
        assert(provider_name_is_valid(name));
        (void) snprintf(file, sizeof(file), "%s.so", name);
        int r = open_no_symlinks(directory_fd, file, O_RDONLY | O_NONBLOCK, RESOLVE_BENEATH);
        if (r < 0)
                return r;
        _cleanup_close_ int fd = r;
        struct stat st;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || !is_private_to_us(&st))
                return -EPERM;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

char **provider_names_free(char **names) {
        if (names)
                for (char **n = names; *n; n++)
                        free(*n);
        free(names);
        return NULL;
}

static int name_compare(const void *a, const void *b) {
        return strcmp(*(char *const *) a, *(char *const *) b);
}

/* The provider's name if the file could be one; "fault:" is a decorator and no file. */
static bool file_to_name(const char *file, char *ret, size_t size) {
        size_t n = strlen(file);
        if (n < 4 || n - 3 >= size || !streq(file + n - 3, ".so"))
                return false;
        memcpy(ret, file, n - 3);
        ret[n - 3] = '\0';
        return !strchr(ret, ':') && provider_name_is_valid(ret) && !provider_is_builtin(ret);
}

static void closedirp(DIR **d) {
        if (*d)
                (void) closedir(*d);
}

int provider_directory_names(char ***ret) {
        _cleanup_(provider_names_freep) char **names = calloc(PROVIDERS_MAX + 1, sizeof(char *));
        if (!names)
                return -ENOMEM;
        _cleanup_close_ int fd = -EBADF;
        int r = provider_directory_open(&fd, NULL);
        if (r < 0 && r != -ENOENT)
                return r;
        _cleanup_(closedirp) DIR *d = r < 0 ? NULL : fdopendir(fd);
        if (r >= 0 && !d)
                return -errno;
        if (d)
                fd = -EBADF; /* closedir() closes it */
        size_t n = 0;
        for (struct dirent *e; d && n < PROVIDERS_MAX && (e = readdir(d));) {
                char name[NAME_MAX + 1];
                if (!file_to_name(e->d_name, name, sizeof(name)))
                        continue;
                if (!(names[n] = strdup(name)))
                        return -ENOMEM;
                n++;
        }
        qsort(names, n, sizeof(char *), name_compare);
        *ret = TAKE_PTR(names);
        return 0;
}
