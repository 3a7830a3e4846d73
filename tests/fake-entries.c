/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the fake service lists beside its sets: one writer that is well, one that failed and whose message would reach
 * the terminal's control codes, a provider, a volume.
 */
#include "tests/fake-manager.h"

static char good_entry; /* userdata of what is well */

static int writer_metadata(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        log_call(m);
        return userdata ? sd_bus_reply_method_return(m, "s", "{\"schema\":1,\"kind\":\"writer-metadata\"}") :
                          refuse(e, "WriterLost");
}

static int entry_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                          sd_bus_message *reply, void *userdata, sd_bus_error *e) {
        bool good = userdata;
        if (streq(property, "LastError"))
                return good ? sd_bus_message_append(reply, "(ssb)", "", "", 0) :
                              sd_bus_message_append(reply, "(ssb)", VSS_BUS_NAME ".Error.WriterFatal",
                                                    "disk \033[31mfire\n", 0);
        if (streq(property, "Capabilities"))
                return sd_bus_message_append(reply, "as", 1, "directory");
        if (streq(property, "MountPoints"))
                return sd_bus_message_append(reply, "as", 1, "/srv/db");
        if (streq(property, "SizeBytes"))
                return sd_bus_message_append(reply, "t", UINT64_C(5) << 30);
        if (streq(property, "Snapshots"))
                return sd_bus_message_append(reply, "ao", 0);
        bool writer = streq(interface, VSS_IFACE_WRITER_ENTRY);
        const char *text = streq(property, "Name") ?
                                   (!writer ? (streq(interface, VSS_IFACE_VOLUME) ? "/srv/db" : "btrfs") :
                                    good    ? "sqlite" :
                                              "evil") :
                           streq(property, "Instance") && good ? "book" :
                           streq(property, "State") ? (writer ? (good ? "stable" : "failed-at-freeze") : "ready") :
                           streq(property, "Level") ? "front-end" :
                           streq(property, "Kind")  ? "bus" :
                                                      "";
        return sd_bus_message_append(reply, "s", text);
}

static int volume_probe(sd_bus_message *m, void *userdata, sd_bus_error *e) {
        log_call(m);
        return sd_bus_reply_method_return(m, "a{sv}", 2, "provider", "s", "btrfs", "level", "s", "application");
}

static const sd_bus_vtable writer_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("GetMetadata", "a{sv}", "s", writer_metadata, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Name", "s", entry_property, 0, 0),
        SD_BUS_PROPERTY("Instance", "s", entry_property, 0, 0),
        SD_BUS_PROPERTY("Kind", "s", entry_property, 0, 0),
        SD_BUS_PROPERTY("Level", "s", entry_property, 0, 0),
        SD_BUS_PROPERTY("State", "s", entry_property, 0, 0),
        SD_BUS_PROPERTY("LastError", "(ssb)", entry_property, 0, 0),
        SD_BUS_VTABLE_END,
};
static const sd_bus_vtable provider_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("Name", "s", entry_property, 0, 0),
        SD_BUS_PROPERTY("Capabilities", "as", entry_property, 0, 0),
        SD_BUS_PROPERTY("State", "s", entry_property, 0, 0),
        SD_BUS_PROPERTY("LastError", "(ssb)", entry_property, 0, 0),
        SD_BUS_VTABLE_END,
};
static const sd_bus_vtable volume_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Probe", "a{sv}", "a{sv}", volume_probe, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_PROPERTY("Name", "s", entry_property, 0, 0),
        SD_BUS_PROPERTY("MountPoints", "as", entry_property, 0, 0),
        SD_BUS_PROPERTY("SizeBytes", "t", entry_property, 0, 0),
        SD_BUS_PROPERTY("Snapshots", "ao", entry_property, 0, 0),
        SD_BUS_VTABLE_END,
};

int fake_add_entries(sd_bus *bus) {
        int r = sd_bus_add_object_vtable(bus, NULL, VSS_PATH_WRITERS "/sqlite/book", VSS_IFACE_WRITER_ENTRY,
                                         writer_vtable, &good_entry);
        if (r >= 0)
                r = sd_bus_add_object_vtable(bus, NULL, VSS_PATH_WRITERS "/evil/_", VSS_IFACE_WRITER_ENTRY,
                                             writer_vtable, NULL);
        if (r >= 0)
                r = sd_bus_add_object_vtable(bus, NULL, VSS_PATH_PROVIDERS "/btrfs", VSS_IFACE_PROVIDER_ENTRY,
                                             provider_vtable, &good_entry);
        if (r >= 0)
                r = sd_bus_add_object_vtable(bus, NULL, VSS_PATH_VOLUMES "/_2fsrv_2fdb", VSS_IFACE_VOLUME,
                                             volume_vtable, &good_entry);
        return r;
}
