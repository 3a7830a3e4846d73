/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One table per object of the document; what a table cannot say (duplicates, keys that need each other) is checked when
 * the whole has been read. Arrays are bounded one by one while they are read and once more in sum at the end.
 */
#include <stdio.h>

#include "protocol/jsonutil.h"
#include "protocol/metadata.h"
#include "protocol/text.h"

enum { NAME_BYTES = 255 }; /* NAME_MAX: patterns and unit names */

#define BACKUP_TYPES_ALL ((1u << _BACKUP_TYPE_MAX) - 1)

DEFINE_WORDS(file_role, FileRole, _FILE_ROLE_MAX, "data", "log", "file");

static bool is_one_of(const char *const *words, size_t n, const char *s) {
        return words_find(words, n, s) >= 0;
}

static bool schema_word_is_known(const char *s) {
        static const char *const words[] = {
                "copy",
                "incremental",
                "differential",
                "exclusive-incremental-differential",
                "log",
                "stamps",
                "last-modify",
                "new-target",
                "move",
                "roll-forward",
                "rename",
                "authoritative",
                "parallel-restores",
                "independent-system-state",
        };
        return is_one_of(words, ELEMENTSOF(words), s);
}

static bool method_is_known(const char *s) {
        static const char *const words[] = {
                "if-not-there",      "if-can-replace", "stop-restore-start", "alternate", "at-reboot",
                "at-reboot-if-busy", "custom",         "restore-stop-start",
        };
        return is_one_of(words, ELEMENTSOF(words), s);
}

static bool writer_events_is_known(const char *s) {
        static const char *const words[] = { "never", "if-replace-fails", "always" };
        return is_one_of(words, ELEMENTSOF(words), s);
}

static bool unit_name_is_valid(const char *s) {
        const char *dot = strrchr(s, '.');
        size_t good = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@");
        return dot && dot > s && dot[1] && strlen(s) <= NAME_BYTES && s[good] == '\0';
}

/* Matches names inside one directory, so it is no path. */
bool file_pattern_is_valid(const char *s) {
        return s[0] && strlen(s) <= NAME_BYTES && !strchr(s, '/') && !streq(s, ".") && !streq(s, "..");
}

static bool reference_is_valid(const char *s) {
        _cleanup_free_ char *name = NULL, *instance = NULL;
        return writer_reference_parse(s, &name, &instance) >= 0;
}

static void file_set_done(FileSet *s) {
        free(s->root);
        free(s->pattern);
}

static void component_done(Component *c) {
        free(c->path);
        free(c->caption);
        for (size_t i = 0; i < c->n_files; i++) {
                file_set_done(&c->files[i].set);
                free(c->files[i].source);
        }
        free(c->files);
        for (size_t i = 0; i < c->n_depends; i++) {
                free(c->depends[i].writer);
                free(c->depends[i].path);
                free(c->depends[i].host);
        }
        free(c->depends);
}

Metadata *metadata_free(Metadata *m) {
        if (!m)
                return NULL;
        free(m->name);
        free(m->instance);
        free(m->version);
        strings_free(m->backup_schema);
        free(m->by_path);
        free(m->restore_method);
        free(m->restore_service);
        free(m->restore_writer_events);
        free(m->freeze_unit);
        for (size_t i = 0; i < m->n_alternates; i++) {
                file_set_done(&m->alternates[i].set);
                free(m->alternates[i].to);
        }
        free(m->alternates);
        for (size_t i = 0; i < m->n_components; i++)
                component_done(m->components + i);
        free(m->components);
        for (size_t i = 0; i < m->n_exclude; i++)
                file_set_done(m->exclude + i);
        free(m->exclude);
        for (size_t i = 0; i < m->n_exclude_from_snapshot; i++)
                file_set_done(m->exclude_from_snapshot + i);
        free(m->exclude_from_snapshot);
        free(m);
        return NULL;
}

/* The three keys of a file set inside an object of Type whose member set it is. */
#define ROOT(Type, member) \
        { \
                "root", JSON_STRING, offsetof(Type, member root), \
                        .required = true, .max = LIMIT_PATH_BYTES - 1, .check = path_is_clean, \
                        .expected = "an absolute path without \".\", \"..\" and empty parts" \
        }
