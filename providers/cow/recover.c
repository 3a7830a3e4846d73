/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening a store: superblock, manifest, then the log behind the replay position, and a checkpoint under a new
 * generation before the first record of ours.
 *
 * The log ends at the first record that is not valid. Usually that is what was in flight when the power went; nobody
 * was told that it is durable. But if a later record of the same generation says that it was, or a record names a
 * superblock newer than the one we have, then something acknowledged is gone: a bad sector, not a power cut. What it
 * had preserved is unknown, so every snapshot is damaged then (hazards B7). A record whose payload alone is wrong
 * counts if a later one says it was durable: its blocks fail their checksums when they are read.
 */
#include "providers/cow/freemap.h"
#include "providers/cow/parse.h"
#include "providers/cow/walk.h"
#include <stdio.h>

typedef struct Found { /* a record of the log */
        uint64_t sequence, payload_block;
        uint32_t type, count, body_bytes;
        bool payload_ok;
        uint32_t list_at, end_block; /* where the next one begins */
        uint8_t *body;
} Found;

typedef struct Opening {
        Engine *e;
        Reply *reply;
        struct superblock super;
        bool have_super, valid[SUPER_COPIES];
        uint8_t *blocks; /* two superblock copies */
        Io io[2];
        unsigned left, guess; /* guess: shift of the segment size that is tried */
        uint8_t *manifest;
        uint8_t *segment;               /* one of the log */
        uint32_t list_at, block;        /* where we read */
        uint64_t expected;              /* sequence of the next record */
        uint64_t durable, newest_super; /* highest that any record told us */
        bool ended;                     /* the chain; what follows is only looked at for damage */
        Found *found;
        size_t n_found;
        char why[160];
} Opening;

void opening_free(Opening *o) {
        if (!o)
                return;
        for (size_t i = 0; i < o->n_found; i++)
                free(o->found[i].body);
        free(o->found);
        free(o->manifest);
        free(o->segment);
        free(o->blocks);
        free(o);
}

static void opening_end(Opening *o, int result) {
        Reply *r = o->reply;
        char why[160];
        memcpy(why, o->why, sizeof(why));
        o->e->opening = NULL;
        opening_free(o);
        reply_done(r, result, "%s", result == -ENOMEM ? "out of memory" : why);
}

static void opening_fail(Opening *o, int result, const char *why) {
        (void) snprintf(o->why, sizeof(o->why), "%s", why);
        opening_end(o, result);
}

static void opening_read(Opening *o, unsigned slot, uint64_t block, uint64_t blocks, void *buffer,
                         void (*done)(Io *, int)) {
        o->io[slot] = (Io) {
                .op = IO_READ,
                .disk = DISK_STORE,
                .offset = block * BLOCK_SIZE,
                .length = blocks * BLOCK_SIZE,
                .buffer = buffer,
                .done = done,
                .owner = o,
        };
        o->left++;
        engine_io(o->e, &o->io[slot]);
}

/* --- the log: applying -------------------------------------------------------------------------------------------- */

static void apply_preserve(Engine *e, const Found *f) {
        const struct descriptor *d = (const struct descriptor *) f->body;
        for (uint32_t i = 0; i < f->count; i++) {
                struct run_entry entry = { .volblock = d[i].volblock, .epoch = d[i].epoch, .crc = d[i].crc };
                entry.where = d[i].flags & ENTRY_NO_PAYLOAD ? ENTRY_WHERE(0, d[i].flags) :
                                                              ENTRY_WHERE(f->payload_block + d[i].payload, d[i].flags);
                Volume *v = volume_by_volblock(e, entry.volblock);
                /* also of a snapshot that was refused after its epoch was given: never give it again */
                e->epoch = MAX_OF(e->epoch, entry.epoch);
                if (!v)
                        continue;
                v->tag = MAX_OF(v->tag, entry.epoch);
                segment_entry_added(e, entry.where);
                index_insert(e, &entry);
        }
}

/* A map that it names was durable before it. */
static int apply_map(Engine *e, Copy *c, const struct set_member *m) {
        FreeMap *map = m->map ? freemap_by_number(e, m->map) : NULL;
        if (!m->map)
                return 0;
        if (map && VOLBLOCK_VOLUME(map->run->first) == m->volume && !map->taken)
                return freemap_give(map, c, member_strikes(m), m->strikes);
        c->map_gone = true; /* as it is when a later record deletes the snapshot */
        return 0;
}

