/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A restore session: between PreRestore and PostRestore the writers of the chosen components have their files closed
 * while the requester copies with its own rights. vssd copies nothing and opens no file for a restore (hazards C1); it
 * tells writers what is about to happen and what became of it, and sees to it that they hear the end whatever happens
 * to the requester.
 */
#include "daemon/manager.h"
#include "protocol/restore.h"

typedef struct Restore Restore;
typedef struct RestoreWriter RestoreWriter;

typedef struct RestoreComponent {
        char *writer, *path; /* as the requester named them */
        RestoreWishes wishes;
        /* from the manifest */
        char *part_of; /* the explicit component, if path is only a part of it */
        char *stamp, *metadata;
        RestoreWriter *by; /* NULL: could not be chosen, which only a dry run lets pass */
        Failure failure;   /* the writer refused it */
        /* what the writer answered */
        RestoreTarget target;
        char *message;
        sd_bus_message *answer; /* directed targets and added files: the requester gets them from there */
        /* what the requester reports */
        RestoreStatus status;
        bool reported, alternate_used;
        char *status_message, **new_targets; /* pairs: old, new */
} RestoreComponent;

struct RestoreWriter {
        Restore *restore;
        Writer *writer;
        RestoreEvents events;
        bool parallel; /* may be in several restores at once */
        bool entered;  /* may have closed its files, so it has to hear the end */
        bool refused;  /* its PreRestore failed: none of its components is restored */
        bool calling;
        Failure failure; /* of its last event */
};

/* The session is in the state that its one call under way says; between the two calls it waits for the requester. */
typedef enum RestoreState { RESTORE_ENTERING, RESTORE_COPYING, RESTORE_LEAVING, _RESTORE_STATE_MAX } RestoreState;

/* PreRestore or PostRestore of all writers is over. The session may be freed by it. */
typedef void (*RestoreDone)(Restore *r, void *userdata);

struct Restore {
        Manager *manager;
        LIST_ENTRY(Restore) entries;
        char id[VSS_ID_LENGTH + 1];
        char *owner; /* bus name of the requester */
        uid_t owner_uid;
        char backup_set[VSS_ID_LENGTH + 1];
        BackupType backup_type;
        RestoreState state;
        bool gone; /* nobody is interested any more: writers hear failed */
        const char *reason;
        RestoreComponent *components;
        size_t n_components;
        struct PathEntry *by_path; /* of components */
        RestoreWriter *writers;
        size_t n_writers;
        unsigned n_calling;
        sd_event_source *timer, *defer; /* session_max; the end without a call */
        RestoreDone done;
        void *userdata;
};

/* Takes over the components. INVALID_DOCUMENT, NOT_FOUND, NOT_SUPPORTED, BUSY, LIMIT_REACHED. dry_run: no session is
 * listed, and what is wrong with one component goes into its failure. */
int restore_new(Manager *m, const char *owner, uid_t owner_uid, const Manifest *manifest, RestoreComponent *components,
                size_t n_components, bool dry_run, Failure *reterr, Restore **ret);
Restore *restore_free(Restore *r);
DEFINE_CLEANUP(Restore *, restore_free);
void restore_components_free(RestoreComponent *components, size_t n);
Restore *restore_find(Manager *m, const char *id);
/* The restore that a writer of this reference takes part in; parallel_too: also one beside which it may be in others.
 */
const Restore *restore_of_writer(const Manager *m, const Writer *w, bool parallel_too);

/* The one of this path, by what the requester called its writer or, with writer NULL, by the writer; NULL: none. */
RestoreComponent *restore_component(const Restore *r, const char *writer, const RestoreWriter *by, const char *path);

/* Exactly one of these calls is under way at a time; done is called from the loop. */
void restore_enter(Restore *r, RestoreDone done, void *userdata);
void restore_leave(Restore *r, RestoreDone done, void *userdata);
/* The caller of what is under way is gone or gives up: the writers that closed their files hear that it failed. */
void restore_abandon(Restore *r, const char *reason);
void restores_peer_gone(Manager *m, const char *bus_name);
void restores_stop(Manager *m);
void restores_free(Manager *m);

/* restore-session.c: the dictionaries on both sides of a writer's call. */
int restore_session_append(const Restore *r, const RestoreWriter *w, bool post, uint64_t deadline_usec,
                           sd_bus_message *m);
int restore_session_read(Restore *r, RestoreWriter *w, sd_bus_message *reply, Failure *reterr);

/* restore-bus.c */
int method_pre_restore(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
int method_post_restore(sd_bus_message *m, void *userdata, sd_bus_error *reterr);
