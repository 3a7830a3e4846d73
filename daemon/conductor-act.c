/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One action of the machine, carried out: and the answers of writers, hosts, guard and catalogue, fed back. Nothing
 * here decides anything about the order. Actions that come while file systems are held (guard, commit, kill) allocate
 * nothing.
 */
#include "daemon/conductor.h"
#include "daemon/exclude.h"
#include "daemon/inhibit.h"
#include "daemon/manager.h"
#include "protocol/text.h"
#include "providers/vss-provider.h"
#include <fcntl.h>
#include <stdio.h>
#include <systemd/sd-id128.h>

static const uint32_t wire_ops[_SEQ_PROVIDER_OP_MAX] = {
        [SEQ_BEGIN_PREPARE] = VSS_WIRE_BEGIN_PREPARE,
        [SEQ_END_PREPARE] = VSS_WIRE_END_PREPARE,
        [SEQ_PRE_COMMIT] = VSS_WIRE_PRE_COMMIT,
        [SEQ_HOLD_BLOCKS] = VSS_WIRE_HOLD,
        [SEQ_COMMIT] = VSS_WIRE_COMMIT,
        [SEQ_RELEASE_BLOCKS] = VSS_WIRE_RELEASE,
        [SEQ_POST_COMMIT] = VSS_WIRE_POST_COMMIT,
        [SEQ_PRE_FINAL] = VSS_WIRE_PRE_FINAL,
        [SEQ_POST_FINAL] = VSS_WIRE_POST_FINAL,
        [SEQ_CLEAR_MARK] = VSS_WIRE_CLEAR_MARK,
        [SEQ_ABORT] = VSS_WIRE_ABORT,
};

static const char *const op_names[_SEQ_PROVIDER_OP_MAX] = {
        [SEQ_BEGIN_PREPARE] = "begin-prepare",
        [SEQ_END_PREPARE] = "end-prepare",
        [SEQ_PRE_COMMIT] = "pre-commit",
        [SEQ_HOLD_BLOCKS] = "hold",
        [SEQ_COMMIT] = "commit",
        [SEQ_RELEASE_BLOCKS] = "release",
        [SEQ_POST_COMMIT] = "post-commit",
        [SEQ_PRE_FINAL] = "pre-final",
        [SEQ_POST_FINAL] = "post-final",
        [SEQ_CLEAR_MARK] = "clear-mark",
        [SEQ_ABORT] = "abort",
};

Snapshot *set_snapshot_at(Set *s, unsigned index) {
        Snapshot *snapshot;

        LIST_FOREACH(snapshot, &s->snapshots, entries)
                if (index-- == 0)
                        return snapshot;
        return NULL;
}

/* Writers */

static void on_writer_answer(Writer *w, Outcome outcome, const Failure *failure, sd_bus_message *reply,
                             void *userdata) {
        ConductorWriter *cw = userdata;
        Conductor *c = cw->conductor;
        SetWriter *sw = &c->set->writers[cw->index];
        SequenceEvent e = {
                .type = SEQ_EVENT_WRITER, .now_usec = now_usec(), .index = cw->index, .op = cw->call, .outcome = outcome
        };
        Failure f = { 0 }, own; /* what the requester sees; what the writer said */
        bool had_failed = sw->partial.condition;

        if (outcome == OUTCOME_OK && session_read_reply(sw, cw->call, reply, &f) < 0)
                e.outcome = outcome = OUTCOME_FAILED;
        else if (outcome != OUTCOME_OK) {
                f = *failure;
                if (outcome == OUTCOME_FAILED) {
                        (void) snprintf(f.message, sizeof f.message, "writer %s refused %s: %.300s", sw->reference,
                                        writer_event_to_string(cw->call), failure->message);
                        f.condition = condition_from_writer(failure->condition);
                        if (f.condition == CONDITION_DEADLINE_PASSED) /* it had already resumed: as late as no answer */
                                e.outcome = OUTCOME_TIMEOUT;
                }
        }
        own = f;
        if (outcome == OUTCOME_FAILED)
                own.condition = condition_of_writer(failure && failure->condition ? failure->condition : f.condition);
        if (outcome == OUTCOME_OK && sw->partial.condition && !had_failed) {
                char line[LIMIT_MESSAGE_BYTES];
                (void) snprintf(line, sizeof line, "writer %s: %.400s", sw->reference, sw->partial.message);
                (void) strings_append(&c->set->warnings, line);
        }
        trace_end(&sw->events, e.now_usec, outcome);
        if (cw->call == EVENT_THAW)
                sw->freeze_usec = e.now_usec - c->sequence_writers[cw->index].freeze_sent_usec;
        if (e.outcome != OUTCOME_OK && (cw->call != EVENT_ABORT || sw->failure.condition == CONDITION_NONE))
                sw->state = writer_state_failed(cw->call);
        else if (sw->failure.condition == CONDITION_NONE) /* a failure stays visible until the next session */
                sw->state = writer_state_after(cw->call);
        writer_set_session(w, c->set->id, sw->state, e.outcome == OUTCOME_OK ? &sw->partial : &own);
        if (e.outcome != OUTCOME_OK && sw->failure.condition == CONDITION_NONE)
                sw->failure = own;
        conductor_feed(c, &e, &f);
}

