/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Objects of the bus as the documents of DESIGN.md section 9. Those keys are a contract; what they are made of is not.
 */
#include "client/verbs.h"
#include <math.h>

json_object *member(json_object *object, const char *dotted) {
        char key[64];
        while (object && *dotted) {
                size_t n = strcspn(dotted, ".");
                if (n >= sizeof(key) || !json_object_is_type(object, json_type_object))
                        return NULL;
                memcpy(key, dotted, n);
                key[n] = 0;
                object = json_object_object_get(object, key);
                dotted += n + (dotted[n] == '.');
        }
        return object;
}

const char *member_text(json_object *object, const char *key) {
        json_object *value = member(object, key);
        return value && json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
}

int64_t member_number(json_object *object, const char *key) {
        json_object *value = member(object, key);
        return value ? json_object_get_int64(value) : 0;
}

json_object *document_new(void) {
        json_object *d = json_object_new_object();
        json_object_object_add(d, "schema", json_object_new_int(1));
        return d;
}

/* "" on the bus is nothing, and nothing is null. */
static void add_text(json_object *to, const char *key, const char *text) {
        json_object_object_add(to, key, isempty(text) ? NULL : json_object_new_string(text));
}

static void add_copy(json_object *to, const char *key, json_object *from, const char *source) {
        json_object_object_add(to, key, json_object_get(member(from, source)));
}

static void add_copies(json_object *to, json_object *from, const char *const *keys) {
        for (; *keys; keys++)
                if (member(from, *keys))
                        add_copy(to, *keys, from, *keys);
}

static void add_time(json_object *to, const char *key, int64_t realtime_usec) {
        char text[64];
        json_object_object_add(to, key,
                               realtime_usec <= 0 ? NULL :
                                                    json_object_new_string(format_instant((uint64_t) realtime_usec,
                                                                                          text, sizeof(text))));
}

static void add_id_of_path(json_object *to, const char *key, const char *class, const char *path) {
        _cleanup_free_ char *id = NULL;
        add_text(to, key, sd_bus_path_decode(path, class, &id) > 0 ? id : NULL);
}

json_object *describe_error(const char *name, const char *message, bool retryable) {
        json_object *e = json_object_new_object();
        json_object_object_add(e, "name", json_object_new_string(name));
        json_object_object_add(e, "message", json_object_new_string(message ? message : ""));
        json_object_object_add(e, "retryable", json_object_new_boolean(retryable));
        return e;
}

/* LastError (ssb) → null or an object */
static void add_last_error(json_object *to, const char *key, json_object *from) {
        json_object *e = member(from, "last_error"), *retryable = NULL;
        const char *name = "", *message = "";
        if (e && json_object_is_type(e, json_type_array) && json_object_array_length(e) == 3) {
                name = json_object_get_string(json_object_array_get_idx(e, 0));
                message = json_object_get_string(json_object_array_get_idx(e, 1));
                retryable = json_object_array_get_idx(e, 2);
        }
        json_object_object_add(to, key,
                               isempty(name) ? NULL :
                                               describe_error(name, message, json_object_get_boolean(retryable)));
}

json_object *describe_snapshot(json_object *object) {
        static const char *const copied[] = { "state", "mounts", "exports", "pinned", "labels", NULL };
        json_object *d = json_object_new_object();
        add_text(d, "id", member_text(object, "id"));
        add_id_of_path(d, "set", VSS_PATH_SETS, member_text(object, "set"));
        add_text(d, "volume", member_text(object, "volume_name"));
        add_text(d, "mountpoint", member_text(object, "volume_name"));
        add_text(d, "provider", member_text(object, "provider"));
        add_text(d, "consistency", member_text(object, "consistency"));
        add_time(d, "created", member_number(object, "created_at"));
        add_text(d, "device", member_text(object, "device"));
        add_text(d, "path", member_text(object, "path"));
        add_copy(d, "size", object, "size_bytes");
        add_copy(d, "used", object, "used_bytes");
        add_text(d, "token", member_text(object, "change_token"));
        add_copies(d, object, copied);
        return d;
}

/* Writers a(sss): (reference, state, error name) */
static json_object *describe_set_writers(json_object *writers) {
        json_object *rows = json_object_new_array();
        for (size_t i = 0; writers && i < json_object_array_length(writers); i++) {
                json_object *w = json_object_array_get_idx(writers, i), *row = json_object_new_object();
                const char *reference = json_object_get_string(json_object_array_get_idx(w, 0)),
                           *at = reference ? strchr(reference, '@') : NULL;
                const char *state = json_object_get_string(json_object_array_get_idx(w, 1));
                const char *error = json_object_get_string(json_object_array_get_idx(w, 2));
                json_object_object_add(
                        row, "name",
                        !reference ? NULL :
                                     json_object_new_string_len(reference, (int) (at ? at - reference :
                                                                                       (ptrdiff_t) strlen(reference))));
                add_text(row, "instance", at ? at + 1 : NULL);
                add_text(row, "state", state);
                json_object_object_add(
                        row, "error",
                        isempty(error) ? NULL :
                                         describe_error(error, "", condition_retryable(condition_from_name(error))));
                json_object_array_add(rows, row);
        }
        return rows;
}

