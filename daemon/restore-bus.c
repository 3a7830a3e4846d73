/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Manager.PreRestore and PostRestore. The manifest is read only once the caller may restore: it can have 64 MiB, and is
 * whatever the caller wrote. It decides nothing that vssd does with root's rights; what it says reaches the writers
 * that it names, each of which decides for its own files.
 */
#include "daemon/call.h"
#include "daemon/results-bus.h"
#include "daemon/restore.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include <syslog.h>

typedef struct Begin { /* state of a PreRestore call */
        int manifest_fd;
        RestoreComponent *components;
        size_t n_components;
        bool dry_run;
        char *reason;
} Begin;

static void begin_free(void *p) {
        Begin *b = p;
        (void) close_fd(b->manifest_fd);
        restore_components_free(b->components, b->n_components);
        free(b->reason);
        free(b);
}

static int read_wished(sd_bus_message *m, Begin *b, Failure *reterr) {
        static const BusOption options[] = {
                { "to", "s", offsetof(RestoreWishes, to), NULL },
                { "rename", "s", offsetof(RestoreWishes, rename), NULL },
                { "instance", "s", offsetof(RestoreWishes, instance), NULL },
                { "until", "s", offsetof(RestoreWishes, until), NULL },
                { "options", "s", offsetof(RestoreWishes, options), NULL },
                { "authoritative", "b", offsetof(RestoreWishes, authoritative), NULL },
                { "more_follows", "b", offsetof(RestoreWishes, more_follows), NULL },
        };
        RestoreComponent *grown = reallocarray(b->components, b->n_components + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        b->components = grown;
        RestoreComponent *c = grown + b->n_components++;
        *c = (RestoreComponent) { .status = RESTORE_STATUS_NONE };
        int r = bus_read_field(m, "s", &c->writer, reterr);
        r = r < 0 ? r : bus_read_field(m, "s", &c->path, reterr);
        r = r < 0 ? r : bus_read_options(m, options, ELEMENTSOF(options), &c->wishes, NULL, reterr);
        if (r >= 0 && !component_path_is_valid(c->path))
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT, "\"%.200s\" is not a component path", c->path);
        return r;
}

static size_t text_bytes(const Begin *b) {
        size_t size = 0;
        for (size_t i = 0; i < b->n_components; i++) {
                const RestoreComponent *c = b->components + i;
                const char *texts[] = { c->writer,          c->path,         c->wishes.to,     c->wishes.rename,
                                        c->wishes.instance, c->wishes.until, c->wishes.options };
                for (size_t k = 0; k < ELEMENTSOF(texts); k++)
                        size += texts[k] ? strlen(texts[k]) : 0;
        }
        return size;
}

static int read_begin(sd_bus_message *m, Begin *b, Failure *reterr) {
        static const BusOption options[] = { BUS_OPTIONS_COMMON(Begin) };
        int r = bus_take_fd(m, S_IFREG, &b->manifest_fd, reterr);
        r = r < 0 ? r : sd_bus_message_enter_container(m, 'a', "(ssa{sv})");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "ssa{sv}")) > 0) {
                if (b->n_components >= LIMIT_COMPONENTS)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d components",
                                           LIMIT_COMPONENTS);
                r = read_wished(m, b, reterr);
                r = r < 0 ? r : sd_bus_message_exit_container(m);
        }
        r = r < 0 ? r : sd_bus_message_exit_container(m);
        r = r < 0 ? r : bus_read_options(m, options, ELEMENTSOF(options), b, NULL, reterr);
        if (r >= 0 && b->n_components == 0)
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT, "components: none is named");
        if (r >= 0 && text_bytes(b) > LIMIT_OPTIONS_BYTES)
                r = failure_set(reterr, CONDITION_LIMIT_REACHED, "components: their texts have more than %d bytes",
                                LIMIT_OPTIONS_BYTES);
        return r;
}

/* ---- answers of PreRestore ---- */

