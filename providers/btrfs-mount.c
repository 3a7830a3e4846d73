/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Often only a subvolume is mounted, and copies must not lie inside the subvolume they are copies of. So the top level
 * is mounted once more, detached: it has no place in any mount namespace, nothing propagates, and it goes with its
 * descriptor. Only devices that are mounted already are used: mounting one that is not would replay its log behind its
 * owner's back.
 */
#include "providers/btrfs.h"
#include <fcntl.h>
#include <libmount/libmount.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/syscall.h>

static void table_unref(struct libmnt_table **t) {
        mnt_unref_table(*t);
}

static void iter_free(struct libmnt_iter **i) {
        mnt_free_iter(*i);
}

static int mounts_read(struct libmnt_table **ret, struct libmnt_iter **ret_iter) {
        struct libmnt_table *t = mnt_new_table_from_file("/proc/self/mountinfo");
        if (!t)
                return -ENOMEM;
        struct libmnt_iter *i = mnt_new_iter(MNT_ITER_BACKWARD); /* the topmost of several on one directory first */
        if (!i) {
                mnt_unref_table(t);
                return -ENOMEM;
        }
        *ret = t;
        *ret_iter = i;
        return 0;
}

static bool fs_is_btrfs(struct libmnt_fs *fs) {
        return streq_null(mnt_fs_get_fstype(fs), "btrfs") && mnt_fs_get_source(fs) && mnt_fs_get_target(fs);
}

void btrfs_mounted_free(BtrfsMounted *list, size_t n) {
        for (size_t i = 0; i < n; i++) {
                free(list[i].source);
                free(list[i].target);
                free(list[i].top_level);
        }
        free(list);
}

static BtrfsMounted *mounted_find(BtrfsMounted *list, size_t n, dev_t dev) {
        for (size_t i = 0; i < n; i++)
                if (list[i].dev == dev)
                        return &list[i];
        return NULL;
}

static int mounted_add(BtrfsMounted **list, size_t *n, struct libmnt_fs *fs) {
        BtrfsMounted *m = mounted_find(*list, *n, mnt_fs_get_devno(fs));
        if (!m) {
                BtrfsMounted *grown = reallocarray(*list, *n + 1, sizeof(BtrfsMounted));
                if (!grown)
                        return -ENOMEM;
                *list = grown;
                m = &grown[(*n)++];
                *m = (BtrfsMounted) {
                        .dev = mnt_fs_get_devno(fs),
                        .source = strdup(mnt_fs_get_source(fs)),
                        .target = strdup(mnt_fs_get_target(fs)),
                };
                if (!m->source || !m->target)
                        return -ENOMEM;
                const char *super = mnt_fs_get_fs_options(fs);
                m->read_only = super && mnt_match_options(super, "ro") == 1;
        }
        if (!m->top_level && streq_null(mnt_fs_get_root(fs), "/")) {
                m->top_level = strdup(mnt_fs_get_target(fs));
                if (!m->top_level)
                        return -ENOMEM;
        }
        return 0;
}

int btrfs_mounted_list(BtrfsMounted **ret, size_t *ret_n) {
        _cleanup_(table_unref) struct libmnt_table *t = NULL;
        _cleanup_(iter_free) struct libmnt_iter *i = NULL;
        int r = mounts_read(&t, &i);
        if (r < 0)
                return r;
        BtrfsMounted *list = NULL;
        size_t n = 0;
        for (struct libmnt_fs *fs; r >= 0 && mnt_table_next_fs(t, i, &fs) == 0;)
                if (fs_is_btrfs(fs))
                        r = mounted_add(&list, &n, fs);
        if (r < 0) {
                btrfs_mounted_free(list, n);
                return r;
        }
        *ret = list;
        *ret_n = n;
        return 0;
}

int btrfs_mount_detached(const char *device, uint64_t subvolume, bool read_only_fs, bool read_only, int *ret_fd) {
        char id[24];
        (void) snprintf(id, sizeof(id), "%llu", (unsigned long long) subvolume);
        _cleanup_close_ int fs = fsopen("btrfs", FSOPEN_CLOEXEC);
        if (fs < 0)
                return -errno;
        if (fsconfig(fs, FSCONFIG_SET_STRING, "source", device, 0) < 0 ||
            fsconfig(fs, FSCONFIG_SET_STRING, "subvolid", id, 0) < 0)
                return -errno;
        if (read_only_fs && fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0)
                return -errno;
        if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                return -errno;
        int fd = fsmount(fs, FSMOUNT_CLOEXEC,
                         MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME |
                                 (read_only_fs || read_only ? MOUNT_ATTR_RDONLY : 0));
        if (fd < 0)
                return -errno;
        *ret_fd = fd;
        return 0;
}

int btrfs_mount_attach(int mount_fd, const char *directory) {
        struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS };
        _cleanup_close_ int dir = (int) syscall(SYS_openat2, AT_FDCWD, directory, &how, sizeof(how));
        if (dir < 0)
                return errno == ELOOP ? -EINVAL : -errno;
        return move_mount(mount_fd, "", dir, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0 ? -errno : 0;
}

int btrfs_mount_detach(const char *directory, bool lazily) {
        return umount2(directory, UMOUNT_NOFOLLOW | (lazily ? MNT_DETACH : 0)) < 0 ? -errno : 0;
}

int btrfs_mount_root(const char *directory, char **ret_root) {
        _cleanup_(table_unref) struct libmnt_table *t = NULL;
        _cleanup_(iter_free) struct libmnt_iter *i = NULL;
        int r = mounts_read(&t, &i);
        if (r < 0)
                return r;
        for (struct libmnt_fs *fs; mnt_table_next_fs(t, i, &fs) == 0;) {
                if (!streq_null(mnt_fs_get_target(fs), directory))
                        continue;
                if (!fs_is_btrfs(fs) || !mnt_fs_get_root(fs))
                        return 0;
                char *root = strdup(mnt_fs_get_root(fs));
                if (!root)
                        return -ENOMEM;
                *ret_root = root;
                return 1;
        }
        return 0;
}

int btrfs_is_mounted(const char *source, const char *root) {
        _cleanup_(table_unref) struct libmnt_table *t = NULL;
        _cleanup_(iter_free) struct libmnt_iter *i = NULL;
        int r = mounts_read(&t, &i);
        if (r < 0)
                return r;
        for (struct libmnt_fs *fs; mnt_table_next_fs(t, i, &fs) == 0;)
                if (fs_is_btrfs(fs) && streq(mnt_fs_get_source(fs), source) && streq_null(mnt_fs_get_root(fs), root))
                        return 1;
        return 0;
}
