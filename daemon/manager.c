/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/exclude.h"
#include "daemon/conductor.h"
#include "daemon/call.h"
#include "daemon/guard.h"
#include "daemon/inhibit.h"
#include "daemon/log.h"
#include "daemon/manager-private.h"
#include "daemon/mounts.h"
#include "daemon/peers.h"
#include "daemon/restore.h"
#include "daemon/revert.h"
#include "daemon/volumes.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <syslog.h>

int manager_new(Manager **ret) {
        _cleanup_(manager_freep) Manager *m = calloc(1, sizeof(*m));
        if (!m)
                return -ENOMEM;
        LIST_INIT(&m->writers);
        TAILQ_INIT(&m->changed_writers);
        LIST_INIT(&m->providers);
        LIST_INIT(&m->calls);
        LIST_INIT(&m->reverts);
        TAILQ_INIT(&m->sets);
        int r = settings_init(&m->settings);
        if (r >= 0)
                r = sd_event_default(&m->event);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(m);
        return 0;
}

static ProviderEntry *provider_entry_free(ProviderEntry *p) {
        LIST_REMOVE(p, entries);
        free(p->name);
        free(p->version);
        free(p->kind);
        free(p->file);
        free(p);
        return NULL;
}

Manager *manager_free(Manager *m) {
        if (!m)
                return NULL;
        m->stopping = true;
        recovery_free(m->recovery);
        while (!TAILQ_EMPTY(&m->sets)) /* before the calls: a verb's end answers one */
                set_free(TAILQ_FIRST(&m->sets));
        restores_free(m);
        calls_free(m);
        reverts_free(m);
        while (!LIST_EMPTY(&m->writers)) {
                Writer *w = LIST_FIRST(&m->writers);
                LIST_REMOVE(w, entries);
                w->listed = false;
                writer_unref(w);
        }
        m->exclude = exclude_list_free(m->exclude);
        while (!LIST_EMPTY(&m->providers))
                provider_entry_free(LIST_FIRST(&m->providers));
        strays_free(m);
        peers_free(m->peers);
        inhibitor_free(m->inhibitor);
        mounts_free(m->mounts);
        volumes_free(m->volumes);
        catalogue_free(m->catalogue);
        authority_free(m->authority);
        sd_event_source_disable_unref(m->idle_timer);
        sd_event_source_disable_unref(m->stop_timer);
        sd_event_source_disable_unref(m->change_source);
        sd_event_source_disable_unref(m->post_source);
        sd_event_source_disable_unref(m->turns_source);
        strings_free(m->removed);
        free(m->running_announced);
        settings_done(&m->settings);
        sd_bus_flush_close_unref(m->bus);
        sd_event_unref(m->event);
        free(m);
        return NULL;
}

Set *manager_find_set(Manager *m, const char *id) {
        Set *s;
        TAILQ_FOREACH(s, &m->sets, entries)
                if (streq(s->id, id))
                        return s;
        return NULL;
}

Snapshot *manager_find_snapshot(Manager *m, const char *id) {
        Set *s;
        Snapshot *snapshot;
        TAILQ_FOREACH(s, &m->sets, entries)
                LIST_FOREACH(snapshot, &s->snapshots, entries)
                        if (streq(snapshot->id, id))
                                return snapshot;
        return NULL;
}

/* The living one, if there is one: a lost entry of the same name stays listed beside its successor's history only. */
Writer *manager_find_writer(Manager *m, const char *reference) {
        Writer *w, *lost = NULL;
        LIST_FOREACH(w, &m->writers, entries)
                if (streq(w->reference, reference)) {
                        if (!w->lost)
                                return w;
                        lost = w;
                }
        return lost;
}

ProviderEntry *manager_find_provider(Manager *m, const char *name) {
        ProviderEntry *p;
        if (strncmp(name, "fault:", 6) == 0)
                name += 6;
        LIST_FOREACH(p, &m->providers, entries)
                if (streq(p->name, name))
                        return p;
        return NULL;
}

void manager_busy(Manager *m) {
        m->n_busy++;
}

void manager_idle(Manager *m) {
        assert(m->n_busy > 0);
        m->n_busy--;
}

