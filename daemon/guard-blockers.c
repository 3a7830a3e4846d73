/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who keeps a FIFREEZE waiting, and what can be done about it. The kernel waits for everybody who has entered a write
 * on the file system to leave it again; a splice() from an empty pipe enters and then sleeps until somebody writes to
 * the pipe, which may be never. A signal makes it leave: SIGSTOP and SIGCONT are one that the process does not notice,
 * the call starts again and then waits for the freeze like everybody else. On kernels before 6.18 an io_uring with a
 * finished write that its owner has not looked at is inside as well; only that owner or his end lets go of it. It
 * cannot be told from a ring that is in nobody's way, so its owner is named, and killed where the administrator wants
 * that.
 *
 * This runs in a thread of its own while things are held: it allocates nothing, opens nothing outside /proc, asks no
 * file system that could answer slowly (statx without synchronisation), and is bounded in time. Writers that wait for
 * the freeze themselves are found by the same test and told apart by where in the kernel they sleep.
 */
#include "daemon/guard-program.h"
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

enum {
        SCAN_MSEC_MAX = 1000, /* for each of two */
        STOPPED_MAX = 16,     /* processes woken at most */
        DIRENT_BYTES = 32 * 1024,
};

static const struct {
        long number;
        unsigned argument; /* which of them is the descriptor written to */
        const char *name;
} write_calls[] = {
        { SYS_splice, 2, "splice" },
        { SYS_sendfile, 0, "sendfile" },
        { SYS_copy_file_range, 2, "copy_file_range" },
        { SYS_write, 0, "write" },
        { SYS_pwrite64, 0, "pwrite" },
        { SYS_writev, 0, "writev" },
        { SYS_pwritev, 0, "pwritev" },
        { SYS_pwritev2, 0, "pwritev2" },
        { SYS_fallocate, 0, "fallocate" },
        { SYS_ftruncate, 0, "ftruncate" },
};

typedef struct Scan {
        GuardProgram *program;
        uint64_t deadline_usec;
        unsigned n_found;
        pid_t pid; /* the process being looked at */
        char path[64];
} Scan;

/* Reads a small file of /proc; always a string. */
static ssize_t scan_read(const Scan *s, const char *path, char *ret, size_t size) {
        _cleanup_close_ int fd = openat(s->program->proc, path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, ret, size - 1);
        ret[n > 0 ? n : 0] = 0;
        return n;
}

/* The file system among ours, still being frozen, that this descriptor of the process lies on; UINT32_MAX: none. */
static uint32_t scan_volume_of(const Scan *s, unsigned fd) {
        char path[64];
        struct statx stx;
        (void) snprintf(path, sizeof(path), "%d/fd/%u", (int) s->pid, fd);
        if (statx(s->program->proc, path, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE, &stx) < 0)
                return UINT32_MAX;
        for (uint32_t i = 0; i < s->program->n_volumes; i++)
                if (s->program->volumes[i].dev == makedev(stx.stx_dev_major, stx.stx_dev_minor) &&
                    s->program->shared->fs[i].state == GUARD_FS_FREEZING)
                        return i;
        return UINT32_MAX;
}

/* Asleep in front of the freeze: a victim, not a cause. */
static bool scan_is_victim(Scan *s, pid_t tid) {
        char wchan[64];
        (void) snprintf(s->path, sizeof(s->path), "%d/task/%d/wchan", (int) s->pid, (int) tid);
        return scan_read(s, s->path, wchan, sizeof(wchan)) > 0 && strstr(wchan, "percpu_rwsem");
}

/* did: what was done about it, or "" */
static void scan_report(Scan *s, const char *call, uint32_t volume, const char *did) {
        char comm[32];
        (void) snprintf(s->path, sizeof(s->path), "%d/comm", (int) s->pid);
        (void) scan_read(s, s->path, comm, sizeof(comm));
        for (char *c = comm; *c; c++)
                if (*c == '\n')
                        *c = 0;
                else if ((unsigned char) *c < ' ' || (unsigned char) *c >= 0x7f)
                        *c = '?';
        char *m = s->program->blockers;
        size_t n = strlen(m), size = sizeof(s->program->blockers);
        if (s->n_found++ == 0)
                (void) snprintf(m, size, "freezing %.256s waited for process %d (%s), which was inside %s on it%s",
                                s->program->volumes[volume].mount_point, (int) s->pid, comm, call, did);
        else
                (void) snprintf(m + n, size - n, ", and %d (%s, %s%s)", (int) s->pid, comm, call, did);
}

/*
 * SIGCONT follows at once and takes the SIGSTOP back in most cases; that it was sent is enough to end the call, and
 * nobody is left stopped if we die in between. Never init: nor vssd or ourselves, which were not looked at.
 */
static bool scan_interrupt(const Scan *s) {
        if (s->n_found >= STOPPED_MAX || s->pid == 1)
                return false;
        _cleanup_close_ int pidfd = (int) syscall(SYS_pidfd_open, s->pid, 0);
        if (pidfd < 0 || syscall(SYS_pidfd_send_signal, pidfd, SIGSTOP, NULL, 0) < 0)
                return false;
        (void) syscall(SYS_pidfd_send_signal, pidfd, SIGCONT, NULL, 0);
        return true;
}

