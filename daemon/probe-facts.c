/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Single facts, each from the kernel where it has an interface and from the disk only where it has none. */
#include "daemon/probe-facts.h"
#include <blkid/blkid.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct uuid_answer {
        uint8_t size, bytes[16];
};
#define GET_FS_UUID _IOR(0x15, 0, struct uuid_answer) /* FS_IOC_GETFSUUID, Linux 6.9 */

int identity_of(int fd, Identity *ret) {
        struct statx st;

        /* Not asking a server again: a dead one must not stop us from saying that it is a network file system. */
        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE | STATX_INO | STATX_MNT_ID, &st) < 0)
                return -errno;
        *ret = (Identity) {
                .dev = makedev(st.stx_dev_major, st.stx_dev_minor),
                .rdev = makedev(st.stx_rdev_major, st.stx_rdev_minor),
                .inode = st.stx_ino,
                .mode = st.stx_mode & S_IFMT,
                .mount_id = (int) st.stx_mnt_id,
        };
        return 0;
}

static int read_line(int directory, const char *path, char *ret, size_t size) {
        _cleanup_close_ int fd = openat(directory, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        ssize_t n;

        if (fd < 0)
                return -errno;
        n = read(fd, ret, size - 1);
        if (n < 0)
                return -errno;
        ret[n] = '\0';
        ret[strcspn(ret, "\n")] = '\0';
        return 0;
}

int sysfs_blocks(void) {
        static int directory = -EBADF;

        if (directory < 0)
                directory = open("/sys/dev/block", O_PATH | O_DIRECTORY | O_CLOEXEC);
        return directory;
}

int sysfs_block_read(uint64_t dev, const char *attribute, char *ret, size_t size) {
        char path[512];

        (void) snprintf(path, sizeof(path), "%u:%u/%s", major(dev), minor(dev), attribute);
        return sysfs_blocks() < 0 ? -ENOENT : read_line(sysfs_blocks(), path, ret, size);
}

int parse_dev(const char *s, uint64_t *ret) {
        unsigned a, b;
        char end;

        if (sscanf(s, "%u:%u%c", &a, &b, &end) != 2)
                return -EINVAL;
        *ret = makedev(a, b);
        return 0;
}

int device_name(uint64_t dev, char *ret, size_t size) {
        char text[4096], path[128], *name;
        ssize_t n;

        if (sysfs_block_read(dev, "dm/name", text, sizeof(text)) >= 0 && text[0]) {
                (void) snprintf(ret, size, "/dev/mapper/%.200s", text);
                return 0;
        }
        (void) snprintf(path, sizeof(path), "%u:%u", major(dev), minor(dev));
        n = readlinkat(sysfs_blocks(), path, text, sizeof(text) - 1);
        if (n < 0)
                return -errno;
        text[n] = '\0';
        name = strrchr(text, '/');
        name = name ? name + 1 : text;
        for (char *p = name; *p; p++)
                if (*p == '!') /* sysfs cannot have the slash of /dev/cciss/c0d0 */
                        *p = '/';
        (void) snprintf(ret, size, "/dev/%.200s", name);
        return 0;
}

uint64_t device_size(uint64_t dev) {
        char text[64];

        return sysfs_block_read(dev, "size", text, sizeof(text)) < 0 ? 0 : strtoull(text, NULL, 10) * 512;
}

static bool is_swap(uint64_t dev) {
        char line[4096];
        bool found = false;
        FILE *f = fopen("/proc/swaps", "re");

        while (f && !found && fgets(line, sizeof(line), f)) {
                struct stat st;

                line[strcspn(line, " \t")] = '\0';
                found = line[0] == '/' && stat(line, &st) >= 0 && S_ISBLK(st.st_mode) && st.st_rdev == dev;
        }
        if (f)
                (void) fclose(f);
        return found;
}

const char *device_in_use(const Graph *g, uint64_t dev) {
        static char text[512];
        char name[256];

        if (is_swap(dev))
                return "it is used as swap space";
        for (size_t i = 0; i < g->n; i++) {
                const Node *a = &g->list[i];

                for (unsigned j = 0; j < a->n_below; j++) {
                        if (a->below[j] != dev || device_name(a->dev, name, sizeof(name)) < 0)
                                continue;
                        (void) snprintf(text, sizeof(text), "%s lies on it; name that", name);
                        return text;
                }
        }
        return NULL;
}

void device_signature(uint64_t dev, char *ret_type, size_t type_size, char *ret_uuid, size_t uuid_size) {
        char name[256];
        const char *value;
        blkid_probe probe;

        ret_type[0] = ret_uuid[0] = '\0';
        if (device_name(dev, name, sizeof(name)) < 0 || !(probe = blkid_new_probe_from_filename(name)))
                return;
        (void) blkid_probe_enable_superblocks(probe, 1);
        (void) blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_UUID | BLKID_SUBLKS_TYPE);
        if (blkid_do_safeprobe(probe) == 0) {
                if (blkid_probe_lookup_value(probe, "TYPE", &value, NULL) == 0)
                        (void) snprintf(ret_type, type_size, "%.31s", value);
                if (blkid_probe_lookup_value(probe, "UUID", &value, NULL) == 0)
                        (void) snprintf(ret_uuid, uuid_size, "%.63s", value);
        }
        blkid_free_probe(probe);
}

