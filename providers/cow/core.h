/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Inside the engine. Invariants, referred to by number where they are kept:
 *
 *   I1  A block of a volume with snapshots is overwritten only after its old content is durable in the store, under an
 *       epoch >= that of the newest snapshot. A record counts as durable only when every record before it is, because
 *       replay ends at the first that is missing.
 *   I2  A snapshot's record is written only after everything acknowledged before it is on stable storage and everything
 *       under way has ended; no write passes the gate in between. From the moment that record is given to the disk,
 *       writes preserve under its epoch, so the snapshot is exact even if the gate has to open before it is durable.
 *   I3  A preserved bit in memory implies a durable entry, and an entry that can be found before the block changes; or
 *       that the block is in the durable free map of the newest snapshot, and no older one needs it (freemap.c).
 *   I4  Space is used again only after a manifest that no longer names it is durable and nobody reads in it.
 *   I5  A deletion takes effect only after its record (or a manifest without the snapshot) is durable.
 *   I6  A request is answered once, and its buffer is not touched after that.
 * From I1 to I3 every snapshot is exact after any crash. The volume has the guarantees of its origin, since writes and
 * flushes are passed on one to one.
 *
 * How a write goes:   op.c ── bits.c: already preserved? ── log.c: preserve it ── origin
 * How a copy is read: copyread.c ── cache.c: what the runs have ── memtable.c: and the newest ── store or origin
 * What is not copied: freemap.c
 * What keeps it small: checkpoint.c (memtable -> run, new manifest), merge.c (runs -> one run, without what is dead)
 */
#include "protocol/base.h"
#include "providers/cow/crc32c.h"
#include "providers/cow/engine.h"
#include "providers/cow/index.h"
#include "providers/cow/order.h"

enum {
        OP_BLOCKS_MAX = REQUEST_BYTES_MAX / BLOCK_SIZE + 1, /* of one request that is not aligned */
        RECORDS_MAX = 8,                                    /* records in memory */
        RECORDS_IN_FLIGHT_MAX = 2, /* with the disk at once: more makes smaller records, and more bytes per block */
        INFLIGHT_BUCKETS = 2048,
        BITS_PER_PAGE = 32768, /* blocks in one page of bits: 128 MiB of the volume */
        SNAPSHOT_BUCKETS = 1024,
        EPOCHS_MAX = 512, /* live snapshots of one volume, as in VSS */
        MERGE_READ_PAGES = 8,
        MERGE_WRITE_PAGES = 16,
        META_RESERVE = 4, /* segments the log never takes: a checkpoint must always be possible */
        LOG_LIST_MAX = 2 * RESERVED_MAX,
};

/* --- segments (segment.c) ----------------------------------------------------------------------------------------- */

typedef struct Segment {
        uint8_t kind;       /* SEGMENT_* */
        bool reserved;      /* in the log's list */
        bool releasing;     /* free in the manifest being written */
        bool uncounted;     /* free, but for a reader: not among the free ones yet */
        uint32_t readers;   /* I4 */
        uint32_t live_runs; /* LOG: entries of runs that point into it; META: pages that the manifest names */
        uint32_t live_mem;  /* LOG: entries in memory or on their way that do; META: pages it will name */
} Segment;

/* A free one, or 0. keep: how many must stay free. */
uint32_t segment_take(Engine *e, uint8_t kind, uint32_t keep);
uint32_t segments_meta_reserve(const Engine *e);
void segment_entry_added(Engine *e, uint64_t where);
void segment_entry_dropped(Engine *e, uint64_t where);
void segment_entry_settled(Engine *e, uint64_t where); /* from memory into a run */
void segment_pin(Engine *e, uint32_t segment);
void segment_unpin(Engine *e, uint32_t segment);
/* What nothing points to: free in the next manifest, and after it for everybody. */
void segments_release_begin(Engine *e);
void segments_release_end(Engine *e);

