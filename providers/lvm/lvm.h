/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* What the files of the LVM provider share. provider.c says how copies are kept. */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include "providers/vss-provider.h"
#include <sys/types.h>

#define LVM_COPY_PREFIX "vss-" /* a copy is the logical volume "vss-ID" and carries the tags below */
#define LVM_TAG_ID "vss.id="
#define LVM_TAG_SET "vss.set="
#define LVM_TAG_PENDING "vss.pending"
#define LVM_TAG_VOLUME "vss.volume="
#define LVM_TAG_CREATED "vss.created="
#define LVM_TAG_FLAGS "vss.flags="
#define LVM_TAG_ORIGIN "vss.origin="    /* uuid of the volume; LVM itself forgets it when one is merged into that */
#define LVM_TAG_REVERT "vss.revert="    /* COPY/SET, on a volume that is being reverted, and on the helper of that */
#define LVM_REVERT_PREFIX "vss-revert-" /* the helper: revert.c */

enum {
        LVM_NAME_BYTES = 128,            /* of a volume group or logical volume, with NUL: LVM's own limit */
        LVM_UUID_BYTES = 33,             /* 32 letters and digits; LVM prints them with dashes between */
        LVM_VOLUMES_MAX = 16384,         /* logical volumes of one report, hidden ones too */
        LVM_REPORT_BYTES_MAX = 24 << 20, /* that many, each with tags */
        LVM_TAG_BYTES = 1024,            /* LVM's own limit is one more */
        LVM_TAGS_BYTES_MAX = 64 * 1024,  /* of all tags of one volume */
        LVM_DEVICES_BYTES = 16 * 1024,   /* the list of devices of one call */
        LVM_REQUEST_BYTES = 32 * 1024,   /* all arguments of one call */
        LVM_ARGUMENTS_MAX = 40,          /* of one call */
        LVM_SAID_BYTES = 400,            /* of what lvm says when it fails */
        LVM_REVERT_TAG_BYTES = 2 * VSS_ID_SIZE + 16,
        LVM_GROUPS_MAX = 64,           /* volume groups looked at in one call */
        LVM_COPY_BYTES_MIN = 16 << 20, /* of a thick copy: less would be full before it is of use */
        LVM_SNAPSHOT_PERCENT = 20,     /* of its origin that a thick copy gets, unless vssd.conf says otherwise */
};

#define LVM_COPY_BYTES_STEP (UINT64_C(1) << 20) /* of a thick copy: lvm takes whole sectors only */

/* Formats c->message as "lvm: …" and returns r, mapped to what the contract knows. */
int lvm_fail(struct vss_call *c, int r, const char *format, ...) _printf_(3, 4);

/* report.c: what `lvm lvs --reportformat json` prints. Every byte of it may be wrong. */
typedef struct LvmVolume {
        char vg_name[LVM_NAME_BYTES], vg_uuid[LVM_UUID_BYTES], name[LVM_NAME_BYTES], uuid[LVM_UUID_BYTES];
        char origin[LVM_NAME_BYTES], pool[LVM_NAME_BYTES];              /* "" none */
        char *tags;                                                     /* comma-separated */
        uint64_t vg_free, vg_missing, size, origin_size, metadata_size; /* size: of a thick copy what it may grow to */
        uint64_t created;                                               /* seconds */
        int data_centi, metadata_centi; /* hundredths of a percent that are full, -1 not known */
        int major, minor;               /* -1: not active */
        bool thin, thin_pool, thick_copy, has_thick_copies, open, invalid, broken, virtual;
        bool merging;      /* a thick copy that is being merged, or what it is merged into */
        bool merge_failed; /* … and the kernel cannot go on with it */
        bool half_made;    /* its device has no table that is live: whoever made it did not come to the end */
} LvmVolume;
typedef struct LvmReport {
        LvmVolume *volumes;
        size_t n;
} LvmReport;
extern const char lvm_report_fields[];
/* 0, or -EBADMSG and the reason in *reterr; -ENOMEM. */
int lvm_report_parse(const char *text, size_t size, LvmReport *ret, Failure *reterr);
void lvm_report_done(LvmReport *r);
bool lvm_name_is_valid(const char *s);
/* 32 letters and digits out of text with dashes: -EINVAL if that is not what it is. */
int lvm_uuid_read(const char *s, char ret[static LVM_UUID_BYTES]);
const LvmVolume *lvm_report_find(const LvmReport *r, const char *vg_uuid, const char *lv_uuid);
const LvmVolume *lvm_report_find_name(const LvmReport *r, const char *vg_uuid, const char *name);

