/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What changed is only marked; once per loop turn, when nothing else is to be done, all of it goes out. So the first
 * sight of a new object is complete, ten assignments in a row are one signal, and between first Freeze and last Thaw
 * nothing goes out at all: the post source looks after every turn whether the window has closed.
 */
#include "daemon/call.h"
#include "daemon/log.h"
#include "daemon/manager-private.h"
#include "daemon/mounts.h"
#include "daemon/revert.h"
#include "daemon/volumes.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <stdio.h>

static const char *const set_changes[] = { "State",   "Phase",       "Progress",   "Session",      "LastError",
                                           "Labels",  "Consistency", "OneInstant", "CreatedAt",    "Timing",
                                           "Volumes", "Snapshots",   "Writers",    "QueuedBehind", NULL };
static const char *const snapshot_changes[] = { "Consistency", "State", "Device", "Path", "Mounts", NULL };
static const char *const writer_changes[] = { "State", "LastError", "Sessions", NULL };

static void mark(Manager *m, bool *flag) {
        *flag = true;
        m->changes = true;
}

void manager_set_changed(Manager *m, Set *s) {
        mark(m, &s->changed);
}

void manager_snapshot_changed(Manager *m, Snapshot *s) {
        mark(m, &s->changed);
}

void manager_writer_changed(Manager *m, Writer *w) {
        if (!w->listed || w->changed)
                return;
        TAILQ_INSERT_TAIL(&m->changed_writers, w, change);
        mark(m, &w->changed);
}

void manager_set_added(Manager *m, Set *s) {
        mark(m, &s->added);
}

void manager_snapshot_added(Manager *m, Snapshot *s) {
        mark(m, &s->added);
}

void manager_set_ended(Manager *m, Set *s) {
        mark(m, &s->ended);
}

int manager_object_removed(Manager *m, const char *interface, const char *path) {
        _cleanup_free_ char *entry = NULL;
        if (asprintf(&entry, "%s %s", interface, path) < 0)
                return -ENOMEM;
        m->changes = true;
        return strings_append(&m->removed, entry);
}

static void class_object_removed(Manager *m, const char *interface, const char *class_path, const char *id) {
        _cleanup_free_ char *path = NULL;
        if (bus_path_encode(class_path, id, &path) >= 0)
                (void) manager_object_removed(m, interface, path);
}

void manager_snapshot_removed(Manager *m, const char *id) {
        mounts_drop(m->mounts, id, NULL);
        class_object_removed(m, VSS_IFACE_SNAPSHOT, VSS_PATH_SNAPSHOTS, id);
}

void manager_set_removed(Manager *m, const Set *s) {
        (void) manager_object_removed(m, VSS_IFACE_SET, s->path);
}

/* The object is no longer there to be asked for its interfaces, so they are listed here. */
static void emit_removed(Manager *m) {
        for (char **entry = m->removed; entry && *entry; entry++) {
                char *path = strchr(*entry, ' ');
                *path++ = '\0';
                (void) sd_bus_emit_interfaces_removed(m->bus, path, "org.freedesktop.DBus.Peer",
                                                      "org.freedesktop.DBus.Introspectable",
                                                      "org.freedesktop.DBus.Properties", *entry, NULL);
        }
        m->removed = strings_free(m->removed);
}

static void emit_object(Manager *m, const char *path, const char *interface, const char *const *names, bool *added,
                        bool *changed) {
        if (*added)
                (void) sd_bus_emit_object_added(m->bus, path);
        else if (*changed)
                (void) sd_bus_emit_properties_changed_strv(m->bus, path, interface, (char **) (uintptr_t) names);
        *added = *changed = false;
}

static void emit_snapshot(Manager *m, Snapshot *s) {
        _cleanup_free_ char *path = NULL;
        if (!s->added && !s->changed)
                return;
        if (s->available && bus_path_encode(VSS_PATH_SNAPSHOTS, s->id, &path) >= 0)
                emit_object(m, path, VSS_IFACE_SNAPSHOT, snapshot_changes, &s->added, &s->changed);
}

static int append_details(sd_bus_message *m, const Set *s) {
        const Failure *f = &s->error;
        int r = sd_bus_message_append(m, "a{sv}", 4, "consistency", "s", consistency_to_string(s->consistency),
                                      "error_name", "s",
                                      f->condition == CONDITION_NONE ? "" : condition_name(f->condition),
                                      "error_message", "s", f->message, "retryable", "b", f->retryable);
        return r;
}

