/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots: a list, and one record of the log for whatever changes it. Making one costs a record and nothing that
 * grows with size or number: the volume's tag goes up, and all bits of older epochs count as empty from then on.
 */
#include "providers/cow/freemap.h"
#include "providers/cow/walk.h"

bool volume_preserves(const Volume *v) {
        return v->n_epochs > 0 || v->cutting > 0;
}

bool volume_needs(const Volume *v, uint32_t after_epoch, uint32_t epoch) {
        uint32_t low = 0, high = v->n_epochs; /* the first live one > after_epoch */
        while (low < high) {
                uint32_t mid = (low + high) / 2;
                if (v->epochs[mid] > after_epoch)
                        high = mid;
                else
                        low = mid + 1;
        }
        return low < v->n_epochs && v->epochs[low] <= epoch;
}

/* --- the list ----------------------------------------------------------------------------------------------------- */

static uint32_t id_bucket(const uint8_t id[16]) {
        uint64_t h;
        memcpy(&h, id, sizeof(h));
        return (uint32_t) ((h * 0x9e3779b97f4a7c15ULL) >> 32) % SNAPSHOT_BUCKETS;
}

Copy *copy_find(Engine *e, const uint8_t id[16]) {
        Copy *c;
        LIST_FOREACH(c, &e->copy_hash[id_bucket(id)], hash)
                if (memcmp(c->id, id, 16) == 0)
                        return c;
        return NULL;
}

int copy_new(const struct set_member *m, const char *label, size_t label_bytes, Copy **ret) {
        Copy *c = calloc(1, sizeof(Copy));
        if (!c)
                return -ENOMEM;
        c->label = strndup(label, label_bytes);
        if (!c->label) {
                free(c);
                return -ENOMEM;
        }
        memcpy(c->id, m->snapshot, 16);
        memcpy(c->set, m->set, 16);
        c->epoch = m->epoch;
        c->flags = m->flags & SNAPSHOT_KNOWN;
        c->created_usec = m->created_usec;
        *ret = c;
        return 0;
}

void copy_free(Copy *c) {
        if (!c)
                return;
        c->map = freemap_unref(c->map);
        free(c->label);
        free(c);
}

void copy_link(Engine *e, Copy *c, Volume *v) {
        uint32_t i = v->n_epochs;
        assert(v->n_epochs < EPOCHS_MAX);
        for (; i > 0 && v->epochs[i - 1] > c->epoch; i--) /* only a replay brings them out of order */
                v->epochs[i] = v->epochs[i - 1];
        v->epochs[i] = c->epoch;
        v->n_epochs++;
        c->volume = v;
        if (c->map)
                c->map->linked = true;
        v->tag = MAX_OF(v->tag, c->epoch);
        TAILQ_INSERT_TAIL(&e->copies, c, link);
        LIST_INSERT_HEAD(&e->copy_hash[id_bucket(c->id)], c, hash);
        e->n_copies++;
}

void copy_remove(Engine *e, Copy *c) {
        Volume *v = c->volume;
        uint32_t i = 0;
        while (v->epochs[i] != c->epoch)
                i++;
        memmove(&v->epochs[i], &v->epochs[i + 1], (v->n_epochs - i - 1) * sizeof(v->epochs[0]));
        v->n_epochs--;
        TAILQ_REMOVE(&e->copies, c, link);
        LIST_REMOVE(c, hash);
        e->n_copies--;
        e->collect_wanted = true;
        freemap_forget(c->map);
        c->gone = true;
        if (c->readers == 0)
                copy_free(c);
}

void copy_unref_reader(Copy *c) {
        assert(c->readers > 0);
        if (--c->readers == 0 && c->gone)
                copy_free(c);
}

void copy_damaged(Engine *e, Copy *c, const char *why) {
        if (c->flags & SNAPSHOT_DAMAGED)
                return;
        c->flags |= SNAPSHOT_DAMAGED;
        event_say(e, ENGINE_SNAPSHOT_DAMAGED, c->id, "%s", why);
        checkpoint_want(e, NULL);
}

