/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/capabilities.h"
#include <cap-ng.h>
#include <signal.h>
#include <sys/prctl.h>

void capabilities_keep(const unsigned *kept, size_t n) {
        bool had[CAP_LAST_CAP + 1] = {};
        (void) prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        for (size_t i = 0; i < n; i++) {
                assert(kept[i] <= CAP_LAST_CAP);
                had[kept[i]] = capng_have_capability(CAPNG_PERMITTED, kept[i]);
        }
        capng_clear(CAPNG_SELECT_BOTH);
        for (size_t i = 0; i < n; i++)
                if (had[kept[i]])
                        (void) capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET, kept[i]);
        (void) capng_apply(CAPNG_SELECT_BOTH); /* not root: there is nothing to drop */
}

int parent_death_arm(pid_t parent) {
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
                return -errno;
        return getppid() == parent ? 0 : -ESRCH;
}
