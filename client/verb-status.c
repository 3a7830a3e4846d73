/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * status: the service at a glance. Starts it where activation can.
 */
#include "client/verbs.h"

enum { FAILURES_SHOWN = 5 };

static bool is_one_of(const char *word, const char *const *words) {
        for (; *words; words++)
                if (streq(*words, word))
                        return true;
        return false;
}

/* Objects of one interface that pick() takes, described. */
static json_object *pick(json_object *objects, const char *interface, bool (*wanted)(json_object *),
                         json_object *(*describe)(json_object *) ) {
        _cleanup_(json_object_putp) json_object *some = json_object_new_array(), *list = NULL;
        for (size_t i = 0; i < json_object_array_length(objects); i++) {
                json_object *object = json_object_array_get_idx(objects, i);
                if (streq(member_text(object, "interface"), interface) && wanted(object))
                        json_object_array_add(some, json_object_get(object));
        }
        list = describe_list("rows", some, describe);
        return json_object_get(member(list, "rows"));
}

static bool is_running(json_object *object) {
        static const char *const states[] = { "queued", "running", "aborting", "completing", "deleting", NULL };
        return is_one_of(member_text(object, "state"), states);
}

static bool is_aborted(json_object *object) {
        return streq(member_text(object, "state"), "aborted");
}

static bool is_kept(json_object *object) {
        static const char *const states[] = { "created", "completed", NULL };
        return is_one_of(member_text(object, "state"), states);
}

static bool has_failed(json_object *object) {
        return strncmp(member_text(object, "state"), "failed", 6) == 0;
}

static bool any(json_object *object) {
        return true;
}

static json_object *last_rows(json_object *rows, size_t n) {
        json_object *tail = json_object_new_array();
        size_t length = json_object_array_length(rows);
        for (size_t i = length - MIN_OF(n, length); i < length; i++)
                json_object_array_add(tail, json_object_get(json_object_array_get_idx(rows, i)));
        json_object_put(rows);
        return tail;
}

static json_object *describe_storage(json_object *object) {
        static const char *const keys[] = { "id",     "provider",  "path",       "state",          "fault",
                                            "policy", "max_bytes", "used_bytes", "allocated_bytes" };
        json_object *d = json_object_new_object();
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                json_object_object_add(d, keys[i], json_object_get(member(object, keys[i])));
        return d;
}

static void build(Context *c, json_object *manager, json_object *objects) {
        json_object *d = document_new();
        const char *const keys[] = { "version", "features", "authorization" };
        c->document = d;
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                json_object_object_add(d, keys[i], json_object_get(member(manager, keys[i])));
        json_object_object_add(d, "running", pick(objects, VSS_IFACE_SET, is_running, describe_set));
        json_object_object_add(d, "failures",
                               last_rows(pick(objects, VSS_IFACE_SET, is_aborted, describe_set), FAILURES_SHOWN));
        json_object_object_add(d, "failed_writers", pick(objects, VSS_IFACE_WRITER_ENTRY, has_failed, describe_writer));
        json_object_object_add(d, "failed_providers",
                               pick(objects, VSS_IFACE_PROVIDER_ENTRY, has_failed, describe_provider));
        json_object_object_add(d, "storage", pick(objects, VSS_BUS_NAME ".Storage", any, describe_storage));
        json_object *counts = json_object_new_object();
        const struct {
                const char *key, *interface;
                bool (*wanted)(json_object *);
        } counted[] = {
                { "sets", VSS_IFACE_SET, is_kept },         { "snapshots", VSS_IFACE_SNAPSHOT, any },
                { "writers", VSS_IFACE_WRITER_ENTRY, any }, { "providers", VSS_IFACE_PROVIDER_ENTRY, any },
                { "volumes", VSS_IFACE_VOLUME, any },
        };
        for (size_t i = 0; i < ELEMENTSOF(counted); i++) {
                int n = 0;
                for (size_t k = 0; k < json_object_array_length(objects); k++) {
                        json_object *object = json_object_array_get_idx(objects, k);
                        n += streq(member_text(object, "interface"), counted[i].interface) && counted[i].wanted(object);
                }
                json_object_object_add(counts, counted[i].key, json_object_new_int(n));
        }
        json_object_object_add(d, "counts", counts);
}

static void print_some(Context *c, const char *title, const char *key, const Column *columns) {
        json_object *rows = member(c->document, key);
        if (json_object_array_length(rows) == 0)
                return;
        output_line(c, "\n%s", title);
        output_table(c, rows, columns);
}

static void print(Context *c) {
        static const Column running[] = { { "SET", "id", FORMAT_TEXT },          { "STATE", "state", FORMAT_STATE },
                                          { "PHASE", "phase", FORMAT_TEXT },     { "OWNER", "requester", FORMAT_TEXT },
                                          { "VOLUMES", "volumes", FORMAT_LIST }, {} };
        static const Column failures[] = { { "SET", "id", FORMAT_TEXT },
                                           { "VOLUMES", "volumes", FORMAT_LIST },
                                           { "ERROR", "error.message", FORMAT_TEXT },
                                           {} };
        static const Column failed[] = { { "NAME", "name", FORMAT_TEXT },
                                         { "STATE", "state", FORMAT_STATE },
                                         { "LAST ERROR", "error.message", FORMAT_TEXT },
                                         {} };
        static const Column storage[] = {
                { "STORE", "path", FORMAT_TEXT },      { "STATE", "state", FORMAT_STATE },
                { "USED", "used_bytes", FORMAT_SIZE }, { "MAXIMUM", "max_bytes", FORMAT_SIZE },
                { "FAULT", "fault", FORMAT_TEXT },     {}
        };
        json_object *d = c->document;
        output_begin(c);
        output_line(c, "vssd %s is running; rights are decided by %s", member_text(d, "version"),
                    streq(member_text(d, "authorization"), "polkit") ? "polkit" : "user id (root only)");
        output_line(c, "%d sets with %d snapshots, %d volumes, %d writers, %d providers",
                    (int) member_number(d, "counts.sets"), (int) member_number(d, "counts.snapshots"),
                    (int) member_number(d, "counts.volumes"), (int) member_number(d, "counts.writers"),
                    (int) member_number(d, "counts.providers"));
        print_some(c, "Under way", "running", running);
        print_some(c, "Last failures", "failures", failures);
        print_some(c, "Writers that failed", "failed_writers", failed);
        print_some(c, "Providers that failed", "failed_providers", failed);
        print_some(c, "Storage", "storage", storage);
}

static int status_run(Context *c) {
        _cleanup_(json_object_putp) json_object *manager = NULL, *objects = NULL;
        int r = call_properties(c, VSS_ROOT_PATH, VSS_IFACE_MANAGER, &manager);
        if (r >= 0)
                r = call_objects(c, NULL, &objects);
        if (r < 0)
                return r;
        build(c, manager, objects);
        if (output_people(c))
                print(c);
        return 0;
}

const Verb verb_status = {
        .name = "status",
        .summary = "show the service at a glance: what runs, what failed, how full storage is",
        .examples = "  vssctl status\n"
                    "  vssctl --json status | jq .failures\n",
        .run = status_run,
};
