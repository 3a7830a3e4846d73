/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Text that comes from outside: UTF-8, paths, writer references. Checks and conversions only; the caller says what was
 * wrong. Paths travel as UTF-8 text in which control characters, the backslash and bytes that are not UTF-8 stand as
 * \xHH, because neither D-Bus nor JSON carries other bytes (interfaces 1.1 rule 5).
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"

/* Bytes of the well-formed UTF-8 character at s, of which that many bytes are there; 0 if there is none, or NUL. */
size_t utf8_length(const char *s, size_t available);
/* Likewise in a NUL-terminated string; also 0 for a control character (C0, DEL, C1). */
size_t text_character(const char *s);
/* UTF-8 without control characters, at most max bytes. */
bool text_is_valid(const char *s, size_t max);
/* One line that sd-bus accepts, in place: line feeds and tabs become spaces, everything else that is not text "?". */
void text_clean(char *s);

int path_escape(const char *bytes, char **ret);
/* -EINVAL: a backslash that does not begin \xHH, or \x00. */
int path_unescape(const char *text, char **ret);
/* Absolute, no empty, "." or ".." part, no slash at the end (but "/" itself), valid text with \xHH only where it is
 * needed, at most LIMIT_PATH_BYTES. Whoever opens it unescapes it first. */
bool path_is_clean(const char *path);
/* "/srv" holds "/srv" and "/srv/db", not "/srvdb"; both clean. */
bool path_is_inside(const char *path, const char *directory);

/* "a/b/c": parts as in path_is_clean(), without the leading slash, at most LIMIT_STRING_BYTES. */
bool component_path_is_valid(const char *s);
/* NAME or NAME@INSTANCE; ret_instance is "" where there is none. -EINVAL. */
int writer_reference_parse(const char *s, char **ret_name, char **ret_instance);
int writer_reference_format(const char *name, const char *instance, char **ret);
/* [UID:]REFERENCE:KEY=VALUE, as options to writers are given; the key is not empty. -EINVAL, -ENOMEM. */
int writer_option_parse(const char *s, char **ret_reference, char **ret_key, char **ret_value);
/* REFERENCE:PATH as on the command line. -EINVAL. */
int writer_component_parse(const char *s, char **ret_reference, char **ret_path);

/* Component paths in order, to find one among thousands; the strings are borrowed. */
typedef struct PathEntry {
        const char *path;
        size_t index; /* in the list that it belongs to */
} PathEntry;
void path_entries_sort(PathEntry *entries, size_t n);
/* The first entry whose path is the first length bytes of path; NULL: none. */
const PathEntry *path_entries_find(const PathEntry *entries, size_t n, const char *path, size_t length);
char **strings_free(char **list); /* NULL-terminated; NULL allowed; returns NULL */
DEFINE_CLEANUP(char **, strings_free);
size_t strings_count(char *const *list);
bool strings_contain(char *const *list, const char *s);
int strings_append(char ***list, const char *s); /* copies */

/* "512", "20G": bytes, or K, M, G, T of 1024 each. -EINVAL: not that, or more than INT64_MAX. */
int size_from_text(const char *s, uint64_t *ret_bytes);
