/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The store on disk, byte by byte; vss-store(5) is the same for people. A store is one file or block device of a size
 * that is fixed when it is made. It is cut into segments; everything is little-endian, in blocks of 4 KiB, and carries
 * a CRC32C. The volumes themselves stay outside: plain images that need no store to be read.
 *
 *   segment 0          superblock copies 0 and 1 (blocks 0 and 1), the rest unused
 *   middle, last       superblock copies 2 and 3 (their first block), the rest unused
 *   all others         free, LOG or META as the manifest says
 *
 * Superblock. Number N of them is written to copy N % 2 and, when that is durable, to copy 2 + N % 2, so the one before
 * is never overwritten by it, and a power cut tears one copy at most. The highest valid number wins. Where neither
 * copy 0 nor 2, or neither 1 nor 3 is valid, a newer one may be gone: that is damage. It names the manifest, and the
 * manifest names everything else.
 *
 * Manifest: one byte string in consecutive blocks of one META segment: head, volumes, snapshots, runs, reserved log
 * segments, segment table; each list starts at a multiple of 8 bytes. Its CRC is in the superblock. It is never
 * changed: the next one goes to other blocks. Behind the runs stand the free maps.
 *
 * Log: the manifest reserves a list of LOG segments; records are written one behind the other into these, in the order
 * of the list, starting at the replay position. A record never crosses the end of a segment: where the next does not
 * fit, the rest of the segment is skipped and it starts the next one. One record is one durable write: head and body
 * (descriptors or members), padded to whole blocks, then the payload blocks.
 *
 * Run: a sorted list of what the log preserved, in blocks of META segments. Immutable. See struct run_page.
 *
 * A record belongs to the log if magic, store, generation (= the manifest's) and sequence (= the one before, plus 1)
 * fit and its CRCs hold. The first that does not is the end, and what was in flight when the machine stopped. But where
 * a valid record of the same generation with sequence > the missing one follows, and its durable_upto is >= the missing
 * one, then an acknowledged record is gone: that is damage, not an end (hazards B7).
 *
 * Free map: what the file system of a volume had free at one snapshot, as extents in pages like those of a run. Every
 * other snapshot that was there when it was taken finds these blocks without it, so it belongs to one snapshot and goes
 * with it. The strikes of a snapshot are those blocks of its map that were written before it was taken.
 *
 * The block at position P of a volume, as snapshot S has it: zeros, if it is in the map of S and not struck; else,
 * among all entries of that block with epoch >= that of S, the one with the smallest epoch; if there is none, the block
 * of the volume itself.
 */
#include <endian.h>
#include <linux/fs.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#undef BLOCK_SIZE /* of 1024 bytes, in both of these; included here so that no file gets that one by accident */

#define STORE_MAGIC "VSSCOW1\n"    /* superblock */
#define RECORD_MAGIC 0x636f4c53u   /* "SLoc" */
#define MANIFEST_MAGIC 0x6e614d53u /* "SMan" */
#define RUN_PAGE_MAGIC 0x6e755253u /* "SRun" */
#define MAP_PAGE_MAGIC 0x70614d53u /* "SMap" */

enum {
        STORE_VERSION = 1,
        BLOCK_SHIFT = 12,
        BLOCK_SIZE = 1 << BLOCK_SHIFT, /* of volumes, records and pages */
        SUPER_COPIES = 4,
        SEGMENT_BLOCKS_MIN = 16,   /* 64 KiB, for tests */
        SEGMENT_BLOCKS = 2048,     /* 8 MiB, what is made by default */
        SEGMENT_BLOCKS_MAX = 4096, /* 16 MiB */
        STORE_SEGMENTS_MIN = 16,
        RESERVED_MAX = 32,              /* log segments one manifest can reserve */
        STORE_VOLUMES_MAX = 64,         /* of one store */
        VOLUME_NUMBERS = 4096,          /* none is given twice; 12 bits of a ublk device say whose it is */
        STORE_SNAPSHOTS_MAX = 64 * 512, /* 512 of each volume, as VSS has */
        STORE_RUNS_MAX = 512,
        STORE_MAPS_MAX = STORE_SNAPSHOTS_MAX +
                         STORE_VOLUMES_MAX, /* one of each snapshot, one that waits of each volume */
        STRIKES_MAX = 1024,                 /* of one snapshot: 8 KiB of its record; what is more is made coarser */
        RUN_EXTENTS_MAX = 1024,             /* pieces one run may lie in */
        VOLUME_NAME_MAX = 63,               /* bytes without NUL: a file name, [A-Za-z0-9][A-Za-z0-9._-]* */
        ORIGIN_PATH_MAX = 1023,             /* bytes without NUL */
        LABEL_MAX = 1023,                   /* how the requester called the volume; bytes without NUL */
};

/* Largest store: the manifest has to fit into one segment, and its table has 4 bytes a segment. */
#define STORE_SEGMENTS_MAX (1u << 20)

/* 4096 bytes. Superblock. */
struct superblock {
        char magic[8];           /*    0 STORE_MAGIC */
        uint32_t version;        /*    8 STORE_VERSION */
        uint32_t crc;            /*   12 CRC32C of the 4096 bytes with this field 0 */
        uint8_t uuid[16];        /*   16 of the store */
        uint64_t compat;         /*   32 features a reader may ignore: none so far */
        uint64_t ro_compat;      /*   40 features a writer must know: none so far */
        uint64_t incompat;       /*   48 features everybody must know: INCOMPAT_* */
        uint64_t number;         /*   56 of this superblock, from 1 */
        uint32_t segments;       /*   64 number of segments */
        uint32_t segment_blocks; /* 68 4 KiB blocks of each */
        uint64_t manifest_block; /* 72 block of the store where the manifest begins; 0: there is none, the store is lost
                                  */
        uint32_t manifest_bytes; /* 80 */
        uint32_t manifest_crc;   /* 84 CRC32C of these bytes */
        uint64_t generation;     /* 88 as in the manifest */
        uint32_t state;          /* 96 STORE_* */
        uint8_t zero[3996];      /* 100 */
};

enum {
        INCOMPAT_STAGE = 1 << 0, /* reserved for records that stage new data; nobody writes it yet */
};

enum {                  /* superblock.state */
       STORE_CLEAN = 0, /* stopped in order: the log behind the replay position is empty */
       STORE_OPEN = 1,  /* somebody writes, or was killed */
       STORE_LOST = 2,  /* a write to the store failed; every snapshot in it is void (never to be shown again) */
};

/* 96 bytes, then the body. Record of the log. */
struct record_head {
        uint32_t magic;          /*  0 RECORD_MAGIC */
        uint32_t head_crc;       /*  4 CRC32C of the whole blocks of head and body, with this field 0 */
        uint8_t store[16];       /*  8 uuid of the store */
        uint64_t generation;     /* 24 raised whenever the store is opened */
        uint64_t sequence;       /* 32 of the record, over the whole life of the store */
        uint64_t durable_upto;   /* 40 every record up to this sequence was durable when this one was written */
        uint64_t super_number;   /* 48 newest superblock that was durable when this one was written */
        uint32_t type;           /* 56 RECORD_* */
        uint32_t count;          /* 60 descriptors or members in the body */
        uint32_t body_bytes;     /* 64 length of the body */
        uint32_t payload_blocks; /* 68 blocks behind head and body */
        uint8_t zero[24];        /* 72 */
};

enum {                      /* record_head.type */
       RECORD_PRESERVE = 1, /* body: count struct descriptor; payload: what they say */
       RECORD_SNAPSHOT = 2, /* body: struct set_member each followed by its label; a snapshot of each, at one instant */
       RECORD_DELETE = 3,   /* body: count struct id_member: these snapshots are gone */
       RECORD_COMMIT = 4,   /* body: count struct id_member: the pending mark of these snapshots is gone */
       RECORD_MAX = 5,
};

/* A block of a volume: the volume's number in the upper 16 bits, its 4 KiB block number in the lower 48. */
#define VOLBLOCK(volume, block) ((uint64_t) (volume) << 48 | (uint64_t) (block))
#define VOLBLOCK_VOLUME(vb) ((unsigned) ((vb) >> 48))
#define VOLBLOCK_BLOCK(vb) ((vb) & ((1ULL << 48) - 1))

/* 24 bytes. What one block of a volume held. */
struct descriptor {
        uint64_t volblock; /*  0 */
        uint32_t epoch;    /*  8 of the newest snapshot when it was preserved */
        uint32_t crc;      /* 12 CRC32C of the 4096 bytes, 0 without payload */
        uint16_t flags;    /* 16 ENTRY_* */
        uint16_t payload;  /* 18 index of its payload block, 0 without payload */
        uint32_t zero;     /* 20 */
};

enum {                       /* descriptor.flags and the flags of a run entry */
       ENTRY_ZERO = 1 << 0,  /* the block was all zeros: no payload */
       ENTRY_BAD = 1 << 1,   /* the block could not be read: reading it in the snapshot is an error; no payload */
       ENTRY_MOVED = 1 << 2, /* was preserved before, and copied to here to free its segment */
       ENTRY_FREE = 1 << 3,  /* in free maps only: so many blocks from here on were free */
       ENTRY_NO_PAYLOAD = ENTRY_ZERO | ENTRY_BAD | ENTRY_FREE,
       ENTRY_KNOWN = ENTRY_ZERO | ENTRY_BAD | ENTRY_MOVED,
};

/* 64 bytes, then label_bytes bytes of label, padded to 8, then strikes struct strike. One snapshot of a set. */
struct set_member {
        uint8_t snapshot[16];  /*  0 uuid */
        uint8_t set[16];       /* 16 uuid */
        uint32_t volume;       /* 32 number */
        uint32_t epoch;        /* 36 the same for the whole record */
        uint64_t created_usec; /* 40 CLOCK_REALTIME */
        uint32_t flags;        /* 48 SNAPSHOT_* */
        uint16_t label_bytes;  /* 52 */
        uint16_t strikes;      /* 54 at most STRIKES_MAX; 0 without a map */
        uint64_t map;          /* 56 number of its free map, 0: it has none */
};

/* 8 bytes. Ascending, not overlapping. */
struct strike {
        uint32_t block; /* 0 of the volume */
        uint32_t count; /* 4 not 0 */
};

enum {                               /* set_member.flags, manifest_snapshot.flags */
       SNAPSHOT_PENDING = 1 << 0,    /* its set is not complete: removed unless RECORD_COMMIT follows */
       SNAPSHOT_PERSISTENT = 1 << 1, /* as asked for */
       SNAPSHOT_FROZEN = 1 << 2,     /* the file system was frozen: it may be mounted without replay of its log */
       SNAPSHOT_DAMAGED = 1 << 3,    /* part of it was lost */
       SNAPSHOT_UNVERIFIED = 1 << 4, /* the volume may have been changed while it was not attached */
       SNAPSHOT_KNOWN = (1 << 5) - 1,
};

/* 16 bytes. */
struct id_member {
        uint8_t snapshot[16]; /* uuid */
};

/* 128 bytes. Head of the manifest. What follows: volumes, snapshots, runs, maps, reserved, table, in this order. */
struct manifest_head {
        uint32_t magic;         /*   0 MANIFEST_MAGIC */
        uint32_t version;       /*   4 STORE_VERSION */
        uint8_t store[16];      /*   8 */
        uint64_t generation;    /*  24 of the log behind the replay position */
        uint64_t next_sequence; /*  32 sequence of the record at the replay position */
        uint64_t next_run;      /*  40 number the next run gets */
        uint32_t epoch;         /*  48 newest epoch given to a snapshot */
        uint32_t next_volume;   /*  52 number the next volume gets, at most VOLUME_NUMBERS */
        uint32_t replay_block;  /*  56 position of the log: block within reserved[0] */
        uint32_t meta_segment;  /*  60 META segment that is being filled, 0 none */
        uint32_t meta_block;    /*  64 first unused block of it */
        uint32_t volumes;       /*  68 count of struct manifest_volume, each followed by name and origin path */
        uint32_t snapshots;     /*  72 count of struct manifest_snapshot, each followed by its label */
        uint32_t runs;          /*  76 count of struct manifest_run, each followed by its extents; oldest first */
        uint32_t reserved;      /*  80 count of uint32_t segment numbers */
        uint32_t segments;      /*  84 count of struct manifest_segment, = superblock.segments */
        uint64_t policy;        /*  88 POLICY_* when the store is full */
        uint32_t maps;          /*  96 count of struct manifest_run, each followed by its extents: the free maps of the
                                 *     snapshots in the order of these, then what no snapshot has taken yet */
        uint8_t zero[28];       /* 100 */
};

enum { POLICY_DROP_OLDEST = 0, POLICY_DROP_ALL = 1, POLICY_FAIL_WRITES = 2, POLICY_MAX = 3 };

/* 128 bytes, then name_bytes of name and origin_bytes of path, together padded to 8. */
struct manifest_volume {
        uint8_t uuid[16];      /*  0 */
        uint32_t number;       /* 16 never used again in this store */
        uint32_t tag;          /* 20 epoch of its newest snapshot ever, 0 none */
        uint64_t bytes;        /* 24 size, a multiple of 512 */
        uint32_t flags;        /* 32 VOLUME_* */
        uint16_t name_bytes;   /* 36 */
        uint16_t origin_bytes; /* 38 */
        uint8_t stamp[88];     /* 40 what the origin looked like when it was last let go or checked; see origin.h */
};

enum {                           /* manifest_volume.flags */
       VOLUME_ATTACHED = 1 << 0, /* it is, or was when the store was last open */
       VOLUME_KNOWN = 1 << 0,
};

/* 64 bytes, then label and strikes: the same as set_member. */
#define manifest_snapshot set_member

/* 64 bytes, then count extents of struct run_extent. A run, or a free map. */
struct manifest_run {
        uint64_t number;    /*  0 of both together */
        uint64_t entries;   /*  8 */
        uint64_t first;     /* 16 volblock of its first entry */
        uint64_t last;      /* 24 volblock of its last entry; of a map: the last that was free */
        uint32_t min_epoch; /* 32 of a map: 0 */
        uint32_t max_epoch; /* 36 of a map: 0 */
        uint32_t pages;     /* 40 */
        uint32_t extents;   /* 44 at most RUN_EXTENTS_MAX */
        uint32_t level;     /* 48 how often it was merged; of a map: 0 */
        uint8_t zero[12];   /* 52 */
};

/* 16 bytes. */
struct run_extent {
        uint32_t segment; /*  0 */
        uint32_t block;   /*  4 within the segment */
        uint32_t pages;   /*  8 */
        uint32_t zero;    /* 12 */
};

/* 4 bytes. */
struct manifest_segment {
        uint8_t kind; /* SEGMENT_* */
        uint8_t zero;
        uint16_t live; /* LOG: blocks that entries of runs point to; META: pages of runs and of this manifest */
};

enum { SEGMENT_FREE = 0, SEGMENT_SUPER = 1, SEGMENT_LOG = 2, SEGMENT_META = 3, SEGMENT_MAX = 4 };

/* 24 bytes. Sorted by volblock, then epoch; no two with the same of both. */
struct run_entry {
        uint64_t volblock; /*  0 */
        uint64_t where;    /*  8 block of the store that holds it in the lower 48 bits, ENTRY_* in the upper 16 */
        uint32_t epoch;    /* 16 */
        uint32_t crc;      /* 20 CRC32C of the 4096 bytes, 0 without payload */
};
/* In a free map: so many blocks from volblock on; where has ENTRY_FREE and the number of blocks, epoch and crc are 0.
 * All of one volume, not overlapping. */

#define ENTRY_WHERE(block, flags) ((uint64_t) (flags) << 48 | (uint64_t) (block))
#define ENTRY_WHERE_BLOCK(where) ((where) & ((1ULL << 48) - 1))
#define ENTRY_WHERE_FLAGS(where) ((unsigned) ((where) >> 48))

enum { RUN_PAGE_ENTRIES = 169 };

/* 4096 bytes. All pages of a run but the last are full. */
struct run_page {
        uint32_t magic;                           /*  0 RUN_PAGE_MAGIC or MAP_PAGE_MAGIC */
        uint32_t crc;                             /*  4 CRC32C of the 4096 bytes with this field 0 */
        uint64_t run;                             /*  8 number of the run */
        uint32_t page;                            /* 16 number of this page in it, from 0 */
        uint32_t entries;                         /* 20 1 to RUN_PAGE_ENTRIES */
        uint8_t zero[16];                         /* 24 */
        struct run_entry entry[RUN_PAGE_ENTRIES]; /* 40 */
};

enum { RECORD_BLOCKS_MAX = (BLOCK_SIZE - 96) / 24 }; /* 166 descriptors fit behind the head, in one block */

/* Structs are used as they lie on the disk. A port to a big-endian machine has to convert in the few files that read
 * them. */
_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "the store is little-endian");
_Static_assert(sizeof(struct superblock) == BLOCK_SIZE, "superblock");
_Static_assert(offsetof(struct superblock, manifest_block) == 72 && offsetof(struct superblock, state) == 96,
               "superblock");
_Static_assert(sizeof(struct record_head) == 96, "record head");
_Static_assert(offsetof(struct record_head, generation) == 24 && offsetof(struct record_head, type) == 56,
               "record head");
_Static_assert(sizeof(struct descriptor) == 24 && sizeof(struct set_member) == 64, "members");
_Static_assert(offsetof(struct set_member, label_bytes) == 52 && sizeof(struct strike) == 8, "members");
_Static_assert(sizeof(struct manifest_head) == 128 && sizeof(struct manifest_volume) == 128, "manifest");
_Static_assert(offsetof(struct manifest_head, volumes) == 68 && offsetof(struct manifest_head, policy) == 88,
               "manifest");
_Static_assert(sizeof(struct manifest_run) == 64 && sizeof(struct run_extent) == 16, "runs");
_Static_assert(sizeof(struct manifest_segment) == 4 && sizeof(struct run_entry) == 24, "runs");
_Static_assert(sizeof(struct run_page) <= BLOCK_SIZE && offsetof(struct run_page, entry) == 40, "run page");
_Static_assert(RECORD_BLOCKS_MAX == 166, "record");
