/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who copies what. Providers are asked one after the other, the most native first, each in a host of its own that stays
 * for the set if it gets a volume. An explicit provider is the only one asked. Then the rules of one instant: what
 * nobody can hold from outside (a btrfs freezes by itself) must not lie on something that will be frozen, and only one
 * provider may have such volumes, because only it can prove that they are one instant.
 */
#include "daemon/plan-private.h"
#include "daemon/restore.h"
#include "protocol/text.h"
#include "providers/vss-provider.h"
#include <stdio.h>

#define UNASSIGNED UINT32_MAX

static const char *explicit_provider(const Planner *p, size_t volume) {
        const SetVolumeOption *own = set_options_of(p->options, p->result.volumes[volume].volume);
        if (own && !isempty(own->provider))
                return own->provider;
        return isempty(p->options->provider) ? NULL : p->options->provider;
}

/* The next volume of the provider now being asked that it could take. */
static bool next_volume(Planner *p, const char *provider) {
        for (; p->next_volume < p->result.n_volumes; p->next_volume++) {
                const char *wish = explicit_provider(p, p->next_volume);
                if (p->result.volumes[p->next_volume].provider == UNASSIGNED && (!wish || streq(wish, provider)))
                        return true;
        }
        return false;
}

static void ask_next_provider(Planner *p);

static void fail(Planner *p, Condition c, const char *provider, const char *why) {
        Failure f;

        (void) failure_set(&f, c, "provider %s: %s", provider, why);
        plan_finish(p, &f);
}

static const char *current_name(const Planner *p) {
        return p->host->process->name;
}

/* The provider has been asked about everything: its host stays if it takes part. */
static void provider_answered(Planner *p) {
        PlanResult *r = &p->result;
        PlanProvider *last = r->n_providers > 0 ? &r->providers[r->n_providers - 1] : NULL;

        p->timer = sd_event_source_disable_unref(p->timer);
        if (last && !last->host && last->volumes != 0)
                last->host = TAKE_PTR(p->host);
        else {
                if (last && !last->host) {
                        free(last->name);
                        r->n_providers--;
                }
                p->host = host_free(p->host);
        }
        ask_next_provider(p);
}

static int on_provider_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Planner *p = userdata;
        _cleanup_free_ char *name = strdup(current_name(p));

        p->host = host_free(p->host);
        fail(p, CONDITION_DEADLINE_PASSED, name ? name : "?", "did not answer in time");
        return 0;
}

static int ask_volume(Planner *p) {
        _cleanup_free_ struct vss_wire_request *q = calloc(1, sizeof *q);
        const Volume *v = p->result.volumes[p->next_volume].volume;

        if (!q)
                return -ENOMEM;
        q->op = VSS_WIRE_PROBE;
        provider_fill_volume(q, v);
        return host_call(p->host, q, now_usec() + p->budgets.provider, v->root_fd);
}

static void take_volume(Planner *p, const struct vss_wire_reply *reply) {
        PlanProvider *provider = &p->result.providers[p->result.n_providers - 1];

        p->result.volumes[p->next_volume].provider = (unsigned) (p->result.n_providers - 1);
        provider->volumes |= 1ULL << p->next_volume;
        if (reply->message[0])
                (void) plan_warn(&p->result, "%s", reply->message);
}

/* Does it copy in the way that was asked for? What it is able to do with this volume counts, if it says so. */
static int check_mode(const Planner *p, const struct vss_wire_reply *reply, Failure *reterr) {
        const PlanProvider *provider = &p->result.providers[p->result.n_providers - 1];
        const Volume *v = p->result.volumes[p->next_volume].volume;
        const char *mode = set_options_mode(p->options, v);
        uint64_t can = reply->capabilities ? reply->capabilities : provider->capabilities;
        if (!mode || can & copy_mode_capability(mode))
                return 0;
        return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                           "provider %s copies %s by %s and not by %s: leave the mode out, or name another provider",
                           provider->name, v->name,
                           can & VSS_CAP_REDIRECT ? "redirect" :
                           can & VSS_CAP_COPY     ? "copy" :
                           can & VSS_CAP_CLONE    ? "clone" :
                                                    "a way of its own",
                           mode);
}

