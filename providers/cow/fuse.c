/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * /dev/fuse without libfuse, which cannot survive its own death: every request is read into a slot of memory that
 * outlives us (shared.h), and stays there until it is answered. One directory with one regular file per volume and per
 * copy that is shown; who opens them is a loop device with direct I/O, and nobody else.
 */
#include "providers/cow/front.h"
#include <linux/falloc.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>

#ifndef FOPEN_PARALLEL_DIRECT_WRITES
#define FOPEN_PARALLEL_DIRECT_WRITES (1 << 6)
#endif

enum {
        PROTOCOL_MINOR_MAX = 38, /* what was read when this was written; parallel direct writes came with it */
        CACHE_SECONDS = 3600,    /* neither size nor mode of a file changes */
        STRUCT_AT = 64 * 1024, /* where in the payload a reply other than data lies: behind every request but a write */
};

typedef struct FuseFront {
        Front front;
        int fd;
        SharedMap map;
        Request requests[SLOTS];
        uint16_t unused[SLOTS];
        unsigned n_unused;
        bool gone;
} FuseFront;

/* --- answering ---------------------------------------------------------------------------------------------------- */

/* ENOENT: the kernel no longer waits for it. */
static void send_reply(FuseFront *f, uint64_t unique, int error, const void *data, size_t size) {
        struct fuse_out_header h = { .len = (uint32_t) (sizeof(h) + size), .error = error, .unique = unique };
        struct iovec v[2] = { { &h, sizeof(h) }, { (void *) (uintptr_t) data, size } };
        while (writev(f->fd, v, size > 0 ? 2 : 1) < 0 && (errno == EINTR || errno == EAGAIN))
                ;
}

static void slot_clear(FuseFront *f, unsigned i) {
        Slot *s = &f->map.shared->slots[i];
        slot_request(&f->map, i)->len = 0;
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        __atomic_store_n(&s->done, 0, __ATOMIC_SEQ_CST);
        f->unused[f->n_unused++] = (uint16_t) i;
}

/*
 * The reply of a request that was carried out; also for one that a dead server carried out. Whatever is needed to carry
 * a request out again is intact until it is done: the answer to a write is made here, other structs lie far behind.
 */
static void slot_reply(FuseFront *f, unsigned i) {
        const Slot *s = &f->map.shared->slots[i];
        const struct fuse_in_header *h = slot_request(&f->map, i);
        struct fuse_write_out written = { .size = (uint32_t) s->result };
        if (s->result < 0)
                send_reply(f, h->unique, s->result, NULL, 0);
        else if (h->opcode == FUSE_WRITE)
                send_reply(f, h->unique, 0, &written, sizeof(written));
        else
                send_reply(f, h->unique, 0, slot_payload(&f->map, i) + (h->opcode == FUSE_READ ? 0 : STRUCT_AT),
                           (size_t) s->result);
        slot_clear(f, i);
}

/* From here on it is never carried out again (I6). */
static void slot_done(FuseFront *f, unsigned i, int result) {
        Slot *s = &f->map.shared->slots[i];
        s->result = result;
        __atomic_store_n(&s->done, 1, __ATOMIC_SEQ_CST);
        slot_reply(f, i);
}

static void reply_struct(FuseFront *f, unsigned i, const void *data, size_t size) {
        memcpy(slot_payload(&f->map, i) + STRUCT_AT, data, size);
        slot_done(f, i, (int) size);
}

/* --- what the file system looks like ------------------------------------------------------------------------------ */

static void fill_attributes(const FuseFront *f, const Node *n, struct fuse_attr *ret) {
        *ret = (struct fuse_attr) { .ino = 1, .mode = S_IFDIR | 0700, .nlink = 2, .blksize = BLOCK_SIZE };
        if (!n)
                return;
        ret->ino = node_id(f->map.shared, n);
        ret->size = n->bytes;
        ret->blocks = n->bytes / 512;
        ret->mode = S_IFREG | (n->kind == NODE_COPY ? 0400 : 0600);
        ret->nlink = 1;
}

