/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * restore: components of a backup back to where they belong. Everything is read, checked and staged before a service is
 * stopped; the service stands still for the renames. A component that cannot be restored does not keep the others from
 * it.
 */
#include "client/restore.h"
#include <fcntl.h>
#include <signal.h>

static const Option restore_options[] = {
        { "component", 0, "WRITER:PATH", true, check_component, "restore only this; may be a part of what was saved" },
        { "from", 0, "[VOLUME=]DIR", true, check_any,
          "where the backup is: whole paths below DIR, or DIR shows VOLUME (default: the snapshots)" },
        { "to", 0, "[ROOT=]DIR", true, check_any, "into DIR instead of where it was" },
        { "rename", 0, "NAME", false, check_any, "as this, beside the one that is there" },
        { "instance", 0, "INSTANCE", false, check_any, "let this instance of the writer take it over" },
        { "until", 0, "POINT", false, check_any, "go forward with the logs up to POINT, in the writer's words" },
        { "more-follows", 0, NULL, true, NULL, "other restores follow: no recovery yet" },
        { "authoritative", 0, NULL, true, NULL, "what is restored wins over replicas" },
        { "restore-options", 0, "TEXT", false, check_any, "\"PART\":\"NAME\"=\"VALUE\",… for the writer" },
        { "no-writers", 0, NULL, true, NULL, "only the files; no writer is told" },
        { "service", 0, "UNIT", false, check_unit, "the unit to stop, where the method stops one" },
        { "no-service", 0, NULL, true, NULL, "stop and start nothing: that is done by hand" },
        { "merge", 0, NULL, true, NULL, "what was saved of changes goes onto the backup before it, restored just now" },
        { "keep-extra", 0, NULL, true, NULL, "leave files in a database's directory that the backup does not have" },
        { "report", 0, "FILE", false, check_any, "write the manifest again, with what became of each component" },
        { "pending", 0, NULL, false, NULL, "list what waits for the next start of the machine, and what became of it" },
        { "cancel", 0, "PLAN", false, check_any, "remove what waits for the next start" },
        { "device-nodes", 0, NULL, true, NULL, "device nodes too, which are left out otherwise" },
        {},
};

static int restore_check(Context *c) {
        static const char *const for_writers[] = { "rename",       "instance",      "until",
                                                   "more-follows", "authoritative", "restore-options" };
        for (size_t i = 0; given_flag(c, "no-writers") && i < ELEMENTSOF(for_writers); i++)
                if (given_flag(c, for_writers[i]))
                        return context_usage(c, "--%s is for the writer, so not with --no-writers", for_writers[i]);
        if (given_flag(c, "pending") || given_value(c, "cancel") || c->n_operands == 0)
                return restore_check_pending(c);
        if (given_flag(c, "no-service") && given_flag(c, "service"))
                return context_usage(c, "--service and --no-service exclude each other");
        return 0;
}

static int manifest_read(RestoreWork *w) {
        Context *c = w->context;
        const char *path = c->operands[0];
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        struct stat s;
        Failure f = {};
        if (fd < 0 || fstat(fd, &s) < 0)
                return context_fail(c, errno == ENOENT ? CONDITION_NOT_FOUND : CONDITION_FAILED, "cannot read %s: %s",
                                    path, strerror(errno));
        if (!S_ISREG(s.st_mode) || s.st_size > LIMIT_MANIFEST_BYTES)
                return context_fail(c, CONDITION_INVALID_DOCUMENT, "%s is no manifest: not a file of at most %d bytes",
                                    path, LIMIT_MANIFEST_BYTES);
        w->manifest_text = malloc((size_t) s.st_size + 1);
        while (w->manifest_text && w->manifest_size < (size_t) s.st_size) {
                ssize_t n = read(fd, w->manifest_text + w->manifest_size, (size_t) s.st_size - w->manifest_size);
                if (n <= 0)
                        return context_fail(c, CONDITION_FAILED, "cannot read %s: %s", path, strerror(errno));
                w->manifest_size += (size_t) n;
        }
        if (!w->manifest_text)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        w->manifest_text[w->manifest_size] = '\0';
        if (manifest_parse(w->manifest_text, w->manifest_size, &f, &w->manifest) < 0)
                return context_fail(c, f.condition, "%s: %s", path, f.message);
        return 0;
}

/* ---- one component ---- */

static bool at_its_place(const RestorePart *p) {
        return isempty(p->wishes.to) && !p->alternate_used;
}

