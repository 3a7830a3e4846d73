/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Programs of a database that its writer runs for a restore: with the account of the database whoever we are, with
 * descriptors 0 to 2 and no others, and killed when the thread that started them ends.
 */
#include "protocol/base.h"
#include <sys/types.h>

typedef struct ProgramChild {
        pid_t pid; /* 0: none */
        int pidfd;
} ProgramChild;
#define PROGRAM_CHILD_NONE ((ProgramChild) { .pidfd = -EBADF })

typedef struct ProgramAccount {
        uid_t uid;
        gid_t gid;
} ProgramAccount;

/* argv[0] is the path; in, out and err stay the caller's, negative: /dev/null. */
int program_child_start(char *const argv[], const ProgramAccount *account, int in, int out, int err, ProgramChild *ret);
/* Ended? Then its exit status, 128 + signal if one ended it. */
bool program_child_ended(ProgramChild *c, int *ret_status);
/* SIGTERM, and SIGKILL at until_usec. Its exit status; -ETIME if it was killed. */
int program_child_end(ProgramChild *c, uint64_t until_usec);
