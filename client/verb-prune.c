/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * prune: asks what copies there are, lets prune.c decide, deletes the rest. Never with force: what is pinned or has
 * come into use since is refused by vssd and stays, with all of its set that is still there.
 */
#include "client/prune.h"
#include "client/verbs.h"

static const Option prune_options[] = {
        { "volume", 0, "VOLUME", false, check_volume, "look at copies of this volume only" },
        { "label", 0, "K=V", true, check_label, "look at sets with this label only" },
        { "keep-last", 0, "N", false, check_count, "keep the N newest copies; 0: not even the newest one" },
        { "keep-hourly", 0, "N", false, check_count, "keep the newest copy of each of the last N hours that have one" },
        { "keep-daily", 0, "N", false, check_count, "... of N days" },
        { "keep-weekly", 0, "N", false, check_count, "... of N weeks (from Monday)" },
        { "keep-monthly", 0, "N", false, check_count, "... of N months" },
        { "keep-yearly", 0, "N", false, check_count, "... of N years" },
        { "keep-within", 0, "TIME", false, check_span,
          "keep all that are at most TIME older than the newest: 36h, 14d, 1y6m" },
        {},
};

static const Column columns[] = {
        { "ACTION", "action", FORMAT_TEXT }, { "SNAPSHOT", "id", FORMAT_TEXT }, { "CREATED", "created", FORMAT_TIME },
        { "VOLUME", "volume", FORMAT_TEXT }, { "WHY", "why", FORMAT_LIST },     {},
};

static bool read_rules(const Context *c, PruneRules *ret) {
        bool any = false;
        *ret = (PruneRules) {};
        for (unsigned rule = 0; rule < PRUNE_RULES_MAX; rule++) {
                char option[32];
                (void) snprintf(option, sizeof(option), "keep-%s", prune_why_word(rule));
                const char *value = given_value(c, option);
                ret->given[rule] = value != NULL;
                ret->keep[rule] = value ? (unsigned) strtoul(value, NULL, 10) : 0;
                any |= ret->given[rule];
        }
        const char *within = given_value(c, "keep-within");
        ret->given_within = within && prune_span_parse(within, &ret->within) >= 0;
        return any || ret->given_within;
}

static int prune_check(Context *c) {
        PruneRules rules;
        return read_rules(c, &rules) ? 0 : context_usage(c, "needs a rule of what to keep, such as --keep-daily=7");
}

/* The objects of the bus that are copies or sets; sets by path. */
typedef struct Copies {
        json_object *objects, *sets;
        PruneCopy *list;
        size_t n;
} Copies;

static void copies_done(Copies *k) {
        free(k->list);
        json_object_put(k->sets);
        json_object_put(k->objects);
}

static bool set_has_labels(const Context *c, json_object *set) {
        size_t i = 0;
        const char *wanted;
        while ((wanted = given_next(c, "label", &i))) {
                const char *equals = strchr(wanted, '=');
                char key[LIMIT_LABELS + 1 + 64];
                (void) snprintf(key, sizeof(key), "%.*s", (int) (equals - wanted), wanted);
                json_object *labels = member(set, "labels"),
                            *value = labels ? json_object_object_get(labels, key) : NULL;
                if (!value || !streq(json_object_get_string(value), equals + 1))
                        return false;
        }
        return true;
}

/* Its session goes on, or it is to go with whoever asked for it. */
static bool set_is_kept(json_object *set) {
        return !streq(member_text(set, "state"), "completed") || streq(member_text(set, "lifetime"), "auto-release");
}

static bool has_entries(json_object *object, const char *key) {
        json_object *list = member(object, key);
        return list && json_object_is_type(list, json_type_array) && json_object_array_length(list) > 0;
}

