/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-writer-mariadb: brings a MariaDB server (10.4.1 or later) to rest for a copy, with BACKUP STAGE on one session;
 * or one of MySQL (8.0.20 or later), with what that has instead: mariadb-product.h.
 *
 * PrepareSnapshot does what disturbs nobody: START (redo logs are kept) and FLUSH (tables without transactions that are
 * not in use are written and closed). Freeze waits for statements that change such tables or the schema (BLOCK_DDL) and
 * then keeps commits from happening (BLOCK_COMMIT); reading goes on, and so does work inside transactions. What was
 * committed before is in the copy and nothing that was committed after it; the position in the binary log that belongs
 * to that moment goes into the manifest. Thaw is END, which fails if the session, and with it the lock, was lost.
 *
 * A set of type log is another matter: mariadb-log.c, and nothing is locked.
 */
#include "protocol/jsonutil.h"
#include "writers/mariadb-place.h"
#include "writers/mariadb.h"
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#define FREEZE_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define IDENTIFY_USEC (5 * USEC_PER_SEC)
#define COUNT_USEC (1 * USEC_PER_SEC) /* for counting tables, which opens each of them */
#define RELEASE_USEC (2 * USEC_PER_SEC)
enum { TABLESPACES_MAX = 1024 };

/* --- identify ----------------------------------------------------------------------------------------------------- */

typedef struct Identify {
        struct vss_metadata *metadata;
        Mariadb *mariadb;
        const char *directory; /* data */
        uint32_t flags;        /* of files that no backup of the log has */
} Identify;

static bool lies_in(const char *path, const char *directory) {
        size_t n = strlen(directory);
        while (n > 1 && directory[n - 1] == '/')
                n--;
        return strncmp(path, directory, n) == 0 && (path[n] == '/' || path[n] == '\0' || n == 1);
}

/* What the server calls a path, as seen by us: absolute, without symbolic links. */
static int real_path(const Identify *i, const char *path, char ret[static PATH_MAX], Failure *reterr) {
        char whole[PATH_MAX + MARIADB_VALUE_BYTES + 2];
        (void) snprintf(whole, sizeof(whole), "%s%s%s", path[0] == '/' ? "" : i->directory, path[0] == '/' ? "" : "/",
                        path);
        if (!realpath(whole, ret))
                return failure_set(reterr, CONDITION_FAILED, "%.300s, which mariadb names: %s", whole, strerror(errno));
        return 0;
}

/* Only what lies elsewhere: the data directory is in the component as a whole. */
static int files_elsewhere(const Identify *i, const char *directory, const char *pattern, Failure *reterr) {
        char real[PATH_MAX], below[PATH_MAX + NAME_MAX];
        const char *slash = strchr(pattern, '/');
        if (!directory[0])
                return 0;
        int r = real_path(i, directory, real, reterr);
        if (r < 0 || lies_in(real, i->directory))
                return r;
        (void) snprintf(below, sizeof(below), "%s/%.*s", real, slash ? (int) (slash - pattern) : 0, pattern);
        if (access(below, F_OK) < 0 && errno == ENOENT) /* of another version */
                return 0;
        r = real_path(i, below, real, reterr);
        uint32_t log = strstr(pattern, "log") || slash ? VSS_FILES_LOG : 0;
        return r < 0 ? r :
                       vss_metadata_files(i->metadata, COMPONENT, real, slash ? slash + 1 : pattern, log | i->flags);
}

