/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Which copies a retention keeps. A pure decision: copies, rules and the time in, reasons to keep out; no bus, clock or
 * file, so that every calendar can be tried. The calendar is that of the time zone in TZ.
 *
 * A rule keeps the newest copy of each of its last N periods in which there is one; a copy may be kept by several. What
 * does not count is passed over by all rules as if it were not there.
 */
#include "protocol/base.h"

typedef enum PruneRule {
        PRUNE_LAST,
        PRUNE_HOURLY,
        PRUNE_DAILY,
        PRUNE_WEEKLY,
        PRUNE_MONTHLY,
        PRUNE_YEARLY,
        PRUNE_RULES_MAX
} PruneRule;

/* Reasons to keep a copy, as bits; the first ones are 1 << PruneRule. */
enum {
        PRUNE_WHY_WITHIN = 1 << PRUNE_RULES_MAX,
        PRUNE_WHY_NEWEST = PRUNE_WHY_WITHIN << 1, /* a volume is not left without a copy unless --keep-last=0 says so */
        PRUNE_WHY_PINNED = PRUNE_WHY_WITHIN << 2,
        PRUNE_WHY_SESSION = PRUNE_WHY_WITHIN << 3, /* its backup is not over, or it goes with its requester */
        PRUNE_WHY_IN_USE = PRUNE_WHY_WITHIN << 4,
        PRUNE_WHY_NO_TIME = PRUNE_WHY_WITHIN << 5,
        PRUNE_WHY_SET = PRUNE_WHY_WITHIN << 6, /* another copy of its set stays: half a set is no instant */
        PRUNE_WHYS = PRUNE_RULES_MAX + 7
};

typedef struct PruneSpan {
        unsigned years, months, weeks, days, hours;
} PruneSpan;

typedef struct PruneRules {
        unsigned keep[PRUNE_RULES_MAX];
        bool given[PRUNE_RULES_MAX], given_within;
        PruneSpan within; /* back from the newest copy of the volume that counts */
} PruneRules;

typedef struct PruneCopy {
        const char *id, *set, *volume; /* borrowed */
        int64_t created_usec;          /* since 1970 UTC; not above 0: unknown */
        bool pinned, session, in_use, damaged;
        unsigned why; /* 0: to be removed */
        void *userdata;
} PruneCopy;

/* Sorts by volume, the newest first, and sets why. 0 or -ENOMEM. */
int prune_decide(PruneCopy *copies, size_t n, const PruneRules *rules, int64_t now_usec);
const char *prune_why_word(unsigned bit); /* 0 … PRUNE_WHYS - 1; for a rule its name */
/* "1y6m", "14d": numbers up to 9999 with y, m (months), w, d, h, each at most once and in this order. */
int prune_span_parse(const char *text, PruneSpan *ret);
