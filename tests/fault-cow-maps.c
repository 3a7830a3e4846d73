/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Free maps that are wrong, each in one way and with right checksums. Whoever takes such a map for good reads zeros
 * where there was data, so every way is found and named, and the one snapshot it concerns.
 */
#include "protocol/base.h"
#include "providers/cow/walk.h"
#include "tests/store-maker.h"
#include "tests/support.h"
#include <check.h>

static Made pristine;

static struct run_page *map_page(Made *m, unsigned n) {
        return (struct run_page *) made_at(m, m->map_page[n]);
}

static struct manifest_head *head_of(Made *m) {
        return (struct manifest_head *) made_at(m, m->manifest_block);
}

/* By its place in the manifest, from 0. */
static struct set_member *snapshot_of(Made *m, unsigned n) {
        ManifestView v;
        manifest_view(head_of(m), &v);
        const struct set_member *s = v.snapshots;
        while (n-- > 0)
                s = member_after(s);
        return (struct set_member *) s;
}

static struct manifest_run *map_of(Made *m, unsigned n) {
        ManifestView v;
        manifest_view(head_of(m), &v);
        const struct manifest_run *map = v.maps;
        while (n-- > 0)
                map = run_after(map);
        return (struct manifest_run *) map;
}

/* --- pages -------------------------------------------------------------------------------------------------------- */

static void count_0(Made *m) {
        map_page(m, 0)->entry[5].where = ENTRY_WHERE(0, ENTRY_FREE);
}

static void overlap(Made *m) {
        map_page(m, 0)->entry[5].volblock = map_page(m, 0)->entry[4].volblock;
}

static void beyond_32_bits(Made *m) {
        map_page(m, 1)->entry[19] = (struct run_entry) { .volblock = VOLBLOCK(0, UINT32_MAX),
                                                         .where = ENTRY_WHERE(2, ENTRY_FREE) };
}

static void count_beyond_32_bits(Made *m) {
        map_page(m, 1)->entry[19].where = ENTRY_WHERE(1ULL << 32, ENTRY_FREE);
}

static void with_epoch(Made *m) {
        map_page(m, 0)->entry[5].epoch = 1;
}

static void with_checksum(Made *m) {
        map_page(m, 0)->entry[5].crc = 1;
}

static void with_other_flag(Made *m) {
        map_page(m, 0)->entry[5].where = ENTRY_WHERE(1, ENTRY_FREE | ENTRY_ZERO);
}

static void page_of_a_run(Made *m) {
        map_page(m, 0)->magic = RUN_PAGE_MAGIC;
}

static void map_as_run(Made *m) {
        ((struct run_page *) made_at(m, m->run_page[2]))->magic = MAP_PAGE_MAGIC;
}

static void behind_the_end(Made *m) {
        map_page(m, 3)->entry[1].where = ENTRY_WHERE(25, ENTRY_FREE);
        map_of(m, 2)->last++;
}

static void of_another_volume(Made *m) {
        map_page(m, 0)->entry[RUN_PAGE_ENTRIES - 1].volblock |= VOLBLOCK(1, 0);
}

static void overlap_over_pages(Made *m) {
        const struct run_entry *last = &map_page(m, 0)->entry[RUN_PAGE_ENTRIES - 1];
        map_page(m, 1)->entry[0] = *last;
}

static void fewer_than_it_says(Made *m) {
        map_page(m, 1)->entries--;
}

static void first_is_another(Made *m) {
        map_page(m, 2)->entry[0].volblock++;
}

static void last_is_another(Made *m) {
        map_page(m, 2)->entry[1].where--;
}

/* --- manifest ----------------------------------------------------------------------------------------------------- */

static void map_is_not_there(Made *m) {
        snapshot_of(m, 0)->map = 99;
}

static void one_for_two(Made *m) {
        snapshot_of(m, 1)->map = 3;
}

static void map_of_no_snapshots_volume(Made *m) {
        snapshot_of(m, 3)->map = 4;
        map_of(m, 1)->first = VOLBLOCK(0, 500);
        map_of(m, 1)->last = VOLBLOCK(0, 607);
}

static void strikes_without_map(Made *m) {
        snapshot_of(m, 0)->map = 0;
}

static struct strike *strikes_of(Made *m) {
        return (struct strike *) member_strikes(snapshot_of(m, 0));
}

static void strikes_out_of_order(Made *m) {
        struct strike *s = strikes_of(m), first = s[0];
        s[0] = s[1];
        s[1] = first;
}

static void strikes_overlap(Made *m) {
        strikes_of(m)[1] = (struct strike) { 84, 2 };
}

static void strike_of_nothing(Made *m) {
        strikes_of(m)[2].count = 0;
}

static void too_many_strikes(Made *m) {
        snapshot_of(m, 0)->strikes = STRIKES_MAX + 1;
}

static void of_no_volume(Made *m) {
        map_of(m, 2)->first = VOLBLOCK(7, 900);
        map_of(m, 2)->last = VOLBLOCK(7, 1023);
}

