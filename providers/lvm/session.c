/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every call outside the window does: take the lock, find out which devices lvm may look at, ask for a report of
 * the volumes on them. Only what active volumes lie on is looked at; if a group says that it has more, every disk is.
 */
#include "providers/lvm/lvm.h"
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define LVM_MARGIN_USEC (200 * USEC_PER_MSEC)
#define LVM_PATIENCE_USEC (15 * USEC_PER_SEC) /* with other calls of ours: a commit is over by then, or it hangs */
#define LVM_LONGEST_USEC (600 * USEC_PER_SEC) /* of a call without a deadline */

static int contract_errno(int r) {
        switch (r) {
        case -EBADMSG:
        case -EPIPE:
        case -EOWNERDEAD:
        case -E2BIG:
        case -ELOOP:
        case -ENAMETOOLONG:
                return -EIO;
        default:
                return r;
        }
}

int lvm_fail(struct vss_call *c, int r, const char *format, ...) {
        char text[sizeof(c->message) - 8];
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        (void) snprintf(c->message, sizeof(c->message), "lvm: %s", text);
        return contract_errno(r);
}

uint64_t lvm_deadline(const struct vss_call *c) {
        uint64_t now = now_usec(), longest = usec_add(now, LVM_LONGEST_USEC);
        if (c->deadline_usec == UINT64_MAX)
                return longest;
        return MAX_OF(now, MIN_OF(longest, c->deadline_usec - MIN_OF(c->deadline_usec, LVM_MARGIN_USEC)));
}

static int call_failed(struct vss_call *c, const LvmSession *s, const char *what, int r, const char *said) {
        if (r == -ETIME)
                return lvm_fail(c, r, "%s: lvm did not come back in time; it is left alone (keeper %d)", what,
                                (int) s->keeper.pid);
        if (r == -EOWNERDEAD)
                return lvm_fail(c, r, "%s: lvm was ended by a signal", what);
        if (r == -ENOENT)
                return lvm_fail(c, -EIO, "%s: lvm cannot be started", what);
        if (strstr(said, "insufficient free space") || strstr(said, "Insufficient free space") ||
            strstr(said, "Free space in pool"))
                r = -ENOSPC;
        else if (strstr(said, " in use"))
                r = -EBUSY;
        return lvm_fail(c, r, "%s: %s", what, said[0] ? said : strerror(-r));
}

int lvm_session_run(struct vss_call *c, LvmSession *s, const char *what, const char *const *arguments) {
        char said[LVM_SAID_BYTES];
        int r = lvm_keeper_run(&s->keeper, arguments, lvm_deadline(c), -1, said);
        return r < 0 ? call_failed(c, s, what, r, said) : 0;
}

int lvm_session_number(struct vss_call *c, LvmSession *s, const char *name, const char *field, uint64_t *ret) {
        const char *const arguments[] = { "lvs", "--devices", s->devices, "--noheadings", "-o", field, name, NULL };
        char said[LVM_SAID_BYTES], text[64] = "", *end = NULL;
        _cleanup_close_ int fd = memfd_create("vss-lvm-number", MFD_CLOEXEC);
        if (fd < 0)
                return lvm_fail(c, -errno, "no memory for a report");
        int r = lvm_keeper_run(&s->keeper, arguments, lvm_deadline(c), fd, said);
        if (r < 0)
                return call_failed(c, s, name, r, said);
        if (pread(fd, text, sizeof(text) - 1, 0) < 0)
                return lvm_fail(c, -errno, "a report cannot be read");
        const char *digits = text + strspn(text, " ");
        *ret = strtoull(digits, &end, 10);
        if (digits[0] < '0' || digits[0] > '9' || end - digits > 18 || !streq(end, "\n"))
                return lvm_fail(c, -EIO, "what lvm reports as %s of %s is no number", field, name);
        return 0;
}