/* Its directory and what its files are called; why there is no backup of it, if there is none. */
static int log_find(const Identify *i, const char *base, const char *index, Failure *reterr) {
        Mariadb *d = i->mariadb;
        char directory[MARIADB_VALUE_BYTES] = "", expected[PATH_MAX + NAME_MAX + 8], real[PATH_MAX];
        d->log_directory[0] = d->log_name[0] = '\0';
        d->no_log_backup = "no: log_bin is off";
        if (!base[0])
                return 0;
        (void) snprintf(directory, sizeof(directory), "%s", base);
        char *slash = strrchr(directory, '/');
        if (!slash || strpbrk(slash, "*?[") || strlen(slash + 1) > NAME_MAX - 12)
                return failure_set(reterr, CONDITION_NOT_SUPPORTED, "the binary log is called %.200s", base);
        (void) snprintf(d->log_name, sizeof(d->log_name), "%.240s", slash + 1);
        *slash = '\0';
        int r = real_path(i, directory[0] ? directory : "/", d->log_directory, reterr);
        if (r < 0)
                return r;
        (void) snprintf(expected, sizeof(expected), "%s/%s.index", d->log_directory, d->log_name);
        bool beside = real_path(i, index, real, NULL) >= 0 && streq(expected, real);
        d->no_log_backup = beside ? NULL : "no: log_bin_index is not beside the binary log";
        return 0;
}

/* In all backups where it lies elsewhere; in the data directory once more, for those of the log. */
static int log_describe(const Identify *i) {
        const Mariadb *d = i->mariadb;
        char pattern[NAME_MAX + 8];
        bool inside = lies_in(d->log_directory, i->directory);
        if (!d->log_name[0] || (inside && d->no_log_backup))
                return 0;
        (void) snprintf(pattern, sizeof(pattern), "%s.*", d->log_name);
        return vss_metadata_files(i->metadata, COMPONENT, d->log_directory, pattern,
                                  VSS_FILES_LOG | (inside ? VSS_FILES_LOG_BACKUP : 0));
}

static int take_directories(void *target, char **v, Failure *reterr) {
        Identify *i = target;
        const MariadbProduct *product = mariadb_product(&i->mariadb->server);
        struct stat st;
        if (!v[0] || v[0][0] != '/' || !realpath(v[0], i->mariadb->data) || stat(i->mariadb->data, &st) < 0)
                return failure_set(reterr, CONDITION_FAILED, "the data directory %.200s: %s", v[0] ?: "",
                                   strerror(errno));
        i->mariadb->owner = st.st_uid;
        int r = log_find(i, v[7] ?: "", v[8] ?: "", reterr);
        i->flags = i->mariadb->no_log_backup ? 0 : VSS_FILES_NO_LOG_BACKUP;
        r = r < 0 ? r : vss_metadata_files(i->metadata, COMPONENT, i->directory, "*", VSS_FILES_RECURSIVE | i->flags);
        for (size_t k = 0; k < ELEMENTSOF(product->patterns); k++)
                if (product->patterns[k])
                        r = r < 0 ? r : files_elsewhere(i, v[1 + k] ?: "", product->patterns[k], reterr);
        return r < 0 ? r : log_describe(i);
}

static int take_tablespace(void *target, char **v, Failure *reterr) {
        Identify *i = target;
        char path[MARIADB_VALUE_BYTES], real[PATH_MAX];
        if (!v[0] || strlen(v[0]) >= sizeof(path))
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "the path of a tablespace is too long");
        (void) snprintf(path, sizeof(path), "%s", v[0]);
        char *slash = strrchr(path, '/');
        if (path[0] != '/' || !slash || lies_in(path, i->directory))
                return 0;
        if (strpbrk(slash, "*?["))
                return failure_set(reterr, CONDITION_NOT_SUPPORTED, "a tablespace is called %.200s", path);
        *slash = '\0';
        int r = real_path(i, path, real, reterr);
        i->mariadb->tablespaces_elsewhere++;
        return r < 0 ? r : vss_metadata_files(i->metadata, COMPONENT, real, slash + 1, i->flags);
}

