/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Starts a provider host for each connection to a listening socket. systemd could (Accept=yes), but a unit each time
 * costs as much as the rest of what a set does before its window, and a set that is put back should need nobody who may
 * be busy: this process has its rights already and only forks.
 */
#include "protocol/base.h"

enum { PROVIDER_LISTEN_IDLE_MSEC = 300 * 1000 /* longer than vssd's own */ };

/* --listen, or --listen=MSEC as tests need it: how long to stay without work; 0, it is neither. */
int provider_listen_option(const char *word);
/* Until nobody has connected for that long and no host is left: 0. program is executed with --attach. */
int provider_listen(int socket, const char *program, int idle_msec);
