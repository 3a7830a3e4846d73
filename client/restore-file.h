/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * One file on its way back: a whole copy beside its place, with content, holes, owner, mode, times, extended attributes
 * and ACLs, which then takes the place in one step. Everything goes by descriptors of directories, and no symbolic link
 * is followed on the way (hazards C1): files come back into directories that other accounts may write to.
 */
#include "protocol/base.h"
#include <sys/stat.h>

enum { RESTORE_TEMPORARY_BYTES = 32 }; /* ".vss-restore-" and 16 digits */
#define RESTORE_TEMPORARY ".vss-restore-"

/* Beneath the directory dfd, no link anywhere in it. path "": dfd itself again. flags as in open(2). */
int open_beneath(int dfd, const char *path, int flags);
/* Of an absolute path: from /, and no link anywhere either. -ELOOP names one. */
int open_absolute(const char *path, int flags);
/*
 * A copy of name in from as a new name in to, which is returned. Regular files, symbolic links, FIFOs and devices;
 * other kinds are -EOPNOTSUPP. The owner is kept if the caller may (else its set-id bits are not). Nothing is left on
 * failure.
 */
int file_stage(int from, const char *name, int to, char ret[RESTORE_TEMPORARY_BYTES]);
/*
 * A new version of name in to (which may be missing): its own content with ranges of another file written over it.
 * Pairs offset, length; without ranges all of the file. -EINVAL: the ranges do not add up.
 */
typedef struct FileRange {
        uint64_t offset, length;
} FileRange;
int file_stage_ranges(int from_file, const FileRange *from, size_t n_from, int to, const char *name,
                      const FileRange *ranges, size_t n_ranges, char ret[RESTORE_TEMPORARY_BYTES]);
/* Owner, mode, times and attributes of one directory or file for another. */
int file_copy_metadata(int from, int to);
/* Is the file open somewhere, or may it not be replaced? 0, -ETXTBSY, -EPERM, -EISDIR, -ENOENT if there is none. */
int file_check_replace(int dfd, const char *name);
