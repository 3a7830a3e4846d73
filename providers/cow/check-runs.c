/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Runs, page by page in order, and what their entries point to. Entries come in the order of the volume, so blocks of
 * the store are gathered, sorted and read in the order they lie there. Free maps are runs that point to nothing, and
 * what is wrong with one concerns no snapshot but its own.
 */
#include "providers/cow/check.h"
#include "providers/cow/crc32c.h"
#include "providers/cow/parse.h"
#include <fcntl.h>
#include <stdio.h>

typedef struct RunWalk {
        Check *check;
        const struct manifest_run *run;
        bool map; /* a free map */
        uint32_t page;
        uint64_t block, entries; /* where that page lies; entries so far */
        bool any, hole;          /* hole: pages behind the last entry cannot be read */
        struct run_entry last;
        uint32_t number; /* of the volume looked up last, + 1 */
        const struct manifest_volume *volume;
} RunWalk;

/* --- blocks ------------------------------------------------------------------------------------------------------- */

static void block_wrong(Check *c, const CheckBlock *b, const char *what, uint32_t found) {
        char name[VOLUME_NAME_MAX + 1];
        uint32_t volume = VOLBLOCK_VOLUME(b->volblock);
        check_say(c, true, "data", b->block, "block %lu of volume %s, epoch %u: %s %08x, must be %08x",
                  (uint64_t) VOLBLOCK_BLOCK(b->volblock), volume_text(&c->image.view, volume, name), b->epoch, what,
                  found, b->crc);
        check_concerns(c, volume, b->after, b->epoch);
}

static void blocks_compare(Check *c, const CheckBlock *b, size_t n, uint64_t first) {
        for (size_t i = 0; i < n; i++) {
                uint32_t crc = crc32c(0, c->buffer + (b[i].block - first) * BLOCK_SIZE, BLOCK_SIZE);
                c->data_blocks++;
                if (crc != b[i].crc)
                        block_wrong(c, &b[i], "checksum is", crc);
        }
}

/* Those that lie close together, at once; one by one where that fails. */
static size_t blocks_read(Check *c, const CheckBlock *b, size_t left) {
        size_t n = 1;
        while (n < left && b[n].block - b[n - 1].block <= 4 && b[n].block - b[0].block < CHECK_READ_BLOCKS)
                n++;
        uint32_t span = (uint32_t) (b[n - 1].block - b[0].block + 1);
        if (source_read(c->image.source, b[0].block, span, c->buffer) == 0) {
                blocks_compare(c, b, n, b[0].block);
                return n;
        }
        for (size_t i = 0; i < n; i++)
                if (source_read(c->image.source, b[i].block, 1, c->buffer) == 0)
                        blocks_compare(c, &b[i], 1, b[i].block);
                else
                        block_wrong(c, &b[i], "cannot be read; checksum", 0);
        return n;
}

static int by_block(const void *a, const void *b) {
        const CheckBlock *x = a, *y = b;
        return x->block < y->block ? -1 : x->block > y->block;
}

static void batch_read(Check *c) {
        qsort(c->batch, c->n_batch, sizeof(CheckBlock), by_block);
        for (size_t at = 0; at < c->n_batch;)
                at += blocks_read(c, c->batch + at, c->n_batch - at);
        c->n_batch = 0;
}

/* --- entries ------------------------------------------------------------------------------------------------------ */

/* False: another entry points there too. */
static bool block_take(Check *c, uint64_t block) {
        uint32_t blocks = c->image.super->segment_blocks;
        uint64_t segment = block / blocks, bit = block % blocks;
        c->live[segment]++;
        if (!c->used[segment])
                c->used[segment] = calloc((blocks + 63) / 64, sizeof(uint64_t));
        if (!c->used[segment]) {
                c->no_memory = true;
                return true;
        }
        bool taken = c->used[segment][bit / 64] >> bit % 64 & 1;
        c->used[segment][bit / 64] |= 1ULL << bit % 64;
        return !taken;
}

static void entry_place(RunWalk *w, const struct run_entry *e, uint32_t after) {
        Check *c = w->check;
        uint64_t block = ENTRY_WHERE_BLOCK(e->where), segment = block / c->image.super->segment_blocks;
        if (segment >= c->image.super->segments || c->image.view.table[segment].kind != SEGMENT_LOG) {
                check_say(c, true, "run", w->block, "run %lu, page %u: an entry points to block %lu, which is no data",
                          w->run->number, w->page, block);
                check_concerns(c, VOLBLOCK_VOLUME(e->volblock), after, e->epoch);
                return;
        }
        if (!block_take(c, block)) {
                check_say(c, true, "run", w->block, "run %lu, page %u: block %lu belongs to another entry too",
                          w->run->number, w->page, block);
                check_concerns(c, VOLBLOCK_VOLUME(e->volblock), after, e->epoch);
        }
        if (c->without_data)
                return;
        c->batch[c->n_batch++] = (CheckBlock) {
                .block = block, .volblock = e->volblock, .epoch = e->epoch, .after = after, .crc = e->crc
        };
        if (c->n_batch == c->batch_size)
                batch_read(c);
}

