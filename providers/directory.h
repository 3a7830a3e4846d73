/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Where providers come from: the ones linked into vss-provider-host, and *.so files of one directory. Only names and
 * descriptors here, no code of theirs is loaded, so vssd can link this.
 */
#include "protocol/base.h"

enum { PROVIDERS_MAX = 64 }; /* files looked at in the directory: somebody else's mistake must not grow our memory */

/* NULL-terminated, static: names of the providers linked in, the most native first. */
const char *const *provider_builtin_names(void);
bool provider_is_builtin(const char *name);
/*
 * VSS_PROVIDER_DIRECTORY of the environment (ignored in a setuid or otherwise privileged exec, like secure_getenv()),
 * else the directory given at build time. Whoever sets the environment of vssd is root and decides.
 */
const char *provider_directory(void);
/*
 * Opens it. It and every directory above must belong to root or to our own user and be writable by nobody else (above:
 * or sticky), else -EPERM with *reterr_path naming the one at fault (caller frees; may be NULL).
 */
int provider_directory_open(int *ret_fd, char **reterr_path);
/* Opens NAME.so in it for dlopen() through /proc/self/fd; same rules for the file. -ENOENT, -EPERM, -ELOOP. */
int provider_file_open(int directory_fd, const char *name, int *ret_fd);
/* Names of the valid *.so files, sorted, NULL-terminated; a missing directory is an empty list. */
int provider_directory_names(char ***ret);
char **provider_names_free(char **names);
DEFINE_CLEANUP(char **, provider_names_free);
