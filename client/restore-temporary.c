/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files beside their places, and how they change places. A name tells what it is, whose and of which file:
 *
 *   .vss-restore-new-BBBBBBBBPPPPPPPPSSSSSSSS-NNNNNNNN-NAME   what is to become NAME
 *   .vss-restore-old-…                                        what NAME was, until all of the component is in place
 *
 *   .vss-restore-boot-…                                       what is to become NAME in the next boot (restore-plan.h)
 *
 * B is the boot and the PID namespace, P the process, S when it started, N a number of its own. With that a later run
 * finds what a killed one left: it removes what is new, because the backup has it, and never what is old. So a file is
 * called old before it is exchanged with the one that is.
 */
#include "client/restore-file.h"
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#define STRANGE_SECONDS (24 * 60 * 60) /* what another boot or container made is of a dead run after that */

enum { NAME_SHOWN = 80, TAG_DIGITS = 24, NUMBER_DIGITS = 8, STAT_BYTES = 1024 };

typedef struct Tag {
        uint32_t where, pid, start;
} Tag;

/* ---- whose ---- */

/* When the process started, in ticks. 0: not known. */
static uint32_t start_of(uint32_t pid) {
        char path[64], text[STAT_BYTES], *state = NULL;
        (void) snprintf(path, sizeof(path), "/proc/%u/stat", (unsigned) pid);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (n <= 0)
                return 0;
        text[n] = '\0';
        char *field = strrchr(text, ')'); /* the 2nd; the start is the 22nd */
        field = field ? strtok_r(field + 1, " ", &state) : NULL;
        for (int i = 3; field && i < 22; i++)
                field = strtok_r(NULL, " ", &state);
        return field ? (uint32_t) strtoull(field, NULL, 10) : 0;
}

/* A container has the boot id of its host, and a process 1 of its own. */
char *boot_name(void) {
        char id[64] = "", *text = NULL;
        _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, id, sizeof(id) - 1);
        int length = n > 0 ? (int) strspn(id, "0123456789abcdef-") : 0;
        return length > 0 && asprintf(&text, "%.*s-%u", length, id, (unsigned) start_of(1)) > 0 ? text : NULL;
}

static uint32_t where_are_we(void) {
        char text[128];
        uint32_t hash = 2166136261U; /* FNV-1a */
        struct stat s;
        _cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? 0 : read(fd, text, 64);
        n = n < 0 ? 0 : n;
        if (stat("/proc/self/ns/pid", &s) == 0)
                n += snprintf(text + n, sizeof(text) - (size_t) n, "%llu", (unsigned long long) s.st_ino);
        for (ssize_t i = 0; i < n; i++)
                hash = (hash ^ (unsigned char) text[i]) * 16777619U;
        return hash;
}

static const Tag *own_tag(void) {
        static Tag tag;
        if (tag.pid == 0)
                tag = (Tag) { where_are_we(), (uint32_t) getpid(), start_of((uint32_t) getpid()) };
        return &tag;
}

static bool all_digits(const char *text, size_t n) {
        for (size_t i = 0; i < n; i++)
                if (!isdigit((unsigned char) text[i]) && !(text[i] >= 'a' && text[i] <= 'f'))
                        return false;
        return true;
}

static bool parse(const char *name, bool *ret_new, Tag *ret_tag) {
        size_t prefix = strlen(RESTORE_TEMPORARY), tag = prefix + 4, number = tag + TAG_DIGITS + 1;
        if (strlen(name) <= number + NUMBER_DIGITS + 1 || strncmp(name, RESTORE_TEMPORARY, prefix) != 0)
                return false;
        *ret_new = strncmp(name + prefix, "new-", 4) == 0;
        return (*ret_new || strncmp(name + prefix, "old-", 4) == 0) && all_digits(name + tag, TAG_DIGITS) &&
               name[tag + TAG_DIGITS] == '-' && all_digits(name + number, NUMBER_DIGITS) &&
               name[number + NUMBER_DIGITS] == '-' &&
               sscanf(name + tag, "%8x%8x%8x", &ret_tag->where, &ret_tag->pid, &ret_tag->start) == 3;
}

char *temporary_name(const char *kind, const char *name) {
        static uint32_t number;
        const Tag *own = own_tag();
        char *text;
        if (asprintf(&text, RESTORE_TEMPORARY "%s-%08x%08x%08x-%08x-%.*s", kind, own->where, own->pid, own->start,
                     number++, NAME_SHOWN, name) < 0)
                return NULL;
        return text;
}

