/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What may become code of vss-provider-host: only files nobody but root can change, of an interface version we know,
 * with all the calls their capabilities promise; and what an older binary does not have is NULL, not garbage.
 */
#include "providers/loader.h"
#include "providers/builtin.h"
#include "providers/directory.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>

static char *directory;
static Failure failure;
static LoadedProvider loaded;

static void setup(void) {
        directory = temp_dir_new();
        ck_assert_int_eq(chmod(directory, 0755), 0);
        ck_assert_int_eq(setenv("VSS_PROVIDER_DIRECTORY", directory, 1), 0);
        failure = (Failure) {};
        loaded = (LoadedProvider) {};
}

static void teardown(void) {
        directory = temp_dir_free(directory);
}

/* Puts build/tests/FIXTURE.so into the directory as NAME.so. */
static void put(const char *fixture, const char *name, mode_t mode) {
        char source[512], target[512], buffer[65536];
        (void) snprintf(source, sizeof(source), "%s/tests/%s.so", getenv("VSS_BUILD"), fixture);
        (void) snprintf(target, sizeof(target), "%s/%s.so", directory, name);
        _cleanup_close_ int in = open(source, O_RDONLY | O_CLOEXEC),
                            out = open(target, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_msg(in >= 0 && out >= 0, "cannot copy %s to %s", source, target);
        for (ssize_t n; (n = read(in, buffer, sizeof(buffer))) > 0;)
                ck_assert_int_eq(write(out, buffer, (size_t) n), n);
        ck_assert_int_eq(fchmod(out, mode), 0);
}

static void assert_refused(const char *name, Condition condition, const char *text) {
        failure = (Failure) {};
        ck_assert_int_lt(provider_load(name, &loaded, &failure), 0);
        ck_assert_msg(failure.condition == condition, "%s: %s", condition_name(failure.condition), failure.message);
        ck_assert_msg(strstr(failure.message, text), "\"%s\" does not say \"%s\"", failure.message, text);
}

START_TEST(a_good_file_loads) {
        put("fixture-good", "fixture-good", 0644);
        ck_assert_msg(provider_load("fixture-good", &loaded, &failure) == 0, "%s", failure.message);
        ck_assert(!loaded.builtin);
        ck_assert_int_eq(provider_start(&loaded, &failure), 0);
        ck_assert_str_eq(loaded.table.version, "fixture");
        ck_assert_ptr_nonnull(loaded.table.clear_mark);
        provider_stop(&loaded);
}
END_TEST

START_TEST(an_older_binary_has_null_for_what_came_later) {
        put("fixture-old", "fixture-old", 0644);
        ck_assert_msg(provider_load("fixture-old", &loaded, &failure) == 0, "%s", failure.message);
        ck_assert_ptr_null(loaded.table.clear_mark);
        ck_assert_uint_eq(loaded.table.struct_size, sizeof(struct vss_provider));
}
END_TEST

START_TEST(files_that_others_can_change_are_refused) {
        put("fixture-good", "fixture-good", 0666);
        assert_refused("fixture-good", CONDITION_NOT_AUTHORIZED, "nobody else can write");
        put("fixture-good", "fixture-good", 0664);
        assert_refused("fixture-good", CONDITION_NOT_AUTHORIZED, "nobody else can write");
}
END_TEST

START_TEST(files_of_others_are_refused) {
        if (geteuid() != 0)
                return;
        char path[512];
        put("fixture-good", "fixture-good", 0644);
        (void) snprintf(path, sizeof(path), "%s/fixture-good.so", directory);
        ck_assert_int_eq(chown(path, 65534, 65534), 0);
        assert_refused("fixture-good", CONDITION_NOT_AUTHORIZED, "plain file of root");
}
END_TEST

START_TEST(directories_that_others_can_change_are_refused) {
        put("fixture-good", "fixture-good", 0644);
        ck_assert_int_eq(chmod(directory, 0777), 0);
        assert_refused("fixture-good", CONDITION_NOT_AUTHORIZED, directory);
        ck_assert_int_eq(chmod(directory, 01777), 0); /* sticky is no help: a new file is enough */
        assert_refused("fixture-good", CONDITION_NOT_AUTHORIZED, directory);
        char **names = NULL;
        ck_assert_int_eq(provider_directory_names(&names), -EPERM);
        ck_assert_ptr_null(names);
}
END_TEST

START_TEST(a_directory_below_one_that_others_can_change_is_refused) {
        char below[512];
        (void) snprintf(below, sizeof(below), "%s/below", directory);
        ck_assert_int_eq(mkdir(below, 0755), 0);
        ck_assert_int_eq(chmod(directory, 0777), 0);
        ck_assert_int_eq(setenv("VSS_PROVIDER_DIRECTORY", below, 1), 0);
        assert_refused("fixture-good", CONDITION_NOT_AUTHORIZED, directory);
}
END_TEST

START_TEST(symbolic_links_and_pipes_are_no_providers) {
        char target[512], path[512];
        put("fixture-good", "real", 0644);
        (void) snprintf(target, sizeof(target), "%s/real.so", directory);
        (void) snprintf(path, sizeof(path), "%s/fixture-good.so", directory);
        ck_assert_int_eq(symlink(target, path), 0);
        assert_refused("fixture-good", CONDITION_NOT_AUTHORIZED, "plain file");
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(mkfifo(path, 0600), 0);
        assert_refused("fixture-good", CONDITION_NOT_AUTHORIZED, "plain file");
}
END_TEST

START_TEST(files_that_are_no_providers_are_refused) {
        char path[512];
        put("fixture-version", "fixture-version", 0644);
        assert_refused("fixture-version", CONDITION_NOT_SUPPORTED, "version 99");
        put("fixture-small", "fixture-small", 0644);
        assert_refused("fixture-small", CONDITION_PROVIDER_FAILED, "bytes");
        put("fixture-incomplete", "fixture-incomplete", 0644);
        assert_refused("fixture-incomplete", CONDITION_PROVIDER_FAILED, "no abort call");
        put("fixture-entryless", "fixture-entryless", 0644);
        assert_refused("fixture-entryless", CONDITION_PROVIDER_FAILED, "VSS_REGISTER_PROVIDER");
        put("fixture-good", "another-name", 0644);
        assert_refused("another-name", CONDITION_PROVIDER_FAILED, "calls itself fixture-good");
        (void) snprintf(path, sizeof(path), "%s/text.so", directory);
        file_write(path, "no library at all\n");
        assert_refused("text", CONDITION_PROVIDER_FAILED, "cannot be loaded");
        assert_refused("absent", CONDITION_NOT_FOUND, "absent.so");
}
END_TEST

START_TEST(names_that_are_paths_are_refused) {
        static const char *const bad[] = { "", "../x", "a/b", ".", "A", "fault:", "fault:fault:null", "a:b", "x.so" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_int_lt(provider_load(bad[i], &loaded, NULL), 0);
}
END_TEST

static int step(void *state, struct vss_call *c) {
        return 0;
}

static uint64_t promises(void *state) {
        return VSS_CAP_HOLDS;
}

START_TEST(what_capabilities_promise_must_be_there) {
        LoadedProvider p = { .table = null_provider };
        p.table.capabilities = promises;
        ck_assert_int_lt(provider_start(&p, &failure), 0);
        ck_assert_ptr_nonnull(strstr(failure.message, "no hold call"));
        p = (LoadedProvider) { .table = null_provider };
        p.table.capabilities = promises;
        p.table.hold = p.table.release = step;
        ck_assert_int_eq(provider_start(&p, &failure), 0);
}
END_TEST

START_TEST(a_later_table_is_cut_to_what_we_know) {
        struct {
                struct vss_provider table;
                int (*later)(void *state);
        } future = { .table = null_provider };
        struct vss_provider p;
        future.table.struct_size = sizeof(future);
        ck_assert_int_eq(provider_table_check(&future.table, "null", &p, &failure), 0);
        ck_assert_uint_eq(p.struct_size, sizeof(p));
        ck_assert_int_lt(provider_table_check(NULL, "null", &p, &failure), 0);
        future.table.version =
                "a version that is longer than the eighty bytes that a message to vssd has for it, really";
        ck_assert_int_lt(provider_table_check(&future.table, "null", &p, &failure), 0);
}
END_TEST

START_TEST(the_directory_lists_only_valid_names) {
        put("fixture-good", "b-good", 0644);
        put("fixture-good", "a-good", 0644);
        put("fixture-good", "Bad", 0644);
        put("fixture-good", "null", 0644); /* hides nothing: the built-in one is meant */
        char **names = NULL;
        ck_assert_int_eq(provider_directory_names(&names), 0);
        ck_assert_str_eq(names[0], "a-good");
        ck_assert_str_eq(names[1], "b-good");
        ck_assert_ptr_null(names[2]);
        (void) provider_names_free(names);
        ck_assert_int_eq(setenv("VSS_PROVIDER_DIRECTORY", "/does/not/exist", 1), 0);
        ck_assert_int_eq(provider_directory_names(&names), 0);
        ck_assert_ptr_null(names[0]);
        (void) provider_names_free(names);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("unit-loader");
        TCase *t = tcase_create("loader");
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, a_good_file_loads);
        tcase_add_test(t, an_older_binary_has_null_for_what_came_later);
        tcase_add_test(t, files_that_others_can_change_are_refused);
        tcase_add_test(t, files_of_others_are_refused);
        tcase_add_test(t, directories_that_others_can_change_are_refused);
        tcase_add_test(t, a_directory_below_one_that_others_can_change_is_refused);
        tcase_add_test(t, symbolic_links_and_pipes_are_no_providers);
        tcase_add_test(t, files_that_are_no_providers_are_refused);
        tcase_add_test(t, names_that_are_paths_are_refused);
        tcase_add_test(t, what_capabilities_promise_must_be_there);
        tcase_add_test(t, a_later_table_is_cut_to_what_we_know);
        tcase_add_test(t, the_directory_lists_only_valid_names);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
