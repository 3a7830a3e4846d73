/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * delete: goes on after an error, reports all, ends with the first error's code.
 */
#include "client/verbs.h"

static const Option delete_options[] = {
        { "volume", 0, "VOLUME", false, check_volume, "snapshots of this volume" },
        { "oldest", 0, NULL, true, NULL, "the oldest one of it" },
        { "all", 0, NULL, true, NULL, "all of it" },
        { "force", 'f', NULL, true, NULL, "also what is mounted, exported or still being read" },
        {},
};

static int delete_check(Context *c) {
        bool volume = given_flag(c, "volume"), oldest = given_flag(c, "oldest"), all = given_flag(c, "all");
        if (volume && c->n_operands > 0)
                return context_usage(c, "takes either ids or --volume=");
        if (!volume && c->n_operands == 0)
                return context_usage(c, "needs an ID or --volume=");
        if (!volume && (oldest || all))
                return context_usage(c, "--oldest and --all need --volume=");
        if (volume && oldest == all)
                return context_usage(c, "--volume= needs one of --oldest and --all");
        return 0;
}

static int delete_object(Context *c, json_object *object, json_object *row) {
        _cleanup_(json_object_putp) json_object *answer = NULL, *parts = NULL;
        bool set = streq(member_text(object, "interface"), VSS_IFACE_SET);
        json_object_object_add(row, "id", json_object_new_string(member_text(object, "id")));
        int r = given_flag(c, "force") ?
                        call_method(c, member_text(object, "object"), member_text(object, "interface"), "Delete",
                                    &answer, "a{sv}", 2, "dry_run", "b", (int) c->dry_run, "force", "b", 1) :
                        call_method(c, member_text(object, "object"), member_text(object, "interface"), "Delete",
                                    &answer, "a{sv}", 1, "dry_run", "b", (int) c->dry_run);
        if (r >= 0 && set)
                r = call_results(c, json_object_array_get_idx(answer, 0), "writer", &parts);
        return r;
}

static int delete_ids(Context *c, json_object *rows) {
        _cleanup_(json_object_putp) json_object *objects = NULL;
        First first = {};
        unsigned n_failed = 0;
        int r = call_objects(c, NULL, &objects);
        for (size_t i = 0; r >= 0 && i < c->n_operands; i++) {
                json_object *object = NULL, *row = json_object_new_object();
                int k = resolve(c, objects, c->operands[i], VSS_IFACE_SET " " VSS_IFACE_SNAPSHOT, &object);
                if (k < 0)
                        json_object_object_add(row, "id", json_object_new_string(c->operands[i]));
                else
                        k = delete_object(c, object, row);
                json_object_object_add(row, "error",
                                       k < 0 ? describe_error(c->error_name, c->error_message, c->retryable) : NULL);
                json_object_array_add(rows, row);
                if (k >= 0)
                        continue;
                n_failed++;
                first_keep(&first, c);
                if (c->condition == CONDITION_UNAVAILABLE)
                        break;
        }
        return r < 0 ? r : first_restore(&first, c, n_failed);
}

/* What copies of an engine volume are called after, while it is attached; else the name itself may be it. */
static int name_engine_volume(Context *c, char **volume) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        Context silent = *c;
        if (call_method(&silent, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "LookupVolume", &answer, "sa{sv}", *volume, 0) < 0)
                return 0;
        char *name = strdup(json_object_get_string(json_object_array_get_idx(answer, 0)));
        if (!name)
                return context_fail(c, CONDITION_FAILED, "out of memory");
        free(*volume);
        *volume = name;
        return 0;
}

static int delete_volume(Context *c, json_object **rows) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        _cleanup_free_ char *volume = NULL;
        if (volume_to_bus(given_value(c, "volume"), &volume) < 0)
                return context_fail(c, CONDITION_FAILED, "cannot find out the current directory: %s", strerror(errno));
        if (!strchr(volume, '/') && name_engine_volume(c, &volume) < 0)
                return -ENOMEM;
        int r = call_method(c, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "DeleteSnapshots", &answer, "a{sv}a{sv}", 2, "volume",
                            "s", volume, given_flag(c, "oldest") ? "oldest" : "all", "b", 1, 2, "dry_run", "b",
                            (int) c->dry_run, "force", "b", (int) given_flag(c, "force"));
        return r < 0 ? r : call_results(c, json_object_array_get_idx(answer, 0), "id", rows);
}

static int delete_run(Context *c) {
        json_object *rows = json_object_new_array();
        int r;
        if (given_flag(c, "volume")) {
                json_object_put(TAKE_PTR(rows));
                r = delete_volume(c, &rows);
        } else
                r = delete_ids(c, rows);
        c->document = document_new();
        json_object_object_add(c->document, "dry_run", json_object_new_boolean(c->dry_run));
        json_object_object_add(c->document, "results", rows);
        for (size_t i = 0; rows && output_people(c) && i < json_object_array_length(rows); i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                _cleanup_free_ char *id = text_visible(member_text(row, "id")),
                                    *why = text_visible(member_text(row, "error.message"));
                if (member(row, "error"))
                        output_line(c, "%s not deleted: %s", id ? id : "", why ? why : "");
                else
                        output_line(c, "%s %s", id ? id : "", c->dry_run ? "would be deleted" : "deleted");
        }
        return r;
}

const Verb verb_delete = {
        .name = "delete",
        .operands = "ID...",
        .summary = "delete snapshots or whole sets",
        .options = { delete_options },
        .max_operands = UINT32_MAX,
        .operand_check = check_id,
        .changes = true,
        .examples = "  vssctl delete 3f0c9a52\n"
                    "  vssctl delete --volume=/srv/db --oldest\n",
        .check = delete_check,
        .run = delete_run,
};
