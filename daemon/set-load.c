/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set as an earlier vssd left it in the catalogue. Created and completed ones are taken up again; whatever was still
 * being made when that vssd ended is aborted: its copies carry the uncommitted mark and are removed by it (manager),
 * never by their absence here. A bound session whose requester is no longer on the bus ends at once.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include "protocol/busutil.h"
#include "protocol/jsonutil.h"
#include "protocol/text.h"
#include <json-c/json.h>

#define _cleanup_json_ _cleanup_(json_object_putp)

static char *copy_string(json_object *o, const char *key) {
        const char *s = json_get_string(o, key, NULL);

        return s ? strdup(s) : NULL;
}

static int copy_strings(json_object *o, const char *key, char ***ret) {
        json_object *a = json_get_array(o, key);
        int r = 0;

        for (size_t i = 0; a && i < json_object_array_length(a) && r >= 0; i++) {
                json_object *s = json_object_array_get_idx(a, i);
                if (json_object_is_type(s, json_type_string))
                        r = strings_append(ret, json_object_get_string(s));
        }
        return r;
}

static int word(json_object *o, const char *key, int (*from_string)(const char *s), int fallback) {
        const char *s = json_get_string(o, key, NULL);
        int v = s ? from_string(s) : -EINVAL;

        return v < 0 ? fallback : v;
}

static int load_snapshot(Set *s, json_object *o, Snapshot *after, Snapshot **ret) {
        const char *id = json_get_string(o, "id", "");
        Snapshot *n = calloc(1, sizeof *n);

        if (!n)
                return -ENOMEM;
        n->volume = copy_string(o, "volume");
        n->name = copy_string(o, "name");
        n->provider = copy_string(o, "provider");
        if (!id_is_valid(id) || !n->volume || !n->name || !n->provider) {
                snapshot_free(n);
                return -EBADMSG;
        }
        memcpy(n->id, id, sizeof n->id);
        n->mount_point = copy_string(o, "mount_point");
        n->device = copy_string(o, "device");
        n->path = copy_string(o, "path");
        n->token = copy_string(o, "token");
        n->fs_type = copy_string(o, "fs_type");
        n->fs_uuid = copy_string(o, "fs_uuid");
        n->size_bytes = json_get_uint(o, "size", 0);
        n->pinned = json_get_bool(o, "pinned", false);
        n->consistency = (Consistency) word(o, "consistency", consistency_from_string, CONSISTENCY_CRASH);
        n->created_at_usec = s->created_at_usec;
        n->available = true;
        n->set = s;
        /* not its mounts, which were those when it was stored: mounts_adopt() knows what they are now */
        if (after)
                LIST_INSERT_AFTER(after, n, entries);
        else
                LIST_INSERT_HEAD(&s->snapshots, n, entries);
        s->n_snapshots++;
        *ret = n;
        return 0;
}

static int keep_text(char ***list, size_t n, size_t index, const char *text) {
        if (isempty(text))
                return 0;
        if (!*list)
                *list = calloc(n + 1, sizeof **list);
        if (!*list || !((*list)[index] = strdup(text)))
                return -ENOMEM;
        return 0;
}

static int keep_array(char ***list, size_t n, size_t index, json_object *array) {
        _cleanup_free_ char *text = NULL;

        if (!array || json_object_array_length(array) == 0)
                return 0;
        int r = json_to_text(array, &text);
        return r < 0 ? r : keep_text(list, n, index, text);
}

static void load_failures(SetWriter *w, const char *path, json_object *failures) {
        for (size_t i = 0; failures && i < json_object_array_length(failures) && i < LIMIT_LIST; i++) {
                json_object *f = json_object_array_get_idx(failures, i);
                _cleanup_free_ char *line = NULL;
                if (asprintf(&line, "%s\n%s\n%s\n%s", path, json_get_string(f, "event", ""),
                             json_get_string(f, "error", ""), json_get_string(f, "message", "")) < 0)
                        line = NULL;
                else
                        (void) strings_append(&w->failures, line);
        }
}

