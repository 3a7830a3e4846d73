/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A checkpoint turns what is in memory into a run and writes a new manifest, so that the log behind it is empty and the
 * segments nobody needs are free. It goes on beside everything else; each step begins when the writes of the one before
 * have ended.
 *
 *   freeze      the memtable becomes the frozen one, a new one takes over; the replay position is where the first
 *               record lies that is not in it
 *   run         the frozen entries, without the dead, go to new pages
 *   reserve     the log gets new segments; a finished merge and written free maps are taken in
 *   manifest    one flush for run, merge and maps; then everything as it will be, to new pages, durable
 *   superblock  both copies of the new number, durable; from here on the new manifest counts
 *   install     the new list of runs replaces the old one, the frozen memtable is empty, segments are free
 */
#include "providers/cow/freemap.h"

enum { CHECKPOINT_PAGES = 32 }; /* of a run, written at once */

int checkpoint_init(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        STAILQ_INIT(&c->waiting);
        STAILQ_INIT(&c->served);
        c->buffer = block_alloc(CHECKPOINT_PAGES);
        c->super = block_alloc(1);
        return c->buffer && c->super ? 0 : -ENOMEM;
}

void checkpoint_done(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        waiters_free(&c->waiting);
        waiters_free(&c->served);
        c->run = run_unref(e, c->run);
        free(c->manifest);
        free(c->buffer);
        free(c->super);
        *c = (Checkpoint) {};
}

void checkpoint_abandon(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        WaiterList all = STAILQ_HEAD_INITIALIZER(all);
        c->wanted = false;
        STAILQ_CONCAT(&all, &c->served);
        STAILQ_CONCAT(&all, &c->waiting);
        waiters_done(&all, -ENOMEDIUM);
}

/* --- steps -------------------------------------------------------------------------------------------------------- */

static void step_end(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        if (c->writes > 0)
                return;
        if (e->lost) {
                c->running = false;
                return;
        }
        if (c->error < 0) {
                c->running = false;
                engine_lose(e, "a checkpoint could not be written: %s", strerror(-c->error));
                return;
        }
        c->next(e);
}

static void written(Io *io, int result) {
        Engine *e = io->owner;
        Checkpoint *c = &e->checkpoint;
        assert(c->writes > 0);
        c->writes--;
        if (result < 0 && io->op == IO_ALLOCATE)
                c->refused |= 1u << (io - c->io);
        else if (result < 0)
                c->error = c->error ?: result;
        engine_io_done(e, io);
        step_end(e);
}

/* The step goes on with next() when everything that was submitted has ended. */
static void submit(Engine *e, unsigned slot, IoOp op, uint64_t block, uint64_t blocks, void *buffer) {
        Checkpoint *c = &e->checkpoint;
        assert(slot < ELEMENTSOF(c->io));
        c->io[slot] = (Io) {
                .op = op,
                .disk = DISK_STORE,
                .offset = block * BLOCK_SIZE,
                .length = blocks * BLOCK_SIZE,
                .buffer = buffer,
                .done = written,
                .owner = e,
        };
        c->writes++;
        engine_io(e, &c->io[slot]);
}

static void fail(Engine *e, int error) {
        e->checkpoint.error = error;
        step_end(e);
}

/* --- freeze and run ----------------------------------------------------------------------------------------------- */

static void step_reserve(Engine *e);

static void freeze(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        const Record *first = ORDER(REPLAY_FROM_FIRST_OPEN) ? TAILQ_FIRST(&e->queue) : NULL;
        bool placed = first && first->state >= RECORD_WRITING;
        Copy *copy;

        TAILQ_FOREACH(copy, &e->copies, link) /* their records lie before it */
                copy->replayed = true;
        c->replay_sequence = first ? first->sequence : e->next_sequence;
        c->replay_segment = placed ? first->segment : e->list[e->list_at];
        c->replay_block = placed ? first->block : e->log_block;
        if (e->active->used > 1) {
                e->frozen = e->active;
                e->active = e->active == &e->memtables[0] ? &e->memtables[1] : &e->memtables[0];
                memtable_clear(e->active);
        }
}

static const struct run_entry *next_alive(Engine *e, const struct run_entry *entry) {
        while (entry && entry_is_dead(e, entry, 0))
                entry = memtable_next(e->frozen, entry);
        return entry;
}

void run_page_fill(struct run_page *p, uint32_t magic, uint64_t run, uint32_t page, uint32_t entries) {
        p->magic = magic;
        p->crc = 0;
        p->run = run;
        p->page = page;
        p->entries = entries;
        memset(p->zero, 0, sizeof(p->zero));
        memset(&p->entry[entries], 0, (RUN_PAGE_ENTRIES - entries) * sizeof(p->entry[0]));
        p->crc = crc32c(0, p, BLOCK_SIZE);
}

