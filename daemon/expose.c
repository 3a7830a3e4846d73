/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/expose.h"
#include "daemon/manager-private.h"
#include "daemon/mounts.h"
#include "daemon/writer-register.h"
#include "providers/vss-provider.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

struct Exposure {
        Manager *manager;
        struct MounterRequest q;
        ExposeDone done;
        char *provider;
        char set[VSS_ID_LENGTH + 1];
        int copy;    /* the device */
        bool staged; /* something is mounted at q.staged */
};

static void unstage(Exposure *e) {
        struct MounterRequest q = { .op = MOUNTER_UNMOUNT, .flags = MOUNTER_LAZY | MOUNTER_OURS };
        if (!e->staged)
                return;
        e->staged = false;
        (void) snprintf(q.path, sizeof(q.path), "%s", e->q.staged);
        (void) mount_job_new(e->manager, &q, -1, NULL, NULL, NULL);
}

Exposure *exposure_free(Exposure *e) {
        if (!e)
                return NULL;
        unstage(e);
        (void) close_fd(e->copy);
        free(e->provider);
        free(e);
        return NULL;
}

static void on_exposed(const struct MounterReply *reply, int fd, const Failure *failure, void *userdata) {
        Call *c = userdata;
        Exposure *e = c->exposure;
        c->mount = mount_job_free(c->mount);
        if (failure) {
                (void) close_fd(fd);
                call_fail(c, failure);
                return;
        }
        e->staged = false; /* vss-mount took it away */
        if (e->q.op == MOUNTER_OPEN && fd < 0)
                call_failf(c, CONDITION_FAILED, "vss-mount sent no descriptor");
        else
                e->done(c, reply, fd);
}

static void run_mounter(Call *c) {
        Exposure *e = c->exposure;
        int r = mount_job_new(c->manager, &e->q, e->copy, on_exposed, c, &c->mount);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "vss-mount cannot be started: %s", strerror(-r));
}

static void on_staged(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Call *c = userdata;
        c->job = provider_job_free(c->job);
        (void) close_fd(fd);
        if (failure)
                call_fail(c, failure); /* a provider that died half-way may have mounted it: unstage() looks */
        else
                call_when_quiet(c, run_mounter);
}

static void on_device(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata) {
        Call *c = userdata;
        Exposure *e = c->exposure;
        struct statx st = {};
        c->job = provider_job_free(c->job);
        e->copy = fd;
        if (failure)
                call_fail(c, failure);
        /* without asking a file system that may be a process that hangs */
        else if (fd < 0 || statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0 ||
                 !S_ISBLK(st.stx_mode))
                call_failf(c, CONDITION_NOT_SUPPORTED, "provider %s gives no block device of this copy", e->provider);
        else if ((fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY && !(e->q.flags & MOUNTER_WRITABLE))
                call_failf(c, CONDITION_PROVIDER_FAILED, "provider %s opened the copy for writing", e->provider);
        else if (e->q.op == 0) { /* the device itself */
                e->copy = -EBADF;
                e->done(c, NULL, fd);
        } else {
                e->q.flags |= MOUNTER_DEVICE;
                call_when_quiet(c, run_mounter);
        }
}

int expose_make_stage(Manager *m, char *ret, size_t size) {
        char id[VSS_ID_LENGTH + 1], path[LIMIT_PATH_BYTES];
        const char *runtime = m->settings.runtime_directory;
        int r = id_new(id);
        if (r < 0)
                return r;
        (void) snprintf(path, sizeof(path), "%s/mounts", runtime);
        (void) mkdir(path, 0700);
        ret[0] = '\0';
        if (snprintf(path, sizeof(path), "%s/mounts/.%s", runtime, id) >= (int) sizeof(path) || strlen(path) >= size)
                return -ENAMETOOLONG;
        if (mkdir(path, 0700) < 0)
                return -errno;
        (void) snprintf(ret, size, "%s", path);
        return 0;
}

static int make_stage(Exposure *e) {
        int r = expose_make_stage(e->manager, e->q.staged, sizeof(e->q.staged));
        e->staged = r >= 0;
        return r;
}

static void ask_provider(Call *c, bool directory) {
        Exposure *e = c->exposure;
        struct vss_wire_request request = {
                .op = directory ? VSS_WIRE_MOUNT : VSS_WIRE_OPEN,
                .flags = e->q.flags & MOUNTER_WRITABLE ? 0 : VSS_CALL_READ_ONLY,
        };
        int r = directory ? make_stage(e) : 0;
        if (r < 0) {
                call_failf(c, CONDITION_FAILED, "no place to mount below %s: %s",
                           c->manager->settings.runtime_directory, strerror(-r));
                return;
        }
        (void) snprintf(request.set, sizeof(request.set), "%s", e->set);
        (void) snprintf(request.snapshot, sizeof(request.snapshot), "%s", c->id);
        (void) snprintf(request.path, sizeof(request.path), "%s", e->q.staged);
        r = provider_job_new(c->manager->event, e->provider, &request, -1, c->manager->settings.budgets.provider, NULL,
                             directory ? on_staged : on_device, c, &c->job);
        if (r < 0)
                call_failf(c, CONDITION_PROVIDER_FAILED, "provider %s cannot be started: %s", e->provider,
                           provider_start_error(r));
}

void expose(Call *c, const Snapshot *s, const struct MounterRequest *q, ExposeDone done) {
        const ProviderEntry *p = manager_find_provider(c->manager, s->provider);
        uint64_t can = p ? p->capabilities : 0;
        bool device = q->op == 0, directory = !device && can & VSS_CAP_DIRECTORY;
        if (!directory && !(can & VSS_CAP_DEVICE)) {
                call_failf(c, CONDITION_NOT_SUPPORTED, "provider %s makes no %s of its copies", s->provider,
                           device ? "block device" : "directory or block device");
                return;
        }
        Exposure *e = calloc(1, sizeof(*e));
        if (!e || !(e->provider = strdup(s->provider))) {
                free(e);
                call_failf(c, CONDITION_FAILED, "out of memory");
                return;
        }
        assert(!c->exposure);
        c->exposure = e;
        e->manager = c->manager;
        e->q = *q;
        e->copy = -EBADF;
        e->done = done;
        (void) snprintf(c->id, sizeof(c->id), "%s", s->id);
        (void) snprintf(e->set, sizeof(e->set), "%s", s->set->id);
        (void) snprintf(e->q.fs_type, sizeof(e->q.fs_type), "%s", s->fs_type ? s->fs_type : "");
        ask_provider(c, directory);
}
