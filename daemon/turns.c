/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who may go on. Two sets are in each other's way when they share a superblock, a device above or below, or a writer
 * (hazards B3). A set waits for every set in its way that is older or already at work; a set at work waits for nobody,
 * so there is no circle. The window, from the last look at the disks to the last Thaw, is one for all sets: while one
 * is held vssd answers no bus, and nobody else's freeze clock may run meanwhile.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include "protocol/urgency.h"

static bool share_volume(const Set *a, const Set *b) {
        for (size_t i = 0; i < a->n_volumes; i++)
                for (size_t j = 0; j < b->n_volumes; j++)
                        if (volumes_collide(a->volumes[i], b->volumes[j]))
                                return true;
        return false;
}

static bool share_writer(const Set *a, const Set *b) {
        for (size_t i = 0; i < a->n_writers; i++)
                for (size_t j = 0; j < b->n_writers; j++)
                        if (a->writers[i].writer == b->writers[j].writer)
                                return true;
        return false;
}

Set *turns_blocked_by(Set *s) {
        bool older = true; /* the list is in order of creation */
        Set *other;

        TAILQ_FOREACH(other, &s->manager->sets, entries) {
                if (other == s) {
                        older = false;
                        continue;
                }
                if (!other->conductor || other->conductor->ended || (!older && !other->conductor->in_sequence))
                        continue;
                if (share_volume(s, other) || share_writer(s, other))
                        return other;
        }
        return NULL;
}

void turns_changed(Manager *m) {
        Set *s;

        TAILQ_FOREACH(s, &m->sets, entries) {
                Conductor *c = s->conductor;
                if (!c || c->ended)
                        continue;
                if (c->waits_for_turn)
                        conductor_begin_turn(c);
                else if (c->waits_for_window && turns_open_window(c)) {
                        conductor_feed(c,
                                       &(SequenceEvent) { .type = SEQ_EVENT_WINDOW,
                                                          .now_usec = now_usec(),
                                                          .outcome = OUTCOME_OK },
                                       NULL);
                        return; /* feeding may have changed the list */
                }
        }
}

bool turns_open_window(Conductor *c) {
        if (c->manager->window && c->manager->window != c->set) {
                c->waits_for_window = true;
                return false;
        }
        c->waits_for_window = false;
        c->manager->window = c->set;
        urgency_set(URGENCY_HOLD);
        return true;
}

static int on_window_free(sd_event_source *source, void *userdata) {
        Manager *m = userdata;

        m->turns_source = sd_event_source_disable_unref(m->turns_source);
        turns_changed(m);
        return 0;
}

/* From the loop: the conductor that closes it is in the middle of its actions. */
void turns_close_window(Conductor *c) {
        Manager *m = c->manager;

        c->waits_for_window = false;
        if (m->window != c->set)
                return;
        m->window = NULL;
        urgency_set(URGENCY_LATER);
        if (!m->turns_source && sd_event_add_defer(m->event, &m->turns_source, on_window_free, m) < 0)
                manager_log(m, 4, c->set->id, "out of memory: who waits for the window is told at the end of the set");
}