static void on_host(Host *h, Outcome outcome, const struct vss_wire_reply *reply, int fd, const Failure *failure,
                    void *userdata) {
        Planner *p = userdata;
        bool is_explicit;
        Failure unable;

        (void) close_fd(fd);
        if (outcome == OUTCOME_DIED || (outcome != OUTCOME_OK && reply->op == VSS_WIRE_LOAD)) {
                plan_finish(p, failure);
                return;
        }
        if (reply->op == VSS_WIRE_LOAD)
                p->result.providers[p->result.n_providers - 1].capabilities = reply->capabilities;
        else {
                is_explicit = explicit_provider(p, p->next_volume) != NULL;
                if (outcome == OUTCOME_OK && check_mode(p, reply, &unable) < 0) {
                        outcome = OUTCOME_FAILED;
                        failure = &unable;
                }
                if (outcome == OUTCOME_OK)
                        take_volume(p, reply);
                else if (is_explicit) { /* the given one is used, or it is an error */
                        plan_finish(p, failure);
                        return;
                }
                p->next_volume++;
        }
        if (next_volume(p, current_name(p)) && ask_volume(p) >= 0)
                return;
        provider_answered(p);
}

static int start_host(Planner *p, const char *name) {
        PlanResult *r = &p->result;
        uint64_t deadline = now_usec() + p->budgets.provider;
        int q;

        assert(r->n_providers < PLAN_PROVIDERS_MAX);
        r->providers[r->n_providers] = (PlanProvider) { .name = strdup(name) };
        if (!r->providers[r->n_providers].name)
                return -ENOMEM;
        r->n_providers++;
        q = host_new(p->manager->event, name, deadline, on_host, p, &p->host);
        if (q < 0)
                return q;
        return sd_event_add_time(p->manager->event, &p->timer, CLOCK_MONOTONIC, deadline, 1000, on_provider_late, p);
}

static bool already_asked(const Planner *p, const char *name) {
        for (size_t i = 0; i < p->result.n_providers; i++)
                if (streq(p->result.providers[i].name, name))
                        return true;
        return false;
}

/* The wish of the first volume that is nobody's yet and has one; NULL while there is one without. */
static const char *first_wish(const Planner *p) {
        const char *first = NULL;

        for (size_t i = 0; i < p->result.n_volumes; i++) {
                const char *wish = explicit_provider(p, i);
                if (p->result.volumes[i].provider != UNASSIGNED)
                        continue;
                if (!wish)
                        return NULL;
                first = first ? first : wish;
        }
        return first;
}

/*
 * By priority as long as a volume has no provider of its own, except those that only tests want; then the explicit
 * ones, which must not be offered what nobody gave them.
 */
static const char *choose_provider(Planner *p) {
        const char *wish = first_wish(p);
        ProviderEntry *e, *best = NULL;

        if (wish)
                return already_asked(p, wish) ? NULL : wish;
        LIST_FOREACH(e, &p->manager->providers, entries) {
                if (!e->ready || streq(e->name, "null") || already_asked(p, e->name))
                        continue;
                if (p->entry && (e->priority < p->entry->priority ||
                                 (e->priority == p->entry->priority && strcmp(e->name, p->entry->name) <= 0)))
                        continue; /* has had its turn */
                if (!best || e->priority < best->priority ||
                    (e->priority == best->priority && strcmp(e->name, best->name) < 0))
                        best = e;
        }
        p->entry = best;
        return best ? best->name : NULL;
}

static size_t unassigned(const Planner *p) {
        size_t i;

        for (i = 0; i < p->result.n_volumes; i++)
                if (p->result.volumes[i].provider == UNASSIGNED)
                        break;
        return i;
}

static bool holds_itself(const PlanResult *r, const PlanVolume *v) {
        return r->providers[v->provider].capabilities & VSS_CAP_FREEZES_ITSELF;
}

bool plan_is_mapped(const PlanResult *r, size_t volume) {
        return r->providers[r->volumes[volume].provider].capabilities & VSS_CAP_WRITES_BELOW;
}

