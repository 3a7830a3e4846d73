/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What happens to a plan in the boot, before anything runs that could have its files open:
 *
 *   staged -> swapping -> done -> what was there is removed
 *                      -> failed: what had gone goes back
 *
 * A file that was staged is either beside its place or in it; its inode number says which. Each step is one rename that
 * may have happened or not, so whatever cuts it off, the next start looks and goes on. Only when all of the component
 * is in place and on the disk is the plan done, and only then is what was there removed.
 */
#include "client/restore-plan.h"
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <time.h>

/* REPLACED: what was there is beside it, so it went into place, and somebody has put something else there since. */
typedef enum Where { BESIDE, IN_PLACE, REPLACED, LOST } Where;

typedef struct Roots {
        int *fds; /* as plan.roots; -1: not there */
        size_t n;
} Roots;

static void roots_done(Roots *r) {
        for (size_t i = 0; i < r->n; i++)
                (void) close_fd(r->fds[i]);
        free(r->fds);
}

static int roots_open(const Plan *p, Roots *ret) {
        size_t n = strings_count(p->roots);
        ret->fds = calloc(n + 1, sizeof(*ret->fds));
        if (!ret->fds)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                ret->fds[ret->n++] = open_absolute(p->roots[i], O_RDONLY | O_DIRECTORY);
        return 0;
}

_printf_(3, 4) static int fail(Plan *p, int error, const char *format, ...) {
        va_list ap;
        free(p->message);
        va_start(ap, format);
        if (vasprintf(&p->message, format, ap) < 0)
                p->message = NULL;
        va_end(ap);
        if (p->message)
                text_clean(p->message);
        return error;
}

static int file_fail(Plan *p, const PlanFile *f, int error) {
        return fail(p, error, "%.300s/%.300s: %s", p->roots[f->set], f->path,
                    error == -ELOOP  ? "a symbolic link is on the way" :
                    error == -EISDIR ? "a directory stands there" :
                    error == -EBUSY  ? "something is mounted there" :
                    error == -EAGAIN ? "it is neither there nor beside its place; is it mounted?" :
                                       strerror(-error));
}

static int parent_open(const Roots *roots, const PlanFile *f) {
        return roots->fds[f->set] < 0 ? roots->fds[f->set] : open_parent(roots->fds[f->set], f->path);
}

static bool is_it(int dfd, const char *name, const PlanFile *f) {
        struct stat s;
        return fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(s.st_mode) && s.st_ino == f->inode;
}

static bool is_there(int dfd, const char *name) {
        struct stat s;
        return fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) == 0;
}

static Where where_is(int dfd, const PlanFile *f) {
        return is_it(dfd, base_name(f->path), f)                   ? IN_PLACE :
               is_it(dfd, f->staged, f)                            ? BESIDE :
               is_there(dfd, f->staged) || is_there(dfd, f->aside) ? REPLACED :
                                                                     LOST;
}

/* ---- one file ---- */

static int swap_file(int dfd, const PlanFile *f) {
        const char *name = base_name(f->path);
        if (where_is(dfd, f) != BESIDE)
                return 0; /* check() */
        int r = file_move_to_free(dfd, f->staged, name);
        if (r != -EEXIST)
                return r;
        r = file_check_place(dfd, name);
        return r < 0 ? r : file_exchange(dfd, f->staged, name, f->aside);
}

static int swap_file_back(int dfd, const PlanFile *f) {
        const char *name = base_name(f->path);
        Where w = where_is(dfd, f);
        if (w == LOST)
                return is_there(dfd, name) ? 0 : -ESTALE;
        if (w != BESIDE && is_there(dfd, f->staged) && is_there(dfd, name))
                return file_exchange(dfd, f->staged, name, f->aside);
        if (w == REPLACED && is_there(dfd, f->staged))
                return file_move_to_free(dfd, f->staged, name);
        if (w != BESIDE && is_there(dfd, name) && renameat(dfd, name, dfd, f->staged) < 0)
                return -errno;
        return is_there(dfd, f->aside) ? file_move_to_free(dfd, f->aside, name) : 0;
}

