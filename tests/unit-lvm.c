/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the LVM provider reads: reports of lvm, recorded (tests/corpus/lvm) and spoiled in every way, and tags, by which
 * it decides what it may delete.
 */
#include "providers/lvm/lvm.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define ID "0a1b2c3d-0000-4000-a000-00000000000a"
#define SET "0a1b2c3d-0000-4000-a000-00000000000b"
#define TAGS \
        "backup,vss.created=1764187200123456,vss.flags=1,vss.id=" ID ",vss.pending,vss.set=" SET \
        ",vss.volume=/srv/a:20b:3a"

static char *recorded(const char *name, size_t *ret_size) {
        char path[4096];
        struct stat st;
        (void) snprintf(path, sizeof(path), "%s/tests/corpus/lvm/%s", getenv("VSS_SOURCE"), name);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ck_assert_msg(fd >= 0 && fstat(fd, &st) == 0, "%s", path);
        char *text = malloc((size_t) st.st_size + 1);
        ck_assert_int_eq(read(fd, text, (size_t) st.st_size), st.st_size);
        text[st.st_size] = '\0';
        *ret_size = (size_t) st.st_size;
        return text;
}

static const LvmVolume *named(const LvmReport *r, const char *name) {
        for (size_t i = 0; i < r->n; i++)
                if (streq(r->volumes[i].name, name))
                        return &r->volumes[i];
        ck_abort_msg("no volume %s", name);
        return NULL;
}

START_TEST(a_recorded_report_is_understood) {
        size_t size;
        LvmReport r = {};
        Failure f = {};
        LvmMark m;
        _cleanup_free_ char *text = recorded("report-mixed", &size);
        ck_assert_msg(lvm_report_parse(text, size, &r, &f) == 0, "%s", f.message);
        const LvmVolume *pool = named(&r, "pool"), *thin = named(&r, "thin"), *thick = named(&r, "thick");
        const LvmVolume *copy = named(&r, LVM_COPY_PREFIX ID), *lost = named(&r, "overfull");
        ck_assert(pool->thin_pool && !pool->thin && pool->metadata_size > 0 && pool->data_centi > 0);
        ck_assert(thin->thin && !thin->thin_pool && !thin->thick_copy);
        ck_assert_str_eq(thin->pool, "pool");
        ck_assert(thick->has_thick_copies && !thick->thin && thick->major > 0 && thick->minor >= 0);
        ck_assert(copy->thin && copy->minor == -1 && !copy->invalid);
        ck_assert(lost->thick_copy && lost->invalid);
        ck_assert_str_eq(lost->origin, "thick");
        ck_assert_uint_eq(lost->origin_size, thick->size);
        ck_assert(lvm_mark_read(copy, &m) && m.pending);
        ck_assert_str_eq(m.volume, "/srv/a b:");
        ck_assert(!lvm_mark_read(thin, &m) && !lvm_mark_read(lost, &m));
        ck_assert_ptr_eq(lvm_report_find(&r, thin->vg_uuid, thin->uuid), thin);
        ck_assert_ptr_null(lvm_report_find(&r, thin->vg_uuid, "x"));
        lvm_report_done(&r);
}
END_TEST

START_TEST(every_truncation_is_refused) {
        size_t size;
        LvmReport r = {};
        _cleanup_free_ char *text = recorded("report-mixed", &size);
        while (size > 0 && strchr(" \n", text[size - 1]))
                size--;
        for (size_t n = 0; n < size; n++) {
                _cleanup_free_ char *cut = malloc(n + 1);
                memcpy(cut, text, n);
                ck_assert_int_eq(lvm_report_parse(cut, n, &r, NULL), -EBADMSG);
                ck_assert(!r.volumes && r.n == 0);
        }
}
END_TEST

/* One row that is right; a test replaces one value of it. */
static const char *const keys[] = {
        "vg_name",          "vg_uuid",         "vg_free",          "vg_missing_pv_count",
        "lv_name",          "lv_uuid",         "lv_attr",          "lv_size",
        "origin_size",      "lv_tags",         "origin",           "pool_lv",
        "lv_layout",        "lv_role",         "data_percent",     "metadata_percent",
        "lv_kernel_major",  "lv_kernel_minor", "lv_device_open",   "lv_snapshot_invalid",
        "lv_health_status", "lv_time",         "lv_metadata_size",
};
static const char *const values[] = {
        "vg0",        "abcdef-abcd-abcd-abcd-abcd-abcd-abcdef",
        "1048576",    "0",
        "data",       "ABCDEF-abcd-abcd-abcd-abcd-abcd-abcdef",
        "-wi-ao----", "41943040",
        "",           "",
        "",           "",
        "linear",     "public",
        "",           "",
        "253",        "0",
        "open",       "",
        "",           "1764187200",
        "",
};

