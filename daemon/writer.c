/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls to one writer. sd-bus would happily send ten calls to a peer that answers none; here each writer has a queue of
 * which only the head is on the bus, each call has a timer of its own (also while it waits), and Abort and
 * BackupShutdown overtake whatever the same set still wants of it, because a writer that hangs must still hear that it
 * may go on.
 *
 * The bus allows only so many unanswered calls. Slow work of many writers must not take the places of what has a clock,
 * and nothing the places of what lets a frozen application go on.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include "protocol/busutil.h"
#include "protocol/metadata.h"

enum { CALLS_SLOW_MAX = LIMIT_CALLS_IN_FLIGHT - 30, CALLS_MAX = LIMIT_CALLS_IN_FLIGHT - 15 };

struct WriterCall {
        TAILQ_ENTRY(WriterCall) entries;
        Writer *writer;
        WriterEvent event;
        char set[VSS_ID_LENGTH + 1];
        sd_bus_message *message;
        uint64_t deadline_usec;
        sd_bus_slot *slot; /* on the bus */
        sd_event_source *timer, *defer;
        bool counted; /* in manager->calls_in_flight */
        WriterCallDone done;
        void *userdata;
};

static void writer_pump(Writer *w);

static void call_off_bus(WriterCall *c) {
        c->slot = sd_bus_slot_unref(c->slot);
        if (c->counted)
                c->writer->manager->calls_in_flight--;
        c->counted = false;
}

static void call_destroy(WriterCall *c) {
        call_off_bus(c);
        TAILQ_REMOVE(&c->writer->calls, c, entries);
        sd_event_source_disable_unref(c->timer);
        sd_event_source_disable_unref(c->defer);
        sd_bus_message_unref(c->message);
        writer_unref(c->writer);
        free(c);
}

/* Others may have waited for a place on the bus; the oldest writers first. */
static void pump_all(Manager *m) {
        Writer *w;

        LIST_FOREACH(w, &m->writers, entries) {
                if (m->calls_in_flight >= LIMIT_CALLS_IN_FLIGHT)
                        return;
                if (!TAILQ_EMPTY(&w->calls))
                        writer_pump(w);
        }
}

static void call_finish(WriterCall *c, Outcome outcome, const Failure *failure, sd_bus_message *reply) {
        _cleanup_(writer_unrefp) Writer *w = writer_ref(c->writer);
        WriterCallDone done = c->done;
        void *userdata = c->userdata;
        WriterEvent event = c->event;
        bool was_full = w->manager->calls_in_flight >= CALLS_SLOW_MAX, was_sent = c->slot;

        if (event == EVENT_THAW || event == EVENT_ABORT || event == EVENT_BACKUP_SHUTDOWN)
                if (streq(w->frozen_for, c->set))
                        w->frozen_for[0] = '\0';
        call_destroy(c);
        if (outcome == OUTCOME_TIMEOUT && was_sent)
                w->unanswered++;
        else if (outcome != OUTCOME_TIMEOUT && outcome != OUTCOME_DIED)
                w->unanswered = 0;
        if (done)
                done(w, outcome, failure, reply, userdata);
        if (w->unanswered >= 2 && !w->lost)
                writer_lost(w);
        writer_pump(w);
        if (was_full)
                pump_all(w->manager);
}

static int on_reply(sd_bus_message *reply, void *userdata, sd_bus_error *error) {
        WriterCall *c = userdata;
        Failure f = { 0 };
        Outcome outcome = OUTCOME_OK;

        if (sd_bus_message_is_method_error(reply, NULL)) {
                (void) bus_failure_from_error(sd_bus_message_get_error(reply), &f);
                outcome = OUTCOME_FAILED;
                if (f.condition == CONDITION_UNAVAILABLE) {
                        outcome = OUTCOME_DIED;
                        (void) failure_set(&f, CONDITION_WRITER_LOST, "writer %s left the bus during %s",
                                           c->writer->reference, writer_event_to_string(c->event));
                }
        }
        call_finish(c, outcome, &f, reply);
        return 1;
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        WriterCall *c = userdata;
        Failure f;

        (void) failure_set(&f, CONDITION_DEADLINE_PASSED, "writer %s did not answer %s in time", c->writer->reference,
                           writer_event_to_string(c->event));
        call_finish(c, OUTCOME_TIMEOUT, &f, NULL);
        return 0;
}

static int on_defer(sd_event_source *source, void *userdata) {
        WriterCall *c = userdata;
        Failure f = { 0 };

        if (c->writer->lost)
                (void) failure_set(&f, CONDITION_WRITER_LOST, "writer %s left the bus before %s", c->writer->reference,
                                   writer_event_to_string(c->event));
        call_finish(c, c->writer->lost ? OUTCOME_DIED : OUTCOME_OK, &f, NULL);
        return 0;
}

