/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the guard does for itself before anything is held, so that nothing it needs can be taken away then: its memory
 * is locked (a page-in could wait for a file system it holds), allocations never wait for write-back, the OOM killer
 * passes it by, it runs before ordinary processes, it dumps no core (that would be a write), it sees no mount (a
 * private copy of the mount table would keep every file system of the host busy) and may do nothing but thaw and look
 * at processes. A container forbids some of it; the guard works without, so a failure is told with ARMED and no more.
 */
#include "daemon/guard-program.h"
#include "protocol/urgency.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

enum { PREFAULT_BYTES = 64 * 1024 };

void guard_note(GuardProgram *p, const char *what, int error) {
        const char *why = strerrordesc_np(error < 0 ? -error : error);
        size_t n = strlen(p->notes);
        (void) snprintf(p->notes + n, sizeof(p->notes) - n, "%s%s: %s", n > 0 ? "; " : "", what,
                        why ? why : "unknown error");
}

/* Whatever needs a path is opened here, before the mounts go. */
int guard_open_surroundings(GuardProgram *p) {
        p->proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (p->proc < 0)
                return -errno;
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        if (null < 0)
                return -errno;
        /* stderr may be a log file on what we are about to hold. */
        for (int fd = 0; fd <= 2; fd++)
                (void) dup2(null, fd);
        if (null > 2)
                (void) close(null);
        return 0;
}

static void prefault_stack(void) {
        volatile char page[PREFAULT_BYTES];
        for (size_t i = 0; i < sizeof(page); i += 4096)
                page[i] = 0;
}

void guard_lock_memory(GuardProgram *p) {
        struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY };
        (void) setrlimit(RLIMIT_MEMLOCK, &unlimited);
        if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
                guard_note(p, "memory is not locked", errno);
        prefault_stack();
}

static int write_oom_score(int proc_fd) {
        _cleanup_close_ int fd = openat(proc_fd, "self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return write(fd, "-1000", 5) < 0 ? -errno : 0;
}

/* An empty read-only tmpfs becomes the whole world; the directory it is mounted on only has to exist. */
static int enter_empty_root(const char *directory) {
        if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
                return -errno;
        if (mount("none", directory, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=000") < 0)
                return -errno;
        if (chdir(directory) < 0 || syscall(SYS_pivot_root, ".", ".") < 0)
                return -errno;
        if (umount2(".", MNT_DETACH) < 0)
                return -errno;
        return chdir("/") < 0 ? -errno : 0;
}

/* All of it or nothing: with a copy of the mounts and no pivot every umount on the host would leave its device busy. */
static int detach_mounts(const GuardProgram *p) {
        _cleanup_close_ int before = openat(p->proc, "self/ns/mnt", O_RDONLY | O_CLOEXEC);
        if (before < 0 || unshare(CLONE_NEWNS) < 0)
                return -errno;
        int r = enter_empty_root(p->runtime_directory);
        if (r < 0)
                (void) setns(before, CLONE_NEWNS);
        return r;
}

/* FIFREEZE and FITHAW; the locked stacks of threads yet to come; finding and waking whoever blocks a freeze. */
static const int kept_capabilities[] = { CAP_SYS_ADMIN, CAP_IPC_LOCK, CAP_SYS_PTRACE, CAP_DAC_READ_SEARCH, CAP_KILL };

static int drop_capabilities(void) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = {}, keep[2] = {};
        if (syscall(SYS_capget, &header, data) < 0)
                return -errno;
        for (size_t i = 0; i < ELEMENTSOF(kept_capabilities); i++)
                keep[CAP_TO_INDEX(kept_capabilities[i])].permitted |= CAP_TO_MASK(kept_capabilities[i]);
        for (int cap = 0; prctl(PR_CAPBSET_READ, cap) >= 0; cap++)
                if (!(keep[CAP_TO_INDEX(cap)].permitted & CAP_TO_MASK(cap)))
                        (void) prctl(PR_CAPBSET_DROP, cap);
        for (size_t i = 0; i < ELEMENTSOF(data); i++)
                data[i].effective = data[i].permitted = data[i].permitted & keep[i].permitted;
        data[0].inheritable = data[1].inheritable = 0;
        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

void guard_prepare(GuardProgram *p) {
        int r = write_oom_score(p->proc);
        if (r < 0)
                guard_note(p, "not exempt from the OOM killer", r);
        if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
                guard_note(p, "not an I/O flusher", errno);
        urgency_set(URGENCY_HOLD); /* the better one may not be had */
        struct sched_param param = { .sched_priority = 1 };
        if (sched_setscheduler(0, SCHED_RR, &param) < 0)
                guard_note(p, "no real-time priority", errno);
        r = detach_mounts(p);
        if (r < 0)
                guard_note(p, "mount namespace is the host's", r);
        guard_lock_memory(p);
        (void) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        r = drop_capabilities();
        if (r < 0)
                guard_note(p, "capabilities are kept", r);
        (void) prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}
