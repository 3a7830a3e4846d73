/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which components are restored, and where each of their file sets goes: the requester's new target before the writer's
 * word, the writer's word before the method, the method before the place where the files were.
 */
#include "client/restore.h"
#include "protocol/text.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>

int part_fail(RestorePart *p, Condition condition, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(p->message, sizeof(p->message), format, ap);
        va_end(ap);
        p->condition = condition;
        return -condition_errno(condition);
}

static void sets_done(RestorePart *p) {
        for (size_t i = 0; i < p->n_sets; i++) {
                free(p->sets[i].root);
                free(p->sets[i].to);
                free(p->sets[i].source);
                (void) close_fd(p->sets[i].target);
        }
        free(p->sets);
        for (size_t i = 0; i < p->n_items; i++) {
                free(p->items[i].path);
                free(p->items[i].message);
        }
        free(p->items);
        p->sets = NULL;
        p->items = NULL;
        p->n_sets = p->n_items = p->allocated = 0;
}

void part_done(RestorePart *p) {
        sets_done(p);
        for (size_t i = 0; i < p->n_directed; i++) {
                free(p->directed[i].path);
                free(p->directed[i].to);
                free(p->directed[i].ranges);
                free(p->directed[i].to_ranges);
                (void) close_fd(p->directed[i].target);
        }
        free(p->directed);
        extras_done(p);
        record_free(p->record);
        partial_done(p);
        added_done(p);
        metadata_free(p->saved);
        restore_wishes_done(&p->wishes);
        free(p->reference);
        free(p->path);
        free(p->service);
        free(p->writer_message);
}

/* ---- what is restored ---- */

static int copy_wish(Context *c, const char *option, char **ret) {
        const char *value = given_value(c, option);
        *ret = value ? strdup(value) : NULL;
        return value && !*ret ? context_fail(c, CONDITION_LIMIT_REACHED, "out of memory") : 0;
}

static int read_wishes(const RestoreWork *work, RestoreWishes *w) {
        Context *c = work->context;
        int r = work->n_to == 0                           ? 0 :
                volume_to_bus(work->to[0].to, &w->to) < 0 ? context_fail(c, CONDITION_LIMIT_REACHED, "out of memory") :
                                                            0;
        r = r < 0 ? r : copy_wish(c, "rename", &w->rename);
        r = r < 0 ? r : copy_wish(c, "instance", &w->instance);
        r = r < 0 ? r : copy_wish(c, "until", &w->until);
        r = r < 0 ? r : copy_wish(c, "restore-options", &w->options);
        w->authoritative = given_flag(c, "authoritative");
        w->more_follows = given_flag(c, "more-follows");
        return r;
}

static bool has_entries(const char *array) {
        return array && array[strspn(array, "[ \n")] != ']';
}

/*
 * What is known to be no whole copy of it. With --to whoever asks gets what there is, beside what is there. Parts fit
 * only onto the state that they were saved after, and nobody but the caller knows whether that is what is there.
 */
static void check_saved(RestorePart *p) {
        const ManifestComponent *c = p->component;
        bool merge = given_flag(p->work->context, "merge");
        p->refused = true;
        if (has_entries(c->partial_files) && !merge)
                (void) part_fail(p, CONDITION_NOT_SUPPORTED,
                                 "parts of its files were saved; restore the backup before it first, then this with "
                                 "--merge");
        else if (has_entries(c->partial_files) && partial_read(p) < 0)
                return;
        else if (has_entries(c->differenced_files) && p->work->n_to == 0 && !merge)
                (void) part_fail(p, CONDITION_NOT_SUPPORTED,
                                 "only files that had changed were saved; restore the backup before it first, then "
                                 "this with --merge, or --to=DIR gives you the files");
        else if (c->succeeded == 0 && p->work->n_to == 0)
                (void) part_fail(p, CONDITION_LEVEL_NOT_REACHED,
                                 "the manifest says that its backup failed; --to=DIR gives you the files");
        else
                p->refused = false;
}

