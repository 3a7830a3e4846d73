/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the caller says that files go: --to=DIR for all of them, --to=ROOT=DIR for what was below ROOT. Whoever names a
 * place means it: if it does not say where everything goes, or says something of a root that there is none of, the word
 * was mistyped, and nothing is restored to where it was.
 */
#include "client/restore.h"
#include "protocol/text.h"

/* Absolute, without empty and "." parts. -EINVAL: it has a "..". */
static int normalise(const char *given, char **ret) {
        _cleanup_free_ char *cwd = given[0] == '/' ? NULL : get_current_dir_name(), *copy = NULL;
        char *state = NULL, *end;
        if (given[0] != '/' && !cwd)
                return -errno;
        if (asprintf(&copy, "%s/%s", cwd ? cwd : "", given) < 0)
                return -ENOMEM;
        char *path = malloc(strlen(copy) + 2);
        if (!path)
                return -ENOMEM;
        end = path;
        for (const char *part = strtok_r(copy, "/", &state); part; part = strtok_r(NULL, "/", &state)) {
                if (streq(part, "."))
                        continue;
                if (streq(part, "..")) {
                        free(path);
                        return -EINVAL;
                }
                *end++ = '/';
                end = stpcpy(end, part);
        }
        (void) strcpy(end, end == path ? "/" : "");
        *ret = path;
        return 0;
}

static int add_target(RestoreWork *w, const char *value) {
        const char *equals = value[0] == '/' ? strstr(value, "=/") : NULL;
        _cleanup_free_ char *given = equals ? strndup(value, (size_t) (equals - value)) : NULL;
        RestoreTo *grown = reallocarray(w->to, w->n_to + 1, sizeof(*grown)), *t;
        if (!grown || (equals && !given))
                return context_fail(w->context, CONDITION_LIMIT_REACHED, "out of memory");
        w->to = grown;
        t = grown + w->n_to++;
        *t = (RestoreTo) {};
        int r = equals ? normalise(given, &t->root) : 0;
        r = r < 0 ? r : normalise(equals ? equals + 1 : value, &t->to);
        if (r < 0)
                return context_usage(w->context, "--to=%s: %s", value,
                                     r == -EINVAL ? "a path without \"..\" is needed" : strerror(-r));
        for (size_t i = 0; i + 1 < w->n_to; i++)
                if (streq_null(grown[i].root, t->root))
                        return context_usage(w->context, "--to is given twice for %s",
                                             t->root ? t->root : "everything");
        return 0;
}

int targets_read(RestoreWork *w) {
        const char *value;
        size_t i = 0;
        int r = 0;
        while (r >= 0 && (value = given_next(w->context, "to", &i)))
                r = add_target(w, value);
        return r;
}

void targets_done(RestoreWork *w) {
        for (size_t i = 0; i < w->n_to; i++) {
                free(w->to[i].root);
                free(w->to[i].to);
        }
        free(w->to);
}

/* In a backup of this type. */
static bool is_saved(const RestoreWork *w, const ComponentFiles *f) {
        return f->backup & 1u << w->manifest.type;
}

/* The deepest directory that holds all roots: what --to=DIR stands for. */
static char *common_root(const RestoreWork *w) {
        char *common = NULL;
        for (size_t i = 0; i < w->n_parts; i++)
                for (size_t k = 0; k < w->parts[i].saved->n_components; k++) {
                        const Component *c = w->parts[i].saved->components + k;
                        if (!restore_includes(w->parts[i].writer, w->parts[i].saved, w->parts[i].path, k))
                                continue;
                        for (size_t n = 0; n < c->n_files; n++) {
                                if (!is_saved(w, c->files + n))
                                        continue;
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

static size_t root_length(const char *root) {
        return streq(root, "/") ? 0 : strlen(root);
}

/* The one that says where root goes; NULL: none. */
static RestoreTo *find_target(const RestoreWork *w, const char *root) {
        RestoreTo *best = NULL;
        for (size_t i = 0; i < w->n_to; i++) {
                RestoreTo *t = w->to + i;
                if (t->root ? path_is_inside(root, t->root) &&
                                      (!best || !best->root || strlen(t->root) > strlen(best->root)) :
                              !best)
                        best = t;
        }
        return best;
}

int targets_map(const RestoreWork *w, const char *root, char **ret) {
        const RestoreTo *t = find_target(w, root);
        if (!t)
                return 0;
        if (t->root)
                return join(t->to, root + root_length(t->root), ret) < 0 ? -ENOMEM : 1;
        _cleanup_free_ char *escaped = common_root(w), *common = NULL;
        if (!escaped || path_unescape(escaped, &common) < 0)
                return -ENOMEM;
        return join(t->to, root + root_length(common), ret) < 0 ? -ENOMEM : 1;
}

static int check_places(RestoreWork *w, const Component *c) {
        for (size_t i = 0; i < c->n_files; i++) {
                _cleanup_free_ char *root = NULL;
                if (!is_saved(w, c->files + i))
                        continue;
                if (path_unescape(c->files[i].set.root, &root) < 0)
                        return context_fail(w->context, CONDITION_LIMIT_REACHED, "out of memory");
                RestoreTo *t = find_target(w, root);
                if (!t)
                        return context_usage(w->context, "--to does not say where what was in %s goes",
                                             c->files[i].set.root);
                t->used = true;
        }
        return 0;
}

int targets_check(RestoreWork *w) {
        if (w->n_to == 0)
                return 0;
        for (size_t i = 0; i < w->n_parts; i++)
                for (size_t k = 0; k < w->parts[i].saved->n_components; k++) {
                        const RestorePart *p = w->parts + i;
                        int r = restore_includes(p->writer, p->saved, p->path, k) ?
                                        check_places(w, p->saved->components + k) :
                                        0;
                        if (r < 0)
                                return r;
                }
        for (size_t i = 0; i < w->n_to; i++)
                if (!w->to[i].used)
                        return context_usage(w->context, "--to=%s%s%s: nothing that is restored was there",
                                             w->to[i].root ? w->to[i].root : "", w->to[i].root ? "=" : "", w->to[i].to);
        return 0;
}
