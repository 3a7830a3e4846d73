/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The answering side of control.h: connections, requests, answers. One request at a time per connection, so that nobody
 * can pile up work; what a command does is in control-volume.c and control-copy.c. A connection that ends opens its
 * gate.
 */
#include "protocol/jsonutil.h"
#include "providers/cow/origin.h"
#include "providers/cow/server.h"
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static char message[CONTROL_MESSAGE_MAX + 1]; /* one thread, one message at a time */

/* --- answers ------------------------------------------------------------------------------------------------------ */

static void answer_send(Connection *k, json_object *answer) {
        const char *text = json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN);
        ssize_t n;
        do {
                n = send(k->fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
        } while (n < 0 && errno == EINTR);
        if (n < 0) /* it does not read what it asked for */
                connection_close(k);
}

static void call_free(Call *c) {
        LIST_REMOVE(c, link);
        (void) json_object_put(c->request);
        (void) json_object_put(c->answer);
        (void) close_fd(c->fd);
        (void) close_fd(c->claimed);
        free(c->members);
        free(c->extents);
        free(c);
}

/* Whoever waited looks whether it still has to, and then may wait anew. */
static void calls_go_on(Server *s) {
        Call *c;
        LIST_FOREACH(c, &s->calls, link)
                c->due = c->due || c->again;
        for (;;) {
                LIST_FOREACH(c, &s->calls, link)
                        if (c->due)
                                break;
                if (!c)
                        return;
                void (*again)(Call *) = TAKE_PTR(c->again);
                c->due = false;
                again(c);
        }
}

void call_end(Call *c, int result, const char *text) {
        Server *s = c->server;
        Connection *k = c->connection;
        json_object *answer = c->answer;
        json_object_object_add(answer, "ok", json_object_new_boolean(result == 0));
        if (result < 0) {
                json_object_object_add(answer, "errno", json_object_new_int(-result));
                json_object_object_add(answer, "message",
                                       json_object_new_string(isempty(text) ? strerror(-result) : text));
        }
        if (k) {
                k->call = NULL;
                answer_send(k, answer);
        } else if (result < 0)
                control_left_failed(s, json_get_string(c->request, "name", ""),
                                    isempty(text) ? strerror(-result) : text);
        call_free(c);
        calls_go_on(s);
}

static void step_came(Reply *r, int result) {
        Call *c = r->owner;
        c->next(c, result);
}

Reply *call_step(Call *c, void (*next)(Call *c, int result)) {
        c->next = next;
        c->reply = (Reply) { .done = step_came, .owner = c };
        return &c->reply;
}

/* --- what there is ------------------------------------------------------------------------------------------------ */

static const char *const policies[POLICY_MAX] = { "drop-oldest", "drop-all", "fail-writes" };

static json_object *uuid_text(const uint8_t u[16]) {
        char text[37];
        (void) snprintf(text, sizeof(text), "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                        u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
                        u[15]);
        return json_object_new_string(text);
}

static void control_status(Call *c) {
        Server *s = c->server;
        EngineStats e;
        uint64_t segment = 0;
        engine_stats(s->engine, &e);
        segment = (uint64_t) e.segment_blocks * BLOCK_SIZE;
        json_object_object_add(c->answer, "uuid", uuid_text(e.uuid));
        json_add_string(c->answer, "path", s->start->store_path);
        json_add_uint(c->answer, "segments", e.segments);
        json_add_uint(c->answer, "segment_bytes", segment);
        json_add_uint(c->answer, "total_bytes", e.bytes_total);
        json_add_uint(c->answer, "used_bytes", e.bytes_used);
        json_add_uint(c->answer, "free_bytes", e.segments_free * segment);
        json_add_string(c->answer, "policy", policies[e.policy]);
        json_add_string(c->answer, "frontend", s->start->ublk >= 0 ? "ublk" : "fuse");
        json_add_string(c->answer, "fault", e.lost ? "store-lost" : "");
        json_add_uint(c->answer, "pid", (uint64_t) getppid());
        json_add_uint(c->answer, "server_pid", (uint64_t) getpid());
        json_add_uint(c->answer, "preserved_blocks", e.preserved_blocks);
        json_add_uint(c->answer, "snapshots", e.snapshots);
        json_add_uint(c->answer, "volumes", e.volumes);
        json_add_uint(c->answer, "memory_bytes", e.memory_bytes);
        json_add_uint(c->answer, "replayed_records", e.replayed_records);
        call_end(c, 0, NULL);
}

