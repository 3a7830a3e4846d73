/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Manager.RegisterWriter and UnregisterWriter, and org.vssd.Vss1.WriterEntry. */
#include "daemon/writer-bus.h"
#include "daemon/call.h"
#include "daemon/manager-private.h"
#include "daemon/results-bus.h"
#include "daemon/writer-register.h"
#include "protocol/busutil.h"
#include "protocol/metadata.h"
#include "protocol/text.h"

enum { WRITER_API = 1 };

static void registration_free(void *p) {
        Registration *g = p;
        free(g->name);
        free(g->instance);
        free(g->object);
        free(g->version);
        free(g->reason);
        free(g);
}

typedef struct RegistrationWords {
        char *level, *usage, *source, **events;
        Registration *target;
} RegistrationWords;

static int word(const char *key, const char *s, int (*from_string)(const char *), int fallback, Failure *reterr) {
        int r = s ? from_string(s) : fallback;
        return r >= 0 ?
                       r :
                       failure_set(reterr, CONDITION_INVALID_ARGUMENT, "option %s: %s is not one of its words", key, s);
}

static int take_words(const RegistrationWords *words, Registration *g, Failure *reterr) {
        int level = word("level", words->level, level_from_string, LEVEL_FRONT_END, reterr);
        int usage = level < 0 ? level : word("usage", words->usage, usage_from_string, USAGE_OTHER, reterr);
        int source = usage < 0 ? usage : word("source", words->source, source_from_string, SOURCE_OTHER, reterr);
        if (source < 0)
                return source;
        g->level = (Level) level;
        g->usage = (Usage) usage;
        g->source = (Source) source;
        g->events = words->events ? 0 : (1u << _WRITER_EVENT_MAX) - 1;
        for (char **e = words->events; e && *e; e++) {
                int event = word("events", *e, writer_event_from_string, 0, reterr);
                if (event < 0)
                        return event;
                g->events |= 1u << event;
        }
        return 0;
}

static int check_registration(const Registration *g, Failure *reterr) {
        if (!writer_name_is_valid(g->name))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "name: a writer name is [a-z][a-z0-9-]{0,62}");
        if (!writer_instance_is_valid(g->instance))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "instance: an instance is [A-Za-z0-9._+-]{0,127}");
        if (g->freeze_timeout_usec < BUDGET_MIN_FREEZE_USEC)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "option freeze_timeout_usec: at least 3 s are needed");
        if (g->api != WRITER_API)
                return failure_set(reterr, CONDITION_NOT_SUPPORTED, "option api: this vssd speaks version %d only",
                                   WRITER_API);
        return 0;
}

static int read_options(sd_bus_message *m, Registration *g, Failure *reterr) {
        struct All {
                RegistrationWords words;
                Registration g;
        } all = { .g = *g };
        static const BusOption options[] = {
                { "level", "s", offsetof(struct All, words.level), NULL },
                { "usage", "s", offsetof(struct All, words.usage), NULL },
                { "source", "s", offsetof(struct All, words.source), NULL },
                { "events", "as", offsetof(struct All, words.events), NULL },
                { "version", "s", offsetof(struct All, g.version), NULL },
                { "freeze_timeout_usec", "t", offsetof(struct All, g.freeze_timeout_usec), NULL },
                { "api", "u", offsetof(struct All, g.api), NULL },
                { "dry_run", "b", offsetof(struct All, g.dry_run), NULL },
                { "reason", "s", offsetof(struct All, g.reason), NULL },
        };
        int r = bus_read_options(m, options, ELEMENTSOF(options), &all, NULL, reterr);
        *g = all.g;
        if (r >= 0)
                r = take_words(&all.words, g, reterr);
        free(all.words.level);
        free(all.words.usage);
        free(all.words.source);
        strings_free(all.words.events);
        return r;
}

static int read_registration(sd_bus_message *m, Registration *g, Failure *reterr) {
        const char *object;
        int r = bus_read_field(m, "s", &g->name, reterr);
        if (r >= 0)
                r = bus_read_field(m, "s", &g->instance, reterr);
        if (r >= 0)
                r = sd_bus_message_read(m, "o", &object);
        if (r >= 0) {
                g->object = strdup(object);
                r = g->object ? 0 : -ENOMEM;
        }
        if (r >= 0)
                r = read_options(m, g, reterr);
        return r < 0 ? r : check_registration(g, reterr);
}

static void register_step(Call *c) {
        Registration *g = c->state;
        Failure f = {};
        Writer *w;
        int lease = -EBADF;
        if (g->dry_run) {
                call_failf(c, CONDITION_NOT_SUPPORTED,
                           "dry_run: there is nothing to return; the arguments and rights are in order");
                return;
        }
        if (writer_register(c->manager, g, &c->caller, sd_bus_message_get_sender(c->message), &f, &w, &lease) < 0)
                call_fail(c, &f);
        else
                call_reply(c, "oh", w->path, lease);
        (void) close_fd(lease);
}

