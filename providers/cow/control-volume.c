/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commands about volumes. Each is a chain of steps: what opens a path or touches a device is asked of the holder,
 * what changes the store of the engine, and the answer of one starts the next. A step that fails undoes what came
 * before it, so that a volume is either attached with its device or not at all.
 */
#include "protocol/jsonutil.h"
#include "providers/cow/origin.h"
#include "providers/cow/server.h"
#include <stdio.h>
#include <sys/random.h>

static const char *call_name(const Call *c) {
        return json_get_string(c->request, "name", "");
}

static bool is_stop(const Call *c) {
        return streq(json_get_string(c->request, "command", ""), "stop");
}

bool control_volume_is_taken(const Call *c, const Volume *v) {
        const Call *other;
        LIST_FOREACH(other, &c->server->calls, link)
                if (other != c && (is_stop(other) || (v ? other->volume == v : other->volume || other->disk)))
                        return true;
        return false;
}

/* The volume the call is about; false: it cannot be had, which was answered. */
static bool call_volume(Call *c) {
        Volume *v = engine_volume_by_name(c->server->engine, call_name(c));
        if (!v) {
                call_end(c, -ENOENT, "there is no such volume in this store");
                return false;
        }
        if (control_volume_is_taken(c, v)) {
                call_end(c, -EBUSY, "it is just being attached, detached or removed");
                return false;
        }
        c->volume = v;
        return true;
}

static bool is_attached(const Volume *v) {
        VolumeInfo info;
        engine_volume_info(v, &info);
        return info.attached;
}

/* A disk number nobody has, or 0. Taken while a call is on its way to attach it. */
static unsigned disk_free(const Server *s) {
        for (unsigned disk = DISK_FIRST_ORIGIN; disk < DISK_FIRST_OVERLAY; disk++) {
                const Call *c;
                bool taken = s->fds[disk] >= 0 || s->map.shared->origins[disk].attached;
                LIST_FOREACH(c, &s->calls, link)
                        taken = taken || c->disk == disk;
                if (!taken)
                        return disk;
        }
        return 0;
}

static void simply_ended(Call *c, int result) {
        call_end(c, result, c->reply.message);
}

/* --- create ------------------------------------------------------------------------------------------------------- */

static void create_claimed(Call *c) {
        uint8_t uuid[16];
        if (getrandom(uuid, sizeof(uuid), 0) != sizeof(uuid)) {
                call_end(c, -EIO, "no random numbers");
                return;
        }
        uuid[6] = (uuid[6] & 0x0f) | 0x40;
        uuid[8] = (uuid[8] & 0x3f) | 0x80;
        engine_volume_create(c->server->engine, uuid, call_name(c), json_get_string(c->request, "origin", ""),
                             (uint64_t) c->origin.st_size, call_step(c, simply_ended));
}

/* One origin, two histories: what one of them writes the other does not preserve. */
static void create_taken(Call *c, const VolumeInfo *by) {
        char text[HOLDER_TEXT_MAX];
        (void) snprintf(text, sizeof(text), "it is the origin of volume %s already, there called %.200s", by->name,
                        by->origin);
        call_end(c, -EEXIST, text);
}

static void create_compare(Call *c);

/* A path that leads nowhere does not lead to our origin. */
static void create_compared(Call *c, const HolderReply *p, int fd) {
        _cleanup_close_ int found = fd;
        const Volume *v = engine_volume_by_number(c->server->engine, (unsigned) c->before - 1);
        VolumeInfo info;
        struct stat st;
        if (v)
                engine_volume_info(v, &info);
        if (v && p->result < 0 && p->result != -ENOENT && p->result != -ENOTDIR)
                call_end(c, p->result, p->text);
        else if (v && found >= 0 && fstat(found, &st) == 0 && file_is_same(&st, &c->origin))
                create_taken(c, &info);
        else
                create_compare(c);
}

