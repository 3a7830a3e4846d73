/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One call outside a set: a host of its own that is started, asked to load, asked once, and let go. Death, nonsense and
 * the deadline each end it with one failure. A host that SIGKILL does not end within a second sits in the kernel
 * (hazards B13): that is said, because what it is doing may still come about.
 */
#include "daemon/provider.h"
#include <fcntl.h>
#include <sys/epoll.h>

#define GONE_USEC (1 * USEC_PER_SEC)

typedef enum JobState { JOB_LOADING, JOB_CALLING, JOB_KILLED } JobState;

struct ProviderJob {
        ProviderHost *host;
        JobState state;
        struct vss_wire_request request;
        int request_fd;
        uint64_t deadline_usec;
        ProviderItem item;
        ProviderDone done;
        void *userdata;
        sd_event_source *socket_source, *death_source, *timer_source;
        struct vss_wire_reply reply;
        Failure failure; /* known once killed */
};

ProviderJob *provider_job_free(ProviderJob *j) {
        if (!j)
                return NULL;
        sd_event_source_disable_unref(j->socket_source);
        sd_event_source_disable_unref(j->death_source);
        sd_event_source_disable_unref(j->timer_source);
        (void) close_fd(j->request_fd);
        (void) provider_host_free(j->host);
        free(j);
        return NULL;
}

/* The callback may free the job first and read its arguments then: they are copies. */
static void job_finish(ProviderJob *j, int fd) {
        const struct vss_wire_reply reply = j->reply;
        const Failure failure = j->failure;
        bool failed = failure.condition != CONDITION_NONE;
        (void) sd_event_source_set_enabled(j->socket_source, SD_EVENT_OFF);
        (void) sd_event_source_set_enabled(j->death_source, SD_EVENT_OFF);
        (void) sd_event_source_set_enabled(j->timer_source, SD_EVENT_OFF);
        j->done(failed ? NULL : &reply, fd, failed ? &failure : NULL, j->userdata);
}

/*
 * j->failure is set; the answer waits until the process is gone or is given up. One that has not said yet who it is has
 * not been asked for anything either: it finds its pipe closed.
 */
static void job_kill(ProviderJob *j) {
        (void) sd_event_source_set_enabled(j->socket_source, SD_EVENT_OFF);
        if (j->host->child.pidfd < 0) {
                j->host = provider_host_free(j->host);
                job_finish(j, -EBADF);
                return;
        }
        j->state = JOB_KILLED;
        child_kill(&j->host->child);
        (void) sd_event_source_set_time(j->timer_source, now_usec() + GONE_USEC);
        (void) sd_event_source_set_enabled(j->timer_source, SD_EVENT_ONESHOT);
}

static void job_call(ProviderJob *j) {
        int r = provider_host_send(j->host, &j->request, j->deadline_usec, j->request_fd);
        j->request_fd = close_fd(j->request_fd);
        if (r < 0) {
                (void) failure_set(&j->failure, CONDITION_PROVIDER_LOST, "provider %s died before it could be asked",
                                   j->host->name);
                job_kill(j);
                return;
        }
        j->state = JOB_CALLING;
}

static void job_reply(ProviderJob *j, int fd) {
        if (j->reply.result < 0) {
                provider_reply_failure(j->host->name, &j->reply, &j->failure);
                (void) close_fd(fd);
                job_finish(j, -EBADF);
        } else if (j->state == JOB_LOADING && j->request.op != VSS_WIRE_LOAD)
                job_call(j);
        else if (!j->reply.more)
                job_finish(j, fd);
        else if (j->item)
                j->item(&j->reply, j->userdata);
}

static int job_on_death(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        ProviderJob *j = userdata;
        (void) sd_event_source_set_enabled(source, SD_EVENT_OFF);
        if (j->state == JOB_KILLED)
                job_finish(j, -EBADF);
        return 0; /* else the end of the socket follows, after what is still in it */
}

/* Again after each message: a host that is not our child says in its first which process it is. */
static int job_watch_death(ProviderJob *j) {
        int pidfd = j->host->child.pidfd;
        if (j->death_source || pidfd < 0)
                return 0;
        return sd_event_add_io(sd_event_source_get_event(j->socket_source), &j->death_source, pidfd, EPOLLIN,
                               job_on_death, j);
}

/* One message per round: the callback may have freed the job. */
static int job_on_socket(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        ProviderJob *j = userdata;
        int reply_fd = -EBADF, r = provider_host_receive(j->host, &j->reply, &reply_fd);
        if (r > 0) {
                job_reply(j, reply_fd);
                return 0;
        }
        if (r == 0)
                r = job_watch_death(j);
        if (r == 0)
                return 0;
        if (r == -EPIPE)
                (void) failure_set(&j->failure, CONDITION_PROVIDER_LOST, "provider %s died in the middle of a call",
                                   j->host->name);
        else
                (void) failure_set(&j->failure, CONDITION_PROVIDER_FAILED,
                                   "provider %s gave an answer that makes no sense", j->host->name);
        job_kill(j);
        return 0;
}

static int job_on_time(sd_event_source *source, uint64_t usec, void *userdata) {
        ProviderJob *j = userdata;
        if (j->state == JOB_KILLED) {
                j->host->lost = true;
                (void) failure_set(
                        &j->failure, CONDITION_PROVIDER_LOST,
                        "provider %s was killed but is still inside the kernel: what it was doing may yet happen",
                        j->host->name);
                job_finish(j, -EBADF);
                return 0;
        }
        (void) failure_set(&j->failure, CONDITION_DEADLINE_PASSED, "provider %s did not answer in time", j->host->name);
        job_kill(j);
        return 0;
}

static int job_attach(ProviderJob *j, sd_event *event) {
        int r = sd_event_add_io(event, &j->socket_source, j->host->child.socket, EPOLLIN, job_on_socket, j);
        if (r < 0)
                return r;
        r = job_watch_death(j);
        if (r < 0)
                return r;
        return sd_event_add_time(event, &j->timer_source, CLOCK_MONOTONIC, j->deadline_usec, 1, job_on_time, j);
}

int provider_job_new(sd_event *event, const char *provider, struct vss_wire_request *request, int fd,
                     uint64_t budget_usec, ProviderItem item, ProviderDone done, void *userdata, ProviderJob **ret) {
        assert(event && provider && request && done && ret);
        _cleanup_(provider_job_freep) ProviderJob *j = calloc(1, sizeof(ProviderJob));
        if (!j)
                return -ENOMEM;
        *j = (ProviderJob) {
                .request = *request,
                .request_fd = -EBADF,
                .deadline_usec = usec_add(now_usec(), budget_usec),
                .item = item,
                .done = done,
                .userdata = userdata,
        };
        if (fd >= 0) {
                j->request_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
                if (j->request_fd < 0)
                        return -errno;
        }
        int r = provider_host_new(provider, &j->host);
        if (r < 0)
                return r;
        r = job_attach(j, event);
        if (r < 0)
                return r;
        struct vss_wire_request load;
        provider_fill_load(&load, provider);
        r = provider_host_send(j->host, &load, j->deadline_usec, -1);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(j);
        return 0;
}
