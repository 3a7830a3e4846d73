/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The steps of a set. begin_prepare finds the volume behind a device and keeps the connection to its store: a hold
 * belongs to its connection, so that the gates open when this process dies. hold closes the gates, one hold per store;
 * commit hands each store the token of its hold, and a store whose gate has opened since refuses; release says whether
 * the gates were still closed, and if one was not the copies are no instant (hazards B1). Every copy of every store
 * carries the pending mark until clear_mark, so a set over several stores is all or nothing.
 */
#include "providers/builtin.h"
#include "providers/cow/provider.h"
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>

enum { WINDOW_HEAP_BYTES = 4 * 1024 * 1024 };

typedef struct CowMember {
        unsigned store;
        char volume[COW_NAME_MAX + 1], snapshot[VSS_ID_SIZE], label[1024];
        bool persistent, frozen, skip_free;
} CowMember;

static struct { /* of the one set this process works for */
        CowStore stores[COW_STORES_MAX];
        char tokens[COW_STORES_MAX][128]; /* "": no hold of ours */
        unsigned n_stores;
        CowMember members[VSS_VOLUMES_MAX];
        unsigned n_members;
} set;

void cow_store_done(CowStore *s) {
        s->fd = close_fd(s->fd);
}

static int contract_errno(int r) {
        switch (r) {
        case -EPIPE:
        case -EPROTO:
        case -ECONNREFUSED:
        case -EMSGSIZE:
                return -EIO;
        case -EDEADLK:
        case -EMEDIUMTYPE:
                return -EOPNOTSUPP;
        case -EMFILE: /* so many are shown at once */
                return -EDQUOT;
        default:
                return r;
        }
}

int cow_fail(struct vss_call *c, int r, const char *format, ...) {
        char text[sizeof(c->message) - 8];
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        (void) snprintf(c->message, sizeof(c->message), "cow: %s", text);
        return contract_errno(r);
}

static void forget_set(void) {
        for (unsigned i = 0; i < set.n_stores; i++)
                cow_store_done(&set.stores[i]);
        set.n_stores = set.n_members = 0;
        memset(set.tokens, 0, sizeof(set.tokens));
}

static uint64_t cow_capabilities(void *state) {
        return VSS_CAP_HOLDS | VSS_CAP_REDIRECT | VSS_CAP_DEVICE | VSS_CAP_DIRECTORY | VSS_CAP_PERSISTENT |
               VSS_CAP_STORAGE | VSS_CAP_VOLUMES;
}

static int cow_probe(void *state, struct vss_call *c, const struct vss_volume *v, struct vss_probe *ret) {
        CowStore s = COW_STORE_NULL;
        char name[COW_NAME_MAX + 1];
        json_object *status = NULL;
        int r = v->device ? cow_volume_of_device(c, v->device, &s, name, sizeof(name)) : -ENOENT;
        if (r == -ENOENT)
                return cow_fail(c, -EOPNOTSUPP,
                                "%s is no engine volume; `vssctl volume create NAME --origin=DEVICE` makes one of a "
                                "device or image file that is not mounted",
                                v->name);
        if (r >= 0)
                r = cow_ask(c, &s, cow_request("status"), &status);
        if (r >= 0) {
                ret->capabilities = cow_capabilities(state);
                ret->free_bytes = json_get_uint(status, "free_bytes", UINT64_MAX);
                if (!isempty(json_get_string(status, "fault", "")))
                        r = cow_fail(c, -EIO,
                                     "the store of volume %s at %s is lost: detach the volume, remove it "
                                     "with --force and create it again",
                                     name, s.path);
        }
        (void) json_object_put(status);
        cow_store_done(&s);
        return r;
}

static int take_store(CowStore *s, unsigned *ret) {
        for (unsigned i = 0; i < set.n_stores; i++)
                if (streq(set.stores[i].id, s->id)) {
                        cow_store_done(s);
                        *ret = i;
                        return 0;
                }
        if (set.n_stores == COW_STORES_MAX)
                return -EDQUOT;
        *ret = set.n_stores;
        set.stores[set.n_stores++] = *s;
        return 0;
}

