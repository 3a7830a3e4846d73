/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/unit-manager.h"
#include <stdio.h>

#define SYSTEMD "org.freedesktop.systemd1"
#define SYSTEMD_PATH "/org/freedesktop/systemd1"
#define SYSTEMD_MANAGER SYSTEMD ".Manager"
#define SYSTEMD_SERVICE SYSTEMD ".Service"
#define SYSTEMD_SCOPE SYSTEMD ".Scope"
#define SYSTEMD_UNIT SYSTEMD ".Unit"

int manager_open(sd_bus **ret, Failure *reterr) {
        int r = sd_bus_open_system(ret);
        return r < 0 ? failure_set(reterr, CONDITION_UNAVAILABLE, "no system bus: %s", strerror(-r)) : 0;
}

static bool is_absent(const sd_bus_error *e) {
        return sd_bus_error_has_name(e, SD_BUS_ERROR_SERVICE_UNKNOWN) ||
               sd_bus_error_has_name(e, SD_BUS_ERROR_NAME_HAS_NO_OWNER) ||
               (e->name && strncmp(e->name, "org.freedesktop.DBus.Error.Spawn.", 33) == 0);
}

/* One call with strings as arguments that systemd answers; the deadline is that of the whole. */
static int call(sd_bus *bus, uint64_t until_usec, const char *verb, const char *argument, sd_bus_message **ret,
                sd_bus_error *error) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        uint64_t now = now_usec();
        if (now >= until_usec)
                return -ETIMEDOUT;
        int r = sd_bus_message_new_method_call(bus, &m, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, verb);
        r = r < 0 ? r : sd_bus_message_append(m, "s", argument);
        return r < 0 ? r : sd_bus_call(bus, m, until_usec - now, error, ret);
}

static const char *reason(const sd_bus_error *e, int r) {
        return e->message ?: strerror(-r);
}

/* Properties are small and come from PID 1; the bus itself bounds how long the last of them can take. */
static int property(sd_bus *bus, uint64_t until_usec, const char *path, const char *interface, const char *name,
                    const char *type, void *ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        uint64_t now = now_usec();
        if (now >= until_usec)
                return -ETIMEDOUT;
        int r = sd_bus_message_new_method_call(bus, &m, SYSTEMD, path, "org.freedesktop.DBus.Properties", "Get");
        r = r < 0 ? r : sd_bus_message_append(m, "ss", interface, name);
        r = r < 0 ? r : sd_bus_call(bus, m, until_usec - now, NULL, &reply);
        r = r < 0 ? r : sd_bus_message_enter_container(reply, 'v', type);
        if (r < 0)
                return r;
        if (streq(type, "as"))
                return sd_bus_message_read_strv(reply, ret);
        if (streq(type, "t"))
                return sd_bus_message_read(reply, "t", ret);
        const char *text;
        r = sd_bus_message_read(reply, "s", &text);
        return r < 0 ? r : (*(char **) ret = strdup(text)) ? 0 : -ENOMEM;
}

static void strv_join(char **list, char *ret, size_t size) {
        size_t n = 0;
        ret[0] = '\0';
        for (char **s = list; s && *s; free(*s), s++) {
                size_t length = strlen(*s);
                if (n + length + 2 < size)
                        n += (size_t) snprintf(ret + n, size - n, "%s\n", *s);
        }
        free(list);
}

