/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/options-bus.h"
#include "protocol/busutil.h"
#include "protocol/text.h"

typedef struct RawOptions { /* words as they came, before they are checked against the closed lists */
        SetOptions *o;
        char *backup_type, *require, *on_writer_failure, *closure, *lifetime, *session, *auto_recovery;
        uint64_t timeouts[ELEMENTSOF(((SetOptions *) NULL)->timeouts)];
        bool dry_run;
        SetOptions all;
} RawOptions;

static void raw_done(RawOptions *raw) {
        free(raw->backup_type);
        free(raw->require);
        free(raw->on_writer_failure);
        free(raw->closure);
        free(raw->lifetime);
        free(raw->session);
        free(raw->auto_recovery);
}

static int read_word(const char *key, const char *s, int (*from_string)(const char *), int *ret, Failure *reterr) {
        if (!s)
                return 0;
        int r = from_string(s);
        if (r < 0)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "option %s: %s is not one of its words", key, s);
        *ret = r;
        return 0;
}

static int read_component(sd_bus_message *m, SetComponentOption *c, Failure *reterr) {
        static const BusOption options[] = {
                { "options", "s", offsetof(SetComponentOption, options), NULL },
                { "previous_stamp", "s", offsetof(SetComponentOption, previous_stamp), NULL },
        };
        int r = bus_read_field(m, "s", &c->writer, reterr);
        if (r >= 0)
                r = bus_read_field(m, "s", &c->path, reterr);
        if (r >= 0 && !component_path_is_valid(c->path))
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT, "option components: %s is not a component path",
                                c->path);
        return r < 0 ? r : bus_read_options(m, options, ELEMENTSOF(options), c, NULL, reterr);
}

static int read_components(sd_bus_message *m, void *field, Failure *reterr) {
        RawOptions *raw = container_of(field, RawOptions, all.components);
        SetOptions *o = raw->o;
        int r = sd_bus_message_enter_container(m, 'a', "(ssa{sv})");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "ssa{sv}")) > 0) {
                if (o->n_components >= LIMIT_COMPONENTS)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "option components: more than %d",
                                           LIMIT_COMPONENTS);
                SetComponentOption *list = reallocarray(o->components, o->n_components + 1, sizeof(*list));
                if (!list)
                        return -ENOMEM;
                o->components = list;
                list[o->n_components] = (SetComponentOption) {};
                r = read_component(m, &list[o->n_components++], reterr);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

/* (writer, path, stamp) of an earlier backup. */
static int read_stamps(sd_bus_message *m, void *field, Failure *reterr) {
        SetOptions *o = container_of(field, RawOptions, all.stamps)->o;
        int r = sd_bus_message_enter_container(m, 'a', "(sss)");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "sss")) > 0) {
                if (o->n_stamps >= LIMIT_COMPONENTS)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "option previous_stamps: more than %d",
                                           LIMIT_COMPONENTS);
                SetComponentOption *list = reallocarray(o->stamps, o->n_stamps + 1, sizeof(*list));
                if (!list)
                        return -ENOMEM;
                o->stamps = list;
                SetComponentOption *stamp = &list[o->n_stamps++];
                *stamp = (SetComponentOption) {};
                r = bus_read_field(m, "s", &stamp->writer, reterr);
                if (r >= 0)
                        r = bus_read_field(m, "s", &stamp->path, reterr);
                if (r >= 0)
                        r = bus_read_field(m, "s", &stamp->previous_stamp, reterr);
                if (r >= 0 && !component_path_is_valid(stamp->path))
                        r = failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                        "option previous_stamps: %s is not a component path", stamp->path);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_timeout(const char *name, uint64_t value, RawOptions *raw, Failure *reterr) {
        uint64_t min, max;
        const char *known;
        for (size_t i = 0; i < ELEMENTSOF(raw->timeouts) && (known = budget_name(i, &min, &max)); i++)
                if (streq(known, name)) {
                        if (value < min || value > max)
                                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                                   "option timeouts: %s must lie between %llu and %llu microseconds",
                                                   name, (unsigned long long) min, (unsigned long long) max);
                        if (raw->timeouts[i] != 0)
                                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                                   "option timeouts: %s is given twice", name);
                        raw->timeouts[i] = value;
                        return 0;
                }
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "option timeouts: there is no budget %s", name);
}