static void log_of_set(Manager *m, int priority, const char *set, const char *writer, const char *format, va_list ap) {
        const Set *s = set ? manager_find_set(m, set) : NULL;
        if (m->window)
                log_keep(true);
        log_linev(priority, set, writer, s ? phase_to_string(s->phase) : NULL, format, ap);
}

void manager_log(Manager *m, int priority, const char *set, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        log_of_set(m, priority, set, NULL, format, ap);
        va_end(ap);
}

void manager_log_writer(Manager *m, int priority, const char *set, const char *writer, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        log_of_set(m, priority, set, writer, format, ap);
        va_end(ap);
}

int manager_reload(Manager *m, Failure *reterr) {
        int r = settings_load(&m->settings, reterr);
        if (r >= 0) {
                (void) settings_export(&m->settings);
                r = authority_reload(m->authority);
                if (r >= 0)
                        r = manager_load_declarative(m);
                if (r >= 0)
                        r = exclude_load(m);
                if (r < 0)
                        (void) failure_set(reterr, CONDITION_FAILED, "%s/writers.d or exclude.d cannot be read: %s",
                                           m->settings.configuration_directory, strerror(-r));
        }
        return r;
}

static int on_terminate(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        Manager *m = userdata;
        manager_log(m, LOG_INFO, NULL, "stopping on signal %u", si->ssi_signo);
        manager_stop(m);
        return 0;
}

void manager_reload_on_signal(Manager *m) {
        Failure f = {};
        m->reload_wanted = false;
        if (manager_reload(m, &f) < 0)
                manager_log(m, LOG_ERR, NULL, "reload failed, everything stays as it was: %s", f.message);
        else
                manager_log(m, LOG_INFO, NULL, "configuration reloaded");
}

/* The post source does it, when no window is open. */
static int on_hangup(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        Manager *m = userdata;
        m->reload_wanted = m->recovery == NULL; /* start-up reads everything anyway */
        return 0;
}

/* Children are waited for by those who started them (pidfd); this takes the rest, so that none stays a zombie. */
static int on_child(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
        return 0;
}

static int manager_attach_signals(Manager *m) {
        static const struct {
                int signal;
                sd_event_signal_handler_t handler;
        } table[] = {
                { SIGTERM, on_terminate }, { SIGINT, on_terminate }, { SIGHUP, on_hangup }, { SIGCHLD, on_child }
        };
        sigset_t mask;
        (void) sigemptyset(&mask);
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                (void) sigaddset(&mask, table[i].signal);
        if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
                return -errno;
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                sd_event_source *source = NULL;
                int r = sd_event_add_signal(m->event, &source, table[i].signal, table[i].handler, m);
                if (r < 0)
                        return r;
                /* what is already read from pidfds and sockets goes first, so that owners reap their own */
                (void) sd_event_source_set_priority(source, table[i].signal == SIGCHLD ? SD_EVENT_PRIORITY_IDLE : 0);
                (void) sd_event_source_set_floating(source, true);
                (void) sd_event_source_unref(source);
        }
        return 0;
}

/* One descriptor per writer, one per volume, five per child: the soft limit of 1024 is for programs that use select().
 */
static void raise_descriptor_limit(void) {
        struct rlimit l;
        if (getrlimit(RLIMIT_NOFILE, &l) >= 0) {
                l.rlim_cur = MIN_OF(l.rlim_max, (rlim_t) 65536);
                (void) setrlimit(RLIMIT_NOFILE, &l);
        }
}

/* Who can write there decides which files root writes: -EPERM if that is anybody else. */
static int make_directory(const char *path) {
        struct stat st;
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        return (st.st_uid != 0 && st.st_uid != geteuid()) || st.st_mode & (S_IWGRP | S_IWOTH) ? -EPERM : 0;
}

static int manager_make_directories(const Settings *s) {
        const char *const all[] = { s->state_directory, s->runtime_directory, s->logs_directory };
        for (size_t i = 0; i < ELEMENTSOF(all); i++) {
                int r = make_directory(all[i]);
                if (r == -EPERM)
                        log_line(LOG_ERR, NULL, NULL,
                                 "%s cannot be used: it must be root's and writable by nobody else", all[i]);
                else if (r < 0)
                        log_line(
                                LOG_ERR, NULL, NULL,
                                "%s cannot be made: %s; make its parent (`systemd-tmpfiles --create vss.conf`), or set "
                                "STATE_DIRECTORY, RUNTIME_DIRECTORY and LOGS_DIRECTORY",
                                all[i], strerror(-r));
                if (r < 0)
                        return r;
        }
        return 0;
}

