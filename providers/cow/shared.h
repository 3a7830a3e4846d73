/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What vss-cow's holder and its server share: memory that outlives the server. It has the requests that the kernel has
 * handed over and that were not answered yet, and the files the FUSE mount shows. One server at a time writes slots;
 * the holder writes devices; both only what is theirs. With ublk the kernel keeps the requests: there the areas of the
 * slots are buffers, and no more than that.
 *
 * A slot (hazards A7). read(/dev/fuse) fills its area; the length in the request's head says that there is one, and is
 * 0 before the read. When the request has been carried out, result is stored and then done, then the reply is sent,
 * then length and done are cleared. So a successor finds for each slot one of:
 *
 *   length 0            nothing, or a request that the kernel still has
 *   length, not done    not carried out, or only the dead server knew: it is done again. Nobody was told the result
 *   done                carried out. Only the reply is repeated (twice is harmless: the kernel says ENOENT). Doing it
 * again would put old data over newer, since the client may have gone on
 */
#include "protocol/base.h"
#include "providers/cow/engine.h"
#include <linux/fuse.h>

enum {
        SLOTS = 128,            /* the depth of a loop device's queue */
        SLOT_HEAD = BLOCK_SIZE, /* the request's head ends where its payload begins, aligned for direct I/O */
        SLOT_BYTES = SLOT_HEAD + REQUEST_BYTES_MAX,
        NODES = STORE_VOLUMES_MAX + 512, /* files: volumes, and copies that are shown */
        NODE_NAME_MAX = 64,
        DEVICE_PATH_MAX = 32, /* "/dev/loopN", "/dev/ublkbN" */
};

typedef struct Slot {
        uint32_t done;
        int32_t result; /* bytes of payload in the reply, or -errno */
} Slot;

typedef enum NodeKind { NODE_UNUSED, NODE_VOLUME, NODE_COPY, NODE_OVERLAY } NodeKind;

typedef struct Node {
        uint32_t kind;           /* NodeKind; set last, cleared first */
        uint32_t serial;         /* how often this place was used: part of the file's number */
        uint32_t volume;         /* number */
        uint32_t block_size;     /* logical, of its device */
        uint32_t overlay;        /* NODE_OVERLAY: its number; nobody else has it as long as the node is there */
        uint32_t overlay_blocks; /* … and how many blocks it may have; 0: it is closed, its device is on its way out */
        uint32_t ends;           /* … with its last user, which for a ublk device the server has to look for */
        uint64_t bytes;
        uint8_t snapshot[16];
        char name[NODE_NAME_MAX];     /* the volume's name, the id of the copy, or that, + and the overlay's number */
        char device[DEVICE_PATH_MAX]; /* "" until the holder has made one */
        uint32_t ublk;                /* 1 + the number of its ublk device, which may not have been started; 0: none */
} Node;

typedef struct Origin {    /* of an attached volume, by disk number; and files of overlays */
        int32_t fd;        /* the holder's O_PATH descriptor, inherited by every server; -1: none */
        uint32_t volume;   /* number */
        uint32_t attached; /* a server has told the engine: the next one does so without being asked */
} Origin;

typedef struct Shared {
        EngineShared engine;
        uint32_t servers;     /* started so far */
        uint32_t initialized; /* FUSE_INIT was answered; or devices of ublk are served */
        Slot slots[SLOTS];
        Node nodes[NODES];
        bool left[VOLUME_NUMBERS]; /* volumes, by number, whose devices a dead holder has left: attached at once */
        Origin origins[DISK_MAX];
} Shared;

/* One mapping: Shared, then the areas. */
typedef struct SharedMap {
        Shared *shared;
        uint8_t *areas;
        size_t length;
} SharedMap;

/* A memfd of the right size; -errno. */
int shared_create(void);
/* Maps it, and touches every page for writing: a fatal signal in a read to a page not yet mapped here would end the
 * request with EIO. */
int shared_map(int fd, SharedMap *ret);
void shared_unmap(SharedMap map);

static inline uint8_t *slot_payload(const SharedMap *m, unsigned i) {
        return m->areas + (size_t) i * SLOT_BYTES + SLOT_HEAD;
}

/* Where read(/dev/fuse) puts a request, so that the payload of a write is at slot_payload(). */
static inline struct fuse_in_header *slot_request(const SharedMap *m, unsigned i) {
        return (struct fuse_in_header *) (slot_payload(m, i) - sizeof(struct fuse_in_header) -
                                          sizeof(struct fuse_write_in));
}

/* Numbers of files, the same for every server. 1 is the root. */
static inline uint64_t node_id(const Shared *s, const Node *n) {
        return 2 + (uint64_t) (n - s->nodes) + (uint64_t) n->serial * 4096;
}
/* One that somebody can use, or what is left of it. */
static inline bool node_has_device(const Node *n) {
        return n->device[0] || n->ublk;
}
Node *node_by_id(Shared *s, uint64_t id);
Node *node_by_name(Shared *s, const char *name);
/* A free place with a name, or NULL. It counts when kind is set. */
Node *node_new(Shared *s, const char *name);
void node_free(Node *n);
