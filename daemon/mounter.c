/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-mount. A copy is handed in as a descriptor and becomes a detached mount, nosuid and nodev, before anybody can see
 * it; the place for it is looked up with the caller's file system rights and held as a descriptor too, so that nothing
 * the caller renames or links meanwhile changes what is mounted where. A caller other than root may only cover a
 * directory of its own. Unmounting goes by the parent's descriptor and the mount id: a mount point cannot be renamed or
 * removed, so between look and act it stays.
 */
#include "daemon/capabilities.h"
#include "daemon/mounter.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static int fail(struct MounterReply *reply, int error, const char *format, ...) _printf_(3, 4);
static int fail(struct MounterReply *reply, int error, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(reply->message, sizeof(reply->message), format, ap);
        va_end(ap);
        return -error;
}

static int open_with(int dir, const char *path, uint64_t flags, uint64_t resolve) {
        const struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = resolve };
        int fd = (int) syscall(SYS_openat2, dir, path, &how, sizeof(how));
        return fd < 0 ? -errno : fd;
}

static int mount_id_of(int dir, const char *name, int flags, uint64_t *ret) {
        struct statx stx;
        if (statx(dir, name, flags | AT_NO_AUTOMOUNT, STATX_MNT_ID, &stx) < 0)
                return -errno;
        if (!(stx.stx_mask & STATX_MNT_ID))
                return -EOPNOTSUPP;
        *ret = stx.stx_mnt_id;
        return 0;
}

static int mount_device(const struct MounterRequest *q, int device, struct MounterReply *reply) {
        char source[40];
        (void) snprintf(source, sizeof(source), "/proc/self/fd/%d", device);
        _cleanup_close_ int fs = fsopen(q->fs_type, FSOPEN_CLOEXEC);
        if (fs < 0)
                return fail(reply, errno, "file system %s cannot be mounted here: %s", q->fs_type, strerror(errno));
        int r = fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0);
        if (r >= 0 && !(q->flags & MOUNTER_WRITABLE))
                r = fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0);
        if (r >= 0 && streq(q->fs_type, "xfs")) /* its origin is mounted and has the same one */
                r = fsconfig(fs, FSCONFIG_SET_FLAG, "nouuid", NULL, 0);
        if (r >= 0)
                r = fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
        if (r < 0)
                return fail(reply, errno, "the copy's %s file system cannot be mounted: %s", q->fs_type,
                            strerror(errno));
        int fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
        return fd < 0 ? fail(reply, errno, "fsmount: %s", strerror(errno)) : fd;
}

