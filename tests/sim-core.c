/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/sim-core.h"
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int order_disabled = -1;

static uint64_t fail_at, count;
static bool fail_on;

void core_fail_allocation(uint64_t nth, int for_ever) {
        fail_at = nth;
        fail_on = for_ever;
        count = 0;
}

uint64_t core_allocations(void) {
        return count;
}

static bool fails(void) {
        count++;
        return fail_at > 0 && (count == fail_at || (fail_on && count > fail_at));
}

void *core_malloc(size_t n);
void *core_calloc(size_t n, size_t size);
void *core_realloc(void *p, size_t n);
void *core_reallocarray(void *p, size_t n, size_t size);
int core_posix_memalign(void **ret, size_t alignment, size_t n);
void *core_aligned_alloc(size_t alignment, size_t n);
char *core_strndup(const char *s, size_t n);
char *core_strdup(const char *s);

void *core_malloc(size_t n) {
        return fails() ? NULL : malloc(n);
}

void *core_calloc(size_t n, size_t size) {
        return fails() ? NULL : calloc(n, size);
}

void *core_realloc(void *p, size_t n) {
        return fails() ? NULL : realloc(p, n);
}

void *core_reallocarray(void *p, size_t n, size_t size) {
        return fails() ? NULL : reallocarray(p, n, size);
}

int core_posix_memalign(void **ret, size_t alignment, size_t n) {
        return fails() ? ENOMEM : posix_memalign(ret, alignment, n);
}

void *core_aligned_alloc(size_t alignment, size_t n) {
        return fails() ? NULL : aligned_alloc(alignment, n);
}

char *core_strndup(const char *s, size_t n) {
        return fails() ? NULL : strndup(s, n);
}

char *core_strdup(const char *s) {
        return fails() ? NULL : strdup(s);
}
