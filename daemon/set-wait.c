/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Wait: every call is answered exactly once, when the set has come to where the caller waits for it, or at once if it
 * is there.
 */
#include "daemon/manager.h"
#include "protocol/busutil.h"

static bool is_there(const Set *s, bool until_completed) {
        switch (s->state) {
        case SET_ABORTED:
        case SET_COMPLETED:
        case SET_DELETED:
        case SET_DELETING:
                return true;
        case SET_CREATED:
        case SET_COMPLETING:
                return !until_completed;
        default:
                return false;
        }
}

static int append_timing(sd_bus_message *m, const SetTiming *t) {
        int r;

        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", "timing");
        if (r >= 0)
                r = sd_bus_message_append(m, "v", "a{st}", 6, "total_usec", t->total_usec, "queue_usec", t->queue_usec,
                                          "prepare_usec", t->prepare_usec, "freeze_usec", t->freeze_usec, "hold_usec",
                                          t->hold_usec, "commit_usec", t->commit_usec);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int answer(const Set *s, sd_bus_message *call) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        const Failure *e = &s->error;
        bool failed = s->state == SET_ABORTED;
        int r;

        r = sd_bus_message_new_method_return(call, &m);
        if (r >= 0)
                r = sd_bus_message_append(m, "s", set_state_to_string(s->state));
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0 && failed)
                r = sd_bus_message_append(m, "{sv}{sv}{sv}", "error_name", "s", condition_name(e->condition),
                                          "error_message", "s", e->message, "retryable", "b", (int) e->retryable);
        if (r >= 0)
                r = sd_bus_message_append(m, "{sv}", "consistency", "s", consistency_to_string(s->consistency));
        if (r >= 0)
                r = append_timing(m, &s->timing);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_send(NULL, m, NULL);
}

int set_wait(Set *s, sd_bus_message *m, bool until_completed, Failure *reterr) {
        if (is_there(s, until_completed)) {
                int r = answer(s, m);
                return r < 0 ? failure_set(reterr, CONDITION_FAILED, "cannot answer: %s", strerror(-r)) : 1;
        }
        if (s->n_waiters == LIMIT_WAITERS)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "%d callers wait for set %s already", LIMIT_WAITERS,
                                   s->id);
        s->waiters[s->n_waiters] = sd_bus_message_ref(m);
        s->waiter_completed[s->n_waiters++] = until_completed;
        return 0;
}

void set_answer_waiters(Set *s) {
        unsigned kept = 0;

        for (unsigned i = 0; i < s->n_waiters; i++) {
                if (!is_there(s, s->waiter_completed[i])) {
                        s->waiters[kept] = s->waiters[i];
                        s->waiter_completed[kept++] = s->waiter_completed[i];
                        continue;
                }
                (void) answer(s, s->waiters[i]); /* a caller that went away needs no answer */
                sd_bus_message_unref(s->waiters[i]);
        }
        s->n_waiters = kept;
}
