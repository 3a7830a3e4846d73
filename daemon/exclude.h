/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Files that are kept out: of the backup (a list for the backup program, in the manifest) and of the copies (removed
 * from them before writers see them in PostSnapshot). Both lists come from exclude.d, which is the administrator's, and
 * from the documents of the writers that take part. Best effort: what cannot be removed is reported and harms nobody.
 */
#include "daemon/set.h"
#include "protocol/exclusions.h"

enum { LIMIT_EXCLUDE_FILES = 256 }; /* in exclude.d */

typedef struct ExcludeFile { /* one file of exclude.d */
        char *name;          /* as in reports: "exclude.d/NAME" */
        Exclusions exclusions;
} ExcludeFile;

typedef struct ExcludeList { /* what is in force now */
        ExcludeFile files[LIMIT_EXCLUDE_FILES];
        size_t n;
} ExcludeList;

/* Something of one volume's copy that is to go, and what came of it. */
typedef struct SetExclusion {
        unsigned volume; /* of the set */
        char *root;      /* absolute, as declared */
        char *below;     /* the same below the root of the copy; "": that itself */
        char *pattern, *from;
        bool recursive;
        uint64_t removed, failed, bytes;
        char *error; /* why nothing, or not everything, was removed; NULL: all is well */
} SetExclusion;

struct SetExclusions {
        SetExclusion *items;
        size_t n;
};
typedef struct SetExclusions SetExclusions;

/* Reads exclude.d again; a file that is not good is named in the log and left out. */
int exclude_load(Manager *m);
ExcludeList *exclude_list_free(ExcludeList *l);
/* Once volumes and writers of the set are known. */
int exclude_plan(Set *s);
bool exclude_from_volume(const Set *s, unsigned volume);
SetExclusions *set_exclusions_free(SetExclusions *e);
/* The report, once nothing more is removed: into the set, for manifest and record. */
int exclude_report(Set *s);

/* exclude-run.c: removes what has to go. done is called once, from the loop, unless it was freed before. */
typedef struct ExcludeRun ExcludeRun;
typedef void (*ExcludeDone)(void *userdata);
int exclude_run_new(Set *s, uint64_t budget_usec, ExcludeDone done, void *userdata, ExcludeRun **ret);
ExcludeRun *exclude_run_free(ExcludeRun *r);
