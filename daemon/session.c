/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a writer is told with each event (session a{sv}) and what its answer carries back. Readers on both sides ignore
 * unknown keys; what is known must have the right type.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include "protocol/busutil.h"
#include "protocol/text.h"

static const char *member(char *const *list, size_t i) {
        return list && list[i] ? list[i] : "";
}

/* BackupComplete: logs may go only where succeeded says so, up to the point that the writer's own words tell it. */
static int append_component(const Set *s, const SetWriter *w, size_t i, sd_bus_message *m) {
        const char *path = w->components[i], *stamp = set_previous_stamp(s, w, path);
        const SetComponentOption *o = set_component_option(s, w, path);

        if (w->succeeded)
                return sd_bus_message_append(m, "(sa{sv})", path, 3, "succeeded", "b", w->succeeded[i] == 1, "stamp",
                                             "s", member(w->stamps, i), "metadata", "s",
                                             member(w->private_metadata, i));
        return sd_bus_message_append(m, "(sa{sv})", path, 2, "options", "s", o && o->options ? o->options : "",
                                     "previous_stamp", "s", stamp ? stamp : "");
}

static int append_components(const Set *s, const SetWriter *w, sd_bus_message *m) {
        int r;

        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", "components");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "a(sa{sv})");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(sa{sv})");
        for (char **c = w->components; r >= 0 && c && *c; c++)
                r = append_component(s, w, (size_t) (c - w->components), m);
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

