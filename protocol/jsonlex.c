/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "protocol/jsonlex.h"
#include "protocol/text.h"

enum { NUMBER_BYTES = 40 }; /* longest number anybody needs; bounds the copy that strtod() wants */

void json_keys_done(JsonKeys *keys) {
        for (size_t i = 0; i < keys->n; i++)
                free(keys->keys[i].owned);
        free(keys->keys);
}

void json_reader_init(JsonReader *r, const char *text, size_t size, Failure *reterr) {
        assert(r && (text || size == 0));
        *r = (JsonReader) {
                .text = text, .end = text + size, .at = text, .failure = reterr, .depth_max = LIMIT_JSON_DEPTH
        };
}

static void path_format(const JsonReader *r, char *ret, size_t size) {
        size_t n = 0;
        ret[0] = '\0';
        for (unsigned i = 0; i < r->depth && n < size; i++) {
                const struct JsonStep *s = r->path + i;
                int k = 0;
                if (!s->key)
                        k = snprintf(ret + n, size - n, "[%zu]", s->index);
                else if (s->length > 0)
                        k = snprintf(ret + n, size - n, "%s%.*s", n ? "." : "", (int) MIN_OF(s->length, 40u), s->key);
                n += (size_t) k;
        }
}

int json_fail(JsonReader *r, const char *format, ...) {
        char path[256], why[256];
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(why, sizeof why, format, ap);
        va_end(ap);
        path_format(r, path, sizeof path);
        return failure_set(r->failure, CONDITION_INVALID_DOCUMENT, "%s: %s", path[0] ? path : "document", why);
}

int json_out_of_memory(JsonReader *r) {
        return failure_set(r->failure, CONDITION_LIMIT_REACHED, "no memory to read a document");
}

char json_look(JsonReader *r) {
        while (r->at < r->end && strchr(" \t\r\n", *r->at) && *r->at)
                r->at++;
        return r->at < r->end ? *r->at : '\0';
}

static bool take(JsonReader *r, char c) {
        if (json_look(r) != c || r->at == r->end)
                return false;
        r->at++;
        return true;
}

static const char *kind_of(JsonReader *r) {
        switch (json_look(r)) {
        case '{':
                return "an object";
        case '[':
                return "an array";
        case '"':
                return "a string";
        case 't':
        case 'f':
                return "a boolean";
        case 'n':
                return "null";
        case '\0':
                return "the end";
        default:
                return strchr("-0123456789", *r->at) ? "a number" : "no JSON";
        }
}

static int expected(JsonReader *r, const char *what) {
        return json_fail(r, "%s expected, not %s", what, kind_of(r));
}

static int enter(JsonReader *r) {
        assert(r->depth_max <= ELEMENTSOF(r->path));
        if (r->depth >= r->depth_max)
                return json_fail(r, "deeper than %u levels", r->depth_max);
        r->path[r->depth++] = (struct JsonStep) { 0 };
        return 0;
}

static int hex4(const char *s, const char *end, uint32_t *ret) {
        uint32_t v = 0;
        if (end - s < 4)
                return -EINVAL;
        for (int i = 0; i < 4; i++) {
                char c = s[i] >= 'A' && s[i] <= 'F' ? (char) (s[i] - 'A' + 'a') : s[i];
                const char *digits = "0123456789abcdef", *p = c ? strchr(digits, c) : NULL;
                if (!p)
                        return -EINVAL;
                v = v << 4 | (uint32_t) (p - digits);
        }
        *ret = v;
        return 0;
}

/* The character that \uXXXX at s stands for, with its other half if it is a surrogate. Returns bytes read. */
static int unicode_escape(const char *s, const char *end, uint32_t *ret) {
        uint32_t high, low;
        if (hex4(s + 2, end, &high) < 0 || high == 0 || (high >= 0xdc00 && high <= 0xdfff))
                return -EINVAL;
        *ret = high;
        if (high < 0xd800 || high > 0xdbff)
                return 6;
        if (end - s < 12 || s[6] != '\\' || s[7] != 'u' || hex4(s + 8, end, &low) < 0 || low < 0xdc00 || low > 0xdfff)
                return -EINVAL;
        *ret = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
        return 12;
}

static char *utf8_put(char *out, uint32_t c) {
        if (c < 0x80) {
                *out++ = (char) c;
                return out;
        }
        unsigned more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
        *out++ = (char) ((0xff00 >> (more + 1)) | (c >> (6 * more)));
        while (more-- > 0)
                *out++ = (char) (0x80 | ((c >> (6 * more)) & 0x3f));
        return out;
}

/* One escape at s, bounded by end; out NULL: only checked. Returns bytes read. */
static int escape_read(const char *s, const char *end, char **out) {
        static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
        if (end - s < 2)
                return -EINVAL;
        uint32_t c;
        const char *p = s[1] ? strchr(names, s[1]) : NULL;
        int n = 2;
        if (p)
                c = (uint32_t) values[p - names];
        else
                n = s[1] == 'u' ? unicode_escape(s, end, &c) : -EINVAL;
        if (n > 0 && out)
                *out = utf8_put(*out, c);
        return n;
}