json_object *describe_set(json_object *object) {
        static const char *const copied[] = { "state",     "phase",     "progress",    "consistency", "one_instant",
                                              "requester", "owner_uid", "backup_type", "lifetime",    "session",
                                              "labels",    "timing",    "volumes",     NULL };
        json_object *d = json_object_new_object(), *ids = json_object_new_array(), *paths = member(object, "snapshots");
        add_text(d, "id", member_text(object, "id"));
        add_text(d, "set", member_text(object, "id"));
        add_time(d, "created", member_number(object, "created_at"));
        add_copies(d, object, copied);
        for (size_t i = 0; paths && i < json_object_array_length(paths); i++) {
                _cleanup_free_ char *id = NULL;
                if (sd_bus_path_decode(json_object_get_string(json_object_array_get_idx(paths, i)), VSS_PATH_SNAPSHOTS,
                                       &id) > 0)
                        json_object_array_add(ids, json_object_new_string(id));
        }
        json_object_object_add(d, "snapshots", ids);
        json_object_object_add(d, "writers", describe_set_writers(member(object, "writers")));
        add_last_error(d, "error", object);
        return d;
}

json_object *describe_writer(json_object *object) {
        static const char *const copied[] = { "name",    "instance", "id",       "kind",
                                              "version", "level",    "usage",    "source",
                                              "state",   "sessions", "events",   "freeze_timeout_usec",
                                              "uid",     "pid",      "bus_name", NULL };
        json_object *d = json_object_new_object();
        add_copies(d, object, copied);
        add_last_error(d, "error", object);
        return d;
}

json_object *describe_provider(json_object *object) {
        static const char *const copied[] = { "name",         "version",  "kind",  "path",
                                              "capabilities", "priority", "state", NULL };
        json_object *d = json_object_new_object();
        add_copies(d, object, copied);
        add_last_error(d, "error", object);
        return d;
}

json_object *describe_volume(json_object *object) {
        static const char *const copied[] = { "kind", "state", "operation", "progress", "frontend", NULL };
        json_object *d = json_object_new_object(), *mounts = member(object, "mount_points"),
                    *ids = json_object_new_array();
        add_text(d, "name", member_text(object, "name"));
        add_text(d, "volume", member_text(object, "name"));
        add_copies(d, object, copied);
        add_last_error(d, "fault", object);
        add_text(d, "mountpoint",
                 mounts && json_object_array_length(mounts) > 0 ?
                         json_object_get_string(json_object_array_get_idx(mounts, 0)) :
                         NULL);
        add_copy(d, "mountpoints", object, "mount_points");
        add_text(d, "device", member_text(object, "device"));
        add_text(d, "origin", member_text(object, "origin"));
        add_text(d, "filesystem", member_text(object, "file_system"));
        add_text(d, "filesystem_uuid", member_text(object, "file_system_uuid"));
        add_copy(d, "size", object, "size_bytes");
        json_object *paths = member(object, "snapshots");
        for (size_t i = 0; paths && i < json_object_array_length(paths); i++) {
                _cleanup_free_ char *id = NULL;
                if (sd_bus_path_decode(json_object_get_string(json_object_array_get_idx(paths, i)), VSS_PATH_SNAPSHOTS,
                                       &id) > 0)
                        json_object_array_add(ids, json_object_new_string(id));
        }
        json_object_object_add(d, "snapshots", ids);
        return d;
}

static int compare(const void *a, const void *b) {
        static const char *const keys[] = { "created", "name", "instance", "id" };
        json_object *const *x = a, *const *y = b;
        int r = 0;
        for (size_t i = 0; r == 0 && i < ELEMENTSOF(keys); i++)
                r = strcmp(member_text(*x, keys[i]), member_text(*y, keys[i]));
        return r;
}

json_object *describe_list(const char *key, json_object *objects, json_object *(*describe)(json_object *) ) {
        json_object *d = document_new(), *rows = json_object_new_array();
        for (size_t i = 0; i < json_object_array_length(objects); i++)
                json_object_array_add(rows, describe(json_object_array_get_idx(objects, i)));
        json_object_array_sort(rows, compare);
        json_object_object_add(d, key, rows);
        return d;
}
