/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The loop driver turns a file of ours into a block device. Its own name for the file is a label of our making, which
 * says whose device it is: "vss-cow:STORE:NAME", so that what a dead holder left can be found again.
 */
#include "providers/cow/device.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { LOOPS_MAX = 4096, TRIES = 64, DROP_TRIES = 25, DROP_TICK_USEC = 20000 };

static int fail(char *text, size_t n, int r, const char *what) {
        (void) snprintf(text, n, "%s: %s", what, strerror(-r));
        return r;
}

/* A loop device is configured with the node's file, or -EBUSY: somebody else took it meanwhile. */
static int loop_configure(int loop, int file, const Node *node, const char *label) {
        struct loop_config c = {
                .fd = (uint32_t) file,
                .block_size = node->block_size,
                .info = { .lo_flags = LO_FLAGS_DIRECT_IO | (node->kind == NODE_COPY ? LO_FLAGS_READ_ONLY : 0) },
        };
        (void) snprintf((char *) c.info.lo_file_name, sizeof(c.info.lo_file_name), "%s", label);
        if (ioctl(loop, LOOP_CONFIGURE, &c) < 0)
                return -errno;
        struct loop_info64 info;
        if (ioctl(loop, LOOP_GET_STATUS64, &info) < 0 || !(info.lo_flags & LO_FLAGS_DIRECT_IO)) {
                (void) ioctl(loop, LOOP_CLR_FD);
                return -EOPNOTSUPP; /* through the page cache a write would be acknowledged before we see it */
        }
        return 0;
}

static int file_open(int mount, const Node *node) {
        int fd = openat(mount, node->name, (node->kind == NODE_COPY ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW);
        struct stat st;
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0 ||
            (uint64_t) st.st_size != node->bytes) { /* without this the device would have no size */
                (void) close_fd(fd);
                return -EIO;
        }
        return fd;
}

int device_make(int mount, const Node *node, const char *label, char ret[static DEVICE_PATH_MAX], char *text,
                size_t n) {
        _cleanup_close_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        if (control < 0)
                return fail(text, n, -errno, "/dev/loop-control cannot be opened (is the loop module there?)");
        _cleanup_close_ int file = file_open(mount, node);
        if (file < 0)
                return fail(text, n, file, "the volume's own file cannot be opened");
        int r = -EBUSY;
        for (unsigned i = 0; r == -EBUSY && i < TRIES; i++) {
                int number = ioctl(control, LOOP_CTL_GET_FREE);
                if (number < 0)
                        return fail(text, n, -errno, "no free loop device");
                (void) snprintf(ret, DEVICE_PATH_MAX, "/dev/loop%d", number);
                _cleanup_close_ int loop = open(ret, (node->kind == NODE_COPY ? O_RDONLY : O_RDWR) | O_CLOEXEC);
                if (loop < 0)
                        return fail(text, n, -errno, ret);
                r = loop_configure(loop, file, node, label);
        }
        return r < 0 ? fail(text, n, r, r == -EOPNOTSUPP ? "the loop driver does no direct I/O here" : ret) : 0;
}

static bool label_is(int loop, const char *prefix, size_t n) {
        struct loop_info64 info;
        return ioctl(loop, LOOP_GET_STATUS64, &info) == 0 && strncmp((char *) info.lo_file_name, prefix, n) == 0;
}

/* Mounted, or part of another device. Not what somebody else has by now under the same number. */
static bool loop_is_used(const char *path, const char *label) {
        _cleanup_close_ int loop = open(path, O_RDONLY | O_CLOEXEC);
        if (loop < 0 || !label_is(loop, label, strlen(label) + 1))
                return false;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
        return fd < 0 && errno == EBUSY;
}

/*
 * 1: it is dropped, or was not ours. 0: somebody has it open, so the driver would only drop it after him, when the file
 * behind it may be gone long since: that is taken back.
 */
