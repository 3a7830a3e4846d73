/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Places: where a copy lies and what its name says. See the drawing in btrfs.c. The store is a subvolume of its own, so
 * that making copies changes nothing in the subvolumes that are copied, the top level included: the proof of
 * btrfs-proof.c looks exactly at whether they changed. A pending place is locked (flock) for as long as the process
 * that makes it lives. So an abort by somebody else, a second vssd included, can tell what is left over from what is
 * being made, and a killed host that still sits in the kernel keeps its place until it is gone.
 */
#include "providers/btrfs.h"
#include <btrfsutil.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define PENDING ".pending-"
#define ATTR_STORE "trusted.vss.store"

enum {
        PENDING_LENGTH = sizeof(PENDING) - 1,
        NEW_TRIES_MAX = 10,
        LOCK_POLL_USEC = 10 * 1000,
        LOCK_WAIT_USEC = 2 * 1000 * 1000
};

void btrfs_top_done(BtrfsTop *t) {
        t->store_fd = close_fd(t->store_fd);
        t->root_fd = close_fd(t->root_fd);
        t->mount_fd = close_fd(t->mount_fd);
        free(t->source);
        free(t->top_level);
        *t = BTRFS_TOP_NULL;
}

void btrfs_place_done(BtrfsPlace *p) {
        p->fd = close_fd(p->fd);
        p->parent_fd = close_fd(p->parent_fd);
}

int btrfs_fsid(int fd, uint8_t ret[static BTRFS_FSID_SIZE]) {
        struct btrfs_ioctl_fs_info_args info = {};
        if (ioctl(fd, BTRFS_IOC_FS_INFO, &info) < 0)
                return -errno;
        memcpy(ret, info.fsid, BTRFS_FSID_SIZE);
        return 0;
}

/* A directory of root's that nobody else can look into. */
static int open_private(int dir, const char *name) {
        struct stat st;
        _cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_uid != 0 || st.st_mode & 077)
                return -EPERM;
        return TAKE_FD(fd);
}

static int top_open_store(BtrfsTop *t) {
        char mark[8];
        int fd = open_private(t->root_fd, BTRFS_STORE);
        if (fd < 0)
                return fd;
        if (fgetxattr(fd, ATTR_STORE, mark, sizeof(mark)) < 0) {
                (void) close_fd(fd);
                return -EPERM;
        }
        t->store_fd = fd;
        return 0;
}

static int top_make_store(BtrfsTop *t) {
        int r = top_open_store(t);
        if (r != -ENOENT)
                return r;
        mode_t mask = umask(077);
        enum btrfs_util_error e = btrfs_util_create_subvolume_fd(t->root_fd, BTRFS_STORE, 0, NULL, NULL);
        r = e == BTRFS_UTIL_OK || errno == EEXIST ? 0 : -errno;
        (void) umask(mask);
        if (r < 0)
                return r;
        _cleanup_close_ int fd = open_private(t->root_fd, BTRFS_STORE);
        if (fd < 0)
                return fd;
        if (fsetxattr(fd, ATTR_STORE, "1", 1, 0) < 0)
                return -errno;
        return top_open_store(t);
}

