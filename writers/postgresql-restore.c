/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Going forward: a cluster that was restored is told to replay its log from the archive up to a point, and to be a
 * server of its own from there on. PostgreSQL decides about that when it starts, by recovery.signal and settings. They
 * are files that PreRestore adds to what is restored, so that there is no moment, not even after a power cut, in which
 * the cluster would start without them; PostRestore sees to it that they are there, and writes them if a requester
 * knows nothing of such files, with the rights of the account that the data directory belongs to. What can be known to
 * fail is refused in PreRestore, when nothing has been touched: a point that is none, one that the copy has passed
 * already (the log that lies in the copy is replayed whatever the point), a log that has a gap.
 *
 * A position is where the first record stands that is not replayed: what pg_current_wal_lsn() returned is reached
 * exactly. A time holds for commits, itself included.
 *
 * A cluster that goes elsewhere has links in it that lead to the log and the tablespaces of the one that runs. They are
 * set to where those went, or the restore is said to have failed: a second server would write into them. Nor may it
 * put its log into the archive of the first. With --rename it has a name and a port of its own, so that it can be
 * started as it is.
 */
#include "protocol/manifest.h"
#include "protocol/text.h"
#include "writers/postgresql.h"
#include "writers/program-restore.h"
#include "writers/program-time.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

enum { CONF_BYTES_MAX = 1 << 20, METADATA_BYTES_MAX = 4096, POINT_NAME_MAX = 63 };
#define CONF "postgresql.auto.conf"
#define CONF_NEW "postgresql.auto.conf.vss"

typedef enum PointKind { POINT_LATEST, POINT_TIME, POINT_LSN, POINT_NAME } PointKind;

typedef struct Point {
        PointKind kind;
        uint32_t timeline; /* 0: the latest */
        uint64_t lsn;
        char text[POINT_NAME_MAX + 1]; /* as PostgreSQL takes it */
} Point;

/* ---- the point --------------------------------------------------------------------------------------------------- */

static bool point_at_time(const char *text, Point *ret) {
        uint64_t usec;
        ret->kind = POINT_TIME;
        return time_parse(text, &usec) && format_timestamp(usec, ret->text, sizeof(ret->text)) >= 0;
}

/* Can stand between quotes in a file of settings. */
static bool name_is_plain(const char *text) {
        size_t n = strlen(text);
        for (size_t i = 0; i < n; i++)
                if ((unsigned char) text[i] < ' ' || text[i] == '\'' || text[i] == '\\' || text[i] == 127)
                        return false;
        return n > 0 && n <= POINT_NAME_MAX;
}

static bool name_parse(const char *text, Point *ret) {
        if (!name_is_plain(text))
                return false;
        ret->kind = POINT_NAME;
        memcpy(ret->text, text, strlen(text) + 1);
        return true;
}

static int point_parse(const char *text, Point *ret, Failure *reterr) {
        *ret = (Point) {};
        if (streq(text, "latest"))
                return 0;
        if (text[strspn(text, "0123456789ABCDEFabcdef/")] == '\0' && pg_lsn_parse(text, &ret->lsn) && ret->lsn > 0) {
                ret->kind = POINT_LSN;
                (void) snprintf(ret->text, sizeof(ret->text), "%X/%X", (unsigned) (ret->lsn >> 32),
                                (unsigned) ret->lsn);
                return 0;
        }
        if (strncmp(text, "name:", 5) == 0 ? name_parse(text + 5, ret) : point_at_time(text, ret))
                return 0;
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                           "\"%.100s\" is no point: YYYY-MM-DD HH:MM:SS[.ffffff] with Z or +HH:MM, a position as "
                           "0/3000060, name:RESTORE-POINT or latest",
                           text);
}

/* ---- what the backup says ---------------------------------------------------------------------------------------- */

typedef struct Saved {
        LogPoint from;
        uint64_t end_lsn;
        char end_time[40];
} Saved;

