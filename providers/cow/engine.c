/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine as a whole: its life, its I/O counted, and what happens when the store fails. A write to the store that
 * failed is never tried again, because the kernel may have thrown away what it could not write. From then on nothing
 * more is preserved: first the store is marked lost in all its superblocks, as far as it still takes writes, and only
 * then the writes that waited go to their volumes. So no copy that misses something can ever be opened as good.
 */
#include "providers/cow/freemap.h"
#include <stdarg.h>
#include <stdio.h>

void *block_alloc_dirty(size_t blocks) {
        void *p = NULL;
        return posix_memalign(&p, BLOCK_SIZE, blocks * BLOCK_SIZE) == 0 ? p : NULL;
}

void *block_alloc(size_t blocks) {
        void *p = block_alloc_dirty(blocks);
        return p ? memset(p, 0, blocks * BLOCK_SIZE) : NULL;
}

void reply_done(Reply *r, int result, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(r->message, sizeof(r->message), format, ap);
        va_end(ap);
        if (result == 0)
                r->message[0] = '\0';
        r->done(r, result);
}

void event_say(Engine *e, EngineEvent event, const uint8_t id[16], const char *format, ...) {
        static const uint8_t none[16];
        char text[256];
        va_list ap;
        if (!e->event)
                return;
        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        e->event(e->userdata, event, id ?: none, text);
}

int waiter_new(Engine *e, void (*done)(Waiter *w, int result), void *owner, void *object, Waiter **ret) {
        Waiter *w = calloc(1, sizeof(Waiter));
        if (!w)
                return -ENOMEM;
        w->engine = e;
        w->done = done;
        w->owner = owner;
        w->object = object;
        *ret = w;
        return 0;
}

void waiters_free(WaiterList *list) {
        Waiter *w;
        while ((w = STAILQ_FIRST(list))) {
                STAILQ_REMOVE_HEAD(list, link);
                free(w);
        }
}

void waiters_done(WaiterList *list, int result) {
        WaiterList taken = STAILQ_HEAD_INITIALIZER(taken);
        Waiter *w;
        STAILQ_CONCAT(&taken, list);
        while ((w = STAILQ_FIRST(&taken))) {
                STAILQ_REMOVE_HEAD(&taken, link);
                w->done(w, result);
        }
}

/* --- I/O ---------------------------------------------------------------------------------------------------------- */

void engine_io(Engine *e, Io *io) {
        e->disk_io++;
        if (io->disk == DISK_STORE) {
                e->store_io++;
                if (io->op == IO_WRITE || io->op == IO_WRITE_DURABLE)
                        e->stats.store_writes++;
        }
        disk_submit(e->disk, io);
}

void engine_io_done(Engine *e, const Io *io) {
        assert(e->disk_io > 0);
        e->disk_io--;
        if (io->disk != DISK_STORE)
                return;
        assert(e->store_io > 0);
        if (--e->store_io == 0 && e->lost)
                lost_write(e);
}

static void lost_settled(Engine *e) {
        e->lost_written = true;
        ops_wake_room(e);
        ops_wake_durable(e);
}

static void lost_super_written(Io *io, int result) {
        Engine *e = io->owner;
        e->disk_io--;
        e->store_io--;
        if (--e->lost_left == 0)
                lost_settled(e);
}

/* Everything else that was with the store has come back: nothing can overtake these. */
void lost_write(Engine *e) {
        if (e->lost_writing)
                return;
        e->lost_writing = true;
        superblock_fill(e, e->lost_super, e->super_number + 2, STORE_LOST, &e->manifest);
        e->lost_left = SUPER_COPIES;
        for (unsigned i = 0; i < SUPER_COPIES; i++) {
                e->lost_io[i] = (Io) {
                        .op = IO_WRITE_DURABLE,
                        .disk = DISK_STORE,
                        .offset = superblock_place(e->n_segments, e->segment_blocks, i) * BLOCK_SIZE,
                        .length = BLOCK_SIZE,
                        .buffer = e->lost_super,
                        .done = lost_super_written,
                        .owner = e,
                };
                engine_io(e, &e->lost_io[i]);
        }
}