/* So many hundredths of a percent of it; not known is none. */
static inline uint64_t lvm_part_of(uint64_t size, int centi) {
        return centi < 0 ? 0 : size / 10000 * (unsigned) centi + size % 10000 * (unsigned) centi / 10000;
}

/* tags.c: whose a volume is. */
typedef struct LvmMark {
        char id[VSS_ID_SIZE], set[VSS_ID_SIZE], volume[LVM_TAG_BYTES],
                origin[LVM_UUID_BYTES]; /* origin: "" not noted */
        uint64_t created_usec;
        uint32_t flags;
        bool pending;
} LvmMark;
/* True only if name and tags both say that it is a copy of ours. */
bool lvm_mark_read(const LvmVolume *v, LvmMark *ret);
/* What is being reverted to, by LVM_TAG_REVERT; false: nothing. Both may be NULL. */
bool lvm_revert_mark(const LvmVolume *v, char *ret_snapshot, char *ret_set);
/* LVM_TAG_VOLUME and the name of a volume in the alphabet of tags; -ENAMETOOLONG if it does not fit. */
int lvm_tag_of_volume(const char *name, char *ret, size_t size);

/* devices.c: what the kernel says about device-mapper devices, without lvm. */
typedef struct LvmIdentity { /* of a logical volume that is active */
        char vg_uuid[LVM_UUID_BYTES], lv_uuid[LVM_UUID_BYTES];
} LvmIdentity;
bool lvm_kernel_has_dm(void);
/* Does it, after loading the module if that is possible, know this target? */
bool lvm_kernel_has_target(const char *target);
/* Can a file system that FIFREEZE holds be frozen once more by device-mapper? See devices.c. */
bool lvm_kernel_freezes_nested(void);
/* -EOPNOTSUPP: no logical volume that people use. */
int lvm_identify(dev_t dev, LvmIdentity *ret);
bool lvm_is_suspended(dev_t dev);
/* There is a device of this logical volume with a suffix: "-real" is what lies below an origin. */
bool lvm_layer_exists(const LvmIdentity *l, const char *suffix);
/* Takes a thin device out of its pool, as lvm would. */
int lvm_thin_delete(const char *vg_uuid, const char *pool_uuid, uint64_t thin_id);
/* … and puts one in as a snapshot of another, which must not be active. */
int lvm_thin_snapshot(const char *vg_uuid, const char *pool_uuid, uint64_t thin_id, uint64_t of);
/* Where a device is mounted, "" nowhere that we see. */
void lvm_where_mounted(dev_t dev, char *ret, size_t size);
/*
 * The devices that lvm may look at, comma-separated: what active volumes of the group lie on (vg_uuid NULL: of all
 * groups; wide: every disk that could be part of one). Never one that is suspended or served by our own engine.
 * -ENOENT: there is none; -EBUSY: one of them is suspended.
 */
int lvm_devices(const char *vg_uuid, bool wide, char *ret, size_t size);

/*
 * keeper.c: one call of lvm at a time on this host. lvm is started by a keeper, a process that outlives us if it has
 * to: a call that hangs keeps its keeper, and with it the lock, so nobody else runs into the same wall; it is never
 * killed, because a killed lvm leaves volumes suspended (hazards A2).
 */
