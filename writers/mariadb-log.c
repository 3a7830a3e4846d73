/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backups of the binary log. FLUSH BINARY LOGS ends the file that is being written and begins the next one; all before
 * that are whole, and are the backup. It is worth nothing if one is missing since the backup before: the server purges
 * them by age, and somebody may have. So the files that the server lists have to be a count without gaps that begins
 * where the backup before ended. After RESET MASTER the count begins anew under the same names; a file begins with an
 * event that says when it was made, which tells the two apart.
 */
#include "protocol/jsonutil.h"
#include "writers/mariadb.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

enum { LOGS_MAX = 1 << 16, FIRST_POSITION = 4, EVENT_FORMAT_DESCRIPTION = 15, HEADER_BYTES = 9 };

typedef struct LogPoint {
        uint64_t number, position;
        uint64_t made; /* when file number was, in seconds since 1970; 0: not known */
} LogPoint;

void mariadb_log_file_name(const Mariadb *d, uint64_t number, char ret[static NAME_MAX + 1]) {
        (void) snprintf(ret, NAME_MAX + 1, "%.200s.%06" PRIu64, d->log_name, number);
}

bool mariadb_log_number(const Mariadb *d, const char *file, uint64_t *ret) {
        const char *slash = strrchr(file, '/'), *name = slash ? slash + 1 : file;
        size_t n = strlen(d->log_name);
        if (n == 0 || strncmp(name, d->log_name, n) != 0 || name[n] != '.')
                return false;
        const char *count = name + n + 1;
        size_t length = strlen(count);
        if (length < 6 || length > 10 || strspn(count, "0123456789") != length)
                return false;
        *ret = strtoull(count, NULL, 10);
        return *ret > 0;
}

/* The magic number, then the header of the first event: 4 bytes of time, its type. Not encrypted even if the rest is.
 */
static int log_made(const Mariadb *d, uint64_t number, uint64_t *ret, Failure *reterr) {
        char path[PATH_MAX + NAME_MAX + 2], name[NAME_MAX + 1];
        static const unsigned char magic[] = { 0xfe, 'b', 'i', 'n' };
        unsigned char head[HEADER_BYTES] = {};
        mariadb_log_file_name(d, number, name);
        (void) snprintf(path, sizeof(path), "%s/%s", d->log_directory, name);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof(head), 0);
        if (n < 0)
                return failure_set(reterr, CONDITION_FAILED, "the binary log %s: %s", path, strerror(errno));
        if (n < HEADER_BYTES || memcmp(head, magic, sizeof(magic)) != 0 || head[8] != EVENT_FORMAT_DESCRIPTION)
                return failure_set(reterr, CONDITION_FAILED, "%s is no binary log of this server", path);
        *ret = (uint32_t) head[4] | (uint32_t) head[5] << 8 | (uint32_t) head[6] << 16 | (uint32_t) head[7] << 24;
        return 0;
}

/* ---- what the next backup goes on from: NUMBER:POSITION:MADE ---- */

static int stamp_put(struct vss_event *e, const LogPoint *p) {
        char text[64];
        (void) snprintf(text, sizeof(text), "%" PRIu64 ":%" PRIu64 ":%" PRIu64, p->number, p->position, p->made);
        return vss_event_put(e, COMPONENT, "stamp", text);
}

static bool stamp_parse(const char *text, LogPoint *ret) {
        char rest;
        return strspn(text, "0123456789:") == strlen(text) &&
               sscanf(text, "%19" SCNu64 ":%19" SCNu64 ":%19" SCNu64 "%c", &ret->number, &ret->position, &ret->made,
                      &rest) == 3 &&
               ret->number > 0 && ret->made > 0;
}

int mariadb_stamp_tell(const Mariadb *d, struct vss_event *e, const char *file, uint64_t position, uint64_t *ret_made) {
        LogPoint p = { .position = position };
        if (d->no_log_backup || !mariadb_log_number(d, file, &p.number) || log_made(d, p.number, &p.made, NULL) < 0)
                p = (LogPoint) {}; /* no backup of the log can follow this one, and it will be told why */
        *ret_made = p.made;
        return stamp_put(e, &p);
}

/* ---- what there is ---- */

typedef struct LogFile {
        uint64_t number, bytes;
} LogFile;

typedef struct LogList {
        const Mariadb *d;
        LogFile *files; /* as the server lists them; one that is listed and not there has no bytes */
        size_t n, allocated;
} LogList;

static int take_log(void *target, char **v, Failure *reterr) {
        LogList *l = target;
        LogFile f = { .bytes = strtoull(v[1] ?: "0", NULL, 10) };
        if (!v[0] || !mariadb_log_number(l->d, v[0], &f.number))
                return failure_set(reterr, CONDITION_NOT_SUPPORTED, "mariadb lists a binary log %.100s, not %.100s.…",
                                   v[0] ?: "", l->d->log_name);
        if (l->n == l->allocated) {
                size_t more = l->allocated ? l->allocated * 2 : 64;
                LogFile *grown = reallocarray(l->files, more, sizeof(*grown));
                if (!grown)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "out of memory");
                l->files = grown;
                l->allocated = more;
        }
        l->files[l->n++] = f;
        return 0;
}

