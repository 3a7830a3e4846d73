/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/strays.h"
#include "daemon/manager.h"
#include <stdio.h>
#include <sys/epoll.h>

#define RETRY_FIRST_USEC (2 * USEC_PER_SEC)
#define RETRY_MAX_USEC (300 * USEC_PER_SEC)

struct Stray {
        LIST_ENTRY(Stray) entries;
        Manager *manager;
        char set[VSS_ID_LENGTH + 1];
        char *provider;
        int pidfd; /* readable: the process is gone */
        uint64_t superblocks[LIMIT_VOLUMES];
        unsigned n_superblocks;
        char (*copies)[VSS_ID_LENGTH + 1]; /* to be removed one by one after the abort, from the last */
        unsigned n_copies, left;
        uint64_t retry_usec;
        char reason[LIMIT_MESSAGE_BYTES]; /* why it could not, as it was logged */
        sd_event_source *exit, *timer;
        ProviderJob *job;
};

static void stray_free(Stray *s) {
        LIST_REMOVE(s, entries);
        sd_event_source_disable_unref(s->exit);
        sd_event_source_disable_unref(s->timer);
        provider_job_free(s->job);
        (void) close_fd(s->pidfd);
        free(s->provider);
        free(s->copies);
        manager_idle(s->manager);
        free(s);
}

static void stray_retry(Stray *s);

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        stray_retry(userdata);
        return 0;
}

static void retry_later(Stray *s) {
        s->timer = sd_event_source_disable_unref(s->timer);
        if (sd_event_add_time(s->manager->event, &s->timer, CLOCK_MONOTONIC, now_usec() + s->retry_usec, USEC_PER_SEC,
                              on_retry, s) < 0)
                stray_free(s); /* the next start of vssd looks again */
        else
                s->retry_usec = MIN_OF(2 * s->retry_usec, RETRY_MAX_USEC);
}

/* Once for each reason: it may be the same for days. */
static void log_reason(Stray *s, const char *reason) {
        if (streq(s->reason, reason))
                return;
        (void) snprintf(s->reason, sizeof s->reason, "%s", reason);
        manager_log(s->manager, 4, s->set, "copies still cannot be cleaned up: %s; tried again in %u s", reason,
                    (unsigned) (s->retry_usec / USEC_PER_SEC));
}

static void stray_ask(Stray *s);

static void on_answer(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Stray *s = userdata;

        (void) close_fd(fd);
        s->job = provider_job_free(s->job);
        if (failure && failure->condition != CONDITION_NOT_FOUND) {
                log_reason(s, failure->message);
                retry_later(s);
                return;
        }
        if (s->left > 0) {
                s->left--;
                stray_ask(s);
                return;
        }
        manager_log(s->manager, 6, s->set, "provider %s has cleaned up after all", s->provider);
        stray_free(s);
}

/* The abort first, then what it does not find any more. */
static void stray_ask(Stray *s) {
        _cleanup_free_ struct vss_wire_request *q = calloc(1, sizeof *q);

        if (q) {
                q->op = s->left == s->n_copies ? VSS_WIRE_ABORT : VSS_WIRE_REMOVE;
                memcpy(q->set, s->set, sizeof q->set);
                if (q->op == VSS_WIRE_REMOVE)
                        memcpy(q->snapshot, s->copies[s->left], sizeof q->snapshot);
        }
        if (!q || provider_job_new(s->manager->event, s->provider, q, -1, s->manager->settings.budgets.provider, NULL,
                                   on_answer, s, &s->job) < 0)
                retry_later(s);
}

static void stray_retry(Stray *s) {
        s->timer = sd_event_source_disable_unref(s->timer);
        s->left = s->n_copies;
        stray_ask(s);
}

static int on_gone(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        Stray *s = userdata;

        s->exit = sd_event_source_disable_unref(s->exit);
        s->pidfd = close_fd(s->pidfd);
        stray_retry(s);
        return 0;
}

/* Without memory for it, the next start of vssd takes the copies in again and people see them. */
static void note_copies(Stray *s, const Set *set, uint64_t volumes) {
        const Snapshot *copy;
        unsigned i = 0;

        s->copies = calloc(set->n_snapshots + 1, sizeof *s->copies);
        LIST_FOREACH(copy, &set->snapshots, entries)
                if (s->copies && volumes & (1ULL << i++))
                        memcpy(s->copies[s->n_copies++], copy->id, sizeof *s->copies);
}

void strays_add(Manager *m, const Set *set, const char *provider, uint64_t volumes, int pidfd, bool cleared) {
        Stray *s = calloc(1, sizeof *s);
        int r;

        if (!s || !(s->provider = strdup(provider))) {
                free(s);
                (void) close_fd(pidfd);
                return;
        }
        s->manager = m;
        s->pidfd = pidfd;
        s->retry_usec = RETRY_FIRST_USEC;
        memcpy(s->set, set->id, sizeof s->set);
        for (size_t i = 0; i < set->n_volumes && i < LIMIT_VOLUMES; i++)
                if (volumes & (1ULL << i))
                        s->superblocks[s->n_superblocks++] = set->volumes[i]->superblock;
        if (cleared)
                note_copies(s, set, volumes);
        LIST_INSERT_HEAD(&m->strays, s, entries);
        manager_busy(m);
        manager_log(m, 4, s->set, "provider %s %s; its copies are removed when it can be", s->provider,
                    pidfd >= 0 ? "does not end: it is stuck in the kernel" : "could not clean up");
        r = pidfd >= 0 ? sd_event_add_io(m->event, &s->exit, pidfd, EPOLLIN, on_gone, s) : -EBADF;
        if (r < 0)
                retry_later(s);
}

int strays_check(Manager *m, const Volume *v, Failure *reterr) {
        const Stray *s;

        LIST_FOREACH(s, &m->strays, entries)
                for (unsigned i = 0; s->pidfd >= 0 && i < s->n_superblocks; i++)
                        if (s->superblocks[i] == v->superblock)
                                return failure_set(
                                        reterr, CONDITION_BUSY,
                                        "%s: provider %s of set %s is still stuck in the kernel on this file system",
                                        v->name, s->provider, s->set);
        return 0;
}

void strays_free(Manager *m) {
        while (!LIST_EMPTY(&m->strays))
                stray_free(LIST_FIRST(&m->strays));
}