static int read_timeouts(sd_bus_message *m, void *field, Failure *reterr) {
        RawOptions *raw = container_of(field, RawOptions, timeouts);
        const char *name;
        uint64_t value;
        int r = sd_bus_message_enter_container(m, 'a', "{st}");
        while (r >= 0 && (r = sd_bus_message_read(m, "{st}", &name, &value)) > 0)
                r = read_timeout(name, value, raw, reterr);
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

#define ALL(field) offsetof(RawOptions, all.field)
#define RAW(field) offsetof(RawOptions, field)
static const BusOption set_options[] = {
        { "requester", "s", ALL(requester), NULL },
        { "labels", "a{ss}", ALL(labels), NULL },
        { "provider", "s", ALL(provider), NULL },
        { "mode", "s", ALL(mode), NULL },
        { "backup_type", "s", RAW(backup_type), NULL },
        { "components", "a(ssa{sv})", ALL(components), read_components },
        { "previous_stamps", "a(sss)", ALL(stamps), read_stamps },
        { "writers", "as", ALL(writers), NULL },
        { "exclude_writers", "as", ALL(exclude_writers), NULL },
        { "require_writers", "as", ALL(require_writers), NULL },
        { "no_writers", "b", ALL(no_writers), NULL },
        { "writer_options", "as", ALL(writer_options), NULL },
        { "require", "s", RAW(require), NULL },
        { "on_writer_failure", "s", RAW(on_writer_failure), NULL },
        { "closure", "s", RAW(closure), NULL },
        { "nested", "b", ALL(nested), NULL },
        { "lifetime", "s", RAW(lifetime), NULL },
        { "session", "s", RAW(session), NULL },
        { "auto_recovery", "s", RAW(auto_recovery), NULL },
        { "freeze_units", "as", ALL(freeze_units), NULL },
        { "partial_files", "b", ALL(partial_files), NULL },
        { "bootable_state", "b", ALL(bootable_state), NULL },
        { "wait_for_turn_usec", "t", ALL(wait_for_turn_usec), NULL },
        { "timeouts", "a{st}", RAW(timeouts), read_timeouts },
        { "dry_run", "b", RAW(dry_run), NULL },
        { "reason", "s", ALL(reason), NULL },
};

static int take_words(RawOptions *raw, Failure *reterr) {
        SetOptions *o = &raw->all;
        int type = BACKUP_COPY, require = CONSISTENCY_NONE, lifetime = LIFETIME_AUTO_RELEASE, session = SESSION_BOUND;
        int r = read_word("backup_type", raw->backup_type, backup_type_from_string, &type, reterr);
        if (r >= 0)
                r = read_word("require", raw->require, consistency_from_string, &require, reterr);
        int on_failure = raw->require && require < CONSISTENCY_APPLICATION ? ON_FAILURE_DEGRADE : ON_FAILURE_ABORT;
        int recovery = RECOVERY_WRITERS;
        int closure = o->n_components > 0 || o->bootable_state ? CLOSURE_EXTEND : CLOSURE_STRICT;
        if (r >= 0)
                r = read_word("on_writer_failure", raw->on_writer_failure, on_writer_failure_from_string, &on_failure,
                              reterr);
        if (r >= 0)
                r = read_word("closure", raw->closure, closure_from_string, &closure, reterr);
        if (r >= 0)
                r = read_word("lifetime", raw->lifetime, lifetime_from_string, &lifetime, reterr);
        if (r >= 0)
                r = read_word("session", raw->session, session_kind_from_string, &session, reterr);
        if (r >= 0)
                r = read_word("auto_recovery", raw->auto_recovery, auto_recovery_from_string, &recovery, reterr);
        if (r < 0)
                return r;
        if (session == SESSION_ENDED)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "option session: ended is not one of its words");
        if (lifetime == LIFETIME_AUTO_RELEASE && session != SESSION_BOUND)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "option lifetime: auto-release needs session bound");
        o->backup_type = (BackupType) type;
        o->require = (Consistency) require;
        o->on_writer_failure = (OnWriterFailure) on_failure;
        o->closure = (Closure) closure;
        o->lifetime = (Lifetime) lifetime;
        o->session = (SessionKind) session;
        o->auto_recovery = (AutoRecovery) recovery;
        memcpy(o->timeouts, raw->timeouts, sizeof(o->timeouts));
        return 0;
}

