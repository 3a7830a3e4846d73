/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-writer-postgresql: a PostgreSQL cluster takes part in snapshots. Where the whole cluster, its log and every
 * tablespace included, is in the copy at one instant, the copy is what a crash at that instant would leave, and
 * PostgreSQL recovers from that by itself: a checkpoint in PrepareSnapshot shortens it, and nobody has to wait in the
 * window. Otherwise (or with --mode=backup) the server is told that a backup is made: pg_backup_start() before,
 * pg_backup_stop() after, on the same session, whose label goes into the copy (postgresql-backup.c).
 */
#include "writers/postgresql.h"
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

#define IDENTIFY_USEC (5 * USEC_PER_SEC)

int pg_veto(Postgresql *p, struct vss_event *e, const Failure *f) {
        int r = vss_event_fail(e, server_veto(&p->server), "%s", f->message);
        server_disconnect(&p->server); /* and with it a backup it may be making */
        return r;
}

/* --- where its files are ------------------------------------------------------------------------------------------ */

static int place_add(Places *p, const char *path, bool is_log, Failure *reterr) {
        char *real = NULL;
        struct stat st;
        if (path[0] != '/')
                return failure_set(reterr, CONDITION_FAILED, "postgresql names %.200s, which is no absolute path",
                                   path);
        if (p->n >= PLACES_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d tablespaces", PLACES_MAX);
        int r = path_absolute(path, &real, reterr);
        if (r < 0)
                return r;
        p->places[p->n++] = (Place) { real, is_log };
        if (stat(real, &st) < 0 || !S_ISDIR(st.st_mode) || (p->n > 1 && st.st_uid != p->owner))
                return failure_set(reterr, CONDITION_FAILED,
                                   "postgresql names %.200s, which is no directory of its own", real);
        p->owner = st.st_uid;
        return 0;
}

static int take_data_directory(void *target, char *const *v, Failure *reterr) {
        char log[PATH_MAX];
        Places *p = target;
        int r = place_add(p, v[0] ?: "", false, reterr);
        if (r < 0)
                return r;
        (void) snprintf(log, sizeof(log), "%s/pg_wal", p->places[0].path);
        r = place_add(p, log, true, reterr);
        if (r >= 0 && path_is_inside(p->places[p->n - 1].path, p->places[0].path))
                free(p->places[--p->n].path); /* no link: it is in the data directory */
        return r;
}

static int take_tablespace(void *target, char *const *v, Failure *reterr) {
        return place_add(target, v[0] ?: "", false, reterr);
}

void places_done(Places *p) {
        while (p->n > 0)
                free(p->places[--p->n].path);
}

int places_get(Postgresql *p, uint64_t until_usec, Places *ret, Failure *reterr) {
        ret->n = 0;
        int r = server_ask(&p->server, until_usec, "SELECT pg_catalog.current_setting('data_directory')",
                           take_data_directory, ret, reterr);
        return r < 0 ? r :
                       server_ask(&p->server, until_usec,
                                  "SELECT pg_catalog.pg_tablespace_location(oid) FROM pg_catalog.pg_tablespace "
                                  "WHERE pg_catalog.pg_tablespace_location(oid) LIKE '/%'",
                                  take_tablespace, ret, reterr);
}

static int places_describe(struct vss_metadata *m, const Places *p, uint32_t flags) {
        int r = 0;
        for (size_t i = 0; r >= 0 && i < p->n; i++)
                r = vss_metadata_files(m, COMPONENT, p->places[i].path, "*",
                                       VSS_FILES_RECURSIVE | (p->places[i].is_log ? VSS_FILES_LOG : 0) | flags);
        /* The second belongs to the server that runs; a copy with it does not start while that process number is taken.
         */
        r = r < 0 ? r : vss_metadata_exclude(m, p->places[0].path, "postmaster.opts", 0);
        return r < 0 ? r : vss_metadata_exclude(m, p->places[0].path, "postmaster.pid", 0);
}

static int take_archives(void *target, char *const *v, Failure *reterr) {
        *(bool *) target = v[0] && !streq(v[0], "off");
        return 0;
}

static int take_cluster(void *target, char *const *v, Failure *reterr) {
        Places *p = target;
        (void) snprintf(p->system, sizeof(p->system), "%s", v[0] ?: "");
        (void) snprintf(p->port, sizeof(p->port), "%s", v[1] ?: "");
        return 0;
}

/* What the server tells is kept for a restore, in which it does not run. */
static int know(Postgresql *p, uint64_t until_usec, Failure *reterr) {
        Places places = {};
        int r = places_get(p, until_usec, &places, reterr);
        if (r >= 0)
                r = server_ask(&p->server, until_usec, "SELECT pg_catalog.current_setting('archive_mode')",
                               take_archives, &p->archives, reterr);
        r = r < 0 ? r :
                    server_ask(&p->server, until_usec,
                               "SELECT system_identifier, pg_catalog.current_setting('port') "
                               "FROM pg_catalog.pg_control_system()",
                               take_cluster, &places, reterr);
        if (r < 0) {
                places_done(&places);
                return r;
        }
        places_done(&p->known);
        p->known = places;
        return 0;
}

/* Backups of the log, and going forward with it, where the server archives it and we know where. */
static int archive_describe(struct vss_metadata *m, const Postgresql *p) {
        static const char *const words[] = { "log", "roll-forward" };
        int r = 0;
        if (!p->archive || !p->archives)
                return vss_metadata_set(m, "x.log_backup",
                                        p->archive ? "no: archive_mode is off" : "no: --archive is not given");
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(words); i++)
                r = vss_metadata_set(m, "backup_schema", words[i]);
        return r < 0 ? r : vss_metadata_files(m, COMPONENT, p->archive, "*", VSS_FILES_LOG | VSS_FILES_LOG_BACKUP);
}

