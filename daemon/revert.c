/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/revert.h"
#include "daemon/manager-private.h"
#include "daemon/volumes.h"
#include "daemon/writer-register.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include "providers/vss-provider.h"
#include <stdio.h>
#include <syslog.h>

#define STEP_PROGRESS 0.01

Revert *revert_free(Revert *r) {
        if (!r)
                return NULL;
        if (!r->over && r->begun)
                manager_idle(r->manager);
        provider_job_free(r->job);
        if (r->announced && !r->manager->stopping && !volumes_find(r->manager->volumes, r->path))
                (void) manager_object_removed(r->manager, VSS_IFACE_VOLUME, r->path);
        for (unsigned i = 0; i < r->n_waiters; i++)
                (void) sd_bus_message_unref(r->waiters[i]);
        if (r->entries.le_prev)
                LIST_REMOVE(r, entries);
        free(r->kept);
        free(r->request);
        free(r->provider);
        free(r->volume);
        free(r->path);
        free(r);
        return NULL;
}

void reverts_free(Manager *m) {
        while (!LIST_EMPTY(&m->reverts))
                revert_free(LIST_FIRST(&m->reverts));
}

Revert *reverts_find(Manager *m, const char *path) {
        Revert *r;
        LIST_FOREACH(r, &m->reverts, entries) /* newest first */
                if (r->begun && streq(r->path, path))
                        return r;
        return NULL;
}

bool reverts_are_at(const Manager *m, const char *snapshot) {
        const Revert *r;
        LIST_FOREACH(r, &m->reverts, entries)
                if (r->begun && !r->listed && streq(r->snapshot, snapshot))
                        return true;
        return false;
}

int reverts_paths(const Manager *m, char ***list) {
        const Revert *r;
        int k = 0;
        LIST_FOREACH(r, &m->reverts, entries)
                if (k >= 0 && r->begun && !strings_contain(*list, r->path))
                        k = strings_append(list, r->path);
        return k;
}

/* Once it tells how far it is, the volume is there and the rest comes about without us. */
bool reverts_may_stop(const Manager *m) {
        const Revert *r;
        LIST_FOREACH(r, &m->reverts, entries)
                if (r->begun && !r->over && r->progress < 0)
                        return false;
        return true;
}

void revert_step(Revert *r, RevertStep next) {
        r->next = next;
        if (!r->manager->window)
                reverts_go_on(r->manager);
}

void reverts_go_on(Manager *m) {
        Revert *r = LIST_FIRST(&m->reverts);
        while (r && !m->window) {
                RevertStep next = r->next;
                if (!next) {
                        r = LIST_NEXT(r, entries);
                        continue;
                }
                r->next = NULL;
                next(r);
                r = LIST_FIRST(&m->reverts); /* a step may have freed any of them */
        }
}

void reverts_emit(Manager *m) {
        Revert *r;
        LIST_FOREACH(r, &m->reverts, entries) {
                if (!r->announced && r->begun && !volumes_find(m->volumes, r->path))
                        r->announced = sd_bus_emit_object_added(m->bus, r->path) >= 0;
                else if (r->changed)
                        (void) sd_bus_emit_properties_changed(m->bus, r->path, VSS_IFACE_VOLUME, "Operation",
                                                              "Progress", "State", "LastError", NULL);
                r->changed = false;
        }
}

static void mark_changed(Revert *r) {
        r->changed = r->manager->changes = true;
}

void revert_ask(Revert *r, uint32_t op, uint32_t flags, uint64_t budget_usec, ProviderItem item, ProviderDone done) {
        Failure f = {};
        *r->request = (struct vss_wire_request) { .op = op, .flags = flags | (r->force ? VSS_CALL_FORCE : 0) };
        if (op == VSS_WIRE_REVERT) {
                memcpy(r->request->snapshot, r->snapshot, sizeof(r->snapshot));
                memcpy(r->request->set, r->safety_set, sizeof(r->safety_set));
                memcpy(r->request->safety, r->safety, sizeof(r->safety));
        }
        int k = provider_job_new(r->manager->event, r->provider, r->request, -1, budget_usec, item, done, r, &r->job);
        if (k >= 0)
                return;
        (void) failure_set(&f, CONDITION_PROVIDER_LOST, "provider %s cannot be started: %s", r->provider, strerror(-k));
        done(NULL, -EBADF, &f, r);
}

