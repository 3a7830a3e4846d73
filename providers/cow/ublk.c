/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ublk devices: the kernel keeps every request until it is answered, and gives what a dead server had to the next one
 * (REISSUE). So there is no memory of requests here that has to outlive us. The rules that make this right:
 *
 *   R1  A device is taken over, and a request of it taken, only when the store and all origins are claimed anew: then
 *       nothing that a predecessor gave to a disk is under way any more, and none of it can land on something newer
 *       (hazards D7, D13). server_main() has that order.
 *   R2  A request is answered once, by one command that is also how the next one comes (COMMIT_AND_FETCH). If that was
 *       not carried out, nobody was told the result, and to do the request again is to do it: its client has issued
 *       nothing that depends on it. There is no state between (hazards A7).
 *   R3  All tags of a queue are given to the kernel by one call, so that a kill finds all or none there: a queue of
 *       which it has some cannot be taken over (Linux 6.12).
 *   R4  START and END commands never wait for I/O of the device: no partitions are looked for, since whoever parks
 *       the commands lacks CAP_SYS_ADMIN for that moment. Else a server killed meanwhile would leave the device
 *       locked for good, with its mutex held by somebody who waits for us.
 *
 * Data is copied by pread and pwrite on the character device (USER_COPY), so that buffers are taken when there is a
 * request and not parked with every tag of hundreds of devices: they are the slots of shared.h, which the ring knows.
 * Requests that find none wait in the order of their arrival.
 */
#include "providers/cow/front.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum {
        POSITION_TAG_SHIFT = 25, /* where the data of a tag lies in the character device */
        RECOVER_TICK_USEC = 500,
        OP_MASK = 0xff,
};
#define POSITION_DATA 0x80000000ULL
#define RECOVER_USEC (60 * USEC_PER_SEC)

typedef struct Queue Queue;

typedef struct Tag {
        RingCommand command; /* with the kernel, or on its way there */
        Request request;
        Queue *queue;
        int buffer;            /* slot, -1: none */
        TAILQ_ENTRY(Tag) link; /* waits for one */
} Tag;

struct Queue { /* of one device */
        LIST_ENTRY(Queue) link;
        struct UblkFront *front;
        const Node *node;
        uint64_t id; /* of the node, which may be another's by the time the last tag is back */
        int fd;
        const struct ublksrv_io_desc *descriptors;
        size_t length;
        unsigned n, out; /* tags; those that will come back */
        Tag tags[];
};

typedef struct UblkFront {
        Front front;
        LIST_HEAD(, Queue) queues;
        TAILQ_HEAD(, Tag) waiting;
        uint16_t unused[SLOTS];
        unsigned n_unused;
        bool starting; /* those that wait */
} UblkFront;

/* --- a request ---------------------------------------------------------------------------------------------------- */

static unsigned tag_number(const Tag *t) {
        return (unsigned) (t - t->queue->tags);
}

static void command_set(Tag *t, unsigned opcode, int result) {
        struct ublksrv_io_cmd io = { .tag = (uint16_t) tag_number(t), .result = result };
        _Static_assert(sizeof(io) == sizeof(t->command.argument), "what an entry of the ring has room for");
        t->command.op = _IOWR('u', opcode, struct ublksrv_io_cmd);
        memcpy(t->command.argument, &io, sizeof(io));
}

static bool moves_data(const Request *q) {
        return q->op == REQUEST_READ || q->op == REQUEST_WRITE;
}

/* Between the request's pages and our buffer. What is locked in memory cannot be missing; so this is 0 but for bugs. */
static int tag_copy(const Tag *t) {
        const Request *q = &t->request;
        off_t at = (off_t) (POSITION_DATA + ((uint64_t) tag_number(t) << POSITION_TAG_SHIFT));
        for (uint32_t done = 0; done < q->length;) {
                uint8_t *p = (uint8_t *) q->buffer + done;
                ssize_t n = q->op == REQUEST_WRITE ? pread(t->queue->fd, p, q->length - done, at + done) :
                                                     pwrite(t->queue->fd, p, q->length - done, at + done);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                done += (uint32_t) n;
        }
        return 0;
}

static void tag_begin(Tag *t);

