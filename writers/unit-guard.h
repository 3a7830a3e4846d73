/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The guard of what the writer of units freezes (protocol/guard-wire.h): a vss-guard that systemd starts for us outside
 * of our control group, by RUNTIME/guard.socket, or one that we start ourselves. And the record in RUNTIME/frozen/NAME,
 * for when both were killed at once: the next writer of that name, and what systemd runs when this one has ended, let
 * go of what it lists.
 */
#include "protocol/guard-wire.h"
#include "writers/unit-cgroup.h"

typedef struct UnitGuard {
        int socket, record; /* record: locked while what it lists is ours to thaw */
        uint32_t n;
        char record_path[LIMIT_PATH_BYTES];
} UnitGuard;
#define UNIT_GUARD_NULL ((UnitGuard) { .socket = -EBADF, .record = -EBADF })

/* A guard with these groups, ready; nothing is frozen yet. */
int unit_guard_open(UnitGuard *g, const char *name, const Cgroup *const groups[], size_t n, uint64_t until_usec,
                    Failure *reterr);
/* Before the first is frozen, and again when systemd has answered (unsettled false). */
int unit_guard_hold(UnitGuard *g, uint64_t thaw_by_usec, bool unsettled, Failure *reterr);
/* Lets all go. -ETIME: it had let go before. */
int unit_guard_release(UnitGuard *g, uint64_t until_usec);
/* The guard goes. keep: not in order, so it lets go of what there may be, and stays as long as it has to. */
void unit_guard_close(UnitGuard *g, bool keep);
/* Thaws what a writer of that name left frozen that lives no more. 1: there was a record of one. */
int unit_guard_leftovers(const char *name, Failure *reterr);
