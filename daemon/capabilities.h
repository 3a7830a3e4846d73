/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What our helpers give up of root. They read disks, documents and paths that others made, and none of them needs all
 * that root may: whoever talks one of them into something has only what it kept.
 */
#include "protocol/base.h"
#include <linux/capability.h>
#include <sys/types.h>

/* For good, and for whatever is executed; without effect where we are not root. Also sets no_new_privs. */
void capabilities_keep(const unsigned *kept, size_t n);
/*
 * A change of the file system uid takes the parent-death signal away: sets it again. -ESRCH if the parent, as it was
 * when we began, has gone meanwhile.
 */
int parent_death_arm(pid_t parent);
