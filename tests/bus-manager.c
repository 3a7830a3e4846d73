/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vssd on a private bus, asked wrongly, too often and by several at once. No file system is frozen and no provider
 * makes a copy: what is tested is what stands between the bus and the work. CK_FORK=no is set below: buses do not
 * survive a fork.
 */
#include "protocol/busutil.h"
#include "protocol/manifest.h"
#include "protocol/text.h"
#include "tests/vssd-fixture.h"
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

static TestVssd v;

static void setup(void) {
        vssd_setup(&v);
}

static void teardown(void) {
        vssd_teardown(&v);
}

/* Every method of every interface that needs no set, up to its options. */
typedef struct Method {
        const char *path, *interface, *member;
} Method;
static const Method methods[] = {
        { VSS_ROOT_PATH, VSS_IFACE_MANAGER, "CreateSet" },
        { VSS_ROOT_PATH, VSS_IFACE_MANAGER, "Plan" },
        { VSS_ROOT_PATH, VSS_IFACE_MANAGER, "RegisterWriter" },
        { VSS_ROOT_PATH, VSS_IFACE_MANAGER, "UnregisterWriter" },
        { VSS_ROOT_PATH, VSS_IFACE_MANAGER, "LookupVolume" },
        { VSS_ROOT_PATH, VSS_IFACE_MANAGER, "LookupId" },
        { VSS_ROOT_PATH, VSS_IFACE_MANAGER, "DeleteSnapshots" },
        { VSS_ROOT_PATH, VSS_IFACE_MANAGER, "Reload" },
        { VSS_PATH_PROVIDERS "/null", VSS_IFACE_PROVIDER_ENTRY, "Probe" },
};

static sd_bus_message *method_begin(const Method *method) {
        sd_bus_message *m = vssd_call(&v, method->path, method->interface, method->member);
        int r = 0;
        if (streq(method->member, "CreateSet") || streq(method->member, "Plan"))
                r = sd_bus_message_append(m, "a(sa{sv})", 1, "/", 0);
        else if (streq(method->member, "RegisterWriter"))
                r = sd_bus_message_append(m, "sso", "wrong", "", "/w");
        else if (streq(method->member, "UnregisterWriter"))
                r = sd_bus_message_append(m, "o", VSS_PATH_WRITERS "/a/_");
        else if (streq(method->member, "LookupVolume") || streq(method->member, "Probe"))
                r = sd_bus_message_append(m, "s", "/");
        else if (streq(method->member, "LookupId"))
                r = sd_bus_message_append(m, "s", "abcdef");
        else if (streq(method->member, "DeleteSnapshots"))
                r = sd_bus_message_append(m, "a{sv}", 1, "ids", "as", 1, "abcdef");
        ck_assert_int_ge(r, 0);
        return m;
}

START_TEST(option_that_is_unknown_is_refused_by_name) {
        sd_bus_message *m = method_begin(&methods[_i]);
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, "colour", "s", "blue"), 0);
        expect_error(m, CONDITION_INVALID_ARGUMENT, "colour");
}
END_TEST

/* Only those that take "reason"; the others have no option at all. */
START_TEST(option_of_the_wrong_type_is_refused_by_name) {
        static const unsigned with_reason[] = { 0, 1, 2, 3, 6, 7 };
        sd_bus_message *m = method_begin(&methods[with_reason[_i]]);
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, "reason", "u", 7), 0);
        expect_error(m, CONDITION_INVALID_ARGUMENT, "reason");
}
END_TEST

START_TEST(option_given_twice_is_refused_by_name) {
        static const unsigned with_reason[] = { 0, 1, 2, 3, 6, 7 };
        sd_bus_message *m = method_begin(&methods[with_reason[_i]]);
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 2, "reason", "s", "a", "reason", "s", "b"), 0);
        expect_error(m, CONDITION_INVALID_ARGUMENT, "reason");
}
END_TEST

