/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A component that cannot be replaced now is left beside its place, with a plan for the next start of the machine. The
 * plan is on disk before a file has the name that it gives it, so whatever ends this, no file is left that no plan
 * tells of.
 */
#include "client/restore-plan.h"
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>

/* ---- may it wait? ---- */

bool plan_is_of(const Plan *plan, const RestorePart *p) {
        return streq_null(plan->writer, p->reference) && streq_null(plan->component, p->path);
}

static bool goes_where(const RestorePart *p, const Plan *plan) {
        for (size_t k = 0; k < p->n_sets; k++)
                if (strings_contain(plan->roots, p->sets[k].to))
                        return true;
        return false;
}

/* Another component may have the same files, and what comes after it would be undone with it. */
static bool meets(const RestorePart *p, const Plan *plan) {
        for (size_t k = 0; k < p->n_sets; k++)
                for (char *const *root = plan->roots; root && *root; root++)
                        if (path_is_inside(p->sets[k].to, *root) || path_is_inside(*root, p->sets[k].to))
                                return true;
        return false;
}

static int refuse_cut_off(RestorePart *p, const Plan *plan) {
        return part_fail(p, CONDITION_EXISTS,
                         "a restore of %.300s to there was cut off while files changed places; `vssctl restore "
                         "--cancel=%s` puts back what was there, and so does the next start",
                         plan->component ?: "it", plan->id);
}

/* Of two the one that was asked for first would have the last word. */
static int check_none_waits(RestorePart *p, int dfd, char *const *ids, bool elsewhere) {
        for (char *const *id = ids; id && *id; id++) {
                _cleanup_(plan_done) Plan plan = {};
                bool running = plan_is_running(dfd, *id); /* first: then it goes no further */
                if (plan_load(dfd, *id, NULL, &plan) < 0 || plan_is_over(&plan) || plan.state == PLAN_REPLACED ||
                    plan.state == PLAN_HELD)
                        continue;
                if (plan.state == PLAN_REPLACING && !running && meets(p, &plan))
                        return refuse_cut_off(p, &plan);
                if (plan.state == PLAN_REPLACING || !plan_is_of(&plan, p) || elsewhere)
                        continue;
                return part_fail(p, CONDITION_EXISTS,
                                 "plan %s replaces it at the next start already; `vssctl restore --cancel=%s` "
                                 "removes that",
                                 *id, *id);
        }
        return 0;
}

/* Two at once would leave files of both, and the undoing of one that was cut off meanwhile undoes what came after. */
int plans_check_replacing(RestorePart *p, int dfd) {
        _cleanup_(strings_freep) char **ids = NULL;
        int r = plans_list(dfd, &ids);
        if (r < 0)
                return part_fail(p, CONDITION_FAILED, "plans cannot be listed: %s", strerror(-r));
        for (char *const *id = ids; id && *id; id++) {
                _cleanup_(plan_done) Plan plan = {};
                bool running = plan_is_running(dfd, *id);
                if (plan_load(dfd, *id, NULL, &plan) < 0 || plan.state != PLAN_REPLACING)
                        continue;
                if (!running && meets(p, &plan))
                        return refuse_cut_off(p, &plan);
                if (running && plan_is_of(&plan, p) && goes_where(p, &plan))
                        return part_fail(p, CONDITION_BUSY,
                                         "nothing was replaced: another restore of it changes files now");
        }
        return 0;
}

/* What has been carried out the longest ago is forgotten. */
int plans_make_room(RestorePart *p, int dfd) {
        _cleanup_(strings_freep) char **ids = NULL;
        char oldest[VSS_ID_LENGTH + 1] = "";
        _cleanup_free_ char *since = NULL;
        int r = plans_list(dfd, &ids);
        if (r < 0 || strings_count(ids) < PLANS_MAX)
                return r < 0 ? part_fail(p, CONDITION_FAILED, "plans cannot be listed: %s", strerror(-r)) : 0;
        for (char *const *id = ids; *id; id++) {
                _cleanup_(plan_done) Plan plan = {};
                if (plan_load(dfd, *id, NULL, &plan) < 0 || plan.state != PLAN_DONE || !plan_is_over(&plan) ||
                    (since && strcmp(plan.created, since) >= 0))
                        continue;
                free(since);
                since = TAKE_PTR(plan.created);
                (void) snprintf(oldest, sizeof(oldest), "%s", *id);
        }
        return oldest[0] && plan_remove(dfd, oldest) >= 0 ?
                       0 :
                       part_fail(p, CONDITION_LIMIT_REACHED, "%d plans wait or have failed already: cancel some",
                                 PLANS_MAX);
}

static int open_plans(RestorePart *p) {
        int dfd = plans_open(true);
        if (dfd == -EPERM || dfd == -EACCES)
                return part_fail(p, CONDITION_NOT_AUTHORIZED,
                                 "it can be replaced only at the next start of the machine, which root has to ask for");
        return dfd < 0 ? part_fail(p, dfd == -EBUSY ? CONDITION_BUSY : CONDITION_FAILED, "no plan can be made: %s",
                                   strerror(-dfd)) :
                         dfd;
}