static int check_references(const char *key, char *const *list, Failure *reterr) {
        for (; list && *list; list++) {
                _cleanup_free_ char *name = NULL, *instance = NULL;
                /* UID:NAME is how a foreign writer is listed */
                const char *digits_end = *list + strspn(*list, "0123456789");
                const char *own = digits_end > *list && *digits_end == ':' ? digits_end + 1 : *list;
                if (writer_reference_parse(own, &name, &instance) < 0)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                           "option %s: %s is not NAME or NAME@INSTANCE", key, *list);
        }
        return 0;
}

static int check_writer_options(char *const *list, Failure *reterr) {
        for (; list && *list; list++) {
                _cleanup_free_ char *reference = NULL, *key = NULL, *value = NULL;
                if (writer_option_parse(*list, &reference, &key, &value) < 0)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                           "option writer_options: %s is not WRITER:KEY=VALUE", *list);
        }
        return 0;
}

static int check_provider(Manager *m, const char *name, Failure *reterr) {
        if (!name || !name[0])
                return 0;
        if (!provider_name_is_valid(name))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "option provider: %s is not the name of a provider", name);
        if (!manager_find_provider(m, name))
                return failure_set(reterr, CONDITION_NOT_FOUND, "there is no provider %s (vssctl providers lists them)",
                                   name);
        return 0;
}

typedef struct RawVolume {
        SetVolumeOption o;
        char *require;
} RawVolume;

static int check_mode(const char *mode, Failure *reterr) {
        if (isempty(mode) || copy_mode_capability(mode) != 0)
                return 0;
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "option mode: %s is not copy, redirect or clone", mode);
}

static int read_volume(sd_bus_message *m, SetVolumeOption *ret, Failure *reterr) {
        static const BusOption options[] = {
                { "provider", "s", offsetof(RawVolume, o.provider), NULL },
                { "mode", "s", offsetof(RawVolume, o.mode), NULL },
                { "storage", "s", offsetof(RawVolume, o.storage), NULL },
                { "require", "s", offsetof(RawVolume, require), NULL },
        };
        RawVolume raw = {};
        int require = CONSISTENCY_NONE;
        int r = bus_read_field(m, "s", &raw.o.volume, reterr);
        if (r >= 0)
                r = bus_read_options(m, options, ELEMENTSOF(options), &raw, NULL, reterr);
        if (r >= 0)
                r = read_word("require", raw.require, consistency_from_string, &require, reterr);
        if (r >= 0 && isempty(raw.o.volume))
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT, "volumes: an empty name");
        if (r >= 0)
                r = check_mode(raw.o.mode, reterr);
        if (r >= 0 && !isempty(raw.o.storage))
                r = failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                "option storage: copies of %s lie where its provider keeps them; leave the option out",
                                raw.o.volume);
        raw.o.require = (Consistency) require;
        free(raw.require);
        *ret = raw.o;
        return r;
}

