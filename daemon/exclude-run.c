/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copy by copy: the provider makes it reachable, vss-mount turns that into a detached mount, vss-exclude removes what
 * has to go and lets go of it before the next. Each of the three is a process of its own, none is started while another
 * set has its window open, and all of it together has one deadline. An error concerns one copy; the others go on.
 */
#include "daemon/exclude.h"
#include "daemon/conductor.h"
#include "daemon/exclude-wire.h"
#include "daemon/expose.h"
#include "daemon/manager-private.h"
#include "daemon/mounts.h"
#include "providers/vss-provider.h"
#include <stdio.h>

#define QUIET_INTERVAL_USEC (20 * USEC_PER_MSEC) /* until another set's window is closed */

struct ExcludeRun {
        Set *set;
        ExcludeDone done;
        void *userdata;
        unsigned volume; /* whose copy it is */
        size_t entry;    /* being removed */
        uint64_t deadline_usec;
        ProviderJob *job;
        MountJob *mount;
        struct MounterRequest q;
        int copy; /* the device, or the directory that was opened */
        Child child;
        sd_event_source *io, *timer, *next;
};

static void next_volume(ExcludeRun *r);

static void unstage(ExcludeRun *r) {
        struct MounterRequest q = { .op = MOUNTER_UNMOUNT, .flags = MOUNTER_LAZY | MOUNTER_OURS };
        if (!r->q.staged[0])
                return;
        (void) snprintf(q.path, sizeof(q.path), "%s", r->q.staged);
        r->q.staged[0] = '\0';
        (void) mount_job_new(r->set->manager, &q, -1, NULL, NULL, NULL);
}

static void volume_done(ExcludeRun *r) {
        r->job = provider_job_free(r->job);
        r->mount = mount_job_free(r->mount);
        r->io = sd_event_source_disable_unref(r->io);
        if (r->child.pid > 0)
                child_kill(&r->child);
        child_done(&r->child);
        r->child = CHILD_NULL;
        r->copy = close_fd(r->copy);
        unstage(r);
}

ExcludeRun *exclude_run_free(ExcludeRun *r) {
        if (!r)
                return NULL;
        volume_done(r);
        sd_event_source_disable_unref(r->timer);
        sd_event_source_disable_unref(r->next);
        free(r);
        return NULL;
}

static void give_up(ExcludeRun *r, const char *reason) {
        for (size_t i = 0; i < r->set->exclusions->n; i++) {
                SetExclusion *x = &r->set->exclusions->items[i];
                if (x->volume == r->volume && !x->error && i >= r->entry)
                        x->error = strdup(reason);
        }
        volume_done(r);
        r->volume++;
        next_volume(r);
}

/* The next one of this copy from the current on; false: none. */
static bool find_entry(ExcludeRun *r) {
        for (; r->entry < r->set->exclusions->n; r->entry++)
                if (r->set->exclusions->items[r->entry].volume == r->volume &&
                    !r->set->exclusions->items[r->entry].error)
                        return true;
        return false;
}

static void send_entry(ExcludeRun *r) {
        struct ExcludeRequest q = { .op = EXCLUDE_END };
        if (find_entry(r)) {
                const SetExclusion *x = &r->set->exclusions->items[r->entry];
                q.op = EXCLUDE_REMOVE;
                q.recursive = x->recursive;
                if (snprintf(q.root, sizeof(q.root), "%s", x->below) >= (int) sizeof(q.root) ||
                    snprintf(q.pattern, sizeof(q.pattern), "%s", x->pattern) >= (int) sizeof(q.pattern)) {
                        give_up(r, "the name is too long");
                        return;
                }
        }
        int k = child_send(r->child.socket, &q, sizeof(q), r->copy);
        r->copy = close_fd(r->copy); /* with the first request */
        if (k < 0)
                give_up(r, "vss-exclude is gone");
}

static void take_reply(ExcludeRun *r, struct ExcludeReply *reply) {
        SetExclusion *x = &r->set->exclusions->items[r->entry++];
        reply->message[sizeof(reply->message) - 1] = '\0';
        x->removed = reply->removed;
        x->failed = reply->failed;
        x->bytes = reply->bytes;
        if (reply->failed > 0)
                x->error = strdup(reply->message);
}

static int on_reply(sd_event_source *source, int socket, uint32_t events, void *userdata) {
        ExcludeRun *r = userdata;
        struct ExcludeReply reply;
        int k = child_receive(socket, &reply, sizeof(reply), NULL);
        if (k == 0)
                return 0;
        if (k < 0)
                give_up(r, "vss-exclude ended without an answer");
        else if (r->entry < r->set->exclusions->n) {
                take_reply(r, &reply);
                send_entry(r);
        } else { /* of END: nothing of the copy is open any more */
                volume_done(r);
                r->volume++;
                next_volume(r);
        }
        return 0;
}

