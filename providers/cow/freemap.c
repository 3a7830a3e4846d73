/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a file system has free at a snapshot need not be preserved when it is overwritten. But "free" is said of one
 * moment by somebody else, and the block may be needed by an older snapshot (hazards A4, A5):
 *
 *   engine_track()      from here on every block that is written is remembered
 *   … the caller asks the file system what is free, and has it commit what it said (hazards A5) …
 *   engine_free_map()   of that, the map keeps what was not written meanwhile and what no older snapshot needs: a block
 *                       whose preserved bit is set, which says just that. It is written to the store like a run
 *   … from then on a write into the map is a strike, kept in memory …
 *   the cut             the record of the snapshot names the map and has the strikes; what is left counts as preserved
 *
 * So a block of a map was either preserved before the snapshot, under an epoch every older one finds first, or is in
 * the map of the one before too; by induction no older snapshot ever looks behind its own map, and each map belongs to
 * one snapshot alone. In the copy such blocks are zeros, whatever lay there.
 */
#include "providers/cow/freemap.h"

enum { MAP_WRITE_PAGES = 16 };

/* --- memory ------------------------------------------------------------------------------------------------------- */

int freemap_new(Engine *e, Volume *v, Run *run, FreeMap **ret) {
        FreeMap *m = calloc(1, sizeof(FreeMap));
        if (!m || runset_new(e, 1, &m->set) < 0) {
                free(m);
                return -ENOMEM;
        }
        m->engine = e;
        m->volume = v;
        m->refs = 1;
        m->run = m->set->runs[0] = run;
        m->set->n = 1;
        LIST_INSERT_HEAD(&e->all_maps, m, all);
        TAILQ_INSERT_TAIL(&e->maps, m, link);
        e->n_maps++;
        m->listed = true;
        *ret = m;
        return 0;
}

static void map_destroy(FreeMap *m) {
        LIST_REMOVE(m, all);
        free(m->extents);
        free(m->strikes);
        free(m->buffer);
        free(m);
}

FreeMap *freemap_unref(FreeMap *m) {
        if (!m || --m->refs > 0)
                return NULL;
        assert(!m->listed);
        (void) runset_unref(m->engine, m->set);
        map_destroy(m);
        return NULL;
}

uint64_t freemaps_memory(const Engine *e) {
        const FreeMap *m;
        uint64_t bytes = 0;
        LIST_FOREACH(m, &e->all_maps, all)
                bytes += sizeof(FreeMap) + (m->taken ? m->n_strikes : STRIKES_MAX) * sizeof(FreeExtent) +
                         m->n * sizeof(FreeExtent);
        return bytes;
}

void freemaps_free(Engine *e) {
        while (!LIST_EMPTY(&e->all_maps)) /* the sets of runs go with all others */
                map_destroy(LIST_FIRST(&e->all_maps));
}

/* Pages of bits are still made from what lies in the store: there is nothing in memory since the start. */
static bool freemap_is_asked(const FreeMap *m, const Volume *v) {
        return v && v->base == m && !v->tag_is_ours;
}

/* The next manifest is without it; its pages are free when that is durable (I4). */
void freemap_forget(FreeMap *m) {
        Engine *e;
        if (!m || !m->listed)
                return;
        e = m->engine;
        TAILQ_REMOVE(&e->maps, m, link);
        e->n_maps--;
        m->listed = false;
        const Volume *v = m->volume;
        m->volume = NULL;
        for (uint32_t i = 0; !e->lost && m->state != FREEMAP_WRITING && i < m->run->n_extents; i++)
                if (m->state == FREEMAP_WRITTEN)
                        meta_give_up(e, &m->run->extents[i]);
                else
                        meta_drop(e, &m->run->extents[i]);
        if (m->state == FREEMAP_NAMED && !freemap_is_asked(m, v)) { /* else its segments could not be used again */
                m->set = runset_unref(e, m->set);
                m->run = NULL;
        }
        (void) freemap_unref(m);
}

