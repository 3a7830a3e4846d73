/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/store-maker.h"
#include "providers/cow/check.h"
#include "providers/cow/crc32c.h"
#include "tests/support.h"
#include <stdio.h>

enum {
        META = 1, /* segments */
        DATA = 3,
        LOG = 5, /* 5, 6, 7 are reserved */
        RUN_1_ENTRIES = RUN_PAGE_ENTRIES + 30,
        RUN_1_PAYLOAD = 20,
        RUN_2_ENTRIES = 5,
        MAP_EXTENTS = RUN_PAGE_ENTRIES + 20,
        VOLUME_BLOCKS = 1024,
        LABEL = 9,
};

static void fill_id(uint8_t id[16], uint8_t kind, uint8_t n) {
        for (unsigned i = 0; i < 16; i++)
                id[i] = (uint8_t) (kind * 16 + i);
        id[15] = n;
}

static void fill_block(uint8_t *p, uint64_t n) {
        for (unsigned i = 0; i < BLOCK_SIZE; i++)
                p[i] = (uint8_t) ((n * 2654435761u + i * 40503u) >> 8);
}

/* --- checksums ---------------------------------------------------------------------------------------------------- */

void fix_super(void *block) {
        struct superblock *s = block;
        s->crc = 0;
        s->crc = crc32c(0, s, sizeof(*s));
}

void fix_manifest(Made *m) {
        uint32_t crc = crc32c(0, made_at(m, m->manifest_block), m->manifest_bytes);
        for (unsigned n = 0; n < SUPER_COPIES; n++) {
                struct superblock *s = (struct superblock *) made_at(m, made_super(n));
                s->manifest_crc = crc;
                fix_super(s);
        }
}

void fix_record(struct record_head *h) {
        h->head_crc = 0;
        h->head_crc = crc32c(0, h, (size_t) record_head_blocks(h) * BLOCK_SIZE);
}

void fix_page(struct run_page *p) {
        p->crc = 0;
        p->crc = crc32c(0, p, BLOCK_SIZE);
}

/* --- runs --------------------------------------------------------------------------------------------------------- */

static struct run_entry made_entry(Made *m, uint64_t volblock, uint32_t epoch, bool payload, uint64_t *data) {
        struct run_entry e = { .volblock = volblock, .epoch = epoch, .where = ENTRY_WHERE(0, ENTRY_ZERO) };
        if (payload) {
                fill_block(made_at(m, *data), *data);
                e.where = ENTRY_WHERE(*data, 0);
                e.crc = crc32c(0, made_at(m, *data), BLOCK_SIZE);
                (*data)++;
        }
        return e;
}

static void add_entry(Made *m, uint64_t block, uint32_t magic, uint64_t run, uint32_t number,
                      const struct run_entry *e) {
        struct run_page *p = (struct run_page *) made_at(m, block);
        p->magic = magic;
        p->run = run;
        p->page = number;
        p->entry[p->entries++] = *e;
        fix_page(p);
}

/* Run 1: blocks of volume 0 and 1, some at two epochs, the first few with payload. Run 2: five of volume 1. */
static void make_runs(Made *m) {
        uint64_t data = (uint64_t) DATA * MADE_SEGMENT_BLOCKS + 1;
        m->run_data = data;
        m->run_page[0] = META * MADE_SEGMENT_BLOCKS + 4;
        m->run_page[1] = (META + 1) * MADE_SEGMENT_BLOCKS;
        m->run_page[2] = META * MADE_SEGMENT_BLOCKS + 5;
        for (unsigned i = 0; i < RUN_1_ENTRIES; i++) {
                uint64_t volblock = i < 150 ? VOLBLOCK(0, 10 + i / 2) : VOLBLOCK(1, i);
                struct run_entry e = made_entry(m, volblock, i < 150 ? 1 + i % 2 : 2, i % 10 == 0 || i == 1, &data);
                add_entry(m, m->run_page[i / RUN_PAGE_ENTRIES], RUN_PAGE_MAGIC, 1, i / RUN_PAGE_ENTRIES, &e);
        }
        for (unsigned i = 0; i < RUN_2_ENTRIES; i++) {
                struct run_entry e = made_entry(m, VOLBLOCK(1, 500 + i), 3, i % 2, &data);
                add_entry(m, m->run_page[2], RUN_PAGE_MAGIC, 2, 0, &e);
        }
}

