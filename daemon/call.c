/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/call.h"
#include "daemon/expose.h"
#include "daemon/mounts.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <stdarg.h>
#include <stdio.h>

static unsigned calls_of_sender(const Manager *m, const char *sender) {
        const Call *c;
        unsigned n = 0;
        LIST_FOREACH(c, &m->calls, entries)
                n += streq_null(sd_bus_message_get_sender(c->message), sender);
        return n;
}

int call_new(Manager *m, sd_bus_message *message, sd_bus_error *reterr, Call **ret) {
        assert(m && message && ret);
        if (m->stopping)
                return bus_error_setf(reterr, CONDITION_UNAVAILABLE, "vssd is stopping, try again");
        if (m->n_calls >= LIMIT_CALLS)
                return bus_error_setf(reterr, CONDITION_LIMIT_REACHED, "%d calls are under way already", LIMIT_CALLS);
        if (calls_of_sender(m, sd_bus_message_get_sender(message)) >= LIMIT_CALLS_PER_SENDER)
                return bus_error_setf(reterr, CONDITION_LIMIT_REACHED,
                                      "%d calls of this connection are under way already", LIMIT_CALLS_PER_SENDER);
        Call *c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        c->manager = m;
        c->caller.uid = UINT32_MAX;
        c->message = sd_bus_message_ref(message);
        LIST_INSERT_HEAD(&m->calls, c, entries);
        m->n_calls++;
        manager_busy(m);
        *ret = c;
        return 0;
}

Call *call_free(Call *c) {
        if (!c)
                return NULL;
        if (!c->answered) {
                Failure f = {};
                (void) failure_set(&f, CONDITION_UNAVAILABLE, "vssd is stopping, try again");
                (void) bus_reply_failure(c->message, &f);
        }
        authority_check_free(c->check);
        probe_free(c->probe);
        provider_job_free(c->job);
        mount_job_free(c->mount);
        plan_free(c->plan);
        exposure_free(c->exposure);
        if (c->writer_call)
                writer_call_free(c->writer_call);
        if (c->state_free)
                c->state_free(c->state);
        free(c->action);
        strings_free(c->details);
        (void) sd_bus_message_unref(c->message);
        LIST_REMOVE(c, entries);
        c->manager->n_calls--;
        manager_idle(c->manager);
        free(c);
        return NULL;
}

void calls_free(Manager *m) {
        while (!LIST_EMPTY(&m->calls))
                call_free(LIST_FIRST(&m->calls));
}

void calls_refuse(Manager *m) {
        Call *c, *following;
        for (c = LIST_FIRST(&m->calls); c; c = following) {
                following = LIST_NEXT(c, entries);
                if (!c->held)
                        call_free(c);
        }
}

void call_hold(Call *c) {
        assert(!c->check && !c->probe && !c->job && !c->mount && !c->plan && !c->writer_call);
        c->held = true;
}

void call_fail(Call *c, const Failure *f) {
        c->answered = true;
        (void) bus_reply_failure(c->message, f);
        call_free(c);
}

void call_failf(Call *c, Condition condition, const char *format, ...) {
        Failure f = {};
        char text[LIMIT_MESSAGE_BYTES];
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        (void) failure_set(&f, condition, "%s", text);
        call_fail(c, &f);
}

void call_reply(Call *c, const char *types, ...) {
        sd_bus_message *reply = NULL;
        va_list ap;
        int r = sd_bus_message_new_method_return(c->message, &reply);
        va_start(ap, types);
        if (r >= 0 && types[0])
                r = sd_bus_message_appendv(reply, types, ap);
        va_end(ap);
        call_reply_message(c, reply, r);
}

void call_reply_message(Call *c, sd_bus_message *reply, int r) {
        if (r >= 0)
                r = sd_bus_send(sd_bus_message_get_bus(c->message), reply, NULL);
        (void) sd_bus_message_unref(reply);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "the answer could not be sent: %s", strerror(-r));
        else {
                c->answered = true;
                call_free(c);
        }
}

void call_when_quiet(Call *c, CallStep next) {
        c->quiet_next = next;
        c->waits_for_quiet = c->manager->window != NULL;
        if (!c->waits_for_quiet)
                next(c);
}

