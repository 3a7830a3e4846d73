/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A restore beside the server that runs. What in a data directory names files by absolute paths still names those of
 * the first server, and a second one would write to them: the index of the binary log is written anew, tablespaces
 * elsewhere are refused in PreRestore, when nothing has been touched, and if a link is found after all the restore has
 * failed.
 *
 * A backup of the log goes beside the server that runs, never into its log; with --until it is applied to the full
 * backup that is restored (mariadb-forward.c, mariadb-replay.c), else the command that applies it is told.
 */
#include "protocol/jsonutil.h"
#include "protocol/text.h"
#include "writers/mariadb.h"
#include "writers/program-restore.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

enum { METADATA_BYTES_MAX = 4096, INDEX_LINES_MAX = 1 << 16 };
#define INDEX_NEW "binlog-index.vss"

static int refuse(struct vss_event *e, const Failure *f) {
        return vss_event_fail(e, VSS_VETO_FATAL, "%s", f->message);
}

/* The manifest is anybody's: NULL if it does not say anything. */
static json_object *saved_read(const struct vss_event *e) {
        const char *text = NULL;
        if (vss_event_get(e, COMPONENT, "metadata", &text) < 0 || strlen(text) > METADATA_BYTES_MAX)
                return NULL;
        json_object *o = json_tokener_parse(text);
        if (json_object_is_type(o, json_type_object))
                return o;
        json_object_put(o);
        return NULL;
}

static bool is_of_log(json_object *saved) {
        return json_get_string(saved, "binlog_first_file", NULL) != NULL;
}

/* The log that is there, what is in it and what holds it; all of it by names without symbolic links where there is one.
 */
static bool is_live_log(const Mariadb *d, const char *escaped) {
        _cleanup_free_ char *path = NULL;
        char real[PATH_MAX];
        if (!d->log_directory[0])
                return false;
        if (path_unescape(escaped, &path) < 0)
                return true;
        const char *to = realpath(path, real) ? real : path;
        return path_is_inside(to, d->log_directory) || path_is_inside(d->log_directory, to);
}

static int check_places(const Mariadb *d, json_object *saved, const char *to, const char *until, Failure *reterr) {
        if (is_of_log(saved) && !isempty(until))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "--until goes with the manifest of a full backup or a copy, this is one of the log");
        if (is_of_log(saved) && (isempty(to) || is_live_log(d, to)))
                return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                   "a backup of the binary log does not go into the log of a server: give --to=DIR of "
                                   "another directory, and apply it as vss-writer-mariadb(8) says");
        if (!isempty(to) && json_object_object_get_ex(saved, "tablespaces_elsewhere", NULL))
                return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                   "tablespaces of this backup lie outside of the data directory and are named by "
                                   "absolute paths: a second server would write to those of the first");
        return 0;
}

/* Nothing has been touched: what can be known to fail is refused. */
static int check_forward(const Mariadb *d, struct vss_event *e, json_object *saved, const char *to, const char *until,
                         Failure *reterr) {
        _cleanup_free_ char *real = NULL;
        ForwardPlan plan;
        int r = restore_rights_take(d->data, d->owner);
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "the account of %s cannot be used", d->data);
        r = isempty(to) ? 0 : path_unescape(to, &real);
        r = r < 0 ? r : restore_check_writable(real ?: d->data, reterr);
        r = r < 0 ? r : mariadb_forward_plan(d, e, until, saved, &plan, reterr);
        restore_rights_drop();
        return r < 0 || plan.groups == 0 ? r : mariadb_replay_check(d, e, &plan, reterr);
}

int mariadb_pre_restore(struct vss_event *e, void *userdata) {
        const Mariadb *d = userdata;
        _cleanup_(json_object_putp) json_object *saved = saved_read(e);
        const char *to = NULL, *until = NULL;
        Failure f = {};
        (void) vss_event_get(e, COMPONENT, "to", &to);
        (void) vss_event_get(e, COMPONENT, "until", &until);
        if (!saved && isempty(until))
                return 0;
        int r = saved ? check_places(d, saved, to, until, &f) : 0;
        r = r < 0 || isempty(until) ? r : check_forward(d, e, saved, to, until, &f);
        return r < 0 ? refuse(e, &f) : 0;
}

