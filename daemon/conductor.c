/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of a conductor: wait for the turn, plan, run the sequence, settle what was reached, end. Events are fed to
 * the machine one at a time; what an action causes at once (a call that cannot be sent) waits in a small ring until the
 * actions before it are done, so the machine never sees an event in the middle of its own answer.
 */
#include "daemon/exclude.h"
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include "protocol/text.h"
#include "providers/vss-provider.h"
#include <poll.h>
#include <stdio.h>
#include <systemd/sd-id128.h>

static void begin_planning(Conductor *c);

/* A killed process that is in the kernel goes when it likes; what it makes there is nobody's. */
static void leave_strays(Conductor *c) {
        for (unsigned i = 0; i < c->n_providers && !c->sequence.created; i++) {
                ConductorProvider *p = &c->providers[i];
                struct pollfd fd = { .fd = p->stuck, .events = POLLIN };
                bool alive = p->stuck >= 0 && poll(&fd, 1, 0) == 0;
                if (alive || p->abort_failed)
                        strays_add(c->manager, c->set, p->name, p->volumes, alive ? TAKE_FD(p->stuck) : -EBADF,
                                   c->marks_cleared);
        }
}

static void settle_timing(Conductor *c) {
        const Sequence *q = &c->sequence;
        SetTiming *t = &c->set->timing;

        c->set->forced = q->forced;
        t->total_usec = now_usec() - c->set->started_usec;
        t->prepare_usec = q->freeze_begin_usec ? q->freeze_begin_usec - c->set->started_usec - t->queue_usec : 0;
        t->freeze_usec = q->freeze_begin_usec && q->thawed_usec ? q->thawed_usec - q->freeze_begin_usec : 0;
        t->commit_usec = c->commit_end_usec > c->commit_begin_usec ? c->commit_end_usec - c->commit_begin_usec : 0;
        if (!c->guard)
                t->hold_usec = t->commit_usec;
        else if (c->hold_begin_usec) /* nobody told when it was released */
                t->hold_usec = now_usec() - c->hold_begin_usec;
}

static int on_end(sd_event_source *source, void *userdata) {
        Conductor *c = userdata;
        Manager *m = c->manager;
        Set *s = c->set;

        s->error = c->sequence.finished && c->sequence.created ? (Failure) { 0 } : s->error;
        turns_close_window(c);
        leave_strays(c);
        if (c->in_sequence && !c->sequence.created)
                settle_timing(c);
        s->conductor = NULL;
        trace_end(&s->phases, now_usec(), c->sequence.created ? OUTCOME_OK : OUTCOME_FAILED);
        set_creation_over(s, c->sequence.created);
        (void) conductor_free(c);
        turns_changed(m);
        manager_idle(m);
        return 0;
}

/* Not at once: whoever fed the last event is still on the stack. */
static void end_later(Conductor *c) {
        if (c->ended)
                return;
        c->ended = true;
        c->timer = sd_event_source_disable_unref(c->timer);
        c->defer = sd_event_source_disable_unref(c->defer);
        if (sd_event_add_defer(c->manager->event, &c->defer, on_end, c) < 0)
                manager_log(c->manager, 3, c->set->id, "out of memory at the end of the set");
}

/* Before the machine runs there is nothing to unwind. */
static void fail_before(Conductor *c, const Failure *failure) {
        Set *s = c->set;

        if (c->ended)
                return;
        s->error = *failure;
        if (s->state == SET_QUEUED || s->state == SET_RUNNING)
                set_set_state(s, SET_ABORTING);
        end_later(c);
}

/* The machine knows who and what, people need a name. */
static void describe_cause(Conductor *c) {
        const Sequence *q = &c->sequence;
        Failure *e = &c->set->error;

        *e = q->cause;
        if (e->message[0])
                return;
        if (q->cause_actor == SEQ_ACTOR_WRITER)
                (void) snprintf(e->message, sizeof e->message, "writer %s did not answer %s within its budget",
                                c->set->writers[q->cause_index].reference, phase_to_string(q->cause_phase));
        else if (q->cause_actor == SEQ_ACTOR_PROVIDER)
                (void) snprintf(e->message, sizeof e->message, "provider %s did not finish %s within its budget",
                                c->providers[q->cause_index].name, phase_to_string(q->cause_phase));
        else
                (void) snprintf(e->message, sizeof e->message, "%s was not over within its budget",
                                phase_to_string(q->cause_phase));
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Conductor *c = userdata;

        conductor_feed(c, &(SequenceEvent) { .type = SEQ_EVENT_TIMER, .now_usec = now_usec() }, NULL);
        return 0;
}

