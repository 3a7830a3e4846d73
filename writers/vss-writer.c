/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Life of a writer: made from a struct of callbacks whose layout may be older or newer than ours (size and version come
 * first, members are only appended), and taken apart in an order that lets the application go on before anything else
 * happens.
 */
#include "writers/writer-lib.h"
#include "writers/writer-worker.h"
#include <sys/eventfd.h>

/* The members of version 1. A later library accepts callers that know only these. */
#define CALLBACKS_SIZE_V1 (offsetof(struct vss_writer_callbacks, post_restore) + sizeof(vss_event_fn))

vss_event_fn writer_callback(const Writer *w, WriterEvent e) {
        const struct vss_writer_callbacks *c = &w->callbacks;

        switch (e) {
        case EVENT_PREPARE_BACKUP:
                return c->prepare_backup;
        case EVENT_PREPARE_SNAPSHOT:
                return c->prepare_snapshot;
        case EVENT_FREEZE:
                return c->freeze;
        case EVENT_THAW:
                return c->thaw;
        case EVENT_POST_SNAPSHOT:
                return c->post_snapshot;
        case EVENT_BACKUP_COMPLETE:
                return c->backup_complete;
        case EVENT_BACKUP_SHUTDOWN:
                return c->backup_shutdown;
        case EVENT_ABORT:
                return c->abort;
        case EVENT_PRE_RESTORE:
                return c->pre_restore;
        case EVENT_POST_RESTORE:
                return c->post_restore;
        default:
                return NULL;
        }
}

uint32_t writer_events_wanted(const Writer *w) {
        uint32_t wanted = 1u << EVENT_IDENTIFY;

        for (int e = 0; e < _WRITER_EVENT_MAX; e++)
                if (writer_callback(w, (WriterEvent) e))
                        wanted |= 1u << e;
        return wanted;
}

void writer_set_hooks(Writer *w, WriterRegistered registered, WriterBefore before, WriterAfter after, void *userdata) {
        w->registered = registered;
        w->before = before;
        w->after = after;
        w->hook_userdata = userdata;
}

static int callbacks_check(const struct vss_writer_callbacks *c) {
        if (c->level >= _LEVEL_MAX || c->usage >= _USAGE_MAX || c->source >= _SOURCE_MAX)
                return -EINVAL;
        if (c->flags & ~(uint32_t) VSS_WRITER_KEEP_RUNNING_IF_STUCK)
                return -EINVAL;
        if (!c->name || !writer_name_is_valid(c->name) || (c->instance && !writer_instance_is_valid(c->instance)))
                return -EINVAL;
        if (!c->identify || (c->freeze && (!c->thaw || !c->abort)))
                return -EINVAL;
        if (c->freeze_timeout_usec > 0 && c->freeze_timeout_usec < BUDGET_MIN_FREEZE_USEC)
                return -ERANGE;
        return 0;
}

static int writer_copy_strings(Writer *w) {
        struct vss_writer_callbacks *c = &w->callbacks;

        w->name = strdup(c->name);
        w->instance = strdup(c->instance ? c->instance : "");
        w->version = strndup(c->version ? c->version : "", LIMIT_STRING_BYTES);
        if (!w->name || !w->instance || !w->version)
                return -ENOMEM;

        text_clean(w->version);
        c->name = w->name;
        c->instance = w->instance;
        c->version = w->version;
        return 0;
}

static Writer *writer_destroy(Writer *w) {
        close_fd(w->stop_fd);
        free(w->name);
        free(w->instance);
        free(w->version);
        free(w);
        return NULL;
}
DEFINE_CLEANUP(Writer *, writer_destroy);

_public_ int vss_writer_new(const struct vss_writer_callbacks *callbacks, void *userdata, struct vss_writer **ret) {
        _cleanup_(writer_destroyp) Writer *w = NULL;
        int r;

        if (!callbacks || !ret || callbacks->struct_size < CALLBACKS_SIZE_V1)
                return -EINVAL;
        if (callbacks->api_version != VSS_WRITER_API_VERSION)
                return -EPROTONOSUPPORT;

        w = calloc(1, sizeof(*w));
        if (!w)
                return -ENOMEM;
        w->stop_fd = w->lease_fd = -EBADF;
        w->userdata = userdata;
        TAILQ_INIT(&w->events);
        memcpy(&w->callbacks, callbacks, MIN_OF(sizeof(w->callbacks), (size_t) callbacks->struct_size));

        r = callbacks_check(&w->callbacks);
        if (r < 0)
                return r;
        r = writer_copy_strings(w);
        if (r < 0)
                return r;
        w->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (w->stop_fd < 0)
                return -errno;

        *ret = TAKE_PTR(w);
        return 0;
}

_public_ void vss_writer_stop(struct vss_writer *w) {
        int saved = errno;

        if (w)
                (void) eventfd_write(w->stop_fd, 1);
        errno = saved;
}

_public_ int vss_writer_attach(struct vss_writer *w, sd_event *event) {
        if (!w || !event)
                return -EINVAL;
        if (w->link || w->running)
                return -EBUSY;
        return link_join(event, w);
}

_public_ struct vss_writer *vss_writer_free(struct vss_writer *w) {
        if (!w)
                return NULL;

        assert(!w->running);
        if (w->link) {
                w->abandoned = true;
                writer_resume(w, CONDITION_WRITER_LOST);
                for (Event *e; (e = TAILQ_FIRST(&w->events));) {
                        failure_set(&e->failure, CONDITION_WRITER_RETRYABLE, "%s is leaving", w->name);
                        e->failed = true;
                        event_answer(e);
                        event_free(e);
                }
                link_leave(w);
        }
        writer_forget_timers(w);
        return writer_destroy(w);
}
