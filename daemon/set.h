/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A snapshot set: its options, its volumes, writers and snapshots, and its one state. The set is its own job: CreateSet
 * answers with its path at once, everything else is a property. set.c owns lifetime and the state setter, conductor.c
 * carries out the sequence, set-bus.c shows it.
 */
#include "daemon/provider.h"
#include "daemon/volume.h"
#include "daemon/writer.h"
#include "protocol/manifest.h"
#include <sys/queue.h>
#include <systemd/sd-bus.h>

typedef struct Set Set;
typedef struct Snapshot Snapshot;
typedef struct Conductor Conductor;
typedef struct SetVerb SetVerb;

/* What happened when: one row of the record, all times absolute CLOCK_MONOTONIC. */
typedef struct TraceStep {
        const char *name;                           /* a word of the vocabulary: never freed */
        uint64_t start_usec, end_usec, budget_usec; /* end 0: running; budget USEC_INFINITY: none */
        Outcome outcome;
} TraceStep;
enum {
        TRACE_STEPS_MAX = 24
}; /* more than phases, writer events or provider calls of one set; later ones are dropped */
typedef struct Trace {
        TraceStep steps[TRACE_STEPS_MAX];
        unsigned n;
} Trace;
void trace_begin(Trace *t, const char *name, uint64_t now,
                 uint64_t deadline_usec);                /* deadline absolute, INFINITY: none */
void trace_end(Trace *t, uint64_t now, Outcome outcome); /* of the last step, if it is running */

typedef struct SetVolumeOption { /* one volume as the requester named it */
        char *volume, *provider, *mode, *storage;
        Consistency require;
} SetVolumeOption;

typedef struct SetComponentOption { /* one explicit component */
        char *writer, *path, *options, *previous_stamp;
} SetComponentOption;

typedef struct SetOptions { /* parsed and checked arguments of CreateSet and Plan; owned */
        SetVolumeOption *volumes;
        size_t n_volumes;
        SetComponentOption *components;
        size_t n_components;
        SetComponentOption *stamps; /* of an earlier backup, for components that are taken without being named */
        size_t n_stamps;
        char **writers, **exclude_writers, **require_writers, **freeze_units; /* NULL-terminated or NULL */
        char **labels;                                                        /* "key=value", NULL-terminated or NULL */
        char **writer_options;                                                /* "writer:key=value" */
        char *requester, *provider, *mode, *reason;
        uid_t uid; /* who asked, as the bus says */
        pid_t pid;
        BackupType backup_type;
        OnWriterFailure on_writer_failure;
        Consistency require;
        Closure closure;
        Lifetime lifetime;
        SessionKind session; /* bound or detached */
        AutoRecovery auto_recovery;
        bool no_writers, nested, partial_files, bootable_state;
        uint64_t wait_for_turn_usec;
        uint64_t timeouts[16]; /* by budget, 0: the default; see Budgets */
} SetOptions;
void set_options_done(SetOptions *o);
/* As the requester named it; NULL for what the closure or --nested added. */
const SetVolumeOption *set_options_of(const SetOptions *o, const Volume *v);
const char *set_options_mode(const SetOptions *o, const Volume *v); /* how it is to be copied, NULL: any way */

struct Snapshot {
        LIST_ENTRY(Snapshot) entries;
        Set *set;
        char id[VSS_ID_LENGTH + 1];
        char *volume; /* the argument as given */
        char *name;   /* canonical volume name */
        char *mount_point, *device, *path, *provider, *token, *fs_type, *fs_uuid;
        uint64_t size_bytes, created_at_usec;
        Consistency consistency;
        bool available;                            /* exists for requesters: post_commit is over */
        bool pinned, damaged, held, held_by_guard; /* held: frozen by the guard or by the provider itself */
        char **mounts;                             /* where vssd mounted it, NULL-terminated or NULL */
        Consistency reachable;                     /* of the plan: what it is if nothing fails */
        Trace calls;
        bool changed, added; /* for manager_snapshot_changed() and _added() only */
};