static int append_volumes(const Set *s, sd_bus_message *m, bool copies) {
        const Snapshot *snapshot;
        int r;

        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", copies ? "copies" : "volumes");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', copies ? "a{ss}" : "as");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', copies ? "{ss}" : "s");
        LIST_FOREACH(snapshot, &s->snapshots, entries)
                if (r >= 0) /* only OpenCopy reaches the copy: it is in nobody's mount namespace yet */
                        r = copies ? sd_bus_message_append(m, "{ss}", snapshot->name, "") :
                                     sd_bus_message_append_basic(m, 's', snapshot->name);
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

static bool has_options(const Set *s, const SetWriter *w) {
        for (char **o = s->options.writer_options; o && *o; o++)
                if (set_writer_option(w, *o))
                        return true;
        return false;
}

/* What the requester has to say to this writer alone. */
static int append_options(const Set *s, const SetWriter *w, sd_bus_message *m) {
        int r;

        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", "options");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "a{ss}");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "{ss}");
        for (char **o = s->options.writer_options; r >= 0 && o && *o; o++) {
                const char *text = set_writer_option(w, *o), *equals = text ? strchr(text, '=') : NULL;
                _cleanup_free_ char *key = equals ? strndup(text, (size_t) (equals - text)) : NULL;
                if (key)
                        r = sd_bus_message_append(m, "{ss}", key, equals + 1);
        }
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

static int append_entry(sd_bus_message *m, const char *key, const char *type, const void *value) {
        int r;

        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", key);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', type);
        if (r >= 0)
                r = sd_bus_message_append_basic(m, type[0], value);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int session_append(const Set *s, const SetWriter *w, WriterEvent e, uint64_t deadline_usec, uint64_t thaw_by_usec,
                   const char *reason, sd_bus_message *m) {
        uint64_t now = now_usec(), budget = deadline_usec == USEC_INFINITY ? USEC_INFINITY :
                                            deadline_usec > now            ? deadline_usec - now :
                                                                             0;
        int component_mode = s->options.n_components > 0, partial = s->options.partial_files,
            bootable = s->options.bootable_state;
        int one_instant = w->whole, resumed = s->loaded || w->resumed;
        bool needs_volumes = e != EVENT_ABORT && e != EVENT_BACKUP_SHUTDOWN;
        int r;

        r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0)
                r = append_entry(m, "budget_usec", "t", &budget);
        if (r >= 0)
                r = append_entry(m, "backup_type", "s", backup_type_to_string(w->type));
        if (r >= 0)
                r = append_entry(m, "component_mode", "b", &component_mode);
        if (r >= 0)
                r = append_entry(m, "partial_files", "b", &partial);
        if (r >= 0)
                r = append_entry(m, "bootable_state", "b", &bootable);
        if (r >= 0)
                r = append_entry(m, "one_instant", "b", &one_instant);
        if (r >= 0 && e == EVENT_FREEZE)
                r = append_entry(m, "thaw_by_usec", "t", &thaw_by_usec);
        if (r >= 0 && e == EVENT_FREEZE)
                r = append_entry(m, "level", "s", level_to_string(w->level));
        if (r >= 0 && e == EVENT_BACKUP_COMPLETE)
                r = append_entry(m, "resumed", "b", &resumed);
        if (r >= 0 && reason)
                r = append_entry(m, "reason", "s", reason);
        if (r >= 0 && needs_volumes && has_options(s, w))
                r = append_options(s, w, m);
        if (r >= 0 && needs_volumes)
                r = append_components(s, w, m);
        if (r >= 0 && needs_volumes)
                r = append_volumes(s, m, false);
        if (r >= 0 && e == EVENT_POST_SNAPSHOT)
                r = append_volumes(s, m, true);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* The event counts as done, but what it was done for is not at rest in full: no volume of the writer is called
 * application. */
static int add_failure(SetWriter *w, WriterEvent e, const char *path, const char *name, const char *message) {
        _cleanup_free_ char *line = NULL;
        char words[LIMIT_MESSAGE_BYTES];
        Condition c = condition_of_writer(condition_from_name(name));

        (void) snprintf(words, sizeof words, "%.300s", message);
        text_clean(words); /* no line break of a writer's own */
        if (!w->partial.condition)
                (void) failure_set(&w->partial, c, "component \"%.100s\" failed at %s: %s", path,
                                   writer_event_to_string(e), words);
        if (asprintf(&line, "%s\n%s\n%s\n%s", path, writer_event_to_string(e), condition_name(c), words) < 0)
                return -ENOMEM;
        return strings_append(&w->failures, line);
}

static int read_failures(SetWriter *w, WriterEvent e, sd_bus_message *m) {
        const char *path, *name, *message;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "(sss)");
        while (r >= 0 && (r = sd_bus_message_read(m, "(sss)", &path, &name, &message)) > 0) {
                if (!component_path_is_valid(path))
                        return -EBADMSG;
                if (w->failures && strings_count(w->failures) >= LIMIT_LIST)
                        return -E2BIG;
                r = add_failure(w, e, path, name, message);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

/* A stamp that was cut would be one that the writer never gave: rather none of its answer than a part of it. */
static int keep(char ***list, size_t n, size_t index, const char *text, size_t max) {
        char *copy;

        if (strnlen(text, max + 1) > max)
                return -EMSGSIZE;
        if (!*list) {
                *list = calloc(n + 1, sizeof **list);
                for (size_t i = 0; *list && i < n; i++)
                        (*list)[i] = strdup("");
        }
        copy = *list ? strdup(text) : NULL;
        if (!copy)
                return -ENOMEM;
        free((*list)[index]);
        (*list)[index] = copy;
        return 0;
}

static int read_text(char ***list, size_t n, size_t index, sd_bus_message *m) {
        const char *text;
        int r = sd_bus_message_read(m, "v", "s", &text);

        return r < 0 ? r : keep(list, n, index, text, LIMIT_STRING_BYTES);
}

static int read_files(SetWriter *w, char ***list, size_t n, size_t index, bool partial, sd_bus_message *m) {
        _cleanup_free_ char *text = NULL;
        int r = session_read_files(w, partial, m, &text);

        return r < 0 ? r : keep(list, n, index, text, LIMIT_METADATA_BYTES);
}

static const struct ComponentKey {
        const char *key, *type;
        size_t list; /* offset in SetWriter */
} component_keys[] = {
        { "stamp", "s", offsetof(SetWriter, stamps) },
        { "metadata", "s", offsetof(SetWriter, private_metadata) },
        { "partial_files", "a(sa(tt))", offsetof(SetWriter, partial_files) },
        { "differenced_files", "a(ssbx)", offsetof(SetWriter, differenced_files) },
};

static int read_component_entry(SetWriter *w, size_t n, size_t index, sd_bus_message *m) {
        const char *key, *contents;
        int r = sd_bus_message_read(m, "s", &key);

        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(component_keys); i++) {
                const struct ComponentKey *k = &component_keys[i];
                char ***list = (char ***) ((char *) w + k->list);
                if (!streq(key, k->key))
                        continue;
                r = sd_bus_message_peek_type(m, NULL, &contents);
                if (r < 0 || !streq(contents, k->type))
                        return r < 0 ? r : -EBADMSG;
                return streq(k->type, "s") ? read_text(list, n, index, m) :
                                             read_files(w, list, n, index, streq(key, "partial_files"), m);
        }
        return r < 0 ? r : sd_bus_message_skip(m, "v");
}

static int read_component(SetWriter *w, sd_bus_message *m) {
        size_t n = w->components ? strings_count(w->components) : 0, index = 0;
        const char *path;
        int r;

        r = sd_bus_message_read(m, "s", &path);
        while (r >= 0 && index < n && !streq(w->components[index], path))
                index++;
        if (r >= 0)
                r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                /* of a component that is not of this set nothing is kept */
                r = index < n ? read_component_entry(w, n, index, m) : sd_bus_message_skip(m, "sv");
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_components(SetWriter *w, sd_bus_message *m) {
        unsigned n = 0;
        int r;

        r = sd_bus_message_enter_container(m, 'a', "(sa{sv})");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "sa{sv}")) > 0) {
                if (n++ >= LIMIT_COMPONENTS)
                        return -E2BIG;
                r = read_component(w, m);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_entry(SetWriter *w, WriterEvent e, sd_bus_message *m) {
        const char *key, *contents, *type;
        int r;

        r = sd_bus_message_read(m, "s", &key);
        if (r < 0)
                return r;
        type = streq(key, "failures") ? "a(sss)" : streq(key, "components") ? "a(sa{sv})" : NULL;
        if (!type)
                return sd_bus_message_skip(m, "v");
        r = sd_bus_message_peek_type(m, NULL, &contents);
        if (r < 0 || !streq(contents, type))
                return r < 0 ? r : -EBADMSG;
        r = sd_bus_message_enter_container(m, 'v', type);
        if (r >= 0)
                r = streq(key, "failures") ? read_failures(w, e, m) : read_components(w, m);
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

int session_read_reply(SetWriter *w, WriterEvent e, sd_bus_message *reply, Failure *reterr) {
        int r;

        if (!reply)
                return 0;
        r = sd_bus_message_enter_container(reply, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(reply, 'e', "sv")) > 0) {
                r = read_entry(w, e, reply);
                if (r >= 0)
                        r = sd_bus_message_exit_container(reply);
        }
        if (r < 0)
                return failure_set(reterr, CONDITION_VETOED,
                                   "writer %s: its answer is not of the form a{sv} that vss-bus(5) asks for",
                                   w->reference);
        return 0;
}
