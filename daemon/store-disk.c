/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The files of the catalogue. After a power cut a record must be the old one or the new one, so: a new file beside it,
 * written, fsync'ed, renamed over it, directory fsync'ed, and only then the answer. The order is the whole idea;
 * tests/crash-catalogue.c cuts it off after every call and loses or tears what was not yet synced. The checksum is for
 * what no order prevents: bits that rot and disks that lie.
 *
 * All names are looked up beneath one descriptor of the state directory without following links, and that directory
 * must be ours: otherwise somebody who may write to it could point root at other files.
 */
#include "daemon/store.h"
#include "protocol/sha256.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static const char trailer_word[] = "sha256:";

static int open_beneath(int dir_fd, const char *name, int flags, mode_t mode) {
        struct open_how how = { .flags = (uint64_t) (unsigned) (flags | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK),
                                .mode = mode,
                                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
        int fd = (int) syscall(SYS_openat2, dir_fd, name, &how, sizeof(how));

        return fd < 0 ? -errno : fd;
}

/* Opens a directory of ours, made when missing; the new entry is durable. */
static int open_own_directory(int parent_fd, const char *name, int *ret) {
        _cleanup_close_ int fd = -EBADF;
        bool made = mkdirat(parent_fd, name, 0700) == 0;

        if (!made && errno != EEXIST)
                return -errno;
        fd = open_beneath(parent_fd, name, O_RDONLY | O_DIRECTORY, 0);
        if (fd < 0)
                return fd;
        if (!made && fchmod(fd, 0700) < 0)
                return -errno;
        if (made && fsync(parent_fd) < 0)
                return -errno;
        *ret = TAKE_FD(fd);
        return 0;
}

static int sync_parent(int fd) {
        _cleanup_close_ int parent = openat(fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        return parent < 0 || fsync(parent) < 0 ? -errno : 0;
}

static int open_state_directory(const char *directory, int *ret) {
        bool made = mkdir(directory, 0700) == 0;
        _cleanup_close_ int fd = -EBADF;
        struct stat st;
        int r;

        if (!made && errno != EEXIST)
                return -errno;
        fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        if (fstat(fd, &st) < 0)
                return -errno;
        if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & 022) != 0)
                return -EPERM;
        if (made && (r = sync_parent(fd)) < 0)
                return r;
        *ret = TAKE_FD(fd);
        return 0;
}

static pid_t lock_owner(int fd) {
        char text[32] = {};

        return pread(fd, text, sizeof(text) - 1, 0) > 0 ? (pid_t) strtol(text, NULL, 10) : 0;
}

static int take_lock(StoreDisk *d, uint64_t patience_usec, pid_t *ret_owner) {
        uint64_t until_usec = usec_add(now_usec(), patience_usec);
        char text[32];
        int n;

        d->lock_fd = open_beneath(d->state_fd, "lock", O_RDWR | O_CREAT, 0600);
        if (d->lock_fd < 0)
                return d->lock_fd;
        while (flock(d->lock_fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK)
                        return -errno;
                if (now_usec() >= until_usec) {
                        *ret_owner = lock_owner(d->lock_fd);
                        return -EBUSY;
                }
                (void) usleep(20 * USEC_PER_MSEC);
        }
        /* Only a help for people; a lock without a readable pid is still a lock. */
        n = snprintf(text, sizeof(text), "%d\n", (int) getppid());
        (void) !ftruncate(d->lock_fd, 0);
        (void) !pwrite(d->lock_fd, text, (size_t) n, 0);
        return 0;
}

static int by_name(const void *a, const void *b) {
        return strcmp(*(char *const *) a, *(char *const *) b);
}

static void names_free(char **names) {
        for (char **p = names; p && *p; p++)
                free(*p);
        free(names);
}
DEFINE_CLEANUP(char **, names_free);