/* One wrong thing in CreateSet each. */
static const struct {
        const char *volume, *key, *type, *value;
        Condition condition;
        const char *text;
} wrong[] = {
        { "/", "backup_type", "s", "whole", CONDITION_INVALID_ARGUMENT, "backup_type" },
        { "/", "require", "s", "best", CONDITION_INVALID_ARGUMENT, "require" },
        { "/", "closure", "s", "maybe", CONDITION_INVALID_ARGUMENT, "closure" },
        { "/", "lifetime", "s", "long", CONDITION_INVALID_ARGUMENT, "lifetime" },
        { "/", "session", "s", "ended", CONDITION_INVALID_ARGUMENT, "session" },
        { "/", "session", "s", "detached", CONDITION_INVALID_ARGUMENT, "auto-release" },
        { "/", "on_writer_failure", "s", "cry", CONDITION_INVALID_ARGUMENT, "on_writer_failure" },
        { "/", "auto_recovery", "s", "some", CONDITION_INVALID_ARGUMENT, "auto_recovery" },
        { "/", "provider", "s", "../evil", CONDITION_INVALID_ARGUMENT, "provider" },
        { "/", "provider", "s", "nobody", CONDITION_NOT_FOUND, "nobody" },
        { "", "requester", "s", "x", CONDITION_INVALID_ARGUMENT, "empty" },
        { "data", "requester", "s", "x", CONDITION_NOT_FOUND, "data" },
        { "/no/such/place", "requester", "s", "x", CONDITION_NOT_FOUND, "/no/such" },
};

START_TEST(value_that_makes_no_sense_is_refused_by_name) {
        sd_bus_message *m = manager_call(&v, "CreateSet");
        ck_assert_int_ge(sd_bus_message_append(m, "a(sa{sv})a{sv}", 1, wrong[_i].volume, 0, 1, wrong[_i].key,
                                               wrong[_i].type, wrong[_i].value),
                         0);
        expect_error(m, wrong[_i].condition, wrong[_i].text);
}
END_TEST

START_TEST(create_set_has_no_dry_run) {
        sd_bus_message *m = manager_call(&v, "CreateSet");
        ck_assert_int_ge(sd_bus_message_append(m, "a(sa{sv})a{sv}", 1, "/", 0, 1, "dry_run", "b", 1), 0);
        expect_error(m, CONDITION_INVALID_ARGUMENT, "dry_run");
        m = manager_call(&v, "CreateSet");
        ck_assert_int_ge(sd_bus_message_append(m, "a(sa{sv})a{sv}", 0, 0), 0);
        expect_error(m, CONDITION_INVALID_ARGUMENT, "neither a volume nor a component");
        m = manager_call(&v, "CreateSet");
        ck_assert_int_ge(sd_bus_message_append(m, "a(sa{sv})a{sv}", 1, "/", 1, "colour", "s", "red", 0), 0);
        expect_error(m, CONDITION_INVALID_ARGUMENT, "colour");
        m = manager_call(&v, "CreateSet");
        ck_assert_int_ge(sd_bus_message_append(m, "a(sa{sv})a{sv}", 1, "/", 0, 1, "timeouts", "a{st}", 1, "hold",
                                               (uint64_t) 1),
                         0);
        expect_error(m, CONDITION_INVALID_ARGUMENT, "hold");
        m = manager_call(&v, "CreateSet");
        ck_assert_int_ge(sd_bus_message_append(m, "a(sa{sv})a{sv}", 1, "/", 0, 1, "timeouts", "a{st}", 1, "nap",
                                               (uint64_t) 1000000),
                         0);
        expect_error(m, CONDITION_INVALID_ARGUMENT, "nap");
}
END_TEST

START_TEST(more_volumes_than_a_set_may_have_are_refused) {
        sd_bus_message *m = manager_call(&v, "CreateSet");
        ck_assert_int_ge(sd_bus_message_open_container(m, 'a', "(sa{sv})"), 0);
        for (int i = 0; i <= LIMIT_VOLUMES; i++)
                ck_assert_int_ge(sd_bus_message_append(m, "(sa{sv})", "/", 0), 0);
        ck_assert_int_ge(sd_bus_message_close_container(m), 0);
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 0), 0);
        expect_error(m, CONDITION_LIMIT_REACHED, "64");
}
END_TEST

