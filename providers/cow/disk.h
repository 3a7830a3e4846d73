/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the engine's core sees of the world: a number of disks that take requests and answer them later. The real one is
 * ring.c (io_uring); the simulator has one with a volatile cache that loses, tears and reorders what was not flushed.
 *
 * Rules. submit() never fails and never calls done() itself; done() comes exactly once, later, from the owner's loop,
 * in any order. The Io and its buffer belong to the disk until then. Disk 0 is the store, disk 1 and up are the
 * origins, and behind them are files that the engine knows nothing of (overlay.h). Buffers, offsets and lengths are
 * multiples of 512; those of the store multiples of 4096.
 */
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

typedef struct Disk Disk;
typedef struct Io Io;

typedef enum IoOp {
        IO_READ,
        IO_WRITE,         /* may be lost by a power cut until an IO_FLUSH that began after its end has ended */
        IO_WRITE_DURABLE, /* when done() says so it is on stable storage, and so is nothing else */
        IO_FLUSH,         /* every write of this disk that was done before the flush began is on stable storage */
        IO_ALLOCATE,      /* reserve the space of this range; what it reads as afterwards does not matter. Store only */
        IO_DISCARD,       /* the content of this range is no longer needed; may do nothing */
        IO_ZERO,          /* the range reads as zeros afterwards, as after IO_WRITE */
        IO_OP_MAX,
} IoOp;

enum { DISK_STORE = 0, DISK_FIRST_ORIGIN = 1, DISK_FIRST_OVERLAY = 65, DISK_MAX = 81 };

struct Io {
        IoOp op;
        unsigned disk;
        uint64_t offset; /* bytes */
        size_t length;   /* bytes; 0 for IO_FLUSH */
        void *buffer;    /* IO_READ, IO_WRITE, IO_WRITE_DURABLE */
        /* result: length (0 without buffer), or -errno. A short one does not happen: the disk goes on or says -EIO. */
        void (*done)(Io *io, int result);
        void *owner; /* done()'s */

        TAILQ_ENTRY(Io) link; /* the disk's, until done() */
        uint64_t disk_data;   /* the disk's, until done() */
};

struct Disk {
        void (*submit)(Disk *d, Io *io);
};

static inline void disk_submit(Disk *d, Io *io) {
        d->submit(d, io);
}
