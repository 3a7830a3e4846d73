/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Every ordering point of the core by name: each is a place where something must wait for something else, or data is
 * lost. The simulator takes them out one at a time (built with -DCOW_MUTATIONS) and must notice every single one.
 */
#define ORDER_POINTS(X) \
        X(PRESERVE_BEFORE_OVERWRITE) /* I1: new data goes to the volume after the old is durable in the store */ \
        X(RECORDS_IN_ORDER)          /* I1: a record counts as durable only when all before it are */ \
        X(SHARE_IN_FLIGHT)           /* I1: a write to a block that is just being preserved waits for that record */ \
        X(LOOK_AGAIN_AFTER_READ)     /* a snapshot's block read from the volume counts if nobody preserved it since */ \
        X(GATE_HOLDS_WRITES)         /* I2: no write passes a closed gate */ \
        X(DRAIN_BEFORE_CUT)          /* I2: writes under way end before the snapshot */ \
        X(FLUSH_BEFORE_CUT)          /* I2: what was acknowledged is on stable storage before the snapshot */ \
        X(CUT_DURABLE_BEFORE_DONE)   /* I2: a snapshot exists when its record is durable */ \
        X(RUN_BEFORE_MANIFEST)       /* pages of a run are durable before a superblock names them */ \
        X(MANIFEST_BEFORE_SUPERBLOCK)   /* so is the manifest */ \
        X(SUPERBLOCKS_ONE_BY_ONE)       /* a power cut tears one copy of a superblock at most */ \
        X(SUPERBLOCK_BEFORE_REUSE)      /* I4: space is free when no durable manifest names it */ \
        X(READERS_BEFORE_REUSE)         /* I4: … and nobody reads in it */ \
        X(MEMTABLE_UNTIL_INSTALLED)     /* entries stay in memory until their run is installed */ \
        X(REPLAY_FROM_FIRST_OPEN)       /* the replay position is before every record that was not durable yet */ \
        X(DELETE_DURABLE_BEFORE_EFFECT) /* I5 */ \
        X(FLUSHED_BEFORE_OPEN)          /* what a dead process wrote is durable before it is taken for granted */ \
        X(GENERATION_BEFORE_RECORDS)    /* a new generation is durable before its first record */ \
        X(PAYLOAD_CHECKED_AT_REPLAY)    /* a record whose payload is torn is none */ \
        X(BITS_LOADED_BEFORE_USE)       /* after a start: what the store already has is known before a write asks */ \
        X(FREE_RESOLVED)                /* a free block is not copied only if no older snapshot needs it */ \
        X(FREE_STRUCK)                  /* … and nothing was written to it since it was said to be free */ \
        X(FREE_DURABLE_BEFORE_CUT)      /* … and a snapshot takes only a map that it will find again */

typedef enum OrderPoint {
#define X(name) ORDER_##name,
        ORDER_POINTS(X)
#undef X
                ORDER_MAX,
} OrderPoint;

#ifdef COW_MUTATIONS
extern int order_disabled; /* an OrderPoint, or -1 */
#define ORDER(name) (order_disabled != ORDER_##name)
#else
#define ORDER(name) 1
#endif
