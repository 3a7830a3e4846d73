/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What can be done with a set that exists: its copies, its documents, BackupComplete, its end.
 */
#include "client/requester.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

enum { TEXT_ID, TEXT_VOLUME, TEXT_PROVIDER, TEXT_CONSISTENCY, TEXT_DEVICE, TEXT_PATH, TEXT_TOKEN };
static const char *const text_properties[] = { "Id",     "VolumeName", "Provider",   "Consistency",
                                               "Device", "Path",       "ChangeToken" };

static int read_snapshot_property(sd_bus_message *m, struct SetSnapshot *copy) {
        const char *name, *value;
        int r = sd_bus_message_read(m, "s", &name);
        if (r < 0)
                return r;
        if (streq(name, "SizeBytes"))
                return sd_bus_message_read(m, "v", "t", &copy->info.size_bytes);
        for (size_t i = 0; i < ELEMENTSOF(text_properties); i++) {
                if (!streq(name, text_properties[i]) || copy->text[i])
                        continue;
                r = sd_bus_message_read(m, "v", "s", &value);
                if (r < 0)
                        return r;
                copy->text[i] = strdup(value);
                return copy->text[i] ? 0 : -ENOMEM;
        }
        return sd_bus_message_skip(m, "v");
}

static int read_snapshot(sd_bus_message *m, struct SetSnapshot *copy) {
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = read_snapshot_property(m, copy);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
        }
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(copy->text); i++)
                if (!copy->text[i] && !(copy->text[i] = strdup("")))
                        return -ENOMEM;
        copy->info = (struct vss_snapshot_info) {
                .struct_size = sizeof(struct vss_snapshot_info),
                .id = copy->text[TEXT_ID],
                .volume = copy->text[TEXT_VOLUME],
                .provider = copy->text[TEXT_PROVIDER],
                .consistency = copy->text[TEXT_CONSISTENCY],
                .device = copy->text[TEXT_DEVICE],
                .path = copy->text[TEXT_PATH],
                .change_token = copy->text[TEXT_TOKEN],
                .size_bytes = copy->info.size_bytes,
        };
        return r;
}

static int load_snapshot(struct vss_set *s, const char *object) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        struct vss_requester *r = s->requester;
        int k = requester_new_call(r, object, "org.freedesktop.DBus.Properties", "GetAll", &m);
        if (k >= 0)
                k = requester_check(r, sd_bus_message_append(m, "s", VSS_IFACE_SNAPSHOT));
        if (k >= 0)
                k = requester_call(r, m, r->call_usec, &reply);
        if (k < 0)
                return k;
        struct SetSnapshot *grown = reallocarray(s->snapshots, s->n_snapshots + 1, sizeof(*grown));
        if (!grown)
                return requester_fail(r, CONDITION_LIMIT_REACHED, "out of memory");
        s->snapshots = grown;
        grown[s->n_snapshots] = (struct SetSnapshot) { .object = strdup(object) };
        k = read_snapshot(reply, &grown[s->n_snapshots++]);
        return requester_check(r, grown[s->n_snapshots - 1].object ? k : -ENOMEM);
}

int set_load_snapshots(struct vss_set *s) {
        sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
        const char *object;
        struct vss_requester *r = s->requester;
        if (s->snapshots_known)
                return 0;
        if (!s->path)
                return requester_fail(r, CONDITION_BAD_STATE, "there is no set yet");
        set_forget_snapshots(s);
        int k = sd_bus_get_property(r->bus, VSS_BUS_NAME, s->path, VSS_IFACE_SET, "Snapshots", &e, &reply, "ao");
        if (k < 0) {
                k = requester_fail_bus(r, &e, k, USEC_INFINITY);
                sd_bus_error_free(&e);
                return k;
        }
        k = requester_check(r, sd_bus_message_enter_container(reply, 'a', "o"));
        while (k >= 0 && (k = requester_check(r, sd_bus_message_read(reply, "o", &object))) > 0)
                k = load_snapshot(s, object);
        s->snapshots_known = k >= 0;
        return k < 0 ? k : 0;
}

_public_ int vss_set_snapshot(struct vss_set *s, size_t i, const struct vss_snapshot_info **ret) {
        if (!s || !ret)
                return -EINVAL;
        int k = set_load_snapshots(s);
        if (k < 0)
                return k;
        if (i >= s->n_snapshots)
                return -ENXIO; /* the end of the list is no error */
        *ret = &s->snapshots[i].info;
        return 0;
}

struct SetSnapshot *set_find_snapshot(struct vss_set *s, const char *id) {
        if (set_load_snapshots(s) < 0)
                return NULL;
        for (size_t i = 0; i < s->n_snapshots; i++)
                if (id && streq(s->snapshots[i].info.id, id))
                        return &s->snapshots[i];
        requester_fail(s->requester, CONDITION_NOT_FOUND, "snapshot %s is not one of set %s", id ? id : "", s->id);
        return NULL;
}

