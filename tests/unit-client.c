/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The parts of vssctl that have no service behind them: words on the command line, paths on the bus, secrets in a
 * report, charts.
 */
#include "client/archive.h"
#include "client/timeline.h"
#include <check.h>

START_TEST(test_paths_survive_the_bus) {
        static const struct {
                const char *path, *text;
        } rows[] = {
                { "/srv/db", "/srv/db" },
                { "/srv/\xc3\xa4", "/srv/\xc3\xa4" },
                { "/a\nb", "/a\\x0ab" },
                { "/a\\b", "/a\\x5cb" },
                { "/a\x7f\x1b[31m", "/a\\x7f\\x1b[31m" },
                { "/\xff\xfe", "/\\xff\\xfe" },
                { "/\xc0\xaf", "/\\xc0\\xaf" },          /* overlong slash */
                { "/\xed\xa0\x80", "/\\xed\\xa0\\x80" }, /* surrogate */
                { "/\xe2\x82", "/\\xe2\\x82" },          /* cut off */
                { "/\xf4\x90\x80\x80", "/\\xf4\\x90\\x80\\x80" },
        };
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                _cleanup_free_ char *text = NULL, *back = NULL;
                ck_assert_int_eq(path_to_bus(rows[i].path, &text), 0);
                ck_assert_str_eq(text, rows[i].text);
                ck_assert_int_eq(path_from_bus(text, &back), 0);
                ck_assert_str_eq(back, rows[i].path);
        }
}
END_TEST

START_TEST(test_relative_volume_becomes_absolute_but_a_word_stays) {
        _cleanup_free_ char *word = NULL, *relative = NULL, *dot = NULL;
        ck_assert_int_eq(volume_to_bus("db", &word), 0);
        ck_assert_str_eq(word, "db");
        ck_assert_int_eq(volume_to_bus("./db", &relative), 0);
        ck_assert_int_eq(relative[0], '/');
        ck_assert_int_eq(volume_to_bus(".", &dot), 0);
        ck_assert_int_eq(dot[0], '/');
}
END_TEST

START_TEST(test_writer_reference_ends_at_its_colon) {
        static const struct {
                const char *value;
                int at;
        } rows[] = {
                { "sqlite:a", 6 },   { "sqlite@book:a:b", 11 },
                { "1000:foo:a", 8 }, { "1000:a", -1 }, /* a uid and a name, but no path */
                { "Foo:a", -1 },     { ":a", -1 },
                { "sqlite", -1 },    { "a@b@c:x", -1 },
        };
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                const char *end = writer_reference_end(rows[i].value);
                ck_assert_int_eq(end ? (int) (end - rows[i].value) : -1, rows[i].at);
        }
}
END_TEST

START_TEST(test_seconds_take_decimals_and_nothing_else) {
        uint64_t usec = 7;
        ck_assert_int_eq(parse_seconds("0", &usec), 0);
        ck_assert_uint_eq(usec, 0);
        ck_assert_int_eq(parse_seconds("1.5", &usec), 0);
        ck_assert_uint_eq(usec, 1500000);
        static const char *const bad[] = { "",    ".5", "-1", "+1",    "1e3", "0x10",    "nan",
                                           "inf", "1 ", " 1", "1.2.3", "1s",  "31536001" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_msg(parse_seconds(bad[i], &usec) < 0, "\"%s\" is taken for seconds", bad[i]);
        ck_assert_uint_eq(usec, 1500000);
}
END_TEST

START_TEST(test_members_become_keys) {
        static const struct {
                const char *member, *key;
        } rows[] = {
                { "FreezeTimeoutUSec", "freeze_timeout_usec" },
                { "Id", "id" },
                { "LastError", "last_error" },
                { "FileSystemUuid", "file_system_uuid" },
                { "SizeBytes", "size_bytes" },
        };
        char key[64], small[8];
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                member_to_key(rows[i].member, key, sizeof(key));
                ck_assert_str_eq(key, rows[i].key);
        }
        member_to_key("AVeryLongNameThatDoesNotFit", small, sizeof(small));
        ck_assert_uint_lt(strlen(small), sizeof(small));
}
END_TEST

