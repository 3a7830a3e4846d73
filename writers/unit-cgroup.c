/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/unit-cgroup.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

enum { EVENTS_BYTES = 256, LOOKS = 3, LOOK_USEC = 1000 };

const char *cgroup_mount(void) {
        static const char *const places[] = { "/sys/fs/cgroup", "/sys/fs/cgroup/unified" };
        struct statfs fs;
        for (size_t i = 0; i < ELEMENTSOF(places); i++)
                if (statfs(places[i], &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC)
                        return places[i];
        return NULL;
}

static int open_plain(int at, const char *path, int flags) {
        struct open_how how = { .flags = (uint64_t) (flags | O_CLOEXEC),
                                .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS };
        long fd = syscall(SYS_openat2, at, path, &how, sizeof(how));
        return fd < 0 ? -errno : (int) fd;
}

int cgroup_open(const char *path, Cgroup *ret, Failure *reterr) {
        Cgroup c = CGROUP_NULL;
        struct statfs fs;
        c.directory = open_plain(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
        if (c.directory < 0)
                return failure_set(reterr, c.directory == -ENOENT ? CONDITION_NOT_FOUND : CONDITION_FAILED,
                                   "control group %.300s: %s", path, strerror(-c.directory));
        c.freeze = open_plain(c.directory, "cgroup.freeze", O_RDWR);
        c.events = open_plain(c.directory, "cgroup.events", O_RDONLY);
        int error = c.freeze < 0 ? -c.freeze : c.events < 0 ? -c.events : 0;
        c.path = strdup(path);
        if (fstatfs(c.directory, &fs) < 0 || fs.f_type != CGROUP2_SUPER_MAGIC)
                (void) failure_set(reterr, CONDITION_NOT_SUPPORTED, "%.300s is no control group of version 2", path);
        else if (error == ENOENT)
                (void) failure_set(reterr, CONDITION_NOT_SUPPORTED,
                                   "control group %.300s cannot be frozen: it is the root of all", path);
        else if (error != 0)
                (void) failure_set(reterr, CONDITION_FAILED, "control group %.300s cannot be frozen: %s", path,
                                   strerror(error));
        else if (!c.path)
                (void) failure_set(reterr, CONDITION_FAILED, "out of memory");
        else {
                *ret = c;
                return 0;
        }
        cgroup_close(&c);
        return -EINVAL;
}

void cgroup_close(Cgroup *c) {
        close_fd(c->directory);
        close_fd(c->freeze);
        close_fd(c->events);
        free(c->path);
        *c = CGROUP_NULL;
}

int cgroup_is_frozen(const Cgroup *c) {
        char text[EVENTS_BYTES];
        ssize_t n = pread(c->events, text, sizeof(text) - 1, 0);
        if (n < 0)
                return -errno;
        text[n] = '\0';
        return strstr(text, "frozen 1") != NULL;
}

int cgroup_is_told(const Cgroup *c) {
        char text[2] = "";
        return pread(c->freeze, text, sizeof(text) - 1, 0) < 0 ? -errno : text[0] == '1';
}

int cgroup_set(const Cgroup *c, bool frozen) {
        return pwrite(c->freeze, frozen ? "1" : "0", 1, 0) < 0 ? -errno : 0;
}

int cgroup_wait(const Cgroup *c, bool frozen, uint64_t until_usec, int cancel_fd) {
        int looks = 0;
        for (;;) {
                int r = cgroup_is_frozen(c);
                if (r < 0 || (r == frozen && ++looks == (frozen ? LOOKS : 1)))
                        return MIN_OF(r, 0);
                if (r == frozen) {
                        (void) usleep(LOOK_USEC);
                        continue;
                }
                looks = 0;
                uint64_t now = now_usec();
                if (now >= until_usec)
                        return -ETIME;
                struct pollfd fds[] = { { .fd = c->events, .events = POLLPRI }, { .fd = cancel_fd, .events = POLLIN } };
                int msec = (int) MIN_OF((until_usec - now) / USEC_PER_MSEC + 1, (uint64_t) 1000);
                if (poll(fds, ELEMENTSOF(fds), msec) > 0 && fds[1].revents)
                        return -ECANCELED;
        }
}

/* --- everybody in it ---------------------------------------------------------------------------------------------- */

typedef struct Walk {
        CgroupVisit visit;
        void *userdata;
        unsigned groups, processes;
} Walk;

static int visit_processes(Walk *w, int directory, const char *path, Failure *reterr) {
        char line[32];
        int r = 0, fd = open_plain(directory, "cgroup.procs", O_RDONLY);
        if (fd == -ENOENT || fd == -ENODEV)
                return 0; /* it was removed */
        FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
        if (!f) {
                close_fd(fd);
                return failure_set(reterr, CONDITION_FAILED, "cannot see who is in %.300s: %s", path,
                                   strerror(fd < 0 ? -fd : errno));
        }
        /* Reading fails for the inner groups of a threaded one; their processes are in the outermost. */
        while (r >= 0 && fgets(line, sizeof(line), f)) {
                if (++w->processes > CGROUP_PROCESSES_MAX)
                        r = failure_set(reterr, CONDITION_LIMIT_REACHED, "%.300s has more than %d processes", path,
                                        CGROUP_PROCESSES_MAX);
                else
                        r = w->visit(w->userdata, path, (pid_t) strtol(line, NULL, 10), reterr);
        }
        (void) fclose(f);
        return r;
}

static int walk(Walk *w, int directory, const char *path, unsigned depth, Failure *reterr);

static int walk_below(Walk *w, DIR *d, const char *path, unsigned depth, Failure *reterr) {
        struct dirent *entry;
        int r = 0;
        while (r >= 0 && (entry = readdir(d))) {
                _cleanup_free_ char *below = NULL;
                if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
                        continue;
                _cleanup_close_ int fd = open_plain(dirfd(d), entry->d_name, O_RDONLY | O_DIRECTORY);
                if (fd < 0)
                        continue; /* removed meanwhile */
                if (asprintf(&below, "%s/%s", path, entry->d_name) < 0)
                        return failure_set(reterr, CONDITION_FAILED, "out of memory");
                r = walk(w, fd, below, depth + 1, reterr);
        }
        return r;
}

static int walk(Walk *w, int directory, const char *path, unsigned depth, Failure *reterr) {
        if (depth > CGROUP_DEPTH_MAX || ++w->groups > CGROUPS_MAX)
                return failure_set(
                        reterr, CONDITION_LIMIT_REACHED,
                        "there are more than %d control groups, or more than %d levels of them, below %.200s",
                        CGROUPS_MAX, CGROUP_DEPTH_MAX, path);
        int r = visit_processes(w, directory, path, reterr);
        if (r < 0)
                return r;
        int fd = open_plain(directory, ".", O_RDONLY | O_DIRECTORY);
        DIR *d = fd < 0 ? NULL : fdopendir(fd);
        if (!d) {
                close_fd(fd);
                return 0; /* removed meanwhile */
        }
        r = walk_below(w, d, path, depth, reterr);
        (void) closedir(d);
        return r;
}

int cgroup_walk(const Cgroup *c, CgroupVisit visit, void *userdata, Failure *reterr) {
        Walk w = { .visit = visit, .userdata = userdata };
        return walk(&w, c->directory, c->path, 0, reterr);
}
