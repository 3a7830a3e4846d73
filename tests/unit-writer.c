/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The writer library without a bus: what it accepts from its caller, what it makes of a session, what it answers. */
#include "tests/support.h"
#include "writers/writer-lib.h"
#include <check.h>
#include <json-c/json.h>
#include <poll.h>

static int (*identify_hook)(struct vss_metadata *m);

static int identify(struct vss_metadata *m, void *userdata) {
        return identify_hook ? identify_hook(m) : 0;
}

static int nothing(struct vss_event *e, void *userdata) {
        return 0;
}

static struct vss_writer_callbacks good(void) {
        return (struct vss_writer_callbacks) { VSS_WRITER_CALLBACKS, .name = "unit", .identify = identify };
}

static Writer *make(struct vss_writer_callbacks c) {
        Writer *w = NULL;
        ck_assert_int_eq(vss_writer_new(&c, NULL, &w), 0);
        return w;
}

static void refuse(struct vss_writer_callbacks c, int error) {
        Writer *untouched = (Writer *) &c, *w = untouched;
        ck_assert_int_eq(vss_writer_new(&c, NULL, &w), error);
        ck_assert_ptr_eq(w, untouched);
}

/* ---- what a caller may ask for ---- */

START_TEST(callbacks_that_are_not_allowed_are_refused) {
        struct vss_writer_callbacks c = good();
#define REFUSE(error, ...) \
        do { \
                c = good(); \
                __VA_ARGS__; \
                refuse(c, error); \
        } while (false)
        REFUSE(-EINVAL, c.name = NULL);
        REFUSE(-EINVAL, c.name = "Upper");
        REFUSE(-EINVAL, c.name = "../x");
        REFUSE(-EINVAL, c.instance = "a/b");
        REFUSE(-EINVAL, c.level = 3);
        REFUSE(-EINVAL, c.usage = 77);
        REFUSE(-EINVAL, c.source = 3);
        REFUSE(-EINVAL, c.flags = 2);
        REFUSE(-EINVAL, c.identify = NULL);
        REFUSE(-EINVAL, c.freeze = nothing);
        REFUSE(-EINVAL, c.freeze = nothing; c.thaw = nothing);
        REFUSE(-ERANGE, c.freeze_timeout_usec = 2999999);
        REFUSE(-EPROTONOSUPPORT, c.api_version = 2);
        REFUSE(-EINVAL, c.struct_size = 8);
        ck_assert_int_eq(vss_writer_new(NULL, NULL, NULL), -EINVAL);
        ck_assert_ptr_null(vss_writer_free(NULL));
}
END_TEST

START_TEST(a_longer_struct_of_a_newer_caller_is_accepted) {
        struct {
                struct vss_writer_callbacks c;
                void *newer[4];
        } longer = { .c = good() };
        Writer *w = NULL;
        longer.c.struct_size = sizeof(longer);
        longer.newer[0] = &longer;
        ck_assert_int_eq(vss_writer_new(&longer.c, NULL, &w), 0);
        ck_assert_uint_eq(writer_events_wanted(w), 1u << EVENT_IDENTIFY);
        vss_writer_free(w);
}
END_TEST

START_TEST(strings_are_copied) {
        char name[] = "copied", version[] = "1\n2";
        struct vss_writer_callbacks c = good();
        c.name = name;
        c.version = version;
        Writer *w = make(c);
        name[0] = version[0] = 'X';
        ck_assert_str_eq(w->callbacks.name, "copied");
        ck_assert_str_eq(w->callbacks.version, "1 2");
        vss_writer_free(w);
}
END_TEST

/* ---- the document ---- */

static json_object *document(int (*hook)(struct vss_metadata *m), struct vss_writer_callbacks c) {
        Writer *w = make(c);
        char *text = NULL;
        int result;
        identify_hook = hook;
        ck_assert_int_eq(metadata_build(w, &text, &result), 0);
        ck_assert_int_eq(result, 0);
        json_object *o = json_tokener_parse(text);
        ck_assert_ptr_nonnull(o);
        free(text);
        vss_writer_free(w);
        identify_hook = NULL;
        return o;
}

