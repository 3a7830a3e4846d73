/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A backup as PostgreSQL means it. What pg_backup_stop() returns is written into the copy byte for byte; and since a
 * server that starts from a backup_label wants the log up to the end of the backup, which was written after the copy
 * was made, the segments of the log from the beginning to the end of the backup are copied into it as well. So the copy
 * needs no archive.
 */
#include "writers/postgresql.h"
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

enum { SEGMENTS_MAX = 4096, CHUNK_BYTES = 1 << 20 };

bool pg_lsn_parse(const char *text, uint64_t *ret) {
        unsigned high, low;
        char rest;
        if (!text || sscanf(text, "%8X/%8X%c", &high, &low, &rest) != 2)
                return false;
        *ret = (uint64_t) high << 32 | low;
        return true;
}

static int take_begin(void *target, char *const *v, Failure *reterr) {
        Backup *b = target;
        b->timeline = (uint32_t) strtoul(v[1] ?: "0", NULL, 10);
        b->segment_bytes = strtoull(v[2] ?: "0", NULL, 10);
        if (!pg_lsn_parse(v[0], &b->start_lsn) || b->timeline == 0 || !pg_segment_bytes_are_valid(b->segment_bytes))
                return failure_set(reterr, CONDITION_FAILED, "postgresql began a backup at %.30s", v[0] ?: "");
        b->running = true;
        return 0;
}

int pg_backup_begin(Postgresql *p, struct vss_event *e, Failure *reterr) {
        return server_ask(&p->server, program_until(e),
                          "SELECT pg_catalog.pg_backup_start('vss', true), "
                          "(SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()), "
                          "(SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_segment_size')",
                          take_begin, &p->backup, reterr);
}

/* --- into the copy ------------------------------------------------------------------------------------------------ */

