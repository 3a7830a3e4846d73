/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The saved binary log applied to restored files: mariadb-binlog reads it, the program mariadb sends it to a server
 * that we start on the files, with the account of their owner, on a socket in a directory that nobody else may enter.
 * That server does not run with --skip-grant-tables: it would refuse CREATE EVENT and know no plugins. Instead it makes
 * an account for us when it begins, which is in no log and is dropped again. It goes on with the restored binary log,
 * where what is applied gets the same GTIDs as in the first, so replicas may follow.
 *
 * All of them die with us. What has not come to the point is not called restored, and vssctl does not start it.
 */
#include "protocol/text.h"
#include "writers/mariadb-place.h"
#include "writers/mariadb.h"
#include "writers/program-restore.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>

#define LOOK_USEC (100 * USEC_PER_MSEC)
#define DROP_USEC (5 * USEC_PER_SEC)
#define STOP_USEC (20 * USEC_PER_SEC) /* kept for that and the server's end */
enum { SAID_BYTES = 4096, ARGUMENTS_MAX = 128 };

typedef struct Replay {
        const Mariadb *d;
        struct vss_event *e;
        const ForwardPlan *plan;
        const char *targets; /* where files went; "": they stayed */
        ProgramAccount account;
        Place place;
        ProgramChild server, reader, client;
        uint64_t until_usec;
        char reached[NAME_MAX + 24]; /* FILE:POSITION, about */
} Replay;

static void account_find(const Mariadb *d, ProgramAccount *ret) {
        const struct passwd *pw = getpwuid(d->owner);
        struct stat st;
        *ret = (ProgramAccount) { d->owner, pw ? pw->pw_gid : stat(d->data, &st) == 0 ? st.st_gid : getgid() };
}

/* ---- argv ---- */

typedef struct Arguments {
        char **list; /* NULL-terminated */
        int error;
} Arguments;

static void _printf_(2, 3) add(Arguments *a, const char *format, ...) {
        char *text = NULL;
        va_list args;
        va_start(args, format);
        if (a->error == 0 && vasprintf(&text, format, args) < 0)
                a->error = -ENOMEM;
        va_end(args);
        if (a->error == 0)
                a->error = MIN_OF(strings_append(&a->list, text), 0);
        free(text);
}

static void arguments_done(Arguments *a) {
        (void) strings_free(a->list);
}

static void reader_arguments(const Mariadb *d, const ForwardPlan *p, Arguments *a) {
        char name[NAME_MAX + 1];
        add(a, "%s", d->forward.reader);
        add(a, "--no-defaults");
        add(a, "--verify-binlog-checksum");
        add(a, "--start-position=%" PRIu64, p->from);
        add(a, "--stop-position=%" PRIu64, p->until);
        for (uint64_t n = p->first; n <= p->last; n++) {
                mariadb_log_file_name(d, n, name);
                add(a, "%s/%s", p->directory, name);
        }
}

/* Where the first server's files of this directory are now. */
static void add_moved(Arguments *a, const Replay *r, const char *option, const char *path, const char *rest) {
        _cleanup_free_ char *to = isempty(r->targets) ? NULL : restore_moved_to(r->targets, path);
        add(a, "--%s=%s%s", option, to ?: path, rest);
}

static void server_arguments(const Replay *r, Arguments *a) {
        static const char *const names[] = { MARIADB_DIRECTORIES };
        const Mariadb *d = r->d;
        char real[PATH_MAX], rest[NAME_MAX + 2];
        add(a, "%s", d->forward.server);
        add(a, "--no-defaults");
        for (size_t i = 0; d->forward.settings && d->forward.settings[i]; i++)
                add(a, "%s", d->forward.settings[i]);
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                const char *path = d->forward.directories[i];
                if (path && path[0] == '/')
                        add_moved(a, r, names[i], realpath(path, real) ? real : path, "");
                else if (path)
                        add(a, "--%s=%s", names[i], path);
        }
        add_moved(a, r, "datadir", d->data, "");
        (void) snprintf(rest, sizeof(rest), "/%s", d->log_name);
        add_moved(a, r, "log-bin", d->log_directory, rest);
        add(a, "--socket=%s/s", r->place.path);
        add(a, "--pid-file=%s/pid", r->place.path);
        add(a, "--init-file=%s/%s", r->place.path, place_file_name(PLACE_INIT));
        add(a, "--skip-networking");
        add(a, "--skip-slave-start");
        add(a, "--event-scheduler=OFF");
        add(a, "--max-allowed-packet=1G");
        if (r->account.uid == 0)
                add(a, "--user=root"); /* it would refuse otherwise */
}

/* ---- what they said ---- */

