/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The selection: a JSON object whose members are options of create, and those of restore in one of its own. The tables
 * of these verbs are the schema, so there is no second list of what a set can be asked for.
 */
#include "client/test-backup.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <sys/stat.h>

/* Ours to say, or of no use in a test; and we save whole files. */
static const char *const not_of_create[] = { "manifest",      "no-writers",    "retry",
                                             "wait-for-turn", "auto-release",  "persistent",
                                             "exec",          "partial-files", NULL };
static const char *const not_of_restore[] = { "component",  "from",   "to",    "report",     "service",
                                              "no-service", "rename", "merge", "keep-extra", "device-nodes",
                                              "pending",    "cancel", NULL };

const Option *selection_option(const Verb *verb, const char *name) {
        for (size_t i = 0; i < ELEMENTSOF(verb->options); i++)
                for (const Option *o = verb->options[i]; o && o->name; o++)
                        if (streq(o->name, name))
                                return o;
        assert(false);
        return NULL;
}

static bool is_among(const char *const *names, const char *name) {
        while (*names && !streq(*names, name))
                names++;
        return *names;
}

static void part_init(SelectionPart *p, const Verb *verb, const char *const *without) {
        for (size_t i = 0; i < ELEMENTSOF(verb->options); i++)
                for (const Option *o = verb->options[i]; o && o->name; o++) {
                        if (is_among(without, o->name))
                                continue;
                        assert(p->n < SELECTION_KEYS_MAX);
                        struct SelectionValue *v = p->values + p->n++;
                        v->option = o;
                        (void) snprintf(v->key, sizeof(v->key), "%s", o->name);
                        for (char *q = v->key; *q; q++)
                                *q = *q == '-' ? '_' : *q;
                }
}

/* Fields of the part, as seen from the struct that holds it at offset. */
static size_t part_fields(const SelectionPart *p, size_t offset, JsonField *fields) {
        for (size_t i = 0; i < p->n; i++) {
                const struct SelectionValue *v = p->values + i;
                size_t at = offset + (size_t) ((const char *) v - (const char *) p);
                fields[i] = (JsonField) { .key = v->key };
                fields[i].kind = !v->option->value ? JSON_BOOL : v->option->many ? JSON_STRINGS : JSON_STRING;
                fields[i].offset = at + (!v->option->value ? offsetof(struct SelectionValue, flag) :
                                         v->option->many   ? offsetof(struct SelectionValue, list) :
                                                             offsetof(struct SelectionValue, text));
        }
        return p->n;
}

static int read_restore(JsonReader *r, void *field) {
        Selection *s = container_of(field, Selection, restore);
        JsonField fields[SELECTION_KEYS_MAX + 2];
        size_t n = part_fields(&s->restore, offsetof(Selection, restore), fields);
        fields[n++] = (JsonField) { "to", JSON_STRING, offsetof(Selection, to), .required = true };
        fields[n++] = (JsonField) { "compare", JSON_BOOL, offsetof(Selection, compare) };
        return json_read_object(r, fields, n, false, s);
}

static int parse(const char *text, size_t size, Failure *reterr, Selection *s) {
        JsonReader r;
        JsonField fields[SELECTION_KEYS_MAX + 5];
        size_t n = part_fields(&s->set, offsetof(Selection, set), fields);
        fields[n++] = (JsonField) { "schema", JSON_FREE, 0 };
        fields[n++] = (JsonField) { "kind", JSON_FREE, 0 };
        fields[n++] = (JsonField) { "requires", JSON_FREE, 0 };
        fields[n++] = (JsonField) { "volume", JSON_STRINGS, offsetof(Selection, volumes) };
        fields[n++] = (JsonField) { "restore", JSON_CUSTOM, offsetof(Selection, restore), .read = read_restore };
        json_reader_init(&r, text, size, reterr);
        int k = json_check_header(&r, "backup-test");
        k = k < 0 ? k : json_read_object(&r, fields, n, false, s);
        return k < 0 ? k : json_end(&r);
}

/* ---- values ---- */

static int check_value(Context *c, const char *file, const char *parent, const char *key, int index, const char *value,
                       ArgumentCheck check) {
        const char *takes = isempty(value) ? "must not be empty" : check ? check(value) : NULL;
        char at[24] = "";
        if (!takes)
                return 0;
        _cleanup_free_ char *shown = text_visible(value);
        if (index >= 0)
                (void) snprintf(at, sizeof(at), "[%d]", index);
        return context_fail(c, CONDITION_INVALID_DOCUMENT, "%.200s: %s%s%s: %s, not \"%.100s\"", file, parent, key, at,
                            takes, shown ? shown : "");
}

