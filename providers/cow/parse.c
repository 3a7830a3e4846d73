/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A checksum says that a block is as somebody wrote it, not that the somebody was us: every number is held against its
 * bounds too, so that a store from elsewhere can be refused but never makes its reader go astray.
 */
#include "providers/cow/parse.h"
#include "protocol/base.h"
#include "providers/cow/crc32c.h"
#include "providers/cow/walk.h"
#include <stdarg.h>
#include <stdio.h>

typedef struct Why {
        char *text;
        size_t size;
} Why;

static int _printf_(3, 4) bad(const Why *w, int error, const char *format, ...) {
        va_list ap;
        if (w->text && w->size > 0) {
                va_start(ap, format);
                (void) vsnprintf(w->text, w->size, format, ap);
                va_end(ap);
        }
        return error;
}

/* CRC32C of n bytes with the four at offset at taken as 0. */
static uint32_t crc_without(const void *p, size_t n, size_t at) {
        static const uint8_t zeros[4];
        uint32_t crc = crc32c(0, p, at);
        crc = crc32c(crc, zeros, sizeof(zeros));
        return crc32c(crc, (const uint8_t *) p + at + 4, n - at - 4);
}

/* --- superblock --------------------------------------------------------------------------------------------------- */

static int geometry_check(const struct superblock *s, const Why *w) {
        uint64_t blocks = (uint64_t) s->segments * s->segment_blocks;
        if (s->segment_blocks < SEGMENT_BLOCKS_MIN || s->segment_blocks > SEGMENT_BLOCKS_MAX ||
            s->segments < STORE_SEGMENTS_MIN || s->segments > STORE_SEGMENTS_MAX)
                return bad(w, -EUCLEAN, "superblock: %u segments of %u blocks", s->segments, s->segment_blocks);
        if (s->number == 0 || s->number > UINT64_MAX - 16 || s->state > STORE_LOST)
                return bad(w, -EUCLEAN, "superblock: number %lu, state %u", s->number, s->state);
        uint64_t pages = ((uint64_t) s->manifest_bytes + BLOCK_SIZE - 1) / BLOCK_SIZE;
        uint64_t last = s->manifest_block % s->segment_blocks + pages;
        if (s->manifest_bytes < sizeof(struct manifest_head) || s->manifest_block >= blocks || last > s->segment_blocks)
                return bad(w, -EUCLEAN, "superblock: a manifest of %u bytes at block %lu", s->manifest_bytes,
                           s->manifest_block);
        return 0;
}

int superblock_check(const void *block, struct superblock *ret, char *why, size_t why_size) {
        Why w = { why, why_size };
        struct superblock s;

        memcpy(&s, block, sizeof(s));
        if (memcmp(s.magic, STORE_MAGIC, sizeof(s.magic)) != 0)
                return bad(&w, -EBADMSG, "superblock: no magic");
        uint32_t crc = crc_without(&s, sizeof(s), offsetof(struct superblock, crc));
        if (crc != s.crc)
                return bad(&w, -EUCLEAN, "superblock: checksum is %08x, must be %08x", crc, s.crc);
        if (s.version != STORE_VERSION || s.incompat || s.ro_compat)
                return bad(&w, -EPROTONOSUPPORT, "superblock: version %u, features %lx %lx, made by a newer vss",
                           s.version, s.incompat, s.ro_compat);
        int r = geometry_check(&s, &w);
        if (r < 0)
                return r;
        *ret = s;
        return 0;
}

/* --- names and members, in manifest and log ----------------------------------------------------------------------- */

static int member_check(const struct set_member *m, const char *label, const Why *w) {
        if (m->strikes > STRIKES_MAX || (m->strikes > 0 && m->map == 0))
                return bad(w, -EUCLEAN, "snapshot: %u strikes of map %lu", m->strikes, m->map);
        if (m->volume > UINT16_MAX || m->epoch == 0 || m->label_bytes > LABEL_MAX || m->flags & ~SNAPSHOT_KNOWN)
                return bad(w, -EUCLEAN, "snapshot: volume %u, epoch %u, flags %x, label of %u bytes", m->volume,
                           m->epoch, m->flags, m->label_bytes);
        if (memchr(label, 0, m->label_bytes))
                return bad(w, -EUCLEAN, "snapshot: a label with a NUL");
        const struct strike *s = member_strikes(m);
        uint64_t end = 0;
        for (uint32_t i = 0; i < m->strikes; end = (uint64_t) s[i].block + s[i].count, i++)
                if (s[i].block < end || s[i].count == 0)
                        return bad(w, -EUCLEAN, "snapshot: strike %u of %u is out of order", i, m->strikes);
        return 0;
}

