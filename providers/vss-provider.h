/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The provider interface: how storage that can make snapshots is taught to vssd. A provider is one table of functions
 * in a shared object NAME.so of the provider directory (or linked into vss-provider-host). vssd itself never loads it:
 * each set has a process of its own per provider, and everything outside a set a short-lived one. See vss-provider(3).
 *
 * Rules for all calls. One call at a time per process. Strings are UTF-8 and NUL-terminated; what is passed in is valid
 * during the call only. Times are microseconds. A call returns 0 (open: a descriptor) or one of -ENOMEM -EINVAL -EACCES
 * -ENOENT -ENOSPC -EDQUOT -EOPNOTSUPP -EBUSY -EIO -ESTALE -EUCLEAN -EXDEV -ECANCELED -ETIME -EEXIST, -EAGAIN (a veto
 * that may be retried), -EPERM (a final veto); anything else is reported as -EREMOTEIO ("the provider failed"), the
 * text of struct vss_call.message kept. Later versions only append members; struct_size tells which ones the other side
 * knows. Everything here is since 1.0.
 */
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VSS_PROVIDER_API_VERSION 1u
#define VSS_ID_SIZE 37     /* UUID text in lower case, and NUL */
#define VSS_VOLUMES_MAX 64 /* per set; one more is -EDQUOT */

/* What capabilities() and probe() answer. */
enum {
        VSS_CAP_FREEZES_ITSELF =
                1 << 0,         /* commit brings the file system to rest; it must not be held from outside (btrfs) */
        VSS_CAP_HOLDS = 1 << 1, /* has hold and release at block level */
        VSS_CAP_GROUP_COMMIT =
                1 << 2, /* the volumes of one commit are one instant without any hold, or commit fails with -EXDEV */
        VSS_CAP_COPY = 1 << 3,           /* a full copy is made */
        VSS_CAP_REDIRECT = 1 << 4,       /* copy-on-write or redirect-on-write: the copy shares what did not change */
        VSS_CAP_CLONE = 1 << 5,          /* the copy is independent of the original once it is complete */
        VSS_CAP_WRITABLE = 1 << 6,       /* pre_final opens the copy for writing: auto-recovery */
        VSS_CAP_DEVICE = 1 << 7,         /* open() gives a block device */
        VSS_CAP_DIRECTORY = 1 << 8,      /* has mount and unmount; without DEVICE open() gives a directory */
        VSS_CAP_CHANGED_BLOCKS = 1 << 9, /* diff() lists changed blocks */
        VSS_CAP_CHANGED_PATHS = 1 << 10, /* diff() lists changed paths */
        VSS_CAP_REVERT = 1 << 11,        /* has revert */
        VSS_CAP_EXPORT = 1 << 12,        /* has export_nbd */
        VSS_CAP_STORAGE = 1 << 13,       /* has storage_list and friends */
        VSS_CAP_PERSISTENT = 1 << 14,    /* copies outlive the host process and a reboot */
        VSS_CAP_ONE_PROCESS = 1 << 15,   /* keeps its copies in memory: one process for everything, sets take turns */
        VSS_CAP_VOLUMES = 1 << 16,       /* makes volumes of its own: has volume_create and friends */
        VSS_CAP_WRITES_BELOW =
                1 << 17, /* commit writes to what carries the volume, which must not be frozen then, and may leave
                            device-mapper devices suspended when it is cut off: the guard resumes them */
};

enum {                         /* struct vss_call.flags */
       VSS_CALL_FORCE = 1,     /* remove, unmount, revert: also when it is in use; volume_remove: with its copies;
                                 volume_attach: on another disk than before */
       VSS_CALL_READ_ONLY = 2, /* change nothing, not even to repair; volume_…, storage_set, revert: only the checks */
       VSS_CALL_RESUME = 4,    /* revert: end one that was cut off, do not begin one */
};

enum {                             /* struct vss_request.flags, and what was asked for in struct vss_snapshot.flags */
       VSS_REQUEST_PERSISTENT = 1, /* the copy must outlive its requester */
       VSS_REQUEST_WRITABLE = 2,   /* keep it writable until post_final */
       VSS_REQUEST_SKIP_FREE = 4,  /* what the file system has free may be left out; it reads as zeros then */
};

enum {                                 /* struct vss_snapshot.flags only */
       VSS_SNAPSHOT_PENDING = 1 << 16, /* its set was never finished by clear_mark: abort of the set removes it */
       VSS_SNAPSHOT_REVERTING = 1
                                << 17, /* a revert to it has begun and not ended: revert with VSS_CALL_RESUME ends it */
       VSS_SNAPSHOT_GONE = 1 << 18,    /* with REVERTING: that has used it up, only id and set are said */
};

