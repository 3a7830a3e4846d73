/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* What postgresql.c (events, metadata) and postgresql-backup.c (a backup and what it leaves in the copy) share. */
#include "writers/postgresql-server.h"
#include "writers/program-options.h"
#include <sys/types.h>

#define COMPONENT "cluster"
enum { PLACES_MAX = 256 };

typedef enum Mode { MODE_AUTO, MODE_CHECKPOINT, MODE_BACKUP } Mode;

typedef struct Place {
        char *path; /* absolute, without links */
        bool is_log;
} Place;

/* The data directory first, then its log if it lies elsewhere, then tablespaces. */
typedef struct Places {
        Place places[PLACES_MAX];
        size_t n;
        uid_t owner; /* of all of them */
} Places;

typedef struct Backup {
        bool running;
        uint64_t start_lsn, segment_bytes;
        uint32_t timeline;
} Backup;

typedef struct Postgresql {
        WriterOptions options; /* first: see there */
        PgServer server;
        Mode mode;
        char version[64];
        Backup backup;
} Postgresql;

int pg_veto(Postgresql *p, struct vss_event *e, const Failure *f);
int places_get(Postgresql *p, uint64_t until_usec, Places *ret, Failure *reterr);
void places_done(Places *p);

int pg_backup_begin(Postgresql *p, struct vss_event *e, Failure *reterr);
/* Ends it and completes the copy: backup_label, tablespace_map and the log up to the end. */
int pg_backup_end(Postgresql *p, struct vss_event *e, Failure *reterr);