void run_note_entry(Run *r, const struct run_entry *e) {
        if (r->entries++ == 0)
                r->first = e->volblock;
        r->last = e->volblock;
        r->min_epoch = MIN_OF(r->min_epoch, e->epoch);
        r->max_epoch = MAX_OF(r->max_epoch, e->epoch);
}

/* Fills pages of the buffer; how many. */
static uint32_t fill_pages(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        struct run_page *p = (struct run_page *) c->buffer;
        uint32_t n = 0;
        while (c->entry && n < CHECKPOINT_PAGES) {
                uint32_t i = 0;
                for (; c->entry && i < RUN_PAGE_ENTRIES; i++) {
                        p[n].entry[i] = *c->entry;
                        run_note_entry(c->run, c->entry);
                        memtable_mark(c->entry);
                        c->entry = next_alive(e, memtable_next(e->frozen, c->entry));
                }
                run_note_page(c->run, c->run->pages + n, &p[n].entry[0]);
                run_page_fill(&p[n], RUN_PAGE_MAGIC, c->run->number, c->run->pages + n, i);
                n++;
        }
        return n;
}

static void step_run(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        uint32_t slot = 0, done = 0, n;

        if (!c->entry) {
                step_reserve(e);
                return;
        }
        n = fill_pages(e);
        c->next = step_run;
        while (done < n) {
                struct run_extent x;
                int r = slot < ELEMENTSOF(c->io) ? meta_take(e, &e->meta, 1, n - done, 0, &x) : -ENOSPC;
                r = r < 0 ? r : run_add_extent(c->run, &x);
                if (r < 0) {
                        fail(e, r);
                        return;
                }
                submit(e, slot++, IO_WRITE, segment_first_block(e, x.segment) + x.block, x.pages,
                       c->buffer + (size_t) done * BLOCK_SIZE);
                done += x.pages;
        }
        c->pages_written = true;
        e->stats.checkpoint_bytes += (uint64_t) n * BLOCK_SIZE;
}

static void begin_run(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        c->entry = e->frozen ? next_alive(e, memtable_first(e->frozen)) : NULL;
        if (!c->entry) {
                step_reserve(e);
                return;
        }
        int r = run_new(&c->run);
        r = r < 0 ? r : run_alloc_fences(c->run, e->frozen->used / RUN_PAGE_ENTRIES + 1);
        if (r < 0) {
                fail(e, r);
                return;
        }
        c->run->number = e->next_run++;
        step_run(e);
}

/* --- reserve ------------------------------------------------------------------------------------------------------ */

static void step_take_in(Engine *e);

static uint32_t list_index(const Engine *e, uint32_t segment) {
        for (uint32_t i = 0; i < e->list_n; i++)
                if (e->list[i] == segment)
                        return i;
        assert(false);
        return 0;
}

/* New segments for the log, as many as are missing; the file system is asked for their space, and may refuse. */
static void step_reserve(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        c->list_dropped = list_index(e, c->replay_segment);
        c->first_new = e->list_n;
        c->refused = 0;
        c->next = step_take_in;
        for (unsigned slot = 0; slot < ELEMENTSOF(c->io) && e->list_n - c->list_dropped < e->limits.reserved; slot++) {
                uint32_t segment = e->list_n < LOG_LIST_MAX ? segment_take(e, SEGMENT_LOG, segments_meta_reserve(e)) :
                                                              0;
                if (!segment)
                        break;
                e->segments[segment].reserved = true;
                e->list[e->list_n++] = segment;
                submit(e, slot, IO_ALLOCATE, segment_first_block(e, segment), e->segment_blocks, NULL);
        }
        if (c->writes == 0)
                step_take_in(e);
}

/* What the file system has no space for is free again. */
static void give_back_refused(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        uint32_t n = c->first_new;
        for (uint32_t i = c->first_new; i < e->list_n; i++) {
                uint32_t segment = e->list[i];
                if (c->refused >> (i - c->first_new) & 1) {
                        e->segments[segment].reserved = false;
                        e->segments[segment].kind = SEGMENT_FREE;
                        e->free_segments++;
                } else
                        e->list[n++] = segment;
        }
        e->list_n = n;
}

/* --- manifest ----------------------------------------------------------------------------------------------------- */

