/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* SnapshotSet.Complete: what became of the backup, per component where the requester says so. */
#include "daemon/call.h"
#include "daemon/results-bus.h"
#include "daemon/set-bus.h"
#include "protocol/busutil.h"

typedef struct Completion { /* state of a Complete call */
        bool success;
        SetMark *marks;
        size_t n_marks;
        SetCallOptions options;
} Completion;

static void completion_free(void *p) {
        Completion *k = p;
        for (size_t i = 0; i < k->n_marks; i++) {
                free(k->marks[i].writer);
                free(k->marks[i].path);
                free(k->marks[i].message);
        }
        free(k->marks);
        free(k->options.reason);
        free(k);
}

static void complete_now(Call *c) {
        const Completion *k = c->state;
        Failure f = {};
        Set *s = call_set(c);
        if (!s)
                return;
        if (k->options.dry_run)
                call_reply(c, "a(sss)", 0);
        else if (call_hold(c), set_complete(s, k->success, k->marks, k->n_marks, call_results_done, c, &f) < 0)
                call_fail(c, &f);
}

static void complete_step(Call *c) {
        call_when_quiet(c, complete_now);
}

static int read_mark(sd_bus_message *m, Completion *k, Failure *reterr) {
        static const BusOption options[] = {
                { "succeeded", "b", offsetof(SetMark, succeeded), NULL },
                { "message", "s", offsetof(SetMark, message), NULL },
        };
        SetMark *marks = reallocarray(k->marks, k->n_marks + 1, sizeof(*marks));
        if (!marks)
                return -ENOMEM;
        k->marks = marks;
        SetMark *mark = k->marks + k->n_marks++;
        *mark = (SetMark) { .succeeded = k->success };
        int r = bus_read_field(m, "s", &mark->writer, reterr);
        if (r >= 0)
                r = bus_read_field(m, "s", &mark->path, reterr);
        return r < 0 ? r : bus_read_options(m, options, ELEMENTSOF(options), mark, NULL, reterr);
}

/* The call is kept for as long as people are asked, whoever it comes from. */
static int check_size(const Completion *k, Failure *reterr) {
        size_t size = 0;
        for (size_t i = 0; i < k->n_marks; i++)
                size += strlen(k->marks[i].writer) + strlen(k->marks[i].path) +
                        (k->marks[i].message ? strlen(k->marks[i].message) : 0);
        if (size <= LIMIT_OPTIONS_BYTES)
                return 0;
        return failure_set(reterr, CONDITION_LIMIT_REACHED, "components: their texts have more than %d bytes",
                           LIMIT_OPTIONS_BYTES);
}

static int read_completion(sd_bus_message *m, Completion *k, Failure *reterr) {
        static const BusOption options[] = { BUS_OPTIONS_COMMON(SetCallOptions) };
        int r = bus_read_field(m, "b", &k->success, reterr);
        if (r >= 0)
                r = sd_bus_message_enter_container(m, 'a', "(ssa{sv})");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "ssa{sv}")) > 0) {
                if (k->n_marks >= LIMIT_COMPONENTS)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d components",
                                           LIMIT_COMPONENTS);
                r = read_mark(m, k, reterr);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(m);
        if (r >= 0)
                r = check_size(k, reterr);
        return r < 0 ? r : bus_read_options(m, options, ELEMENTSOF(options), &k->options, NULL, reterr);
}

int method_complete(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Set *s = userdata;
        Failure f = {};
        Call *c;
        Completion *k = calloc(1, sizeof(*k));
        if (!k)
                return -ENOMEM;
        int r = read_completion(m, k, &f);
        if (r < 0)
                r = f.condition != CONDITION_NONE ? bus_error_set(reterr, &f) : r;
        else
                r = call_new(s->manager, m, reterr, &c);
        if (r < 0) {
                completion_free(k);
                return r;
        }
        c->state = k;
        c->state_free = completion_free;
        memcpy(c->id, s->id, sizeof(s->id));
        set_call_authorise(c, s, true, complete_step);
        return 1;
}
