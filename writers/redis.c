/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-writer-redis: brings a Redis server to rest for a copy.
 *
 * With an append-only file everything acknowledged is in the copy. PrepareSnapshot switches automatic rewrites off and
 * waits for one that runs; Freeze pauses the clients that write (CLIENT PAUSE … WRITE: others go on reading, even while
 * the file system stands still) and waits until what they wrote has left the server's memory. The pause ends by itself
 * at the time by which we have to thaw. That nothing was appended in between is checked before the clients go on. The
 * pause is no luxury: of a file that grows, a snapshot of btrfs may have the size of after a write and zeros for its
 * bytes (bench-writers counts them), which a server cuts off or refuses to start on.
 *
 * With only RDB files there is nothing to hold: PrepareSnapshot saves (BGSAVE), the copy has what was there then, and
 * the answer says so. A server that keeps nothing on disk has no component.
 */
#include "writers/program-options.h"
#include "writers/redis-undo.h"
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>

#define FREEZE_TIMEOUT_USEC (30 * USEC_PER_SEC)
#define IDENTIFY_USEC (5 * USEC_PER_SEC)
#define PAUSE_MARGIN_USEC (500 * USEC_PER_MSEC) /* how long a pause outlives the time by which we thaw */
#define CHECK_USEC (500 * USEC_PER_MSEC)        /* for the question whether anything was written */
#define LOOK_MSEC 1                             /* between two looks at a server whose clients wait */
#define LOOK_SELDOM_MSEC 50
#define COMPONENT "dataset"

typedef enum Persistence { PERSISTENCE_NONE, PERSISTENCE_RDB, PERSISTENCE_AOF } Persistence;

typedef struct Redis {
        WriterOptions options; /* first: see there */
        RedisServer server;
        RedisUndo undo;
        char run_id[64], appended[32]; /* at Freeze */
} Redis;

/* --- what the server says ----------------------------------------------------------------------------------------- */

static int info_get(Redis *r, uint64_t until_usec, const char *section, char **ret, Failure *reterr) {
        return REDIS_CALL(&r->server, until_usec, ret, reterr, "INFO", section);
}

static int persistence_get(Redis *r, uint64_t until_usec, Persistence *ret, Failure *reterr) {
        _cleanup_free_ char *info = NULL, *save = NULL;
        int x = info_get(r, until_usec, "persistence", &info, reterr);
        x = x < 0 ? x : redis_config(&r->server, until_usec, "save", &save, reterr);
        if (x < 0)
                return x;
        *ret = redis_info_is(info, "aof_enabled", "1") ? PERSISTENCE_AOF : save[0] ? PERSISTENCE_RDB : PERSISTENCE_NONE;
        return 0;
}

/* Where it keeps its files; from here on it is a path of ours. */
static int directory_get(Redis *r, uint64_t until_usec, char **ret, Failure *reterr) {
        _cleanup_free_ char *directory = NULL;
        int x = redis_config(&r->server, until_usec, "dir", &directory, reterr);
        return x < 0 ? x : path_absolute(directory, ret, reterr);
}

static enum vss_veto veto_of(int error, const Failure *f) {
        if (error == -EACCES)
                return VSS_VETO_FATAL;
        return strstr(f->message, "max number of clients") ? VSS_VETO_NO_RESOURCES : VSS_VETO_RETRYABLE;
}

static int veto(struct vss_event *e, int error, const Failure *f) {
        return vss_event_fail(e, veto_of(error, f), "%s", f->message);
}

/*
 * 1: the server says in INFO persistence that it is so, with all that it says (ret NULL: not wanted). 0: out of time,
 * or nobody wants it any more.
 */
static int wait_for(Redis *r, struct vss_event *e, uint64_t until_usec, bool (*is_so)(const char *info), int look_msec,
                    char **ret, Failure *reterr) {
        for (;;) {
                _cleanup_free_ char *info = NULL;
                int x = info_get(r, until_usec, "persistence", &info, reterr);
                if (x < 0)
                        return x;
                if (is_so(info)) {
                        if (ret)
                                *ret = TAKE_PTR(info);
                        return 1;
                }
                struct pollfd p = { .fd = vss_event_cancel_fd(e), .events = POLLIN };
                if (now_usec() >= until_usec || poll(&p, 1, look_msec) > 0)
                        return 0;
        }
}

/* --- identify ----------------------------------------------------------------------------------------------------- */

/* File names that are patterns would name other files. */
static bool name_is_plain(const char *name) {
        return name[0] && !strpbrk(name, "*?[/") && !streq(name, ".") && !streq(name, "..");
}

