/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Cleanup attributes and small macros that every part of the project uses. Macros and inline one-liners only; nothing
 * here allocates, logs or knows what a snapshot is.
 */
#include <errno.h>
#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _public_ __attribute__((visibility("default")))
#define _unused_ __attribute__((unused))

#define ELEMENTSOF(a) (sizeof(a) / sizeof((a)[0]))
/* Each argument is evaluated once: a timer was lost because the function that computed it was called twice. */
#define MIN_OF(a, b) SELECT_OF_(a, <, b, __COUNTER__)
#define MAX_OF(a, b) SELECT_OF_(a, >, b, __COUNTER__)
#define SELECT_OF_(a, is, b, n) SELECT_OF__(a, is, b, n)
#define SELECT_OF__(a, is, b, n) \
        ({ \
                const typeof(a) _a##n = (a); \
                const typeof(b) _b##n = (b); \
                _a##n is _b##n ? _a##n : _b##n; \
        })
#define container_of(ptr, type, member) ((type *) ((char *) (ptr) -offsetof(type, member)))

#define USEC_PER_SEC 1000000ULL
#define USEC_PER_MSEC 1000ULL
#define NSEC_PER_USEC 1000ULL
#define USEC_INFINITY UINT64_MAX

/* Define xp() for _cleanup_ from a destructor that accepts NULL. */
#define DEFINE_CLEANUP(type, func) \
        static inline void func##p(type *p) { \
                if (*p) \
                        func(*p); \
        } \
        struct base_trailing_semicolon

#define TAKE_PTR(p) \
        ({ \
                typeof(p) _p = (p); \
                (p) = NULL; \
                _p; \
        })

#define TAKE_FD(fd) \
        ({ \
                int _f = (fd); \
                (fd) = -EBADF; \
                _f; \
        })

static inline void freep(void *p) {
        free(*(void **) p);
}

/* Keeps errno; a negative descriptor is nothing. Returns -EBADF so that fd = close_fd(fd) reads well. */
static inline int close_fd(int fd) {
        if (fd >= 0) {
                int saved = errno;
                (void) close(fd);
                errno = saved;
        }
        return -EBADF;
}

static inline void close_fdp(int *fd) {
        (void) close_fd(*fd);
}

#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_close_ _cleanup_(close_fdp)

static inline bool streq(const char *a, const char *b) {
        return strcmp(a, b) == 0;
}

/* NULL equals NULL. */
static inline bool streq_null(const char *a, const char *b) {
        return a && b ? streq(a, b) : a == b;
}

static inline bool isempty(const char *s) {
        return !s || !s[0];
}

static inline uint64_t clock_usec(clockid_t clock) {
        struct timespec ts;
        int r = clock_gettime(clock, &ts);
        assert(r == 0);
        (void) r;
        return (uint64_t) ts.tv_sec * USEC_PER_SEC + (uint64_t) ts.tv_nsec / NSEC_PER_USEC;
}

static inline uint64_t now_usec(void) {
        return clock_usec(CLOCK_MONOTONIC);
}

/* Sum that stops at "never" instead of wrapping. */
static inline uint64_t usec_add(uint64_t a, uint64_t b) {
        return a > USEC_INFINITY - b ? USEC_INFINITY : a + b;
}
