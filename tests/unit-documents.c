/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Documents of strangers: what is read from a good one, and that a bad one is refused with the place of what is wrong.
 */
#include "protocol/base.h"
#include "protocol/jsonutil.h"
#include "protocol/manifest.h"
#include "protocol/metadata.h"
#include "protocol/text.h"
#include "tests/support.h"
#include <check.h>

static char *example(const char *name) {
        char path[4096];
        (void) snprintf(path, sizeof path, "%s/tests/documents/%s.json", getenv("VSS_SOURCE"), name);
        return file_read(path);
}

/* Parses a copy of exactly this size, so that a read beyond it is found by ASan. */
static int parse(const char *text, size_t size, Failure *f, Metadata **ret) {
        _cleanup_free_ char *copy = malloc(size ? size : 1);
        memcpy(copy, text, size);
        *f = (Failure) { 0 };
        return metadata_parse(copy, size, f, ret);
}

/* text with the first from replaced by to. */
static char *replace(const char *text, const char *from, const char *to) {
        const char *at = strstr(text, from);
        char *result = NULL;
        ck_assert_msg(at != NULL, "the example does not hold %s", from);
        ck_assert_int_ge(asprintf(&result, "%.*s%s%s", (int) (at - text), text, to, at + strlen(from)), 0);
        return result;
}

START_TEST(test_the_published_example_is_read_whole) {
        _cleanup_free_ char *text = example("writer-metadata");
        _cleanup_(metadata_freep) Metadata *m = NULL;
        Failure f;
        ck_assert_msg(parse(text, strlen(text), &f, &m) == 0, "%s", f.message);
        ck_assert_str_eq(m->name, "postgresql");
        ck_assert_str_eq(m->instance, "15-main");
        ck_assert_str_eq(m->version, "15.18");
        ck_assert_int_eq(m->level, LEVEL_BACK_END);
        ck_assert_int_eq(m->usage, USAGE_USER_DATA);
        ck_assert_int_eq(m->source, SOURCE_TRANSACTED);
        ck_assert_uint_eq(m->freeze_timeout_usec, 60000000);
        ck_assert_uint_eq(strings_count(m->backup_schema), 4);
        ck_assert_str_eq(m->backup_schema[3], "roll-forward");
        ck_assert_str_eq(m->restore_method, "stop-restore-start");
        ck_assert_str_eq(m->restore_service, "postgresql@15-main.service");
        ck_assert_str_eq(m->restore_writer_events, "always");
        ck_assert(!m->restore_reboot);
        ck_assert_uint_eq(m->n_components, 1);
        const Component *c = m->components;
        ck_assert_str_eq(c->path, "cluster");
        ck_assert_str_eq(c->caption, "PostgreSQL 15 main");
        ck_assert(c->database && c->selectable && !c->selectable_for_restore && c->notify_complete);
        ck_assert(c->recovers_backup && !c->recovers_rollback && !c->system_state);
        ck_assert_uint_eq(c->n_files, 2);
        ck_assert_int_eq(c->files[1].role, FILE_ROLE_LOG);
        ck_assert_str_eq(c->files[1].set.root, "/srv/db/archive");
        ck_assert(c->files[0].set.recursive && !c->files[1].set.recursive && !c->files[0].source);
        ck_assert_uint_eq(c->files[1].backup, 1u << BACKUP_FULL | 1u << BACKUP_COPY | 1u << BACKUP_LOG);
        ck_assert_uint_eq(c->files[1].snapshot, 0);
        ck_assert_uint_eq(c->n_depends, 1);
        ck_assert_str_eq(c->depends[0].writer, "unit@crm");
        ck_assert_str_eq(c->depends[0].path, "service");
        ck_assert_ptr_null(c->depends[0].host);
        ck_assert_uint_eq(m->n_exclude, 1);
        ck_assert_str_eq(m->exclude[0].pattern, "postmaster.pid");
        ck_assert_uint_eq(m->n_exclude_from_snapshot, 1);
        ck_assert_ptr_null(m->freeze_unit);
        ck_assert_int_eq(metadata_check_identity(m, "postgresql", "15-main", &f), 0);
        ck_assert_int_eq(metadata_check_identity(m, "mysql", "15-main", &f), -EBADMSG);
        ck_assert_ptr_nonnull(strstr(f.message, "writer.name"));
        ck_assert_int_eq(metadata_check_identity(m, "postgresql", "", &f), -EBADMSG);
        ck_assert_ptr_nonnull(strstr(f.message, "writer.instance"));
}
END_TEST

