/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A database's directory is made equal to its backup: a segment that came into being later would be read as a part of
 * the older table. What goes away here is gone for good, so it is only what the backup would show if it had been there
 * (restore_mirrors(), tree_matches()): nothing that was kept out of the backup, nothing on a file system that the
 * backup shows nothing of, nothing in a place of something else that is restored.
 */
#include "client/restore.h"
#include "protocol/text.h"
#include <dirent.h>
#include <fcntl.h>

typedef struct Mirror {
        RestorePart *part;
        size_t set;
        bool check;   /* removes nothing: could it, and what? */
        char **paths; /* of the backup, sorted */
        size_t n;
} Mirror;

static int item_compare(const void *a, const void *b) {
        return strcmp(*(char *const *) a, *(char *const *) b);
}

static bool has_below(const Mirror *m, const char *path) {
        size_t n = strlen(path);
        for (size_t i = 0; i < m->n; i++)
                if (strncmp(m->paths[i], path, n) == 0 && m->paths[i][n] == '/')
                        return true;
        return false;
}

/* Something else that is restored goes there: another set, with a directory of its own inside of ours. */
static bool is_anothers(const Mirror *m, const char *path) {
        const RestoreWork *w = m->part->work;
        const RestoreSet *own = m->part->sets + m->set;
        _cleanup_free_ char *full = NULL;
        if (asprintf(&full, "%s/%s", streq(own->to, "/") ? "" : own->to, path) < 0)
                return true;
        for (size_t i = 0; i < w->n_parts; i++) {
                const RestorePart *p = w->parts + i;
                for (size_t k = 0; k < p->n_sets; k++)
                        if (!streq(p->sets[k].to, own->to) && path_is_inside(p->sets[k].to, own->to) &&
                            path_is_inside(full, p->sets[k].to))
                                return true;
                for (size_t k = 0; k < p->n_directed; k++)
                        if (streq(full, p->directed[k].to))
                                return true;
        }
        return false;
}

void extras_done(RestorePart *p) {
        for (size_t i = 0; i < p->n_extras; i++)
                free(p->extras[i].path);
        free(p->extras);
        p->extras = NULL;
        p->n_extras = 0;
}

/* The array grows when its size is a power of two. */
static int add_extra(const Mirror *m, const char *path, bool directory) {
        RestorePart *p = m->part;
        if (!(p->n_extras & (p->n_extras - 1))) {
                RestoreExtra *grown = reallocarray(p->extras, MAX_OF(2 * p->n_extras, (size_t) 1), sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                p->extras = grown;
        }
        p->extras[p->n_extras] = (RestoreExtra) { m->set, strdup(path), directory };
        return p->extras[p->n_extras].path ? (p->n_extras++, 0) : -ENOMEM;
}

/* all: the backup has nothing below. */
static int mirror_directory(Mirror *m, int fd, const char *path, bool all);

static int mirror_child(Mirror *m, int dfd, dev_t device, const char *path, const char *name, bool known) {
        struct stat s;
        int fd = open_beneath(dfd, name, O_RDONLY | O_DIRECTORY);
        if (fd < 0)
                return fd;
        if (fstat(fd, &s) < 0 || (s.st_dev != device && !has_below(m, path))) {
                (void) close(fd);
                return 0;
        }
        int r = known || !m->check ? 0 : add_extra(m, path, true);
        if (r < 0)
                (void) close(fd);
        r = r < 0 ? r : mirror_directory(m, fd, path, !known);
        if (r < 0 || known || m->check || unlinkat(dfd, name, AT_REMOVEDIR) == 0)
                return r;
        return errno == ENOTEMPTY || errno == EBUSY ? 0 : -errno;
}

static int mirror_entry(Mirror *m, int dfd, dev_t device, const char *path, const char *name, bool all) {
        _cleanup_free_ char *own = NULL;
        struct stat s;
        if (asprintf(&own, "%s%s%s", path, path[0] ? "/" : "", name) < 0)
                return -ENOMEM;
        if (fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (!tree_matches(m->part, m->set, own, S_ISDIR(s.st_mode)) || is_anothers(m, own))
                return 0;
        bool known = !all && bsearch(&own, m->paths, m->n, sizeof(*m->paths), item_compare);
        if (S_ISDIR(s.st_mode))
                return mirror_child(m, dfd, device, own, name, known);
        if (known)
                return 0;
        if (!m->check)
                return unlinkat(dfd, name, 0) < 0 ? -errno : 0;
        int r = file_check_place(dfd, name);
        return r < 0 ? r : add_extra(m, own, false);
}

static int mirror_directory(Mirror *m, int fd, const char *path, bool all) {
        struct stat s;
        DIR *d = fstat(fd, &s) < 0 ? NULL : fdopendir(fd);
        int r = 0;
        if (!d) {
                (void) close(fd);
                return -ENOMEM;
        }
        for (struct dirent *e; r >= 0 && (e = readdir(d));)
                if (!streq(e->d_name, ".") && !streq(e->d_name, ".."))
                        r = mirror_entry(m, dirfd(d), s.st_dev, path, e->d_name, all);
        (void) closedir(d);
        return r;
}

int mirror_set(RestorePart *p, size_t set, bool check) {
        Mirror m = { .part = p, .set = set, .check = check };
        _cleanup_free_ char **paths = calloc(p->n_items + 1, sizeof(*paths));
        if (!paths)
                return -ENOMEM;
        m.paths = paths;
        for (size_t i = 0; i < p->n_items; i++)
                if (p->items[i].set == set)
                        m.paths[m.n++] = p->items[i].path;
        qsort(m.paths, m.n, sizeof(*m.paths), item_compare);
        int fd = open_beneath(p->sets[set].target, "", O_RDONLY | O_DIRECTORY);
        return fd < 0 ? fd : mirror_directory(&m, fd, "", false);
}

static bool is_whole(BackupType type) {
        return type == BACKUP_FULL || type == BACKUP_COPY;
}

bool restore_owns_directory(const RestorePart *p, const Component *c, const FileSet *f) {
        return c->database && f->recursive && streq(f->pattern, "*") && is_whole(p->work->manifest.type) &&
               is_whole(p->writer->type) && !given_flag(p->work->context, "keep-extra");
}

bool restore_mirrors(const RestorePart *p, const RestoreSet *s) {
        return streq(s->to, s->root) && p->method != RESTORE_IF_NOT_THERE && p->n_directed == 0;
}
