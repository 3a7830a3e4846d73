/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Superblocks, manifest, volumes, snapshots, runs, maps, log and segments, each as it lies in the store. */
#include "providers/cow/dump.h"
#include "providers/cow/parse.h"
#include <stdio.h>

/* --- values ------------------------------------------------------------------------------------------------------- */

static void add_number(json_object *o, const char *key, uint64_t n) {
        json_object_object_add(o, key, json_object_new_uint64(n));
}

static void add_text(json_object *o, const char *key, const char *text) {
        json_object_object_add(o, key, json_object_new_string(text));
}

static void add_hex(json_object *o, const char *key, uint32_t n) {
        char text[16];
        (void) snprintf(text, sizeof(text), "%08x", n);
        add_text(o, key, text);
}

static void add_uuid(json_object *o, const char *key, const uint8_t uuid[16]) {
        char text[UUID_TEXT];
        add_text(o, key, uuid_text(uuid, text));
}

/* What is no text is shown as such: names and labels come from outside. */
static void add_bytes(json_object *o, const char *key, const char *bytes, size_t n) {
        char text[4 * (size_t) (ORIGIN_PATH_MAX + 1)];
        size_t used = 0;
        for (size_t i = 0; i < n && used + 5 < sizeof(text); i++) {
                uint8_t b = (uint8_t) bytes[i];
                if (b < 0x20 || b >= 0x7f || b == '\\')
                        used += (size_t) snprintf(text + used, sizeof(text) - used, "\\x%02x", b);
                else
                        text[used++] = (char) b;
        }
        text[used] = '\0';
        add_text(o, key, text);
}

static void add_flags(json_object *o, uint32_t flags, const char *const *words, unsigned n) {
        json_object *list = json_object_new_array();
        for (unsigned i = 0; i < n; i++)
                if (flags >> i & 1)
                        json_object_array_add(list, json_object_new_string(words[i]));
        json_object_object_add(o, "flags", list);
}

static void add_volblock(json_object *o, const char *key, uint64_t volblock) {
        char text[48];
        (void) snprintf(text, sizeof(text), "%u:%lu", VOLBLOCK_VOLUME(volblock), (uint64_t) VOLBLOCK_BLOCK(volblock));
        add_text(o, key, text);
}

static const char *const entry_words[] = { "zero", "bad", "moved", "free" };
static const char *const snapshot_words[] = { "pending", "persistent", "frozen", "damaged", "unverified" };
static const char *const volume_words[] = { "attached" };

/* --- superblocks and manifest ------------------------------------------------------------------------------------- */

static json_object *superblock_object(const struct superblock *s) {
        json_object *o = json_object_new_object();
        add_number(o, "number", s->number);
        add_uuid(o, "uuid", s->uuid);
        add_number(o, "version", s->version);
        add_number(o, "compat", s->compat);
        add_number(o, "ro_compat", s->ro_compat);
        add_number(o, "incompat", s->incompat);
        add_number(o, "segments", s->segments);
        add_number(o, "segment_blocks", s->segment_blocks);
        add_number(o, "manifest_block", s->manifest_block);
        add_number(o, "manifest_bytes", s->manifest_bytes);
        add_hex(o, "manifest_crc", s->manifest_crc);
        add_number(o, "generation", s->generation);
        add_text(o, "state", state_text(s->state));
        return o;
}

void dump_superblocks(Dump *d, const Image *i) {
        dump_begin(d, "superblocks", true);
        for (unsigned n = 0; n < SUPER_COPIES; n++) {
                const ImageCopy *c = &i->copies[n];
                if (!c->valid) {
                        dump_bad(d, "superblock", c->block, c->why);
                        continue;
                }
                json_object *o = superblock_object(&c->super);
                add_number(o, "copy", n);
                add_number(o, "block", c->block);
                json_object_object_add(o, "counts", json_object_new_boolean(&c->super == i->super));
                dump_item(d, "superblock", o);
        }
        dump_end(d, true);
}

