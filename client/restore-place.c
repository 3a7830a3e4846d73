/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files beside their places: what stands there is looked at, and what is new is made under names that nobody uses.
 */
#include "client/restore.h"
#include <fcntl.h>
#include <stdio.h>

const char *base_name(const char *path) {
        const char *slash = strrchr(path, '/');
        return slash ? slash + 1 : path;
}

int open_parent(int dfd, const char *path) {
        const char *slash = strrchr(path, '/');
        if (!slash)
                return open_beneath(dfd, "", O_RDONLY | O_DIRECTORY);
        _cleanup_free_ char *parent = strndup(path, (size_t) (slash - path));
        return parent ? open_beneath(dfd, parent, O_RDONLY | O_DIRECTORY) : -ENOMEM;
}

int item_fail(RestorePart *p, RestoreItem *i, int error, const char *what) {
        const RestoreSet *s = p->sets + i->set;
        Condition c = error == -ENOSPC || error == -EDQUOT ? CONDITION_NO_SPACE :
                      error == -EACCES || error == -EPERM  ? CONDITION_NOT_AUTHORIZED :
                      error == -ETXTBSY || error == -EBUSY ? CONDITION_BUSY :
                      error == -EEXIST                     ? CONDITION_EXISTS :
                                                             CONDITION_FAILED;
        const char *why = error == -ETXTBSY ? "it is in use" :
                          error == -ELOOP   ? "a symbolic link is on the way" :
                          error == -EISDIR  ? "a directory stands there" :
                          error == -EBUSY   ? "something is mounted there" :
                          error == -EPERM   ? "it is immutable, or not to be replaced by this account" :
                                              strerror(-error);
        i->state = ITEM_FAILED;
        free(i->message);
        if (asprintf(&i->message, "%s: %s", what, why) < 0)
                i->message = NULL;
        return part_fail(p, c, "%.300s%s%.300s: %s: %s", s->to, i->path[0] ? "/" : "", i->path, what, why);
}

/* ---- checks ---- */

static int target_open(RestoreSet *s) {
        if (s->target < 0)
                s->target = open_absolute(s->to, O_RDONLY | O_DIRECTORY);
        return s->target;
}

int part_check_there(RestorePart *p) {
        struct stat st;
        for (size_t i = 0; i < p->n_items; i++) {
                RestoreItem *item = p->items + i;
                if (S_ISDIR(item->mode) || target_open(p->sets + item->set) < 0)
                        continue;
                _cleanup_close_ int parent = open_parent(p->sets[item->set].target, item->path);
                if (parent >= 0 && fstatat(parent, base_name(item->path), &st, AT_SYMLINK_NOFOLLOW) == 0)
                        return part_fail(p, CONDITION_EXISTS, "%.300s/%.300s is there already", p->sets[item->set].to,
                                         item->path) < 0;
        }
        return 0;
}

int part_check_replace(RestorePart *p) {
        for (size_t i = 0; i < p->n_items; i++) {
                RestoreItem *item = p->items + i;
                RestoreSet *s = p->sets + item->set;
                if (S_ISDIR(item->mode))
                        continue;
                int r = target_open(s);
                _cleanup_close_ int parent = r < 0 ? r : open_parent(s->target, item->path);
                r = parent < 0 ? parent : file_check_replace(parent, base_name(item->path));
                if (r < 0 && r != -ENOENT)
                        return item_fail(p, item, r, "cannot be replaced");
        }
        return 0;
}

/* ---- staging ---- */

/* Every directory from / on, none of them a link. Missing ones are made, readable for all: the last gets what the
 * backup says. */
static int target_make(RestoreSet *s, bool *ret_made) {
        _cleanup_free_ char *path = strdup(s->to);
        _cleanup_close_ int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        char *state = NULL;
        *ret_made = false;
        if (!path || fd < 0)
                return path ? -errno : -ENOMEM;
        for (char *name = strtok_r(path, "/", &state); name; name = strtok_r(NULL, "/", &state)) {
                int next = open_beneath(fd, name, O_PATH | O_DIRECTORY);
                if (next == -ENOENT) {
                        if (mkdirat(fd, name, 0755) < 0 && errno != EEXIST)
                                return -errno;
                        *ret_made = true;
                        next = open_beneath(fd, name, O_PATH | O_DIRECTORY);
                }
                if (next < 0)
                        return next;
                (void) close(fd);
                fd = next;
        }
        (void) close_fd(s->target);
        s->target = open_beneath(fd, "", O_RDONLY | O_DIRECTORY); /* those above may be passed and not read */
        return s->target < 0 ? s->target : 0;
}

