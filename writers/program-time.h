/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* A time as people give it for going forward: with its zone, because nobody knows whose clock is meant otherwise. */
#include "protocol/base.h"

/* YYYY-MM-DD HH:MM:SS[.ffffff] with Z, +HH, +HHMM or +HH:MM, from 1970 on; microseconds since then. */
bool time_parse(const char *text, uint64_t *ret_usec);