static int use_alternate(RestoreWork *w, RestorePart *p) {
        char why[LIMIT_MESSAGE_BYTES];
        Condition condition = p->condition;
        (void) snprintf(why, sizeof(why), "%s", p->message);
        if (p->saved->n_alternates == 0 || p->alternate_used || !p->with_writer)
                return -EEXIST;
        p->alternate_used = true;
        p->only_new = true;
        p->condition = CONDITION_NONE;
        p->message[0] = '\0';
        if (restore_map(w, p) >= 0 && !part_check_there(p))
                return 0;
        return part_fail(p, condition, "%.300s, and the alternate location is no good either", why);
}

/* If that is what keeps a file of it from being replaced, it may wait for the next start. */
static bool is_busy(RestorePart *p) {
        if (part_check_replace(p) >= 0 || p->condition != CONDITION_BUSY)
                return false;
        p->condition = CONDITION_NONE;
        p->message[0] = '\0';
        for (size_t i = 0; i < p->n_items; i++)
                if (p->items[i].state == ITEM_FAILED) {
                        p->items[i].state = ITEM_WAITS;
                        free(p->items[i].message);
                        p->items[i].message = NULL;
                }
        return true;
}

/* The rule of the method for what is there already; a target of the requester or the writer beats it. */
static int apply_method(RestoreWork *w, RestorePart *p) {
        bool beaten = !isempty(p->wishes.to) || p->target != RESTORE_TARGET_ORIGINAL;
        p->only_new = p->method == RESTORE_IF_NOT_THERE && !beaten;
        if (p->method == RESTORE_CUSTOM && !beaten)
                return part_fail(p, CONDITION_NOT_SUPPORTED,
                                 "only the application's own procedure can restore it; --to=DIR gives you the files");
        int r = schedule_check_none(p, beaten);
        if (r < 0)
                return r;
        p->at_boot = !beaten &&
                     (p->method == RESTORE_AT_REBOOT || (p->method == RESTORE_AT_REBOOT_IF_BUSY && is_busy(p)));
        if (p->at_boot)
                return schedule_check(p);
        if (p->method == RESTORE_IF_NOT_THERE && !beaten)
                return part_check_there(p) ? use_alternate(w, p) : 0;
        if (p->method == RESTORE_AT_REBOOT_IF_BUSY || p->method == RESTORE_IF_CAN_REPLACE || beaten)
                return part_check_replace(p) < 0 ? (beaten ? -EBUSY : use_alternate(w, p)) : 0;
        return 0;
}

static bool stops_service(const RestorePart *p) {
        return p->method == RESTORE_STOP_START || p->method == RESTORE_THEN_RESTART;
}

/* Its writer was told, took part and named no place: now it restores by itself, until PostRestore. */
static bool is_by_writer(const RestorePart *p) {
        return p->method == RESTORE_CUSTOM && isempty(p->wishes.to) && p->target == RESTORE_TARGET_ORIGINAL &&
               p->with_writer && p->takes_part;
}

static int prepare_part(RestoreWork *w, RestorePart *p) {
        p->by_writer = is_by_writer(p);
        if (p->by_writer)
                return 0;
        int r = restore_map(w, p);
        r = r < 0 ? r : apply_method(w, p);
        if (r >= 0 && stops_service(p) && at_its_place(p) && !given_flag(w->context, "no-service"))
                r = service_find(w, p);
        r = r < 0 ? r : part_check_place(p);
        if (r >= 0 && !w->context->dry_run)
                r = part_stage(p);
        return r;
}

static void prepare(RestoreWork *w, RestorePart *p) {
        int r = rights_take(p);
        if (r < 0)
                (void) part_fail(p, CONDITION_FAILED, "the writer's account %u cannot be used: %s", (unsigned) p->uid,
                                 strerror(-r));
        else
                r = prepare_part(w, p);
        if (r < 0) {
                p->refused = true;
                part_unstage(p);
        }
        rights_drop();
}

static void swap(RestorePart *p) {
        int r = p->by_writer ? 0 : p->at_boot ? part_schedule(p) : part_swap(p);
        p->status = r < 0                      ? p->touched ? RESTORE_STATUS_FAILED : RESTORE_STATUS_NONE :
                    p->by_writer || p->at_boot ? RESTORE_STATUS_NONE :
                                                 RESTORE_STATUS_ALL;
        if (r < 0 && rights_take(p) < 0)
                return; /* named so that the next run clears it away */
        if (r < 0)
                part_unstage(p);
        rights_drop();
}

