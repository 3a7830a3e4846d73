/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The options of CreateSet and Plan: text from programs and command lines, types on the bus, one table between them.
 */
#include "client/requester.h"

typedef enum OptionType {
        OPTION_STRING,
        OPTION_BOOL,
        OPTION_USEC,
        OPTION_LIST,
        OPTION_MAP,
        OPTION_USEC_MAP
} OptionType;

static const struct {
        const char *key;
        OptionType type;
} option_table[] = {
        { "auto_recovery", OPTION_STRING }, { "backup_type", OPTION_STRING },   { "bootable_state", OPTION_BOOL },
        { "closure", OPTION_STRING },       { "exclude_writers", OPTION_LIST }, { "freeze_units", OPTION_LIST },
        { "labels", OPTION_MAP },           { "lifetime", OPTION_STRING },      { "nested", OPTION_BOOL },
        { "mode", OPTION_STRING },          { "no_writers", OPTION_BOOL },      { "on_writer_failure", OPTION_STRING },
        { "partial_files", OPTION_BOOL },   { "provider", OPTION_STRING },      { "reason", OPTION_STRING },
        { "requester", OPTION_STRING },     { "require", OPTION_STRING },       { "require_writers", OPTION_LIST },
        { "session", OPTION_STRING },       { "timeouts", OPTION_USEC_MAP },    { "wait_for_turn_usec", OPTION_USEC },
        { "writer_options", OPTION_LIST },  { "writers", OPTION_LIST },
};

static int option_find(const char *key) {
        for (size_t i = 0; i < ELEMENTSOF(option_table); i++)
                if (streq(option_table[i].key, key))
                        return (int) i;
        return -EINVAL;
}

static int parse_bool(const char *value) {
        if (streq(value, "true") || streq(value, "yes") || streq(value, "1"))
                return 1;
        return streq(value, "false") || streq(value, "no") || streq(value, "0") ? 0 : -EINVAL;
}

static int parse_usec(const char *value, uint64_t *ret) {
        char *end = NULL;
        if (value[0] < '0' || value[0] > '9')
                return -EINVAL;
        errno = 0;
        unsigned long long n = strtoull(value, &end, 10);
        if (errno != 0 || *end)
                return -EINVAL;
        *ret = n;
        return 0;
}

int set_option_check(const char *key, const char *value) {
        uint64_t usec;
        int i = option_find(key);
        if (i < 0 || !value || strlen(value) > LIMIT_STRING_BYTES)
                return -EINVAL;
        const char *equals = strchr(value, '=');
        switch (option_table[i].type) {
        case OPTION_BOOL:
                return parse_bool(value) < 0 ? -EINVAL : 0;
        case OPTION_USEC:
                return parse_usec(value, &usec);
        case OPTION_MAP:
                return equals && equals != value ? 0 : -EINVAL;
        case OPTION_USEC_MAP:
                return equals && equals != value ? parse_usec(equals + 1, &usec) : -EINVAL;
        case OPTION_STRING:
        case OPTION_LIST:
                return 0;
        }
        return -EINVAL;
}

/* The last one given counts for what is not a list. */
const char *set_option_last(const struct vss_set *s, const char *key) {
        for (size_t i = s->n_options; i > 0; i--)
                if (streq(s->options[i - 1].key, key))
                        return s->options[i - 1].value;
        return NULL;
}

static int append_list(const struct vss_set *s, sd_bus_message *m, const char *key) {
        int r = sd_bus_message_open_container(m, 'v', "as");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "s");
        for (size_t i = 0; r >= 0 && i < s->n_options; i++)
                if (streq(s->options[i].key, key))
                        r = sd_bus_message_append(m, "s", s->options[i].value);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_map_entry(sd_bus_message *m, const char *entry, bool usec) {
        const char *equals = strchr(entry, '=');
        assert(equals); /* set_option_check() */
        _cleanup_free_ char *key = strndup(entry, (size_t) (equals - entry));
        uint64_t value = 0;
        if (!key)
                return -ENOMEM;
        if (!usec)
                return sd_bus_message_append(m, "{ss}", key, equals + 1);
        (void) parse_usec(equals + 1, &value);
        return sd_bus_message_append(m, "{st}", key, value);
}

