/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/exclude.h"
#include "daemon/manager-private.h"
#include "daemon/owners.h"
#include "protocol/jsonutil.h"
#include "protocol/text.h"
#include "providers/vss-provider.h"
#include <dirent.h>
#include <stdio.h>
#include <syslog.h>

ExcludeList *exclude_list_free(ExcludeList *l) {
        for (size_t i = 0; l && i < l->n; i++) {
                free(l->files[i].name);
                exclusions_done(&l->files[i].exclusions);
        }
        free(l);
        return NULL;
}

static int load_file(Manager *m, ExcludeList *l, int dir, const char *file) {
        _cleanup_free_ char *text = NULL;
        ExcludeFile *f = &l->files[l->n];
        Failure failure = {};
        size_t size;
        int r = trusted_file_read(dir, file, LIMIT_METADATA_BYTES, &text, &size);
        if (r < 0)
                (void) failure_set(&failure, CONDITION_INVALID_DOCUMENT, "%s",
                                   r == -EPERM ? "it must be root's and writable by nobody else" : strerror(-r));
        else
                r = exclusions_parse(text, size, &failure, &f->exclusions);
        if (r < 0) {
                manager_log(m, LOG_WARNING, NULL, "%s/exclude.d/%s is not taken: %s",
                            m->settings.configuration_directory, file, failure.message);
                return 0;
        }
        if (asprintf(&f->name, "exclude.d/%s", file) < 0) {
                f->name = NULL;
                exclusions_done(&f->exclusions);
                return -ENOMEM;
        }
        l->n++;
        return 0;
}

static int is_document(const struct dirent *e) {
        const char *suffix = strrchr(e->d_name, '.');
        return e->d_name[0] != '.' && suffix && streq(suffix, ".json");
}

static int load_directory(Manager *m, const char *path, ExcludeList *l) {
        _cleanup_close_ int fd = -EBADF;
        struct dirent **list = NULL;
        int r = trusted_directory_open(path, &fd);
        if (r == -ENOENT)
                return 0;
        if (r < 0) {
                manager_log(m, LOG_WARNING, NULL, "%s is not read: %s", path,
                            r == -EPERM ? "it must be root's and writable by nobody else" : strerror(-r));
                return 0;
        }
        int n = scandirat(fd, ".", &list, is_document, alphasort);
        r = n < 0 ? -errno : 0;
        for (int i = 0; i < n; i++) {
                if (r >= 0 && l->n < LIMIT_EXCLUDE_FILES)
                        r = load_file(m, l, fd, list[i]->d_name);
                free(list[i]);
        }
        free(list);
        return r;
}

int exclude_load(Manager *m) {
        _cleanup_free_ char *path = NULL;
        ExcludeList *l = calloc(1, sizeof(*l));
        int r = l && asprintf(&path, "%s/exclude.d", m->settings.configuration_directory) >= 0 ? 0 : -ENOMEM;
        if (r >= 0)
                r = load_directory(m, path, l);
        if (r < 0) {
                exclude_list_free(l);
                return r;
        }
        exclude_list_free(m->exclude);
        m->exclude = l;
        return 0;
}

SetExclusions *set_exclusions_free(SetExclusions *e) {
        for (size_t i = 0; e && i < e->n; i++) {
                free(e->items[i].root);
                free(e->items[i].below);
                free(e->items[i].pattern);
                free(e->items[i].from);
                free(e->items[i].error);
        }
        if (e)
                free(e->items);
        free(e);
        return NULL;
}

bool exclude_from_volume(const Set *s, unsigned volume) {
        for (size_t i = 0; s->exclusions && i < s->exclusions->n; i++)
                if (s->exclusions->items[i].volume == volume && !s->exclusions->items[i].error)
                        return true;
        return false;
}

/* Where the files of a volume are seen. */
static const char *place_of(const Volume *v) {
        return v->kind == VOLUME_SUBVOLUME || !v->mount_point ? v->name : v->mount_point;
}

/* root below the volume's place, "" if it begins there or above; NULL: it is not on this volume. */
static const char *below_place(const FileSet *set, const char *place) {
        size_t n = streq(place, "/") ? 0 : strlen(place);
        if (path_is_inside(set->root, place))
                return set->root[n] == '/' ? set->root + n + 1 : "";
        return set->recursive && path_is_inside(place, set->root) ? "" : NULL;
}

/* Why the copy of a volume cannot be written; NULL: it can. */
static const char *why_not(const Set *s, unsigned volume) {
        const Snapshot *snapshot = NULL;
        unsigned i = 0;
        LIST_FOREACH(snapshot, &s->snapshots, entries)
                if (i++ == volume)
                        break;
        const ProviderEntry *p = snapshot ? manager_find_provider(s->manager, snapshot->provider) : NULL;
        if (s->options.auto_recovery == RECOVERY_NONE)
                return "the set was made without recovery, so its copies are read-only";
        if (!p || !(p->capabilities & VSS_CAP_WRITABLE) || !(p->capabilities & (VSS_CAP_DIRECTORY | VSS_CAP_DEVICE)))
                return "the provider cannot write into its copies";
        return NULL;
}

