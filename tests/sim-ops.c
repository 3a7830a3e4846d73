/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/sim-world.h"
#include <inttypes.h>
#include <stdio.h>

SimOp *op_take(World *w, SimOpKind kind) {
        for (unsigned i = 0; i < WORLD_OPS; i++) {
                SimOp *op = &w->ops[i];
                if (op->busy)
                        continue;
                op->busy = true;
                op->gated = op->answered = op->bad = false;
                op->kind = kind;
                op->world = w;
                op->number = (unsigned) ++w->next_number;
                op->result = 0;
                op->hold = WORLD_HOLDS;
                op->reply = (Reply) { .owner = op };
                w->busy++;
                return op;
        }
        return NULL;
}

void op_give(SimOp *op) {
        assert(op->busy);
        op->busy = false;
        op->world->busy--;
}

/* --- the end of a request ----------------------------------------------------------------------------------------- */

/* A failed request is right only where faults are injected. */
static bool may_fail(const World *w, const Vol *v, int result) {
        return w->options.may_lose || v->flush_failed || result == -ENOSPC;
}

static void read_ended(SimOp *op, Vol *v) {
        World *w = op->world;
        const Request *q = &op->request;
        char text[256];
        for (uint32_t i = 0; i < q->length / SIM_SECTOR; i++) {
                bool whole;
                uint32_t sector = (uint32_t) (q->offset / SIM_SECTOR) + i;
                uint64_t version = content_version((uint8_t *) q->buffer + (size_t) i * SIM_SECTOR, &whole);
                if (whole && oracle_allows(&v->oracle, sector, version, op->begun))
                        continue;
                oracle_describe(&v->oracle, sector, text, sizeof(text));
                world_fail(w, "#%u: %s sector %u reads %s%" PRIx64 " and may be:%s", op->number, v->name, sector,
                           whole ? "" : "torn ", version, text);
                return;
        }
}

bool snap_content_is_right(World *w, const Snap *s, const uint8_t *data, uint64_t offset, uint32_t length) {
        for (uint32_t i = 0; i < length / SIM_SECTOR; i++) {
                bool whole;
                uint32_t sector = (uint32_t) (offset / SIM_SECTOR) + i;
                uint64_t version = content_version(data + (size_t) i * SIM_SECTOR, &whole);
                bool was_free = s->free_blocks && s->free_blocks[sector / 8] && version == 0;
                if (whole && (version == s->content[sector] || was_free))
                        continue;
                world_fail(w, "snapshot %u of %s: block %u (sector %u) is %s%" PRIx64 " and was %" PRIx64,
                           (unsigned) (s - w->snaps), w->volumes[s->volume].name, sector / 8, sector,
                           whole ? "" : "torn ", version, s->content[sector]);
                return false;
        }
        w->blocks_read += (length + SIM_PAGE - 1) / SIM_PAGE;
        return true;
}

static void snap_read_ended(SimOp *op, int result) {
        World *w = op->world;
        const Snap *s = &w->snaps[op->snap];
        if (result == 0)
                (void) snap_content_is_right(w, s, op->buffer, op->request.offset, op->request.length);
        else if (result == -ENOENT ? s->state < SNAP_GOING && !w->lost : !w->options.may_lose)
                world_fail(w, "#%u: reading snapshot %u: %s", op->number, op->snap, strerror(-result));
}

static void change_ended(SimOp *op, Vol *v, int result) {
        World *w = op->world;
        const Request *q = &op->request;
        WriteEnd end = result < 0 || op->kind == OP_DISCARD ? WRITE_MAYBE : q->fua ? WRITE_DURABLE : WRITE_DONE;
        if (v->hold >= 0 && v->held)
                world_fail(w, "#%u: a %s of %s ended while its gate was closed", op->number, op_name(op->kind),
                           v->name);
        if (result < 0 && !may_fail(w, v, result))
                world_fail(w, "#%u: %s of %s: %s", op->number, op_name(op->kind), v->name, strerror(-result));
        free_written(v, op->begun, q->offset, q->length);
        oracle_write_ends(&v->oracle, op->begun, q->offset, q->length, end);
}

static void request_done(Request *q, int result) {
        SimOp *op = q->owner;
        World *w = op->world;
        Vol *v = &w->volumes[op->volume];

        world_trace(w, "#%u %s ends: %d", op->number, op_name(op->kind), result);
        if (!op->busy || op->answered) {
                world_fail(w, "#%u: answered twice", op->number);
                return;
        }
        op->answered = true;
        op->result = result;
        switch (op->kind) {
        case OP_READ:
                if (result == 0)
                        read_ended(op, v);
                else if (!may_fail(w, v, result))
                        world_fail(w, "#%u: reading %s: %s", op->number, v->name, strerror(-result));
                break;
        case OP_SNAP_READ:
                snap_read_ended(op, result);
                break;
        case OP_FLUSH:
                if (result == 0 && v->flush_failed && op->begun > v->flush_failed)
                        world_fail(w, "#%u: a flush of %s after one that failed", op->number, v->name);
                else if (result == 0)
                        oracle_flush_ends(&v->oracle, op->begun);
                else if (may_fail(w, v, result))
                        v->flush_failed = v->flush_failed ?: ++v->oracle.now;
                else
                        world_fail(w, "#%u: flush of %s: %s", op->number, v->name, strerror(-result));
                break;
        default:
                change_ended(op, v, result);
        }
        op_give(op);
}

/* --- the beginning ------------------------------------------------------------------------------------------------ */

