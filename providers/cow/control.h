/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * How the provider talks to vss-cow: one SOCK_SEQPACKET connection to DIRECTORY/control (0600, root only), one JSON
 * object per message in each direction, one request at a time per connection. A hold belongs to its connection: when
 * that ends, or at its deadline, the gate opens by itself and the hold's token is worth nothing any more.
 *
 * Request: {"command": WORD, …}, free-map with a descriptor. Answer: {"ok": true, …} or {"ok": false, "errno": N,
 * "message": "…"}. Unknown keys, missing keys and wrong types are EINVAL. ids are UUID text; sizes, times and numbers
 * JSON integers >= 0.
 *
 *   status                              uuid path segments segment_bytes total_bytes used_bytes free_bytes policy
 *                                       fault ("", "store-lost") pid server_pid preserved_blocks snapshots volumes
 *                                       memory_bytes replayed_records
 *   volumes                             volumes: [{name uuid origin bytes attached device snapshots gated fault}]
 *
 *   volume-create name origin           the origin is opened and locked but not attached; -EBUSY while it is mounted
 *                                       or in use, -EEXIST, -EINVAL (not a regular file or block device, size not a
 *                                       multiple of 512), -EDEADLK (the store lies on a served volume)
 *   volume-attach name                  device: loop device of the volume; link NAME in the device directory
 *   volume-detach name [force]          -EBUSY: mounted or open (message names by what)
 *   volume-remove name [force]          not attached; -EBUSY: has snapshots and force is false
 *
 *   track name                          from here on what is written is remembered, for a map of what is free. It
 *                                       belongs to this connection, as a hold does; who asks last has it. -ENOENT: not
 *                                       attached, -EOPNOTSUPP: larger than 16 TiB
 *   free-map name                       comes with a sealed memory file: {uint32_t block, count} in ascending order,
 *                                       what the file system has free at a moment after track. Answered when the map
 *                                       is durable. -ESTALE: this connection does not track the volume, -EINVAL,
 *                                       -E2BIG (too scattered), -ENOSPC; after these three it does not any more
 *
 *   hold volumes: [name] deadline_usec  token. deadline: CLOCK_MONOTONIC
 *   snapshot token set created_usec     … members: [{id volume label [persistent frozen pending skip_free]}]. pending
 *                                       unless it is false; skip_free: with the map this connection has made, if any
 *   release token                       held (bool: the gate was still closed)
 *   clear-mark set                      commits the pending ones
 *   abort set                           deletes the pending ones
 *
 *   list set ("" all) from              snapshots: [{id set volume created_usec label bytes persistent frozen pending
 *                                       damaged unverified skips_free device}] next (-1: that was the last)
 *   delete id                           -ENOENT, -EBUSY (shown as a device that is in use)
 *   expose id                           device (read-only loop device; more than once gives the same)
 *   hide id                             0 also when it was not shown; -EBUSY
 *
 *   set-policy policy                   "drop-oldest" "drop-all" "fail-writes"
 *   collect                             freed_bytes
 *   checkpoint
 *   stop [force]                        detaches every volume, writes the last checkpoint, ends both processes; -EBUSY
 *                                       if a volume is in use
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
