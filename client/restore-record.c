/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * While the files of a component change places, a plan on the disk tells of it: what is about to go where, written
 * before the first rename, and gone when nothing needs it any more. If vssctl dies in between, the next start of the
 * machine or `vssctl restore --cancel` puts everything back, so that no service finds a mixture of old and new; from
 * "replaced" on nothing goes back, and what was there is removed.
 *
 * One file needs no plan, one step replaces it. There is none for accounts other than root, who own no plans; none on
 * file systems that keep no numbers of files; and none above PLAN_FILES_MAX files. Where plans cannot be kept at all,
 * as in a rescue shell that has /var read-only, the restore goes on without and says so.
 */
#include "client/restore-plan.h"
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

struct RestoreRecord {
        Plan plan;
        int plans, lock;
};

void record_free(RestoreRecord *r) {
        if (!r)
                return;
        plan_done(&r->plan);
        (void) close_fd(r->lock);
        (void) close_fd(r->plans);
        free(r);
}

static size_t count_files(const RestorePart *p) {
        size_t n = p->n_directed;
        for (size_t k = 0; k < p->n_items; k++)
                n += !S_ISDIR(p->items[k].mode) && p->items[k].staged.name;
        for (size_t k = 0; k < p->n_extras; k++)
                n += !p->extras[k].directory;
        return n;
}

/* Its unit, if that must not start before this has ended: its writer has something to do, or there are other
 * components. */
static const char *unit_of(const RestorePart *p) {
        const RestoreWork *w = p->work;
        bool others = false;
        for (size_t i = 0; i < w->n_parts; i++)
                others = others || (w->parts + i != p && streq_null(w->parts[i].service, p->service));
        return p->stopped && p->service && (p->takes_part || others) ? p->service : NULL;
}

static bool is_wanted(const RestorePart *p) {
        return geteuid() == 0 && count_files(p) > (unit_of(p) ? 0 : 1);
}

static int go_without(const RestorePart *p, const char *why) {
        output_note(
                p->work->context,
                "%s:%s: no note is kept of what changes places: %s; if the power goes meanwhile, a mixture of old and "
                "new is left",
                p->reference, p->path, why);
        return 0;
}

static int fail(RestorePart *p, int error) {
        return part_fail(p,
                         error == -ENOSPC || error == -EDQUOT ? CONDITION_NO_SPACE :
                         error == -EBUSY                      ? CONDITION_BUSY :
                                                                CONDITION_FAILED,
                         "nothing was replaced: what changes places cannot be noted in the state directory: %s",
                         strerror(-error));
}

/* -ENOENT, -EROFS, -EPERM, -EACCES: there is no place for plans, or none that is root's alone. */
static bool is_nowhere(int error) {
        return error == -ENOENT || error == -EROFS || error == -EPERM || error == -EACCES;
}

static int save(RestorePart *p, RestoreRecord *r) {
        int k = plans_make_room(p, r->plans);
        if (k < 0)
                return k;
        k = plan_save_locked(r->plans, &r->plan, &r->lock);
        if (k < 0)
                (void) plan_remove(r->plans, r->plan.id);
        return k < 0 && k != -E2BIG ? fail(p, k) : k;
}

static int begin(RestorePart *p, RestoreRecord *r) {
        int k = rights_take(p);
        k = k < 0 ? k : part_fill_plan(p, &r->plan);
        rights_drop();
        if (k == -EOPNOTSUPP)
                return 0;
        if (k < 0)
                return fail(p, k);
        const char *unit = unit_of(p);
        r->plan.unit = unit ? strdup(unit) : NULL;
        if (unit && !r->plan.unit)
                return fail(p, -ENOMEM);
        r->plan.state = PLAN_REPLACING;
        r->plan.only_new = p->only_new;
        r->plans = plans_open(true);
        if (is_nowhere(r->plans))
                return go_without(p, strerror(-r->plans));
        if (r->plans < 0)
                return fail(p, r->plans);
        k = plans_check_replacing(p, r->plans);
        k = k < 0 ? k : save(p, r);
        if (k < 0)
                return k == -E2BIG ? go_without(p, "it would be too long") : k;
        (void) flock(r->plans, LOCK_UN); /* its own lock keeps others off */
        return 1;
}

