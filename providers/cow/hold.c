/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The gate of a volume, closed for a snapshot (I2): new writes wait, those under way end, what was acknowledged is
 * flushed; then the hold is complete. Its token is worth something as long as the gate has not been opened.
 *
 *   DRAINING ─writing == 0 on all─► FLUSHING ─all flushed─► complete ─engine_release─► open
 */
#include "providers/cow/core.h"

Hold *hold_find(Engine *e, uint64_t token) {
        Hold *h;
        LIST_FOREACH(h, &e->holds, link)
                if (h->token == token && !h->open)
                        return h;
        return NULL;
}

void hold_free(Hold *h) {
        free(h->volumes);
        free(h->flushes);
        free(h);
}

static int hold_new(Engine *e, Volume *const *volumes, unsigned n, Reply *r, Hold **ret) {
        Hold *h = calloc(1, sizeof(Hold));
        if (!h)
                return -ENOMEM;
        h->engine = e;
        h->n = n;
        h->reply = r;
        h->volumes = calloc(n, sizeof(Volume *));
        h->flushes = calloc(n, sizeof(Io));
        if (!h->volumes || !h->flushes) {
                hold_free(h);
                return -ENOMEM;
        }
        memcpy(h->volumes, volumes, n * sizeof(Volume *));
        *ret = h;
        return 0;
}

/* Opens the gates. The memory goes when no flush of it is under way. */
static void hold_open(Hold *h, int result) {
        Engine *e = h->engine;
        Reply *r = TAKE_PTR(h->reply);

        assert(!h->open);
        h->open = true;
        for (unsigned i = 0; i < h->n; i++)
                h->volumes[i]->hold = NULL;
        for (unsigned i = 0; i < h->n; i++)
                gate_opened(e, h->volumes[i]);
        if (h->left == 0) {
                LIST_REMOVE(h, link);
                hold_free(h);
        }
        if (r)
                reply_done(r, result, "%s",
                           result == -ECANCELED ? "the hold was ended while it began" : strerror(-result));
}

static void hold_completed(Hold *h) {
        h->complete = true;
        reply_done(TAKE_PTR(h->reply), 0, "%s", "");
}

static void hold_flushed(Io *io, int result) {
        Hold *h = io->owner;
        engine_io_done(h->engine, io);
        if (result < 0) {
                h->error = result;
                volume_flush_failed(h->volumes[io - h->flushes], result);
        }
        if (--h->left > 0)
                return;
        if (h->open) {
                LIST_REMOVE(h, link);
                hold_free(h);
        } else if (h->error < 0)
                hold_open(h, h->error);
        else
                hold_completed(h);
}

static void hold_flush(Hold *h) {
        h->flushing = true;
        if (!ORDER(FLUSH_BEFORE_CUT)) {
                hold_completed(h);
                return;
        }
        h->left = h->n;
        for (unsigned i = 0; i < h->n; i++) {
                h->engine->stats.origin_flushes++;
                h->flushes[i] = (Io) { .op = IO_FLUSH, .disk = h->volumes[i]->disk, .done = hold_flushed, .owner = h };
                engine_io(h->engine, &h->flushes[i]);
        }
}

static void hold_advance(Hold *h) {
        if (h->flushing)
                return;
        for (unsigned i = 0; i < h->n; i++) {
                if (h->volumes[i]->writing > 0 && ORDER(DRAIN_BEFORE_CUT))
                        return;
                if (h->volumes[i]->flush_failed) {
                        hold_open(h, -EIO);
                        return;
                }
        }
        hold_flush(h);
}

void hold_progress(Engine *e, Volume *v) {
        if (v->hold && v->writing == 0)
                hold_advance(v->hold);
}

void engine_hold(Engine *e, Volume *const *volumes, unsigned n, uint64_t *ret_token, Reply *reply) {
        Hold *h;
        for (unsigned i = 0; i < n; i++)
                if (!volumes[i]->attached || volumes[i]->detaching || volumes[i]->hold) {
                        reply_done(reply, -EBUSY, "%s is %s", volumes[i]->name,
                                   volumes[i]->hold ? "held by somebody else" : "not attached");
                        return;
                }
        if (n == 0 || n > STORE_VOLUMES_MAX || e->lost || hold_new(e, volumes, n, reply, &h) < 0) {
                reply_done(reply,
                           n == 0 || n > STORE_VOLUMES_MAX ? -EINVAL :
                           e->lost                         ? -ENOMEDIUM :
                                                             -ENOMEM,
                           "%s", e->lost ? "the store is lost" : "a hold is of 1 to 64 volumes");
                return;
        }
        h->token = *ret_token = ++e->next_token;
        LIST_INSERT_HEAD(&e->holds, h, link);
        for (unsigned i = 0; i < n; i++)
                volumes[i]->hold = h;
        hold_advance(h);
}

bool engine_release(Engine *e, uint64_t token) {
        Hold *h = hold_find(e, token);
        if (!h)
                return false;
        bool complete = h->complete;
        hold_open(h, -ECANCELED);
        return complete;
}