/* The manifest is anybody's: what is in it decides where reading begins, and nothing that is written. */
static int saved_read(const Postgresql *p, struct vss_event *e, Saved *ret, Failure *reterr) {
        const char *text = NULL;
        (void) vss_event_get(e, COMPONENT, "metadata", &text);
        _cleanup_(json_object_putp)
                json_object *o = text && strlen(text) <= METADATA_BYTES_MAX ? json_tokener_parse(text) : NULL;
        if (!json_object_is_type(o, json_type_object))
                return failure_set(reterr, CONDITION_FAILED, "the backup does not say how far its log goes");
        *ret = (Saved) { .from.timeline = (uint32_t) strtoul(json_get_string(o, "timeline", "0"), NULL, 10),
                         .from.segment_bytes = strtoull(json_get_string(o, "segment_bytes", "0"), NULL, 10) };
        (void) snprintf(ret->end_time, sizeof(ret->end_time), "%s", json_get_string(o, "end_time", ""));
        if (ret->from.timeline == 0 || !pg_segment_bytes_are_valid(ret->from.segment_bytes) || !ret->end_time[0] ||
            !pg_lsn_parse(json_get_string(o, "lsn", ""), &ret->from.lsn) ||
            !pg_lsn_parse(json_get_string(o, "end_lsn", ""), &ret->end_lsn))
                return failure_set(reterr, CONDITION_FAILED,
                                   "the backup does not say where it ends in the log; --until goes with the manifest "
                                   "of a full backup or a copy");
        if (!streq(json_get_string(o, "data_directory", ""), p->known.places[0].path))
                return failure_set(reterr, CONDITION_FAILED,
                                   "the backup is of %.200s, the data directory here is %.200s",
                                   json_get_string(o, "data_directory", ""), p->known.places[0].path);
        return 0;
}

static int point_check(const Point *point, const Saved *saved, Failure *reterr) {
        if ((point->kind == POINT_TIME && strcmp(point->text, saved->end_time) < 0) ||
            (point->kind == POINT_LSN && point->lsn < saved->end_lsn))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "%s is before the end of the backup (%X/%X, %s): restore an earlier one",
                                   point->text, (unsigned) (saved->end_lsn >> 32), (unsigned) saved->end_lsn,
                                   saved->end_time);
        return 0;
}

/* --restore-options='"":"timeline"="N"': after an earlier restore the archive has more than one that goes on. */
static int timeline_find(const struct vss_event *e, Point *point, Failure *reterr) {
        _cleanup_free_ char *text = NULL;
        if (vss_event_option(e, COMPONENT, "", "timeline", &text) < 0 || streq(text, "latest"))
                return 0;
        unsigned long n = strspn(text, "0123456789") == strlen(text) && strlen(text) < 11 ? strtoul(text, NULL, 10) : 0;
        if (n == 0 || n > UINT32_MAX)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "timeline: a number or latest is needed, not \"%.100s\"", text);
        point->timeline = (uint32_t) n;
        return 0;
}

/* --restore-options='"":"archive"="DIR"', else the writer's own; the caller frees it. */
static int archive_find(const Postgresql *p, const struct vss_event *e, char **ret, Failure *reterr) {
        if (vss_event_option(e, COMPONENT, "", "archive", ret) < 0)
                *ret = p->archive ? strdup(p->archive) : NULL;
        if (*ret && pg_archive_path_is_plain(*ret))
                return 0;
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                           "archive: an absolute path of letters, digits and ._+-@:,= is needed, not \"%.200s\"",
                           *ret ?: "");
}

/* ---- in the data directory --------------------------------------------------------------------------------------- */

typedef struct Change {
        bool elsewhere;   /* beside the server that runs, whose archive is not this one's */
        const char *name; /* of the cluster; NULL: it keeps that of the first */
        uint32_t port;    /* with name */
        char *archive;    /* NULL: no recovery but the usual */
        Point point;
} Change;

static void change_done(Change *c) {
        free(c->archive);
}

