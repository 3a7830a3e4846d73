/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that a writer adds to what is restored: words for the application's next start, as the point up to which a
 * database replays its log. They are staged and swapped with the rest. Written afterwards they would come too late if
 * the power goes in between: the application starts at the next boot as if nobody had told it anything. What a writer
 * answers is its word, so paths stay below the directories of its component, and its account's rights are enough.
 */
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>

static AddedHow how_from(const char *word) {
        return streq_null(word, "replace") ? ADDED_REPLACE :
               streq_null(word, "append")  ? ADDED_APPEND :
               streq_null(word, "absent")  ? ADDED_ABSENT :
                                             _ADDED_HOW_MAX;
}

int added_read(RestorePart *p, json_object *list) {
        size_t n = json_object_array_length(list), bytes = 0;
        if (n > RESTORE_ADDED_MAX)
                return part_fail(p, CONDITION_VETOED, "its writer adds more than %d files", RESTORE_ADDED_MAX);
        p->added = calloc(n + 1, sizeof(*p->added));
        for (size_t i = 0; p->added && i < n; i++) {
                json_object *row = json_object_array_get_idx(list, i);
                const char *path = json_object_get_string(json_object_array_get_idx(row, 0)),
                           *text = json_object_get_string(json_object_array_get_idx(row, 2));
                AddedFile *a = p->added + p->n_added++;
                a->how = how_from(json_object_get_string(json_object_array_get_idx(row, 1)));
                if (!path || !path_is_clean(path) || a->how == _ADDED_HOW_MAX || !text)
                        return part_fail(p, CONDITION_VETOED,
                                         "its writer adds a file that is no absolute path with a text");
                bytes += strlen(text);
                if (bytes > RESTORE_ADDED_BYTES)
                        return part_fail(p, CONDITION_VETOED, "its writer adds more than %d bytes",
                                         RESTORE_ADDED_BYTES);
                a->text = strdup(text);
                if (!a->text || path_unescape(path, &a->path) < 0)
                        return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        }
        return p->added ? 0 : part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
}

void added_done(RestorePart *p) {
        for (size_t i = 0; i < p->n_added; i++) {
                free(p->added[i].path);
                free(p->added[i].text);
        }
        free(p->added);
}

/* The path below the root of the set, or NULL: not below it. */
static const char *below(const RestoreSet *s, const char *path) {
        size_t n = streq(s->root, "/") ? 0 : strlen(s->root);
        return strncmp(path, s->root, n) == 0 && path[n] == '/' && path[n + 1] ? path + n + 1 : NULL;
}

/* The set with the deepest root that holds it; n_sets: none does. */
static size_t set_of(const RestorePart *p, const char *path) {
        size_t best = p->n_sets;
        for (size_t i = 0; i < p->n_sets; i++)
                if (below(p->sets + i, path) &&
                    (best == p->n_sets || strlen(p->sets[i].root) > strlen(p->sets[best].root)))
                        best = i;
        return best;
}

static RestoreItem *item_of(const RestorePart *p, size_t set, const char *path) {
        for (size_t i = 0; i < p->n_items; i++)
                if (p->items[i].set == set && streq(p->items[i].path, path))
                        return p->items + i;
        return NULL;
}

static void remove_item(RestorePart *p, RestoreItem *i) {
        size_t after = (size_t) (p->items + p->n_items - i) - 1;
        free(i->path);
        free(i->message);
        memmove(i, i + 1, after * sizeof(*i));
        p->n_items--;
}

static int add_item(RestorePart *p, size_t set, const char *path, const AddedFile *a) {
        RestoreItem *grown = reallocarray(p->items, p->n_items + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        p->items = grown;
        p->allocated = p->n_items + 1;
        char *copy = strdup(path);
        if (!copy)
                return -ENOMEM;
        p->items[p->n_items++] = (RestoreItem) { .set = set,
                                                 .path = copy,
                                                 .mode = S_IFREG | 0600,
                                                 .size = strlen(a->text),
                                                 .added = a,
                                                 .only_added = true };
        return 0;
}

static int apply(RestorePart *p, const AddedFile *a) {
        size_t set = set_of(p, a->path);
        if (set == p->n_sets)
                return part_fail(p, CONDITION_VETOED, "its writer adds %.300s, which is in no directory of it",
                                 a->path);
        const char *path = below(p->sets + set, a->path);
        RestoreItem *i = item_of(p, set, path);
        if (i && S_ISDIR(i->mode))
                return part_fail(p, CONDITION_VETOED, "its writer adds %.300s, which is a directory in the backup",
                                 a->path);
        if (i && a->how == ADDED_APPEND && !S_ISREG(i->mode))
                return part_fail(p, CONDITION_VETOED, "its writer adds to %.300s, which is no file in the backup",
                                 a->path);
        if (i && a->how == ADDED_APPEND) {
                i->added = a;
                return 0;
        }
        if (i)
                remove_item(p, i);
        if (a->how == ADDED_ABSENT)
                return 0;
        return add_item(p, set, path, a) < 0 ? part_fail(p, CONDITION_LIMIT_REACHED, "out of memory") : 0;
}

int added_apply(RestorePart *p) {
        int r = 0;
        for (size_t i = 0; r >= 0 && p->n_sets > 0 && i < p->n_added; i++)
                r = apply(p, p->added + i);
        return r;
}

int added_stage(RestorePart *p, RestoreItem *i) {
        const RestoreSet *s = p->sets + i->set;
        _cleanup_close_ int to = open_parent(s->target, i->path);
        if (to < 0)
                return to;
        if (i->only_added) {
                _cleanup_close_ int like = sources_open_directory(p, s, "");
                int r = like < 0 ? like : file_stage_new(to, base_name(i->path), like, &i->staged);
                if (r < 0)
                        return r;
        }
        int r = file_stage_text(to, &i->staged, i->added->text);
        if (r < 0)
                file_unstage(to, &i->staged);
        return r;
}
