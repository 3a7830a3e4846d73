/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Commands to /dev/ublk-control: devices come, are taken over and go. None of them waits for I/O of the device but
 * ublk_start(), which waits until its server takes requests, and ublk_stop(), which waits for those it has; so only
 * children of the holder call these two.
 *
 * Which device is whose is in the device itself, as the 64 bits that the kernel keeps for its server: so what a dead
 * holder has left can be found, and a volume be given its device back.
 */
#include "protocol/base.h"
#include "providers/cow/shared.h"
#include <linux/ublk_cmd.h>

enum {
        UBLK_DEPTH = 128,             /* of a volume's queue */
        UBLK_DEPTH_COPY = 32,         /* of a copy's; there may be hundreds */
        UBLK_DEPTH_MAX = UBLK_DEPTH,  /* tags; requests are one fewer, see ublk-device.c */
        UBLK_DEVICES_MAX = 64 * 1024, /* numbers, by the kernel */
        UBLK_STATE_DEAD = 0,          /* no disk: not started yet, or stopped */
        UBLK_STATE_LIVE = 1,          /* a server has it, or had until a moment ago */
        UBLK_STATE_QUIESCED = 2,      /* the server is gone: requests wait for another one */
        UBLK_OPCODE_FETCH = 0x20,     /* numbers of commands that go to the device itself */
        UBLK_OPCODE_COMMIT_AND_FETCH = 0x21,
};

/* Features that we ask for; Debian 12's header knows none of the newer ones. All but the last are needed. */
#define UBLK_FEATURE_RECOVERY (1ULL << 3)       /* the device outlives its server */
#define UBLK_FEATURE_REISSUE (1ULL << 4)        /* … and so do the requests that it had */
#define UBLK_FEATURE_IOCTL_ENCODE (1ULL << 6)   /* how commands are numbered; all kernels that can do the rest */
#define UBLK_FEATURE_USER_COPY (1ULL << 7)      /* data is read and written, so that buffers are shared */
#define UBLK_FEATURE_NO_PARTITIONS (1ULL << 18) /* it is not looked for partitions */
#define UBLK_FEATURES_NEEDED \
        (UBLK_FEATURE_RECOVERY | UBLK_FEATURE_REISSUE | UBLK_FEATURE_IOCTL_ENCODE | UBLK_FEATURE_USER_COPY)

typedef struct UblkControl UblkControl;
struct UblkControl {
        /* One command; waits for its end. nr: its number; writes: data goes to the kernel. A test has its own. */
        int (*command)(UblkControl *c, unsigned nr, bool writes, const struct ublksrv_ctrl_cmd *cmd);
        uint64_t features; /* of the kernel's, those we use */
};

/* fd: of /dev/ublk-control; stays the caller's. -EOPNOTSUPP: the kernel cannot do what we need. */
int ublk_control_new(int fd, UblkControl **ret);
UblkControl *ublk_control_free(UblkControl *c);
DEFINE_CLEANUP(UblkControl *, ublk_control_free);
/* What ublk_control_new() asks; sets features. */
int ublk_control_probe(UblkControl *c);

/* --- whose it is -------------------------------------------------------------------------------------------------- */

typedef struct UblkOwner {
        uint8_t store[4]; /* how the uuid of the store begins */
        uint16_t kind;    /* NodeKind */
        uint16_t volume;  /* number in the store */
} UblkOwner;

uint64_t ublk_owner_pack(const UblkOwner *o);
/* False: it is not a device of ours. */
bool ublk_owner_unpack(uint64_t flags, UblkOwner *ret);

/* --- commands ----------------------------------------------------------------------------------------------------- */

static inline unsigned ublk_depth(uint32_t kind) {
        return kind == NODE_VOLUME ? UBLK_DEPTH : UBLK_DEPTH_COPY;
}
/* What the device of this node is to look like. */
void ublk_params_of(const Node *n, struct ublk_params *ret);
/* A new one with its parameters: its number, or -errno and nothing is left. */
int ublk_add(UblkControl *c, const Node *n, const UblkOwner *o);
/* server: pid of who takes its requests. */
int ublk_start(UblkControl *c, unsigned number, pid_t server);
/* What is under way ends, everything later fails. 0 also when there is no disk. */
int ublk_stop(UblkControl *c, unsigned number);
/* Stops it, too. It is gone when the last one has closed it; nobody is waited for where the kernel can do so. */
int ublk_delete(UblkControl *c, unsigned number);
int ublk_info(UblkControl *c, unsigned number, struct ublksrv_ctrl_dev_info *ret);
int ublk_bytes(UblkControl *c, unsigned number, uint64_t *ret);
/*
 * The device of a dead server, whose requests are all back with the kernel (-EBUSY until then), can be taken over: 0.
 * After that its new server takes requests, and ublk_recover_end() has them come: those of the dead one first.
 */
int ublk_recover_begin(UblkControl *c, unsigned number);
int ublk_recover_end(UblkControl *c, unsigned number, pid_t server);