/* Stands before the value of key in the a{sv} at hand, if it has that type. */
static int find_key(sd_bus_message *m, const char *wanted, const char *type) {
        const char *key, *contents;
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = sd_bus_message_read(m, "s", &key);
                r = r < 0 ? r : sd_bus_message_peek_type(m, NULL, &contents);
                if (r >= 0 && streq(key, wanted) && streq(contents, type))
                        return sd_bus_message_enter_container(m, 'v', type);
                r = r < 0 ? r : sd_bus_message_skip(m, "v");
                r = r < 0 ? r : sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : -ENOENT;
}

static int find_list(sd_bus_message *m, const char *path, const char *key, const char *type) {
        const char *at;
        int r = sd_bus_message_rewind(m, true);
        r = r < 0 ? r : find_key(m, "components", "a(sa{sv})");
        r = r < 0 ? r : sd_bus_message_enter_container(m, 'a', "(sa{sv})");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "sa{sv}")) > 0) {
                r = sd_bus_message_read(m, "s", &at);
                if (r >= 0 && streq(at, path))
                        return find_key(m, key, type);
                r = r < 0 ? r : sd_bus_message_skip(m, "a{sv}");
                r = r < 0 ? r : sd_bus_message_exit_container(m);
        }
        return r < 0 ? r : -ENOENT;
}

