/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Restores that wait for the next start of the machine, one file each in the state directory. Root acts on them before
 * anything else runs, so nobody but root may have written one, all of it is bounded, and where it leads is looked up
 * without following a link. What is done is decided by inode numbers: the file that was staged stands beside its place,
 * or in it. So a start that is cut off needs no notes to go on.
 */
#include "client/verbs.h"

enum {
        PLAN_FILES_MAX = 262144,            /* of one component: seconds of renames in the boot */
        PLAN_BYTES_MAX = 128 * 1024 * 1024, /* of a plan */
        PLANS_MAX = 64,                     /* kept at once; of those that are over the oldest goes */
};

typedef enum PlanState {
        PLAN_STAGING, /* vssctl is making it, or was killed */
        PLAN_STAGED,  /* the next start swaps */
        PLAN_SWAPPING,
        PLAN_DONE,
        PLAN_FAILED, /* all is as before */
        _PLAN_STATE_MAX,
} PlanState;
DECLARE_WORDS(plan_state, PlanState);

typedef struct PlanFile {
        uint64_t set, inode; /* of plan.roots; of the file that was staged */
        char *path;          /* below the root */
        char *staged;        /* its name beside it, afterwards that of what was there */
        char *aside;         /* the name of what was there, where the file system exchanges nothing */
} PlanFile;

typedef struct PlanDirectory {
        uint64_t set, inode, mode, uid, gid;
        char *path; /* "": the root */
        bool made;  /* for this */
} PlanDirectory;

typedef struct Plan {
        char id[VSS_ID_LENGTH + 1];
        char *boot; /* the start of the machine that it was made in, boot_name() */
        char *created, *ended, *set, *writer, *component, *message;
        PlanState state;
        uint64_t uid; /* whose rights are enough */
        uint64_t n_all;
        char **roots; /* NULL-terminated; this and all paths as on disk */
        PlanFile *files;
        size_t n_files;
        PlanDirectory *directories;
        size_t n_directories;
} Plan;

void plan_done(Plan *p);
int plan_parse(const char *text, size_t size, Failure *reterr, Plan *ret);
int plan_format(const Plan *p, char **ret, size_t *ret_size);

/* The directory of plans, locked against others for as long as it is open. -ENOENT without create; -EPERM: others may
 * write to it; -EBUSY: somebody has had it for ten seconds. */
int plans_open(bool create);
int plans_list(int dfd, char ***ret); /* ids, strings_free() */
int plan_load(int dfd, const char *id, Failure *reterr, Plan *ret);
int plan_save(int dfd, const Plan *p); /* durable when it returns */
int plan_remove(int dfd, const char *id);

/* restore-boot.c: what is wrong with it is told in p->message. */
int plan_run(int dfd, Plan *p);    /* swaps, or goes on with it; -EAGAIN: not now, it waits */
int plan_cancel(int dfd, Plan *p); /* removes it with its staged files; -EBUSY: a swap was cut off */
