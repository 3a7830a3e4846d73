/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/unit-needed.h"
#include "writers/unit-manager.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

enum { COMM_BYTES = 32, LINK_BYTES = 256, DESCRIPTORS_MAX = 65536 };

void needed_look(Needed *n, sd_bus *bus, uint64_t until_usec) {
        static const struct {
                const char *name, *what;
        } names[] = { { "org.freedesktop.DBus", "the system bus" },
                      { VSS_BUS_NAME, "vssd" },
                      { "org.freedesktop.systemd1", "the service manager" },
                      { "org.freedesktop.PolicyKit1", "polkit" },
                      { "org.freedesktop.login1", "logind" } };
        _Static_assert(ELEMENTSOF(names) <= NEEDED_OWNERS_MAX, "room for each");
        n->n_owners = 0;
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                pid_t pid = manager_owner(bus, until_usec, names[i].name);
                if (pid <= 0)
                        continue;
                n->owners[n->n_owners].what = names[i].what;
                n->owners[n->n_owners++].pid = pid;
        }
}

/* By the name of the program. Who only pretends to be one of them keeps itself from being frozen, and no more. */
static const char *what_by_name(const char *comm) {
        static const struct {
                const char *comm, *what; /* as the kernel cuts it, after 15 characters */
        } programs[] = {
                { "systemd-journal", "the journal" },
                { "systemd-udevd", "udev" },
                { "systemd-logind", "logind" },
                { "dbus-daemon", "a message bus" },
                { "dbus-broker", "a message bus" },
                { "dbus-broker-lau", "a message bus" },
                { "polkitd", "polkit" },
                { "dmeventd", "the monitor of logical volumes" },
                { "lvmpolld", "LVM" },
                { "lvmdbusd", "LVM" },
                { "multipathd", "multipath devices" },
                { "mdmon", "RAID arrays" },
                { "iscsid", "iSCSI volumes" },
                { "tgtd", "iSCSI volumes" },
                { "nbd-client", "network block devices" },
                { "nbd-server", "network block devices" },
                { "nbdkit", "network block devices" },
                { "qemu-nbd", "network block devices" },
                { "qemu-storage-da", "network block devices" },
                { "drbdsetup", "DRBD volumes" },
                { "ceph-osd", "Ceph volumes" },
                { "ceph-mon", "Ceph volumes" },
                { "zed", "ZFS volumes" },
        };
        if (strncmp(comm, "vss-", 4) == 0 ? !streq(comm, "vss-testwriter") : streq(comm, "vssd"))
                return "a part of vss";
        for (size_t i = 0; i < ELEMENTSOF(programs); i++)
                if (streq(comm, programs[i].comm))
                        return programs[i].what;
        return NULL;
}

/* The devices by which user space serves file systems and disks. */
static bool serves(const char *device) {
        return streq(device, "/dev/fuse") || streq(device, "/dev/cuse") || strncmp(device, "/dev/ublk", 9) == 0 ||
               strncmp(device, "/dev/nbd", 8) == 0 || streq(device, "/dev/mapper/control");
}

/* 1: it has one of those open. -errno: it cannot be seen. */
static int process_serves(int process, char device[static LINK_BYTES]) {
        int fd = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = 0, r = 0;
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        struct dirent *entry;
        if (!d) {
                r = -errno;
                close_fd(fd);
                return r;
        }
        while (r == 0 && (entry = readdir(d))) {
                ssize_t length = readlinkat(dirfd(d), entry->d_name, device, LINK_BYTES - 1);
                device[MAX_OF(length, (ssize_t) 0)] = '\0';
                r = serves(device) ? 1 : ++n > DESCRIPTORS_MAX ? -E2BIG : 0;
        }
        (void) closedir(d);
        return r;
}

static int refuse(Failure *reterr, const char *path, pid_t pid, const char *comm, const char *what) {
        return failure_set(reterr, CONDITION_NOT_SUPPORTED, "%.200s must not be frozen: process %d%s%s%s is %s", path,
                           (int) pid, comm[0] ? " (" : "", comm, comm[0] ? ")" : "", what);
}

static int check_process(const Needed *n, const char *path, pid_t pid, Failure *reterr) {
        char name[32], comm[COMM_BYTES] = "", device[LINK_BYTES], what[LINK_BYTES + 32];
        if (pid == 0)
                return refuse(reterr, path, pid, "", "one that cannot be seen from here");
        if (pid == 1 || pid == getpid())
                return refuse(reterr, path, pid, "", pid == 1 ? "init" : "this writer");
        (void) snprintf(name, sizeof(name), "/proc/%d", (int) pid);
        _cleanup_close_ int process = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (process < 0)
                return errno == ENOENT ? 0 : refuse(reterr, path, pid, "", "one that cannot be seen from here");
        _cleanup_close_ int fd = openat(process, "comm", O_RDONLY | O_CLOEXEC);
        ssize_t length = fd < 0 ? 0 : read(fd, comm, sizeof(comm) - 1);
        comm[MAX_OF(length, (ssize_t) 0)] = '\0';
        comm[strcspn(comm, "\n")] = '\0';
        for (char *c = comm; *c; c++)
                if ((unsigned char) *c < 0x20 || (unsigned char) *c > 0x7e)
                        *c = '?';
        for (size_t i = 0; i < n->n_owners; i++)
                if (n->owners[i].pid == pid)
                        return refuse(reterr, path, pid, comm, n->owners[i].what);
        const char *known = what_by_name(comm);
        if (known)
                return refuse(reterr, path, pid, comm, known);
        int r = process_serves(process, device);
        if (r == -ENOENT || r == -ESRCH)
                return 0; /* it has ended */
        if (r < 0)
                return refuse(reterr, path, pid, comm, "one that cannot be looked into");
        (void) snprintf(what, sizeof(what), "serving volumes by %s", device);
        return r > 0 ? refuse(reterr, path, pid, comm, what) : 0;
}

typedef struct Check {
        const Needed *needed;
        sd_bus *bus; /* NULL: units are not asked for */
        uint64_t until_usec;
        char last[4096]; /* the group whose unit was asked for last */
} Check;

static int check_watchdog(Check *c, const char *path, Failure *reterr) {
        const char *root = cgroup_mount();
        size_t n = root ? strlen(root) : 0;
        UnitFacts facts;
        if (!c->bus || n == 0 || strncmp(path, root, n) != 0 || path[n] != '/' || streq(path, c->last))
                return 0;
        (void) snprintf(c->last, sizeof(c->last), "%s", path);
        int r = manager_unit_of(c->bus, c->until_usec, path + n, &facts, reterr);
        if (r <= 0 || facts.watchdog_usec == 0)
                return r;
        return failure_set(reterr, CONDITION_NOT_SUPPORTED,
                           "%.200s must not be frozen: unit %s has WatchdogSec=, so systemd would kill it for not "
                           "answering",
                           path, facts.id);
}

static int on_process(void *userdata, const char *path, pid_t pid, Failure *reterr) {
        Check *c = userdata;
        int r = check_process(c->needed, path, pid, reterr);
        return r < 0 ? r : check_watchdog(c, path, reterr);
}

int needed_check(const Needed *n, const Cgroup *c, Failure *reterr) {
        return needed_check_all(n, c, NULL, 0, reterr);
}

int needed_check_all(const Needed *n, const Cgroup *c, sd_bus *bus, uint64_t until_usec, Failure *reterr) {
        Check check = { .needed = n, .bus = bus, .until_usec = until_usec };
        return cgroup_walk(c, on_process, &check, reterr);
}
