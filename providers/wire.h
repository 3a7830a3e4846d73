/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Messages between vssd and vss-provider-host: fixed-size structs over SOCK_SEQPACKET, host byte order (both ends are
 * the same build; LOAD carries the version string and a host of another build is refused). One request in flight; a
 * list is answered by any number of replies with more = 1 and a last one with more = 0. A descriptor rides with
 * BEGIN_PREPARE and PROBE (root of the volume), DIFF and EXPORT (sink), and with the reply to OPEN.
 *
 * A host that was started for vssd's connection (vss-provider.socket) inherits nothing from vssd, so these come first,
 * and are not answered; what follows does not differ:
 *
 *   vssd                                    vss-provider-host --attach
 *   LIFE (read end of a pipe) ────────────►  from here on the kernel kills it when vssd's end of the pipe is closed
 *   ENVIRONMENT (file) ───────────────────►  vssd's environment takes the place of its own
 *                                      ◄──  HELLO (its own pidfd), before it has read anything
 */
#include "protocol/vocabulary.h"

enum { VSS_WIRE_NAME = 80, VSS_WIRE_ID = VSS_ID_LENGTH + 1, VSS_WIRE_PATH = LIMIT_PATH_BYTES };

enum vss_wire_op {
        VSS_WIRE_LOAD =
                1, /* name = provider, text = version of vssd → capabilities, priority, text = provider's version */
        VSS_WIRE_PROBE, /* volume_* → capabilities, free_bytes; -EOPNOTSUPP + message */
        VSS_WIRE_BEGIN_PREPARE,
        VSS_WIRE_END_PREPARE,
        VSS_WIRE_PRE_COMMIT,
        VSS_WIRE_HOLD,
        VSS_WIRE_COMMIT,
        VSS_WIRE_RELEASE,
        VSS_WIRE_POST_COMMIT,
        VSS_WIRE_PRE_FINAL,
        VSS_WIRE_POST_FINAL,
        VSS_WIRE_ABORT,
        VSS_WIRE_LIST, /* set "" = all → items with snapshot fields */
        VSS_WIRE_REMOVE,
        VSS_WIRE_MOUNT,
        VSS_WIRE_UNMOUNT,
        VSS_WIRE_OPEN,
        VSS_WIRE_DIFF,
        VSS_WIRE_CLEAR_MARK,    /* of a set: drop the "uncommitted" mark, the last step of creation (hazards B4, D15) */
        VSS_WIRE_INVENTORY,     /* → items: kind = storage areas, then volumes of the provider's own */
        VSS_WIRE_VOLUME_CREATE, /* name, path = origin, volume = store, size_bytes = its size, text = front end, fs_type
                                   = policy */
        VSS_WIRE_VOLUME_ATTACH, /* name → one volume */
        VSS_WIRE_VOLUME_DETACH, /* name */
        VSS_WIRE_VOLUME_REMOVE, /* name */
        VSS_WIRE_STORAGE_SET,   /* name = storage area, size_bytes, text = policy, "" as it is */
        VSS_WIRE_STORAGE_GC,    /* name = storage area → free_bytes = what was freed */
        VSS_WIRE_REVERT, /* snapshot; set, safety: ids of the copy of what is there before, "" none → items: kind =
                            copies that go with it, and how far it is */
        VSS_WIRE_EXIT,
        VSS_WIRE_LIFE,
        VSS_WIRE_ENVIRONMENT, /* size_bytes of the file: NAME=VALUE, each with its terminating zero */
        VSS_WIRE_HELLO,
        _VSS_WIRE_OP_MAX,
};

enum { VSS_WIRE_ENVIRONMENT_BYTES = 256 * 1024, VSS_WIRE_ENVIRONMENT_MAX = 4096 /* entries */ };
enum vss_wire_kind { VSS_WIRE_IS_STORAGE = 1, VSS_WIRE_IS_VOLUME, VSS_WIRE_IS_LOST, VSS_WIRE_IS_PROGRESS };
enum { VSS_WIRE_PROGRESS_MAX = 1000000 };

struct vss_wire_request {
        uint32_t op, flags; /* flags: VSS_CALL_* */
        uint64_t serial, deadline_usec;
        char set[VSS_WIRE_ID], snapshot[VSS_WIRE_ID], safety[VSS_WIRE_ID];
        char name[VSS_WIRE_NAME], text[VSS_WIRE_NAME]; /* LOAD: provider, version; BEGIN_PREPARE: storage, mode */
        /* volume */
        uint64_t dev, subvolume, size_bytes;
        char volume[VSS_WIRE_PATH], mount_point[VSS_WIRE_PATH], device[256], fs_type[32], fs_uuid[VSS_WIRE_ID];
        char path[VSS_WIRE_PATH]; /* MOUNT, UNMOUNT: directory; DIFF: since */
        uint32_t request_flags, reserved;
};

struct vss_wire_reply {
        uint32_t op;
        int32_t result; /* 0 or -errno */
        uint64_t serial;
        uint32_t more, priority;
        uint64_t capabilities, free_bytes;
        char message[LIMIT_MESSAGE_BYTES];
        char text[VSS_WIRE_NAME];
        /* one snapshot (LIST) */
        uint64_t created_at, size_bytes, used_bytes;
        uint32_t snapshot_flags, damaged;
        char id[VSS_WIRE_ID], set[VSS_WIRE_ID], volume[1024], device[256], path[1024], token[160];
        uint32_t pending,
                kind; /* LIST: still carries the uncommitted mark; INVENTORY, REVERT: which of the two it is */
        /* LIST: its volume is being reverted to it, and it may itself be gone by that; REVERT: of VSS_WIRE_PROGRESS_MAX
         */
        uint32_t reverting, gone, progress, reserved;
        /*
         * INVENTORY, VOLUME_ATTACH. A storage area: name = id, path, max_bytes, used_bytes, allocated_bytes, policy,
         * fault. A volume: id, name, path = origin, device, size_bytes, storage, frontend, fault, attached, snapshots.
         */
        uint64_t max_bytes, allocated_bytes;
        uint32_t attached, snapshots;
        char name[64], storage[64], frontend[16], policy[24], fault[32];
};