void manager_hold_forced(Manager *m, const Set *s, uint64_t held_usec) {
        sd_bus_message *signal = NULL;
        int r = sd_bus_message_new_signal(m->bus, &signal, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "HoldForced");
        if (r >= 0)
                r = sd_bus_message_append(signal, "s", s->id);
        if (r >= 0)
                r = sd_bus_message_open_container(signal, 'a', "s");
        for (size_t i = 0; r >= 0 && i < s->n_volumes; i++)
                r = sd_bus_message_append(signal, "s", s->volumes[i]->name);
        if (r >= 0)
                r = sd_bus_message_close_container(signal);
        if (r >= 0)
                r = sd_bus_message_append(signal, "ta{sv}", held_usec, 0);
        if (r >= 0)
                (void) sd_bus_send(m->bus, signal, NULL);
        (void) sd_bus_message_unref(signal);
}

static void emit_ended(Manager *m, Set *s) {
        sd_bus_message *signal = NULL;
        s->ended = false;
        int r = sd_bus_message_new_signal(m->bus, &signal, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "SetEnded");
        if (r >= 0)
                r = sd_bus_message_append(signal, "oss", s->path, s->id, set_state_to_string(s->state));
        if (r >= 0)
                r = append_details(signal, s);
        if (r >= 0)
                (void) sd_bus_send(m->bus, signal, NULL);
        (void) sd_bus_message_unref(signal);
}

static void emit_sets(Manager *m) {
        Set *s;
        Snapshot *snapshot;
        TAILQ_FOREACH(s, &m->sets, entries) {
                LIST_FOREACH(snapshot, &s->snapshots, entries)
                        emit_snapshot(m, snapshot);
                emit_object(m, s->path, VSS_IFACE_SET, set_changes, &s->added, &s->changed);
                if (s->ended)
                        emit_ended(m, s);
        }
}

/* RunningSets follows from the states of the sets, so it is compared instead of marked. */
static void emit_running(Manager *m) {
        _cleanup_free_ char *now = NULL;
        size_t size;
        Set *s;
        FILE *f = open_memstream(&now, &size);
        if (!f)
                return;
        TAILQ_FOREACH(s, &m->sets, entries)
                if (s->state == SET_QUEUED || s->state == SET_RUNNING)
                        (void) fprintf(f, "%s ", s->id);
        if (fclose(f) != 0 || !now || streq_null(now, m->running_announced))
                return;
        if (m->running_announced || now[0])
                (void) sd_bus_emit_properties_changed(m->bus, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "RunningSets", NULL);
        free(m->running_announced);
        m->running_announced = TAKE_PTR(now);
}

static void emit_authorization(Manager *m) {
        const char *now = authority_mode(m->authority);
        if (m->authorization_announced && now != m->authorization_announced)
                (void) sd_bus_emit_properties_changed(m->bus, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "Authorization", NULL);
        m->authorization_announced = now;
}

void manager_changes_flush(Manager *m) {
        Writer *w;
        m->changes = false;
        emit_removed(m);
        while ((w = TAILQ_FIRST(&m->changed_writers))) {
                TAILQ_REMOVE(&m->changed_writers, w, change);
                emit_object(m, w->path, VSS_IFACE_WRITER_ENTRY, writer_changes, &w->added, &w->changed);
        }
        emit_sets(m);
        volumes_emit(m->volumes);
        reverts_emit(m);
        emit_running(m);
        if (m->writers_changed)
                writers_note(m);
        m->writers_changed = false;
}

static int on_change(sd_event_source *source, void *userdata) {
        Manager *m = userdata;
        if (!m->window && m->changes)
                manager_changes_flush(m);
        return 0;
}

/* After every turn of the loop; does nothing but look. */
static int on_post(sd_event_source *source, void *userdata) {
        Manager *m = userdata;
        if (!m->window) {
                log_keep(false);
                mounts_settle(m->mounts);
                calls_resume(m);
                reverts_go_on(m);
                emit_authorization(m);
                if (m->reload_wanted)
                        manager_reload_on_signal(m);
                if (m->changes)
                        (void) sd_event_source_set_enabled(m->change_source, SD_EVENT_ONESHOT);
        }
        writers_expire(m);
        manager_stop_check(m);
        manager_idle_check(m);
        return 0;
}

int manager_changes_attach(Manager *m) {
        int r = sd_event_add_defer(m->event, &m->change_source, on_change, m);
        if (r >= 0)
                r = sd_event_source_set_priority(m->change_source, SD_EVENT_PRIORITY_IDLE);
        if (r >= 0)
                r = sd_event_add_post(m->event, &m->post_source, on_post, m);
        return r;
}

void manager_snapshot_dropped(Manager *m, const Snapshot *snapshot, const char *reason) {
        (void) sd_bus_emit_signal(m->bus, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "SnapshotDropped", "ssssa{sv}",
                                  snapshot->id, snapshot->set->id, snapshot->name ? snapshot->name : "", reason, 0);
}
