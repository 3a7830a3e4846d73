/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes and storage areas. A name means one volume over all stores, so whoever looks for one asks them all; only to
 * find a device nothing is started, because what nobody serves has no device.
 */
#include "providers/cow/origin.h"
#include "providers/cow/provider.h"
#include "providers/cow/unit.h"
#include <ctype.h>
#include <stdio.h>
#include <sys/stat.h>

static bool name_is_valid(const char *s) {
        size_t n = strlen(s);
        if (n == 0 || n > COW_NAME_MAX || !isalnum((unsigned char) s[0]))
                return false;
        for (; *s; s++)
                if (!isalnum((unsigned char) *s) && !strchr("._-", *s))
                        return false;
        return true;
}

typedef int (*VolumeFunction)(struct vss_call *c, CowStore *s, json_object *volume, void *userdata);

typedef struct EachVolume {
        VolumeFunction f;
        void *userdata;
} EachVolume;

static int volumes_of_store(struct vss_call *c, CowStore *s, void *userdata) {
        const EachVolume *e = userdata;
        _cleanup_(json_object_putp) json_object *answer = NULL;
        int r = cow_ask(c, s, cow_request("volumes"), &answer);
        json_object *list = r < 0 ? NULL : json_get_array(answer, "volumes");
        for (size_t i = 0; list && r == 0 && i < json_object_array_length(list); i++)
                r = e->f(c, s, json_object_array_get_idx(list, i), e->userdata);
        return r;
}

static int each_volume(struct vss_call *c, unsigned flags, VolumeFunction f, void *userdata) {
        EachVolume e = { f, userdata };
        return cow_each_store(c, flags, volumes_of_store, &e);
}

static const char *frontend_of(const char *device) {
        return cow_device_is_ublk(device) ? "ublk" : "fuse";
}

static void read_volume(const CowStore *s, json_object *o, struct vss_engine_volume *ret) {
        *ret = (struct vss_engine_volume) {
                .struct_size = sizeof(*ret),
                .size_bytes = json_get_uint(o, "bytes", 0),
                .snapshots = (uint32_t) json_get_uint(o, "snapshots", 0),
                .flags = json_get_bool(o, "attached", false) ? VSS_ENGINE_VOLUME_ATTACHED : 0,
        };
        (void) snprintf(ret->id, sizeof(ret->id), "%s", json_get_string(o, "uuid", ""));
        (void) snprintf(ret->name, sizeof(ret->name), "%s", json_get_string(o, "name", ""));
        (void) snprintf(ret->origin, sizeof(ret->origin), "%s", json_get_string(o, "origin", ""));
        (void) snprintf(ret->device, sizeof(ret->device), "%s", json_get_string(o, "device", ""));
        (void) snprintf(ret->fault, sizeof(ret->fault), "%s", json_get_string(o, "fault", ""));
        (void) snprintf(ret->storage, sizeof(ret->storage), "%s", s->id);
        (void) snprintf(ret->frontend, sizeof(ret->frontend), "%s",
                        ret->flags & VSS_ENGINE_VOLUME_ATTACHED ? frontend_of(ret->device) : "");
}

/* ---- finding ---- */

typedef struct FindCall {
        const char *name, *origin; /* what is looked for */
        struct stat file;          /* that it is */
        dev_t rdev;
        CowStore store;
        struct vss_engine_volume volume;
} FindCall;

static int take_found(FindCall *k, CowStore *s, json_object *volume) {
        read_volume(s, volume, &k->volume);
        k->store = *s;
        s->fd = -EBADF;
        return 1;
}

static int match_name(struct vss_call *c, CowStore *s, json_object *volume, void *userdata) {
        FindCall *k = userdata;
        return streq(json_get_string(volume, "name", ""), k->name) ? take_found(k, s, volume) : 0;
}

