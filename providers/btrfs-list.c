/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls about copies that exist, from any process at any time: the file systems are asked, nothing else is remembered.
 * Only mounted ones can be asked; copies on a device that is not mounted are not listed until it is.
 */
#include "providers/btrfs.h"
#include <btrfsutil.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

static bool top_is_known(const BtrfsTop *top, const BtrfsTop *known, unsigned n_known) {
        for (unsigned i = 0; i < n_known; i++)
                if (memcmp(top->fsid, known[i].fsid, BTRFS_FSID_SIZE) == 0)
                        return true;
        return false;
}

typedef struct SetWork {
        const BtrfsTop *known; /* already done through these */
        unsigned n_known;
        bool found;
} SetWork;

static int abort_place(struct vss_call *c, const BtrfsTop *top, BtrfsPlace *place, void *userdata) {
        if (!place->pending)
                return 0;
        int r = btrfs_place_remove(place);
        if (r == -EBUSY)
                return btrfs_fail(c, r, "a copy of set %s is still being made by another process", place->set);
        return r < 0 ? btrfs_fail(c, r, "cannot remove the unfinished copy %s: %s", place->snapshot, strerror(-r)) : 0;
}

static int abort_top(struct vss_call *c, BtrfsTop *top, void *userdata) {
        SetWork *w = userdata;
        return top_is_known(top, w->known, w->n_known) ? 0 : btrfs_each_place(c, top, c->set, abort_place, NULL);
}

int btrfs_abort_all(struct vss_call *c, const BtrfsTop *known, unsigned n_known) {
        SetWork w = { .known = known, .n_known = n_known };
        int r = 0;
        for (unsigned i = 0; i < n_known && r >= 0; i++)
                r = btrfs_each_place(c, &known[i], c->set, abort_place, NULL);
        return r < 0 ? r : btrfs_each_top(c, abort_top, &w);
}