static bool at_end(int fd) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        return poll(&p, 1, 0) == 1 && (p.revents & POLLHUP);
}

static bool lease_is_over(void *userdata) {
        return at_end(*(int *) userdata);
}

START_TEST(name_that_is_no_writers_name_is_refused) {
        static const struct {
                const char *name, *instance, *text;
        } bad[] = { { "Upper", "", "name" }, { "", "", "name" },         { "a_b", "", "name" },
                    { "../x", "", "name" },  { "a", "x/y", "instance" }, { "1000:a", "", "name" } };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                expect_error(registration(v.bus, bad[i].name, bad[i].instance), CONDITION_INVALID_ARGUMENT,
                             bad[i].text);
}
END_TEST

START_TEST(second_writer_of_one_name_is_refused_until_the_first_is_gone) {
        sd_bus *other = private_bus_connect(v.daemon);
        char *entry = NULL;
        int lease = register_writer(other, "twin", "x", &entry);
        ck_assert(!at_end(lease));
        expect_error(registration(v.bus, "twin", "x"), CONDITION_EXISTS, "twin@x");
        sd_bus_message *m = manager_call(&v, "UnregisterWriter");
        ck_assert_int_ge(sd_bus_message_append(m, "oa{sv}", entry, 0), 0);
        expect_error(m, CONDITION_NOT_AUTHORIZED, "another connection");
        (void) sd_bus_flush_close_unref(other);
        ck_assert(wait_until(lease_is_over, &lease, 5 * USEC_PER_SEC));
        (void) close_fd(lease);
        (void) close_fd(register_writer(v.bus, "twin", "x", NULL));
        free(entry);
}
END_TEST

START_TEST(lease_ends_when_vssd_dies) {
        int lease = register_writer(v.bus, "leased", "", NULL);
        ck_assert(!at_end(lease));
        ck_assert_int_eq(kill(v.pid, SIGKILL), 0);
        ck_assert(wait_until(lease_is_over, &lease, 5 * USEC_PER_SEC));
        (void) close_fd(lease);
        ck_assert(wait_command(v.pid, 5 * USEC_PER_SEC, NULL));
        vssd_start_and_wait(&v);
}
END_TEST

START_TEST(thousands_of_registrations_are_bounded) {
        long before = vssd_resident_kib(&v);
        int *leases = calloc(LIMIT_WRITERS, sizeof(*leases));
        char instance[32];
        for (int i = 0; i < LIMIT_WRITERS; i++) {
                (void) snprintf(instance, sizeof(instance), "%d", i);
                leases[i] = register_writer(v.bus, "many", instance, NULL);
        }
        for (int i = 0; i < 2000; i++) {
                (void) snprintf(instance, sizeof(instance), "x%d", i);
                expect_error(registration(v.bus, "many", instance), CONDITION_LIMIT_REACHED, "registered");
        }
        for (int i = 0; i < LIMIT_WRITERS; i++)
                (void) close_fd(leases[i]);
        free(leases);
        long grown = vssd_resident_kib(&v) - before;
        ck_assert_msg(grown <= VSSD_GROWTH_MAX_KIB, "vssd grew by %ld KiB", grown);
}
END_TEST

/* A list that is dropped and made again must not leave history behind without end. */
START_TEST(writers_that_come_and_go_are_bounded) {
        char instance[32];
        for (int i = 0; i < 40; i++) {
                sd_bus *other = private_bus_connect(v.daemon);
                for (int j = 0; j < 50; j++) {
                        (void) snprintf(instance, sizeof(instance), "%d", i * 50 + j);
                        (void) close_fd(register_writer(other, "gone", instance, NULL));
                }
                (void) sd_bus_flush_close_unref(other);
        }
        sd_bus_message *reply = NULL;
        ck_assert_int_ge(sd_bus_call_method(v.bus, VSS_BUS_NAME, VSS_PATH_WRITERS "/gone",
                                            "org.freedesktop.DBus.Introspectable", "Introspect", NULL, &reply, NULL),
                         0);
        const char *xml;
        unsigned n = 0;
        ck_assert_int_ge(sd_bus_message_read(reply, "s", &xml), 0);
        for (const char *at = xml; (at = strstr(at, "<node name=")); at++)
                n++;
        ck_assert_msg(n <= LIMIT_WRITERS, "%u entries", n);
        (void) sd_bus_message_unref(reply);
}
END_TEST