static void control_volumes(Call *c) {
        Server *s = c->server;
        json_object *list = json_object_new_array();
        EngineStats stats;
        engine_stats(s->engine, &stats);
        for (const Volume *v = engine_volume_next(s->engine, NULL); v; v = engine_volume_next(s->engine, v)) {
                VolumeInfo info;
                char identity[IDENTITY_SIZE];
                const Node *n = server_node_of(s, v);
                json_object *o = json_object_new_object();
                engine_volume_info(v, &info);
                json_add_string(o, "name", info.name);
                json_object_object_add(o, "uuid", uuid_text(info.uuid));
                json_add_string(o, "origin", info.origin);
                stamp_identity(info.stamp, identity);
                json_add_string(o, "identity", identity);
                json_add_uint(o, "bytes", info.bytes);
                json_add_bool(o, "attached", info.attached);
                json_add_string(o, "device", n && n->device[0] ? n->device : "");
                json_add_uint(o, "snapshots", stats.lost ? 0 : info.snapshots);
                json_add_bool(o, "gated", info.gated);
                json_add_string(o, "fault", stats.lost ? "store-lost" : "");
                (void) json_object_array_add(list, o);
        }
        json_object_object_add(c->answer, "volumes", list);
        call_end(c, 0, NULL);
}

/* --- upkeep ------------------------------------------------------------------------------------------------------- */

static void upkeep_ended(Call *c, int result) {
        EngineStats e;
        engine_stats(c->server->engine, &e);
        uint64_t used = e.bytes_used;
        if (result == 0 && streq(json_get_string(c->request, "command", ""), "collect"))
                json_add_uint(c->answer, "freed_bytes", c->before > used ? c->before - used : 0);
        call_end(c, result, c->reply.message);
}

static void control_collect(Call *c) {
        EngineStats e;
        engine_stats(c->server->engine, &e);
        c->before = e.bytes_used;
        engine_collect(c->server->engine, call_step(c, upkeep_ended));
}

static void control_checkpoint(Call *c) {
        engine_checkpoint(c->server->engine, call_step(c, upkeep_ended));
}

static void control_set_policy(Call *c) {
        const char *word = json_get_string(c->request, "policy", "");
        for (uint32_t i = 0; i < POLICY_MAX; i++)
                if (streq(word, policies[i])) {
                        engine_set_policy(c->server->engine, i, call_step(c, upkeep_ended));
                        return;
                }
        call_end(c, -EINVAL, "the policy is drop-oldest, drop-all or fail-writes");
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

typedef struct Command {
        const char *name;
        void (*begin)(Call *c);
        const char *keys; /* space-separated: NAME:TYPE, TYPE s, u, b, S (strings), O (objects); ? behind it: may be
                             missing */
} Command;

static const Command commands[] = {
        { "status", control_status, "command:s" },
        { "volumes", control_volumes, "command:s" },
        { "volume-create", control_volume_create, "command:s name:s origin:s" },
        { "volume-attach", control_volume_attach, "command:s name:s force:b?" },
        { "volume-detach", control_volume_detach, "command:s name:s force:b?" },
        { "volume-remove", control_volume_remove, "command:s name:s force:b?" },
        { "track", control_track, "command:s name:s" },
        { "free-map", control_free_map, "command:s name:s" },
        { "hold", control_hold, "command:s volumes:S deadline_usec:u" },
        { "snapshot", control_snapshot, "command:s token:s set:s created_usec:u members:O" },
        { "release", control_release, "command:s token:s" },
        { "clear-mark", control_clear_mark, "command:s set:s" },
        { "abort", control_abort, "command:s set:s" },
        { "list", control_list, "command:s set:s from:u" },
        { "delete", control_delete, "command:s id:s" },
        { "expose", control_expose, "command:s id:s overlay:s? overlay_bytes:u?" },
        { "hide", control_hide, "command:s id:s device:s?" },
        { "end-with-use", control_end_with_use, "command:s id:s device:s" },
        { "set-policy", control_set_policy, "command:s policy:s" },
        { "collect", control_collect, "command:s" },
        { "checkpoint", control_checkpoint, "command:s" },
        { "stop", control_stop, "command:s force:b?" },
};

static bool list_of(const json_object *o, enum json_type type) {
        if (!json_object_is_type(o, json_type_array) || json_object_array_length(o) > STORE_VOLUMES_MAX)
                return false;
        for (size_t i = 0; i < json_object_array_length(o); i++)
                if (!json_object_is_type(json_object_array_get_idx(o, i), type))
                        return false;
        return true;
}

static bool value_fits(json_object *o, char type) {
        switch (type) {
        case 's':
                return json_object_is_type(o, json_type_string) && json_object_get_string_len(o) <= ORIGIN_PATH_MAX;
        case 'u':
                return json_object_is_type(o, json_type_int) && json_object_get_int64(o) >= 0;
        case 'b':
                return json_object_is_type(o, json_type_boolean);
        case 'S':
                return list_of(o, json_type_string);
        default:
                return list_of(o, json_type_object);
        }
}

/* Looks at the next word of keys; false at the end. */
static bool key_next(const char **keys, char name[static 32], char *type, bool *optional) {
        size_t n = strcspn(*keys, ":");
        if (!**keys)
                return false;
        assert(n < 32);
        memcpy(name, *keys, n);
        name[n] = '\0';
        *type = (*keys)[n + 1];
        *optional = (*keys)[n + 2] == '?';
        *keys += n + 2 + (*optional ? 1 : 0);
        *keys += **keys == ' ';
        return true;
}

bool control_object_fits(const char *keys, json_object *request) {
        char name[32], type;
        bool optional;
        size_t known = 0;
        while (key_next(&keys, name, &type, &optional)) {
                json_object *o = NULL;
                bool there = json_object_object_get_ex(request, name, &o);
                if ((!there && !optional) || (there && !value_fits(o, type)))
                        return false;
                known += there;
        }
        return (size_t) json_object_object_length(request) == known;
}

static const Command *command_find(const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(commands); i++)
                if (streq(commands[i].name, name))
                        return &commands[i];
        return NULL;
}

