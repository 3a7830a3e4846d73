/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * check, from the outside in: superblocks, manifest, log, runs, the segment table, the preserved blocks. What the
 * engine would silently repair or do without when it opens the store is said too: as a note where a power cut explains
 * it, as damage where it does not.
 */
#include "providers/cow/check.h"
#include <stdio.h>

/* --- superblocks -------------------------------------------------------------------------------------------------- */

/*
 * Number N goes to copy N % 2 and then, when that is durable, to copy 2 + N % 2. So where N is the newest there is, a
 * power cut can have torn the second copy of N, or the first of N + 1, and no other. A store that was lost says so in
 * all four at once.
 */
static bool copy_may_be_torn(const Image *i, unsigned n) {
        const struct superblock *s = i->super;
        const ImageCopy *partner = &i->copies[(n + 2) % 4];
        if (!i->copies[n].read)
                return false;
        if (s->state == STORE_LOST)
                return true;
        bool second = n == 2 + s->number % 2, next = n == (s->number + 1) % 2;
        return partner->valid &&
               ((second && partner->super.number == s->number) || (next && partner->super.number == s->number - 1));
}

/* Copies 0 and 2 have even numbers, 1 and 3 odd ones. */
static void check_copy(Check *c, unsigned n) {
        const ImageCopy *copy = &c->image.copies[n];
        const struct superblock *s = c->image.super, *own = &copy->super;
        if (!copy->valid) {
                bool torn = copy_may_be_torn(&c->image, n);
                check_say(c, !torn, "superblock", copy->block, "copy %u: %s%s", n, copy->why,
                          torn ? " (as if the power went while it was written)" : "");
                return;
        }
        if (memcmp(own->uuid, s->uuid, sizeof(s->uuid)) != 0 || own->segments != s->segments ||
            own->segment_blocks != s->segment_blocks)
                check_say(c, true, "superblock", copy->block, "copy %u is of another store than the newest", n);
        if (own->state != STORE_LOST && own->number % 2 != n % 2)
                check_say(c, true, "superblock", copy->block, "copy %u has number %lu, which belongs elsewhere", n,
                          own->number);
}

/* The newest but one is in the other pair. */
static bool pair_is_old(const Check *c, unsigned n) {
        const ImageCopy *a = &c->image.copies[n], *b = &c->image.copies[n + 2];
        uint64_t newest = c->image.super->number;
        uint64_t number = MAX_OF(a->valid ? a->super.number : 0, b->valid ? b->super.number : 0);
        return c->image.super->state != STORE_LOST && number + 1 < newest;
}

static void check_pairs(Check *c) {
        const ImageCopy *copies = c->image.copies;
        for (unsigned n = 0; n < 2; n++)
                if (!copies[n].valid && !copies[n + 2].valid) {
                        check_say(c, true, "superblock", UINT64_MAX,
                                  "copies %u and %u are both gone: a newer one may be", n, n + 2);
                        check_concerns_range(c, 0, UINT64_MAX, UINT32_MAX);
                } else if (pair_is_old(c, n))
                        check_say(c, true, "superblock", copies[n].block, "copies %u and %u are older than they can be",
                                  n, n + 2);
}

static void check_superblocks(Check *c) {
        const struct superblock *s = c->image.super;
        for (unsigned n = 0; n < SUPER_COPIES; n++)
                check_copy(c, n);
        if (image_blocks(&c->image) > c->image.source->bytes / BLOCK_SIZE)
                check_say(c, true, "superblock", UINT64_MAX, "the store was cut off: %lu blocks, %lu expected",
                          c->image.source->bytes / BLOCK_SIZE, image_blocks(&c->image));
        if (s->state == STORE_LOST)
                check_say(c, true, "superblock", UINT64_MAX,
                          "the store is lost: a write to it had failed, so all its snapshots are void");
}

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

static int check_snapshots_load(Check *c) {
        const struct manifest_snapshot *m = c->image.view.snapshots;
        int r = 0;
        for (uint32_t i = 0; r == 0 && i < c->image.view.head->snapshots; i++, m = member_after(m))
                r = check_snapshot_add(c, m);
        return r;
}

static void check_snapshots_marks(Check *c) {
        char id[UUID_TEXT];
        for (size_t i = 0; i < c->n_snapshots; i++) {
                CheckSnapshot *s = &c->snapshots[i];
                if (s->gone)
                        continue;
                if (s->flags & SNAPSHOT_DAMAGED) {
                        check_say(c, true, "snapshot", UINT64_MAX, "%s is marked as damaged", uuid_text(s->id, id));
                        s->concerned = true;
                }
                if (s->flags & SNAPSHOT_UNVERIFIED)
                        check_say(c, false, "snapshot", UINT64_MAX, "%s is marked as unverified", uuid_text(s->id, id));
                if (c->image.super->state == STORE_LOST)
                        s->concerned = true;
        }
}

