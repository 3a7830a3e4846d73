/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What vssd, libvss and vssctl take from messages: options, descriptors, documents, object paths and errors. */
#include "protocol/base.h"
#include "protocol/busutil.h"
#include "protocol/text.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <sys/mman.h>

static sd_bus *server, *client;

static void setup(void) {
        bus_pair_new(&server, &client);
}

static void teardown(void) {
        sd_bus_flush_close_unref(server);
        sd_bus_flush_close_unref(client);
}

static sd_bus_message *message_new(void) {
        sd_bus_message *m = NULL;
        ck_assert_int_ge(sd_bus_message_new_method_call(client, &m, NULL, "/a", "a.b", "C"), 0);
        return m;
}

/* From writing to reading. */
static sd_bus_message *message_read(sd_bus_message *m) {
        ck_assert_int_ge(sd_bus_message_seal(m, 1, 0), 0);
        ck_assert_int_ge(sd_bus_message_rewind(m, true), 0);
        return m;
}

typedef struct Options {
        bool dry_run;
        char *reason, **list, **labels;
        uint32_t u;
        uint64_t t;
        double d;
        unsigned pairs;
} Options;

static void options_done(Options *o) {
        free(o->reason);
        strings_free(o->list);
        strings_free(o->labels);
}

static int read_pairs(sd_bus_message *m, void *field, Failure *reterr) {
        unsigned *n = field;
        const char *s;
        uint64_t t;
        int r = sd_bus_message_enter_container(m, 'a', "(st)");
        while (r >= 0 && (r = sd_bus_message_read(m, "(st)", &s, &t)) > 0) {
                ++*n;
                if (t == 7) /* says nothing */
                        return -ENOMEM;
                if (t == 0)
                        return failure_set(reterr, CONDITION_NOT_FOUND, "nothing is called %s", s);
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static const BusOption table[] = {
        BUS_OPTIONS_COMMON(Options),
        { "list", "as", offsetof(Options, list), NULL },
        { "labels", "a{ss}", offsetof(Options, labels), NULL },
        { "u", "u", offsetof(Options, u), NULL },
        { "t", "t", offsetof(Options, t), NULL },
        { "d", "d", offsetof(Options, d), NULL },
        { "pairs", "a(st)", offsetof(Options, pairs), read_pairs },
};

START_TEST(test_options_arrive_in_their_fields) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = message_new();
        _cleanup_(options_done) Options o = { 0 };
        Failure f = { 0 };
        uint64_t seen = 0;
        ck_assert_int_ge(sd_bus_message_append(m, "a{sv}s", 8, "dry_run", "b", 1, "reason", "s", "b\xc3\xa4", "list",
                                               "as", 2, "x", "", "labels", "a{ss}", 2, "k", "v=w", "l", "", "u", "u",
                                               UINT32_MAX, "t", "t", UINT64_MAX, "d", "d", 0.5, "pairs", "a(st)", 2,
                                               "a", (uint64_t) 1, "b", (uint64_t) 2, "behind"),
                         0);
        int r = bus_read_options(message_read(m), table, ELEMENTSOF(table), &o, &seen, &f);
        ck_assert_msg(r == 0, "%s", f.message);
        ck_assert_uint_eq(seen, 0xff);
        ck_assert(o.dry_run);
        ck_assert_str_eq(o.reason, "b\xc3\xa4");
        ck_assert_uint_eq(strings_count(o.list), 2);
        ck_assert_str_eq(o.list[0], "x");
        ck_assert_str_eq(o.list[1], "");
        ck_assert_uint_eq(strings_count(o.labels), 2);
        ck_assert_str_eq(o.labels[0], "k=v=w");
        ck_assert_str_eq(o.labels[1], "l=");
        ck_assert_uint_eq(o.u, UINT32_MAX);
        ck_assert_uint_eq(o.t, UINT64_MAX);
        ck_assert(o.d > 0.4 && o.d < 0.6);
        ck_assert_uint_eq(o.pairs, 2);
        const char *behind; /* the message stands where the options end */
        ck_assert_int_gt(sd_bus_message_read_basic(m, 's', &behind), 0);
        ck_assert_str_eq(behind, "behind");
}
END_TEST

static void check_refused(sd_bus_message *m, Condition condition, const char *message) {
        _cleanup_(options_done) Options o = { 0 };
        Failure f = { 0 };
        int r = bus_read_options(message_read(m), table, ELEMENTSOF(table), &o, NULL, &f);
        ck_assert_msg(r == -condition_errno(condition), "%d: %s", r, f.message);
        ck_assert_int_eq(f.condition, condition);
        ck_assert_str_eq(f.message, message);
        sd_bus_message_unref(m);
}

#define REFUSED(condition, message, ...) \
        ({ \
                sd_bus_message *_m = message_new(); \
                ck_assert_int_ge(sd_bus_message_append(_m, "a{sv}", __VA_ARGS__), 0); \
                check_refused(_m, condition, message); \
        })

START_TEST(test_options_that_are_wrong_are_named) {
        char long_text[LIMIT_STRING_BYTES + 2];
        memset(long_text, 'x', sizeof long_text - 1);
        long_text[sizeof long_text - 1] = '\0';
        const Condition c = CONDITION_INVALID_ARGUMENT;
        REFUSED(c, "option speed is not known here", 1, "speed", "s", "fast");
        REFUSED(c, "option dry_run is given twice", 2, "dry_run", "b", 1, "dry_run", "b", 1);
        REFUSED(c, "option dry_run: its type is b, not s", 1, "dry_run", "s", "true");
        REFUSED(c, "option t: its type is t, not u", 1, "t", "u", 1);
        REFUSED(c, "option list: its type is as, not s", 1, "list", "s", "x");
        REFUSED(c, "option list: its type is as, not av", 1, "list", "av", 0);
        REFUSED(c, "option reason: its type is s, not v", 1, "reason", "v", "s", "x");
        REFUSED(c, "option reason: a string holds control characters", 1, "reason", "s", "a\nb");
        REFUSED(c, "option reason: a string is longer than 4096 bytes", 1, "reason", "s", long_text);
        REFUSED(c, "option list: a string holds control characters", 1, "list", "as", 1, "\x1b");
        REFUSED(c, "option labels: k is given twice", 1, "labels", "a{ss}", 2, "k", "1", "k", "2");
        REFUSED(c, "option labels: a key is empty or holds \"=\": ", 1, "labels", "a{ss}", 1, "", "1");
        REFUSED(c, "option labels: a key is empty or holds \"=\": a=b", 1, "labels", "a{ss}", 1, "a=b", "1");
        REFUSED(CONDITION_LIMIT_REACHED, "pairs: out of memory", 1, "pairs", "a(st)", 1, "b", (uint64_t) 7);
        REFUSED(CONDITION_NOT_FOUND, "option pairs: nothing is called b", 1, "pairs", "a(st)", 1, "b", (uint64_t) 0);
}
END_TEST

START_TEST(test_long_lists_are_refused) {
        for (int dictionary = 0; dictionary < 2; dictionary++) {
                unsigned limit = dictionary ? LIMIT_LABELS : LIMIT_LIST;
                const char *type = dictionary ? "a{ss}" : "as", *element = dictionary ? "{ss}" : "s";
                sd_bus_message *m = message_new();
                ck_assert_int_ge(sd_bus_message_open_container(m, 'a', "{sv}"), 0);
                ck_assert_int_ge(sd_bus_message_open_container(m, 'e', "sv"), 0);
                ck_assert_int_ge(sd_bus_message_append(m, "s", dictionary ? "labels" : "list"), 0);
                ck_assert_int_ge(sd_bus_message_open_container(m, 'v', type), 0);
                ck_assert_int_ge(sd_bus_message_open_container(m, 'a', element), 0);
                for (unsigned i = 0; i <= limit; i++) {
                        char key[16];
                        (void) snprintf(key, sizeof key, "k%u", i);
                        ck_assert_int_ge(sd_bus_message_append(m, element, key, ""), 0);
                }
                for (int i = 0; i < 4; i++)
                        ck_assert_int_ge(sd_bus_message_close_container(m), 0);
                check_refused(m, CONDITION_INVALID_ARGUMENT,
                              dictionary ? "option labels: more than 64 entries" :
                                           "option list: a list is longer than 4096");
        }
}
END_TEST

START_TEST(test_no_options_means_none) {
        Failure f = { 0 };
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *none = message_new(), *one = message_new();
        ck_assert_int_ge(sd_bus_message_append(none, "a{sv}", 0), 0);
        ck_assert_int_ge(sd_bus_message_append(one, "a{sv}", 1, "dry_run", "b", 0), 0);
        ck_assert_int_eq(bus_read_options(message_read(none), NULL, 0, NULL, NULL, &f), 0);
        ck_assert_int_eq(bus_read_options(message_read(one), NULL, 0, NULL, NULL, &f), -EINVAL);
        ck_assert_str_eq(f.message, "option dry_run is not known here");
}
END_TEST

START_TEST(test_an_object_answers_at_one_spelling_only) {
        _cleanup_free_ char *path = NULL, *id = NULL, *volume = NULL, *mount = NULL;
        ck_assert_int_eq(bus_path_encode(VSS_PATH_SETS, "3f0c9a52-7c1e-4b7d-9a51-0d6c2f8e1b44", &path), 0);
        ck_assert_str_eq(path, "/org/vssd/Vss1/sets/_33f0c9a52_2d7c1e_2d4b7d_2d9a51_2d0d6c2f8e1b44");
        ck_assert_int_eq(bus_path_decode(VSS_PATH_SETS, path, &id), 1);
        ck_assert_str_eq(id, "3f0c9a52-7c1e-4b7d-9a51-0d6c2f8e1b44");
        ck_assert_int_eq(bus_path_encode(VSS_PATH_VOLUMES, "/srv/d\xc3\xa4", &volume), 0);
        ck_assert_int_eq(bus_path_decode(VSS_PATH_VOLUMES, volume, &mount), 1);
        ck_assert_str_eq(mount, "/srv/d\xc3\xa4");
        static const char *const others[] = {
                "/org/vssd/Vss1/sets",     "/org/vssd/Vss1",
                "/org/vssd/Vss1/setsabc",  "/org/vssd/Vss1/sets/_61",
                "/org/vssd/Vss1/sets/a/b", "/org/vssd/Vss1/snapshots/a",
                "/org/vssd/Vss1/sets/_2F", "/",
        };
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                char *nothing = NULL;
                ck_assert_msg(bus_path_decode(VSS_PATH_SETS, others[i], &nothing) == 0, "%s", others[i]);
                ck_assert_ptr_null(nothing);
        }
}
END_TEST

