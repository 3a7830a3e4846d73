/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Connections whose end vssd has to notice: writers, and callers with mounts that are bound to them. A match per
 * connection keeps vssd asleep while strangers come and go, but dbus-daemon allows 512 per connection; beyond
 * PEER_MATCHES_MAX one match on every disconnect takes over.
 */
#include "daemon/manager.h"

enum { PEER_MATCHES_MAX = 128 };

int peers_new(Manager *m, Peers **ret);
Peers *peers_free(Peers *p);
/* Counted by name. If the connection is gone already, that is noticed too, from the loop. */
int peers_watch(Peers *p, const char *bus_name);
void peers_unwatch(Peers *p, const char *bus_name);
/* Implemented by writer-register.c: all that hung on this connection. */
void manager_peer_gone(Manager *m, const char *bus_name);
