/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Provider hosts in a unit of their own (vss-provider.socket, vss-provider.service), where each connection starts one
 * (provider-listen.h): what storage needs is then the hosts' to have and not vssd's. Such a host keeps what a child
 * would have had of vssd: it has vssd's environment, it is killed by the kernel when vssd ends, and vssd kills it
 * through its pidfd. There is no way back to children: vssd's own unit has not the rights that they need, and a
 * provider that cannot see everything would say that there is nothing.
 */
#include "protocol/base.h"

/* Once, before hosts are wanted. -EINVAL: not an absolute path, or too long for a socket. */
int provider_unit_set_socket(const char *path);
bool provider_unit_is_used(void);
/*
 * A host that is on its way: what is sent to it waits in the socket. *ret_life: closing it is the end of that host. It
 * never blocks; -ECONNREFUSED, with a line in the log, if nobody starts hosts.
 */
int provider_unit_connect(int *ret_socket, int *ret_life);
