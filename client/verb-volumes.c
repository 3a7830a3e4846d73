/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * volumes: what there is, and who could copy it, up to which level. The last two are asked of each volume.
 */
#include "client/verb-lists.h"

static const Column columns[] = {
        { "VOLUME", "name", FORMAT_TEXT },
        { "KIND", "kind", FORMAT_TEXT },
        { "FILE SYSTEM", "filesystem", FORMAT_TEXT },
        { "SIZE", "size", FORMAT_SIZE },
        { "PROVIDER", "provider", FORMAT_TEXT },
        { "LEVEL", "level", FORMAT_STATE },
        { "SNAPSHOTS", "snapshots", FORMAT_COUNT },
        { "DEVICE", "device", FORMAT_TEXT },
        { "WHY NOT", "why_not", FORMAT_TEXT },
        {},
};

/* What each candidate said, in one line; null if one can. */
static json_object *why_not(json_object *row) {
        json_object *candidates = member(row, "candidates");
        _cleanup_free_ char *line = NULL;
        if (streq(member_text(row, "state"), "faulted"))
                return json_object_new_string(member_text(row, "fault.message"));
        if (!isempty(member_text(row, "provider")))
                return NULL;
        if (member(row, "error"))
                return json_object_new_string(member_text(row, "error.message"));
        for (size_t i = 0; candidates && i < json_object_array_length(candidates); i++) {
                json_object *one = json_object_array_get_idx(candidates, i);
                const char *name = json_object_get_string(json_object_array_get_idx(one, 0));
                const char *why = json_object_get_string(json_object_array_get_idx(one, 1));
                char *longer = NULL;
                if (isempty(why)) /* it could, if it were asked for by name */
                        continue;
                if (asprintf(&longer, "%s%s%s: %s", line ? line : "", line ? "; " : "", name ? name : "",
                             why ? why : "") < 0)
                        return NULL;
                free(line);
                line = longer;
        }
        return line ? json_object_new_string(line) : NULL;
}

static void probe(Context *c, json_object *object, json_object *row) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        Context silent = *c;
        json_object *error = NULL, *result = NULL;
        if (call_method(&silent, member_text(object, "object"), VSS_IFACE_VOLUME, "Probe", &answer, "a{sv}", 0) < 0)
                error = describe_error(silent.error_name, silent.error_message, silent.retryable);
        else
                result = json_object_array_get_idx(answer, 0);
        const char *const keys[] = { "provider", "level" };
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                const char *text = member_text(result, keys[i]);
                json_object_object_add(row, keys[i], isempty(text) ? NULL : json_object_new_string(text));
        }
        json_object_object_add(row, "writers", json_object_get(member(result, "writers")));
        json_object_object_add(row, "candidates", json_object_get(member(result, "candidates")));
        json_object_object_add(row, "error", error);
        json_object_object_add(row, "why_not", why_not(row));
}

static int by_name(const void *a, const void *b) {
        json_object *const *x = a, *const *y = b;
        return strcmp(member_text(*x, "name"), member_text(*y, "name"));
}

static int volumes_run(Context *c) {
        _cleanup_(json_object_putp) json_object *objects = NULL;
        int r = call_objects(c, VSS_IFACE_VOLUME, &objects);
        if (r < 0)
                return r;
        json_object *rows = json_object_new_array();
        for (size_t i = 0; i < json_object_array_length(objects); i++) {
                json_object *object = json_object_array_get_idx(objects, i), *row = describe_volume(object);
                probe(c, object, row);
                json_object_array_add(rows, row);
        }
        json_object_array_sort(rows, by_name);
        c->document = document_new();
        json_object_object_add(c->document, "volumes", rows);
        return list_print(c, "volumes", columns, "There is no volume that could be copied.");
}

const Verb verb_volumes = {
        .name = "volumes",
        .summary = "list volumes, who can copy them and up to which level",
        .examples = "  vssctl volumes\n",
        .run = volumes_run,
};