START_TEST(test_what_is_left_out_has_its_default) {
        static const char text[] =
                "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"a\",\"instance\":null},"
                "\"components\":[{\"path\":\"c\",\"type\":\"file-group\",\"files\":[{\"root\":\"/\"}]}],"
                "\"exclude\":null,\"freeze\":{\"unit\":\"foo.service\"},\"x\":{\"any\":[1,{}]}}\n";
        _cleanup_(metadata_freep) Metadata *m = NULL;
        Failure f;
        ck_assert_msg(parse(text, strlen(text), &f, &m) == 0, "%s", f.message);
        ck_assert_str_eq(m->instance, "");
        ck_assert_str_eq(m->version, "");
        ck_assert_int_eq(m->level, LEVEL_FRONT_END);
        ck_assert_int_eq(m->usage, USAGE_OTHER);
        ck_assert_int_eq(m->source, SOURCE_OTHER);
        ck_assert_uint_eq(m->freeze_timeout_usec, 0);
        ck_assert_str_eq(m->freeze_unit, "foo.service");
        ck_assert(!m->components[0].database && !m->components[0].selectable);
        ck_assert_str_eq(m->components[0].caption, "");
        ck_assert_str_eq(m->components[0].files[0].set.pattern, "*");
        ck_assert_int_eq(m->components[0].files[0].role, FILE_ROLE_FILE);
        ck_assert_uint_eq(m->components[0].files[0].backup, (1u << _BACKUP_TYPE_MAX) - 1);
        ck_assert_uint_eq(m->components[0].files[0].snapshot, (1u << _BACKUP_TYPE_MAX) - 1);
}
END_TEST