static void volume_base(Volume *v, FreeMap *m) {
        if (v->base) {
                free(TAKE_PTR(v->base->extents)); /* only bits are made from them */
                v->base->n = 0;
        }
        (void) freemap_unref(v->base);
        v->base = m;
        if (m)
                m->refs++;
}

/* --- tracking ----------------------------------------------------------------------------------------------------- */

static void written_free(Volume *v) {
        for (uint64_t i = 0; v->written && i < v->n_pages; i++)
                free(v->written[i]);
        free(TAKE_PTR(v->written));
}

void engine_untrack(Engine *e, Volume *v) {
        (void) e;
        written_free(v);
        v->tracking = false;
        if (v->map)
                freemap_forget(v->map);
        v->map = freemap_unref(v->map);
}

int engine_track(Engine *e, Volume *v) {
        if (!v->attached || v->detaching)
                return -ENODEV;
        engine_untrack(e, v);
        if (v->blocks > UINT32_MAX)
                return -EOPNOTSUPP;
        v->written = calloc(v->n_pages, sizeof(uint64_t *));
        if (!v->written)
                return -ENOMEM;
        v->tracking = true;
        return 0;
}

void freemap_volume_done(Volume *v) {
        engine_untrack(v->engine, v);
        volume_base(v, NULL);
}

static void written_note(Volume *v, uint64_t first, uint64_t end) {
        for (uint64_t b = first; b < end; b++) {
                uint64_t **page = &v->written[b / BITS_PER_PAGE];
                if (!*page)
                        *page = calloc(BITS_PER_PAGE / 64, sizeof(uint64_t));
                if (!*page) { /* not known is all written: no map */
                        engine_untrack(v->engine, v);
                        return;
                }
                (*page)[b % BITS_PER_PAGE / 64] |= 1ULL << (b % 64);
        }
}

/* --- strikes ------------------------------------------------------------------------------------------------------ */

/* Index of the first extent that ends behind the block. */
static uint32_t extent_find(const FreeExtent *x, uint32_t n, uint64_t block) {
        uint32_t low = 0, high = n;
        while (low < high) {
                uint32_t mid = low + (high - low) / 2;
                if ((uint64_t) x[mid].block + x[mid].count > block)
                        high = mid;
                else
                        low = mid + 1;
        }
        return low;
}

bool freemap_is_struck(const FreeMap *m, uint64_t block) {
        uint32_t i = extent_find(m->strikes, m->n_strikes, block);
        return i < m->n_strikes && m->strikes[i].block <= block;
}

static void strike_widen(FreeExtent *s, uint64_t first, uint64_t end) {
        uint64_t begin = MIN_OF((uint64_t) s->block, first), last = MAX_OF((uint64_t) s->block + s->count, end);
        *s = (FreeExtent) { (uint32_t) begin, (uint32_t) (last - begin) };
}

/* What the one at i has grown into becomes part of it. */
static void strike_merge(FreeMap *m, uint32_t i) {
        uint32_t k = i + 1;
        uint64_t end = (uint64_t) m->strikes[i].block + m->strikes[i].count;
        while (k < m->n_strikes && m->strikes[k].block <= end) {
                strike_widen(&m->strikes[i], m->strikes[k].block, (uint64_t) m->strikes[k].block + m->strikes[k].count);
                end = (uint64_t) m->strikes[i].block + m->strikes[i].count;
                k++;
        }
        memmove(&m->strikes[i + 1], &m->strikes[k], (m->n_strikes - k) * sizeof(FreeExtent));
        m->n_strikes -= k - i - 1;
}

/* When there is no room for one more the next one is made to reach to here: too much struck is only copied in vain. */
static void strike_add(FreeMap *m, uint64_t first, uint64_t end) {
        uint32_t i = extent_find(m->strikes, m->n_strikes, first ? first - 1 : 0);
        bool touches = i < m->n_strikes && m->strikes[i].block <= end;
        if (!touches && m->n_strikes == STRIKES_MAX) {
                i = MIN_OF(i, m->n_strikes - 1);
                touches = true;
        }
        if (touches) {
                strike_widen(&m->strikes[i], first, end);
                strike_merge(m, i);
                return;
        }
        memmove(&m->strikes[i + 1], &m->strikes[i], (m->n_strikes - i) * sizeof(FreeExtent));
        m->strikes[i] = (FreeExtent) { (uint32_t) first, (uint32_t) (end - first) };
        m->n_strikes++;
}

