/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Plans for the next start: what is written is read again, and of what is not a plan nothing is believed. */
#include "client/restore-plan.h"
#include "protocol/text.h"
#include <check.h>

static PlanFile files[] = {
        { .set = 0,
          .inode = 12,
          .path = (char *) "one",
          .staged = (char *) ".vss-restore-boot-0-0-one",
          .aside = (char *) ".vss-restore-old-0-0-one" },
        { .set = 1,
          .inode = INT64_MAX,
          .path = (char *) "a\n\\/\xff",
          .staged = (char *) ".vss-restore-boot-0-1-\xff",
          .aside = (char *) ".vss-restore-old-0-1-\xff" },
};
static PlanDirectory directories[] = {
        { .set = 1, .inode = 9, .mode = 0750, .uid = 7, .gid = 8, .path = (char *) "", .made = true }
};
static char *roots[] = { (char *) "/srv/a b", (char *) "/srv/\xfe", NULL };
static const Plan plan = { .boot = (char *) "0c9a-1",
                           .created = (char *) "2026-11-22T10:00:00.000000Z",
                           .set = (char *) "3f0c9a52-0000-4000-8000-000000000000",
                           .writer = (char *) "shop",
                           .component = (char *) "all",
                           .message = (char *) "a \"word\"\n",
                           .state = PLAN_SWAPPING,
                           .uid = 33,
                           .n_all = 2,
                           .roots = roots,
                           .files = files,
                           .n_files = 2,
                           .directories = directories,
                           .n_directories = 1 };

START_TEST(it_is_read_as_it_was_written) {
        char *text = NULL;
        size_t size = 0;
        Plan p;
        Failure f = {};
        ck_assert_int_eq(plan_format(&plan, &text, &size), 0);
        ck_assert_msg(plan_parse(text, size, &f, &p) >= 0, "%s", f.message);
        ck_assert_int_eq(p.state, PLAN_SWAPPING);
        ck_assert_uint_eq(p.uid, 33);
        ck_assert_uint_eq(p.n_files, 2);
        ck_assert_str_eq(p.roots[1], roots[1]);
        ck_assert_str_eq(p.message, plan.message);
        ck_assert_ptr_null(p.ended);
        for (size_t i = 0; i < 2; i++) {
                ck_assert_uint_eq(p.files[i].inode, files[i].inode);
                ck_assert_uint_eq(p.files[i].set, files[i].set);
                ck_assert_str_eq(p.files[i].path, files[i].path);
                ck_assert_str_eq(p.files[i].staged, files[i].staged);
                ck_assert_str_eq(p.files[i].aside, files[i].aside);
        }
        ck_assert_uint_eq(p.directories[0].mode, 0750);
        ck_assert(p.directories[0].made);
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
                ck_assert(!strchr(f->staged, '/') && strncmp(f->staged, ".vss-restore-boot-", 18) == 0);
                ck_assert(!strchr(f->aside, '/') && strncmp(f->aside, ".vss-restore-old-", 17) == 0);
        }
        for (size_t i = 0; i < p->n_directories; i++)
                ck_assert(p->directories[i].set < strings_count(p->roots) && p->directories[i].path[0] != '/');
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

int main(void) {
        Suite *s = suite_create("restore-plan");
        TCase *t = tcase_create("plan");
        tcase_set_timeout(t, 60); /* with sanitizers */
        tcase_add_test(t, it_is_read_as_it_was_written);
        tcase_add_test(t, whatever_one_byte_is);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_ENV);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? 1 : 0;
}
