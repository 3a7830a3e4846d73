/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "providers/cow/scratch.h"
#include "providers/cow/origin.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

enum { DEPTH_MAX = 8 }; /* of devices on one another; deeper counts as ours */

static bool is_served(const Shared *s, dev_t dev) {
        for (unsigned i = 0; i < NODES; i++) {
                const Node *node = &s->nodes[i];
                struct stat st;
                if (node->kind != NODE_UNUSED && node->device[0] && stat(node->device, &st) == 0 && st.st_rdev == dev)
                        return true;
        }
        return false;
}

static bool read_line(const char *path, char *ret, size_t n) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t got = fd < 0 ? -1 : read(fd, ret, n - 1);
        ret[MAX_OF(got, (ssize_t) 0)] = '\0';
        ret[strcspn(ret, "\n")] = '\0';
        return got > 0;
}

static bool lies_on_served(const Shared *s, dev_t dev, unsigned depth);

static bool device_in_file(const Shared *s, const char *path, unsigned depth) {
        char line[32];
        unsigned ma, mi;
        return read_line(path, line, sizeof(line)) && sscanf(line, "%u:%u", &ma, &mi) == 2 &&
               lies_on_served(s, makedev(ma, mi), depth);
}

/* The device, the disk it is a partition of, what it is made of, and the file system that a loop device's file lies on.
 */
static bool lies_on_served(const Shared *s, dev_t dev, unsigned depth) {
        char path[512], below[256];
        struct stat st;
        bool served = depth > DEPTH_MAX || is_served(s, dev);
        if (major(dev) == 0 || served)
                return served;
        int at = snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/", major(dev), minor(dev));
        char *end = path + at;
        size_t room = sizeof(path) - (size_t) at;
        (void) snprintf(end, room, "partition");
        if (access(path, F_OK) == 0) {
                (void) snprintf(end, room, "../dev");
                return device_in_file(s, path, depth + 1);
        }
        (void) snprintf(end, room, "loop/backing_file");
        if (read_line(path, below, sizeof(below)) && stat(below, &st) == 0 &&
            lies_on_served(s, S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev, depth + 1))
                return true;
        (void) snprintf(end, room, "slaves");
        DIR *d = opendir(path);
        for (struct dirent *e; d && !served && (e = readdir(d));)
                if (e->d_name[0] != '.') {
                        (void) snprintf(end, room, "slaves/%s/dev", e->d_name);
                        served = device_in_file(s, path, depth + 1);
                }
        if (d)
                (void) closedir(d);
        return served;
}

/* The number that its files have says nothing. 1: it does, 0: it does not, -errno: it is none. */
static int btrfs_lies_on_served(const Shared *s, int fd) {
        struct btrfs_ioctl_fs_info_args all;
        if (ioctl(fd, BTRFS_IOC_FS_INFO, &all) < 0)
                return -errno;
        for (uint64_t id = 1; id <= all.max_id; id++) {
                struct btrfs_ioctl_dev_info_args one = { .devid = id };
                struct stat st;
                if (ioctl(fd, BTRFS_IOC_DEV_INFO, &one) == 0 &&
                    (stat((char *) one.path, &st) < 0 || lies_on_served(s, st.st_rdev, 0)))
                        return 1;
        }
        return 0;
}

static const char *why_not(int fd, const Shared *s, int same) {
        struct stat st, known;
        const char *unfit = file_system_unfit(fd);
        if (unfit)
                return unfit;
        if (fstat(fd, &st) < 0)
                return strerror(errno);
        int r = major(st.st_dev) == 0 ? btrfs_lies_on_served(s, fd) : lies_on_served(s, st.st_dev, 0);
        if (r < 0 && (fstat(same, &known) < 0 || known.st_dev != st.st_dev))
                return "does not say which devices it is on";
        return r > 0 ? "lies on a volume of this store" : NULL;
}

int scratch_open(const char *directory, uint64_t bytes, const Shared *shared, int same, uint64_t *ret_free, char *text,
                 size_t n) {
        char proc[32];
        struct statvfs v;
        int flags = 0;
        _cleanup_close_ int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd < 0) {
                (void) snprintf(text, n, "no unnamed file can be made in %s: %s", directory, strerror(errno));
                return -errno;
        }
        const char *why = why_not(fd, shared, same);
        if (why) {
                (void) snprintf(text, n, "%s %s: no overlay can be kept there", directory, why);
                return -EOPNOTSUPP;
        }
        if (ioctl(fd, FS_IOC_GETFLAGS, &flags) >= 0) { /* btrfs would copy each block on every write */
                flags |= FS_NOCOW_FL;
                (void) ioctl(fd, FS_IOC_SETFLAGS, &flags);
        }
        (void) snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
        _cleanup_close_ int kept = open(proc, O_PATH | O_CLOEXEC);
        if (kept < 0 || ftruncate(fd, (off_t) bytes) < 0 || fstatvfs(fd, &v) < 0) {
                (void) snprintf(text, n, "an overlay of %lu bytes in %s: %s", bytes, directory, strerror(errno));
                return -errno;
        }
        *ret_free = (uint64_t) v.f_bavail * v.f_frsize / 2;
        return TAKE_FD(kept);
}
