/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Restores that wait for the next start of the machine, and those whose files change places now, one file each in the
 * state directory. Root acts on them before anything else runs, so nobody but root may have written one, all of it is
 * bounded, and where it leads is looked up without following a link. What is done is decided by inode numbers: the file
 * that was staged stands beside its place, or in it. So a start that is cut off needs no notes to go on.
 */
#include "client/verbs.h"
#include <sys/stat.h>

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
        PLAN_FAILED,    /* all is as before */
        PLAN_REPLACING, /* by vssctl, now; if it is dead the next start puts everything back */
        PLAN_REPLACED,  /* all is in place and on the disk; what was there goes */
        PLAN_HELD,      /* it went; its unit is not started by a boot as long as the plan is there */
        _PLAN_STATE_MAX,
} PlanState;
DECLARE_WORDS(plan_state, PlanState);

typedef struct Plan Plan;

typedef struct PlanFile {
        uint64_t set, inode; /* of plan.roots; of the file that was staged */
        char *path;          /* below the root */
        char *staged;        /* its name beside it, afterwards that of what was there; "": what is there is too much */
        char *aside;         /* the name of what was there, where the file system exchanges nothing */
        uint64_t changed;    /* what was staged, plan_file_changed() */
        bool nested;         /* on another volume than the root */
        bool replaces;       /* something was there */
        bool covered;        /* another one of the plan goes to the same place after it */
} PlanFile;

typedef struct PlanDirectory {
        uint64_t set, inode, mode, uid, gid;
        char *path; /* "": the root */
        bool made;  /* for this */
        bool extra; /* too much there */
} PlanDirectory;

struct Plan {
        char id[VSS_ID_LENGTH + 1];
        char *boot; /* the start of the machine that it was made in, boot_name() */
        char *created, *ended, *set, *writer, *component, *message;
        char *unit; /* that was stopped for it; or NULL */
        PlanState state;
        uint64_t uid; /* whose rights are enough */
        uint64_t n_all;
        char **roots; /* NULL-terminated; this and all paths as on disk */
        PlanFile *files;
        size_t n_files;
        PlanDirectory *directories;
        size_t n_directories;
        bool only_new; /* in memory: what is there stays */
        size_t failed; /* in memory: the file that failed */
};

void plan_done(Plan *p);
int plan_parse(const char *text, size_t size, Failure *reterr, Plan *ret);
int plan_format(const Plan *p, char **ret, size_t *ret_size);

/* The directory of plans, locked against others for as long as it is open. -ENOENT without create; -EPERM: others may
 * write to it; -EBUSY: somebody has had it for ten seconds. */
int plans_open(bool create);
int plans_list(int dfd, char ***ret); /* ids, strings_free() */
int plan_load(int dfd, const char *id, Failure *reterr, Plan *ret);
int plan_save(int dfd, const Plan *p); /* durable when it returns */
/* Likewise, and locked until *lock is closed, in place of what *lock was: whoever has it is at it. */
int plan_save_locked(int dfd, const Plan *p, int *lock);
bool plan_is_running(int dfd, const char *id);
int plan_remove(int dfd, const char *id);
bool plan_is_over(const Plan *p);

/* restore-boot.c: what is wrong with it is told in p->message. */
int plan_run(int dfd, Plan *p);    /* swaps, or goes on with it, or back; -EAGAIN: not now, it waits */
int plan_cancel(int dfd, Plan *p); /* removes it with its staged files, and what has begun goes back; -EBUSY: not now */

/* restore-hold.c: its unit, in this start of the machine, once systemd has read its units again. */
bool plan_holds(const Plan *p);
int plan_hold(const Plan *p);

/* For restores of this moment. */
int plan_replace(Plan *p);       /* everything changes places, on the disk when it returns; p->failed */
int plan_undo(int dfd, Plan *p); /* everything goes back, and the plan away */
int plan_remove_old(Plan *p);
int plan_sync(Plan *p);

/* restore-steps.c: one file. REPLACED_SINCE: it went into place, and somebody has put something else there since. */
typedef enum PlanWhere { PLAN_BESIDE, PLAN_IN_PLACE, PLAN_REPLACED_SINCE, PLAN_LOST } PlanWhere;
PlanWhere plan_file_where(int dfd, const PlanFile *f);
int plan_file_swap(int dfd, const PlanFile *f);
int plan_file_replace(int dfd, const PlanFile *f); /* the same with one that has the name it was staged under */
int plan_file_add(int dfd, const PlanFile *f);     /* … in a place that is free */
int plan_file_back(int dfd, const PlanFile *f);
int plan_file_back_if_there(int dfd, const PlanFile *f);
int plan_file_remove_old(int dfd, const PlanFile *f);
int plan_file_remove_staged(int dfd, const PlanFile *f);
uint64_t plan_file_changed(const struct stat *s);
bool plan_file_has_lost_old(int dfd, const PlanFile *f); /* of one that is in its place */
bool plan_file_is_as_staged(int dfd, const char *name, const PlanFile *f);
