/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who takes part in a restore and what it hears. A writer that does not answer PreRestore, or says no, costs its own
 * components and nothing else: nothing has been touched yet, and the rest of a restore may be what the administrator
 * needs most. A writer that may have closed its files hears PostRestore, because it sits there with its files closed:
 * one that answered well, and one whose answer came too late or made no sense, which is told that its components
 * failed. So is everybody if the requester went away.
 */
#include "daemon/restore.h"
#include "daemon/peers.h"
#include "daemon/plan.h"
#include "daemon/writer-register.h"
#include "protocol/text.h"
#include <syslog.h>

static void component_done(RestoreComponent *c) {
        free(c->writer);
        free(c->path);
        restore_wishes_done(&c->wishes);
        free(c->part_of);
        free(c->stamp);
        free(c->metadata);
        free(c->message);
        (void) sd_bus_message_unref(c->answer);
        free(c->status_message);
        strings_free(c->new_targets);
}

void restore_components_free(RestoreComponent *components, size_t n) {
        for (size_t i = 0; i < n; i++)
                component_done(components + i);
        free(components);
}

Restore *restore_free(Restore *r) {
        if (!r)
                return NULL;
        for (size_t i = 0; i < r->n_writers; i++) {
                writer_forget(r->writers[i].writer, r->writers + i);
                if (r->id[0])
                        writer_end_session(r->writers[i].writer, r->id);
                writer_unref(r->writers[i].writer);
        }
        if (r->id[0]) { /* listed */
                LIST_REMOVE(r, entries);
                r->manager->n_restores--;
                peers_unwatch(r->manager->peers, r->owner);
                manager_idle(r->manager);
        }
        sd_event_source_disable_unref(r->timer);
        sd_event_source_disable_unref(r->defer);
        restore_components_free(r->components, r->n_components);
        free(r->writers);
        free(r->by_path);
        free(r->owner);
        free(r);
        return NULL;
}

void restores_free(Manager *m) {
        while (!LIST_EMPTY(&m->restores))
                restore_free(LIST_FIRST(&m->restores));
}

Restore *restore_find(Manager *m, const char *id) {
        Restore *r;
        LIST_FOREACH(r, &m->restores, entries)
                if (streq(r->id, id))
                        return r;
        return NULL;
}

/* ---- who takes part ---- */

/* The running writer of that name and instance; a name without instance may have only one. */
static Writer *find_running(Manager *m, const char *name, const char *instance) {
        Writer *w;
        LIST_FOREACH(w, &m->writers, entries)
                if (!w->lost && streq(w->name, name) && streq(w->instance, instance))
                        return w;
        return NULL;
}

/* The one that registered anew is the same application, whose files are still being replaced. */
const Restore *restore_of_writer(const Manager *m, const Writer *w, bool parallel_too) {
        const Restore *r;
        LIST_FOREACH(r, &m->restores, entries)
                for (size_t i = 0; i < r->n_writers; i++)
                        if (streq(r->writers[i].writer->reference, w->reference) &&
                            (parallel_too || !r->writers[i].parallel))
                                return r;
        return NULL;
}

/* A set that is being made may call the level of its copy application: no files are replaced below it. */
static const Set *set_being_made(const Manager *m, const Writer *w) {
        const Set *s;
        TAILQ_FOREACH(s, &m->sets, entries)
                for (size_t i = 0; (s->state == SET_QUEUED || s->state == SET_RUNNING) && i < s->n_writers; i++)
                        if (streq_null(s->writers[i].reference, w->reference))
                                return s;
        return NULL;
}

static int join_writer(Restore *r, Writer *w, const Metadata *saved, Failure *reterr, RestoreWriter **ret) {
        bool parallel = restore_supports(saved, "parallel-restores");
        for (size_t i = 0; i < r->n_writers; i++)
                if (r->writers[i].writer == w) {
                        *ret = r->writers + i;
                        return 0;
                }
        const Restore *other = restore_of_writer(r->manager, w, /* parallel_too= */ false);
        if (other && !parallel)
                return failure_set(reterr, CONDITION_BUSY,
                                   "writer %s takes part in restore %s of %s and does not support two at once",
                                   w->reference, other->id, other->owner);
        const Set *set = set_being_made(r->manager, w);
        if (set)
                return failure_set(reterr, CONDITION_BUSY, "writer %s takes part in set %s, which is being made",
                                   w->reference, set->id);
        r->writers[r->n_writers] = (RestoreWriter) {
                .restore = r, .writer = writer_ref(w), .events = restore_events_of(saved), .parallel = parallel
        };
        *ret = r->writers + r->n_writers++;
        return 0;
}

static int copy_text(char **to, const char *from) {
        *to = from ? strdup(from) : NULL;
        return from && !*to ? -ENOMEM : 0;
}

