/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * vss-writer.h: how an application takes part in snapshots ("a writer"). Fill in struct vss_writer_callbacks, call
 * vss_writer_new() and then vss_writer_run() (the library brings bus, loop and one worker thread) or
 * vss_writer_attach() (on your own sd-event loop). Link with `pkg-config --libs vss`. vss-writer(3) tells the whole
 * story with an example.
 *
 * All functions return 0 (or what they say) on success and a negative errno on failure, without touching what ret
 * points to. Strings given to the library are copied; strings got from it live as long as the object they came from,
 * unless it says otherwise.
 * *_usec are microseconds; deadlines are absolute CLOCK_MONOTONIC, UINT64_MAX means none. Everything here exists
 * since 1.0.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Version of this interface; put into vss_writer_callbacks.api_version by VSS_WRITER_CALLBACKS. */
#define VSS_WRITER_API_VERSION 1u
/* A callback in attach mode returns this when the answer follows later by vss_event_reply(). */
#define VSS_PENDING 1

/* When a writer is frozen: front ends first, then what they store their data in, the system last; thaw goes the other
 * way. */
enum vss_level {
        VSS_LEVEL_FRONT_END, /* application servers, everything that uses a back end */
        VSS_LEVEL_BACK_END,  /* databases, stores */
        VSS_LEVEL_SYSTEM     /* services of the operating system */
};

/* What the data are to the machine. */
enum vss_usage { VSS_USAGE_USER_DATA, VSS_USAGE_SYSTEM_SERVICE, VSS_USAGE_BOOTABLE_STATE, VSS_USAGE_OTHER };

/* How the data change. */
enum vss_source { VSS_SOURCE_TRANSACTED, VSS_SOURCE_NON_TRANSACTED, VSS_SOURCE_OTHER };

/* Why a writer says no, and with that whether the requester may try the same again. */
enum vss_veto {
        VSS_VETO_RETRYABLE,     /* not now: something else is going on */
        VSS_VETO_FATAL,         /* will not get better by trying again */
        VSS_VETO_NO_RESOURCES,  /* memory, disk, connections: after making room */
        VSS_VETO_MISSING_VOLUME /* my data also lie on a volume that is not in the set */
};

/* Flags of vss_metadata_component(). */
enum {
        VSS_COMPONENT_DATABASE = 1,               /* a database; without it a group of files */
        VSS_COMPONENT_SELECTABLE = 2,             /* may be backed up by itself */
        VSS_COMPONENT_SELECTABLE_FOR_RESTORE = 4, /* may be restored by itself */
        VSS_COMPONENT_NOTIFY_COMPLETE = 8,        /* wants backup_complete, which else does not come */
        VSS_COMPONENT_RECOVERS = 16,              /* writes into the copy in post_snapshot (auto-recovery) */
        VSS_COMPONENT_NOT_SYSTEM_STATE = 32       /* not part of the system state though the writer's usage says so */
};

/* Flags of vss_metadata_files() and vss_metadata_exclude(). */
enum {
        VSS_FILES_RECURSIVE = 1, /* directories below root, too */
        VSS_FILES_LOG = 2,       /* log files of a database, not its data */
        VSS_FILES_NO_SNAPSHOT_NEEDED =
                4,                   /* files: may be read from the live volume; exclude: remove from the copy itself */
        VSS_FILES_LOG_BACKUP = 8,    /* files: saved in backups of type log, and in no others */
        VSS_FILES_NO_LOG_BACKUP = 16 /* files: saved in all backups but those of type log */
};

/* Flags of struct vss_writer_callbacks. */
enum {
        VSS_WRITER_KEEP_RUNNING_IF_STUCK = 1 /* never end the process for a callback that hangs; see vss_writer_run() */
};

typedef struct sd_event sd_event;
struct vss_writer;   /* one registration */
struct vss_metadata; /* the document that identify fills in; valid during identify */
struct vss_event;    /* one call of vssd; valid until it is answered */

/*
 * Returns 0, what vss_event_fail() returned, or a bare -errno (a retryable veto with the text of that error); in attach
 * mode also VSS_PENDING. A failure reported by vss_event_fail() counts even if 0 is returned.
 */
typedef int (*vss_event_fn)(struct vss_event *e, void *userdata);

/*
 * What the writer is and which events it wants; a NULL callback is an event that never comes. Copied by
 * vss_writer_new(), strings too. Later versions only append.
 */
