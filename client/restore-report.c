/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --report: the manifest once more, with what became of each component under `restore`. What is restored next, an
 * increment or a part that was left out, is then told from the file and not from memory.
 */
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>

static void add_pair(json_object *list, const char *from, const char *to) {
        _cleanup_free_ char *shown_from = NULL, *shown_to = NULL;
        json_object *pair = json_object_new_array();
        if (!pair || path_escape(from, &shown_from) < 0 || path_escape(to, &shown_to) < 0) {
                (void) json_object_put(pair);
                return;
        }
        (void) json_object_array_add(pair, json_object_new_string(shown_from));
        (void) json_object_array_add(pair, json_object_new_string(shown_to));
        (void) json_object_array_add(list, pair);
}

static void add_failure(json_object *list, const char *event, Condition c, const char *message) {
        if (c == CONDITION_NONE)
                return;
        _cleanup_free_ char *words = text_visible(message);
        json_object *row = json_object_new_object();
        json_add_string(row, "event", event);
        json_add_string(row, "error", condition_name(c));
        json_add_string(row, "message", words);
        (void) json_object_array_add(list, row);
}

/* The keys of interfaces 5.2, and the path that was asked for: it may be a part of the component. */
static json_object *describe(const RestorePart *p) {
        json_object *o = json_object_new_object(), *targets = json_object_new_array(),
                    *directed = json_object_new_array(), *failures = json_object_new_array();
        for (size_t i = 0; i < p->n_sets; i++)
                if (!streq(p->sets[i].root, p->sets[i].to))
                        add_pair(targets, p->sets[i].root, p->sets[i].to);
        for (size_t i = 0; i < p->n_directed; i++)
                add_pair(directed, p->directed[i].path, p->directed[i].to);
        add_failure(failures, "restore", p->condition, p->message);
        add_failure(failures, "post-restore", p->post.condition, p->post.message);
        json_add_string(o, "path", p->path);
        json_add_string(o, "target", restore_target_to_string(p->target));
        json_add_bool(o, "alternate_used", p->alternate_used);
        (void) json_object_object_add(o, "new_targets", targets);
        (void) json_object_object_add(o, "directed", directed);
        json_add_string(o, "status", restore_status_to_string(p->status));
        json_add_bool(o, "by_writer", p->by_writer);
        json_add_string(o, "plan", p->plan[0] ? p->plan : NULL);
        json_add_bool(o, "more_follows", p->wishes.more_follows);
        json_add_string(o, "until", p->wishes.until);
        json_add_string(o, "rename", p->wishes.rename);
        json_add_bool(o, "authoritative", p->wishes.authoritative);
        (void) json_object_object_add(o, "failures", failures);
        return o;
}

/* One entry per component of the manifest; a part of one that was asked for as well stands behind it, as it was done.
 */
static int fill(RestoreWork *w) {
        for (size_t i = 0; i < w->n_parts; i++) {
                _cleanup_(json_object_putp) json_object *o = describe(w->parts + i);
                ManifestComponent *c = (ManifestComponent *) w->parts[i].component; /* of w->manifest */
                free(c->restore);
                c->restore = NULL;
                if (!o || json_to_text(o, &c->restore) < 0)
                        return -ENOMEM;
        }
        return 0;
}

/* The new name is on the disk, too. */
static int sync_directory(const char *path) {
        _cleanup_free_ char *copy = strdup(path);
        if (!copy)
                return -ENOMEM;
        _cleanup_close_ int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int save(const char *path, const char *text) {
        _cleanup_free_ char *temporary = NULL;
        if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
                return -ENOMEM;
        _cleanup_close_ int fd = mkostemp(temporary, O_CLOEXEC);
        if (fd < 0)
                return -errno;
        int r = 0;
        for (size_t done = 0, size = strlen(text); r >= 0 && done < size;) {
                ssize_t n = write(fd, text + done, size - done);
                r = n < 0 && errno != EINTR ? -errno : 0;
                done += (size_t) MAX_OF(n, (ssize_t) 0);
        }
        if (r >= 0 && (fsync(fd) < 0 || rename(temporary, path) < 0))
                r = -errno;
        if (r < 0)
                (void) unlink(temporary);
        return r < 0 ? r : sync_directory(path);
}

int restore_save_report(RestoreWork *w) {
        const char *path = given_value(w->context, "report");
        _cleanup_free_ char *text = NULL;
        if (!path || w->context->dry_run)
                return 0;
        int r = fill(w);
        r = r < 0 ? r : manifest_format(&w->manifest, &text);
        if (r >= 0 && strlen(text) > LIMIT_MANIFEST_BYTES) /* nobody would read it again */
                return context_fail(w->context, CONDITION_LIMIT_REACHED,
                                    "the restore is over, but its report for %s would be larger than the %d MiB of a "
                                    "manifest: restore fewer components at a time",
                                    path, LIMIT_MANIFEST_BYTES >> 20);
        r = r < 0 ? r : save(path, text);
        return r < 0 ? context_fail(w->context, CONDITION_FAILED,
                                    "the restore is over, but its report cannot be written to %s: %s", path,
                                    strerror(-r)) :
                       0;
}