/* One change of the example and how the message must begin. */
static const struct {
        const char *from, *to, *message;
} bad_metadata[] = {
        /* the frame */
        { "\"schema\":1", "\"schema\":2", "document: schema 2 is not known" },
        { "\"schema\":1", "\"schema\":\"1\"", "schema: a number expected, not a string" },
        { "\"schema\":1,", "", "document: key \"schema\" is missing" },
        { "\"schema\":1", "\"schema\":1.0", "schema: 1.0 is not a whole number" },
        { "\"schema\":1", "\"schema\":-1", "schema: -1 is not a whole number" },
        { "\"schema\":1", "\"schema\":null", "schema: a number expected, not null" },
        { "writer-metadata", "manifest", "document: kind is \"manifest\"" },
        { "\"requires\":[]", "\"requires\":[\"teleport\"]", "document: requires \"teleport\"" },
        { "\"requires\":[]", "\"requires\":{}", "requires: an array expected, not an object" },
        { "\"x\":{}}", "\"x\":{}} {}", "document: something follows at byte" },
        { "\"x\":{}}", "\"x\":{}", "x: \",\" or \"}\" expected, not the end" },
        { "\"x\":{}", "\"x\":{},", "x: a string expected, not no JSON" },
        { "\"x\":{}", "\"x\":{\"a\":{\"k\":1,\"l\":2,\"k\":3}}", "x.a: key \"k\" is given twice" },
        { "\"x\":{}", "\"x\":{\"a\":1,\"\\u0061\":2}", "x: key \"a\" is given twice" },
        { "\"x\":{}", "\"x\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]",
          "x[0][0][0][0][0][0][0][0][0][0][0][0][0][0][0]: deeper" },
        { "\"x\":{}", "\"x\":18446744073709551616", "x: 18446744073709551616 is too large" },
        { "\"x\":{}", "\"x\":1e999", "x: 1e999 is too large" },
        { "\"x\":{}", "\"x\":01", "x: 01 is not a number" },
        { "\"x\":{}", "\"x\":1.", "x: 1. is not a number" },
        { "\"x\":{}", "\"x\":+1", "x: a value expected, not no JSON" },
        { "\"x\":{}", "\"x\":NaN", "x: a value expected, not no JSON" },
        { "\"x\":{}", "\"x\":True", "x: a value expected, not no JSON" },
        { "\"x\":{}", "\"x\":'a'", "x: a value expected, not no JSON" },
        { "\"x\":{}", "\"x\":/**/1", "x: a value expected, not no JSON" },
        { "\"x\":{}", "\"x\":\"\xff\"", "x: byte " },
        { "\"x\":{}", "\"x\":\"\xc0\x80\"", "x: byte " },
        { "\"x\":{}", "\"x\":\"\xed\xa0\x80\"", "x: byte " },
        { "\"x\":{}", "\"x\":\"\\ud800\"", "x: byte " },
        { "\"x\":{}", "\"x\":\"\\udc00\\ud800\"", "x: byte " },
        { "\"x\":{}", "\"x\":\"\\u0000\"", "x: byte " },
        { "\"x\":{}", "\"x\":\"\\q\"", "x: byte " },
        { "\"x\":{}", "\"x\":\"\n\"", "x: byte " },
        { "\"x\":{}", "\"y\":{}", "y: this key is not known here" },
        { "\"x\":{}", "\"x\":{},\"x\":{}", "document: key \"x\" is given twice" },
        { "\"x\":{}", "\"writer\":{}", "document: key \"writer\" is given twice" },
        /* writer */
        { "\"name\":\"postgresql\",", "", "writer: key \"name\" is missing" },
        { "\"name\":\"postgresql\"", "\"name\":\"Postgres\"", "writer.name: \"Postgres\" is not a writer name" },
        { "\"name\":\"postgresql\"", "\"name\":null", "writer.name: a string expected, not null" },
        { "\"name\":\"postgresql\"", "\"name\":\"post\\u0007\"", "writer.name: holds control characters" },
        { "\"instance\":\"15-main\"", "\"instance\":\"../x\"", "writer.instance: \"../x\" is not an instance" },
        { "\"level\":\"back-end\"", "\"level\":\"BackEnd\"", "writer.level: \"BackEnd\" is not front-end" },
        { "\"level\":\"back-end\"", "\"level\":2", "writer.level: a string expected, not a number" },
        { "\"usage\":\"user-data\"", "\"usage\":\"data\"", "writer.usage: \"data\" is not user-data" },
        { "\"source\":\"transacted\"", "\"source\":\"db\"", "writer.source: \"db\" is not transacted" },
        { ":60000000", ":2999999", "writer: freeze_timeout_usec is below 3000000" },
        { ":60000000", ":1e6", "writer.freeze_timeout_usec: 1e6 is not a whole number" },
        { ":60000000", ":9223372036854775808", "writer.freeze_timeout_usec: 9223372036854775808 is not" },
        { ":60000000", ":\"60s\"", "writer.freeze_timeout_usec: a number expected" },
        { "\"version\":\"15.18\"", "\"version\":\"15.18\",\"version\":\"16\"",
          "writer: key \"version\" is given twice" },
        { "\"version\":\"15.18\"", "\"vers\":\"15.18\"", "writer.vers: this key is not known here" },
        /* words */
        { "\"roll-forward\"", "\"warp\"", "backup_schema[3]: \"warp\" is not a word of backup_schema" },
        { "\"stop-restore-start\"", "\"magic\"", "restore.method: \"magic\" is not a restore method" },
        { "postgresql@15-main.service", "../../etc", "restore.service: \"../../etc\" is not the name of a unit" },
        { "\"always\"", "\"maybe\"", "restore.writer_events: \"maybe\" is not never" },
        { "\"reboot\":false", "\"reboot\":0", "restore.reboot: a boolean expected, not a number" },
        { "/srv/db/15/restored", "srv", "restore.alternate_locations[0].to: \"srv\" is not an absolute path" },
        { "\"to\":\"/srv/db/15/restored\"", "\"from\":\"/\"",
          "restore.alternate_locations[0].from: this key is not known" },
        /* components */
        { "\"path\":\"cluster\",", "", "components[0]: key \"path\" is missing" },
        { "\"cluster\"", "\"a/../b\"", "components[0].path: \"a/../b\" is not a path such as" },
        { "\"cluster\"", "\"/a\"", "components[0].path: \"/a\" is not a path such as" },
        { "\"cluster\"", "\"\"", "components[0].path: \"\" is not a path such as" },
        { "\"type\":\"database\",", "", "components[0]: key \"type\" is missing" },
        { "\"database\"", "\"table\"", "components[0].type: \"table\" is not database or file-group" },
        { "\"recovers\":[\"backup\"]", "\"recovers\":[\"all\"]", "components[0].recovers[0]: \"all\" is not backup" },
        { "\"recovers\":[\"backup\"]", "\"recovers\":\"backup\"", "components[0].recovers: an array expected" },
        { "\"selectable\":true", "\"selectable\":\"true\"",
          "components[0].selectable: a boolean expected, not a string" },
        { "\"components\":[", "\"components\":[{\"path\":\"cluster\",\"type\":\"database\"},",
          "document: two components have the path \"cluster\"" },
        { "\"components\":[", "\"components\":[1,", "components[0]: an object expected, not a number" },
        { "\"components\":[", "\"components\":{", "components: a string expected, not an object" },
        /* files */
        { "\"root\":\"/srv/db/15/main\",\"pattern\":\"*\",\"recursive\":true,\"source\"",
          "\"pattern\":\"*\",\"source\"", "components[0].files[0]: key \"root\" is missing" },
        { "/srv/db/archive", "srv/db", "components[0].files[1].root: \"srv/db\" is not an absolute path" },
        { "/srv/db/archive", "/srv/../etc", "components[0].files[1].root: \"/srv/../etc\" is not an absolute path" },
        { "/srv/db/archive", "/srv/\\\\x2e\\\\x2e/etc",
          "components[0].files[1].root: \"/srv/\\x2e\\x2e/etc\" is not an" },
        { "/srv/db/archive", "/srv//db", "components[0].files[1].root: \"/srv//db\" is not an absolute path" },
        { "/srv/db/archive", "/srv/.", "components[0].files[1].root: \"/srv/.\" is not an absolute path" },
        { "/srv/db/archive", "/srv/", "components[0].files[1].root: \"/srv/\" is not an absolute path" },
        { "/srv/db/archive", "/a\\nb", "components[0].files[1].root: holds control characters" },
        { "\"source\":null", "\"source\":\"..\"", "components[0].files[0].source: \"..\" is not an absolute path" },
        { "\"role\":\"log\"", "\"role\":\"journal\"",
          "components[0].files[1].role: \"journal\" is not data, log or file" },
        { "\"backup\":[\"full\",\"copy\",\"log\"]", "\"backup\":[\"weekly\"]",
          "components[0].files[1].backup[0]: \"weekly\" is not copy" },
        { "\"backup\":[\"full\",\"copy\",\"log\"]", "\"backup\":[\"log\",\"log\",\"log\",\"log\",\"log\",\"log\"]",
          "components[0].files[1].backup[5]: more than 5 entries" },
        { "\"snapshot\":[]", "\"snapshot\":[1]",
          "components[0].files[1].snapshot[0]: a string expected, not a number" },
        { "\"postmaster.pid\"", "\"a/b\"", "exclude[0].pattern: \"a/b\" is not a pattern" },
        { "\"postmaster.pid\"", "\"..\"", "exclude[0].pattern: \"..\" is not a pattern" },
        { "\"postmaster.pid\"", "\"\"", "exclude[0].pattern: \"\" is not a pattern" },
        { "/pg_replslot", "/../../..", "exclude_from_snapshot[0].root: \"/srv/db/15/main/../../..\" is not" },
        /* dependencies and the unit */
        { "unit@crm", "unit@", "components[0].depends_on[0].writer: \"unit@\" is not a writer reference" },
        { "\"path\":\"service\"", "\"path\":\"/\"", "components[0].depends_on[0].path: \"/\" is not a component path" },
        { "\"host\":null", "\"host\":1", "components[0].depends_on[0].host: a string expected, not a number" },
        { "\"x\":{}", "\"freeze\":{}", "freeze: key \"unit\" is missing" },
        { "\"x\":{}", "\"freeze\":{\"unit\":\"a b.service\"}",
          "freeze.unit: \"a b.service\" is not the name of a unit" },
        { "\"x\":{}", "\"freeze\":{\"unit\":\"sshd\"}", "freeze.unit: \"sshd\" is not the name of a unit" },
};

