/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What vssd has mounted for callers. The list is kept on tmpfs as well, because mounts outlive vssd. A mount may be
 * bound to its caller's connection; all mounts of a copy go when the copy goes.
 */
#include "daemon/manager.h"
#include "daemon/mounter.h"

typedef struct MountJob MountJob;
/* Exactly once unless freed before. fd is the callback's (-EBADF: none). reply NULL with a failure. */
typedef void (*MountDone)(const struct MounterReply *reply, int fd, const Failure *failure, void *userdata);
/* One vss-mount process; fd is duplicated. */
int mount_job_new(Manager *m, const struct MounterRequest *request, int fd, MountDone done, void *userdata,
                  MountJob **ret);
MountJob *mount_job_free(MountJob *j);

enum { LIMIT_MOUNTS = 4096 };

typedef struct MountEntry {
        LIST_ENTRY(MountEntry) entries;
        char snapshot[VSS_ID_LENGTH + 1];
        char *path, *bound_to; /* bound_to: unique name of the caller, NULL: stays */
        uint64_t mount_id;
        bool ours;   /* below the runtime directory */
        bool doomed; /* to be detached once no window is open */
} MountEntry;

int mounts_new(Manager *m, Mounts **ret);
Mounts *mounts_free(Mounts *b);
bool mounts_is_empty(const Mounts *b);
/* After the catalogue is loaded: mounts of an earlier vssd. */
void mounts_adopt(Mounts *b);
int mounts_add(Mounts *b, const char *snapshot, const char *path, uint64_t mount_id, const char *bound_to, bool ours);
void mounts_remove(Mounts *b, MountEntry *e);
/* path NULL: any of this snapshot. */
MountEntry *mounts_find(Mounts *b, const char *snapshot, const char *path);
void mounts_request_unmount(const MountEntry *e, bool lazy, struct MounterRequest *ret);
/* Detaches without waiting: the copy, or the connection, is gone. Either may be NULL. */
void mounts_drop(Mounts *b, const char *snapshot, const char *bound_to);
void mounts_settle(Mounts *b); /* what a window has put off */
