/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What vss-probe learns about the machine: its mounts (probe-mounts.c), what lies on what (probe-graph.c), and single
 * facts about one file system or device (probe-facts.c). All of it runs in vss-probe only and may sleep; whoever sleeps
 * too long is killed.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <sys/types.h>

enum { MOUNTS_MAX = 65536, NODES_MAX = 65536, EDGES_MAX = 64 };

typedef enum MountClass {
        MOUNT_LOCAL,   /* a disk, or at least nothing known against it */
        MOUNT_MEMORY,  /* tmpfs, ramfs: user data that no disk holds */
        MOUNT_LAYERED, /* overlay */
        MOUNT_NETWORK,
        MOUNT_FUSE,   /* served by a process of this host */
        MOUNT_KERNEL, /* proc, sysfs …: no data */
} MountClass;

typedef struct Mount {
        int id, parent;
        uint64_t dev;                                  /* of the superblock */
        char *root, *target, *type, *source, *options; /* options: of the superblock */
        unsigned depth;                                /* how many mounts are between it and the root */
        MountClass class;
        bool remote_path; /* something on the way to it is not local: even looking may hang */
        bool visible;     /* its path leads to it: nothing is mounted over it */
} Mount;

typedef struct Mounts {
        Mount *list;
        size_t n;
} Mounts;

int mounts_read(Mounts *ret);
void mounts_done(Mounts *m);
const Mount *mounts_find(const Mounts *m, int id);
/* The mount that shows inner path of this superblock closest to its root; NULL if none does. Of equals the one that
 * the kernel's table has first, which was mounted first: ids are given away again. */
const Mount *mounts_best(const Mounts *m, uint64_t dev, const char *inner);
/* The one that shows most of the superblock: a bind mount of a directory shows only that. */
const Mount *mounts_widest(const Mounts *m, uint64_t dev);
/* Where inner path of m's superblock is to be seen through m; m->root must hold it. */
int mount_outer_path(const Mount *m, const char *inner, char **ret);
/* The inverse: outer must be below the mount point. */
int mount_inner_path(const Mount *m, const char *outer, char **ret);
/* Opens the mount's root if its path still leads there (hazards B12): -ESTALE if it leads elsewhere. */
int mount_open(const Mount *m, int *ret);
/* NULL or why nothing can ever snapshot it. */
const char *mount_why_not(const Mount *m);
bool mount_can_hold(const Mount *m);
/* "logdev" of "rw,logdev=/dev/x"; NULL if not there; caller frees. */
char *mount_option(const Mount *m, const char *name);

/* One number, one node: a superblock on a block device shares its number with it. */
typedef struct Node {
        uint64_t dev;
        uint64_t below[EDGES_MAX];
        bool own[EDGES_MAX]; /* the edge is to a device of the same file system */
        unsigned n_below, level;
        uint8_t state; /* of the search for levels */
        bool is_block;
        const char *refused; /* no order exists; why */
        const char *unknown; /* what carries it cannot be told; why */
        uint64_t group;      /* volume group, else 0 */
} Node;

typedef struct Graph {
        Node *list;
        size_t n, space;
} Graph;

int graph_build(const Mounts *m, Graph *ret);
void graph_done(Graph *g);
Node *graph_find(const Graph *g, uint64_t dev);
/* Whether a lies, directly or not, on b. */
bool graph_lies_on(const Graph *g, uint64_t a, uint64_t b);
/* NULL or why there is no order in which this could be frozen; *ret_culprit is the node. */
const char *graph_trouble(const Graph *g, uint64_t dev, uint64_t *ret_culprit);
/* NULL or why it cannot be told what carries it: it is frozen before everything else, and of two such only one is
 * taken. */
const char *graph_unknown(const Graph *g, uint64_t dev);
/* Own devices, what lies on them, the volume group. Returns how many. */
unsigned graph_keys(const Graph *g, uint64_t dev, uint64_t *keys, unsigned max);

/* Identity of an open file without asking a server that may be gone. mode: type bits. */
typedef struct Identity {
        uint64_t dev, inode, rdev;
        mode_t mode;
        int mount_id;
} Identity;
int identity_of(int fd, Identity *ret);

/* /sys/dev/block, opened once: a machine has thousands of attributes, and walking there is what reading one costs.
 * Negative: it is not there. */
int sysfs_blocks(void);
/* /sys/dev/block/M:m/ATTRIBUTE, one line. -ENOENT … */
int sysfs_block_read(uint64_t dev, const char *attribute, char *ret, size_t size);
int parse_dev(const char *s, uint64_t *ret);           /* "8:1" */
int device_name(uint64_t dev, char *ret, size_t size); /* "/dev/sda1" */
uint64_t device_size(uint64_t dev);                    /* 0: unknown */
/* What the device is in use for besides a mount ("swap", "part of /dev/md0"); NULL: nothing. Static buffer. */
const char *device_in_use(const Graph *g, uint64_t dev);
/* Type and UUID as on the device; empty strings when there is none. */
void device_signature(uint64_t dev, char *ret_type, size_t type_size, char *ret_uuid, size_t uuid_size);
/* Device numbers of an external ext4 journal, else 0. */
uint64_t ext4_external_journal(uint64_t dev);
int btrfs_devices(int fd, uint64_t *devs, unsigned max); /* how many */
int btrfs_uuid(int fd, char *ret, size_t size);
int btrfs_subvolume_id(int fd, uint64_t *ret);
/* By FS_IOC_GETFSUUID where the kernel has it. */
int fs_uuid(int fd, char *ret, size_t size);
/* Where volumes of the built-in engine have links by their names. */
void engine_links(char *ret, size_t size);
/* The link of the engine volume that this device shows, which stays the same while its device changes. -ENOENT. */
int engine_link_of(uint64_t dev, char *ret, size_t size);
