/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One file on its way into its place and back, also on a file system that exchanges nothing. */
#include "client/restore-file.h"
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static char directory[] = "/tmp/vss-restore-XXXXXX";
static int dfd = -EBADF;

static void setup(void) {
        (void) memcpy(directory + strlen(directory) - 6, "XXXXXX", 6);
        ck_assert_ptr_nonnull(mkdtemp(directory));
        dfd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(dfd, 0);
}

static void teardown(void) {
        DIR *d = fdopendir(dfd);
        for (struct dirent *e; (e = readdir(d));)
                (void) unlinkat(dfd, e->d_name, 0);
        (void) closedir(d);
        (void) rmdir(directory);
}

static void write_file(const char *name, const char *text) {
        _cleanup_close_ int fd = openat(dfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t) strlen(text));
}

static void ck_content(const char *name, const char *text) {
        char got[64] = "";
        _cleanup_close_ int fd = openat(dfd, name, O_RDONLY | O_CLOEXEC);
        ck_assert_msg(fd >= 0, "%s: %s", name, strerror(errno));
        ck_assert_int_ge(read(fd, got, sizeof(got) - 1), 0);
        ck_assert_str_eq(got, text);
}

static unsigned n_files(void) {
        unsigned n = 0;
        DIR *d = opendir(directory);
        for (struct dirent *e; (e = readdir(d));)
                n += e->d_name[0] != '.' || strlen(e->d_name) > 2;
        (void) closedir(d);
        return n;
}

static StagedFile staged(const char *name) {
        StagedFile s = { .name = temporary_name("new", name) };
        write_file(s.name, "new");
        return s;
}

/* renameat2() with one of these flags is not known here. */
static void forget_flags(unsigned flags) {
        struct sock_filter code[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 3),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4])),
                BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, flags, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = { ELEMENTSOF(code), code };
        ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* Each test is a process of its own: what is forgotten is so for one. */
START_TEST(test_there_and_back) {
        static const unsigned flags[] = { 0, RENAME_EXCHANGE, RENAME_EXCHANGE | RENAME_NOREPLACE };
        if (flags[_i])
                forget_flags(flags[_i]);
        write_file("file", "old");
        StagedFile s = staged("file");
        ck_assert_int_eq(file_swap(dfd, "file", &s, true), -EEXIST);
        ck_assert(!s.swapped);
        ck_content("file", "old");
        ck_assert_int_eq(file_swap(dfd, "file", &s, false), 0);
        ck_content("file", "new");
        ck_assert_ptr_nonnull(strstr(s.name, ".vss-restore-old-"));
        ck_content(s.name, "old");
        ck_assert_int_eq(file_swap_back(dfd, "file", &s), 0);
        ck_content("file", "old");
        ck_assert_uint_eq(n_files(), 1);
        s = staged("file");
        ck_assert_int_eq(file_swap(dfd, "file", &s, false), 0);
        file_keep(dfd, &s);
        ck_content("file", "new");
        ck_assert_uint_eq(n_files(), 1);
        /* where nothing is */
        s = staged("other");
        ck_assert_int_eq(file_swap(dfd, "other", &s, true), 0);
        ck_content("other", "new");
        ck_assert_uint_eq(n_files(), 2);
        ck_assert_int_eq(file_swap_back(dfd, "other", &s), 0);
        ck_assert_uint_eq(n_files(), 1);
}
END_TEST

START_TEST(test_a_directory_is_not_exchanged) {
        ck_assert_int_eq(mkdirat(dfd, "file", 0700), 0);
        StagedFile s = staged("file");
        ck_assert_int_eq(file_swap(dfd, "file", &s, false), -EISDIR);
        file_unstage(dfd, &s);
        ck_assert_uint_eq(n_files(), 1);
        ck_assert_int_eq(unlinkat(dfd, "file", AT_REMOVEDIR), 0);
}
END_TEST

START_TEST(test_what_is_old_and_cannot_go_back_stays) {
        write_file("file", "old");
        StagedFile s = staged("file");
        ck_assert_int_eq(file_swap(dfd, "file", &s, false), 0);
        file_unstage(dfd, &s);
        ck_assert_uint_eq(n_files(), 2);
}
END_TEST

START_TEST(test_a_long_name_has_room) {
        char name[NAME_MAX + 1];
        memset(name, 'x', NAME_MAX);
        name[NAME_MAX] = '\0';
        StagedFile s = staged(name);
        ck_assert_int_eq(file_swap(dfd, name, &s, false), 0);
        ck_content(name, "new");
}
END_TEST

int main(void) {
        Suite *suite = suite_create("unit-restore-file");
        TCase *t = tcase_create("file");
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_loop_test(t, test_there_and_back, 0, 3);
        tcase_add_test(t, test_a_directory_is_not_exchanged);
        tcase_add_test(t, test_what_is_old_and_cannot_go_back_stays);
        tcase_add_test(t, test_a_long_name_has_room);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? 0 : 1;
}
