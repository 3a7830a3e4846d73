/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The wire between vssd and vss-mount, a process that does one thing with the mount table and exits. Paths of callers
 * are resolved there, with the caller's rights and by descriptor, because they can hang and can be swapped while we
 * look (hazards C3); vssd itself never touches them. In both directions path is escaped as on the bus (\xHH). One
 * request, with the descriptor of the copy's device if it has one, one reply, for OPEN with a descriptor.
 */
#include "daemon/child.h"
#include "protocol/vocabulary.h"

enum MounterOp {
        MOUNTER_MOUNT = 1, /* at path: its parent must exist; reply: canonical path and mount id */
        MOUNTER_UNMOUNT,   /* path and mount_id as MOUNT replied (0: whatever is there); gone already is success */
        MOUNTER_OPEN,      /* a detached mount (or, with DIRECTORY, a directory in one) */
};

enum {
        MOUNTER_DEVICE = 1 << 0, /* the descriptor is a block device with fs_type on it */
        MOUNTER_WRITABLE = 1 << 1,
        MOUNTER_NOEXEC = 1 << 2,
        MOUNTER_LAZY = 1 << 3,
        MOUNTER_DIRECTORY = 1 << 4,
        MOUNTER_OURS = 1 << 5, /* path is below the runtime directory: make its parents, remove it afterwards */
};

struct MounterRequest {
        uint32_t op, flags;
        uint32_t uid, reserved;
        uint64_t mount_id;
        char fs_type[32], path[LIMIT_PATH_BYTES];
        char staged[LIMIT_PATH_BYTES]; /* where the provider mounted the copy for us; taken away. "": the descriptor is
                                          it */
};

struct MounterReply {
        int32_t result; /* 0 or -errno */
        uint32_t reserved;
        uint64_t mount_id;
        char path[LIMIT_PATH_BYTES], message[LIMIT_MESSAGE_BYTES];
};