START_TEST(test_a_bad_document_is_refused_and_the_place_named) {
        _cleanup_free_ char *good = example("writer-metadata");
        _cleanup_free_ char *bad = replace(good, bad_metadata[_i].from, bad_metadata[_i].to);
        Metadata *m = NULL;
        Failure f;
        ck_assert_msg(parse(bad, strlen(bad), &f, &m) == -EBADMSG, "taken: %s", bad_metadata[_i].to);
        ck_assert_ptr_null(m);
        ck_assert_int_eq(f.condition, CONDITION_INVALID_DOCUMENT);
        ck_assert_msg(strncmp(f.message, bad_metadata[_i].message, strlen(bad_metadata[_i].message)) == 0,
                      "\"%s\" instead of \"%s\"", f.message, bad_metadata[_i].message);
}
END_TEST

START_TEST(test_every_prefix_of_a_document_is_refused) {
        _cleanup_free_ char *good = example("writer-metadata");
        size_t size = strlen(good) - 1; /* a line feed */
        for (size_t n = 0; n < size; n++) {
                Metadata *m = NULL;
                Failure f;
                ck_assert_msg(parse(good, n, &f, &m) == -EBADMSG, "%zu bytes were enough", n);
                ck_assert_ptr_null(m);
        }
}
END_TEST

