/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The event object: what a callback may ask about one call of vssd and what it may add to the answer. In run mode a
 * callback has the event to itself on the worker's thread; the loop's thread touches only `cancelled` and the cancel
 * descriptor meanwhile.
 */
#include "protocol/restore.h"
#include "writers/writer-lib.h"
#include "writers/writer-worker.h"
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata) {
        event_cancel(userdata);
        return 0;
}

int event_new(Writer *w, WriterEvent kind, sd_bus_message *call, Event **ret) {
        _cleanup_(event_freep) Event *e = calloc(1, sizeof(*e));

        if (!e)
                return -ENOMEM;
        e->kind = kind;
        e->copy_fd = -EBADF;
        e->deadline_usec = e->thaw_by_usec = USEC_INFINITY;
        e->started_usec = now_usec();
        e->cancel_fd = -EBADF;
        if (w->worker) { /* in attach mode on demand: between Freeze and its answer every call counts */
                e->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
                if (e->cancel_fd < 0)
                        return -errno;
        }
        e->call = sd_bus_message_ref(call);
        e->writer = w;
        TAILQ_INSERT_TAIL(&w->events, e, entries);
        w->n_events++;
        *ret = TAKE_PTR(e);
        return 0;
}

void event_values_done(EventValues *values) {
        for (size_t i = 0; i < values->n; i++) {
                free(values->v[i].component);
                free(values->v[i].key);
                free(values->v[i].text);
        }
        free(values->v);
        *values = (EventValues) {};
}

Event *event_free(Event *e) {
        if (!e)
                return NULL;

        if (e->writer) {
                TAILQ_REMOVE(&e->writer->events, e, entries);
                e->writer->n_events--;
        }
        sd_event_source_disable_unref(e->timer);
        sd_event_source_disable_unref(e->turn);
        sd_bus_message_unref(e->call);
        close_fd(e->cancel_fd);
        close_fd(e->copy_fd);
        for (size_t i = 0; i < e->n_volumes; i++)
                free(e->volumes[i]);
        for (size_t i = 0; i < e->n_components; i++)
                free(e->components[i].path);
        free(e->volumes);
        free(e->components);
        event_values_done(&e->session);
        event_values_done(&e->answer);
        event_values_done(&e->failures);
        free(e->document);
        free(e->copy_volume);
        free(e);
        return NULL;
}

void event_cancel(Event *e) {
        if (!atomic_exchange(&e->cancelled, true) && e->cancel_fd >= 0)
                (void) eventfd_write(e->cancel_fd, 1);
}

int event_arm(Event *e) {
        sd_event *loop = e->writer->link->event;
        int r;

        if (e->deadline_usec == USEC_INFINITY)
                return 0;
        r = sd_event_add_time(loop, &e->timer, CLOCK_MONOTONIC, e->deadline_usec, TIMER_ACCURACY_USEC, on_deadline, e);
        return r < 0 ? r : 0;
}

int event_call(Event *e) {
        Writer *w = e->writer;
        int r = w->before ? w->before(w, e, w->hook_userdata) : 0;

        return r == 0 ? event_call_plain(e) : r;
}

int event_call_plain(Event *e) {
        Writer *w = e->writer;
        vss_event_fn f = writer_callback(w, e->kind);
        int r;

        if (e->kind == EVENT_IDENTIFY) {
                int result = 0;
                r = metadata_build(w, &e->document, &result);
                return r < 0 ? r : result > 0 ? -ENOTSUP : result; /* identify cannot answer later */
        }
        return f ? f(e, w->userdata) : 0;
}

const char *event_find(const EventValues *values, const char *component, const char *key) {
        for (size_t i = 0; i < values->n; i++)
                if (streq_null(values->v[i].component, component) && streq(values->v[i].key, key))
                        return values->v[i].text;
        return NULL;
}

