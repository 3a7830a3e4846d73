/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which files of the source belong to a file set. The pattern holds for names in each directory; directories themselves
 * come along with a recursive set, empty ones too. What the writer excluded when the backup was made stays away: a
 * backup program may have saved it all the same.
 */
#include "client/restore.h"
#include "protocol/text.h"
#include <dirent.h>
#include <fcntl.h>
#include <fnmatch.h>

typedef struct Walk {
        RestorePart *part;
        size_t set;
        Failure *failure;
        unsigned depth;
} Walk;

static int name_matches(const char *pattern, const char *name) {
        return fnmatch(pattern, name, FNM_NOESCAPE) == 0;
}

/* Is this absolute path in the file set? If that cannot be known it is: nothing excluded is written or removed. */
static bool set_holds(const FileSet *s, const char *path) {
        _cleanup_free_ char *root = NULL;
        const char *name = strrchr(path, '/') + 1;
        if (path_unescape(s->root, &root) < 0)
                return true;
        size_t n = streq(root, "/") ? 0 : strlen(root), parent = (size_t) (name - path) - 1;
        if (strncmp(path, root, n) != 0 || path[n] != '/')
                return false;
        return (s->recursive || parent == n) && name_matches(s->pattern, name);
}

static bool any_holds(const FileSet *sets, size_t n, const char *path) {
        for (size_t i = 0; i < n; i++)
                if (set_holds(sets + i, path))
                        return true;
        return false;
}

static bool is_excluded(const RestorePart *p, const char *root, const char *relative) {
        _cleanup_free_ char *path = NULL;
        if (asprintf(&path, "%s/%s", streq(root, "/") ? "" : root, relative) < 0)
                return true;
        return any_holds(p->saved->exclude, p->saved->n_exclude, path) ||
               any_holds(p->saved->exclude_from_snapshot, p->saved->n_exclude_from_snapshot, path) ||
               any_holds(p->work->excluded, p->work->n_excluded, path);
}

/* Where the btrfs provider keeps its snapshots (providers/btrfs.h), at the top of a volume: nobody's file, and a copy
 * shows an empty directory in its place. */
static bool is_store(const RestorePart *p, const char *root, const char *relative, const char *name) {
        const Manifest *m = &p->work->manifest;
        _cleanup_free_ char *path = NULL;
        if (!streq(name, ".vss") || asprintf(&path, "%s/%s", streq(root, "/") ? "" : root, relative) < 0)
                return false;
        for (size_t i = 0; i < m->n_snapshots; i++) {
                _cleanup_free_ char *volume = NULL;
                if (path_unescape(m->snapshots[i].volume, &volume) < 0)
                        continue;
                size_t n = streq(volume, "/") ? 0 : strlen(volume);
                if (strncmp(path, volume, n) == 0 && streq(path + n, "/.vss"))
                        return true;
        }
        return false;
}

bool tree_matches(const RestorePart *p, size_t set, const char *path, bool directory) {
        const RestoreSet *s = p->sets + set;
        const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
        if (is_excluded(p, s->root, path) || strncmp(name, RESTORE_TEMPORARY, strlen(RESTORE_TEMPORARY)) == 0)
                return false;
        if (directory && is_store(p, s->root, path, name))
                return false;
        if (directory)
                return s->files->recursive;
        return (s->files->recursive || !slash) && name_matches(s->files->pattern, name);
}

static int add_item(Walk *w, const char *path, const struct stat *s) {
        RestorePart *p = w->part;
        if (p->n_items >= RESTORE_FILES_MAX)
                return failure_set(w->failure, CONDITION_LIMIT_REACHED, "more than %d files", RESTORE_FILES_MAX);
        if (p->n_items == p->allocated) {
                size_t n = MAX_OF(p->allocated * 2, (size_t) 64);
                RestoreItem *grown = reallocarray(p->items, n, sizeof(*grown));
                if (!grown)
                        return failure_set(w->failure, CONDITION_LIMIT_REACHED, "out of memory");
                p->items = grown;
                p->allocated = n;
        }
        RestoreItem *i = p->items + p->n_items;
        *i = (RestoreItem) { .set = w->set, .path = strdup(path), .mode = s->st_mode, .size = (uint64_t) s->st_size };
        if (!i->path)
                return failure_set(w->failure, CONDITION_LIMIT_REACHED, "out of memory");
        p->n_items++;
        return 0;
}

static int walk_directory(Walk *w, int fd, const char *path);

/* Where a volume was mounted the copy of the outer one is empty; what was there is shown by its own. */
static int open_child(const Walk *w, int dfd, const char *path, const char *name) {
        const RestoreSet *s = w->part->sets + w->set;
        _cleanup_free_ char *full = NULL;
        if (asprintf(&full, "%s/%s", streq(s->source, "/") ? "" : s->source, path) < 0)
                return -ENOMEM;
        return sources_have_volume(w->part->work, full) ? sources_open_root(w->part->work, full) :
                                                          open_beneath(dfd, name, O_RDONLY | O_DIRECTORY);
}

