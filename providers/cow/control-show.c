/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots as devices: one that is read-only, the same for everybody, until it is hidden; and with an overlay as many
 * as are asked for, each for one mount. Whoever has mounted such a device makes it an autoclear one, so that it goes
 * with the last mount, wherever that was made and however it ends; the file behind it is released then, and with that
 * we let the overlay go. A ublk device cannot be told so: there we are told, and look once a second.
 */
#include "protocol/jsonutil.h"
#include "providers/cow/origin.h"
#include "providers/cow/server.h"
#include <stdio.h>

#define ENDS_USEC USEC_PER_SEC /* between two looks at overlays that end with their last user */

static Node *node_at(const Call *c) {
        return &c->server->map.shared->nodes[c->node];
}

Node *server_node_of_copy(Server *s, const uint8_t id[16]) {
        for (unsigned i = 0; i < NODES; i++) {
                Node *n = &s->map.shared->nodes[i];
                if (n->kind == NODE_COPY && memcmp(n->snapshot, id, 16) == 0)
                        return n;
        }
        return NULL;
}

bool server_node_gone(Server *s, Node *n) {
        if (n->kind == NODE_OVERLAY && n->overlay_blocks > 0) {
                if (!overlay_close(s->overlays, n->overlay))
                        return false;
                server_let_go(s, DISK_FIRST_OVERLAY + n->overlay);
        }
        node_free(n);
        return true;
}

/*
 * Devices come and go one after the other: while another call is at work with this one, or takes the volume away or
 * brings it, the call waits, and begins again when that has ended. False: nobody is.
 */
static bool waits(Call *c, const Volume *v, const Node *n, void (*begin)(Call *)) {
        if (!(v && control_volume_is_taken(c, v)) && !(n && server_asks_for(c->server, n)))
                return false;
        c->again = begin;
        return true;
}

/* --- expose ------------------------------------------------------------------------------------------------------- */

typedef struct Shown {
        SnapshotInfo snapshot;
        VolumeInfo volume;
        const Node *node; /* of the volume */
} Shown;

/* What the call wants to be shown. 0, or -errno and *reterr. */
static int shown_find(const Call *c, Shown *ret, const char **reterr) {
        Server *s = c->server;
        uint8_t id[16];
        if (!control_uuid(c, "id", id) || !engine_snapshot_info(s->engine, id, &ret->snapshot)) {
                *reterr = "there is no such snapshot";
                return -ENOENT;
        }
        engine_volume_info(ret->snapshot.volume, &ret->volume);
        ret->node = server_node_of(s, ret->snapshot.volume);
        if (!ret->volume.attached || !ret->node) {
                *reterr = "its volume is not attached: attach it first";
                return -ENODEV;
        }
        return 0;
}

/* A file for it that cannot be found yet; or NULL. */
static Node *shown_node(Server *s, const Shown *w, const char *name) {
        Node *n = node_new(s->map.shared, name);
        if (!n)
                return NULL;
        n->volume = w->volume.number;
        n->bytes = w->volume.bytes;
        n->block_size = w->node->block_size;
        memcpy(n->snapshot, w->snapshot.id, 16);
        return n;
}

static void exposed(Call *c, const HolderReply *p, int fd) {
        Node *n = node_at(c);
        (void) close_fd(fd);
        if (p->result == 0)
                json_add_string(c->answer, "device", n->device);
        else if (!node_has_device(n) && !server_asks_for(c->server, n)) /* else somebody has it */
                (void) server_node_gone(c->server, n);
        call_end(c, p->result, p->text);
}

/* The number of an overlay that nobody has or is about to have; OVERLAYS: there is none. */
static unsigned overlay_unused(const Server *s) {
        bool used[OVERLAYS] = {};
        const Call *c;
        unsigned number = 0;
        for (unsigned i = 0; i < NODES; i++)
                if (s->map.shared->nodes[i].kind == NODE_OVERLAY)
                        used[s->map.shared->nodes[i].overlay] = true;
        LIST_FOREACH(c, &s->calls, link)
                if (c->disk >= DISK_FIRST_OVERLAY)
                        used[c->disk - DISK_FIRST_OVERLAY] = true;
        while (number < OVERLAYS && used[number])
                number++;
        return number;
}