static bool scan_kill(const Scan *s) {
        if (!s->program->kill_stuck || s->pid == 1 || s->pid == s->program->vssd_pid)
                return false;
        _cleanup_close_ int pidfd = (int) syscall(SYS_pidfd_open, s->pid, 0);
        return pidfd >= 0 && syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0) >= 0;
}

/* The file of /proc has the call's number and its arguments in hexadecimal, or a word. */
static bool scan_task(Scan *s, pid_t tid) {
        char line[256];
        unsigned long arguments[3];
        long number;
        (void) snprintf(s->path, sizeof(s->path), "%d/task/%d/syscall", (int) s->pid, (int) tid);
        if (scan_read(s, s->path, line, sizeof(line)) <= 0 ||
            sscanf(line, "%ld %lx %lx %lx", &number, &arguments[0], &arguments[1], &arguments[2]) != 4)
                return false;
        for (size_t i = 0; i < ELEMENTSOF(write_calls); i++) {
                if (write_calls[i].number != number)
                        continue;
                uint32_t volume = scan_volume_of(s, (unsigned) arguments[write_calls[i].argument]);
                if (volume == UINT32_MAX || scan_is_victim(s, tid))
                        return false;
                scan_report(s, write_calls[i].name, volume, scan_interrupt(s) ? "; it was interrupted" : "");
                return true;
        }
        return false;
}

/* Calls with every numeric name of a directory of /proc until it returns true or the time is over. */
static bool scan_directory(Scan *s, const char *path, char *buffer, bool (*call)(Scan *s, pid_t id)) {
        _cleanup_close_ int fd = openat(s->program->proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ssize_t n;
        while (fd >= 0 && (n = getdents64(fd, buffer, DIRENT_BYTES)) > 0)
                for (ssize_t at = 0; at < n; at += ((struct dirent64 *) (void *) (buffer + at))->d_reclen) {
                        const char *name = ((struct dirent64 *) (void *) (buffer + at))->d_name;
                        if (now_usec() >= s->deadline_usec)
                                return true;
                        if (name[0] >= '0' && name[0] <= '9' && call(s, (pid_t) strtol(name, NULL, 10)))
                                return true;
                }
        return false;
}

static bool scan_process_calls(Scan *s, pid_t pid) {
        static char buffer[DIRENT_BYTES] __attribute__((aligned(8)));
        char path[32];
        s->pid = pid;
        (void) snprintf(path, sizeof(path), "%d/task", (int) pid);
        if (pid != s->program->first_pid && pid != s->program->second_pid && pid != s->program->vssd_pid)
                (void) scan_directory(s, path, buffer, scan_task);
        return false;
}

typedef struct RingScan {
        bool ring;
        uint32_t volume;
} RingScan;
static RingScan ring_scan; /* of the process being looked at; there is one scout */

static bool scan_ring_fd(Scan *s, pid_t fd) {
        char path[64], target[64];
        (void) snprintf(path, sizeof(path), "%d/fd/%d", (int) s->pid, (int) fd);
        ssize_t n = readlinkat(s->program->proc, path, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = 0;
        if (streq(target, "anon_inode:[io_uring]"))
                ring_scan.ring = true;
        else if (ring_scan.volume == UINT32_MAX && target[0] == '/')
                ring_scan.volume = scan_volume_of(s, (unsigned) fd);
        return ring_scan.ring && ring_scan.volume != UINT32_MAX;
}

static bool scan_process_rings(Scan *s, pid_t pid) {
        static char buffer[DIRENT_BYTES] __attribute__((aligned(8)));
        char path[32];
        s->pid = pid;
        ring_scan = (RingScan) { .volume = UINT32_MAX };
        (void) snprintf(path, sizeof(path), "%d/fd", (int) pid);
        if (scan_directory(s, path, buffer, scan_ring_fd) && ring_scan.ring && ring_scan.volume != UINT32_MAX)
                scan_report(s, "io_uring", ring_scan.volume, scan_kill(s) ? "; it was killed" : "");
        return s->n_found >= STOPPED_MAX;
}

static void scan_run(GuardProgram *p) {
        static char buffer[DIRENT_BYTES] __attribute__((aligned(8)));
        Scan s = { .program = p, .deadline_usec = usec_add(now_usec(), SCAN_MSEC_MAX * USEC_PER_MSEC) };
        (void) scan_directory(&s, ".", buffer, scan_process_calls);
        s.deadline_usec = usec_add(now_usec(), SCAN_MSEC_MAX * USEC_PER_MSEC);
        if (s.n_found == 0)
                (void) scan_directory(&s, ".", buffer, scan_process_rings);
}

void *guard_scout_run(void *program) {
        GuardProgram *p = program;
        for (;;) {
                if (sem_wait(&p->scout) < 0)
                        continue;
                scan_run(p);
                p->scout_done = 1;
                guard_wake(p);
        }
        return NULL;
}
