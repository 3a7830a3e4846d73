/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The whole of one set: what `create` prints and `show` repeats. States and copies come from the bus, what happened
 * from the record.
 */
#include "client/verbs.h"

/* A document of vssd's own making; still bounded in depth, and a broken one is said to be broken. */
static int record_parse(Context *c, const char *text, json_object **ret) {
        struct json_tokener *tokener = json_tokener_new_ex(LIMIT_JSON_DEPTH);
        size_t size = strlen(text);
        *ret = tokener && size <= LIMIT_MANIFEST_BYTES ? json_tokener_parse_ex(tokener, text, (int) size) : NULL;
        if (tokener)
                json_tokener_free(tokener);
        if (*ret && json_object_is_type(*ret, json_type_object))
                return 0;
        json_object_put(TAKE_PTR(*ret));
        return context_fail(c, CONDITION_FAILED, "the record of the set is not a JSON object");
}

static int fetch_record(Context *c, const char *path, json_object **ret) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        int r = call_method(c, path, VSS_IFACE_SET, "GetRecord", &answer, "a{sv}", 0);
        return r < 0 ? r : record_parse(c, json_object_get_string(json_object_array_get_idx(answer, 0)), ret);
}

static json_object *find_by(json_object *rows, const char *key, const char *value) {
        for (size_t i = 0; rows && json_object_is_type(rows, json_type_array) && i < json_object_array_length(rows);
             i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                if (streq(member_text(row, key), value))
                        return row;
        }
        return NULL;
}

/* The record knows each volume as it was written on the command line. */
static void snapshot_name_volume(json_object *snapshot, json_object *record) {
        json_object *volume = find_by(member(record, "volumes"), "snapshot", member_text(snapshot, "id"));
        const char *given = member_text(volume, "volume"), *canonical = member_text(volume, "mountpoint");
        if (!isempty(given))
                json_object_object_add(snapshot, "volume", json_object_new_string(given));
        if (!isempty(canonical))
                json_object_object_add(snapshot, "mountpoint", json_object_new_string(canonical));
}

static int fetch_snapshots(Context *c, json_object *set, json_object *record, json_object **ret) {
        json_object *paths = member(set, "snapshots");
        _cleanup_(json_object_putp) json_object *rows = json_object_new_array();
        for (size_t i = 0; paths && i < json_object_array_length(paths); i++) {
                _cleanup_(json_object_putp) json_object *object = NULL;
                int r = call_properties(c, json_object_get_string(json_object_array_get_idx(paths, i)),
                                        VSS_IFACE_SNAPSHOT, &object);
                if (r == -condition_errno(CONDITION_NOT_FOUND))
                        continue; /* deleted meanwhile */
                if (r < 0)
                        return r;
                json_object *snapshot = describe_snapshot(object);
                snapshot_name_volume(snapshot, record);
                json_object_array_add(rows, snapshot);
        }
        *ret = TAKE_PTR(rows);
        return 0;
}

static json_object *writers_of_record(json_object *record) {
        static const char *const keys[] = {
                "name", "instance", "level", "state", "consistency", "freeze_usec", "error"
        };
        json_object *rows = json_object_new_array(), *writers = member(record, "writers");
        for (size_t i = 0; writers && i < json_object_array_length(writers); i++) {
                json_object *w = json_object_array_get_idx(writers, i), *row = json_object_new_object();
                for (size_t k = 0; k < ELEMENTSOF(keys); k++)
                        json_object_object_add(row, keys[k], json_object_get(member(w, keys[k])));
                if (!member(w, "consistency"))
                        json_object_object_add(row, "consistency",
                                               member(w, "error") ? NULL : json_object_new_string("application"));
                json_object_array_add(rows, row);
        }
        return rows;
}

int describe_set_full(Context *c, const char *path, bool with_record, json_object **ret) {
        _cleanup_(json_object_putp) json_object *object = NULL, *record = NULL, *snapshots = NULL, *d = NULL,
                                                *own = NULL;
        int r = call_properties(c, path, VSS_IFACE_SET, &object);
        if (r >= 0)
                r = fetch_record(c, path, &record);
        if (r >= 0)
                r = fetch_snapshots(c, object, record, &snapshots);
        if (r < 0)
                return r;
        d = document_new();
        own = describe_set(object);
        json_object_object_foreach(own, key, value) json_object_object_add(d, key, json_object_get(value));
        json_object *instant = member(record, "instant");
        json_object_object_add(d, "instant", json_object_get(instant ? instant : member(d, "created")));
        json_object_object_add(d, "snapshots", TAKE_PTR(snapshots));
        if (member(record, "writers"))
                json_object_object_add(d, "writers", writers_of_record(record));
        if (!member(d, "error"))
                json_object_object_add(d, "error", json_object_get(member(record, "error")));
        if (member(record, "warnings"))
                json_object_object_add(d, "warnings", json_object_get(member(record, "warnings")));
        if (with_record)
                json_object_object_add(d, "record", TAKE_PTR(record));
        *ret = TAKE_PTR(d);
        return 0;
}
