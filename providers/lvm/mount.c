/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A copy as a device and as a directory. A thin copy is active only from its first use on: until then nothing on the
 * host can take it for the original, whose file system has the same id. Every copy was frozen when it was made, so its
 * log is empty and it mounts read-only as it is; XFS leaves a record all the same and is told not to look (hazards A6),
 * nor to mind its id.
 */
#include "providers/lvm/lvm.h"
#include <blkid.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

static int activate(struct vss_call *c, LvmSession *s, const LvmVolume *v) {
        char name[2 * LVM_NAME_BYTES];
        (void) snprintf(name, sizeof(name), "%s/%s", v->vg_name, v->name);
        const char *const arguments[] = { "lvchange",   "--devices", s->devices,
                                          "--activate", "y",         "--ignoreactivationskip",
                                          "--yes",      name,        NULL };
        return lvm_session_run(c, s, "the copy cannot be activated", arguments);
}

/* The device of a copy that is fit for use, activated if it is not; its descriptor. */
static int open_copy(struct vss_call *c, const char *snapshot, char *ret_path, size_t size) {
        LvmSession s = LVM_SESSION_NULL;
        const LvmVolume *v = NULL;
        LvmIdentity id = {};
        LvmMark m;
        int r = lvm_session_open(c, NULL, &s), fd = -EBADF;
        if (r == -ENOENT)
                r = lvm_fail(c, r, "there is no copy %s", snapshot);
        if (r >= 0)
                r = lvm_session_find(c, &s, snapshot, &v, &m);
        if (r >= 0 && (v->invalid || v->broken))
                r = lvm_fail(
                        c, -EUCLEAN,
                        "copy %s is lost: %s; delete it and give copies more room (lvm_snapshot_size= in vssd.conf)",
                        snapshot, v->invalid ? "more was changed than it has room for" : "its pool is out of order");
        if (r >= 0 && v->merging)
                r = lvm_fail(c, -EBUSY, "the volume is being reverted to copy %s", snapshot);
        if (r >= 0 && v->minor < 0) {
                r = activate(c, &s, v);
                if (r >= 0)
                        r = lvm_session_reload(c, &s);
                if (r >= 0)
                        r = lvm_session_find(c, &s, snapshot, &v, &m);
        }
        if (r >= 0 && v->minor < 0)
                r = lvm_fail(c, -EIO, "copy %s does not become active", snapshot);
        if (r >= 0) {
                struct stat st;
                (void) snprintf(ret_path, size, "/dev/dm-%d", v->minor);
                fd = open(ret_path, O_RDONLY | O_CLOEXEC);
                if (fd < 0 || fstat(fd, &st) < 0)
                        r = lvm_fail(c, -EIO, "%s cannot be opened: %s", ret_path, strerror(errno));
                else if (!S_ISBLK(st.st_mode) || lvm_identify(st.st_rdev, &id) < 0 || !streq(id.lv_uuid, v->uuid))
                        r = lvm_fail(c, -EIO, "%s is not the copy", ret_path);
        }
        lvm_session_done(&s);
        if (r < 0)
                (void) close_fd(fd);
        return r < 0 ? r : fd;
}

int lvm_open(void *state, struct vss_call *c, const char *snapshot) {
        char path[64];
        return open_copy(c, snapshot, path, sizeof(path));
}