static int overlay_show(Call *c, const HolderReply *p, int fd, const char **reterr) {
        Server *s = c->server;
        Shown w;
        char name[NODE_NAME_MAX];
        unsigned number = c->disk - DISK_FIRST_OVERLAY;
        uint64_t wanted = json_get_uint(c->request, "overlay_bytes", OVERLAY_BYTES_MAX);
        uint64_t blocks = MIN_OF(MIN_OF(MIN_OF(wanted, p->bytes), c->bytes), (uint64_t) OVERLAY_BYTES_MAX) / BLOCK_SIZE;
        int r = shown_find(c, &w, reterr);
        if (r < 0)
                return r;
        *reterr = blocks == 0 ? "there is no room for an overlay" : "the overlay cannot be opened";
        if (blocks == 0)
                return -ENOSPC;
        r = server_claim(s, c->disk, fd, 0);
        if (r < 0)
                return r;
        (void) snprintf(name, sizeof(name), "%s+%u", json_get_string(c->request, "id", ""), number);
        Node *n = shown_node(s, &w, name);
        r = n ? overlay_open(s->overlays, number, w.volume.bytes, (uint32_t) blocks, true) : -EMFILE;
        if (r < 0)
                return r;
        n->overlay = number;
        n->overlay_blocks = (uint32_t) blocks;
        __atomic_store_n(&n->kind, NODE_OVERLAY, __ATOMIC_SEQ_CST);
        c->node = (unsigned) (n - s->map.shared->nodes);
        server_ask_holder(s, c, HOLDER_MAKE_DEVICE, 0, c->node, NULL, exposed);
        return 0;
}

static void overlay_opened(Call *c, const HolderReply *p, int fd) {
        const char *text = p->text;
        int r = p->result < 0 ? p->result : overlay_show(c, p, fd, &text);
        (void) close_fd(fd);
        if (r < 0) {
                server_let_go(c->server, c->disk);
                call_end(c, r, text);
        }
}

/* In the directory that is asked for; "": where the store lies. */
static void overlay_expose(Call *c, const Shown *w) {
        const char *asked = json_get_string(c->request, "overlay", ""), *store = c->server->start->store_path;
        char directory[HOLDER_PATH_MAX];
        unsigned number = overlay_unused(c->server);
        int n = isempty(asked) ? (int) MAX_OF(strrchr(store, '/') - store, 1L) : (int) strlen(asked);
        (void) snprintf(directory, sizeof(directory), "%.*s", n, isempty(asked) ? store : asked);
        if (directory[0] != '/' || number == OVERLAYS) {
                call_end(c, number == OVERLAYS ? -EMFILE : -EINVAL,
                         number == OVERLAYS ? "too many snapshots are shown with an overlay: unmount some" :
                                              "the directory of the overlay is not an absolute path");
                return;
        }
        c->volume = w->snapshot.volume; /* it stays attached meanwhile */
        c->disk = DISK_FIRST_OVERLAY + number;
        c->bytes = (w->volume.bytes + BLOCK_SIZE - 1) / BLOCK_SIZE * BLOCK_SIZE;
        server_ask_holder(c->server, c, HOLDER_OPEN_OVERLAY, c->disk, 0, directory, overlay_opened);
}

void control_expose(Call *c) {
        Server *s = c->server;
        const char *text;
        Shown w;
        uint8_t id[16];
        if (control_uuid(c, "id", id) && engine_snapshot_info(s->engine, id, &w.snapshot) &&
            waits(c, w.snapshot.volume, server_node_of_copy(s, id), control_expose))
                return;
        int r = shown_find(c, &w, &text);
        if (r < 0) {
                call_end(c, r, text);
                return;
        }
        if (json_object_object_get_ex(c->request, "overlay", NULL)) {
                overlay_expose(c, &w);
                return;
        }
        Node *n = server_node_of_copy(s, w.snapshot.id);
        if (!n) {
                n = shown_node(s, &w, json_get_string(c->request, "id", ""));
                if (!n) {
                        call_end(c, -EMFILE, "too many snapshots are shown at once: unmount some");
                        return;
                }
                __atomic_store_n(&n->kind, NODE_COPY, __ATOMIC_SEQ_CST);
        }
        c->node = (unsigned) (n - s->map.shared->nodes);
        server_ask_holder(s, c, HOLDER_MAKE_DEVICE, 0, c->node, NULL, exposed);
}

/* --- hide --------------------------------------------------------------------------------------------------------- */

static void hide_next(Call *c);

static void hidden(Call *c, const HolderReply *p, int fd) {
        Node *n = node_at(c);
        (void) close_fd(fd);
        if (p->result < 0) {
                call_end(c, p->result, p->text);
                return;
        }
        if (n->kind == NODE_OVERLAY && overlay_is_full(c->server->overlays, n->overlay))
                json_add_bool(c->answer, "overlay_full", true);
        if (server_node_gone(c->server, n))
                hide_next(c);
        else
                call_end(c, -EBUSY, "requests for it are under way");
}

static void hide_next(Call *c) {
        Server *s = c->server;
        const char *device = json_get_string(c->request, "device", "");
        uint8_t id[16];
        (void) control_uuid(c, "id", id);
        for (unsigned i = 0; i < NODES; i++) {
                const Node *n = &s->map.shared->nodes[i];
                if ((n->kind != NODE_COPY && n->kind != NODE_OVERLAY) || memcmp(n->snapshot, id, 16) != 0 ||
                    (!isempty(device) && !streq(n->device, device)))
                        continue;
                if (waits(c, engine_volume_by_number(s->engine, n->volume), n, hide_next))
                        return;
                c->node = i;
                server_ask_holder(s, c, HOLDER_DROP_DEVICE, 0, i, NULL, hidden);
                return;
        }
        c->hidden(c);
}

