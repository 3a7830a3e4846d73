/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The mount table as vss-probe needs it. Two things make it more than a list: a mount may be covered by another one, so
 * that its path leads elsewhere, and a superblock may be shown in several places, wholly or in part. Names are chosen
 * so that they do not depend on the way a volume was found: an object path and a record must mean the same tomorrow.
 */
#include "daemon/probe-facts.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <libmount/libmount.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

static bool in_list(const char *s, const char *const *list) {
        for (; *list; list++)
                if (streq(s, *list))
                        return true;
        return false;
}

static MountClass mount_classify(struct libmnt_fs *fs, const char *type) {
        static const char *const memory[] = { "tmpfs", "ramfs", NULL }, *const layered[] = { "overlay", "aufs",
                                                                                             "ecryptfs", NULL };
        static const char *const network[] = { "virtiofs", "vboxsf", "ceph", "lustre", "orangefs", "coda", NULL };

        if (in_list(type, memory))
                return MOUNT_MEMORY;
        if (in_list(type, layered))
                return MOUNT_LAYERED;
        if (mnt_fs_is_netfs(fs) || in_list(type, network))
                return MOUNT_NETWORK;
        if (strncmp(type, "fuse", 4) == 0 && !streq(type, "fusectl"))
                return MOUNT_FUSE;
        return mnt_fs_is_pseudofs(fs) ? MOUNT_KERNEL : MOUNT_LOCAL;
}

static int mount_init(Mount *m, struct libmnt_fs *fs) {
        const char *root = mnt_fs_get_root(fs), *target = mnt_fs_get_target(fs), *type = mnt_fs_get_fstype(fs);
        const char *source = mnt_fs_get_source(fs), *options = mnt_fs_get_fs_options(fs);

        if (!root || !target || !type)
                return -EBADMSG;
        *m = (Mount) {
                .id = mnt_fs_get_id(fs),
                .parent = mnt_fs_get_parent_id(fs),
                .dev = mnt_fs_get_devno(fs),
                .class = mount_classify(fs, type),
                .root = strdup(root),
                .target = strdup(target),
                .type = strdup(type),
                .source = strdup(source ? source : ""),
                .options = strdup(options ? options : ""),
        };
        return m->root && m->target && m->type && m->source && m->options ? 0 : -ENOMEM;
}

