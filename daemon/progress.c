/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How far a writer's slow work is (signal Progress, unicast to vssd): shown as the set's Progress within its phase.
 * Only a writer of the set that has a call to answer is listened to; everything else that arrives is somebody else's
 * signal.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"

static SetWriter *find_caller(Set *s, const char *sender, WriterEvent event) {
        for (size_t i = 0; i < s->n_writers; i++) {
                const Writer *w = s->writers[i].writer;
                if (w && w->bus_name && streq(w->bus_name, sender) && s->conductor &&
                    s->conductor->sequence_writers[i].outstanding && s->conductor->sequence_writers[i].call == event)
                        return &s->writers[i];
        }
        return NULL;
}

static int on_progress(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Manager *manager = userdata;
        const char *sender = sd_bus_message_get_sender(m), *id, *word;
        double fraction;
        int event;
        Set *s;

        if (!sender || sd_bus_message_read(m, "ssd", &id, &word, &fraction) < 0 || !(fraction >= 0 && fraction <= 1))
                return 0;
        event = writer_event_from_string(word);
        s = manager_find_set(manager, id);
        if (event < 0 || !s || s->state != SET_RUNNING || !find_caller(s, sender, (WriterEvent) event))
                return 0;
        s->progress = ((double) s->phase + fraction) / (double) PHASE_BACKUP_COMPLETE;
        manager_set_changed(manager, s);
        return 0;
}

int progress_watch(Manager *m) {
        return sd_bus_match_signal_async(m->bus, NULL, NULL, NULL, VSS_IFACE_WRITER, "Progress", on_progress, NULL, m);
}
