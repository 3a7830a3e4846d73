/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
#include <systemd/sd-bus.h>

int method_revert(sd_bus_message *m, void *userdata, sd_bus_error *reterr); /* userdata: Snapshot */
int method_wait_volume(sd_bus_message *m, void *userdata,
                       sd_bus_error *reterr); /* userdata: Manager; the path says which */
