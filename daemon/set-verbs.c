/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What happens to a set once it exists: Complete (BackupComplete, then BackupShutdown), Delete (BackupShutdown if
 * nobody completed it, unmount, remove), the end of its session. One verb at a time per set; each is a chain of steps
 * in which the writers are called in parallel and the copies removed one after the other, going on after an error and
 * reporting every result.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include "daemon/mounts.h"
#include "daemon/revert.h"
#include "protocol/text.h"
#include "providers/vss-provider.h"
#include <stdio.h>

typedef struct VerbWriter {
        SetVerb *verb;
        unsigned index;
        WriterEvent event;
} VerbWriter;

struct SetVerb {
        Set *set;
        SetDone done;
        void *userdata;
        void (*next)(SetVerb *v); /* after all writers have answered */
        bool force, deleting;
        const char *reason; /* for BackupShutdown */
        SetResult *results;
        size_t n_results;
        unsigned waiting;
        VerbWriter *writers;
        Snapshot *only; /* delete this one alone */
        Snapshot *current;
        ProviderJob *job;
        struct vss_wire_request *request;
        sd_event_source *defer;
};

static SetVerb *verb_free(SetVerb *v) {
        for (size_t i = 0; v->writers && i < v->set->n_writers; i++)
                if (v->set->writers[i].writer)
                        writer_forget(v->set->writers[i].writer, &v->writers[i]);
        for (size_t i = 0; i < v->n_results; i++)
                free(v->results[i].name);
        provider_job_free(v->job);
        sd_event_source_disable_unref(v->defer);
        free(v->results);
        free(v->writers);
        free(v->request);
        v->set->verb = NULL;
        manager_idle(v->set->manager);
        free(v);
        return NULL;
}

static int verb_new(Set *s, SetDone done, void *userdata, Failure *reterr, SetVerb **ret) {
        SetVerb *v;

        if (s->verb)
                return failure_set(reterr, CONDITION_BUSY, "set %s is being completed or deleted already", s->id);
        v = calloc(1, sizeof *v);
        if (v)
                *v = (SetVerb) { .set = s,
                                 .done = done,
                                 .userdata = userdata,
                                 .writers = calloc(s->n_writers + 1, sizeof *v->writers),
                                 .results = calloc(s->n_writers + s->n_snapshots + 1, sizeof *v->results),
                                 .request = calloc(1, sizeof *v->request) };
        if (!v || !v->writers || !v->results || !v->request) {
                if (v) {
                        free(v->writers);
                        free(v->results);
                        free(v->request);
                        free(v);
                }
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        }
        s->verb = v;
        manager_busy(s->manager);
        *ret = v;
        return 0;
}

void set_verb_cancel(Set *s) {
        if (s->verb)
                (void) verb_free(s->verb);
}

static void add_result(SetVerb *v, const char *name, const Failure *failure) {
        v->results[v->n_results++] = (SetResult) { .name = strdup(name),
                                                   .failure = failure ? *failure : (Failure) { 0 } };
}

static void verb_finish(SetVerb *v) {
        Set *s = v->set;
        SetDone done = v->done;
        void *userdata = v->userdata;
        SetResult *results = TAKE_PTR(v->results);
        size_t n = v->n_results;
        const Failure *first = NULL;

        v->n_results = 0;
        (void) verb_free(v);
        for (size_t i = 0; i < n && !first; i++)
                if (results[i].failure.condition != CONDITION_NONE)
                        first = &results[i].failure;
        if (done)
                done(first, results, n, userdata);
        for (size_t i = 0; i < n; i++)
                free(results[i].name);
        free(results);
        if (s->owner_gone && s->state == SET_COMPLETED)
                set_owner_gone(s);
}

/* Writers */