/* Not inlined: gcc takes what open_memstream() allocates for the variable that points to it. */
__attribute__((noinline)) static char *row_with(const char *key, const char *value) {
        char *text = NULL;
        size_t size;
        FILE *f = open_memstream(&text, &size);
        ck_assert_ptr_nonnull(f);
        fputs("{\"report\":[{\"lv\":[{", f);
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                bool other = key && streq(keys[i], key);
                if (other && !value)
                        continue;
                fprintf(f, "%s\"%s\":", i > 0 ? "," : "", keys[i]);
                fprintf(f, other ? "%s" : "\"%s\"", other ? value : values[i]);
        }
        fputs("}]}]}", f);
        (void) fclose(f);
        return text;
}

static int parse_with(const char *key, const char *value, LvmReport *ret) {
        Failure f = {};
        _cleanup_free_ char *text = row_with(key, value);
        int r = lvm_report_parse(text, strlen(text), ret, &f);
        ck_assert_msg(r == 0 || (r == -EBADMSG && f.message[0]), "%d %s", r, f.message);
        return r;
}

START_TEST(wrong_values_are_refused) {
        static const char *const wrong[][2] = {
                { "vg_name", "17" },
                { "vg_name", "null" },
                { "vg_name", "[\"vg0\"]" },
                { "vg_name", "\"\"" },
                { "vg_name", "\"..\"" },
                { "vg_name", "\"-vg\"" },
                { "vg_name", "\"a/b\"" },
                { "vg_name", "\"a b\"" },
                { "vg_name", "\"a\\u0000b\"" },
                { "vg_name", "\"\xff\"" },
                { "vg_name", NULL },
                { "lv_name", "\"$(reboot)\"" },
                { "lv_name", "\"[]\"" },
                { "origin", "\"a;b\"" },
                { "pool_lv", "\"a\\nb\"" },
                { "vg_uuid", "\"abcdef\"" },
                { "vg_uuid", "\"abcdef-abcd-abcd-abcd-abcd-abcd-abcdef0\"" },
                { "lv_uuid", "\"abcdef-abcd-abcd-abcd-abcd-abcd-abc/ef\"" },
                { "vg_free", "\"-1\"" },
                { "vg_free", "\"1.5\"" },
                { "vg_free", "\"99999999999999999999\"" },
                { "lv_size", "\"40,00m\"" },
                { "lv_size", "41943040" },
                { "data_percent", "\"100.01\"" },
                { "data_percent", "\"1.234\"" },
                { "data_percent", "\"1..2\"" },
                { "data_percent", "\"nan\"" },
                { "lv_kernel_minor", "\"-2\"" },
                { "lv_kernel_minor", "\"4294967296\"" },
                { "lv_attr", "\"-wi\"" },
                { "lv_attr", "\"Vwi-ao----\"" },                    /* thin, but in no pool */
                { "lv_role", "\"public,snapshot,thicksnapshot\"" }, /* of nothing */
        };
        LvmReport r = {};
        ck_assert_int_eq(parse_with(NULL, NULL, &r), 0);
        ck_assert_uint_eq(r.n, 1);
        lvm_report_done(&r);
        for (size_t i = 0; i < ELEMENTSOF(wrong); i++)
                ck_assert_msg(parse_with(wrong[i][0], wrong[i][1], &r) < 0, "%s = %s was taken", wrong[i][0],
                              wrong[i][1]);
}
END_TEST

START_TEST(names_at_the_limit) {
        char name[LVM_NAME_BYTES + 8];
        LvmReport r = {};
        name[0] = '"';
        memset(name + 1, 'x', LVM_NAME_BYTES - 1);
        strcpy(name + LVM_NAME_BYTES, "\"");
        ck_assert_int_eq(parse_with("lv_name", name, &r), 0);
        lvm_report_done(&r);
        strcpy(name + LVM_NAME_BYTES, "x\"");
        ck_assert_int_lt(parse_with("lv_name", name, &r), 0);
        ck_assert_int_eq(parse_with("lv_name", "\"[pool_tmeta]\"", &r), 0);
        ck_assert_str_eq(r.volumes[0].name, "pool_tmeta");
        lvm_report_done(&r);
}
END_TEST