/* What freezes by itself, the engine and LVM have to write to what carries them (origin, store) while all is held. */
static int check_stack(const PlanResult *r, const PlanVolume *a, Failure *reterr) {
        if (!(r->providers[a->provider].capabilities & (VSS_CAP_FREEZES_ITSELF | VSS_CAP_HOLDS | VSS_CAP_WRITES_BELOW)))
                return 0;
        for (size_t j = 0; j < r->n_volumes; j++)
                if (r->volumes[j].held && volume_lies_on(a->volume, r->volumes[j].volume))
                        return failure_set(
                                reterr, CONDITION_STACK_REFUSED,
                                "%s lies on %s, which would be frozen while %s is copied: take them in two sets",
                                a->volume->name, r->volumes[j].volume->name, a->volume->name);
        return 0;
}

static int check_instant(const PlanResult *r, Failure *reterr) {
        unsigned self = UNASSIGNED;

        for (size_t i = 0; i < r->n_volumes; i++) {
                const PlanVolume *a = &r->volumes[i];
                int stacked = check_stack(r, a, reterr);
                if (stacked < 0)
                        return stacked;
                if (!holds_itself(r, a))
                        continue;
                if (self != UNASSIGNED && self != a->provider)
                        return failure_set(
                                reterr, CONDITION_NOT_ONE_INSTANT,
                                "%s and another volume freeze by themselves through different providers (%s, %s): "
                                "nobody can prove that they are one instant",
                                a->volume->name, r->providers[self].name, r->providers[a->provider].name);
                self = a->provider;
        }
        return 0;
}

static int check_holds(PlanResult *r, Failure *reterr) {
        for (size_t i = 0; i < r->n_volumes; i++) {
                PlanVolume *v = &r->volumes[i];
                uint64_t capabilities = r->providers[v->provider].capabilities;
                bool mounted = v->volume->root_fd >= 0;
                v->held = !holds_itself(r, v) && mounted && v->volume->can_hold;
                /* a gate below a file system that goes on does not stop those who write to it (hazards A6) */
                if (!v->held && !(capabilities & VSS_CAP_FREEZES_ITSELF) &&
                    (mounted || !(capabilities & VSS_CAP_HOLDS)))
                        return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                           "%s (%s) cannot be brought to rest: the kernel does not freeze %s",
                                           v->volume->name, v->volume->fs_type ? v->volume->fs_type : "raw device",
                                           v->volume->fs_type ? "this type of file system" : "raw devices");
        }
        return 0;
}

static Consistency require_of(const Planner *p, const Volume *v) {
        Consistency c = p->options->require;

        for (size_t i = 0; i < p->options->n_volumes; i++)
                if (v->argument && streq(p->options->volumes[i].volume, v->argument))
                        c = MAX_OF(c, p->options->volumes[i].require);
        return c;
}

/* A writer that failed Identify may have data anywhere: no volume is called application while one did. */
static void reach(Planner *p) {
        PlanResult *r = &p->result;
        bool unknown = r->n_writers > r->n_taking_part;

        r->reachable = CONSISTENCY_APPLICATION;
        for (size_t i = 0; i < r->n_volumes; i++) {
                PlanVolume *v = &r->volumes[i];
                bool any = false, partial = false;
                for (size_t j = 0; j < r->n_taking_part; j++)
                        if (r->writers[j].volumes & (1ULL << i)) {
                                any = true;
                                partial |= r->writers[j].partial;
                        }
                v->reachable = v->held || holds_itself(r, v) ? CONSISTENCY_FILESYSTEM : CONSISTENCY_CRASH;
                if (any && !partial && !unknown && !v->neglected && v->reachable == CONSISTENCY_FILESYSTEM)
                        v->reachable = CONSISTENCY_APPLICATION;
                v->require = require_of(p, v->volume);
                r->reachable = MIN_OF(r->reachable, v->reachable);
        }
        for (size_t i = r->n_taking_part; i < r->n_writers; i++)
                (void) plan_warn(r, "%s", r->writers[i].failure.message);
}

