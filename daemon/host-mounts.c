/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/host-mounts.h"
#include "daemon/log.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <syslog.h>

static int namespace_fd = -EBADF, table_fd = -EBADF;

static int drop_ptrace(void) {
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[2] = {};
        if (syscall(SYS_capget, &header, data) < 0 || prctl(PR_CAPBSET_DROP, CAP_SYS_PTRACE) < 0)
                return -errno;
        data[CAP_TO_INDEX(CAP_SYS_PTRACE)].effective &= ~CAP_TO_MASK(CAP_SYS_PTRACE);
        data[CAP_TO_INDEX(CAP_SYS_PTRACE)].permitted &= ~CAP_TO_MASK(CAP_SYS_PTRACE);
        return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int host_mounts_open(void) {
        namespace_fd = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
        table_fd = namespace_fd < 0 ? -EBADF : open("/proc/1/mountinfo", O_RDONLY | O_CLOEXEC);
        int r = table_fd < 0 ? -errno : drop_ptrace();
        if (r < 0)
                log_line(LOG_ERR, NULL, NULL,
                         "the host's mounts cannot be reached: %s; vssd.service gives CAP_SYS_PTRACE for it",
                         strerror(-r));
        return r;
}

int host_mounts_namespace(void) {
        return namespace_fd;
}

FILE *host_mounts_open_table(void) {
        if (table_fd < 0)
                return fopen("/proc/self/mountinfo", "re");
        int fd = fcntl(table_fd, F_DUPFD_CLOEXEC, 3);
        FILE *f = fd < 0 || lseek(fd, 0, SEEK_SET) < 0 ? NULL : fdopen(fd, "re");
        if (!f)
                (void) close_fd(fd);
        return f;
}
