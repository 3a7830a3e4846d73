/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The only place that prints. What comes from elsewhere (names, messages, labels) never reaches a terminal with its
 * control characters, and an error is always one line.
 */
#include "client/verbs.h"
#include <stdarg.h>
#include <sys/wait.h>
#include <wchar.h>

static bool on_terminal(int fd) {
        return isatty(fd) > 0 && !streq_null(getenv("TERM"), "dumb");
}

bool output_people(const Context *c) {
        return !c->json && !c->quiet;
}

char *text_visible(const char *text) {
        char *escaped = NULL;
        (void) path_to_bus(text, &escaped);
        /* The backslash itself may stay: the text is for eyes. */
        for (char *p = escaped; p && (p = strstr(p, "\\x5c")); p++)
                memmove(p + 1, p + 4, strlen(p + 4) + 1);
        return escaped;
}

static size_t text_width(const char *text) {
        size_t width = 0, n = strlen(text);
        mbstate_t state = {};
        for (const char *p = text; *p;) {
                wchar_t wc;
                size_t k = mbrtowc(&wc, p, n - (size_t) (p - text), &state);
                if (k == (size_t) -1 || k == (size_t) -2 || k == 0) {
                        memset(&state, 0, sizeof(state));
                        p++;
                        width++;
                        continue;
                }
                int w = wcwidth(wc);
                width += w > 0 ? (size_t) w : 0;
                p += k;
        }
        return width;
}

char *format_size(uint64_t bytes, char *buffer, size_t size) {
        static const char units[] = "BKMGTPE";
        double value = (double) bytes;
        size_t unit = 0;
        for (; value >= 1024 && unit + 2 < sizeof(units); unit++)
                value /= 1024;
        (void) snprintf(buffer, size, unit == 0 || value >= 100 ? "%.0f%c" : "%.1f%c", value, units[unit]);
        return buffer;
}

char *format_duration(uint64_t usec, char *buffer, size_t size) {
        double seconds = (double) usec / 1e6;
        if (usec < 1000)
                (void) snprintf(buffer, size, "%u us", (unsigned) usec);
        else if (usec < USEC_PER_SEC)
                (void) snprintf(buffer, size, "%.1f ms", (double) usec / 1e3);
        else if (seconds < 120)
                (void) snprintf(buffer, size, "%.2f s", seconds);
        else if (seconds < 7200)
                (void) snprintf(buffer, size, "%.1f min", seconds / 60);
        else
                (void) snprintf(buffer, size, "%.1f h", seconds / 3600);
        return buffer;
}

char *format_instant(uint64_t realtime_usec, char *buffer, size_t size) {
        time_t seconds = (time_t) (realtime_usec / USEC_PER_SEC);
        struct tm tm;
        char date[32] = "";
        if (gmtime_r(&seconds, &tm))
                (void) strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
        (void) snprintf(buffer, size, "%s.%06uZ", date, (unsigned) (realtime_usec % USEC_PER_SEC));
        return buffer;
}

/* "2026-11-22T10:00:00.123456Z" → local time to the second */
static void format_local(const char *instant, char *buffer, size_t size) {
        struct tm tm = {}, local;
        if (!strptime(instant, "%Y-%m-%dT%H:%M:%S", &tm)) {
                (void) snprintf(buffer, size, "-");
                return;
        }
        time_t seconds = timegm(&tm);
        if (!localtime_r(&seconds, &local) || strftime(buffer, size, "%Y-%m-%d %H:%M:%S", &local) == 0)
                (void) snprintf(buffer, size, "%s", instant);
}

const char *output_colour(const Context *c, const char *state) {
        static const struct {
                const char *word, *colour;
        } colours[] = {
                { "failed", "\033[31m" },      { "aborted", "\033[31m" }, { "aborting", "\033[31m" },
                { "damaged", "\033[31m" },     { "created", "\033[32m" }, { "completed", "\033[32m" },
                { "stable", "\033[32m" },      { "ready", "\033[32m" },   { "available", "\033[32m" },
                { "application", "\033[32m" }, { "waiting", "\033[33m" }, { "running", "\033[33m" },
                { "queued", "\033[33m" },      { "crash", "\033[33m" },
        };
        if (!on_terminal(STDOUT_FILENO) || !isempty(getenv("NO_COLOR")))
                return "";
        for (size_t i = 0; i < ELEMENTSOF(colours); i++)
                if (strncmp(state, colours[i].word, strlen(colours[i].word)) == 0)
                        return colours[i].colour;
        return "";
}

static char *join_list(json_object *list) {
        char *text = strdup("");
        for (size_t i = 0; text && i < json_object_array_length(list); i++) {
                char *longer = NULL;
                const char *one = json_object_get_string(json_object_array_get_idx(list, i));
                if (asprintf(&longer, "%s%s%s", text, i > 0 ? ", " : "", one ? one : "-") < 0)
                        longer = NULL;
                free(text);
                text = longer;
        }
        return text;
}

static char *format_value(json_object *value, Format format) {
        char buffer[128] = "-";
        if (value && format == FORMAT_SIZE)
                format_size(json_object_get_uint64(value), buffer, sizeof(buffer));
        else if (value && format == FORMAT_USEC)
                format_duration(json_object_get_uint64(value), buffer, sizeof(buffer));
        else if (value && format == FORMAT_TIME)
                format_local(json_object_get_string(value), buffer, sizeof(buffer));
        else if (value && format == FORMAT_BOOL)
                (void) snprintf(buffer, sizeof(buffer), "%s", json_object_get_boolean(value) ? "yes" : "no");
        else if (value && format == FORMAT_COUNT)
                (void) snprintf(buffer, sizeof(buffer), "%zu",
                                json_object_is_type(value, json_type_array) ? json_object_array_length(value) : 0);
        else if (value && json_object_is_type(value, json_type_array) && json_object_array_length(value) > 0) {
                _cleanup_free_ char *joined = join_list(value);
                return joined ? text_visible(joined) : NULL;
        } else if (value && !json_object_is_type(value, json_type_array) && !isempty(json_object_get_string(value)))
                return text_visible(json_object_get_string(value));
        return strdup(buffer);
}