Call *call_new(Server *s, json_object *request) {
        Call *c = calloc(1, sizeof(Call));
        if (!c) {
                (void) json_object_put(request);
                return NULL;
        }
        c->server = s;
        c->request = request;
        c->fd = c->claimed = -EBADF;
        c->answer = json_object_new_object();
        LIST_INSERT_HEAD(&s->calls, c, link);
        return c;
}

static void call_begin(Connection *k, json_object *request, int fd) {
        Call *c = call_new(k->server, request);
        if (!c) {
                (void) close_fd(fd);
                connection_close(k);
                return;
        }
        c->connection = k;
        c->fd = fd;
        k->call = c;
        const Command *command = command_find(json_get_string(request, "command", ""));
        if (!command)
                call_end(c, -EINVAL, "there is no such command");
        else if (!control_object_fits(command->keys, request))
                call_end(c, -EINVAL, "a key is missing, unknown or of the wrong type");
        else
                command->begin(c);
}

/* With at most one descriptor. More than that: -EPROTO, and none is left open. */
static ssize_t request_receive(int fd, int *ret_fd) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control;
        struct iovec data = { message, CONTROL_MESSAGE_MAX };
        struct msghdr m = {
                .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_LEN(sizeof(int))
        };
        ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
        if (n < 0)
                return -errno;
        const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(sizeof(int)))
                memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
        if (!(m.msg_flags & MSG_CTRUNC))
                return n;
        *ret_fd = close_fd(*ret_fd);
        return -EPROTO;
}

void control_readable(Connection *k) {
        int fd = -EBADF;
        if (k->fd < 0) /* an answer could not be sent, a moment ago in the same round */
                return;
        ssize_t n = request_receive(k->fd, &fd);
        if (n == -EAGAIN || n == -EINTR)
                return;
        json_object *request = NULL;
        /* One more while one is under way breaks the rules, and so does what is too long. */
        if (n <= 0 || k->call || n > CONTROL_MESSAGE_MAX ||
            json_tree_parse(message, (size_t) n, CONTROL_MESSAGE_MAX, NULL, &request) < 0 ||
            !json_object_is_type(request, json_type_object)) {
                (void) json_object_put(request);
                (void) close_fd(fd);
                connection_close(k);
                return;
        }
        call_begin(k, request, fd);
}

/* --- connections -------------------------------------------------------------------------------------------------- */

void connection_close(Connection *k) {
        Server *s = k->server;
        LIST_REMOVE(k, link);
        s->n_connections--;
        k->fd = close_fd(k->fd);
        if (k->call)
                k->call->connection = NULL;
        if (k->token)
                (void) engine_release(s->engine, k->token);
        connection_untrack(k);
        LIST_INSERT_HEAD(&s->closed, k, link);
}

void control_bury(Server *s) {
        Connection *k;
        while ((k = LIST_FIRST(&s->closed))) {
                LIST_REMOVE(k, link);
                free(k);
        }
}

static bool peer_is_root(int fd) {
        struct ucred u = { .uid = (uid_t) -1 };
        socklen_t n = sizeof(u);
        return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &n) == 0 && u.uid == 0;
}

void control_accept(Server *s) {
        int fd;
        while ((fd = accept4(s->start->control, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
                Connection *k = s->n_connections < CONTROL_CONNECTIONS_MAX && peer_is_root(fd) ?
                                        calloc(1, sizeof(Connection)) :
                                        NULL;
                struct epoll_event e = { .events = EPOLLIN, .data = { .u64 = (uint64_t) (uintptr_t) k } };
                if (!k || epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) < 0) {
                        (void) close_fd(fd);
                        free(k);
                        continue;
                }
                k->server = s;
                k->fd = fd;
                LIST_INSERT_HEAD(&s->connections, k, link);
                s->n_connections++;
        }
}

uint64_t control_expire(Server *s) {
        uint64_t now = now_usec(), next = USEC_INFINITY;
        for (Connection *k = LIST_FIRST(&s->connections), *following; k; k = following) {
                following = LIST_NEXT(k, link); /* a release may close it */
                if (k->token && k->hold_deadline_usec <= now) {
                        uint64_t token = k->token;
                        k->token = 0;
                        (void) engine_release(s->engine, token);
                } else if (k->token)
                        next = MIN_OF(next, k->hold_deadline_usec);
        }
        return next;
}