static void act_writer(Conductor *c, const SequenceAction *a) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        ConductorWriter *cw = &c->writers[a->index];
        SetWriter *sw = &c->set->writers[a->index];
        const char *reason = a->op == EVENT_ABORT || a->op == EVENT_BACKUP_SHUTDOWN ?
                                     condition_name(c->sequence.cause.condition) :
                                     NULL;
        Failure f;
        int r;

        cw->call = a->op;
        trace_end(&sw->events, now_usec(), OUTCOME_CANCELLED); /* an unanswered one that is overtaken */
        trace_begin(&sw->events, writer_event_to_string(a->op), now_usec(), a->deadline_usec);
        r = writer_call_message(sw->writer, a->op, c->set->id, a->deadline_usec, &m);
        if (r >= 0 && m)
                r = session_append(c->set, sw, a->op, a->deadline_usec, c->sequence_writers[a->index].thaw_by_usec,
                                   reason, m);
        if (r >= 0)
                r = writer_call(sw->writer, a->op, c->set->id, m, a->deadline_usec, on_writer_answer, cw, NULL);
        if (r >= 0)
                return;
        (void) failure_set(&f, CONDITION_FAILED, "cannot call writer %s: %s", sw->reference, strerror(-r));
        conductor_feed(c,
                       &(SequenceEvent) { .type = SEQ_EVENT_WRITER,
                                          .now_usec = now_usec(),
                                          .index = a->index,
                                          .op = a->op,
                                          .outcome = OUTCOME_FAILED },
                       &f);
}

/* Providers */

static void trace_provider(Conductor *c, const ConductorProvider *p, bool begin, Outcome outcome) {
        unsigned i = 0;
        Snapshot *s;

        LIST_FOREACH(s, &c->set->snapshots, entries)
                if (p->volumes & (1ULL << i++)) {
                        if (begin)
                                trace_begin(&s->calls, op_names[p->op], now_usec(), p->deadline_usec);
                        else
                                trace_end(&s->calls, now_usec(), outcome);
                }
}

static void provider_answer(ConductorProvider *p, Outcome outcome, const Failure *failure) {
        Conductor *c = p->conductor;

        p->in_flight = p->listing = false;
        trace_provider(c, p, false, outcome);
        if (p->op == SEQ_COMMIT)
                c->commit_end_usec = now_usec();
        conductor_feed(c,
                       &(SequenceEvent) { .type = SEQ_EVENT_PROVIDER,
                                          .now_usec = now_usec(),
                                          .index = p->index,
                                          .op = p->op,
                                          .outcome = outcome },
                       failure);
}

static int send_request(ConductorProvider *p, uint32_t op, int fd) {
        p->request->op = op;
        memcpy(p->request->set, p->conductor->set->id, sizeof p->request->set);
        return host_call(p->host, p->request, p->deadline_usec, fd);
}

/* Does anybody write into this copy before it is read-only for good? */
static bool is_written_to(const Set *s, unsigned volume) {
        for (size_t i = 0; i < s->n_writers; i++)
                if (s->writers[i].recovers & 1ULL << volume)
                        return true;
        return exclude_from_volume(s, volume);
}