struct vss_writer_callbacks {
        uint64_t struct_size;         /* set by VSS_WRITER_CALLBACKS */
        uint32_t api_version;         /* set by VSS_WRITER_CALLBACKS */
        uint32_t flags;               /* VSS_WRITER_* */
        const char *name;             /* [a-z][a-z0-9-]{0,62} */
        const char *instance;         /* [A-Za-z0-9._+-]{0,127}, or NULL if there is only one */
        const char *version;          /* of the application, for people; or NULL */
        uint32_t level;               /* enum vss_level */
        uint32_t usage;               /* enum vss_usage */
        uint32_t source;              /* enum vss_source */
        uint32_t reserved;            /* 0 */
        uint64_t freeze_timeout_usec; /* longest time from Freeze to Thaw; 0: the daemon's default (60 s); at least 3 s
                                       */
        /* Says what there is to back up. Required, no side effects, at any time but between freeze and thaw. */
        int (*identify)(struct vss_metadata *m, void *userdata);
        vss_event_fn prepare_backup;   /* slow work may start; watch vss_event_cancel_fd() */
        vss_event_fn prepare_snapshot; /* bring as much as possible to disk, up to a minute */
        vss_event_fn freeze;           /* stop changing data; needs thaw and abort as well */
        vss_event_fn thaw;             /* go on; fails if data may have changed since freeze */
        vss_event_fn post_snapshot;    /* the copy may be completed through vss_event_open_copy() */
        vss_event_fn backup_complete;  /* only here logs may be truncated, per component that succeeded */
        vss_event_fn backup_shutdown;  /* the session is over */
        vss_event_fn abort;        /* back to normal, from any state, any number of times, also for sets never seen */
        vss_event_fn pre_restore;  /* files are about to be replaced: close them */
        vss_event_fn post_restore; /* files have been replaced: recover, open them */
};
#define VSS_WRITER_CALLBACKS .struct_size = sizeof(struct vss_writer_callbacks), .api_version = VSS_WRITER_API_VERSION

/*
 * Makes a writer that is not on the bus yet. -EINVAL: a name, word, flag or combination of callbacks that is not
 * allowed; -ERANGE: freeze_timeout_usec below 3 s; -EPROTONOSUPPORT: another api_version; -ENOMEM.
 */
int vss_writer_new(const struct vss_writer_callbacks *callbacks, void *userdata, struct vss_writer **ret);

/*
 * Calls abort if the application is frozen, leaves the bus and frees the writer with every event that is unanswered.
 * NULL is allowed; returns NULL. Not from inside a callback.
 */
struct vss_writer *vss_writer_free(struct vss_writer *w);

/*
 * Registers and serves until SIGTERM, SIGINT or vss_writer_stop(), with callbacks one at a time on one thread of their
 * own, so they may block up to their deadline. SIGTERM and SIGINT are blocked in the calling thread meanwhile. Tells
 * the service manager READY=1 once registered. If vssd is not running it waits for it; if vssd starts again it
 * registers again.
 *
 * Whenever the application is frozen and thaw_by_usec is reached, vssd is gone or the bus is gone, abort is called
 * without being asked, and a later Thaw is answered DeadlinePassed. If a callback still sits there 2 s after that, the
 * process ends with _exit(70), because dying is what frees a database session, unless VSS_WRITER_KEEP_RUNNING_IF_STUCK
 * is set.
 *
 * Returns 0 after a stop, -EACCES if this account may not register the name, -EEXIST if the name is taken, -ENOTCONN
 * and the like if there is no bus, -EBUSY if the writer is attached or running.
 */
int vss_writer_run(struct vss_writer *w);

/* Ends vss_writer_run(), which first lets a frozen application go on. From any thread and from signal handlers. */
void vss_writer_stop(struct vss_writer *w);

/*
 * Instead of vss_writer_run(): everything happens on the thread of this loop, callbacks must not block but may return
 * VSS_PENDING. Writers attached to one loop share one connection to the bus. Returns at once; registering goes on in
 * the loop, and a refused registration is tried again from time to time. -EBUSY if the writer is attached or running,
 * otherwise as for a bus connection.
 */
int vss_writer_attach(struct vss_writer *w, sd_event *event);

/*
 * One value of the document by its dotted key: "restore.method", "restore.service", "restore.writer_events",
 * "restore.reboot", "backup_schema" (each call adds a word), "x.ANYTHING". -EINVAL: no such key.
 */