typedef struct LvmKeeper {
        pid_t pid;
        int socket; /* -EBADF: none */
        bool held;  /* lvm is not to freeze what it copies: it is frozen (held.c) */
} LvmKeeper;
#define LVM_KEEPER_NULL ((LvmKeeper) { .socket = -EBADF })
const char *lvm_program(void); /* NULL: none installed */
int lvm_keeper_start(struct vss_call *c, LvmKeeper *ret);
/* Waits for the lock until the deadline. -EBUSY: an earlier call has it. */
int lvm_keeper_lock(struct vss_call *c, LvmKeeper *k, uint64_t deadline_usec);
/*
 * Runs `lvm ARGUMENT…`; output -1: thrown away. Between hold and release nothing here asks for memory. 0, or -ETIME
 * (left behind), -EIO (said no: text in said), -EOWNERDEAD (a signal ended it).
 */
int lvm_keeper_run(LvmKeeper *k, const char *const *arguments, uint64_t deadline_usec, int output,
                   char said[static LVM_SAID_BYTES]);
/* Before a call with k->held: -EOPNOTSUPP, lvm would freeze all the same. */
int lvm_keeper_check_held(struct vss_call *c, LvmKeeper *k);
void lvm_keeper_done(LvmKeeper *k);

/* session.c: a keeper with the lock, and the usual calls. */
typedef struct LvmSession {
        LvmKeeper keeper;
        char devices[LVM_DEVICES_BYTES];
        LvmReport report;
} LvmSession;
#define LVM_SESSION_NULL ((LvmSession) { .keeper = LVM_KEEPER_NULL })
/* Looks at one volume group, or all; -ENOENT: there is none. */
int lvm_session_open(struct vss_call *c, const char *vg_uuid, LvmSession *ret);
int lvm_session_reload(struct vss_call *c, LvmSession *s); /* the report, after a change */
/* The one number that lvm reports as this field of one volume. */
int lvm_session_number(struct vss_call *c, LvmSession *s, const char *name, const char *field, uint64_t *ret);
int lvm_session_run(struct vss_call *c, LvmSession *s, const char *what, const char *const *arguments);
void lvm_session_done(LvmSession *s);
/* The copy of that id: -ENOENT with message. */
int lvm_session_find(struct vss_call *c, const LvmSession *s, const char *snapshot, const LvmVolume **ret,
                     LvmMark *ret_mark);
uint64_t lvm_deadline(const struct vss_call *c); /* a little before the host is killed */

/* provider.c */
typedef struct LvmMember { /* one volume of the set this process works for */
        LvmIdentity identity;
        char vg_name[LVM_NAME_BYTES], name[LVM_NAME_BYTES], snapshot[VSS_ID_SIZE], label[256];
        char tag_volume[LVM_TAG_BYTES], tag_created[64];
        uint64_t copy_bytes; /* thick: what it gets */
        uint32_t flags;
        bool thin;
        bool held; /* by the guard, while it is copied */
} LvmMember;
/* -ENOSPC: the pool of this volume is full or out of order. */
int lvm_check_pool(struct vss_call *c, const LvmSession *s, const LvmVolume *l);
unsigned lvm_snapshot_percent(void); /* of its origin that a thick copy gets */

/* place.c: what a fresh process has to know about a set that was cut off: which volumes it was at work on. */
int lvm_place_write(struct vss_call *c, const LvmMember *members, unsigned n);
/* The volumes, at most max: their number, 0 none. */
unsigned lvm_place_read(const char *set, LvmIdentity *ret, unsigned max);
void lvm_place_remove(const char *set);
int lvm_place_open_lock(void);
/* A revert deactivates its volume, perhaps the last one of a group: until it has ended all disks are looked at. */
int lvm_place_reverting(struct vss_call *c, bool on);
bool lvm_place_is_reverting(void);

/* revert.c */
int lvm_revert(void *state, struct vss_call *c, const char *snapshot);

/* list.c, mount.c: everything outside a set. */
int lvm_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata);
int lvm_remove(void *state, struct vss_call *c, const char *snapshot);
int lvm_clear_mark(void *state, struct vss_call *c);
int lvm_abort_set(struct vss_call *c);
int lvm_storage_list(void *state, struct vss_call *c, vss_storage_fn found, void *userdata);
int lvm_open(void *state, struct vss_call *c, const char *snapshot);
int lvm_mount(void *state, struct vss_call *c, const char *snapshot, const char *directory);
int lvm_unmount(void *state, struct vss_call *c, const char *directory);
