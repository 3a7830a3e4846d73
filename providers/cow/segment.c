/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which parts of the store are in use. A segment is free again when nothing points into it: no entry of a run or in
 * memory (LOG), no page of a run or of the manifest (META). I4: it is named free in a manifest first, and can be taken
 * only after that manifest is durable and the last reader has left.
 */
#include "providers/cow/core.h"

uint32_t segments_meta_reserve(const Engine *e) {
        uint64_t pages = 0;
        for (uint32_t i = 0; i < e->runs->n; i++)
                pages += e->runs->runs[i]->pages;
        return META_RESERVE + (uint32_t) (2 * pages / e->segment_blocks);
}

uint32_t segment_take(Engine *e, uint8_t kind, uint32_t keep) {
        if (e->free_segments <= keep)
                return 0;
        for (uint32_t i = 0; i < e->n_segments; i++) {
                uint32_t n = (e->segment_hint + i) % e->n_segments;
                Segment *s = &e->segments[n];
                if (s->kind != SEGMENT_FREE || (ORDER(READERS_BEFORE_REUSE) && s->readers > 0))
                        continue;
                assert(s->live_runs == 0 && s->live_mem == 0 && !s->releasing);
                s->kind = kind;
                e->free_segments--;
                e->segment_hint = n + 1;
                return n;
        }
        return 0;
}

static Segment *segment_of(Engine *e, uint64_t where) {
        if (ENTRY_WHERE_FLAGS(where) & ENTRY_NO_PAYLOAD)
                return NULL;
        uint64_t n = ENTRY_WHERE_BLOCK(where) / e->segment_blocks;
        assert(n < e->n_segments);
        return &e->segments[n];
}

void segment_entry_added(Engine *e, uint64_t where) {
        Segment *s = segment_of(e, where);
        if (s)
                s->live_mem++;
}

void segment_entry_dropped(Engine *e, uint64_t where) {
        Segment *s = segment_of(e, where);
        if (!s)
                return;
        assert(s->live_mem > 0);
        s->live_mem--;
}

void segment_entry_settled(Engine *e, uint64_t where) {
        Segment *s = segment_of(e, where);
        if (!s)
                return;
        assert(s->live_mem > 0);
        s->live_mem--;
        s->live_runs++;
}

void segment_pin(Engine *e, uint32_t segment) {
        assert(segment < e->n_segments);
        e->segments[segment].readers++;
}

void segment_unpin(Engine *e, uint32_t segment) {
        Segment *s = &e->segments[segment];
        assert(s->readers > 0);
        if (--s->readers > 0 || !s->uncounted)
                return;
        s->uncounted = false;
        e->free_segments++;
}

void segments_release_begin(Engine *e) {
        for (uint32_t i = 0; i < e->n_segments; i++) {
                Segment *s = &e->segments[i];
                bool log = s->kind == SEGMENT_LOG && !s->reserved,
                     meta = s->kind == SEGMENT_META && i != e->meta.segment && (i != e->map.segment || e->stopping);
                if ((!log && !meta) || s->live_runs > 0 || s->live_mem > 0)
                        continue;
                if (ORDER(SUPERBLOCK_BEFORE_REUSE)) {
                        s->releasing = true;
                } else {
                        s->kind = SEGMENT_FREE;
                        e->free_segments++;
                        e->segment_hint = i; /* and no turn of the others hides it */
                }
        }
}

void segments_release_end(Engine *e) {
        for (uint32_t i = 0; i < e->n_segments; i++) {
                Segment *s = &e->segments[i];
                if (!s->releasing)
                        continue;
                s->releasing = false;
                s->kind = SEGMENT_FREE;
                if (s->readers > 0) /* nobody can have it yet */
                        s->uncounted = true;
                else
                        e->free_segments++;
        }
}

int meta_take(Engine *e, MetaCursor *at, uint32_t min, uint32_t max, uint32_t keep, struct run_extent *ret) {
        uint32_t left = at->segment ? e->segment_blocks - at->block : 0;
        assert(min > 0 && min <= max);
        if (left < min) {
                uint32_t taken = min <= e->segment_blocks ? segment_take(e, SEGMENT_META, keep) : 0;
                if (!taken)
                        return -ENOSPC;
                *at = (MetaCursor) { .segment = taken };
                left = e->segment_blocks;
        }
        *ret = (struct run_extent) { .segment = at->segment, .block = at->block, .pages = MIN_OF(left, max) };
        at->block += ret->pages;
        e->segments[ret->segment].live_mem += ret->pages;
        return 0;
}

void meta_give_up(Engine *e, const struct run_extent *x) {
        Segment *s = &e->segments[x->segment];
        assert(s->kind == SEGMENT_META && s->live_mem >= x->pages);
        s->live_mem -= x->pages;
}

void meta_settle(Engine *e, const struct run_extent *x) {
        meta_give_up(e, x);
        e->segments[x->segment].live_runs += x->pages;
}

void meta_drop(Engine *e, const struct run_extent *x) {
        Segment *s = &e->segments[x->segment];
        assert(s->kind == SEGMENT_META && s->live_runs >= x->pages);
        s->live_runs -= x->pages;
}
