/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * One file on its way back: a whole copy beside its place, with content, holes, owner, mode, times, extended attributes
 * and ACLs, which then takes the place in one step. Everything goes by descriptors of directories, and no symbolic link
 * is followed on the way (hazards C1): files come back into directories that other accounts may write to.
 */
#include "protocol/base.h"
#include <sys/stat.h>

#define RESTORE_TEMPORARY ".vss-restore-" /* how names of files that are beside their places begin */

/* Beside its place: what is new, and once it is swapped in what was there before it. */
typedef struct StagedFile {
        char *name; /* NULL: nothing is beside it */
        bool swapped;
} StagedFile;

/* Beneath the directory dfd, no link anywhere in it. path "": dfd itself again. flags as in open(2). */
int open_beneath(int dfd, const char *path, int flags);
/* Of an absolute path: from /, and no link anywhere either. -ELOOP names one. */
int open_absolute(const char *path, int flags);
/*
 * A copy of name in from as a new name in to, which is returned. Regular files, symbolic links, FIFOs and devices;
 * other kinds are -EOPNOTSUPP. The owner is kept if the caller may (else its set-id bits are not). Nothing is left on
 * failure; -ECANCELED after a signal.
 */
int file_stage(int from, const char *name, int to, StagedFile *ret);
/*
 * A new version of name in to (which may be missing): its own content with ranges of another file written over it.
 * Pairs offset, length; without ranges all of the file. -EINVAL: the ranges do not add up.
 */
typedef struct FileRange {
        uint64_t offset, length;
} FileRange;
int file_stage_ranges(int from_file, const FileRange *from, size_t n_from, int to, const char *name,
                      const FileRange *ranges, size_t n_ranges, StagedFile *ret);
/* An empty file to become name in to, with the owner of the directory like, and mode 0600. */
int file_stage_new(int to, const char *name, int like, StagedFile *ret);
/* With text behind what is in it, on disk. -ELOOP, -EINVAL: it is no regular file. */
int file_stage_text(int to, const StagedFile *s, const char *text);
/* The ACLs that a new file or directory has from the directory it was made in, unless from has ACLs too. */
int file_drop_acls(int from, int to);
/* Owner, mode, times and attributes of one directory or file for another. */
int file_copy_metadata(int from, int to);
/* What stands where a file goes can be replaced: 0, -EISDIR, -EPERM (it or its directory is immutable or for appending
 * only), -EBUSY (a mount point), -ENOENT if there is none. */
int file_check_place(int dfd, const char *name);
/* Is the file open somewhere, or may it not be replaced? As above, or -ETXTBSY. */
int file_check_replace(int dfd, const char *name);

/* restore-temporary.c: the caller frees the name. kind: new, old, boot */
char *boot_name(void); /* of this start of the machine or container; NULL: not known. The caller frees it */
char *temporary_name(const char *kind, const char *name);
void temporaries_clear(int dfd); /* the new ones of runs that are dead */
/*
 * The staged file becomes name, in one step where the file system can; what was there stays beside it.
 * only_new: -EEXIST if something is there. swap_back undoes it; keep makes it final; unstage removes what never was
 * swapped in, and leaves what was old and could not go back.
 */
int file_move_to_free(int dfd, const char *from, const char *name); /* -EEXIST: something is there */
/* The two change places; where the file system cannot, what was name becomes aside. */
int file_exchange(int dfd, const char *from, const char *name, const char *aside);
int file_swap(int dfd, const char *name, StagedFile *s, bool only_new);
int file_swap_back(int dfd, const char *name, StagedFile *s);
void file_keep(int dfd, StagedFile *s);
void file_unstage(int dfd, StagedFile *s);
