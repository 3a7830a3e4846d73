/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/volume.h"
#include "daemon/probe.h"
#include "protocol/base.h"
#include "protocol/text.h"

static const char *const volume_kinds[_VOLUME_KIND_MAX] = {
        [VOLUME_FILESYSTEM] = "filesystem",
        [VOLUME_SUBVOLUME] = "subvolume",
        [VOLUME_BLOCK] = "block",
        [VOLUME_ENGINE] = "engine",
};

const char *volume_kind_to_string(VolumeKind value) {
        assert((unsigned) value < _VOLUME_KIND_MAX);
        return volume_kinds[value];
}

int volume_kind_from_string(const char *s) {
        for (int i = 0; s && i < _VOLUME_KIND_MAX; i++)
                if (streq(volume_kinds[i], s))
                        return i;
        return -EINVAL;
}

Volume *volume_free(Volume *v) {
        if (!v)
                return NULL;
        (void) close_fd(v->root_fd);
        free(v->name);
        free(v->argument);
        free(v->mount_point);
        free(v->device);
        free(v->fs_type);
        free(v->fs_uuid);
        free(v->why_not);
        (void) strings_free(v->mount_points);
        free(v);
        return NULL;
}

bool volumes_collide(const Volume *a, const Volume *b) {
        if (a->superblock == b->superblock)
                return true;
        for (unsigned i = 0; i < a->n_keys; i++) {
                if (a->keys[i] == PROBE_KEY_EVERYTHING)
                        return true;
                for (unsigned j = 0; j < b->n_keys; j++)
                        if (a->keys[i] == b->keys[j] || b->keys[j] == PROBE_KEY_EVERYTHING)
                                return true;
        }
        return false;
}

bool volume_lies_on(const Volume *a, const Volume *b) {
        for (unsigned i = 0; i < b->n_keys && a->superblock != b->superblock; i++)
                if (b->keys[i] == a->superblock || b->keys[i] == PROBE_KEY_EVERYTHING)
                        return true;
        return false;
}

ProbeResult *probe_result_free(ProbeResult *r) {
        if (!r)
                return NULL;
        for (size_t i = 0; i < r->n_volumes; i++)
                (void) volume_free(r->volumes[i]);
        free(r->volumes);
        free(r->path_volume);
        free(r->path_failure);
        free(r->path_owner);
        (void) strings_free(r->left_out);
        (void) strings_free(r->stalls);
        (void) strings_free(r->warnings);
        free(r);
        return NULL;
}
