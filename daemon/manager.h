/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The one owner of everything in vssd: bus, event loop, writers, providers, sets, catalogue. There is one Manager per
 * process and it is created first and freed last.
 */
#include "daemon/authority.h"
#include "daemon/catalogue.h"
#include "daemon/set.h"
#include "daemon/settings.h"
#include "daemon/strays.h"
#include "daemon/volume.h"
#include "daemon/writer.h"
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

typedef struct Recovery Recovery;   /* start-up under way: manager-recover.c */
typedef struct Mounts Mounts;       /* what vssd mounted: mounts.h */
typedef struct Volumes Volumes;     /* volumes seen last: volumes.h */
typedef struct Peers Peers;         /* whose death interests us: peers.h */
typedef struct Inhibitor Inhibitor; /* inhibit.h */
typedef struct Restore Restore;     /* restore.h */
typedef struct Revert Revert;       /* revert.h */
struct Call;                        /* method calls under way: call.h */

typedef struct ProviderEntry { /* what is known about one loadable provider without running it */
        LIST_ENTRY(ProviderEntry) entries;
        char *name, *version, *kind, *file; /* kind: built-in, loadable */
        uint64_t capabilities;
        uint32_t priority; /* lower is asked first */
        bool ready;        /* LOAD answered */
        Failure last_error;
} ProviderEntry;

struct Manager {
        sd_event *event;
        sd_bus *bus;
        Settings settings;
        Recovery *recovery; /* NULL once start-up is over */
        Mounts *mounts;
        Volumes *volumes;
        Peers *peers;
        Inhibitor *inhibitor;
        LIST_HEAD(, Call) calls;
        unsigned n_calls;
        Authority *authority;
        Catalogue *catalogue;
        LIST_HEAD(, Writer) writers;
        unsigned n_writers;
        TAILQ_HEAD(, Writer) changed_writers; /* to be announced; of a thousand few change in one turn */
        uint64_t writers_due_usec;            /* before this no entry of a lost writer has to be looked after */
        LIST_HEAD(, ProviderEntry) providers;
        LIST_HEAD(, Stray) strays;   /* strays.c */
        struct ExcludeList *exclude; /* exclude.d */
        TAILQ_HEAD(, Set) sets;      /* oldest first */
        unsigned n_sets;
        LIST_HEAD(, Restore) restores;
        unsigned n_restores;
        LIST_HEAD(, Revert) reverts; /* newest first; results are kept for a while */
        Set *window;     /* the one set between its first Freeze and its last Thaw; others wait for it (turns.c) */
        unsigned n_busy; /* calls, jobs and children that forbid the idle exit */
        sd_event_source *idle_timer, *stop_timer, *change_source, *post_source, *turns_source;
        uint64_t active_at_usec; /* last method call: the idle exit counts from here */
        bool changes;            /* some object's changed, added or ended flag is set */
        bool writers_changed;    /* the note for the next vssd is out of date */
        char **removed;          /* "INTERFACE PATH" to announce as gone */
        char *running_announced; /* RunningSets and Authorization as last announced */
        const char *authorization_announced;
        bool reload_wanted; /* SIGHUP came; in a window it waits */
        bool releasing;     /* idle exit: the name is on its way back to the bus */
        bool ready;         /* catalogue loaded, leftovers dealt with: sets may run */
        bool stopping;
        unsigned calls_in_flight; /* writer calls, at most LIMIT_CALLS_IN_FLIGHT */
};

int manager_new(Manager **ret);
int manager_start(Manager *m); /* leftovers, bus, vtables; the rest of start-up runs from the loop: manager-recover.c */
void manager_stop(
        Manager *m); /* SIGTERM: set_stop() on all sets, then out of the loop, at the latest after the abort budget */
int manager_reload(Manager *m, Failure *reterr); /* settings, writers.d; unchanged on failure */
Manager *manager_free(Manager *m);
DEFINE_CLEANUP(Manager *, manager_free);
int manager_run(Manager *m); /* until SIGTERM or idle */

Set *manager_find_set(Manager *m, const char *id);
Snapshot *manager_find_snapshot(Manager *m, const char *id);
Writer *manager_find_writer(Manager *m, const char *reference);
ProviderEntry *manager_find_provider(Manager *m, const char *name); /* "fault:btrfs" finds btrfs */

/* Keeps vssd alive while something is under way; every busy has its idle. Never negative. */
void manager_busy(Manager *m);
void manager_idle(Manager *m);

/* Gathers property changes of one loop turn; emitted at idle priority, held back while a window is open. */
void manager_set_changed(Manager *m, Set *s); /* all E properties of a set */
void manager_snapshot_changed(Manager *m, Snapshot *s);
void manager_writer_changed(Manager *m, Writer *w);
/* ObjectManager announcements, queued likewise. */
void manager_set_added(Manager *m, Set *s);
void manager_set_removed(Manager *m, const Set *s); /* before set_free() */
void manager_snapshot_added(Manager *m, Snapshot *s);
void manager_snapshot_removed(Manager *m, const char *id);
/* Signal SetEnded. */
void manager_set_ended(Manager *m, Set *s);
/* Signal SnapshotDropped; at once, so not while the bus is off. */
void manager_snapshot_dropped(Manager *m, const Snapshot *snapshot, const char *reason);
/* Signal HoldForced; likewise. */
void manager_hold_forced(Manager *m, const Set *s, uint64_t held_usec);

/* Logging: one line to stderr (journal prefix levels) with set, writer, phase as fields; in the window into a memory
 * ring. */
void manager_log(Manager *m, int priority, const char *set, const char *format, ...) _printf_(4, 5);
/* … about a writer; set may be NULL. */
void manager_log_writer(Manager *m, int priority, const char *set, const char *writer, const char *format, ...)
        _printf_(5, 6);