static int list_get(Mariadb *d, struct vss_event *e, LogList *ret, Failure *reterr) {
        *ret = (LogList) { .d = d };
        int r = server_ask(&d->server, program_until(e), "SHOW BINARY LOGS", LOGS_MAX, take_log, ret, reterr);
        return r < 0 || ret->n > 0 ? r : failure_set(reterr, CONDITION_FAILED, "mariadb lists no binary log");
}

/* As far back from the newest as none is missing. */
static size_t run_begin(const LogList *l) {
        size_t i = l->n - 1;
        while (i > 0 && l->files[i - 1].bytes > 0 && l->files[i - 1].number + 1 == l->files[i].number)
                i--;
        return i;
}

/* from and each after it, to the newest; the index of from. */
static int run_check(const LogList *l, uint64_t from, size_t *ret, Failure *reterr) {
        char name[NAME_MAX + 1];
        size_t i = run_begin(l);
        uint64_t first = l->files[i].number;
        if (from < first) {
                mariadb_log_file_name(l->d, first - 1, name);
                return failure_set(reterr, CONDITION_FAILED,
                                   "the binary log has a gap: the server does not have %s any more; make a full backup",
                                   name);
        }
        if (from >= l->files[l->n - 1].number)
                return failure_set(reterr, CONDITION_FAILED,
                                   "the backup before was of a later binary log than the server has; make a full one");
        *ret = i + (size_t) (from - first);
        return 0;
}

/* ---- the backup ---- */

/* Where the backup before ended, if there was one; else how far back the log goes. */
static int begin_find(const Mariadb *d, struct vss_event *e, const LogList *l, LogPoint *ret, Failure *reterr) {
        const char *text = NULL;
        uint64_t made;
        size_t i;
        if (vss_event_get(e, COMPONENT, "previous_stamp", &text) < 0 || isempty(text)) {
                *ret = (LogPoint) { .number = l->files[run_begin(l)].number, .position = FIRST_POSITION };
                return ret->number < l->files[l->n - 1].number ?
                               0 :
                               failure_set(reterr, CONDITION_FAILED, "mariadb lists no whole binary log");
        }
        if (!stamp_parse(text, ret))
                return failure_set(reterr, CONDITION_FAILED,
                                   "the backup before does not say where it ends in the binary log; make a full one");
        int r = run_check(l, ret->number, &i, reterr);
        r = r < 0 ? r : log_made(d, ret->number, &made, reterr);
        if (r >= 0 && (made != ret->made || l->files[i].bytes < ret->position))
                r = failure_set(reterr, CONDITION_FAILED,
                                "the backup before was of another binary log (RESET MASTER?); make a full one");
        return r;
}

static int backup_tell(const Mariadb *d, struct vss_event *e, const LogList *l, const LogPoint *from, Failure *reterr) {
        const LogFile *last = l->files + l->n - 2;
        LogPoint next = { .number = last[1].number, .position = FIRST_POSITION };
        char name[NAME_MAX + 1];
        int r = log_made(d, next.number, &next.made, reterr);
        if (r < 0)
                return r;
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        mariadb_log_file_name(d, from->number, name);
        json_add_string(o, "binlog_first_file", name);
        json_add_uint(o, "binlog_first_position", from->position);
        mariadb_log_file_name(d, last->number, name);
        json_add_string(o, "binlog_last_file", name);
        json_add_uint(o, "binlog_last_position", last->bytes);
        json_add_string(o, "binlog_directory", d->log_directory);
        r = stamp_put(e, &next);
        return r < 0 ? r :
                       vss_event_put(e, COMPONENT, "metadata",
                                     json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
}

int mariadb_log_backup(Mariadb *d, struct vss_event *e, Failure *reterr) {
        LogList l = {};
        LogPoint from = {};
        int r = server_do(&d->server, program_until(e), "FLUSH BINARY LOGS", reterr);
        r = r < 0 ? r : list_get(d, e, &l, reterr);
        r = r < 0 ? r : begin_find(d, e, &l, &from, reterr);
        r = r < 0 ? r : backup_tell(d, e, &l, &from, reterr);
        d->log_from = r < 0 ? 0 : from.number;
        free(l.files);
        return r;
}

int mariadb_log_is_there(Mariadb *d, struct vss_event *e, Failure *reterr) {
        LogList l = {};
        size_t i;
        int r = list_get(d, e, &l, reterr);
        r = r < 0 ? r : run_check(&l, d->log_from, &i, reterr);
        free(l.files);
        return r;
}
