/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests. Reads of a volume and flushes are passed on. A write passes the gate of its volume, then, piece by piece,
 * sees to it that every block it touches is preserved (I1), and only then goes to the origin. What has to wait is in
 * exactly one list: the gate's, a page of bits', waiting_room (no record has room) or waiting_durable.
 */
#include "providers/cow/freemap.h"

int ops_init(Engine *e) {
        uint32_t n = e->limits.requests;
        e->ops = calloc(n, sizeof(Op));
        e->bounces = block_alloc_dirty((size_t) n * OP_BLOCKS_MAX);
        STAILQ_INIT(&e->free_ops);
        STAILQ_INIT(&e->waiting_durable);
        STAILQ_INIT(&e->waiting_room);
        STAILQ_INIT(&e->waiting);
        if (!e->ops || !e->bounces)
                return -ENOMEM;
        for (uint32_t i = 0; i < n; i++) {
                e->ops[i].engine = e;
                e->ops[i].bounce = e->bounces + (size_t) i * OP_BLOCKS_MAX * BLOCK_SIZE;
                STAILQ_INSERT_TAIL(&e->free_ops, &e->ops[i], link);
        }
        return 0;
}

void ops_done(Engine *e) {
        for (uint32_t i = 0; e->ops && i < e->limits.requests; i++)
                if (e->ops[i].copy)
                        copy_unref_reader(e->ops[i].copy);
        free(e->ops);
        free(e->bounces);
        e->ops = NULL;
        e->bounces = NULL;
}

static void op_free(Op *op) {
        Engine *e = op->engine;
        STAILQ_INSERT_HEAD(&e->free_ops, op, link);
        e->ops_busy--;
}

void op_finish(Op *op, int result) {
        Engine *e = op->engine;
        Request *request = op->request;
        Volume *v = op->volume;
        bool counted = op->counted;

        op_free(op);
        v->requests--;
        if (counted) {
                v->writing--;
                hold_progress(e, v);
        }
        request->state = NULL;
        request->done(request, result);
        volume_progress(e, v);
        ops_start_waiting(e);
}

/* --- to the origin ------------------------------------------------------------------------------------------------ */

static void op_piece(Op *op);

static void op_submit(Op *op, IoOp what, uint64_t offset, uint64_t length, void *buffer, void (*done)(Io *, int)) {
        op->io = (Io) {
                .op = what,
                .disk = op->volume->disk,
                .offset = offset,
                .length = length,
                .buffer = buffer,
                .done = done,
                .owner = op,
        };
        engine_io(op->engine, &op->io);
}

static void op_passed(Io *io, int result) {
        Op *op = io->owner;
        engine_io_done(op->engine, io);
        op_finish(op, result < 0 ? result : 0);
}

static void op_flushed(Io *io, int result) {
        Op *op = io->owner;
        Volume *v = op->volume;
        engine_io_done(op->engine, io);
        if (result < 0)
                volume_flush_failed(v, result);
        op_finish(op, result < 0 ? result : 0);
}

static void op_flush(Op *op) {
        if (op->volume->flush_failed) {
                op_finish(op, -EIO);
                return;
        }
        op->engine->stats.origin_flushes++;
        op_submit(op, IO_FLUSH, 0, 0, NULL, op_flushed);
}

static void op_overwrite_ended(Op *op, int result) {
        const Request *q = op->request;
        if (result < 0) {
                op_finish(op, result);
                return;
        }
        op->cursor += op->io.length;
        if (op->cursor < q->offset + q->length)
                op_piece(op);
        else if (q->fua && q->op != REQUEST_WRITE)
                op_flush(op);
        else
                op_finish(op, 0);
}

static void op_overwritten(Io *io, int result) {
        Op *op = io->owner;
        Engine *e = op->engine;
        bool was_awaited = op->awaited;
        engine_io_done(e, io);
        op->awaited = false;
        op_overwrite_ended(op, result); /* and whoever sent it has sent the next */
        if (was_awaited && --e->awaited == 0)
                log_pump(e);
}

