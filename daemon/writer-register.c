/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who is a writer. A name that writers.d gives to an account is that account's; any other account that polkit lets in
 * is a foreign writer, listed as uid:NAME, so that it can neither pass for another nor veto (hazards C2). A writer's
 * entry outlives its connection for ten minutes, so that people can see what was there; how many there can be is
 * bounded per account and in all.
 */
#include "daemon/writer-register.h"
#include "daemon/manager-private.h"
#include "daemon/mounts.h"
#include "daemon/peers.h"
#include "daemon/restore.h"
#include "protocol/busutil.h"
#include "protocol/metadata.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <syslog.h>

#define LOST_LISTED_USEC (600 * USEC_PER_SEC)

int id_new(char ret[VSS_ID_LENGTH + 1]) {
        uint8_t b[16];
        if (getrandom(b, sizeof(b), 0) != sizeof(b))
                return -EIO;
        b[6] = (uint8_t) ((b[6] & 0x0f) | 0x40);
        b[8] = (uint8_t) ((b[8] & 0x3f) | 0x80);
        (void) snprintf(ret, VSS_ID_LENGTH + 1, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                        b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
                        b[15]);
        return 0;
}

static void writer_unwatch(Manager *m, Writer *w) {
        if (w->kind != WRITER_KIND_BUS || w->lost_at_usec > 0)
                return;
        w->lost_at_usec = now_usec();
        peers_unwatch(m->peers, w->bus_name);
}

void writer_unlist(Manager *m, Writer *w) {
        writer_unwatch(m, w);
        (void) manager_object_removed(m, VSS_IFACE_WRITER_ENTRY, w->path);
        LIST_REMOVE(w, entries);
        if (w->changed)
                TAILQ_REMOVE(&m->changed_writers, w, change);
        w->listed = w->changed = false;
        m->n_writers--;
        writer_unref(w);
}

/* Its connection is gone, or it said so itself. */
static void writer_leave(Manager *m, Writer *w) {
        manager_log_writer(m, LOG_INFO, NULL, w->reference, "writer %s is gone", w->reference);
        m->writers_changed = true;
        writer_lost(w);
        w->lease_fd = close_fd(w->lease_fd);
}

void manager_peer_gone(Manager *m, const char *bus_name) {
        Writer *w, *following;
        for (w = LIST_FIRST(&m->writers); w; w = following) {
                following = LIST_NEXT(w, entries);
                if (!w->lost && streq_null(w->bus_name, bus_name))
                        writer_leave(m, w);
        }
        restores_peer_gone(m, bus_name);
        mounts_drop(m->mounts, NULL, bus_name);
}

void writers_expire(Manager *m) {
        Writer *w, *following;
        uint64_t now = now_usec(), due = USEC_INFINITY;
        if (m->window || now < m->writers_due_usec)
                return;
        for (w = LIST_FIRST(&m->writers); w; w = following) {
                following = LIST_NEXT(w, entries);
                if (!w->lost)
                        continue;
                if (w->lost_at_usec == 0)
                        writer_unwatch(m, w);
                uint64_t end = usec_add(w->lost_at_usec, LOST_LISTED_USEC);
                if (w->lost_at_usec > 0 && now >= end)
                        writer_unlist(m, w);
                else if (w->lost_at_usec > 0)
                        due = MIN_OF(due, end);
        }
        m->writers_due_usec = due;
}

/* Makes room among entries that are only history, the oldest first; uid -1: of anybody. */
static void forget_oldest_lost(Manager *m, uid_t uid) {
        Writer *w, *oldest = NULL;
        LIST_FOREACH(w, &m->writers, entries)
                if (w->lost && w->lost_at_usec > 0 && (uid == (uid_t) -1 || w->uid == uid) &&
                    (!oldest || w->lost_at_usec < oldest->lost_at_usec))
                        oldest = w;
        if (oldest)
                writer_unlist(m, oldest);
}

static unsigned count_writers(const Manager *m, uid_t uid, bool lost_too) {
        const Writer *w;
        unsigned n = 0;
        LIST_FOREACH(w, &m->writers, entries)
                n += w->kind == WRITER_KIND_BUS && (lost_too || !w->lost) && (uid == (uid_t) -1 || w->uid == uid);
        return n;
}

static int check_limits(Manager *m, uid_t uid, Failure *reterr) {
        if (count_writers(m, (uid_t) -1, false) >= m->settings.writers_max)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "%u writers are registered already",
                                   m->settings.writers_max);
        if (count_writers(m, (uid_t) -1, true) >= m->settings.writers_max)
                forget_oldest_lost(m, (uid_t) -1);
        if (uid == 0)
                return 0;
        if (count_writers(m, uid, false) >= LIMIT_WRITERS_PER_UID)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "uid %u has registered %d writers already",
                                   (unsigned) uid, LIMIT_WRITERS_PER_UID);
        if (count_writers(m, uid, true) >= LIMIT_WRITERS_PER_UID)
                forget_oldest_lost(m, uid);
        return 0;
}

Writer *writer_new(Manager *m, WriterKind kind, const char *name, const char *instance) {
        Writer *w = calloc(1, sizeof(*w));
        if (!w)
                return NULL;
        *w = (Writer) { .manager = m,
                        .n_ref = 1,
                        .kind = kind,
                        .lease_fd = -EBADF,
                        .state = WRITER_STABLE,
                        .level = LEVEL_FRONT_END,
                        .usage = USAGE_OTHER,
                        .source = SOURCE_OTHER };
        TAILQ_INIT(&w->calls);
        w->name = strdup(name);
        w->instance = strdup(instance);
        if (!w->name || !w->instance || id_new(w->id) < 0 ||
            writer_reference_format(name, instance, &w->reference) < 0 ||
            bus_path_encode_writer(name, instance, &w->path) < 0)
                return writer_unref(w);
        return w;
}

