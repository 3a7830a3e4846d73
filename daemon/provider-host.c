/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-provider-host: runs the code of one provider, so that what it does wrong costs one process. It answers one
 * request at a time over the socket it finds at descriptor 3, and goes when that ends. While it is inside a call it
 * cannot see the end of the socket; the parent-death signal, or what takes its place where vssd has only connected
 * (provider-attach.h), and the SIGKILL of vssd at the deadline see to that.
 *
 * What a provider gets from here is checked: ids, terminated strings, the order of the steps of a set, one set per
 * process. What it gives back is checked by vssd, for which this process is as untrusted as any.
 *
 * Of root's capabilities these remain, for the providers that storage needs: SYS_ADMIN (mount, snapshot and device
 * ioctls, trusted attributes), DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER and CHOWN (copies belong to anybody), MKNOD
 * (device nodes), IPC_LOCK, SYS_NICE and SYS_RESOURCE (the window: locked memory, scheduling, I/O flusher), SYS_CHROOT
 * (vss-cow, which is started from here, enters mount namespaces).
 */
#include "daemon/capabilities.h"
#include "daemon/child.h"
#include "daemon/provider-attach.h"
#include "daemon/provider-listen.h"
#include "daemon/provider-window.h"
#include "protocol/urgency.h"
#include "providers/loader.h"
#include "providers/wire.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

typedef struct Host {
        LoadedProvider provider;
        bool loaded;
        unsigned stage;     /* of the last step that was done */
        bool failed;        /* a step failed: only abort and what is outside sets may follow */
        unsigned n_volumes; /* begin_prepare so far */
        char set[VSS_WIRE_ID];
        struct vss_wire_request request;
        struct vss_wire_reply reply;
        int fd; /* that came with the request */
} Host;

static Host host = { .fd = -EBADF };

/* Errors of the contract; see vss-provider.h. */
static int normalize(int r) {
        static const int known[] = {
                ENOMEM, EINVAL,  EACCES, ENOENT,    ENOSPC, EDQUOT, EOPNOTSUPP, EBUSY,  EIO,
                ESTALE, EUCLEAN, EXDEV,  ECANCELED, ETIME,  EAGAIN, EPERM,      EEXIST,
        };
        if (r >= 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(known); i++)
                if (known[i] == -r)
                        return r;
        return -EREMOTEIO;
}

static void call_begin(Host *h, struct vss_call *ret) {
        bool window = h->request.op >= VSS_WIRE_PRE_COMMIT && h->request.op <= VSS_WIRE_POST_COMMIT;
        *ret = (struct vss_call) {
                .struct_size = sizeof(*ret),
                .set = h->request.set,
                .deadline_usec = h->request.deadline_usec,
                .cancel_fd = window ? -1 : CHILD_SOCKET_FD, /* nothing is sent during a call: readable is the end */
                .flags = h->request.flags,
        };
}

static int call_end(Host *h, const struct vss_call *c, int r) {
        _Static_assert(sizeof(c->message) == sizeof(h->reply.message), "a message fits");
        memcpy(h->reply.message, c->message, sizeof(c->message));
        h->reply.message[sizeof(h->reply.message) - 1] = '\0';
        return normalize(r);
}

static int load_failed(Host *h, const Failure *failure) {
        memcpy(h->reply.message, failure->message, sizeof(h->reply.message));
        return normalize(-condition_errno(failure->condition));
}

static int handle_load(Host *h) {
        Failure failure = {};
        if (!streq(h->request.text, VSS_VERSION)) {
                (void) failure_set(&failure, CONDITION_NOT_SUPPORTED,
                                   "vss-provider-host is version %s and vssd another: restart vssd", VSS_VERSION);
                return load_failed(h, &failure);
        }
        if (provider_load(h->request.name, &h->provider, &failure) < 0 || provider_start(&h->provider, &failure) < 0)
                return load_failed(h, &failure);
        h->loaded = true;
        h->reply.capabilities = h->provider.capabilities;
        h->reply.priority = h->provider.table.priority;
        (void) snprintf(h->reply.text, sizeof(h->reply.text), "%s", h->provider.table.version);
        return 0;
}

