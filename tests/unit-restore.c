/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of a backup may be restored, and the grammar of options. */
#include "protocol/restore.h"
#include <check.h>
#include <inttypes.h>
#include <stdio.h>

static const char document[] =
        "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"shop\"},\"backup_schema\":[\"rename\",\"new-target\"],"
        "\"restore\":{\"method\":\"alternate\",\"writer_events\":\"if-replace-fails\",\"alternate_locations\":"
        "[{\"root\":\"/srv/shop\",\"to\":\"/srv/old\"}]},"
        "\"components\":["
        "{\"path\":\"all\",\"type\":\"file-group\",\"selectable\":true},"
        "{\"path\":\"all/book\",\"type\":\"database\",\"selectable_for_restore\":true},"
        "{\"path\":\"all/book/index\",\"type\":\"file-group\"},"
        "{\"path\":\"all/log\",\"type\":\"file-group\"},"
        "{\"path\":\"allied\",\"type\":\"file-group\"}]}";

static ManifestComponent components[] = { { .path = (char *) "all" }, { .path = (char *) "allied" } };
static ManifestWriter writers[] = {
        { .name = (char *) "shop", .instance = (char *) "", .components = components, .n_components = 2 },
        { .name = (char *) "pg", .instance = (char *) "a" },
        { .name = (char *) "pg", .instance = (char *) "b" },
        { .name = (char *) "1000:pg", .instance = (char *) "" },
};
static const Manifest manifest = { .writers = writers, .n_writers = ELEMENTSOF(writers) };
static Metadata *saved;

static void setup(void) {
        Failure f = {};
        int r = metadata_parse(document, strlen(document), &f, &saved);
        ck_assert_msg(r == 0, "%s", f.message);
        ck_assert_int_eq(manifest_writer_index(&writers[0]), 0);
}

static void teardown(void) {
        saved = metadata_free(saved);
        free(writers[0].by_path);
        writers[0].by_path = NULL;
}

START_TEST(writer_is_found_by_its_reference) {
        static const struct {
                const char *reference;
                int index;
                Condition condition;
        } table[] = {
                { "shop", 0, CONDITION_NONE },      { "pg@b", 2, CONDITION_NONE },
                { "pg", -1, CONDITION_AMBIGUOUS },  { "pg@c", -1, CONDITION_NOT_FOUND },
                { "sho", -1, CONDITION_NOT_FOUND }, { "1000:pg", 3, CONDITION_NONE },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                const ManifestWriter *w = NULL;
                Failure f = {};
                int r = restore_find_writer(&manifest, table[i].reference, &f, &w);
                ck_assert_int_eq(f.condition, table[i].condition);
                ck_assert_int_eq(r < 0, table[i].index < 0);
                ck_assert_ptr_eq(w, table[i].index < 0 ? NULL : &writers[table[i].index]);
        }
}
END_TEST

START_TEST(part_needs_selectable_for_restore) {
        static const struct {
                const char *path;
                const char *explicit_path;
                Condition condition;
        } table[] = {
                { "all", "all", CONDITION_NONE },
                { "allied", "allied", CONDITION_NONE },
                { "all/book", "all", CONDITION_NONE },
                { "all/log", NULL, CONDITION_NOT_SUPPORTED },
                { "all/book/index", NULL, CONDITION_NOT_SUPPORTED },
                { "all/none", NULL, CONDITION_NOT_FOUND },
                { "other", NULL, CONDITION_NOT_FOUND },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                const ManifestComponent *c = NULL;
                Failure f = {};
                (void) restore_find_component(&writers[0], saved, table[i].path, &f, &c);
                ck_assert_msg(f.condition == table[i].condition, "%s: %s", table[i].path, f.message);
                ck_assert_msg(streq_null(c ? c->path : NULL, table[i].explicit_path), "%s", table[i].path);
        }
}
END_TEST

START_TEST(what_was_taken_with_it_is_restored_with_it) {
        static const struct {
                const char *path, *bits; /* one per component of the document */
        } table[] = { { "all", "11110" }, { "all/book", "01100" }, { "allied", "00001" } };
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                for (size_t k = 0; k < saved->n_components; k++)
                        ck_assert_int_eq(restore_includes(&writers[0], saved, table[i].path, k),
                                         table[i].bits[k] == '1');
}
END_TEST

