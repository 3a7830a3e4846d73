/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/host.h"
#include <stdio.h>
#include <sys/epoll.h>

static void host_died(Host *h) {
        Failure f;

        if (h->dead)
                return;
        h->dead = true;
        (void) sd_event_source_set_enabled(h->io, SD_EVENT_OFF);
        (void) sd_event_source_set_enabled(h->exit, SD_EVENT_OFF);
        (void) failure_set(&f, CONDITION_PROVIDER_LOST, "provider %s: its process ended during %s", h->process->name,
                           h->op ? "a call" : "the set");
        h->op = 0;
        h->done(h, OUTCOME_DIED, NULL, -EBADF, &f, h->userdata);
}

static int on_exit_of_host(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        host_died(userdata);
        return 0;
}

/* Again after each message: a host that is not our child says in its first which process it is. */
static int watch_exit(Host *h) {
        int pidfd = h->process->child.pidfd;

        if (h->exit || pidfd < 0)
                return 0;
        int r = sd_event_add_io(sd_event_source_get_event(h->io), &h->exit, pidfd, EPOLLIN, on_exit_of_host, h);
        if (r < 0)
                return r;
        /* A last answer before its death is worth more than the death. */
        (void) sd_event_source_set_priority(h->exit, SD_EVENT_PRIORITY_NORMAL + 1);
        return 0;
}

static void take_one(Host *h, bool exited) {
        struct vss_wire_reply reply;
        Failure f = { 0 };
        int fd = -EBADF, r;

        if (h->dead)
                return;
        r = provider_host_receive(h->process, &reply, &fd);
        if (r == 0 && exited)
                host_died(h);
        else if (r == 0)
                r = watch_exit(h);
        if (r == 0)
                return;
        if (r < 0) { /* gone, or it talks nonsense: either way it is of no further use */
                host_kill(h);
                h->dead = false;
                host_died(h);
                return;
        }
        if (!reply.more)
                h->op = 0;
        if (reply.result < 0)
                provider_reply_failure(h->process->name, &reply, &f);
        h->done(h, reply.result < 0 ? OUTCOME_FAILED : OUTCOME_OK, &reply, fd, &f, h->userdata);
}

void host_dispatch(Host *h) {
        take_one(h, false);
}

void host_exited(Host *h) {
        take_one(h, true);
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        host_dispatch(userdata);
        return 0;
}

Host *host_free(Host *h) {
        if (!h)
                return NULL;
        sd_event_source_disable_unref(h->io);
        sd_event_source_disable_unref(h->exit);
        provider_host_free(h->process);
        free(h);
        return NULL;
}

int host_new(sd_event *event, const char *provider, uint64_t deadline_usec, HostDone done, void *userdata, Host **ret) {
        _cleanup_(host_freep) Host *h = calloc(1, sizeof *h);
        _cleanup_free_ struct vss_wire_request *request = calloc(1, sizeof *request);
        int r;

        if (!h || !request)
                return -ENOMEM;
        h->done = done;
        h->userdata = userdata;
        r = provider_host_new(provider, &h->process);
        if (r < 0)
                return r;
        r = sd_event_add_io(event, &h->io, h->process->child.socket, EPOLLIN, on_io, h);
        if (r < 0)
                return r;
        r = watch_exit(h);
        if (r < 0)
                return r;
        request->op = VSS_WIRE_LOAD;
        (void) snprintf(request->name, sizeof request->name, "%s", provider);
        (void) snprintf(request->text, sizeof request->text, "%s", VSS_VERSION);
        r = host_call(h, request, deadline_usec, -1);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(h);
        return 0;
}

int host_call(Host *h, struct vss_wire_request *request, uint64_t deadline_usec, int fd) {
        int r;

        if (h->dead)
                return -EPIPE;
        r = provider_host_send(h->process, request, deadline_usec, fd);
        if (r >= 0)
                h->op = request->op;
        return r;
}

void host_kill(Host *h) {
        h->dead = true;
        h->op = 0;
        (void) sd_event_source_set_enabled(h->io, SD_EVENT_OFF);
        (void) sd_event_source_set_enabled(h->exit, SD_EVENT_OFF);
        child_kill(&h->process->child);
}
