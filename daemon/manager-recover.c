/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Start-up after the bus is there:
 *
 *   catalogue ──► providers, side by side: LOAD, LIST, ABORT of each set whose copies still carry the mark ──►
 * declarative writers ──► bus name ──► writers that the vssd before knew, at most two seconds ──► sets may run
 *
 * Only what carries its own "uncommitted" mark is removed; a committed copy that the catalogue does not know is taken
 * in again, and a known one that no provider lists stays known, because its file system may just not be mounted
 * (hazards B4).
 */
#include "daemon/exclude.h"
#include "daemon/conductor.h"
#include "daemon/manager-private.h"
#include "daemon/mounts.h"
#include "daemon/recover.h"
#include "protocol/text.h"
#include <stdio.h>
#include <sys/stat.h>
#include <syslog.h>
#include <systemd/sd-daemon.h>

#define WRITERS_WAIT_USEC (2 * USEC_PER_SEC)

struct Recovery {
        Manager *manager;
        LIST_HEAD(, ProviderRecovery) providers;
        unsigned n_waiting;
        sd_bus_slot *name_slot;
        char **awaited; /* references of writers that were registered */
        sd_event_source *timer;
};

Recovery *recovery_free(Recovery *r) {
        if (!r)
                return NULL;
        if (r->manager->catalogue)
                catalogue_forget(r->manager->catalogue, r);
        while (!LIST_EMPTY(&r->providers))
                provider_recovery_free(LIST_FIRST(&r->providers));
        (void) sd_bus_slot_unref(r->name_slot);
        sd_event_source_disable_unref(r->timer);
        strings_free(r->awaited);
        free(r);
        return NULL;
}

static void recovery_fail(Recovery *r, int error, const char *what) {
        Manager *m = r->manager;
        manager_log(m, LOG_ERR, NULL, "start failed: %s: %s", what, strerror(-error));
        (void) sd_event_exit(m->event, error);
}

static void recovery_over(Recovery *r) {
        Manager *m = r->manager;
        m->recovery = recovery_free(r);
        m->ready = true;
        m->active_at_usec = now_usec();
        turns_changed(m);
}

static void note_path(const Manager *m, char *ret, size_t size) {
        (void) snprintf(ret, size, "%s/writers.list", m->settings.runtime_directory);
}

/* On tmpfs: of use only while the writers live on. */
void writers_note(Manager *m) {
        char path[LIMIT_PATH_BYTES], next[LIMIT_PATH_BYTES + 8];
        const Writer *w;
        if (m->recovery) /* the old note is still needed */
                return;
        note_path(m, path, sizeof(path));
        (void) snprintf(next, sizeof(next), "%s.new", path);
        FILE *f = fopen(next, "we");
        if (!f)
                return;
        LIST_FOREACH(w, &m->writers, entries)
                if (w->kind == WRITER_KIND_BUS && !w->lost)
                        (void) fprintf(f, "%s\n", w->reference);
        if (fclose(f) == 0)
                (void) rename(next, path);
}

static int read_note(Recovery *r) {
        char path[LIMIT_PATH_BYTES], line[512];
        int k = 0;
        note_path(r->manager, path, sizeof(path));
        FILE *f = fopen(path, "re");
        for (unsigned n = 0; f && k >= 0 && n < LIMIT_WRITERS && fgets(line, sizeof(line), f); n++) {
                line[strcspn(line, "\n")] = '\0';
                if (line[0])
                        k = strings_append(&r->awaited, line);
        }
        if (f)
                (void) fclose(f);
        return k;
}

static int on_waited(sd_event_source *source, uint64_t usec, void *userdata) {
        Recovery *r = userdata;
        for (char **reference = r->awaited; reference && *reference; reference++)
                manager_log(r->manager, LOG_WARNING, NULL,
                            "writer %s was registered with the vssd before and has not come back", *reference);
        r->manager->writers_changed = r->manager->changes = true;
        recovery_over(r);
        return 0;
}

void recovery_writer_registered(Manager *m, const Writer *w) {
        Recovery *r = m->recovery;
        size_t n = r ? strings_count(r->awaited) : 0;
        for (size_t i = 0; i < n; i++)
                if (streq(r->awaited[i], w->reference)) {
                        free(r->awaited[i]);
                        r->awaited[i] = r->awaited[n - 1];
                        r->awaited[--n] = NULL;
                        if (n == 0 && r->timer) /* not from here: the caller is not through with it */
                                (void) sd_event_source_set_time(r->timer, 0);
                        return;
                }
}