/* Moves over a string and tells where it stands, without its quotes. */
static int scan_string(JsonReader *r, const char **ret, size_t *ret_length, bool *ret_escaped) {
        if (!take(r, '"'))
                return expected(r, "a string");
        const char *start = r->at;
        *ret_escaped = false;
        while (r->at < r->end && *r->at != '"') {
                int n = (unsigned char) *r->at < 0x20 ? -EINVAL : (int) utf8_length(r->at, (size_t) (r->end - r->at));
                if (*r->at == '\\') {
                        n = escape_read(r->at, r->end, NULL);
                        *ret_escaped = true;
                }
                if (n <= 0)
                        return json_fail(r, "byte %zu is not valid in a string", (size_t) (r->at - r->text));
                r->at += n;
        }
        if (r->at == r->end)
                return json_fail(r, "a string does not end");
        *ret = start;
        *ret_length = (size_t) (r->at++ - start);
        return 0;
}

/* What the raw text of a string says; NULL: no memory. */
static char *decode(const char *s, size_t length, bool escaped) {
        if (!escaped)
                return strndup(s, length);
        char *text = malloc(length + 1), *out = text; /* an escape is never shorter than what it stands for */
        const char *end = s + length;
        while (text && s < end) {
                if (*s == '\\')
                        s += escape_read(s, end, &out);
                else
                        *out++ = *s++;
        }
        if (text)
                *out = '\0';
        return text;
}

int json_read_text(JsonReader *r, size_t max, bool controls, char **ret) {
        const char *s;
        size_t length;
        bool escaped;
        int k = scan_string(r, &s, &length, &escaped);
        if (k < 0)
                return k;
        if (length > 6 * max)
                return json_fail(r, "longer than %zu bytes", max);
        _cleanup_free_ char *text = decode(s, length, escaped);
        if (!text)
                return json_out_of_memory(r);
        if (strlen(text) > max)
                return json_fail(r, "longer than %zu bytes", max);
        if (!controls && !text_is_valid(text, max))
                return json_fail(r, "holds control characters");
        *ret = TAKE_PTR(text);
        return 0;
}

int json_read_string(JsonReader *r, size_t max, char **ret) {
        return json_read_text(r, max, false, ret);
}

static bool take_word(JsonReader *r, const char *word) {
        size_t n = strlen(word);
        (void) json_look(r);
        if ((size_t) (r->end - r->at) < n || memcmp(r->at, word, n) != 0)
                return false;
        r->at += n;
        return true;
}

bool json_take_null(JsonReader *r) {
        return take_word(r, "null");
}

int json_read_bool(JsonReader *r, bool *ret) {
        bool yes = take_word(r, "true");
        if (!yes && !take_word(r, "false"))
                return expected(r, "a boolean");
        *ret = yes;
        return 0;
}

/* Copies the number at which r stands; sets whether it has a fraction or exponent. */
static int scan_number(JsonReader *r, char ret[static NUMBER_BYTES + 1], bool *ret_integer) {
        if (!strchr("-0123456789", json_look(r)) || r->at == r->end)
                return expected(r, "a number");
        size_t n = 0, left = (size_t) (r->end - r->at);
        while (n < left && n <= NUMBER_BYTES && r->at[n] && strchr("+-.eE0123456789", r->at[n]))
                n++;
        if (n > NUMBER_BYTES)
                return json_fail(r, "a number is longer than %d bytes", NUMBER_BYTES);
        memcpy(ret, r->at, n);
        ret[n] = '\0';
        const char *s = ret + (ret[0] == '-');
        size_t whole = strspn(s, "0123456789");
        const char *p = s + whole;
        bool good = whole > 0 && (s[0] != '0' || whole == 1);
        if (*p == '.') {
                size_t digits = strspn(p + 1, "0123456789");
                good = good && digits > 0;
                p += 1 + digits;
        }
        if (*p == 'e' || *p == 'E') {
                p += 1 + (p[1] == '+' || p[1] == '-');
                size_t digits = strspn(p, "0123456789");
                good = good && digits > 0;
                p += digits;
        }
        if (!good || *p)
                return json_fail(r, "%s is not a number", ret);
        *ret_integer = s[whole] == '\0';
        r->at += n;
        return 0;
}

int json_read_uint(JsonReader *r, uint64_t max, uint64_t *ret) {
        char number[NUMBER_BYTES + 1];
        bool integer;
        int k = scan_number(r, number, &integer);
        if (k < 0)
                return k;
        errno = 0;
        unsigned long long v = strtoull(number, NULL, 10);
        if (!integer || number[0] == '-' || errno != 0 || v > max)
                return json_fail(r, "%s is not a whole number from 0 to %llu", number, (unsigned long long) max);
        *ret = v;
        return 0;
}