void control_hide_all(Call *c, void (*next)(Call *c)) {
        c->hidden = next;
        hide_next(c);
}

static void hide_ended(Call *c) {
        call_end(c, 0, NULL);
}

void control_hide(Call *c) {
        uint8_t id[16];
        if (control_uuid(c, "id", id))
                control_hide_all(c, hide_ended);
        else
                call_end(c, 0, NULL);
}

/* --- overlays that end by themselves ------------------------------------------------------------------------------ */

static void dropped(Call *c, const HolderReply *p, int fd) {
        (void) close_fd(fd);
        if (p->result == 0)
                (void) server_node_gone(c->server, node_at(c));
        call_end(c, 0, NULL);
}

/* What is left of its device. Without memory for that it is tried again with the next sweep. */
static void overlay_drop(Server *s, const Node *n) {
        Call *c = call_new(s, json_object_new_object());
        if (!c)
                return;
        c->node = (unsigned) (n - s->map.shared->nodes);
        server_ask_holder(s, c, HOLDER_DROP_DEVICE, 0, c->node, NULL, dropped);
}

void server_overlay_released(void *server, Node *n) {
        Server *s = server;
        if (server_asks_for(s, n)) /* and whoever did sees to the rest */
                return;
        if (n->overlay_blocks > 0 && overlay_close(s->overlays, n->overlay)) {
                server_let_go(s, DISK_FIRST_OVERLAY + n->overlay);
                n->overlay_blocks = 0;
        }
        overlay_drop(s, n);
}

void server_sweep_overlay(Server *s, Node *n) {
        SnapshotInfo info;
        if (!server_asks_for(s, n) && (n->overlay_blocks == 0 || !engine_snapshot_info(s->engine, n->snapshot, &info)))
                overlay_drop(s, n);
}

void control_end_with_use(Call *c) {
        Server *s = c->server;
        const char *device = json_get_string(c->request, "device", "");
        uint8_t id[16];
        bool good = control_uuid(c, "id", id);
        for (unsigned i = 0; good && i < NODES; i++) {
                Node *n = &s->map.shared->nodes[i];
                if (n->kind != NODE_OVERLAY || memcmp(n->snapshot, id, 16) != 0 || !streq(n->device, device))
                        continue;
                n->ends = 1;
                s->ends_due_usec = now_usec() + ENDS_USEC;
                call_end(c, 0, NULL);
                return;
        }
        call_end(c, -ENOENT, "it is not shown with an overlay as that device");
}

/* One of them each time, in turn: the answer of the holder is that it is in use, or it is gone with its overlay. */
uint64_t server_end_overlays(Server *s) {
        uint64_t now = now_usec();
        bool any = false;
        if (!s->ends_due_usec || now < s->ends_due_usec)
                return s->ends_due_usec ? s->ends_due_usec : USEC_INFINITY;
        for (unsigned i = 0; i < NODES && !any; i++) {
                unsigned at = (s->ends_next + i) % NODES;
                const Node *n = &s->map.shared->nodes[at];
                if (n->kind != NODE_OVERLAY || !n->ends)
                        continue;
                any = true;
                s->ends_next = at + 1;
                if (!server_asks_for(s, n))
                        overlay_drop(s, n);
        }
        s->ends_due_usec = any ? now + ENDS_USEC : 0;
        return any ? s->ends_due_usec : USEC_INFINITY;
}

/*
 * One whose file cannot be had answers with -EIO: nothing else of it would be right. What is inherited is not kept:
 * an overlay must be gone once the holder lets go of it.
 */
int server_overlays_begin(Server *s, uint64_t deadline_usec) {
        bool used[OVERLAYS] = {};
        int r = overlays_new(s->engine, ring_disk(s->ring), s->start->overlays, &s->overlays);
        if (r < 0)
                return r;
        for (unsigned i = 0; i < NODES; i++) {
                const Node *n = &s->map.shared->nodes[i];
                if (n->kind != NODE_OVERLAY || n->overlay_blocks == 0)
                        continue;
                used[n->overlay] = true;
                if (n->ends)
                        s->ends_due_usec = now_usec() + ENDS_USEC;
                if (server_claim(s, DISK_FIRST_OVERLAY + n->overlay, s->start->overlay_files[n->overlay],
                                 deadline_usec) == 0)
                        (void) overlay_open(s->overlays, n->overlay, n->bytes, n->overlay_blocks, false);
        }
        for (unsigned number = 0; number < OVERLAYS; number++) {
                if (!used[number] && s->start->overlay_files[number] >= 0)
                        server_let_go(s, DISK_FIRST_OVERLAY + number);
                (void) close_fd(s->start->overlay_files[number]);
        }
        return 0;
}
