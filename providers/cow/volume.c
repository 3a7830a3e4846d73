/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes: what the store knows of them, coming and going. All of this is rare, so nothing of it has a record in the
 * log: it is in the next manifest, and done when that is durable.
 */
#include "providers/cow/freemap.h"

Volume *volume_by_volblock(Engine *e, uint64_t volblock) {
        unsigned number = VOLBLOCK_VOLUME(volblock);
        Volume *v = e->last_volume;
        if (v && v->number == number)
                return v;
        TAILQ_FOREACH(v, &e->volumes, link)
                if (v->number == number)
                        break;
        if (v)
                e->last_volume = v;
        return v;
}

/* A flush that failed once may not succeed later: the kernel forgets what it could not write (hazards D8). */
void volume_flush_failed(Volume *v, int error) {
        if (v->flush_failed)
                return;
        v->flush_failed = true;
        event_say(v->engine, ENGINE_FLUSH_FAILED, v->uuid, "%s: the origin could not be flushed: %s", v->name,
                  strerror(-error));
}

Volume *engine_volume_by_number(Engine *e, unsigned number) {
        Volume *v;
        TAILQ_FOREACH(v, &e->volumes, link)
                if (v->number == number)
                        return v;
        return NULL;
}

Volume *engine_volume_by_name(Engine *e, const char *name) {
        Volume *v;
        TAILQ_FOREACH(v, &e->volumes, link)
                if (streq(v->name, name))
                        return v;
        return NULL;
}

Volume *engine_volume_next(Engine *e, const Volume *v) {
        return v ? TAILQ_NEXT(v, link) : TAILQ_FIRST(&e->volumes);
}

void engine_volume_info(const Volume *v, VolumeInfo *ret) {
        *ret = (VolumeInfo) {
                .number = v->number,
                .bytes = v->bytes,
                .flags = v->flags,
                .attached = v->attached,
                .gated = v->hold,
                .snapshots = v->n_epochs,
        };
        memcpy(ret->uuid, v->uuid, 16);
        memcpy(ret->name, v->name, sizeof(ret->name));
        memcpy(ret->origin, v->origin, sizeof(ret->origin));
        memcpy(ret->stamp, v->stamp, sizeof(ret->stamp));
}

int volume_new(Engine *e, const char *name, size_t name_bytes, const char *origin, size_t origin_bytes, uint64_t bytes,
               Volume **ret) {
        assert(name_bytes <= VOLUME_NAME_MAX && origin_bytes <= ORIGIN_PATH_MAX && bytes > 0);
        Volume *v = calloc(1, sizeof(Volume));
        if (!v)
                return -ENOMEM;
        v->engine = e;
        memcpy(v->name, name, name_bytes);
        memcpy(v->origin, origin, origin_bytes);
        v->bytes = bytes;
        v->blocks = (bytes + BLOCK_SIZE - 1) / BLOCK_SIZE;
        v->n_pages = (v->blocks + BITS_PER_PAGE - 1) / BITS_PER_PAGE;
        v->pages = calloc(v->n_pages, sizeof(BitPage *));
        v->epochs = calloc(EPOCHS_MAX, sizeof(uint32_t));
        STAILQ_INIT(&v->gated);
        if (!v->pages || !v->epochs) {
                volume_free(v);
                return -ENOMEM;
        }
        *ret = v;
        return 0;
}

void volume_free(Volume *v) {
        freemap_volume_done(v);
        bits_free(v);
        free(v->epochs);
        free(v);
}

void volume_link(Engine *e, Volume *v) {
        TAILQ_INSERT_TAIL(&e->volumes, v, link);
        e->n_volumes++;
}

/* A file name that looks like nothing else: [A-Za-z0-9][A-Za-z0-9._-]*. */
bool volume_name_is_valid(const char *name, size_t n) {
        static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
        if (n == 0 || n > VOLUME_NAME_MAX || strchr("._-", name[0]))
                return false;
        for (size_t i = 0; i < n; i++)
                if (!name[i] || !strchr(allowed, name[i]))
                        return false;
        return true;
}

void engine_volume_create(Engine *e, const uint8_t uuid[16], const char *name, const char *origin, uint64_t bytes,
                          Reply *r) {
        size_t name_bytes = strnlen(name, VOLUME_NAME_MAX + 1), origin_bytes = strnlen(origin, ORIGIN_PATH_MAX + 1);
        Volume *v;
        if (!volume_name_is_valid(name, name_bytes) || origin_bytes > ORIGIN_PATH_MAX || bytes == 0 || bytes % 512 ||
            bytes / BLOCK_SIZE >= 1ULL << 47)
                reply_done(r, -EINVAL,
                           "a volume needs a name of letters, digits and ._-, and a size that is a multiple of 512");
        else if (e->lost)
                reply_done(r, -ENOMEDIUM, "the store is lost");
        else if (engine_volume_by_name(e, name))
                reply_done(r, -EEXIST, "there is a volume %s already", name);
        else if (e->n_volumes == STORE_VOLUMES_MAX)
                reply_done(r, -EDQUOT, "a store has at most %d volumes", STORE_VOLUMES_MAX);
        else if (e->next_volume >= VOLUME_NUMBERS)
                reply_done(r, -EDQUOT, "%d volumes were created in this store, and it takes no more: use another store",
                           VOLUME_NUMBERS);
        else if (volume_new(e, name, name_bytes, origin, origin_bytes, bytes, &v) < 0)
                reply_done(r, -ENOMEM, "out of memory");
        else {
                memcpy(v->uuid, uuid, 16);
                v->number = e->next_volume++;
                volume_link(e, v);
                checkpoint_reply(e, r);
        }
}

