/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parsers of a store, for libFuzzer (tests/fuzz cow-store runs it) and, without it, as a test that replays what is
 * in tests/corpus/cow-store. The first byte chooses the parser, the second whether checksums are put right first: no
 * mutation would get past them. What is taken must be walkable without another look, and what is not must say why.
 *
 *   s  superblock                                    m  manifest, behind 16 bytes of geometry
 *   r  record, behind its number of blocks           p  page of a run
 *   f  page of a free map                            x  whole store: pieces that are laid over the example, for check
 */
#include "protocol/base.h"
#include "providers/cow/check.h"
#include "providers/cow/crc32c.h"
#include "providers/cow/parse.h"
#include "tests/store-maker.h"
#include "tests/fuzz-target.h"

typedef struct Input {
        const uint8_t *at;
        size_t left;
        bool fix;
} Input;

static void take(Input *in, void *ret, size_t n) {
        size_t there = MIN_OF(n, in->left);
        memset(ret, 0, n);
        if (there > 0)
                memcpy(ret, in->at, there);
        in->at += there;
        in->left -= there;
}

static void must_say(int r, const char *why) {
        MUST(r <= 0 && (r < 0) == (why[0] != '\0') && strlen(why) < WHY_MAX);
}

/* Adds up everything, so that nothing is read that is not there. */
static uint64_t sum(const void *p, size_t n) {
        uint64_t s = 0;
        for (size_t i = 0; i < n; i++)
                s += ((const uint8_t *) p)[i];
        return s;
}
static volatile uint64_t sink;

static void fuzz_superblock(Input *in) {
        char why[WHY_MAX] = "";
        struct superblock s, ret;
        take(in, &s, sizeof(s));
        if (in->fix)
                fix_super(&s);
        int r = superblock_check(&s, &ret, why, sizeof(why));
        must_say(r, why);
        if (r < 0)
                return;
        uint64_t blocks = (uint64_t) ret.segments * ret.segment_blocks;
        MUST(ret.manifest_block + pages_of(ret.manifest_bytes) <= blocks);
        for (unsigned n = 0; n < SUPER_COPIES; n++)
                MUST(superblock_block(ret.segments, ret.segment_blocks, n) < blocks);
}

static bool manifest_super(Input *in, const struct manifest_head *h, size_t bytes, struct superblock *ret) {
        uint32_t geometry[2];
        uint64_t block;
        struct superblock s = { .version = STORE_VERSION, .number = 1, .manifest_bytes = (uint32_t) bytes };
        take(in, geometry, sizeof(geometry));
        take(in, &block, sizeof(block));
        s.segments = geometry[0];
        s.segment_blocks = geometry[1];
        s.manifest_block = block;
        s.generation = h->generation;
        memcpy(s.magic, STORE_MAGIC, sizeof(s.magic));
        memcpy(s.uuid, h->store, sizeof(s.uuid));
        s.manifest_crc = in->fix ? crc32c(0, h, bytes) : 0;
        fix_super(&s);
        return superblock_check(&s, ret, NULL, 0) == 0;
}

static void walk_strikes(const struct set_member *m) {
        const struct strike *s = member_strikes(m);
        MUST(m->strikes == 0 || m->map);
        for (uint32_t i = 0; i < m->strikes; i++)
                MUST(s[i].count > 0 && (i == 0 || s[i].block >= (uint64_t) s[i - 1].block + s[i - 1].count));
}

/* Each snapshot that names one finds it, in the order of the snapshots. */
static void walk_maps(const ManifestView *v) {
        const struct manifest_snapshot *s = v->snapshots;
        const struct manifest_run *map = v->maps;
        uint32_t n = 0;
        for (uint32_t i = 0; i < v->head->snapshots; i++, s = member_after(s))
                if (s->map) {
                        MUST(n++ < v->head->maps && map->number == s->map);
                        MUST(VOLBLOCK_VOLUME(map->first) == s->volume && VOLBLOCK_VOLUME(map->last) == s->volume);
                        map = run_after(map);
                }
}