/* ---- services ---- */

static bool is_to_stop(const RestorePart *p) {
        return p->method == RESTORE_STOP_START && !p->refused;
}

static bool is_stopped(const RestorePart *p) {
        return p->stopped;
}

static bool is_to_restart(const RestorePart *p) {
        return p->method == RESTORE_THEN_RESTART && p->status != RESTORE_STATUS_NONE;
}

/* The part that stands for its unit, so that each is called once. */
static bool stands_for_unit(const RestoreWork *w, size_t i, bool (*which)(const RestorePart *)) {
        const char *unit = w->parts[i].service;
        for (size_t k = 0; unit && k < i; k++)
                if (streq_null(w->parts[k].service, unit) && which(w->parts + k))
                        return false;
        return unit && which(w->parts + i);
}

static void unit_fail(RestoreWork *w, const char *unit, bool refuse) {
        for (size_t k = 0; k < w->n_parts; k++)
                if (streq_null(w->parts[k].service, unit)) {
                        (void) part_fail(w->parts + k, w->context->condition, "%s", w->context->error_message);
                        w->parts[k].refused = w->parts[k].refused || refuse;
                }
}

/* What does not stop keeps its components from being touched; it may have stopped after all, or half, so it is started.
 */
static bool stop_services(RestoreWork *w) {
        bool any = false;
        for (size_t i = 0; i < w->n_parts; i++) {
                const char *unit = w->parts[i].service;
                if (!stands_for_unit(w, i, is_to_stop))
                        continue;
                any = true;
                int r = service_call(w->context, "stop", unit);
                for (size_t k = i; k < w->n_parts; k++)
                        if (streq_null(w->parts[k].service, unit) && is_to_stop(w->parts + k))
                                w->parts[k].stopped = true;
                if (r < 0)
                        unit_fail(w, unit, true);
        }
        return any;
}

/* It was to go forward, and nobody told it to: started, it would begin a history of its own. */
static bool is_held_back(const RestorePart *p) {
        return !isempty(p->wishes.until) &&
               (p->post.condition != CONDITION_NONE || p->work->end.condition != CONDITION_NONE);
}

static bool is_half_way(const RestoreWork *w, const char *unit) {
        for (size_t k = 0; k < w->n_parts; k++)
                if (streq_null(w->parts[k].service, unit) &&
                    (w->parts[k].status == RESTORE_STATUS_FAILED || is_held_back(w->parts + k)))
                        return true;
        return false;
}

/* A mixture of old and new is nothing to run on. */
static void leave_service(RestoreWork *w, const char *unit, const char *verb) {
        for (size_t k = 0; k < w->n_parts; k++) {
                RestorePart *p = w->parts + k;
                char why[LIMIT_MESSAGE_BYTES];
                if (!streq_null(p->service, unit))
                        continue;
                (void) snprintf(why, sizeof(why), "%s",
                                p->message[0]      ? p->message :
                                p->post.message[0] ? p->post.message :
                                                     "another component is half-way");
                (void) part_fail(p,
                                 p->condition != CONDITION_NONE      ? p->condition :
                                 p->post.condition != CONDITION_NONE ? p->post.condition :
                                                                       CONDITION_FAILED,
                                 "%.700s; so %.200s was not %sed", why, unit, verb);
        }
}

/* Started in between it would run on a part of what is to come, and perhaps change it for good. */
static void keep_waiting(RestoreWork *w, const char *unit, const char *verb) {
        for (size_t k = 0; k < w->n_parts; k++)
                if (streq_null(w->parts[k].service, unit))
                        w->parts[k].service_waits = true;
        if (output_people(w->context))
                output_line(w->context,
                            "%s was not %sed, since more follows: the restore without --more-follows does it", unit,
                            verb);
}

static void call_services(RestoreWork *w, const char *verb, bool (*which)(const RestorePart *)) {
        for (size_t i = 0; i < w->n_parts; i++) {
                const char *unit = w->parts[i].service;
                if (!stands_for_unit(w, i, which))
                        continue;
                if (is_half_way(w, unit))
                        leave_service(w, unit, verb);
                else if (given_flag(w->context, "more-follows"))
                        keep_waiting(w, unit, verb);
                else if (service_call(w->context, verb, unit) < 0)
                        unit_fail(w, unit, false);
        }
}

/* ---- the whole ---- */