/* Made by the host, one per call. Owned by the host. */
struct vss_call {
        uint64_t struct_size;   /* of the host's struct */
        const char *set;        /* id of the set; "" outside a set; never NULL */
        uint64_t deadline_usec; /* CLOCK_MONOTONIC, UINT64_MAX none; the host process is killed at it */
        int cancel_fd;          /* readable: return -ECANCELED soon; -1 from pre_commit to post_commit */
        uint32_t flags;         /* VSS_CALL_* */
        void (*progress)(struct vss_call *c, double fraction); /* 0.0 to 1.0; may be NULL; not in the window */
        char message[512]; /* with an error: what failed, on what, why, what to do; with 0: a warning; "" none */
        /* revert, which calls progress in the meantime; else NULL. safety: id of the copy, in set `set`, of the volume
         * as it is before, NULL: none is wanted. lost: tells of a copy that will be gone afterwards, its own included,
         * before anything is changed. */
        const char *safety;
        void (*lost)(struct vss_call *c, const char *snapshot);
};

/* One volume. Owned by the host; a string is NULL where there is nothing to say. */
struct vss_volume {
        uint64_t struct_size;    /* of the host's struct */
        const char *name;        /* how people call it: mount point, path of the subvolume, or device; never NULL */
        const char *mount_point; /* NULL for a raw device */
        const char *device;      /* "/dev/…" */
        const char *fs_type;     /* "ext4" */
        const char *fs_uuid;     /* of the file system */
        uint64_t dev;            /* st_dev of root_fd; a descriptor of another file system is a mistake: -EINVAL */
        uint64_t subvolume;      /* btrfs subvolume id, else 0 */
        uint64_t size_bytes;     /* of the file system or the device */
        int root_fd;    /* directory of the mount, opened before the window; -1 for a raw device; stays the host's */
        uint32_t flags; /* 0 */
};

/* What is to be made of a volume. Owned by the host. */
struct vss_request {
        uint64_t struct_size; /* of the host's struct */
        const char *snapshot; /* id of the copy to be made; chosen by vssd */
        const char *storage;  /* storage area, NULL: the provider's choice */
        const char *mode;     /* "copy", "redirect" or "clone", NULL: the provider's choice */
        uint32_t flags;       /* VSS_REQUEST_* */
        uint32_t reserved;    /* 0 */
};

/* Answer of probe(), zeroed by the host. */
struct vss_probe {
        uint64_t struct_size;  /* of the host's struct */
        uint64_t capabilities; /* VSS_CAP_* on this volume */
        uint64_t free_bytes;   /* space left for copies, UINT64_MAX unknown */
};

/* One copy. Given to vss_snapshot_fn, which copies what it keeps. */
struct vss_snapshot {
        uint64_t struct_size;  /* of the provider's struct */
        uint64_t created_at;   /* CLOCK_REALTIME */
        uint64_t size_bytes;   /* of the volume, 0 unknown */
        uint64_t used_bytes;   /* space that only this copy takes, 0 unknown */
        uint32_t flags;        /* VSS_REQUEST_* and VSS_SNAPSHOT_* */
        uint32_t damaged;      /* not 0: its content can no longer be trusted */
        char id[VSS_ID_SIZE];  /* as asked for in begin_prepare */
        char set[VSS_ID_SIZE]; /* id of its set */
        char volume[1024];     /* struct vss_volume.name at the time it was made */
        char device[256];      /* block device that shows it, "" none */
        char path[1024];       /* directory that shows it now, "" none */
        char token[160];       /* change token for diff, "" none */
};

/* One storage area. Given to vss_storage_fn, which copies what it keeps. */
struct vss_storage {
        uint64_t struct_size;     /* of the provider's struct */
        uint64_t max_bytes;       /* limit, UINT64_MAX none */
        uint64_t used_bytes;      /* by copies */
        uint64_t allocated_bytes; /* taken from the underlying file system or device */
        char id[64];              /* name that never changes */
        char path[1024];          /* file, device or directory */
        char policy[24];          /* when full: "drop-oldest", "drop-all" or "fail-writes" */
        char fault[32];           /* "" or one word why it is out of service */
};

enum {                                 /* struct vss_engine_volume.flags */
       VSS_ENGINE_VOLUME_ATTACHED = 1, /* device shows it */
};

