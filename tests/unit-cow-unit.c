/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The note of what is attached: written, read, forgotten, and never more than it says. */
#include "providers/cow/unit.h"
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define STORE "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"

static char state[64];

static void begin(void) {
        char path[128];
        strcpy(state, "/tmp/vss-unit-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(state));
        (void) snprintf(path, sizeof(path), "%s/cow", state);
        ck_assert_int_eq(mkdir(path, 0700), 0);
}

static void end(void) {
        char command[128];
        (void) snprintf(command, sizeof(command), "rm -r %s", state);
        ck_assert_int_eq(system(command), 0);
}

static void put(const char *name, const char *text) {
        char path[160];
        (void) snprintf(path, sizeof(path), "%s/cow/%s", state, name);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t) strlen(text));
        (void) close(fd);
}

static size_t count(void) {
        Attached *all = NULL;
        size_t n = 0;
        ck_assert_int_eq(attached_read(state, &all, &n), 0);
        free(all);
        return n;
}

START_TEST(noted_and_forgotten) {
        Attached *all = NULL, a = { .name = "db-1", .store = STORE, .origin = "/srv/an image.img" };
        size_t n = 0;
        ck_assert_uint_eq(count(), 0);
        ck_assert_int_eq(attached_forget(state, "db-1"), 0);
        ck_assert_int_eq(attached_note(state, &a), 0);
        ck_assert_int_eq(attached_note(state, &a), 0);
        ck_assert_int_eq(attached_read(state, &all, &n), 0);
        ck_assert_uint_eq(n, 1);
        ck_assert_str_eq(all[0].name, a.name);
        ck_assert_str_eq(all[0].store, a.store);
        ck_assert_str_eq(all[0].origin, a.origin);
        free(all);
        ck_assert_int_eq(attached_forget(state, "db-1"), 0);
        ck_assert_uint_eq(count(), 0);
}
END_TEST

START_TEST(names_stay_in_their_directory) {
        static const char *const names[] = { "", ".hidden", "../stores", "a/b" };
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                Attached a = { .store = STORE, .origin = "/x" };
                (void) snprintf(a.name, sizeof(a.name), "%s", names[i]);
                ck_assert_int_eq(attached_note(state, &a), -EINVAL);
                ck_assert_int_eq(attached_forget(state, names[i]), -EINVAL);
        }
        ck_assert_int_eq(attached_note(state, &(Attached) { .name = "a", .store = STORE, .origin = "/x\n/y" }),
                         -EINVAL);
}
END_TEST

START_TEST(nonsense_is_left_out) {
        ck_assert_int_eq(attached_note(state, &(Attached) { .name = "good", .store = STORE, .origin = "/x" }), 0);
        put("attached/empty", "");
        put("attached/id", "not-an-id\n/x\n");
        put("attached/option", "--force; rm -rf /, which is not an id\n/x\n");
        put("attached/.good.new", STORE "\n/x\n");
        ck_assert_uint_eq(count(), 1);
}
END_TEST

START_TEST(stores_are_found) {
        StoreRegistered s;
        char path[128];
        (void) snprintf(path, sizeof(path), "%s/cow/stores", state);
        ck_assert_int_eq(mkdir(path, 0700), 0);
        ck_assert_int_eq(store_registered(state, STORE, &s), -ENOENT);
        ck_assert_int_eq(store_registered(state, "../x", &s), -EINVAL);
        put("stores/" STORE, "/var/store\nublk");
        ck_assert_int_eq(store_registered(state, STORE, &s), 0);
        ck_assert_str_eq(s.path, "/var/store");
        ck_assert_str_eq(s.frontend, "ublk");
        put("stores/" STORE, "/var/store\n");
        ck_assert_int_eq(store_registered(state, STORE, &s), 0);
        ck_assert_str_eq(s.frontend, "");
        put("stores/" STORE, "relative\n");
        ck_assert_int_eq(store_registered(state, STORE, &s), -EINVAL);
}
END_TEST

/* A build tree is not what systemd would start. */
START_TEST(no_unit_of_a_build_tree) {
        ck_assert(!unit_is_available());
}
END_TEST

int main(void) {
        Suite *s = suite_create("unit-cow-unit");
        TCase *t = tcase_create("unit");
        tcase_add_checked_fixture(t, begin, end);
        tcase_add_test(t, noted_and_forgotten);
        tcase_add_test(t, names_stay_in_their_directory);
        tcase_add_test(t, nonsense_is_left_out);
        tcase_add_test(t, stores_are_found);
        tcase_add_test(t, no_unit_of_a_build_tree);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed > 0;
}