static void arm(Conductor *c) {
        uint64_t deadline = sequence_deadline(&c->sequence);

        if (deadline == USEC_INFINITY) {
                (void) sd_event_source_set_enabled(c->timer, SD_EVENT_OFF);
                return;
        }
        if (c->sequence.writers_outstanding > 0) /* each call has a timer that knows its writer: let it speak first */
                deadline = usec_add(deadline, 50 * USEC_PER_MSEC);
        (void) sd_event_source_set_time(c->timer, deadline);
        (void) sd_event_source_set_enabled(c->timer, SD_EVENT_ONESHOT);
}

static void run_machine(Conductor *c, const SequenceEvent *event) {
        SequenceAction a;

        sequence_feed(&c->sequence, event);
        if (c->sequence.failed && c->set->error.condition == CONDITION_NONE)
                describe_cause(c);
        while (sequence_next(&c->sequence, &a))
                conductor_act(c, &a);
}

void conductor_feed(Conductor *c, const SequenceEvent *event, const Failure *failure) {
        SequenceEvent e = *event;

        if (c->ended || !c->in_sequence)
                return;
        if (c->feeding) {
                assert(c->n_events < CONDUCTOR_EVENTS_MAX);
                c->events[c->n_events].event = e;
                c->events[c->n_events++].failure = failure ? *failure : (Failure) { 0 };
                return;
        }
        c->feeding = true;
        e.failure = failure;
        run_machine(c, &e);
        for (unsigned i = 0; i < c->n_events; i++) {
                e = c->events[i].event;
                e.failure = &c->events[i].failure;
                run_machine(c, &e);
        }
        c->n_events = 0;
        c->feeding = false;
        if (c->sequence.finished) {
                end_later(c);
                return;
        }
        if (sequence_in_hold(&c->sequence)) {
                if (!c->holding) {
                        c->holding = true;
                        conductor_hold(c);
                        c->holding = false;
                }
                return;
        }
        arm(c);
}

static SequenceBudgets sequence_budgets(const Conductor *c) {
        const Budgets *b = &c->budgets;

        return (SequenceBudgets) {
                .prepare_backup = b->prepare_backup,
                .provider = b->provider,
                .provider_step = b->provider_step,
                .prepare_snapshot = b->prepare_snapshot,
                .pre_flush = b->pre_flush,
                .freeze = b->freeze,
                .hold = b->hold,
                .thaw = b->thaw,
                .post_snapshot = b->post_snapshot,
                .abort = b->abort,
                .window = c->manager->settings.window_max_usec,
        };
}

static int take_snapshots(Conductor *c) {
        Set *s = c->set;
        Snapshot *last = NULL;

        for (size_t i = 0; i < c->plan.n_volumes; i++) {
                Snapshot *n;
                sd_id128_t id;
                int r = sd_id128_randomize(&id);
                if (r < 0)
                        return r;
                n = snapshot_new(s, s->volumes[i], c->plan.providers[c->plan.volumes[i].provider].name);
                if (!n)
                        return -ENOMEM;
                (void) sd_id128_to_uuid_string(id, n->id);
                n->reachable = c->plan.volumes[i].reachable;
                n->held_by_guard = c->plan.volumes[i].held;
                n->held = n->held_by_guard ||
                          (c->plan.providers[c->plan.volumes[i].provider].capabilities & VSS_CAP_FREEZES_ITSELF);
                if (last)
                        LIST_INSERT_AFTER(last, n, entries);
                else
                        LIST_INSERT_HEAD(&s->snapshots, n, entries);
                last = n;
                s->n_snapshots++;
        }
        return 0;
}

static int take_set_writers(Conductor *c) {
        Set *s = c->set;

        s->writers = calloc(c->plan.n_taking_part + 1, sizeof *s->writers);
        c->writers = calloc(c->plan.n_taking_part + 1, sizeof *c->writers);
        c->sequence_writers = calloc(c->plan.n_taking_part + 1, sizeof *c->sequence_writers);
        if (!s->writers || !c->writers || !c->sequence_writers)
                return -ENOMEM;
        for (unsigned i = 0; i < c->plan.n_taking_part; i++) {
                PlanWriter *p = &c->plan.writers[i];
                Writer *w = p->writer;
                s->writers[i] = (SetWriter) {
                        .writer = writer_ref(w),
                        .reference = strdup(w->reference),
                        .name = strdup(w->name),
                        .instance = strdup(w->instance),
                        .level = w->level,
                        .state = WRITER_STABLE,
                        .metadata_text = TAKE_PTR(p->metadata_text),
                        .type = p->type,
                        .components = TAKE_PTR(p->components),
                        .implicit = TAKE_PTR(p->implicit),
                        .volumes = p->volumes,
                        .recovers = p->recovers,
                        .notify = p->notify,
                        .whole = p->whole,
                };
                s->n_writers++;
                if (!s->writers[i].reference || !s->writers[i].name || !s->writers[i].instance)
                        return -ENOMEM;
                c->writers[i] = (ConductorWriter) { .conductor = c, .index = i };
                c->sequence_writers[i] = (SequenceWriter) { .level = w->level,
                                                            .freeze_timeout_usec = w->freeze_timeout_usec,
                                                            .required = p->required };
        }
        return 0;
}

