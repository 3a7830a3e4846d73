/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/adopt.h"
#include "protocol/text.h"
#include <json-c/json.h>
#include <stdio.h>
#include <syslog.h>

typedef struct Adoption {
        const char *provider, *label;
        const struct vss_wire_reply *found;
        size_t n;
} Adoption;

static json_object *text(const char *s) {
        return json_object_new_string(s);
}

/* A record as vssd itself would have written it, as far as the copy says anything about its set. */
static json_object *describe(const Adoption *a, const struct vss_wire_reply *item) {
        char started[40];
        json_object *o = json_object_new_object(), *record = json_object_new_object(),
                    *private = json_object_new_object(), *snapshots = json_object_new_array(),
                    *writers = json_object_new_array();
        (void) format_timestamp(item->created_at, started, sizeof(started));
        json_object_object_add(record, "schema", json_object_new_int(1));
        json_object_object_add(record, "kind", text("set-record"));
        json_object_object_add(record, "set", text(item->set));
        json_object_object_add(record, "state", text("completed"));
        json_object_object_add(record, "consistency", text("crash"));
        json_object_object_add(record, "started", text(started));
        json_object_object_add(record, "writers", writers);
        if (a->label) {
                json_object *options = json_object_new_object(), *labels = json_object_new_array();
                json_object_array_add(labels, text(a->label));
                json_object_object_add(options, "labels", labels);
                json_object_object_add(record, "options", options);
        }
        json_object_object_add(private, "session", text("ended"));
        json_object_object_add(private, "created_at_usec", json_object_new_uint64(item->created_at));
        json_object_object_add(private, "completed_at_usec", json_object_new_uint64(item->created_at));
        for (size_t i = 0; i < a->n; i++) {
                const struct vss_wire_reply *f = &a->found[i];
                if (!streq(f->set, item->set))
                        continue;
                json_object *s = json_object_new_object();
                json_object_object_add(s, "id", text(f->id));
                json_object_object_add(s, "volume", text(f->volume));
                json_object_object_add(s, "name", text(f->volume));
                json_object_object_add(s, "provider", text(a->provider));
                json_object_object_add(s, "device", f->device[0] ? text(f->device) : NULL);
                json_object_object_add(s, "path", f->path[0] ? text(f->path) : NULL);
                json_object_object_add(s, "token", f->token[0] ? text(f->token) : NULL);
                json_object_object_add(s, "size", json_object_new_uint64(f->size_bytes));
                json_object_array_add(snapshots, s);
        }
        json_object_object_add(private, "snapshots", snapshots);
        json_object_object_add(o, "record", record);
        json_object_object_add(o, "private", private);
        return o;
}

static void announce(Manager *m, Set *s, const char *id) {
        Snapshot *snapshot = manager_find_snapshot(m, id);
        if (!m->ready || !snapshot) /* before that nobody has seen anything */
                return;
        manager_set_added(m, s);
        manager_snapshot_added(m, snapshot);
}

void adopt_copies(Manager *m, const char *provider, const struct vss_wire_reply *found, size_t n, const char *label) {
        const Adoption a = { .provider = provider, .label = label, .found = found, .n = n };
        for (size_t i = 0; i < n; i++) {
                const struct vss_wire_reply *item = &found[i];
                if (manager_find_snapshot(m, item->id))
                        continue; /* with an earlier one of the same set */
                /* known without this copy: vssd ended between the last mark and the record, or another provider has the
                 * rest */
                Set *s = manager_find_set(m, item->set);
                json_object *o = describe(&a, item);
                int r = s ? set_take_in(s, o) :
                            set_load(m, item->set, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), &s);
                (void) json_object_put(o);
                if (r < 0) {
                        manager_log(m, LOG_WARNING, NULL, "copy %s of provider %s cannot be taken in: %s", item->id,
                                    provider, strerror(-r));
                        continue;
                }
                manager_log(m, LOG_NOTICE, s->id,
                            "%s: the catalogue did not know this copy of provider %s, it is taken in again",
                            item->volume, provider);
                announce(m, s, item->id);
                set_store(s);
        }
}
