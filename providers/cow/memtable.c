/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was preserved since the last checkpoint. A skip list, because it is asked three ways: "the smallest epoch >= s
 * of this block" by every read of a copy, "all of this range" when bits are loaded, and "everything in order" when it
 * becomes a run. A hash would have to be sorted for the last, which stops the volume for milliseconds.
 */
#include "providers/cow/core.h"

int memtable_init(Memtable *m, uint32_t capacity) {
        m->capacity = capacity + 1;
        m->arena = calloc(m->capacity, sizeof(MemEntry));
        if (!m->arena)
                return -ENOMEM;
        m->random = 0x9e3779b9;
        memtable_clear(m);
        return 0;
}

void memtable_done(Memtable *m) {
        free(m->arena);
        m->arena = NULL;
}

void memtable_clear(Memtable *m) {
        m->used = 1;
        memset(m->arena[0].next, 0, sizeof(m->arena[0].next));
}

static int compare_at(const Memtable *m, uint32_t i, uint64_t volblock, uint32_t epoch) {
        const struct run_entry *e = &m->arena[i].entry;
        return entry_compare(e->volblock, e->epoch, volblock, epoch);
}

/* In before[l] the last of level l that is smaller. Returns the first that is not, or 0. */
static uint32_t search(const Memtable *m, uint64_t volblock, uint32_t epoch, uint32_t before[static MEMTABLE_LEVELS]) {
        uint32_t at = 0;
        for (int l = MEMTABLE_LEVELS - 1; l >= 0; l--) {
                while (m->arena[at].next[l] && compare_at(m, m->arena[at].next[l], volblock, epoch) < 0)
                        at = m->arena[at].next[l];
                before[l] = at;
        }
        return m->arena[at].next[0];
}

/* Every fourth one is on the next level too; a fixed start, so that a run of the simulator can be repeated. */
static unsigned random_levels(Memtable *m) {
        m->random ^= m->random << 13;
        m->random ^= m->random >> 17;
        m->random ^= m->random << 5;
        unsigned levels = 1;
        for (uint32_t r = m->random; levels < MEMTABLE_LEVELS && (r & 3) == 0; r >>= 2)
                levels++;
        return levels;
}

void memtable_insert(Memtable *m, const struct run_entry *e, uint64_t *ret_replaced_where) {
        uint32_t before[MEMTABLE_LEVELS], at = search(m, e->volblock, e->epoch, before);

        *ret_replaced_where = 0;
        if (at && compare_at(m, at, e->volblock, e->epoch) == 0) {
                *ret_replaced_where = m->arena[at].entry.where;
                m->arena[at].entry = *e;
                return;
        }
        assert(!memtable_full(m));
        uint32_t i = m->used++;
        m->arena[i].entry = *e;
        m->arena[i].written = false;
        for (unsigned l = 0, n = random_levels(m); l < n; l++) {
                m->arena[i].next[l] = m->arena[before[l]].next[l];
                m->arena[before[l]].next[l] = i;
        }
}

const struct run_entry *memtable_find(const Memtable *m, uint64_t volblock, uint32_t epoch) {
        uint32_t before[MEMTABLE_LEVELS], at = search(m, volblock, epoch, before);
        return at ? &m->arena[at].entry : NULL;
}

const struct run_entry *memtable_first(const Memtable *m) {
        return m->arena[0].next[0] ? &m->arena[m->arena[0].next[0]].entry : NULL;
}

const struct run_entry *memtable_next(const Memtable *m, const struct run_entry *e) {
        const MemEntry *i = container_of(e, const MemEntry, entry);
        return i->next[0] ? &m->arena[i->next[0]].entry : NULL;
}

void memtable_mark(const struct run_entry *e) {
        MemEntry *i = (MemEntry *) (uintptr_t) container_of(e, const MemEntry, entry);
        i->written = true;
}

bool memtable_is_marked(const struct run_entry *e) {
        return container_of(e, const MemEntry, entry)->written;
}
