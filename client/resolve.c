/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which object an argument means: the full UUID, a unique prefix of at least four digits, the value of the label
 * "alias" or a label KEY=VALUE that only one has; where writers and volumes are asked for, their names too. Everything
 * else is unknown.
 */
#include "client/verbs.h"
#include <ctype.h>

enum { PREFIX_MIN = 4 };

typedef bool (*Match)(json_object *object, const char *id);

static bool match_id(json_object *object, const char *id) {
        const char *own = member_text(object, "id");
        return !isempty(own) && strcasecmp(own, id) == 0;
}

static bool match_name(json_object *object, const char *id) {
        const char *name = member_text(object, "name"), *instance = member_text(object, "instance");
        size_t n = strlen(name);
        if (isempty(name))
                return false;
        if (streq(name, id))
                return isempty(instance) || !streq(member_text(object, "interface"), VSS_IFACE_WRITER_ENTRY);
        return strncmp(name, id, n) == 0 && id[n] == '@' && streq(instance, id + n + 1);
}

/* "postgresql" also means postgresql@15-main while there is only one. */
static bool match_any_instance(json_object *object, const char *id) {
        return streq(member_text(object, "name"), id);
}

static bool match_prefix(json_object *object, const char *id) {
        size_t n = strlen(id);
        if (n < PREFIX_MIN || id[strspn(id, "0123456789abcdefABCDEF-")])
                return false;
        const char *interface = member_text(object, "interface");
        return !streq(interface, VSS_IFACE_WRITER_ENTRY) && strncasecmp(member_text(object, "id"), id, n) == 0;
}

static bool match_label(json_object *object, const char *id) {
        json_object *labels = member(object, "labels");
        const char *equals = strchr(id, '=');
        if (!labels || !json_object_is_type(labels, json_type_object))
                return false;
        if (!equals)
                return streq(member_text(labels, "alias"), id);
        json_object_object_foreach(labels, key, text) if (strncmp(id, key, (size_t) (equals - id)) == 0 &&
                                                          !key[equals - id] &&
                                                          streq(json_object_get_string(text), equals + 1)) return true;
        return false;
}

/* interfaces: those wanted, as one text of their names. */
static bool is_wanted(const char *interfaces, const char *interface) {
        size_t n = strlen(interface);
        for (const char *p = interfaces; n > 0 && (p = strstr(p, interface)); p += n)
                if ((p == interfaces || p[-1] == ' ') && (!p[n] || p[n] == ' '))
                        return true;
        return false;
}

static unsigned find(json_object *objects, const char *id, const char *interfaces, Match match, json_object **ret) {
        unsigned n = 0;
        for (size_t i = 0; i < json_object_array_length(objects); i++) {
                json_object *object = json_object_array_get_idx(objects, i);
                if (!is_wanted(interfaces, member_text(object, "interface")) || !match(object, id))
                        continue;
                *ret = object;
                n++;
        }
        return n;
}

int resolve(Context *c, json_object *objects, const char *id, const char *interfaces, json_object **ret) {
        static const Match order[] = { match_id, match_name, match_prefix, match_label, match_any_instance };
        for (size_t i = 0; i < ELEMENTSOF(order); i++) {
                unsigned n = find(objects, id, interfaces, order[i], ret);
                if (n == 1)
                        return 0;
                /* The alias of a set is that of its snapshots too if they inherit it: then the set is meant. */
                if (n > 1 && order[i] == match_label && strstr(interfaces, VSS_IFACE_SET) &&
                    find(objects, id, VSS_IFACE_SET, match_label, ret) == 1)
                        return 0;
                if (n > 1)
                        return context_fail(c, CONDITION_AMBIGUOUS, "\"%s\" means %u things; give more of the id", id,
                                            n);
        }
        _cleanup_free_ char *shown = text_visible(strlen(id) > 100 ? "…" : id);
        return context_fail(
                c, CONDITION_NOT_FOUND,
                "there is no \"%s\"; an id is a whole UUID, at least %d digits that only one has, or an alias",
                shown ? shown : "", PREFIX_MIN);
}

bool snapshot_is_mounted_on(json_object *object, const char *path) {
        json_object *mounts = member(object, "mounts");
        for (size_t i = 0; mounts && i < json_object_array_length(mounts); i++)
                if (streq(json_object_get_string(json_object_array_get_idx(mounts, i)), path))
                        return true;
        return false;
}
