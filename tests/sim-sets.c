/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/sim-world.h"
#include <stdio.h>

const char *op_name(SimOpKind kind) {
        static const char *const names[OP_KINDS] = {
                "read",   "write",      "zero",       "discard",    "flush",   "snap-read", "hold",   "snapshot",
                "delete", "delete-set", "commit-set", "checkpoint", "collect", "attach",    "detach", "create",
                "remove", "policy",     "unverified", "open",       "stop",    "map",
        };
        return names[kind];
}

enum { WORLD_POLICIES = POLICY_MAX };

static void id_new(World *w, uint8_t id[16]) {
        uint64_t n = ++w->next_id, mixed = sim_mix(n ^ w->options.seed << 20);
        memcpy(id, &mixed, 8);
        memcpy(id + 8, &n, 8);
}

void world_event(void *userdata, EngineEvent event, const uint8_t id[16], const char *text) {
        World *w = userdata;
        world_trace(w, "event %d: %s", event, text);
        if (event == ENGINE_STORE_LOST) {
                w->lost = true;
                if (!w->options.may_lose)
                        world_fail(w, "the store is lost: %s", text);
        } else if (event == ENGINE_SNAPSHOT_DAMAGED && !w->options.may_lose)
                world_fail(w, "a snapshot is damaged: %s", text);
        else if (event == ENGINE_GATE_OPENED)
                for (unsigned i = 0; i < WORLD_HOLDS; i++)
                        w->holds[i].opened = true;
        else if (event == ENGINE_SNAPSHOT_DROPPED) {
                for (unsigned i = 0; i < w->n_snaps; i++)
                        if (memcmp(w->snaps[i].id, id, 16) == 0) {
                                w->snaps[i].dropping = true;
                                if (w->snaps[i].state == SNAP_MADE)
                                        w->snaps[i].state = SNAP_GOING;
                        }
        }
}

/* --- holds -------------------------------------------------------------------------------------------------------- */

static void volume_image(const World *w, unsigned volume, uint8_t *data) {
        const Vol *v = &w->volumes[volume];
        sim_disk_peek(w->disk, DISK_FIRST_ORIGIN + volume, 0, data, v->bytes);
}

/* What a held volume has is known exactly: nothing is under way. */
static void volume_held(World *w, unsigned volume) {
        static uint8_t data[WORLD_SECTORS_MAX * SIM_SECTOR];
        Vol *v = &w->volumes[volume];
        char text[256];

        volume_image(w, volume, data);
        free(v->held);
        v->held = calloc(v->oracle.n, sizeof(uint64_t));
        if (!v->held)
                abort();
        for (uint32_t i = 0; i < v->oracle.n; i++) {
                bool whole;
                v->held[i] = content_version(data + (size_t) i * SIM_SECTOR, &whole);
                if ((whole && oracle_settle(&v->oracle, i, v->held[i])) || w->failed)
                        continue;
                oracle_describe(&v->oracle, i, text, sizeof(text));
                world_fail(w, "%s sector %u holds %s%llx when its gate is closed and may be:%s", v->name, i,
                           whole ? "" : "torn ", (unsigned long long) v->held[i], text);
        }
}

/* … and does not change as long as the gate is closed. */
static void volume_still(World *w, unsigned volume) {
        static uint8_t data[WORLD_SECTORS_MAX * SIM_SECTOR];
        const Vol *v = &w->volumes[volume];
        volume_image(w, volume, data);
        for (uint32_t i = 0; i < v->oracle.n; i++) {
                bool whole;
                if (content_version(data + (size_t) i * SIM_SECTOR, &whole) == v->held[i] || w->failed)
                        continue;
                world_fail(w, "%s sector %u changed while its gate was closed", v->name, i);
        }
}

static void hold_ended(World *w, unsigned hold) {
        SimHold *h = &w->holds[hold];
        for (unsigned i = 0; i < WORLD_VOLUMES; i++)
                if (h->mask >> i & 1) {
                        w->volumes[i].hold = -1;
                        free(TAKE_PTR(w->volumes[i].held));
                }
        *h = (SimHold) { 0 };
}

static void hold_done(SimOp *op, int result) {
        World *w = op->world;
        SimHold *h = &w->holds[op->hold];
        if (result < 0) {
                if (!w->options.may_lose && !(h->released && result == -ECANCELED))
                        world_fail(w, "#%u: hold: %s: %s", op->number, strerror(-result), op->reply.message);
                hold_ended(w, op->hold);
                return;
        }
        h->state = HOLD_COMPLETE;
        h->left = h->mask;
        for (unsigned i = 0; i < WORLD_VOLUMES; i++)
                if (h->mask >> i & 1) {
                        oracle_flush_ends(&w->volumes[i].oracle, op->begun);
                        volume_held(w, i);
                }
}

