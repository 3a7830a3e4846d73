/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LD_PRELOAD: what the kernel says of a btrfs snapshot comes SNAPSHOT_DELAY_MSEC after it is made, and is
 * SNAPSHOT_ERROR (a number) where that is set. For a disk on which a commit takes long, or breaks.
 */
#include <dlfcn.h>
#include <errno.h>
#include <linux/btrfs.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...) {
        static int (*next)(int, unsigned long, void *);
        va_list ap;
        va_start(ap, request);
        void *argument = va_arg(ap, void *);
        va_end(ap);
        if (!next)
                *(void **) &next = dlsym(RTLD_NEXT, "ioctl");
        int r = next(fd, request, argument);
        if (r < 0 || request != BTRFS_IOC_SNAP_CREATE_V2)
                return r;
        const char *delay = getenv("SNAPSHOT_DELAY_MSEC"), *error = getenv("SNAPSHOT_ERROR");
        if (delay)
                (void) usleep((useconds_t) atoi(delay) * 1000);
        if (!error)
                return r;
        errno = atoi(error);
        return -1;
}