/* One volume that a provider made (VSS_CAP_VOLUMES). Given to vss_engine_volume_fn, which copies what it keeps. */
struct vss_engine_volume {
        uint64_t struct_size; /* of the provider's struct */
        uint64_t size_bytes;
        uint32_t flags;       /* VSS_ENGINE_VOLUME_* */
        uint32_t snapshots;   /* copies of it that exist */
        char id[VSS_ID_SIZE]; /* never changes */
        char name[64];        /* [A-Za-z0-9][A-Za-z0-9._-]{0,62}, unique within the provider */
        char origin[1024];    /* file or device with its live data */
        char device[256];     /* block device that shows it while it is attached, else "" */
        char storage[64];     /* id of its storage area */
        char frontend[16];    /* what serves its device: "fuse", "ublk"; "" while detached */
        char fault[32];       /* "" or one word why it is out of service */
};

/* What is asked of volume_create. Owned by the host. */
struct vss_volume_options {
        uint64_t struct_size;     /* of the host's struct */
        const char *store;        /* path of its storage area, made if it does not exist; NULL: the provider's choice */
        const char *frontend;     /* "auto", "ublk" or "fuse"; NULL: auto */
        const char *policy;       /* of the storage area; NULL: as it is */
        uint64_t store_max_bytes; /* size of a storage area that is made; 0: the provider's choice */
};

typedef int (*vss_step_fn)(void *state, struct vss_call *c);
typedef int (*vss_engine_volume_fn)(const struct vss_engine_volume *v, void *userdata);
/* All return 0 to go on; anything else ends the list, which then returns it. */
typedef int (*vss_snapshot_fn)(const struct vss_snapshot *s, void *userdata);
typedef int (*vss_storage_fn)(const struct vss_storage *s, void *userdata);

/*
 * The table. "window" marks calls made while writers or file systems stand still: no file outside the provider's own
 * store is opened, closed or written, nothing is logged, no memory is asked for. NULL is allowed unless "required" is
 * said.
 */
struct vss_provider {
        uint64_t struct_size; /* by VSS_PROVIDER */
        uint32_t api_version; /* by VSS_PROVIDER */
        uint32_t priority;    /* lower is asked first: btrfs 10, lvm-thin 20, lvm 30, ceph 40, cow 90, null 99 */
        const char *name;     /* required: [a-z][a-z0-9-]{0,62}, that of its file without ".so" */
        const char *version;  /* required: of the provider, for people; at most 79 bytes */

        /* Once per process, 5 s: looks for its tools, changes nothing. *ret_state is given to every other call. */
        int (*load)(void **ret_state);
        void (*unload)(void *state); /* only after load returned 0; not when the process is killed */

        uint64_t (*capabilities)(
                void *state); /* required. VSS_CAP_* of this machine; asked once per process; never blocks */

        /* required, 5 s, changes nothing. Can it take *this* volume in principle, even if full now? -EOPNOTSUPP +
         * message: no. */
        int (*probe)(void *state, struct vss_call *c, const struct vss_volume *v, struct vss_probe *ret);

        /*
         * required (begin_prepare), 60 s together. Per volume, then once: all slow work. What they make carries the id
         * of the set and an "uncommitted" mark, so that abort finds it from a fresh process. A descriptor in v is
         * duplicated if kept.
         */
        int (*begin_prepare)(void *state, struct vss_call *c, const struct vss_volume *v, const struct vss_request *q);
        vss_step_fn end_prepare;

        vss_step_fn pre_commit; /* window, 2 s: arms */
        vss_step_fn hold;       /* window; required with VSS_CAP_HOLDS. Lets go by itself at deadline_usec */
        /*
         * required, window, < 1 s. All volumes of the set: when it returns nothing that is written from then on gets
         * into the copies, or it is an error. Durable they are at the latest when pre_final returns, which may fail for
         * that.
         */
        vss_step_fn commit;
        vss_step_fn release;     /* window; required with VSS_CAP_HOLDS. Idempotent, never blocks */
        vss_step_fn post_commit; /* window, 2 s: what commit could not do */
        /* Applications have gone on; afterwards list shows the copies as pending. Required with VSS_CAP_WRITABLE: they
         * become writable. Idempotent */
        vss_step_fn pre_final;
        vss_step_fn post_final; /* required with VSS_CAP_WRITABLE: read-only for good. Idempotent */

        /*
         * required, 10 s, idempotent, at any point. Drops everything of c->set that still carries the mark, also in a
         * fresh process that saw no call before. Never waits for I/O that is held. An unknown set is success; -EBUSY:
         * another process is still inside a call for this set.
         */
        vss_step_fn abort;

