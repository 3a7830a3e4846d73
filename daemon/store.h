/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The wire between vssd (catalogue.c) and vss-store, and the files vss-store keeps.
 *
 *   vssd                                   vss-store DIRECTORY
 *                                     ◄──  HELLO(result)      locked, made, cleaned; or why not, and it ends
 *   LOAD(id = resume after) ────────────►
 *                                     ◄──  LOAD(more = 1, id, result) + memfd of the text, in the order of the ids
 *                                     ◄──  LOAD(more = 0, result = how many, or -errno)
 *   PUT(id, size) + memfd ──────────────►
 *                                     ◄──  PUT(result)        0: durable
 *   REMOVE(id) ─────────────────────────►
 *                                     ◄──  REMOVE(result)     0: durably gone, or was not there
 *
 * EOF ends vss-store after what it has already been sent. Every request may be repeated: after a death vssd sends the
 * one in flight again.
 */
#include "daemon/child.h"
#include "protocol/vocabulary.h"

enum StoreOp { STORE_HELLO = 1, STORE_LOAD, STORE_PUT, STORE_REMOVE };

struct StoreRequest {
        uint32_t op, reserved;
        uint64_t serial, size;
        char id[VSS_ID_LENGTH + 1];
};

struct StoreReply {
        uint32_t op;
        int32_t result;
        uint64_t serial, size;
        uint32_t more, reserved;
        char id[256]; /* LOAD: a file name, so longer than an id when it is none */
};

/*
 * A record is text, a newline, and "sha256:" with the hash of everything before, and a newline. Names of sets/ are ids;
 * what is written has a name that begins with a dot until it is complete; what does not prove itself is moved to
 * damaged/ and kept.
 */
enum { STORE_TRAILER_BYTES = 1 + 7 + 64 + 1, STORE_RECORDS_MAX = LIMIT_SETS + LIMIT_SET_RECORDS };

typedef struct StoreDisk {
        int state_fd, sets_fd, damaged_fd, lock_fd;
        unsigned n_records;
} StoreDisk;

#define STORE_DISK_NULL ((StoreDisk) { -EBADF, -EBADF, -EBADF, -EBADF, 0 })

/* Makes what is missing, takes the lock (waits up to patience_usec for a predecessor; then -EBUSY and its pid), removes
 * strays. */
int store_disk_open(const char *directory, uint64_t patience_usec, StoreDisk *ret, pid_t *ret_owner);
void store_disk_close(StoreDisk *d);
/* Durable when 0. The record is the old or the new one whatever happens. -EDQUOT: STORE_RECORDS_MAX. */
int store_disk_put(StoreDisk *d, const char *id, int text_fd, uint64_t size);
int store_disk_remove(StoreDisk *d, const char *id);
/* Names in ascending order, NULL-terminated; whatever is there, also what is no record. */
int store_disk_list(StoreDisk *d, char ***ret_names, size_t *ret_n);
/* A memfd with the text. -EBADMSG: is not a record and was moved to damaged/. */
int store_disk_get(StoreDisk *d, const char *name, int *ret_fd, uint64_t *ret_size);