static int count_reply(sd_bus_message *reply, void *userdata, sd_bus_error *e) {
        unsigned *counts = userdata;
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        counts[error && streq(error->name, condition_name(CONDITION_LIMIT_REACHED)) ? 1 : 0]++;
        return 0;
}

/* Each is answered, and one connection cannot have more than its share under way. */
START_TEST(calls_of_one_connection_are_bounded) {
        unsigned counts[2] = { 0, 0 };
        enum { CALLS = 120 };
        for (int i = 0; i < CALLS; i++) {
                sd_bus_message *m = manager_call(&v, "LookupVolume");
                ck_assert_int_ge(sd_bus_message_append(m, "sa{sv}", "/", 0), 0);
                ck_assert_int_ge(sd_bus_call_async(v.bus, NULL, m, count_reply, counts, 20 * USEC_PER_SEC), 0);
                (void) sd_bus_message_unref(m);
        }
        uint64_t end = now_usec() + 20 * USEC_PER_SEC;
        while (counts[0] + counts[1] < CALLS && now_usec() < end) {
                int r = sd_bus_process(v.bus, NULL);
                ck_assert_int_ge(r, 0);
                if (r == 0)
                        (void) sd_bus_wait(v.bus, 100 * USEC_PER_MSEC);
        }
        ck_assert_uint_eq(counts[0] + counts[1], CALLS);
        ck_assert_uint_ge(counts[0], 64);
        ck_assert_uint_gt(counts[1], 0);
}
END_TEST

START_TEST(bare_prefixes_are_no_objects) {
        static const char *const prefixes[] = { VSS_PATH_SETS, VSS_PATH_SNAPSHOTS, VSS_PATH_WRITERS, VSS_PATH_PROVIDERS,
                                                VSS_PATH_VOLUMES };
        sd_bus_message *reply = NULL;
        const char *path;
        bool provider = false, volume = false;
        ck_assert_int_ge(sd_bus_call_method(v.bus, VSS_BUS_NAME, VSS_ROOT_PATH, "org.freedesktop.DBus.ObjectManager",
                                            "GetManagedObjects", NULL, &reply, NULL),
                         0);
        ck_assert_int_ge(sd_bus_message_enter_container(reply, 'a', "{oa{sa{sv}}}"), 0);
        while (sd_bus_message_enter_container(reply, 'e', "oa{sa{sv}}") > 0) {
                ck_assert_int_ge(sd_bus_message_read(reply, "o", &path), 0);
                for (size_t i = 0; i < ELEMENTSOF(prefixes); i++)
                        ck_assert_str_ne(path, prefixes[i]);
                ck_assert_str_ne(path, VSS_ROOT_PATH);
                provider = provider || streq(path, VSS_PATH_PROVIDERS "/null");
                volume = volume || streq(path, VSS_PATH_VOLUMES "/_2f");
                ck_assert_int_ge(sd_bus_message_skip(reply, "a{sa{sv}}"), 0);
                ck_assert_int_ge(sd_bus_message_exit_container(reply), 0);
        }
        ck_assert(provider && volume);
        (void) sd_bus_message_unref(reply);
}
END_TEST

