/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a message of vssd to a callback and back. Every message becomes one event, every event is answered exactly once:
 * with what its callback said, or with an error when it cannot be delivered. Only the present owner of vssd's name is
 * served.
 */
#include "writers/writer-lib.h"
#include "writers/writer-worker.h"
#include <stdio.h>

static int refuse(sd_bus_error *reterr, Condition c, const char *text) {
        return sd_bus_error_set(reterr, condition_name(c), text);
}

static int check_sender(const Writer *w, sd_bus_message *m, sd_bus_error *reterr) {
        const char *sender = sd_bus_message_get_sender(m);

        if (w->link->owner && streq_null(sender, w->link->owner))
                return 0;
        return refuse(reterr, CONDITION_NOT_AUTHORIZED, "only vssd may call a writer");
}

static WriterEvent event_of(sd_bus_message *m) {
        const char *member = sd_bus_message_get_member(m);

        for (int e = 0; e < _WRITER_EVENT_MAX; e++)
                if (streq_null(member, writer_event_member((WriterEvent) e)))
                        return (WriterEvent) e;
        assert(false); /* the vtable holds no other names */
        return EVENT_ABORT;
}

static int read_event(Event *e, sd_bus_message *m) {
        const char *set = "";
        int r = 0;

        if (e->kind != EVENT_IDENTIFY)
                r = sd_bus_message_read(m, "s", &set);
        r = r < 0 ? r : sd_bus_message_read(m, "t", &e->deadline_usec);
        r = r < 0 ? r : event_read_session(e, m);
        if (r < 0)
                return r;
        if (e->kind != EVENT_IDENTIFY && !id_is_valid(set))
                return -EBADMSG;
        (void) snprintf(e->set, sizeof(e->set), "%s", set);
        return 0;
}

/* Why this call cannot be carried out now, although it is well formed. */
static int check_state(const Event *e, sd_bus_error *reterr) {
        const Writer *w = e->writer;

        if (w->n_events > WRITER_EVENTS_MAX)
                return refuse(reterr, CONDITION_LIMIT_REACHED, "too many unanswered calls");
        if (w->stopping && e->kind != EVENT_ABORT && e->kind != EVENT_THAW && e->kind != EVENT_BACKUP_SHUTDOWN)
                return refuse(reterr, CONDITION_WRITER_RETRYABLE, "the writer is leaving");
        if (e->kind == EVENT_FREEZE && w->frozen[0])
                return refuse(reterr, CONDITION_BAD_STATE, "frozen already");
        if (e->kind != EVENT_THAW || !writer_callback(w, EVENT_THAW))
                return 0;
        if (writer_is_resumed(w, e->set))
                return refuse(reterr, CONDITION_DEADLINE_PASSED,
                              "resumed before Thaw came: time was up or vssd was gone");
        if (!streq(w->frozen, e->set))
                return refuse(reterr, CONDITION_BAD_STATE, "not frozen for this set");
        return 0;
}

/* An Abort is told to what is under way at once: that is what the cancel descriptor is for. */
static void cancel_others(Event *abort) {
        Event *e;

        TAILQ_FOREACH(e, &abort->writer->events, entries)
                if (e != abort && e->kind != EVENT_ABORT && streq(e->set, abort->set))
                        event_cancel(e);
}

/* vssd's patience may end while PreRestore still closes files: what opens them again comes after that, not before. */
static bool closes_first(const Event *e) {
        const Event *other;

        if (e->kind != EVENT_POST_RESTORE || e->writer->worker) /* the worker does one after the other anyway */
                return false;
        TAILQ_FOREACH(other, &e->writer->events, entries)
                if (other->kind == EVENT_PRE_RESTORE && streq(other->set, e->set))
                        return true;
        return false;
}

static int on_turn(sd_event_source *source, void *userdata) {
        Event *e = userdata;

        e->turn = sd_event_source_disable_unref(e->turn);
        (void) writer_deliver(e);
        return 0;
}

/* Not from within the application's own call, which is where the one before it may have ended. */
static void deliver_waiting(Writer *w) {
        Event *e;

        TAILQ_FOREACH(e, &w->events, entries)
                if (e->waits && !closes_first(e)) {
                        e->waits = sd_event_add_defer(w->link->event, &e->turn, on_turn, e) < 0;
                        return;
                }
}