/* What had this path once may have another today: only where ours does not tell, the path does. */
static void create_disk_compared(Call *c, const HolderReply *p, int fd) {
        const Volume *v = engine_volume_by_number(c->server->engine, (unsigned) c->before - 1);
        VolumeInfo info;
        (void) close_fd(fd);
        if (v)
                engine_volume_info(v, &info);
        if (p->result < 0)
                call_end(c, p->result, p->text);
        else if (v && p->bytes == IDENTITY_SAME)
                create_taken(c, &info);
        else if (v && p->bytes != IDENTITY_ANOTHER)
                server_ask_holder(c->server, c, HOLDER_FIND, 0, 0, info.origin, create_compared);
        else
                create_compare(c);
}

/*
 * With the origins of volumes that are not attached, in the order of their numbers: before is where to go on. Meanwhile
 * nobody else can attach ours or make another volume of it, since it is claimed.
 */
static void create_compare(Call *c) {
        Server *s = c->server;
        VolumeInfo info, next = { .number = UINT32_MAX };
        for (const Volume *v = engine_volume_next(s->engine, NULL); v; v = engine_volume_next(s->engine, v)) {
                engine_volume_info(v, &info);
                if (!info.attached && info.number >= c->before && info.number < next.number)
                        next = info;
        }
        c->before = (uint64_t) next.number + 1;
        if (next.number != UINT32_MAX)
                stamp_identity(next.stamp, c->identity);
        if (next.number == UINT32_MAX)
                create_claimed(c);
        else if (c->identity[0])
                server_ask_holder(s, c, HOLDER_COMPARE, 0, 0, json_get_string(c->request, "origin", ""),
                                  create_disk_compared);
        else
                server_ask_holder(s, c, HOLDER_FIND, 0, 0, next.origin, create_compared);
}

/* The attached volume that has this origin, or NULL. */
static const Volume *attached_to(const Server *s, const struct stat *origin) {
        struct stat st;
        for (unsigned disk = DISK_FIRST_ORIGIN; disk < DISK_FIRST_OVERLAY; disk++)
                if (s->map.shared->origins[disk].attached && s->fds[disk] >= 0 && fstat(s->fds[disk], &st) == 0 &&
                    file_is_same(&st, origin))
                        return engine_volume_by_number(s->engine, s->map.shared->origins[disk].volume);
        return NULL;
}

static void create_opened(Call *c, const HolderReply *p, int fd) {
        _cleanup_close_ int opened = fd;
        int r = p->result < 0 ? p->result : opened < 0 ? -EIO : fstat(opened, &c->origin) < 0 ? -errno : 0;
        server_let_go(c->server, c->disk);
        if (r < 0) {
                call_end(c, r, p->text);
                return;
        }
        c->origin.st_size = (off_t) p->bytes;
        if (p->is_store) {
                call_end(c, -EBUSY, "it is a store: take another origin");
                return;
        }
        c->claimed = file_claim(opened, 0);
        if (c->claimed < 0)
                call_end(c, c->claimed == -EWOULDBLOCK ? -EBUSY : c->claimed,
                         c->claimed == -EWOULDBLOCK ? "the origin is in use by another vss-cow" : NULL);
        else
                create_compare(c);
}

/* Of an attached volume: said before anybody finds that it is in use. */
static void create_found(Call *c, const HolderReply *p, int fd) {
        _cleanup_close_ int found = fd;
        const char *origin = json_get_string(c->request, "origin", "");
        VolumeInfo info;
        int r = p->result < 0 ? p->result : found < 0 ? -EIO : fstat(found, &c->origin) < 0 ? -errno : 0;
        const Volume *v = r < 0 ? NULL : attached_to(c->server, &c->origin);
        if (r < 0)
                call_end(c, r, p->text);
        else if (v) {
                engine_volume_info(v, &info);
                create_taken(c, &info);
        } else
                server_ask_holder(c->server, c, HOLDER_OPEN_ORIGIN, c->disk, 0, origin, create_opened);
}