#define PATTERN(Type, member) \
        { \
                "pattern", JSON_STRING, offsetof(Type, member pattern), \
                        .max = NAME_BYTES, .check = file_pattern_is_valid, \
                        .expected = "a pattern of names in one directory" \
        }
#define RECURSIVE(Type, member) \
        { "recursive", JSON_BOOL, offsetof(Type, member recursive) }

static int string_default(JsonReader *r, char **s, const char *value) {
        if (!*s)
                *s = strdup(value);
        return *s ? 0 : failure_set(r->failure, CONDITION_LIMIT_REACHED, "no memory to read a document");
}

int file_set_read(JsonReader *r, void *element) {
        static const JsonField fields[] = { ROOT(FileSet, ), PATTERN(FileSet, ), RECURSIVE(FileSet, ) };
        FileSet *s = element;
        int k = json_read_object(r, fields, ELEMENTSOF(fields), false, s);
        return k < 0 ? k : string_default(r, &s->pattern, "*");
}

static int read_alternate(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                ROOT(AlternateLocation, set.),
                PATTERN(AlternateLocation, set.),
                RECURSIVE(AlternateLocation, set.),
                { "to", JSON_STRING, offsetof(AlternateLocation, to), .required = true, .max = LIMIT_PATH_BYTES - 1,
                  .check = path_is_clean, .expected = "an absolute path without \".\", \"..\" and empty parts" },
        };
        AlternateLocation *a = element;
        int k = json_read_object(r, fields, ELEMENTSOF(fields), false, a);
        return k < 0 ? k : string_default(r, &a->set.pattern, "*");
}

static int read_alternates(JsonReader *r, void *field) {
        Metadata *m = field;
        return json_read_array(r, LIMIT_FILE_SETS, sizeof *m->alternates, read_alternate, (void **) &m->alternates,
                               &m->n_alternates);
}

static int read_backup_type(JsonReader *r, void *element) {
        BackupType *type = element;
        _cleanup_free_ char *s = NULL;
        int k = json_read_string(r, LIMIT_STRING_BYTES, &s);
        if (k < 0)
                return k;
        int value = backup_type_from_string(s);
        if (value < 0)
                return json_fail(r, "\"%.80s\" is not copy, full, incremental, differential or log", s);
        *type = (BackupType) value;
        return 0;
}

/* A copy is a full backup that leaves no trace, so what one needs the other needs too. */
static int read_backup_types(JsonReader *r, void *field) {
        _cleanup_free_ BackupType *types = NULL;
        size_t n = 0;
        uint32_t bits = 0;
        int k = json_read_array(r, _BACKUP_TYPE_MAX, sizeof *types, read_backup_type, (void **) &types, &n);
        for (size_t i = 0; k >= 0 && i < n; i++)
                bits |= 1u << types[i];
        if (bits & (1u << BACKUP_COPY | 1u << BACKUP_FULL))
                bits |= 1u << BACKUP_COPY | 1u << BACKUP_FULL;
        *(uint32_t *) field = bits;
        return k;
}

static int read_files(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                { "role", JSON_WORD, offsetof(ComponentFiles, role), .word = file_role_from_string,
                  .expected = "data, log or file" },
                ROOT(ComponentFiles, set.),
                PATTERN(ComponentFiles, set.),
                RECURSIVE(ComponentFiles, set.),
                { "source", JSON_STRING, offsetof(ComponentFiles, source), .max = LIMIT_PATH_BYTES - 1,
                  .check = path_is_clean, .expected = "an absolute path without \".\", \"..\" and empty parts" },
                { "backup", JSON_CUSTOM, offsetof(ComponentFiles, backup), .read = read_backup_types },
                { "snapshot", JSON_CUSTOM, offsetof(ComponentFiles, snapshot), .read = read_backup_types },
        };
        ComponentFiles *f = element;
        *f = (ComponentFiles) { .role = FILE_ROLE_FILE, .backup = BACKUP_TYPES_ALL, .snapshot = BACKUP_TYPES_ALL };
        int k = json_read_object(r, fields, ELEMENTSOF(fields), false, f);
        return k < 0 ? k : string_default(r, &f->set.pattern, "*");
}

