/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots of btrfs subvolumes. On each file system, in its top level and so out of sight where only subvolumes are
 * mounted:
 *
 *   .vss/                                      a subvolume of root's, 0700, marked trusted.vss.store
 *       SUBVOLUME/                             id of the source
 *           .pending-SET-SNAPSHOT/copy         from begin_prepare; the name is the "uncommitted" mark
 *           SNAPSHOT/copy                      renamed by clear_mark, the last step
 *
 * Each copy has a directory of its own, since the ioctl holds the lock of the directory until its transaction is on
 * disk: two copies in one directory are never one transaction. Set, volume and flags are extended attributes of that
 * directory, written before the window; when and from what it was made btrfs itself knows.
 *
 *   probe          nothing is changed
 *   begin_prepare  private mount of the top level, the place, its attributes, nested subvolumes are warned about
 *   end_prepare    arguments of the ioctls, one thread per copy
 *   commit         btrfs-proof.c; a single copy is on its way to the disk then
 *   pre_final      all copies are on disk
 *   post_final     a writable copy gives way to a read-only copy of itself: whoever has a file of the writable one open
 *                  could go on writing into it, read-only or not, and would write into what is deleted
 *   clear_mark     rename and one transaction
 *   abort          by name, whoever made it
 *
 * A btrfs that FIFREEZE holds cannot be copied (the ioctl sleeps until it is thawed, and cannot be killed), hence
 * VSS_CAP_FREEZES_ITSELF.
 */
#include "providers/btrfs.h"
#include "providers/builtin.h"
#include <btrfsutil.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

enum { WARN_NESTED_MAX = 4 }; /* names in one warning */

BtrfsSet btrfs_set; /* static, so that the window needs no memory */

int btrfs_fail(struct vss_call *c, int r, const char *format, ...) {
        int n = snprintf(c->message, sizeof(c->message), "btrfs: ");
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(c->message + n, sizeof(c->message) - (size_t) n, format, ap);
        va_end(ap);
        switch (r) {
        case -EROFS: /* the kernel gave the file system up */
        case -ENODEV:
        case -ENXIO:
                return -EIO;
        case -EMLINK: /* too many names or copies in one place */
        case -EOVERFLOW:
                return -EDQUOT;
        default:
                return r;
        }
}

static uint64_t btrfs_capabilities(void *state) {
        return VSS_CAP_FREEZES_ITSELF | VSS_CAP_GROUP_COMMIT | VSS_CAP_REDIRECT | VSS_CAP_WRITABLE | VSS_CAP_DIRECTORY |
               VSS_CAP_PERSISTENT;
}

/* Whether v can be copied at all; *ret_id is the subvolume. */
static int check_volume(struct vss_call *c, const struct vss_volume *v, uint64_t *ret_id) {
        struct statfs sf;
        struct stat st;
        if (v->root_fd < 0)
                return btrfs_fail(c, -EOPNOTSUPP, "%s is no mounted file system", v->name);
        if (fstatfs(v->root_fd, &sf) < 0 || fstat(v->root_fd, &st) < 0)
                return btrfs_fail(c, -errno, "cannot look at %s: %s", v->name, strerror(errno));
        if (sf.f_type != BTRFS_SUPER_MAGIC)
                return btrfs_fail(c, -EOPNOTSUPP, "%s is not btrfs", v->name);
        if (v->dev != 0 && st.st_dev != v->dev)
                return btrfs_fail(c, -EINVAL, "%s is not what was planned: another file system is mounted there now",
                                  v->name);
        if (st.st_ino != BTRFS_FIRST_FREE_OBJECTID)
                return btrfs_fail(c, -EOPNOTSUPP, "%s is a directory inside a subvolume: name the subvolume", v->name);
        if (sf.f_flags & ST_RDONLY)
                return btrfs_fail(c, -EOPNOTSUPP, "%s is mounted read-only", v->name);
        uint64_t id = 0;
        if (btrfs_util_subvolume_id_fd(v->root_fd, &id) != BTRFS_UTIL_OK)
                return btrfs_fail(c, -errno, "cannot ask for the subvolume of %s: %s", v->name, strerror(errno));
        if (v->subvolume != 0 && v->subvolume != id)
                return btrfs_fail(c, -EINVAL, "%s is not what was planned: another subvolume is mounted there now",
                                  v->name);
        *ret_id = id;
        return 0;
}

