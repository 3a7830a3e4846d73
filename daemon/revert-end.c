/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* After a revert: what is there is what counts, not what was to be. */
#include "daemon/adopt.h"
#include "daemon/revert.h"
#include "protocol/busutil.h"
#include <stdio.h>
#include <syslog.h>

static int answer(const Revert *r, sd_bus_message *call) {
        sd_bus_message *m = NULL;
        const Failure *f = &r->failure;
        int k = sd_bus_message_new_method_return(call, &m);
        if (k >= 0)
                k = sd_bus_message_open_container(m, 'a', "{sv}");
        if (k >= 0 && f->condition != CONDITION_NONE)
                k = sd_bus_message_append(m, "{sv}{sv}{sv}", "error_name", "s", condition_name(f->condition),
                                          "error_message", "s", f->message, "retryable", "b", (int) f->retryable);
        if (k >= 0)
                k = sd_bus_message_append(m, "{sv}{sv}", "safety_snapshot", "s", r->kept ? r->safety : "", "warning",
                                          "s", r->warning);
        if (k >= 0)
                k = sd_bus_message_close_container(m);
        if (k >= 0)
                k = sd_bus_send(NULL, m, NULL);
        (void) sd_bus_message_unref(m);
        return k;
}

int revert_wait(Revert *r, sd_bus_message *m, Failure *reterr) {
        if (r->over) {
                int k = answer(r, m);
                return k < 0 ? failure_set(reterr, CONDITION_FAILED, "cannot answer: %s", strerror(-k)) : 1;
        }
        if (r->n_waiters == LIMIT_WAITERS)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "%d callers wait for %s already", LIMIT_WAITERS,
                                   r->volume);
        r->waiters[r->n_waiters++] = sd_bus_message_ref(m);
        return 0;
}

/* Results are kept for a while: who began one asks for its end only afterwards. */
static void forget_old(Manager *m) {
        Revert *r, *following;
        unsigned n = 0;
        for (r = LIST_FIRST(&m->reverts); r; r = following) {
                following = LIST_NEXT(r, entries);
                if (r->over && n++ >= LIMIT_REVERTS_KEPT)
                        revert_free(r);
        }
}

void revert_over(Revert *r) {
        Manager *m = r->manager;
        bool failed = r->failure.condition != CONDITION_NONE;
        r->over = true;
        r->changed = m->changes = true;
        if (failed)
                manager_log(m, LOG_ERR, r->set, "%s is not reverted to snapshot %s: %s", r->volume, r->snapshot,
                            r->failure.message);
        else
                manager_log(m, LOG_NOTICE, r->set, "%s is reverted to snapshot %s%s%s", r->volume, r->snapshot,
                            r->kept ? "; what was there before is snapshot " : "", r->kept ? r->safety : "");
        if (r->warning[0])
                manager_log(m, LOG_WARNING, r->set, "%s", r->warning);
        for (unsigned i = 0; i < r->n_waiters; i++) {
                (void) answer(r, r->waiters[i]);
                (void) sd_bus_message_unref(r->waiters[i]);
        }
        r->n_waiters = 0;
        manager_idle(m);
        forget_old(m);
}

static void forget_next(Revert *r);

static void on_forgotten(const Failure *failure, const SetResult *results, size_t n, void *userdata) {
        Revert *r = userdata;
        if (failure)
                manager_log(r->manager, LOG_WARNING, r->set, "a snapshot that is gone is still listed: %s",
                            failure->message);
        revert_step(r, forget_next);
}

/* On the same way as in any deletion: its writers are told, its record says what became of it. */
static void forget_next(Revert *r) {
        while (r->at < r->n_lost) {
                const RevertLost *l = &r->lost[r->at++];
                Snapshot *s = l->there ? NULL : manager_find_snapshot(r->manager, l->id);
                Failure f = {};
                if (!s)
                        continue;
                manager_snapshot_dropped(r->manager, s, "revert");
                if (snapshot_delete(s, true, on_forgotten, r, &f) >= 0)
                        return;
                manager_log(r->manager, LOG_WARNING, r->set, "snapshot %s is gone, but still listed: %s", l->id,
                            f.message);
        }
        revert_over(r);
}

static void on_item(const struct vss_wire_reply *item, void *userdata) {
        Revert *r = userdata;
        r->faulted |= item->reverting && streq(item->id, r->snapshot);
        for (size_t i = 0; i < r->n_lost; i++)
                if (!item->gone && streq(r->lost[i].id, item->id)) {
                        Snapshot *s = manager_find_snapshot(r->manager, item->id);
                        r->lost[i].there = true;
                        if (s && item->damaged && !s->damaged) {
                                s->damaged = true;
                                manager_snapshot_changed(r->manager, s);
                        }
                }
        if (r->safety[0] && streq(item->id, r->safety) && !r->kept && (r->kept = malloc(sizeof(*r->kept))))
                *r->kept = *item;
}

static void on_listed(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Revert *r = userdata;
        char label[VSS_ID_LENGTH + 32];
        (void) close_fd(fd);
        r->job = provider_job_free(r->job);
        (void) snprintf(label, sizeof(label), "before-revert-to=%s", r->snapshot);
        if (r->kept)
                adopt_copies(r->manager, r->provider, r->kept, 1, label);
        r->listed = true;
        if (failure || reply->message[0]) { /* a list that is not whole proves nothing */
                r->at = r->n_lost;
                r->faulted = true;
        }
        r->faulted &= r->failure.condition != CONDITION_NONE;
        revert_step(r, forget_next);
}

void revert_list(Revert *r) {
        revert_ask(r, VSS_WIRE_LIST, 0, r->manager->settings.budgets.provider, on_item, on_listed);
}