/* The server takes them in this order, and refuses to unset one while another is set. */
static void point_write(FILE *f, const Point *point, const char *archive) {
        static const char *const settings[] = { [POINT_TIME] = "recovery_target_time",
                                                [POINT_LSN] = "recovery_target_lsn",
                                                [POINT_NAME] = "recovery_target_name" };
        fprintf(f, "restore_command = 'cp %s/%%f \"%%p\"'\n", archive);
        fprintf(f, "recovery_target = ''\nrecovery_target_xid = ''\nrecovery_target_action = 'promote'\n");
        if (point->timeline > 0)
                fprintf(f, "recovery_target_timeline = '%u'\n", point->timeline);
        else
                fprintf(f, "recovery_target_timeline = 'latest'\n");
        for (size_t i = POINT_TIME; i < ELEMENTSOF(settings); i++)
                if (i != point->kind)
                        fprintf(f, "%s = ''\n", settings[i]);
        if (point->kind == POINT_TIME) /* 2026-11-27T12:00:00.000000Z, which this setting does not take */
                fprintf(f, "%s = '%.10s %.15s+00'\n", settings[point->kind], point->text, point->text + 11);
        else if (point->kind != POINT_LATEST)
                fprintf(f, "%s = '%s'\n", settings[point->kind], point->text);
        fprintf(f, "recovery_target_inclusive = %s\n", point->kind == POINT_LSN ? "off" : "on");
}

static char *change_text(const Change *c) {
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        if (!f)
                return NULL;
        fprintf(f, "\n# written by vss-writer-postgresql for vssctl restore\n");
        if (c->elsewhere)
                fprintf(f, "archive_mode = off\n");
        if (c->name)
                fprintf(f, "cluster_name = '%s'\nport = %u\nexternal_pid_file = ''\n", c->name, (unsigned) c->port);
        if (c->archive)
                point_write(f, &c->point, c->archive);
        if (fclose(f) == 0)
                return text;
        free(text);
        return NULL;
}

