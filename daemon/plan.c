/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The planner's walk: candidates → Identify → probe → closure → permission → providers (plan-provider.c) → level. Each
 * step ends by starting the next; finish() is the only way out and is reached exactly once.
 */
#include "daemon/plan-private.h"
#include "daemon/restore.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <stdio.h>

void plan_finish(Planner *p, const Failure *failure) {
        PlannerDone done = p->done;
        void *userdata = p->userdata;
        Failure f = failure ? *failure : (Failure) { 0 };

        p->timer = sd_event_source_disable_unref(p->timer);
        if (f.condition != CONDITION_NONE)
                done(NULL, &f, userdata);
        else
                done(&p->result, NULL, userdata);
}

static int on_failed_later(sd_event_source *source, void *userdata) {
        Planner *p = userdata;

        plan_finish(p, &p->failure);
        return 0;
}

/* From within planner_new() nobody expects the callback yet. */
static int fail_later(Planner *p) {
        return sd_event_add_defer(p->manager->event, &p->defer, on_failed_later, p);
}

/* Is it to be asked at all? One that others were chosen instead of is, because the level depends on where its data are.
 */
static bool wanted(const SetOptions *o, const Writer *w, bool *ret_required, bool *ret_bystander) {
        bool chosen = false;

        *ret_required = *ret_bystander = false;
        for (char **r = o->require_writers; r && *r; r++)
                *ret_required |= reference_matches(*r, w);
        for (size_t i = 0; i < o->n_components; i++)
                *ret_required |= reference_matches(o->components[i].writer, w);
        if (*ret_required)
                return true;
        for (char **r = o->exclude_writers; r && *r; r++)
                if (reference_matches(*r, w))
                        return false;
        if (!o->writers || !o->writers[0])
                return !w->foreign; /* hazards C2: a stranger's writer cannot veto what nobody asked it to take part in
                                     */
        for (char **r = o->writers; *r; r++)
                chosen |= reference_matches(*r, w);
        *ret_bystander = !chosen;
        return chosen || !w->foreign;
}

/* One that is gone but still listed can be left out; there is nothing to take of it. */
static bool reference_is_known(Manager *m, const char *reference, bool lost_too) {
        Writer *w;

        LIST_FOREACH(w, &m->writers, entries)
                if ((!w->lost || lost_too) && reference_matches(reference, w))
                        return true;
        return false;
}

static int check_references(Manager *m, const SetOptions *o, Failure *reterr) {
        char **lists[] = { o->writers, o->exclude_writers, o->require_writers };

        for (size_t i = 0; i < ELEMENTSOF(lists); i++)
                for (char **r = lists[i]; r && *r; r++)
                        if (!reference_is_known(m, *r, lists[i] == o->exclude_writers))
                                return failure_set(reterr, CONDITION_NOT_FOUND,
                                                   "no writer \"%s\" is registered (vssctl writers lists them)", *r);
        for (size_t i = 0; i < o->n_components; i++)
                if (!reference_is_known(m, o->components[i].writer, false))
                        return failure_set(reterr, CONDITION_NOT_FOUND,
                                           "no writer \"%s\" is registered (vssctl writers lists them)",
                                           o->components[i].writer);
        for (char **s = o->writer_options; s && *s; s++) {
                _cleanup_free_ char *reference = NULL, *key = NULL, *value = NULL;
                if (writer_option_parse(*s, &reference, &key, &value) >= 0 && !reference_is_known(m, reference, false))
                        return failure_set(reterr, CONDITION_NOT_FOUND,
                                           "no writer \"%s\" is registered (vssctl writers lists them)", reference);
        }
        return 0;
}

static int collect_candidates(Planner *p) {
        Writer *w;
        size_t n = 0;
        bool required, bystander;

        if (p->options->no_writers)
                return 0;
        LIST_FOREACH(w, &p->manager->writers, entries)
                n++;
        p->candidates = calloc(n + 1, sizeof *p->candidates);
        if (!p->candidates)
                return -ENOMEM;
        LIST_FOREACH(w, &p->manager->writers, entries)
                if (!w->lost && wanted(p->options, w, &required, &bystander))
                        p->candidates[p->n_candidates++] =
                                (Candidate) { .writer = writer_ref(w), .required = required, .bystander = bystander };
        return 0;
}

