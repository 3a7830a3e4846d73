/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The documents of a set and its end: manifest, record, BackupComplete, cancel, delete.
 */
#include "client/requester.h"
#include <sys/stat.h>

static int set_call_new(struct vss_set *s, const char *member, sd_bus_message **ret) {
        if (!s)
                return -EINVAL;
        if (!s->path)
                return requester_fail(s->requester, CONDITION_BAD_STATE, "there is no set yet");
        return requester_new_call(s->requester, s->path, VSS_IFACE_SET, member, ret);
}

/* results a(sss): (who, error name or "", message); the first that failed becomes the error. */
static int take_results(struct vss_requester *r, sd_bus_message *reply) {
        const char *who, *name, *message;
        int failed = 0, k = requester_check(r, sd_bus_message_enter_container(reply, 'a', "(sss)"));
        while (k >= 0 && (k = requester_check(r, sd_bus_message_read(reply, "(sss)", &who, &name, &message))) > 0)
                if (!isempty(name) && failed == 0)
                        failed = requester_fail_named(r, name, message, -1);
        return k < 0 ? k : failed;
}

_public_ int vss_set_complete(struct vss_set *s, bool succeeded) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        int k = set_call_new(s, "Complete", &m);
        if (k < 0)
                return k;
        struct vss_requester *r = s->requester;
        k = sd_bus_message_append(m, "b", succeeded);
        if (k >= 0)
                k = sd_bus_message_open_container(m, 'a', "(ssa{sv})");
        for (size_t i = 0; k >= 0 && i < s->n_marks; i++)
                k = sd_bus_message_append(m, "(ssa{sv})", s->marks[i].writer, s->marks[i].path, 1, "succeeded", "b",
                                          (int) s->marks[i].succeeded);
        if (k >= 0)
                k = sd_bus_message_close_container(m);
        if (k >= 0)
                k = sd_bus_message_append(m, "a{sv}", 0);
        k = requester_check(r, k);
        if (k >= 0)
                k = requester_call(r, m, r->long_usec, &reply);
        return k < 0 ? k : take_results(r, reply);
}

/* The descriptor is a sealed memfd; nothing else has a size that cannot change under us. */
static int copy_bounded(struct vss_requester *r, int from, int to) {
        char buffer[65536];
        struct stat st;
        if (fstat(from, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size < 0 || st.st_size > LIMIT_MANIFEST_BYTES)
                return requester_fail(r, CONDITION_FAILED, "vssd sent a manifest that is no file or over %d bytes",
                                      LIMIT_MANIFEST_BYTES);
        for (off_t done = 0; done < st.st_size;) {
                ssize_t n = pread(from, buffer, MIN_OF(sizeof(buffer), (size_t) (st.st_size - done)), done);
                if (n <= 0)
                        return requester_fail(r, CONDITION_FAILED, "the manifest ended early");
                done += n;
                for (ssize_t sent = 0, k; sent < n; sent += k) {
                        k = write(to, buffer + sent, (size_t) (n - sent));
                        if (k < 0 && errno == EINTR)
                                k = 0;
                        else if (k < 0)
                                return requester_fail(r,
                                                      errno == ENOSPC || errno == EDQUOT ? CONDITION_NO_SPACE :
                                                                                           CONDITION_FAILED,
                                                      "cannot write the manifest: %s", strerror(errno));
                }
        }
        return 0;
}

_public_ int vss_set_manifest(struct vss_set *s, int fd) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        int memfd = -EBADF, k = set_call_new(s, "GetManifest", &m);
        if (k < 0)
                return k;
        struct vss_requester *r = s->requester;
        k = requester_check(r, sd_bus_message_append(m, "a{sv}", 0));
        if (k >= 0)
                k = requester_call(r, m, r->long_usec, &reply);
        if (k >= 0)
                k = requester_check(r, sd_bus_message_read(reply, "h", &memfd));
        return k < 0 ? k : copy_bounded(r, memfd, fd);
}

_public_ int vss_set_record(struct vss_set *s, char **ret_json) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        const char *json;
        int k = set_call_new(s, "GetRecord", &m);
        if (k < 0 || !ret_json)
                return k < 0 ? k : -EINVAL;
        struct vss_requester *r = s->requester;
        k = requester_check(r, sd_bus_message_append(m, "a{sv}", 0));
        if (k >= 0)
                k = requester_call(r, m, r->long_usec, &reply);
        if (k >= 0)
                k = requester_check(r, sd_bus_message_read(reply, "s", &json));
        if (k < 0)
                return k;
        *ret_json = strdup(json);
        return *ret_json ? 0 : requester_fail(r, CONDITION_LIMIT_REACHED, "out of memory");
}

_public_ int vss_set_cancel(struct vss_set *s) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int k = set_call_new(s, "Cancel", &m);
        if (k >= 0)
                k = requester_check(s->requester, sd_bus_message_append(m, "a{sv}", 0));
        return k < 0 ? k : requester_call(s->requester, m, s->requester->call_usec, NULL);
}

_public_ int vss_set_delete(struct vss_set *s, uint32_t flags) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        if (s && (flags & ~(uint32_t) VSS_DELETE_FORCE) != 0)
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT, "unknown flags 0x%x", flags);
        int k = set_call_new(s, "Delete", &m);
        if (k < 0)
                return k;
        struct vss_requester *r = s->requester;
        k = requester_check(r, flags & VSS_DELETE_FORCE ? sd_bus_message_append(m, "a{sv}", 1, "force", "b", 1) :
                                                          sd_bus_message_append(m, "a{sv}", 0));
        if (k >= 0)
                k = requester_call(r, m, r->long_usec, &reply);
        set_forget_snapshots(s);
        return k < 0 ? k : take_results(r, reply);
}
