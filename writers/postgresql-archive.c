/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Backups of the log. PostgreSQL archives whole segments, each once it is full; a backup of type log ends the segment
 * that is being written, waits until that one is archived, and is then the archive as it lies there. What makes it
 * worth anything is that no segment is missing since the backup before, so that is looked at before anything is called
 * good: the names of segments (src/include/access/xlog_internal.h) are a count without gaps. A server that went forward
 * to a point is on a timeline of its own, which goes on with the count while segments of the old one with the same
 * numbers still lie there: they are no part of its log. Which timeline holds from where on says NNNNNNNN.history.
 */
#include "writers/postgresql.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>

enum {
        SEGMENTS_MAX = 1 << 20,
        SEGMENT_NAME_LENGTH = 24,
        LOOK_MSEC = 100,
        TIMELINES_MAX = 256,
        HISTORY_LINE_BYTES = 1024, /* two numbers, and a reason in words */
};

bool pg_segment_bytes_are_valid(uint64_t bytes) {
        return bytes >= 1 << 20 && bytes <= 1 << 30 && (bytes & (bytes - 1)) == 0;
}

bool pg_archive_path_is_plain(const char *path) {
        static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-@:,=";
        return path[0] == '/' && strlen(path) < PATH_MAX / 2 && path[strspn(path, allowed)] == '\0';
}

static void segment_name(const LogPoint *p, uint32_t timeline, uint64_t number,
                         char ret[static SEGMENT_NAME_LENGTH + 1]) {
        uint64_t per_id = 0x100000000ULL / p->segment_bytes;
        (void) snprintf(ret, SEGMENT_NAME_LENGTH + 1, "%08X%08X%08X", timeline, (unsigned) (number / per_id),
                        (unsigned) (number % per_id));
}

static bool segment_number(const LogPoint *p, const char *name, uint32_t *ret_timeline, uint64_t *ret) {
        unsigned high, low;
        uint64_t per_id = 0x100000000ULL / p->segment_bytes;
        if (strlen(name) != SEGMENT_NAME_LENGTH || strspn(name, "0123456789ABCDEF") != SEGMENT_NAME_LENGTH ||
            sscanf(name, "%8X%8X%8X", ret_timeline, &high, &low) != 3 || low >= per_id)
                return false;
        *ret = high * per_id + low;
        return true;
}

/* ---- timelines ---- */

typedef struct Timelines { /* the one that is meant last, before it those that it came from */
        size_t n;
        struct {
                uint32_t id;
                uint64_t begin; /* number of its first segment */
        } list[TIMELINES_MAX];
} Timelines;

static FILE *history_open(const char *directory, uint32_t timeline) {
        char path[PATH_MAX + 32];
        (void) snprintf(path, sizeof(path), "%s/%08X.history", directory, timeline);
        int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
        if (!f)
                (void) close_fd(fd);
        return f;
}

/* Lines of TIMELINE, the position where the next one left it, and why. */
static bool history_read(FILE *f, const LogPoint *from, uint32_t timeline, Timelines *ret) {
        char line[HISTORY_LINE_BYTES];
        uint64_t begin = 0;
        while (fgets(line, sizeof(line), f)) {
                unsigned id, high, low;
                const char *text = line + strspn(line, " \t");
                if (!strchr(line, '\n') || ret->n + 1 >= TIMELINES_MAX)
                        return false;
                if (*text == '#' || *text == '\n')
                        continue;
                uint64_t left;
                if (sscanf(text, "%u %8X/%8X", &id, &high, &low) != 3 || id == 0 || id >= timeline ||
                    (ret->n > 0 && id <= ret->list[ret->n - 1].id))
                        return false;
                left = (uint64_t) high << 32 | low;
                ret->list[ret->n].id = id;
                ret->list[ret->n++].begin = begin;
                if (left / from->segment_bytes < begin || (id == from->timeline && left < from->lsn))
                        return false;
                begin = left / from->segment_bytes;
        }
        ret->list[ret->n].id = timeline;
        ret->list[ret->n++].begin = begin;
        return !ferror(f);
}

/* As PostgreSQL looks for the latest: the last of a row without gaps. */
uint32_t pg_archive_newest_timeline(const char *directory, uint32_t from) {
        for (unsigned i = 0; i < TIMELINES_MAX && from < UINT32_MAX; i++, from++) {
                FILE *f = history_open(directory, from + 1);
                if (!f)
                        break;
                (void) fclose(f);
        }
        return from;
}

