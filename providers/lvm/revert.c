/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume gets the content of a copy back, by a merge of LVM's. It is deactivated for that: then nobody can have it
 * open, so LVM never puts the merge off to some later activation, and it is active again when it has the old content.
 *
 * Thick: the copy itself is merged, which uses it up. From the activation on the volume reads as the copy did; the
 * kernel moves the blocks in the background and goes on with that after a power cut.
 *
 * Thin: LVM merges a snapshot only into what it was made of, and every merge makes all other snapshots of that volume
 * orphans. So a helper is made of the volume as it is now, the pool is told to give it the copy's blocks instead, and
 * it is merged: that is one change of the metadata. The copy stays, and so do all others, and each can be reverted to.
 *
 * What an interruption leaves is known by a tag, "vss.revert=COPY/SET". The volume has it from before it is deactivated
 * until it is active again and merged. The helper has it too, and exists before the volume has it and until the merge.
 * So where the helper is, or a thick copy that is not merging, nothing has happened to the volume and it is taken back;
 * else it is brought to its end (revert-end.c).
 */
#include "providers/lvm/revert.h"
#include <stdio.h>
#include <sys/sysmacros.h>

int lvm_revert_run(struct vss_call *c, LvmRevert *r, const char *what, const char *const *words) {
        const char *arguments[LVM_ARGUMENTS_MAX + 1] = { words[0], "--devices", r->session.devices };
        unsigned n = 3;
        for (unsigned i = 1; words[i] && n < LVM_ARGUMENTS_MAX; i++)
                arguments[n++] = words[i];
        return lvm_session_run(c, &r->session, what, arguments);
}

int lvm_revert_tag(struct vss_call *c, LvmRevert *r, bool on) {
        const char *const words[] = { "lvchange", on ? "--addtag" : "--deltag", r->tag, r->volume, NULL };
        return lvm_revert_run(c, r, on ? "the volume cannot be marked" : "the mark of the volume cannot be taken off",
                              words);
}

/* --poll: whoever activates a volume that is being merged looks after the end of that, often enough. */
int lvm_revert_activate(struct vss_call *c, LvmRevert *r) {
        static const char config[] = "activation{polling_interval=2}";
        const char *const words[] = { "lvchange", "--config", config, "--activate", "y", "--ignoreactivationskip",
                                      "--yes",    r->volume,  NULL };
        return lvm_revert_run(c, r, "the volume cannot be activated again", words);
}

int lvm_revert_remove(struct vss_call *c, LvmRevert *r, const char *name) {
        const char *const words[] = { "lvremove", "--force", "--yes", name, NULL };
        return lvm_revert_run(c, r, name, words);
}

void lvm_revert_fill(LvmRevert *r, const LvmVolume *v, const char *snapshot, const char *set) {
        r->thin = v->thin;
        (void) snprintf(r->vg_uuid, sizeof(r->vg_uuid), "%s", v->vg_uuid);
        (void) snprintf(r->uuid, sizeof(r->uuid), "%s", v->uuid);
        (void) snprintf(r->volume, sizeof(r->volume), "%s/%s", v->vg_name, v->name);
        (void) snprintf(r->copy, sizeof(r->copy), "%s/" LVM_COPY_PREFIX "%s", v->vg_name, snapshot);
        (void) snprintf(r->helper, sizeof(r->helper), "%s/" LVM_REVERT_PREFIX "%s", v->vg_name, snapshot);
        (void) snprintf(r->tag, sizeof(r->tag), LVM_TAG_REVERT "%s/%s", snapshot, set);
}

/* --- what must be so ---------------------------------------------------------------------------------------------- */

static const LvmVolume *volume_of(const LvmSession *s, const LvmVolume *copy, const LvmMark *m) {
        const LvmVolume *v = m->origin[0] ? lvm_report_find(&s->report, copy->vg_uuid, m->origin) : NULL;
        return v || !copy->origin[0] ? v : lvm_report_find_name(&s->report, copy->vg_uuid, copy->origin);
}

