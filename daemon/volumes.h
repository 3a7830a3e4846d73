/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Volumes as they were seen last, for the objects of the bus. vssd does not follow the mount table (a busy host would
 * wake it all day): the list is made anew when somebody asks for it and it is older than VOLUMES_FRESH_USEC. No
 * descriptor of a volume is kept, so nobody's umount fails because of us.
 */
#include "daemon/manager.h"

#define VOLUMES_FRESH_USEC (1 * USEC_PER_SEC)
enum { LIMIT_VOLUMES_LISTED = 4096, LIMIT_VOLUMES_LOOKED_UP = 256 };

typedef struct VolumeEntry {
        LIST_ENTRY(VolumeEntry) entries;
        char *path; /* of its object */
        Volume *volume;
        bool looked_up, seen, added, changed;
} VolumeEntry;

int volumes_new(Manager *m, Volumes **ret);
Volumes *volumes_free(Volumes *v);
bool volumes_are_fresh(const Volumes *v);
/* done once; a refresh that is under way already is shared. -EBUSY: too many wait. */
int volumes_refresh(Volumes *v, void (*done)(void *userdata), void *userdata);
void volumes_forget(Volumes *v, void *userdata);
VolumeEntry *volumes_find(Volumes *v, const char *path);
int volumes_paths(const Volumes *v, char ***ret);
/* Takes it out of a probe's result: it was looked up by name. */
int volumes_keep(Volumes *v, Volume **volume, VolumeEntry **ret);
void volumes_emit(Volumes *v); /* what was added or changed */
/* Length of the longest mount point that holds path, of this volume and of all; 0: none. */
size_t volume_depth(const Volume *v, const char *path);
size_t volumes_depth(const Volumes *v, const char *path);
