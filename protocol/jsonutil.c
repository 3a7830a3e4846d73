/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "protocol/jsonlex.h"
#include "protocol/text.h"

typedef struct ArrayTarget {
        void **array;
        size_t *n, element_size;
        int (*read)(JsonReader *r, void *element);
} ArrayTarget;

static int array_element(JsonReader *r, void *userdata) {
        ArrayTarget *t = userdata;
        if ((*t->n & (*t->n - 1)) == 0) {
                void *bigger = reallocarray(*t->array, *t->n ? 2 * *t->n : 1, t->element_size);
                if (!bigger)
                        return json_out_of_memory(r);
                *t->array = bigger;
        }
        char *element = (char *) *t->array + *t->n * t->element_size;
        memset(element, 0, t->element_size);
        ++*t->n;
        return t->read(r, element);
}

int json_read_array(JsonReader *r, size_t max, size_t element_size, int (*read)(JsonReader *r, void *element),
                    void **array, size_t *n) {
        assert(element_size > 0 && read && array && n && *n == 0);
        return json_array_each(r, max, array_element, &(ArrayTarget) { array, n, element_size, read });
}

typedef struct StringsTarget {
        const JsonField *field;
        char **list;
        size_t n;
} StringsTarget;

static int check_string(JsonReader *r, const JsonField *f, const char *s) {
        if (!f->check || f->check(s))
                return 0;
        return json_fail(r, "\"%.80s\" is not %s", s, f->expected);
}

static int strings_element(JsonReader *r, void *userdata) {
        StringsTarget *t = userdata;
        char *s = NULL, **bigger = t->list;
        int k = json_read_string(r, LIMIT_STRING_BYTES, &s);
        if (k < 0)
                return k;
        if (t->n > 0 && (t->n & (t->n - 1)) == 0)
                bigger = reallocarray(t->list, 2 * t->n + 1, sizeof *bigger);
        if (!bigger) {
                free(s);
                return json_out_of_memory(r);
        }
        t->list = bigger;
        t->list[t->n++] = s;
        t->list[t->n] = NULL;
        return check_string(r, t->field, s);
}

static int read_strings(JsonReader *r, const JsonField *f, char ***field) {
        StringsTarget t = { .field = f, .list = calloc(2, sizeof *t.list) };
        if (!t.list)
                return json_out_of_memory(r);
        int k = json_array_each(r, f->max ? f->max : LIMIT_LIST, strings_element, &t);
        if (k < 0) {
                strings_free(t.list);
                return k;
        }
        strings_free(*field);
        *field = t.list;
        return 0;
}

static int read_string_field(JsonReader *r, const JsonField *f, char **field) {
        _cleanup_free_ char *s = NULL;
        int k = json_read_text(r, f->max ? f->max : LIMIT_STRING_BYTES, f->kind == JSON_TEXT, &s);
        if (k >= 0)
                k = check_string(r, f, s);
        if (k < 0)
                return k;
        free(*field);
        *field = TAKE_PTR(s);
        return 0;
}

static int read_word(JsonReader *r, const JsonField *f, int *field) {
        _cleanup_free_ char *s = NULL;
        int k = json_read_string(r, LIMIT_STRING_BYTES, &s);
        if (k < 0)
                return k;
        int value = f->word(s);
        if (value < 0)
                return json_fail(r, "\"%.80s\" is not %s", s, f->expected);
        *field = value;
        return 0;
}

static int read_raw(JsonReader *r, char **field) {
        (void) json_look(r);
        const char *start = r->at;
        int k = json_skip(r);
        if (k < 0)
                return k;
        char *text = strndup(start, (size_t) (r->at - start));
        if (!text)
                return json_out_of_memory(r);
        free(*field);
        *field = text;
        return 0;
}

static int read_field(JsonReader *r, const JsonField *f, void *field) {
        if (!f->required && f->kind != JSON_FREE && json_take_null(r))
                return 0;
        switch (f->kind) {
        case JSON_STRING:
        case JSON_TEXT:
                return read_string_field(r, f, field);
        case JSON_STRINGS:
                return read_strings(r, f, field);
        case JSON_BOOL:
                return json_read_bool(r, field);
        case JSON_UINT:
                return json_read_uint(r, f->max ? f->max : INT64_MAX, field);
        case JSON_WORD:
                return read_word(r, f, field);
        case JSON_RAW:
                return read_raw(r, field);
        case JSON_CUSTOM:
                return f->read(r, field);
        case JSON_FREE:
                break;
        }
        return json_skip(r);
}

typedef struct ObjectTarget {
        const JsonField *fields;
        size_t n_fields;
        bool tolerant;
        void *target;
        uint64_t seen;
        JsonKeys unknown;
} ObjectTarget;

static int object_member(JsonReader *r, JsonKey *key, void *userdata) {
        ObjectTarget *t = userdata;
        size_t i = 0;
        while (i < t->n_fields &&
               (strlen(t->fields[i].key) != key->length || memcmp(t->fields[i].key, key->s, key->length) != 0))
                i++;
        if (i == t->n_fields)
                return t->tolerant ? json_skip_member(r, key, &t->unknown) : json_fail(r, "this key is not known here");
        if (t->seen & 1ULL << i)
                return json_fail(r, "this key is given twice");
        t->seen |= 1ULL << i;
        return read_field(r, t->fields + i, (char *) t->target + t->fields[i].offset);
}

