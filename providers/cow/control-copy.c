/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands about snapshots: making them, listing them, deleting them. */
#include "protocol/jsonutil.h"
#include "providers/cow/server.h"
#include <stdio.h>

static int hex(char c) {
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* UUID text in lower case; false: it is none. */
static bool uuid_parse(const char *s, uint8_t ret[16]) {
        unsigned n = 0;
        if (strlen(s) != 36)
                return false;
        for (unsigned i = 0; i < 36; i++) {
                if (i == 8 || i == 13 || i == 18 || i == 23) {
                        if (s[i] != '-')
                                return false;
                        continue;
                }
                if (hex(s[i]) < 0 || hex(s[i + 1]) < 0)
                        return false;
                ret[n++] = (uint8_t) (hex(s[i]) << 4 | hex(s[i + 1]));
                i++;
        }
        return n == 16;
}

bool control_uuid(const Call *c, const char *key, uint8_t ret[16]) {
        return uuid_parse(json_get_string(c->request, key, ""), ret);
}

static json_object *uuid_object(const uint8_t u[16]) {
        static const char digits[] = "0123456789abcdef";
        char text[37];
        unsigned at = 0;
        for (unsigned i = 0; i < 16; i++) {
                if (i == 4 || i == 6 || i == 8 || i == 10)
                        text[at++] = '-';
                text[at++] = digits[u[i] >> 4];
                text[at++] = digits[u[i] & 15];
        }
        text[at] = '\0';
        return json_object_new_string(text);
}

static void simply_ended(Call *c, int result) {
        call_end(c, result, c->reply.message);
}

/* --- the window --------------------------------------------------------------------------------------------------- */

static void held(Call *c, int result) {
        Connection *k = c->connection; /* NULL: it hung up, which has ended the hold */
        if (result < 0 && k)
                k->token = 0;
        if (result == 0 && k) {
                char text[24];
                (void) snprintf(text, sizeof(text), "%lu", k->token);
                json_add_string(c->answer, "token", text);
        }
        call_end(c, result, c->reply.message);
}

void control_hold(Call *c) {
        json_object *names = json_get_array(c->request, "volumes");
        Volume *volumes[STORE_VOLUMES_MAX];
        unsigned n = 0;
        if (c->connection->token) {
                call_end(c, -EBUSY, "this connection holds something already");
                return;
        }
        for (size_t i = 0; i < json_object_array_length(names); i++) {
                const char *name = json_object_get_string(json_object_array_get_idx(names, i));
                volumes[n] = engine_volume_by_name(c->server->engine, name);
                for (unsigned k = 0; k < n; k++)
                        if (volumes[k] == volumes[n])
                                volumes[n] = NULL;
                if (!volumes[n++]) {
                        call_end(c, -ENOENT, "there is no such volume, or it is named twice");
                        return;
                }
        }
        c->connection->hold_deadline_usec = json_get_uint(c->request, "deadline_usec", 0);
        /* The connection has the token at once: should it end while the gate closes, the gate opens. */
        engine_hold(c->server->engine, volumes, n, &c->connection->token, call_step(c, held));
}

/* 0: not the one this connection holds with. */
static uint64_t call_token(const Call *c) {
        char text[24];
        uint64_t token = c->connection->token;
        (void) snprintf(text, sizeof(text), "%lu", token);
        return streq(json_get_string(c->request, "token", ""), text) ? token : 0;
}

static bool member_fill(Call *c, json_object *o, Member *ret) {
        if (!control_object_fits("id:s volume:s label:s persistent:b? frozen:b? pending:b? skip_free:b?", o))
                return false;
        const char *volume = json_get_string(o, "volume", "");
        *ret = (Member) {
                .volume = engine_volume_by_name(c->server->engine, volume),
                .label = json_get_string(o, "label", ""),
                .flags = (json_get_bool(o, "persistent", false) ? SNAPSHOT_PERSISTENT : 0) |
                         (json_get_bool(o, "frozen", false) ? SNAPSHOT_FROZEN : 0) |
                         (json_get_bool(o, "pending", true) ? SNAPSHOT_PENDING : 0),
        };
        ret->skips_free = json_get_bool(o, "skip_free", false) && ret->volume &&
                          connection_tracks(c->connection, ret->volume);
        return ret->volume && uuid_parse(json_get_string(o, "id", ""), ret->snapshot) &&
               strlen(ret->label) <= LABEL_MAX;
}

static void snapshot_made(Call *c, int result) {
        call_end(c, result, c->reply.message);
}

void control_snapshot(Call *c) {
        json_object *list = json_get_array(c->request, "members");
        size_t n = json_object_array_length(list);
        uint64_t token = call_token(c);
        uint8_t set[16];
        bool good = control_uuid(c, "set", set) && n > 0;
        c->members = calloc(n + 1, sizeof(Member));
        for (size_t i = 0; good && c->members && i < n; i++)
                good = member_fill(c, json_object_array_get_idx(list, i), &c->members[i]);
        if (!good || !c->members)
                call_end(c, c->members ? -EINVAL : -ENOMEM,
                         "a set needs its id, and every member a volume, an id and a label, and nothing unknown");
        else if (!token)
                call_end(c, -ESTALE, "the hold is over");
        else
                engine_snapshot(c->server->engine, token, set, json_get_uint(c->request, "created_usec", 0), c->members,
                                (unsigned) n, call_step(c, snapshot_made));
}

void control_release(Call *c) {
        uint64_t token = call_token(c);
        bool held_still = token && engine_release(c->server->engine, token);
        if (token)
                c->connection->token = 0;
        json_add_bool(c->answer, "held", held_still);
        call_end(c, 0, NULL);
}

/* --- sets --------------------------------------------------------------------------------------------------------- */

void control_clear_mark(Call *c) {
        uint8_t set[16];
        if (!control_uuid(c, "set", set))
                call_end(c, -EINVAL, "set is not a UUID");
        else
                engine_commit_set(c->server->engine, set, call_step(c, simply_ended));
}

static void deleted(Call *c, int result) {
        server_sweep_nodes(c->server);
        call_end(c, result, c->reply.message);
}

void control_abort(Call *c) {
        uint8_t set[16];
        if (!control_uuid(c, "set", set))
                call_end(c, -EINVAL, "set is not a UUID");
        else
                engine_delete_set(c->server->engine, set, true, call_step(c, deleted));
}

/* --- one snapshot ------------------------------------------------------------------------------------------------- */

static json_object *copy_object(Server *s, const SnapshotInfo *i) {
        VolumeInfo v;
        const Node *n = server_node_of_copy(s, i->id);
        json_object *o = json_object_new_object();
        engine_volume_info(i->volume, &v);
        json_object_object_add(o, "id", uuid_object(i->id));
        json_object_object_add(o, "set", uuid_object(i->set));
        json_add_string(o, "volume", v.name);
        json_add_uint(o, "created_usec", i->created_usec);
        json_add_string(o, "label", i->label);
        json_add_uint(o, "bytes", v.bytes);
        json_add_bool(o, "persistent", i->flags & SNAPSHOT_PERSISTENT);
        json_add_bool(o, "frozen", i->flags & SNAPSHOT_FROZEN);
        json_add_bool(o, "pending", i->flags & SNAPSHOT_PENDING);
        json_add_bool(o, "damaged", i->flags & SNAPSHOT_DAMAGED);
        json_add_bool(o, "unverified", i->flags & SNAPSHOT_UNVERIFIED);
        json_add_bool(o, "skips_free", i->skips_free);
        json_add_string(o, "device", n ? n->device : "");
        return o;
}

void control_list(Call *c) {
        const char *text = json_get_string(c->request, "set", "");
        unsigned position = (unsigned) MIN_OF(json_get_uint(c->request, "from", 0), (uint64_t) STORE_SNAPSHOTS_MAX);
        json_object *list = json_object_new_array();
        SnapshotInfo info;
        uint8_t set[16];
        bool more = true;
        if (!isempty(text) && !uuid_parse(text, set)) {
                (void) json_object_put(list);
                call_end(c, -EINVAL, "set is not a UUID");
                return;
        }
        while (json_object_array_length(list) < CONTROL_LIST_MAX &&
               (more = engine_snapshot_next(c->server->engine, &position, &info)))
                if (isempty(text) || memcmp(info.set, set, 16) == 0)
                        (void) json_object_array_add(list, copy_object(c->server, &info));
        json_object_object_add(c->answer, "snapshots", list);
        json_object_object_add(c->answer, "next", json_object_new_int64(more ? (int64_t) position : -1));
        call_end(c, 0, NULL);
}

static void delete_hidden(Call *c) {
        uint8_t id[16];
        (void) control_uuid(c, "id", id);
        engine_delete(c->server->engine, id, call_step(c, deleted));
}

void control_delete(Call *c) {
        uint8_t id[16];
        if (control_uuid(c, "id", id))
                control_hide_all(c, delete_hidden);
        else
                call_end(c, -EINVAL, "id is not a UUID");
}
