/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What may become an origin, and where the store goes. An origin that somebody uses would be written to behind the
 * engine's back (hazards A8); a store on a file system that lies in memory, on another machine or in a process is none
 * that survives what it is for, and one that copies on write itself needs to be told not to (hazards D10).
 */
#include "providers/cow/provider.h"
#include "providers/cow/format.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define STORE_BYTES_MIN (1ULL << 30)
#define SEGMENT_BYTES ((uint64_t) SEGMENT_BLOCKS * BLOCK_SIZE)

enum {
        STORE_SHARE = 5, /* one part in so many of the origin */
        EXTENTS_AT_ONCE = 64,
        EXTENTS_MAX = 65536, /* of a store that are looked at */
};

/* Where this device is mounted, read from mountinfo: major:minor is its third field. */
static bool find_mount(dev_t dev, char *ret, size_t size) {
        FILE *f = fopen("/proc/self/mountinfo", "re");
        _cleanup_free_ char *line = NULL;
        size_t space = 0;
        bool found = false;
        while (f && !found && getline(&line, &space, f) > 0) {
                unsigned ma, mi;
                char target[1024];
                if (sscanf(line, "%*d %*d %u:%u %*s %1023s", &ma, &mi, target) == 3 && makedev(ma, mi) == dev) {
                        (void) snprintf(ret, size, "%s", target);
                        found = true;
                }
        }
        if (f)
                (void) fclose(f);
        return found;
}

/* A loop device that shows this file already. */
static bool find_loop(const char *path, char *ret, size_t size, dev_t *ret_dev) {
        DIR *d = opendir("/sys/block");
        bool found = false;
        for (struct dirent *e; d && !found && (e = readdir(d));) {
                char name[PATH_MAX], line[PATH_MAX] = "";
                unsigned ma = 0, mi = 0;
                if (strncmp(e->d_name, "loop", 4) != 0)
                        continue;
                (void) snprintf(name, sizeof(name), "/sys/block/%s/loop/backing_file", e->d_name);
                FILE *f = fopen(name, "re");
                found = f && fgets(line, sizeof(line), f);
                line[strcspn(line, "\n")] = '\0';
                found = found && streq(line, path);
                if (f)
                        (void) fclose(f);
                if (!found)
                        continue;
                (void) snprintf(ret, size, "/dev/%s", e->d_name);
                (void) snprintf(name, sizeof(name), "/sys/block/%s/dev", e->d_name);
                f = fopen(name, "re");
                if (f && fscanf(f, "%u:%u", &ma, &mi) == 2)
                        *ret_dev = makedev(ma, mi);
                if (f)
                        (void) fclose(f);
        }
        if (d)
                (void) closedir(d);
        return found;
}

static int refuse_mounted(struct vss_call *c, const char *name, const char *origin, const struct vss_volume_options *o,
                          const char *where) {
        char links[LIMIT_PATH_BYTES];
        cow_links_directory(links, sizeof(links));
        return cow_fail(c, -EBUSY,
                        "%s is mounted on %s; run: umount %s && vssctl volume create %s --origin=%s%s%s && mount %s/%s "
                        "%s",
                        origin, where, where, name, origin, o->store ? " --store=" : "", o->store ? o->store : "",
                        links, name, where);
}

static int check_unused(struct vss_call *c, const char *name, const char *path, const struct vss_volume_options *o,
                        const struct stat *st) {
        char where[1024], loop[300];
        dev_t dev = st->st_rdev;
        bool file = S_ISREG(st->st_mode), looped = file && find_loop(path, loop, sizeof(loop), &dev);
        if ((!file || looped) && find_mount(dev, where, sizeof(where)))
                return refuse_mounted(c, name, path, o, where);
        if (looped)
                return cow_fail(c, -EBUSY, "%s is in use as %s: losetup -d %s", path, loop, loop);
        _cleanup_close_ int fd = file ? -EBADF : open(path, O_RDONLY | O_EXCL | O_CLOEXEC | O_NONBLOCK);
        if (!file && fd < 0)
                return cow_fail(c, -errno, "%s is in use by something else (swap, a volume group, md): %s", path,
                                strerror(errno));
        return 0;
}

