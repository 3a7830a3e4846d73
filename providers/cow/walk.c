/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Does a manifest contradict itself? Lists are sorted and neighbours compared, so it takes n log n of what is there,
 * whatever the numbers in it claim.
 */
#include "providers/cow/walk.h"
#include <stdarg.h>
#include <stdio.h>

typedef struct Cross {
        const ManifestView *view;
        const struct superblock *super;
        char *why;
        size_t why_size;
} Cross;

static int _printf_(2, 3) bad(const Cross *c, const char *format, ...) {
        va_list ap;
        if (c->why && c->why_size > 0) {
                va_start(ap, format);
                (void) vsnprintf(c->why, c->why_size, format, ap);
                va_end(ap);
        }
        return -EUCLEAN;
}

void manifest_view(const void *manifest, ManifestView *ret) {
        const struct manifest_head *h = manifest;
        const struct manifest_volume *volume = (const void *) (h + 1);
        *ret = (ManifestView) { .head = h, .volumes = volume };
        for (uint32_t i = 0; i < h->volumes; i++)
                volume = volume_after(volume);
        const struct manifest_snapshot *snapshot = ret->snapshots = (const void *) volume;
        for (uint32_t i = 0; i < h->snapshots; i++)
                snapshot = member_after(snapshot);
        const struct manifest_run *run = ret->runs = (const void *) snapshot;
        for (uint32_t i = 0; i < h->runs; i++)
                run = run_after(run);
        ret->maps = run;
        for (uint32_t i = 0; i < h->maps; i++)
                run = run_after(run);
        ret->reserved = (const void *) run;
        ret->table = (const void *) ((const uint8_t *) run + pad8(h->reserved * sizeof(uint32_t)));
}

const struct manifest_volume *manifest_volume_by_number(const ManifestView *v, uint32_t number) {
        const struct manifest_volume *m = v->volumes;
        for (uint32_t i = 0; i < v->head->volumes; i++, m = volume_after(m))
                if (m->number == number)
                        return m;
        return NULL;
}

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b) {
        const struct manifest_snapshot *const *x = a, *const *y = b;
        return memcmp((*x)->snapshot, (*y)->snapshot, 16);
}

static int snapshots_cross(const Cross *c) {
        const ManifestView *v = c->view;
        uint32_t n = v->head->snapshots;
        _cleanup_free_ const struct manifest_snapshot **all = calloc(MAX_OF(n, 1u), sizeof(*all));
        const struct manifest_snapshot *m = v->snapshots;
        if (!all)
                return -ENOMEM;
        for (uint32_t i = 0; i < n; i++, m = member_after(m)) {
                const struct manifest_volume *volume = manifest_volume_by_number(v, m->volume);
                if (!volume || m->epoch > volume->tag)
                        return bad(c, "snapshot %u: epoch %u of volume %u, which %s", i, m->epoch, m->volume,
                                   volume ? "never had it" : "is not there");
                all[i] = m;
        }
        qsort(all, n, sizeof(*all), by_id);
        for (uint32_t i = 1; i < n; i++)
                if (by_id(&all[i - 1], &all[i]) == 0)
                        return bad(c, "two snapshots of volumes %u and %u have one id", all[i - 1]->volume,
                                   all[i]->volume);
        return 0;
}

/* --- pages -------------------------------------------------------------------------------------------------------- */

typedef struct Piece {
        uint32_t segment, block, pages;
        uint64_t run; /* 0: the manifest */
} Piece;

static int by_place(const void *a, const void *b) {
        const Piece *x = a, *y = b;
        if (x->segment != y->segment)
                return x->segment < y->segment ? -1 : 1;
        return x->block < y->block ? -1 : x->block > y->block;
}

static size_t pieces_count(const ManifestView *v) {
        size_t n = 1;
        const struct manifest_run *m = v->runs;
        for (uint32_t i = 0; i < v->head->runs + v->head->maps; i++, m = run_after(m)) /* the maps follow the runs */
                n += m->extents;
        return n;
}

