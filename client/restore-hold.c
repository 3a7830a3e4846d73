/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A unit that a restore had stopped is not started by the next boot if the restore was cut off before it started it
 * again: its writer may not have brought the files to where they were to be, or they are a mixture that could not go
 * back. A drop-in under /run has it started only when the plan is gone, so that whatever removes the plan lets it
 * start, and nothing of this outlives the boot. An assertion, not a condition: `systemctl start` is to fail and not to
 * seem to work.
 */
#include "client/restore-plan.h"
#include "client/restore.h"
#include "protocol/text.h"
#include <fcntl.h>
#include <stdio.h>

#define UNITS "/run/systemd/system"

bool plan_holds(const Plan *p) {
        _cleanup_free_ char *now = boot_name();
        bool ended = p->state != PLAN_REPLACING && p->state != PLAN_REPLACED && p->state != PLAN_HELD;
        return p->unit && !ended && now && !streq(p->boot, now);
}

/* In a unit file nothing of it means anything else. */
static bool is_plain(const char *path) {
        return path[0] == '/' &&
               !path[strspn(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-")];
}

static int write_drop_in(int dfd, const Plan *p, const char *state) {
        char name[VSS_ID_LENGTH + 64];
        (void) snprintf(name, sizeof(name), "vss-restore-%s.conf", p->id);
        int fd = openat(dfd, name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
        FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
        if (!f) {
                int r = -errno;
                (void) close_fd(fd);
                return r;
        }
        fprintf(f,
                "# A restore of its files was cut off. Restore again, or let it start: vssctl restore --cancel=%s\n"
                "[Unit]\nAssertPathExists=!%s/restore/%s.plan\n",
                p->id, state, p->id);
        bool failed = fchmod(fd, 0644) < 0;
        return fclose(f) != 0 || failed ? -EIO : 0;
}

int plan_hold(const Plan *p) {
        const char *state = secure_getenv("STATE_DIRECTORY");
        char name[512];
        state = isempty(state) ? "/var/lib/vss" : state;
        if (!is_plain(state))
                return -EINVAL;
        _cleanup_close_ int units = open(UNITS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (units < 0)
                return -errno;
        (void) snprintf(name, sizeof(name), "%s%s.d", p->unit, strchr(p->unit, '.') ? "" : ".service");
        if (mkdirat(units, name, 0755) < 0 && errno != EEXIST)
                return -errno;
        _cleanup_close_ int dfd = open_beneath(units, name, O_RDONLY | O_DIRECTORY);
        return dfd < 0 ? dfd : fchmod(dfd, 0755) < 0 ? -errno : write_drop_in(dfd, p, state);
}
