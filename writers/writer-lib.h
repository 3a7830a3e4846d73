/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Inside of the writer half of libvss. Three objects: the Link (one bus connection on one loop, shared by all writers
 * of that loop), the writer (one registration, and what is known about whether its application stands still) and the
 * event (one call of vssd on its way through a callback). Everything belongs to the loop's thread, except what
 * writer-worker.h says.
 */
#include "protocol/base.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include "protocol/vocabulary.h"
#include "writers/vss-writer.h"
#include <stdatomic.h>
#include <sys/queue.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

typedef struct Link Link;
typedef struct vss_writer Writer;
typedef struct vss_event Event;
typedef struct Worker Worker;

enum {
        LINK_REGISTERING_MAX =
                32, /* RegisterWriter calls on their way: the bus allows 128 unanswered ones per connection */
        WRITER_EVENTS_MAX = 8,    /* unanswered calls per writer; vssd never has more than one, and an Abort */
        EVENT_VALUES_MAX = 65536, /* values of one session or answer */
        RESUME_TRIES_MAX = 5,     /* calls of abort by ourselves, if abort fails */
        EXIT_STUCK = 70,          /* exit status when a callback hangs while the application stands still */
};
#define REGISTER_TIMEOUT_USEC (60 * USEC_PER_SEC) /* may have to start vssd and ask polkit */
#define COPY_TIMEOUT_USEC (10 * USEC_PER_SEC)     /* OpenCopy only hands out a descriptor */
#define STUCK_USEC (2 * USEC_PER_SEC)        /* how long a callback may go on after the application has to run again */
#define STOP_TIMEOUT_USEC (2 * USEC_PER_SEC) /* how long leaving may wait for abort */
#define RETRY_MIN_USEC (1 * USEC_PER_SEC)
#define RETRY_MAX_USEC (32 * USEC_PER_SEC)
#define PROGRESS_INTERVAL_USEC (250 * USEC_PER_MSEC)
#define TIMER_ACCURACY_USEC USEC_PER_MSEC

TAILQ_HEAD(EventList, vss_event);
TAILQ_HEAD(WriterList, vss_writer);

struct Link {
        LIST_ENTRY(Link) entries;
        sd_event *event;
        sd_bus *bus;
        struct WriterList writers;
        char *owner;       /* unique name of vssd; NULL: not running */
        bool may_activate; /* the first attempt has not been made: it may start vssd */
        bool broken;       /* the bus has gone */
        bool asked;        /* owner is known, or known to be nobody */
        unsigned n_registering;
        uint64_t last_object;
        uint64_t retry_usec; /* grows while registering fails */
        sd_event_source *retry;
        sd_bus_slot *slot_owner, *slot_get_owner, *slot_lost;
};

typedef enum Registration {
        REGISTRATION_NONE,
        REGISTRATION_ASKED,
        REGISTRATION_DONE,
        REGISTRATION_REFUSED
} Registration;

/* For the programs of this folder: told each time vssd took or refused the writer. error: 0, or negative with a text.
 */
typedef void (*WriterRegistered)(Writer *w, int error, const char *message, void *userdata);
/*
 * For vss-testwriter. before: instead of the callback; 0 goes on with it, VSS_PENDING keeps the event, whoever then
 * calls writer_finish() or event_free() with it. after: told of each answer that was sent.
 */
typedef int (*WriterBefore)(Writer *w, Event *e, void *userdata);
typedef void (*WriterAfter)(Writer *w, Event *e, void *userdata);

struct vss_writer {
        TAILQ_ENTRY(vss_writer) entries; /* of Link.writers */
        struct vss_writer_callbacks callbacks;
        char *name, *instance, *version;
        void *userdata;
        WriterRegistered registered;
        WriterBefore before;
        WriterAfter after;
        void *hook_userdata;

        Link *link;
        char *object; /* our object path */
        char *entry;  /* vssd's object for us */
        Registration registration;
        int lease_fd;
        sd_event_source *lease;
        sd_bus_slot *slot_vtable, *slot_register;

        struct EventList events; /* unanswered, oldest first */
        unsigned n_events;
        char frozen[VSS_ID_LENGTH +
                    1]; /* the set: from the call of freeze until thaw or abort returned well; else "" */
        char resumed[VSS_ID_LENGTH + 1]; /* the set that we had to end by ourselves */
        unsigned resume_tries;
        sd_event_source *thaw_by, *stuck;