static void of_two_volumes(Made *m) {
        map_of(m, 2)->last = VOLBLOCK(1, 0);
}

static void with_level(Made *m) {
        map_of(m, 0)->level = 1;
}

static void with_epochs(Made *m) {
        map_of(m, 0)->max_epoch = 1;
}

static void stands_twice(Made *m) {
        map_of(m, 2)->number = 4;
}

static void number_of_a_run(Made *m) {
        map_of(m, 2)->number = 2;
}

static void number_never_given(Made *m) {
        map_of(m, 2)->number = 6;
}

static void shares_a_page(Made *m) {
        ((struct run_extent *) run_extents(map_of(m, 2)))->block = 7;
}

static void more_than_there_can_be(Made *m) {
        head_of(m)->maps = STORE_MAPS_MAX + 1;
}

static const struct {
        const char *name;
        void (*spoil)(Made *m);
        const char *finding;
} bad[] = {
        { "count 0", count_0, "page 0, entry 5: 0 blocks from 116 on" },
        { "overlap", overlap, "page 0, entry 5: 3 blocks from 112 on" },
        { "beyond 2^32", beyond_32_bits, "page 1, entry 19: 2 blocks from 4294967295 on" },
        { "count beyond 2^32", count_beyond_32_bits, "page 1, entry 19: 4294967296 blocks from 848 on" },
        { "epoch", with_epoch, "page 0, entry 5: " },
        { "checksum", with_checksum, "page 0, entry 5: " },
        { "flag", with_other_flag, "page 0, entry 5: " },
        { "page of a run", page_of_a_run, "page 0: something else lies there (magic 6e755253" },
        { "page of a map in a run", map_as_run, "run 2, page 0: something else lies there (magic 70614d53" },
        { "behind the end", behind_the_end, "map 5, page 0: block 1000 of volume 0 is none of its own" },
        { "other volume", of_another_volume, "map 3, page 0: block 768 of volume 1 is none of its own" },
        { "overlap over pages", overlap_over_pages, "map 3, page 1: block 768 of volume 0 is none of its own" },
        { "fewer", fewer_than_it_says, "page 1: 19 entries, 20 expected" },
        { "first", first_is_another, "4 begins or ends with another block than it says" },
        { "last", last_is_another, "4 begins or ends with another block than it says" },

        { "map is not there", map_is_not_there, "snapshot 0 of volume 0: its free map 99 is not there" },
        { "one for two", one_for_two, "snapshot 1 of volume 0: its free map 3 is not there" },
        { "of another volume", map_of_no_snapshots_volume, "snapshot 3 of volume 1: its free map 4 is not there" },
        { "strikes without map", strikes_without_map, "3 strikes of map 0" },
        { "strikes out of order", strikes_out_of_order, "strike 1 of 3 is out of order" },
        { "strikes overlap", strikes_overlap, "strike 1 of 3 is out of order" },
        { "strike of nothing", strike_of_nothing, "strike 2 of 3 is out of order" },
        { "too many strikes", too_many_strikes, "snapshot 0 of 4 is cut off" },
        { "no volume", of_no_volume, "free map 5 is of no volume" },
        { "two volumes", of_two_volumes, "run 5: not what a free map can be" },
        { "level", with_level, "run 3: not what a free map can be" },
        { "epochs", with_epochs, "run 3: not what a free map can be" },
        { "twice", stands_twice, "run 4 stands twice" },
        { "number of a run", number_of_a_run, "run 2 stands twice" },
        { "number never given", number_never_given, "run 6: its numbers contradict each other" },
        { "shared page", shares_a_page, "its pages at 1:7 are also something else's" },
        { "too many", more_than_there_can_be, "32833 maps" },
};

START_TEST(test_every_bad_map_is_named) {
        Made m;
        made_copy(&pristine, &m);
        bad[_i].spoil(&m);
        for (unsigned k = 0; k < ELEMENTSOF(m.map_page); k++)
                fix_page(map_page(&m, k));
        fix_page((struct run_page *) made_at(&m, m.run_page[2]));
        fix_manifest(&m);
        Verdict v = verdict_of(&m);
        ck_assert_msg(v.damages > 0, "%s: nothing was found", bad[_i].name);
        ck_assert_msg(strstr(v.first, bad[_i].finding), "%s: %s", bad[_i].name, v.first);
        made_done(&m);
}
END_TEST

/* --- whom it concerns --------------------------------------------------------------------------------------------- */

START_TEST(test_a_page_concerns_the_snapshot_that_has_the_map) {
        static const unsigned concerned[] = { 1u << 1, 1u << 1, 1u << 6, 0 };
        for (unsigned i = 0; i < 2 * ELEMENTSOF(concerned); i++) {
                unsigned k = i / 2;
                Made m;
                made_copy(&pristine, &m);
                map_page(&m, k)->entries--;
                if (i % 2) /* it can be read, and says something else than the manifest */
                        fix_page(map_page(&m, k));
                Verdict v = verdict_of(&m);
                ck_assert_msg(v.damages > 0 && strncmp(v.first, "map: map ", 9) == 0, "page %u: %s", k, v.first);
                ck_assert_msg(v.concerned == concerned[k], "page %u: %x", k, v.concerned);
                made_done(&m);
        }
}
END_TEST