/* --- it is begun -------------------------------------------------------------------------------------------------- */

static void on_progress(const struct vss_wire_reply *item, void *userdata) {
        Revert *r = userdata;
        double now = (double) item->progress / VSS_WIRE_PROGRESS_MAX;
        if (item->kind != VSS_WIRE_IS_PROGRESS || (r->progress >= 0 && now < r->progress + STEP_PROGRESS))
                return;
        r->progress = now;
        mark_changed(r);
}

static void on_resumed(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Revert *r = userdata;
        bool known = r->failure.condition != CONDITION_NONE; /* why it had to be resumed */
        (void) close_fd(fd);
        r->job = provider_job_free(r->job);
        if (!failure)
                r->failure = (Failure) {};
        else if (known && (failure->condition == CONDITION_CANCELLED || failure->condition == CONDITION_NOT_FOUND)) {
                char text[LIMIT_MESSAGE_BYTES];
                (void) snprintf(text, sizeof(text), "%s", r->failure.message);
                (void) failure_set(&r->failure, r->failure.condition, "%.440s; nothing has been changed", text);
        } else
                r->failure = *failure;
        revert_step(r, revert_list);
}

static void resume(Revert *r) {
        r->resuming = true;
        revert_ask(r, VSS_WIRE_REVERT, VSS_CALL_RESUME, REVERT_BUDGET_USEC, on_progress, on_resumed);
}

static void on_reverted(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Revert *r = userdata;
        (void) close_fd(fd);
        r->job = provider_job_free(r->job);
        if (failure)
                r->failure = *failure;
        else if (reply->message[0])
                (void) snprintf(r->warning, sizeof(r->warning), "%s", reply->message);
        revert_step(r, failure && failure->condition == CONDITION_PROVIDER_LOST ? resume : revert_list);
}

static void begin(Revert *r) {
        revert_ask(r, VSS_WIRE_REVERT, 0, REVERT_BUDGET_USEC, on_progress, on_reverted);
}

static void set_begun(Revert *r) {
        r->begun = true;
        manager_busy(r->manager);
        mark_changed(r);
}

/* --- may it? ------------------------------------------------------------------------------------------------------ */

static void on_lost(const struct vss_wire_reply *item, void *userdata) {
        Revert *r = userdata;
        if (item->kind != VSS_WIRE_IS_LOST || r->n_lost == LIMIT_REVERT_LOST)
                return;
        memcpy(r->lost[r->n_lost].id, item->id, sizeof(item->id));
        r->n_lost++;
}

static int check_lost(Revert *r) {
        unsigned others = 0;
        for (size_t i = 0; i < r->n_lost; i++) {
                const Snapshot *s = manager_find_snapshot(r->manager, r->lost[i].id);
                if (s && s->pinned)
                        return failure_set(&r->failure, CONDITION_PINNED,
                                           "snapshot %s is pinned and would be used up: unpin it or use --force",
                                           s->id);
                others += !streq(r->lost[i].id, r->snapshot);
        }
        if (others > 0)
                return failure_set(&r->failure, CONDITION_VETOED,
                                   "%u other snapshots of %s have no room for what changes and would be lost "
                                   "(--dry-run lists them): give them room, or use --force",
                                   others, r->volume);
        return 0;
}

static void on_checked(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Revert *r = userdata;
        (void) close_fd(fd);
        r->job = provider_job_free(r->job);
        if (failure)
                r->failure = *failure;
        else {
                (void) snprintf(r->warning, sizeof(r->warning), "%s", reply->message);
                if (!r->force && !r->dry_run)
                        (void) check_lost(r);
        }
        bool go = r->failure.condition == CONDITION_NONE && !r->dry_run;
        if (go)
                set_begun(r);
        r->ready(r, r->userdata);
        if (go)
                revert_step(r, begin);
}