static int apply_snapshot(Engine *e, const Found *f) {
        const struct set_member *m = (const struct set_member *) f->body;
        for (uint32_t i = 0; i < f->count; i++, m = member_after(m)) {
                Volume *v = engine_volume_by_number(e, m->volume);
                e->epoch = MAX_OF(e->epoch, m->epoch);
                if (v)
                        v->tag = MAX_OF(v->tag, m->epoch);
                if (!v || copy_find(e, m->snapshot) || v->n_epochs == EPOCHS_MAX)
                        continue;
                Copy *c = NULL;
                int r = copy_new(m, (const char *) (m + 1), m->label_bytes, &c);
                r = r < 0 ? r : apply_map(e, c, m);
                if (r < 0) {
                        copy_free(c);
                        return r;
                }
                copy_link(e, c, v);
        }
        return 0;
}

static void apply_ids(Engine *e, const Found *f) {
        const struct id_member *m = (const struct id_member *) f->body;
        for (uint32_t i = 0; i < f->count; i++) {
                Copy *c = copy_find(e, m[i].snapshot);
                if (c && f->type == RECORD_DELETE)
                        copy_remove(e, c);
                else if (c)
                        c->flags &= ~(uint32_t) SNAPSHOT_PENDING;
        }
}

static int apply(Engine *e, const Found *f) {
        e->stats.replayed_records++;
        switch (f->type) {
        case RECORD_PRESERVE:
                apply_preserve(e, f);
                return 0;
        case RECORD_SNAPSHOT:
                return apply_snapshot(e, f);
        default:
                apply_ids(e, f);
                return 0;
        }
}

/* The tail may hold what two memtables held when the power went. */
static int make_room(Engine *e, const Opening *o, size_t n) {
        uint64_t entries = 0;
        for (size_t i = 0; i < n; i++)
                entries += o->found[i].type == RECORD_PRESERVE ? o->found[i].count : 0;
        if (entries < e->active->capacity - 1)
                return 0;
        memtable_done(e->active);
        return memtable_init(e->active, (uint32_t) entries + e->limits.memtable);
}

static void opened(Waiter *w, int result) {
        Opening *o = w->owner;
        Engine *e = w->engine;
        free(w);
        if (result < 0)
                (void) snprintf(o->why, sizeof(o->why), "the store could not be written");
        opening_end(o, result);
        if (result == 0 && !e->lost)
                merge_maybe(e);
}

/* The generation is durable before the first record that carries it: one cut off long ago can never fit behind ours. */
static void opening_finish(Opening *o) {
        Engine *e = o->e;
        Waiter *w;
        e->opened = true;
        e->generation++;
        freemaps_opened(e);
        if (waiter_new(e, opened, o, NULL, &w) < 0) {
                opening_end(o, -ENOMEM);
                return;
        }
        if (!ORDER(GENERATION_BEFORE_RECORDS)) {
                free(w);
                opening_end(o, 0);
                return;
        }
        checkpoint_want(e, w);
}

static void all_damaged(Engine *e, const char *why) {
        Volume *v;
        TAILQ_FOREACH(v, &e->volumes, link)
                volume_damaged(e, v, why);
}

/* They are written one after the other, so no power cut can have destroyed both copies of one number. */
static bool pairs_are_there(const Opening *o) {
        return (o->valid[0] || o->valid[2]) && (o->valid[1] || o->valid[3]);
}

static void missing_maps_say(Engine *e) {
        Copy *c;
        TAILQ_FOREACH(c, &e->copies, link)
                if (c->map_gone)
                        copy_damaged(e, c, "the map of what was free is gone");
}

