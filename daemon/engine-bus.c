/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Manager.CreateVolume, AttachVolume, DetachVolume, RemoveVolume and ListEngine: volumes that a provider makes itself
 * (VSS_CAP_VOLUMES: the built-in engine) and the storage areas behind them. vssd keeps nothing about them; each call is
 * one question to the provider in a process of its own, two for CreateVolume, whose volume is attached at once.
 */
#include "daemon/engine-bus.h"
#include "daemon/call.h"
#include "daemon/manager-private.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include "providers/vss-provider.h"
#include <stdio.h>
#include <syslog.h>

enum {
        ITEMS_MAX = 64 * 65, /* as many volumes and stores as one engine can have */
        NAME_MAX_BYTES = 63,
};

#define ENGINE_BUDGET_USEC (60 * USEC_PER_SEC) /* a store of many gigabytes is made, or a server started */

typedef struct EngineCall {
        bool dry_run, force;
        char *reason, *name, *origin, *store, *frontend, *policy;
        uint64_t store_max;
        struct vss_wire_reply *items; /* of ListEngine; of RemoveVolume the copies there were before */
        size_t n_items, at;
} EngineCall;

static void engine_call_free(void *p) {
        EngineCall *k = p;
        free(k->reason);
        free(k->name);
        free(k->origin);
        free(k->store);
        free(k->frontend);
        free(k->policy);
        free(k->items);
        free(k);
}

/* The first provider that makes volumes, or NULL. */
static const char *engine_name(const Manager *m) {
        const ProviderEntry *p;
        LIST_FOREACH(p, &m->providers, entries)
                if (p->ready && p->capabilities & VSS_CAP_VOLUMES)
                        return p->name;
        return NULL;
}

static void ask_provider(Call *c, const char *engine, struct vss_wire_request *q, ProviderItem item,
                         ProviderDone done) {
        const EngineCall *k = c->state;
        if (!engine) {
                call_failf(c, CONDITION_NOT_SUPPORTED, "there is no provider that makes volumes");
                return;
        }
        q->flags = (k->dry_run ? VSS_CALL_READ_ONLY : 0) | (k->force ? VSS_CALL_FORCE : 0);
        int r = provider_job_new(c->manager->event, engine, q, -1, ENGINE_BUDGET_USEC, item, done, c, &c->job);
        if (r < 0)
                call_failf(c, CONDITION_PROVIDER_FAILED, "provider %s cannot be started: %s", engine,
                           provider_start_error(r));
}

static void ask(Call *c, struct vss_wire_request *q, ProviderItem item, ProviderDone done) {
        ask_provider(c, engine_name(c->manager), q, item, done);
}

static struct vss_wire_request *named(struct vss_wire_request *q, enum vss_wire_op op, const EngineCall *k) {
        *q = (struct vss_wire_request) { .op = op };
        (void) snprintf(q->name, sizeof(q->name), "%s", k->name);
        return q;
}

/* What every answer begins with; false: it was a failure, and the call is answered. */
static bool answered(Call *c, int fd, const Failure *failure) {
        (void) close_fd(fd);
        c->job = provider_job_free(c->job);
        if (failure)
                call_fail(c, failure);
        return !failure;
}

/* --- one volume --------------------------------------------------------------------------------------------------- */

static void on_attached(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        if (answered(userdata, fd, failure))
                call_reply(userdata, "s", reply->device);
}

static void attach_step(Call *c) {
        struct vss_wire_request q;
        if (((EngineCall *) c->state)->dry_run)
                call_reply(c, "s", "");
        else
                ask(c, named(&q, VSS_WIRE_VOLUME_ATTACH, c->state), NULL, on_attached);
}

static void on_created(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        if (answered(userdata, fd, failure))
                call_when_quiet(userdata, attach_step);
}

static void create_step(Call *c) {
        const EngineCall *k = c->state;
        struct vss_wire_request q;
        (void) named(&q, VSS_WIRE_VOLUME_CREATE, k);
        (void) snprintf(q.path, sizeof(q.path), "%s", k->origin);
        (void) snprintf(q.volume, sizeof(q.volume), "%s", k->store ?: "");
        (void) snprintf(q.text, sizeof(q.text), "%s", k->frontend ?: "");
        (void) snprintf(q.fs_type, sizeof(q.fs_type), "%s", k->policy ?: "");
        q.size_bytes = k->store_max;
        ask(c, &q, NULL, on_created);
}