static void on_opened(const struct MounterReply *reply, int fd, const Failure *failure, void *userdata) {
        ExcludeRun *r = userdata;
        char path[LIMIT_PATH_BYTES];
        r->mount = mount_job_free(r->mount);
        if (failure) {
                give_up(r, failure->message);
                return;
        }
        r->q.staged[0] = '\0'; /* vss-mount took it away */
        (void) close_fd(r->copy);
        r->copy = fd;
        int k = child_program_path("vss-exclude", path, sizeof(path));
        if (k >= 0)
                k = child_spawn((char *[]) { path, NULL }, CHILD_DIES_WITH_US, &r->child);
        if (k >= 0)
                k = sd_event_add_io(r->set->manager->event, &r->io, r->child.socket, EPOLLIN, on_reply, r);
        if (k < 0)
                give_up(r, "vss-exclude cannot be started");
        else
                send_entry(r);
}

static void on_reachable(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        ExcludeRun *r = userdata;
        r->job = provider_job_free(r->job);
        r->copy = fd;
        if (failure)
                give_up(r, failure->message);
        else if (mount_job_new(r->set->manager, &r->q, r->copy, on_opened, r, &r->mount) < 0)
                give_up(r, "vss-mount cannot be started");
}

static void begin_volume(ExcludeRun *r) {
        Snapshot *s = set_snapshot_at(r->set, r->volume);
        const ProviderEntry *p = s ? manager_find_provider(r->set->manager, s->provider) : NULL;
        bool directory = p && p->capabilities & VSS_CAP_DIRECTORY;
        struct vss_wire_request request = { .op = directory ? VSS_WIRE_MOUNT : VSS_WIRE_OPEN };
        r->q = (struct MounterRequest) {
                .op = MOUNTER_OPEN, .flags = MOUNTER_DIRECTORY | MOUNTER_WRITABLE | (directory ? 0 : MOUNTER_DEVICE)
        };
        if (!s || (directory && expose_make_stage(r->set->manager, r->q.staged, sizeof(r->q.staged)) < 0)) {
                give_up(r, "there is no place to mount the copy");
                return;
        }
        (void) snprintf(r->q.fs_type, sizeof(r->q.fs_type), "%s", s->fs_type ? s->fs_type : "");
        (void) snprintf(request.set, sizeof(request.set), "%s", r->set->id);
        (void) snprintf(request.snapshot, sizeof(request.snapshot), "%s", s->id);
        (void) snprintf(request.path, sizeof(request.path), "%s", r->q.staged);
        if (provider_job_new(r->set->manager->event, s->provider, &request, -1,
                             r->set->manager->settings.budgets.provider, NULL, on_reachable, r, &r->job) < 0)
                give_up(r, "the provider cannot be started");
}

static int on_next(sd_event_source *source, uint64_t usec, void *userdata) {
        ExcludeRun *r = userdata;
        while (r->volume < r->set->n_volumes && !exclude_from_volume(r->set, r->volume))
                r->volume++;
        r->entry = 0;
        if (r->volume >= r->set->n_volumes) {
                r->timer = sd_event_source_disable_unref(r->timer);
                r->done(r->userdata);
        } else if (r->set->manager->window)
                next_volume(r);
        else
                begin_volume(r);
        return 0;
}

/* The source is there from the beginning: one that could not be made now would leave the set waiting for ever. */
static void next_volume(ExcludeRun *r) {
        int k = sd_event_source_set_time_relative(r->next, r->set->manager->window ? QUIET_INTERVAL_USEC : 0);
        k = k < 0 ? k : sd_event_source_set_enabled(r->next, SD_EVENT_ONESHOT);
        assert(k >= 0); /* needs no memory */
        (void) k;
}

static int on_late(sd_event_source *source, uint64_t usec, void *userdata) {
        ExcludeRun *r = userdata;
        for (size_t i = 0; i < r->set->exclusions->n; i++) {
                SetExclusion *x = &r->set->exclusions->items[i];
                if (!x->error && (x->volume > r->volume || (x->volume == r->volume && i >= r->entry)))
                        x->error = strdup("there was no time left");
        }
        volume_done(r);
        r->volume = (unsigned) r->set->n_volumes;
        next_volume(r);
        return 0;
}

int exclude_run_new(Set *s, uint64_t budget_usec, ExcludeDone done, void *userdata, ExcludeRun **ret) {
        ExcludeRun *r = calloc(1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        *r = (ExcludeRun) { .set = s, .done = done, .userdata = userdata, .copy = -EBADF, .child = CHILD_NULL };
        int k = sd_event_add_time_relative(s->manager->event, &r->timer, CLOCK_MONOTONIC, budget_usec, 0, on_late, r);
        k = k < 0 ? k : sd_event_add_time_relative(s->manager->event, &r->next, CLOCK_MONOTONIC, 0, 1, on_next, r);
        if (k < 0) {
                exclude_run_free(r);
                return k;
        }
        next_volume(r);
        *ret = r;
        return 0;
}