/* A call on a copy whose arguments start with one string or descriptor. */
static int snapshot_call_new(struct vss_set *s, const char *id, const char *member, sd_bus_message **ret) {
        if (!s)
                return -EINVAL;
        struct SetSnapshot *copy = set_find_snapshot(s, id);
        return copy ? requester_new_call(s->requester, copy->object, VSS_IFACE_SNAPSHOT, member, ret) :
                      -s->requester->error.error;
}

_public_ int vss_snapshot_mount(struct vss_set *s, const char *id, const char *directory, char **ret_path) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        _cleanup_free_ char *place = NULL;
        const char *path;
        int k = snapshot_call_new(s, id, "Mount", &m);
        if (k >= 0 && path_to_bus(directory ? directory : "", &place) < 0)
                k = requester_fail(s->requester, CONDITION_LIMIT_REACHED, "out of memory");
        if (k >= 0)
                k = requester_check(s->requester, sd_bus_message_append(m, "sa{sv}", place, 0));
        if (k >= 0)
                k = requester_call(s->requester, m, s->requester->long_usec, &reply);
        if (k >= 0)
                k = requester_check(s->requester, sd_bus_message_read(reply, "s", &path));
        if (k < 0 || !ret_path)
                return k < 0 ? k : 0;
        k = path_from_bus(path, ret_path);
        return k >= 0 ? 0 : requester_fail(s->requester, CONDITION_LIMIT_REACHED, "out of memory");
}

_public_ int vss_snapshot_unmount(struct vss_set *s, const char *id) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int k = snapshot_call_new(s, id, "Unmount", &m);
        if (k >= 0)
                k = requester_check(s->requester, sd_bus_message_append(m, "sa{sv}", "", 0));
        return k < 0 ? k : requester_call(s->requester, m, s->requester->long_usec, NULL);
}

_public_ int vss_snapshot_open(struct vss_set *s, const char *id, enum vss_open what) {
        static const char *const words[] = { "device", "directory", "mount" };
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        int fd = -EBADF;
        if (s && (unsigned) what >= ELEMENTSOF(words))
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT,
                                      "a copy opens as device, directory or mount");
        int k = snapshot_call_new(s, id, "Open", &m);
        if (k >= 0)
                k = requester_check(s->requester, sd_bus_message_append(m, "sa{sv}", words[what], 0));
        if (k >= 0)
                k = requester_call(s->requester, m, s->requester->long_usec, &reply);
        if (k >= 0)
                k = requester_check(s->requester, sd_bus_message_read(reply, "h", &fd)); /* the message's own */
        if (k < 0)
                return k;
        fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        return fd >= 0 ? fd : requester_fail(s->requester, CONDITION_LIMIT_REACHED, "too many open files");
}

_public_ int vss_snapshot_export(struct vss_set *s, const char *id, int listen_fd, const char *since) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int k = snapshot_call_new(s, id, "Export", &m);
        if (k >= 0)
                k = requester_check(s->requester,
                                    since ? sd_bus_message_append(m, "ha{sv}", listen_fd, 1, "since", "s", since) :
                                            sd_bus_message_append(m, "ha{sv}", listen_fd, 0));
        return k < 0 ? k : requester_call(s->requester, m, s->requester->call_usec, NULL);
}

_public_ int vss_snapshot_diff(struct vss_set *s, const char *id, const char *since, int sink_fd) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int k = snapshot_call_new(s, id, "Diff", &m);
        if (k >= 0)
                k = requester_check(s->requester, sd_bus_message_append(m, "sha{sv}", since ? since : "", sink_fd, 0));
        return k < 0 ? k : requester_call(s->requester, m, s->requester->long_usec, NULL);
}

_public_ int vss_set_mark(struct vss_set *s, const char *writer, const char *path, bool succeeded) {
        if (!s)
                return -EINVAL;
        if (isempty(writer) || isempty(path) || s->n_marks >= LIMIT_COMPONENTS)
                return requester_fail(s->requester, CONDITION_INVALID_ARGUMENT,
                                      "a mark needs a writer and the path of a component");
        SetPart *grown = reallocarray(s->marks, s->n_marks + 1, sizeof(*grown));
        if (!grown)
                return requester_fail(s->requester, CONDITION_LIMIT_REACHED, "out of memory");
        s->marks = grown;
        grown[s->n_marks++] = (SetPart) { .writer = strdup(writer), .path = strdup(path), .succeeded = succeeded };
        if (!grown[s->n_marks - 1].writer || !grown[s->n_marks - 1].path)
                return requester_fail(s->requester, CONDITION_LIMIT_REACHED, "out of memory");
        return 0;
}