static int in_use(struct vss_call *c, const LvmVolume *v, const char *what) {
        char where[256] = "";
        if (v->minor >= 0)
                lvm_where_mounted(makedev((unsigned) v->major, (unsigned) v->minor), where, sizeof(where));
        if (streq(where, "/"))
                return lvm_fail(c, -EBUSY, "%s %s/%s is what this system runs from: revert it from another one", what,
                                v->vg_name, v->name);
        if (where[0])
                return lvm_fail(c, -EBUSY, "%s %s/%s is mounted on %s: unmount it first", what, v->vg_name, v->name,
                                where);
        return lvm_fail(c, -EBUSY,
                        "%s %s/%s is in use, by a program, as swap, or mounted in a container: see `lsof /dev/%s/%s`",
                        what, v->vg_name, v->name, v->vg_name, v->name);
}

static int check_volume(struct vss_call *c, const LvmVolume *v, const LvmVolume *copy) {
        uint64_t size = copy->thick_copy ? copy->origin_size : copy->size;
        if (v->vg_missing > 0)
                return lvm_fail(c, -EIO, "volume group %s misses devices: nothing can be changed in it", v->vg_name);
        if (v->merging || lvm_revert_mark(v, NULL, NULL))
                return lvm_fail(c, -EBUSY, "%s/%s is being reverted already, or was; restart vssd to have that ended",
                                v->vg_name, v->name);
        if (v->size < size)
                return lvm_fail(c, -EOPNOTSUPP, "%s/%s has %llu bytes and the copy %llu: extend it first", v->vg_name,
                                v->name, (unsigned long long) v->size, (unsigned long long) size);
        if (v->minor < 0)
                return lvm_fail(c, -EBUSY, "%s/%s is not active: `lvchange -ay %s/%s` first", v->vg_name, v->name,
                                v->vg_name, v->name);
        return v->open ? in_use(c, v, "the volume") : 0;
}

static int check_thin(struct vss_call *c, LvmRevert *r, const LvmVolume *v, const LvmVolume *copy) {
        if (v->has_thick_copies)
                return lvm_fail(c, -EOPNOTSUPP, "%s has thick copies as well; LVM merges nothing into such a volume",
                                r->volume);
        if (!v->thin || !streq(v->pool, copy->pool))
                return lvm_fail(c, -EOPNOTSUPP, "%s and the copy are not in one pool any more", r->volume);
        if (copy->open)
                return in_use(c, copy, "the copy");
        return lvm_check_pool(c, &r->session, v);
}

/* What is merged back is kept by every other copy of the volume; one without room for it is lost. */
static bool has_room(const LvmVolume *other, const LvmVolume *copy) {
        uint64_t more = lvm_part_of(copy->size, copy->data_centi);
        return other->size - lvm_part_of(other->size, other->data_centi) > more + more / 16 + (1 << 20);
}

static int check_other(struct vss_call *c, const LvmVolume *v, const LvmVolume *other, const LvmVolume *copy) {
        LvmMark m;
        if (other->open)
                return in_use(c, other, "the copy");
        if (other->invalid || has_room(other, copy))
                return 0;
        if (lvm_mark_read(other, &m) && c->lost)
                c->lost(c, m.id);
        if (c->flags & (VSS_CALL_READ_ONLY | VSS_CALL_FORCE))
                return lvm_fail(c, 0, "%s/%s, another copy of %s, has no room for what changes and is lost",
                                other->vg_name, other->name, v->name);
        return lvm_fail(c, -EPERM,
                        "%s/%s, another copy of %s, has no room for what changes and would be lost: lvextend it, or "
                        "use --force",
                        other->vg_name, other->name, v->name);
}

