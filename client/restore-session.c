/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two calls that writers hear of. What PreRestore answers is a writer's word: words are looked up, paths checked,
 * and where they lead is written with the writer's rights.
 */
#include "client/restore.h"
#include "protocol/busutil.h"
#include "protocol/text.h"

static int append_wishes(sd_bus_message *m, const RestoreWishes *w) {
        const struct {
                const char *key, *text;
        } texts[] = { { "to", w->to },
                      { "rename", w->rename },
                      { "instance", w->instance },
                      { "until", w->until },
                      { "options", w->options } };
        int r = sd_bus_message_open_container(m, 'a', "{sv}");
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(texts); i++)
                if (!isempty(texts[i].text))
                        r = sd_bus_message_append(m, "{sv}", texts[i].key, "s", texts[i].text);
        if (r >= 0)
                r = sd_bus_message_append(m, "{sv}{sv}", "authoritative", "b", (int) w->authoritative, "more_follows",
                                          "b", (int) w->more_follows);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_parts(sd_bus_message *m, const RestoreWork *w) {
        int r = sd_bus_message_open_container(m, 'a', "(ssa{sv})");
        for (size_t i = 0; r >= 0 && i < w->n_parts; i++) {
                r = sd_bus_message_open_container(m, 'r', "ssa{sv}");
                r = r < 0 ? r : sd_bus_message_append(m, "ss", w->parts[i].reference, w->parts[i].path);
                r = r < 0 ? r : append_wishes(m, &w->parts[i].wishes);
                r = r < 0 ? r : sd_bus_message_close_container(m);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* ---- what writers answered ---- */

static int read_ranges(json_object *list, FileRange **ret, size_t *ret_n) {
        size_t n = list ? json_object_array_length(list) : 0;
        *ret = calloc(n + 1, sizeof(**ret));
        if (!*ret)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                json_object *range = json_object_array_get_idx(list, i);
                (*ret)[i] = (FileRange) { json_object_get_uint64(json_object_array_get_idx(range, 0)),
                                          json_object_get_uint64(json_object_array_get_idx(range, 1)) };
        }
        *ret_n = n;
        return 0;
}

static int read_directed(RestorePart *p, json_object *list) {
        size_t n = json_object_array_length(list);
        p->directed = calloc(n + 1, sizeof(*p->directed));
        for (size_t i = 0; p->directed && i < n; i++) {
                json_object *row = json_object_array_get_idx(list, i);
                const char *path = json_object_get_string(json_object_array_get_idx(row, 0)),
                           *to = json_object_get_string(json_object_array_get_idx(row, 2));
                DirectedTarget *d = p->directed + p->n_directed++;
                *d = (DirectedTarget) { .target = -EBADF };
                if (!path || !to || !path_is_clean(path) || !path_is_clean(to) || streq(to, "/"))
                        return part_fail(p, CONDITION_VETOED, "its writer named a target that is no absolute path");
                if (path_unescape(path, &d->path) < 0 || path_unescape(to, &d->to) < 0 ||
                    read_ranges(json_object_array_get_idx(row, 1), &d->ranges, &d->n_ranges) < 0 ||
                    read_ranges(json_object_array_get_idx(row, 3), &d->to_ranges, &d->n_to_ranges) < 0)
                        return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        }
        return p->directed ? 0 : part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
}

static void read_reply(RestorePart *p, json_object *facts) {
        const char *error = member_text(facts, "error_name");
        int target = restore_target_from_string(member_text(facts, "target"));
        json_object *directed = member(facts, "directed_targets");
        p->uid = (uid_t) member_number(facts, "uid");
        json_object *takes_part = member(facts, "takes_part");
        p->takes_part = takes_part && json_object_get_boolean(takes_part);
        p->target = target < 0 ? RESTORE_TARGET_ORIGINAL : (RestoreTarget) target;
        if (member(facts, "message"))
                p->writer_message = strdup(member_text(facts, "message"));
        if (!isempty(error)) {
                p->refused = true;
                (void) part_fail(p, condition_from_name(error), "%s", member_text(facts, "error_message"));
        } else if (directed && p->target == RESTORE_TARGET_DIRECTED && p->work->n_to == 0 &&
                   read_directed(p, directed) < 0)
                p->refused = true;
        else if (member(facts, "added_files") && added_read(p, member(facts, "added_files")) < 0)
                p->refused = true;
}

int restore_begin(RestoreWork *w) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        _cleanup_(json_object_putp) json_object *answer = NULL;
        Context *c = w->context;
        int fd = -EBADF, r = bus_document_new("manifest", w->manifest_text, w->manifest_size, &fd);
        r = r < 0 ? r : context_connect(c);
        r = r < 0 ? r : requester_new_call(c->requester, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "PreRestore", &m);
        r = r < 0 ? r : sd_bus_message_append(m, "h", fd);
        (void) close_fd(fd);
        r = r < 0 ? r : append_parts(m, w);
        r = r < 0 ? r : sd_bus_message_append(m, "a{sv}", 1, "dry_run", "b", (int) c->dry_run);
        if (requester_check(c->requester, r) < 0 ||
            requester_call(c->requester, m, c->requester->long_usec, &reply) < 0 ||
            requester_check(c->requester, bus_to_json(reply, &answer)) < 0)
                return context_fail_requester(c);
        json_object *session = json_object_array_get_idx(answer, 0), *rows = json_object_array_get_idx(answer, 1);
        (void) snprintf(w->session, sizeof(w->session), "%s", session ? json_object_get_string(session) : "");
        for (size_t i = 0; rows && i < w->n_parts && i < json_object_array_length(rows); i++)
                read_reply(w->parts + i, json_object_array_get_idx(json_object_array_get_idx(rows, i), 2));
        return 0;
}