static const char *text_or_null(const char *s) {
        return isempty(s) ? NULL : s;
}

static void volume_begin(const Host *h, struct vss_volume *ret) {
        const struct vss_wire_request *q = &h->request;
        *ret = (struct vss_volume) {
                .struct_size = sizeof(*ret),
                .name = q->volume,
                .mount_point = text_or_null(q->mount_point),
                .device = text_or_null(q->device),
                .fs_type = text_or_null(q->fs_type),
                .fs_uuid = text_or_null(q->fs_uuid),
                .dev = q->dev,
                .subvolume = q->subvolume,
                .size_bytes = q->size_bytes,
                .root_fd = h->fd >= 0 ? h->fd : -1,
        };
}

static int handle_probe(Host *h) {
        struct vss_call c;
        struct vss_volume v;
        struct vss_probe probe = { .struct_size = sizeof(probe) };
        call_begin(h, &c);
        volume_begin(h, &v);
        int r = h->provider.table.probe(h->provider.state, &c, &v, &probe);
        h->reply.capabilities = probe.capabilities;
        h->reply.free_bytes = probe.free_bytes;
        return call_end(h, &c, r);
}

static int handle_begin_prepare(Host *h) {
        struct vss_call c;
        struct vss_volume v;
        if (h->n_volumes == VSS_VOLUMES_MAX) {
                (void) snprintf(h->reply.message, sizeof(h->reply.message), "%s: a set has at most %d volumes",
                                h->provider.table.name, VSS_VOLUMES_MAX);
                return -EDQUOT;
        }
        const struct vss_request q = {
                .struct_size = sizeof(q),
                .snapshot = h->request.snapshot,
                .storage = text_or_null(h->request.name),
                .mode = text_or_null(h->request.text),
                .flags = h->request.request_flags,
        };
        call_begin(h, &c);
        volume_begin(h, &v);
        int r = h->provider.table.begin_prepare(h->provider.state, &c, &v, &q);
        if (r >= 0)
                h->n_volumes++;
        return call_end(h, &c, r);
}

static int handle_step(Host *h) {
        const struct vss_provider *p = &h->provider.table;
        const vss_step_fn steps[_VSS_WIRE_OP_MAX] = {
                [VSS_WIRE_END_PREPARE] = p->end_prepare,
                [VSS_WIRE_PRE_COMMIT] = p->pre_commit,
                [VSS_WIRE_HOLD] = p->hold,
                [VSS_WIRE_COMMIT] = p->commit,
                [VSS_WIRE_RELEASE] = p->release,
                [VSS_WIRE_POST_COMMIT] = p->post_commit,
                [VSS_WIRE_PRE_FINAL] = p->pre_final,
                [VSS_WIRE_POST_FINAL] = p->post_final,
                [VSS_WIRE_ABORT] = p->abort,
                [VSS_WIRE_CLEAR_MARK] = p->clear_mark,
        };
        struct vss_call c;
        int r = 0;
        window_before(h->request.op);
        call_begin(h, &c);
        if (steps[h->request.op])
                r = steps[h->request.op](h->provider.state, &c);
        if (r >= 0)
                window_after(h->request.op);
        return call_end(h, &c, r);
}

static void copy_text(char *ret, size_t size, const char *s, size_t max) {
        size_t n = strnlen(s, MIN_OF(size - 1, max));
        memcpy(ret, s, n);
        memset(ret + n, 0, size - n);
}

