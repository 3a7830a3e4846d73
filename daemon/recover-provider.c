/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/manager-private.h"
#include "daemon/recover.h"
#include "protocol/text.h"
#include "providers/directory.h"
#include <json-c/json.h>
#include <stdio.h>
#include <syslog.h>

/* Together below the 25 s that dbus-daemon gives a service to start. */
#define LOAD_BUDGET_USEC (5 * USEC_PER_SEC)
#define LIST_BUDGET_USEC (6 * USEC_PER_SEC)
#define ABORT_BUDGET_USEC (6 * USEC_PER_SEC)
enum { FOUND_MAX = LIMIT_SETS };

static void abort_next(ProviderRecovery *p);

int provider_recovery_new(Manager *m, Recovery *r, const char *name, ProviderRecovery **ret) {
        ProviderRecovery *p = calloc(1, sizeof(*p));
        ProviderEntry *e = calloc(1, sizeof(*e));
        bool builtin = provider_is_builtin(name);
        if (p && e && (e->name = strdup(name)) && (e->kind = strdup(builtin ? "built-in" : "loadable")) &&
            (builtin || asprintf(&e->file, "%s/%s.so", provider_directory(), name) >= 0)) {
                *p = (ProviderRecovery) { .manager = m, .recovery = r, .entry = e };
                LIST_INSERT_HEAD(&m->providers, e, entries);
                *ret = p;
                return 0;
        }
        if (e) {
                free(e->name);
                free(e->kind);
        }
        free(e);
        free(p);
        return -ENOMEM;
}

void provider_recovery_free(ProviderRecovery *p) {
        LIST_REMOVE(p, entries);
        provider_job_free(p->job);
        free(p->found);
        strings_free(p->pending);
        free(p);
}

static void finish(ProviderRecovery *p) {
        p->job = provider_job_free(p->job);
        recovery_provider_done(p->recovery);
}

static void complain(ProviderRecovery *p, const char *what, const Failure *f) {
        p->entry->last_error = *f;
        manager_log(p->manager, LOG_WARNING, NULL, "provider %s %s: %s", p->entry->name, what, f->message);
}

static void start_job(ProviderRecovery *p, struct vss_wire_request *request, uint64_t budget_usec, ProviderItem item,
                      ProviderDone done) {
        Failure f = {};
        int r = provider_job_new(p->manager->event, p->entry->name, request, -1, budget_usec, item, done, p, &p->job);
        if (r >= 0)
                return;
        (void) failure_set(&f, CONDITION_PROVIDER_FAILED, "%s", provider_start_error(r));
        complain(p, "cannot be started", &f);
        finish(p);
}

static json_object *text(const char *s) {
        return json_object_new_string(s);
}

/* A record as vssd itself would have written it, as far as the copy says anything about its set. */
static json_object *describe(const ProviderRecovery *p, const struct vss_wire_reply *item) {
        char started[40];
        json_object *o = json_object_new_object(), *record = json_object_new_object(),
                    *private = json_object_new_object(), *snapshots = json_object_new_array(),
                    *writers = json_object_new_array();
        (void) format_timestamp(item->created_at, started, sizeof(started));
        json_object_object_add(record, "schema", json_object_new_int(1));
        json_object_object_add(record, "kind", text("set-record"));
        json_object_object_add(record, "set", text(item->set));
        json_object_object_add(record, "state", text("completed"));
        json_object_object_add(record, "consistency", text("crash"));
        json_object_object_add(record, "started", text(started));
        json_object_object_add(record, "writers", writers);
        json_object_object_add(private, "session", text("ended"));
        json_object_object_add(private, "created_at_usec", json_object_new_uint64(item->created_at));
        json_object_object_add(private, "completed_at_usec", json_object_new_uint64(item->created_at));
        for (size_t i = 0; i < p->n_found; i++) {
                const struct vss_wire_reply *f = p->found + i;
                if (!streq(f->set, item->set))
                        continue;
                json_object *s = json_object_new_object();
                json_object_object_add(s, "id", text(f->id));
                json_object_object_add(s, "volume", text(f->volume));
                json_object_object_add(s, "name", text(f->volume));
                json_object_object_add(s, "provider", text(p->entry->name));
                json_object_object_add(s, "device", f->device[0] ? text(f->device) : NULL);
                json_object_object_add(s, "path", f->path[0] ? text(f->path) : NULL);
                json_object_object_add(s, "token", f->token[0] ? text(f->token) : NULL);
                json_object_object_add(s, "size", json_object_new_uint64(f->size_bytes));
                json_object_array_add(snapshots, s);
        }
        json_object_object_add(private, "snapshots", snapshots);
        json_object_object_add(o, "record", record);
        json_object_object_add(o, "private", private);
        return o;
}