/* Repeats middle until the document has that many. */
static char *repeated(const char *head, const char *middle, size_t n, const char *tail, size_t *ret_size) {
        char *text = NULL;
        FILE *f = open_memstream(&text, ret_size);
        fputs(head, f);
        for (size_t i = 0; i < n; i++) {
                fputs(i ? "," : "", f);
                fprintf(f, middle, i);
        }
        fputs(tail, f);
        ck_assert_int_eq(fclose(f), 0);
        return text;
}

#define HEAD "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"a\"},"

static void check_count(const char *head, const char *middle, size_t n, const char *tail, const char *message) {
        size_t size;
        _cleanup_free_ char *text = repeated(head, middle, n, tail, &size);
        _cleanup_(metadata_freep) Metadata *m = NULL;
        Failure f;
        int r = parse(text, size, &f, &m);
        ck_assert_msg(r == (message ? -EBADMSG : 0), "%s", f.message);
        if (message)
                ck_assert_msg(strstr(f.message, message) != NULL, "%s", f.message);
}

START_TEST(test_limits_are_where_they_are_said_to_be) {
        static const char component[] = "{\"path\":\"c%zu\",\"type\":\"database\"}", file_set[] = "{\"root\":\"/%zu\"}";
        check_count(HEAD "\"components\":[", component, LIMIT_COMPONENTS, "]}", NULL);
        check_count(HEAD "\"components\":[", component, LIMIT_COMPONENTS + 1, "]}", "components[4096]: more than 4096");
        check_count(HEAD "\"exclude\":[", file_set, LIMIT_FILE_SETS, "]}", NULL);
        check_count(HEAD "\"exclude\":[", file_set, LIMIT_FILE_SETS + 1, "]}", "exclude[16384]: more than 16384");
        check_count(HEAD "\"exclude_from_snapshot\":[{\"root\":\"/a\"}],\"exclude\":[", file_set, LIMIT_FILE_SETS, "]}",
                    "document: more than 16384 file sets");
        check_count(HEAD "\"x\":[", "%zu", 150000, "]}", NULL);
        check_count(HEAD "\"x\":{", "\"%zu\":1", 80000, "}}", NULL);
        check_count(HEAD "\"x\":[", "%zu", 300000, "]}", "document: larger than 1048576 bytes");
}
END_TEST

START_TEST(test_long_strings_are_refused) {
        char long_name[LIMIT_STRING_BYTES + 2];
        size_t size;
        memset(long_name, 'c', sizeof long_name - 1);
        long_name[sizeof long_name - 1] = '\0';
        for (int over = 0; over < 2; over++) {
                _cleanup_(metadata_freep) Metadata *m = NULL;
                Failure f;
                _cleanup_free_ char *text = repeated(HEAD "\"components\":[{\"type\":\"database\",\"path\":\"",
                                                     long_name + !over, 1, "\"}]}", &size);
                ck_assert_msg(parse(text, size, &f, &m) == (over ? -EBADMSG : 0), "%s", f.message);
                if (over)
                        ck_assert_str_eq(f.message, "components[0].path: longer than 4096 bytes");
        }
}
END_TEST

START_TEST(test_component_sets_follow_their_paths) {
        static const char text[] = HEAD "\"components\":["
                                        "{\"path\":\"a\",\"type\":\"file-group\",\"selectable\":true},"
                                        "{\"path\":\"a/b\",\"type\":\"file-group\"},"
                                        "{\"path\":\"a/b/c\",\"type\":\"file-group\",\"selectable\":true},"
                                        "{\"path\":\"a/b/c/d\",\"type\":\"file-group\"},"
                                        "{\"path\":\"ab\",\"type\":\"file-group\"},"
                                        "{\"path\":\"e\",\"type\":\"file-group\"},"
                                        "{\"path\":\"e/f\",\"type\":\"file-group\",\"selectable\":true}]}";
        static const int ancestors[] = { -1, 0, 0, 2, -1, -1, -1 };
        _cleanup_(metadata_freep) Metadata *m = NULL;
        Failure f;
        ck_assert_msg(parse(text, strlen(text), &f, &m) == 0, "%s", f.message);
        for (size_t i = 0; i < ELEMENTSOF(ancestors); i++)
                ck_assert_int_eq(metadata_selectable_ancestor(m, i), ancestors[i]);
        ck_assert(component_path_is_below("a/b", "a") && component_path_is_below("a/b/c", "a"));
        ck_assert(!component_path_is_below("a", "a") && !component_path_is_below("ab", "a"));
        ck_assert(!component_path_is_below("a", "a/b"));
}
END_TEST