static void opening_apply(Opening *o) {
        Engine *e = o->e;
        size_t n = 0;
        while (n < o->n_found &&
               (o->found[n].payload_ok || o->found[n].sequence <= o->durable || !ORDER(PAYLOAD_CHECKED_AT_REPLAY)))
                n++;
        int r = make_room(e, o, n);
        for (size_t i = 0; r == 0 && i < n; i++)
                r = apply(e, &o->found[i]);
        if (r < 0) {
                opening_end(o, r);
                return;
        }
        if (n > 0) {
                e->list_at = o->found[n - 1].list_at;
                e->log_block = o->found[n - 1].end_block;
                e->durable = o->found[n - 1].sequence;
        }
        e->next_sequence = e->durable + 1;
        e->tail_used = e->list_at;
        missing_maps_say(e);
        if (o->durable > e->durable)
                all_damaged(e, "a record of the log is gone that had been durable");
        else if (o->newest_super > o->super.number || !pairs_are_there(o))
                all_damaged(e, "the newest superblock is gone");
        opening_finish(o);
}

/* --- the log: reading --------------------------------------------------------------------------------------------- */

static void log_read(Opening *o);

static int found_add(Opening *o, const struct record_head *h, uint32_t blocks, bool payload_ok) {
        Engine *e = o->e;
        if ((o->n_found & (o->n_found + 1)) == 0 || !o->found) { /* grows at 0, 1, 3, 7 … */
                Found *grown = reallocarray(o->found, 2 * (o->n_found + 1), sizeof(Found));
                if (!grown)
                        return -ENOMEM;
                o->found = grown;
        }
        uint8_t *body = malloc(MAX_OF(h->body_bytes, 1u));
        if (!body)
                return -ENOMEM;
        memcpy(body, h + 1, h->body_bytes);
        o->found[o->n_found++] = (Found) {
                .sequence = h->sequence,
                .payload_block = segment_first_block(e, e->list[o->list_at]) + o->block + blocks - h->payload_blocks,
                .type = h->type,
                .count = h->count,
                .body_bytes = h->body_bytes,
                .payload_ok = payload_ok,
                .list_at = o->list_at,
                .end_block = o->block + blocks,
                .body = body,
        };
        return 0;
}

static uint32_t head_blocks(const struct record_head *h) {
        return (uint32_t) ((sizeof(*h) + h->body_bytes + BLOCK_SIZE - 1) / BLOCK_SIZE);
}

static bool payload_is_right(const struct record_head *h) {
        const struct descriptor *d = (const struct descriptor *) (h + 1);
        const uint8_t *payload = (const uint8_t *) h + (size_t) head_blocks(h) * BLOCK_SIZE;
        for (uint32_t i = 0; h->type == RECORD_PRESERVE && i < h->count; i++)
                if (!(d[i].flags & ENTRY_NO_PAYLOAD) &&
                    crc32c(0, payload + (size_t) d[i].payload * BLOCK_SIZE, BLOCK_SIZE) != d[i].crc)
                        return false;
        return true;
}

/* A record of this store's log and generation at the block of the segment in memory, or NULL. */
static const struct record_head *record_at(const Opening *o, uint32_t block) {
        const Engine *e = o->e;
        const struct record_head *h = (const struct record_head *) (o->segment + (size_t) block * BLOCK_SIZE);
        if (h->magic != RECORD_MAGIC || memcmp(h->store, e->uuid, sizeof(h->store)) != 0 ||
            h->generation != e->generation)
                return NULL;
        return record_check(h, e->segment_blocks - block, NULL, 0) == 0 ? h : NULL;
}

static void record_heard(Opening *o, const struct record_head *h) {
        o->durable = MAX_OF(o->durable, h->durable_upto);
        o->newest_super = MAX_OF(o->newest_super, h->super_number);
}

/* Follows the chain through the segment in memory. */
static int chain_follow(Opening *o) {
        uint32_t blocks = o->e->segment_blocks;
        const struct record_head *h;
        while (o->block < blocks && (h = record_at(o, o->block)) && h->sequence == o->expected) {
                uint32_t n = head_blocks(h) + h->payload_blocks;
                int r = found_add(o, h, n, payload_is_right(h));
                if (r < 0)
                        return r;
                record_heard(o, h);
                o->expected++;
                o->block += n;
        }
        return 0;
}

/* Looks for records behind the end that say what was durable. */
static void look_behind(Opening *o) {
        for (; o->block < o->e->segment_blocks; o->block++) {
                const struct record_head *h = record_at(o, o->block);
                if (h && h->sequence >= o->expected)
                        record_heard(o, h);
        }
}

