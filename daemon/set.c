/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Lifetime and state of a set. set_set_state() is the only way a state changes; it announces, answers who waits and
 * lets nothing happen that the table of legal transitions does not know. What a set does while it is made: conductor.c;
 * afterwards: set-verbs.c.
 */
#include "daemon/set.h"
#include "daemon/conductor.h"
#include "daemon/exclude.h"
#include "daemon/manager.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <stdio.h>
#include <systemd/sd-id128.h>

void trace_begin(Trace *t, const char *name, uint64_t now, uint64_t deadline_usec) {
        if (t->n == TRACE_STEPS_MAX)
                return;
        t->steps[t->n++] = (TraceStep) { .name = name,
                                         .start_usec = now,
                                         .outcome = OUTCOME_RUNNING,
                                         .budget_usec = deadline_usec == USEC_INFINITY ? USEC_INFINITY :
                                                        deadline_usec > now            ? deadline_usec - now :
                                                                                         0 };
}

void trace_end(Trace *t, uint64_t now, Outcome outcome) {
        if (t->n == 0 || t->steps[t->n - 1].end_usec)
                return;
        t->steps[t->n - 1].end_usec = now;
        t->steps[t->n - 1].outcome = outcome;
}

static void component_options_free(SetComponentOption *list, size_t n) {
        for (size_t i = 0; i < n; i++) {
                free(list[i].writer);
                free(list[i].path);
                free(list[i].options);
                free(list[i].previous_stamp);
        }
        free(list);
}

const SetVolumeOption *set_options_of(const SetOptions *o, const Volume *v) {
        for (size_t i = 0; v->argument && i < o->n_volumes; i++)
                if (streq(o->volumes[i].volume, v->argument))
                        return &o->volumes[i];
        return NULL;
}

const char *set_options_mode(const SetOptions *o, const Volume *v) {
        const SetVolumeOption *own = set_options_of(o, v);
        if (own && !isempty(own->mode))
                return own->mode;
        return isempty(o->mode) ? NULL : o->mode;
}

void set_options_done(SetOptions *o) {
        for (size_t i = 0; i < o->n_volumes; i++) {
                free(o->volumes[i].volume);
                free(o->volumes[i].provider);
                free(o->volumes[i].mode);
                free(o->volumes[i].storage);
        }
        free(o->volumes);
        component_options_free(o->components, o->n_components);
        component_options_free(o->stamps, o->n_stamps);
        strings_free(o->writers);
        strings_free(o->exclude_writers);
        strings_free(o->require_writers);
        strings_free(o->freeze_units);
        strings_free(o->labels);
        strings_free(o->writer_options);
        free(o->requester);
        free(o->provider);
        free(o->mode);
        free(o->reason);
        *o = (SetOptions) { 0 };
}

Snapshot *snapshot_new(Set *s, const Volume *v, const char *provider) {
        Snapshot *n = calloc(1, sizeof *n);

        if (!n)
                return NULL;
        n->set = s;
        n->volume = strdup(v->argument ? v->argument : v->name);
        n->name = strdup(v->name);
        n->mount_point = v->mount_point ? strdup(v->mount_point) : NULL;
        n->fs_type = v->fs_type ? strdup(v->fs_type) : NULL;
        n->fs_uuid = v->fs_uuid ? strdup(v->fs_uuid) : NULL;
        n->provider = strdup(provider);
        n->size_bytes = v->size_bytes;
        if (n->volume && n->name && n->provider)
                return n;
        n->set = NULL;
        return snapshot_free(n);
}

Snapshot *snapshot_free(Snapshot *n) {
        if (!n)
                return NULL;
        if (n->set && n->entries.le_prev) {
                LIST_REMOVE(n, entries);
                n->set->n_snapshots--;
        }
        free(n->volume);
        free(n->name);
        free(n->mount_point);
        free(n->device);
        free(n->path);
        free(n->provider);
        free(n->token);
        free(n->fs_type);
        free(n->fs_uuid);
        strings_free(n->mounts);
        free(n);
        return NULL;
}

static const SetComponentOption *find_option(const SetComponentOption *list, size_t n, const SetWriter *w,
                                             const char *path) {
        for (size_t i = 0; i < n; i++)
                if (streq(list[i].path, path) &&
                    streq(list[i].writer, strchr(list[i].writer, '@') ? w->reference : w->name))
                        return &list[i];
        return NULL;
}

