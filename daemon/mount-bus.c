/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Snapshot.Mount, Unmount and Open. */
#include "daemon/expose.h"
#include "daemon/manager-private.h"
#include "daemon/mounts.h"
#include "daemon/snapshot-bus.h"
#include "protocol/text.h"
#include <stdio.h>

static void mounted(Call *c, const struct MounterReply *reply, int fd) {
        const SnapshotCall *o = c->state;
        const char *sender = sd_bus_message_get_sender(c->message);
        (void) close_fd(fd);
        int r = mounts_add(c->manager->mounts, c->id, reply->path, reply->mount_id, o->bound ? sender : NULL,
                           isempty(o->text));
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "%s is mounted, but cannot be remembered: %s; unmount it yourself",
                           reply->path, strerror(-r));
        else if (!manager_find_snapshot(c->manager, c->id)) { /* deleted meanwhile */
                mounts_drop(c->manager->mounts, c->id, NULL);
                call_failf(c, CONDITION_NOT_FOUND, "snapshot %s is gone", c->id);
        } else
                call_reply(c, "s", reply->path);
}

static void own_place(const Call *c, char *ret, size_t size) {
        (void) snprintf(ret, size, "%s/mounts/%s", c->manager->settings.runtime_directory, c->id);
}

static void mount_step(Call *c) {
        const SnapshotCall *o = c->state;
        struct MounterRequest q = { .op = MOUNTER_MOUNT, .flags = o->exec ? 0 : MOUNTER_NOEXEC, .uid = c->caller.uid };
        const Snapshot *s = call_snapshot(c);
        if (!s)
                return;
        if (isempty(o->text)) {
                q.uid = 0;
                q.flags |= MOUNTER_OURS;
                own_place(c, q.path, sizeof(q.path));
        } else
                (void) snprintf(q.path, sizeof(q.path), "%s", o->text);
        const MountEntry *there = mounts_find(c->manager->mounts, c->id, q.path);
        if (o->dry_run)
                call_reply(c, "s", "");
        else if (there)
                call_reply(c, "s", there->path);
        else
                expose(c, s, &q, mounted);
}

static const char *volume_name(const Snapshot *s) {
        return s->name ? s->name : "";
}

int method_mount(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        static const BusOption options[] = {
                BUS_OPTIONS_COMMON(SnapshotCall),
                { "exec", "b", offsetof(SnapshotCall, exec), NULL },
                { "bound", "b", offsetof(SnapshotCall, bound), NULL },
        };
        Snapshot *s = userdata;
        Call *c;
        int r = snapshot_call_new(s, m, true, options, ELEMENTSOF(options), reterr, &c);
        if (r < 0)
                return r;
        const SnapshotCall *o = c->state;
        if (!isempty(o->text) && !path_is_clean(o->text))
                call_failf(c, CONDITION_INVALID_ARGUMENT, "directory: an absolute path without . and .. is needed");
        else
                call_authorise(c, VSS_ACTION_EXPOSE,
                               (const char *const[]) { "snapshot", s->id, "set", s->set->id, "volumes", volume_name(s),
                                                       NULL },
                               mount_step);
        return 1;
}

static void unmount_next(Call *c);

static void on_unmounted(const struct MounterReply *reply, int fd, const Failure *failure, void *userdata) {
        Call *c = userdata;
        const SnapshotCall *o = c->state;
        (void) close_fd(fd);
        c->mount = mount_job_free(c->mount);
        if (failure) {
                call_fail(c, failure);
                return;
        }
        MountEntry *e = mounts_find(c->manager->mounts, c->id, isempty(o->text) ? NULL : o->text);
        if (e)
                mounts_remove(c->manager->mounts, e);
        if (isempty(o->text))
                unmount_next(c);
        else
                call_reply(c, "");
}

/* One after the other, as long as there is one. */
static void unmount_next(Call *c) {
        const SnapshotCall *o = c->state;
        struct MounterRequest q;
        const MountEntry *e = mounts_find(c->manager->mounts, c->id, isempty(o->text) ? NULL : o->text);
        if (!e || o->dry_run) {
                call_reply(c, "");
                return;
        }
        mounts_request_unmount(e, o->force, &q);
        int r = mount_job_new(c->manager, &q, -1, on_unmounted, c, &c->mount);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "vss-mount cannot be started: %s", strerror(-r));
}

static void unmount_step(Call *c) {
        const SnapshotCall *o = c->state;
        if (!isempty(o->text) && !mounts_find(c->manager->mounts, c->id, o->text))
                call_failf(c, CONDITION_NOT_FOUND, "%s: snapshot %s is not mounted there", o->text, c->id);
        else
                unmount_next(c);
}

int method_unmount(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        static const BusOption options[] = {
                BUS_OPTIONS_COMMON(SnapshotCall),
                { "force", "b", offsetof(SnapshotCall, force), NULL },
        };
        Snapshot *s = userdata;
        Call *c;
        int r = snapshot_call_new(s, m, true, options, ELEMENTSOF(options), reterr, &c);
        if (r < 0)
                return r;
        call_authorise(c, VSS_ACTION_EXPOSE,
                       (const char *const[]) { "snapshot", s->id, "set", s->set->id, "volumes", volume_name(s), NULL },
                       unmount_step);
        return 1;
}

static void opened(Call *c, const struct MounterReply *reply, int fd) {
        call_reply(c, "h", fd);
        (void) close_fd(fd);
}

static void open_step(Call *c) {
        const SnapshotCall *o = c->state;
        struct MounterRequest q = { .op = MOUNTER_OPEN };
        const Snapshot *s = call_snapshot(c);
        if (!s)
                return;
        if (streq(o->text, "device"))
                q.op = 0;
        else if (streq(o->text, "directory"))
                q.flags = MOUNTER_DIRECTORY;
        expose(c, s, &q, opened);
}

int method_open(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        static const BusOption options[] = { { "reason", "s", offsetof(SnapshotCall, reason), NULL } };
        Snapshot *s = userdata;
        Call *c;
        int r = snapshot_call_new(s, m, true, options, ELEMENTSOF(options), reterr, &c);
        if (r < 0)
                return r;
        const SnapshotCall *o = c->state;
        if (!streq(o->text, "mount") && !streq(o->text, "directory") && !streq(o->text, "device"))
                call_failf(c, CONDITION_INVALID_ARGUMENT, "what: %s is not mount, directory or device", o->text);
        else
                call_authorise(c, VSS_ACTION_EXPOSE,
                               (const char *const[]) { "snapshot", s->id, "set", s->set->id, "volumes", volume_name(s),
                                                       NULL },
                               open_step);
        return 1;
}