static const struct manifest_volume *entry_volume(RunWalk *w, uint32_t number) {
        if (w->number != number + 1) {
                w->number = number + 1;
                w->volume = manifest_volume_by_number(&w->check->image.view, number);
        }
        return w->volume;
}

static void entry_check(RunWalk *w, const struct run_entry *e) {
        Check *c = w->check;
        uint32_t volume = VOLBLOCK_VOLUME(e->volblock);
        const struct manifest_volume *v = entry_volume(w, volume);
        uint32_t after = w->any && !w->hole && w->last.volblock == e->volblock ? w->last.epoch : 0;
        bool ordered = !w->any || w->last.volblock < e->volblock ||
                       (w->last.volblock == e->volblock && w->last.epoch < e->epoch);
        if (!ordered)
                check_say(c, true, "run", w->block, "run %lu, page %u begins before the page in front of it ends",
                          w->run->number, w->page);
        if (volume >= c->image.view.head->next_volume || (v && e->epoch > v->tag) || e->epoch < w->run->min_epoch ||
            e->epoch > w->run->max_epoch)
                check_say(c, true, "run", w->block, "run %lu, page %u: epoch %u of volume %u is none of its own",
                          w->run->number, w->page, e->epoch, volume);
        else if (v && VOLBLOCK_BLOCK(e->volblock) >= (v->bytes + BLOCK_SIZE - 1) / BLOCK_SIZE)
                check_say(c, true, "run", w->block, "run %lu, page %u: block %lu is behind the end of volume %u",
                          w->run->number, w->page, (uint64_t) VOLBLOCK_BLOCK(e->volblock), volume);
        if (!(ENTRY_WHERE_FLAGS(e->where) & ENTRY_NO_PAYLOAD))
                entry_place(w, e, after);
        w->last = *e;
        w->any = true;
        w->hole = false;
}

/* Of a free map. */
static void extent_entry_check(RunWalk *w, const struct run_entry *e) {
        uint32_t volume = VOLBLOCK_VOLUME(e->volblock);
        const struct manifest_volume *v = entry_volume(w, volume);
        if (volume != VOLBLOCK_VOLUME(w->run->first) || !v || (w->any && e->volblock <= w->last.volblock) ||
            VOLBLOCK_BLOCK(e->volblock) + ENTRY_WHERE_BLOCK(e->where) > (v->bytes + BLOCK_SIZE - 1) / BLOCK_SIZE) {
                check_say(w->check, true, "map", w->block,
                          "map %lu, page %u: block %lu of volume %u is none of its own", w->run->number, w->page,
                          (uint64_t) VOLBLOCK_BLOCK(e->volblock), volume);
                check_concerns_map(w->check, w->run->number);
        }
        w->last = *e;
        w->last.volblock = e->volblock + ENTRY_WHERE_BLOCK(e->where) - 1;
        w->any = true;
        w->hole = false;
}

/* --- pages -------------------------------------------------------------------------------------------------------- */

static const char *walk_word(const RunWalk *w) {
        return w->map ? "map" : "run";
}

/* The last block that the entry says something about. */
static uint64_t entry_last(const RunWalk *w, const struct run_entry *e) {
        return e->volblock + (w->map ? ENTRY_WHERE_BLOCK(e->where) - 1 : 0);
}

static void page_entries_check(RunWalk *w, const struct run_page *p) {
        const struct manifest_run *m = w->run;
        uint64_t expected = w->page + 1 < m->pages ? RUN_PAGE_ENTRIES :
                                                     m->entries - (uint64_t) w->page * RUN_PAGE_ENTRIES;
        bool right = p->entries == expected;
        if (!right)
                check_say(w->check, true, walk_word(w), w->block, "%s %lu, page %u: %u entries, %lu expected",
                          walk_word(w), m->number, w->page, p->entries, expected);
        if ((w->page == 0 && p->entry[0].volblock != m->first) ||
            (w->page + 1 == m->pages && entry_last(w, &p->entry[p->entries - 1]) != m->last)) {
                check_say(w->check, true, walk_word(w), w->block,
                          "%s %lu begins or ends with another block than it says", walk_word(w), m->number);
                right = false;
        }
        if (!right && w->map)
                check_concerns_map(w->check, m->number);
}