static void copies_add(Copies *k, const Context *c, json_object *object, const char *volume) {
        json_object *set = json_object_object_get(k->sets, member_text(object, "set"));
        const char *state = member_text(object, "state");
        if ((volume && !streq(member_text(object, "volume_name"), volume)) || !set_has_labels(c, set) ||
            streq(state, "deleting"))
                return;
        k->list[k->n++] = (PruneCopy) {
                .id = member_text(object, "id"),
                .set = member_text(object, "set"),
                .volume = member_text(object, "volume_name"),
                .created_usec = member_number(object, "created_at"),
                .pinned = json_object_get_boolean(member(object, "pinned")),
                .session = set_is_kept(set),
                .in_use = has_entries(object, "mounts") || has_entries(object, "exports"),
                .damaged = streq(state, "damaged"),
                .userdata = object,
        };
}

static int copies_take(Copies *k, Context *c, const char *volume) {
        size_t n = json_object_array_length(k->objects);
        k->list = calloc(n + 1, sizeof(*k->list));
        k->sets = json_object_new_object();
        if (!k->list || !k->sets)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        for (size_t i = 0; i < n; i++) {
                json_object *object = json_object_array_get_idx(k->objects, i);
                if (streq(member_text(object, "interface"), VSS_IFACE_SET))
                        json_object_object_add(k->sets, member_text(object, "object"), json_object_get(object));
        }
        for (size_t i = 0; i < n; i++) {
                json_object *object = json_object_array_get_idx(k->objects, i);
                if (streq(member_text(object, "interface"), VSS_IFACE_SNAPSHOT))
                        copies_add(k, c, object, volume);
        }
        return 0;
}

static bool is_copied(json_object *objects, const char *volume) {
        for (size_t i = 0; i < json_object_array_length(objects); i++)
                if (streq(member_text(json_object_array_get_idx(objects, i), "volume_name"), volume))
                        return true;
        return false;
}

/* What copies of the volume are called after. One that is gone, or an engine volume that is detached, is known by its
 * copies alone. */
static int volume_name(Context *c, json_object *objects, char **ret) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        _cleanup_free_ char *volume = NULL;
        Context asking = *c;
        if (volume_to_bus(given_value(c, "volume"), &volume) < 0)
                return context_fail(c, CONDITION_FAILED, "cannot find out the current directory: %s", strerror(errno));
        int r = call_method(&asking, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "LookupVolume", &answer, "sa{sv}", volume, 0);
        if (r < 0 && is_copied(objects, volume)) {
                *ret = TAKE_PTR(volume);
                return 0;
        }
        if (r < 0) {
                *c = asking;
                return r;
        }
        *ret = strdup(json_object_get_string(json_object_array_get_idx(answer, 0)));
        return *ret ? 0 : context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
}

static json_object *words_of(unsigned why) {
        json_object *words = json_object_new_array();
        for (unsigned bit = 0; bit < PRUNE_WHYS; bit++)
                if (why & (1u << bit))
                        json_object_array_add(words, json_object_new_string(prune_why_word(bit)));
        return words;
}

static json_object *row_new(const PruneCopy *copy) {
        json_object *row = json_object_new_object(), *described = describe_snapshot(copy->userdata);
        static const char *const keys[] = { "id", "set", "volume", "created" };
        json_object_object_add(row, "action", json_object_new_string(copy->why ? "keep" : "delete"));
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                json_object_object_add(row, keys[i], json_object_get(member(described, keys[i])));
        json_object_object_add(row, "why", words_of(copy->why));
        json_object_object_add(row, "error", NULL);
        json_object_put(described);
        return row;
}

static bool set_was_refused(const PruneCopy *copies, size_t n, const PruneCopy *copy, const bool *refused) {
        for (size_t i = 0; i < n; i++)
                if (refused[i] && streq(copies[i].set, copy->set))
                        return true;
        return false;
}

/* The oldest first: what is interrupted has done what matters most. A copy that somebody else deleted meanwhile is gone
 * as well; one that is refused stays, and is no failure. */
static int delete_one(Context *c, PruneCopy *copy) {
        Context silent = *c;
        int r = call_method(&silent, member_text(copy->userdata, "object"), VSS_IFACE_SNAPSHOT, "Delete", NULL, "a{sv}",
                            1, "dry_run", "b", (int) c->dry_run);
        if (r >= 0 || silent.condition == CONDITION_NOT_FOUND)
                return 0;
        if (silent.condition == CONDITION_PINNED)
                copy->why = PRUNE_WHY_PINNED;
        else if (silent.condition == CONDITION_BUSY)
                copy->why = PRUNE_WHY_IN_USE;
        else {
                *c = silent;
                return r;
        }
        return 0;
}

