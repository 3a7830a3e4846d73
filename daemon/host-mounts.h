/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * vssd's unit gives it a mount namespace of its own, in which nearly everything is read-only or not there. But copies
 * are mounted where everybody sees them, and volumes are looked up where they are mounted. So what touches mounts, its
 * children, lives in the host's namespace. Its descriptor cannot be had from inside: a control process of the unit that
 * runs outside (ExecStartPre=+) puts it into systemd's descriptor store together with the host's mount table, and vssd
 * finds both among the descriptors it is started with, after a restart too. Started in any other way there are none,
 * and vssd is in the host's namespace already.
 */
#include "protocol/base.h"
#include <stdio.h>

/* vssd --store-mounts: puts both into the store. 0, or -errno with a line on stderr. */
int host_mounts_store(void);
/* Once, before anything is opened. */
void host_mounts_take(void);
/* Of the namespace, for children; -EBADF: it is ours. */
int host_mounts_namespace(void);
/* The host's mount table from its beginning; NULL and errno. */
FILE *host_mounts_open_table(void);
