/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a set shows. Every local user reads it without being asked for a right, so no document and no file list is here.
 */
#include "daemon/conductor.h"
#include "daemon/results-bus.h"
#include "daemon/set-bus.h"
#include "protocol/busutil.h"
#include "protocol/text.h"

static int append_labels(sd_bus_message *m, char *const *labels) {
        int r = sd_bus_message_open_container(m, 'a', "{ss}");
        for (; r >= 0 && labels && *labels; labels++) {
                const char *equals = strchr(*labels, '=');
                _cleanup_free_ char *key = equals ? strndup(*labels, (size_t) (equals - *labels)) : NULL;
                if (key)
                        r = sd_bus_message_append(m, "{ss}", key, equals + 1);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_timing(sd_bus_message *m, const SetTiming *t) {
        return sd_bus_message_append(m, "a{st}", 6, "total_usec", t->total_usec, "queue_usec", t->queue_usec,
                                     "prepare_usec", t->prepare_usec, "freeze_usec", t->freeze_usec, "hold_usec",
                                     t->hold_usec, "commit_usec", t->commit_usec);
}

static int append_volumes(sd_bus_message *m, const Set *s) {
        int r = sd_bus_message_open_container(m, 'a', "s");
        for (size_t i = 0; r >= 0 && i < s->n_volumes; i++)
                r = sd_bus_message_append(m, "s", s->volumes[i]->name);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_snapshots(sd_bus_message *m, const Set *s) {
        const Snapshot *snapshot;
        int r = sd_bus_message_open_container(m, 'a', "o");
        LIST_FOREACH(snapshot, &s->snapshots, entries) {
                _cleanup_free_ char *path = NULL;
                if (r < 0 || !snapshot->available)
                        continue;
                r = bus_path_encode(VSS_PATH_SNAPSHOTS, snapshot->id, &path);
                if (r >= 0)
                        r = sd_bus_message_append(m, "o", path);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_writers(sd_bus_message *m, const Set *s) {
        int r = sd_bus_message_open_container(m, 'a', "(sss)");
        for (size_t i = 0; r >= 0 && i < s->n_writers; i++) {
                const SetWriter *w = s->writers + i;
                const char *error = w->failure.condition == CONDITION_NONE ? "" : condition_name(w->failure.condition);
                r = sd_bus_message_append(m, "(sss)", w->reference, writer_state_to_string(w->state), error);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_queued_behind(sd_bus_message *m, const Set *s) {
        const Set *other = s->state == SET_QUEUED ? turns_blocked_by((Set *) (uintptr_t) s) : NULL;
        int r = sd_bus_message_open_container(m, 'a', "(os)");
        if (r >= 0 && other)
                r = sd_bus_message_append(m, "(os)", other->path,
                                          other->options.requester ? other->options.requester : "");
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int get_id(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "s", s->id);
}

static int get_requester(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "s", s->options.requester ? s->options.requester : "");
}

static int get_owner_uid(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "u", (uint32_t) s->owner_uid);
}

static int get_backup_type(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "s", backup_type_to_string(s->options.backup_type));
}

static int get_lifetime(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "s", lifetime_to_string(s->options.lifetime));
}

static int get_state(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "s", set_state_to_string(s->state));
}

static int get_phase(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "s", phase_to_string(s->phase));
}

static int get_progress(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "d", s->progress);
}

static int get_session(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "s", session_kind_to_string(s->session));
}

static int get_last_error(sd_bus_message *m, const Set *s) {
        return failure_append(m, &s->error);
}

static int get_labels(sd_bus_message *m, const Set *s) {
        return append_labels(m, s->options.labels);
}

static int get_consistency(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "s", consistency_to_string(s->consistency));
}

static int get_one_instant(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "b", s->one_instant);
}

static int get_created_at(sd_bus_message *m, const Set *s) {
        return sd_bus_message_append(m, "t", s->created_at_usec);
}

static int get_timing(sd_bus_message *m, const Set *s) {
        return append_timing(m, &s->timing);
}

int set_property(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                 void *userdata, sd_bus_error *reterr) {
        static const struct {
                const char *name;
                int (*get)(sd_bus_message *m, const Set *s);
        } table[] = {
                { "Id", get_id },
                { "Requester", get_requester },
                { "OwnerUid", get_owner_uid },
                { "BackupType", get_backup_type },
                { "Lifetime", get_lifetime },
                { "State", get_state },
                { "Phase", get_phase },
                { "Progress", get_progress },
                { "Session", get_session },
                { "LastError", get_last_error },
                { "Labels", get_labels },
                { "Consistency", get_consistency },
                { "OneInstant", get_one_instant },
                { "CreatedAt", get_created_at },
                { "Timing", get_timing },
                { "Volumes", append_volumes },
                { "Snapshots", append_snapshots },
                { "Writers", append_writers },
                { "QueuedBehind", append_queued_behind },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (streq(property, table[i].name))
                        return table[i].get(reply, userdata);
        return -ENOENT;
}
