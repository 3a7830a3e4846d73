/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log: old blocks and what describes them in one durable write. A record gets its sequence when it is opened, and
 * records are given to the disk in that order. What belongs to a record is read straight to its place in it. The open
 * record goes to the disk as soon as nothing is being read for it and not too many are there already; meanwhile it
 * takes in what comes. It also lets the overwrites end that the record before it has set free, unless it is large
 * already: whoever sent those is about to send the next. So at queue depth 1 every block is a record, and under load a
 * record is as many blocks as the queue is deep, and not half of them or a third.
 *
 *   UNUSED ─log_preserve─► OPEN ─full, or a control record behind it─► CLOSED ─log_pump─► WRITING ─► DONE
 * ─log_advance─► UNUSED
 */
#include "providers/cow/core.h"

int log_init(Engine *e) {
        TAILQ_INIT(&e->queue);
        STAILQ_INIT(&e->controls);
        e->records = calloc(RECORDS_MAX, sizeof(Record));
        if (!e->records)
                return -ENOMEM;
        memset(e->inflight, 0xff, sizeof(e->inflight));
        for (unsigned i = 0; i < RECORDS_MAX; i++) {
                e->records[i].engine = e;
                e->records[i].buffer = block_alloc_dirty(RECORD_BLOCKS_MAX + 1);
                if (!e->records[i].buffer)
                        return -ENOMEM;
        }
        return 0;
}

void log_done(Engine *e) {
        Control *c;
        while ((c = STAILQ_FIRST(&e->controls))) {
                STAILQ_REMOVE_HEAD(&e->controls, link);
                c->drop(c);
        }
        for (unsigned i = 0; e->records && i < RECORDS_MAX; i++)
                if (e->records[i].control)
                        e->records[i].control->drop(e->records[i].control);
        for (unsigned i = 0; e->records && i < RECORDS_MAX; i++)
                free(e->records[i].buffer);
        free(e->records);
        e->records = NULL;
}

static struct descriptor *record_descriptor(Record *r, uint32_t i) {
        return (struct descriptor *) record_body(r) + i;
}

static uint8_t *record_payload(Record *r, uint32_t i) {
        return r->buffer + (size_t) (r->head_blocks + i) * BLOCK_SIZE;
}

/* --- blocks on their way ------------------------------------------------------------------------------------------ */

enum { INFLIGHT_END = UINT32_MAX };

static uint32_t inflight_bucket(uint64_t volblock) {
        return (uint32_t) ((volblock * 0x9e3779b97f4a7c15ULL) >> 32) % INFLIGHT_BUCKETS;
}

static void inflight_add(Engine *e, Record *r, uint32_t i) {
        uint32_t *head = &e->inflight[inflight_bucket(record_descriptor(r, i)->volblock)];
        r->next[i] = *head;
        *head = (uint32_t) (r - e->records) * RECORD_BLOCKS_MAX + i;
}

static void inflight_remove(Engine *e, Record *r, uint32_t i) {
        uint32_t self = (uint32_t) (r - e->records) * RECORD_BLOCKS_MAX + i;
        uint32_t *at = &e->inflight[inflight_bucket(record_descriptor(r, i)->volblock)];
        while (*at != self) {
                assert(*at != INFLIGHT_END);
                at = &e->records[*at / RECORD_BLOCKS_MAX].next[*at % RECORD_BLOCKS_MAX];
        }
        *at = r->next[i];
}

uint64_t log_in_flight(const Engine *e, uint64_t volblock) {
        uint32_t at = e->inflight[inflight_bucket(volblock)];
        while (at != INFLIGHT_END) {
                Record *r = &e->records[at / RECORD_BLOCKS_MAX];
                if (record_descriptor(r, at % RECORD_BLOCKS_MAX)->volblock == volblock)
                        return r->sequence;
                at = r->next[at % RECORD_BLOCKS_MAX];
        }
        return 0;
}

/* --- opening ------------------------------------------------------------------------------------------------------ */

static Record *record_unused(Engine *e, unsigned keep) {
        Record *found = NULL;
        for (unsigned i = 0; i < RECORDS_MAX; i++) {
                if (e->records[i].state != RECORD_UNUSED)
                        continue;
                if (keep == 0)
                        return &e->records[i];
                keep--;
                found = found ?: &e->records[i];
        }
        return keep == 0 ? found : NULL;
}

static void record_close(Engine *e, Record *r) {
        assert(r->state == RECORD_OPEN);
        r->state = RECORD_CLOSED;
        if (e->open == r)
                e->open = NULL;
}