/* A manifest with everything in it; strings are borrowed from literals. */
static const Manifest full_manifest = {
        .set = (char *) "3f0c9a52-7c1e-4b7d-9a51-0d6c2f8e1b44",
        .created = (char *) "2026-11-22T10:00:02.377800Z",
        .host_name = (char *) "db1",
        .machine_id = (char *) "5d1f0c3b9e7a4f6c8b2d1e0f9a8b7c6d",
        .vss_version = (char *) "1.0",
        .type = BACKUP_FULL,
        .component_mode = true,
        .one_instant = true,
        .requester = (char *) "night\"ly\\\xc3\xa4",
        .consistency = CONSISTENCY_APPLICATION,
        .snapshots =
                &(ManifestSnapshot) {
                        .id = (char *) "a41c6f1e-52b0-4d0e-8f3a-6b9d7c2e1f05",
                        .volume = (char *) "/srv/db",
                        .filesystem = (char *) "btrfs",
                        .provider = (char *) "fault:btrfs",
                        .token = (char *) "",
                        .size_bytes = UINT64_MAX,
                        .consistency = CONSISTENCY_FILESYSTEM,
                        .persistent = true,
                },
        .n_snapshots = 1,
        .writers =
                &(ManifestWriter) {
                        .name = (char *) "postgresql",
                        .instance = (char *) "15-main",
                        .metadata_text = (char *) "{\"schema\":1,\"x\":[[[[[[[[[[[[[[\"deep\"]]]]]]]]]]]]]]}",
                        .components =
                                (ManifestComponent[]) {
                                        { .path = (char *) "cluster",
                                          .stamp = (char *) "0/5A000028",
                                          .metadata = (char *) "START WAL\nLOCATION\t1",
                                          .succeeded = 1,
                                          .implicit = (char *[]) { (char *) "cluster/a", (char *) "cluster/b", NULL },
                                          .failures = (char *[]) { (char *) "thaw\norg.x\nsaid\nmore", NULL } },
                                        { .path = (char *) "other", .options = (char *) "fast", .succeeded = -1 },
                                },
                        .n_components = 2,
                },
        .n_writers = 1,
};

START_TEST(test_a_manifest_survives_its_journey) {
        _cleanup_free_ char *text = NULL, *again = NULL;
        _cleanup_(manifest_done) Manifest m = { 0 };
        Failure f = { 0 };
        ck_assert_int_eq(manifest_format(&full_manifest, &text), 0);
        ck_assert_msg(manifest_parse(text, strlen(text), &f, &m) == 0, "%s", f.message);
        ck_assert_str_eq(m.requester, full_manifest.requester);
        ck_assert_ptr_null(m.completed);
        ck_assert_int_eq(m.type, BACKUP_FULL);
        ck_assert(m.component_mode && m.one_instant && !m.bootable_state && !m.partial_files);
        ck_assert_uint_eq(m.snapshots[0].size_bytes, UINT64_MAX);
        ck_assert_ptr_null(m.snapshots[0].device);
        ck_assert_str_eq(m.snapshots[0].token, "");
        ck_assert_int_eq(m.snapshots[0].consistency, CONSISTENCY_FILESYSTEM);
        ck_assert_str_eq(m.writers[0].metadata_text, full_manifest.writers[0].metadata_text);
        ck_assert_str_eq(m.writers[0].components[0].metadata, "START WAL\nLOCATION\t1");
        ck_assert_str_eq(m.writers[0].components[0].failures[0], "thaw\norg.x\nsaid\nmore");
        ck_assert_int_eq(m.writers[0].components[0].succeeded, 1);
        ck_assert_int_eq(m.writers[0].components[1].succeeded, -1);
        ck_assert_str_eq(m.writers[0].components[0].implicit[1], "cluster/b");
        ck_assert_int_eq(manifest_format(&m, &again), 0);
        ck_assert_str_eq(text, again);
}
END_TEST

