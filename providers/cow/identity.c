/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "providers/cow/identity.h"
#include "providers/cow/crc32c.h"
#include <blkid/blkid.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { VALUE_MAX = 512, PATH_SIZE = 1024, DEVICES_MAX = 65536 };

typedef struct Kind {
        const char *name;
        const char *attributes[3]; /* of the device in sysfs; the first that has a value */
} Kind;

static const Kind kinds[] = {
        { "dm", { "dm/uuid" } },
        { "md", { "md/uuid" } },
        { "wwid", { "wwid", "device/wwid" } },
        { "serial", { "serial", "device/serial", "device/cid" } },
};

static bool attribute_read(const char *device, const char *name, char ret[static VALUE_MAX]) {
        char path[PATH_SIZE];
        if (snprintf(path, sizeof(path), "%s/%s", device, name) >= (int) sizeof(path))
                return false;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
        ssize_t n = fd < 0 ? -1 : read(fd, ret, VALUE_MAX - 1);
        if (n <= 0)
                return false;
        ret[n] = '\0';
        return true;
}

/* Words without blanks or bytes that a terminal would take amiss; "" if nothing is left. */
static void value_clean(char *value) {
        char *to = value;
        for (const char *from = value; *from; from++) {
                bool blank = *from <= ' ' || *from > '~' || *from == '\\';
                if (!blank)
                        *to++ = *from;
                else if (to > value && to[-1] != '_')
                        *to++ = '_';
        }
        while (to > value && to[-1] == '_')
                to--;
        *to = '\0';
}

static bool value_of(const char *device, const Kind *k, char ret[static VALUE_MAX]) {
        for (size_t i = 0; i < ELEMENTSOF(k->attributes) && k->attributes[i]; i++) {
                if (!attribute_read(device, k->attributes[i], ret))
                        continue;
                value_clean(ret);
                if (ret[0])
                        return true;
        }
        return false;
}

/* In the table on the disk. dev has to be a node of devtmpfs, and the disk readable. */
static bool partition_uuid(dev_t disk, dev_t partition, char ret[static VALUE_MAX]) {
        char *path = blkid_devno_to_devname(disk);
        blkid_probe p = path ? blkid_new_probe_from_filename(path) : NULL;
        blkid_partlist list = p ? blkid_probe_get_partitions(p) : NULL;
        blkid_partition found = list ? blkid_partlist_devno_to_partition(list, partition) : NULL;
        const char *uuid = found ? blkid_partition_get_uuid(found) : NULL;
        (void) snprintf(ret, VALUE_MAX, "%s", uuid ?: "");
        blkid_free_probe(p);
        free(path);
        value_clean(ret);
        return ret[0];
}

static void identity_write(const char *kind, const char *value, unsigned partition, char ret[static IDENTITY_SIZE]) {
        char all[VALUE_MAX + 64], part[24] = "";
        if (partition)
                (void) snprintf(part, sizeof(part), "-part%u", partition);
        int n = snprintf(all, sizeof(all), "%s:%s%s", kind, value, part);
        if (n < IDENTITY_SIZE) {
                memcpy(ret, all, (size_t) n + 1);
                return;
        }
        (void) snprintf(ret, IDENTITY_SIZE, "%.30s~%08x", all, crc32c(0, all, (size_t) n));
}

static unsigned partition_number(const char *device) {
        char text[VALUE_MAX];
        return attribute_read(device, "partition", text) ? (unsigned) strtoul(text, NULL, 10) : 0;
}

static dev_t disk_of(const char *device) {
        char text[VALUE_MAX];
        unsigned a, b;
        return attribute_read(device, "../dev", text) && sscanf(text, "%u:%u", &a, &b) == 2 ? makedev(a, b) : 0;
}