/* What the writer said about its components stands in the manifest; the one that is made at Complete must have it too.
 */
static int load_components(SetWriter *w, json_object *components) {
        size_t n = strings_count(w->components);
        int r = 0;

        for (size_t i = 0; components && i < json_object_array_length(components) && r >= 0; i++) {
                json_object *c = json_object_array_get_idx(components, i);
                const char *path = json_get_string(c, "path", "");
                for (size_t k = 0; k < n && r >= 0; k++) {
                        if (!streq(w->components[k], path))
                                continue;
                        r = keep_text(&w->stamps, n, k, json_get_string(c, "stamp", NULL));
                        if (r >= 0)
                                r = keep_text(&w->private_metadata, n, k, json_get_string(c, "metadata", NULL));
                        if (r >= 0)
                                r = keep_array(&w->partial_files, n, k, json_get_array(c, "partial_files"));
                        if (r >= 0)
                                r = keep_array(&w->differenced_files, n, k, json_get_array(c, "differenced_files"));
                        load_failures(w, path, json_get_array(c, "failures"));
                }
        }
        return r;
}

static int load_writer(Set *s, json_object *o, json_object *manifest_writers) {
        SetWriter *w = &s->writers[s->n_writers];

        w->name = copy_string(o, "name");
        w->instance = copy_string(o, "instance");
        if (!w->name || !w->instance || writer_reference_format(w->name, w->instance, &w->reference) < 0) {
                free(w->name);
                free(w->instance);
                *w = (SetWriter) { 0 };
                return -EBADMSG;
        }
        s->n_writers++;
        w->level = (Level) word(o, "level", level_from_string, LEVEL_FRONT_END);
        w->state = (WriterState) word(o, "state", writer_state_from_string, WRITER_UNKNOWN);
        w->consistency = (Consistency) word(o, "consistency", consistency_from_string, CONSISTENCY_NONE);
        w->freeze_usec = json_get_uint(o, "freeze_usec", 0);
        w->type = (BackupType) word(o, "backup_type", backup_type_from_string, s->options.backup_type);
        (void) copy_strings(o, "components", &w->components);
        (void) copy_strings(o, "implicit", &w->implicit);
        w->notify = json_get_bool(o, "notify_complete", true);
        for (size_t i = 0; manifest_writers && i < json_object_array_length(manifest_writers); i++) {
                json_object *m = json_object_array_get_idx(manifest_writers, i),
                            *metadata = json_get_object(m, "metadata");
                if (!metadata || !streq(json_get_string(m, "name", ""), w->name) ||
                    !streq(json_get_string(m, "instance", ""), w->instance))
                        continue;
                (void) json_to_text(metadata, &w->metadata_text);
                return load_components(w, json_get_array(m, "components"));
        }
        w->dropped = manifest_writers; /* the manifest names only those that went through to the end */
        return 0;
}

static int load_writers(Set *s, json_object *record, const char *manifest) {
        json_object *writers = json_get_array(record, "writers");
        _cleanup_json_ json_object *m = NULL;
        size_t n = writers ? json_object_array_length(writers) : 0;
        int r = 0;

        if (n > LIMIT_WRITERS)
                return -E2BIG;
        s->writers = calloc(n + 1, sizeof *s->writers);
        if (!s->writers)
                return -ENOMEM;
        if (manifest)
                (void) json_tree_parse(manifest, strlen(manifest), LIMIT_MANIFEST_BYTES, NULL, &m);
        if (m && json_get_array(m, "exclude"))
                (void) json_to_text(json_get_array(m, "exclude"), &s->exclude_text);
        if (m && json_get_array(m, "excluded_from_snapshot"))
                (void) json_to_text(json_get_array(m, "excluded_from_snapshot"), &s->excluded_text);
        for (size_t i = 0; i < n && r >= 0; i++)
                r = load_writer(s, json_object_array_get_idx(writers, i), m ? json_get_array(m, "writers") : NULL);
        return r;
}

