/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* What revert.c and revert-end.c share: a revert under way. */
#include "providers/lvm/lvm.h"

enum { LVM_REFERENCE_BYTES = 2 * LVM_NAME_BYTES };

typedef struct LvmRevert {
        LvmSession session;
        char vg_uuid[LVM_UUID_BYTES], uuid[LVM_UUID_BYTES];                                       /* of the volume */
        char volume[LVM_REFERENCE_BYTES], copy[LVM_REFERENCE_BYTES], helper[LVM_REFERENCE_BYTES]; /* GROUP/NAME */
        char tag[LVM_REVERT_TAG_BYTES], tag_volume[LVM_TAG_BYTES];
        uint64_t safety_bytes; /* thick: what it gets */
        uint64_t thin_id;      /* of the helper */
        bool thin, deactivate_copy, safety_made;
} LvmRevert;

void lvm_revert_fill(LvmRevert *r, const LvmVolume *v, const char *snapshot, const char *set);
/* One lvm with the devices of the session; words[0] is the command. */
int lvm_revert_run(struct vss_call *c, LvmRevert *r, const char *what, const char *const *words);
int lvm_revert_tag(struct vss_call *c, LvmRevert *r, bool on);
int lvm_revert_activate(struct vss_call *c, LvmRevert *r);
int lvm_revert_remove(struct vss_call *c, LvmRevert *r, const char *name);
/*
 * By the report of the session: 0, it is merged to the end now and the volume active; -ECANCELED, it had not begun to
 * change the volume and is taken back; -ENOENT, there is nothing of it.
 */
int lvm_revert_end(struct vss_call *c, LvmRevert *r, const char *snapshot);
