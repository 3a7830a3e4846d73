/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A mount namespace in which the volumes' own paths show their copies and everything else is as before.
 */
#include "protocol/base.h"

typedef struct PrivateMount {
        char *path; /* absolute, without symlinks */
        int fd;     /* detached mount */
        bool copy;  /* else a mount that lay below a copy and stays visible */
} PrivateMount;

typedef struct PrivateMounts {
        PrivateMount *mounts;
        size_t n_mounts;
} PrivateMounts;

void private_mounts_done(PrivateMounts *p);
/* Takes fd, also on failure. */
int private_mounts_add(PrivateMounts *p, const char *path, int fd, bool copy);
/* Enters the namespace for good: call it in a process that only runs the command. reterr: one line. */
int private_mounts_enter(PrivateMounts *p, char *reterr, size_t size);
