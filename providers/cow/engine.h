/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The copy-on-write engine: volumes whose blocks are kept in the store before they are overwritten for the first time
 * after a snapshot. The core has no thread, no clock and no system call: requests and completions of a Disk come in,
 * I/O goes out, and the same code runs under a simulator that loses power at every step. One thread owns an Engine.
 *
 * Rules of all asynchronous calls: done() comes exactly once, perhaps before the call that started it returns (when
 * there is nothing to wait for). 0 or -errno. Structs belong to the engine until done().
 *
 * -ENOMEDIUM: the store is lost (a write to it failed): volumes go on, snapshots are void. -EUCLEAN: damaged.
 */
#include "providers/cow/disk.h"
#include "providers/cow/format.h"
#include <stdbool.h>
#include <sys/queue.h>

typedef struct Engine Engine;
typedef struct Volume Volume;
typedef struct Request Request;
typedef struct Reply Reply;

typedef struct EngineLimits {
        uint32_t requests;      /* Requests that can be under way at once; the rest waits. Default 256 */
        uint32_t memtable;      /* entries between two checkpoints. Default 32768 */
        uint32_t tail_segments; /* log segments between two checkpoints. Default 8 (64 MiB) */
        uint32_t reserved; /* log segments kept ready; the last is never used before the next checkpoint. Default 24 */
        uint32_t cache_pages;  /* pages of runs kept in memory. Default 2048 (8 MiB) */
        uint32_t low_segments; /* free segments at which the policy begins to act. Default 1/16 of the store */
        uint32_t merge_runs;   /* runs of one level that are merged into one. Default 8 */
        uint32_t record_worth; /* blocks from which on an open record does not wait. Default 64: its head is 1.6 % */
} EngineLimits;

/* What happens without being asked for. Called from inside any entry point; must not call the engine. */
typedef enum EngineEvent {
        ENGINE_STORE_LOST,       /* text: why. Volumes go on */
        ENGINE_SNAPSHOT_DROPPED, /* id; the store was full */
        ENGINE_SNAPSHOT_DAMAGED, /* id; text: what was found */
        ENGINE_GATE_OPENED,      /* a hold ended before its release */
        ENGINE_FLUSH_FAILED,     /* volume; text. Every later flush of it fails too (hazards D8) */
        ENGINE_STORE_LOW,        /* fewer than low_segments are free */
        ENGINE_EVENT_MAX,
} EngineEvent;
typedef void (*EngineEventFn)(void *userdata, EngineEvent event, const uint8_t id[16], const char *text);

/* What a successor after kill -9 is told by the one before. */
typedef struct EngineShared {
        uint64_t
                tail_sequence; /* newest record given to the disk: who has replayed up to it need not look for damage */
        uint64_t lost;         /* not 0: the store is lost, whatever it says itself */
} EngineShared;

typedef struct EngineOptions {
        Disk *disk;
        uint64_t store_bytes;        /* size of disk 0 */
        struct EngineShared *shared; /* memory that outlives this process, or NULL; zeroed once per boot */
        EngineLimits limits;         /* 0: the default */
        EngineEventFn event;         /* may be NULL */
        void *userdata;
} EngineOptions;

struct Reply {
        void (*done)(Reply *r, int result);
        void *owner;
        char message[256]; /* with an error: what is wrong with what; else "" */
};

/*
 * engine_format() writes an empty store of that many segments. engine_open() reads a store, replays its log, raises the
 * generation and is done when the first request may come; nothing has been attached then. A store that is not one, or
 * not whole, is -EUCLEAN with a message, a newer one -EPROTONOSUPPORT. A lost one opens with its volumes and without
 * snapshots (engine_stats says so), so that the volumes can be served. Volumes that were attached have VOLUME_ATTACHED;
 * snapshots of a set that never was complete have SNAPSHOT_PENDING.
 */
int engine_new(const EngineOptions *o, Engine **ret);
void engine_format(Engine *e, const uint8_t uuid[16], uint32_t segments, uint32_t segment_blocks, Reply *r);
void engine_open(Engine *e, Reply *r);
/* The last checkpoint: afterwards the store is STORE_CLEAN and nothing is under way. Only engine_free() may follow. */
void engine_stop(Engine *e, Reply *r);
/* Any time nothing of ours is with the disk; what is not on disk is gone, as with kill -9. */
Engine *engine_free(Engine *e);

/* --- volumes ------------------------------------------------------------------------------------------------------ */

