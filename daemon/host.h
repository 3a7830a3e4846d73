/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A provider host on the event loop: a ProviderHost (provider.h) plus the two sources that watch it. One call at a
 * time, answered through one callback; a host that dies answers its call as died. Deadlines are the owner's: it kills
 * the host at one. In the window the loop stands still and window.c calls host_dispatch() instead.
 */
#include "daemon/provider.h"
#include <systemd/sd-event.h>

typedef struct Host Host;
/* outcome OK or FAILED: reply is set; DIED: reply is NULL. more: an item of a list, the call goes on. fd is the
 * callback's. */
typedef void (*HostDone)(Host *h, Outcome outcome, const struct vss_wire_reply *reply, int fd, const Failure *failure,
                         void *userdata);

struct Host {
        ProviderHost *process;
        sd_event_source *io, *exit;
        uint32_t op; /* of the call in flight; 0: none */
        bool dead;
        HostDone done;
        void *userdata;
};

/* Spawns the host of a provider and sends LOAD; its answer comes through done like any other. */
int host_new(sd_event *event, const char *provider, uint64_t deadline_usec, HostDone done, void *userdata, Host **ret);
Host *host_free(Host *h); /* kills it */
DEFINE_CLEANUP(Host *, host_free);
int host_call(Host *h, struct vss_wire_request *request, uint64_t deadline_usec, int fd);
void host_dispatch(Host *h); /* reads what is there; may free nothing itself, but done may free h */
/* Its process is gone: as above, and if there is nothing (more) it died, although a child of its may keep the socket.
 */
void host_exited(Host *h);
void host_kill(Host *h); /* no callback for the call in flight */