static int loop_clear(const char *path, const char *label) {
        struct loop_info64 info;
        _cleanup_close_ int loop = open(path, O_RDONLY | O_CLOEXEC);
        if (loop < 0)
                return errno == ENOENT || errno == ENXIO ? 1 : -errno;
        if (!label_is(loop, label, strlen(label) + 1))
                return 1; /* it is gone, and somebody else has the number */
        if (ioctl(loop, LOOP_CLR_FD) < 0)
                return errno == ENXIO ? 1 : -errno;
        if (ioctl(loop, LOOP_GET_STATUS64, &info) < 0)
                return 1;
        info.lo_flags &= ~(uint32_t) LO_FLAGS_AUTOCLEAR;
        return ioctl(loop, LOOP_SET_STATUS64, &info) < 0 ? -errno : 0;
}

int device_drop(const char *path, const char *label, char *text, size_t n) {
        if (loop_is_used(path, label)) {
                (void) snprintf(text, n, "%s is in use: unmount it first (findmnt -S %s)", path, path);
                return -EBUSY;
        }
        int r = 0;
        for (unsigned i = 0; r == 0 && i < DROP_TRIES; i++) { /* udev opens what is new for a moment */
                r = loop_clear(path, label);
                if (r == 0)
                        (void) usleep(DROP_TICK_USEC);
        }
        if (r == 0)
                (void) snprintf(text, n, "%s is open: close it first (fuser -v %s)", path, path);
        else if (r < 0)
                return fail(text, n, r, path);
        return r > 0 ? 0 : -EBUSY;
}

void devices_sweep(const char *label_prefix) {
        for (unsigned i = 0; i < LOOPS_MAX; i++) {
                char path[DEVICE_PATH_MAX];
                (void) snprintf(path, sizeof(path), "/dev/loop%u", i);
                _cleanup_close_ int loop = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
                if (loop >= 0 && label_is(loop, label_prefix, strlen(label_prefix)))
                        (void) ioctl(loop, LOOP_CLR_FD);
        }
}

int device_link(const char *directory, const char *name, const char *target) {
        char next[NODE_NAME_MAX + 8];
        if (mkdir(directory, 0755) < 0 && errno != EEXIST)
                return -errno;
        _cleanup_close_ int dir = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir < 0)
                return -errno;
        (void) snprintf(next, sizeof(next), ".%s.new", name);
        (void) unlinkat(dir, next, 0);
        return symlinkat(target, dir, next) < 0 || renameat(dir, next, dir, name) < 0 ? -errno : 0;
}

void device_unlink(const char *directory, const char *name) {
        _cleanup_close_ int dir = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir >= 0)
                (void) unlinkat(dir, name, 0);
}

/* --- what it lies on ---------------------------------------------------------------------------------------------- */

static int lies_on_open(const char *directory, bool make) {
        char path[ORIGIN_PATH_MAX + 16];
        (void) snprintf(path, sizeof(path), "%s/lies-on", directory);
        if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static const char *base_name(const char *device) {
        return strrchr(device, '/') ? strrchr(device, '/') + 1 : device;
}

static dev_t carrier(int fd) {
        struct stat st;
        return fd < 0 || fstat(fd, &st) < 0 ? 0 : S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
}

int lies_on_write(const char *directory, const char *device, const char *label, int origin, int store) {
        _cleanup_close_ int dir = lies_on_open(directory, true);
        dev_t o = carrier(origin), s = carrier(store);
        if (dir < 0)
                return dir;
        _cleanup_close_ int fd = openat(dir, ".new", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        int n = dprintf(fd, "%s %u:%u %u:%u\n", label, major(o), minor(o), major(s), minor(s));
        return n < 0 || renameat(dir, ".new", dir, base_name(device)) < 0 ? -errno : 0;
}

void lies_on_remove(const char *directory, const char *device) {
        _cleanup_close_ int dir = lies_on_open(directory, false);
        if (dir >= 0)
                (void) unlinkat(dir, base_name(device), 0);
}

void lies_on_sweep(const char *directory) {
        int fd = lies_on_open(directory, false);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        const struct dirent *e;
        while (d && (e = readdir(d)))
                (void) unlinkat(fd, e->d_name, 0);
        if (d)
                (void) closedir(d);
}
