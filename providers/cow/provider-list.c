/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies, as the stores list them. One store clears the marks of a set in one record; several cannot do that at one
 * moment, so for these a file in finished/ is the moment: it is durable before the first mark goes, and from then on
 * the set is good and whoever lists or aborts it clears the rest.
 */
#include "providers/cow/provider.h"
#include "protocol/text.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

enum { HIDE_TRIES = 50 }; /* one second together */
#define HIDE_AGAIN_USEC (20 * USEC_PER_MSEC)

/* ---- finished sets ---- */

static int finished_path(struct vss_call *c, const char *set, char *ret, size_t size) {
        char name[64];
        (void) snprintf(name, sizeof(name), "finished/%s", set);
        return cow_state_path(c, name, ret, size);
}

static bool is_finished(struct vss_call *c, const char *set) {
        char path[LIMIT_PATH_BYTES];
        return finished_path(c, set, path, sizeof(path)) >= 0 && access(path, F_OK) >= 0;
}

static int finish(struct vss_call *c, const char *set) {
        char path[LIMIT_PATH_BYTES], directory[LIMIT_PATH_BYTES];
        int r = finished_path(c, set, path, sizeof(path));
        if (r >= 0)
                r = cow_state_path(c, "finished", directory, sizeof(directory));
        if (r < 0)
                return r;
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        _cleanup_close_ int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || dir < 0 || fsync(fd) < 0 || fsync(dir) < 0)
                return cow_fail(c, -errno, "cannot note in %s that the set is good: %s", path, strerror(errno));
        return 0;
}

static void forget_finished(struct vss_call *c, const char *set) {
        char path[LIMIT_PATH_BYTES];
        if (finished_path(c, set, path, sizeof(path)) >= 0)
                (void) unlink(path);
}

static int finished_list(struct vss_call *c, char ***ret) {
        char directory[LIMIT_PATH_BYTES];
        int r = cow_state_path(c, "finished", directory, sizeof(directory));
        DIR *d = r < 0 ? NULL : opendir(directory);
        for (struct dirent *e; d && r >= 0 && (e = readdir(d));)
                if (id_is_valid(e->d_name))
                        r = strings_append(ret, e->d_name);
        if (d)
                (void) closedir(d);
        return r;
}

/* ---- listing ---- */

typedef int (*CopyFunction)(struct vss_call *c, CowStore *s, const CowCopy *copy, void *userdata);

static void read_copy(json_object *o, CowCopy *ret) {
        struct vss_snapshot *s = &ret->snapshot;
        *ret = (CowCopy) {
                .snapshot.struct_size = sizeof(*s),
                .snapshot.created_at = json_get_uint(o, "created_usec", 0),
                .snapshot.size_bytes = json_get_uint(o, "bytes", 0),
                .frozen = json_get_bool(o, "frozen", false),
                .damaged = json_get_bool(o, "damaged", false),
                .unverified = json_get_bool(o, "unverified", false),
        };
        (void) snprintf(s->id, sizeof(s->id), "%s", json_get_string(o, "id", ""));
        (void) snprintf(s->set, sizeof(s->set), "%s", json_get_string(o, "set", ""));
        (void) snprintf(s->volume, sizeof(s->volume), "%s", json_get_string(o, "label", ""));
        (void) snprintf(s->device, sizeof(s->device), "%s", json_get_string(o, "device", ""));
        (void) snprintf(ret->volume, sizeof(ret->volume), "%s", json_get_string(o, "volume", ""));
        s->flags = (json_get_bool(o, "persistent", false) ? VSS_REQUEST_PERSISTENT : 0) |
                   (json_get_bool(o, "pending", false) ? VSS_SNAPSHOT_PENDING : 0);
        s->damaged = ret->damaged || ret->unverified;
}

typedef struct EachCopy {
        const char *set;
        CopyFunction f;
        void *userdata;
} EachCopy;

/* Page after page. 1: the caller has seen enough. */
static int list_store(struct vss_call *c, CowStore *s, void *userdata) {
        const EachCopy *e = userdata;
        for (int64_t from = 0; from >= 0;) {
                _cleanup_(json_object_putp) json_object *answer = NULL;
                json_object *q = cow_request("list"), *list, *next = NULL;
                json_add_string(q, "set", e->set);
                json_add_uint(q, "from", (uint64_t) from);
                int r = cow_ask(c, s, q, &answer);
                if (r < 0)
                        return r;
                list = json_get_array(answer, "snapshots");
                for (size_t i = 0; list && i < json_object_array_length(list); i++) {
                        CowCopy copy;
                        read_copy(json_object_array_get_idx(list, i), &copy);
                        r = e->f(c, s, &copy, e->userdata);
                        if (r != 0)
                                return r;
                }
                int64_t after = json_object_object_get_ex(answer, "next", &next) ? json_object_get_int64(next) : -1;
                if (after >= 0 && after <= from)
                        return cow_fail(c, -EIO, "the store at %s lists in circles", s->path);
                from = after;
        }
        return 0;
}