static void walk_manifest(const uint8_t *manifest, size_t bytes, const struct superblock *s) {
        ManifestView v;
        manifest_view(manifest, &v);
        const struct manifest_volume *volume = v.volumes;
        for (uint32_t i = 0; i < v.head->volumes; i++, volume = volume_after(volume))
                sink += sum(volume, sizeof(*volume) + volume->name_bytes + volume->origin_bytes);
        const struct manifest_snapshot *snapshot = v.snapshots;
        for (uint32_t i = 0; i < v.head->snapshots; i++, snapshot = member_after(snapshot)) {
                sink += sum(snapshot, sizeof(*snapshot) + snapshot->label_bytes);
                MUST(manifest_volume_by_number(&v, snapshot->volume));
                walk_strikes(snapshot);
        }
        walk_maps(&v);
        const struct manifest_run *run = v.runs;
        for (uint32_t i = 0; i < v.head->runs + v.head->maps; i++, run = run_after(run))
                for (uint32_t k = 0; k < run->extents; k++)
                        MUST(run_extents(run)[k].segment < s->segments &&
                             v.table[run_extents(run)[k].segment].kind == SEGMENT_META);
        for (uint32_t i = 0; i < v.head->reserved; i++)
                MUST(v.reserved[i] < s->segments && v.table[v.reserved[i]].kind == SEGMENT_LOG);
        MUST((const uint8_t *) v.table + pad8(s->segments * sizeof(*v.table)) == manifest + bytes);
}

static void fuzz_manifest(Input *in) {
        char why[WHY_MAX] = "";
        struct superblock s;
        if (in->left < 16 + sizeof(struct manifest_head))
                return;
        size_t bytes = in->left - 16;
        _cleanup_free_ uint8_t *manifest = malloc(bytes); /* exactly, so that reading on is found */
        memcpy(manifest, in->at + 16, bytes);
        if (!manifest_super(in, (const struct manifest_head *) manifest, bytes, &s))
                return;
        int r = manifest_check(manifest, &s, why, sizeof(why));
        must_say(r, why);
        if (r == 0)
                walk_manifest(manifest, bytes, &s);
}

static void walk_record(const struct record_head *h, uint32_t blocks) {
        const struct set_member *m = (const struct set_member *) (h + 1);
        const struct descriptor *d = (const struct descriptor *) (h + 1);
        MUST(record_blocks(h) <= blocks);
        for (uint32_t i = 0; h->type == RECORD_SNAPSHOT && i < h->count; i++, m = member_after(m)) {
                sink += sum(m, sizeof(*m) + m->label_bytes);
                walk_strikes(m);
        }
        for (uint32_t i = 0; h->type == RECORD_PRESERVE && i < h->count; i++)
                MUST(d[i].flags & ENTRY_NO_PAYLOAD || d[i].payload < h->payload_blocks);
        uint32_t at = 0;
        while (record_payload_next_wrong(h, &at))
                at++;
        if (h->type != RECORD_PRESERVE && h->type != RECORD_SNAPSHOT)
                sink += sum(h + 1, h->count * sizeof(struct id_member));
}

static void fuzz_record(Input *in) {
        char why[WHY_MAX] = "";
        uint8_t n;
        take(in, &n, 1);
        uint32_t blocks = n % 8;
        _cleanup_free_ struct record_head *h = malloc(MAX_OF(blocks, 1u) * BLOCK_SIZE);
        take(in, h, MAX_OF(blocks, 1u) * BLOCK_SIZE);
        if (in->fix && blocks > 0 && (sizeof(*h) + (uint64_t) h->body_bytes + BLOCK_SIZE - 1) / BLOCK_SIZE <= blocks)
                fix_record(h);
        int r = record_check(h, blocks, why, sizeof(why));
        must_say(r, why);
        if (r == 0)
                walk_record(h, blocks);
}

static void fuzz_page(Input *in) {
        char why[WHY_MAX] = "";
        struct run_page p;
        take(in, &p, sizeof(p));
        if (in->fix)
                fix_page(&p);
        int r = run_page_check(&p, p.run, p.page, why, sizeof(why));
        must_say(r, why);
        for (uint32_t i = 1; r == 0 && i < p.entries; i++)
                MUST(p.entry[i - 1].volblock < p.entry[i].volblock ||
                     (p.entry[i - 1].volblock == p.entry[i].volblock && p.entry[i - 1].epoch < p.entry[i].epoch));
}

static void fuzz_map_page(Input *in) {
        char why[WHY_MAX] = "";
        struct run_page p;
        uint64_t end = 0;
        take(in, &p, sizeof(p));
        if (in->fix)
                fix_page(&p);
        int r = map_page_check(&p, p.run, p.page, why, sizeof(why));
        must_say(r, why);
        for (uint32_t i = 0; r == 0 && i < p.entries; i++) {
                uint64_t count = ENTRY_WHERE_BLOCK(p.entry[i].where);
                MUST(count > 0 && p.entry[i].volblock >= end);
                MUST(VOLBLOCK_BLOCK(p.entry[i].volblock) + count <= UINT32_MAX + 1ULL);
                end = p.entry[i].volblock + count;
        }
}

