/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* What the host of a provider does for itself around the hold: steps are VSS_WIRE_* of providers/wire.h. */
#include <stdint.h>

void window_before(uint32_t step);
void window_after(uint32_t step); /* one that succeeded */