static int each_copy(struct vss_call *c, const char *set, CopyFunction f, void *userdata) {
        EachCopy e = { set, f, userdata };
        return cow_each_store(c, COW_START | COW_TOLERATE, list_store, &e);
}

typedef struct ListCall {
        vss_snapshot_fn found;
        void *userdata;
} ListCall;

static int clear_mark_of(struct vss_call *c, CowStore *s, const char *set) {
        json_object *q = cow_request("clear-mark");
        json_add_string(q, "set", set);
        return cow_ask(c, s, q, NULL);
}

static int list_one(struct vss_call *c, CowStore *s, const CowCopy *copy, void *userdata) {
        ListCall *l = userdata;
        struct vss_snapshot item = copy->snapshot;
        if (item.flags & VSS_SNAPSHOT_PENDING && is_finished(c, item.set)) {
                int r = clear_mark_of(c, s, item.set);
                if (r < 0)
                        return r;
                item.flags &= ~(uint32_t) VSS_SNAPSHOT_PENDING;
        }
        return l->found(&item, l->userdata);
}

int cow_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata) {
        _cleanup_(strings_freep) char **notes = NULL;
        ListCall l = { found, userdata };
        bool all = isempty(c->set);
        int r = all ? finished_list(c, &notes) : 0;
        if (r >= 0)
                r = each_copy(c, c->set, list_one, &l);
        /* every store has been asked since these were written, so none has a mark of theirs left */
        for (char **set = notes; r >= 0 && set && *set && !c->message[0]; set++)
                forget_finished(c, *set);
        return r;
}

/* ---- the mark ---- */

typedef struct SetCall {
        const char *command;
        unsigned stores, pending; /* that have something of the set; of these with the mark */
        bool marked;
} SetCall;

static int count_one(struct vss_call *c, CowStore *s, const CowCopy *copy, void *userdata) {
        SetCall *k = userdata;
        k->marked |= copy->snapshot.flags & VSS_SNAPSHOT_PENDING;
        k->stores |= 1;
        return 0;
}

static int count_store(struct vss_call *c, CowStore *s, void *userdata) {
        SetCall *total = userdata, here = {};
        EachCopy e = { c->set, count_one, &here };
        int r = list_store(c, s, &e);
        total->stores += here.stores;
        total->pending += here.marked;
        return r;
}

static int ask_about_set(struct vss_call *c, CowStore *s, void *userdata) {
        const SetCall *k = userdata;
        json_object *q = cow_request(k->command);
        json_add_string(q, "set", c->set);
        int r = cow_ask(c, s, q, NULL);
        return r == -ENOENT ? 0 : MIN_OF(r, 0);
}

static int clear_everywhere(struct vss_call *c) {
        SetCall k = { .command = "clear-mark" };
        int r = cow_each_store(c, COW_START | COW_TOLERATE, ask_about_set, &k);
        if (r >= 0 && c->message[0]) /* one could not be reached: the note stays for it */
                return 0;
        if (r >= 0)
                forget_finished(c, c->set);
        return r;
}

int cow_clear_mark(void *state, struct vss_call *c) {
        SetCall k = {};
        int r = cow_each_store(c, COW_START | COW_TOLERATE, count_store, &k);
        if (r < 0)
                return r;
        if (k.stores == 0)
                return cow_fail(c, -ENOENT, "there is nothing of set %s", c->set);
        if (k.stores > 1 && k.pending > 0) {
                r = finish(c, c->set);
                if (r < 0)
                        return r;
        }
        return clear_everywhere(c);
}

/* A set that is finished is none to abort: what is left of its marks goes instead. */
int cow_abort(struct vss_call *c) {
        SetCall k = { .command = "abort" };
        if (is_finished(c, c->set))
                return clear_everywhere(c);
        return MIN_OF(cow_each_store(c, COW_START | COW_TOLERATE, ask_about_set, &k), 0);
}

/* ---- one copy ---- */

typedef struct FindCall {
        const char *id;
        CowStore store;
        CowCopy copy;
} FindCall;

static int find_one(struct vss_call *c, CowStore *s, const CowCopy *copy, void *userdata) {
        FindCall *k = userdata;
        if (!streq(copy->snapshot.id, k->id))
                return 0;
        k->copy = *copy;
        k->store = *s;
        s->fd = -EBADF; /* it is ours now */
        return 1;
}

