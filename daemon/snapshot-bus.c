/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.vssd.Vss1.Snapshot: properties, mounting, opening, deleting. */
#include "daemon/call.h"
#include "daemon/manager-private.h"
#include "daemon/mounts.h"
#include "daemon/results-bus.h"
#include "daemon/revert-bus.h"
#include "daemon/revert.h"
#include "daemon/snapshot-bus.h"
#include "protocol/busutil.h"
#include "protocol/text.h"

static void options_free(void *p) {
        SnapshotCall *o = p;
        revert_free(o->revert);
        free(o->reason);
        free(o->text);
        free(o);
}

/* takes_text: one string stands before the options. */
int snapshot_call_new(Snapshot *s, sd_bus_message *m, bool takes_text, const BusOption *options, size_t n,
                      sd_bus_error *reterr, Call **ret) {
        Failure f = {};
        SnapshotCall *o = calloc(1, sizeof(*o));
        if (!o)
                return -ENOMEM;
        o->exec = o->safety_snapshot = true;
        int r = takes_text ? bus_read_field(m, "s", &o->text, &f) : 0;
        if (r >= 0)
                r = bus_read_options(m, options, n, o, NULL, &f);
        r = r < 0 ? bus_error_set(reterr, &f) : call_new(s->set->manager, m, reterr, ret);
        if (r < 0) {
                options_free(o);
                return r;
        }
        (*ret)->state = o;
        (*ret)->state_free = options_free;
        memcpy((*ret)->id, s->id, sizeof(s->id));
        return 0;
}

/* SetDone of one snapshot: no results, so its own failure is the call's. */
static void on_deleted(const Failure *failure, const SetResult *results, size_t n, void *userdata) {
        Call *c = userdata;
        c->held = false;
        if (failure && failure->condition != CONDITION_NONE)
                call_fail(c, failure);
        else if (n > 0 && results[0].failure.condition != CONDITION_NONE)
                call_fail(c, &results[0].failure);
        else
                call_reply(c, "");
}

static void delete_now(Call *c) {
        const SnapshotCall *o = c->state;
        Failure f = {};
        Snapshot *s = call_snapshot(c);
        if (!s)
                return;
        if (o->dry_run)
                call_reply(c, "");
        else if (call_hold(c), snapshot_delete(s, o->force, on_deleted, c, &f) < 0)
                call_fail(c, &f);
}

static void delete_step(Call *c) {
        call_when_quiet(c, delete_now);
}

static int method_delete(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        static const BusOption options[] = {
                BUS_OPTIONS_COMMON(SnapshotCall),
                { "force", "b", offsetof(SnapshotCall, force), NULL },
        };
        Snapshot *s = userdata;
        Call *c;
        const char *const details[] = { "snapshot", s->id, "set", s->set->id, "volumes", s->name ? s->name : "", NULL };
        int r = snapshot_call_new(s, m, false, options, ELEMENTSOF(options), reterr, &c);
        if (r < 0)
                return r;
        if (s->set->options.lifetime == LIFETIME_AUTO_RELEASE)
                call_authorise_own(c, s->set, VSS_ACTION_DELETE, details, delete_step);
        else
                call_authorise(c, VSS_ACTION_DELETE, details, delete_step);
        return 1;
}

static const char *text_or_empty(const char *s) {
        return s ? s : "";
}

static int append_volume_path(sd_bus_message *m, const Snapshot *s) {
        _cleanup_free_ char *path = NULL;
        int r = bus_path_encode(VSS_PATH_VOLUMES, text_or_empty(s->name), &path);
        return r < 0 ? r : sd_bus_message_append(m, "o", path);
}

static int append_state(sd_bus_message *m, const Snapshot *s) {
        const char *state = s->damaged                             ? "damaged" :
                            reverts_are_at(s->set->manager, s->id) ? "reverting" :
                            s->set->state == SET_DELETING          ? "deleting" :
                            s->set->state == SET_RUNNING           ? "recovering" :
                                                                     "available";
        return sd_bus_message_append(m, "s", state);
}

static int get_text(sd_bus_message *m, const char *property, const Snapshot *s) {
        const struct {
                const char *name, *value;
        } table[] = {
                { "Id", s->id },
                { "VolumeName", s->name },
                { "Provider", s->provider },
                { "ChangeToken", s->token },
                { "Consistency", consistency_to_string(s->consistency) },
                { "Device", s->device },
                { "Path", s->path },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(property, table[i].name))
                        return sd_bus_message_append(m, "s", text_or_empty(table[i].value));
        return -ENOENT;
}

static int get_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        const Snapshot *s = userdata;
        if (streq(property, "Set"))
                return sd_bus_message_append(reply, "o", s->set->path);
        if (streq(property, "Volume"))
                return append_volume_path(reply, s);
        if (streq(property, "CreatedAt"))
                return sd_bus_message_append(reply, "t", s->created_at_usec);
        if (streq(property, "SizeBytes"))
                return sd_bus_message_append(reply, "t", s->size_bytes);
        if (streq(property, "State"))
                return append_state(reply, s);
        if (streq(property, "Pinned"))
                return sd_bus_message_append(reply, "b", (int) s->pinned);
        if (streq(property, "Mounts"))
                return strings_append_to_message(reply, s->mounts);
        return get_text(reply, property, s);
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Mount", SD_BUS_ARGS("s", directory, "a{sv}", options), SD_BUS_RESULT("s", path),
                                method_mount, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Unmount", SD_BUS_ARGS("s", path, "a{sv}", options), SD_BUS_NO_RESULT, method_unmount,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Open", SD_BUS_ARGS("s", what, "a{sv}", options), SD_BUS_RESULT("h", fd), method_open,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Delete", SD_BUS_ARGS("a{sv}", options), SD_BUS_NO_RESULT, method_delete,
                                SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Revert", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("o", volume, "a{sv}", details),
                                method_revert, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Id", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Set", "o", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Volume", "o", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("VolumeName", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Provider", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("CreatedAt", "t", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("SizeBytes", "t", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("ChangeToken", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Consistency", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("State", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Device", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Path", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Mounts", "as", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Pinned", "b", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_VTABLE_END,
};

static int find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret,
                sd_bus_error *reterr) {
        _cleanup_free_ char *id = NULL;
        Snapshot *s = bus_path_decode(VSS_PATH_SNAPSHOTS, path, &id) > 0 ? manager_find_snapshot(userdata, id) : NULL;
        if (!s || !s->available)
                return 0;
        *ret = s;
        return 1;
}

static int enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***ret, sd_bus_error *reterr) {
        _cleanup_(strings_freep) char **paths = NULL;
        Manager *m = userdata;
        Snapshot *snapshot;
        Set *s;
        TAILQ_FOREACH(s, &m->sets, entries)
                LIST_FOREACH(snapshot, &s->snapshots, entries) {
                        _cleanup_free_ char *path = NULL;
                        int r = !snapshot->available ? 0 : bus_path_encode(VSS_PATH_SNAPSHOTS, snapshot->id, &path);
                        if (r >= 0 && path)
                                r = strings_append(&paths, path);
                        if (r < 0)
                                return r;
                }
        *ret = TAKE_PTR(paths);
        return 0;
}

int snapshot_bus_attach(Manager *m) {
        int r = sd_bus_add_fallback_vtable(m->bus, NULL, VSS_PATH_SNAPSHOTS, VSS_IFACE_SNAPSHOT, vtable, find, m);
        return r < 0 ? r : sd_bus_add_node_enumerator(m->bus, NULL, VSS_PATH_SNAPSHOTS, enumerate, m);
}
