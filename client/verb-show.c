/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * show: everything about one set, snapshot, writer or volume.
 */
#include "client/verbs.h"

static const char *const all_interfaces = VSS_IFACE_SET " " VSS_IFACE_SNAPSHOT " " VSS_IFACE_WRITER_ENTRY
                                                        " " VSS_IFACE_VOLUME;

static json_object *document_of(json_object *own) {
        json_object *d = document_new();
        json_object_object_foreach(own, key, value) json_object_object_add(d, key, json_object_get(value));
        json_object_put(own);
        return d;
}

/* The set's record knows the volume as it was named then. */
static int show_snapshot(Context *c, json_object *objects, json_object *object) {
        json_object *own = describe_snapshot(object), *set = NULL, *full = NULL;
        Context silent = *c;
        if (resolve(&silent, objects, member_text(own, "set"), VSS_IFACE_SET, &set) >= 0 &&
            describe_set_full(&silent, member_text(set, "object"), false, &full) >= 0) {
                json_object *rows = member(full, "snapshots");
                for (size_t i = 0; rows && i < json_object_array_length(rows); i++) {
                        json_object *row = json_object_array_get_idx(rows, i);
                        if (streq(member_text(row, "id"), member_text(own, "id"))) {
                                json_object_put(own);
                                own = json_object_get(row);
                                break;
                        }
                }
        }
        json_object_put(full);
        c->document = document_of(own);
        return 0;
}

static int show_writer(Context *c, json_object *object) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        Context silent = *c;
        c->document = document_of(describe_writer(object));
        if (call_method(&silent, member_text(object, "object"), VSS_IFACE_WRITER_ENTRY, "GetMetadata", &answer, "a{sv}",
                        0) >= 0)
                json_object_object_add(c->document, "metadata",
                                       json_tokener_parse(
                                               json_object_get_string(json_object_array_get_idx(answer, 0))));
        return 0;
}

static int show_object(Context *c, json_object *objects, json_object *object) {
        const char *interface = member_text(object, "interface");
        if (streq(interface, VSS_IFACE_SET))
                return describe_set_full(c, member_text(object, "object"), true, &c->document);
        if (streq(interface, VSS_IFACE_SNAPSHOT))
                return show_snapshot(c, objects, object);
        if (streq(interface, VSS_IFACE_WRITER_ENTRY))
                return show_writer(c, object);
        c->document = document_of(describe_volume(object));
        return 0;
}

/* A path that is no volume's own name may still lie on one, and a word may name an engine volume. */
static int lookup_volume(Context *c, json_object *objects, const char *argument, json_object **ret) {
        _cleanup_(json_object_putp) json_object *answer = NULL, *properties = NULL;
        _cleanup_free_ char *volume = NULL;
        Context silent = *c;
        if (volume_to_bus(argument, &volume) < 0 ||
            call_method(&silent, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "LookupVolume", &answer, "sa{sv}", volume, 0) < 0 ||
            call_properties(&silent, json_object_get_string(json_object_array_get_idx(answer, 1)), VSS_IFACE_VOLUME,
                            &properties) < 0)
                return -1;
        json_object_array_add(objects, json_object_get(properties));
        *ret = properties;
        return 0;
}

static int show_run(Context *c) {
        _cleanup_(json_object_putp) json_object *objects = NULL;
        json_object *object = NULL;
        int r = call_objects(c, NULL, &objects);
        if (r < 0)
                return r;
        r = resolve(c, objects, c->operands[0], all_interfaces, &object);
        if (r < 0 && lookup_volume(c, objects, c->operands[0], &object) < 0)
                return r;
        c->condition = CONDITION_NONE;
        r = show_object(c, objects, object);
        if (r < 0 || !output_people(c))
                return r;
        output_begin(c);
        json_object_object_del(c->document, "schema");
        json_object_object_del(c->document, "record"); /* `timeline` shows it to people */
        output_tree(c, c->document);
        return 0;
}

const Verb verb_show = {
        .name = "show",
        .operands = "ID",
        .summary = "show everything about a set, snapshot, writer or volume",
        .min_operands = 1,
        .max_operands = 1,
        .operand_check = check_id,
        .examples = "  vssctl show 3f0c9a52\n"
                    "  vssctl --json show nightly | jq .record.phases\n",
        .run = show_run,
};
