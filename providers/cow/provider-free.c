/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Asks a mounted file system what it has free, so that the engine need not preserve it. The order is what makes it safe
 * (hazards A4 to B6): writes are tracked first; then what is dirty goes out, so that little is written after the map;
 * then the map; then the file system commits what the map says. FS_IOC_GETFSMAP also tells of blocks whose freeing is
 * in no log yet: without that commit a replay in the copy would bring back files whose blocks are zeros.
 *
 * With CAP_SYS_ADMIN an XFS that keeps a reverse map answers from that, which learns of a block only some transactions
 * after it was written: blocks of live files are called free then. Without it the answer comes from what the allocator
 * itself goes by. A file system that is read-only commits nothing, and its log may be older or newer than what it says.
 *
 * Only where the answer is about this very device: ext4 with a journal and XFS, from its first byte on. Whatever else
 * comes in between, or any error, and nothing is skipped.
 */
#include "providers/cow/provider.h"
#include <endian.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fsmap.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

enum {
        BLOCK = 4096,                     /* of the engine */
        RECORDS = 2048,                   /* of one question: 96 KiB */
        EXTENTS_MAX = 1 << 20,            /* as the engine has it: sifting more would stop its volumes for too long */
        BLOCKS_PER_EXTENT = 32,           /* as the engine has it: more scattered than that is not worth it */
        EXTENTS_MIN = 4096,               /* … in a small file system */
        QUESTION_USEC = 5 * USEC_PER_SEC, /* for all of them together (hazards B5) */
        EXT4_SUPER = 1024,                /* where its superblock is, and in it: */
        EXT4_FEATURE_COMPAT = 0x5c,       /* __le32 s_feature_compat */
        EXT4_HAS_JOURNAL = 0x4,           /* COMPAT_HAS_JOURNAL */
};

typedef struct Extent { /* as engine.h has it */
        uint32_t block, count;
} Extent;

typedef struct FreeList {
        int fd; /* sealed memory, in the end */
        uint64_t n, max, end_usec;
        uint32_t device; /* as the kernel writes it into fmr_device */
        unsigned filled;
        Extent buffer[1024];
} FreeList;