START_TEST(test_secrets_are_removed_and_nothing_else) {
        static const struct {
                const char *text, *clean;
        } rows[] = {
                { "password=hunter2\nidle=7\n", "password=***\nidle=7\n" },
                { "Password : hunter2", "Password : ***" },
                { "{\"dbPassword\":\"a\\\"b\",\"name\":\"x\"}", "{\"dbPassword\":\"***\",\"name\":\"x\"}" },
                { "{\"api_key\": \"abcdef\" }", "{\"api_key\": \"***\" }" },
                { "secret=x", "secret=*" },
                { "secret=", "secret=" },
                { "postgresql://u@h/db?password=pw12&sslmode=off", "postgresql://u@h/db?password=***&sslmode=off" },
                { "passing tests=7", "passing tests=7" },
                { "\"token\":\"abcd\"", "\"token\":\"***\"" },
                { "tokens: 5", "tokens: 5" },
                { "password-file=/etc/pw", "password-file=***" },
                { "secret=\"never closed", "secret=\"***" },
                { "", "" },
        };
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                _cleanup_free_ char *text = strdup(rows[i].text);
                size_t n = secrets_remove(text);
                ck_assert_str_eq(text, rows[i].clean);
                ck_assert_uint_eq(n, strlen(rows[i].clean));
        }
}
END_TEST

START_TEST(test_sizes_and_times_for_people) {
        char text[64];
        ck_assert_str_eq(format_size(0, text, sizeof(text)), "0B");
        ck_assert_str_eq(format_size(1536, text, sizeof(text)), "1.5K");
        ck_assert_str_eq(format_size(UINT64_MAX, text, sizeof(text)), "16.0E");
        ck_assert_str_eq(format_duration(999, text, sizeof(text)), "999 us");
        ck_assert_str_eq(format_duration(52900, text, sizeof(text)), "52.9 ms");
        ck_assert_str_eq(format_duration(2493000, text, sizeof(text)), "2.49 s");
        ck_assert_str_eq(format_instant(1795341600123456, text, sizeof(text)), "2026-11-22T10:00:00.123456Z");
}
END_TEST

/* A record of the wrong shape must give a smaller chart, never a crash. */
START_TEST(test_hostile_record_gives_a_valid_chart) {
        static const char *const records[] = {
                "{}",
                "{\"phases\":7,\"writers\":{},\"volumes\":null}",
                "{\"phases\":[null,7,[],[\"x\"],[null,0,0,0,\"ok\"],[\"hold\",5,1,null,\"ok\"]]}",
                "{\"writers\":[7,null,{\"name\":\"<&>\",\"events\":[[\"freeze\",0,10,1,\"ok\"]]}]}",
                "{\"phases\":[[\"freeze\",18446744073709551615,null,null,\"running\"],[\"thaw\",0,1,1,\"ok\"]]}",
        };
        for (size_t i = 0; i < ELEMENTSOF(records); i++) {
                _cleanup_(timeline_done) Timeline t = {};
                json_object *record = json_tokener_parse(records[i]);
                char *svg = NULL;
                size_t size;
                ck_assert_int_eq(timeline_from_record(&t, record), 0);
                for (size_t k = 0; k < t.n_rows; k++)
                        ck_assert_uint_le(t.rows[k].start_usec, t.rows[k].end_usec);
                FILE *f = open_memstream(&svg, &size);
                ck_assert_int_eq(timeline_svg(&t, "a \"set\"", f), 0);
                (void) fclose(f);
                ck_assert_ptr_nonnull(strstr(svg, "</svg>"));
                ck_assert_ptr_null(strstr(svg, "<&>"));
                free(svg);
                json_object_put(record);
        }
}
END_TEST

