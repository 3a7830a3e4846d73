/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A file of the binary log as a row of groups. An event is a header of 19 bytes (time, type, server, length, next
 * position, flags) and what it is about, which mariadb-chain.c looks at. A group is what is applied as a whole: a
 * transaction, or a statement outside of one. It begins with an event of type Gtid and goes to the next of those, or to
 * an event of the log itself.
 */
#include "protocol/vocabulary.h"
#include <limits.h>
#include <stdio.h>

enum { BINLOG_FIRST_POSITION = 4 };

typedef struct BinlogFile {
        FILE *file;
        char name[NAME_MAX + 1];
        uint64_t bytes, at; /* where the next event is */
        uint64_t made;      /* seconds since 1970 */
        bool unfinished;    /* the server that wrote it has not ended it: its end may be missing */
        bool ended;         /* a Rotate or a Stop was its last event so far */
        bool listed;        /* its Gtid_list has been taken */
} BinlogFile;

typedef struct BinlogEvent {
        uint64_t at, next;
        uint32_t time; /* seconds since 1970; 0: none */
        uint32_t server;
        uint8_t type;
} BinlogEvent;

/* -EIO: not there, no binary log, encrypted. */
int binlog_open(int dfd, const char *name, BinlogFile *ret, Failure *reterr);
/* 1: an event; 0: there is no other that is whole, which in a file that is finished is an error. */
int binlog_next(BinlogFile *f, BinlogEvent *ret, Failure *reterr);
/* n bytes at offset of what an event is about; -EIO: it has not so many. */
int binlog_read(BinlogFile *f, const BinlogEvent *e, uint64_t offset, void *ret, size_t n, Failure *reterr);
bool binlog_begins_group(const BinlogEvent *e);
bool binlog_is_list(const BinlogEvent *e);   /* of the GTIDs before the file */
bool binlog_is_of_log(const BinlogEvent *e); /* in no group */
bool binlog_may_end_group(const BinlogEvent *e);
void binlog_close(BinlogFile *f);
