/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One connection to the bus, shared by all writers of one loop, and who is vssd on it. Who owns the name comes from the
 * bus itself (NameOwnerChanged, asked for before GetNameOwner so that no change falls between), never from a message
 * that claims to be from vssd. Only the very first registration may start vssd; afterwards writers wait until it
 * appears: a service that an administrator stopped stays stopped.
 *
 * vssd is gone for a writer when its lease, a pipe nobody writes to, reaches EOF. This works even when the bus itself
 * stands still. A process with many writers may run out of descriptors, so above half of its limit leases are closed at
 * once; such writers go with the last lease of their connection.
 */
#include "writers/writer-lib.h"
#include "writers/writer-worker.h"
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>

static pthread_mutex_t links_lock = PTHREAD_MUTEX_INITIALIZER; /* loops may live on different threads */
static LIST_HEAD(, Link) links = LIST_HEAD_INITIALIZER(links);

static void link_pump(Link *l);
static void link_close(Link *l);
static int link_connect(Link *l);
static void link_retry_later(Link *l);

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata) {
        Link *l = userdata;
        Writer *w;

        if (l->broken)
                link_close(l);
        if (!l->bus && link_connect(l) < 0) {
                link_retry_later(l);
                return 0;
        }
        TAILQ_FOREACH(w, &l->writers, entries)
                if (w->registration == REGISTRATION_REFUSED)
                        w->registration = REGISTRATION_NONE;
        link_pump(l);
        return 0;
}

/* The timer exists from the start, so arming it cannot fail for want of memory. */
static void link_retry_later(Link *l) {
        int enabled = SD_EVENT_OFF;

        (void) sd_event_source_get_enabled(l->retry, &enabled);
        if (enabled != SD_EVENT_OFF)
                return;
        (void) sd_event_source_set_time_relative(l->retry, l->retry_usec);
        (void) sd_event_source_set_enabled(l->retry, SD_EVENT_ONESHOT);
        l->retry_usec = MIN_OF(l->retry_usec * 2, RETRY_MAX_USEC);
}

/* vssd does not know this writer any more. */
static void writer_forget_entry(Writer *w) {
        if (w->registration == REGISTRATION_ASKED)
                w->link->n_registering--;
        w->registration = REGISTRATION_NONE;
        w->slot_register = sd_bus_slot_unref(w->slot_register);
        w->lease = sd_event_source_disable_unref(w->lease);
        w->lease_fd = close_fd(w->lease_fd);
        free(w->entry);
        w->entry = NULL;
}

static void writer_lost_vssd(Writer *w) {
        writer_forget_entry(w);
        writer_resume(w, CONDITION_UNAVAILABLE);
}

static void link_lost_vssd(Link *l) {
        Writer *w;

        TAILQ_FOREACH(w, &l->writers, entries)
                writer_lost_vssd(w);
}

static bool link_has_lease(Link *l) {
        Writer *w;

        TAILQ_FOREACH(w, &l->writers, entries)
                if (w->lease_fd >= 0)
                        return true;
        return false;
}

static int on_lease(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Writer *w = userdata;
        Link *l = w->link;
        char byte;
        ssize_t n = read(fd, &byte, 1);

        if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
                return 0;
        writer_lost_vssd(w);
        if (!link_has_lease(l))
                link_lost_vssd(l);
        link_retry_later(l); /* if vssd is alive after all and has only dropped this one */
        return 0;
}

static int writer_take_lease(Writer *w, int fd) {
        struct rlimit limit;
        int r;

        if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && (rlim_t) fd > limit.rlim_cur / 2 && link_has_lease(w->link))
                return 0;
        w->lease_fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (w->lease_fd < 0)
                return -errno;
        (void) fcntl(w->lease_fd, F_SETFL, O_NONBLOCK);
        r = sd_event_add_io(w->link->event, &w->lease, w->lease_fd, EPOLLIN, on_lease, w);
        if (r < 0)
                w->lease_fd = close_fd(w->lease_fd);
        return r;
}

static void writer_tell(Writer *w, int error, const char *message) {
        if (w->worker)
                worker_registered(w->worker, error);
        if (w->registered)
                w->registered(w, error, message, w->hook_userdata);
}

