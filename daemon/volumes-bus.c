/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.vssd.Vss1.Volume, Manager.LookupVolume, and the list made anew before the ObjectManager answers from it. */
#include "daemon/volumes-bus.h"
#include "daemon/manager-private.h"
#include "daemon/results-bus.h"
#include "daemon/revert-bus.h"
#include "daemon/revert.h"
#include "daemon/volumes.h"
#include "protocol/busutil.h"
#include "protocol/text.h"

typedef struct Lookup {
        char *path;
} Lookup;

static void lookup_free(void *p) {
        Lookup *l = p;
        free(l->path);
        free(l);
}

static void on_looked_up(ProbeResult **result, const Failure *failure, void *userdata) {
        Call *c = userdata;
        VolumeEntry *e;
        c->probe = probe_free(c->probe);
        if (failure) {
                call_fail(c, failure);
                return;
        }
        const ProbeResult *found = *result;
        if (found->n_paths < 1 || found->path_volume[0] < 0) {
                call_fail(c, &found->path_failure[0]);
                return;
        }
        Volume **volume = &(*result)->volumes[found->path_volume[0]];
        if ((*volume)->why_not)
                call_failf(c, CONDITION_NOT_SUPPORTED, "%s: %s", (*volume)->name, (*volume)->why_not);
        else if (volumes_keep(c->manager->volumes, volume, &e) < 0)
                call_failf(c, CONDITION_LIMIT_REACHED, "too many volumes are known already");
        else
                call_reply(c, "so", e->volume->name, e->path);
}

static void lookup_identified(Call *c) {
        const Lookup *l = c->state;
        const ProbePath path = { .path = l->path, .is_argument = true };
        int r = probe_new(c->manager->event, &path, 1, 0, c->caller.uid, on_looked_up, c, &c->probe);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "%s cannot be looked at: %s", l->path, strerror(-r));
}

int method_lookup_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Failure f = {};
        Call *c;
        Lookup *l = calloc(1, sizeof(*l));
        if (!l)
                return -ENOMEM;
        int r = bus_read_field(m, "s", &l->path, &f);
        if (r >= 0)
                r = bus_read_options(m, NULL, 0, l, NULL, &f);
        /* without any slash it is the name of an engine volume */
        if (r >= 0 && ((l->path[0] != '/' && strchr(l->path, '/')) || strlen(l->path) >= LIMIT_PATH_BYTES))
                r = failure_set(&f, CONDITION_INVALID_ARGUMENT, "path: an absolute path below %d bytes is needed",
                                LIMIT_PATH_BYTES);
        if (r < 0)
                r = f.condition != CONDITION_NONE ? bus_error_set(reterr, &f) : r;
        else
                r = call_new(userdata, m, reterr, &c);
        if (r < 0) {
                lookup_free(l);
                return r;
        }
        c->state = l;
        c->state_free = lookup_free;
        call_authorise(c, VSS_ACTION_INSPECT, (const char *const[]) { "volumes", l->path, NULL }, lookup_identified);
        return 1;
}

/* The question goes on as if it had come only now. */
static void on_refreshed(void *userdata) {
        Call *c = userdata;
        c->state_free = NULL;
        c->answered = sd_bus_enqueue_for_read(c->manager->bus, c->message) >= 0;
        call_free(c);
}

static void forget_refresh(void *p) {
        Call *c = p;
        volumes_forget(c->manager->volumes, c);
}

/* sd-bus answers GetManagedObjects by itself, at once and from what it finds: so it has to find what is true now. */
static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Manager *manager = userdata;
        Call *c;
        if (sd_bus_message_is_method_call(m, NULL, NULL) <= 0)
                return 0;
        manager->active_at_usec = now_usec();
        /* only a call that will be answered: whatever else it may carry would be kept for as long as looking takes */
        if (sd_bus_message_is_method_call(m, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects") <= 0 ||
            !sd_bus_message_has_signature(m, "") || !streq_null(sd_bus_message_get_path(m), VSS_ROOT_PATH) ||
            manager->window || manager->recovery || volumes_are_fresh(manager->volumes) ||
            call_new(manager, m, NULL, &c) < 0)
                return 0;
        c->state = c;
        c->state_free = forget_refresh;
        if (volumes_refresh(manager->volumes, on_refreshed, c) >= 0)
                return 1;
        c->answered = true;
        call_free(c);
        return 0;
}