static void record_enqueue(Engine *e, Record *r, uint32_t type, RecordState state) {
        if (e->open)
                record_close(e, e->open);
        r->state = state;
        r->type = type;
        r->sequence = e->next_sequence++;
        r->reading = 0;
        r->payload_blocks = 0;
        r->compact = false;
        r->segment = 0;
        TAILQ_INSERT_TAIL(&e->queue, r, link);
}

static Record *record_open(Engine *e) {
        Record *r = record_unused(e, 1); /* the last one is for what is not a block: a snapshot, a deletion */
        if (!r)
                return NULL;
        memset(r->buffer, 0, BLOCK_SIZE);
        r->control = NULL;
        r->count = 0;
        r->head_blocks = 1;
        record_enqueue(e, r, RECORD_PRESERVE, RECORD_OPEN);
        return e->open = r;
}

/* --- reading what is to be preserved ------------------------------------------------------------------------------ */

static void old_read(Io *io, int result);

static void read_submit(Engine *e, Record *r, uint32_t first, uint32_t n) {
        const struct descriptor *d = record_descriptor(r, first);
        Volume *v = volume_by_volblock(e, d->volblock);
        uint64_t offset = VOLBLOCK_BLOCK(d->volblock) * BLOCK_SIZE, length = (uint64_t) n * BLOCK_SIZE;

        if (offset + length > v->bytes) { /* the last block may be shorter */
                memset(record_payload(r, first + n - 1), 0, BLOCK_SIZE);
                length = v->bytes - offset;
        }
        r->reads[first] = (Io) {
                .op = IO_READ,
                .disk = v->disk,
                .offset = offset,
                .length = length,
                .buffer = record_payload(r, first),
                .done = old_read,
                .owner = r,
        };
        r->read_blocks[first] = (uint16_t) n;
        r->reading++;
        engine_io(e, &r->reads[first]);
}

static bool block_is_zero(const uint8_t *p) {
        return p[0] == 0 && memcmp(p, p + 1, BLOCK_SIZE - 1) == 0;
}

static void describe_content(Engine *e, Record *r, uint32_t i) {
        struct descriptor *d = record_descriptor(r, i);
        if (block_is_zero(record_payload(r, i)))
                d->flags = ENTRY_ZERO;
        else
                d->crc = crc32c(0, record_payload(r, i), BLOCK_SIZE);
}

static void old_read(Io *io, int result) {
        Record *r = io->owner;
        Engine *e = r->engine;
        uint32_t first = (uint32_t) (io - r->reads), n = r->read_blocks[first];

        engine_io_done(e, io);
        if (result < 0 && n > 1) { /* only the block that is bad is lost to the copy */
                for (uint32_t i = 0; i < n; i++)
                        read_submit(e, r, first + i, 1);
        } else if (result < 0) {
                record_descriptor(r, first)->flags = ENTRY_BAD;
        } else
                for (uint32_t i = 0; i < n; i++)
                        describe_content(e, r, first + i);
        r->reading--;
        log_pump(e);
}

uint32_t log_preserve(Engine *e, Volume *v, uint64_t block, uint32_t n, uint64_t *ret_sequence) {
        const Memtable *next = e->active == &e->memtables[0] ? &e->memtables[1] : &e->memtables[0];
        /* what is under way when a checkpoint changes them has to fit into the other, which a replay did not enlarge */
        uint32_t room = MIN_OF(e->active->capacity - e->active->used, next->capacity - 1);
        if (room <= e->unsettled) {
                checkpoint_maybe(e);
                return 0;
        }
        Record *r = e->open ?: record_open(e);
        if (!r)
                return 0;
        n = MIN_OF(n, e->record_blocks - r->count);
        n = MIN_OF(n, room - e->unsettled);
        uint32_t first = r->count;
        for (uint32_t i = 0; i < n; i++) {
                *record_descriptor(r, r->count) = (struct descriptor) {
                        .volblock = VOLBLOCK(v->number, block + i),
                        .epoch = v->tag,
                };
                inflight_add(e, r, r->count++);
        }
        e->unsettled += n;
        e->stats.preserved_blocks += n;
        if (r->count == e->record_blocks)
                record_close(e, r);
        read_submit(e, r, first, n);
        *ret_sequence = r->sequence;
        return n;
}

/* --- other records ------------------------------------------------------------------------------------------------ */