typedef struct SetWriter { /* a writer in this set; outlives the writer's death */
        Writer *writer;    /* referenced; NULL after a restart of vssd, until it registers again */
        char *reference, *name, *instance;
        Level level;
        WriterState state;
        Consistency consistency;
        Failure failure;
        uint64_t freeze_usec; /* Freeze sent to Thaw answered */
        char *metadata_text;
        BackupType type;   /* what it does of the type that was asked for */
        char **components; /* explicit component paths taken, NULL-terminated */
        char **implicit;   /* those taken with one of them, NULL-terminated or NULL */
        /* per component of components, "" if none; from PrepareBackup or PostSnapshot; the last two are JSON arrays */
        char **stamps, **private_metadata, **partial_files, **differenced_files;
        char **failures;        /* "component\nevent\nerror\nmessage" each, NULL-terminated or NULL */
        Failure partial;        /* the first of them, for people */
        signed char *succeeded; /* per component, by Complete: -1 not said, 0, 1; NULL before */
        uint64_t volumes;       /* bit per snapshot of the set its data lies on */
        Trace events;
        uint64_t recovers; /* likewise, of those that it may write into the copies of */
        bool notify;       /* wants BackupComplete: one of its components does, or it has none */
        bool dropped;      /* on_writer_failure=degrade: no longer takes part */
        bool whole;        /* all its data are in the set */
        bool resumed;      /* its registration of now has not seen the set */
} SetWriter;

typedef struct SetTiming {
        uint64_t total_usec, queue_usec, prepare_usec, freeze_usec, hold_usec, commit_usec;
} SetTiming;

struct Set {
        Manager *manager;
        TAILQ_ENTRY(Set) entries;
        char id[VSS_ID_LENGTH + 1];
        char *path; /* object path */
        SetOptions options;
        char *owner; /* unique bus name of the requester, NULL once gone */
        uid_t owner_uid;
        pid_t owner_pid;
        SetState state; /* set_set_state() only */
        Phase phase;
        double progress;
        SessionKind session;
        Failure error; /* why it was aborted */
        Consistency consistency;
        bool one_instant, forced;
        uint64_t started_usec, started_at_usec, created_at_usec,
                instant_at_usec; /* monotonic; realtime; realtime; realtime */
        SetTiming timing;
        Trace phases;
        Volume **volumes; /* after the closure; owned */
        size_t n_volumes;
        SetWriter *writers;
        size_t n_writers;
        LIST_HEAD(, Snapshot) snapshots; /* in command-line order */
        unsigned n_snapshots;
        Conductor *conductor;               /* while queued, running or aborting */
        struct SetExclusions *exclusions;   /* what is to go from the copies; until it is reported */
        char *exclude_text, *excluded_text; /* JSON arrays: kept out of the backup; removed from the copies */
        char *record_text, *manifest_text;  /* JSON, once final; NULL: built on demand */
        sd_bus_message *waiters[LIMIT_WAITERS];
        bool waiter_completed[LIMIT_WAITERS]; /* until=completed */
        unsigned n_waiters;
        char **warnings;
        sd_bus_track *owner_track;
        SetVerb *verb;                                  /* complete or delete under way */
        sd_event_source *session_timer;                 /* a detached session ends by itself */
        uint64_t completed_at_usec;                     /* realtime; 0: not completed */
        bool volumes_borrowed;                          /* volumes belong to the conductor's probe result */
        bool changed, added, ended, owner_gone, loaded; /* loaded: from the catalogue, made by an earlier vssd */
};

/*
 * volumes and probe are taken. The set starts queued; the sequence runs from the loop. Errors: LIMIT_REACHED, BUSY
 * (wait_for_turn 0 and something is in the way).
 */
int set_new(Manager *m, SetOptions *options, ProbeResult *volumes, sd_bus_message *requester, Failure *reterr,
            Set **ret);