void output_line(Context *c, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        (void) vfprintf(c->out, format, ap);
        va_end(ap);
        (void) fputc('\n', c->out);
}

static void print_cell(Context *c, const char *text, size_t width, bool last, Format format) {
        const char *colour = format == FORMAT_STATE ? output_colour(c, text) : "";
        (void) fprintf(c->out, "%s%s%s", colour, text, *colour ? "\033[0m" : "");
        if (last)
                return;
        for (size_t k = text_width(text); k < width + 2; k++)
                (void) fputc(' ', c->out);
}

enum { COLUMNS_MAX = 12 };

void output_table(Context *c, json_object *rows, const Column *columns) {
        size_t n_rows = json_object_array_length(rows), n_columns = 0, widths[COLUMNS_MAX] = {};
        while (n_columns < COLUMNS_MAX && columns[n_columns].title)
                n_columns++;
        char **cells = calloc(n_rows * n_columns + 1, sizeof(char *));
        for (size_t k = 0; cells && k < n_columns; k++) {
                widths[k] = text_width(columns[k].title);
                for (size_t i = 0; i < n_rows; i++) {
                        char *text = format_value(member(json_object_array_get_idx(rows, i), columns[k].key),
                                                  columns[k].format);
                        cells[i * n_columns + k] = text;
                        widths[k] = MAX_OF(widths[k], text ? text_width(text) : 0);
                }
        }
        bool bold = on_terminal(STDOUT_FILENO) && isempty(getenv("NO_COLOR"));
        (void) fputs(bold ? "\033[1m" : "", c->out);
        for (size_t k = 0; k < n_columns; k++)
                print_cell(c, columns[k].title, widths[k], k + 1 == n_columns, FORMAT_TEXT);
        (void) fputs(bold ? "\033[0m\n" : "\n", c->out);
        for (size_t i = 0; cells && i < n_rows; i++) {
                for (size_t k = 0; k < n_columns; k++) {
                        char *text = cells[i * n_columns + k];
                        print_cell(c, text ? text : "", widths[k], k + 1 == n_columns, columns[k].format);
                        free(text);
                }
                (void) fputc('\n', c->out);
        }
        free(cells);
}

static bool ends_with(const char *text, const char *suffix) {
        size_t n = strlen(text), k = strlen(suffix);
        return n >= k && streq(text + n - k, suffix);
}

static Format format_of_key(const char *key, json_object *value) {
        static const char *const times[] = { "created", "completed", "started", "instant" };
        if (ends_with(key, "_usec"))
                return FORMAT_USEC;
        if (streq(key, "size") || streq(key, "used") || ends_with(key, "_bytes"))
                return FORMAT_SIZE;
        if (json_object_is_type(value, json_type_boolean))
                return FORMAT_BOOL;
        for (size_t i = 0; i < ELEMENTSOF(times); i++)
                if (streq(key, times[i]))
                        return FORMAT_TIME;
        return streq(key, "state") || streq(key, "consistency") || streq(key, "level") ? FORMAT_STATE : FORMAT_TEXT;
}

static bool is_scalar_list(json_object *value) {
        for (size_t i = 0; i < json_object_array_length(value); i++)
                if (json_object_is_type(json_object_array_get_idx(value, i), json_type_object) ||
                    json_object_is_type(json_object_array_get_idx(value, i), json_type_array))
                        return false;
        return true;
}

/* Key and value, objects indented below their key, lists of objects one paragraph each: enough for people to read
 * anything. */
static void print_tree(Context *c, json_object *object, unsigned depth) {
        json_object_object_foreach(object, key, value) {
                if (!value || (json_object_is_type(value, json_type_array) && json_object_array_length(value) == 0))
                        continue;
                _cleanup_free_ char *name = text_visible(key);
                for (char *p = name; p && *p; p++)
                        *p = *p == '_' ? ' ' : *p;
                bool list = json_object_is_type(value, json_type_array) && !is_scalar_list(value);
                if (!list && !json_object_is_type(value, json_type_object)) {
                        Format format = format_of_key(key, value);
                        _cleanup_free_ char *text = format_value(value, format);
                        const char *colour = format == FORMAT_STATE && text ? output_colour(c, text) : "";
                        output_line(c, "%*s%*s: %s%s%s", (int) depth * 4, "", depth == 0 ? 16 : 0, name ? name : "",
                                    colour, text ? text : "", *colour ? "\033[0m" : "");
                        continue;
                }
                output_line(c, "%*s%*s:", (int) depth * 4, "", depth == 0 ? 16 : 0, name ? name : "");
                if (depth >= 6)
                        continue;
                for (size_t i = 0; list && i < json_object_array_length(value); i++) {
                        json_object *one = json_object_array_get_idx(value, i);
                        if (i > 0)
                                output_line(c, "%s", "");
                        if (json_object_is_type(one, json_type_object))
                                print_tree(c, one, MAX_OF(depth, 4u) + 1);
                        else
                                output_line(c, "%*s%s", (int) (depth + 1) * 4, "",
                                            json_object_to_json_string_ext(one, JSON_C_TO_STRING_PLAIN));
                }
                if (!list)
                        print_tree(c, value, MAX_OF(depth, 4u) + 1);
        }
}

void output_tree(Context *c, json_object *object) {
        print_tree(c, object, 0);
}