START_TEST(test_a_foreign_writer_in_a_manifest_keeps_its_name) {
        static const struct {
                const char *name;
                bool good;
        } names[] = {
                { "1000:app", true }, { "0:a", true }, { ":app", false }, { "1000:", false }, { "10x:app", false }
        };
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_free_ char *text = NULL;
                _cleanup_(manifest_done) Manifest m = { 0 };
                ManifestWriter writer = full_manifest.writers[0];
                Manifest one = full_manifest;
                Failure f = { 0 };
                writer.name = (char *) names[i].name;
                one.writers = &writer;
                ck_assert_int_eq(manifest_format(&one, &text), 0);
                ck_assert_msg((manifest_parse(text, strlen(text), &f, &m) == 0) == names[i].good, "%s: %s",
                              names[i].name, f.message);
                if (names[i].good)
                        ck_assert_str_eq(m.writers[0].name, names[i].name);
        }
}
END_TEST

START_TEST(test_any_changed_byte_of_a_manifest_is_noticed) {
        _cleanup_free_ char *text = NULL;
        ck_assert_int_eq(manifest_format(&full_manifest, &text), 0);
        size_t size = strlen(text);
        for (size_t i = 0; i < size; i++) {
                for (int bit = 0; bit < 8; bit += 3) {
                        _cleanup_free_ char *copy = malloc(size);
                        Manifest m = { 0 };
                        Failure f = { 0 };
                        memcpy(copy, text, size);
                        copy[i] = (char) (copy[i] ^ 1 << bit);
                        int r = manifest_parse(copy, size, &f, &m);
                        ck_assert_msg(r == -EUCLEAN || r == -EBADMSG, "byte %zu bit %d: %d", i, bit, r);
                }
        }
}
END_TEST

static const struct {
        const char *from, *to, *message;
        int error;
} bad_manifests[] = {
        { "\"token\":\"\"", "\"token\":\"x\"", "the manifest is damaged", -EUCLEAN },
        { "\"token\":\"\"", "\"token\":\"\",\"new\":{}", "the manifest is damaged",
          -EUCLEAN }, /* known to be tolerant */
        { "\"digest\":\"sha256:", "\"digest\":\"sha512:", "digest: \"sha512:", -EBADMSG },
        { "\"digest\"", "\"digests\"", "document: key \"digest\" is missing", -EBADMSG },
        { "\"kind\":\"manifest\"", "\"kind\":\"set-record\"", "document: kind is \"set-record\"", -EBADMSG },
        { "\"requires\":[]", "\"requires\":[\"dedup\"]", "document: requires \"dedup\"", -EBADMSG },
        { "\"set\":\"3f", "\"set\":\"3F", "set: \"3F0c9a52-", -EBADMSG },
        { "22T10", "22 10", "created: \"2026-11-22 10:00:02.377800Z\" is not a time", -EBADMSG },
        { "\"completed\":null", "\"completed\":\"now\"", "completed: \"now\" is not a time", -EBADMSG },
        { "\"type\":\"full\"", "\"type\":\"total\"", "backup.type: \"total\" is not copy", -EBADMSG },
        { "fault:btrfs", "../btrfs", "snapshots[0].provider: \"../btrfs\" is not a provider name", -EBADMSG },
        { "\"size\":18446744073709551615", "\"size\":-1", "snapshots[0].size: -1 is not a whole number", -EBADMSG },
        { "\"path\":\"cluster\"", "\"path\":\"../x\"", "writers[0].components[0].path: \"../x\" is not a component",
          -EBADMSG },
        { "\"cluster/b\"", "\"/b\"", "writers[0].components[0].implicit[1]: \"/b\" is not a component path", -EBADMSG },
        { "\"succeeded\":true", "\"succeeded\":1", "writers[0].components[0].succeeded: a boolean expected", -EBADMSG },
        { "\"event\":\"thaw\"", "\"e\":\"thaw\"", "writers[0].components[0].failures[0]: key \"event\" is missing",
          -EBADMSG },
        { "\"metadata\":{\"schema\":1,", "\"metadata\":{\"schema\":1,\"schema\":1,",
          "writers[0].metadata: key \"schema\" is", -EBADMSG },
        { "[[[[[[[[[[[[[[", "[[[[[[[[[[[[[[[[[[[[[[", "writers[0].metadata.x[0]", -EBADMSG },
};