static int take_providers(Conductor *c) {
        for (unsigned i = 0; i < c->plan.n_providers; i++) {
                PlanProvider *p = &c->plan.providers[i];
                c->providers[i] = (ConductorProvider) {
                        .conductor = c,
                        .index = i,
                        .name = TAKE_PTR(p->name),
                        .host = TAKE_PTR(p->host),
                        .volumes = p->volumes,
                        .stuck = -EBADF,
                        .request = calloc(1, sizeof(struct vss_wire_request)),
                };
                c->n_providers++;
                if (!c->providers[i].request)
                        return -ENOMEM;
                conductor_adopt_host(&c->providers[i]);
                c->sequence_providers[i].holds = p->capabilities & VSS_CAP_HOLDS;
        }
        return 0;
}

static void take_volumes(Conductor *c) {
        Set *s = c->set;

        free(s->volumes); /* the borrowed ones went with the planner's probe result */
        s->n_volumes = 0;
        s->volumes_borrowed = false;
        s->volumes = calloc(c->plan.n_volumes + 1, sizeof *s->volumes);
        if (!s->volumes)
                return;
        for (size_t i = 0; i < c->plan.n_volumes; i++)
                s->volumes[s->n_volumes++] = TAKE_PTR(c->plan.volumes[i].volume);
        s->warnings = TAKE_PTR(c->plan.warnings);
}

static int start_sequence(Conductor *c, Failure *reterr) {
        SequenceBudgets budgets = sequence_budgets(c);
        bool has_guard = false;
        int r;

        for (size_t i = 0; i < c->plan.n_volumes; i++)
                has_guard |= c->plan.volumes[i].held || plan_is_mapped(&c->plan, i);
        r = sequence_init(&c->sequence, c->sequence_writers, (unsigned) c->plan.n_taking_part, c->sequence_providers,
                          c->n_providers, &budgets, has_guard, c->set->options.on_writer_failure == ON_FAILURE_DEGRADE);
        for (unsigned i = 0; i < c->set->n_volumes; i++)
                c->sequence.excludes |= exclude_from_volume(c->set, i);
        if (r >= 0)
                r = sd_event_add_time(c->manager->event, &c->timer, CLOCK_MONOTONIC, USEC_INFINITY, 1000, on_timer, c);
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        if (has_guard)
                r = conductor_start_guard(c, reterr);
        return r;
}

static void begin_sequence(Conductor *c) {
        Failure f = { 0 };

        if (start_sequence(c, &f) < 0) {
                fail_before(c, &f);
                return;
        }
        c->in_sequence = true;
        conductor_feed(c, &(SequenceEvent) { .type = SEQ_EVENT_START, .now_usec = now_usec() }, NULL);
}

static void on_planned(PlanResult *result, const Failure *failure, void *userdata) {
        Conductor *c = userdata;
        Failure f;
        int r;

        if (failure) {
                f = *failure;
                fail_before(c, &f);
                return;
        }
        c->plan = *result;
        *result = (PlanResult) { 0 };
        take_volumes(c);
        r = c->set->volumes ? take_snapshots(c) : -ENOMEM;
        if (r >= 0)
                r = take_set_writers(c);
        if (r >= 0)
                r = exclude_plan(c->set);
        if (r >= 0)
                r = take_providers(c);
        if (r < 0) {
                (void) failure_set(&f, CONDITION_FAILED, "out of memory");
                fail_before(c, &f);
                return;
        }
        c->planned = true;
        conductor_begin_turn(c);
}

static void on_plan_phase(Phase phase, void *userdata) {
        Conductor *c = userdata;

        trace_end(&c->set->phases, now_usec(), OUTCOME_OK);
        trace_begin(&c->set->phases, phase_to_string(phase), now_usec(),
                    phase == PHASE_IDENTIFY ? now_usec() + c->budgets.identify : USEC_INFINITY);
        c->set->phase = phase;
        manager_set_changed(c->manager, c->set);
}

