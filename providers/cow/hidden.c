/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "providers/cow/hidden.h"
#include "protocol/base.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { NAME_SIZE = 32, OWNER_MAX = 64 };

void hidden_begin(Hidden *h, const char *links) {
        *h = (Hidden) { .directory = -EBADF, .devices = -EBADF };
        if (isempty(links) || (mkdir(links, 0755) < 0 && errno != EEXIST))
                return;
        _cleanup_close_ int fd = open(links, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 || (mkdirat(fd, ".hidden", 0755) < 0 && errno != EEXIST))
                return;
        h->directory = openat(fd, ".hidden", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        h->devices = open("/sys/dev/block", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* udev looks at it again. */
static void announce(const Hidden *h, const char *name) {
        char path[NAME_MAX + 8];
        (void) snprintf(path, sizeof(path), "%s/uevent", name);
        _cleanup_close_ int fd = openat(h->devices, path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
                (void) !write(fd, "change", strlen("change"));
}

static bool name_of(int origin, char ret[static NAME_SIZE]) {
        struct stat st;
        if (fstat(origin, &st) < 0 || !S_ISBLK(st.st_mode))
                return false;
        (void) snprintf(ret, NAME_SIZE, "%u:%u", major(st.st_rdev), minor(st.st_rdev));
        return true;
}

void hidden_add(const Hidden *h, int origin, const char *owner) {
        char name[NAME_SIZE];
        if (!name_of(origin, name))
                return;
        _cleanup_close_ int fd = openat(h->directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                                        0644);
        if (fd >= 0 && write(fd, owner, strlen(owner)) > 0)
                announce(h, name);
}

static bool is_of(int directory, const char *name, const char *owner) {
        char text[OWNER_MAX];
        _cleanup_close_ int fd = openat(directory, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
        return n == (ssize_t) strlen(owner) && memcmp(text, owner, (size_t) n) == 0;
}

static void forget(const Hidden *h, const char *name, const char *owner) {
        if (is_of(h->directory, name, owner) && unlinkat(h->directory, name, 0) == 0)
                announce(h, name);
}

void hidden_add_name(const Hidden *h, const char *name, const char *owner) {
        _cleanup_close_ int fd = openat(h->directory, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                                        0644);
        if (fd >= 0)
                (void) !write(fd, owner, strlen(owner));
}

void hidden_remove_name(const Hidden *h, const char *name, const char *owner) {
        if (is_of(h->directory, name, owner))
                (void) unlinkat(h->directory, name, 0);
}

void hidden_remove(const Hidden *h, int origin, const char *owner) {
        char name[NAME_SIZE];
        if (name_of(origin, name))
                forget(h, name, owner);
}

void hidden_reconsider(const char *path) {
        char uevent[64];
        struct stat st;
        if (stat(path, &st) < 0 || !S_ISBLK(st.st_mode))
                return;
        (void) snprintf(uevent, sizeof(uevent), "/sys/dev/block/%u:%u/uevent", major(st.st_rdev), minor(st.st_rdev));
        _cleanup_close_ int fd = open(uevent, O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
                (void) !write(fd, "change", strlen("change"));
}

void hidden_sweep(const Hidden *h, const char *owner) {
        int fd = openat(h->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        const struct dirent *e;
        while (d && (e = readdir(d)))
                if (e->d_name[0] != '.')
                        forget(h, e->d_name, owner);
        if (d)
                (void) closedir(d);
        else
                (void) close_fd(fd);
}
