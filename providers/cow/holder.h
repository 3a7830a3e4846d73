/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the server asks of the holder: everything that has to outlive the server, or that would make it wait for itself.
 * One message is one struct over a SOCK_SEQPACKET pair; a descriptor may ride along.
 */
#include "providers/cow/identity.h"
#include "providers/cow/overlay.h"
#include "providers/cow/shared.h"

typedef enum HolderOp {
        HOLDER_OPEN_ORIGIN,  /* path -> an O_PATH descriptor that the holder keeps for disk; bytes, block_size, is_store
                              */
        HOLDER_OPEN_OVERLAY, /* path, a directory -> the same of an unlinked file of that many bytes; bytes: how much
                                of them it may use */
        HOLDER_CLOSE_ORIGIN, /* of disk, or the overlay */
        HOLDER_FIND,         /* path -> an O_PATH descriptor, which the holder does not keep */
        HOLDER_COMPARE,      /* path, identity -> bytes: an IdentityVerdict */
        HOLDER_MAKE_DEVICE,  /* node: a loop device of its file, or a ublk device; the holder writes its path into the
                                node. A ublk device: answered twice, at first when the server has to serve it */
        HOLDER_DROP_DEVICE,  /* node: -EBUSY: in use */
        HOLDER_READY, /* the control socket is answered; or it never will be: disk is the exit status, path says why */
        HOLDER_OP_MAX,
} HolderOp;

enum { HOLDER_PATH_MAX = ORIGIN_PATH_MAX + 1, HOLDER_TEXT_MAX = 384 };

typedef struct HolderRequest {
        uint32_t op;
        uint32_t disk;
        uint32_t node; /* index */
        uint32_t reserved;
        uint64_t cookie; /* comes back */
        uint64_t bytes;
        char path[HOLDER_PATH_MAX];
        char identity[IDENTITY_SIZE]; /* OPEN_ORIGIN: of the disk it has to be; "": any */
} HolderRequest;

typedef struct HolderReply {
        uint64_t cookie;
        int32_t result;
        uint32_t block_size; /* what direct I/O to the origin needs */
        uint64_t bytes;
        uint32_t is_store; /* not 0: what is in it begins as a store does */
        uint32_t more;     /* not 0: 1 + index of a node whose device is there: serve it. Another answer follows */
        char text[HOLDER_TEXT_MAX];   /* with an error: what, why, what to do */
        char identity[IDENTITY_SIZE]; /* OPEN_ORIGIN: of the disk it is */
        char path[HOLDER_PATH_MAX];   /* … by which it was opened: the disk may have another name now */
} HolderReply;

/* fd may be -1. 0 or -errno. */
int message_send(int socket, const void *message, size_t size, int fd);
/* 1: came; 0: nothing there; -EPIPE. *ret_fd: a new descriptor, or -1. */
int message_receive(int socket, void *message, size_t size, int *ret_fd);

typedef enum Frontend { FRONTEND_AUTO, FRONTEND_UBLK, FRONTEND_FUSE, FRONTEND_MAX } Frontend;

typedef struct ServeOptions {
        const char *store;     /* path */
        const char *directory; /* for control socket and pid; made if it is missing */
        const char *links;     /* directory of device links, "" none */
        Frontend frontend;
        int ready; /* "0 UUID\n", or an exit status and why, is written here once; -1: nowhere */
} ServeOptions;

/* Returns an exit status when the server has ended in order. */
int holder_main(const ServeOptions *o);

void silence(void);

/* What a server needs; all of it is inherited. */
typedef struct ServerStart {
        SharedMap map;
        int fuse, store, control, holder; /* store: O_PATH. fuse: -1 with ublk */
        int ublk, devices;                /* /dev/ublk-control and the directory it is in; -1 with FUSE */
        int shared;                       /* the memfd */
        int overlays;                     /* overlays_memory() */
        int overlay_files[OVERLAYS];      /* the holder's descriptors, of the moment when it was started */
        int kmsg;                         /* the kernel's log, the one that needs no disk; -1: none */
        const char *store_path;
} ServerStart;

/* Never returns: the server's exit status is for the holder. */
_Noreturn void server_main(const ServerStart *s);
enum { SERVER_STOPPED = 0, SERVER_REFUSED = 3 /* there is no use in starting another one */ };