/* ---- the index of the binary log --------------------------------------------------------------------------------- */

static int index_lines(const Mariadb *d, FILE *from, FILE *to, const char *directory, Failure *reterr) {
        char line[PATH_MAX];
        unsigned n = 0;
        uint64_t number;
        while (fgets(line, sizeof(line), from)) {
                line[strcspn(line, "\n")] = '\0';
                if (!mariadb_log_number(d, line, &number) || n++ >= INDEX_LINES_MAX)
                        return failure_set(reterr, CONDITION_FAILED,
                                           "the index of the binary log names %.200s: edit it before a server is "
                                           "started",
                                           line);
                const char *slash = strrchr(line, '/');
                fprintf(to, "%s/%s\n", directory, slash ? slash + 1 : line);
        }
        return ferror(from) || ferror(to) || fflush(to) != 0 || fsync(fileno(to)) < 0 ?
                       failure_set(reterr, CONDITION_FAILED, "the index of the binary log: %s", strerror(errno)) :
                       0;
}

static FILE *file_open(int dfd, const char *name, int flags, const char *mode) {
        int fd = openat(dfd, name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0660);
        FILE *f = fd < 0 ? NULL : fdopen(fd, mode);
        if (!f && fd >= 0)
                (void) close(fd);
        return f;
}

/* In the directory that the binary log went to; without an index nothing names anything. */
static int index_move(const Mariadb *d, const char *directory, Failure *reterr) {
        char name[NAME_MAX + 8];
        (void) snprintf(name, sizeof(name), "%.200s.index", d->log_name);
        if (strchr(directory, '\n'))
                return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                   "%s cannot name files in a directory whose name has a line feed", name);
        _cleanup_close_ int dfd = open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        FILE *from = dfd < 0 ? NULL : file_open(dfd, name, O_RDONLY, "r");
        if (!from)
                return errno == ENOENT ?
                               0 :
                               failure_set(reterr, CONDITION_FAILED, "%s/%s: %s", directory, name, strerror(errno));
        (void) unlinkat(dfd, INDEX_NEW, 0);
        FILE *to = file_open(dfd, INDEX_NEW, O_WRONLY | O_CREAT | O_EXCL, "w");
        int r = to ? index_lines(d, from, to, directory, reterr) :
                     failure_set(
                             reterr, CONDITION_FAILED,
                             "%s of %.200s still names the log of the first server and cannot be written (%s): make "
                             "the directory for the account of the server, and restore again",
                             name, directory, strerror(errno));
        (void) fclose(from);
        if (to && fclose(to) != 0 && r >= 0)
                r = failure_set(reterr, CONDITION_FAILED, "%s/%s: %s", directory, INDEX_NEW, strerror(errno));
        if (r >= 0 && renameat(dfd, INDEX_NEW, dfd, name) < 0)
                r = failure_set(reterr, CONDITION_FAILED, "%s/%s: %s", directory, name, strerror(errno));
        return r;
}

/* ---- links that lead out of it ----------------------------------------------------------------------------------- */

static bool leads_out(int dfd, const char *name, struct stat *st) {
        size_t n = strlen(name);
        return fstatat(dfd, name, st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISLNK(st->st_mode) ||
               (n > 4 && streq(name + n - 4, ".isl"));
}

/* Databases are directories one level down, and there is nothing below them. Takes fd. */
static int links_check(int fd, const char *shown, bool top, Failure *reterr) {
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        struct stat st;
        int r = 0;
        if (!dir) {
                r = failure_set(reterr, CONDITION_FAILED, "%.200s of the restored server: %s", shown, strerror(errno));
                (void) close_fd(fd);
                return r;
        }
        for (struct dirent *e; r >= 0 && (e = readdir(dir));) {
                if (streq(e->d_name, ".") || streq(e->d_name, ".."))
                        continue;
                if (leads_out(dirfd(dir), e->d_name, &st))
                        r = failure_set(reterr, CONDITION_FAILED,
                                        "%.200s/%.100s leads out of the restored server, maybe to files of the first: "
                                        "do not start a server on it",
                                        shown, e->d_name);
                else if (top && S_ISDIR(st.st_mode))
                        r = links_check(openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC),
                                        e->d_name, false, reterr);
        }
        (void) closedir(dir);
        return r;
}

