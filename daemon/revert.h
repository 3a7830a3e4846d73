/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A volume gets the content of one of its copies back. The work is the provider's; vssd asks first what it would cost,
 * begins it if that is allowed, shows how far it is, and afterwards looks what is still there: the copy of what was
 * there before becomes a set of its own, copies that went with it lose their records.
 *
 *   check ──► begin ──► (died: resume) ──► list ──► forget what is gone, one after the other ──► over
 *
 * Nothing of it is kept by vssd. A provider lists a revert that was cut off, and the next start of vssd resumes it.
 */
#include "daemon/manager.h"

enum { LIMIT_REVERTS = 8, LIMIT_REVERTS_KEPT = 16, LIMIT_REVERT_LOST = 256 };
#define REVERT_BUDGET_USEC \
        (7 * 86400 * USEC_PER_SEC) /* a thick copy of many terabytes is moved at the pace of its disk */

typedef struct RevertLost {
        char id[VSS_ID_LENGTH + 1];
        bool there; /* still listed afterwards */
} RevertLost;

typedef void (*RevertStep)(Revert *r);

struct Revert {
        Manager *manager;
        LIST_ENTRY(Revert) entries;
        char snapshot[VSS_ID_LENGTH + 1], set[VSS_ID_LENGTH + 1];
        char safety[VSS_ID_LENGTH + 1], safety_set[VSS_ID_LENGTH + 1]; /* "" none */
        char *volume, *path, *provider;                                /* path: of the object of the volume */
        bool force, dry_run, resuming, begun, over, changed, announced;
        bool listed;     /* what it has left is known: its copies may go now */
        bool faulted;    /* failed, and its provider still lists it as begun, or cannot say */
        double progress; /* -1 not known */
        RevertLost lost[LIMIT_REVERT_LOST];
        size_t n_lost, at;
        char warning[LIMIT_MESSAGE_BYTES];
        Failure failure;
        struct vss_wire_request *request;
        struct vss_wire_reply *kept; /* the safety copy as it is listed, or NULL */
        bool list_failed;
        ProviderJob *job;
        RevertStep next;                          /* waits for the window of some set to close */
        void (*ready)(Revert *r, void *userdata); /* begun, or not: failure; may free it if it has not */
        void *userdata;
        sd_bus_message *waiters[LIMIT_WAITERS];
        unsigned n_waiters;
};

/*
 * NOT_SUPPORTED, BUSY, DAMAGED, LIMIT_REACHED at once; whatever else through ready, once. With dry_run it goes no
 * further than that.
 */
int revert_new(Snapshot *s, bool force, bool safety, bool dry_run, Failure *reterr, Revert **ret);
void revert_start(Revert *r, void (*ready)(Revert *r, void *userdata), void *userdata);
/* What a provider says was cut off; name of the volume as far as it is known. */
void revert_resume(Manager *m, const char *provider, const char *snapshot, const char *set, const char *volume);
Revert *revert_free(Revert *r);
/* The newest of that volume, or NULL; it may be over. */
Revert *reverts_find(Manager *m, const char *path);
bool reverts_are_at(const Manager *m, const char *snapshot); /* this copy is being reverted to, and must stay */
int reverts_paths(const Manager *m, char ***list);           /* appended to it */
/* 1: answered; 0: kept. */
int revert_wait(Revert *r, sd_bus_message *m, Failure *reterr);
void reverts_emit(Manager *m);
void reverts_go_on(Manager *m);          /* no window is open */
bool reverts_may_stop(const Manager *m); /* none is between two steps that belong together */
void reverts_free(Manager *m);

/* revert-end.c */
void revert_list(Revert *r);
void revert_over(Revert *r);
void revert_step(Revert *r, RevertStep next); /* once no window is open */
void revert_ask(Revert *r, uint32_t op, uint32_t flags, uint64_t budget_usec, ProviderItem item, ProviderDone done);