static void on_answer(Writer *w, Outcome outcome, const Failure *failure, sd_bus_message *reply, void *userdata) {
        VerbWriter *vw = userdata;
        SetVerb *v = vw->verb;
        SetWriter *sw = &v->set->writers[vw->index];
        size_t before = strings_count(sw->failures);
        Failure f = { 0 };

        if (outcome == OUTCOME_OK && session_read_reply(sw, vw->event, reply, &f) < 0) {
                outcome = OUTCOME_FAILED;
                failure = &f;
        }
        trace_end(&sw->events, now_usec(), outcome);
        if (outcome != OUTCOME_OK)
                sw->state = writer_state_failed(vw->event);
        else if (sw->failure.condition == CONDITION_NONE) /* a failure stays visible until the next session */
                sw->state = writer_state_after(vw->event);
        writer_set_session(w, v->set->id, sw->state, outcome == OUTCOME_OK ? NULL : failure);
        if (outcome != OUTCOME_OK)
                sw->failure = *failure;
        if (vw->event == EVENT_BACKUP_COMPLETE)
                add_result(v, sw->reference,
                           outcome != OUTCOME_OK                ? failure :
                           strings_count(sw->failures) > before ? &sw->partial :
                                                                  NULL);
        if (vw->event == EVENT_BACKUP_SHUTDOWN)
                writer_end_session(w, v->set->id);
        if (--v->waiting == 0)
                v->next(v);
}

static int call_one(SetVerb *v, unsigned index, WriterEvent e, uint64_t deadline_usec) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        SetWriter *sw = &v->set->writers[index];
        int r;

        v->writers[index] = (VerbWriter) { .verb = v, .index = index, .event = e };
        trace_begin(&sw->events, writer_event_to_string(e), now_usec(), deadline_usec);
        r = writer_call_message(sw->writer, e, v->set->id, deadline_usec, &m);
        if (r >= 0 && m)
                r = session_append(v->set, sw, e, deadline_usec, USEC_INFINITY,
                                   e == EVENT_BACKUP_SHUTDOWN ? v->reason : NULL, m);
        if (r >= 0)
                r = writer_call(sw->writer, e, v->set->id, m, deadline_usec, on_answer, &v->writers[index], NULL);
        if (r >= 0)
                v->waiting++;
        return r;
}

static int on_nobody(sd_event_source *source, void *userdata) {
        SetVerb *v = userdata;

        v->defer = sd_event_source_disable_unref(v->defer);
        v->next(v);
        return 0;
}

/* A set that was made by an earlier vssd finds its writers again by name. */
static void find_writer(Set *s, SetWriter *sw) {
        if (sw->writer && sw->writer->lost) {
                Writer *again = manager_find_writer(s->manager, sw->reference);
                if (again && again != sw->writer && !again->lost) {
                        writer_unref(sw->writer);
                        sw->writer = writer_ref(again);
                        sw->resumed = true;
                }
        } else if (!sw->writer) {
                Writer *found = manager_find_writer(s->manager, sw->reference);
                sw->writer = found ? writer_ref(found) : NULL;
        }
}

static void call_writers(SetVerb *v, WriterEvent e, uint64_t budget_usec, void (*next)(SetVerb *v)) {
        uint64_t deadline = usec_add(now_usec(), budget_usec);
        Failure f;

        v->next = next;
        for (unsigned i = 0; i < v->set->n_writers; i++) {
                SetWriter *sw = &v->set->writers[i];
                if (sw->dropped)
                        continue;
                if (e == EVENT_BACKUP_COMPLETE && !sw->notify) {
                        add_result(v, sw->reference, NULL);
                        continue;
                }
                find_writer(v->set, sw);
                if (sw->writer && !sw->writer->lost && call_one(v, i, e, deadline) >= 0)
                        continue;
                if (e != EVENT_BACKUP_COMPLETE)
                        continue;
                (void) failure_set(&f, CONDITION_WRITER_LOST, "writer %s is no longer there to be told", sw->reference);
                add_result(v, sw->reference, &f);
        }
        if (v->waiting == 0 && sd_event_add_defer(v->set->manager->event, &v->defer, on_nobody, v) < 0)
                next(v);
}

/* Complete */

static void completed(SetVerb *v) {
        set_set_state(v->set, SET_COMPLETED);
        set_store(v->set);
        verb_finish(v);
}

static void complete_shutdown(SetVerb *v) {
        v->set->phase = PHASE_BACKUP_SHUTDOWN;
        v->reason = "completed";
        call_writers(v, EVENT_BACKUP_SHUTDOWN, v->set->manager->settings.budgets.abort, completed);
}

