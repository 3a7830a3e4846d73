/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * umount: by id all mounts of a snapshot, by directory that one.
 */
#include "client/verbs.h"

static const Option umount_options[] = {
        { "force", 'f', NULL, true, NULL, "also while it is in use: it goes with its last user" },
        {},
};

static int find_mounted(Context *c, json_object *objects, const char *argument, json_object **ret, char **ret_path) {
        _cleanup_free_ char *absolute = realpath(argument, NULL), *path = NULL;
        if (path_to_bus(absolute ? absolute : argument, &path) < 0)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        for (size_t i = 0; i < json_object_array_length(objects); i++) {
                json_object *object = json_object_array_get_idx(objects, i);
                if (streq(member_text(object, "interface"), VSS_IFACE_SNAPSHOT) &&
                    snapshot_is_mounted_on(object, path)) {
                        *ret = object;
                        *ret_path = TAKE_PTR(path);
                        return 0;
                }
        }
        return context_fail(c, CONDITION_NOT_FOUND, "no snapshot is mounted on %s", argument);
}

static int umount_run(Context *c) {
        _cleanup_(json_object_putp) json_object *objects = NULL;
        _cleanup_free_ char *path = NULL;
        json_object *object = NULL;
        int r = call_objects(c, NULL, &objects);
        if (r >= 0)
                r = strchr(c->operands[0], '/') ? find_mounted(c, objects, c->operands[0], &object, &path) :
                                                  snapshot_resolve(c, objects, c->operands[0], &object);
        if (r >= 0)
                r = call_method(c, member_text(object, "object"), VSS_IFACE_SNAPSHOT, "Unmount", NULL, "sa{sv}",
                                path ? path : "", 2, "dry_run", "b", (int) c->dry_run, "force", "b",
                                (int) given_flag(c, "force"));
        if (r < 0)
                return r;
        c->document = document_new();
        json_object_object_add(c->document, "id", json_object_new_string(member_text(object, "id")));
        json_object_object_add(c->document, "path", path ? json_object_new_string(path) : NULL);
        return 0;
}

const Verb verb_umount = {
        .name = "umount",
        .operands = "ID|DIRECTORY",
        .summary = "unmount a snapshot that `vssctl mount` mounted",
        .options = { umount_options },
        .min_operands = 1,
        .max_operands = 1,
        .operand_check = check_any,
        .changes = true,
        .examples = "  vssctl umount 3f0c9a52\n"
                    "  vssctl umount /mnt/yesterday\n",
        .run = umount_run,
};
