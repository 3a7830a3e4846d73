/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loaded into lvm (LD_PRELOAD) while it copies volumes that are held: device mapper does not freeze their file systems
 * a second time. Linux from 6.8 on can do that, but does not take it back: its block device counts as frozen from then
 * on, so it is not mounted again once it is unmounted ("Can't mount, blockdev is frozen") before it was deactivated,
 * and nobody's later suspend freezes the file system on it. lvm has no option for it, its library has (skip_lockfs).
 *
 * What cannot be loaded, or is loaded and not asked (lvm linked statically), ld.so leaves out and lvm goes on. So
 * before the window `lvm version` is run with this in it, which asks device mapper for its version:
 * lvm_keeper_check_held.
 */
#include "providers/lvm/held.h"
#include <linux/dm-ioctl.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...) {
        va_list ap;
        va_start(ap, request);
        void *argument = va_arg(ap, void *);
        va_end(ap);
        struct dm_ioctl *d = argument;
        if ((uint32_t) request == DM_DEV_SUSPEND && d && d->flags & DM_SUSPEND_FLAG)
                d->flags |= DM_SKIP_LOCKFS_FLAG;
        else if ((uint32_t) request == DM_VERSION) /* the output, which otherwise goes nowhere */
                (void) !write(STDOUT_FILENO, LVM_HELD_WORD, sizeof(LVM_HELD_WORD) - 1);
        return (int) syscall(SYS_ioctl, fd, request, argument);
}
