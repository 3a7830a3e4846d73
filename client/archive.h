/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* A tar archive (ustar) written straight into a file: for `vssctl report`, which must work where nothing else does. */
#include "protocol/base.h"
#include <stdio.h>

enum { ARCHIVE_FILE_MAX = 8 * 1024 * 1024 };

/* name: at most 99 bytes; longer ones lose their beginning. */
int archive_add(FILE *f, const char *name, const void *data, size_t size);
int archive_end(FILE *f);
/* In place: the values of lines and JSON members whose key looks like a password. Returns the new length. */
size_t secrets_remove(char *text);
