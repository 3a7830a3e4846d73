/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* The verbs of writers and about writers; writer-properties.c has the rest of WriterEntry. */
#include "daemon/manager.h"

int method_register_writer(sd_bus_message *m, void *userdata, sd_bus_error *reterr); /* userdata: Manager */
int method_unregister_writer(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_get_metadata(sd_bus_message *m, void *userdata, sd_bus_error *reterr); /* userdata: Writer */
