/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An explicit component of a backup can always be restored by itself. What was taken with it only if its document says
 * so, because an application may be unable to live with a part that is older than the rest. What the document said when
 * the backup was made counts, not what the application says today.
 */
#include "protocol/restore.h"
#include "protocol/text.h"
#include <stdio.h>
#include <strings.h>

DEFINE_WORDS(restore_method, RestoreMethod, _RESTORE_METHOD_MAX, "if-not-there", "if-can-replace", "stop-restore-start",
             "alternate", "at-reboot", "at-reboot-if-busy", "custom", "restore-stop-start");
DEFINE_WORDS(restore_target, RestoreTarget, _RESTORE_TARGET_MAX, "original", "alternate", "directed",
             "original-location");
DEFINE_WORDS(restore_status, RestoreStatus, _RESTORE_STATUS_MAX, "none", "all", "failed");
DEFINE_WORDS(restore_events, RestoreEvents, _RESTORE_EVENTS_MAX, "never", "if-replace-fails", "always");

void restore_wishes_done(RestoreWishes *w) {
        free(w->to);
        free(w->rename);
        free(w->instance);
        free(w->until);
        free(w->options);
        *w = (RestoreWishes) {};
}

static bool writer_is(const ManifestWriter *w, const char *reference) {
        size_t n = strlen(w->name);
        if (strncmp(reference, w->name, n) != 0)
                return false;
        return reference[n] == '\0' || (reference[n] == '@' && streq(reference + n + 1, w->instance));
}

int restore_find_writer(const Manifest *m, const char *reference, Failure *reterr, const ManifestWriter **ret) {
        const ManifestWriter *found = NULL;
        assert(m && reference && ret);
        for (size_t i = 0; i < m->n_writers; i++) {
                const ManifestWriter *w = m->writers + i;
                if (!writer_is(w, reference))
                        continue;
                if (!found || (!strchr(reference, '@') && w->instance[0] == '\0'))
                        found = w;
                else if (!strchr(reference, '@') && found->instance[0])
                        return failure_set(reterr, CONDITION_AMBIGUOUS,
                                           "the backup holds several writers %s: say which, as %s@%s", reference,
                                           reference, w->instance);
        }
        if (!found)
                return failure_set(reterr, CONDITION_NOT_FOUND, "the backup holds nothing of writer %s", reference);
        *ret = found;
        return 0;
}

/* By the first n bytes of a path. */
static const Component *saved_component(const Metadata *saved, const char *path, size_t n) {
        const PathEntry *e = path_entries_find(saved->by_path, saved->n_components, path, n);
        return e ? saved->components + e->index : NULL;
}

static const ManifestComponent *held_component(const ManifestWriter *w, const char *path, size_t n) {
        const PathEntry *e = w->by_path ? path_entries_find(w->by_path, w->n_components, path, n) : NULL;
        return e ? w->components + e->index : NULL;
}

/*
 * The explicit component nearest to path, itself included: from the top down, the last one that the backup holds. Below
 * a selectable one that it holds everything is only a part of that, listed or not.
 */
static const ManifestComponent *nearest_explicit(const ManifestWriter *w, const Metadata *saved, const char *path) {
        const ManifestComponent *nearest = NULL;
        for (const char *end = path;; end++) {
                end = strchrnul(end, '/');
                size_t n = (size_t) (end - path);
                const ManifestComponent *held = held_component(w, path, n);
                const Component *c = held ? saved_component(saved, path, n) : NULL;
                nearest = held ? held : nearest;
                if (*end == '\0' || (c && c->selectable))
                        return nearest;
        }
}

/* As it was listed: a writer of an account that the name does not belong to is UID:NAME. */
static const char *own_name(const ManifestWriter *w) {
        size_t digits = strspn(w->name, "0123456789");
        return digits > 0 && w->name[digits] == ':' ? w->name + digits + 1 : w->name;
}

int restore_read_document(const ManifestWriter *w, Failure *reterr, Metadata **ret) {
        _cleanup_(metadata_freep) Metadata *saved = NULL;
        Failure f = {};
        if (!w->metadata_text)
                return failure_set(reterr, CONDITION_INVALID_DOCUMENT, "the manifest lacks the document of writer %s",
                                   w->name);
        int r = metadata_parse(w->metadata_text, strlen(w->metadata_text), reterr, &saved);
        if (r >= 0 && metadata_check_identity(saved, own_name(w), w->instance, &f) < 0)
                r = failure_set(reterr, CONDITION_INVALID_DOCUMENT,
                                "the manifest has the document of another writer for %s: %.300s", w->name, f.message);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(saved);
        return 0;
}

int restore_find_component(const ManifestWriter *w, const Metadata *saved, const char *path, Failure *reterr,
                           const ManifestComponent **ret) {
        const ManifestComponent *nearest = nearest_explicit(w, saved, path);
        const Component *c = saved_component(saved, path, strlen(path));
        assert(ret);
        if (!nearest || !c)
                return failure_set(reterr, CONDITION_NOT_FOUND, "the backup holds no component %s:%s", w->name, path);
        if (!streq(nearest->path, path) && !c->selectable_for_restore)
                return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                   "%s:%s cannot be restored by itself: it was backed up with %s, restore that",
                                   w->name, path, nearest->path);
        *ret = nearest;
        return 0;
}

