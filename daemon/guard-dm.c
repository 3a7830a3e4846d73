/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Straight to the kernel, since libdevmapper allocates, logs and waits for udev.
 *
 * A resume would swap in the table that lvm has loaded for after the snapshot. lvm may have been cut off before what
 * lies below that table was there: then every access to the volume fails (measured: lvm stopped after it had suspended
 * an origin and before it came to the layer "-real"). So that table is thrown away first, and the volume goes on with
 * the one it has had all along, which is right whatever lvm's metadata say by now; the provider lets lvm bring the two
 * together again (lvchange --refresh). A device that has no live table carries nothing that anybody uses and is left as
 * it is.
 */
#include "daemon/guard-dm.h"
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>

enum { DEPENDENCIES_MAX = 64, GROUP_PREFIX = GUARD_DM_GROUP_BYTES - 1 };

typedef struct Dependencies {
        struct dm_ioctl header;
        struct {
                uint32_t count, padding;
                uint64_t dev[DEPENDENCIES_MAX];
        } deps; /* a struct dm_target_deps */
} Dependencies;
_Static_assert(offsetof(struct dm_target_deps, dev) == sizeof(uint64_t), "what lies before the devices");

int guard_dm_open(void) {
        int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static void header_init(struct dm_ioctl *q, size_t size, uint64_t dev, uint32_t flags) {
        memset(q, 0, sizeof(*q));
        q->version[0] = DM_VERSION_MAJOR;
        q->data_size = (uint32_t) size;
        q->data_start = sizeof(*q);
        q->dev = dev;
        q->flags = flags;
}

static int device_status(int control, uint64_t dev, struct dm_ioctl *ret) {
        header_init(ret, sizeof(*ret), dev, 0);
        return ioctl(control, DM_DEV_STATUS, ret) < 0 ? -errno : 0;
}

static bool device_is_suspended(int control, const char *group, uint64_t dev) {
        struct dm_ioctl q;
        return device_status(control, dev, &q) >= 0 && q.flags & DM_SUSPEND_FLAG && q.flags & DM_ACTIVE_PRESENT_FLAG &&
               strncmp(q.uuid, group, GROUP_PREFIX) == 0;
}

/* All suspended devices of a group; the list of all devices is one for the process, and short of any call that waits.
 */
static unsigned find_suspended(int control, const char *group, uint64_t ret[static GUARD_DM_SUSPENDED_MAX]) {
        static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        static union {
                struct dm_ioctl header;
                char space[GUARD_DM_LIST_BYTES];
        } list;
        unsigned n = 0;
        (void) pthread_mutex_lock(&mutex);
        header_init(&list.header, sizeof(list), 0, 0);
        bool listed = ioctl(control, DM_LIST_DEVICES, &list) >= 0 && !(list.header.flags & DM_BUFFER_FULL_FLAG);
        for (size_t at = list.header.data_start; listed && n < GUARD_DM_SUSPENDED_MAX;) {
                const struct dm_name_list *item = (const struct dm_name_list *) (list.space + at);
                if (at + sizeof(*item) > sizeof(list) || item->dev == 0)
                        break;
                if (device_is_suspended(control, group, item->dev))
                        ret[n++] = item->dev;
                if (item->next == 0)
                        break;
                at += item->next;
        }
        (void) pthread_mutex_unlock(&mutex);
        return n;
}

int guard_dm_init(int control, uint64_t dev, GuardDm *ret) {
        struct dm_ioctl q;
        GuardDm g = {};
        int r = device_status(control, dev, &q);
        if (r < 0 || strncmp(q.uuid, "LVM-", 4) != 0 || strnlen(q.uuid, sizeof(q.uuid)) < GROUP_PREFIX)
                return -ENODEV;
        memcpy(g.group, q.uuid, GROUP_PREFIX);
        g.dev = dev;
        g.n_before = find_suspended(control, g.group, g.before);
        *ret = g;
        return 0;
}

static bool is_among(const uint64_t *list, unsigned n, uint64_t dev) {
        for (unsigned i = 0; i < n; i++)
                if (list[i] == dev)
                        return true;
        return false;
}

static bool depends_on_any(int control, uint64_t dev, const uint64_t *others, unsigned n) {
        Dependencies d;
        header_init(&d.header, sizeof(d), dev, 0);
        if (ioctl(control, DM_TABLE_DEPS, &d) < 0 || d.header.flags & DM_BUFFER_FULL_FLAG)
                return false;
        for (uint32_t i = 0; i < d.deps.count && i < DEPENDENCIES_MAX; i++)
                if (d.deps.dev[i] != dev && is_among(others, n, d.deps.dev[i]))
                        return true;
        return false;
}

/* One that needs none of the others; if all do, any. */
static unsigned choose_lowest(int control, const uint64_t *devices, unsigned n) {
        for (unsigned i = 0; i < n; i++)
                if (!depends_on_any(control, devices[i], devices, n))
                        return i;
        return 0;
}

static int resume_as_it_was(int control, uint64_t dev) {
        struct dm_ioctl q;
        header_init(&q, sizeof(q), dev, 0);
        if (ioctl(control, DM_TABLE_CLEAR, &q) < 0)
                return -errno;
        header_init(&q, sizeof(q), dev, 0);
        return ioctl(control, DM_DEV_SUSPEND, &q) < 0 ? -errno : 0; /* without its flag it is a resume */
}

unsigned guard_dm_resume(int control, const GuardDm *g) {
        uint64_t devices[GUARD_DM_SUSPENDED_MAX];
        unsigned resumed = 0, n = 0;
        /* lvm suspends from the top and resumes from the bottom; all else that is suspended is at work for somebody
         * else */
        if (control < 0 || !g->group[0] || !device_is_suspended(control, g->group, g->dev) ||
            is_among(g->before, g->n_before, g->dev))
                return 0;
        for (unsigned i = 0, found = find_suspended(control, g->group, devices); i < found; i++)
                if (!is_among(g->before, g->n_before, devices[i]))
                        devices[n++] = devices[i];
        while (n > 0) {
                unsigned i = choose_lowest(control, devices, n);
                resumed += resume_as_it_was(control, devices[i]) >= 0;
                devices[i] = devices[--n];
        }
        return resumed;
}