static void op_overwrite(Op *op, uint64_t length) {
        static const IoOp ops[REQUEST_MAX] = {
                [REQUEST_WRITE] = IO_WRITE, [REQUEST_ZERO] = IO_ZERO, [REQUEST_DISCARD] = IO_DISCARD
        };
        const Request *q = op->request;
        IoOp what = q->op == REQUEST_WRITE && q->fua ? IO_WRITE_DURABLE : ops[q->op];
        uint8_t *buffer = q->op == REQUEST_WRITE ? (uint8_t *) q->buffer + (op->cursor - q->offset) : NULL;
        op->engine->stats.origin_writes++;
        op->awaited = op->wait_sequence > 0;
        op->engine->awaited += op->awaited;
        op_submit(op, what, op->cursor, length, buffer, op_overwritten);
}

/* --- preserving --------------------------------------------------------------------------------------------------- */

/* How many blocks from op->block on need preserving and are not on their way; 0: this one does not. Or -EAGAIN. */
static int blocks_to_preserve(Op *op) {
        Engine *e = op->engine;
        Volume *v = op->volume;
        int n = 0;
        for (uint64_t block = op->block; block < op->end; block++, n++) {
                bool preserved;
                int r = bits_test(e, v, block, n == 0 ? op : NULL, &preserved);
                if (r == -EAGAIN && n > 0)
                        return n;
                if (r < 0)
                        return r;
                if (preserved)
                        return n;
                uint64_t sequence = log_in_flight(e, VOLBLOCK(v->number, block));
                if (sequence == 0)
                        continue;
                if (n == 0 && ORDER(SHARE_IN_FLIGHT))
                        op->wait_sequence = MAX_OF(op->wait_sequence, sequence);
                return n;
        }
        return n;
}

static bool log_fails_writes(const Engine *e) {
        return e->log_full && e->policy == POLICY_FAIL_WRITES;
}

/* False: it waits in some list, has failed, or the store is lost. */
static bool op_preserve(Op *op) {
        Engine *e = op->engine;
        while (op->block < op->end) {
                uint64_t sequence;
                int n = blocks_to_preserve(op);
                if (n == -EAGAIN)
                        return false;
                if (n < 0) {
                        engine_lose(e, "out of memory");
                        op_resume(op);
                        return false;
                }
                if (n == 0) {
                        op->block++;
                        continue;
                }
                if (log_fails_writes(e)) {
                        op_finish(op, -ENOSPC);
                        return false;
                }
                uint32_t took = log_preserve(e, op->volume, op->block, (uint32_t) n, &sequence);
                if (took == 0) {
                        STAILQ_INSERT_TAIL(&e->waiting_room, op, link);
                        return false;
                }
                op->wait_sequence = MAX_OF(op->wait_sequence, sequence);
                op->block += took;
        }
        if (op->wait_sequence > e->durable && ORDER(PRESERVE_BEFORE_OVERWRITE)) {
                if (log_fails_writes(e)) {
                        op_finish(op, -ENOSPC);
                        return false;
                }
                STAILQ_INSERT_TAIL(&e->waiting_durable, op, link);
                return false;
        }
        return true;
}

/* Advisory: whatever a copy may still need stays. */
static void op_discard(Op *op) {
        for (; op->block < op->end; op->block++) {
                bool preserved;
                int r = bits_test(op->engine, op->volume, op->block, op, &preserved);
                if (r == -EAGAIN)
                        return;
                if (r < 0 || !preserved) {
                        op_finish(op, 0);
                        return;
                }
        }
        op_overwrite(op, op->piece);
}

void op_resume(Op *op) {
        const Request *q = op->request;
        if (op->engine->lost || !volume_preserves(op->volume)) {
                if (op->engine->lost && !op->engine->lost_written) /* first the store has to say that it is */
                        STAILQ_INSERT_TAIL(&op->engine->waiting_room, op, link);
                else
                        op_overwrite(op, q->offset + q->length - op->cursor);
        } else if (q->op == REQUEST_DISCARD)
                op_discard(op);
        else if (op_preserve(op))
                op_overwrite(op, op->piece);
}