static const char *at(json_object *o, const char *pointer) {
        json_object *found = NULL;
        ck_assert_msg(json_pointer_get(o, pointer, &found) == 0, "no %s", pointer);
        return json_object_get_string(found);
}

static int describe(struct vss_metadata *m) {
        ck_assert_int_eq(
                vss_metadata_component(m, "a/b", VSS_COMPONENT_DATABASE | VSS_COMPONENT_RECOVERS, "Caption \xff"), 0);
        ck_assert_int_eq(vss_metadata_component(m, "a/b", 0, NULL), -EEXIST);
        ck_assert_int_eq(vss_metadata_component(m, "", 0, NULL), -EINVAL);
        ck_assert_int_eq(vss_metadata_component(m, "c", 64, NULL), -EINVAL);
        ck_assert_int_eq(vss_metadata_component(m, "files", VSS_COMPONENT_NOT_SYSTEM_STATE, NULL), 0);
        ck_assert_int_eq(vss_metadata_files(m, "a/b", "/d\xff\\x", "*", VSS_FILES_RECURSIVE), 0);
        ck_assert_int_eq(vss_metadata_files(m, "a/b", "/log", "*.log", VSS_FILES_LOG | VSS_FILES_NO_SNAPSHOT_NEEDED),
                         0);
        ck_assert_int_eq(vss_metadata_files(m, "files", "/f", "*", 0), 0);
        ck_assert_int_eq(vss_metadata_files(m, "none", "/f", "*", 0), -ENOENT);
        ck_assert_int_eq(vss_metadata_files(m, "files", "f", "*", 0), -EINVAL);
        ck_assert_int_eq(vss_metadata_files(m, "files", "/f", "a/b", 0), -EINVAL);
        ck_assert_int_eq(vss_metadata_files(m, "files", "/f", "", 0), -EINVAL);
        ck_assert_int_eq(vss_metadata_exclude(m, "/f", "*.pid", 0), 0);
        ck_assert_int_eq(vss_metadata_exclude(m, "/f", "*.tmp", VSS_FILES_NO_SNAPSHOT_NEEDED), 0);
        ck_assert_int_eq(vss_metadata_exclude(m, "/f", "*.tmp", VSS_FILES_LOG), -EINVAL);
        ck_assert_int_eq(vss_metadata_set(m, "restore.method", "custom"), 0);
        ck_assert_int_eq(vss_metadata_set(m, "restore.reboot", "true"), 0);
        ck_assert_int_eq(vss_metadata_set(m, "restore.reboot", "maybe"), -EINVAL);
        ck_assert_int_eq(vss_metadata_set(m, "backup_schema", "copy"), 0);
        ck_assert_int_eq(vss_metadata_set(m, "backup_schema", "log"), 0);
        ck_assert_int_eq(vss_metadata_set(m, "x.mine", "1"), 0);
        ck_assert_int_eq(vss_metadata_set(m, "components", "[]"), -EINVAL);
        return 0;
}