/* --- log ---------------------------------------------------------------------------------------------------------- */

static void log_preserve(Check *c, const LogRecord *r) {
        const struct descriptor *d = (const struct descriptor *) (r->head + 1);
        uint64_t payload = r->block + record_head_blocks(r->head);
        char name[VOLUME_NAME_MAX + 1];
        c->data_blocks += r->head->payload_blocks;
        for (uint32_t i = 0; !r->payload_right && record_payload_next_wrong(r->head, &i); i++) {
                check_say(c, true, "data", payload + d[i].payload,
                          "block %lu of volume %s, epoch %u, in record %lu: checksum is not %08x",
                          (uint64_t) VOLBLOCK_BLOCK(d[i].volblock),
                          volume_text(&c->image.view, VOLBLOCK_VOLUME(d[i].volblock), name), d[i].epoch,
                          r->head->sequence, d[i].crc);
                check_concerns(c, VOLBLOCK_VOLUME(d[i].volblock), 0, d[i].epoch);
        }
        for (uint32_t i = 0; i < r->head->count; i++) {
                const struct manifest_volume *v = manifest_volume_by_number(&c->image.view,
                                                                            VOLBLOCK_VOLUME(d[i].volblock));
                if (v && VOLBLOCK_BLOCK(d[i].volblock) >= (v->bytes + BLOCK_SIZE - 1) / BLOCK_SIZE)
                        check_say(c, true, "log", r->block, "record %lu: block %lu is behind the end of volume %u",
                                  r->head->sequence, (uint64_t) VOLBLOCK_BLOCK(d[i].volblock), v->number);
        }
}

/* NULL: the snapshot can have it. */
static const char *map_missing(const Check *c, const struct set_member *m) {
        const struct manifest_run *map = c->image.view.maps;
        uint32_t k = 0;
        while (k < c->image.view.head->maps && map->number != m->map) {
                map = run_after(map);
                k++;
        }
        if (k == c->image.view.head->maps)
                return "is not there";
        if (VOLBLOCK_VOLUME(map->first) != m->volume)
                return "is of another volume";
        for (size_t i = 0; i < c->n_snapshots; i++)
                if (c->snapshots[i].map == m->map)
                        return "belongs to another snapshot";
        return NULL;
}

static void log_snapshot(Check *c, const LogRecord *r) {
        const struct set_member *m = (const struct set_member *) (r->head + 1);
        for (uint32_t i = 0; i < r->head->count; i++, m = member_after(m)) {
                if (!manifest_volume_by_number(&c->image.view, m->volume) || check_snapshot_find(c, m->snapshot))
                        continue;
                const char *missing = m->map ? map_missing(c, m) : NULL;
                if (check_snapshot_add(c, m) < 0)
                        return;
                c->snapshots[c->n_snapshots - 1].record = r->head->sequence;
                c->snapshots[c->n_snapshots - 1].map_missing = missing;
        }
}

/*
 * Known only at the end of the log: a manifest may be newer than the replay position, and without the map of a snapshot
 * that a later record deletes.
 */
static void check_maps_missing(Check *c) {
        char id[UUID_TEXT];
        for (size_t i = 0; i < c->n_snapshots; i++) {
                CheckSnapshot *s = &c->snapshots[i];
                if (!s->map_missing || s->gone)
                        continue;
                check_say(c, true, "map", UINT64_MAX, "snapshot %s of record %lu: its free map %lu %s",
                          uuid_text(s->id, id), s->record, s->map, s->map_missing);
                s->concerned = true;
        }
}

static void log_ids(Check *c, const LogRecord *r) {
        const struct id_member *m = (const struct id_member *) (r->head + 1);
        for (uint32_t i = 0; i < r->head->count; i++) {
                CheckSnapshot *s = check_snapshot_find(c, m[i].snapshot);
                if (s && r->head->type == RECORD_DELETE)
                        s->gone = true;
                else if (s)
                        s->flags &= ~(uint32_t) SNAPSHOT_PENDING;
        }
}

static void log_record(void *userdata, const LogRecord *r) {
        Check *c = userdata;
        if (r->head->type == RECORD_PRESERVE)
                log_preserve(c, r);
        else if (r->head->type == RECORD_SNAPSHOT)
                log_snapshot(c, r);
        else
                log_ids(c, r);
}

