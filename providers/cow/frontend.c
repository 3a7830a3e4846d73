/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "providers/cow/frontend.h"
#include "providers/cow/device.h"
#include "providers/cow/ublk-device.h"
#include <fcntl.h>
#include <linux/mount.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { SWEEP_MSEC = 20000 };

static const char *const names[FRONTEND_MAX] = { "auto", "ublk", "fuse" };

Frontend frontend_by_name(const char *name) {
        unsigned f = 0;
        while (f < FRONTEND_MAX && !streq(names[f], name))
                f++;
        return (Frontend) f;
}

/* --- which one ---------------------------------------------------------------------------------------------------- */

/* A FUSE mount that is in no namespace: nobody can see it, unmount it or walk over it. */
static int mount_make(int fuse) {
        char text[16];
        _cleanup_close_ int context = (int) syscall(SYS_fsopen, "fuse", FSOPEN_CLOEXEC);
        (void) snprintf(text, sizeof(text), "%d", fuse);
        if (context < 0 || syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", "vss-cow", 0) < 0 ||
            syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "fd", text, 0) < 0 ||
            syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "rootmode", "40700", 0) < 0 ||
            syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "user_id", "0", 0) < 0 ||
            syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "group_id", "0", 0) < 0 ||
            syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
                return -errno;
        int mount = (int) syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC,
                                  MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
        return mount < 0 ? -errno : mount;
}

static int say(const char *what, int r) {
        fprintf(stderr, "vss-cow: %s: %s\n", what, strerror(-r));
        return r;
}

static int fuse_open(FrontendFiles *ret) {
        _cleanup_close_ int fuse = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
        if (fuse < 0)
                return say("/dev/fuse", -errno);
        ret->mount = mount_make(fuse);
        if (ret->mount < 0)
                return say("the FUSE mount", ret->mount);
        ret->fuse = TAKE_FD(fuse);
        return 0;
}

static int ublk_open(FrontendFiles *ret) {
        _cleanup_(ublk_control_freep) UblkControl *c = NULL;
        _cleanup_close_ int control = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
        int r = control < 0 ? -errno : ublk_control_new(control, &c);
        if (r < 0)
                return r;
        ret->devices = open("/dev", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (ret->devices < 0)
                return -errno;
        ret->ublk = TAKE_FD(control);
        return 0;
}

int frontend_open(Frontend wanted, FrontendFiles *ret) {
        *ret = (FrontendFiles) { .fuse = -1, .mount = -1, .ublk = -1, .devices = -1 };
        int r = wanted == FRONTEND_FUSE ? -EOPNOTSUPP : ublk_open(ret);
        if (r == 0)
                return 0;
        if (wanted != FRONTEND_UBLK)
                return fuse_open(ret);
        if (r == -ENOENT)
                fprintf(stderr, "vss-cow: there is no /dev/ublk-control: run \"modprobe ublk_drv\" (Linux 6.5 or later "
                                "has what is needed), or use --frontend=fuse\n");
        else if (r == -EOPNOTSUPP)
                fprintf(stderr, "vss-cow: this kernel's ublk cannot give a device to another server (Linux 6.5 can): "
                                "use --frontend=fuse\n");
        else
                return say("/dev/ublk-control", r);
        return -EOPNOTSUPP;
}

/* --- devices ------------------------------------------------------------------------------------------------------ */

static int control_of(const FrontendFiles *f, UblkControl **ret, char *text, size_t size) {
        int r = ublk_control_new(f->ublk, ret);
        if (r < 0)
                (void) snprintf(text, size, "/dev/ublk-control cannot be used: %s", strerror(-r));
        return r;
}

int frontend_make(const FrontendFiles *f, Node *n, const FrontendMake *m, char *text, size_t size) {
        _cleanup_(ublk_control_freep) UblkControl *c = NULL;
        char device[DEVICE_PATH_MAX] = "";
        UblkMake u = { .owner = { .kind = (uint16_t) n->kind, .volume = (uint16_t) n->volume },
                       .server = m->server,
                       .added = m->added,
                       .userdata = m->userdata };
        memcpy(u.owner.store, m->store, sizeof(u.owner.store));
        if (f->ublk >= 0) {
                int r = control_of(f, &c, text, size);
                return r < 0 ? r : ublk_device_make(c, n, &u, text, size);
        }
        int r = device_make(f->mount, n, m->label, device, text, size);
        if (r >= 0)
                memcpy(n->device, device, sizeof(n->device));
        return r;
}

int frontend_drop(const FrontendFiles *f, Node *n, const char *label, char *text, size_t size) {
        _cleanup_(ublk_control_freep) UblkControl *c = NULL;
        if (f->ublk < 0)
                return n->device[0] ? device_drop(n->device, label, text, size) : 0;
        int r = control_of(f, &c, text, size);
        return r < 0 ? r : ublk_device_drop(c, n, text, size);
}

/* --- what a dead one left ----------------------------------------------------------------------------------------- */

static _Noreturn void sweep_main(const FrontendFiles *f, const char *label, const uint8_t store[4], bool *left) {
        _cleanup_close_ int control = open("/dev/ublk-control", O_RDWR | O_CLOEXEC);
        UblkControl *c = NULL;
        devices_sweep(label);
        if (control >= 0 && ublk_control_new(control, &c) == 0)
                ublk_devices_sweep(c, store, f->ublk >= 0, left);
        _exit(0);
}

/* In a child: a device that cannot end must not keep the others waiting. */
int frontend_sweep(const FrontendFiles *f, const char *label, const uint8_t store[4], bool left[VOLUME_NUMBERS]) {
        bool *shared = mmap(NULL, VOLUME_NUMBERS, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        uint64_t deadline = now_usec() + SWEEP_MSEC * USEC_PER_MSEC;
        if (shared == MAP_FAILED)
                return -errno;
        pid_t pid = fork(), ended = 0;
        if (pid == 0)
                sweep_main(f, label, store, shared);
        while (pid > 0 && (ended = waitpid(pid, NULL, WNOHANG)) == 0 && now_usec() < deadline)
                (void) usleep(1000);
        if (pid > 0 && ended == 0) {
                (void) kill(pid, SIGKILL);
                fprintf(stderr, "vss-cow: the kernel does not end a device that a dead vss-cow has left\n");
        }
        memcpy(left, shared, VOLUME_NUMBERS);
        (void) munmap(shared, VOLUME_NUMBERS);
        return pid < 0 ? -EAGAIN : 0;
}
