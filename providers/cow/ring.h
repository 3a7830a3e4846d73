/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The Disk of the real world: files and block devices behind one io_uring. One thread owns it. The only file that knows
 * liburing is ring.c.
 */
#include "protocol/base.h"
#include "providers/cow/disk.h"

typedef struct Ring Ring;

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
