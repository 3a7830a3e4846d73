/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Two trees side by side, no link followed in either; everything goes by descriptors of their roots. */
#include "client/restore-file.h"
#include "client/test-backup.h"
#include <dirent.h>
#include <fcntl.h>

typedef struct Walk {
        int saved, back; /* roots */
        Comparison *result;
        char *message;
        size_t size;
} Walk;

static int cannot_read(Walk *w, const char *path, int error) {
        _cleanup_free_ char *shown = text_visible(path);
        (void) snprintf(w->message, w->size, "cannot read /%.400s: %s", shown ? shown : "", strerror(-error));
        return error;
}

static void differs(Walk *w, const char *path, const char *what) {
        _cleanup_free_ char *absolute = NULL, *shown = NULL;
        if (w->result->n_differences++ >= DIFFERENCES_SHOWN)
                return;
        json_object *row = json_object_new_object();
        if (asprintf(&absolute, "/%s", path) >= 0)
                (void) path_to_bus(absolute, &shown);
        json_add_string(row, "path", shown);
        json_add_string(row, "what", what);
        json_object_array_add(w->result->differences, row);
}

/* All of it or up to the end. */
static ssize_t read_full(int fd, char *buffer, size_t size) {
        size_t done = 0;
        while (done < size) {
                ssize_t n = read(fd, buffer + done, size - done);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                done += (size_t) n;
        }
        return (ssize_t) done;
}

static int compare_content(Walk *w, const char *path) {
        static char left[65536], right[65536];
        _cleanup_close_ int a = open_beneath(w->saved, path, O_RDONLY | O_NONBLOCK);
        _cleanup_close_ int b = open_beneath(w->back, path, O_RDONLY | O_NONBLOCK);
        if (a < 0 || b < 0)
                return cannot_read(w, path, a < 0 ? a : b);
        for (;;) {
                ssize_t n = read_full(a, left, sizeof(left)), k = read_full(b, right, sizeof(right));
                if (n < 0 || k < 0)
                        return cannot_read(w, path, (int) (n < 0 ? n : k));
                w->result->n_bytes += (uint64_t) n;
                if (n != k || memcmp(left, right, (size_t) n) != 0) {
                        differs(w, path, "content");
                        return 0;
                }
                if (n == 0)
                        return 0;
                if (interrupted)
                        return -ECANCELED;
        }
}

static int compare_link(Walk *w, const char *path, int a, int b) {
        char left[4096], right[4096];
        ssize_t n = readlinkat(a, "", left, sizeof(left)), k = readlinkat(b, "", right, sizeof(right));
        if (n < 0 || k < 0)
                return cannot_read(w, path, -errno);
        if (n != k || memcmp(left, right, (size_t) n) != 0)
                differs(w, path, "target");
        return 0;
}

/* What stat() tells; false: not the same kind, so that nothing more can be compared. */
static bool compare_status(Walk *w, const char *path, const struct stat *a, const struct stat *b) {
        if ((a->st_mode & S_IFMT) != (b->st_mode & S_IFMT)) {
                differs(w, path, "kind");
                return false;
        }
        if (a->st_mode != b->st_mode)
                differs(w, path, "mode");
        if (a->st_uid != b->st_uid || a->st_gid != b->st_gid)
                differs(w, path, "owner");
        if (S_ISREG(a->st_mode) && (a->st_mtim.tv_sec != b->st_mtim.tv_sec || a->st_mtim.tv_nsec != b->st_mtim.tv_nsec))
                differs(w, path, "time");
        if ((S_ISBLK(a->st_mode) || S_ISCHR(a->st_mode)) && a->st_rdev != b->st_rdev)
                differs(w, path, "device");
        return true;
}

static int compare_directory(Walk *w, const char *path, unsigned depth);

static int compare_entry(Walk *w, const char *path, unsigned depth) {
        struct stat a, b;
        _cleanup_close_ int left = open_beneath(w->saved, path, O_PATH | O_NOFOLLOW);
        _cleanup_close_ int right = open_beneath(w->back, path, O_PATH | O_NOFOLLOW);
        if (interrupted)
                return -ECANCELED;
        if (left == -ENOENT || right == -ENOENT) {
                differs(w, path, left == -ENOENT ? "was not saved" : "missing");
                return 0;
        }
        if (left < 0 || right < 0 || fstat(left, &a) < 0 || fstat(right, &b) < 0)
                return cannot_read(w, path, left < 0 ? left : right < 0 ? right : -errno);
        w->result->n_files += !S_ISDIR(a.st_mode);
        if (!compare_status(w, path, &a, &b))
                return 0;
        if (S_ISLNK(a.st_mode))
                return compare_link(w, path, left, right);
        if (S_ISREG(a.st_mode))
                return compare_content(w, path);
        if (!S_ISDIR(a.st_mode))
                return 0;
        left = close_fd(left);
        right = close_fd(right);
        return compare_directory(w, path, depth + 1);
}

static int is_name(const struct dirent *e) {
        return !streq(e->d_name, ".") && !streq(e->d_name, "..");
}

static int list(Walk *w, int root, const char *path, struct dirent ***ret) {
        _cleanup_close_ int fd = open_beneath(root, path, O_RDONLY | O_DIRECTORY);
        int n = fd < 0 ? fd : scandirat(fd, ".", ret, is_name, alphasort);
        return n < 0 ? cannot_read(w, path, fd < 0 ? fd : -errno) : n;
}

/* only_extra: of these only what the other tree has nothing of; the rest was looked at from its side. */
static int compare_names(Walk *w, const char *path, unsigned depth, int root, int other) {
        struct dirent **names = NULL;
        int n = list(w, root, path, &names), r = n < 0 ? n : 0;
        for (int i = 0; i < n; i++) {
                _cleanup_free_ char *child = NULL;
                if (r >= 0 && asprintf(&child, "%s%s%s", path, path[0] ? "/" : "", names[i]->d_name) < 0)
                        r = cannot_read(w, path, -ENOMEM);
                _cleanup_close_ int there = r >= 0 && other >= 0 ? open_beneath(other, child, O_PATH | O_NOFOLLOW) :
                                                                   -ENOENT;
                if (r >= 0 && there < 0)
                        r = compare_entry(w, child, depth);
                free(names[i]);
        }
        free(names);
        return r;
}

static int compare_directory(Walk *w, const char *path, unsigned depth) {
        if (depth > COMPARE_DEPTH_MAX)
                return cannot_read(w, path, -ENAMETOOLONG);
        int r = compare_names(w, path, depth, w->saved, -EBADF);
        return r < 0 ? r : compare_names(w, path, depth, w->back, w->saved);
}

int compare_trees(int saved, int back, Comparison *ret, char *message, size_t size) {
        Walk w = { saved, back, ret, message, size };
        *ret = (Comparison) { .differences = json_object_new_array() };
        message[0] = '\0';
        return compare_directory(&w, "", 0);
}