START_TEST(object_that_is_not_there_is_not_found) {
        sd_bus_message *m = vssd_call(&v, VSS_PATH_SETS "/_31234", VSS_IFACE_SET, "Wait");
        sd_bus_error e = SD_BUS_ERROR_NULL;
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 0), 0);
        ck_assert_int_lt(sd_bus_call(v.bus, m, 5 * USEC_PER_SEC, &e, NULL), 0);
        ck_assert_int_eq(condition_from_name(e.name), CONDITION_NOT_FOUND);
        sd_bus_error_free(&e);
        (void) sd_bus_message_unref(m);
        m = manager_call(&v, "LookupId");
        ck_assert_int_ge(sd_bus_message_append(m, "sa{sv}", "01234567", 0), 0);
        expect_error(m, CONDITION_NOT_FOUND, "01234567");
        m = manager_call(&v, "LookupId");
        ck_assert_int_ge(sd_bus_message_append(m, "sa{sv}", "0", 0), 0);
        expect_error(m, CONDITION_NOT_FOUND, "4");
}
END_TEST

START_TEST(second_vssd_is_refused) {
        int status;
        pid_t second = vssd_start(); /* same state directory */
        ck_assert(wait_command(second, 15 * USEC_PER_SEC, &status));
        ck_assert(WIFEXITED(status) && WEXITSTATUS(status) != 0);
        vssd_set_directory(&v, "STATE_DIRECTORY", "state2"); /* same bus only */
        vssd_set_directory(&v, "RUNTIME_DIRECTORY", "run2");
        second = vssd_start();
        ck_assert(wait_command(second, 15 * USEC_PER_SEC, &status));
        ck_assert(WIFEXITED(status) && WEXITSTATUS(status) != 0);
        ck_assert(vssd_answers(&v));
        ck_assert(!wait_command(v.pid, 0, NULL));
}
END_TEST

static void restart_with_idle(const char *seconds) {
        char path[4096], text[128];
        ck_assert_int_eq(stop_command(v.pid, 10 * USEC_PER_SEC), 0);
        (void) snprintf(path, sizeof(path), "%s/etc/vssd.conf", v.directory);
        (void) snprintf(text, sizeof(text), "[Daemon]\nidle=%s\n", seconds);
        file_write(path, text);
        vssd_start_and_wait(&v);
}

START_TEST(idle_vssd_leaves_and_one_with_a_writer_stays) {
        int status;
        restart_with_idle("0.5");
        ck_assert(wait_command(v.pid, 10 * USEC_PER_SEC, &status));
        ck_assert_int_eq(status, 0);
        vssd_start_and_wait(&v);
        int lease = register_writer(v.bus, "stays", "", NULL);
        ck_assert(!wait_command(v.pid, 2 * USEC_PER_SEC, NULL));
        (void) close_fd(lease);
        v.bus = sd_bus_flush_close_unref(v.bus); /* the writer goes */
        ck_assert(wait_command(v.pid, 10 * USEC_PER_SEC, &status));
        ck_assert_int_eq(status, 0);
        v.pid = 0;
}
END_TEST

START_TEST(reload_takes_good_files_and_refuses_bad_ones) {
        char path[4096];
        (void) snprintf(path, sizeof(path), "%s/etc/vssd.conf", v.directory);
        file_write(path, "[Timeouts]\nhold=banana\n");
        sd_bus_message *m = manager_call(&v, "Reload");
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 0), 0);
        sd_bus_error e = SD_BUS_ERROR_NULL;
        ck_assert_int_lt(sd_bus_call(v.bus, m, 5 * USEC_PER_SEC, &e, NULL), 0);
        ck_assert_msg(strstr(e.message, "vssd.conf:2"), "%s", e.message);
        sd_bus_error_free(&e);
        (void) sd_bus_message_unref(m);
        file_write(path, "[Timeouts]\nhold=5\n");
        ck_assert_int_ge(sd_bus_call_method(v.bus, VSS_BUS_NAME, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "Reload", NULL, NULL,
                                            "a{sv}", 0),
                         0);
}
END_TEST

