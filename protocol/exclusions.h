/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Files that an administrator keeps out of every backup, or out of every copy, whatever writers say: the documents of
 * exclude.d, parsed as strictly as those of writers.
 */
#include "protocol/metadata.h"

typedef struct Exclusions {
        FileSet *backup; /* not to be saved */
        size_t n_backup;
        FileSet *snapshot; /* removed from the copy where it can be written */
        size_t n_snapshot;
} Exclusions;

/* text of exactly size bytes (no NUL needed). INVALID_DOCUMENT names the JSON path of what is wrong. */
int exclusions_parse(const char *text, size_t size, Failure *reterr, Exclusions *ret);
void exclusions_done(Exclusions *e);