/* By its path, which for a disk says nothing. */
static bool is_origin(const Server *s, const char *path) {
        char identity[IDENTITY_SIZE];
        VolumeInfo info;
        for (const Volume *v = engine_volume_next(s->engine, NULL); v; v = engine_volume_next(s->engine, v)) {
                engine_volume_info(v, &info);
                stamp_identity(info.stamp, identity);
                if (!identity[0] && streq(info.origin, path))
                        return true;
        }
        return false;
}

void control_volume_create(Call *c) {
        const char *origin = json_get_string(c->request, "origin", "");
        c->disk = disk_free(c->server);
        if (origin[0] != '/')
                call_end(c, -EINVAL, "the origin is not an absolute path");
        else if (engine_volume_by_name(c->server->engine, call_name(c)))
                call_end(c, -EEXIST, "there is a volume of this name already");
        else if (is_origin(c->server, origin))
                call_end(c, -EEXIST, "another volume has this origin already");
        else if (!c->disk)
                call_end(c, -EMFILE, "too many volumes");
        else
                server_ask_holder(c->server, c, HOLDER_FIND, c->disk, 0, origin, create_found);
}

/* --- attach ------------------------------------------------------------------------------------------------------- */

static void attach_undo(Call *c, int result, const char *text) {
        server_let_go(c->server, c->disk);
        call_end(c, result, text);
}

static void attach_undone(Call *c, int result) {
        const char *text = json_get_string(c->answer, "undone", "");
        char copy[HOLDER_TEXT_MAX];
        (void) snprintf(copy, sizeof(copy), "%s", text);
        json_object_object_del(c->answer, "undone");
        attach_undo(c, -(int) c->before, copy);
}

static void attach_shown(Call *c, const HolderReply *p, int fd) {
        Server *s = c->server;
        Node *n = &s->map.shared->nodes[c->node];
        uint8_t stamp[STAMP_BYTES];
        (void) close_fd(fd);
        if (p->result == 0) {
                json_add_string(c->answer, "device", n->device);
                s->map.shared->left[n->volume] = false;
        }
        if (p->result == 0 || !c->disk) { /* it was attached before: what somebody uses is not undone */
                call_end(c, p->result, p->text);
                return;
        }
        if (s->map.shared->left[n->volume]) { /* somebody may use it: it stays attached, and the next attach goes on */
                n->device[0] = '\0';
                call_end(c, p->result, p->text);
                return;
        }
        if (!n->ublk) /* else the next attach begins with what there is */
                node_free(n);
        c->before = (uint64_t) -p->result;
        json_add_string(c->answer, "undone", p->text);
        (void) server_stamp(s, c->disk, c->volume, true, stamp);
        engine_detach(s->engine, c->volume, stamp, call_step(c, attach_undone));
}

static void attach_show(Call *c) {
        Server *s = c->server;
        VolumeInfo info;
        Node *n = server_node_of(s, c->volume);
        engine_volume_info(c->volume, &info);
        if (!n) {
                n = node_new(s->map.shared, info.name);
                if (!n) {
                        call_end(c, -EMFILE, "too many devices");
                        return;
                }
                n->volume = info.number;
                n->bytes = info.bytes;
                n->block_size = (uint32_t) c->before;
                __atomic_store_n(&n->kind, NODE_VOLUME, __ATOMIC_SEQ_CST);
        }
        c->node = (unsigned) (n - s->map.shared->nodes);
        server_ask_holder(s, c, HOLDER_MAKE_DEVICE, 0, c->node, NULL, attach_shown);
}

static void attach_attached(Call *c, int result) {
        VolumeInfo info;
        if (result < 0) {
                attach_undo(c, result, c->reply.message);
                return;
        }
        engine_volume_info(c->volume, &info);
        Origin *o = &c->server->map.shared->origins[c->disk];
        o->volume = info.number;
        o->attached = 1;
        attach_show(c);
}

static void attach_verified(Call *c, int result) {
        if (result < 0)
                attach_undo(c, result, c->reply.message);
        else
                engine_attach(c->server->engine, c->volume, c->disk, call_step(c, attach_attached));
}

/*
 * Hazards A8: copies of a volume that somebody else may have written to are never called good again. Nor are those of
 * one that was moved to another disk, which only who attached it knows anything about.
 */
