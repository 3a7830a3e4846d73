/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/mariadb-product.h"
#include <stdio.h>

static const char *const stage_prepare[] = { "BACKUP STAGE START", "BACKUP STAGE FLUSH", NULL };
static const char *const stage_freeze[] = { "BACKUP STAGE BLOCK_DDL", "BACKUP STAGE BLOCK_COMMIT", NULL };
static const char *const stage_thaw[] = { "BACKUP STAGE END", NULL };

static const char *const lock_prepare[] = { "LOCK INSTANCE FOR BACKUP", NULL };
static const char *const lock_freeze[] = { "FLUSH TABLES WITH READ LOCK", NULL };
static const char *const lock_thaw[] = { "UNLOCK TABLES", "UNLOCK INSTANCE", NULL };

static const MariadbProduct products[] = {
        {
                .caption = "MariaDB",
                .prepare = stage_prepare,
                .freeze = stage_freeze,
                .thaw = stage_thaw,
                .ask_directories = "SELECT @@datadir, @@innodb_data_home_dir, @@innodb_log_group_home_dir, "
                                   "@@innodb_undo_directory, @@aria_log_dir_path, NULL, NULL, @@log_bin_basename, "
                                   "@@log_bin_index",
                .patterns = { "ibdata*", "ib_logfile*", "undo*", "aria_log*" },
                .ask_tablespaces = "SELECT FILENAME FROM information_schema.INNODB_SYS_TABLESPACES "
                                   "WHERE FILENAME LIKE '/%'",
        },
        {
                .caption = "MySQL",
                .prepare = lock_prepare,
                .freeze = lock_freeze,
                .thaw = lock_thaw,
                .ask_directories = "SELECT @@datadir, @@innodb_data_home_dir, @@innodb_log_group_home_dir, "
                                   "@@innodb_undo_directory, @@innodb_doublewrite_dir, @@innodb_log_group_home_dir, "
                                   "NULL, @@log_bin_basename, @@log_bin_index",
                .patterns = { "ibdata*", "#innodb_redo/*", "undo*", "#ib_*", "ib_logfile*" },
                .ask_tablespaces = "SELECT PATH FROM information_schema.INNODB_DATAFILES WHERE PATH LIKE '/%'",
                .ask_position = "SELECT LOCAL->>'$.binary_log_file', LOCAL->>'$.binary_log_position', "
                                "LOCAL->>'$.gtid_executed', UNIX_TIMESTAMP() FROM performance_schema.log_status "
                                "WHERE @@log_bin",
        },
};

const MariadbProduct *mariadb_product(const MariadbServer *s) {
        return products + s->is_mysql;
}

int mariadb_product_check(const MariadbServer *s, const char *version, Failure *reterr) {
        unsigned major = 0, minor = 0, patch = 0;
        (void) sscanf(version, "%u.%u.%u", &major, &minor, &patch);
        if (!s->is_mysql || major > 8 || (major == 8 && (minor > 0 || patch >= 20)))
                return 0;
        return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                           "%.60s is neither MariaDB nor a MySQL that has all of LOCK INSTANCE FOR BACKUP (8.0.20)",
                           version);
}

int mariadb_product_do(MariadbServer *s, uint64_t until_usec, const char *const *statements, Failure *reterr) {
        int r = 0;
        for (; r >= 0 && *statements; statements++)
                r = server_do(s, until_usec, *statements, reterr);
        return r;
}