/* --- free maps ---------------------------------------------------------------------------------------------------- */

static void add_free(Made *m, unsigned page, uint64_t map, uint32_t number, uint64_t volblock, uint32_t count) {
        struct run_entry e = { .volblock = volblock, .where = ENTRY_WHERE(count, ENTRY_FREE) };
        add_entry(m, m->map_page[page], MAP_PAGE_MAGIC, map, number, &e);
}

/*
 * Map 3 is that of snapshot 1, in two pages: first what run 1 has of that epoch, so all of it was struck. Map 4 is that
 * of snapshot 6, which is in the log: run 2 and the first record have these blocks for those before it. Nobody has 5.
 */
static void make_maps(Made *m) {
        m->map_page[0] = META * MADE_SEGMENT_BLOCKS + 6;
        m->map_page[1] = (META + 1) * MADE_SEGMENT_BLOCKS + 1;
        m->map_page[2] = META * MADE_SEGMENT_BLOCKS + 7;
        m->map_page[3] = META * MADE_SEGMENT_BLOCKS + 8;
        add_free(m, 0, 3, 0, VOLBLOCK(0, 10), 75);
        for (unsigned i = 1; i < MAP_EXTENTS; i++)
                add_free(m, i / RUN_PAGE_ENTRIES, 3, i / RUN_PAGE_ENTRIES, VOLBLOCK(0, 96 + 4 * i), i % 3 + 1);
        add_free(m, 2, 4, 0, VOLBLOCK(1, 500), 5);
        add_free(m, 2, 4, 0, VOLBLOCK(1, 600), 8);
        add_free(m, 3, 5, 0, VOLBLOCK(0, 900), 10);
        add_free(m, 3, 5, 0, VOLBLOCK(0, 1000), 24); /* to the end */
}

static uint32_t live_in(const Made *m, uint32_t segment) {
        uint32_t n = 0;
        for (unsigned k = 0; k < ELEMENTSOF(m->run_page); k++) {
                const struct run_page *p = (const struct run_page *) made_at(m, m->run_page[k]);
                for (uint32_t i = 0; i < p->entries; i++)
                        n += !(ENTRY_WHERE_FLAGS(p->entry[i].where) & ENTRY_NO_PAYLOAD) &&
                             ENTRY_WHERE_BLOCK(p->entry[i].where) / MADE_SEGMENT_BLOCKS == segment;
        }
        return n;
}

/* --- manifest ----------------------------------------------------------------------------------------------------- */

static uint8_t *put_volume(uint8_t *at, uint32_t number, const char *name, const char *origin, uint32_t tag) {
        struct manifest_volume *v = (struct manifest_volume *) at;
        *v = (struct manifest_volume) {
                .number = number,
                .tag = tag,
                .bytes = VOLUME_BLOCKS * BLOCK_SIZE - 512,
                .flags = VOLUME_ATTACHED,
                .name_bytes = (uint16_t) strlen(name),
                .origin_bytes = (uint16_t) strlen(origin),
        };
        fill_id(v->uuid, 2, (uint8_t) number);
        memcpy(v + 1, name, strlen(name));
        memcpy((uint8_t *) (v + 1) + strlen(name), origin, strlen(origin));
        return (uint8_t *) volume_after(v);
}

typedef struct MadeMap {
        uint64_t number;
        uint16_t n;
        struct strike strikes[3];
} MadeMap;

static const MadeMap no_map;

