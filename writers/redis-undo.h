/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What was changed in a Redis server for a snapshot is put right again whatever happens to the writer. A process forked
 * at the start does it when the writer is gone; what a killed unit takes along too is in a record below
 * $RUNTIME_DIRECTORY, which the next writer heeds first.
 */
#include "writers/redis-server.h"

enum { REDIS_PERCENTAGE_BYTES = 24 };

typedef struct RedisChanges {
        char percentage[REDIS_PERCENTAGE_BYTES]; /* auto-aof-rewrite-percentage as it was; "": not changed */
        bool paused;                             /* clients that write are kept waiting */
} RedisChanges;

typedef struct RedisUndo {
        RedisServer *server;
        char *record; /* path; NULL: none */
        int fd;       /* of the process that undoes */
        RedisChanges changes;
} RedisUndo;

/* Before there are threads. Puts right what an earlier writer left, if the server answers. name: of the writer. */
int redis_undo_start(RedisUndo *u, RedisServer *s, const char *name, Failure *reterr);
/* Call it before making the change. */
int redis_undo_note(RedisUndo *u, const RedisChanges *c, Failure *reterr);
/* Puts everything right; nothing is left noted then. Any number of times. */
int redis_undo_now(RedisUndo *u, uint64_t until_usec, Failure *reterr);
void redis_undo_done(RedisUndo *u);
