/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Merging runs, in the background: several of one level become one of the next, so that a read looks at few; and after
 * deletions all of them become one, without the entries no snapshot needs, which is what gives their segments back. One
 * merge at a time, a few pages at a time; between two of its I/Os it handles at most some thousand entries. What it
 * wrote counts only when a checkpoint takes it in.
 *
 * An entry (block, t) is needed by the snapshots s with previous < s <= t, where previous is the epoch of the entry
 * before it of the same block. An entry that is not among the inputs makes previous too small, which keeps too much and
 * never too little.
 */
#include "providers/cow/merge.h"

bool entry_is_dead(Engine *e, const struct run_entry *entry, uint32_t previous) {
        const Volume *v = volume_by_volblock(e, entry->volblock);
        return !v || !volume_needs(v, previous, entry->epoch);
}

bool merge_ready(const Engine *e) {
        return e->merge && e->merge->ready && !e->merge->abandoned;
}

bool merge_takes(const Engine *e, const Run *r) {
        for (uint32_t i = 0; i < e->merge->n; i++)
                if (e->merge->cursors[i].run == r)
                        return true;
        return false;
}

Run *merge_output(const Engine *e) {
        return e->merge->output;
}

static void merge_destroy(Engine *e, Merge *m) {
        for (uint32_t i = 0; m->cursors && i < m->n; i++) {
                if (m->cursors[i].run)
                        (void) run_unref(e, m->cursors[i].run);
                free(m->cursors[i].buffer);
        }
        (void) run_unref(e, m->output);
        pack_done(m);
        free(m->cursors);
        free(m->out);
        free(m->drops);
        free(m);
}

void merge_free(Engine *e) {
        if (e->merge)
                merge_destroy(e, TAKE_PTR(e->merge));
}

/* It ends when its I/O has come back. */
void merge_end(Merge *m) {
        Engine *e = m->engine;
        if (m->io > 0)
                return;
        for (uint32_t i = 0; m->output && !e->lost && i < m->output->n_extents; i++)
                meta_give_up(e, &m->output->extents[i]);
        if (!e->lost)
                pack_give_up(m);
        e->collect_wanted = e->collect_wanted || m->full;
        merge_free(e);
        if (e->lost || e->merge_broken)
                waiters_done(&e->collectors, e->lost ? -ENOMEDIUM : -EUCLEAN);
        stop_progress(e);
}

void merge_abandon(Engine *e) {
        if (e->lost)
                waiters_done(&e->collectors, -ENOMEDIUM);
        if (!e->merge)
                return;
        if (e->merge->ready && e->checkpoint.running && e->checkpoint.takes_merge)
                return; /* the checkpoint has it */
        e->merge->abandoned = true;
        merge_end(e->merge);
}

static void merge_fail(Merge *m, int error) {
        m->abandoned = true;
        if (error == -EUCLEAN || error == -EIO) /* whoever reads that page will say so; merging it is not possible */
                m->engine->merge_broken = true;
        waiters_done(&m->engine->collectors, error);
        merge_end(m);
}

/* --- input -------------------------------------------------------------------------------------------------------- */

static void merge_advance(Merge *m);

