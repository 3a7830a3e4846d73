/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-guard --release-leftovers: thaws what guards have left frozen that died together with vssd. A list whose lock is
 * free belongs to nobody; one that is locked belongs to a living guard and is left alone, unless both its processes are
 * already zombies by name: then a thread of theirs is still inside FIFREEZE, the file system will be frozen when that
 * returns, and the FITHAW here is repeated until the lock is free and once more. Every file system has a thread of its
 * own, since opening its mount point or thawing it may hang; what has not come back within the limit is named and left
 * to the next run. Only what the list marks as held is thawed: a freeze of somebody else's is none of our business.
 */
#include "daemon/guard-program.h"
#include "protocol/urgency.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

enum {
        LEFTOVERS_PATIENCE_MSEC = 10 * 60 * 1000, /* for a list with a FIFREEZE in flight */
        LEFTOVERS_THAW_MSEC = 4000,               /* for all others; vssd waits 5 s */
        HELD_FILE_BYTES_MAX = 2 * 1024 * 1024,    /* 64 paths, every byte escaped, and more */
};

typedef struct Leftover {
        HeldFile file;
        const char *set;
        int fd;                  /* of the list; -EBADF once it is done */
        _Atomic uint32_t locked; /* we have the lock: no guard of this set exists */
        _Atomic uint32_t open;   /* threads still at work */
        _Atomic int32_t error;
} Leftover;

typedef struct LeftoverVolume {
        Leftover *leftover;
        const HeldEntry *entry;
} LeftoverVolume;

/* Only if it is that very file system. */
static int open_checked(const char *path, uint64_t dev) {
        struct open_how how = {
                .flags = O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC,
                .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
        };
        _cleanup_close_ int fd = (int) syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        return st.st_dev == dev ? TAKE_FD(fd) : -ENODEV;
}

/*
 * By device, where it is mounted now; by its old path for those whose st_dev is not the mount's (btrfs). -ENODEV: it is
 * not mounted; -ENXIO: it is, but something else lies over it.
 */
static int open_held(const HeldEntry *e) {
        char *line = NULL, path[LIMIT_PATH_BYTES * 4];
        size_t size = 0;
        int fd = -ENODEV;
        bool mounted = false;
        FILE *f = fopen("/proc/self/mountinfo", "re");
        while (f && fd < 0 && getline(&line, &size, f) >= 0) {
                unsigned major_number, minor_number;
                if (size > sizeof(path) ||
                    sscanf(line, "%*d %*d %u:%u %*s %s", &major_number, &minor_number, path) != 3)
                        continue;
                if (makedev(major_number, minor_number) != e->dev)
                        continue;
                held_path_unescape(path);
                fd = open_checked(path, e->dev);
                mounted = true;
        }
        if (f)
                (void) fclose(f);
        free(line);
        if (fd < 0)
                fd = open_checked(e->mount_point, e->dev);
        return fd < 0 && mounted ? -ENXIO : fd;
}

/* Nothing is known to have been suspended before: it was lvm that did it, and it has had its time. */
static void resume_below(const HeldEntry *e) {
        GuardDm g = {};
        _cleanup_close_ int control = e->mapped ? guard_dm_open() : -EBADF;
        if (control < 0 || guard_dm_init(control, e->dev, &g) < 0)
                return;
        g.n_before = 0;
        unsigned n = guard_dm_resume(control, &g);
        if (n > 0)
                fprintf(stderr, "vss-guard: resumed %u suspended devices of the volume group of %s\n", n,
                        e->mount_point);
}

static void *leftover_volume_run(void *argument) {
        _cleanup_free_ LeftoverVolume *v = argument;
        Leftover *l = v->leftover;
        resume_below(v->entry);
        _cleanup_close_ int fd = v->entry->held ? open_held(v->entry) : -ENODEV;
        int r = fd < 0 ? fd : -EAGAIN;
        bool thawed = false;
        while (r == -EAGAIN) {
                bool last = l->locked;
                if (ioctl(fd, FITHAW, 0) < 0)
                        r = errno == EINVAL ? 0 : -errno;
                else {
                        thawed = true;
                        r = 0;
                }
                if (!last && !thawed) {
                        r = -EAGAIN;
                        guard_sleep_msec(GUARD_RETRY_MSEC);
                }
        }
        /* Not mounted any more is not frozen any more, as far as anybody can tell. */
        if (r < 0 && r != -ENODEV && r != -ENOENT) {
                fprintf(stderr, "vss-guard: %s of set %s may still be frozen: %s; thaw it with 'fsfreeze -u'\n",
                        v->entry->mount_point, l->set,
                        r == -ENXIO ? "something else is mounted over it" : strerrordesc_np(-r));
                l->error = r;
        } else if (thawed)
                fprintf(stderr, "vss-guard: thawed %s, left frozen by set %s\n", v->entry->mount_point, l->set);
        l->open--;
        return NULL;
}

/* A process of that start time whose main thread runs. */
static bool guard_lives(int proc, pid_t pid, uint64_t start_time) {
        char state;
        uint64_t now;
        if (pid <= 0 || process_start_time(proc, pid, &state, &now) < 0)
                return false;
        return now == start_time && state != 'Z' && state != 'X';
}

