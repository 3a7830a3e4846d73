/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * monitor: what happens, as it happens, one line or one JSON object each. It asks the service nothing but once, whether
 * it can be reached, so it never keeps it alive, and it goes on over restarts.
 */
#include "client/verbs.h"
#include <signal.h>

static const char *class_of(const char *path, char **ret_id) {
        static const struct {
                const char *class, *word;
        } classes[] = {
                { VSS_PATH_SETS, "set" },
                { VSS_PATH_SNAPSHOTS, "snapshot" },
                { VSS_PATH_PROVIDERS, "provider" },
                { VSS_PATH_VOLUMES, "volume" },
        };
        for (size_t i = 0; i < ELEMENTSOF(classes); i++)
                if (sd_bus_path_decode(path, classes[i].class, ret_id) > 0)
                        return classes[i].word;
        if (sd_bus_path_decode_many(path, VSS_PATH_WRITERS "/%/%", ret_id, NULL) > 0)
                return "writer";
        return streq(path, VSS_ROOT_PATH) ? "service" : "object";
}

/* kind: set, snapshot, writer …; details are what changed. Takes details. */
static void emit(Context *c, const char *event, const char *path, json_object *details) {
        _cleanup_(json_object_putp) json_object *d = document_new();
        _cleanup_free_ char *id = NULL;
        char at[64];
        const char *kind = class_of(path, &id);
        json_object_object_add(d, "time",
                               json_object_new_string(format_instant(clock_usec(CLOCK_REALTIME), at, sizeof(at))));
        json_object_object_add(d, "event", json_object_new_string(event));
        json_object_object_add(d, "kind", json_object_new_string(kind));
        json_object_object_add(d, "id", id ? json_object_new_string(id) : NULL);
        json_object_object_add(d, "details", details);
        if (c->json)
                (void) puts(json_object_to_json_string_ext(d, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        else {
                _cleanup_free_ char *text = text_visible(
                        details ? json_object_to_json_string_ext(details, JSON_C_TO_STRING_NOSLASHESCAPE) : "");
                _cleanup_free_ char *name = text_visible(id ? id : "");
                (void) printf("%.11s%.12s %s %s%s%s %s\n", at, at + 11, event, kind, id ? " " : "", name ? name : "",
                              text ? text : "");
        }
        (void) fflush(stdout);
}

static json_object *to_keys(json_object *members) {
        json_object *object = json_object_new_object();
        json_object_object_foreach(members, name, value) {
                char key[128];
                member_to_key(name, key, sizeof(key));
                json_object_object_add(object, key, json_object_get(value));
        }
        return object;
}

/* (interface s, changed a{sv}, invalidated as) */
static void on_changed(Context *c, sd_bus_message *m, json_object *arguments) {
        json_object *changed = json_object_array_get_idx(arguments, 1);
        if (changed && json_object_is_type(changed, json_type_object))
                emit(c, "changed", sd_bus_message_get_path(m), to_keys(changed));
}

/* (object o, interfaces …) */
static void on_object(Context *c, const char *event, json_object *arguments) {
        const char *path = json_object_get_string(json_object_array_get_idx(arguments, 0));
        if (path)
                emit(c, event, path, NULL);
}

/* Signals of our own: the arguments as they are. */
static void on_own(Context *c, sd_bus_message *m, json_object *arguments) {
        char event[128];
        member_to_key(sd_bus_message_get_member(m), event, sizeof(event));
        for (char *p = event; *p; p++)
                *p = *p == '_' ? '-' : *p;
        emit(c, event, sd_bus_message_get_path(m), json_object_get(arguments));
}

static int on_signal(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Context *c = userdata;
        _cleanup_(json_object_putp) json_object *arguments = NULL;
        const char *interface = sd_bus_message_get_interface(m), *name = sd_bus_message_get_member(m);
        if (!interface || !name || bus_to_json(m, &arguments) < 0)
                return 0;
        if (streq(name, "PropertiesChanged"))
                on_changed(c, m, arguments);
        else if (streq(name, "InterfacesAdded"))
                on_object(c, "added", arguments);
        else if (streq(name, "InterfacesRemoved"))
                on_object(c, "removed", arguments);
        else if (streq(name, "NameOwnerChanged"))
                emit(c,
                     isempty(json_object_get_string(json_object_array_get_idx(arguments, 2))) ? "stopped" : "started",
                     VSS_ROOT_PATH, NULL);
        else if (strncmp(interface, VSS_BUS_NAME, strlen(VSS_BUS_NAME)) == 0)
                on_own(c, m, arguments);
        return 0;
}

static int subscribe(Context *c) {
        static const char *const matches[] = {
                "type='signal',sender='" VSS_BUS_NAME "',path_namespace='" VSS_ROOT_PATH "'",
                "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='" VSS_BUS_NAME "'",
        };
        for (size_t i = 0; i < ELEMENTSOF(matches); i++) {
                int r = sd_bus_add_match(c->requester->bus, NULL, matches[i], on_signal, c);
                if (r < 0 && requester_check(c->requester, r) < 0)
                        return context_fail_requester(c);
        }
        return 0;
}

static int monitor_run(Context *c) {
        uint64_t timeout_usec = c->timeout_usec;
        c->timeout_usec = USEC_INFINITY; /* of the monitoring, not of calls */
        int r = context_connect(c);
        if (r >= 0)
                r = subscribe(c);
        if (r >= 0)
                r = call_method(c, VSS_ROOT_PATH, "org.freedesktop.DBus.Peer", "Ping", NULL, "");
        if (r < 0)
                return r;
        uint64_t deadline_usec = usec_add(now_usec(), timeout_usec);
        interrupts_catch();
        c->printed = true; /* one object per line, and nothing at the end */
        while (!interrupted && now_usec() < deadline_usec && !ferror(stdout)) {
                r = sd_bus_process(c->requester->bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(c->requester->bus, deadline_usec == USEC_INFINITY ?
                                                                   UINT64_MAX :
                                                                   deadline_usec - MIN_OF(now_usec(), deadline_usec));
                if (r < 0 && r != -EINTR)
                        return context_fail(c, CONDITION_UNAVAILABLE, "the connection to the bus was lost: %s",
                                            strerror(-r));
        }
        return 0;
}

const Verb verb_monitor = {
        .name = "monitor",
        .summary = "print what happens as it happens, until a signal or for --timeout= seconds",
        .examples = "  vssctl monitor\n"
                    "  vssctl --json monitor | jq -c 'select(.kind == \"set\") | .details'\n",
        .run = monitor_run,
};
