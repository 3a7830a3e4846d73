/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dictionaries on both sides of a call. The session is kept as text, key by key, because that is how callbacks ask
 * for it; keys and types that this version does not know are skipped, so that vssd may tell more. The answer is put
 * together from text.
 */
#include "writers/writer-lib.h"
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>

static int basic_to_text(sd_bus_message *m, char type, char **ret) {
        union {
                const char *s;
                int b;
                uint8_t y;
                int16_t n;
                uint16_t q;
                int32_t i;
                uint32_t u;
                int64_t x;
                uint64_t t;
                double d;
        } v = {};
        int r = sd_bus_message_read_basic(m, type, &v);

        if (r < 0)
                return r;
        switch (type) {
        case 's':
        case 'o':
        case 'g':
                r = asprintf(ret, "%s", v.s);
                break;
        case 'b':
                r = asprintf(ret, "%s", v.b ? "true" : "false");
                break;
        case 'y':
                r = asprintf(ret, "%u", (unsigned) v.y);
                break;
        case 'n':
                r = asprintf(ret, "%d", (int) v.n);
                break;
        case 'q':
                r = asprintf(ret, "%u", (unsigned) v.q);
                break;
        case 'i':
                r = asprintf(ret, "%" PRId32, v.i);
                break;
        case 'u':
                r = asprintf(ret, "%" PRIu32, v.u);
                break;
        case 'x':
                r = asprintf(ret, "%" PRId64, v.x);
                break;
        case 't':
                r = asprintf(ret, "%" PRIu64, v.t);
                break;
        default:
                r = asprintf(ret, "%g", v.d);
        }
        return r < 0 ? -ENOMEM : 0;
}

/* "as" as lines, "a{ss}" as lines KEY=VALUE. */
static int list_to_text(sd_bus_message *m, bool map, char **ret) {
        _cleanup_free_ char *text = NULL;
        const char *key, *value;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        int r;

        if (!f)
                return -ENOMEM;
        r = sd_bus_message_enter_container(m, 'a', map ? "{ss}" : "s");
        for (bool first = true; r >= 0; first = false) {
                r = map ? sd_bus_message_read(m, "{ss}", &key, &value) : sd_bus_message_read_basic(m, 's', &key);
                if (r <= 0)
                        break;
                if (!first)
                        fputc_unlocked('\n', f);
                fputs_unlocked(key, f);
                if (map)
                        fprintf(f, "=%s", value);
        }
        r = r < 0 ? r : sd_bus_message_exit_container(m);
        if (fclose(f) != 0)
                return -ENOMEM;
        if (r >= 0)
                *ret = TAKE_PTR(text);
        return r < 0 ? r : 0;
}

