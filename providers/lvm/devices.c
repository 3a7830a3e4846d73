/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the kernel knows about device-mapper devices, from sysfs and its control device: that needs neither lvm nor a
 * look at any disk. lvm itself reads every device it may look at, and one that is suspended, or served by a process
 * that has died, stops it for good; so each call gets the list of devices that it needs and no others.
 *
 * A logical volume's snapshot freezes the file system on it. Where FIFREEZE holds that file system already, kernels
 * before 6.8 refuse the second freeze, and lvm leaves the volume half-made (hazards A3). Whether this kernel can is
 * read from its own description of its types: the flag FREEZE_MAY_NEST came with the ability, also where a distribution
 * has put it into an older kernel; the version is asked only where there is no such description. VSS_LVM_HOLD
 * (vssd.conf: lvm_hold) overrides both.
 */
#include "providers/lvm/lvm.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/loop.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>

#define DM_CONTROL "/dev/mapper/control"
#define ENGINE_LABEL "vss-cow:" /* begins the name that vss-cow gives its loop devices */

enum { DEPTH_MAX = 16, FREEZE_NESTS_MAJOR = 6, FREEZE_NESTS_MINOR = 8, LVM_PREFIX_BYTES = 4, KERNEL_CHUNK = 64 * 1024 };

static int read_line(char *ret, size_t size, const char *format, ...) _printf_(3, 4);
static int read_line(char *ret, size_t size, const char *format, ...) {
        char path[320];
        va_list ap;
        va_start(ap, format);
        int n = vsnprintf(path, sizeof(path), format, ap);
        va_end(ap);
        if (n >= (int) sizeof(path))
                return -ENAMETOOLONG;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        ssize_t got = read(fd, ret, size - 1);
        if (got < 0)
                return -errno;
        ret[got] = '\0';
        ret[strcspn(ret, "\n")] = '\0';
        return 0;
}

bool lvm_kernel_has_dm(void) {
        struct stat st;
        return stat(DM_CONTROL, &st) >= 0 && S_ISCHR(st.st_mode);
}

bool lvm_kernel_has_target(const char *target) {
        struct {
                struct dm_ioctl header;
                char answer[sizeof(struct dm_target_versions) + 128];
        } q = { .header = { .version = { 4, 41, 0 }, .data_size = sizeof(q), .data_start = sizeof(q.header) } };
        _cleanup_close_ int fd = open(DM_CONTROL, O_RDWR | O_CLOEXEC);
        if (fd < 0)
                return false;
        (void) snprintf(q.header.name, sizeof(q.header.name), "%s", target);
        return ioctl(fd, DM_GET_TARGET_VERSION, &q) >= 0;
}

/* Is the word in the kernel's own description? -1: there is none. */
static int kernel_mentions(const char *word) {
        static char buffer[KERNEL_CHUNK + 64];
        size_t kept = 0, length = strlen(word);
        assert(length < 64);
        _cleanup_close_ int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return -1;
        for (ssize_t n; (n = read(fd, buffer + kept, KERNEL_CHUNK)) > 0;) {
                size_t have = kept + (size_t) n;
                if (memmem(buffer, have, word, length))
                        return 1;
                kept = MIN_OF(have, length - 1);
                memmove(buffer, buffer + have - kept, kept);
        }
        return 0;
}

static bool kernel_is_new(void) {
        struct utsname u;
        unsigned a = 0, b = 0;
        if (uname(&u) < 0 || sscanf(u.release, "%u.%u", &a, &b) != 2)
                return false;
        return a > FREEZE_NESTS_MAJOR || (a == FREEZE_NESTS_MAJOR && b >= FREEZE_NESTS_MINOR);
}

bool lvm_kernel_freezes_nested(void) {
        const char *said = secure_getenv("VSS_LVM_HOLD");
        if (streq_null(said, "yes") || streq_null(said, "no"))
                return streq(said, "yes");
        int known = kernel_mentions("FREEZE_MAY_NEST");
        return known < 0 ? kernel_is_new() : known;
}

static int read_dm_uuid(const char *block, char *ret, size_t size) {
        return read_line(ret, size, "/sys/class/block/%s/dm/uuid", block);
}

static bool uuid_is_lvm(const char *uuid) {
        return strncmp(uuid, "LVM-", LVM_PREFIX_BYTES) == 0 &&
               strlen(uuid) >= LVM_PREFIX_BYTES + 2 * (LVM_UUID_BYTES - 1);
}