/* All of it is there as it was added to what was restored. */
static bool is_configured(int dfd, const Change *c, const char *text) {
        char end[4096];
        struct stat st;
        size_t n = strlen(text);
        _cleanup_close_ int fd = openat(dfd, CONF, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 || n > sizeof(end) || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < (off_t) n ||
            pread(fd, end, n, st.st_size - (off_t) n) != (ssize_t) n || memcmp(end, text, n) != 0)
                return false;
        return !c->archive || (fstatat(dfd, "recovery.signal", &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
                               fstatat(dfd, "standby.signal", &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT);
}

static int conf_copy(int dfd, FILE *to) {
        char buffer[4096];
        size_t n, all = 0;
        int fd = openat(dfd, CONF, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        FILE *f = fdopen(fd, "r");
        if (!f) {
                (void) close(fd);
                return -ENOMEM;
        }
        while ((n = fread(buffer, 1, sizeof(buffer), f)) > 0 && (all += n) <= CONF_BYTES_MAX)
                (void) fwrite(buffer, 1, n, to);
        int r = ferror(f) ? -EIO : all > CONF_BYTES_MAX ? -EFBIG : 0;
        (void) fclose(f);
        return r;
}

/* As ALTER SYSTEM would: what an earlier restore left is overridden, whatever kind of point it was. */
static int conf_write(int dfd, const char *text) {
        (void) unlinkat(dfd, CONF_NEW, 0);
        int fd = openat(dfd, CONF_NEW, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
        if (!f) {
                int r = -errno;
                (void) close_fd(fd);
                return r;
        }
        int r = conf_copy(dfd, f);
        (void) fputs(text, f);
        if (r >= 0 && (ferror(f) || fflush(f) != 0 || fsync(fileno(f)) < 0))
                r = -errno;
        if (fclose(f) != 0 && r >= 0)
                r = -EIO;
        return r < 0 ? r : renameat(dfd, CONF_NEW, dfd, CONF) < 0 || fsync(dfd) < 0 ? -errno : 0;
}

/* The directory came from a backup: what stands there under that name may be anything. */
static int signal_write(int dfd) {
        if (unlinkat(dfd, "recovery.signal", 0) < 0 && errno != ENOENT)
                return -errno;
        _cleanup_close_ int fd = openat(dfd, "recovery.signal", O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                                        0600);
        if (fd < 0 || (unlinkat(dfd, "standby.signal", 0) < 0 && errno != ENOENT))
                return -errno;
        return fsync(fd) < 0 || fsync(dfd) < 0 ? -errno : 0;
}

/* ---- links of a cluster that went elsewhere ---------------------------------------------------------------------- */

static int link_move(int dfd, const char *name, const char *targets, Failure *reterr) {
        char old[PATH_MAX];
        ssize_t n = readlinkat(dfd, name, old, sizeof(old) - 1);
        if (n < 0)
                return errno == EINVAL || errno == ENOENT ?
                               0 :
                               failure_set(reterr, CONDITION_FAILED, "%s: %s", name, strerror(errno));
        old[n] = '\0';
        _cleanup_free_ char *to = restore_moved_to(targets, old);
        if (!to)
                return failure_set(
                        reterr, CONDITION_FAILED,
                        "%.60s of the restored cluster leads to %.200s, which stayed where it is: set it before "
                        "a server is started",
                        name, old);
        if (unlinkat(dfd, name, 0) < 0 || symlinkat(to, dfd, name) < 0)
                return failure_set(reterr, CONDITION_FAILED, "%s: %s", name, strerror(errno));
        return 0;
}

static int links_move(int dfd, const char *targets, Failure *reterr) {
        struct stat st;
        int r = link_move(dfd, "pg_wal", targets, reterr);
        if (r >= 0 && fstatat(dfd, "tablespace_map", &st, AT_SYMLINK_NOFOLLOW) == 0)
                r = failure_set(
                        reterr, CONDITION_NOT_SUPPORTED,
                        "tablespace_map of the restored cluster names where its tablespaces were: edit it before "
                        "a server is started");
        int fd = r < 0 ? -EBADF : openat(dfd, "pg_tblspc", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d) {
                (void) close_fd(fd);
                return r < 0 ? r : failure_set(reterr, CONDITION_FAILED, "pg_tblspc: %s", strerror(errno));
        }
        for (struct dirent *e; r >= 0 && (e = readdir(d));)
                if (e->d_name[0] != '.')
                        r = link_move(fd, e->d_name, targets, reterr);
        (void) closedir(d);
        return r;
}

/* ---- events ------------------------------------------------------------------------------------------------------ */

static int refuse(struct vss_event *e, const Failure *f) {
        return vss_event_fail(e, VSS_VETO_FATAL, "%s", f->message);
}

static int check(const Postgresql *p, struct vss_event *e, const char *until, Failure *reterr) {
        _cleanup_free_ char *archive = NULL;
        Saved saved;
        Point point;
        int r = point_parse(until, &point, reterr);
        r = r < 0 ? r : archive_find(p, e, &archive, reterr);
        r = r < 0 ? r : saved_read(p, e, &saved, reterr);
        r = r < 0 ? r : timeline_find(e, &point, reterr);
        r = r < 0 ? r : point_check(&point, &saved, reterr);
        if (r < 0)
                return r;
        uint32_t timeline = point.timeline ?: pg_archive_newest_timeline(archive, saved.from.timeline);
        /* The record that a position is of has to be there, or the server waits for it in vain. */
        return pg_archive_check(archive, &saved.from, timeline,
                                point.kind == POINT_LSN ? MIN_OF(point.lsn, UINT64_MAX - 2) + 1 : UINT64_MAX, reterr);
}

static bool port_parse(const char *text, uint32_t *ret) {
        if (!text || !text[0] || strlen(text) > 5 || strspn(text, "0123456789") != strlen(text))
                return false;
        *ret = (uint32_t) strtoul(text, NULL, 10);
        return *ret > 0 && *ret <= UINT16_MAX;
}

/* --rename=NAME --restore-options='"":"port"="N"'. */
static int name_find(const Postgresql *p, const struct vss_event *e, bool elsewhere, Change *ret, Failure *reterr) {
        _cleanup_free_ char *port = NULL;
        const char *name = NULL;
        (void) vss_event_get(e, COMPONENT, "rename", &name);
        if (isempty(name))
                return 0;
        if (!elsewhere)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "--rename is for a second cluster beside the first: say where with --to=DIR");
        if (!name_is_plain(name))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "\"%.100s\" cannot be a cluster_name: 1 to %d bytes without ' and \\ are needed",
                                   name, POINT_NAME_MAX);
        (void) vss_event_option(e, COMPONENT, "", "port", &port);
        if (!port_parse(port, &ret->port) || ret->port == strtoul(p->known.port, NULL, 10))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "a second cluster needs a port of its own, not that of the first (%s): say which "
                                   "with --restore-options='\"\":\"port\"=\"N\"'",
                                   p->known.port);
        ret->name = name;
        return 0;
}

static int change_read(const Postgresql *p, struct vss_event *e, const char *until, bool elsewhere, Change *ret,
                       Failure *reterr) {
        *ret = (Change) { .elsewhere = elsewhere };
        int r = name_find(p, e, elsewhere, ret, reterr);
        r = r < 0 || isempty(until) ? r : point_parse(until, &ret->point, reterr);
        r = r < 0 || isempty(until) ? r : archive_find(p, e, &ret->archive, reterr);
        return r < 0 || isempty(until) ? r : timeline_find(e, &ret->point, reterr);
}

static int add_file(json_object *list, const char *name, const char *data, const char *how, const char *text) {
        _cleanup_free_ char *path = NULL, *shown = NULL;
        json_object *row = json_object_new_object();
        if (!row || asprintf(&path, "%s/%s", data, name) < 0 || path_escape(path, &shown) < 0) {
                (void) json_object_put(row);
                return -ENOMEM;
        }
        json_add_string(row, "path", shown);
        json_add_string(row, "how", how);
        json_add_string(row, "text", text);
        return json_object_array_add(list, row) < 0 ? -ENOMEM : 0;
}

/* The requester puts them into place with the cluster. */
static int add_files(const Postgresql *p, struct vss_event *e, const char *until, bool elsewhere, Failure *reterr) {
        _cleanup_(json_object_putp) json_object *list = json_object_new_array();
        const char *data = p->known.places[0].path;
        _cleanup_(change_done) Change c = {};
        int r = change_read(p, e, until, elsewhere, &c, reterr);
        _cleanup_free_ char *text = r < 0 ? NULL : change_text(&c), *all = NULL;
        if (r < 0)
                return r;
        if (!list || !text || add_file(list, CONF, data, "append", text) < 0 ||
            add_file(list, CONF_NEW, data, "absent", "") < 0 ||
            add_file(list, "recovery.signal", data, "replace", "") < 0 ||
            add_file(list, "standby.signal", data, "absent", "") < 0 || json_to_text(list, &all) < 0 ||
            vss_event_put(e, COMPONENT, "added_files", all) < 0)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        return 0;
}

/*
 * In its place a backup is of the cluster that the writer serves: one of several that is taken for another is replaced
 * by it. After all was lost a new cluster may stand there; then it is said that this one is meant to go.
 */
static int check_cluster(const Postgresql *p, const struct vss_event *e, Failure *reterr) {
        _cleanup_free_ char *any = NULL;
        const char *text = NULL, *data = p->known.places[0].path;
        (void) vss_event_get(e, COMPONENT, "metadata", &text);
        _cleanup_(json_object_putp)
                json_object *o = text && strlen(text) <= METADATA_BYTES_MAX ? json_tokener_parse(text) : NULL;
        const char *directory = json_get_string(o, "data_directory", data),
                   *system = json_get_string(o, "system_identifier", p->known.system);
        if (!streq(directory, data))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "the backup is of another cluster: its data directory is %.200s, the one here is "
                                   "%.200s",
                                   directory, data);
        if (streq(system, p->known.system) ||
            (vss_event_option(e, COMPONENT, "", "system", &any) >= 0 && streq(any, "any")))
                return 0;
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                           "the backup is of another cluster: its system identifier is %.23s, that of the one here is "
                           "%s; to replace that say --restore-options='\"\":\"system\"=\"any\"'",
                           system, p->known.system);
}