static int check_list(Context *c, const char *file, const char *parent, const char *key, char **list,
                      ArgumentCheck check) {
        int r = 0;
        for (int i = 0; r >= 0 && list && list[i]; i++)
                r = check_value(c, file, parent, key, i, list[i], check);
        return r;
}

static int check_part(Context *c, const char *file, const char *parent, const SelectionPart *p) {
        int r = 0;
        for (size_t i = 0; r >= 0 && i < p->n; i++) {
                const struct SelectionValue *v = p->values + i;
                if (v->text)
                        r = check_value(c, file, parent, v->key, -1, v->text, v->option->check);
                if (r >= 0)
                        r = check_list(c, file, parent, v->key, v->list, v->option->check);
        }
        return r;
}

static int check_all(Context *c, const char *file, const Selection *s) {
        int r = check_list(c, file, "", "volume", s->volumes, check_volume);
        r = r < 0 ? r : check_part(c, file, "", &s->set);
        r = r < 0 ? r : check_part(c, file, "restore.", &s->restore);
        return r < 0 || !s->to ? r : check_value(c, file, "restore.", "to", -1, s->to, NULL);
}

/* ---- the file ---- */

static int read_file(Context *c, const char *path, char *text, size_t *ret_size) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        struct stat st;
        size_t done = 0;
        if (fd < 0 || fstat(fd, &st) < 0)
                return context_fail(c,
                                    errno == ENOENT ? CONDITION_NOT_FOUND :
                                    errno == EACCES ? CONDITION_NOT_AUTHORIZED :
                                                      CONDITION_FAILED,
                                    "cannot read the selection %.300s: %s", path, strerror(errno));
        if (!S_ISREG(st.st_mode) || st.st_size > SELECTION_BYTES_MAX)
                return context_fail(c, CONDITION_INVALID_DOCUMENT,
                                    "%.300s is no selection: not a file of at most %d bytes", path,
                                    SELECTION_BYTES_MAX);
        while (done < (size_t) st.st_size) {
                ssize_t n = read(fd, text + done, (size_t) st.st_size - done);
                if (n < 0)
                        return context_fail(c, CONDITION_FAILED, "cannot read the selection %.300s: %s", path,
                                            strerror(errno));
                if (n == 0)
                        break;
                done += (size_t) n;
        }
        *ret_size = done;
        return 0;
}

int selection_parse(Context *c, const char *file, const char *text, size_t size, Selection *ret) {
        Failure f = {};
        part_init(&ret->set, &verb_create, not_of_create);
        part_init(&ret->restore, &verb_restore, not_of_restore);
        ret->compare = true;
        if (parse(text, size, &f, ret) < 0)
                return context_fail(c, f.condition, "%.200s: %s", file, f.message);
        return check_all(c, file, ret);
}

int selection_read(Context *c, const char *path, Selection *ret) {
        _cleanup_free_ char *text = malloc(SELECTION_BYTES_MAX);
        size_t size = 0;
        if (!text)
                return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
        int r = read_file(c, path, text, &size);
        return r < 0 ? r : selection_parse(c, path, text, size, ret);
}

static void part_done(SelectionPart *p) {
        for (size_t i = 0; i < p->n; i++) {
                free(p->values[i].text);
                p->values[i].list = strings_free(p->values[i].list);
        }
}

void selection_done(Selection *s) {
        part_done(&s->set);
        part_done(&s->restore);
        s->volumes = strings_free(s->volumes);
        free(s->to);
}

/* ---- as options ---- */

size_t selection_count(const SelectionPart *p) {
        size_t n = 0;
        for (size_t i = 0; i < p->n; i++) {
                n += p->values[i].flag + (p->values[i].text != NULL);
                for (size_t k = 0; p->values[i].list && p->values[i].list[k]; k++)
                        n++;
        }
        return n;
}

void selection_give(const SelectionPart *p, Given *given, size_t *n) {
        for (size_t i = 0; i < p->n; i++) {
                const struct SelectionValue *v = p->values + i;
                if (v->flag || v->text)
                        given[(*n)++] = (Given) { v->option, v->text };
                for (size_t k = 0; v->list && v->list[k]; k++)
                        given[(*n)++] = (Given) { v->option, v->list[k] };
        }
}
