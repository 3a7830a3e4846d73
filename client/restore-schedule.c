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
#include <linux/magic.h>
#include <sys/vfs.h>
#include <systemd/sd-id128.h>
#include <time.h>

/* ---- may it wait? ---- */

static bool is_over(const Plan *p) {
        return p->state == PLAN_FAILED || (p->state == PLAN_DONE && p->n_files == 0);
}

static bool is_of(const Plan *plan, const RestorePart *p) {
        return streq_null(plan->writer, p->reference) && streq_null(plan->component, p->path);
}

/* Of two the one that was asked for first would have the last word. */
static int check_none_waits(RestorePart *p, int dfd, char *const *ids) {
        for (char *const *id = ids; id && *id; id++) {
                _cleanup_(plan_done) Plan plan = {};
                if (plan_load(dfd, *id, NULL, &plan) >= 0 && !is_over(&plan) && is_of(&plan, p))
                        return part_fail(p, CONDITION_EXISTS,
                                         "plan %s replaces it at the next start already; `vssctl restore --cancel=%s` "
                                         "removes that",
                                         *id, *id);
        }
        return 0;
}

/* What has been carried out the longest ago is forgotten. */
static int make_room(RestorePart *p, int dfd) {
        _cleanup_(strings_freep) char **ids = NULL;
        char oldest[VSS_ID_LENGTH + 1] = "";
        _cleanup_free_ char *since = NULL;
        int r = plans_list(dfd, &ids);
        if (r < 0 || strings_count(ids) < PLANS_MAX)
                return r < 0 ? part_fail(p, CONDITION_FAILED, "plans cannot be listed: %s", strerror(-r)) : 0;
        for (char *const *id = ids; *id; id++) {
                _cleanup_(plan_done) Plan plan = {};
                if (plan_load(dfd, *id, NULL, &plan) < 0 || plan.state != PLAN_DONE || !is_over(&plan) ||
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

int schedule_check_none(RestorePart *p) {
        _cleanup_(strings_freep) char **ids = NULL;
        _cleanup_close_ int dfd = plans_open(false);
        if (dfd == -ENOENT || dfd == -EACCES || dfd == -EPERM) /* there is none, or it is root's business */
                return 0;
        int r = dfd < 0 ? dfd : plans_list(dfd, &ids);
        return r < 0 ? part_fail(p, CONDITION_FAILED, "plans cannot be listed: %s", strerror(-r)) :
                       check_none_waits(p, dfd, ids);
}

/* ---- the plan ---- */

/* The plan names files by numbers that these make up anew at every mount, or forget with the rest. */
static int check_kind(int dfd) {
        static const unsigned long fleeting[] = { MSDOS_SUPER_MAGIC, EXFAT_SUPER_MAGIC, FUSE_SUPER_MAGIC, TMPFS_MAGIC,
                                                  RAMFS_MAGIC };
        struct statfs fs;
        if (fstatfs(dfd, &fs) < 0)
                return -errno;
        for (size_t i = 0; i < ELEMENTSOF(fleeting); i++)
                if ((unsigned long) fs.f_type == fleeting[i])
                        return -EOPNOTSUPP;
        return 0;
}

static int add_file(Plan *plan, const RestorePart *p, const RestoreItem *i) {
        const char *rest = i->staged.name + strlen(RESTORE_TEMPORARY "new-");
        PlanFile *f = plan->files + plan->n_files++;
        struct stat s;
        *f = (PlanFile) { .set = i->set, .path = strdup(i->path) };
        _cleanup_close_ int parent = open_parent(p->sets[i->set].target, i->path);
        int r = parent < 0 ? parent : check_kind(parent);
        if (r < 0)
                return r;
        if (fstatat(parent, i->staged.name, &s, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        f->inode = s.st_ino;
        if (!f->path || asprintf(&f->staged, RESTORE_TEMPORARY "boot-%s", rest) < 0 ||
            asprintf(&f->aside, RESTORE_TEMPORARY "old-%s", rest) < 0)
                return -ENOMEM;
        return 0;
}

static int add_directory(Plan *plan, const RestorePart *p, const RestoreItem *i) {
        PlanDirectory *d = plan->directories + plan->n_directories;
        _cleanup_close_ int from = sources_open_directory(p, p->sets + i->set, i->path);
        _cleanup_close_ int to = from < 0 ? from :
                                            open_beneath(p->sets[i->set].target, i->path, O_RDONLY | O_DIRECTORY);
        struct stat s, t;
        if (to < 0 || fstat(from, &s) < 0 || fstat(to, &t) < 0)
                return to < 0 ? to : -errno;
        *d = (PlanDirectory) { .set = i->set,
                               .inode = t.st_ino,
                               .mode = s.st_mode & 07777,
                               .uid = s.st_uid,
                               .gid = s.st_gid,
                               .path = strdup(i->path),
                               .made = i->made };
        plan->n_directories += d->path != NULL;
        return d->path ? 0 : -ENOMEM;
}

static int fill(Plan *plan, const RestorePart *p) {
        char now[64];
        sd_id128_t id;
        int r = sd_id128_randomize(&id);
        r = r < 0 ? r : format_timestamp(clock_usec(CLOCK_REALTIME), now, sizeof(now));
        if (r < 0)
                return r;
        (void) snprintf(plan->id, sizeof(plan->id), SD_ID128_UUID_FORMAT_STR, SD_ID128_FORMAT_VAL(id));
        plan->boot = boot_name();
        plan->created = strdup(now);
        plan->set = strdup(p->work->manifest.set);
        plan->writer = strdup(p->reference);
        plan->component = strdup(p->path);
        plan->uid = p->with_writer ? p->uid : 0; /* as rights_take() */
        plan->files = calloc(p->n_items + 1, sizeof(*plan->files));
        plan->directories = calloc(p->n_items + 1, sizeof(*plan->directories));
        if (!plan->boot || !plan->created || !plan->set || !plan->writer || !plan->component || !plan->files ||
            !plan->directories)
                return -ENOMEM;
        for (size_t k = 0; r >= 0 && k < p->n_sets; k++)
                r = strings_append(&plan->roots, p->sets[k].to);
        for (size_t k = 0; r >= 0 && k < p->n_items; k++) {
                const RestoreItem *i = p->items + k;
                r = S_ISDIR(i->mode) ? add_directory(plan, p, i) : i->staged.name ? add_file(plan, p, i) : 0;
        }
        plan->n_all = plan->n_files;
        return r;
}

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

int part_schedule(RestorePart *p) {
        _cleanup_(plan_done) Plan plan = { .state = PLAN_STAGING };
        _cleanup_close_ int dfd = open_plans(p);
        if (dfd < 0)
                return dfd;
        int r = make_room(p, dfd);
        if (r < 0)
                return r;
        r = fill(&plan, p);
        r = r < 0 ? r : plan_save(dfd, &plan);
        if (r >= 0) {
                r = rights_take(p);
                r = r < 0 ? r : take_names(p, &plan);
                rights_drop();
                plan.state = PLAN_STAGED;
                r = r < 0 ? r : plan_save(dfd, &plan);
        }
        if (r < 0) {
                (void) plan_remove(dfd, plan.id);
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
