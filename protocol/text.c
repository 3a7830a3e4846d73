/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>

#include "protocol/text.h"

size_t utf8_length(const char *text, size_t available) {
        const unsigned char *s = (const unsigned char *) text;
        if (available == 0 || s[0] < 0x80)
                return available > 0 && s[0] > 0;
        size_t n = s[0] >= 0xc2 && s[0] <= 0xdf ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 : 0;
        if (n > available)
                return 0;
        for (size_t i = 1; i < n; i++)
                if ((s[i] & 0xc0) != 0x80)
                        return 0;
        bool too_long = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
        bool no_character = (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf4 && s[1] >= 0x90);
        return too_long || no_character ? 0 : n;
}

size_t text_character(const char *s) {
        size_t n = utf8_length(s, 4); /* the terminating NUL is no continuation */
        unsigned char c = (unsigned char) s[0], d = n == 2 ? (unsigned char) s[1] : 0;
        return c < 0x20 || c == 0x7f || (c == 0xc2 && d < 0xa0) ? 0 : n;
}

bool text_is_valid(const char *s, size_t max) {
        const char *p = s;
        for (size_t n; *p; p += n) {
                n = text_character(p);
                if (n == 0 || (size_t) (p - s) + n > max)
                        return false;
        }
        return true;
}

void text_clean(char *s) {
        for (size_t n; *s; s += n) {
                n = text_character(s);
                if (n == 0) {
                        *s = *s == '\n' || *s == '\t' ? ' ' : '?';
                        n = 1;
                }
        }
}

static const char hex[] = "0123456789abcdef";

int path_escape(const char *bytes, char **ret) {
        char *text = malloc(4 * strlen(bytes) + 1), *out = text;
        if (!text)
                return -ENOMEM;
        while (*bytes) {
                size_t n = *bytes == '\\' ? 0 : text_character(bytes);
                if (n == 0) {
                        unsigned char c = (unsigned char) *bytes++;
                        *out++ = '\\';
                        *out++ = 'x';
                        *out++ = hex[c >> 4];
                        *out++ = hex[c & 15];
                }
                for (; n > 0; n--)
                        *out++ = *bytes++;
        }
        *out = '\0';
        *ret = text;
        return 0;
}

static int hex_value(char c) {
        const char *p = c ? strchr(hex, c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c) : NULL;
        return p ? (int) (p - hex) : -EINVAL;
}

int path_unescape(const char *text, char **ret) {
        _cleanup_free_ char *bytes = malloc(strlen(text) + 1);
        if (!bytes)
                return -ENOMEM;
        char *out = bytes;
        while (*text) {
                if (*text != '\\') {
                        *out++ = *text++;
                        continue;
                }
                int high = text[1] == 'x' ? hex_value(text[2]) : -EINVAL;
                int low = high >= 0 ? hex_value(text[3]) : -EINVAL;
                if (low < 0 || high + low == 0)
                        return -EINVAL;
                *out++ = (char) (high << 4 | low);
                text += 4;
        }
        *out = '\0';
        *ret = TAKE_PTR(bytes);
        return 0;
}

/* Parts between slashes, none of them empty, "." or "..". */
static bool parts_are_clean(const char *s) {
        for (;;) {
                size_t n = strcspn(s, "/");
                if (n == 0 || (n == 1 && s[0] == '.') || (n == 2 && s[0] == '.' && s[1] == '.'))
                        return false;
                if (!s[n])
                        return true;
                s += n + 1;
        }
}

/* \x2e\x2e would be ".." behind the back of every check, so only what needs an escape may have one. */
static bool escapes_are_needed(const char *path) {
        _cleanup_free_ char *bytes = NULL, *text = NULL;
        if (!strchr(path, '\\'))
                return true;
        return path_unescape(path, &bytes) >= 0 && path_escape(bytes, &text) >= 0 && streq(text, path);
}

bool path_is_clean(const char *path) {
        if (path[0] != '/' || !text_is_valid(path, LIMIT_PATH_BYTES - 1) || !escapes_are_needed(path))
                return false;
        return !path[1] || parts_are_clean(path + 1);
}

bool path_is_inside(const char *path, const char *directory) {
        size_t n = strlen(directory);
        assert(n > 0);
        if (strncmp(path, directory, n) != 0)
                return false;
        return n == 1 || !path[n] || path[n] == '/';
}

bool component_path_is_valid(const char *s) {
        return text_is_valid(s, LIMIT_STRING_BYTES) && parts_are_clean(s);
}