static void settle_frozen(Engine *e) {
        const struct run_entry *entry = e->frozen ? memtable_first(e->frozen) : NULL;
        for (; entry; entry = memtable_next(e->frozen, entry))
                if (memtable_is_marked(entry))
                        segment_entry_settled(e, entry->where);
                else
                        segment_entry_dropped(e, entry->where);
}

static int build_set(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        uint32_t n = 0;
        int r = runset_new(e, e->runs->n + 2, &c->set);
        if (r < 0)
                return r;
        c->takes_merge = merge_ready(e);
        Run *output = c->takes_merge ? merge_output(e) : NULL;
        for (uint32_t i = 0; i < e->runs->n; i++) {
                Run *run = e->runs->runs[i];
                if (c->takes_merge && merge_takes(e, run)) {
                        if (!output)
                                continue;
                        run = output;
                        output = NULL;
                }
                run->refs++;
                c->set->runs[n++] = run;
        }
        if (c->run) {
                run_settle(e, c->run);
                c->set->runs[n++] = TAKE_PTR(c->run);
        }
        c->set->n = n;
        return n > STORE_RUNS_MAX ? -ENOSPC : 0;
}

static void step_manifest(Engine *e);

/*
 * From here on everything in memory is counted as the new manifest has it. What becomes free is marked only: the old
 * manifest still names it (I4).
 */
static void step_take_in(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        Copy *copy;

        give_back_refused(e);
        int r = build_set(e);
        if (r < 0) {
                fail(e, r);
                return;
        }
        if (c->takes_merge)
                merge_settle(e);
        settle_frozen(e);
        TAILQ_FOREACH(copy, &e->copies, link)
                if (copy->dropping && copy->replayed && !copy->dropped) {
                        copy->dropped = true;
                        freemap_forget(copy->map);
                }
        bool maps = freemaps_take_in(e);
        for (uint32_t i = 0; i < c->list_dropped; i++)
                e->segments[e->list[i]].reserved = false;
        c->list_n = e->list_n;
        c->next = step_manifest;
        if ((c->pages_written || c->takes_merge || maps) && ORDER(RUN_BEFORE_MANIFEST)) /* those of a merge too */
                submit(e, 0, IO_FLUSH, 0, 0, NULL);
        else
                step_manifest(e);
}

static void step_super(Engine *e);

static void step_manifest(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        uint32_t bytes = manifest_size(e), pages = (bytes + BLOCK_SIZE - 1) / BLOCK_SIZE;

        c->ref.bytes = bytes;
        if (!ORDER(SUPERBLOCK_BEFORE_REUSE))
                segments_release_begin(e);
        int r = meta_take(e, &e->meta, pages, pages, 0, &c->ref.place);
        c->manifest = r < 0 ? NULL : block_alloc(pages);
        if (!c->manifest) {
                fail(e, r < 0 ? r : -ENOMEM);
                return;
        }
        meta_settle(e, &c->ref.place);
        if (e->manifest.place.pages > 0)
                meta_drop(e, &e->manifest.place);
        segments_release_begin(e);
        manifest_write(e, c->manifest, bytes);
        c->ref.crc = crc32c(0, c->manifest, bytes);
        c->next = step_super;
        e->stats.checkpoint_bytes += (uint64_t) pages * BLOCK_SIZE;
        submit(e, 0, ORDER(MANIFEST_BEFORE_SUPERBLOCK) ? IO_WRITE_DURABLE : IO_WRITE,
               segment_first_block(e, c->ref.place.segment) + c->ref.place.block, pages, c->manifest);
}

/* --- superblock and install --------------------------------------------------------------------------------------- */

uint64_t superblock_place(uint32_t segments, uint32_t segment_blocks, unsigned copy) {
        switch (copy) {
        case 0:
        case 1:
                return copy;
        case 2:
                return (uint64_t) (segments / 2) * segment_blocks;
        default:
                return (uint64_t) (segments - 1) * segment_blocks;
        }
}

void superblock_fill(const Engine *e, struct superblock *s, uint64_t number, uint32_t state, const ManifestRef *m) {
        *s = (struct superblock) {
                .version = STORE_VERSION,
                .number = number,
                .segments = e->n_segments,
                .segment_blocks = e->segment_blocks,
                .manifest_block = segment_first_block(e, m->place.segment) + m->place.block,
                .manifest_bytes = m->bytes,
                .manifest_crc = m->crc,
                .generation = e->generation,
                .state = state,
        };
        memcpy(s->magic, STORE_MAGIC, sizeof(s->magic));
        memcpy(s->uuid, e->uuid, sizeof(s->uuid));
        s->crc = crc32c(0, s, sizeof(*s));
}

static void step_install(Engine *e);