typedef struct MetaCursor { /* a META segment that is being filled, 0 none, and its first unused block */
        uint32_t segment, block;
} MetaCursor;

/* --- preserved bits (bits.c) -------------------------------------------------------------------------------------- */

typedef struct Op Op;
typedef struct FreeMap FreeMap;
typedef STAILQ_HEAD(OpList, Op) OpList;

typedef struct BitPage {
        uint32_t epoch; /* of the bits; those of an older one count as 0 */
        bool loading;
        FreeMap *map; /* whose blocks are being added */
        Scan scan;
        uint64_t index_version; /* when the walk began */
        OpList waiting;
        Volume *volume;
        uint64_t number;
        uint64_t bits[BITS_PER_PAGE / 64];
} BitPage;

/* 0: ret says whether it is preserved. -EAGAIN: op waits and is resumed. -ENOMEM. */
int bits_test(Engine *e, Volume *v, uint64_t block, Op *op, bool *ret);
void bits_set(Engine *e, Volume *v, uint64_t block, uint32_t epoch);
void bits_free(Volume *v);

/* --- volumes and snapshots ---------------------------------------------------------------------------------------- */

typedef struct Hold Hold;

struct Volume {
        Engine *engine;
        TAILQ_ENTRY(Volume) link;
        uint8_t uuid[16];
        unsigned number, disk;
        uint64_t bytes, blocks;
        uint32_t flags;
        bool attached, detaching, flush_failed;
        char name[VOLUME_NAME_MAX + 1], origin[ORIGIN_PATH_MAX + 1];
        uint8_t stamp[88];

        uint32_t tag;     /* newest epoch it preserves under */
        bool tag_is_ours; /* given in this process: what has no bit was not preserved */
        uint32_t *epochs; /* of its live snapshots, ascending; EPOCHS_MAX */
        uint32_t n_epochs;
        uint32_t cutting; /* records of snapshots on their way: preserve as if they were there (I2) */
        BitPage **pages;
        uint64_t n_pages;
        bool tracking;      /* what is written is remembered, in map or written */
        uint64_t **written; /* a bit a block, by page; until there is a map */
        FreeMap *map;       /* the next snapshot may take it */
        FreeMap *base;      /* of the newest snapshot: these blocks count as preserved too */

        Hold *hold;                /* the gate is closed */
        uint32_t writing;          /* writes past the gate */
        uint32_t loading;          /* pages of bits that are being made */
        uint32_t requests, queued; /* all that is under way, reads of its copies too; and what has no op yet */
        STAILQ_HEAD(, Request) gated;
        Reply *detach_reply;
        Io detach_flush;
        bool detach_flushing;
        uint8_t new_stamp[88];
};

typedef struct Copy { /* one snapshot */
        TAILQ_ENTRY(Copy) link;
        LIST_ENTRY(Copy) hash;
        uint8_t id[16], set[16];
        Volume *volume;
        uint32_t epoch, flags, readers;
        uint64_t created_usec;
        bool dying;    /* its deletion is on the way */
        bool dropping; /* … with the next checkpoint */
        bool dropped;  /* not in the manifest being written */
        bool replayed; /* a replay from there on would not find its record: it may be dropped */
        bool gone;     /* readers keep the memory */
        char *label;
        FreeMap *map;  /* what is zeros in it, or NULL */
        bool map_gone; /* its record names one that is not there */
} Copy;

struct Hold {
        Engine *engine;
        LIST_ENTRY(Hold) link;
        uint64_t token;
        uint32_t n, left;              /* volumes; flushes that have not ended */
        bool flushing, complete, open; /* open: it is over, only its flushes keep the memory */
        int error;
        Reply *reply;
        Volume **volumes;
        Io *flushes;
};

