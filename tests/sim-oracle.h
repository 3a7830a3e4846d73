/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What may be read where. Every sector that is ever written gets content of its own, named by a number (0: zeros), so
 * content that is old, too new, torn or of another place is told apart. For each sector of a volume the oracle keeps
 * the writes that may still be its content: as reads see it, and as a power cut may leave it.
 *
 *   A write W that was acknowledged replaces, for reads that begin later, what was acknowledged before W began; and for
 *   power cuts the same, once a flush that began after W's end has ended, or at once if W was durable.
 */
#include "tests/sim-random.h"
#include <stddef.h>

typedef struct Candidate {
        uint64_t version;
        uint64_t begun, ended; /* moments; ended UINT64_MAX: under way */
        uint64_t replaced;     /* for reads that begin later; UINT64_MAX: not */
        bool lost;             /* no power cut brings it back */
} Candidate;

typedef struct Sector {
        uint32_t n, size;
        Candidate *list;
} Sector;

typedef struct Oracle {
        uint64_t now; /* goes up with everything that begins or ends */
        uint64_t bytes;
        uint32_t n;
        Sector *sectors;
} Oracle;

void content_fill(void *sector, uint64_t version);
/* The version the sector says it has. *ret_whole: its content is all of that version. */
uint64_t content_version(const void *sector, bool *ret_whole);

void oracle_init(Oracle *o, uint64_t bytes);
void oracle_done(Oracle *o);

/* versions: one for each sector; NULL: zeros. Returns the moment. */
uint64_t oracle_write_begins(Oracle *o, uint64_t offset, uint64_t length, const uint64_t *versions);
typedef enum WriteEnd {
        WRITE_DONE,
        WRITE_DURABLE,
        WRITE_MAYBE, /* it failed, or was a discard: old and new are both right for ever */
} WriteEnd;
void oracle_write_ends(Oracle *o, uint64_t begun, uint64_t offset, uint64_t length, WriteEnd end);
void oracle_flush_ends(Oracle *o, uint64_t begun);
/* May a read that began then have this version in this sector? */
bool oracle_allows(const Oracle *o, uint32_t sector, uint64_t version, uint64_t begun);
/* May a power cut leave it? */
bool oracle_survives(const Oracle *o, uint32_t sector, uint64_t version);

/* Nothing but what waits at the gate is under way, and all of it is flushed: the sector has this content. False: it may
 * not. */
bool oracle_settle(Oracle *o, uint32_t sector, uint64_t version);
/* The process is dead: what was under way happened or did not. */
bool oracle_killed(Oracle *o, uint32_t sector, uint64_t version);
/* The power is gone, and this is what is there. */
bool oracle_cut(Oracle *o, uint32_t sector, uint64_t version);
/* For messages: the candidates of a sector. */
void oracle_describe(const Oracle *o, uint32_t sector, char *buffer, size_t size);