static size_t member_rest(const struct set_member *m) {
        return pad8(m->label_bytes) + m->strikes * sizeof(struct strike);
}

/* Each is followed by its label and its strikes. */
static int members_check(const uint8_t *at, size_t bytes, uint32_t count, size_t *ret_bytes, const Why *w) {
        size_t used = 0;
        for (uint32_t i = 0; i < count; i++) {
                const struct set_member *m = (const struct set_member *) (at + used);
                if (bytes - used < sizeof(*m) || member_rest(m) > bytes - used - sizeof(*m))
                        return bad(w, -EUCLEAN, "snapshot %u of %u is cut off", i, count);
                int r = member_check(m, (const char *) (m + 1), w);
                if (r < 0)
                        return r;
                used += sizeof(*m) + member_rest(m);
        }
        *ret_bytes = used;
        return 0;
}

/* --- manifest ----------------------------------------------------------------------------------------------------- */

typedef struct Walk {
        const struct superblock *super;
        const struct manifest_head *head;
        const uint8_t *base;
        size_t at, bytes;
        Why why;
} Walk;

/* The next n bytes, or NULL. */
static const void *take(Walk *k, size_t n) {
        if (n > k->bytes - k->at)
                return NULL;
        const void *p = k->base + k->at;
        k->at += n;
        return p;
}

static int head_check(Walk *k) {
        const struct manifest_head *h = k->head;
        const struct superblock *s = k->super;
        const Why *w = &k->why;
        if (h->magic != MANIFEST_MAGIC || h->version != STORE_VERSION ||
            memcmp(h->store, s->uuid, sizeof(h->store)) != 0)
                return bad(w, -EUCLEAN, "manifest: not one of this store");
        if (h->generation != s->generation || h->next_sequence == 0 || h->next_run == 0)
                return bad(w, -EUCLEAN, "manifest: generation %lu, superblock %lu", h->generation, s->generation);
        if (h->volumes > STORE_VOLUMES_MAX || h->snapshots > STORE_SNAPSHOTS_MAX || h->runs > STORE_RUNS_MAX ||
            h->maps > STORE_MAPS_MAX)
                return bad(w, -EUCLEAN, "manifest: %u volumes, %u snapshots, %u runs, %u maps", h->volumes,
                           h->snapshots, h->runs, h->maps);
        if (h->reserved == 0 || h->reserved > 2 * RESERVED_MAX || h->segments != s->segments || h->policy >= POLICY_MAX)
                return bad(w, -EUCLEAN, "manifest: %u reserved, %u segments, policy %lu", h->reserved, h->segments,
                           h->policy);
        if (h->replay_block > s->segment_blocks || h->meta_segment >= s->segments || h->meta_block > s->segment_blocks)
                return bad(w, -EUCLEAN, "manifest: log at block %u, meta at %u:%u", h->replay_block, h->meta_segment,
                           h->meta_block);
        return h->next_volume > VOLUME_NUMBERS ? bad(w, -EUCLEAN, "manifest: next volume %u", h->next_volume) : 0;
}

static bool name_is_valid(const char *name, size_t n) {
        static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
        if (n == 0 || n > VOLUME_NAME_MAX || strchr("._-", name[0]))
                return false;
        for (size_t i = 0; i < n; i++)
                if (!name[i] || !strchr(allowed, name[i]))
                        return false;
        return true;
}

static int volume_check(const Walk *k, const struct manifest_volume *m) {
        const Why *w = &k->why;
        const char *name = (const char *) (m + 1);
        if (m->number >= k->head->next_volume || m->tag > k->head->epoch)
                return bad(w, -EUCLEAN, "volume %u: number or epoch %u was never given", m->number, m->tag);
        if (m->flags & ~(uint32_t) VOLUME_KNOWN)
                return bad(w, -EUCLEAN, "volume %u: flags %x", m->number, m->flags);
        if (m->bytes == 0 || m->bytes % 512 || m->bytes / BLOCK_SIZE >= 1ULL << 47)
                return bad(w, -EUCLEAN, "volume %u: %lu bytes", m->number, m->bytes);
        if (!name_is_valid(name, m->name_bytes) || memchr(name + m->name_bytes, 0, m->origin_bytes))
                return bad(w, -EUCLEAN, "volume %u: name or origin is not one", m->number);
        return 0;
}

