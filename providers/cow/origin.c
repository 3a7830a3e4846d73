/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "providers/cow/origin.h"
#include "providers/cow/parse.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>

enum {
        LOOPS_MAX = 4096,
        CLAIM_TICK_USEC = 500,
        NFS_MAGIC = 0x6969,
        CIFS_MAGIC = (int) 0xff534d42u,
        SMB2_MAGIC = (int) 0xfe534d42u
};

#ifndef STATX_DIOALIGN
#define STATX_DIOALIGN 0x00002000U
#endif

static int _printf_(4, 5) fail(char *text, size_t n, int r, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(text, n, format, ap);
        va_end(ap);
        return r;
}

/* --- may it be one? ----------------------------------------------------------------------------------------------- */

/* The loop device that has this file, or -1. */
static int loop_with_file(const struct stat *st) {
        for (int i = 0; i < LOOPS_MAX; i++) {
                char path[32];
                struct loop_info64 info;
                (void) snprintf(path, sizeof(path), "/dev/loop%d", i);
                _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
                if (fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0 && info.lo_inode == st->st_ino &&
                    info.lo_device == st->st_dev)
                        return i;
        }
        return -1;
}

/* The kernel keeps the lines of /proc/swaps in order: a path, escaped like a mount's, and more. */
static bool is_swap(const struct stat *st) {
        char line[ORIGIN_PATH_MAX + 64];
        bool found = false;
        FILE *f = fopen("/proc/swaps", "re");
        while (f && !found && fgets(line, sizeof(line), f)) {
                struct stat swap;
                line[strcspn(line, " \t\n")] = '\0';
                found = line[0] == '/' && stat(line, &swap) == 0 && swap.st_dev == st->st_dev &&
                        swap.st_ino == st->st_ino;
        }
        if (f)
                (void) fclose(f);
        return found;
}

int file_check_unused(const char *path, const struct stat *st, char *text, size_t n) {
        if (is_swap(st))
                return fail(text, n, -EBUSY, "%s is used for swap: run \"swapoff %s\" first", path, path);
        int loop = loop_with_file(st);
        if (loop >= 0)
                return fail(text, n, -EBUSY,
                            "%s is attached to /dev/loop%d: umount it and run \"losetup -d /dev/loop%d\" first", path,
                            loop, loop);
        return 0;
}

/* Exclusive opening fails while it is mounted, swap, or part of something. */
static int block_check(const char *path, char *text, size_t n) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
        if (fd < 0 && errno == EBUSY)
                return fail(
                        text, n, -EBUSY,
                        "%s is in use (mounted, swap, or part of another device): unmount it first, \"findmnt -S %s\" says where, \"lsblk %s\" what uses it",
                        path, path, path);
        return fd < 0 ? fail(text, n, -errno, "%s cannot be opened: %s", path, strerror(errno)) : 0;
}

static int sizes_of_block(const char *path, OriginInfo *ret) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        int sector = 0;
        if (fd < 0 || ioctl(fd, BLKGETSIZE64, &ret->bytes) < 0 || ioctl(fd, BLKSSZGET, &sector) < 0)
                return -errno;
        ret->block_size = (uint32_t) sector;
        return 0;
}

static uint32_t direct_io_alignment(int fd) {
        struct statx sx;
        if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) < 0 || !(sx.stx_mask & STATX_DIOALIGN))
                return 512;
        const uint8_t *raw = (const uint8_t *) &sx;
        uint32_t align;
        memcpy(&align, raw + 0x98 + 4, sizeof(align)); /* stx_dio_offset_align: newer than the C library's struct */
        return align >= 512 && align <= BLOCK_SIZE ? align : 512;
}

static int absent(const char *path, const char *identity, char *text, size_t n) {
        return fail(text, n, -ENOENT, "%s%s%s%s does not exist; if a disk is missing, bring it back and attach again",
                    path, identity[0] ? " (" : "", identity, identity[0] ? ")" : "");
}