static void strike(FreeMap *m, uint64_t first, uint64_t end) {
        uint32_t i = extent_find(m->extents, m->n, first);
        if (i < m->n && m->extents[i].block < end)
                strike_add(m, first, end);
}

void freemap_note(Volume *v, uint64_t offset, uint64_t length) {
        uint64_t first = offset / BLOCK_SIZE, end = (offset + length + BLOCK_SIZE - 1) / BLOCK_SIZE;
        if (!ORDER(FREE_STRUCK))
                return;
        if (v->map)
                strike(v->map, first, end);
        else
                written_note(v, first, end);
}

/* --- bits --------------------------------------------------------------------------------------------------------- */

static void bits_range(uint64_t *bits, uint64_t first, uint64_t end, bool value) {
        for (; first < end; first++)
                if (value)
                        bits[first / 64] |= 1ULL << (first % 64);
                else
                        bits[first / 64] &= ~(1ULL << (first % 64));
}

void freemap_bits(const FreeMap *m, uint64_t page, uint64_t first, uint64_t count, uint64_t *bits) {
        uint64_t base = page * BITS_PER_PAGE, from = MAX_OF(first, base),
                 to = MIN_OF(first + count, base + BITS_PER_PAGE);
        if (from >= to)
                return;
        bits_range(bits, from - base, to - base, true);
        for (uint32_t i = extent_find(m->strikes, m->n_strikes, from); i < m->n_strikes && m->strikes[i].block < to;
             i++) {
                uint64_t begin = m->strikes[i].block, end = begin + m->strikes[i].count;
                bits_range(bits, MAX_OF(begin, from) - base, MIN_OF(end, to) - base, false);
        }
}

void freemap_fill(const FreeMap *m, uint64_t page, uint64_t *bits) {
        uint64_t base = page * BITS_PER_PAGE;
        for (uint32_t i = extent_find(m->extents, m->n, base); i < m->n && m->extents[i].block < base + BITS_PER_PAGE;
             i++)
                freemap_bits(m, page, m->extents[i].block, m->extents[i].count, bits);
}

/* What is no longer going to grow. */
static FreeExtent *shrunk(FreeExtent *x, uint32_t n) {
        FreeExtent *smaller = realloc(x, MAX_OF(n, 1u) * sizeof(*x));
        return smaller ?: x;
}

/* --- making one --------------------------------------------------------------------------------------------------- */

typedef struct Sieve { /* what may be in the map, page by page */
        Volume *v;
        bool needed;   /* there are older snapshots */
        uint64_t page; /* of known */
        bool loaded;
        uint64_t known[BITS_PER_PAGE / 64];
} Sieve;

/* Which blocks of this page no snapshot needs. What is not in memory counts as needed. */
static void sieve_load(Sieve *s, uint64_t page) {
        const Volume *v = s->v;
        const BitPage *p = v->pages[page];
        const uint64_t *written = v->written[page];
        if (s->loaded && s->page == page)
                return;
        s->loaded = true;
        s->page = page;
        memset(s->known, s->needed ? 0 : 0xff, sizeof(s->known));
        if (s->needed && p && p->epoch == v->tag && !p->loading)
                memcpy(s->known, p->bits, sizeof(s->known));
        else if (s->needed && v->tag_is_ours && v->base)
                freemap_fill(v->base, page, s->known);
        for (uint32_t i = 0; written && i < BITS_PER_PAGE / 64; i++)
                s->known[i] &= ~written[i];
}

