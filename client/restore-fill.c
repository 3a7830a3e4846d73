/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A plan of what is staged: where each file goes, by which name it is known until then, and how it is told from others.
 */
#include "client/restore-plan.h"
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <systemd/sd-id128.h>
#include <time.h>

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

/* name in the directory dfd, which root holds. */
static int look(PlanFile *f, int root, int dfd, const char *name) {
        struct stat s, d, r, old;
        int k = check_kind(dfd);
        if (k < 0)
                return k;
        if (fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) < 0 || fstat(dfd, &d) < 0 || fstat(root, &r) < 0)
                return -errno;
        if (s.st_ino > INT64_MAX)
                return -EOPNOTSUPP;
        f->inode = s.st_ino;
        f->changed = plan_file_changed(&s);
        f->nested = d.st_dev != r.st_dev;
        f->replaces = f->path && fstatat(dfd, base_name(f->path), &old, AT_SYMLINK_NOFOLLOW) == 0;
        return 0;
}

static int name_staged(PlanFile *f, const char *staged) {
        const char *rest = staged + strlen(RESTORE_TEMPORARY "new-");
        return asprintf(&f->staged, RESTORE_TEMPORARY "boot-%s", rest) < 0 ||
                               asprintf(&f->aside, RESTORE_TEMPORARY "old-%s", rest) < 0 ?
                       -ENOMEM :
                       0;
}

static int add_file(Plan *plan, const RestorePart *p, const RestoreItem *i) {
        PlanFile *f = plan->files + plan->n_files++;
        *f = (PlanFile) { .set = i->set, .path = strdup(i->path) };
        int root = p->sets[i->set].target;
        _cleanup_close_ int parent = open_parent(root, i->path);
        int r = parent < 0 ? parent : !f->path ? -ENOMEM : look(f, root, parent, i->staged.name);
        return r < 0 ? r : name_staged(f, i->staged.name);
}

static int add_directed(Plan *plan, const DirectedTarget *d) {
        _cleanup_free_ char *root = strndup(d->to, (size_t) MAX_OF(base_name(d->to) - d->to - 1, 1));
        PlanFile *f = plan->files + plan->n_files++;
        *f = (PlanFile) { .set = strings_count(plan->roots), .path = strdup(base_name(d->to)) };
        if (!root || !f->path || strings_append(&plan->roots, root) < 0)
                return -ENOMEM;
        int r = look(f, d->target, d->target, d->staged.name);
        return r < 0 ? r : name_staged(f, d->staged.name);
}

/* What the backup does not have: files go aside with the others, directories when they are empty. */
static int add_extra(Plan *plan, const RestorePart *p, const RestoreExtra *e) {
        const char *name = base_name(e->path);
        int root = p->sets[e->set].target;
        PlanFile file = {}, *f = e->directory ? &file : plan->files + plan->n_files++;
        *f = (PlanFile) { .set = e->set };
        _cleanup_close_ int parent = open_parent(root, e->path);
        int r = parent < 0 ? parent : look(f, root, parent, name);
        char *path = strdup(e->path);
        if (e->directory && r >= 0 && path)
                plan->directories[plan->n_directories++] =
                        (PlanDirectory) { .set = e->set, .inode = f->inode, .path = path, .extra = true };
        else if (e->directory)
                free(path);
        else {
                f->path = path;
                f->staged = strdup("");
                f->aside = temporary_name("old", name);
                path = f->staged && f->aside ? path : NULL;
        }
        return r < 0 ? r : path ? 0 : -ENOMEM;
}

static int add_directory(Plan *plan, const RestorePart *p, const RestoreItem *i) {
        PlanDirectory *d = plan->directories + plan->n_directories;
        const RestoreSet *set = p->sets + i->set;
        if (!i->path[0] && !set->made && !streq(set->to, set->root)) /* somebody else's, finish_directory() */
                return 0;
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

typedef struct Place {
        char *path;
        PlanFile *file;
} Place;

static int place_compare(const void *a, const void *b) {
        const Place *x = a, *y = b;
        int r = strcmp(x->path, y->path);
        return r ? r : (x->file > y->file) - (x->file < y->file);
}

/* Two file sets may share a file. */
static int mark_covered(Plan *plan) {
        Place *places = calloc(plan->n_files + 1, sizeof(*places));
        size_t n = 0;
        int r = places ? 0 : -ENOMEM;
        for (; r >= 0 && n < plan->n_files; n++) {
                PlanFile *f = plan->files + n;
                const char *root = plan->roots[f->set];
                places[n].file = f;
                if (asprintf(&places[n].path, "%s/%s", streq(root, "/") ? "" : root, f->path) < 0) {
                        places[n].path = NULL;
                        r = -ENOMEM;
                }
        }
        if (r >= 0 && n > 0)
                qsort(places, n, sizeof(*places), place_compare);
        for (size_t i = 0; r >= 0 && i + 1 < n; i++)
                places[i].file->covered = streq(places[i].path, places[i + 1].path);
        for (size_t i = 0; i < n; i++)
                free(places[i].path);
        free(places);
        return r;
}

int part_fill_plan(const RestorePart *p, Plan *plan) {
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
        plan->uid = p->with_writer && isempty(p->wishes.to) ? p->uid : 0; /* as rights_take() */
        plan->files = calloc(p->n_items + p->n_directed + p->n_extras + 1, sizeof(*plan->files));
        plan->directories = calloc(p->n_items + p->n_extras + 1, sizeof(*plan->directories));
        if (!plan->boot || !plan->created || !plan->set || !plan->writer || !plan->component || !plan->files ||
            !plan->directories)
                return -ENOMEM;
        for (size_t k = 0; r >= 0 && k < p->n_sets; k++)
                r = strings_append(&plan->roots, p->sets[k].to);
        for (size_t k = 0; r >= 0 && k < p->n_items; k++) {
                const RestoreItem *i = p->items + k;
                r = S_ISDIR(i->mode) ? add_directory(plan, p, i) : i->staged.name ? add_file(plan, p, i) : 0;
        }
        for (size_t k = 0; r >= 0 && k < p->n_directed; k++)
                r = add_directed(plan, p->directed + k);
        for (size_t k = 0; r >= 0 && k < p->n_extras; k++)
                r = add_extra(plan, p, p->extras + k);
        plan->n_all = plan->n_files;
        r = r < 0 ? r : mark_covered(plan);
        return r;
}