void hold_release(World *w, unsigned hold) {
        SimHold *h = &w->holds[hold];
        bool complete = h->state >= HOLD_COMPLETE, opened = h->opened;
        uint64_t token = h->token;
        for (unsigned i = 0; complete && i < WORLD_VOLUMES; i++)
                if (h->mask >> i & 1)
                        volume_still(w, i);
        world_trace(w, "release hold %u", hold);
        h->released = true;
        if (complete)
                hold_ended(w, hold);
        if (engine_release(w->engine, token) != complete && !opened)
                world_fail(w, "the release of hold %u says that it was %s", hold, complete ? "over" : "complete");
}

/* --- answers ------------------------------------------------------------------------------------------------------ */

static void snaps_of_op(SimOp *op, SnapState from, SnapState to) {
        World *w = op->world;
        for (unsigned i = 0; i < w->n_snaps; i++)
                if (memcmp(w->snaps[i].set, op->set, 16) == 0 && w->snaps[i].state == from)
                        w->snaps[i].state = to;
}

static void snapshot_done(SimOp *op, int result) {
        World *w = op->world;
        SimHold *h = op->hold < WORLD_HOLDS && w->holds[op->hold].token == op->begun ? &w->holds[op->hold] : NULL;
        if (h && h->state == HOLD_SNAPPING)
                h->state = h->left ? HOLD_COMPLETE : HOLD_SNAPPED;
        bool stale = op->bad || !h || h->opened;
        bool full = result == -ENOSPC || result == -EDQUOT;
        if (result == 0 && op->bad)
                world_fail(w, "#%u: a snapshot without a hold was made", op->number);
        else if (result < 0 && !full && !w->options.may_lose && !(stale && result == -ESTALE))
                world_fail(w, "#%u: snapshot: %s: %s", op->number, strerror(-result), op->reply.message);
        /* an error after the store was lost: its record may be there, but so is the word that it is void */
        snaps_of_op(op, SNAP_MAKING, result == 0 ? SNAP_MADE : w->lost ? SNAP_GOING : SNAP_GONE);
        w->made += result == 0;
}

static void gone_done(SimOp *op, int result) {
        World *w = op->world;
        for (unsigned i = 0; i < w->n_snaps; i++) {
                Snap *s = &w->snaps[i];
                bool mine = op->kind == OP_DELETE ? i == op->snap : memcmp(s->set, op->set, 16) == 0;
                if (op->kind == OP_REMOVE)
                        mine = s->volume == op->volume;
                bool kept = op->kind == OP_DELETE_SET && op->bad && s->pending == PENDING_NO;
                if (mine && !kept && s->state == SNAP_GOING && result == 0)
                        s->state = SNAP_GONE;
        }
}

static void commit_done(SimOp *op, int result) {
        World *w = op->world;
        for (unsigned i = 0; i < w->n_snaps; i++)
                if (memcmp(w->snaps[i].set, op->set, 16) == 0 && result == 0 && w->snaps[i].state <= SNAP_GOING)
                        w->snaps[i].pending = PENDING_NO;
}

static void volume_done(SimOp *op, int result) {
        Vol *v = &op->world->volumes[op->volume];
        bool unsure = op->world->options.may_lose;
        VolumeInfo info;
        switch (op->kind) {
        case OP_ATTACH:
                v->attach = result == 0 ? VOL_ATTACHED : VOL_DETACHED;
                break;
        case OP_DETACH:
                engine_volume_info(v->handle, &info);
                v->attach = info.attached ? VOL_ATTACHED : VOL_DETACHED;
                if (result == 0)
                        oracle_flush_ends(&v->oracle, op->begun);
                break;
        case OP_CREATE:
                v->state = result == 0 ? VOL_PRESENT : unsure ? VOL_CREATING : VOL_ABSENT;
                v->handle = result == 0 ? engine_volume_by_name(op->world->engine, v->name) : NULL;
                if (result == 0 && !v->handle)
                        world_fail(op->world, "#%u: %s is not there", op->number, v->name);
                break;
        case OP_REMOVE:
                v->state = result == 0 ? VOL_ABSENT : unsure ? VOL_REMOVING : VOL_PRESENT;
                gone_done(op, result);
                break;
        default:
                break;
        }
}

