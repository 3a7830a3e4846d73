/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.vssd.Vss1.Manager: the vtable, its properties and Reload. */
#include "daemon/create-bus.h"
#include "daemon/engine-bus.h"
#include "daemon/manager-private.h"
#include "daemon/options-bus.h"
#include "daemon/restore.h"
#include "daemon/results-bus.h"
#include "daemon/volumes-bus.h"
#include "daemon/writer-bus.h"
#include "protocol/busutil.h"

/* One word for each thing a client may want to know before it asks for it. */
static char *const features[] = { (char *) "auto-recovery",
                                  (char *) "bound-mounts",
                                  (char *) "components",
                                  (char *) "declarative-writers",
                                  (char *) "engine-volumes",
                                  (char *) "plan",
                                  (char *) "restore",
                                  (char *) "revert",
                                  NULL };

typedef struct ReloadCall {
        bool dry_run;
        char *reason;
} ReloadCall;

static void reload_free(void *p) {
        ReloadCall *o = p;
        free(o->reason);
        free(o);
}

static void reload_step(Call *c) {
        const ReloadCall *o = c->state;
        Failure f = {};
        Settings copy = {};
        int r;
        if (o->dry_run) {
                r = settings_init(&copy);
                r = r < 0 ? failure_set(&f, CONDITION_FAILED, "settings cannot be read: %s", strerror(-r)) :
                            settings_load(&copy, &f);
                settings_done(&copy);
        } else
                r = manager_reload(c->manager, &f);
        if (r < 0) {
                call_fail(c, &f);
                return;
        }
        if (!o->dry_run)
                (void) sd_bus_emit_properties_changed(c->manager->bus, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "Defaults",
                                                      "Limits", NULL);
        call_reply(c, "");
}

static int method_reload(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        static const BusOption options[] = { BUS_OPTIONS_COMMON(ReloadCall) };
        Failure f = {};
        Call *c;
        ReloadCall *o = calloc(1, sizeof(*o));
        if (!o)
                return -ENOMEM;
        int r = bus_read_options(m, options, ELEMENTSOF(options), o, NULL, &f);
        r = r < 0 ? bus_error_set(reterr, &f) : call_new(userdata, m, reterr, &c);
        if (r < 0) {
                reload_free(o);
                return r;
        }
        c->state = o;
        c->state_free = reload_free;
        call_authorise(c, VSS_ACTION_MANAGE_STORAGE, NULL, reload_step);
        return 1;
}

static int append_running(sd_bus_message *m, const Manager *manager) {
        const Set *s;
        int r = sd_bus_message_open_container(m, 'a', "o");
        TAILQ_FOREACH(s, &manager->sets, entries)
                if (r >= 0 && (s->state == SET_QUEUED || s->state == SET_RUNNING))
                        r = sd_bus_message_append(m, "o", s->path);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int get_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        const Manager *m = userdata;
        if (streq(property, "Version"))
                return sd_bus_message_append(reply, "s", VSS_VERSION);
        if (streq(property, "Features"))
                return strings_append_to_message(reply, features);
        if (streq(property, "Defaults"))
                return defaults_append(reply, &m->settings.budgets);
        if (streq(property, "Limits"))
                return limits_append(reply, &m->settings);
        if (streq(property, "Authorization"))
                return sd_bus_message_append(reply, "s", authority_mode(m->authority));
        return append_running(reply, m);
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("CreateSet", SD_BUS_ARGS("a(sa{sv})", volumes, "a{sv}", options),
                                SD_BUS_RESULT("s", id, "o", set), method_create_set, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Plan", SD_BUS_ARGS("a(sa{sv})", volumes, "a{sv}", options), SD_BUS_RESULT("s", plan),
                                method_plan, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("RegisterWriter", SD_BUS_ARGS("s", name, "s", instance, "o", writer, "a{sv}", options),
                                SD_BUS_RESULT("o", entry, "h", lease), method_register_writer,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("UnregisterWriter", SD_BUS_ARGS("o", entry, "a{sv}", options), SD_BUS_NO_RESULT,
                                method_unregister_writer, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("LookupVolume", SD_BUS_ARGS("s", path, "a{sv}", options),
                                SD_BUS_RESULT("s", name, "o", volume), method_lookup_volume,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("LookupId", SD_BUS_ARGS("s", id, "a{sv}", options),
                                SD_BUS_RESULT("s", interface, "o", object), method_lookup_id,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("DeleteSnapshots", SD_BUS_ARGS("a{sv}", selector, "a{sv}", options),
                                SD_BUS_RESULT("a(sss)", results), method_delete_snapshots, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Prune", SD_BUS_ARGS("a{sv}", rules, "a{sv}", options),
                                SD_BUS_RESULT("a(sss)", results), method_prune, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("PreRestore", SD_BUS_ARGS("h", manifest, "a(ssa{sv})", components, "a{sv}", options),
                                SD_BUS_RESULT("s", session, "a(ssa{sv})", replies), method_pre_restore,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("PostRestore", SD_BUS_ARGS("s", session, "a(ssa{sv})", results, "a{sv}", options),
                                SD_BUS_RESULT("a(sss)", replies), method_post_restore, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("CreateVolume", SD_BUS_ARGS("s", name, "s", origin, "a{sv}", options),
                                SD_BUS_RESULT("s", device), method_create_volume, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("AttachVolume", SD_BUS_ARGS("s", name, "a{sv}", options), SD_BUS_RESULT("s", device),
                                method_attach_volume, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("DetachVolume", SD_BUS_ARGS("s", name, "a{sv}", options), SD_BUS_NO_RESULT,
                                method_detach_volume, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("RemoveVolume", SD_BUS_ARGS("s", name, "a{sv}", options), SD_BUS_NO_RESULT,
                                method_remove_volume, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("ListEngine", SD_BUS_ARGS("a{sv}", options),
                                SD_BUS_RESULT("aa{sv}", volumes, "aa{sv}", storage), method_list_engine,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Reload", SD_BUS_ARGS("a{sv}", options), SD_BUS_NO_RESULT, method_reload,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_SIGNAL_WITH_ARGS("SetEnded", SD_BUS_ARGS("o", set, "s", id, "s", state, "a{sv}", details), 0),
        SD_BUS_SIGNAL_WITH_ARGS("SnapshotDropped",
                                SD_BUS_ARGS("s", id, "s", set_id, "s", volume, "s", reason, "a{sv}", details), 0),
        SD_BUS_SIGNAL_WITH_ARGS("HoldForced", SD_BUS_ARGS("s", set_id, "as", volumes, "t", held_usec, "a{sv}", details),
                                0),
        SD_BUS_PROPERTY("Version", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Features", "as", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Defaults", "a{st}", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Limits", "a{st}", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Authorization", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("RunningSets", "ao", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_VTABLE_END,
};

int manager_bus_attach(Manager *m) {
        int r = sd_bus_add_object_vtable(m->bus, NULL, VSS_ROOT_PATH, VSS_IFACE_MANAGER, vtable, m);
        return r < 0 ? r : sd_bus_add_object_manager(m->bus, NULL, VSS_ROOT_PATH);
}
