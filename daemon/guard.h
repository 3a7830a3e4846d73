/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What vssd and vss-guard say to each other, and vssd's side of it. vss-guard is one process per set, with locked
 * memory; it freezes and thaws the file systems it was handed. It is there before the window: where there is a socket
 * RUNTIME/guard.socket somebody else (systemd: vss-guard.socket) starts one for each connection, outside of vssd's
 * control group, so that whoever kills all of vssd's does not kill it; else vssd starts it in a session of its own.
 *
 *   vssd                                    vss-guard
 *                                      ◄──  HELLO(its own pidfd)
 *   ADD (one per file system, with fd) ──►  GUARD_MAPPED: resumed, if need be, before it is thawed (hazards A2)
 *                                           GUARD_WATCHED: that alone; whoever copies it freezes it himself
 *   ARM (with fd) ───────────────────────►  locks memory, starts threads, forks its second, writes RUNTIME/held/SET
 *                                      ◄──  ARMED(result, pidfd of the second; message: what of it was not permitted)
 *   FLUSH(deadline) ─────────────────────►  syncfs of all in parallel, repeated while it pays
 *                                      ◄──  FLUSHED(usec of the last pass, slowest; result)
 *   HOLD(deadline) ──────────────────────►  FIFREEZE, highest level first, one level in parallel
 *                                      ◄──  HELD(result)      on failure everything is thawed again, except a FIFREEZE
 *                                                             in flight: RELEASED follows when it has come to its end
 *   RELEASE ─────────────────────────────►  FITHAW in reverse
 *                                      ◄──  RELEASED(result)  0 only if every FITHAW returned 0 and no deadline fired
 *   EOF or EXIT ─────────────────────────►  thaws what is held, removes RUNTIME/held/SET, exits
 *
 * State that must outlive a SIGKILL of the guard lives in a page shared by vssd, the guard and the guard's second
 * (struct GuardShared, a sealed-size memfd handed to the guard with ARM): who froze what. Deadlines are absolute
 * CLOCK_MONOTONIC on the wire.
 */
#include "daemon/child.h"
#include "daemon/guard-dm.h"
#include "protocol/guard-wire.h"
#include "protocol/vocabulary.h"
#include <stdatomic.h>

/* What one file system is, as far as we are concerned. Written by the thread that owns it, read by everybody. */
enum GuardFsState { GUARD_FS_IDLE, GUARD_FS_FREEZING, GUARD_FS_HELD, GUARD_FS_THAWING, GUARD_FS_THAWED };

struct GuardShared {
        _Atomic uint32_t count;
        _Atomic uint32_t cancelled; /* a FIFREEZE that returns and finds this set thaws at once */
        _Atomic uint32_t forced;
        _Atomic uint32_t released; /* all threads are through: nothing of ours is held or in flight */
        _Atomic uint64_t deadline_usec;
        struct {
                _Atomic uint32_t state;
                _Atomic int32_t freeze_result, thaw_result;
                _Atomic uint64_t hold_begin_usec, hold_end_usec, release_begin_usec, release_end_usec;
        } fs[LIMIT_VOLUMES];
        /* For messages and RUNTIME/held; written by vssd before ARM. In the requests they would overfill the socket. */
        char mount_points[LIMIT_VOLUMES][LIMIT_PATH_BYTES];
};

/* vssd's side. Nothing here blocks; between hold and release nothing here allocates, opens or logs. */
typedef struct Guard {
        Child child;
        int shared_fd;
        struct GuardShared *shared;
        int fds[LIMIT_VOLUMES];      /* vssd's own descriptors of the same file systems, for guard_rescue() */
        bool watched[LIMIT_VOLUMES]; /* not to be thawed */
        GuardDm dm[LIMIT_VOLUMES];
        int dm_control; /* -EBADF: no logical volume among them */
        bool expedite;
        uint32_t n_fds;
        uint32_t awaited; /* the request not answered yet; 0: none */
        int second_pidfd; /* came with ARMED */
        uint64_t rescue_begin_usec;
        const char *runtime_directory; /* the caller's */
        char set[VSS_ID_LENGTH + 1];
} Guard;

/* runtime_directory: where held/ lives (tmpfs); outlives the guard. */
int guard_new(const char *set, const char *runtime_directory, Guard **ret);
/* Duplicates fd (a directory of the file system, O_RDONLY). */
int guard_add(Guard *g, int fd, uint64_t dev, unsigned level, const char *mount_point);
/*
 * One that may lie on a logical volume that lvm copies: resumed before it is thawed. watched: only that, it is never
 * frozen here, and if it lies on none there is nothing to add.
 */
int guard_add_mapped(Guard *g, int fd, uint64_t dev, unsigned level, const char *mount_point, bool watched);
/*
 * flags: GUARD_KILL_STUCK, owners of an io_uring that may keep a freeze waiting are killed, not only named (hazards
 * A1); GUARD_EXPEDITE, the kernel's grace periods are short during the hold.
 */
int guard_arm(Guard *g, uint32_t flags);
int guard_flush(Guard *g, uint64_t deadline_usec);
int guard_hold(Guard *g, uint64_t deadline_usec);
int guard_release(Guard *g);
/*
 * 1: *ret filled; 0: nothing yet; -EPIPE: the guard is gone (then guard_rescue). GUARD_HELLO: from now on child.pidfd
 * can be watched; of one that vssd started it can be from the beginning, and no HELLO is seen.
 */
int guard_receive(Guard *g, struct GuardReply *ret);
/*
 * The guard is dead (its pidfd says so) or did not answer by deadline + 500 ms. Its second thaws by itself; this waits
 * for nothing: it looks at the shared page and thaws only what no living process can be inside any more. Call again
 * (every 50 ms) until it returns 1: nothing of ours is held. 0: not yet. -errno: a FITHAW failed.
 */
int guard_rescue(Guard *g);
bool guard_holds(const Guard *g); /* by the shared page: any file system FREEZING, HELD or THAWING */
/* Closes everything; the guard sees EOF, thaws what is left and goes. */
Guard *guard_free(Guard *g);
DEFINE_CLEANUP(Guard *, guard_free);
/* First act of every start of vssd: runs `vss-guard --release-leftovers` and waits for it, at most 5 s. 0 or -errno. */
int guard_release_leftovers(const char *runtime_directory);
