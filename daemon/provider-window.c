/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/provider-window.h"
#include "protocol/urgency.h"
#include "providers/wire.h"
#include <sys/mman.h>

enum { WINDOW_STACK_BYTES = 256 * 1024 };

/* From here on nothing may be paged in from a disk that is held. Without the right to do so it is only less certain. */
static void lock_memory(void) {
        volatile char stack[WINDOW_STACK_BYTES];
        for (size_t i = 0; i < sizeof(stack); i += 4096)
                stack[i] = 0;
        (void) mlockall(MCL_CURRENT | MCL_FUTURE);
}

/* Of this thread, and of what it starts in between, which may outlive us: hence not for longer than the hold. What a
 * provider has started before (lvm, a thread for each copy) has the usual one. */
void window_before(uint32_t step) {
        if (step == VSS_WIRE_PRE_COMMIT)
                urgency_set(URGENCY_HOLD);
        else if (step == VSS_WIRE_POST_COMMIT || step == VSS_WIRE_ABORT)
                urgency_set(URGENCY_USUAL);
}

void window_after(uint32_t step) {
        if (step == VSS_WIRE_END_PREPARE)
                lock_memory();
}
