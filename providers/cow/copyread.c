/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a snapshot. Runs first, then memory, so that an entry on its way from memory into a run is seen in one of the
 * two; if the list of runs changed meanwhile, once more. A block nobody preserved is read from the origin, and after
 * that memory is asked again: entries appear before their block is overwritten (I3), so if there is still none, what
 * was read is the old content. Before all that comes the snapshot's free map: what is in it is zeros.
 */
#include "providers/cow/freemap.h"

static void copyread_look(Op *op);

static void consider(Op *op, const struct run_entry *e) {
        CopyBlock *b = &op->blocks[VOLBLOCK_BLOCK(e->volblock) - op->first];
        if (b->settled || (b->epoch && b->epoch < e->epoch))
                return; /* of two with the same epoch the later has moved */
        b->epoch = e->epoch;
        b->where = e->where;
        b->crc = e->crc;
}

static void copyread_entry(Scan *s, const struct run_entry *e) {
        consider(s->owner, e);
}

static void look_in_memory(Op *op, const Memtable *m) {
        if (!m)
                return;
        const struct run_entry *e = memtable_find(m, op->scan.lo, 0);
        for (; e && e->volblock < op->scan.hi; e = memtable_next(m, e))
                if (e->epoch >= op->scan.min_epoch)
                        consider(op, e);
}

static void copyread_end(Op *op, int result) {
        Copy *c = op->copy;
        if (result == 0 && c->gone)
                result = -ENOENT;
        else if (result == 0 && op->engine->lost)
                result = -ENOMEDIUM;
        else if (result == 0 && c->flags & SNAPSHOT_DAMAGED)
                result = -EIO;
        op->copy = NULL;
        copy_unref_reader(c);
        op_finish(op, result);
}

/* --- data --------------------------------------------------------------------------------------------------------- */

/* Bytes of the request that lie in block i of the op. */
static void copy_out(Op *op, uint32_t i) {
        const Request *q = op->request;
        uint64_t begin = (op->first + i) * BLOCK_SIZE, from = MAX_OF(begin, q->offset);
        uint64_t to = MIN_OF(begin + BLOCK_SIZE, q->offset + q->length);
        memcpy((uint8_t *) q->buffer + (from - q->offset), op->data + (size_t) i * BLOCK_SIZE + (from - begin),
               to - from);
}

static bool block_is_right(const Op *op, uint32_t i) {
        return crc32c(0, op->data + (size_t) i * BLOCK_SIZE, BLOCK_SIZE) == op->blocks[i].crc;
}

static void copyread_check(Op *op) {
        Engine *e = op->engine;
        if (op->error || op->copy->gone || e->lost) {
                copyread_end(op, op->error);
                return;
        }
        if (ORDER(LOOK_AGAIN_AFTER_READ) &&
            (op->insertions != e->insertions || op->index_version != e->index_version)) {
                copyread_look(op); /* what is settled stays; the rest is looked up again */
                return;
        }
        for (uint32_t i = 0; op->data == op->bounce && i < op->n_blocks; i++)
                copy_out(op, i);
        copyread_end(op, 0);
}

static void copyread_data(Io *io, int result) {
        Op *op = io->owner;
        Engine *e = op->engine;
        uint32_t first = (uint32_t) (io - op->reads);

        engine_io_done(e, io);
        if (io->disk == DISK_STORE) {
                segment_unpin(e, (uint32_t) (io->offset / BLOCK_SIZE / e->segment_blocks));
                for (uint32_t i = first; result >= 0 && i < first + op->read_blocks[first]; i++)
                        if (!block_is_right(op, i))
                                result = -EIO;
        }
        if (result < 0)
                op->error = op->error ?: result;
        if (--op->reading == 0)
                copyread_check(op);
}

static uint64_t block_place(const Op *op, uint32_t i) {
        return ENTRY_WHERE_BLOCK(op->blocks[i].where);
}

/* Blocks from i on that lie behind one another at the same place. */
static uint32_t extent_at(const Op *op, uint32_t i) {
        uint32_t n = 1, segment = (uint32_t) (block_place(op, i) / op->engine->segment_blocks);
        while (i + n < op->n_blocks && !op->blocks[i + n].settled && !op->blocks[i].epoch == !op->blocks[i + n].epoch) {
                if (op->blocks[i].epoch && (ENTRY_WHERE_FLAGS(op->blocks[i + n].where) & ENTRY_NO_PAYLOAD ||
                                            block_place(op, i + n) != block_place(op, i) + n ||
                                            block_place(op, i + n) / op->engine->segment_blocks != segment))
                        break;
                n++;
        }
        return n;
}

static void read_extent(Op *op, uint32_t i, uint32_t n) {
        Engine *e = op->engine;
        const Volume *v = op->volume;
        bool stored = op->blocks[i].epoch;
        uint64_t offset = (stored ? block_place(op, i) : op->first + i) * BLOCK_SIZE,
                 length = (uint64_t) n * BLOCK_SIZE;
        uint8_t *buffer = op->data + (size_t) i * BLOCK_SIZE;

        if (!stored && offset + length > v->bytes) {
                memset(buffer + length - BLOCK_SIZE, 0, BLOCK_SIZE);
                length = v->bytes - offset;
        }
        op->reads[i] = (Io) {
                .op = IO_READ,
                .disk = stored ? DISK_STORE : v->disk,
                .offset = offset,
                .length = length,
                .buffer = buffer,
                .done = copyread_data,
                .owner = op,
        };
        op->read_blocks[i] = (uint16_t) n;
        if (stored) {
                segment_pin(e, (uint32_t) (block_place(op, i) / e->segment_blocks));
        }
        for (uint32_t k = i; k < i + n; k++) {
                op->blocks[k].settled = stored;
                op->blocks[k].read = !stored;
        }
        op->reading++;
        engine_io(e, &op->reads[i]);
}

