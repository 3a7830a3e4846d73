/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * complete: tells the writers whether the data is safe, per component where asked. After this they may truncate logs,
 * so what is not named with --component counts as not saved.
 */
#include "client/verbs.h"

static const Option complete_options[] = {
        { "failed", 0, NULL, true, NULL, "the backup failed (with --component: of these, the others are fine)" },
        { "component", 0, "WRITER:PATH", true, check_component, "only these were saved" },
        { "manifest", 0, "FILE", false, check_any, "write the manifest again, with the outcome" },
        {},
};

static int append_components(Context *c, sd_bus_message *m, bool succeeded) {
        const char *value;
        int r = sd_bus_message_open_container(m, 'a', "(ssa{sv})");
        for (size_t i = 0; r >= 0 && (value = given_next(c, "component", &i));) {
                const char *colon = writer_reference_end(value);
                assert(colon); /* check_component() */
                _cleanup_free_ char *writer = strndup(value, (size_t) (colon - value));
                r = sd_bus_message_append(m, "(ssa{sv})", writer ? writer : "", colon + 1, 1, "succeeded", "b",
                                          (int) succeeded);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int complete_call(Context *c, const char *object, json_object **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        bool failed = given_flag(c, "failed"), some = given_flag(c, "component");
        int r = requester_new_call(c->requester, object, VSS_IFACE_SET, "Complete", &m);
        if (r >= 0)
                r = sd_bus_message_append(m, "b", (int) (failed == some));
        if (r >= 0)
                r = append_components(c, m, !failed);
        if (r >= 0)
                r = sd_bus_message_append(m, "a{sv}", 1, "dry_run", "b", (int) c->dry_run);
        if (requester_check(c->requester, r) < 0 ||
            requester_call(c->requester, m, c->requester->long_usec, &reply) < 0 ||
            requester_check(c->requester, bus_to_json(reply, ret)) < 0)
                return context_fail_requester(c);
        return 0;
}

static int write_manifest(Context *c, const char *id) {
        _cleanup_(set_handle_freep) struct vss_set *s = NULL;
        if (c->dry_run || !given_value(c, "manifest"))
                return 0;
        return vss_set_open(c->requester, id, &s) < 0 ? context_fail_requester(c) : make_set_manifest(c, s);
}

static int complete_run(Context *c) {
        _cleanup_(json_object_putp) json_object *objects = NULL, *answer = NULL;
        json_object *object = NULL, *rows = NULL;
        int r = call_objects(c, VSS_IFACE_SET, &objects);
        if (r >= 0)
                r = resolve(c, objects, c->operands[0], VSS_IFACE_SET, &object);
        if (r >= 0)
                r = complete_call(c, member_text(object, "object"), &answer);
        if (r < 0)
                return r;
        r = call_results(c, json_object_array_get_idx(answer, 0), "writer", &rows);
        c->document = document_new();
        json_object_object_add(c->document, "set", json_object_new_string(member_text(object, "id")));
        json_object_object_add(c->document, "state",
                               json_object_new_string(c->dry_run ? member_text(object, "state") : "completed"));
        json_object_object_add(c->document, "results", rows);
        for (size_t i = 0; output_people(c) && i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                _cleanup_free_ char *why = text_visible(member_text(row, "error.message"));
                output_line(c, "%s: %s", member_text(row, "writer"), member(row, "error") ? why : "ok");
        }
        int k = write_manifest(c, member_text(object, "id"));
        return r < 0 ? r : k;
}

const Verb verb_complete = {
        .name = "complete",
        .operands = "SET",
        .summary = "tell the writers of a set that the backup is done, so that they may truncate their logs",
        .options = { complete_options },
        .min_operands = 1,
        .max_operands = 1,
        .operand_check = check_id,
        .changes = true,
        .examples = "  vssctl complete nightly --manifest=/backup/db.json\n"
                    "  vssctl complete 3f0c9a52 --failed\n",
        .run = complete_run,
};