static int read_volumes(sd_bus_message *m, SetOptions *o, Failure *reterr) {
        int r = sd_bus_message_enter_container(m, 'a', "(sa{sv})");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "sa{sv}")) > 0) {
                if (o->n_volumes >= LIMIT_VOLUMES)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "volumes: more than %d", LIMIT_VOLUMES);
                SetVolumeOption *list = reallocarray(o->volumes, o->n_volumes + 1, sizeof(*list));
                if (!list)
                        return -ENOMEM;
                o->volumes = list;
                list[o->n_volumes] = (SetVolumeOption) {};
                r = read_volume(m, &list[o->n_volumes++], reterr);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static size_t size_of(const char *s) {
        return s ? strlen(s) : 0;
}

static size_t size_of_list(char *const *list) {
        size_t size = 0;
        for (; list && *list; list++)
                size += strlen(*list);
        return size;
}

/* The call is kept for as long as people are asked, whoever it comes from. */
static int check_size(const SetOptions *o, Failure *reterr) {
        char *const *const lists[] = { o->writers,      o->exclude_writers, o->require_writers,
                                       o->freeze_units, o->labels,          o->writer_options };
        size_t size = size_of(o->requester) + size_of(o->provider) + size_of(o->mode) + size_of(o->reason);
        for (size_t i = 0; i < ELEMENTSOF(lists); i++)
                size += size_of_list(lists[i]);
        for (size_t i = 0; i < o->n_volumes; i++)
                size += size_of(o->volumes[i].volume) + size_of(o->volumes[i].provider) +
                        size_of(o->volumes[i].storage);
        for (size_t i = 0; i < o->n_components; i++)
                size += size_of(o->components[i].writer) + size_of(o->components[i].path) +
                        size_of(o->components[i].options) + size_of(o->components[i].previous_stamp);
        for (size_t i = 0; i < o->n_stamps; i++)
                size += size_of(o->stamps[i].writer) + size_of(o->stamps[i].path) +
                        size_of(o->stamps[i].previous_stamp);
        if (size <= LIMIT_OPTIONS_BYTES)
                return 0;
        return failure_set(reterr, CONDITION_LIMIT_REACHED, "options: their texts have more than %d bytes",
                           LIMIT_OPTIONS_BYTES);
}

/* Syntax first, then what is unknown (DESIGN.md section 4, order of checks). */
static int check_options(Manager *m, const SetOptions *o, Failure *reterr) {
        int r = check_size(o, reterr);
        if (r >= 0)
                r = check_references("writers", o->writers, reterr);
        if (r >= 0)
                r = check_references("exclude_writers", o->exclude_writers, reterr);
        if (r >= 0)
                r = check_references("require_writers", o->require_writers, reterr);
        if (r >= 0)
                r = check_writer_options(o->writer_options, reterr);
        if (r >= 0 && o->n_volumes == 0 && o->n_components == 0 && !o->bootable_state)
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                "volumes: neither a volume nor a component is named, nor bootable_state");
        if (r >= 0)
                r = check_mode(o->mode, reterr);
        if (r >= 0)
                r = check_provider(m, o->provider, reterr);
        for (size_t i = 0; r >= 0 && i < o->n_volumes; i++)
                r = check_provider(m, o->volumes[i].provider, reterr);
        return r;
}

int set_options_read(Manager *manager, sd_bus_message *m, SetOptions *ret, bool *ret_dry_run, Failure *reterr) {
        RawOptions raw = { .all.wait_for_turn_usec = 60 * USEC_PER_SEC };
        raw.o = &raw.all;
        int r = read_volumes(m, &raw.all, reterr);
        if (r >= 0)
                r = bus_read_options(m, set_options, ELEMENTSOF(set_options), &raw, NULL, reterr);
        if (r >= 0)
                r = take_words(&raw, reterr);
        if (r >= 0)
                r = check_options(manager, &raw.all, reterr);
        *ret = raw.all;
        *ret_dry_run = raw.dry_run;
        raw_done(&raw);
        if (r < 0 && reterr->condition == CONDITION_NONE)
                (void) failure_set(reterr, CONDITION_INVALID_ARGUMENT, "the arguments cannot be read: %s",
                                   strerror(-r));
        return r;
}