START_TEST(a_document_holds_what_was_put_in) {
        struct vss_writer_callbacks c = good();
        c.instance = "i";
        c.usage = VSS_USAGE_SYSTEM_SERVICE;
        c.freeze_timeout_usec = 5000000;
        json_object *o = document(describe, c);
        ck_assert_str_eq(at(o, "/schema"), "1");
        ck_assert_str_eq(at(o, "/kind"), "writer-metadata");
        ck_assert_str_eq(at(o, "/writer/name"), "unit");
        ck_assert_str_eq(at(o, "/writer/instance"), "i");
        ck_assert_str_eq(at(o, "/writer/usage"), "system-service");
        ck_assert_str_eq(at(o, "/writer/freeze_timeout_usec"), "5000000");
        ck_assert_str_eq(at(o, "/components/0/type"), "database");
        ck_assert_str_eq(at(o, "/components/0/caption"), "Caption ?");
        ck_assert_str_eq(at(o, "/components/0/system_state"), "true");
        ck_assert_str_eq(at(o, "/components/0/recovers/0"), "backup");
        ck_assert_str_eq(at(o, "/components/0/files/0/root"), "/d\\xff\\x5cx");
        ck_assert_str_eq(at(o, "/components/0/files/0/role"), "data");
        ck_assert_str_eq(at(o, "/components/0/files/1/role"), "log");
        ck_assert_str_eq(at(o, "/components/0/files/1/snapshot"), "[ ]");
        ck_assert_str_eq(at(o, "/components/1/system_state"), "false");
        ck_assert_str_eq(at(o, "/components/1/files/0/role"), "file");
        ck_assert_str_eq(at(o, "/exclude/0/pattern"), "*.pid");
        ck_assert_str_eq(at(o, "/exclude_from_snapshot/0/pattern"), "*.tmp");
        ck_assert_str_eq(at(o, "/restore/reboot"), "true");
        ck_assert_str_eq(at(o, "/backup_schema/1"), "log");
        ck_assert_str_eq(at(o, "/x/mine"), "1");
        json_object_put(o);
}
END_TEST

static int whole(struct vss_metadata *m) {
        ck_assert_int_eq(vss_metadata_json(m, "{\"a\":1} junk"), -EBADMSG);
        ck_assert_int_eq(vss_metadata_json(m, "[]"), -EBADMSG);
        ck_assert_int_eq(vss_metadata_json(m, ""), -EBADMSG);
        ck_assert_int_eq(vss_metadata_json(m, "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]"), -EBADMSG);
        return vss_metadata_json(m, "{\"components\":[],\"writer\":{\"name\":\"mine\"}}");
}

START_TEST(a_whole_document_keeps_its_own_identity) {
        json_object *o = document(whole, good());
        ck_assert_str_eq(at(o, "/writer/name"), "mine");
        ck_assert_str_eq(at(o, "/schema"), "1");
        json_object_put(o);
}
END_TEST

/* ---- events ---- */

#define SET "33f0c9a5-7c1e-4b7d-9a51-0d6c2f8e1b44"

/* An event with the session that fill() appends, as if a call had brought it. */
static Event *event_with(Writer *w, WriterEvent kind, int (*fill)(sd_bus_message *m)) {
        _cleanup_(sd_bus_unrefp) sd_bus *a = NULL, *b = NULL;
        sd_bus_message *m = NULL;
        Event *e = NULL;
        bus_pair_new(&a, &b);
        ck_assert_int_ge(sd_bus_message_new_method_call(a, &m, NULL, "/x", "x.y", "Z"), 0);
        ck_assert_int_ge(sd_bus_message_open_container(m, 'a', "{sv}"), 0);
        ck_assert_int_ge(fill ? fill(m) : 0, 0);
        ck_assert_int_ge(sd_bus_message_close_container(m), 0);
        ck_assert_int_ge(sd_bus_message_seal(m, 1, 0), 0);
        ck_assert_int_eq(event_new(w, kind, NULL, &e), 0);
        e->deadline_usec = e->started_usec + 5000000;
        memcpy(e->set, SET, sizeof(SET));
        int r = event_read_session(e, m);
        sd_bus_message_unref(m);
        if (r < 0) {
                event_free(e);
                errno = -r;
                return NULL;
        }
        return e;
}

static int fill_session(sd_bus_message *m) {
        return sd_bus_message_append(m, "{sv}{sv}{sv}{sv}{sv}{sv}{sv}", "one_instant", "b", 1, "backup_type", "s",
                                     "full", "volumes", "as", 2, "/", "/srv/x\\x5cy", "copies", "a{ss}", 1, "/a", "/b",
                                     "new_key", "a(ii)", 1, 2, 3, "thaw_by_usec", "t", (uint64_t) 77, "components",
                                     "a(sa{sv})", 2, "c/d", 2, "succeeded", "b", 1, "options", "s", "fast", "e", 0);
}

