/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/backup-list.h"
#include "protocol/jsonutil.h"
#include "protocol/metadata.h"
#include "protocol/text.h"

/* Escaped bytes become themselves; what would end the line, or mean nothing to a program, becomes a pattern. */
static void put_path(FILE *f, const char *text) {
        _cleanup_free_ char *bytes = NULL;
        if (path_unescape(text, &bytes) < 0)
                return;
        for (const char *p = bytes; *p; p++)
                (void) fputc(*p == '\n' ? '?' : *p, f);
}

static void put_line(FILE *f, const char *root, const char *between, const char *pattern) {
        put_path(f, streq(root, "/") ? "" : root);
        fputs(between, f);
        put_path(f, pattern);
        (void) fputc('\n', f);
}

static void put_file_set(FILE *f, const char *root, const char *pattern, bool recursive) {
        if (recursive && streq(pattern, "*")) {
                put_path(f, root);
                (void) fputc('\n', f);
                return;
        }
        put_line(f, root, "/", pattern);
        if (recursive)
                put_line(f, root, "/**/", pattern);
}

static bool is_taken(const ManifestWriter *w, const char *path) {
        for (size_t i = 0; i < w->n_components; i++)
                if (streq(w->components[i].path, path) || strings_contain(w->components[i].implicit, path))
                        return true;
        return false;
}

static void put_component(FILE *f, const Component *c, BackupType type) {
        for (size_t i = 0; i < c->n_files; i++) {
                const ComponentFiles *files = &c->files[i];
                if (files->backup & 1u << type)
                        put_file_set(f, files->source ? files->source : files->set.root, files->set.pattern,
                                     files->set.recursive);
        }
}

void backup_list_files(const Manifest *m, FILE *f) {
        for (size_t i = 0; i < m->n_writers; i++) {
                const ManifestWriter *w = &m->writers[i];
                _cleanup_(metadata_freep) Metadata *d = NULL;
                if (!w->metadata_text || metadata_parse(w->metadata_text, strlen(w->metadata_text), NULL, &d) < 0)
                        continue;
                for (size_t k = 0; k < d->n_components; k++)
                        if (is_taken(w, d->components[k].path))
                                put_component(f, &d->components[k], w->type);
        }
}

void backup_list_excludes(const Manifest *m, FILE *f) {
        _cleanup_(json_object_putp) json_object *list = m->exclude ? json_tokener_parse(m->exclude) : NULL;
        if (!json_object_is_type(list, json_type_array))
                return;
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                json_object *o = json_object_array_get_idx(list, i);
                put_file_set(f, json_get_string(o, "root", "/"), json_get_string(o, "pattern", "*"),
                             json_get_bool(o, "recursive", false));
        }
}