const SetComponentOption *set_component_option(const Set *s, const SetWriter *w, const char *path) {
        return find_option(s->options.components, s->options.n_components, w, path);
}

const char *set_previous_stamp(const Set *s, const SetWriter *w, const char *path) {
        const SetComponentOption *o = set_component_option(s, w, path);

        if (!o || !o->previous_stamp)
                o = find_option(s->options.stamps, s->options.n_stamps, w, path);
        return o ? o->previous_stamp : NULL;
}

const char *set_writer_option(const SetWriter *w, const char *option) {
        const char *const names[] = { w->reference, w->name };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                size_t n = strlen(names[i]);
                if (strncmp(option, names[i], n) == 0 && option[n] == ':')
                        return option + n + 1;
        }
        return NULL;
}

static void set_writer_done(SetWriter *w) {
        writer_unref(w->writer);
        free(w->reference);
        free(w->name);
        free(w->instance);
        free(w->metadata_text);
        strings_free(w->components);
        strings_free(w->implicit);
        strings_free(w->stamps);
        strings_free(w->private_metadata);
        strings_free(w->partial_files);
        strings_free(w->differenced_files);
        strings_free(w->failures);
        free(w->succeeded);
}

Set *set_free(Set *s) {
        if (!s)
                return NULL;
        set_verb_cancel(s);
        s->conductor = conductor_free(s->conductor);
        set_exclusions_free(s->exclusions);
        free(s->exclude_text);
        free(s->excluded_text);
        for (unsigned i = 0; i < s->n_waiters; i++)
                sd_bus_message_unref(s->waiters[i]);
        while (!LIST_EMPTY(&s->snapshots))
                snapshot_free(LIST_FIRST(&s->snapshots));
        for (size_t i = 0; i < s->n_writers; i++)
                set_writer_done(&s->writers[i]);
        if (!s->volumes_borrowed)
                for (size_t i = 0; i < s->n_volumes; i++)
                        volume_free(s->volumes[i]);
        if (s->manager && s->entries.tqe_prev) {
                TAILQ_REMOVE(&s->manager->sets, s, entries);
                s->manager->n_sets--;
                if (s->manager->window == s)
                        s->manager->window = NULL;
        }
        sd_event_source_disable_unref(s->session_timer);
        sd_bus_track_unref(s->owner_track);
        set_options_done(&s->options);
        strings_free(s->warnings);
        free(s->volumes);
        free(s->writers);
        free(s->path);
        free(s->owner);
        free(s->record_text);
        free(s->manifest_text);
        free(s);
        return NULL;
}

static unsigned count_running(const Manager *m) {
        const Set *s;
        unsigned n = 0;

        TAILQ_FOREACH(s, &m->sets, entries)
                n += s->conductor != NULL;
        return n;
}

/* Old sets that are records only give way to new ones. */
static void forget_old_records(Manager *m) {
        Set *s = TAILQ_FIRST(&m->sets), *next;
        unsigned n = 0;

        TAILQ_FOREACH(s, &m->sets, entries)
                n += s->state == SET_ABORTED || s->state == SET_DELETED;
        for (s = TAILQ_FIRST(&m->sets); s && n > LIMIT_SET_RECORDS; s = next) {
                next = TAILQ_NEXT(s, entries);
                if ((s->state != SET_ABORTED && s->state != SET_DELETED) || s->verb || s->conductor)
                        continue;
                (void) catalogue_remove(m->catalogue, s->id, NULL, NULL);
                manager_set_removed(m, s);
                set_free(s);
                n--;
        }
}

static int on_owner_gone(sd_bus_track *track, void *userdata) {
        set_owner_gone(userdata);
        return 0;
}

static int take_owner(Set *s, sd_bus_message *requester) {
        const char *sender = sd_bus_message_get_sender(requester);
        int r;

        if (!sender) /* a bus without a broker: the peer is whoever holds the other end, root in every use of it */
                return 0;
        s->owner = strdup(sender);
        if (!s->owner)
                return -ENOMEM;
        s->owner_uid = s->options.uid;
        s->owner_pid = s->options.pid;
        if (s->session != SESSION_BOUND)
                return 0;
        r = sd_bus_track_new(s->manager->bus, &s->owner_track, on_owner_gone, s);
        return r < 0 ? r : sd_bus_track_add_name(s->owner_track, sender);
}