static int match_device(struct vss_call *c, CowStore *s, json_object *volume, void *userdata) {
        FindCall *k = userdata;
        const char *device = json_get_string(volume, "device", "");
        struct stat st;
        return !isempty(device) && stat(device, &st) >= 0 && S_ISBLK(st.st_mode) && st.st_rdev == k->rdev ?
                       take_found(k, s, volume) :
                       0;
}

int cow_volume_of_device(struct vss_call *c, const char *device, CowStore *ret_store, char *ret_name, size_t size) {
        FindCall k = { .store = COW_STORE_NULL };
        struct stat st;
        if (stat(device, &st) < 0 || !S_ISBLK(st.st_mode))
                return -ENOENT;
        k.rdev = st.st_rdev;
        int r = each_volume(c, COW_TOLERATE, match_device, &k);
        c->message[0] = r < 0 ? c->message[0] : '\0';
        if (r <= 0)
                return r < 0 ? r : -ENOENT;
        *ret_store = k.store;
        (void) snprintf(ret_name, size, "%s", k.volume.name);
        return 0;
}

static int find_named(struct vss_call *c, const char *name, FindCall *ret) {
        *ret = (FindCall) { .name = name, .store = COW_STORE_NULL };
        int r = name_is_valid(name) ? each_volume(c, COW_START | COW_TOLERATE, match_name, ret) : 0;
        if (r < 0)
                return r;
        if (r == 0 && c->message[0]) /* a store that could not be asked may have it */
                return -EIO;
        if (r == 0)
                return cow_fail(c, -ENOENT, "there is no volume %s", name);
        c->message[0] = '\0';
        return 0;
}

/* ---- verbs ---- */

static json_object *request_for(const char *command, const char *name) {
        json_object *q = cow_request(command);
        json_add_string(q, "name", name);
        return q;
}

/* From now on it is attached whenever its store is served, and when the machine starts. */
static int note_attached(struct vss_call *c, const FindCall *k) {
        Attached a = {};
        (void) snprintf(a.name, sizeof(a.name), "%s", k->volume.name);
        (void) snprintf(a.store, sizeof(a.store), "%s", k->store.id);
        (void) snprintf(a.origin, sizeof(a.origin), "%s", k->volume.origin);
        int r = attached_note(cow_state_directory(), &a);
        return r < 0 ? cow_fail(c, r == -ENOENT ? -EIO : r, "that volume %s is attached cannot be noted in %s/cow: %s",
                                a.name, cow_state_directory(), strerror(-r)) :
                       0;
}

int cow_volume_attach(void *state, struct vss_call *c, const char *name, struct vss_engine_volume *ret) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        FindCall k;
        int r = find_named(c, name, &k);
        if (r >= 0 && !(k.volume.flags & VSS_ENGINE_VOLUME_ATTACHED) && !(c->flags & VSS_CALL_READ_ONLY)) {
                json_object *q = request_for("volume-attach", name);
                json_add_bool(q, "force", c->flags & VSS_CALL_FORCE);
                r = cow_ask(c, &k.store, q, &answer);
                const char *moved = r >= 0 ? json_get_string(answer, "origin", "") : "";
                if (!isempty(moved)) /* its disk has another name now */
                        (void) snprintf(k.volume.origin, sizeof(k.volume.origin), "%s", moved);
                if (r >= 0)
                        r = note_attached(c, &k);
                if (r >= 0)
                        (void) snprintf(k.volume.device, sizeof(k.volume.device), "%s",
                                        json_get_string(answer, "device", ""));
                k.volume.flags |= VSS_ENGINE_VOLUME_ATTACHED;
                (void) snprintf(k.volume.frontend, sizeof(k.volume.frontend), "%s", frontend_of(k.volume.device));
        }
        cow_store_done(&k.store);
        if (r >= 0)
                *ret = k.volume;
        return r;
}