void volume_damaged(Engine *e, Volume *v, const char *why) {
        Copy *c;
        TAILQ_FOREACH(c, &e->copies, link)
                if (c->volume == v)
                        copy_damaged(e, c, why);
}

static void copy_info(const Copy *c, SnapshotInfo *ret) {
        *ret = (SnapshotInfo) {
                .volume = c->volume,
                .created_usec = c->created_usec,
                .flags = c->flags,
                .epoch = c->epoch,
                .skips_free = c->map,
        };
        memcpy(ret->id, c->id, 16);
        memcpy(ret->set, c->set, 16);
        (void) strncpy(ret->label, c->label, LABEL_MAX);
}

bool engine_snapshot_next(Engine *e, unsigned *position, SnapshotInfo *ret) {
        unsigned i = 0;
        Copy *c;
        if (e->lost)
                return false;
        TAILQ_FOREACH(c, &e->copies, link)
                if (i++ == *position) {
                        (*position)++;
                        copy_info(c, ret);
                        return true;
                }
        return false;
}

bool engine_snapshot_info(Engine *e, const uint8_t id[16], SnapshotInfo *ret) {
        const Copy *c = e->lost ? NULL : copy_find(e, id);
        if (c)
                copy_info(c, ret);
        return c;
}

/* --- making ------------------------------------------------------------------------------------------------------- */

typedef struct Making {
        Control control;
        Engine *engine;
        Reply *reply;
        uint64_t token;
        unsigned n, made; /* made: copies that exist in memory */
        bool cut;         /* tags are up */
        Copy *copies[STORE_VOLUMES_MAX];
        Volume *volumes[STORE_VOLUMES_MAX];
        bool skips_free[STORE_VOLUMES_MAX];
} Making;

static void making_free(Making *m) {
        for (unsigned i = 0; i < m->n; i++) {
                if (m->copies[i])
                        freemap_forget(m->copies[i]->map);
                copy_free(m->copies[i]);
        }
        free(m);
}

static void making_drop(Control *control) {
        making_free(container_of(control, Making, control));
}

static int making_check(Making *m) {
        Engine *e = m->engine;
        Hold *h = hold_find(e, m->token);
        if (!h || !h->complete)
                return -ESTALE;
        for (unsigned i = 0; i < m->n; i++) {
                if (m->volumes[i]->hold != h)
                        return -ESTALE;
                if (copy_find(e, m->copies[i]->id))
                        return -EEXIST;
                if (m->volumes[i]->n_epochs + m->volumes[i]->cutting >= EPOCHS_MAX)
                        return -EDQUOT;
        }
        return e->n_copies + m->n > STORE_SNAPSHOTS_MAX || e->epoch == UINT32_MAX ? -EDQUOT : 0;
}

/* I2: from here on the record has its place before everything that is preserved, so the tags go up now. */
static void making_cut(Making *m) {
        m->cut = true;
        m->engine->epoch++;
        for (unsigned i = 0; i < m->n; i++) {
                Volume *v = m->volumes[i];
                m->copies[i]->epoch = m->engine->epoch;
                v->cutting++;
                FreeMap *map = m->skips_free[i] ? freemap_for_cut(v) : NULL;
                v->tag = m->engine->epoch;
                v->tag_is_ours = true;
                m->copies[i]->map = map;
                freemap_cut(v, map);
        }
}