static uint8_t *put_member(uint8_t *at, uint8_t n, uint32_t volume, uint32_t epoch, uint32_t flags,
                           const MadeMap *map) {
        struct set_member *s = (struct set_member *) at;
        *s = (struct set_member) { .volume = volume,
                                   .epoch = epoch,
                                   .created_usec = 1700000000000000ULL + n,
                                   .flags = flags,
                                   .label_bytes = LABEL,
                                   .strikes = map->n,
                                   .map = map->number };
        fill_id(s->snapshot, 3, n);
        fill_id(s->set, 4, (uint8_t) epoch);
        memcpy(s + 1, "/srv/data", LABEL);
        memcpy((uint8_t *) (s + 1) + pad8(LABEL), map->strikes, map->n * sizeof(struct strike));
        return (uint8_t *) member_after(s);
}

static uint8_t *put_run(uint8_t *at, const struct manifest_run *run, const struct run_extent *extents) {
        memcpy(at, run, sizeof(*run));
        memcpy(at + sizeof(*run), extents, run->extents * sizeof(*extents));
        return at + sizeof(*run) + run->extents * sizeof(*extents);
}

static uint8_t *put_runs(uint8_t *at) {
        struct run_extent first[] = { { META, 4, 1, 0 }, { META + 1, 0, 1, 0 } }, second = { META, 5, 1, 0 };
        struct manifest_run run = { .number = 1,
                                    .entries = RUN_1_ENTRIES,
                                    .first = VOLBLOCK(0, 10),
                                    .last = VOLBLOCK(1, RUN_1_ENTRIES - 1),
                                    .min_epoch = 1,
                                    .max_epoch = 2,
                                    .pages = 2,
                                    .extents = 2,
                                    .level = 1 };
        at = put_run(at, &run, first);
        run = (struct manifest_run) { .number = 2,
                                      .entries = RUN_2_ENTRIES,
                                      .first = VOLBLOCK(1, 500),
                                      .last = VOLBLOCK(1, 504),
                                      .min_epoch = 3,
                                      .max_epoch = 3,
                                      .pages = 1,
                                      .extents = 1 };
        return put_run(at, &run, &second);
}

static uint8_t *put_maps(uint8_t *at) {
        struct run_extent of_3[] = { { META, 6, 1, 0 }, { META + 1, 1, 1, 0 } };
        struct run_extent of_4 = { META, 7, 1, 0 }, of_5 = { META, 8, 1, 0 };
        struct manifest_run map = { .number = 3,
                                    .entries = MAP_EXTENTS,
                                    .first = VOLBLOCK(0, 10),
                                    .last = VOLBLOCK(0, 96 + 4 * (MAP_EXTENTS - 1) + (MAP_EXTENTS - 1) % 3),
                                    .pages = 2,
                                    .extents = 2 };
        at = put_run(at, &map, of_3);
        map = (struct manifest_run) {
                .number = 4, .entries = 2, .first = VOLBLOCK(1, 500), .last = VOLBLOCK(1, 607), .pages = 1, .extents = 1
        };
        at = put_run(at, &map, &of_4);
        map.number = 5;
        map.first = VOLBLOCK(0, 900);
        map.last = VOLBLOCK(0, VOLUME_BLOCKS - 1);
        return put_run(at, &map, &of_5);
}

static uint8_t *put_table(const Made *m, uint8_t *at) {
        struct manifest_segment *t = (struct manifest_segment *) at;
        for (uint32_t i = 0; i < MADE_SEGMENTS; i++) {
                t[i] = (struct manifest_segment) { .kind = SEGMENT_FREE };
                if (i == 0 || i == MADE_MIDDLE || i == MADE_SEGMENTS - 1)
                        t[i].kind = SEGMENT_SUPER;
                else if (i == META || i == META + 1)
                        t[i] = (struct manifest_segment) { .kind = SEGMENT_META };
                else if (i >= DATA && i < LOG + 3)
                        t[i] = (struct manifest_segment) { .kind = SEGMENT_LOG, .live = (uint16_t) live_in(m, i) };
        }
        t[META].live = 6; /* the manifest's one page, and one of each run and map */
        t[META + 1].live = 2;
        return at + MADE_SEGMENTS * sizeof(*t);
}