static void cancel(RestoreWork *w) {
        w->cancelled = true;
        for (size_t i = 0; i < w->n_parts; i++) {
                RestorePart *p = w->parts + i;
                if (!p->refused)
                        (void) part_fail(p, CONDITION_CANCELLED, "interrupted; nothing was replaced");
                p->refused = true;
        }
}

/* Another unit may have it, or nobody has stopped it: replaced below what runs, old and new become one ruin. */
static void check_unused(RestorePart *p) {
        if (p->refused || p->by_writer || p->method != RESTORE_STOP_START || !at_its_place(p))
                return;
        int r = rights_take(p);
        if (r < 0)
                (void) part_fail(p, CONDITION_FAILED, "the writer's account cannot be used: %s", strerror(-r));
        p->refused = r < 0 || part_check_replace(p) < 0;
        rights_drop();
}

static void replace_all(RestoreWork *w, bool session) {
        if (interrupted)
                cancel(w);
        if (stop_services(w) && session && !w->lost)
                restore_lives(w); /* that may have taken minutes */
        for (size_t i = 0; i < w->n_parts; i++)
                check_unused(w->parts + i);
        for (size_t i = 0; i < w->n_parts; i++) {
                if (!w->parts[i].refused)
                        swap(w->parts + i);
                else
                        part_unstage(w->parts + i);
        }
        if (session && !w->lost)
                (void) restore_end(w);
        call_services(w, "start", is_stopped);
        call_services(w, "restart", is_to_restart);
        for (size_t i = 0; i < w->n_parts; i++)
                record_end(w->parts + i);
}

static void do_restore(RestoreWork *w) {
        sigset_t blocked, before;
        if (!w->context->dry_run)
                interrupts_catch();
        for (size_t i = 0; i < w->n_parts && !interrupted; i++)
                if (!w->parts[i].refused)
                        prepare(w, w->parts + i);
        if (w->context->dry_run)
                return;
        bool session = !given_flag(w->context, "no-writers") && w->session[0];
        if (session && !interrupted)
                restore_lives(w);
        /* From here on to the last start nothing ends us half-way; systemctl inherits that. */
        (void) sigemptyset(&blocked);
        (void) sigaddset(&blocked, SIGINT);
        (void) sigaddset(&blocked, SIGTERM);
        (void) sigaddset(&blocked, SIGHUP);
        (void) sigprocmask(SIG_BLOCK, &blocked, &before);
        replace_all(w, session);
        (void) sigprocmask(SIG_SETMASK, &before, NULL);
}

/* ---- output ---- */

static json_object *describe_files(const RestorePart *p) {
        json_object *list = json_object_new_array();
        for (int failed = 1; failed >= 0; failed--)
                for (size_t i = 0; i < p->n_items && json_object_array_length(list) < RESTORE_FILES_SHOWN; i++) {
                        const RestoreItem *item = p->items + i;
                        _cleanup_free_ char *from = NULL, *to = NULL, *shown_from = NULL, *shown_to = NULL;
                        if ((item->state == ITEM_FAILED) != failed || S_ISDIR(item->mode))
                                continue;
                        if (asprintf(&from, "%s/%s", p->sets[item->set].root, item->path) < 0 ||
                            asprintf(&to, "%s/%s", p->sets[item->set].to, item->path) < 0 ||
                            path_to_bus(from, &shown_from) < 0 || path_to_bus(to, &shown_to) < 0)
                                continue;
                        json_object *row = json_object_new_object();
                        json_add_string(row, "path", shown_from);
                        json_add_string(row, "to", shown_to);
                        json_add_uint(row, "size", item->size);
                        json_add_string(row, "status",
                                        item->state == ITEM_DONE   ? "restored" :
                                        item->state == ITEM_FAILED ? "failed" :
                                                                     "untouched");
                        json_add_string(row, "message", item->message);
                        json_object_array_add(list, row);
                }
        return list;
}