/* One item of a list, straight onto the socket: nobody's memory grows with the number of copies. */
static int list_found(const struct vss_snapshot *item, void *userdata) {
        Host *h = userdata;
        struct vss_wire_reply *reply = &h->reply;
        struct vss_snapshot s = {};
        memcpy(&s, item, MIN_OF((size_t) item->struct_size, sizeof(s)));
        reply->more = 1;
        reply->created_at = s.created_at;
        reply->size_bytes = s.size_bytes;
        reply->used_bytes = s.used_bytes;
        reply->snapshot_flags = s.flags & (VSS_REQUEST_PERSISTENT | VSS_REQUEST_WRITABLE);
        reply->pending = s.flags & VSS_SNAPSHOT_PENDING ? 1 : 0;
        reply->reverting = (s.flags & VSS_SNAPSHOT_REVERTING) != 0, reply->gone = (s.flags & VSS_SNAPSHOT_GONE) != 0;
        reply->damaged = s.damaged;
        copy_text(reply->id, sizeof(reply->id), s.id, sizeof(s.id));
        copy_text(reply->set, sizeof(reply->set), s.set, sizeof(s.set));
        copy_text(reply->volume, sizeof(reply->volume), s.volume, sizeof(s.volume));
        copy_text(reply->device, sizeof(reply->device), s.device, sizeof(s.device));
        copy_text(reply->path, sizeof(reply->path), s.path, sizeof(s.path));
        copy_text(reply->token, sizeof(reply->token), s.token, sizeof(s.token));
        return child_send(CHILD_SOCKET_FD, reply, sizeof(*reply), -1);
}

static void reply_begin(Host *h) {
        h->reply = (struct vss_wire_reply) { .op = h->request.op, .serial = h->request.serial };
}

static int handle_list(Host *h) {
        struct vss_call c;
        call_begin(h, &c);
        int r = h->provider.table.list(h->provider.state, &c, list_found, h);
        reply_begin(h);
        return call_end(h, &c, r);
}

static int unsupported(Host *h, const char *what) {
        (void) snprintf(h->reply.message, sizeof(h->reply.message), "%s: cannot %s", h->provider.table.name, what);
        return -EOPNOTSUPP;
}

static int handle_remove(Host *h) {
        struct vss_call c;
        call_begin(h, &c);
        return call_end(h, &c, h->provider.table.remove(h->provider.state, &c, h->request.snapshot));
}

static int handle_mount(Host *h) {
        struct vss_call c;
        const struct vss_provider *p = &h->provider.table;
        call_begin(h, &c);
        if (h->request.op == VSS_WIRE_MOUNT)
                return p->mount ?
                               call_end(h, &c, p->mount(h->provider.state, &c, h->request.snapshot, h->request.path)) :
                               unsupported(h, "mount a copy");
        return p->unmount ? call_end(h, &c, p->unmount(h->provider.state, &c, h->request.path)) :
                            unsupported(h, "unmount a copy");
}

/* What a revert says on its way, straight onto the socket: a copy that goes with it, or how far it is. */
static void revert_item(enum vss_wire_kind kind, const char *id, double fraction) {
        reply_begin(&host), host.reply.more = 1, host.reply.kind = kind;
        host.reply.progress = (uint32_t) (MAX_OF(0.0, MIN_OF(fraction, 1.0)) * VSS_WIRE_PROGRESS_MAX);
        copy_text(host.reply.id, sizeof(host.reply.id), id, VSS_ID_LENGTH);
        (void) child_send(CHILD_SOCKET_FD, &host.reply, sizeof(host.reply), -1);
}
static void revert_lost(struct vss_call *c, const char *snapshot) {
        revert_item(VSS_WIRE_IS_LOST, snapshot, 0);
}
static void revert_progress(struct vss_call *c, double fraction) {
        revert_item(VSS_WIRE_IS_PROGRESS, "", fraction);
}
static int handle_revert(Host *h) {
        struct vss_call c;
        if (!h->provider.table.revert)
                return unsupported(h, "revert a volume to a copy");
        call_begin(h, &c);
        c.safety = isempty(c.set) ? NULL : text_or_null(h->request.safety);
        c.lost = revert_lost, c.progress = revert_progress;
        int r = h->provider.table.revert(h->provider.state, &c, h->request.snapshot);
        h->reply.more = 0;
        return call_end(h, &c, r);
}

static int handle_open(Host *h) {
        struct vss_call c;
        call_begin(h, &c);
        if (!h->provider.table.open)
                return unsupported(h, "open a copy");
        int r = h->provider.table.open(h->provider.state, &c, h->request.snapshot);
        h->fd = close_fd(h->fd);
        if (r >= 0)
                h->fd = r; /* goes out with the reply */
        return call_end(h, &c, MIN_OF(r, 0));
}