/* How many bytes it took; 0: there are not so many. */
static uint32_t making_member(const Making *m, unsigned i, uint8_t *at, uint32_t max) {
        const Copy *c = m->copies[i];
        const FreeMap *map = m->skips_free[i] ? freemap_for_cut(m->volumes[i]) : NULL;
        size_t label = strlen(c->label), strikes = map ? map->n_strikes * sizeof(struct strike) : 0;
        size_t bytes = sizeof(struct set_member) + pad8(label) + strikes;
        struct set_member *member = (struct set_member *) at;
        if (bytes > max)
                return 0;
        *member = (struct set_member) {
                .volume = m->volumes[i]->number,
                .epoch = m->engine->epoch + 1,
                .created_usec = c->created_usec,
                .flags = c->flags,
                .label_bytes = (uint16_t) label,
                .strikes = map ? (uint16_t) map->n_strikes : 0,
                .map = map ? map->run->number : 0,
        };
        memcpy(member->snapshot, c->id, 16);
        memcpy(member->set, c->set, 16);
        memset(member + 1, 0, pad8(label));
        memcpy(member + 1, c->label, label);
        if (strikes > 0)
                memcpy((uint8_t *) (member + 1) + pad8(label), map->strikes, strikes);
        return (uint32_t) bytes;
}

static int making_members(const Making *m, uint8_t *body, uint32_t max, uint32_t *ret_bytes) {
        uint32_t at = 0;
        for (unsigned i = 0; i < m->n; i++) {
                uint32_t bytes = making_member(m, i, body + at, max - at);
                if (bytes == 0)
                        return -E2BIG;
                at += bytes;
        }
        *ret_bytes = at;
        return 0;
}

static int making_fill(Control *control, uint8_t *body, uint32_t max_bytes, uint32_t *ret_count, uint32_t *ret_bytes) {
        Making *m = container_of(control, Making, control);
        int r = making_check(m);
        if (r < 0)
                return r;
        r = making_members(m, body, max_bytes, ret_bytes);
        if (r == -E2BIG) { /* perhaps for what was struck: they do without their maps */
                memset(m->skips_free, 0, sizeof(m->skips_free));
                r = making_members(m, body, max_bytes, ret_bytes);
        }
        if (r < 0)
                return r;
        making_cut(m);
        *ret_count = m->n;
        return 0;
}

static const char *making_text(int r) {
        return r == -ESTALE ? "the hold is over or does not cover every volume" :
               r == -EEXIST ? "the id is taken" :
               r == -EDQUOT ? "too many snapshots" :
               r == -E2BIG  ? "the labels are too long together" :
                              strerror(-r);
}

static void making_durable(Control *control, int result) {
        Making *m = container_of(control, Making, control);
        Engine *e = m->engine;
        Reply *reply = m->reply;

        for (unsigned i = 0; i < m->n; i++) {
                if (m->cut)
                        m->volumes[i]->cutting--;
                if (result == 0) {
                        copy_link(e, m->copies[i], m->volumes[i]);
                        m->copies[i] = NULL;
                }
        }
        making_free(m);
        if (reply)
                reply_done(reply, result, "%s", result < 0 ? making_text(result) : "");
}

static int making_new(Engine *e, uint64_t token, const uint8_t set[16], uint64_t created_usec, const Member *members,
                      unsigned n, Making **ret) {
        Making *m = calloc(1, sizeof(Making));
        if (!m)
                return -ENOMEM;
        m->engine = e;
        m->token = token;
        m->control = (Control) {
                .type = RECORD_SNAPSHOT, .fill = making_fill, .durable = making_durable, .drop = making_drop
        };
        for (unsigned i = 0; i < n; i++) {
                struct set_member s = { .created_usec = created_usec, .flags = members[i].flags };
                const char *label = members[i].label ?: "";
                memcpy(s.snapshot, members[i].snapshot, 16);
                memcpy(s.set, set, 16);
                if (copy_new(&s, label, strnlen(label, LABEL_MAX), &m->copies[m->n]) < 0) {
                        making_free(m);
                        return -ENOMEM;
                }
                m->skips_free[m->n] = members[i].skips_free;
                m->volumes[m->n++] = members[i].volume;
        }
        *ret = m;
        return 0;
}

