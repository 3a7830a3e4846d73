/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Manager.DeleteSnapshots, one after the other, and Manager.LookupId. */
#include "daemon/create-bus.h"
#include "daemon/manager-private.h"
#include "daemon/results-bus.h"
#include "protocol/busutil.h"
#include "protocol/text.h"

enum { PREFIX_MIN = 4, LISTED_MATCHES = 3 };

typedef struct Deletion {
        char **ids, *volume, *reason;
        bool oldest, all, force, dry_run;
        SetResult *results; /* one per chosen copy; at is the one it is about */
        size_t n, at;
} Deletion;

static void deletion_free(void *p) {
        Deletion *k = p;
        for (size_t i = 0; i < k->n; i++)
                free(k->results[i].name);
        free(k->results);
        strings_free(k->ids);
        free(k->volume);
        free(k->reason);
        free(k);
}

static int choose(Deletion *k, const char *id) {
        SetResult *list = reallocarray(k->results, k->n + 1, sizeof(*list));
        if (!list)
                return -ENOMEM;
        k->results = list;
        list[k->n] = (SetResult) { .name = strdup(id) };
        if (!list[k->n].name)
                return -ENOMEM;
        k->n++;
        return 0;
}

static bool is_of_volume(const Snapshot *s, const char *volume) {
        return s->available &&
               (streq_null(s->name, volume) || streq_null(s->mount_point, volume) || streq_null(s->volume, volume));
}

static int choose_by_volume(Manager *m, Deletion *k) {
        const Snapshot *snapshot;
        const Set *s;
        int r = 0;
        TAILQ_FOREACH(s, &m->sets, entries)
                LIST_FOREACH(snapshot, &s->snapshots, entries)
                        if (r >= 0 && is_of_volume(snapshot, k->volume) && (k->all || k->n == 0))
                                r = choose(k, snapshot->id);
        return r;
}

static int choose_by_id(Manager *m, Deletion *k) {
        const Snapshot *snapshot;
        int r = 0;
        for (char **id = k->ids; r >= 0 && id && *id; id++) {
                const Set *s = manager_find_set(m, *id);
                if (!s || LIST_EMPTY(&s->snapshots)) {
                        r = choose(k, *id);
                        continue;
                }
                LIST_FOREACH(snapshot, &s->snapshots, entries)
                        if (r >= 0)
                                r = choose(k, snapshot->id);
        }
        return r;
}

static void delete_next(Call *c);

static void delete_done(Call *c, const Failure *failure) {
        Deletion *k = c->state;
        if (failure)
                k->results[k->at].failure = *failure;
        k->at++;
        call_when_quiet(c, delete_next);
}

static void on_deleted(const Failure *failure, const SetResult *results, size_t n, void *userdata) {
        Call *c = userdata;
        c->held = false;
        delete_done(c, failure && failure->condition != CONDITION_NONE ? failure : NULL);
}

static void delete_one(Call *c) {
        Deletion *k = c->state;
        Failure f = {};
        Snapshot *s = manager_find_snapshot(c->manager, k->results[k->at].name);
        if (!s)
                (void) failure_set(&f, CONDITION_NOT_FOUND, "there is no snapshot %s", k->results[k->at].name);
        else if (!k->dry_run) {
                call_hold(c);
                if (snapshot_delete(s, k->force, on_deleted, c, &f) >= 0)
                        return;
                c->held = false;
        }
        delete_done(c, f.condition != CONDITION_NONE ? &f : NULL);
}

/* Asks for each copy before it goes: rules may allow one volume and not another. */
static void delete_next(Call *c) {
        const Deletion *k = c->state;
        sd_bus_message *reply = NULL;
        if (k->at < k->n) {
                const Snapshot *s = manager_find_snapshot(c->manager, k->results[k->at].name);
                call_authorise(c, VSS_ACTION_DELETE,
                               (const char *const[]) { "snapshot", k->results[k->at].name, "volumes",
                                                       s && s->name ? s->name : "", NULL },
                               delete_one);
                return;
        }
        int r = sd_bus_message_new_method_return(c->message, &reply);
        if (r >= 0)
                r = results_append(reply, k->results, k->n);
        call_reply_message(c, reply, r);
}

static void choose_step(Call *c) {
        Deletion *k = c->state;
        int r = k->volume ? choose_by_volume(c->manager, k) : choose_by_id(c->manager, k);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "out of memory");
        else if (k->n == 0)
                call_failf(c, CONDITION_NOT_FOUND, "volume %s has no snapshots", k->volume ? k->volume : "");
        else
                delete_next(c);
}

