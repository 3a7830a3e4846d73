/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A store, some volumes and somebody who uses them, all determined by a seed, and an oracle that knows what every
 * sector of every volume and of every snapshot may be at any moment: while the engine runs, after it died, and after
 * the power went. Every difference ends the run with world->failed and a sentence. The same seed does the same again,
 * whether or not crash states are examined on the way.
 *
 *   sim-world.c  life of the engine, the loop, deaths and power cuts
 *   sim-ops.c    what the user does: requests of data
 *   sim-sets.c   … and of snapshots, volumes and upkeep
 *   sim-free.c   … and of what is free
 *   sim-check.c  what a store must be after it was opened again; crash states
 */
#include "protocol/base.h"
#include "providers/cow/engine.h"
#include "tests/sim-disk.h"
#include "tests/sim-oracle.h"

enum {
        WORLD_VOLUMES = 3,
        WORLD_OPS = 16,
        WORLD_HOLDS = 2,
        WORLD_SNAPS = 512, /* in one run */
        WORLD_SECTORS_MAX = 64 * SIM_PAGE / SIM_SECTOR,
        WORLD_BUFFER = REQUEST_BYTES_MAX,
};

typedef enum Feature {
        FEATURE_DISCARD = 1 << 0,
        FEATURE_DELETE = 1 << 1,
        FEATURE_UPKEEP = 1 << 2,  /* checkpoint, collect */
        FEATURE_VOLUMES = 1 << 3, /* attach, detach, create, remove */
        FEATURE_SETS = 1 << 4,    /* pending sets, more than one volume */
        FEATURE_CUTS = 1 << 5,    /* power cuts in the run itself */
        FEATURE_KILLS = 1 << 6,
        FEATURE_STOPS = 1 << 7,
        FEATURE_UNALIGNED = 1 << 8,
        FEATURE_FREE = 1 << 9, /* free space is not preserved */
        FEATURE_ALL = (1 << 10) - 1,
} Feature;

typedef struct WorldOptions {
        uint64_t seed;
        unsigned steps;                  /* of the disk */
        unsigned state_in;               /* one boundary of so many becomes a crash state; 0: none */
        unsigned features;               /* FEATURE_* */
        unsigned volumes, volume_blocks; /* 0: as the seed says */
        bool roomy;                      /* the store never runs full */
        bool tiny;                       /* … and here it always is */
        unsigned accidents;              /* so many times as often as else */
        bool upkeep;                     /* hardly a moment without a checkpoint or a merge */
        bool trace;
        bool may_lose; /* I/O fails: the store may be lost, snapshots void */
} WorldOptions;

typedef enum SnapState {
        SNAP_MAKING,
        SNAP_MADE,
        SNAP_GOING, /* its deletion is under way, or the store was full */
        SNAP_GONE,
} SnapState;

typedef enum SnapPending { PENDING_NO, PENDING_YES, PENDING_PERHAPS } SnapPending;

typedef struct Snap {
        uint8_t id[16], set[16];
        unsigned volume;
        SnapState state;
        SnapPending pending;
        bool dropping;        /* the engine that runs said so: the store is full */
        bool seen;            /* found in the store, for the check under way */
        uint64_t *content;    /* versions, one a sector */
        uint8_t *free_blocks; /* these may be zeros, or NULL */
        uint32_t n;
} Snap;

typedef enum VolState { VOL_ABSENT, VOL_CREATING, VOL_PRESENT, VOL_REMOVING } VolState;
typedef enum VolAttach { VOL_DETACHED, VOL_ATTACHING, VOL_ATTACHED, VOL_DETACHING } VolAttach;

typedef struct Vol {
        char name[16];
        uint64_t bytes;
        VolState state;
        VolAttach attach;
        Volume *handle;
        Oracle oracle;
        int hold;              /* index, -1: none */
        uint64_t *held;        /* what it held when the hold was complete */
        unsigned snaps_made;   /* ever */
        uint64_t flush_failed; /* moment; 0: never */
        uint64_t tracked;      /* moment tracking began */
        uint8_t *written;      /* blocks, since then; NULL: it did not */
        uint8_t *free_blocks;  /* what the map has left, or NULL */
} Vol;

typedef enum HoldState { HOLD_FREE, HOLD_ASKED, HOLD_COMPLETE, HOLD_SNAPPING, HOLD_SNAPPED } HoldState;

typedef struct SimHold {
        HoldState state;
        uint64_t token;
        unsigned mask, left; /* volumes; those that no snapshot has taken */
        bool opened;         /* by the engine itself */
        bool released;
} SimHold;

typedef struct World World;

