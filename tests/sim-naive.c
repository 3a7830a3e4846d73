/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An engine as one would write it in an afternoon: before a block is overwritten its old content is read and written to
 * the store, and a table there says what is where; nothing waits for anything to be durable, and a snapshot is a number
 * in the table. It works as long as nobody pulls the plug. The simulator has to notice what is wrong with it; it is the
 * subset of engine.h that takes. The store: block 0 is the table, then 64 blocks for each volume of each snapshot.
 */
#include "protocol/base.h"
#include "providers/cow/engine.h"
#include <stdio.h>

enum { VOLUMES = 3, BLOCKS = 64, SNAPS = 48, TABLE_BLOCKS = 8, NONE = 0xff };

struct Volume {
        uint8_t uuid[16];
        uint64_t bytes;
        uint32_t number, disk, used, attached;
        char name[16];
};

typedef struct NaiveSnap {
        uint8_t id[16], set[16];
        uint32_t used, volume, flags, padding;
        uint64_t kept; /* one bit a block */
} NaiveSnap;

typedef struct Table {
        Volume volumes[VOLUMES];
        NaiveSnap snaps[SNAPS];
        uint32_t n;
} Table;

_Static_assert(sizeof(Table) <= (size_t) TABLE_BLOCKS * BLOCK_SIZE, "the table");

struct Engine {
        Disk *disk;
        union {
                Table table;
                uint8_t bytes[TABLE_BLOCKS * BLOCK_SIZE];
        };
        uint64_t token, held;
        unsigned writing; /* requests that change something */
        Reply *hold_reply;
        STAILQ_HEAD(, Request) gated;
};

/* Something that is with the disk, and what comes then. */
typedef struct Job {
        Io io;
        Engine *engine;
        Request *request;
        Reply *reply;
        unsigned left;
        void (*next)(struct Job *j);
        uint8_t *copy;
} Job;

static void job_done(Io *io, int result) {
        Job *j = io->owner;
        j->next(j);
}

static Job *job_new(Engine *e, Request *q, Reply *r, void (*next)(Job *)) {
        Job *j = calloc(1, sizeof(Job));
        if (!j)
                abort();
        j->engine = e;
        j->request = q;
        j->reply = r;
        j->next = next;
        return j;
}

static void job_submit(Job *j, IoOp op, unsigned disk, uint64_t offset, size_t length, void *buffer) {
        j->io = (Io) { .op = op,
                       .disk = disk,
                       .offset = offset,
                       .length = length,
                       .buffer = buffer,
                       .done = job_done,
                       .owner = j };
        disk_submit(j->engine->disk, &j->io);
}

static void job_free(Job *j) {
        free(j->copy);
        free(j);
}

static void answer(Job *j) {
        Reply *r = j->reply;
        job_free(j);
        if (r)
                r->done(r, 0);
}

static void table_write(Engine *e, Reply *r) {
        Job *j = job_new(e, NULL, r, answer);
        j->copy = aligned_alloc(BLOCK_SIZE, sizeof(e->bytes));
        if (!j->copy)
                abort();
        memcpy(j->copy, e->bytes, sizeof(e->bytes));
        job_submit(j, IO_WRITE, DISK_STORE, 0, sizeof(e->bytes), j->copy);
}

/* --- life --------------------------------------------------------------------------------------------------------- */

