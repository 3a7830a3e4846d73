/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Sets that were not created and whose provider could not be brought to clean up: its process sleeps in the kernel and
 * cannot be killed (hazards B13: what it makes after the end of the set is a stray), or its abort failed. vssd asks
 * again until it succeeds; while such a process lives, no new set is made on its file systems.
 */
#include "daemon/set.h"

typedef struct Stray Stray;

/*
 * pidfd of the process that would not go (taken; -EBADF: none). The set's volumes of this provider: bits of volumes.
 * cleared: its copies may have lost their mark already, so abort alone does not find them.
 */
void strays_add(Manager *m, const Set *s, const char *provider, uint64_t volumes, int pidfd, bool cleared);
/* Is some process still at work on the file system of v? BUSY in *reterr. */
int strays_check(Manager *m, const Volume *v, Failure *reterr);
void strays_free(Manager *m);
