/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SINGLE_ISSUER and DEFER_TASKRUN (kernel 6.1): completions run when the owner asks for them and not in between, which
 * saves an interrupt of the thread for each. Such a ring cannot be polled itself, so an eventfd is registered; the
 * kernel signals it when there is work to run. No SQPOLL: on two processors its thread takes one of them and I/O gets
 * twelve times slower. Files are not registered: a ring that has them lets go of them only when the kernel has taken it
 * apart, 40 ms after its owner was killed, and the successor waits for their locks; each I/O has a reference of its
 * own.
 *
 * submit() queues, and hands the queue over two at a time: requests that reach the device one after the other keep it
 * busier than thirty that come at once and end at once (15 to 30 % more of them at queue depth 32, measured on a virtio
 * disk). What is left is handed over by dispatch; what does not fit into the submission queue waits in a list of its
 * own. A result that is short goes on with the rest; one at the end of a file, or of nothing, is -EIO.
 */
#include "providers/cow/ring.h"
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

enum {
        RING_ENTRIES = 512, /* more than requests, records and reads of a full engine; the rest waits */
        HAND_OVER_AT = 2,   /* requests queued */
        REAP_MAX = 256,     /* at once, so that new requests get their turn */
        HOLE_REFUSED = 1,   /* disk_data of an IO_ZERO */
        IS_COMMAND = 1,     /* in the user data of a RingCommand, whose address is even */
};

struct Ring {
        Disk disk;
        struct io_uring ring;
        bool initialized;
        int eventfd;
        int fds[DISK_MAX];
        uint8_t *memory; /* registered */
        size_t memory_length;
        TAILQ_HEAD(, Io) waiting; /* for room in the submission queue */
        TAILQ_HEAD(, RingCommand) waiting_commands;
        unsigned in_flight;
};

/* disk_data of an Io that moves data: how much of it is done. */
static uint64_t done_bytes(const Io *io) {
        return io->disk_data;
}

static bool in_memory(const Ring *r, const void *p, size_t n) {
        const uint8_t *b = p;
        return r->memory && b >= r->memory && n <= r->memory_length && (size_t) (b - r->memory) <= r->memory_length - n;
}

static void prepare_transfer(const Ring *r, struct io_uring_sqe *s, const Io *io) {
        uint8_t *buffer = (uint8_t *) io->buffer + done_bytes(io);
        unsigned length = (unsigned) (io->length - done_bytes(io));
        uint64_t offset = io->offset + done_bytes(io);
        int fd = r->fds[io->disk];
        bool fixed = in_memory(r, buffer, length);

        if (io->op == IO_READ && fixed)
                io_uring_prep_read_fixed(s, fd, buffer, length, offset, 0);
        else if (io->op == IO_READ)
                io_uring_prep_read(s, fd, buffer, length, offset);
        else if (fixed)
                io_uring_prep_write_fixed(s, fd, buffer, length, offset, 0);
        else
                io_uring_prep_write(s, fd, buffer, length, offset);
        if (io->op == IO_WRITE_DURABLE)
                s->rw_flags = RWF_DSYNC;
}

/*
 * Zeros are a hole first. A loop device asks for holes for discards too, and a sparse origin that got its blocks back
 * as reserved ones would be as large as its volume after the first trim. On a block device it is a zeroing that may
 * give the space back; one that cannot refuses, and then the kernel writes the zeros itself.
 */
static int fallocate_mode(const Io *io) {
        static const int modes[IO_OP_MAX] = {
                [IO_ALLOCATE] = FALLOC_FL_KEEP_SIZE,
                [IO_DISCARD] = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                [IO_ZERO] = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        };
        return io->disk_data == HOLE_REFUSED ? FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE : modes[io->op];
}

static void prepare_other(const Ring *r, struct io_uring_sqe *s, const Io *io) {
        int fd = r->fds[io->disk];
        if (io->op == IO_FLUSH)
                io_uring_prep_fsync(s, fd, IORING_FSYNC_DATASYNC);
        else
                io_uring_prep_fallocate(s, fd, fallocate_mode(io), (off_t) io->offset, (off_t) io->length);
}

static bool moves_data(const Io *io) {
        return io->op == IO_READ || io->op == IO_WRITE || io->op == IO_WRITE_DURABLE;
}