static int append_map(const struct vss_set *s, sd_bus_message *m, const char *key, bool usec) {
        int r = sd_bus_message_open_container(m, 'v', usec ? "a{st}" : "a{ss}");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', usec ? "{st}" : "{ss}");
        for (size_t i = 0; r >= 0 && i < s->n_options; i++)
                if (streq(s->options[i].key, key))
                        r = append_map_entry(m, s->options[i].value, usec);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_value(const struct vss_set *s, sd_bus_message *m, const char *key, OptionType type,
                        const char *value) {
        uint64_t usec = 0;
        switch (type) {
        case OPTION_STRING:
                return sd_bus_message_append(m, "v", "s", value);
        case OPTION_BOOL:
                return sd_bus_message_append(m, "v", "b", parse_bool(value) > 0);
        case OPTION_USEC:
                (void) parse_usec(value, &usec);
                return sd_bus_message_append(m, "v", "t", usec);
        case OPTION_LIST:
                return append_list(s, m, key);
        case OPTION_MAP:
        case OPTION_USEC_MAP:
                return append_map(s, m, key, type == OPTION_USEC_MAP);
        }
        return -EINVAL;
}

static int append_option(const struct vss_set *s, sd_bus_message *m, const char *key, OptionType type,
                         const char *value) {
        int r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
                r = sd_bus_message_append(m, "s", key);
        if (r >= 0)
                r = append_value(s, m, key, type, value);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_components(const struct vss_set *s, sd_bus_message *m) {
        int r = sd_bus_message_append(m, "s", "components");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "a(ssa{sv})");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(ssa{sv})");
        for (size_t i = 0; r >= 0 && i < s->n_components; i++) {
                const SetPart *c = &s->components[i];
                r = c->options ?
                            sd_bus_message_append(m, "(ssa{sv})", c->writer, c->path, 1, "options", "s", c->options) :
                            sd_bus_message_append(m, "(ssa{sv})", c->writer, c->path, 0);
        }
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_stamps(const struct vss_set *s, sd_bus_message *m) {
        int r = sd_bus_message_append(m, "s", "previous_stamps");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', "a(sss)");
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "(sss)");
        for (size_t i = 0; r >= 0 && i < s->n_stamps; i++)
                r = sd_bus_message_append(m, "(sss)", s->stamps[i].writer, s->stamps[i].path, s->stamps[i].options);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_volumes(const struct vss_set *s, sd_bus_message *m) {
        int r = sd_bus_message_open_container(m, 'a', "(sa{sv})");
        for (size_t i = 0; r >= 0 && i < s->n_volumes; i++) {
                const SetText *v = &s->volumes[i];
                r = v->value ? sd_bus_message_append(m, "(sa{sv})", v->key, 1, "provider", "s", v->value) :
                               sd_bus_message_append(m, "(sa{sv})", v->key, 0);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* (volumes a(sa{sv}), options a{sv}); each key once. */
int set_append_arguments(struct vss_set *s, sd_bus_message *m) {
        int r = append_volumes(s, m);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0 && !set_option_last(s, "requester"))
                r = sd_bus_message_append(m, "{sv}", "requester", "s", s->requester->name);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(option_table); i++) {
                const char *value = set_option_last(s, option_table[i].key);
                if (value)
                        r = append_option(s, m, option_table[i].key, option_table[i].type, value);
        }
        if (r >= 0 && s->n_components > 0) {
                r = sd_bus_message_open_container(m, 'e', "sv");
                if (r >= 0)
                        r = append_components(s, m);
                if (r >= 0)
                        r = sd_bus_message_close_container(m);
        }
        if (r >= 0 && s->n_stamps > 0) {
                r = sd_bus_message_open_container(m, 'e', "sv");
                if (r >= 0)
                        r = append_stamps(s, m);
                if (r >= 0)
                        r = sd_bus_message_close_container(m);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}
