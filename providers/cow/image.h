/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A store as check and dump see it: read only, from a file or from memory, and however damaged it is. Whatever can be
 * made out is there, and for the rest a sentence says why not.
 */
#include "providers/cow/walk.h"

enum { WHY_MAX = 192, UUID_TEXT = 37 };

typedef struct Source Source;
struct Source {
        /* 0, or -errno and then nothing is known about the buffer. Never asked for what lies beyond bytes. */
        int (*read)(Source *s, uint64_t block, uint32_t blocks, void *buffer);
        uint64_t bytes;
};

typedef struct FileSource {
        Source source;
        int fd;
} FileSource;

/*
 * Opens and locks (shared, so that nobody serves it meanwhile). Free with file_source_close(). -EBUSY: it is in use;
 * -EINVAL: neither a regular file nor a block device.
 */
int file_source_open(const char *path, FileSource *ret);
void file_source_close(FileSource *f);

/* Whole blocks; -ENODATA beyond the end. */
int source_read(Source *s, uint64_t block, uint32_t blocks, void *buffer);
/* Like malloc(), aligned to blocks. */
void *source_buffer(uint32_t blocks);

typedef struct ImageCopy {
        uint64_t block; /* where it should be; meaningless for 2 and 3 when nothing tells the geometry */
        bool read, valid;
        int error; /* of superblock_check() or the read */
        struct superblock super;
        char why[WHY_MAX];
} ImageCopy;

typedef struct Image {
        Source *source;
        ImageCopy copies[SUPER_COPIES];
        const struct superblock *super; /* the one that counts; NULL: there is none */
        bool newer;                     /* made by a version that knows more than we do */
        uint8_t *manifest;              /* NULL: cannot be read or is damaged */
        ManifestView view;
        char why[WHY_MAX]; /* there is no manifest */
} Image;

/* 0 or -ENOMEM. Free with image_done() in any case. */
int image_load(Source *s, Image *ret);
void image_done(Image *i);

static inline uint64_t image_blocks(const Image *i) {
        return (uint64_t) i->super->segments * i->super->segment_blocks;
}

/* --- the log (image-log.c) ---------------------------------------------------------------------------------------- */

typedef struct LogRecord {
        const struct record_head *head; /* and body, and payload */
        uint64_t block;                 /* of the store */
        bool payload_right;
} LogRecord;

typedef struct LogEnd {
        uint64_t records;      /* that count */
        uint64_t last;         /* sequence of the last of them; that before the log when there is none */
        uint64_t durable;      /* highest that any record says was durable */
        uint64_t newest_super; /* highest superblock any record names */
        uint64_t block;        /* where the next record would have to be */
        bool gone;             /* a record is missing that was durable: damage */
        bool torn;             /* part of a record lies at the end: it was being written */
        int unreadable;        /* segments that cannot be read */
        char why[WHY_MAX];     /* why it ends there */
} LogEnd;

typedef void (*LogRecordFn)(void *userdata, const LogRecord *r);
/* The records behind the replay position that count, as engine_open() would replay them. each may be NULL. Needs a
 * manifest. 0 or -ENOMEM. */
int image_log(const Image *i, LogRecordFn each, void *userdata, LogEnd *ret);
/* Is there a descriptor from *at on whose payload block is not what it says? *at is the first then. */
bool record_payload_next_wrong(const struct record_head *h, uint32_t *at);

/* Text. */
const char *uuid_text(const uint8_t uuid[16], char ret[static UUID_TEXT]);
const char *state_text(uint32_t state);
const char *segment_kind_text(uint32_t kind);
const char *record_type_text(uint32_t type);
/* Name of the volume with that number, "?" if there is none. */
const char *volume_text(const ManifestView *v, uint32_t number, char ret[static VOLUME_NAME_MAX + 1]);