/* The owner at once, so that a machine that fails before the rest is in place has no directory that nobody can enter.
 */
static int give_directory(const RestorePart *p, const RestoreItem *i, int fd) {
        _cleanup_close_ int from = sources_open_directory(p, p->sets + i->set, i->path);
        struct stat s;
        if (from < 0 || fstat(from, &s) < 0)
                return from < 0 ? from : -errno;
        return fchown(fd, s.st_uid, s.st_gid) == 0 || (errno == EPERM && geteuid() != 0) ? 0 : -errno;
}

static int stage_directory(const RestorePart *p, RestoreSet *s, RestoreItem *i) {
        if (!i->path[0])
                return 0; /* target_make() */
        _cleanup_close_ int parent = open_parent(s->target, i->path);
        if (parent < 0)
                return parent;
        i->made = mkdirat(parent, base_name(i->path), 0700) == 0;
        if (!i->made && errno != EEXIST)
                return -errno;
        _cleanup_close_ int fd = open_beneath(parent, base_name(i->path), O_RDONLY | O_DIRECTORY);
        if (fd >= 0 && !i->made)
                temporaries_clear(fd);
        return fd < 0 ? fd : i->made ? give_directory(p, i, fd) : 0;
}

static int stage_saved(RestorePart *p, RestoreItem *i) {
        RestoreSet *s = p->sets + i->set;
        if (S_ISDIR(i->mode))
                return stage_directory(p, s, i);
        if (i->partial)
                return partial_stage(p, i);
        _cleanup_close_ int from = sources_open_parent(p, s, i->path);
        _cleanup_close_ int to = from < 0 ? from : open_parent(s->target, i->path);
        return to < 0 ? to : file_stage(from, base_name(i->path), to, &i->staged);
}

static int stage_item(RestorePart *p, RestoreItem *i) {
        int r = i->only_added ? 0 : stage_saved(p, i);
        return r < 0 || !i->added ? r : added_stage(p, i);
}

static int stage_directed(RestorePart *p, DirectedTarget *d, const RestoreSet *s) {
        const char *below = d->path + strlen(s->root) + (streq(s->root, "/") ? 0 : 1);
        _cleanup_free_ char *directory = strndup(d->to, (size_t) MAX_OF(base_name(d->to) - d->to - 1, 1));
        if (!directory)
                return -ENOMEM;
        _cleanup_close_ int parent = sources_open_parent(p, s, below);
        _cleanup_close_ int from = parent < 0 ? parent : open_beneath(parent, base_name(below), O_RDONLY | O_NONBLOCK);
        if (from < 0)
                return from;
        d->target = open_absolute(directory, O_RDONLY | O_DIRECTORY);
        int r = d->target < 0 ? d->target : file_check_place(d->target, base_name(d->to));
        if (r < 0 && r != -ENOENT)
                return r;
        temporaries_clear(d->target);
        return file_stage_ranges(from, d->ranges, d->n_ranges, d->target, base_name(d->to), d->to_ranges,
                                 d->n_to_ranges, &d->staged);
}

static bool set_holds_path(const RestoreSet *s, const char *path) {
        size_t n = streq(s->root, "/") ? 0 : strlen(s->root);
        return strncmp(path, s->root, n) == 0 && path[n] == '/';
}

/* What is directed goes there and nowhere else. */
static int stage_all_directed(RestorePart *p) {
        for (size_t k = 0; k < p->n_directed; k++) {
                DirectedTarget *d = p->directed + k;
                int r = -ENOENT;
                for (size_t i = 0; i < p->n_sets && r == -ENOENT; i++)
                        if (set_holds_path(p->sets + i, d->path))
                                r = stage_directed(p, d, p->sets + i);
                if (r < 0)
                        return part_fail(p, r == -EACCES ? CONDITION_NOT_AUTHORIZED : CONDITION_FAILED,
                                         "%.200s cannot go to %.200s: %s", d->path, d->to, strerror(-r));
        }
        return 0;
}