int cow_origin_check(struct vss_call *c, const char *name, const char *origin, const struct vss_volume_options *o,
                     char *ret, size_t size, uint64_t *ret_bytes) {
        char canonical[PATH_MAX];
        struct stat st;
        if (strchr(origin, '\\'))
                return cow_fail(c, -EOPNOTSUPP,
                                "%s: an origin's path has no backslash, control character or byte that "
                                "is not UTF-8",
                                origin);
        if (!realpath(origin, canonical) || stat(canonical, &st) < 0)
                return cow_fail(c, errno == ENOTDIR ? -ENOENT : -errno, "origin %s: %s", origin, strerror(errno));
        if (strlen(canonical) >= size)
                return cow_fail(c, -EOPNOTSUPP, "the path of the origin is longer than %zu bytes", size - 1);
        (void) snprintf(ret, size, "%s", canonical);
        if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
                return cow_fail(c, -EOPNOTSUPP, "origin %s is neither a block device nor an image file", canonical);
        int r = check_unused(c, name, canonical, o, &st);
        if (r < 0)
                return r;
        *ret_bytes = (uint64_t) st.st_size;
        if (S_ISBLK(st.st_mode)) {
                _cleanup_close_ int fd = open(canonical, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
                if (fd < 0 || ioctl(fd, BLKGETSIZE64, ret_bytes) < 0)
                        return cow_fail(c, -errno, "%s cannot be opened: %s", canonical, strerror(errno));
        }
        if (*ret_bytes == 0 || *ret_bytes % 512 != 0)
                return cow_fail(c, -EOPNOTSUPP, "origin %s has %llu bytes: a multiple of 512 is needed", canonical,
                                (unsigned long long) *ret_bytes);
        return 0;
}

/* ---- the store ---- */

static const char *unsuitable(const struct statfs *s) {
        switch ((unsigned long) s->f_type) {
        case TMPFS_MAGIC:
        case RAMFS_MAGIC:
                return "in memory";
        case NFS_SUPER_MAGIC:
        case SMB_SUPER_MAGIC:
        case CIFS_SUPER_MAGIC:
        case SMB2_SUPER_MAGIC:
        case CEPH_SUPER_MAGIC:
        case AFS_SUPER_MAGIC:
        case V9FS_MAGIC:
                return "on the network";
        case FUSE_SUPER_MAGIC:
                return "served by a process";
        default:
                return NULL;
        }
}

static int check_place(struct vss_call *c, int fd, const char *path, uint64_t bytes) {
        struct statfs s;
        if (fstatfs(fd, &s) < 0)
                return cow_fail(c, -errno, "%s: %s", path, strerror(errno));
        const char *why = unsuitable(&s);
        if (why)
                return cow_fail(c, -EOPNOTSUPP, "a store cannot lie at %s: that file system is %s", path, why);
        if (bytes > 0 && (uint64_t) s.f_bavail * (uint64_t) s.f_bsize < bytes)
                return cow_fail(c, -ENOSPC,
                                "a store of %llu MiB at %s would be larger than what is free there (%llu MiB): name "
                                "another --store or a smaller --store-max",
                                (unsigned long long) bytes >> 20, path,
                                (unsigned long long) ((uint64_t) s.f_bavail * (uint64_t) s.f_bsize) >> 20);
        return 0;
}

/* Of the directory that it will lie in. */
static int check_parent(struct vss_call *c, const char *path, uint64_t bytes) {
        _cleanup_free_ char *parent = strdup(path);
        char *slash = parent ? strrchr(parent, '/') : NULL;
        if (!slash)
                return -ENOMEM;
        slash[slash == parent] = '\0';
        _cleanup_close_ int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return cow_fail(c, -errno, "the store cannot be made in %s: %s", parent, strerror(errno));
        return check_place(c, fd, path, bytes);
}

/* Some of its blocks belong to another file as well: they are copied when they are written to. */
static bool is_shared(int fd) {
        union {
                struct fiemap map;
                uint8_t space[sizeof(struct fiemap) + EXTENTS_AT_ONCE * sizeof(struct fiemap_extent)];
        } u;
        uint64_t from = 0;
        for (unsigned i = 0; i < EXTENTS_MAX / EXTENTS_AT_ONCE; i++) {
                u.map = (struct fiemap) { .fm_start = from,
                                          .fm_length = UINT64_MAX - from,
                                          .fm_extent_count = EXTENTS_AT_ONCE };
                if (ioctl(fd, FS_IOC_FIEMAP, &u.map) < 0 || u.map.fm_mapped_extents == 0)
                        return false;
                for (uint32_t k = 0; k < u.map.fm_mapped_extents; k++) {
                        const struct fiemap_extent *e = &u.map.fm_extents[k];
                        if (e->fe_flags & FIEMAP_EXTENT_SHARED)
                                return true;
                        if (e->fe_flags & FIEMAP_EXTENT_LAST)
                                return false;
                        from = e->fe_logical + e->fe_length;
                }
        }
        return false;
}

static int check_existing(struct vss_call *c, const char *path) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        struct statfs s;
        struct stat st;
        int flags = 0;
        if (fd < 0 || fstat(fd, &st) < 0)
                return cow_fail(c, -errno, "%s: %s", path, strerror(errno));
        int r = S_ISBLK(st.st_mode) ? 0 : check_place(c, fd, path, 0);
        if (r >= 0 && S_ISREG(st.st_mode) && fstatfs(fd, &s) >= 0 && (unsigned long) s.f_type == BTRFS_SUPER_MAGIC &&
            (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & FS_NOCOW_FL)))
                return cow_fail(c, -EOPNOTSUPP, "store %s lies on a btrfs and was not made with chattr +C", path);
        if (r >= 0 && S_ISREG(st.st_mode) && is_shared(fd))
                return cow_fail(
                        c, -EOPNOTSUPP,
                        "store %s shares blocks with another file (cp --reflink, or a snapshot of its subvolume): "
                        "name another --store",
                        path);
        return r;
}