static int find_type(struct vss_call *c, int fd, char *ret, size_t size) {
        const char *type = NULL;
        blkid_probe p = blkid_new_probe();
        if (!p || blkid_probe_set_device(p, fd, 0, 0) < 0) {
                blkid_free_probe(p);
                return lvm_fail(c, -EIO, "the copy cannot be read");
        }
        (void) blkid_probe_enable_partitions(p, true);
        bool known = blkid_do_safeprobe(p) == 0 && blkid_probe_lookup_value(p, "TYPE", &type, NULL) == 0;
        if (known)
                (void) snprintf(ret, size, "%s", type);
        blkid_free_probe(p);
        return known ? 0 : lvm_fail(c, -EOPNOTSUPP, "the copy carries no file system that could be mounted");
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

static int make_mount(struct vss_call *c, const char *path, const char *type, int *ret) {
        static const char *const xfs[] = { "nouuid", "norecovery" };
        char why[256];
        _cleanup_close_ int fs = fsopen(type, FSOPEN_CLOEXEC);
        if (fs < 0)
                return lvm_fail(c, errno == ENODEV ? -EOPNOTSUPP : -errno, "this kernel has no %s", type);
        int r = fsconfig(fs, FSCONFIG_SET_STRING, "source", path, 0);
        if (r >= 0)
                r = fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0);
        for (size_t i = 0; i < ELEMENTSOF(xfs) && r >= 0 && streq(type, "xfs"); i++)
                r = fsconfig(fs, FSCONFIG_SET_FLAG, xfs[i], NULL, 0);
        if (r >= 0)
                r = fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
        int error = errno;
        if (r < 0) {
                why_not(fs, why, sizeof(why));
                return lvm_fail(c, error == EUCLEAN ? -EUCLEAN : -EIO,
                                "the copy's %s file system cannot be mounted: %s%s", type, strerror(error), why);
        }
        *ret = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
        return *ret < 0 ? lvm_fail(c, -errno, "fsmount: %s", strerror(errno)) : 0;
}

int lvm_mount(void *state, struct vss_call *c, const char *snapshot, const char *directory) {
        struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS };
        _cleanup_close_ int mount_fd = -EBADF;
        char path[64], type[32];
        struct stat copy, there;
        _cleanup_close_ int device = open_copy(c, snapshot, path, sizeof(path));
        if (device < 0)
                return device;
        if (fstat(device, &copy) >= 0 && stat(directory, &there) >= 0 && there.st_dev == copy.st_rdev)
                return 0; /* done before */
        int r = find_type(c, device, type, sizeof(type));
        if (r >= 0)
                r = make_mount(c, path, type, &mount_fd);
        if (r < 0)
                return r;
        _cleanup_close_ int place = (int) syscall(SYS_openat2, AT_FDCWD, directory, &how, sizeof(how));
        if (place < 0)
                return lvm_fail(c, errno == ELOOP ? -EINVAL : -errno, "%s cannot be mounted on: %s", directory,
                                strerror(errno));
        if (move_mount(mount_fd, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
                return lvm_fail(c, -errno, "mounting on %s: %s", directory, strerror(errno));
        return 0;
}

/* A thin copy that nobody has open any more goes back to rest; if it cannot, it stays as it is. */
static void deactivate(struct vss_call *c, const LvmIdentity *id) {
        LvmSession s = LVM_SESSION_NULL;
        LvmMark m;
        char name[2 * LVM_NAME_BYTES];
        if (lvm_session_open(c, id->vg_uuid, &s) >= 0) {
                const LvmVolume *v = lvm_report_find(&s.report, id->vg_uuid, id->lv_uuid);
                if (v && v->thin && !v->open && lvm_mark_read(v, &m)) {
                        (void) snprintf(name, sizeof(name), "%s/%s", v->vg_name, v->name);
                        const char *const arguments[] = { "lvchange", "--devices", s.devices, "--activate",
                                                          "n",        name,        NULL };
                        (void) lvm_session_run(c, &s, "the copy stays active", arguments);
                }
        }
        lvm_session_done(&s);
        c->message[0] = '\0';
}

int lvm_unmount(void *state, struct vss_call *c, const char *directory) {
        struct stat st;
        LvmIdentity id;
        bool known = stat(directory, &st) >= 0 && lvm_identify(st.st_dev, &id) >= 0;
        if (umount2(directory, UMOUNT_NOFOLLOW | (c->flags & VSS_CALL_FORCE ? MNT_DETACH : 0)) < 0 && errno != EINVAL &&
            errno != ENOENT)
                return lvm_fail(c, -errno, "%s cannot be unmounted: %s", directory, strerror(errno));
        if (known && !(c->flags & VSS_CALL_FORCE))
                deactivate(c, &id);
        return 0;
}
