/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * RUNTIME/lvm: the lock of all calls (`lock`), and for each set that is being made a file with the volumes it is at
 * work on. An lvm that dies between two of its own steps leaves nothing in its metadata to find a set by; whoever
 * cleans up in a fresh process has to know where to look. A tmpfs, so nothing of it is ever held, and nothing outlives
 * the devices it speaks of.
 */
#include "providers/lvm/lvm.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

enum { LINE_BYTES = 2 * (LVM_UUID_BYTES - 1) + 2 };

static int open_directory(void) {
        const char *runtime = secure_getenv("RUNTIME_DIRECTORY");
        _cleanup_close_ int parent = open(isempty(runtime) ? "/run/vss" : runtime, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (parent < 0)
                return -errno;
        if (mkdirat(parent, "lvm", 0700) < 0 && errno != EEXIST)
                return -errno;
        int fd = openat(parent, "lvm", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

int lvm_place_open_lock(void) {
        _cleanup_close_ int dir = open_directory();
        if (dir < 0)
                return dir;
        int fd = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        return fd < 0 ? -errno : fd;
}

int lvm_place_write(struct vss_call *c, const LvmMember *members, unsigned n) {
        char text[VSS_VOLUMES_MAX * LINE_BYTES + 1];
        size_t at = 0;
        _cleanup_close_ int dir = open_directory();
        for (unsigned i = 0; i < n; i++)
                at += (size_t) snprintf(text + at, sizeof(text) - at, "%s %s\n", members[i].identity.vg_uuid,
                                        members[i].identity.lv_uuid);
        int fd = dir < 0 ? dir : openat(dir, c->set, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        int r = fd < 0 ? -errno : write(fd, text, at) == (ssize_t) at ? 0 : -ENOSPC;
        (void) close_fd(fd);
        return r < 0 ? lvm_fail(c, r, "the list of what this set works on cannot be written: %s", strerror(-r)) : 0;
}

unsigned lvm_place_read(const char *set, LvmIdentity *ret, unsigned max) {
        char text[VSS_VOLUMES_MAX * LINE_BYTES + 1];
        unsigned n = 0;
        _cleanup_close_ int dir = open_directory();
        _cleanup_close_ int fd = dir < 0 ? -EBADF : openat(dir, set, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        ssize_t size = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
        text[MAX_OF(size, 0)] = '\0';
        for (char *save = NULL, *line = strtok_r(text, "\n", &save); line && n < max;
             line = strtok_r(NULL, "\n", &save)) {
                char *space = strchr(line, ' ');
                if (!space)
                        continue;
                *space = '\0';
                if (lvm_uuid_read(line, ret[n].vg_uuid) >= 0 && lvm_uuid_read(space + 1, ret[n].lv_uuid) >= 0)
                        n++;
        }
        return n;
}

void lvm_place_remove(const char *set) {
        _cleanup_close_ int dir = open_directory();
        if (dir >= 0)
                (void) unlinkat(dir, set, 0);
}

static const char reverting[] = "reverting";

int lvm_place_reverting(struct vss_call *c, bool on) {
        _cleanup_close_ int dir = open_directory();
        if (!on) {
                if (dir >= 0)
                        (void) unlinkat(dir, reverting, 0);
                return 0;
        }
        int fd = dir < 0 ? dir : openat(dir, reverting, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        int r = dir < 0 ? dir : fd < 0 ? -errno : 0;
        (void) close_fd(fd);
        return r < 0 ? lvm_fail(c, r, "the note of this revert cannot be written: %s", strerror(-r)) : 0;
}

bool lvm_place_is_reverting(void) {
        _cleanup_close_ int dir = open_directory();
        return dir >= 0 && faccessat(dir, reverting, F_OK, AT_SYMLINK_NOFOLLOW) >= 0;
}