static int load_snapshots(Set *s, json_object *private) {
        json_object *a = json_get_array(private, "snapshots");
        Snapshot *last = NULL, *known;
        int r = 0;

        LIST_FOREACH(known, &s->snapshots, entries)
                last = known;
        if (a && json_object_array_length(a) > LIMIT_VOLUMES)
                return -E2BIG;
        for (size_t i = 0; a && i < json_object_array_length(a) && r >= 0; i++)
                r = load_snapshot(s, json_object_array_get_idx(a, i), last, &last);
        return r;
}

static void load_timing(Set *s, json_object *record) {
        json_object *t = json_get_object(record, "timing");

        if (!t)
                return;
        s->timing = (SetTiming) {
                .total_usec = json_get_uint(t, "total_usec", 0),
                .queue_usec = json_get_uint(t, "queue_usec", 0),
                .prepare_usec = json_get_uint(t, "prepare_usec", 0),
                .freeze_usec = json_get_uint(t, "freeze_usec", 0),
                .hold_usec = json_get_uint(t, "hold_usec", 0),
                .commit_usec = json_get_uint(t, "commit_usec", 0),
        };
}

static void load_component_options(json_object *components, SetComponentOption **ret, size_t *ret_n) {
        size_t n = components ? json_object_array_length(components) : 0;

        if (n == 0 || n > LIMIT_COMPONENTS)
                return;
        *ret = calloc(n, sizeof **ret);
        for (size_t i = 0; *ret && i < n; i++) {
                json_object *c = json_object_array_get_idx(components, i);
                SetComponentOption *option = &(*ret)[*ret_n];
                *option = (SetComponentOption) { .writer = copy_string(c, "writer"),
                                                 .path = copy_string(c, "path"),
                                                 .options = copy_string(c, "options"),
                                                 .previous_stamp = copy_string(c, "previous_stamp") };
                (*ret_n)++;
                if (!option->writer || !option->path) {
                        (*ret_n)--;
                        free(option->writer);
                        free(option->path);
                        free(option->options);
                        free(option->previous_stamp);
                }
        }
}

static void load_options(Set *s, json_object *record) {
        json_object *o = json_get_object(record, "options"), *requester = json_get_object(record, "requester");

        s->options.requester = requester ? copy_string(requester, "name") : NULL;
        s->owner_pid = requester ? (pid_t) json_get_uint(requester, "pid", 0) : 0;
        if (!o)
                return;
        s->options.backup_type = (BackupType) word(o, "backup_type", backup_type_from_string, BACKUP_COPY);
        s->options.lifetime = (Lifetime) word(o, "lifetime", lifetime_from_string, LIFETIME_PERSISTENT);
        s->options.provider = copy_string(o, "provider");
        s->options.mode = copy_string(o, "mode");
        (void) copy_strings(o, "labels", &s->options.labels);
        s->options.partial_files = json_get_bool(o, "partial_files", false);
        s->options.bootable_state = json_get_bool(o, "bootable_state", false);
        (void) copy_strings(o, "writer_options", &s->options.writer_options);
        load_component_options(json_get_array(o, "components"), &s->options.components, &s->options.n_components);
        load_component_options(json_get_array(o, "previous_stamps"), &s->options.stamps, &s->options.n_stamps);
}

/* Sets in the middle of something end in the nearest state that is true of their copies. */
static SetState settled_state(SetState recorded) {
        switch (recorded) {
        case SET_QUEUED:
        case SET_RUNNING:
        case SET_ABORTING:
                return SET_ABORTED;
        case SET_COMPLETING:
        case SET_DELETING:
                return SET_COMPLETED;
        default:
                return recorded;
        }
}