static int read_dependency(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                { "writer", JSON_STRING, offsetof(Dependency, writer), .required = true, .check = reference_is_valid,
                  .expected = "a writer reference NAME or NAME@INSTANCE" },
                { "path", JSON_STRING, offsetof(Dependency, path), .required = true, .check = component_path_is_valid,
                  .expected = "a component path" },
                { "host", JSON_STRING, offsetof(Dependency, host), .max = NAME_BYTES },
        };
        return json_read_object(r, fields, ELEMENTSOF(fields), false, element);
}

/* Custom fields of a component and of the document get the whole struct: their offset is 0. */
static int read_component_type(JsonReader *r, void *field) {
        Component *c = field;
        _cleanup_free_ char *s = NULL;
        int k = json_read_string(r, LIMIT_STRING_BYTES, &s);
        if (k < 0)
                return k;
        c->database = streq(s, "database");
        return c->database || streq(s, "file-group") ? 0 : json_fail(r, "\"%.80s\" is not database or file-group", s);
}

static int read_recovery(JsonReader *r, void *element) {
        char **word = element;
        int k = json_read_string(r, LIMIT_STRING_BYTES, word);
        if (k < 0)
                return k;
        return streq(*word, "backup") || streq(*word, "rollback") ?
                       0 :
                       json_fail(r, "\"%.80s\" is not backup or rollback", *word);
}

static int read_component_recovers(JsonReader *r, void *field) {
        Component *c = field;
        _cleanup_free_ char **words = NULL;
        size_t n = 0;
        int k = json_read_array(r, 2, sizeof *words, read_recovery, (void **) &words, &n);
        for (size_t i = 0; i < n; i++) {
                c->recovers_backup = c->recovers_backup || (words[i] && streq(words[i], "backup"));
                c->recovers_rollback = c->recovers_rollback || (words[i] && streq(words[i], "rollback"));
                free(words[i]);
        }
        return k;
}

static int read_component_files(JsonReader *r, void *field) {
        Component *c = field;
        return json_read_array(r, LIMIT_FILE_SETS, sizeof *c->files, read_files, (void **) &c->files, &c->n_files);
}

static int read_component_depends(JsonReader *r, void *field) {
        Component *c = field;
        return json_read_array(r, LIMIT_LIST, sizeof *c->depends, read_dependency, (void **) &c->depends,
                               &c->n_depends);
}

static int read_component(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                { "path", JSON_STRING, offsetof(Component, path), .required = true, .check = component_path_is_valid,
                  .expected = "a path such as a/b, without \".\", \"..\" and empty parts" },
                { "type", JSON_CUSTOM, 0, .required = true, .read = read_component_type },
                { "caption", JSON_STRING, offsetof(Component, caption) },
                { "selectable", JSON_BOOL, offsetof(Component, selectable) },
                { "selectable_for_restore", JSON_BOOL, offsetof(Component, selectable_for_restore) },
                { "notify_complete", JSON_BOOL, offsetof(Component, notify_complete) },
                { "recovers", JSON_CUSTOM, 0, .read = read_component_recovers },
                { "system_state", JSON_BOOL, offsetof(Component, system_state) },
                { "files", JSON_CUSTOM, 0, .read = read_component_files },
                { "depends_on", JSON_CUSTOM, 0, .read = read_component_depends },
        };
        Component *c = element;
        int k = json_read_object(r, fields, ELEMENTSOF(fields), false, c);
        return k < 0 ? k : string_default(r, &c->caption, "");
}

