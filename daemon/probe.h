/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The wire between vssd (probe-client.c) and vss-probe, which lives for one question:
 *
 *   vssd                                   vss-probe
 *   PATH (one per path) ────────────────►
 *   END(flags, uid) ────────────────────►
 *                                     ◄──  AT(index)                    before an argument is looked up: names a
 * culprit ◄──  VOLUME(index, …) + root fd   numbered from 0 in the order of sending ◄──  MOUNT(volume, name) each
 * further mount point of it ◄──  FOUND(index, volume, owner)  or condition and text, one per path ◄──  LEFT_OUT(name,
 * text), STALLS(name, text), WARNING(text) ◄──  DONE(condition, text)
 *
 * Names are escaped as on the bus (\xHH) in both directions; one that does not fit escaped is refused.
 */
#include "daemon/child.h"
#include "daemon/volume.h"

#define PROBE_KEY_EVERYTHING UINT64_MAX /* more lies on it than fits: in the way of everything */

enum {
        PROBE_VOLUMES_MAX = 4096,
        PROBE_TEXTS_MAX = 4096, /* mount points of one volume, left_out, stalls */
        PROBE_LIST = 1 << 16,   /* flag beside PROBE_NESTED: no paths, all local volumes */
};

enum ProbeOp {
        PROBE_PATH = 1,
        PROBE_END,
        PROBE_AT,
        PROBE_VOLUME,
        PROBE_MOUNT,
        PROBE_FOUND,
        PROBE_LEFT_OUT,
        PROBE_STALLS,
        PROBE_WARNING,
        PROBE_DONE,
};

struct ProbeRequest {
        uint32_t op, index, flags, uid; /* END: flags, uid */
        uint32_t is_argument, may_be_missing;
        char path[LIMIT_PATH_BYTES];
};

struct ProbeReply {
        uint32_t op, condition;
        int32_t index, volume; /* of the path, -1: none */
        uint32_t kind, level, can_hold, has_fd, n_keys, chosen;
        int32_t mount_id;
        uint32_t owner; /* FOUND: of the directory that was looked up; UINT32_MAX: it is none */
        uint64_t dev, superblock, subvolume, size_bytes;
        uint64_t keys[VOLUME_KEYS_MAX];
        char name[LIMIT_PATH_BYTES], mount_point[LIMIT_PATH_BYTES];
        char device[256], fs_type[32], fs_uuid[64];
        char text[LIMIT_MESSAGE_BYTES]; /* VOLUME: why_not; else a message */
};