int store_disk_list(StoreDisk *d, char ***ret_names, size_t *ret_n) {
        _cleanup_(names_freep) char **names = NULL;
        size_t n = 0, space = 0;
        struct dirent *entry;
        int fd, r = 0;
        DIR *dir;

        fd = open_beneath(d->sets_fd, ".", O_RDONLY | O_DIRECTORY, 0);
        if (fd < 0)
                return fd;
        dir = fdopendir(fd);
        if (!dir) {
                (void) close_fd(fd);
                return -ENOMEM;
        }
        while (errno = 0, (entry = readdir(dir))) {
                if (streq(entry->d_name, ".") || streq(entry->d_name, ".."))
                        continue;
                if (n + 1 >= space) {
                        char **more = reallocarray(names, space * 2 + 64, sizeof(*names));
                        r = more ? 0 : -ENOMEM;
                        if (r < 0)
                                break;
                        names = more;
                        space = space * 2 + 64;
                }
                names[n] = strdup(entry->d_name);
                if (!names[n]) {
                        r = -ENOMEM;
                        break;
                }
                names[++n] = NULL;
        }
        if (r == 0)
                r = -errno;
        (void) closedir(dir);
        if (r < 0)
                return r;
        if (!names && !(names = calloc(1, sizeof(*names))))
                return -ENOMEM;
        qsort(names, n, sizeof(*names), by_name);
        *ret_names = TAKE_PTR(names);
        *ret_n = n;
        return 0;
}

/* What was being written when the power went has no other name than its own: it can go. */
static int remove_strays(StoreDisk *d) {
        _cleanup_(names_freep) char **names = NULL;
        size_t n;
        int r = store_disk_list(d, &names, &n);

        if (r < 0)
                return r;
        for (size_t i = 0; i < n; i++) {
                if (names[i][0] != '.')
                        d->n_records++;
                else if (unlinkat(d->sets_fd, names[i], 0) < 0 && errno != ENOENT && errno != EISDIR)
                        return -errno;
        }
        return 0;
}

int store_disk_open(const char *directory, uint64_t patience_usec, StoreDisk *ret, pid_t *ret_owner) {
        StoreDisk d = STORE_DISK_NULL;
        int r;

        r = open_state_directory(directory, &d.state_fd);
        if (r >= 0)
                r = take_lock(&d, patience_usec, ret_owner);
        if (r >= 0)
                r = open_own_directory(d.state_fd, "sets", &d.sets_fd);
        if (r >= 0)
                r = open_own_directory(d.state_fd, "damaged", &d.damaged_fd);
        if (r >= 0)
                r = remove_strays(&d);
        if (r < 0) {
                store_disk_close(&d);
                return r;
        }
        *ret = d;
        return 0;
}

void store_disk_close(StoreDisk *d) {
        d->sets_fd = close_fd(d->sets_fd);
        d->damaged_fd = close_fd(d->damaged_fd);
        d->lock_fd = close_fd(d->lock_fd);
        d->state_fd = close_fd(d->state_fd);
}

static int write_all(int fd, const void *data, size_t size) {
        const char *p = data;

        while (size > 0) {
                ssize_t n = write(fd, p, size);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                p += n;
                size -= (size_t) n;
        }
        return 0;
}

/* Copies exactly size bytes from offset 0 and hashes them. A NUL byte is no text: -EBADMSG. */
static int copy_text(int from, int to, uint64_t size, Sha256 *hash) {
        char buffer[65536];

        for (uint64_t done = 0; done < size;) {
                ssize_t n = pread(from, buffer, MIN_OF(sizeof(buffer), size - done), (off_t) done);
                int r;

                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EBADMSG;
                if (memchr(buffer, '\0', (size_t) n))
                        return -EBADMSG;
                sha256_update(hash, buffer, (size_t) n);
                r = write_all(to, buffer, (size_t) n);
                if (r < 0)
                        return r;
                done += (uint64_t) n;
        }
        return 0;
}

static int write_record(int fd, int text_fd, uint64_t size) {
        char trailer[STORE_TRAILER_BYTES + 1] = "\n";
        Sha256 hash = SHA256_INIT;
        int r = copy_text(text_fd, fd, size, &hash);

        if (r < 0)
                return r;
        sha256_update(&hash, trailer, 1);
        memcpy(trailer + 1, trailer_word, sizeof(trailer_word) - 1);
        sha256_finish(&hash, trailer + sizeof(trailer_word));
        trailer[STORE_TRAILER_BYTES - 1] = '\n';
        r = write_all(fd, trailer, STORE_TRAILER_BYTES);
        if (r < 0)
                return r;
        return fsync(fd) < 0 ? -errno : 0;
}

