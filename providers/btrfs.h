/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* What the files of the btrfs provider share. btrfs.c holds the drawing of how copies are kept. */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include "providers/vss-provider.h"
#include <pthread.h>

#define BTRFS_STORE ".vss"
#define BTRFS_COPY "copy"
#define BTRFS_FINAL "final" /* while a writable copy is exchanged for one that nobody has open */
/* on the directory of a place */
#define BTRFS_ATTR_SET "trusted.vss.set"
#define BTRFS_ATTR_VOLUME "trusted.vss.volume"
#define BTRFS_ATTR_FLAGS "trusted.vss.flags"
#define BTRFS_ATTR_CREATED "trusted.vss.created" /* of the writable copy that the final one was made from */

enum { BTRFS_NAME_MAX = 96, BTRFS_TRIES_MAX = 3, BTRFS_FSID_SIZE = 16 };

/* Formats c->message as "btrfs: …" and returns r, mapped to what the contract knows. */
int btrfs_fail(struct vss_call *c, int r, const char *format, ...) _printf_(3, 4);

/* btrfs-mount.c: mounts, ours and others'. Everything is done on detached mounts that nobody else sees. */
typedef struct BtrfsMounted { /* one mounted file system */
        dev_t dev;
        char *source;    /* device as /proc/self/mountinfo says */
        char *target;    /* some mount point of it */
        char *top_level; /* where its top level is mounted, NULL nowhere */
        bool read_only;
} BtrfsMounted;
int btrfs_mounted_list(BtrfsMounted **ret, size_t *ret_n);
void btrfs_mounted_free(BtrfsMounted *list, size_t n);
/*
 * Mounts a subvolume (5: the top level) without a place in the tree. The file system must be mounted already, and
 * read_only_fs must say how: a mount that is writable would make all of it so.
 */
int btrfs_mount_detached(const char *device, uint64_t subvolume, bool read_only_fs, bool read_only, int *ret_fd);
/* Puts a detached mount on an existing directory. */
int btrfs_mount_attach(int mount_fd, const char *directory);
int btrfs_mount_detach(const char *directory, bool lazily);
/* What is mounted there right now: 1 and the path of its root inside the file system (caller frees), 0 nothing of
 * btrfs. */
int btrfs_mount_root(const char *directory, char **ret_root);
/* 1: a mount shows this path of a file system with this source; 0 not. */
int btrfs_is_mounted(const char *source, const char *root);

/* btrfs-place.c: one file system, the store on it, and one place per copy. */
typedef struct BtrfsTop {
        int mount_fd, root_fd, store_fd; /* detached mount, its top level, .vss; -EBADF none */
        uint8_t fsid[BTRFS_FSID_SIZE];
        char *source, *top_level; /* device; where people see the top level, NULL nowhere */
        bool read_only;
} BtrfsTop;
#define BTRFS_TOP_NULL ((BtrfsTop) { .mount_fd = -EBADF, .root_fd = -EBADF, .store_fd = -EBADF })
void btrfs_top_done(BtrfsTop *t);
int btrfs_fsid(int fd, uint8_t ret[static BTRFS_FSID_SIZE]);
/* The file system that fd lies on; makes the store. */
int btrfs_top_of(struct vss_call *c, const struct vss_volume *v, BtrfsTop *ret);
/* Calls f for every mounted file system that has a store; stops at the first result other than 0. */
typedef int (*BtrfsTopFunction)(struct vss_call *c, BtrfsTop *top, void *userdata);
int btrfs_each_top(struct vss_call *c, BtrfsTopFunction f, void *userdata);

typedef struct BtrfsPlace { /* one directory .vss/SUBVOLUME/NAME */
        int parent_fd, fd;  /* .vss/SUBVOLUME and the directory itself */
        char name[BTRFS_NAME_MAX], set[VSS_ID_SIZE], snapshot[VSS_ID_SIZE];
        uint64_t subvolume; /* source */
        bool pending;
} BtrfsPlace;
#define BTRFS_PLACE_NULL ((BtrfsPlace) { .parent_fd = -EBADF, .fd = -EBADF })
void btrfs_place_done(BtrfsPlace *p);
/* Makes and locks a pending place, after clearing away dead empty ones. */
int btrfs_place_new(struct vss_call *c, const BtrfsTop *top, uint64_t subvolume, const struct vss_volume *v,
                    const struct vss_request *q, BtrfsPlace *ret);
/* Calls f for every place of the store; set "" is all sets. Stops at the first result other than 0. */
typedef int (*BtrfsPlaceFunction)(struct vss_call *c, const BtrfsTop *top, BtrfsPlace *place, void *userdata);
int btrfs_each_place(struct vss_call *c, const BtrfsTop *top, const char *set, BtrfsPlaceFunction f, void *userdata);
/* Deletes the copy, if there, and the place. */
int btrfs_place_remove(BtrfsPlace *p);
/* Without what post_final may have left beside the copy. */
int btrfs_place_clean(const BtrfsPlace *p);
/* One of our extended attributes: length, or -errno; always terminated. */
int btrfs_place_get(int fd, const char *name, char *ret, size_t size);

/* btrfs-proof.c: the window. */
typedef struct BtrfsCopy {
        BtrfsPlace place;
        char volume[256]; /* for messages */
        int source_fd;
        unsigned top;   /* index into BtrfsSet.tops */
        uint32_t flags; /* VSS_REQUEST_* */
        bool wanted, made, syncs;
        int result;
        uint64_t transaction; /* that made the copy */
        pthread_t thread;
} BtrfsCopy;

typedef struct BtrfsSet { /* of the one set this process works for */
        BtrfsCopy copies[VSS_VOLUMES_MAX];
        unsigned n_copies;
        BtrfsTop tops[VSS_VOLUMES_MAX];
        unsigned n_tops;
        unsigned n_threads;
} BtrfsSet;
extern BtrfsSet btrfs_set;
/* Fills the arguments of the ioctls and starts the threads. */
int btrfs_arm(struct vss_call *c);
/* A single copy may not be on disk yet when it returns. */
int btrfs_commit(void *state, struct vss_call *c);
/* Waits for that, and says what came of it. */
int btrfs_settle(struct vss_call *c);
/* Ends the threads, when they have done what they do. */
void btrfs_disarm(void);

/* btrfs-list.c: everything outside a set. */
int btrfs_abort_all(struct vss_call *c, const BtrfsTop *known, unsigned n_known);
int btrfs_clear_mark_all(struct vss_call *c, const BtrfsTop *known, unsigned n_known);
int btrfs_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata);
int btrfs_remove(void *state, struct vss_call *c, const char *snapshot);
int btrfs_open(void *state, struct vss_call *c, const char *snapshot);
int btrfs_mount(void *state, struct vss_call *c, const char *snapshot, const char *directory);
int btrfs_unmount(void *state, struct vss_call *c, const char *directory);
