/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The set as documents: the record (what happened when, interfaces 5.3), the manifest (what a restore needs, 5.2), and what the
 * catalogue keeps: both together with what only vssd needs, read back by set-load.c.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include "protocol/jsonutil.h"
#include "protocol/text.h"
#include <json-c/json.h>
#include <systemd/sd-id128.h>

#define _cleanup_json_ _cleanup_(json_object_putp)

static void add_string(json_object *o, const char *key, const char *s) {
        json_object_object_add(o, key, s ? json_object_new_string(s) : NULL);
}

static void add_uint(json_object *o, const char *key, uint64_t v) {
        json_object_object_add(o, key, json_object_new_uint64(v));
}

static void add_bool(json_object *o, const char *key, bool v) {
        json_object_object_add(o, key, json_object_new_boolean(v));
}

static void add_time(json_object *o, const char *key, uint64_t realtime_usec) {
        char text[40];

        if (!realtime_usec || format_timestamp(realtime_usec, text, sizeof text) < 0)
                json_object_object_add(o, key, NULL);
        else
                add_string(o, key, text);
}

static json_object *error_object(const Failure *f) {
        json_object *o;

        if (f->condition == CONDITION_NONE)
                return NULL;
        o = json_object_new_object();
        add_string(o, "name", condition_name(f->condition));
        add_string(o, "message", f->message);
        add_bool(o, "retryable", f->retryable);
        return o;
}

static json_object *strings_array(char *const *list) {
        json_object *a = json_object_new_array();

        for (size_t i = 0; list && list[i]; i++)
                json_object_array_add(a, json_object_new_string(list[i]));
        return a;
}

/* [name, start, end, budget, outcome], relative to the start of the set. */
static json_object *trace_array(const Trace *t, uint64_t started) {
        json_object *a = json_object_new_array();

        for (unsigned i = 0; i < t->n; i++) {
                const TraceStep *s = &t->steps[i];
                json_object *row = json_object_new_array();
                json_object_array_add(row, json_object_new_string(s->name));
                json_object_array_add(row, json_object_new_uint64(s->start_usec > started ? s->start_usec - started : 0));
                json_object_array_add(row, s->end_usec ? json_object_new_uint64(s->end_usec > started ? s->end_usec - started : 0) : NULL);
                json_object_array_add(row, s->budget_usec == USEC_INFINITY ? NULL : json_object_new_uint64(s->budget_usec));
                json_object_array_add(row, json_object_new_string(s->end_usec ? outcome_to_string(s->outcome) : "ok"));
                json_object_array_add(a, row);
        }
        return a;
}

static json_object *timing_object(const SetTiming *t) {
        json_object *o = json_object_new_object();

        add_uint(o, "total_usec", t->total_usec);
        add_uint(o, "queue_usec", t->queue_usec);
        add_uint(o, "prepare_usec", t->prepare_usec);
        add_uint(o, "freeze_usec", t->freeze_usec);
        add_uint(o, "hold_usec", t->hold_usec);
        add_uint(o, "commit_usec", t->commit_usec);
        return o;
}

static json_object *options_object(const SetOptions *o) {
        json_object *j = json_object_new_object();

        add_string(j, "backup_type", backup_type_to_string(o->backup_type));
        add_string(j, "on_writer_failure", on_writer_failure_to_string(o->on_writer_failure));
        add_string(j, "closure", closure_to_string(o->closure));
        add_string(j, "lifetime", lifetime_to_string(o->lifetime));
        if (o->require != CONSISTENCY_NONE)
                add_string(j, "require", consistency_to_string(o->require));
        if (o->provider)
                add_string(j, "provider", o->provider);
        if (o->reason)
                add_string(j, "reason", o->reason);
        add_bool(j, "no_writers", o->no_writers);
        add_bool(j, "nested", o->nested);
        if (o->labels)
                json_object_object_add(j, "labels", strings_array(o->labels));
        return j;
}

static json_object *writer_object(const SetWriter *w, uint64_t started) {
        json_object *o = json_object_new_object();

        add_string(o, "name", w->name);
        add_string(o, "instance", w->instance);
        add_string(o, "level", level_to_string(w->level));
        add_string(o, "state", writer_state_to_string(w->state));
        add_string(o, "consistency", consistency_to_string(w->consistency));
        add_uint(o, "freeze_usec", w->freeze_usec);
        json_object_object_add(o, "error", error_object(&w->failure));
        json_object_object_add(o, "components", strings_array(w->components));
        json_object_object_add(o, "failures", strings_array(w->failures));
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

        add_string(o, "volume", v->name);
        add_string(o, "snapshot", v->id);
        add_string(o, "provider", v->provider);
        add_string(o, "held_by", by_guard ? "guard" : v->held ? "provider" : "none");
        add_string(o, "consistency", consistency_to_string(v->consistency));
        add_uint(o, "hold_usec", by_guard ? s->timing.hold_usec : v->held ? hold_of(v) : 0);
        json_object_object_add(o, "calls", trace_array(&v->calls, s->started_usec));
        return o;
}