static int walk_entry(Walk *w, int dfd, const char *path, const char *name) {
        _cleanup_free_ char *own = NULL;
        struct stat s;
        if (asprintf(&own, "%s%s%s", path, path[0] ? "/" : "", name) < 0)
                return failure_set(w->failure, CONDITION_LIMIT_REACHED, "out of memory");
        if (fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) < 0)
                return failure_set(w->failure, CONDITION_FAILED, "cannot read %.300s of the backup: %s", own,
                                   strerror(errno));
        if (S_ISSOCK(s.st_mode) || !tree_matches(w->part, w->set, own, S_ISDIR(s.st_mode)))
                return 0;
        int r = add_item(w, own, &s);
        if (r < 0 || !S_ISDIR(s.st_mode))
                return r;
        int child = open_child(w, dfd, own, name);
        if (child < 0)
                return failure_set(w->failure, CONDITION_FAILED, "cannot open %.300s of the backup: %s", own,
                                   strerror(-child));
        return walk_directory(w, child, own);
}

/* Takes fd. */
static int walk_directory(Walk *w, int fd, const char *path) {
        DIR *d = fdopendir(fd);
        int r = 0;
        if (!d || w->depth >= RESTORE_DEPTH_MAX) {
                (void) (d ? closedir(d) : close(fd));
                return failure_set(w->failure, CONDITION_LIMIT_REACHED, "%.300s: more than %d directories deep", path,
                                   RESTORE_DEPTH_MAX);
        }
        w->depth++;
        for (;;) {
                errno = 0;
                struct dirent *e = readdir(d);
                if (!e && errno)
                        r = failure_set(w->failure, CONDITION_FAILED, "cannot read %.300s of the backup: %s", path,
                                        strerror(errno));
                if (!e || r < 0)
                        break;
                if (streq(e->d_name, ".") || streq(e->d_name, ".."))
                        continue;
                r = walk_entry(w, dirfd(d), path, e->d_name);
                if (r < 0)
                        break;
        }
        w->depth--;
        (void) closedir(d);
        return r;
}

/* Nothing stands there that would be taken for the log of what is restored. */
static bool has_no_log(const RestoreSet *s) {
        _cleanup_free_ char *name = NULL, *path = NULL;
        if (!s->log || path_unescape(s->files->pattern, &name) < 0 || asprintf(&path, "%s/%s", s->to, name) < 0)
                return false;
        _cleanup_close_ int fd = open_absolute(path, O_PATH | O_NOFOLLOW);
        return fd == -ENOENT;
}

/* A name without wildcards must be there, unless it is that of a log, which a database need not have; a pattern may
 * match nothing. */
static int check_literal(const RestorePart *p, size_t set, size_t first, Failure *reterr) {
        const FileSet *f = p->sets[set].files;
        if (f->pattern[strcspn(f->pattern, "*?[")] != '\0' || f->recursive || p->n_items > first ||
            has_no_log(p->sets + set))
                return 0;
        return failure_set(reterr, CONDITION_NOT_FOUND, "the backup lacks %.200s/%.100s%s", f->root, f->pattern,
                           p->sets[set].log ? ", and the log that is there does not belong to it" : "");
}

int tree_list(RestorePart *p, size_t set, Failure *reterr) {
        Walk w = { .part = p, .set = set, .failure = reterr };
        size_t first = p->n_items;
        struct stat s;
        int fd = sources_open_directory(p, p->sets + set, "");
        if (fd < 0 || fstat(fd, &s) < 0)
                return failure_set(reterr, CONDITION_FAILED, "cannot open %.300s of the backup: %s", p->sets[set].root,
                                   strerror(fd < 0 ? -fd : errno));
        int r = 0;
        if (p->sets[set].files->recursive && streq(p->sets[set].files->pattern, "*"))
                r = add_item(&w, "", &s); /* the directory itself belongs to it */
        if (r < 0)
                (void) close(fd);
        r = r < 0 ? r : walk_directory(&w, fd, "");
        return r < 0 ? r : check_literal(p, set, first, reterr);
}

/* ---- the administrator's lists ---- */

static int read_list(RestoreWork *w, const char *text) {
        _cleanup_(json_object_putp) json_object *list = text ? json_tokener_parse(text) : NULL;
        size_t n = list && json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
        FileSet *grown = reallocarray(w->excluded, w->n_excluded + n + 1, sizeof(*grown));
        if (!grown)
                return context_fail(w->context, CONDITION_LIMIT_REACHED, "out of memory");
        w->excluded = grown;
        for (size_t i = 0; i < n; i++) {
                json_object *entry = json_object_array_get_idx(list, i), *recursive = member(entry, "recursive");
                FileSet *f = grown + w->n_excluded++;
                *f = (FileSet) { .root = strdup(member_text(entry, "root")),
                                 .pattern = strdup(member_text(entry, "pattern")),
                                 .recursive = recursive && json_object_get_boolean(recursive) };
                if (!f->root || !f->pattern)
                        return context_fail(w->context, CONDITION_LIMIT_REACHED, "out of memory");
        }
        return 0;
}

int tree_read_excluded(RestoreWork *w) {
        int r = read_list(w, w->manifest.exclude);
        return r < 0 ? r : read_list(w, w->manifest.excluded_from_snapshot);
}

void tree_excluded_done(RestoreWork *w) {
        for (size_t i = 0; i < w->n_excluded; i++) {
                free(w->excluded[i].root);
                free(w->excluded[i].pattern);
        }
        free(w->excluded);
}
