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

static int find_component(const Metadata *m, const char *path) {
        for (size_t i = 0; i < m->n_components; i++)
                if (streq(m->components[i].path, path))
                        return (int) i;
        return -1;
}

/* Everything below a taken component goes with it. */
static void take_below(Candidate *c, size_t component) {
        const Metadata *m = c->metadata;

        c->taken[component] = true;
        for (size_t i = 0; i < m->n_components; i++)
                if (component_path_is_below(m->components[i].path, m->components[component].path))
                        c->taken[i] = true;
}

static bool takes_any(const Candidate *c) {
        for (size_t i = 0; i < c->metadata->n_components; i++)
                if (c->taken[i])
                        return true;
        return false;
}

/* Non-selectable components without a selectable ancestor are mandatory once their writer is in. */
static void take_mandatory(Candidate *c) {
        for (size_t i = 0; i < c->metadata->n_components; i++)
                if (!c->metadata->components[i].selectable && metadata_selectable_ancestor(c->metadata, i) < 0)
                        c->taken[i] = true;
}

static int select_explicit(const SetOptions *o, Candidate *c, Failure *reterr) {
        for (size_t i = 0; i < o->n_components; i++) {
                int found;
                if (!reference_matches(o->components[i].writer, c->writer))
                        continue;
                found = find_component(c->metadata, o->components[i].path);
                if (found < 0)
                        return failure_set(reterr, CONDITION_NOT_FOUND, "writer %s has no component \"%s\"",
                                           c->writer->reference, o->components[i].path);
                if (!c->metadata->components[found].selectable &&
                    metadata_selectable_ancestor(c->metadata, (size_t) found) >= 0)
                        return failure_set(
                                reterr, CONDITION_INVALID_ARGUMENT,
                                "component \"%s\" of writer %s cannot be chosen by itself; choose the one above it",
                                o->components[i].path, c->writer->reference);
                take_below(c, (size_t) found);
        }
        if (takes_any(c))
                take_mandatory(c);
        return 0;
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
        if (o->n_components > 0) {
                r = select_explicit(o, c, reterr);
                if (r < 0)
                        return r;
        } else
                for (size_t i = 0; i < c->metadata->n_components; i++)
                        if (has_files_in_set(index, (unsigned) i, roots, n_roots))
                                c->taken[i] = true;
        /* A writer without any files (hooks) asked to hear of every set; one with files elsewhere is not concerned. */
        c->takes_part = takes_any(c) || (o->n_components == 0 && !declares_files(c->metadata));
        return 0;
}