START_TEST(test_an_extent_concerns_the_snapshot_that_has_the_map) {
        Made m;
        made_copy(&pristine, &m);
        map_page(&m, 0)->entry[RUN_PAGE_ENTRIES - 1].volblock |= VOLBLOCK(1, 0);
        fix_page(map_page(&m, 0));
        ck_assert_uint_eq(verdict_of(&m).concerned, 1u << 1);
        made_done(&m);
}
END_TEST

/* A damaged map does not hide what is wrong with the segment table. */
START_TEST(test_a_page_of_a_map_says_nothing_of_segments) {
        Made m;
        ManifestView v;
        made_copy(&pristine, &m);
        manifest_view(head_of(&m), &v);
        ((struct manifest_segment *) v.table)[3].live++; /* the one with the data of the runs */
        fix_manifest(&m);
        made_at(&m, m.map_page[0])[100] ^= 1;
        ck_assert_uint_eq(verdict_of(&m).damages, 2);
        made_done(&m);
}
END_TEST

/* --- in the log --------------------------------------------------------------------------------------------------- */

static struct set_member *logged_6(Made *m, struct record_head **ret) {
        struct record_head *h = *ret = (struct record_head *) made_at(m, m->record[1]);
        return (struct set_member *) member_after((const struct set_member *) (h + 1));
}

START_TEST(test_a_record_names_a_map_it_cannot_have) {
        static const struct {
                uint64_t map;
                const char *why;
        } cases[] = {
                { 99, "its free map 99 is not there" },
                { 2, "its free map 2 is not there" },
                { 5, "its free map 5 is of another volume" },
                { 3, "its free map 3 is of another volume" },
        };
        for (unsigned i = 0; i < ELEMENTSOF(cases); i++) {
                struct record_head *h;
                Made m;
                made_copy(&pristine, &m);
                logged_6(&m, &h)->map = cases[i].map;
                fix_record(h);
                Verdict v = verdict_of(&m);
                ck_assert_uint_eq(v.damages, 1);
                ck_assert_msg(strstr(v.first, "of record 101: ") && strstr(v.first, cases[i].why), "%s", v.first);
                ck_assert_uint_eq(v.concerned, 1u << 6);
                made_done(&m);
        }
}
END_TEST

/* Snapshot 5 is made one of the same volume, and comes first. */
START_TEST(test_a_record_names_the_map_of_another_snapshot) {
        struct record_head *h;
        Made m;
        made_copy(&pristine, &m);
        (void) logged_6(&m, &h);
        struct set_member *five = (struct set_member *) (h + 1);
        five->volume = 1;
        five->map = 4;
        fix_record(h);
        Verdict v = verdict_of(&m);
        ck_assert_uint_eq(v.damages, 1);
        ck_assert_msg(strstr(v.first, "its free map 4 belongs to another snapshot"), "%s", v.first);
        ck_assert_uint_eq(v.concerned, 1u << 6);
        made_at(&m, m.map_page[2])[100] ^= 1; /* that of 5 now, whatever 6 says */
        ck_assert_uint_eq(verdict_of(&m).concerned, 1u << 5 | 1u << 6);
        made_done(&m);
}
END_TEST

/* The manifest may be newer than the replay position: then the map of what was deleted since is gone, and rightly so.
 */
START_TEST(test_a_deleted_snapshot_misses_no_map) {
        struct record_head *h;
        Made m;
        made_copy(&pristine, &m);
        struct set_member *six = logged_6(&m, &h);
        struct record_head *deletes = (struct record_head *) made_at(&m, m.record[3]);
        memcpy(deletes + 1, six->snapshot, sizeof(six->snapshot));
        fix_record(deletes);
        six->map = 99;
        fix_record(h);
        Verdict v = verdict_of(&m);
        ck_assert_msg(v.damages == 0 && v.concerned == 0, "%s", v.first);
        made_done(&m);
}
END_TEST

int main(void) {
        Suite *s = suite_create("cow-maps");
        TCase *t = tcase_create("bad");
        made_example(&pristine);
        tcase_add_loop_test(t, test_every_bad_map_is_named, 0, ELEMENTSOF(bad));
        suite_add_tcase(s, t);
        t = tcase_create("check");
        tcase_add_test(t, test_a_page_concerns_the_snapshot_that_has_the_map);
        tcase_add_test(t, test_an_extent_concerns_the_snapshot_that_has_the_map);
        tcase_add_test(t, test_a_page_of_a_map_says_nothing_of_segments);
        tcase_add_test(t, test_a_record_names_a_map_it_cannot_have);
        tcase_add_test(t, test_a_record_names_the_map_of_another_snapshot);
        tcase_add_test(t, test_a_deleted_snapshot_misses_no_map);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_NORMAL);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        made_done(&pristine);
        return failed ? 1 : 0;
}