/* begin_prepare goes volume by volume. 1: sent; 0: all done. */
static int send_next_volume(ConductorProvider *p) {
        Conductor *c = p->conductor;
        Set *s = c->set;
        Snapshot *snapshot;
        const char *mode;

        while (p->next < s->n_snapshots && !(p->volumes & (1ULL << p->next)))
                p->next++;
        if (p->next == s->n_snapshots)
                return 0;
        snapshot = set_snapshot_at(s, p->next);
        memset(p->request, 0, sizeof *p->request);
        provider_fill_volume(p->request, s->volumes[p->next]);
        memcpy(p->request->snapshot, snapshot->id, sizeof p->request->snapshot);
        mode = set_options_mode(&s->options, s->volumes[p->next]);
        (void) snprintf(p->request->text, sizeof p->request->text, "%s", mode ? mode : "");
        p->request->request_flags = (s->options.lifetime == LIFETIME_PERSISTENT ? VSS_REQUEST_PERSISTENT : 0) |
                                    (is_written_to(s, p->next) ? VSS_REQUEST_WRITABLE : 0) |
                                    (c->manager->settings.skip_free ? VSS_REQUEST_SKIP_FREE : 0);
        p->next++;
        return send_request(p, VSS_WIRE_BEGIN_PREPARE, s->volumes[p->next - 1]->root_fd) < 0 ? -EPIPE : 1;
}

static void take_listed(Conductor *c, const struct vss_wire_reply *reply) {
        Snapshot *s;

        LIST_FOREACH(s, &c->set->snapshots, entries) {
                if (!streq(s->id, reply->id))
                        continue;
                free(s->device);
                free(s->path);
                free(s->token);
                s->device = reply->device[0] ? strdup(reply->device) : NULL;
                s->path = reply->path[0] ? strdup(reply->path) : NULL;
                s->token = reply->token[0] ? strdup(reply->token) : NULL;
                if (reply->size_bytes)
                        s->size_bytes = reply->size_bytes;
        }
}

static void provider_lost(ConductorProvider *p, const Failure *failure) {
        trace_provider(p->conductor, p, false, OUTCOME_DIED);
        p->in_flight = p->listing = false;
        conductor_feed(p->conductor,
                       &(SequenceEvent) { .type = SEQ_EVENT_PROVIDER_LOST,
                                          .now_usec = now_usec(),
                                          .index = p->index,
                                          .outcome = OUTCOME_DIED },
                       failure);
}

static void on_host(Host *h, Outcome outcome, const struct vss_wire_reply *reply, int fd, const Failure *failure,
                    void *userdata) {
        ConductorProvider *p = userdata;
        int r;

        (void) close_fd(fd);
        if (outcome == OUTCOME_DIED) {
                provider_lost(p, failure);
                return;
        }
        if (!p->in_flight)
                return;
        if (outcome == OUTCOME_OK && p->listing) {
                if (reply->more) {
                        take_listed(p->conductor, reply);
                        return;
                }
        } else if (outcome == OUTCOME_OK && p->op == SEQ_BEGIN_PREPARE) {
                if (reply->message[0]) /* a provider that succeeds and still says something warns */
                        (void) strings_append(&p->conductor->set->warnings, reply->message);
                r = send_next_volume(p);
                if (r > 0)
                        return;
                if (r < 0)
                        outcome = OUTCOME_FAILED;
        } else if (outcome == OUTCOME_OK && p->op == SEQ_CLEAR_MARK) {
                p->listing = true;
                memset(p->request, 0, sizeof *p->request);
                if (send_request(p, VSS_WIRE_LIST, -1) >= 0)
                        return;
        }
        provider_answer(p, outcome, failure);
}

void conductor_adopt_host(ConductorProvider *p) {
        p->host->done = on_host;
        p->host->userdata = p;
}