int lvm_identify(dev_t dev, LvmIdentity *ret) {
        char uuid[160];
        const size_t half = LVM_UUID_BYTES - 1;
        if (read_line(uuid, sizeof(uuid), "/sys/dev/block/%u:%u/dm/uuid", major(dev), minor(dev)) < 0 ||
            !uuid_is_lvm(uuid) || strlen(uuid) != LVM_PREFIX_BYTES + 2 * half)
                return -EOPNOTSUPP;
        (void) snprintf(ret->vg_uuid, sizeof(ret->vg_uuid), "%.*s", (int) half, uuid + LVM_PREFIX_BYTES);
        (void) snprintf(ret->lv_uuid, sizeof(ret->lv_uuid), "%.*s", (int) half, uuid + LVM_PREFIX_BYTES + half);
        return 0;
}

bool lvm_is_suspended(dev_t dev) {
        char text[16];
        return read_line(text, sizeof(text), "/sys/dev/block/%u:%u/dm/suspended", major(dev), minor(dev)) >= 0 &&
               streq(text, "1");
}

/* Calls f for every entry of a directory of sysfs; stops at the first result other than 0. */
typedef int (*EntryFunction)(const char *name, void *userdata);
static int each_entry(const char *path, EntryFunction f, void *userdata) {
        DIR *d = opendir(path);
        int r = 0;
        if (!d)
                return errno == ENOENT ? 0 : -errno;
        for (struct dirent *e; r == 0 && (e = readdir(d));)
                if (e->d_name[0] != '.')
                        r = f(e->d_name, userdata);
        (void) closedir(d);
        return r;
}

static int layer_matches(const char *name, void *userdata) {
        char uuid[160];
        return strncmp(name, "dm-", 3) == 0 && read_dm_uuid(name, uuid, sizeof(uuid)) >= 0 && streq(uuid, userdata);
}

bool lvm_layer_exists(const LvmIdentity *l, const char *suffix) {
        char uuid[160];
        (void) snprintf(uuid, sizeof(uuid), "LVM-%s%s%s", l->vg_uuid, l->lv_uuid, suffix);
        return each_entry("/sys/block", layer_matches, uuid) == 1;
}

_Static_assert(offsetof(struct dm_target_msg, message) == sizeof(uint64_t), "what follows the head of a message");

static int tell_pool(const char *vg_uuid, const char *pool_uuid, const char *message) {
        struct {
                struct dm_ioctl header;
                uint64_t sector; /* a struct dm_target_msg */
                char message[64];
        } q = { .header = { .version = { DM_VERSION_MAJOR, 0, 0 },
                            .data_size = sizeof(q),
                            .data_start = sizeof(q.header) } };
        _cleanup_close_ int fd = open(DM_CONTROL, O_RDWR | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        (void) snprintf(q.header.uuid, sizeof(q.header.uuid), "LVM-%s%s-tpool", vg_uuid, pool_uuid);
        (void) snprintf(q.message, sizeof(q.message), "%s", message);
        return ioctl(fd, DM_TARGET_MSG, &q) < 0 ? -errno : 0;
}

int lvm_thin_delete(const char *vg_uuid, const char *pool_uuid, uint64_t thin_id) {
        char message[64];
        (void) snprintf(message, sizeof(message), "delete %llu", (unsigned long long) thin_id);
        return tell_pool(vg_uuid, pool_uuid, message);
}

int lvm_thin_snapshot(const char *vg_uuid, const char *pool_uuid, uint64_t thin_id, uint64_t of) {
        char message[64];
        (void) snprintf(message, sizeof(message), "create_snap %llu %llu", (unsigned long long) thin_id,
                        (unsigned long long) of);
        return tell_pool(vg_uuid, pool_uuid, message);
}

void lvm_where_mounted(dev_t dev, char *ret, size_t size) {
        char line[8192], place[4096];
        unsigned a, b;
        FILE *f = fopen("/proc/self/mountinfo", "re");
        ret[0] = '\0';
        while (f && fgets(line, sizeof(line), f))
                if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &a, &b, place) == 3 && makedev(a, b) == dev &&
                    (!ret[0] || streq(place, "/")))
                        (void) snprintf(ret, size, "%.*s", (int) size - 1, place);
        if (f)
                (void) fclose(f);
}

typedef struct Devices {
        const char *vg_uuid; /* NULL: of all groups */
        char *text;
        size_t size, length;
        unsigned depth;
} Devices;