int json_read_object(JsonReader *r, const JsonField *fields, size_t n_fields, bool tolerant, void *target) {
        assert(n_fields <= 64);
        ObjectTarget t = { .fields = fields, .n_fields = n_fields, .tolerant = tolerant, .target = target };
        int k = json_object_each(r, object_member, &t);
        if (k >= 0)
                k = json_keys_check(r, &t.unknown);
        json_keys_done(&t.unknown);
        for (size_t i = 0; k >= 0 && i < n_fields; i++)
                if (fields[i].required && !(t.seen & 1ULL << i))
                        k = json_fail(r, "key \"%s\" is missing", fields[i].key);
        return k;
}

typedef struct Header {
        uint64_t schema;
        char *kind, **requires;
} Header;

static void header_done(Header *h) {
        free(h->kind);
        strings_free(h->requires);
}

int json_check_header(JsonReader *r, const char *kind) {
        static const JsonField fields[] = {
                { "schema", JSON_UINT, offsetof(Header, schema), .required = true },
                { "kind", JSON_STRING, offsetof(Header, kind), .required = true },
                { "requires", JSON_STRINGS, offsetof(Header, requires) },
        };
        _cleanup_(header_done) Header h = { 0 };
        JsonReader again = *r;
        int k = json_read_object(&again, fields, ELEMENTSOF(fields), true, &h);
        if (k >= 0)
                k = json_end(&again);
        if (k < 0)
                return k;
        if (h.schema != 1)
                return json_fail(r, "schema %llu is not known here, only 1", (unsigned long long) h.schema);
        if (!streq(h.kind, kind))
                return json_fail(r, "kind is \"%.80s\", not \"%s\"", h.kind, kind);
        if (h.requires && h.requires[0])
                return json_fail(r, "requires \"%.80s\", which is not known here", h.requires[0]);
        return 0;
}

void json_write_string(FILE *f, const char *s, size_t size) {
        fputc('"', f);
        for (const char *end = s + size; s < end;) {
                size_t n = utf8_length(s, (size_t) (end - s));
                unsigned char c = (unsigned char) *s;
                if (n == 0)
                        fputs("\\ufffd", f);
                else if (c == '"' || c == '\\')
                        fprintf(f, "\\%c", c);
                else if (c < 0x20 || c == 0x7f)
                        fprintf(f, "\\u%04x", c);
                else
                        fwrite(s, 1, n, f);
                s += n ? n : 1;
        }
        fputc('"', f);
}

int json_tree_parse(const char *text, size_t size, size_t limit, Failure *reterr, json_object **ret) {
        JsonReader r;
        assert(ret);
        json_reader_init(&r, text, size, reterr);
        if (size > limit || size > INT32_MAX)
                return json_fail(&r, "larger than %zu bytes", limit);
        int k = json_look(&r) == '{' ? json_skip(&r) : json_fail(&r, "an object expected");
        if (k >= 0)
                k = json_end(&r);
        if (k < 0)
                return k;
        while (size > 0 && strchr(" \t\r\n", text[size - 1]))
                size--;
        json_tokener *tokener = json_tokener_new_ex(LIMIT_JSON_DEPTH + 2);
        if (!tokener)
                return json_out_of_memory(&r);
        json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
        json_object *tree = json_tokener_parse_ex(tokener, text, (int) size);
        enum json_tokener_error error = json_tokener_get_error(tokener);
        json_tokener_free(tokener);
        if (!tree)
                return json_fail(&r, "%s", error == json_tokener_success ? "null" : json_tokener_error_desc(error));
        *ret = tree;
        return 0;
}

static json_object *member_of(json_object *object, const char *key, json_type type) {
        json_object *value;
        if (!json_object_is_type(object, json_type_object) || !json_object_object_get_ex(object, key, &value))
                return NULL;
        return json_object_is_type(value, type) ? value : NULL;
}

const char *json_get_string(json_object *object, const char *key, const char *fallback) {
        json_object *value = member_of(object, key, json_type_string);
        return value ? json_object_get_string(value) : fallback;
}

bool json_get_bool(json_object *object, const char *key, bool fallback) {
        json_object *value = member_of(object, key, json_type_boolean);
        return value ? json_object_get_boolean(value) : fallback;
}

uint64_t json_get_uint(json_object *object, const char *key, uint64_t fallback) {
        json_object *value = member_of(object, key, json_type_int);
        if (!value || json_object_get_string(value)[0] == '-')
                return fallback;
        return json_object_get_uint64(value);
}

json_object *json_get_array(json_object *object, const char *key) {
        return member_of(object, key, json_type_array);
}

json_object *json_get_object(json_object *object, const char *key) {
        return member_of(object, key, json_type_object);
}

void json_add_string(json_object *object, const char *key, const char *s) {
        (void) json_object_object_add(object, key, s ? json_object_new_string(s) : NULL);
}

void json_add_uint(json_object *object, const char *key, uint64_t value) {
        (void) json_object_object_add(object, key, json_object_new_uint64(value));
}

void json_add_bool(json_object *object, const char *key, bool value) {
        (void) json_object_object_add(object, key, json_object_new_boolean(value));
}

void json_add_strings(json_object *object, const char *key, char *const *list) {
        json_object *a = json_object_new_array();
        for (size_t i = 0; list && list[i]; i++)
                (void) json_object_array_add(a, json_object_new_string(list[i]));
        (void) json_object_object_add(object, key, a);
}

int json_to_text(json_object *object, char **ret) {
        const char *text = json_object_to_json_string_ext(object,
                                                          JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
        char *copy = text ? strdup(text) : NULL;
        if (!copy)
                return -ENOMEM;
        *ret = copy;
        return 0;
}
