/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Any D-Bus value as JSON, so that verbs work on one kind of tree whether it came from properties, answers or
 * documents.
 */
#include "client/verbs.h"
#include <ctype.h>

enum { BUS_JSON_DEPTH = 16 };

static int read_value(sd_bus_message *m, unsigned depth, json_object **ret);

static int read_basic(sd_bus_message *m, char type, json_object **ret) {
        union {
                uint8_t y;
                int b;
                int16_t n;
                uint16_t q;
                int32_t i;
                uint32_t u;
                int64_t x;
                uint64_t t;
                double d;
                const char *s;
        } v;
        if (type == 'h')
                return sd_bus_message_skip(m, "h"); /* *ret stays null */
        int r = sd_bus_message_read_basic(m, type, &v);
        if (r < 0)
                return r;
        switch (type) {
        case 'y':
                *ret = json_object_new_int(v.y);
                break;
        case 'b':
                *ret = json_object_new_boolean(v.b);
                break;
        case 'n':
                *ret = json_object_new_int(v.n);
                break;
        case 'q':
                *ret = json_object_new_int(v.q);
                break;
        case 'i':
                *ret = json_object_new_int(v.i);
                break;
        case 'u':
                *ret = json_object_new_int64(v.u);
                break;
        case 'x':
                *ret = json_object_new_int64(v.x);
                break;
        case 't':
                *ret = json_object_new_uint64(v.t);
                break;
        case 'd':
                *ret = json_object_new_double(v.d);
                break;
        default:
                *ret = json_object_new_string(v.s);
        }
        return *ret ? 0 : -ENOMEM;
}

/* a{s?} and a{o?} become objects; keys that are members of an interface get snake case from member_to_key() elsewhere.
 */
static int read_dictionary(sd_bus_message *m, const char *contents, unsigned depth, json_object *object) {
        int r = 0;
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', contents)) > 0) {
                const char *key;
                json_object *value = NULL;
                r = sd_bus_message_read_basic(m, contents[0], &key);
                if (r >= 0)
                        r = read_value(m, depth + 1, &value);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
                if (r < 0) {
                        json_object_put(value);
                        return r;
                }
                json_object_object_add(object, key, value);
        }
        return r;
}

static int read_sequence(sd_bus_message *m, unsigned depth, json_object *array) {
        int r;
        while ((r = sd_bus_message_at_end(m, false)) == 0) {
                json_object *value = NULL;
                r = read_value(m, depth + 1, &value);
                if (r < 0)
                        return r;
                json_object_array_add(array, value);
        }
        return r;
}

static int read_container(sd_bus_message *m, char type, const char *contents, unsigned depth, json_object **ret) {
        char inner[256];
        bool dictionary = type == 'a' && contents[0] == '{';
        int r = sd_bus_message_enter_container(m, type, contents);
        if (r < 0)
                return r;
        if (type == 'v') {
                r = read_value(m, depth + 1, ret);
                return r < 0 ? r : sd_bus_message_exit_container(m);
        }
        _cleanup_(json_object_putp) json_object *object = dictionary ? json_object_new_object() :
                                                                       json_object_new_array();
        if (!object)
                return -ENOMEM;
        if (dictionary) {
                size_t n = strlen(contents) - 2;
                if (n >= sizeof(inner) || !strchr("so", contents[1]))
                        return -EBADMSG;
                memcpy(inner, contents + 1, n);
                inner[n] = 0;
                r = read_dictionary(m, inner, depth, object);
        } else
                r = read_sequence(m, depth, object);
        if (r >= 0)
                r = sd_bus_message_exit_container(m);
        if (r >= 0)
                *ret = TAKE_PTR(object);
        return r;
}

static int read_value(sd_bus_message *m, unsigned depth, json_object **ret) {
        const char *contents;
        char type;
        int r = sd_bus_message_peek_type(m, &type, &contents);
        if (r <= 0 || depth > BUS_JSON_DEPTH)
                return r < 0 ? r : -EBADMSG;
        return strchr("avr", type) ? read_container(m, type, contents, depth, ret) : read_basic(m, type, ret);
}

int bus_to_json(sd_bus_message *m, json_object **ret) {
        _cleanup_(json_object_putp) json_object *array = json_object_new_array();
        if (!array)
                return -ENOMEM;
        int r = read_sequence(m, 0, array);
        if (r >= 0)
                *ret = TAKE_PTR(array);
        return r < 0 ? r : 0;
}

void member_to_key(const char *name, char *ret, size_t size) {
        char *q = ret, *end = ret + size - 2;
        for (const char *p = name; *p && q < end; p++) {
                if (isupper((unsigned char) *p) && p > name && !isupper((unsigned char) p[-1]))
                        *q++ = '_';
                *q++ = (char) tolower((unsigned char) *p);
        }
        *q = 0;
}