bool volume_preserves(const Volume *v);
/* It cannot be trusted any more; made durable by the next checkpoint. */
void copy_damaged(Engine *e, Copy *c, const char *why);
/* None of its copies can. */
void volume_damaged(Engine *e, Volume *v, const char *why);
void volume_flush_failed(Volume *v, int error);
/* NULL: it was removed. */
Volume *volume_by_volblock(Engine *e, uint64_t volblock);
bool volume_needs(const Volume *v, uint32_t after_epoch, uint32_t epoch); /* a live one in (after, epoch] */
Copy *copy_find(Engine *e, const uint8_t id[16]);
int copy_new(const struct set_member *m, const char *label, size_t label_bytes, Copy **ret);
void copy_free(Copy *c);
void copy_link(Engine *e, Copy *c, Volume *v); /* it exists from here on */
void copy_remove(Engine *e, Copy *c);
void copy_unref_reader(Copy *c);
void hold_progress(Engine *e, Volume *v); /* one write less is under way */
Hold *hold_find(Engine *e, uint64_t token);
void hold_free(Hold *h);
int volume_new(Engine *e, const char *name, size_t name_bytes, const char *origin, size_t origin_bytes, uint64_t bytes,
               Volume **ret);
void volume_free(Volume *v);
void volume_link(Engine *e, Volume *v);
bool volume_name_is_valid(const char *name, size_t n);
/* For the policy when the store is full: they go with the next checkpoint, since the log may have no room (I5). */
bool copies_drop_oldest(Engine *e);
bool copies_drop_all(Engine *e);
bool copies_dropped(Engine *e); /* that checkpoint is durable; true: there were some */
void event_say(Engine *e, EngineEvent event, const uint8_t id[16], const char *format, ...) _printf_(4, 5);

/* --- the log (log.c) ---------------------------------------------------------------------------------------------- */

typedef struct Record Record;
typedef struct Control Control;

typedef enum RecordState {
        RECORD_UNUSED,
        RECORD_OPEN,    /* blocks may be added */
        RECORD_CLOSED,  /* no more of them */
        RECORD_WRITING, /* with the disk */
        RECORD_DONE,    /* durable, but perhaps not all before it */
} RecordState;

struct Record {
        RecordState state;
        Engine *engine;
        TAILQ_ENTRY(Record) link;
        uint64_t sequence;
        uint32_t type, count, body_bytes, payload_blocks, head_blocks;
        uint32_t reading;        /* old blocks that have not come yet */
        bool compact;            /* payload that is not stored has left */
        uint32_t segment, block; /* where it lies */
        uint8_t *buffer;         /* head and body, then payload; RECORD_BLOCKS_MAX + 1 blocks */
        Io write;
        Io reads[RECORD_BLOCKS_MAX];
        uint16_t read_blocks[RECORD_BLOCKS_MAX]; /* of reads[i], which begins with block i */
        uint32_t next[RECORD_BLOCKS_MAX];        /* chain of the in-flight table */
        Control *control;                        /* NULL: RECORD_PRESERVE */
};

/*
 * A record with something else than blocks in it. fill() is called when it has its place in the order, now or later: it
 * writes the body and says count and bytes, or returns an error, and then there is no record. durable() ends it.
 */
struct Control {
        STAILQ_ENTRY(Control) link;
        uint32_t type;
        int (*fill)(Control *c, uint8_t *body, uint32_t max_bytes, uint32_t *ret_count, uint32_t *ret_bytes);
        void (*durable)(Control *c, int result);
        void (*drop)(Control *c); /* frees it; nobody is told */
};

/* Into memory; what it replaces is dropped. */
void index_insert(Engine *e, const struct run_entry *entry);

int log_init(Engine *e);
void log_done(Engine *e);
/*
 * Sees to it that up to n blocks from block on are preserved by a record: reads them and says in *ret_sequence which
 * record to wait for. Returns how many it took; 0: no room now.
 */