/* The set is not created, so what was already cleared of its mark goes one by one. */
static void on_abort_job(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        ConductorProvider *p = userdata;
        Conductor *c = p->conductor;

        (void) close_fd(fd);
        p->job = provider_job_free(p->job);
        p->abort_failed |= failure && failure->condition != CONDITION_NOT_FOUND;
        while (c->marks_cleared && p->next < c->set->n_snapshots) {
                unsigned i = p->next++;
                if (!(p->volumes & (1ULL << i)))
                        continue;
                memset(p->request, 0, sizeof *p->request);
                p->request->op = VSS_WIRE_REMOVE;
                memcpy(p->request->set, c->set->id, sizeof p->request->set);
                memcpy(p->request->snapshot, set_snapshot_at(c->set, i)->id, sizeof p->request->snapshot);
                if (provider_job_new(c->manager->event, p->name, p->request, -1, c->budgets.provider, NULL,
                                     on_abort_job, p, &p->job) >= 0)
                        return;
                p->abort_failed = true;
        }
        provider_answer(p, p->abort_failed ? OUTCOME_FAILED : OUTCOME_OK, failure);
}

/* Abort works in a process of its own: the set's host may be dead, hung or half-way. */
static int send_abort(ConductorProvider *p) {
        Conductor *c = p->conductor;

        p->host = host_free(p->host);
        p->next = 0;
        memset(p->request, 0, sizeof *p->request);
        p->request->op = VSS_WIRE_ABORT;
        memcpy(p->request->set, c->set->id, sizeof p->request->set);
        return provider_job_new(c->manager->event, p->name, p->request, -1, c->budgets.abort, NULL, on_abort_job, p,
                                &p->job);
}

static void act_provider(Conductor *c, const SequenceAction *a) {
        ConductorProvider *p = &c->providers[a->index];
        Failure f;
        int r;

        p->op = a->op;
        p->in_flight = true;
        p->deadline_usec = a->deadline_usec;
        if (a->op == SEQ_CLEAR_MARK)
                c->marks_cleared = true;
        if (a->op == SEQ_COMMIT && !c->commit_begin_usec) {
                c->commit_begin_usec = now_usec();
                c->set->created_at_usec = c->set->instant_at_usec = clock_usec(CLOCK_REALTIME);
        }
        trace_provider(c, p, true, OUTCOME_RUNNING);
        if (a->op == SEQ_ABORT)
                r = send_abort(p);
        else if (a->op == SEQ_BEGIN_PREPARE) {
                p->next = 0;
                r = send_next_volume(p);
        } else {
                memset(p->request, 0, sizeof *p->request);
                r = send_request(p, wire_ops[a->op], -1);
        }
        if (r >= 0)
                return;
        (void) failure_set(&f, CONDITION_PROVIDER_LOST, "provider %s cannot be called for %s: %s", p->name,
                           op_names[a->op], provider_start_error(r));
        provider_answer(p, OUTCOME_DIED, &f);
}

static void act_kill_provider(Conductor *c, const SequenceAction *a) {
        ConductorProvider *p = &c->providers[a->index];

        trace_provider(c, p, false, OUTCOME_TIMEOUT);
        p->in_flight = p->listing = false;
        if (p->job) {
                p->job = provider_job_free(p->job);
                p->abort_failed = true;
                return;
        }
        if (!p->host)
                return;
        if (p->stuck < 0)
                p->stuck = fcntl(p->host->process->child.pidfd, F_DUPFD_CLOEXEC, 3);
        host_kill(p->host);
}

static void on_stored(int result, void *userdata) {
        Conductor *c = userdata;
        Failure f;

        if (result < 0)
                (void) failure_set(&f, condition_from_errno(-result), "cannot write the set to the catalogue in %s: %s",
                                   c->manager->settings.state_directory, strerror(-result));
        conductor_feed(c,
                       &(SequenceEvent) { .type = SEQ_EVENT_STORED,
                                          .now_usec = now_usec(),
                                          .outcome = result < 0 ? OUTCOME_FAILED : OUTCOME_OK },
                       result < 0 ? &f : NULL);
}

static void on_excluded(void *userdata) {
        Conductor *c = userdata;

        c->exclude = exclude_run_free(c->exclude);
        conductor_feed(c, &(SequenceEvent) { .type = SEQ_EVENT_STORED, .now_usec = now_usec(), .outcome = OUTCOME_OK },
                       NULL);
}