/* All documents of one account together are bounded, so that a stranger cannot make vssd grow by registering often. */
static bool uid_may_store(const Planner *p, const Writer *w, size_t size) {
        const Writer *other;

        if (w->uid == 0)
                return true;
        LIST_FOREACH(other, &p->manager->writers, entries)
                if (other != w && other->uid == w->uid && other->metadata_text)
                        size += strlen(other->metadata_text);
        return size <= LIMIT_METADATA_BYTES_PER_UID;
}

static int take_document(Planner *p, Candidate *c, const char *text) {
        Writer *w = c->writer;
        size_t size = strlen(text);
        Failure f;
        int r;

        if (size > LIMIT_METADATA_BYTES || !uid_may_store(p, w, size))
                return failure_set(&c->failure, CONDITION_LIMIT_REACHED,
                                   "writer %s: its documents are larger than the limit of %d bytes", w->reference,
                                   LIMIT_METADATA_BYTES);
        r = metadata_parse(text, size, &f, &c->metadata);
        if (r >= 0)
                r = metadata_check_identity(c->metadata, writer_own_name(w), w->instance, &f);
        if (r < 0)
                return failure_set(&c->failure, f.condition, "writer %s: its document: %.400s", w->reference,
                                   f.message);
        c->type = metadata_backup_type(c->metadata, p->options->backup_type);
        c->text = strdup(text);
        c->taken = calloc(c->metadata->n_components + 1, sizeof *c->taken);
        if (!c->text || !c->taken)
                return failure_set(&c->failure, CONDITION_FAILED, "out of memory");
        if (!streq_null(w->metadata_text, text)) {
                char *copy = strdup(text);
                if (copy) {
                        free(w->metadata_text);
                        w->metadata_text = copy;
                }
        }
        return 0;
}

const char *candidate_unit(const Candidate *c) {
        return c->metadata && c->writer->kind == WRITER_KIND_DECLARATIVE ? c->metadata->freeze_unit : NULL;
}

static void identified(Planner *p, Candidate *c, Outcome outcome, const Failure *failure, sd_bus_message *reply) {
        const char *text = c->writer->kind == WRITER_KIND_DECLARATIVE ? c->writer->metadata_text : NULL;

        if (outcome != OUTCOME_OK) {
                c->failure = *failure;
                if (outcome == OUTCOME_FAILED) {
                        (void) snprintf(c->failure.message, sizeof c->failure.message,
                                        "writer %s refused identify: %.300s", c->writer->reference, failure->message);
                        c->failure.condition = condition_from_writer(failure->condition);
                }
        } else if (!text && (!reply || sd_bus_message_read(reply, "s", &text) < 0))
                (void) failure_set(&c->failure, CONDITION_VETOED,
                                   "writer %s answered identify with something that is not a document",
                                   c->writer->reference);
        if (c->failure.condition == CONDITION_NONE)
                (void) take_document(p, c, text);
        c->bystander |= candidate_unit(c) != NULL; /* nobody can do yet what it asks for */
        if (c->failure.condition != CONDITION_NONE) {
                c->metadata = metadata_free(c->metadata);
                c->writer->state = WRITER_FAILED_AT_IDENTIFY;
                c->writer->last_error = c->failure;
                manager_writer_changed(p->manager, c->writer);
        } else if (c->writer->state == WRITER_FAILED_AT_IDENTIFY || c->writer->state == WRITER_UNKNOWN) {
                c->writer->state = WRITER_STABLE;
                c->writer->last_error = (Failure) { 0 };
                manager_writer_changed(p->manager, c->writer);
        }
}

static void probe_start(Planner *p);

static void on_identified(Writer *w, Outcome outcome, const Failure *failure, sd_bus_message *reply, void *userdata) {
        Planner *p = userdata;

        for (size_t i = 0; i < p->n_candidates; i++)
                if (p->candidates[i].writer == w)
                        identified(p, &p->candidates[i], outcome, failure, reply);
        if (--p->n_waiting == 0)
                probe_start(p);
}

