/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Origins and stores as files: may they be what they are to be, and have they been changed behind our back? */
#include "protocol/base.h"
#include "providers/cow/engine.h"
#include "providers/cow/identity.h"
#include <sys/stat.h>

typedef struct OriginInfo {
        uint64_t bytes;
        uint32_t block_size; /* of direct I/O */
        bool is_block;
        char identity[IDENTITY_SIZE];   /* of a block device; "" there is none */
        char path[ORIGIN_PATH_MAX + 1]; /* by which it was opened: a disk may have another name now */
} OriginInfo;

/*
 * Opens path as O_PATH if it can be an origin: a regular file or a block device that nobody has mounted, attached to a
 * loop device or uses for swap. identity: that of the disk which was recorded, and no other is taken; "": whatever has
 * this path. Returns a descriptor or -errno with one line of text: what, why, what to do.
 */
int origin_open(const char *path, const char *identity, OriginInfo *ret, char *text, size_t n);
/* Is what has this path the disk that was recorded? */
IdentityVerdict origin_compare(const char *path, const char *identity);
/* The same for a store: a regular file or block device on a file system that does what is asked of it (hazards D10). */
int store_open(const char *path, char *text, size_t n);
/* A regular file that nobody uses without a lock: -EBUSY and text when it is swap, or behind a loop device. */
int file_check_unused(const char *path, const struct stat *st, char *text, size_t n);
/* Hard links, bind mounts and device nodes are names of one thing: whose content is the same because it is the same. */
static inline bool file_is_same(const struct stat *a, const struct stat *b) {
        if (S_ISBLK(a->st_mode) || S_ISBLK(b->st_mode))
                return S_ISBLK(a->st_mode) && S_ISBLK(b->st_mode) && a->st_rdev == b->st_rdev;
        return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}
/* Why nothing of ours may lie on the file system of fd: "lies in memory"; NULL: it may. */
const char *file_system_unfit(int fd);
/* The uuid of the store; -EUCLEAN and text when there is none in it. Reads its superblocks only. */
int store_identify(const char *path, uint8_t ret_uuid[16], char *text, size_t n);
/*
 * A new open file description of what the O_PATH descriptor names, for direct I/O, locked against every other one of
 * us. Waits until the requests of a dead predecessor have ended (they hold the lock), at most until deadline_usec.
 */
int file_claim(int path_fd, uint64_t deadline_usec);

/* --- the stamp ---------------------------------------------------------------------------------------------------- */

enum {
        STAMP_BYTES = 88,
        STAMP_HEAD = 80 * 1024, /* of a volume: ext4's superblock lies at 1 KiB, XFS's at 0, btrfs's at 64 KiB */
};

/*
 * What changes whenever somebody mounts or writes the volume: of the file its inode, size and times (clean only), of
 * the file system in it the fields of its superblock that every mount changes. Not detected: a write to a block device,
 * or to a file while the times of the stamp are not known, that leaves the superblock as it is (dd into the middle).
 */
void stamp_of_head(const uint8_t *head, uint8_t stamp[STAMP_BYTES]);
/* fd: as from file_claim(). clean: with the file's times, which count as long as nobody has it attached. */
int stamp_of_file(int fd, bool clean, uint8_t stamp[STAMP_BYTES]);
/* The identity of the disk lies in it as well: of a block device, which has neither inode nor times of its content. */
void stamp_set_identity(uint8_t stamp[STAMP_BYTES], const char *identity);
void stamp_identity(const uint8_t stamp[STAMP_BYTES], char ret[static IDENTITY_SIZE]); /* "": there is none */
void stamp_keep_identity(const uint8_t before[STAMP_BYTES], uint8_t stamp[STAMP_BYTES]);
typedef enum StampVerdict { STAMP_SAME, STAMP_CHANGED, STAMP_UNKNOWN } StampVerdict;
/* clean: the old one was taken when the volume was let go in order. */
StampVerdict stamp_compare(const uint8_t before[STAMP_BYTES], const uint8_t now[STAMP_BYTES], bool clean);