START_TEST(test_a_writer_has_a_path_with_or_without_instance) {
        static const struct {
                const char *name, *instance, *path;
        } writers[] = {
                { "postgresql", "15-main", "/org/vssd/Vss1/writers/postgresql/_315_2dmain" },
                { "redis", "", "/org/vssd/Vss1/writers/redis/_" },
                { "a-b", "x.y", "/org/vssd/Vss1/writers/a_2db/x_2ey" },
        };
        for (size_t i = 0; i < ELEMENTSOF(writers); i++) {
                _cleanup_free_ char *path = NULL, *name = NULL, *instance = NULL;
                ck_assert_int_eq(bus_path_encode_writer(writers[i].name, writers[i].instance, &path), 0);
                ck_assert_str_eq(path, writers[i].path);
                ck_assert_int_eq(bus_path_decode_writer(path, &name, &instance), 1);
                ck_assert_str_eq(name, writers[i].name);
                ck_assert_str_eq(instance, writers[i].instance);
        }
        static const char *const others[] = {
                "/org/vssd/Vss1/writers",           "/org/vssd/Vss1/writers/redis", "/org/vssd/Vss1/writers/redis/_/x",
                "/org/vssd/Vss1/writers/_72edis/_", "/org/vssd/Vss1/sets/redis/_",
        };
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                char *name = NULL, *instance = NULL;
                ck_assert_msg(bus_path_decode_writer(others[i], &name, &instance) == 0, "%s", others[i]);
        }
}
END_TEST