START_TEST(part_that_is_listed_stays_a_part) {
        static ManifestComponent nested[] = { { .path = (char *) "all" }, { .path = (char *) "all/book" } };
        ManifestWriter w = {
                .name = (char *) "shop", .instance = (char *) "", .components = nested, .n_components = 2
        };
        ck_assert_int_eq(manifest_writer_index(&w), 0);
        ck_assert(restore_includes(&w, saved, "all", 0));
        ck_assert(restore_includes(&w, saved, "all", 1));
        ck_assert(restore_includes(&w, saved, "all", 3));
        const ManifestComponent *c = NULL;
        ck_assert_int_eq(restore_find_component(&w, saved, "all/book", NULL, &c), 0);
        ck_assert_str_eq(c->path, "all");
        free(w.by_path);
}
END_TEST

START_TEST(document_is_that_of_its_writer) {
        static const struct {
                const char *name, *instance;
                bool fits;
        } table[] = { { "shop", "", true },
                      { "1000:shop", "", true }, /* an account's own writer of that name */
                      { "pg", "", false },
                      { "shop", "a", false },
                      { "1000:pg", "", false } };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                ManifestWriter w = { .name = (char *) table[i].name,
                                     .instance = (char *) table[i].instance,
                                     .metadata_text = (char *) document };
                Metadata *m = NULL;
                Failure f = {};
                ck_assert_int_eq(restore_read_document(&w, &f, &m) >= 0, table[i].fits);
                ck_assert_int_eq(f.condition, table[i].fits ? CONDITION_NONE : CONDITION_INVALID_DOCUMENT);
                metadata_free(m);
        }
        const ManifestWriter without = { .name = (char *) "shop", .instance = (char *) "" };
        Metadata *m = NULL;
        ck_assert_int_lt(restore_read_document(&without, NULL, &m), 0);
}
END_TEST

/* As many as a document may have: each found by its path, and its part with it, while nobody notices. */
START_TEST(thousands_of_components_are_found_at_once) {
        static char paths[LIMIT_COMPONENTS][32];
        static ManifestComponent many[LIMIT_COMPONENTS];
        char *text = NULL;
        size_t size = 0;
        Metadata *m = NULL;
        Failure f = {};
        FILE *stream = open_memstream(&text, &size);
        (void) fprintf(stream,
                       "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"shop\"},\"components\":[");
        for (size_t i = 0; i < LIMIT_COMPONENTS; i++) { /* every second one is a part of the one before it */
                (void) snprintf(paths[i], sizeof(paths[i]), i % 2 ? "part-of-shop/%zu/part" : "part-of-shop/%zu",
                                i / 2 * 7919 % 2048);
                many[i].path = paths[i];
                (void) fprintf(
                        stream,
                        "%s{\"path\":\"%s\",\"type\":\"database\",\"selectable\":%s,\"selectable_for_restore\":true}",
                        i ? "," : "", paths[i], i % 2 ? "false" : "true");
        }
        (void) fprintf(stream, "]}");
        ck_assert_int_eq(fclose(stream), 0);
        ManifestWriter w = { .name = (char *) "shop",
                             .instance = (char *) "",
                             .metadata_text = text,
                             .components = many,
                             .n_components = LIMIT_COMPONENTS };
        uint64_t begin = now_usec();
        ck_assert_int_eq(manifest_writer_index(&w), 0);
        ck_assert_msg(restore_read_document(&w, &f, &m) >= 0, "%s", f.message);
        for (size_t i = 0; i < LIMIT_COMPONENTS; i++) {
                const ManifestComponent *c = NULL;
                ck_assert_int_eq(restore_find_component(&w, m, paths[i], NULL, &c), 0);
                ck_assert_ptr_eq(c, many + i / 2 * 2);
                ck_assert(restore_includes(&w, m, paths[i / 2 * 2], i));
        }
        uint64_t took = now_usec() - begin;
        ck_assert_msg(took < USEC_PER_SEC || getenv("VSSD_WRAPPER"), "it took %" PRIu64 " us", took);
        metadata_free(m);
        free(w.by_path);
        free(text);
}
END_TEST