uint32_t log_preserve(Engine *e, Volume *v, uint64_t block, uint32_t n, uint64_t *ret_sequence);
/* Sequence of the record that is just preserving the block, or 0. */
uint64_t log_in_flight(const Engine *e, uint64_t volblock);
void log_control(Engine *e, Control *c);
void log_pump(Engine *e);
/* There is no room for what waits, and none to be had: what is not a block is answered with -ENOSPC. */
void log_refuse(Engine *e);
bool log_is_stuck(const Engine *e); /* more checkpoints would change nothing by themselves */
/* The store is lost: nothing waits for records any more. */
void log_abandon(Engine *e);

/* --- requests (op.c, copyread.c) ---------------------------------------------------------------------------------- */

typedef struct CopyBlock {
        uint32_t epoch; /* 0: not found */
        uint32_t crc;
        uint64_t where;
        bool settled; /* its bytes are there, and are the right ones */
        bool read;    /* the origin's bytes are there */
} CopyBlock;

struct Op {
        Engine *engine;
        Request *request;
        Volume *volume;
        STAILQ_ENTRY(Op) link;
        uint64_t cursor;     /* byte the present piece begins at */
        uint32_t piece;      /* its bytes; 0: all of a passed-on request */
        uint64_t block, end; /* the next block to look at, and the end */
        uint64_t wait_sequence;
        bool counted; /* in volume->writing */
        bool awaited; /* in engine->awaited */
        Io io;

        /* reads of copies */
        Copy *copy;
        Scan scan;
        uint64_t index_version, insertions;
        uint64_t first;
        uint32_t n_blocks, reading;
        int error;
        CopyBlock blocks[OP_BLOCKS_MAX];
        Io reads[OP_BLOCKS_MAX];
        uint16_t read_blocks[OP_BLOCKS_MAX]; /* of reads[i], which begins with block i */
        uint8_t *bounce;                     /* OP_BLOCKS_MAX blocks, for requests that are not aligned */
        uint8_t *data;                       /* where whole blocks go: bounce, or the request's buffer */
};

int ops_init(Engine *e);
void ops_done(Engine *e);
void op_resume(Op *op);
void op_finish(Op *op, int result);
/* One request less is under way. */
void volume_progress(Engine *e, Volume *v);
/* Those that wait for a record up to this one, or for room. */
void ops_wake_durable(Engine *e);
void ops_wake_room(Engine *e);
void ops_start_waiting(Engine *e);
void gate_opened(Engine *e, Volume *v);
void copyread_start(Op *op);

/* --- checkpoints and merges --------------------------------------------------------------------------------------- */

typedef struct ManifestRef {
        struct run_extent place;
        uint32_t bytes, crc;
} ManifestRef;

typedef struct Waiter Waiter;
typedef STAILQ_HEAD(WaiterList, Waiter) WaiterList;

/* One at a time; see checkpoint.c for the order of its steps. */
typedef struct Checkpoint {
        bool running, wanted, last;
        WaiterList waiting;      /* for one that has not begun */
        WaiterList served;       /* by the one under way */
        void (*next)(Engine *e); /* when writes is 0 */
        uint32_t writes;         /* with the disk */
        int error;
        Io io[RESERVED_MAX];
        uint32_t refused;              /* bit i: io[i] got no space */
        bool pages_written;            /* of a run; a flush has to cover them */
        Run *run;                      /* what the frozen memtable becomes */
        const struct run_entry *entry; /* the next to be written */
        uint8_t *buffer;               /* pages of the run */
        uint32_t replay_segment, replay_block;
        uint64_t replay_sequence;
        uint32_t first_new;    /* of the log's list: segments taken by this one */
        uint32_t list_n;       /* length of the list in the manifest */
        uint32_t list_dropped; /* at its front, no longer needed */
        RunSet *set;           /* the list of runs to be installed */
        bool takes_merge;
        uint8_t *manifest;
        ManifestRef ref;
        struct superblock *super;
} Checkpoint;