static void super_write(Engine *e, unsigned slot, unsigned copy) {
        submit(e, slot, IO_WRITE_DURABLE, superblock_place(e->n_segments, e->segment_blocks, copy), 1,
               e->checkpoint.super);
        e->stats.checkpoint_bytes += BLOCK_SIZE;
}

/* Of the two copies of a number: the one that a power cut has torn is written first, so that the good one outlives the
 * next cut too. */
static unsigned super_first(const Engine *e, uint64_t number) {
        unsigned copy = (unsigned) (number % 2);
        return e->super_torn >> (2 + copy) & 1 ? 2 + copy : copy;
}

static void step_super_again(Engine *e) {
        e->checkpoint.next = step_install;
        super_write(e, 0, super_first(e, e->super_number + 1) ^ 2);
}

/*
 * One copy after the other, so that a power cut can tear only one of the two. Where both copies of a number are gone,
 * that is damage, and the number below must not be taken for the newest.
 */
static void step_super(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        uint64_t number = e->super_number + 1;

        superblock_fill(e, c->super, number, c->last ? STORE_CLEAN : STORE_OPEN, &c->ref);
        c->next = ORDER(SUPERBLOCKS_ONE_BY_ONE) ? step_super_again : step_install;
        if (!ORDER(SUPERBLOCKS_ONE_BY_ONE))
                super_write(e, 1, super_first(e, number) ^ 2);
        super_write(e, 0, super_first(e, number));
}

static void install_list(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        e->list_n -= c->list_dropped;
        e->list_at -= c->list_dropped;
        memmove(e->list, e->list + c->list_dropped, e->list_n * sizeof(e->list[0]));
        e->list_durable = c->list_n - c->list_dropped;
        e->tail_used = e->list_at;
        e->log_stalled = false;
}

static void checkpoint_start(Engine *e);

static void step_install(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        bool stalled = e->log_stalled;
        e->runs = runset_unref(e, e->runs);
        e->runs = TAKE_PTR(c->set);
        e->index_version++;
        e->frozen = NULL;
        e->super_number++;
        e->super_torn &= e->super_number % 2 ? 5 : 10;
        e->manifest = c->ref;
        free(TAKE_PTR(c->manifest));
        install_list(e);
        segments_release_end(e);
        if (copies_dropped(e) || c->takes_merge || !stalled)
                e->log_fruitless = 0;
        else
                e->log_fruitless++;
        if (c->takes_merge)
                merge_installed(e);
        e->stats.checkpoints++;
        c->running = false;
        waiters_done(&c->served, 0);
        log_pump(e);
        e->log_full = e->log_full && e->log_stalled;
        ops_wake_room(e);
        ops_wake_durable(e);
        merge_maybe(e);
        space_check(e);
        checkpoint_start(e);
}

/* --- when --------------------------------------------------------------------------------------------------------- */

static void checkpoint_start(Engine *e) {
        Checkpoint *c = &e->checkpoint;
        if (e->lost || !e->opened || c->running || !c->wanted)
                return;
        c->running = true;
        c->wanted = c->pages_written = false;
        c->last = e->stopping;
        c->takes_merge = false;
        STAILQ_CONCAT(&c->served, &c->waiting);
        freeze(e);
        begin_run(e);
}

void checkpoint_want(Engine *e, Waiter *w) {
        Checkpoint *c = &e->checkpoint;
        if (e->lost) {
                if (w)
                        w->done(w, -ENOMEDIUM);
                return;
        }
        if (w)
                STAILQ_INSERT_TAIL(&c->waiting, w, link);
        c->wanted = true;
        checkpoint_start(e);
}

void checkpoint_maybe(Engine *e) {
        if (e->active->used > e->limits.memtable || e->tail_used >= e->limits.tail_segments ||
            (e->log_stalled && !log_is_stuck(e)))
                checkpoint_want(e, NULL);
}

static void reply_durable(Waiter *w, int result) {
        Reply *r = w->owner;
        free(w);
        reply_done(r, result, "%s", result < 0 ? "the store could not be written" : "");
}

void checkpoint_reply(Engine *e, Reply *r) {
        Waiter *w;
        if (waiter_new(e, reply_durable, r, NULL, &w) < 0)
                reply_done(r, -ENOMEM, "out of memory");
        else
                checkpoint_want(e, w);
}

void engine_checkpoint(Engine *e, Reply *r) {
        checkpoint_reply(e, r);
}

void engine_set_policy(Engine *e, uint32_t policy, Reply *r) {
        if (policy >= POLICY_MAX) {
                reply_done(r, -EINVAL, "there is no such policy");
                return;
        }
        e->policy = policy;
        checkpoint_reply(e, r);
}
