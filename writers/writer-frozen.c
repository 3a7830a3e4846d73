/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What must not stand still for ever. An application counts as frozen from the moment its freeze is called (it may have
 * stopped half way when freeze fails) until thaw or abort returned well. It is let go without being asked when its time
 * is up, when vssd is gone and when the bus is gone. vssd keeps the same clock and gives up first, so that letting go
 * by ourselves never hurts a set that is still good; and if we did, a Thaw that comes after all is answered
 * DeadlinePassed, which costs the copy its level.
 */
#include "writers/writer-lib.h"
#include "writers/writer-worker.h"
#include <stdio.h>

static int on_thaw_by(sd_event_source *source, uint64_t usec, void *userdata) {
        writer_resume(userdata, CONDITION_DEADLINE_PASSED);
        return 0;
}

/* Nothing can be undone any more, but the end of the process closes every database session it holds. */
static int on_stuck(sd_event_source *source, uint64_t usec, void *userdata) {
        Writer *w = userdata;

        if (w->worker && worker_is_busy(w->worker) && !(w->callbacks.flags & VSS_WRITER_KEEP_RUNNING_IF_STUCK))
                _exit(EXIT_STUCK);
        return 0;
}

static void arm(Writer *w, sd_event_source **source, sd_event_time_handler_t handler, uint64_t usec) {
        if (*source) {
                (void) sd_event_source_set_time(*source, usec);
                (void) sd_event_source_set_enabled(*source, SD_EVENT_ONESHOT);
        } else if (sd_event_add_time(w->link->event, source, CLOCK_MONOTONIC, usec, TIMER_ACCURACY_USEC, handler, w) >=
                   0)
                (void) sd_event_source_set_priority(*source, SD_EVENT_PRIORITY_IMPORTANT);
}

void writer_forget_timers(Writer *w) {
        w->thaw_by = sd_event_source_disable_unref(w->thaw_by);
        w->stuck = sd_event_source_disable_unref(w->stuck);
}

void writer_freezing(Event *e) {
        Writer *w = e->writer;
        uint64_t limit = w->callbacks.freeze_timeout_usec;

        if (limit == 0)
                limit = BUDGET_FREEZE_USEC;
        (void) snprintf(w->frozen, sizeof(w->frozen), "%s", e->set);
        w->resumed[0] = 0;
        w->resume_tries = 0;
        arm(w, &w->thaw_by, on_thaw_by, MIN_OF(e->thaw_by_usec, usec_add(now_usec(), limit)));
}

void writer_settled(Writer *w) {
        w->frozen[0] = 0;
        w->resume_tries = 0;
        if (w->thaw_by)
                (void) sd_event_source_set_enabled(w->thaw_by, SD_EVENT_OFF);
        if (w->stuck)
                (void) sd_event_source_set_enabled(w->stuck, SD_EVENT_OFF);
        if (w->worker)
                worker_settled(w->worker);
}

bool writer_is_resumed(const Writer *w, const char *set) {
        return w->resumed[0] && streq(w->resumed, set);
}

void writer_resume(Writer *w, Condition why) {
        Event *e, *own;

        if (!w->frozen[0] || w->resume_tries >= RESUME_TRIES_MAX)
                return;
        memcpy(w->resumed, w->frozen, sizeof(w->resumed));
        TAILQ_FOREACH(e, &w->events, entries) {
                if (e->kind == EVENT_ABORT && !e->call)
                        return; /* on its way */
                event_cancel(e);
        }

        w->resume_tries++;
        if (!w->abandoned) {
                arm(w, &w->stuck, on_stuck, usec_add(now_usec(), STUCK_USEC));
                arm(w, &w->thaw_by, on_thaw_by, usec_add(now_usec(), RETRY_MIN_USEC)); /* once more if abort fails */
        }
        if (event_new(w, EVENT_ABORT, NULL, &own) < 0)
                return; /* the timer tries again */
        memcpy(own->set, w->frozen, sizeof(own->set));
        (void) event_add(&own->session, NULL, "reason", condition_name(why));
        (void) writer_deliver(own);
}