static int read_writer(JsonReader *r, void *field) {
        static const JsonField fields[] = {
                { "name", JSON_STRING, offsetof(Metadata, name), .required = true, .check = writer_name_is_valid,
                  .expected = "a writer name [a-z][a-z0-9-]{0,62}" },
                { "instance", JSON_STRING, offsetof(Metadata, instance), .check = writer_instance_is_valid,
                  .expected = "an instance [A-Za-z0-9._+-]{0,127}" },
                { "version", JSON_STRING, offsetof(Metadata, version) },
                { "level", JSON_WORD, offsetof(Metadata, level), .word = level_from_string,
                  .expected = "front-end, back-end or system" },
                { "usage", JSON_WORD, offsetof(Metadata, usage), .word = usage_from_string,
                  .expected = "user-data, system-service, bootable-state or other" },
                { "source", JSON_WORD, offsetof(Metadata, source), .word = source_from_string,
                  .expected = "transacted, non-transacted or other" },
                { "freeze_timeout_usec", JSON_UINT, offsetof(Metadata, freeze_timeout_usec) },
        };
        Metadata *m = field;
        int k = json_read_object(r, fields, ELEMENTSOF(fields), false, m);
        if (k >= 0 && m->freeze_timeout_usec > 0 && m->freeze_timeout_usec < BUDGET_MIN_FREEZE_USEC)
                k = json_fail(r, "freeze_timeout_usec is below %llu", BUDGET_MIN_FREEZE_USEC);
        return k;
}

static int read_restore(JsonReader *r, void *field) {
        static const JsonField fields[] = {
                { "method", JSON_STRING, offsetof(Metadata, restore_method), .check = method_is_known,
                  .expected = "a restore method" },
                { "service", JSON_STRING, offsetof(Metadata, restore_service), .check = unit_name_is_valid,
                  .expected = "the name of a unit" },
                { "writer_events", JSON_STRING, offsetof(Metadata, restore_writer_events),
                  .check = writer_events_is_known, .expected = "never, if-replace-fails or always" },
                { "reboot", JSON_BOOL, offsetof(Metadata, restore_reboot) },
                { "alternate_locations", JSON_CUSTOM, 0, .read = read_alternates },
        };
        return json_read_object(r, fields, ELEMENTSOF(fields), false, field);
}

static int read_freeze(JsonReader *r, void *field) {
        static const JsonField fields[] = {
                { "unit", JSON_STRING, offsetof(Metadata, freeze_unit), .required = true, .check = unit_name_is_valid,
                  .expected = "the name of a unit" },
        };
        return json_read_object(r, fields, ELEMENTSOF(fields), false, field);
}

static int read_components(JsonReader *r, void *field) {
        Metadata *m = field;
        return json_read_array(r, LIMIT_COMPONENTS, sizeof *m->components, read_component, (void **) &m->components,
                               &m->n_components);
}

static int read_exclude(JsonReader *r, void *field) {
        Metadata *m = field;
        return json_read_array(r, LIMIT_FILE_SETS, sizeof *m->exclude, file_set_read, (void **) &m->exclude,
                               &m->n_exclude);
}

static int read_exclude_from_snapshot(JsonReader *r, void *field) {
        Metadata *m = field;
        return json_read_array(r, LIMIT_FILE_SETS, sizeof *m->exclude_from_snapshot, file_set_read,
                               (void **) &m->exclude_from_snapshot, &m->n_exclude_from_snapshot);
}

static int check_components(JsonReader *r, Metadata *m) {
        size_t n_sets = m->n_exclude + m->n_exclude_from_snapshot;
        m->by_path = calloc(m->n_components + 1, sizeof *m->by_path);
        if (!m->by_path)
                return failure_set(r->failure, CONDITION_LIMIT_REACHED, "no memory to read a document");
        for (size_t i = 0; i < m->n_components; i++) {
                n_sets += m->components[i].n_files;
                m->by_path[i] = (PathEntry) { m->components[i].path, i };
        }
        if (n_sets > LIMIT_FILE_SETS)
                return json_fail(r, "more than %d file sets", LIMIT_FILE_SETS);
        path_entries_sort(m->by_path, m->n_components);
        for (size_t i = 1; i < m->n_components; i++)
                if (streq(m->by_path[i - 1].path, m->by_path[i].path))
                        return json_fail(r, "two components have the path \"%.80s\"", m->by_path[i].path);
        return 0;
}