int engine_new(const EngineOptions *o, Engine **ret) {
        Engine *e = aligned_alloc(BLOCK_SIZE, (sizeof(Engine) + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE);
        if (!e)
                return -ENOMEM;
        memset(e, 0, sizeof(*e));
        e->disk = o->disk;
        STAILQ_INIT(&e->gated);
        *ret = e;
        return 0;
}

Engine *engine_free(Engine *e) {
        free(e);
        return NULL;
}

void engine_format(Engine *e, const uint8_t uuid[16], uint32_t segments, uint32_t segment_blocks, Reply *r) {
        table_write(e, r);
}

static void table_read(Job *j) {
        memcpy(j->engine->bytes, j->copy, sizeof(j->engine->bytes));
        for (unsigned i = 0; i < VOLUMES; i++)
                j->engine->table.volumes[i].attached = false;
        answer(j);
}

void engine_open(Engine *e, Reply *r) {
        Job *j = job_new(e, NULL, r, table_read);
        j->copy = aligned_alloc(BLOCK_SIZE, sizeof(e->bytes));
        if (!j->copy)
                abort();
        job_submit(j, IO_READ, DISK_STORE, 0, sizeof(e->bytes), j->copy);
}

void engine_stop(Engine *e, Reply *r) {
        table_write(e, r);
}

void engine_stats(const Engine *e, EngineStats *ret) {
        *ret = (EngineStats) { .snapshots = e->table.n };
}

/* --- volumes ------------------------------------------------------------------------------------------------------ */

Volume *engine_volume_by_name(Engine *e, const char *name) {
        for (unsigned i = 0; i < VOLUMES; i++)
                if (e->table.volumes[i].used && streq(e->table.volumes[i].name, name))
                        return &e->table.volumes[i];
        return NULL;
}

void engine_volume_info(const Volume *v, VolumeInfo *ret) {
        *ret = (VolumeInfo) { .number = v->number, .bytes = v->bytes, .attached = v->attached };
        (void) snprintf(ret->name, sizeof(ret->name), "%s", v->name);
}

void engine_volume_create(Engine *e, const uint8_t uuid[16], const char *name, const char *origin, uint64_t bytes,
                          Reply *r) {
        for (unsigned i = 0; i < VOLUMES; i++) {
                Volume *v = &e->table.volumes[i];
                if (v->used)
                        continue;
                *v = (Volume) { .bytes = bytes, .number = i, .used = true };
                (void) snprintf(v->name, sizeof(v->name), "%s", name);
                table_write(e, r);
                return;
        }
        r->done(r, -EDQUOT);
}

void engine_attach(Engine *e, Volume *v, unsigned disk, Reply *r) {
        v->disk = disk;
        v->attached = true;
        r->done(r, 0);
}

static void no_reply(Reply *r) {
        (void) snprintf(r->message, sizeof(r->message), "not here");
        r->done(r, -ENOSPC);
}

void engine_volume_remove(Engine *e, Volume *v, bool force, Reply *r) {
        no_reply(r);
}

void engine_detach(Engine *e, Volume *v, const uint8_t stamp[88], Reply *r) {
        no_reply(r);
}

int engine_track(Engine *e, Volume *v) {
        return -EOPNOTSUPP;
}

void engine_free_map(Engine *e, Volume *v, const FreeExtent *x, uint32_t n, Reply *r) {
        no_reply(r);
}

void engine_untrack(Engine *e, Volume *v) {
}

void engine_volume_unverified(Engine *e, Volume *v, Reply *r) {
        no_reply(r);
}

/* --- data --------------------------------------------------------------------------------------------------------- */

static void request_end(Job *j) {
        Engine *e = j->engine;
        Request *q = j->request;
        bool changes = q->op != REQUEST_READ && q->op != REQUEST_FLUSH;
        job_free(j);
        q->done(q, 0);
        if (!changes || --e->writing > 0 || !e->hold_reply)
                return;
        Reply *r = TAKE_PTR(e->hold_reply);
        r->done(r, 0);
}

static uint64_t place(const Engine *e, const NaiveSnap *s, uint64_t block) {
        return (TABLE_BLOCKS + (uint64_t) (s - e->table.snaps) * BLOCKS + block) * BLOCK_SIZE;
}

static NaiveSnap *newest(Engine *e, const Volume *v) {
        NaiveSnap *found = NULL;
        for (unsigned i = 0; i < e->table.n; i++)
                if (e->table.snaps[i].used && e->table.snaps[i].volume == v->number)
                        found = &e->table.snaps[i];
        return found;
}

/* The old content is there: it goes to the store, and the new one goes where it belongs, at once. */
static void old_read(Job *j) {
        static const IoOp ops[] = { [REQUEST_WRITE] = IO_WRITE, [REQUEST_ZERO] = IO_ZERO };
        Engine *e = j->engine;
        Request *q = j->request;
        uint64_t first = q->offset / BLOCK_SIZE, last = (q->offset + q->length - 1) / BLOCK_SIZE;
        NaiveSnap *s = newest(e, q->volume);
        bool kept = false;
        for (uint64_t b = first; s && b <= last; b++) {
                if (s->kept >> b & 1)
                        continue;
                Job *keep = job_new(e, NULL, NULL, answer);
                keep->copy = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
                if (!keep->copy)
                        abort();
                memcpy(keep->copy, j->copy + (b - first) * BLOCK_SIZE, BLOCK_SIZE);
                job_submit(keep, IO_WRITE, DISK_STORE, place(e, s, b), BLOCK_SIZE, keep->copy);
                s->kept |= 1ULL << b;
                kept = true;
        }
        if (kept)
                table_write(e, NULL);
        j->next = request_end;
        job_submit(j, ops[q->op], q->volume->disk, q->offset, q->length, q->op == REQUEST_WRITE ? q->buffer : NULL);
}

static void blocks_read(Engine *e, Request *q, void (*next)(Job *)) {
        Volume *v = q->volume;
        uint64_t first = q->offset / BLOCK_SIZE * BLOCK_SIZE;
        uint64_t end = MIN_OF((q->offset + q->length + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE, v->bytes);
        Job *j = job_new(e, q, NULL, next);
        j->copy = aligned_alloc(BLOCK_SIZE, (end - first + BLOCK_SIZE) / BLOCK_SIZE * BLOCK_SIZE);
        if (!j->copy)
                abort();
        job_submit(j, IO_READ, v->disk, first, end - first, j->copy);
}

static NaiveSnap *snap_find(Engine *e, const uint8_t id[16]) {
        for (unsigned i = 0; i < e->table.n; i++)
                if (e->table.snaps[i].used && memcmp(e->table.snaps[i].id, id, 16) == 0)
                        return &e->table.snaps[i];
        return NULL;
}

static void piece_read(Job *j) {
        Job *all = (Job *) j->reply; /* the request's */
        Request *q = all->request;
        uint64_t begin = j->left * (uint64_t) BLOCK_SIZE, from = MAX_OF(begin, q->offset);
        uint64_t to = MIN_OF(begin + BLOCK_SIZE, q->offset + q->length);
        memcpy((uint8_t *) q->buffer + (from - q->offset), j->copy + (from - begin), to - from);
        job_free(j);
        if (--all->left == 0)
                request_end(all);
}

/* Block by block, from the first snapshot that kept it, or the volume. */
static void snap_read(Engine *e, Request *q) {
        const NaiveSnap *from = snap_find(e, q->snapshot);
        uint64_t first = q->offset / BLOCK_SIZE, last = (q->offset + q->length - 1) / BLOCK_SIZE;
        if (!from) {
                q->done(q, -ENOENT);
                return;
        }
        Job *all = job_new(e, q, NULL, NULL);
        all->left = (unsigned) (last - first + 1);
        for (uint64_t b = first; b <= last; b++) {
                const NaiveSnap *s = from;
                while (s < &e->table.snaps[e->table.n] && !(s->used && s->volume == from->volume && s->kept >> b & 1))
                        s++;
                Job *j = job_new(e, NULL, (Reply *) all, piece_read);
                bool kept = s < &e->table.snaps[e->table.n];
                uint64_t at = kept ? place(e, s, b) : b * BLOCK_SIZE;
                j->left = (unsigned) b;
                j->copy = aligned_alloc(BLOCK_SIZE, BLOCK_SIZE);
                if (!j->copy)
                        abort();
                job_submit(j, IO_READ, kept ? DISK_STORE : q->volume->disk, at,
                           kept ? BLOCK_SIZE : MIN_OF((uint64_t) BLOCK_SIZE, q->volume->bytes - at), j->copy);
        }
}

void engine_submit(Engine *e, Request *q) {
        if (q->op == REQUEST_READ && q->snapshot)
                snap_read(e, q);
        else if (q->op == REQUEST_READ)
                job_submit(job_new(e, q, NULL, request_end), IO_READ, q->volume->disk, q->offset, q->length, q->buffer);
        else if (q->op == REQUEST_FLUSH)
                job_submit(job_new(e, q, NULL, request_end), IO_FLUSH, q->volume->disk, 0, 0, NULL);
        else if (e->held)
                STAILQ_INSERT_TAIL(&e->gated, q, link);
        else {
                e->writing++;
                blocks_read(e, q, old_read);
        }
}

/* --- snapshots ---------------------------------------------------------------------------------------------------- */

void engine_hold(Engine *e, Volume *const *volumes, unsigned n, uint64_t *ret_token, Reply *r) {
        e->held = *ret_token = ++e->token;
        if (e->writing > 0)
                e->hold_reply = r;
        else
                r->done(r, 0);
}

bool engine_release(Engine *e, uint64_t token) {
        STAILQ_HEAD(, Request) list = STAILQ_HEAD_INITIALIZER(list);
        Request *q;
        bool complete = e->held == token && !e->hold_reply;
        if (e->held != token)
                return false;
        e->held = 0;
        STAILQ_CONCAT(&list, &e->gated);
        while ((q = STAILQ_FIRST(&list))) {
                STAILQ_REMOVE_HEAD(&list, link);
                engine_submit(e, q);
        }
        if (!complete) {
                Reply *r = TAKE_PTR(e->hold_reply);
                r->done(r, -ECANCELED);
        }
        return complete;
}

void engine_snapshot(Engine *e, uint64_t token, const uint8_t set[16], uint64_t created_usec, const Member *members,
                     unsigned n, Reply *r) {
        if (token != e->held || e->hold_reply) {
                r->done(r, -ESTALE);
                return;
        }
        if (e->table.n + n > SNAPS) {
                r->done(r, -EDQUOT);
                return;
        }
        for (unsigned i = 0; i < n; i++) {
                NaiveSnap *s = &e->table.snaps[e->table.n++];
                *s = (NaiveSnap) { .used = true, .volume = members[i].volume->number, .flags = members[i].flags };
                memcpy(s->id, members[i].snapshot, 16);
                memcpy(s->set, set, 16);
        }
        table_write(e, r);
}

void engine_delete(Engine *e, const uint8_t id[16], Reply *r) {
        NaiveSnap *s = snap_find(e, id);
        if (!s) {
                r->done(r, -ENOENT);
                return;
        }
        s->used = false;
        table_write(e, r);
}

void engine_commit_set(Engine *e, const uint8_t set[16], Reply *r) {
        no_reply(r);
}

void engine_delete_set(Engine *e, const uint8_t set[16], bool pending_only, Reply *r) {
        no_reply(r);
}

static void snap_tell(Engine *e, const NaiveSnap *s, SnapshotInfo *ret) {
        *ret = (SnapshotInfo) { .volume = &e->table.volumes[s->volume], .flags = s->flags };
        memcpy(ret->id, s->id, 16);
        memcpy(ret->set, s->set, 16);
}

bool engine_snapshot_next(Engine *e, unsigned *position, SnapshotInfo *ret) {
        while (*position < e->table.n && !e->table.snaps[*position].used)
                (*position)++;
        if (*position >= e->table.n)
                return false;
        snap_tell(e, &e->table.snaps[(*position)++], ret);
        return true;
}

bool engine_snapshot_info(Engine *e, const uint8_t id[16], SnapshotInfo *ret) {
        const NaiveSnap *s = snap_find(e, id);
        if (s)
                snap_tell(e, s, ret);
        return s;
}

void engine_checkpoint(Engine *e, Reply *r) {
        table_write(e, r);
}

void engine_collect(Engine *e, Reply *r) {
        table_write(e, r);
}

void engine_set_policy(Engine *e, uint32_t policy, Reply *r) {
        r->done(r, 0);
}
