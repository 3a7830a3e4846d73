/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* From an open descriptor to the volume it lies on. Used by vss-probe only. */
#include "daemon/probe-facts.h"
#include "daemon/probe.h"

typedef struct Found { /* a volume, as it will be sent */
        struct ProbeReply reply;
        int fd;
        char *inner;  /* path of the volume's root inside its superblock: "/", or the subvolume */
        char *target; /* where it was found, raw */
        bool chosen;  /* an argument or nested below one, no mere component root */
} Found;

Found *found_free(Found *f);
DEFINE_CLEANUP(Found *, found_free);

typedef struct Resolver {
        Mounts mounts;
        Graph graph;
        Found **found;
        size_t n_found;
} Resolver;

int resolver_init(Resolver *r); /* after all paths are open: a mount id then names the mount that was meant */
void resolver_done(Resolver *r);
/* fd: O_PATH of anything. The volume is added unless known. argument: index of the path or -1. */
int resolver_resolve(Resolver *r, int fd, int argument, Failure *reterr, size_t *ret);
/* Without adding it. */
int found_new_mounted(const Resolver *r, const Mount *m, int fd, const Identity *identity, Found **ret);
int resolver_find(const Resolver *r, uint64_t superblock, uint64_t subvolume, size_t *ret);
int resolver_add(Resolver *r, Found **f, size_t *ret); /* takes *f */
/* Escapes; -ENAMETOOLONG. */
int put_name(char *ret, size_t size, const char *raw);
/* Every mount below directory (raw); left_out(name, why) for those that nothing can take. */
typedef int (*ResolverText)(const char *name, const char *text, void *userdata);
int resolver_nested(Resolver *r, const char *directory, ResolverText left_out, void *userdata);
/* Every local volume. */
int resolver_list(Resolver *r);
/* Of all that could carry each other unseen, only the first stays (hazards B10). */
void resolver_refuse_unknown(Resolver *r);
/* All places where the root of the volume is mounted, its name excepted. */
int resolver_mount_points(const Resolver *r, const Found *f, ResolverText place, void *userdata);
/* File systems and engine volumes that are not chosen and lie on one that is. */
int resolver_stalls(const Resolver *r, ResolverText stalls, void *userdata);
/* What else the hold may do, a text each without a name. */
int resolver_warn(const Resolver *r, ResolverText warn, void *userdata);
