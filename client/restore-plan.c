/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "client/restore-plan.h"
#include "client/restore-file.h"
#include "protocol/text.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/file.h>

#define LOCK_USEC (10 * USEC_PER_SEC)
#define LOCK_STEP_USEC 20000
#define SUFFIX ".plan"
#define NEW_SUFFIX ".new"
#define NEW_TRIES 3

DEFINE_WORDS(plan_state, PlanState, _PLAN_STATE_MAX, "staging", "staged", "swapping", "done", "failed", "replacing",
             "replaced", "held");

void plan_done(Plan *p) {
        for (size_t i = 0; i < p->n_files; i++) {
                free(p->files[i].path);
                free(p->files[i].staged);
                free(p->files[i].aside);
        }
        for (size_t i = 0; i < p->n_directories; i++)
                free(p->directories[i].path);
        free(p->files);
        free(p->directories);
        strings_free(p->roots);
        free(p->boot);
        free(p->created);
        free(p->ended);
        free(p->set);
        free(p->writer);
        free(p->component);
        free(p->message);
        free(p->unit);
        *p = (Plan) {};
}

/* ---- reading ---- */

static bool is_root(const char *s) {
        return path_is_clean(s);
}

/* "a/b", or "" */
static bool is_below(const char *s) {
        _cleanup_free_ char *absolute = NULL;
        return !s[0] || (s[0] != '/' && asprintf(&absolute, "/%s", s) > 0 && path_is_clean(absolute));
}

static bool is_temporary(const char *s, const char *kind) {
        size_t n = strlen(RESTORE_TEMPORARY);
        _cleanup_free_ char *name = NULL;
        return strncmp(s, RESTORE_TEMPORARY, n) == 0 && strncmp(s + n, kind, strlen(kind)) == 0 && is_below(s) &&
               !strchr(s, '/') && path_unescape(s, &name) >= 0 && strlen(name) <= NAME_MAX;
}

static bool is_staged_name(const char *s) {
        return !s[0] || is_temporary(s, "boot-");
}

static bool is_old_name(const char *s) {
        return is_temporary(s, "old-");
}

static bool is_unit(const char *s) {
        return s[0] && !check_unit(s);
}

static int read_file(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                { "set", JSON_UINT, offsetof(PlanFile, set), .required = true },
                { "inode", JSON_UINT, offsetof(PlanFile, inode), .required = true },
                { "path", JSON_STRING, offsetof(PlanFile, path), .required = true, .check = is_below,
                  .expected = "a path below the root" },
                { "staged", JSON_STRING, offsetof(PlanFile, staged), .required = true, .check = is_staged_name,
                  .expected = "the name of a staged file" },
                { "aside", JSON_STRING, offsetof(PlanFile, aside), .required = true, .check = is_old_name,
                  .expected = "a name for the old file" },
                { "changed", JSON_UINT, offsetof(PlanFile, changed) },
                { "nested", JSON_BOOL, offsetof(PlanFile, nested) },
                { "replaces", JSON_BOOL, offsetof(PlanFile, replaces) },
                { "covered", JSON_BOOL, offsetof(PlanFile, covered) },
        };
        return json_read_object(r, fields, ELEMENTSOF(fields), false, element);
}

static int read_files(JsonReader *r, void *field) {
        Plan *p = field;
        return json_read_array(r, PLAN_FILES_MAX, sizeof(*p->files), read_file, (void **) &p->files, &p->n_files);
}

static int read_directory(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                { "set", JSON_UINT, offsetof(PlanDirectory, set), .required = true },
                { "inode", JSON_UINT, offsetof(PlanDirectory, inode), .required = true },
                { "mode", JSON_UINT, offsetof(PlanDirectory, mode), .required = true, .max = 07777 },
                { "uid", JSON_UINT, offsetof(PlanDirectory, uid), .required = true, .max = UINT32_MAX - 1 },
                { "gid", JSON_UINT, offsetof(PlanDirectory, gid), .required = true, .max = UINT32_MAX - 1 },
                { "path", JSON_STRING, offsetof(PlanDirectory, path), .required = true, .check = is_below,
                  .expected = "a path below the root" },
                { "made", JSON_BOOL, offsetof(PlanDirectory, made) },
                { "extra", JSON_BOOL, offsetof(PlanDirectory, extra) },
        };
        return json_read_object(r, fields, ELEMENTSOF(fields), false, element);
}

static int read_directories(JsonReader *r, void *field) {
        Plan *p = field;
        return json_read_array(r, PLAN_FILES_MAX, sizeof(*p->directories), read_directory, (void **) &p->directories,
                               &p->n_directories);
}

static int unescape(char **text) {
        char *bytes = NULL;
        int r = path_unescape(*text, &bytes);
        if (r < 0)
                return r;
        free(*text);
        *text = bytes;
        return 0;
}