/* If nobody owns the name, NameOwnerChanged tells when to try again; else a timer does. */
static int writer_refused(Writer *w, const sd_bus_error *error, int r) {
        Link *l = w->link;

        if (error)
                r = -condition_errno(condition_from_name(error->name));
        if (l->owner) {
                w->registration = REGISTRATION_REFUSED;
                link_retry_later(l);
        }
        writer_tell(w, r, error && error->message ? error->message : strerror(-r));
        link_pump(l);
        return 0;
}

static int on_registered(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Writer *w = userdata;
        Link *l = w->link;
        const char *entry;
        int fd, r;

        w->slot_register = sd_bus_slot_unref(w->slot_register);
        w->registration = REGISTRATION_NONE;
        l->n_registering--;
        if (sd_bus_message_is_method_error(m, NULL))
                return writer_refused(w, sd_bus_message_get_error(m), 0);
        if (!streq_null(sd_bus_message_get_sender(m), l->owner))
                return writer_refused(w, NULL, -ESTALE);

        r = sd_bus_message_read(m, "oh", &entry, &fd);
        if (r >= 0)
                r = writer_take_lease(w, fd);
        if (r >= 0 && !(w->entry = strdup(entry)))
                r = -ENOMEM;
        if (r < 0)
                return writer_refused(w, NULL, r);
        w->registration = REGISTRATION_DONE;
        l->retry_usec = RETRY_MIN_USEC;
        writer_tell(w, 0, NULL);
        link_pump(l);
        return 0;
}

static int append_option(sd_bus_message *m, const char *key, const char *value) {
        return sd_bus_message_append(m, "{sv}", key, "s", value);
}

static int append_events(sd_bus_message *m, uint32_t wanted) {
        int r = sd_bus_message_open_container(m, 'e', "sv");

        r = r < 0 ? r : sd_bus_message_append(m, "s", "events");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'v', "as");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "s");
        for (int e = 0; r >= 0 && e < _WRITER_EVENT_MAX; e++)
                if (wanted & 1u << e)
                        r = sd_bus_message_append(m, "s", writer_event_to_string((WriterEvent) e));
        r = r < 0 ? r : sd_bus_message_close_container(m);
        r = r < 0 ? r : sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_registration(sd_bus_message *m, const Writer *w) {
        const struct vss_writer_callbacks *c = &w->callbacks;
        int r = sd_bus_message_append(m, "sso", w->name, w->instance, w->object);

        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "{sv}");
        r = r < 0 ? r : append_option(m, "level", level_to_string((Level) c->level));
        r = r < 0 ? r : append_option(m, "usage", usage_to_string((Usage) c->usage));
        r = r < 0 ? r : append_option(m, "source", source_to_string((Source) c->source));
        r = r < 0 ? r : append_option(m, "version", w->version);
        r = r < 0 ? r : append_events(m, writer_events_wanted(w));
        if (r >= 0 && c->freeze_timeout_usec > 0)
                r = sd_bus_message_append(m, "{sv}", "freeze_timeout_usec", "t", c->freeze_timeout_usec);
        r = r < 0 ? r : sd_bus_message_append(m, "{sv}", "api", "u", c->api_version);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int link_register(Link *l, Writer *w) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        r = sd_bus_message_new_method_call(l->bus, &m, VSS_BUS_NAME, VSS_ROOT_PATH, VSS_IFACE_MANAGER,
                                           "RegisterWriter");
        r = r < 0 ? r : append_registration(m, w);
        r = r < 0 ? r : sd_bus_message_set_auto_start(m, l->may_activate);
        r = r < 0 ? r : sd_bus_call_async(l->bus, &w->slot_register, m, on_registered, w, REGISTER_TIMEOUT_USEC);
        if (r < 0)
                return r;
        l->may_activate = false;
        w->registration = REGISTRATION_ASKED;
        l->n_registering++;
        return 0;
}

/* Registers who is not registered, as many at once as the bus takes. */
static void link_pump(Link *l) {
        Writer *w;

        if (!l->bus || !l->asked)
                return;
        TAILQ_FOREACH(w, &l->writers, entries) {
                if (!(l->owner || l->may_activate) || l->n_registering >= LINK_REGISTERING_MAX)
                        return;
                if (w->registration == REGISTRATION_NONE && !w->stopping && !w->abandoned && link_register(l, w) < 0)
                        link_retry_later(l);
        }
}

