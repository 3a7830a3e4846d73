/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the backed-up files are read from. A backup program restores whole paths below a directory; a snapshot shows
 * one volume. Both are the same here: a directory that stands for a path of the host, "" for all of it. Without --from
 * the snapshots that the manifest names are mounted for as long as the restore takes.
 */
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>

static int add(RestoreWork *w, const char *volume, int fd, const char *mounted, const char *where) {
        RestoreSource *grown = reallocarray(w->sources, w->n_sources + 1, sizeof(*grown));
        if (grown)
                w->sources = grown;
        char *copy = grown ? strdup(streq(volume, "/") ? "" : volume) : NULL;
        char *object = copy && mounted ? strdup(mounted) : NULL;
        char *place = object && where ? strdup(where) : NULL;
        if (!copy || (mounted && !place)) {
                free(copy);
                free(object);
                (void) close(fd);
                return context_fail(w->context, CONDITION_LIMIT_REACHED, "out of memory");
        }
        w->sources[w->n_sources++] = (RestoreSource) { .volume = copy, .fd = fd, .mounted = object, .where = place };
        return 0;
}

/* "VOLUME=DIR", where VOLUME is an absolute path, or "DIR". */
static int add_given(RestoreWork *w, const char *value) {
        const char *equals = value[0] == '/' ? strstr(value, "=/") : NULL;
        const char *directory = equals ? equals + 1 : value;
        _cleanup_free_ char *volume = equals ? strndup(value, (size_t) (equals - value)) : strdup("");
        if (!volume)
                return context_fail(w->context, CONDITION_LIMIT_REACHED, "out of memory");
        int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return context_fail(w->context, errno == EACCES ? CONDITION_NOT_AUTHORIZED : CONDITION_NOT_FOUND,
                                    "cannot read the backup in %s: %s", directory, strerror(errno));
        return add(w, volume, fd, NULL, NULL);
}

static bool root_inside(const char *root, const char *volume) {
        size_t n = strlen(volume);
        return strncmp(root, volume, n) == 0 && (root[n] == '/' || root[n] == '\0');
}

static const char *below(const char *root, const char *volume) {
        const char *rest = root + strlen(volume);
        return rest + strspn(rest, "/");
}

int sources_open_root(const RestoreWork *w, const char *root) {
        const RestoreSource *best = NULL;
        for (size_t i = 0; i < w->n_sources; i++) {
                const RestoreSource *s = w->sources + i;
                if (root_inside(root, s->volume) && (!best || strlen(s->volume) > strlen(best->volume)))
                        best = s;
        }
        if (!best)
                return -ENOENT;
        int fd = open_beneath(best->fd, below(root, best->volume), O_RDONLY | O_DIRECTORY);
        /* a directory that shows one volume of the backup, given without its name */
        if (fd == -ENOENT && !best->volume[0] && w->manifest.n_snapshots == 1) {
                _cleanup_free_ char *volume = NULL;
                if (path_unescape(w->manifest.snapshots[0].volume, &volume) >= 0 && root_inside(root, volume))
                        fd = open_beneath(best->fd, below(root, volume), O_RDONLY | O_DIRECTORY);
        }
        return fd;
}

bool sources_have_volume(const RestoreWork *w, const char *path) {
        for (size_t i = 0; i < w->n_sources; i++)
                if (streq(w->sources[i].volume, path))
                        return true;
        return false;
}

/* One that shows everything shows what was mounted, too. */
int sources_check_nested(RestorePart *p, const char *root) {
        const RestoreWork *w = p->work;
        bool all = given_value(w->context, "from") && sources_have_volume(w, "");
        for (size_t i = 0; !all && i < w->manifest.n_snapshots; i++) {
                _cleanup_free_ char *volume = NULL;
                if (path_unescape(w->manifest.snapshots[i].volume, &volume) < 0)
                        return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
                if (!streq(volume, root) && path_is_inside(volume, root) && !sources_have_volume(w, volume))
                        return part_fail(p, CONDITION_NOT_FOUND,
                                         "volume %.300s, which lies in %.300s, is not among what --from names", volume,
                                         root);
        }
        return 0;
}

static int open_source(const RestorePart *p, const RestoreSet *s, const char *path, size_t n) {
        _cleanup_free_ char *full = NULL;
        if (asprintf(&full, "%s%s%.*s", streq(s->source, "/") ? "" : s->source, n > 0 ? "/" : "", (int) n, path) < 0)
                return -ENOMEM;
        return sources_open_root(p->work, full[0] ? full : "/");
}

int sources_open_directory(const RestorePart *p, const RestoreSet *s, const char *path) {
        return open_source(p, s, path, strlen(path));
}

int sources_open_parent(const RestorePart *p, const RestoreSet *s, const char *path) {
        const char *slash = strrchr(path, '/');
        return open_source(p, s, path, slash ? (size_t) (slash - path) : 0);
}

/* ---- snapshots ---- */

static int mount_snapshot(RestoreWork *w, json_object *objects, const ManifestSnapshot *s) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        _cleanup_free_ char *volume = NULL, *directory = NULL;
        Context *c = w->context;
        json_object *object = NULL;
        int r = resolve(c, objects, s->id, VSS_IFACE_SNAPSHOT, &object);
        if (r < 0)
                return context_fail(c, CONDITION_NOT_FOUND,
                                    "snapshot %s of %s is gone: say with --from where the backup is", s->id, s->volume);
        r = call_method(c, member_text(object, "object"), VSS_IFACE_SNAPSHOT, "Mount", &answer, "sa{sv}", "", 1,
                        "bound", "b", 1);
        if (r < 0)
                return r;
        const char *path = json_object_get_string(json_object_array_get_idx(answer, 0));
        if (!path || path_from_bus(path, &directory) < 0 || path_unescape(s->volume, &volume) < 0)
                return context_fail(c, CONDITION_FAILED, "snapshot %s cannot be read", s->id);
        int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return context_fail(c, CONDITION_NOT_AUTHORIZED, "cannot read the snapshot in %s: %s", directory,
                                    strerror(errno));
        /* one that was there before us stays */
        return add(w, volume, fd, snapshot_is_mounted_on(object, path) ? NULL : member_text(object, "object"), path);
}

static int mount_snapshots(RestoreWork *w) {
        _cleanup_(json_object_putp) json_object *objects = NULL;
        if (w->manifest.n_snapshots == 0)
                return context_fail(w->context, CONDITION_NOT_FOUND,
                                    "the manifest names no snapshot: say with --from where the backup is");
        int r = call_objects(w->context, NULL, &objects);
        for (size_t i = 0; r >= 0 && i < w->manifest.n_snapshots; i++)
                r = mount_snapshot(w, objects, w->manifest.snapshots + i);
        return r;
}

int sources_open(RestoreWork *w) {
        const char *value;
        size_t i = 0;
        int r = 0;
        if (!given_value(w->context, "from"))
                return mount_snapshots(w);
        while (r >= 0 && (value = given_next(w->context, "from", &i)))
                r = add_given(w, value);
        return r;
}

void sources_close(RestoreWork *w) {
        for (size_t i = 0; i < w->n_sources; i++) {
                RestoreSource *s = w->sources + i;
                (void) close_fd(s->fd);
                if (s->mounted) /* bound to our connection as well */
                        (void) call_method(w->context, s->mounted, VSS_IFACE_SNAPSHOT, "Unmount", NULL, "sa{sv}",
                                           s->where, 0);
                free(s->mounted);
                free(s->where);
                free(s->volume);
        }
        free(w->sources);
        w->sources = NULL;
        w->n_sources = 0;
}