static int check_log(Check *c) {
        const LogEnd *e = &c->log;
        int r = image_log(&c->image, log_record, c, &c->log);
        if (r < 0)
                return r;
        check_maps_missing(c);
        if (e->unreadable > 0)
                check_say(c, true, "log", UINT64_MAX, "%d of its segments cannot be read", e->unreadable);
        if (e->gone) {
                check_say(c, true, "log", e->block, "record %lu is gone, and %lu had been durable: %s", e->last + 1,
                          e->durable, e->why);
                check_concerns_range(c, 0, UINT64_MAX, UINT32_MAX);
        } else if (e->torn)
                check_say(c, false, "log", e->block, "ends with a record that was being written: %s", e->why);
        if (e->newest_super > c->image.super->number) {
                check_say(c, true, "log", UINT64_MAX, "it knows superblock %lu, and the newest there is is %lu",
                          e->newest_super, c->image.super->number);
                check_concerns_range(c, 0, UINT64_MAX, UINT32_MAX);
        }
        if (c->image.super->state == STORE_CLEAN && e->records > 0)
                check_say(c, true, "log", e->block, "%lu records in a store that says it was stopped in order",
                          e->records);
        return 0;
}

/* --- segments ----------------------------------------------------------------------------------------------------- */

static bool segment_is_reserved(const Check *c, uint32_t segment) {
        for (uint32_t i = 0; i < c->image.view.head->reserved; i++)
                if (c->image.view.reserved[i] == segment)
                        return true;
        return false;
}

static void check_segments(Check *c) {
        uint32_t unused = 0;
        for (uint32_t i = 0; i < c->image.super->segments; i++) {
                const struct manifest_segment *t = &c->image.view.table[i];
                if (t->kind == SEGMENT_LOG && t->live != c->live[i] && !c->runs_unreadable)
                        check_say(c, true, "segments", UINT64_MAX,
                                  "segment %u: entries point to %u blocks, the table says %u", i, c->live[i], t->live);
                unused += t->kind != SEGMENT_FREE && t->kind != SEGMENT_SUPER && t->live == 0 &&
                          i != c->image.view.head->meta_segment && !segment_is_reserved(c, i);
        }
        if (unused > 0)
                check_say(c, false, "segments", UINT64_MAX, "%u are taken and empty: free when the store is opened",
                          unused);
}

/* --- all of it ---------------------------------------------------------------------------------------------------- */

static size_t batch_size(const Check *c) {
        const struct manifest_run *m = c->image.view.runs;
        uint64_t entries = 1;
        for (uint32_t i = 0; i < c->image.view.head->runs; i++, m = run_after(m))
                entries = MIN_OF(entries + m->entries, (uint64_t) CHECK_BATCH);
        return (size_t) entries;
}

static int check_inside(Check *c) {
        uint32_t n = c->image.super->segments;
        c->live = calloc(n, sizeof(*c->live));
        c->used = calloc(n, sizeof(*c->used));
        c->batch_size = batch_size(c);
        c->batch = malloc(c->batch_size * sizeof(CheckBlock));
        c->buffer = source_buffer(CHECK_READ_BLOCKS);
        if (!c->live || !c->used || !c->batch || !c->buffer)
                return -ENOMEM;
        int r = check_snapshots_load(c);
        if (r == 0 && c->image.super->state != STORE_LOST)
                r = check_log(c);
        if (r < 0)
                return r;
        check_pairs(c);
        check_runs(c);
        check_segments(c);
        check_snapshots_marks(c);
        if (c->volume_data)
                check_origins(c);
        return c->no_memory ? -ENOMEM : 0;
}

int check_store(Check *c, Source *s) {
        int r = image_load(s, &c->image);
        if (r < 0)
                return r;
        if (!c->image.super) {
                for (unsigned n = 0; n < SUPER_COPIES; n++)
                        check_say(c, true, "superblock", c->image.copies[n].block, "copy %u: %s", n,
                                  c->image.copies[n].why);
                check_say(c, true, "superblock", UINT64_MAX, "%s: this is not a store, or it was destroyed",
                          c->image.why);
                return 0;
        }
        check_superblocks(c);
        if (c->image.manifest)
                return check_inside(c);
        check_say(c, true, "manifest", c->image.super->manifest_block, "%s: no snapshot can be found", c->image.why);
        return 0;
}

void check_done(Check *c) {
        for (uint32_t i = 0; c->used && i < c->image.super->segments; i++)
                free(c->used[i]);
        free(TAKE_PTR(c->used));
        free(TAKE_PTR(c->live));
        free(TAKE_PTR(c->batch));
        free(TAKE_PTR(c->buffer));
        free(TAKE_PTR(c->findings));
        free(TAKE_PTR(c->snapshots));
        image_done(&c->image);
}