/* Nothing but what is old has these names any more. */
static int remove_old(int dfd, const PlanFile *f) {
        if (!is_it(dfd, f->staged, f) && unlinkat(dfd, f->staged, 0) < 0 && errno != ENOENT)
                return -errno;
        return unlinkat(dfd, f->aside, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static int remove_staged(int dfd, const PlanFile *f) {
        return is_it(dfd, f->staged, f) && unlinkat(dfd, f->staged, 0) < 0 ? -errno : 0;
}

static int each_file(Plan *p, const Roots *roots, int (*act)(int dfd, const PlanFile *f)) {
        int first = 0;
        for (size_t i = 0; i < p->n_files; i++) {
                _cleanup_close_ int parent = parent_open(roots, p->files + i);
                int r = parent < 0 ? parent : act(parent, p->files + i);
                if (r < 0 && first >= 0)
                        first = file_fail(p, p->files + i, r);
                if (r < 0 && act == swap_file)
                        break;
        }
        return first;
}

/* ---- all of them ---- */

/*
 * Before the first change every file has to be beside its place: what has its inode number elsewhere is another one.
 * Later it may have gone into place, and been used there if the plan could not be written any more.
 */
static int check_file(const Plan *p, int parent, const PlanFile *f, bool *ret_seen) {
        const char *name = base_name(f->path);
        Where w = where_is(parent, f);
        int r = w == BESIDE ? file_check_place(parent, name) : 0;
        *ret_seen = w == BESIDE || (p->state == PLAN_SWAPPING && w != LOST);
        if (w == BESIDE)
                return r == -ENOENT ? 0 : r;
        if (p->state == PLAN_STAGED)
                return -ENOENT;
        return w == LOST && !is_there(parent, name) ? -EAGAIN : 0;
}

static int not_there(Plan *p, size_t set) {
        return fail(p, -EAGAIN, "%.400s: nothing of what was staged is there; is it mounted?", p->roots[set]);
}

/* -EAGAIN: nothing of one of its directories is there, so a volume is not mounted. */
static int check(Plan *p, const Roots *roots) {
        _cleanup_free_ bool *seen = calloc(roots->n + 1, sizeof(*seen));
        int r = seen ? 0 : fail(p, -ENOMEM, "out of memory");
        for (size_t i = 0; seen && i < p->n_files; i++) {
                const PlanFile *f = p->files + i;
                _cleanup_close_ int parent = parent_open(roots, f);
                bool here = false;
                int k = parent >= 0 ? check_file(p, parent, f, &here) : p->state == PLAN_SWAPPING ? -EAGAIN : parent;
                seen[f->set] = seen[f->set] || here;
                if (k < 0 && r >= 0)
                        r = file_fail(p, f, k);
        }
        for (size_t i = 0; seen && i < p->n_files; i++)
                if (!seen[p->files[i].set])
                        return not_there(p, p->files[i].set);
        return r;
}

static int sync_roots(Plan *p, const Roots *roots) {
        for (size_t i = 0; i < roots->n; i++)
                if (roots->fds[i] >= 0 && syncfs(roots->fds[i]) < 0)
                        return fail(p, -errno, "%.400s: %s", p->roots[i], strerror(errno));
        return 0;
}

static int take_rights(const Plan *p) {
        if (p->uid == 0 || geteuid() != 0)
                return 0;
        const struct passwd *pw = getpwuid((uid_t) p->uid);
        if (!pw || initgroups(pw->pw_name, pw->pw_gid) < 0 || setegid(pw->pw_gid) < 0 || seteuid((uid_t) p->uid) < 0)
                return pw ? -errno : -ENOENT;
        return 0;
}

static void dress_directory(const Roots *roots, const PlanDirectory *d) {
        int root = roots->fds[d->set];
        struct stat s;
        _cleanup_close_ int fd = root < 0 ? root : open_beneath(root, d->path, O_RDONLY | O_DIRECTORY);
        if (fd < 0 || fstat(fd, &s) < 0 || s.st_ino != d->inode)
                return; /* another one was put there */
        if (fchown(fd, (uid_t) d->uid, (gid_t) d->gid) == 0 || errno == EPERM)
                (void) fchmod(fd, (mode_t) d->mode);
}

/* From the inside out, so that what takes the right to enter comes last. */
static void dress_directories(const Plan *p, const Roots *roots) {
        int r = take_rights(p);
        for (size_t i = r < 0 ? 0 : p->n_directories; i > 0; i--)
                dress_directory(roots, p->directories + i - 1);
        rights_drop();
}

static int account_fail(Plan *p, int error) {
        return fail(p, error, "the account %llu cannot be used: %s", (unsigned long long) p->uid, strerror(-error));
}

static int with_rights(Plan *p, const Roots *roots, int (*act)(int dfd, const PlanFile *f)) {
        int r = take_rights(p);
        r = r < 0 ? account_fail(p, r) : each_file(p, roots, act);
        rights_drop();
        return r;
}

static int set_state(int dfd, Plan *p, PlanState state) {
        char now[64];
        p->state = state;
        if (state == PLAN_DONE || state == PLAN_FAILED) {
                free(p->ended);
                p->ended = format_timestamp(clock_usec(CLOCK_REALTIME), now, sizeof(now)) < 0 ? NULL : strdup(now);
        }
        int r = plan_save(dfd, p);
        return r < 0 ? fail(p, r, "the plan cannot be written: %s", strerror(-r)) : 0;
}

/* How it stands is enough from now on. */
static int finish(int dfd, Plan *p, const Roots *roots) {
        int r = with_rights(p, roots, remove_old);
        r = r < 0 ? r : sync_roots(p, roots);
        if (r < 0)
                return r; /* what is left is removed in the next start */
        for (size_t i = 0; i < p->n_files; i++) {
                free(p->files[i].path);
                free(p->files[i].staged);
                free(p->files[i].aside);
        }
        p->n_files = 0;
        return set_state(dfd, p, PLAN_DONE);
}

static int give_up(int dfd, Plan *p, const Roots *roots, int error) {
        _cleanup_free_ char *why = TAKE_PTR(p->message);
        int r = with_rights(p, roots, swap_file_back);
        r = r < 0 ? r : sync_roots(p, roots);
        if (r < 0) { /* neither one nor the other: the next start tries again */
                _cleanup_free_ char *back = TAKE_PTR(p->message);
                return fail(p, r, "%s, and not all could go back: %s", why ?: "", back ?: "");
        }
        p->message = TAKE_PTR(why);
        r = set_state(dfd, p, PLAN_FAILED);
        return r < 0 ? r : error;
}

static int check_account(Plan *p) {
        int r = take_rights(p);
        rights_drop();
        return r < 0 ? account_fail(p, r) : 0;
}

static int swap(int dfd, Plan *p, const Roots *roots) {
        int r = check(p, roots);
        if (r == -ENOMEM || (r == -EAGAIN && p->state == PLAN_SWAPPING)) /* its other half is elsewhere */
                return r;
        if (p->state == PLAN_STAGED) {
                r = r < 0 ? r : check_account(p);
                int k = set_state(dfd, p, r < 0 ? PLAN_FAILED : PLAN_SWAPPING);
                if (r < 0 || k < 0)
                        return k < 0 ? k : -ECANCELED; /* nothing was touched */
        }
        r = r < 0 ? r : with_rights(p, roots, swap_file);
        r = r < 0 ? r : sync_roots(p, roots);
        if (r < 0)
                return give_up(dfd, p, roots, r);
        dress_directories(p, roots);
        r = set_state(dfd, p, PLAN_DONE);
        return r < 0 ? r : finish(dfd, p, roots);
}

/* Whatever starts this: while what was there is in use nothing is replaced. */
static int check_start(Plan *p) {
        _cleanup_free_ char *now = boot_name();
        if (!now)
                return fail(p, -EIO, "which start of the machine this is cannot be read");
        return streq(p->boot, now) ? fail(p, -EAGAIN, "it was made in this one") : 0;
}

int plan_run(int dfd, Plan *p) {
        _cleanup_(roots_done) Roots roots = {};
        if (p->state == PLAN_FAILED || (p->state == PLAN_DONE && p->n_files == 0))
                return 0;
        if (p->state == PLAN_STAGING)
                return plan_cancel(dfd, p);
        int r = check_start(p);
        if (r < 0)
                return r;
        if (roots_open(p, &roots) < 0)
                return fail(p, -ENOMEM, "out of memory");
        return p->state == PLAN_DONE ? finish(dfd, p, &roots) : swap(dfd, p, &roots);
}

int plan_cancel(int dfd, Plan *p) {
        _cleanup_(roots_done) Roots roots = {};
        if (p->state == PLAN_SWAPPING || (p->state == PLAN_DONE && p->n_files > 0))
                return fail(p, -EBUSY, "it was cut off half-way; the next start of the machine ends it");
        int r = roots_open(p, &roots);
        r = r < 0 ? fail(p, r, "out of memory") : with_rights(p, &roots, remove_staged);
        if (r < 0 && r != -ENOENT)
                return r;
        for (size_t i = p->n_directories; i > 0; i--) {
                const PlanDirectory *d = p->directories + i - 1;
                if (!d->made || !d->path[0] || roots.fds[d->set] < 0)
                        continue;
                _cleanup_close_ int parent = open_parent(roots.fds[d->set], d->path);
                if (parent >= 0)
                        (void) unlinkat(parent, base_name(d->path), AT_REMOVEDIR);
        }
        return plan_remove(dfd, p->id);
}
