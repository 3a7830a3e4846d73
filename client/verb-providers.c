/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/verb-lists.h"

static const Column columns[] = {
        { "PROVIDER", "name", FORMAT_TEXT },
        { "VERSION", "version", FORMAT_TEXT },
        { "KIND", "kind", FORMAT_TEXT },
        { "PRIORITY", "priority", FORMAT_TEXT },
        { "STATE", "state", FORMAT_STATE },
        { "CAPABILITIES", "capabilities", FORMAT_LIST },
        { "LAST ERROR", "error.message", FORMAT_TEXT },
        {},
};

static int providers_run(Context *c) {
        int r = list_fetch(c, VSS_IFACE_PROVIDER_ENTRY, "providers", describe_provider);
        return r < 0 ? r : list_print(c, "providers", columns, "There is no provider.");
}

const Verb verb_providers = {
        .name = "providers",
        .summary = "list what can make copies",
        .examples = "  vssctl providers\n",
        .run = providers_run,
};
