/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans for the next start: what is written is read again, and of what is not a plan nothing is believed. */
#include "client/restore-plan.h"
#include "protocol/text.h"
#include <check.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>

static PlanFile files[] = {
        { .set = 0,
          .inode = 12,
          .path = (char *) "one",
          .staged = (char *) ".vss-restore-boot-0-0-one",
          .aside = (char *) ".vss-restore-old-0-0-one",
          .changed = 1700000000123456789 },
        { .set = 1,
          .inode = INT64_MAX,
          .path = (char *) "a\n\\/\xff",
          .staged = (char *) ".vss-restore-boot-0-1-\xff",
          .aside = (char *) ".vss-restore-old-0-1-\xff",
          .nested = true,
          .replaces = true,
          .covered = true },
        { .inode = 7, .path = (char *) "late", .staged = (char *) "", .aside = (char *) ".vss-restore-old-0-2-late" },
};
static PlanDirectory directories[] = {
        { .set = 1, .inode = 9, .mode = 0750, .uid = 7, .gid = 8, .path = (char *) "", .made = true },
        { .set = 1, .inode = 10, .path = (char *) "late", .extra = true },
};
static char *roots[] = { (char *) "/srv/a b", (char *) "/srv/\xfe", NULL };
static const Plan plan = { .boot = (char *) "0c9a-1",
                           .created = (char *) "2026-11-22T10:00:00.000000Z",
                           .set = (char *) "3f0c9a52-0000-4000-8000-000000000000",
                           .writer = (char *) "shop",
                           .component = (char *) "all",
                           .message = (char *) "a \"word\"\n",
                           .unit = (char *) "shop@a\\x2db.service",
                           .state = PLAN_REPLACING,
                           .uid = 33,
                           .n_all = 3,
                           .roots = roots,
                           .files = files,
                           .n_files = 3,
                           .directories = directories,
                           .n_directories = 2 };

START_TEST(it_is_read_as_it_was_written) {
        char *text = NULL;
        size_t size = 0;
        Plan p;
        Failure f = {};
        ck_assert_int_eq(plan_format(&plan, &text, &size), 0);
        ck_assert_msg(plan_parse(text, size, &f, &p) >= 0, "%s", f.message);
        ck_assert_int_eq(p.state, PLAN_REPLACING);
        ck_assert_uint_eq(p.uid, 33);
        ck_assert_uint_eq(p.n_files, 3);
        ck_assert_str_eq(p.roots[1], roots[1]);
        ck_assert_str_eq(p.message, plan.message);
        ck_assert_str_eq(p.unit, plan.unit);
        ck_assert_ptr_null(p.ended);
        for (size_t i = 0; i < 3; i++) {
                ck_assert_uint_eq(p.files[i].inode, files[i].inode);
                ck_assert_uint_eq(p.files[i].set, files[i].set);
                ck_assert_str_eq(p.files[i].path, files[i].path);
                ck_assert_str_eq(p.files[i].staged, files[i].staged);
                ck_assert_str_eq(p.files[i].aside, files[i].aside);
                ck_assert_uint_eq(p.files[i].changed, files[i].changed);
                ck_assert(p.files[i].nested == files[i].nested && p.files[i].replaces == files[i].replaces);
                ck_assert(p.files[i].covered == files[i].covered);
        }
        ck_assert_uint_eq(p.directories[0].mode, 0750);
        ck_assert(p.directories[0].made && !p.directories[0].extra);
        ck_assert(p.directories[1].extra && !p.directories[1].made);
        plan_done(&p);
        free(text);
}
END_TEST

/* Each name is of one directory, each path below its root. */
static void believed(const Plan *p) {
        for (size_t i = 0; i < p->n_files; i++) {
                const PlanFile *f = p->files + i;
                ck_assert_uint_lt(f->set, strings_count(p->roots));
                ck_assert(f->path[0] && f->path[0] != '/' && !strstr(f->path, "../") && !streq(f->path, ".."));
                ck_assert(!strchr(f->staged, '/') &&
                          (!f->staged[0] || strncmp(f->staged, ".vss-restore-boot-", 18) == 0));
                ck_assert(!strchr(f->aside, '/') && strncmp(f->aside, ".vss-restore-old-", 17) == 0);
        }
        for (size_t i = 0; i < p->n_directories; i++)
                ck_assert(p->directories[i].set < strings_count(p->roots) && p->directories[i].path[0] != '/');
        ck_assert(!p->unit || (p->unit[0] && p->unit[0] != '.' && !strpbrk(p->unit, "/ %\n")));
        for (char **root = p->roots; root && *root; root++)
                ck_assert((*root)[0] == '/');
}