int cow_copy_find(struct vss_call *c, const char *snapshot, CowStore *ret_store, CowCopy *ret) {
        FindCall k = { .id = snapshot, .store = COW_STORE_NULL };
        int r = each_copy(c, c->set, find_one, &k);
        if (r < 0)
                return r;
        if (r == 0 && c->message[0]) /* a store that could not be asked may have it */
                return -EIO;
        if (r == 0)
                return cow_fail(c, -ENOENT, "there is no copy %s", snapshot);
        *ret_store = k.store;
        *ret = k.copy;
        c->message[0] = '\0';
        return 0;
}

static json_object *request_for(const char *command, const char *id) {
        json_object *q = cow_request(command);
        json_add_string(q, "id", id);
        return q;
}

/* Takes request. */
static int ask_device(struct vss_call *c, CowStore *s, json_object *request, char *ret, size_t size) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        int r = cow_ask(c, s, request, &answer);
        if (r < 0)
                return r;
        int n = snprintf(ret, size, "%s", json_get_string(answer, "device", ""));
        return n <= 0 || (size_t) n >= size ? cow_fail(c, -EIO, "the store at %s gave no device", s->path) : 0;
}

int cow_copy_expose(struct vss_call *c, CowStore *s, const char *snapshot, char *ret, size_t size) {
        return ask_device(c, s, request_for("expose", snapshot), ret, size);
}

/* Beside the store; a store that is a device has no beside, so then where our state lies. */
int cow_copy_overlay(struct vss_call *c, CowStore *s, const char *snapshot, char *ret, size_t size) {
        char directory[LIMIT_PATH_BYTES] = "";
        struct stat st;
        int r = stat(s->path, &st) < 0 || S_ISREG(st.st_mode) ? 0 : cow_state_path(c, "", directory, sizeof(directory));
        if (r < 0)
                return r;
        json_object *q = request_for("expose", snapshot);
        json_add_string(q, "overlay", directory);
        return ask_device(c, s, q, ret, size);
}

int cow_copy_hide(struct vss_call *c, CowStore *s, const char *snapshot, const char *device, bool *ret_full) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        json_object *q = request_for("hide", snapshot);
        json_add_string(q, "device", device);
        int r = cow_ask(c, s, q, &answer);
        *ret_full = r >= 0 && json_get_bool(answer, "overlay_full", false);
        return r;
}

int cow_copy_end_with_use(struct vss_call *c, CowStore *s, const char *snapshot, const char *device) {
        json_object *q = request_for("end-with-use", snapshot);
        json_add_string(q, "device", device);
        return cow_ask(c, s, q, NULL);
}

/* Whoever looks at all devices (udev, losetup -a) has this one open for a moment, just after it was unmounted, too. */
static int hide_patiently(struct vss_call *c, CowStore *s, const char *snapshot) {
        int r;
        for (unsigned i = 0; (r = cow_ask(c, s, request_for("hide", snapshot), NULL)) == -EBUSY && i < HIDE_TRIES; i++)
                (void) usleep(HIDE_AGAIN_USEC);
        return r;
}

int cow_remove(void *state, struct vss_call *c, const char *snapshot) {
        CowStore s = COW_STORE_NULL;
        CowCopy copy;
        int r = cow_copy_find(c, snapshot, &s, &copy);
        if (r >= 0)
                r = hide_patiently(c, &s, snapshot);
        if (r == -EBUSY)
                (void) cow_fail(c, r, "copy %s is in use as %s: unmount or close it", snapshot,
                                copy.snapshot.device[0] ? copy.snapshot.device : "a device");
        if (r >= 0)
                r = cow_ask(c, &s, request_for("delete", snapshot), NULL);
        cow_store_done(&s);
        return r;
}

int cow_open(void *state, struct vss_call *c, const char *snapshot) {
        CowStore s = COW_STORE_NULL;
        CowCopy copy;
        char device[256];
        struct stat st;
        int r = cow_copy_find(c, snapshot, &s, &copy);
        if (r >= 0)
                r = cow_copy_expose(c, &s, snapshot, device, sizeof(device));
        cow_store_done(&s);
        if (r < 0)
                return r;
        _cleanup_close_ int fd = open(device, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return cow_fail(c, -errno, "%s cannot be opened: %s", device, strerror(errno));
        if (!S_ISBLK(st.st_mode))
                return cow_fail(c, -EIO, "%s is no block device", device);
        if (copy.damaged || copy.unverified)
                (void) cow_fail(c, 0, "copy %s is %s", snapshot, copy.damaged ? "damaged" : "unverified");
        return TAKE_FD(fd);
}