/* What leads out of its list, or nowhere. */
static int resolve_all(Plan *p) {
        size_t n_roots = strings_count(p->roots);
        int r = 0;
        for (size_t i = 0; r >= 0 && i < n_roots; i++)
                r = unescape(p->roots + i);
        for (size_t i = 0; r >= 0 && i < p->n_files; i++) {
                PlanFile *f = p->files + i;
                r = f->set >= n_roots || !f->path[0] ? -EBADMSG : unescape(&f->path);
                r = r < 0 ? r : unescape(&f->staged);
                r = r < 0 ? r : unescape(&f->aside);
        }
        for (size_t i = 0; r >= 0 && i < p->n_directories; i++)
                r = p->directories[i].set >= n_roots ? -EBADMSG : unescape(&p->directories[i].path);
        return r;
}

int plan_parse(const char *text, size_t size, Failure *reterr, Plan *ret) {
        static const JsonField fields[] = {
                { "schema", JSON_FREE },
                { "kind", JSON_FREE },
                { "boot", JSON_STRING, offsetof(Plan, boot), .required = true },
                { "created", JSON_STRING, offsetof(Plan, created), .required = true },
                { "ended", JSON_STRING, offsetof(Plan, ended) },
                { "set", JSON_STRING, offsetof(Plan, set), .required = true },
                { "writer", JSON_STRING, offsetof(Plan, writer), .required = true },
                { "component", JSON_STRING, offsetof(Plan, component), .required = true },
                { "message", JSON_TEXT, offsetof(Plan, message) },
                { "unit", JSON_STRING, offsetof(Plan, unit), .check = is_unit, .expected = "the name of a unit" },
                { "state", JSON_WORD, offsetof(Plan, state), .required = true, .word = plan_state_from_string,
                  .expected = "a state" },
                { "uid", JSON_UINT, offsetof(Plan, uid), .required = true, .max = UINT32_MAX - 1 },
                { "n_files", JSON_UINT, offsetof(Plan, n_all), .required = true },
                { "roots", JSON_STRINGS, offsetof(Plan, roots), .required = true, .check = is_root,
                  .expected = "an absolute path" },
                { "files", JSON_CUSTOM, 0, .required = true, .read = read_files },
                { "directories", JSON_CUSTOM, 0, .required = true, .read = read_directories },
        };
        _cleanup_(plan_done) Plan p = {};
        JsonReader r;
        json_reader_init(&r, text, size, reterr);
        int k = json_check_header(&r, "restore-plan");
        k = k < 0 ? k : json_read_object(&r, fields, ELEMENTSOF(fields), false, &p);
        k = k < 0 ? k : json_end(&r);
        if (k >= 0 && resolve_all(&p) < 0)
                k = json_fail(&r, "a file or directory that is in none of the roots");
        if (k < 0)
                return k;
        *ret = p;
        p = (Plan) {};
        return 0;
}

/* ---- writing ---- */

static int put_text(FILE *f, const char *key, const char *bytes, bool path) {
        _cleanup_free_ char *shown = NULL;
        if (bytes && path && path_escape(bytes, &shown) < 0)
                return -ENOMEM;
        const char *text = path ? shown : bytes;
        fprintf(f, "\"%s\":", key);
        if (text)
                json_write_string(f, text, strlen(text));
        else
                (void) fputs("null", f);
        return fputc(',', f) == EOF ? -ENOMEM : 0;
}

static int put_lists(FILE *f, const Plan *p) {
        int r = 0;
        (void) fputs("\"roots\":[", f);
        for (char **root = p->roots; r >= 0 && root && *root; root++) {
                _cleanup_free_ char *shown = NULL;
                r = path_escape(*root, &shown);
                if (r >= 0 && root > p->roots)
                        (void) fputc(',', f);
                if (r >= 0)
                        json_write_string(f, shown, strlen(shown));
        }
        (void) fputs("],\"files\":[", f);
        for (size_t i = 0; r >= 0 && i < p->n_files; i++) {
                const PlanFile *file = p->files + i;
                (void) fputs(i > 0 ? ",\n{" : "\n{", f);
                r = put_text(f, "path", file->path, true);
                r = r < 0 ? r : put_text(f, "staged", file->staged, true);
                r = r < 0 ? r : put_text(f, "aside", file->aside, true);
                fprintf(f, "\"set\":%llu,\"inode\":%llu,\"changed\":%llu,", (unsigned long long) file->set,
                        (unsigned long long) file->inode, (unsigned long long) file->changed);
                fprintf(f, "\"nested\":%s,\"replaces\":%s,\"covered\":%s}", file->nested ? "true" : "false",
                        file->replaces ? "true" : "false", file->covered ? "true" : "false");
        }
        (void) fputs("],\"directories\":[", f);
        for (size_t i = 0; r >= 0 && i < p->n_directories; i++) {
                const PlanDirectory *d = p->directories + i;
                (void) fputs(i > 0 ? ",\n{" : "\n{", f);
                r = put_text(f, "path", d->path, true);
                fprintf(f, "\"set\":%llu,\"inode\":%llu,\"mode\":%llu,", (unsigned long long) d->set,
                        (unsigned long long) d->inode, (unsigned long long) d->mode);
                fprintf(f, "\"uid\":%llu,\"gid\":%llu,\"made\":%s,\"extra\":%s}", (unsigned long long) d->uid,
                        (unsigned long long) d->gid, d->made ? "true" : "false", d->extra ? "true" : "false");
        }
        (void) fputs("]}\n", f);
        return r;
}

