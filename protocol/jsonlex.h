/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* The parts of the JSON reader that jsonutil.c builds on; nobody else includes this. */
#include "protocol/jsonutil.h"

/* A key as it stands in the text, or decoded and owned if it has escapes. */
typedef struct JsonKey {
        const char *s;
        size_t length;
        char *owned;
} JsonKey;

/* Keys of one object that no table tells apart; compared when the object ends. */
typedef struct JsonKeys {
        JsonKey *keys;
        size_t n;
} JsonKeys;

/* Next byte that is not white space; 0 at the end. */
char json_look(JsonReader *r);
int json_out_of_memory(JsonReader *r);
int json_read_text(JsonReader *r, size_t max, bool controls, char **ret);
/* Calls member for each one, r standing at its value; the key is the callback's to keep by clearing owned. */
int json_object_each(JsonReader *r, int (*member)(JsonReader *r, JsonKey *key, void *userdata), void *userdata);
int json_array_each(JsonReader *r, size_t max, int (*element)(JsonReader *r, void *userdata), void *userdata);
/* Notes the key and skips its value; json_keys_check() then tells whether one came twice. */
int json_skip_member(JsonReader *r, JsonKey *key, void *keys);
int json_keys_check(JsonReader *r, JsonKeys *keys);
void json_keys_done(JsonKeys *keys);
