/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss_event_open_copy() in run mode (the worker asks the loop for the copy) and in attach mode: opens what lies beneath
 * the root of the copy and nothing else. Also progress and what an event may be asked. The coordinator is
 * tests/fake-vssd.c.
 */
#include "tests/support.h"
#include "writers/writer-lib.h"
#include <check.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define SET "33f0c9a5-7c1e-4b7d-9a51-0d6c2f8e1b44"

static PrivateBus *bus;
static char *dir, *log_path;
static pid_t fake_pid;
static int fake_fd = -EBADF;
static Writer *writer;
static sd_event *loop;
static unsigned n_called, n_wrong;

static char *in_dir(const char *rest) {
        static char paths[8][512];
        static unsigned next;
        char *path = paths[next++ % 8];
        (void) snprintf(path, sizeof(paths[0]), "%s/%s", dir, rest);
        return path;
}

static void tell_fake(const char *line) {
        ck_assert_int_eq(dprintf(fake_fd, "%s\n", line), (int) strlen(line) + 1);
}

static void start_fake(void) {
        int in[2];
        _cleanup_free_ char *program = NULL;
        ck_assert_int_eq(pipe2(in, O_CLOEXEC), 0);
        ck_assert_int_gt(asprintf(&program, "%s/tests/fake-vssd", getenv("VSS_BUILD")), 0);
        free(log_path);
        log_path = strdup(in_dir("fake.log"));
        file_write(log_path, "");
        fake_pid = fork();
        if (fake_pid == 0) {
                int out = open(log_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
                (void) dup2(in[0], STDIN_FILENO);
                (void) dup2(out, STDOUT_FILENO);
                (void) execl(program, program, (char *) NULL);
                _exit(127);
        }
        (void) close(in[0]);
        fake_fd = in[1];
}

static void setup(void) {
        bus = private_bus_new();
        dir = temp_dir_new();
        char *const made[] = { in_dir("live"), in_dir("copy"), in_dir("copy/data"), in_dir("secret") };
        for (size_t i = 0; i < ELEMENTSOF(made); i++)
                ck_assert_int_eq(mkdir(made[i], 0755), 0);
        file_write(in_dir("copy/data/file"), "old bytes");
        file_write(in_dir("secret/key"), "secret");
        ck_assert_int_eq(symlink(in_dir("secret"), in_dir("copy/data/out")), 0);
        ck_assert_int_eq(symlink("file", in_dir("copy/data/link")), 0);
        start_fake();
        n_called = n_wrong = 0;
}

static void teardown(void) {
        fake_fd = close_fd(fake_fd);
        (void) waitpid(fake_pid, NULL, 0);
        dir = temp_dir_free(dir);
        bus = private_bus_free(bus);
}

/* Check's assertions jump out of a test and so belong to its own thread; callbacks of run mode are on another one. */
#define EXPECT(condition, ...) \
        do { \
                if (!(condition)) { \
                        fprintf(stderr, __VA_ARGS__); \
                        n_wrong++; \
                } \
        } while (false)

static void expect_open(struct vss_event *e, const char *rest, int flags, int want) {
        int fd = vss_event_open_copy(e, in_dir(rest), flags, 0640);
        EXPECT(want == 0 ? fd >= 0 : fd == want, "open %s: %d instead of %d\n", rest, fd, want);
        EXPECT(fd < 0 || fcntl(fd, F_GETFD) & FD_CLOEXEC, "%s: not closed on exec\n", rest);
        close_fd(fd);
}

static int post_snapshot(struct vss_event *e, void *userdata) {
        _cleanup_close_ int fd = -EBADF;
        n_called++;
        for (int i = 0; i <= 20; i++)
                vss_event_progress(e, i / 20.0);
        expect_open(e, "live/data/file", O_RDONLY, 0);
        expect_open(e, "live/data", O_RDONLY | O_DIRECTORY, 0);
        expect_open(e, "live", O_RDONLY | O_DIRECTORY, 0);
        expect_open(e, "live/data/none", O_RDONLY, -ENOENT);
        expect_open(e, "live/data/link", O_RDONLY, -ELOOP);
        expect_open(e, "live/data/link", O_WRONLY | O_CREAT, -ELOOP);
        expect_open(e, "live/data/out/key", O_RDONLY, -ELOOP);
        expect_open(e, "live/../secret/key", O_RDONLY, -EXDEV);
        expect_open(e, "live/data/../../secret/key", O_RDONLY, -EXDEV);
        expect_open(e, "secret/key", O_RDONLY, -EXDEV);
        fd = vss_event_open_copy(e, in_dir("live/data/backup_label"), O_WRONLY | O_CREAT | O_EXCL, 0640);
        EXPECT(fd >= 0 && write(fd, "label", 5) == 5, "cannot write into the copy: %d\n", fd);
        return vss_event_put(e, "data", "stamp", "7");
}

static int identify(struct vss_metadata *m, void *userdata) {
        return 0;
}

/* The event is answered: the end of the test. */
static void after(Writer *w, Event *e, void *userdata) {
        ck_assert(!e->failed);
        if (loop)
                (void) sd_event_exit(loop, 0);
        else
                vss_writer_stop(w);
}

static void registered(Writer *w, int error, const char *message, void *userdata) {
        char line[2048];
        if (error == -ENOTCONN) /* the coordinator is not up yet */
                return;
        ck_assert_int_eq(error, 0);
        (void) snprintf(line, sizeof(line), "volume %s %s", in_dir("live"), in_dir("copy"));
        tell_fake(line);
        tell_fake("call copy post-snapshot " SET " 5000");
}

static Writer *make(void) {
        struct vss_writer_callbacks c = { VSS_WRITER_CALLBACKS, .name = "copy", .identify = identify,
                                          .post_snapshot = post_snapshot };
        ck_assert_int_eq(vss_writer_new(&c, NULL, &writer), 0);
        writer_set_hooks(writer, registered, NULL, after, NULL);
        return writer;
}

static bool fake_said(void *userdata) {
        _cleanup_free_ char *text = file_read(log_path);
        return strstr(text, userdata) != NULL;
}

static void check_outcome(void) {
        _cleanup_free_ char *label = file_read(in_dir("copy/data/backup_label")), *said = NULL;
        unsigned n = 0;
        ck_assert_uint_eq(n_called, 1);
        ck_assert_uint_eq(n_wrong, 0);
        ck_assert_str_eq(label, "label");
        ck_assert(wait_until(fake_said, (void *) "reply copy post-snapshot ok", 2 * USEC_PER_SEC));
        ck_assert(wait_until(fake_said, (void *) "STRING \"stamp\"", 2 * USEC_PER_SEC));
        said = file_read(log_path);
        for (char *p = said; (p = strstr(p, "progress post-snapshot")); p++)
                n++;
        ck_assert_uint_ge(n, 1);
        ck_assert_uint_le(n, 3); /* 21 calls within a moment: the first, and the last */
        ck_assert_ptr_eq(strstr(strstr(said, "open-copy") + 1, "open-copy"), NULL); /* asked once */
}

START_TEST(run_mode_opens_beneath_the_copy_only) {
        make();
        ck_assert_int_eq(vss_writer_run(writer), 0);
        vss_writer_free(writer);
        check_outcome();
}
END_TEST

START_TEST(attach_mode_opens_beneath_the_copy_only) {
        ck_assert_int_eq(sd_event_new(&loop), 0);
        make();
        ck_assert_int_eq(vss_writer_attach(writer, loop), 0);
        ck_assert_int_eq(vss_writer_attach(writer, loop), -EBUSY);
        ck_assert_int_eq(vss_writer_run(writer), -EBUSY);
        ck_assert_int_eq(sd_event_loop(loop), 0);
        vss_writer_free(writer);
        loop = sd_event_unref(loop);
        check_outcome();
}
END_TEST

START_TEST(no_bus_is_an_error_at_once) {
        setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus", 1);
        make();
        ck_assert_int_eq(vss_writer_run(writer), -ENOENT);
        ck_assert_int_eq(vss_writer_run(writer), -ENOENT);
        vss_writer_free(writer);
}
END_TEST

int main(void) {
        sandbox_enter(60);
        Suite *s = suite_create("writer-copy");
        TCase *t = tcase_create("writer-copy");
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, run_mode_opens_beneath_the_copy_only);
        tcase_add_test(t, attach_mode_opens_beneath_the_copy_only);
        tcase_add_test(t, no_bus_is_an_error_at_once);
        suite_add_tcase(s, t);
        SRunner *runner = srunner_create(s);
        srunner_set_fork_status(runner, CK_NOFORK);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