void writer_list(Writer *w) {
        LIST_INSERT_HEAD(&w->manager->writers, w, entries);
        w->manager->n_writers++;
        w->listed = w->added = true;
        w->manager->writers_changed = true;
        manager_writer_changed(w->manager, w);
}

static int make_lease(Writer *w, int *ret_read_end) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) < 0)
                return -errno;
        w->lease_fd = ends[1];
        *ret_read_end = ends[0];
        return 0;
}

static int fill_registration(Writer *w, Registration *g, const AuthorityCaller *caller, const char *sender) {
        w->uid = caller->uid;
        w->pid = caller->pid;
        w->bus_name = strdup(sender);
        w->object = TAKE_PTR(g->object);
        w->version = g->version ? TAKE_PTR(g->version) : strdup("");
        w->level = g->level;
        w->usage = g->usage;
        w->source = g->source;
        w->events = g->events;
        w->freeze_timeout_usec = g->freeze_timeout_usec;
        return w->bus_name && w->version ? 0 : -ENOMEM;
}

/* A name is root's, or its owner's by writers.d; everybody else gets a name that says who it is. */
static bool is_foreign(const Manager *m, const char *name, uid_t uid) {
        uid_t owner;
        return uid != 0 && (authority_writer_owner(m->authority, name, &owner) < 0 || owner != uid);
}

int writer_register(Manager *m, Registration *g, const AuthorityCaller *caller, const char *sender, Failure *reterr,
                    Writer **ret, int *ret_lease) {
        _cleanup_(writer_unrefp) Writer *w = NULL;
        _cleanup_close_ int lease = -EBADF;
        char name[96];
        bool foreign = is_foreign(m, g->name, caller->uid);
        int r = check_limits(m, caller->uid, reterr);
        if (r < 0)
                return r;
        if (foreign)
                (void) snprintf(name, sizeof(name), "%u:%s", (unsigned) caller->uid, g->name);
        else
                (void) snprintf(name, sizeof(name), "%s", g->name);
        w = writer_new(m, WRITER_KIND_BUS, name, g->instance);
        if (!w)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        Writer *same = manager_find_writer(m, w->reference);
        if (same && !same->lost)
                return failure_set(reterr, CONDITION_EXISTS, "writer %s is registered already, by %s", w->reference,
                                   same->kind == WRITER_KIND_BUS ? same->bus_name : "a file in writers.d");
        w->foreign = foreign;
        r = fill_registration(w, g, caller, sender);
        if (r >= 0)
                r = make_lease(w, &lease);
        if (r >= 0)
                r = peers_watch(m->peers, sender);
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "writer %s cannot be registered: %s", w->reference,
                                   strerror(-r));
        if (same)
                writer_unlist(m, same);
        *ret = TAKE_PTR(w);
        *ret_lease = TAKE_FD(lease);
        writer_list(*ret);
        manager_log_writer(m, LOG_INFO, NULL, (*ret)->reference, "writer %s registered by %s (uid %u)",
                           (*ret)->reference, sender, (unsigned) caller->uid);
        recovery_writer_registered(m, *ret);
        return 0;
}

void writer_unregister(Writer *w) {
        Manager *m = w->manager;
        writer_leave(m, w);
        if (m->window)
                return; /* listed as lost; goes later */
        writer_unlist(m, w);
}

/* All documents of one account together are bounded, so that a stranger cannot make vssd grow by registering often. */
static bool uid_may_store(const Writer *w, size_t size) {
        const Writer *other;
        if (w->uid == 0)
                return true;
        LIST_FOREACH(other, &w->manager->writers, entries)
                if (other != w && other->uid == w->uid && other->metadata_text)
                        size += strlen(other->metadata_text);
        return size <= LIMIT_METADATA_BYTES_PER_UID;
}

int writer_take_metadata(Writer *w, sd_bus_message *reply, Failure *reterr) {
        _cleanup_(metadata_freep) Metadata *d = NULL;
        _cleanup_free_ char *copy = NULL;
        const char *text = NULL;
        int r = reply ? sd_bus_message_read(reply, "s", &text) : -EBADMSG;
        if (r < 0)
                r = failure_set(reterr, CONDITION_INVALID_DOCUMENT,
                                "writer %s answered identify with something that is not a document", w->reference);
        else if (strlen(text) > LIMIT_METADATA_BYTES || !uid_may_store(w, strlen(text)))
                r = failure_set(reterr, CONDITION_LIMIT_REACHED, "writer %s: its documents are larger than %d bytes",
                                w->reference, LIMIT_METADATA_BYTES);
        else
                r = metadata_parse(text, strlen(text), reterr, &d);
        if (r >= 0)
                r = metadata_check_identity(d, writer_own_name(w), w->instance, reterr);
        if (r < 0) {
                w->state = WRITER_FAILED_AT_IDENTIFY;
                w->last_error = *reterr;
                manager_writer_changed(w->manager, w);
                return r;
        }
        copy = strdup(text);
        if (!copy)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        free(w->metadata_text);
        w->metadata_text = TAKE_PTR(copy);
        return 0;
}