/* Opens without asking the file system itself for anything; -ESTALE if the path leads to another mount by now. */
static int mount_open_path(const Mount *m, int *ret) {
        struct open_how how = { .flags = O_PATH | O_CLOEXEC | O_NOFOLLOW,
                                .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
        _cleanup_close_ int fd = (int) syscall(SYS_openat2, AT_FDCWD, m->target, &how, sizeof(how));
        Identity identity;
        int r;

        if (fd < 0)
                return -errno;
        r = identity_of(fd, &identity);
        if (r < 0)
                return r;
        if (identity.mount_id != m->id)
                return -ESTALE;
        *ret = TAKE_FD(fd);
        return 0;
}

static void mounts_relate(Mounts *m) {
        for (size_t i = 0; i < m->n; i++) {
                Mount *a = &m->list[i];
                const Mount *up = a;
                _cleanup_close_ int fd = -EBADF;

                while (a->depth < 1000 && up->id != up->parent && (up = mounts_find(m, up->parent))) {
                        a->depth++;
                        a->remote_path = a->remote_path || up->class == MOUNT_NETWORK || up->class == MOUNT_FUSE;
                }
                a->visible = a->class != MOUNT_KERNEL && !a->remote_path && mount_open_path(a, &fd) >= 0;
        }
}

int mounts_read(Mounts *ret) {
        struct libmnt_table *table = mnt_new_table_from_file("/proc/self/mountinfo");
        struct libmnt_iter *iter = mnt_new_iter(MNT_ITER_FORWARD);
        struct libmnt_fs *fs;
        Mounts m = {};
        int r = table && iter ? 0 : -EIO;

        if (r == 0 && mnt_table_get_nents(table) > MOUNTS_MAX)
                r = -E2BIG;
        if (r == 0) {
                m.list = calloc((size_t) mnt_table_get_nents(table) + 1, sizeof(*m.list));
                r = m.list ? 0 : -ENOMEM;
        }
        while (r == 0 && mnt_table_next_fs(table, iter, &fs) == 0)
                r = mount_init(&m.list[m.n++], fs);
        mnt_free_iter(iter);
        mnt_unref_table(table);
        if (r < 0) {
                mounts_done(&m);
                return r;
        }
        mounts_relate(&m);
        *ret = m;
        return 0;
}

void mounts_done(Mounts *m) {
        for (size_t i = 0; i < m->n; i++) {
                free(m->list[i].root);
                free(m->list[i].target);
                free(m->list[i].type);
                free(m->list[i].source);
                free(m->list[i].options);
        }
        free(m->list);
        *m = (Mounts) {};
}

const Mount *mounts_find(const Mounts *m, int id) {
        for (size_t i = 0; i < m->n; i++)
                if (m->list[i].id == id)
                        return &m->list[i];
        return NULL;
}

const Mount *mounts_best(const Mounts *m, uint64_t dev, const char *inner) {
        const Mount *best = NULL;

        for (size_t i = 0; i < m->n; i++) {
                const Mount *a = &m->list[i];
                size_t n = strlen(a->root);

                if (a->dev != dev || !a->visible || !path_is_inside(inner, a->root))
                        continue;
                if (!best || n > strlen(best->root))
                        best = a;
        }
        return best;
}

const Mount *mounts_widest(const Mounts *m, uint64_t dev) {
        const Mount *best = NULL;

        for (size_t i = 0; i < m->n; i++) {
                const Mount *a = &m->list[i];
                if (a->dev == dev && a->visible && (!best || strlen(a->root) < strlen(best->root)))
                        best = a;
        }
        return best;
}

/* path without the leading directory, joined to another one. */
static int path_move(const char *path, const char *from, const char *to, char **ret) {
        const char *rest = path + (streq(from, "/") ? 0 : strlen(from));
        int n;

        if (!path_is_inside(path, from))
                return -ESTALE;
        if (streq(rest, "/"))
                rest = "";
        n = streq(to, "/") ? asprintf(ret, "%s", isempty(rest) ? "/" : rest) : asprintf(ret, "%s%s", to, rest);
        return n < 0 ? -ENOMEM : 0;
}

int mount_outer_path(const Mount *m, const char *inner, char **ret) {
        return path_move(inner, m->root, m->target, ret);
}

int mount_inner_path(const Mount *m, const char *outer, char **ret) {
        return path_move(outer, m->target, m->root, ret);
}

int mount_open(const Mount *m, int *ret) {
        _cleanup_close_ int fd = -EBADF;
        int root, r = mount_open_path(m, &fd);

        if (r < 0)
                return r;
        root = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (root < 0)
                return -errno;
        *ret = root;
        return 0;
}

const char *mount_why_not(const Mount *m) {
        switch (m->class) {
        case MOUNT_LOCAL:
                return NULL;
        case MOUNT_MEMORY:
                return "it lives in memory and on no disk";
        case MOUNT_LAYERED:
                return "it is a layer over other file systems; name those";
        case MOUNT_NETWORK:
                return "it is a network file system; take the snapshot on the machine that serves it";
        case MOUNT_FUSE:
                return "it is served by a process (FUSE), which nothing can bring to rest";
        case MOUNT_KERNEL:
                return "it shows the state of the kernel and holds no data";
        }
        return NULL;
}

bool mount_can_hold(const Mount *m) {
        static const char *const types[] = { "ext2", "ext3",   "ext4", "xfs",      "btrfs",    "f2fs",
                                             "jfs",  "nilfs2", "gfs2", "reiserfs", "bcachefs", NULL };

        return in_list(m->type, types);
}

char *mount_option(const Mount *m, const char *name) {
        size_t n = strlen(name);

        for (const char *p = m->options; p; p = strchr(p, ',')) {
                p += *p == ',';
                if (strncmp(p, name, n) == 0 && p[n] == '=')
                        return strndup(p + n + 1, strcspn(p + n + 1, ","));
        }
        return NULL;
}
