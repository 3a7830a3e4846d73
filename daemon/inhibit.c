/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/inhibit.h"
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include <fcntl.h>
#include <syslog.h>

#define LOGIN_NAME "org.freedesktop.login1"
#define LOGIN_PATH "/org/freedesktop/login1"
#define LOGIN_INTERFACE LOGIN_NAME ".Manager"
#define ANSWER_TIMEOUT_USEC (5 * USEC_PER_SEC)

typedef struct InhibitLock {
        const char *mode;
        int fd;            /* the lock lasts as long as it is open; -EBADF: none */
        sd_bus_slot *slot; /* the question that is out */
} InhibitLock;

struct Inhibitor {
        Manager *manager;
        unsigned n_users;
        InhibitLock locks[2];
        sd_bus_slot *sleep;
};

static int on_lock(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        InhibitLock *l = userdata;
        int fd;
        l->slot = sd_bus_slot_unref(l->slot);
        if (!sd_bus_message_is_method_error(reply, NULL) && sd_bus_message_read(reply, "h", &fd) >= 0)
                l->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        return 0; /* no logind, or it refuses: there is nothing that could be done about it */
}

static void lock_ask(Inhibitor *i, InhibitLock *l) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        if (l->fd >= 0 || l->slot)
                return;
        int r = sd_bus_message_new_method_call(i->manager->bus, &m, LOGIN_NAME, LOGIN_PATH, LOGIN_INTERFACE, "Inhibit");
        if (r >= 0)
                r = sd_bus_message_set_auto_start(m, false);
        if (r >= 0)
                r = sd_bus_message_append(m, "ssss", "sleep:shutdown", "vssd", "Volumes are held for a snapshot",
                                          l->mode);
        if (r >= 0)
                (void) sd_bus_call_async(i->manager->bus, &l->slot, m, on_lock, l, ANSWER_TIMEOUT_USEC);
}

/* An answer that is still on its way is not waited for: the descriptor in it goes with the message. */
static void lock_drop(InhibitLock *l) {
        l->slot = sd_bus_slot_unref(l->slot);
        l->fd = close_fd(l->fd);
}

void inhibitor_take(Inhibitor *i) {
        i->n_users++;
        for (size_t k = 0; k < ELEMENTSOF(i->locks); k++)
                lock_ask(i, &i->locks[k]);
}

void inhibitor_drop(Inhibitor *i) {
        assert(i->n_users > 0);
        if (--i->n_users > 0)
                return;
        for (size_t k = 0; k < ELEMENTSOF(i->locks); k++)
                lock_drop(&i->locks[k]);
}

static int on_sleep(sd_bus_message *signal, void *userdata, sd_bus_error *reterr) {
        const Inhibitor *i = userdata;
        const Failure why = { .condition = CONDITION_CANCELLED,
                              .retryable = true,
                              .message = "the machine goes to sleep; try again when it is awake" };
        int begins = 0;
        Set *s, *following;
        if (sd_bus_message_read(signal, "b", &begins) < 0 || !begins)
                return 0;
        for (s = TAILQ_FIRST(&i->manager->sets); s; s = following) {
                following = TAILQ_NEXT(s, entries);
                if (s->conductor && s->conductor->inhibits)
                        (void) conductor_cancel(s->conductor, &why, true);
        }
        return 0;
}

int inhibitor_new(Manager *m, Inhibitor **ret) {
        Inhibitor *i = calloc(1, sizeof(*i));
        if (!i)
                return -ENOMEM;
        i->manager = m;
        i->locks[0] = (InhibitLock) { .mode = "block", .fd = -EBADF };
        i->locks[1] = (InhibitLock) { .mode = "delay", .fd = -EBADF };
        int r = sd_bus_match_signal_async(m->bus, &i->sleep, LOGIN_NAME, LOGIN_PATH, LOGIN_INTERFACE, "PrepareForSleep",
                                          on_sleep, NULL, i);
        if (r < 0) {
                inhibitor_free(i);
                return r;
        }
        *ret = i;
        return 0;
}

Inhibitor *inhibitor_free(Inhibitor *i) {
        if (!i)
                return NULL;
        (void) sd_bus_slot_unref(i->sleep);
        for (size_t k = 0; k < ELEMENTSOF(i->locks); k++)
                lock_drop(&i->locks[k]);
        free(i);
        return NULL;
}
