/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What must never be frozen, because the snapshot, the thaw or the machine needs it: init, the bus, the journal, vssd
 * and all that belongs to it, who serves a block device or a file system, and ourselves. Judged by who is in the group,
 * at every level below it, and not by what it is called.
 */
#include "writers/unit-cgroup.h"

enum { NEEDED_OWNERS_MAX = 8 };

typedef struct Needed {
        struct {
                const char *what;
                pid_t pid;
        } owners[NEEDED_OWNERS_MAX]; /* of names on the bus */
        size_t n_owners;
} Needed;

/* Asks the bus who is who. */
void needed_look(Needed *n, sd_bus *bus, uint64_t until_usec);
/* Fails, with the reason, if the group holds anybody who is needed. */
int needed_check(const Needed *n, const Cgroup *c, Failure *reterr);
/* As needed_check, and also if systemd watches over a unit in it, which it would kill for not answering. */
int needed_check_all(const Needed *n, const Cgroup *c, sd_bus *bus, uint64_t until_usec, Failure *reterr);
