/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/volumes.h"
#include "daemon/manager-private.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <syslog.h>

enum { WAITERS_MAX = 64 };

struct Volumes {
        Manager *manager;
        LIST_HEAD(, VolumeEntry) list;
        unsigned n, n_looked_up;
        uint64_t listed_at_usec; /* 0: never */
        Probe *probe;
        struct {
                void (*done)(void *userdata);
                void *userdata;
        } waiters[WAITERS_MAX];
        unsigned n_waiters;
};

int volumes_new(Manager *m, Volumes **ret) {
        Volumes *v = calloc(1, sizeof(*v));
        if (!v)
                return -ENOMEM;
        v->manager = m;
        LIST_INIT(&v->list);
        *ret = v;
        return 0;
}

static void entry_free(Volumes *v, VolumeEntry *e) {
        LIST_REMOVE(e, entries);
        v->n--;
        v->n_looked_up -= e->looked_up;
        volume_free(e->volume);
        free(e->path);
        free(e);
}

Volumes *volumes_free(Volumes *v) {
        if (!v)
                return NULL;
        probe_free(v->probe);
        while (!LIST_EMPTY(&v->list))
                entry_free(v, LIST_FIRST(&v->list));
        free(v);
        return NULL;
}

bool volumes_are_fresh(const Volumes *v) {
        return v->listed_at_usec > 0 && now_usec() < v->listed_at_usec + VOLUMES_FRESH_USEC;
}

VolumeEntry *volumes_find(Volumes *v, const char *path) {
        VolumeEntry *e;
        LIST_FOREACH(e, &v->list, entries)
                if (streq(e->path, path))
                        return e;
        return NULL;
}

int volumes_paths(const Volumes *v, char ***ret) {
        const VolumeEntry *e;
        size_t n = 0;
        char **list = calloc(v->n + 1, sizeof(*list));
        if (!list)
                return -ENOMEM;
        LIST_FOREACH(e, &v->list, entries) {
                list[n] = strdup(e->path);
                if (!list[n++]) {
                        strings_free(list);
                        return -ENOMEM;
                }
        }
        *ret = list;
        return 0;
}

static bool volumes_look_alike(const Volume *a, const Volume *b) {
        size_t n = strings_count(a->mount_points);
        bool same = n == strings_count(b->mount_points) && streq_null(a->device, b->device) &&
                    streq_null(a->fs_type, b->fs_type) && streq_null(a->fs_uuid, b->fs_uuid);
        for (size_t i = 0; same && i < n; i++)
                same = streq(a->mount_points[i], b->mount_points[i]);
        return same;
}

static int volumes_add(Volumes *v, Volume **volume, VolumeEntry **ret) {
        _cleanup_free_ char *path = NULL;
        int r = bus_path_encode(VSS_PATH_VOLUMES, (*volume)->name, &path);
        if (r < 0)
                return r;
        (*volume)->root_fd = close_fd((*volume)->root_fd);
        VolumeEntry *e = volumes_find(v, path);
        if (e) {
                e->changed = e->changed || !volumes_look_alike(e->volume, *volume);
                volume_free(e->volume);
        } else {
                if (v->n >= LIMIT_VOLUMES_LISTED)
                        return -EDQUOT;
                e = calloc(1, sizeof(*e));
                if (!e)
                        return -ENOMEM;
                e->path = TAKE_PTR(path);
                LIST_INSERT_HEAD(&v->list, e, entries);
                v->n++;
                e->added = v->listed_at_usec > 0;
        }
        v->manager->changes = v->manager->changes || e->added || e->changed;
        e->volume = TAKE_PTR(*volume);
        e->seen = true;
        *ret = e;
        return 0;
}

void volumes_emit(Volumes *v) {
        VolumeEntry *e;
        LIST_FOREACH(e, &v->list, entries) {
                if (e->added)
                        (void) sd_bus_emit_object_added(v->manager->bus, e->path);
                else if (e->changed)
                        (void) sd_bus_emit_properties_changed(v->manager->bus, e->path, VSS_IFACE_VOLUME, "MountPoints",
                                                              "Device", "FileSystem", "FileSystemUuid", NULL);
                e->added = e->changed = false;
        }
}

static void forget_one_looked_up(Volumes *v, const VolumeEntry *but) {
        VolumeEntry *e, *oldest = NULL;
        LIST_FOREACH(e, &v->list, entries)
                if (e->looked_up && e != but)
                        oldest = e; /* new ones come first */
        if (oldest) {
                (void) manager_object_removed(v->manager, VSS_IFACE_VOLUME, oldest->path);
                entry_free(v, oldest);
        }
}

int volumes_keep(Volumes *v, Volume **volume, VolumeEntry **ret) {
        VolumeEntry *e;
        int r = volumes_add(v, volume, &e);
        if (r < 0)
                return r;
        if (!e->looked_up)
                v->n_looked_up++;
        e->looked_up = true;
        if (v->n_looked_up > LIMIT_VOLUMES_LOOKED_UP)
                forget_one_looked_up(v, e);
        *ret = e;
        return 0;
}

/* What was neither in the list nor looked up by somebody is not there any more. */
static void volumes_sweep(Volumes *v) {
        VolumeEntry *e, *following;
        for (e = LIST_FIRST(&v->list); e; e = following) {
                following = LIST_NEXT(e, entries);
                if (!e->seen && !e->looked_up) {
                        (void) manager_object_removed(v->manager, VSS_IFACE_VOLUME, e->path);
                        entry_free(v, e);
                }
        }
}

static void on_listed(ProbeResult **result, const Failure *failure, void *userdata) {
        Volumes *v = userdata;
        VolumeEntry *e;
        v->probe = probe_free(v->probe);
        if (failure)
                manager_log(v->manager, LOG_WARNING, NULL, "volumes cannot be listed: %s", failure->message);
        else {
                LIST_FOREACH(e, &v->list, entries)
                        e->seen = false;
                for (size_t i = 0; i < (*result)->n_volumes; i++)
                        (void) volumes_add(v, &(*result)->volumes[i], &e);
                volumes_sweep(v);
        }
        v->listed_at_usec = now_usec();
        while (v->n_waiters > 0) {
                v->n_waiters--;
                v->waiters[v->n_waiters].done(v->waiters[v->n_waiters].userdata);
        }
}

int volumes_refresh(Volumes *v, void (*done)(void *userdata), void *userdata) {
        if (v->n_waiters == WAITERS_MAX)
                return -EBUSY;
        int r = v->probe ? 0 : probe_list(v->manager->event, on_listed, v, &v->probe);
        if (r < 0)
                return r;
        v->waiters[v->n_waiters].done = done;
        v->waiters[v->n_waiters++].userdata = userdata;
        return 0;
}

void volumes_forget(Volumes *v, void *userdata) {
        for (unsigned i = 0; i < v->n_waiters; i++)
                if (v->waiters[i].userdata == userdata)
                        v->waiters[i--] = v->waiters[--v->n_waiters];
}

size_t volume_depth(const Volume *v, const char *path) {
        size_t depth = 0;
        for (char **place = v->mount_points; place && *place; place++)
                if (path_is_inside(path, *place))
                        depth = MAX_OF(depth, strlen(*place));
        return depth;
}

size_t volumes_depth(const Volumes *v, const char *path) {
        const VolumeEntry *e;
        size_t depth = 0;
        LIST_FOREACH(e, &v->list, entries)
                depth = MAX_OF(depth, volume_depth(e->volume, path));
        return depth;
}
