/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/adopt.h"
#include "daemon/manager-private.h"
#include "daemon/recover.h"
#include "daemon/revert.h"
#include "protocol/text.h"
#include "providers/directory.h"
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
        free(p->reverting);
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

static void resume_reverts(ProviderRecovery *p) {
        for (size_t i = 0; i < p->n_reverting; i++)
                revert_resume(p->manager, p->entry->name, p->reverting[i].id, p->reverting[i].set,
                              p->reverting[i].volume[0] ? p->reverting[i].volume : "an unknown volume");
}

static void abort_next(ProviderRecovery *p) {
        struct vss_wire_request request = { .op = VSS_WIRE_ABORT };
        if (!p->pending || !p->pending[p->at]) {
                adopt_copies(p->manager, p->entry->name, p->found, p->n_found, NULL);
                resume_reverts(p);
                finish(p);
                return;
        }
        (void) snprintf(request.set, sizeof(request.set), "%s", p->pending[p->at]);
        start_job(p, &request, ABORT_BUDGET_USEC, NULL, on_aborted);
}

static void keep(struct vss_wire_reply **list, size_t *n, const struct vss_wire_reply *item) {
        struct vss_wire_reply *grown = *n < FOUND_MAX ? reallocarray(*list, *n + 1, sizeof(*grown)) : NULL;
        if (!grown)
                return;
        *list = grown;
        grown[(*n)++] = *item;
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
        if (item->reverting)
                keep(&p->reverting, &p->n_reverting, item);
        if (!item->gone && !manager_find_snapshot(p->manager, item->id))
                keep(&p->found, &p->n_found, item);
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