/* What it is, and whether it may be used. */
static int origin_look(int fd, OriginInfo *ret, char *text, size_t n) {
        struct stat st;
        if (fstat(fd, &st) < 0)
                return fail(text, n, -errno, "%s: %s", ret->path, strerror(errno));
        int r = S_ISREG(st.st_mode) ?
                        file_check_unused(ret->path, &st, text, n) :
                S_ISBLK(st.st_mode) ?
                        block_check(ret->path, text, n) :
                        fail(text, n, -EINVAL, "%s is neither a regular file nor a block device", ret->path);
        if (r < 0)
                return r;
        ret->is_block = S_ISBLK(st.st_mode);
        if (ret->identity[0] && (!ret->is_block || !identity_is("/sys", st.st_rdev, ret->identity)))
                return fail(
                        text, n, -ENOENT,
                        "%s is not the disk that the volume has (%s): bring that back; if its content was moved, attach "
                        "with --force",
                        ret->path, ret->identity);
        ret->bytes = (uint64_t) st.st_size;
        ret->block_size = ret->is_block ? 512 : direct_io_alignment(fd);
        if (ret->is_block && !ret->identity[0])
                identity_read("/sys", st.st_rdev, ret->identity);
        if (ret->is_block && (r = sizes_of_block(ret->path, ret)) < 0)
                return fail(text, n, r, "%s: its size cannot be read: %s", ret->path, strerror(-r));
        if (ret->bytes == 0 || ret->bytes % ret->block_size)
                return fail(text, n, -EINVAL, "%s: its size of %lu bytes is not a multiple of %u", ret->path,
                            ret->bytes, ret->block_size);
        return 0;
}

IdentityVerdict origin_compare(const char *path, const char *identity) {
        struct stat st;
        return stat(path, &st) >= 0 && S_ISBLK(st.st_mode) ? identity_compare("/sys", st.st_rdev, identity) :
                                                             IDENTITY_UNKNOWN;
}