START_TEST(whatever_one_byte_is) {
        char *text = NULL;
        size_t size = 0;
        unsigned n_read = 0;
        ck_assert_int_eq(plan_format(&plan, &text, &size), 0);
        for (size_t i = 0; i < size; i++) {
                char before = text[i];
                for (int byte = 0; byte < 256; byte += (byte >= 32 && byte < 127) ? 2 : 9) {
                        Plan p;
                        text[i] = (char) byte;
                        if (plan_parse(text, size, NULL, &p) < 0)
                                continue;
                        n_read++;
                        believed(&p);
                        plan_done(&p);
                }
                text[i] = before;
        }
        ck_assert_uint_gt(n_read, 100);
        for (size_t i = 0; i < size - 1; i++) {
                Plan p;
                ck_assert_msg(plan_parse(text, i, NULL, &p) < 0, "the first %zu bytes", i);
        }
        free(text);
}
END_TEST

/* Each state is a word of its own, and one that says what is done with the files. */
START_TEST(states_are_told_apart) {
        for (int state = 0; state < _PLAN_STATE_MAX; state++) {
                Plan p = plan, back;
                char *text = NULL;
                size_t size = 0;
                p.state = (PlanState) state;
                ck_assert_int_eq(plan_format(&p, &text, &size), 0);
                ck_assert_int_ge(plan_parse(text, size, NULL, &back), 0);
                ck_assert_int_eq(back.state, state);
                ck_assert(plan_is_over(&back) == (state == PLAN_FAILED));
                back.n_files = 0;
                ck_assert(plan_is_over(&back) == (state == PLAN_FAILED || state == PLAN_DONE));
                back.n_files = p.n_files;
                plan_done(&back);
                free(text);
        }
}
END_TEST

/* A plan that somebody is at is locked in every form that it has, and only as long as he lives. */
START_TEST(whose_it_is) {
        char directory[] = "/tmp/unit-restore-plan-XXXXXX";
        Plan p = plan, back;
        int lock = -EBADF;
        (void) snprintf(p.id, sizeof(p.id), "3f0c9a52-0000-4000-8000-000000000001");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        int dfd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_eq(plan_save(dfd, &p), 0);
        ck_assert(!plan_is_running(dfd, p.id));
        for (int i = 0; i < 2; i++) {
                ck_assert_int_eq(plan_save_locked(dfd, &p, &lock), 0);
                ck_assert(plan_is_running(dfd, p.id));
                ck_assert_int_ge(plan_load(dfd, p.id, NULL, &back), 0);
                plan_done(&back);
        }
        (void) close(lock);
        ck_assert(!plan_is_running(dfd, p.id));
        ck_assert_int_eq(plan_remove(dfd, p.id), 0);
        ck_assert(!plan_is_running(dfd, p.id));
        /* half of one, by somebody who lives and by somebody who does not */
        char **ids = NULL;
        const char *new = "3f0c9a52-0000-4000-8000-000000000001.new";
        int fd = openat(dfd, new, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_int_eq(flock(fd, LOCK_EX), 0);
        ck_assert_int_eq(plans_list(dfd, &ids), 0);
        ck_assert_int_eq(faccessat(dfd, new, F_OK, 0), 0);
        (void) close(fd);
        ck_assert_int_eq(plans_list(dfd, &ids), 0);
        ck_assert_ptr_null(ids);
        ck_assert_int_eq(faccessat(dfd, new, F_OK, 0), -1);
        (void) close(dfd);
        ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

int main(void) {
        Suite *s = suite_create("restore-plan");
        TCase *t = tcase_create("plan");
        tcase_set_timeout(t, 60); /* with sanitizers */
        tcase_add_test(t, it_is_read_as_it_was_written);
        tcase_add_test(t, whatever_one_byte_is);
        tcase_add_test(t, states_are_told_apart);
        tcase_add_test(t, whose_it_is);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_ENV);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? 1 : 0;
}
