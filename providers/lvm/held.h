/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* What held.c, inside lvm, says to the keeper: calls of device mapper come by here. */
#define LVM_HELD_WORD "vss-lvm-held is asked\n"