static bool nothing_behind(const Opening *o) {
        const EngineShared *shared = o->e->shared;
        return shared && shared->tail_sequence != 0 && o->expected > shared->tail_sequence;
}

static void log_segment_read(Io *io, int result) {
        Opening *o = io->owner;
        Engine *e = o->e;

        engine_io_done(e, io);
        o->left--;
        if (result < 0) /* cannot be read: nothing valid in it, and perhaps damage is found behind it */
                memset(o->segment, 0, (size_t) e->segment_blocks * BLOCK_SIZE);
        size_t before = o->n_found;
        int r = o->ended ? 0 : chain_follow(o);
        if (r < 0) {
                opening_end(o, r);
                return;
        }
        /* Where a record does not fit it starts the next segment, so the chain ends when that does not go on with it.
         */
        o->ended = o->ended || (o->list_at > o->e->list_at && o->n_found == before);
        look_behind(o);
        o->list_at++;
        o->block = 0;
        if (o->list_at == e->list_n || (o->ended && nothing_behind(o)))
                opening_apply(o);
        else
                log_read(o);
}

static void log_read(Opening *o) {
        Engine *e = o->e;
        opening_read(o, 0, segment_first_block(e, e->list[o->list_at]) + o->block, e->segment_blocks - o->block,
                     o->segment + (size_t) o->block * BLOCK_SIZE, log_segment_read);
}

static void log_begin(Opening *o) {
        Engine *e = o->e;
        o->segment = block_alloc_dirty(e->segment_blocks);
        if (!o->segment) {
                opening_end(o, -ENOMEM);
                return;
        }
        o->expected = e->next_sequence;
        o->block = e->log_block;
        if (o->block == e->segment_blocks) { /* it was full to its last block */
                o->list_at++;
                o->block = 0;
        }
        if (o->list_at == e->list_n)
                opening_apply(o);
        else
                log_read(o);
}

/* --- the manifest ------------------------------------------------------------------------------------------------- */

/* Its volumes can be served; what it had preserved is void, and it must say so itself, if it still can. */
static void open_lost(Opening *o) {
        Engine *e = o->e;
        e->opened = true;
        if (o->super.state == STORE_LOST)
                e->lost_writing = e->lost_written = true;
        else
                lost_write(e);
        opening_end(o, 0);
}

static void manifest_read(Io *io, int result) {
        Opening *o = io->owner;
        Engine *e = o->e;

        engine_io_done(e, io);
        o->left--;
        if (result < 0) {
                opening_fail(o, -EIO, "the manifest cannot be read");
                return;
        }
        int r = manifest_check(o->manifest, &o->super, o->why, sizeof(o->why));
        if (r < 0) {
                opening_end(o, r);
                return;
        }
        e->lost = o->super.state == STORE_LOST || (e->shared && e->shared->lost);
        r = manifest_load(e, o->manifest);
        if (r < 0)
                opening_fail(o, r, "the manifest contradicts itself");
        else if (e->lost)
                open_lost(o);
        else
                log_begin(o);
}

/* --- superblocks -------------------------------------------------------------------------------------------------- */

static void manifest_begin(Opening *o) {
        Engine *e = o->e;
        const struct superblock *s = &o->super;
        uint32_t pages = (s->manifest_bytes + BLOCK_SIZE - 1) / BLOCK_SIZE;

        if ((uint64_t) s->segments * s->segment_blocks * BLOCK_SIZE > e->store_bytes) {
                opening_fail(o, -EUCLEAN, "the store is shorter than its superblock says: it was cut off");
                return;
        }
        memcpy(e->uuid, s->uuid, sizeof(e->uuid));
        e->super_number = s->number;
        e->manifest = (ManifestRef) {
                .place = { .segment = (uint32_t) (s->manifest_block / s->segment_blocks),
                           .block = (uint32_t) (s->manifest_block % s->segment_blocks),
                           .pages = pages },
                .bytes = s->manifest_bytes,
                .crc = s->manifest_crc,
        };
        o->manifest = block_alloc(pages);
        if (!o->manifest || engine_size(e, s->segments, s->segment_blocks) < 0) {
                opening_end(o, -ENOMEM);
                return;
        }
        opening_read(o, 0, s->manifest_block, pages, o->manifest, manifest_read);
}

