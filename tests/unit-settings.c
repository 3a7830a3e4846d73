/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vssd.conf: what may be written there, and what happens to everything else. */
#include "daemon/settings.h"
#include "protocol/base.h"
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static char directory[] = "/tmp/vss-settings-XXXXXX";
static Settings settings;
static Failure failure;

static void setup(void) {
        strcpy(directory + strlen(directory) - 6, "XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        ck_assert_int_eq(setenv("CONFIGURATION_DIRECTORY", directory, 1), 0);
        ck_assert_int_eq(settings_init(&settings), 0);
        memset(&failure, 0, sizeof(failure));
}

static void teardown(void) {
        char command[128];

        settings_done(&settings);
        (void) snprintf(command, sizeof(command), "rm -rf %s", directory);
        ck_assert_int_eq(system(command), 0);
}

static void put_bytes(const char *name, const char *text, size_t size, mode_t mode) {
        char path[256];
        int fd;

        (void) snprintf(path, sizeof(path), "%s/vssd.conf.d", directory);
        (void) mkdir(path, 0755);
        (void) snprintf(path, sizeof(path), "%s/%s", directory, name);
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, text, size), (ssize_t) size);
        ck_assert_int_eq(fchmod(fd, mode), 0);
        (void) close_fd(fd);
}

static void put(const char *name, const char *text) {
        put_bytes(name, text, strlen(text), 0644);
}

/* Loading must fail, say so with every word of expected, and leave the settings alone. */
static void expect_refused(const char *expected) {
        Settings before = settings;

        ck_assert_int_lt(settings_load(&settings, &failure), 0);
        ck_assert_msg(strstr(failure.message, expected) != NULL, "\"%s\" is not in \"%s\"", expected, failure.message);
        ck_assert_int_eq(failure.condition, CONDITION_INVALID_ARGUMENT);
        ck_assert_mem_eq(&before, &settings, sizeof(before));
}

START_TEST(defaults_without_any_file) {
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.budgets.hold, 10 * USEC_PER_SEC);
        ck_assert_uint_eq(settings.budgets.prepare_backup, 3600 * USEC_PER_SEC);
        ck_assert_uint_eq(settings.idle_usec, 180 * USEC_PER_SEC);
        ck_assert_uint_eq(settings.session_max_usec, 7 * 86400 * USEC_PER_SEC);
        ck_assert_uint_eq(settings.window_max_usec, 60 * USEC_PER_SEC);
        ck_assert_uint_eq(settings.writers_max, LIMIT_WRITERS);
        ck_assert_uint_eq(settings.skip_free, 1);
}
END_TEST

START_TEST(missing_configuration_directory_means_defaults) {
        free(settings.configuration_directory);
        settings.configuration_directory = strdup("/nonexistent/vss");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.budgets.hold, 10 * USEC_PER_SEC);
}
END_TEST

START_TEST(values_spaces_and_comments_are_read) {
        put("vssd.conf", "# a comment\n; another\n\n [Timeouts] \r\n  hold = 2.5 \nidentify=0.001\nfreeze=7.000001\n"
                         "[Daemon]\nidle=infinity\nsession_max=86400\n[Limits]\nwriters_max=7\nwindow_max=5");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.budgets.hold, 2500000);
        ck_assert_uint_eq(settings.budgets.identify, 1000);
        ck_assert_uint_eq(settings.budgets.freeze, 7000001);
        ck_assert_uint_eq(settings.idle_usec, USEC_INFINITY);
        ck_assert_uint_eq(settings.session_max_usec, 86400 * USEC_PER_SEC);
        ck_assert_uint_eq(settings.writers_max, 7);
        ck_assert_uint_eq(settings.window_max_usec, 5 * USEC_PER_SEC);
}
END_TEST

START_TEST(a_switch_is_yes_or_no) {
        put("vssd.conf", "[Copies]\nskip_free=no\n");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.skip_free, 0);
        put("vssd.conf.d/10-a.conf", "[Copies]\n skip_free = yes \n");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.skip_free, 1);
        put("vssd.conf.d/20-b.conf", "[Copies]\nskip_free=no\n");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.skip_free, 0);
        put("vssd.conf", "");
        put("vssd.conf.d/10-a.conf", "");
        put("vssd.conf.d/20-b.conf", "");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.skip_free, 1); /* nothing says so any more */
}
END_TEST

START_TEST(lvm_is_told_by_the_environment) {
        put("vssd.conf", "");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_int_eq(settings_export(&settings), 0);
        ck_assert_str_eq(getenv("VSS_LVM_SNAPSHOT_SIZE"), "20");
        ck_assert_str_eq(getenv("VSS_LVM_HOLD"), "auto");
        put("vssd.conf", "[Copies]\nlvm_snapshot_size=7\nlvm_hold=no\n");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_int_eq(settings_export(&settings), 0);
        ck_assert_str_eq(getenv("VSS_LVM_SNAPSHOT_SIZE"), "7");
        ck_assert_str_eq(getenv("VSS_LVM_HOLD"), "no");
}
END_TEST

