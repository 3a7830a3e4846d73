/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-cow format. What holds anything is somebody's: a store with its snapshots, a file system, a table of partitions,
 * a physical volume, or bytes of which nobody knows what they are. It is only formatted when that is asked for, never
 * while somebody uses it, and then nothing is left of it by which it could be taken for what it was.
 */
#include "providers/cow/image.h"
#include "providers/cow/origin.h"
#include "providers/cow/parse.h"
#include "providers/cow/ring.h"
#include "providers/cow/tools.h"
#include <blkid/blkid.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/random.h>

enum { FORMAT_TEXT_MAX = 384, HOLDS_TEXT_MAX = 128 };

typedef struct FormatOptions {
        const char *store;
        uint64_t bytes, segment_blocks;
        bool force;
} FormatOptions;

static int usage(const char *why) {
        fprintf(stderr, "vss-cow: %s; see vss-cow --help\n", why);
        return TOOL_USAGE;
}

static bool number_parse(const char *s, uint64_t *ret) {
        char *end;
        errno = 0;
        *ret = strtoull(s, &end, 10);
        return s[0] >= '0' && s[0] <= '9' && !*end && errno == 0;
}

/* --- what it holds ------------------------------------------------------------------------------------------------ */

static blkid_probe probe_free(blkid_probe p) {
        blkid_free_probe(p);
        return NULL;
}
DEFINE_CLEANUP(blkid_probe, probe_free);

/* For everything that libblkid knows, wherever it lies. NULL: no memory, or it cannot be read. */
static blkid_probe probe_new(int fd) {
        blkid_probe p = blkid_new_probe();
        if (!p || blkid_probe_set_device(p, fd, 0, 0) < 0)
                return probe_free(p);
        (void) blkid_probe_enable_superblocks(p, 1);
        (void) blkid_probe_set_superblocks_flags(p, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_MAGIC);
        (void) blkid_probe_enable_partitions(p, 1);
        (void) blkid_probe_set_partitions_flags(p, BLKID_PARTS_MAGIC);
        return p;
}

/* 1: ret says what; 0: nothing it knows; -errno. */
static int known_content(int fd, char ret[static HOLDS_TEXT_MAX]) {
        _cleanup_(probe_freep) blkid_probe p = probe_new(fd);
        const char *value = NULL;
        if (!p)
                return -EIO;
        int r = blkid_do_safeprobe(p);
        if (r == 1)
                return 0;
        if (r == -1)
                return -EIO;
        if (r == 0 && blkid_probe_lookup_value(p, "TYPE", &value, NULL) == 0)
                (void) snprintf(ret, HOLDS_TEXT_MAX, "holds %s", value);
        else if (r == 0 && blkid_probe_lookup_value(p, "PTTYPE", &value, NULL) == 0)
                (void) snprintf(ret, HOLDS_TEXT_MAX, "has a table of partitions (%s)", value);
        else
                (void) snprintf(ret, HOLDS_TEXT_MAX, "holds more than one thing");
        return 1;
}

/* Nothing but zeros where file systems and tables of partitions begin. */
static bool is_blank(int fd) {
        static uint8_t head[1024 * 1024];
        ssize_t n = pread(fd, head, sizeof(head), 0);
        return n == (ssize_t) sizeof(head) && head[0] == 0 && memcmp(head, head + 1, sizeof(head) - 1) == 0;
}

/* 1: ret says what; 0: it is empty; -errno. */
static int holds(const char *path, int fd, const struct stat *st, char ret[static HOLDS_TEXT_MAX]) {
        char why[FORMAT_TEXT_MAX], id[UUID_TEXT];
        uint8_t uuid[16];
        if (S_ISREG(st->st_mode) && st->st_size == 0)
                return 0;
        int r = store_identify(path, uuid, why, sizeof(why));
        if (r == 0)
                (void) snprintf(ret, HOLDS_TEXT_MAX, "holds a store (%s)", uuid_text(uuid, id));
        else if (r == -EPROTONOSUPPORT)
                (void) snprintf(ret, HOLDS_TEXT_MAX, "holds a store of a newer version");
        else {
                r = known_content(fd, ret);
                if (r != 0 || (S_ISBLK(st->st_mode) && is_blank(fd)))
                        return r;
                (void) snprintf(ret, HOLDS_TEXT_MAX, "is not empty");
        }
        return 1;
}

/* A file loses all of it. A device, every signature: udev would take it for what it was, and mount it. */
static int forget(int fd, const struct stat *st) {
        if (S_ISREG(st->st_mode))
                return ftruncate(fd, 0) < 0 ? -errno : 0;
        _cleanup_(probe_freep) blkid_probe p = probe_new(fd);
        if (!p)
                return -EIO;
        while (blkid_do_probe(p) == 0)
                if (blkid_do_wipe(p, 0) < 0)
                        return -EIO;
        return fsync(fd) < 0 ? -errno : 0;
}

/* --- format ------------------------------------------------------------------------------------------------------- */

typedef struct Formatted {
        Reply reply;
        bool came;
        int result;
} Formatted;

static void formatted(Reply *r, int result) {
        Formatted *f = r->owner;
        f->came = true;
        f->result = result;
}

