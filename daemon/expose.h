/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Makes a copy reachable for a call. A provider with directories mounts it at a place only root can enter, which
 * vss-mount then turns into what was asked for, so that no provider ever works with a caller's path; one with devices
 * hands out the device. Two processes that may sleep, so that vssd never does; each starts only while no window is
 * open.
 */
#include "daemon/call.h"
#include "daemon/mounter.h"

typedef struct Exposure Exposure;
/* fd is the callee's (-EBADF: none). The failure has been answered already where there was one: then this is not
 * called. */
typedef void (*ExposeDone)(Call *c, const struct MounterReply *reply, int fd);

/* q: what vss-mount is to do with it (staged is filled in). MOUNTER_DEVICE: hand out the device itself, q is not used.
 */
void expose(Call *c, const Snapshot *s, const struct MounterRequest *q, ExposeDone done);
Exposure *exposure_free(Exposure *e);
/* A place for a provider to mount a copy at: below the runtime directory, which is a tmpfs and root's. */
int expose_make_stage(Manager *m, char *ret, size_t size);