/* ---- what became of it ---- */

static int append_new_targets(sd_bus_message *m, const RestorePart *p) {
        int r = sd_bus_message_open_container(m, 'e', "sv");
        r = r < 0 ? r : sd_bus_message_append(m, "s", "new_targets");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'v', "a(ss)");
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "(ss)");
        for (size_t i = 0; r >= 0 && i < p->n_sets; i++) {
                _cleanup_free_ char *to = NULL;
                if (streq(p->sets[i].root, p->sets[i].to))
                        continue;
                r = path_escape(p->sets[i].to, &to);
                r = r < 0 ? r : sd_bus_message_append(m, "(ss)", p->sets[i].files->root, to);
        }
        for (int i = 0; r >= 0 && i < 3; i++)
                r = sd_bus_message_close_container(m);
        return r;
}

static int append_report(sd_bus_message *m, const RestorePart *p) {
        _cleanup_free_ char *words = strdup(p->message);
        if (!words)
                return -ENOMEM;
        text_clean(words);
        int r = sd_bus_message_open_container(m, 'r', "ssa{sv}");
        r = r < 0 ? r : sd_bus_message_append(m, "ss", p->reference, p->path);
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "{sv}");
        r = r < 0 ? r :
                    sd_bus_message_append(m, "{sv}{sv}", "status", "s", restore_status_to_string(p->status),
                                          "alternate_used", "b", (int) p->alternate_used);
        if (r >= 0 && words[0])
                r = sd_bus_message_append(m, "{sv}", "message", "s", words);
        r = r < 0 ? r : append_new_targets(m, p);
        r = r < 0 ? r : sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* What is said against the i-th component, or NULL. */
static const char *read_result(json_object *rows, size_t i, const char **ret_message) {
        json_object *row = rows && i < json_object_array_length(rows) ? json_object_array_get_idx(rows, i) : NULL;
        const char *name = row ? json_object_get_string(json_object_array_get_idx(row, 1)) : NULL,
                   *message = row ? json_object_get_string(json_object_array_get_idx(row, 2)) : NULL;
        *ret_message = message ? message : "";
        return isempty(name) ? NULL : name;
}

static void read_end(RestoreWork *w, json_object *rows) {
        for (size_t i = 0; i < w->n_parts; i++) {
                const char *message, *name = read_result(rows, i, &message);
                if (name && !w->parts[i].refused)
                        (void) failure_set(&w->parts[i].post, condition_from_name(name), "%s", message);
        }
}

static int call_end(RestoreWork *w, bool dry_run, json_object **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        Context *c = w->context;
        int r = requester_new_call(c->requester, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "PostRestore", &m);
        r = r < 0 ? r : sd_bus_message_append(m, "s", w->session);
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "(ssa{sv})");
        for (size_t i = 0; r >= 0 && i < w->n_parts; i++)
                r = append_report(m, w->parts + i);
        r = r < 0 ? r : sd_bus_message_close_container(m);
        r = r < 0 ? r : sd_bus_message_append(m, "a{sv}", 1, "dry_run", "b", (int) dry_run);
        if (requester_check(c->requester, r) < 0 ||
            requester_call(c->requester, m, c->requester->long_usec, &reply) < 0 ||
            requester_check(c->requester, bus_to_json(reply, ret)) < 0)
                return context_fail_requester(c);
        return 0;
}

static void refuse(RestorePart *p, Condition condition, const char *why) {
        if (p->refused)
                return;
        (void) part_fail(p, condition, "nothing was replaced: %.800s", why);
        p->refused = true;
}

/* Staging may take hours: a writer that died meanwhile has its files open again, and so has every one if vssd did. */
void restore_lives(RestoreWork *w) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        w->lost = call_end(w, true, &answer) < 0;
        json_object *rows = answer ? json_object_array_get_idx(answer, 0) : NULL;
        for (size_t i = 0; i < w->n_parts; i++) {
                const char *message, *name = read_result(rows, i, &message);
                if (w->lost)
                        refuse(w->parts + i, w->context->condition, w->context->error_message);
                else if (name)
                        refuse(w->parts + i, condition_from_name(name), message);
        }
}

int restore_end(RestoreWork *w) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        int r = call_end(w, false, &answer);
        if (r < 0)
                return failure_set(&w->end, w->context->condition, "%s", w->context->error_message);
        read_end(w, json_object_array_get_idx(answer, 0));
        return 0;
}