int vss_metadata_set(struct vss_metadata *m, const char *key, const char *value);
/* Adds a component; path is "a/b/c", caption may be NULL. -EEXIST: added before. */
int vss_metadata_component(struct vss_metadata *m, const char *path, uint32_t flags, const char *caption);
/* Adds the files pattern below root to a component. root is absolute. -ENOENT: no such component. */
int vss_metadata_files(struct vss_metadata *m, const char *component, const char *root, const char *pattern,
                       uint32_t flags);
/* Files that are not backed up, or with VSS_FILES_NO_SNAPSHOT_NEEDED that are to be removed from the copy. */
int vss_metadata_exclude(struct vss_metadata *m, const char *root, const char *pattern, uint32_t flags);
/* The whole document at once, replacing what was set; the writer's identity is filled in if it is left out. -EBADMSG:
 * not JSON. */
int vss_metadata_json(struct vss_metadata *m, const char *document);

/* Id of the snapshot set (of the restore session in pre_restore and post_restore). */
const char *vss_event_set(const struct vss_event *e);
/* When the answer is due. */
uint64_t vss_event_deadline_usec(const struct vss_event *e);
/* Becomes readable when it is no use to go on: aborted, too late, stopping. Owned by the event. */
int vss_event_cancel_fd(const struct vss_event *e);
/* Are all data of this writer in the set, and is the set one instant? */
bool vss_event_one_instant(const struct vss_event *e);
/* Is the volume that this absolute path lies on in the set? */
bool vss_event_affects(const struct vss_event *e, const char *path);
/* The i-th component asked for explicitly and whether its backup succeeded. Both ret may be NULL. -ENXIO after the
 * last. */
int vss_event_component(const struct vss_event *e, size_t i, const char **ret_path, bool *ret_succeeded);
/*
 * A value of the session as text ("backup_type", "thaw_by_usec", "volumes" …; with component "options",
 * "previous_stamp" …). component NULL: of the whole event. Lists are joined by newlines, maps are lines KEY=VALUE.
 * -ENXIO: not there.
 */
int vss_event_get(const struct vss_event *e, const char *component, const char *key, const char **ret);
/*
 * A value for the answer. component NULL: "message". With component: "stamp", "metadata"; "partial_files" and
 * "differenced_files" as JSON arrays in the form of the manifest; in pre_restore "target" (original, alternate,
 * directed, original-location) and with directed "directed_targets", the array
 * [{"path":…,"ranges":[[offset,length],…],"to":…,"to_ranges":[[offset,length],…]},…].
 * Whatever the target, "added_files" are put into place together with what is restored: the array
 * [{"path":…,"how":"replace"|"append"|"absent","text":…},…], with paths below the component's directories.
 */
int vss_event_put(struct vss_event *e, const char *component, const char *key, const char *value);
/*
 * In pre_restore and post_restore: the value of one of the requester's options, which hold for a part of the component
 * and everything below it; part "" is the component itself. name is compared without regard to case. *ret is the
 * caller's to free(). -ENXIO: there is none.
 */
int vss_event_option(const struct vss_event *e, const char *component, const char *part, const char *name, char **ret);
/*
 * Only in post_snapshot: opens the counterpart of an absolute path of the live system in the writable copy. flags and
 * mode as in open(2), close-on-exec is implied. Resolves beneath the root of the copy, without symbolic links and
 * without crossing into another file system. Returns a descriptor owned by the caller, -EXDEV if the path is not in the
 * set or leads out of it, -ELOOP for a symbolic link, -EBADFD in other events.
 */
int vss_event_open_copy(struct vss_event *e, const char *live_path, int flags, unsigned mode);
/* How far a long event is, 0 to 1. At most 4 a second are sent; call it as often as you like. */
void vss_event_progress(struct vss_event *e, double fraction);

/* Notes why the event failed, one line of at most 511 bytes for people. Returns a negative errno to be returned by the
 * callback. */
int vss_event_fail(struct vss_event *e, enum vss_veto kind, const char *format, ...)
#ifdef __GNUC__
        __attribute__((format(printf, 3, 4)))
#endif
        ;
/* One component failed; the event itself counts as done. Returns 0, or -ENOMEM. */
int vss_event_fail_component(struct vss_event *e, const char *path, enum vss_veto kind, const char *format, ...)
#ifdef __GNUC__
        __attribute__((format(printf, 4, 5)))
#endif
        ;
/*
 * Attach mode: answers an event whose callback returned VSS_PENDING, with r as a callback would return it. From the
 * loop's thread. The event is gone afterwards. Returns 0 or what went wrong with sending.
 */
int vss_event_reply(struct vss_event *e, int r);

#ifdef __cplusplus
}
#endif