static int add_part(RestoreWork *w, const ManifestWriter *mw, const char *path) {
        Context *c = w->context;
        Failure f = {};
        RestorePart *grown = reallocarray(w->parts, w->n_parts + 1, sizeof(*grown));
        if (!grown)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        w->parts = grown;
        RestorePart *p = grown + w->n_parts;
        *p = (RestorePart) { .work = w, .writer = mw, .with_writer = !given_flag(c, "no-writers") };
        int r = restore_read_document(mw, &f, &p->saved);
        r = r < 0 ? r : restore_find_component(mw, p->saved, path, &f, &p->component);
        if (r < 0) {
                metadata_free(p->saved);
                return context_fail(c, f.condition, "%s: %s", mw->name, f.message);
        }
        w->n_parts++;
        p->path = strdup(path);
        if (!p->path || writer_reference_format(mw->name, mw->instance, &p->reference) < 0)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        p->method = restore_method_of(p->saved);
        r = read_wishes(w, &p->wishes);
        check_saved(p);
        if (r < 0 || !p->with_writer)
                return r;
        if (restore_check_wishes(p->saved, path, &p->wishes, &f) < 0)
                return context_fail(c, f.condition, "%s", f.message);
        return 0;
}

static int add_named(RestoreWork *w, const char *value) {
        const char *colon = writer_reference_end(value);
        const ManifestWriter *mw;
        Failure f = {};
        assert(colon); /* check_component() */
        _cleanup_free_ char *reference = strndup(value, (size_t) (colon - value));
        if (!reference)
                return context_fail(w->context, CONDITION_LIMIT_REACHED, "out of memory");
        if (restore_find_writer(&w->manifest, reference, &f, &mw) < 0)
                return context_fail(w->context, f.condition, "%s", f.message);
        return add_part(w, mw, colon + 1);
}

/* Everything that was backed up explicitly. */
static int add_all(RestoreWork *w) {
        int r = 0;
        for (size_t i = 0; r >= 0 && i < w->manifest.n_writers; i++) {
                const ManifestWriter *mw = w->manifest.writers + i;
                size_t first = w->n_parts;
                for (size_t k = 0; r >= 0 && k < mw->n_components; k++) {
                        r = add_part(w, mw, mw->components[k].path);
                        if (r >= 0 && w->n_parts > first &&
                            !streq(w->parts[w->n_parts - 1].component->path, mw->components[k].path))
                                part_done(&w->parts[--w->n_parts]); /* a part of another one */
                        else if (r < 0 && w->context->condition == CONDITION_NOT_SUPPORTED && first < w->n_parts)
                                r = 0; /* likewise, and not to be had alone */
                }
        }
        return r;
}

int restore_select(RestoreWork *w) {
        Context *c = w->context;
        const char *value;
        size_t i = 0;
        int r = targets_read(w);
        r = r < 0 ? r : tree_read_excluded(w);
        if (r >= 0 && !given_value(c, "component"))
                r = add_all(w);
        while (r >= 0 && (value = given_next(c, "component", &i)))
                r = add_named(w, value);
        if (r >= 0 && w->n_parts == 0)
                r = context_fail(c, CONDITION_NOT_FOUND,
                                 "the backup holds no component: nothing of it can be restored "
                                 "by component");
        if (r >= 0 && w->n_parts > 1 && given_value(c, "rename"))
                r = context_usage(c, "--rename is for one component; choose it with --component");
        return r < 0 ? r : targets_check(w);
}

/* ---- where it goes ---- */

static int map_alternate(RestorePart *p, const FileSet *f, char **ret) {
        for (size_t i = 0; i < p->saved->n_alternates; i++) {
                const AlternateLocation *a = p->saved->alternates + i;
                if (streq(a->set.root, f->root) && streq(a->set.pattern, f->pattern) &&
                    a->set.recursive == f->recursive)
                        return path_unescape(a->to, ret);
        }
        return part_fail(p, CONDITION_NOT_SUPPORTED, "no alternate location is declared for %s/%s", f->root,
                         f->pattern);
}

/* Where that is says the document, and who vouches for it is its writer. */
static bool goes_to_alternate(const RestorePart *p) {
        return p->alternate_used || p->target == RESTORE_TARGET_ALTERNATE ||
               (p->target == RESTORE_TARGET_ORIGINAL && p->method == RESTORE_ALTERNATE);
}

