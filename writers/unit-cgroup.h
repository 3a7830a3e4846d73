/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * One control group (version 2) that can be frozen: its descriptors, whether it stands still, and who is in it.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include "writers/writer-lib.h"

typedef struct Cgroup {
        char *path; /* of its directory */
        int directory;
        int freeze, events; /* cgroup.freeze for writing, cgroup.events */
} Cgroup;
#define CGROUP_NULL ((Cgroup) { .directory = -EBADF, .freeze = -EBADF, .events = -EBADF })

/* Where the tree of version 2 is mounted; NULL: nowhere. */
const char *cgroup_mount(void);
/* Without following links. -ENOENT and the like with a reason; what is no group, or the root of all, is refused. */
int cgroup_open(const char *path, Cgroup *ret, Failure *reterr);
void cgroup_close(Cgroup *c);
/* 1 or 0; -errno, -ENODEV: the group is no more. */
int cgroup_is_frozen(const Cgroup *c);
/* Whether it is to be frozen, which stays so until somebody thaws it. */
int cgroup_is_told(const Cgroup *c);
int cgroup_set(const Cgroup *c, bool frozen);
/*
 * The kernel says now and then that a group is frozen while a process is still being made in it, and takes it back for
 * an instant; so it has to say it more than once. 0: it is so. -ETIME; -ECANCELED: cancel_fd became readable (-EBADF:
 * none).
 */
int cgroup_wait(const Cgroup *c, bool frozen, uint64_t until_usec, int cancel_fd);
/* Calls visit for every process in it and below, until that fails; path is the directory of the group it is in. */
enum { CGROUPS_MAX = 4096, CGROUP_DEPTH_MAX = 32, CGROUP_PROCESSES_MAX = 65536 };
typedef int (*CgroupVisit)(void *userdata, const char *path, pid_t pid, Failure *reterr);
int cgroup_walk(const Cgroup *c, CgroupVisit visit, void *userdata, Failure *reterr);
