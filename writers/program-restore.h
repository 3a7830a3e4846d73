/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* What writers that complete a restored directory have in common. */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <sys/types.h>

/* Where path went, by the lines OLD=NEW of "new_targets"; what lies below an OLD goes along. The caller frees it. */
char *restore_moved_to(const char *targets, const char *path);
/*
 * From here on files are opened and made with the rights of owner, and the group of directory, in this thread alone.
 * Whoever is not root has no other rights than its own. -EPERM: they cannot be had.
 */
int restore_rights_take(const char *directory, uid_t owner);
void restore_rights_drop(void);
/* What protects this process may keep it from writing there, which is to be known before the old data is gone. */
int restore_check_writable(const char *directory, Failure *reterr);