static int on_name(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Recovery *r = userdata;
        r->name_slot = sd_bus_slot_unref(r->name_slot);
        if (sd_bus_message_is_method_error(m, NULL)) {
                const sd_bus_error *e = sd_bus_message_get_error(m);
                manager_log(r->manager, LOG_ERR, NULL,
                            "the name " VSS_BUS_NAME " cannot be had: %s; is another vssd running, is the bus "
                            "policy (" VSS_BUS_NAME ".conf) installed?",
                            e->message ? e->message : e->name);
                return sd_event_exit(r->manager->event, -EEXIST);
        }
        uint32_t answer = 0;
        if (sd_bus_message_read(m, "u", &answer) < 0 || answer != 1) { /* DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER */
                manager_log(r->manager, LOG_ERR, NULL, "another vssd is running on this bus; stop it first");
                return sd_event_exit(r->manager->event, -EEXIST);
        }
        (void) sd_notify(0, "READY=1");
        manager_log(r->manager, LOG_INFO, NULL, "vss " VSS_VERSION " ready, %u sets known", r->manager->n_sets);
        int k = sd_event_add_time_relative(r->manager->event, &r->timer, CLOCK_MONOTONIC,
                                           r->awaited ? WRITERS_WAIT_USEC : 0, 0, on_waited, r);
        if (k < 0)
                recovery_fail(r, k, "no timer");
        return 0;
}

static void request_name(Recovery *r) {
        Manager *m = r->manager;
        int k = manager_load_declarative(m);
        if (k >= 0)
                k = exclude_load(m);
        if (k < 0) {
                recovery_fail(r, k, "declarative writers and exclusions cannot be loaded");
                return;
        }
        mounts_adopt(m->mounts);
        manager_changes_flush(m);
        /* do not queue behind another vssd: two of them must not even be able to take turns */
        k = sd_bus_call_method_async(m->bus, &r->name_slot, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                     "org.freedesktop.DBus", "RequestName", on_name, r, "su", VSS_BUS_NAME,
                                     (uint32_t) 4);
        if (k < 0)
                recovery_fail(r, k, "the bus name cannot be requested");
}

void recovery_provider_done(Recovery *r) {
        assert(r->n_waiting > 0);
        if (--r->n_waiting == 0)
                request_name(r);
}

static int start_providers(Recovery *r) {
        char **names = NULL;
        int k = provider_names(&names);
        if (k < 0)
                return k;
        r->n_waiting = 1; /* ours, until all are started */
        for (char **name = names; k >= 0 && *name; name++) {
                ProviderRecovery *p;
                k = provider_recovery_new(r->manager, r, *name, &p);
                if (k < 0)
                        break;
                LIST_INSERT_HEAD(&r->providers, p, entries);
                r->n_waiting++;
                provider_recovery_start(p);
        }
        strings_free(names);
        return k;
}

static void on_loaded(int result, void *userdata) {
        Recovery *r = userdata;
        if (result < 0) {
                recovery_fail(r, result,
                              result == -EBUSY ? "another vssd uses this state directory" :
                                                 "the catalogue cannot be read");
                return;
        }
        int k = start_providers(r);
        if (k < 0)
                recovery_fail(r, k, "providers cannot be started");
        else
                recovery_provider_done(r);
}

static void on_record(const char *id, const char *text, int result, void *userdata) {
        Recovery *r = userdata;
        Set *s;
        if (result >= 0)
                result = id_is_valid(id) ? set_load(r->manager, id, text, &s) : -EBADMSG;
        if (result < 0)
                manager_log(r->manager, LOG_ERR, NULL,
                            "record %s of the catalogue is not taken: %s; copies it described are taken in "
                            "again from their providers",
                            id, strerror(-result));
}

int recovery_start(Manager *m) {
        Recovery *r = calloc(1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        LIST_INIT(&r->providers);
        r->manager = m;
        m->recovery = r;
        int k = read_note(r);
        if (k >= 0)
                k = catalogue_new(m->event, m->settings.state_directory, &m->catalogue);
        return k < 0 ? k : catalogue_load(m->catalogue, on_record, on_loaded, r);
}
