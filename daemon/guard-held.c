/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * RUNTIME/held/SET: what is left for the next start of vssd when both guards and vssd died at once. It is complete,
 * locked and mapped before the first FIFREEZE and only a byte per file system changes after that, by a store into the
 * mapping: a dead process leaves it as it was at that moment. Text, so that an administrator can read it:
 *
 *     - MAJOR:MINOR MOUNTPOINT
 *     guard PID STARTTIME        the first, then the second (start time as in /proc/PID/stat)
 *
 * Instead of '-': 'h', frozen by this guard, or about to be; 'm', likewise, and its logical volume may be suspended;
 * 'w', that alone.
 *
 * The lock (flock; both guards share it) says that a guard of the set lives. The file appears under its name already
 * locked and filled (O_TMPFILE, linkat), or a clean-up that runs at that moment would take it for a leftover. It must
 * not lie on a file system that can be held, hence tmpfs.
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
                if (in[0] == '\\' && in[1] >= '0' && in[1] <= '3' && in[2] >= '0' && in[2] <= '7' && in[3] >= '0' &&
                    in[3] <= '7') {
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
        if (!end ||
            sscanf(end + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
                   &state, &start_time) != 2)
                return -EBADMSG;
        *ret_state = state;
        *ret_start_time = start_time;
        return 0;
}

static int held_open_file(GuardProgram *p) {
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
        p->held_file = openat(p->held_dir, ".", O_TMPFILE | O_RDWR | O_APPEND | O_CLOEXEC, 0600);
        if (p->held_file < 0)
                return -errno;
        return flock(p->held_file, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
}

static int held_append(GuardProgram *p, const char *line, size_t length) {
        ssize_t n = write(p->held_file, line, length);
        return n < 0 ? -errno : (size_t) n == length ? 0 : -ENOSPC;
}

/* Before the second is forked: it has to have the marks too. */
int guard_held_open(GuardProgram *p) {
        static char line[LIMIT_PATH_BYTES * 4 + 64];
        size_t marks[LIMIT_VOLUMES], size = 0;
        int r = held_open_file(p);
        for (uint32_t i = 0; i < p->n_volumes && r >= 0; i++) {
                GuardVolume *v = &p->volumes[i];
                size_t n = (size_t) sprintf(line, "%c %u:%u ", GUARD_MARK_FREE, major(v->dev), minor(v->dev));
                n += path_escape(v->mount_point, line + n);
                line[n++] = '\n';
                marks[i] = size;
                size += n;
                r = held_append(p, line, n);
        }
        if (r < 0)
                return r;
        char *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, p->held_file, 0);
        if (map == MAP_FAILED)
                return -errno;
        for (uint32_t i = 0; i < p->n_volumes; i++)
                p->volumes[i].held_mark = map + marks[i];
        return 0;
}

static int held_append_guard(GuardProgram *p, pid_t pid) {
        char state, line[64];
        uint64_t start_time;
        int r = process_start_time(p->proc, pid, &state, &start_time);
        if (r < 0)
                return r;
        return held_append(p, line, (size_t) sprintf(line, "guard %d %" PRIu64 "\n", (int) pid, start_time));
}

int guard_held_publish(GuardProgram *p) {
        char self[32];
        int r = held_append_guard(p, p->first_pid);
        if (r >= 0)
                r = held_append_guard(p, p->second_pid);
        if (r < 0)
                return r;
        (void) snprintf(self, sizeof(self), "self/fd/%d", p->held_file);
        if (linkat(p->proc, self, p->held_dir, p->set, AT_SYMLINK_FOLLOW) < 0)
                return -errno;
        p->pair->published = 1;
        return 0;
}

void guard_held_remove(GuardProgram *p) {
        if (p->pair && p->pair->published)
                (void) unlinkat(p->held_dir, p->set, 0);
}

/* One line, taken apart in place. */
static int held_line_parse(char *line, HeldFile *f, unsigned *n_guards) {
        static const char marks[] = { GUARD_MARK_FREE, GUARD_MARK_HELD, GUARD_MARK_MAPPED, GUARD_MARK_WATCHED, 0 };
        unsigned major_number, minor_number;
        int pid, path;
        uint64_t start_time;
        if (sscanf(line, "guard %d %" SCNu64, &pid, &start_time) == 2 && *n_guards < ELEMENTSOF(f->pids)) {
                f->pids[*n_guards] = pid;
                f->start_times[(*n_guards)++] = start_time;
                return 0;
        }
        if (!line[0] || !strchr(marks, line[0]) || f->n_entries >= LIMIT_VOLUMES)
                return -EBADMSG;
        if (sscanf(line + 1, " %u:%u %n", &major_number, &minor_number, &path) != 2 || line[1 + path] != '/')
                return -EBADMSG;
        HeldEntry *e = &f->entries[f->n_entries];
        held_path_unescape(line + 1 + path);
        if (strlen(line + 1 + path) >= sizeof(e->mount_point))
                return -EBADMSG;
        strcpy(e->mount_point, line + 1 + path);
        e->dev = makedev(major_number, minor_number);
        e->held = line[0] == GUARD_MARK_HELD || line[0] == GUARD_MARK_MAPPED;
        e->mapped = line[0] == GUARD_MARK_MAPPED || line[0] == GUARD_MARK_WATCHED;
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
