/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One run of the engine without a frontend, for bench-engine.py: a store and an origin that exist, a number of
 * snapshots taken with writes between them, then timed writes.
 *
 *   bench-engine ORIGIN STORE none|first|again|model SNAPSHOTS QUEUE-DEPTH BLOCK-BYTES OPERATIONS
 *
 *   none    the volume has no snapshot
 *   first   every block is overwritten for the first time since the newest snapshot
 *   again   the blocks were overwritten since then already
 *   model   no engine: what a first overwrite asks of the disk. As many blocks as the queue is deep are read, stored in
 *           one durable write with one block more, and overwritten, over and over; no engine whose stored bytes stay
 *           near those overwritten can be faster
 *
 * Prints one line of JSON.
 */
#include "protocol/base.h"
#include "providers/cow/engine.h"
#include "providers/cow/ring.h"
#include "tests/support.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

typedef struct Bench {
        Ring *ring;
        Engine *engine;
        Volume *volume;
        uint64_t bytes;
        unsigned depth, size, pieces; /* an operation of more than a request's size is several requests */
        uint64_t operations, begun, ended, seed;
        uint32_t *order; /* which block when */
        struct Slot *slots;
        int result; /* of the last reply; 1: it has not come */
} Bench;

static void reply_came(Reply *r, int result) {
        Bench *b = r->owner;
        b->result = result;
        if (result < 0)
                test_die("bench-engine: %s", r->message);
}

#define CALL(b, ...) \
        do { \
                Reply reply = { .done = reply_came, .owner = (b) }; \
                (b)->result = 1; \
                __VA_ARGS__; \
                while ((b)->result == 1) \
                        if (ring_wait((b)->ring) < 0) \
                                test_die("bench-engine: the ring failed"); \
        } while (false)

static void shuffle(Bench *b) {
        uint64_t n = b->bytes / b->size;
        for (uint64_t i = 0; i < n; i++)
                b->order[i] = (uint32_t) i;
        for (uint64_t i = n - 1; i > 0; i--) {
                b->seed ^= b->seed << 13;
                b->seed ^= b->seed >> 7;
                b->seed ^= b->seed << 17;
                uint64_t k = b->seed % (i + 1);
                uint32_t t = b->order[i];
                b->order[i] = b->order[k];
                b->order[k] = t;
        }
}

typedef struct Slot { /* one operation under way */
        Bench *bench;
        unsigned left;
        Request *requests; /* pieces of them */
        uint8_t *buffer;
} Slot;

static void write_next(Bench *b, Slot *s);

static void written(Request *q, int result) {
        Slot *s = q->owner;
        if (result < 0)
                test_die("bench-engine: a write failed: %s", strerror(-result));
        if (--s->left > 0)
                return;
        s->bench->ended++;
        write_next(s->bench, s);
}

static void write_next(Bench *b, Slot *s) {
        if (b->begun == b->operations)
                return;
        uint64_t offset = (uint64_t) b->order[b->begun++] * b->size;
        s->left = b->pieces;
        for (unsigned i = 0; i < b->pieces; i++) {
                uint32_t length = b->size / b->pieces;
                s->requests[i] = (Request) {
                        .op = REQUEST_WRITE,
                        .volume = b->volume,
                        .offset = offset + (uint64_t) i * length,
                        .length = length,
                        .buffer = s->buffer + (size_t) i * length,
                        .done = written,
                        .owner = s,
                };
                engine_submit(b->engine, &s->requests[i]);
        }
}

/* Microseconds for that many writes. */
static uint64_t write_all(Bench *b, uint64_t operations) {
        uint64_t start = now_usec();
        b->operations = operations;
        b->begun = b->ended = 0;
        for (unsigned i = 0; i < b->depth; i++)
                write_next(b, &b->slots[i]);
        while (b->ended < operations)
                if (ring_wait(b->ring) < 0)
                        test_die("bench-engine: the ring failed");
        return now_usec() - start;
}

/* --- without an engine -------------------------------------------------------------------------------------------- */

static void model_ended(Io *io, int result) {
        Bench *b = io->owner;
        if (result < 0)
                test_die("bench-engine: I/O failed: %s", strerror(-result));
        b->ended++;
}

static void model_wait(Bench *b, uint64_t n) {
        while (b->ended < n)
                if (ring_wait(b->ring) < 0)
                        test_die("bench-engine: the ring failed");
        b->ended = 0;
}

static void model_step(Bench *b, IoOp op, Io *ios, uint64_t first) {
        for (unsigned i = 0; i < b->depth; i++) {
                ios[i] = (Io) {
                        .op = op,
                        .disk = DISK_FIRST_ORIGIN,
                        .offset = (uint64_t) b->order[first + i] * b->size,
                        .length = b->size,
                        .buffer = b->slots[i].buffer,
                        .done = model_ended,
                        .owner = b,
                };
                disk_submit(ring_disk(b->ring), &ios[i]);
        }
        model_wait(b, b->depth);
}

static uint64_t model_all(Bench *b, uint64_t operations, uint64_t store_bytes) {
        uint64_t start = now_usec(), at = 0, n = (uint64_t) b->depth * b->size + BLOCK_SIZE;
        Io *ios = calloc(b->depth, sizeof(Io)), record;
        uint8_t *buffer = aligned_alloc(BLOCK_SIZE, n);
        memset(buffer, 0x5a, n);
        for (uint64_t i = 0; i + b->depth <= operations; i += b->depth, at += n) {
                model_step(b, IO_READ, ios, i);
                if (at + n > store_bytes)
                        at = 0;
                record = (Io) { .op = IO_WRITE_DURABLE,
                                .disk = DISK_STORE,
                                .offset = at,
                                .length = n,
                                .buffer = buffer,
                                .done = model_ended,
                                .owner = b };
                disk_submit(ring_disk(b->ring), &record);
                model_wait(b, 1);
                model_step(b, IO_WRITE, ios, i);
        }
        free(buffer);
        free(ios);
        return now_usec() - start;
}

