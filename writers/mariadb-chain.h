/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What ties the files of one binary log to each other. Each begins with an event of type Gtid_list: the last GTID of
 * each pair of domain and server that came before it. That list and the GTIDs that follow it in a file are the state at
 * its end, and the next file must begin with the same one. A file of another server, or of another time, does not. No
 * list is checked against a checksum here: mariadb-binlog does that before anything is touched.
 */
#include "writers/mariadb-events.h"

enum { BINLOG_GTIDS_MAX = 4096 }; /* pairs of domain and server; so many servers never wrote one log */

typedef struct BinlogGtid {
        uint32_t domain, server;
        uint64_t sequence;
        uint64_t order; /* the one of a domain that came last has the highest */
        bool changed;   /* not as the first list had it */
        bool listed;    /* by the list that is compared */
} BinlogGtid;

typedef struct BinlogChain {
        BinlogGtid *gtids;
        size_t n;
        uint64_t order;
        bool begun;    /* there was a list */
        size_t last;   /* whose the last group is */
        uint64_t undo; /* what its sequence was before that; 0: it was not there */
        bool in_doubt; /* the last group may be none: its file was not ended */
} BinlogChain;
#define BINLOG_CHAIN_NONE ((BinlogChain) { .last = SIZE_MAX })

/* For each event of a file that has just been read; those that are neither are none of its business. -EIO: see there.
 */
int binlog_chain_take(BinlogChain *c, BinlogFile *f, const BinlogEvent *e, Failure *reterr);
/* The file has come to its end; the next one begins where this one ended. */
void binlog_chain_end(BinlogChain *c, const BinlogFile *f);
/* Is the state what @@gtid_binlog_pos says, the last GTID of each domain? */
bool binlog_chain_is_at(BinlogChain *c, const char *position);
void binlog_chain_done(BinlogChain *c);
