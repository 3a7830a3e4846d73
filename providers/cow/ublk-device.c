/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device is added, then its server opens its character device and parks a command for each tag, then it is started:
 * the start waits for that in the kernel. So the server is told in between, and whoever starts the device is not the
 * server.
 *
 * Two settings belong to a server that may be killed. The kernel notices its end by the commands that it has parked;
 * were all tags with the server, none would be, and the device would wait for a timeout of 30 seconds. So one tag never
 * has a request (without a scheduler, nr_requests are the tags), and should somebody change that, the timeout is short.
 */
#include "providers/cow/ublk-device.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum {
        DROP_TRIES = 25,
        TICK_USEC = 20000,
        IO_TIMEOUT_MSEC = 1000, /* only a dead server's requests ever time out */
        LOOPS_MAX = 4096,
        NUMBERS_MAX = 1024, /* devices that are looked at */
};
#define SETTLE_USEC (5 * USEC_PER_SEC) /* until the kernel has all requests of a dead server back */

static int _printf_(4, 5) fail(char *text, size_t n, int r, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(text, n, format, ap);
        va_end(ap);
        return r;
}

static void path_of(unsigned number, char ret[static DEVICE_PATH_MAX]) {
        (void) snprintf(ret, DEVICE_PATH_MAX, "/dev/ublkb%u", number);
}

/* --- which there are ---------------------------------------------------------------------------------------------- */

static unsigned numbers(unsigned ret[static NUMBERS_MAX]) {
        DIR *d = opendir("/sys/class/ublk-char");
        const struct dirent *e;
        unsigned n = 0, number;
        while (d && n < NUMBERS_MAX && (e = readdir(d)))
                if (sscanf(e->d_name, "ublkc%u", &number) == 1)
                        ret[n++] = number;
        if (d)
                (void) closedir(d);
        return n;
}

static bool is_of(UblkControl *c, unsigned number, const uint8_t store[4], UblkOwner *ret, unsigned *ret_state) {
        struct ublksrv_ctrl_dev_info info;
        if (ublk_info(c, number, &info) < 0 || !ublk_owner_unpack(info.ublksrv_flags, ret))
                return false;
        *ret_state = info.state;
        return memcmp(ret->store, store, sizeof(ret->store)) == 0;
}

void ublk_devices_sweep(UblkControl *c, const uint8_t store[4], bool keep, bool ret[VOLUME_NUMBERS]) {
        unsigned all[NUMBERS_MAX], n = numbers(all), state;
        UblkOwner o;
        for (unsigned i = 0; i < n; i++) {
                if (!is_of(c, all[i], store, &o, &state))
                        continue;
                if (keep && o.kind == NODE_VOLUME && state != UBLK_STATE_DEAD)
                        ret[o.volume] = true;
                else
                        (void) ublk_delete(c, all[i]);
        }
}

/* Of the same volume, left by a dead holder, with its requests back in the kernel. Its number, or -ENOENT. */
static int leftover_find(UblkControl *c, const UblkOwner *wanted) {
        unsigned all[NUMBERS_MAX], n = numbers(all), state;
        UblkOwner o;
        for (unsigned i = 0; i < n; i++) {
                uint64_t deadline = now_usec() + SETTLE_USEC;
                if (!is_of(c, all[i], wanted->store, &o, &state) || o.kind != NODE_VOLUME || o.volume != wanted->volume)
                        continue;
                while (state == UBLK_STATE_LIVE && now_usec() < deadline) {
                        (void) usleep(TICK_USEC);
                        if (!is_of(c, all[i], wanted->store, &o, &state))
                                return -ENOENT;
                }
                if (state == UBLK_STATE_QUIESCED)
                        return (int) all[i];
        }
        return -ENOENT;
}

/* --- making ------------------------------------------------------------------------------------------------------- */

static void setting_write(unsigned number, const char *name, const char *value) {
        char path[64];
        (void) snprintf(path, sizeof(path), "/sys/block/ublkb%u/queue/%s", number, name);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd >= 0)
                (void) !write(fd, value, strlen(value));
}

static void settings_write(unsigned number, uint32_t kind) {
        char text[16];
        setting_write(number, "scheduler", "none"); /* the origin's device has one */
        (void) snprintf(text, sizeof(text), "%u", ublk_depth(kind) - 1);
        setting_write(number, "nr_requests", text);
        (void) snprintf(text, sizeof(text), "%d", IO_TIMEOUT_MSEC);
        setting_write(number, "io_timeout", text);
}

static int device_take(UblkControl *c, Node *n, unsigned number, char *text, size_t size) {
        uint64_t bytes = 0;
        int r = ublk_bytes(c, number, &bytes);
        if (r < 0 || bytes != n->bytes)
                return fail(text, size, r < 0 ? r : -EINVAL,
                            "/dev/ublkb%u is what a vss-cow that died has left of this volume, and has not its size: "
                            "unmount it, then \"vssctl volume detach %s\"",
                            number, n->name);
        __atomic_store_n(&n->ublk, number + 1, __ATOMIC_SEQ_CST);
        return 0;
}

static int device_start(UblkControl *c, Node *n, const UblkMake *m, char *text, size_t size) {
        unsigned number = n->ublk - 1;
        m->added(m->userdata);
        int r = ublk_start(c, number, m->server);
        if (r == -EEXIST) /* it has been, and nobody heard of it */
                r = 0;
        if (r == 0) {
                settings_write(number, n->kind);
                return 0;
        }
        if (ublk_delete(c, number) >= 0)
                __atomic_store_n(&n->ublk, 0, __ATOMIC_SEQ_CST);
        return fail(text, size, r, "the ublk device cannot be started: %s", strerror(-r));
}