static int choose(Restore *r, const ManifestWriter *mw, const Metadata *saved, RestoreComponent *c, Failure *reterr) {
        const ManifestComponent *mc = NULL;
        char what[320];
        (void) snprintf(what, sizeof(what), "%.150s:%.150s", c->writer, c->path);
        int k = restore_find_component(mw, saved, c->path, reterr, &mc);
        k = k < 0 ? k : restore_check_wishes(saved, what, &c->wishes, reterr);
        if (k < 0)
                return k;
        const char *instance = isempty(c->wishes.instance) ? mw->instance : c->wishes.instance;
        Writer *w = find_running(r->manager, mw->name, instance);
        if (!w)
                return failure_set(reterr, CONDITION_NOT_FOUND,
                                   "writer %s%s%s does not run: start it, or restore its files without it", mw->name,
                                   instance[0] ? "@" : "", instance);
        if (copy_text(&c->stamp, mc->stamp) < 0 || copy_text(&c->metadata, mc->metadata) < 0 ||
            copy_text(&c->part_of, streq(mc->path, c->path) ? NULL : mc->path) < 0)
                return -ENOMEM;
        return join_writer(r, w, saved, reterr, &c->by);
}

/* All components of one writer, whose document may have a megabyte: it is read once. */
static int choose_of(Restore *r, const ManifestWriter *mw, const ManifestWriter *const *of, bool dry_run,
                     Failure *reterr) {
        _cleanup_(metadata_freep) Metadata *saved = NULL;
        Failure document = {};
        bool readable = restore_read_document(mw, &document, &saved) >= 0;
        for (size_t i = 0; i < r->n_components; i++) {
                RestoreComponent *c = r->components + i;
                if (of[i] != mw)
                        continue;
                Failure *f = dry_run ? &c->failure : reterr;
                int k = readable ? choose(r, mw, saved, c, f) :
                                   failure_set(f, document.condition, "%s", document.message);
                if (k == -ENOMEM || (k < 0 && !dry_run))
                        return k;
        }
        return 0;
}

static int choose_all(Restore *r, const Manifest *manifest, bool dry_run, Failure *reterr) {
        _cleanup_free_ const ManifestWriter **of = calloc(r->n_components + 1, sizeof(*of));
        _cleanup_free_ bool *chosen = calloc(manifest->n_writers + 1, sizeof(*chosen));
        if (!of || !chosen)
                return -ENOMEM;
        for (size_t i = 0; i < r->n_components; i++) {
                RestoreComponent *c = r->components + i;
                int k = restore_find_writer(manifest, c->writer, dry_run ? &c->failure : reterr, of + i);
                if (k < 0 && !dry_run)
                        return k;
        }
        for (size_t i = 0; i < r->n_components; i++) {
                size_t index = of[i] ? (size_t) (of[i] - manifest->writers) : manifest->n_writers;
                if (!of[i] || chosen[index])
                        continue;
                chosen[index] = true;
                int k = choose_of(r, of[i], of, dry_run, reterr);
                if (k < 0)
                        return k;
        }
        return 0;
}

/* ---- finding a component among thousands ---- */

static int index_components(Restore *r, Failure *reterr) {
        r->by_path = calloc(r->n_components + 1, sizeof(*r->by_path));
        if (!r->by_path)
                return -ENOMEM;
        for (size_t i = 0; i < r->n_components; i++)
                r->by_path[i] = (PathEntry) { r->components[i].path, i };
        path_entries_sort(r->by_path, r->n_components);
        for (size_t i = 0; i < r->n_components; i++) {
                RestoreComponent *c = r->components + i;
                if (restore_component(r, c->writer, NULL, c->path) != c)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s:%s is named twice", c->writer,
                                           c->path);
        }
        return 0;
}

RestoreComponent *restore_component(const Restore *r, const char *writer, const RestoreWriter *by, const char *path) {
        const PathEntry *e = path_entries_find(r->by_path, r->n_components, path, strlen(path));
        for (; e && e < r->by_path + r->n_components && streq(e->path, path); e++) {
                RestoreComponent *c = r->components + e->index;
                if (writer ? streq(c->writer, writer) : c->by == by)
                        return c;
        }
        return NULL;
}

static int on_session_max(sd_event_source *source, uint64_t usec, void *userdata) {
        restore_abandon(userdata, "session_max");
        return 0;
}