static int handle_diff(Host *h) {
        struct vss_call c;
        call_begin(h, &c);
        if (!h->provider.table.diff)
                return unsupported(h, "tell what changed");
        return call_end(h, &c,
                        h->provider.table.diff(h->provider.state, &c, h->request.path, h->request.snapshot, h->fd));
}

/* Storage areas and volumes, straight onto the socket like copies. */
static int storage_found(const struct vss_storage *item, void *userdata) {
        Host *h = userdata;
        struct vss_wire_reply *reply = &h->reply;
        struct vss_storage s = {};
        memcpy(&s, item, MIN_OF((size_t) item->struct_size, sizeof(s)));
        reply_begin(h);
        reply->more = 1;
        reply->kind = VSS_WIRE_IS_STORAGE;
        reply->max_bytes = s.max_bytes;
        reply->used_bytes = s.used_bytes;
        reply->allocated_bytes = s.allocated_bytes;
        copy_text(reply->name, sizeof(reply->name), s.id, sizeof(s.id));
        copy_text(reply->path, sizeof(reply->path), s.path, sizeof(s.path));
        copy_text(reply->policy, sizeof(reply->policy), s.policy, sizeof(s.policy));
        copy_text(reply->fault, sizeof(reply->fault), s.fault, sizeof(s.fault));
        return child_send(CHILD_SOCKET_FD, reply, sizeof(*reply), -1);
}

static void volume_fill(struct vss_wire_reply *reply, const struct vss_engine_volume *item) {
        struct vss_engine_volume v = {};
        memcpy(&v, item, MIN_OF((size_t) item->struct_size, sizeof(v)));
        reply->kind = VSS_WIRE_IS_VOLUME;
        reply->size_bytes = v.size_bytes;
        reply->attached = v.flags & VSS_ENGINE_VOLUME_ATTACHED ? 1 : 0;
        reply->snapshots = v.snapshots;
        copy_text(reply->id, sizeof(reply->id), v.id, sizeof(v.id));
        copy_text(reply->name, sizeof(reply->name), v.name, sizeof(v.name));
        copy_text(reply->path, sizeof(reply->path), v.origin, sizeof(v.origin));
        copy_text(reply->device, sizeof(reply->device), v.device, sizeof(v.device));
        copy_text(reply->storage, sizeof(reply->storage), v.storage, sizeof(v.storage));
        copy_text(reply->frontend, sizeof(reply->frontend), v.frontend, sizeof(v.frontend));
        copy_text(reply->fault, sizeof(reply->fault), v.fault, sizeof(v.fault));
}

static int volume_found(const struct vss_engine_volume *item, void *userdata) {
        Host *h = userdata;
        reply_begin(h);
        h->reply.more = 1;
        volume_fill(&h->reply, item);
        return child_send(CHILD_SOCKET_FD, &h->reply, sizeof(h->reply), -1);
}

static int handle_inventory(Host *h) {
        const struct vss_provider *p = &h->provider.table;
        struct vss_call c;
        call_begin(h, &c);
        int r = p->storage_list ? p->storage_list(h->provider.state, &c, storage_found, h) : 0;
        if (r >= 0 && p->volume_list)
                r = p->volume_list(h->provider.state, &c, volume_found, h);
        reply_begin(h);
        return call_end(h, &c, r);
}

static int handle_volume_create(Host *h) {
        const struct vss_wire_request *q = &h->request;
        const struct vss_volume_options o = {
                .struct_size = sizeof(o),
                .store = text_or_null(q->volume),
                .frontend = text_or_null(q->text),
                .policy = text_or_null(q->fs_type),
                .store_max_bytes = q->size_bytes,
        };
        struct vss_call c;
        call_begin(h, &c);
        return call_end(h, &c, h->provider.table.volume_create(h->provider.state, &c, q->name, q->path, &o));
}