static int identify(struct vss_metadata *m, void *userdata) {
        Postgresql *p = userdata;
        Failure f = {};
        int r = know(p, usec_add(now_usec(), IDENTIFY_USEC), &f);
        uint32_t flags = p->archive && p->archives ? VSS_FILES_NO_LOG_BACKUP : 0;
        r = r < 0 ? r : vss_metadata_set(m, "restore.method", "stop-restore-start");
        r = r < 0 ? r : vss_metadata_set(m, "restore.service", p->options.service);
        r = r < 0 ? r :
                    vss_metadata_component(m, COMPONENT,
                                           VSS_COMPONENT_DATABASE | VSS_COMPONENT_SELECTABLE |
                                                   VSS_COMPONENT_SELECTABLE_FOR_RESTORE |
                                                   (p->mode == MODE_CHECKPOINT ? 0 : VSS_COMPONENT_RECOVERS),
                                           "PostgreSQL cluster");
        r = r < 0 ? r : places_describe(m, &p->known, flags);
        r = r < 0 ? r : vss_metadata_set(m, "x.system_identifier", p->known.system);
        r = r < 0 ? r : vss_metadata_set(m, "x.port", p->known.port);
        r = r < 0 ? r : vss_metadata_set(m, "backup_schema", "new-target");
        r = r < 0 ? r : vss_metadata_set(m, "backup_schema", "rename");
        r = r < 0 ? r : archive_describe(m, p);
        if (r < 0)
                fprintf(stderr, "vss-writer-postgresql: cannot say what there is: %s\n",
                        f.message[0] ? f.message : strerror(-r));
        return r;
}

/* --- a set -------------------------------------------------------------------------------------------------------- */

/* 1: all of it is in the set. 0: nothing. Else the set is refused: part of a cluster is worth nothing. */
static int is_affected(Postgresql *p, struct vss_event *e) {
        Places places = {};
        Failure f = {};
        const char *missing = NULL;
        size_t in = 0;
        int r = places_get(p, program_until(e), &places, &f);
        for (size_t i = 0; r >= 0 && i < places.n; i++)
                if (vss_event_affects(e, places.places[i].path))
                        in++;
                else
                        missing = missing ?: places.places[i].path;
        if (r < 0)
                r = pg_veto(p, e, &f);
        else if (in > 0 && missing)
                r = vss_event_fail(e, VSS_VETO_MISSING_VOLUME, "part of the cluster is at %s, which is not in the set",
                                   missing);
        else
                r = in > 0;
        places_done(&places);
        return r;
}