static uint64_t safety_bytes(const LvmVolume *v, const LvmVolume *copy) {
        uint64_t used = lvm_part_of(copy->size, copy->data_centi);
        uint64_t least = used + used / 8 + LVM_COPY_BYTES_MIN;
        uint64_t wanted = MAX_OF(least, lvm_part_of(v->size, (int) lvm_snapshot_percent() * 100));
        return v->vg_free < least ? 0 : MIN_OF(wanted, v->vg_free) & ~(LVM_COPY_BYTES_STEP - 1);
}

static int check_thick(struct vss_call *c, LvmRevert *r, const LvmVolume *v, const LvmVolume *copy, const char *id) {
        int k = 0;
        if (!lvm_kernel_has_target("snapshot-merge"))
                return lvm_fail(c, -EOPNOTSUPP, "this kernel cannot merge a thick copy back (dm-snapshot)");
        if (c->lost)
                c->lost(c, id);
        for (size_t i = 0; k >= 0 && i < r->session.report.n; i++) {
                const LvmVolume *other = &r->session.report.volumes[i];
                if (!other->thick_copy || !streq(other->vg_uuid, v->vg_uuid) || !streq(other->origin, v->name))
                        continue;
                k = other == copy ? (copy->open ? in_use(c, copy, "the copy") : 0) : check_other(c, v, other, copy);
        }
        r->safety_bytes = safety_bytes(v, copy);
        if (k >= 0 && c->safety && r->safety_bytes == 0)
                k = lvm_fail(c, -ENOSPC,
                             "volume group %s has %llu MiB left, too little to keep what is there now: extend it, or "
                             "revert without a safety snapshot",
                             v->vg_name, (unsigned long long) v->vg_free >> 20);
        return k;
}

static int prepare(struct vss_call *c, LvmRevert *r, const char *snapshot) {
        const LvmVolume *copy = NULL;
        LvmMark m;
        int k = lvm_session_open(c, NULL, &r->session);
        if (k == -ENOENT)
                return lvm_fail(c, k, "there is no copy %s", snapshot);
        if (k >= 0)
                k = lvm_session_find(c, &r->session, snapshot, &copy, &m);
        if (k < 0)
                return k;
        if (copy->invalid || copy->broken)
                return lvm_fail(c, -EUCLEAN, "copy %s is lost: more was changed than it has room for", snapshot);
        const LvmVolume *v = volume_of(&r->session, copy, &m);
        if (!v)
                return lvm_fail(c, -EOPNOTSUPP, "the volume that copy %s was made of is not there any more", snapshot);
        lvm_revert_fill(r, v, snapshot, m.set);
        r->deactivate_copy = copy->thin && copy->minor >= 0;
        k = lvm_tag_of_volume(m.volume, r->tag_volume, sizeof(r->tag_volume));
        if (k >= 0)
                k = check_volume(c, v, copy);
        if (k >= 0)
                k = copy->thick_copy ? check_thick(c, r, v, copy, snapshot) : check_thin(c, r, v, copy);
        return k;
}

/* --- the steps ---------------------------------------------------------------------------------------------------- */

