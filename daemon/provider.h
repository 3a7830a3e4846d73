/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * vssd's side of one vss-provider-host process. A host loads one provider and answers one request at a time; vssd never
 * loads provider code. During a set each provider taking part has one host that lives from begin_prepare to post_final;
 * everything else (list, remove, mount, open, abort after a death) uses a short-lived host of its own. The wire is
 * providers/wire.h: fixed-size structs, so that the window needs no allocation and a hostile reply no parser.
 *
 * vssd starts the process itself, or connects to a socket where another unit starts one, with other rights than vssd's
 * own has (provider-unit.h). That one is nobody's child here: its pidfd comes with its first message.
 */
#include "daemon/child.h"
#include "daemon/volume.h"
#include "providers/wire.h"

typedef struct ProviderHost {
        Child child;
        int life;                 /* of one that we did not start: it dies when this is closed; -EBADF: our child */
        char name[VSS_WIRE_NAME]; /* provider name as asked for, e.g. "fault:btrfs" */
        uint64_t capabilities;    /* after the LOAD reply */
        uint64_t serial;          /* of the request in flight; 0: none. One at a time. */
        uint32_t op;              /* of the request in flight */
        uint64_t deadline_usec;   /* of the request in flight; the owner kills the host at it */
        bool lost;                /* killed and not gone within 1 s: hazards B13 */
} ProviderHost;

int provider_host_new(const char *name,
                      ProviderHost **ret);         /* spawns or connects; the first request should be VSS_WIRE_LOAD */
const char *provider_start_error(int error);       /* why there is no process, and what to do */
ProviderHost *provider_host_free(ProviderHost *h); /* SIGKILL unless it has exited; reaped by the loop */
DEFINE_CLEANUP(ProviderHost *, provider_host_free);
/* Fills serial and deadline, sends. -EBUSY: one is in flight. -EPIPE: dead. */
int provider_host_send(ProviderHost *h, struct vss_wire_request *request, uint64_t deadline_usec, int fd);
/*
 * 1: a reply of the request in flight. reply->more: an item of a list, the call is not over; else serial is cleared.
 * Replies with a wrong serial, unterminated strings or an impossible result are -EBADMSG (the caller kills the host:
 * PROVIDER_FAILED). *ret_fd: descriptor of an OPEN reply, else -EBADF. 0: nothing yet; child.pidfd may be known now if
 * it was not. -EPIPE: dead.
 */
int provider_host_receive(ProviderHost *h, struct vss_wire_reply *ret, int *ret_fd);
/* Condition and text a failed reply stands for: contract errnos by condition_from_errno(), anything else
 * PROVIDER_FAILED. */
void provider_reply_failure(const char *provider, const struct vss_wire_reply *reply, Failure *ret);
/* VSS_CAP_COPY, VSS_CAP_REDIRECT or VSS_CAP_CLONE for the word that asks for it; 0: there is no such word. */
uint64_t copy_mode_capability(const char *mode);
void provider_fill_volume(struct vss_wire_request *request, const Volume *v);
void provider_fill_load(struct vss_wire_request *ret, const char *provider); /* the whole LOAD request */

/* One asynchronous call in a host of its own: spawn, LOAD, the call, exit. */
typedef struct ProviderJob ProviderJob;
/* Each list item comes through item (may be NULL), then done exactly once; fd is the callback's to keep (-EBADF: none).
 */
typedef void (*ProviderItem)(const struct vss_wire_reply *reply, void *userdata);
typedef void (*ProviderDone)(const struct vss_wire_reply *reply, int fd, const Failure *failure, void *userdata);
int provider_job_new(sd_event *event, const char *provider, struct vss_wire_request *request, int fd,
                     uint64_t budget_usec, ProviderItem item, ProviderDone done, void *userdata, ProviderJob **ret);
ProviderJob *provider_job_free(ProviderJob *j); /* kills the host, no callback */
DEFINE_CLEANUP(ProviderJob *, provider_job_free);

/* Names of all providers that can be loaded: built in, then *.so of the provider directory (root-owned only). */
int provider_names(char ***ret);