static int cow_begin_prepare(void *state, struct vss_call *c, const struct vss_volume *v, const struct vss_request *q) {
        if (set.n_members == VSS_VOLUMES_MAX)
                return cow_fail(c, -EDQUOT, "%s would be volume %d of the set, %d are allowed", v->name,
                                VSS_VOLUMES_MAX + 1, VSS_VOLUMES_MAX);
        CowStore s = COW_STORE_NULL;
        CowMember *m = &set.members[set.n_members];
        *m = (CowMember) { .persistent = q->flags & VSS_REQUEST_PERSISTENT, .frozen = v->mount_point != NULL };
        int r = v->device ? cow_volume_of_device(c, v->device, &s, m->volume, sizeof(m->volume)) : -ENOENT;
        if (r == -ENOENT)
                return cow_fail(c, -EOPNOTSUPP, "%s is no engine volume any more", v->name);
        if (r >= 0)
                r = take_store(&s, &m->store);
        if (r < 0) {
                cow_store_done(&s);
                return r == -EDQUOT ? cow_fail(c, r, "a set has volumes of at most %d stores", COW_STORES_MAX) : r;
        }
        (void) snprintf(m->snapshot, sizeof(m->snapshot), "%s", q->snapshot);
        (void) snprintf(m->label, sizeof(m->label), "%s", v->name);
        CowStore *store = &set.stores[m->store];
        if (q->flags & VSS_REQUEST_SKIP_FREE)
                m->skip_free = cow_free_skip(c, store, m->volume, v);
        set.n_members++;
        return store->fd >= 0 ? 0 : -EIO;
}

/* What the window will ask of the heap is there before it, and the host locks it right after this. */
static int cow_end_prepare(void *state, struct vss_call *c) {
        (void) mallopt(M_TRIM_THRESHOLD, 16 * WINDOW_HEAP_BYTES);
        (void) mallopt(M_MMAP_THRESHOLD, 16 * WINDOW_HEAP_BYTES);
        void *heap = malloc(WINDOW_HEAP_BYTES);
        if (heap)
                memset(heap, 1, WINDOW_HEAP_BYTES);
        free(heap);
        return heap ? 0 : -ENOMEM;
}

static json_object *member_names(unsigned store) {
        json_object *names = json_object_new_array();
        for (unsigned i = 0; i < set.n_members; i++) {
                bool again = set.members[i].store != store;
                for (unsigned k = 0; k < i; k++) /* the same volume twice: contract tests do that */
                        again |= set.members[k].store == store && streq(set.members[k].volume, set.members[i].volume);
                if (!again)
                        (void) json_object_array_add(names, json_object_new_string(set.members[i].volume));
        }
        return names;
}

/* In the order of their ids: two sets that meet in several stores cannot wait for each other. */
static int by_id(const void *a, const void *b) {
        const unsigned *x = a, *y = b;
        return strcmp(set.stores[*x].id, set.stores[*y].id);
}

static int hold_store(struct vss_call *c, unsigned store) {
        json_object *q = cow_request("hold"), *answer = NULL;
        (void) json_object_object_add(q, "volumes", member_names(store));
        json_add_uint(q, "deadline_usec", MIN_OF(c->deadline_usec, (uint64_t) INT64_MAX));
        int r = cow_ask(c, &set.stores[store], q, &answer);
        if (r < 0)
                return r;
        (void) snprintf(set.tokens[store], sizeof(set.tokens[store]), "%s", json_get_string(answer, "token", ""));
        (void) json_object_put(answer);
        return set.tokens[store][0] ? 0 : cow_fail(c, -EIO, "store %s gave no token", set.stores[store].path);
}