START_TEST(a_session_is_read_as_text_and_unknown_types_are_skipped) {
        Writer *w = make(good());
        Event *e = event_with(w, EVENT_BACKUP_COMPLETE, fill_session);
        const char *text, *path;
        bool succeeded;
        ck_assert_ptr_nonnull(e);
        ck_assert(vss_event_one_instant(e));
        ck_assert_str_eq(vss_event_set(e), SET);
        ck_assert_int_eq(vss_event_get(e, NULL, "backup_type", &text), 0);
        ck_assert_str_eq(text, "full");
        ck_assert_int_eq(vss_event_get(e, NULL, "volumes", &text), 0);
        ck_assert_str_eq(text, "/\n/srv/x\\x5cy");
        ck_assert_int_eq(vss_event_get(e, NULL, "copies", &text), 0);
        ck_assert_str_eq(text, "/a=/b");
        ck_assert_int_eq(vss_event_get(e, "c/d", "options", &text), 0);
        ck_assert_str_eq(text, "fast");
        ck_assert_int_eq(vss_event_get(e, NULL, "new_key", &text), -ENXIO);
        ck_assert_int_eq(vss_event_get(e, "e", "options", &text), -ENXIO);
        ck_assert_int_eq(vss_event_component(e, 0, &path, &succeeded), 0);
        ck_assert_str_eq(path, "c/d");
        ck_assert(succeeded);
        ck_assert_int_eq(vss_event_component(e, 1, NULL, &succeeded), 0);
        ck_assert(!succeeded);
        ck_assert_int_eq(vss_event_component(e, 2, NULL, NULL), -ENXIO);
        ck_assert_str_eq(e->volumes[1], "/srv/x\\y");
        ck_assert_uint_eq(e->thaw_by_usec, 77);
        event_free(e);
        vss_writer_free(w);
}
END_TEST

static int fill_bad_components(sd_bus_message *m) {
        return sd_bus_message_append(m, "{sv}", "components", "s", "no list");
}

START_TEST(components_of_another_type_are_refused) {
        Writer *w = make(good());
        ck_assert_ptr_null(event_with(w, EVENT_FREEZE, fill_bad_components));
        ck_assert_int_eq(errno, EBADMSG);
        vss_writer_free(w);
}
END_TEST

static uint64_t skew_budget;
static int fill_budget(sd_bus_message *m) {
        return sd_bus_message_append(m, "{sv}{sv}", "budget_usec", "t", skew_budget, "thaw_by_usec", "t",
                                     (uint64_t) 1000000);
}

START_TEST(another_clock_is_noticed_and_a_slow_bus_is_not) {
        Writer *w = make(good());
        skew_budget = 2000000; /* deadline is in 5 s: the clock of the sender is ahead */
        Event *e = event_with(w, EVENT_FREEZE, fill_budget);
        ck_assert_uint_eq(e->deadline_usec, e->started_usec + 2000000);
        ck_assert_uint_eq(e->thaw_by_usec, 1000000 - 3000000ull);
        event_free(e);
        skew_budget = 9000000; /* 4 s on its way */
        e = event_with(w, EVENT_FREEZE, fill_budget);
        ck_assert_uint_eq(e->deadline_usec, e->started_usec + 5000000);
        ck_assert_uint_eq(e->thaw_by_usec, 1000000);
        event_free(e);
        vss_writer_free(w);
}
END_TEST