static int append_snapshots(sd_bus_message *m, Manager *manager, const Volume *v) {
        const Snapshot *snapshot;
        const Set *s;
        int r = sd_bus_message_open_container(m, 'a', "o");
        TAILQ_FOREACH(s, &manager->sets, entries)
                LIST_FOREACH(snapshot, &s->snapshots, entries) {
                        _cleanup_free_ char *path = NULL;
                        if (r < 0 || !snapshot->available || !streq_null(snapshot->name, v->name))
                                continue;
                        r = bus_path_encode(VSS_PATH_SNAPSHOTS, snapshot->id, &path);
                        if (r >= 0)
                                r = sd_bus_message_append(m, "o", path);
                }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int get_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        Manager *m = userdata;
        const VolumeEntry *e = volumes_find(m->volumes, path);
        const Revert *revert = reverts_find(m, path);
        if (!e && !revert)
                return -ENOENT;
        const Volume bare = { .kind = VOLUME_FILESYSTEM, .name = revert ? revert->volume : NULL };
        const Volume *v = e ? e->volume : &bare;
        bool running = revert && !revert->over, ended = revert && revert->over;
        const struct {
                const char *name, *value;
        } table[] = {
                { "Name", v->name },
                { "Kind", volume_kind_to_string(v->kind) },
                { "Device", v->device },
                { "FileSystem", v->fs_type },
                { "FileSystemUuid", v->fs_uuid },
                { "State", ended && revert->faulted ? "faulted" : "ok" },
                { "Operation", running ? "revert" : "" },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(property, table[i].name))
                        return sd_bus_message_append(reply, "s", table[i].value ? table[i].value : "");
        if (streq(property, "MountPoints"))
                return strings_append_to_message(reply, v->mount_points);
        if (streq(property, "LastError")) {
                const Failure none = {};
                return failure_append(reply, ended ? &revert->failure : &none);
        }
        if (streq(property, "SizeBytes"))
                return sd_bus_message_append(reply, "t", v->size_bytes);
        if (streq(property, "Progress"))
                return sd_bus_message_append(reply, "d", running ? revert->progress : -1.0);
        return append_snapshots(reply, m, v);
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Probe", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("a{sv}", result),
                                method_probe_volume, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_METHOD_WITH_ARGS("Wait", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("a{sv}", result),
                                method_wait_volume, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Name", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Kind", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("MountPoints", "as", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Device", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("FileSystem", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("FileSystemUuid", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Snapshots", "ao", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("State", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("LastError", "(ssb)", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Operation", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Progress", "d", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("SizeBytes", "t", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
        SD_BUS_VTABLE_END,
};

static int find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret,
                sd_bus_error *reterr) {
        Manager *m = userdata;
        if (!volumes_find(m->volumes, path) && !reverts_find(m, path))
                return 0;
        *ret = m;
        return 1;
}

static int enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***ret, sd_bus_error *reterr) {
        Manager *m = userdata;
        int r = volumes_paths(m->volumes, ret);
        return r < 0 ? r : reverts_paths(m, ret);
}

int volumes_bus_attach(Manager *m) {
        int r = sd_bus_add_filter(m->bus, NULL, on_message, m);
        if (r >= 0)
                r = sd_bus_add_fallback_vtable(m->bus, NULL, VSS_PATH_VOLUMES, VSS_IFACE_VOLUME, vtable, find, m);
        return r < 0 ? r : sd_bus_add_node_enumerator(m->bus, NULL, VSS_PATH_VOLUMES, enumerate, m);
}