static int btrfs_probe(void *state, struct vss_call *c, const struct vss_volume *v, struct vss_probe *ret) {
        struct statfs sf;
        uint64_t id = 0;
        int r = check_volume(c, v, &id);
        if (r < 0)
                return r;
        if (fstatfs(v->root_fd, &sf) < 0)
                return btrfs_fail(c, -errno, "cannot look at %s: %s", v->name, strerror(errno));
        ret->capabilities = btrfs_capabilities(state);
        ret->free_bytes = (uint64_t) sf.f_bavail * (uint64_t) sf.f_bsize;
        return 0;
}

/* Copies do not go into subvolumes below: an empty directory stands there. The answer is a warning, never a failure. */
static void warn_about_nested(struct vss_call *c, const struct vss_volume *v, int top_fd) {
        struct btrfs_ioctl_get_subvol_rootref_args refs = {};
        if (ioctl(v->root_fd, BTRFS_IOC_GET_SUBVOL_ROOTREF, &refs) < 0 && errno != EOVERFLOW)
                return;
        unsigned named = 0, all = 0;
        char names[300] = "";
        for (unsigned i = 0; i < refs.num_items; i++) {
                char *path = NULL;
                if (btrfs_util_subvolume_path_fd(top_fd, refs.rootref[i].treeid, &path) != BTRFS_UTIL_OK)
                        continue;
                if (!streq(path, BTRFS_STORE)) {
                        size_t n = strlen(names);
                        all++;
                        if (named < WARN_NESTED_MAX && strlen(path) + 2 < sizeof(names) - n)
                                named += snprintf(names + n, sizeof(names) - n, "%s%s", n > 0 ? ", " : "", path) > 0;
                }
                free(path);
        }
        if (all > 0)
                (void) btrfs_fail(c, 0, "%s has subvolumes below it that the copy shows as empty directories: %s%s",
                                  v->name, names, named < all ? " and more" : "");
}

static int find_top(struct vss_call *c, const struct vss_volume *v, unsigned *ret) {
        uint8_t fsid[BTRFS_FSID_SIZE];
        int r = btrfs_fsid(v->root_fd, fsid);
        if (r < 0)
                return btrfs_fail(c, r, "cannot ask for the file system of %s: %s", v->name, strerror(-r));
        for (unsigned i = 0; i < btrfs_set.n_tops; i++)
                if (memcmp(btrfs_set.tops[i].fsid, fsid, sizeof(fsid)) == 0) {
                        *ret = i;
                        return 0;
                }
        r = btrfs_top_of(c, v, &btrfs_set.tops[btrfs_set.n_tops]);
        if (r < 0)
                return r;
        *ret = btrfs_set.n_tops++;
        return 0;
}

static int btrfs_begin_prepare(void *state, struct vss_call *c, const struct vss_volume *v,
                               const struct vss_request *q) {
        if (btrfs_set.n_copies == VSS_VOLUMES_MAX)
                return btrfs_fail(c, -EDQUOT, "%s would be volume %d of the set, %d are allowed", v->name,
                                  VSS_VOLUMES_MAX + 1, VSS_VOLUMES_MAX);
        BtrfsCopy *copy = &btrfs_set.copies[btrfs_set.n_copies];
        uint64_t id = 0;
        int r = check_volume(c, v, &id);
        if (r < 0)
                return r;
        *copy = (BtrfsCopy) { .place = BTRFS_PLACE_NULL, .flags = q->flags };
        r = find_top(c, v, &copy->top);
        if (r < 0)
                return r;
        const BtrfsTop *top = &btrfs_set.tops[copy->top];
        _cleanup_close_ int source = fcntl(v->root_fd, F_DUPFD_CLOEXEC, 3);
        if (source < 0)
                return btrfs_fail(c, -errno, "cannot keep %s open: %s", v->name, strerror(errno));
        r = btrfs_place_new(c, top, id, v, q, &copy->place);
        if (r < 0)
                return r;
        copy->source_fd = TAKE_FD(source);
        (void) snprintf(copy->volume, sizeof(copy->volume), "%s", v->name);
        btrfs_set.n_copies++;
        warn_about_nested(c, v, top->root_fd);
        return 0;
}

static int btrfs_end_prepare(void *state, struct vss_call *c) {
        return btrfs_arm(c);
}