static void versions_new(World *w, SimOp *op, uint32_t length) {
        /* now and then a whole block of zeros, in what is written as data */
        uint32_t first = (uint32_t) (op->request.offset / SIM_SECTOR), zero = sim_below(&w->random, 6);
        for (uint32_t i = 0; i < length / SIM_SECTOR; i++) {
                bool zeros = zero == 0 && (first + i) / 8 % 2 == 0;
                op->versions[i] = zeros ? 0 : ++w->next_version;
                content_fill(op->buffer + (size_t) i * SIM_SECTOR, op->versions[i]);
        }
}

void data_begin(World *w, SimOp *op, uint64_t offset, uint32_t length, bool fua) {
        static const RequestOp ops[OP_KINDS] = {
                [OP_READ] = REQUEST_READ,   [OP_SNAP_READ] = REQUEST_READ,  [OP_WRITE] = REQUEST_WRITE,
                [OP_FLUSH] = REQUEST_FLUSH, [OP_DISCARD] = REQUEST_DISCARD, [OP_ZERO] = REQUEST_ZERO,
        };
        Vol *v = &w->volumes[op->volume];
        Request *q = &op->request;

        *q = (Request) {
                .op = ops[op->kind],
                .fua = fua,
                .volume = v->handle,
                .snapshot = op->kind == OP_SNAP_READ ? w->snaps[op->snap].id : NULL,
                .offset = offset,
                .length = length,
                .buffer = op->buffer,
                .done = request_done,
                .owner = op,
        };
        if (op->kind == OP_WRITE)
                versions_new(w, op, length);
        if (op->kind == OP_WRITE || op->kind == OP_ZERO || op->kind == OP_DISCARD) {
                op->begun = oracle_write_begins(&v->oracle, offset, length, op->kind == OP_WRITE ? op->versions : NULL);
                op->gated = true;
        } else
                op->begun = ++v->oracle.now;
        world_trace(w, "#%u %s%s %s %" PRIu64 "+%u", op->number, op_name(op->kind), fua ? " fua" : "", v->name,
                    offset / SIM_SECTOR, length / SIM_SECTOR);
        engine_submit(w->engine, q);
}

void snap_read_begin(World *w, unsigned snap, uint64_t offset, uint32_t length) {
        SimOp *op = op_take(w, OP_SNAP_READ);
        if (!op)
                return;
        op->snap = snap;
        op->volume = w->snaps[snap].volume;
        data_begin(w, op, offset, length, false);
}

/* A place and a size, of whole blocks or not, more often near other ones. */
static void range_random(World *w, const Vol *v, uint64_t *ret_offset, uint32_t *ret_length) {
        uint32_t sectors = (uint32_t) (v->bytes / SIM_SECTOR), at, n;
        bool aligned = !(w->options.features & FEATURE_UNALIGNED) || sim_chance(&w->random, 2, 3);
        n = sim_chance(&w->random, 1, 6) ? 1 + sim_below(&w->random, 256) : 1 + sim_below(&w->random, 24);
        at = sim_below(&w->random, sim_chance(&w->random, 1, 2) ? sectors : MIN_OF(sectors, 64u));
        if (aligned) {
                at -= at % 8;
                n = (n + 7) / 8 * 8;
        }
        *ret_offset = (uint64_t) at * SIM_SECTOR;
        *ret_length = MIN_OF(n, sectors - at) * SIM_SECTOR;
}

static SimOpKind data_kind(World *w) {
        uint32_t x = sim_below(&w->random, 100);
        if (x < 58)
                return OP_WRITE;
        if (x < 64)
                return OP_ZERO;
        if (x < 69)
                return w->options.features & FEATURE_DISCARD ? OP_DISCARD : OP_WRITE;
        if (x < 76)
                return OP_FLUSH;
        return x < 85 ? OP_READ : OP_SNAP_READ;
}

static bool snap_random(World *w, unsigned *ret) {
        for (unsigned tries = 0; w->n_snaps > 0 && tries < 6; tries++) {
                unsigned n = MIN_OF(w->n_snaps, 12u), i = w->n_snaps - 1 - sim_below(&w->random, n);
                const Vol *v = &w->volumes[w->snaps[i].volume];
                bool usable = w->snaps[i].state == SNAP_MADE || w->snaps[i].state == SNAP_GOING;
                if (usable && v->state == VOL_PRESENT && v->attach == VOL_ATTACHED) {
                        *ret = i;
                        return true;
                }
        }
        return false;
}

void data_random(World *w) {
        SimOpKind kind = data_kind(w);
        uint64_t offset;
        uint32_t length;
        unsigned snap, volume = sim_below(&w->random, WORLD_VOLUMES);
        if (kind == OP_SNAP_READ) {
                if (!snap_random(w, &snap))
                        return;
                range_random(w, &w->volumes[w->snaps[snap].volume], &offset, &length);
                snap_read_begin(w, snap, offset, length);
                return;
        }
        Vol *v = &w->volumes[volume];
        if (v->state != VOL_PRESENT || v->attach != VOL_ATTACHED)
                return;
        SimOp *op = op_take(w, kind);
        if (!op)
                return;
        op->volume = volume;
        range_random(w, v, &offset, &length);
        if (kind == OP_FLUSH)
                offset = length = 0;
        bool fua = (kind == OP_WRITE || kind == OP_ZERO) && sim_chance(&w->random, 1, 8);
        data_begin(w, op, offset, length, fua);
}