int record_begin(RestorePart *p) {
        if (!is_wanted(p))
                return 0;
        if (p->n_items + p->n_directed + p->n_extras > PLAN_FILES_MAX)
                return go_without(p, "there are too many files");
        RestoreRecord *r = calloc(1, sizeof(*r));
        if (!r)
                return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        r->plans = r->lock = -EBADF;
        int k = begin(p, r);
        if (k > 0)
                p->record = r;
        else
                record_free(r);
        return k;
}

/* ---- what is in place, and what failed ---- */

/* The files of a plan are the staged items, in their order, and what its writer directs. */
static int file_failed(RestorePart *p, const Plan *plan, int error) {
        size_t n = 0;
        for (size_t k = 0; k < p->n_items; k++) {
                RestoreItem *i = p->items + k;
                if (!S_ISDIR(i->mode) && i->staged.name && n++ == plan->failed)
                        return item_fail(p, i, error, "cannot be replaced");
        }
        return part_fail(p, CONDITION_FAILED, "%.700s", plan->message ?: strerror(-error));
}

/* They are where the plan says, and no business of part_unstage() any more. */
static void let_go(RestorePart *p, ItemState state) {
        for (size_t k = 0; k < p->n_items; k++) {
                RestoreItem *i = p->items + k;
                if (S_ISDIR(i->mode) || !i->staged.name)
                        continue;
                free(i->staged.name);
                i->staged = (StagedFile) {};
                if (i->state != ITEM_FAILED)
                        i->state = state;
        }
        for (size_t k = 0; k < p->n_directed; k++) {
                free(p->directed[k].staged.name);
                p->directed[k].staged = (StagedFile) {};
        }
}

static int undo(RestorePart *p, int error) {
        RestoreRecord *r = p->record;
        char why[LIMIT_MESSAGE_BYTES];
        int result = r->plan.failed < r->plan.n_files ?
                             file_failed(p, &r->plan, error) :
                             part_fail(p, CONDITION_FAILED, "%.700s", r->plan.message ?: strerror(-error));
        let_go(p, ITEM_WAITS);
        if (plan_undo(r->plans, &r->plan) >= 0 || r->plan.state == PLAN_FAILED) { /* all is as it was */
                record_free(r);
                p->record = NULL;
                return result;
        }
        p->touched = true;
        (void) snprintf(why, sizeof(why), "%s", p->message);
        return part_fail(
                p, p->condition,
                "%.400s; not all could go back: %.200s; the next start of the machine tries again, and so does "
                "`vssctl restore --cancel=%s`",
                why, r->plan.message ?: "", r->plan.id);
}

int record_replace(RestorePart *p) {
        RestoreRecord *r = p->record;
        r->plan.failed = SIZE_MAX;
        int k = plan_replace(&r->plan);
        if (k < 0)
                return undo(p, k);
        r->plan.state = PLAN_REPLACED;
        k = plan_save_locked(r->plans, &r->plan, &r->lock);
        /* Without a plan nothing goes back, either: then it is gone a moment earlier. */
        if (k < 0 && plan_remove(r->plans, r->plan.id) < 0) {
                r->plan.failed = SIZE_MAX;
                free(r->plan.message);
                r->plan.message = strdup("what has changed places cannot be noted in the state directory");
                return undo(p, k);
        }
        p->touched = true;
        let_go(p, ITEM_DONE);
        (void) plan_remove_old(&r->plan);
        return 0;
}

/* What an earlier one left, and the unit that it holds, has no need of its plan any more: this one has succeeded. */
void record_release_older(RestorePart *p) {
        _cleanup_(strings_freep) char **ids = NULL;
        _cleanup_close_ int dfd = geteuid() == 0 ? plans_open(false) : -EPERM;
        if (dfd >= 0)
                (void) plans_list(dfd, &ids);
        for (char *const *id = ids; id && *id; id++) {
                _cleanup_(plan_done) Plan plan = {};
                if (plan_load(dfd, *id, NULL, &plan) >= 0 && plan_is_of(&plan, p) &&
                    (plan.state == PLAN_REPLACED || plan.state == PLAN_HELD) && !plan_is_running(dfd, *id))
                        (void) plan_cancel(dfd, &plan);
        }
}

/* Its files are removed for good before it is. What is left of a half-way one is for the next start. */
void record_end(RestorePart *p) {
        RestoreRecord *r = p->record;
        if (r && r->plan.state == PLAN_REPLACED && plan_remove_old(&r->plan) >= 0 && plan_sync(&r->plan) >= 0)
                (void) plan_remove(r->plans, r->plan.id);
        record_free(r);
        p->record = NULL;
}
