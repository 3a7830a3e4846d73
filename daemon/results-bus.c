/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/results-bus.h"
#include "protocol/busutil.h"

int failure_append(sd_bus_message *m, const Failure *f) {
        bool none = f->condition == CONDITION_NONE;
        return sd_bus_message_append(m, "(ssb)", none ? "" : condition_name(f->condition), none ? "" : f->message,
                                     !none && f->retryable);
}

int strings_append_to_message(sd_bus_message *m, char *const *list) {
        return sd_bus_message_append_strv(m, (char **) (uintptr_t) list);
}

int results_append(sd_bus_message *m, const SetResult *results, size_t n) {
        int r = sd_bus_message_open_container(m, 'a', "(sss)");
        for (size_t i = 0; r >= 0 && i < n; i++) {
                const Failure *f = &results[i].failure;
                r = sd_bus_message_append(m, "(sss)", results[i].name,
                                          f->condition == CONDITION_NONE ? "" : condition_name(f->condition),
                                          f->message);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

void call_results_done(const Failure *failure, const SetResult *results, size_t n, void *userdata) {
        Call *c = userdata;
        sd_bus_message *reply = NULL;
        c->held = false;
        if (failure && failure->condition != CONDITION_NONE && n == 0) { /* else the results say which */
                call_fail(c, failure);
                return;
        }
        int r = sd_bus_message_new_method_return(c->message, &reply);
        if (r >= 0)
                r = results_append(reply, results, n);
        call_reply_message(c, reply, r);
}
