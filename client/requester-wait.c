/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss_set_wait(): one Wait call in flight, its answer is the result. With a progress callback the set's property
 * changes are followed too, and the callback comes at least ten times a second, so that a program can notice a signal
 * and cancel.
 */
#include "client/requester.h"

typedef struct Waiting {
        struct vss_set *set;
        vss_progress_fn progress;
        void *userdata;
        char state[32], phase[32];
        double fraction;
        bool changed, cancelled, answered;
        int result;
        sd_bus_slot *cancel_slot;
} Waiting;

static void copy_word(char *to, size_t size, const char *from) {
        size_t n = MIN_OF(strlen(from), size - 1);
        memcpy(to, from, n);
        to[n] = 0;
}

static int read_property(Waiting *w, sd_bus_message *m) {
        const char *name, *word, *type;
        char kind;
        int r = sd_bus_message_read(m, "s", &name);
        if (r >= 0)
                r = sd_bus_message_peek_type(m, &kind, &type);
        if (r < 0)
                return r;
        if (kind == 'v' && streq(name, "Progress") && streq(type, "d"))
                return sd_bus_message_read(m, "v", "d", &w->fraction);
        bool state = streq(name, "State");
        if (kind != 'v' || !streq(type, "s") || (!state && !streq(name, "Phase")))
                return sd_bus_message_skip(m, "v");
        r = sd_bus_message_read(m, "v", "s", &word);
        if (r >= 0)
                copy_word(state ? w->state : w->phase, sizeof(w->state), word);
        return r;
}

static int on_changed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Waiting *w = userdata;
        const char *interface;
        int r = sd_bus_message_read(m, "s", &interface);
        if (r < 0 || !streq(interface, VSS_IFACE_SET))
                return 0;
        r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r > 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = read_property(w, m);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        w->changed = true;
        return 0;
}

typedef struct WaitResult {
        const char *error_name, *error_message, *consistency;
        int retryable;
} WaitResult;

static int read_result_entry(sd_bus_message *m, WaitResult *result) {
        const char *key;
        int r = sd_bus_message_read(m, "s", &key);
        if (r < 0)
                return r;
        if (streq(key, "error_name"))
                return sd_bus_message_read(m, "v", "s", &result->error_name);
        if (streq(key, "error_message"))
                return sd_bus_message_read(m, "v", "s", &result->error_message);
        if (streq(key, "consistency"))
                return sd_bus_message_read(m, "v", "s", &result->consistency);
        if (streq(key, "retryable"))
                return sd_bus_message_read(m, "v", "b", &result->retryable);
        return sd_bus_message_skip(m, "v"); /* facts may grow */
}

static int take_result(struct vss_set *s, sd_bus_message *m) {
        WaitResult result = { .retryable = -1 };
        const char *state;
        struct vss_requester *r = s->requester;
        int k = sd_bus_message_read(m, "s", &state);
        if (k >= 0)
                k = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (k >= 0 && (k = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                k = read_result_entry(m, &result);
                if (k >= 0)
                        k = sd_bus_message_exit_container(m);
        }
        if (k < 0)
                return requester_check(r, k);
        char *consistency = strdup(result.consistency ? result.consistency : ""), *copy = strdup(state);
        free(s->consistency);
        s->consistency = consistency;
        free(s->state);
        s->state = copy;
        set_forget_snapshots(s);
        int word = set_state_from_string(state);
        if (word == SET_ABORTED || word == SET_ABORTING)
                return requester_fail_named(
                        r, isempty(result.error_name) ? condition_name(CONDITION_FAILED) : result.error_name,
                        isempty(result.error_message) ? "the set was aborted" : result.error_message, result.retryable);
        return 0;
}

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Waiting *w = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(m);
        w->answered = true;
        w->result = e ? requester_fail_bus(w->set->requester, e, -sd_bus_message_get_errno(m), USEC_INFINITY) :
                        take_result(w->set, m);
        return 1;
}

static int on_cancel_answer(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return 1; /* TooLate or done: Wait tells how the set ended */
}

static void waiting_cancel(Waiting *w) {
        w->cancelled = true;
        (void) sd_bus_call_method_async(w->set->requester->bus, &w->cancel_slot, VSS_BUS_NAME, w->set->path,
                                        VSS_IFACE_SET, "Cancel", on_cancel_answer, w, "a{sv}", 0);
}

static int waiting_run(Waiting *w, uint64_t deadline_usec) {
        struct vss_requester *r = w->set->requester;
        uint64_t tick_usec = 0;
        while (!w->answered) {
                int k = sd_bus_process(r->bus, NULL);
                if (k < 0)
                        return requester_fail_bus(r, NULL, k, USEC_INFINITY);
                uint64_t now = now_usec();
                if (w->progress && !w->answered && (w->changed || now >= tick_usec)) {
                        w->changed = false;
                        tick_usec = now + REQUESTER_TICK_USEC;
                        if (w->progress(w->state, w->phase, w->fraction, w->userdata) != 0 && !w->cancelled)
                                waiting_cancel(w);
                }
                if (k > 0 || w->answered)
                        continue;
                if (now >= deadline_usec)
                        return requester_fail(r, CONDITION_DEADLINE_PASSED, "set %s is not ready yet and goes on",
                                              w->set->id);
                uint64_t until_usec = w->progress ? MIN_OF(deadline_usec, tick_usec) : deadline_usec;
                k = sd_bus_wait(r->bus,
                                until_usec == USEC_INFINITY ? UINT64_MAX : until_usec - MIN_OF(now, until_usec));
                if (k < 0 && k != -EINTR)
                        return requester_fail_bus(r, NULL, k, USEC_INFINITY);
        }
        return w->result;
}

_public_ int vss_set_wait(struct vss_set *s, uint64_t timeout_usec, vss_progress_fn progress, void *userdata) {
        _cleanup_(sd_bus_slot_unrefp) sd_bus_slot *match = NULL, *answer = NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        if (!s)
                return -EINVAL;
        struct vss_requester *r = s->requester;
        if (!s->path)
                return requester_fail(r, CONDITION_BAD_STATE, "there is no set to wait for yet");
        Waiting w = { .set = s, .progress = progress, .userdata = userdata, .fraction = -1, .state = "queued" };
        int k = 0;
        if (progress)
                k = sd_bus_match_signal(r->bus, &match, VSS_BUS_NAME, s->path, "org.freedesktop.DBus.Properties",
                                        "PropertiesChanged", on_changed, &w);
        if (k >= 0)
                k = sd_bus_message_new_method_call(r->bus, &m, VSS_BUS_NAME, s->path, VSS_IFACE_SET, "Wait");
        if (k >= 0)
                k = sd_bus_message_append(m, "a{sv}", 0);
        if (k >= 0)
                k = sd_bus_call_async(r->bus, &answer, m, on_answer, &w, UINT64_MAX);
        k = k < 0 ? requester_check(r, k) : waiting_run(&w, usec_add(now_usec(), timeout_usec));
        sd_bus_slot_unref(w.cancel_slot);
        return k < 0 ? k : 0;
}
