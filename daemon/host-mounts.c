/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/host-mounts.h"
#include <fcntl.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#define STORE_PATIENCE_USEC (5 * USEC_PER_SEC)

static const struct {
        const char *name, *path;
} kept[] = {
        { "host-mounts", "/proc/self/ns/mnt" },
        { "host-mount-table", "/proc/self/mountinfo" },
};

enum { NAMESPACE, TABLE };

static int fds[ELEMENTSOF(kept)] = { -EBADF, -EBADF };

/* FDPOLL=0: a mount table becomes readable whenever something is mounted, which would look like its end. */
static int store(size_t i) {
        char state[128];
        _cleanup_close_ int fd = open(kept[i].path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        (void) snprintf(state, sizeof(state), "FDSTOREREMOVE=1\nFDNAME=%s", kept[i].name);
        int r = sd_notify(0, state);
        (void) snprintf(state, sizeof(state), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", kept[i].name);
        if (r > 0)
                r = sd_pid_notify_with_fds(0, 0, state, &fd, 1);
        return r < 0 ? r : r == 0 ? -ENOTCONN : 0;
}

int host_mounts_store(void) {
        int r = 0;
        for (size_t i = 0; i < ELEMENTSOF(kept) && r >= 0; i++)
                r = store(i);
        if (r >= 0) /* the next process of the unit is started with what is in the store then */
                r = sd_notify_barrier(0, STORE_PATIENCE_USEC);
        if (r < 0)
                (void) fprintf(stderr,
                               "vssd: the host's mounts cannot be kept for vssd: %s; --store-mounts is for its unit\n",
                               strerror(-r));
        return r < 0 ? r : 0;
}

void host_mounts_take(void) {
        char **names = NULL;
        int n = sd_listen_fds_with_names(true, &names);
        for (int k = 0; k < n; k++) {
                int fd = SD_LISTEN_FDS_START + k;
                size_t i = 0;
                while (i < ELEMENTSOF(kept) && (fds[i] >= 0 || !streq(names[k], kept[i].name)))
                        i++;
                if (i < ELEMENTSOF(kept))
                        fds[i] = fd;
                else
                        (void) close(fd);
        }
        for (int k = 0; k < n; k++)
                free(names[k]);
        free(names);
}

int host_mounts_namespace(void) {
        return fds[NAMESPACE];
}

FILE *host_mounts_open_table(void) {
        if (fds[TABLE] < 0)
                return fopen("/proc/self/mountinfo", "re");
        int fd = fcntl(fds[TABLE], F_DUPFD_CLOEXEC, 3);
        FILE *f = fd < 0 || lseek(fd, 0, SEEK_SET) < 0 ? NULL : fdopen(fd, "re");
        if (!f)
                (void) close_fd(fd);
        return f;
}