int plan_format(const Plan *p, char **ret, size_t *ret_size) {
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;
        (void) fputs("{\"schema\":1,\"kind\":\"restore-plan\",", f);
        int r = put_text(f, "boot", p->boot, false);
        r = r < 0 ? r : put_text(f, "created", p->created, false);
        r = r < 0 ? r : put_text(f, "ended", p->ended, false);
        r = r < 0 ? r : put_text(f, "set", p->set, false);
        r = r < 0 ? r : put_text(f, "writer", p->writer, false);
        r = r < 0 ? r : put_text(f, "component", p->component, false);
        r = r < 0 ? r : put_text(f, "message", p->message, false);
        r = r < 0 ? r : put_text(f, "unit", p->unit, false);
        r = r < 0 ? r : put_text(f, "state", plan_state_to_string(p->state), false);
        fprintf(f, "\"uid\":%llu,\"n_files\":%llu,", (unsigned long long) p->uid, (unsigned long long) p->n_all);
        r = r < 0 ? r : put_lists(f, p);
        if (fclose(f) != 0 && r >= 0)
                r = -ENOMEM;
        if (r >= 0 && size > PLAN_BYTES_MAX)
                r = -E2BIG;
        if (r < 0) {
                free(text);
                return r;
        }
        *ret = text;
        *ret_size = size;
        return 0;
}

/* ---- on disk ---- */

static bool is_ours_alone(const struct stat *s) {
        return s->st_uid == geteuid() && !(s->st_mode & (S_IWGRP | S_IWOTH));
}

static int lock(int fd) {
        uint64_t end = usec_add(now_usec(), LOCK_USEC);
        while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return -errno;
                if (now_usec() > end)
                        return -EBUSY;
                (void) usleep(LOCK_STEP_USEC);
        }
        return 0;
}

