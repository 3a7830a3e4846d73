/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Children of vss-writer-exec: a script with an event, run at once, or forked now and run when it is told. What a
 * script says goes into a file in memory whose size is fixed, so neither a script that talks without end nor one that
 * leaves a process behind with its output open can hold us up.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <sys/types.h>

enum { CHILD_MESSAGE_BYTES = 64 * 1024 };

typedef struct Child {
        pid_t pid; /* 0: none; leader of a session of its own */
        int pidfd, control, output;
        size_t output_size;
} Child;
#define CHILD_NONE ((Child) { .pidfd = -EBADF, .control = -EBADF, .output = -EBADF })

typedef enum ChildKind {
        CHILD_NOW,   /* runs at once */
        CHILD_WAITS, /* runs when told, ends when we die */
        CHILD_UNDOES /* runs when told; once armed also when we die, and by its time */
} ChildKind;

typedef struct ChildStart {
        ChildKind kind;
        const char *path, *event;
        char **env;          /* NULL-terminated; env[0] is a buffer of CHILD_DEADLINE_BYTES that is filled in */
        size_t output_size;  /* room for what it says */
        const Child *before; /* CHILD_UNDOES: what it undoes; must have ended first */
} ChildStart;
enum { CHILD_DEADLINE_BYTES = 48 };

int child_start(const ChildStart *start, uint64_t deadline_usec, Child *ret);
/* CHILD_UNDOES: from now on it undoes if we die or thaw_by_usec passes. */
int child_arm(const Child *c, uint64_t thaw_by_usec);
int child_go(const Child *c, uint64_t deadline_usec);
/* 0 and its exit status (128 + signal), or -ETIME, -ECANCELED (cancel_fd became readable): then its process group was
 * killed. */
int child_wait(Child *c, uint64_t deadline_usec, int cancel_fd, int *ret_status);
/* What it said so far; the caller frees. */
int child_read(const Child *c, char **ret);
/* Ends it if it runs or waits, frees. */
void child_done(Child *c);