int event_add(EventValues *values, const char *component, const char *key, const char *text) {
        EventValue v = {}, *grown;

        if (values->n >= EVENT_VALUES_MAX)
                return -E2BIG;
        grown = reallocarray(values->v, values->n + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        values->v = grown;

        v.component = component ? strdup(component) : NULL;
        v.key = strdup(key);
        v.text = strdup(text);
        if ((component && !v.component) || !v.key || !v.text) {
                free(v.component);
                free(v.key);
                free(v.text);
                return -ENOMEM;
        }
        values->v[values->n++] = v;
        return 0;
}

_public_ const char *vss_event_set(const struct vss_event *e) {
        return e->set;
}

_public_ uint64_t vss_event_deadline_usec(const struct vss_event *e) {
        return e->deadline_usec;
}

_public_ int vss_event_cancel_fd(const struct vss_event *e) {
        struct vss_event *own = (struct vss_event *) e; /* not visible to the caller */

        if (own->cancel_fd < 0) {
                own->cancel_fd = eventfd(atomic_load(&own->cancelled), EFD_CLOEXEC | EFD_NONBLOCK);
                if (own->cancel_fd < 0)
                        return -errno;
        }
        return own->cancel_fd;
}

_public_ bool vss_event_one_instant(const struct vss_event *e) {
        return e->one_instant;
}

_public_ int vss_event_component(const struct vss_event *e, size_t i, const char **ret_path, bool *ret_succeeded) {
        if (i >= e->n_components)
                return -ENXIO;
        if (ret_path)
                *ret_path = e->components[i].path;
        if (ret_succeeded)
                *ret_succeeded = e->components[i].succeeded;
        return 0;
}

_public_ int vss_event_get(const struct vss_event *e, const char *component, const char *key, const char **ret) {
        const char *text = key ? event_find(&e->session, component, key) : NULL;

        if (!text)
                return -ENXIO;
        if (ret)
                *ret = text;
        return 0;
}

_public_ int vss_event_put(struct vss_event *e, const char *component, const char *key, const char *value) {
        static const char *const keys[] = { "stamp",  "metadata",         "partial_files", "differenced_files",
                                            "target", "directed_targets", "added_files" };
        _cleanup_free_ char *tidy = NULL;
        bool known = false;

        if (!key || !value)
                return -EINVAL;
        if (!component)
                known = streq(key, "message");
        else
                for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                        known = known || streq(key, keys[i]);
        if (!known || (component && event_find(&e->answer, component, key)))
                return -EINVAL;

        tidy = component ? strdup(value) : strndup(value, LIMIT_MESSAGE_BYTES - 1);
        if (!tidy)
                return -ENOMEM;
        text_clean(tidy);
        return event_add(&e->answer, component, key, tidy);
}

_public_ int vss_event_option(const struct vss_event *e, const char *component, const char *part, const char *name,
                              char **ret) {
        const char *options = component ? event_find(&e->session, component, "options") : NULL;

        if (!part || !name || !ret)
                return -EINVAL;
        if (isempty(options) || restore_options_check(options, NULL) < 0)
                return -ENXIO;
        return restore_options_find(options, part, name, ret);
}

_public_ void vss_event_progress(struct vss_event *e, double fraction) {
        uint64_t now = now_usec();
        bool last = fraction >= 1;

        if (!(fraction >= 0 && fraction <= 1) || !e->call)
                return;
        if (e->progress_usec > 0 && now - e->progress_usec < PROGRESS_INTERVAL_USEC && !last)
                return;
        if (last && e->progress_usec == USEC_INFINITY)
                return;
        e->progress_usec = last ? USEC_INFINITY : now;
        if (e->writer->worker)
                worker_progress(e->writer->worker, e, fraction);
        else
                link_progress(e->writer, e, fraction);
}

static Condition veto_to_condition(enum vss_veto kind) {
        switch (kind) {
        case VSS_VETO_FATAL:
                return CONDITION_WRITER_FATAL;
        case VSS_VETO_NO_RESOURCES:
                return CONDITION_WRITER_NO_RESOURCES;
        case VSS_VETO_MISSING_VOLUME:
                return CONDITION_WRITER_MISSING_VOLUME;
        default:
                return CONDITION_WRITER_RETRYABLE;
        }
}

_public_ int vss_event_fail(struct vss_event *e, enum vss_veto kind, const char *format, ...) {
        char text[LIMIT_MESSAGE_BYTES];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        text_clean(text);
        e->failed = true;
        return failure_set(&e->failure, veto_to_condition(kind), "%s", text);
}

_public_ int vss_event_fail_component(struct vss_event *e, const char *path, enum vss_veto kind, const char *format,
                                      ...) {
        char text[LIMIT_MESSAGE_BYTES];
        va_list ap;

        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        text_clean(text);
        return event_add(&e->failures, path, condition_name(veto_to_condition(kind)), text);
}

_public_ int vss_event_reply(struct vss_event *e, int r) {
        if (e->writer->worker)
                return -EOPNOTSUPP; /* in run mode the callback's return is the answer */
        if (e->in_callback) {
                e->replied = true;
                e->result = r;
                return 0;
        }
        writer_finish(e, r);
        return 0;
}