static json_object *describe_part(const RestorePart *p) {
        json_object *row = json_object_new_object();
        const Failure *post = &p->post;
        json_add_string(row, "writer", p->reference);
        json_add_string(row, "path", p->path);
        json_add_string(row, "method", restore_method_to_string(p->method));
        json_add_string(row, "target", restore_target_to_string(p->target));
        json_add_string(row, "status", restore_status_to_string(p->status));
        json_add_bool(row, "alternate_used", p->alternate_used);
        json_add_bool(row, "by_writer", p->by_writer);
        json_add_bool(row, "service_waits", p->service_waits);
        json_add_string(row, "plan", p->plan[0] ? p->plan : NULL);
        json_add_uint(row, "n_files", p->n_items);
        json_add_string(row, "message", p->writer_message);
        Condition condition = p->condition != CONDITION_NONE ? p->condition : post->condition;
        json_object_object_add(row, "error",
                               condition == CONDITION_NONE ?
                                       NULL :
                                       describe_error(condition_name(condition),
                                                      p->condition != CONDITION_NONE ? p->message : post->message,
                                                      condition_retryable(condition)));
        json_object_object_add(row, "files", describe_files(p));
        return row;
}

static int report(RestoreWork *w) {
        Context *c = w->context;
        json_object *rows = json_object_new_array();
        const RestorePart *first = NULL;
        unsigned n_failed = 0;
        c->document = document_new();
        json_add_string(c->document, "set", w->manifest.set);
        json_add_string(c->document, "session", w->session[0] ? w->session : NULL);
        json_add_bool(c->document, "dry_run", c->dry_run);
        for (size_t i = 0; i < w->n_parts; i++) {
                const RestorePart *p = w->parts + i;
                bool failed = p->condition != CONDITION_NONE || p->post.condition != CONDITION_NONE;
                json_object_array_add(rows, describe_part(p));
                n_failed += failed;
                first = failed && !first ? p : first;
                _cleanup_free_ char *why = text_visible(p->condition != CONDITION_NONE ? p->message : p->post.message);
                if (output_people(c))
                        output_line(c, "%s:%s: %s%s%s", p->reference, p->path,
                                    p->by_writer && !failed ? "nothing was copied: its writer restores it by itself" :
                                    p->plan[0] && !failed   ? p->message :
                                    c->dry_run && !failed   ? "can be restored" :
                                                              restore_status_to_string(p->status),
                                    failed ? ": " : "", failed && why ? why : "");
        }
        json_object_object_add(c->document, "components", rows);
        if (w->cancelled)
                c->exit_status = 128 + interrupted;
        if (!first && w->end.condition != CONDITION_NONE)
                return context_fail(c, w->end.condition, "the files are back, but the writers were not told: %.800s",
                                    w->end.message);
        if (!first)
                return 0;
        bool own = first->condition != CONDITION_NONE;
        return context_fail(c, own ? first->condition : first->post.condition, "%s:%s: %.400s%s", first->reference,
                            first->path, own ? first->message : first->post.message,
                            n_failed > 1 ? " (and others)" : "");
}

static void work_done(RestoreWork *w) {
        sources_close(w);
        for (size_t i = 0; i < w->n_parts; i++)
                part_done(w->parts + i);
        free(w->parts);
        targets_done(w);
        tree_excluded_done(w);
        manifest_done(&w->manifest);
        free(w->manifest_text);
}

/* One whose files are all its writers' business needs no backup of them. */
static bool needs_sources(const RestoreWork *w) {
        for (size_t i = 0; i < w->n_parts; i++)
                if (w->parts[i].method != RESTORE_CUSTOM || !w->parts[i].with_writer)
                        return true;
        return w->n_to > 0 || given_value(w->context, "from");
}

static int restore_run(Context *c) {
        _cleanup_(work_done) RestoreWork w = { .context = c };
        if (c->n_operands == 0)
                return restore_run_pending(c);
        (void) signal(SIGIO, SIG_IGN); /* somebody opens a file on which we have a lease for that moment */
        int r = manifest_read(&w);
        r = r < 0 ? r : restore_select(&w);
        if (r >= 0 && needs_sources(&w))
                r = sources_open(&w);
        if (r >= 0 && !given_flag(c, "no-writers"))
                r = restore_begin(&w);
        if (w.n_parts == 0 || r < 0)
                return r;
        do_restore(&w);
        r = restore_save_report(&w); /* what the report says of the components comes first */
        int k = report(&w);
        return k < 0 ? k : r;
}

const Verb verb_restore = {
        .name = "restore",
        .operands = "[MANIFEST]",
        .summary = "put components of a backup back, with their writers",
        .options = { restore_options },
        .max_operands = 1,
        .operand_check = check_any,
        .changes = true,
        .check = restore_check,
        .examples = "  vssctl restore /backup/db.json --from=/restored\n"
                    "  vssctl restore db.json --component=sqlite:book --to=/srv/look\n"
                    "  vssctl restore --pending\n",
        .run = restore_run,
};