static int list(Restore *r, const char *owner) {
        Manager *m = r->manager;
        uint64_t max = m->settings.session_max_usec;
        char id[VSS_ID_LENGTH + 1];
        int k = id_new(id);
        k = k < 0 ? k : copy_text(&r->owner, owner);
        k = k < 0 ? k : peers_watch(m->peers, owner);
        if (k < 0)
                return k;
        memcpy(r->id, id, sizeof(id));
        LIST_INSERT_HEAD(&m->restores, r, entries);
        m->n_restores++;
        manager_busy(m);
        if (max == USEC_INFINITY)
                return 0;
        return sd_event_add_time(m->event, &r->timer, CLOCK_MONOTONIC, usec_add(now_usec(), max), USEC_PER_SEC,
                                 on_session_max, r);
}

int restore_new(Manager *m, const char *owner, uid_t owner_uid, const Manifest *manifest, RestoreComponent *components,
                size_t n_components, bool dry_run, Failure *reterr, Restore **ret) {
        _cleanup_(restore_freep) Restore *r = calloc(1, sizeof(*r));
        assert(m && owner && manifest && ret);
        if (!r) {
                restore_components_free(components, n_components);
                return -ENOMEM;
        }
        r->manager = m;
        r->owner_uid = owner_uid;
        r->components = components;
        r->n_components = n_components;
        r->backup_type = manifest->type;
        memcpy(r->backup_set, manifest->set, MIN_OF(strlen(manifest->set), (size_t) VSS_ID_LENGTH));
        r->writers = calloc(n_components + 1, sizeof(*r->writers));
        if (!r->writers)
                return -ENOMEM;
        if (!dry_run && m->n_restores >= LIMIT_RESTORES)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "%d restores are under way already",
                                   LIMIT_RESTORES);
        int k = index_components(r, reterr);
        k = k < 0 ? k : choose_all(r, manifest, dry_run, reterr);
        if (k >= 0 && !dry_run)
                k = list(r, owner);
        if (k < 0)
                return k;
        *ret = TAKE_PTR(r);
        return 0;
}

/* ---- the two events ---- */

static void finished(Restore *r) {
        RestoreDone done = r->done;
        if (r->n_calling > 0)
                return;
        r->done = NULL;
        if (done)
                done(r, r->userdata);
}

static void fail_components(RestoreWriter *w, const Failure *f) {
        Restore *r = w->restore;
        for (size_t i = 0; i < r->n_components; i++)
                if (r->components[i].by == w && r->components[i].failure.condition == CONDITION_NONE)
                        r->components[i].failure = *f;
}

static void log_outcome(const RestoreWriter *w, const char *event) {
        const Restore *r = w->restore;
        if (w->failure.condition == CONDITION_NONE)
                manager_log_writer(r->manager, LOG_INFO, r->id, w->writer->reference, "restore: writer %s answered %s",
                                   w->writer->reference, event);
        else
                manager_log_writer(r->manager, LOG_WARNING, r->id, w->writer->reference,
                                   "restore: writer %s failed at %s: %s", w->writer->reference, event,
                                   w->failure.message);
}

static void keep_failure(RestoreWriter *w, WriterEvent e, const Failure *failure) {
        w->failure = (Failure) {};
        if (failure && failure->condition != CONDITION_NONE) {
                w->failure = *failure;
                w->failure.condition = condition_from_writer(failure->condition);
        }
        bool failed = w->failure.condition != CONDITION_NONE;
        writer_set_session(w->writer, w->restore->id, failed ? writer_state_failed(e) : writer_state_after(e),
                           failed ? &w->failure : NULL);
        log_outcome(w, writer_event_to_string(e));
}

static void call_post(RestoreWriter *w);

static void on_pre_restore(Writer *writer, Outcome outcome, const Failure *failure, sd_bus_message *reply,
                           void *userdata) {
        RestoreWriter *w = userdata;
        Restore *r = w->restore;
        Failure f = {};
        w->calling = false;
        r->n_calling--;
        if (outcome == OUTCOME_OK && reply && restore_session_read(r, w, reply, &f) < 0)
                failure = &f;
        keep_failure(w, EVENT_PRE_RESTORE, failure);
        w->refused = w->failure.condition != CONDITION_NONE;
        w->entered = outcome == OUTCOME_OK || outcome == OUTCOME_TIMEOUT;
        if (w->refused)
                fail_components(w, &w->failure);
        if (w->entered && r->gone)
                call_post(w);
        finished(r);
}

static void on_post_restore(Writer *writer, Outcome outcome, const Failure *failure, sd_bus_message *reply,
                            void *userdata) {
        RestoreWriter *w = userdata;
        Restore *r = w->restore;
        Failure f = {};
        w->calling = w->entered = false;
        r->n_calling--;
        if (outcome == OUTCOME_OK && reply && restore_session_read(r, w, reply, &f) < 0)
                failure = &f;
        keep_failure(w, EVENT_POST_RESTORE, failure);
        finished(r);
}