START_TEST(a_report_that_is_too_large_is_refused) {
        size_t size = LVM_REPORT_BYTES_MAX + 1;
        LvmReport r = {};
        _cleanup_free_ char *text = malloc(size), *row = row_with(NULL, NULL), *many = NULL;
        memset(text, ' ', size);
        ck_assert_int_eq(lvm_report_parse(text, size, &r, NULL), -EBADMSG);
        FILE *f = open_memstream(&many, &size);
        char *begin = strstr(row, "[{\"vg_name") + 1, *end = strstr(row, "]}]}");
        fputs("{\"report\":[{\"lv\":[", f);
        for (unsigned i = 0; i <= LVM_VOLUMES_MAX; i++)
                fprintf(f, "%s%.*s", i > 0 ? "," : "", (int) (end - begin), begin);
        fputs("]}]}", f);
        (void) fclose(f);
        ck_assert_int_eq(lvm_report_parse(many, size, &r, NULL), -EBADMSG);
        static const char *const twice[] = { "{\"report\":[]}",
                                             "{\"report\":[{\"lv\":[]},{\"lv\":[]}]}",
                                             "{\"report\":[{\"lv\":[],\"lv\":[]}]}",
                                             "{\"report\":[{\"pv\":[]}]}",
                                             "[]",
                                             "{}" };
        for (size_t i = 0; i < ELEMENTSOF(twice); i++)
                ck_assert_int_eq(lvm_report_parse(twice[i], strlen(twice[i]), &r, NULL), -EBADMSG);
}
END_TEST

static bool reads(const char *name, const char *tags) {
        LvmMark m;
        _cleanup_free_ char *copy = strdup(tags);
        LvmVolume v = { .tags = copy };
        (void) snprintf(v.name, sizeof(v.name), "%s", name);
        return lvm_mark_read(&v, &m);
}

START_TEST(only_what_is_certainly_ours_is_ours) {
        ck_assert(reads(LVM_COPY_PREFIX ID, TAGS));
        static const char *const others[][2] = {
                { "data", TAGS }, /* renamed: somebody has taken it over */
                { LVM_COPY_PREFIX SET, TAGS },
                { LVM_COPY_PREFIX ID "x", TAGS },
                { LVM_COPY_PREFIX ID, "" },
                { LVM_COPY_PREFIX ID, "vss.pending" },
                { LVM_COPY_PREFIX ID, TAGS ",vss.id=" ID },
                { LVM_COPY_PREFIX ID, TAGS ",vss.set=" SET },
                { LVM_COPY_PREFIX ID, TAGS ",vss.created=1" },
                { LVM_COPY_PREFIX ID, TAGS ",vss.volume=/x" },
                { LVM_COPY_PREFIX ID, "vss.created=1,vss.flags=1,vss.id=" ID ",vss.set=" SET },
                { LVM_COPY_PREFIX ID, "vss.created=x,vss.flags=1,vss.id=" ID ",vss.set=" SET ",vss.volume=/x" },
                { LVM_COPY_PREFIX ID, "vss.created=1,vss.flags=1,vss.id=" ID ",vss.set=no,vss.volume=/x" },
                { LVM_COPY_PREFIX ID, "vss.created=1,vss.flags=1,vss.id=" ID ",vss.set=" SET ",vss.volume=" },
                { LVM_COPY_PREFIX ID, "vss.created=1,vss.flags=1,vss.id=" ID ",vss.set=" SET ",vss.volume=:0" },
                { LVM_COPY_PREFIX ID, "vss.created=1,vss.flags=1,vss.id=" ID ",vss.set=" SET ",vss.volume=a:00b" },
                { LVM_COPY_PREFIX ID, "vss.created=1,vss.flags=5000000000,vss.id=" ID ",vss.set=" SET ",vss.volume=a" },
        };
        for (size_t i = 0; i < ELEMENTSOF(others); i++)
                ck_assert_msg(!reads(others[i][0], others[i][1]), "%s, %s", others[i][0], others[i][1]);
}
END_TEST

START_TEST(the_volume_a_copy_is_of_is_noted) {
        char tags[] = TAGS ",vss.origin=ABCDEFabcdabcdabcdabcdabcdabcdef";
        LvmVolume v = { .name = LVM_COPY_PREFIX ID, .tags = tags };
        LvmMark m;
        ck_assert(lvm_mark_read(&v, &m));
        ck_assert_str_eq(m.origin, "ABCDEFabcdabcdabcdabcdabcdabcdef");
        v.tags = (char[]) { TAGS };
        ck_assert(lvm_mark_read(&v, &m)); /* made by an earlier version */
        ck_assert_str_eq(m.origin, "");
        ck_assert(!reads(LVM_COPY_PREFIX ID, TAGS ",vss.origin=ABCDEFabcdabcdabcdabcdabcdabcde"));
        ck_assert(!reads(LVM_COPY_PREFIX ID, TAGS ",vss.origin=ABCDEF/bcdabcdabcdabcdabcdabcdef"));
}
END_TEST

