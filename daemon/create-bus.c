/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CreateSet and Plan: syntax, then who is it, then what do the names mean in that account's eyes, then may it have each
 * of these volumes, and only then a set. Nothing is changed, and no volume opened for anybody, before the last question
 * is answered.
 */
#include "daemon/create-bus.h"
#include "daemon/manager-private.h"
#include "daemon/options-bus.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <stdio.h>

typedef struct Creation {
        SetOptions options;
        ProbeResult *found;
        size_t checked; /* volumes the caller may have */
        bool plan_only;
} Creation;

static void creation_free(void *p) {
        Creation *k = p;
        set_options_done(&k->options);
        probe_result_free(k->found);
        free(k);
}

/* For people only: a pid can be somebody else's by now. */
static char *process_name(pid_t pid) {
        char path[40], name[64] = "";
        (void) snprintf(path, sizeof(path), "/proc/%d/comm", (int) pid);
        FILE *f = fopen(path, "re");
        if (f && !fgets(name, sizeof(name), f))
                name[0] = '\0';
        if (f)
                (void) fclose(f);
        name[strcspn(name, "\n")] = '\0';
        text_clean(name);
        return strdup(name);
}

static void create_now(Call *c) {
        Creation *k = c->state;
        Failure f = {};
        Set *s;
        k->options.uid = c->caller.uid;
        k->options.pid = c->caller.pid;
        if (isempty(k->options.requester)) {
                free(k->options.requester);
                k->options.requester = process_name(c->caller.pid);
        }
        if (set_new(c->manager, &k->options, TAKE_PTR(k->found), c->message, &f, &s) < 0)
                call_fail(c, &f);
        else
                call_reply(c, "so", s->id, s->path);
}

static void on_planned(const char *json, const Failure *failure, void *userdata) {
        Call *c = userdata;
        c->plan = plan_free(c->plan);
        if (failure && failure->condition != CONDITION_NONE)
                call_fail(c, failure);
        else
                call_reply(c, "s", json);
}

static void plan_now(Call *c) {
        Creation *k = c->state;
        if (!call_may_ask(c))
                return;
        int r = plan_new(c->manager, &k->options, TAKE_PTR(k->found), c->caller.uid, on_planned, c, &c->plan);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "the plan cannot be begun: %s", strerror(-r));
}

static void go_on(Call *c) {
        const Creation *k = c->state;
        call_when_quiet(c, k->plan_only ? plan_now : create_now);
}

static void authorise_next(Call *c) {
        Creation *k = c->state;
        size_t n = k->found ? k->found->n_volumes : 0;
        if (k->checked > 0 && (k->checked >= n || c->caller.uid == 0)) {
                go_on(c);
                return;
        }
        const char *volume = n > 0 ? k->found->volumes[k->checked]->name : "";
        k->checked++;
        call_authorise(c, k->plan_only ? VSS_ACTION_INSPECT : VSS_ACTION_CREATE,
                       (const char *const[]) { "volumes", volume, NULL }, authorise_next);
}

static void on_resolved(ProbeResult **result, const Failure *failure, void *userdata) {
        Call *c = userdata;
        Creation *k = c->state;
        c->probe = probe_free(c->probe);
        if (failure) {
                call_fail(c, failure);
                return;
        }
        k->found = TAKE_PTR(*result);
        for (size_t i = 0; i < k->found->n_paths; i++)
                if (k->found->path_volume[i] < 0) {
                        call_fail(c, &k->found->path_failure[i]);
                        return;
                }
        authorise_next(c);
}

/* A bare word is the name of an engine volume, which is a link to its device: it becomes that. */
static bool find_engine_volume(const Manager *m, char **volume) {
        const char *runtime = m->settings.runtime_directory;
        bool usual = streq(runtime, "/run/vss");
        char *link;
        if (strchr(*volume, '/') || (*volume)[0] == '.' ||
            asprintf(&link, "%s%s/%s", usual ? "/dev/vss" : runtime, usual ? "" : "/dev", *volume) < 0)
                return false;
        if (access(link, F_OK) < 0) {
                free(link);
                return false;
        }
        free(*volume);
        *volume = link;
        return true;
}

static void resolve(Call *c) {
        Creation *k = c->state;
        SetOptions *o = &k->options;
        ProbePath paths[LIMIT_VOLUMES];
        if (o->n_volumes == 0) {
                authorise_next(c);
                return;
        }
        for (size_t i = 0; i < o->n_volumes; i++) {
                if (o->volumes[i].volume[0] != '/' && !find_engine_volume(c->manager, &o->volumes[i].volume)) {
                        call_failf(c, CONDITION_NOT_FOUND,
                                   "there is no volume %s: name a mount point, a directory, a device or an engine "
                                   "volume that is attached",
                                   o->volumes[i].volume);
                        return;
                }
                paths[i] = (ProbePath) { .path = o->volumes[i].volume, .is_argument = true };
        }
        int r = probe_new(c->manager->event, paths, o->n_volumes, o->nested ? PROBE_NESTED : 0, c->caller.uid,
                          on_resolved, c, &c->probe);
        if (r < 0)
                call_failf(c, CONDITION_FAILED, "the volumes cannot be looked at: %s", strerror(-r));
}

static void identified(Call *c) {
        call_when_quiet(c, resolve);
}

static int start(Manager *manager, sd_bus_message *m, bool plan_only, sd_bus_error *reterr) {
        bool dry_run = false;
        Failure f = {};
        Call *c;
        Creation *k = calloc(1, sizeof(*k));
        if (!k)
                return -ENOMEM;
        k->plan_only = plan_only;
        int r = set_options_read(manager, m, &k->options, &dry_run, &f);
        if (r >= 0 && dry_run && !plan_only)
                r = failure_set(&f, CONDITION_INVALID_ARGUMENT, "option dry_run: CreateSet has none, call Plan");
        r = r < 0 ? bus_error_set(reterr, &f) : call_new(manager, m, reterr, &c);
        if (r < 0) {
                creation_free(k);
                return r;
        }
        c->state = k;
        c->state_free = creation_free;
        call_identify(c, identified);
        return 1;
}

int method_create_set(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return start(userdata, m, false, reterr);
}

int method_plan(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        return start(userdata, m, true, reterr);
}
