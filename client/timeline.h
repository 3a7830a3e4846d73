/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The steps of a set record as rows of a chart. The window is some fifty milliseconds of some seconds, so there are two
 * charts: the whole, and the window alone.
 */
#include "client/verbs.h"

enum { TIMELINE_ROWS_MAX = 4096 };

typedef struct TimelineRow {
        char *who;        /* "" for the set itself, else the writer or volume */
        const char *step; /* borrowed from the record */
        const char *outcome;
        uint64_t start_usec, end_usec; /* end: the end of the chart while running */
} TimelineRow;

typedef struct Timeline {
        TimelineRow *rows;
        size_t n_rows;
        uint64_t end_usec;                 /* of everything */
        uint64_t window_start, window_end; /* first Freeze to last Thaw; both 0: there was none */
} Timeline;

void timeline_done(Timeline *t);
int timeline_from_record(Timeline *t, json_object *record);
void timeline_print(Context *c, const Timeline *t);
int timeline_svg(const Timeline *t, const char *title, FILE *f);
