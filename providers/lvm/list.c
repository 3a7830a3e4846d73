/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Everything about copies that are there already; each call asks lvm afresh, because others change volumes too. */
#include "providers/lvm/lvm.h"
#include <stdio.h>
#include <sys/sysmacros.h>

enum { REFERENCE_BYTES = 2 * LVM_NAME_BYTES };

static void reference(const LvmVolume *v, char ret[static REFERENCE_BYTES]) {
        (void) snprintf(ret, REFERENCE_BYTES, "%s/%s", v->vg_name, v->name);
}

static int describe(const LvmVolume *v, const LvmMark *m, bool reverting, vss_snapshot_fn found, void *userdata) {
        struct vss_snapshot s = {
                .struct_size = sizeof(s),
                .created_at = m->created_usec,
                .size_bytes = v->thick_copy ? v->origin_size : v->size,
                .used_bytes = v->thick_copy ? lvm_part_of(v->size, v->data_centi) : 0,
                .flags = m->flags | (m->pending ? VSS_SNAPSHOT_PENDING : 0) | (reverting ? VSS_SNAPSHOT_REVERTING : 0),
                .damaged = v->invalid || v->broken,
        };
        (void) snprintf(s.id, sizeof(s.id), "%s", m->id);
        (void) snprintf(s.set, sizeof(s.set), "%s", m->set);
        (void) snprintf(s.volume, sizeof(s.volume), "%s", m->volume);
        if (v->minor >= 0 && !s.damaged)
                (void) snprintf(s.device, sizeof(s.device), "/dev/dm-%d", v->minor);
        return found(&s, userdata);
}

static bool is_reverted_to(const LvmReport *r, const char *snapshot) {
        char id[VSS_ID_SIZE];
        for (size_t i = 0; i < r->n; i++)
                if (lvm_revert_mark(&r->volumes[i], id, NULL) && streq(id, snapshot))
                        return true;
        return false;
}

static bool has_copy(const LvmReport *r, const char *snapshot) {
        LvmMark m;
        for (size_t i = 0; i < r->n; i++)
                if (lvm_mark_read(&r->volumes[i], &m) && streq(m.id, snapshot))
                        return true;
        return false;
}

/* A thick copy that was merged is gone, but who asked for that may not know it yet. */
static int describe_gone(const LvmReport *r, const LvmVolume *v, const char *set, vss_snapshot_fn found,
                         void *userdata) {
        struct vss_snapshot s = { .struct_size = sizeof(s), .flags = VSS_SNAPSHOT_REVERTING | VSS_SNAPSHOT_GONE };
        if (!lvm_revert_mark(v, s.id, s.set) || has_copy(r, s.id) || (set[0] && !streq(set, s.set)))
                return 0;
        return found(&s, userdata);
}

int lvm_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata) {
        LvmSession s = LVM_SESSION_NULL;
        LvmMark m;
        int r = lvm_session_open(c, NULL, &s);
        for (size_t i = 0; r >= 0 && i < s.report.n; i++)
                if (!lvm_mark_read(&s.report.volumes[i], &m))
                        r = describe_gone(&s.report, &s.report.volumes[i], c->set, found, userdata);
                else if (!c->set[0] || streq(m.set, c->set))
                        r = describe(&s.report.volumes[i], &m, is_reverted_to(&s.report, m.id), found, userdata);
        lvm_session_done(&s);
        return r == -ENOENT ? 0 : r;
}

static int remove_volume(struct vss_call *c, LvmSession *s, const LvmVolume *v) {
        char name[REFERENCE_BYTES], what[REFERENCE_BYTES + 32];
        reference(v, name);
        const char *const arguments[] = { "lvremove", "--devices", s->devices, "--force", "--yes", name, NULL };
        (void) snprintf(what, sizeof(what), "copy %s cannot be removed", name);
        return lvm_session_run(c, s, what, arguments);
}