static void answer_init(FuseFront *f, unsigned i, const struct fuse_init_in *in) {
        uint64_t offered = in->flags | (uint64_t) (in->flags & FUSE_INIT_EXT ? in->flags2 : 0) << 32;
        uint64_t wanted = offered &
                          (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_MAX_PAGES | FUSE_ASYNC_DIO | FUSE_INIT_EXT);
        struct fuse_init_out out = {
                .major = FUSE_KERNEL_VERSION,
                .minor = MIN_OF(in->minor, (uint32_t) PROTOCOL_MINOR_MAX),
                .max_readahead = in->max_readahead,
                .flags = (uint32_t) wanted,
                .flags2 = (uint32_t) (wanted >> 32),
                .max_background = SLOTS,
                .congestion_threshold = SLOTS,
                .max_write = REQUEST_BYTES_MAX,
                .time_gran = 1,
                .max_pages = REQUEST_BYTES_MAX / BLOCK_SIZE,
        };
        if (in->major != FUSE_KERNEL_VERSION)
                slot_done(f, i, -EPROTO);
        else
                reply_struct(f, i, &out, sizeof(out));
        f->map.shared->initialized = 1;
}

static void answer_lookup(FuseFront *f, unsigned i, const struct fuse_in_header *h, const char *name, size_t size) {
        const Node *n = h->nodeid == 1 && memchr(name, 0, size) ? node_by_name(f->map.shared, name) : NULL;
        struct fuse_entry_out out = { .attr_valid = CACHE_SECONDS };
        if (!n) {
                slot_done(f, i, -ENOENT);
                return;
        }
        out.nodeid = node_id(f->map.shared, n);
        fill_attributes(f, n, &out.attr);
        reply_struct(f, i, &out, sizeof(out));
}

static void answer_getattr(FuseFront *f, unsigned i, const struct fuse_in_header *h) {
        const Node *n = node_by_id(f->map.shared, h->nodeid);
        struct fuse_attr_out out = { .attr_valid = CACHE_SECONDS };
        if (!n && h->nodeid != 1) {
                slot_done(f, i, -ENOENT);
                return;
        }
        fill_attributes(f, n, &out.attr);
        reply_struct(f, i, &out, sizeof(out));
}

static void answer_open(FuseFront *f, unsigned i, const struct fuse_in_header *h, const struct fuse_open_in *in) {
        const Node *n = node_by_id(f->map.shared, h->nodeid);
        struct fuse_open_out out = { .open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES };
        if (!n)
                slot_done(f, i, -ENOENT);
        else if (n->kind == NODE_COPY && (in->flags & 3) != 0)
                slot_done(f, i, -EROFS);
        else
                reply_struct(f, i, &out, sizeof(out));
}

/* Before it is answered: what it leads to must come about even if we die now. */
static void answer_release(FuseFront *f, unsigned i, const struct fuse_in_header *h) {
        Node *n = node_by_id(f->map.shared, h->nodeid);
        if (n && n->kind == NODE_OVERLAY)
                f->front.options->released(f->front.options->userdata, n);
        slot_done(f, i, 0);
}

static void answer_statfs(FuseFront *f, unsigned i) {
        struct fuse_statfs_out out = {
                .st = { .bsize = BLOCK_SIZE, .frsize = BLOCK_SIZE, .namelen = NODE_NAME_MAX - 1 }
        };
        reply_struct(f, i, &out, sizeof(out));
}

/* --- data --------------------------------------------------------------------------------------------------------- */

static void data_done(Request *q, int result) {
        FuseFront *f = q->owner;
        unsigned i = (unsigned) (q - f->requests);
        result = front_done(&f->front, q, result);
        slot_done(f, i, result == 0 && (q->op == REQUEST_READ || q->op == REQUEST_WRITE) ? (int) q->length : result);
}

static void data_begin(FuseFront *f, unsigned i, RequestOp op, uint64_t offset, uint64_t length) {
        const Node *n = node_by_id(f->map.shared, slot_request(&f->map, i)->nodeid);
        Request *q = &f->requests[i];
        int r = front_request(&f->front, n, op, offset, length, q);
        if (r < 0) {
                slot_done(f, i, r);
                return;
        }
        q->buffer = slot_payload(&f->map, i);
        q->done = data_done;
        q->owner = f;
        front_submit(&f->front, n, q);
}

/*
 * Loop devices ask for holes both to discard, which would be advice, and to write zeros, which is not, and do not say
 * which. So a hole reads as zeros, and is preserved like anything else that is overwritten.
 */
