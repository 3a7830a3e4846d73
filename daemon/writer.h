/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * One writer as vssd sees it: a bus peer that registered, or a declarative document from writers.d. A bus writer gets
 * one call at a time, each with a deadline; a writer whose connection goes becomes inert ("lost") but stays listed
 * until nobody refers to it. Calls queue here, so that a writer in two sessions never sees two at once, and no call of
 * another set comes between a Freeze and its Thaw.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <sys/queue.h>
#include <systemd/sd-bus.h>

typedef struct Manager Manager;
typedef struct Writer Writer;
typedef struct WriterCall WriterCall;
typedef struct Metadata Metadata; /* protocol/metadata.h */

typedef enum WriterKind { WRITER_KIND_BUS, WRITER_KIND_DECLARATIVE, _WRITER_KIND_MAX } WriterKind;

/* result NONE: answered well, reply is the message (may be NULL for a writer without that event). Exactly once per
 * call. */
typedef void (*WriterCallDone)(Writer *w, Outcome outcome, const Failure *failure, sd_bus_message *reply,
                               void *userdata);

struct Writer {
        Manager *manager;
        LIST_ENTRY(Writer) entries; /* of Manager.writers */
        unsigned n_ref;
        WriterKind kind;
        char *name, *instance;                    /* instance "" if none */
        char *reference;                          /* "NAME" or "NAME@INSTANCE" */
        char id[VSS_ID_LENGTH + 1];               /* new at each registration */
        char *version, *bus_name, *object, *path; /* object: its own .Writer object; path: our WriterEntry object */
        uid_t uid;
        pid_t pid;
        bool foreign; /* uid owns no name of writers.d and is not root: shown as uid:NAME, not chosen by default, cannot
                         veto (hazards C2) */
        Level level;
        Usage usage;
        Source source;
        uint32_t events; /* bit per WriterEvent it wants */
        uint64_t freeze_timeout_usec;
        bool lost;               /* its connection is gone */
        int lease_fd;            /* write end of the lease pipe: EOF at the writer = vssd is gone */
        sd_bus_slot *slot_watch; /* NameOwnerChanged */
        Metadata *metadata;      /* last good document, may be NULL */
        char *metadata_text;
        WriterState state;
        Failure last_error;
        unsigned unanswered; /* calls in a row that it got and let run into their deadline; 2: dropped until it
                                registers again */
        struct WriterSession {
                char set[VSS_ID_LENGTH + 1];
                WriterState state;
        } sessions[LIMIT_SESSIONS_PER_WRITER];
        unsigned n_sessions;
        TAILQ_HEAD(, WriterCall) calls;     /* first is in flight */
        TAILQ_ENTRY(Writer) change;         /* of Manager.changed_writers, while changed */
        bool listed, changed, added;        /* for manager_writer_changed() and registration only */
        uint64_t lost_at_usec;              /* CLOCK_MONOTONIC */
        char frozen_for[VSS_ID_LENGTH + 1]; /* between Freeze sent and Thaw/Abort answered: the set; else "" */
};

/* The name it gave itself; a foreign one is listed as UID:NAME. */
static inline const char *writer_own_name(const Writer *w) {
        return w->foreign ? strchr(w->name, ':') + 1 : w->name;
}

Writer *writer_ref(Writer *w);
Writer *writer_unref(Writer *w);
DEFINE_CLEANUP(Writer *, writer_unref);

bool writer_wants(const Writer *w, WriterEvent e); /* declared writers want none */
/*
 * Queues one call. identify: set "" and session ignored. message is a method call built by writer_call_message() with
 * its session dictionary appended. deadline_usec is absolute. A writer that does not want the event answers OK at once
 * (from the loop).
 */
int writer_call_message(Writer *w, WriterEvent e, const char *set, uint64_t deadline_usec, sd_bus_message **ret);
int writer_call(Writer *w, WriterEvent e, const char *set, sd_bus_message *m, uint64_t deadline_usec,
                WriterCallDone done, void *userdata, WriterCall **ret);
/* Does it work for a set, so that a call of another set or Identify would wait? */
bool writer_is_busy(const Writer *w);
WriterCall *writer_call_free(
        WriterCall *c); /* forgets the answer: no callback; the slot stays blocked until it came or timed out */
/* No callback with this userdata comes any more; what waits unsent is dropped, except Abort and BackupShutdown. */
void writer_forget(Writer *w, void *userdata);
/* Sets state (of the session and, as the youngest, of the writer) and queues the property change. */
void writer_set_session(Writer *w, const char *set, WriterState state, const Failure *failure);
void writer_end_session(Writer *w, const char *set);
/* The connection is gone: fails what is queued with WRITER_LOST, marks lost. */
void writer_lost(Writer *w);
