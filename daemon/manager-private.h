/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* What the parts of manager*.c say to each other. */
#include "daemon/manager.h"

/* manager.c */
void manager_reload_on_signal(Manager *m);

/* manager-change.c */
int manager_changes_attach(Manager *m);
void manager_changes_flush(Manager *m);
/* Forgets the announcements of an object that is about to go; removed objects were announced by their class. */
int manager_object_removed(Manager *m, const char *interface, const char *path);

/* manager-idle.c */
int manager_idle_attach(Manager *m);
void manager_idle_check(Manager *m); /* arms or disarms the idle exit */
void manager_stop_check(Manager *m); /* leaves the loop once nothing is left to put back */

/* manager-recover.c */
int recovery_start(Manager *m);
Recovery *recovery_free(Recovery *r);
void recovery_writer_registered(Manager *m, const Writer *w); /* one that is waited for may be back */
void writers_note(Manager *m); /* who is registered, for the next vssd, if this one dies */

/* writer-register.c */
void writers_expire(Manager *m); /* lost writers are listed for a while, then go */

/* declarative.c */
int manager_load_declarative(Manager *m);

/* The vtables: one function per class. */
int manager_bus_attach(Manager *m);
int set_bus_attach(Manager *m);
int snapshot_bus_attach(Manager *m);
int writer_bus_attach(Manager *m);
int entries_bus_attach(Manager *m);
int volumes_bus_attach(Manager *m);

/* VSS_CAP_ bits in kebab case: as. */
int capabilities_append(sd_bus_message *m, uint64_t capabilities);
