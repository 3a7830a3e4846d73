/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What lies on what. A file system that is frozen before one that lies on it stops that one's write-back, and its
 * FIFREEZE then sleeps for ever (hazards B10). So every superblock and block device is a node, an edge goes down to
 * what carries it, and the level of a node is its longest path down: freezing from the highest level never freezes the
 * ground first. Mount depth says nothing about that: an image and the file system it lies on are often mounted side by
 * side.
 *
 * Where what is below cannot be known (a process serves it, a server elsewhere may be this machine) there is no safe
 * order, and graph_trouble() says so.
 */
#include "daemon/probe-facts.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

enum {
        DEPTH_MAX = 64,         /* of devices on devices */
        LEVEL_UNKNOWN = 0x8000, /* above every level that is known */
        STATE_NEW = 0,
        STATE_OPEN,
        STATE_DONE,
};

#define ENGINE_LABEL "vss-cow:" /* begins the name that vss-cow gives its loop devices */

static const char too_many[] = "it is made of too many devices to tell in which order to freeze";
static const char cycle[] = "it lies on itself";
static const char lost_backing[] = "the file behind its loop device cannot be found";
static const char served[] = "a process serves it, and what that process needs cannot be told";
static const char remote[] = "a network file system carries it, and what is below that cannot be told";

