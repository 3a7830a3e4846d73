/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* The halves of org.vssd.Vss1.Snapshot: the vtable, and the verbs that need vss-mount. */
#include "daemon/call.h"
#include "protocol/busutil.h"

typedef struct SnapshotCall { /* state of a call */
        bool dry_run, force, exec, bound, safety_snapshot;
        Revert *revert; /* while it is looked at whether it may be */
        char *reason, *text;
} SnapshotCall;

int snapshot_call_new(Snapshot *s, sd_bus_message *m, bool takes_text, const BusOption *options, size_t n,
                      sd_bus_error *reterr, Call **ret);
int method_mount(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_unmount(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_open(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
