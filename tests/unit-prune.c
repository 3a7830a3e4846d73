/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which copies a retention keeps: tables of times, rules and what must be left, in time zones whose days have 23, 24
 * and 25 hours.
 */
#include "protocol/prune.h"
#include <check.h>
#include <stdio.h>

enum { COPIES_MAX = 64 };

/*
 * copies: UTC times "MM-DD HH:MM" of 2026 or "YYYY-MM-DD HH:MM", separated by commas, oldest first; behind one p:
 * pinned, s: session, u: in use, d: damaged. kept: one character for each, K or -.
 */
typedef struct Row {
        const char *name, *zone, *rules, *copies, *kept;
} Row;

static int64_t parse_time(const char *text, const char **ret_flags) {
        struct tm tm = {};
        const char *end = strptime(text, "%Y-%m-%d %H:%M", &tm);
        if (!end) {
                tm = (struct tm) { .tm_year = 126 };
                end = strptime(text, "%m-%d %H:%M", &tm);
        }
        ck_assert_msg(end != NULL, "\"%s\" is no time", text);
        if (ret_flags)
                *ret_flags = end;
        return (int64_t) timegm(&tm) * 1000000;
}

static void parse_rules(const char *text, PruneRules *ret) {
        _cleanup_free_ char *copy = strdup(text);
        char *state = NULL;
        *ret = (PruneRules) {};
        for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
                char *value = strchr(word, '=');
                bool known = false;
                *value++ = 0;
                if (streq(word, "within")) {
                        ck_assert_int_eq(prune_span_parse(value, &ret->within), 0);
                        ret->given_within = known = true;
                }
                for (unsigned rule = 0; rule < PRUNE_RULES_MAX; rule++)
                        if (streq(word, prune_why_word(rule))) {
                                ret->given[rule] = known = true;
                                ret->keep[rule] = (unsigned) atoi(value);
                        }
                ck_assert_msg(known, "there is no rule %s", word);
        }
}

/* Ids are 00, 01 … in the order of the table, and one set each. */
static size_t parse_copies(char *text, PruneCopy *copies, char ids[][4]) {
        char *state = NULL;
        size_t n = 0;
        for (char *word = strtok_r(text, ",", &state); word; word = strtok_r(NULL, ",", &state), n++) {
                const char *flags;
                (void) snprintf(ids[n], 4, "%02u", (unsigned) n % 100);
                copies[n] = (PruneCopy) { .id = ids[n], .set = ids[n], .volume = "/srv/db" };
                copies[n].created_usec = parse_time(word + strspn(word, " "), &flags);
                copies[n].pinned = strchr(flags, 'p');
                copies[n].session = strchr(flags, 's');
                copies[n].in_use = strchr(flags, 'u');
                copies[n].damaged = strchr(flags, 'd');
        }
        return n;
}

static void use_zone(const char *zone) {
        (void) setenv("TZ", zone, 1);
        tzset();
}

static void try_row(const Row *row) {
        _cleanup_free_ char *text = strdup(row->copies);
        PruneCopy copies[COPIES_MAX];
        char ids[COPIES_MAX][4], kept[COPIES_MAX + 1] = "";
        PruneRules rules;
        use_zone(row->zone);
        parse_rules(row->rules, &rules);
        size_t n = parse_copies(text, copies, ids);
        ck_assert_int_eq(prune_decide(copies, n, &rules, parse_time("2026-12-31 00:00", NULL)), 0);
        for (size_t i = 0; i < n; i++)
                kept[atoi(copies[i].id)] = copies[i].why ? 'K' : '-';
        ck_assert_msg(streq(kept, row->kept), "%s: %s keeps %s, expected %s", row->name, row->rules, kept, row->kept);
}

#define UTC "UTC0"
#define BERLIN "CET-1CEST,M3.5.0,M10.5.0/3"
#define LORD_HOWE "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"