/* From from's timeline to the one that is meant. */
static int timelines_read(const char *directory, const LogPoint *from, uint32_t timeline, Timelines *ret,
                          Failure *reterr) {
        bool descends = false;
        ret->n = 0;
        if (timeline == from->timeline) {
                ret->list[ret->n].id = timeline;
                ret->list[ret->n++].begin = 0;
                return 0;
        }
        FILE *f = history_open(directory, timeline);
        if (!f)
                return failure_set(reterr, CONDITION_FAILED, "%08X.history is not in %s: %s", timeline, directory,
                                   strerror(errno));
        bool good = history_read(f, from, timeline, ret);
        (void) fclose(f);
        for (size_t i = 0; i < ret->n; i++)
                descends = descends || ret->list[i].id == from->timeline;
        return good && descends ? 0 :
                                  failure_set(reterr, CONDITION_FAILED,
                                              "timeline %" PRIu32 " in %s does not go on from where the backup is, on "
                                              "timeline %" PRIu32,
                                              timeline, directory, from->timeline);
}

/* The one on which a segment has to be. */
static uint32_t timelines_at(const Timelines *t, uint64_t number) {
        size_t i = t->n - 1;
        while (i > 0 && t->list[i].begin > number)
                i--;
        return t->list[i].id;
}

/* ---- segments ---- */

static int number_compare(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;
        return x < y ? -1 : x > y;
}

typedef struct Numbers {
        uint64_t *list;
        size_t n, allocated;
} Numbers;

static int number_add(Numbers *n, uint64_t number, Failure *reterr) {
        if (n->n >= SEGMENTS_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "the archive has more than %d segments",
                                   SEGMENTS_MAX);
        if (n->n == n->allocated) {
                size_t more = n->allocated ? n->allocated * 2 : 256;
                uint64_t *grown = reallocarray(n->list, more, sizeof(*grown));
                if (!grown)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "out of memory");
                n->list = grown;
                n->allocated = more;
        }
        n->list[n->n++] = number;
        return 0;
}

/* The whole segments from number first on, in order. */
static int segments_list(const char *directory, const LogPoint *from, const Timelines *t, uint64_t first, Numbers *ret,
                         Failure *reterr) {
        DIR *d = opendir(directory);
        uint64_t number;
        uint32_t timeline;
        struct stat st;
        int r = 0;
        if (!d)
                return failure_set(reterr, CONDITION_FAILED, "the archive %s: %s", directory, strerror(errno));
        for (struct dirent *e; r >= 0 && (e = readdir(d));)
                if (segment_number(from, e->d_name, &timeline, &number) && number >= first &&
                    timeline == timelines_at(t, number) &&
                    fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) &&
                    (uint64_t) st.st_size == from->segment_bytes)
                        r = number_add(ret, number, reterr);
        (void) closedir(d);
        if (ret->n > 1)
                qsort(ret->list, ret->n, sizeof(*ret->list), number_compare);
        return r;
}

int pg_archive_check(const char *directory, const LogPoint *from, uint32_t timeline, uint64_t until, Failure *reterr) {
        Numbers n = {};
        Timelines t;
        char name[SEGMENT_NAME_LENGTH + 1];
        uint64_t expected = from->lsn / from->segment_bytes;
        uint64_t last = until == UINT64_MAX ? expected : (until - 1) / from->segment_bytes;
        int r = timelines_read(directory, from, timeline, &t, reterr);
        r = r < 0 ? r : segments_list(directory, from, &t, expected, &n, reterr);
        for (size_t i = 0; r >= 0 && i < n.n; i++) {
                if (n.list[i] > expected)
                        break;
                expected += n.list[i] == expected;
        }
        if (r >= 0 && (expected <= last || (n.n > 0 && n.list[n.n - 1] >= expected && until == UINT64_MAX))) {
                segment_name(from, timelines_at(&t, expected), expected, name);
                r = failure_set(reterr, CONDITION_FAILED, "the log has a gap: %s is not in %s, or not whole", name,
                                directory);
        }
        free(n.list);
        return r;
}

/* ---- a backup of the log ---- */

typedef struct Switched {
        LogPoint point;
        char data[PATH_MAX];
} Switched;

