/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From components to volumes: what is in the set, what has to be added, what may be left out, and whether the requester
 * may have what was added. The component roots were looked up with root's rights, so nothing of what they show reaches
 * a requester who has no right to the volume: only names that it gave itself or that it is allowed to snapshot.
 */
#include "daemon/plan-private.h"
#include "daemon/restore.h"
#include "protocol/text.h"
#include <stdarg.h>
#include <stdio.h>

int plan_warn(PlanResult *r, const char *format, ...) {
        char line[LIMIT_MESSAGE_BYTES];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(line, sizeof line, format, ap);
        va_end(ap);
        return strings_append(&r->warnings, line);
}

/* Between CreateSet and now a path may have come to mean something else; what was authorised is what counts. */
static int check_arguments(Planner *p, Failure *reterr) {
        const ProbeResult *then = p->arguments, *now = p->probed;

        for (size_t i = 0; i < p->options->n_volumes; i++) {
                const Volume *a, *b;
                if (now->path_volume[i] < 0) {
                        *reterr = now->path_failure[i];
                        return -ENOENT;
                }
                if (!then || i >= then->n_paths || then->path_volume[i] < 0)
                        continue;
                a = then->volumes[then->path_volume[i]];
                b = now->volumes[now->path_volume[i]];
                if (a->superblock != b->superblock || a->subvolume != b->subvolume)
                        return failure_set(reterr, CONDITION_BUSY,
                                           "%s became another volume while the set was being planned",
                                           p->options->volumes[i].volume);
        }
        return 0;
}

/*
 * What a writer says about its files decides which volumes are taken and what stands still, so an account other than
 * root can only speak for directories of its own (hazards C2). One that does not is heard no further, as if Identify
 * had failed.
 */
static void check_owner(Planner *p, const ClosureRoot *root, uid_t owner) {
        Candidate *c = &p->candidates[root->writer];
        const Writer *w = c->writer;
        const char *path = c->metadata->components[root->component].path;

        if (w->uid == 0 || w->uid == owner || c->failure.condition != CONDITION_NONE)
                return;
        if (owner == (uid_t) -1)
                (void) failure_set(
                        &c->failure, CONDITION_NOT_AUTHORIZED,
                        "component \"%.80s\" of writer %s has files in %.200s, which is no directory that uid %u could own",
                        path, w->reference, root->root, (unsigned) w->uid);
        else
                (void) failure_set(
                        &c->failure, CONDITION_NOT_AUTHORIZED,
                        "component \"%.80s\" of writer %s has files in %.200s, a directory of uid %u: a writer of uid %u "
                        "speaks only for directories of its own; run it as root or chown that",
                        path, w->reference, root->root, (unsigned) owner, (unsigned) w->uid);
        plan_refuse_writer(p, c);
}

static void place_roots(Planner *p) {
        for (size_t i = 0; i < p->n_roots; i++) {
                p->roots[i].volume = p->probed->path_volume[p->root_path[i]];
                check_owner(p, &p->roots[i], p->probed->path_owner[p->root_path[i]]);
        }
}

/* One more volume for the set; in_set is by index of the probed volumes. */
static bool add_volume(Planner *p, bool *in_set, int volume) {
        if (in_set[volume])
                return false;
        in_set[volume] = true;
        for (size_t i = 0; i < p->n_roots; i++)
                if (p->roots[i].volume == volume)
                        p->roots[i].in_set = true;
        return true;
}

static int missing(const Candidate *c, const ClosureRoot *root, const Volume *v, Failure *reterr) {
        return failure_set(reterr, CONDITION_VOLUME_MISSING,
                           "component \"%s\" of writer %s has files in %s, on volume %s, which is not in the set; "
                           "name that volume too, or use --closure=extend or --closure=ignore",
                           c->metadata->components[root->component].path, c->writer->reference, root->root,
                           v ? v->name : "(unknown)");
}