static int handle_volume(Host *h) {
        const struct vss_provider *p = &h->provider.table;
        struct vss_engine_volume v = { .struct_size = sizeof(v) };
        struct vss_call c;
        int r;
        if (!p->volume_create || !p->volume_attach || !p->volume_detach || !p->volume_remove)
                return unsupported(h, "make volumes");
        if (h->request.op == VSS_WIRE_VOLUME_CREATE)
                return handle_volume_create(h);
        call_begin(h, &c);
        if (h->request.op == VSS_WIRE_VOLUME_DETACH)
                return call_end(h, &c, p->volume_detach(h->provider.state, &c, h->request.name));
        if (h->request.op == VSS_WIRE_VOLUME_REMOVE)
                return call_end(h, &c, p->volume_remove(h->provider.state, &c, h->request.name));
        r = p->volume_attach(h->provider.state, &c, h->request.name, &v);
        if (r >= 0)
                volume_fill(&h->reply, &v);
        return call_end(h, &c, r);
}

static int handle_storage(Host *h) {
        const struct vss_provider *p = &h->provider.table;
        const struct vss_wire_request *q = &h->request;
        struct vss_call c;
        if (q->op == VSS_WIRE_STORAGE_SET ? !p->storage_set : !p->storage_gc)
                return unsupported(h, "manage storage areas");
        call_begin(h, &c);
        if (q->op == VSS_WIRE_STORAGE_GC)
                return call_end(h, &c, p->storage_gc(h->provider.state, &c, q->name, &h->reply.free_bytes));
        return call_end(h, &c, p->storage_set(h->provider.state, &c, q->name, q->size_bytes, text_or_null(q->text)));
}

enum {
        NEEDS_SET = 1 << 0,
        NEEDS_SNAPSHOT = 1 << 1,
        NEEDS_VOLUME = 1 << 2,
        NEEDS_PATH = 1 << 3,
        NEEDS_FD = 1 << 4,
        OF_SEQUENCE = 1 << 5, /* a step whose order matters; may come again where REPEATS is said */
        REPEATS = 1 << 6,
        ENDS = 1 << 7,       /* the set is over for this process */
        NEEDS_NAME = 1 << 8, /* of a volume of the provider's own or a storage area */
};

static const struct {
        int (*handle)(Host *h);
        unsigned flags;
} requests[_VSS_WIRE_OP_MAX] = {
        [VSS_WIRE_LOAD] = { handle_load, 0 },
        [VSS_WIRE_PROBE] = { handle_probe, NEEDS_VOLUME },
        [VSS_WIRE_BEGIN_PREPARE] = { handle_begin_prepare,
                                     NEEDS_SET | NEEDS_SNAPSHOT | NEEDS_VOLUME | OF_SEQUENCE | REPEATS },
        [VSS_WIRE_END_PREPARE] = { handle_step, NEEDS_SET | OF_SEQUENCE },
        [VSS_WIRE_PRE_COMMIT] = { handle_step, NEEDS_SET | OF_SEQUENCE },
        [VSS_WIRE_HOLD] = { handle_step, NEEDS_SET | OF_SEQUENCE },
        [VSS_WIRE_COMMIT] = { handle_step, NEEDS_SET | OF_SEQUENCE },
        [VSS_WIRE_RELEASE] = { handle_step, NEEDS_SET | OF_SEQUENCE | REPEATS },
        [VSS_WIRE_POST_COMMIT] = { handle_step, NEEDS_SET | OF_SEQUENCE },
        [VSS_WIRE_PRE_FINAL] = { handle_step, NEEDS_SET | OF_SEQUENCE | REPEATS },
        [VSS_WIRE_POST_FINAL] = { handle_step, NEEDS_SET | OF_SEQUENCE | REPEATS },
        [VSS_WIRE_ABORT] = { handle_step, NEEDS_SET | ENDS },
        [VSS_WIRE_CLEAR_MARK] = { handle_step, NEEDS_SET },
        [VSS_WIRE_LIST] = { handle_list, 0 },
        [VSS_WIRE_REMOVE] = { handle_remove, NEEDS_SNAPSHOT },
        [VSS_WIRE_MOUNT] = { handle_mount, NEEDS_SNAPSHOT | NEEDS_PATH },
        [VSS_WIRE_UNMOUNT] = { handle_mount, NEEDS_PATH },
        [VSS_WIRE_OPEN] = { handle_open, NEEDS_SNAPSHOT },
        [VSS_WIRE_REVERT] = { handle_revert, NEEDS_SNAPSHOT },
        [VSS_WIRE_DIFF] = { handle_diff, NEEDS_SNAPSHOT | NEEDS_FD },
        [VSS_WIRE_INVENTORY] = { handle_inventory, 0 },
        [VSS_WIRE_VOLUME_CREATE] = { handle_volume, NEEDS_NAME | NEEDS_PATH },
        [VSS_WIRE_VOLUME_ATTACH] = { handle_volume, NEEDS_NAME },
        [VSS_WIRE_VOLUME_DETACH] = { handle_volume, NEEDS_NAME },
        [VSS_WIRE_VOLUME_REMOVE] = { handle_volume, NEEDS_NAME },
        [VSS_WIRE_STORAGE_SET] = { handle_storage, NEEDS_NAME },
        [VSS_WIRE_STORAGE_GC] = { handle_storage, NEEDS_NAME },
};

