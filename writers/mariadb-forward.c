/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which part of the saved log leads from a backup to a point. Known before anything is touched: each file from the one
 * of the backup on is there, they are of one log, whole, and the point lies between two groups of it.
 *
 * A time is one of the log's: whole seconds. Reached is what is before the first group that has an event of that second
 * or of a later one, so that nothing is in it that came at that time or after; a log that ends before that time does
 * not show that nothing else came, and does not lead to it. A position is where the first group stands that is not
 * applied.
 */
#include "protocol/manifest.h"
#include "protocol/text.h"
#include "writers/mariadb-chain.h"
#include "writers/mariadb.h"
#include "writers/program-time.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>

enum { LOOK_EVERY = 1 << 14, FILES_MAX = 1 << 16 };

typedef enum PointKind { POINT_LATEST, POINT_TIME, POINT_POSITION } PointKind;

typedef struct Point {
        PointKind kind;
        uint64_t seconds;
        uint64_t number, position;
} Point;

/* ---- what is asked for ---- */

static bool position_parse(const Mariadb *d, const char *text, Point *ret) {
        char file[NAME_MAX + 1];
        const char *colon = strrchr(text, ':');
        size_t digits = colon ? strspn(colon + 1, "0123456789") : 0;
        if (!colon || strchr(text, '/') || digits == 0 || digits > 19 || colon[1 + digits] ||
            colon - text >= (ptrdiff_t) sizeof(file))
                return false;
        (void) snprintf(file, sizeof(file), "%.*s", (int) (colon - text), text);
        ret->kind = POINT_POSITION;
        ret->position = strtoull(colon + 1, NULL, 10);
        return mariadb_log_number(d, file, &ret->number) && ret->position >= BINLOG_FIRST_POSITION;
}

static int point_parse(const Mariadb *d, const char *text, Point *ret, Failure *reterr) {
        uint64_t usec = 0;
        *ret = (Point) {};
        if (streq(text, "latest") || position_parse(d, text, ret))
                return 0;
        *ret = (Point) { .kind = POINT_TIME };
        if (!time_parse(text, &usec))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "\"%.100s\" is no point: YYYY-MM-DD HH:MM:SS with Z or +HH:MM, a position as "
                                   "%.60s.000001:4, or latest",
                                   text, d->log_name);
        if (usec % USEC_PER_SEC != 0)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "%.100s: the binary log has whole seconds, so there is no point between them", text);
        ret->seconds = usec / USEC_PER_SEC;
        return 0;
}

static void seconds_show(uint64_t seconds, char ret[static 40]) {
        if (format_timestamp(seconds * USEC_PER_SEC, ret, 40) < 0)
                ret[0] = '\0';
}

/* ---- where it begins: the manifest is anybody's ---- */

typedef struct Begin {
        uint64_t number, position, made;
        const char *gtid; /* NULL: not said */
} Begin;

static int begin_read(const Mariadb *d, json_object *saved, const Point *point, Begin *ret, Failure *reterr) {
        char shown[40];
        uint64_t time = json_get_uint(saved, "binlog_time", 0);
        *ret = (Begin) { .position = json_get_uint(saved, "binlog_position", 0),
                         .made = json_get_uint(saved, "binlog_made", 0),
                         .gtid = json_get_string(saved, "gtid", NULL) };
        if (!mariadb_log_number(d, json_get_string(saved, "binlog_file", ""), &ret->number) ||
            ret->position < BINLOG_FIRST_POSITION || ret->made == 0 || time == 0)
                return failure_set(reterr, CONDITION_FAILED,
                                   "the backup does not say where it is in the binary log; --until goes with the "
                                   "manifest of a full backup or a copy");
        seconds_show(time, shown);
        if ((point->kind == POINT_TIME && point->seconds < time) ||
            (point->kind == POINT_POSITION &&
             (point->number < ret->number || (point->number == ret->number && point->position < ret->position))))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "the point is before the backup (%.100s.%06" PRIu64 ":%" PRIu64
                                   ", %s): restore an earlier one",
                                   d->log_name, ret->number, ret->position, shown);
        return 0;
}

/* --restore-options='"":"log"="DIR"'. What is replaced is no place for what is needed after that. */
static int directory_find(const Mariadb *d, const struct vss_event *e, ForwardPlan *ret, Failure *reterr) {
        _cleanup_free_ char *text = NULL;
        const char *to = NULL;
        (void) vss_event_get(e, COMPONENT, "to", &to);
        if (vss_event_option(e, COMPONENT, "", "log", &text) < 0 || text[0] != '/')
                return failure_set(
                        reterr, CONDITION_INVALID_ARGUMENT,
                        "say where the saved binary log was put, with --restore-options='\"\":\"log\"=\"DIR\"' "
                        "and an absolute path");
        if (!realpath(text, ret->directory))
                return failure_set(reterr, CONDITION_FAILED, "the log in %.300s: %s", text, strerror(errno));
        if (isempty(to) &&
            (path_is_inside(ret->directory, d->data) || path_is_inside(ret->directory, d->log_directory)))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "%.300s is replaced by the restore: put the saved binary log elsewhere",
                                   ret->directory);
        return 0;
}

