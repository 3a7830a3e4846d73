/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Makes one set: waits for its turn, plans, and then carries out what the sequence machine says. One conductor per set
 * that is queued, running or aborting; it frees itself through its set when the set is created or aborted.
 *
 *   turns.c           may this set begin, and may it open its window?
 *   conductor.c       life of a conductor: turn, plan, sequence, end
 *   conductor-act.c   one action of the machine → calls to writers, hosts, guard, catalogue
 *   conductor-hold.c  the loop that replaces the event loop while file systems are held
 *   session.c         the session dictionary a writer is given, and what it answers
 *   session-files.c   the files in such an answer
 */
#include "daemon/guard.h"
#include "daemon/plan.h"
#include "daemon/sequence.h"

typedef struct ConductorWriter { /* userdata of writer calls */
        Conductor *conductor;
        unsigned index;
        WriterEvent call;
} ConductorWriter;

typedef struct ConductorProvider {
        Conductor *conductor;
        unsigned index;
        char *name;
        Host *host;
        ProviderJob *job;      /* abort in a fresh process */
        SequenceProviderOp op; /* in flight */
        bool in_flight, listing;
        uint64_t volumes; /* bit per snapshot of the set */
        int stuck;        /* pidfd of a host that was killed; -EBADF: none */
        bool abort_failed;
        unsigned next; /* begin_prepare, remove: snapshot whose turn it is */
        uint64_t deadline_usec;
        struct vss_wire_request *request; /* allocated before the window */
} ConductorProvider;

enum { CONDUCTOR_EVENTS_MAX = 64 };

struct Conductor {
        Manager *manager;
        Set *set;
        sd_bus_message *message; /* of the requester, for polkit */
        Budgets budgets;
        ProbeResult *arguments;
        Planner *planner;
        PlanResult plan;
        bool waits_for_turn, planned, in_sequence, waits_for_window, ended, feeding, holding, marks_cleared, inhibits;
        uint64_t turn_deadline_usec, hold_begin_usec, commit_begin_usec, commit_end_usec;
        Sequence sequence;
        SequenceWriter *sequence_writers;
        SequenceProvider sequence_providers[PLAN_PROVIDERS_MAX];
        ConductorWriter *writers;
        ConductorProvider providers[PLAN_PROVIDERS_MAX];
        unsigned n_providers;
        Guard *guard;
        struct ExcludeRun *exclude; /* while files are being removed from the copies */
        bool guard_armed, flush_waits, rescuing;
        uint64_t flush_deadline_usec, rescue_begin_usec;
        sd_event_source *guard_io, *guard_exit, *timer, *rescue_timer, *defer;
        struct {
                SequenceEvent event;
                Failure failure;
        } events[CONDUCTOR_EVENTS_MAX]; /* fed while feeding */
        unsigned n_events;
        char hold_note[LIMIT_MESSAGE_BYTES]; /* what the guard had to say about a hold that succeeded; kept until one
                                                may allocate */
};

/* arguments is taken. Starts from the loop. */
int conductor_new(Set *s, ProbeResult *arguments, sd_bus_message *message, Conductor **ret);
Conductor *conductor_free(Conductor *c);
bool conductor_may_cancel(const Conductor *c);
/* why: Cancel, requester gone, vssd stops (forced: also after commit began). */
int conductor_cancel(Conductor *c, const Failure *why, bool forced);

/* It left the bus: sets that wait for no answer of it right now must hear of it all the same. */
void conductor_writer_lost(Manager *m, const Writer *w);

/* turns.c */
/* Any set in the way of this one? The requester-visible reason in *reterr. */
Set *turns_blocked_by(Set *s);
void turns_changed(Manager *m);       /* a set ended or a window closed: whoever waits may look again */
bool turns_open_window(Conductor *c); /* true: it is ours */
void turns_close_window(Conductor *c);

/* Between the conductor's files */
void conductor_feed(Conductor *c, const SequenceEvent *event, const Failure *failure);
void conductor_act(Conductor *c, const SequenceAction *a);
void conductor_act_guard(Conductor *c, const SequenceAction *a);
void conductor_hold(Conductor *c); /* returns when nothing is held */
void conductor_guard_dispatch(Conductor *c);
void conductor_guard_lost(Conductor *c); /* starts the rescue */
void conductor_rescue(Conductor *c);     /* one look; feeds GUARD_GONE when nothing is held */
void conductor_begin_turn(Conductor *c);
void conductor_let_sleep(Conductor *c); /* nothing is held any more, or will be */
int conductor_start_guard(Conductor *c, Failure *reterr);
void conductor_adopt_host(ConductorProvider *p); /* from the planner: its answers come here now */
void conductor_settle(Conductor *c);             /* levels and timing, before the record is written */
bool conductor_level_reached(const Conductor *c, Failure *reterr);
Snapshot *set_snapshot_at(Set *s, unsigned index);

/* progress.c: listens to the writers' Progress signals */
int progress_watch(Manager *m);

/* session.c */
int session_append(const Set *s, const SetWriter *w, WriterEvent e, uint64_t deadline_usec, uint64_t thaw_by_usec,
                   const char *reason, sd_bus_message *m);
/*
 * session-files.c: partial_files or differenced_files of an answer, a variant, as the JSON array of the manifest. Only
 * below directories that the writer's document names: they are read at backup and written at restore with root's
 * rights.
 */
int session_read_files(const SetWriter *w, bool partial, sd_bus_message *m, char **ret_json);
/* Component failures, stamps and private metadata of an answer; malformed ones are an error of the writer. */
int session_read_reply(SetWriter *w, WriterEvent e, sd_bus_message *reply, Failure *reterr);