/* Writable from the start: the copy was made so because begin_prepare was asked for it. */
static int btrfs_pre_final(void *state, struct vss_call *c) {
        int r = btrfs_settle(c);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < btrfs_set.n_copies; i++)
                if (!btrfs_set.copies[i].made)
                        return btrfs_fail(c, -EINVAL, "there is no copy of %s yet", btrfs_set.copies[i].volume);
        return 0;
}

static int keep_creation_time(const BtrfsCopy *copy, int copy_fd) {
        struct btrfs_ioctl_get_subvol_info_args info = {};
        char text[24];
        if (ioctl(copy_fd, BTRFS_IOC_GET_SUBVOL_INFO, &info) < 0)
                return -errno;
        int n = snprintf(text, sizeof(text), "%llu",
                         (unsigned long long) (info.otime.sec * USEC_PER_SEC + info.otime.nsec / NSEC_PER_USEC));
        return fsetxattr(copy->place.fd, BTRFS_ATTR_CREATED, text, (size_t) n, 0) < 0 ? -errno : 0;
}

/* May be asked for again. A power cut leaves the place with its mark, so all of it goes. */
static int finalize_copy(const BtrfsCopy *copy) {
        bool done = false;
        _cleanup_close_ int fd = openat(copy->place.fd, BTRFS_COPY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || btrfs_util_get_subvolume_read_only_fd(fd, &done) != BTRFS_UTIL_OK)
                return -errno;
        if (!done) {
                struct btrfs_ioctl_vol_args_v2 args = { .fd = fd, .flags = BTRFS_SUBVOL_RDONLY, .name = BTRFS_FINAL };
                int r = keep_creation_time(copy, fd);
                if (r >= 0)
                        r = btrfs_place_clean(&copy->place);
                if (r < 0)
                        return r;
                if (ioctl(copy->place.fd, BTRFS_IOC_SNAP_CREATE_V2, &args) < 0 ||
                    renameat2(copy->place.fd, BTRFS_FINAL, copy->place.fd, BTRFS_COPY, RENAME_EXCHANGE) < 0)
                        return -errno;
        }
        return btrfs_place_clean(&copy->place);
}

static int btrfs_post_final(void *state, struct vss_call *c) {
        for (unsigned i = 0; i < btrfs_set.n_copies; i++) {
                const BtrfsCopy *copy = &btrfs_set.copies[i];
                if (!(copy->flags & VSS_REQUEST_WRITABLE) || !copy->made)
                        continue;
                int r = finalize_copy(copy);
                if (r < 0)
                        return btrfs_fail(c, r, "cannot make the copy of %s read-only: %s", copy->volume, strerror(-r));
        }
        return 0;
}

static void forget_copies(void) {
        btrfs_disarm();
        while (btrfs_set.n_copies > 0) {
                BtrfsCopy *copy = &btrfs_set.copies[--btrfs_set.n_copies];
                btrfs_place_done(&copy->place); /* and its lock */
                copy->source_fd = close_fd(copy->source_fd);
        }
}

static void forget_tops(void) {
        while (btrfs_set.n_tops > 0)
                btrfs_top_done(&btrfs_set.tops[--btrfs_set.n_tops]);
}

static int btrfs_clear_mark(void *state, struct vss_call *c) {
        int r = btrfs_clear_mark_all(c, btrfs_set.tops, btrfs_set.n_tops);
        if (r < 0)
                return r;
        forget_copies();
        forget_tops();
        return 0;
}

static int btrfs_abort(void *state, struct vss_call *c) {
        forget_copies();
        int r = btrfs_abort_all(c, btrfs_set.tops, btrfs_set.n_tops);
        forget_tops();
        return r;
}

static void btrfs_unload(void *state) {
        forget_copies();
        forget_tops();
}

const struct vss_provider btrfs_provider = {
        VSS_PROVIDER,
        .priority = 10,
        .name = "btrfs",
        .version = VSS_VERSION,
        .unload = btrfs_unload,
        .capabilities = btrfs_capabilities,
        .probe = btrfs_probe,
        .begin_prepare = btrfs_begin_prepare,
        .end_prepare = btrfs_end_prepare,
        .commit = btrfs_commit,
        .pre_final = btrfs_pre_final,
        .post_final = btrfs_post_final,
        .abort = btrfs_abort,
        .list = btrfs_list,
        .remove = btrfs_remove,
        .mount = btrfs_mount,
        .unmount = btrfs_unmount,
        .open = btrfs_open,
        .clear_mark = btrfs_clear_mark,
};
