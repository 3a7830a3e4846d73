/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Ways over what has passed parse.h. Nothing here checks anything, and nothing can fail, except manifest_cross_check(),
 * which is the part of manifest_check() that needs memory: as much as the lists that are really there.
 */
#include "protocol/base.h"
#include "providers/cow/format.h"

typedef struct ManifestView {
        const struct manifest_head *head;
        const struct manifest_volume *volumes; /* the first; the next is volume_after() */
        const struct manifest_snapshot *snapshots;
        const struct manifest_run *runs, *maps;
        const uint32_t *reserved;
        const struct manifest_segment *table;
} ManifestView;

static inline size_t pad8(size_t n) {
        return (n + 7) / 8 * 8;
}

static inline const struct manifest_volume *volume_after(const struct manifest_volume *m) {
        return (const void *) ((const uint8_t *) (m + 1) + pad8((size_t) m->name_bytes + m->origin_bytes));
}

static inline const char *volume_name(const struct manifest_volume *m) { /* name_bytes, no NUL; then the origin */
        return (const char *) (m + 1);
}

/* In manifest and log. */
static inline const struct strike *member_strikes(const struct set_member *m) {
        return (const void *) ((const uint8_t *) (m + 1) + pad8(m->label_bytes));
}

static inline const struct set_member *member_after(const struct set_member *m) {
        return (const void *) (member_strikes(m) + m->strikes);
}

static inline const struct run_extent *run_extents(const struct manifest_run *m) {
        return (const struct run_extent *) (m + 1);
}

static inline const struct manifest_run *run_after(const struct manifest_run *m) {
        return (const void *) (run_extents(m) + m->extents);
}

static inline uint32_t pages_of(uint32_t bytes) {
        return (uint32_t) (((uint64_t) bytes + BLOCK_SIZE - 1) / BLOCK_SIZE);
}

/* Blocks of head and body; the payload is behind them. */
static inline uint32_t record_head_blocks(const struct record_head *h) {
        return (uint32_t) ((sizeof(*h) + (uint64_t) h->body_bytes + BLOCK_SIZE - 1) / BLOCK_SIZE);
}

static inline uint32_t record_blocks(const struct record_head *h) {
        return record_head_blocks(h) + h->payload_blocks;
}

/* Where copy 0 to 3 of the superblock lies. */
static inline uint64_t superblock_block(uint32_t segments, uint32_t segment_blocks, unsigned copy) {
        return copy < 2  ? copy :
               copy == 2 ? (uint64_t) (segments / 2) * segment_blocks :
                           (uint64_t) (segments - 1) * segment_blocks;
}

/* The copy that counts, or -1. */
static inline int superblock_pick(const struct superblock copies[SUPER_COPIES], const bool valid[SUPER_COPIES]) {
        int best = -1;
        for (int i = 0; i < SUPER_COPIES; i++)
                if (valid[i] && (best < 0 || copies[i].number > copies[best].number))
                        best = i;
        return best;
}

void manifest_view(const void *manifest, ManifestView *ret);
/* NULL: none. */
const struct manifest_volume *manifest_volume_by_number(const ManifestView *v, uint32_t number);
/* No two of anything where there must be one, nothing points to what is not there. 0, -EUCLEAN or -ENOMEM. */
int manifest_cross_check(const ManifestView *v, const struct superblock *super, char *why, size_t why_size);
