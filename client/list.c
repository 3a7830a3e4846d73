/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/verb-lists.h"

int list_fetch(Context *c, const char *interface, const char *key, json_object *(*describe)(json_object *) ) {
        _cleanup_(json_object_putp) json_object *objects = NULL;
        int r = call_objects(c, interface, &objects);
        if (r >= 0)
                c->document = describe_list(key, objects, describe);
        return r;
}

int list_print(Context *c, const char *key, const Column *columns, const char *empty) {
        json_object *rows = member(c->document, key);
        if (c->json)
                return 0;
        if (json_object_array_length(rows) == 0) {
                if (!c->quiet)
                        output_line(c, "%s", empty);
                return 0;
        }
        output_begin(c);
        output_table(c, rows, columns);
        return 0;
}
