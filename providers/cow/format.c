/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making an empty store: whatever superblocks were there are wiped first, then two checkpoints of an engine without
 * volumes write all four copies.
 */
#include "providers/cow/core.h"

typedef struct Formatting {
        Engine *engine;
        Reply *reply;
        uint8_t *zeros;
        Io io[SUPER_COPIES];
        unsigned left, checkpoints;
        int error;
} Formatting;

static void formatting_end(Formatting *f, int result) {
        Reply *r = f->reply;
        free(f->zeros);
        free(f);
        reply_done(r, result, "the store could not be written: %s", strerror(-result));
}

static void formatted(Waiter *w, int result) {
        Formatting *f = w->owner;
        Engine *e = f->engine;
        if (result < 0 || ++f->checkpoints == 2) {
                free(w);
                formatting_end(f, result);
        } else
                checkpoint_want(e, w);
}

static void format_write(Formatting *f) {
        Engine *e = f->engine;
        Waiter *w;
        if (f->error < 0 || waiter_new(e, formatted, f, NULL, &w) < 0) {
                formatting_end(f, f->error ?: -ENOMEM);
                return;
        }
        e->opened = true;
        checkpoint_want(e, w);
}

static void format_wiped(Io *io, int result) {
        Formatting *f = io->owner;
        engine_io_done(f->engine, io);
        f->error = f->error ?: MIN_OF(result, 0);
        if (--f->left == 0)
                format_write(f);
}

static int format_layout(Engine *e, uint32_t segments, uint32_t segment_blocks) {
        int r = engine_size(e, segments, segment_blocks);
        if (r < 0)
                return r;
        e->free_segments = segments;
        for (unsigned i = 1; i < SUPER_COPIES; i++) {
                e->segments[superblock_place(segments, segment_blocks, i) / segment_blocks].kind = SEGMENT_SUPER;
                e->free_segments--;
        }
        while (e->list_n < e->limits.reserved) {
                uint32_t s = segment_take(e, SEGMENT_LOG, META_RESERVE);
                if (!s)
                        return -ENOSPC;
                e->segments[s].reserved = true;
                e->list[e->list_n++] = s;
        }
        e->next_sequence = e->next_run = 1;
        return 0;
}

void engine_format(Engine *e, const uint8_t uuid[16], uint32_t segments, uint32_t segment_blocks, Reply *r) {
        Formatting *f;
        bool fits = segment_blocks >= SEGMENT_BLOCKS_MIN && segment_blocks <= SEGMENT_BLOCKS_MAX &&
                    segments >= STORE_SEGMENTS_MIN && segments <= STORE_SEGMENTS_MAX &&
                    (uint64_t) segments * segment_blocks * BLOCK_SIZE <= e->store_bytes &&
                    segments * sizeof(struct manifest_segment) <= (uint64_t) segment_blocks * BLOCK_SIZE / 2;
        if (e->opened || !fits || !(f = calloc(1, sizeof(Formatting)))) {
                reply_done(r, fits ? -ENOMEM : -EINVAL, "a store has at least %d segments, and must fit",
                           STORE_SEGMENTS_MIN);
                return;
        }
        memcpy(e->uuid, uuid, sizeof(e->uuid));
        *f = (Formatting) { .engine = e, .reply = r, .left = SUPER_COPIES, .zeros = block_alloc(1) };
        int x = f->zeros ? format_layout(e, segments, segment_blocks) : -ENOMEM;
        if (x < 0) {
                formatting_end(f, x);
                return;
        }
        for (unsigned i = 0; i < SUPER_COPIES; i++) {
                f->io[i] = (Io) {
                        .op = IO_WRITE_DURABLE,
                        .disk = DISK_STORE,
                        .offset = superblock_place(segments, segment_blocks, i) * BLOCK_SIZE,
                        .length = BLOCK_SIZE,
                        .buffer = f->zeros,
                        .done = format_wiped,
                        .owner = f,
                };
                engine_io(e, &f->io[i]);
        }
}