START_TEST(a_revert_is_known_by_its_tag) {
        char id[VSS_ID_SIZE] = "", set[VSS_ID_SIZE] = "", good[] = "mine,vss.revert=" ID "/" SET ",other";
        LvmVolume v = { .name = "data", .tags = good };
        static const char *const none[] = { "",
                                            "vss.revert=",
                                            "vss.revert=" ID,
                                            "vss.revert=" ID "/",
                                            "vss.revert=" ID "," SET,
                                            "vss.revert=" ID "/" ID "x",
                                            "vss.revert=" ID "/no",
                                            "xvss.revert=" ID "/" SET };
        ck_assert(lvm_revert_mark(&v, id, set));
        ck_assert_str_eq(id, ID);
        ck_assert_str_eq(set, SET);
        ck_assert(lvm_revert_mark(&v, NULL, NULL));
        for (size_t i = 0; i < ELEMENTSOF(none); i++) {
                _cleanup_free_ char *tags = strdup(none[i]);
                v.tags = tags;
                ck_assert_msg(!lvm_revert_mark(&v, id, set), "%s", none[i]);
        }
        v.tags = NULL;
        ck_assert(!lvm_revert_mark(&v, id, set));
}
END_TEST

START_TEST(a_merge_is_seen) {
        static const struct {
                const char *attributes;
                bool merging, failed;
        } rows[] = { { "\"-wi-ao----\"", false, false },
                     { "\"Owi-a-s---\"", true, false },
                     { "\"owi-a-s---\"", false, false },
                     { "\"Owi-m-s---\"", true, true },
                     { "\"Owi-M-s---\"", true, true } };
        for (size_t i = 0; i < ELEMENTSOF(rows); i++) {
                LvmReport r = {};
                _cleanup_free_ char *row = row_with("lv_attr", rows[i].attributes);
                ck_assert_int_eq(lvm_report_parse(row, strlen(row), &r, NULL), 0);
                ck_assert_int_eq(r.volumes[0].merging, rows[i].merging);
                ck_assert_int_eq(r.volumes[0].merge_failed, rows[i].failed);
                lvm_report_done(&r);
        }
}
END_TEST

START_TEST(names_of_volumes_survive_their_tag) {
        static const char *const names[] = { "/srv/db", "/srv/a b", "/", "/a,b:c\"\\\x7f\xc3\xa4\xff\n", "/-=!" };
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                char tag[LVM_TAG_BYTES], tags[2 * LVM_TAG_BYTES];
                LvmVolume v = { .name = LVM_COPY_PREFIX ID, .tags = tags };
                LvmMark m;
                ck_assert_int_eq(lvm_tag_of_volume(names[i], tag, sizeof(tag)), 0);
                ck_assert_uint_eq(strspn(tag, "abcdefghijklmnopqrstuvwxyz0123456789_+.-/=!:&#"), strlen(tag));
                (void) snprintf(tags, sizeof(tags), "vss.created=1,vss.flags=0,vss.id=" ID ",vss.set=" SET ",%s", tag);
                ck_assert(lvm_mark_read(&v, &m));
                ck_assert_str_eq(m.volume, names[i]);
        }
        char longest[2000], tag[LVM_TAG_BYTES];
        memset(longest, 'a', sizeof(longest) - 1);
        longest[sizeof(longest) - 1] = '\0';
        ck_assert_int_eq(lvm_tag_of_volume(longest, tag, sizeof(tag)), -ENAMETOOLONG);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("unit-lvm");
        TCase *t = tcase_create("all");
        tcase_set_timeout(t, 60);
        tcase_add_test(t, a_recorded_report_is_understood);
        tcase_add_test(t, every_truncation_is_refused);
        tcase_add_test(t, wrong_values_are_refused);
        tcase_add_test(t, names_at_the_limit);
        tcase_add_test(t, a_report_that_is_too_large_is_refused);
        tcase_add_test(t, only_what_is_certainly_ours_is_ours);
        tcase_add_test(t, the_volume_a_copy_is_of_is_noted);
        tcase_add_test(t, a_revert_is_known_by_its_tag);
        tcase_add_test(t, a_merge_is_seen);
        tcase_add_test(t, names_of_volumes_survive_their_tag);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
