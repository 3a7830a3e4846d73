/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Throw-away overlays over snapshots. A file system that was not frozen when its snapshot was made has a log that must
 * be replayed before anything in it is believed, and replaying writes (hazards A6). So the snapshot is shown once more,
 * on a device of its own that can be written to: what is written goes to an unlinked file, and the snapshot stays what
 * it is. The overlay goes with the device.
 *
 * The file is sparse and has every block at its own place. Which blocks it has is a table in memory that the holder
 * keeps, as it keeps the file's descriptor: a server that is killed costs a pause here as well. A block is entered
 * after it is in the file and before the write is answered, and never taken out. What a dead server had under way has
 * ended when its successor has claimed the file, and is done again from the slots.
 *
 * An overlay is bounded, and so is what stands behind it: beyond its limit, or where the disk is full, writes to that
 * device fail with -ENOSPC and nothing else does.
 */
#include "providers/cow/engine.h"

typedef struct Overlays Overlays;

enum {
        OVERLAYS = DISK_MAX - DISK_FIRST_OVERLAY,
        /* As much as the largest journal that mkfs.ext4 makes unasked: each of its blocks replayed to another place. */
        OVERLAY_BYTES_MAX = 1024 * 1024 * 1024,
        OVERLAY_BLOCKS_MAX = OVERLAY_BYTES_MAX / BLOCK_SIZE,
};

/* The tables of all overlays as a memfd, sparse; -errno. */
int overlays_memory(void);
/* memory: from overlays_memory(), of a predecessor too; stays the caller's. */
int overlays_new(Engine *e, Disk *disk, int memory, Overlays **ret);
Overlays *overlays_free(Overlays *o);
/*
 * Its file is the disk DISK_FIRST_OVERLAY + number already. bytes: of the volume. blocks: how many it may have. fresh:
 * it has none; else those that a predecessor entered.
 */
int overlay_open(Overlays *o, unsigned number, uint64_t bytes, uint32_t blocks, bool fresh);
/* False: requests are under way, and it stays. Afterwards the file can be let go. */
bool overlay_close(Overlays *o, unsigned number);
/* A write was refused for want of room. */
bool overlay_is_full(const Overlays *o, unsigned number);
/* A read, write or flush of q->snapshot as it looks through the overlay; -EIO when it is not open. */
void overlay_submit(Overlays *o, unsigned number, Request *q);
