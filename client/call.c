/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What vssctl asks beyond the public requester API: any call, all objects at once, and the one error of a run.
 */
#include "client/verbs.h"
#include <stdarg.h>

static int context_vfail(Context *c, Condition condition, const char *format, va_list ap) {
        c->condition = condition;
        c->retryable = condition_retryable(condition);
        (void) snprintf(c->error_name, sizeof(c->error_name), "%s", condition_name(condition));
        (void) vsnprintf(c->error_message, sizeof(c->error_message), format, ap);
        return -condition_errno(condition);
}

int context_fail(Context *c, Condition condition, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        int r = context_vfail(c, condition, format, ap);
        va_end(ap);
        return r;
}

int context_usage(Context *c, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        int r = context_vfail(c, CONDITION_INVALID_ARGUMENT, format, ap);
        va_end(ap);
        c->usage = true;
        return r;
}

int context_fail_requester(Context *c) {
        const struct vss_error *e = vss_requester_error(c->requester);
        c->condition = condition_from_name(e->name);
        c->retryable = e->retryable;
        (void) snprintf(c->error_name, sizeof(c->error_name), "%s", e->name);
        (void) snprintf(c->error_message, sizeof(c->error_message), "%s", e->message);
        return -condition_errno(c->condition);
}

int context_connect(Context *c) {
        if (c->requester)
                return 0;
        if (vss_requester_open("vssctl", &c->requester) < 0)
                return context_fail_requester(c);
        (void) sd_bus_set_allow_interactive_authorization(c->requester->bus, !c->no_ask_password);
        agent_start(c);
        if (c->timeout_usec != USEC_INFINITY) {
                uint64_t usec = MAX_OF(c->timeout_usec, 1u);
                c->requester->call_usec = MIN_OF(usec, REQUESTER_CALL_USEC);
                c->requester->long_usec = usec;
                (void) sd_bus_set_method_call_timeout(c->requester->bus, c->requester->call_usec);
        }
        return 0;
}

static int call_send(Context *c, sd_bus_message *m, json_object **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        if (requester_call(c->requester, m, c->requester->long_usec, &reply) < 0)
                return context_fail_requester(c);
        if (ret && requester_check(c->requester, bus_to_json(reply, ret)) < 0)
                return context_fail_requester(c);
        return 0;
}

int call_method(Context *c, const char *path, const char *interface, const char *name, json_object **ret,
                const char *types, ...) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r = context_connect(c);
        if (r < 0)
                return r;
        r = requester_new_call(c->requester, path, interface, name, &m);
        if (r >= 0) {
                va_list ap;
                va_start(ap, types);
                r = requester_check(c->requester, sd_bus_message_appendv(m, types, ap));
                va_end(ap);
        }
        return r < 0 ? context_fail_requester(c) : call_send(c, m, ret);
}

int call_built(Context *c, const char *name, CallAppend append, const void *userdata, json_object **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r = context_connect(c);
        if (r < 0)
                return r;
        r = requester_new_call(c->requester, VSS_ROOT_PATH, VSS_IFACE_MANAGER, name, &m);
        if (r >= 0)
                r = requester_check(c->requester, append(m, c, userdata));
        return r < 0 ? context_fail_requester(c) : call_send(c, m, ret);
}

/* Renames every key of one interface's properties. */
static json_object *properties_to_keys(json_object *properties) {
        json_object *object = json_object_new_object();
        json_object_object_foreach(properties, name, value) {
                char key[128];
                member_to_key(name, key, sizeof(key));
                json_object_object_add(object, key, json_object_get(value));
        }
        return object;
}

int call_properties(Context *c, const char *path, const char *interface, json_object **ret) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        int r = call_method(c, path, "org.freedesktop.DBus.Properties", "GetAll", &answer, "s", interface);
        if (r < 0)
                return r;
        json_object *object = properties_to_keys(json_object_array_get_idx(answer, 0));
        json_object_object_add(object, "object", json_object_new_string(path));
        json_object_object_add(object, "interface", json_object_new_string(interface));
        *ret = object;
        return 0;
}

int call_objects(Context *c, const char *interface, json_object **ret) {
        _cleanup_(json_object_putp) json_object *answer = NULL;
        int r = call_method(c, VSS_ROOT_PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", &answer, "");
        if (r < 0)
                return r;
        json_object *all = json_object_array_get_idx(answer, 0), *array = json_object_new_array();
        json_object_object_foreach(all, path, interfaces) { json_object_object_foreach(interfaces, name, properties) {
                if (strncmp(name, VSS_BUS_NAME, strlen(VSS_BUS_NAME)) != 0 ||
                    (interface && !streq(interface, name))) continue;
        json_object *object = properties_to_keys(properties);
        json_object_object_add(object, "object", json_object_new_string(path));
        json_object_object_add(object, "interface", json_object_new_string(name));
        json_object_array_add(array, object);
}
}
*ret = array;
return 0;
}

int call_results(Context *c, json_object *raw, const char *key, json_object **ret) {
        json_object *rows = json_object_new_array();
        int failed = 0;
        for (size_t i = 0; raw && json_object_is_type(raw, json_type_array) && i < json_object_array_length(raw); i++) {
                json_object *result = json_object_array_get_idx(raw, i), *row = json_object_new_object();
                const char *text[3] = { "", "", "" };
                for (size_t k = 0; k < 3 && json_object_is_type(result, json_type_array); k++)
                        text[k] = json_object_get_string(json_object_array_get_idx(result, k));
                Condition condition = condition_from_name(text[1]);
                json_object_object_add(row, key, json_object_new_string(text[0]));
                json_object_object_add(row, "error",
                                       isempty(text[1]) ?
                                               NULL :
                                               describe_error(text[1], text[2], condition_retryable(condition)));
                json_object_array_add(rows, row);
                if (!isempty(text[1]) && failed == 0) {
                        requester_fail_named(c->requester, text[1], text[2], -1);
                        failed = context_fail_requester(c);
                }
        }
        *ret = rows;
        return failed;
}

void first_keep(First *first, const Context *c) {
        if (first->condition != CONDITION_NONE)
                return;
        first->condition = c->condition;
        first->retryable = c->retryable;
        (void) snprintf(first->name, sizeof(first->name), "%s", c->error_name);
        (void) snprintf(first->message, sizeof(first->message), "%s", c->error_message);
}

int first_restore(const First *first, Context *c, unsigned n_failed) {
        if (first->condition == CONDITION_NONE)
                return 0;
        c->condition = first->condition;
        c->retryable = first->retryable;
        (void) snprintf(c->error_name, sizeof(c->error_name), "%s", first->name);
        if (n_failed > 1)
                (void) snprintf(c->error_message, sizeof(c->error_message), "%u failed; the first: %.400s", n_failed,
                                first->message);
        else
                (void) snprintf(c->error_message, sizeof(c->error_message), "%s", first->message);
        return -condition_errno(first->condition);
}