static int delete_rest(Context *c, PruneCopy *copies, size_t n, json_object **rows) {
        _cleanup_free_ bool *refused = calloc(n + 1, sizeof(bool));
        First first = {};
        unsigned n_failed = 0;
        if (!refused)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        for (size_t i = n; i > 0; i--) {
                PruneCopy *copy = &copies[i - 1];
                if (copy->why)
                        continue;
                if (set_was_refused(copies, n, copy, refused)) {
                        copy->why = PRUNE_WHY_SET;
                        continue;
                }
                /* Without a service the rest stays as well, for the same reason. */
                int r = c->condition == CONDITION_UNAVAILABLE ? -EHOSTDOWN : delete_one(c, copy);
                refused[i - 1] = r < 0 || copy->why;
                if (r >= 0)
                        continue;
                rows[i - 1] = describe_error(c->error_name, c->error_message, c->retryable);
                n_failed++;
                first_keep(&first, c);
        }
        return first_restore(&first, c, n_failed);
}

static void print_rows(Context *c, json_object *rows) {
        unsigned n_deleted = 0, n_failed = 0;
        size_t n = json_object_array_length(rows);
        if (!output_people(c))
                return;
        if (n == 0) {
                output_line(c, "There is no snapshot.");
                return;
        }
        output_begin(c);
        output_table(c, rows, columns);
        for (size_t i = 0; i < n; i++) {
                json_object *row = json_object_array_get_idx(rows, i);
                _cleanup_free_ char *why = text_visible(member_text(row, "error.message"));
                n_deleted += streq(member_text(row, "action"), "delete");
                n_failed += member(row, "error") != NULL;
                if (member(row, "error"))
                        output_line(c, "%s not deleted: %s", member_text(row, "id"), why ? why : "");
        }
        output_line(c, "%zu kept, %u %s", n - n_deleted, n_deleted - n_failed,
                    c->dry_run ? "would be deleted" : "deleted");
}

static int prune_decided(Context *c, Copies *k) {
        _cleanup_free_ json_object **errors = calloc(k->n + 1, sizeof(json_object *));
        json_object *rows = json_object_new_array();
        if (!errors)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        int r = delete_rest(c, k->list, k->n, errors);
        for (size_t i = 0; i < k->n; i++) {
                json_object *row = row_new(&k->list[i]);
                json_object_object_add(row, "error", errors[i]);
                json_object_array_add(rows, row);
        }
        c->document = document_new();
        json_object_object_add(c->document, "dry_run", json_object_new_boolean(c->dry_run));
        json_object_object_add(c->document, "results", rows);
        print_rows(c, rows);
        return r;
}

static int prune_run(Context *c) {
        _cleanup_(copies_done) Copies k = {};
        _cleanup_free_ char *volume = NULL;
        PruneRules rules;
        (void) read_rules(c, &rules);
        int r = call_objects(c, NULL, &k.objects);
        if (r >= 0 && given_flag(c, "volume"))
                r = volume_name(c, k.objects, &volume);
        if (r >= 0)
                r = copies_take(&k, c, volume);
        if (r < 0)
                return r;
        struct timespec now;
        (void) clock_gettime(CLOCK_REALTIME, &now);
        if (prune_decide(k.list, k.n, &rules, (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000) < 0)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        return prune_decided(c, &k);
}

const Verb verb_prune = {
        .name = "prune",
        .summary = "delete snapshots that no rule keeps",
        .options = { prune_options },
        .changes = true,
        .examples = "  vssctl prune --keep-hourly=24 --keep-daily=7 --keep-weekly=5 --keep-monthly=12 --dry-run\n"
                    "  vssctl prune --volume=/srv/db --keep-last=3 --keep-within=14d\n"
                    "  vssctl prune --label=plan=hourly --keep-hourly=48\n",
        .check = prune_check,
        .run = prune_run,
};