int cow_volume_detach(void *state, struct vss_call *c, const char *name) {
        FindCall k;
        int r = find_named(c, name, &k);
        if (r >= 0 && k.volume.flags & VSS_ENGINE_VOLUME_ATTACHED && !(c->flags & VSS_CALL_READ_ONLY)) {
                json_object *q = request_for("volume-detach", name);
                json_add_bool(q, "force", c->flags & VSS_CALL_FORCE);
                r = cow_ask(c, &k.store, q, NULL);
        }
        if (r >= 0 && !(c->flags & VSS_CALL_READ_ONLY))
                (void) attached_forget(cow_state_directory(), name);
        cow_store_done(&k.store);
        return r;
}

int cow_volume_remove(void *state, struct vss_call *c, const char *name) {
        bool force = c->flags & VSS_CALL_FORCE;
        FindCall k;
        int r = find_named(c, name, &k);
        if (r >= 0 && k.volume.flags & VSS_ENGINE_VOLUME_ATTACHED)
                r = cow_fail(c, -EBUSY, "volume %s is attached: `vssctl volume detach %s` first", name, name);
        else if (r >= 0 && k.volume.snapshots > 0 && !force)
                r = cow_fail(c, -EBUSY,
                             "volume %s has %u snapshots, which would go with it: delete them or use --force", name,
                             k.volume.snapshots);
        else if (r >= 0 && !(c->flags & VSS_CALL_READ_ONLY)) {
                json_object *q = request_for("volume-remove", name);
                json_add_bool(q, "force", force);
                r = cow_ask(c, &k.store, q, NULL);
                if (r >= 0)
                        (void) attached_forget(cow_state_directory(), name);
        }
        cow_store_done(&k.store);
        return r;
}

/* One origin has one history, and is nobody's store, by whatever name: hard link, bind mount or device node. */
static int match_origin(struct vss_call *c, CowStore *s, json_object *volume, void *userdata) {
        const FindCall *k = userdata;
        const char *origin = json_get_string(volume, "origin", ""), *name = json_get_string(volume, "name", "");
        const char *identity = json_get_string(volume, "identity", "");
        struct stat st;
        IdentityVerdict disk = identity[0] && S_ISBLK(k->file.st_mode) ?
                                       identity_compare("/sys", k->file.st_rdev, identity) :
                                       IDENTITY_UNKNOWN;
        if (disk == IDENTITY_ANOTHER) /* whatever name it has today */
                return 0;
        if (disk == IDENTITY_SAME || streq(origin, k->origin) ||
            (stat(origin, &st) >= 0 && file_is_same(&st, &k->file)))
                return cow_fail(c, -EBUSY, "%s is the origin of volume %s already", k->origin, name);
        return 0;
}

static int match_taken(struct vss_call *c, CowStore *s, json_object *volume, void *userdata) {
        const FindCall *k = userdata;
        const char *name = json_get_string(volume, "name", "");
        if (streq(name, k->name))
                return cow_fail(c, -EEXIST, "there is a volume %s already, over %s", name,
                                json_get_string(volume, "origin", "?"));
        return match_origin(c, s, volume, userdata);
}

static int check_options(struct vss_call *c, const char *name, const struct vss_volume_options *o) {
        static const char *const policies[] = { "drop-oldest", "drop-all", "fail-writes" };
        if (!name_is_valid(name))
                return cow_fail(c, -EINVAL,
                                "a volume's name has 1 to %d letters, digits, \".\", \"_\" and \"-\", the first a "
                                "letter or digit",
                                COW_NAME_MAX);
        if (o->policy && words_find(policies, ELEMENTSOF(policies), o->policy) < 0)
                return cow_fail(c, -EINVAL, "policy %s is none of drop-oldest, drop-all and fail-writes", o->policy);
        if (streq_null(o->frontend, "ublk") && access("/dev/ublk-control", F_OK) < 0)
                return cow_fail(c, -EOPNOTSUPP,
                                "there is no /dev/ublk-control: run \"modprobe ublk_drv\" (Linux 6.5 or later has what "
                                "is needed), or use the front end auto or fuse");
        if (o->frontend && !streq(o->frontend, "auto") && !streq(o->frontend, "fuse") && !streq(o->frontend, "ublk"))
                return cow_fail(c, -EINVAL, "front end %s is none of auto, ublk and fuse", o->frontend);
        return 0;
}