/* False: there is no room now. */
static bool push(Ring *r, Io *io) {
        struct io_uring_sqe *s = io_uring_get_sqe(&r->ring);
        if (!s)
                return false;
        if (moves_data(io))
                prepare_transfer(r, s, io);
        else
                prepare_other(r, s, io);
        io_uring_sqe_set_data(s, io);
        r->in_flight++;
        return true;
}

static void ring_submit(Disk *d, Io *io) {
        Ring *r = container_of(d, Ring, disk);
        assert(io->disk < DISK_MAX && r->fds[io->disk] >= 0);
        io->disk_data = 0;
        if (!TAILQ_EMPTY(&r->waiting) || !push(r, io))
                TAILQ_INSERT_TAIL(&r->waiting, io, link);
        else if (io_uring_sq_ready(&r->ring) >= HAND_OVER_AT)
                (void) io_uring_submit(&r->ring); /* what it refuses stays, and dispatch sees to it */
}

/* They are not counted as under way: a driver may keep one for ever. */
static bool push_command(Ring *r, RingCommand *c) {
        struct io_uring_sqe *s = io_uring_get_sqe(&r->ring);
        if (!s)
                return false;
        io_uring_prep_rw(IORING_OP_URING_CMD, s, c->fd, NULL, 0, 0);
        s->cmd_op = c->op;
        memcpy(s->cmd, c->argument, sizeof(c->argument));
        io_uring_sqe_set_data64(s, (uint64_t) (uintptr_t) c | IS_COMMAND);
        return true;
}

void ring_command(Ring *r, RingCommand *c) {
        if (!TAILQ_EMPTY(&r->waiting_commands) || !push_command(r, c))
                TAILQ_INSERT_TAIL(&r->waiting_commands, c, link);
}

static void push_waiting(Ring *r) {
        RingCommand *c;
        Io *io;
        while ((c = TAILQ_FIRST(&r->waiting_commands)) && push_command(r, c))
                TAILQ_REMOVE(&r->waiting_commands, c, link);
        while ((io = TAILQ_FIRST(&r->waiting)) && push(r, io))
                TAILQ_REMOVE(&r->waiting, io, link);
}

/* --- results ------------------------------------------------------------------------------------------------------ */

static void again(Ring *r, Io *io) {
        if (!push(r, io))
                TAILQ_INSERT_TAIL(&r->waiting, io, link);
}

/* A file system or device without the call: discarding and reserving are advice; zeros are written. */
static int unsupported(const Ring *r, const Io *io) {
        static const uint8_t zeros[64 * 1024] __attribute__((aligned(4096)));
        if (io->op != IO_ZERO)
                return 0;
        int fd = r->fds[io->disk];
        for (uint64_t at = 0; at < io->length;) {
                ssize_t n = pwrite(fd, zeros, MIN_OF(sizeof(zeros), io->length - at), (off_t) (io->offset + at));
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                at += (uint64_t) n;
        }
        return 0;
}

static void came(Ring *r, Io *io, int result) {
        r->in_flight--;
        if (result == -EINTR || result == -EAGAIN) {
                again(r, io);
                return;
        }
        if (moves_data(io) && result > 0 && done_bytes(io) + (uint64_t) result < io->length) {
                io->disk_data += (uint64_t) result;
                again(r, io);
                return;
        }
        if (io->op == IO_ZERO && result == -EOPNOTSUPP && io->disk_data != HOLE_REFUSED) {
                io->disk_data = HOLE_REFUSED;
                again(r, io);
                return;
        }
        if (moves_data(io) && result >= 0)
                result = result == 0 && io->length > 0 ? -EIO : (int) io->length;
        else if (result == -EOPNOTSUPP && io->op != IO_FLUSH && !moves_data(io))
                result = unsupported(r, io);
        io->done(io, result);
}

