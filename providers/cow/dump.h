/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What lies in a store, for people and for programs. Every thing is made as a JSON object first; as text it is a line
 * of key=value, so both say the same. Lists are printed while they are read: a run may have a hundred million entries.
 *
 *   dump.c        the command, and how things are printed
 *   dump-parts.c  the parts of a store
 */
#include "providers/cow/image.h"
#include <json-c/json.h>

typedef struct Dump {
        bool json, all; /* all: more than one part */
        bool first;     /* of the list, or the object around the lists */
        bool damaged;   /* something could not be shown; it says so where it should be */
} Dump;

/* list: "" for a part that is one thing. */
void dump_begin(Dump *d, const char *part, bool list);
void dump_item(Dump *d, const char *word, json_object *take);
void dump_end(Dump *d, bool list);
/* Something that should be there cannot be shown. */
void dump_bad(Dump *d, const char *word, uint64_t block, const char *why);

void dump_superblocks(Dump *d, const Image *i);
void dump_manifest(Dump *d, const Image *i);
void dump_volumes(Dump *d, const Image *i);
void dump_snapshots(Dump *d, const Image *i);
void dump_runs(Dump *d, const Image *i);
void dump_maps(Dump *d, const Image *i);
void dump_segments(Dump *d, const Image *i);
int dump_log(Dump *d, const Image *i);
/* Entries of a run, or extents of a map: they share their numbers. False: there is none of that number. */
bool dump_run(Dump *d, const Image *i, uint64_t number);