static int reject(Host *h, const char *why) {
        (void) snprintf(h->reply.message, sizeof(h->reply.message), "vss-provider-host: %s", why);
        return -EINVAL;
}

/* hold and release come before and after commit, so the numbers of the operations are the order of the steps. */
static int check_order(Host *h, unsigned flags) {
        unsigned op = h->request.op;
        if (h->set[0] && !streq(h->set, h->request.set))
                return reject(h, "this process works for another set");
        /* what was held is let go whatever happened */
        if (h->failed && !(op == VSS_WIRE_RELEASE && h->stage >= VSS_WIRE_HOLD))
                return reject(h, "an earlier step failed: only abort can follow");
        if (op == VSS_WIRE_BEGIN_PREPARE ? h->stage > op : h->stage < VSS_WIRE_BEGIN_PREPARE)
                return reject(h, "begin-prepare comes first");
        if (h->stage > op || (h->stage == op && !(flags & REPEATS)))
                return reject(h, "this step has been done already");
        if (op > VSS_WIRE_COMMIT && h->stage < VSS_WIRE_COMMIT && op != VSS_WIRE_RELEASE)
                return reject(h, "commit comes first");
        return 0;
}

static int check_request(Host *h) {
        const struct vss_wire_request *q = &h->request;
        if (q->op >= _VSS_WIRE_OP_MAX || !requests[q->op].handle)
                return reject(h, "unknown request");
        unsigned flags = requests[q->op].flags;
        if ((q->op == VSS_WIRE_LOAD) == h->loaded)
                return reject(h, h->loaded ? "a provider is loaded already" : "no provider is loaded");
        if (!isempty(q->set) ? !id_is_valid(q->set) : flags & NEEDS_SET)
                return reject(h, "the id of the set is not valid");
        if (!isempty(q->snapshot) ? !id_is_valid(q->snapshot) : flags & NEEDS_SNAPSHOT)
                return reject(h, "the id of the snapshot is not valid");
        if (flags & NEEDS_VOLUME && isempty(q->volume))
                return reject(h, "the volume has no name");
        if (flags & NEEDS_NAME && isempty(q->name))
                return reject(h, "the name is empty");
        if (flags & NEEDS_PATH && q->path[0] != '/')
                return reject(h, "the directory is not an absolute path");
        if (flags & NEEDS_FD && h->fd < 0)
                return reject(h, "a descriptor is missing");
        return flags & OF_SEQUENCE ? check_order(h, flags) : 0;
}

static bool request_is_terminated(const struct vss_wire_request *q) {
        const struct {
                const char *s;
                size_t size;
        } texts[] = {
                { q->set, sizeof(q->set) },
                { q->snapshot, sizeof(q->snapshot) },
                { q->safety, sizeof(q->safety) },
                { q->name, sizeof(q->name) },
                { q->text, sizeof(q->text) },
                { q->volume, sizeof(q->volume) },
                { q->mount_point, sizeof(q->mount_point) },
                { q->device, sizeof(q->device) },
                { q->fs_type, sizeof(q->fs_type) },
                { q->fs_uuid, sizeof(q->fs_uuid) },
                { q->path, sizeof(q->path) },
        };
        for (size_t i = 0; i < ELEMENTSOF(texts); i++)
                if (!memchr(texts[i].s, 0, texts[i].size))
                        return false;
        return true;
}