START_TEST(wish_without_its_word_is_refused) {
        static const struct {
                RestoreWishes wishes;
                const char *word; /* NULL: allowed */
        } table[] = {
                { { .to = (char *) "/x" }, NULL },
                { { .rename = (char *) "x" }, NULL },
                { { .more_follows = true }, NULL },
                { { .instance = (char *) "" }, NULL },
                { { .instance = (char *) "b" }, "move" },
                { { .until = (char *) "now" }, "roll-forward" },
                { { .authoritative = true }, "authoritative" },
        };
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                Failure f = {};
                int r = restore_check_wishes(saved, "shop:all", &table[i].wishes, &f);
                ck_assert_int_eq(r < 0, table[i].word != NULL);
                ck_assert_int_eq(f.condition, table[i].word ? CONDITION_NOT_SUPPORTED : CONDITION_NONE);
                if (table[i].word)
                        ck_assert_ptr_nonnull(strstr(f.message, table[i].word));
        }
}
END_TEST

START_TEST(document_says_how) {
        ck_assert_int_eq(restore_method_of(saved), RESTORE_ALTERNATE);
        ck_assert_int_eq(restore_events_of(saved), RESTORE_EVENTS_IF_REPLACE_FAILS);
        ck_assert_uint_eq(saved->n_alternates, 1);
        ck_assert_str_eq(saved->alternates[0].to, "/srv/old");
        ck_assert_str_eq(saved->alternates[0].set.pattern, "*");
        Metadata nothing = {};
        ck_assert_int_eq(restore_method_of(&nothing), RESTORE_IF_CAN_REPLACE);
        ck_assert_int_eq(restore_events_of(&nothing), RESTORE_EVENTS_ALWAYS);
}
END_TEST

START_TEST(option_holds_for_its_part_and_below) {
        static const char text[] = "\"\":\"Mode\"=\"all\",\"a\":\"mode\"=\"some\",\"a/b\":\"MODE\"=\"a \\\"few\\\"\","
                                   "\"a\":\"Depth\"=\"1\",\"a\":\"depth\"=\"2\"";
        static const struct {
                const char *part, *name, *value;
        } table[] = {
                { "", "mode", "all" },
                { "ab", "mode", "all" },
                { "a", "mode", "some" },
                { "a/b", "Mode", "a \"few\"" },
                { "a/b/c", "mode", "a \"few\"" },
                { "a/bc", "mode", "some" },
                { "a", "DEPTH", "2" },
                { "", "depth", NULL },
        };
        ck_assert_int_eq(restore_options_check(text, NULL), 0);
        for (size_t i = 0; i < ELEMENTSOF(table); i++) {
                _cleanup_free_ char *value = NULL;
                int r = restore_options_find(text, table[i].part, table[i].name, &value);
                ck_assert_int_eq(r, table[i].value ? 0 : -ENXIO);
                ck_assert_msg(streq_null(value, table[i].value), "%s %s: %s", table[i].part, table[i].name, value);
        }
}
END_TEST

START_TEST(options_of_another_form_are_refused) {
        static const char *const wrong[] = {
                "",
                "mode=all",
                "\"\":\"mode\"=\"all",
                "\"\":\"mode\"",
                "\"\":\"\"=\"x\"",
                "\"../a\":\"mode\"=\"x\"",
                "\"\":\"mode\"=\"x\" ",
                "\"\":\"mode\"=\"x\";\"\":\"b\"=\"y\"",
                "\"\"=\"mode\":\"x\"",
                "\"",
                "\"\\",
        };
        for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
                Failure f = {};
                ck_assert_msg(restore_options_check(wrong[i], &f) < 0, "accepted: %s", wrong[i]);
                ck_assert_int_eq(f.condition, CONDITION_INVALID_ARGUMENT);
        }
}
END_TEST

int main(void) {
        Suite *suite = suite_create("unit-restore");
        TCase *t = tcase_create("rules");
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, writer_is_found_by_its_reference);
        tcase_add_test(t, part_needs_selectable_for_restore);
        tcase_add_test(t, what_was_taken_with_it_is_restored_with_it);
        tcase_add_test(t, part_that_is_listed_stays_a_part);
        tcase_add_test(t, document_is_that_of_its_writer);
        tcase_add_test(t, thousands_of_components_are_found_at_once);
        tcase_add_test(t, wish_without_its_word_is_refused);
        tcase_add_test(t, document_says_how);
        tcase_add_test(t, option_holds_for_its_part_and_below);
        tcase_add_test(t, options_of_another_form_are_refused);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? 0 : 1;
}
