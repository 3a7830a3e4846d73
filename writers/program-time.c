/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/program-time.h"

static bool digits(const char **at, size_t n, unsigned *ret) {
        *ret = 0;
        for (; n > 0; n--, (*at)++) {
                if (**at < '0' || **at > '9')
                        return false;
                *ret = *ret * 10 + (unsigned) (**at - '0');
        }
        return true;
}

static bool mark(const char **at, const char *allowed) {
        return **at && strchr(allowed, **at) && (*at)++;
}

/* ".5" are 500000 microseconds; nothing is none. */
static bool fraction(const char **at, unsigned *ret) {
        unsigned scale = 1000000;
        *ret = 0;
        if (!mark(at, "."))
                return true;
        for (; **at >= '0' && **at <= '9' && scale > 1; (*at)++)
                *ret += (unsigned) (**at - '0') * (scale /= 10);
        return scale < 1000000 && (**at < '0' || **at > '9');
}

/* Z, +HH, +HHMM or +HH:MM: without it nobody knows whose clock is meant. */
static bool zone(const char **at, int *ret_minutes) {
        unsigned hours, minutes = 0;
        bool west = **at == '-';
        *ret_minutes = 0;
        if (mark(at, "Z"))
                return true;
        if (!mark(at, "+-") || !digits(at, 2, &hours))
                return false;
        if (**at && ((void) mark(at, ":"), !digits(at, 2, &minutes)))
                return false;
        *ret_minutes = (int) (hours * 60 + minutes) * (west ? -1 : 1);
        return hours < 16 && minutes < 60;
}

bool time_parse(const char *text, uint64_t *ret_usec) {
        unsigned year, month, day, hour, minute, second, usec;
        int offset;
        if (!digits(&text, 4, &year) || !mark(&text, "-") || !digits(&text, 2, &month) || !mark(&text, "-") ||
            !digits(&text, 2, &day) || !mark(&text, " T") || !digits(&text, 2, &hour) || !mark(&text, ":") ||
            !digits(&text, 2, &minute) || !mark(&text, ":") || !digits(&text, 2, &second) || !fraction(&text, &usec) ||
            !zone(&text, &offset) || *text || year < 1970)
                return false;
        struct tm tm = { .tm_year = (int) year - 1900,
                         .tm_mon = (int) month - 1,
                         .tm_mday = (int) day,
                         .tm_hour = (int) hour,
                         .tm_min = (int) minute,
                         .tm_sec = (int) second };
        const struct tm as_given = tm;
        time_t seconds = timegm(&tm);
        if (tm.tm_mon != as_given.tm_mon || tm.tm_mday != as_given.tm_mday || tm.tm_hour != as_given.tm_hour ||
            tm.tm_min != as_given.tm_min || tm.tm_sec != as_given.tm_sec)
                return false; /* the 30th of February */
        seconds -= (time_t) offset * 60;
        if (seconds < 0)
                return false;
        *ret_usec = (uint64_t) seconds * USEC_PER_SEC + usec;
        return true;
}
