/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Disks with a volatile cache, for the engine's core. Each has two images: what a read sees, and what is on stable
 * storage. A write shows when the scheduler executes it, at a random moment between submit() and done(); it is stable
 * when a flush that began after its done() has ended, or it was IO_WRITE_DURABLE and is done. When the power goes, of
 * everything else any subset of 512-byte pieces has reached the platter: of two writes to the same place the later one
 * wins if both did. What is submitted and not yet executed may have reached it too. Sectors of the store may themselves
 * be torn. One I/O of 24 is slow: hundreds of others pass it.
 *
 * Images are pages that are shared between copies, so that a crash state costs what differs.
 */
#include "providers/cow/disk.h"
#include "tests/sim-random.h"
#include <stdbool.h>

enum { SIM_SECTOR = 512, SIM_PAGE = 4096, SIM_FAULTS_MAX = 4 };

typedef struct SimDisk SimDisk;

/* I/O that fails. It counts those that match; number `nth` of them (from 1) fails, or all from there on. */
typedef struct SimFault {
        int disk;                /* -1: any */
        uint32_t ops;            /* mask of 1 << IO_* */
        uint64_t offset, length; /* only what touches this range; length 0: anything */
        uint64_t nth;
        bool permanent;
        int error;     /* positive */
        uint64_t seen; /* so far */
} SimFault;

typedef enum SimCut {
        SIM_CUT_RANDOM, /* each piece or not */
        SIM_CUT_WHOLE,  /* each write or not */
        SIM_CUT_ALL,
        SIM_CUT_NONE,
        SIM_CUT_LAST,    /* only the last write */
        SIM_CUT_PREFIX,  /* the first so many pieces */
        SIM_CUT_BUT_ONE, /* all but one piece */
        SIM_CUT_MAX,
} SimCut;

SimDisk *sim_disk_new(uint64_t seed);
SimDisk *sim_disk_free(SimDisk *d);
/* Zeroed, of that size; one that is there already is replaced. */
void sim_disk_add(SimDisk *d, unsigned disk, uint64_t bytes);
uint64_t sim_disk_bytes(const SimDisk *d, unsigned disk);
Disk *sim_disk_interface(SimDisk *d);
SimFault *sim_disk_fault(SimDisk *d, const SimFault *fault);
void sim_disk_faults_clear(SimDisk *d);

/* Executes or answers one I/O; false: there is none. */
bool sim_disk_step(SimDisk *d);
unsigned sim_disk_in_flight(const SimDisk *d);
/* How many writes the next cut may lose or keep. */
unsigned sim_disk_unstable(const SimDisk *d);
/* What a read would see. */
void sim_disk_peek(const SimDisk *d, unsigned disk, uint64_t offset, void *buffer, size_t length);
/* Writes to both images, behind everybody's back. */
void sim_disk_poke(SimDisk *d, unsigned disk, uint64_t offset, const void *buffer, size_t length);

/* A new disk as the power cut at this moment would leave it; d is as it was. */
SimDisk *sim_disk_cut(const SimDisk *d, SimCut how, uint64_t seed);
/* A new disk as the death of the process at this moment would leave it, with its cache; d is as it was. */
SimDisk *sim_disk_killed(const SimDisk *d, uint64_t seed);
/* Forgets what is in flight: nobody will be answered. */
void sim_disk_forget(SimDisk *d);
/* Every I/O on stderr. */
void sim_disk_trace(SimDisk *d, bool on);
/* I/O answered so far, ever. */
uint64_t sim_disk_answered(const SimDisk *d);