static void take_in(ProviderRecovery *p) {
        for (size_t i = 0; i < p->n_found; i++) {
                const struct vss_wire_reply *item = p->found + i;
                if (manager_find_snapshot(p->manager, item->id))
                        continue; /* with an earlier one of the same set */
                /* known without this copy: vssd ended between the last mark and the record, or another provider has the
                 * rest */
                Set *s = manager_find_set(p->manager, item->set);
                json_object *o = describe(p, item);
                int r = s ? set_take_in(s, o) :
                            set_load(p->manager, item->set, json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
                                     &s);
                (void) json_object_put(o);
                if (r < 0) {
                        manager_log(p->manager, LOG_WARNING, NULL, "copy %s of provider %s cannot be taken in: %s",
                                    item->id, p->entry->name, strerror(-r));
                        continue;
                }
                manager_log(p->manager, LOG_NOTICE, s->id,
                            "%s: the catalogue did not know this copy of provider %s, it is taken in again",
                            item->volume, p->entry->name);
                set_store(s);
        }
}

static void on_aborted(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        ProviderRecovery *p = userdata;
        const Set *s = manager_find_set(p->manager, p->pending[p->at]);
        (void) close_fd(fd);
        p->job = provider_job_free(p->job);
        if (failure)
                complain(p, "could not remove uncommitted copies", failure);
        if (failure && s) /* a process of the vssd before may still be inside the kernel; not of another vssd's sets */
                strays_add(p->manager, s, p->entry->name, 0, -EBADF, false);
        else if (!failure)
                manager_log(p->manager, LOG_NOTICE, NULL, "uncommitted copies of set %s by provider %s are removed",
                            p->pending[p->at], p->entry->name);
        p->at++;
        abort_next(p);
}

static void abort_next(ProviderRecovery *p) {
        struct vss_wire_request request = { .op = VSS_WIRE_ABORT };
        if (!p->pending || !p->pending[p->at]) {
                take_in(p);
                finish(p);
                return;
        }
        (void) snprintf(request.set, sizeof(request.set), "%s", p->pending[p->at]);
        start_job(p, &request, ABORT_BUDGET_USEC, NULL, on_aborted);
}

static void on_item(const struct vss_wire_reply *item, void *userdata) {
        ProviderRecovery *p = userdata;
        if (!id_is_valid(item->set) || !id_is_valid(item->id))
                return;
        if (item->pending) {
                if (!strings_contain(p->pending, item->set))
                        (void) strings_append(&p->pending, item->set);
                return;
        }
        if (manager_find_snapshot(p->manager, item->id) || p->n_found >= FOUND_MAX)
                return;
        struct vss_wire_reply *list = reallocarray(p->found, p->n_found + 1, sizeof(*list));
        if (!list)
                return;
        p->found = list;
        list[p->n_found++] = *item;
}

static void on_listed(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        ProviderRecovery *p = userdata;
        (void) close_fd(fd);
        p->job = provider_job_free(p->job);
        if (failure)
                complain(p, "could not list its copies", failure);
        abort_next(p);
}

static void on_described(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        ProviderRecovery *p = userdata;
        struct vss_wire_request request = { .op = VSS_WIRE_LIST };
        (void) close_fd(fd);
        if (failure) {
                complain(p, "cannot be loaded", failure);
                finish(p);
                return;
        }
        p->entry->capabilities = reply->capabilities;
        p->entry->priority = reply->priority;
        p->entry->version = strdup(reply->text);
        p->entry->ready = true;
        p->job = provider_job_free(p->job);
        start_job(p, &request, LIST_BUDGET_USEC, on_item, on_listed);
}

void provider_recovery_start(ProviderRecovery *p) {
        struct vss_wire_request request = { .op = VSS_WIRE_LOAD };
        start_job(p, &request, LOAD_BUDGET_USEC, NULL, on_described);
}