static void buffer_free(UblkFront *f, Tag *t) {
        if (t->buffer < 0)
                return;
        f->unused[f->n_unused++] = (uint16_t) t->buffer;
        t->buffer = -1;
        if (f->starting) /* one that is answered at once would start the next one from inside */
                return;
        f->starting = true;
        for (Tag *next; f->n_unused > 0 && (next = TAILQ_FIRST(&f->waiting));) {
                TAILQ_REMOVE(&f->waiting, next, link);
                tag_begin(next);
        }
        f->starting = false;
}

static void tag_answer(Tag *t, int result) {
        UblkFront *f = t->queue->front;
        command_set(t, UBLK_OPCODE_COMMIT_AND_FETCH, result);
        ring_command(f->front.options->ring, &t->command);
        buffer_free(f, t);
}

static void tag_done(Request *q, int result) {
        Tag *t = container_of(q, Tag, request);
        result = front_done(&t->queue->front->front, q, result);
        if (result == 0 && q->op == REQUEST_READ)
                result = tag_copy(t);
        tag_answer(t, result == 0 && moves_data(q) ? (int) q->length : result);
}

/* With a buffer, if it needs one. */
static void tag_begin(Tag *t) {
        UblkFront *f = t->queue->front;
        Request *q = &t->request;
        if (moves_data(q)) {
                t->buffer = f->unused[--f->n_unused];
                q->buffer = slot_payload(f->front.options->map, (unsigned) t->buffer);
        }
        int r = q->op == REQUEST_WRITE ? tag_copy(t) : 0;
        if (r < 0)
                tag_answer(t, r);
        else
                front_submit(&f->front, t->queue->node, q);
}

static int request_op(uint32_t op_flags) {
        static const int ops[] = {
                [UBLK_IO_OP_READ] = REQUEST_READ,      [UBLK_IO_OP_WRITE] = REQUEST_WRITE,
                [UBLK_IO_OP_FLUSH] = REQUEST_FLUSH,    [UBLK_IO_OP_DISCARD] = REQUEST_DISCARD,
                [UBLK_IO_OP_WRITE_SAME] = -EOPNOTSUPP, [UBLK_IO_OP_WRITE_ZEROES] = REQUEST_ZERO,
        };
        return (op_flags & OP_MASK) < ELEMENTSOF(ops) ? ops[op_flags & OP_MASK] : -EOPNOTSUPP;
}

static void tag_handle(Tag *t) {
        UblkFront *f = t->queue->front;
        const struct ublksrv_io_desc *d = &t->queue->descriptors[tag_number(t)];
        uint64_t offset = d->start_sector * 512, length = (uint64_t) d->nr_sectors * 512;
        int op = request_op(d->op_flags);
        if (op == REQUEST_FLUSH)
                offset = length = 0;
        int r = op < 0 ? op : front_request(&f->front, t->queue->node, (RequestOp) op, offset, length, &t->request);
        if (r == 0 && (t->request.length != length || (moves_data(&t->request) && length > REQUEST_BYTES_MAX)))
                r = -EIO; /* the kernel knows the size and the limits */
        if (r < 0) {
                tag_answer(t, r);
                return;
        }
        t->request.fua = d->op_flags & UBLK_IO_F_FUA;
        t->request.done = tag_done;
        if (moves_data(&t->request) && f->n_unused == 0)
                TAILQ_INSERT_TAIL(&f->waiting, t, link);
        else
                tag_begin(t);
}

/* --- a queue ------------------------------------------------------------------------------------------------------ */

static void queue_free(Queue *q) {
        LIST_REMOVE(q, link);
        (void) munmap((void *) (uintptr_t) q->descriptors, q->length);
        (void) close_fd(q->fd);
        free(q);
}

/* A request, or the end of this tag: the device was stopped, or does not take us for its server. */
static void tag_came(RingCommand *c, int result) {
        Tag *t = container_of(c, Tag, command);
        if (result == UBLK_IO_RES_OK)
                tag_handle(t);
        else if (--t->queue->out == 0)
                queue_free(t->queue);
}

