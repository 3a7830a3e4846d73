/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The one strict JSON reader. json-c accepts duplicate keys, clamps numbers and spends a hash table per object, which
 * lets a document of 1 MiB cost 264 MiB; so documents of strangers are read straight from the text into structs, guided
 * by tables, and never become a tree. What is refused is named by its path, as in "components[2].files[0].root".
 *
 * Refused everywhere: more than the limit, depth over LIMIT_JSON_DEPTH, anything behind the document, a key given
 * twice, text that is not UTF-8, NUL in strings, control characters but in JSON_TEXT, numbers outside of what they are
 * read into.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <json-c/json.h>
#include <stdio.h>

/* A document that holds others, each as deep as it may be, is read with that many levels more. */
enum { JSON_DEPTH_AROUND = 3 };

typedef struct JsonReader {
        const char *text, *end, *at;
        Failure *failure; /* may be NULL */
        unsigned depth, depth_max;
        struct JsonStep {
                const char *key; /* NULL: element of an array */
                size_t length, index;
        } path[LIMIT_JSON_DEPTH + JSON_DEPTH_AROUND];
} JsonReader;

typedef enum JsonKind {
        JSON_STRING,  /* char *: at most max bytes (0: LIMIT_STRING_BYTES); owned by the struct */
        JSON_TEXT,    /* likewise, but may hold control characters (escaped in the document) */
        JSON_STRINGS, /* char **: NULL-terminated, at most max (0: LIMIT_LIST) */
        JSON_BOOL,    /* bool */
        JSON_UINT,    /* uint64_t up to max (0: INT64_MAX) */
        JSON_WORD,    /* an enum, by word() */
        JSON_RAW,     /* char *: the value's own text, checked for form only */
        JSON_CUSTOM,  /* read() */
        JSON_FREE,    /* anything well-formed; not kept */
} JsonKind;

typedef struct JsonField {
        const char *key;
        JsonKind kind;
        size_t offset;
        bool required; /* and not null; else absent and null leave the field as it is */
        uint64_t max;
        int (*word)(const char *s);
        int (*read)(JsonReader *r, void *field);
        bool (*check)(const char *s); /* of a JSON_STRING or of each of JSON_STRINGS */
        const char *expected;         /* for the message when check or word says no: "an absolute path" */
} JsonField;

void json_reader_init(JsonReader *r, const char *text, size_t size, Failure *reterr);
/* INVALID_DOCUMENT with the path of where the reader stands. */
int json_fail(JsonReader *r, const char *format, ...) _printf_(2, 3);
/* An object into target. tolerant: unknown keys are skipped, else refused. */
int json_read_object(JsonReader *r, const JsonField *fields, size_t n_fields, bool tolerant, void *target);
/* An array of structs, appended to *array; each element is zeroed, counted and then read, so its owner can free it
 * after a failure. */
int json_read_array(JsonReader *r, size_t max, size_t element_size, int (*read)(JsonReader *r, void *element),
                    void **array, size_t *n);
int json_read_string(JsonReader *r, size_t max, char **ret);
int json_read_bool(JsonReader *r, bool *ret);
int json_read_uint(JsonReader *r, uint64_t max, uint64_t *ret);
int json_skip(JsonReader *r);       /* any one value */
bool json_take_null(JsonReader *r); /* skips it if it is null */
int json_end(JsonReader *r);        /* nothing but white space may follow */

/* Text of that many bytes as a JSON string; what is not UTF-8 becomes U+FFFD. */
void json_write_string(FILE *f, const char *s, size_t size);

/* schema (must be 1), kind and requires (must be empty: we know no feature words yet) of a document; r is rewound
 * afterwards. */
int json_check_header(JsonReader *r, const char *kind);

/* A whole document as a json-c tree, after the same checks: for documents of our own making (records, answers). */
int json_tree_parse(const char *text, size_t size, size_t limit, Failure *reterr, json_object **ret);
static inline void json_object_putp(json_object **o) {
        if (*o)
                (void) json_object_put(*o);
}
/* Getters of such trees: the value if it is there and of that type, else the fallback. Strings are borrowed. */
const char *json_get_string(json_object *object, const char *key, const char *fallback);
bool json_get_bool(json_object *object, const char *key, bool fallback);
uint64_t json_get_uint(json_object *object, const char *key, uint64_t fallback);
json_object *json_get_array(json_object *object, const char *key);  /* NULL if it is none */
json_object *json_get_object(json_object *object, const char *key); /* likewise */

/* Builders of such trees. NULL strings become null; a NULL list an empty array. */
void json_add_string(json_object *object, const char *key, const char *s);
void json_add_uint(json_object *object, const char *key, uint64_t value);
void json_add_bool(json_object *object, const char *key, bool value);
void json_add_strings(json_object *object, const char *key, char *const *list);
/* Plain text of a tree, as it goes to disk and to the bus; the caller frees it. */
int json_to_text(json_object *object, char **ret);