/* From its place in the tree into our hand. */
static int take_staged(const struct MounterRequest *q, struct MounterReply *reply) {
        _cleanup_close_ int tree = open_tree(AT_FDCWD, q->staged,
                                             OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
        if (tree < 0)
                return fail(reply, errno, "the copy at %s cannot be taken: %s", q->staged, strerror(errno));
        if (umount2(q->staged, UMOUNT_NOFOLLOW | MNT_DETACH) < 0)
                return fail(reply, errno, "the provider has not mounted the copy at %s: %s", q->staged,
                            strerror(errno));
        (void) rmdir(q->staged);
        return TAKE_FD(tree);
}

/* A mount of the copy that is nowhere in the tree yet. */
static int mount_detached(const struct MounterRequest *q, int copy, struct MounterReply *reply) {
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, .propagation = MS_PRIVATE };
        if (!(q->flags & MOUNTER_WRITABLE))
                attr.attr_set |= MOUNT_ATTR_RDONLY;
        if (q->flags & MOUNTER_NOEXEC)
                attr.attr_set |= MOUNT_ATTR_NOEXEC;
        _cleanup_close_ int tree = -EBADF;
        if (q->flags & MOUNTER_DEVICE) {
                tree = mount_device(q, copy, reply);
                if (tree < 0)
                        return tree;
        } else {
                tree = take_staged(q, reply);
                if (tree < 0)
                        return tree;
        }
        if (mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
                return fail(reply, errno, "mount attributes cannot be set: %s", strerror(errno));
        return TAKE_FD(tree);
}

/* The bytes of "/a/b/c" into "/a/b" and "c"; "/" has no parent. *ret is the caller's. */
static int split_path(const char *escaped, char **ret, const char **ret_parent, const char **ret_name) {
        int r = path_unescape(escaped, ret);
        if (r < 0)
                return r;
        char *path = *ret, *slash = strrchr(path, '/');
        if (path[0] != '/' || !slash[1] || streq(slash + 1, ".") || streq(slash + 1, ".."))
                return -EINVAL;
        *slash = '\0';
        *ret_parent = slash == path ? "/" : path;
        *ret_name = slash + 1;
        return 0;
}

static int open_place_at(const struct MounterRequest *q, int parent, const char *name, struct MounterReply *reply) {
        const uint64_t resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
        struct stat st;
        if (mkdirat(parent, name, 0700) < 0 && errno != EEXIST)
                return fail(reply, errno, "%s cannot be made: %s", q->path, strerror(errno));
        _cleanup_close_ int place = open_with(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, resolve);
        if (place == -EXDEV)
                return fail(reply, EBUSY, "%s: something is mounted there already", q->path);
        if (place < 0)
                return fail(reply, -place, "%s is not a directory to mount on: %s", q->path, strerror(-place));
        if (fstat(place, &st) < 0)
                return fail(reply, errno, "%s: %s", q->path, strerror(errno));
        if (q->uid != 0 && st.st_uid != q->uid)
                return fail(reply, EACCES, "%s belongs to uid %u: mount on a directory of your own", q->path,
                            (unsigned) st.st_uid);
        return TAKE_FD(place);
}

static int open_place(const struct MounterRequest *q, struct MounterReply *reply) {
        _cleanup_free_ char *path = NULL;
        const char *parent, *name;
        if (split_path(q->path, &path, &parent, &name) < 0)
                return fail(reply, EINVAL, "%s: not a place to mount on", q->path);
        if (q->flags & MOUNTER_OURS)
                (void) mkdir(parent, 0700);
        _cleanup_close_ int fd = open_with(AT_FDCWD, parent, O_PATH | O_DIRECTORY, RESOLVE_NO_MAGICLINKS);
        if (fd < 0)
                return fail(reply, -fd, "%s: %s", parent, strerror(-fd));
        return open_place_at(q, fd, name, reply);
}

/* The caller's rights for everything that looks at paths; groups beyond its own are not known, so they do not count. */
static int become(uint32_t uid) {
        if (setgroups(0, NULL) < 0)
                return -errno;
        (void) setfsgid(uid);
        (void) setfsuid(uid);
        return (uint32_t) setfsuid((uid_t) -1) == uid ? 0 : -EPERM;
}

/* Its canonical path, as text: a directory on the way may be called anything, line breaks included. */
static int name_place(int place, struct MounterReply *reply) {
        _cleanup_free_ char *text = NULL;
        char self[40], path[PATH_MAX];
        (void) snprintf(self, sizeof(self), "/proc/self/fd/%d", place);
        ssize_t n = readlink(self, path, sizeof(path));
        if (n < 0 || n == sizeof(path))
                return n < 0 ? -errno : -ENAMETOOLONG;
        path[n] = '\0';
        int r = path_escape(path, &text);
        if (r < 0)
                return r;
        return snprintf(reply->path, sizeof(reply->path), "%s", text) < (int) sizeof(reply->path) ? 0 : -ENAMETOOLONG;
}

static int do_mount(const struct MounterRequest *q, int copy, struct MounterReply *reply) {
        pid_t parent = getppid();
        _cleanup_close_ int tree = mount_detached(q, copy, reply);
        if (tree < 0)
                return tree;
        if (become(q->uid) < 0)
                return fail(reply, EPERM, "cannot take the rights of uid %u", q->uid);
        _cleanup_close_ int place = open_place(q, reply);
        if (place < 0)
                return place;
        if (become(0) < 0)
                return fail(reply, EPERM, "cannot take root's rights back");
        if (parent_death_arm(parent) < 0) /* nobody would remember the mount */
                return fail(reply, EPIPE, "vssd has gone");
        int r = name_place(place, reply);
        if (r < 0)
                return fail(reply, -r, "%s: %s", q->path, strerror(-r));
        r = mount_id_of(tree, "", AT_EMPTY_PATH, &reply->mount_id);
        if (r < 0)
                return fail(reply, -r, "%s: the kernel does not number mounts", q->path);
        if (move_mount(tree, "", place, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
                return fail(reply, errno, "mounting on %s: %s", reply->path, strerror(errno));
        return 0;
}

static int do_unmount(const struct MounterRequest *q, struct MounterReply *reply) {
        _cleanup_free_ char *path = NULL;
        const char *parent, *name;
        uint64_t id = 0;
        if (split_path(q->path, &path, &parent, &name) < 0)
                return fail(reply, EINVAL, "%s: not a mount point", q->path);
        _cleanup_close_ int fd = open_with(AT_FDCWD, parent, O_PATH | O_DIRECTORY,
                                           RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS);
        if (fd < 0 || mount_id_of(fd, name, AT_SYMLINK_NOFOLLOW, &id) < 0 || (q->mount_id != 0 && id != q->mount_id))
                return 0; /* somebody else has unmounted it */
        if (fchdir(fd) < 0)
                return fail(reply, errno, "%s: %s", parent, strerror(errno));
        if (umount2(name, UMOUNT_NOFOLLOW | (q->flags & MOUNTER_LAZY ? MNT_DETACH : 0)) < 0 &&
            !(errno == EINVAL && q->mount_id == 0)) /* nothing was mounted there yet */
                return fail(reply, errno, "%s cannot be unmounted: %s%s", q->path, strerror(errno),
                            errno == EBUSY ? "; stop what uses it, or force it" : "");
        if (q->flags & MOUNTER_OURS)
                (void) unlinkat(fd, name, AT_REMOVEDIR);
        return 0;
}

static int do_open(const struct MounterRequest *q, int copy, struct MounterReply *reply, int *ret_fd) {
        _cleanup_close_ int tree = mount_detached(q, copy, reply);
        if (tree < 0)
                return tree;
        if (q->flags & MOUNTER_DIRECTORY) {
                int fd = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (fd < 0)
                        return fail(reply, errno, "the copy's directory cannot be opened: %s", strerror(errno));
                *ret_fd = fd;
        } else
                *ret_fd = TAKE_FD(tree);
        return 0;
}

static int handle(const struct MounterRequest *q, int copy, struct MounterReply *reply, int *ret_fd) {
        switch (q->op) {
        case MOUNTER_MOUNT:
                return do_mount(q, copy, reply);
        case MOUNTER_UNMOUNT:
                return do_unmount(q, reply);
        case MOUNTER_OPEN:
                return do_open(q, copy, reply, ret_fd);
        default:
                return fail(reply, EINVAL, "unknown request %u", q->op);
        }
}

/* Mounting, and looking at paths as root or as somebody else. */
static const unsigned capabilities[] = { CAP_SYS_ADMIN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETUID, CAP_SETGID };

int main(void) {
        static struct MounterRequest q;
        static struct MounterReply reply;
        _cleanup_close_ int copy = -EBADF, fd = -EBADF;
        capabilities_keep(capabilities, ELEMENTSOF(capabilities));
        if (child_receive(CHILD_SOCKET_FD, &q, sizeof(q), &copy) != 1)
                return EXIT_FAILURE;
        q.path[sizeof(q.path) - 1] = '\0';
        q.fs_type[sizeof(q.fs_type) - 1] = '\0';
        q.staged[sizeof(q.staged) - 1] = '\0';
        reply.result = handle(&q, copy, &reply, &fd);
        return child_send(CHILD_SOCKET_FD, &reply, sizeof(reply), fd) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
