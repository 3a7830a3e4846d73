/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A copy is a read-only device that shows one instant. What was frozen then has an empty log: ext4 and btrfs mount as
 * they are, XFS leaves a dummy record and needs norecovery (hazards A6). What was not frozen has a log that must be
 * replayed: without that even files that were synced would be missing. So never norecovery or noload there, but one
 * more device of the copy, with an overlay that takes what the replay writes. It is mounted read-only all the same:
 * ext4, XFS and btrfs replay their logs then too, as long as the device can be written to. The device is one for this
 * mount, and ends by itself when the last clone of it is unmounted, by whomever.
 *
 * A btrfs finds its devices by the id of the file system, which the copy shares with the live one: kernels that do not
 * know temporary ids would show the live file system in place of the copy.
 */
#include "providers/cow/provider.h"
#include <blkid.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/loop.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum {
        EXT_FEATURES_AT = 1024 + 96, /* s_feature_incompat */
        EXT_NEEDS_RECOVERY = 4,
        BTRFS_LOG_ROOT_AT = 64 * 1024 + 96,
        HEAD_BYTES = BTRFS_LOG_ROOT_AT + 8,
};

typedef struct Shown {
        char device[256], type[32];
        int overlay; /* the device, if it is one with an overlay; kept open so that it does not end before it is mounted
                      */
} Shown;

static int find_type(struct vss_call *c, const char *device, char *ret, size_t size) {
        const char *type = NULL;
        blkid_probe p = blkid_new_probe_from_filename(device);
        if (!p)
                return cow_fail(c, -errno, "%s cannot be read", device);
        (void) blkid_probe_enable_partitions(p, true);
        int r = blkid_do_safeprobe(p) == 0 && blkid_probe_lookup_value(p, "TYPE", &type, NULL) == 0 ? 0 : -ENOENT;
        if (r >= 0)
                (void) snprintf(ret, size, "%s", type);
        blkid_free_probe(p);
        return r < 0 ? cow_fail(c, -EOPNOTSUPP, "the copy carries no file system that could be mounted") : 0;
}

/* Of a copy that was not frozen. Any XFS: its log says itself whether it is empty, but not in one place. */
static bool needs_replay(const Shown *w) {
        static uint8_t head[HEAD_BYTES];
        static const uint8_t none[8];
        if (streq(w->type, "xfs"))
                return true;
        _cleanup_close_ int fd = open(w->device, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || pread(fd, head, sizeof(head), 0) != sizeof(head))
                return false; /* mounting it will say why */
        if (streq(w->type, "ext4") || streq(w->type, "ext3"))
                return head[EXT_FEATURES_AT] & EXT_NEEDS_RECOVERY;
        return streq(w->type, "btrfs") && memcmp(head + BTRFS_LOG_ROOT_AT, none, sizeof(none)) != 0;
}

static int set_flag(int fs, const char *flag) {
        return fsconfig(fs, FSCONFIG_SET_FLAG, flag, NULL, 0) < 0 ? -errno : 0;
}

/* The last thing the file system driver said about it, without its "e ". */
static void why_not(int fs, char *ret, size_t size) {
        char line[200];
        ret[0] = '\0';
        for (ssize_t n; (n = read(fs, line, sizeof(line) - 1)) > 0;) {
                line[n] = '\0';
                line[strcspn(line, "\n")] = '\0';
                (void) snprintf(ret, size, " (%s)", n > 2 && line[1] == ' ' ? line + 2 : line);
        }
}

static int mount_failed(struct vss_call *c, int fs, int r, const Shown *w, const CowCopy *copy) {
        const char *type = w->type;
        char why[256];
        why_not(fs, why, sizeof(why));
        if (r == -ENODEV)
                return cow_fail(c, -EOPNOTSUPP, "this kernel has no %s", type);
        if (!copy->frozen && w->overlay < 0)
                return cow_fail(c, -EOPNOTSUPP,
                                "the %s file system of the copy was not frozen when it was made, and its log cannot be "
                                "replayed on a read-only device%s; take the copy while it is mounted",
                                type, why);
        return cow_fail(c, r == -EUCLEAN ? r : -EIO, "the copy's %s file system cannot be mounted: %s%s", type,
                        strerror(-r), why);
}

