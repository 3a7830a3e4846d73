/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Talks to one vss-provider-host and waits for each answer; for tests that look at providers without vssd. */
#include "daemon/provider.h"

enum { LISTED_MAX = 256 };

typedef struct Answer {
        int result;
        struct vss_wire_reply reply;
        struct vss_wire_reply listed[LISTED_MAX]; /* of a list */
        unsigned n_listed;
        int fd; /* of open; the caller closes */
} Answer;

/* Starts a host and loads the provider into it; ends the test if that fails. */
ProviderHost *host_new(const char *provider);
/* Starts a host without loading anything. */
ProviderHost *host_new_empty(const char *provider);
/* One request, at most 30 s. -EPIPE when the host died. The answer is static: the next call overwrites it. */
const Answer *host_ask(ProviderHost *h, struct vss_wire_request *request, int fd);
/* A request of this kind for a set and snapshot (NULL: none). Static as well. */
struct vss_wire_request *request_new(enum vss_wire_op op, const char *set, const char *snapshot);
/* request_new() and host_ask() in one: the result. */
int host_step(ProviderHost *h, enum vss_wire_op op, const char *set, const char *snapshot);
/* Waits until the process is gone, at most 10 s. */
void host_wait_gone(ProviderHost *h);
void id_make(char ret[static VSS_WIRE_ID]);

/* Volumes of the built-in engine, ext4, mounted; each in a store of its own but for the first two, which share one. */
typedef struct EngineVolume {
        char *path, *image;
        char device[256];
} EngineVolume;
/* Needs STATE_DIRECTORY, RUNTIME_DIRECTORY and VSS_SOURCE. Ends the test if it fails. */
void engine_volumes_new(EngineVolume *ret, unsigned n);
/* Ends every vss-cow too. */
void engine_volumes_free(EngineVolume *volumes, unsigned n);
