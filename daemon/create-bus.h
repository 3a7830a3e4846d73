/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* The verbs of Manager that take more than a screen each; userdata is the Manager. */
#include "daemon/call.h"

int method_create_set(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_plan(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_delete_snapshots(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_prune(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_lookup_id(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