START_TEST(answers_take_known_keys_only) {
        Writer *w = make(good());
        Event *e = event_with(w, EVENT_POST_SNAPSHOT, NULL);
        ck_assert_int_eq(vss_event_put(e, NULL, "message", "one\ntwo"), 0);
        ck_assert_str_eq(event_find(&e->answer, NULL, "message"), "one two");
        ck_assert_int_eq(vss_event_put(e, NULL, "stamp", "1"), -EINVAL);
        ck_assert_int_eq(vss_event_put(e, "a", "message", "1"), -EINVAL);
        ck_assert_int_eq(vss_event_put(e, "a", "stamp", "1"), 0);
        ck_assert_int_eq(vss_event_put(e, "a", "stamp", "2"), -EINVAL);
        ck_assert_int_eq(vss_event_put(e, "a", "colour", "red"), -EINVAL);
        ck_assert_int_eq(vss_event_put(e, "a", NULL, "red"), -EINVAL);
        event_free(e);
        vss_writer_free(w);
}
END_TEST

START_TEST(an_answer_is_encoded_as_the_interface_has_it) {
        _cleanup_(sd_bus_unrefp) sd_bus *a = NULL, *b = NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        Writer *w = make(good());
        Event *e = event_with(w, EVENT_POST_SNAPSHOT, NULL);
        (void) vss_event_put(e, "a", "stamp", "s1");
        (void) vss_event_put(e, "b", "metadata", "m");
        (void) vss_event_put(e, "a", "partial_files", "[{\"path\":\"/f\",\"ranges\":[[0,10],[20,5]]}]");
        (void) vss_event_put(e, "a", "differenced_files",
                             "[{\"root\":\"/r\",\"pattern\":\"*\",\"recursive\":true,\"since\":7}]");
        (void) vss_event_put(e, "b", "target", "alternate");
        ck_assert_int_eq(vss_event_fail_component(e, "b", VSS_VETO_FATAL, "gone: %d", 7), 0);
        bus_pair_new(&a, &b);
        ck_assert_int_ge(sd_bus_message_new_method_call(a, &m, NULL, "/x", "x.y", "Z"), 0);
        ck_assert_int_ge(event_append_answer(e, m), 0);
        ck_assert_int_ge(sd_bus_message_seal(m, 1, 0), 0);
        ck_assert_int_gt(sd_bus_message_enter_container(m, 'a', "{sv}"), 0);
        ck_assert_int_gt(sd_bus_message_enter_container(m, 'e', "sv"), 0);
        ck_assert_int_gt(sd_bus_message_skip(m, "s"), 0);
        ck_assert_int_gt(sd_bus_message_enter_container(m, 'v', "a(sa{sv})"), 0);
        ck_assert_int_gt(sd_bus_message_skip(m, "a(sa{sv})"), 0);
        event_free(e);
        vss_writer_free(w);
}
END_TEST

static bool readable(int fd) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        return poll(&p, 1, 0) > 0;
}

START_TEST(the_cancel_descriptor_tells_before_and_after_it_is_asked_for) {
        Writer *w = make(good());
        Event *e = event_with(w, EVENT_PREPARE_BACKUP, NULL);
        ck_assert(!readable(vss_event_cancel_fd(e)));
        event_cancel(e);
        event_cancel(e);
        ck_assert(readable(vss_event_cancel_fd(e)));
        event_free(e);
        e = event_with(w, EVENT_PREPARE_BACKUP, NULL);
        event_cancel(e);
        ck_assert(readable(vss_event_cancel_fd(e)));
        event_free(e);
        vss_writer_free(w);
}
END_TEST

