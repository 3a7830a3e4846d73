/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a revert ends: of itself, or long after a process or the machine went down in the middle of it. */
#include "providers/lvm/revert.h"
#include <poll.h>
#include <stdio.h>

#define MERGE_TICK_USEC (1 * USEC_PER_SEC)
#define MERGE_STALL_USEC (15 * USEC_PER_SEC) /* without a change: whoever looks after it may be gone */

typedef struct Leftovers {
        const LvmVolume *volume, *helper, *copy;
        char set[VSS_ID_SIZE];
} Leftovers;

static Leftovers find(const LvmReport *report, const char *snapshot) {
        Leftovers l = {};
        char id[VSS_ID_SIZE], set[VSS_ID_SIZE];
        for (size_t i = 0; i < report->n; i++) {
                const LvmVolume *v = &report->volumes[i];
                LvmMark m;
                if (lvm_mark_read(v, &m) && streq(m.id, snapshot))
                        l.copy = v;
                if (!lvm_revert_mark(v, id, set) || !streq(id, snapshot))
                        continue;
                memcpy(l.set, set, sizeof(set));
                if (strncmp(v->name, LVM_REVERT_PREFIX, sizeof(LVM_REVERT_PREFIX) - 1) == 0)
                        l.helper = v;
                else
                        l.volume = v;
        }
        return l;
}

/* In this order: a helper without a marked volume is still known to have done nothing. */
static int take_back(struct vss_call *c, LvmRevert *r, const Leftovers *l) {
        int k = 0;
        if (l->volume)
                k = lvm_revert_activate(c, r);
        if (k >= 0 && l->volume)
                k = lvm_revert_tag(c, r, false);
        if (k >= 0 && l->helper)
                k = lvm_revert_remove(c, r, r->helper);
        return k;
}

static int wait_tick(struct vss_call *c) {
        struct pollfd p = { .fd = c->cancel_fd, .events = POLLIN };
        if (now_usec() >= lvm_deadline(c))
                return lvm_fail(c, -ETIME, "the merge goes on, but nobody waits for its end any longer");
        if (poll(&p, c->cancel_fd >= 0 ? 1 : 0, (int) (MERGE_TICK_USEC / USEC_PER_MSEC)) > 0)
                return lvm_fail(c, -EIO, "the merge goes on, but nobody wants to know of it any more");
        return 0;
}

/* Each look is a session of its own: nobody's snapshot waits for this, which can take hours. */
static int look(struct vss_call *c, LvmRevert *r, int *ret_centi) {
        lvm_session_done(&r->session);
        r->session = LVM_SESSION_NULL;
        int k = lvm_session_open(c, NULL, &r->session);
        if (k == -EBUSY) /* others have their turn */
                return 0;
        if (k < 0)
                return k;
        const LvmVolume *v = lvm_report_find(&r->session.report, r->vg_uuid, r->uuid);
        const LvmVolume *copy = lvm_report_find_name(&r->session.report, r->vg_uuid, strchr(r->copy, '/') + 1);
        if (!v)
                return lvm_fail(c, -EIO, "lvm does not show %s any more", r->volume);
        if (v->minor < 0)
                return lvm_fail(c, -EIO, "%s was deactivated; LVM goes on with it when it is activated", r->volume);
        if (copy && (copy->merge_failed || copy->invalid))
                return lvm_fail(c, -EIO,
                                "the kernel cannot go on merging into %s, which is now neither old nor new: see dmesg "
                                "and restore it from a backup or the safety snapshot",
                                r->volume);
        *ret_centi = copy ? copy->data_centi : -1;
        return copy ? 0 : 1;
}

static int wait_for_merge(struct vss_call *c, LvmRevert *r, int first) {
        static const char config[] = "activation{polling_interval=2}";
        uint64_t changed = now_usec();
        int centi = first, last = first, k = look(c, r, &centi);
        while (k == 0) {
                if (centi != last)
                        changed = now_usec();
                else if (now_usec() >= usec_add(changed, MERGE_STALL_USEC)) {
                        const char *const words[] = { "lvchange", "--config", config, "--poll", "y", r->volume, NULL };
                        (void) lvm_revert_run(c, r, "", words);
                        changed = now_usec();
                }
                last = centi;
                if (c->progress && first > 0)
                        c->progress(c, 1.0 - (double) MAX_OF(centi, 0) / first);
                lvm_session_done(&r->session);
                k = wait_tick(c);
                if (k >= 0)
                        k = look(c, r, &centi);
        }
        return MIN_OF(k, 0);
}

static int finish_thick(struct vss_call *c, LvmRevert *r, const Leftovers *l) {
        int k = lvm_revert_activate(c, r);
        if (k >= 0)
                k = lvm_session_reload(c, &r->session);
        if (k < 0)
                return k;
        const LvmVolume *copy = lvm_report_find_name(&r->session.report, r->vg_uuid, strchr(r->copy, '/') + 1);
        if (copy)
                k = wait_for_merge(c, r, copy->data_centi);
        return k < 0 ? k : lvm_revert_tag(c, r, false);
}

static int finish_thin(struct vss_call *c, LvmRevert *r) {
        int k = lvm_revert_activate(c, r);
        return k < 0 ? k : lvm_revert_tag(c, r, false);
}

int lvm_revert_end(struct vss_call *c, LvmRevert *r, const char *snapshot) {
        const Leftovers l = find(&r->session.report, snapshot);
        const LvmVolume *any = l.volume ? l.volume : l.helper;
        int k;
        if (!any) {
                lvm_place_reverting(c, false);
                return lvm_fail(c, -ENOENT, "no revert to copy %s has begun", snapshot);
        }
        if (l.volume)
                lvm_revert_fill(r, l.volume, snapshot, l.set);
        else
                (void) snprintf(r->helper, sizeof(r->helper), "%s/%s", l.helper->vg_name, l.helper->name);
        if (l.helper || (!l.volume->thin && l.copy && !l.copy->merging)) {
                k = take_back(c, r, &l);
                if (k >= 0)
                        k = lvm_fail(c, -ECANCELED,
                                     "the revert to copy %s had not begun to change the volume: it is taken back",
                                     snapshot);
        } else
                k = l.volume->thin ? finish_thin(c, r) : finish_thick(c, r, &l);
        if (k >= 0 || k == -ECANCELED)
                lvm_place_reverting(c, false);
        return k;
}
