/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The manifest: everything but the log and the runs' pages, as one string of bytes. What is
 * read here has passed manifest_check().
 */
#include "providers/cow/freemap.h"
#include "providers/cow/walk.h"

static size_t padded(size_t n) {
        return (n + 7) / 8 * 8;
}

static size_t volume_size(const Volume *v) {
        return sizeof(struct manifest_volume) + padded(strlen(v->name) + strlen(v->origin));
}

static size_t copy_size(const Copy *c) {
        return sizeof(struct manifest_snapshot) + padded(strlen(c->label)) +
               (c->map ? c->map->n_strikes * sizeof(struct strike) : 0);
}

static size_t run_size(const Run *r) {
        return sizeof(struct manifest_run) + r->n_extents * sizeof(struct run_extent);
}

static size_t lists_size(const Engine *e, const RunSet *runs, uint32_t reserved) {
        const Volume *v;
        const Copy *s;
        const FreeMap *m;
        size_t n = sizeof(struct manifest_head);
        TAILQ_FOREACH(v, &e->volumes, link)
                n += volume_size(v);
        TAILQ_FOREACH(s, &e->copies, link)
                if (!s->dropped)
                        n += copy_size(s);
        for (uint32_t i = 0; i < runs->n; i++)
                n += run_size(runs->runs[i]);
        TAILQ_FOREACH(m, &e->maps, link)
                if (m->state == FREEMAP_NAMED)
                        n += run_size(m->run);
        return n + padded(reserved * sizeof(uint32_t)) + padded(e->n_segments * sizeof(struct manifest_segment));
}

size_t manifest_bytes(const Engine *e) {
        return lists_size(e, e->runs, e->list_n);
}

uint32_t manifest_size(const Engine *e) {
        const Checkpoint *c = &e->checkpoint;
        size_t n = lists_size(e, c->set, c->list_n - c->list_dropped);
        assert(n <= UINT32_MAX);
        return (uint32_t) n;
}

static uint8_t *write_volume(uint8_t *at, const Volume *v) {
        size_t name = strlen(v->name), origin = strlen(v->origin);
        struct manifest_volume *m = (struct manifest_volume *) at;
        *m = (struct manifest_volume) {
                .number = v->number,
                .tag = v->tag,
                .bytes = v->bytes,
                .flags = v->flags,
                .name_bytes = (uint16_t) name,
                .origin_bytes = (uint16_t) origin,
        };
        memcpy(m->uuid, v->uuid, sizeof(m->uuid));
        memcpy(m->stamp, v->stamp, sizeof(m->stamp));
        memcpy(m + 1, v->name, name);
        memcpy((uint8_t *) (m + 1) + name, v->origin, origin);
        return at + volume_size(v);
}

static uint8_t *write_copy(uint8_t *at, const Copy *c) {
        size_t label = strlen(c->label);
        struct manifest_snapshot *m = (struct manifest_snapshot *) at;
        *m = (struct manifest_snapshot) {
                .volume = c->volume->number,
                .epoch = c->epoch,
                .created_usec = c->created_usec,
                .flags = c->flags,
                .label_bytes = (uint16_t) label,
                .strikes = c->map ? (uint16_t) c->map->n_strikes : 0,
                .map = c->map ? c->map->run->number : 0,
        };
        memcpy(m->snapshot, c->id, sizeof(m->snapshot));
        memcpy(m->set, c->set, sizeof(m->set));
        memcpy(m + 1, c->label, label);
        if (c->map)
                memcpy((uint8_t *) (m + 1) + padded(label), c->map->strikes, c->map->n_strikes * sizeof(struct strike));
        return at + copy_size(c);
}

static uint8_t *write_run(uint8_t *at, const Run *r) {
        struct manifest_run *m = (struct manifest_run *) at;
        *m = (struct manifest_run) {
                .number = r->number,
                .entries = r->entries,
                .first = r->first,
                .last = r->last,
                .min_epoch = r->min_epoch,
                .max_epoch = r->max_epoch,
                .pages = r->pages,
                .extents = r->n_extents,
                .level = r->level,
        };
        memcpy(m + 1, r->extents, r->n_extents * sizeof(struct run_extent));
        return at + run_size(r);
}

/* Those of the snapshots in their order, then those that wait for one. */
static uint8_t *write_maps(const Engine *e, uint8_t *at, uint32_t *ret_n) {
        const Copy *s;
        const FreeMap *m;
        *ret_n = 0;
        TAILQ_FOREACH(s, &e->copies, link)
                if (!s->dropped && s->map) {
                        at = write_run(at, s->map->run);
                        (*ret_n)++;
                }
        TAILQ_FOREACH(m, &e->maps, link)
                if (m->state == FREEMAP_NAMED && !m->linked) {
                        at = write_run(at, m->run);
                        (*ret_n)++;
                }
        return at;
}