/* Best effort: a set is not worse for a file that an administrator would rather not have in it. */
static void act_exclude(Conductor *c) {
        if (exclude_run_new(c->set, c->budgets.post_snapshot, on_excluded, c, &c->exclude) < 0)
                on_excluded(c);
}

static void act_store(Conductor *c, bool created) {
        _cleanup_free_ char *text = NULL;
        Failure f;
        int r;

        if (created) {
                (void) exclude_report(c->set);
                conductor_settle(c);
                if (!conductor_level_reached(c, &f)) {
                        conductor_feed(c,
                                       &(SequenceEvent) { .type = SEQ_EVENT_STORED,
                                                          .now_usec = now_usec(),
                                                          .outcome = OUTCOME_FAILED },
                                       &f);
                        return;
                }
        }
        r = set_store_format(c->set, created ? SET_CREATED : c->set->state, &text);
        if (r >= 0)
                r = catalogue_put(c->manager->catalogue, c->set->id, text, on_stored, c);
        if (r < 0)
                on_stored(r, c);
}

static void act_phase(Conductor *c, Phase phase) {
        Set *s = c->set;

        trace_end(&s->phases, now_usec(), c->sequence.failed ? OUTCOME_FAILED : OUTCOME_OK);
        trace_begin(&s->phases, phase_to_string(phase), now_usec(), sequence_deadline(&c->sequence));
        if (phase == PHASE_PREPARE_SNAPSHOT && !c->inhibits) {
                c->inhibits = true;
                inhibitor_take(c->manager->inhibitor);
        }
        if (phase == PHASE_FREEZE)
                catalogue_pause(c->manager->catalogue, true);
        if (phase == PHASE_ABORT)
                c->exclude = exclude_run_free(c->exclude);
        s->phase = phase;
        if (phase < PHASE_BACKUP_COMPLETE) /* an abort leaves it where the set came to */
                s->progress = (double) phase / (double) PHASE_BACKUP_COMPLETE;
        if (phase == PHASE_ABORT && s->state == SET_RUNNING)
                set_set_state(s, SET_ABORTING);
        else if (!sequence_in_hold(&c->sequence))
                manager_set_changed(c->manager, s);
}

void conductor_let_sleep(Conductor *c) {
        if (c->inhibits)
                inhibitor_drop(c->manager->inhibitor);
        c->inhibits = false;
}

void conductor_act(Conductor *c, const SequenceAction *a) {
        switch (a->type) {
        case SEQ_DO_PHASE:
                act_phase(c, a->op);
                break;
        case SEQ_DO_WRITER:
                act_writer(c, a);
                break;
        case SEQ_DO_PROVIDER:
                act_provider(c, a);
                break;
        case SEQ_DO_KILL_PROVIDER:
                act_kill_provider(c, a);
                break;
        case SEQ_DO_GUARD:
                conductor_act_guard(c, a);
                break;
        case SEQ_DO_RESCUE:
                conductor_guard_lost(c);
                break;
        case SEQ_DO_STORE_INTENT:
        case SEQ_DO_STORE_RESULT:
                act_store(c, a->type == SEQ_DO_STORE_RESULT);
                break;
        case SEQ_DO_EXCLUDE:
                act_exclude(c);
                break;
        case SEQ_DO_ASK_WINDOW:
                if (turns_open_window(c))
                        conductor_feed(c,
                                       &(SequenceEvent) { .type = SEQ_EVENT_WINDOW,
                                                          .now_usec = now_usec(),
                                                          .outcome = OUTCOME_OK },
                                       NULL);
                break;
        case SEQ_DO_CLOSE_WINDOW:
                catalogue_pause(c->manager->catalogue, false);
                turns_close_window(c);
                conductor_let_sleep(c);
                break;
        case SEQ_DO_DROP_WRITER:
                c->set->writers[a->index].dropped = true;
                c->set->writers[a->index].consistency = CONSISTENCY_NONE;
                break;
        case SEQ_DO_FINISH:
                break; /* conductor.c: it ends after the last action */
        }
}
