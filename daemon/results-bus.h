/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Answers that several interfaces give in the same words. */
#include "daemon/call.h"

/* SetDone whose userdata is a Call: answers a(sss) with (name, error name or "", message). */
void call_results_done(const Failure *failure, const SetResult *results, size_t n, void *userdata);
int results_append(sd_bus_message *m, const SetResult *results, size_t n);
/* (ssb): name, message, retryable. */
int failure_append(sd_bus_message *m, const Failure *f);
/* as, from a NULL-terminated list or NULL. */
int strings_append_to_message(sd_bus_message *m, char *const *list);
