/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A small valid store, made straight from format.h and not by the engine: two volumes, snapshots, runs of several
 * pages in several pieces, free maps that a snapshot of the manifest has, one of the log, or nobody, and a log with
 * every kind of record. Both sides of the format are then held against something neither of them wrote.
 */
#include "providers/cow/image.h"

enum { MADE_SEGMENTS = 40, MADE_SEGMENT_BLOCKS = 16, MADE_MIDDLE = MADE_SEGMENTS / 2 };

typedef struct Made {
        Source source; /* reads from bytes; shorter when size is made smaller */
        uint8_t *bytes;
        size_t size;
        uint8_t uuid[16];
        uint64_t manifest_block;
        uint32_t manifest_bytes;
        uint64_t run_page[3]; /* blocks: two pages of run 1, one of run 2 */
        uint64_t map_page[4]; /* two of map 3, which is that of snapshot 1; of 4, that of 6 in the log; of 5 */
        uint64_t run_data;    /* a block that run 1 points to */
        uint64_t record[5];   /* blocks of the records in the log */
        uint64_t log_end;     /* block behind them */
} Made;

void made_example(Made *ret);
void made_done(Made *m);
Made *made_copy(const Made *m, Made *ret);
/* What check says about it. */
typedef struct Verdict {
        uint64_t damages, notes;
        unsigned concerned; /* one bit per snapshot, by the last byte of its id */
        char first[320];    /* finding */
} Verdict;

Verdict verdict_of(Made *m);
static inline uint8_t *made_at(const Made *m, uint64_t block) {
        return m->bytes + block * BLOCK_SIZE;
}
/* Where copy n of the superblock is. */
static inline uint64_t made_super(unsigned n) {
        return superblock_block(MADE_SEGMENTS, MADE_SEGMENT_BLOCKS, n);
}
/* Checksums as they must be after something was changed. */
void fix_super(void *block);
void fix_manifest(Made *m); /* and in all superblocks that name it */
void fix_record(struct record_head *h);
void fix_page(struct run_page *p);