void engine_lose(Engine *e, const char *format, ...) {
        char why[200];
        va_list ap;
        if (e->lost)
                return;
        va_start(ap, format);
        (void) vsnprintf(why, sizeof(why), format, ap);
        va_end(ap);
        e->lost = true;
        if (e->shared)
                __atomic_store_n(&e->shared->lost, 1, __ATOMIC_SEQ_CST);
        event_say(e, ENGINE_STORE_LOST, e->uuid, "%s", why);
        log_abandon(e);
        checkpoint_abandon(e);
        merge_abandon(e);
        if (e->store_io == 0)
                lost_write(e);
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static void limits_fill(EngineLimits *l) {
        static const EngineLimits defaults = {
                .requests = 160,
                .memtable = 32768,
                .tail_segments = 8,
                .reserved = 24,
                .cache_pages = 2048,
                .merge_runs = 8,
                .record_worth = 64,
        };
        l->requests = l->requests ?: defaults.requests;
        l->memtable = l->memtable ?: defaults.memtable;
        l->tail_segments = l->tail_segments ?: defaults.tail_segments;
        l->reserved = MIN_OF(l->reserved ?: defaults.reserved, (uint32_t) RESERVED_MAX);
        l->cache_pages = MAX_OF(l->cache_pages ?: defaults.cache_pages, 4u);
        l->merge_runs = MAX_OF(l->merge_runs ?: defaults.merge_runs, 2u);
        l->record_worth = l->record_worth ?: defaults.record_worth;
}

int engine_size(Engine *e, uint32_t segments, uint32_t segment_blocks) {
        EngineLimits *l = &e->limits;
        e->n_segments = segments;
        e->segment_blocks = segment_blocks;
        e->record_blocks = MIN_OF((uint32_t) RECORD_BLOCKS_MAX, segment_blocks - 1);
        l->reserved = MIN_OF(l->reserved, MAX_OF(segments / 4, 3u));
        l->tail_segments = MAX_OF(MIN_OF(l->tail_segments, l->reserved / 2), 1u);
        l->low_segments = MAX_OF(l->low_segments ?: segments / 16, META_RESERVE + 2u);
        e->segments = calloc(segments, sizeof(Segment));
        return e->segments ? 0 : -ENOMEM;
}

static int engine_init(Engine *e) {
        int r = log_init(e);
        r = r < 0 ? r : memtable_init(&e->memtables[0], 2 * e->limits.memtable);
        r = r < 0 ? r : memtable_init(&e->memtables[1], 2 * e->limits.memtable);
        r = r < 0 ? r : cache_init(e, e->limits.cache_pages);
        r = r < 0 ? r : ops_init(e);
        r = r < 0 ? r : checkpoint_init(e);
        r = r < 0 ? r : runset_new(e, 0, &e->runs);
        e->lost_super = block_alloc(1);
        e->active = &e->memtables[0];
        return r < 0 ? r : e->lost_super ? 0 : -ENOMEM;
}

int engine_new(const EngineOptions *o, Engine **ret) {
        Engine *e = calloc(1, sizeof(Engine));
        if (!e)
                return -ENOMEM;
        e->disk = o->disk;
        e->limits = o->limits;
        e->event = o->event;
        e->userdata = o->userdata;
        e->shared = o->shared;
        e->store_bytes = o->store_bytes;
        limits_fill(&e->limits);
        TAILQ_INIT(&e->volumes);
        TAILQ_INIT(&e->copies);
        TAILQ_INIT(&e->maps);
        LIST_INIT(&e->all_maps);
        LIST_INIT(&e->holds);
        STAILQ_INIT(&e->collectors);
        int r = engine_init(e);
        if (r < 0) {
                engine_free(e);
                return r;
        }
        *ret = e;
        return 0;
}

Engine *engine_free(Engine *e) {
        Volume *v;
        Hold *h;
        Copy *c;
        if (!e)
                return NULL;
        ops_done(e);
        opening_free(e->opening);
        while ((h = LIST_FIRST(&e->holds))) {
                LIST_REMOVE(h, link);
                hold_free(h);
        }
        log_done(e); /* sets on their way have maps, and these know their volume */
        while ((c = TAILQ_FIRST(&e->copies))) {
                TAILQ_REMOVE(&e->copies, c, link);
                copy_free(c);
        }
        while ((v = TAILQ_FIRST(&e->volumes))) {
                TAILQ_REMOVE(&e->volumes, v, link);
                volume_free(v);
        }
        waiters_free(&e->collectors);
        merge_free(e);
        checkpoint_done(e);
        cache_done(&e->cache);
        freemaps_free(e);
        memtable_done(&e->memtables[0]);
        memtable_done(&e->memtables[1]);
        while (!LIST_EMPTY(&e->runsets)) { /* whoever was walking over one is gone too */
                LIST_FIRST(&e->runsets)->refs = 1;
                (void) runset_unref(e, LIST_FIRST(&e->runsets));
        }
        free(e->segments);
        free(e->lost_super);
        free(e);
        return NULL;
}

bool engine_idle(const Engine *e) {
        return e->disk_io == 0 && !e->checkpoint.running;
}

/* Nothing may be with the disk any more when the caller hears of it. */
void stop_progress(Engine *e) {
        if (e->stop_reply && e->disk_io == 0 && !e->checkpoint.running)
                reply_done(TAKE_PTR(e->stop_reply), 0, "%s", "");
}

static void stop_durable(Waiter *w, int result) {
        Engine *e = w->engine;
        Reply *r = w->owner;
        free(w);
        if (result < 0) {
                reply_done(r, result, "the last checkpoint failed");
                return;
        }
        e->stop_reply = r;
        stop_progress(e);
}

void engine_stop(Engine *e, Reply *r) {
        Waiter *w;
        if (e->lost) {
                reply_done(r, -ENOMEDIUM, "the store is lost");
                return;
        }
        e->stopping = true;
        merge_abandon(e);
        if (waiter_new(e, stop_durable, r, NULL, &w) < 0)
                reply_done(r, -ENOMEM, "out of memory");
        else
                checkpoint_want(e, w);
}

void index_insert(Engine *e, const struct run_entry *entry) {
        uint64_t replaced;
        memtable_insert(e->active, entry, &replaced);
        if (replaced)
                segment_entry_dropped(e, replaced);
        e->insertions++;
        e->stats.entries++;
}

void engine_stats(const Engine *e, EngineStats *ret) {
        *ret = e->stats;
        memcpy(ret->uuid, e->uuid, 16);
        ret->lost = e->lost;
        ret->policy = (uint32_t) e->policy;
        ret->segments = e->n_segments;
        ret->segments_free = e->free_segments;
        ret->segment_blocks = e->segment_blocks;
        ret->volumes = e->n_volumes;
        ret->snapshots = e->n_copies;
        ret->runs = e->runs->n;
        ret->bytes_total = (uint64_t) e->n_segments * e->segment_blocks * BLOCK_SIZE;
        ret->bytes_used = (uint64_t) (e->n_segments - e->free_segments) * e->segment_blocks * BLOCK_SIZE;
        ret->entries = e->active->used - 1 + (e->frozen ? e->frozen->used - 1 : 0);
        for (uint32_t i = 0; i < e->runs->n; i++) {
                ret->entries += e->runs->runs[i]->entries;
                ret->memory_bytes += e->runs->runs[i]->pages * sizeof(Fence);
        }
        ret->memory_bytes += freemaps_memory(e) + sizeof(Engine) + e->n_segments * sizeof(Segment) +
                             2ULL * e->active->capacity * sizeof(MemEntry) +
                             (uint64_t) e->cache.n * (BLOCK_SIZE + sizeof(Frame)) +
                             (uint64_t) e->limits.requests * (sizeof(Op) + OP_BLOCKS_MAX * BLOCK_SIZE) +
                             RECORDS_MAX * (sizeof(Record) + (RECORD_BLOCKS_MAX + 1) * BLOCK_SIZE);
}
