/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What postgresql.c (events, metadata), postgresql-backup.c (a backup and what it leaves in the copy),
 * postgresql-archive.c (backups of the log) and postgresql-restore.c (going forward to a point) share.
 */
#include "protocol/jsonutil.h"
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
        uid_t owner;              /* of all of them */
        char system[24], port[8]; /* system identifier of the cluster, and where it listens */
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
        char *archive;      /* where archive_command puts the log; NULL: not known */
        bool archives;      /* it did when we last asked */
        Places known;       /* of the server when it last told: in a restore it does not run */
        json_object *facts; /* of the set that is being made */
} Postgresql;

int pg_veto(Postgresql *p, struct vss_event *e, const Failure *f);
int places_get(Postgresql *p, uint64_t until_usec, Places *ret, Failure *reterr);
void places_done(Places *p);

int pg_backup_begin(Postgresql *p, struct vss_event *e, Failure *reterr);
bool pg_lsn_parse(const char *text, uint64_t *ret);
/* Ends it and completes the copy: backup_label, tablespace_map and the log up to the end. */
int pg_backup_end(Postgresql *p, struct vss_event *e, Failure *reterr);

/* ---- postgresql-archive.c ---- */

/* The log as a manifest tells of it: what of it is in the copy, and how its segments are called. */
typedef struct LogPoint {
        char system[24]; /* system identifier */
        uint32_t timeline;
        uint64_t lsn, segment_bytes;
} LogPoint;

bool pg_segment_bytes_are_valid(uint64_t bytes);
/* Can stand in a command without quotes: an absolute path of letters, digits and a few marks. */
bool pg_archive_path_is_plain(const char *path);
/*
 * Each segment of timeline, which goes on from where from is, from the one with byte from on to the one before byte
 * until is in the directory, as a whole; until UINT64_MAX: to the newest there. Says which is missing.
 */
int pg_archive_check(const char *directory, const LogPoint *from, uint32_t timeline, uint64_t until, Failure *reterr);
/* Of those that the directory tells of; from if there is none later. */
uint32_t pg_archive_newest_timeline(const char *directory, uint32_t from);
/* A backup of type log: the segment that is being written is ended, and has to reach the archive. */
int pg_log_backup(Postgresql *p, struct vss_event *e, Failure *reterr);
int pg_stamp_tell(struct vss_event *e, const LogPoint *p);

/* ---- postgresql-restore.c ---- */
int pg_pre_restore(struct vss_event *e, void *userdata);
int pg_post_restore(struct vss_event *e, void *userdata);
