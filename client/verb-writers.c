/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * writers: who takes part, in which state, with which last error; one of them with its whole document.
 */
#include "client/verb-lists.h"

static const Column columns[] = {
        { "WRITER", "name", FORMAT_TEXT },
        { "INSTANCE", "instance", FORMAT_TEXT },
        { "STATE", "state", FORMAT_STATE },
        { "LEVEL", "level", FORMAT_TEXT },
        { "KIND", "kind", FORMAT_TEXT },
        { "VERSION", "version", FORMAT_TEXT },
        { "LAST ERROR", "error.message", FORMAT_TEXT },
        {},
};

static bool is_meant(json_object *object, const char *reference) {
        const char *name = member_text(object, "name"), *instance = member_text(object, "instance");
        size_t n = strlen(name);
        return streq(name, reference) ||
               (strncmp(name, reference, n) == 0 && reference[n] == '@' && streq(instance, reference + n + 1));
}

/* A writer that is gone has no document; the list still shows it. */
static json_object *fetch_metadata(Context *c, json_object *object) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        Context silent = *c;
        if (call_method(&silent, member_text(object, "object"), VSS_IFACE_WRITER_ENTRY, "GetMetadata", &answer, "a{sv}",
                        0) < 0)
                return NULL;
        const char *text = json_object_get_string(json_object_array_get_idx(answer, 0));
        return isempty(text) || strlen(text) > LIMIT_METADATA_BYTES ? NULL : json_tokener_parse(text);
}

static int writers_named(Context *c, const char *reference) {
        _cleanup_(json_object_putp) json_object *objects = NULL;
        json_object *rows = json_object_new_array();
        int r = call_objects(c, VSS_IFACE_WRITER_ENTRY, &objects);
        for (size_t i = 0; r >= 0 && i < json_object_array_length(objects); i++) {
                json_object *object = json_object_array_get_idx(objects, i);
                if (!is_meant(object, reference))
                        continue;
                json_object *row = describe_writer(object);
                json_object_object_add(row, "metadata", fetch_metadata(c, object));
                json_object_array_add(rows, row);
        }
        if (r >= 0 && json_object_array_length(rows) == 0)
                r = context_fail(c, CONDITION_NOT_FOUND, "there is no writer \"%s\"; `vssctl writers` lists them",
                                 reference);
        if (r < 0) {
                json_object_put(rows);
                return r;
        }
        c->document = document_new();
        json_object_object_add(c->document, "writers", rows);
        if (!output_people(c))
                return 0;
        output_begin(c);
        for (size_t i = 0; i < json_object_array_length(rows); i++) {
                if (i > 0)
                        output_line(c, "%s", "");
                output_tree(c, json_object_array_get_idx(rows, i));
        }
        return 0;
}

static const char *check_reference(const char *value) {
        return check_writer(value) ? "must be NAME or NAME@INSTANCE" : NULL;
}

static int writers_run(Context *c) {
        if (c->n_operands > 0)
                return writers_named(c, c->operands[0]);
        int r = list_fetch(c, VSS_IFACE_WRITER_ENTRY, "writers", describe_writer);
        return r < 0 ? r : list_print(c, "writers", columns, "No writer is registered.");
}

const Verb verb_writers = {
        .name = "writers",
        .operands = "[NAME]",
        .summary = "list writers with state and last error; one of them with all it said about its data",
        .max_operands = 1,
        .operand_check = check_reference,
        .examples = "  vssctl writers\n"
                    "  vssctl writers postgresql@15-main\n",
        .run = writers_run,
};
