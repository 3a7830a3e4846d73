/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * vss-requester.h: take application-consistent snapshots from a program (see vss-requester(3) and `pkg-config vss`).
 *
 * The order of a backup: vss_requester_open(), vss_set_new(), vss_set_add_volume() for each volume, options,
 * vss_set_create(), vss_set_wait(), then per copy vss_set_snapshot() and vss_snapshot_mount() or _open(), read,
 * vss_set_complete(), close.
 *
 * Calls block. They return 0 (or a file descriptor) on success and -errno on failure, with vss_requester_error()
 * telling the rest; programs decide by vss_error.name, never by errno. Strings and structs handed out by pointer to
 * const belong to their requester or set and stay valid until the next call on it; `char **ret_` results are freed by
 * the caller. Text is UTF-8; a path with other bytes, control characters or backslashes is written with \xHH for each
 * of them. One thread at a time may use a requester and its sets, and a child after fork() none of them.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

struct vss_requester; /* one connection to the service */
struct vss_set;       /* handle of a set; free before closing its requester */

/* What went wrong with the last call that failed. Fields are only ever appended; struct_size says how many there are.
 */
struct vss_error {
        uint64_t struct_size;
        const char *name;    /* "org.vssd.Vss1.Error.Vetoed"; "" while nothing failed */
        const char *message; /* one line for people: what failed, on what, why, what to do */
        int error;           /* the errno of the table, positive; 0 while nothing failed */
        bool retryable;      /* the same again may work */
        int exit_code;       /* what vssctl would exit with */
};

/* One copy of a set. Strings are "" where there is nothing to say. */
struct vss_snapshot_info {
        uint64_t struct_size;
        const char *id;           /* UUID text */
        const char *volume;       /* canonical name of the volume it is a copy of */
        const char *provider;     /* "btrfs" */
        const char *consistency;  /* application, filesystem or crash */
        const char *device;       /* block device that can be read */
        const char *path;         /* directory that can be read */
        const char *change_token; /* for vss_snapshot_diff() of a later copy */
        uint64_t size_bytes;      /* of the volume */
};

enum { VSS_DELETE_FORCE = 1 }; /* also when it is mounted, exported or still being read */

enum vss_open {
        VSS_OPEN_DEVICE,    /* read-only block device */
        VSS_OPEN_DIRECTORY, /* its root directory */
        VSS_OPEN_MOUNT      /* a detached mount, for move_mount() into a mount namespace of your own */
};

/*
 * Called from vss_set_wait() whenever something changed and at least ten times per second. fraction is 0 to 1, or -1
 * while it is not known. Return non-zero to cancel the set; wait then goes on until it is gone (or, too late, until it
 * is created).
 */
typedef int (*vss_progress_fn)(const char *state, const char *phase, double fraction, void *userdata);

/* Connects to the system bus (or DBUS_SYSTEM_BUS_ADDRESS). name is shown as the owner of sets; NULL: the program's. */
int vss_requester_open(const char *name, struct vss_requester **ret);
/* Ends all bound sessions of this connection; their auto-release copies go. Accepts NULL, returns NULL. */
struct vss_requester *vss_requester_close(struct vss_requester *r);
/* Of the last call that failed; never NULL, also for r == NULL (then: the service cannot be reached). */
const struct vss_error *vss_requester_error(const struct vss_requester *r);

/* A set to be made: no effect yet. Without further options: backup_type copy, auto-release, bound to this connection.
 */
int vss_set_new(struct vss_requester *r, struct vss_set **ret);
/* One made earlier or by another: UUID or a unique prefix of at least 4 digits. */
int vss_set_open(struct vss_requester *r, const char *id, struct vss_set **ret);
/* Frees the handle, not the set. Accepts NULL, returns NULL. */
struct vss_set *vss_set_free(struct vss_set *s);

/* volume: mount point, btrfs subvolume, block device, engine volume, or a path on one. provider NULL: the most native.
 */
int vss_set_add_volume(struct vss_set *s, const char *volume, const char *provider);
/* An explicit component of a writer (NAME or NAME@INSTANCE); options go to the writer as they are and may be NULL. */
int vss_set_add_component(struct vss_set *s, const char *writer, const char *path, const char *options);
/*
 * An option of CreateSet as text: booleans "true" and "false", durations in microseconds; call again for each member of
 * a list; members of maps are "key=value". -EINVAL for a key or value that cannot be.
 */
int vss_set_option(struct vss_set *s, const char *key, const char *value);

/*
 * The manifest of the backup that this one builds on, from where fd stands: what its writers said of it (their stamps)
 * goes back to them. After the option backup_type. The error is InvalidArgument if nothing can build on it: a copy, one
 * whose success was never reported, or for a differential backup one that is not full; Damaged or InvalidDocument if it
 * is no manifest as it was written.
 */
int vss_set_previous(struct vss_set *s, int fd);

/* What vss_set_create() would take and reach, as a JSON text. Changes nothing. */
int vss_set_plan(struct vss_set *s, char **ret_json);
/* Returns as soon as the set is accepted; vss_set_wait() tells how it ends. */
int vss_set_create(struct vss_set *s);
/*
 * 0: created, the copies can be read. Otherwise the set is gone and the error says why, except -ETIME: timeout_usec is
 * over and the set goes on. -ENOTCONN: the bus was lost; open the set again by its id.
 */
int vss_set_wait(struct vss_set *s, uint64_t timeout_usec, vss_progress_fn progress, void *userdata);

/* "" before vss_set_create() */
const char *vss_set_id(const struct vss_set *s);
/* The level reached: application, filesystem, crash; "" until it is proven. */
const char *vss_set_consistency(const struct vss_set *s);
/* The copies in the order of the volumes; -ENXIO after the last. */
int vss_set_snapshot(struct vss_set *s, size_t i, const struct vss_snapshot_info **ret);

/* Read-only. directory NULL: below the run directory. */
int vss_snapshot_mount(struct vss_set *s, const char *id, const char *directory, char **ret_path);
/* All mounts made by the service. */
int vss_snapshot_unmount(struct vss_set *s, const char *id);
/* A new descriptor (close-on-exec) or -errno. */
int vss_snapshot_open(struct vss_set *s, const char *id, enum vss_open what);
/* Serves the copy as NBD on a listening Unix socket until the connection ends. since: id, token or NULL. */
int vss_snapshot_export(struct vss_set *s, const char *id, int listen_fd, const char *since);
/* Changes between since (id or token) and the copy, one JSON object per line, into a pipe or file. */
int vss_snapshot_diff(struct vss_set *s, const char *id, const char *since, int sink_fd);

/* Says of one component whether it was saved, for vss_set_complete(); without marks its argument counts for all. */
int vss_set_mark(struct vss_set *s, const char *writer, const char *path, bool succeeded);
/* BackupComplete: the data is safe (or not). Only now writers may truncate their logs. Once per set. */
int vss_set_complete(struct vss_set *s, bool succeeded);

/* Writes the manifest (needed for restore) to fd; after vss_set_complete() again, with the outcome. */
int vss_set_manifest(struct vss_set *s, int fd);
/* Everything that happened so far, with times, as a JSON text. */
int vss_set_record(struct vss_set *s, char **ret_json);

/* Until the first commit; then the error is TooLate. Idempotent. */
int vss_set_cancel(struct vss_set *s);
/* All copies of the set. flags: VSS_DELETE_FORCE or 0. */
int vss_set_delete(struct vss_set *s, uint32_t flags);

#ifdef __cplusplus
}
#endif