static int files_add(Redis *r, struct vss_metadata *m, const char *directory, Failure *reterr) {
        uint64_t end = usec_add(now_usec(), IDENTIFY_USEC);
        _cleanup_free_ char *rdb = NULL, *aof = NULL, *folder = NULL, *path = NULL;
        int x = redis_config(&r->server, end, "dbfilename", &rdb, reterr);
        x = x < 0 ? x : redis_config(&r->server, end, "appendfilename", &aof, reterr);
        if (x < 0)
                return x;
        if (redis_config(&r->server, end, "appenddirname", &folder, NULL) < 0)
                folder = NULL; /* before 7.0: one file */
        if (!name_is_plain(rdb) || !name_is_plain(aof) || (folder && !name_is_plain(folder)))
                return failure_set(reterr, CONDITION_NOT_SUPPORTED, "redis at %s has file names that are patterns",
                                   r->options.socket);
        x = vss_metadata_files(m, COMPONENT, directory, rdb, 0);
        if (x >= 0 && !folder)
                x = vss_metadata_files(m, COMPONENT, directory, aof, VSS_FILES_LOG);
        if (x >= 0 && folder) {
                if (asprintf(&path, "%s/%s", directory, folder) < 0)
                        return -ENOMEM;
                x = vss_metadata_files(m, COMPONENT, path, "*", 0);
        }
        return x < 0 ? x : vss_metadata_exclude(m, directory, "temp-*", 0);
}

static int identify(struct vss_metadata *m, void *userdata) {
        static const char *const words[] = { "none", "rdb", "aof" };
        Redis *r = userdata;
        Failure f = {};
        Persistence p;
        _cleanup_free_ char *directory = NULL;
        uint64_t end = usec_add(now_usec(), IDENTIFY_USEC);
        int x = persistence_get(r, end, &p, &f);
        x = x < 0 ? x : directory_get(r, end, &directory, &f);
        x = x < 0 ? x : vss_metadata_set(m, "restore.method", "stop-restore-start");
        x = x < 0 ? x : vss_metadata_set(m, "restore.service", r->options.service);
        x = x < 0 ? x : vss_metadata_set(m, "x.persistence", words[p]);
        if (x >= 0 && p != PERSISTENCE_NONE) {
                x = vss_metadata_component(m, COMPONENT,
                                           VSS_COMPONENT_DATABASE | VSS_COMPONENT_SELECTABLE |
                                                   VSS_COMPONENT_SELECTABLE_FOR_RESTORE,
                                           "Redis");
                x = x < 0 ? x : files_add(r, m, directory, &f);
        }
        if (x < 0)
                fprintf(stderr, "vss-writer-redis: cannot say what there is: %s\n",
                        f.message[0] ? f.message : strerror(-x));
        return x;
}

/* --- before the window -------------------------------------------------------------------------------------------- */

static bool no_rewrite(const char *info) {
        return redis_info_is(info, "aof_rewrite_in_progress", "0") && redis_info_is(info, "aof_rewrite_scheduled", "0");
}

static bool no_save(const char *info) {
        return redis_info_is(info, "rdb_bgsave_in_progress", "0") && no_rewrite(info);
}

static int rewrites_off(Redis *r, struct vss_event *e, Failure *reterr) {
        _cleanup_free_ char *percentage = NULL;
        RedisChanges c = r->undo.changes;
        int x = redis_config(&r->server, program_until(e), "auto-aof-rewrite-percentage", &percentage, reterr);
        if (x >= 0 && !c.percentage[0] && !streq(percentage, "0")) {
                (void) snprintf(c.percentage, sizeof(c.percentage), "%s", percentage);
                x = redis_undo_note(&r->undo, &c, reterr);
                x = x < 0 ? x :
                            REDIS_CALL(&r->server, program_until(e), NULL, reterr, "CONFIG", "SET",
                                       "auto-aof-rewrite-percentage", "0");
        }
        x = x < 0 ? x : wait_for(r, e, program_until(e), no_rewrite, LOOK_SELDOM_MSEC, NULL, reterr);
        return x == 0 ? failure_set(reterr, CONDITION_FAILED, "redis at %s is still rewriting its append-only file",
                                    r->options.socket) :
                        x;
}

static int save(Redis *r, struct vss_event *e, Failure *reterr) {
        _cleanup_free_ char *info = NULL;
        int x = wait_for(r, e, program_until(e), no_save, LOOK_SELDOM_MSEC, NULL, reterr);
        x = x <= 0 ? x : REDIS_CALL(&r->server, program_until(e), NULL, reterr, "BGSAVE");
        x = x < 0 ? x : wait_for(r, e, program_until(e), no_save, LOOK_SELDOM_MSEC, NULL, reterr);
        if (x == 0)
                return failure_set(reterr, CONDITION_FAILED, "redis at %s is still saving", r->options.socket);
        x = x < 0 ? x : info_get(r, program_until(e), "persistence", &info, reterr);
        if (x < 0)
                return x;
        if (!redis_info_is(info, "rdb_last_bgsave_status", "ok"))
                return failure_set(reterr, CONDITION_FAILED, "redis at %s could not save; its log says why",
                                   r->options.socket);
        return vss_event_put(e, NULL, "message", "only RDB files: the copy has what was there at the save before it");
}

