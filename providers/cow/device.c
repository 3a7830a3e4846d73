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

/* For udev (units/59-vss.rules), which then makes the link too and tells systemd that the device is there. */
static void device_name(int links, const char *name, const char *device, const char *owner) {
        struct stat st;
        char number[32], path[64];
        if (stat(device, &st) < 0 || !S_ISBLK(st.st_mode) || (mkdirat(links, ".devices", 0755) < 0 && errno != EEXIST))
                return;
        _cleanup_close_ int dir = openat(links, ".devices", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        (void) snprintf(number, sizeof(number), "%u:%u", major(st.st_rdev), minor(st.st_rdev));
        _cleanup_close_ int fd = openat(dir, number, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
        if (fd < 0 || dprintf(fd, "VSS_VOLUME=%s\nVSS_OWNER=%s\n", name, owner) < 0)
                return;
        (void) snprintf(path, sizeof(path), "/sys/dev/block/%s/uevent", number);
        _cleanup_close_ int event = open(path, O_WRONLY | O_CLOEXEC);
        if (event >= 0)
                (void) !write(event, "change", strlen("change"));
}

int device_link(const char *directory, const char *name, const char *target, const char *owner) {
        char next[NODE_NAME_MAX + 8];
        if (mkdir(directory, 0755) < 0 && errno != EEXIST)
                return -errno;
        _cleanup_close_ int dir = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir < 0)
                return -errno;
        (void) snprintf(next, sizeof(next), ".%s.new", name);
        (void) unlinkat(dir, next, 0);
        if (symlinkat(target, dir, next) < 0 || renameat(dir, next, dir, name) < 0)
                return -errno;
        device_name(dir, name, target, owner);
        return 0;
}

#define LOOP_NUMBERS "7:" /* a ublk device is taken over by the next holder, with its name */

/* Names of devices that have "KEY=value" in the file that udev reads of them. */
static void device_names_drop(int links, const char *prefix, const char *key, const char *value) {
        char wanted[160], text[256];
        int n = snprintf(wanted, sizeof(wanted), "%s=%s\n", key, value);
        int fd = openat(links, ".devices", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *d = fd < 0 || n >= (int) sizeof(wanted) ? NULL : fdopendir(fd);
        for (struct dirent *e; d && (e = readdir(d));) {
                _cleanup_close_ int file = openat(dirfd(d), e->d_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
                bool meant = e->d_name[0] != '.' && strncmp(e->d_name, prefix, strlen(prefix)) == 0;
                ssize_t k = !meant || file < 0 ? -1 : read(file, text, sizeof(text) - 1);
                text[MAX_OF(k, 0)] = '\0';
                if (k > 0 && strstr(text, wanted))
                        (void) unlinkat(dirfd(d), e->d_name, 0);
        }
        if (d)
                (void) closedir(d);
        else
                (void) close_fd(fd);
}

void device_unlink(const char *directory, const char *name) {
        _cleanup_close_ int dir = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir < 0)
                return;
        device_names_drop(dir, "", "VSS_VOLUME", name);
        (void) unlinkat(dir, name, 0);
}

void device_names_sweep(const char *directory, const char *owner) {
        _cleanup_close_ int dir = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir >= 0)
                device_names_drop(dir, LOOP_NUMBERS, "VSS_OWNER", owner);
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
        char next[DEVICE_PATH_MAX + 8];
        if (dir < 0)
                return dir;
        /* of its own: several devices are made at the same time */
        (void) snprintf(next, sizeof(next), ".%s.new", base_name(device));
        _cleanup_close_ int fd = openat(dir, next, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        int n = dprintf(fd, "%s %u:%u %u:%u\n", label, major(o), minor(o), major(s), minor(s));
        return n < 0 || renameat(dir, next, dir, base_name(device)) < 0 ? -errno : 0;
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