static void link_set_owner(Link *l, const char *owner) {
        Writer *w;

        if (l->asked && streq_null(l->owner, owner))
                return;
        if (l->owner)
                link_lost_vssd(l);
        free(l->owner);
        l->owner = owner ? strdup(owner) : NULL;
        l->asked = true;
        l->retry_usec = RETRY_MIN_USEC;
        TAILQ_FOREACH(w, &l->writers, entries)
                if (w->registration == REGISTRATION_REFUSED)
                        w->registration = REGISTRATION_NONE;
        link_pump(l);
}

static int on_owner_changed(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        const char *name, *old, *new;

        if (sd_bus_message_read(m, "sss", &name, &old, &new) < 0 || !streq(name, VSS_BUS_NAME))
                return 0;
        link_set_owner(userdata, isempty(new) ? NULL : new);
        return 0;
}

static int on_owner(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Link *l = userdata;
        const char *owner = NULL;

        l->slot_get_owner = sd_bus_slot_unref(l->slot_get_owner);
        if (!sd_bus_message_is_method_error(m, NULL) && sd_bus_message_read(m, "s", &owner) < 0)
                owner = NULL;
        link_set_owner(l, owner);
        return 0;
}

static void link_close(Link *l) {
        Writer *w;

        TAILQ_FOREACH(w, &l->writers, entries)
                w->slot_vtable = sd_bus_slot_unref(w->slot_vtable);
        l->slot_owner = sd_bus_slot_unref(l->slot_owner);
        l->slot_get_owner = sd_bus_slot_unref(l->slot_get_owner);
        l->slot_lost = sd_bus_slot_unref(l->slot_lost);
        if (l->bus)
                (void) sd_bus_detach_event(l->bus);
        l->bus = sd_bus_flush_close_unref(l->bus);
        free(l->owner);
        l->owner = NULL;
        l->asked = l->broken = false;
}

static int on_bus_lost(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Link *l = userdata;

        l->broken = true; /* closed by the timer: not from inside a message of this very bus */
        link_lost_vssd(l);
        link_retry_later(l);
        return 0;
}

static int link_connect(Link *l) {
        static const char changed[] = "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                                      "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='" VSS_BUS_NAME
                                      "'";
        Writer *w;
        int r;

        r = sd_bus_open_system_with_description(&l->bus, "vss-writer");
        r = r < 0 ? r :
                    sd_bus_set_close_on_exit(l->bus,
                                             false); /* the end of the loop is when we still have to say goodbye */
        r = r < 0 ? r : sd_bus_attach_event(l->bus, l->event, SD_EVENT_PRIORITY_NORMAL);
        r = r < 0 ? r :
                    sd_bus_match_signal_async(l->bus, &l->slot_lost, NULL, NULL, "org.freedesktop.DBus.Local",
                                              "Disconnected", on_bus_lost, NULL, l);
        r = r < 0 ? r : sd_bus_add_match_async(l->bus, &l->slot_owner, changed, on_owner_changed, NULL, l);
        r = r < 0 ? r :
                    sd_bus_call_method_async(l->bus, &l->slot_get_owner, "org.freedesktop.DBus",
                                             "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetNameOwner", on_owner,
                                             l, "s", VSS_BUS_NAME);
        TAILQ_FOREACH(w, &l->writers, entries)
                r = r < 0 ? r :
                            sd_bus_add_object_vtable(l->bus, &w->slot_vtable, w->object, VSS_IFACE_WRITER,
                                                     writer_vtable, w);
        if (r < 0)
                link_close(l);
        return r < 0 ? r : 0;
}

static Link *link_free(Link *l) {
        if (!l)
                return NULL;
        assert(TAILQ_EMPTY(&l->writers));
        link_close(l);
        sd_event_source_disable_unref(l->retry);
        sd_event_unref(l->event);
        free(l);
        return NULL;
}
DEFINE_CLEANUP(Link *, link_free);