static void write_table(const Engine *e, struct manifest_segment *table) {
        for (uint32_t i = 0; i < e->n_segments; i++) {
                const Segment *s = &e->segments[i];
                bool is_free = s->releasing || s->kind == SEGMENT_FREE;
                table[i] = (struct manifest_segment) {
                        .kind = is_free ? SEGMENT_FREE : s->kind,
                        /* a store from elsewhere may count wrongly */
                        .live = is_free ? 0 : (uint16_t) MIN_OF(s->live_runs, e->segment_blocks),
                };
        }
}

void manifest_write(const Engine *e, uint8_t *buffer, uint32_t bytes) {
        const Checkpoint *c = &e->checkpoint;
        struct manifest_head *h = (struct manifest_head *) buffer;
        uint8_t *at = buffer + sizeof(*h);
        const Volume *v;
        const Copy *s;

        *h = (struct manifest_head) {
                .magic = MANIFEST_MAGIC,
                .version = STORE_VERSION,
                .generation = e->generation,
                .next_sequence = c->replay_sequence,
                .next_run = e->next_run,
                .epoch = e->epoch,
                .next_volume = e->next_volume,
                .replay_block = c->replay_block,
                .meta_segment = e->meta.segment,
                .meta_block = e->meta.block,
                .runs = c->set->n,
                .reserved = c->list_n - c->list_dropped,
                .segments = e->n_segments,
                .policy = e->policy,
        };
        memcpy(h->store, e->uuid, sizeof(h->store));
        TAILQ_FOREACH(v, &e->volumes, link) {
                at = write_volume(at, v);
                h->volumes++;
        }
        TAILQ_FOREACH(s, &e->copies, link)
                if (!s->dropped) {
                        at = write_copy(at, s);
                        h->snapshots++;
                }
        for (uint32_t i = 0; i < c->set->n; i++)
                at = write_run(at, c->set->runs[i]);
        at = write_maps(e, at, &h->maps);
        memcpy(at, e->list + c->list_dropped, h->reserved * sizeof(uint32_t));
        at += padded(h->reserved * sizeof(uint32_t));
        write_table(e, (struct manifest_segment *) at);
        at += padded(e->n_segments * sizeof(struct manifest_segment));
        assert(at == buffer + bytes);
        (void) bytes;
}

/* --- reading -------------------------------------------------------------------------------------------------------
 */

static int load_volume(Engine *e, const uint8_t **at) {
        const struct manifest_volume *m = (const struct manifest_volume *) *at;
        const char *name = (const char *) (m + 1);
        Volume *v;
        int r = volume_new(e, name, m->name_bytes, name + m->name_bytes, m->origin_bytes, m->bytes, &v);
        if (r < 0)
                return r;
        memcpy(v->uuid, m->uuid, sizeof(v->uuid));
        memcpy(v->stamp, m->stamp, sizeof(v->stamp));
        v->number = m->number;
        v->tag = m->tag;
        v->flags = m->flags & VOLUME_KNOWN;
        volume_link(e, v);
        *at += sizeof(*m) + padded((size_t) m->name_bytes + m->origin_bytes);
        return 0;
}

static int load_copy(Engine *e, const uint8_t **at, bool wanted) {
        const struct manifest_snapshot *m = (const struct manifest_snapshot *) *at;
        Volume *v = engine_volume_by_number(e, m->volume);
        Copy *c;
        *at = (const uint8_t *) member_after(m);
        if (!wanted)
                return 0;
        if (!v || v->n_epochs == EPOCHS_MAX || copy_find(e, m->snapshot))
                return -EUCLEAN;
        int r = copy_new(m, (const char *) (m + 1), m->label_bytes, &c);
        if (r == 0)
                copy_link(e, c, v);
        return r;
}

/* Snapshots that have one find theirs in their order; see walk.c. */
static int maps_give(Engine *e, const struct manifest_head *h, const struct manifest_snapshot *s) {
        FreeMap *m = TAILQ_FIRST(&e->maps);
        int r = 0;
        for (uint32_t i = 0; r == 0 && i < h->snapshots; i++, s = member_after(s)) {
                Copy *c = s->map ? copy_find(e, s->snapshot) : NULL;
                if (!s->map)
                        continue;
                r = !m ? -EUCLEAN : c ? freemap_give(m, c, member_strikes(s), s->strikes) : 0;
                m = m ? TAILQ_NEXT(m, link) : NULL;
        }
        return r;
}