int writer_reference_parse(const char *s, char **ret_name, char **ret_instance) {
        const char *at = strchrnul(s, '@');
        _cleanup_free_ char *name = strndup(s, (size_t) (at - s)), *instance = strdup(*at ? at + 1 : "");
        if (!name || !instance)
                return -ENOMEM;
        if (!writer_name_is_valid(name) || !writer_instance_is_valid(instance) || (*at && !instance[0]))
                return -EINVAL;
        *ret_name = TAKE_PTR(name);
        *ret_instance = TAKE_PTR(instance);
        return 0;
}

int writer_reference_format(const char *name, const char *instance, char **ret) {
        char *s;
        if (asprintf(&s, "%s%s%s", name, isempty(instance) ? "" : "@", isempty(instance) ? "" : instance) < 0)
                return -ENOMEM;
        *ret = s;
        return 0;
}

int writer_option_parse(const char *s, char **ret_reference, char **ret_key, char **ret_value) {
        size_t digits = strspn(s, "0123456789");
        const char *own = digits > 0 && s[digits] == ':' ? s + digits + 1 : s, *colon = strchr(own, ':');
        const char *equals = colon ? strchr(colon, '=') : NULL;
        _cleanup_free_ char *reference = NULL, *name = NULL, *instance = NULL, *key = NULL, *value = NULL;
        if (!equals || equals == colon + 1)
                return -EINVAL;
        reference = strndup(s, (size_t) (colon - s));
        key = strndup(colon + 1, (size_t) (equals - colon - 1));
        value = strdup(equals + 1);
        if (!reference || !key || !value)
                return -ENOMEM;
        int r = writer_reference_parse(reference + (own - s), &name, &instance);
        if (r < 0)
                return r;
        *ret_reference = TAKE_PTR(reference);
        *ret_key = TAKE_PTR(key);
        *ret_value = TAKE_PTR(value);
        return 0;
}

int writer_component_parse(const char *s, char **ret_reference, char **ret_path) {
        const char *colon = strchr(s, ':');
        if (!colon || !component_path_is_valid(colon + 1))
                return -EINVAL;
        _cleanup_free_ char *reference = strndup(s, (size_t) (colon - s)), *path = strdup(colon + 1);
        _cleanup_free_ char *name = NULL, *instance = NULL;
        if (!reference || !path)
                return -ENOMEM;
        int r = writer_reference_parse(reference, &name, &instance);
        if (r < 0)
                return r;
        *ret_reference = TAKE_PTR(reference);
        *ret_path = TAKE_PTR(path);
        return 0;
}

static int path_entry_compare(const void *a, const void *b) {
        const PathEntry *x = a, *y = b;
        int order = strcmp(x->path, y->path);
        return order ? order : x->index < y->index ? -1 : x->index > y->index;
}

void path_entries_sort(PathEntry *entries, size_t n) {
        qsort(entries, n, sizeof(*entries), path_entry_compare);
}

const PathEntry *path_entries_find(const PathEntry *entries, size_t n, const char *path, size_t length) {
        size_t low = 0, high = n;
        while (low < high) {
                size_t middle = low + (high - low) / 2;
                if (strncmp(entries[middle].path, path, length) < 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        bool found = low < n && strncmp(entries[low].path, path, length) == 0 && entries[low].path[length] == '\0';
        return found ? entries + low : NULL;
}

char **strings_free(char **list) {
        for (char **s = list; s && *s; s++)
                free(*s);
        free(list);
        return NULL;
}

size_t strings_count(char *const *list) {
        size_t n = 0;
        while (list && list[n])
                n++;
        return n;
}

bool strings_contain(char *const *list, const char *s) {
        for (; list && *list; list++)
                if (streq(*list, s))
                        return true;
        return false;
}

int strings_append(char ***list, const char *s) {
        size_t n = strings_count(*list);
        _cleanup_free_ char *copy = strdup(s);
        char **bigger = copy ? reallocarray(*list, n + 2, sizeof *bigger) : NULL;
        if (!bigger)
                return -ENOMEM;
        bigger[n] = TAKE_PTR(copy);
        bigger[n + 1] = NULL;
        *list = bigger;
        return 0;
}

int size_from_text(const char *s, uint64_t *ret_bytes) {
        static const char units[] = "KMGT";
        uint64_t n = 0;
        if (*s < '0' || *s > '9')
                return -EINVAL;
        for (; *s >= '0' && *s <= '9'; s++)
                if (__builtin_mul_overflow(n, 10u, &n) || __builtin_add_overflow(n, (uint64_t) (*s - '0'), &n))
                        return -EINVAL;
        const char *unit = *s ? strchr(units, *s) : NULL;
        if (*s && (!unit || s[1]))
                return -EINVAL;
        for (const char *u = units; unit && u <= unit; u++)
                if (__builtin_mul_overflow(n, 1024u, &n))
                        return -EINVAL;
        if (n > INT64_MAX)
                return -EINVAL;
        *ret_bytes = n;
        return 0;
}
