/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "protocol/prune.h"
#include <time.h>

static int64_t floor_divide(int64_t a, int64_t b) {
        return a / b - (a % b < 0);
}

static bool local_time(int64_t usec, struct tm *ret) {
        time_t seconds = (time_t) floor_divide(usec, USEC_PER_SEC);
        return localtime_r(&seconds, ret) != NULL;
}

static int64_t iso_week(const struct tm *tm) {
        char text[32] = "";
        (void) strftime(text, sizeof(text), "%G%V", tm);
        return strtoll(text, NULL, 10);
}

/*
 * A number that grows with the periods and is the same within one. Hours are named by the instant at which they begin:
 * the one that the end of summer time repeats is two.
 */
static int64_t period_of(PruneRule rule, int64_t usec) {
        struct tm tm;
        if (!local_time(usec, &tm))
                return usec;
        switch (rule) {
        case PRUNE_HOURLY:
                return floor_divide(floor_divide(usec, USEC_PER_SEC) + tm.tm_gmtoff, 3600) * 3600 - tm.tm_gmtoff;
        case PRUNE_DAILY:
                return (int64_t) tm.tm_year * 400 + tm.tm_yday;
        case PRUNE_WEEKLY:
                return iso_week(&tm);
        case PRUNE_MONTHLY:
                return (int64_t) tm.tm_year * 12 + tm.tm_mon;
        case PRUNE_YEARLY:
                return tm.tm_year;
        default:
                return usec;
        }
}

static int days_of_month(int year, int month) {
        static const int days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
        bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        return days[month] + (month == 1 && leap);
}

/* By the calendar: a month before 31 March is the last of February, a day may have 23 or 25 hours. */
static int64_t span_before(int64_t usec, const PruneSpan *span) {
        struct tm tm;
        if (!local_time(usec, &tm))
                return INT64_MIN;
        int months = tm.tm_mon - (int) span->months;
        int year = tm.tm_year - (int) span->years + (int) floor_divide(months, 12);
        tm.tm_mon = months - (int) floor_divide(months, 12) * 12;
        tm.tm_year = year;
        tm.tm_mday = MIN_OF(tm.tm_mday, days_of_month(year + 1900, tm.tm_mon)) - (int) (7 * span->weeks + span->days);
        tm.tm_isdst = -1;
        time_t seconds = mktime(&tm);
        if (seconds == (time_t) -1)
                return INT64_MIN;
        return ((int64_t) seconds - (int64_t) span->hours * 3600) * (int64_t) USEC_PER_SEC +
               usec % (int64_t) USEC_PER_SEC;
}

/* Newest first, within one volume. */
static int compare_copies(const void *a, const void *b) {
        const PruneCopy *x = a, *y = b;
        int r = strcmp(x->volume, y->volume);
        if (r == 0)
                r = x->created_usec < y->created_usec ? 1 : x->created_usec > y->created_usec ? -1 : 0;
        return r != 0 ? r : strcmp(x->id, y->id);
}

static bool counts(const PruneCopy *c) {
        return !c->pinned && !c->session && !c->damaged && c->created_usec > 0;
}

static void keep_aside(PruneCopy *c) {
        c->why = (c->pinned ? PRUNE_WHY_PINNED : 0) | (c->session ? PRUNE_WHY_SESSION : 0) |
                 (c->in_use ? PRUNE_WHY_IN_USE : 0) | (c->created_usec <= 0 ? PRUNE_WHY_NO_TIME : 0);
}

static void keep_periods(PruneCopy *copies, size_t n, PruneRule rule, unsigned left) {
        int64_t last = INT64_MAX;
        for (size_t i = 0; i < n && left > 0; i++) {
                if (!counts(&copies[i]))
                        continue;
                int64_t period = period_of(rule, copies[i].created_usec);
                if (rule != PRUNE_LAST && period >= last)
                        continue;
                last = period;
                copies[i].why |= 1u << rule;
                left--;
        }
}

static void keep_within(PruneCopy *copies, size_t n, const PruneSpan *span, int64_t from) {
        int64_t since = span_before(from, span);
        for (size_t i = 0; i < n; i++)
                if (counts(&copies[i]) && copies[i].created_usec >= since)
                        copies[i].why |= PRUNE_WHY_WITHIN;
}

/* The newest that counts, else the newest of all. */
static PruneCopy *newest_of(PruneCopy *copies, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (counts(&copies[i]))
                        return &copies[i];
        return copies;
}

static void decide_volume(PruneCopy *copies, size_t n, const PruneRules *rules, int64_t now_usec) {
        PruneCopy *newest = newest_of(copies, n);
        for (size_t i = 0; i < n; i++)
                keep_aside(&copies[i]);
        for (unsigned rule = 0; rule < PRUNE_RULES_MAX; rule++)
                keep_periods(copies, n, (PruneRule) rule, rules->keep[rule]);
        if (rules->given_within)
                keep_within(copies, n, &rules->within, MIN_OF(newest->created_usec, now_usec));
        if (!rules->given[PRUNE_LAST] || rules->keep[PRUNE_LAST] > 0)
                newest->why |= PRUNE_WHY_NEWEST;
}

static int compare_sets(const void *a, const void *b) {
        const PruneCopy *const *x = a, *const *y = b;
        return strcmp((*x)->set, (*y)->set);
}

/* A set goes as a whole, or stays as a whole. */
static int keep_sets(PruneCopy *copies, size_t n) {
        _cleanup_free_ PruneCopy **by_set = calloc(n + 1, sizeof(PruneCopy *));
        if (!by_set)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++)
                by_set[i] = &copies[i];
        qsort(by_set, n, sizeof(PruneCopy *), compare_sets);
        for (size_t begin = 0, end; begin < n; begin = end) {
                bool stays = false;
                for (end = begin; end < n && streq(by_set[end]->set, by_set[begin]->set); end++)
                        stays |= by_set[end]->why != 0;
                for (size_t i = begin; stays && i < end; i++)
                        if (by_set[i]->why == 0)
                                by_set[i]->why = PRUNE_WHY_SET;
        }
        return 0;
}

int prune_decide(PruneCopy *copies, size_t n, const PruneRules *rules, int64_t now_usec) {
        if (n == 0)
                return 0;
        qsort(copies, n, sizeof(PruneCopy), compare_copies);
        for (size_t begin = 0, end; begin < n; begin = end) {
                for (end = begin; end < n && streq(copies[end].volume, copies[begin].volume);)
                        end++;
                decide_volume(copies + begin, end - begin, rules, now_usec);
        }
        return keep_sets(copies, n);
}

const char *prune_why_word(unsigned bit) {
        static const char *const words[PRUNE_WHYS] = { "last",   "hourly",  "daily",  "weekly", "monthly",
                                                       "yearly", "within",  "newest", "pinned", "session",
                                                       "in-use", "no-time", "set" };
        return bit < PRUNE_WHYS ? words[bit] : "";
}

int prune_span_parse(const char *text, PruneSpan *ret) {
        static const char units[] = "ymwdh";
        PruneSpan span = {};
        unsigned *const parts[] = { &span.years, &span.months, &span.weeks, &span.days, &span.hours };
        size_t next = 0;
        if (isempty(text))
                return -EINVAL;
        while (*text) {
                size_t digits = strspn(text, "0123456789");
                const char *unit = text[digits] ? strchr(units + next, text[digits]) : NULL;
                if (digits == 0 || digits > 4 || !unit)
                        return -EINVAL;
                *parts[unit - units] = (unsigned) strtoul(text, NULL, 10);
                next = (size_t) (unit - units) + 1;
                text += digits + 1;
        }
        *ret = span;
        return 0;
}
