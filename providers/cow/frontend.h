/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Which of the two front ends a holder has, and devices of either kind. What blocks is for children of the holder. */
#include "providers/cow/holder.h"
#include "providers/cow/ublk-control.h"

typedef struct FrontendFiles {
        int fuse, mount;   /* /dev/fuse and the detached mount of it; -1 with ublk */
        int ublk, devices; /* /dev/ublk-control and /dev; -1 with FUSE */
} FrontendFiles;

Frontend frontend_by_name(const char *name); /* FRONTEND_MAX: none */
/*
 * FRONTEND_AUTO: ublk if this kernel has it with all we need, else FUSE. -EOPNOTSUPP: what was asked for is not there.
 * With an error one line is printed.
 */
int frontend_open(Frontend wanted, FrontendFiles *ret);
/*
 * Devices that a dead holder of this store has left. Loop devices and those of copies are ended. ublk devices of
 * volumes stay, with their requests, until the volumes are attached: these are marked in left. With FUSE they end, too.
 */
int frontend_sweep(const FrontendFiles *f, const char *label, const uint8_t store[4], bool left[VOLUME_NUMBERS]);

typedef struct FrontendMake {
        const char *label; /* of the loop device */
        uint8_t store[4];
        pid_t server;
        void (*added)(void *userdata); /* a ublk device is there and has to be served */
        void *userdata;
} FrontendMake;

int frontend_make(const FrontendFiles *f, Node *n, const FrontendMake *m, char *text, size_t size);
int frontend_drop(const FrontendFiles *f, Node *n, const char *label, char *text, size_t size);
