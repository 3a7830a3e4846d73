/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The server: one thread that owns the engine, the ring, the FUSE front and the control connections. When it dies, its
 * memory is gone and nothing else.
 */
#include "providers/cow/control.h"
#include "providers/cow/front.h"
#include "providers/cow/holder.h"
#include "providers/cow/ring.h"
#include <sys/stat.h>

typedef struct Server Server;
typedef struct Connection Connection;
typedef struct Call Call;

struct Connection {
        LIST_ENTRY(Connection) link;
        Server *server;
        int fd;
        Call *call;     /* the request under way; its answer goes here */
        uint64_t token; /* of its hold, 0: none */
        uint64_t hold_deadline_usec;
};

/* One request of a control connection, until it is answered. Everything it does goes through steps of its own. */
struct Call {
        LIST_ENTRY(Call) link;
        Server *server;
        Connection *connection; /* NULL: it hung up; the call goes on to its end */
        json_object *request, *answer;
        Reply reply;     /* of the engine, for its present step */
        uint64_t cookie; /* of the holder's answer it waits for, 0: none */
        void (*next)(Call *c, int result);
        void (*next_holder)(Call *c, const HolderReply *p, int fd); /* takes fd */
        int served;             /* its device, that has just been added: 0, or -errno */
        void (*again)(Call *c); /* it waits for another call to end, and then goes on here */
        bool due;               /* one has ended */
        Volume *volume;
        unsigned disk, node;
        uint64_t token;
        Member *members;
        uint64_t before; /* a figure from the beginning */
        int fd;          /* that came with the request, -EBADF: none */
        FreeExtent *extents;
        int claimed; /* an origin in its hand until it ends; -1: none */
        struct stat origin;
        uint64_t bytes;               /* of the file it asks the holder for */
        char identity[IDENTITY_SIZE]; /* of the disk it asks for; and of the one that came */
        void (*hidden)(Call *c);
};

typedef struct Tracker {        /* who asked that writes to a volume are tracked */
        Connection *connection; /* NULL: unused */
        unsigned volume;
} Tracker;

struct Server {
        const ServerStart *start;
        SharedMap map;
        Ring *ring;
        Engine *engine;
        Front *front;
        FrontOptions front_options;
        Overlays *overlays;
        int epoll, timer;
        int fds[DISK_MAX]; /* claimed origins, and the store */
        uint64_t store_bytes;
        LIST_HEAD(, Connection) connections;
        LIST_HEAD(, Connection) closed; /* freed when no event can name them any more */
        LIST_HEAD(, Call) calls;
        unsigned n_connections;
        Tracker trackers[STORE_VOLUMES_MAX];
        uint64_t next_cookie;
        bool ended;
        uint64_t stamp_due_usec[DISK_MAX]; /* when the stamp of this origin is to be taken again, 0: it need not */
        bool stamping;                     /* a checkpoint that keeps stamps is under way */
        bool holding;                      /* some gate is closed */
        Reply stamp_reply;
        uint64_t ends_due_usec; /* when it is to be asked again whether an overlay has a user, 0: there is none such */
        unsigned ends_next;     /* node that is asked for next */
        uint64_t left_due_usec; /* not before this is it tried again to attach what a dead holder has left */
        unsigned left_pause_seconds;
};

/* server.c */
int server_claim(Server *s, unsigned disk, int path_fd, uint64_t deadline_usec);
void server_let_go(Server *s, unsigned disk);
Node *server_node_of(Server *s, const Volume *v);
void server_ask_holder(Server *s, Call *c, HolderOp op, unsigned disk, unsigned node, const char *path,
                       void (*next)(Call *c, const HolderReply *p, int fd));
/* A call has asked the holder for something with this node, and has no answer yet. */
bool server_asks_for(const Server *s, const Node *n);
unsigned server_disk_of(const Server *s, unsigned volume); /* of an attached volume, by number; 0: none */
/* Of an attached volume; its disk stays the one it is. 0 or -errno: without what is on it. */
int server_stamp(const Server *s, unsigned disk, const Volume *v, bool clean, uint8_t *stamp);
/* Takes the stamps that are due; when the next one is, or USEC_INFINITY. */
uint64_t server_take_stamps(Server *s);
/* Copies that are shown and no longer exist are taken down. */
void server_sweep_nodes(Server *s);

/* control-serve.c */
void control_accept(Server *s);
/* Of an object: every one of keys that must be there is, each has its type, and nothing else is. See Command. */
bool control_object_fits(const char *keys, json_object *object);
void control_readable(Connection *c);
void connection_close(Connection *c);
/* Frees what was closed: between two rounds of events. */
void control_bury(Server *s);
/* Opens the gates of holds whose time is up; when the next one is, or USEC_INFINITY. */
uint64_t control_expire(Server *s);
/* One that nobody waits for has no connection. Takes request; NULL: no memory. */
Call *call_new(Server *s, json_object *request);
/* Answers and frees. message: with an error. */
void call_end(Call *c, int result, const char *message);
/* The next step of c is next(), with the engine's answer to what is started with &c->reply. */
Reply *call_step(Call *c, void (*next)(Call *c, int result));

/* control-left.c */
/* Attaches volumes whose devices a dead holder has left; when there is more to do, or USEC_INFINITY. */
uint64_t control_attach_left(Server *s);
void control_left_failed(Server *s, const char *name, const char *why);

/* control-volume.c */
/* Another call attaches, detaches or removes the volume (NULL: any), or ends all. */
bool control_volume_is_taken(const Call *c, const Volume *v);
void control_volume_create(Call *c);
void control_volume_attach(Call *c);
void control_volume_detach(Call *c);
void control_volume_remove(Call *c);
void control_stop(Call *c);

/* control-free.c */
void control_track(Call *c);
void control_free_map(Call *c);
bool connection_tracks(const Connection *k, const Volume *v);
void connection_untrack(Connection *k);

/* control-copy.c */
void control_hold(Call *c);
void control_snapshot(Call *c);
void control_release(Call *c);
void control_clear_mark(Call *c);
void control_abort(Call *c);
void control_list(Call *c);
void control_delete(Call *c);
bool control_uuid(const Call *c, const char *key, uint8_t ret[16]);

/* control-show.c */
void control_expose(Call *c);
void control_hide(Call *c);
void control_end_with_use(Call *c);
/* Takes down every device of the snapshot "id", or only "device", and goes on with next. An error ends the call. */
void control_hide_all(Call *c, void (*next)(Call *c));
/* The plain one; NULL: it is not shown. */
Node *server_node_of_copy(Server *s, const uint8_t id[16]);
/*
 * The device of this copy is gone: so is its file, and its overlay with what was written to it. False: there are still
 * requests for that.
 */
bool server_node_gone(Server *s, Node *n);
/* Nobody has the file of an overlay open any more: its device went with the last mount of it. */
void server_overlay_released(void *server, Node *n);
/* The same for what a predecessor did not live to finish, and where the snapshot is gone. */
void server_sweep_overlay(Server *s, Node *n);
/* Takes down those that are to end with their last user and have none; when that is due again, or USEC_INFINITY. */
uint64_t server_end_overlays(Server *s);
/* Takes up the overlays that a dead predecessor had. */
int server_overlays_begin(Server *s, uint64_t deadline_usec);