static void data_fallocate(FuseFront *f, unsigned i, const struct fuse_fallocate_in *in) {
        uint32_t known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
        if (in->mode & ~known || !(in->mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)))
                slot_done(f, i, -EOPNOTSUPP);
        else if (in->length > UINT32_MAX - 511)
                slot_done(f, i, -EINVAL);
        else
                data_begin(f, i, REQUEST_ZERO, in->offset, in->length);
}

static void data_transfer(FuseFront *f, unsigned i, const struct fuse_in_header *h) {
        const struct fuse_write_in *in = (const struct fuse_write_in *) (h + 1); /* a read's begins the same way */
        if (in->size > REQUEST_BYTES_MAX)
                slot_done(f, i, -EINVAL);
        else
                data_begin(f, i, h->opcode == FUSE_READ ? REQUEST_READ : REQUEST_WRITE, in->offset, in->size);
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

/* Bytes that must follow the head; more is allowed for some. */
static size_t argument_size(uint32_t opcode) {
        switch (opcode) {
        case FUSE_INIT:
                return offsetof(struct fuse_init_in, flags2);
        case FUSE_OPEN:
                return sizeof(struct fuse_open_in);
        case FUSE_READ:
                return offsetof(struct fuse_read_in, read_flags);
        case FUSE_WRITE:
                return sizeof(struct fuse_write_in);
        case FUSE_FALLOCATE:
                return sizeof(struct fuse_fallocate_in);
        default:
                return 0;
        }
}

static void slot_handle(FuseFront *f, unsigned i) {
        const struct fuse_in_header *h = slot_request(&f->map, i);
        const void *argument = h + 1;
        size_t size = h->len - sizeof(*h);

        if (h->len < sizeof(*h) || size < argument_size(h->opcode)) {
                slot_done(f, i, -EINVAL);
                return;
        }
        switch (h->opcode) {
        case FUSE_READ:
        case FUSE_WRITE:
                data_transfer(f, i, h);
                break;
        case FUSE_FSYNC:
                data_begin(f, i, REQUEST_FLUSH, 0, 0);
                break;
        case FUSE_FALLOCATE:
                data_fallocate(f, i, argument);
                break;
        case FUSE_INIT:
                answer_init(f, i, argument);
                break;
        case FUSE_LOOKUP:
                answer_lookup(f, i, h, argument, size);
                break;
        case FUSE_GETATTR:
                answer_getattr(f, i, h);
                break;
        case FUSE_OPEN:
                answer_open(f, i, h, argument);
                break;
        case FUSE_STATFS:
                answer_statfs(f, i);
                break;
        case FUSE_FLUSH:
                slot_done(f, i, 0);
                break;
        case FUSE_RELEASE:
                answer_release(f, i, h);
                break;
        case FUSE_FORGET: /* these have no answer */
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
                slot_clear(f, i);
                break;
        default:
                slot_done(f, i, -ENOSYS);
        }
}

/* 1: one came. 0: there is none. */
static int slot_read(FuseFront *f, unsigned i) {
        struct fuse_in_header *h = slot_request(&f->map, i);
        size_t size = sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in) + REQUEST_BYTES_MAX;
        for (;;) {
                if (read(f->fd, h, size) >= 0)
                        return 1;
                if (errno == ENODEV)
                        f->gone = true;
                if (errno != EINTR && errno != ENOENT) /* ENOENT: it was taken back while we asked */
                        return errno == EAGAIN ? 0 : -errno;
        }
}

static int dispatch(Front *front) {
        FuseFront *f = container_of(front, FuseFront, front);
        int n = 0;
        while (f->n_unused > 0) {
                unsigned i = f->unused[--f->n_unused];
                int r = slot_read(f, i);
                if (r <= 0) {
                        f->unused[f->n_unused++] = (uint16_t) i;
                        return r < 0 ? r : n;
                }
                slot_handle(f, i);
                n++;
        }
        return n;
}

int fuse_front_new(const FrontOptions *o, Front **ret) {
        FuseFront *f = calloc(1, sizeof(FuseFront));
        if (!f)
                return -ENOMEM;
        f->front = (Front) { .options = o, .dispatch = dispatch };
        f->fd = o->fuse;
        f->map = *o->map;
        *ret = &f->front;
        for (unsigned i = 0; i < SLOTS; i++) {
                if (f->map.shared->slots[i].done)
                        slot_reply(f, i);
                else if (slot_request(&f->map, i)->len)
                        slot_handle(f, i);
                else
                        f->unused[f->n_unused++] = (uint16_t) i;
        }
        return 0;
}