static int leftover_read(int fd, HeldFile *ret) {
        struct stat st;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || st.st_size > HELD_FILE_BYTES_MAX)
                return -EPERM;
        _cleanup_free_ char *text = malloc((size_t) st.st_size + 1);
        if (!text)
                return -ENOMEM;
        ssize_t n = pread(fd, text, (size_t) st.st_size, 0);
        if (n < 0)
                return -errno;
        text[n] = 0;
        return held_file_parse(text, ret);
}

static int leftover_start(Leftover *l) {
        for (uint32_t i = 0; i < l->file.n_entries; i++) {
                if (!l->file.entries[i].held && !l->file.entries[i].mapped)
                        continue;
                LeftoverVolume *v = malloc(sizeof(*v));
                if (!v)
                        return -ENOMEM;
                *v = (LeftoverVolume) { .leftover = l, .entry = &l->file.entries[i] };
                l->open++;
                int r = guard_thread_new(leftover_volume_run, v);
                if (r < 0) {
                        l->open--;
                        free(v);
                        return r;
                }
        }
        return 0;
}

/* 0: nothing to do here; 1: *ret is at work. */
static int leftover_new(int proc, int directory, const char *name, Leftover **ret) {
        _cleanup_close_ int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        _cleanup_free_ Leftover *l = calloc(1, sizeof(*l));
        if (!l)
                return -ENOMEM;
        bool locked = flock(fd, LOCK_EX | LOCK_NB) >= 0;
        int r = leftover_read(fd, &l->file);
        if (r < 0)
                fprintf(stderr, "vss-guard: held/%s is damaged, using what can be read of it\n", name);
        for (size_t i = 0; i < ELEMENTSOF(l->file.pids) && !locked; i++)
                if (guard_lives(proc, l->file.pids[i], l->file.start_times[i]))
                        return 0;
        l->set = strdup(name);
        if (!l->set)
                return -ENOMEM;
        l->locked = locked;
        l->fd = TAKE_FD(fd);
        r = leftover_start(l);
        if (r < 0)
                l->error = r;
        *ret = TAKE_PTR(l);
        return 1;
}

/* True when nothing more is to be done about it. */
static bool leftover_advance(Leftover *l, int directory) {
        if (!l->locked && flock(l->fd, LOCK_EX | LOCK_NB) >= 0)
                l->locked = 1;
        if (l->open > 0 || !l->locked)
                return false;
        if (l->error == 0)
                (void) unlinkat(directory, l->set, 0);
        return true;
}

static int leftovers_wait(Leftover **all, size_t n, int directory) {
        uint64_t begin = now_usec();
        for (;;) {
                uint64_t patience = LEFTOVERS_THAW_MSEC;
                size_t open = 0;
                for (size_t i = 0; i < n; i++)
                        if (!leftover_advance(all[i], directory)) {
                                open++;
                                if (!all[i]->locked)
                                        patience = LEFTOVERS_PATIENCE_MSEC;
                        }
                if (open == 0)
                        break;
                if (now_usec() >= usec_add(begin, patience * USEC_PER_MSEC)) {
                        fputs("vss-guard: a file system does not answer; its list in held/ stays for the next run\n",
                              stderr);
                        return -ETIME;
                }
                guard_sleep_msec(GUARD_RETRY_MSEC / 2);
        }
        for (size_t i = 0; i < n; i++)
                if (all[i]->error < 0)
                        return all[i]->error;
        return 0;
}

int guard_leftovers_main(const char *runtime_directory) {
        char path[LIMIT_PATH_BYTES];
        static Leftover *all[LIMIT_SETS_RUNNING * 2];
        size_t n = 0;
        int worst = 0;
        urgency_set(URGENCY_HOLD);
        if (snprintf(path, sizeof(path), "%s/held", runtime_directory) >= (int) sizeof(path))
                return EXIT_FAILURE;
        _cleanup_close_ int directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (directory < 0 && errno == ENOENT)
                return EXIT_SUCCESS;
        _cleanup_close_ int proc = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        DIR *d = opendir(path);
        if (directory < 0 || proc < 0 || !d) {
                fprintf(stderr, "vss-guard: cannot read %s: %s\n", path, strerror(errno));
                return EXIT_FAILURE;
        }
        for (struct dirent *e; n < ELEMENTSOF(all) && (e = readdir(d));) {
                if (!id_is_valid(e->d_name))
                        continue;
                int r = leftover_new(proc, directory, e->d_name, &all[n]);
                if (r > 0)
                        n++;
                else if (r < 0) {
                        fprintf(stderr, "vss-guard: held/%s: %s\n", e->d_name, strerror(-r));
                        worst = r;
                }
        }
        (void) closedir(d);
        int r = leftovers_wait(all, n, directory);
        guard_expedite_release_leftovers(runtime_directory);
        /* Threads that hang hold the process; what is thawed is thawed. */
        _exit(r < 0 || worst < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}