static int make_safety(struct vss_call *c, LvmRevert *r) {
        char name[LVM_NAME_BYTES], id[64], set[64], created[64], flags[32], origin[64], size[32];
        if (!c->safety)
                return 0;
        (void) snprintf(name, sizeof(name), LVM_COPY_PREFIX "%s", c->safety);
        (void) snprintf(id, sizeof(id), LVM_TAG_ID "%s", c->safety);
        (void) snprintf(set, sizeof(set), LVM_TAG_SET "%s", c->set);
        (void) snprintf(created, sizeof(created), LVM_TAG_CREATED "%llu",
                        (unsigned long long) clock_usec(CLOCK_REALTIME));
        (void) snprintf(flags, sizeof(flags), LVM_TAG_FLAGS "%d", VSS_REQUEST_PERSISTENT);
        (void) snprintf(origin, sizeof(origin), LVM_TAG_ORIGIN "%s", r->uuid);
        (void) snprintf(size, sizeof(size), "%llub", (unsigned long long) r->safety_bytes);
        const char *words[LVM_ARGUMENTS_MAX] = { "lvcreate", "--snapshot", "--yes",       "--permission",
                                                 "r",        "--name",     name,          "--addtag",
                                                 id,         "--addtag",   set,           "--addtag",
                                                 created,    "--addtag",   flags,         "--addtag",
                                                 origin,     "--addtag",   r->tag_volume, r->volume };
        const char *const thin[] = { "--setactivationskip", "y", "--activate", "n" }, *const thick[] = { "--size",
                                                                                                         size };
        unsigned n = 20;
        for (unsigned i = 0; r->thin && i < ELEMENTSOF(thin); i++)
                words[n++] = thin[i];
        for (unsigned i = 0; !r->thin && i < ELEMENTSOF(thick); i++)
                words[n++] = thick[i];
        int k = lvm_revert_run(c, r, "what is there now cannot be kept", words);
        r->safety_made = k >= 0;
        return k;
}

/* Copies that an earlier version made do not say what they are of, and in a moment LVM will not know it either. */
static int note_origins(struct vss_call *c, LvmRevert *r) {
        char name[LVM_REFERENCE_BYTES], tag[64];
        const char *const words[] = { "lvchange", "--addtag", tag, name, NULL };
        const char *volume = strchr(r->volume, '/') + 1;
        int k = 0;
        (void) snprintf(tag, sizeof(tag), LVM_TAG_ORIGIN "%s", r->uuid);
        for (size_t i = 0; k >= 0 && i < r->session.report.n; i++) {
                const LvmVolume *other = &r->session.report.volumes[i];
                LvmMark m;
                if (!other->thin || !streq(other->vg_uuid, r->vg_uuid) || !streq(other->origin, volume) ||
                    !lvm_mark_read(other, &m) || m.origin[0])
                        continue;
                (void) snprintf(name, sizeof(name), "%s/%s", other->vg_name, other->name);
                k = lvm_revert_run(c, r, "a copy cannot be marked", words);
        }
        return k;
}

/* The helper, as a snapshot of the volume for LVM, and with the copy's blocks in the pool. */
static int make_helper(struct vss_call *c, LvmRevert *r) {
        uint64_t copy = 0;
        const char *const rest[] = { "lvchange", "--activate", "n", r->copy, NULL };
        const char *const words[] = { "lvcreate",
                                      "--snapshot",
                                      "--yes",
                                      "--setactivationskip",
                                      "y",
                                      "--activate",
                                      "n",
                                      "--permission",
                                      "r",
                                      "--name",
                                      strchr(r->helper, '/') + 1,
                                      "--addtag",
                                      r->tag,
                                      r->volume,
                                      NULL };
        const LvmVolume *v = lvm_report_find(&r->session.report, r->vg_uuid, r->uuid);
        const LvmVolume *pool = v ? lvm_report_find_name(&r->session.report, r->vg_uuid, v->pool) : NULL;
        int k = pool ? 0 : lvm_fail(c, -EIO, "lvm does not show the pool of %s", r->volume);
        if (k >= 0 && r->deactivate_copy)
                k = lvm_revert_run(c, r, "the copy cannot be deactivated", rest);
        if (k >= 0)
                k = lvm_revert_run(c, r, "the merge cannot be prepared", words);
        if (k >= 0)
                k = lvm_session_number(c, &r->session, r->copy, "thin_id", &copy);
        if (k >= 0)
                k = lvm_session_number(c, &r->session, r->helper, "thin_id", &r->thin_id);
        if (k < 0)
                return k;
        k = lvm_thin_delete(r->vg_uuid, pool->uuid, r->thin_id);
        if (k >= 0)
                k = lvm_thin_snapshot(r->vg_uuid, pool->uuid, r->thin_id, copy);
        return k < 0 ? lvm_fail(c, -EIO, "the pool of %s does not give the copy's blocks: %s", r->volume,
                                strerror(-k)) :
                       0;
}

