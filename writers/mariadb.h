/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What mariadb.c (events, metadata), mariadb-log.c (backups of the binary log) and mariadb-restore.c (a restore beside
 * the server that runs) share.
 */
#include "writers/mariadb-server.h"
#include "writers/program-options.h"
#include <limits.h>
#include <sys/types.h>

#define COMPONENT "server"

typedef struct Mariadb {
        WriterOptions options; /* first: see there */
        MariadbServer server;
        /* What the server told when it last described itself: in a restore it does not run. */
        char data[PATH_MAX];
        uid_t owner;                                          /* of the data directory */
        char log_directory[PATH_MAX], log_name[NAME_MAX + 1]; /* of the binary log: DIRECTORY/NAME.000001 */
        const char *no_log_backup;                            /* why there is none; NULL: there is */
        unsigned tablespaces_elsewhere;                       /* outside of the data directory, by absolute paths */
        uint64_t log_from;                                    /* first file of the backup of the log that is made */
} Mariadb;

int mariadb_veto(Mariadb *d, struct vss_event *e, const Failure *f);

/* ---- mariadb-log.c ---- */

/* BASENAME.000002 is file 2. */
bool mariadb_log_number(const Mariadb *d, const char *file, uint64_t *ret);
/* What the next backup of the log goes on from, as the stamp of this one. Nothing if the file cannot be read. */
int mariadb_stamp_tell(const Mariadb *d, struct vss_event *e, const char *file, uint64_t position);
/* Ends the file that is being written; those before it are the backup. */
int mariadb_log_backup(Mariadb *d, struct vss_event *e, Failure *reterr);
/* After the snapshot: none of them was purged meanwhile. */
int mariadb_log_is_there(Mariadb *d, struct vss_event *e, Failure *reterr);

/* ---- mariadb-restore.c ---- */
int mariadb_pre_restore(struct vss_event *e, void *userdata);
int mariadb_post_restore(struct vss_event *e, void *userdata);
