/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The kernel's side of a volume: requests of its block device, carried out by the engine. There are two of them, and a
 * store has one for all its devices: files of a FUSE mount that is nobody's to see, with loop devices over them
 * (fuse.c), and ublk devices (ublk.c). What a request means to the engine is the same for both, and is said here.
 */
#include "providers/cow/overlay.h"
#include "providers/cow/ring.h"
#include "providers/cow/ublk-control.h"

typedef struct Front Front;

typedef struct FrontOptions {
        int fuse;             /* /dev/fuse, non-blocking */
        UblkControl *control; /* or this … */
        int devices;          /* … and the directory /dev */
        const SharedMap *map;
        Ring *ring;
        Engine *engine;
        Overlays *overlays;
        uint64_t head_bytes;                                   /* the first bytes of a volume, … */
        void (*head_written)(void *userdata, unsigned volume); /* … of which some were written */
        void (*released)(void *userdata, Node *n);             /* nobody has the file of an overlay open any more */
        void *userdata;
} FrontOptions;

struct Front {
        const FrontOptions *options;
        /* Takes as many requests as there are, and as there are slots for. How many; -ENODEV: the mount is gone. */
        int (*dispatch)(Front *f);
        /* A device of this node has been added: takes its requests from now on, and those of a dead server. */
        int (*serve)(Front *f, Node *n);
};

/* Each carries out again or answers again what a dead server left. o stays the caller's, for as long as the front. */
int fuse_front_new(const FrontOptions *o, Front **ret);
int ublk_front_new(const FrontOptions *o, Front **ret);

static inline int front_dispatch(Front *f) {
        return f->dispatch(f);
}

/*
 * Makes what op is for the file or device of n: fills in all of q but buffer, done and owner, and cuts the length at
 * the end. 0, or what the answer is: -errno.
 */
int front_request(const Front *f, const Node *n, RequestOp op, uint64_t offset, uint64_t length, Request *q);
void front_submit(const Front *f, const Node *n, Request *q);
/* One of them is done: what the answer is, 0 or -errno. */
int front_done(const Front *f, const Request *q, int result);
