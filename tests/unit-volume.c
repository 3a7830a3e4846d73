/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which volumes are in each other's way, and a vss-probe that lies: a copy of this program under that name, beside a
 * copy of the test, which is where vssd looks first. Whatever it says, the question fails with one line and nothing is
 * left open.
 */
#include "daemon/probe.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <libgen.h>
#include <sys/stat.h>

static char *directory;

/* ---- the liar ---- */

static struct ProbeReply volume_reply(int fd) {
        struct ProbeReply r = {
                .op = PROBE_VOLUME, .index = 0, .has_fd = 1, .name = "/x", .mount_point = "/x", .fs_type = "ext4"
        };
        struct stat st = {};
        (void) fstat(fd, &st);
        r.dev = st.st_dev;
        return r;
}

static void say(struct ProbeReply r, int fd) {
        (void) child_send(CHILD_SOCKET_FD, &r, sizeof(r), fd);
}

static int lie(const char *lie_name) {
        int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC), file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
        struct ProbeReply v = volume_reply(root), found = { .op = PROBE_FOUND, .index = 0 },
                          done = { .op = PROBE_DONE };
        struct ProbeRequest request = {};
        while (!streq(lie_name, "early") && request.op != PROBE_END)
                (void) child_receive(CHILD_SOCKET_FD, &request, sizeof(request), NULL);
        if (streq(lie_name, "truth"))
                say(v, root);
        else if (streq(lie_name, "no-fd"))
                say(v, -1);
        else if (streq(lie_name, "other-fd"))
                v.dev++, say(v, root);
        else if (streq(lie_name, "file-fd"))
                v.dev = volume_reply(file).dev, say(v, file);
        else if (streq(lie_name, "gap"))
                v.volume = 1, say(v, root);
        else if (streq(lie_name, "foreign-argument"))
                v.index = 7, say(v, root);
        else if (streq(lie_name, "kind"))
                v.kind = 99, say(v, root);
        else if (streq(lie_name, "keys"))
                v.n_keys = VOLUME_KEYS_MAX + 1, say(v, root);
        else if (streq(lie_name, "no-name"))
                v.name[0] = 0, say(v, root);
        else if (streq(lie_name, "name-bytes"))
                v.name[1] = (char) 0xff, say(v, root);
        else if (streq(lie_name, "control-bytes"))
                v.text[0] = '\n', say(v, root);
        else if (streq(lie_name, "unterminated"))
                memset(v.fs_uuid, 'x', sizeof(v.fs_uuid)), memset(v.name, '\\', sizeof(v.name)), v.index = -2,
                                                                                                 say(v, root);
        else if (streq(lie_name, "found-nothing"))
                found.volume = 0, say(found, -1);
        else if (streq(lie_name, "found-beyond"))
                found.index = 5, found.volume = -1, found.condition = CONDITION_FAILED, say(found, -1);
        else if (streq(lie_name, "found-both"))
                say(v, root), found.condition = CONDITION_FAILED, say(found, -1);
        else if (streq(lie_name, "condition"))
                found.volume = -1, found.condition = 12345, say(found, -1);
        else if (streq(lie_name, "mount-of-nothing"))
                found.op = PROBE_MOUNT, found.volume = 3, say(found, -1);
        else if (streq(lie_name, "word"))
                done.op = 77;
        else if (streq(lie_name, "short"))
                (void) child_send(CHILD_SOCKET_FD, &done, 16, -1);
        else if (streq(lie_name, "done-condition"))
                done.condition = 12345;
        else if (streq(lie_name, "flood"))
                for (found.op = PROBE_LEFT_OUT; child_send(CHILD_SOCKET_FD, &found, sizeof(found), -1) >= 0;)
                        ;
        else if (streq(lie_name, "volumes"))
                for (v.index = -1; child_send(CHILD_SOCKET_FD, &v, sizeof(v), root) >= 0; v.volume++)
                        ;
        else if (streq(lie_name, "early"))
                return 0;
        else if (streq(lie_name, "hang"))
                for (;;)
                        (void) pause();
        say(done, -1);
        return 0;
}