static int link_new(sd_event *event, Link **ret) {
        _cleanup_(link_freep) Link *l = calloc(1, sizeof(*l));
        int r;

        if (!l)
                return -ENOMEM;
        TAILQ_INIT(&l->writers);
        l->event = sd_event_ref(event);
        l->may_activate = true;
        l->retry_usec = RETRY_MIN_USEC;
        r = sd_event_add_time(event, &l->retry, CLOCK_MONOTONIC, 0, TIMER_ACCURACY_USEC, on_retry, l);
        r = r < 0 ? r : sd_event_source_set_enabled(l->retry, SD_EVENT_OFF);
        r = r < 0 ? r : link_connect(l);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(l);
        return 0;
}

static int link_find(sd_event *event, Link **ret) {
        _cleanup_(link_freep) Link *made = NULL;
        Link *l;
        int r;

        pthread_mutex_lock(&links_lock);
        LIST_FOREACH(l, &links, entries)
                if (l->event == event)
                        break;
        pthread_mutex_unlock(&links_lock);
        if (l) {
                *ret = l;
                return 0;
        }
        r = link_new(event, &made); /* nobody else makes one for this loop: a loop belongs to one thread */
        if (r < 0)
                return r;
        *ret = l = TAKE_PTR(made);
        pthread_mutex_lock(&links_lock);
        LIST_INSERT_HEAD(&links, l, entries);
        pthread_mutex_unlock(&links_lock);
        return 0;
}

static void link_drop_unused(Link *l) {
        if (!TAILQ_EMPTY(&l->writers))
                return;
        pthread_mutex_lock(&links_lock);
        LIST_REMOVE(l, entries);
        pthread_mutex_unlock(&links_lock);
        link_free(l);
}

int link_join(sd_event *event, Writer *w) {
        _cleanup_free_ char *object = NULL;
        Link *l;
        int r;

        r = link_find(event, &l);
        if (r < 0)
                return r;
        if (asprintf(&object, VSS_ROOT_PATH "/writer/_%" PRIu64, ++l->last_object) < 0)
                r = -ENOMEM;
        if (r >= 0 && l->bus)
                r = sd_bus_add_object_vtable(l->bus, &w->slot_vtable, object, VSS_IFACE_WRITER, writer_vtable, w);
        if (r < 0) {
                link_drop_unused(l);
                return r;
        }
        w->object = TAKE_PTR(object);
        w->link = l;
        TAILQ_INSERT_TAIL(&l->writers, w, entries);
        link_pump(l);
        return 0;
}

/* No answer is waited for: vssd also sees the connection go. */
static void writer_unregister(Writer *w) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        Link *l = w->link;
        int r;

        if (w->registration != REGISTRATION_DONE || !l->bus)
                return;
        r = sd_bus_message_new_method_call(l->bus, &m, VSS_BUS_NAME, VSS_ROOT_PATH, VSS_IFACE_MANAGER,
                                           "UnregisterWriter");
        r = r < 0 ? r : sd_bus_message_append(m, "oa{sv}", w->entry, 0);
        r = r < 0 ? r : sd_bus_message_set_auto_start(m, false);
        r = r < 0 ? r : sd_bus_message_set_expect_reply(m, false);
        if (r >= 0)
                (void) sd_bus_send(l->bus, m, NULL);
}

void link_leave(Writer *w) {
        Link *l = w->link;

        writer_unregister(w);
        writer_forget_entry(w);
        w->slot_vtable = sd_bus_slot_unref(w->slot_vtable);
        free(w->object);
        w->object = NULL;
        TAILQ_REMOVE(&l->writers, w, entries);
        w->link = NULL;
        link_drop_unused(l);
}

void link_progress(Writer *w, const Event *e, double fraction) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        Link *l = w->link;
        int r;

        if (!l->bus || !l->owner)
                return;
        r = sd_bus_message_new_signal(l->bus, &m, w->object, VSS_IFACE_WRITER, "Progress");
        r = r < 0 ? r : sd_bus_message_set_destination(m, l->owner);
        r = r < 0 ? r : sd_bus_message_append(m, "ssd", e->set, writer_event_to_string(e->kind), fraction);
        if (r >= 0)
                (void) sd_bus_send(l->bus, m, NULL); /* news, nothing more */
}
