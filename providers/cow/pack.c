/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A segment of which most blocks are dead is emptied by moving the rest. That is done while all runs are merged,
 * because then every entry passes by once and is written anew anyway: its block is copied to a fresh segment, and the
 * new run points there. Nothing is counted before a manifest names the new run, so a crash in between costs the work
 * and nothing else. A block whose checksum is wrong stays where it is: whoever reads it is told.
 */
#include "providers/cow/merge.h"

static bool segment_is_sparse(const Engine *e, uint32_t i) {
        const Segment *s = &e->segments[i];
        return s->kind == SEGMENT_LOG && !s->reserved && !s->releasing && s->live_mem == 0 && s->live_runs > 0 &&
               s->live_runs < e->segment_blocks / 2;
}

/* Worth it when it frees at least one segment more than it takes. */
bool pack_pays(const Engine *e) {
        uint64_t live = 0;
        uint32_t n = 0;
        for (uint32_t i = 0; i < e->n_segments; i++)
                if (segment_is_sparse(e, i)) {
                        live += e->segments[i].live_runs;
                        n++;
                }
        return n > 0 && (live + e->segment_blocks - 1) / e->segment_blocks + 1 <= n;
}

int pack_init(Merge *m) {
        Engine *e = m->engine;
        if (!pack_pays(e))
                return 0;
        m->victims = calloc(e->n_segments, sizeof(bool));
        m->moved = calloc(e->n_segments, sizeof(uint16_t));
        m->moves = calloc((size_t) MERGE_WRITE_PAGES * RUN_PAGE_ENTRIES, sizeof(uint16_t));
        m->pack_buffer = block_alloc(PACK_BLOCKS);
        if (!m->victims || !m->moved || !m->moves || !m->pack_buffer)
                return -ENOMEM;
        for (uint32_t i = 0; i < e->n_segments; i++)
                m->victims[i] = segment_is_sparse(e, i);
        return 0;
}

static void pack_let_go(Merge *m) {
        if (m->pack_segment)
                m->engine->segments[m->pack_segment].reserved = false;
        m->pack_segment = 0;
}

void pack_done(Merge *m) {
        pack_let_go(m);
        free(m->victims);
        free(m->moved);
        free(m->moves);
        free(m->pack_buffer);
}

void pack_consider(Merge *m, const struct run_entry *entry) {
        if (!m->victims || ENTRY_WHERE_FLAGS(entry->where) & ENTRY_NO_PAYLOAD)
                return;
        if (m->victims[ENTRY_WHERE_BLOCK(entry->where) / m->engine->segment_blocks])
                m->moves[m->n_moves++] = (uint16_t) (m->out_page * RUN_PAGE_ENTRIES + m->out_entry - 1);
}

static void pack_next(Merge *m);

static void pack_written(Io *io, int result) {
        Merge *m = io->owner;
        Engine *e = m->engine;
        engine_io_done(e, io);
        m->io--;
        if (result < 0 && !e->lost)
                engine_lose(e, "a block could not be moved: %s", strerror(-result));
        else if (m->abandoned)
                merge_end(m);
        else
                pack_next(m);
}

static void pack_move(Merge *m, struct run_entry *entry, uint32_t block) {
        Engine *e = m->engine;
        m->drops[ENTRY_WHERE_BLOCK(entry->where) / e->segment_blocks]++;
        m->moved[m->pack_segment]++;
        e->segments[m->pack_segment].live_mem++;
        entry->where = ENTRY_WHERE(segment_first_block(e, m->pack_segment) + block,
                                   ENTRY_WHERE_FLAGS(entry->where) | ENTRY_MOVED);
}

static void pack_chunk_write(Merge *m) {
        Engine *e = m->engine;
        uint32_t n = 0, first = m->pack_block;
        for (uint32_t i = 0; i < m->chunk; i++) {
                struct run_entry *entry = merge_out_entry(m, m->moves[m->next_move + i]);
                const uint8_t *data = m->pack_buffer + (size_t) i * BLOCK_SIZE;
                if (m->pack_bad[i] || crc32c(0, data, BLOCK_SIZE) != entry->crc)
                        continue;
                if (n != i)
                        memcpy(m->pack_buffer + (size_t) n * BLOCK_SIZE, data, BLOCK_SIZE);
                pack_move(m, entry, first + n++);
        }
        m->next_move += m->chunk;
        m->pack_block += n;
        if (n == 0) {
                pack_next(m);
                return;
        }
        e->stats.merge_bytes += (uint64_t) n * BLOCK_SIZE;
        m->io++;
        m->pack_write = (Io) {
                .op = IO_WRITE,
                .disk = DISK_STORE,
                .offset = (segment_first_block(e, m->pack_segment) + first) * BLOCK_SIZE,
                .length = (size_t) n * BLOCK_SIZE,
                .buffer = m->pack_buffer,
                .done = pack_written,
                .owner = m,
        };
        engine_io(e, &m->pack_write);
}

static void pack_read(Io *io, int result) {
        Merge *m = io->owner;
        engine_io_done(m->engine, io);
        m->io--;
        m->pack_bad[io - m->pack_reads] = result < 0;
        if (m->abandoned)
                merge_end(m);
        else if (m->io == 0)
                pack_chunk_write(m);
}

/* A segment with room for at least one block; false: there is none, and what has not moved stays. */
static bool pack_room(Merge *m) {
        Engine *e = m->engine;
        if (m->pack_segment && m->pack_block < e->segment_blocks)
                return true;
        pack_let_go(m);
        m->pack_segment = segment_take(e, SEGMENT_LOG, META_RESERVE);
        m->pack_block = 0;
        if (m->pack_segment)
                e->segments[m->pack_segment].reserved = true; /* nothing points to it yet */
        return m->pack_segment;
}

static void pack_next(Merge *m) {
        Engine *e = m->engine;
        if (m->next_move == m->n_moves || !pack_room(m)) {
                m->n_moves = m->next_move = 0;
                merge_write_pages(m);
                return;
        }
        m->chunk = MIN_OF(m->n_moves - m->next_move, (uint32_t) PACK_BLOCKS);
        m->chunk = MIN_OF(m->chunk, e->segment_blocks - m->pack_block);
        for (uint32_t i = 0; i < m->chunk; i++) {
                const struct run_entry *entry = merge_out_entry(m, m->moves[m->next_move + i]);
                m->io++;
                m->pack_reads[i] = (Io) {
                        .op = IO_READ,
                        .disk = DISK_STORE,
                        .offset = ENTRY_WHERE_BLOCK(entry->where) * BLOCK_SIZE,
                        .length = BLOCK_SIZE,
                        .buffer = m->pack_buffer + (size_t) i * BLOCK_SIZE,
                        .done = pack_read,
                        .owner = m,
                };
                engine_io(e, &m->pack_reads[i]);
        }
}

void pack_begin(Merge *m) {
        pack_next(m);
}

void pack_give_up(Merge *m) {
        for (uint32_t i = 0; m->moved && i < m->engine->n_segments; i++)
                m->engine->segments[i].live_mem -= m->moved[i];
}

void pack_settle(Merge *m) {
        pack_give_up(m);
        for (uint32_t i = 0; m->moved && i < m->engine->n_segments; i++)
                m->engine->segments[i].live_runs += m->moved[i];
}