static int metadata_read(JsonReader *r, Metadata *m) {
        static const JsonField fields[] = {
                { "schema", JSON_FREE },
                { "kind", JSON_FREE },
                { "requires", JSON_FREE },
                { "writer", JSON_CUSTOM, 0, .required = true, .read = read_writer },
                { "backup_schema", JSON_STRINGS, offsetof(Metadata, backup_schema), .max = 32,
                  .check = schema_word_is_known, .expected = "a word of backup_schema" },
                { "restore", JSON_CUSTOM, 0, .read = read_restore },
                { "components", JSON_CUSTOM, 0, .read = read_components },
                { "exclude", JSON_CUSTOM, 0, .read = read_exclude },
                { "exclude_from_snapshot", JSON_CUSTOM, 0, .read = read_exclude_from_snapshot },
                { "freeze", JSON_CUSTOM, 0, .read = read_freeze },
                { "x", JSON_FREE },
        };
        int k = json_check_header(r, "writer-metadata");
        if (k >= 0)
                k = json_read_object(r, fields, ELEMENTSOF(fields), false, m);
        if (k >= 0)
                k = json_end(r);
        if (k >= 0)
                k = check_components(r, m);
        if (k >= 0)
                k = string_default(r, &m->instance, "");
        return k < 0 ? k : string_default(r, &m->version, "");
}

int metadata_parse(const char *text, size_t size, Failure *reterr, Metadata **ret) {
        _cleanup_(metadata_freep) Metadata *m = NULL;
        JsonReader r;
        assert(text && ret);
        json_reader_init(&r, text, size, reterr);
        if (size > LIMIT_METADATA_BYTES)
                return json_fail(&r, "larger than %d bytes", LIMIT_METADATA_BYTES);
        m = calloc(1, sizeof *m);
        if (!m)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "no memory to read a document");
        m->usage = USAGE_OTHER;
        m->source = SOURCE_OTHER;
        int k = metadata_read(&r, m);
        if (k < 0)
                return k;
        *ret = TAKE_PTR(m);
        return 0;
}

int metadata_check_identity(const Metadata *m, const char *name, const char *instance, Failure *reterr) {
        assert(m && name && instance);
        if (!streq(m->name, name))
                return failure_set(reterr, CONDITION_INVALID_DOCUMENT, "writer.name: \"%s\" registered as \"%s\"",
                                   m->name, name);
        if (!streq(m->instance, instance))
                return failure_set(reterr, CONDITION_INVALID_DOCUMENT, "writer.instance: \"%s\" registered as \"%s\"",
                                   m->instance, instance);
        return 0;
}

bool component_path_is_below(const char *path, const char *ancestor) {
        size_t n = strlen(ancestor);
        return strncmp(path, ancestor, n) == 0 && path[n] == '/';
}

int metadata_find_component(const Metadata *m, const char *path) {
        const PathEntry *found = path_entries_find(m->by_path, m->n_components, path, strlen(path));
        return found ? (int) found->index : -1;
}

BackupType metadata_backup_type(const Metadata *m, BackupType asked) {
        bool both = asked == BACKUP_INCREMENTAL || asked == BACKUP_DIFFERENTIAL;
        if (asked == BACKUP_COPY || asked == BACKUP_FULL)
                return asked;
        for (char **word = m->backup_schema; word && *word; word++)
                if (streq(*word, backup_type_to_string(asked)) ||
                    (both && streq(*word, "exclusive-incremental-differential")))
                        return asked;
        return BACKUP_FULL;
}

int metadata_selectable_ancestor(const Metadata *m, size_t component) {
        int nearest = -1;
        size_t longest = 0;
        assert(m && component < m->n_components);
        for (size_t i = 0; i < m->n_components; i++) {
                const Component *c = m->components + i;
                if (!c->selectable || !component_path_is_below(m->components[component].path, c->path))
                        continue;
                if (strlen(c->path) > longest) {
                        longest = strlen(c->path);
                        nearest = (int) i;
                }
        }
        return nearest;
}
