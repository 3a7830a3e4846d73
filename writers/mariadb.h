/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What mariadb.c (events, metadata), mariadb-log.c (backups of the binary log) and mariadb-restore.c (a restore beside
 * the server that runs) share.
 */
#include "writers/mariadb-product.h"
#include "writers/mariadb-server.h"
#include "protocol/jsonutil.h"
#include "writers/program-child.h"
#include "writers/program-options.h"
#include <limits.h>
#include <sys/types.h>

#define COMPONENT "server"

/* What a server on restored files needs to be like the one that wrote them. */
typedef struct MariadbForward {
        const char *none;                                          /* why the log cannot be applied; NULL: it can */
        char server[PATH_MAX], reader[PATH_MAX], client[PATH_MAX]; /* mariadbd, mariadb-binlog, mariadb */
        char **settings;                                           /* --NAME=VALUE, NULL-terminated */
        char *directories[4];                                      /* of MARIADB_DIRECTORIES; NULL: as is usual */
} MariadbForward;
#define MARIADB_DIRECTORIES \
        "innodb_data_home_dir", "innodb_log_group_home_dir", "innodb_undo_directory", "aria_log_dir_path"

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
        MariadbForward forward;
} Mariadb;

int mariadb_veto(Mariadb *d, struct vss_event *e, const Failure *f);

/* ---- mariadb-log.c ---- */

void mariadb_log_file_name(const Mariadb *d, uint64_t number, char ret[static NAME_MAX + 1]);
/* BASENAME.000002 is file 2. */
bool mariadb_log_number(const Mariadb *d, const char *file, uint64_t *ret);
/* What the next backup of the log goes on from, as the stamp of this one. Nothing if the file cannot be read. */
int mariadb_stamp_tell(const Mariadb *d, struct vss_event *e, const char *file, uint64_t position, uint64_t *ret_made);
/* Ends the file that is being written; those before it are the backup. */
int mariadb_log_backup(Mariadb *d, struct vss_event *e, Failure *reterr);
/* After the snapshot: none of them was purged meanwhile. */
int mariadb_log_is_there(Mariadb *d, struct vss_event *e, Failure *reterr);

/* ---- mariadb-settings.c ---- */

/* Fills in d->forward; the paths are those of take_directories(). */
int mariadb_settings_ask(Mariadb *d, uint64_t until_usec, Failure *reterr);
void mariadb_settings_done(MariadbForward *f);

/* ---- mariadb-forward.c ---- */

/* Which part of the saved log leads from the backup to a point: whole groups of files that follow each other. */
typedef struct ForwardPlan {
        char directory[PATH_MAX];
        uint64_t first, last;   /* files */
        uint64_t from, until;   /* position in the first, and in the last */
        uint64_t bytes, groups; /* to read, to apply */
} ForwardPlan;

/* -EINVAL, -EIO: the point is none, or the log does not lead to it. Nothing is changed. */
int mariadb_forward_plan(const Mariadb *d, const struct vss_event *e, const char *until, json_object *saved,
                         ForwardPlan *ret, Failure *reterr);

/* ---- mariadb-replay.c ---- */

/* Can the log be read to the point? */
int mariadb_replay_check(const Mariadb *d, struct vss_event *e, const ForwardPlan *plan, Failure *reterr);
/* Applies it to the restored files, by a server that nobody else can reach and that has ended afterwards. */
int mariadb_replay(const Mariadb *d, struct vss_event *e, const char *targets, const ForwardPlan *plan,
                   Failure *reterr);

/* ---- mariadb-restore.c ---- */
int mariadb_pre_restore(struct vss_event *e, void *userdata);
int mariadb_post_restore(struct vss_event *e, void *userdata);
