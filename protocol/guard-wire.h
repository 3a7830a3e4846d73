/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The messages of vss-guard: one struct each way over a SOCK_SEQPACKET, at most one descriptor with it. What vssd says
 * to have file systems held stands in daemon/guard.h. A guard that is handed control groups instead holds none itself,
 * but lets them go when whoever froze them cannot any more (hazards A10):
 *
 *   writer                                  vss-guard
 *                                      ◄──  HELLO
 *   CGROUP (one each, with cgroup.freeze) ►
 *   ARM ─────────────────────────────────►  locks memory
 *                                      ◄──  ARMED(result)
 *   HOLD(deadline) ──────────────────────►  before it freezes anything; once more, with other flags, at any time
 *                                      ◄──  HELD(result)
 *   RELEASE ─────────────────────────────►  lets all of them go; as at the deadline, at SIGTERM and at EOF
 *                                      ◄──  RELEASED(result; forced: it had let go by itself before)
 *   EXIT ────────────────────────────────►  exits
 *
 * Where somebody else has been asked to freeze them (systemd) and has not said yet that it did, it may do so when all
 * is over. HOLD says so by GUARD_UNSETTLED, and at EOF the guard then stays for GUARD_LINGER_USEC and undoes that, too.
 */
#include "protocol/vocabulary.h"

enum { GUARD_CGROUPS_MAX = 64 };
#define GUARD_LINGER_USEC (60 * USEC_PER_SEC)

enum GuardOp {
        GUARD_ADD = 1,
        GUARD_ARM,
        GUARD_FLUSH,
        GUARD_HOLD,
        GUARD_RELEASE,
        GUARD_EXIT,
        GUARD_HELLO,
        GUARD_CGROUP
};
enum GuardFlag {
        GUARD_MAPPED = 1 << 0,
        GUARD_WATCHED = 1 << 1,
        GUARD_KILL_STUCK = 1 << 2,
        GUARD_UNSETTLED = 1 << 3, /* HOLD of control groups: somebody else has been asked to freeze them */
        GUARD_EXPEDITE = 1 << 4,  /* ARM: the kernel's grace periods are made short during the hold */
};

struct GuardRequest {
        uint32_t op;
        uint32_t index;              /* ADD: 0 … LIMIT_VOLUMES-1, ascending */
        uint32_t level;              /* ADD: longest path in the device graph; frozen from the highest to the lowest */
        uint32_t flags;              /* ADD: GUARD_MAPPED, GUARD_WATCHED; ARM: GUARD_KILL_STUCK, GUARD_EXPEDITE */
        uint64_t deadline_usec;      /* FLUSH, HOLD: absolute CLOCK_MONOTONIC */
        uint64_t dev;                /* ADD: st_dev the descriptor must have (hazards B12) */
        char set[VSS_ID_LENGTH + 1]; /* ADD, ARM */
};

struct GuardReply {
        uint32_t op; /* the request answered; GUARD_RELEASE unasked: the guard let go by itself (forced) */
        /* 0 or -errno: -EBUSY frozen by somebody else, -ETIME deadline, -EINVAL thawed by somebody else, … */
        int32_t result;
        uint32_t index;                                 /* of the one that failed; UINT32_MAX: none in particular */
        uint32_t forced;                                /* RELEASE: a deadline fired */
        uint64_t last_pass_usec;                        /* FLUSH: the last pass, slowest file system */
        uint64_t first_hold_usec, last_hold_usec;       /* CLOCK_MONOTONIC: first FIFREEZE begun, last one returned */
        uint64_t first_release_usec, last_release_usec; /* first FITHAW begun, last one returned */
        /* names the file system and, for a stuck FIFREEZE, the process that blocks it */
        char message[LIMIT_MESSAGE_BYTES];
};
