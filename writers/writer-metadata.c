/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Builds the writer metadata document call by call. What is put in is not judged here beyond what the calls themselves
 * promise: vssd reads the document strictly and names the place that is wrong, for documents of every origin alike.
 */
#include "writers/writer-lib.h"
#include <json-c/json.h>

struct vss_metadata {
        const Writer *writer;
        json_object *document;
};

static int put(json_object *o, const char *key, json_object *value) {
        if (!value)
                return -ENOMEM;
        if (json_object_object_add(o, key, value) < 0) {
                json_object_put(value);
                return -ENOMEM;
        }
        return 0;
}

static int put_text(json_object *o, const char *key, const char *text) {
        _cleanup_free_ char *tidy = strdup(text);

        if (!tidy)
                return -ENOMEM;
        text_clean(tidy);
        return put(o, key, json_object_new_string(tidy));
}

static int put_path(json_object *o, const char *key, const char *path) {
        _cleanup_free_ char *escaped = NULL;
        int r = path_escape(path, &escaped);

        return r < 0 ? r : put(o, key, json_object_new_string(escaped));
}

/* The member of that name, made if it is not there. */
static json_object *member(json_object *o, const char *key, json_object *(*make)(void) ) {
        json_object *found = NULL;

        if (json_object_object_get_ex(o, key, &found))
                return found;
        return put(o, key, make()) < 0 ? NULL : json_object_object_get(o, key);
}

static int append(json_object *list, json_object *value) {
        if (!list || !value || json_object_array_add(list, value) < 0) {
                json_object_put(value);
                return -ENOMEM;
        }
        return 0;
}

_public_ int vss_metadata_set(struct vss_metadata *m, const char *key, const char *value) {
        static const char *const restore[] = { "method", "service", "writer_events" };
        json_object *o;

        if (!key || !value)
                return -EINVAL;
        if (streq(key, "backup_schema"))
                return append(member(m->document, key, json_object_new_array), json_object_new_string(value));
        if (strncmp(key, "x.", 2) == 0 && key[2]) {
                o = member(m->document, "x", json_object_new_object);
                return o ? put_text(o, key + 2, value) : -ENOMEM;
        }
        if (strncmp(key, "restore.", 8) != 0)
                return -EINVAL;
        o = member(m->document, "restore", json_object_new_object);
        if (!o)
                return -ENOMEM;
        for (size_t i = 0; i < ELEMENTSOF(restore); i++)
                if (streq(key + 8, restore[i]))
                        return put_text(o, restore[i], value);
        if (streq(key + 8, "reboot") && (streq(value, "true") || streq(value, "false")))
                return put(o, "reboot", json_object_new_boolean(streq(value, "true")));
        return -EINVAL;
}

static json_object *find_component(const struct vss_metadata *m, const char *path) {
        json_object *list = NULL, *at = NULL;

        if (!json_object_object_get_ex(m->document, "components", &list) || !json_object_is_type(list, json_type_array))
                return NULL;
        for (size_t i = 0; i < json_object_array_length(list); i++) {
                json_object *c = json_object_array_get_idx(list, i);
                if (json_object_object_get_ex(c, "path", &at) && streq_null(json_object_get_string(at), path))
                        return c;
        }
        return NULL;
}

_public_ int vss_metadata_component(struct vss_metadata *m, const char *path, uint32_t flags, const char *caption) {
        uint32_t usage = m->writer->callbacks.usage;
        bool system = (usage == VSS_USAGE_SYSTEM_SERVICE || usage == VSS_USAGE_BOOTABLE_STATE) &&
                      !(flags & VSS_COMPONENT_NOT_SYSTEM_STATE);
        json_object *c;
        int r;

        if (isempty(path) || flags > 63)
                return -EINVAL;
        if (find_component(m, path))
                return -EEXIST;
        c = json_object_new_object();
        if (!c)
                return -ENOMEM;
        r = put_text(c, "path", path);
        r = r < 0 ? r : put_text(c, "type", flags & VSS_COMPONENT_DATABASE ? "database" : "file-group");
        if (r >= 0 && caption)
                r = put_text(c, "caption", caption);
        r = r < 0 ? r : put(c, "selectable", json_object_new_boolean(!!(flags & VSS_COMPONENT_SELECTABLE)));
        r = r < 0 ? r :
                    put(c, "selectable_for_restore",
                        json_object_new_boolean(!!(flags & VSS_COMPONENT_SELECTABLE_FOR_RESTORE)));
        r = r < 0 ? r : put(c, "notify_complete", json_object_new_boolean(!!(flags & VSS_COMPONENT_NOTIFY_COMPLETE)));
        r = r < 0 ? r : put(c, "system_state", json_object_new_boolean(system));
        if (r >= 0 && flags & VSS_COMPONENT_RECOVERS)
                r = append(member(c, "recovers", json_object_new_array), json_object_new_string("backup"));
        r = r < 0 ? r : put(c, "files", json_object_new_array());
        if (r < 0) {
                json_object_put(c);
                return r;
        }
        return append(member(m->document, "components", json_object_new_array), c);
}

/* The types of backup that a file set belongs to; all of them go without a word. */
static int put_types(json_object *o, uint32_t flags) {
        static const char *const other[] = { "full", "incremental", "differential" };
        json_object *list;
        int r = 0;

        if (!(flags & (VSS_FILES_LOG_BACKUP | VSS_FILES_NO_LOG_BACKUP)))
                return 0;
        list = member(o, "backup", json_object_new_array);
        if (flags & VSS_FILES_LOG_BACKUP)
                return append(list, json_object_new_string("log"));
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(other); i++)
                r = append(list, json_object_new_string(other[i]));
        return r;
}

