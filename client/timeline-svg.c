/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/timeline.h"

enum { SVG_WIDTH = 1000, SVG_LEFT = 300, SVG_RIGHT = 110, SVG_ROW = 18, SVG_TOP = 34 };

/* Text from writers and paths into XML; what XML cannot carry has been made visible before. */
static void put_text(FILE *f, const char *text) {
        _cleanup_free_ char *visible = text_visible(text);
        for (const char *p = visible; p && *p; p++)
                switch (*p) {
                case '<':
                        (void) fputs("&lt;", f);
                        break;
                case '>':
                        (void) fputs("&gt;", f);
                        break;
                case '&':
                        (void) fputs("&amp;", f);
                        break;
                case '"':
                        (void) fputs("&quot;", f);
                        break;
                default:
                        (void) fputc(*p, f);
                }
}

static const char *colour(const TimelineRow *row) {
        static const struct {
                const char *step, *fill;
        } steps[] = {
                { "freeze", "#4c78a8" },  { "hold", "#e45756" }, { "commit", "#f58518" },
                { "release", "#eeca3b" }, { "thaw", "#54a24b" },
        };
        if (!streq(row->outcome, "ok"))
                return "#b00020";
        for (size_t i = 0; i < ELEMENTSOF(steps); i++)
                if (streq(steps[i].step, row->step))
                        return steps[i].fill;
        return "#9aa5b1";
}

static void put_row(FILE *f, const TimelineRow *row, uint64_t from, uint64_t to, unsigned y) {
        const double span = (double) MAX_OF(to - from, 1u), width = SVG_WIDTH - SVG_LEFT - SVG_RIGHT;
        double x = (double) (row->start_usec - from) / span * width,
               w = (double) (row->end_usec - row->start_usec) / span * width;
        char lasts[32];
        (void) fprintf(f, "<text x=\"%d\" y=\"%u\" text-anchor=\"end\">", SVG_LEFT - 8, y + 13);
        put_text(f, row->who);
        (void) fputs(row->who[0] ? " " : "", f);
        put_text(f, row->step);
        (void) fprintf(f, "</text>\n<rect x=\"%.2f\" y=\"%u\" width=\"%.2f\" height=\"%d\" fill=\"%s\"><title>",
                       SVG_LEFT + x, y + 2, MAX_OF(w, 1.0), SVG_ROW - 4, colour(row));
        put_text(f, row->outcome);
        (void) fprintf(f, "</title></rect>\n<text x=\"%d\" y=\"%u\">%s</text>\n", SVG_WIDTH - SVG_RIGHT + 8, y + 13,
                       format_duration(row->end_usec - row->start_usec, lasts, sizeof(lasts)));
}

static unsigned put_chart(FILE *f, const Timeline *t, uint64_t from, uint64_t to, const char *title, unsigned y) {
        char length[32];
        (void) fprintf(f, "<text x=\"8\" y=\"%u\" font-weight=\"bold\">%s: %s</text>\n", y + 16, title,
                       format_duration(to - from, length, sizeof(length)));
        y += 24;
        for (size_t i = 0; i < t->n_rows; i++)
                if (t->rows[i].start_usec >= from && t->rows[i].end_usec <= to) {
                        put_row(f, &t->rows[i], from, to, y);
                        y += SVG_ROW;
                }
        return y + 12;
}

int timeline_svg(const Timeline *t, const char *title, FILE *f) {
        size_t n = 0;
        for (size_t i = 0; i < t->n_rows; i++)
                n += t->rows[i].start_usec >= t->window_start && t->rows[i].end_usec <= t->window_end;
        unsigned height = SVG_TOP + 2 * 36 + (unsigned) (t->n_rows + n) * SVG_ROW, y = SVG_TOP;
        (void) fprintf(
                f,
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%u\" "
                "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
                "<text x=\"8\" y=\"20\" font-size=\"15\">",
                SVG_WIDTH, height);
        put_text(f, title);
        (void) fputs("</text>\n", f);
        y = put_chart(f, t, 0, t->end_usec, "Whole set", y);
        if (t->window_end > 0)
                (void) put_chart(f, t, t->window_start, t->window_end, "Window, first Freeze to last Thaw", y);
        (void) fputs("</svg>\n", f);
        return ferror(f) ? -EIO : 0;
}
