/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Files for overlays: unlinked from birth, so that they go with whoever has them open. Blocks; for the holder's
 * children. */
#include "providers/cow/shared.h"

/*
 * A sparse file of that many bytes in directory. Returns an O_PATH descriptor; *ret_free: what it may grow to, so that
 * half of what is free there now stays. -EOPNOTSUPP with text: the directory is not on a local disk, or it lies on a
 * volume of this store, whose writes would then wait for themselves. same: a descriptor whose file system is known to
 * be none.
 */
int scratch_open(const char *directory, uint64_t bytes, const Shared *shared, int same, uint64_t *ret_free, char *text,
                 size_t n);