static int volumes_check(Walk *k) {
        const struct manifest_volume *all[STORE_VOLUMES_MAX];
        for (uint32_t i = 0; i < k->head->volumes; i++) {
                const struct manifest_volume *m = take(k, sizeof(*m));
                if (!m || m->origin_bytes > ORIGIN_PATH_MAX || !take(k, pad8((size_t) m->name_bytes + m->origin_bytes)))
                        return bad(&k->why, -EUCLEAN, "volume %u of %u is cut off", i, k->head->volumes);
                int r = volume_check(k, m);
                if (r < 0)
                        return r;
                for (uint32_t n = 0; n < i; n++)
                        if (all[n]->number == m->number ||
                            (all[n]->name_bytes == m->name_bytes && memcmp(all[n] + 1, m + 1, m->name_bytes) == 0))
                                return bad(&k->why, -EUCLEAN, "volume %u stands twice", m->number);
                all[i] = m;
        }
        return 0;
}

static int snapshots_check(Walk *k) {
        size_t used = 0;
        int r = members_check(k->base + k->at, k->bytes - k->at, k->head->snapshots, &used, &k->why);
        if (r < 0)
                return r;
        for (size_t at = k->at; at < k->at + used;) {
                const struct manifest_snapshot *m = (const struct manifest_snapshot *) (k->base + at);
                if (m->epoch > k->head->epoch)
                        return bad(&k->why, -EUCLEAN, "snapshot: epoch %u was never given", m->epoch);
                at += sizeof(*m) + member_rest(m);
        }
        k->at += used;
        return 0;
}

static int run_check(const Walk *k, const struct manifest_run *m, const struct run_extent *x) {
        const Why *w = &k->why;
        uint64_t pages = 0;
        for (uint32_t i = 0; i < m->extents; i++) {
                if (x[i].segment == 0 || x[i].segment >= k->super->segments || x[i].pages == 0 ||
                    x[i].pages > k->super->segment_blocks || x[i].block > k->super->segment_blocks - x[i].pages)
                        return bad(w, -EUCLEAN, "run %lu: a piece at %u:%u of %u pages", m->number, x[i].segment,
                                   x[i].block, x[i].pages);
                pages += x[i].pages;
        }
        if (m->number == 0 || m->number >= k->head->next_run || pages != m->pages || m->first > m->last ||
            m->min_epoch > m->max_epoch || m->max_epoch > k->head->epoch)
                return bad(w, -EUCLEAN, "run %lu: its numbers contradict each other", m->number);
        if (m->entries == 0 || (m->entries + RUN_PAGE_ENTRIES - 1) / RUN_PAGE_ENTRIES != m->pages)
                return bad(w, -EUCLEAN, "run %lu: %lu entries in %u pages", m->number, m->entries, m->pages);
        return 0;
}

static int map_check(const Walk *k, const struct manifest_run *m) {
        if (m->max_epoch != 0 || m->level != 0 || VOLBLOCK_VOLUME(m->first) != VOLBLOCK_VOLUME(m->last))
                return bad(&k->why, -EUCLEAN, "run %lu: not what a free map can be", m->number);
        return 0;
}

/* And maps, which lie behind them. */
static int runs_check(Walk *k) {
        for (uint32_t i = 0; i < k->head->runs + k->head->maps; i++) {
                const struct manifest_run *m = take(k, sizeof(*m));
                const struct run_extent *x = m && m->extents <= RUN_EXTENTS_MAX ? take(k, m->extents * sizeof(*x)) :
                                                                                  NULL;
                if (!x)
                        return bad(&k->why, -EUCLEAN, "run %u of %u is cut off", i, k->head->runs);
                int r = run_check(k, m, x);
                if (r == 0 && i >= k->head->runs)
                        r = map_check(k, m);
                if (r < 0)
                        return r;
        }
        return 0;
}

static bool is_super(const struct superblock *s, uint32_t segment) {
        return segment == 0 || segment == s->segments / 2 || segment == s->segments - 1;
}

static int table_check(const Walk *k, const uint32_t *reserved, const struct manifest_segment *table) {
        const struct superblock *s = k->super;
        for (uint32_t i = 0; i < s->segments; i++) {
                if (table[i].kind >= SEGMENT_MAX || table[i].live > s->segment_blocks ||
                    (table[i].kind == SEGMENT_FREE && table[i].live) ||
                    (table[i].kind == SEGMENT_SUPER) != is_super(s, i))
                        return bad(&k->why, -EUCLEAN, "segment %u: kind %u with %u live", i, table[i].kind,
                                   table[i].live);
        }
        for (uint32_t i = 0; i < k->head->reserved; i++) {
                if (reserved[i] >= s->segments || table[reserved[i]].kind != SEGMENT_LOG)
                        return bad(&k->why, -EUCLEAN, "reserved segment %u is none of the log", reserved[i]);
                for (uint32_t n = 0; n < i; n++)
                        if (reserved[n] == reserved[i])
                                return bad(&k->why, -EUCLEAN, "segment %u is reserved twice", reserved[i]);
        }
        if (k->head->meta_segment && table[k->head->meta_segment].kind != SEGMENT_META)
                return bad(&k->why, -EUCLEAN, "segment %u is filled with pages and is not for them",
                           k->head->meta_segment);
        return 0;
}