static int append_list(sd_bus_message *m, const RestoreComponent *c, const char *key, const char *type) {
        int r = c->answer ? find_list(c->answer, c->path, key, type) : -ENOENT;
        if (r == -ENOENT)
                return 0;
        r = r < 0 ? r : sd_bus_message_open_container(m, 'e', "sv");
        r = r < 0 ? r : sd_bus_message_append(m, "s", key);
        r = r < 0 ? r : sd_bus_message_open_container(m, 'v', type);
        r = r < 0 ? r : sd_bus_message_copy(m, c->answer, false);
        r = r < 0 ? r : sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_reply(sd_bus_message *m, const RestoreComponent *c) {
        const Failure *f = &c->failure;
        int r = sd_bus_message_open_container(m, 'r', "ssa{sv}");
        r = r < 0 ? r : sd_bus_message_append(m, "ss", c->writer, c->path);
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "{sv}");
        r = r < 0 ? r : sd_bus_message_append(m, "{sv}", "target", "s", restore_target_to_string(c->target));
        if (r >= 0 && c->by)
                r = sd_bus_message_append(m, "{sv}{sv}", "uid", "u", (uint32_t) c->by->writer->uid, "takes_part", "b",
                                          (int) (c->by->events == RESTORE_EVENTS_ALWAYS &&
                                                 writer_wants(c->by->writer, EVENT_POST_RESTORE)));
        if (r >= 0 && c->message)
                r = sd_bus_message_append(m, "{sv}", "message", "s", c->message);
        if (r >= 0 && f->condition != CONDITION_NONE)
                r = sd_bus_message_append(m, "{sv}{sv}{sv}", "error_name", "s", condition_name(f->condition),
                                          "error_message", "s", f->message, "retryable", "b", (int) f->retryable);
        if (r >= 0 && c->target == RESTORE_TARGET_DIRECTED)
                r = append_list(m, c, "directed_targets", "a(sa(tt)sa(tt))");
        r = r < 0 ? r : append_list(m, c, "added_files", "a(sss)");
        r = r < 0 ? r : sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static void reply_begin(Call *c, const Restore *restore, const char *session) {
        sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(c->message, &reply);
        r = r < 0 ? r : sd_bus_message_append(reply, "s", session);
        r = r < 0 ? r : sd_bus_message_open_container(reply, 'a', "(ssa{sv})");
        for (size_t i = 0; r >= 0 && i < restore->n_components; i++)
                r = append_reply(reply, restore->components + i);
        r = r < 0 ? r : sd_bus_message_close_container(reply);
        call_reply_message(c, reply, r);
}

/* No component may be restored: then there is no session, and nobody to call PostRestore. */
static const Failure *refused_all(const Restore *restore) {
        for (size_t i = 0; i < restore->n_components; i++)
                if (restore->components[i].failure.condition == CONDITION_NONE)
                        return NULL;
        return &restore->components[0].failure;
}

static void on_entered(Restore *restore, void *userdata) {
        Call *c = userdata;
        const Failure *refused = refused_all(restore);
        c->held = false;
        if (restore->gone) {
                call_failf(c, CONDITION_UNAVAILABLE, "the restore was given up: %s", restore->reason);
                restore_free(restore);
        } else if (refused) {
                call_fail(c, refused);
                restore->state = RESTORE_COPYING;
                restore_abandon(restore, "refused"); /* a writer may have closed files of a component it then refused */
        } else {
                restore->state = RESTORE_COPYING;
                reply_begin(c, restore, restore->id);
        }
}

static void begin_now(Call *c) {
        Begin *b = c->state;
        _cleanup_free_ char *text = NULL;
        Manifest manifest = {};
        Restore *restore = NULL;
        Failure f = {};
        size_t size = 0;
        const char *sender = sd_bus_message_get_sender(c->message);
        int r = bus_document_read(b->manifest_fd, LIMIT_MANIFEST_BYTES, &text, &size, &f);
        r = r < 0 ? r : manifest_parse(text, size, &f, &manifest);
        if (r >= 0) {
                RestoreComponent *components = TAKE_PTR(b->components);
                size_t n = b->n_components;
                b->n_components = 0;
                r = restore_new(c->manager, sender ? sender : "", c->caller.uid, &manifest, components, n, b->dry_run,
                                &f, &restore);
                manifest_done(&manifest);
        }
        if (r < 0 && f.condition == CONDITION_NONE)
                call_failf(c, CONDITION_FAILED, "the restore cannot begin: %s", strerror(-r));
        else if (r < 0)
                call_fail(c, &f);
        else if (b->dry_run) {
                reply_begin(c, restore, "");
                restore_free(restore);
        } else {
                call_hold(c);
                restore_enter(restore, on_entered, c);
        }
}

/* Newline-joined, each once; the caller frees it. */
static char *join(const Begin *b, bool targets) {
        _cleanup_(strings_freep) char **seen = NULL;
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        for (size_t i = 0; f && i < b->n_components; i++) {
                const char *s = targets ? b->components[i].wishes.to : b->components[i].writer;
                if (isempty(s) || strings_contain(seen, s))
                        continue;
                (void) fprintf(f, "%s%s", seen ? "\n" : "", s);
                (void) strings_append(&seen, s);
        }
        if (!f || fclose(f) != 0)
                return NULL;
        return text;
}

int method_pre_restore(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Failure f = {};
        Call *c;
        Begin *b = calloc(1, sizeof(*b));
        if (!b)
                return -ENOMEM;
        b->manifest_fd = -EBADF;
        int r = read_begin(m, b, &f);
        if (r < 0)
                r = f.condition != CONDITION_NONE ? bus_error_set(reterr, &f) : r;
        else
                r = call_new(userdata, m, reterr, &c);
        _cleanup_free_ char *writers = r < 0 ? NULL : join(b, false), *targets = r < 0 ? NULL : join(b, true);
        if (r < 0) {
                begin_free(b);
                return r;
        }
        c->state = b;
        c->state_free = begin_free;
        if (!writers || !targets)
                call_failf(c, CONDITION_LIMIT_REACHED, "out of memory");
        else
                call_authorise(c, VSS_ACTION_RESTORE,
                               (const char *const[]) { "writer", writers, "targets", targets, NULL }, begin_now);
        return 1;
}

/* ---- PostRestore ---- */

typedef struct Report {
        char *status, *message, **new_targets;
        bool alternate_used;
} Report;

typedef struct End { /* state of a PostRestore call */
        char *session;
        struct {
                char *writer, *path;
                Report report;
        } * reports;
        size_t n_reports;
        bool dry_run;
        char *reason;
} End;

static void end_free(void *p) {
        End *e = p;
        for (size_t i = 0; i < e->n_reports; i++) {
                free(e->reports[i].writer);
                free(e->reports[i].path);
                free(e->reports[i].report.status);
                free(e->reports[i].report.message);
                strings_free(e->reports[i].report.new_targets);
        }
        free(e->reports);
        free(e->session);
        free(e->reason);
        free(e);
}

static int read_new_targets(sd_bus_message *m, void *field, Failure *reterr) {
        char ***list = field;
        const char *from, *to;
        size_t n = 0;
        int r = sd_bus_message_enter_container(m, 'a', "(ss)");
        while (r >= 0 && (r = sd_bus_message_read(m, "(ss)", &from, &to)) > 0) {
                if (n++ >= LIMIT_LIST || !path_is_clean(from) || !path_is_clean(to))
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                           "new_targets: at most %d pairs of absolute paths", LIMIT_LIST);
                r = strings_append(list, from);
                r = r < 0 ? r : strings_append(list, to);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_report(sd_bus_message *m, End *e, Failure *reterr) {
        static const BusOption options[] = {
                { "status", "s", offsetof(Report, status), NULL },
                { "message", "s", offsetof(Report, message), NULL },
                { "alternate_used", "b", offsetof(Report, alternate_used), NULL },
                { "new_targets", "a(ss)", offsetof(Report, new_targets), read_new_targets },
        };
        void *grown = reallocarray(e->reports, e->n_reports + 1, sizeof(*e->reports));
        if (!grown)
                return -ENOMEM;
        e->reports = grown;
        memset(e->reports + e->n_reports, 0, sizeof(*e->reports));
        size_t i = e->n_reports++;
        int r = bus_read_field(m, "s", &e->reports[i].writer, reterr);
        r = r < 0 ? r : bus_read_field(m, "s", &e->reports[i].path, reterr);
        r = r < 0 ? r : bus_read_options(m, options, ELEMENTSOF(options), &e->reports[i].report, NULL, reterr);
        if (r >= 0 && restore_status_from_string(e->reports[i].report.status ? e->reports[i].report.status : "") < 0)
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT, "status: none, all or failed expected");
        return r;
}

static int read_end(sd_bus_message *m, End *e, Failure *reterr) {
        static const BusOption options[] = { BUS_OPTIONS_COMMON(End) };
        int r = bus_read_field(m, "s", &e->session, reterr);
        r = r < 0 ? r : sd_bus_message_enter_container(m, 'a', "(ssa{sv})");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'r', "ssa{sv}")) > 0) {
                if (e->n_reports >= LIMIT_COMPONENTS)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "more than %d components",
                                           LIMIT_COMPONENTS);
                r = read_report(m, e, reterr);
                r = r < 0 ? r : sd_bus_message_exit_container(m);
        }
        r = r < 0 ? r : sd_bus_message_exit_container(m);
        return r < 0 ? r : bus_read_options(m, options, ELEMENTSOF(options), e, NULL, reterr);
}

