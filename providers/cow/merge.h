/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* A merge under way, shared by merge.c and pack.c. */
#include "providers/cow/core.h"

enum { PACK_BLOCKS = 64 };

typedef struct Cursor {
        Merge *merge;
        Run *run;
        struct run_page *buffer;     /* MERGE_READ_PAGES */
        uint32_t next_page;          /* to be read */
        uint32_t pages, page, entry; /* in the buffer; where we are */
        bool reading;
        Io io;
} Cursor;

struct Merge {
        Engine *engine;
        bool full, abandoned, ready;
        uint32_t n, io; /* inputs; I/Os with the disk */
        Cursor *cursors;
        Run *output;
        struct run_page *out;                   /* MERGE_WRITE_PAGES */
        uint32_t out_page, out_entry, out_last; /* out_last: entries of the last closed page */
        uint64_t volblock;                      /* of the last entry */
        uint32_t previous;                      /* its epoch */
        uint16_t *drops;                        /* for each segment: entries that pointed into it and are gone */
        Io writes[MERGE_WRITE_PAGES];

        /* pack.c; victims NULL: nothing is moved */
        bool *victims;   /* segments to be emptied */
        uint16_t *moved; /* for each segment: blocks moved into it */
        uint16_t *moves; /* entries of out that have to move */
        uint32_t n_moves, next_move, chunk;
        uint32_t pack_segment, pack_block; /* where the next goes; 0: none */
        uint8_t *pack_buffer;              /* PACK_BLOCKS */
        Io pack_reads[PACK_BLOCKS];
        bool pack_bad[PACK_BLOCKS];
        Io pack_write;
};

static inline struct run_entry *merge_out_entry(Merge *m, uint32_t i) {
        return &m->out[i / RUN_PAGE_ENTRIES].entry[i % RUN_PAGE_ENTRIES];
}

/* merge.c */
void merge_end(Merge *m);
void merge_write_pages(Merge *m); /* everything that had to move has moved */

/* pack.c */
bool pack_pays(const Engine *e);
int pack_init(Merge *m);
void pack_done(Merge *m);
/* The entry is the newest of out. */
void pack_consider(Merge *m, const struct run_entry *entry);
/* Moves what has to, then merge_write_pages(). */
void pack_begin(Merge *m);
void pack_settle(Merge *m);  /* the manifest counts it */
void pack_give_up(Merge *m); /* it never will */
