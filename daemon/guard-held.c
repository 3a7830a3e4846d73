/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * RUNTIME/held/SET: what is left for the next start of vssd when both guards and vssd died at once. It is complete, locked and
 * mapped before the first FIFREEZE and only a byte per file system changes after that, by a store into the mapping: a dead
 * process leaves it as it was at that moment. Text, so that an administrator can read it:
 *
 *     guard PID STARTTIME        the first, then the second (start time as in /proc/PID/stat)
 *     - MAJOR:MINOR MOUNTPOINT   'h' instead of '-': frozen by this guard, or about to be
 *
 * The lock (flock; both guards share it) says that a guard of the set lives. The file appears under its name already locked
 * and filled (O_TMPFILE, linkat), or a clean-up that runs at that moment would take it for a leftover. It must not lie on a
 * file system that can be held, hence tmpfs.
 */
#include "daemon/guard-program.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* As the kernel writes paths into mountinfo. */
static size_t path_escape(const char *path, char *ret) {
        size_t n = 0;
        for (const unsigned char *c = (const unsigned char *) path; *c; c++)
                if (*c == '\\' || *c <= ' ' || *c == 0x7f)
                        n += (size_t) sprintf(ret + n, "\\%03o", *c);
                else
                        ret[n++] = (char) *c;
        ret[n] = 0;
        return n;
}

/* In place. */
void held_path_unescape(char *path) {
        char *out = path;
        for (const char *in = path; *in; out++) {
                if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' && in[3] >= '0' && in[3] <= '7') {
                        *out = (char) (((in[1] - '0') << 6) | ((in[2] - '0') << 3) | (in[3] - '0'));
                        in += 4;
                } else
                        *out = *in++;
        }
        *out = 0;
}

int process_start_time(int proc_fd, pid_t pid, char *ret_state, uint64_t *ret_start_time) {
        char path[32], buf[1024];
        (void) snprintf(path, sizeof(path), "%d/stat", (int) pid);
        _cleanup_close_ int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        ssize_t n = read(fd, buf, sizeof(buf) - 1);
        if (n < 0)
                return -errno;
        buf[n] = 0;
        /* The name is in parentheses and may contain anything: what follows begins after the last one. */
        const char *end = strrchr(buf, ')');
        char state;
        uint64_t start_time;
        if (!end || sscanf(end + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
                           &state, &start_time) != 2)
                return -EBADMSG;
        *ret_state = state;
        *ret_start_time = start_time;
        return 0;
}

static int held_write_guard(GuardProgram *p, FILE *f, pid_t pid) {
        char state;
        uint64_t start_time;
        int r = process_start_time(p->proc, pid, &state, &start_time);
        if (r < 0)
                return r;
        return fprintf(f, "guard %d %" PRIu64 "\n", (int) pid, start_time) < 0 ? -EIO : 0;
}

int guard_held_open(GuardProgram *p) {
        char path[LIMIT_PATH_BYTES];
        if (snprintf(path, sizeof(path), "%s/held", p->runtime_directory) >= (int) sizeof(path))
                return -ENAMETOOLONG;
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return -errno;
        p->held_dir = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (p->held_dir < 0)
                return -errno;
        struct stat st;
        if (fstat(p->held_dir, &st) < 0)
                return -errno;
        for (uint32_t i = 0; i < p->n_volumes; i++)
                if (p->volumes[i].dev == st.st_dev)
                        return -EDEADLK;
        p->held_file = openat(p->held_dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (p->held_file < 0)
                return -errno;
        return flock(p->held_file, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
}

/* The offsets of the marks are only known once everything is written. */
static int held_write(GuardProgram *p, FILE *f, long ret_marks[static LIMIT_VOLUMES]) {
        char escaped[LIMIT_PATH_BYTES * 4];
        int r = held_write_guard(p, f, p->first_pid);
        if (r >= 0)
                r = held_write_guard(p, f, p->second_pid);
        for (uint32_t i = 0; i < p->n_volumes && r >= 0; i++) {
                GuardVolume *v = &p->volumes[i];
                (void) path_escape(v->mount_point, escaped);
                ret_marks[i] = ftell(f);
                if (fprintf(f, "%c %u:%u %s\n", GUARD_MARK_FREE, major(v->dev), minor(v->dev), escaped) < 0)
                        r = -EIO;
        }
        return r;
}

int guard_held_publish(GuardProgram *p) {
        int copy = fcntl(p->held_file, F_DUPFD_CLOEXEC, 3);
        if (copy < 0)
                return -errno;
        FILE *f = fdopen(copy, "w");
        if (!f) {
                (void) close(copy);
                return -ENOMEM;
        }
        long marks[LIMIT_VOLUMES];
        int r = held_write(p, f, marks);
        long size = ftell(f);
        if (fclose(f) != 0 && r >= 0)
                r = -errno;
        if (r < 0)
                return r;
        char *map = mmap(NULL, (size_t) size, PROT_READ | PROT_WRITE, MAP_SHARED, p->held_file, 0);
        if (map == MAP_FAILED)
                return -errno;
        for (uint32_t i = 0; i < p->n_volumes; i++) {
                assert(map[marks[i]] == GUARD_MARK_FREE);
                p->volumes[i].held_mark = map + marks[i];
        }
        char self[32];
        (void) snprintf(self, sizeof(self), "self/fd/%d", p->held_file);
        return linkat(p->proc, self, p->held_dir, p->set, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

void guard_held_remove(GuardProgram *p) {
        if (p->held_dir >= 0)
                (void) unlinkat(p->held_dir, p->set, 0);
}

/* One line, taken apart in place. */
static int held_line_parse(char *line, HeldFile *f, unsigned *n_guards) {
        unsigned major_number, minor_number;
        int pid, path;
        uint64_t start_time;
        if (sscanf(line, "guard %d %" SCNu64, &pid, &start_time) == 2 && *n_guards < ELEMENTSOF(f->pids)) {
                f->pids[*n_guards] = pid;
                f->start_times[(*n_guards)++] = start_time;
                return 0;
        }
        if ((line[0] != GUARD_MARK_FREE && line[0] != GUARD_MARK_HELD) || f->n_entries >= LIMIT_VOLUMES)
                return -EBADMSG;
        if (sscanf(line + 1, " %u:%u %n", &major_number, &minor_number, &path) != 2 || line[1 + path] != '/')
                return -EBADMSG;
        HeldEntry *e = &f->entries[f->n_entries];
        held_path_unescape(line + 1 + path);
        if (strlen(line + 1 + path) >= sizeof(e->mount_point))
                return -EBADMSG;
        strcpy(e->mount_point, line + 1 + path);
        e->dev = makedev(major_number, minor_number);
        e->held = line[0] == GUARD_MARK_HELD;
        f->n_entries++;
        return 0;
}

/* text is destroyed. Lines that make no sense are an error, but what was understood is in *ret all the same. */
int held_file_parse(char *text, HeldFile *ret) {
        unsigned n_guards = 0;
        int r = 0;
        memset(ret, 0, sizeof(*ret));
        for (char *save = NULL, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                int k = held_line_parse(line, ret, &n_guards);
                if (k < 0)
                        r = k;
        }
        return r;
}