        Worker *worker; /* run mode only */
        int stop_fd;
        bool running, stopping, abandoned, accepted;
};

typedef struct EventValue {
        char *component; /* NULL: of the whole event */
        char *key, *text;
} EventValue;

typedef struct EventValues {
        EventValue *v;
        size_t n;
} EventValues;

typedef struct EventComponent {
        char *path;
        bool succeeded;
} EventComponent;

struct vss_event {
        TAILQ_ENTRY(vss_event) entries; /* of Writer.events */
        TAILQ_ENTRY(vss_event) queue;   /* of the worker */
        Writer *writer;
        WriterEvent kind;
        sd_bus_message *call; /* NULL: an abort of our own */
        char set[VSS_ID_LENGTH + 1];
        uint64_t deadline_usec, thaw_by_usec, started_usec;
        sd_event_source *timer;
        int cancel_fd;
        atomic_bool cancelled;
        /* the session */
        bool one_instant;
        char **volumes; /* as paths, not escaped */
        size_t n_volumes;
        EventComponent *components;
        size_t n_components;
        EventValues session;
        /* the answer */
        bool failed;
        Failure failure;
        EventValues answer;   /* component "": message */
        EventValues failures; /* component, key: error name, text */
        char *document;       /* identify */
        bool in_callback, replied;
        bool waits;            /* for the end of another: no callback yet */
        sd_event_source *turn; /* that is over */
        int result;
        uint64_t progress_usec;
        bool marked; /* by WriterBefore, for WriterAfter */
        /* copies opened so far */
        char *copy_volume;
        int copy_fd;
};

/* vss-writer.c: life of a writer */
void writer_set_hooks(Writer *w, WriterRegistered registered, WriterBefore before, WriterAfter after, void *userdata);
uint32_t writer_events_wanted(const Writer *w); /* bit per WriterEvent */
vss_event_fn writer_callback(const Writer *w, WriterEvent e);

/* writer-link.c */
int link_join(sd_event *event, Writer *w); /* the connection of this loop, made if there is none */
void link_leave(Writer *w);                /* unregisters; the last one closes the connection */
void link_progress(Writer *w, const Event *e, double fraction);

/* writer-call.c: from a message to a callback and back */
extern const sd_bus_vtable writer_vtable[];
int writer_deliver(Event *e);        /* runs the callback or hands it to the worker */
void writer_finish(Event *e, int r); /* on the loop's thread: the callback is over; answers and frees e */
void event_answer(Event *e);         /* sends the one answer */

/* writer-frozen.c: what must not stand still for ever */
void writer_freezing(Event *e);               /* freeze is about to be called */
void writer_settled(Writer *w);               /* thaw or abort returned well */
void writer_resume(Writer *w, Condition why); /* let the application go on without being asked */
bool writer_is_resumed(const Writer *w, const char *set);
void writer_forget_timers(Writer *w);

/* writer-event.c */
int event_new(Writer *w, WriterEvent kind, sd_bus_message *call, Event **ret);
Event *event_free(Event *e);
DEFINE_CLEANUP(Event *, event_free);
int event_arm(Event *e);        /* cancels it at its deadline */
int event_call(Event *e);       /* the callback, on whatever thread this is */
int event_call_plain(Event *e); /* without WriterBefore */
void event_cancel(Event *e);
const char *event_find(const EventValues *values, const char *component, const char *key);
int event_add(EventValues *values, const char *component, const char *key, const char *text);
void event_values_done(EventValues *values);

/* writer-session.c */
int event_read_session(Event *e, sd_bus_message *m); /* -EBADMSG: not a{sv} as it should be */
int event_append_answer(Event *e, sd_bus_message *m);

/* writer-copy.c: splits an absolute path into volume of the set and the rest; -EXDEV: not in the set */
int event_split_path(const Event *e, const char *path, const char **ret_volume, const char **ret_rest);
int event_copy_call(const Event *e, const char *volume, sd_bus_message **ret); /* OpenCopy, not sent */
int event_copy_answer(sd_bus_message *m, int *ret_fd);

/* writer-metadata.c */
int metadata_build(Writer *w, char **ret_document,
                   int *ret_result); /* calls identify; *ret_result is what it returned */
/* For what identify notes besides: its document goes nowhere. What it returned. */
int metadata_try(int (*identify)(struct vss_metadata *m, void *userdata), void *userdata);