/* kind: NULL, or the only one that is asked for, up to its colon. */
static void identity_by(const char *sysfs, dev_t dev, const char *kind, char ret[static IDENTITY_SIZE]) {
        char device[PATH_SIZE], disk[PATH_SIZE + 4], value[VALUE_MAX];
        size_t length = kind ? strcspn(kind, ":") : 0;
        ret[0] = '\0';
        (void) snprintf(device, sizeof(device), "%s/dev/block/%u:%u", sysfs, major(dev), minor(dev));
        unsigned partition = partition_number(device);
        (void) snprintf(disk, sizeof(disk), "%s%s", device, partition ? "/.." : "");
        for (size_t i = 0; i < ELEMENTSOF(kinds); i++)
                if ((!kind || (strncmp(kinds[i].name, kind, length) == 0 && !kinds[i].name[length])) &&
                    value_of(disk, &kinds[i], value)) {
                        identity_write(kinds[i].name, value, partition, ret);
                        return;
                }
        if (partition && (!kind || strncmp(kind, "partuuid:", 9) == 0) && partition_uuid(disk_of(device), dev, value))
                identity_write("partuuid", value, 0, ret);
}

void identity_read(const char *sysfs, dev_t dev, char ret[static IDENTITY_SIZE]) {
        identity_by(sysfs, dev, NULL, ret);
}

IdentityVerdict identity_compare(const char *sysfs, dev_t dev, const char *identity) {
        char is[IDENTITY_SIZE];
        identity_by(sysfs, dev, identity, is);
        return !is[0] ? IDENTITY_UNKNOWN : streq(is, identity) ? IDENTITY_SAME : IDENTITY_ANOTHER;
}

bool identity_is(const char *sysfs, dev_t dev, const char *identity) {
        return identity_compare(sysfs, dev, identity) == IDENTITY_SAME;
}

/* How many devices are this disk; *ret is the last. */
static unsigned find_all(const char *sysfs, const char *identity, char *ret, size_t size) {
        char path[PATH_SIZE];
        unsigned found = 0, looked = 0;
        struct dirent *e;
        (void) snprintf(path, sizeof(path), "%s/dev/block", sysfs);
        DIR *d = opendir(path);
        while (d && looked < DEVICES_MAX && (e = readdir(d))) {
                char link[PATH_SIZE];
                unsigned a, b;
                if (sscanf(e->d_name, "%u:%u", &a, &b) != 2)
                        continue;
                looked++;
                ssize_t n = readlinkat(dirfd(d), e->d_name, link, sizeof(link) - 1);
                if (n <= 0 || !identity_is(sysfs, makedev(a, b), identity))
                        continue;
                link[n] = '\0';
                const char *name = strrchr(link, '/');
                (void) snprintf(ret, size, "/dev/%s", name ? name + 1 : link);
                found++;
        }
        if (d)
                (void) closedir(d);
        return found;
}

static int say_absent(const char *sysfs, const char *path, const struct stat *st, const char *identity, char *text,
                      size_t n) {
        char is[IDENTITY_SIZE];
        identity_read(sysfs, st->st_rdev, is);
        (void) snprintf(text, n,
                        "%s is now another disk (%s), and the one that the volume has (%s) is missing: bring it back; "
                        "if its content was moved to this one, attach with --force",
                        path, is[0] ? is : "without an identity", identity);
        return -ENOENT;
}

int identity_locate(const char *sysfs, const char *path, const char *identity, char *ret, size_t size, char *text,
                    size_t n) {
        struct stat st;
        bool there = stat(path, &st) == 0 && S_ISBLK(st.st_mode);
        (void) snprintf(ret, size, "%s", path);
        if (!identity[0] || (there && identity_is(sysfs, st.st_rdev, identity)))
                return 0;
        switch (find_all(sysfs, identity, ret, size)) {
        case 1:
                return 0;
        case 0:
                (void) snprintf(ret, size, "%s", path);
                return there ? say_absent(sysfs, path, &st, identity, text, n) : 0; /* who opens it says so */
        default:
                (void) snprintf(text, n,
                                "the disk of the volume (%s) is there more than once, and not as %s: use the multipath "
                                "device, or take one path away",
                                identity, path);
                return -EBUSY;
        }
}