int method_register_writer(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Failure f = {};
        Call *c;
        Registration *g = calloc(1, sizeof(*g));
        if (!g)
                return -ENOMEM;
        g->freeze_timeout_usec = BUDGET_FREEZE_USEC;
        g->api = WRITER_API;
        int r = read_registration(m, g, &f);
        if (r >= 0)
                r = call_new(userdata, m, reterr, &c);
        else if (f.condition != CONDITION_NONE)
                r = bus_error_set(reterr, &f);
        if (r < 0) {
                registration_free(g);
                return r;
        }
        c->state = g;
        c->state_free = registration_free;
        call_authorise(c, VSS_ACTION_REGISTER_WRITER,
                       (const char *const[]) { "writer", g->name, "instance", g->instance, NULL }, register_step);
        return 1;
}

static Writer *find_by_path(Manager *m, const char *path) {
        Writer *w;
        LIST_FOREACH(w, &m->writers, entries)
                if (streq(w->path, path))
                        return w;
        return NULL;
}

int method_unregister_writer(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Registration o = {}; /* only its common options */
        static const BusOption options[] = { BUS_OPTIONS_COMMON(Registration) };
        Failure f = {};
        const char *path;
        int r = sd_bus_message_read(m, "o", &path);
        if (r >= 0)
                r = bus_read_options(m, options, ELEMENTSOF(options), &o, NULL, &f);
        free(o.reason);
        if (r < 0)
                return f.condition != CONDITION_NONE ? bus_error_set(reterr, &f) : r;
        Writer *w = find_by_path(userdata, path);
        if (!w || w->lost)
                return bus_error_setf(reterr, CONDITION_NOT_FOUND, "no writer is registered at %s", path);
        if (!streq_null(w->bus_name, sd_bus_message_get_sender(m)))
                return bus_error_setf(reterr, CONDITION_NOT_AUTHORIZED,
                                      "writer %s was registered by another connection", w->reference);
        if (!o.dry_run)
                writer_unregister(w);
        return sd_bus_reply_method_return(m, "");
}

typedef struct MetadataCall {
        bool refresh;
        char *reference, *id;
} MetadataCall;

static void metadata_call_free(void *p) {
        MetadataCall *o = p;
        free(o->reference);
        free(o->id);
        free(o);
}

static void on_identified(Writer *w, Outcome outcome, const Failure *failure, sd_bus_message *reply, void *userdata) {
        Call *c = userdata;
        Failure f = {};
        c->writer_call = NULL;
        if (outcome != OUTCOME_OK)
                f = *failure;
        else
                (void) writer_take_metadata(w, reply, &f);
        if (f.condition != CONDITION_NONE)
                call_fail(c, &f);
        else
                call_reply(c, "s", w->metadata_text ? w->metadata_text : "");
}

static void metadata_step(Call *c) {
        const MetadataCall *o = c->state;
        sd_bus_message *m = NULL;
        Writer *w = manager_find_writer(c->manager, o->reference);
        if (!w || !streq(w->id, o->id)) {
                call_failf(c, CONDITION_NOT_FOUND, "writer %s is gone", o->reference);
                return;
        }
        if (w->metadata_text && (!o->refresh || w->kind == WRITER_KIND_DECLARATIVE)) {
                call_reply(c, "s", w->metadata_text);
                return;
        }
        if (w->lost) {
                call_failf(c, CONDITION_WRITER_LOST, "writer %s left the bus", w->reference);
                return;
        }
        if (!call_may_ask(c))
                return;
        uint64_t deadline = usec_add(now_usec(), c->manager->settings.budgets.identify);
        int r = writer_call_message(w, EVENT_IDENTIFY, "", deadline, &m);
        if (r >= 0)
                r = sd_bus_message_append(m, "a{sv}", 1, "schema_max", "u", (uint32_t) 1);
        if (r >= 0)
                r = writer_call(w, EVENT_IDENTIFY, "", m, deadline, on_identified, c, &c->writer_call);
        (void) sd_bus_message_unref(m);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "writer %s cannot be asked: %s", w->reference, strerror(-r));
}

int method_get_metadata(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        static const BusOption options[] = { { "refresh", "b", offsetof(MetadataCall, refresh), NULL } };
        Writer *w = userdata;
        Failure f = {};
        Call *c;
        MetadataCall *o = calloc(1, sizeof(*o));
        if (!o)
                return -ENOMEM;
        o->reference = strdup(w->reference);
        o->id = strdup(w->id);
        int r = o->reference && o->id ? bus_read_options(m, options, ELEMENTSOF(options), o, NULL, &f) : -ENOMEM;
        if (r >= 0)
                r = call_new(w->manager, m, reterr, &c);
        else if (f.condition != CONDITION_NONE)
                r = bus_error_set(reterr, &f);
        if (r < 0) {
                metadata_call_free(o);
                return r;
        }
        c->state = o;
        c->state_free = metadata_call_free;
        call_authorise(c, VSS_ACTION_INSPECT, (const char *const[]) { "writer", w->reference, NULL }, metadata_step);
        return 1;
}
