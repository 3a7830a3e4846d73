/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* The halves of org.vssd.Vss1.SnapshotSet: verbs, properties, and the way into a copy that is still being finished. */
#include "daemon/call.h"
#include "daemon/manager.h"

typedef struct SetCallOptions {
        bool dry_run, force;
        char *reason, *until;
} SetCallOptions;

/* Asks whether the caller may do with this set what only its own requester may do without the right to delete. */
void set_call_authorise(Call *c, const Set *s, bool own, CallStep next);
int method_complete(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int set_property(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                 void *userdata, sd_bus_error *reterr);
int method_open_copy(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
