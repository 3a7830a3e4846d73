/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Copies that are there and that the catalogue does not know: they get a record as far as they say anything themselves.
 */
#include "daemon/manager.h"

/* Of one provider; those that are known are passed over. label: "KEY=VALUE" for new sets, or NULL. */
void adopt_copies(Manager *m, const char *provider, const struct vss_wire_reply *found, size_t n, const char *label);