static uint32_t le32(const uint8_t *p) {
        return (uint32_t) p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24;
}

uint64_t ext4_external_journal(uint64_t dev) {
        enum { MAGIC = 0x38, COMPAT = 0x5c, JOURNAL_INODE = 0xe0, JOURNAL_DEVICE = 0xe4, HAS_JOURNAL = 4 };
        _cleanup_close_ int fd = -EBADF;
        uint8_t block[1024];
        char name[256];
        uint32_t code;

        if (device_name(dev, name, sizeof(name)) < 0)
                return 0;
        fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 || pread(fd, block, sizeof(block), 1024) != sizeof(block))
                return 0;
        if (block[MAGIC] != 0x53 || block[MAGIC + 1] != 0xef || !(le32(block + COMPAT) & HAS_JOURNAL) ||
            le32(block + JOURNAL_INODE) != 0)
                return 0;
        code = le32(block + JOURNAL_DEVICE);
        return makedev((code >> 8) & 0xfff, (code & 0xff) | ((code >> 12) & 0xfff00));
}

static void uuid_format(const uint8_t u[static 16], char *ret, size_t size) {
        (void) snprintf(ret, size, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", u[0], u[1],
                        u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]);
}

int fs_uuid(int fd, char *ret, size_t size) {
        static const uint8_t none[16] = {};
        struct uuid_answer answer = {};

        if (ioctl(fd, GET_FS_UUID, &answer) < 0)
                return -errno;
        if (answer.size != 16 || memcmp(answer.bytes, none, sizeof(none)) == 0)
                return -EOPNOTSUPP;
        uuid_format(answer.bytes, ret, size);
        return 0;
}

int btrfs_uuid(int fd, char *ret, size_t size) {
        struct btrfs_ioctl_fs_info_args info = {};

        if (ioctl(fd, BTRFS_IOC_FS_INFO, &info) < 0)
                return -errno;
        uuid_format(info.fsid, ret, size);
        return 0;
}

int btrfs_subvolume_id(int fd, uint64_t *ret) {
        struct btrfs_ioctl_ino_lookup_args args = { .objectid = BTRFS_FIRST_FREE_OBJECTID };

        if (ioctl(fd, BTRFS_IOC_INO_LOOKUP, &args) < 0)
                return -errno;
        *ret = args.treeid;
        return 0;
}

int btrfs_devices(int fd, uint64_t *devs, unsigned max) {
        char uuid[64], path[512], text[64];
        struct dirent *entry;
        unsigned n = 0;
        DIR *dir;
        int r = btrfs_uuid(fd, uuid, sizeof(uuid));

        if (r < 0)
                return r;
        (void) snprintf(path, sizeof(path), "/sys/fs/btrfs/%s/devices", uuid);
        dir = opendir(path);
        if (!dir)
                return -errno;
        while ((entry = readdir(dir))) {
                if (entry->d_name[0] == '.')
                        continue;
                (void) snprintf(path, sizeof(path), "/sys/fs/btrfs/%s/devices/%.200s/dev", uuid, entry->d_name);
                if (n >= max || read_line(AT_FDCWD, path, text, sizeof(text)) < 0 || parse_dev(text, &devs[n]) < 0) {
                        (void) closedir(dir);
                        return -E2BIG;
                }
                n++;
        }
        (void) closedir(dir);
        return (int) n;
}

void engine_links(char *ret, size_t size) {
        const char *runtime = secure_getenv("RUNTIME_DIRECTORY");

        if (isempty(runtime) || streq(runtime, "/run/vss"))
                (void) snprintf(ret, size, "/dev/vss");
        else
                (void) snprintf(ret, size, "%s/dev", runtime);
}

int engine_link_of(uint64_t dev, char *ret, size_t size) {
        char path[LIMIT_PATH_BYTES];
        struct dirent *entry;
        struct stat st;
        int r = -ENOENT;
        DIR *dir;

        engine_links(path, sizeof(path));
        dir = opendir(path);
        while (dir && r < 0 && (entry = readdir(dir)))
                if (entry->d_name[0] != '.' && fstatat(dirfd(dir), entry->d_name, &st, 0) >= 0 && S_ISBLK(st.st_mode) &&
                    st.st_rdev == dev)
                        r = snprintf(ret, size, "%s/%s", path, entry->d_name) < (int) size ? 0 : -ENAMETOOLONG;
        if (dir)
                (void) closedir(dir);
        return r;
}
