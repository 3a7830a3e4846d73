/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which components a set takes: VSS's rules of selectability (facts: component sets), without any I/O, so that they can
 * be tested as a table. A component is explicit (named, or mandatory because its writer takes part) or implicit (below
 * a taken selectable one).
 */
#include "daemon/plan.h"
#include "protocol/metadata.h"
#include "protocol/text.h"

bool reference_matches(const char *reference, const Writer *w) {
        return strchr(reference, '@') ? streq(reference, w->reference) : streq(reference, w->name);
}

static bool has_files_in_set(unsigned index, unsigned component, const ClosureRoot *roots, size_t n_roots) {
        for (size_t i = 0; i < n_roots; i++)
                if (roots[i].writer == index && roots[i].component == component && roots[i].in_set)
                        return true;
        return false;
}

void closure_take(Candidate *c, size_t component) {
        const Metadata *m = c->metadata;
        int above = m->components[component].selectable ? -1 : metadata_selectable_ancestor(m, component);
        size_t top = above >= 0 ? (size_t) above : component;

        c->taken[top] = true;
        for (size_t i = 0; m->components[top].selectable && i < m->n_components; i++)
                if (component_path_is_below(m->components[i].path, m->components[top].path))
                        c->taken[i] = true;
}

bool closure_is_explicit(const Candidate *c, size_t component) {
        int above = metadata_selectable_ancestor(c->metadata, component);

        return c->taken[component] && (above < 0 || !c->taken[above]);
}

static bool takes_any(const Candidate *c) {
        for (size_t i = 0; i < c->metadata->n_components; i++)
                if (c->taken[i])
                        return true;
        return false;
}

void closure_take_mandatory(Candidate *c) {
        for (size_t i = 0; i < c->metadata->n_components; i++)
                if (!c->metadata->components[i].selectable && metadata_selectable_ancestor(c->metadata, i) < 0)
                        c->taken[i] = true;
}

static int select_one(const SetComponentOption *o, Candidate *c, Failure *reterr) {
        int found = metadata_find_component(c->metadata, o->path);
        int above = found < 0 ? -1 : metadata_selectable_ancestor(c->metadata, (size_t) found);

        if (found < 0)
                return failure_set(reterr, CONDITION_NOT_FOUND, "writer %s has no component \"%s\"",
                                   c->writer->reference, o->path);
        if (!c->metadata->components[found].selectable && above >= 0)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "component \"%s\" of writer %s cannot be chosen by itself; choose \"%s\" above it",
                                   o->path, c->writer->reference, c->metadata->components[above].path);
        closure_take(c, (size_t) found);
        return 0;
}

/* One that goes with another that is named too would have two entries in the manifest, and two stamps. */
static int check_named_once(const SetComponentOption *o, const Candidate *c, Failure *reterr) {
        int found = metadata_find_component(c->metadata, o->path);

        if (found < 0 || closure_is_explicit(c, (size_t) found))
                return 0;
        return failure_set(
                reterr, CONDITION_INVALID_ARGUMENT,
                "component \"%s\" of writer %s goes with one above it that is chosen too; name only that one", o->path,
                c->writer->reference);
}

static int select_explicit(const SetOptions *o, Candidate *c, Failure *reterr) {
        int r = 0;

        for (size_t i = 0; r >= 0 && i < o->n_components; i++)
                if (reference_matches(o->components[i].writer, c->writer))
                        r = select_one(&o->components[i], c, reterr);
        for (size_t i = 0; r >= 0 && i < o->n_components; i++)
                if (reference_matches(o->components[i].writer, c->writer))
                        r = check_named_once(&o->components[i], c, reterr);
        if (r >= 0 && takes_any(c))
                closure_take_mandatory(c);
        return r;
}

static bool is_system(const Metadata *m) {
        return m->usage == USAGE_BOOTABLE_STATE || m->usage == USAGE_SYSTEM_SERVICE;
}

/* What a machine needs to start again, whatever volumes were named. */
static void take_system_state(Candidate *c) {
        for (size_t i = 0; is_system(c->metadata) && i < c->metadata->n_components; i++)
                if (c->metadata->components[i].system_state)
                        closure_take(c, i);
}

static bool declares_files(const Metadata *m) {
        for (size_t i = 0; i < m->n_components; i++)
                if (m->components[i].n_files > 0)
                        return true;
        return false;
}

int closure_select(const SetOptions *o, Candidate *c, unsigned index, const ClosureRoot *roots, size_t n_roots,
                   Failure *reterr) {
        int r;

        if (c->bystander)
                return 0;
        if (o->bootable_state)
                take_system_state(c);
        if (o->n_components > 0) {
                r = select_explicit(o, c, reterr);
                if (r < 0)
                        return r;
        } else
                for (size_t i = 0; i < c->metadata->n_components; i++)
                        if (!c->taken[i] && has_files_in_set(index, (unsigned) i, roots, n_roots))
                                closure_take(c, i);
        /* A writer without any files (hooks) asked to hear of every set; one with files elsewhere is not concerned. */
        c->takes_part = takes_any(c) || (o->n_components == 0 && !declares_files(c->metadata));
        return 0;
}
