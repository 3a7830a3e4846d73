/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Arguments of CreateSet and Plan, from the message into SetOptions; what they mean is the planner's business. */
#include "daemon/manager.h"

/* m stands before volumes. On failure *ret is to be done away with as well. */
int set_options_read(Manager *manager, sd_bus_message *m, SetOptions *ret, bool *ret_dry_run, Failure *reterr);
/* Defaults and Limits of the Manager: a{st}. */
int defaults_append(sd_bus_message *m, const Budgets *b);
int limits_append(sd_bus_message *m, const Settings *s);
