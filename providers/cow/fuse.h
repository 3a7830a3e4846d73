/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* The kernel's side of a volume: requests of /dev/fuse, carried out by the engine. The mount is nobody's to see. */
#include "providers/cow/overlay.h"
#include "providers/cow/shared.h"

typedef struct Front Front;

typedef struct FrontOptions {
        int fd; /* /dev/fuse, non-blocking */
        const SharedMap *map;
        Engine *engine;
        Overlays *overlays;
        uint64_t head_bytes;                                   /* the first bytes of a volume, … */
        void (*head_written)(void *userdata, unsigned volume); /* … of which some were written */
        void (*released)(void *userdata, Node *n);             /* nobody has the file of an overlay open any more */
        void *userdata;
} FrontOptions;

/* Carries out again or answers again what a dead server left. */
int front_new(const FrontOptions *o, Front **ret);
Front *front_free(Front *f);
/* Takes as many requests as there are, and as there are slots for. How many; -ENODEV: the mount is gone. */
int front_dispatch(Front *f);
/* Requests of this file under way. */
bool front_is_busy(const Front *f, const Node *n);