static int load_run(Engine *e, const uint8_t **at, Run **ret) {
        const struct manifest_run *m = (const struct manifest_run *) *at;
        const struct run_extent *x = (const struct run_extent *) (m + 1);
        Run *run;
        int r = run_new(&run);
        if (r < 0)
                return r;
        *ret = run;
        run->number = m->number;
        run->entries = m->entries;
        run->first = m->first;
        run->last = m->last;
        run->min_epoch = m->min_epoch;
        run->max_epoch = m->max_epoch;
        run->level = m->level;
        for (uint32_t i = 0; r == 0 && i < m->extents; i++)
                r = run_add_extent(run, &x[i]);
        *at += sizeof(*m) + m->extents * sizeof(*x);
        if (r < 0)
                return r;
        run_pin(e, run);
        return run_alloc_fences(run, run->pages);
}

static int load_runs(Engine *e, uint32_t n, const uint8_t **at) {
        RunSet *set;
        int r = runset_new(e, n, &set);
        for (uint32_t i = 0; r == 0 && i < n; i++)
                r = load_run(e, at, &set->runs[i]);
        if (r < 0)
                return r;
        (void) runset_unref(e, e->runs);
        e->runs = set;
        return 0;
}

static int load_maps(Engine *e, uint32_t n, const uint8_t **at) {
        int r = 0;
        for (uint32_t i = 0; r == 0 && i < n; i++) {
                Run *run = NULL;
                FreeMap *m;
                r = load_run(e, at, &run);
                r = r < 0 ? r : freemap_new(e, engine_volume_by_number(e, VOLBLOCK_VOLUME(run->first)), run, &m);
                if (r < 0)
                        (void) run_unref(e, run);
                else
                        m->state = FREEMAP_NAMED;
        }
        return r;
}

static void pages_count(Engine *e, const Run *r) {
        for (uint32_t k = 0; k < r->n_extents; k++)
                e->segments[r->extents[k].segment].live_mem += r->extents[k].pages;
}

/* Pages that runs and manifest say they have, against what the table says; nobody may point to pages it does not know.
 */
static int pages_check(Engine *e, const struct manifest_segment *table) {
        const FreeMap *m;
        for (uint32_t i = 0; i < e->runs->n; i++)
                pages_count(e, e->runs->runs[i]);
        TAILQ_FOREACH(m, &e->maps, link)
                pages_count(e, m->run);
        e->segments[e->manifest.place.segment].live_mem += e->manifest.place.pages;
        int r = 0;
        for (uint32_t i = 0; i < e->n_segments; i++) {
                uint32_t pages = e->segments[i].live_mem;
                e->segments[i].live_mem = 0;
                if (pages != (table[i].kind == SEGMENT_META ? table[i].live : 0u))
                        r = -EUCLEAN;
        }
        return r;
}

static void load_segments(Engine *e, const uint32_t *reserved, uint32_t n, const struct manifest_segment *table) {
        for (uint32_t i = 0; i < e->n_segments; i++) {
                e->segments[i].kind = table[i].kind;
                e->segments[i].live_runs = table[i].live;
        }
        for (uint32_t i = 0; i < n; i++) {
                e->list[i] = reserved[i];
                e->segments[reserved[i]].reserved = true;
        }
        e->list_n = e->list_durable = n;
        for (uint32_t i = 0; i < e->n_segments; i++) {
                Segment *s = &e->segments[i];
                bool used = s->kind == SEGMENT_SUPER || s->reserved || s->live_runs > 0 || i == e->meta.segment;
                if (!used)
                        s->kind = SEGMENT_FREE; /* taken for something that was not finished */
                if (s->kind == SEGMENT_FREE)
                        e->free_segments++;
        }
}

int manifest_load(Engine *e, const uint8_t *manifest) {
        const struct manifest_head *h = (const struct manifest_head *) manifest;
        const uint8_t *at = manifest + sizeof(*h);
        int r = 0;
        e->generation = h->generation;
        e->next_sequence = h->next_sequence;
        e->durable = h->next_sequence - 1;
        e->next_run = h->next_run;
        e->epoch = h->epoch;
        e->next_volume = h->next_volume;
        e->log_block = h->replay_block;
        e->meta.segment = h->meta_segment;
        e->meta.block = h->meta_block;
        e->policy = h->policy;
        for (uint32_t i = 0; r == 0 && i < h->volumes; i++)
                r = load_volume(e, &at);
        const struct manifest_snapshot *snapshots = (const struct manifest_snapshot *) at;
        for (uint32_t i = 0; r == 0 && i < h->snapshots; i++)
                r = load_copy(e, &at, !e->lost);
        r = r < 0 ? r : load_runs(e, h->runs, &at);
        r = r < 0 ? r : load_maps(e, h->maps, &at);
        r = r < 0 ? r : maps_give(e, h, snapshots);
        if (r < 0)
                return r;
        const uint32_t *reserved = (const uint32_t *) at;
        at += padded(h->reserved * sizeof(uint32_t));
        r = pages_check(e, (const struct manifest_segment *) at);
        if (r == 0)
                load_segments(e, reserved, h->reserved, (const struct manifest_segment *) at);
        return r;
}