/* A new file of the copy, of whoever owns the directory it lies in, as on the live system. */
static int copy_create(struct vss_event *e, const char *directory, const char *name, Failure *reterr) {
        char path[PATH_MAX + 32]; /* one that is too long is refused by the next call */
        struct stat st;
        (void) snprintf(path, sizeof(path), "%s/%s", directory, name);
        _cleanup_close_ int fd = vss_event_open_copy(e, path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return failure_set(reterr, CONDITION_FAILED, "%s in the copy: %s", path, strerror(-fd));
        if (stat(directory, &st) < 0 || (geteuid() == 0 && fchown(fd, st.st_uid, st.st_gid) < 0))
                return failure_set(reterr, CONDITION_FAILED, "%s in the copy: %s", path, strerror(errno));
        return TAKE_FD(fd);
}

static int write_all(int fd, const char *data, size_t n) {
        while (n > 0) {
                ssize_t w = write(fd, data, n);
                if (w <= 0)
                        return w < 0 ? -errno : -EIO;
                data += w;
                n -= (size_t) w;
        }
        return 0;
}

static int text_into_copy(struct vss_event *e, const char *directory, const char *name, const char *text,
                          Failure *reterr) {
        _cleanup_close_ int fd = copy_create(e, directory, name, reterr);
        if (fd < 0)
                return fd;
        int r = write_all(fd, text, strlen(text));
        if (r < 0 || fsync(fd) < 0)
                return failure_set(reterr, CONDITION_FAILED, "%s/%s in the copy: %s", directory, name,
                                   strerror(r < 0 ? -r : errno));
        return 0;
}

/* The whole of a file of the live log that is exactly as long as it has to be; what else lies there is not followed. */
static int segment_into_copy(struct vss_event *e, const char *directory, const char *name, uint64_t bytes,
                             Failure *reterr) {
        struct stat st, now;
        char path[PATH_MAX + 32];
        ssize_t n = 0;
        int r = 0;
        (void) snprintf(path, sizeof(path), "%s/%s", directory, name);
        _cleanup_free_ char *buffer = malloc(CHUNK_BYTES);
        _cleanup_close_ int from = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (from < 0 || !buffer)
                return failure_set(reterr, CONDITION_FAILED, "%s, which the backup needs: %s", path,
                                   strerror(from < 0 ? errno : ENOMEM));
        if (fstat(from, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t) st.st_size != bytes)
                return failure_set(reterr, CONDITION_FAILED, "%s is no segment of the log", path);
        _cleanup_close_ int to = copy_create(e, directory, name, reterr);
        if (to < 0)
                return to;
        for (uint64_t left = bytes; r >= 0 && left > 0 && (n = read(from, buffer, CHUNK_BYTES)) > 0;
             left -= MIN_OF(left, (uint64_t) n))
                r = write_all(to, buffer, (size_t) n);
        if (r < 0 || n < 0 || fsync(to) < 0)
                return failure_set(reterr, CONDITION_FAILED, "%s in the copy: %s", path, strerror(r < 0 ? -r : errno));
        /* A segment that is used again is first renamed: under its name it was what it said while it was read. */
        if (n == 0 || stat(path, &now) < 0 || now.st_dev != st.st_dev || now.st_ino != st.st_ino)
                return failure_set(reterr, CONDITION_FAILED, "%s was used again while it was copied", path);
        return 0;
}

/* Names of segments as in src/include/access/xlog_internal.h: timeline, then the number in two halves. */
static int log_into_copy(const Backup *b, uint64_t stop_lsn, struct vss_event *e, const char *directory,
                         Failure *reterr) {
        uint64_t first = b->start_lsn / b->segment_bytes, last = (stop_lsn - 1) / b->segment_bytes;
        uint64_t per_id = 0x100000000ULL / b->segment_bytes;
        int r = 0;
        if (stop_lsn <= b->start_lsn || last - first >= SEGMENTS_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "the backup is of %" PRIu64 " segments of the log",
                                   last - first + 1);
        for (uint64_t i = first; r >= 0 && i <= last; i++) {
                if (now_usec() >= program_until(e))
                        return failure_set(reterr, CONDITION_FAILED, "copying the log of the backup takes too long");
                char name[32];
                (void) snprintf(name, sizeof(name), "%08X%08X%08X", b->timeline, (unsigned) (i / per_id),
                                (unsigned) (i % per_id));
                r = segment_into_copy(e, directory, name, b->segment_bytes, reterr);
                vss_event_progress(e, (double) (i - first + 1) / (double) (last - first + 1));
        }
        return r;
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

typedef struct Ended {
        uint64_t stop_lsn;
        char *label, *map;
} Ended;

static int take_end(void *target, char *const *v, Failure *reterr) {
        Ended *ended = target;
        ended->label = strdup(v[1] ?: "");
        ended->map = strdup(v[2] ?: "");
        if (!ended->label || !ended->map || !ended->label[0] || !pg_lsn_parse(v[0], &ended->stop_lsn))
                return failure_set(reterr, CONDITION_FAILED, "postgresql ended the backup at %.30s", v[0] ?: "");
        return 0;
}

int pg_backup_end(Postgresql *p, struct vss_event *e, Failure *reterr) {
        Places places = {};
        Ended ended = {};
        int r = p->server.session ? 0 :
                                    failure_set(reterr, CONDITION_FAILED,
                                                "postgresql: the session was lost, and with it the backup");
        r = r < 0 ? r :
                    server_ask(&p->server, program_until(e),
                               "SELECT lsn, labelfile, spcmapfile FROM pg_catalog.pg_backup_stop(false)", take_end,
                               &ended, reterr);
        p->backup.running = false;
        r = r < 0 ? r : places_get(p, program_until(e), &places, reterr);
        if (r >= 0) {
                char inside[PATH_MAX];
                const char *data = places.places[0].path, *log = inside;
                (void) snprintf(inside, sizeof(inside), "%s/pg_wal", data);
                if (places.n > 1 && places.places[1].is_log)
                        log = places.places[1].path;
                r = log_into_copy(&p->backup, ended.stop_lsn, e, log, reterr);
                if (r >= 0 && ended.map[0])
                        r = text_into_copy(e, data, "tablespace_map", ended.map, reterr);
                r = r < 0 ? r : text_into_copy(e, data, "backup_label", ended.label, reterr);
        }
        places_done(&places);
        free(ended.label);
        free(ended.map);
        return r;
}