static void on_done(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        if (answered(userdata, fd, failure))
                call_reply(userdata, "");
}

static void detach_step(Call *c) {
        struct vss_wire_request q;
        ask(c, named(&q, VSS_WIRE_VOLUME_DETACH, c->state), NULL, on_done);
}

/*
 * What goes with a volume is what its provider had before and does not have any more; the catalogue then forgets that
 * on the same way as in any deletion. A list that is not whole says so in its message, and proves nothing.
 */
static void forget_next(Call *c);

static void on_forgotten(const Failure *failure, const SetResult *results, size_t n, void *userdata) {
        Call *c = userdata;
        c->held = false;
        call_when_quiet(c, forget_next);
}

static void forget_next(Call *c) {
        EngineCall *k = c->state;
        while (k->at < k->n_items) {
                Failure f = {};
                Snapshot *s = manager_find_snapshot(c->manager, k->items[k->at++].id);
                if (!s)
                        continue;
                call_hold(c);
                if (snapshot_delete(s, true, on_forgotten, c, &f) >= 0)
                        return;
                c->held = false;
        }
        call_reply(c, "");
}

static void still_there(const struct vss_wire_reply *reply, void *userdata) {
        EngineCall *k = ((Call *) userdata)->state;
        for (size_t i = 0; i < k->n_items; i++)
                if (streq(k->items[i].id, reply->id))
                        k->items[i].id[0] = '\0';
}

static void on_listed_after(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Call *c = userdata;
        EngineCall *k = c->state;
        (void) close_fd(fd);
        c->job = provider_job_free(c->job);
        if (failure || reply->message[0])
                k->at = k->n_items;
        call_when_quiet(c, forget_next);
}

static void list_after(Call *c) {
        ask(c, &(struct vss_wire_request) { .op = VSS_WIRE_LIST }, still_there, on_listed_after);
}

static void on_volume_removed(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Call *c = userdata;
        const EngineCall *k = c->state;
        if (!answered(c, fd, failure))
                return;
        if (k->n_items > 0)
                call_when_quiet(c, list_after);
        else
                call_reply(c, "");
}

static void remove_now(Call *c) {
        struct vss_wire_request q;
        ask(c, named(&q, VSS_WIRE_VOLUME_REMOVE, c->state), NULL, on_volume_removed);
}

static void on_item(const struct vss_wire_reply *reply, void *userdata);

static void on_listed_before(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        if (answered(userdata, fd, failure))
                call_when_quiet(userdata, remove_now);
}

static void remove_step(Call *c) {
        const EngineCall *k = c->state;
        if (k->force && !k->dry_run)
                ask(c, &(struct vss_wire_request) { .op = VSS_WIRE_LIST }, on_item, on_listed_before);
        else
                remove_now(c);
}

/* --- the list ----------------------------------------------------------------------------------------------------- */

static void on_item(const struct vss_wire_reply *reply, void *userdata) {
        Call *c = userdata;
        EngineCall *k = c->state;
        if (k->n_items == ITEMS_MAX)
                return;
        struct vss_wire_reply *grown = reallocarray(k->items, k->n_items + 1, sizeof(*grown));
        if (!grown)
                return;
        k->items = grown;
        grown[k->n_items++] = *reply;
}

static int append_volume(sd_bus_message *m, const struct vss_wire_reply *v) {
        return sd_bus_message_append(m, "a{sv}", 10, "name", "s", v->name, "id", "s", v->id, "origin", "s", v->path,
                                     "device", "s", v->device, "size", "t", v->size_bytes, "attached", "b",
                                     (int) (v->attached != 0), "snapshots", "u", v->snapshots, "storage", "s",
                                     v->storage, "frontend", "s", v->frontend, "fault", "s", v->fault);
}

static int append_storage(sd_bus_message *m, const struct vss_wire_reply *s) {
        return sd_bus_message_append(m, "a{sv}", 7, "id", "s", s->name, "path", "s", s->path, "max_bytes", "t",
                                     s->max_bytes, "used_bytes", "t", s->used_bytes, "allocated_bytes", "t",
                                     s->allocated_bytes, "policy", "s", s->policy, "fault", "s", s->fault);
}