static int take_facts(void *target, char *const *v, Failure *reterr) {
        static const char *const keys[] = { "system_identifier", "timeline", "lsn", "segment_bytes" };
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                json_add_string(target, keys[i], v[i] ?: "");
        return 0;
}

static int facts_put(const Postgresql *p, struct vss_event *e) {
        return vss_event_put(e, COMPONENT, "metadata",
                             json_object_to_json_string_ext(p->facts, JSON_C_TO_STRING_PLAIN));
}

#define FLUSHED \
        "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() " \
        "ELSE pg_catalog.pg_current_wal_flush_lsn() END"

/* {"system_identifier": …, "timeline": …, "lsn": …}: everything up to this position in the log is in the copy. */
static int facts_tell(Postgresql *p, struct vss_event *e, Failure *reterr) {
        json_object_put(p->facts);
        p->facts = json_object_new_object();
        int r = server_ask(&p->server, program_until(e),
                           "SELECT s.system_identifier, c.timeline_id, " FLUSHED ", "
                           "(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size') "
                           "FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c",
                           take_facts, p->facts, reterr);
        if (r < 0)
                return r;
        json_add_string(p->facts, "data_directory", p->known.n > 0 ? p->known.places[0].path : "");
        return facts_put(p, e);
}

static int take_end(void *target, char *const *v, Failure *reterr) {
        Postgresql *p = target;
        json_add_string(p->facts, "end_lsn", v[0] ?: "");
        json_add_string(p->facts, "end_time", v[1] ?: "");
        return 0;
}

/* "end_lsn", "end_time": nothing that was begun later is in the copy. The next backup builds on it from "lsn" on. */
static int end_tell(Postgresql *p, struct vss_event *e, Failure *reterr) {
        LogPoint stamp = { .timeline = (uint32_t) strtoul(json_get_string(p->facts, "timeline", "0"), NULL, 10) };
        int r = server_ask(&p->server, program_until(e),
                           "SELECT " FLUSHED ", pg_catalog.to_char(pg_catalog.timezone('UTC', "
                           "pg_catalog.clock_timestamp()), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
                           take_end, p, reterr);
        if (r < 0)
                return r;
        (void) snprintf(stamp.system, sizeof(stamp.system), "%s", json_get_string(p->facts, "system_identifier", ""));
        if (pg_lsn_parse(json_get_string(p->facts, "lsn", ""), &stamp.lsn))
                r = pg_stamp_tell(e, &stamp);
        return r < 0 ? r : facts_put(p, e);
}

static bool is_log_backup(const struct vss_event *e) {
        const char *type = NULL;
        return vss_event_get(e, NULL, "backup_type", &type) >= 0 && streq(type, "log");
}

static int prepare_log(Postgresql *p, struct vss_event *e) {
        Failure f = {};
        if (!p->archive || !vss_event_affects(e, p->archive))
                return 0;
        int r = p->archives ? pg_log_backup(p, e, &f) :
                              failure_set(&f, CONDITION_FAILED, "the server does not archive its log any more");
        return r < 0 ? pg_veto(p, e, &f) : 0;
}

static int prepare_snapshot(struct vss_event *e, void *userdata) {
        Postgresql *p = userdata;
        Failure f = {};
        server_disconnect(&p->server); /* nothing of an earlier set is left */
        p->backup.running = false;
        if (is_log_backup(e))
                return prepare_log(p, e);
        int r = is_affected(p, e);
        if (r <= 0)
                return r;
        if (p->mode == MODE_CHECKPOINT && !vss_event_one_instant(e))
                return vss_event_fail(e, VSS_VETO_FATAL,
                                      "the copies are not of one instant: that needs --mode=auto or --mode=backup");
        if (p->mode == MODE_BACKUP || (p->mode == MODE_AUTO && !vss_event_one_instant(e)))
                r = pg_backup_begin(p, e, &f);
        else
                r = server_do(&p->server, program_until(e), "CHECKPOINT", &f);
        r = r < 0 ? r : facts_tell(p, e, &f);
        return r < 0 ? pg_veto(p, e, &f) : 0;
}