/* Until the plan is made, the volumes are those of the arguments and belong to the conductor's probe result. */
static int borrow_volumes(Set *s, const ProbeResult *p) {
        s->volumes = calloc(p ? p->n_volumes + 1 : 1, sizeof *s->volumes);
        if (!s->volumes)
                return -ENOMEM;
        s->volumes_borrowed = true;
        for (size_t i = 0; p && i < p->n_volumes; i++)
                s->volumes[s->n_volumes++] = p->volumes[i];
        return 0;
}

static int check_turn(Set *s, Failure *reterr) {
        Set *other = turns_blocked_by(s);

        if (!other || s->options.wait_for_turn_usec > 0)
                return 0;
        return failure_set(reterr, CONDITION_BUSY,
                           "set %s of %s works on the same volumes; wait for it (--wait-for-turn) or try later",
                           other->id,
                           isempty(other->options.requester) ? "another requester" : other->options.requester);
}

static int set_build(Manager *m, SetOptions *options, const ProbeResult *volumes, sd_bus_message *requester,
                     Set **ret) {
        _cleanup_(set_freep) Set *s = calloc(1, sizeof *s);
        sd_id128_t id;
        int r;

        if (!s)
                return -ENOMEM;
        s->manager = m;
        s->options = *options;
        *options = (SetOptions) { 0 };
        s->session = s->options.session;
        s->state = SET_QUEUED;
        s->progress = -1;
        s->started_usec = now_usec();
        s->started_at_usec = clock_usec(CLOCK_REALTIME);
        r = sd_id128_randomize(&id);
        if (r < 0)
                return r;
        (void) sd_id128_to_uuid_string(id, s->id);
        r = bus_path_encode(VSS_PATH_SETS, s->id, &s->path);
        if (r >= 0)
                r = take_owner(s, requester);
        if (r >= 0)
                r = borrow_volumes(s, volumes);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(s);
        return 0;
}

int set_new(Manager *m, SetOptions *options, ProbeResult *volumes, sd_bus_message *requester, Failure *reterr,
            Set **ret) {
        _cleanup_(probe_result_freep) ProbeResult *arguments = volumes;
        Set *s = NULL;
        int r;

        if (m->stopping)
                return failure_set(reterr, CONDITION_UNAVAILABLE, "vssd is being stopped");
        if (count_running(m) >= LIMIT_SETS_RUNNING || m->n_sets >= LIMIT_SETS)
                return failure_set(reterr, CONDITION_LIMIT_REACHED,
                                   "%u sets are being made and %u are kept, no more are allowed", count_running(m),
                                   m->n_sets);
        r = set_build(m, options, arguments, requester, &s);
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "cannot make a set: %s", strerror(-r));
        TAILQ_INSERT_TAIL(&m->sets, s, entries);
        m->n_sets++;
        r = check_turn(s, reterr);
        if (r >= 0) {
                r = conductor_new(s, arguments, requester, &s->conductor);
                if (r < 0)
                        (void) failure_set(reterr, CONDITION_FAILED, "cannot make a set: %s", strerror(-r));
                else
                        arguments = NULL;
        }
        if (r < 0) {
                set_free(s);
                return r;
        }
        forget_old_records(m);
        manager_set_added(m, s);
        *ret = s;
        return 0;
}

static int too_late(const Set *s, Failure *reterr) {
        return s->conductor ? failure_set(reterr, CONDITION_TOO_LATE,
                                          "set %s is being committed; delete it when it is created", s->id) :
                              failure_set(reterr, CONDITION_TOO_LATE, "set %s is %s; delete it instead", s->id,
                                          set_state_to_string(s->state));
}

int set_may_cancel(const Set *s, Failure *reterr) {
        if (s->conductor ? conductor_may_cancel(s->conductor) : s->state == SET_ABORTED)
                return 0;
        return too_late(s, reterr);
}

int set_cancel(Set *s, Failure *reterr) {
        Failure why = { .condition = CONDITION_CANCELLED, .message = "cancelled on request" };

        if (!s->conductor)
                return set_may_cancel(s, reterr);
        return conductor_cancel(s->conductor, &why, false) < 0 ? too_late(s, reterr) : 0;
}

void set_stop(Set *s) {
        Failure why = { .condition = CONDITION_CANCELLED, .retryable = true, .message = "vssd is being stopped" };

        if (s->conductor)
                (void) conductor_cancel(s->conductor, &why, true);
}