static json_object *requester_object(const Set *s) {
        json_object *o = json_object_new_object();

        add_string(o, "name", s->options.requester ? s->options.requester : "");
        add_uint(o, "uid", s->owner_uid);
        add_uint(o, "pid", (uint64_t) s->owner_pid);
        return o;
}

static json_object *record_object(const Set *s, SetState state) {
        json_object *o = json_object_new_object(), *writers = json_object_new_array(), *volumes = json_object_new_array();
        char boot[SD_ID128_UUID_STRING_MAX] = "";
        const Snapshot *v;
        sd_id128_t id;

        if (sd_id128_get_boot(&id) >= 0)
                (void) sd_id128_to_uuid_string(id, boot);
        json_object_object_add(o, "schema", json_object_new_int(1));
        add_string(o, "kind", "set-record");
        json_object_object_add(o, "requires", json_object_new_array());
        add_string(o, "set", s->id);
        add_string(o, "state", set_state_to_string(state));
        add_string(o, "consistency", consistency_to_string(s->consistency));
        add_bool(o, "one_instant", s->one_instant);
        add_bool(o, "forced", s->forced);
        json_object_object_add(o, "error", error_object(&s->error));
        json_object_object_add(o, "requester", requester_object(s));
        json_object_object_add(o, "options", options_object(&s->options));
        add_time(o, "started", s->started_at_usec);
        add_time(o, "created", s->created_at_usec);
        add_time(o, "instant", s->instant_at_usec);
        add_string(o, "boot_id", boot);
        json_object_object_add(o, "timing", timing_object(&s->timing));
        json_object_object_add(o, "phases", trace_array(&s->phases, s->started_usec));
        for (size_t i = 0; i < s->n_writers; i++)
                json_object_array_add(writers, writer_object(&s->writers[i], s->started_usec));
        json_object_object_add(o, "writers", writers);
        LIST_FOREACH(v, &s->snapshots, entries)
                json_object_array_add(volumes, volume_object(s, v));
        json_object_object_add(o, "volumes", volumes);
        json_object_object_add(o, "warnings", strings_array(s->warnings));
        return o;
}

static int to_text(json_object *o, char **ret) {
        const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        char *copy = text ? strdup(text) : NULL;

        if (!copy)
                return -ENOMEM;
        *ret = copy;
        return 0;
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
                add_string(*ret, "state", set_state_to_string(state));
        return r;
}

int set_record(Set *s, char **ret_json) {
        _cleanup_json_ json_object *o = NULL;
        int r;

        r = record_now(s, s->state, &o);
        return r < 0 ? r : to_text(o, ret_json);
}

/* What only vssd needs, to go on with the set after a restart. */
static json_object *private_object(const Set *s) {
        json_object *o = json_object_new_object(), *snapshots = json_object_new_array();
        const Snapshot *v;

        add_uint(o, "owner_uid", s->owner_uid);
        add_string(o, "owner", s->owner);
        add_string(o, "session", session_kind_to_string(s->session));
        add_uint(o, "created_at_usec", s->created_at_usec);
        add_uint(o, "completed_at_usec", s->completed_at_usec);
        LIST_FOREACH(v, &s->snapshots, entries) {
                json_object *n = json_object_new_object();
                add_string(n, "id", v->id);
                add_string(n, "volume", v->volume);
                add_string(n, "name", v->name);
                add_string(n, "mount_point", v->mount_point);
                add_string(n, "device", v->device);
                add_string(n, "path", v->path);
                add_string(n, "provider", v->provider);
                add_string(n, "token", v->token);
                add_string(n, "fs_type", v->fs_type);
                add_string(n, "fs_uuid", v->fs_uuid);
                add_uint(n, "size", v->size_bytes);
                add_string(n, "consistency", consistency_to_string(v->consistency));
                add_bool(n, "pinned", v->pinned);
                json_object_object_add(n, "mounts", strings_array(v->mounts));
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
                add_string(o, "manifest", manifest);
        return to_text(o, ret_text);
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