static int clear_place(struct vss_call *c, const BtrfsTop *top, BtrfsPlace *place, void *userdata) {
        SetWork *w = userdata;
        w->found = true;
        if (!place->pending)
                return 0;
        if (faccessat(place->fd, BTRFS_COPY, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return btrfs_fail(c, -EINVAL, "copy %s was never taken", place->snapshot);
        if (renameat(place->parent_fd, place->name, place->parent_fd, place->snapshot) < 0)
                return btrfs_fail(c, -errno, "cannot name the finished copy %s: %s", place->snapshot, strerror(errno));
        return 0;
}

/* Renames, then one transaction: nobody may hear "created" of something a power cut takes back. */
static int clear_in(struct vss_call *c, const BtrfsTop *top, SetWork *w) {
        uint64_t transaction = 0;
        int r = btrfs_each_place(c, top, c->set, clear_place, w);
        if (r < 0 || !w->found)
                return r;
        if (btrfs_util_start_sync_fd(top->store_fd, &transaction) != BTRFS_UTIL_OK ||
            btrfs_util_wait_sync_fd(top->store_fd, transaction) != BTRFS_UTIL_OK)
                return btrfs_fail(c, -errno, "cannot make the finished set durable: %s", strerror(errno));
        return 0;
}

static int clear_top(struct vss_call *c, BtrfsTop *top, void *userdata) {
        return clear_in(c, top, userdata);
}

int btrfs_clear_mark_all(struct vss_call *c, const BtrfsTop *known, unsigned n_known) {
        SetWork w = {};
        int r = 0;
        for (unsigned i = 0; i < n_known && r >= 0; i++)
                r = clear_in(c, &known[i], &w);
        if (r >= 0 && n_known == 0)
                r = btrfs_each_top(c, clear_top, &w);
        if (r < 0)
                return r;
        return w.found ? 0 : btrfs_fail(c, -ENOENT, "there is no copy of set %s", c->set);
}

typedef struct ListWork {
        vss_snapshot_fn found;
        void *userdata;
} ListWork;

/* 0 with a descriptor of the copy in *ret_fd, -ENOENT when the place is empty. */
static int place_open_copy(const BtrfsPlace *place, int *ret_fd) {
        int fd = openat(place->fd, BTRFS_COPY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        *ret_fd = fd;
        return 0;
}

static void place_path(const BtrfsPlace *place, char *ret, size_t size) {
        (void) snprintf(ret, size, "/" BTRFS_STORE "/%llu/%s/" BTRFS_COPY, (unsigned long long) place->subvolume,
                        place->name);
}

static int place_describe(const BtrfsTop *top, const BtrfsPlace *place, struct vss_snapshot *ret) {
        struct btrfs_ioctl_get_subvol_info_args info = {};
        struct vss_snapshot s = { .struct_size = sizeof(s) };
        struct statfs sf;
        char flags[16], created[24], path[BTRFS_NAME_MAX + 64];
        _cleanup_close_ int fd = -EBADF;
        int r = place_open_copy(place, &fd);
        if (r < 0)
                return r;
        if (ioctl(fd, BTRFS_IOC_GET_SUBVOL_INFO, &info) < 0 || fstatfs(fd, &sf) < 0)
                return -errno;
        s.created_at = info.otime.sec * USEC_PER_SEC + info.otime.nsec / NSEC_PER_USEC;
        if (btrfs_place_get(place->fd, BTRFS_ATTR_CREATED, created, sizeof(created)) > 0)
                s.created_at = strtoull(created, NULL, 10);
        s.size_bytes = (uint64_t) sf.f_blocks * (uint64_t) sf.f_bsize;
        (void) snprintf(s.id, sizeof(s.id), "%s", place->snapshot);
        (void) snprintf(s.set, sizeof(s.set), "%s", place->set);
        r = btrfs_place_get(place->fd, BTRFS_ATTR_VOLUME, s.volume, sizeof(s.volume));
        if (r >= 0)
                r = btrfs_place_get(place->fd, BTRFS_ATTR_FLAGS, flags, sizeof(flags));
        if (r < 0)
                return r;
        s.flags = (uint32_t) strtoul(flags, NULL, 10) & (VSS_REQUEST_PERSISTENT | VSS_REQUEST_WRITABLE);
        if (place->pending)
                s.flags |= VSS_SNAPSHOT_PENDING;
        if (top->top_level) {
                place_path(place, path, sizeof(path));
                int n = snprintf(s.path, sizeof(s.path), "%s%s", streq(top->top_level, "/") ? "" : top->top_level,
                                 path);
                if (n < 0 || (size_t) n >= sizeof(s.path))
                        s.path[0] = '\0';
        }
        *ret = s;
        return 0;
}

static int list_place(struct vss_call *c, const BtrfsTop *top, BtrfsPlace *place, void *userdata) {
        const ListWork *l = userdata;
        struct vss_snapshot s;
        int r = place_describe(top, place, &s);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return btrfs_fail(c, r, "cannot look at copy %s: %s", place->snapshot, strerror(-r));
        return l->found(&s, l->userdata);
}

static int list_top(struct vss_call *c, BtrfsTop *top, void *userdata) {
        return btrfs_each_place(c, top, c->set, list_place, userdata);
}

int btrfs_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata) {
        ListWork l = { .found = found, .userdata = userdata };
        return btrfs_each_top(c, list_top, &l);
}

/* Runs f on the copy of that id: its result (never 0), or -ENOENT. */
typedef struct OneWork OneWork;
typedef int (*OneFunction)(struct vss_call *c, const BtrfsTop *top, BtrfsPlace *place, OneWork *w);
struct OneWork {
        const char *snapshot, *directory;
        OneFunction f;
        int fd;
};

static int one_place(struct vss_call *c, const BtrfsTop *top, BtrfsPlace *place, void *userdata) {
        OneWork *w = userdata;
        if (!streq(place->snapshot, w->snapshot))
                return 0;
        int r = w->f(c, top, place, w);
        return r < 0 ? r : 1;
}

static int one_top(struct vss_call *c, BtrfsTop *top, void *userdata) {
        return btrfs_each_place(c, top, "", one_place, userdata);
}

static int one_run(struct vss_call *c, OneWork *w) {
        int r = btrfs_each_top(c, one_top, w);
        if (r == 0)
                return btrfs_fail(c, -ENOENT, "there is no copy %s on a mounted file system", w->snapshot);
        return r < 0 ? r : 0;
}

static int remove_one(struct vss_call *c, const BtrfsTop *top, BtrfsPlace *place, OneWork *w) {
        char path[BTRFS_NAME_MAX + 64];
        place_path(place, path, sizeof(path));
        if (!(c->flags & VSS_CALL_FORCE) && btrfs_is_mounted(top->source, path) == 1)
                return btrfs_fail(c, -EBUSY, "copy %s is mounted: unmount it first", place->snapshot);
        int r = btrfs_place_remove(place);
        return r < 0 ? btrfs_fail(c, r, "cannot remove copy %s: %s", place->snapshot, strerror(-r)) : 0;
}

int btrfs_remove(void *state, struct vss_call *c, const char *snapshot) {
        OneWork w = { .snapshot = snapshot, .f = remove_one };
        return one_run(c, &w);
}

static int open_one(struct vss_call *c, const BtrfsTop *top, BtrfsPlace *place, OneWork *w) {
        int r = place_open_copy(place, &w->fd);
        return r < 0 ? btrfs_fail(c, r, "cannot open copy %s: %s", place->snapshot, strerror(-r)) : 0;
}

int btrfs_open(void *state, struct vss_call *c, const char *snapshot) {
        OneWork w = { .snapshot = snapshot, .f = open_one, .fd = -EBADF };
        int r = one_run(c, &w);
        return r < 0 ? r : w.fd;
}

/* Where the copy can still be written (until post_final), its mount can be, unless the caller does not want it. */
static int mount_one(struct vss_call *c, const BtrfsTop *top, BtrfsPlace *place, OneWork *w) {
        _cleanup_close_ int fd = -EBADF, mount_fd = -EBADF;
        _cleanup_free_ char *mounted = NULL;
        char path[BTRFS_NAME_MAX + 64];
        bool frozen = true;
        uint64_t id = 0;
        place_path(place, path, sizeof(path));
        int r = btrfs_mount_root(w->directory, &mounted);
        if (r < 0)
                return btrfs_fail(c, r, "cannot read the list of mounts: %s", strerror(-r));
        if (mounted && streq(mounted, path))
                return 0;
        r = place_open_copy(place, &fd);
        if (r < 0)
                return btrfs_fail(c, r, "cannot open copy %s: %s", place->snapshot, strerror(-r));
        if (btrfs_util_subvolume_id_fd(fd, &id) != BTRFS_UTIL_OK ||
            btrfs_util_get_subvolume_read_only_fd(fd, &frozen) != BTRFS_UTIL_OK)
                return btrfs_fail(c, -errno, "cannot ask about copy %s: %s", place->snapshot, strerror(errno));
        r = btrfs_mount_detached(top->source, id, top->read_only, frozen || c->flags & VSS_CALL_READ_ONLY, &mount_fd);
        if (r >= 0)
                r = btrfs_mount_attach(mount_fd, w->directory);
        return r < 0 ? btrfs_fail(c, r, "cannot mount copy %s on %s: %s", place->snapshot, w->directory, strerror(-r)) :
                       0;
}

int btrfs_mount(void *state, struct vss_call *c, const char *snapshot, const char *directory) {
        OneWork w = { .snapshot = snapshot, .directory = directory, .f = mount_one };
        return one_run(c, &w);
}

int btrfs_unmount(void *state, struct vss_call *c, const char *directory) {
        _cleanup_free_ char *root = NULL;
        int r = btrfs_mount_root(directory, &root);
        if (r < 0)
                return btrfs_fail(c, r, "cannot read the list of mounts: %s", strerror(-r));
        if (r == 0)
                return 0;
        if (strncmp(root, "/" BTRFS_STORE "/", sizeof("/" BTRFS_STORE "/") - 1) != 0)
                return btrfs_fail(c, -EINVAL, "%s is not a mount of a copy", directory);
        r = btrfs_mount_detach(directory, c->flags & VSS_CALL_FORCE);
        return r < 0 ? btrfs_fail(c, r, "cannot unmount %s: %s", directory, strerror(-r)) : 0;
}
