/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * One method call that cannot be answered at once. It is answered exactly once: whoever frees it without an answer has
 * said UNAVAILABLE. Steps run one after the other (who is it, may it, look, do, answer); each is a function that either
 * goes on, answers, or leaves one thing under way in the call. Objects may vanish between two steps, so a call keeps
 * ids and finds them again. While a window is open nothing but identification goes on: polkit, disk and processes wait
 * for its end (hazards B3).
 */
#include "daemon/authority.h"
#include "daemon/manager.h"

enum {
        LIMIT_CALLS = 1024,
        LIMIT_CALLS_PER_SENDER = 64,
        LIMIT_CALLS_PER_UID = 64, /* for uids other than 0: connections cost nothing */
        LIMIT_ASKING_PER_UID = 4  /* of these, such as ask writers and providers */
};                                /* what all callers together, and one, can make vssd remember */

typedef struct Call Call;
typedef struct MountJob MountJob;
typedef void (*CallStep)(Call *c);

struct Call {
        Manager *manager;
        LIST_ENTRY(Call) entries;
        sd_bus_message *message;
        AuthorityCaller caller; /* once identified */
        AuthorityCheck *check;
        Probe *probe;
        ProviderJob *job;
        MountJob *mount;
        Plan *plan;
        WriterCall *writer_call;
        struct Exposure *exposure;
        char id[VSS_ID_LENGTH + 1]; /* of the set or snapshot it is about */
        void *state;
        void (*state_free)(void *state);
        bool waits_for_quiet, answered, held, asking;
        CallStep next, quiet_next; /* after the question that is out; after the window */
        char *action, **details;   /* what is to be asked */
        uid_t own_uid;
};

/* The message is kept. LIMIT_REACHED goes into reterr; handlers return what this returns if it is negative, else 1. */
int call_new(Manager *m, sd_bus_message *message, sd_bus_error *reterr, Call **ret);
Call *call_free(Call *c);
void calls_free(Manager *m);
void calls_resume(Manager *m); /* the window is closed */

void call_identify(Call *c, CallStep next);
/* details: NULL-terminated pairs. next runs once allowed and no window is open. */
void call_authorise(Call *c, const char *action, const char *const *details, CallStep next);
/*
 * For what a set's requester may do without asking: at once if it is that connection, then if it is that account or
 * root, else as above. The first two also in a window, so next must not start anything.
 */
void call_authorise_own(Call *c, const Set *s, const char *action, const char *const *details, CallStep next);
void call_when_quiet(Call *c, CallStep next);
/*
 * Before this identified call makes writers or providers answer: everybody may ask, so one account must not keep them
 * from answering to others. False: too many of this account do already, and the call has failed.
 */
bool call_may_ask(Call *c);

/*
 * A set's verb is about to be given this call as userdata: only its end, or that of all sets, may free the call. The
 * verb calls back exactly once, so nothing else of the call may be under way.
 */
void call_hold(Call *c);
void calls_refuse(Manager *m); /* frees those that are not held: vssd is stopping */

/* Answers and frees. */
void call_fail(Call *c, const Failure *f);
void call_failf(Call *c, Condition condition, const char *format, ...) _printf_(3, 4);
void call_reply(Call *c, const char *types, ...);
void call_reply_message(Call *c, sd_bus_message *reply, int r); /* takes reply; r < 0: building it failed */

/* What c->id names, or NULL and the call is answered NOT_FOUND. */
Set *call_set(Call *c);
Snapshot *call_snapshot(Call *c);