int lvm_remove(void *state, struct vss_call *c, const char *snapshot) {
        LvmSession s = LVM_SESSION_NULL;
        const LvmVolume *v = NULL;
        LvmMark m;
        int r = lvm_session_open(c, NULL, &s);
        if (r >= 0)
                r = lvm_session_find(c, &s, snapshot, &v, &m);
        /* Without a thick one nobody could tell whether it was merged; one that was cut off is for vssd to end. */
        if (r >= 0 && (v->merging || is_reverted_to(&s.report, snapshot)))
                r = lvm_fail(
                        c, -EBUSY,
                        "the volume is being reverted to copy %s, or was; if that is over, restart vssd to have it "
                        "ended",
                        snapshot);
        if (r >= 0 && v->open && !(c->flags & VSS_CALL_FORCE))
                r = lvm_fail(c, -EBUSY, "copy %s is in use: unmount it first", snapshot);
        if (r >= 0)
                r = remove_volume(c, &s, v);
        lvm_session_done(&s);
        return r;
}

static int clear_one(struct vss_call *c, LvmSession *s, const LvmVolume *v) {
        char name[REFERENCE_BYTES], what[REFERENCE_BYTES + 48];
        reference(v, name);
        const char *const arguments[] = {
                "lvchange", "--devices", s->devices, "--deltag", LVM_TAG_PENDING, name, NULL
        };
        (void) snprintf(what, sizeof(what), "the mark of copy %s cannot be taken off", name);
        return lvm_session_run(c, s, what, arguments);
}

/* The metadata's backup and archive below /etc/lvm, left out in the window, come with this. */
int lvm_clear_mark(void *state, struct vss_call *c) {
        LvmSession s = LVM_SESSION_NULL;
        LvmMark m;
        unsigned n = 0;
        int r = lvm_session_open(c, NULL, &s);
        for (size_t i = 0; r >= 0 && i < s.report.n; i++) {
                const LvmVolume *v = &s.report.volumes[i];
                if (!lvm_mark_read(v, &m) || !streq(m.set, c->set))
                        continue;
                n++;
                if (v->invalid)
                        r = lvm_fail(c, -ENOSPC, "the copy of %s was full before the set was complete", m.volume);
                else if (m.pending)
                        r = clear_one(c, &s, v);
        }
        lvm_session_done(&s);
        if (r >= 0 && n > 0)
                lvm_place_remove(c->set);
        if (r == -ENOENT || (r >= 0 && n == 0))
                return lvm_fail(c, -ENOENT, "there is no copy of set %s", c->set);
        return r;
}

/*
 * What an lvm that died has left: the volume suspended, or with the layers of a snapshot that its metadata does not
 * know, or a snapshot in its metadata whose device was not finished. lvm puts devices right by its metadata: the whole
 * of an origin and its copies at once.
 */
static int refresh(struct vss_call *c, LvmSession *s, const LvmVolume *v) {
        char name[REFERENCE_BYTES], what[REFERENCE_BYTES + 48];
        reference(v, name);
        const char *const arguments[] = { "lvchange", "--devices", s->devices, "--refresh", name, NULL };
        (void) snprintf(what, sizeof(what), "%s cannot be put right (lvchange --refresh)", name);
        return lvm_session_run(c, s, what, arguments);
}

static bool has_half_made_copy(const LvmReport *r, const LvmVolume *origin) {
        for (size_t i = 0; i < r->n; i++)
                if (r->volumes[i].half_made && streq(r->volumes[i].vg_uuid, origin->vg_uuid) &&
                    streq(r->volumes[i].origin, origin->name))
                        return true;
        return false;
}

static bool is_stopped(const LvmVolume *v) {
        return lvm_is_suspended(makedev((unsigned) v->major, (unsigned) v->minor));
}

static const LvmVolume *active_volume(const LvmSession *s, const LvmIdentity *id) {
        const LvmVolume *v = lvm_report_find(&s->report, id->vg_uuid, id->lv_uuid);
        return v && v->minor >= 0 ? v : NULL;
}

/*
 * Before copies are removed. Where the metadata do not know the snapshot yet, its device uses "-real" and lvm cannot
 * take that away; then it says that it has failed, although the volume runs: the removal of the copy makes the way
 * free.
 */
static int repair_first(struct vss_call *c, LvmSession *s, const LvmIdentity *id) {
        const LvmVolume *v = active_volume(s, id);
        if (!v || (!is_stopped(v) && !has_half_made_copy(&s->report, v)))
                return 0;
        int r = refresh(c, s, v);
        return r == -EIO && !is_stopped(v) ? 0 : r;
}

static int repair_last(struct vss_call *c, LvmSession *s, const LvmIdentity *id) {
        const LvmVolume *v = active_volume(s, id);
        if (!v || (!is_stopped(v) && !has_half_made_copy(&s->report, v) &&
                   (v->has_thick_copies || !lvm_layer_exists(id, "-real"))))
                return 0;
        return refresh(c, s, v);
}

