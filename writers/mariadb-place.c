/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * /tmp is anybody's. What is cleaned there is a directory with our prefix, of an owner that we know, on /tmp itself and
 * not what somebody mounted there, reached by no link; in it are removed names of ours, and it only if nothing is left.
 */
#include "writers/mariadb-place.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define TOP "/tmp"
#define PREFIX "vss-mariadb-"
enum { SECRET_BYTES = 16, TRIES = 3 };

static const char *const names[] = { "init", "client.cnf", "server.log", "reader.log", "client.log", "s", "pid" };
_Static_assert(ELEMENTSOF(names) >= PLACE_FILES, "each file has a name");
_Static_assert(sizeof(((Place *) NULL)->secret) > 2 * SECRET_BYTES + 5, "Vss-1 and the bytes");
_Static_assert(sizeof(TOP "/" PREFIX "XXXXXX") <= sizeof(((Place *) NULL)->path), "the path fits");

const char *place_file_name(unsigned file) {
        assert(file < PLACE_FILES);
        return names[file];
}

/* ---- to make one ---- */

static int secret_make(Place *p) {
        unsigned char bytes[SECRET_BYTES];
        if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
                return -errno;
        char *at = p->secret + sprintf(p->secret, "Vss-1"); /* as plugins that check passwords want them */
        for (size_t i = 0; i < sizeof(bytes); i++)
                at += sprintf(at, "%02x", bytes[i]);
        return 0;
}

/* A unit lets nobody change owners, and who is the account already need not. */
static int give(int fd, const ProgramAccount *account) {
        return account->uid == geteuid() || fchown(fd, account->uid, account->gid) == 0 ? 0 : -errno;
}

/* Made before the directory is anybody else's. */
static int files_make(Place *p, const ProgramAccount *account) {
        for (int i = 0; i < PLACE_FILES; i++) {
                p->files[i] = openat(p->dfd, names[i], O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                                     0600);
                int r = p->files[i] < 0 ? -errno : give(p->files[i], account);
                if (r < 0)
                        return r;
        }
        if (dprintf(p->files[PLACE_INIT],
                    "SET SESSION sql_log_bin = 0;\n"
                    "CREATE OR REPLACE USER '" PLACE_ACCOUNT "'@'localhost' IDENTIFIED BY '%s';\n"
                    "GRANT ALL PRIVILEGES ON *.* TO '" PLACE_ACCOUNT "'@'localhost' WITH GRANT OPTION;\n",
                    p->secret) < 0 ||
            dprintf(p->files[PLACE_CLIENT], "[client]\nuser=" PLACE_ACCOUNT "\npassword=%s\nsocket=%s/s\n", p->secret,
                    p->path) < 0)
                return -EIO;
        return give(p->dfd, account);
}

/* -EAGAIN: a writer that began just then took it for one that is left, and it is gone. */
static int make(Place *p, const ProgramAccount *account) {
        struct stat st;
        (void) snprintf(p->path, sizeof(p->path), "%s", TOP "/" PREFIX "XXXXXX");
        if (!mkdtemp(p->path)) {
                p->path[0] = '\0';
                return -errno;
        }
        p->dfd = open(p->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (p->dfd < 0)
                return errno == ENOENT ? -EAGAIN : -errno;
        if (flock(p->dfd, LOCK_EX | LOCK_NB) < 0)
                return errno == EWOULDBLOCK ? -EAGAIN : -errno;
        if (fstat(p->dfd, &st) < 0 || st.st_nlink == 0)
                return -EAGAIN;
        int r = secret_make(p);
        return r < 0 ? r : files_make(p, account);
}

int place_make(Place *p, const ProgramAccount *account, Failure *reterr) {
        int r = -EAGAIN;
        for (int i = 0; r == -EAGAIN && i < TRIES; i++) {
                place_remove(p);
                r = make(p, account);
        }
        return r < 0 ? failure_set(reterr, CONDITION_FAILED, "%s: %s", p->path[0] ? p->path : TOP "/" PREFIX "XXXXXX",
                                   strerror(-r)) :
                       0;
}

/* ---- to remove it ---- */

static int empty_and_remove(int dfd, const char *path) {
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                (void) unlinkat(dfd, names[i], 0);
        return rmdir(path) < 0 ? -errno : 0;
}

void place_remove(Place *p) {
        if (p->dfd >= 0)
                (void) empty_and_remove(p->dfd, p->path);
        for (int i = 0; i < PLACE_FILES; i++)
                (void) close_fd(p->files[i]);
        (void) close_fd(p->dfd);
        *p = PLACE_NONE;
}

static bool is_left(int dfd, uid_t owner) {
        struct stat st;
        return fstat(dfd, &st) == 0 && (st.st_uid == geteuid() || st.st_uid == owner) &&
               flock(dfd, LOCK_EX | LOCK_NB) == 0;
}

void place_clean(uid_t owner) {
        static const struct open_how how = { .flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                                             .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV };
        char path[sizeof(((Place *) NULL)->path)];
        DIR *dir = opendir(TOP);
        for (struct dirent *e; dir && (e = readdir(dir));) {
                if (strncmp(e->d_name, PREFIX, strlen(PREFIX)) != 0 ||
                    snprintf(path, sizeof(path), "%s/%s", TOP, e->d_name) >= (int) sizeof(path))
                        continue;
                _cleanup_close_ int dfd = (int) syscall(SYS_openat2, dirfd(dir), e->d_name, &how, sizeof(how));
                if (dfd >= 0 && is_left(dfd, owner))
                        (void) empty_and_remove(dfd, path);
        }
        if (dir)
                (void) closedir(dir);
}
