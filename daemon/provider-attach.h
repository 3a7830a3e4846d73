/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A provider host that was started for a connection of vssd's becomes what a child of vssd would be. The parent-death
 * signal has a substitute that also reaches a process inside a call, without a thread in a process that runs the code
 * of others: a pipe whose other end only vssd has, and a kernel that sends SIGKILL when that is closed.
 */
#include "protocol/base.h"

/* 0; -EPIPE: vssd has gone already, or does not want it any more; -errno: it is not vssd, or talks nonsense. */
int provider_attach(int socket);