/* ---- after the files --------------------------------------------------------------------------------------------- */

/* How the log is applied; in words of its own, because the manifest is anybody's and this is going to be pasted. */
static void tell_command(const Mariadb *d, struct vss_event *e, json_object *saved) {
        uint64_t first, last;
        char text[512];
        if (!mariadb_log_number(d, json_get_string(saved, "binlog_first_file", ""), &first) ||
            !mariadb_log_number(d, json_get_string(saved, "binlog_last_file", ""), &last))
                return;
        (void) snprintf(text, sizeof(text),
                        "the binary log is there from %.100s.%06" PRIu64 " to %06" PRIu64 "; apply it with: "
                        "mariadb-binlog --start-position=POSITION FILE... | mariadb --binary-mode, where POSITION and "
                        "the first FILE are binlog_position and binlog_file of the full backup",
                        d->log_name, first, last);
        (void) vss_event_put(e, NULL, "message", text);
}

static int complete_restore(const Mariadb *d, const char *targets, Failure *reterr) {
        _cleanup_free_ char *data = restore_moved_to(targets, d->data), *logs = NULL;
        if (d->log_name[0])
                logs = restore_moved_to(targets, d->log_directory);
        if (!data)
                return failure_set(reterr, CONDITION_FAILED, "%s did not go to a new place", d->data);
        int r = links_check(open(data, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), data, true, reterr);
        return r < 0 || !logs ? r : index_move(d, logs, reterr);
}

static int go_forward(const Mariadb *d, struct vss_event *e, json_object *saved, const char *targets, const char *until,
                      Failure *reterr) {
        ForwardPlan plan;
        char text[128 + NAME_MAX], name[NAME_MAX + 1];
        int r = restore_rights_take(d->data, d->owner);
        r = r < 0 ? failure_set(reterr, CONDITION_FAILED, "the account of %s cannot be used", d->data) :
                    mariadb_forward_plan(d, e, until, saved, &plan, reterr);
        restore_rights_drop();
        r = r < 0 ? r : mariadb_replay(d, e, targets, &plan, reterr);
        if (r < 0)
                return r;
        mariadb_log_file_name(d, plan.last, name);
        (void) snprintf(text, sizeof(text), "went forward to %s:%" PRIu64 ": %" PRIu64 " transactions", name,
                        plan.until, plan.groups);
        return vss_event_put(e, NULL, "message", text);
}

int mariadb_post_restore(struct vss_event *e, void *userdata) {
        const Mariadb *d = userdata;
        _cleanup_(json_object_putp) json_object *saved = saved_read(e);
        const char *targets = NULL, *status = NULL, *until = NULL;
        Failure f = {};
        int r = 0;
        (void) vss_event_get(e, COMPONENT, "new_targets", &targets);
        (void) vss_event_get(e, COMPONENT, "until", &until);
        if (vss_event_get(e, COMPONENT, "status", &status) < 0 || !streq(status, "all") ||
            (isempty(targets) && isempty(until)))
                return 0;
        if (saved && is_of_log(saved)) {
                tell_command(d, e, saved);
                return 0;
        }
        if (!isempty(targets)) {
                r = restore_rights_take(d->data, d->owner);
                r = r < 0 ? failure_set(&f, CONDITION_FAILED, "the account of %s cannot be used", d->data) :
                            complete_restore(d, targets, &f);
                restore_rights_drop();
        }
        r = r < 0 || isempty(until) ? r : go_forward(d, e, saved, targets ?: "", until, &f);
        return r < 0 ? refuse(e, &f) : 0;
}