static int schema_describe(struct vss_metadata *m, const Mariadb *d) {
        const char *no_forward = d->no_log_backup ?: d->forward.none;
        int r = vss_metadata_set(m, "backup_schema", "new-target");
        if (r >= 0)
                r = no_forward ? vss_metadata_set(m, "x.roll_forward", no_forward) :
                                 vss_metadata_set(m, "backup_schema", "roll-forward");
        if (r < 0)
                return r;
        return d->no_log_backup ? vss_metadata_set(m, "x.log_backup", d->no_log_backup) :
                                  vss_metadata_set(m, "backup_schema", "log");
}

static int identify(struct vss_metadata *m, void *userdata) {
        Mariadb *d = userdata;
        Identify i = { .metadata = m, .mariadb = d, .directory = d->data };
        Failure f = {};
        uint64_t end = usec_add(now_usec(), IDENTIFY_USEC);
        (void) server_do(&d->server, end, "DO 0", NULL); /* a session that a restart of the server ended goes here */
        const MariadbProduct *product = mariadb_product(&d->server);
        int r = vss_metadata_set(m, "restore.method", "stop-restore-start");
        r = r < 0 ? r : vss_metadata_set(m, "restore.service", d->options.service);
        r = r < 0 ? r :
                    vss_metadata_component(m, COMPONENT,
                                           VSS_COMPONENT_DATABASE | VSS_COMPONENT_SELECTABLE |
                                                   VSS_COMPONENT_SELECTABLE_FOR_RESTORE,
                                           product->caption);
        r = r < 0 ? r : server_ask(&d->server, end, product->ask_directories, 1, take_directories, &i, &f);
        d->tablespaces_elsewhere = 0;
        r = r < 0 ? r : server_ask(&d->server, end, product->ask_tablespaces, TABLESPACES_MAX, take_tablespace, &i, &f);
        r = r < 0 ? r : mariadb_settings_ask(d, end, &f);
        r = r < 0 ? r : schema_describe(m, d);
        if (r < 0)
                fprintf(stderr, "vss-writer-mariadb: cannot say what there is: %s\n",
                        f.message[0] ? f.message : strerror(-r));
        return r;
}

/* --- a set -------------------------------------------------------------------------------------------------------- */

int mariadb_veto(Mariadb *d, struct vss_event *e, const Failure *f) {
        int r = vss_event_fail(e, server_veto(&d->server), "%s", f->message);
        server_disconnect(&d->server); /* and with it everything it holds */
        return r;
}

/* Tables without transactions are whole in the copy, but a crash of the server may tear them: worth knowing. */
static int tell_of_tables(Mariadb *d, struct vss_event *e) {
        char n[MARIADB_VALUE_BYTES], text[128];
        int r = server_value(&d->server, MIN_OF(program_until(e), usec_add(now_usec(), COUNT_USEC)),
                             "SELECT COUNT(*) FROM information_schema.TABLES WHERE ENGINE IN ('MyISAM', 'CSV', "
                             "'ARCHIVE') AND TABLE_SCHEMA NOT IN ('mysql', 'performance_schema', 'sys')",
                             0, n, NULL);
        if (r < 0 || streq(n, "0"))
                return 0;
        (void) snprintf(text, sizeof(text), "%.20s tables are not transactional: written and closed for the copy", n);
        return vss_event_put(e, NULL, "message", text);
}

static bool is_log_backup(const struct vss_event *e) {
        const char *type = NULL;
        return vss_event_get(e, NULL, "backup_type", &type) >= 0 && streq(type, "log");
}

static int prepare_log(Mariadb *d, struct vss_event *e) {
        Failure f = {};
        d->log_from = 0;
        if (d->no_log_backup || !vss_event_affects(e, d->log_directory))
                return 0;
        return mariadb_log_backup(d, e, &f) < 0 ? mariadb_veto(d, e, &f) : 0;
}

static int prepare_snapshot(struct vss_event *e, void *userdata) {
        Mariadb *d = userdata;
        Failure f = {};
        server_disconnect(&d->server); /* nothing of an earlier set is left */
        if (is_log_backup(e))
                return prepare_log(d, e);
        int r = server_connect(&d->server, program_until(e), &f);
        if (r >= 0)
                (void) tell_of_tables(d, e);
        r = r < 0 ? r : mariadb_product_do(&d->server, program_until(e), mariadb_product(&d->server)->prepare, &f);
        return r < 0 ? mariadb_veto(d, e, &f) : 0;
}

