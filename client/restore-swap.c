/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is staged goes into its place: one step per file, so that a reader sees the old file or the new one and never
 * half of one. What was there stays beside it until all of the component is in place and on the disk; if one fails, the
 * others go back. What is too much in a database's directory goes aside with it, or, where no plan tells of that, after
 * it.
 */
#include "client/restore.h"
#include <fcntl.h>
#include <stdio.h>

static int finish_directory(RestorePart *p, RestoreItem *i) {
        const RestoreSet *s = p->sets + i->set;
        if (!i->path[0] && !s->made && !streq(s->to, s->root)) /* somebody else's */
                return 0;
        _cleanup_close_ int from = sources_open_directory(p, s, i->path);
        _cleanup_close_ int to = from < 0 ? from : open_beneath(s->target, i->path, O_RDONLY | O_DIRECTORY);
        int r = to < 0 ? to : i->made || (!i->path[0] && s->made) ? file_drop_acls(from, to) : 0;
        r = r < 0 ? r : file_copy_metadata(from, to);
        return r < 0 ? r : fsync(to) < 0 ? -errno : 0;
}

static int swap_items(RestorePart *p) {
        for (size_t k = 0; k < p->n_items; k++) {
                RestoreItem *i = p->items + k;
                if (S_ISDIR(i->mode) || i->state != ITEM_STAGED)
                        continue;
                _cleanup_close_ int parent = open_parent(p->sets[i->set].target, i->path);
                int r = parent < 0 ? parent : file_swap(parent, base_name(i->path), &i->staged, p->only_new);
                if (r < 0)
                        return item_fail(p, i, r, "cannot be replaced");
                i->state = ITEM_DONE;
        }
        for (size_t k = 0; k < p->n_directed; k++) {
                DirectedTarget *d = p->directed + k;
                int r = file_swap(d->target, base_name(d->to), &d->staged, false);
                if (r < 0)
                        return part_fail(p, CONDITION_FAILED, "%.400s cannot be replaced: %s", d->to, strerror(-r));
        }
        for (size_t k = 0; k < p->n_sets; k++)
                if (syncfs(p->sets[k].target) < 0)
                        return part_fail(p, CONDITION_FAILED, "%.400s cannot be written: %s", p->sets[k].to,
                                         strerror(errno));
        return 0;
}

/* Says how many did not go. */
static unsigned swap_back(RestorePart *p) {
        unsigned n = 0;
        for (size_t k = p->n_directed; k > 0; k--) {
                DirectedTarget *d = p->directed + k - 1;
                n += file_swap_back(d->target, base_name(d->to), &d->staged) < 0;
        }
        for (size_t k = p->n_items; k > 0; k--) {
                RestoreItem *i = p->items + k - 1;
                if (!i->staged.swapped)
                        continue;
                _cleanup_close_ int parent = open_parent(p->sets[i->set].target, i->path);
                if (parent < 0 || file_swap_back(parent, base_name(i->path), &i->staged) < 0)
                        n++;
                else
                        i->state = ITEM_WAITS;
        }
        return n;
}

static void keep(RestorePart *p) {
        for (size_t k = 0; k < p->n_items; k++) {
                RestoreItem *i = p->items + k;
                _cleanup_close_ int parent = i->staged.name ? open_parent(p->sets[i->set].target, i->path) : -EBADF;
                file_keep(parent, &i->staged);
        }
        for (size_t k = 0; k < p->n_directed; k++)
                file_keep(p->directed[k].target, &p->directed[k].staged);
}

static int mirror_sets(RestorePart *p, bool check) {
        for (size_t k = 0; k < p->n_sets; k++) {
                int r = p->sets[k].mirror ? mirror_set(p, k, check) : 0;
                if (r >= 0 && p->sets[k].mirror && !check && syncfs(p->sets[k].target) < 0)
                        r = -errno;
                if (r < 0)
                        return part_fail(p, CONDITION_FAILED,
                                         "%.400s: what the backup does not have cannot be removed: %s", p->sets[k].to,
                                         strerror(-r));
        }
        return 0;
}

static int finish_directories(RestorePart *p) {
        for (size_t k = p->n_items; k > 0; k--) {
                RestoreItem *i = p->items + k - 1;
                int r = S_ISDIR(i->mode) ? finish_directory(p, i) : 0;
                if (r < 0)
                        return item_fail(p, i, r, "attributes cannot be set");
                if (S_ISDIR(i->mode))
                        i->state = ITEM_DONE;
        }
        return 0;
}

/* Without a plan on the disk: restore-record.c says when. */
static int swap_unrecorded(RestorePart *p) {
        int r = swap_items(p);
        if (r < 0) {
                char why[LIMIT_MESSAGE_BYTES];
                unsigned n = swap_back(p);
                p->touched = n > 0;
                (void) snprintf(why, sizeof(why), "%s", p->message);
                return n == 0 ? r :
                                part_fail(p, p->condition,
                                          "%.600s; %u others could not go back: what they were is beside them as "
                                          ".vss-restore-old-*",
                                          why, n);
        }
        p->touched = true;
        keep(p);
        return 0;
}

static int with_rights(RestorePart *p, int (*act)(RestorePart *p)) {
        int r = rights_take(p);
        r = r < 0 ? part_fail(p, CONDITION_FAILED, "the writer's account cannot be used: %s", strerror(-r)) : act(p);
        rights_drop();
        return r;
}

static int check_mirror(RestorePart *p) {
        extras_done(p);
        return mirror_sets(p, true);
}

static int finish(RestorePart *p) {
        int r = mirror_sets(p, false);
        return r < 0 ? r : finish_directories(p);
}

int part_swap(RestorePart *p) {
        int r = with_rights(p, check_mirror);
        r = r < 0 ? r : record_begin(p);
        if (r < 0)
                return r;
        r = r > 0 ? record_replace(p) : with_rights(p, swap_unrecorded);
        if (r < 0)
                return r;
        record_release_older(p);
        return with_rights(p, finish);
}