static void handle(Host *h) {
        reply_begin(h);
        int r = check_request(h);
        bool rejected = r < 0;
        unsigned op = h->request.op;
        if (!rejected)
                r = requests[op].handle(h);
        h->reply.result = r;
        if (rejected)
                return;
        unsigned flags = requests[op].flags;
        if (flags & OF_SEQUENCE) {
                memcpy(h->set, h->request.set, sizeof(h->set));
                h->failed = h->failed || r < 0;
                h->stage = MAX_OF(h->stage, op);
        }
        if (flags & ENDS && r >= 0) {
                h->set[0] = '\0';
                h->failed = false;
                h->stage = h->n_volumes = 0;
        }
}

/* Until the socket ends, or vssd says so. */
static int serve(Host *h) {
        for (;;) {
                int r = child_receive(CHILD_SOCKET_FD, &h->request, sizeof(h->request), &h->fd);
                if (r == 0) { /* whoever made the socket made it non-blocking */
                        struct pollfd p = { .fd = CHILD_SOCKET_FD, .events = POLLIN };
                        (void) poll(&p, 1, -1);
                        continue;
                }
                if (r < 0)
                        return r == -EPIPE ? 0 : r;
                if (!request_is_terminated(&h->request))
                        return -EBADMSG;
                if (h->request.op == VSS_WIRE_EXIT)
                        return 0;
                handle(h);
                bool with_fd = h->request.op == VSS_WIRE_OPEN && h->reply.result >= 0;
                r = child_send(CHILD_SOCKET_FD, &h->reply, sizeof(h->reply), with_fd ? h->fd : -1);
                h->fd = close_fd(h->fd);
                if (r < 0)
                        return r == -EPIPE ? 0 : r;
        }
}

/* SYS_PTRACE is for vss-cow: who has a device open that is to be taken away. */
static const unsigned capabilities[] = {
        CAP_SYS_ADMIN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER,     CAP_CHOWN,      CAP_MKNOD,
        CAP_IPC_LOCK,  CAP_SYS_NICE,     CAP_SYS_RESOURCE,    CAP_SYS_CHROOT, CAP_SYS_PTRACE,
};

/* 0, or what keeps it from being vssd's. */
static int begin(bool attach) {
        if (attach)
                return provider_attach(CHILD_SOCKET_FD);
        return prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 ? -errno : 0;
}

int main(int argc, char *argv[]) {
        struct stat st;
        bool attach = argc == 2 && streq(argv[1], "--attach");
        int idle_msec = argc == 2 ? provider_listen_option(argv[1]) : 0;
        if (argc != 1 + (attach || idle_msec > 0) || fstat(CHILD_SOCKET_FD, &st) < 0 || !S_ISSOCK(st.st_mode)) {
                (void) fprintf(stderr, "vss-provider-host: started for vssd only, with a socket at descriptor %d\n",
                               CHILD_SOCKET_FD);
                return EXIT_FAILURE;
        }
        (void) umask(077);
        (void) signal(SIGPIPE, SIG_IGN);
        if (idle_msec > 0)
                return provider_listen(CHILD_SOCKET_FD, argv[0], idle_msec) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
        int r = begin(attach);
        if (r == -EPIPE) /* it is not wanted any more */
                return EXIT_SUCCESS;
        if (r < 0) {
                (void) fprintf(stderr, "vss-provider-host: cannot work for whoever has connected: %s\n", strerror(-r));
                return EXIT_FAILURE;
        }
        (void) prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
        (void) fcntl(CHILD_SOCKET_FD, F_SETFD, FD_CLOEXEC);
        capabilities_keep(capabilities, ELEMENTSOF(capabilities));
        urgency_set(URGENCY_USUAL); /* it was started with URGENCY_LATER */
        r = serve(&host);
        provider_stop(&host.provider);
        /* The provider's threads, handlers and destructors are not waited for. */
        _exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}