static int take_position(void *target, char **v, Failure *reterr) {
        json_object *o = target;
        json_add_string(o, "binlog_file", v[0] ?: "");
        json_add_uint(o, "binlog_position", strtoull(v[1] ?: "0", NULL, 10));
        return 0;
}

static int take_gtid(void *target, char **v, Failure *reterr) {
        json_object *o = target;
        json_add_string(o, "gtid", v[0] ?: "");
        json_add_uint(o, "binlog_time", strtoull(v[1] ?: "0", NULL, 10));
        return 0;
}

static int take_all(void *target, char **v, Failure *reterr) {
        (void) take_position(target, v, reterr);
        return take_gtid(target, v + 2, reterr);
}

/* Where the binary log ends now, into o; nothing without one. */
static int position_ask(Mariadb *d, uint64_t until_usec, json_object *o, Failure *reterr) {
        const char *all = mariadb_product(&d->server)->ask_position;
        if (all)
                return server_ask(&d->server, until_usec, all, 1, take_all, o, reterr);
        int r = server_ask(&d->server, until_usec, "SHOW MASTER STATUS", 1, take_position, o, reterr);
        return r < 0 || json_object_object_length(o) == 0 ?
                       r :
                       server_ask(&d->server, until_usec, "SELECT @@gtid_binlog_pos, UNIX_TIMESTAMP()", 1, take_gtid, o,
                                  reterr);
}

/*
 * {"binlog_file": …, "binlog_position": …, "binlog_made": when that file was, "binlog_time": now, "gtid": …}, times in
 * seconds since 1970; nothing without a binary log
 */
static int position_tell(Mariadb *d, struct vss_event *e, Failure *reterr) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        uint64_t made;
        int r = position_ask(d, program_until(e), o, reterr);
        if (r >= 0 && json_object_object_length(o) > 0) {
                r = mariadb_stamp_tell(d, e, json_get_string(o, "binlog_file", ""),
                                       json_get_uint(o, "binlog_position", 0), &made);
                if (r >= 0)
                        json_add_uint(o, "binlog_made", made);
        }
        if (d->tablespaces_elsewhere > 0)
                json_add_uint(o, "tablespaces_elsewhere", d->tablespaces_elsewhere);
        if (r < 0 || json_object_object_length(o) == 0)
                return r;
        return vss_event_put(e, COMPONENT, "metadata", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
}

static int freeze(struct vss_event *e, void *userdata) {
        Mariadb *d = userdata;
        Failure f = {};
        if (is_log_backup(e))
                return 0;
        int r = mariadb_product_do(&d->server, program_until(e), mariadb_product(&d->server)->freeze, &f);
        r = r < 0 ? r : position_tell(d, e, &f);
        return r < 0 ? mariadb_veto(d, e, &f) : 0;
}

static int thaw(struct vss_event *e, void *userdata) {
        Mariadb *d = userdata;
        Failure f = {};
        if (is_log_backup(e))
                return 0;
        int r = d->server.session ?
                        mariadb_product_do(&d->server, program_until(e), mariadb_product(&d->server)->thaw, &f) :
                        failure_set(&f, CONDITION_FAILED, "mariadb at %s: the session was lost", d->options.socket);
        return r < 0 ? mariadb_veto(d, e, &f) : 0;
}

static int post_snapshot(struct vss_event *e, void *userdata) {
        Mariadb *d = userdata;
        Failure f = {};
        if (!is_log_backup(e) || d->log_from == 0)
                return 0;
        int r = mariadb_log_is_there(d, e, &f);
        return r < 0 ? mariadb_veto(d, e, &f) : 0;
}