static int map_place(RestorePart *p, const FileSet *f, RestoreSet *s) {
        int r = targets_map(p->work, s->root, &s->to);
        if (r < 0)
                return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        if (r == 0 && goes_to_alternate(p)) {
                if (!p->with_writer)
                        return part_fail(p, CONDITION_NOT_SUPPORTED,
                                         "it goes to a place that only its writer can confirm; say --to=DIR");
                p->alternate_used = true;
                r = map_alternate(p, f, &s->to);
                if (r < 0)
                        return r;
        }
        return s->to || (s->to = strdup(s->root)) ? 0 : part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
}

/* A database's directory is its own: files of another between its own would be taken for its own. */
static int check_empty(RestorePart *p, const RestoreSet *s) {
        int fd = open_absolute(s->to, O_RDONLY | O_DIRECTORY);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        bool empty = true;
        for (struct dirent *e; d && empty && (e = readdir(d));)
                empty = streq(e->d_name, ".") || streq(e->d_name, "..");
        if (d)
                (void) closedir(d);
        else
                (void) close_fd(fd);
        return empty ? 0 :
                       part_fail(p, CONDITION_EXISTS,
                                 "%.400s is not empty: a database needs a directory of its own (or say --keep-extra)",
                                 s->to);
}

static int map_source(RestorePart *p, const ComponentFiles *f, RestoreSet *s) {
        _cleanup_close_ int fd = -EBADF;
        if (f->source && path_unescape(f->source, &s->source) >= 0)
                fd = sources_open_root(p->work, s->source);
        if (fd < 0) {
                free(s->source);
                s->source = strdup(s->root);
                fd = s->source ? sources_open_root(p->work, s->source) : -ENOMEM;
        }
        if (fd < 0)
                return part_fail(p, fd == -ENOENT ? CONDITION_NOT_FOUND : CONDITION_FAILED,
                                 "cannot read %s of the backup: %s", f->set.root, strerror(-fd));
        return f->set.recursive ? sources_check_nested(p, s->source) : 0;
}

static bool has_files(const RestorePart *p, size_t first) {
        for (size_t i = first; i < p->n_items; i++)
                if (!S_ISDIR(p->items[i].mode))
                        return true;
        return false;
}

static int map_set(RestorePart *p, const Component *c, const ComponentFiles *f, size_t index) {
        RestoreSet *s = p->sets + index;
        size_t first = p->n_items;
        Failure failure = {};
        *s = (RestoreSet) { .files = &f->set, .log = f->role == FILE_ROLE_LOG, .target = -EBADF };
        if (path_unescape(f->set.root, &s->root) < 0)
                return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        int r = map_place(p, &f->set, s);
        r = r < 0 ? r : map_source(p, f, s);
        if (r < 0)
                return r;
        bool own = restore_owns_directory(p, c, &f->set);
        if (own && !streq(s->to, s->root) && check_empty(p, s) < 0)
                return -EEXIST;
        if (tree_list(p, index, &failure) < 0)
                return part_fail(p, failure.condition, "%s", failure.message);
        s->mirror = own && restore_mirrors(p, s) && has_files(p, first);
        return 0;
}

int restore_map(RestoreWork *w, RestorePart *p) {
        uint32_t bit = 1u << w->manifest.type;
        sets_done(p);
        for (size_t i = 0; i < p->saved->n_components; i++) {
                const Component *c = p->saved->components + i;
                if (!restore_includes(p->writer, p->saved, p->path, i))
                        continue;
                for (size_t k = 0; k < c->n_files; k++) {
                        if (!(c->files[k].backup & bit)) /* not in a backup of this type */
                                continue;
                        RestoreSet *grown = reallocarray(p->sets, p->n_sets + 1, sizeof(*grown));
                        if (!grown)
                                return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
                        p->sets = grown;
                        int r = map_set(p, c, c->files + k, p->n_sets++);
                        if (r < 0)
                                return r;
                }
        }
        if (p->n_sets > 0 && !has_files(p, 0))
                return part_fail(p, CONDITION_NOT_FOUND,
                                 "the backup shows no file of it: is it mounted, and the right directory?");
        int r = partial_check(p);
        return r < 0 ? r : added_apply(p);
}