static int mark_components(Set *s, bool success, const SetMark *marks, size_t n_marks, Failure *reterr) {
        for (size_t i = 0; i < s->n_writers; i++) {
                SetWriter *w = &s->writers[i];
                size_t n = w->components ? strings_count(w->components) : 0;
                free(w->succeeded);
                w->succeeded = malloc(n + 1);
                if (!w->succeeded)
                        return failure_set(reterr, CONDITION_FAILED, "out of memory");
                memset(w->succeeded, success, n + 1);
        }
        for (size_t k = 0; k < n_marks; k++) {
                bool found = false;
                for (size_t i = 0; i < s->n_writers; i++)
                        for (size_t j = 0; s->writers[i].components && s->writers[i].components[j]; j++)
                                if ((streq(s->writers[i].reference, marks[k].writer) ||
                                     streq(s->writers[i].name, marks[k].writer)) &&
                                    streq(s->writers[i].components[j], marks[k].path)) {
                                        s->writers[i].succeeded[j] = marks[k].succeeded;
                                        found = true;
                                }
                if (!found)
                        return failure_set(reterr, CONDITION_NOT_FOUND, "set %s has no component %s:%s", s->id,
                                           marks[k].writer, marks[k].path);
        }
        return 0;
}

int set_complete(Set *s, bool success, const SetMark *marks, size_t n_marks, SetDone done, void *userdata,
                 Failure *reterr) {
        SetVerb *v;
        int r;

        if (s->state != SET_CREATED)
                return failure_set(reterr, CONDITION_BAD_STATE,
                                   "set %s is %s; only a created set can be completed, once", s->id,
                                   set_state_to_string(s->state));
        r = mark_components(s, success, marks, n_marks, reterr);
        if (r >= 0)
                r = verb_new(s, done, userdata, reterr, &v);
        if (r < 0)
                return r;
        s->phase = PHASE_BACKUP_COMPLETE;
        s->completed_at_usec = clock_usec(CLOCK_REALTIME);
        set_set_state(s, SET_COMPLETING);
        call_writers(v, EVENT_BACKUP_COMPLETE, s->manager->settings.budgets.backup_complete, complete_shutdown);
        return 0;
}

void set_end_session(Set *s, const char *reason) {
        SetVerb *v;

        if (s->state != SET_CREATED || verb_new(s, NULL, NULL, NULL, &v) < 0)
                return;
        v->reason = reason;
        set_set_state(s, SET_COMPLETING);
        s->phase = PHASE_BACKUP_SHUTDOWN;
        call_writers(v, EVENT_BACKUP_SHUTDOWN, s->manager->settings.budgets.abort, completed);
}

/* Delete */

static void delete_next(SetVerb *v);

static void request_for(SetVerb *v, uint32_t op) {
        memset(v->request, 0, sizeof *v->request);
        v->request->op = op;
        memcpy(v->request->set, v->set->id, sizeof v->request->set);
        memcpy(v->request->snapshot, v->current->id, sizeof v->request->snapshot);
        if (v->force)
                v->request->flags = VSS_CALL_FORCE;
}

static void drop_snapshot(SetVerb *v) {
        Set *s = v->set;
        char id[VSS_ID_LENGTH + 1];

        memcpy(id, v->current->id, sizeof id);
        (void) snapshot_free(v->current);
        v->current = NULL;
        manager_snapshot_removed(s->manager, id);
        manager_set_changed(s->manager, s);
}

static void on_removed(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        SetVerb *v = userdata;
        bool gone = !failure || failure->condition == CONDITION_NOT_FOUND;

        (void) close_fd(fd);
        v->job = provider_job_free(v->job);
        add_result(v, v->current->id, gone ? NULL : failure);
        if (gone)
                drop_snapshot(v);
        delete_next(v);
}

static void start_job(SetVerb *v, ProviderDone done) {
        Manager *m = v->set->manager;
        Failure f;
        int r;

        r = provider_job_new(m->event, v->current->provider, v->request, -1, m->settings.budgets.provider, NULL, done,
                             v, &v->job);
        if (r >= 0)
                return;
        (void) failure_set(&f, CONDITION_PROVIDER_LOST, "provider %s cannot be started: %s", v->current->provider,
                           provider_start_error(r));
        done(NULL, -EBADF, &f, v);
}

static void remove_current(SetVerb *v) {
        mounts_drop(v->set->manager->mounts, v->current->id, NULL);
        request_for(v, VSS_WIRE_REMOVE);
        start_job(v, on_removed);
}