START_TEST(failures_are_one_bounded_line) {
        Writer *w = make(good());
        Event *e = event_with(w, EVENT_FREEZE, NULL);
        char text[2000];
        memset(text, 'x', sizeof(text));
        text[sizeof(text) - 1] = 0;
        text[3] = '\n';
        text[5] = '\xff';
        ck_assert_int_eq(vss_event_fail(e, VSS_VETO_NO_RESOURCES, "%s", text), -ENOMEM);
        ck_assert(e->failed);
        ck_assert_int_eq(e->failure.condition, CONDITION_WRITER_NO_RESOURCES);
        ck_assert_uint_eq(strlen(e->failure.message), LIMIT_MESSAGE_BYTES - 1);
        ck_assert(text_is_valid(e->failure.message, LIMIT_MESSAGE_BYTES));
        ck_assert_int_eq(vss_event_fail(e, VSS_VETO_RETRYABLE, "x"), -EAGAIN);
        ck_assert_int_eq(vss_event_fail(e, VSS_VETO_FATAL, "x"), -EPERM);
        ck_assert_int_eq(vss_event_fail(e, VSS_VETO_MISSING_VOLUME, "x"), -ENXIO);
        event_free(e);
        vss_writer_free(w);
}
END_TEST

static const char *one_volume;
static int fill_volume(sd_bus_message *m) {
        return sd_bus_message_append(m, "{sv}", "volumes", "as", 1, one_volume);
}

START_TEST(a_path_belongs_to_the_mount_it_lies_on) {
        Writer *w = make(good());
        const char *volume, *rest;
        one_volume = "/";
        Event *e = event_with(w, EVENT_POST_SNAPSHOT, fill_volume);
        ck_assert_int_eq(event_split_path(e, "/etc/passwd", &volume, &rest), 0);
        ck_assert_str_eq(volume, "/");
        ck_assert_str_eq(rest, "etc/passwd");
        ck_assert_int_eq(event_split_path(e, "/", &volume, &rest), 0);
        ck_assert_str_eq(rest, ".");
        ck_assert_int_eq(event_split_path(e, "/proc/self", NULL, NULL), -EXDEV);
        ck_assert_int_eq(event_split_path(e, "/etc/../etc", NULL, NULL), -EXDEV);
        ck_assert_int_eq(event_split_path(e, "/etc/..", NULL, NULL), -EXDEV);
        ck_assert_int_eq(event_split_path(e, "/etc/./x", NULL, NULL), -EXDEV);
        ck_assert_int_eq(event_split_path(e, "etc", NULL, NULL), -EINVAL);
        ck_assert(vss_event_affects(e, "/etc/passwd"));
        ck_assert(!vss_event_affects(e, "/proc/self"));
        ck_assert(!vss_event_affects(e, "relative"));
        ck_assert_int_eq(vss_event_open_copy(e, "/proc/self", 0, 0), -EXDEV);
        event_free(e);

        one_volume = "/etc";
        e = event_with(w, EVENT_FREEZE, fill_volume);
        ck_assert(vss_event_affects(e, "/etc/passwd"));
        ck_assert(!vss_event_affects(e, "/etcetera"));
        ck_assert_int_eq(vss_event_open_copy(e, "/etc/passwd", 0, 0), -EBADFD);
        event_free(e);
        vss_writer_free(w);
}
END_TEST

int main(void) {
        Suite *s = suite_create("writer");
        TCase *t = tcase_create("writer");
        tcase_add_test(t, callbacks_that_are_not_allowed_are_refused);
        tcase_add_test(t, a_longer_struct_of_a_newer_caller_is_accepted);
        tcase_add_test(t, strings_are_copied);
        tcase_add_test(t, a_document_holds_what_was_put_in);
        tcase_add_test(t, a_whole_document_keeps_its_own_identity);
        tcase_add_test(t, a_session_is_read_as_text_and_unknown_types_are_skipped);
        tcase_add_test(t, components_of_another_type_are_refused);
        tcase_add_test(t, another_clock_is_noticed_and_a_slow_bus_is_not);
        tcase_add_test(t, answers_take_known_keys_only);
        tcase_add_test(t, an_answer_is_encoded_as_the_interface_has_it);
        tcase_add_test(t, the_cancel_descriptor_tells_before_and_after_it_is_asked_for);
        tcase_add_test(t, failures_are_one_bounded_line);
        tcase_add_test(t, a_path_belongs_to_the_mount_it_lies_on);
        suite_add_tcase(s, t);
        SRunner *runner = srunner_create(s);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