/* ---- the files ---- */

typedef struct Walk {
        const Mariadb *d;
        const struct vss_event *e;
        Point point;
        Begin begin;
        ForwardPlan *plan;
        BinlogChain chain;
        uint64_t number, newest; /* file; the latest time so far, in seconds */
        uint64_t made;           /* of the file before */
        uint64_t group;          /* where the one that is read begins; 0: none */
        uint64_t groups_before;  /* of those that are applied, without it */
        bool begun, done;        /* the position of the backup is passed; the point is reached */
        bool may_end;            /* the group, with what was read last */
        unsigned events;
} Walk;

static void stop_at(Walk *w, uint64_t position) {
        w->plan->last = w->number;
        w->plan->until = position;
        if (w->group != 0 && position == w->group)
                w->plan->groups = w->groups_before;
        w->done = true;
}

static int newest_number(const Walk *w, int dfd, uint64_t *ret, Failure *reterr) {
        int fd = openat(dfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *dir = fd < 0 ? NULL : fdopendir(fd);
        uint64_t number;
        *ret = 0;
        if (!dir) {
                (void) close_fd(fd);
                return failure_set(reterr, CONDITION_FAILED, "%s: %s", w->plan->directory, strerror(errno));
        }
        for (struct dirent *entry; (entry = readdir(dir));)
                if (mariadb_log_number(w->d, entry->d_name, &number) && number > *ret)
                        *ret = number;
        (void) closedir(dir);
        return 0;
}

static int middle(const Walk *w, uint64_t at, Failure *reterr) {
        char name[NAME_MAX + 1];
        mariadb_log_file_name(w->d, w->number, name);
        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                           "%s:%" PRIu64 " is not between two transactions; the one that it is in begins at %" PRIu64,
                           name, at, w->group);
}

static int check_begin(Walk *w, uint64_t at, bool between, Failure *reterr) {
        if (w->begun || w->number != w->begin.number || at < w->begin.position)
                return 0;
        if (at > w->begin.position || !between)
                return failure_set(reterr, CONDITION_FAILED,
                                   "the saved binary log is not the one of the backup: there is no event at %" PRIu64,
                                   w->begin.position);
        if (w->begin.gtid && !binlog_chain_is_at(&w->chain, w->begin.gtid))
                return failure_set(reterr, CONDITION_FAILED,
                                   "the saved binary log is not the one of the backup: other GTIDs lead to %" PRIu64,
                                   w->begin.position);
        w->begun = true;
        return 0;
}

/* Is the point where at is, which is between groups or not? time 0: of no event. */
static int check_point(Walk *w, uint64_t at, bool between, uint32_t time, Failure *reterr) {
        const Point *p = &w->point;
        if (p->kind == POINT_TIME && w->begun && time >= p->seconds)
                stop_at(w, w->group ?: at);
        if (p->kind == POINT_POSITION && w->number == p->number && at >= p->position) {
                if (at > p->position || !between)
                        return middle(w, p->position, reterr);
                stop_at(w, at);
        }
        return 0;
}

static int take_event(Walk *w, BinlogFile *f, const BinlogEvent *e, Failure *reterr) {
        bool begins = binlog_begins_group(e), between = begins || binlog_is_of_log(e);
        int r = check_begin(w, e->at, between, reterr);
        if (r < 0)
                return r;
        if (between) {
                w->groups_before = w->plan->groups;
                w->group = begins ? e->at : 0;
        }
        r = check_point(w, e->at, between, e->time, reterr);
        if (r < 0 || w->done)
                return r;
        w->plan->groups += begins && w->begun;
        w->newest = MAX_OF(w->newest, (uint64_t) e->time);
        w->may_end = binlog_may_end_group(e);
        return binlog_chain_take(&w->chain, f, e, reterr);
}

static int check_time(const Walk *w, Failure *reterr) {
        struct pollfd cancel = { .fd = vss_event_cancel_fd(w->e), .events = POLLIN };
        return now_usec() < program_until(w->e) && poll(&cancel, 1, 0) <= 0 ?
                       0 :
                       failure_set(reterr, CONDITION_DEADLINE_PASSED, "reading the binary log took too long");
}

