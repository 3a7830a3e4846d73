/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of runs in memory, and walks over them. A run that was read from a manifest has no first keys in memory; a walk
 * finds its first page by halving, and every page that is read on the way leaves its first key behind, so that a start
 * with gigabytes of preserved data reads nothing of the index.
 */
#include "providers/cow/core.h"

int cache_init(Engine *e, uint32_t pages) {
        Cache *c = &e->cache;
        c->engine = e;
        c->n = pages;
        c->n_buckets = pages;
        c->frames = calloc(pages, sizeof(Frame));
        c->buckets = calloc(c->n_buckets, sizeof(*c->buckets));
        c->memory = block_alloc_dirty(pages);
        TAILQ_INIT(&c->starved);
        if (!c->frames || !c->buckets || !c->memory)
                return -ENOMEM;
        for (uint32_t i = 0; i < pages; i++) {
                c->frames[i].cache = c;
                c->frames[i].data = (struct run_page *) (c->memory + (size_t) i * BLOCK_SIZE);
                TAILQ_INIT(&c->frames[i].waiting);
        }
        return 0;
}

void cache_done(Cache *c) {
        free(c->frames);
        free(c->buckets);
        free(c->memory);
        *c = (Cache) {};
}

static uint32_t bucket_of(const Cache *c, uint64_t run, uint32_t page) {
        uint64_t h = (run * 0x9e3779b97f4a7c15ULL) ^ (page * 0xff51afd7ed558ccdULL);
        return (uint32_t) (h >> 32) % c->n_buckets;
}

static Frame *frame_find(Cache *c, uint64_t run, uint32_t page) {
        Frame *f;
        LIST_FOREACH(f, &c->buckets[bucket_of(c, run, page)], hash)
                if (f->run == run && f->page == page)
                        return f;
        return NULL;
}

/* One that may be used for something else, or NULL: all are being read. */
static Frame *frame_take(Cache *c) {
        for (uint32_t i = 0; i < 2 * c->n; i++) {
                Frame *f = &c->frames[c->hand];
                c->hand = (c->hand + 1) % c->n;
                if (f->loading)
                        continue;
                if (f->valid && f->used) {
                        f->used = false;
                        continue;
                }
                if (f->valid)
                        LIST_REMOVE(f, hash);
                f->valid = false;
                return f;
        }
        return NULL;
}

static void scan_advance(Scan *s);

static void scans_resume(ScanList *list, int result) {
        ScanList resumed = TAILQ_HEAD_INITIALIZER(resumed);
        TAILQ_CONCAT(&resumed, list, link);
        Scan *s;
        while ((s = TAILQ_FIRST(&resumed))) {
                TAILQ_REMOVE(&resumed, s, link);
                if (result < 0) {
                        s->set = runset_unref(s->engine, s->set);
                        s->done(s, result);
                } else
                        scan_advance(s);
        }
}

static void frame_loaded(Io *io, int result) {
        Frame *f = io->owner;
        Engine *e = f->cache->engine;

        engine_io_done(e, io);
        f->loading = false;
        if (result >= 0)
                result = run_page_verify(e, f->data, f->magic, f->run, f->page);
        if (result < 0) {
                LIST_REMOVE(f, hash);
                f->valid = false;
        }
        scans_resume(&f->waiting, result);
        scans_resume(&e->cache.starved, 0);
}

/* The page, or NULL: the walk goes on when it has come. */
static Frame *frame_get(Scan *s, const Run *r, uint32_t page) {
        Cache *c = &s->engine->cache;
        Frame *f = frame_find(c, r->number, page);

        if (f && !f->loading) {
                f->used = true;
                return f;
        }
        if (!f)
                f = frame_take(c);
        if (!f) {
                TAILQ_INSERT_TAIL(&c->starved, s, link);
                return NULL;
        }
        TAILQ_INSERT_TAIL(&f->waiting, s, link);
        if (f->loading)
                return NULL;
        f->run = r->number;
        f->page = page;
        f->magic = s->extents ? MAP_PAGE_MAGIC : RUN_PAGE_MAGIC;
        f->valid = f->loading = f->used = true;
        LIST_INSERT_HEAD(&c->buckets[bucket_of(c, f->run, page)], f, hash);
        f->io = (Io) {
                .op = IO_READ,
                .disk = DISK_STORE,
                .offset = run_page_block(s->engine, r, page) * BLOCK_SIZE,
                .length = BLOCK_SIZE,
                .buffer = f->data,
                .done = frame_loaded,
                .owner = f,
        };
        engine_io(s->engine, &f->io);
        return NULL;
}

/* Halves [low, high) until low is the last page whose first key is not greater. False: waits for a page. */
static bool scan_search(Scan *s, Run *r) {
        while (s->high - s->low > 1) {
                uint32_t mid = s->low + (s->high - s->low) / 2;
                Fence *fence = &r->fences[mid];
                if (fence->volblock == FENCE_UNKNOWN) {
                        const Frame *f = frame_get(s, r, mid);
                        if (!f)
                                return false;
                        run_note_page(r, mid, &f->data->entry[0]);
                }
                if (entry_compare(fence->volblock, fence->epoch, s->lo, s->min_epoch) <= 0)
                        s->low = mid;
                else
                        s->high = mid;
        }
        return true;
}

/* True: nothing behind this page can be in the range. */
static bool scan_page(Scan *s, const struct run_page *p) {
        for (uint32_t i = 0; i < p->entries; i++) {
                const struct run_entry *e = &p->entry[i];
                if (e->volblock >= s->hi)
                        return true;
                uint64_t end = e->volblock + (s->extents ? ENTRY_WHERE_BLOCK(e->where) : 1);
                if (end > s->lo && e->epoch >= s->min_epoch)
                        s->entry(s, e);
        }
        return false;
}

/* False: waits for a page. */
static bool scan_run(Scan *s, Run *r) {
        if (!s->begun) {
                s->low = 0;
                s->high = r->pages;
                s->begun = true;
        }
        if (!scan_search(s, r))
                return false;
        for (; s->low < r->pages; s->low++, s->high = s->low + 1) {
                const Fence *fence = &r->fences[s->low];
                if (fence->volblock != FENCE_UNKNOWN && fence->volblock >= s->hi)
                        break;
                const Frame *f = frame_get(s, r, s->low);
                if (!f)
                        return false;
                if (scan_page(s, f->data))
                        break;
        }
        return true;
}

static void scan_advance(Scan *s) {
        for (; s->run < s->set->n; s->run++, s->begun = false) {
                Run *r = s->set->runs[s->run];
                if (r->max_epoch < s->min_epoch || r->last < s->lo || r->first >= s->hi)
                        continue;
                if (!scan_run(s, r))
                        return;
        }
        s->set = runset_unref(s->engine, s->set);
        s->done(s, 0);
}

void scan_start_in(Engine *e, Scan *s, RunSet *set) {
        assert(s->lo < s->hi && s->entry && s->done);
        s->engine = e;
        s->set = runset_ref(set);
        s->run = 0;
        s->begun = false;
        scan_advance(s);
}

void scan_start(Engine *e, Scan *s) {
        scan_start_in(e, s, e->runs);
}
