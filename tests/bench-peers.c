/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The peers of the benchmark "window", which tests/bench-window.sh runs interleaved with the real thing:
 *
 *   freeze MOUNT-POINT…   bare FIFREEZE of all at once, one thread each that exists before, then FITHAW of all at once;
 *                         prints microseconds from the first call to the last return: what no coordinator can beat
 *   ping PID COUNT        org.freedesktop.DBus.Peer.Ping to COUNT connections of that process, all sent at once; prints
 *                         microseconds to the last answer
 *   load MOUNT-POINT…     one writer on each, for ever
 */
#include "tests/support.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sys/ioctl.h>

enum { VOLUMES_MAX = 64, PINGS_MAX = 1024, CALLS_PER_CONNECTION = 100 };

typedef struct Volume {
        int fd;
        int frozen;
        pthread_t thread;
} Volume;

static pthread_barrier_t start, all_frozen;

static void *freeze_one(void *userdata) {
        Volume *v = userdata;
        (void) pthread_barrier_wait(&start);
        v->frozen = ioctl(v->fd, FIFREEZE, 0) == 0;
        (void) pthread_barrier_wait(&all_frozen);
        if (v->frozen)
                (void) ioctl(v->fd, FITHAW, 0);
        return NULL;
}

static int bench_freeze(int n, char *paths[]) {
        Volume volumes[VOLUMES_MAX] = {};
        if (n < 1 || n > VOLUMES_MAX)
                return 2;
        (void) pthread_barrier_init(&start, NULL, (unsigned) n + 1);
        (void) pthread_barrier_init(&all_frozen, NULL, (unsigned) n);
        for (int i = 0; i < n; i++) {
                volumes[i].fd = open(paths[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (volumes[i].fd < 0 || pthread_create(&volumes[i].thread, NULL, freeze_one, &volumes[i]) != 0)
                        test_die("cannot prepare %s", paths[i]);
        }
        /* the real one has the file systems written back just before, too */
        for (int i = 0; i < n; i++)
                (void) syncfs(volumes[i].fd);
        uint64_t begin = now_usec();
        (void) pthread_barrier_wait(&start);
        for (int i = 0; i < n; i++)
                (void) pthread_join(volumes[i].thread, NULL);
        uint64_t end = now_usec();
        for (int i = 0; i < n; i++)
                if (!volumes[i].frozen)
                        test_die("%s could not be frozen", paths[i]);
        printf("%llu\n", (unsigned long long) (end - begin));
        return 0;
}

static int on_pong(sd_bus_message *m, void *userdata, sd_bus_error *error) {
        if (sd_bus_message_is_method_error(m, NULL))
                test_die("ping failed: %s", sd_bus_message_get_error(m)->message);
        (*(unsigned *) userdata)++;
        return 0;
}

/* Unique names of the process, at most count. */
static unsigned names_of(sd_bus *bus, pid_t pid, unsigned count, char *ret[]) {
        _cleanup_free_ char **names = NULL;
        unsigned n = 0;
        if (sd_bus_list_names(bus, &names, NULL) < 0)
                test_die("cannot list the names on the bus");
        for (char **name = names; *name; name++) {
                _cleanup_(sd_bus_creds_unrefp) sd_bus_creds *creds = NULL;
                pid_t owner = 0;
                if ((*name)[0] == ':' && n < count &&
                    sd_bus_get_name_creds(bus, *name, SD_BUS_CREDS_PID, &creds) >= 0 &&
                    sd_bus_creds_get_pid(creds, &owner) >= 0 && owner == pid)
                        ret[n++] = *name;
                else
                        free(*name);
        }
        return n;
}

static int bench_ping(pid_t pid, unsigned count) {
        char *names[PINGS_MAX];
        sd_bus *buses[PINGS_MAX / CALLS_PER_CONNECTION + 1] = {};
        unsigned answered = 0;
        if (count < 1 || count > PINGS_MAX)
                return 2;
        /* a dbus-daemon carries at most 128 unanswered calls of one connection */
        unsigned n_buses = (count + CALLS_PER_CONNECTION - 1) / CALLS_PER_CONNECTION;
        for (unsigned i = 0; i < n_buses; i++)
                if (sd_bus_open_system(&buses[i]) < 0)
                        test_die("cannot reach the bus");
        if (names_of(buses[0], pid, count, names) < count)
                test_die("process %d has fewer than %u connections", (int) pid, count);
        uint64_t begin = now_usec();
        for (unsigned i = 0; i < count; i++)
                if (sd_bus_call_method_async(buses[i / CALLS_PER_CONNECTION], NULL, names[i], "/org/vssd/Vss1",
                                             "org.freedesktop.DBus.Peer", "Ping", on_pong, &answered, NULL) < 0)
                        test_die("cannot send a ping");
        while (answered < count) {
                bool idle = true;
                for (unsigned i = 0; i < n_buses; i++)
                        if (sd_bus_process(buses[i], NULL) > 0)
                                idle = false;
                if (idle)
                        (void) sd_bus_wait(buses[answered % n_buses], 200);
        }
        printf("%llu\n", (unsigned long long) (now_usec() - begin));
        return 0;
}

static void *write_one(void *userdata) {
        _cleanup_free_ char *path = NULL;
        char block[4096] = "load";
        if (asprintf(&path, "%s/load", (char *) userdata) < 0)
                return NULL;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0)
                test_die("cannot open %s", path);
        for (off_t i = 0;; i++) {
                if (pwrite(fd, block, sizeof(block), i % 256 * (off_t) sizeof(block)) < 0 ||
                    (i % 16 == 0 && fdatasync(fd) < 0))
                        test_die("cannot write %s", path);
                nap_msec(5);
        }
}

static int bench_load(int n, char *paths[]) {
        pthread_t thread;
        for (int i = 0; i < n; i++)
                if (pthread_create(&thread, NULL, write_one, paths[i]) != 0)
                        test_die("cannot start a writer");
        for (;;)
                (void) pause();
}

int main(int argc, char *argv[]) {
        if (argc >= 3 && streq(argv[1], "freeze"))
                return bench_freeze(argc - 2, argv + 2);
        if (argc == 4 && streq(argv[1], "ping"))
                return bench_ping(atoi(argv[2]), (unsigned) atoi(argv[3]));
        if (argc >= 3 && streq(argv[1], "load"))
                return bench_load(argc - 2, argv + 2);
        fprintf(stderr, "usage: bench-peers freeze|load MOUNT-POINT…, bench-peers ping PID COUNT\n");
        return 2;
}
