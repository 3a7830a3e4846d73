/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding one's way into a store: superblock copies, then the manifest. Where the first two copies are gone the others
 * are looked for where they would be for every usual size of a segment, as engine_open() does it.
 */
#include "providers/cow/image.h"
#include "providers/cow/parse.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <linux/fs.h>
#include <sys/stat.h>

#define PATIENCE_USEC USEC_PER_SEC

/* --- file --------------------------------------------------------------------------------------------------------- */

static int file_read(Source *s, uint64_t block, uint32_t blocks, void *buffer) {
        FileSource *f = container_of(s, FileSource, source);
        size_t left = (size_t) blocks * BLOCK_SIZE;
        uint8_t *at = buffer;
        off_t offset = (off_t) (block * BLOCK_SIZE);
        while (left > 0) {
                ssize_t n = pread(f->fd, at, left, offset);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -ENODATA;
                at += n;
                offset += n;
                left -= (size_t) n;
        }
        return 0;
}

/*
 * A server holds a file with flock(LOCK_EX). It opens a device with O_EXCL, because udev takes shared locks on devices;
 * so that is how a device is asked.
 */
static int open_locked(const char *path, struct stat *st) {
        if (stat(path, st) < 0)
                return -errno;
        if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
                return -EINVAL;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
                                                    (S_ISBLK(st->st_mode) ? O_EXCL : 0));
        if (fd < 0 || fstat(fd, st) < 0)
                return -errno;
        if (flock(fd, LOCK_SH | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? -EBUSY : -errno;
        return TAKE_FD(fd);
}

/* The kernel lets go of an io_uring's files some time after its process has ended. */
int file_source_open(const char *path, FileSource *ret) {
        struct stat st;
        uint64_t until = now_usec() + PATIENCE_USEC;
        int r;

        *ret = (FileSource) { .fd = -EBADF, .source = { .read = file_read } };
        while ((r = open_locked(path, &st)) == -EBUSY && now_usec() < until)
                (void) usleep(20 * USEC_PER_MSEC);
        if (r < 0)
                return r;
        _cleanup_close_ int fd = r;
        ret->source.bytes = (uint64_t) st.st_size;
        if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &ret->source.bytes) < 0)
                return -errno;
        ret->fd = TAKE_FD(fd);
        return 0;
}

void file_source_close(FileSource *f) {
        f->fd = close_fd(f->fd);
}

int source_read(Source *s, uint64_t block, uint32_t blocks, void *buffer) {
        uint64_t there = s->bytes / BLOCK_SIZE;
        if (block >= there || blocks > there - block)
                return -ENODATA;
        return s->read(s, block, blocks, buffer);
}

void *source_buffer(uint32_t blocks) {
        return aligned_alloc(BLOCK_SIZE, (size_t) blocks * BLOCK_SIZE);
}

/* --- superblocks -------------------------------------------------------------------------------------------------- */

static void copy_read(Image *i, unsigned n, uint64_t block, void *buffer) {
        ImageCopy *c = &i->copies[n];
        *c = (ImageCopy) { .block = block };
        int r = source_read(i->source, block, 1, buffer);
        if (r < 0) {
                c->error = r;
                (void) snprintf(c->why, sizeof(c->why), "superblock: cannot be read: %s",
                                r == -ENODATA ? "it lies behind the end" : strerror(-r));
                return;
        }
        c->read = true;
        c->error = superblock_check(buffer, &c->super, c->why, sizeof(c->why));
        c->valid = c->error == 0;
        i->newer = i->newer || c->error == -EPROTONOSUPPORT;
}

static const struct superblock *newest(const Image *i) {
        const struct superblock *best = NULL;
        for (unsigned n = 0; n < SUPER_COPIES; n++)
                if (i->copies[n].valid && (!best || i->copies[n].super.number > best->number))
                        best = &i->copies[n].super;
        return best;
}

