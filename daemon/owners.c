/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/owners.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>

DEFINE_CLEANUP(DIR *, closedir);

static bool is_trusted(const struct stat *st, mode_t type) {
        return (st->st_mode & S_IFMT) == type && st->st_uid == 0 && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

int trusted_directory_open(const char *path, int *ret_fd) {
        struct stat st;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!is_trusted(&st, S_IFDIR))
                return -EPERM;
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int trusted_file_read(int dir, const char *name, size_t max, char **ret, size_t *ret_size) {
        struct stat st;
        _cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!is_trusted(&st, S_IFREG))
                return -EPERM;
        if (st.st_size < 0 || (size_t) st.st_size > max)
                return -EFBIG;
        size_t size = (size_t) st.st_size, n = 0;
        _cleanup_free_ char *text = malloc(size + 1);
        if (!text)
                return -ENOMEM;
        while (n < size) {
                ssize_t l = read(fd, text + n, size - n);
                if (l < 0)
                        return -errno;
                if (l == 0)
                        break;
                n += (size_t) l;
        }
        text[n] = '\0';
        *ret = TAKE_PTR(text);
        *ret_size = n;
        return 0;
}

static int account_uid(const char *account, uid_t *ret) {
        char *end;
        errno = 0;
        unsigned long uid = strtoul(account, &end, 10);
        if (errno == 0 && isdigit((unsigned char) account[0]) && *end == '\0' && uid < UINT32_MAX) {
                *ret = (uid_t) uid;
                return 0;
        }
        const struct passwd *pw = getpwnam(account);
        if (!pw)
                return -ESRCH;
        *ret = pw->pw_uid;
        return 0;
}

/* The last User= wins, as in units. The rest of the file is the writer's own. */
static int owner_from_text(char *text, uid_t *ret) {
        int r = -ENOENT;
        char *rest = text;
        for (char *line; (line = strsep(&rest, "\n"));) {
                line += strspn(line, " \t");
                if (strncmp(line, "User", 4) != 0)
                        continue;
                line += 4 + strspn(line + 4, " \t");
                if (*line++ != '=')
                        continue;
                line += strspn(line, " \t");
                for (char *end = line + strlen(line); end > line && isspace((unsigned char) end[-1]); *--end = '\0')
                        ;
                r = account_uid(line, ret);
        }
        return r;
}

static int owners_add(Owners *o, const char *name, uid_t uid) {
        if (o->n == LIMIT_OWNERS)
                return -E2BIG;
        struct Owner *items = reallocarray(o->items, o->n + 1, sizeof(*items));
        if (!items)
                return -ENOMEM;
        o->items = items;
        items[o->n].name = strdup(name);
        items[o->n].uid = uid;
        if (!items[o->n].name)
                return -ENOMEM;
        o->n++;
        return 0;
}

static int owners_read_file(Owners *o, int dir, const char *file) {
        _cleanup_free_ char *text = NULL, *name = NULL;
        const char *suffix = strrchr(file, '.');
        size_t size;
        uid_t uid;
        if (!suffix || !streq(suffix, ".conf") || !(name = strndup(file, (size_t) (suffix - file))) ||
            !writer_name_is_valid(name))
                return 0;
        int r = trusted_file_read(dir, file, LIMIT_OWNER_FILE_BYTES, &text, &size);
        if (r >= 0)
                r = owner_from_text(text, &uid);
        if (r < 0)
                return r == -ENOMEM ? r : 0; /* a file that does not count gives the name to nobody but root */
        return owners_add(o, name, uid);
}

int owners_load(Owners *o, const char *configuration_directory) {
        _cleanup_free_ char *path = NULL;
        _cleanup_(closedirp) DIR *d = NULL;
        Owners found = {};
        int fd = -EBADF, r = 0;
        if (asprintf(&path, "%s/writers.d", configuration_directory) < 0)
                return -ENOMEM;
        r = trusted_directory_open(path, &fd);
        if (r == -ENOENT || r == -EPERM || r == -ENOTDIR) {
                owners_done(o);
                return 0;
        }
        if (r >= 0 && !(d = fdopendir(fd))) {
                r = -errno;
                (void) close_fd(fd);
        }
        for (struct dirent *e; r >= 0 && (e = readdir(d));)
                r = owners_read_file(&found, dirfd(d), e->d_name);
        if (r < 0) {
                owners_done(&found);
                return r;
        }
        owners_done(o);
        *o = found;
        return 0;
}

void owners_done(Owners *o) {
        for (size_t i = 0; i < o->n; i++)
                free(o->items[i].name);
        free(o->items);
        *o = (Owners) {};
}

int owners_find(const Owners *o, const char *name, uid_t *ret) {
        for (size_t i = 0; i < o->n; i++)
                if (streq(o->items[i].name, name)) {
                        *ret = o->items[i].uid;
                        return 0;
                }
        return -ENOENT;
}