/*
 * A writer that has something to do for another set answers when that is done, which may take an hour; what it said
 * when that set was planned is what it would say now. One whose files are being replaced could not say what it has.
 */
static int identify_one(Planner *p, Candidate *c, uint64_t deadline_usec) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        bool restoring = restore_of_writer(p->manager, c->writer, /* parallel_too= */ true);
        if ((restoring || writer_is_busy(c->writer)) && c->writer->metadata_text) {
                (void) take_document(p, c, c->writer->metadata_text);
                return 0;
        }
        r = writer_call_message(c->writer, EVENT_IDENTIFY, "", deadline_usec, &m);
        if (r >= 0 && m)
                r = sd_bus_message_append(m, "a{sv}", 1, "schema_max", "u", 1);
        if (r >= 0)
                r = writer_call(c->writer, EVENT_IDENTIFY, "", m, deadline_usec, on_identified, p, NULL);
        if (r >= 0)
                p->n_waiting++;
        return r;
}

static int on_begin(sd_event_source *source, void *userdata) {
        Planner *p = userdata;
        uint64_t deadline_usec = now_usec() + p->budgets.identify;

        p->defer = sd_event_source_disable_unref(p->defer);
        p->phase(PHASE_IDENTIFY, p->userdata);
        for (size_t i = 0; i < p->n_candidates; i++) {
                int r = identify_one(p, &p->candidates[i], deadline_usec);
                if (r < 0)
                        (void) failure_set(&p->candidates[i].failure, CONDITION_WRITER_LOST,
                                           "writer %s cannot be called: %s", p->candidates[i].writer->reference,
                                           strerror(-r));
        }
        if (p->n_waiting == 0)
                probe_start(p);
        return 0;
}

static int add_roots(Planner *p, unsigned writer) {
        const Metadata *m = p->candidates[writer].metadata;

        for (size_t i = 0; m && i < m->n_components; i++)
                for (size_t j = 0; j < m->components[i].n_files; j++) {
                        const ComponentFiles *f = &m->components[i].files[j];
                        ClosureRoot *roots;
                        if (!(f->backup & f->snapshot & (1u << p->candidates[writer].type)))
                                continue; /* need not come from a copy, or need not be saved this time */
                        roots = reallocarray(p->roots, p->n_roots + 1, sizeof *roots);
                        if (!roots)
                                return -ENOMEM;
                        p->roots = roots;
                        p->roots[p->n_roots++] = (ClosureRoot) { .writer = writer,
                                                                 .component = (unsigned) i,
                                                                 .root = f->source ? f->source : f->set.root,
                                                                 .volume = -1 };
                }
        return 0;
}

static void on_probed(ProbeResult **result, const Failure *failure, void *userdata) {
        Planner *p = userdata;

        p->probe = probe_free(p->probe);
        if (failure) {
                plan_finish(p, failure);
                return;
        }
        p->probed = TAKE_PTR(*result);
        plan_closure(p);
}

/* Roots of one tree repeat: the same path is looked up once. */
static size_t probe_path_index(ProbePath *paths, size_t *n, size_t first, const char *root) {
        for (size_t i = first; i < *n; i++)
                if (streq(paths[i].path, root))
                        return i;
        paths[*n] = (ProbePath) { .path = root, .may_be_missing = true };
        return (*n)++;
}

void plan_refuse_writer(Planner *p, Candidate *c) {
        c->writer->state = WRITER_FAILED_AT_IDENTIFY;
        c->writer->last_error = c->failure;
        manager_writer_changed(p->manager, c->writer);
}

static void choose_path(Planner *p, size_t root, ProbePath *paths, size_t *n) {
        Candidate *c = &p->candidates[p->roots[root].writer];

        p->root_path[root] = probe_path_index(paths, n, p->options->n_volumes, p->roots[root].root);
        if (*n <= PROBE_PATHS_MAX)
                return;
        *n = PROBE_PATHS_MAX;
        (void) failure_set(&c->failure, CONDITION_LIMIT_REACHED,
                           "writer %s: with its directories there are more than %d to be looked at",
                           c->writer->reference, PROBE_PATHS_MAX);
        plan_refuse_writer(p, c);
}