/*
 * An lvm that died after it had told the pool to make a thin copy, but before it noted that, would be told by the pool
 * for ever after that it is there already: so it goes out of the pool, and lvm can finish what it began, and remove it.
 * The number is that of a copy which is ours and pending, so nobody else's.
 */
static int remove_unnoted(struct vss_call *c, LvmSession *s, const LvmVolume *v) {
        char name[REFERENCE_BYTES];
        uint64_t id = 0;
        const LvmVolume *pool = lvm_report_find_name(&s->report, v->vg_uuid, v->pool);
        reference(v, name);
        int r = pool ? lvm_session_number(c, s, name, "thin_id", &id) : -ENOENT;
        if (r >= 0)
                r = lvm_thin_delete(v->vg_uuid, pool->uuid, id);
        return r < 0 ? r : remove_volume(c, s, v);
}

static int remove_pending(struct vss_call *c, LvmSession *s) {
        LvmMark m;
        int r = 0;
        for (size_t i = 0; i < s->report.n; i++) {
                const LvmVolume *v = &s->report.volumes[i];
                if (!lvm_mark_read(v, &m) || !m.pending || !streq(m.set, c->set))
                        continue;
                int k = remove_volume(c, s, v);
                if (k == -EIO && v->thin && strstr(c->message, "File exists") && remove_unnoted(c, s, v) >= 0)
                        k = 0;
                r = r < 0 ? r : k;
        }
        return r;
}

int lvm_abort_set(struct vss_call *c) {
        LvmSession s = LVM_SESSION_NULL;
        LvmIdentity volumes[VSS_VOLUMES_MAX];
        unsigned n = lvm_place_read(c->set, volumes, ELEMENTSOF(volumes));
        int r = lvm_session_open(c, NULL, &s);
        for (unsigned i = 0; i < n && r >= 0; i++)
                r = repair_first(c, &s, &volumes[i]);
        if (r >= 0)
                r = remove_pending(c, &s);
        if (r >= 0 && n > 0)
                r = lvm_session_reload(c, &s);
        for (unsigned i = 0; i < n && r >= 0; i++)
                r = repair_last(c, &s, &volumes[i]);
        lvm_session_done(&s);
        r = r == -ENOENT ? 0 : r;
        if (r >= 0)
                lvm_place_remove(c->set);
        return r;
}

static int show_area(const LvmVolume *v, const char *suffix, uint64_t size, int centi, const char *policy,
                     vss_storage_fn found, void *userdata) {
        struct vss_storage a = { .struct_size = sizeof(a), .max_bytes = size, .used_bytes = lvm_part_of(size, centi) };
        a.allocated_bytes = a.used_bytes;
        (void) snprintf(a.id, sizeof(a.id), "%s%s", v->uuid, suffix);
        (void) snprintf(a.path, sizeof(a.path), "%s/%s%s", v->vg_name, v->name, suffix);
        (void) snprintf(a.policy, sizeof(a.policy), "%s", policy);
        (void) snprintf(a.fault, sizeof(a.fault), "%s",
                        centi >= 10000 || v->invalid ? "full" :
                        v->broken                    ? "damaged" :
                                                       "");
        return found(&a, userdata);
}

/* Pools, their data and their metadata, either of which can be full; and the place of each thick copy. */
int lvm_storage_list(void *state, struct vss_call *c, vss_storage_fn found, void *userdata) {
        LvmSession s = LVM_SESSION_NULL;
        LvmMark m;
        int r = lvm_session_open(c, NULL, &s);
        for (size_t i = 0; r >= 0 && i < s.report.n; i++) {
                const LvmVolume *v = &s.report.volumes[i];
                if (v->thin_pool) {
                        r = show_area(v, "", v->size, v->data_centi, "fail-writes", found, userdata);
                        if (r >= 0)
                                r = show_area(v, "-metadata", v->metadata_size, v->metadata_centi, "fail-writes", found,
                                              userdata);
                } else if (v->thick_copy && lvm_mark_read(v, &m))
                        r = show_area(v, "", v->size, v->data_centi, "drop-all", found, userdata);
        }
        lvm_session_done(&s);
        return r == -ENOENT ? 0 : r;
}
