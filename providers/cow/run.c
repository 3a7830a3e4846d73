/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs: the immutable part of the index. In memory a run is its place and the first key of each page, 12 bytes for 169
 * entries. The list of runs is replaced as a whole; whoever walks over the old list keeps it, and with it the segments
 * its runs lie in (I4).
 */
#include "providers/cow/core.h"
#include "providers/cow/parse.h"

int run_new(Run **ret) {
        Run *r = calloc(1, sizeof(Run));
        if (!r)
                return -ENOMEM;
        r->refs = 1;
        r->min_epoch = UINT32_MAX;
        *ret = r;
        return 0;
}

Run *run_unref(Engine *e, Run *r) {
        if (!r)
                return NULL;
        assert(r->refs > 0);
        if (--r->refs > 0)
                return NULL;
        for (uint32_t i = 0; r->pinned && i < r->n_extents; i++)
                segment_unpin(e, r->extents[i].segment);
        free(r->extents);
        free(r->fences);
        free(r);
        return NULL;
}

int run_alloc_fences(Run *r, uint32_t pages) {
        r->fences = malloc(MAX_OF(pages, 1u) * sizeof(Fence));
        if (!r->fences)
                return -ENOMEM;
        for (uint32_t i = 0; i < pages; i++)
                r->fences[i] = (Fence) { .volblock = FENCE_UNKNOWN };
        return 0;
}

void run_note_page(Run *r, uint32_t page, const struct run_entry *first) {
        r->fences[page] = (Fence) { first->volblock, first->epoch };
}

void run_pin(Engine *e, Run *r) {
        assert(!r->pinned);
        for (uint32_t i = 0; i < r->n_extents; i++)
                segment_pin(e, r->extents[i].segment);
        r->pinned = true;
}

int run_add_extent(Run *r, const struct run_extent *x) {
        struct run_extent *last = r->n_extents ? &r->extents[r->n_extents - 1] : NULL;
        if (last && last->segment == x->segment && last->block + last->pages == x->block) {
                last->pages += x->pages;
                r->pages += x->pages;
                return 0;
        }
        if (r->n_extents == RUN_EXTENTS_MAX)
                return -ENOSPC;
        struct run_extent *grown = reallocarray(r->extents, r->n_extents + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        r->extents = grown;
        grown[r->n_extents++] = *x;
        r->pages += x->pages;
        return 0;
}

uint64_t run_page_block(const Engine *e, const Run *r, uint32_t page) {
        for (uint32_t i = 0; i < r->n_extents; i++) {
                const struct run_extent *x = &r->extents[i];
                if (page < x->pages)
                        return segment_first_block(e, x->segment) + x->block + page;
                page -= x->pages;
        }
        assert(false);
        return 0;
}

void run_settle(Engine *e, Run *r) {
        for (uint32_t i = 0; i < r->n_extents; i++)
                meta_settle(e, &r->extents[i]);
        run_pin(e, r);
}

int runset_new(Engine *e, uint32_t n, RunSet **ret) {
        RunSet *s = calloc(1, sizeof(RunSet) + n * sizeof(Run *));
        if (!s)
                return -ENOMEM;
        s->refs = 1;
        s->n = n;
        LIST_INSERT_HEAD(&e->runsets, s, link);
        *ret = s;
        return 0;
}

RunSet *runset_ref(RunSet *s) {
        s->refs++;
        return s;
}

RunSet *runset_unref(Engine *e, RunSet *s) {
        if (!s)
                return NULL;
        assert(s->refs > 0);
        if (--s->refs > 0)
                return NULL;
        for (uint32_t i = 0; i < s->n; i++)
                if (s->runs[i])
                        s->runs[i] = run_unref(e, s->runs[i]);
        LIST_REMOVE(s, link);
        free(s);
        return NULL;
}

int run_page_verify(const Engine *e, const struct run_page *p, uint32_t magic, uint64_t run, uint32_t page) {
        int r = magic == MAP_PAGE_MAGIC ? map_page_check(p, run, page, NULL, 0) : run_page_check(p, run, page, NULL, 0);
        for (uint32_t i = 0; r == 0 && i < p->entries; i++) {
                uint64_t where = p->entry[i].where, segment = ENTRY_WHERE_BLOCK(where) / e->segment_blocks;
                if (ENTRY_WHERE_FLAGS(where) & ENTRY_NO_PAYLOAD)
                        continue;
                if (segment >=
                    e->n_segments) /* that it is of the log cannot be asked: a walk may still see a run that is gone */
                        r = -EUCLEAN;
        }
        return r;
}
