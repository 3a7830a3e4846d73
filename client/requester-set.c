/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A set before it exists (volumes, components, options), its creation, and the wait for its end. The result comes as
 * the answer of Wait, never by a signal alone; PropertiesChanged only feeds the progress callback.
 */
#include "client/requester.h"
#include <stdio.h>

_public_ int vss_set_new(struct vss_requester *r, struct vss_set **ret) {
        if (!r || !ret)
                return -EINVAL;
        struct vss_set *s = calloc(1, sizeof(*s));
        if (!s)
                return requester_fail(r, CONDITION_LIMIT_REACHED, "out of memory");
        s->requester = r;
        *ret = s;
        return 0;
}

static void texts_free(SetText *texts, size_t n) {
        for (size_t i = 0; i < n; i++) {
                free(texts[i].key);
                free(texts[i].value);
        }
        free(texts);
}

static void parts_free(SetPart *parts, size_t n) {
        for (size_t i = 0; i < n; i++) {
                free(parts[i].writer);
                free(parts[i].path);
                free(parts[i].options);
        }
        free(parts);
}

void set_forget_snapshots(struct vss_set *s) {
        for (size_t i = 0; i < s->n_snapshots; i++) {
                free(s->snapshots[i].object);
                for (size_t k = 0; k < ELEMENTSOF(s->snapshots[i].text); k++)
                        free(s->snapshots[i].text[k]);
        }
        free(s->snapshots);
        s->snapshots = NULL;
        s->n_snapshots = 0;
        s->snapshots_known = false;
}

_public_ struct vss_set *vss_set_free(struct vss_set *s) {
        if (!s)
                return NULL;
        texts_free(s->volumes, s->n_volumes);
        texts_free(s->options, s->n_options);
        parts_free(s->components, s->n_components);
        parts_free(s->marks, s->n_marks);
        parts_free(s->stamps, s->n_stamps);
        set_forget_snapshots(s);
        free(s->path);
        free(s->consistency);
        free(s->state);
        free(s);
        return NULL;
}

static int set_adopt(struct vss_set *s, const char *id, const char *path) {
        if (!id_is_valid(id))
                return requester_fail(s->requester, CONDITION_NOT_SUPPORTED,
                                      "vssd named a set by something that is no UUID");
        char *copy = strdup(path);
        if (!copy)
                return requester_fail(s->requester, CONDITION_LIMIT_REACHED, "out of memory");
        free(s->path);
        s->path = copy;
        (void) snprintf(s->id, sizeof(s->id), "%s", id);
        set_forget_snapshots(s);
        return 0;
}

static int set_replace(char **text, const char *value) {
        char *copy = strdup(value);
        if (!copy)
                return -ENOMEM;
        free(*text);
        *text = copy;
        return 0;
}

static int set_get_text(struct vss_set *s, const char *property, char **text) {
        sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *value = NULL;
        uint64_t deadline_usec = usec_add(now_usec(), s->requester->call_usec);
        int k = sd_bus_get_property(s->requester->bus, VSS_BUS_NAME, s->path, VSS_IFACE_SET, property, &e, &reply, "s");
        if (k < 0) {
                k = requester_fail_bus(s->requester, &e, k, deadline_usec);
                sd_bus_error_free(&e);
                return k;
        }
        k = sd_bus_message_read(reply, "s", &value);
        if (k >= 0)
                k = set_replace(text, value);
        k = requester_check(s->requester, k);
        return k < 0 ? k : 0;
}

_public_ int vss_set_open(struct vss_requester *r, const char *id, struct vss_set **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        _cleanup_(set_handle_freep) struct vss_set *s = NULL;
        _cleanup_free_ char *full = NULL;
        const char *interface, *object;
        if (!id)
                return -EINVAL;
        int k = vss_set_new(r, &s);
        if (k >= 0)
                k = requester_new_call(r, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "LookupId", &m);
        if (k >= 0)
                k = requester_check(r, sd_bus_message_append(m, "sa{sv}", id, 0));
        if (k >= 0)
                k = requester_call(r, m, r->call_usec, &reply);
        if (k >= 0)
                k = requester_check(r, sd_bus_message_read(reply, "so", &interface, &object));
        if (k < 0)
                return k;
        if (!streq(interface, VSS_IFACE_SET))
                return requester_fail(r, CONDITION_NOT_FOUND, "%s is not a set; `vssctl sets` lists them", id);
        /* The object path is opaque, so the full id is read from the object. */
        s->path = strdup(object);
        k = s->path ? set_get_text(s, "Id", &full) : requester_fail(r, CONDITION_LIMIT_REACHED, "out of memory");
        if (k >= 0)
                k = set_get_text(s, "State", &s->state);
        if (k >= 0)
                k = set_get_text(s, "Consistency", &s->consistency);
        if (k >= 0)
                k = set_adopt(s, full, object);
        if (k >= 0)
                *ret = TAKE_PTR(s);
        return k < 0 ? k : 0;
}