bool writer_wants(const Writer *w, WriterEvent e) {
        return w->kind == WRITER_KIND_BUS && (e == EVENT_IDENTIFY || (w->events & (1u << e)));
}

static int call_send(WriterCall *c) {
        Manager *m = c->writer->manager;
        int r;

        r = sd_bus_call_async(m->bus, &c->slot, c->message, on_reply, c, UINT64_MAX);
        if (r < 0)
                return r;
        c->counted = true;
        m->calls_in_flight++;
        if (c->event == EVENT_FREEZE)
                memcpy(c->writer->frozen_for, c->set, sizeof c->set);
        return 0;
}

static bool ends_session(WriterEvent e) {
        return e == EVENT_ABORT || e == EVENT_BACKUP_SHUTDOWN;
}

static bool has_place(const WriterCall *c) {
        bool frees = c->writer->frozen_for[0] && streq(c->writer->frozen_for, c->set);
        bool has_clock = c->event == EVENT_FREEZE || ends_session(c->event);
        unsigned max = frees ? LIMIT_CALLS_IN_FLIGHT : has_clock ? CALLS_MAX : CALLS_SLOW_MAX;

        return c->writer->manager->calls_in_flight < max;
}

/* To the writer, or to the answer that nobody has to give; or it waits for a place. */
static void call_start(WriterCall *c) {
        Writer *w = c->writer;

        if (!w->lost && writer_wants(w, c->event)) {
                if (!has_place(c) || call_send(c) >= 0)
                        return;
                w->lost = true; /* what cannot be sent to cannot take part */
                w->manager->writers_due_usec = 0;
        }
        /* Without memory the timer settles it. */
        (void) sd_event_add_defer(w->manager->event, &c->defer, on_defer, c);
}

/* Sends the head of the queue if nothing is on the bus and nothing forbids it. */
static void writer_pump(Writer *w) {
        WriterCall *c = TAILQ_FIRST(&w->calls), *other;

        if (!c || c->slot || c->defer)
                return;
        if (w->frozen_for[0] && !streq(w->frozen_for, c->set)) {
                /* Nothing of another set comes between a Freeze and its Thaw: look for a call of the set it is frozen
                 * for. */
                TAILQ_FOREACH(other, &w->calls, entries)
                        if (streq(w->frozen_for, other->set))
                                break;
                if (!other)
                        return;
                TAILQ_REMOVE(&w->calls, other, entries);
                TAILQ_INSERT_HEAD(&w->calls, other, entries);
                c = other;
        }
        call_start(c);
}

/*
 * Every call of the same set before it gives way, sent or not; whoever waited for them has already been told otherwise.
 * A call of another set that is on its way stays, and this one goes beside it: a writer expects one call and an Abort.
 */
static void overtake(Writer *w, WriterCall *c) {
        WriterCall *other, *next;

        for (other = TAILQ_FIRST(&w->calls); other != c; other = next) {
                next = TAILQ_NEXT(other, entries);
                if (!streq(other->set, c->set))
                        continue;
                other->done = NULL;
                call_destroy(other);
        }
        other = TAILQ_FIRST(&w->calls);
        if (other == c)
                return;
        TAILQ_REMOVE(&w->calls, c, entries);
        if (other->slot || other->defer) {
                TAILQ_INSERT_AFTER(&w->calls, other, c, entries);
                call_start(c);
        } else
                TAILQ_INSERT_HEAD(&w->calls, c, entries);
}

int writer_call_message(Writer *w, WriterEvent e, const char *set, uint64_t deadline_usec, sd_bus_message **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        assert(e < _WRITER_EVENT_MAX);
        if (w->kind != WRITER_KIND_BUS || w->lost) { /* nobody to send to, but the queue still answers in order */
                *ret = NULL;
                return 0;
        }
        r = sd_bus_message_new_method_call(w->manager->bus, &m, w->bus_name, w->object, VSS_IFACE_WRITER,
                                           writer_event_member(e));
        if (r < 0)
                return r;
        (void) sd_bus_message_set_auto_start(m, false);
        r = e == EVENT_IDENTIFY ? sd_bus_message_append(m, "t", deadline_usec) :
                                  sd_bus_message_append(m, "st", set, deadline_usec);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(m);
        return 0;
}