static const Row rows[] = {
        { "last", UTC, "last=2", "01-01 00:00,01-02 00:00,01-03 00:00", "-KK" },
        { "more than there are", UTC, "last=9999", "01-01 00:00,01-02 00:00", "KK" },
        { "the newest stays", UTC, "daily=0", "01-01 00:00,01-02 00:00", "-K" },
        { "... unless it is asked for", UTC, "last=0", "01-01 00:00,01-02 00:00", "--" },
        { "... and other rules hold then", UTC, "last=0 monthly=1", "01-01 00:00,01-02 00:00", "-K" },
        { "the newest of each hour", UTC, "hourly=2", "01-01 10:00,01-01 10:59,01-01 11:00,01-01 11:30", "-K-K" },
        { "hours without a copy do not count", UTC, "hourly=2", "01-01 03:00,01-01 04:00,01-09 11:30", "-KK" },
        { "the newest of each day", UTC, "daily=2", "01-01 01:00,01-01 23:00,01-02 01:00,01-03 01:00", "--KK" },
        { "rules overlap", UTC, "last=1 daily=2", "01-01 01:00,01-02 01:00,01-03 01:00", "-KK" },
        { "weeks begin on Monday", UTC, "weekly=2", "01-02 10:00,01-04 10:00,01-05 10:00,01-11 10:00", "-K-K" },
        { "a week over new year is one", UTC, "weekly=2", "2025-12-28 12:00,2025-12-29 12:00,2026-01-04 12:00", "K-K" },
        { "months", UTC, "monthly=2", "01-31 10:00,02-01 10:00,02-28 10:00,03-01 10:00", "--KK" },
        { "years", UTC, "yearly=2", "2024-06-01 00:00,2025-06-01 00:00,2025-12-31 23:59,2026-01-01 00:00", "--KK" },
        { "all of them", UTC, "hourly=1 daily=2 weekly=2 monthly=2 yearly=2",
          "2025-11-30 12:00,2026-01-31 12:00,02-20 12:00,02-26 12:00,02-27 12:00,02-27 13:00", "KKKK-K" },

        { "days are local ones", "EST5", "daily=2", "01-02 04:30,01-02 05:30,01-03 04:30", "K-K" },
        { "... which are others elsewhere", UTC, "daily=2", "01-02 04:30,01-02 05:30,01-03 04:30", "-KK" },
        { "the repeated hour is two", BERLIN, "hourly=3", "10-25 00:10,10-25 00:40,10-25 01:10,10-25 01:40,10-25 02:10",
          "-K-KK" },
        { "the day of 25 hours is one", BERLIN, "daily=2", "10-24 22:30,10-25 00:30,10-25 22:30,10-25 23:30", "--KK" },
        { "the day of 23 hours is one", BERLIN, "daily=2", "03-28 23:30,03-29 00:30,03-29 21:30,03-29 22:30", "--KK" },
        { "the hour that is left out", BERLIN, "hourly=2", "03-29 00:30,03-29 00:59,03-29 01:00,03-29 01:30", "-K-K" },
        { "summer time of half an hour", LORD_HOWE, "hourly=4",
          "04-04 14:10,04-04 14:40,04-04 15:10,04-04 15:40,04-04 16:10", "-KK-K" },

        { "within days", UTC, "within=2d", "01-01 11:59,01-01 12:00,01-02 00:00,01-03 12:00", "-KKK" },
        { "within is from the newest", UTC, "within=1h", "01-01 10:30,01-01 11:00,01-01 12:00", "-KK" },
        { "a future copy does not shorten it", UTC, "within=1d", "2026-12-30 12:00,2027-12-31 00:00", "KK" },
        { "a month before 31 March", UTC, "within=1m", "02-27 23:59,02-28 00:00,03-31 00:00", "-KK" },
        { "... in a leap year", UTC, "within=1m", "2024-02-28 23:59,2024-02-29 00:00,2024-03-31 00:00", "-KK" },
        { "13 months", UTC, "within=13m", "2025-01-14 00:00,2025-01-15 00:00,2026-02-15 00:00", "-KK" },
        { "a year and weeks", UTC, "within=1y2w", "2025-01-17 00:00,2025-01-18 00:00,2026-02-01 00:00", "-KK" },
        { "a local day of 25 hours", BERLIN, "within=1d", "10-24 21:59,10-24 22:00,10-25 23:00", "-KK" },
        { "24 hours are 24 hours", BERLIN, "within=24h", "10-24 22:59,10-24 23:00,10-25 23:00", "-KK" },
        { "as long as can be said", UTC, "within=9999y9999m9999w9999d9999h", "1970-01-02 00:00,01-01 00:00", "KK" },

        { "pinned ones stay and do not count", UTC, "last=1", "01-01 00:00p,01-02 00:00,01-03 00:00p", "KKK" },
        { "a session that goes on", UTC, "last=1", "01-01 00:00,01-02 00:00,01-03 00:00s", "-KK" },
        { "in use: stays, and counts", UTC, "last=1", "01-01 00:00u,01-02 00:00,01-03 00:00u", "K-K" },
        { "damaged ones do not count", UTC, "daily=2", "01-01 00:00,01-02 00:00d,01-03 00:00", "K-K" },
        { "... and within does not keep them", UTC, "within=9d", "01-02 00:00d,01-03 00:00", "-K" },
        { "... but the last one of a volume stays", UTC, "daily=2", "01-01 00:00d,01-02 00:00d", "-K" },
        { "no time, no decision", UTC, "last=1", "1970-01-01 00:00,01-01 00:00,01-02 00:00", "K-K" },
        { "before 1970", UTC, "last=1", "1969-12-31 23:59,01-02 00:00", "KK" },
};

