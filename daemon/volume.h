/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What vssd knows about a place that can be snapshotted, and how it is found out. Paths can hang (dead NFS, autofs) and
 * lie (symlinks, races), so vssd never looks itself: vss-probe, a child with a 5 s limit, resolves all paths of one
 * request at one time, in the caller's rights, and hands back facts plus one open descriptor per volume. From then on
 * everybody works on the descriptors; a path is only a name for people (hazards B12).
 */
#include "daemon/child.h"
#include "protocol/vocabulary.h"
#include <systemd/sd-event.h>

enum { VOLUME_KEYS_MAX = 256, PROBE_PATHS_MAX = 4096 };

typedef enum VolumeKind {
        VOLUME_FILESYSTEM,
        VOLUME_SUBVOLUME,
        VOLUME_BLOCK,
        VOLUME_ENGINE,
        _VOLUME_KIND_MAX
} VolumeKind;
DECLARE_WORDS(volume_kind, VolumeKind);

typedef struct Volume {
        VolumeKind kind;
        char *name;     /* canonical: mount point, or the path of the subvolume, or the device: what Snapshot.VolumeName
                           says */
        char *argument; /* as the requester wrote it; NULL when the closure or --nested added it */
        char *mount_point;   /* canonical path of the mount it was found through; NULL for a raw device */
        char *device;        /* "/dev/…" or NULL */
        char *fs_type;       /* "ext4" */
        char *fs_uuid;       /* text or NULL */
        uint64_t dev;        /* st_dev of root_fd */
        uint64_t superblock; /* identity of the superblock: same number = same file system, held once (btrfs: one per
                                fsid) */
        uint64_t subvolume;  /* btrfs subvolume id, else 0 */
        uint64_t size_bytes;
        int mount_id;
        int root_fd;    /* O_RDONLY|O_DIRECTORY at its root; -EBADF for a raw device */
        unsigned level; /* longest path in {file system -> device -> dm/md slaves, loop backing file …}: highest is
                           frozen first; mount depth breaks ties, so levels are unique per (graph level, depth) pair */
        bool chosen;    /* an argument, or nested below one; not only the place of a component */
        bool can_hold; /* FIFREEZE can work on this type (ext2/3/4, xfs, btrfs, f2fs, …); false: vfat, overlay, tmpfs,
                          network … */
        char *why_not; /* when nothing can snapshot it at all (tmpfs, proc, network): the reason; else NULL */
        /*
         * What a set on this volume keeps to itself, as dev_t numbers: its superblock and devices, everything that lies
         * on them (and would stand still with them), its volume group. Two volumes are in each other's way when they
         * share a key, so what lies below is not listed: two images on one disk are disjoint, an image and the disk
         * below it are not.
         */
        uint64_t keys[VOLUME_KEYS_MAX];
        unsigned n_keys;
        char **mount_points; /* all mounts of this superblock/subvolume, NULL-terminated */
} Volume;

Volume *volume_free(Volume *v);
DEFINE_CLEANUP(Volume *, volume_free);
bool volumes_collide(const Volume *a, const Volume *b); /* share a superblock or any key */
/* A freeze of b would stop what is written to a. */
bool volume_lies_on(const Volume *a, const Volume *b);

typedef struct ProbePath {
        const char *path; /* as given: absolute path (mount point, subvolume, device, anything below), \xHH escapes
                             allowed */
        /* named by the requester: becomes Volume.argument, looked up with his rights; else a component root for the
         * closure, looked up with root's: the requester may well not be allowed to read a database that he may back up
         */
        bool is_argument;
        bool may_be_missing; /* a component root that does not exist is the nearest existing parent's business */
} ProbePath;

enum { PROBE_NESTED = 1 << 0 }; /* also every mount below an argument */

typedef struct ProbeResult {
        Volume **volumes; /* arguments first, in their order, each superblock or subvolume once */
        size_t n_volumes;
        int *path_volume;      /* per path: index into volumes, or -1 with path_failure */
        Failure *path_failure; /* per path; condition NONE when fine */
        /* per path: whose directory it is, or the nearest one that exists; -1: not found, or no directory */
        uid_t *path_owner;
        size_t n_paths;
        char **left_out; /* --nested: mounts below that nothing can take, "PATH: why", NULL-terminated */
        char **stalls;   /* what is outside and lies on one inside: "stalls with it", NULL-terminated */
        char **warnings; /* what else the hold of one of them may do, NULL-terminated */
} ProbeResult;
ProbeResult *probe_result_free(ProbeResult *r);
DEFINE_CLEANUP(ProbeResult *, probe_result_free);

typedef struct Probe Probe;
/* Exactly once, unless probe_free() came before. result is the callback's to take (set *result = NULL) ; failure when
 * NULL. */
typedef void (*ProbeDone)(ProbeResult **result, const Failure *failure, void *userdata);
/* uid: arguments are looked up with this user's rights (0: root's). Answers by BUDGET_PATH_USEC, the child is killed
 * then. */
int probe_new(sd_event *event, const ProbePath *paths, size_t n_paths, unsigned flags, uid_t uid, ProbeDone done,
              void *userdata, Probe **ret);
/* All local volumes, for Manager's volume objects and `vssctl volumes`: every mounted, local file system and btrfs
 * subvolume mount. */
int probe_list(sd_event *event, ProbeDone done, void *userdata, Probe **ret);
Probe *probe_free(Probe *p);
DEFINE_CLEANUP(Probe *, probe_free);