int store_disk_put(StoreDisk *d, const char *id, int text_fd, uint64_t size) {
        char temporary[VSS_ID_LENGTH + 8];
        _cleanup_close_ int fd = -EBADF;
        bool is_new;
        int r;

        assert(id_is_valid(id));
        if (size > LIMIT_MANIFEST_BYTES)
                return -EFBIG;
        is_new = faccessat(d->sets_fd, id, F_OK, AT_SYMLINK_NOFOLLOW) < 0;
        if (is_new && d->n_records >= STORE_RECORDS_MAX)
                return -EDQUOT;
        (void) snprintf(temporary, sizeof(temporary), ".%s.tmp", id);
        if (unlinkat(d->sets_fd, temporary, 0) < 0 && errno != ENOENT)
                return -errno;
        fd = open_beneath(d->sets_fd, temporary, O_WRONLY | O_CREAT | O_EXCL, 0600);
        if (fd < 0)
                return fd;
        r = write_record(fd, text_fd, size);
        if (r >= 0 && renameat(d->sets_fd, temporary, d->sets_fd, id) < 0)
                r = -errno;
        if (r < 0) {
                (void) unlinkat(d->sets_fd, temporary, 0);
                return r;
        }
        if (is_new)
                d->n_records++;
        return fsync(d->sets_fd) < 0 ? -errno : 0;
}

int store_disk_remove(StoreDisk *d, const char *id) {
        assert(id_is_valid(id));
        if (unlinkat(d->sets_fd, id, 0) == 0) {
                if (d->n_records > 0)
                        d->n_records--;
        } else if (errno != ENOENT)
                return -errno;
        /* Also when it was not there: an earlier removal may have ended between the two calls. */
        return fsync(d->sets_fd) < 0 ? -errno : 0;
}

/* Kept for people; a second one of the same name gets a number. */
static int move_to_damaged(StoreDisk *d, const char *name) {
        char target[256 + 8];

        for (unsigned i = 0; i < 1000; i++) {
                (void) snprintf(target, sizeof(target), i == 0 ? "%.240s" : "%.240s.%u", name, i);
                if (renameat2(d->sets_fd, name, d->damaged_fd, target, RENAME_NOREPLACE) == 0) {
                        if (d->n_records > 0)
                                d->n_records--;
                        return fsync(d->damaged_fd) < 0 || fsync(d->sets_fd) < 0 ? -errno : 0;
                }
                if (errno != EEXIST)
                        return -errno;
        }
        return -EEXIST;
}

/* -EBADMSG: this is no record; anything else: could not look. */
static int read_record(int fd, int memfd, uint64_t *ret_size) {
        char trailer[STORE_TRAILER_BYTES + 1] = {}, hex[SHA256_HEX + 1];
        Sha256 hash = SHA256_INIT;
        uint64_t size;
        struct stat st;
        int r;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_size < STORE_TRAILER_BYTES ||
            st.st_size > (off_t) LIMIT_MANIFEST_BYTES + STORE_TRAILER_BYTES)
                return -EBADMSG;
        size = (uint64_t) st.st_size - STORE_TRAILER_BYTES;
        r = copy_text(fd, memfd, size, &hash);
        if (r < 0)
                return r;
        if (pread(fd, trailer, STORE_TRAILER_BYTES, (off_t) size) != STORE_TRAILER_BYTES)
                return -EIO;
        sha256_update(&hash, trailer, 1);
        sha256_finish(&hash, hex);
        if (trailer[0] != '\n' || strncmp(trailer + 1, trailer_word, sizeof(trailer_word) - 1) != 0 ||
            strncmp(trailer + sizeof(trailer_word), hex, SHA256_HEX) != 0 || trailer[STORE_TRAILER_BYTES - 1] != '\n')
                return -EBADMSG;
        *ret_size = size;
        return 0;
}

int store_disk_get(StoreDisk *d, const char *name, int *ret_fd, uint64_t *ret_size) {
        _cleanup_close_ int fd = -EBADF, memfd = -EBADF;
        uint64_t size = 0;
        int r = -EBADMSG;

        if (id_is_valid(name)) {
                fd = open_beneath(d->sets_fd, name, O_RDONLY, 0);
                if (fd < 0)
                        r = fd == -ELOOP ? -EBADMSG : fd;
                else {
                        memfd = memfd_create("vss-record", MFD_CLOEXEC);
                        r = memfd < 0 ? -errno : read_record(fd, memfd, &size);
                }
        }
        if (r == -EBADMSG) {
                int moved = move_to_damaged(d, name);
                return moved < 0 ? moved : -EBADMSG;
        }
        if (r < 0)
                return r;
        *ret_fd = TAKE_FD(memfd);
        *ret_size = size;
        return 0;
}