static int check_level(const PlanResult *r, Failure *reterr) {
        for (size_t i = 0; i < r->n_volumes; i++)
                if (r->volumes[i].reachable < r->volumes[i].require)
                        return failure_set(
                                reterr, CONDITION_LEVEL_NOT_REACHED, "%s can reach level %s, not %s: %s",
                                r->volumes[i].volume->name, consistency_to_string(r->volumes[i].reachable),
                                consistency_to_string(r->volumes[i].require),
                                r->n_writers > r->n_taking_part ?
                                        "a writer failed to identify itself (vssctl writers)" :
                                r->volumes[i].neglected ?
                                        "a writer with data there was not chosen, or is being restored (vssctl plan)" :
                                        "no writer with data there takes part (vssctl writers)");
        return 0;
}

static void all_assigned(Planner *p) {
        Failure f;
        int r;

        r = check_holds(&p->result, &f);
        if (r >= 0)
                r = check_instant(&p->result, &f);
        for (size_t i = 0; r >= 0 && i < p->result.n_taking_part; i++) { /* begun since the closure was made */
                const Writer *w = p->result.writers[i].writer;
                const Restore *restore = restore_of_writer(p->manager, w, /* parallel_too= */ true);
                if (restore)
                        r = failure_set(&f, CONDITION_BUSY, "writer %s takes part in restore %s, which is not over",
                                        w->reference, restore->id);
        }
        if (r >= 0) {
                reach(p);
                r = check_level(&p->result, &f);
        }
        plan_finish(p, r < 0 ? &f : NULL);
}

static uint64_t without_bit(uint64_t bits, size_t index) {
        uint64_t below = (1ULL << index) - 1;

        return (bits & below) | (index < 63 ? (bits >> (index + 1)) << index : 0);
}

/* What --nested found and nobody can take stays out; true if there was such a volume. */
static bool leave_out(Planner *p, size_t index) {
        PlanResult *r = &p->result;
        PlanVolume *v = &r->volumes[index];

        for (size_t i = 0; i < r->n_taking_part; i++)
                if (r->writers[i].volumes & (1ULL << index))
                        return false;
        if (!v->optional || r->n_volumes == 1)
                return false;
        (void) plan_warn(r, "left out: %s (%s): no provider can take a snapshot of it", v->volume->name,
                         v->volume->fs_type ? v->volume->fs_type : "no file system");
        volume_free(v->volume);
        memmove(v, v + 1, (--r->n_volumes - index) * sizeof *v);
        for (size_t i = 0; i < r->n_taking_part; i++)
                r->writers[i].volumes = without_bit(r->writers[i].volumes, index);
        for (size_t i = 0; i < r->n_providers; i++)
                r->providers[i].volumes = without_bit(r->providers[i].volumes, index);
        return true;
}

static void ask_next_provider(Planner *p) {
        const char *name;
        size_t open = unassigned(p);
        int r;

        if (open == p->result.n_volumes) {
                all_assigned(p);
                return;
        }
        name = choose_provider(p);
        if (!name && leave_out(p, open)) {
                ask_next_provider(p);
                return;
        }
        if (!name) {
                const Volume *v = p->result.volumes[open].volume;
                Failure f;
                const char *mode = set_options_mode(p->options, v);
                (void) failure_set(&f, CONDITION_NOT_SUPPORTED, "no provider can take a snapshot of %s (%s)%s%s: %s",
                                   v->name, v->fs_type ? v->fs_type : "no file system", mode ? " by " : "",
                                   mode ? mode : "", v->why_not ? v->why_not : "see vssctl providers");
                plan_finish(p, &f);
                return;
        }
        if (!manager_find_provider(p->manager, name)) {
                fail(p, CONDITION_NOT_FOUND, name, "no such provider (vssctl providers lists them)");
                return;
        }
        p->next_volume = 0;
        r = start_host(p, name);
        if (r < 0)
                fail(p, CONDITION_PROVIDER_LOST, name, provider_start_error(r));
}

void plan_providers(Planner *p) {
        for (size_t i = 0; i < p->result.n_volumes; i++) {
                const Volume *v = p->result.volumes[i].volume;
                Failure f;
                int r = v->why_not ? failure_set(&f, CONDITION_NOT_SUPPORTED, "%s cannot be snapshotted: %s", v->name,
                                                 v->why_not) :
                                     strays_check(p->manager, v, &f);
                p->result.volumes[i].provider = UNASSIGNED;
                if (r < 0) {
                        plan_finish(p, &f);
                        return;
                }
        }
        ask_next_provider(p);
}