typedef enum SimOpKind {
        OP_READ,
        OP_WRITE,
        OP_ZERO,
        OP_DISCARD,
        OP_FLUSH,
        OP_SNAP_READ,
        OP_HOLD,
        OP_SNAPSHOT,
        OP_DELETE,
        OP_DELETE_SET,
        OP_COMMIT_SET,
        OP_CHECKPOINT,
        OP_COLLECT,
        OP_ATTACH,
        OP_DETACH,
        OP_CREATE,
        OP_REMOVE,
        OP_POLICY,
        OP_UNVERIFIED,
        OP_OPEN,
        OP_STOP,
        OP_MAP,
        OP_KINDS,
} SimOpKind;

typedef struct SimOp {
        World *world;
        bool busy, gated;
        unsigned number;
        SimOpKind kind;
        Request request;
        Reply reply;
        unsigned volume, snap, hold;
        bool bad; /* it has to fail */
        uint8_t set[16];
        uint64_t begun;     /* moment of the volume's oracle */
        uint64_t *versions; /* of what it writes, WORLD_BUFFER / SIM_SECTOR */
        uint8_t *buffer;
        bool answered;
        int result;
} SimOp;

struct World {
        WorldOptions options;
        SimRandom random;
        SimDisk *disk;
        Engine *engine;
        EngineShared shared;
        EngineLimits limits;
        uint32_t segments, segment_blocks;
        Vol volumes[WORLD_VOLUMES];
        Snap snaps[WORLD_SNAPS];
        unsigned n_snaps;
        SimHold holds[WORLD_HOLDS];
        SimOp ops[WORLD_OPS];
        unsigned busy, depth;
        uint64_t next_version, next_id, next_number;
        uint64_t boundary;
        bool lost;     /* the store said so */
        bool refused;  /* it could not be opened, and I/O fails */
        bool quiet;    /* nothing new is begun */
        bool dropping; /* the crash state under way dropped snapshots: its store was full */
        bool failed;
        char message[512];
        /* results */
        uint64_t states, recoveries, blocks_read, made;
};

World *world_new(const WorldOptions *o);
World *world_free(World *w);
/* Makes the store, its volumes, and then does what the seed says. False: world->failed. */
bool world_run(World *w);
/* The pieces of it. */
bool world_make(World *w);
void world_steps(World *w, unsigned steps);
bool world_end(World *w); /* waits for everything, reads everything */
void world_power_cut(World *w, SimCut how, uint64_t seed);
void world_kill(World *w, uint64_t seed);
void world_stop(World *w);
bool world_open(World *w); /* and checks what is there */
/* Until nothing is under way; opens the gates if it has to. */
void world_drain(World *w);

void world_fail(World *w, const char *format, ...) _printf_(2, 3);
void world_trace(const World *w, const char *format, ...) _printf_(2, 3);
/* One step of the disk, and the crash state before it. False: nothing is with the disk. */
bool world_step(World *w);
bool world_wait(World *w, SimOp *op);

/* sim-ops.c */
SimOp *op_take(World *w, SimOpKind kind);
void op_give(SimOp *op);
void data_begin(World *w, SimOp *op, uint64_t offset, uint32_t length, bool fua);
void data_random(World *w);
void snap_read_begin(World *w, unsigned snap, uint64_t offset, uint32_t length);
/* Content of a snapshot, as read: 0, or it says what is wrong. */
bool snap_content_is_right(World *w, const Snap *s, const uint8_t *data, uint64_t offset, uint32_t length);

/* sim-sets.c */
void upkeep_random(World *w);
void hold_begin(World *w, unsigned mask);
/* An operation that ends with a reply. */
SimOp *reply_take(World *w, SimOpKind kind);
void snapshot_begin(World *w, unsigned hold, unsigned mask, bool stale, bool pending);
void hold_release(World *w, unsigned hold);
void delete_begin(World *w, unsigned snap);
void set_begin(World *w, SimOpKind kind, const uint8_t set[16]);
void volume_begin(World *w, SimOpKind kind, unsigned volume);
void store_begin(World *w, SimOpKind kind);
/* Hold, snapshot, release of volume 0, each when the one before has ended. */
void world_snapshot(World *w);
/* The engine said by itself that a hold is over, or a snapshot gone. */
void world_event(void *userdata, EngineEvent event, const uint8_t id[16], const char *text);
const char *op_name(SimOpKind kind);

/* sim-free.c */
void free_random(World *w);
/* Tracking is over. */
void free_forget(Vol *v);
/* A write that began at that moment has ended; one that waits at the gate has not. */
void free_written(Vol *v, uint64_t begun, uint64_t offset, uint64_t length);

/* sim-check.c */
/* Compares what the engine has with what there must be. resolve: what could be either way is from now on as it is. */
bool check_lists(World *w, Engine *e, bool resolve);
/* Reads a whole snapshot. */
bool check_snap(World *w, Engine *e, SimDisk *d, Snap *s);
void check_state(World *w, uint64_t seed);
/* A power cut left this: all volumes. resolve: that is what they have from now on. */
bool check_volumes_cut(World *w, const SimDisk *d, bool resolve);
