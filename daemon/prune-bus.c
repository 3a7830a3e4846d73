/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Manager.Prune: prune.c decides which copies the rules keep, the others go, the oldest first: what is interrupted has
 * done what matters most. Never with force: what is pinned or has come into use since stays, with all of its set that
 * is still there. Asked for once, since what goes is known only then.
 */
#include "daemon/create-bus.h"
#include "daemon/manager-private.h"
#include "protocol/busutil.h"
#include "protocol/prune.h"
#include "protocol/text.h"
#include <stdio.h>

typedef struct Pruned { /* a copy, which may go meanwhile */
        char id[VSS_ID_LENGTH + 1], set[VSS_ID_LENGTH + 1];
        unsigned why; /* 0: to be removed */
        bool refused;
        Failure failure;
} Pruned;

typedef struct Pruning {
        char *volume, **labels, *within, *reason;
        uint32_t keep[PRUNE_RULES_MAX];
        PruneRules rules;
        bool dry_run;
        Pruned *copies;
        size_t n, left; /* left: this many from the front have not had their turn */
} Pruning;

static void pruning_free(void *p) {
        Pruning *k = p;
        strings_free(k->labels);
        free(k->volume);
        free(k->within);
        free(k->reason);
        free(k->copies);
        free(k);
}

/* --- which -------------------------------------------------------------------------------------------------------- */

static bool has_label(const Set *s, const char *label) {
        for (char **l = s->options.labels; l && *l; l++)
                if (streq(*l, label))
                        return true;
        return false;
}

static bool is_meant(const Pruning *k, const Snapshot *s) {
        for (char **l = k->labels; l && *l; l++)
                if (!has_label(s->set, *l))
                        return false;
        return s->available && s->set->state != SET_DELETING &&
               (!k->volume || streq_null(s->name, k->volume) || streq_null(s->mount_point, k->volume) ||
                streq_null(s->volume, k->volume));
}

static PruneCopy copy_of(Snapshot *s) {
        return (PruneCopy) {
                .id = s->id,
                .set = s->set->id,
                .volume = s->name ?: "",
                .created_usec = (int64_t) MIN_OF(s->created_at_usec, (uint64_t) INT64_MAX),
                .pinned = s->pinned,
                /* its backup is not over, or it is to go with whoever asked for it */
                .session = s->set->state != SET_COMPLETED || s->set->options.lifetime == LIFETIME_AUTO_RELEASE,
                .in_use = s->mounts && s->mounts[0],
                .damaged = s->damaged,
        };
}

static size_t collect(Manager *m, const Pruning *k, PruneCopy *copies) {
        Snapshot *snapshot;
        Set *s;
        size_t n = 0;
        TAILQ_FOREACH(s, &m->sets, entries)
                LIST_FOREACH(snapshot, &s->snapshots, entries)
                        if (is_meant(k, snapshot)) {
                                if (copies)
                                        copies[n] = copy_of(snapshot);
                                n++;
                        }
        return n;
}

static int decide(Manager *m, Pruning *k) {
        size_t n = collect(m, k, NULL);
        _cleanup_free_ PruneCopy *copies = calloc(n + 1, sizeof(*copies));
        k->copies = calloc(n + 1, sizeof(*k->copies));
        if (!copies || !k->copies || n != collect(m, k, copies))
                return -ENOMEM;
        int r = prune_decide(copies, n, &k->rules, (int64_t) clock_usec(CLOCK_REALTIME));
        for (size_t i = 0; r >= 0 && i < n; i++) {
                memcpy(k->copies[i].id, copies[i].id, sizeof(k->copies[i].id));
                memcpy(k->copies[i].set, copies[i].set, sizeof(k->copies[i].set));
                k->copies[i].why = copies[i].why;
        }
        k->n = k->left = n;
        return r;
}

/* --- and away ----------------------------------------------------------------------------------------------------- */

/* "daily,newest" */
static void why_text(unsigned why, char *ret, size_t size) {
        size_t n = 0;
        ret[0] = '\0';
        for (unsigned bit = 0; bit < PRUNE_WHYS && n < size; bit++)
                if (why & (1u << bit))
                        n += (size_t) snprintf(ret + n, size - n, "%s%s", n ? "," : "", prune_why_word(bit));
}

static int append_copy(sd_bus_message *m, const Pruned *copy) {
        bool failed = copy->failure.condition != CONDITION_NONE;
        char text[LIMIT_MESSAGE_BYTES + 128];
        if (failed)
                (void) snprintf(text, sizeof(text), "%s: %s", condition_name(copy->failure.condition),
                                copy->failure.message);
        else
                why_text(copy->why, text, sizeof(text));
        return sd_bus_message_append(m, "(sss)", copy->id, failed ? "failed" : copy->why ? "kept" : "deleted", text);
}

static void answer(Call *c) {
        const Pruning *k = c->state;
        sd_bus_message *m = NULL;
        int r = sd_bus_message_new_method_return(c->message, &m);
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "(sss)");
        for (size_t i = 0; r >= 0 && i < k->n; i++)
                r = append_copy(m, &k->copies[i]);
        r = r < 0 ? r : sd_bus_message_close_container(m);
        call_reply_message(c, m, r);
}

