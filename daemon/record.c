/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The set as documents: the record (what happened when, interfaces 5.3), the manifest (what a restore needs, 5.2), and
 * what the catalogue keeps: both together with what only vssd needs, read back by set-load.c.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include "protocol/jsonutil.h"
#include "protocol/text.h"
#include <json-c/json.h>
#include <systemd/sd-id128.h>

#define _cleanup_json_ _cleanup_(json_object_putp)

static void add_time(json_object *o, const char *key, uint64_t realtime_usec) {
        char text[40];

        if (!realtime_usec || format_timestamp(realtime_usec, text, sizeof text) < 0)
                json_object_object_add(o, key, NULL);
        else
                json_add_string(o, key, text);
}

static json_object *error_object(const Failure *f) {
        json_object *o;

        if (f->condition == CONDITION_NONE)
                return NULL;
        o = json_object_new_object();
        json_add_string(o, "name", condition_name(f->condition));
        json_add_string(o, "message", f->message);
        json_add_bool(o, "retryable", f->retryable);
        return o;
}

/* "component\nevent\nerror\nmessage" each. */
static json_object *failures_array(char *const *list) {
        static const char *const keys[] = { "component", "event", "error", "message" };
        json_object *a = json_object_new_array();

        for (size_t i = 0; list && list[i]; i++) {
                json_object *o = json_object_new_object();
                const char *s = list[i];
                for (size_t k = 0; k < ELEMENTSOF(keys); k++) {
                        size_t n = strcspn(s, "\n");
                        json_object_object_add(o, keys[k], json_object_new_string_len(s, (int) n));
                        s += n + (s[n] == '\n');
                }
                json_object_array_add(a, o);
        }
        return a;
}

/* [name, start, end, budget, outcome], relative to the start of the set. */
static json_object *trace_array(const Trace *t, uint64_t started) {
        json_object *a = json_object_new_array();

        for (unsigned i = 0; i < t->n; i++) {
                const TraceStep *s = &t->steps[i];
                json_object *row = json_object_new_array();
                json_object_array_add(row, json_object_new_string(s->name));
                json_object_array_add(row,
                                      json_object_new_uint64(s->start_usec > started ? s->start_usec - started : 0));
                json_object_array_add(row, s->end_usec ? json_object_new_uint64(
                                                                 s->end_usec > started ? s->end_usec - started : 0) :
                                                         NULL);
                json_object_array_add(row,
                                      s->budget_usec == USEC_INFINITY ? NULL : json_object_new_uint64(s->budget_usec));
                json_object_array_add(row, json_object_new_string(s->end_usec ? outcome_to_string(s->outcome) : "ok"));
                json_object_array_add(a, row);
        }
        return a;
}

static json_object *timing_object(const SetTiming *t) {
        json_object *o = json_object_new_object();

        json_add_uint(o, "total_usec", t->total_usec);
        json_add_uint(o, "queue_usec", t->queue_usec);
        json_add_uint(o, "prepare_usec", t->prepare_usec);
        json_add_uint(o, "freeze_usec", t->freeze_usec);
        json_add_uint(o, "hold_usec", t->hold_usec);
        json_add_uint(o, "commit_usec", t->commit_usec);
        return o;
}

static json_object *components_array(const SetComponentOption *list, size_t n) {
        json_object *a = json_object_new_array();

        for (size_t i = 0; i < n; i++) {
                const SetComponentOption *c = &list[i];
                json_object *j = json_object_new_object();
                json_add_string(j, "writer", c->writer);
                json_add_string(j, "path", c->path);
                json_add_string(j, "options", c->options);
                json_add_string(j, "previous_stamp", c->previous_stamp);
                json_object_array_add(a, j);
        }
        return a;
}

