/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* prune: vssd decides, deletes and says why what stays; here it is shown. */
#include "client/verbs.h"
#include "protocol/prune.h"

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

/* "keep-daily" → "keep_daily" */
static void rule_option(unsigned rule, char separator, char ret[static 32]) {
        (void) snprintf(ret, 32, "keep%c%s", separator, prune_why_word(rule));
}

static int prune_check(Context *c) {
        bool any = given_value(c, "keep-within") != NULL;
        for (unsigned rule = 0; rule < PRUNE_RULES_MAX; rule++) {
                char option[32];
                rule_option(rule, '-', option);
                any |= given_value(c, option) != NULL;
        }
        return any ? 0 : context_usage(c, "needs a rule of what to keep, such as --keep-daily=7");
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

/* --- the call ----------------------------------------------------------------------------------------------------- */

static int append_labels(sd_bus_message *m, const Context *c) {
        size_t i = 0;
        const char *wanted = given_next(c, "label", &i);
        if (!wanted)
                return 0;
        int r = sd_bus_message_open_container(m, 'e', "sv");
        r = r < 0 ? r : sd_bus_message_append(m, "s", "labels");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'v', "a{ss}");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "{ss}");
        for (; r >= 0 && wanted; wanted = given_next(c, "label", &i)) {
                const char *equals = strchr(wanted, '=');
                _cleanup_free_ char *key = strndup(wanted, (size_t) (equals - wanted));
                r = key ? sd_bus_message_append(m, "{ss}", key, equals + 1) : -ENOMEM;
        }
        for (unsigned open = 0; r >= 0 && open < 3; open++)
                r = sd_bus_message_close_container(m);
        return r;
}

/* userdata: the name of the volume, or NULL. */
static int append_rules(sd_bus_message *m, const Context *c, const void *userdata) {
        const char *within = given_value(c, "keep-within"), *volume = userdata;
        int r = sd_bus_message_open_container(m, 'a', "{sv}");
        for (unsigned rule = 0; r >= 0 && rule < PRUNE_RULES_MAX; rule++) {
                char option[32], key[32];
                rule_option(rule, '-', option);
                rule_option(rule, '_', key);
                const char *value = given_value(c, option);
                if (value)
                        r = sd_bus_message_append(m, "{sv}", key, "u", (uint32_t) strtoul(value, NULL, 10));
        }
        if (r >= 0 && within)
                r = sd_bus_message_append(m, "{sv}", "keep_within", "s", within);
        if (r >= 0 && volume)
                r = sd_bus_message_append(m, "{sv}", "volume", "s", volume);
        if (r >= 0)
                r = append_labels(m, c);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_append(m, "a{sv}", 1, "dry_run", "b", (int) c->dry_run);
}

/* --- what came of it ---------------------------------------------------------------------------------------------- */

static json_object *words_of(const char *text) {
        json_object *words = json_object_new_array();
        while (*text) {
                size_t n = strcspn(text, ",");
                json_object_array_add(words, json_object_new_string_len(text, (int) n));
                text += n + (text[n] == ',');
        }
        return words;
}

static json_object *find_copy(json_object *objects, const char *id) {
        for (size_t i = 0; i < json_object_array_length(objects); i++) {
                json_object *object = json_object_array_get_idx(objects, i);
                if (streq(member_text(object, "interface"), VSS_IFACE_SNAPSHOT) && streq(member_text(object, "id"), id))
                        return object;
        }
        return NULL;
}

/* "NAME: MESSAGE", which becomes the error of the run if it is the first. */
static json_object *error_of(Context *c, First *first, unsigned *n_failed, const char *text) {
        const char *end = strstr(text, ": "), *message = end ? end + 2 : text;
        _cleanup_free_ char *name = strndup(text, end ? (size_t) (end - text) : 0);
        requester_fail_named(c->requester, name ?: "", message, -1);
        (void) context_fail_requester(c);
        first_keep(first, c);
        (*n_failed)++;
        return describe_error(c->error_name, c->error_message, c->retryable);
}

/* objects: as they were before; one that came between has its id only. */
static json_object *row_new(json_object *objects, const char *id, const char *action) {
        static const char *const keys[] = { "id", "set", "volume", "created" };
        json_object *row = json_object_new_object(), *object = find_copy(objects, id),
                    *described = object ? describe_snapshot(object) : NULL;
        json_object_object_add(row, "action", json_object_new_string(streq(action, "kept") ? "keep" : "delete"));
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                json_object_object_add(row, keys[i], described ? json_object_get(member(described, keys[i])) : NULL);
        json_object_object_add(row, "id", json_object_new_string(id));
        json_object_put(described);
        return row;
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

static int show(Context *c, json_object *objects, json_object *results) {
        json_object *rows = json_object_new_array();
        First first = {};
        unsigned n_failed = 0;
        for (size_t i = 0; results && i < json_object_array_length(results); i++) {
                const char *text[3];
                json_object *result = json_object_array_get_idx(results, i);
                for (size_t k = 0; k < ELEMENTSOF(text); k++)
                        text[k] = json_object_get_string(json_object_array_get_idx(result, k));
                bool failed = streq(text[1], "failed");
                json_object *row = row_new(objects, text[0], text[1]);
                json_object_object_add(row, "why", words_of(failed ? "" : text[2]));
                json_object_object_add(row, "error", failed ? error_of(c, &first, &n_failed, text[2]) : NULL);
                json_object_array_add(rows, row);
        }
        c->document = document_new();
        json_object_object_add(c->document, "dry_run", json_object_new_boolean(c->dry_run));
        json_object_object_add(c->document, "results", rows);
        print_rows(c, rows);
        return first_restore(&first, c, n_failed);
}

static int prune_run(Context *c) {
        _cleanup_(json_object_putp) json_object *objects = NULL, *answer = NULL;
        _cleanup_free_ char *volume = NULL;
        int r = call_objects(c, NULL, &objects);
        if (r >= 0 && given_flag(c, "volume"))
                r = volume_name(c, objects, &volume);
        if (r >= 0)
                r = call_built(c, "Prune", append_rules, volume, &answer);
        return r < 0 ? r : show(c, objects, json_object_array_get_idx(answer, 0));
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
