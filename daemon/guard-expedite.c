/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Shorter holds. FIFREEZE waits for a grace period of RCU at each of its three steps, and from the second on everybody
 * who writes waits with it: 30 to 45 ms for a file system that has nothing to write, of which less than one is work.
 * /sys/kernel/rcu_expedited makes grace periods short: the kernel asks the processors instead of waiting until each has
 * come by. That is one number for the machine and costs an interrupt per busy processor, so it is set while we hold and
 * no longer. An administrator's own 1 stays; with rcu_normal (real-time kernels) the kernel would not listen.
 *
 * RUNTIME/expedited says whether the 1 is ours, and is locked (flock, shared; both guards of a set have the same) by
 * each who needs it: the last to go sets it back. Locks of the dead are free, so after a SIGKILL of both guards a new
 * one that vssd calls does it, the next one to end, or --release-leftovers. Nothing here waits: who does not get a lock
 * does without.
 */
#include "daemon/guard-program.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>

#define KNOB "/sys/kernel/rcu_expedited"
enum { LEFTOVER_TRIES = 10 };
#define NORMAL "/sys/kernel/rcu_normal"

static bool reads_one(int fd) {
        char c = 0;
        return fd >= 0 && pread(fd, &c, 1, 0) == 1 && c == '1';
}

static bool put(int fd, const char digit[static 2]) {
        return pwrite(fd, digit, 1, 0) == 1;
}

static int open_knob(void) {
        _cleanup_close_ int normal = open(NORMAL, O_RDONLY | O_CLOEXEC);
        return reads_one(normal) ? -EOPNOTSUPP : open(KNOB, O_RDWR | O_CLOEXEC);
}

static int open_record(const char *runtime_directory) {
        char path[LIMIT_PATH_BYTES];
        if (snprintf(path, sizeof(path), "%s/expedited", runtime_directory) >= (int) sizeof(path))
                return -ENAMETOOLONG;
        return open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
}

/* False: somebody needs it, or has not quite died. */
static bool reset(int knob, int record) {
        if (flock(record, LOCK_EX | LOCK_NB) < 0)
                return false;
        if (reads_one(record) && put(knob, "0"))
                (void) put(record, "0");
        (void) flock(record, LOCK_UN);
        return true;
}

/* True: it is ours to set. The record comes first: a 1 that nobody answers for would stay. */
static bool claim(int knob, int record) {
        if (reads_one(record))
                return put(knob, "1");
        if (reads_one(knob) || !put(record, "1"))
                return false;
        if (put(knob, "1"))
                return true;
        (void) put(record, "0");
        return false;
}

void guard_expedite_open(GuardProgram *p) {
        p->knob = open_knob();
        if (p->knob >= 0)
                p->knob_record = open_record(p->runtime_directory);
        if (p->knob_record < 0)
                p->knob = close_fd(p->knob);
}

void guard_expedite_begin(GuardProgram *p) {
        if (p->knob < 0)
                return;
        if (flock(p->knob_record, LOCK_EX | LOCK_NB) >= 0 && !claim(p->knob, p->knob_record))
                (void) flock(p->knob_record, LOCK_UN);
        else
                (void) flock(p->knob_record, LOCK_SH | LOCK_NB);
}

void guard_expedite_end(GuardProgram *p) {
        if (p->knob < 0)
                return;
        (void) flock(p->knob_record, LOCK_UN);
        (void) reset(p->knob, p->knob_record);
}

void guard_expedite_release_leftovers(const char *runtime_directory) {
        _cleanup_close_ int record = open_record(runtime_directory);
        _cleanup_close_ int knob = reads_one(record) ? open(KNOB, O_RDWR | O_CLOEXEC) : -EBADF;
        for (unsigned i = 0; knob >= 0 && i < LEFTOVER_TRIES && !reset(knob, record); i++)
                guard_sleep_msec(GUARD_RETRY_MSEC);
}