Set *set_free(Set *s);
DEFINE_CLEANUP(Set *, set_free);

/* Verbs of set-bus.c. Each either fails at once with *reterr or runs to its end and calls done once. */
typedef struct SetResult {
        char *name;
        Failure failure;
} SetResult; /* writer reference or snapshot id */
typedef void (*SetDone)(const Failure *failure, const SetResult *results, size_t n, void *userdata);
int set_may_cancel(const Set *s, Failure *reterr); /* all that set_cancel() checks */
int set_cancel(Set *s, Failure *reterr);
/* marks: explicit components as {writer, path} with succeeded and message; others take success. */
typedef struct SetMark {
        char *writer, *path, *message;
        bool succeeded;
} SetMark;
int set_complete(Set *s, bool success, const SetMark *marks, size_t n_marks, SetDone done, void *userdata,
                 Failure *reterr);
int set_delete(Set *s, bool force, SetDone done, void *userdata, Failure *reterr);
/* One snapshot of a set; the set is deleted with its last one. */
int snapshot_delete(Snapshot *snapshot, bool force, SetDone done, void *userdata, Failure *reterr);
/* The requester's connection is gone: bound sessions end, auto-release copies go. */
void set_owner_gone(Set *s);
/* SIGTERM: everything held is released now; running sets abort. */
void set_stop(Set *s);

/* What Wait answers: 1 replied now, 0 kept until the set is there. */
int set_wait(Set *s, sd_bus_message *m, bool until_completed, Failure *reterr);
int set_record(Set *s, char **ret_json);   /* interfaces 5.3; caller frees */
int set_manifest(Set *s, char **ret_json); /* interfaces 5.2; from created on */
/* Plan: same arguments, no set; JSON to done. */
typedef void (*PlanDone)(const char *json, const Failure *failure, void *userdata);
typedef struct Plan Plan;
int plan_new(Manager *m, SetOptions *options, ProbeResult *volumes, uid_t uid, PlanDone done, void *userdata,
             Plan **ret);
Plan *plan_free(Plan *p);

/* From the catalogue at start: a set as its record left it. Running ones are aborted (their provider copies removed).
 */
int set_load(Manager *m, const char *id, const char *record_text, Set **ret);
/* o: as set_load's record. Its copies become those of a set that does not know them; an aborted set is completed again.
 */
int set_take_in(Set *s, struct json_object *o);
/* conductor.c: the sequence is over; the set is created or aborted. */
void set_creation_over(Set *s, bool created);
/* What the requester said of this component of this writer, or NULL. */
const SetComponentOption *set_component_option(const Set *s, const SetWriter *w, const char *path);
/* KEY=VALUE of a "writer:key=value" that is meant for this writer, else NULL. */
const char *set_writer_option(const SetWriter *w, const char *option);
const char *set_previous_stamp(const Set *s, const SetWriter *w, const char *path); /* or NULL */
Snapshot *snapshot_new(Set *s, const Volume *v, const char *provider); /* not yet in the list; NULL: out of memory */
Snapshot *snapshot_free(Snapshot *snapshot);                           /* leaves the list of its set */
/* What the catalogue keeps of a set: record, manifest and what only vssd needs; state as it will be. Caller frees. */
int set_store_format(Set *s, SetState state, char **ret_text);
void set_answer_waiters(Set *s);                  /* whose state has come */
void set_end_session(Set *s, const char *reason); /* BackupShutdown without BackupComplete */
void set_arm_session(Set *s);                     /* a created, detached set: when session_max ends it */
void set_verb_cancel(Set *s);                     /* the set goes: no callback of its verb any more */
void set_store(Set *s);                           /* writes the record as it is now; failures are logged */
/* The only place that changes state: checks the transition, stamps, announces, answers waiters, writes the catalogue.
 */
void set_set_state(Set *s, SetState state);
