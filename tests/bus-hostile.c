/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A writer that wants to hurt: what it answers to Identify is of the wrong type, too large, too deep, or points
 * somewhere it should not. Each is refused with an error that says what is wrong, the entry shows it, and vssd does not
 * grow.
 */
#include "protocol/busutil.h"
#include "tests/vssd-fixture.h"
#include <check.h>
#include <stdio.h>

#define HEAD \
        "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"evil\",\"version\":\"1\",\"level\":\"system\"," \
        "\"usage\":\"other\",\"source\":\"other\"}"
#define FILES(root, pattern) \
        HEAD ",\"components\":[{\"path\":\"a\",\"type\":\"file-group\",\"files\":[{\"role\":\"file\",\"root\":\"" root \
             "\",\"pattern\":\"" pattern "\",\"recursive\":true}]}]}"

static TestVssd v;
static sd_bus *evil;

/* What the next Identify is answered with. */
static struct {
        char *text;
        bool wrong_type, error, twice;
} answer;

static int on_identify(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        if (!sd_bus_message_is_method_call(m, VSS_IFACE_WRITER, "Identify"))
                return 0;
        if (answer.error)
                return sd_bus_reply_method_errorf(m, "evil.Error\"Name", "%s", "\x1b[2J not one\nline");
        if (answer.wrong_type)
                return sd_bus_reply_method_return(m, "u", 7);
        int r = sd_bus_reply_method_return(m, "s", answer.text);
        return answer.twice ? sd_bus_reply_method_return(m, "s", answer.text) : r;
}

static void setup(void) {
        vssd_setup(&v);
        evil = private_bus_connect(v.daemon);
        ck_assert_int_ge(sd_bus_add_object(evil, NULL, "/writer", on_identify, NULL), 0);
        (void) close_fd(register_writer(evil, "evil", "", NULL));
}

static void teardown(void) {
        evil = sd_bus_flush_close_unref(evil);
        free(answer.text);
        memset(&answer, 0, sizeof(answer));
        vssd_teardown(&v);
}

typedef struct Result {
        bool done;
        char name[128], message[512];
} Result;

static int on_metadata(sd_bus_message *reply, void *userdata, sd_bus_error *reterr) {
        Result *r = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(reply);
        r->done = true;
        (void) snprintf(r->name, sizeof(r->name), "%s", e ? e->name : "");
        (void) snprintf(r->message, sizeof(r->message), "%s", e && e->message ? e->message : "");
        return 0;
}

/* Asks vssd to ask the writer, and is the writer meanwhile. */
static Result identify(void) {
        Result result = {};
        sd_bus_message *m = vssd_call(&v, VSS_PATH_WRITERS "/evil/_", VSS_IFACE_WRITER_ENTRY, "GetMetadata");
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, "refresh", "b", 1), 0);
        ck_assert_int_ge(sd_bus_call_async(v.bus, NULL, m, on_metadata, &result, 20 * USEC_PER_SEC), 0);
        (void) sd_bus_message_unref(m);
        uint64_t end = now_usec() + 20 * USEC_PER_SEC;
        while (!result.done && now_usec() < end)
                if (sd_bus_process(v.bus, NULL) == 0 && sd_bus_process(evil, NULL) == 0)
                        nap_msec(1);
        ck_assert_msg(result.done, "GetMetadata was not answered");
        return result;
}

static const struct {
        const char *text, *says;
} documents[] = {
        { "", "" },
        { "[]", "" },
        { "{\"schema\":1", "" },
        { HEAD "} trailing", "" },
        { HEAD ",\"components\":[]}{}", "" },
        { "{\"schema\":1,\"schema\":1}", "schema" },
        { "{\"schema\":2,\"kind\":\"writer-metadata\"}", "schema" },
        { HEAD ",\"colour\":1,\"components\":[]}", "colour" },
        { FILES("relative/path", "*"), "root" },
        { FILES("/srv/../etc", "*"), "root" },
        { FILES("/srv/./x", "*"), "root" },
        { FILES("/srv", "../*"), "pattern" },
        { FILES("/srv", "a/b"), "pattern" },
        { HEAD ",\"components\":[{\"path\":\"../a\",\"type\":\"file-group\"}]}", "path" },
        { "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"innocent\",\"version\":\"1\",\"level\":\"system\","
          "\"usage\":\"other\",\"source\":\"other\"},\"components\":[]}",
          "name" },
};

