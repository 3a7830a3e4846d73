/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The order in which a snapshot set is made, and unmade when something fails: a pure machine. Events go in (a writer
 * answered, a provider died, a deadline passed), actions come out (call this writer, arm this deadline, kill that
 * host). It has no bus, no clock, no descriptor and allocates nothing after sequence_init(), so every order of arrival,
 * failure, death and timeout can be run through in a unit test. conductor.c carries out the actions.
 *
 *   forward:  prepare-backup → begin-prepare → end-prepare → prepare-snapshot → pre-flush → (intent durable) → (window
 * free) → freeze front-end, back-end, system → pre-commit → hold → commit → release → post-commit → thaw system,
 * back-end, front-end → pre-final → post-snapshot → post-final → (marks cleared) → (result durable) failure anywhere:
 * unwind release → thaw system, back-end, front-end (those whose Freeze was answered) ∥ provider abort → Abort to every
 * writer that saw PrepareBackup (BackupShutdown to those that saw PostSnapshot) → aborted
 *
 * Guarantees, checked after every event by sequence_check() in debug builds and by the unit tests:
 *   S1  Once a Freeze was sent to a writer, it is sent Thaw or Abort before the machine finishes.
 *   S2  Once HOLD was sent, RELEASE is sent before any Thaw, and before the machine finishes.
 *   S3  No commit before every hold succeeded; no writer call between HOLD and the end of release.
 *   S4  The machine finishes as created only if every step of every actor succeeded (or the actor was dropped by
 * degrade). S5  Every provider that was sent BEGIN_PREPARE and whose set is not created is sent ABORT. S6  While
 * something is outstanding, a deadline is armed. S7  A writer that saw PrepareBackup sees exactly one of Abort or
 * BackupShutdown if the set is not created.
 *   S8  No file system is released, and no rescue of the guard begins, while a provider keeps a gate closed: its
 * process is killed first.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"

typedef struct Sequence Sequence;

typedef enum SequenceProviderOp { /* in the order of the life of a set */
                                  SEQ_BEGIN_PREPARE,
                                  SEQ_END_PREPARE,
                                  SEQ_PRE_COMMIT,
                                  SEQ_HOLD_BLOCKS,
                                  SEQ_COMMIT,
                                  SEQ_RELEASE_BLOCKS,
                                  SEQ_POST_COMMIT,
                                  SEQ_PRE_FINAL,
                                  SEQ_POST_FINAL,
                                  SEQ_CLEAR_MARK,
                                  SEQ_ABORT,
                                  _SEQ_PROVIDER_OP_MAX,
} SequenceProviderOp;

typedef enum SequenceGuardOp { SEQ_FLUSH, SEQ_HOLD, SEQ_RELEASE } SequenceGuardOp;

typedef enum SequenceActor { SEQ_ACTOR_NONE, SEQ_ACTOR_WRITER, SEQ_ACTOR_PROVIDER, SEQ_ACTOR_GUARD } SequenceActor;

typedef enum SequenceEventType {
        SEQ_EVENT_START,
        SEQ_EVENT_WRITER,      /* index answered op (a WriterEvent) with outcome */
        SEQ_EVENT_WRITER_LOST, /* index left the bus with no call in flight */
        SEQ_EVENT_PROVIDER,    /* index answered op (a SequenceProviderOp) with outcome */
        SEQ_EVENT_PROVIDER_LOST,
        SEQ_EVENT_GUARD,      /* op (a SequenceGuardOp) answered; forced: it let go by itself */
        SEQ_EVENT_GUARD_LOST, /* ended or hung; its rescue begins as soon as the actions of this are done */
        SEQ_EVENT_GUARD_GONE, /* dead or rescued: nothing of ours is held any more */
        SEQ_EVENT_STORED,     /* the intent or the result is durable, or could not be written */
        SEQ_EVENT_WINDOW,     /* no other set is in its window any more */
        SEQ_EVENT_TIMER,      /* now is at or past the armed deadline */
        SEQ_EVENT_CANCEL,     /* by Cancel, by a requester that went, by vssd's own end; failure says which */
} SequenceEventType;

typedef struct SequenceEvent {
        SequenceEventType type;
        uint64_t now_usec;
        unsigned index, op;
        Outcome outcome;
        bool forced;
        const Failure *failure; /* of outcome failed, or of cancel; copied; may be NULL */
} SequenceEvent;

