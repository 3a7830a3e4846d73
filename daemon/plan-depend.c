/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dependencies between writers (depends_on of their documents): what one component needs of another writer is saved
 * with it, as if it had been chosen. No order follows from it. What cannot be had is never passed over: it fails the
 * set before anything stops, or is a warning where the requester chose to do without, or where another machine has it.
 */
#include "daemon/plan-private.h"
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

static bool is_elsewhere(const Dependency *d) {
        char host[HOST_NAME_MAX + 1] = "";

        (void) gethostname(host, sizeof host - 1);
        return d->host && d->host[0] && !streq(d->host, host);
}

/* The next candidate from start on that could give what d asks for; NULL: no more. */
static Candidate *find_target(Planner *p, const Dependency *d, size_t *start, int *ret_component) {
        while (*start < p->n_candidates) {
                Candidate *c = &p->candidates[(*start)++];
                if (!c->metadata || c->failure.condition != CONDITION_NONE || c->bystander ||
                    !reference_matches(d->writer, c->writer))
                        continue;
                *ret_component = metadata_find_component(c->metadata, d->path);
                if (*ret_component >= 0)
                        return c;
        }
        return NULL;
}

static bool follow(Planner *p, const Dependency *d) {
        size_t start = 0;
        int component;
        bool changed = false;
        Candidate *c;

        if (is_elsewhere(d))
                return false;
        while ((c = find_target(p, d, &start, &component))) {
                if (c->taken[component])
                        continue;
                closure_take(c, (size_t) component);
                if (p->options->n_components > 0)
                        closure_take_mandatory(c);
                c->takes_part = changed = true;
        }
        return changed;
}

typedef int (*DependencyVisit)(Planner *p, const Candidate *c, const Component *component, const Dependency *d,
                               Failure *reterr);

static int each(Planner *p, DependencyVisit visit, Failure *reterr) {
        int sum = 0;

        for (size_t i = 0; i < p->n_candidates; i++) {
                const Candidate *c = &p->candidates[i];
                for (size_t k = 0; c->metadata && c->takes_part && k < c->metadata->n_components; k++)
                        for (size_t j = 0; c->taken[k] && j < c->metadata->components[k].n_depends; j++) {
                                const Component *component = &c->metadata->components[k];
                                int r = visit(p, c, component, &component->depends[j], reterr);
                                if (r < 0)
                                        return r;
                                sum += r;
                        }
        }
        return sum;
}

static int visit_follow(Planner *p, const Candidate *c, const Component *component, const Dependency *d,
                        Failure *reterr) {
        return follow(p, d);
}

int plan_follow_dependencies(Planner *p) {
        return each(p, visit_follow, NULL);
}

/* Was it left out by what the requester said? */
static bool is_left_out(const Planner *p, const Dependency *d) {
        const Writer *w;

        for (size_t i = 0; i < p->n_candidates; i++)
                if (reference_matches(d->writer, p->candidates[i].writer))
                        return p->candidates[i].bystander;
        LIST_FOREACH(w, &p->manager->writers, entries)
                if (!w->lost && reference_matches(d->writer, w))
                        return true;
        return false;
}

static const char *why_missing(const Planner *p, const Dependency *d) {
        for (size_t i = 0; i < p->n_candidates; i++)
                if (reference_matches(d->writer, p->candidates[i].writer))
                        return p->candidates[i].failure.condition != CONDITION_NONE ? "cannot say what it has" :
                                                                                      "has no such component";
        return "is not registered";
}

static int visit_check(Planner *p, const Candidate *c, const Component *component, const Dependency *d,
                       Failure *reterr) {
        size_t start = 0;
        int found;
        char what[LIMIT_MESSAGE_BYTES];

        (void) snprintf(what, sizeof what, "component \"%.100s\" of writer %.100s needs \"%.100s\" of writer %.64s",
                        component->path, c->writer->reference, d->path, d->writer);
        if (is_elsewhere(d))
                return plan_warn(&p->result, "%s on host %.100s: make a backup of it there", what, d->host);
        if (find_target(p, d, &start, &found))
                return 0;
        if (is_left_out(p, d))
                return plan_warn(&p->result, "%s, which was left out", what);
        if (p->options->on_writer_failure == ON_FAILURE_DEGRADE)
                return plan_warn(&p->result, "%s, which %s", what, why_missing(p, d));
        return failure_set(reterr, CONDITION_LEVEL_NOT_REACHED,
                           "%s, which %s; start it, or go on without by --on-writer-failure=degrade", what,
                           why_missing(p, d));
}

int plan_check_dependencies(Planner *p, Failure *reterr) {
        int r = each(p, visit_check, reterr);

        return r < 0 ? r : 0;
}