static int take_switch(void *target, char *const *v, Failure *reterr) {
        Switched *s = target;
        (void) snprintf(s->point.system, sizeof(s->point.system), "%s", v[1] ?: "");
        s->point.timeline = (uint32_t) strtoul(v[2] ?: "0", NULL, 10);
        s->point.segment_bytes = strtoull(v[3] ?: "0", NULL, 10);
        (void) snprintf(s->data, sizeof(s->data), "%s", v[4] ?: "");
        if (!pg_lsn_parse(v[0], &s->point.lsn) || s->point.lsn == 0 || s->point.timeline == 0 ||
            !pg_segment_bytes_are_valid(s->point.segment_bytes))
                return failure_set(reterr, CONDITION_FAILED, "postgresql ended its log at %.30s", v[0] ?: "");
        return 0;
}

/* SYSTEM:TIMELINE:LSN */
static bool stamp_parse(const char *text, LogPoint *ret) {
        char lsn[24];
        return sscanf(text, "%23[0-9]:%" SCNu32 ":%23[0-9A-F/]", ret->system, &ret->timeline, lsn) == 3 &&
               pg_lsn_parse(lsn, &ret->lsn);
}

int pg_stamp_tell(struct vss_event *e, const LogPoint *p) {
        char text[64];
        (void) snprintf(text, sizeof(text), "%s:%" PRIu32 ":%X/%X", p->system, p->timeline, (unsigned) (p->lsn >> 32),
                        (unsigned) p->lsn);
        return vss_event_put(e, COMPONENT, "stamp", text);
}

static int check_previous(const Postgresql *p, struct vss_event *e, const LogPoint *now, Failure *reterr) {
        const char *text = NULL;
        LogPoint before = { .segment_bytes = now->segment_bytes };
        if (vss_event_get(e, COMPONENT, "previous_stamp", &text) < 0 || isempty(text))
                return 0;
        if (!stamp_parse(text, &before) || !streq(before.system, now->system) || before.lsn > now->lsn ||
            before.timeline > now->timeline)
                return failure_set(reterr, CONDITION_FAILED,
                                   "the backup before was of another cluster or of a later state; make a full one");
        return pg_archive_check(p->archive, &before, now->timeline, now->lsn, reterr);
}

/* The server tells archive_status of a segment before pg_switch_wal() returns; no .ready any more: it is archived. */
static int wait_for_archive(const Postgresql *p, struct vss_event *e, const Switched *s, Failure *reterr) {
        char name[SEGMENT_NAME_LENGTH + 1], ready[PATH_MAX + 64], there[PATH_MAX + 64];
        struct pollfd cancel = { .fd = vss_event_cancel_fd(e), .events = POLLIN };
        struct stat st;
        segment_name(&s->point, s->point.timeline, (s->point.lsn - 1) / s->point.segment_bytes, name);
        (void) snprintf(ready, sizeof(ready), "%s/pg_wal/archive_status/%s.ready", s->data, name);
        (void) snprintf(there, sizeof(there), "%s/%s", p->archive, name);
        for (;;) {
                if (access(ready, F_OK) < 0 && errno == ENOENT && stat(there, &st) == 0 &&
                    (uint64_t) st.st_size == s->point.segment_bytes)
                        return 0;
                if (now_usec() >= program_until(e) || poll(&cancel, 1, LOOK_MSEC) > 0)
                        return failure_set(reterr, CONDITION_FAILED,
                                           "%s was not archived to %s in time: look at archive_command", name,
                                           p->archive);
        }
}

int pg_log_backup(Postgresql *p, struct vss_event *e, Failure *reterr) {
        Switched s = {};
        char lsn[24];
        int r = server_ask(&p->server, program_until(e),
                           "SELECT pg_catalog.pg_switch_wal(), s.system_identifier, c.timeline_id, "
                           "(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size'), "
                           "pg_catalog.current_setting('data_directory') "
                           "FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c",
                           take_switch, &s, reterr);
        r = r < 0 ? r : wait_for_archive(p, e, &s, reterr);
        r = r < 0 ? r : check_previous(p, e, &s.point, reterr);
        if (r < 0)
                return r;
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        (void) snprintf(lsn, sizeof(lsn), "%X/%X", (unsigned) (s.point.lsn >> 32), (unsigned) s.point.lsn);
        json_add_string(o, "system_identifier", s.point.system);
        json_add_uint(o, "timeline", s.point.timeline);
        json_add_string(o, "lsn", lsn);
        json_add_uint(o, "segment_bytes", s.point.segment_bytes);
        json_add_string(o, "archive", p->archive);
        r = pg_stamp_tell(e, &s.point);
        return r < 0 ? r :
                       vss_event_put(e, COMPONENT, "metadata",
                                     json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
}