START_TEST(test_tables) {
        try_row(&rows[_i]);
}
END_TEST

START_TEST(test_reasons_are_said) {
        static const char *const ids[] = { "a", "b", "c", "d" };
        PruneCopy copies[ELEMENTSOF(ids)];
        PruneRules rules;
        use_zone(UTC);
        parse_rules("last=1 daily=2 within=1h", &rules);
        for (size_t i = 0; i < ELEMENTSOF(ids); i++)
                copies[i] = (PruneCopy) {
                        .id = ids[i], .set = ids[i], .volume = "/a", .created_usec = (int64_t) (i + 1) * 86400 * 1000000
                };
        copies[0].in_use = true;
        copies[1].pinned = true;
        ck_assert_int_eq(prune_decide(copies, ELEMENTSOF(ids), &rules, INT64_MAX), 0);
        ck_assert_str_eq(copies[0].id, "d");
        ck_assert_uint_eq(copies[0].why, 1 << PRUNE_LAST | 1 << PRUNE_DAILY | PRUNE_WHY_WITHIN | PRUNE_WHY_NEWEST);
        ck_assert_uint_eq(copies[1].why, 1 << PRUNE_DAILY);
        ck_assert_uint_eq(copies[2].why, PRUNE_WHY_PINNED);
        ck_assert_uint_eq(copies[3].why, PRUNE_WHY_IN_USE);
        ck_assert_str_eq(prune_why_word(PRUNE_YEARLY), "yearly");
        unsigned set = 0;
        while (1u << set != PRUNE_WHY_SET)
                set++;
        ck_assert_uint_eq(set, PRUNE_WHYS - 1);
        ck_assert_str_eq(prune_why_word(set), "set");
        ck_assert_str_eq(prune_why_word(PRUNE_WHYS), "");
}
END_TEST

/* Volumes are decided on by themselves, and then a set goes or stays as a whole. */
START_TEST(test_volumes_and_sets) {
        static const struct {
                const char *id, *set, *volume;
                int day;
                unsigned why;
        } table[] = {
                { "1", "one", "/a", 1, 0 },
                { "2", "one", "/b", 1, 0 },
                { "3", "two", "/a", 2, PRUNE_WHY_SET },
                { "4", "two", "/b", 2, 1 << PRUNE_LAST | PRUNE_WHY_NEWEST },
                { "5", "three", "/a", 3, 1 << PRUNE_LAST | PRUNE_WHY_NEWEST },
        };
        PruneCopy copies[ELEMENTSOF(table)];
        PruneRules rules;
        parse_rules("last=1", &rules);
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                copies[i] = (PruneCopy) { .id = table[i].id,
                                          .set = table[i].set,
                                          .volume = table[i].volume,
                                          .created_usec = (int64_t) table[i].day * 86400 * 1000000 };
        ck_assert_int_eq(prune_decide(copies, ELEMENTSOF(table), &rules, INT64_MAX), 0);
        for (size_t i = 0; i < ELEMENTSOF(table); i++)
                for (size_t k = 0; k < ELEMENTSOF(table); k++)
                        if (streq(copies[k].id, table[i].id))
                                ck_assert_msg(copies[k].why == table[i].why, "copy %s: %x", table[i].id, copies[k].why);
        ck_assert_int_eq(prune_decide(NULL, 0, &rules, 0), 0);
}
END_TEST

START_TEST(test_spans) {
        PruneSpan span;
        ck_assert_int_eq(prune_span_parse("1y2m3w4d5h", &span), 0);
        ck_assert_uint_eq(span.years, 1);
        ck_assert_uint_eq(span.months, 2);
        ck_assert_uint_eq(span.weeks, 3);
        ck_assert_uint_eq(span.days, 4);
        ck_assert_uint_eq(span.hours, 5);
        ck_assert_int_eq(prune_span_parse("0d", &span), 0);
        static const char *const bad[] = { "",    "d",    "14",     "14 d", "1d1d", "1h1d", "-1d",
                                           "+1d", "1.5d", "10000d", "1s",   "1D",   "1d ",  " 1d" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                ck_assert_msg(prune_span_parse(bad[i], &span) < 0, "\"%s\" is taken for a span", bad[i]);
        ck_assert_uint_eq(span.years, 0);
}
END_TEST

int main(void) {
        Suite *suite = suite_create("unit-prune");
        TCase *tc = tcase_create("decisions");
        tcase_add_loop_test(tc, test_tables, 0, (int) ELEMENTSOF(rows));
        tcase_add_test(tc, test_reasons_are_said);
        tcase_add_test(tc, test_volumes_and_sets);
        tcase_add_test(tc, test_spans);
        suite_add_tcase(suite, tc);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed == 0 ? 0 : 1;
}