static bool result_is_right(const SimOp *op, int result) {
        bool gone = op->kind == OP_DELETE || op->kind == OP_COMMIT_SET;
        bool late = op->kind == OP_MAP && (result == -ECANCELED || result == -E2BIG);
        return result == 0 || op->world->options.may_lose || result == -ENOSPC || (gone && result == -ENOENT) || late;
}

static void reply_ended(Reply *r, int result) {
        SimOp *op = r->owner;
        World *w = op->world;
        world_trace(w, "#%u %s ends: %d %s", op->number, op_name(op->kind), result, r->message);
        if (!op->busy || op->answered) {
                world_fail(w, "#%u: answered twice", op->number);
                return;
        }
        op->answered = true;
        op->result = result;
        if (op->kind != OP_HOLD && op->kind != OP_SNAPSHOT && !result_is_right(op, result))
                world_fail(w, "#%u: %s: %s: %s", op->number, op_name(op->kind), strerror(-result), r->message);
        if (op->kind == OP_HOLD)
                hold_done(op, result);
        else if (op->kind == OP_SNAPSHOT)
                snapshot_done(op, result);
        else if (op->kind == OP_DELETE || op->kind == OP_DELETE_SET)
                gone_done(op, result);
        else if (op->kind == OP_COMMIT_SET)
                commit_done(op, result);
        else
                volume_done(op, result);
        op_give(op);
}

SimOp *reply_take(World *w, SimOpKind kind) {
        SimOp *op = op_take(w, kind);
        if (op)
                op->reply.done = reply_ended;
        return op;
}

/* --- beginnings --------------------------------------------------------------------------------------------------- */

void hold_begin(World *w, unsigned mask) {
        Volume *volumes[WORLD_VOLUMES];
        unsigned n = 0, hold = 0;
        mask &= (1u << WORLD_VOLUMES) - 1;
        while (hold < WORLD_HOLDS && w->holds[hold].state != HOLD_FREE)
                hold++;
        for (unsigned i = 0; i < WORLD_VOLUMES; i++) {
                Vol *v = &w->volumes[i];
                if (v->state != VOL_PRESENT || v->attach != VOL_ATTACHED || v->hold >= 0)
                        mask &= ~(1u << i);
                else if (mask >> i & 1)
                        volumes[n++] = v->handle;
        }
        SimOp *op = n > 0 && hold < WORLD_HOLDS ? reply_take(w, OP_HOLD) : NULL;
        if (!op)
                return;
        SimHold *h = &w->holds[hold];
        *h = (SimHold) { .state = HOLD_ASKED, .mask = mask };
        op->hold = hold;
        op->begun = UINT64_MAX; /* everything acknowledged before the gate closes is flushed */
        for (unsigned i = 0; i < WORLD_VOLUMES; i++)
                if (mask >> i & 1)
                        w->volumes[i].hold = (int) hold;
        world_trace(w, "#%u hold %u of volumes %x", op->number, hold, mask);
        engine_hold(w->engine, volumes, n, &h->token, &op->reply);
}

static Snap *snap_new(World *w, unsigned volume, const uint8_t set[16], bool pending) {
        const Vol *v = &w->volumes[volume];
        Snap *s = &w->snaps[w->n_snaps++];
        *s = (Snap) { .volume = volume, .pending = pending ? PENDING_YES : PENDING_NO, .n = v->oracle.n };
        id_new(w, s->id);
        memcpy(s->set, set, 16);
        s->content = calloc(s->n, sizeof(uint64_t));
        if (!s->content)
                abort();
        if (v->held)
                memcpy(s->content, v->held, s->n * sizeof(uint64_t));
        if (v->held) {
                s->free_blocks = TAKE_PTR(w->volumes[volume].free_blocks);
                free_forget(&w->volumes[volume]);
        }
        return s;
}

void snapshot_begin(World *w, unsigned hold, unsigned mask, bool stale, bool pending) {
        static const char *const labels[] = { "", "a", "nightly", "a label of forty bytes or thereabouts ..." };
        SimHold *h = &w->holds[hold];
        Member members[WORLD_VOLUMES];
        unsigned n = 0;
        SimOp *op = w->n_snaps + WORLD_VOLUMES < WORLD_SNAPS ? reply_take(w, OP_SNAPSHOT) : NULL;
        if (!op)
                return;
        id_new(w, op->set);
        op->bad = stale;
        op->hold = stale ? WORLD_HOLDS : hold;
        op->begun = stale ? 0 : h->token;
        for (unsigned i = 0; i < WORLD_VOLUMES; i++) {
                if (!(mask >> i & 1) || w->volumes[i].state != VOL_PRESENT)
                        continue;
                Snap *s = snap_new(w, i, op->set, pending);
                members[n] = (Member) { .volume = w->volumes[i].handle,
                                        .skips_free = s->free_blocks,
                                        .label = labels[sim_below(&w->random, ELEMENTSOF(labels))],
                                        .flags = pending ? SNAPSHOT_PENDING : SNAPSHOT_PERSISTENT };
                memcpy(members[n++].snapshot, s->id, 16);
                w->volumes[i].snaps_made++;
        }
        world_trace(w, "#%u snapshot %u of volumes %x, hold %u%s", op->number, w->n_snaps - n, mask, hold,
                    stale ? " (stale)" : "");
        if (!stale) {
                h->state = HOLD_SNAPPING;
                h->left &= ~mask;
        }
        engine_snapshot(w->engine, stale ? sim_random(&w->random) : h->token, op->set, w->next_id, members, n,
                        &op->reply);
}