static void attach_verify(Call *c) {
        VolumeInfo info;
        uint8_t now[STAMP_BYTES];
        char before[IDENTITY_SIZE];
        engine_volume_info(c->volume, &info);
        bool clean = !(info.flags & VOLUME_ATTACHED); /* else compared with what we let pass last */
        int r = stamp_of_file(c->server->fds[c->disk], clean, now);
        StampVerdict verdict = r < 0 ? STAMP_UNKNOWN : stamp_compare(info.stamp, now, clean);
        stamp_identity(info.stamp, before);
        if (before[0] && !streq(before, c->identity))
                verdict = STAMP_CHANGED;
        if (r == 0)
                stamp_set_identity(now, c->identity);
        if (r == 0)
                engine_volume_stamp(c->server->engine, c->volume, now);
        if (info.snapshots > 0 && verdict != STAMP_SAME) {
                json_add_string(
                        c->answer, "warning",
                        verdict == STAMP_CHANGED ?
                                "the origin was changed while it was not attached: the volume's snapshots are unverified" :
                                "whether the origin was changed is unknown: the volume's snapshots are unverified");
                engine_volume_unverified(c->server->engine, c->volume, call_step(c, attach_verified));
        } else
                attach_verified(c, 0);
}

static void attach_opened(Call *c, const HolderReply *p, int fd) {
        VolumeInfo info;
        engine_volume_info(c->volume, &info);
        if (p->result < 0 || fd < 0) {
                (void) close_fd(fd);
                call_end(c, p->result < 0 ? p->result : -EIO, p->text);
                return;
        }
        int r = server_claim(c->server, c->disk, fd, 0);
        (void) close_fd(fd);
        c->before = p->block_size;
        if (r < 0)
                attach_undo(c, r == -EWOULDBLOCK ? -EBUSY : r, "the origin is in use by another vss-cow");
        else if (p->bytes != info.bytes)
                attach_undo(c, -EINVAL, "the origin does not have the size it had when the volume was created");
        else {
                memcpy(c->identity, p->identity, sizeof(c->identity));
                if (!streq(p->path, info.origin)) {
                        engine_volume_moved(c->server->engine, c->volume, p->path);
                        json_add_string(c->answer, "origin", p->path);
                }
                attach_verify(c);
        }
}

/* We are at it ourselves: see control-left.c. */
static bool is_coming_back(Call *c) {
        const Volume *v = engine_volume_by_name(c->server->engine, call_name(c));
        VolumeInfo info;
        if (!v || !control_volume_is_taken(c, v))
                return false;
        engine_volume_info(v, &info);
        return c->server->map.shared->left[info.number];
}

void control_volume_attach(Call *c) {
        VolumeInfo info;
        if (is_coming_back(c)) {
                c->again = control_volume_attach;
                return;
        }
        if (!call_volume(c))
                return;
        engine_volume_info(c->volume, &info);
        if (info.attached) {
                const Node *n = server_node_of(c->server, c->volume);
                c->before = n ? n->block_size : 512;
                attach_show(c); /* gives the device there is, or makes the one that is missing */
                return;
        }
        c->disk = disk_free(c->server);
        if (!json_get_bool(c->request, "force", false))
                stamp_identity(info.stamp, c->identity);
        if (!c->disk)
                call_end(c, -EMFILE, "too many volumes");
        else
                server_ask_holder(c->server, c, HOLDER_OPEN_ORIGIN, c->disk, 0, info.origin, attach_opened);
}

/* --- detach ------------------------------------------------------------------------------------------------------- */

static unsigned disk_of(const Server *s, const Volume *v) {
        VolumeInfo info;
        engine_volume_info(v, &info);
        return server_disk_of(s, info.number);
}

static void (*detach_next(Call *c))(Call *c, int result);

static void detach_ended(Call *c, int result) {
        VolumeInfo info;
        engine_volume_info(c->volume, &info);
        if (!info.attached) {
                c->server->map.shared->left[info.number] = false;
                server_let_go(c->server, disk_of(c->server, c->volume));
        }
        detach_next(c)(c, result);
}

