/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * MariaDB and MySQL where they differ. Both hold what they hold by one session. MariaDB has BACKUP STAGE, which waits
 * for no reader. MySQL has LOCK INSTANCE FOR BACKUP, which keeps the schema and the files as they are, and commits only
 * by FLUSH TABLES WITH READ LOCK, which waits for each statement that runs, readers included, and lets nobody begin
 * meanwhile: so it may wait for a few seconds only.
 */
#include "writers/mariadb-server.h"

typedef struct MariadbProduct {
        const char *caption;
        const char *const *prepare, *const *freeze, *const *thaw; /* statements; NULL ends */
        /* Values: the data directory, six that may lie elsewhere (or none), log_bin_basename, log_bin_index. */
        const char *ask_directories;
        const char *patterns[6];     /* of the files in those six; "DIRECTORY/PATTERN": below it; NULL: none */
        const char *ask_tablespaces; /* absolute paths of those elsewhere */
        const char *ask_position;    /* file, position, GTIDs, time; no row: no binary log. NULL: as MariaDB does */
} MariadbProduct;

const MariadbProduct *mariadb_product(const MariadbServer *s);
/* -EOPNOTSUPP: too old, or neither. */
int mariadb_product_check(const MariadbServer *s, const char *version, Failure *reterr);
/* One after the other, until one fails. */
int mariadb_product_do(MariadbServer *s, uint64_t until_usec, const char *const *statements, Failure *reterr);