static int append_items(sd_bus_message *m, const EngineCall *k, uint32_t kind) {
        int r = sd_bus_message_open_container(m, 'a', "a{sv}");
        for (size_t i = 0; r >= 0 && i < k->n_items; i++)
                if (k->items[i].kind == kind)
                        r = kind == VSS_WIRE_IS_VOLUME ? append_volume(m, &k->items[i]) :
                                                         append_storage(m, &k->items[i]);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* Where there is something to list: the engine, and after it every other provider that has storage areas. */
static const char *storage_name(const Manager *m, size_t n) {
        const char *engine = engine_name(m);
        const ProviderEntry *p;
        if (n == 0)
                return engine;
        LIST_FOREACH(p, &m->providers, entries)
                if (p->ready && p->capabilities & VSS_CAP_STORAGE && !streq_null(p->name, engine) && --n == 0)
                        return p->name;
        return NULL;
}

static void list_step(Call *c);

static void on_listed(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Call *c = userdata;
        EngineCall *k = c->state;
        sd_bus_message *m = NULL;
        if (failure && k->at > 0) { /* what one cannot say must not hide what the others say */
                manager_log(c->manager, LOG_WARNING, NULL, "storage areas are not listed: %s", failure->message);
                c->job = provider_job_free(c->job);
                (void) close_fd(fd);
        } else if (!answered(c, fd, failure))
                return;
        if (storage_name(c->manager, ++k->at)) {
                call_when_quiet(c, list_step);
                return;
        }
        int r = sd_bus_message_new_method_return(c->message, &m);
        r = r < 0 ? r : append_items(m, c->state, VSS_WIRE_IS_VOLUME);
        r = r < 0 ? r : append_items(m, c->state, VSS_WIRE_IS_STORAGE);
        call_reply_message(c, m, r);
}

static void list_step(Call *c) {
        const EngineCall *k = c->state;
        struct vss_wire_request q = { .op = VSS_WIRE_INVENTORY };
        if (k->at > 0 || call_may_ask(c))
                ask_provider(c, storage_name(c->manager, k->at), &q, on_item, on_listed);
}

/* --- methods ------------------------------------------------------------------------------------------------------ */

static const BusOption options[] = {
        BUS_OPTIONS_COMMON(EngineCall),
        { "force", "b", offsetof(EngineCall, force), NULL },
        { "store", "s", offsetof(EngineCall, store), NULL },
        { "store_max", "t", offsetof(EngineCall, store_max), NULL },
        { "frontend", "s", offsetof(EngineCall, frontend), NULL },
        { "policy", "s", offsetof(EngineCall, policy), NULL },
};

enum { OPTIONS_COMMON = 2, OPTIONS_FORCE = 3, OPTIONS_CREATE = ELEMENTSOF(options) };

/* How many of the options above it takes; arguments: "ss" name and origin, "s" name, "" none. */
static int begin(sd_bus_message *m, Manager *manager, sd_bus_error *reterr, const char *arguments, size_t n_options,
                 CallStep first) {
        EngineCall *k = calloc(1, sizeof(*k));
        Failure f = {};
        Call *c;
        if (!k)
                return -ENOMEM;
        int r = arguments[0] ? bus_read_field(m, "s", &k->name, &f) : 0;
        if (r >= 0 && arguments[0] && arguments[1])
                r = bus_read_field(m, "s", &k->origin, &f);
        if (r >= 0)
                r = bus_read_options(m, options, n_options, k, NULL, &f);
        if (r >= 0 && k->name && (isempty(k->name) || strlen(k->name) > NAME_MAX_BYTES))
                r = failure_set(&f, CONDITION_INVALID_ARGUMENT, "the name of a volume has 1 to %d bytes",
                                NAME_MAX_BYTES);
        r = r < 0 ? bus_error_set(reterr, &f) : call_new(manager, m, reterr, &c);
        if (r < 0) {
                engine_call_free(k);
                return r;
        }
        c->state = k;
        c->state_free = engine_call_free;
        const char *const details[] = { "volume", k->name ?: "", "origin", k->origin ?: "", NULL };
        call_authorise(c, k->name ? VSS_ACTION_MANAGE_STORAGE : VSS_ACTION_INSPECT, k->name ? details : NULL, first);
        return 1;
}

int method_create_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return begin(m, userdata, reterr, "ss", OPTIONS_CREATE, create_step);
}

int method_attach_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return begin(m, userdata, reterr, "s", OPTIONS_FORCE, attach_step);
}

int method_detach_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return begin(m, userdata, reterr, "s", OPTIONS_COMMON, detach_step);
}

int method_remove_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return begin(m, userdata, reterr, "s", OPTIONS_FORCE, remove_step);
}

int method_list_engine(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return begin(m, userdata, reterr, "", OPTIONS_COMMON, list_step);
}