static int take_reports(Restore *restore, End *e, Failure *reterr) {
        for (size_t i = 0; i < e->n_reports; i++)
                if (!restore_component(restore, e->reports[i].writer, NULL, e->reports[i].path))
                        return failure_set(reterr, CONDITION_NOT_FOUND, "restore %s has no component %s:%s",
                                           restore->id, e->reports[i].writer, e->reports[i].path);
        for (size_t i = 0; i < e->n_reports && !e->dry_run; i++) {
                RestoreComponent *c = restore_component(restore, e->reports[i].writer, NULL, e->reports[i].path);
                Report *report = &e->reports[i].report;
                c->reported = true;
                c->status = (RestoreStatus) restore_status_from_string(report->status);
                c->alternate_used = report->alternate_used;
                free(c->status_message);
                c->status_message = TAKE_PTR(report->message);
                strings_free(c->new_targets);
                c->new_targets = TAKE_PTR(report->new_targets);
        }
        return 0;
}

static int append_result(sd_bus_message *m, const RestoreComponent *c) {
        const Failure *f = c->failure.condition != CONDITION_NONE ? &c->failure : c->by ? &c->by->failure : &c->failure;
        bool failed = f->condition != CONDITION_NONE;
        return sd_bus_message_append(m, "(sss)", c->writer, failed ? condition_name(f->condition) : "",
                                     failed ? f->message : "");
}