int manifest_check(const void *manifest, const struct superblock *super, char *why, size_t why_size) {
        Walk k = { .super = super,
                   .head = manifest,
                   .base = manifest,
                   .bytes = super->manifest_bytes,
                   .why = { why, why_size } };
        if (k.bytes < sizeof(struct manifest_head))
                return bad(&k.why, -EUCLEAN, "manifest: %zu bytes", k.bytes);
        uint32_t crc = crc32c(0, manifest, k.bytes);
        if (crc != super->manifest_crc)
                return bad(&k.why, -EUCLEAN, "manifest at block %lu: checksum is %08x, must be %08x",
                           super->manifest_block, crc, super->manifest_crc);
        k.at = sizeof(struct manifest_head);
        int r = head_check(&k);
        r = r < 0 ? r : volumes_check(&k);
        r = r < 0 ? r : snapshots_check(&k);
        r = r < 0 ? r : runs_check(&k);
        if (r < 0)
                return r;
        const uint32_t *reserved = take(&k, pad8(k.head->reserved * sizeof(uint32_t)));
        const struct manifest_segment *table = take(&k, pad8(k.head->segments * sizeof(*table)));
        if (!reserved || !table || k.at != k.bytes)
                return bad(&k.why, -EUCLEAN, "manifest: %zu bytes, %zu expected", k.bytes, k.at);
        r = table_check(&k, reserved, table);
        if (r < 0)
                return r;
        ManifestView v;
        manifest_view(manifest, &v);
        return manifest_cross_check(&v, super, why, why_size);
}

/* --- record ------------------------------------------------------------------------------------------------------- */

static int descriptors_check(const struct record_head *h, const Why *w) {
        const struct descriptor *d = (const struct descriptor *) (h + 1);
        uint32_t stored = 0;
        if (h->count > RECORD_BLOCKS_MAX || h->body_bytes != h->count * sizeof(*d) || h->payload_blocks > h->count)
                return bad(w, -EUCLEAN, "record %lu: %u blocks, %u payload", h->sequence, h->count, h->payload_blocks);
        for (uint32_t i = 0; i < h->count; i++) {
                bool has_payload = !(d[i].flags & ENTRY_NO_PAYLOAD);
                if (d[i].flags & ~ENTRY_KNOWN || d[i].epoch == 0 ||
                    (has_payload ? d[i].payload != stored : d[i].payload || d[i].crc))
                        return bad(w, -EUCLEAN, "record %lu: descriptor %u: flags %x, payload %u", h->sequence, i,
                                   d[i].flags, d[i].payload);
                stored += has_payload;
        }
        if (stored != h->payload_blocks)
                return bad(w, -EUCLEAN, "record %lu: %u of %u payload blocks are described", h->sequence, stored,
                           h->payload_blocks);
        return 0;
}

static int body_check(const struct record_head *h, const Why *w) {
        size_t used = 0;
        if (h->type == RECORD_PRESERVE)
                return descriptors_check(h, w);
        if (h->payload_blocks != 0)
                return bad(w, -EUCLEAN, "record %lu: payload where there is none", h->sequence);
        if (h->type != RECORD_SNAPSHOT)
                return h->body_bytes == (uint64_t) h->count * sizeof(struct id_member) ?
                               0 :
                               bad(w, -EUCLEAN, "record %lu: %u ids in %u bytes", h->sequence, h->count, h->body_bytes);
        if (h->count == 0 || h->count > STORE_VOLUMES_MAX)
                return bad(w, -EUCLEAN, "record %lu: a set of %u", h->sequence, h->count);
        const struct set_member *first = (const struct set_member *) (h + 1), *m = first;
        int r = members_check((const uint8_t *) first, h->body_bytes, h->count, &used, w);
        if (r < 0)
                return r;
        for (uint32_t i = 0; i < h->count; i++, m = member_after(m))
                if (m->epoch != first->epoch || memcmp(m->set, first->set, sizeof(m->set)) != 0)
                        return bad(w, -EUCLEAN, "record %lu: its members are not of one set", h->sequence);
        return used == h->body_bytes ? 0 : bad(w, -EUCLEAN, "record %lu: more than its members", h->sequence);
}