/* 1: this set has to do with us. */
static int is_affected(Redis *r, struct vss_event *e, Persistence *ret, Failure *reterr) {
        _cleanup_free_ char *directory = NULL;
        int x = persistence_get(r, program_until(e), ret, reterr);
        if (x < 0 || *ret == PERSISTENCE_NONE)
                return x;
        x = directory_get(r, program_until(e), &directory, reterr);
        return x < 0 ? x : vss_event_affects(e, directory);
}

static int prepare_snapshot(struct vss_event *e, void *userdata) {
        Redis *r = userdata;
        Persistence p;
        Failure f = {};
        int x = is_affected(r, e, &p, &f);
        if (x > 0)
                x = p == PERSISTENCE_AOF ? rewrites_off(r, e, &f) : save(r, e, &f);
        if (x >= 0)
                return 0;
        x = veto(e, x, &f);
        (void) redis_undo_now(&r->undo, program_until(e), NULL); /* else when it is aborted, or we end */
        return x;
}

/* --- the window --------------------------------------------------------------------------------------------------- */

static bool nothing_in_memory(const char *info) {
        return redis_info_is(info, "aof_buffer_length", "0");
}

/* What it says of its files once nothing is in memory any more. */
static int clients_pause(Redis *r, struct vss_event *e, char **ret_info, Failure *reterr) {
        char msec[24];
        RedisChanges c = r->undo.changes;
        uint64_t end = MIN_OF(usec_add(e->thaw_by_usec, PAUSE_MARGIN_USEC),
                              usec_add(now_usec(), r->options.freeze_usec));
        c.paused = true;
        int x = redis_undo_note(&r->undo, &c, reterr);
        if (x < 0)
                return x;
        (void) snprintf(msec, sizeof(msec), "%llu",
                        (unsigned long long) ((end - MIN_OF(end, now_usec())) / USEC_PER_MSEC));
        const RedisCommand both[] = { REDIS_COMMAND(NULL, "CLIENT", "PAUSE", msec, "WRITE"),
                                      REDIS_COMMAND(ret_info, "INFO", "persistence") };
        x = redis_calls(&r->server, program_until(e), both, ELEMENTSOF(both), reterr);
        if (x < 0 || nothing_in_memory(*ret_info))
                return MIN_OF(x, 0);
        free(TAKE_PTR(*ret_info));
        x = wait_for(r, e, program_until(e), nothing_in_memory, LOOK_MSEC, ret_info, reterr);
        return x == 0 ? failure_set(reterr, CONDITION_FAILED, "redis at %s does not get rid of what it has to write",
                                    r->options.socket) :
                        x;
}

/* Which server it is, and how much it has appended, have to be the same at Thaw. */
static int run_id_get(Redis *r, uint64_t until_usec, char ret[static 64], Failure *reterr) {
        _cleanup_free_ char *info = NULL;
        int x = info_get(r, until_usec, "server", &info, reterr);
        if (x >= 0)
                (void) redis_info_value(info, "run_id", ret, 64);
        return x;
}

static int appended_read(const Redis *r, const char *info, char ret[static 32], Failure *reterr) {
        (void) redis_info_value(info, "aof_current_size", ret, 32);
        return redis_info_is(info, "aof_last_write_status", "ok") ?
                       0 :
                       failure_set(reterr, CONDITION_FAILED, "redis at %s cannot write its append-only file",
                                   r->options.socket);
}

/* As little as can be is asked while clients stand still: each answer takes them a tenth of a millisecond. */
static int freeze(struct vss_event *e, void *userdata) {
        Redis *r = userdata;
        Persistence p;
        Failure f = {};
        _cleanup_free_ char *info = NULL;
        int x = is_affected(r, e, &p, &f);
        if (x == 0 || (x > 0 && p == PERSISTENCE_RDB))
                return 0;
        x = x < 0 ? x : run_id_get(r, program_until(e), r->run_id, &f);
        x = x < 0 ? x : clients_pause(r, e, &info, &f);
        x = x < 0 ? x : appended_read(r, info, r->appended, &f);
        if (x >= 0)
                return 0;
        x = veto(e, x, &f);
        (void) redis_undo_now(&r->undo, usec_add(now_usec(), PROGRAM_MARGIN_USEC / 2), NULL);
        return x;
}