/* Pieces: where (4 bytes), how long (1), what. */
static void lay_over(Input *in, Made *m) {
        while (in->left > 5) {
                uint32_t where;
                uint8_t length;
                take(in, &where, sizeof(where));
                take(in, &length, 1);
                size_t n = MIN_OF((size_t) length, in->left);
                where %= (uint32_t) (m->size - 256);
                take(in, m->bytes + where, n);
        }
}

static void fuzz_store(Input *in) {
        static Made example;
        static Made m;
        Check c = { 0 };
        if (!example.bytes) {
                made_example(&example);
                made_copy(&example, &m);
        }
        memcpy(m.bytes, example.bytes, example.size);
        lay_over(in, &m);
        if (in->fix) {
                for (unsigned k = 0; k < ELEMENTSOF(m.run_page); k++)
                        fix_page((struct run_page *) made_at(&m, m.run_page[k]));
                for (unsigned k = 0; k < ELEMENTSOF(m.map_page); k++)
                        fix_page((struct run_page *) made_at(&m, m.map_page[k]));
                for (unsigned k = 0; k < ELEMENTSOF(m.record); k++) {
                        struct record_head *h = (struct record_head *) made_at(&m, m.record[k]);
                        if (h->body_bytes < 5 * BLOCK_SIZE)
                                fix_record(h);
                }
                fix_manifest(&m);
        }
        MUST(check_store(&c, &m.source) == 0);
        MUST(c.n_findings == MIN_OF(c.damages + c.notes, (uint64_t) CHECK_FINDINGS_MAX));
        check_done(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        if (size < 2)
                return 0;
        Input in = { .at = data + 2, .left = size - 2, .fix = data[1] & 1 };
        switch (data[0]) {
        case 's':
                fuzz_superblock(&in);
                break;
        case 'm':
                fuzz_manifest(&in);
                break;
        case 'r':
                fuzz_record(&in);
                break;
        case 'p':
                fuzz_page(&in);
                break;
        case 'f':
                fuzz_map_page(&in);
                break;
        case 'x':
                fuzz_store(&in);
                break;
        }
        return 0;
}

#ifndef FUZZING
/* The example's own pieces, to begin with; see tests/fuzz. */
static void seed(const char *directory, const char *name, char parser, const void *head, size_t head_bytes,
                 const void *bytes, size_t n) {
        char path[4096];
        char begin[2] = { parser, 1 };
        (void) snprintf(path, sizeof(path), "%s/%s", directory, name);
        FILE *f = fopen(path, "we");
        MUST(f && fwrite(begin, 1, 2, f) == 2 && fwrite(head, 1, head_bytes, f) == head_bytes &&
             fwrite(bytes, 1, n, f) == n && fclose(f) == 0);
}

static void seeds(const char *directory) {
        Made m;
        char name[32];
        uint32_t geometry[4] = { MADE_SEGMENTS, MADE_SEGMENT_BLOCKS, 0, 0 };
        uint8_t blocks = 7;
        static const uint8_t pieces[] = { 0x48, 0x10, 1, 0, 4, 1, 2, 3, 4, 0, 0x40, 1, 0, 2, 7, 7 };
        made_example(&m);
        geometry[2] = (uint32_t) m.manifest_block;
        seed(directory, "superblock", 's', "", 0, made_at(&m, 0), 104);
        seed(directory, "manifest", 'm', geometry, sizeof(geometry), made_at(&m, m.manifest_block), m.manifest_bytes);
        seed(directory, "page", 'p', "", 0, made_at(&m, m.run_page[2]), 40 + 5 * sizeof(struct run_entry));
        seed(directory, "map-page", 'f', "", 0, made_at(&m, m.map_page[0]), BLOCK_SIZE);
        seed(directory, "map-page-short", 'f', "", 0, made_at(&m, m.map_page[2]), 40 + 2 * sizeof(struct run_entry));
        seed(directory, "store", 'x', pieces, sizeof(pieces), "", 0);
        for (unsigned k = 0; k < ELEMENTSOF(m.record); k++) {
                const struct record_head *h = (const struct record_head *) made_at(&m, m.record[k]);
                (void) snprintf(name, sizeof(name), "record-%u", k);
                seed(directory, name, 'r', &blocks, 1, h, sizeof(*h) + h->body_bytes);
        }
        made_done(&m);
}

int main(int argc, char **argv) {
        if (argc == 2) {
                seeds(argv[1]);
                return 0;
        }
        return replay_corpus("cow-store", 20);
}
#endif
