/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/verbs.h"

static int cancel_run(Context *c) {
        _cleanup_(json_object_putp) json_object *objects = NULL;
        json_object *object = NULL;
        int r = call_objects(c, VSS_IFACE_SET, &objects);
        if (r >= 0)
                r = resolve(c, objects, c->operands[0], VSS_IFACE_SET, &object);
        if (r >= 0)
                r = call_method(c, member_text(object, "object"), VSS_IFACE_SET, "Cancel", NULL, "a{sv}", 1, "dry_run",
                                "b", (int) c->dry_run);
        if (r < 0)
                return r;
        c->document = document_new();
        json_object_object_add(c->document, "set", json_object_new_string(member_text(object, "id")));
        return 0;
}

const Verb verb_cancel = {
        .name = "cancel",
        .operands = "SET",
        .summary = "stop a set that is being made, as long as nothing is committed",
        .min_operands = 1,
        .max_operands = 1,
        .operand_check = check_id,
        .changes = true,
        .examples = "  vssctl cancel 3f0c9a52\n",
        .run = cancel_run,
};