static bool is_directed(const RestorePart *p, const RestoreItem *i) {
        const RestoreSet *s = p->sets + i->set;
        size_t n = streq(s->root, "/") ? 0 : strlen(s->root);
        for (size_t k = 0; k < p->n_directed; k++)
                if (set_holds_path(s, p->directed[k].path) && streq(p->directed[k].path + n + 1, i->path))
                        return true;
        return false;
}

int part_check_place(RestorePart *p) {
        for (size_t k = 0; k < p->n_items; k++) {
                RestoreItem *i = p->items + k;
                if (S_ISDIR(i->mode) || is_directed(p, i) || target_open(p->sets + i->set) < 0)
                        continue; /* what is missing is made */
                _cleanup_close_ int parent = open_parent(p->sets[i->set].target, i->path);
                int r = parent < 0 ? -ENOENT : file_check_place(parent, base_name(i->path));
                if (r < 0 && r != -ENOENT)
                        return item_fail(p, i, r, "cannot be replaced");
        }
        return 0;
}

/* Whoever wrote the source would have a device of his choice. 0:0 is none, but a mark of overlay file systems. */
static bool leaves_out(const RestorePart *p, RestoreItem *i) {
        struct stat s;
        if (given_flag(p->work->context, "device-nodes") || (!S_ISBLK(i->mode) && !S_ISCHR(i->mode)))
                return false;
        _cleanup_close_ int from = sources_open_parent(p, p->sets + i->set, i->path);
        if (from >= 0 && fstatat(from, base_name(i->path), &s, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(s.st_mode) &&
            s.st_rdev == 0)
                return false;
        free(i->message);
        i->message = strdup("a device node, left out without --device-nodes");
        return true;
}

static int stage_items(RestorePart *p) {
        for (size_t k = 0; k < p->n_items; k++) {
                RestoreItem *i = p->items + k;
                if (interrupted)
                        return -ECANCELED;
                if (!S_ISDIR(i->mode) && is_directed(p, i)) {
                        i->state = ITEM_DONE;
                        continue;
                }
                if (leaves_out(p, i))
                        continue;
                int r = stage_item(p, i);
                if (r == -ECANCELED)
                        return r;
                if (r < 0)
                        return item_fail(p, i, r, "cannot be written");
                i->state = ITEM_STAGED;
        }
        return stage_all_directed(p);
}

int part_stage(RestorePart *p) {
        for (size_t k = 0; k < p->n_sets; k++) {
                int r = target_make(p->sets + k, &p->sets[k].made);
                if (r < 0)
                        return part_fail(p, r == -EACCES ? CONDITION_NOT_AUTHORIZED : CONDITION_FAILED,
                                         "%.400s cannot be written to: %s", p->sets[k].to,
                                         r == -ELOOP ? "a part of the path is a symbolic link" : strerror(-r));
                temporaries_clear(p->sets[k].target);
        }
        int r = stage_items(p);
        for (size_t k = 0; r >= 0 && k < p->n_sets; k++) /* links, too; and while the service still runs */
                if (syncfs(p->sets[k].target) < 0)
                        r = part_fail(p, CONDITION_FAILED, "%.400s cannot be written: %s", p->sets[k].to,
                                      strerror(errno));
        return interrupted ? part_fail(p, CONDITION_CANCELLED, "interrupted; nothing was replaced") : r;
}

void part_unstage(RestorePart *p) {
        for (size_t k = p->n_items; k > 0; k--) {
                RestoreItem *i = p->items + k - 1;
                if (i->state == ITEM_STAGED || (i->state == ITEM_DONE && !p->touched))
                        i->state = ITEM_WAITS;
                if (!i->staged.name && !i->made)
                        continue;
                _cleanup_close_ int parent = open_parent(p->sets[i->set].target, i->path);
                if (parent >= 0 && i->made)
                        (void) unlinkat(parent, base_name(i->path), AT_REMOVEDIR);
                file_unstage(parent, &i->staged);
                i->made = false;
        }
        for (size_t k = 0; k < p->n_directed; k++)
                file_unstage(p->directed[k].target, &p->directed[k].staged);
}
