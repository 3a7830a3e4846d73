/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * vssd's unit gives it a mount namespace of its own, in which nearly everything is read-only or not there. But copies
 * are mounted where everybody sees them, and volumes are looked up where they are mounted. So what touches mounts, its
 * children, lives in the host's namespace, which is PID 1's (hazards B9). Without --host-mounts vssd works in the
 * namespace that it is started in.
 */
#include "protocol/base.h"
#include <stdio.h>

/*
 * Once, before children are started. CAP_SYS_PTRACE, which opening PID 1's namespace takes, is given up for good. 0, or
 * -errno with a line in the log.
 */
int host_mounts_open(void);
/* Of the namespace, for children; -EBADF: it is ours. */
int host_mounts_namespace(void);
/* The host's mount table from its beginning; NULL and errno. */
FILE *host_mounts_open_table(void);
