/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/mariadb-events.h"
#include "protocol/base.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>

enum {
        HEADER_BYTES = 19,
        BUFFER_BYTES = 1 << 18,
        FLAG_IN_USE = 1, /* of the first event */
};

enum {
        EVENT_QUERY = 2,
        EVENT_STOP = 3,
        EVENT_ROTATE = 4,
        EVENT_FORMAT_DESCRIPTION = 15,
        EVENT_XID = 16,
        EVENT_XA_PREPARE = 38,
        EVENT_CHECKPOINT = 161,
        EVENT_GTID = 162,
        EVENT_GTID_LIST = 163,
        EVENT_START_ENCRYPTION = 164,
        EVENT_QUERY_COMPRESSED = 165,
};

static uint32_t number_at(const unsigned char *p) {
        return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24;
}

static int bad(const BinlogFile *f, const char *why, Failure *reterr) {
        return failure_set(reterr, CONDITION_FAILED, "%s at %" PRIu64 ": %s", f->name, f->at, why);
}

bool binlog_begins_group(const BinlogEvent *e) {
        return e->type == EVENT_GTID;
}

bool binlog_is_list(const BinlogEvent *e) {
        return e->type == EVENT_GTID_LIST;
}

bool binlog_is_of_log(const BinlogEvent *e) {
        switch (e->type) {
        case EVENT_STOP:
        case EVENT_ROTATE:
        case EVENT_FORMAT_DESCRIPTION:
        case EVENT_CHECKPOINT:
        case EVENT_GTID_LIST:
        case EVENT_START_ENCRYPTION:
                return true;
        default:
                return false;
        }
}

bool binlog_may_end_group(const BinlogEvent *e) {
        return e->type == EVENT_XID || e->type == EVENT_QUERY || e->type == EVENT_QUERY_COMPRESSED ||
               e->type == EVENT_XA_PREPARE || binlog_is_of_log(e);
}

/* 1: the header is there; 0: the file ends. */
static int header_read(BinlogFile *f, BinlogEvent *ret, unsigned *ret_flags, Failure *reterr) {
        unsigned char h[HEADER_BYTES];
        if (f->at == f->bytes)
                return 0;
        if (fseeko(f->file, (off_t) f->at, SEEK_SET) < 0)
                return bad(f, strerror(errno), reterr);
        size_t n = fread(h, 1, sizeof(h), f->file);
        uint32_t length = n == sizeof(h) ? number_at(h + 9) : 0;
        if (ferror(f->file))
                return bad(f, strerror(errno), reterr);
        if (length < HEADER_BYTES || length > f->bytes - f->at)
                return f->unfinished ? 0 : bad(f, "the event is cut off", reterr);
        *ret = (BinlogEvent) {
                .at = f->at, .next = f->at + length, .time = number_at(h), .server = number_at(h + 5), .type = h[4]
        };
        *ret_flags = (unsigned) h[17] | (unsigned) h[18] << 8;
        return 1;
}

int binlog_next(BinlogFile *f, BinlogEvent *ret, Failure *reterr) {
        unsigned flags;
        int r = header_read(f, ret, &flags, reterr);
        if (r <= 0)
                return r;
        if (ret->type == EVENT_START_ENCRYPTION)
                return bad(f, "the log is encrypted", reterr);
        f->ended = ret->type == EVENT_ROTATE || ret->type == EVENT_STOP;
        f->at = ret->next;
        return 1;
}

int binlog_read(BinlogFile *f, const BinlogEvent *e, uint64_t offset, void *ret, size_t n, Failure *reterr) {
        uint64_t begin = e->at + HEADER_BYTES;
        if (e->next - begin < offset || e->next - begin - offset < n)
                return failure_set(reterr, CONDITION_FAILED, "%s at %" PRIu64 ": the event is too short", f->name,
                                   e->at);
        if (fseeko(f->file, (off_t) (begin + offset), SEEK_SET) < 0 || fread(ret, 1, n, f->file) != n)
                return failure_set(reterr, CONDITION_FAILED, "%s at %" PRIu64 ": it cannot be read", f->name, e->at);
        return 0;
}

static int first_event(BinlogFile *f, Failure *reterr) {
        static const unsigned char magic[] = { 0xfe, 'b', 'i', 'n' };
        unsigned char head[sizeof(magic)];
        BinlogEvent e = {};
        unsigned flags = 0;
        if (fread(head, 1, sizeof(head), f->file) != sizeof(head) || memcmp(head, magic, sizeof(magic)) != 0)
                return bad(f, "no binary log", reterr);
        f->at = BINLOG_FIRST_POSITION;
        int r = header_read(f, &e, &flags, reterr);
        if (r <= 0 || e.type != EVENT_FORMAT_DESCRIPTION)
                return r < 0 ? r : bad(f, "no binary log of this kind", reterr);
        f->made = e.time;
        f->unfinished = flags & FLAG_IN_USE;
        f->at = e.next;
        return 0;
}

int binlog_open(int dfd, const char *name, BinlogFile *ret, Failure *reterr) {
        struct stat st;
        _cleanup_close_ int fd = openat(dfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        *ret = (BinlogFile) {};
        (void) snprintf(ret->name, sizeof(ret->name), "%s", name);
        if (fd < 0 || fstat(fd, &st) < 0)
                return failure_set(reterr, CONDITION_FAILED, "%s: %s", name, strerror(errno));
        if (S_ISREG(st.st_mode))
                ret->file = fdopen(TAKE_FD(fd), "r");
        if (!ret->file)
                return failure_set(reterr, CONDITION_FAILED, "%s cannot be read as a file", name);
        (void) setvbuf(ret->file, NULL, _IOFBF, BUFFER_BYTES);
        ret->bytes = (uint64_t) st.st_size;
        int r = first_event(ret, reterr);
        if (r < 0)
                binlog_close(ret);
        return r;
}

void binlog_close(BinlogFile *f) {
        if (f->file)
                (void) fclose(f->file);
        f->file = NULL;
}