static int cow_hold(void *state, struct vss_call *c) {
        unsigned order[COW_STORES_MAX];
        int r = 0;
        for (unsigned i = 0; i < set.n_stores; i++)
                order[i] = i;
        qsort(order, set.n_stores, sizeof(order[0]), by_id);
        for (unsigned i = 0; i < set.n_stores && r >= 0; i++)
                r = hold_store(c, order[i]);
        return r;
}

static json_object *member_new(const CowMember *m) {
        json_object *o = json_object_new_object();
        json_add_string(o, "id", m->snapshot);
        json_add_string(o, "volume", m->volume);
        json_add_string(o, "label", m->label);
        json_add_bool(o, "persistent", m->persistent);
        json_add_bool(o, "frozen", m->frozen);
        json_add_bool(o, "pending", true);
        json_add_bool(o, "skip_free", m->skip_free);
        return o;
}

static int commit_store(struct vss_call *c, unsigned store, uint64_t created_usec) {
        json_object *q = cow_request("snapshot"), *members = json_object_new_array();
        for (unsigned i = 0; i < set.n_members; i++)
                if (set.members[i].store == store)
                        (void) json_object_array_add(members, member_new(&set.members[i]));
        json_add_string(q, "token", set.tokens[store]);
        json_add_string(q, "set", c->set);
        json_add_uint(q, "created_usec", created_usec);
        (void) json_object_object_add(q, "members", members);
        return cow_ask(c, &set.stores[store], q, NULL);
}

static int cow_commit(void *state, struct vss_call *c) {
        uint64_t created_usec = clock_usec(CLOCK_REALTIME);
        int r = 0;
        for (unsigned i = 0; i < set.n_stores; i++)
                if (!set.tokens[i][0])
                        return cow_fail(c, -EINVAL, "commit without a hold");
        for (unsigned i = 0; i < set.n_stores && r >= 0; i++)
                r = commit_store(c, i, created_usec);
        return r;
}

/* All of them, whatever one says; the first that had opened is the answer. */
static int cow_release(void *state, struct vss_call *c) {
        int first = 0;
        for (unsigned i = 0; i < set.n_stores; i++) {
                json_object *q, *answer = NULL;
                if (!set.tokens[i][0])
                        continue;
                q = cow_request("release");
                json_add_string(q, "token", set.tokens[i]);
                set.tokens[i][0] = '\0';
                int r = cow_ask(c, &set.stores[i], q, &answer);
                if (r >= 0 && !json_get_bool(answer, "held", false))
                        r = cow_fail(c, -ETIME, "the gate of store %s had opened by itself: its copies are no instant",
                                     set.stores[i].path);
                if (r < 0) /* the connection's end opens it too */
                        cow_store_done(&set.stores[i]);
                if (r < 0 && first >= 0)
                        first = r;
                (void) json_object_put(answer);
        }
        return first;
}

/* First of all the gates, by the end of the connections; then whatever was committed. */
static int cow_step_abort(void *state, struct vss_call *c) {
        forget_set();
        return cow_abort(c);
}

const struct vss_provider cow_provider = {
        VSS_PROVIDER,
        .priority = 90,
        .name = "cow",
        .version = VSS_VERSION,
        .capabilities = cow_capabilities,
        .probe = cow_probe,
        .begin_prepare = cow_begin_prepare,
        .end_prepare = cow_end_prepare,
        .hold = cow_hold,
        .commit = cow_commit,
        .release = cow_release,
        .abort = cow_step_abort,
        .list = cow_list,
        .remove = cow_remove,
        .mount = cow_mount,
        .unmount = cow_unmount,
        .open = cow_open,
        .storage_list = cow_storage_list,
        .storage_set = cow_storage_set,
        .storage_gc = cow_storage_gc,
        .clear_mark = cow_clear_mark,
        .volume_create = cow_volume_create,
        .volume_attach = cow_volume_attach,
        .volume_detach = cow_volume_detach,
        .volume_remove = cow_volume_remove,
        .volume_list = cow_volume_list,
};
