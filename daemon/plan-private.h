/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The planner's parts: plan.c (writers), plan-closure.c (volumes and permission), plan-depend.c (what others depend
 * on), plan-provider.c (who copies what).
 */
#include "daemon/manager.h"
#include "daemon/plan.h"
#include "protocol/metadata.h"

struct Planner {
        Manager *manager;
        const SetOptions *options;
        ProbeResult *arguments; /* as CreateSet resolved them: what was authorised */
        ProbeResult *probed;    /* arguments and component roots together */
        uid_t uid;
        sd_bus_message *message;
        Budgets budgets;
        PlannerPhase phase;
        PlannerDone done;
        void *userdata;
        Candidate *candidates;
        size_t n_candidates;
        unsigned n_waiting;
        ClosureRoot *roots;
        size_t n_roots;
        size_t *root_path; /* per root: index into the probed paths */
        Probe *probe;
        AuthorityCheck *check;
        size_t next_check;    /* volume whose permission is asked next */
        ProviderEntry *entry; /* provider being asked */
        Host *host;
        size_t next_volume;
        sd_event_source *timer, *defer;
        Failure failure;
        PlanResult result;
};

void plan_finish(Planner *p, const Failure *failure);
void plan_refuse_writer(Planner *p, Candidate *c); /* whose failure is set: shown as that of its Identify */
void plan_closure(Planner *p);
/* plan-depend.c: components that others depend on are saved with them. 1: something was taken. */
int plan_follow_dependencies(Planner *p);
/* What cannot be followed: warnings, or the failure of a set that may not go on without. */
int plan_check_dependencies(Planner *p, Failure *reterr);
const char *candidate_unit(const Candidate *c); /* that its document wants to stand still; NULL: none */
void plan_providers(Planner *p);
int plan_warn(PlanResult *r, const char *format, ...) __attribute__((format(printf, 2, 3)));