static void consider_super(Opening *o, unsigned slot, unsigned copy, int result) {
        struct superblock s;
        if (result < 0)
                return;
        int r = superblock_check(o->blocks + (size_t) slot * BLOCK_SIZE, &s, o->why, sizeof(o->why));
        if (r == -EPROTONOSUPPORT)
                o->guess = UINT32_MAX; /* newer than we are: no guessing what it means */
        o->valid[copy] = r == 0;
        o->e->super_torn &= ~((uint32_t) (r == 0) << copy);
        if (r < 0 || (o->have_super && s.number <= o->super.number))
                return;
        o->super = s;
        o->have_super = true;
}

static void others_begin(Opening *o);

static void others_read(Io *io, int result) {
        Opening *o = io->owner;
        engine_io_done(o->e, io);
        consider_super(o, (unsigned) (io - o->io), 2 + (unsigned) (io - o->io), result);
        if (--o->left > 0)
                return;
        if (o->have_super)
                manifest_begin(o);
        else
                others_begin(o);
}

static void others_read_both(Opening *o, uint32_t segments, uint32_t segment_blocks) {
        for (unsigned i = 0; i < 2; i++)
                opening_read(o, i, superblock_place(segments, segment_blocks, 2 + i), 1,
                             o->blocks + (size_t) i * BLOCK_SIZE, others_read);
}

/* The first two copies are gone. The others lie where the size of a segment says, which only they know: every one is
 * tried. */
static void others_begin(Opening *o) {
        for (; o->guess <= SEGMENT_BLOCKS_MAX; o->guess *= 2) {
                uint64_t segments = o->e->store_bytes / BLOCK_SIZE / o->guess;
                if (segments < STORE_SEGMENTS_MIN || segments > STORE_SEGMENTS_MAX)
                        continue;
                uint32_t blocks = o->guess;
                o->guess *= 2;
                others_read_both(o, (uint32_t) segments, blocks);
                return;
        }
        opening_fail(o, o->guess == UINT32_MAX ? -EPROTONOSUPPORT : -EUCLEAN,
                     o->guess == UINT32_MAX ? "the store was made by a newer version" :
                                              "no superblock is valid: this is not a store, or it was destroyed");
}

static void first_read(Io *io, int result) {
        Opening *o = io->owner;
        engine_io_done(o->e, io);
        o->left--;
        consider_super(o, 0, 0, result);
        consider_super(o, 1, 1, result);
        if (o->have_super) {
                uint64_t bytes = (uint64_t) o->super.segments * o->super.segment_blocks * BLOCK_SIZE;
                if (bytes <= o->e->store_bytes)
                        others_read_both(o, o->super.segments, o->super.segment_blocks);
                else
                        manifest_begin(o); /* says what is wrong */
        } else
                others_begin(o);
}

static void flushed(Io *io, int result) {
        Opening *o = io->owner;
        engine_io_done(o->e, io);
        if (result < 0)
                opening_fail(o, -EIO, "the store cannot be flushed");
        else
                opening_read(o, 0, 0, 2, o->blocks, first_read);
}

/* What one who was killed had given to the disk can be read, and need not be durable: we build on what we read. */
static void opening_flush(Opening *o) {
        o->io[0] = (Io) { .op = IO_FLUSH, .disk = DISK_STORE, .done = flushed, .owner = o };
        engine_io(o->e, &o->io[0]);
}

void engine_open(Engine *e, Reply *r) {
        Opening *o = calloc(1, sizeof(Opening));
        if (!o || e->opened || e->store_bytes < 2 * BLOCK_SIZE || !(o->blocks = block_alloc(2))) {
                bool small = e->store_bytes < 2 * BLOCK_SIZE;
                free(o);
                reply_done(r, small ? -EUCLEAN : -ENOMEM, "%s", small ? "too small for a store" : "out of memory");
                return;
        }
        o->e = e;
        e->opening = o;
        e->super_torn = (1 << SUPER_COPIES) - 1;
        o->reply = r;
        o->guess = SEGMENT_BLOCKS_MIN;
        if (ORDER(FLUSHED_BEFORE_OPEN))
                opening_flush(o);
        else
                opening_read(o, 0, 0, 2, o->blocks, first_read);
}
