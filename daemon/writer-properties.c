/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.vssd.Vss1.WriterEntry: what everybody may know about a writer, and where it is found. */
#include "daemon/manager-private.h"
#include "daemon/results-bus.h"
#include "daemon/writer-bus.h"
#include "protocol/text.h"

static int append_events(sd_bus_message *m, const Writer *w) {
        int r = sd_bus_message_open_container(m, 'a', "s");
        for (unsigned e = 0; r >= 0 && e < _WRITER_EVENT_MAX; e++)
                if (w->events & (1u << e))
                        r = sd_bus_message_append(m, "s", writer_event_to_string((WriterEvent) e));
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_sessions(sd_bus_message *m, const Writer *w) {
        int r = sd_bus_message_open_container(m, 'a', "{ss}");
        for (unsigned i = 0; r >= 0 && i < w->n_sessions; i++)
                r = sd_bus_message_append(m, "{ss}", w->sessions[i].set, writer_state_to_string(w->sessions[i].state));
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int get_text(sd_bus_message *m, const char *property, const Writer *w) {
        const struct {
                const char *name, *value;
        } table[] = {
                { "Name", w->name },
                { "Instance", w->instance },
                { "Id", w->id },
                { "Kind", w->kind == WRITER_KIND_BUS ? "bus" : "declarative" },
                { "Version", w->version },
                { "Level", level_to_string(w->level) },
                { "Usage", usage_to_string(w->usage) },
                { "Source", source_to_string(w->source) },
                { "BusName", w->bus_name },
                { "State", writer_state_to_string(w->state) },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(property, table[i].name))
                        return sd_bus_message_append(m, "s", table[i].value ? table[i].value : "");
        return -ENOENT;
}

static int get_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        const Writer *w = userdata;
        if (streq(property, "Uid"))
                return sd_bus_message_append(reply, "u", (uint32_t) w->uid);
        if (streq(property, "Pid"))
                return sd_bus_message_append(reply, "u", (uint32_t) w->pid);
        if (streq(property, "Events"))
                return append_events(reply, w);
        if (streq(property, "FreezeTimeoutUSec"))
                return sd_bus_message_append(reply, "t", w->freeze_timeout_usec);
        if (streq(property, "LastError"))
                return failure_append(reply, &w->last_error);
        if (streq(property, "Sessions"))
                return append_sessions(reply, w);
        return get_text(reply, property, w);
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("GetMetadata", SD_BUS_ARGS("a{sv}", options), SD_BUS_RESULT("s", metadata),
                                method_get_metadata, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Name", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Instance", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Id", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Kind", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Version", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Level", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Usage", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Source", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("BusName", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Uid", "u", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Pid", "u", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Events", "as", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("FreezeTimeoutUSec", "t", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("State", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("LastError", "(ssb)", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Sessions", "a{ss}", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_VTABLE_END,
};

static int find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret,
                sd_bus_error *reterr) {
        Manager *m = userdata;
        Writer *w;
        LIST_FOREACH(w, &m->writers, entries)
                if (streq(w->path, path)) {
                        *ret = w;
                        return 1;
                }
        return 0;
}

static int enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***ret, sd_bus_error *reterr) {
        _cleanup_(strings_freep) char **paths = NULL;
        Manager *m = userdata;
        const Writer *w;
        char **list = calloc(m->n_writers + 1, sizeof(*list));
        size_t n = 0;
        if (!list)
                return -ENOMEM;
        paths = list;
        LIST_FOREACH(w, &m->writers, entries) {
                assert(n < m->n_writers);
                list[n] = strdup(w->path);
                if (!list[n++])
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(paths);
        return 0;
}

int writer_bus_attach(Manager *m) {
        int r = sd_bus_add_fallback_vtable(m->bus, NULL, VSS_PATH_WRITERS, VSS_IFACE_WRITER_ENTRY, vtable, find, m);
        return r < 0 ? r : sd_bus_add_node_enumerator(m->bus, NULL, VSS_PATH_WRITERS, enumerate, m);
}