/* 1: nothing was appended since Freeze; asked before the clients go on, who do not wait for us to read the answer. */
static int is_unchanged(Redis *r, struct vss_event *e, Failure *reterr) {
        _cleanup_free_ char *info = NULL;
        char appended[32] = "";
        const RedisCommand both[] = { REDIS_COMMAND(&info, "INFO", "persistence"),
                                      REDIS_COMMAND(NULL, "CLIENT", "UNPAUSE") };
        int x = redis_calls(&r->server, MIN_OF(program_until(e), usec_add(now_usec(), CHECK_USEC)), both,
                            ELEMENTSOF(both), reterr);
        x = x < 0 ? x : appended_read(r, info, appended, reterr);
        return x < 0 ? x : streq(appended, r->appended);
}

/* Another server under the same name by now is told by its run_id, for which nobody has to wait. */
static int thaw(struct vss_event *e, void *userdata) {
        Redis *r = userdata;
        char run_id[64] = "";
        Failure f = {}, undone = {};
        bool was_paused = r->undo.changes.paused;
        int x = was_paused ? is_unchanged(r, e, &f) : 1;
        int y = redis_undo_now(&r->undo, program_until(e), &undone);
        if (x > 0 && y >= 0 && was_paused)
                y = run_id_get(r, program_until(e), run_id, &undone);
        if (x < 0 || y < 0)
                return veto(e, x < 0 ? x : y, x < 0 ? &f : &undone);
        if (x == 0 || (was_paused && !streq(run_id, r->run_id)))
                return vss_event_fail(e, VSS_VETO_RETRYABLE, "redis at %s has written although its clients were paused",
                                      r->options.socket);
        return 0;
}

static int do_abort(struct vss_event *e, void *userdata) {
        Redis *r = userdata;
        Failure f = {};
        int x = redis_undo_now(&r->undo, program_until(e), &f);
        return x < 0 ? veto(e, x, &f) : 0;
}

/* --- the program -------------------------------------------------------------------------------------------------- */

/* The server has to be there when we begin: a wrong path is noticed by whoever typed it. */
static int begin(Redis *r, const char *name, char *version, size_t size, Failure *reterr) {
        _cleanup_free_ char *info = NULL;
        if (!r->options.socket)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "no --socket=PATH given; see --help");
        int x = info_get(r, usec_add(now_usec(), IDENTIFY_USEC), "server", &info, reterr);
        if (x < 0)
                return x;
        (void) redis_info_value(info, "redis_version", version, size);
        int major = atoi(version), minor = strchr(version, '.') ? atoi(strchr(version, '.') + 1) : 0;
        if (major < 6 || (major == 6 && minor < 2))
                return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                   "redis %s cannot pause its writers; 6.2 or later can", version);
        return redis_undo_start(&r->undo, &r->server, name, reterr);
}

static int serve(Program *p, Redis *r) {
        char version[32] = "";
        Failure f = {};
        (void) signal(SIGPIPE, SIG_IGN); /* the library writes to a server that has gone */
        if (begin(r, p->name, version, sizeof(version), &f) < 0)
                return program_fail(p, &f);
        struct vss_writer_callbacks c = { VSS_WRITER_CALLBACKS,
                                          .version = version,
                                          .usage = VSS_USAGE_USER_DATA,
                                          .source = VSS_SOURCE_TRANSACTED,
                                          .freeze_timeout_usec = r->options.freeze_usec,
                                          .identify = identify,
                                          .prepare_snapshot = prepare_snapshot,
                                          .freeze = freeze,
                                          .thaw = thaw,
                                          .abort = do_abort };
        int status = program_run(p, &c, r);
        (void) redis_undo_now(&r->undo, usec_add(now_usec(), USEC_PER_SEC), NULL);
        return status;
}

int main(int argc, char *argv[]) {
        static const ProgramOption options[] = {
                { "socket", "PATH", "the server's Unix socket", option_socket },
                { "user", "NAME", "account of the server (ACL); default: its default user", option_user },
                { "password-file", "FILE", "first line: the password", option_password_file },
                { "service", "UNIT", "what a restore stops (default redis-server.service)", option_service },
                { "freeze-timeout", "SEC", "longest time its clients may wait (default 30)", option_freeze_timeout },
        };
        static Redis r = { .options.freeze_usec = FREEZE_TIMEOUT_USEC,
                           .server.options = &r.options,
                           .undo.fd = -EBADF };
        Program p = { .command = "vss-writer-redis",
                      .arguments = "--socket=PATH",
                      .summary = "Brings a Redis server to rest while it is copied.",
                      .options = options,
                      .n_options = ELEMENTSOF(options),
                      .target = &r,
                      .name = (char *) "redis",
                      .level = LEVEL_BACK_END };
        Failure f = {};
        if (option_service(&r, "redis-server.service", &f) < 0)
                return program_fail(&p, &f);
        if (program_parse(&p, argc, argv) == 0)
                p.status = serve(&p, &r);
        redis_disconnect(&r.server);
        redis_undo_done(&r.undo);
        writer_options_done(&r.options);
        program_done(&p);
        return p.status;
}
