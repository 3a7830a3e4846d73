/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <systemd/sd-bus.h>

int refuse(sd_bus_error *e, const char *name); /* answers with that error */
void log_call(sd_bus_message *m);              /* to stdout, as it came */
/* fake-entries.c: a writer, one that failed, a provider and a volume */
int fake_add_entries(sd_bus *bus);
