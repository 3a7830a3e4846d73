/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plan, the bus method: the planner's result as a document, without a set. */
#include "daemon/manager.h"
#include "daemon/plan.h"
#include "protocol/jsonutil.h"
#include <json-c/json.h>
#include "providers/vss-provider.h"

struct Plan {
        Manager *manager;
        SetOptions options;
        Planner *planner;
        sd_event_source *defer;
        PlanDone done;
        void *userdata;
};

static json_object *volume_object(const PlanResult *r, const PlanVolume *v) {
        json_object *o = json_object_new_object();
        const Volume *volume = v->volume;
        bool itself = r->providers[v->provider].capabilities & VSS_CAP_FREEZES_ITSELF;

        json_add_string(o, "volume", volume->argument ? volume->argument : volume->name);
        json_add_string(o, "name", volume->name);
        json_add_string(o, "mountpoint", volume->mount_point);
        json_add_string(o, "filesystem", volume->fs_type);
        json_add_string(o, "provider", r->providers[v->provider].name);
        json_add_string(o, "held_by", v->held ? "guard" : itself ? "provider" : "none");
        json_add_string(o, "level", consistency_to_string(v->reachable));
        json_object_object_add(o, "freeze_level", json_object_new_int((int) volume->level));
        json_object_object_add(o, "added", json_object_new_boolean(v->added));
        return o;
}

static json_object *writer_object(const PlanResult *r, const PlanWriter *w) {
        json_object *o = json_object_new_object(), *volumes = json_object_new_array();

        json_add_string(o, "name", w->writer->name);
        json_add_string(o, "instance", w->writer->instance);
        json_add_string(o, "level", level_to_string(w->writer->level));
        json_object_object_add(o, "takes_part", json_object_new_boolean(w->failure.condition == CONDITION_NONE));
        json_add_string(o, "backup_type", backup_type_to_string(w->type));
        json_add_strings(o, "components", w->components);
        json_add_strings(o, "implicit", w->implicit);
        for (size_t i = 0; i < r->n_volumes; i++)
                if (w->volumes & (1ULL << i))
                        json_object_array_add(volumes, json_object_new_string(r->volumes[i].volume->name));
        json_object_object_add(o, "volumes", volumes);
        json_add_string(o, "error", w->failure.condition == CONDITION_NONE ? NULL : w->failure.message);
        return o;
}

int plan_format(Manager *m, const PlanResult *r, char **ret_json) {
        _cleanup_(json_object_putp) json_object *o = json_object_new_object();
        json_object *volumes = json_object_new_array(), *writers = json_object_new_array();

        json_object_object_add(o, "schema", json_object_new_int(1));
        json_add_string(o, "level", consistency_to_string(r->reachable));
        for (size_t i = 0; i < r->n_volumes; i++)
                json_object_array_add(volumes, volume_object(r, &r->volumes[i]));
        json_object_object_add(o, "volumes", volumes);
        for (size_t i = 0; i < r->n_writers; i++)
                json_object_array_add(writers, writer_object(r, &r->writers[i]));
        json_object_object_add(o, "writers", writers);
        json_add_strings(o, "warnings", r->warnings);
        return json_to_text(o, ret_json);
}

static int on_over(sd_event_source *source, void *userdata) {
        Plan *p = userdata;

        p->planner = planner_free(p->planner);
        return 0;
}

static void on_planned(PlanResult *result, const Failure *failure, void *userdata) {
        Plan *p = userdata;
        _cleanup_free_ char *json = NULL;
        Failure f;

        if (!failure && plan_format(p->manager, result, &json) < 0) {
                (void) failure_set(&f, CONDITION_FAILED, "out of memory");
                failure = &f;
        }
        /* The planner is still on the stack; it goes from the loop unless the owner frees the plan first. */
        (void) sd_event_add_defer(p->manager->event, &p->defer, on_over, p);
        p->done(json, failure, p->userdata);
}

static void on_phase(Phase phase, void *userdata) {
}

int plan_new(Manager *m, SetOptions *options, ProbeResult *volumes, uid_t uid, PlanDone done, void *userdata,
             Plan **ret) {
        Plan *p = calloc(1, sizeof *p);
        int r;

        if (!p) {
                probe_result_free(volumes);
                return -ENOMEM;
        }
        *p = (Plan) { .manager = m, .options = *options, .done = done, .userdata = userdata };
        *options = (SetOptions) { 0 };
        r = planner_new(m, &p->options, volumes, uid, NULL, &m->settings.budgets, on_phase, on_planned, p, &p->planner);
        if (r < 0) {
                (void) plan_free(p);
                return r;
        }
        *ret = p;
        return 0;
}

Plan *plan_free(Plan *p) {
        if (!p)
                return NULL;
        sd_event_source_disable_unref(p->defer);
        planner_free(p->planner);
        set_options_done(&p->options);
        free(p);
        return NULL;
}