/* A set may not have two copies of one volume, nor two with one id. */
static bool members_differ(const Member *members, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                for (unsigned k = 0; k < i; k++)
                        if (members[i].volume == members[k].volume ||
                            memcmp(members[i].snapshot, members[k].snapshot, 16) == 0)
                                return false;
        return true;
}

void engine_snapshot(Engine *e, uint64_t token, const uint8_t set[16], uint64_t created_usec, const Member *members,
                     unsigned n, Reply *reply) {
        Making *m;
        if (n == 0 || n > STORE_VOLUMES_MAX || !members_differ(members, n)) {
                reply_done(reply, -EINVAL, "a set has 1 to %d different volumes", STORE_VOLUMES_MAX);
                return;
        }
        int r = making_new(e, token, set, created_usec, members, n, &m);
        if (r < 0) {
                reply_done(reply, r, "out of memory");
                return;
        }
        m->reply = reply;
        if (!ORDER(CUT_DURABLE_BEFORE_DONE)) {
                m->reply = NULL;
                log_control(e, &m->control);
                reply_done(reply, 0, "%s", "");
                return;
        }
        log_control(e, &m->control);
}

/* --- deleting and clearing the mark ------------------------------------------------------------------------------- */

enum { IDS_MAX = 240 }; /* fit behind the head of a record in one block */

typedef struct Naming {
        Control control;
        Engine *engine;
        Reply *reply;
        unsigned n;
        uint8_t ids[IDS_MAX][16];
} Naming;

static int naming_fill(Control *control, uint8_t *body, uint32_t max_bytes, uint32_t *ret_count, uint32_t *ret_bytes) {
        const Naming *m = container_of(control, Naming, control);
        assert(m->n * 16 <= max_bytes);
        memcpy(body, m->ids, m->n * 16);
        *ret_count = m->n;
        *ret_bytes = m->n * 16;
        return 0;
}

static void naming_apply(Naming *m) {
        for (unsigned i = 0; i < m->n; i++) {
                Copy *c = copy_find(m->engine, m->ids[i]);
                if (c && m->control.type == RECORD_DELETE)
                        copy_remove(m->engine, c);
                else if (c)
                        c->flags &= ~(uint32_t) SNAPSHOT_PENDING;
        }
}

static void naming_durable(Control *control, int result) {
        Naming *m = container_of(control, Naming, control);
        Engine *e = m->engine;
        Reply *reply = m->reply;
        if (result == 0)
                naming_apply(m);
        else
                for (unsigned i = 0; i < m->n; i++) {
                        Copy *c = copy_find(e, m->ids[i]);
                        if (c)
                                c->dying = c->dropping;
                }
        free(m);
        if (result == 0)
                merge_maybe(e);
        if (reply)
                reply_done(reply, result, "%s", result < 0 ? strerror(-result) : "");
}

static void naming_drop(Control *control) {
        free(container_of(control, Naming, control));
}

static Naming *naming_new(Engine *e, uint32_t type, Reply *reply) {
        Naming *m = calloc(1, sizeof(Naming));
        if (!m)
                return NULL;
        m->engine = e;
        m->reply = reply;
        m->control = (Control) { .type = type, .fill = naming_fill, .durable = naming_durable, .drop = naming_drop };
        return m;
}

static void naming_add(Naming *m, Copy *c) {
        memcpy(m->ids[m->n++], c->id, 16);
        if (m->control.type == RECORD_DELETE)
                c->dying = true;
}

static void naming_in_manifest(Waiter *w, int result) {
        Naming *m = w->owner;
        free(w);
        naming_durable(&m->control, result);
}

/* The log is full, and this may be what makes room: it goes with the next manifest instead (I5). */
static void naming_without_record(Naming *m) {
        Engine *e = m->engine;
        Waiter *w;
        if (waiter_new(e, naming_in_manifest, m, NULL, &w) < 0) {
                naming_durable(&m->control, -ENOMEM);
                return;
        }
        for (unsigned i = 0; i < m->n; i++) {
                Copy *c = copy_find(e, m->ids[i]);
                if (m->control.type == RECORD_DELETE)
                        c->dropping = true;
                else
                        c->flags &= ~(uint32_t) SNAPSHOT_PENDING;
        }
        checkpoint_want(e, w);
}

