/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * CONFIGURATION_DIRECTORY/writers.d, as far as it says who a writer is: NAME.conf with a line User=ACCOUNT gives the
 * name NAME to that account. Only root-owned files that nobody else can write count. Read at start and on Reload.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <sys/types.h>

enum { LIMIT_OWNER_FILE_BYTES = 64 * 1024, LIMIT_OWNERS = 1024 };

typedef struct Owners {
        struct Owner {
                char *name;
                uid_t uid;
        } * items;
        size_t n;
} Owners;

/* 0 also if the directory is missing; *o unchanged on failure. */
int owners_load(Owners *o, const char *configuration_directory);
void owners_done(Owners *o);
int owners_find(const Owners *o, const char *name, uid_t *ret); /* 0, -ENOENT */

/*
 * One file of the configuration: regular, root's, not writable by anybody else, at most max bytes; NUL-terminated.
 * -EPERM if it is somebody else's, -EFBIG.
 */
int trusted_file_read(int dir, const char *name, size_t max, char **ret, size_t *ret_size);
/* The directory likewise. */
int trusted_directory_open(const char *path, int *ret_fd);