/* Where its files are is looked at once more: a tablespace may have been made after PrepareSnapshot. */
static int post_snapshot(struct vss_event *e, void *userdata) {
        Postgresql *p = userdata;
        Failure f = {};
        if (p->backup.running && pg_backup_end(p, e, &f) < 0)
                return pg_veto(p, e, &f);
        if (is_log_backup(e))
                return 0;
        int r = is_affected(p, e);
        if (r > 0 && p->facts && end_tell(p, e, &f) < 0)
                return pg_veto(p, e, &f);
        return MIN_OF(r, 0);
}

static int do_abort(struct vss_event *e, void *userdata) {
        Postgresql *p = userdata;
        p->backup.running = false;
        server_disconnect(&p->server);
        return 0;
}

/* --- the program -------------------------------------------------------------------------------------------------- */

static int set_dsn(void *target, const char *value, Failure *reterr) {
        Postgresql *p = target;
        int r = server_dsn_check(value, reterr);
        return r < 0 ? r : option_text(&p->server.dsn, value, reterr);
}

static int set_archive(void *target, const char *value, Failure *reterr) {
        Postgresql *p = target;
        if (!pg_archive_path_is_plain(value))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "--archive: an absolute path of letters, digits and ._+-@:,= is needed");
        free(p->archive);
        p->archive = NULL;
        return path_absolute(value, &p->archive, reterr);
}

static int set_mode(void *target, const char *value, Failure *reterr) {
        static const char *const words[] = { "auto", "checkpoint", "backup" };
        Postgresql *p = target;
        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (streq(value, words[i])) {
                        p->mode = (Mode) i;
                        return 0;
                }
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "mode is auto, checkpoint or backup, not %s", value);
}

static int take_version(void *target, char *const *v, Failure *reterr) {
        Postgresql *p = target;
        (void) snprintf(p->version, sizeof(p->version), "%.60s", v[0] ?: "");
        if (atoi(p->version) < 15)
                return failure_set(reterr, CONDITION_NOT_SUPPORTED, "postgresql %s is older than 15", p->version);
        return 0;
}

static int serve(Program *program, Postgresql *p) {
        Failure f = {};
        uint64_t end = usec_add(now_usec(), IDENTIFY_USEC);
        (void) signal(SIGPIPE, SIG_IGN);
        /* The server has to be there when we begin: a wrong path or password is noticed by whoever typed it. */
        int r = server_ask(&p->server, end, "SELECT pg_catalog.current_setting('server_version')", take_version, p, &f);
        r = r < 0 ? r : know(p, end, &f);
        if (r < 0)
                return program_fail(program, &f);
        struct vss_writer_callbacks c = { VSS_WRITER_CALLBACKS,           .version = p->version,
                                          .usage = VSS_USAGE_USER_DATA,   .source = VSS_SOURCE_TRANSACTED,
                                          .identify = identify,           .prepare_snapshot = prepare_snapshot,
                                          .post_snapshot = post_snapshot, .abort = do_abort,
                                          .pre_restore = pg_pre_restore,  .post_restore = pg_post_restore };
        return program_run(program, &c, p);
}

int main(int argc, char *argv[]) {
        static const ProgramOption options[] = {
                { "dsn", "CONNINFO", "how to connect, as for psql (default \"dbname=postgres\")", set_dsn },
                { "mode", "MODE", "auto (default), checkpoint or backup", set_mode },
                { "archive", "DIR", "where archive_command puts the log", set_archive },
                { "service", "UNIT", "what a restore stops (default postgresql.service)", option_service },
        };
        static Postgresql p;
        Program program = { .command = "vss-writer-postgresql",
                            .arguments = "",
                            .summary = "Lets a PostgreSQL cluster take part in snapshots.",
                            .options = options,
                            .n_options = ELEMENTSOF(options),
                            .target = &p,
                            .name = (char *) "postgresql",
                            .level = LEVEL_BACK_END };
        Failure f = {};
        if (option_service(&p, "postgresql.service", &f) < 0 || set_dsn(&p, "dbname=postgres", &f) < 0)
                return program_fail(&program, &f);
        if (program_parse(&program, argc, argv) == 0)
                program.status = serve(&program, &p);
        server_disconnect(&p.server);
        free(p.server.dsn);
        free(p.archive);
        places_done(&p.known);
        json_object_put(p.facts);
        writer_options_done(&p.options);
        program_done(&program);
        return program.status;
}
