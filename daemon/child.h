/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A process of ours that vssd talks to over a SOCK_SEQPACKET socketpair: guard, provider host, store, probe. One
 * message is one fixed-size struct, at most one descriptor rides along. Both ends are close-on-exec; the child finds
 * its end at descriptor CHILD_SOCKET_FD and every other descriptor above 2 closed (close_range), so that no grandchild
 * can keep an EOF from arriving. vssd watches the pidfd as well as the socket.
 */
#include "protocol/base.h"
#include <sys/types.h>

enum { CHILD_SOCKET_FD = 3 };

enum {
        CHILD_OWN_SESSION = 1 << 0,  /* setsid: a signal to vssd's process group does not reach it */
        CHILD_DIES_WITH_US = 1 << 1, /* PR_SET_PDEATHSIG SIGKILL: only for children that hold nothing */
        CHILD_LATER = 1 << 2, /* URGENCY_LATER from its first instruction, else URGENCY_USUAL (protocol/urgency.h) */
};

/* The mount namespace that children live in, where it is not ours (host-mounts.h); -EBADF: none. Not taken. */
void child_set_mounts(int namespace_fd);

typedef struct Child {
        pid_t pid;  /* 0: none */
        int pidfd;  /* readable once it has exited; -EBADF: none */
        int socket; /* our end, non-blocking; -EBADF: none */
        bool reaped;
        int status; /* as from waitpid, once reaped */
} Child;

#define CHILD_NULL ((Child) { .pidfd = -EBADF, .socket = -EBADF })

/* argv[0] is an absolute path. Returns 0 or -errno; *ret is untouched on failure. */
int child_spawn(char *const argv[], unsigned flags, Child *ret);
/* Sends one message; fd -1 for none (it is duplicated, the caller keeps its own). 0, -EAGAIN (socket full), -EPIPE
 * (gone). */
int child_send(int socket, const void *message, size_t size, int fd);
/*
 * Receives one message of exactly size bytes. 1: got it (*ret_fd is a new descriptor of the caller's or -EBADF; ret_fd
 * may be NULL, then a descriptor is closed); 0: nothing there; -EPIPE: the peer is gone; -EBADMSG: not such a message.
 */
int child_receive(int socket, void *message, size_t size, int *ret_fd);
void child_kill(Child *c); /* SIGKILL through the pidfd; does not wait */
/* Non-blocking waitpid: true once it is gone; *ret_status (may be NULL) is as from waitpid. Safe to call again. */
bool child_reap(Child *c, int *ret_status);
/* Closes socket and pidfd; does not kill and does not wait (SIGCHLD is ignored by a reaper in the loop; see main.c). */
void child_done(Child *c);
/* Beside our own executable or where a build tree has it, else "libexecdir/NAME"; the buffer is the caller's. */
int child_program_path(const char *name, char *ret, size_t size);