        /* required. Every copy it owns (of c->set if not ""), in any order: this is the truth about what exists. */
        int (*list)(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata);
        /* required, idempotent: 0 or -ENOENT when there is none. Space may come back later. -EBUSY: in use. */
        int (*remove)(void *state, struct vss_call *c, const char *snapshot);
        /* Both required with VSS_CAP_DIRECTORY. Read-only, nosuid, nodev, on an existing directory. Idempotent. */
        int (*mount)(void *state, struct vss_call *c, const char *snapshot, const char *directory);
        int (*unmount)(void *state, struct vss_call *c, const char *directory);
        /* required with VSS_CAP_DEVICE or _DIRECTORY: read-only descriptor of the copy, the caller's to close. */
        int (*open)(void *state, struct vss_call *c, const char *snapshot);
        /*
         * The volume gets the copy's content back. -EBUSY: it is in use, or one of its copies; nothing has changed
         * then, as with every error that it says so of. Copies other than its own are lost only with VSS_CALL_FORCE
         * (-EPERM). With VSS_CALL_RESUME what was cut off is brought to its end (0), or, if it had not begun to change
         * the volume, taken back (-ECANCELED); -ENOENT: there is nothing of it.
         */
        int (*revert)(void *state, struct vss_call *c, const char *snapshot);
        /* The copy becomes an ordinary thing of the storage: no longer listed, no longer ours to remove. */
        int (*detach)(void *state, struct vss_call *c, const char *snapshot);
        /* Lines of JSON to sink_fd: what changed since a snapshot id or token. Unknown token: -ESTALE, never a guess.
         */
        int (*diff)(void *state, struct vss_call *c, const char *since, const char *snapshot, int sink_fd);
        /* Serves the copy read-only over NBD on a listening socket until cancel_fd is readable. since may be NULL. */
        int (*export_nbd)(void *state, struct vss_call *c, const char *snapshot, const char *since, int listen_fd);
        /* With VSS_CAP_STORAGE: areas, their limit and policy (NULL: as it is), collecting space, leaving a fault. */
        int (*storage_list)(void *state, struct vss_call *c, vss_storage_fn found, void *userdata);
        int (*storage_set)(void *state, struct vss_call *c, const char *id, uint64_t max_bytes, const char *policy);
        int (*storage_gc)(void *state, struct vss_call *c, const char *id, uint64_t *ret_freed_bytes);
        int (*storage_clear_fault)(void *state, struct vss_call *c, const char *id);

        /*
         * Drops the "uncommitted" mark of all copies of c->set, the very last step of making them; durable when it
         * returns. Idempotent, also from a fresh process; a set of which it has nothing is -ENOENT. Without it copies
         * are good after commit.
         */
        vss_step_fn clear_mark;

        /*
         * With VSS_CAP_VOLUMES, required then: volumes of the provider's own over an origin that stays a plain image.
         * create makes it known, detached; -EBUSY: the origin is mounted or in use, -EEXIST: the name is taken,
         * -EOPNOTSUPP: origin or store cannot be used. attach is idempotent and fills ret, which the host has zeroed;
         * -ENOENT: its disk is missing; VSS_CALL_FORCE: the one that has its name now is taken.
         * detach: -EBUSY while it is mounted or open. remove never touches the origin; -EBUSY: attached, or it has
         * copies and VSS_CALL_FORCE is not given. Names nobody knows are -ENOENT.
         */
        int (*volume_create)(void *state, struct vss_call *c, const char *name, const char *origin,
                             const struct vss_volume_options *o);
        int (*volume_attach)(void *state, struct vss_call *c, const char *name, struct vss_engine_volume *ret);
        int (*volume_detach)(void *state, struct vss_call *c, const char *name);
        int (*volume_remove)(void *state, struct vss_call *c, const char *name);
        int (*volume_list)(void *state, struct vss_call *c, vss_engine_volume_fn found, void *userdata);
};

/* Puts size and version into the table: static const struct vss_provider p = { VSS_PROVIDER, .name = …, … }; */
#define VSS_PROVIDER .struct_size = sizeof(struct vss_provider), .api_version = VSS_PROVIDER_API_VERSION

#ifdef __cplusplus
#define _VSS_EXTERN_C extern "C"
#else
#define _VSS_EXTERN_C
#endif

/* The one symbol a provider file exports. p: a struct vss_provider with static storage. Once per file. */
#define VSS_REGISTER_PROVIDER(p) \
        _VSS_EXTERN_C __attribute__((visibility("default"))) const struct vss_provider *vss_provider_entry(void); \
        _VSS_EXTERN_C __attribute__((visibility("default"))) const struct vss_provider *vss_provider_entry(void) { \
                return &(p); \
        }

#ifdef __cplusplus
}
#endif
