/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the fuzz targets share. Each is built twice: with -DFUZZING for libFuzzer (tests/fuzz), and without as a test
 * that replays what lies in tests/corpus/NAME, from a main() of its own.
 */
#include "protocol/base.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition) \
        do { \
                if (!(condition)) { \
                        fprintf(stderr, "does not hold: %s\n", #condition); \
                        abort(); \
                } \
        } while (false)

#ifndef FUZZING
static inline void replay_file(int at, const char *name) {
        struct stat st;
        _cleanup_close_ int fd = openat(at, name, O_RDONLY | O_CLOEXEC);
        MUST(fd >= 0 && fstat(fd, &st) == 0);
        size_t size = (size_t) st.st_size;
        _cleanup_free_ uint8_t *data = malloc(size + 1);
        MUST(data && read(fd, data, size) == (ssize_t) size);
        fprintf(stderr, "%s\n", name); /* the one that does not return is the last */
        (void) LLVMFuzzerTestOneInput(data, size);
}

/* Every file of tests/corpus/NAME; the exit status: 0 if there are at least so many. */
static inline int replay_corpus(const char *name, int least) {
        char corpus[4096];
        int n = 0;
        (void) snprintf(corpus, sizeof(corpus), "%s/tests/corpus/%s", getenv("VSS_SOURCE"), name);
        DIR *d = opendir(corpus);
        MUST(d);
        for (struct dirent *e; (e = readdir(d));)
                if (e->d_name[0] != '.') {
                        replay_file(dirfd(d), e->d_name);
                        n++;
                }
        (void) closedir(d);
        printf("%d of %s\n", n, name);
        return n >= least ? 0 : 1;
}
#endif