/* What was written last may be half a group, which was never acknowledged. */
static int end_of_log(Walk *w, const BinlogFile *f, Failure *reterr) {
        char shown[40];
        seconds_show(w->newest, shown);
        if (w->point.kind == POINT_TIME)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                   "the saved binary log ends at %s, before the point: say latest for all of it",
                                   shown);
        if (w->point.kind == POINT_POSITION)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "the saved binary log ends at %s:%" PRIu64,
                                   f->name, f->at);
        stop_at(w, w->group != 0 && f->unfinished && !w->may_end ? w->group : f->at);
        return 0;
}

static int end_of_file(Walk *w, const BinlogFile *f, bool last, Failure *reterr) {
        int r = check_begin(w, f->at, true, reterr);
        if (r >= 0 && !w->begun && w->number == w->begin.number)
                r = failure_set(reterr, CONDITION_FAILED, "%s ends before the backup's position", f->name);
        if (r < 0)
                return r;
        if (w->point.kind == POINT_POSITION && w->number == w->point.number && w->point.position == f->at) {
                stop_at(w, f->at);
                return 0;
        }
        binlog_chain_end(&w->chain, f);
        if (last)
                return end_of_log(w, f, reterr);
        if (w->point.kind == POINT_POSITION && w->number >= w->point.number)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s ends at %" PRIu64, f->name, f->at);
        return f->at == f->bytes && (f->ended || f->unfinished) ?
                       0 :
                       failure_set(reterr, CONDITION_FAILED, "%s is cut off at %" PRIu64, f->name, f->at);
}

static int check_made(const Walk *w, const BinlogFile *f, Failure *reterr) {
        if (w->number == w->begin.number ? f->made != w->begin.made : f->made < w->made)
                return failure_set(reterr, CONDITION_FAILED,
                                   "%s in %.300s is of another binary log than the backup (RESET MASTER?)", f->name,
                                   w->plan->directory);
        return 0;
}

static int read_file(Walk *w, BinlogFile *f, bool last, Failure *reterr) {
        BinlogEvent e;
        int r = check_made(w, f, reterr);
        r = r < 0 ? r : check_time(w, reterr);
        w->made = f->made;
        w->newest = MAX_OF(w->newest, f->made);
        w->group = 0;
        w->may_end = true;
        if (r >= 0 && w->begun)
                r = check_point(w, f->at, true, (uint32_t) f->made, reterr);
        while (r >= 0 && !w->done) {
                r = binlog_next(f, &e, reterr);
                if (r <= 0)
                        break;
                r = take_event(w, f, &e, reterr);
                if (r >= 0 && ++w->events % LOOK_EVERY == 0)
                        r = check_time(w, reterr);
        }
        return r < 0 || w->done ? r : end_of_file(w, f, last, reterr);
}

static int read_files(Walk *w, int dfd, uint64_t newest, Failure *reterr) {
        char name[NAME_MAX + 1];
        int r = 0;
        for (w->number = w->begin.number; r >= 0 && !w->done; w->number++) {
                BinlogFile f;
                mariadb_log_file_name(w->d, w->number, name);
                if (faccessat(dfd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                        return failure_set(reterr, CONDITION_FAILED, "the log has a gap: %s is not in %.300s", name,
                                           w->plan->directory);
                r = binlog_open(dfd, name, &f, reterr);
                if (r < 0)
                        break;
                r = read_file(w, &f, w->number >= newest, reterr);
                w->plan->bytes += w->done ? w->plan->until : f.bytes;
                binlog_close(&f);
        }
        return r;
}

int mariadb_forward_plan(const Mariadb *d, const struct vss_event *e, const char *until, json_object *saved,
                         ForwardPlan *ret, Failure *reterr) {
        Walk w = { .d = d, .e = e, .plan = ret, .chain = BINLOG_CHAIN_NONE };
        uint64_t newest = 0;
        *ret = (ForwardPlan) {};
        int r = point_parse(d, until, &w.point, reterr);
        r = r < 0 ? r : directory_find(d, e, ret, reterr);
        r = r < 0 ? r : begin_read(d, saved, &w.point, &w.begin, reterr);
        if (r < 0)
                return r;
        _cleanup_close_ int dfd = open(ret->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dfd < 0)
                return failure_set(reterr, CONDITION_FAILED, "the log in %.300s: %s", ret->directory, strerror(errno));
        ret->first = w.begin.number;
        ret->from = w.begin.position;
        r = newest_number(&w, dfd, &newest, reterr);
        if (r >= 0 && newest > w.begin.number + FILES_MAX)
                r = failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d files of the binary log", FILES_MAX);
        r = r < 0 ? r : read_files(&w, dfd, newest, reterr);
        binlog_chain_done(&w.chain);
        return r;
}
