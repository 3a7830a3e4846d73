/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A read that meets no block of the overlay is the engine's alone. Everything else goes through a lane: a buffer of
 * whole blocks that are fetched run by run from where they are, and then copied out, or copied over and written. There
 * is one lane for writes, so that two writes of different sectors of a block cannot undo each other, and so that room
 * is counted right; what writes is a replay, which is short. What finds no lane waits in line.
 */
#include "providers/cow/overlay.h"
#include "protocol/base.h"
#include <fcntl.h>
#include <sys/mman.h>

enum {
        LANES = 4,                                        /* the first is for writes */
        LANE_BLOCKS = REQUEST_BYTES_MAX / BLOCK_SIZE + 1, /* of a request that is not aligned */
        RUN_BLOCKS_MAX = REQUEST_BYTES_MAX / BLOCK_SIZE,  /* of an aligned read */
        KEYS_MAX = 2 * OVERLAY_BLOCKS_MAX,                /* at most half of a table is in use */
        TABLE_BYTES = KEYS_MAX * (int) sizeof(uint64_t),
};

typedef struct Overlay Overlay;

typedef struct Lane {
        Overlay *overlay;
        Request *request;        /* NULL: it is idle */
        uint64_t first, end, at; /* blocks; fetched up to at */
        uint8_t *blocks;         /* from first on */
        Request read;            /* of the engine */
        Io io;
} Lane;

struct Overlay {
        Engine *engine;
        Disk *disk;
        unsigned number;
        uint64_t bytes;
        uint64_t *keys; /* block + 1, 0: unused; NULL: it is not open */
        uint32_t n_keys;
        uint32_t used, limit; /* blocks */
        bool full;
        uint8_t *buffer;
        Lane lanes[LANES];
        STAILQ_HEAD(, Request) reads, writes; /* waiting for a lane */
};

struct Overlays {
        int memory;
        Overlay overlays[OVERLAYS];
};

/* --- the table ---------------------------------------------------------------------------------------------------- */

/* Where block is, or would be: there is always an unused place. */
static uint64_t *key_of(const Overlay *o, uint64_t block) {
        uint64_t hash = block * 0x9e3779b97f4a7c15ULL >> 32;
        for (uint64_t i = hash;; i++) {
                uint64_t *key = &o->keys[i & (o->n_keys - 1)];
                if (*key == 0 || *key == block + 1)
                        return key;
        }
}

static bool has(const Overlay *o, uint64_t block) {
        return *key_of(o, block) != 0;
}

static uint32_t missing(const Overlay *o, uint64_t first, uint64_t end) {
        uint32_t n = 0;
        for (uint64_t block = first; block < end; block++)
                n += !has(o, block);
        return n;
}

static void enter(Overlay *o, uint64_t block) {
        uint64_t *key = key_of(o, block);
        o->used += *key == 0;
        __atomic_store_n(key, block + 1, __ATOMIC_SEQ_CST);
}

/* --- lanes -------------------------------------------------------------------------------------------------------- */

static void lane_start(Lane *l, Request *q);

static bool changes(const Request *q) {
        return q->op == REQUEST_WRITE;
}

static void start_waiting(Overlay *o) {
        for (unsigned i = 0; i < LANES; i++) {
                Request *q = i == 0 ? STAILQ_FIRST(&o->writes) : STAILQ_FIRST(&o->reads);
                if (!q || o->lanes[i].request)
                        continue;
                if (i == 0)
                        STAILQ_REMOVE_HEAD(&o->writes, link);
                else
                        STAILQ_REMOVE_HEAD(&o->reads, link);
                lane_start(&o->lanes[i], q);
        }
}

static void lane_end(Lane *l, int result) {
        Overlay *o = l->overlay;
        Request *q = TAKE_PTR(l->request);
        o->full = o->full || result == -ENOSPC;
        q->done(q, result);
        start_waiting(o);
}

static void lane_io(Lane *l, IoOp op, uint64_t block, uint64_t n, void (*done)(Io *io, int result)) {
        l->io = (Io) {
                .op = op,
                .disk = DISK_FIRST_OVERLAY + l->overlay->number,
                .offset = block * BLOCK_SIZE,
                .length = n * BLOCK_SIZE,
                .buffer = l->blocks + (block - l->first) * BLOCK_SIZE,
                .done = done,
                .owner = l,
        };
        disk_submit(l->overlay->disk, &l->io);
}