void engine_volume_remove(Engine *e, Volume *v, bool force, Reply *r) {
        if (v->attached || v->cutting > 0) {
                reply_done(r, -EBUSY, "%s is attached", v->name);
                return;
        }
        if (v->n_epochs > 0 && !force) {
                reply_done(r, -EBUSY, "%s has %u snapshots", v->name, v->n_epochs);
                return;
        }
        for (Copy *c = TAILQ_FIRST(&e->copies), *next; c; c = next) {
                next = TAILQ_NEXT(c, link);
                if (c->volume == v)
                        copy_remove(e, c);
        }
        TAILQ_REMOVE(&e->volumes, v, link);
        e->n_volumes--;
        if (e->last_volume == v)
                e->last_volume = NULL;
        volume_free(v);
        e->collect_wanted = true;
        checkpoint_reply(e, r);
}

static void attach_durable(Waiter *w, int result) {
        Volume *v = w->object;
        Reply *r = w->owner;
        free(w);
        v->attached = result == 0;
        reply_done(r, result, "%s", result < 0 ? "the store could not be written" : "");
}

void engine_attach(Engine *e, Volume *v, unsigned disk, Reply *r) {
        Waiter *w;
        if (v->attached || disk < DISK_FIRST_ORIGIN || disk >= DISK_FIRST_OVERLAY) {
                reply_done(r, -EBUSY, "%s is attached already", v->name);
                return;
        }
        v->disk = disk;
        if (e->lost || v->flags & VOLUME_ATTACHED) { /* the store says so, or cannot say anything */
                v->attached = true;
                reply_done(r, 0, "%s", "");
                return;
        }
        v->flags |= VOLUME_ATTACHED;
        if (waiter_new(e, attach_durable, r, v, &w) < 0)
                reply_done(r, -ENOMEM, "out of memory");
        else
                checkpoint_want(e, w);
}

static void detach_durable(Waiter *w, int result) {
        Volume *v = w->object;
        Reply *r = w->owner;
        free(w);
        v->attached = v->detaching = false;
        reply_done(r, result, "%s", result < 0 ? "the store could not be written" : "");
}

static void detach_flushed(Io *io, int result) {
        Volume *v = io->owner;
        Engine *e = v->engine;
        Reply *r = TAKE_PTR(v->detach_reply);
        Waiter *w;

        engine_io_done(e, io);
        if (result < 0)
                volume_flush_failed(v, result);
        if (v->flush_failed) {
                v->attached = v->detaching = false; /* the store goes on saying attached: an end without order */
                reply_done(r, -EIO, "%s is detached, but its origin could not be flushed: %s", v->name,
                           strerror(result < 0 ? -result : EIO));
        } else if (e->lost) {
                v->attached = v->detaching = false;
                reply_done(r, 0, "%s", "");
        } else if (waiter_new(e, detach_durable, r, v, &w) < 0) {
                v->detaching = false;
                reply_done(r, -ENOMEM, "out of memory");
        } else {
                v->flags &= ~(uint32_t) VOLUME_ATTACHED;
                memcpy(v->stamp, v->new_stamp, sizeof(v->stamp));
                checkpoint_want(e, w);
        }
}

void volume_progress(Engine *e, Volume *v) {
        if (!v->detach_reply || v->requests > 0 || v->queued > 0 || v->loading > 0 || v->detach_flushing)
                return;
        v->detach_flushing = true;
        v->detach_flush = (Io) { .op = IO_FLUSH, .disk = v->disk, .done = detach_flushed, .owner = v };
        engine_io(e, &v->detach_flush);
}

void engine_detach(Engine *e, Volume *v, const uint8_t stamp[88], Reply *r) {
        if (!v->attached || v->detaching || v->hold) {
                reply_done(r, -EBUSY, "%s is %s", v->name, v->hold ? "held for a snapshot" : "not attached");
                return;
        }
        engine_untrack(e, v);
        v->detaching = true;
        v->detach_flushing = false;
        v->detach_reply = r;
        memcpy(v->new_stamp, stamp, sizeof(v->new_stamp));
        volume_progress(e, v);
}

void engine_volume_stamp(Engine *e, Volume *v, const uint8_t stamp[88]) {
        memcpy(v->stamp, stamp, sizeof(v->stamp));
}

void engine_volume_moved(Engine *e, Volume *v, const char *origin) {
        assert(strlen(origin) <= ORIGIN_PATH_MAX);
        memcpy(v->origin, origin, strlen(origin) + 1);
}

void engine_volume_unverified(Engine *e, Volume *v, Reply *r) {
        Copy *c;
        TAILQ_FOREACH(c, &e->copies, link)
                if (c->volume == v)
                        c->flags |= SNAPSHOT_UNVERIFIED;
        checkpoint_reply(e, r);
}