static int load_body(Set *s, json_object *o) {
        json_object *record = json_get_object(o, "record"), *private = json_get_object(o, "private"), *error;
        const char *manifest = json_get_string(o, "manifest", NULL);
        SetState recorded;
        int r;

        if (!record || !private)
                return -EBADMSG;
        recorded = (SetState) word(record, "state", set_state_from_string, SET_ABORTED);
        s->state = settled_state(recorded);
        s->owner_uid = (uid_t) json_get_uint(private, "owner_uid", 0);
        s->owner = copy_string(private, "owner");
        s->created_at_usec = s->instant_at_usec = json_get_uint(private, "created_at_usec", 0);
        s->completed_at_usec = json_get_uint(private, "completed_at_usec", 0);
        s->session = (SessionKind) word(private, "session", session_kind_from_string, SESSION_ENDED);
        s->options.session = s->session;
        s->consistency = (Consistency) word(record, "consistency", consistency_from_string, CONSISTENCY_CRASH);
        s->one_instant = json_get_bool(record, "one_instant", false);
        s->forced = json_get_bool(record, "forced", false);
        load_timing(s, record);
        load_options(s, record);
        error = json_get_object(record, "error");
        if (error)
                (void) failure_set(&s->error, condition_from_name(json_get_string(error, "name", "")), "%s",
                                   json_get_string(error, "message", ""));
        r = load_writers(s, record, manifest);
        if (r >= 0 && s->state != SET_ABORTED && s->state != SET_DELETED)
                r = load_snapshots(s, private);
        if (r < 0)
                return r;
        if (recorded != s->state && s->state == SET_ABORTED)
                (void) failure_set(&s->error, CONDITION_FAILED, "vssd ended while the set was being made");
        s->manifest_text = manifest ? strdup(manifest) : NULL;
        return json_to_text(record, &s->record_text);
}

/* A bound requester that is still on the bus keeps its session; the callback comes when it goes, or at once. */
static int on_owner_gone(sd_bus_track *track, void *userdata) {
        set_owner_gone(userdata);
        return 0;
}

static void watch_owner(Set *s) {
        if (s->session == SESSION_DETACHED) {
                set_arm_session(s);
                return;
        }
        if (s->session != SESSION_BOUND || (s->state != SET_CREATED && s->state != SET_COMPLETED))
                return;
        if (!s->owner || sd_bus_track_new(s->manager->bus, &s->owner_track, on_owner_gone, s) < 0 ||
            sd_bus_track_add_name(s->owner_track, s->owner) < 0)
                set_owner_gone(s);
}

int set_take_in(Set *s, json_object *o) {
        json_object *record = NULL;
        int r;

        r = load_snapshots(s, json_get_object(o, "private"));
        if (r < 0 || (s->state != SET_ABORTED && s->state != SET_DELETED))
                return r;
        s->state = SET_COMPLETED;
        s->session = s->options.session = SESSION_ENDED;
        s->consistency = CONSISTENCY_CRASH;
        s->error = (Failure) { 0 };
        s->created_at_usec = s->instant_at_usec = s->completed_at_usec = json_get_uint(json_get_object(o, "private"),
                                                                                       "created_at_usec", 0);
        r = json_tree_parse(s->record_text, strlen(s->record_text), LIMIT_MANIFEST_BYTES, NULL, &record);
        if (r < 0)
                return r;
        json_object_object_add(record, "consistency", json_object_new_string(consistency_to_string(s->consistency)));
        json_object_object_add(record, "error", NULL);
        free(s->record_text);
        s->record_text = strdup(
                json_object_to_json_string_ext(record, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
        (void) json_object_put(record);
        return s->record_text ? 0 : -ENOMEM;
}

int set_load(Manager *m, const char *id, const char *record_text, Set **ret) {
        _cleanup_json_ json_object *o = NULL;
        Set *s = calloc(1, sizeof *s);
        int r;

        if (!s)
                return -ENOMEM;
        s->manager = m;
        s->loaded = true;
        memcpy(s->id, id, MIN_OF(strlen(id), (size_t) VSS_ID_LENGTH));
        r = json_tree_parse(record_text, strlen(record_text), LIMIT_MANIFEST_BYTES, NULL, &o);
        if (r >= 0)
                r = bus_path_encode(VSS_PATH_SETS, s->id, &s->path);
        if (r >= 0)
                r = load_body(s, o);
        if (r < 0) {
                set_free(s);
                return r;
        }
        TAILQ_INSERT_TAIL(&m->sets, s, entries);
        m->n_sets++;
        watch_owner(s);
        *ret = s;
        return 0;
}
