/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One file of a plan: where it is, and the steps there and back. The inode number of the new file says where it is, and
 * each step is one rename that may have happened or not, so that each can be done again by whoever comes next.
 *
 *   new (or its place is free)      beside its place ──> in its place; what was there beside it
 *   too much (nothing is staged)    in its place     ──> beside it
 */
#include "client/restore-plan.h"
#include "client/restore.h"
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>

static bool is_extra(const PlanFile *f) {
        return !f->staged[0];
}

static bool is_it(int dfd, const char *name, const PlanFile *f) {
        struct stat s;
        return fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(s.st_mode) && s.st_ino == f->inode;
}

static bool is_there(int dfd, const char *name) {
        struct stat s;
        return fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) == 0;
}

/* The name that it was staged under, before it got that of the plan. */
static const char *first_name(const PlanFile *f, char *buffer, size_t size) {
        (void) snprintf(buffer, size, RESTORE_TEMPORARY "new-%s", f->staged + strlen(RESTORE_TEMPORARY "boot-"));
        return buffer;
}

static PlanWhere where_is_extra(int dfd, const PlanFile *f) {
        return is_it(dfd, f->aside, f) ? is_there(dfd, base_name(f->path)) ? PLAN_REPLACED_SINCE : PLAN_IN_PLACE :
               is_it(dfd, base_name(f->path), f) ? PLAN_BESIDE :
                                                   PLAN_LOST;
}

PlanWhere plan_file_where(int dfd, const PlanFile *f) {
        char first[NAME_MAX + 1];
        if (is_extra(f))
                return where_is_extra(dfd, f);
        return is_it(dfd, base_name(f->path), f)                   ? PLAN_IN_PLACE :
               is_it(dfd, f->staged, f)                            ? PLAN_BESIDE :
               is_there(dfd, f->staged) || is_there(dfd, f->aside) ? PLAN_REPLACED_SINCE :
               is_it(dfd, first_name(f, first, sizeof(first)), f)  ? PLAN_BESIDE :
                                                                     PLAN_LOST;
}

/* ---- forward ---- */

int plan_file_swap(int dfd, const PlanFile *f) {
        const char *name = base_name(f->path);
        if (plan_file_where(dfd, f) != PLAN_BESIDE)
                return 0; /* check() in restore-boot.c */
        int r = file_move_to_free(dfd, f->staged, name);
        if (r != -EEXIST)
                return r;
        r = file_check_place(dfd, name);
        return r < 0 ? r : file_exchange(dfd, f->staged, name, f->aside);
}

static int set_aside(int dfd, const PlanFile *f) {
        const char *name = base_name(f->path);
        int r = plan_file_where(dfd, f) == PLAN_BESIDE ? file_check_place(dfd, name) : -ENOENT;
        return r < 0 ? r : file_move_to_free(dfd, name, f->aside);
}

/* What no restore clears away has the plan's name, and only from now on: before this one it is nobody's. */
int plan_file_replace(int dfd, const PlanFile *f) {
        char first[NAME_MAX + 1];
        if (is_extra(f))
                return set_aside(dfd, f);
        if (renameat(dfd, first_name(f, first, sizeof(first)), dfd, f->staged) < 0)
                return -errno;
        return plan_file_where(dfd, f) == PLAN_BESIDE ? plan_file_swap(dfd, f) : -ESTALE;
}

int plan_file_add(int dfd, const PlanFile *f) {
        char first[NAME_MAX + 1];
        if (is_extra(f))
                return set_aside(dfd, f);
        if (renameat(dfd, first_name(f, first, sizeof(first)), dfd, f->staged) < 0)
                return -errno;
        return is_it(dfd, f->staged, f) ? file_move_to_free(dfd, f->staged, base_name(f->path)) : -ESTALE;
}

/* ---- and back ---- */

int plan_file_back(int dfd, const PlanFile *f) {
        const char *name = base_name(f->path);
        PlanWhere w = plan_file_where(dfd, f);
        if (w == PLAN_LOST)
                return is_extra(f) || is_there(dfd, name) ? 0 : -ESTALE;
        if (is_extra(f))
                return w == PLAN_BESIDE ? 0 : file_move_to_free(dfd, f->aside, name);
        if (w != PLAN_BESIDE && is_there(dfd, f->staged) && is_there(dfd, name))
                return file_exchange(dfd, f->staged, name, f->aside);
        if (w == PLAN_REPLACED_SINCE && is_there(dfd, f->staged))
                return file_move_to_free(dfd, f->staged, name);
        if (w != PLAN_BESIDE && is_there(dfd, name) && renameat(dfd, name, dfd, f->staged) < 0)
                return -errno;
        return is_there(dfd, f->aside) ? file_move_to_free(dfd, f->aside, name) : 0;
}

/* It may be gone for good where that would be seen: check_back() in restore-boot.c. */
int plan_file_back_if_there(int dfd, const PlanFile *f) {
        return plan_file_where(dfd, f) == PLAN_LOST ? 0 : plan_file_back(dfd, f);
}

/* Then it stays: the plan is of another time than the files, or somebody has removed what it could go back to. */
bool plan_file_has_lost_old(int dfd, const PlanFile *f) {
        return !is_extra(f) && f->replaces && !is_there(dfd, f->staged) && !is_there(dfd, f->aside);
}

/* ---- what is left ---- */

/* Nothing but what is old has these names any more. */
int plan_file_remove_old(int dfd, const PlanFile *f) {
        if (!is_extra(f) && !is_it(dfd, f->staged, f) && unlinkat(dfd, f->staged, 0) < 0 && errno != ENOENT)
                return -errno;
        return unlinkat(dfd, f->aside, 0) < 0 && errno != ENOENT ? -errno : 0;
}

bool plan_file_is_as_staged(int dfd, const char *name, const PlanFile *f) {
        struct stat s;
        return f->changed == 0 ||
               (fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) == 0 && plan_file_changed(&s) == f->changed);
}

/* What was written to since stays. */
int plan_file_remove_staged(int dfd, const PlanFile *f) {
        char first[NAME_MAX + 1];
        if (is_extra(f))
                return 0;
        const char *name = is_it(dfd, f->staged, f) ? f->staged : first_name(f, first, sizeof(first));
        if (!is_it(dfd, name, f) || !plan_file_is_as_staged(dfd, name, f))
                return 0;
        return unlinkat(dfd, name, 0) < 0 ? -errno : 0;
}

/* When its content changed; 0: not known, or of no use. */
uint64_t plan_file_changed(const struct stat *s) {
        return S_ISREG(s->st_mode) ?
                       ((uint64_t) s->st_mtim.tv_sec * 1000000000ULL + (uint64_t) s->st_mtim.tv_nsec) & INT64_MAX :
                       0;
}
