/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What happens to a plan in the boot, before anything runs that could have its files open, and to one that is
 * cancelled:
 *
 *   staged -> swapping -> done -> what was there is removed          a restore that waited for the next start
 *                      -> failed: what had gone goes back
 *   replacing -> replaced -> what was there is removed, the plan too a restore of this moment (restore-record.c)
 *             -> failed: what had gone goes back            held, if it had stopped a unit (restore-hold.c)
 *
 * A file that was staged is either beside its place or in it; its inode number says which (restore-steps.c). So
 * whatever cuts it off, the next start looks and goes on: forward with what was staged for it, because that is what its
 * writer was told; back with what vssctl was at, because its writer has not heard of the end and a mixture is nothing
 * to start on. Only when all of the component is in place and on the disk is the plan done or replaced, and only then
 * is what was there removed.
 */
#include "client/restore-plan.h"
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <time.h>

typedef struct Roots {
        int *fds; /* as plan.roots; -1: not there */
        size_t n;
} Roots;

static void roots_done(Roots *r) {
        for (size_t i = 0; i < r->n; i++)
                (void) close_fd(r->fds[i]);
        free(r->fds);
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

static int take_rights(const Plan *p) {
        if (p->uid == 0 || geteuid() != 0)
                return 0;
        const struct passwd *pw = getpwuid((uid_t) p->uid);
        if (!pw || initgroups(pw->pw_name, pw->pw_gid) < 0 || setegid(pw->pw_gid) < 0 || seteuid((uid_t) p->uid) < 0)
                return pw ? -errno : -ENOENT;
        return 0;
}

/* With the rights that the files have been staged with: a server of files may let root in nowhere. */
static int roots_open(Plan *p, Roots *ret) {
        size_t n = strings_count(p->roots);
        ret->fds = calloc(n + 1, sizeof(*ret->fds));
        if (!ret->fds)
                return fail(p, -ENOMEM, "out of memory");
        if (take_rights(p) < 0)
                rights_drop();
        for (size_t i = 0; i < n; i++)
                ret->fds[ret->n++] = open_absolute(p->roots[i], O_RDONLY | O_DIRECTORY);
        rights_drop();
        return 0;
}

static int file_fail(Plan *p, const PlanFile *f, int error) {
        return fail(p, error, "%.300s/%.300s: %s", p->roots[f->set], f->path,
                    error == -ELOOP                      ? "a symbolic link is on the way" :
                    error == -EISDIR                     ? "a directory stands there" :
                    error == -EBUSY                      ? "something is mounted there" :
                    error == -ETXTBSY                    ? "it is in use" :
                    error == -ENODATA                    ? "what was there before is gone" :
                    error == -EAGAIN || error == -ESTALE ? "it is neither there nor beside its place; is it mounted?" :
                                                           strerror(-error));
}

static int parent_open(const Roots *roots, const PlanFile *f) {
        return roots->fds[f->set] < 0 ? roots->fds[f->set] : open_parent(roots->fds[f->set], f->path);
}

typedef int (*Step)(int dfd, const PlanFile *f);

static bool goes_forward(Step step) {
        return step == plan_file_swap || step == plan_file_replace || step == plan_file_add;
}

static bool goes_back(Step step) {
        return step == plan_file_back || step == plan_file_back_if_there;
}

/* What is not there needs no step back, and is not left over. */
static bool may_be_gone(Step step) {
        return step == plan_file_back_if_there || step == plan_file_remove_old || step == plan_file_remove_staged;
}

static int each_file(Plan *p, const Roots *roots, Step step) {
        int first = 0;
        for (size_t k = 0; k < p->n_files; k++) {
                size_t i = goes_back(step) ? p->n_files - 1 - k : k; /* of two in one place the last is the first */
                const PlanFile *f = p->files + i;
                _cleanup_close_ int parent = parent_open(roots, f);
                bool gone = parent == -ENOENT && roots->fds[f->set] >= 0 && may_be_gone(step);
                int r = parent >= 0 ? step(parent, f) : gone ? 0 : parent;
                if (r < 0 && first >= 0) {
                        first = file_fail(p, f, r);
                        p->failed = i;
                }
                if (r < 0 && goes_forward(step))
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
        struct stat s;
        PlanWhere w = plan_file_where(parent, f);
        int r = w == PLAN_BESIDE ? file_check_place(parent, name) : 0;
        *ret_seen = w == PLAN_BESIDE || (p->state == PLAN_SWAPPING && w != PLAN_LOST);
        if (w == PLAN_BESIDE)
                return r == -ENOENT ? 0 : r;
        if (p->state == PLAN_STAGED)
                return -ENOENT;
        return w == PLAN_LOST && fstatat(parent, name, &s, AT_SYMLINK_NOFOLLOW) < 0 ? -EAGAIN : 0;
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

static bool is_synced(const dev_t *synced, size_t n, dev_t device) {
        for (size_t i = 0; i < n; i++)
                if (synced[i] == device)
                        return true;
        return false;
}

/* Each volume below a root once. What cannot be opened is told by the steps, or is gone. */
static int sync_nested(Plan *p, const Roots *roots) {
        _cleanup_free_ dev_t *synced = NULL;
        size_t n = 0;
        for (size_t i = 0; i < p->n_files; i++) {
                const PlanFile *f = p->files + i;
                struct stat s;
                _cleanup_close_ int parent = f->nested ? parent_open(roots, f) : -EBADF;
                if (parent < 0 || fstat(parent, &s) < 0 || is_synced(synced, n, s.st_dev))
                        continue;
                if (syncfs(parent) < 0)
                        return file_fail(p, f, -errno);
                dev_t *grown = reallocarray(synced, n + 1, sizeof(*grown));
                if (!grown)
                        return fail(p, -ENOMEM, "out of memory");
                synced = grown;
                synced[n++] = s.st_dev;
        }
        return 0;
}

static int sync_all(Plan *p, const Roots *roots) {
        for (size_t i = 0; i < roots->n; i++)
                if (roots->fds[i] >= 0 && syncfs(roots->fds[i]) < 0)
                        return fail(p, -errno, "%.400s: %s", p->roots[i], strerror(errno));
        if (take_rights(p) < 0)
                rights_drop();
        int r = sync_nested(p, roots);
        rights_drop();
        return r;
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
                if (!p->directories[i - 1].extra)
                        dress_directory(roots, p->directories + i - 1);
        rights_drop();
}

static int account_fail(Plan *p, int error) {
        return fail(p, error, "the account %llu cannot be used: %s", (unsigned long long) p->uid, strerror(-error));
}

static int with_rights(Plan *p, const Roots *roots, Step step) {
        int r = take_rights(p);
        r = r < 0 ? account_fail(p, r) : each_file(p, roots, step);
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

static void forget_all(Plan *p) {
        for (size_t i = 0; i < p->n_files; i++) {
                free(p->files[i].path);
                free(p->files[i].staged);
                free(p->files[i].aside);
        }
        for (size_t i = 0; i < p->n_directories; i++)
                free(p->directories[i].path);
        p->n_files = p->n_directories = 0;
}

/* How it stands is enough from now on. */
static int finish(int dfd, Plan *p, const Roots *roots) {
        int r = with_rights(p, roots, plan_file_remove_old);
        r = r < 0 ? r : sync_all(p, roots);
        if (r < 0)
                return r; /* what is left is removed in the next start */
        forget_all(p);
        return set_state(dfd, p, PLAN_DONE);
}

static int give_up(int dfd, Plan *p, const Roots *roots, int error) {
        _cleanup_free_ char *why = TAKE_PTR(p->message);
        int r = with_rights(p, roots, plan_file_back);
        r = r < 0 ? r : sync_all(p, roots);
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
        r = r < 0 ? r : with_rights(p, roots, plan_file_swap);
        r = r < 0 ? r : sync_all(p, roots);
        if (r < 0)
                return give_up(dfd, p, roots, r);
        dress_directories(p, roots);
        r = set_state(dfd, p, PLAN_DONE);
        return r < 0 ? r : finish(dfd, p, roots);
}

/* ---- what vssctl was at ---- */

/* From the inside out; what is not empty stays. */
static void remove_directories(const Plan *p, const Roots *roots, bool extra) {
        int r = take_rights(p);
        for (size_t i = r < 0 ? 0 : p->n_directories; i > 0; i--) {
                const PlanDirectory *d = p->directories + i - 1;
                struct stat s;
                if (!(extra ? d->extra : d->made) || !d->path[0] || roots->fds[d->set] < 0)
                        continue;
                _cleanup_close_ int parent = open_parent(roots->fds[d->set], d->path);
                if (parent >= 0 && fstatat(parent, base_name(d->path), &s, AT_SYMLINK_NOFOLLOW) == 0 &&
                    s.st_ino == d->inode)
                        (void) unlinkat(parent, base_name(d->path), AT_REMOVEDIR);
        }
        rights_drop();
}

static bool is_nested(int root, int parent) {
        struct stat r, s;
        return fstat(root, &r) == 0 && fstat(parent, &s) == 0 && r.st_dev != s.st_dev;
}

/* Of what changed places nothing has been used since; in a boot nothing can be in use, later it could. */
static int check_back_file(int root, int parent, const PlanFile *f, bool boot, bool *ret_seen) {
        const char *name = base_name(f->path);
        PlanWhere w = plan_file_where(parent, f);
        *ret_seen = w != PLAN_LOST;
        if (f->nested && !is_nested(root, parent))
                return -EAGAIN;
        if (boot && ((w == PLAN_REPLACED_SINCE && !f->covered) ||
                     (w == PLAN_IN_PLACE && f->staged[0] && !plan_file_is_as_staged(parent, name, f))))
                return -ETXTBSY;
        if (w == PLAN_IN_PLACE && plan_file_has_lost_old(parent, f))
                return -ENODATA;
        int k = boot || w == PLAN_LOST ? 0 : file_check_replace(parent, name);
        return k == -ENOENT ? 0 : k;
}

/* Where nothing is to be seen, or the volume below is not mounted, nothing is removed: nobody would know of it later.
 */
static int check_some(Plan *p, const Roots *roots) {
        _cleanup_free_ bool *seen = calloc(roots->n + 1, sizeof(*seen));
        for (size_t i = 0; seen && i < p->n_files; i++) {
                const PlanFile *f = p->files + i;
                _cleanup_close_ int parent = parent_open(roots, f);
                if (f->nested && (parent < 0 || !is_nested(roots->fds[f->set], parent)))
                        return file_fail(p, f, -EAGAIN);
                seen[f->set] = seen[f->set] || (parent >= 0 && plan_file_where(parent, f) != PLAN_LOST);
        }
        for (size_t i = 0; seen && i < p->n_files; i++)
                if (!seen[p->files[i].set] && p->files[i].staged[0])
                        return not_there(p, p->files[i].set);
        return seen ? 0 : fail(p, -ENOMEM, "out of memory");
}

static int check_back_all(Plan *p, const Roots *roots, bool boot) {
        _cleanup_free_ bool *seen = calloc(roots->n + 1, sizeof(*seen));
        int r = seen ? 0 : fail(p, -ENOMEM, "out of memory");
        for (size_t i = 0; r >= 0 && i < p->n_files; i++) {
                const PlanFile *f = p->files + i;
                _cleanup_close_ int parent = parent_open(roots, f);
                bool here = false;
                int k = parent >= 0       ? check_back_file(roots->fds[f->set], parent, f, boot, &here) :
                        parent != -ENOENT ? parent :
                        f->nested         ? -EAGAIN :
                                            0;
                seen[f->set] = seen[f->set] || here;
                if (k == -ETXTBSY && boot)
                        r = fail(p, k, "%.300s/%.300s has been used since: nothing goes back unasked", p->roots[f->set],
                                 f->path);
                else if (k < 0)
                        r = file_fail(p, f, k);
        }
        for (size_t i = 0; r >= 0 && i < p->n_files; i++)
                if (!seen[p->files[i].set])
                        r = not_there(p, p->files[i].set);
        return r;
}

static int check_back(Plan *p, const Roots *roots, bool boot) {
        int r = take_rights(p);
        r = r < 0 ? account_fail(p, r) : check_back_all(p, roots, boot);
        rights_drop();
        return r;
}

/* All is as it was, and on the disk, before the plan says so; what was staged goes after that. */
static int go_back(int dfd, Plan *p, const Roots *roots) {
        int r = with_rights(p, roots, plan_file_back_if_there);
        r = r < 0 ? r : sync_all(p, roots);
        return r < 0 ? r : set_state(dfd, p, PLAN_FAILED);
}

static int remove_new(Plan *p, const Roots *roots) {
        int r = with_rights(p, roots, plan_file_remove_staged);
        remove_directories(p, roots, false);
        return r < 0 ? r : sync_all(p, roots);
}

static int undo_in_boot(int dfd, Plan *p, const Roots *roots) {
        int r = check_back(p, roots, true);
        r = r < 0 ? r : go_back(dfd, p, roots);
        r = r < 0 ? r : remove_new(p, roots);
        if (r < 0)
                return r;
        forget_all(p);
        (void) fail(p, 0, "vssctl was cut off while files changed places: what was there is back");
        return set_state(dfd, p, PLAN_FAILED);
}

/* What is too much, and the owners and modes of directories. */
static int complete(Plan *p, const Roots *roots) {
        int r = with_rights(p, roots, plan_file_remove_old);
        if (r < 0)
                return r;
        remove_directories(p, roots, true);
        dress_directories(p, roots);
        return sync_all(p, roots);
}

static int complete_in_boot(int dfd, Plan *p, const Roots *roots) {
        int r = check_some(p, roots);
        r = r < 0 ? r : complete(p, roots);
        if (r < 0 || !p->unit)
                return r < 0 ? r : plan_remove(dfd, p->id);
        forget_all(p);
        return set_state(dfd, p, PLAN_HELD);
}

int plan_replace(Plan *p) {
        _cleanup_(roots_done) Roots roots = {};
        int r = roots_open(p, &roots);
        r = r < 0 ? r : with_rights(p, &roots, p->only_new ? plan_file_add : plan_file_replace);
        return r < 0 ? r : sync_all(p, &roots);
}

int plan_remove_old(Plan *p) {
        _cleanup_(roots_done) Roots roots = {};
        int r = roots_open(p, &roots);
        return r < 0 ? r : with_rights(p, &roots, plan_file_remove_old);
}

int plan_undo(int dfd, Plan *p) {
        _cleanup_(roots_done) Roots roots = {};
        int r = roots_open(p, &roots);
        r = r < 0 ? r : go_back(dfd, p, &roots);
        r = r < 0 ? r : remove_new(p, &roots);
        return r < 0 ? r : plan_remove(dfd, p->id);
}

int plan_sync(Plan *p) {
        _cleanup_(roots_done) Roots roots = {};
        int r = roots_open(p, &roots);
        return r < 0 ? r : sync_all(p, &roots);
}

/* ---- what is asked for ---- */

/* Whatever starts this: while what was there is in use nothing is replaced. */
static int check_start(Plan *p) {
        _cleanup_free_ char *now = boot_name();
        if (!now)
                return fail(p, -EIO, "which start of the machine this is cannot be read");
        return streq(p->boot, now) ? fail(p, -EAGAIN, "it was made in this one") : 0;
}

int plan_run(int dfd, Plan *p) {
        _cleanup_(roots_done) Roots roots = {};
        if (plan_is_over(p))
                return 0;
        if (p->state == PLAN_STAGING)
                return plan_cancel(dfd, p);
        int r = check_start(p);
        r = r < 0 ? r : roots_open(p, &roots);
        if (r < 0)
                return r;
        switch (p->state) {
        case PLAN_DONE:
                return finish(dfd, p, &roots);
        case PLAN_REPLACING:
                return undo_in_boot(dfd, p, &roots);
        case PLAN_REPLACED:
                return complete_in_boot(dfd, p, &roots);
        case PLAN_HELD:
                return 0;
        default:
                return swap(dfd, p, &roots);
        }
}

bool plan_is_over(const Plan *p) {
        return p->state == PLAN_FAILED || (p->state == PLAN_DONE && p->n_files == 0);
}

/* What has begun to change places goes back; what has changed places cannot any more, and is ended. */
int plan_cancel(int dfd, Plan *p) {
        _cleanup_(roots_done) Roots roots = {};
        if (plan_is_running(dfd, p->id))
                return fail(p, -EBUSY, "its vssctl is still at it");
        int r = roots_open(p, &roots);
        if (r >= 0 && p->state == PLAN_REPLACED)
                r = complete(p, &roots);
        else if (r >= 0 && p->state == PLAN_DONE)
                r = p->n_files > 0 ? finish(dfd, p, &roots) : 0;
        if (r < 0 || p->state == PLAN_REPLACED || p->state == PLAN_DONE || p->state == PLAN_HELD)
                return r < 0 ? r : plan_remove(dfd, p->id);
        if (p->state == PLAN_SWAPPING || p->state == PLAN_REPLACING) {
                r = check_back(p, &roots, false);
                r = r < 0 ? r : go_back(dfd, p, &roots);
        }
        if (r < 0)
                return r;
        r = remove_new(p, &roots);
        return r < 0 && r != -ENOENT ? r : plan_remove(dfd, p->id);
}