int record_check(const struct record_head *h, uint32_t blocks, char *why, size_t why_size) {
        Why w = { why, why_size };
        if (blocks == 0 || h->magic != RECORD_MAGIC)
                return bad(&w, -EBADMSG, "not a record");
        uint64_t head_blocks = (sizeof(*h) + (uint64_t) h->body_bytes + BLOCK_SIZE - 1) / BLOCK_SIZE;
        if (head_blocks > blocks || h->payload_blocks > blocks - head_blocks)
                return bad(&w, -EUCLEAN, "record %lu: longer than its segment", h->sequence);
        uint32_t crc = crc_without(h, head_blocks * BLOCK_SIZE, offsetof(struct record_head, head_crc));
        if (crc != h->head_crc)
                return bad(&w, -EUCLEAN, "record %lu: checksum is %08x, must be %08x", h->sequence, crc, h->head_crc);
        if (h->type == 0 || h->type >= RECORD_MAX || h->sequence == 0 || h->durable_upto >= h->sequence)
                return bad(&w, -EUCLEAN, "record %lu: type %u, durable up to %lu", h->sequence, h->type,
                           h->durable_upto);
        return body_check(h, &w);
}

/* --- page of a run ------------------------------------------------------------------------------------------------ */

static int page_check(const struct run_page *p, uint32_t magic, uint64_t run, uint32_t page, const Why *w) {
        const char *what = magic == MAP_PAGE_MAGIC ? "map" : "run";
        if (p->magic != magic || p->run != run || p->page != page)
                return bad(w, -EUCLEAN, "%s %lu, page %u: something else lies there (magic %08x, run %lu, page %u)",
                           what, run, page, p->magic, p->run, p->page);
        uint32_t crc = crc_without(p, BLOCK_SIZE, offsetof(struct run_page, crc));
        if (crc != p->crc)
                return bad(w, -EUCLEAN, "%s %lu, page %u: checksum is %08x, must be %08x", what, run, page, crc,
                           p->crc);
        if (p->entries == 0 || p->entries > RUN_PAGE_ENTRIES)
                return bad(w, -EUCLEAN, "%s %lu, page %u: %u entries", what, run, page, p->entries);
        return 0;
}

int map_page_check(const struct run_page *p, uint64_t run, uint32_t page, char *why, size_t why_size) {
        Why w = { why, why_size };
        int r = page_check(p, MAP_PAGE_MAGIC, run, page, &w);
        uint64_t end = 0;
        for (uint32_t i = 0; r == 0 && i < p->entries; i++) {
                const struct run_entry *e = &p->entry[i];
                uint64_t count = ENTRY_WHERE_BLOCK(e->where), block = VOLBLOCK_BLOCK(e->volblock);
                if (ENTRY_WHERE_FLAGS(e->where) != ENTRY_FREE || e->epoch || e->crc || count == 0 ||
                    block + count > UINT32_MAX + 1ULL || (i > 0 && e->volblock < end))
                        r = bad(&w, -EUCLEAN, "map %lu, page %u, entry %u: %lu blocks from %lu on", run, page, i, count,
                                block);
                end = e->volblock + count;
        }
        return r;
}

int run_page_check(const struct run_page *p, uint64_t run, uint32_t page, char *why, size_t why_size) {
        Why w = { why, why_size };
        int r = page_check(p, RUN_PAGE_MAGIC, run, page, &w);
        if (r < 0)
                return r;
        for (uint32_t i = 0; i < p->entries; i++) {
                const struct run_entry *e = &p->entry[i], *before = i ? e - 1 : NULL;
                unsigned flags = ENTRY_WHERE_FLAGS(e->where);
                bool ordered = !before || before->volblock < e->volblock ||
                               (before->volblock == e->volblock && before->epoch < e->epoch);
                if (!ordered)
                        return bad(&w, -EUCLEAN, "run %lu, page %u, entry %u: out of order", run, page, i);
                if (e->epoch == 0 || flags & ~(unsigned) ENTRY_KNOWN ||
                    (flags & ENTRY_NO_PAYLOAD && (ENTRY_WHERE_BLOCK(e->where) || e->crc)))
                        return bad(&w, -EUCLEAN, "run %lu, page %u, entry %u: epoch %u, flags %x at block %lu", run,
                                   page, i, e->epoch, flags, (uint64_t) ENTRY_WHERE_BLOCK(e->where));
        }
        return 0;
}