static void make_manifest(Made *m) {
        static const MadeMap map = { 3, 3, { { 10, 75 }, { 100, 1 }, { 150, 10 } } };
        m->manifest_block = META * MADE_SEGMENT_BLOCKS + 1;
        struct manifest_head *h = (struct manifest_head *) made_at(m, m->manifest_block);
        *h = (struct manifest_head) {
                .magic = MANIFEST_MAGIC,
                .version = STORE_VERSION,
                .generation = 7,
                .next_sequence = 100,
                .next_run = 6,
                .epoch = 3,
                .next_volume = 2,
                .replay_block = 3,
                .meta_segment = META,
                .meta_block = 9,
                .volumes = 2,
                .snapshots = 4,
                .runs = 2,
                .maps = 3,
                .reserved = 3,
                .segments = MADE_SEGMENTS,
        };
        memcpy(h->store, m->uuid, sizeof(h->store));
        uint8_t *at = put_volume((uint8_t *) (h + 1), 0, "root", "/dev/vg/root", 2);
        at = put_volume(at, 1, "srv-data.1", "/srv/data.img", 3);
        at = put_member(at, 1, 0, 1, SNAPSHOT_PERSISTENT | SNAPSHOT_FROZEN, &map);
        at = put_member(at, 2, 0, 2, 0, &no_map);
        at = put_member(at, 3, 1, 2, 0, &no_map);
        at = put_member(at, 4, 1, 3, SNAPSHOT_PENDING, &no_map);
        at = put_maps(put_runs(at));
        for (uint32_t i = 0; i < 4; i++, at += sizeof(uint32_t))
                *(uint32_t *) at = i < 3 ? LOG + i : 0;
        at = put_table(m, at);
        m->manifest_bytes = (uint32_t) (at - (uint8_t *) h);
        assert(m->manifest_bytes <= BLOCK_SIZE);
}

static void make_supers(Made *m) {
        for (unsigned n = 0; n < SUPER_COPIES; n++) {
                struct superblock *s = (struct superblock *) made_at(m, made_super(n));
                *s = (struct superblock) {
                        .version = STORE_VERSION,
                        .number = n % 2 ? 41 : 42,
                        .segments = MADE_SEGMENTS,
                        .segment_blocks = MADE_SEGMENT_BLOCKS,
                        .manifest_block = m->manifest_block,
                        .manifest_bytes = m->manifest_bytes,
                        .generation = 7,
                        .state = STORE_OPEN,
                };
                memcpy(s->magic, STORE_MAGIC, sizeof(s->magic));
                memcpy(s->uuid, m->uuid, sizeof(s->uuid));
        }
        fix_manifest(m);
}

/* --- log ---------------------------------------------------------------------------------------------------------- */

static struct record_head *put_record(Made *m, unsigned i, uint64_t block, uint32_t type, uint32_t count,
                                      const void *body, uint32_t body_bytes) {
        struct record_head *h = (struct record_head *) made_at(m, block);
        *h = (struct record_head) {
                .magic = RECORD_MAGIC,
                .generation = 7,
                .sequence = 100 + i,
                .durable_upto = 99 + (i > 1 ? i - 1 : 0),
                .super_number = 42,
                .type = type,
                .count = count,
                .body_bytes = body_bytes,
        };
        memcpy(h->store, m->uuid, sizeof(h->store));
        memcpy(h + 1, body, body_bytes);
        m->record[i] = block;
        m->log_end = block + record_head_blocks(h);
        fix_record(h);
        return h;
}

