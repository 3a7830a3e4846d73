/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Content first by sharing blocks (FICLONE), else range by range of what is not a hole, with copy_file_range() so that
 * the kernel may do it without us, else by hand. Attributes come after the content, because writing clears some of
 * them; the mode after the owner, because chown() clears set-id bits.
 */
#include "client/restore-file.h"
#include "client/verbs.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

enum {
        COPY_BYTES = 1 << 20,
        COPY_STEP_BYTES = 64 << 20, /* between two looks for a signal */
        XATTR_LIST_BYTES = 65536,
        XATTR_BYTES = 65536,
};

static int open_how(int dfd, const char *path, int flags, uint64_t resolve) {
        struct open_how how = { .flags = (uint64_t) (flags | O_CLOEXEC), .resolve = resolve };
        long fd;
        do
                fd = syscall(SYS_openat2, dfd, path, &how, sizeof(how));
        while (fd < 0 && (errno == EINTR || errno == EAGAIN));
        return fd < 0 ? -errno : (int) fd;
}

int open_beneath(int dfd, const char *path, int flags) {
        return open_how(dfd, path[0] ? path : ".", flags,
                        RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

int open_absolute(const char *path, int flags) {
        return open_how(AT_FDCWD, path, flags, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
}

static int temporary_open(int dfd, const char *name, StagedFile *ret) {
        _cleanup_free_ char *temporary = temporary_name("new", name);
        if (!temporary)
                return -ENOMEM;
        int fd = openat(dfd, temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return -errno;
        *ret = (StagedFile) { .name = TAKE_PTR(temporary) };
        return fd;
}

/* ---- content ---- */

static int copy_by_hand(int from, int to, off_t offset, off_t to_offset, off_t length) {
        _cleanup_free_ char *buffer = malloc(COPY_BYTES);
        if (!buffer)
                return -ENOMEM;
        while (length > 0) {
                if (interrupted)
                        return -ECANCELED;
                ssize_t n = pread(from, buffer, (size_t) MIN_OF(length, (off_t) COPY_BYTES), offset);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -ENODATA; /* shorter than it said */
                for (ssize_t done = 0; done < n;) {
                        ssize_t k = pwrite(to, buffer + done, (size_t) (n - done), to_offset + done);
                        if (k < 0 && errno != EINTR)
                                return -errno;
                        done += k > 0 ? k : 0;
                }
                offset += n;
                to_offset += n;
                length -= n;
        }
        return 0;
}

static int copy_range(int from, int to, off_t offset, off_t to_offset, off_t length) {
        while (length > 0) {
                off_t in = offset, out = to_offset;
                if (interrupted)
                        return -ECANCELED;
                ssize_t n = copy_file_range(from, &in, to, &out, (size_t) MIN_OF(length, (off_t) COPY_STEP_BYTES), 0);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0) /* not between these two, or the end: the plain way tells which */
                        return copy_by_hand(from, to, offset, to_offset, length);
                offset += n;
                to_offset += n;
                length -= n;
        }
        return 0;
}

static int copy_content(int from, int to, off_t size) {
        off_t data = 0, hole;
        if (ioctl(to, FICLONE, from) == 0)
                return 0;
        if (ftruncate(to, size) < 0)
                return -errno;
        while (data < size) {
                data = lseek(from, data, SEEK_DATA);
                if (data < 0)
                        return errno == ENXIO ? 0 : copy_range(from, to, 0, 0, size);
                hole = lseek(from, data, SEEK_HOLE);
                if (hole < 0)
                        return -errno;
                hole = MIN_OF(hole, size);
                int r = data < hole ? copy_range(from, to, data, data, hole - data) : 0;
                if (r < 0)
                        return r;
                data = hole;
        }
        return 0;
}

/* ---- what belongs to it ---- */

static int copy_attribute(int from, int to, const char *name, char *value) {
        ssize_t n = fgetxattr(from, name, value, XATTR_BYTES);
        if (n < 0)
                return errno == ENODATA ? 0 : -errno;
        if (fsetxattr(to, name, value, (size_t) n, 0) == 0)
                return 0;
        /* Labels are the policy's, and a file system without attributes of a kind cannot take them. */
        if (errno == EOPNOTSUPP || strncmp(name, "security.selinux", 16) == 0)
                return 0;
        return geteuid() != 0 && errno == EPERM ? 0 : -errno; /* trusted. and security. are root's */
}

static int copy_attributes(int from, int to) {
        _cleanup_free_ char *list = malloc(XATTR_LIST_BYTES), *value = malloc(XATTR_BYTES);
        if (!list || !value)
                return -ENOMEM;
        ssize_t n = flistxattr(from, list, XATTR_LIST_BYTES);
        if (n < 0)
                return errno == EOPNOTSUPP ? 0 : -errno;
        for (char *name = list; name < list + n; name += strlen(name) + 1) {
                int r = copy_attribute(from, to, name, value);
                if (r < 0)
                        return r;
        }
        return 0;
}

int file_drop_acls(int from, int to) {
        static const char *const names[] = { "system.posix_acl_access", "system.posix_acl_default" };
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                if (fgetxattr(from, names[i], NULL, 0) >= 0)
                        continue;
                if (fremovexattr(to, names[i]) < 0 && errno != ENODATA && errno != EOPNOTSUPP && errno != EACCES)
                        return -errno;
        }
        return 0;
}

int file_copy_metadata(int from, int to) {
        struct stat s, t;
        if (fstat(from, &s) < 0 || fstat(to, &t) < 0)
                return -errno;
        mode_t mode = s.st_mode & 07777;
        if ((s.st_uid != t.st_uid || s.st_gid != t.st_gid) && fchown(to, s.st_uid, s.st_gid) < 0) {
                if (errno != EPERM || geteuid() == 0)
                        return -errno;
                mode &= (mode_t) ~06000; /* an ordinary account cannot give files away */
        }
        int r = copy_attributes(from, to);
        if (r < 0)
                return r;
        struct timespec times[2] = { s.st_atim, s.st_mtim };
        return fchmod(to, mode) < 0 || futimens(to, times) < 0 ? -errno : 0;
}

/* ---- one entry ---- */

static int stage_regular(int from, const char *name, int to, StagedFile *ret) {
        _cleanup_close_ int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        struct stat s;
        if (in < 0 || fstat(in, &s) < 0)
                return -errno;
        if (!S_ISREG(s.st_mode))
                return -EOPNOTSUPP;
        _cleanup_close_ int out = temporary_open(to, name, ret);
        if (out < 0)
                return out;
        int r = copy_content(in, out, s.st_size);
        r = r < 0 ? r : file_drop_acls(in, out);
        r = r < 0 ? r : file_copy_metadata(in, out);
        if (r >= 0 && fsync(out) < 0)
                r = -errno;
        if (r < 0)
                file_unstage(to, ret);
        return r;
}

static int make_link(int from, const char *name, int to, const char *temporary) {
        char target[PATH_MAX];
        ssize_t n = readlinkat(from, name, target, sizeof(target) - 1);
        if (n < 0)
                return -errno;
        target[n] = '\0';
        return symlinkat(target, to, temporary) < 0 ? -errno : 0;
}

/* By descriptor: whoever may write to the directory could put something else under the name that we made. */
static int dress(int fd, const struct stat *s) {
        char path[64];
        struct stat own;
        if (fstat(fd, &own) < 0)
                return -errno;
        if ((own.st_mode & S_IFMT) != (s->st_mode & S_IFMT) || own.st_nlink != 1 || own.st_uid != geteuid() ||
            (!S_ISLNK(s->st_mode) && own.st_rdev != s->st_rdev))
                return -ESTALE;
        if (fchownat(fd, "", s->st_uid, s->st_gid, AT_EMPTY_PATH) < 0 && (errno != EPERM || geteuid() == 0))
                return -errno;
        (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (!S_ISLNK(s->st_mode) && chmod(path, s->st_mode & 07777) < 0)
                return -errno;
        struct timespec times[2] = { s->st_atim, s->st_mtim };
        return utimensat(fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int file_stage(int from, const char *name, int to, StagedFile *ret) {
        struct stat s;
        if (fstatat(from, name, &s, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        if (S_ISREG(s.st_mode))
                return stage_regular(from, name, to, ret);
        if (!S_ISLNK(s.st_mode) && !S_ISFIFO(s.st_mode) && !S_ISBLK(s.st_mode) && !S_ISCHR(s.st_mode))
                return -EOPNOTSUPP;
        StagedFile staged = { .name = temporary_name("new", name) };
        if (!staged.name)
                return -ENOMEM;
        int r = S_ISLNK(s.st_mode) ? make_link(from, name, to, staged.name) :
                mknodat(to, staged.name, (s.st_mode & S_IFMT) | 0600, S_ISFIFO(s.st_mode) ? 0 : s.st_rdev) < 0 ?
                                     -errno :
                                     0;
        if (r < 0) {
                free(staged.name);
                return r;
        }
        _cleanup_close_ int fd = openat(to, staged.name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        r = fd < 0 ? -errno : dress(fd, &s);
        if (r < 0)
                file_unstage(to, &staged);
        *ret = staged;
        return r;
}

/* ---- ranges ---- */

static uint64_t ranges_bytes(const FileRange *ranges, size_t n) {
        uint64_t sum = 0;
        for (size_t i = 0; i < n; i++)
                if (ranges[i].offset > INT64_MAX || ranges[i].length > INT64_MAX - ranges[i].offset ||
                    __builtin_add_overflow(sum, ranges[i].length, &sum))
                        return UINT64_MAX;
        return sum;
}

/* Both lists are read as one stream of bytes each. */
static int copy_ranges(int in, const FileRange *from, size_t n_from, int out, const FileRange *to, size_t n_to) {
        size_t i = 0, k = 0;
        uint64_t at = 0, to_at = 0;
        while (i < n_from && k < n_to) {
                uint64_t n = MIN_OF(from[i].length - at, to[k].length - to_at);
                int r = n == 0 ? 0 :
                                 copy_range(in, out, (off_t) (from[i].offset + at), (off_t) (to[k].offset + to_at),
                                            (off_t) n);
                if (r < 0)
                        return r;
                at += n;
                to_at += n;
                if (at == from[i].length) {
                        at = 0;
                        i++;
                }
                if (to_at == to[k].length) {
                        to_at = 0;
                        k++;
                }
        }
        return 0;
}

static int stage_onto(int in, const FileRange *from, size_t n_from, int old, int out, const FileRange *to,
                      size_t n_to) {
        struct stat s;
        if (fstat(in, &s) < 0)
                return -errno;
        FileRange all = { 0, (uint64_t) s.st_size };
        bool whole = n_from == 0 && n_to == 0; /* nothing of the old content stays, however long it was */
        if (n_from == 0) {
                from = &all;
                n_from = 1;
        }
        if (n_to == 0) {
                to = from;
                n_to = n_from;
        }
        uint64_t bytes = ranges_bytes(from, n_from);
        if (bytes == UINT64_MAX || bytes != ranges_bytes(to, n_to))
                return -EINVAL;
        int r = 0;
        if (old >= 0 && !whole) {
                if (fstat(old, &s) < 0)
                        return -errno;
                r = copy_content(old, out, s.st_size);
        }
        r = r < 0 ? r : copy_ranges(in, from, n_from, out, to, n_to);
        r = r < 0 ? r : file_drop_acls(old >= 0 ? old : in, out);
        return r < 0 ? r : file_copy_metadata(old >= 0 ? old : in, out);
}

int file_stage_ranges(int from_file, const FileRange *from, size_t n_from, int to, const char *name,
                      const FileRange *ranges, size_t n_ranges, StagedFile *ret) {
        _cleanup_close_ int old = openat(to, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (old < 0 && errno != ENOENT)
                return -errno;
        _cleanup_close_ int out = temporary_open(to, name, ret);
        if (out < 0)
                return out;
        int r = stage_onto(from_file, from, n_from, old, out, ranges, n_ranges);
        if (r >= 0 && fsync(out) < 0)
                r = -errno;
        if (r < 0)
                file_unstage(to, ret);
        return r;
}

/* ---- words of a writer ---- */

int file_stage_new(int to, const char *name, int like, StagedFile *ret) {
        struct stat s;
        if (fstat(like, &s) < 0)
                return -errno;
        _cleanup_close_ int fd = temporary_open(to, name, ret);
        if (fd < 0)
                return fd;
        if (fchown(fd, s.st_uid, s.st_gid) == 0 || (errno == EPERM && geteuid() != 0))
                return 0;
        int r = -errno;
        file_unstage(to, ret);
        return r;
}

int file_stage_text(int to, const StagedFile *s, const char *text) {
        struct stat st;
        _cleanup_close_ int fd = openat(to, s->name, O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -EINVAL;
        for (size_t done = 0, n = strlen(text); done < n;) {
                ssize_t k = write(fd, text + done, n - done);
                if (k < 0 && errno != EINTR)
                        return -errno;
                done += k > 0 ? (size_t) k : 0;
        }
        return fsync(fd) < 0 ? -errno : 0;
}

/* ---- may it be replaced? ---- */

int file_check_place(int dfd, const char *name) {
        const uint64_t fixed = STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND;
        struct statx s, d;
        if (statx(dfd, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_TYPE, &s) < 0 ||
            statx(dfd, "", AT_EMPTY_PATH, STATX_TYPE, &d) < 0)
                return -errno;
        if (S_ISDIR(s.stx_mode))
                return -EISDIR;
        if (s.stx_attributes & STATX_ATTR_MOUNT_ROOT)
                return -EBUSY;
        return (s.stx_attributes | d.stx_attributes) & fixed ? -EPERM : 0;
}

int file_check_replace(int dfd, const char *name) {
        struct stat s;
        int r = file_check_place(dfd, name);
        if (r < 0)
                return r;
        if (fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) < 0 || faccessat(dfd, ".", W_OK | X_OK, AT_EACCESS) < 0)
                return -errno;
        if (!S_ISREG(s.st_mode))
                return 0;
        _cleanup_close_ int fd = openat(dfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
                return errno == ETXTBSY ? -ETXTBSY : 0; /* not readable says nothing about replacing */
        /* A write lease is given only on a file that nobody else has open. The caller ignores SIGIO. */
        if (fcntl(fd, F_SETLEASE, F_WRLCK) == 0)
                (void) fcntl(fd, F_SETLEASE, F_UNLCK);
        else if (errno == EAGAIN)
                return -ETXTBSY;
        return 0;
}
