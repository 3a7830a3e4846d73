/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A guard over real file systems, for the tests of both. Everything asserts: what goes wrong here is the test's result.
 * The sandbox's keeper thaws what a failing test leaves behind.
 */
#include "daemon/guard.h"
#include "tests/support.h"

#define WORLD_SET "01234567-89ab-cdef-0123-456789abcdef"
#define SECONDS(n) ((uint64_t) ((n) *1000000.0))
enum { WORLD_FS_MAX = 64, EXT4_MIB = 24, XFS_MIB = 300, BTRFS_MIB = 128 };

typedef struct World {
        LoopFs *fs[WORLD_FS_MAX];
        unsigned n;
        Guard *guard;
        struct GuardReply reply; /* the last one */
} World;

int fs_open(const LoopFs *fs, dev_t *ret_dev);
/* A guard without file systems; its list goes into the sandbox's directory, which is the working directory. */
void world_init(World *w);
/* levels: one digit per file system */
void world_add(World *w, const char *type, const char *levels);
void world_armed_on(World *w, const char *type, const char *levels);
void world_armed(World *w, const char *levels); /* on ext4 */
bool world_receive(World *w, uint32_t op, uint64_t timeout_usec);
void world_expect(World *w, uint32_t op, int result);
void world_hold(World *w, uint64_t budget_usec); /* and looks whether it is true */
/* Both processes of the guard end, its list goes, nothing is frozen, nothing keeps the mounts busy. */
void world_done(World *w);

pid_t second_pid(World *w);
bool held_list_exists(void);
/* What the kernel says; the shared page knows nothing of leftovers that were thawed. */
bool world_fs_thawed(const World *w);
void world_expect_thaw(World *w, uint64_t within_usec);

/* For wait_until(); userdata is the World, or the pidfd. */
bool world_is_thawed(void *world);
bool nothing_is_held(void *world);
bool rescue_is_through(void *world); /* calls guard_rescue() */
bool process_is_gone(void *pidfd);