static void put_preserve(Made *m, unsigned i, uint64_t block, uint32_t volume, uint64_t first, uint32_t count) {
        struct descriptor d[8];
        uint16_t payload = 0;
        assert(count <= ELEMENTSOF(d));
        for (uint32_t k = 0; k < count; k++) {
                d[k] = (struct descriptor) { .volblock = VOLBLOCK(volume, first + k), .epoch = 3 };
                if (k % 4 == 3) {
                        d[k].flags = ENTRY_ZERO;
                        continue;
                }
                uint8_t *at = made_at(m, block + 1 + payload);
                fill_block(at, first + k);
                d[k].crc = crc32c(0, at, BLOCK_SIZE);
                d[k].payload = payload++;
        }
        struct record_head *h = put_record(m, i, block, RECORD_PRESERVE, count, d, count * (uint32_t) sizeof(d[0]));
        h->payload_blocks = payload;
        m->log_end += payload;
        fix_record(h);
}

/* Five records; the fifth does not fit behind the others and begins the next segment. */
static void make_log(Made *m) {
        uint64_t block = (uint64_t) LOG * MADE_SEGMENT_BLOCKS + 3;
        uint8_t members[2 * (sizeof(struct set_member) + 16) + 2 * sizeof(struct strike)] = { 0 };
        static const MadeMap map = { 4, 2, { { 501, 2 }, { 607, 1 } } };
        struct id_member ids[1];
        put_preserve(m, 0, block, 1, 600, 8);
        (void) put_member(put_member(members, 5, 0, 4, SNAPSHOT_PENDING, &no_map), 6, 1, 4, SNAPSHOT_PENDING, &map);
        (void) put_record(m, 1, m->log_end, RECORD_SNAPSHOT, 2, members, sizeof(members));
        fill_id(ids[0].snapshot, 3, 4);
        (void) put_record(m, 2, m->log_end, RECORD_COMMIT, 1, ids, sizeof(ids));
        fill_id(ids[0].snapshot, 3, 3);
        (void) put_record(m, 3, m->log_end, RECORD_DELETE, 1, ids, sizeof(ids));
        put_preserve(m, 4, (uint64_t) (LOG + 1) * MADE_SEGMENT_BLOCKS, 0, 700, 8);
}

/* --- all of it ---------------------------------------------------------------------------------------------------- */

static int made_read(Source *s, uint64_t block, uint32_t blocks, void *buffer) {
        const Made *m = container_of(s, Made, source);
        memcpy(buffer, m->bytes + block * BLOCK_SIZE, (size_t) blocks * BLOCK_SIZE);
        return 0;
}

void made_example(Made *ret) {
        size_t size = (size_t) MADE_SEGMENTS * MADE_SEGMENT_BLOCKS * BLOCK_SIZE;
        *ret = (Made) { .source = { .read = made_read, .bytes = size }, .size = size };
        ret->bytes = source_buffer(MADE_SEGMENTS * MADE_SEGMENT_BLOCKS);
        if (!ret->bytes)
                test_die("no memory for a store");
        memset(ret->bytes, 0, size);
        fill_id(ret->uuid, 1, 0);
        make_runs(ret);
        make_maps(ret);
        make_manifest(ret);
        make_supers(ret);
        make_log(ret);
}

Made *made_copy(const Made *m, Made *ret) {
        *ret = *m;
        ret->bytes = source_buffer((uint32_t) (m->size / BLOCK_SIZE));
        if (!ret->bytes)
                test_die("no memory for a store");
        memcpy(ret->bytes, m->bytes, m->size);
        return ret;
}

void made_done(Made *m) {
        free(TAKE_PTR(m->bytes));
}

Verdict verdict_of(Made *m) {
        Check c = { 0 };
        Verdict v = { 0 };
        if (check_store(&c, &m->source) < 0)
                test_die("no memory to check a store");
        v.damages = c.damages;
        v.notes = c.notes;
        for (size_t i = 0; i < c.n_snapshots; i++)
                if (c.snapshots[i].concerned && !c.snapshots[i].gone)
                        v.concerned |= 1u << c.snapshots[i].id[15];
        if (c.n_findings > 0)
                (void) snprintf(v.first, sizeof(v.first), "%s: %s", c.findings[0].structure, c.findings[0].text);
        check_done(&c);
        return v;
}