int cow_store_choose(struct vss_call *c, const struct vss_volume_options *o, uint64_t origin_bytes, CowStore *ret,
                     uint64_t *ret_bytes, bool *ret_make) {
        char path[LIMIT_PATH_BYTES], canonical[PATH_MAX];
        int r = o->store ? 0 : cow_state_path(c, "store", path, sizeof(path));
        if (r < 0)
                return r;
        const char *wanted = o->store ? o->store : path;
        if (wanted[0] != '/' || strchr(wanted, '\\') || strlen(wanted) >= sizeof(ret->path))
                return cow_fail(c, -EINVAL, "store %s: an absolute path of at most %zu bytes is needed", wanted,
                                sizeof(ret->path) - 1);
        *ret = COW_STORE_NULL;
        if (realpath(wanted, canonical) && strlen(canonical) < sizeof(ret->path))
                memcpy(ret->path, canonical, strlen(canonical) + 1);
        else
                memcpy(ret->path, wanted, strlen(wanted) + 1);
        r = cow_store_identify(ret->path, ret->id);
        *ret_make = r == -ENOENT;
        if (r == -ENOENT) {
                *ret_bytes = o->store_max_bytes ? o->store_max_bytes :
                                                  MAX_OF(origin_bytes / STORE_SHARE, STORE_BYTES_MIN);
                *ret_bytes = (*ret_bytes + SEGMENT_BYTES - 1) / SEGMENT_BYTES * SEGMENT_BYTES;
                *ret_bytes = MAX_OF(*ret_bytes, STORE_SEGMENTS_MIN * SEGMENT_BYTES);
                return check_parent(c, ret->path, *ret_bytes);
        }
        if (r == -EMEDIUMTYPE)
                return cow_fail(c, -EOPNOTSUPP, "%s exists and is no store: name another --store", ret->path);
        if (r < 0)
                return cow_fail(c, r, "store %s: %s", ret->path, strerror(-r));
        if (o->store_max_bytes)
                return cow_fail(c, -EINVAL, "the store %s exists and keeps its size: leave --store-max out", ret->path);
        return check_existing(c, ret->path);
}

int cow_store_make(struct vss_call *c, CowStore *s, uint64_t bytes) {
        char store[sizeof(s->path) + 16], size[48];
        int flags = 0;
        _cleanup_close_ int fd = open(s->path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return cow_fail(c, -errno, "the store %s cannot be made: %s", s->path, strerror(errno));
        /* only an empty file can be told; where there is no such thing it is not needed */
        if (ioctl(fd, FS_IOC_GETFLAGS, &flags) >= 0) {
                flags |= FS_NOCOW_FL;
                (void) ioctl(fd, FS_IOC_SETFLAGS, &flags);
        }
        (void) snprintf(store, sizeof(store), "--store=%s", s->path);
        (void) snprintf(size, sizeof(size), "--size=%llu", (unsigned long long) bytes);
        int r = cow_program(c, (char *[]) { (char *) "format", store, size, NULL }, NULL, 0);
        if (r >= 0)
                r = check_existing(c, s->path);
        if (r >= 0) {
                r = cow_store_identify(s->path, s->id);
                if (r < 0)
                        r = cow_fail(c, -EIO, "vss-cow format left no store at %s", s->path);
        }
        if (r < 0)
                (void) unlink(s->path);
        return r;
}