/* What it said about anything between the pages around it is lost. */
static void page_hole(RunWalk *w, uint64_t upto) {
        if (w->map)
                check_concerns_map(w->check, w->run->number);
        else
                check_concerns_range(w->check, w->any ? w->last.volblock : w->run->first, upto, w->run->max_epoch);
}

static void page_lost(RunWalk *w, const char *why) {
        check_say(w->check, true, walk_word(w), w->block, "%s", why);
        w->hole = true;
        w->check->runs_unreadable = w->check->runs_unreadable || !w->map; /* maps point to no blocks */
}

static void page_check(RunWalk *w, const struct run_page *p) {
        char why[WHY_MAX];
        Check *c = w->check;
        c->pages++;
        int r = w->map ? map_page_check(p, w->run->number, w->page, why, sizeof(why)) :
                         run_page_check(p, w->run->number, w->page, why, sizeof(why));
        if (r < 0) {
                page_lost(w, why);
                return;
        }
        if (w->hole)
                page_hole(w, p->entry[0].volblock);
        page_entries_check(w, p);
        for (uint32_t i = 0; i < p->entries; i++)
                if (w->map)
                        extent_entry_check(w, &p->entry[i]);
                else
                        entry_check(w, &p->entry[i]);
        c->entries += p->entries;
}

static void page_unreadable(RunWalk *w, int error) {
        char why[WHY_MAX];
        (void) snprintf(why, sizeof(why), "%s %lu, page %u: cannot be read: %s", walk_word(w), w->run->number, w->page,
                        error == -ENODATA ? "it lies behind the end" : strerror(-error));
        page_lost(w, why);
        w->check->pages++;
}

enum { PAGES_AT_ONCE = 64 };

static void extent_check(RunWalk *w, const struct run_extent *x, struct run_page *buffer) {
        Source *s = w->check->image.source;
        uint64_t first = (uint64_t) x->segment * w->check->image.super->segment_blocks + x->block;
        for (uint32_t at = 0, n; at < x->pages; at += n) {
                n = MIN_OF(x->pages - at, (uint32_t) PAGES_AT_ONCE);
                bool good = source_read(s, first + at, n, buffer) == 0;
                for (uint32_t i = 0; i < n; i++, w->page++) {
                        w->block = first + at + i;
                        int r = good ? 0 : source_read(s, w->block, 1, &buffer[i]);
                        if (r < 0)
                                page_unreadable(w, r);
                        else
                                page_check(w, &buffer[i]);
                }
        }
}

void check_runs(Check *c) {
        _cleanup_free_ struct run_page *buffer = source_buffer(PAGES_AT_ONCE);
        const struct manifest_run *m = c->image.view.runs;
        if (!buffer) {
                c->no_memory = true;
                return;
        }
        for (uint32_t i = 0; i < c->image.view.head->runs + c->image.view.head->maps; i++, m = run_after(m)) {
                RunWalk w = { .check = c, .run = m, .map = i >= c->image.view.head->runs };
                for (uint32_t k = 0; k < m->extents; k++)
                        extent_check(&w, &run_extents(m)[k], buffer);
                if (w.hole)
                        page_hole(&w, m->last);
        }
        batch_read(c);
}

/* --- origins ------------------------------------------------------------------------------------------------------ */

/* What no run has is read from the volume itself: is it there, as large as it was, and can it be read to its end? */
static void origin_check(Check *c, const struct manifest_volume *v, const char *name) {
        char path[ORIGIN_PATH_MAX + 1];
        (void) snprintf(path, sizeof(path), "%.*s", (int) v->origin_bytes, volume_name(v) + v->name_bytes);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        uint64_t at = 0, size = (uint64_t) CHECK_READ_BLOCKS * BLOCK_SIZE;
        ssize_t n = 0;
        while (fd >= 0 && at < v->bytes && (n = pread(fd, c->buffer, MIN_OF(size, v->bytes - at), (off_t) at)) > 0)
                at += (uint64_t) n;
        c->origin_bytes += at;
        if (at == v->bytes)
                return;
        check_say(c, true, "volume", UINT64_MAX, "%s: %s at byte %lu of %lu: %s", name, path, at, v->bytes,
                  fd < 0 || n < 0 ? strerror(errno) : "it is shorter than it was");
        check_concerns(c, v->number, 0, UINT32_MAX);
}

void check_origins(Check *c) {
        const struct manifest_volume *v = c->image.view.volumes;
        char name[VOLUME_NAME_MAX + 1];
        for (uint32_t i = 0; i < c->image.view.head->volumes; i++, v = volume_after(v))
                origin_check(c, v, volume_text(&c->image.view, v->number, name));
}