/* Of files that are put somewhere, or that a server is going to read in another way than it left them. */
static int check_work(const Postgresql *p, struct vss_event *e, const char *until, const char *to, Failure *reterr) {
        _cleanup_free_ char *real = NULL;
        Change c = {};
        int r = name_find(p, e, !isempty(to), &c, reterr);
        r = r < 0 || isempty(to) ? r : path_unescape(to, &real);
        r = r < 0 ? r : restore_check_writable(real ?: p->known.places[0].path, reterr);
        r = r < 0 || isempty(until) ? r : check(p, e, until, reterr);
        return r < 0 || isempty(until) ? r : add_files(p, e, until, !isempty(to), reterr);
}

int pg_pre_restore(struct vss_event *e, void *userdata) {
        Postgresql *p = userdata;
        const char *until = NULL, *to = NULL, *name = NULL;
        Failure f = {};
        (void) vss_event_get(e, COMPONENT, "until", &until);
        (void) vss_event_get(e, COMPONENT, "to", &to);
        int r = isempty(to) ? check_cluster(p, e, &f) : 0;
        (void) vss_event_get(e, COMPONENT, "rename", &name);
        if (r < 0 || (isempty(until) && isempty(to) && isempty(name)))
                return r < 0 ? refuse(e, &f) : 0;
        r = restore_rights_take(p->known.places[0].path, p->known.owner);
        r = r < 0 ? failure_set(&f, CONDITION_FAILED, "the account of %s cannot be used", p->known.places[0].path) :
                    check_work(p, e, until, to, &f);
        restore_rights_drop();
        return r < 0 ? refuse(e, &f) : 0;
}