static int extent_add(FreeMap *m, uint32_t max, uint64_t block, uint64_t count) {
        FreeExtent *last = m->n ? &m->extents[m->n - 1] : NULL;
        if (last && (uint64_t) last->block + last->count == block && (uint64_t) last->count + count <= UINT32_MAX) {
                last->count += (uint32_t) count;
                return 0;
        }
        if (m->n == max)
                return -E2BIG;
        if ((m->n & (m->n + 1)) == 0) { /* grows at 0, 1, 3, 7 … */
                FreeExtent *grown = reallocarray(m->extents, 2 * ((size_t) m->n + 1), sizeof(FreeExtent));
                if (!grown)
                        return -ENOMEM;
                m->extents = grown;
        }
        m->extents[m->n++] = (FreeExtent) { (uint32_t) block, (uint32_t) count };
        return 0;
}

static int sieve_page(Sieve *s, FreeMap *m, uint32_t max, uint64_t first, uint64_t end) {
        int r = 0;
        sieve_load(s, first / BITS_PER_PAGE);
        while (r == 0 && first < end) {
                uint64_t bit = first % BITS_PER_PAGE, word = s->known[bit / 64] >> (bit % 64);
                uint64_t n = word == 0 ? 64 - bit % 64 : (uint64_t) __builtin_ctzll(word);
                if (n == 0) { /* so many of them */
                        n = ~word == 0 ? 64 : (uint64_t) __builtin_ctzll(~word);
                        n = MIN_OF(n, MIN_OF(64 - bit % 64, end - first));
                        r = extent_add(m, max, first, n);
                }
                first += n;
        }
        return r;
}

static int map_sift(FreeMap *m, const FreeExtent *x, uint32_t n) {
        Volume *v = m->volume;
        Sieve s = { .v = v, .needed = volume_preserves(v) && ORDER(FREE_RESOLVED) };
        uint32_t max = free_extents_max(v->blocks);
        uint64_t before = 0;
        int r = 0;
        for (uint32_t i = 0; r == 0 && i < n; i++) {
                uint64_t at = x[i].block, end = at + x[i].count;
                if (at < before || end > v->blocks || end == at)
                        return -EINVAL;
                before = end;
                for (uint64_t to; r == 0 && at < end; at = to) {
                        to = MIN_OF(end, (at / BITS_PER_PAGE + 1) * BITS_PER_PAGE);
                        r = sieve_page(&s, m, max, at, to);
                }
        }
        return r;
}

/* --- writing it --------------------------------------------------------------------------------------------------- */

static void map_answer(FreeMap *m, int result) {
        Reply *r = TAKE_PTR(m->reply);
        if (!r)
                return;
        reply_done(r, result, "%s",
                   result == -ECANCELED ? "the map is not wanted any more" :
                   result == -ENOSPC    ? "the store has no room for the map" :
                   result < 0           ? "the map could not be written" :
                                          "");
}

static void map_fail(FreeMap *m, int result) {
        Volume *v = m->volume;
        for (uint32_t i = 0; !m->engine->lost && i < m->run->n_extents; i++)
                meta_give_up(m->engine, &m->run->extents[i]);
        if (v && v->map == m)
                engine_untrack(m->engine, v);
        map_answer(m, result);
        (void) freemap_unref(m);
}

static void map_durable(Waiter *w, int result) {
        FreeMap *m = w->object;
        free(w);
        if (result == 0 && m->listed)
                m->usable = true;
        map_answer(m, result < 0 ? result : m->listed ? 0 : -ECANCELED);
        (void) freemap_unref(m);
}

/* The reference of whoever writes goes to whoever waits for the checkpoint. */
static void map_written(FreeMap *m) {
        Engine *e = m->engine;
        const FreeExtent *first = &m->extents[0], *last = &m->extents[m->n - 1];
        Waiter *w;
        if (waiter_new(e, map_durable, NULL, m, &w) < 0) {
                map_fail(m, -ENOMEM);
                return;
        }
        m->run->entries = m->n;
        m->run->first = VOLBLOCK(m->volume->number, first->block);
        m->run->last = VOLBLOCK(m->volume->number, (uint64_t) last->block + last->count - 1);
        m->run->min_epoch = 0;
        m->state = FREEMAP_WRITTEN;
        free(TAKE_PTR(m->buffer));
        if (!ORDER(FREE_DURABLE_BEFORE_CUT)) {
                m->usable = true;
                map_answer(m, 0);
        }
        checkpoint_want(e, w);
}

