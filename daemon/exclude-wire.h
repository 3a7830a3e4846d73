/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The wire between vssd and vss-exclude, which removes files from one copy. The first request brings the root directory
 * of a detached, writable mount of the copy; each is answered, the last (END) once nothing of the copy is open any
 * more. Paths and patterns are escaped as on the bus (\xHH).
 */
#include "protocol/vocabulary.h"

enum ExcludeOp { EXCLUDE_REMOVE = 1, EXCLUDE_END };

enum { LIMIT_PATTERN_BYTES = 1024 }; /* a name of 255 bytes, each escaped */

struct ExcludeRequest {
        uint32_t op, recursive;
        char root[LIMIT_PATH_BYTES]; /* below the root of the copy; "": that itself */
        char pattern[LIMIT_PATTERN_BYTES];
};

struct ExcludeReply {
        uint64_t removed, failed, bytes;
        char message[LIMIT_MESSAGE_BYTES]; /* of the first that failed */
};