void dump_manifest(Dump *d, const Image *i) {
        static const char *const policies[] = { "drop-oldest", "drop-all", "fail-writes" };
        const struct manifest_head *h = i->view.head;
        json_object *o = json_object_new_object(), *reserved = json_object_new_array();
        add_number(o, "block", i->super->manifest_block);
        add_number(o, "bytes", i->super->manifest_bytes);
        add_uuid(o, "store", h->store);
        add_number(o, "generation", h->generation);
        add_number(o, "next_sequence", h->next_sequence);
        add_number(o, "next_run", h->next_run);
        add_number(o, "epoch", h->epoch);
        add_number(o, "next_volume", h->next_volume);
        add_number(o, "replay_block", h->replay_block);
        add_number(o, "meta_segment", h->meta_segment);
        add_number(o, "meta_block", h->meta_block);
        add_number(o, "volumes", h->volumes);
        add_number(o, "snapshots", h->snapshots);
        add_number(o, "runs", h->runs);
        add_number(o, "maps", h->maps);
        add_number(o, "segments", h->segments);
        add_text(o, "policy", policies[h->policy]);
        for (uint32_t k = 0; k < h->reserved; k++)
                json_object_array_add(reserved, json_object_new_uint64(i->view.reserved[k]));
        json_object_object_add(o, "reserved", reserved);
        dump_begin(d, "manifest", false);
        dump_item(d, "manifest", o);
        dump_end(d, false);
}

void dump_volumes(Dump *d, const Image *i) {
        const struct manifest_volume *m = i->view.volumes;
        dump_begin(d, "volumes", true);
        for (uint32_t k = 0; k < i->view.head->volumes; k++, m = volume_after(m)) {
                json_object *o = json_object_new_object();
                add_number(o, "number", m->number);
                add_bytes(o, "name", volume_name(m), m->name_bytes);
                add_uuid(o, "uuid", m->uuid);
                add_number(o, "bytes", m->bytes);
                add_number(o, "tag", m->tag);
                add_flags(o, m->flags, volume_words, ELEMENTSOF(volume_words));
                add_bytes(o, "origin", volume_name(m) + m->name_bytes, m->origin_bytes);
                dump_item(d, "volume", o);
        }
        dump_end(d, true);
}

static json_object *extent_object(uint64_t block, uint64_t count) {
        json_object *o = json_object_new_object();
        add_number(o, "block", block);
        add_number(o, "count", count);
        return o;
}

static json_object *strikes_list(const struct set_member *m) {
        json_object *list = json_object_new_array();
        for (uint32_t i = 0; i < m->strikes; i++)
                json_object_array_add(list, extent_object(member_strikes(m)[i].block, member_strikes(m)[i].count));
        return list;
}

static json_object *snapshot_object(const ManifestView *v, const struct set_member *m) {
        json_object *o = json_object_new_object();
        char name[VOLUME_NAME_MAX + 1];
        add_uuid(o, "id", m->snapshot);
        add_uuid(o, "set", m->set);
        add_number(o, "volume", m->volume);
        add_text(o, "name", volume_text(v, m->volume, name));
        add_number(o, "epoch", m->epoch);
        add_number(o, "created_usec", m->created_usec);
        add_flags(o, m->flags, snapshot_words, ELEMENTSOF(snapshot_words));
        add_bytes(o, "label", (const char *) (m + 1), m->label_bytes);
        add_number(o, "map", m->map);
        json_object_object_add(o, "strikes", strikes_list(m));
        return o;
}

void dump_snapshots(Dump *d, const Image *i) {
        const struct manifest_snapshot *m = i->view.snapshots;
        dump_begin(d, "snapshots", true);
        for (uint32_t k = 0; k < i->view.head->snapshots; k++, m = member_after(m))
                dump_item(d, "snapshot", snapshot_object(&i->view, m));
        dump_end(d, true);
}

/* --- runs and maps ------------------------------------------------------------------------------------------------ */

