/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "protocol/urgency.h"
#include "protocol/base.h"
#include <linux/sched.h>
#include <linux/sched/types.h> /* and not sched.h, which has half of the same */
#include <sys/syscall.h>
#include <unistd.h>

/*
 * sched_runtime in nanoseconds; 0 gives the kernel's own back, 2.8 ms at most. The least that it takes is 0.1 ms. It
 * would take 100, too, but until Linux 6.17 whoever waits already, and does not wake up just then, waits for the end of
 * the slice.
 */
static const uint64_t slices[] = {
        [URGENCY_USUAL] = 0,
        [URGENCY_LATER] = 10 * 1000 * 1000,
        [URGENCY_HOLD] = 100 * 1000,
};

void urgency_set(Urgency u) {
        struct sched_attr a = {};
        if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) < 0 ||
            (a.sched_policy != SCHED_NORMAL && a.sched_policy != SCHED_BATCH))
                return;
        a.sched_runtime = slices[u];
        (void) syscall(SYS_sched_setattr, 0, &a, 0);
}