static int read_volumes(Event *e, const char *lines) {
        _cleanup_free_ char *copy = strdup(lines);
        char *state = NULL, **grown;
        size_t n = 1;

        if (!copy)
                return -ENOMEM;
        for (const char *p = strchr(lines, '\n'); p; p = strchr(p + 1, '\n'))
                n++;
        grown = reallocarray(e->volumes, e->n_volumes + n, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        e->volumes = grown;
        for (char *line = strtok_r(copy, "\n", &state); line; line = strtok_r(NULL, "\n", &state)) {
                if (path_unescape(line, &e->volumes[e->n_volumes]) < 0)
                        return -EBADMSG;
                e->n_volumes++;
        }
        return 0;
}

/*
 * CLOCK_MONOTONIC of a time namespace is another clock. Between sending and reading a call no time runs backwards, and
 * a call does not stay a minute on its way; a larger difference means that only the duration can be trusted.
 */
static void use_duration(Event *e, uint64_t budget_usec) {
        int64_t skew = (int64_t) (e->started_usec + budget_usec - e->deadline_usec);

        if (e->deadline_usec == USEC_INFINITY || budget_usec > INT64_MAX / 4 || e->deadline_usec > INT64_MAX / 4)
                return;
        if (skew >= 0 && skew <= (int64_t) (60 * USEC_PER_SEC))
                return;
        e->deadline_usec += (uint64_t) skew;
        if (e->thaw_by_usec != USEC_INFINITY)
                e->thaw_by_usec += (uint64_t) skew;
}

static int keep(Event *e, const char *component, const char *key, const char *text) {
        if (!component && streq(key, "one_instant"))
                e->one_instant = streq(text, "true");
        if (!component && streq(key, "thaw_by_usec"))
                e->thaw_by_usec = strtoull(text, NULL, 10);
        if (component && streq(key, "succeeded"))
                e->components[e->n_components - 1].succeeded = streq(text, "true");
        if (!component && streq(key, "volumes")) {
                int r = read_volumes(e, text);
                if (r < 0)
                        return r;
        }
        return event_add(&e->session, component, key, text);
}

static int read_dictionary(Event *e, sd_bus_message *m, const char *component);

static int read_components(Event *e, sd_bus_message *m) {
        int r = sd_bus_message_enter_container(m, 'a', "(sa{sv})");

        while (r >= 0) {
                const char *path;
                EventComponent *grown;

                r = sd_bus_message_enter_container(m, 'r', "sa{sv}");
                if (r <= 0)
                        break;
                if (e->n_components >= LIMIT_COMPONENTS)
                        return -EBADMSG;
                r = sd_bus_message_read(m, "s", &path);
                if (r < 0)
                        return r;
                grown = reallocarray(e->components, e->n_components + 1, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                e->components = grown;
                grown[e->n_components] = (EventComponent) { .path = strdup(path) };
                if (!grown[e->n_components].path)
                        return -ENOMEM;
                e->n_components++;
                r = read_dictionary(e, m, path);
                r = r < 0 ? r : sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_value(Event *e, sd_bus_message *m, const char *component, const char *key) {
        _cleanup_free_ char *text = NULL;
        const char *contents;
        int r = sd_bus_message_peek_type(m, NULL, &contents);

        if (r < 0)
                return r;
        if (!component && streq(key, "components") && !streq(contents, "a(sa{sv})"))
                return -EBADMSG;
        if (!(strlen(contents) == 1 && strchr("sogbynqiuxtd", contents[0])) && !streq(contents, "as") &&
            !streq(contents, "a{ss}") && !(!component && streq(key, "components")))
                return sd_bus_message_skip(m, "v");

        r = sd_bus_message_enter_container(m, 'v', contents);
        if (r < 0)
                return r;
        if (contents[0] != 'a')
                r = basic_to_text(m, contents[0], &text);
        else if (streq(contents, "a(sa{sv})"))
                r = read_components(e, m);
        else
                r = list_to_text(m, contents[1] == '{', &text);
        if (r >= 0 && text)
                r = keep(e, component, key, text);
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_dictionary(Event *e, sd_bus_message *m, const char *component) {
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");

        while (r >= 0) {
                const char *key;

                r = sd_bus_message_enter_container(m, 'e', "sv");
                if (r <= 0)
                        break;
                r = sd_bus_message_read(m, "s", &key);
                r = r < 0 ? r : read_value(e, m, component, key);
                r = r < 0 ? r : sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

int event_read_session(Event *e, sd_bus_message *m) {
        const char *budget;
        int r = read_dictionary(e, m, NULL);

        if (r < 0)
                return r;
        budget = event_find(&e->session, NULL, "budget_usec");
        if (budget)
                use_duration(e, strtoull(budget, NULL, 10));
        return 0;
}

static int open_entry(sd_bus_message *m, const char *key, const char *type) {
        int r = sd_bus_message_open_container(m, 'e', "sv");

        r = r < 0 ? r : sd_bus_message_append(m, "s", key);
        return r < 0 ? r : sd_bus_message_open_container(m, 'v', type);
}

static int close_entry(sd_bus_message *m) {
        int r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_ranges(sd_bus_message *m, json_object *ranges) {
        int r = sd_bus_message_open_container(m, 'a', "(tt)");

        if (ranges && !json_object_is_type(ranges, json_type_array))
                return -EINVAL;
        for (size_t k = 0; r >= 0 && ranges && k < json_object_array_length(ranges); k++) {
                json_object *range = json_object_array_get_idx(ranges, k);
                if (!json_object_is_type(range, json_type_array) || json_object_array_length(range) != 2)
                        return -EINVAL;
                r = sd_bus_message_append(m, "(tt)", json_object_get_uint64(json_object_array_get_idx(range, 0)),
                                          json_object_get_uint64(json_object_array_get_idx(range, 1)));
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* [{"path":…,"ranges":[[offset,length],…]},…] as a(sa(tt)) */
static int append_partial_files(sd_bus_message *m, json_object *list) {
        int r = sd_bus_message_open_container(m, 'a', "(sa(tt))");

        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++) {
                json_object *file = json_object_array_get_idx(list, i), *path = NULL, *ranges = NULL;

                if (!json_object_object_get_ex(file, "path", &path) ||
                    !json_object_object_get_ex(file, "ranges", &ranges))
                        return -EINVAL;
                r = sd_bus_message_open_container(m, 'r', "sa(tt)");
                r = r < 0 ? r : sd_bus_message_append(m, "s", json_object_get_string(path));
                r = r < 0 ? r : append_ranges(m, ranges);
                r = r < 0 ? r : sd_bus_message_close_container(m);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* [{"root":…,"pattern":…,"recursive":…,"since":…},…] as a(ssbx) */
static int append_differenced_files(sd_bus_message *m, json_object *list) {
        int r = sd_bus_message_open_container(m, 'a', "(ssbx)");

        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++) {
                json_object *file = json_object_array_get_idx(list, i), *root = NULL, *pattern = NULL,
                            *recursive = NULL, *since = NULL;

                if (!json_object_object_get_ex(file, "root", &root) ||
                    !json_object_object_get_ex(file, "pattern", &pattern))
                        return -EINVAL;
                (void) json_object_object_get_ex(file, "recursive", &recursive);
                (void) json_object_object_get_ex(file, "since", &since);
                r = sd_bus_message_append(m, "(ssbx)", json_object_get_string(root), json_object_get_string(pattern),
                                          (int) json_object_get_boolean(recursive), json_object_get_int64(since));
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* [{"path":…,"ranges":[[offset,length],…],"to":…,"to_ranges":[…]},…] as a(sa(tt)sa(tt)) */
static int append_directed_targets(sd_bus_message *m, json_object *list) {
        int r = sd_bus_message_open_container(m, 'a', "(sa(tt)sa(tt))");

        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++) {
                json_object *file = json_object_array_get_idx(list, i), *path = NULL, *to = NULL, *ranges = NULL,
                            *to_ranges = NULL;

                if (!json_object_object_get_ex(file, "path", &path) || !json_object_object_get_ex(file, "to", &to))
                        return -EINVAL;
                (void) json_object_object_get_ex(file, "ranges", &ranges);
                (void) json_object_object_get_ex(file, "to_ranges", &to_ranges);
                r = sd_bus_message_open_container(m, 'r', "sa(tt)sa(tt)");
                r = r < 0 ? r : sd_bus_message_append(m, "s", json_object_get_string(path));
                r = r < 0 ? r : append_ranges(m, ranges);
                r = r < 0 ? r : sd_bus_message_append(m, "s", json_object_get_string(to));
                r = r < 0 ? r : append_ranges(m, to_ranges);
                r = r < 0 ? r : sd_bus_message_close_container(m);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* [{"path":…,"how":…,"text":…},…] as a(sss) */
static int append_added_files(sd_bus_message *m, json_object *list) {
        int r = sd_bus_message_open_container(m, 'a', "(sss)");

        for (size_t i = 0; r >= 0 && i < json_object_array_length(list); i++) {
                json_object *file = json_object_array_get_idx(list, i), *path = NULL, *how = NULL, *text = NULL;

                if (!json_object_object_get_ex(file, "path", &path) || !json_object_object_get_ex(file, "how", &how))
                        return -EINVAL;
                (void) json_object_object_get_ex(file, "text", &text);
                r = sd_bus_message_append(m, "(sss)", json_object_get_string(path), json_object_get_string(how),
                                          text ? json_object_get_string(text) : "");
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* Those that go as lists, with the type they have on the bus and what writes them. */
static const struct ListKey {
        const char *key, *type;
        int (*append)(sd_bus_message *m, json_object *list);
} list_keys[] = {
        { "partial_files", "a(sa(tt))", append_partial_files },
        { "differenced_files", "a(ssbx)", append_differenced_files },
        { "directed_targets", "a(sa(tt)sa(tt))", append_directed_targets },
        { "added_files", "a(sss)", append_added_files },
};

static const struct ListKey *find_list_key(const char *key) {
        for (size_t i = 0; i < ELEMENTSOF(list_keys); i++)
                if (streq(list_keys[i].key, key))
                        return &list_keys[i];
        return NULL;
}

static int append_value(sd_bus_message *m, const EventValue *v) {
        const struct ListKey *k = find_list_key(v->key);
        json_object *list;
        int r = open_entry(m, v->key, k ? k->type : "s");

        if (r < 0)
                return r;
        if (!k)
                r = sd_bus_message_append(m, "s", v->text);
        else {
                list = json_tokener_parse(v->text);
                if (!json_object_is_type(list, json_type_array))
                        r = -EINVAL;
                else
                        r = k->append(m, list);
                json_object_put(list);
        }
        return r < 0 ? r : close_entry(m);
}

static bool seen_before(const EventValues *values, size_t i) {
        for (size_t k = 0; k < i; k++)
                if (streq_null(values->v[k].component, values->v[i].component) && !streq(values->v[k].key, "target"))
                        return true;
        return false;
}

static int append_component(sd_bus_message *m, const EventValues *values, const char *component) {
        int r = sd_bus_message_open_container(m, 'r', "sa{sv}");

        r = r < 0 ? r : sd_bus_message_append(m, "s", component);
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "{sv}");
        for (size_t i = 0; r >= 0 && i < values->n; i++)
                if (streq_null(values->v[i].component, component) && !streq(values->v[i].key, "target"))
                        r = append_value(m, &values->v[i]);
        r = r < 0 ? r : sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_components(sd_bus_message *m, const EventValues *values) {
        int r = open_entry(m, "components", "a(sa{sv})");

        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "(sa{sv})");
        for (size_t i = 0; r >= 0 && i < values->n; i++)
                if (values->v[i].component && !streq(values->v[i].key, "target") && !seen_before(values, i))
                        r = append_component(m, values, values->v[i].component);
        r = r < 0 ? r : sd_bus_message_close_container(m);
        return r < 0 ? r : close_entry(m);
}

static int append_targets(sd_bus_message *m, const EventValues *values) {
        int r = open_entry(m, "targets", "a(ss)");

        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "(ss)");
        for (size_t i = 0; r >= 0 && i < values->n; i++)
                if (values->v[i].component && streq(values->v[i].key, "target"))
                        r = sd_bus_message_append(m, "(ss)", values->v[i].component, values->v[i].text);
        r = r < 0 ? r : sd_bus_message_close_container(m);
        return r < 0 ? r : close_entry(m);
}

static int append_failures(sd_bus_message *m, const EventValues *failures) {
        int r = open_entry(m, "failures", "a(sss)");

        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "(sss)");
        for (size_t i = 0; r >= 0 && i < failures->n; i++)
                r = sd_bus_message_append(m, "(sss)", failures->v[i].component, failures->v[i].key,
                                          failures->v[i].text);
        r = r < 0 ? r : sd_bus_message_close_container(m);
        return r < 0 ? r : close_entry(m);
}

int event_append_answer(Event *e, sd_bus_message *m) {
        const char *message = event_find(&e->answer, NULL, "message");
        bool components = false, targets = false;
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        for (size_t i = 0; i < e->answer.n; i++) {
                targets = targets || streq(e->answer.v[i].key, "target");
                components = components || (e->answer.v[i].component && !streq(e->answer.v[i].key, "target"));
        }
        if (r >= 0 && message)
                r = sd_bus_message_append(m, "{sv}", "message", "s", message);
        if (r >= 0 && components)
                r = append_components(m, &e->answer);
        if (r >= 0 && targets)
                r = append_targets(m, &e->answer);
        if (r >= 0 && e->failures.n > 0)
                r = append_failures(m, &e->failures);
        return r < 0 ? r : sd_bus_message_close_container(m);
}