static int add_file_set(json_object *list, const char *role, const char *root, const char *pattern, uint32_t flags) {
        json_object *o;
        int r = 0;

        if (!root || root[0] != '/' || isempty(pattern) || strchr(pattern, '/'))
                return -EINVAL;
        o = json_object_new_object();
        if (!o)
                return -ENOMEM;
        if (role)
                r = put_text(o, "role", role);
        r = r < 0 ? r : put_path(o, "root", root);
        r = r < 0 ? r : put_path(o, "pattern", pattern);
        r = r < 0 ? r : put(o, "recursive", json_object_new_boolean(!!(flags & VSS_FILES_RECURSIVE)));
        if (r >= 0 && role && flags & VSS_FILES_NO_SNAPSHOT_NEEDED)
                r = put(o, "snapshot", json_object_new_array());
        r = r < 0 ? r : put_types(o, flags);
        if (r < 0) {
                json_object_put(o);
                return r;
        }
        return append(list, o);
}

_public_ int vss_metadata_files(struct vss_metadata *m, const char *component, const char *root, const char *pattern,
                                uint32_t flags) {
        json_object *c = component ? find_component(m, component) : NULL, *type = NULL;
        const char *role;

        if (!c)
                return -ENOENT;
        if (flags > 31 || (flags & VSS_FILES_LOG_BACKUP && flags & VSS_FILES_NO_LOG_BACKUP))
                return -EINVAL;
        (void) json_object_object_get_ex(c, "type", &type);
        role = flags & VSS_FILES_LOG ? "log" : streq_null(json_object_get_string(type), "database") ? "data" : "file";
        return add_file_set(member(c, "files", json_object_new_array), role, root, pattern, flags);
}

_public_ int vss_metadata_exclude(struct vss_metadata *m, const char *root, const char *pattern, uint32_t flags) {
        const char *key = flags & VSS_FILES_NO_SNAPSHOT_NEEDED ? "exclude_from_snapshot" : "exclude";

        if (flags & ~(uint32_t) (VSS_FILES_RECURSIVE | VSS_FILES_NO_SNAPSHOT_NEEDED))
                return -EINVAL;
        return add_file_set(member(m->document, key, json_object_new_array), NULL, root, pattern, flags);
}

_public_ int vss_metadata_json(struct vss_metadata *m, const char *document) {
        size_t size = document ? strlen(document) : 0;
        json_tokener *tokener;
        json_object *o;

        if (size == 0 || size > LIMIT_METADATA_BYTES)
                return -EBADMSG;
        tokener = json_tokener_new_ex(LIMIT_JSON_DEPTH);
        if (!tokener)
                return -ENOMEM;
        json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
        o = json_tokener_parse_ex(tokener, document, (int) size + 1);
        json_tokener_free(tokener);
        if (!json_object_is_type(o, json_type_object)) {
                json_object_put(o);
                return -EBADMSG;
        }
        json_object_put(m->document);
        m->document = o;
        return 0;
}

/* What vssd compares with the registration, unless the writer gave it. */
static int put_identity(struct vss_metadata *m) {
        const struct vss_writer_callbacks *c = &m->writer->callbacks;
        json_object *w, *found;
        int r = 0;

        if (!json_object_object_get_ex(m->document, "schema", &found))
                r = put(m->document, "schema", json_object_new_int(1));
        if (r >= 0 && !json_object_object_get_ex(m->document, "kind", &found))
                r = put_text(m->document, "kind", "writer-metadata");
        if (r < 0 || json_object_object_get_ex(m->document, "writer", &found))
                return r;

        w = member(m->document, "writer", json_object_new_object);
        if (!w)
                return -ENOMEM;
        r = put_text(w, "name", c->name);
        r = r < 0 ? r : put_text(w, "instance", c->instance);
        r = r < 0 ? r : put_text(w, "version", c->version);
        r = r < 0 ? r : put_text(w, "level", level_to_string((Level) c->level));
        r = r < 0 ? r : put_text(w, "usage", usage_to_string((Usage) c->usage));
        r = r < 0 ? r : put_text(w, "source", source_to_string((Source) c->source));
        if (r >= 0 && c->freeze_timeout_usec > 0)
                r = put(w, "freeze_timeout_usec", json_object_new_int64((int64_t) c->freeze_timeout_usec));
        return r;
}

int metadata_build(Writer *w, char **ret_document, int *ret_result) {
        struct vss_metadata m = { .writer = w, .document = json_object_new_object() };
        const char *text;
        int r;

        if (!m.document)
                return -ENOMEM;
        *ret_result = w->callbacks.identify(&m, w->userdata);
        r = *ret_result < 0 ? 0 : put_identity(&m);
        if (r >= 0 && *ret_result >= 0) {
                text = json_object_to_json_string_ext(m.document,
                                                      JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
                *ret_document = text ? strdup(text) : NULL;
                if (!*ret_document)
                        r = -ENOMEM;
                else if (strlen(*ret_document) > LIMIT_METADATA_BYTES)
                        r = -E2BIG;
        }
        json_object_put(m.document);
        return r;
}

int metadata_try(int (*identify)(struct vss_metadata *m, void *userdata), void *userdata) {
        static const Writer nobody;
        struct vss_metadata m = { .writer = &nobody, .document = json_object_new_object() };
        int r = m.document ? identify(&m, userdata) : -ENOMEM;
        json_object_put(m.document);
        return r;
}