static int send_event(RestoreWriter *w, bool post) {
        Restore *r = w->restore;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        uint64_t deadline = usec_add(now_usec(), r->manager->settings.budgets.restore);
        WriterEvent e = post ? EVENT_POST_RESTORE : EVENT_PRE_RESTORE;
        int k = writer_call_message(w->writer, e, r->id, deadline, &m);
        if (k >= 0 && m)
                k = restore_session_append(r, w, post, deadline, m);
        return k < 0 ? k :
                       writer_call(w->writer, e, r->id, m, deadline, post ? on_post_restore : on_pre_restore, w, NULL);
}

static void call_writer(RestoreWriter *w, bool post) {
        Failure f = {};
        w->calling = true;
        w->restore->n_calling++;
        int k = send_event(w, post);
        if (k >= 0)
                return;
        (void) failure_set(&f, CONDITION_FAILED, "writer %s cannot be called: %s", w->writer->reference, strerror(-k));
        w->calling = w->entered = false;
        w->restore->n_calling--;
        keep_failure(w, post ? EVENT_POST_RESTORE : EVENT_PRE_RESTORE, &f);
        if (!post)
                fail_components(w, &w->failure);
}

static bool replace_failed(const RestoreWriter *w) {
        const Restore *r = w->restore;
        for (size_t i = 0; i < r->n_components; i++) {
                const RestoreComponent *c = r->components + i;
                if (c->by == w && (c->status != RESTORE_STATUS_ALL || c->alternate_used))
                        return true;
        }
        return false;
}

/* What it was asked to close nobody replaced, whatever the requester reports of it. */
static void report_refused(RestoreWriter *w) {
        Restore *r = w->restore;
        for (size_t i = 0; i < r->n_components; i++)
                if (r->components[i].by == w)
                        r->components[i].status = RESTORE_STATUS_FAILED;
}

static void call_post(RestoreWriter *w) {
        if (w->refused)
                report_refused(w);
        if (w->entered && !w->calling && (w->events != RESTORE_EVENTS_IF_REPLACE_FAILS || replace_failed(w)))
                call_writer(w, true);
        else
                w->entered = false;
}

static int on_defer(sd_event_source *source, void *userdata) {
        Restore *r = userdata;
        r->defer = sd_event_source_disable_unref(r->defer);
        finished(r);
        return 0;
}

/* Answers never come from within the call that asks: done may free the session. */
static void finish_later(Restore *r) {
        if (r->n_calling == 0 && !r->defer && sd_event_add_defer(r->manager->event, &r->defer, on_defer, r) < 0)
                finished(r);
}

void restore_enter(Restore *r, RestoreDone done, void *userdata) {
        r->state = RESTORE_ENTERING;
        r->done = done;
        r->userdata = userdata;
        manager_log(r->manager, LOG_INFO, r->id, "restore: %zu components of %zu writers for uid %u (%s)",
                    r->n_components, r->n_writers, (unsigned) r->owner_uid, r->owner);
        for (size_t i = 0; i < r->n_writers; i++)
                if (r->writers[i].events != RESTORE_EVENTS_NEVER)
                        call_writer(r->writers + i, false);
        finish_later(r);
}

void restore_leave(Restore *r, RestoreDone done, void *userdata) {
        assert(r->state == RESTORE_COPYING);
        r->state = RESTORE_LEAVING;
        r->done = done;
        r->userdata = userdata;
        for (size_t i = 0; i < r->n_writers; i++)
                call_post(r->writers + i);
        finish_later(r);
}

static void on_abandoned(Restore *r, void *userdata) {
        restore_free(r);
}

void restore_abandon(Restore *r, const char *reason) {
        if (r->gone)
                return;
        manager_log(r->manager, LOG_WARNING, r->id, "restore: ended without PostRestore (%s), writers hear failed",
                    reason);
        r->gone = true;
        r->reason = reason;
        if (r->state == RESTORE_LEAVING) /* they hear what the requester reported */
                return;
        for (size_t i = 0; i < r->n_components; i++)
                r->components[i].status = RESTORE_STATUS_FAILED;
        for (size_t i = 0; i < r->n_writers; i++)
                call_post(r->writers + i);
        if (r->state == RESTORE_ENTERING) /* whoever waits for it sees that it is gone */
                return;
        r->state = RESTORE_LEAVING;
        r->done = on_abandoned;
        finish_later(r);
}

void restores_peer_gone(Manager *m, const char *bus_name) {
        Restore *r, *following;
        for (r = LIST_FIRST(&m->restores); r; r = following) {
                following = LIST_NEXT(r, entries);
                if (streq(r->owner, bus_name))
                        restore_abandon(r, "requester-gone");
        }
}

void restores_stop(Manager *m) {
        Restore *r, *following;
        for (r = LIST_FIRST(&m->restores); r; r = following) {
                following = LIST_NEXT(r, entries);
                restore_abandon(r, "stopping");
        }
}