void delete_begin(World *w, unsigned snap) {
        SimOp *op = reply_take(w, OP_DELETE);
        if (!op)
                return;
        op->snap = snap;
        w->snaps[snap].state = SNAP_GOING;
        world_trace(w, "#%u delete snapshot %u", op->number, snap);
        engine_delete(w->engine, w->snaps[snap].id, &op->reply);
}

void set_begin(World *w, SimOpKind kind, const uint8_t set[16]) {
        SimOp *op = reply_take(w, kind);
        if (!op)
                return;
        memcpy(op->set, set, 16);
        op->bad = kind == OP_DELETE_SET && sim_chance(&w->random, 1, 2); /* what is pending only */
        for (unsigned i = 0; i < w->n_snaps; i++) {
                Snap *s = &w->snaps[i];
                if (memcmp(s->set, set, 16) != 0)
                        continue;
                if (kind == OP_COMMIT_SET && s->pending == PENDING_YES)
                        s->pending = PENDING_PERHAPS;
                bool goes = kind == OP_DELETE_SET && (!op->bad || s->pending != PENDING_NO);
                if (goes && s->state == SNAP_MADE)
                        s->state = SNAP_GOING;
        }
        world_trace(w, "#%u %s%s", op->number, op_name(kind), op->bad ? ", what is pending" : "");
        if (kind == OP_COMMIT_SET)
                engine_commit_set(w->engine, set, &op->reply);
        else
                engine_delete_set(w->engine, set, op->bad, &op->reply);
}

void store_begin(World *w, SimOpKind kind) {
        SimOp *op = reply_take(w, kind);
        if (!op)
                return;
        world_trace(w, "#%u %s", op->number, op_name(kind));
        if (kind == OP_CHECKPOINT)
                engine_checkpoint(w->engine, &op->reply);
        else if (kind == OP_COLLECT)
                engine_collect(w->engine, &op->reply);
        else
                engine_set_policy(w->engine, sim_below(&w->random, WORLD_POLICIES), &op->reply);
}

static void volume_new_size(World *w, unsigned volume) {
        Vol *v = &w->volumes[volume];
        uint32_t blocks = w->options.volume_blocks ?: 8 + sim_below(&w->random, 57), cut = 0;
        if (!w->options.volume_blocks && sim_chance(&w->random, 1, 3))
                cut = 1 + sim_below(&w->random, 7);
        v->bytes = (uint64_t) blocks * SIM_PAGE - cut * SIM_SECTOR;
        oracle_done(&v->oracle);
        oracle_init(&v->oracle, v->bytes);
        sim_disk_add(w->disk, DISK_FIRST_ORIGIN + volume, v->bytes);
        v->flush_failed = 0;
}

void volume_begin(World *w, SimOpKind kind, unsigned volume) {
        static const uint8_t stamp[88] = { 1, 2, 3 };
        uint8_t uuid[16];
        Vol *v = &w->volumes[volume];
        SimOp *op = reply_take(w, kind);
        if (!op)
                return;
        op->volume = volume;
        world_trace(w, "#%u %s %s", op->number, op_name(kind), v->name);
        switch (kind) {
        case OP_CREATE:
                id_new(w, uuid);
                volume_new_size(w, volume);
                v->state = VOL_CREATING;
                v->attach = VOL_DETACHED;
                engine_volume_create(w->engine, uuid, v->name, "/origin", v->bytes, &op->reply);
                break;
        case OP_REMOVE:
                v->state = VOL_REMOVING;
                for (unsigned i = 0; i < w->n_snaps; i++)
                        if (w->snaps[i].volume == volume && w->snaps[i].state == SNAP_MADE)
                                w->snaps[i].state = SNAP_GOING;
                engine_volume_remove(w->engine, v->handle, true, &op->reply);
                break;
        case OP_ATTACH:
                v->attach = VOL_ATTACHING;
                engine_attach(w->engine, v->handle, DISK_FIRST_ORIGIN + volume, &op->reply);
                break;
        case OP_DETACH:
                v->attach = VOL_DETACHING;
                free_forget(v);
                op->begun = ++v->oracle.now;
                engine_detach(w->engine, v->handle, stamp, &op->reply);
                break;
        default:
                engine_volume_unverified(w->engine, v->handle, &op->reply);
        }
}

