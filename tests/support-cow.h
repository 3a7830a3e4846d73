/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * vss-cow as tests and benchmarks drive it: a store of its own, its control socket, sets of snapshots. Whatever fails
 * ends the test with one line, but for what says otherwise.
 */
#include "tests/support.h"

typedef struct CowServer {
        char directory[256]; /* its files lie here */
        int control;
        bool skip_free; /* sets leave out what was said to be free */
} CowServer;

/* 36 characters and the end. */
typedef struct CowId {
        char text[37];
} CowId;

/* Formats directory/store and serves it. vss-cow refuses a store in memory, so directory lies on a disk. */
void cow_start(CowServer *s, const char *directory, uint64_t store_bytes);
/* Detaches and ends both processes; what is in use is no obstacle. Never fails. Another process may do it, when it sets
 * control to -EBADF: that is a descriptor of ours. */
void cow_stop(CowServer *s);
/* Makes the sparse file directory/NAME of that size, a volume NAME of it, and returns its device; the caller frees. */
char *cow_volume(CowServer *s, const char *name, uint64_t bytes);

/* The moments of cow_set(), CLOCK_MONOTONIC. */
typedef struct CowTimes {
        uint64_t begin_nsec, held_nsec, made_nsec, released_nsec;
} CowTimes;
uint64_t now_nsec(void);
/* hold, snapshot, release: one instant for all of these volumes. Fails the test if the hold did not last. */
void cow_set(CowServer *s, const char *const *volumes, unsigned n, CowId *ret_ids, CowTimes *ret_times);
/* Device of the snapshot; the caller frees. */
char *cow_expose(CowServer *s, const CowId *id);
/* The same with an overlay: what a replay of its log writes goes there. */
char *cow_overlay(CowServer *s, const CowId *id);
/* Takes its devices down it has any, and deletes it. */
void cow_delete(CowServer *s, const CowId *id);
/* A command without arguments but these, as JSON members: "\"name\": \"a\"" or "". The number behind key, or 0. */
uint64_t cow_call(CowServer *s, const char *command, const char *members, const char *key);