static void naming_submit(Naming *m) {
        Engine *e = m->engine;
        if (e->log_full) {
                naming_without_record(m);
                return;
        }
        if (!ORDER(DELETE_DURABLE_BEFORE_EFFECT) && m->control.type == RECORD_DELETE) {
                Naming early = *m;
                naming_apply(&early);
        }
        log_control(e, &m->control);
}

static void name_set(Engine *e, const uint8_t set[16], uint32_t type, bool pending_only, int none, Reply *reply) {
        bool known = false;
        Naming *m = naming_new(e, type, reply);
        if (!m) {
                reply_done(reply, -ENOMEM, "out of memory");
                return;
        }
        Copy *c;
        TAILQ_FOREACH(c, &e->copies, link) {
                if (memcmp(c->set, set, 16) != 0)
                        continue;
                if (type == RECORD_COMMIT && c->dying) { /* no partial commit */
                        free(m);
                        reply_done(reply, -ESTALE, "part of the set is gone: the store is full, or it was deleted");
                        return;
                }
                known = true;
                if (m->n < IDS_MAX && (!pending_only || c->flags & SNAPSHOT_PENDING) && !c->dying)
                        naming_add(m, c);
        }
        if (m->n == 0 || e->lost) {
                int r = e->lost ? -ENOMEDIUM : known ? 0 : none;
                free(m);
                reply_done(reply, r, "%s",
                           r == 0  ? "" :
                           e->lost ? "the store is lost" :
                                     "there is nothing of this set");
        } else
                naming_submit(m);
}

void engine_commit_set(Engine *e, const uint8_t set[16], Reply *r) {
        name_set(e, set, RECORD_COMMIT, true, -ENOENT, r);
}

void engine_delete_set(Engine *e, const uint8_t set[16], bool pending_only, Reply *r) {
        name_set(e, set, RECORD_DELETE, pending_only, 0, r);
}

void engine_delete(Engine *e, const uint8_t id[16], Reply *reply) {
        Copy *c = e->lost ? NULL : copy_find(e, id);
        if (!c || c->dying) {
                reply_done(reply, e->lost ? -ENOMEDIUM : -ENOENT, "%s",
                           e->lost ? "the store is lost" : "there is no such snapshot");
                return;
        }
        Naming *m = naming_new(e, RECORD_DELETE, reply);
        if (!m) {
                reply_done(reply, -ENOMEM, "out of memory");
                return;
        }
        naming_add(m, c);
        naming_submit(m);
}

/* --- when the store is full --------------------------------------------------------------------------------------- */

static void copy_drop(Engine *e, Copy *c) {
        c->dying = c->dropping = true;
        event_say(e, ENGINE_SNAPSHOT_DROPPED, c->id, "the store is full");
}

bool copies_drop_oldest(Engine *e) {
        Copy *c;
        TAILQ_FOREACH(c, &e->copies, link)
                if (!c->dying)
                        break;
        if (!c)
                return false;
        uint8_t set[16]; /* a set of which a part is missing is of no use (hazards D5) */
        memcpy(set, c->set, sizeof(set));
        TAILQ_FOREACH(c, &e->copies, link)
                if (!c->dying && memcmp(c->set, set, sizeof(set)) == 0)
                        copy_drop(e, c);
        return true;
}

bool copies_drop_all(Engine *e) {
        bool any = false;
        while (copies_drop_oldest(e))
                any = true;
        return any;
}

bool copies_dropped(Engine *e) {
        bool any = false;
        for (Copy *c = TAILQ_FIRST(&e->copies), *next; c; c = next) {
                next = TAILQ_NEXT(c, link);
                if (c->dropped) {
                        copy_remove(e, c);
                        any = true;
                }
        }
        return any;
}