struct Waiter {
        STAILQ_ENTRY(Waiter) link;
        void (*done)(Waiter *w, int result); /* frees it */
        Engine *engine;
        void *owner;
        void *object;
};

int checkpoint_init(Engine *e);
void checkpoint_done(Engine *e);
void checkpoint_abandon(Engine *e);
/* One that begins after this call; w may be NULL. */
void checkpoint_want(Engine *e, Waiter *w);
void checkpoint_maybe(Engine *e); /* when it is time for one */
/* Reply when the next checkpoint is durable. */
void checkpoint_reply(Engine *e, Reply *r);
/* Block of the store where a copy of the superblock lies. */
uint64_t superblock_place(uint32_t segments, uint32_t segment_blocks, unsigned copy);
void superblock_fill(const Engine *e, struct superblock *s, uint64_t number, uint32_t state, const ManifestRef *m);
/* The manifest as the checkpoint under way will leave everything (manifest.c). */
uint32_t manifest_size(const Engine *e);
size_t manifest_bytes(const Engine *e); /* and as everything is now */
void manifest_write(const Engine *e, uint8_t *buffer, uint32_t bytes);
/* Fills an engine that knows its size with what the manifest says; of a lost store the volumes only. */
int manifest_load(Engine *e, const uint8_t *manifest);
void run_note_entry(Run *r, const struct run_entry *e);

/* Frees space when it runs out, as the policy says. */
void space_check(Engine *e);

typedef struct Merge Merge;
void merge_maybe(Engine *e);
bool merge_ready(const Engine *e);               /* its run is written: the next checkpoint takes it in */
bool merge_takes(const Engine *e, const Run *r); /* true: it becomes part of the new one */
Run *merge_output(const Engine *e);              /* NULL: nothing was left */
void merge_settle(Engine *e);                    /* the manifest counts as if it were installed */
void merge_installed(Engine *e);
void merge_free(Engine *e);
void merge_abandon(Engine *e);
/* True: the entry is of no use to any snapshot. previous: the epoch of the entry before it of the same block, or 0. */
bool entry_is_dead(Engine *e, const struct run_entry *entry, uint32_t previous);
/* Blocks for pages of a run or a manifest, contiguous; at least min. keep: segments that must stay free. -ENOSPC. */
int meta_take(Engine *e, MetaCursor *at, uint32_t min, uint32_t max, uint32_t keep, struct run_extent *ret);
void meta_settle(Engine *e, const struct run_extent *x);  /* the manifest being written names them */
void meta_give_up(Engine *e, const struct run_extent *x); /* it never will */
void meta_drop(Engine *e, const struct run_extent *x);    /* it no longer does */
void run_settle(Engine *e, Run *r);
void run_page_fill(struct run_page *p, uint32_t magic, uint64_t run, uint32_t page, uint32_t entries);

/* --- the engine --------------------------------------------------------------------------------------------------- */

typedef TAILQ_HEAD(RecordList, Record) RecordList;

struct Engine {
        Disk *disk;
        EngineLimits limits;
        EngineEventFn event;
        void *userdata;
        uint64_t store_bytes;
        EngineShared *shared;

        bool opened, stopping, lost, lost_writing, lost_written;
        bool low_said;
        uint8_t uuid[16];
        uint32_t n_segments, segment_blocks;
        Segment *segments;
        uint32_t free_segments, segment_hint;
        uint64_t super_number, generation, next_run;
        uint32_t epoch, next_volume, super_torn; /* bit i: copy i was not valid at the start, nor written since */
        uint64_t policy;
        ManifestRef manifest; /* the durable one */

        TAILQ_HEAD(VolumeList, Volume) volumes;
        uint32_t n_volumes;
        Volume *last_volume; /* the one asked for by number last */
        TAILQ_HEAD(CopyList, Copy) copies;
        uint32_t n_copies;
        LIST_HEAD(, Copy) copy_hash[SNAPSHOT_BUCKETS];
        LIST_HEAD(, Hold) holds;
        uint64_t next_token;
        TAILQ_HEAD(FreeMapList, FreeMap) maps; /* that manifests name, or will */
        LIST_HEAD(, FreeMap) all_maps;
        uint32_t n_maps;