/* --- with one ----------------------------------------------------------------------------------------------------- */

static void snapshot(Bench *b) {
        static uint32_t serial;
        uint64_t token;
        Member m = { .volume = b->volume };
        uint8_t set[16] = { 1 };
        serial++;
        memcpy(m.snapshot, &serial, sizeof(serial));
        memcpy(set + 4, &serial, sizeof(serial));
        CALL(b, engine_hold(b->engine, &b->volume, 1, &token, &reply));
        CALL(b, engine_snapshot(b->engine, token, set, 1, &m, 1, &reply));
        (void) engine_release(b->engine, token);
}

static void engine_make(Bench *b, uint64_t store_bytes) {
        EngineOptions o = { .disk = ring_disk(b->ring), .store_bytes = store_bytes };
        const uint8_t uuid[16] = { 9 };
        if (engine_new(&o, &b->engine) < 0)
                test_die("bench-engine: out of memory");
        CALL(b, engine_format(b->engine, uuid, (uint32_t) (store_bytes / SEGMENT_BLOCKS / BLOCK_SIZE), SEGMENT_BLOCKS,
                              &reply));
        engine_free(b->engine);
        if (engine_new(&o, &b->engine) < 0)
                test_die("bench-engine: out of memory");
        CALL(b, engine_open(b->engine, &reply));
        CALL(b, engine_volume_create(b->engine, uuid, "bench", "/bench", b->bytes, &reply));
        b->volume = engine_volume_by_name(b->engine, "bench");
        CALL(b, engine_attach(b->engine, b->volume, DISK_FIRST_ORIGIN, &reply));
}

static uint64_t open_file(Bench *b, unsigned disk, const char *path) {
        struct stat st;
        int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0 || ring_set_file(b->ring, disk, fd) < 0)
                test_die("bench-engine: %s", path);
        return (uint64_t) st.st_size;
}

static void slots_make(Bench *b) {
        b->pieces = MAX_OF(b->size / REQUEST_BYTES_MAX, 1u);
        b->slots = calloc(b->depth, sizeof(Slot));
        for (unsigned i = 0; i < b->depth; i++) {
                b->slots[i].bench = b;
                b->slots[i].requests = calloc(b->pieces, sizeof(Request));
                b->slots[i].buffer = aligned_alloc(BLOCK_SIZE, b->size);
                memset(b->slots[i].buffer, 0x5a, b->size);
        }
}

static void result_print(const Bench *b, const EngineStats *before, uint64_t operations, uint64_t usec) {
        EngineStats s;
        engine_stats(b->engine, &s);
        uint64_t preserved = s.preserved_blocks - before->preserved_blocks;
        uint64_t stored = s.record_bytes + s.checkpoint_bytes + s.merge_bytes - before->record_bytes -
                          before->checkpoint_bytes - before->merge_bytes;
        printf("{\"operations\": %lu, \"usec\": %lu, \"iops\": %.0f, \"preserved\": %lu, \"stored_per_byte\": %.4f, "
               "\"checkpoint_bytes\": %lu, \"merge_bytes\": %lu, \"records\": %lu, \"origin_flushes\": %lu, "
               "\"store_writes\": %lu}\n",
               operations, usec, (double) operations * 1e6 / (double) usec, preserved,
               preserved ? (double) stored / (double) (preserved * BLOCK_SIZE) : 0,
               s.checkpoint_bytes - before->checkpoint_bytes, s.merge_bytes - before->merge_bytes,
               s.records - before->records, s.origin_flushes - before->origin_flushes,
               s.store_writes - before->store_writes);
}

int main(int argc, char **argv) {
        Bench b = { .seed = now_usec() | 1 };
        if (argc != 8)
                test_die("bench-engine: see the head of bench-engine.c");
        unsigned snapshots = (unsigned) atoi(argv[4]);
        uint64_t operations = (uint64_t) atoll(argv[7]);
        b.depth = (unsigned) atoi(argv[5]);
        b.size = (unsigned) atoi(argv[6]);
        if (ring_new(&b.ring) < 0)
                test_die("bench-engine: no ring");
        b.bytes = open_file(&b, DISK_FIRST_ORIGIN, argv[1]);
        uint64_t store_bytes = open_file(&b, DISK_STORE, argv[2]);
        b.order = calloc(b.bytes / b.size, sizeof(uint32_t));
        slots_make(&b);
        operations = MIN_OF(operations, b.bytes / b.size);
        if (streq(argv[3], "model")) {
                shuffle(&b);
                uint64_t usec = model_all(&b, operations, store_bytes);
                printf("{\"iops\": %.0f, \"stored_per_byte\": 0}\n", (double) operations * 1e6 / (double) usec);
                return 0;
        }
        engine_make(&b, store_bytes);
        for (unsigned i = 0; i < snapshots; i++) {
                snapshot(&b);
                shuffle(&b);
                write_all(&b, MIN_OF(operations, 64));
        }
        shuffle(&b);
        if (streq(argv[3], "first"))
                snapshot(&b);
        else if (streq(argv[3], "again")) {
                snapshot(&b);
                write_all(&b, operations);
        }
        CALL(&b, engine_collect(b.engine, &reply)); /* what was preserved before pays for itself before */
        EngineStats before;
        engine_stats(b.engine, &before);
        result_print(&b, &before, operations, write_all(&b, operations));
        CALL(&b, engine_stop(b.engine, &reply));
        engine_free(b.engine);
        return 0;
}