static size_t graph_place(const Graph *g, uint64_t dev) {
        size_t low = 0, high = g->n;

        while (low < high) {
                size_t middle = (low + high) / 2;

                if (g->list[middle].dev < dev)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low;
}

Node *graph_find(const Graph *g, uint64_t dev) {
        size_t i = graph_place(g, dev);

        return i < g->n && g->list[i].dev == dev ? &g->list[i] : NULL;
}

/* Pointers to nodes last until the next call. */
static int graph_add(Graph *g, uint64_t dev, Node **ret) {
        size_t i = graph_place(g, dev);

        if (i < g->n && g->list[i].dev == dev) {
                *ret = &g->list[i];
                return 0;
        }
        if (g->n >= NODES_MAX)
                return -E2BIG;
        if (g->n == g->space) {
                Node *more = reallocarray(g->list, g->space * 2 + 64, sizeof(*more));
                if (!more)
                        return -ENOMEM;
                g->list = more;
                g->space = g->space * 2 + 64;
        }
        memmove(g->list + i + 1, g->list + i, (g->n - i) * sizeof(*g->list));
        g->list[i] = (Node) { .dev = dev };
        g->n++;
        *ret = &g->list[i];
        return 0;
}

static void node_add_below(Node *a, uint64_t dev, bool own) {
        if (dev == a->dev)
                return;
        for (unsigned i = 0; i < a->n_below; i++)
                if (a->below[i] == dev) {
                        a->own[i] = a->own[i] || own;
                        return;
                }
        if (a->n_below == EDGES_MAX) {
                a->refused = too_many;
                return;
        }
        a->own[a->n_below] = own;
        a->below[a->n_below++] = dev;
}

static void add_slaves(Node *a) {
        char path[128], attribute[300], text[64];
        struct dirent *entry;
        uint64_t dev;
        DIR *dir;
        int fd;

        (void) snprintf(path, sizeof(path), "%u:%u/slaves", major(a->dev), minor(a->dev));
        fd = openat(sysfs_blocks(), path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        dir = fd < 0 ? NULL : fdopendir(fd);
        if (!dir)
                (void) close_fd(fd);
        while (dir && (entry = readdir(dir))) {
                (void) snprintf(attribute, sizeof(attribute), "slaves/%s/dev", entry->d_name);
                if (entry->d_name[0] != '.' && sysfs_block_read(a->dev, attribute, text, sizeof(text)) >= 0 &&
                    parse_dev(text, &dev) >= 0)
                        node_add_below(a, dev, false);
        }
        if (dir)
                (void) closedir(dir);
}

/* The superblock that shows files of this device number and inode, as the path says; the path alone may lie. */
static int backing_by_path(const Mounts *m, const char *path, uint64_t dev, uint64_t inode, uint64_t *ret) {
        struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS };
        _cleanup_close_ int fd = (int) syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
        const Mount *mount;
        Identity identity;

        if (fd < 0 || identity_of(fd, &identity) < 0 || identity.dev != dev || identity.inode != inode)
                return -ENOENT;
        mount = mounts_find(m, identity.mount_id);
        if (!mount)
                return -ENOENT;
        *ret = mount->dev;
        return 0;
}

/* A subvolume has a device number of its own that the mount table does not know. */
static int backing_by_subvolume(const Mounts *m, uint64_t dev, uint64_t *ret) {
        for (size_t i = 0; i < m->n; i++) {
                _cleanup_close_ int fd = -EBADF;
                Identity identity;

                if (m->list[i].dev == dev) {
                        *ret = dev;
                        return 0;
                }
                if (!streq(m->list[i].type, "btrfs") || !m->list[i].visible || mount_open(&m->list[i], &fd) < 0)
                        continue;
                if (identity_of(fd, &identity) >= 0 && identity.dev == dev) {
                        *ret = m->list[i].dev;
                        return 0;
                }
        }
        return -ENOENT;
}

static uint64_t group_of(const char *text, size_t n) {
        uint64_t hash = 0xcbf29ce484222325; /* FNV-1a; the top bit keeps it apart from device numbers */
        for (size_t i = 0; i < n; i++)
                hash = (hash ^ (uint8_t) text[i]) * 0x100000001b3;
        return (hash >> 2) | 1ULL << 63;
}

/*
 * A device of the built-in engine: nobody can see the file behind it, so vss-cow has left a line about what origin and
 * store lie on (providers/cow/device.h). Volumes of one store are a group like those of one volume group: their sets
 * take turns, since the log they share is written by one.
 */
static bool add_engine_line(Node *a, const Mounts *m, int dir, const char *file) {
        char line[256] = "", *save = NULL;
        _cleanup_close_ int fd = openat(dir, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        uint64_t below[2], found;
        if (fd < 0 || read(fd, line, sizeof(line) - 1) <= 0)
                return false;
        const char *label = strtok_r(line, " \n", &save);
        for (unsigned i = 0; i < 2; i++) {
                const char *word = strtok_r(NULL, " \n", &save);
                if (!word || parse_dev(word, &below[i]) < 0)
                        return false;
        }
        for (unsigned i = 0; i < 2; i++)
                node_add_below(a, backing_by_subvolume(m, below[i], &found) >= 0 ? found : below[i], false);
        a->group = group_of(label, strlen(label));
        return true;
}

static bool add_engine(Node *a, const Mounts *m, const char *kernel_name) {
        const char *runtime = secure_getenv("RUNTIME_DIRECTORY");
        char path[4096], file[64];
        struct dirent *entry;
        bool found = false;
        (void) snprintf(path, sizeof(path), "%s/cow", isempty(runtime) ? "/run/vss" : runtime);
        (void) snprintf(file, sizeof(file), "lies-on/%s", kernel_name);
        DIR *stores = opendir(path);
        while (stores && (entry = readdir(stores))) {
                _cleanup_close_ int dir = entry->d_name[0] == '.' ?
                                                  -EBADF :
                                                  openat(dirfd(stores), entry->d_name,
                                                         O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
                found = (dir >= 0 && add_engine_line(a, m, dir, file)) || found;
        }
        if (stores)
                (void) closedir(stores);
        return found;
}

static void add_loop(Node *a, const Mounts *m) {
        _cleanup_close_ int fd = -EBADF;
        char path[4096], name[256];
        struct loop_info64 info;
        uint64_t dev, backing;

        if (sysfs_block_read(a->dev, "loop/backing_file", path, sizeof(path)) < 0)
                return; /* no loop device, or one that is not in use */
        if (device_name(a->dev, name, sizeof(name)) >= 0)
                fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 || ioctl(fd, LOOP_GET_STATUS64, &info) < 0) {
                a->unknown = lost_backing;
                return;
        }
        if (strncmp((const char *) info.lo_file_name, ENGINE_LABEL, sizeof(ENGINE_LABEL) - 1) == 0) {
                (void) snprintf(name, sizeof(name), "loop%u", minor(a->dev));
                a->unknown = add_engine(a, m, name) ? NULL : lost_backing;
                return;
        }
        dev = makedev((info.lo_device >> 8) & 0xfff, (info.lo_device & 0xff) | ((info.lo_device >> 12) & 0xfff00));
        if (backing_by_path(m, path, dev, info.lo_inode, &backing) < 0 && backing_by_subvolume(m, dev, &backing) < 0)
                a->unknown = lost_backing;
        else
                node_add_below(a, backing, false);
}

static void add_volume_group(Node *a) {
        char uuid[256];

        if (sysfs_block_read(a->dev, "dm/uuid", uuid, sizeof(uuid)) < 0 || strncmp(uuid, "LVM-", 4) != 0 ||
            strlen(uuid) < 36)
                return;
        a->group = group_of(uuid + 4, 32);
}

/* Nothing is below one that shows nothing, and many machines have scores of them. Partitions of one have its number. */
static bool is_free_loop(uint64_t dev) {
        char path[64], text[PATH_MAX];
        const char *name;
        ssize_t n;

        if (major(dev) != LOOP_MAJOR || sysfs_block_read(dev, "loop/backing_file", text, sizeof(text)) != -ENOENT)
                return false;
        (void) snprintf(path, sizeof(path), "%u:%u", major(dev), minor(dev));
        n = readlinkat(sysfs_blocks(), path, text, sizeof(text) - 1);
        text[MAX_OF(n, 0)] = '\0';
        name = strrchr(text, '/');
        return name && strncmp(name, "/loop", 5) == 0 && name[5 + strspn(name + 5, "0123456789")] == '\0';
}

static int add_block(Graph *g, uint64_t dev, const Mounts *m) {
        char text[64], name[256];
        uint64_t disk;
        Node *a;
        int r = graph_add(g, dev, &a);

        if (r < 0)
                return r;
        a->is_block = true;
        if (is_free_loop(dev))
                return 0;
        if (sysfs_block_read(dev, "partition", text, sizeof(text)) >= 0 &&
            sysfs_block_read(dev, "../dev", text, sizeof(text)) >= 0 && parse_dev(text, &disk) >= 0)
                node_add_below(a, disk, false);
        if (major(dev) == NBD_MAJOR)
                a->unknown = served;
        if (device_name(dev, name, sizeof(name)) >= 0 && strncmp(name, "/dev/ublkb", 10) == 0)
                a->unknown = add_engine(a, m, name + strlen("/dev/")) ? NULL : served;
        add_slaves(a);
        add_loop(a, m);
        add_volume_group(a);
        return 0;
}

static int add_all_blocks(Graph *g, const Mounts *m) {
        struct dirent *entry;
        uint64_t dev;
        int r = 0;
        DIR *dir = opendir("/sys/dev/block");

        if (!dir)
                return errno == ENOENT ? 0 : -errno;
        while (r >= 0 && (entry = readdir(dir)))
                if (parse_dev(entry->d_name, &dev) >= 0)
                        r = add_block(g, dev, m);
        (void) closedir(dir);
        return r;
}

static void add_device_option(Node *a, const Mount *m, const char *option) {
        _cleanup_free_ char *path = mount_option(m, option);
        struct stat st;

        if (path && stat(path, &st) >= 0 && S_ISBLK(st.st_mode))
                node_add_below(a, st.st_rdev, true);
}

static void add_layer(Node *a, const Mounts *m, const char *path) {
        struct open_how how = { .flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_MAGICLINKS };
        _cleanup_close_ int fd = (int) syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
        const Mount *below;
        Identity identity;

        /* A layer that cannot be seen from here cannot be in a set either. */
        if (fd >= 0 && identity_of(fd, &identity) >= 0 && (below = mounts_find(m, identity.mount_id)))
                node_add_below(a, below->dev, false);
}

static void add_layers(Node *a, const Mounts *m, const Mount *mount) {
        _cleanup_free_ char *upper = mount_option(mount, "upperdir"), *lower = mount_option(mount, "lowerdir");
        char *rest = lower;

        if (upper)
                add_layer(a, m, upper);
        for (const char *p; (p = strsep(&rest, ":"));)
                if (p[0] == '/')
                        add_layer(a, m, p);
}

static void add_btrfs(Node *a, const Mount *mount) {
        _cleanup_close_ int fd = -EBADF;
        uint64_t devs[EDGES_MAX];
        struct stat st;
        int n;

        if (mount->visible && mount_open(mount, &fd) >= 0 && (n = btrfs_devices(fd, devs, EDGES_MAX)) != 0) {
                for (int i = 0; i < n; i++)
                        node_add_below(a, devs[i], true);
                if (n == -E2BIG)
                        a->refused = too_many;
                if (n > 0)
                        return;
        }
        if (stat(mount->source, &st) >= 0 && S_ISBLK(st.st_mode))
                node_add_below(a, st.st_rdev, true);
}

static int add_mount(Graph *g, const Mounts *m, const Mount *mount) {
        uint64_t journal;
        Node *a;
        int r = graph_add(g, mount->dev, &a);

        if (r < 0)
                return r;
        if (mount->class == MOUNT_FUSE)
                a->unknown = served;
        else if (mount->class == MOUNT_NETWORK)
                a->unknown = remote;
        else if (mount->class == MOUNT_LAYERED)
                add_layers(a, m, mount);
        else if (streq(mount->type, "btrfs"))
                add_btrfs(a, mount);
        else if (streq(mount->type, "xfs")) {
                add_device_option(a, mount, "logdev");
                add_device_option(a, mount, "rtdev");
        } else if (a->is_block && strncmp(mount->type, "ext", 3) == 0 &&
                   (journal = ext4_external_journal(mount->dev)) != 0)
                node_add_below(a, journal, true);
        return 0;
}

/* Longest way down; what is found to lie on itself gets no level but a reason. */
static unsigned node_level(Graph *g, Node *a, unsigned depth) {
        unsigned level = 0;

        if (a->state == STATE_DONE)
                return a->level;
        if (a->state == STATE_OPEN || depth == DEPTH_MAX) {
                a->refused = cycle;
                return 0;
        }
        a->state = STATE_OPEN;
        for (unsigned i = 0; i < a->n_below; i++) {
                Node *b = graph_find(g, a->below[i]);
                unsigned n = b ? node_level(g, b, depth + 1) + 1 : 1;

                level = MAX_OF(level, n);
        }
        a->level = a->unknown ? MAX_OF(level, (unsigned) LEVEL_UNKNOWN) : level;
        a->state = STATE_DONE;
        return a->level;
}

int graph_build(const Mounts *m, Graph *ret) {
        Graph g = {};
        int r = add_all_blocks(&g, m);

        for (size_t i = 0; r >= 0 && i < m->n; i++)
                if (m->list[i].class != MOUNT_KERNEL && m->list[i].class != MOUNT_MEMORY)
                        r = add_mount(&g, m, &m->list[i]);
        if (r < 0) {
                graph_done(&g);
                return r;
        }
        for (size_t i = 0; i < g.n; i++)
                (void) node_level(&g, &g.list[i], 0);
        *ret = g;
        return 0;
}

void graph_done(Graph *g) {
        free(g->list);
        *g = (Graph) {};
}

static bool lies_on(const Graph *g, uint64_t a, uint64_t b, unsigned depth) {
        const Node *node = graph_find(g, a);

        for (unsigned i = 0; node && depth < DEPTH_MAX && i < node->n_below; i++)
                if (node->below[i] == b || lies_on(g, node->below[i], b, depth + 1))
                        return true;
        return false;
}

bool graph_lies_on(const Graph *g, uint64_t a, uint64_t b) {
        return lies_on(g, a, b, 0);
}

static const char *trouble(const Graph *g, uint64_t dev, uint64_t *ret_culprit, unsigned depth) {
        const Node *a = graph_find(g, dev);
        const char *why = NULL;

        if (!a || depth == DEPTH_MAX)
                return NULL;
        if (a->refused) {
                *ret_culprit = dev;
                return a->refused;
        }
        for (unsigned i = 0; !why && i < a->n_below; i++)
                why = trouble(g, a->below[i], ret_culprit, depth + 1);
        return why;
}

const char *graph_trouble(const Graph *g, uint64_t dev, uint64_t *ret_culprit) {
        return trouble(g, dev, ret_culprit, 0);
}

static const char *unknown(const Graph *g, uint64_t dev, unsigned depth) {
        const Node *a = graph_find(g, dev);
        const char *why = a ? a->unknown : NULL;

        for (unsigned i = 0; a && !why && depth < DEPTH_MAX && i < a->n_below; i++)
                why = unknown(g, a->below[i], depth + 1);
        return why;
}

const char *graph_unknown(const Graph *g, uint64_t dev) {
        return unknown(g, dev, 0);
}

static unsigned add_key(uint64_t *keys, unsigned n, unsigned max, uint64_t key) {
        for (unsigned i = 0; i < n; i++)
                if (keys[i] == key)
                        return n;
        if (n == max) {
                keys[max - 1] = UINT64_MAX; /* PROBE_KEY_EVERYTHING */
                return max;
        }
        keys[n] = key;
        return n + 1;
}

unsigned graph_keys(const Graph *g, uint64_t dev, uint64_t *keys, unsigned max) {
        const Node *a = graph_find(g, dev);
        unsigned n = add_key(keys, 0, max, dev), own;

        for (unsigned i = 0; a && i < a->n_below; i++)
                if (a->own[i])
                        n = add_key(keys, n, max, a->below[i]);
        own = n;
        for (size_t i = 0; i < g->n; i++)
                for (unsigned j = 0; j < own; j++)
                        if (graph_lies_on(g, g->list[i].dev, keys[j]))
                                n = add_key(keys, n, max, g->list[i].dev);
        for (size_t i = 0; i < g->n; i++)
                if (g->list[i].group && (g->list[i].dev == dev || graph_lies_on(g, dev, g->list[i].dev)))
                        n = add_key(keys, n, max, g->list[i].group);
        return n;
}