/* --- what comes next ---------------------------------------------------------------------------------------------- */

static void hold_random(World *w, unsigned i) {
        SimHold *h = &w->holds[i];
        bool pending = w->options.features & FEATURE_SETS && sim_chance(&w->random, 1, 4);
        if (h->state == HOLD_COMPLETE && h->left) {
                unsigned mask = sim_chance(&w->random, 7, 8) ? h->left : h->left & (unsigned) sim_random(&w->random);
                if (mask && sim_chance(&w->random, 9, 10))
                        snapshot_begin(w, i, mask, false, pending);
                else
                        hold_release(w, i);
        } else if (h->state == HOLD_SNAPPED || sim_chance(&w->random, 1, 12))
                hold_release(w, i);
}

static void volume_random(World *w) {
        unsigned i = sim_below(&w->random, WORLD_VOLUMES);
        Vol *v = &w->volumes[i];
        if (v->state == VOL_ABSENT) {
                volume_begin(w, OP_CREATE, i);
        } else if (v->state == VOL_PRESENT && v->attach == VOL_DETACHED) {
                bool reads = false;
                for (unsigned k = 0; k < WORLD_OPS; k++)
                        reads = reads || (w->ops[k].busy && w->ops[k].volume == i);
                volume_begin(w, !reads && sim_chance(&w->random, 1, 6) ? OP_REMOVE : OP_ATTACH, i);
        } else if (v->state == VOL_PRESENT && v->attach == VOL_ATTACHED && v->hold < 0 && sim_chance(&w->random, 1, 4))
                volume_begin(w, sim_chance(&w->random, 3, 4) ? OP_DETACH : OP_UNVERIFIED, i);
}

static void snaps_random(World *w) {
        unsigned n = MIN_OF(w->n_snaps, 16u), i = w->n_snaps - 1 - (n ? sim_below(&w->random, n) : 0);
        if (n == 0 || w->snaps[i].state != SNAP_MADE)
                return;
        if (w->snaps[i].pending != PENDING_NO)
                set_begin(w, sim_chance(&w->random, 2, 3) ? OP_COMMIT_SET : OP_DELETE_SET, w->snaps[i].set);
        else if (sim_chance(&w->random, 1, 4))
                set_begin(w, OP_DELETE_SET, w->snaps[i].set);
        else
                delete_begin(w, i);
}

void upkeep_random(World *w) {
        unsigned features = w->options.features;
        uint32_t x = sim_below(&w->random, 100);
        if (w->options.upkeep && sim_chance(&w->random, 2, 3))
                x = 76 + x % 15;
        if (features & FEATURE_FREE && sim_chance(&w->random, 1, 4)) {
                free_random(w);
                return;
        }
        if (x < 55) {
                unsigned i = sim_below(&w->random, WORLD_HOLDS);
                if (w->holds[i].state != HOLD_FREE)
                        hold_random(w, i);
                else if (i == 0 || features & FEATURE_SETS)
                        hold_begin(w, features & FEATURE_SETS ? (unsigned) sim_random(&w->random) :
                                                                1u << sim_below(&w->random, 3));
        } else if (x < 58) {
                if (w->volumes[0].state == VOL_PRESENT)
                        snapshot_begin(w, 0, 1, true, false);
        } else if (x < 76 && features & FEATURE_DELETE)
                snaps_random(w);
        else if (x < 92 && features & FEATURE_UPKEEP)
                store_begin(w, x < 84 ? OP_CHECKPOINT : x < 91 ? OP_COLLECT : OP_POLICY);
        else if (features & FEATURE_VOLUMES)
                volume_random(w);
}

void world_snapshot(World *w) {
        hold_begin(w, 1);
        while (!w->failed && w->holds[0].state == HOLD_ASKED && world_step(w))
                ;
        if (w->holds[0].state != HOLD_COMPLETE)
                return;
        snapshot_begin(w, 0, 1, false, false);
        while (!w->failed && w->holds[0].state == HOLD_SNAPPING && world_step(w))
                ;
        hold_release(w, 0);
}