static void detach_hidden(Call *c, const HolderReply *p, int fd) {
        Server *s = c->server;
        uint8_t stamp[STAMP_BYTES];
        (void) close_fd(fd);
        if (p->result < 0) {
                call_end(c, p->result, p->text);
                return;
        }
        if (c->node < NODES)
                node_free(&s->map.shared->nodes[c->node]);
        (void) server_stamp(s, disk_of(s, c->volume), c->volume, true, stamp);
        engine_detach(s->engine, c->volume, stamp, call_step(c, detach_ended));
}

static void detach_volume(Call *c);

static void detach_copy_hidden(Call *c, const HolderReply *p, int fd) {
        (void) close_fd(fd);
        if (p->result < 0) {
                char text[HOLDER_TEXT_MAX + NODE_NAME_MAX + 32];
                (void) snprintf(text, sizeof(text), "its snapshot %s: %s", c->server->map.shared->nodes[c->node].name,
                                p->text);
                call_end(c, p->result, text);
                return;
        }
        (void) server_node_gone(c->server, &c->server->map.shared->nodes[c->node]);
        detach_volume(c);
}

/*
 * A copy that is shown reads from the volume's origin: one that nobody uses any more is taken down first, and one that
 * is just being shown or taken down is waited for. No other begins, since the volume is taken.
 */
static bool hide_copy(Call *c) {
        Server *s = c->server;
        VolumeInfo info;
        engine_volume_info(c->volume, &info);
        for (unsigned i = 0; i < NODES; i++) {
                const Node *n = &s->map.shared->nodes[i];
                bool asked = server_asks_for(s, n), copy = n->kind == NODE_COPY || n->kind == NODE_OVERLAY;
                if (!copy || n->volume != info.number || (!node_has_device(n) && !asked))
                        continue;
                c->node = i;
                if (asked)
                        c->again = detach_volume;
                else
                        server_ask_holder(s, c, HOLDER_DROP_DEVICE, 0, i, NULL, detach_copy_hidden);
                return true;
        }
        return false;
}

static void detach_volume(Call *c) {
        Server *s = c->server;
        const Node *n = server_node_of(s, c->volume);
        if (hide_copy(c))
                return;
        c->node = n ? (unsigned) (n - s->map.shared->nodes) : NODES;
        if (n)
                server_ask_holder(s, c, HOLDER_DROP_DEVICE, 0, c->node, NULL, detach_hidden);
        else
                detach_hidden(c, &(HolderReply) {}, -1);
}

void control_volume_detach(Call *c) {
        if (!call_volume(c))
                return;
        if (is_attached(c->volume))
                detach_volume(c);
        else
                call_end(c, 0, NULL);
}

void control_volume_remove(Call *c) {
        if (call_volume(c))
                engine_volume_remove(c->server->engine, c->volume, json_get_bool(c->request, "force", false),
                                     call_step(c, simply_ended));
}

/* --- stop --------------------------------------------------------------------------------------------------------- */

static void stop_ended(Call *c, int result) {
        Server *s = c->server;
        /* A lost store has nothing left to write down. */
        s->ended = result == 0 || result == -ENOMEDIUM;
        call_end(c, s->ended ? 0 : result, c->reply.message);
}

static void stop_next(Call *c, int result) {
        Server *s = c->server;
        if (result < 0) {
                call_end(c, result, c->reply.message);
                return;
        }
        for (Volume *v = engine_volume_next(s->engine, NULL); v; v = engine_volume_next(s->engine, v))
                if (is_attached(v)) {
                        c->volume = v;
                        detach_volume(c);
                        return;
                }
        engine_stop(s->engine, call_step(c, stop_ended));
}

void control_stop(Call *c) {
        if (control_volume_is_taken(c, NULL))
                call_end(c, -EBUSY, "a volume is just being created, attached, detached or removed");
        else
                stop_next(c, 0);
}

static void (*detach_next(Call *c))(Call *c, int result) {
        return is_stop(c) ? stop_next : simply_ended;
}