static int reap(Ring *r) {
        struct io_uring_cqe *c[REAP_MAX];
        unsigned n = io_uring_peek_batch_cqe(&r->ring, c, REAP_MAX);
        uint64_t whose[REAP_MAX];
        int results[REAP_MAX];
        for (unsigned i = 0; i < n; i++) {
                whose[i] = io_uring_cqe_get_data64(c[i]);
                results[i] = c[i]->res;
        }
        io_uring_cq_advance(&r->ring, n);
        for (unsigned i = 0; i < n; i++)
                if (whose[i] & IS_COMMAND) {
                        RingCommand *command = (RingCommand *) (uintptr_t) (whose[i] & ~(uint64_t) IS_COMMAND);
                        command->done(command, results[i]);
                } else
                        came(r, (Io *) (uintptr_t) whose[i], results[i]);
        return (int) n;
}

static int hand_over(Ring *r, unsigned wait_for) {
        int x = 0;
        do {
                if (wait_for)
                        x = io_uring_submit_and_wait(&r->ring, wait_for);
                else if (io_uring_sq_ready(&r->ring) > 0)
                        x = io_uring_submit_and_get_events(&r->ring);
                else /* asks the kernel only if it said that there is something */
                        break;
        } while (x == -EINTR);
        return x == -EBUSY || x == -EAGAIN ? 0 : x; /* completions have to be reaped first */
}

int ring_dispatch(Ring *r) {
        int total = 0, n;
        do {
                push_waiting(r);
                int x = hand_over(r, 0);
                if (x < 0)
                        return x;
                n = reap(r);
                total += n;
        } while (n > 0 && total < REAP_MAX);
        return total;
}

int ring_commands_together(Ring *r, RingCommand *first, size_t stride, unsigned n) {
        int x = hand_over(r, 0);
        if (x < 0)
                return x;
        if (n > RING_COMMANDS_MAX || io_uring_sq_space_left(&r->ring) < n)
                return -EBUSY;
        for (unsigned i = 0; i < n; i++)
                (void) push_command(r, (RingCommand *) (void *) ((uint8_t *) first + i * stride));
        (void) hand_over(r, 0); /* should that fail, the next one does, and is heeded */
        return 0;
}

int ring_wait(Ring *r) {
        push_waiting(r);
        int x = hand_over(r, r->in_flight > 0);
        return x < 0 ? x : reap(r);
}

/* --- life --------------------------------------------------------------------------------------------------------- */

Disk *ring_disk(Ring *r) {
        return &r->disk;
}

int ring_eventfd(const Ring *r) {
        return r->eventfd;
}

int ring_set_file(Ring *r, unsigned disk, int fd) {
        assert(disk < DISK_MAX);
        r->fds[disk] = fd;
        return 0;
}

int ring_register_memory(Ring *r, void *memory, size_t length) {
        struct iovec v = { .iov_base = memory, .iov_len = length };
        int x = io_uring_register_buffers(&r->ring, &v, 1);
        if (x < 0)
                return x;
        r->memory = memory;
        r->memory_length = length;
        return 0;
}

static int ring_setup(Ring *r) {
        struct io_uring_params p = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                              IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE,
                                     .cq_entries = 4 * RING_ENTRIES };
        int x = io_uring_queue_init_params(RING_ENTRIES, &r->ring, &p);
        if (x == -EINVAL) { /* before 6.1 */
                p = (struct io_uring_params) { .flags = IORING_SETUP_CQSIZE, .cq_entries = 4 * RING_ENTRIES };
                x = io_uring_queue_init_params(RING_ENTRIES, &r->ring, &p);
        }
        if (x < 0)
                return x;
        r->initialized = true;
        (void) io_uring_register_ring_fd(&r->ring);
        return io_uring_register_eventfd(&r->ring, r->eventfd);
}

int ring_new(Ring **ret) {
        _cleanup_(ring_freep) Ring *r = calloc(1, sizeof(Ring));
        if (!r)
                return -ENOMEM;
        r->disk.submit = ring_submit;
        TAILQ_INIT(&r->waiting);
        TAILQ_INIT(&r->waiting_commands);
        for (unsigned i = 0; i < DISK_MAX; i++)
                r->fds[i] = -1;
        r->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (r->eventfd < 0)
                return -errno;
        int x = ring_setup(r);
        if (x < 0)
                return x;
        *ret = TAKE_PTR(r);
        return 0;
}

Ring *ring_free(Ring *r) {
        if (!r)
                return NULL;
        if (r->initialized)
                io_uring_queue_exit(&r->ring);
        (void) close_fd(r->eventfd);
        free(r);
        return NULL;
}