START_TEST(test_archive_is_read_by_tar) {
        char name[] = "/tmp/vss-unit-client-XXXXXX", command[256], long_name[200];
        int fd = mkstemp(name);
        FILE *f = fdopen(fd, "w");
        ck_assert_ptr_nonnull(f);
        memset(long_name, 'n', sizeof(long_name) - 1);
        long_name[sizeof(long_name) - 1] = 0;
        ck_assert_int_eq(archive_add(f, "a", "hello", 5), 0);
        ck_assert_int_eq(archive_add(f, "dir/empty", "", 0), 0);
        ck_assert_int_eq(archive_add(f, long_name, "x", 1), 0);
        ck_assert_int_eq(archive_end(f), 0);
        (void) fclose(f);
        (void) snprintf(command, sizeof(command),
                        "test \"$(tar -xOf %s a)\" = hello && test \"$(tar -tf %s | wc -l)\" = 3", name, name);
        int status = system(command);
        (void) unlink(name);
        ck_assert_int_eq(status, 0);
}
END_TEST

START_TEST(test_set_options_are_checked_by_type) {
        ck_assert_int_eq(set_option_check("no_writers", "true"), 0);
        ck_assert_int_lt(set_option_check("no_writers", "maybe"), 0);
        ck_assert_int_eq(set_option_check("labels", "a=b"), 0);
        ck_assert_int_lt(set_option_check("labels", "=b"), 0);
        ck_assert_int_eq(set_option_check("timeouts", "freeze=1000"), 0);
        ck_assert_int_lt(set_option_check("timeouts", "freeze=1s"), 0);
        ck_assert_int_lt(set_option_check("wait_for_turn_usec", "-1"), 0);
        ck_assert_int_lt(set_option_check("wait_for_turn_usec", "18446744073709551616"), 0);
        ck_assert_int_lt(set_option_check("components", "a"), 0);
        ck_assert_int_lt(set_option_check("no_such_option", "x"), 0);
        ck_assert_int_lt(set_option_check("require", NULL), 0);
}
END_TEST

/* The public calls refuse what cannot be, without a service. */
START_TEST(test_requester_without_a_set) {
        struct vss_requester *r = NULL;
        struct vss_set *s = NULL;
        const struct vss_snapshot_info *info;
        ck_assert_str_eq(vss_requester_error(NULL)->name, "org.vssd.Vss1.Error.Unavailable");
        ck_assert_int_eq(vss_requester_error(NULL)->exit_code, 13);
        ck_assert_ptr_null(vss_requester_close(NULL));
        ck_assert_ptr_null(vss_set_free(NULL));
        ck_assert_int_lt(vss_set_new(NULL, &s), 0);
        (void) setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus", 1);
        ck_assert_int_eq(vss_requester_open("unit", &r), -ENOTCONN);
        ck_assert_ptr_null(r);
        ck_assert_int_lt(vss_set_snapshot(NULL, 0, &info), 0);
        ck_assert_int_lt(vss_set_wait(NULL, 0, NULL, NULL), 0);
        ck_assert_int_lt(vss_set_complete(NULL, true), 0);
        ck_assert_int_lt(vss_snapshot_open(NULL, "x", VSS_OPEN_MOUNT), 0);
        ck_assert_str_eq(vss_set_id(NULL), "");
}
END_TEST

int main(void) {
        Suite *suite = suite_create("client");
        TCase *c = tcase_create("client");
        tcase_add_test(c, test_paths_survive_the_bus);
        tcase_add_test(c, test_relative_volume_becomes_absolute_but_a_word_stays);
        tcase_add_test(c, test_writer_reference_ends_at_its_colon);
        tcase_add_test(c, test_seconds_take_decimals_and_nothing_else);
        tcase_add_test(c, test_members_become_keys);
        tcase_add_test(c, test_secrets_are_removed_and_nothing_else);
        tcase_add_test(c, test_sizes_and_times_for_people);
        tcase_add_test(c, test_hostile_record_gives_a_valid_chart);
        tcase_add_test(c, test_archive_is_read_by_tar);
        tcase_add_test(c, test_set_options_are_checked_by_type);
        tcase_add_test(c, test_requester_without_a_set);
        suite_add_tcase(suite, c);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed != 0;
}