static int on_call(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        _cleanup_(event_freep) Event *e = NULL;
        Writer *w = userdata;
        int r;

        r = check_sender(w, m, reterr);
        if (r < 0)
                return r;
        r = event_new(w, event_of(m), m, &e);
        if (r < 0)
                return r;
        r = read_event(e, m);
        if (r == -EBADMSG || r == -ENXIO || r == -EINVAL)
                return refuse(reterr, CONDITION_INVALID_ARGUMENT, "the session is not as interface version 1 has it");
        if (r < 0)
                return r;
        r = check_state(e, reterr);
        if (r < 0)
                return r;
        r = event_arm(e);
        if (r < 0)
                return r;

        if (e->kind == EVENT_ABORT)
                cancel_others(e);
        if (e->kind == EVENT_FREEZE)
                writer_freezing(e);
        if (closes_first(e)) {
                TAKE_PTR(e)->waits = true;
                return 1;
        }
        r = writer_deliver(TAKE_PTR(e));
        return r < 0 ? r : 1;
}

#define CALL(name) SD_BUS_METHOD(name, "sta{sv}", "a{sv}", on_call, SD_BUS_VTABLE_UNPRIVILEGED)
const sd_bus_vtable writer_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Identify", "ta{sv}", "s", on_call, SD_BUS_VTABLE_UNPRIVILEGED),
        CALL("PrepareBackup"),
        CALL("PrepareSnapshot"),
        CALL("Freeze"),
        CALL("Thaw"),
        CALL("PostSnapshot"),
        CALL("BackupComplete"),
        CALL("BackupShutdown"),
        CALL("Abort"),
        CALL("PreRestore"),
        CALL("PostRestore"),
        SD_BUS_SIGNAL("Progress", "ssd", 0),
        SD_BUS_VTABLE_END,
};

int writer_deliver(Event *e) {
        Writer *w = e->writer;
        int r;

        if (w->worker) {
                worker_add(w->worker, e);
                return 0;
        }
        e->in_callback = true;
        r = event_call(e);
        e->in_callback = false;
        if (e->replied)
                r = e->result;
        else if (r == VSS_PENDING && !w->abandoned)
                return 0;
        writer_finish(e, r);
        return 0;
}

/* What the callback said, as one condition. */
static void judge(Event *e, int r) {
        if (e->failed)
                return;
        if (r == VSS_PENDING)
                r = -ENOTSUP;
        if (r >= 0)
                return;
        e->failed = true;
        if (e->kind == EVENT_FREEZE && atomic_load(&e->cancelled) && r == -ECANCELED)
                failure_set(&e->failure, CONDITION_DEADLINE_PASSED, "gave up when time was up");
        else
                failure_set(&e->failure, CONDITION_WRITER_RETRYABLE, "%s", strerror(-r));
}

void writer_finish(Event *e, int r) {
        Writer *w = e->writer;

        judge(e, r);
        if (e->kind == EVENT_FREEZE && !e->failed && writer_is_resumed(w, e->set)) {
                e->failed = true;
                failure_set(&e->failure, CONDITION_DEADLINE_PASSED, "resumed before Freeze was over");
        }
        if (e->kind == EVENT_THAW && writer_is_resumed(w, e->set)) { /* its time was up while thaw was under way */
                e->failed = true;
                failure_set(&e->failure, CONDITION_DEADLINE_PASSED, "Thaw ended after the time was up");
        } else if (e->kind == EVENT_THAW && !e->failed)
                writer_settled(w);
        if (e->kind == EVENT_ABORT && !e->failed && streq(e->set, w->frozen))
                writer_settled(w);
        event_answer(e);
        event_free(e);
        if (!w->abandoned)
                deliver_waiting(w);
}

static int answer_well(Event *e) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        r = sd_bus_message_new_method_return(e->call, &m);
        if (r < 0)
                return r;
        if (e->kind == EVENT_IDENTIFY)
                r = e->document ? sd_bus_message_append(m, "s", e->document) : -ENODATA;
        else
                r = event_append_answer(e, m);
        return r < 0 ? r : sd_bus_send(NULL, m, NULL);
}

static void send_answer(Event *e) {
        int r;

        if (!e->failed) {
                r = answer_well(e);
                if (r >= 0)
                        return;
                e->failed = true;
                failure_set(&e->failure, CONDITION_WRITER_RETRYABLE, "cannot make the answer: %s", strerror(-r));
        }
        (void) sd_bus_reply_method_errorf(e->call, condition_name(e->failure.condition), "%s", e->failure.message);
}

void event_answer(Event *e) {
        Writer *w = e->writer;

        if (e->call)
                send_answer(e);
        if (w->after)
                w->after(w, e, w->hook_userdata);
}