static bool devices_have(const Devices *d, const char *name) {
        size_t n = strlen(name);
        for (const char *p = d->text; (p = strstr(p, name)); p += n)
                if (p[-1] == '/' && (!p[n] || p[n] == ','))
                        return true;
        return false;
}

static int devices_add(Devices *d, const char *block) {
        char name[128];
        (void) snprintf(name, sizeof(name), "%s", block);
        for (char *p = name; *p; p++) /* "cciss!c0d0" is /dev/cciss/c0d0 */
                if (*p == '!')
                        *p = '/';
        if (devices_have(d, name))
                return 0;
        int n = snprintf(d->text + d->length, d->size - d->length, "%s/dev/%s", d->length > 0 ? "," : "", name);
        if (n < 0 || (size_t) n >= d->size - d->length)
                return -E2BIG;
        d->length += (size_t) n;
        return 0;
}

static bool is_suspended_by_name(const char *block) {
        char text[16];
        return read_line(text, sizeof(text), "/sys/class/block/%s/dm/suspended", block) >= 0 && streq(text, "1");
}

/* It, or anything below it. */
static int find_suspended(const char *block, void *userdata) {
        unsigned *depth = userdata;
        char path[320];
        if (is_suspended_by_name(block))
                return 1;
        if (*depth == DEPTH_MAX)
                return 0;
        (*depth)++;
        (void) snprintf(path, sizeof(path), "/sys/class/block/%s/slaves", block);
        int r = each_entry(path, find_suspended, userdata);
        (*depth)--;
        return r;
}

static bool stack_is_suspended(const char *block) {
        unsigned depth = 0;
        return find_suspended(block, &depth) > 0;
}

/* What a logical volume lies on, down to what is no part of a volume group any more. */
static int add_below(const char *block, void *userdata) {
        Devices *d = userdata;
        char uuid[160], path[320];
        if (read_dm_uuid(block, uuid, sizeof(uuid)) < 0 || !uuid_is_lvm(uuid))
                return stack_is_suspended(block) ? -EBUSY : devices_add(d, block);
        if (d->depth == DEPTH_MAX)
                return -ELOOP;
        d->depth++;
        (void) snprintf(path, sizeof(path), "/sys/class/block/%s/slaves", block);
        int r = each_entry(path, add_below, d);
        d->depth--;
        return r;
}

static int add_group(const char *block, void *userdata) {
        const Devices *d = userdata;
        char uuid[160];
        if (strncmp(block, "dm-", 3) != 0 || read_dm_uuid(block, uuid, sizeof(uuid)) < 0 || !uuid_is_lvm(uuid))
                return 0;
        if (d->vg_uuid && strncmp(uuid + LVM_PREFIX_BYTES, d->vg_uuid, LVM_UUID_BYTES - 1) != 0)
                return 0;
        return add_below(block, userdata);
}

static bool is_of_our_engine(const char *block) {
        char path[160];
        struct loop_info64 info;
        (void) snprintf(path, sizeof(path), "/dev/%s", block);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        return fd < 0 || ioctl(fd, LOOP_GET_STATUS64, &info) < 0 ||
               strncmp((const char *) info.lo_file_name, ENGINE_LABEL, sizeof(ENGINE_LABEL) - 1) == 0;
}

/* Any disk that could be part of a group and answers. */
static int add_any(const char *block, void *userdata) {
        static const char *const never[] = { "ram", "zram", "sr", "fd", "nbd", "ublkb" };
        char text[32], uuid[160];
        for (size_t i = 0; i < ELEMENTSOF(never); i++)
                if (strncmp(block, never[i], strlen(never[i])) == 0)
                        return 0;
        if (read_line(text, sizeof(text), "/sys/class/block/%s/size", block) < 0 || streq(text, "0"))
                return 0;
        if (strncmp(block, "loop", 4) == 0 && is_of_our_engine(block))
                return 0;
        if ((read_dm_uuid(block, uuid, sizeof(uuid)) >= 0 && uuid_is_lvm(uuid)) || stack_is_suspended(block))
                return 0;
        return devices_add(userdata, block);
}

int lvm_devices(const char *vg_uuid, bool wide, char *ret, size_t size) {
        Devices d = { .vg_uuid = vg_uuid, .text = ret, .size = size };
        assert(size > 0);
        ret[0] = '\0';
        int r = wide ? each_entry("/sys/class/block", add_any, &d) : each_entry("/sys/block", add_group, &d);
        return r < 0 ? r : ret[0] ? 0 : -ENOENT;
}