typedef enum SequenceActionType {
        SEQ_DO_PHASE,         /* op: Phase that begins now; deadline: its budget end */
        SEQ_DO_WRITER,        /* call index with op (WriterEvent) by deadline */
        SEQ_DO_PROVIDER,      /* call index with op by deadline; fresh: in a new process */
        SEQ_DO_KILL_PROVIDER, /* index does not answer */
        SEQ_DO_GUARD,         /* op by deadline */
        SEQ_DO_RESCUE,        /* the guard does not answer: guard_rescue() until it says 1, then SEQ_EVENT_GUARD_GONE */
        SEQ_DO_STORE_INTENT,
        SEQ_DO_STORE_RESULT,
        SEQ_DO_EXCLUDE,      /* remove from the copies what is to be kept out; answer with SEQ_EVENT_STORED */
        SEQ_DO_ASK_WINDOW,   /* answer with SEQ_EVENT_WINDOW */
        SEQ_DO_CLOSE_WINDOW, /* the last Thaw is answered */
        SEQ_DO_DROP_WRITER,  /* index no longer takes part (degrade); failure is in writers[index] */
        SEQ_DO_FINISH,       /* op: 1 created, 0 aborted; cause in sequence_cause() */
} SequenceActionType;

typedef struct SequenceAction {
        SequenceActionType type;
        unsigned index, op;
        bool fresh;
        uint64_t deadline_usec;
} SequenceAction;

typedef struct SequenceBudgets { /* µs */
        uint64_t prepare_backup, provider, provider_step, prepare_snapshot, pre_flush, freeze, hold, thaw,
                post_snapshot, abort, window;
} SequenceBudgets;

typedef struct SequenceWriter {
        /* set by the owner before sequence_init() */
        Level level;
        uint64_t freeze_timeout_usec; /* its own wish; 0: the budget */
        bool required;                /* its failure is never degraded */
        /* the machine's */
        bool outstanding, prepared, frozen, thawed, post_snapshot, ended, dropped, lost, silent;
        WriterEvent call;
        uint64_t thaw_by_usec; /* absolute, once Freeze was sent */
        uint64_t freeze_sent_usec, thaw_answered_usec;
        Failure failure;
} SequenceWriter;

typedef struct SequenceProvider {
        bool holds; /* VSS_CAP_HOLDS: takes part in hold and release */
        bool outstanding, begun, dead, aborted;
        bool gated; /* it was told to hold and has not said that it let go */
        SequenceProviderOp call;
        uint64_t deadline_usec; /* of the call that is outstanding */
} SequenceProvider;

struct Sequence {
        SequenceBudgets budgets;
        bool degrade;            /* a writer's failure lowers the level instead of failing the set */
        bool excludes;           /* set by the owner after sequence_init(): there is something to exclude */
        bool has_guard;          /* at least one file system is held by the guard */
        SequenceWriter *writers; /* borrowed arrays of the owner */
        unsigned n_writers;
        SequenceProvider *providers;
        unsigned n_providers;

        unsigned step;
        bool started, failed, unwinding, finished, created;
        bool hold_sent, released, guard_outstanding, guard_gone, rescuing, forced,
                waiting; /* waiting: store or window */
        bool window_open;
        unsigned guard_op;
        unsigned writers_outstanding, providers_outstanding;
        uint64_t deadline_usec; /* armed; USEC_INFINITY: none */
        uint64_t prepare_deadline_usec, hold_deadline_usec, window_deadline_usec;
        uint64_t thaw_by_usec; /* the earliest of all frozen writers */
        uint64_t freeze_begin_usec, freeze_end_usec, thawed_usec;
        Failure cause;
        SequenceActor cause_actor; /* whose failure it was; cause_index: which one */
        unsigned cause_index;
        Phase cause_phase;
        SequenceAction *actions; /* ring */
        unsigned head, tail, size;
};

/* Arrays stay the caller's and must outlive the sequence; their "machine's" fields are zeroed. 0 or -ENOMEM. */
int sequence_init(Sequence *s, SequenceWriter *writers, unsigned n_writers, SequenceProvider *providers,
                  unsigned n_providers, const SequenceBudgets *budgets, bool has_guard, bool degrade);
void sequence_done(Sequence *s);
void sequence_feed(Sequence *s, const SequenceEvent *e);
bool sequence_next(Sequence *s, SequenceAction *ret); /* false: no action left */
uint64_t sequence_deadline(const Sequence *s);        /* when SEQ_EVENT_TIMER is due; USEC_INFINITY: never */
bool sequence_may_cancel(const Sequence *s);          /* until the first commit call */
bool sequence_in_hold(const Sequence *s);             /* from the first hold sent to the last release answered */
bool sequence_in_window(const Sequence *s);           /* from the first Freeze to the last Thaw answered */
const Failure *sequence_cause(const Sequence *s);     /* why it was aborted: first cause wins */
void sequence_check(const Sequence *s);               /* asserts S1 … S8 as far as they can be seen from the state */