static void lane_written(Io *io, int result) {
        Lane *l = io->owner;
        for (uint64_t block = l->first; result >= 0 && block < l->end; block++)
                enter(l->overlay, block);
        lane_end(l, MIN_OF(result, 0));
}

/* All that was needed is there. */
static void lane_fetched(Lane *l) {
        const Request *q = l->request;
        uint8_t *data = l->blocks + (q->offset - l->first * BLOCK_SIZE);
        if (changes(q)) {
                memcpy(data, q->buffer, q->length);
                lane_io(l, IO_WRITE, l->first, l->end - l->first, lane_written);
        } else {
                memcpy(q->buffer, data, q->length);
                lane_end(l, 0);
        }
}

/* Of a write only blocks that it does not cover. */
static bool is_needed(const Request *q, uint64_t block) {
        return !changes(q) || block * BLOCK_SIZE < q->offset || (block + 1) * BLOCK_SIZE > q->offset + q->length;
}

static void lane_fetch(Lane *l);

static void lane_came(Lane *l, int result) {
        if (result < 0)
                lane_end(l, -EIO);
        else
                lane_fetch(l);
}

static void lane_read(Request *r, int result) {
        lane_came(r->owner, result);
}

static void lane_read_overlay(Io *io, int result) {
        lane_came(io->owner, result);
}

/* The last block of a volume may be less than one: the rest is zeros, as its file has it. */
static void lane_read_snapshot(Lane *l, uint64_t block, uint64_t n) {
        uint64_t offset = block * BLOCK_SIZE, length = n * BLOCK_SIZE;
        uint8_t *buffer = l->blocks + (block - l->first) * BLOCK_SIZE;
        if (offset + length > l->overlay->bytes) {
                memset(buffer + length - BLOCK_SIZE, 0, BLOCK_SIZE);
                length = l->overlay->bytes - offset;
        }
        l->read = (Request) {
                .op = REQUEST_READ,
                .volume = l->request->volume,
                .snapshot = l->request->snapshot,
                .offset = offset,
                .length = (uint32_t) length,
                .buffer = buffer,
                .done = lane_read,
                .owner = l,
        };
        engine_submit(l->overlay->engine, &l->read);
}

/* The next run of blocks that are needed and lie at the same place. */
static void lane_fetch(Lane *l) {
        const Overlay *o = l->overlay;
        while (l->at < l->end && !is_needed(l->request, l->at))
                l->at++;
        if (l->at == l->end) {
                lane_fetched(l);
                return;
        }
        uint64_t block = l->at, n = 1;
        bool ours = has(o, block);
        while (block + n < l->end && n < RUN_BLOCKS_MAX && is_needed(l->request, block + n) &&
               has(o, block + n) == ours)
                n++;
        l->at += n;
        if (ours)
                lane_io(l, IO_READ, block, n, lane_read_overlay);
        else
                lane_read_snapshot(l, block, n);
}

static void lane_start(Lane *l, Request *q) {
        const Overlay *o = l->overlay;
        l->request = q;
        l->first = l->at = q->offset / BLOCK_SIZE;
        l->end = (q->offset + q->length + BLOCK_SIZE - 1) / BLOCK_SIZE;
        assert(l->end - l->first <= LANE_BLOCKS);
        if (changes(q) && missing(o, l->first, l->end) > o->limit - o->used)
                lane_end(l, -ENOSPC);
        else
                lane_fetch(l);
}

/* --- in ----------------------------------------------------------------------------------------------------------- */