static bool set_was_refused(const Pruning *k, const Pruned *copy) {
        for (size_t i = 0; i < k->n; i++)
                if (k->copies[i].refused && streq(k->copies[i].set, copy->set))
                        return true;
        return false;
}

/* A copy that somebody else deleted meanwhile is gone as well; one that is refused stays, and is no failure. */
static void note_end(Pruned *copy, const Failure *failure) {
        Condition condition = failure ? failure->condition : CONDITION_NONE;
        if (condition == CONDITION_PINNED)
                copy->why = PRUNE_WHY_PINNED;
        else if (condition == CONDITION_BUSY)
                copy->why = PRUNE_WHY_IN_USE;
        else if (condition != CONDITION_NONE && condition != CONDITION_NOT_FOUND)
                copy->failure = *failure;
        copy->refused = copy->why || copy->failure.condition != CONDITION_NONE;
}

static void prune_next(Call *c);

static void on_pruned(const Failure *failure, const SetResult *results, size_t n, void *userdata) {
        Call *c = userdata;
        Pruning *k = c->state;
        bool whole = failure && failure->condition != CONDITION_NONE;
        c->held = false;
        note_end(&k->copies[k->left], whole ? failure : n > 0 ? &results[0].failure : NULL);
        call_when_quiet(c, prune_next);
}

static void prune_next(Call *c) {
        Pruning *k = c->state;
        while (k->left > 0 && !k->dry_run) {
                Pruned *copy = &k->copies[--k->left];
                Snapshot *s = copy->why ? NULL : manager_find_snapshot(c->manager, copy->id);
                Failure f = {};
                if (!s)
                        continue;
                if (set_was_refused(k, copy)) {
                        copy->why = PRUNE_WHY_SET;
                        continue;
                }
                call_hold(c);
                if (snapshot_delete(s, false, on_pruned, c, &f) >= 0)
                        return;
                c->held = false;
                note_end(copy, &f);
        }
        answer(c);
}

static void prune_step(Call *c) {
        if (decide(c->manager, c->state) < 0)
                call_failf(c, CONDITION_FAILED, "out of memory");
        else
                prune_next(c);
}

/* --- the call ----------------------------------------------------------------------------------------------------- */

static int read_rules(sd_bus_message *m, Pruning *k, Failure *reterr) {
        static const BusOption rules[] = {
                { "keep_last", "u", offsetof(Pruning, keep[PRUNE_LAST]), NULL }, /* in the order of PruneRule */
                { "keep_hourly", "u", offsetof(Pruning, keep[PRUNE_HOURLY]), NULL },
                { "keep_daily", "u", offsetof(Pruning, keep[PRUNE_DAILY]), NULL },
                { "keep_weekly", "u", offsetof(Pruning, keep[PRUNE_WEEKLY]), NULL },
                { "keep_monthly", "u", offsetof(Pruning, keep[PRUNE_MONTHLY]), NULL },
                { "keep_yearly", "u", offsetof(Pruning, keep[PRUNE_YEARLY]), NULL },
                { "keep_within", "s", offsetof(Pruning, within), NULL },
                { "volume", "s", offsetof(Pruning, volume), NULL },
                { "labels", "a{ss}", offsetof(Pruning, labels), NULL },
        };
        static const BusOption options[] = { BUS_OPTIONS_COMMON(Pruning) };
        uint64_t seen = 0;
        int r = bus_read_options(m, rules, ELEMENTSOF(rules), k, &seen, reterr);
        if (r >= 0)
                r = bus_read_options(m, options, ELEMENTSOF(options), k, NULL, reterr);
        if (r < 0)
                return r;
        for (unsigned rule = 0; rule < PRUNE_RULES_MAX; rule++) {
                k->rules.given[rule] = seen & (1u << rule);
                k->rules.keep[rule] = k->keep[rule];
        }
        k->rules.given_within = k->within != NULL;
        if (k->within && prune_span_parse(k->within, &k->rules.within) < 0)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "keep_within: a time such as 36h, 14d or 1y6m is needed");
        if (!k->within && !(seen & ((1u << PRUNE_RULES_MAX) - 1)))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "rules: none says what to keep");
        return 0;
}

int method_prune(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Failure f = {};
        Call *c;
        Pruning *k = calloc(1, sizeof(*k));
        if (!k)
                return -ENOMEM;
        int r = read_rules(m, k, &f);
        r = r < 0 ? (f.condition != CONDITION_NONE ? bus_error_set(reterr, &f) : r) : call_new(userdata, m, reterr, &c);
        if (r < 0) {
                pruning_free(k);
                return r;
        }
        c->state = k;
        c->state_free = pruning_free;
        call_authorise(c, VSS_ACTION_DELETE, (const char *const[]) { "volumes", k->volume ?: "", NULL }, prune_step);
        return 1;
}
