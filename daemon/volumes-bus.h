/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Verbs about volumes and providers. */
#include "daemon/call.h"

typedef struct ProviderNode { /* what a call on a ProviderEntry object is about */
        Manager *manager;
        ProviderEntry *entry;
} ProviderNode;

int method_lookup_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr); /* userdata: Manager */
int method_probe_volume(sd_bus_message *m, void *userdata,
                        sd_bus_error *reterr); /* userdata: Manager; the path says which */
int method_probe_provider(sd_bus_message *m, void *userdata, sd_bus_error *reterr); /* userdata: ProviderNode */