void overlay_submit(Overlays *set, unsigned number, Request *q) {
        Overlay *o = &set->overlays[number];
        uint64_t first = q->offset / BLOCK_SIZE, end = (q->offset + q->length + BLOCK_SIZE - 1) / BLOCK_SIZE;
        assert(number < OVERLAYS && q->snapshot);
        if (!o->keys)
                q->done(q, -EIO);
        else if (q->op == REQUEST_FLUSH || q->length == 0) /* it need not outlive this machine */
                q->done(q, 0);
        else if (changes(q)) {
                STAILQ_INSERT_TAIL(&o->writes, q, link);
                start_waiting(o);
        } else if (missing(o, first, end) == end - first)
                engine_submit(o->engine, q);
        else {
                STAILQ_INSERT_TAIL(&o->reads, q, link);
                start_waiting(o);
        }
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static off_t table_place(unsigned number) {
        return (off_t) number * TABLE_BYTES;
}

static uint32_t keys_for(uint32_t blocks) {
        uint32_t n = BLOCK_SIZE / sizeof(uint64_t);
        while (n < 2 * blocks)
                n *= 2;
        return n;
}

static bool is_idle(const Overlay *o) {
        for (unsigned i = 0; i < LANES; i++)
                if (o->lanes[i].request)
                        return false;
        return STAILQ_EMPTY(&o->reads) && STAILQ_EMPTY(&o->writes);
}

static void overlay_done(Overlays *set, Overlay *o) {
        if (!o->keys)
                return;
        (void) munmap(o->keys, o->n_keys * sizeof(uint64_t));
        o->keys = NULL;
        free(o->buffer);
        o->buffer = NULL;
        (void) fallocate(set->memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, table_place(o->number), TABLE_BYTES);
}

static int buffers_new(Overlay *o) {
        void *p = NULL;
        if (posix_memalign(&p, BLOCK_SIZE, (size_t) LANES * LANE_BLOCKS * BLOCK_SIZE) != 0)
                return -ENOMEM;
        o->buffer = p;
        for (unsigned i = 0; i < LANES; i++)
                o->lanes[i] = (Lane) { .overlay = o, .blocks = o->buffer + (size_t) i * LANE_BLOCKS * BLOCK_SIZE };
        return 0;
}

int overlay_open(Overlays *set, unsigned number, uint64_t bytes, uint32_t blocks, bool fresh) {
        Overlay *o = &set->overlays[number];
        assert(!o->keys && blocks > 0 && blocks <= OVERLAY_BLOCKS_MAX);
        if (fresh &&
            fallocate(set->memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, table_place(number), TABLE_BYTES) < 0)
                return -errno;
        int r = buffers_new(o);
        if (r < 0)
                return r;
        o->n_keys = keys_for(blocks);
        void *p = mmap(NULL, o->n_keys * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                       set->memory, table_place(number));
        if (p == MAP_FAILED) {
                r = -errno;
                free(o->buffer);
                o->buffer = NULL;
                return r;
        }
        o->keys = p;
        o->bytes = bytes;
        o->limit = blocks;
        o->full = false;
        o->used = 0;
        for (uint32_t i = 0; i < o->n_keys; i++)
                o->used += o->keys[i] != 0;
        return 0;
}

bool overlay_close(Overlays *set, unsigned number) {
        Overlay *o = &set->overlays[number];
        if (!is_idle(o))
                return false;
        overlay_done(set, o);
        return true;
}

bool overlay_is_full(const Overlays *set, unsigned number) {
        return set->overlays[number].full;
}

int overlays_memory(void) {
        _cleanup_close_ int fd = memfd_create("vss-cow-overlays", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, table_place(OVERLAYS)) < 0)
                return -errno;
        return TAKE_FD(fd);
}

int overlays_new(Engine *e, Disk *disk, int memory, Overlays **ret) {
        Overlays *set = calloc(1, sizeof(Overlays));
        if (!set)
                return -ENOMEM;
        set->memory = memory;
        for (unsigned i = 0; i < OVERLAYS; i++) {
                Overlay *o = &set->overlays[i];
                o->engine = e;
                o->disk = disk;
                o->number = i;
                STAILQ_INIT(&o->reads);
                STAILQ_INIT(&o->writes);
        }
        *ret = set;
        return 0;
}

Overlays *overlays_free(Overlays *set) {
        for (unsigned i = 0; set && i < OVERLAYS; i++)
                if (set->overlays[i].keys) {
                        (void) munmap(set->overlays[i].keys, set->overlays[i].n_keys * sizeof(uint64_t));
                        free(set->overlays[i].buffer);
                }
        free(set);
        return NULL;
}