START_TEST(declarative_writers_are_roots_and_well_formed) {
        char path[4096];
        struct stat st;
        sd_bus_message *m;
        (void) snprintf(path, sizeof(path), "%s/etc/writers.d", v.directory);
        (void) mkdir(path, 0755);
        (void) snprintf(path, sizeof(path), "%s/etc/writers.d/good.json", v.directory);
        file_write(
                path,
                "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"good\",\"version\":\"1\",\"level\":\"system\",\"usage\":"
                "\"other\",\"source\":\"other\"},\"components\":[]}");
        (void) snprintf(path, sizeof(path), "%s/etc/writers.d/bad.json", v.directory);
        file_write(path, "{\"schema\":1,");
        (void) snprintf(path, sizeof(path), "%s/etc/writers.d/theirs.json", v.directory);
        file_write(
                path,
                "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"theirs\",\"version\":\"1\",\"level\":\"system\",\"usage\":"
                "\"other\",\"source\":\"other\"},\"components\":[]}");
        ck_assert_int_eq(chown(path, 65534, 65534), 0);
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_int_ge(sd_bus_call_method(v.bus, VSS_BUS_NAME, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "Reload", NULL, NULL,
                                            "a{sv}", 0),
                         0);
        m = vssd_call(&v, VSS_PATH_WRITERS "/good/_", VSS_IFACE_WRITER_ENTRY, "GetMetadata");
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 0), 0);
        ck_assert_int_ge(sd_bus_call(v.bus, m, 5 * USEC_PER_SEC, NULL, NULL), 0);
        (void) sd_bus_message_unref(m);
        m = vssd_call(&v, VSS_PATH_WRITERS "/theirs/_", VSS_IFACE_WRITER_ENTRY, "GetMetadata");
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 0), 0);
        ck_assert_int_lt(sd_bus_call(v.bus, m, 5 * USEC_PER_SEC, NULL, NULL), 0);
        (void) sd_bus_message_unref(m);
        expect_error(registration(v.bus, "good", ""), CONDITION_EXISTS, "good");
}
END_TEST

/* valgrind takes fifty times as long. */
static int chosen(void) {
        return getenv("VSSD_WRAPPER") ? LIMIT_COMPONENTS / 16 : LIMIT_COMPONENTS;
}

static int manifest_of_thousands(void) {
        static char paths[LIMIT_COMPONENTS][16], id[] = "0e1b6f0c-9a3e-4d7b-8f5e-6a1f4b2c3d4e",
                                                 created[] = "2026-11-22T10:00:02.377800Z",
                                                 machine[] = "5d1f0c3b9e7a4f6c8b2d1e0f9a8b7c6d";
        static ManifestComponent many[LIMIT_COMPONENTS];
        char *text = NULL, *json = NULL, name[] = "shop", nothing[] = "";
        size_t size = 0;
        int fd;
        FILE *stream = open_memstream(&text, &size);
        (void) fprintf(stream,
                       "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"shop\"},\"components\":[");
        for (int i = 0; i < chosen(); i++) {
                (void) snprintf(paths[i], sizeof(paths[i]), "c%d", i);
                many[i] = (ManifestComponent) { .path = paths[i] };
                (void) fprintf(stream, "%s{\"path\":\"%s\",\"type\":\"database\",\"selectable\":true}", i ? "," : "",
                               paths[i]);
        }
        (void) fprintf(stream, "]}");
        ck_assert_int_eq(fclose(stream), 0);
        ManifestWriter w = { .name = name,
                             .instance = nothing,
                             .metadata_text = text,
                             .components = many,
                             .n_components = (size_t) chosen() };
        Manifest manifest = { .set = id,
                              .created = created,
                              .host_name = name,
                              .machine_id = machine,
                              .vss_version = name,
                              .requester = name,
                              .consistency = CONSISTENCY_CRASH,
                              .writers = &w,
                              .n_writers = 1 };
        ck_assert_int_ge(manifest_format(&manifest, &json), 0);
        ck_assert_int_ge(bus_document_new("manifest", json, strlen(json), &fd), 0);
        free(json);
        free(text);
        return fd;
}