/* Root's writers first, and one that names too many is heard no further: it must not be a reason against the set. */
static void choose_paths(Planner *p, ProbePath *paths, size_t *n) {
        size_t kept = 0;

        for (int others = 0; others < 2; others++)
                for (size_t i = 0; i < p->n_roots; i++) {
                        const Candidate *c = &p->candidates[p->roots[i].writer];
                        if ((c->writer->uid != 0) == others && c->failure.condition == CONDITION_NONE)
                                choose_path(p, i, paths, n);
                }
        for (size_t i = 0; i < p->n_roots; i++)
                if (p->candidates[p->roots[i].writer].failure.condition == CONDITION_NONE) {
                        p->roots[kept] = p->roots[i];
                        p->root_path[kept++] = p->root_path[i];
                }
        p->n_roots = kept;
}

static void probe_start(Planner *p) {
        size_t n_arguments = p->options->n_volumes, n = n_arguments;
        _cleanup_free_ ProbePath *paths = NULL;
        Failure f;
        int r = 0;

        p->phase(PHASE_PLAN, p->userdata);
        for (unsigned i = 0; i < p->n_candidates && r >= 0; i++)
                r = add_roots(p, i);
        paths = calloc(n_arguments + p->n_roots + 1, sizeof *paths);
        p->root_path = calloc(p->n_roots + 1, sizeof *p->root_path);
        if (!paths || !p->root_path)
                r = -ENOMEM;
        for (size_t i = 0; r >= 0 && i < n_arguments; i++)
                paths[i] = (ProbePath) { .path = p->options->volumes[i].volume, .is_argument = true };
        if (r >= 0)
                choose_paths(p, paths, &n);
        if (r >= 0)
                r = probe_new(p->manager->event, paths, n, p->options->nested ? PROBE_NESTED : 0, 0, on_probed, p,
                              &p->probe);
        if (r < 0) {
                (void) failure_set(&f, CONDITION_FAILED, "cannot look at the volumes: %s", strerror(-r));
                plan_finish(p, &f);
        }
}

int planner_new(Manager *m, const SetOptions *options, ProbeResult *volumes, uid_t uid, sd_bus_message *message,
                const Budgets *budgets, PlannerPhase phase, PlannerDone done, void *userdata, Planner **ret) {
        _cleanup_(planner_freep) Planner *p = calloc(1, sizeof *p);
        int r;

        if (!p)
                return -ENOMEM;
        *p = (Planner) { .manager = m,
                         .options = options,
                         .arguments = volumes,
                         .uid = uid,
                         .message = sd_bus_message_ref(message),
                         .budgets = *budgets,
                         .phase = phase,
                         .done = done,
                         .userdata = userdata };
        r = check_references(m, options, &p->failure);
        if (r < 0)
                r = fail_later(p);
        else {
                r = collect_candidates(p);
                if (r >= 0)
                        r = sd_event_add_defer(m->event, &p->defer, on_begin, p);
        }
        if (r < 0)
                return r;
        *ret = TAKE_PTR(p);
        return 0;
}

Planner *planner_free(Planner *p) {
        if (!p)
                return NULL;
        for (size_t i = 0; i < p->n_candidates; i++) {
                writer_forget(p->candidates[i].writer, p);
                metadata_free(p->candidates[i].metadata);
                free(p->candidates[i].text);
                free(p->candidates[i].taken);
                writer_unref(p->candidates[i].writer);
        }
        free(p->candidates);
        free(p->roots);
        free(p->root_path);
        probe_free(p->probe);
        probe_result_free(p->probed);
        probe_result_free(p->arguments);
        authority_check_free(p->check);
        host_free(p->host);
        sd_event_source_disable_unref(p->timer);
        sd_event_source_disable_unref(p->defer);
        sd_bus_message_unref(p->message);
        plan_result_done(&p->result);
        free(p);
        return NULL;
}
