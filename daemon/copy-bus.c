/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * OpenCopy: the one moment in which a writer touches the copy of its data. It gets a directory of a detached mount, so
 * that no
 * ".." leads out of the copy, and works there with its own account's rights (hazards C3).
 */
#include "daemon/expose.h"
#include "daemon/manager-private.h"
#include "daemon/set-bus.h"
#include "protocol/busutil.h"
#include "protocol/text.h"

typedef struct OpenCopy {
        char *volume, *reason;
        bool dry_run;
} OpenCopy;

static void open_copy_free(void *p) {
        OpenCopy *o = p;
        free(o->volume);
        free(o->reason);
        free(o);
}

static const SetWriter *find_sender(const Set *s, const char *sender) {
        for (size_t i = 0; i < s->n_writers; i++) {
                const Writer *w = s->writers[i].writer;
                if (w && !w->lost && !s->writers[i].dropped && streq_null(w->bus_name, sender) &&
                    s->writers[i].state == WRITER_WAITING_FOR_POST_SNAPSHOT)
                        return s->writers + i;
        }
        return NULL;
}

/* Only where this writer has data, by what the set was planned with: its document may say anything. */
static Snapshot *find_copy(Set *s, const SetWriter *w, const char *volume, unsigned *ret_index) {
        Snapshot *snapshot;
        unsigned index = 0;
        LIST_FOREACH(snapshot, &s->snapshots, entries) {
                *ret_index = index++;
                if (w->volumes & (1ULL << *ret_index) &&
                    (streq_null(snapshot->name, volume) || streq_null(snapshot->mount_point, volume) ||
                     streq_null(snapshot->volume, volume)))
                        return snapshot;
        }
        return NULL;
}

static void opened(Call *c, const struct MounterReply *reply, int fd) {
        call_reply(c, "h", fd);
        (void) close_fd(fd);
}

static void open_copy_start(Call *c) {
        const OpenCopy *o = c->state;
        const char *sender = sd_bus_message_get_sender(c->message);
        const struct MounterRequest q = { .op = MOUNTER_OPEN, .flags = MOUNTER_DIRECTORY | MOUNTER_WRITABLE };
        Set *s = call_set(c);
        if (!s)
                return;
        const SetWriter *w = sender ? find_sender(s, sender) : NULL;
        unsigned index = 0;
        const Snapshot *snapshot = w ? find_copy(s, w, o->volume, &index) : NULL;
        if (!w || s->phase != PHASE_POST_SNAPSHOT)
                call_failf(c, CONDITION_BAD_STATE,
                           "only a writer of the set may do this, and only while it is in PostSnapshot");
        else if (!snapshot)
                call_failf(c, CONDITION_NOT_FOUND, "%s: no volume of this set with data of writer %s", o->volume,
                           w->reference);
        else if (!(w->recovers & 1ULL << index))
                call_failf(c, CONDITION_NOT_SUPPORTED,
                           "%s: no component of writer %s there \"recovers\" by its document, or the set was made "
                           "without recovery, so the copy is read-only",
                           o->volume, w->reference);
        else if (o->dry_run)
                call_failf(c, CONDITION_NOT_SUPPORTED,
                           "dry_run: there is no descriptor to return; the copy could be opened");
        else
                expose(c, snapshot, &q, opened);
}

int method_open_copy(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        static const BusOption options[] = { BUS_OPTIONS_COMMON(OpenCopy) };
        Set *s = userdata;
        Failure f = {};
        Call *c;
        OpenCopy *o = calloc(1, sizeof(*o));
        if (!o)
                return -ENOMEM;
        int r = bus_read_field(m, "s", &o->volume, &f);
        if (r >= 0)
                r = bus_read_options(m, options, ELEMENTSOF(options), o, NULL, &f);
        r = r < 0 ? bus_error_set(reterr, &f) : call_new(s->manager, m, reterr, &c);
        if (r < 0) {
                open_copy_free(o);
                return r;
        }
        c->state = o;
        c->state_free = open_copy_free;
        memcpy(c->id, s->id, sizeof(s->id));
        call_when_quiet(c, open_copy_start);
        return 1;
}