int plans_open(bool create) {
        const char *state = secure_getenv("STATE_DIRECTORY");
        struct stat s;
        _cleanup_close_ int above = open(isempty(state) ? "/var/lib/vss" : state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (above < 0 || fstat(above, &s) < 0)
                return -errno;
        if (!is_ours_alone(&s))
                return -EPERM;
        if (create && mkdirat(above, "restore", 0700) < 0 && errno != EEXIST)
                return -errno;
        _cleanup_close_ int fd = open_beneath(above, "restore", O_RDONLY | O_DIRECTORY);
        if (fd < 0)
                return fd;
        if (fstat(fd, &s) < 0)
                return -errno;
        int r = is_ours_alone(&s) ? lock(fd) : -EPERM;
        if (r >= 0 && create && fsync(above) < 0)
                r = -errno;
        return r < 0 ? r : TAKE_FD(fd);
}

/* What somebody who was killed while he wrote has left. */
static void remove_new(int dfd, const char *name) {
        _cleanup_close_ int fd = openat(dfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
                (void) unlinkat(dfd, name, 0);
}

int plans_list(int dfd, char ***ret) {
        _cleanup_(strings_freep) char **list = NULL;
        int r = 0, fd = open_beneath(dfd, "", O_RDONLY | O_DIRECTORY);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d) {
                (void) close_fd(fd);
                return fd < 0 ? fd : -ENOMEM;
        }
        for (struct dirent *e; r >= 0 && (e = readdir(d));) {
                size_t n = strlen(e->d_name);
                char id[VSS_ID_LENGTH + 1];
                if (n == VSS_ID_LENGTH + strlen(NEW_SUFFIX) && streq(e->d_name + VSS_ID_LENGTH, NEW_SUFFIX))
                        remove_new(dfd, e->d_name);
                if (n != VSS_ID_LENGTH + strlen(SUFFIX) || !streq(e->d_name + VSS_ID_LENGTH, SUFFIX))
                        continue;
                memcpy(id, e->d_name, VSS_ID_LENGTH);
                id[VSS_ID_LENGTH] = '\0';
                if (id_is_valid(id))
                        r = strings_count(list) >= 2 * (size_t) PLANS_MAX ? -E2BIG : strings_append(&list, id);
        }
        (void) closedir(d);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(list);
        return 0;
}

static int read_all(int fd, size_t size, char **ret) {
        _cleanup_free_ char *text = malloc(size + 1);
        size_t done = 0;
        while (text && done < size) {
                ssize_t n = read(fd, text + done, size - done);
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return n < 0 ? -errno : -EIO;
                done += (size_t) n;
        }
        if (!text)
                return -ENOMEM;
        text[size] = '\0';
        *ret = TAKE_PTR(text);
        return 0;
}

int plan_load(int dfd, const char *id, Failure *reterr, Plan *ret) {
        char name[VSS_ID_LENGTH + sizeof(SUFFIX)];
        _cleanup_free_ char *text = NULL;
        struct stat s;
        (void) snprintf(name, sizeof(name), "%s" SUFFIX, id);
        _cleanup_close_ int fd = openat(dfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &s) < 0)
                return failure_set(reterr, errno == ENOENT ? CONDITION_NOT_FOUND : CONDITION_FAILED, "plan %s: %s", id,
                                   errno == ENOENT ? "there is none" : strerror(errno));
        if (!S_ISREG(s.st_mode) || s.st_uid != geteuid() || (s.st_mode & 077) || s.st_nlink != 1 ||
            s.st_size > PLAN_BYTES_MAX)
                return failure_set(reterr, CONDITION_INVALID_DOCUMENT,
                                   "plan %s is not a file of root's alone of at most %d bytes: it is left alone", id,
                                   PLAN_BYTES_MAX);
        int r = read_all(fd, (size_t) s.st_size, &text);
        if (r < 0)
                return failure_set(reterr, CONDITION_FAILED, "plan %s: %s", id, strerror(-r));
        r = plan_parse(text, (size_t) s.st_size, reterr, ret);
        if (r >= 0)
                (void) snprintf(ret->id, sizeof(ret->id), "%s", id);
        return r;
}

static int write_all(int fd, const char *text, size_t size) {
        for (size_t done = 0; done < size;) {
                ssize_t n = write(fd, text + done, size - done);
                if (n < 0 && errno != EINTR)
                        return -errno;
                done += n > 0 ? (size_t) n : 0;
        }
        return fsync(fd) < 0 ? -errno : 0;
}

/* Locked from its birth on, as remove_new() asks for. */
static int open_new(int dfd, const char *name) {
        for (int tries = 0; tries < NEW_TRIES; tries++) {
                struct stat s;
                (void) unlinkat(dfd, name, 0);
                _cleanup_close_ int fd = openat(dfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
                int r = fd < 0 ? -errno : lock(fd);
                if (r < 0)
                        return r;
                if (fstat(fd, &s) == 0 && s.st_nlink > 0)
                        return TAKE_FD(fd);
        }
        return -EBUSY;
}

int plan_save_locked(int dfd, const Plan *p, int *lock) {
        char name[VSS_ID_LENGTH + sizeof(SUFFIX)], new[VSS_ID_LENGTH + sizeof(NEW_SUFFIX)];
        _cleanup_free_ char *text = NULL;
        size_t size = 0;
        int r = plan_format(p, &text, &size);
        if (r < 0)
                return r;
        (void) snprintf(name, sizeof(name), "%s" SUFFIX, p->id);
        (void) snprintf(new, sizeof(new), "%s" NEW_SUFFIX, p->id);
        _cleanup_close_ int fd = open_new(dfd, new);
        r = fd < 0 ? fd : write_all(fd, text, size);
        if (r >= 0 && (renameat(dfd, new, dfd, name) < 0 || fsync(dfd) < 0))
                r = -errno;
        if (r < 0)
                (void) unlinkat(dfd, new, 0);
        if (r >= 0 && lock) {
                (void) close_fd(*lock);
                *lock = TAKE_FD(fd);
        }
        return r;
}

int plan_save(int dfd, const Plan *p) {
        return plan_save_locked(dfd, p, NULL);
}

bool plan_is_running(int dfd, const char *id) {
        char name[VSS_ID_LENGTH + sizeof(SUFFIX)];
        (void) snprintf(name, sizeof(name), "%s" SUFFIX, id);
        _cleanup_close_ int fd = openat(dfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

int plan_remove(int dfd, const char *id) {
        char name[VSS_ID_LENGTH + sizeof(SUFFIX)];
        (void) snprintf(name, sizeof(name), "%s" SUFFIX, id);
        return unlinkat(dfd, name, 0) < 0 || fsync(dfd) < 0 ? -errno : 0;
}