static int deactivate(struct vss_call *c, LvmRevert *r) {
        const char *const words[] = { "lvchange", "--activate", "n", r->volume, NULL };
        return lvm_revert_run(c, r, "the volume cannot be taken out of use, unmount it and its copies", words);
}

static int merge(struct vss_call *c, LvmRevert *r) {
        const char *const words[] = { "lvconvert", "--merge", "--yes", r->thin ? r->helper : r->copy, NULL };
        uint64_t now = 0;
        int k = lvm_revert_run(c, r, "the merge fails", words);
        if (k >= 0 && r->thin)
                k = lvm_session_number(c, &r->session, r->volume, "thin_id", &now);
        if (k >= 0 && r->thin && now != r->thin_id)
                k = lvm_fail(c, -EIO, "lvm has not merged into %s", r->volume);
        return k;
}

static int begin(struct vss_call *c, LvmRevert *r) {
        int k = lvm_place_reverting(c, true);
        if (k >= 0 && r->thin)
                k = note_origins(c, r);
        if (k >= 0 && r->thin)
                k = make_helper(c, r);
        if (k >= 0)
                k = lvm_revert_tag(c, r, true);
        if (k >= 0)
                k = deactivate(c, r);
        if (k >= 0)
                k = make_safety(c, r);
        return k < 0 ? k : merge(c, r);
}

/* Whatever lvm says, where the volume stands is looked up before anything is undone. */
static int begin_failed(struct vss_call *c, LvmRevert *r, const char *snapshot, int error) {
        char message[sizeof(c->message)], safety[LVM_REFERENCE_BYTES];
        memcpy(message, c->message, sizeof(message));
        int k = lvm_session_reload(c, &r->session);
        if (k >= 0)
                k = lvm_revert_end(c, r, snapshot);
        if (k >= 0)
                return k; /* merged after all */
        if (k == -ECANCELED && r->safety_made) {
                (void) snprintf(safety, sizeof(safety), "%.*s/" LVM_COPY_PREFIX "%s", (int) strcspn(r->volume, "/"),
                                r->volume, c->safety);
                (void) lvm_revert_remove(c, r, safety);
        }
        if (k == -ECANCELED || k == -ENOENT)
                (void) snprintf(c->message, sizeof(c->message), "%.460s; nothing has been changed", message);
        else
                (void) snprintf(c->message, sizeof(c->message),
                                "%.200s; %.200s may be inactive now: the next start of vssd puts that right", message,
                                r->volume);
        return error;
}

static int resume(struct vss_call *c, LvmRevert *r, const char *snapshot) {
        int k = lvm_session_open(c, NULL, &r->session);
        return k < 0 ? k : lvm_revert_end(c, r, snapshot);
}

static int revert(struct vss_call *c, LvmRevert *r, const char *snapshot) {
        int k = prepare(c, r, snapshot);
        if (k < 0 || c->flags & VSS_CALL_READ_ONLY)
                return k;
        k = begin(c, r);
        if (k < 0)
                return begin_failed(c, r, snapshot, k);
        k = lvm_session_reload(c, &r->session);
        return k < 0 ? k : lvm_revert_end(c, r, snapshot);
}

int lvm_revert(void *state, struct vss_call *c, const char *snapshot) {
        LvmRevert *r = calloc(1, sizeof(*r));
        if (!r)
                return lvm_fail(c, -ENOMEM, "out of memory");
        r->session = LVM_SESSION_NULL;
        int k = c->flags & VSS_CALL_RESUME ? resume(c, r, snapshot) : revert(c, r, snapshot);
        lvm_session_done(&r->session);
        free(r);
        return k;
}
