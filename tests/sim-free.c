/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a file system would say is free, made up: some blocks, at random. A snapshot that was made with such a map may
 * have zeros there, or what it held; never anything newer. Blocks that were written since tracking began have to be
 * right, and older snapshots always.
 */
#include "tests/sim-world.h"

static uint32_t blocks_of(const Vol *v) {
        return (uint32_t) ((v->bytes + SIM_PAGE - 1) / SIM_PAGE);
}

void free_forget(Vol *v) {
        free(TAKE_PTR(v->written));
        free(TAKE_PTR(v->free_blocks));
}

void free_written(Vol *v, uint64_t begun, uint64_t offset, uint64_t length) {
        if (begun < v->tracked)
                return;
        for (uint64_t b = offset / SIM_PAGE; length > 0 && b <= (offset + length - 1) / SIM_PAGE; b++) {
                if (v->written)
                        v->written[b] = 1;
                if (v->free_blocks)
                        v->free_blocks[b] = 0;
        }
}

static void track_begin(World *w, Vol *v) {
        free_forget(v);
        world_trace(w, "track %s", v->name);
        if (engine_track(w->engine, v->handle) < 0)
                return;
        v->tracked = ++v->oracle.now;
        v->written = calloc(blocks_of(v), 1);
        if (!v->written)
                abort();
}

static void map_begin(World *w, Vol *v) {
        FreeExtent x[WORLD_SECTORS_MAX];
        uint32_t n = 0, blocks = blocks_of(v), chance = 1 + sim_below(&w->random, 8);
        SimOp *op = reply_take(w, OP_MAP);
        if (!op)
                return;
        v->free_blocks = calloc(blocks, 1);
        if (!v->free_blocks)
                abort();
        for (uint32_t b = 0; b < blocks; b++) {
                if (!sim_chance(&w->random, chance, 9))
                        continue;
                v->free_blocks[b] = !v->written[b];
                if (n > 0 && x[n - 1].block + x[n - 1].count == b && sim_chance(&w->random, 3, 4))
                        x[n - 1].count++;
                else
                        x[n++] = (FreeExtent) { b, 1 };
        }
        op->volume = (unsigned) (v - w->volumes);
        world_trace(w, "#%u map of %s: %u extents", op->number, v->name, n);
        engine_free_map(w->engine, v->handle, x, n, &op->reply);
}

void free_random(World *w) {
        Vol *v = &w->volumes[sim_below(&w->random, WORLD_VOLUMES)];
        if (v->state != VOL_PRESENT || v->attach != VOL_ATTACHED)
                return;
        if (!v->written)
                track_begin(w, v);
        else if (!v->free_blocks)
                map_begin(w, v);
        else if (sim_chance(&w->random, 1, 12)) {
                world_trace(w, "untrack %s", v->name);
                engine_untrack(w->engine, v->handle);
                free_forget(v);
        }
}