static int texts_add(struct vss_set *s, SetText **texts, size_t *n, const char *key, const char *value) {
        SetText *grown = reallocarray(*texts, *n + 1, sizeof(**texts));
        if (!grown)
                return requester_fail(s->requester, CONDITION_LIMIT_REACHED, "out of memory");
        *texts = grown;
        SetText *t = &grown[*n];
        t->key = strdup(key);
        t->value = value ? strdup(value) : NULL;
        if (t->key && (!value || t->value)) {
                (*n)++;
                return 0;
        }
        free(t->key);
        free(t->value);
        return requester_fail(s->requester, CONDITION_LIMIT_REACHED, "out of memory");
}

static int parts_add(struct vss_set *s, SetPart **parts, size_t *n, const char *writer, const char *path,
                     const char *options, bool succeeded) {
        SetPart *grown = reallocarray(*parts, *n + 1, sizeof(**parts));
        if (!grown)
                return requester_fail(s->requester, CONDITION_LIMIT_REACHED, "out of memory");
        *parts = grown;
        grown[*n] = (SetPart) {
                .writer = strdup(writer),
                .path = strdup(path),
                .options = options ? strdup(options) : NULL,
                .succeeded = succeeded,
        };
        (*n)++;
        if (!grown[*n - 1].writer || !grown[*n - 1].path || (options && !grown[*n - 1].options))
                return requester_fail(s->requester, CONDITION_LIMIT_REACHED, "out of memory");
        return 0;
}

int set_add_stamp(struct vss_set *s, const char *writer, const char *path, const char *stamp) {
        return parts_add(s, &s->stamps, &s->n_stamps, writer, path, stamp, true);
}

_public_ int vss_set_add_volume(struct vss_set *s, const char *volume, const char *provider) {
        if (!s)
                return -EINVAL;
        if (s->path || isempty(volume) || strlen(volume) > LIMIT_PATH_BYTES)
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT,
                                      "a volume must be named before the set is made, by 1 to %d bytes",
                                      LIMIT_PATH_BYTES);
        if (s->n_volumes >= LIMIT_VOLUMES)
                return requester_fail(s->requester, CONDITION_LIMIT_REACHED,
                                      "a set has at most %d volumes; make two sets", LIMIT_VOLUMES);
        return texts_add(s, &s->volumes, &s->n_volumes, volume, provider);
}

_public_ int vss_set_add_component(struct vss_set *s, const char *writer, const char *path, const char *options) {
        if (!s)
                return -EINVAL;
        if (s->path || isempty(writer) || isempty(path))
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT,
                                      "a component needs a writer and a path, before the set is made");
        if (s->n_components >= LIMIT_COMPONENTS)
                return requester_fail(s->requester, CONDITION_LIMIT_REACHED, "a set takes at most %d components",
                                      LIMIT_COMPONENTS);
        return parts_add(s, &s->components, &s->n_components, writer, path, options, false);
}

_public_ int vss_set_option(struct vss_set *s, const char *key, const char *value) {
        if (!s)
                return -EINVAL;
        if (s->path || !key || set_option_check(key, value) < 0)
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT, "option %s=%s is not one of CreateSet",
                                      key ? key : "", value ? value : "");
        if (s->n_options >= LIMIT_COMPONENTS)
                return requester_fail(s->requester, CONDITION_LIMIT_REACHED, "more than %d options", LIMIT_COMPONENTS);
        return texts_add(s, &s->options, &s->n_options, key, value);
}

_public_ int vss_set_plan(struct vss_set *s, char **ret_json) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        const char *json;
        if (!s || !ret_json)
                return -EINVAL;
        struct vss_requester *r = s->requester;
        int k = requester_new_call(r, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "Plan", &m);
        if (k >= 0)
                k = requester_check(r, set_append_arguments(s, m));
        if (k >= 0)
                k = requester_call(r, m, r->long_usec, &reply);
        if (k >= 0)
                k = requester_check(r, sd_bus_message_read(reply, "s", &json));
        if (k < 0)
                return k;
        *ret_json = strdup(json);
        return *ret_json ? 0 : requester_fail(r, CONDITION_LIMIT_REACHED, "out of memory");
}

_public_ int vss_set_create(struct vss_set *s) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        const char *id, *path;
        if (!s)
                return -EINVAL;
        struct vss_requester *r = s->requester;
        if (s->path)
                return requester_fail(r, CONDITION_BAD_STATE, "set %s is made already", s->id);
        int k = requester_new_call(r, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "CreateSet", &m);
        if (k >= 0)
                k = requester_check(r, set_append_arguments(s, m));
        if (k >= 0)
                k = requester_call(r, m, r->call_usec, &reply);
        if (k >= 0)
                k = requester_check(r, sd_bus_message_read(reply, "so", &id, &path));
        return k < 0 ? k : set_adopt(s, id, path);
}

_public_ const char *vss_set_id(const struct vss_set *s) {
        return s ? s->id : "";
}

_public_ const char *vss_set_consistency(const struct vss_set *s) {
        return s && s->consistency ? s->consistency : "";
}