static bool is_stale(const Tag *tag, const struct stat *s) {
        const Tag *own = own_tag();
        if (tag->where != own->where)
                return s->st_ctim.tv_sec < time(NULL) - STRANGE_SECONDS;
        if (tag->pid == own->pid)
                return tag->start != own->start;
        if (tag->pid == 0 || tag->pid > INT32_MAX || (kill((pid_t) tag->pid, 0) < 0 && errno == ESRCH))
                return true;
        uint32_t start = start_of(tag->pid);
        return start != 0 && start != tag->start;
}

void temporaries_clear(int dfd) {
        bool new;
        Tag tag;
        struct stat s;
        int fd = open_beneath(dfd, "", O_RDONLY | O_DIRECTORY);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d) {
                (void) close_fd(fd);
                return;
        }
        for (struct dirent *e; (e = readdir(d));)
                if (parse(e->d_name, &new, &tag) && new &&fstatat(dfd, e->d_name, &s, AT_SYMLINK_NOFOLLOW) == 0 &&
                    (S_ISREG(s.st_mode) || S_ISLNK(s.st_mode)) && is_stale(&tag, &s))
                        (void) unlinkat(dfd, e->d_name, 0);
        (void) closedir(d);
}

/* ---- changing places ---- */

static bool no_such_flag(int error) {
        return error == EINVAL || error == ENOSYS;
}

int file_move_to_free(int dfd, const char *from, const char *name) {
        struct stat s;
        if (renameat2(dfd, from, dfd, name, RENAME_NOREPLACE) == 0)
                return 0;
        if (!no_such_flag(errno))
                return -errno;
        if (fstatat(dfd, name, &s, AT_SYMLINK_NOFOLLOW) == 0)
                return -EEXIST;
        return errno != ENOENT || renameat(dfd, from, dfd, name) < 0 ? -errno : 0;
}

/* Where the file system exchanges nothing: the old one goes aside, and back if the new one does not come. */
static int replace_in_two_steps(int dfd, const char *name, StagedFile *s) {
        _cleanup_free_ char *old = temporary_name("old", name);
        if (!old)
                return -ENOMEM;
        if (renameat(dfd, name, dfd, old) < 0)
                return -errno;
        if (renameat(dfd, s->name, dfd, name) < 0) {
                int r = -errno;
                (void) renameat(dfd, old, dfd, name);
                return r;
        }
        free(s->name);
        s->name = TAKE_PTR(old);
        return 0;
}

int file_exchange(int dfd, const char *from, const char *name, const char *aside) {
        if (renameat2(dfd, from, dfd, name, RENAME_EXCHANGE) == 0)
                return 0;
        if (!no_such_flag(errno))
                return -errno;
        if (renameat(dfd, name, dfd, aside) < 0)
                return -errno;
        if (renameat(dfd, from, dfd, name) == 0)
                return 0;
        int r = -errno;
        (void) renameat(dfd, aside, dfd, name);
        return r;
}

static int replace(int dfd, const char *name, StagedFile *s) {
        struct stat st;
        if (fstatat(dfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
                return -EISDIR; /* would be exchanged like a file */
        char *old = temporary_name("old", name);
        if (!old || renameat(dfd, s->name, dfd, old) < 0) {
                int r = old ? -errno : -ENOMEM;
                free(old);
                return r;
        }
        free(s->name);
        s->name = old;
        if (renameat2(dfd, old, dfd, name, RENAME_EXCHANGE) == 0)
                return 0;
        return no_such_flag(errno) ? replace_in_two_steps(dfd, name, s) : -errno;
}

int file_swap(int dfd, const char *name, StagedFile *s, bool only_new) {
        int r = file_move_to_free(dfd, s->name, name);
        if (r == 0) {
                free(s->name);
                s->name = NULL;
        } else if (r == -EEXIST && !only_new)
                r = replace(dfd, name, s);
        s->swapped = r == 0;
        return r;
}

int file_swap_back(int dfd, const char *name, StagedFile *s) {
        if (!s->swapped)
                return 0;
        if ((s->name ? renameat(dfd, s->name, dfd, name) : unlinkat(dfd, name, 0)) < 0)
                return -errno;
        free(s->name);
        *s = (StagedFile) {};
        return 0;
}

void file_keep(int dfd, StagedFile *s) {
        if (s->name && s->swapped)
                (void) unlinkat(dfd, s->name, 0);
        free(s->name);
        *s = (StagedFile) {};
}

void file_unstage(int dfd, StagedFile *s) {
        if (s->name && !s->swapped)
                (void) unlinkat(dfd, s->name, 0);
        free(s->name);
        *s = (StagedFile) {};
}