START_TEST(test_a_bad_manifest_is_refused_and_the_place_named) {
        _cleanup_free_ char *good = NULL;
        ck_assert_int_eq(manifest_format(&full_manifest, &good), 0);
        _cleanup_free_ char *bad = replace(good, bad_manifests[_i].from, bad_manifests[_i].to);
        Manifest m = { 0 };
        Failure f = { 0 };
        int r = manifest_parse(bad, strlen(bad), &f, &m);
        ck_assert_msg(r == bad_manifests[_i].error, "%d: %s", r, f.message);
        ck_assert_msg(strncmp(f.message, bad_manifests[_i].message, strlen(bad_manifests[_i].message)) == 0,
                      "\"%s\" instead of \"%s\"", f.message, bad_manifests[_i].message);
        ck_assert_ptr_null(m.set);
}
END_TEST

START_TEST(test_unknown_keys_of_a_manifest_are_for_later_versions) {
        _cleanup_free_ char *text = example("manifest"),
                            *newer = replace(text, "\"host\":{", "\"new\":[{}],\"host\":{\"n\":1,");
        Manifest m = { 0 };
        Failure f = { 0 };
        /* the digest of the published example is not a real one; everything before it is in order */
        ck_assert_int_eq(manifest_parse(text, strlen(text), &f, &m), -EUCLEAN);
        ck_assert_int_eq(manifest_parse(newer, strlen(newer), &f, &m), -EUCLEAN);
}
END_TEST

START_TEST(test_a_tree_is_only_built_of_what_was_checked) {
        _cleanup_(json_object_putp) json_object *tree = NULL;
        _cleanup_free_ char *record = example("set-record");
        Failure f = { 0 };
        ck_assert_msg(json_tree_parse(record, strlen(record), 1 << 20, &f, &tree) == 0, "%s", f.message);
        ck_assert_str_eq(json_get_string(tree, "state", ""), "created");
        ck_assert_str_eq(json_get_string(tree, "nothing", "else"), "else");
        ck_assert_str_eq(json_get_string(tree, "phases", "no string"), "no string");
        ck_assert(json_get_bool(tree, "one_instant", false) && !json_get_bool(tree, "forced", true));
        ck_assert_uint_eq(json_get_uint(json_get_object(tree, "timing"), "hold_usec", 7), 42300);
        ck_assert_uint_eq(json_get_uint(json_get_object(tree, "timing"), "no_usec", 7), 7);
        ck_assert_uint_eq(json_object_array_length(json_get_array(tree, "phases")), 17);
        ck_assert_ptr_null(json_get_array(tree, "timing"));
        ck_assert_ptr_null(json_get_object(tree, "phases"));
        static const char *const bad[] = { "", "null", "[]", "1", "{", "{}x", "{\"a\":1,\"a\":1}", "{\"a\":\"\xff\"}" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                json_object *nothing = NULL;
                ck_assert_msg(json_tree_parse(bad[i], strlen(bad[i]), 100, &f, &nothing) == -EBADMSG, "%s", bad[i]);
                ck_assert_ptr_null(nothing);
        }
        ck_assert_int_eq(json_tree_parse("{}", 2, 1, &f, &tree), -EBADMSG);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("documents");
        TCase *tcase = tcase_create("documents");
        tcase_add_test(tcase, test_the_published_example_is_read_whole);
        tcase_add_test(tcase, test_what_is_left_out_has_its_default);
        tcase_add_loop_test(tcase, test_a_bad_document_is_refused_and_the_place_named, 0, ELEMENTSOF(bad_metadata));
        tcase_add_test(tcase, test_every_prefix_of_a_document_is_refused);
        tcase_add_test(tcase, test_limits_are_where_they_are_said_to_be);
        tcase_add_test(tcase, test_long_strings_are_refused);
        tcase_add_test(tcase, test_component_sets_follow_their_paths);
        tcase_add_test(tcase, test_a_manifest_survives_its_journey);
        tcase_add_test(tcase, test_a_foreign_writer_in_a_manifest_keeps_its_name);
        tcase_add_test(tcase, test_any_changed_byte_of_a_manifest_is_noticed);
        tcase_add_loop_test(tcase, test_a_bad_manifest_is_refused_and_the_place_named, 0, ELEMENTSOF(bad_manifests));
        tcase_add_test(tcase, test_unknown_keys_of_a_manifest_are_for_later_versions);
        tcase_add_test(tcase, test_a_tree_is_only_built_of_what_was_checked);
        tcase_set_timeout(tcase, 30);
        suite_add_tcase(suite, tcase);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_ENV);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
