/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * uring-blocker FILE: writes a block of FILE through an io_uring, does not look at the result, says "waiting" and
 * sleeps. On kernels before 6.18 the file system cannot be frozen as long as it lives (hazards A1): the kernel ends the
 * write in task work, which such a ring runs only when it is asked for completions.
 */
#include "protocol/base.h"
#include "tests/support.h"
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>

enum { BLOCK = 4096, TRIES = 200, PAUSE_USEC = 50000 /* the file system may be at its journal */ };

/* It has ended, and nobody has looked. False: somebody did, a worker that had to do the write in our place. */
static bool left_alone(struct io_uring *ring, int fd, const void *block) {
        io_uring_prep_write(io_uring_get_sqe(ring), fd, block, BLOCK, 0);
        if (io_uring_submit(ring) != 1)
                test_die("uring-blocker: the ring takes nothing");
        for (unsigned i = 0; i < 300; i++, (void) usleep(10000))
                if (io_uring_cq_ready(ring) > 0) {
                        io_uring_cq_advance(ring, 1);
                        return false;
                } else if (*ring->sq.kflags & IORING_SQ_TASKRUN)
                        break;
        return true;
}

int main(int argc, char **argv) {
        struct io_uring_params p = { .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                              IORING_SETUP_TASKRUN_FLAG };
        struct io_uring ring;
        unsigned tries = 0;
        if (argc != 2 || io_uring_queue_init_params(8, &ring, &p) < 0)
                test_die("uring-blocker: no ring, or not one file");
        int fd = open(argv[1], O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0644);
        void *block = aligned_alloc(BLOCK, BLOCK);
        if (fd < 0 || !block)
                test_die("uring-blocker: %s", argv[1]);
        memset(block, 1, BLOCK);
        if (pwrite(fd, block, BLOCK, 0) != BLOCK || fsync(fd) < 0) /* what it writes then needs no allocation */
                test_die("uring-blocker: %s cannot be written", argv[1]);
        for (; !left_alone(&ring, fd, block); (void) usleep(PAUSE_USEC))
                if (++tries == TRIES)
                        test_die("uring-blocker: the write ended in another way");
        (void) puts("waiting");
        (void) fflush(stdout);
        for (;;)
                (void) pause();
}