static int queue_open(UblkFront *f, const Node *n, Queue **ret) {
        unsigned tags = ublk_depth(n->kind);
        char name[32];
        Queue *q = calloc(1, sizeof(Queue) + tags * sizeof(Tag));
        if (!q)
                return -ENOMEM;
        (void) snprintf(name, sizeof(name), "ublkc%u", n->ublk - 1);
        q->length = (tags * sizeof(struct ublksrv_io_desc) + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
        q->fd = openat(f->front.options->devices, name, O_RDWR | O_CLOEXEC);
        void *p = q->fd < 0 ? MAP_FAILED : mmap(NULL, q->length, PROT_READ, MAP_SHARED | MAP_POPULATE, q->fd, 0);
        if (p == MAP_FAILED) {
                int r = -errno;
                (void) close_fd(q->fd);
                free(q);
                return r;
        }
        q->descriptors = p;
        q->front = f;
        q->node = n;
        q->id = node_id(f->front.options->map->shared, n);
        q->n = tags;
        LIST_INSERT_HEAD(&f->queues, q, link);
        *ret = q;
        return 0;
}

/* CAP_SYS_ADMIN in the effective set, or not. */
static void set_administrator(bool on) {
        struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct d[2];
        if (syscall(SYS_capget, &h, d) < 0)
                return;
        if (on)
                d[0].effective |= d[0].permitted & 1U << CAP_SYS_ADMIN;
        else
                d[0].effective &= ~(1U << CAP_SYS_ADMIN);
        (void) syscall(SYS_capset, &h, d);
}

/* R3, R4 */
static int queue_park(Queue *q) {
        for (unsigned i = 0; i < q->n; i++) {
                Tag *t = &q->tags[i];
                t->queue = q;
                t->buffer = -1;
                t->command.fd = q->fd;
                t->command.done = tag_came;
                command_set(t, UBLK_OPCODE_FETCH, -1);
        }
        q->out = q->n;
        set_administrator(false);
        int r = ring_commands_together(q->front->front.options->ring, &q->tags[0].command, sizeof(Tag), q->n);
        set_administrator(true);
        return r;
}

/* --- devices ------------------------------------------------------------------------------------------------------ */

static Queue *queue_of(const UblkFront *f, const Node *n) {
        Queue *q;
        LIST_FOREACH(q, &f->queues, link)
                if (q->node == n && q->id == node_id(f->front.options->map->shared, n))
                        return q;
        return NULL;
}

/* Until the kernel has back what a dead server had. */
static int recover_begin(const UblkFront *f, unsigned number) {
        uint64_t deadline = now_usec() + RECOVER_USEC;
        int r;
        while ((r = ublk_recover_begin(f->front.options->control, number)) == -EBUSY && now_usec() < deadline)
                (void) usleep(RECOVER_TICK_USEC);
        return r;
}

static int serve(Front *front, Node *n) {
        UblkFront *f = container_of(front, UblkFront, front);
        UblkControl *c = f->front.options->control;
        struct ublksrv_ctrl_dev_info info;
        unsigned number = n->ublk - 1;
        Queue *q = queue_of(f, n);
        if (q)
                return 0;
        int r = ublk_info(c, number, &info);
        bool recovers = r == 0 && info.state != UBLK_STATE_DEAD;
        if (recovers)
                r = recover_begin(f, number);
        r = r < 0 ? r : queue_open(f, n, &q);
        if (r < 0)
                return r;
        r = queue_park(q);
        if (r < 0) {
                queue_free(q);
                return r;
        }
        return recovers ? ublk_recover_end(c, number, getpid()) : 0;
}

/* Requests come and go with the ring. */
static int dispatch(Front *f) {
        return 0;
}

int ublk_front_new(const FrontOptions *o, Front **ret) {
        UblkFront *f = calloc(1, sizeof(UblkFront));
        if (!f)
                return -ENOMEM;
        f->front = (Front) { .options = o, .dispatch = dispatch, .serve = serve };
        LIST_INIT(&f->queues);
        TAILQ_INIT(&f->waiting);
        for (unsigned i = 0; i < SLOTS; i++)
                f->unused[f->n_unused++] = (uint16_t) i;
        *ret = &f->front;
        for (unsigned i = 0; i < NODES; i++) {
                Node *n = &o->map->shared->nodes[i];
                int r = n->kind != NODE_UNUSED && n->ublk ? serve(*ret, n) : 0;
                if (r == -ENODEV) { /* somebody else has deleted it */
                        n->ublk = 0;
                        n->device[0] = '\0';
                } else if (r < 0)
                        return r;
        }
        o->map->shared->initialized = 1;
        return 0;
}
