/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which components are restored, and where each of their file sets goes: the requester's new target before the writer's
 * word, the writer's word before the method, the method before the place where the files were.
 */
#include "client/restore.h"
#include "protocol/text.h"
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
                (void) close_fd(p->sets[i].from);
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

/* The directory of the first --to, as vssd and writers get it. */
static int copy_to(Context *c, char **ret) {
        const char *value = given_value(c, "to"), *equals = value && value[0] == '/' ? strstr(value, "=/") : NULL;
        if (!value)
                return 0;
        return volume_to_bus(equals ? equals + 1 : value, ret) < 0 ?
                       context_fail(c, CONDITION_LIMIT_REACHED, "out of memory") :
                       0;
}

static int read_wishes(Context *c, RestoreWishes *w) {
        int r = copy_to(c, &w->to);
        r = r < 0 ? r : copy_wish(c, "rename", &w->rename);
        r = r < 0 ? r : copy_wish(c, "instance", &w->instance);
        r = r < 0 ? r : copy_wish(c, "until", &w->until);
        r = r < 0 ? r : copy_wish(c, "restore-options", &w->options);
        w->authoritative = given_flag(c, "authoritative");
        w->more_follows = given_flag(c, "more-follows");
        return r;
}

static int add_part(RestoreWork *w, const ManifestWriter *mw, const char *path) {
        Context *c = w->context;
        Failure f = {};
        RestorePart *grown = reallocarray(w->parts, w->n_parts + 1, sizeof(*grown));
        if (!grown)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        w->parts = grown;
        RestorePart *p = grown + w->n_parts;
        *p = (RestorePart) { .writer = mw, .with_writer = !given_flag(c, "no-writers") };
        int r = metadata_parse(mw->metadata_text ? mw->metadata_text : "",
                               strlen(mw->metadata_text ? mw->metadata_text : ""), &f, &p->saved);
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
        r = read_wishes(c, &p->wishes);
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
        int r = 0;
        if (!given_value(c, "component"))
                r = add_all(w);
        while (r >= 0 && (value = given_next(c, "component", &i)))
                r = add_named(w, value);
        if (r >= 0 && w->n_parts == 0)
                r = context_fail(c, CONDITION_NOT_FOUND,
                                 "the backup holds no component: nothing of it can be restored "
                                 "by component");
        if (r >= 0 && w->n_parts > 1 && given_value(c, "rename"))
                r = context_usage(c, "--rename is for one component; choose it with --component");
        return r;
}

/* ---- where it goes ---- */

/* The deepest directory that holds all roots: what --to=DIR stands for. */
static char *common_root(const RestoreWork *w) {
        char *common = NULL;
        for (size_t i = 0; i < w->n_parts; i++)
                for (size_t k = 0; k < w->parts[i].saved->n_components; k++) {
                        const Component *c = w->parts[i].saved->components + k;
                        if (!restore_includes(w->parts[i].writer, w->parts[i].saved, w->parts[i].path, k))
                                continue;
                        for (size_t n = 0; n < c->n_files; n++) {
                                if (!common)
                                        common = strdup(c->files[n].set.root);
                                while (common && !path_is_inside(c->files[n].set.root, common)) {
                                        char *slash = strrchr(common, '/');
                                        slash[slash == common] = '\0';
                                }
                        }
                }
        return common;
}

static int join(const char *directory, const char *rest, char **ret) {
        rest += strspn(rest, "/");
        return asprintf(ret, "%s%s%s", streq(directory, "/") ? "" : directory,
                        rest[0] || streq(directory, "/") ? "/" : "", rest) < 0 ?
                       -ENOMEM :
                       0;
}

/* By --to: of its root, or of what holds all roots. 1: mapped. */
static int map_new_target(const RestoreWork *w, const char *root, char **ret) {
        const char *value, *best = NULL, *best_to = NULL;
        size_t best_length = 0;
        for (size_t i = 0; (value = given_next(w->context, "to", &i));) {
                const char *equals = value[0] == '/' ? strstr(value, "=/") : NULL;
                size_t n = equals ? (size_t) (equals - value) : 0;
                if (!equals)
                        best_to = best_to ? best_to : value;
                else if (strncmp(root, value, n) == 0 && (root[n] == '/' || !root[n]) && (!best || n > best_length)) {
                        best = value;
                        best_length = n;
                }
        }
        if (best)
                return join(best + best_length + 1, root + best_length, ret) < 0 ? -ENOMEM : 1;
        if (!best_to)
                return 0;
        _cleanup_free_ char *escaped = common_root(w), *common = NULL, *directory = NULL;
        directory = best_to[0] == '/' ? strdup(best_to) : NULL;
        if (!directory) {
                _cleanup_free_ char *cwd = get_current_dir_name();
                if (!cwd || asprintf(&directory, "%s/%s", cwd, best_to) < 0)
                        return -ENOMEM;
        }
        if (!escaped || path_unescape(escaped, &common) < 0)
                return -ENOMEM;
        return join(directory, root + (streq(common, "/") ? 0 : strlen(common)), ret) < 0 ? -ENOMEM : 1;
}

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

static bool goes_to_alternate(const RestorePart *p) {
        return p->alternate_used || p->target == RESTORE_TARGET_ALTERNATE ||
               (p->target == RESTORE_TARGET_ORIGINAL && p->method == RESTORE_ALTERNATE);
}

static int map_set(const RestoreWork *w, RestorePart *p, const Component *c, const ComponentFiles *f, RestoreSet *s) {
        _cleanup_free_ char *source = NULL;
        *s = (RestoreSet) { .files = &f->set, .from = -EBADF, .target = -EBADF };
        if (path_unescape(f->set.root, &s->root) < 0 || (f->source && path_unescape(f->source, &source) < 0))
                return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        int r = map_new_target(w, s->root, &s->to);
        if (r < 0)
                return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        if (r == 0 && goes_to_alternate(p)) {
                p->alternate_used = true;
                r = map_alternate(p, &f->set, &s->to);
                if (r < 0)
                        return r;
        }
        if (!s->to && !(s->to = strdup(s->root)))
                return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        s->mirror = c->database && f->set.recursive && streq(f->set.pattern, "*") &&
                    !given_flag(w->context, "keep-extra");
        s->from = source ? sources_open_root(w, source) : -ENOENT;
        if (s->from == -ENOENT)
                s->from = sources_open_root(w, s->root);
        if (s->from < 0)
                return part_fail(p, s->from == -ENOENT ? CONDITION_NOT_FOUND : CONDITION_FAILED,
                                 "cannot read %s of the backup: %s", f->set.root, strerror(-s->from));
        return 0;
}

int restore_map(RestoreWork *w, RestorePart *p) {
        Failure f = {};
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
                        int r = map_set(w, p, c, c->files + k, grown + p->n_sets++);
                        if (r < 0)
                                return r;
                        if (tree_list(p, p->n_sets - 1, &f) < 0)
                                return part_fail(p, f.condition, "%s", f.message);
                }
        }
        return 0;
}