/* struct Volume is the engine's; callers read these. */
typedef struct VolumeInfo {
        uint8_t uuid[16];
        unsigned number; /* in the store; its disk is given in engine_attach() */
        uint64_t bytes;
        uint32_t flags; /* VOLUME_* as on disk */
        bool attached;  /* in this process */
        bool gated;
        uint32_t snapshots;
        char name[VOLUME_NAME_MAX + 1];
        char origin[ORIGIN_PATH_MAX + 1];
        uint8_t stamp[88];
} VolumeInfo;

/* Durable when done. bytes: a multiple of 512, not 0. -EEXIST: the name is taken. -EDQUOT: too many. */
void engine_volume_create(Engine *e, const uint8_t uuid[16], const char *name, const char *origin, uint64_t bytes,
                          Reply *r);
/* -EBUSY: attached, or it has snapshots and force is false. Its snapshots go with it. */
void engine_volume_remove(Engine *e, Volume *v, bool force, Reply *r);
/* Durable when done. disk: where its origin is from now on. Until then requests for it are mistakes. */
void engine_attach(Engine *e, Volume *v, unsigned disk, Reply *r);
/*
 * Waits for what is under way, flushes, and writes stamp down. Requests after the call are mistakes. -EIO: detached,
 * but not everything acknowledged is in the origin.
 */
void engine_detach(Engine *e, Volume *v, const uint8_t stamp[88], Reply *r);
/* What its origin looks like now, while it is attached: kept by the next checkpoint. */
void engine_volume_stamp(Engine *e, Volume *v, const uint8_t stamp[88]);
/* The path of its origin has changed: kept by the next checkpoint. */
void engine_volume_moved(Engine *e, Volume *v, const char *origin);
/* NULL when there is none. Volumes live until engine_volume_remove() is done. */
Volume *engine_volume_by_name(Engine *e, const char *name);
Volume *engine_volume_by_number(Engine *e, unsigned number);
/* The one behind v, the first for NULL; NULL at the end. */
Volume *engine_volume_next(Engine *e, const Volume *v);
void engine_volume_info(const Volume *v, VolumeInfo *ret);
/* What all its snapshots are from now on: adds SNAPSHOT_UNVERIFIED, durable when done. */
void engine_volume_unverified(Engine *e, Volume *v, Reply *r);

/* --- data --------------------------------------------------------------------------------------------------------- */

typedef enum RequestOp {
        REQUEST_READ,
        REQUEST_WRITE,
        REQUEST_FLUSH,   /* everything that was acknowledged is on stable storage */
        REQUEST_ZERO,    /* write zeros; of any length */
        REQUEST_DISCARD, /* advisory: ignored where a snapshot still needs the block; of any length */
        REQUEST_MAX,
} RequestOp;

enum { REQUEST_BYTES_MAX = 128 * 1024 }; /* of one Request: 32 blocks, or 33 when it is not aligned */

/*
 * One request. offset and length are multiples of 512 and inside the volume. buffer: aligned to 4096, at most
 * REQUEST_BYTES_MAX (reads and writes). Overlapping writes that are under way together end in any order, as on a disk.
 */
struct Request {
        /* the caller's */
        RequestOp op;
        bool fua;                /* REQUEST_WRITE and _ZERO: durable when done */
        Volume *volume;          /* attached */
        const uint8_t *snapshot; /* REQUEST_READ: of this snapshot of the volume (16 bytes), or NULL */
        uint64_t offset;         /* bytes */
        uint32_t length;
        void *buffer;
        void (*done)(Request *r, int result);
        void *owner;
        /* the engine's; see core.h */
        void *state;
        STAILQ_ENTRY(Request) link;
};

/* -EIO, or -ENOENT when the snapshot is gone. */
void engine_submit(Engine *e, Request *r);

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

typedef struct SnapshotInfo {
        uint8_t id[16], set[16];
        Volume *volume;
        uint64_t created_usec;
        uint32_t flags; /* SNAPSHOT_* */
        uint32_t epoch;
        bool skips_free; /* it has a free map */
        char label[LABEL_MAX + 1];
} SnapshotInfo;

typedef struct Member {
        uint8_t snapshot[16]; /* new id */
        Volume *volume;       /* held */
        const char *label;
        uint32_t flags;  /* SNAPSHOT_PENDING, _PERSISTENT, _FROZEN */
        bool skips_free; /* take the map of engine_free_map(): what it says is on stable storage by now (hazards A5) */
} Member;

enum {
        FREE_BLOCKS_PER_EXTENT =
                32,                 /* at most one extent for so many blocks: 64 MiB of memory for a TiB (hazards B5) */
        FREE_EXTENTS_MIN = 4096,    /* … but so many always: 32 KiB */
        FREE_EXTENTS_MAX = 1 << 20, /* … and more never: sifting them takes 30 ms, in which all volumes wait */
};