/*
 * The system bus; DBUS_SYSTEM_BUS_ADDRESS moves it. A service that dbus-daemon itself activates gets a clean
 * environment in which only DBUS_STARTER_ADDRESS says which bus wanted it.
 */
static int manager_connect(Manager *m) {
        const char *starter = getenv("DBUS_STARTER_ADDRESS");
        int r;
        if (starter && !getenv("DBUS_SYSTEM_BUS_ADDRESS")) {
                r = sd_bus_new(&m->bus);
                if (r >= 0)
                        r = sd_bus_set_address(m->bus, starter);
                if (r >= 0)
                        r = sd_bus_set_bus_client(m->bus, true);
                if (r >= 0)
                        r = sd_bus_start(m->bus);
        } else
                r = sd_bus_open_system(&m->bus);
        if (r >= 0)
                r = sd_bus_set_exit_on_disconnect(m->bus, true);
        if (r >= 0)
                r = sd_bus_attach_event(m->bus, m->event, SD_EVENT_PRIORITY_NORMAL);
        if (r < 0)
                log_line(LOG_ERR, NULL, NULL,
                         "the system bus cannot be reached: %s; is dbus-daemon running, is "
                         "DBUS_SYSTEM_BUS_ADDRESS right?",
                         strerror(-r));
        return r;
}

static int manager_attach_objects(Manager *m) {
        int r = manager_bus_attach(m);
        if (r >= 0)
                r = set_bus_attach(m);
        if (r >= 0)
                r = snapshot_bus_attach(m);
        if (r >= 0)
                r = writer_bus_attach(m);
        if (r >= 0)
                r = entries_bus_attach(m);
        if (r >= 0)
                r = volumes_bus_attach(m);
        return r;
}

static int manager_make_parts(Manager *m) {
        int r = authority_new(m->bus, m->settings.configuration_directory, &m->authority);
        if (r >= 0)
                r = peers_new(m, &m->peers);
        if (r >= 0)
                r = inhibitor_new(m, &m->inhibitor);
        if (r >= 0)
                r = volumes_new(m, &m->volumes);
        if (r >= 0)
                r = mounts_new(m, &m->mounts);
        if (r >= 0)
                r = manager_changes_attach(m);
        if (r >= 0)
                r = manager_idle_attach(m);
        return r;
}

int manager_start(Manager *m) {
        Failure f = {};
        raise_descriptor_limit();
        /* First of all: what a dead vssd left frozen may be the file system that any later step needs (hazards A9). */
        int r = guard_release_leftovers(m->settings.runtime_directory);
        if (r < 0)
                log_line(LOG_ERR, NULL, NULL,
                         "what an earlier vssd may have left frozen could not be released: %s; look at %s/held",
                         strerror(-r), m->settings.runtime_directory);
        r = settings_load(&m->settings, &f);
        if (r < 0) {
                log_line(LOG_ERR, NULL, NULL, "%s", f.message);
                return r;
        }
        r = settings_export(&m->settings);
        if (r >= 0)
                r = manager_make_directories(&m->settings);
        if (r >= 0 && getenv("DBUS_STARTER_ADDRESS"))
                log_to_directory(m->settings.logs_directory);
        if (r >= 0)
                r = manager_attach_signals(m);
        if (r >= 0)
                r = manager_connect(m);
        if (r < 0)
                return r;
        r = sd_event_set_watchdog(m->event, true);
        if (r >= 0)
                r = manager_make_parts(m);
        if (r >= 0)
                r = manager_attach_objects(m);
        if (r >= 0)
                r = progress_watch(m);
        if (r >= 0)
                r = recovery_start(m);
        if (r < 0)
                log_line(LOG_ERR, NULL, NULL, "start failed: %s", strerror(-r));
        return r;
}

int manager_run(Manager *m) {
        int r = sd_event_loop(m->event);
        Set *s;
        m->stopping = true;
        TAILQ_FOREACH(s, &m->sets, entries) /* also when the bus went: nothing of ours stays held */
                set_stop(s);
        return r;
}