static void pieces_fill(const Cross *c, Piece *pieces) {
        const struct manifest_run *m = c->view->runs;
        const struct superblock *s = c->super;
        *pieces++ = (Piece) { .segment = (uint32_t) (s->manifest_block / s->segment_blocks),
                              .block = (uint32_t) (s->manifest_block % s->segment_blocks),
                              .pages = pages_of(s->manifest_bytes) };
        for (uint32_t i = 0; i < c->view->head->runs + c->view->head->maps; i++, m = run_after(m))
                for (uint32_t k = 0; k < m->extents; k++)
                        *pieces++ = (Piece) { .segment = run_extents(m)[k].segment,
                                              .block = run_extents(m)[k].block,
                                              .pages = run_extents(m)[k].pages,
                                              .run = m->number };
}

/* The table counts exactly the pages that lie in a META segment, and no two pieces share one. */
static int pieces_check(const Cross *c, const Piece *p, size_t n) {
        const struct manifest_segment *table = c->view->table;
        size_t at = 0;
        for (uint32_t s = 0; s < c->super->segments; s++) {
                uint32_t pages = 0, end = 0;
                for (; at < n && p[at].segment == s; at++) {
                        if (table[s].kind != SEGMENT_META || p[at].block < end)
                                return bad(c, "run %lu: its pages at %u:%u are %s", p[at].run, s, p[at].block,
                                           table[s].kind == SEGMENT_META ? "also something else's" :
                                                                           "not in a segment for pages");
                        end = p[at].block + p[at].pages;
                        pages += p[at].pages;
                }
                if (table[s].kind == SEGMENT_META && table[s].live != pages)
                        return bad(c, "segment %u: %u pages in use, the table says %u", s, pages, table[s].live);
                if (s != 0 && s == c->view->head->meta_segment && end > c->view->head->meta_block)
                        return bad(c, "segment %u: pages up to block %u, the next one would go to %u", s, end,
                                   c->view->head->meta_block);
        }
        return at == n ? 0 : bad(c, "run %lu: pages outside of the store", p[at].run);
}

static int pages_cross(const Cross *c) {
        size_t n = pieces_count(c->view);
        _cleanup_free_ Piece *pieces = calloc(n, sizeof(Piece));
        if (!pieces)
                return -ENOMEM;
        pieces_fill(c, pieces);
        qsort(pieces, n, sizeof(Piece), by_place);
        return pieces_check(c, pieces, n);
}

static int by_number(const void *a, const void *b) {
        const uint64_t *x = a, *y = b;
        return *x < *y ? -1 : *x > *y;
}

static int runs_cross(const Cross *c) {
        uint32_t n = c->view->head->runs + c->view->head->maps;
        _cleanup_free_ uint64_t *numbers = calloc(MAX_OF(n, 1u), sizeof(uint64_t));
        const struct manifest_run *m = c->view->runs;
        if (!numbers)
                return -ENOMEM;
        for (uint32_t i = 0; i < n; i++, m = run_after(m))
                numbers[i] = m->number;
        qsort(numbers, n, sizeof(*numbers), by_number);
        for (uint32_t i = 1; i < n; i++)
                if (numbers[i] == numbers[i - 1])
                        return bad(c, "run %lu stands twice", numbers[i]);
        return 0;
}

/* Those of the snapshots come first, in their order, and every snapshot that names one has it. */
static int maps_cross(const Cross *c) {
        const ManifestView *v = c->view;
        const struct manifest_run *map = v->maps;
        const struct manifest_snapshot *s = v->snapshots;
        uint32_t taken = 0;
        for (uint32_t i = 0; i < v->head->snapshots; i++, s = member_after(s)) {
                if (!s->map)
                        continue;
                if (taken++ == v->head->maps || map->number != s->map || VOLBLOCK_VOLUME(map->first) != s->volume)
                        return bad(c, "snapshot %u of volume %u: its free map %lu is not there", i, s->volume, s->map);
                map = run_after(map);
        }
        for (; taken < v->head->maps; taken++, map = run_after(map))
                if (!manifest_volume_by_number(v, VOLBLOCK_VOLUME(map->first)))
                        return bad(c, "free map %lu is of no volume", map->number);
        return 0;
}

int manifest_cross_check(const ManifestView *v, const struct superblock *super, char *why, size_t why_size) {
        Cross c = { v, super, why, why_size };
        int r = snapshots_cross(&c);
        r = r < 0 ? r : runs_cross(&c);
        r = r < 0 ? r : maps_cross(&c);
        r = r < 0 ? r : pages_cross(&c);
        if (r == -ENOMEM)
                (void) bad(&c, "out of memory");
        return r;
}