START_TEST(test_errors_travel_by_name) {
        for (Condition c = CONDITION_FAILED; c < _CONDITION_MAX; c++) {
                _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
                Failure f;
                ck_assert_int_eq(bus_error_setf(&error, c, "what %d", 7), -condition_errno(c));
                ck_assert_str_eq(error.name, condition_name(c));
                ck_assert_int_eq(bus_failure_from_error(&error, &f), -condition_errno(c));
                ck_assert_int_eq(f.condition, c);
                ck_assert_str_eq(f.message, "what 7");
        }
        Failure f = { .condition = CONDITION_BUSY };
        ck_assert_int_eq(bus_failure_from_error(&SD_BUS_ERROR_NULL, &f), 0);
        ck_assert_int_eq(f.condition, CONDITION_NONE);
        ck_assert_int_lt(bus_failure_from_error(&SD_BUS_ERROR_MAKE_CONST("x.y", NULL), &f), 0);
        ck_assert_str_eq(f.message, "x.y");
}
END_TEST

START_TEST(test_errors_of_the_connection_are_not_those_of_the_peer) {
        static const struct {
                int error;
                Condition condition;
        } locals[] = {
                { -ENOTCONN, CONDITION_UNAVAILABLE },  { -ECONNRESET, CONDITION_UNAVAILABLE },
                { -ETIMEDOUT, CONDITION_UNAVAILABLE }, { -ENOENT, CONDITION_UNAVAILABLE },
                { -ENOBUFS, CONDITION_LIMIT_REACHED }, { -EPERM, CONDITION_NOT_AUTHORIZED },
                { -EBADMSG, CONDITION_FAILED },
        };
        for (size_t i = 0; i < ELEMENTSOF(locals); i++) {
                _cleanup_(sd_bus_error_free) sd_bus_error made_up = SD_BUS_ERROR_NULL;
                Failure f;
                ck_assert_int_eq(bus_failure_from_call(locals[i].error, NULL, "call", &f),
                                 -condition_errno(locals[i].condition));
                ck_assert_int_eq(f.condition, locals[i].condition);
                if (locals[i].error == -ENOENT) /* no socket: opening a bus says so, and has no error to fill */
                        continue;
                (void) sd_bus_error_set_errno(&made_up, locals[i].error);
                (void) bus_failure_from_call(locals[i].error, &made_up, "call", &f);
                ck_assert_msg(f.condition == locals[i].condition, "%s: %s", made_up.name, f.message);
        }
        Failure f;
        ck_assert_int_eq(bus_failure_from_call(0, NULL, "call", &f), 0);
        sd_bus_error busy = SD_BUS_ERROR_MAKE_CONST("org.vssd.Vss1.Error.Busy", "held by x");
        ck_assert_int_eq(bus_failure_from_call(-EIO, &busy, "call", &f), -EBUSY);
        ck_assert_str_eq(f.message, "held by x");
}
END_TEST