static json_object *options_object(const SetOptions *o) {
        json_object *j = json_object_new_object();

        json_add_string(j, "backup_type", backup_type_to_string(o->backup_type));
        json_add_string(j, "on_writer_failure", on_writer_failure_to_string(o->on_writer_failure));
        json_add_string(j, "closure", closure_to_string(o->closure));
        json_add_string(j, "lifetime", lifetime_to_string(o->lifetime));
        if (o->require != CONSISTENCY_NONE)
                json_add_string(j, "require", consistency_to_string(o->require));
        if (o->provider)
                json_add_string(j, "provider", o->provider);
        if (o->mode)
                json_add_string(j, "mode", o->mode);
        if (o->reason)
                json_add_string(j, "reason", o->reason);
        json_add_bool(j, "no_writers", o->no_writers);
        json_add_bool(j, "nested", o->nested);
        if (o->labels)
                json_add_strings(j, "labels", o->labels);
        json_add_bool(j, "partial_files", o->partial_files);
        json_add_bool(j, "bootable_state", o->bootable_state);
        if (o->n_components > 0)
                json_object_object_add(j, "components", components_array(o->components, o->n_components));
        if (o->n_stamps > 0)
                json_object_object_add(j, "previous_stamps", components_array(o->stamps, o->n_stamps));
        if (o->writer_options)
                json_add_strings(j, "writer_options", o->writer_options);
        json_add_string(j, "auto_recovery", auto_recovery_to_string(o->auto_recovery));
        return j;
}

static json_object *writer_object(const SetWriter *w, uint64_t started) {
        json_object *o = json_object_new_object();

        json_add_string(o, "name", w->name);
        json_add_string(o, "instance", w->instance);
        json_add_string(o, "level", level_to_string(w->level));
        json_add_string(o, "state", writer_state_to_string(w->state));
        json_add_string(o, "consistency", consistency_to_string(w->consistency));
        json_add_uint(o, "freeze_usec", w->freeze_usec);
        json_object_object_add(o, "error",
                               error_object(w->failure.condition != CONDITION_NONE ? &w->failure : &w->partial));
        json_add_string(o, "backup_type", backup_type_to_string(w->type));
        json_add_strings(o, "components", w->components);
        json_add_strings(o, "implicit", w->implicit);
        json_add_bool(o, "notify_complete", w->notify);
        json_object_object_add(o, "failures", failures_array(w->failures));
        json_object_object_add(o, "events", trace_array(&w->events, started));
        return o;
}

static uint64_t hold_of(const Snapshot *s) {
        for (unsigned i = 0; i < s->calls.n; i++)
                if (streq(s->calls.steps[i].name, "commit") && s->calls.steps[i].end_usec)
                        return s->calls.steps[i].end_usec - s->calls.steps[i].start_usec;
        return 0;
}

static json_object *volume_object(const Set *s, const Snapshot *v) {
        json_object *o = json_object_new_object();
        bool by_guard = v->held && v->held_by_guard;

        json_add_string(o, "volume", v->volume);
        json_add_string(o, "mountpoint", v->name);
        json_add_string(o, "snapshot", v->id);
        json_add_string(o, "provider", v->provider);
        json_add_string(o, "held_by", by_guard ? "guard" : v->held ? "provider" : "none");
        json_add_string(o, "consistency", consistency_to_string(v->consistency));
        json_add_uint(o, "hold_usec", by_guard ? s->timing.hold_usec : v->held ? hold_of(v) : 0);
        json_object_object_add(o, "calls", trace_array(&v->calls, s->started_usec));
        return o;
}

static json_object *requester_object(const Set *s) {
        json_object *o = json_object_new_object();

        json_add_string(o, "name", s->options.requester ? s->options.requester : "");
        json_add_uint(o, "uid", s->owner_uid);
        json_add_uint(o, "pid", (uint64_t) s->owner_pid);
        return o;
}

static json_object *record_object(const Set *s, SetState state) {
        json_object *o = json_object_new_object(), *writers = json_object_new_array(),
                    *volumes = json_object_new_array();
        char boot[SD_ID128_UUID_STRING_MAX] = "";
        const Snapshot *v;
        sd_id128_t id;

        if (sd_id128_get_boot(&id) >= 0)
                (void) sd_id128_to_uuid_string(id, boot);
        json_object_object_add(o, "schema", json_object_new_int(1));
        json_add_string(o, "kind", "set-record");
        json_object_object_add(o, "requires", json_object_new_array());
        json_add_string(o, "set", s->id);
        json_add_string(o, "state", set_state_to_string(state));
        json_add_string(o, "consistency", consistency_to_string(s->consistency));
        json_add_bool(o, "one_instant", s->one_instant);
        json_add_bool(o, "forced", s->forced);
        json_object_object_add(o, "error", error_object(&s->error));
        json_object_object_add(o, "requester", requester_object(s));
        json_object_object_add(o, "options", options_object(&s->options));
        add_time(o, "started", s->started_at_usec);
        add_time(o, "created", s->created_at_usec);
        add_time(o, "instant", s->instant_at_usec);
        json_add_string(o, "boot_id", boot);
        json_object_object_add(o, "timing", timing_object(&s->timing));
        json_object_object_add(o, "phases", trace_array(&s->phases, s->started_usec));
        for (size_t i = 0; i < s->n_writers; i++)
                json_object_array_add(writers, writer_object(&s->writers[i], s->started_usec));
        json_object_object_add(o, "writers", writers);
        LIST_FOREACH(v, &s->snapshots, entries)
                json_object_array_add(volumes, volume_object(s, v));
        json_object_object_add(o, "volumes", volumes);
        json_object_object_add(o, "excluded_from_snapshot",
                               s->excluded_text ? json_tokener_parse(s->excluded_text) : json_object_new_array());
        json_add_strings(o, "warnings", s->warnings);
        return o;
}