static void add_pieces(json_object *o, const struct manifest_run *m, uint32_t segment_blocks) {
        json_object *pieces = json_object_new_array();
        for (uint32_t k = 0; k < m->extents; k++) {
                json_object *x = json_object_new_object();
                add_number(x, "block", (uint64_t) run_extents(m)[k].segment * segment_blocks + run_extents(m)[k].block);
                add_number(x, "pages", run_extents(m)[k].pages);
                json_object_array_add(pieces, x);
        }
        json_object_object_add(o, "pieces", pieces);
}

static json_object *run_object(const struct manifest_run *m, uint32_t segment_blocks) {
        json_object *o = json_object_new_object();
        add_number(o, "number", m->number);
        add_number(o, "level", m->level);
        add_number(o, "entries", m->entries);
        add_number(o, "pages", m->pages);
        add_volblock(o, "first", m->first);
        add_volblock(o, "last", m->last);
        add_number(o, "min_epoch", m->min_epoch);
        add_number(o, "max_epoch", m->max_epoch);
        add_pieces(o, m, segment_blocks);
        return o;
}

static json_object *map_object(const struct manifest_run *m, const struct manifest_snapshot *owner,
                               uint32_t segment_blocks) {
        json_object *o = json_object_new_object();
        add_number(o, "number", m->number);
        if (owner)
                add_uuid(o, "snapshot", owner->snapshot);
        else
                json_object_object_add(o, "snapshot", NULL);
        add_number(o, "entries", m->entries);
        add_number(o, "pages", m->pages);
        add_volblock(o, "first", m->first);
        add_volblock(o, "last", m->last);
        add_pieces(o, m, segment_blocks);
        return o;
}

void dump_runs(Dump *d, const Image *i) {
        const struct manifest_run *m = i->view.runs;
        dump_begin(d, "runs", true);
        for (uint32_t k = 0; k < i->view.head->runs; k++, m = run_after(m))
                dump_item(d, "run", run_object(m, i->super->segment_blocks));
        dump_end(d, true);
}

/* Of the manifest; NULL: none of these. */
static const struct manifest_snapshot *map_owner(const ManifestView *v, uint64_t number) {
        const struct manifest_snapshot *s = v->snapshots;
        for (uint32_t i = 0; i < v->head->snapshots; i++, s = member_after(s))
                if (s->map == number)
                        return s;
        return NULL;
}

void dump_maps(Dump *d, const Image *i) {
        const struct manifest_run *m = i->view.maps;
        dump_begin(d, "maps", true);
        for (uint32_t k = 0; k < i->view.head->maps; k++, m = run_after(m))
                dump_item(d, "map", map_object(m, map_owner(&i->view, m->number), i->super->segment_blocks));
        dump_end(d, true);
}

static void dump_entry(Dump *d, const struct run_entry *e) {
        json_object *o = json_object_new_object();
        unsigned flags = ENTRY_WHERE_FLAGS(e->where);
        add_volblock(o, "volblock", e->volblock);
        add_number(o, "epoch", e->epoch);
        add_flags(o, flags, entry_words, ELEMENTSOF(entry_words));
        if (!(flags & ENTRY_NO_PAYLOAD)) {
                add_number(o, "block", ENTRY_WHERE_BLOCK(e->where));
                add_hex(o, "crc", e->crc);
        }
        dump_item(d, "entry", o);
}

static void dump_page(Dump *d, bool map, const struct run_page *p) {
        for (uint32_t k = 0; k < p->entries; k++) {
                const struct run_entry *e = &p->entry[k];
                if (map)
                        dump_item(d, "extent", extent_object(VOLBLOCK_BLOCK(e->volblock), ENTRY_WHERE_BLOCK(e->where)));
                else
                        dump_entry(d, e);
        }
}