/* One taken component's directory that is not in the set. 1: a volume was added. */
static int close_root(Planner *p, bool *in_set, const ClosureRoot *root, Failure *reterr) {
        const Candidate *c = &p->candidates[root->writer];
        const Volume *v = root->volume >= 0 ? p->probed->volumes[root->volume] : NULL;

        if (root->in_set || p->options->closure == CLOSURE_IGNORE)
                return 0;
        if (!v || v->why_not)
                return failure_set(reterr, CONDITION_NOT_SUPPORTED, "component \"%s\" of writer %s has files in %s: %s",
                                   c->metadata->components[root->component].path, c->writer->reference, root->root,
                                   v ? v->why_not : "nothing to be found there");
        if (p->options->closure == CLOSURE_STRICT)
                return missing(c, root, v, reterr);
        return add_volume(p, in_set, root->volume);
}

/* Selection and extension until nothing changes: every round adds a volume, so it ends. */
static int close_set(Planner *p, bool *in_set, Failure *reterr) {
        bool changed = true;

        while (changed) {
                changed = false;
                for (unsigned i = 0; i < p->n_candidates; i++) {
                        Candidate *c = &p->candidates[i];
                        int r = c->failure.condition == CONDITION_NONE ?
                                        closure_select(p->options, c, i, p->roots, p->n_roots, reterr) :
                                        0;
                        if (r < 0)
                                return r;
                }
                for (size_t i = 0; i < p->n_roots; i++) {
                        const ClosureRoot *root = &p->roots[i];
                        int r;
                        if (!p->candidates[root->writer].taken[root->component])
                                continue;
                        r = close_root(p, in_set, root, reterr);
                        if (r < 0)
                                return r;
                        changed |= r > 0;
                }
                changed |= plan_follow_dependencies(p) > 0;
        }
        return 0;
}

/* Its files are being replaced and it has closed them: it can neither bring them to rest nor say what they are worth.
 */
static void find_restoring(Planner *p) {
        for (size_t i = 0; i < p->n_candidates; i++) {
                Candidate *c = &p->candidates[i];
                c->restore = restore_of_writer(p->manager, c->writer, /* parallel_too= */ true);
                c->bystander |= c->restore != NULL;
        }
}

static int check_required(const Planner *p, Failure *reterr) {
        for (size_t i = 0; i < p->n_candidates; i++) {
                const Candidate *c = &p->candidates[i];
                if (!c->required || c->takes_part)
                        continue;
                if (c->failure.condition != CONDITION_NONE) {
                        *reterr = c->failure;
                        return -EPERM;
                }
                if (c->restore)
                        return failure_set(reterr, CONDITION_BUSY,
                                           "writer %s takes part in restore %s, which is not over: until then it is in "
                                           "no set",
                                           c->writer->reference, c->restore->id);
                if (candidate_unit(c))
                        return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                           "writer %s: unit %s: freezing units is not supported yet",
                                           c->writer->reference, candidate_unit(c));
                return failure_set(reterr, CONDITION_LEVEL_NOT_REACHED,
                                   "required writer %s has no data on the volumes of the set", c->writer->reference);
        }
        return 0;
}

static int take_volumes(Planner *p, const bool *in_set, Failure *reterr) {
        ProbeResult *probed = p->probed;
        PlanResult *r = &p->result;

        r->volumes = calloc(probed->n_volumes + 1, sizeof *r->volumes);
        if (!r->volumes)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        for (size_t i = 0; i < probed->n_volumes; i++) {
                Volume *v = probed->volumes[i];
                if (!in_set[i])
                        continue;
                if (r->n_volumes == LIMIT_VOLUMES)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "a set holds at most %d volumes",
                                           LIMIT_VOLUMES);
                for (size_t j = 0; j < p->n_roots; j++)
                        if (p->roots[j].volume == (int) i)
                                p->roots[j].volume = (int) r->n_volumes +
                                                     LIMIT_VOLUMES * 1024; /* renumbered, see below */
                r->volumes[r->n_volumes++] =
                        (PlanVolume) { .volume = v, .added = !v->argument, .optional = v->chosen && !v->argument };
                probed->volumes[i] = NULL; /* taken */
        }
        for (size_t j = 0; j < p->n_roots; j++)
                p->roots[j].volume = p->roots[j].volume >= LIMIT_VOLUMES * 1024 ?
                                             p->roots[j].volume - LIMIT_VOLUMES * 1024 :
                                             -1;
        return 0;
}

