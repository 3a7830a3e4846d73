/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/vssd-fixture.h"
#include "protocol/busutil.h"
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

void vssd_set_directory(TestVssd *v, const char *variable, const char *name) {
        char path[4096];
        (void) snprintf(path, sizeof(path), "%s/%s", v->directory, name);
        (void) mkdir(path, 0755);
        ck_assert_int_eq(setenv(variable, path, 1), 0);
}

static bool answers(void *userdata) {
        const TestVssd *v = userdata;
        sd_bus_message *reply = NULL;
        int owned = 0;
        if (sd_bus_call_method(v->bus, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                               "NameHasOwner", NULL, &reply, "s", VSS_BUS_NAME) >= 0)
                (void) sd_bus_message_read(reply, "b", &owned);
        (void) sd_bus_message_unref(reply);
        return owned;
}

bool vssd_answers(TestVssd *v) {
        return answers(v);
}

pid_t vssd_start(void) {
        char command[] = "exec $VSSD_WRAPPER \"$VSS_BUILD/daemon/vssd\"", shell[] = "/bin/sh", option[] = "-c";
        return start_command((char *[]) { shell, option, command, NULL }, NULL);
}

void vssd_start_and_wait(TestVssd *v) {
        v->pid = vssd_start();
        if (!wait_until(answers, v, 20 * USEC_PER_SEC))
                test_die("vssd did not take its name");
}

void vssd_setup(TestVssd *v) {
        v->daemon = private_bus_new();
        v->directory = temp_dir_new();
        vssd_set_directory(v, "STATE_DIRECTORY", "state");
        vssd_set_directory(v, "RUNTIME_DIRECTORY", "run");
        vssd_set_directory(v, "CONFIGURATION_DIRECTORY", "etc");
        vssd_set_directory(v, "LOGS_DIRECTORY", "log");
        v->bus = private_bus_connect(v->daemon);
        vssd_start_and_wait(v);
}

void vssd_teardown(TestVssd *v) {
        if (v->pid > 0)
                ck_assert_int_eq(stop_command(v->pid, 10 * USEC_PER_SEC), 0);
        v->pid = 0;
        v->bus = sd_bus_flush_close_unref(v->bus);
        v->daemon = private_bus_free(v->daemon);
        v->directory = temp_dir_free(v->directory);
}

long vssd_resident_kib(const TestVssd *v) {
        char path[64], line[256];
        long kib = 0;
        if (getenv("VSSD_WRAPPER"))
                return 0; /* valgrind's memory says nothing about ours */
        (void) snprintf(path, sizeof(path), "/proc/%d/status", (int) v->pid);
        FILE *f = fopen(path, "re");
        ck_assert_ptr_nonnull(f);
        while (fgets(line, sizeof(line), f))
                if (sscanf(line, "VmRSS: %ld", &kib) == 1)
                        break;
        (void) fclose(f);
        return kib;
}

sd_bus_message *vssd_call(TestVssd *v, const char *path, const char *interface, const char *member) {
        sd_bus_message *m = NULL;
        ck_assert_int_ge(sd_bus_message_new_method_call(v->bus, &m, VSS_BUS_NAME, path, interface, member), 0);
        return m;
}

sd_bus_message *manager_call(TestVssd *v, const char *member) {
        return vssd_call(v, VSS_ROOT_PATH, VSS_IFACE_MANAGER, member);
}

void expect_error(sd_bus_message *m, Condition c, const char *text) {
        sd_bus_error e = SD_BUS_ERROR_NULL;
        sd_bus_message *reply = NULL;
        int r = sd_bus_call(sd_bus_message_get_bus(m), m, 10 * USEC_PER_SEC, &e, &reply);
        ck_assert_msg(r < 0, "%s was answered well", sd_bus_message_get_member(m));
        ck_assert_msg(streq_null(e.name, condition_name(c)), "%s: %s (%s), expected %s", sd_bus_message_get_member(m),
                      e.name, e.message, condition_name(c));
        ck_assert_msg(strstr(e.message, text), "%s: \"%s\" does not say \"%s\"", sd_bus_message_get_member(m),
                      e.message, text);
        sd_bus_error_free(&e);
        (void) sd_bus_message_unref(m);
}

sd_bus_message *registration(sd_bus *who, const char *name, const char *instance) {
        sd_bus_message *m = NULL;
        ck_assert_int_ge(sd_bus_message_new_method_call(who, &m, VSS_BUS_NAME, VSS_ROOT_PATH, VSS_IFACE_MANAGER,
                                                        "RegisterWriter"),
                         0);
        ck_assert_int_ge(sd_bus_message_append(m, "ssoa{sv}", name, instance, "/writer", 0), 0);
        return m;
}

int register_writer(sd_bus *who, const char *name, const char *instance, char **ret_entry) {
        sd_bus_error e = SD_BUS_ERROR_NULL;
        sd_bus_message *m = registration(who, name, instance), *reply = NULL;
        const char *entry;
        int lease, r = sd_bus_call(who, m, 10 * USEC_PER_SEC, &e, &reply);
        ck_assert_msg(r >= 0, "%s@%s: %s", name, instance, e.message);
        ck_assert_int_ge(sd_bus_message_read(reply, "oh", &entry, &lease), 0);
        lease = fcntl(lease, F_DUPFD_CLOEXEC, 3);
        ck_assert_int_ge(lease, 0);
        if (ret_entry)
                *ret_entry = strdup(entry);
        (void) sd_bus_message_unref(m);
        (void) sd_bus_message_unref(reply);
        return lease;
}