static void begin_planning(Conductor *c) {
        Failure f;
        int r;

        set_set_state(c->set, SET_RUNNING);
        c->set->timing.queue_usec = now_usec() - c->set->started_usec;
        r = planner_new(c->manager, &c->set->options, TAKE_PTR(c->arguments), c->set->owner_uid, c->message,
                        &c->budgets, on_plan_phase, on_planned, c, &c->planner);
        if (r < 0) {
                (void) failure_set(&f, CONDITION_FAILED, "cannot plan the set: %s", strerror(-r));
                fail_before(c, &f);
        }
}

static int on_turn_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Conductor *c = userdata;
        Set *other = turns_blocked_by(c->set);
        Failure f;

        (void) failure_set(&f, CONDITION_BUSY,
                           "another set works on the same volumes or writers: set %s of %s; waited %.0f s",
                           other ? other->id : "?", other && other->options.requester ? other->options.requester : "?",
                           (double) c->set->options.wait_for_turn_usec / (double) USEC_PER_SEC);
        c->waits_for_turn = false;
        fail_before(c, &f);
        return 0;
}

/* Twice in the life of a set: before planning for what was named, after it for what the closure added. */
void conductor_begin_turn(Conductor *c) {
        int r = 0;

        if (turns_blocked_by(c->set) || !c->manager->ready) {
                if (!c->waits_for_turn && !c->timer)
                        r = sd_event_add_time(c->manager->event, &c->timer, CLOCK_MONOTONIC,
                                              usec_add(c->set->started_usec, c->set->options.wait_for_turn_usec), 1000,
                                              on_turn_late, c);
                c->waits_for_turn = true;
                if (r < 0)
                        (void) on_turn_late(NULL, 0, c);
                return;
        }
        c->waits_for_turn = false;
        c->timer = sd_event_source_disable_unref(c->timer);
        if (c->planned)
                begin_sequence(c);
        else
                begin_planning(c);
}

static int on_start(sd_event_source *source, void *userdata) {
        Conductor *c = userdata;

        c->defer = sd_event_source_disable_unref(c->defer);
        conductor_begin_turn(c);
        return 0;
}

/* One that is on its way back counts as cancelled. */
bool conductor_may_cancel(const Conductor *c) {
        return c->ended || !c->in_sequence || sequence_may_cancel(&c->sequence) || c->sequence.failed;
}

int conductor_cancel(Conductor *c, const Failure *why, bool forced) {
        if (c->ended)
                return 0;
        if (!c->in_sequence) {
                fail_before(c, why);
                return 0;
        }
        if (!forced && !sequence_may_cancel(&c->sequence))
                return conductor_may_cancel(c) ? 0 : -EALREADY;
        conductor_feed(c, &(SequenceEvent) { .type = SEQ_EVENT_CANCEL, .now_usec = now_usec(), .forced = forced }, why);
        return 0;
}

static bool went_well(const SetWriter *w) {
        return !w->dropped && w->failure.condition == CONDITION_NONE && !w->failures;
}

void conductor_writer_lost(Manager *m, const Writer *w) {
        Failure f;
        Set *s;

        TAILQ_FOREACH(s, &m->sets, entries)
                for (unsigned i = 0; s->conductor && s->conductor->in_sequence && i < s->n_writers; i++) {
                        const SequenceWriter *q = &s->conductor->sequence_writers[i];
                        if (s->writers[i].writer != w || q->outstanding || q->lost || q->post_snapshot)
                                continue; /* an outstanding call ends by itself, and says where */
                        (void) failure_set(&f, CONDITION_WRITER_LOST, "writer %s left the bus during %s",
                                           s->writers[i].reference, phase_to_string(s->phase));
                        if (s->writers[i].failure.condition == CONDITION_NONE)
                                s->writers[i].failure = f;
                        conductor_feed(s->conductor,
                                       &(SequenceEvent) { .type = SEQ_EVENT_WRITER_LOST,
                                                          .now_usec = now_usec(),
                                                          .index = i,
                                                          .outcome = OUTCOME_DIED },
                                       &f);
                }
}

static Consistency snapshot_level(const Conductor *c, const Snapshot *s, unsigned index) {
        if (s->reachable < CONSISTENCY_APPLICATION)
                return s->reachable;
        for (size_t i = 0; i < c->set->n_writers; i++) {
                const SetWriter *w = &c->set->writers[i];
                if ((w->volumes & (1ULL << index)) && !went_well(w))
                        return CONSISTENCY_FILESYSTEM;
        }
        return CONSISTENCY_APPLICATION;
}

