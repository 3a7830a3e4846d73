/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The core as the tests of faults have it: built with -DCOW_MUTATIONS, and with its calls of malloc() and the like
 * under other names (see meson.build), so that an allocation of the core can fail and one of the simulator does not.
 */
#include <stdint.h>

extern int order_disabled; /* an OrderPoint, or -1 */

/* The nth allocation from now on fails, once or with all that follow it; 0: none. */
void core_fail_allocation(uint64_t nth, int for_ever);
/* Allocations since then. */
uint64_t core_allocations(void);