static int cursor_check(const Cursor *c, uint32_t first) {
        for (uint32_t i = 0; i < c->pages; i++) {
                int r = run_page_verify(c->merge->engine, &c->buffer[i], RUN_PAGE_MAGIC, c->run->number, first + i);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void cursor_read(Io *io, int result) {
        Cursor *c = io->owner;
        Merge *m = c->merge;

        engine_io_done(m->engine, io);
        m->io--;
        c->reading = false;
        if (m->abandoned) {
                merge_end(m);
                return;
        }
        if (result >= 0)
                result = cursor_check(c, c->next_page - c->pages);
        if (result < 0)
                merge_fail(m, result);
        else
                merge_advance(m);
}

/* As many pages as lie behind one another, up to what the buffer takes. */
static void cursor_fill(Cursor *c) {
        Engine *e = c->merge->engine;
        uint64_t block = run_page_block(e, c->run, c->next_page);
        uint32_t n = 1, left = c->run->pages - c->next_page;
        while (n < MIN_OF(left, (uint32_t) MERGE_READ_PAGES) &&
               run_page_block(e, c->run, c->next_page + n) == block + n)
                n++;
        c->pages = n;
        c->page = c->entry = 0;
        c->next_page += n;
        c->reading = true;
        c->merge->io++;
        c->io = (Io) {
                .op = IO_READ,
                .disk = DISK_STORE,
                .offset = block * BLOCK_SIZE,
                .length = (size_t) n * BLOCK_SIZE,
                .buffer = c->buffer,
                .done = cursor_read,
                .owner = c,
        };
        engine_io(e, &c->io);
}

static const struct run_entry *cursor_entry(const Cursor *c) {
        return c->page < c->pages && !c->reading ? &c->buffer[c->page].entry[c->entry] : NULL;
}

static void cursor_step(Cursor *c) {
        if (++c->entry == c->buffer[c->page].entries) {
                c->page++;
                c->entry = 0;
        }
}

/* False: something has to be read first. */
static bool cursors_filled(Merge *m) {
        bool filled = true;
        for (uint32_t i = 0; i < m->n; i++) {
                Cursor *c = &m->cursors[i];
                if (!c->reading && c->page == c->pages && c->next_page < c->run->pages)
                        cursor_fill(c);
                filled = filled && !c->reading;
        }
        return filled;
}

/* --- output ------------------------------------------------------------------------------------------------------- */

static void merge_written(Io *io, int result) {
        Merge *m = io->owner;
        Engine *e = m->engine;

        engine_io_done(e, io);
        m->io--;
        if (result < 0 && !e->lost)
                engine_lose(e, "a merge could not be written: %s", strerror(-result));
        else if (m->abandoned)
                merge_end(m);
        else if (m->io == 0)
                merge_advance(m);
}

static int write_pages(Merge *m) {
        Engine *e = m->engine;
        uint32_t done = 0, first = m->output->pages;
        for (uint32_t i = 0; i < m->out_page; i++)
                run_page_fill(&m->out[i], RUN_PAGE_MAGIC, m->output->number, first + i,
                              i + 1 == m->out_page ? m->out_last : RUN_PAGE_ENTRIES);
        for (unsigned slot = 0; done < m->out_page; slot++) {
                struct run_extent x;
                int r = meta_take(e, &e->meta, 1, m->out_page - done, 0, &x);
                if (r < 0)
                        return r;
                r = run_add_extent(m->output, &x);
                if (r < 0) {
                        meta_give_up(e, &x);
                        return r;
                }
                m->io++;
                m->writes[slot] = (Io) {
                        .op = IO_WRITE,
                        .disk = DISK_STORE,
                        .offset = (segment_first_block(e, x.segment) + x.block) * BLOCK_SIZE,
                        .length = (size_t) x.pages * BLOCK_SIZE,
                        .buffer = m->out + done,
                        .done = merge_written,
                        .owner = m,
                };
                engine_io(e, &m->writes[slot]);
                done += x.pages;
        }
        assert(m->output->pages == first + done);
        e->stats.merge_bytes += (uint64_t) done * BLOCK_SIZE;
        m->out_page = 0;
        return 0;
}

void merge_write_pages(Merge *m) {
        int r = write_pages(m);
        if (r < 0)
                merge_fail(m, r);
}

static void page_close(Merge *m) {
        run_note_page(m->output, m->output->pages + m->out_page, &m->out[m->out_page].entry[0]);
        m->out_last = m->out_entry;
        m->out_page++;
        m->out_entry = 0;
}

static void merge_keep(Merge *m, const struct run_entry *entry) {
        m->out[m->out_page].entry[m->out_entry++] = *entry;
        run_note_entry(m->output, entry);
        pack_consider(m, entry);
        if (m->out_entry == RUN_PAGE_ENTRIES)
                page_close(m);
}

static void merge_drop(Merge *m, const struct run_entry *entry) {
        if (!(ENTRY_WHERE_FLAGS(entry->where) & ENTRY_NO_PAYLOAD))
                m->drops[ENTRY_WHERE_BLOCK(entry->where) / m->engine->segment_blocks]++;
}

/* --- merging ------------------------------------------------------------------------------------------------------ */

/* The cursor with the smallest entry; of equal ones the newest run's, the others' are dropped. */
static Cursor *merge_smallest(Merge *m) {
        Cursor *best = NULL;
        for (uint32_t i = 0; i < m->n; i++) {
                Cursor *c = &m->cursors[i];
                const struct run_entry *entry = cursor_entry(c), *least = best ? cursor_entry(best) : NULL;
                if (!entry)
                        continue;
                int order = least ? entry_compare(entry->volblock, entry->epoch, least->volblock, least->epoch) : -1;
                if (order == 0) {
                        merge_drop(m, least);
                        cursor_step(best);
                }
                if (order <= 0)
                        best = c;
        }
        return best;
}

static void merge_entry(Merge *m, const struct run_entry *entry) {
        if (entry->volblock != m->volblock)
                m->previous = 0;
        if (entry_is_dead(m->engine, entry, m->previous))
                merge_drop(m, entry);
        else
                merge_keep(m, entry);
        m->volblock = entry->volblock;
        m->previous = entry->epoch;
}

/* Everything is read; what is left in the buffer is written, and then a checkpoint takes it in. */
static void merge_finish(Merge *m) {
        Engine *e = m->engine;
        if (m->out_entry > 0)
                page_close(m);
        if (m->out_page > 0) {
                pack_begin(m);
                return;
        }
        if (m->output->entries == 0)
                m->output = run_unref(e, m->output);
        m->ready = true;
        e->stats.merges++;
        checkpoint_want(e, NULL);
}

static void merge_advance(Merge *m) {
        for (;;) {
                if (m->io > 0 || !cursors_filled(m))
                        return;
                if (m->out_page == MERGE_WRITE_PAGES) {
                        pack_begin(m);
                        return;
                }
                Cursor *c = merge_smallest(m);
                if (!c) {
                        merge_finish(m);
                        return;
                }
                merge_entry(m, cursor_entry(c));
                cursor_step(c);
        }
}

/* --- beginning and end -------------------------------------------------------------------------------------------- */

static int merge_new(Engine *e, uint32_t first, uint32_t n, Merge **ret) {
        Merge *m = calloc(1, sizeof(Merge));
        uint32_t level = 0, pages = 1;
        if (!m)
                return -ENOMEM;
        m->engine = e;
        m->n = n;
        m->full = n == e->runs->n;
        m->cursors = calloc(n, sizeof(Cursor));
        m->drops = calloc(e->n_segments, sizeof(uint16_t));
        m->out = block_alloc(MERGE_WRITE_PAGES + 1);
        int r = m->cursors && m->drops && m->out ? run_new(&m->output) : -ENOMEM;
        for (uint32_t i = 0; r == 0 && i < n; i++) {
                Cursor *c = &m->cursors[i];
                c->merge = m;
                c->run = e->runs->runs[first + i];
                c->run->refs++;
                level = MAX_OF(level, c->run->level);
                pages += c->run->pages;
                c->buffer = block_alloc(MERGE_READ_PAGES);
                if (!c->buffer)
                        r = -ENOMEM;
        }
        r = r < 0 ? r : run_alloc_fences(m->output, pages);
        if (r < 0) {
                merge_destroy(e, m);
                return r;
        }
        if (m->full && pack_init(m) < 0) {
                merge_destroy(e, m);
                return -ENOMEM;
        }
        m->output->number = e->next_run++;
        m->output->level = level + 1;
        *ret = m;
        return 0;
}

static void merge_begin(Engine *e, uint32_t first, uint32_t n) {
        Merge *m;
        int r = merge_new(e, first, n, &m);
        if (r < 0) { /* later, perhaps; who asked for it hears of it now */
                waiters_done(&e->collectors, r);
                return;
        }
        if (m->full)
                e->collect_wanted = false;
        e->merge = m;
        merge_advance(m);
}

void merge_maybe(Engine *e) {
        const RunSet *s = e->runs;
        if (e->lost || e->merge_broken) /* nobody waits for what will not be */
                waiters_done(&e->collectors, e->lost ? -ENOMEDIUM : -EUCLEAN);
        if (e->merge || e->stopping || e->lost || !e->opened || e->merge_broken)
                return;
        if (e->collect_wanted || !STAILQ_EMPTY(&e->collectors)) {
                if (s->n > 0) {
                        merge_begin(e, 0, s->n);
                        return;
                }
                e->collect_wanted = false;
                waiters_done(&e->collectors, 0);
        }
        for (uint32_t end = s->n, first; end > 0; end = first) {
                first = end - 1;
                while (first > 0 && s->runs[first - 1]->level == s->runs[end - 1]->level)
                        first--;
                if (end - first >= e->limits.merge_runs) {
                        merge_begin(e, first, end - first);
                        return;
                }
        }
}

void merge_settle(Engine *e) {
        Merge *m = e->merge;
        for (uint32_t i = 0; i < m->n; i++)
                for (uint32_t k = 0; k < m->cursors[i].run->n_extents; k++)
                        meta_drop(e, &m->cursors[i].run->extents[k]);
        for (uint32_t i = 0; i < e->n_segments; i++) /* a store from elsewhere may count wrongly */
                e->segments[i].live_runs -= MIN_OF(e->segments[i].live_runs, (uint32_t) m->drops[i]);
        pack_settle(m);
        if (m->output)
                run_settle(e, m->output);
}

void merge_installed(Engine *e) {
        bool full = e->merge->full, packed = e->merge->victims;
        merge_free(e);
        if (full && !packed && pack_pays(e))
                e->collect_wanted = true; /* now that the dead are known, what is sparse can be emptied */
        if (full && !e->collect_wanted)
                waiters_done(&e->collectors, 0);
}

static void collect_done(Waiter *w, int result) {
        Reply *r = w->owner;
        free(w);
        reply_done(r, result, "%s",
                   result == -EUCLEAN ? "a page of the index is damaged" :
                   result == -ENOMEM  ? "out of memory" :
                   result < 0         ? "the store is lost" :
                                        "");
}

static void collect_begin(Waiter *w, int result) {
        Engine *e = w->engine;
        if (result < 0) {
                collect_done(w, result);
                return;
        }
        w->done = collect_done;
        STAILQ_INSERT_TAIL(&e->collectors, w, link);
        merge_maybe(e);
}

/* First what is in memory becomes a run, so that its dead go too. */
void engine_collect(Engine *e, Reply *r) {
        Waiter *w;
        if (waiter_new(e, collect_begin, r, NULL, &w) < 0)
                reply_done(r, -ENOMEM, "out of memory");
        else
                checkpoint_want(e, w);
}

/* --- when the store is full --------------------------------------------------------------------------------------- */

static void fail_waiting_writes(Engine *e) {
        OpList *lists[] = { &e->waiting_room, &e->waiting_durable };
        Op *op;
        for (unsigned i = 0; i < ELEMENTSOF(lists); i++) {
                OpList failed = STAILQ_HEAD_INITIALIZER(failed);
                STAILQ_CONCAT(&failed, lists[i]);
                while ((op = STAILQ_FIRST(&failed))) {
                        STAILQ_REMOVE_HEAD(&failed, link);
                        op_finish(op, -ENOSPC);
                }
        }
}

void space_check(Engine *e) {
        bool low = e->free_segments < e->limits.low_segments;
        if (e->lost || !e->opened || e->stopping)
                return;
        if (!low && !e->log_stalled) {
                e->low_said = false;
                return;
        }
        if (!e->low_said)
                event_say(e, ENGINE_STORE_LOW, e->uuid, "%u of %u segments are free", e->free_segments, e->n_segments);
        e->low_said = true;
        merge_maybe(e);
        if (e->merge) /* perhaps that is enough */
                return;
        bool stuck = log_is_stuck(e);
        if (e->policy == POLICY_FAIL_WRITES) {
                if (stuck) {
                        log_refuse(e);
                        fail_waiting_writes(e);
                }
                return;
        }
        bool dropped = e->policy == POLICY_DROP_ALL ? copies_drop_all(e) : copies_drop_oldest(e);
        if (!dropped && stuck) { /* those whose deletion had no room can be dropped now */
                log_refuse(e);
                dropped = copies_drop_all(e);
        }
        if (dropped)
                checkpoint_want(e, NULL);
}