static Snapshot *next_to_delete(SetVerb *v) {
        Snapshot *s;

        LIST_FOREACH(s, &v->set->snapshots, entries) {
                bool tried = false;
                for (size_t i = 0; i < v->n_results; i++)
                        tried |= v->results[i].name && streq(v->results[i].name, s->id);
                if (!tried && (!v->only || v->only == s))
                        return s;
        }
        return NULL;
}

static void deleted(SetVerb *v) {
        Set *s = v->set;
        bool all = LIST_EMPTY(&s->snapshots);

        if (all)
                set_set_state(s, SET_DELETED);
        else if (v->deleting)
                set_set_state(s, SET_COMPLETED); /* what could not be removed is still there and still listed */
        set_store(s);
        verb_finish(v);
}

static void delete_next(SetVerb *v) {
        Failure f;

        for (;;) {
                v->current = next_to_delete(v);
                if (!v->current) {
                        deleted(v);
                        return;
                }
                if (v->current->pinned && !v->force)
                        (void) failure_set(&f, CONDITION_PINNED, "snapshot %s is pinned", v->current->id);
                else if (v->current->mounts && v->current->mounts[0] && !v->force)
                        (void) failure_set(&f, CONDITION_BUSY,
                                           "snapshot %s is mounted at %s; unmount it or use --force", v->current->id,
                                           v->current->mounts[0]);
                else if (reverts_are_at(v->set->manager, v->current->id))
                        (void) failure_set(&f, CONDITION_BUSY, "a volume is being reverted to snapshot %s",
                                           v->current->id);
                else {
                        remove_current(v);
                        return;
                }
                add_result(v, v->current->id, &f);
        }
}

static void delete_copies(SetVerb *v) {
        if (v->deleting && v->set->state != SET_DELETING)
                set_set_state(v->set, SET_DELETING);
        delete_next(v);
}

static int may_delete(const Set *s, Failure *reterr) {
        if (s->state == SET_CREATED || s->state == SET_COMPLETED)
                return 0;
        if (s->state == SET_QUEUED || s->state == SET_RUNNING)
                return failure_set(reterr, CONDITION_BUSY, "set %s is still being made; cancel it", s->id);
        return failure_set(reterr, CONDITION_BAD_STATE, "set %s is %s", s->id, set_state_to_string(s->state));
}

static int start_delete(Set *s, Snapshot *only, bool force, SetDone done, void *userdata, Failure *reterr) {
        SetVerb *v;
        int r;

        r = may_delete(s, reterr);
        if (r >= 0)
                r = verb_new(s, done, userdata, reterr, &v);
        if (r < 0)
                return r;
        v->force = force;
        v->only = only;
        v->reason = s->owner_gone ? "requester-gone" : "deleted";
        v->deleting = !only || s->n_snapshots == 1;
        if (v->deleting && s->state == SET_CREATED)
                call_writers(v, EVENT_BACKUP_SHUTDOWN, s->manager->settings.budgets.abort, delete_copies);
        else {
                v->next = delete_copies;
                r = sd_event_add_defer(s->manager->event, &v->defer, on_nobody, v);
                if (r < 0)
                        delete_copies(v);
        }
        return 0;
}

int set_delete(Set *s, bool force, SetDone done, void *userdata, Failure *reterr) {
        return start_delete(s, NULL, force, done, userdata, reterr);
}

int snapshot_delete(Snapshot *snapshot, bool force, SetDone done, void *userdata, Failure *reterr) {
        return start_delete(snapshot->set, snapshot, force, done, userdata, reterr);
}

void set_owner_gone(Set *s) {
        Failure why = { .condition = CONDITION_CANCELLED, .message = "the requester left the bus" };

        s->owner_gone = true;
        s->owner_track = sd_bus_track_unref(s->owner_track);
        if (s->session != SESSION_BOUND && s->options.session != SESSION_BOUND)
                return;
        if (s->conductor) {
                (void) conductor_cancel(s->conductor, &why, false); /* too late: set_creation_over() comes back here */
                return;
        }
        if (s->verb)
                return; /* verb_finish() comes back here */
        if (s->options.lifetime == LIFETIME_AUTO_RELEASE && (s->state == SET_CREATED || s->state == SET_COMPLETED))
                (void) set_delete(s, true, NULL, NULL, NULL);
        else if (s->state == SET_CREATED)
                set_end_session(s, "requester-gone");
}
