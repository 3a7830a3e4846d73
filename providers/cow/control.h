/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * How the provider talks to vss-cow: one SOCK_SEQPACKET connection to DIRECTORY/control (0600, root only), one JSON
 * object per message in each direction, one request at a time per connection, which may carry one descriptor. A hold
 * belongs to its connection: when that ends, or at its deadline, the gate opens by itself and the hold's token is worth
 * nothing any more.
 *
 * Request: {"command": WORD, …}. Answer: {"ok": true, …} or {"ok": false, "errno": N, "message": "…"}. Unknown keys,
 * missing keys and wrong types are EINVAL. ids are UUID text; sizes, times and numbers JSON integers >= 0.
 *
 *   status                       uuid path segments segment_bytes total_bytes used_bytes free_bytes policy frontend
 * ("ublk", "fuse") fault ("", "store-lost") pid server_pid preserved_blocks snapshots volumes memory_bytes
 * replayed_records
 *   volumes                      volumes: [{name uuid origin identity bytes attached device snapshots gated fault}]
 *                                identity: of the disk (identity.h), which is what counts then; "": origin is
 *   volume-create name origin    the origin is opened and locked but not attached. -EBUSY: mounted, in use, or a
 *                                store; -EEXIST: the name is taken, or the origin is that of a volume, by whatever
 *                                path; -EINVAL: no regular file or block device, or a size that is no multiple of 512
 *   volume-attach name           device: a loop or ublk device; link NAME in the device directory
 *   volume-detach name [force]   its snapshots' devices that nobody uses go with it. -EBUSY: it, or one of these, is
 *                                mounted or open; the message names the device
 *   volume-remove name force     not attached. -EBUSY: it has snapshots and force is false
 *   track name                   from here on what is written is remembered, for a map of what is free. It belongs to
 *                                this connection, as a hold does; who asks last has it. -ENOENT: not attached;
 *                                -EOPNOTSUPP: larger than 16 TiB
 *   free-map name                (with a sealed memory file: {uint32_t block, count} in ascending order, what the file
 *                                system has free at a moment after track.) Answered when the map is durable. -ESTALE:
 *                                this connection does not track the volume; -EINVAL, -E2BIG: too scattered, -ENOSPC:
 *                                it does not any more
 *   hold volumes: [name] deadline_usec
 *                                token. deadline: CLOCK_MONOTONIC
 *   snapshot token set created_usec members: [{id volume label persistent frozen pending skip_free}]
 *                                skip_free: with the map that this connection has made, if it has
 *   release token                held (bool: the gate was still closed)
 *   clear-mark set | abort set   commit the pending ones | delete the pending ones
 *   list set ("" all) from       snapshots: [{id set volume created_usec label bytes persistent frozen pending damaged
 *                                unverified skips_free device}] next (-1: that was the last)
 *   delete id                    -ENOENT; -EBUSY: shown as a device that is in use
 *   expose id                    device: a read-only one; more than once gives the same. -ENODEV: its volume
 *                                is not attached
 *   expose id overlay [overlay_bytes]
 *                                device, of its own, that can be written to. What is written goes to an unlinked file
 *                                in the directory overlay ("": the store's), of at most so many bytes, and goes with
 *                                the device. -EMFILE, -ENOSPC, -EOPNOTSUPP (not in that directory)
 *   hide id [device]             every device of it, or only that; 0 also when it was not shown; -EBUSY. overlay_full
 *                                (bool: more was written than there was room for)
 *   end-with-use id device       a device with an overlay goes when nobody uses it any more; looked at once a second.
 *                                (For loop devices there is LO_FLAGS_AUTOCLEAR.) -ENOENT
 *   set-policy policy            "drop-oldest" "drop-all" "fail-writes"
 *   collect | checkpoint         freed_bytes | -
 *   stop [force]                 detaches every volume as above, writes the last checkpoint, ends both processes;
 *                                -EBUSY: a volume or a snapshot of one is in use, or just comes or goes
 */
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

enum {
        CONTROL_MESSAGE_MAX = 192 * 1024, /* 64 members with labels of 1 KiB, and what is around them */
        CONTROL_LIST_MAX = 128,           /* snapshots in one answer */
        CONTROL_CONNECTIONS_MAX = 64,
};

typedef struct ControlError {
        char message[512];
} ControlError;

/* Connects to DIRECTORY/control. Returns a descriptor, -ENOENT or -ECONNREFUSED: nobody is there. */
int control_connect(const char *directory);
/*
 * Sends request and waits until deadline_usec (CLOCK_MONOTONIC) for the answer. 0 and *ret (the caller puts it), or the
 * answer's -errno with its message, -ETIME, -EPIPE (the server is gone), -EPROTO. Does not take request.
 */
int control_call(int fd, json_object *request, uint64_t deadline_usec, json_object **ret, ControlError *reterr);
/* The same with a descriptor that goes along; passed < 0: none. It stays the caller's. */
int control_call_with(int fd, json_object *request, int passed, uint64_t deadline_usec, json_object **ret,
                      ControlError *reterr);