static int format_store(int fd, const FormatOptions *o) {
        _cleanup_(ring_freep) Ring *ring = NULL;
        Formatted f = { .reply = { .done = formatted, .owner = &f } };
        uint32_t segment_blocks = (uint32_t) o->segment_blocks;
        uint8_t uuid[16];
        int r = ring_new(&ring);
        r = r < 0 ? r : ring_set_file(ring, DISK_STORE, fd);
        if (r < 0 || getrandom(uuid, sizeof(uuid), 0) != sizeof(uuid))
                return r < 0 ? r : -EIO;
        uuid[6] = (uuid[6] & 0x0f) | 0x40;
        uuid[8] = (uuid[8] & 0x3f) | 0x80;
        Engine *e;
        r = engine_new(&(EngineOptions) { .disk = ring_disk(ring), .store_bytes = o->bytes }, &e);
        if (r < 0)
                return r;
        engine_format(e, uuid, (uint32_t) (o->bytes / BLOCK_SIZE / segment_blocks), segment_blocks, &f.reply);
        while (!f.came && r >= 0)
                r = ring_wait(ring);
        engine_free(e);
        return r < 0 ? r : f.result;
}

static int claim(const char *path, const struct stat *st, char *text, size_t n) {
        _cleanup_close_ int kept = store_open(path, text, n);
        int r = kept < 0 ? kept : S_ISREG(st->st_mode) ? file_check_unused(path, st, text, n) : 0;
        if (r < 0)
                return r;
        int claimed = file_claim(kept, 0);
        if (claimed < 0)
                (void) snprintf(text, n, "%s is in use: %s", path,
                                claimed == -EWOULDBLOCK ? "a vss-cow serves it" :
                                claimed == -EBUSY       ? "unmount it, or take it out of what it is part of" :
                                                          strerror(-claimed));
        return claimed;
}

/* In our hand from here on: now it may be looked at, and changed. */
static int prepare(const FormatOptions *o, int fd, const struct stat *st, char *text, size_t n) {
        char what[HOLDS_TEXT_MAX] = "";
        int r = holds(o->store, fd, st, what);
        if (r > 0 && !o->force) {
                (void) snprintf(text, n,
                                "%s %s: nothing was changed; give another path, or --force to lose what is there",
                                o->store, what);
                return -EEXIST;
        }
        if (r > 0)
                r = forget(fd, st);
        if (r < 0)
                (void) snprintf(text, n, "%s cannot be read, or cleared: %s", o->store, strerror(-r));
        else if (S_ISREG(st->st_mode) && ftruncate(fd, (off_t) o->bytes) < 0) {
                r = -errno;
                (void) snprintf(text, n, "%s cannot be made %lu bytes long: %s", o->store, o->bytes, strerror(errno));
        }
        return r;
}

static int format_open(const FormatOptions *o, char *text, size_t n) {
        struct stat st;
        bool made = false;
        _cleanup_close_ int fd = open(o->store, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == ENOENT) {
                fd = open(o->store, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
                made = true;
        }
        if (fd < 0 || fstat(fd, &st) < 0) {
                (void) snprintf(text, n, "%s: %s", o->store, strerror(errno));
                return -errno;
        }
        _cleanup_close_ int claimed = claim(o->store, &st, text, n);
        int r = claimed < 0 ? claimed : prepare(o, fd, &st, text, n);
        if (r < 0 && made)
                (void) unlink(o->store);
        return r < 0 ? r : TAKE_FD(claimed);
}

static int exit_of(int r) {
        switch (-r) {
        case ENOENT:
                return TOOL_NOT_THERE;
        case ENOSPC:
        case EFBIG:
        case EDQUOT:
                return TOOL_SPACE;
        case EBUSY:
        case EWOULDBLOCK:
                return TOOL_BUSY;
        case EINVAL:
                return TOOL_UNSUITABLE;
        case EEXIST:
                return TOOL_HOLDS;
        default:
                return TOOL_CANNOT;
        }
}

/* NULL, or what is wrong. */
static const char *options_parse(int argc, char **argv, FormatOptions *o) {
        static const struct option options[] = { { "store", required_argument, NULL, 's' },
                                                 { "size", required_argument, NULL, 'z' },
                                                 { "segment-blocks", required_argument, NULL, 'b' },
                                                 { "force", no_argument, NULL, 'f' },
                                                 {} };
        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;)
                if (c == 's')
                        o->store = optarg;
                else if (c == 'f')
                        o->force = true;
                else if (c == '?' || !number_parse(optarg, c == 'z' ? &o->bytes : &o->segment_blocks))
                        return "a size is a number of bytes";
        if (!o->store || optind < argc || o->bytes == 0)
                return "format needs --store=PATH and --size=BYTES";
        if (o->segment_blocks < SEGMENT_BLOCKS_MIN || o->segment_blocks > SEGMENT_BLOCKS_MAX ||
            o->bytes / BLOCK_SIZE / o->segment_blocks < STORE_SEGMENTS_MIN ||
            o->bytes / BLOCK_SIZE / o->segment_blocks > STORE_SEGMENTS_MAX)
                return "a store has 16 to 1048576 segments, of 8 MiB unless told otherwise";
        return NULL;
}

int cow_format_main(int argc, char **argv) {
        FormatOptions o = { .segment_blocks = SEGMENT_BLOCKS };
        char text[FORMAT_TEXT_MAX] = "";
        const char *wrong = options_parse(argc, argv, &o);
        if (wrong)
                return usage(wrong);
        _cleanup_close_ int fd = format_open(&o, text, sizeof(text));
        int r = fd < 0 ? fd : format_store(fd, &o);
        if (r == 0)
                return TOOL_OK;
        fprintf(stderr, "vss-cow: %s\n", text[0] ? text : strerror(-r));
        return exit_of(r);
}
