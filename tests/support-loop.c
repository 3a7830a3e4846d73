/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Real file systems that a test may freeze. The images lie on the sandbox's tmpfs, so that a frozen one never reaches a
 * disk of the machine, and the devices clear themselves, so that nothing is left when the sandbox's mounts go.
 */
#include "tests/support.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

enum { ATTACH_TRIES = 200, UNMOUNT_TRIES = 400 };

/* Returns the open device; it detaches with its last user. */
static int attach(const char *image, char **ret_device) {
        _cleanup_close_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        _cleanup_close_ int file = open(image, O_RDWR | O_CLOEXEC);
        if (control < 0 || file < 0)
                test_die("cannot open /dev/loop-control or %s", image);
        struct loop_config config = { .fd = (uint32_t) file, .info.lo_flags = LO_FLAGS_AUTOCLEAR };
        snprintf((char *) config.info.lo_file_name, LO_NAME_SIZE, "%s", image);
        /* another test may take the free device first: ask again */
        for (unsigned i = 0; i < ATTACH_TRIES; i++) {
                char *device = NULL;
                int n = ioctl(control, LOOP_CTL_GET_FREE);
                if (n < 0 || asprintf(&device, "/dev/loop%d", n) < 0)
                        test_die("no free loop device");
                int fd = open(device, O_RDWR | O_CLOEXEC);
                if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
                        *ret_device = device;
                        return fd;
                }
                (void) close_fd(fd);
                free(device);
                nap_msec(5);
        }
        test_die("no loop device for %s", image);
}

static void make_fs(const char *type, char *image) {
        char *ext4[] = { (char *) "mkfs.ext4", (char *) "-q", (char *) "-F", image, NULL };
        char *xfs[] = { (char *) "mkfs.xfs", (char *) "-q", (char *) "-f", image, NULL };
        char *btrfs[] = { (char *) "mkfs.btrfs", (char *) "-q", (char *) "-f", image, NULL };
        char **argv = streq(type, "ext4") ? ext4 : streq(type, "xfs") ? xfs : btrfs;
        if (run_command(argv) != 0)
                test_die("cannot make a %s file system on %s", type, image);
}

LoopFs *loop_fs_new(const char *type, unsigned size_mib) {
        static unsigned serial;
        LoopFs *fs = calloc(1, sizeof(*fs));
        if (!fs || asprintf(&fs->image, "%s/fs%u.img", sandbox_directory(), serial) < 0 ||
            asprintf(&fs->path, "%s/fs%u", sandbox_directory(), serial) < 0)
                test_die("out of memory");
        serial++;
        int fd = open(fs->image, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, (off_t) size_mib << 20) < 0 || mkdir(fs->path, 0755) < 0)
                test_die("cannot make %s", fs->image);
        (void) close_fd(fd);
        make_fs(type, fs->image);
        fd = attach(fs->image, &fs->device);
        if (mount(fs->device, fs->path, type, 0, NULL) < 0)
                test_die("cannot mount %s on %s", fs->device, fs->path);
        (void) close_fd(fd);
        return fs;
}

LoopFs *loop_fs_free(LoopFs *fs) {
        if (!fs)
                return NULL;
        (void) loop_fs_thaw(fs);
        for (unsigned i = 0; umount2(fs->path, 0) < 0; i++) {
                if (i == UNMOUNT_TRIES)
                        test_die("cannot unmount %s", fs->path);
                nap_msec(5);
        }
        (void) rmdir(fs->path);
        (void) unlink(fs->image);
        free(fs->path);
        free(fs->device);
        free(fs->image);
        free(fs);
        return NULL;
}

static int fs_ioctl(const LoopFs *fs, unsigned long request) {
        _cleanup_close_ int fd = open(fs->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                test_die("cannot open %s", fs->path);
        return ioctl(fd, request, 0) < 0 ? -errno : 0;
}

int loop_fs_thaw(const LoopFs *fs) {
        return fs_ioctl(fs, FITHAW);
}

int loop_fs_freeze(const LoopFs *fs) {
        return fs_ioctl(fs, FIFREEZE);
}

/* The kernel shows it nowhere: try, and take it back. */
bool loop_fs_is_frozen(const LoopFs *fs) {
        int r = loop_fs_freeze(fs);
        if (r == 0)
                (void) loop_fs_thaw(fs);
        return r == -EBUSY;
}