int origin_open(const char *path, const char *identity, OriginInfo *ret, char *text, size_t n) {
        *ret = (OriginInfo) {};
        int r = identity_locate("/sys", path, identity, ret->path, sizeof(ret->path), text, n);
        if (r < 0)
                return r;
        (void) snprintf(ret->identity, sizeof(ret->identity), "%s", identity);
        _cleanup_close_ int fd = open(ret->path, O_PATH | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? absent(path, identity, text, n) :
                                         fail(text, n, -errno, "%s: %s", path, strerror(errno));
        r = origin_look(fd, ret, text, n);
        return r < 0 ? r : TAKE_FD(fd);
}

/* What the file system of a store must do: keep what it acknowledged, in place, without asking another machine or us.
 */
const char *file_system_unfit(int fd) {
        struct statfs fs;
        if (fstatfs(fd, &fs) < 0)
                return strerror(errno);
        switch ((unsigned) fs.f_type) {
        case TMPFS_MAGIC:
        case RAMFS_MAGIC:
                return "lies in memory";
        case FUSE_SUPER_MAGIC:
        case NFS_MAGIC:
        case (unsigned) CIFS_MAGIC:
        case (unsigned) SMB2_MAGIC:
        case OVERLAYFS_SUPER_MAGIC:
                return "lies on a network, FUSE or overlay file system";
        default:
                return NULL;
        }
}

static int btrfs_check(int fd, const char *path, char *text, size_t n) {
        struct statfs fs;
        int flags = 0;
        if (fstatfs(fd, &fs) < 0 || (unsigned) fs.f_type != BTRFS_SUPER_MAGIC)
                return 0;
        if (ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && flags & FS_NOCOW_FL)
                return 0;
        return fail(
                text, n, -EINVAL,
                "%s lies on btrfs and is copied on every write: make it empty, run \"chattr +C %s\", then format it",
                path, path);
}

int store_open(const char *path, char *text, size_t n) {
        struct stat st;
        _cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return fail(text, n, -errno, "%s: %s", path, strerror(errno));
        if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
                return fail(text, n, -EINVAL, "%s is neither a regular file nor a block device", path);
        if (S_ISBLK(st.st_mode))
                return TAKE_FD(fd);
        const char *unfit = file_system_unfit(fd);
        if (unfit)
                return fail(text, n, -EINVAL, "%s %s: put the store on a local disk", path, unfit);
        _cleanup_close_ int readable = open(path, O_RDONLY | O_CLOEXEC);
        int r = readable < 0 ? -errno : btrfs_check(readable, path, text, n);
        return r < 0 ? r : TAKE_FD(fd);
}

int store_identify(const char *path, uint8_t ret_uuid[16], char *text, size_t n) {
        static uint8_t blocks[2 * BLOCK_SIZE] __attribute__((aligned(BLOCK_SIZE)));
        struct superblock s;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return fail(text, n, -errno, "%s", strerror(errno));
        ssize_t got = pread(fd, blocks, sizeof(blocks), 0);
        int r = got < (ssize_t) sizeof(blocks) ? fail(text, n, -EUCLEAN, "too short to be a store") :
                                                 superblock_check(blocks, &s, text, n);
        if (r < 0 && got == sizeof(blocks))
                r = superblock_check(blocks + BLOCK_SIZE, &s, text, n);
        if (r < 0)
                return r == -EPROTONOSUPPORT ? r : -EUCLEAN;
        memcpy(ret_uuid, s.uuid, sizeof(s.uuid));
        return 0;
}

/* --- claiming ----------------------------------------------------------------------------------------------------- */

static int claim_once(const char *proc, bool block) {
        _cleanup_close_ int fd = open(proc, O_RDWR | O_DIRECT | O_CLOEXEC | (block ? O_EXCL : 0));
        if (fd < 0)
                return -errno;
        if (!block && flock(fd, LOCK_EX | LOCK_NB) < 0) /* udev takes shared locks on devices; O_EXCL is ours there */
                return -errno;
        return TAKE_FD(fd);
}

int file_claim(int path_fd, uint64_t deadline_usec) {
        struct stat st;
        char proc[32];
        if (fstat(path_fd, &st) < 0)
                return -errno;
        (void) snprintf(proc, sizeof(proc), "/proc/self/fd/%d", path_fd);
        for (;;) {
                int fd = claim_once(proc, S_ISBLK(st.st_mode));
                if (fd >= 0 || (fd != -EWOULDBLOCK && fd != -EBUSY) || now_usec() >= deadline_usec)
                        return fd;
                (void) usleep(CLAIM_TICK_USEC);
        }
}

/* --- the stamp ---------------------------------------------------------------------------------------------------- */

enum { STAMP_VERSION = 1 };

typedef enum FileSystemKind { FS_NONE, FS_EXT, FS_XFS, FS_BTRFS } FileSystemKind;

typedef struct Stamp {
        uint32_t version; /* 0: there is none */
        uint32_t kind;    /* FileSystemKind */
        uint32_t timed;   /* size, inode and times are those of a file at rest */
        uint32_t named;   /* the disk has an identity, and it stands in the place of these */
        union {
                struct {
                        uint64_t device, inode, bytes;
                        uint64_t modified_nsec, changed_nsec;
                };
                char identity[IDENTITY_SIZE];
        };
        uint64_t fields[4]; /* of the superblock */
} Stamp;

_Static_assert(sizeof(Stamp) == STAMP_BYTES, "the stamp of struct manifest_volume");
_Static_assert(offsetof(Stamp, fields) == 16 + IDENTITY_SIZE, "an identity fits in its place");

static uint64_t le(const uint8_t *p, unsigned bytes) {
        uint64_t v = 0;
        for (unsigned i = 0; i < bytes; i++)
                v |= (uint64_t) p[i] << (8 * i);
        return v;
}

static uint64_t hash(const uint8_t *p, size_t n) {
        uint64_t h = 0xcbf29ce484222325ULL;
        for (size_t i = 0; i < n; i++)
                h = (h ^ p[i]) * 0x100000001b3ULL;
        return h;
}

/* The whole superblock counts: whatever a mount changes is in it. Which kind it is decides how much that is worth. */
void stamp_of_head(const uint8_t *head, uint8_t stamp[STAMP_BYTES]) {
        const uint8_t *ext = head + 1024, *btrfs = head + 64 * 1024;
        Stamp s = { .version = STAMP_VERSION };
        if (le(ext + 56, 2) == 0xef53) {
                s.kind = FS_EXT;
                s.fields[0] = le(ext + 48, 4);    /* s_wtime */
                s.fields[1] = le(ext + 52, 2);    /* s_mnt_count */
                s.fields[2] = le(ext + 0x178, 8); /* s_kbytes_written */
                s.fields[3] = hash(ext, 1024);
        } else if (memcmp(head, "XFSB", 4) == 0) {
                s.kind = FS_XFS;
                s.fields[0] = hash(head, 512);
        } else if (memcmp(btrfs + 64, "_BHRfS_M", 8) == 0) {
                s.kind = FS_BTRFS;
                s.fields[0] = le(btrfs + 72, 8); /* generation */
                s.fields[1] = hash(btrfs, 4096);
        } else
                s.fields[0] = hash(head, STAMP_HEAD);
        memcpy(stamp, &s, sizeof(s));
}

int stamp_of_file(int fd, bool clean, uint8_t stamp[STAMP_BYTES]) {
        static uint8_t head[STAMP_HEAD] __attribute__((aligned(BLOCK_SIZE)));
        struct stat st;
        Stamp s;
        memset(head, 0, sizeof(head));
        if (fstat(fd, &st) < 0 || pread(fd, head, sizeof(head), 0) < 512)
                return errno ? -errno : -EIO;
        stamp_of_head(head, stamp);
        memcpy(&s, stamp, sizeof(s));
        s.timed = clean && S_ISREG(st.st_mode);
        s.device = S_ISBLK(st.st_mode) ? st.st_rdev : 0; /* numbers of file systems change with each boot */
        s.inode = S_ISBLK(st.st_mode) ? 0 : st.st_ino;
        s.bytes = (uint64_t) st.st_size;
        s.modified_nsec = (uint64_t) st.st_mtim.tv_sec * 1000000000ULL + (uint64_t) st.st_mtim.tv_nsec;
        s.changed_nsec = (uint64_t) st.st_ctim.tv_sec * 1000000000ULL + (uint64_t) st.st_ctim.tv_nsec;
        memcpy(stamp, &s, sizeof(s));
        return 0;
}

void stamp_set_identity(uint8_t stamp[STAMP_BYTES], const char *identity) {
        Stamp s;
        memcpy(&s, stamp, sizeof(s));
        if (!identity[0] || s.timed) /* a file has none, even where there was a disk once */
                return;
        s.named = 1;
        memset(s.identity, 0, sizeof(s.identity));
        (void) snprintf(s.identity, sizeof(s.identity), "%s", identity);
        memcpy(stamp, &s, sizeof(s));
}

/* It comes from a disk that may be damaged: what is no identity is none. */
void stamp_identity(const uint8_t stamp[STAMP_BYTES], char ret[static IDENTITY_SIZE]) {
        Stamp s;
        memcpy(&s, stamp, sizeof(s));
        bool sound = s.named == 1 && !s.timed && memchr(s.identity, 0, sizeof(s.identity));
        for (const char *p = s.identity; sound && *p; p++)
                sound = *p > ' ' && *p <= '~';
        (void) snprintf(ret, IDENTITY_SIZE, "%s", sound ? s.identity : "");
}

void stamp_keep_identity(const uint8_t before[STAMP_BYTES], uint8_t stamp[STAMP_BYTES]) {
        char identity[IDENTITY_SIZE];
        stamp_identity(before, identity);
        stamp_set_identity(stamp, identity);
}

StampVerdict stamp_compare(const uint8_t before[STAMP_BYTES], const uint8_t now[STAMP_BYTES], bool clean) {
        Stamp a, b;
        memcpy(&a, before, sizeof(a));
        memcpy(&b, now, sizeof(b));
        if (a.version != STAMP_VERSION || b.version != STAMP_VERSION)
                return STAMP_UNKNOWN;
        if (clean && a.timed && (a.inode != b.inode || a.bytes != b.bytes || a.modified_nsec != b.modified_nsec))
                return STAMP_CHANGED;
        if (a.kind != b.kind || memcmp(a.fields, b.fields, sizeof(a.fields)) != 0)
                return STAMP_CHANGED;
        return clean || a.kind != FS_NONE ? STAMP_SAME : STAMP_UNKNOWN;
}