static int take_components(const Candidate *c, PlanWriter *w) {
        for (size_t i = 0; i < c->metadata->n_components; i++)
                if (c->taken[i]) {
                        int r = strings_append(closure_is_explicit(c, i) ? &w->components : &w->implicit,
                                               c->metadata->components[i].path);
                        if (r < 0)
                                return r;
                        w->notify = w->notify || c->metadata->components[i].notify_complete;
                }
        w->notify = w->notify || !w->components;
        return 0;
}

static bool recovers(const SetOptions *o, const Component *c) {
        switch (o->auto_recovery) {
        case RECOVERY_WRITERS:
                return c->recovers_backup;
        case RECOVERY_ROLLBACK:
                return c->recovers_rollback;
        case RECOVERY_FORCE:
                return true;
        default:
                return false;
        }
}

static void add_up_roots(const Planner *p, unsigned writer, PlanWriter *w) {
        size_t all = 0, inside = 0;

        for (size_t j = 0; j < p->n_roots; j++) {
                const ClosureRoot *root = &p->roots[j];
                if (root->writer != writer)
                        continue;
                all++;
                inside += root->volume >= 0;
                if (!p->candidates[writer].taken[root->component])
                        continue;
                if (root->volume >= 0) {
                        w->volumes |= 1ULL << root->volume;
                        if (recovers(p->options, &p->candidates[writer].metadata->components[root->component]))
                                w->recovers |= 1ULL << root->volume;
                } else
                        w->partial = true;
        }
        w->whole = all > 0 && inside == all;
}

static void warn_of_type(Planner *p, const Candidate *c) {
        if (c->type != p->options->backup_type)
                (void) plan_warn(&p->result, "writer %s has no %s backup and does a %s one", c->writer->reference,
                                 backup_type_to_string(p->options->backup_type), backup_type_to_string(c->type));
}

static int take_writers(Planner *p, Failure *reterr) {
        PlanResult *r = &p->result;

        r->writers = calloc(p->n_candidates + 1, sizeof *r->writers);
        if (!r->writers)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        for (unsigned i = 0; i < p->n_candidates; i++) {
                Candidate *c = &p->candidates[i];
                PlanWriter *w = &r->writers[r->n_writers];
                if (!c->takes_part)
                        continue;
                *w = (PlanWriter) { .writer = writer_ref(c->writer),
                                    .metadata_text = TAKE_PTR(c->text),
                                    .type = c->type,
                                    .required = c->required };
                warn_of_type(p, c);
                r->n_writers++;
                add_up_roots(p, i, w);
                if (take_components(c, w) < 0)
                        return failure_set(reterr, CONDITION_FAILED, "out of memory");
        }
        r->n_taking_part = r->n_writers;
        for (unsigned i = 0; i < p->n_candidates; i++)
                if (p->candidates[i].failure.condition != CONDITION_NONE)
                        r->writers[r->n_writers++] = (PlanWriter) { .writer = writer_ref(p->candidates[i].writer),
                                                                    .failure = p->candidates[i].failure };
        return 0;
}

/* Excluded writers are not here: whoever excludes one says that its data do not matter. */
static void find_neglected(Planner *p) {
        for (size_t i = 0; i < p->n_roots; i++) {
                const Candidate *c = &p->candidates[p->roots[i].writer];
                PlanVolume *v = p->roots[i].volume >= 0 ? &p->result.volumes[p->roots[i].volume] : NULL;
                if (!v || v->neglected || c->takes_part)
                        continue;
                v->neglected = true;
                if (c->restore)
                        (void) plan_warn(&p->result,
                                         "%s: writer %s has data there and takes part in restore %s, which is not "
                                         "over: the level is at most filesystem",
                                         v->volume->name, c->writer->reference, c->restore->id);
                else if (candidate_unit(c))
                        (void) plan_warn(&p->result,
                                         "%s: writer %s has data there and wants unit %s to stand still, which is not "
                                         "supported yet: the level is at most filesystem",
                                         v->volume->name, c->writer->reference, candidate_unit(c));
                else
                        (void) plan_warn(
                                &p->result,
                                "%s: writer %s has data there and was not chosen: the level is at most filesystem",
                                v->volume->name, c->writer->reference);
        }
}