static void op_piece(Op *op) {
        const Request *q = op->request;
        uint64_t left = q->offset + q->length - op->cursor;

        if (volume_preserves(op->volume) && q->op == REQUEST_DISCARD && left > REQUEST_BYTES_MAX) {
                op_finish(op, 0);
                return;
        }
        op->piece = (uint32_t) MIN_OF(left, (uint64_t) REQUEST_BYTES_MAX);
        op->block = op->cursor / BLOCK_SIZE;
        op->end = (op->cursor + op->piece + BLOCK_SIZE - 1) / BLOCK_SIZE;
        op->wait_sequence = 0;
        op_resume(op);
}

/* --- in ----------------------------------------------------------------------------------------------------------- */

static void op_begin(Engine *e, Request *q) {
        Op *op = STAILQ_FIRST(&e->free_ops);
        Volume *v = q->volume;

        assert(v->attached && q->length % 512 == 0 && q->offset % 512 == 0);
        assert(q->offset <= v->bytes && q->length <= v->bytes - q->offset);
        STAILQ_REMOVE_HEAD(&e->free_ops, link);
        e->ops_busy++;
        v->requests++;
        op->request = q;
        op->volume = v;
        op->counted = false;
        op->cursor = q->offset;
        q->state = op;
        if (q->op == REQUEST_FLUSH)
                op_flush(op);
        else if (q->length == 0)
                op_finish(op, 0);
        else if (q->op == REQUEST_READ && q->snapshot)
                copyread_start(op);
        else if (q->op == REQUEST_READ)
                op_submit(op, IO_READ, q->offset, q->length, q->buffer, op_passed);
        else {
                op->counted = true;
                v->writing++;
                if (v->tracking)
                        freemap_note(v, q->offset, q->length);
                op_piece(op);
        }
}

static bool request_changes(const Request *q) {
        return q->op == REQUEST_WRITE || q->op == REQUEST_ZERO || q->op == REQUEST_DISCARD;
}

void engine_submit(Engine *e, Request *q) {
        if (request_changes(q) && q->volume->hold && ORDER(GATE_HOLDS_WRITES)) {
                STAILQ_INSERT_TAIL(&q->volume->gated, q, link);
                return;
        }
        if (STAILQ_EMPTY(&e->free_ops)) {
                q->volume->queued++;
                STAILQ_INSERT_TAIL(&e->waiting, q, link);
        } else
                op_begin(e, q);
}

void ops_start_waiting(Engine *e) {
        Request *q;
        while (!STAILQ_EMPTY(&e->free_ops) && (q = STAILQ_FIRST(&e->waiting))) {
                STAILQ_REMOVE_HEAD(&e->waiting, link);
                q->volume->queued--;
                engine_submit(e, q); /* its gate may have closed */
        }
}

void gate_opened(Engine *e, Volume *v) {
        STAILQ_HEAD(, Request) list = STAILQ_HEAD_INITIALIZER(list);
        STAILQ_CONCAT(&list, &v->gated);
        Request *q;
        while ((q = STAILQ_FIRST(&list))) {
                STAILQ_REMOVE_HEAD(&list, link);
                engine_submit(e, q);
        }
}

static void wake_all(OpList *list) {
        OpList woken = STAILQ_HEAD_INITIALIZER(woken);
        STAILQ_CONCAT(&woken, list);
        Op *op;
        while ((op = STAILQ_FIRST(&woken))) {
                STAILQ_REMOVE_HEAD(&woken, link);
                op_resume(op);
        }
}

void ops_wake_durable(Engine *e) {
        OpList woken = STAILQ_HEAD_INITIALIZER(woken), kept = STAILQ_HEAD_INITIALIZER(kept);
        Op *op;
        while ((op = STAILQ_FIRST(&e->waiting_durable))) {
                STAILQ_REMOVE_HEAD(&e->waiting_durable, link);
                if (op->wait_sequence <= e->durable || e->lost || !volume_preserves(op->volume))
                        STAILQ_INSERT_TAIL(&woken, op, link);
                else
                        STAILQ_INSERT_TAIL(&kept, op, link);
        }
        STAILQ_CONCAT(&e->waiting_durable, &kept);
        wake_all(&woken);
}

void ops_wake_room(Engine *e) {
        wake_all(&e->waiting_room);
}