/* Any number that can be kept exactly or, with a fraction, as a finite double. */
static int skip_number(JsonReader *r) {
        char number[NUMBER_BYTES + 1];
        bool integer;
        int k = scan_number(r, number, &integer);
        if (k < 0)
                return k;
        errno = 0;
        if (!integer)
                return isfinite(strtod(number, NULL)) ? 0 : json_fail(r, "%s is too large", number);
        if (number[0] == '-')
                (void) strtoll(number, NULL, 10);
        else
                (void) strtoull(number, NULL, 10);
        return errno == 0 ? 0 : json_fail(r, "%s is too large", number);
}

static int read_key(JsonReader *r, JsonKey *ret) {
        bool escaped;
        int k = scan_string(r, &ret->s, &ret->length, &escaped);
        if (k < 0)
                return k;
        r->path[r->depth - 1] = (struct JsonStep) { .key = ret->s, .length = ret->length };
        if (ret->length > LIMIT_STRING_BYTES)
                return json_fail(r, "a key is longer than %d bytes", LIMIT_STRING_BYTES);
        if (escaped) {
                ret->owned = decode(ret->s, ret->length, true);
                if (!ret->owned)
                        return json_out_of_memory(r);
                ret->s = ret->owned;
                ret->length = strlen(ret->owned);
        }
        return take(r, ':') ? 0 : expected(r, "\":\"");
}

int json_object_each(JsonReader *r, int (*member)(JsonReader *r, JsonKey *key, void *userdata), void *userdata) {
        if (!take(r, '{'))
                return expected(r, "an object");
        int k = enter(r);
        if (k < 0)
                return k;
        r->path[r->depth - 1].key = ""; /* none yet */
        if (!take(r, '}'))
                do {
                        JsonKey key = { 0 };
                        k = read_key(r, &key);
                        if (k >= 0)
                                k = member(r, &key, userdata);
                        free(key.owned);
                        if (k < 0)
                                return k;
                        if (take(r, '}'))
                                break;
                        if (!take(r, ','))
                                return expected(r, "\",\" or \"}\"");
                } while (true);
        r->depth--;
        return 0;
}

int json_array_each(JsonReader *r, size_t max, int (*element)(JsonReader *r, void *userdata), void *userdata) {
        if (!take(r, '['))
                return expected(r, "an array");
        if (take(r, ']'))
                return 0;
        int k = enter(r);
        if (k < 0)
                return k;
        for (size_t i = 0; i == 0 || take(r, ','); i++) {
                r->path[r->depth - 1] = (struct JsonStep) { .index = i };
                if (i == max)
                        return json_fail(r, "more than %zu entries", max);
                k = element(r, userdata);
                if (k < 0)
                        return k;
        }
        if (!take(r, ']'))
                return expected(r, "\",\" or \"]\"");
        r->depth--;
        return 0;
}

static int keys_add(JsonReader *r, JsonKeys *keys, JsonKey *key) {
        if ((keys->n & (keys->n - 1)) == 0) { /* 0 or a power of two: full */
                JsonKey *bigger = reallocarray(keys->keys, keys->n ? 2 * keys->n : 1, sizeof *bigger);
                if (!bigger)
                        return json_out_of_memory(r);
                keys->keys = bigger;
        }
        keys->keys[keys->n++] = *key;
        key->owned = NULL;
        return 0;
}

static int key_compare(const void *a, const void *b) {
        const JsonKey *x = a, *y = b;
        int k = memcmp(x->s, y->s, MIN_OF(x->length, y->length));
        return k != 0 ? k : (x->length > y->length) - (x->length < y->length);
}

int json_keys_check(JsonReader *r, JsonKeys *keys) {
        if (keys->n > 1)
                qsort(keys->keys, keys->n, sizeof *keys->keys, key_compare);
        for (size_t i = 1; i < keys->n; i++)
                if (key_compare(keys->keys + i - 1, keys->keys + i) == 0)
                        return json_fail(r, "key \"%.*s\" is given twice", (int) MIN_OF(keys->keys[i].length, 40u),
                                         keys->keys[i].s);
        return 0;
}

int json_skip_member(JsonReader *r, JsonKey *key, void *keys) {
        int k = keys_add(r, keys, key);
        return k < 0 ? k : json_skip(r);
}

static int skip_element(JsonReader *r, void *userdata) {
        return json_skip(r);
}

int json_skip(JsonReader *r) {
        const char *s;
        size_t length;
        bool flag;
        switch (json_look(r)) {
        case '{': {
                _cleanup_(json_keys_done) JsonKeys keys = { 0 };
                int k = json_object_each(r, json_skip_member, &keys);
                return k < 0 ? k : json_keys_check(r, &keys);
        }
        case '[':
                return json_array_each(r, SIZE_MAX, skip_element, NULL);
        case '"':
                return scan_string(r, &s, &length, &flag);
        case 't':
        case 'f':
                return json_read_bool(r, &flag);
        case 'n':
                return json_take_null(r) ? 0 : expected(r, "a value");
        default:
                return strchr("-0123456789", json_look(r)) ? skip_number(r) : expected(r, "a value");
        }
}

int json_end(JsonReader *r) {
        (void) json_look(r);
        return r->at == r->end ? 0 : json_fail(r, "something follows at byte %zu", (size_t) (r->at - r->text));
}
