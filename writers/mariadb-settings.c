/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a server has to be started with so that it reads the files of another and applies its log with the same result.
 * The configuration of that other cannot be read from here for sure, what came of it can be asked for. Directories go
 * to where their files went, so they are kept apart.
 */
#include "protocol/text.h"
#include "writers/mariadb.h"
#include <ctype.h>
#include <stdio.h>

enum { SETTINGS_MAX = 64 };
#define DIRECTORIES "'INNODB_DATA_HOME_DIR', 'INNODB_LOG_GROUP_HOME_DIR', 'INNODB_UNDO_DIRECTORY', 'ARIA_LOG_DIR_PATH'"
#define ASK_SETTINGS \
        "SELECT LOWER(VARIABLE_NAME), VARIABLE_VALUE FROM information_schema.GLOBAL_VARIABLES WHERE VARIABLE_NAME IN (" \
        "'BASEDIR', 'BINLOG_ANNOTATE_ROW_EVENTS', 'BINLOG_CHECKSUM', 'BINLOG_FORMAT', 'BINLOG_ROW_IMAGE', " \
        "'BINLOG_ROW_METADATA', 'CHARACTER_SETS_DIR', 'CHARACTER_SET_SERVER', 'COLLATION_SERVER', " \
        "'DEFAULT_STORAGE_ENGINE', 'EXPLICIT_DEFAULTS_FOR_TIMESTAMP', 'GTID_DOMAIN_ID', 'INNODB_CHECKSUM_ALGORITHM', " \
        "'INNODB_DATA_FILE_PATH', 'INNODB_DEFAULT_ROW_FORMAT', 'INNODB_FILE_PER_TABLE', 'INNODB_LOG_FILE_SIZE', " \
        "'INNODB_PAGE_SIZE', 'INNODB_STRICT_MODE', 'INNODB_UNDO_TABLESPACES', 'LC_MESSAGES_DIR', " \
        "'LOWER_CASE_TABLE_NAMES', 'PLUGIN_DIR', 'PLUGIN_MATURITY', 'SERVER_ID', 'SQL_MODE', 'TIME_ZONE', 'TMPDIR', " DIRECTORIES \
        ")"

typedef struct Asked {
        MariadbForward *forward;
        char base[MARIADB_VALUE_BYTES];
} Asked;

static int directory_keep(MariadbForward *f, const char *name, const char *value) {
        static const char *const names[] = { MARIADB_DIRECTORIES };
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (streq(name, names[i])) {
                        f->directories[i] = strdup(value);
                        return f->directories[i] ? 1 : -ENOMEM;
                }
        return 0;
}

static int take_setting(void *target, char **v, Failure *reterr) {
        Asked *a = target;
        char text[2 * MARIADB_VALUE_BYTES];
        const char *name = v[0] ?: "", *value = v[1] ?: "";
        if (strlen(name) + strlen(value) + 16 > MARIADB_VALUE_BYTES)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "mariadb says of %.60s more than can be kept",
                                   name);
        if (streq(name, "basedir")) {
                (void) snprintf(a->base, sizeof(a->base), "%s", value);
                return 0;
        }
        if (value[0] == '\0' && !streq(name, "sql_mode"))
                return 0;
        int r = directory_keep(a->forward, name, value);
        if (r != 0)
                return MIN_OF(r, 0);
        if (streq(name, "time_zone") && streq(value, "SYSTEM"))
                return 0;
        (void) snprintf(text, sizeof(text), "--%s%s=%s", streq(name, "time_zone") ? "default_" : "", name, value);
        return strings_append(&a->forward->settings, text);
}

/* The first of these that is a program, below base. */
static bool program_find(const char *base, const char *const *names, char ret[static PATH_MAX]) {
        for (; *names; names++) {
                int n = snprintf(ret, PATH_MAX, "%s/%s", base, *names);
                if (n > 0 && n < PATH_MAX && access(ret, X_OK) == 0)
                        return true;
        }
        ret[0] = '\0';
        return false;
}

static const char *programs_find(MariadbForward *f, const char *base) {
        static const char *const servers[] = { "sbin/mariadbd", "bin/mariadbd", "libexec/mariadbd",
                                               "sbin/mysqld",   "bin/mysqld",   NULL },
                                 *const readers[] = { "bin/mariadb-binlog", "bin/mysqlbinlog", NULL },
                                 *const clients[] = { "bin/mariadb", "bin/mysql", NULL };
        if (base[0] != '/' || !program_find(base, servers, f->server))
                return "no: mariadbd is not below basedir";
        if (!program_find(base, readers, f->reader))
                return "no: mariadb-binlog is not below basedir";
        return program_find(base, clients, f->client) ? NULL : "no: the program mariadb is not below basedir";
}

void mariadb_settings_done(MariadbForward *f) {
        (void) strings_free(f->settings);
        for (size_t i = 0; i < ELEMENTSOF(f->directories); i++)
                free(f->directories[i]);
        *f = (MariadbForward) {};
}

/* What was known is kept if the server ends meanwhile. */
int mariadb_settings_ask(Mariadb *d, uint64_t until_usec, Failure *reterr) {
        MariadbForward asked = {};
        Asked a = { .forward = &asked };
        char n[MARIADB_VALUE_BYTES];
        if (d->server.is_mysql) {
                mariadb_settings_done(&d->forward);
                d->forward.none = "no: the binary log of MySQL is applied by hand; see vss-writer-mariadb(8)";
                return 0;
        }
        int r = server_ask(&d->server, until_usec, ASK_SETTINGS, SETTINGS_MAX, take_setting, &a, reterr);
        r = r < 0 ? r :
                    server_value(&d->server, until_usec,
                                 "SELECT COUNT(*) FROM information_schema.PLUGINS WHERE PLUGIN_TYPE = 'ENCRYPTION'", 0,
                                 n, reterr);
        if (r < 0) {
                mariadb_settings_done(&asked);
                return r;
        }
        asked.none = streq(n, "0") ? programs_find(&asked, a.base) :
                                     "no: the server encrypts, and the keys are its own";
        mariadb_settings_done(&d->forward);
        d->forward = asked;
        return 0;
}