void calls_resume(Manager *m) {
        Call *c, *following;
        for (c = LIST_FIRST(&m->calls); c && !m->window; c = following) {
                following = LIST_NEXT(c, entries);
                if (!c->waits_for_quiet)
                        continue;
                c->waits_for_quiet = false;
                c->quiet_next(c); /* frees at most c: a call never frees another one */
        }
}

static unsigned calls_of_uid(const Manager *m, uid_t uid, bool asking) {
        const Call *c;
        unsigned n = 0;
        LIST_FOREACH(c, &m->calls, entries)
                n += c->caller.uid == uid && (!asking || c->asking);
        return n;
}

bool call_may_ask(Call *c) {
        if (c->caller.uid == 0 || calls_of_uid(c->manager, c->caller.uid, true) < LIMIT_ASKING_PER_UID) {
                c->asking = true;
                return true;
        }
        call_failf(c, CONDITION_LIMIT_REACHED, "%d calls of uid %u ask writers and providers already",
                   LIMIT_ASKING_PER_UID, (unsigned) c->caller.uid);
        return false;
}

/* False: the call has failed. */
static bool call_identified(Call *c, const Failure *failure) {
        c->caller = *authority_check_caller(c->check);
        c->check = authority_check_free(c->check);
        bool many = c->caller.uid != 0 && calls_of_uid(c->manager, c->caller.uid, false) > LIMIT_CALLS_PER_UID;
        if (failure)
                call_fail(c, failure);
        else if (many)
                call_failf(c, CONDITION_LIMIT_REACHED, "%d calls of uid %u are under way already", LIMIT_CALLS_PER_UID,
                           (unsigned) c->caller.uid);
        return !failure && !many;
}

/* The answer to either question; what follows an authorisation waits for the end of a window, identification alone does
 * not. */
static void on_checked(const Failure *failure, void *userdata) {
        Call *c = userdata;
        bool asked = c->action != NULL;
        if (!call_identified(c, failure))
                return;
        if (asked)
                call_when_quiet(c, c->next);
        else
                c->next(c);
}

static void call_ask(Call *c) {
        int r = authority_check(c->manager->authority, c->message, c->action, (const char *const *) c->details,
                                on_checked, c, &c->check);
        if (r < 0)
                call_failf(c, CONDITION_NOT_AUTHORIZED, "the sender cannot be checked: %s", strerror(-r));
}

static void call_set_question(Call *c, const char *action, const char *const *details, CallStep next) {
        free(c->action);
        c->action = action ? strdup(action) : NULL;
        c->details = strings_free(c->details);
        for (; details && *details; details++)
                (void) strings_append(&c->details, *details);
        c->next = next;
}

void call_identify(Call *c, CallStep next) {
        call_set_question(c, NULL, NULL, next);
        call_ask(c);
}

void call_authorise(Call *c, const char *action, const char *const *details, CallStep next) {
        call_set_question(c, action, details, next);
        call_when_quiet(c, call_ask);
}

static void call_own_step(Call *c);

static void on_own_checked(const Failure *failure, void *userdata) {
        Call *c = userdata;
        if (call_identified(c, failure))
                call_own_step(c);
}

static void call_own_step(Call *c) {
        if (c->caller.uid == 0 || c->caller.uid == c->own_uid)
                c->next(c);
        else
                call_when_quiet(c, call_ask);
}

void call_authorise_own(Call *c, const Set *s, const char *action, const char *const *details, CallStep next) {
        call_set_question(c, action, details, next);
        c->own_uid = s->owner_uid;
        /* names of connections that an earlier vssd knew may be somebody else's on today's bus */
        if (!s->loaded && s->owner && streq_null(s->owner, sd_bus_message_get_sender(c->message))) {
                next(c);
                return;
        }
        int r = authority_check(c->manager->authority, c->message, NULL, NULL, on_own_checked, c, &c->check);
        if (r < 0)
                call_failf(c, CONDITION_NOT_AUTHORIZED, "the sender cannot be checked: %s", strerror(-r));
}

Set *call_set(Call *c) {
        Set *s = manager_find_set(c->manager, c->id);
        if (!s)
                call_failf(c, CONDITION_NOT_FOUND, "set %s is gone", c->id);
        return s;
}

Snapshot *call_snapshot(Call *c) {
        Snapshot *s = manager_find_snapshot(c->manager, c->id);
        if (s && s->available)
                return s;
        call_failf(c, CONDITION_NOT_FOUND, "snapshot %s is gone", c->id);
        return NULL;
}
