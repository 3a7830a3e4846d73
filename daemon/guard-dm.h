/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Logical volumes that lvm left suspended. While one is, whoever writes to its file system sleeps, FITHAW included, and
 * nothing but a resume of the device helps (hazards A2). So whoever lets go of a file system on a logical volume first
 * resumes what is suspended in its volume group: the layers that lvm puts below an origin are not known beforehand.
 * Only what was not suspended before the set is, and only where vssd has said that lvm makes the copy.
 */
#include "protocol/base.h"

enum {
        GUARD_DM_GROUP_BYTES = 37,        /* "LVM-", the group's 32 letters and digits, NUL */
        GUARD_DM_SUSPENDED_MAX = 32,      /* of one group at one time; lvm makes no more than five */
        GUARD_DM_LIST_BYTES = 512 * 1024, /* names of all devices of the machine: some 4000 */
};

typedef struct GuardDm { /* of one volume; zeroed: none */
        char group[GUARD_DM_GROUP_BYTES];
        uint64_t dev;
        uint64_t before[GUARD_DM_SUSPENDED_MAX]; /* suspended already: somebody else's */
        uint32_t n_before;
} GuardDm;

/* The control device; -errno. */
int guard_dm_open(void);
/* -ENODEV: dev is no logical volume. */
int guard_dm_init(int control, uint64_t dev, GuardDm *ret);
/* If its own device is suspended: resumes, the lowest first; their number. A device that cannot be resumed is left.
 * Asks for no memory. */
unsigned guard_dm_resume(int control, const GuardDm *g);