static bool ext4_has_journal(const char *device) {
        uint8_t b[EXT4_FEATURE_COMPAT + 4];
        uint32_t compat;
        _cleanup_close_ int fd = open(device, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        if (fd < 0 || pread(fd, b, sizeof(b), EXT4_SUPER) != (ssize_t) sizeof(b))
                return false;
        memcpy(&compat, b + EXT4_FEATURE_COMPAT, sizeof(compat));
        return le32toh(compat) & EXT4_HAS_JOURNAL;
}

/* The file system lies on the device itself, and is one that answers about it. */
static bool volume_fits(const struct vss_volume *v, uint32_t *ret_device) {
        struct stat root, device;
        struct statfs fs;
        if (v->root_fd < 0 || !v->device || fstat(v->root_fd, &root) < 0 || stat(v->device, &device) < 0 ||
            !S_ISBLK(device.st_mode) || root.st_dev != device.st_rdev || fstatfs(v->root_fd, &fs) < 0 ||
            fs.f_flags & ST_RDONLY)
                return false;
        unsigned low = minor(device.st_rdev), high = major(device.st_rdev);
        *ret_device = (low & 0xff) | high << 8 | (low & ~0xffu) << 12; /* new_encode_dev() of the kernel */
        return fs.f_type == XFS_SUPER_MAGIC || (fs.f_type == EXT4_SUPER_MAGIC && ext4_has_journal(v->device));
}

/* Of this thread. Asking goes on without it only if it is really gone. */
static int admin_set(bool on) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
        uint32_t bit = CAP_TO_MASK(CAP_SYS_ADMIN);
        if (syscall(SYS_capget, &header, data) < 0)
                return -errno;
        if (on && data[CAP_TO_INDEX(CAP_SYS_ADMIN)].permitted & bit)
                data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective |= bit;
        else
                data[CAP_TO_INDEX(CAP_SYS_ADMIN)].effective &= ~bit;
        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

static int list_flush(FreeList *l) {
        const uint8_t *at = (const uint8_t *) l->buffer;
        size_t left = l->filled * sizeof(Extent);
        while (left > 0) {
                ssize_t n = write(l->fd, at, left);
                if (n < 0 && errno != EINTR)
                        return -errno;
                at += n > 0 ? n : 0;
                left -= n > 0 ? (size_t) n : 0;
        }
        l->filled = 0;
        return 0;
}

/* Rounded inwards to whole blocks. */
static int list_add(FreeList *l, uint64_t offset, uint64_t length) {
        uint64_t first = (offset + BLOCK - 1) / BLOCK, end = (offset + length) / BLOCK;
        if (first >= end)
                return 0;
        if (end > UINT32_MAX || l->n++ == l->max)
                return -E2BIG;
        l->buffer[l->filled++] = (Extent) { (uint32_t) first, (uint32_t) (end - first) };
        return l->filled == ELEMENTSOF(l->buffer) ? list_flush(l) : 0;
}

/* 1: that was the last. */
static int list_records(FreeList *l, const struct fsmap_head *h) {
        for (uint32_t i = 0; i < h->fmh_entries; i++) {
                const struct fsmap *r = &h->fmh_recs[i];
                int x = 0;
                if (r->fmr_device == l->device && r->fmr_flags & FMR_OF_SPECIAL_OWNER && r->fmr_owner == FMR_OWN_FREE)
                        x = list_add(l, r->fmr_physical, r->fmr_length);
                if (x < 0)
                        return x;
                if (r->fmr_flags & FMR_OF_LAST)
                        return 1;
        }
        return h->fmh_entries < RECORDS;
}

static int list_ask(FreeList *l, int root_fd) {
        _cleanup_free_ struct fsmap_head *h = calloc(1, fsmap_sizeof(RECORDS));
        int r = 0;
        if (!h)
                return -ENOMEM;
        h->fmh_count = RECORDS;
        h->fmh_keys[1] = (struct fsmap) { .fmr_device = UINT32_MAX,
                                          .fmr_flags = UINT32_MAX,
                                          .fmr_physical = UINT64_MAX,
                                          .fmr_owner = UINT64_MAX,
                                          .fmr_offset = UINT64_MAX };
        while (r == 0) {
                if (ioctl(root_fd, FS_IOC_GETFSMAP, h) < 0)
                        return -errno;
                if (!(h->fmh_oflags & FMH_OF_DEV_T)) /* devices are called something else */
                        return -EOPNOTSUPP;
                if (now_usec() > l->end_usec)
                        return -ETIME;
                r = h->fmh_entries == 0 ? 1 : list_records(l, h);
                if (r == 0)
                        fsmap_advance(h);
        }
        return r < 0 ? r : list_flush(l);
}

static int free_list(const struct vss_volume *v, uint32_t device) {
        uint64_t max = v->size_bytes / BLOCK / BLOCKS_PER_EXTENT;
        _cleanup_close_ int fd = memfd_create("vss-free", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        _cleanup_free_ FreeList *l = calloc(1, sizeof(FreeList));
        if (fd < 0 || !l)
                return fd < 0 ? -errno : -ENOMEM;
        l->fd = fd;
        l->max = MIN_OF(max > EXTENTS_MIN ? max : EXTENTS_MIN, (uint64_t) EXTENTS_MAX);
        l->device = device;
        l->end_usec = now_usec() + QUESTION_USEC;
        int r = admin_set(false);
        if (r == 0)
                r = list_ask(l, v->root_fd);
        (void) admin_set(true);
        if (r == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
                r = -errno;
        return r < 0 ? r : TAKE_FD(fd);
}

static int ask_named(struct vss_call *c, CowStore *s, const char *command, const char *volume, int fd) {
        json_object *q = cow_request(command);
        json_add_string(q, "name", volume);
        return cow_ask_with(c, s, q, fd, NULL);
}

/* In memory until it was read: its pages must not have to come from a volume of whoever reads them. */
static int list_give(struct vss_call *c, CowStore *s, const char *volume, int list) {
        struct stat st;
        if (fstat(list, &st) < 0)
                return -errno;
        size_t size = (size_t) st.st_size;
        void *p = size ? mmap(NULL, size, PROT_READ, MAP_SHARED, list, 0) : NULL;
        if (p == MAP_FAILED)
                return -errno;
        int r = size && mlock(p, size) < 0 ? -errno : ask_named(c, s, "free-map", volume, list);
        if (size)
                (void) munmap(p, size);
        return r;
}

static bool still_answers(const struct vss_volume *v) {
        struct fsmap_head h = { .fmh_keys[1] = { .fmr_device = UINT32_MAX,
                                                 .fmr_flags = UINT32_MAX,
                                                 .fmr_physical = UINT64_MAX,
                                                 .fmr_owner = UINT64_MAX,
                                                 .fmr_offset = UINT64_MAX } };
        return ioctl(v->root_fd, FS_IOC_GETFSMAP, &h) == 0;
}

static int free_skip(struct vss_call *c, CowStore *s, const char *volume, const struct vss_volume *v) {
        uint32_t device;
        if (!volume_fits(v, &device))
                return -EOPNOTSUPP;
        int r = ask_named(c, s, "track", volume, -EBADF);
        if (r == 0 && syncfs(v->root_fd) < 0)
                r = -errno;
        if (r < 0)
                return r;
        _cleanup_close_ int list = free_list(v, device);
        r = list < 0 ? list : list_give(c, s, volume, list);
        if (r == 0 && syncfs(v->root_fd) < 0)
                r = -errno;
        /* one that has stopped meanwhile committed nothing, and its syncfs() may not have said so */
        return r < 0 ? r : volume_fits(v, &device) && still_answers(v) ? 0 : -EROFS;
}

bool cow_free_skip(struct vss_call *c, CowStore *s, const char *volume, const struct vss_volume *v) {
        int r = free_skip(c, s, volume, v);
        if (s->fd >= 0)
                c->message[0] = '\0'; /* it is not needed: everything is preserved then */
        return r == 0;
}