static int read_deletion(sd_bus_message *m, Deletion *k, Failure *reterr) {
        static const BusOption selector[] = {
                { "ids", "as", offsetof(Deletion, ids), NULL },
                { "volume", "s", offsetof(Deletion, volume), NULL },
                { "oldest", "b", offsetof(Deletion, oldest), NULL },
                { "all", "b", offsetof(Deletion, all), NULL },
        };
        static const BusOption options[] = {
                BUS_OPTIONS_COMMON(Deletion),
                { "force", "b", offsetof(Deletion, force), NULL },
        };
        int r = bus_read_options(m, selector, ELEMENTSOF(selector), k, NULL, reterr);
        if (r >= 0)
                r = bus_read_options(m, options, ELEMENTSOF(options), k, NULL, reterr);
        if (r < 0)
                return r;
        if (!k->ids == !k->volume || (k->volume && k->oldest == k->all) || (k->ids && (k->oldest || k->all)))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "selector: either ids, or volume with oldest or all");
        return 0;
}

int method_delete_snapshots(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Failure f = {};
        Call *c;
        Deletion *k = calloc(1, sizeof(*k));
        if (!k)
                return -ENOMEM;
        int r = read_deletion(m, k, &f);
        r = r < 0 ? (f.condition != CONDITION_NONE ? bus_error_set(reterr, &f) : r) : call_new(userdata, m, reterr, &c);
        if (r < 0) {
                deletion_free(k);
                return r;
        }
        c->state = k;
        c->state_free = deletion_free;
        call_identify(c, choose_step);
        return 1;
}

typedef struct Match {
        char id[VSS_ID_LENGTH + 1];
        bool is_set;
        unsigned n;
        char first[LISTED_MATCHES * (VSS_ID_LENGTH + 2) + 1];
} Match;

static void match_one(Match *match, const char *prefix, const char *id, bool is_set) {
        if (strncmp(id, prefix, strlen(prefix)) != 0)
                return;
        memcpy(match->id, id, sizeof(match->id));
        match->is_set = is_set;
        if (match->n++ < LISTED_MATCHES) {
                strcat(match->first, match->first[0] ? ", " : "");
                strcat(match->first, id);
        }
}

static void lookup_step(Call *c) {
        const Deletion *k = c->state;
        _cleanup_free_ char *path = NULL;
        const Snapshot *snapshot;
        const Set *s;
        Match match = {};
        TAILQ_FOREACH(s, &c->manager->sets, entries) {
                match_one(&match, k->volume, s->id, true);
                LIST_FOREACH(snapshot, &s->snapshots, entries)
                        if (snapshot->available)
                                match_one(&match, k->volume, snapshot->id, false);
        }
        if (match.n > 1)
                call_failf(c, CONDITION_AMBIGUOUS, "%s begins %u ids: %s%s", k->volume, match.n, match.first,
                           match.n > LISTED_MATCHES ? " and others" : "");
        else if (match.n == 0 ||
                 bus_path_encode(match.is_set ? VSS_PATH_SETS : VSS_PATH_SNAPSHOTS, match.id, &path) < 0)
                call_failf(c, CONDITION_NOT_FOUND, "there is no set or snapshot %s", k->volume);
        else
                call_reply(c, "so", match.is_set ? VSS_IFACE_SET : VSS_IFACE_SNAPSHOT, path);
}

int method_lookup_id(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Failure f = {};
        Call *c;
        Deletion *k = calloc(1, sizeof(*k));
        if (!k)
                return -ENOMEM;
        int r = bus_read_field(m, "s", &k->volume, &f); /* the id */
        if (r >= 0)
                r = bus_read_options(m, NULL, 0, k, NULL, &f);
        if (r >= 0 && (strlen(k->volume) < PREFIX_MIN || strlen(k->volume) > VSS_ID_LENGTH))
                r = failure_set(&f, CONDITION_NOT_FOUND, "id: a UUID or at least %d characters of one are needed",
                                PREFIX_MIN);
        r = r < 0 ? (f.condition != CONDITION_NONE ? bus_error_set(reterr, &f) : r) : call_new(userdata, m, reterr, &c);
        if (r < 0) {
                deletion_free(k);
                return r;
        }
        c->state = k;
        c->state_free = deletion_free;
        call_authorise(c, VSS_ACTION_INSPECT, NULL, lookup_step);
        return 1;
}
