/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/timeline.h"
#include <langinfo.h>
#include <sys/ioctl.h>

void timeline_done(Timeline *t) {
        for (size_t i = 0; i < t->n_rows; i++)
                free(t->rows[i].who);
        free(t->rows);
        *t = (Timeline) {};
}

/* [name, start_usec, end_usec or null, budget_usec or null, outcome]; anything else is left out. */
static int add_step(Timeline *t, const char *who, json_object *step) {
        if (!step || !json_object_is_type(step, json_type_array) || json_object_array_length(step) < 5)
                return 0;
        const char *name = json_object_get_string(json_object_array_get_idx(step, 0));
        json_object *end = json_object_array_get_idx(step, 2);
        const char *outcome = json_object_get_string(json_object_array_get_idx(step, 4));
        if (!name || t->n_rows >= TIMELINE_ROWS_MAX)
                return 0;
        TimelineRow *grown = reallocarray(t->rows, t->n_rows + 1, sizeof(*grown));
        char *owner = strdup(who);
        if (grown)
                t->rows = grown;
        if (!grown || !owner) {
                free(owner);
                return -ENOMEM;
        }
        uint64_t start_usec = json_object_get_uint64(json_object_array_get_idx(step, 1));
        t->rows[t->n_rows++] = (TimelineRow) {
                .who = owner,
                .step = name,
                .outcome = outcome ? outcome : "",
                .start_usec = start_usec,
                .end_usec = end ? MAX_OF(json_object_get_uint64(end), start_usec) : USEC_INFINITY,
        };
        return 0;
}

static int add_steps(Timeline *t, const char *who, json_object *steps) {
        int r = 0;
        for (size_t i = 0;
             r >= 0 && steps && json_object_is_type(steps, json_type_array) && i < json_object_array_length(steps); i++)
                r = add_step(t, who, json_object_array_get_idx(steps, i));
        return r;
}

static int add_owners(Timeline *t, json_object *owners, const char *name_key, const char *steps_key) {
        int r = 0;
        for (size_t i = 0;
             r >= 0 && owners && json_object_is_type(owners, json_type_array) && i < json_object_array_length(owners);
             i++) {
                json_object *owner = json_object_array_get_idx(owners, i);
                const char *instance = member_text(owner, "instance");
                _cleanup_free_ char *who = NULL;
                if (asprintf(&who, "%s%s%s", member_text(owner, name_key), isempty(instance) ? "" : "@", instance) < 0)
                        return -ENOMEM;
                r = add_steps(t, who, member(owner, steps_key));
        }
        return r;
}

int timeline_from_record(Timeline *t, json_object *record) {
        int r = add_steps(t, "", member(record, "phases"));
        if (r >= 0)
                r = add_owners(t, member(record, "writers"), "name", "events");
        if (r >= 0)
                r = add_owners(t, member(record, "volumes"), "volume", "calls");
        for (size_t i = 0; i < t->n_rows; i++) {
                const TimelineRow *row = &t->rows[i];
                t->end_usec = MAX_OF(t->end_usec, row->end_usec == USEC_INFINITY ? row->start_usec : row->end_usec);
                if (row->who[0] || row->end_usec == USEC_INFINITY)
                        continue;
                if (streq(row->step, "freeze"))
                        t->window_start = row->start_usec;
                if (streq(row->step, "thaw"))
                        t->window_end = row->end_usec;
        }
        if (t->window_end <= t->window_start)
                t->window_start = t->window_end = 0;
        for (size_t i = 0; i < t->n_rows; i++)
                if (t->rows[i].end_usec == USEC_INFINITY)
                        t->rows[i].end_usec = t->end_usec;
        return r;
}

static unsigned bar_width(void) {
        struct winsize size = {};
        if (isatty(STDOUT_FILENO) <= 0 || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 100)
                return 40;
        return MIN_OF((unsigned) size.ws_col - 70, 120u);
}

/* "who step", at most so many columns that a bar fits beside it */
static char *row_label(const TimelineRow *row) {
        char *label = NULL;
        size_t n = strlen(row->who);
        /* the end of a path says more than its beginning */
        const char *who = n > 36 ? row->who + n - 36 : row->who;
        _cleanup_free_ char *text = NULL;
        if (asprintf(&text, "%s%s%s%.20s", n > 36 ? "..." : "", who, n > 0 ? " " : "", row->step) >= 0)
                label = text_visible(text);
        return label;
}

static int label_width(const Timeline *t) {
        size_t width = 16;
        for (size_t i = 0; i < t->n_rows; i++) {
                _cleanup_free_ char *label = row_label(&t->rows[i]);
                width = MAX_OF(width, label ? strlen(label) : 0);
        }
        return (int) width;
}

static void print_row(Context *c, const TimelineRow *row, uint64_t from, uint64_t to, unsigned width, int left) {
        bool utf8 = streq(nl_langinfo(CODESET), "UTF-8");
        char at[32], lasts[32];
        uint64_t start = MAX_OF(row->start_usec, from), end = MIN_OF(row->end_usec, to), span = MAX_OF(to - from, 1u);
        unsigned a = (unsigned) ((start - from) * width / span), b = (unsigned) ((end - from) * width / span);
        _cleanup_free_ char *label = row_label(row), *outcome = text_visible(row->outcome);
        (void) fprintf(c->out, "%-*s |", left, label ? label : "");
        a = MIN_OF(a, width - 1);
        for (unsigned i = 0; i < width; i++)
                (void) fputs(i < a || i > MAX_OF(a, b > a ? b - 1 : a) ? " " : utf8 ? "█" : "#", c->out);
        output_line(c, "| %9s %9s%s%s", format_duration(row->start_usec - from, at, sizeof(at)),
                    format_duration(row->end_usec - row->start_usec, lasts, sizeof(lasts)),
                    streq(row->outcome, "ok") ? "" : "  ", streq(row->outcome, "ok") || !outcome ? "" : outcome);
}

static void print_chart(Context *c, const Timeline *t, uint64_t from, uint64_t to, const char *title) {
        unsigned width = bar_width();
        int left = label_width(t);
        char length[32];
        output_line(c, "%s: %s", title, format_duration(to - from, length, sizeof(length)));
        output_line(c, "%*s  %9s %9s", left + (int) width + 2, "", "start", "lasts");
        for (size_t i = 0; i < t->n_rows; i++) {
                const TimelineRow *row = &t->rows[i];
                if (row->start_usec >= from && row->end_usec <= to)
                        print_row(c, row, from, to, width, left);
        }
}

void timeline_print(Context *c, const Timeline *t) {
        print_chart(c, t, 0, t->end_usec, "Whole set");
        if (t->window_end == 0)
                return;
        output_line(c, "%s", "");
        print_chart(c, t, t->window_start, t->window_end, "Window, first Freeze to last Thaw");
}