START_TEST(window_follows_freeze_unless_given) {
        put("vssd.conf", "[Timeouts]\nfreeze=90\n");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.window_max_usec, 90 * USEC_PER_SEC);
}
END_TEST

START_TEST(drop_ins_win_in_name_order_and_other_names_do_not_count) {
        put("vssd.conf", "[Timeouts]\nhold=1\nabort=1\n");
        put("vssd.conf.d/20-b.conf", "[Timeouts]\nhold=3\n");
        put("vssd.conf.d/10-a.conf", "[Timeouts]\nhold=2\nthaw=2\n");
        put("vssd.conf.d/30-c.conf.bak", "[Timeouts]\nhold=4\n");
        put("vssd.conf.d/.conf", "rubbish");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.budgets.hold, 3 * USEC_PER_SEC);
        ck_assert_uint_eq(settings.budgets.thaw, 2 * USEC_PER_SEC);
        ck_assert_uint_eq(settings.budgets.abort, 1 * USEC_PER_SEC);
}
END_TEST

START_TEST(reload_forgets_what_the_file_no_longer_says) {
        put("vssd.conf", "[Timeouts]\nhold=1\n");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        put("vssd.conf", "");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.budgets.hold, 10 * USEC_PER_SEC);
}
END_TEST

START_TEST(unknown_names_are_let_through) {
        put("vssd.conf", "[Timeouts]\nfuture=1\n[Future]\nhold=1\n[Timeouts]\nabort=3\n");
        ck_assert_int_eq(settings_load(&settings, &failure), 0);
        ck_assert_uint_eq(settings.budgets.hold, 10 * USEC_PER_SEC);
        ck_assert_uint_eq(settings.budgets.abort, 3 * USEC_PER_SEC);
}
END_TEST

static const struct {
        const char *text, *expected;
} bad[] = {
        { "[Timeouts]\nhold=ten\n", "vssd.conf:2: hold=ten is not a number" },
        { "[Timeouts]\n\nhold=\n", "vssd.conf:3: hold= is not a number" },
        { "[Timeouts]\nhold=-1\n", ":2: hold=-1 is not a number" },
        { "[Timeouts]\nhold=+1\n", "not a number" },
        { "[Timeouts]\nhold=1e3\n", "not a number" },
        { "[Timeouts]\nhold=0x10\n", "not a number" },
        { "[Timeouts]\nhold=1.\n", "not a number" },
        { "[Timeouts]\nhold=.5\n", "not a number" },
        { "[Timeouts]\nhold=1.2.3\n", "not a number" },
        { "[Timeouts]\nhold=1.0000001\n", "not a number" },
        { "[Timeouts]\nhold=1 s\n", "not a number" },
        { "[Timeouts]\nhold=infinity\n", "not a number" },
        { "[Timeouts]\nhold=0\n", "out of range; it may be from 0.001 to 60 seconds" },
        { "[Timeouts]\nhold=61\n", "out of range" },
        { "[Timeouts]\nhold=99999999999999999999999\n", "out of range" },
        { "[Timeouts]\nhold=18446744073710\n", "out of range" },
        { "[Timeouts]\nfreeze=5\nhold=6\n", "longer than freeze=5" },
        { "[Limits]\nwriters_max=0\n", "out of range; it may be from 1 to 1024" },
        { "[Limits]\nwriters_max=1.5\n", "not a number" },
        { "[Copies]\nskip_free=\n", "vssd.conf:2: skip_free= is neither yes nor no" },
        { "[Copies]\n\nskip_free=true\n", "vssd.conf:3: skip_free=true is neither yes nor no" },
        { "[Copies]\nskip_free=1\n", ":2: skip_free=1 is neither yes nor no" },
        { "[Copies]\nskip_free=0\n", "neither yes nor no" },
        { "[Copies]\nskip_free=Yes\n", "neither yes nor no" },
        { "[Copies]\nskip_free=NO\n", "neither yes nor no" },
        { "[Copies]\nskip_free=yes no\n", "skip_free=yes no is neither yes nor no" },
        { "[Copies]\nskip_free=no\nskip_free=on\n", ":3: skip_free=on is neither yes nor no" },
        { "[Limits]\non_stuck_freeze=yes\n", "on_stuck_freeze=yes is neither name nor kill" },
        { "[Copies]\nlvm_hold=maybe\n", "lvm_hold=maybe is neither yes nor no nor auto" },
        { "[Copies]\nlvm_snapshot_size=20%\n", "not a number" },
        { "[Copies]\nlvm_snapshot_size=101\n", "out of range; it may be from 1 to 100" },
        { "hold=1\n", ":1: hold= stands before the first [SECTION]" },
        { "[Timeouts\nhold=1\n", ":1: a section must end" },
        { "[]\n", ":1: a section is named" },
        { "[", ":1: a section must end" },
        { "[Timeouts]\nhold 1\n", ":2: expected KEY=VALUE" },
        { "[Timeouts]\n=1\n", ":2: a key is named" },
        { "[Timeouts]\nho ld=1\n", ":2: a key is named" },
};

