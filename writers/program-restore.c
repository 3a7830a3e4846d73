/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/program-restore.h"
#include "protocol/text.h"
#include <stdio.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

char *restore_moved_to(const char *targets, const char *path) {
        _cleanup_free_ char *key = NULL, *best = NULL;
        size_t best_length = 0;
        char *real = NULL;
        if (path_escape(path, &key) < 0)
                return NULL;
        for (const char *line = targets; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
                _cleanup_free_ char *pair = strndup(line, strcspn(line, "\n"));
                for (char *equals = pair ? strstr(pair, "=/") : NULL; equals; equals = strstr(equals + 1, "=/")) {
                        size_t n = (size_t) (equals - pair);
                        if (n <= best_length || strncmp(key, pair, n) != 0 || (key[n] != '/' && key[n] != '\0'))
                                continue;
                        free(best);
                        best_length = n;
                        if (asprintf(&best, "%s%s", equals + 1, key + n) < 0)
                                best = NULL;
                }
        }
        return best && path_unescape(best, &real) >= 0 ? real : NULL;
}

int restore_rights_take(const char *directory, uid_t owner) {
        struct stat st;
        if (geteuid() != 0)
                return 0;
        if (stat(directory, &st) < 0)
                st.st_gid = (gid_t) -1;
        (void) setfsgid(st.st_gid);
        (void) setfsuid(owner);
        return (uid_t) setfsuid((uid_t) -1) == owner ? 0 : -EPERM;
}

void restore_rights_drop(void) {
        (void) setfsuid(geteuid());
        (void) setfsgid(getegid());
}

int restore_check_writable(const char *directory, Failure *reterr) {
        _cleanup_free_ char *path = strdup(directory);
        struct statvfs st;
        char *slash;
        if (!path)
                return -ENOMEM;
        while (statvfs(path, &st) < 0) {
                if (errno != ENOENT || !(slash = strrchr(path, '/')))
                        return 0; /* nothing is known of it */
                slash[slash == path] = '\0';
        }
        return st.f_flag & ST_RDONLY ?
                       failure_set(
                               reterr, CONDITION_FAILED,
                               "this writer is shown %.300s read-only and could not complete what is restored: look "
                               "at ReadWritePaths= of its unit",
                               directory) :
                       0;
}