static void control_begin(Engine *e, Control *c, Record *r) {
        uint32_t max = MIN_OF((uint32_t) RECORD_BLOCKS_MAX + 1, e->segment_blocks) * BLOCK_SIZE -
                       sizeof(struct record_head);
        int x = c->fill(c, record_body(r), max, &r->count, &r->body_bytes);
        if (x < 0) {
                c->durable(c, x);
                return;
        }
        r->control = c;
        size_t bytes = sizeof(struct record_head) + r->body_bytes;
        r->head_blocks = (uint32_t) ((bytes + BLOCK_SIZE - 1) / BLOCK_SIZE);
        memset(r->buffer + bytes, 0, (size_t) r->head_blocks * BLOCK_SIZE - bytes);
        record_enqueue(e, r, c->type, RECORD_CLOSED);
}

static void controls_begin(Engine *e) {
        Control *c;
        Record *r;
        while ((c = STAILQ_FIRST(&e->controls)) && (r = record_unused(e, 0))) {
                STAILQ_REMOVE_HEAD(&e->controls, link);
                control_begin(e, c, r);
        }
}

void log_control(Engine *e, Control *c) {
        if (e->lost || e->log_full) {
                c->durable(c, e->lost ? -ENOMEDIUM : -ENOSPC);
                if (!e->lost)
                        checkpoint_want(e, NULL); /* perhaps there is room by the next time */
                return;
        }
        STAILQ_INSERT_TAIL(&e->controls, c, link);
        controls_begin(e);
        log_pump(e);
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

/* Payload blocks that need not be stored leave; the others move up. */
static void record_compact(Record *r) {
        if (r->compact)
                return;
        r->compact = true;
        for (uint32_t i = 0; i < r->count; i++) {
                struct descriptor *d = record_descriptor(r, i);
                if (d->flags & ENTRY_NO_PAYLOAD)
                        continue;
                if (r->payload_blocks != i)
                        memmove(record_payload(r, r->payload_blocks), record_payload(r, i), BLOCK_SIZE);
                d->payload = (uint16_t) r->payload_blocks++;
        }
        r->body_bytes = r->count * (uint32_t) sizeof(struct descriptor);
}

/* False: there is no room before the next checkpoint. */
static bool record_place(Engine *e, Record *r) {
        uint32_t blocks = r->head_blocks + r->payload_blocks;
        uint32_t usable = e->list_durable - 1;

        assert(blocks <= e->segment_blocks);
        if (e->log_block + blocks > e->segment_blocks) {
                if (e->list_at + 1 >= usable)
                        return false;
                e->list_at++;
                e->log_block = 0;
                e->tail_used++;
        }
        r->segment = e->list[e->list_at];
        r->block = e->log_block;
        e->log_block += blocks;
        return true;
}

static uint64_t descriptor_where(const Engine *e, const Record *r, const struct descriptor *d) {
        if (d->flags & ENTRY_NO_PAYLOAD)
                return ENTRY_WHERE(0, d->flags);
        return ENTRY_WHERE(segment_first_block(e, r->segment) + r->block + r->head_blocks + d->payload, d->flags);
}

static void record_written(Io *io, int result);

static void record_submit(Engine *e, Record *r) {
        struct record_head *h = (struct record_head *) r->buffer;
        size_t blocks = r->head_blocks + r->payload_blocks;

        *h = (struct record_head) {
                .magic = RECORD_MAGIC,
                .generation = e->generation,
                .sequence = r->sequence,
                .durable_upto = e->durable,
                .super_number = e->super_number,
                .type = r->type,
                .count = r->count,
                .body_bytes = r->body_bytes,
                .payload_blocks = r->payload_blocks,
        };
        memcpy(h->store, e->uuid, sizeof(h->store));
        h->head_crc = crc32c(0, r->buffer, (size_t) r->head_blocks * BLOCK_SIZE);
        for (uint32_t i = 0; r->type == RECORD_PRESERVE && i < r->count; i++)
                segment_entry_added(e, descriptor_where(e, r, record_descriptor(r, i)));
        if (e->shared)
                __atomic_store_n(&e->shared->tail_sequence, r->sequence, __ATOMIC_SEQ_CST);
        r->state = RECORD_WRITING;
        e->in_flight++;
        e->stats.records++;
        e->stats.record_bytes += blocks * BLOCK_SIZE;
        r->write = (Io) {
                .op = IO_WRITE_DURABLE,
                .disk = DISK_STORE,
                .offset = (segment_first_block(e, r->segment) + r->block) * BLOCK_SIZE,
                .length = blocks * BLOCK_SIZE,
                .buffer = r->buffer,
                .done = record_written,
                .owner = r,
        };
        engine_io(e, &r->write);
}

enum { LOG_FRUITLESS_MAX = 2 }; /* what the first has found free, the second can take */

bool log_is_stuck(const Engine *e) {
        return e->log_stalled && e->log_fruitless >= LOG_FRUITLESS_MAX;
}

static bool record_may_grow(const Engine *e, const Record *r) {
        return r->state == RECORD_OPEN && r->count < e->limits.record_worth && e->awaited > 0;
}

void log_pump(Engine *e) {
        Record *r;
        TAILQ_FOREACH(r, &e->queue, link) {
                if (r->state == RECORD_WRITING || r->state == RECORD_DONE)
                        continue;
                if (e->lost || r->reading > 0 || e->in_flight >= RECORDS_IN_FLIGHT_MAX || record_may_grow(e, r))
                        return;
                if (r->state == RECORD_OPEN)
                        record_close(e, r);
                if (r->type == RECORD_PRESERVE)
                        record_compact(r);
                if (!record_place(e, r)) {
                        e->log_stalled = true;
                        if (!log_is_stuck(e))
                                checkpoint_want(e, NULL);
                        return;
                }
                record_submit(e, r);
        }
}

/* --- durable ------------------------------------------------------------------------------------------------------ */

static void record_settle(Engine *e, Record *r) {
        for (uint32_t i = 0; i < r->count; i++) {
                const struct descriptor *d = record_descriptor(r, i);
                struct run_entry entry = {
                        .volblock = d->volblock,
                        .where = descriptor_where(e, r, d),
                        .epoch = d->epoch,
                        .crc = d->crc,
                };
                Volume *v = volume_by_volblock(e, d->volblock);
                inflight_remove(e, r, i);
                index_insert(e, &entry);
                if (d->flags & ENTRY_ZERO)
                        e->stats.zero_blocks++;
                if (v)
                        bits_set(e, v, VOLBLOCK_BLOCK(d->volblock), d->epoch);
        }
        e->unsettled -= r->count;
}

static void record_durable(Engine *e, Record *r) {
        Control *c = r->control;
        if (r->type == RECORD_PRESERVE)
                record_settle(e, r);
        e->durable = MAX_OF(e->durable, r->sequence);
        TAILQ_REMOVE(&e->queue, r, link);
        r->state = RECORD_UNUSED;
        r->control = NULL;
        if (c)
                c->durable(c, 0);
}

/* I1: from the front only; what lies behind a record that is not durable would not be found by a replay. */
static void log_advance(Engine *e) {
        for (Record *r = TAILQ_FIRST(&e->queue), *next; r; r = next) {
                next = TAILQ_NEXT(r, link);
                if (r->state == RECORD_DONE)
                        record_durable(e, r);
                else if (ORDER(RECORDS_IN_ORDER))
                        break;
        }
}

static void record_written(Io *io, int result) {
        Record *r = io->owner;
        Engine *e = r->engine;

        engine_io_done(e, io);
        e->in_flight--;
        if (e->lost)
                return;
        if (result < 0) {
                engine_lose(e, "a record of the log could not be written: %s", strerror(-result));
                return;
        }
        r->state = RECORD_DONE;
        log_advance(e);
        controls_begin(e);
        log_pump(e);
        ops_wake_durable(e);
        ops_wake_room(e);
        checkpoint_maybe(e);
}

/* Its place in the order stays; it says nothing any more. */
static void record_refuse(Record *r) {
        Control *c = TAKE_PTR(r->control);
        memset(r->buffer, 0, (size_t) r->head_blocks * BLOCK_SIZE);
        r->type = RECORD_COMMIT;
        r->head_blocks = 1;
        r->count = r->body_bytes = 0;
        c->durable(c, -ENOSPC);
}

void log_refuse(Engine *e) {
        Record *r;
        Control *c;

        e->log_full = true;
        TAILQ_FOREACH(r, &e->queue, link)
                if (r->state == RECORD_CLOSED && r->control)
                        record_refuse(r);
        while ((c = STAILQ_FIRST(&e->controls))) {
                STAILQ_REMOVE_HEAD(&e->controls, link);
                c->durable(c, -ENOSPC);
        }
        ops_wake_durable(e); /* who has nothing to preserve any more */
        ops_wake_room(e);
}

void log_abandon(Engine *e) {
        Record *r;
        Control *c;

        /* Reads and writes of theirs may still come back: the memory stays, only nobody waits for them. */
        while ((r = TAILQ_FIRST(&e->queue))) {
                TAILQ_REMOVE(&e->queue, r, link);
                c = r->control;
                r->control = NULL;
                if (c)
                        c->durable(c, -ENOMEDIUM);
        }
        e->open = NULL;
        while ((c = STAILQ_FIRST(&e->controls))) {
                STAILQ_REMOVE_HEAD(&e->controls, link);
                c->durable(c, -ENOMEDIUM);
        }
}