/* A record of an earlier vssd stays as it was, its times are of another process; only the state goes on. */
static int record_now(const Set *s, SetState state, json_object **ret) {
        Failure f;
        int r;

        if (!s->record_text) {
                *ret = record_object(s, state);
                return 0;
        }
        r = json_tree_parse(s->record_text, strlen(s->record_text), LIMIT_MANIFEST_BYTES, &f, ret);
        if (r >= 0)
                json_add_string(*ret, "state", set_state_to_string(state));
        return r;
}

int set_record(Set *s, char **ret_json) {
        _cleanup_json_ json_object *o = NULL;
        int r;

        r = record_now(s, s->state, &o);
        return r < 0 ? r : json_to_text(o, ret_json);
}

/* What only vssd needs, to go on with the set after a restart. */
static json_object *private_object(const Set *s) {
        json_object *o = json_object_new_object(), *snapshots = json_object_new_array();
        const Snapshot *v;

        json_add_uint(o, "owner_uid", s->owner_uid);
        json_add_string(o, "owner", s->owner);
        json_add_string(o, "session", session_kind_to_string(s->session));
        json_add_uint(o, "created_at_usec", s->created_at_usec);
        json_add_uint(o, "completed_at_usec", s->completed_at_usec);
        LIST_FOREACH(v, &s->snapshots, entries) {
                json_object *n = json_object_new_object();
                json_add_string(n, "id", v->id);
                json_add_string(n, "volume", v->volume);
                json_add_string(n, "name", v->name);
                json_add_string(n, "mount_point", v->mount_point);
                json_add_string(n, "device", v->device);
                json_add_string(n, "path", v->path);
                json_add_string(n, "provider", v->provider);
                json_add_string(n, "token", v->token);
                json_add_string(n, "fs_type", v->fs_type);
                json_add_string(n, "fs_uuid", v->fs_uuid);
                json_add_uint(n, "size", v->size_bytes);
                json_add_string(n, "consistency", consistency_to_string(v->consistency));
                json_add_bool(n, "pinned", v->pinned);
                json_add_strings(n, "mounts", v->mounts);
                json_object_array_add(snapshots, n);
        }
        json_object_object_add(o, "snapshots", snapshots);
        return o;
}

int set_store_format(Set *s, SetState state, char **ret_text) {
        _cleanup_json_ json_object *o = json_object_new_object(), *record = NULL;
        _cleanup_free_ char *manifest = NULL;
        int r;

        r = record_now(s, state, &record);
        if (r < 0)
                return r;
        json_object_object_add(o, "schema", json_object_new_int(1));
        json_object_object_add(o, "record", TAKE_PTR(record));
        json_object_object_add(o, "private", private_object(s));
        if (state != SET_ABORTED && state != SET_DELETED && s->created_at_usec && set_manifest(s, &manifest) >= 0)
                json_add_string(o, "manifest", manifest);
        return json_to_text(o, ret_text);
}

static void on_stored(int result, void *userdata) {
        Set *s = userdata;

        if (result < 0)
                manager_log(s->manager, 3, s->id, "cannot write the record of the set: %s", strerror(-result));
}

void set_store(Set *s) {
        _cleanup_free_ char *text = NULL;
        int r;

        r = set_store_format(s, s->state, &text);
        if (r >= 0)
                r = catalogue_put(s->manager->catalogue, s->id, text, on_stored, s);
        if (r < 0)
                on_stored(r, s);
}
