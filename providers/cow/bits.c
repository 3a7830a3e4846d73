/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One bit per block: does the store have it as the newest snapshot saw it (I3)? In pages of 32768 bits, each with the
 * epoch it belongs to; a page of an older epoch counts as empty, so a new snapshot resets nothing. Nothing of this is
 * on disk: after a start a page is made from the index when the first write asks for it. Without that, a block would be
 * preserved a second time, with new content.
 */
#include "providers/cow/freemap.h"

static void bits_entry(Scan *s, const struct run_entry *e) {
        BitPage *p = container_of(s, BitPage, scan);
        uint64_t bit = VOLBLOCK_BLOCK(e->volblock) - p->number * BITS_PER_PAGE;
        assert(bit < BITS_PER_PAGE);
        p->bits[bit / 64] |= 1ULL << (bit % 64);
}

static void bits_from_memory(Scan *s, const Memtable *m) {
        if (!m)
                return;
        const struct run_entry *e = memtable_find(m, s->lo, 0);
        for (; e && e->volblock < s->hi; e = memtable_next(m, e))
                if (e->epoch >= s->min_epoch)
                        bits_entry(s, e);
}

static void bits_resume(BitPage *p) {
        OpList resumed = STAILQ_HEAD_INITIALIZER(resumed);
        STAILQ_CONCAT(&resumed, &p->waiting);
        p->loading = false;
        p->volume->loading--;
        Op *op;
        while ((op = STAILQ_FIRST(&resumed))) {
                STAILQ_REMOVE_HEAD(&resumed, link);
                op_resume(op);
        }
        volume_progress(p->volume->engine, p->volume);
}

static void bits_damage_known(Waiter *w, int result) {
        BitPage *p = w->object;
        free(w);
        bits_resume(p);
}

/*
 * Part of the index cannot be read, so nobody knows what was preserved. The copies are given up, and that is made
 * durable before a write goes on: else, if the page could be read again one day, they would look good.
 */
static void bits_damaged(Engine *e, BitPage *p, int result) {
        Waiter *w;
        volume_damaged(e, p->volume,
                       result == -EUCLEAN ? "a page of the index is damaged" : "the index cannot be read");
        if (waiter_new(e, bits_damage_known, NULL, p, &w) < 0) {
                engine_lose(e, "out of memory");
                bits_resume(p);
        } else
                checkpoint_want(e, w);
}

static void bits_loaded(Scan *s, int result);

static void bits_scan(Engine *e, BitPage *p) {
        uint64_t first = p->number * BITS_PER_PAGE;
        Volume *v = p->volume;
        p->scan = (Scan) {
                .lo = VOLBLOCK(v->number, first),
                .hi = VOLBLOCK(v->number, first + BITS_PER_PAGE),
                .min_epoch = v->n_epochs ? v->epochs[v->n_epochs - 1] : v->tag,
                .entry = bits_entry,
                .done = bits_loaded,
        };
        p->index_version = e->index_version;
        scan_start(e, &p->scan);
}

/* --- and what was free -------------------------------------------------------------------------------------------- */

static void bits_free_entry(Scan *s, const struct run_entry *e) {
        BitPage *p = container_of(s, BitPage, scan);
        freemap_bits(p->map, p->number, VOLBLOCK_BLOCK(e->volblock), ENTRY_WHERE_BLOCK(e->where), p->bits);
}

static void bits_free_loaded(Scan *s, int result) {
        BitPage *p = container_of(s, BitPage, scan);
        Engine *e = s->engine;
        p->map = freemap_unref(p->map);
        if (result < 0 && !e->lost)
                bits_damaged(e, p, result);
        else
                bits_scan(e, p);
}

/* After a start: first what the newest snapshot skips, then the index, which may change meanwhile. */
static void bits_load(Engine *e, BitPage *p) {
        uint64_t first = p->number * BITS_PER_PAGE;
        Volume *v = p->volume;
        p->loading = true;
        v->loading++; /* it may not be detached before that has ended, whoever waits for it */
        if (!v->base) {
                bits_scan(e, p);
                return;
        }
        p->map = v->base;
        p->map->refs++;
        p->scan = (Scan) {
                .lo = VOLBLOCK(v->number, first),
                .hi = VOLBLOCK(v->number, first + BITS_PER_PAGE),
                .extents = true,
                .entry = bits_free_entry,
                .done = bits_free_loaded,
        };
        scan_start_in(e, &p->scan, p->map->set);
}

static void bits_loaded(Scan *s, int result) {
        BitPage *p = container_of(s, BitPage, scan);
        Engine *e = s->engine;

        if (result < 0 && !e->lost) {
                bits_damaged(e, p, result);
                return;
        }
        if (p->index_version != e->index_version) { /* what was in memory may have become a run behind our back */
                bits_scan(e, p);
                return;
        }
        bits_from_memory(s, e->active);
        bits_from_memory(s, e->frozen);
        bits_resume(p);
}

static int page_get(Volume *v, uint64_t n, BitPage **ret) {
        assert(n < v->n_pages);
        if (!v->pages[n]) {
                BitPage *p = calloc(1, sizeof(BitPage));
                if (!p)
                        return -ENOMEM;
                p->volume = v;
                p->number = n;
                STAILQ_INIT(&p->waiting);
                v->pages[n] = p;
                v->engine->stats.memory_bytes += sizeof(BitPage);
        }
        *ret = v->pages[n];
        return 0;
}

int bits_test(Engine *e, Volume *v, uint64_t block, Op *op, bool *ret) {
        uint64_t bit = block % BITS_PER_PAGE;
        BitPage *p;
        int r = page_get(v, block / BITS_PER_PAGE, &p);
        if (r < 0)
                return r;
        if (!p->loading && p->epoch < v->tag) {
                p->epoch = v->tag;
                memset(p->bits, 0, sizeof(p->bits));
                if (!v->tag_is_ours && ORDER(BITS_LOADED_BEFORE_USE))
                        bits_load(e, p);
                else if (v->tag_is_ours && v->base)
                        freemap_fill(v->base, p->number, p->bits);
        }
        if (p->loading) {
                if (op)
                        STAILQ_INSERT_TAIL(&p->waiting, op, link);
                return -EAGAIN;
        }
        *ret = p->bits[bit / 64] >> (bit % 64) & 1;
        return 0;
}

void bits_set(Engine *e, Volume *v, uint64_t block, uint32_t epoch) {
        uint64_t bit = block % BITS_PER_PAGE;
        BitPage *p = v->pages[block / BITS_PER_PAGE];
        if (p && p->epoch == epoch)
                p->bits[bit / 64] |= 1ULL << (bit % 64);
}

void bits_free(Volume *v) {
        for (uint64_t i = 0; v->pages && i < v->n_pages; i++)
                free(v->pages[i]);
        free(v->pages);
        v->pages = NULL;
}