int schedule_check(RestorePart *p) {
        for (size_t i = 0; i < p->n_sets; i++)
                if (p->sets[i].mirror)
                        return part_fail(p, CONDITION_NOT_SUPPORTED,
                                         "a database's directory, which is to have nothing but the backup, cannot wait "
                                         "for the next start; say --keep-extra, or stop what uses it");
        if (p->n_directed > 0)
                return part_fail(p, CONDITION_NOT_SUPPORTED, "what its writer directs cannot wait for the next start");
        if (p->n_items > PLAN_FILES_MAX)
                return part_fail(p, CONDITION_LIMIT_REACHED, "more than %d files cannot wait for the next start",
                                 PLAN_FILES_MAX);
        if (geteuid() != 0)
                return part_fail(p, CONDITION_NOT_AUTHORIZED,
                                 "it can be replaced only at the next start of the machine, which root has to ask for");
        return 0;
}

int schedule_check_none(RestorePart *p, bool elsewhere) {
        _cleanup_(strings_freep) char **ids = NULL;
        _cleanup_close_ int dfd = plans_open(false);
        if (dfd == -ENOENT || dfd == -EACCES || dfd == -EPERM) /* there is none, or it is root's business */
                return 0;
        int r = dfd < 0 ? dfd : plans_list(dfd, &ids);
        return r < 0 ? part_fail(p, CONDITION_FAILED, "plans cannot be listed: %s", strerror(-r)) :
                       check_none_waits(p, dfd, ids, elsewhere);
}

/* ---- the plan ---- */

/* From the names that a later run would clear away to those of the plan. */
static int take_names(RestorePart *p, const Plan *plan) {
        size_t n = 0;
        for (size_t k = 0; k < p->n_items; k++) {
                RestoreItem *i = p->items + k;
                if (S_ISDIR(i->mode) || !i->staged.name)
                        continue;
                _cleanup_close_ int parent = open_parent(p->sets[i->set].target, i->path);
                char *name = parent < 0 ? NULL : strdup(plan->files[n].staged);
                if (!name || renameat(parent, i->staged.name, parent, name) < 0) {
                        int r = parent < 0 ? parent : !name ? -ENOMEM : -errno;
                        free(name);
                        return r;
                }
                free(i->staged.name);
                i->staged.name = name;
                n++;
        }
        for (size_t k = 0; k < p->n_sets; k++)
                if (syncfs(p->sets[k].target) < 0)
                        return -errno;
        return 0;
}

/* They are the plan's now. */
static void let_go(RestorePart *p) {
        for (size_t k = 0; k < p->n_items; k++) {
                RestoreItem *i = p->items + k;
                free(i->staged.name);
                i->staged = (StagedFile) {};
                i->made = false;
                if (i->state == ITEM_STAGED)
                        i->state = ITEM_WAITS;
        }
}

/* The plan goes last, and only if no file needs it any more: the next start removes what is left, and it. */
static void give_up(RestorePart *p, int dfd, const Plan *plan) {
        bool gone = rights_take(p) >= 0;
        if (gone)
                part_unstage(p);
        rights_drop();
        for (size_t k = 0; k < p->n_sets; k++)
                gone = syncfs(p->sets[k].target) >= 0 && gone;
        if (gone)
                (void) plan_remove(dfd, plan->id);
}

int part_schedule(RestorePart *p) {
        _cleanup_(plan_done) Plan plan = { .state = PLAN_STAGING };
        _cleanup_close_ int dfd = open_plans(p);
        if (dfd < 0)
                return dfd;
        int r = plans_make_room(p, dfd);
        if (r < 0)
                return r;
        r = part_fill_plan(p, &plan);
        r = r < 0 ? r : plan_save(dfd, &plan);
        if (r >= 0) {
                r = rights_take(p);
                r = r < 0 ? r : take_names(p, &plan);
                rights_drop();
                plan.state = PLAN_STAGED;
                r = r < 0 ? r : plan_save(dfd, &plan);
        }
        if (r < 0) {
                give_up(p, dfd, &plan);
                return part_fail(p,
                                 r == -ENOSPC || r == -EDQUOT ? CONDITION_NO_SPACE :
                                 r == -EOPNOTSUPP             ? CONDITION_NOT_SUPPORTED :
                                                                CONDITION_FAILED,
                                 "it cannot be left for the next start: %s",
                                 r == -EOPNOTSUPP ? "its file system (FAT, FUSE, tmpfs) keeps no numbers of files" :
                                                    strerror(-r));
        }
        let_go(p);
        (void) snprintf(p->plan, sizeof(p->plan), "%s", plan.id);
        (void) snprintf(p->message, sizeof(p->message), "staged for the next start of the machine, plan %s", plan.id);
        return 0;
}