static void check(Revert *r) {
        revert_ask(r, VSS_WIRE_REVERT, VSS_CALL_READ_ONLY, r->manager->settings.budgets.provider, on_lost, on_checked);
}

void revert_start(Revert *r, void (*ready)(Revert *r, void *userdata), void *userdata) {
        r->ready = ready;
        r->userdata = userdata;
        revert_step(r, check);
}

static int check_snapshot(const Snapshot *s, Failure *reterr) {
        const Manager *m = s->set->manager;
        const ProviderEntry *p = manager_find_provider(s->set->manager, s->provider);
        const Revert *r;
        unsigned n = 0;
        if (!p || !(p->capabilities & VSS_CAP_REVERT))
                return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                   "provider %s cannot revert a volume to a copy: copy back what you need from a mount "
                                   "of it (vssctl mount %s)",
                                   s->provider, s->id);
        if (s->damaged || !s->name)
                return failure_set(reterr, CONDITION_DAMAGED, "snapshot %s is damaged", s->id);
        if (s->set->verb || (s->set->state != SET_CREATED && s->set->state != SET_COMPLETED))
                return failure_set(reterr, CONDITION_BUSY, "set %s is %s: try again when that is over", s->set->id,
                                   s->set->verb ? "being worked on" : set_state_to_string(s->set->state));
        if (s->mounts && s->mounts[0])
                return failure_set(reterr, CONDITION_BUSY, "snapshot %s is mounted at %s: vssctl umount %s", s->id,
                                   s->mounts[0], s->id);
        LIST_FOREACH(r, &m->reverts, entries) {
                n += !r->over;
                if (!r->over && (streq(r->volume, s->name) || streq(r->snapshot, s->id)))
                        return failure_set(reterr, CONDITION_BUSY, "%s is being reverted to snapshot %s already",
                                           r->volume, r->snapshot);
        }
        return n >= LIMIT_REVERTS ? failure_set(reterr, CONDITION_LIMIT_REACHED,
                                                "%d volumes are being reverted already", LIMIT_REVERTS) :
                                    0;
}

static Revert *revert_make(Manager *m, const char *provider, const char *snapshot, const char *set,
                           const char *volume) {
        Revert *r = calloc(1, sizeof(*r));
        if (!r)
                return NULL;
        r->manager = m;
        r->progress = -1;
        r->provider = strdup(provider);
        r->volume = strdup(volume);
        r->request = calloc(1, sizeof(*r->request));
        (void) snprintf(r->snapshot, sizeof(r->snapshot), "%s", snapshot);
        (void) snprintf(r->set, sizeof(r->set), "%s", set);
        if (!r->provider || !r->volume || !r->request || bus_path_encode(VSS_PATH_VOLUMES, volume, &r->path) < 0)
                return revert_free(r);
        LIST_INSERT_HEAD(&m->reverts, r, entries);
        return r;
}

int revert_new(Snapshot *s, bool force, bool safety, bool dry_run, Failure *reterr, Revert **ret) {
        int k = check_snapshot(s, reterr);
        if (k < 0)
                return k;
        Revert *r = revert_make(s->set->manager, s->provider, s->id, s->set->id, s->name);
        if (!r || (safety && (id_new(r->safety) < 0 || id_new(r->safety_set) < 0))) {
                revert_free(r);
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        }
        r->force = force;
        r->dry_run = dry_run;
        *ret = r;
        return 0;
}

void revert_resume(Manager *m, const char *provider, const char *snapshot, const char *set, const char *volume) {
        const Snapshot *s = manager_find_snapshot(m, snapshot);
        Revert *r = revert_make(m, provider, snapshot, set, s ? s->name : volume);
        if (!r)
                return;
        memcpy(r->lost[0].id, r->snapshot, sizeof(r->snapshot));
        r->n_lost = 1;
        manager_log(m, LOG_NOTICE, set, "a revert of %s to snapshot %s was cut off: it is looked after now", r->volume,
                    snapshot);
        set_begun(r);
        revert_step(r, resume);
}
