/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/verb-lists.h"

static const Column columns[] = {
        { "SET", "id", FORMAT_TEXT },
        { "CREATED", "created", FORMAT_TIME },
        { "STATE", "state", FORMAT_STATE },
        { "LEVEL", "consistency", FORMAT_STATE },
        { "SNAPSHOTS", "snapshots", FORMAT_COUNT },
        { "VOLUMES", "volumes", FORMAT_LIST },
        { "ERROR", "error.message", FORMAT_TEXT },
        {},
};

static int sets_run(Context *c) {
        int r = list_fetch(c, VSS_IFACE_SET, "sets", describe_set);
        return r < 0 ? r : list_print(c, "sets", columns, "There is no set.");
}

const Verb verb_sets = {
        .name = "sets",
        .summary = "list snapshot sets, failed ones too",
        .examples = "  vssctl sets\n"
                    "  vssctl --json sets | jq -r '.sets[] | select(.state == \"aborted\") | .id'\n",
        .run = sets_run,
};