/* How many extents a map of so large a volume may have. */
static inline uint32_t free_extents_max(uint64_t blocks) {
        uint64_t n = blocks / FREE_BLOCKS_PER_EXTENT;
        return n < FREE_EXTENTS_MIN ? FREE_EXTENTS_MIN : n > FREE_EXTENTS_MAX ? FREE_EXTENTS_MAX : (uint32_t) n;
}

typedef struct FreeExtent {
        uint32_t block, count; /* of BLOCK_SIZE bytes */
} FreeExtent;

/*
 * What the file system on the volume has free is not preserved, and reads as zeros in the next snapshot: first track,
 * then ask the file system, then give the map, then let the file system commit what it said (syncfs, or a freeze), then
 * hold and snapshot with skips_free. Blocks that were written since engine_track() are left out of the map, and those
 * an older snapshot still needs. Ascending extents, not overlapping; done when durable. Any failure only means that
 * everything is preserved. -ESTALE: not tracked, or there is a map already. -E2BIG: free space is too scattered.
 * -EOPNOTSUPP: larger than 16 TiB. Tracking and an unused map end with the next snapshot of v, with its detach, and
 * with engine_untrack().
 */
int engine_track(Engine *e, Volume *v);
void engine_free_map(Engine *e, Volume *v, const FreeExtent *x, uint32_t n, Reply *r);
void engine_untrack(Engine *e, Volume *v);
/*
 * Closes the gates of these volumes: new writes wait, those under way end, everything acknowledged is flushed. One hold
 * at a time per volume: -EBUSY. *ret_token (set before done) names it. Any failure opens the gates again.
 */
void engine_hold(Engine *e, Volume *const *volumes, unsigned n, uint64_t *ret_token, Reply *r);
/* Opens them; at once. False: they were not closed any more, so whatever was made since hold() is not good. */
bool engine_release(Engine *e, uint64_t token);
/*
 * One instant: a snapshot of every member, all or none, durable when done. -ESTALE: the hold is over, or does not cover
 * every volume. -EEXIST: an id is taken. -EDQUOT: too many. -ENOSPC. The gates stay closed.
 */
void engine_snapshot(Engine *e, uint64_t token, const uint8_t set[16], uint64_t created_usec, const Member *members,
                     unsigned n, Reply *r);
/* Clears SNAPSHOT_PENDING of everything of the set; durable when done. -ENOENT: there is nothing of it. */
void engine_commit_set(Engine *e, const uint8_t set[16], Reply *r);
/* Removes what of the set is pending (pending_only) or all of it; 0 also when there is nothing. */
void engine_delete_set(Engine *e, const uint8_t set[16], bool pending_only, Reply *r);
/* Durable when done; the space comes back in the background. Readers under way get -ENOENT. -ENOENT: no such. */
void engine_delete(Engine *e, const uint8_t id[16], Reply *r);
/* In order of creation; false at the end, and always when the store is lost. *position starts at 0 and is the engine's;
 * changes of the list may skip. */
bool engine_snapshot_next(Engine *e, unsigned *position, SnapshotInfo *ret);
bool engine_snapshot_info(Engine *e, const uint8_t id[16], SnapshotInfo *ret);

/* --- upkeep ------------------------------------------------------------------------------------------------------- */

typedef struct EngineStats {
        uint8_t uuid[16];
        bool lost;
        uint32_t policy;
        uint32_t segments, segments_free, segment_blocks;
        uint32_t volumes, snapshots, runs;
        uint64_t bytes_total, bytes_used; /* of the store; used: segments that are not free */
        uint64_t entries;                 /* blocks preserved, in memory and in runs */
        uint64_t memory_bytes;            /* held by the engine */
        /* since engine_open() */
        uint64_t preserved_blocks;      /* copied before their first overwrite */
        uint64_t zero_blocks;           /* of these: zeros, kept without payload */
        uint64_t records, record_bytes; /* written to the log */
        uint64_t checkpoints, checkpoint_bytes, merges, merge_bytes;
        uint64_t origin_writes, origin_flushes, store_writes;
        uint64_t replayed_records; /* by engine_open() */
} EngineStats;
void engine_stats(const Engine *e, EngineStats *ret);
void engine_set_policy(Engine *e, uint32_t policy, Reply *r);
/* Merges everything into one run and frees what no snapshot needs; done when there is nothing more to gain. */
void engine_collect(Engine *e, Reply *r);
/* Writes what is in memory down, so that the log behind it is empty. */
void engine_checkpoint(Engine *e, Reply *r);
/* True: only requests and replies that have not come yet can make it do anything; nothing is with the disk. */
bool engine_idle(const Engine *e);