static int answer(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        Failure f;
        (void) failure_set(&f, CONDITION_PINNED, "100%% pinned %%s");
        return bus_reply_failure(m, &f);
}

static int take_answer(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        (void) bus_failure_from_error(sd_bus_message_get_error(m), userdata);
        return 0;
}

START_TEST(test_a_failure_is_an_answer) {
        Failure f = { 0 };
        ck_assert_int_ge(sd_bus_add_object(server, NULL, "/a", answer, NULL), 0);
        ck_assert_int_ge(sd_bus_call_method_async(client, NULL, NULL, "/a", "a.b", "C", take_answer, &f, NULL), 0);
        bus_pair_process(server, client);
        ck_assert_int_eq(f.condition, CONDITION_PINNED);
        ck_assert_str_eq(f.message, "100% pinned %s");
}
END_TEST

START_TEST(test_a_descriptor_outlives_its_message) {
        int ends[2], taken = -EBADF;
        char byte;
        Failure f = { 0 };
        sd_bus_message *m = message_new();
        ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
        ck_assert_int_ge(sd_bus_message_append(m, "hhs", ends[0], ends[0], "x"), 0);
        close(ends[0]);
        message_read(m);
        ck_assert_int_eq(bus_take_fd(m, S_IFSOCK, &taken, &f), -EINVAL);
        ck_assert_int_eq(taken, -EBADF);
        ck_assert_int_eq(bus_take_fd(m, S_IFIFO, &taken, &f), 0);
        ck_assert_int_eq(bus_take_fd(m, 0, &taken, &f), -EINVAL); /* a string stands here */
        sd_bus_message_unref(m);
        ck_assert_int_eq(fcntl(taken, F_GETFD), FD_CLOEXEC);
        ck_assert_int_eq(write(ends[1], "y", 1), 1);
        ck_assert_int_eq(read(taken, &byte, 1), 1);
        ck_assert_int_eq(byte, 'y');
        close(taken);
        close(ends[1]);
}
END_TEST