/* Into memory of a size that lvm cannot exceed: a file without a name, sealed against nothing but our own limit. */
int lvm_session_reload(struct vss_call *c, LvmSession *s) {
        static const char config[] = "report{time_format=\"%s\" compact_output=0 headings=1 list_item_separator=\",\"} "
                                     "log{report_command_log=0}";
        const char *const arguments[] = {
                "lvs",  "--all",   "--config", config,       "--devices", s->devices,        "--reportformat",
                "json", "--units", "b",        "--nosuffix", "-o",        lvm_report_fields, NULL
        };
        char said[LVM_SAID_BYTES];
        struct stat st;
        Failure f = {};
        _cleanup_close_ int fd = memfd_create("vss-lvm-report", MFD_CLOEXEC);
        if (fd < 0)
                return lvm_fail(c, -errno, "no memory for a report");
        int r = lvm_keeper_run(&s->keeper, arguments, lvm_deadline(c), fd, said);
        if (r < 0)
                return call_failed(c, s, "volumes cannot be listed", r, said);
        if (fstat(fd, &st) < 0 || st.st_size > LVM_REPORT_BYTES_MAX)
                return lvm_fail(c, -EIO, "lvm reports more than can be right");
        char *text = mmap(NULL, (size_t) MAX_OF(st.st_size, 1), PROT_READ, MAP_PRIVATE, fd, 0);
        if (text == MAP_FAILED)
                return lvm_fail(c, -ENOMEM, "no memory for a report");
        lvm_report_done(&s->report);
        r = lvm_report_parse(text, (size_t) st.st_size, &s->report, &f);
        (void) munmap(text, (size_t) MAX_OF(st.st_size, 1));
        return r < 0 ? lvm_fail(c, r, "what lvm reports makes no sense: %.300s", f.message) : 0;
}

static bool something_is_missing(const LvmReport *r, const char *vg_uuid) {
        for (size_t i = 0; i < r->n; i++)
                if (r->volumes[i].vg_missing > 0 && (!vg_uuid || streq(r->volumes[i].vg_uuid, vg_uuid)))
                        return true;
        return false;
}

int lvm_session_open(struct vss_call *c, const char *vg_uuid, LvmSession *ret) {
        *ret = LVM_SESSION_NULL;
        if (!lvm_program() || !lvm_kernel_has_dm())
                return -ENOENT;
        bool wide = lvm_place_is_reverting();
        int r = lvm_devices(vg_uuid, wide, ret->devices, sizeof(ret->devices));
        if (r == -ENOENT)
                return r;
        r = lvm_keeper_start(c, &ret->keeper);
        if (r >= 0)
                r = lvm_keeper_lock(c, &ret->keeper, MIN_OF(lvm_deadline(c), usec_add(now_usec(), LVM_PATIENCE_USEC)));
        if (r < 0)
                return r;
        r = lvm_devices(vg_uuid, wide, ret->devices, sizeof(ret->devices));
        if (r == -ENOENT)
                return r;
        if (r >= 0)
                r = lvm_session_reload(c, ret);
        else if (r == -EBUSY)
                return lvm_fail(c, r,
                                "a device below a logical volume is suspended (dmsetup info): lvm would hang on it");
        else
                return lvm_fail(c, r, "the devices of the volume groups cannot be found: %s", strerror(-r));
        if (r >= 0 && something_is_missing(&ret->report, vg_uuid) &&
            lvm_devices(vg_uuid, true, ret->devices, sizeof(ret->devices)) >= 0)
                r = lvm_session_reload(c, ret);
        return r;
}

void lvm_session_done(LvmSession *s) {
        lvm_report_done(&s->report);
        lvm_keeper_done(&s->keeper);
}

int lvm_session_find(struct vss_call *c, const LvmSession *s, const char *snapshot, const LvmVolume **ret,
                     LvmMark *ret_mark) {
        for (size_t i = 0; i < s->report.n; i++)
                if (lvm_mark_read(&s->report.volumes[i], ret_mark) && streq(ret_mark->id, snapshot)) {
                        *ret = &s->report.volumes[i];
                        return 0;
                }
        return lvm_fail(c, -ENOENT, "there is no copy %s", snapshot);
}
