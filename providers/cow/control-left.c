/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Volumes whose ublk devices a dead holder has left: somebody has them mounted, and waits. They are attached without
 * being asked, a few at a time, as the holder's children are few, and what fails is tried again, since a disk may come
 * back.
 */
#include "protocol/jsonutil.h"
#include "providers/cow/server.h"
#include <stdio.h>

enum {
        AT_ONCE = 4, /* half of what the holder does at once: others attach too */
        PAUSE_MAX_SECONDS = 32,
};

static void begin(Server *s, const char *name) {
        json_object *request = json_object_new_object();
        json_add_string(request, "name", name);
        Call *c = call_new(s, request);
        if (c)
                control_volume_attach(c);
}

uint64_t control_attach_left(Server *s) {
        VolumeInfo info;
        unsigned busy = 0, waiting = 0;
        if (!memchr(s->map.shared->left, true, sizeof(s->map.shared->left))) /* asked in every round */
                return USEC_INFINITY;
        for (const Volume *v = engine_volume_next(s->engine, NULL); v; v = engine_volume_next(s->engine, v)) {
                engine_volume_info(v, &info);
                if (!s->map.shared->left[info.number])
                        continue;
                if (control_volume_is_taken(&(Call) { .server = s }, v))
                        busy++;
                else if (busy < AT_ONCE && now_usec() >= s->left_due_usec) {
                        begin(s, info.name);
                        busy++;
                } else
                        waiting++;
        }
        /* the end of one that is under way wakes us, too */
        return waiting == 0 || busy >= AT_ONCE ? USEC_INFINITY : MAX_OF(s->left_due_usec, now_usec() + 1);
}

void control_left_failed(Server *s, const char *name, const char *why) {
        char line[512];
        s->left_pause_seconds = s->left_pause_seconds ?
                                        MIN_OF(2 * s->left_pause_seconds, (unsigned) PAUSE_MAX_SECONDS) :
                                        1;
        s->left_due_usec = now_usec() + s->left_pause_seconds * USEC_PER_SEC;
        int n = snprintf(line, sizeof(line), "<3>vss-cow: volume %s stands still, tried again in %u s: %.300s\n", name,
                         s->left_pause_seconds, why);
        if (s->start->kmsg >= 0)
                (void) !write(s->start->kmsg, line, (size_t) MIN_OF(n, (int) sizeof(line) - 1));
}
