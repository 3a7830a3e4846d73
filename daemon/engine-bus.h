/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Methods of Manager about volumes that a provider makes itself; see the XML. */
#include <systemd/sd-bus.h>

int method_create_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_attach_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_detach_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_remove_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_list_engine(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
