/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* org.vssd.Vss1.ProviderEntry. */
#include "daemon/manager-private.h"
#include "daemon/results-bus.h"
#include "daemon/volumes-bus.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include "providers/vss-provider.h"

int capabilities_append(sd_bus_message *m, uint64_t capabilities) {
        static const struct {
                uint64_t bit;
                const char *word;
        } table[] = {
                { VSS_CAP_FREEZES_ITSELF, "freezes-itself" },
                { VSS_CAP_HOLDS, "holds" },
                { VSS_CAP_GROUP_COMMIT, "group-commit" },
                { VSS_CAP_COPY, "copy" },
                { VSS_CAP_REDIRECT, "redirect" },
                { VSS_CAP_CLONE, "clone" },
                { VSS_CAP_WRITABLE, "writable" },
                { VSS_CAP_DEVICE, "device" },
                { VSS_CAP_DIRECTORY, "directory" },
                { VSS_CAP_CHANGED_BLOCKS, "changed-blocks" },
                { VSS_CAP_CHANGED_PATHS, "changed-paths" },
                { VSS_CAP_REVERT, "revert" },
                { VSS_CAP_EXPORT, "export" },
                { VSS_CAP_STORAGE, "storage" },
                { VSS_CAP_PERSISTENT, "persistent" },
                { VSS_CAP_ONE_PROCESS, "one-process" },
                { VSS_CAP_VOLUMES, "volumes" },
                { VSS_CAP_WRITES_BELOW, "writes-below" },
        };
        int r = sd_bus_message_open_container(m, 'a', "s");
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(table); i++)
                if (capabilities & table[i].bit)
                        r = sd_bus_message_append(m, "s", table[i].word);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static const char *provider_state(const ProviderEntry *p) {
        return p->ready ? "ready" : p->last_error.condition != CONDITION_NONE ? "failed" : "disabled";
}

static int get_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        const ProviderEntry *p = ((ProviderNode *) userdata)->entry;
        const struct {
                const char *name, *value;
        } table[] = {
                { "Name", p->name }, { "Version", p->version },      { "Kind", p->kind },
                { "Path", p->file }, { "State", provider_state(p) },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(property, table[i].name))
                        return sd_bus_message_append(reply, "s", table[i].value ? table[i].value : "");
        if (streq(property, "Capabilities"))
                return capabilities_append(reply, p->capabilities);
        if (streq(property, "Priority"))
                return sd_bus_message_append(reply, "u", p->priority);
        return failure_append(reply, &p->last_error);
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD_WITH_ARGS("Probe", SD_BUS_ARGS("s", volume, "a{sv}", options), SD_BUS_RESULT("a{sv}", result),
                                method_probe_provider, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Name", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Version", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Kind", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Path", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Capabilities", "as", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("Priority", "u", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("State", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_PROPERTY("LastError", "(ssb)", get_property, 0, SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE),
        SD_BUS_VTABLE_END,
};

static int find(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret,
                sd_bus_error *reterr) {
        static ProviderNode
                node; /* only for the getter or handler that follows at once; they take out of it what they keep */
        _cleanup_free_ char *name = NULL;
        Manager *m = userdata;
        ProviderEntry *p = bus_path_decode(VSS_PATH_PROVIDERS, path, &name) > 0 && strncmp(name, "fault:", 6) != 0 ?
                                   manager_find_provider(m, name) :
                                   NULL;
        if (!p)
                return 0;
        node = (ProviderNode) { m, p };
        *ret = &node;
        return 1;
}

static int enumerate(sd_bus *bus, const char *prefix, void *userdata, char ***ret, sd_bus_error *reterr) {
        _cleanup_(strings_freep) char **paths = NULL;
        Manager *m = userdata;
        const ProviderEntry *p;
        LIST_FOREACH(p, &m->providers, entries) {
                _cleanup_free_ char *path = NULL;
                int r = bus_path_encode(VSS_PATH_PROVIDERS, p->name, &path);
                if (r >= 0)
                        r = strings_append(&paths, path);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(paths);
        return 0;
}

int entries_bus_attach(Manager *m) {
        int r = sd_bus_add_fallback_vtable(m->bus, NULL, VSS_PATH_PROVIDERS, VSS_IFACE_PROVIDER_ENTRY, vtable, find, m);
        return r < 0 ? r : sd_bus_add_node_enumerator(m->bus, NULL, VSS_PATH_PROVIDERS, enumerate, m);
}