START_TEST(bad_text_is_refused_with_its_line) {
        put("vssd.conf", bad[_i].text);
        expect_refused(bad[_i].expected);
}
END_TEST

START_TEST(bad_drop_in_is_named) {
        put("vssd.conf.d/10-x.conf", "[Timeouts]\nhold=x\n");
        expect_refused("vssd.conf.d/10-x.conf:2: ");
}
END_TEST

START_TEST(nul_bytes_are_refused) {
        put_bytes("vssd.conf", "[Timeouts]\0\nhold=1\n", 19, 0644);
        expect_refused("NUL");
}
END_TEST

START_TEST(endless_line_is_refused) {
        char text[2048];

        memset(text, '#', sizeof(text) - 1);
        text[sizeof(text) - 1] = '\0';
        put("vssd.conf", text);
        expect_refused("longer than 1024 bytes");
}
END_TEST

START_TEST(large_file_is_refused) {
        _cleanup_free_ char *text = malloc(70000);

        ck_assert_ptr_nonnull(text);
        memset(text, '\n', 70000);
        put_bytes("vssd.conf", text, 70000, 0644);
        expect_refused("64 KiB");
}
END_TEST

START_TEST(file_others_can_write_is_refused) {
        put_bytes("vssd.conf", "", 0, 0666);
        expect_refused("others may write");
}
END_TEST

START_TEST(fifo_is_refused_without_waiting) {
        char path[256];

        (void) snprintf(path, sizeof(path), "%s/vssd.conf", directory);
        ck_assert_int_eq(mkfifo(path, 0644), 0);
        expect_refused("not a regular file");
}
END_TEST

START_TEST(budgets_are_found_by_name) {
        ck_assert_ptr_eq(budgets_find(&settings.budgets, "hold"), &settings.budgets.hold);
        ck_assert_ptr_eq(budgets_find(&settings.budgets, "abort"), &settings.budgets.abort);
        ck_assert_ptr_eq(budgets_find(&settings.budgets, "identify"), &settings.budgets.identify);
        ck_assert_ptr_null(budgets_find(&settings.budgets, "idle"));
        ck_assert_ptr_null(budgets_find(&settings.budgets, ""));
}
END_TEST

START_TEST(relative_directory_in_the_environment_is_refused) {
        Settings s = {};

        ck_assert_int_eq(setenv("STATE_DIRECTORY", "var/lib", 1), 0);
        ck_assert_int_eq(settings_init(&s), -EINVAL);
        ck_assert_ptr_null(s.state_directory);
        ck_assert_int_eq(unsetenv("STATE_DIRECTORY"), 0);
        ck_assert_int_eq(settings_init(&s), 0);
        ck_assert_str_eq(s.state_directory, "/var/lib/vss");
        ck_assert_str_eq(s.configuration_directory, directory);
        settings_done(&s);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("settings");
        TCase *tc = tcase_create("settings");
        SRunner *runner;
        int failed;

        tcase_add_checked_fixture(tc, setup, teardown);
        tcase_add_test(tc, defaults_without_any_file);
        tcase_add_test(tc, missing_configuration_directory_means_defaults);
        tcase_add_test(tc, values_spaces_and_comments_are_read);
        tcase_add_test(tc, a_switch_is_yes_or_no);
        tcase_add_test(tc, lvm_is_told_by_the_environment);
        tcase_add_test(tc, window_follows_freeze_unless_given);
        tcase_add_test(tc, drop_ins_win_in_name_order_and_other_names_do_not_count);
        tcase_add_test(tc, reload_forgets_what_the_file_no_longer_says);
        tcase_add_test(tc, unknown_names_are_let_through);
        tcase_add_loop_test(tc, bad_text_is_refused_with_its_line, 0, ELEMENTSOF(bad));
        tcase_add_test(tc, bad_drop_in_is_named);
        tcase_add_test(tc, nul_bytes_are_refused);
        tcase_add_test(tc, endless_line_is_refused);
        tcase_add_test(tc, large_file_is_refused);
        tcase_add_test(tc, file_others_can_write_is_refused);
        tcase_add_test(tc, fifo_is_refused_without_waiting);
        tcase_add_test(tc, budgets_are_found_by_name);
        tcase_add_test(tc, relative_directory_in_the_environment_is_refused);
        suite_add_tcase(suite, tc);
        runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
