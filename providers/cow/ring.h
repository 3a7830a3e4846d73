/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The Disk of the real world: files and block devices behind one io_uring. One thread owns it. It also carries commands
 * to drivers that take them this way: those of ublk, whose requests and answers then cost no call of their own.
 */
#include "protocol/base.h"
#include "providers/cow/disk.h"

typedef struct Ring Ring;
typedef struct RingCommand RingCommand;

/* Stays with the driver until that has something to say: done() comes once, from dispatch, or never. */
struct RingCommand {
        int fd;
        uint32_t op;
        uint8_t argument[16];
        void (*done)(RingCommand *c, int result);
        TAILQ_ENTRY(RingCommand) link; /* the ring's */
};

int ring_new(Ring **ret);
/* What is under way is cancelled or waited for by the kernel; nobody is told. Closes no file. */
Ring *ring_free(Ring *r);
DEFINE_CLEANUP(Ring *, ring_free);
Disk *ring_disk(Ring *r);
/*
 * fd is the disk from now on, and stays the caller's, who keeps it open as long; -1: none. Opened with O_DIRECT;
 * nothing of that disk may be under way.
 */
int ring_set_file(Ring *r, unsigned disk, int fd);
/* Memory that most I/O goes to and from, aligned to pages; once. Faster, and never needed: failure is no error. */
int ring_register_memory(Ring *r, void *memory, size_t length);
/* Signalled when something has ended. Never read: wait for its edges (EPOLLET). */
int ring_eventfd(const Ring *r);
/* Hands everything over and calls done() of what has ended. How many, or -errno. Never waits. */
int ring_dispatch(Ring *r);
/* The same, but waits for at least one if anything is under way. */
int ring_wait(Ring *r);
/* Handed over by the next dispatch. */
void ring_command(Ring *r, RingCommand *c);
/*
 * Hands over n commands, a stride apart in memory, in one call of the kernel: whoever is killed meanwhile has handed
 * over all or none. Or -errno: none. n: at most RING_COMMANDS_MAX.
 */
enum { RING_COMMANDS_MAX = 128 };
int ring_commands_together(Ring *r, RingCommand *first, size_t stride, unsigned n);