static void others_read(Image *i, uint32_t segments, uint32_t segment_blocks, void *buffer) {
        for (unsigned n = 2; n < SUPER_COPIES; n++)
                copy_read(i, n, superblock_block(segments, segment_blocks, n), buffer);
}

static void others_guess(Image *i, void *buffer) {
        for (uint32_t blocks = SEGMENT_BLOCKS_MIN; blocks <= SEGMENT_BLOCKS_MAX && !newest(i); blocks *= 2) {
                uint64_t segments = i->source->bytes / BLOCK_SIZE / blocks;
                if (segments >= STORE_SEGMENTS_MIN && segments <= STORE_SEGMENTS_MAX)
                        others_read(i, (uint32_t) segments, blocks, buffer);
        }
}

/* --- manifest ----------------------------------------------------------------------------------------------------- */

static int manifest_read(Image *i) {
        const struct superblock *s = i->super;
        uint32_t pages = pages_of(s->manifest_bytes);
        _cleanup_free_ uint8_t *manifest = source_buffer(pages);
        if (!manifest)
                return -ENOMEM;
        int r = source_read(i->source, s->manifest_block, pages, manifest);
        if (r < 0) {
                (void) snprintf(i->why, sizeof(i->why), "manifest at block %lu: cannot be read: %s", s->manifest_block,
                                r == -ENODATA ? "it lies behind the end" : strerror(-r));
                return 0;
        }
        r = manifest_check(manifest, s, i->why, sizeof(i->why));
        if (r < 0)
                return r == -ENOMEM ? r : 0;
        i->manifest = TAKE_PTR(manifest);
        manifest_view(i->manifest, &i->view);
        return 0;
}

int image_load(Source *s, Image *ret) {
        _cleanup_free_ void *buffer = source_buffer(1);
        *ret = (Image) { .source = s };
        if (!buffer)
                return -ENOMEM;
        copy_read(ret, 0, 0, buffer);
        copy_read(ret, 1, 1, buffer);
        const struct superblock *first = newest(ret);
        if (first)
                others_read(ret, first->segments, first->segment_blocks, buffer);
        else if (!ret->newer)
                others_guess(ret, buffer);
        ret->super = newest(ret);
        for (unsigned n = 2; n < SUPER_COPIES && !ret->super; n++) /* what was guessed says nothing */
                ret->copies[n] = (ImageCopy) { .block = UINT64_MAX, .why = "nobody knows where it should be" };
        if (!ret->super) {
                (void) snprintf(ret->why, sizeof(ret->why), "%s",
                                ret->newer ? "it was made by a newer version" : "no superblock is valid");
                return 0;
        }
        return manifest_read(ret);
}

void image_done(Image *i) {
        free(TAKE_PTR(i->manifest));
}

/* --- text --------------------------------------------------------------------------------------------------------- */

const char *uuid_text(const uint8_t u[16], char ret[static UUID_TEXT]) {
        (void) snprintf(ret, UUID_TEXT, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0],
                        u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
        return ret;
}

const char *state_text(uint32_t state) {
        static const char *const words[] = { "clean", "open", "lost" };
        return state < ELEMENTSOF(words) ? words[state] : "?";
}

const char *segment_kind_text(uint32_t kind) {
        static const char *const words[] = { "free", "super", "log", "meta" };
        return kind < ELEMENTSOF(words) ? words[kind] : "?";
}

const char *record_type_text(uint32_t type) {
        static const char *const words[] = { "?", "preserve", "snapshot", "delete", "commit" };
        return type < ELEMENTSOF(words) ? words[type] : "?";
}

const char *volume_text(const ManifestView *v, uint32_t number, char ret[static VOLUME_NAME_MAX + 1]) {
        const struct manifest_volume *m = manifest_volume_by_number(v, number);
        (void) snprintf(ret, VOLUME_NAME_MAX + 1, "%.*s", m ? (int) m->name_bytes : 1, m ? volume_name(m) : "?");
        return ret;
}