static void map_write(FreeMap *m);

static void map_io(Io *io, int result) {
        FreeMap *m = io->owner;
        Engine *e = m->engine;
        engine_io_done(e, io);
        if (result < 0 && !e->lost)
                engine_lose(e, "a free map could not be written: %s", strerror(-result));
        if (e->lost || !m->listed || e->stopping)
                map_fail(m, e->lost ? -ENOMEDIUM : -ECANCELED);
        else if (m->next == m->n)
                map_written(m);
        else
                map_write(m);
        stop_progress(e);
}

static void map_page(FreeMap *m, struct run_page *p, uint32_t page) {
        uint32_t i = 0;
        for (; m->next < m->n && i < RUN_PAGE_ENTRIES; i++, m->next++)
                p->entry[i] = (struct run_entry) {
                        .volblock = VOLBLOCK(m->volume->number, m->extents[m->next].block),
                        .where = ENTRY_WHERE(m->extents[m->next].count, ENTRY_FREE),
                };
        run_note_page(m->run, page, &p->entry[0]);
        run_page_fill(p, MAP_PAGE_MAGIC, m->run->number, page, i);
}

static uint32_t map_keep(const Engine *e) {
        return MAX_OF(segments_meta_reserve(e), e->limits.low_segments);
}

static void map_write(FreeMap *m) {
        Engine *e = m->engine;
        uint32_t left = (m->n - m->next + RUN_PAGE_ENTRIES - 1) / RUN_PAGE_ENTRIES, page = m->run->pages;
        struct run_extent x;
        int r = meta_take(e, &e->map, 1, MIN_OF(left, (uint32_t) MAP_WRITE_PAGES), map_keep(e), &x);
        if (r == 0 && (r = run_add_extent(m->run, &x)) < 0)
                meta_give_up(e, &x);
        if (r < 0) {
                map_fail(m, r);
                return;
        }
        for (uint32_t i = 0; i < x.pages; i++)
                map_page(m, m->buffer + i, page + i);
        e->stats.checkpoint_bytes += (uint64_t) x.pages * BLOCK_SIZE;
        m->io = (Io) {
                .op = IO_WRITE,
                .disk = DISK_STORE,
                .offset = (segment_first_block(e, x.segment) + x.block) * BLOCK_SIZE,
                .length = (uint64_t) x.pages * BLOCK_SIZE,
                .buffer = m->buffer,
                .done = map_io,
                .owner = m,
        };
        engine_io(e, &m->io);
}

/* It never takes what the log or a checkpoint may need. */
static int map_room(Engine *e, uint32_t pages) {
        uint32_t segments = pages / e->segment_blocks + 2;
        size_t manifest = manifest_bytes(e) + segments * sizeof(struct run_extent);
        const FreeMap *m;
        TAILQ_FOREACH(m, &e->maps, link) /* the one in question among them */
                if (!m->taken)
                        manifest += sizeof(struct manifest_run) + STRIKES_MAX * sizeof(struct strike);
        if (e->free_segments < map_keep(e) + segments || manifest > (size_t) e->segment_blocks * BLOCK_SIZE / 2)
                return -ENOSPC;
        return 0;
}

static int map_begin(FreeMap *m, const FreeExtent *x, uint32_t n) {
        Engine *e = m->engine;
        int r = map_sift(m, x, n);
        uint32_t pages = (m->n + RUN_PAGE_ENTRIES - 1) / RUN_PAGE_ENTRIES;
        r = r < 0 ? r : m->n == 0 ? -ENODATA : map_room(e, pages);
        r = r < 0 ? r : run_alloc_fences(m->run, pages);
        m->strikes = calloc(STRIKES_MAX, sizeof(FreeExtent));
        m->buffer = block_alloc(MAP_WRITE_PAGES);
        return r < 0 ? r : m->strikes && m->buffer ? 0 : -ENOMEM;
}