int ublk_device_make(UblkControl *c, Node *n, const UblkMake *m, char *text, size_t size) {
        int left = n->ublk || n->kind != NODE_VOLUME ? -ENOENT : leftover_find(c, &m->owner), r;
        if (left >= 0) {
                r = device_take(c, n, (unsigned) left, text, size);
                if (r < 0)
                        return r;
                m->added(m->userdata);
        } else {
                r = n->ublk ? (int) n->ublk - 1 : ublk_add(c, n, &m->owner);
                if (r < 0)
                        return fail(text, size, r, "no ublk device can be made: %s", strerror(-r));
                __atomic_store_n(&n->ublk, (uint32_t) r + 1, __ATOMIC_SEQ_CST);
                r = device_start(c, n, m, text, size);
                if (r < 0)
                        return r;
        }
        path_of(n->ublk - 1, n->device);
        return 0;
}

/* --- dropping ----------------------------------------------------------------------------------------------------- */

/* 1, 0, or -EACCES: it cannot be seen. */
static int process_has_open(int proc, const char *pid, dev_t device) {
        char path[32];
        struct stat st;
        const struct dirent *e;
        int found = 0;
        (void) snprintf(path, sizeof(path), "%.16s/fd", pid);
        int fd = openat(proc, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d) {
                int r = errno == EACCES || errno == EPERM ? -EACCES : 0;
                (void) close_fd(fd);
                return r;
        }
        while (found <= 0 && (e = readdir(d)))
                if (e->d_name[0] == '.')
                        continue;
                else if (fstatat(fd, e->d_name, &st, 0) == 0)
                        found = S_ISBLK(st.st_mode) && st.st_rdev == device ? 1 : found;
                else if (errno == EACCES || errno == EPERM)
                        found = -EACCES;
        (void) closedir(d);
        return found;
}

/* The kernel ends a ublk device whoever has it open, and does not say whether somebody has. As above. */
static int is_open_elsewhere(dev_t device) {
        DIR *d = opendir("/proc");
        const struct dirent *e;
        char self[16];
        int found = d ? 0 : -EACCES;
        (void) snprintf(self, sizeof(self), "%d", getpid());
        while (d && found <= 0 && (e = readdir(d)))
                if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && !streq(e->d_name, self)) {
                        int r = process_has_open(dirfd(d), e->d_name, device);
                        found = r != 0 ? r : found;
                }
        if (d)
                (void) closedir(d);
        return found;
}

/* The one user that has no process. */
static int loop_over(dev_t device) {
        for (int i = 0; i < LOOPS_MAX; i++) {
                char path[DEVICE_PATH_MAX];
                struct loop_info64 info;
                (void) snprintf(path, sizeof(path), "/dev/loop%d", i);
                _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
                if (fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) == 0 && info.lo_rdevice &&
                    makedev((info.lo_rdevice >> 8) & 0xfff,
                            (info.lo_rdevice & 0xff) | ((info.lo_rdevice >> 12) & 0xfff00)) == device)
                        return i;
        }
        return -1;
}

/* 0: nobody uses it, and nobody can mount it as long as we have *ret. 1: there is no such device any more. */
static int device_claim(const char *path, int *ret, char *text, size_t size) {
        struct stat st;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_EXCL | O_CLOEXEC);
        if (fd < 0 && errno == EBUSY)
                return fail(text, size, -EBUSY, "%s is in use: unmount it first (findmnt -S %s)", path, path);
        if (fd < 0)
                return errno == ENOENT || errno == ENXIO || errno == ENODEV ?
                               1 :
                               fail(text, size, -errno, "%s: %s", path, strerror(errno));
        if (fstat(fd, &st) < 0 || !S_ISBLK(st.st_mode))
                return fail(text, size, -ENOTBLK, "%s is not a block device", path);
        int loop = loop_over(st.st_rdev);
        if (loop >= 0)
                return fail(text, size, -EBUSY, "%s is attached to /dev/loop%d: run \"losetup -d /dev/loop%d\" first",
                            path, loop, loop);
        int open_elsewhere;
        for (unsigned i = 0; (open_elsewhere = is_open_elsewhere(st.st_rdev)) != 0; i++) {
                if (open_elsewhere < 0)
                        return fail(
                                text, size, -EPERM,
                                "whether somebody has %s open cannot be seen: vss-cow lacks CAP_SYS_PTRACE or /proc",
                                path);
                if (i == DROP_TRIES) /* udev opens what is new for a moment */
                        return fail(text, size, -EBUSY, "%s is open: close it first (fuser -v %s)", path, path);
                (void) usleep(TICK_USEC);
        }
        if (fsync(fd) < 0) /* what somebody wrote and did not sync would be refused by a device that ends */
                return fail(text, size, -errno, "%s cannot be flushed: %s", path, strerror(errno));
        *ret = TAKE_FD(fd);
        return 0;
}

int ublk_device_drop(UblkControl *c, Node *n, char *text, size_t size) {
        _cleanup_close_ int claimed = -EBADF;
        char path[DEVICE_PATH_MAX];
        if (!n->ublk)
                return 0;
        path_of(n->ublk - 1, path);
        int r = device_claim(path, &claimed, text, size); /* even if nobody was told of it: a dead holder may have */
        if (r < 0)
                return r;
        r = ublk_stop(c, n->ublk - 1);
        claimed = close_fd(claimed);
        if (r >= 0 || r == -ENODEV)
                r = ublk_delete(c, n->ublk - 1);
        if (r < 0 && r != -ENODEV)
                return fail(text, size, r, "%s cannot be ended: %s", path, strerror(-r));
        __atomic_store_n(&n->ublk, 0, __ATOMIC_SEQ_CST);
        return 0;
}