/* The data of a writer that was not at rest are as good as the file systems they lie on. */
static Consistency writer_level(const Set *s, const SetWriter *w) {
        Consistency level = CONSISTENCY_FILESYSTEM;
        const Snapshot *snapshot;
        unsigned index = 0;

        if (went_well(w))
                return CONSISTENCY_APPLICATION;
        LIST_FOREACH(snapshot, &s->snapshots, entries)
                if (w->volumes & (1ULL << index++))
                        level = MIN_OF(level, snapshot->consistency);
        return level;
}

/* What was reached, said in one place and before the record is made durable. */
void conductor_settle(Conductor *c) {
        Set *s = c->set;
        unsigned index = 0;
        Snapshot *snapshot;

        if (!s->created_at_usec) /* no volume, no commit: the writers' rest is all there is */
                s->created_at_usec = s->instant_at_usec = clock_usec(CLOCK_REALTIME);
        s->consistency = s->n_snapshots > 0 ? CONSISTENCY_APPLICATION : CONSISTENCY_CRASH;
        LIST_FOREACH(snapshot, &s->snapshots, entries) {
                snapshot->consistency = snapshot_level(c, snapshot, index++);
                snapshot->created_at_usec = s->created_at_usec;
                s->consistency = MIN_OF(s->consistency, snapshot->consistency);
        }
        for (size_t i = 0; i < s->n_writers; i++)
                s->writers[i].consistency = writer_level(s, &s->writers[i]);
        s->one_instant = true;
        settle_timing(c);
        if (c->hold_note[0])
                (void) strings_append(&s->warnings, c->hold_note);
}

/* The lowest volume may have sunk below what was asked for: then it is not the set that was wanted. */
bool conductor_level_reached(const Conductor *c, Failure *reterr) {
        unsigned index = 0;
        const Snapshot *s;

        LIST_FOREACH(s, &c->set->snapshots, entries) {
                Consistency require = c->plan.volumes[index++].require;
                if (s->consistency >= require)
                        continue;
                (void) failure_set(reterr, CONDITION_LEVEL_NOT_REACHED,
                                   "%s reached level %s, not %s, because a writer failed", s->name,
                                   consistency_to_string(s->consistency), consistency_to_string(require));
                return false;
        }
        return true;
}

int conductor_new(Set *s, ProbeResult *arguments, sd_bus_message *message, Conductor **ret) {
        Conductor *c = calloc(1, sizeof *c);
        const uint64_t *wish = s->options.timeouts;
        int r;

        if (!c)
                return -ENOMEM;
        c->manager = s->manager;
        c->set = s;
        c->message = sd_bus_message_ref(message);
        c->budgets = s->manager->settings.budgets;
        for (size_t i = 0; i < sizeof(Budgets) / sizeof(uint64_t) && i < ELEMENTSOF(s->options.timeouts); i++)
                if (wish[i])
                        ((uint64_t *) &c->budgets)[i] = wish[i];
        r = sd_event_add_defer(s->manager->event, &c->defer, on_start, c);
        if (r < 0) {
                (void) conductor_free(c);
                return r;
        }
        c->arguments = arguments;
        manager_busy(s->manager);
        *ret = c;
        return 0;
}

Conductor *conductor_free(Conductor *c) {
        if (!c)
                return NULL;
        planner_free(c->planner);
        exclude_run_free(c->exclude);
        conductor_let_sleep(c);
        for (size_t i = 0; c->writers && i < c->set->n_writers; i++)
                writer_forget(c->set->writers[i].writer, &c->writers[i]);
        for (unsigned i = 0; i < c->n_providers; i++) {
                host_free(c->providers[i].host);
                provider_job_free(c->providers[i].job);
                (void) close_fd(c->providers[i].stuck);
                free(c->providers[i].name);
                free(c->providers[i].request);
        }
        sd_event_source_disable_unref(c->guard_io);
        sd_event_source_disable_unref(c->guard_exit);
        sd_event_source_disable_unref(c->rescue_timer);
        sd_event_source_disable_unref(c->timer);
        sd_event_source_disable_unref(c->defer);
        guard_free(c->guard);
        if (c->manager->catalogue)
                catalogue_forget(c->manager->catalogue, c);
        sequence_done(&c->sequence);
        plan_result_done(&c->plan);
        probe_result_free(c->arguments);
        sd_bus_message_unref(c->message);
        free(c->sequence_writers);
        free(c->writers);
        free(c);
        return NULL;
}
