/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What a set would be, before anything is touched: which writers and components take part, which volumes they need,
 * which provider copies which volume, what holds it, and the level that can be reached. Plan (the bus method) stops
 * here; a set goes on with the result. Asynchronous: Identify of every candidate in parallel, one look at the disks
 * (vss-probe), polkit for volumes the closure added, then one host per provider. Order of checks: unknown names (4),
 * closure (9), permission (3), suitability (10).
 */
#include "daemon/host.h"
#include "daemon/set.h"
#include "daemon/settings.h"

typedef struct PlanWriter {
        Writer *writer;         /* referenced */
        char *metadata_text;    /* as of now; NULL if Identify failed */
        char **components;      /* explicit ones taken, NULL-terminated */
        char **implicit;        /* those taken with one of them, NULL-terminated */
        BackupType type;        /* what it does of the type that was asked for */
        uint64_t volumes;       /* bit per volume of the plan its taken components have files on */
        uint64_t recovers;      /* likewise, of those components that may write into the copy */
        bool notify;            /* one of its taken components wants to hear of the success, or it has none */
        bool required, partial; /* partial: files outside of the set and closure=ignore: at most level filesystem */
        bool whole;             /* it declares its files, and all of them, taken or not, are on volumes of the set */
        Failure failure;        /* of Identify: then it does not take part */
} PlanWriter;

typedef struct PlanVolume {
        Volume *volume; /* owned */
        unsigned provider;
        bool added;     /* by the closure or --nested */
        bool optional;  /* by --nested: left out, with a word, if nobody can take it and no component needs it */
        bool held;      /* by the guard */
        bool neglected; /* a writer has data there and takes no part: at most level filesystem */
        Consistency reachable, require;
} PlanVolume;

typedef struct PlanProvider {
        char *name;
        Host *host; /* loaded and idle; NULL once taken by the conductor */
        uint64_t capabilities;
        uint64_t volumes; /* bit per volume */
} PlanProvider;

enum { PLAN_PROVIDERS_MAX = 16 };

typedef struct PlanResult {
        PlanVolume *volumes;
        size_t n_volumes;
        PlanWriter *writers; /* those that take part first, then those that failed Identify */
        size_t n_writers, n_taking_part;
        PlanProvider providers[PLAN_PROVIDERS_MAX];
        size_t n_providers;
        char **warnings; /* NULL-terminated or NULL */
        Consistency reachable;
} PlanResult;
void plan_result_done(PlanResult *r);
/* Its copy is made by something that suspends devices below it. */
bool plan_is_mapped(const PlanResult *r, size_t volume);

typedef struct Planner Planner;
/* Exactly once. result: to be taken from (then plan_result_done() is the taker's), NULL on failure. */
typedef void (*PlannerDone)(PlanResult *result, const Failure *failure, void *userdata);
typedef void (*PlannerPhase)(Phase phase, void *userdata); /* identify, plan */
/*
 * options must outlive the planner; volumes (the arguments, resolved) is taken. uid: whose rights paths are looked up
 * with and who must be allowed create on volumes that are added; message: the requester's call, for polkit.
 */
int planner_new(Manager *m, const SetOptions *options, ProbeResult *volumes, uid_t uid, sd_bus_message *message,
                const Budgets *budgets, PlannerPhase phase, PlannerDone done, void *userdata, Planner **ret);
Planner *planner_free(Planner *p);
DEFINE_CLEANUP(Planner *, planner_free);
int plan_format(Manager *m, const PlanResult *r, char **ret_json);

/* closure.c: pure parts */
typedef struct ClosureRoot { /* one directory some component needs */
        unsigned writer, component;
        const char *root; /* borrowed from the metadata */
        int volume;       /* index into the probed volumes, -1 unknown */
        bool in_set;      /* that volume is in the set */
} ClosureRoot;
typedef struct Candidate { /* one writer that answered Identify */
        Writer *writer;
        Metadata *metadata; /* owned; NULL: Identify failed */
        char *text;         /* the document as it came */
        Failure failure;
        bool required;
        bool bystander;                /* others were chosen: asked only where its data are */
        const struct Restore *restore; /* it takes part in; only while volumes are chosen */
        bool *taken;                   /* per component of the metadata */
        BackupType type;               /* what it does of the type that was asked for */
        bool takes_part;
} Candidate;
/* Does "NAME" or "NAME@INSTANCE" mean this writer? */
bool reference_matches(const char *reference, const Writer *w);
/*
 * Takes a component as far as it can be taken by itself: one that is not selectable goes with the nearest selectable
 * one above it, and a selectable one takes everything below it along (its component set).
 */
void closure_take(Candidate *c, size_t component);
/* Components that are not selectable, nor below one that is, go with any other of their writer. */
void closure_take_mandatory(Candidate *c);
/* Has it an entry of its own in the manifest? The others that are taken go with the one above them. */
bool closure_is_explicit(const Candidate *c, size_t component);
/*
 * Marks the components that the set takes, from what is in it so far: the explicit ones with what VSS says goes with
 * them, or without explicit ones all that have files there. NOT_FOUND: an explicit component that does not exist.
 */
int closure_select(const SetOptions *o, Candidate *c, unsigned index, const ClosureRoot *roots, size_t n_roots,
                   Failure *reterr);
