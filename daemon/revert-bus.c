/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Snapshot.Revert and Volume.Wait. */
#include "daemon/call.h"
#include "daemon/results-bus.h"
#include "daemon/revert-bus.h"
#include "daemon/revert.h"
#include "daemon/snapshot-bus.h"
#include "protocol/busutil.h"
#include "protocol/text.h"

typedef struct WaitCall {
        char *path;
} WaitCall;

static int append_lost(sd_bus_message *m, const Revert *r) {
        int k = sd_bus_message_open_container(m, 'e', "sv");
        if (k >= 0)
                k = sd_bus_message_append(m, "s", "lost");
        if (k >= 0)
                k = sd_bus_message_open_container(m, 'v', "as");
        if (k >= 0)
                k = sd_bus_message_open_container(m, 'a', "s");
        for (size_t i = 0; k >= 0 && i < r->n_lost; i++)
                k = sd_bus_message_append(m, "s", r->lost[i].id);
        for (unsigned depth = 0; k >= 0 && depth < 3; depth++)
                k = sd_bus_message_close_container(m);
        return k;
}

static void reply_begun(Call *c, const Revert *r) {
        sd_bus_message *m = NULL;
        int k = sd_bus_message_new_method_return(c->message, &m);
        if (k >= 0)
                k = sd_bus_message_append(m, "o", r->path);
        if (k >= 0)
                k = sd_bus_message_open_container(m, 'a', "{sv}");
        if (k >= 0)
                k = append_lost(m, r);
        if (k >= 0)
                k = sd_bus_message_append(m, "{sv}{sv}{sv}", "volume", "s", r->volume, "safety_snapshot", "s",
                                          r->dry_run ? "" : r->safety, "warning", "s", r->warning);
        if (k >= 0)
                k = sd_bus_message_close_container(m);
        call_reply_message(c, m, k);
}

/* The call may be gone: whoever made it does not wait any more, and what was only looked at is not begun. */
static void on_ready(Revert *r, void *userdata) {
        Call *c = userdata;
        SnapshotCall *o = c->state;
        o->revert = NULL;
        if (r->failure.condition != CONDITION_NONE)
                call_fail(c, &r->failure);
        else
                reply_begun(c, r);
        if (!r->begun)
                revert_free(r);
}

static void revert_now(Call *c) {
        SnapshotCall *o = c->state;
        Failure f = {};
        Snapshot *s = call_snapshot(c);
        if (!s)
                return;
        if (revert_new(s, o->force, o->safety_snapshot, o->dry_run, &f, &o->revert) < 0)
                call_fail(c, &f);
        else
                revert_start(o->revert, on_ready, c);
}

int method_revert(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        static const BusOption options[] = {
                BUS_OPTIONS_COMMON(SnapshotCall),
                { "force", "b", offsetof(SnapshotCall, force), NULL },
                { "safety_snapshot", "b", offsetof(SnapshotCall, safety_snapshot), NULL },
        };
        Snapshot *s = userdata;
        Call *c;
        int r = snapshot_call_new(s, m, false, options, ELEMENTSOF(options), reterr, &c);
        if (r < 0)
                return r;
        call_authorise(c, VSS_ACTION_REVERT,
                       (const char *const[]) { "snapshot", s->id, "set", s->set->id, "volumes", s->name ? s->name : "",
                                               "provider", s->provider, NULL },
                       revert_now);
        return 1;
}

static void wait_free(void *p) {
        WaitCall *w = p;
        free(w->path);
        free(w);
}

static void wait_step(Call *c) {
        const WaitCall *w = c->state;
        Failure f = {};
        Revert *r = reverts_find(c->manager, w->path);
        int k = r ? revert_wait(r, c->message, &f) : 0;
        if (!r)
                call_reply(c, "a{sv}", 0);
        else if (k < 0)
                call_fail(c, &f);
        else {
                c->answered = true; /* by the revert, now or later */
                call_free(c);
        }
}

int method_wait_volume(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Failure f = {};
        Call *c;
        WaitCall *w = calloc(1, sizeof(*w));
        if (!w)
                return -ENOMEM;
        w->path = strdup(sd_bus_message_get_path(m));
        int r = bus_read_options(m, NULL, 0, w, NULL, &f);
        r = r < 0 ? bus_error_set(reterr, &f) : call_new(userdata, m, reterr, &c);
        if (r < 0 || !w->path) {
                wait_free(w);
                return r < 0 ? r : -ENOMEM;
        }
        c->state = w;
        c->state_free = wait_free;
        call_authorise(c, VSS_ACTION_INSPECT, NULL, wait_step);
        return 1;
}