/* To end the session is enough; in order if that can be had. */
static int do_abort(struct vss_event *e, void *userdata) {
        Mariadb *d = userdata;
        if (d->server.session)
                (void) mariadb_product_do(&d->server, usec_add(now_usec(), RELEASE_USEC),
                                          mariadb_product(&d->server)->thaw, NULL);
        d->log_from = 0;
        server_disconnect(&d->server);
        return 0;
}

/* --- the program -------------------------------------------------------------------------------------------------- */

/* The server has to be there when we begin: a wrong path or password is noticed by whoever typed it. */
static int begin(Mariadb *d, char version[static MARIADB_VALUE_BYTES], Failure *reterr) {
        uint64_t end = usec_add(now_usec(), IDENTIFY_USEC);
        if (!d->options.socket)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "no --socket=PATH given; see --help");
        int r = server_value(&d->server, end, "SELECT VERSION()", 0, version, reterr);
        r = r < 0 ? r : mariadb_product_check(&d->server, version, reterr);
        if (r < 0)
                return r;
        /* It may and can: nothing waits for that. */
        r = server_do(&d->server, end, mariadb_product(&d->server)->prepare[0], reterr);
        return r < 0 ? r : mariadb_product_do(&d->server, end, mariadb_product(&d->server)->thaw, reterr);
}

static int serve(Program *p, Mariadb *d) {
        char version[MARIADB_VALUE_BYTES];
        Failure f = {};
        (void) signal(SIGPIPE, SIG_IGN);
        place_clean(geteuid()); /* even if the server does not run since a restore that was cut off */
        if (begin(d, version, &f) < 0)
                return program_fail(p, &f);
        (void) metadata_try(identify, d); /* a restore may come first, when the server does not run any more */
        if (d->data[0])
                place_clean(d->owner);
        struct vss_writer_callbacks c = { VSS_WRITER_CALLBACKS,
                                          .version = version,
                                          .usage = VSS_USAGE_USER_DATA,
                                          .source = VSS_SOURCE_TRANSACTED,
                                          .freeze_timeout_usec = d->options.freeze_usec,
                                          .identify = identify,
                                          .prepare_snapshot = prepare_snapshot,
                                          .freeze = freeze,
                                          .thaw = thaw,
                                          .post_snapshot = post_snapshot,
                                          .abort = do_abort,
                                          .pre_restore = mariadb_pre_restore,
                                          .post_restore = mariadb_post_restore };
        return program_run(p, &c, d);
}

int main(int argc, char *argv[]) {
        static const ProgramOption options[] = {
                { "socket", "PATH", "the server's Unix socket", option_socket },
                { "user", "NAME", "account of the server; default: the name of who runs this", option_user },
                { "password-file", "FILE", "first line: the password", option_password_file },
                { "service", "UNIT", "what a restore stops (default mariadb.service)", option_service },
                { "freeze-timeout", "SEC", "longest time commits may wait (default 30)", option_freeze_timeout },
        };
        static Mariadb d = { .options.freeze_usec = FREEZE_TIMEOUT_USEC, .server.options = &d.options };
        Program p = { .command = "vss-writer-mariadb",
                      .arguments = "--socket=PATH",
                      .summary = "Brings a MariaDB or MySQL server to rest while it is copied.",
                      .options = options,
                      .n_options = ELEMENTSOF(options),
                      .target = &d,
                      .name = (char *) "mariadb",
                      .level = LEVEL_BACK_END };
        Failure f = {};
        const struct passwd *who = getpwuid(geteuid());
        if (option_service(&d, "mariadb.service", &f) < 0 || option_user(&d, who ? who->pw_name : "root", &f) < 0)
                return program_fail(&p, &f);
        if (program_parse(&p, argc, argv) == 0)
                p.status = serve(&p, &d);
        server_disconnect(&d.server);
        mariadb_settings_done(&d.forward);
        writer_options_done(&d.options);
        program_done(&p);
        return p.status;
}
