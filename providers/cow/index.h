/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The index inside the engine: which old block lies where. The newest entries are in a memtable, all others in
 * immutable sorted runs in the store, of which some pages are in memory.
 */
#include "protocol/base.h"
#include "providers/cow/engine.h"

enum { MEMTABLE_LEVELS = 12 };

/* --- entries in memory (memtable.c) ------------------------------------------------------------------------------- */

typedef struct MemEntry {
        struct run_entry entry;
        bool written;                   /* went into the run that the frozen memtable becomes */
        uint32_t next[MEMTABLE_LEVELS]; /* index into the arena, 0 is the head */
} MemEntry;

/* A skip list in an arena: found by key, walked in order, and nothing is allocated after the start. */
typedef struct Memtable {
        MemEntry *arena; /* [0] is the head */
        uint32_t capacity, used;
        uint32_t random;
} Memtable;

int memtable_init(Memtable *m, uint32_t capacity);
void memtable_done(Memtable *m);
void memtable_clear(Memtable *m);
static inline bool memtable_full(const Memtable *m) {
        return m->used == m->capacity;
}
/* One with the same key is replaced; its former place is told. */
void memtable_insert(Memtable *m, const struct run_entry *e, uint64_t *ret_replaced_where);
/* The first with key >= (volblock, epoch), or NULL. */
const struct run_entry *memtable_find(const Memtable *m, uint64_t volblock, uint32_t epoch);
void memtable_mark(const struct run_entry *e);
bool memtable_is_marked(const struct run_entry *e);
const struct run_entry *memtable_first(const Memtable *m);
const struct run_entry *memtable_next(const Memtable *m, const struct run_entry *e);

static inline int entry_compare(uint64_t a_volblock, uint32_t a_epoch, uint64_t b_volblock, uint32_t b_epoch) {
        if (a_volblock != b_volblock)
                return a_volblock < b_volblock ? -1 : 1;
        return a_epoch < b_epoch ? -1 : a_epoch > b_epoch;
}
/* --- runs (run.c) ------------------------------------------------------------------------------------------------- */

typedef struct Fence {
        uint64_t volblock; /* FENCE_UNKNOWN: the page was not read yet */
        uint32_t epoch;
} __attribute__((packed)) Fence;

#define FENCE_UNKNOWN UINT64_MAX

typedef struct Run {
        uint64_t number, entries, first, last;
        uint32_t min_epoch, max_epoch, pages, level;
        uint32_t refs;
        uint32_t n_extents;
        struct run_extent *extents;
        Fence *fences; /* first key of each page */
        bool pinned;   /* its segments are */
} Run;

/* The list of runs at one moment, oldest first. Replaced as a whole; a reader keeps the one it began with. */
typedef struct RunSet {
        LIST_ENTRY(RunSet) link; /* of all that anybody has */
        uint32_t refs, n;
        Run *runs[];
} RunSet;

int run_new(Run **ret);
Run *run_unref(Engine *e, Run *r);
int run_add_extent(Run *r, const struct run_extent *x);
/* For a run of at most that many pages. */
int run_alloc_fences(Run *r, uint32_t pages);
void run_note_page(Run *r, uint32_t page, const struct run_entry *first);
void run_pin(Engine *e, Run *r);
/* Block of the store where the page lies. */
uint64_t run_page_block(const Engine *e, const Run *r, uint32_t page);
/* As parse.h has it, and every entry points into the store. 0 or -EUCLEAN. */
int run_page_verify(const Engine *e, const struct run_page *p, uint32_t magic, uint64_t run, uint32_t page);
int runset_new(Engine *e, uint32_t n, RunSet **ret);
RunSet *runset_ref(RunSet *s);
RunSet *runset_unref(Engine *e, RunSet *s);

/* --- pages of runs in memory, and walks over them (cache.c) --------------------------------------------------------
 */

typedef struct Scan Scan;
typedef struct Frame Frame;
typedef struct Cache Cache;

/* Visits, run by run, every entry with lo <= volblock < hi and epoch >= min_epoch. */
struct Scan {
        uint64_t lo, hi;
        uint32_t min_epoch;
        void (*entry)(Scan *s, const struct run_entry *e);
        void (*done)(Scan *s, int result);
        void *owner;
        bool extents; /* of a free map: visits what overlaps [lo, hi) */
        /* cache.c's */
        Engine *engine;
        RunSet *set;
        uint32_t run;       /* of the set */
        uint32_t low, high; /* the page to begin with is >= low, < high; equal to low + 1: found */
        bool begun;         /* with this run */
        TAILQ_ENTRY(Scan) link;
};
typedef TAILQ_HEAD(ScanList, Scan) ScanList;

struct Frame {
        uint64_t run;
        uint32_t page, magic;
        bool valid, loading, used;
        Cache *cache;
        Io io;
        struct run_page *data;
        ScanList waiting;
        LIST_ENTRY(Frame) hash;
};

struct Cache {
        Engine *engine;
        Frame *frames;
        uint8_t *memory;
        uint32_t n, hand;
        LIST_HEAD(, Frame) * buckets;
        uint32_t n_buckets;
        ScanList starved; /* no frame was free */
};

int cache_init(Engine *e, uint32_t pages);
void cache_done(Cache *c);
/* done() may be called before this returns, when everything was in memory. */
void scan_start(Engine *e, Scan *s);
/* Over these runs instead of the index. */
void scan_start_in(Engine *e, Scan *s, RunSet *set);