static const char *const lies[] = {
        "no-fd",
        "other-fd",
        "file-fd",
        "gap",
        "foreign-argument",
        "kind",
        "keys",
        "no-name",
        "name-bytes",
        "control-bytes",
        "unterminated",
        "found-nothing",
        "found-beyond",
        "found-both",
        "condition",
        "mount-of-nothing",
        "word",
        "short",
        "done-condition",
        "flood",
        "volumes",
        "early",
};

/* ---- the question ---- */

typedef struct Answer {
        sd_event *event;
        int calls;
        bool failed;
        Failure failure;
        ProbeResult *result;
} Answer;

static void on_done(ProbeResult **result, const Failure *failure, void *userdata) {
        Answer *a = userdata;
        a->calls++;
        a->failed = failure != NULL;
        if (failure)
                a->failure = *failure;
        else
                a->result = TAKE_PTR(*result);
        (void) sd_event_exit(a->event, 0);
}

static int open_descriptors(void) {
        int n = 0;
        for (int fd = 0; fd < 1024; fd++)
                n += fcntl(fd, F_GETFD) >= 0;
        return n;
}

static Answer ask(const char *lie_name) {
        const ProbePath path = { .path = "/x", .is_argument = true };
        Answer a = {};
        Probe *probe = NULL;
        ck_assert_int_eq(setenv("VSS_LIE", lie_name, 1), 0);
        ck_assert_int_eq(sd_event_new(&a.event), 0);
        ck_assert_int_eq(probe_new(a.event, &path, 1, 0, 0, on_done, &a, &probe), 0);
        ck_assert_int_ge(sd_event_loop(a.event), 0);
        ck_assert_int_eq(a.calls, 1);
        (void) probe_free(probe);
        a.event = sd_event_unref(a.event);
        return a;
}

START_TEST(truth_is_believed) {
        int before = open_descriptors();
        Answer a = ask("truth");
        ck_assert_msg(!a.failed, "%s", a.failure.message);
        ck_assert_uint_eq(a.result->n_volumes, 1);
        ck_assert_str_eq(a.result->volumes[0]->argument, "/x");
        ck_assert_int_eq(a.result->path_volume[0], -1);
        ck_assert_int_ne(a.result->path_failure[0].condition, CONDITION_NONE);
        (void) probe_result_free(a.result);
        ck_assert_int_eq(open_descriptors(), before);
}
END_TEST

START_TEST(lies_are_refused) {
        int before = open_descriptors();
        Answer a = ask(lies[_i]);
        ck_assert_msg(a.failed, "%s was believed", lies[_i]);
        ck_assert_int_eq(a.failure.condition, CONDITION_FAILED);
        ck_assert_int_eq(open_descriptors(), before);
}
END_TEST

START_TEST(silence_ends_at_the_deadline) {
        uint64_t start = now_usec();
        Answer a = ask("hang");
        ck_assert(a.failed);
        ck_assert_int_eq(a.failure.condition, CONDITION_DEADLINE_PASSED);
        ck_assert_uint_ge(now_usec() - start, BUDGET_PATH_USEC);
        ck_assert_uint_le(now_usec() - start, BUDGET_PATH_USEC + 2 * USEC_PER_SEC);
}
END_TEST

START_TEST(freed_probe_calls_nobody) {
        const ProbePath path = { .path = "/x", .is_argument = true };
        Answer a = {};
        Probe *probe = NULL;
        ck_assert_int_eq(setenv("VSS_LIE", "early", 1), 0);
        ck_assert_int_eq(sd_event_new(&a.event), 0);
        ck_assert_int_eq(probe_new(a.event, &path, 1, 0, 0, on_done, &a, &probe), 0);
        (void) probe_free(probe);
        for (int i = 0; i < 10; i++)
                ck_assert_int_ge(sd_event_run(a.event, 10 * USEC_PER_MSEC), 0);
        ck_assert_int_eq(a.calls, 0);
        (void) sd_event_unref(a.event);
}
END_TEST