static void check_next(Planner *p);

static void on_checked(const Failure *failure, void *userdata) {
        Planner *p = userdata;

        p->check = authority_check_free(p->check);
        if (failure)
                plan_finish(p, failure);
        else
                check_next(p);
}

/* What the closure added needs the same right as what was named. */
static void check_next(Planner *p) {
        Failure f;
        int r;

        for (; p->next_check < p->result.n_volumes; p->next_check++) {
                const PlanVolume *v = &p->result.volumes[p->next_check];
                const char *details[] = { "volumes", v->volume->name, NULL };
                if (!v->added || !p->message)
                        continue;
                p->next_check++;
                r = authority_check(p->manager->authority, p->message, VSS_ACTION_CREATE, details, on_checked, p,
                                    &p->check);
                if (r < 0) {
                        (void) failure_set(&f, CONDITION_NOT_AUTHORIZED, "cannot ask for the right to snapshot %s: %s",
                                           v->volume->name, strerror(-r));
                        plan_finish(p, &f);
                }
                return;
        }
        plan_providers(p);
}

static int close_and_take(Planner *p, Failure *reterr) {
        _cleanup_free_ bool *in_set = calloc(p->probed->n_volumes + 1, sizeof *in_set);
        int r;

        if (!in_set)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        r = check_arguments(p, reterr);
        if (r < 0)
                return r;
        place_roots(p);
        find_restoring(p);
        for (size_t i = 0; i < p->probed->n_volumes; i++)
                if (p->probed->volumes[i]->chosen)
                        (void) add_volume(p, in_set, (int) i);
        r = close_set(p, in_set, reterr);
        if (r >= 0)
                r = check_required(p, reterr);
        if (r >= 0)
                r = plan_check_dependencies(p, reterr);
        if (r >= 0)
                r = take_volumes(p, in_set, reterr);
        if (r >= 0)
                r = take_writers(p, reterr);
        if (r >= 0)
                find_neglected(p);
        return r;
}

void plan_closure(Planner *p) {
        Failure f;

        if (p->options->freeze_units && p->options->freeze_units[0])
                (void) failure_set(&f, CONDITION_NOT_SUPPORTED, "unit %s: freezing units is not supported yet",
                                   p->options->freeze_units[0]);
        else if (close_and_take(p, &f) >= 0) {
                for (char **s = p->probed->left_out; s && *s; s++)
                        (void) plan_warn(&p->result, "left out: %s", *s);
                for (char **s = p->probed->stalls; s && *s; s++)
                        (void) plan_warn(&p->result, "stalls with it: %s", *s);
                for (char **s = p->probed->warnings; s && *s; s++)
                        (void) plan_warn(&p->result, "%s", *s);
                check_next(p);
                return;
        }
        plan_finish(p, &f);
}

void plan_result_done(PlanResult *r) {
        for (size_t i = 0; i < r->n_volumes; i++)
                volume_free(r->volumes[i].volume);
        for (size_t i = 0; i < r->n_writers; i++) {
                writer_unref(r->writers[i].writer);
                free(r->writers[i].metadata_text);
                strings_free(r->writers[i].components);
                strings_free(r->writers[i].implicit);
        }
        for (size_t i = 0; i < r->n_providers; i++) {
                free(r->providers[i].name);
                host_free(r->providers[i].host);
        }
        free(r->volumes);
        free(r->writers);
        strings_free(r->warnings);
        *r = (PlanResult) { 0 };
}