/* The first line with an error in it, else the last one; one line that can be shown. */
static void said(int fd, char ret[static 256]) {
        char text[SAID_BYTES + 1], *rest = text, *line, *best = NULL;
        struct stat st = {};
        (void) fstat(fd, &st);
        ssize_t n = pread(fd, text, SAID_BYTES, st.st_size > SAID_BYTES ? st.st_size - SAID_BYTES : 0);
        text[n > 0 ? n : 0] = '\0';
        while ((line = strsep(&rest, "\n"))) {
                if (line[0])
                        best = line;
                if (strstr(line, "ERROR") && !strstr(line, "Aborting"))
                        break;
        }
        (void) snprintf(ret, 256, "%s", best ?: "it said nothing");
        text_clean(ret);
}

static int child_failed(const char *what, int status, int fd, Failure *reterr) {
        char line[256];
        said(fd, line);
        return failure_set(reterr, CONDITION_FAILED, "%s ended with %d: %s", what, status, line);
}

/* ---- the steps ---- */

static int too_late(const Replay *r, Failure *reterr) {
        struct pollfd cancel = { .fd = vss_event_cancel_fd(r->e), .events = POLLIN };
        if (poll(&cancel, 1, 0) > 0)
                return failure_set(reterr, CONDITION_CANCELLED, "going forward was cut off");
        return now_usec() < r->until_usec ?
                       0 :
                       failure_set(reterr, CONDITION_DEADLINE_PASSED,
                                   "there was not enough time to go forward (restore= in vssd.conf)");
}

static int start(const Replay *r, Arguments *a, int in, int out, int err, ProgramChild *ret, Failure *reterr) {
        int result = a->error < 0 ? a->error : program_child_start(a->list, &r->account, in, out, err, ret);
        return result < 0 ? failure_set(reterr, CONDITION_FAILED, "%s cannot be run: %s", a->list ? a->list[0] : "it",
                                        strerror(-result)) :
                            0;
}

static int server_start(Replay *r, MariadbServer *session, Failure *reterr) {
        Arguments a = {};
        int status, result;
        server_arguments(r, &a);
        result = start(r, &a, -EBADF, r->place.files[PLACE_SERVER_LOG], r->place.files[PLACE_SERVER_LOG], &r->server,
                       reterr);
        arguments_done(&a);
        while (result >= 0 && server_connect(session, usec_add(now_usec(), USEC_PER_SEC), NULL) < 0) {
                if (program_child_ended(&r->server, &status))
                        return child_failed("a server on the restored files", status, r->place.files[PLACE_SERVER_LOG],
                                            reterr);
                result = too_late(r, reterr);
                (void) poll(NULL, 0, LOOK_USEC / USEC_PER_MSEC);
        }
        return result;
}

/* How far the reader is: which of the log's files it has open, and where in it. */
static void progress(Replay *r) {
        char path[64], link[PATH_MAX], line[64];
        (void) snprintf(path, sizeof(path), "/proc/%d/fd", (int) r->reader.pid);
        DIR *dir = r->reader.pid ? opendir(path) : NULL;
        size_t n = strlen(r->plan->directory);
        for (struct dirent *entry; dir && (entry = readdir(dir));) {
                ssize_t length = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);
                uint64_t number;
                if (length <= (ssize_t) n || strncmp(link, r->plan->directory, n) != 0)
                        continue;
                link[length] = '\0';
                if (!mariadb_log_number(r->d, link, &number))
                        continue;
                (void) snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.20s", (int) r->reader.pid, entry->d_name);
                FILE *f = fopen(path, "re");
                uint64_t at = 0;
                if (f && fgets(line, sizeof(line), f) && sscanf(line, "pos: %" SCNu64, &at) == 1) {
                        double files = (double) (r->plan->last - r->plan->first + 1);
                        struct stat st;
                        double part = stat(link, &st) == 0 && st.st_size > 0 ? (double) at / (double) st.st_size : 0;
                        vss_event_progress(r->e, ((double) (number - r->plan->first) + part) / files);
                        (void) snprintf(r->reached, sizeof(r->reached), "%.200s:%" PRIu64, link + n + 1, at);
                }
                if (f)
                        (void) fclose(f);
        }
        if (dir)
                (void) closedir(dir);
}

/* To the end of both, or of the server. */
static int pipeline_wait(Replay *r, Failure *reterr) {
        int reader = -1, client = -1, status;
        for (;;) {
                progress(r);
                if (reader < 0)
                        (void) program_child_ended(&r->reader, &reader);
                if (client < 0)
                        (void) program_child_ended(&r->client, &client);
                if (client > 0) {
                        int result = child_failed("applying the log", client, r->place.files[PLACE_CLIENT_LOG], reterr);
                        if (reterr && r->reached[0])
                                (void) failure_set(reterr, CONDITION_FAILED, "%.400s (the log is read to %s)",
                                                   strdupa(reterr->message), r->reached);
                        return result;
                }
                if (reader > 0)
                        return child_failed("mariadb-binlog", reader, r->place.files[PLACE_READER_LOG], reterr);
                if (reader == 0 && client == 0)
                        return 0;
                if (program_child_ended(&r->server, &status))
                        return child_failed("the server on the restored files", status,
                                            r->place.files[PLACE_SERVER_LOG], reterr);
                int result = too_late(r, reterr);
                if (result < 0)
                        return result;
                (void) poll(NULL, 0, LOOK_USEC / USEC_PER_MSEC);
        }
}