        /* the log */
        Record *records;
        RecordList queue; /* in order of their sequence */
        Record *open;
        STAILQ_HEAD(, Control) controls; /* that have no record yet */
        uint32_t record_blocks;          /* a record has at most, without its head */
        uint32_t unsettled;              /* entries of records that are not in memory yet */
        uint32_t in_flight;              /* records with the disk */
        uint32_t awaited;                /* overwrites with the disk that had to wait for a record */
        bool log_stalled;                /* the reserved segments are used up; a checkpoint brings new ones */
        bool log_full;                   /* … and nothing could: what needs a record is refused */
        uint64_t next_sequence, durable;
        uint32_t list[LOG_LIST_MAX];            /* segments of the log */
        uint32_t list_n, list_durable, list_at; /* length; what the durable manifest has; where we are */
        uint32_t log_block;
        uint32_t tail_used, log_fruitless; /* segments entered, checkpoints in vain, since one brought room */
        uint32_t inflight[INFLIGHT_BUCKETS];

        /* the index */
        Memtable memtables[2];
        Memtable *active, *frozen; /* frozen: NULL unless a checkpoint writes it */
        uint64_t insertions;       /* into active, ever */
        uint64_t index_version;    /* of the list of runs */
        RunSet *runs;
        LIST_HEAD(, RunSet) runsets;
        Cache cache;
        MetaCursor meta, map; /* where pages go; those of maps live long, and lie by themselves */

        /* requests */
        Op *ops;
        uint8_t *bounces;
        OpList free_ops, waiting_durable, waiting_room;
        STAILQ_HEAD(, Request) waiting;
        uint32_t ops_busy;

        Checkpoint checkpoint;
        Merge *merge;
        bool merge_broken;   /* a page of a run cannot be read: nothing is merged any more */
        bool collect_wanted; /* something died since the last merge of everything */
        WaiterList collectors;

        uint32_t store_io; /* with disk 0 */
        uint32_t disk_io;  /* with any */
        Io lost_io[SUPER_COPIES];
        struct superblock *lost_super;
        uint32_t lost_left;
        Reply *stop_reply;
        struct Opening *opening; /* recover.c's, while it is read */
        EngineStats stats;
};

static inline uint64_t segment_first_block(const Engine *e, uint32_t segment) {
        return (uint64_t) segment * e->segment_blocks;
}

static inline uint8_t *record_body(Record *r) {
        return r->buffer + sizeof(struct record_head);
}

void opening_free(struct Opening *o); /* nobody is told */
/* To the disk, counted. */
void engine_io(Engine *e, Io *io);
/* First thing in every done() of an Io. The store may have been lost before it came back. */
void engine_io_done(Engine *e, const Io *io);
void lost_write(Engine *e); /* says so in every superblock */
/* A write to the store failed. Snapshots are void from here on; the volumes go on once the store says so, if it can. */
void engine_lose(Engine *e, const char *format, ...) _printf_(2, 3);
void stop_progress(Engine *e);
/* Geometry is known: limits that a small store cannot have become smaller. */
int engine_size(Engine *e, uint32_t segments, uint32_t segment_blocks);
void *block_alloc(size_t blocks);       /* aligned to BLOCK_SIZE, zeroed; free() */
void *block_alloc_dirty(size_t blocks); /* not zeroed: touching tens of megabytes once more delays a start */
void reply_done(Reply *r, int result, const char *format, ...) _printf_(3, 4);
void waiters_free(WaiterList *list); /* nobody is told */
void waiters_done(WaiterList *list, int result);
int waiter_new(Engine *e, void (*done)(Waiter *w, int result), void *owner, void *object, Waiter **ret);