/* True: there is nothing to read for it. */
static bool settle_without_reading(Op *op, uint32_t i) {
        CopyBlock *b = &op->blocks[i];
        if (b->settled)
                return true;
        if (!b->epoch || !(ENTRY_WHERE_FLAGS(b->where) & ENTRY_NO_PAYLOAD))
                return false;
        if (ENTRY_WHERE_FLAGS(b->where) & ENTRY_BAD)
                op->error = -EIO;
        memset(op->data + (size_t) i * BLOCK_SIZE, 0, BLOCK_SIZE);
        return b->settled = true;
}

static void copyread_read(Op *op) {
        op->reading = 1; /* ours, so that nothing ends before all are on their way */
        for (uint32_t i = 0; i < op->n_blocks && !op->error;) {
                if (settle_without_reading(op, i)) {
                        i++;
                        continue;
                }
                uint32_t n = extent_at(op, i);
                read_extent(op, i, n);
                i += n;
        }
        if (--op->reading == 0)
                copyread_check(op);
}

/* --- index -------------------------------------------------------------------------------------------------------- */

static void copyread_looked(Scan *s, int result) {
        Op *op = s->owner;
        Engine *e = op->engine;

        if (result < 0) {
                if (!e->lost)
                        volume_damaged(e, op->volume, "a page of the index cannot be read");
                copyread_end(op, -EIO);
                return;
        }
        if (op->index_version != e->index_version) {
                copyread_look(op);
                return;
        }
        if (ORDER(MEMTABLE_UNTIL_INSTALLED))
                look_in_memory(op, e->frozen);
        look_in_memory(op, e->active);
        for (uint32_t i = 0; i < op->n_blocks; i++)
                if (op->blocks[i].read && !op->blocks[i].epoch)
                        op->blocks[i].settled = true; /* still nobody has preserved what was read before this look */
        op->insertions = e->insertions;
        copyread_read(op);
}

static void copyread_scan(Op *op, uint32_t min_epoch, bool extents, void (*entry)(Scan *, const struct run_entry *),
                          void (*done)(Scan *, int)) {
        op->scan = (Scan) {
                .lo = VOLBLOCK(op->volume->number, op->first),
                .hi = VOLBLOCK(op->volume->number, op->first + op->n_blocks),
                .min_epoch = min_epoch,
                .extents = extents,
                .entry = entry,
                .done = done,
                .owner = op,
        };
}

static void copyread_look(Op *op) {
        for (uint32_t i = 0; i < op->n_blocks; i++)
                if (!op->blocks[i].settled)
                        op->blocks[i].epoch = 0;
        op->index_version = op->engine->index_version;
        scan_start(op->engine, &op->scan);
}

/* --- what was free ------------------------------------------------------------------------------------------------ */

static void copyread_free_entry(Scan *s, const struct run_entry *e) {
        Op *op = s->owner;
        uint64_t first = MAX_OF(VOLBLOCK_BLOCK(e->volblock), op->first);
        uint64_t end = MIN_OF(VOLBLOCK_BLOCK(e->volblock) + ENTRY_WHERE_BLOCK(e->where), op->first + op->n_blocks);
        for (uint64_t b = first; b < end; b++) {
                if (freemap_is_struck(op->copy->map, b))
                        continue;
                memset(op->data + (size_t) (b - op->first) * BLOCK_SIZE, 0, BLOCK_SIZE);
                op->blocks[b - op->first].settled = true;
        }
}

static void copyread_index(Op *op) {
        copyread_scan(op, op->copy->epoch, false, copyread_entry, copyread_looked);
        copyread_look(op);
}

static void copyread_free(Scan *s, int result) {
        Op *op = s->owner;
        if (result == 0) {
                copyread_index(op);
                return;
        }
        if (!op->engine->lost && !op->copy->gone)
                copy_damaged(op->engine, op->copy, "a page of what was free cannot be read");
        copyread_end(op, -EIO);
}

void copyread_start(Op *op) {
        const Request *q = op->request;
        Engine *e = op->engine;
        Copy *c = e->lost ? NULL : copy_find(e, q->snapshot);
        if (c && c->dropped) /* the manifest being written is without it, and without its map */
                c = NULL;

        if (!c || c->volume != op->volume || (c->flags & SNAPSHOT_DAMAGED)) {
                op_finish(op, e->lost ? -ENOMEDIUM : !c || c->volume != op->volume ? -ENOENT : -EIO);
                return;
        }
        c->readers++;
        op->copy = c;
        op->error = 0;
        op->first = q->offset / BLOCK_SIZE;
        op->n_blocks = (uint32_t) ((q->offset + q->length + BLOCK_SIZE - 1) / BLOCK_SIZE - op->first);
        assert(op->n_blocks <= OP_BLOCKS_MAX);
        op->data = q->offset % BLOCK_SIZE || q->length % BLOCK_SIZE ? op->bounce : q->buffer;
        for (uint32_t i = 0; i < op->n_blocks; i++)
                op->blocks[i] = (CopyBlock) {};
        if (!c->map) {
                copyread_index(op);
                return;
        }
        copyread_scan(op, 0, true, copyread_free_entry, copyread_free);
        scan_start_in(e, &op->scan, c->map->set);
}