static int top_mount(const char *device, bool read_only, BtrfsTop *t) {
        int r = btrfs_mount_detached(device, BTRFS_FS_TREE_OBJECTID, read_only, false, &t->mount_fd);
        if (r < 0)
                return r;
        t->root_fd = openat(t->mount_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (t->root_fd < 0)
                return -errno;
        t->read_only = read_only;
        t->source = strdup(device);
        return t->source ? btrfs_fsid(t->root_fd, t->fsid) : -ENOMEM;
}

/* The kernel's own name of a device of the file system fd lies on; the first that works, since some may be missing. */
static int top_mount_by_fd(int fd, const char *hint, bool read_only, BtrfsTop *t) {
        struct btrfs_ioctl_fs_info_args info = {};
        if (ioctl(fd, BTRFS_IOC_FS_INFO, &info) < 0)
                return -errno;
        int r = hint ? top_mount(hint, read_only, t) : -ENODEV;
        if (r >= 0 && memcmp(t->fsid, info.fsid, BTRFS_FSID_SIZE) == 0)
                return 0;
        for (uint64_t id = 1; id <= info.max_id; id++) {
                struct btrfs_ioctl_dev_info_args device = { .devid = id };
                btrfs_top_done(t);
                if (ioctl(fd, BTRFS_IOC_DEV_INFO, &device) < 0)
                        continue;
                device.path[sizeof(device.path) - 1] = '\0';
                r = top_mount((const char *) device.path, read_only, t);
                if (r >= 0 && memcmp(t->fsid, info.fsid, BTRFS_FSID_SIZE) == 0)
                        return 0;
        }
        return r < 0 ? r : -ENODEV;
}

int btrfs_top_of(struct vss_call *c, const struct vss_volume *v, BtrfsTop *ret) {
        _cleanup_(btrfs_top_done) BtrfsTop t = BTRFS_TOP_NULL;
        int r = top_mount_by_fd(v->root_fd, v->device, false, &t);
        if (r < 0)
                return btrfs_fail(c, r, "cannot reach the top level of the file system of %s: %s", v->name,
                                  strerror(-r));
        r = top_make_store(&t);
        if (r == -EPERM)
                return btrfs_fail(c, -EACCES,
                                  "the top level of the file system of %s has a " BTRFS_STORE
                                  " that is not ours: move it away",
                                  v->name);
        if (r < 0)
                return btrfs_fail(c, r, "cannot make " BTRFS_STORE " on the file system of %s: %s", v->name,
                                  strerror(-r));
        *ret = t;
        t = BTRFS_TOP_NULL;
        return 0;
}

static int top_open_mounted(const BtrfsMounted *m, BtrfsTop *ret) {
        int r = top_mount(m->source, m->read_only, ret);
        if (r < 0) {
                /* The name in mountinfo may be outdated; what is mounted knows better. */
                _cleanup_close_ int fd = open(m->target, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                btrfs_top_done(ret);
                r = fd < 0 ? r : top_mount_by_fd(fd, NULL, m->read_only, ret);
        }
        if (r < 0)
                return r;
        if (m->top_level) {
                ret->top_level = strdup(m->top_level);
                if (!ret->top_level)
                        return -ENOMEM;
        }
        r = top_open_store(ret);
        return r == -EPERM ? -ENOENT : r; /* somebody else's .vss: none of ours there */
}

int btrfs_each_top(struct vss_call *c, BtrfsTopFunction f, void *userdata) {
        BtrfsMounted *list = NULL;
        size_t n = 0;
        int r = btrfs_mounted_list(&list, &n), failed = 0;
        if (r < 0)
                return btrfs_fail(c, r, "cannot read the list of mounts: %s", strerror(-r));
        for (size_t i = 0; i < n && r == 0; i++) {
                _cleanup_(btrfs_top_done) BtrfsTop t = BTRFS_TOP_NULL;
                int opened = top_open_mounted(&list[i], &t);
                if (opened == -ENOENT)
                        continue;
                if (opened < 0)
                        failed = btrfs_fail(c, opened, "cannot look into %s (%s): %s", list[i].target, list[i].source,
                                            strerror(-opened));
                else
                        r = f(c, &t, userdata);
        }
        btrfs_mounted_free(list, n);
        return r != 0 ? r : failed; /* what may be on an unreadable one must not look as if it did not exist */
}

int btrfs_place_get(int fd, const char *name, char *ret, size_t size) {
        ssize_t n = fgetxattr(fd, name, ret, size - 1);
        ret[n < 0 ? 0 : n] = '\0';
        return n < 0 ? -errno : (int) n;
}

static int place_set_attributes(int fd, const struct vss_call *c, const struct vss_volume *v,
                                const struct vss_request *q) {
        char flags[16];
        int n = snprintf(flags, sizeof(flags), "%u", q->flags);
        if (fsetxattr(fd, BTRFS_ATTR_SET, c->set, strlen(c->set), 0) < 0)
                return -errno;
        if (fsetxattr(fd, BTRFS_ATTR_VOLUME, v->name,
                      strnlen(v->name, sizeof(((struct vss_snapshot *) NULL)->volume) - 1), 0) < 0)
                return -errno;
        return fsetxattr(fd, BTRFS_ATTR_FLAGS, flags, (size_t) n, 0) < 0 ? -errno : 0;
}

/* Fills place from its name. */
static bool place_parse(const char *name, BtrfsPlace *ret) {
        size_t n = strlen(name);
        ret->pending = n == PENDING_LENGTH + 2 * VSS_ID_LENGTH + 1 && strncmp(name, PENDING, PENDING_LENGTH) == 0 &&
                       name[PENDING_LENGTH + VSS_ID_LENGTH] == '-';
        if (!ret->pending && n != VSS_ID_LENGTH)
                return false;
        if (ret->pending) {
                memcpy(ret->set, name + PENDING_LENGTH, VSS_ID_LENGTH);
                name += PENDING_LENGTH + VSS_ID_LENGTH + 1;
        }
        memcpy(ret->snapshot, name, VSS_ID_SIZE);
        return id_is_valid(ret->snapshot) && (!ret->pending || id_is_valid(ret->set));
}

static int place_open(int parent, const char *name, BtrfsPlace *ret) {
        ret->fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (ret->fd < 0)
                return -errno;
        ret->parent_fd = fcntl(parent, F_DUPFD_CLOEXEC, 3);
        if (ret->parent_fd < 0)
                return -errno;
        if (strlen(name) >= sizeof(ret->name))
                return -ENAMETOOLONG;
        strcpy(ret->name, name);
        return 0;
}

static bool place_has_copy(const BtrfsPlace *p) {
        struct stat st;
        return fstatat(p->fd, BTRFS_COPY, &st, AT_SYMLINK_NOFOLLOW) == 0 || errno != ENOENT;
}

static void closedirp(DIR **d) {
        if (*d)
                (void) closedir(*d);
}

typedef int (*EntryFunction)(int dir, const char *name, void *userdata);

static int each_entry(int dir, EntryFunction f, void *userdata) {
        int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(closedirp) DIR *d = copy < 0 ? NULL : fdopendir(copy);
        if (!d) {
                (void) close_fd(copy);
                return -errno;
        }
        int r = 0;
        for (struct dirent *e; r == 0 && (errno = 0, e = readdir(d));)
                if (!streq(e->d_name, ".") && !streq(e->d_name, ".."))
                        r = f(dir, e->d_name, userdata);
        return r == 0 && errno != 0 ? -errno : r;
}

/* A place without a copy whose maker is gone says nothing about anything: not even its set will ask for it again. */
static int sweep_entry(int dir, const char *name, void *userdata) {
        _cleanup_(btrfs_place_done) BtrfsPlace p = BTRFS_PLACE_NULL;
        if (!place_parse(name, &p) || place_open(dir, name, &p) < 0)
                return 0;
        if (flock(p.fd, LOCK_EX | LOCK_NB) == 0 && !place_has_copy(&p))
                (void) unlinkat(dir, name, AT_REMOVEDIR);
        return 0;
}

int btrfs_place_new(struct vss_call *c, const BtrfsTop *top, uint64_t subvolume, const struct vss_volume *v,
                    const struct vss_request *q, BtrfsPlace *ret) {
        char name[BTRFS_NAME_MAX];
        (void) snprintf(name, sizeof(name), "%llu", (unsigned long long) subvolume);
        if (mkdirat(top->store_fd, name, 0700) < 0 && errno != EEXIST)
                return btrfs_fail(c, -errno, "cannot make " BTRFS_STORE "/%s for %s: %s", name, v->name,
                                  strerror(errno));
        _cleanup_close_ int parent = open_private(top->store_fd, name);
        if (parent < 0)
                return btrfs_fail(c, parent, "cannot open " BTRFS_STORE "/%s for %s: %s", name, v->name,
                                  strerror(-parent));
        (void) each_entry(parent, sweep_entry, NULL);

        (void) snprintf(name, sizeof(name), PENDING "%.36s-%.36s", c->set, q->snapshot);
        int r = -EAGAIN;
        /* Somebody's sweep may take the directory in the moment before it is locked. */
        for (unsigned i = 0; i < NEW_TRIES_MAX && r == -EAGAIN; i++) {
                _cleanup_(btrfs_place_done) BtrfsPlace p = BTRFS_PLACE_NULL;
                struct stat st;
                if (mkdirat(parent, name, 0700) < 0)
                        return btrfs_fail(c, errno == EEXIST ? -EINVAL : -errno,
                                          "cannot make a place for the copy of %s: %s", v->name, strerror(errno));
                if (place_open(parent, name, &p) < 0 || flock(p.fd, LOCK_EX | LOCK_NB) < 0 || fstat(p.fd, &st) < 0 ||
                    st.st_nlink == 0)
                        continue;
                (void) place_parse(name, &p);
                p.subvolume = subvolume;
                r = place_set_attributes(p.fd, c, v, q);
                if (r < 0) {
                        (void) unlinkat(parent, name, AT_REMOVEDIR);
                        break;
                }
                *ret = p;
                p = BTRFS_PLACE_NULL;
        }
        return r < 0 ? btrfs_fail(c, r == -EAGAIN ? -EBUSY : r, "cannot prepare the place of the copy of %s: %s",
                                  v->name, strerror(-r)) :
                       0;
}

typedef struct EachPlace {
        struct vss_call *c;
        const BtrfsTop *top;
        const char *set;
        BtrfsPlaceFunction f;
        void *userdata;
        uint64_t subvolume;
} EachPlace;

static int place_entry(int dir, const char *name, void *userdata) {
        EachPlace *e = userdata;
        _cleanup_(btrfs_place_done) BtrfsPlace p = BTRFS_PLACE_NULL;
        if (!place_parse(name, &p))
                return 0;
        if (p.pending && !isempty(e->set) && !streq(p.set, e->set))
                return 0;
        int r = place_open(dir, name, &p);
        if (r == -ENOENT)
                return 0;
        if (r < 0)
                return r;
        if (!p.pending && (btrfs_place_get(p.fd, BTRFS_ATTR_SET, p.set, sizeof(p.set)) < 0 || !id_is_valid(p.set)))
                return 0;
        if (!isempty(e->set) && !streq(p.set, e->set))
                return 0;
        p.subvolume = e->subvolume;
        return e->f(e->c, e->top, &p, e->userdata);
}

static int subvolume_entry(int dir, const char *name, void *userdata) {
        EachPlace *e = userdata;
        char *end;
        if (name[0] < '1' || name[0] > '9')
                return 0;
        e->subvolume = strtoull(name, &end, 10);
        if (*end)
                return 0;
        _cleanup_close_ int fd = open_private(dir, name);
        if (fd < 0)
                return fd == -ENOENT ? 0 : fd;
        return each_entry(fd, place_entry, e);
}

int btrfs_each_place(struct vss_call *c, const BtrfsTop *top, const char *set, BtrfsPlaceFunction f, void *userdata) {
        EachPlace e = { .c = c, .top = top, .set = set, .f = f, .userdata = userdata };
        return each_entry(top->store_fd, subvolume_entry, &e);
}

int btrfs_place_clean(const BtrfsPlace *p) {
        enum btrfs_util_error e = btrfs_util_delete_subvolume_fd(p->fd, BTRFS_FINAL,
                                                                 BTRFS_UTIL_DELETE_SUBVOLUME_RECURSIVE);
        return e != BTRFS_UTIL_OK && errno != ENOENT ? -errno : 0;
}

int btrfs_place_remove(BtrfsPlace *p) {
        /* Whoever makes it may just have been killed: give the kernel the time to let go of its lock. */
        uint64_t give_up = now_usec() + LOCK_WAIT_USEC;
        while (p->pending && flock(p->fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK || now_usec() >= give_up)
                        return errno == EWOULDBLOCK ? -EBUSY : -errno;
                struct timespec ts = { .tv_nsec = LOCK_POLL_USEC * (long) NSEC_PER_USEC };
                (void) nanosleep(&ts, NULL);
        }
        enum btrfs_util_error e = btrfs_util_delete_subvolume_fd(p->fd, BTRFS_COPY,
                                                                 BTRFS_UTIL_DELETE_SUBVOLUME_RECURSIVE);
        if (e != BTRFS_UTIL_OK && errno != ENOENT)
                return -errno;
        int r = btrfs_place_clean(p);
        if (r < 0)
                return r;
        return unlinkat(p->parent_fd, p->name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}
