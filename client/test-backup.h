/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What `vssctl test-backup` has besides the verbs it is composed of: the selection file, and the comparison of what was
 * saved with what came back.
 */
#include "client/verbs.h"

enum {
        SELECTION_BYTES_MAX = 1024 * 1024,
        SELECTION_KEYS_MAX = 32, /* of create, and of restore */
        DIFFERENCES_SHOWN = 100,
        COMPARE_DEPTH_MAX = 512, /* of directories: roots of file sets and what lies below */
};

/* Some options of another verb, as members of an object: named like them with "_" for "-". */
typedef struct SelectionPart {
        size_t n;
        struct SelectionValue {
                const Option *option;
                char key[32], *text, **list;
                bool flag;
        } values[SELECTION_KEYS_MAX];
} SelectionPart;

typedef struct Selection {
        SelectionPart set, restore;
        char **volumes; /* NULL-terminated, or NULL */
        char *to;       /* NULL: nothing is restored */
        bool compare;
} Selection;

/* Negative with the error set: INVALID_DOCUMENT names the path in the file. */
int selection_parse(Context *c, const char *file, const char *text, size_t size, Selection *ret);
int selection_read(Context *c, const char *path, Selection *ret);
void selection_done(Selection *s);
const Option *selection_option(const Verb *verb, const char *name);
/* As if they had been given on the command line, appended to an array with room for them. */
size_t selection_count(const SelectionPart *p);
void selection_give(const SelectionPart *p, Given *given, size_t *n);

typedef struct Comparison {
        uint64_t n_files, n_bytes, n_differences;
        json_object *differences; /* [{"path":…,"what":…}], the first ones in order; the caller puts it */
} Comparison;

/*
 * Kinds, modes, owners, sizes, times, targets of links and contents of all that is below two directories. Negative: it
 * could not be read to its end, told in message.
 */
int compare_trees(int saved, int back, Comparison *ret, char *message, size_t size);