START_TEST(too_many_or_too_long_paths_are_refused) {
        static ProbePath many[PROBE_PATHS_MAX + 1];
        char *path = malloc(6000);
        Answer a = {};
        Probe *probe = NULL;
        ck_assert_ptr_nonnull(path);
        memset(path, 'x', 5999);
        path[0] = '/';
        path[5999] = 0;
        for (size_t i = 0; i < ELEMENTSOF(many); i++)
                many[i].path = "/";
        ck_assert_int_eq(setenv("VSS_LIE", "nothing", 1), 0);
        ck_assert_int_eq(sd_event_new(&a.event), 0);
        ck_assert_int_eq(probe_new(a.event, many, ELEMENTSOF(many), 0, 0, on_done, &a, &probe), -E2BIG);
        many[0].path = path;
        ck_assert_int_eq(probe_new(a.event, many, 2, 0, 0, on_done, &a, &probe), 0);
        ck_assert_int_ge(sd_event_loop(a.event), 0);
        ck_assert(!a.failed);
        ck_assert_int_eq(a.result->path_failure[0].condition, CONDITION_INVALID_ARGUMENT);
        (void) probe_result_free(a.result);
        (void) probe_free(probe);
        (void) sd_event_unref(a.event);
        free(path);
}
END_TEST

START_TEST(volumes_collide_by_key_and_only_by_key) {
        Volume a = { .superblock = 1, .keys = { 1, 10 }, .n_keys = 2 },
               b = { .superblock = 2, .keys = { 2, 20 }, .n_keys = 2 };
        ck_assert(!volumes_collide(&a, &b));
        b.superblock = 1;
        ck_assert(volumes_collide(&a, &b));
        b.superblock = 2;
        b.keys[1] = 10;
        ck_assert(volumes_collide(&a, &b) && volumes_collide(&b, &a));
        b.n_keys = 1;
        ck_assert(!volumes_collide(&a, &b));
        b.keys[0] = PROBE_KEY_EVERYTHING;
        ck_assert(volumes_collide(&a, &b) && volumes_collide(&b, &a));
        a.n_keys = 0;
        ck_assert(volumes_collide(&b, &b));
}
END_TEST

START_TEST(kinds_have_words) {
        for (int i = 0; i < _VOLUME_KIND_MAX; i++)
                ck_assert_int_eq(volume_kind_from_string(volume_kind_to_string((VolumeKind) i)), i);
        ck_assert_int_eq(volume_kind_from_string("disk"), -EINVAL);
        ck_assert_int_eq(volume_kind_from_string(""), -EINVAL);
}
END_TEST

/* Runs ourselves from a place of our own, with the liar beside. */
static void move_next_to_liar(char *argv[]) {
        char self[512], liar[512];
        char *copy[] = { (char *) "cp", (char *) "/proc/self/exe", self, NULL };
        char exe[512];
        ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
        if (n < 0)
                test_die("cannot find ourselves");
        exe[n] = 0;
        directory = temp_dir_new();
        (void) snprintf(self, sizeof(self), "%s/unit-volume", directory);
        (void) snprintf(liar, sizeof(liar), "%s/vss-probe", directory);
        copy[1] = exe;
        if (run_command(copy) != 0)
                test_die("cannot copy ourselves");
        copy[2] = liar;
        if (run_command(copy) != 0)
                test_die("cannot copy ourselves");
        char *again[] = { self, (char *) "moved", NULL };
        int status = run_command(again);
        directory = temp_dir_free(directory);
        exit(status);
}

int main(int argc, char *argv[]) {
        if (streq(basename(argv[0]), "vss-probe"))
                return lie(getenv("VSS_LIE"));
        if (argc < 2)
                move_next_to_liar(argv);
        Suite *suite = suite_create("volume");
        TCase *tc = tcase_create("volume");
        tcase_set_timeout(tc, 30);
        tcase_add_test(tc, truth_is_believed);
        tcase_add_loop_test(tc, lies_are_refused, 0, ELEMENTSOF(lies));
        tcase_add_test(tc, silence_ends_at_the_deadline);
        tcase_add_test(tc, freed_probe_calls_nobody);
        tcase_add_test(tc, too_many_or_too_long_paths_are_refused);
        tcase_add_test(tc, volumes_collide_by_key_and_only_by_key);
        tcase_add_test(tc, kinds_have_words);
        suite_add_tcase(suite, tc);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