START_TEST(test_documents_come_sealed) {
        static const char text[] = "{\"a\":1}";
        _cleanup_free_ char *copy = NULL;
        size_t size = 0;
        int fd = -EBADF;
        Failure f = { 0 };
        ck_assert_int_eq(bus_document_new("manifest", text, strlen(text), &fd), 0);
        ck_assert_int_eq(ftruncate(fd, 1), -1);
        ck_assert_int_eq(bus_document_read(fd, strlen(text), &copy, &size, &f), 0);
        ck_assert_uint_eq(size, strlen(text));
        ck_assert_str_eq(copy, text);
        ck_assert_int_eq(bus_document_read(fd, strlen(text) - 1, &copy, &size, &f), -EBADMSG);
        close(fd);

        _cleanup_close_ int plain = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        ck_assert_int_eq(write(plain, text, strlen(text)), (ssize_t) strlen(text));
        ck_assert_int_eq(bus_document_read(plain, 100, &copy, &size, &f), -EINVAL);
        ck_assert_int_eq(fcntl(plain, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
        ck_assert_int_eq(bus_document_read(plain, 100, &copy, &size, &f), -EINVAL);
        ck_assert_int_eq(fcntl(plain, F_ADD_SEALS, F_SEAL_WRITE), 0);
        free(copy);
        copy = NULL;
        ck_assert_int_eq(bus_document_read(plain, 100, &copy, &size, &f), 0);

        _cleanup_close_ int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(bus_document_read(zero, 100, &copy, &size, &f), -EINVAL);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("protocol on the bus");
        TCase *tcase = tcase_create("protocol on the bus");
        tcase_add_checked_fixture(tcase, setup, teardown);
        tcase_add_test(tcase, test_options_arrive_in_their_fields);
        tcase_add_test(tcase, test_options_that_are_wrong_are_named);
        tcase_add_test(tcase, test_long_lists_are_refused);
        tcase_add_test(tcase, test_no_options_means_none);
        tcase_add_test(tcase, test_an_object_answers_at_one_spelling_only);
        tcase_add_test(tcase, test_a_writer_has_a_path_with_or_without_instance);
        tcase_add_test(tcase, test_errors_travel_by_name);
        tcase_add_test(tcase, test_errors_of_the_connection_are_not_those_of_the_peer);
        tcase_add_test(tcase, test_a_failure_is_an_answer);
        tcase_add_test(tcase, test_a_descriptor_outlives_its_message);
        tcase_add_test(tcase, test_documents_come_sealed);
        suite_add_tcase(suite, tcase);
        SRunner *runner = srunner_create(suite);
        srunner_set_fork_status(runner, CK_NOFORK); /* a bus does not survive fork() */
        srunner_run_all(runner, CK_ENV);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
