/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a writer's answer leaves in a set. It goes into the record, which the next vssd must be able to read, and into
 * the manifest: no answer may leave anything there that is no text.
 */
#include "daemon/conductor.h"
#include "protocol/text.h"
#include "tests/support.h"
#include <check.h>

static sd_bus *server, *client;

static void setup(void) {
        bus_pair_new(&server, &client);
}

static void teardown(void) {
        sd_bus_flush_close_unref(server);
        sd_bus_flush_close_unref(client);
}

static char *long_text(size_t shift, const char *character, size_t n) {
        size_t size = strlen(character);
        char *text = calloc(1, shift + n * size + 1);
        ck_assert_ptr_nonnull(text);
        memset(text, 'x', shift);
        for (size_t i = 0; i < n; i++)
                memcpy(text + shift + i * size, character, size);
        return text;
}

static int take(SetWriter *w, const char *type, const char *key, const char *a, const char *b, const char *c,
                Failure *f) {
        sd_bus_message *m = NULL;
        ck_assert_int_ge(sd_bus_message_new_method_call(client, &m, NULL, "/a", "a.b", "C"), 0);
        if (streq(type, "a(sss)"))
                ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, key, type, 1, a, b, c), 0);
        else
                ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, key, type, 1, a, 1, b, "s", c), 0);
        ck_assert_int_ge(sd_bus_message_seal(m, 1, 0), 0);
        int r = session_read_reply(w, EVENT_POST_SNAPSHOT, m, f);
        (void) sd_bus_message_unref(m);
        return r;
}

static void lines_are_four_and_text(const char *text) {
        _cleanup_free_ char *copy = strdup(text);
        char *rest = copy;
        unsigned n = 0;
        for (char *line; (line = strsep(&rest, "\n")); n++)
                ck_assert_msg(text_is_valid(line, LIMIT_MESSAGE_BYTES), "no text: %s", line);
        ck_assert_uint_eq(n, 4);
}

START_TEST(a_failure_that_is_cut_stays_text) {
        for (size_t shift = 0; shift < 4; shift++) {
                _cleanup_free_ char *text = long_text(shift, "\xf0\x9f\x90\x98", 200);
                SetWriter w = { .reference = (char *) "evil" };
                Failure f = {};
                ck_assert_int_ge(take(&w, "a(sss)", "failures", "db", text, text, &f), 0);
                lines_are_four_and_text(w.failures[0]);
                strings_free(w.failures);
        }
}
END_TEST

START_TEST(a_failure_cannot_make_lines_of_its_own) {
        SetWriter w = { .reference = (char *) "evil" };
        Failure f = {};
        ck_assert_int_ge(take(&w, "a(sss)", "failures", "db", "N\x1b[2J\nx", "m\nn\n", &f), 0);
        lines_are_four_and_text(w.failures[0]);
        strings_free(w.failures);
}
END_TEST

START_TEST(a_stamp_is_kept_whole_or_refused) {
        char *components[] = { (char *) "db", NULL };
        _cleanup_free_ char *fits = long_text(0, "s", LIMIT_STRING_BYTES),
                            *too_long = long_text(1, "\xc3\xa9", LIMIT_STRING_BYTES / 2);
        SetWriter w = { .reference = (char *) "evil", .components = components };
        Failure f = {};
        ck_assert_int_ge(take(&w, "a(sa{sv})", "components", "db", "stamp", fits, &f), 0);
        ck_assert_str_eq(w.stamps[0], fits);
        ck_assert_int_lt(take(&w, "a(sa{sv})", "components", "db", "stamp", too_long, &f), 0);
        ck_assert_int_eq(f.condition, CONDITION_VETOED);
        ck_assert_str_eq(w.stamps[0], fits);
        strings_free(w.stamps);
}
END_TEST

int main(void) {
        Suite *s = suite_create("bus-session");
        TCase *c = tcase_create("answers");
        tcase_add_checked_fixture(c, setup, teardown);
        tcase_add_test(c, a_failure_that_is_cut_stays_text);
        tcase_add_test(c, a_failure_cannot_make_lines_of_its_own);
        tcase_add_test(c, a_stamp_is_kept_whole_or_refused);
        suite_add_tcase(s, c);
        SRunner *runner = srunner_create(s);
        srunner_set_fork_status(runner, CK_NOFORK);
        srunner_run_all(runner, CK_ENV);
        int n = srunner_ntests_failed(runner);
        srunner_free(runner);
        return n > 0;
}