static int facts_read(sd_bus *bus, uint64_t until_usec, const char *path, UnitFacts *ret, Failure *reterr) {
        _cleanup_free_ char *id = NULL, *state = NULL, *group = NULL;
        char **directories = NULL;
        *ret = (UnitFacts) {};
        int r = property(bus, until_usec, path, SYSTEMD_UNIT, "Id", "s", &id);
        r = r < 0 ? r : property(bus, until_usec, path, SYSTEMD_UNIT, "LoadState", "s", &state);
        if (r >= 0 && !streq(state, "loaded"))
                return failure_set(reterr, CONDITION_NOT_FOUND, "unit %.200s: %.100s", id, state);
        const char *suffix = id ? strrchr(id, '.') : NULL;
        bool service = suffix && streq(suffix, ".service"), scope = suffix && streq(suffix, ".scope");
        if (r >= 0 && (service || scope)) {
                r = property(bus, until_usec, path, service ? SYSTEMD_SERVICE : SYSTEMD_SCOPE, "ControlGroup", "s",
                             &group);
                if (r >= 0 && service)
                        r = property(bus, until_usec, path, SYSTEMD_SERVICE, "WatchdogUSec", "t", &ret->watchdog_usec);
                if (r >= 0 && service)
                        r = property(bus, until_usec, path, SYSTEMD_SERVICE, "StateDirectory", "as", &directories);
        }
        strv_join(directories, ret->state_directories, sizeof(ret->state_directories));
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "systemd does not say what %.200s is: %s", id ?: path,
                                   strerror(-r));
        if (strlen(id) >= sizeof(ret->id) || (group && strlen(group) >= sizeof(ret->control_group)))
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "the name of unit %.200s is too long", id);
        (void) snprintf(ret->id, sizeof(ret->id), "%s", id);
        (void) snprintf(ret->control_group, sizeof(ret->control_group), "%s", group ?: "");
        if (ret->watchdog_usec == UINT64_MAX)
                ret->watchdog_usec = 0;
        return 0;
}

int manager_unit(sd_bus *bus, uint64_t until_usec, const char *name, UnitFacts *ret, Failure *reterr) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        const char *path;
        int r = call(bus, until_usec, "LoadUnit", name, &reply, &error);
        if (r < 0)
                return failure_set(reterr, is_absent(&error) ? CONDITION_UNAVAILABLE : CONDITION_FAILED,
                                   "systemd does not answer for unit %.200s: %.200s", name, reason(&error, r));
        r = sd_bus_message_read(reply, "o", &path);
        return r < 0 ? failure_set(reterr, CONDITION_FAILED, "systemd answers with no unit") :
                       facts_read(bus, until_usec, path, ret, reterr);
}

int manager_unit_of(sd_bus *bus, uint64_t until_usec, const char *control_group, UnitFacts *ret, Failure *reterr) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        const char *path;
        int r = call(bus, until_usec, "GetUnitByControlGroup", control_group, &reply, &error);
        if (r < 0 && (is_absent(&error) || sd_bus_error_has_name(&error, SYSTEMD ".NoSuchUnit")))
                return 0;
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "systemd does not say whose %.200s is: %.200s",
                                   control_group, reason(&error, r));
        r = sd_bus_message_read(reply, "o", &path);
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "systemd answers with no unit");
        r = facts_read(bus, until_usec, path, ret, reterr);
        return r < 0 ? r : 1;
}

int manager_call(sd_bus *bus, uint64_t until_usec, const char *verb, const char *unit, Failure *reterr) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        int r = call(bus, until_usec, verb, unit, NULL, &error);
        if (r == -ETIMEDOUT)
                return failure_set(reterr, CONDITION_DEADLINE_PASSED, "%s of unit %.200s is not done in time", verb,
                                   unit);
        return r < 0 ? failure_set(reterr, CONDITION_FAILED, "systemd refuses %s of unit %.200s: %.200s", verb, unit,
                                   reason(&error, r)) :
                       0;
}

void manager_post(sd_bus *bus, const char *verb, const char *unit) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r = sd_bus_message_new_method_call(bus, &m, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, verb);
        r = r < 0 ? r : sd_bus_message_append(m, "s", unit);
        r = r < 0 ? r : sd_bus_message_set_expect_reply(m, false);
        if (r >= 0)
                (void) sd_bus_send(bus, m, NULL);
}

pid_t manager_owner(sd_bus *bus, uint64_t until_usec, const char *name) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        uint64_t now = now_usec();
        uint32_t pid = 0;
        if (now >= until_usec)
                return 0;
        int r = sd_bus_message_new_method_call(bus, &m, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                               "org.freedesktop.DBus", "GetConnectionUnixProcessID");
        r = r < 0 ? r : sd_bus_message_append(m, "s", name);
        r = r < 0 ? r : sd_bus_call(bus, m, until_usec - now, NULL, &reply);
        r = r < 0 ? r : sd_bus_message_read(reply, "u", &pid);
        return r < 0 ? 0 : (pid_t) pid;
}
