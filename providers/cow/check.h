/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Is a store whole? Everything that a store says about itself is held against everything else it says, and nothing is
 * written. Memory: some MiB, 4 bytes a segment, and 32 MiB for each TiB of preserved blocks.
 *
 *   check.c        superblocks, manifest, log; the order of things
 *   check-runs.c   pages of runs and free maps, and the blocks that entries of runs point to
 *   check-say.c    findings, and which snapshots they concern
 *   check-main.c   the command
 */
#include "providers/cow/image.h"

enum {
        CHECK_FINDINGS_MAX = 1000, /* that are kept; all are counted */
        CHECK_BATCH = 65536,       /* blocks that are sorted and read together */
        CHECK_READ_BLOCKS = 256,
};

typedef struct Finding {
        bool damage; /* else only worth knowing */
        const char *structure;
        uint64_t block; /* of the store; UINT64_MAX: none in particular */
        char text[256];
} Finding;

typedef struct CheckSnapshot {
        uint8_t id[16];
        uint32_t volume, epoch, flags;
        uint64_t map;            /* number, 0: none */
        uint64_t record;         /* of the log that made it, 0: the manifest has it */
        const char *map_missing; /* why it cannot have that map */
        bool concerned, gone;
} CheckSnapshot;

typedef struct CheckBlock { /* one that an entry points to */
        uint64_t block, volblock;
        uint32_t epoch, after, crc; /* of the snapshots with after < epoch <= epoch */
} CheckBlock;

typedef struct Check {
        Image image;
        bool without_data, volume_data; /* options */
        Finding *findings;
        size_t n_findings;
        uint64_t damages, notes;
        CheckSnapshot *snapshots;
        size_t n_snapshots;
        uint32_t *live;  /* of LOG segments, as the runs' entries have it */
        uint64_t **used; /* one bit per block of a LOG segment that an entry points to */
        CheckBlock *batch;
        size_t n_batch, batch_size;
        uint8_t *buffer; /* CHECK_READ_BLOCKS */
        bool runs_unreadable, no_memory;
        LogEnd log;
        uint64_t pages, entries, data_blocks, origin_bytes;
} Check;

/* Fills in the rest; the options are the caller's. 0 (whatever was found), or -ENOMEM. check_done() in any case. */
int check_store(Check *c, Source *s);
void check_done(Check *c);

/* For the files of check. */
void check_say(Check *c, bool damage, const char *structure, uint64_t block, const char *format, ...) _printf_(5, 6);
/* Snapshots of one volume with after < epoch <= upto cannot be trusted. */
void check_concerns(Check *c, uint32_t volume, uint32_t after, uint32_t upto);
void check_concerns_range(Check *c, uint64_t first_volblock, uint64_t last_volblock, uint32_t upto);
/* Nor can the one that has this free map; what others read does not depend on it. */
void check_concerns_map(Check *c, uint64_t number);
int check_snapshot_add(Check *c, const struct set_member *m);
CheckSnapshot *check_snapshot_find(Check *c, const uint8_t id[16]);
void check_runs(Check *c);
void check_origins(Check *c);