START_TEST(bad_document_is_refused_by_the_place_of_what_is_wrong) {
        for (size_t i = 0; i < ELEMENTSOF(documents); i++) {
                free(answer.text);
                answer.text = strdup(documents[i].text);
                Result r = identify();
                ck_assert_msg(streq(r.name, condition_name(CONDITION_INVALID_DOCUMENT)), "%s: %s %s", documents[i].text,
                              r.name, r.message);
                ck_assert_msg(strstr(r.message, documents[i].says), "%s: \"%s\"", documents[i].text, r.message);
        }
}
END_TEST

START_TEST(answer_of_the_wrong_type_is_refused) {
        answer.wrong_type = true;
        ck_assert_str_eq(identify().name, condition_name(CONDITION_INVALID_DOCUMENT));
}
END_TEST

START_TEST(error_with_control_characters_stays_one_line) {
        answer.error = true;
        Result r = identify();
        ck_assert_msg(r.name[0] != '\0', "an error was taken for an answer");
        ck_assert_msg(!strpbrk(r.message, "\n\x1b"), "%s", r.message);
}
END_TEST

/* Nested deeper and written longer than any document may be, again and again. */
START_TEST(huge_and_deep_documents_leave_nothing_behind) {
        enum { DEEP = 100000, HUGE_BYTES = 4 * 1024 * 1024 };
        long before = vssd_resident_kib(&v);
        for (int i = 0; i < 20; i++) {
                size_t size = i % 2 ? DEEP : HUGE_BYTES;
                free(answer.text);
                answer.text = malloc(size + 1);
                memset(answer.text, i % 2 ? '[' : ' ', size);
                answer.text[size] = '\0';
                Result r = identify();
                ck_assert_msg(r.name[0] != '\0', "a document of %zu bytes was taken", size);
        }
        long grown = vssd_resident_kib(&v) - before;
        ck_assert_msg(grown <= VSSD_GROWTH_MAX_KIB, "vssd grew by %ld KiB", grown);
}
END_TEST

START_TEST(second_answer_to_one_call_is_ignored) {
        answer.text = strdup(HEAD ",\"components\":[]}");
        answer.twice = true;
        for (int i = 0; i < 5; i++)
                ck_assert_str_eq(identify().name, "");
}
END_TEST

START_TEST(writer_that_leaves_while_it_is_asked_is_lost) {
        Result result = {};
        sd_bus_message *m = vssd_call(&v, VSS_PATH_WRITERS "/evil/_", VSS_IFACE_WRITER_ENTRY, "GetMetadata");
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}", 1, "refresh", "b", 1), 0);
        ck_assert_int_ge(sd_bus_call_async(v.bus, NULL, m, on_metadata, &result, 20 * USEC_PER_SEC), 0);
        (void) sd_bus_message_unref(m);
        ck_assert_int_ge(sd_bus_flush(v.bus), 0);
        nap_msec(100);
        evil = sd_bus_flush_close_unref(evil);
        uint64_t end = now_usec() + 5 * USEC_PER_SEC;
        while (!result.done && now_usec() < end)
                if (sd_bus_process(v.bus, NULL) == 0)
                        nap_msec(1);
        ck_assert_str_eq(result.name, condition_name(CONDITION_WRITER_LOST));
}
END_TEST

int main(void) {
        (void) setenv("CK_FORK", "no", 1);
        sandbox_enter(110);
        Suite *s = suite_create("bus-hostile");
        TCase *t = tcase_create("identify");
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, bad_document_is_refused_by_the_place_of_what_is_wrong);
        tcase_add_test(t, answer_of_the_wrong_type_is_refused);
        tcase_add_test(t, error_with_control_characters_stays_one_line);
        tcase_add_test(t, huge_and_deep_documents_leave_nothing_behind);
        tcase_add_test(t, second_answer_to_one_call_is_ignored);
        tcase_add_test(t, writer_that_leaves_while_it_is_asked_is_lost);
        tcase_set_timeout(t, 60);
        suite_add_tcase(s, t);
        SRunner *runner = srunner_create(s);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
