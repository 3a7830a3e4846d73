/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Leaving. When nothing needs vssd it gives its name back and goes; a call that was on its way to it meanwhile is in
 * our queue before the bus's answer to that, so whoever is still idle when the answer is here has lost nobody's call.
 * The timer runs only while nothing forbids the exit: a vssd that has a writer sleeps without any.
 */
#include "daemon/call.h"
#include "daemon/manager-private.h"
#include "daemon/mounts.h"
#include "daemon/restore.h"
#include "daemon/revert.h"
#include <syslog.h>
#include <systemd/sd-daemon.h>

static bool set_is_moving(const Set *s) {
        return s->state == SET_QUEUED || s->state == SET_RUNNING || s->state == SET_ABORTING ||
               s->state == SET_COMPLETING || s->state == SET_DELETING;
}

static bool set_needs_us(const Set *s) {
        bool over = s->state == SET_DELETED || s->state == SET_ABORTED;
        return set_is_moving(s) || s->conductor || s->n_waiters > 0 || (!over && s->session == SESSION_BOUND);
}

static bool manager_is_needed(const Manager *m) {
        const Writer *w;
        const Set *s;
        if (m->recovery || !m->ready || m->n_busy > 0 || !mounts_is_empty(m->mounts) ||
            !catalogue_is_idle(m->catalogue))
                return true;
        LIST_FOREACH(w, &m->writers, entries)
                if (w->kind == WRITER_KIND_BUS && !w->lost)
                        return true;
        TAILQ_FOREACH(s, &m->sets, entries)
                if (set_needs_us(s))
                        return true;
        return false;
}

static int on_name_back(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        Manager *m = userdata;
        if (!sd_bus_message_is_method_error(reply, NULL))
                return 0;
        manager_log(m, LOG_ERR, NULL, "the bus name went to somebody else while vssd was about to leave; stopping");
        manager_stop(m);
        return 0;
}

static int on_released(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        Manager *m = userdata;
        m->releasing = false;
        if (!manager_is_needed(m) && now_usec() >= usec_add(m->active_at_usec, m->settings.idle_usec)) {
                (void) sd_notify(0, "STOPPING=1");
                manager_log(m, LOG_INFO, NULL, "idle, leaving");
                return sd_event_exit(m->event, 0);
        }
        return sd_bus_request_name_async(m->bus, NULL, VSS_BUS_NAME, 0, on_name_back, m);
}

static int on_idle(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        uint64_t due = usec_add(m->active_at_usec, m->settings.idle_usec);
        if (manager_is_needed(m) || m->releasing)
                return 0; /* the post source arms it again when that is over */
        if (now_usec() < due) {
                (void) sd_event_source_set_time(source, due);
                return sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
        }
        m->releasing = sd_bus_release_name_async(m->bus, NULL, VSS_BUS_NAME, on_released, m) >= 0;
        return 0;
}

int manager_idle_attach(Manager *m) {
        m->active_at_usec = now_usec();
        int r = sd_event_add_time(m->event, &m->idle_timer, CLOCK_MONOTONIC,
                                  usec_add(m->active_at_usec, m->settings.idle_usec), USEC_PER_SEC, on_idle, m);
        return r < 0 ? r : sd_event_source_set_enabled(m->idle_timer, SD_EVENT_OFF);
}

void manager_idle_check(Manager *m) {
        int enabled = SD_EVENT_OFF;
        (void) sd_event_source_get_enabled(m->idle_timer, &enabled);
        bool wanted = !m->stopping && !m->releasing && m->settings.idle_usec != USEC_INFINITY && !manager_is_needed(m);
        if (wanted == (enabled != SD_EVENT_OFF))
                return;
        if (wanted)
                (void) sd_event_source_set_time(m->idle_timer,
                                                usec_add(MAX_OF(m->active_at_usec, now_usec()), m->settings.idle_usec));
        (void) sd_event_source_set_enabled(m->idle_timer, wanted ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
        if (wanted)
                m->active_at_usec = now_usec(); /* what kept vssd was activity until now */
}

void manager_stop_check(Manager *m) {
        const Set *s;
        if (!m->stopping)
                return;
        TAILQ_FOREACH(s, &m->sets, entries)
                if (set_is_moving(s) || s->conductor)
                        return;
        if (!reverts_may_stop(m))
                return;
        if (!LIST_EMPTY(&m->restores)) /* their writers have files closed */
                return;
        if (!m->catalogue || catalogue_is_idle(m->catalogue))
                (void) sd_event_exit(m->event, 0);
}

static int on_stop_late(sd_event_source *source, uint64_t usec, void *userdata) {
        Manager *m = userdata;
        manager_log(m, LOG_WARNING, NULL, "some sets could not be put back in time; the next start does the rest");
        return sd_event_exit(m->event, 0);
}

void manager_stop(Manager *m) {
        Set *s, *following;
        if (m->stopping) { /* asked twice: at once */
                (void) sd_event_exit(m->event, 0);
                return;
        }
        for (s = TAILQ_FIRST(&m->sets); s; s = following) { /* whatever is held comes before everything else */
                following = TAILQ_NEXT(s, entries);
                set_stop(s);
        }
        restores_stop(m);
        m->stopping = true;
        m->recovery = recovery_free(m->recovery);
        calls_refuse(m);
        (void) sd_notify(0, "STOPPING=1");
        if (sd_event_add_time_relative(m->event, &m->stop_timer, CLOCK_MONOTONIC, m->settings.budgets.abort, 0,
                                       on_stop_late, m) < 0)
                (void) sd_event_exit(m->event, 0);
}
