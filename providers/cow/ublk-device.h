/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* ublk devices, as device.h has loop devices. All of it blocks: only children of the holder call it. */
#include "providers/cow/ublk-control.h"

typedef struct UblkMake {
        UblkOwner owner;
        pid_t server;
        /* The device is there, and is started when the server takes its requests: it is told so. */
        void (*added)(void *userdata);
        void *userdata;
} UblkMake;

/*
 * A device for the node, or the one that a dead holder has left of the same volume; writes number and path to n. text:
 * what failed.
 */
int ublk_device_make(UblkControl *c, Node *n, const UblkMake *m, char *text, size_t size);
/* -EBUSY: open or mounted somewhere. 0 also when it is gone already. */
int ublk_device_drop(UblkControl *c, Node *n, char *text, size_t size);
/*
 * What a dead holder of this store has left of copies is ended, whoever uses it: what they show is gone. Devices of
 * volumes stay if keep, with all requests for them, for whoever attaches these; ret has the numbers of the volumes.
 */
void ublk_devices_sweep(UblkControl *c, const uint8_t store[4], bool keep, bool ret[VOLUME_NUMBERS]);