static int add(Set *s, unsigned volume, const FileSet *set, const char *below, const char *from) {
        SetExclusions *e = s->exclusions;
        const char *reason = why_not(s, volume);
        if (e->n >= LIMIT_FILE_SETS)
                return -E2BIG;
        SetExclusion *items = reallocarray(e->items, e->n + 1, sizeof(*items));
        if (!items)
                return -ENOMEM;
        e->items = items;
        SetExclusion *x = &items[e->n++];
        *x = (SetExclusion) { .volume = volume,
                              .root = strdup(set->root),
                              .below = strdup(below),
                              .pattern = strdup(set->pattern),
                              .from = strdup(from),
                              .error = reason ? strdup(reason) : NULL,
                              .recursive = set->recursive };
        return x->root && x->below && x->pattern && x->from ? 0 : -ENOMEM;
}

static int plan_removal(Set *s, const FileSet *set, const char *from) {
        int r = 0;
        for (unsigned i = 0; r >= 0 && i < s->n_volumes; i++) {
                const char *below = below_place(set, place_of(s->volumes[i]));
                if (below)
                        r = add(s, i, set, below, from);
        }
        return r;
}

static void list_exclusion(json_object *list, const FileSet *set, const char *from) {
        json_object *o = json_object_new_object();
        json_add_string(o, "root", set->root);
        json_add_string(o, "pattern", set->pattern);
        json_add_bool(o, "recursive", set->recursive);
        json_add_string(o, "from", from);
        json_object_array_add(list, o);
}

/*
 * An account other than root keeps out only what its own component declares and the set takes from a copy: that was
 * held against its directories when the set was planned (hazards C2).
 */
static bool may_exclude(const SetWriter *w, const Metadata *m, const FileSet *set) {
        if (!w->writer || w->writer->uid == 0)
                return true;
        for (size_t i = 0; i < m->n_components; i++)
                for (size_t k = 0; k < m->components[i].n_files; k++) {
                        const ComponentFiles *f = &m->components[i].files[k];
                        if (f->backup & f->snapshot & (1u << w->type) && path_is_inside(set->root, f->set.root))
                                return true;
                }
        return false;
}

static int plan_writer(Set *s, const SetWriter *w, json_object *list) {
        _cleanup_(metadata_freep) Metadata *m = NULL;
        int r = w->metadata_text ? metadata_parse(w->metadata_text, strlen(w->metadata_text), NULL, &m) : -ENODATA;
        if (r < 0)
                return 0; /* it was good when the set was planned */
        for (size_t i = 0; i < m->n_exclude; i++)
                if (may_exclude(w, m, &m->exclude[i]))
                        list_exclusion(list, &m->exclude[i], w->reference);
        for (size_t i = 0; r >= 0 && i < m->n_exclude_from_snapshot; i++)
                if (may_exclude(w, m, &m->exclude_from_snapshot[i]))
                        r = plan_removal(s, &m->exclude_from_snapshot[i], w->reference);
        return r;
}

int exclude_plan(Set *s) {
        const ExcludeList *l = s->manager->exclude;
        _cleanup_(json_object_putp) json_object *list = json_object_new_array();
        s->exclusions = calloc(1, sizeof(*s->exclusions));
        int r = s->exclusions && list ? 0 : -ENOMEM;
        for (size_t i = 0; r >= 0 && l && i < l->n; i++) {
                const Exclusions *e = &l->files[i].exclusions;
                for (size_t k = 0; k < e->n_backup; k++)
                        list_exclusion(list, &e->backup[k], l->files[i].name);
                for (size_t k = 0; r >= 0 && k < e->n_snapshot; k++)
                        r = plan_removal(s, &e->snapshot[k], l->files[i].name);
        }
        for (size_t i = 0; r >= 0 && i < s->n_writers; i++)
                r = plan_writer(s, &s->writers[i], list);
        return r < 0 ? r : json_to_text(list, &s->exclude_text);
}

static json_object *report_of(const Set *s, const SetExclusion *x) {
        json_object *o = json_object_new_object();
        json_add_string(o, "volume", x->volume < s->n_volumes ? s->volumes[x->volume]->name : "");
        json_add_string(o, "root", x->root);
        json_add_string(o, "pattern", x->pattern);
        json_add_bool(o, "recursive", x->recursive);
        json_add_string(o, "from", x->from);
        json_add_uint(o, "removed", x->removed);
        json_add_uint(o, "failed", x->failed);
        json_add_uint(o, "bytes", x->bytes);
        json_add_string(o, "error", x->error);
        return o;
}

int exclude_report(Set *s) {
        _cleanup_(json_object_putp) json_object *list = json_object_new_array();
        for (size_t i = 0; list && s->exclusions && i < s->exclusions->n; i++) {
                const SetExclusion *x = &s->exclusions->items[i];
                char line[LIMIT_MESSAGE_BYTES];
                json_object_array_add(list, report_of(s, x));
                if (!x->error)
                        continue;
                (void) snprintf(line, sizeof(line), "%.120s/%.80s (%.80s) is still in the copy: %.200s", x->root,
                                x->pattern, x->from, x->error);
                (void) strings_append(&s->warnings, line);
        }
        s->exclusions = set_exclusions_free(s->exclusions);
        free(s->excluded_text);
        s->excluded_text = NULL;
        return list ? json_to_text(list, &s->excluded_text) : -ENOMEM;
}