void engine_free_map(Engine *e, Volume *v, const FreeExtent *x, uint32_t n, Reply *reply) {
        FreeMap *m = NULL;
        Run *run = NULL;
        int r = e->lost ? -ENOMEDIUM : !v->tracking || v->map ? -ESTALE : run_new(&run);
        r = r < 0 ? r : freemap_new(e, v, run, &m);
        if (r < 0 && run)
                (void) run_unref(e, run);
        if (m) {
                m->tag = v->tag;
                run->number = e->next_run++;
                v->map = m;
                m->refs++; /* of the volume; the list has the first */
                r = map_begin(m, x, n);
        }
        if (r < 0) {
                engine_untrack(e, v);
                reply_done(reply, r == -ENODATA ? 0 : r, "%s",
                           r == -ENODATA ? "" :
                           r == -EINVAL  ? "the map is out of order or behind the end of the volume" :
                           r == -E2BIG   ? "free space is too scattered for a map" :
                           r == -ENOSPC  ? "the store has no room for the map" :
                                           strerror(-r));
                return;
        }
        written_free(v);
        m->extents = shrunk(m->extents, m->n);
        m->reply = reply;
        m->refs++;
        map_write(m);
}

/* --- for the cut and the checkpoint ------------------------------------------------------------------------------- */

FreeMap *freemap_for_cut(const Volume *v) {
        return v->map && v->map->usable && v->map->tag == v->tag ? v->map : NULL;
}

/* Bits of the new epoch begin with what the map has. Tracking ends here. */
void freemap_cut(Volume *v, FreeMap *m) {
        if (m) {
                assert(m == v->map);
                m->refs++; /* of the copy */
                m->taken = true;
                m->strikes = shrunk(m->strikes, m->n_strikes);
        }
        volume_base(v, m);
        if (m)
                v->map = freemap_unref(v->map);
        engine_untrack(v->engine, v);
}

bool freemaps_take_in(Engine *e) {
        FreeMap *m;
        bool any = false;
        TAILQ_FOREACH(m, &e->maps, link)
                if (m->state == FREEMAP_WRITTEN) {
                        run_settle(e, m->run);
                        m->state = FREEMAP_NAMED;
                        any = true;
                }
        return any;
}

/* --- after a start ------------------------------------------------------------------------------------------------ */

FreeMap *freemap_by_number(Engine *e, uint64_t number) {
        FreeMap *m;
        TAILQ_FOREACH(m, &e->maps, link)
                if (m->run->number == number)
                        return m;
        return NULL;
}

int freemap_give(FreeMap *m, Copy *c, const struct strike *strikes, uint32_t n) {
        if (m->taken)
                return -EUCLEAN;
        m->strikes = calloc(MAX_OF(n, 1u), sizeof(FreeExtent));
        if (!m->strikes)
                return -ENOMEM;
        for (uint32_t i = 0; i < n; i++)
                m->strikes[i] = (FreeExtent) { strikes[i].block, strikes[i].count };
        m->n_strikes = n;
        m->taken = m->linked = true;
        m->refs++;
        c->map = m;
        return 0;
}

/* Maps no snapshot took are of a time that is over. Those of the newest snapshots go on saying what is preserved. */
void freemaps_opened(Engine *e) {
        FreeMap *m, *next;
        Copy *c;
        for (m = TAILQ_FIRST(&e->maps); m; m = next) {
                next = TAILQ_NEXT(m, link);
                if (!m->taken)
                        freemap_forget(m);
        }
        TAILQ_FOREACH(c, &e->copies, link)
                if (c->map && c->epoch == c->volume->epochs[c->volume->n_epochs - 1])
                        volume_base(c->volume, c->map);
}