static int configure(const Postgresql *p, struct vss_event *e, int dfd, bool elsewhere, const char *until,
                     Failure *reterr) {
        _cleanup_(change_done) Change c = {};
        int r = change_read(p, e, until, elsewhere, &c, reterr);
        _cleanup_free_ char *text = r < 0 ? NULL : change_text(&c);
        if (r < 0 || (text && is_configured(dfd, &c, text)))
                return r;
        r = text ? conf_write(dfd, text) : -ENOMEM;
        if (r >= 0 && c.archive)
                r = signal_write(dfd);
        return r < 0 ? failure_set(reterr, CONDITION_FAILED, "settings for the recovery: %s", strerror(-r)) : 0;
}

static int complete_restore(const Postgresql *p, struct vss_event *e, const char *targets, const char *until,
                            Failure *reterr) {
        const char *data = p->known.places[0].path;
        _cleanup_free_ char *moved = isempty(targets) ? NULL : restore_moved_to(targets, data);
        if (!isempty(targets) && !moved)
                return isempty(until) ? 0 : /* only of the log */
                                        failure_set(reterr, CONDITION_FAILED, "%s did not go to a new place", data);
        _cleanup_close_ int dfd = open(moved ?: data, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dfd < 0)
                return failure_set(reterr, CONDITION_FAILED, "%s: %s", moved ?: data, strerror(errno));
        int r = moved ? links_move(dfd, targets, reterr) : 0;
        return r < 0 || (isempty(until) && !moved) ? r : configure(p, e, dfd, moved, until, reterr);
}

int pg_post_restore(struct vss_event *e, void *userdata) {
        Postgresql *p = userdata;
        const char *until = NULL, *targets = NULL, *status = NULL;
        Failure f = {};
        (void) vss_event_get(e, COMPONENT, "until", &until);
        (void) vss_event_get(e, COMPONENT, "new_targets", &targets);
        if (vss_event_get(e, COMPONENT, "status", &status) < 0 || !streq(status, "all") ||
            (isempty(until) && isempty(targets)))
                return 0;
        int r = restore_rights_take(p->known.places[0].path, p->known.owner);
        r = r < 0 ? failure_set(&f, CONDITION_FAILED, "the account of %s cannot be used", p->known.places[0].path) :
                    complete_restore(p, e, targets, until, &f);
        restore_rights_drop();
        return r < 0 ? refuse(e, &f) : 0;
}