/* While vssd chooses, it answers nobody. */
START_TEST(thousands_of_components_are_chosen_at_once) {
        sd_bus_error e = SD_BUS_ERROR_NULL;
        sd_bus_message *m = manager_call(&v, "PreRestore"), *reply = NULL;
        int lease = register_writer(v.bus, "shop", "", NULL), fd = manifest_of_thousands(), n = 0;
        const char *session;
        ck_assert_int_ge(sd_bus_message_append(m, "h", fd), 0);
        ck_assert_int_ge(sd_bus_message_open_container(m, 'a', "(ssa{sv})"), 0);
        for (int i = 0; i < chosen(); i++) {
                char path[16];
                (void) snprintf(path, sizeof(path), "c%d", i);
                ck_assert_int_ge(sd_bus_message_append(m, "(ssa{sv})", "shop", path, 0), 0);
        }
        ck_assert_int_ge(sd_bus_message_close_container(m), 0);
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, "dry_run", "b", 1), 0);
        uint64_t begin = now_usec();
        int r = sd_bus_call(v.bus, m, 60 * USEC_PER_SEC, &e, &reply);
        uint64_t took = now_usec() - begin;
        ck_assert_msg(r >= 0, "%s", e.message);
        ck_assert_int_ge(sd_bus_message_read(reply, "s", &session), 0);
        ck_assert_int_ge(sd_bus_message_enter_container(reply, 'a', "(ssa{sv})"), 0);
        for (; sd_bus_message_skip(reply, "(ssa{sv})") > 0; n++)
                ;
        ck_assert_int_eq(n, chosen());
        ck_assert_msg(took < VSSD_QUICK_USEC || getenv("VSSD_WRAPPER"), "it took %llu us", (unsigned long long) took);
        (void) sd_bus_message_unref(m);
        (void) sd_bus_message_unref(reply);
        (void) close(lease);
        (void) close(fd);
}
END_TEST

int main(void) {
        (void) setenv("CK_FORK", "no", 1);
        sandbox_enter(getenv("VSSD_WRAPPER") ? 400 : 110);
        Suite *s = suite_create("bus-manager");
        TCase *t = tcase_create("arguments"), *w = tcase_create("writers"), *d = tcase_create("daemon");
        tcase_add_unchecked_fixture(t, setup, teardown);
        tcase_add_loop_test(t, option_that_is_unknown_is_refused_by_name, 0, ELEMENTSOF(methods));
        tcase_add_loop_test(t, option_of_the_wrong_type_is_refused_by_name, 0, 6);
        tcase_add_loop_test(t, option_given_twice_is_refused_by_name, 0, 6);
        tcase_add_loop_test(t, value_that_makes_no_sense_is_refused_by_name, 0, ELEMENTSOF(wrong));
        tcase_add_test(t, create_set_has_no_dry_run);
        tcase_add_test(t, more_volumes_than_a_set_may_have_are_refused);
        tcase_add_test(t, bare_prefixes_are_no_objects);
        tcase_add_test(t, object_that_is_not_there_is_not_found);
        tcase_add_test(t, calls_of_one_connection_are_bounded);
        tcase_add_test(t, name_that_is_no_writers_name_is_refused);
        tcase_add_checked_fixture(w, setup, teardown);
        tcase_add_test(w, second_writer_of_one_name_is_refused_until_the_first_is_gone);
        tcase_add_test(w, lease_ends_when_vssd_dies);
        tcase_add_test(w, thousands_of_registrations_are_bounded);
        tcase_add_test(w, writers_that_come_and_go_are_bounded);
        tcase_add_checked_fixture(d, setup, teardown);
        tcase_add_test(d, second_vssd_is_refused);
        tcase_add_test(d, idle_vssd_leaves_and_one_with_a_writer_stays);
        tcase_add_test(d, reload_takes_good_files_and_refuses_bad_ones);
        tcase_add_test(d, declarative_writers_are_roots_and_well_formed);
        tcase_add_test(t, thousands_of_components_are_chosen_at_once);
        suite_add_tcase(s, t);
        suite_add_tcase(s, w);
        suite_add_tcase(s, d);
        tcase_set_timeout(t, 60);
        tcase_set_timeout(w, 60);
        tcase_set_timeout(d, 60);
        SRunner *runner = srunner_create(s);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