static int create_in(struct vss_call *c, CowStore *s, const char *name, const char *origin, const char *policy) {
        json_object *q = request_for("volume-create", name);
        json_add_string(q, "origin", origin);
        int r = cow_ask(c, s, q, NULL);
        if (r >= 0 && policy) {
                q = cow_request("set-policy");
                json_add_string(q, "policy", policy);
                r = cow_ask(c, s, q, NULL);
        }
        return r;
}

/* Which is that of the store. */
static int check_frontend(struct vss_call *c, CowStore *s, const char *wanted) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        if (isempty(wanted) || streq(wanted, "auto"))
                return 0;
        int r = cow_ask(c, s, cow_request("status"), &answer);
        const char *has = r < 0 ? "" : json_get_string(answer, "frontend", "");
        if (r < 0 || streq(has, wanted))
                return r;
        return cow_fail(c, -EOPNOTSUPP,
                        "the store %s serves its volumes by %s, and all of a store by the same: use --frontend=%s, or "
                        "another --store",
                        s->path, has, has);
}

/* By any volume of any store. */
static int refuse_taken(struct vss_call *c, VolumeFunction match, const char *name, const char *path) {
        FindCall k = { .name = name, .origin = path };
        if (stat(path, &k.file) < 0)
                return cow_fail(c, -errno, "%s: %s", path, strerror(errno));
        int r = each_volume(c, COW_START | COW_TOLERATE, match, &k);
        c->message[0] = r < 0 ? c->message[0] : '\0';
        return r;
}

/* Nobody has put anything into it yet. */
static void unmake_store(CowStore *s) {
        struct vss_call quiet = { .struct_size = sizeof(quiet), .set = "", .deadline_usec = UINT64_MAX };
        if (s->fd >= 0)
                (void) cow_ask(&quiet, s, cow_request("stop"), NULL);
        (void) cow_store_unregister(s);
        (void) unlink(s->path);
}

int cow_volume_create(void *state, struct vss_call *c, const char *name, const char *origin,
                      const struct vss_volume_options *o) {
        char canonical[1024];
        CowStore s = COW_STORE_NULL;
        uint64_t origin_bytes = 0, store_bytes = 0;
        bool make = false;
        int r = check_options(c, name, o);
        if (r >= 0)
                r = cow_origin_check(c, name, origin, o, canonical, sizeof(canonical), &origin_bytes);
        if (r >= 0)
                r = refuse_taken(c, match_taken, name, canonical);
        if (r >= 0)
                r = cow_store_choose(c, o, origin_bytes, &s, &store_bytes, &make);
        if (r >= 0 && !make)
                r = refuse_taken(c, match_origin, name, s.path);
        if (r < 0 || c->flags & VSS_CALL_READ_ONLY)
                return r;
        if (make) {
                (void) snprintf(s.frontend, sizeof(s.frontend), "%s", o->frontend ?: "");
                r = cow_store_make(c, &s, store_bytes);
        }
        if (r >= 0)
                r = cow_store_register(c, &s);
        if (r >= 0)
                r = cow_store_connect(c, &s, COW_START);
        if (r >= 0)
                r = check_frontend(c, &s, o->frontend);
        if (r >= 0)
                r = create_in(c, &s, name, canonical, o->policy);
        if (r < 0 && make && s.id[0])
                unmake_store(&s);
        cow_store_done(&s);
        return r;
}

typedef struct ListCall {
        vss_engine_volume_fn volume;
        vss_storage_fn storage;
        const char *id, *policy;
        uint64_t *freed;
        void *userdata;
        bool seen;
} ListCall;