enum { LOG_WRITERS_MAX = 64 };

/* One line for each writer, so that the journal can be asked for one; of very many those that failed. */
static void log_writers(Set *s) {
        for (size_t i = 0; i < s->n_writers; i++) {
                const SetWriter *w = &s->writers[i];
                if (w->failure.condition != CONDITION_NONE)
                        manager_log_writer(s->manager, 4, s->id, w->reference, "writer %s failed: %s (%s)",
                                           w->reference, w->failure.message, condition_name(w->failure.condition));
                else if (s->state == SET_CREATED && s->n_writers <= LOG_WRITERS_MAX)
                        manager_log_writer(s->manager, 6, s->id, w->reference, "writer %s took part: frozen %.1f ms",
                                           w->reference, (double) w->freeze_usec / 1000.0);
        }
}

static void log_end(Set *s) {
        log_writers(s);
        if (s->state == SET_CREATED)
                manager_log(s->manager, 6, s->id,
                            "created: level %s, %u snapshots, %zu writers, frozen %.1f ms, held %.1f ms",
                            consistency_to_string(s->consistency), s->n_snapshots, s->n_writers,
                            (double) s->timing.freeze_usec / 1000.0, (double) s->timing.hold_usec / 1000.0);
        else
                manager_log(s->manager, 4, s->id, "aborted: %s (%s)", s->error.message,
                            condition_name(s->error.condition));
}

static int on_session_over(sd_event_source *source, uint64_t usec, void *userdata) {
        set_end_session(userdata, "expired");
        return 0;
}

void set_arm_session(Set *s) {
        uint64_t age = clock_usec(CLOCK_REALTIME) - s->created_at_usec, max = s->manager->settings.session_max_usec;

        if (s->session != SESSION_DETACHED || s->state != SET_CREATED || max == USEC_INFINITY)
                return;
        if (sd_event_add_time(s->manager->event, &s->session_timer, CLOCK_MONOTONIC,
                              usec_add(now_usec(), max > age ? max - age : 0), 60 * USEC_PER_SEC, on_session_over,
                              s) < 0)
                manager_log(s->manager, 4, s->id, "out of memory: the session will not end by itself");
}

void set_creation_over(Set *s, bool created) {
        Snapshot *snapshot;

        if (s->volumes_borrowed) { /* never planned: the probe result goes with the conductor */
                s->n_volumes = 0;
                s->volumes_borrowed = false;
        }
        for (size_t i = 0; i < s->n_volumes; i++) /* nobody's umount may fail because of a set that is made */
                s->volumes[i]->root_fd = close_fd(s->volumes[i]->root_fd);
        if (s->forced)
                manager_hold_forced(s->manager, s, s->timing.hold_usec);
        if (s->timing.total_usec == 0 || !created)
                s->timing.total_usec = now_usec() - s->started_usec;
        for (size_t i = 0; i < s->n_writers; i++)
                if (s->writers[i].writer && !created)
                        writer_end_session(s->writers[i].writer, s->id);
        if (!created) {
                while (!LIST_EMPTY(&s->snapshots))
                        snapshot_free(LIST_FIRST(&s->snapshots));
                s->consistency = CONSISTENCY_NONE;
                s->one_instant = false;
                set_set_state(s, SET_ABORTED);
                set_store(s);
                log_end(s);
                return;
        }
        LIST_FOREACH(snapshot, &s->snapshots, entries) {
                snapshot->available = true;
                manager_snapshot_added(s->manager, snapshot);
        }
        set_set_state(s, SET_CREATED);
        log_end(s);
        set_arm_session(s);
        if (s->owner_gone)
                set_owner_gone(s);
}

static void announce_end(Set *s, SetState from) {
        if ((s->state == SET_CREATED && from == SET_RUNNING) || s->state == SET_ABORTED)
                manager_set_ended(s->manager, s);
}

void set_set_state(Set *s, SetState state) {
        SetState from = s->state;

        if (from == state)
                return;
        assert(set_state_may_follow(from, state));
        s->state = state;
        if (state == SET_CREATED)
                s->progress = 1;
        if (state == SET_COMPLETED || state == SET_ABORTED || state == SET_DELETED) {
                s->session = SESSION_ENDED;
                s->session_timer = sd_event_source_disable_unref(s->session_timer);
        }
        manager_set_changed(s->manager, s);
        announce_end(s, from);
        set_answer_waiters(s);
}
