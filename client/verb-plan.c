/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * plan: what create would do with the same arguments, and the level it can reach.
 */
#include "client/verbs.h"

static int plan_run(Context *c) {
        int r = make_set_plan(c);
        if (r < 0)
                return r;
        if (output_people(c)) {
                json_object_object_del(c->document, "schema");
                output_begin(c);
                output_tree(c, c->document);
        }
        return 0;
}

const Verb verb_plan = {
        .name = "plan",
        .operands = "VOLUME...",
        .summary = "show which writers, components and volumes a set would take, and the level it can reach",
        .options = { set_options },
        .max_operands = UINT32_MAX,
        .operand_check = check_volume,
        .examples = "  vssctl plan /srv/db\n"
                    "  vssctl plan --component=postgresql@15-main:cluster\n",
        .check = make_set_check,
        .run = plan_run,
};
