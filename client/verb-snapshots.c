/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * snapshots: all copies, or those of one volume, named in any way that create takes.
 */
#include "client/verb-lists.h"

static const Option snapshots_options[] = {
        { "volume", 0, "VOLUME", false, check_volume, "only those of this volume" },
        {},
};
static const Column columns[] = {
        { "SNAPSHOT", "id", FORMAT_TEXT },
        { "SET", "set", FORMAT_TEXT },
        { "CREATED", "created", FORMAT_TIME },
        { "VOLUME", "volume", FORMAT_TEXT },
        { "PROVIDER", "provider", FORMAT_TEXT },
        { "LEVEL", "consistency", FORMAT_STATE },
        { "SIZE", "size", FORMAT_SIZE },
        { "MOUNTED ON", "mounts", FORMAT_LIST },
        {},
};

static int keep_volume(Context *c, const char *argument) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        _cleanup_free_ char *volume = NULL;
        if (volume_to_bus(argument, &volume) < 0)
                return context_fail(c, CONDITION_FAILED, "cannot find out the current directory: %s", strerror(errno));
        int r = call_method(c, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "LookupVolume", &answer, "sa{sv}", volume, 0);
        if (r < 0)
                return r;
        const char *name = json_object_get_string(json_object_array_get_idx(answer, 0));
        json_object *rows = member(c->document, "snapshots"), *kept = json_object_new_array();
        for (size_t i = 0; i < json_object_array_length(rows); i++)
                if (streq(member_text(json_object_array_get_idx(rows, i), "mountpoint"), name))
                        json_object_array_add(kept, json_object_get(json_object_array_get_idx(rows, i)));
        json_object_object_add(c->document, "snapshots", kept);
        return 0;
}

static int snapshots_run(Context *c) {
        int r = list_fetch(c, VSS_IFACE_SNAPSHOT, "snapshots", describe_snapshot);
        if (r >= 0 && given_value(c, "volume"))
                r = keep_volume(c, given_value(c, "volume"));
        if (r >= 0)
                return list_print(c, "snapshots", columns, "There is no snapshot.");
        json_object_put(TAKE_PTR(c->document));
        return r;
}

const Verb verb_snapshots = {
        .name = "snapshots",
        .summary = "list snapshots",
        .options = { snapshots_options },
        .examples = "  vssctl snapshots\n"
                    "  vssctl snapshots --volume=/srv/db\n",
        .run = snapshots_run,
};