bool dump_run(Dump *d, const Image *i, uint64_t number) {
        const struct manifest_run *m = i->view.runs;
        uint32_t k = 0, page = 0, n = i->view.head->runs + i->view.head->maps;
        char why[WHY_MAX];
        while (k < n && m->number != number) {
                m = run_after(m);
                k++;
        }
        _cleanup_free_ struct run_page *p = source_buffer(1);
        bool map = k >= i->view.head->runs;
        if (k == n || !p)
                return false;
        dump_begin(d, map ? "extents" : "entries", true);
        for (uint32_t x = 0; x < m->extents; x++)
                for (uint32_t at = 0; at < run_extents(m)[x].pages; at++, page++) {
                        const struct run_extent *piece = &run_extents(m)[x];
                        uint64_t block = (uint64_t) piece->segment * i->super->segment_blocks + piece->block + at;
                        int r = source_read(i->source, block, 1, p);
                        (void) snprintf(why, sizeof(why), "page %u cannot be read", page);
                        r = r < 0 ? r :
                            map   ? map_page_check(p, number, page, why, sizeof(why)) :
                                    run_page_check(p, number, page, why, sizeof(why));
                        if (r < 0)
                                dump_bad(d, "page", block, why);
                        else
                                dump_page(d, map, p);
                }
        dump_end(d, true);
        return true;
}

/* --- log ---------------------------------------------------------------------------------------------------------- */

static json_object *descriptor_object(const struct descriptor *m) {
        json_object *o = json_object_new_object();
        add_volblock(o, "volblock", m->volblock);
        add_number(o, "epoch", m->epoch);
        add_flags(o, m->flags, entry_words, ELEMENTSOF(entry_words));
        if (!(m->flags & ENTRY_NO_PAYLOAD)) {
                add_number(o, "payload", m->payload);
                add_hex(o, "crc", m->crc);
        }
        return o;
}

static json_object *body_list(const ManifestView *v, const struct record_head *h) {
        json_object *list = json_object_new_array();
        const struct set_member *m = (const struct set_member *) (h + 1);
        const struct descriptor *descriptors = (const struct descriptor *) (h + 1);
        const struct id_member *ids = (const struct id_member *) (h + 1);
        char id[UUID_TEXT];
        for (uint32_t i = 0; i < h->count; i++) {
                if (h->type == RECORD_PRESERVE)
                        json_object_array_add(list, descriptor_object(&descriptors[i]));
                else if (h->type == RECORD_SNAPSHOT)
                        json_object_array_add(list, snapshot_object(v, m));
                else
                        json_object_array_add(list, json_object_new_string(uuid_text(ids[i].snapshot, id)));
                if (h->type == RECORD_SNAPSHOT)
                        m = member_after(m);
        }
        return list;
}

typedef struct LogDump {
        Dump *dump;
        const Image *image;
} LogDump;

static void dump_record(void *userdata, const LogRecord *r) {
        LogDump *l = userdata;
        const struct record_head *h = r->head;
        json_object *o = json_object_new_object();
        add_number(o, "sequence", h->sequence);
        add_text(o, "type", record_type_text(h->type));
        add_number(o, "block", r->block);
        add_number(o, "durable_upto", h->durable_upto);
        add_number(o, "super_number", h->super_number);
        add_number(o, "payload_blocks", h->payload_blocks);
        json_object_object_add(o, "payload_right", json_object_new_boolean(r->payload_right));
        json_object_object_add(o, "body", body_list(&l->image->view, h));
        dump_item(l->dump, "record", o);
}

int dump_log(Dump *d, const Image *i) {
        LogDump l = { d, i };
        LogEnd end;
        dump_begin(d, "log", true);
        int r = image_log(i, dump_record, &l, &end);
        if (r == 0) {
                json_object *o = json_object_new_object();
                add_text(o, "end", end.gone ? "damaged" : end.torn ? "torn" : "complete");
                add_number(o, "block", end.block);
                add_number(o, "durable_upto", end.durable);
                add_text(o, "why", end.why);
                dump_item(d, "end", o);
                d->damaged = d->damaged || end.gone;
        }
        dump_end(d, true);
        return r;
}

void dump_segments(Dump *d, const Image *i) {
        dump_begin(d, "segments", true);
        for (uint32_t k = 0; k < i->super->segments; k++) {
                const struct manifest_segment *t = &i->view.table[k];
                json_object *o = json_object_new_object();
                add_number(o, "number", k);
                add_text(o, "kind", segment_kind_text(t->kind));
                add_number(o, "live", t->live);
                dump_item(d, "segment", o);
        }
        dump_end(d, true);
}