static void on_left(Restore *restore, void *userdata) {
        Call *c = userdata;
        sd_bus_message *reply = NULL;
        c->held = false;
        int r = sd_bus_message_new_method_return(c->message, &reply);
        r = r < 0 ? r : sd_bus_message_open_container(reply, 'a', "(sss)");
        for (size_t i = 0; r >= 0 && i < restore->n_components; i++)
                r = append_result(reply, restore->components + i);
        r = r < 0 ? r : sd_bus_message_close_container(reply);
        manager_log(restore->manager, LOG_INFO, restore->id, "restore: over");
        restore_free(restore);
        call_reply_message(c, reply, r);
}

/*
 * May what was copied still be put into place? Not if the writer that closed the files is gone: an application that
 * came up anew has opened them.
 */
static int append_prospect(sd_bus_message *m, const RestoreComponent *c) {
        const RestoreWriter *w = c->by;
        Failure f = c->failure;
        if (f.condition == CONDITION_NONE && w->events != RESTORE_EVENTS_NEVER && w->writer->lost)
                (void) failure_set(&f, CONDITION_WRITER_LOST,
                                   "writer %s is gone, or registered anew, since it closed its files for this restore",
                                   w->writer->reference);
        return sd_bus_message_append(m, "(sss)", c->writer,
                                     f.condition != CONDITION_NONE ? condition_name(f.condition) : "", f.message);
}

static void reply_prospects(Call *c, const Restore *restore) {
        sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(c->message, &reply);
        r = r < 0 ? r : sd_bus_message_open_container(reply, 'a', "(sss)");
        for (size_t i = 0; r >= 0 && i < restore->n_components; i++)
                r = append_prospect(reply, restore->components + i);
        r = r < 0 ? r : sd_bus_message_close_container(reply);
        call_reply_message(c, reply, r);
}

static void end_now(Call *c) {
        End *e = c->state;
        Failure f = {};
        Restore *restore = restore_find(c->manager, e->session);
        bool own = restore && streq_null(restore->owner, sd_bus_message_get_sender(c->message));
        if (!own)
                (void) failure_set(&f, CONDITION_NOT_FOUND,
                                   "this connection has no restore %.80s: it is over, or was begun by another one",
                                   e->session);
        else if (restore->gone)
                (void) failure_set(&f, CONDITION_NOT_FOUND, "restore %s is over (%s): its writers heard that it failed",
                                   restore->id, restore->reason);
        else if (restore->state != RESTORE_COPYING)
                (void) failure_set(&f, CONDITION_BAD_STATE, "restore %s is not between PreRestore and PostRestore",
                                   restore->id);
        if (f.condition != CONDITION_NONE || take_reports(restore, e, &f) < 0)
                call_fail(c, &f);
        else if (e->dry_run)
                reply_prospects(c, restore);
        else {
                call_hold(c);
                restore_leave(restore, on_left, c);
        }
}

/* Whoever began the session ends it: that it is the same connection is right enough. */
int method_post_restore(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Failure f = {};
        Call *c;
        End *e = calloc(1, sizeof(*e));
        if (!e)
                return -ENOMEM;
        int r = read_end(m, e, &f);
        if (r < 0)
                r = f.condition != CONDITION_NONE ? bus_error_set(reterr, &f) : r;
        else
                r = call_new(userdata, m, reterr, &c);
        if (r < 0) {
                end_free(e);
                return r;
        }
        c->state = e;
        c->state_free = end_free;
        call_when_quiet(c, end_now);
        return 1;
}
