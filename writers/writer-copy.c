/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a path of the live system to the same file in the copy. Which volume a path lies on is decided by names alone:
 * the longest volume of the set it lies under, unless a mount that is not in the set lies between. vssd hands out the
 * root of the copy as a descriptor; from there the kernel itself keeps the path beneath it, whatever links an
 * application left in its data.
 */
#include "writers/writer-lib.h"
#include "writers/writer-worker.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>

/* The longest mount point that path lies under; "" if unknown. Field 5 of mountinfo, with \ooo for space, tab, newline,
 * \. */
static void find_mount_point(const char *path, char *ret, size_t size) {
        char line[2 * PATH_MAX], octal[4] = "";
        FILE *f = fopen("/proc/self/mountinfo", "re");

        ret[0] = 0;
        while (f && fgets(line, sizeof(line), f)) {
                char *point = line, *out;
                for (int i = 0; i < 4 && point; i++)
                        point = strchr(point, ' ') ? strchr(point, ' ') + 1 : NULL;
                if (!point)
                        continue;
                point[strcspn(point, " \n")] = 0;
                out = point;
                for (const char *p = point; *p;) {
                        if (p[0] == '\\' && strspn(p + 1, "01234567") >= 3) {
                                memcpy(octal, p + 1, 3);
                                *out++ = (char) strtol(octal, NULL, 8);
                                p += 4;
                        } else
                                *out++ = *p++;
                }
                *out = 0;
                if (path_is_inside(path, point) && strlen(point) >= strlen(ret) && strlen(point) < size)
                        memcpy(ret, point, strlen(point) + 1);
        }
        if (f)
                (void) fclose(f);
}

static bool has_dots(const char *path) {
        for (const char *p = path; (p = strstr(p, "/.")); p++)
                if (!p[2] || p[2] == '/' || (p[2] == '.' && (!p[3] || p[3] == '/')))
                        return true;
        return false;
}

static int split(const Event *e, const char *path, const char **ret_volume, const char **ret_rest) {
        char mount_point[PATH_MAX];
        const char *best = NULL, *rest;

        for (size_t i = 0; i < e->n_volumes; i++)
                if (e->volumes[i][0] == '/' && path_is_inside(path, e->volumes[i]) &&
                    (!best || strlen(e->volumes[i]) > strlen(best)))
                        best = e->volumes[i];
        if (!best)
                return -EXDEV;
        find_mount_point(path, mount_point, sizeof(mount_point));
        if (strlen(mount_point) > strlen(best))
                return -EXDEV;

        rest = path + strlen(best);
        rest += strspn(rest, "/");
        if (ret_volume)
                *ret_volume = best;
        if (ret_rest)
                *ret_rest = rest[0] ? rest : ".";
        return 0;
}

int event_split_path(const Event *e, const char *path, const char **ret_volume, const char **ret_rest) {
        if (!path || path[0] != '/' || strlen(path) >= PATH_MAX)
                return -EINVAL;
        if (has_dots(path))
                return -EXDEV;
        return split(e, path, ret_volume, ret_rest);
}

_public_ bool vss_event_affects(const struct vss_event *e, const char *path) {
        char real[PATH_MAX];

        if (!path || path[0] != '/')
                return false;
        if (realpath(path, real))
                return split(e, real, NULL, NULL) == 0;
        return event_split_path(e, path, NULL, NULL) == 0;
}

int event_copy_call(const Event *e, const char *volume, sd_bus_message **ret) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        _cleanup_free_ char *escaped = NULL, *object = NULL;
        Link *l = e->writer->link;
        int r;

        if (!l || !l->bus || !l->owner || !e->call)
                return -ENOTCONN;
        r = path_escape(volume, &escaped);
        r = r < 0 ? r : bus_path_encode(VSS_PATH_SETS, e->set, &object);
        r = r < 0 ? r : sd_bus_message_new_method_call(l->bus, &m, l->owner, object, VSS_IFACE_SET, "OpenCopy");
        r = r < 0 ? r : sd_bus_message_append(m, "sa{sv}", escaped, 0);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(m);
        return 0;
}

int event_copy_answer(sd_bus_message *m, int *ret_fd) {
        int fd, r;

        if (sd_bus_message_is_method_error(m, NULL))
                return -condition_errno(condition_from_name(sd_bus_message_get_error(m)->name));
        r = sd_bus_message_read(m, "h", &fd);
        if (r < 0)
                return r;
        fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (fd < 0)
                return -errno;
        *ret_fd = fd;
        return 0;
}

/* In attach mode the loop stands still meanwhile; vssd answers this call without doing anything slow. */
static int ask_here(Event *e, const char *volume, int *ret_fd) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        int r = event_copy_call(e, volume, &m);

        r = r < 0 ? r : sd_bus_call(e->writer->link->bus, m, COPY_TIMEOUT_USEC, &error, &reply);
        if (r < 0)
                return sd_bus_error_is_set(&error) ? -condition_errno(condition_from_name(error.name)) : r;
        return event_copy_answer(reply, ret_fd);
}

static int open_root(Event *e, const char *volume) {
        int fd = -EBADF, r;

        if (e->copy_volume && streq(e->copy_volume, volume))
                return 0;
        r = e->writer->worker ? worker_open_copy(e->writer->worker, e, volume, &fd) : ask_here(e, volume, &fd);
        if (r < 0)
                return r;
        free(e->copy_volume);
        e->copy_volume = strdup(volume);
        close_fd(e->copy_fd);
        e->copy_fd = fd;
        return e->copy_volume ? 0 : -ENOMEM;
}

_public_ int vss_event_open_copy(struct vss_event *e, const char *live_path, int flags, unsigned mode) {
        const char *volume, *rest;
        int r;

        if (e->kind != EVENT_POST_SNAPSHOT)
                return -EBADFD;
        r = event_split_path(e, live_path, &volume, &rest);
        r = r < 0 ? r : open_root(e, volume);
        if (r < 0)
                return r;

        struct open_how how = {
                .flags = (uint64_t) (unsigned) (flags | O_CLOEXEC),
                .mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? mode & 07777 : 0,
                .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
        };
        r = (int) syscall(SYS_openat2, e->copy_fd, rest, &how, sizeof(how));
        return r < 0 ? -errno : r;
}
