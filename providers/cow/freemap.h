/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Free maps inside the engine; what they are and why they are right is told in freemap.c. */
#include "providers/cow/core.h"

typedef enum FreeMapState {
        FREEMAP_WRITING,
        FREEMAP_WRITTEN, /* the next checkpoint takes it in */
        FREEMAP_NAMED,   /* by the manifest, or by the one being written */
} FreeMapState;

struct FreeMap {
        TAILQ_ENTRY(FreeMap) link;
        LIST_ENTRY(FreeMap) all;
        Engine *engine;
        Volume *volume; /* NULL: forgotten */
        uint32_t refs;  /* the list, volume->map, volume->base, copy->map, and whoever writes it */
        FreeMapState state;
        bool listed;         /* in engine->maps: manifests name it */
        bool usable;         /* durable, and a snapshot may take it */
        bool taken;          /* by a snapshot */
        bool linked;         /* … which is there */
        uint32_t tag;        /* of the volume when it was made: what counts as preserved belongs to that */
        Run *run;            /* NULL like the set, when it is forgotten and nobody asks it any more */
        RunSet *set;         /* of this one run */
        FreeExtent *extents; /* while it waits for its snapshot, and while that is the newest */
        FreeExtent *strikes; /* STRIKES_MAX while it waits */
        uint32_t n, n_strikes;

        /* while it is written */
        Reply *reply;
        uint32_t next;
        struct run_page *buffer;
        Io io;
};

/* In the list; run becomes its. */
int freemap_new(Engine *e, Volume *v, Run *run, FreeMap **ret);
FreeMap *freemap_unref(FreeMap *m);
/* Out of the list. */
void freemap_forget(FreeMap *m);
void freemap_volume_done(Volume *v);
/* A write into a volume that is tracked. */
void freemap_note(Volume *v, uint64_t offset, uint64_t length);
bool freemap_is_struck(const FreeMap *m, uint64_t block);
/* Sets the bits of one page: of an extent, without what is struck; or of all of the extents. */
void freemap_bits(const FreeMap *m, uint64_t page, uint64_t first, uint64_t count, uint64_t *bits);
void freemap_fill(const FreeMap *m, uint64_t page, uint64_t *bits);
/* The map the next snapshot of v may take, or NULL. */
FreeMap *freemap_for_cut(const Volume *v);
/* The snapshot is there, and has taken m, or none. */
void freemap_cut(Volume *v, FreeMap *m);
/* The checkpoint under way names what is written; true: there was something. */
bool freemaps_take_in(Engine *e);
FreeMap *freemap_by_number(Engine *e, uint64_t number);
/* To a copy that was read from the store. -EUCLEAN: it has one already. */
int freemap_give(FreeMap *m, Copy *c, const struct strike *strikes, uint32_t n);
void freemaps_opened(Engine *e);
void freemaps_free(Engine *e); /* all of them, whoever has them */
uint64_t freemaps_memory(const Engine *e);