static int list_one(struct vss_call *c, CowStore *s, json_object *volume, void *userdata) {
        const ListCall *k = userdata;
        struct vss_engine_volume v;
        read_volume(s, volume, &v);
        return k->volume(&v, k->userdata);
}

int cow_volume_list(void *state, struct vss_call *c, vss_engine_volume_fn found, void *userdata) {
        ListCall k = { .volume = found, .userdata = userdata };
        return each_volume(c, COW_START | COW_TOLERATE, list_one, &k);
}

/* ---- storage areas ---- */

static int list_storage(struct vss_call *c, CowStore *s, void *userdata) {
        const ListCall *k = userdata;
        _cleanup_(json_object_putp) json_object *answer = NULL;
        struct stat st = {};
        int r = cow_ask(c, s, cow_request("status"), &answer);
        if (r < 0)
                return r;
        struct vss_storage item = {
                .struct_size = sizeof(item),
                .max_bytes = json_get_uint(answer, "total_bytes", UINT64_MAX),
                .used_bytes = json_get_uint(answer, "used_bytes", 0),
        };
        if (stat(s->path, &st) >= 0 && S_ISREG(st.st_mode))
                item.allocated_bytes = (uint64_t) st.st_blocks * 512;
        else
                item.allocated_bytes = item.max_bytes;
        (void) snprintf(item.id, sizeof(item.id), "%s", s->id);
        (void) snprintf(item.path, sizeof(item.path), "%s", s->path);
        (void) snprintf(item.policy, sizeof(item.policy), "%s", json_get_string(answer, "policy", ""));
        (void) snprintf(item.fault, sizeof(item.fault), "%s", json_get_string(answer, "fault", ""));
        return k->storage(&item, k->userdata);
}

int cow_storage_list(void *state, struct vss_call *c, vss_storage_fn found, void *userdata) {
        ListCall k = { .storage = found, .userdata = userdata };
        return cow_each_store(c, COW_START | COW_TOLERATE, list_storage, &k);
}

static int change_storage(struct vss_call *c, CowStore *s, void *userdata) {
        ListCall *k = userdata;
        _cleanup_(json_object_putp) json_object *answer = NULL;
        json_object *q;
        if (!streq(s->id, k->id))
                return 0;
        k->seen = true;
        if (c->flags & VSS_CALL_READ_ONLY)
                return 1;
        q = cow_request(k->policy ? "set-policy" : "collect");
        if (k->policy)
                json_add_string(q, "policy", k->policy);
        int r = cow_ask(c, s, q, &answer);
        if (r >= 0 && k->freed)
                *k->freed = json_get_uint(answer, "freed_bytes", 0);
        return r < 0 ? r : 1;
}

static int change(struct vss_call *c, ListCall *k) {
        int r = cow_each_store(c, COW_START | COW_TOLERATE, change_storage, k);
        if (r < 0)
                return r;
        if (!k->seen)
                return c->message[0] ? -EIO : cow_fail(c, -ENOENT, "there is no store %s", k->id);
        c->message[0] = '\0';
        return 0;
}

int cow_storage_set(void *state, struct vss_call *c, const char *id, uint64_t max_bytes, const char *policy) {
        struct vss_volume_options o = { .struct_size = sizeof(o), .policy = policy };
        ListCall k = { .id = id, .policy = policy };
        int r = policy ? check_options(c, "x", &o) : -EINVAL;
        if (max_bytes != UINT64_MAX)
                r = cow_fail(c, -EOPNOTSUPP, "a store keeps the size it was made with in this version");
        return r < 0 ? r : change(c, &k);
}

int cow_storage_gc(void *state, struct vss_call *c, const char *id, uint64_t *ret_freed_bytes) {
        ListCall k = { .id = id, .freed = ret_freed_bytes };
        return change(c, &k);
}