int writer_call(Writer *w, WriterEvent e, const char *set, sd_bus_message *m, uint64_t deadline_usec,
                WriterCallDone done, void *userdata, WriterCall **ret) {
        WriterCall *c = calloc(1, sizeof *c);
        int r;

        if (!c)
                return -ENOMEM;
        *c = (WriterCall) { .writer = writer_ref(w),
                            .event = e,
                            .message = sd_bus_message_ref(m),
                            .deadline_usec = deadline_usec,
                            .done = done,
                            .userdata = userdata };
        memcpy(c->set, set, MIN_OF(strlen(set), (size_t) VSS_ID_LENGTH));
        TAILQ_INSERT_TAIL(&w->calls, c, entries);
        r = sd_event_add_time(w->manager->event, &c->timer, CLOCK_MONOTONIC, deadline_usec, 1000, on_timer, c);
        if (r < 0) {
                call_destroy(c);
                return r;
        }
        if (ends_session(e))
                overtake(w, c);
        if (ret)
                *ret = c;
        writer_pump(w);
        return 0;
}

bool writer_is_busy(const Writer *w) {
        const WriterCall *c;

        TAILQ_FOREACH(c, &w->calls, entries)
                if (c->set[0])
                        return true;
        return w->frozen_for[0];
}

WriterCall *writer_call_free(WriterCall *c) {
        if (!c)
                return NULL;
        c->done = NULL;
        if (!c->slot)
                call_destroy(c);
        return NULL;
}

void writer_forget(Writer *w, void *userdata) {
        WriterCall *c = TAILQ_FIRST(&w->calls), *next;

        for (; c; c = next) {
                next = TAILQ_NEXT(c, entries);
                if (c->userdata != userdata)
                        continue;
                if (ends_session(c->event) && !w->manager->stopping) /* the writer has to hear it all the same */
                        c->done = NULL;
                else
                        (void) writer_call_free(c);
        }
}

void writer_lost(Writer *w) {
        WriterCall *c;

        w->lost = true;
        w->manager->writers_due_usec = 0;
        w->frozen_for[0] = '\0';
        TAILQ_FOREACH(c, &w->calls, entries)
                call_off_bus(c);
        writer_pump(w);
        conductor_writer_lost(w->manager, w);
        manager_writer_changed(w->manager, w);
}

static struct WriterSession *find_session(Writer *w, const char *set) {
        for (unsigned i = 0; i < w->n_sessions; i++)
                if (streq(w->sessions[i].set, set))
                        return &w->sessions[i];
        return NULL;
}

void writer_set_session(Writer *w, const char *set, WriterState state, const Failure *failure) {
        struct WriterSession *s = find_session(w, set);

        if (!s && w->n_sessions == LIMIT_SESSIONS_PER_WRITER) { /* the oldest is no longer shown */
                memmove(w->sessions, w->sessions + 1, sizeof w->sessions - sizeof w->sessions[0]);
                w->n_sessions--;
        }
        if (!s) {
                s = &w->sessions[w->n_sessions++];
                *s = (struct WriterSession) { 0 };
                memcpy(s->set, set, MIN_OF(strlen(set), (size_t) VSS_ID_LENGTH));
        }
        s->state = state;
        if (s == &w->sessions[w->n_sessions - 1])
                w->state = state;
        if (failure && failure->condition != CONDITION_NONE)
                w->last_error = *failure;
        else if (state == WRITER_STABLE || state == WRITER_WAITING_FOR_BACKUP_COMPLETE)
                w->last_error = (Failure) { 0 };
        manager_writer_changed(w->manager, w);
}

/* A failed session stays visible as the writer's state until the next one begins; a good one ends in stable. */
void writer_end_session(Writer *w, const char *set) {
        struct WriterSession *s = find_session(w, set);
        size_t index;

        if (!s)
                return;
        index = (size_t) (s - w->sessions);
        memmove(s, s + 1, (w->n_sessions - index - 1) * sizeof *s);
        w->n_sessions--;
        if (w->n_sessions > 0)
                w->state = w->sessions[w->n_sessions - 1].state;
        else if (w->state != WRITER_UNKNOWN && w->state < WRITER_FAILED_AT_IDENTIFY)
                w->state = WRITER_STABLE;
        manager_writer_changed(w->manager, w);
}

Writer *writer_ref(Writer *w) {
        assert(w->n_ref > 0);
        w->n_ref++;
        return w;
}

Writer *writer_unref(Writer *w) {
        if (!w)
                return NULL;
        assert(w->n_ref > 0);
        if (--w->n_ref > 0)
                return NULL;
        assert(TAILQ_EMPTY(&w->calls)); /* every call holds a reference */
        sd_bus_slot_unref(w->slot_watch);
        (void) close_fd(w->lease_fd);
        metadata_free(w->metadata);
        free(w->metadata_text);
        free(w->name);
        free(w->instance);
        free(w->reference);
        free(w->version);
        free(w->bus_name);
        free(w->object);
        free(w->path);
        free(w);
        return NULL;
}