static int make_mount(struct vss_call *c, const Shown *w, const CowCopy *copy, int *ret) {
        const char *type = w->type;
        _cleanup_close_ int fs = fsopen(type, FSOPEN_CLOEXEC);
        if (fs < 0)
                return mount_failed(c, fs, -errno, w, copy);
        int r = fsconfig(fs, FSCONFIG_SET_STRING, "source", w->device, 0) < 0 ? -errno : set_flag(fs, "ro");
        if (r >= 0 && streq(type, "xfs")) /* its origin is mounted and has the same id */
                r = set_flag(fs, "nouuid");
        if (r >= 0 && streq(type, "xfs") && copy->frozen)
                r = set_flag(fs, "norecovery");
        if (r >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                r = -errno;
        if (r < 0)
                return mount_failed(c, fs, r, w, copy);
        *ret = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
        return *ret < 0 ? cow_fail(c, -errno, "fsmount: %s", strerror(errno)) : 0;
}

/* Before: the kernel must know the trick. After: it must be our device and not the live one. */
static int btrfs_check(struct vss_call *c, int mount_fd, const char *device) {
        if (mount_fd < 0)
                return access("/sys/fs/btrfs/features/temp_fsid", F_OK) >= 0 ?
                               0 :
                               cow_fail(c, -EOPNOTSUPP,
                                        "this kernel cannot mount a copy of a btrfs beside the "
                                        "original (Linux 6.7 can); read it as a device");
        _cleanup_close_ int fd = openat(mount_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct btrfs_ioctl_dev_info_args info = { .devid = 1 };
        struct stat seen, wanted;
        if (fd >= 0 && ioctl(fd, BTRFS_IOC_DEV_INFO, &info) == 0 && stat((char *) info.path, &seen) == 0 &&
            stat(device, &wanted) == 0 && seen.st_rdev == wanted.st_rdev)
                return 0;
        return cow_fail(c, -EOPNOTSUPP, "the kernel shows the live btrfs in place of its copy; read it as a device");
}

static int attach_mount(struct vss_call *c, int mount_fd, const char *directory) {
        struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS };
        _cleanup_close_ int dir = (int) syscall(SYS_openat2, AT_FDCWD, directory, &how, sizeof(how));
        if (dir < 0)
                return cow_fail(c, errno == ELOOP ? -EINVAL : -errno, "%s cannot be mounted on: %s", directory,
                                strerror(errno));
        if (move_mount(mount_fd, "", dir, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
                return cow_fail(c, -errno, "mounting on %s: %s", directory, strerror(errno));
        return 0;
}

/* From here on it ends with its mount: the loop driver sees to that, or vss-cow itself. */
static int end_with_mount(struct vss_call *c, CowStore *s, const char *snapshot, const Shown *w) {
        struct loop_info64 info;
        if (cow_device_is_ublk(w->device))
                return cow_copy_end_with_use(c, s, snapshot, w->device);
        if (ioctl(w->overlay, LOOP_GET_STATUS64, &info) < 0)
                return cow_fail(c, -errno, "%s: %s", w->device, strerror(errno));
        info.lo_flags |= LO_FLAGS_AUTOCLEAR;
        return ioctl(w->overlay, LOOP_SET_STATUS64, &info) < 0 ?
                       cow_fail(c, -errno, "%s cannot be told to end with its mount: %s", w->device, strerror(errno)) :
                       0;
}

/* It could not be mounted: the reason stays, unless it was the room for the replay. */
static int take_back(struct vss_call *c, CowStore *s, const char *snapshot, Shown *w, int r) {
        char message[sizeof(c->message)];
        bool full = false;
        (void) snprintf(message, sizeof(message), "%s", c->message);
        w->overlay = close_fd(w->overlay);
        (void) cow_copy_hide(c, s, snapshot, w->device, &full);
        (void) snprintf(c->message, sizeof(c->message), "%s", message);
        return full ? cow_fail(c, -ENOSPC,
                               "replaying the log of copy %s takes more room than there is beside its store",
                               snapshot) :
                      r;
}

/* The device that is to be mounted, of the kind the copy needs. */
static int show(struct vss_call *c, CowStore *s, const char *snapshot, const CowCopy *copy, Shown *w) {
        int r = cow_copy_expose(c, s, snapshot, w->device, sizeof(w->device));
        if (r >= 0)
                r = find_type(c, w->device, w->type, sizeof(w->type));
        if (r < 0 || copy->frozen || !needs_replay(w))
                return r;
        r = cow_copy_overlay(c, s, snapshot, w->device, sizeof(w->device));
        if (r < 0)
                return r;
        w->overlay = open(w->device, O_RDWR | O_CLOEXEC);
        return w->overlay < 0 ?
                       take_back(c, s, snapshot, w, cow_fail(c, -errno, "%s: %s", w->device, strerror(errno))) :
                       0;
}

static int mount_shown(struct vss_call *c, CowStore *s, const char *snapshot, const Shown *w, const CowCopy *copy,
                       int *ret) {
        bool btrfs = streq(w->type, "btrfs");
        int r = btrfs ? btrfs_check(c, -1, w->device) : 0;
        if (r >= 0)
                r = make_mount(c, w, copy, ret);
        if (r >= 0 && w->overlay >= 0)
                r = end_with_mount(c, s, snapshot, w);
        return r >= 0 && btrfs ? btrfs_check(c, *ret, w->device) : r;
}

int cow_mount(void *state, struct vss_call *c, const char *snapshot, const char *directory) {
        Shown w = { .overlay = -EBADF };
        int mount_fd = -EBADF;
        CowStore s = COW_STORE_NULL;
        CowCopy copy;
        int r = cow_copy_find(c, snapshot, &s, &copy);
        if (r >= 0 && copy.damaged)
                r = cow_fail(c, -EUCLEAN, "copy %s is damaged and not mounted; what can be read of it is on its device",
                             snapshot);
        if (r >= 0)
                r = show(c, &s, snapshot, &copy, &w);
        if (r >= 0)
                r = mount_shown(c, &s, snapshot, &w, &copy, &mount_fd);
        if (r >= 0)
                r = attach_mount(c, mount_fd, directory);
        (void) close_fd(mount_fd);
        if (r < 0 && w.overlay >= 0)
                r = take_back(c, &s, snapshot, &w, r);
        (void) close_fd(w.overlay);
        cow_store_done(&s);
        if (r >= 0 && copy.unverified)
                (void) cow_fail(c, 0, "copy %s is unverified: its origin was written to behind the engine's back",
                                snapshot);
        return r;
}

int cow_unmount(void *state, struct vss_call *c, const char *directory) {
        if (umount2(directory, UMOUNT_NOFOLLOW | (c->flags & VSS_CALL_FORCE ? MNT_DETACH : 0)) >= 0 ||
            errno == EINVAL || errno == ENOENT)
                return 0;
        return cow_fail(c, -errno, "%s cannot be unmounted: %s", directory, strerror(errno));
}