bool restore_includes(const ManifestWriter *w, const Metadata *saved, const char *path, size_t i) {
        const char *own = saved->components[i].path;
        assert(i < saved->n_components);
        if (streq(own, path))
                return true;
        /* one that was backed up explicitly below it has an entry of its own */
        return component_path_is_below(own, path) &&
               nearest_explicit(w, saved, own) == nearest_explicit(w, saved, path);
}

bool restore_supports(const Metadata *saved, const char *schema_word) {
        return strings_contain(saved->backup_schema, schema_word);
}

int restore_check_wishes(const Metadata *saved, const char *what, const RestoreWishes *w, Failure *reterr) {
        const struct {
                bool wanted;
                const char *word, *wish;
        } table[] = {
                { !isempty(w->to), "new-target", "a new target" },
                { !isempty(w->rename), "rename", "another name" },
                { !isempty(w->instance) && !streq(w->instance, saved->instance), "move", "another instance" },
                { !isempty(w->until), "roll-forward", "going forward to a point" },
                { w->authoritative, "authoritative", "an authoritative restore" },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                if (table[i].wanted && !restore_supports(saved, table[i].word))
                        return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                           "%s: writer %s does not support %s (its document lacks %s)", what,
                                           saved->name, table[i].wish, table[i].word);
        return isempty(w->options) ? 0 : restore_options_check(w->options, reterr);
}

RestoreMethod restore_method_of(const Metadata *saved) {
        int method = saved->restore_method ? restore_method_from_string(saved->restore_method) : -EINVAL;
        return method < 0 ? RESTORE_IF_CAN_REPLACE : (RestoreMethod) method;
}

RestoreEvents restore_events_of(const Metadata *saved) {
        int events = saved->restore_writer_events ? restore_events_from_string(saved->restore_writer_events) : -EINVAL;
        return events < 0 ? RESTORE_EVENTS_ALWAYS : (RestoreEvents) events;
}

/* ---- the grammar of options ---- */

/* "…" at *at, with \" and \\ inside; *at moves behind it. */
static int take_quoted(const char **at, char **ret) {
        const char *p = *at;
        char *text, *end;
        if (*p++ != '"')
                return -EINVAL;
        text = end = malloc(strlen(p) + 1);
        if (!text)
                return -ENOMEM;
        for (; *p && *p != '"'; p++) {
                if (*p == '\\' && (p[1] == '"' || p[1] == '\\'))
                        p++;
                *end++ = *p;
        }
        *end = '\0';
        if (*p != '"') {
                free(text);
                return -EINVAL;
        }
        *at = p + 1;
        *ret = text;
        return 0;
}

typedef struct OptionText {
        char *part, *name, *value;
} OptionText;

static void option_text_done(OptionText *o) {
        free(o->part);
        free(o->name);
        free(o->value);
}

static int take_option(const char **at, OptionText *o) {
        int r = take_quoted(at, &o->part);
        if (r >= 0)
                r = *(*at)++ == ':' ? take_quoted(at, &o->name) : -EINVAL;
        if (r >= 0)
                r = *(*at)++ == '=' ? take_quoted(at, &o->value) : -EINVAL;
        if (r >= 0 && **at == ',')
                (*at)++;
        else if (r >= 0 && **at)
                r = -EINVAL;
        return r;
}

int restore_options_check(const char *text, Failure *reterr) {
        const char *at = text;
        size_t n = 0;
        do {
                _cleanup_(option_text_done) OptionText o = {};
                size_t begin = (size_t) (at - text);
                int r = take_option(&at, &o);
                if (r == -ENOMEM)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "out of memory");
                if (r < 0 || !o.name[0] || (o.part[0] && !component_path_is_valid(o.part)))
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                           "options: \"PART\":\"NAME\"=\"VALUE\",… expected at byte %zu", begin + 1);
                if (++n > LIMIT_LIST)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "options: more than %d", LIMIT_LIST);
        } while (*at);
        return 0;
}

static bool part_holds(const char *option, const char *part) {
        return option[0] == '\0' || streq(option, part) || component_path_is_below(part, option);
}

int restore_options_find(const char *text, const char *part, const char *name, char **ret) {
        _cleanup_free_ char *best = NULL;
        size_t best_length = 0;
        assert(text && part && name && ret);
        for (const char *at = text; *at;) {
                _cleanup_(option_text_done) OptionText o = {};
                int r = take_option(&at, &o);
                if (r < 0)
                        return r;
                if (strcasecmp(o.name, name) != 0 || !part_holds(o.part, part))
                        continue;
                if (best && strlen(o.part) < best_length)
                        continue;
                best_length = strlen(o.part);
                free(best);
                best = TAKE_PTR(o.value);
        }
        if (!best)
                return -ENXIO;
        *ret = TAKE_PTR(best);
        return 0;
}