static int pipeline_run(Replay *r, Failure *reterr) {
        Arguments reader = {}, client = {};
        int pipe[2];
        if (pipe2(pipe, O_CLOEXEC) < 0)
                return failure_set(reterr, CONDITION_FAILED, "a pipe: %s", strerror(errno));
        reader_arguments(r->d, r->plan, &reader);
        add(&client, "%s", r->d->forward.client);
        add(&client, "--defaults-file=%s/%s", r->place.path, place_file_name(PLACE_CLIENT));
        add(&client, "--binary-mode");
        add(&client, "--skip-reconnect");
        add(&client, "--max-allowed-packet=1G");
        int result = start(r, &reader, -EBADF, pipe[1], r->place.files[PLACE_READER_LOG], &r->reader, reterr);
        result = result < 0 ? result :
                              start(r, &client, pipe[0], -EBADF, r->place.files[PLACE_CLIENT_LOG], &r->client, reterr);
        (void) close_fd(pipe[0]);
        (void) close_fd(pipe[1]);
        arguments_done(&reader);
        arguments_done(&client);
        return result < 0 ? result : pipeline_wait(r, reterr);
}

/* Whatever became of the log: it may do all, and somebody may start a server on these files. */
static int account_drop(MariadbServer *session, Failure *reterr) {
        uint64_t until = usec_add(now_usec(), DROP_USEC);
        int result = server_do(session, until, "SET SESSION sql_log_bin = 0", reterr);
        return result < 0 ? result : server_do(session, until, "DROP USER '" PLACE_ACCOUNT "'@'localhost'", reterr);
}

static int apply(Replay *r, MariadbServer *session, Failure *reterr) {
        int result = pipeline_run(r, reterr);
        (void) program_child_end(&r->reader, 0);
        (void) program_child_end(&r->client, 0);
        int dropped = account_drop(session, result < 0 ? NULL : reterr);
        return result < 0 ? result : dropped;
}

static int run(Replay *r, Failure *reterr) {
        WriterOptions options = { .user = (char *) PLACE_ACCOUNT, .password = r->place.secret };
        MariadbServer session = { .options = &options };
        char socket[sizeof(r->place.path) + 4];
        int result = place_make(&r->place, &r->account, reterr);
        (void) snprintf(socket, sizeof(socket), "%s/s", r->place.path);
        options.socket = socket;
        result = result < 0 ? result : server_start(r, &session, reterr);
        result = result < 0 ? result : apply(r, &session, reterr);
        server_disconnect(&session);
        int end = program_child_end(&r->server, MIN_OF(program_until(r->e), usec_add(now_usec(), STOP_USEC)));
        if (result >= 0 && end != 0)
                result = end < 0 ? failure_set(reterr, CONDITION_DEADLINE_PASSED,
                                               "the server that applied the log did not end in time") :
                                   child_failed("the server that applied the log", end,
                                                r->place.files[PLACE_SERVER_LOG], reterr);
        place_remove(&r->place);
        return result;
}

static Replay replay_of(const Mariadb *d, struct vss_event *e, const char *targets, const ForwardPlan *plan) {
        Replay r = { .d = d,
                     .e = e,
                     .plan = plan,
                     .targets = targets,
                     .place = PLACE_NONE,
                     .server = PROGRAM_CHILD_NONE,
                     .reader = PROGRAM_CHILD_NONE,
                     .client = PROGRAM_CHILD_NONE };
        uint64_t end = program_until(e);
        r.until_usec = end > STOP_USEC ? end - STOP_USEC : 0;
        account_find(d, &r.account);
        return r;
}

int mariadb_replay_check(const Mariadb *d, struct vss_event *e, const ForwardPlan *plan, Failure *reterr) {
        Replay r = replay_of(d, e, "", plan);
        Arguments a = {};
        int status = 0, result;
        _cleanup_close_ int err = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (err < 0)
                return failure_set(reterr, CONDITION_FAILED, "/tmp: %s", strerror(errno));
        reader_arguments(d, plan, &a);
        result = start(&r, &a, -EBADF, -EBADF, err, &r.reader, reterr);
        arguments_done(&a);
        while (result >= 0 && !program_child_ended(&r.reader, &status)) {
                result = too_late(&r, reterr);
                (void) poll(NULL, 0, LOOK_USEC / USEC_PER_MSEC / 10);
        }
        (void) program_child_end(&r.reader, 0);
        return result < 0 || status == 0 ? result : child_failed("mariadb-binlog", status, err, reterr);
}

int mariadb_replay(const Mariadb *d, struct vss_event *e, const char *targets, const ForwardPlan *plan,
                   Failure *reterr) {
        Replay r = replay_of(d, e, targets, plan);
        return plan->groups == 0 ? 0 : run(&r, reterr);
}
