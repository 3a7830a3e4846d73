/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * bench-create [ROUNDS]: how long a snapshot takes, from the request on the control socket to the answer: hold,
 * snapshot and release together ("create"), and snapshot alone.
 *
 *   idle      rounds of 100 creates with nothing else going on
 *   load      rounds of 50 while fio writes 4 KiB at random to the device, queue depth 32
 *   size      a volume of 1 GiB against one of 16 TiB (less 4 KiB, which is what ext4 allows), sparse
 *   number    a store with 1 snapshot against one with 512
 *
 * Ratios are of medians of interleaved creates, each after some writes. Beside every create a plain durable write of
 * 4 KiB is timed (without load): a round in which the slowest of those took more than half of the target was disturbed
 * by somebody else and is done again. Exits with 1 where a figure is more than 5 % beyond its target. BENCH_DIRECTORY:
 * where the files are made, default /var/tmp.
 */
#include "providers/cow/ring.h"
#include "tests/support-cow.h"
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum {
        IDLE_ROUNDS = 10,
        IDLE_CREATES = 100,
        LOAD_ROUNDS = 6,
        LOAD_CREATES = 50,
        LOAD_PAUSE_MSEC = 20,
        RATIO_CREATES = 201,
        RATIO_WRITES = 16, /* before each of them */
        MANY = 512,
        KEPT = 4,
        TRIES = 20,
        TRY_PAUSE_MSEC = 300,
        BLOCK = 4096,
        SERVERS = 2,
        GIB = 1 << 30,
};
#define STORE_BYTES (8ULL << 30)
#define HUGE_BYTES ((16ULL << 40) - BLOCK)
#define IDLE_P99_NSEC 2000000u
#define LOAD_P99_NSEC 10000000u
#define RATIO_MAX 1.25
#define SLACK 1.05

typedef struct Volumes { /* a server with one volume "v" */
        CowServer server;
        uint64_t bytes;
        unsigned kept, first, count; /* snapshots that stay; a ring of them */
        CowId ids[MANY + 1];
        char *device;
        int fd;
} Volumes;

typedef struct World { /* shared with the process that cleans up */
        char root[256];
        pid_t fio;
        Volumes volumes[SERVERS];
} World;

static World *world;
static bool failed;

typedef struct Sample {
        uint64_t create, snapshot, plain; /* ns */
} Sample;

/* --- figures ------------------------------------------------------------------------------------------------------ */

static int compare(const void *a, const void *b) {
        const uint64_t *x = a, *y = b;
        return *x < *y ? -1 : *x > *y;
}

/* Sorts; n > 0. */
static uint64_t percentile(uint64_t *nsec, unsigned n, unsigned percent) {
        qsort(nsec, n, sizeof(*nsec), compare);
        return nsec[(uint64_t) (n - 1) * percent / 100];
}

static double ms(uint64_t nsec) {
        return (double) nsec / 1e6;
}

/* target 0: printed only */
static void print_figures(const char *what, uint64_t *nsec, unsigned n, uint64_t target) {
        uint64_t p50 = percentile(nsec, n, 50), p99 = percentile(nsec, n, 99);
        bool slow = target && (double) p99 > (double) target * SLACK;
        printf("%-16s p50 %7.3f ms  p99 %7.3f ms  max %7.3f ms", what, ms(p50), ms(p99), ms(nsec[n - 1]));
        if (target)
                printf("  target for p99 %.0f ms%s", ms(target), slow ? "  TOO SLOW" : "");
        putchar('\n');
        failed = failed || slow;
}

static void print_samples(const char *what, const Sample *samples, unsigned n, uint64_t target) {
        uint64_t *nsec = calloc(n, sizeof(*nsec));
        char name[32];
        if (n == 0 || !nsec)
                test_die("%s: no figures", what);
        (void) snprintf(name, sizeof(name), "%s create", what);
        for (unsigned i = 0; i < n; i++)
                nsec[i] = samples[i].create;
        print_figures(name, nsec, n, target);
        (void) snprintf(name, sizeof(name), "%s snapshot", what);
        for (unsigned i = 0; i < n; i++)
                nsec[i] = samples[i].snapshot;
        print_figures(name, nsec, n, 0);
        (void) snprintf(name, sizeof(name), "%s plain", what);
        for (unsigned i = 0; i < n; i++)
                nsec[i] = samples[i].plain;
        if (nsec[0] > 0)
                print_figures(name, nsec, n, 0);
        free(nsec);
}

/* --- one create --------------------------------------------------------------------------------------------------- */

typedef struct Plain {
        Ring *ring;
        Io io;
        bool came;
} Plain;

static void plain_written(Io *io, int result) {
        Plain *p = io->owner;
        if (result < 0)
                test_die("a plain write failed: %s", strerror(-result));
        p->came = true;
}

static void plain_begin(Plain *p) {
        char path[300];
        (void) snprintf(path, sizeof(path), "%s/plain", world->root);
        int fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
        if (fd < 0 || ring_new(&p->ring) < 0 || ring_set_file(p->ring, DISK_STORE, fd) < 0)
                test_die("%s cannot be made", path);
}

/* What the machine needs for one durable write, made the way the engine makes its own: on the same kind of ring. */
static uint64_t plain_write(void) {
        static uint8_t block[BLOCK] __attribute__((aligned(BLOCK)));
        static Plain p;
        if (!p.ring)
                plain_begin(&p);
        uint64_t begin = now_nsec();
        p.came = false;
        p.io = (Io) { .op = IO_WRITE_DURABLE,
                      .disk = DISK_STORE,
                      .length = BLOCK,
                      .buffer = block,
                      .done = plain_written,
                      .owner = &p };
        disk_submit(ring_disk(p.ring), &p.io);
        while (!p.came)
                if (ring_wait(p.ring) < 0)
                        test_die("the ring failed");
        return now_nsec() - begin;
}

static void create(Volumes *v, Sample *ret) {
        static const char *const names[] = { "v" };
        CowTimes t;
        if (v->count == v->kept) { /* the oldest makes room */
                cow_delete(&v->server, &v->ids[v->first]);
                v->first = (v->first + 1) % v->kept;
                v->count--;
        }
        cow_set(&v->server, names, 1, &v->ids[(v->first + v->count++) % v->kept], &t);
        *ret = (Sample) { .create = t.released_nsec - t.begin_nsec, .snapshot = t.made_nsec - t.held_nsec };
}

static uint64_t random_number(void) {
        static uint64_t x = 88172645463325252ULL;
        x ^= x << 13;
        x ^= x >> 7;
        return x ^= x << 17;
}

static void write_some(Volumes *v) {
        static uint8_t block[BLOCK] __attribute__((aligned(BLOCK)));
        for (unsigned i = 0; i < RATIO_WRITES; i++)
                if (pwrite(v->fd, block, BLOCK, (off_t) (random_number() % (v->bytes / BLOCK) * BLOCK)) != BLOCK)
                        test_die("%s cannot be written", v->device);
}

/* --- idle and load ------------------------------------------------------------------------------------------------ */

static void idle(Volumes *v, unsigned rounds) {
        Sample *samples = calloc((size_t) rounds * IDLE_CREATES, sizeof(Sample));
        unsigned good = 0;
        for (unsigned tries = 0; samples && good < rounds && tries < rounds * TRIES; tries++) {
                Sample *s = samples + (size_t) good * IDLE_CREATES;
                uint64_t worst = 0;
                for (unsigned i = 0; i < IDLE_CREATES; i++) {
                        create(v, &s[i]);
                        s[i].plain = plain_write();
                        worst = MAX_OF(worst, s[i].plain);
                }
                if (worst <= IDLE_P99_NSEC / 2)
                        good++;
                else {
                        printf("  round rejected: a plain write took %.3f ms\n", ms(worst));
                        nap_msec(TRY_PAUSE_MSEC);
                }
        }
        if (good < rounds) {
                printf("idle: only %u of %u rounds were undisturbed: no verdict\n", good, rounds);
                failed = true;
        }
        if (good > 0)
                print_samples("idle", samples, good * IDLE_CREATES, IDLE_P99_NSEC);
        free(samples);
}

static void fio_begin(const char *device) {
        char filename[300];
        (void) snprintf(filename, sizeof(filename), "--filename=%s", device);
        char *argv[] = { (char *) "fio",
                         (char *) "--name=load",
                         filename,
                         (char *) "--rw=randwrite",
                         (char *) "--bs=4k",
                         (char *) "--iodepth=32",
                         (char *) "--direct=1",
                         (char *) "--ioengine=io_uring",
                         (char *) "--time_based",
                         (char *) "--runtime=600",
                         (char *) "--size=1G",
                         NULL };
        world->fio = start_command(argv, "/dev/null");
        nap_msec(1000);
}

static void fio_end(void) {
        (void) stop_command(world->fio, 10 * USEC_PER_SEC);
        world->fio = 0;
}

static void load(Volumes *v) {
        static Sample samples[LOAD_ROUNDS * LOAD_CREATES];
        fio_begin(v->device);
        uint64_t begin = now_usec(), before = cow_call(&v->server, "status", "", "preserved_blocks");
        for (unsigned i = 0; i < LOAD_ROUNDS * LOAD_CREATES; i++) {
                create(v, &samples[i]);
                nap_msec(LOAD_PAUSE_MSEC);
        }
        uint64_t preserved = cow_call(&v->server, "status", "", "preserved_blocks") - before;
        fio_end();
        printf("load: %.0f blocks preserved per second beside the creates\n",
               (double) preserved * 1e6 / (double) (now_usec() - begin));
        print_samples("load", samples, LOAD_ROUNDS * LOAD_CREATES, LOAD_P99_NSEC);
}

/* --- ratios ------------------------------------------------------------------------------------------------------- */

static void ratio(const char *what, const char *one, const char *other, Volumes *a, Volumes *b) {
        static uint64_t nsec[2][RATIO_CREATES];
        Sample s;
        for (unsigned i = 0; i < RATIO_CREATES; i++)
                for (unsigned k = 0; k < 2; k++) {
                        Volumes *v = (i + k) % 2 ? b : a;
                        write_some(v);
                        create(v, &s);
                        nsec[(i + k) % 2][i] = s.create;
                }
        uint64_t x = percentile(nsec[0], RATIO_CREATES, 50), y = percentile(nsec[1], RATIO_CREATES, 50);
        double r = (double) y / (double) x;
        bool bad = r > RATIO_MAX + SLACK - 1;
        printf("%-16s %s %.3f ms, %s %.3f ms: %.3f  target %.2f%s\n", what, one, ms(x), other, ms(y), r, RATIO_MAX,
               bad ? "  TOO SLOW" : "");
        failed = failed || bad;
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static Volumes *volumes_begin(unsigned i, uint64_t bytes, unsigned kept) {
        static unsigned serial;
        Volumes *v = &world->volumes[i];
        char directory[300];
        (void) snprintf(directory, sizeof(directory), "%s/%u", world->root, serial++);
        if (mkdir(directory, 0700) < 0)
                test_die("%s", directory);
        *v = (Volumes) { .bytes = bytes, .kept = kept };
        cow_start(&v->server, directory, STORE_BYTES);
        v->device = cow_volume(&v->server, "v", bytes);
        v->fd = open(v->device, O_RDWR | O_DIRECT | O_CLOEXEC);
        if (v->fd < 0)
                test_die("%s", v->device);
        return v;
}

static void volumes_end(Volumes *v) {
        (void) close_fd(v->fd);
        cow_stop(&v->server);
        v->server.directory[0] = '\0';
        free(v->device);
}

static void bench_run(unsigned rounds) {
        Sample s;
        Volumes *a = volumes_begin(0, GIB, KEPT), *b;
        idle(a, rounds);
        load(a);
        volumes_end(a);
        a = volumes_begin(0, GIB, 1);
        b = volumes_begin(1, HUGE_BYTES, 1);
        ratio("size", "1 GiB", "16 TiB", a, b);
        volumes_end(b);
        b = volumes_begin(1, GIB, MANY);
        for (unsigned i = 0; i < MANY; i++)
                create(b, &s);
        ratio("number", "1 snapshot", "512", a, b);
        volumes_end(a);
        volumes_end(b);
}

static void clean_up(void) {
        if (world->fio > 0)
                (void) kill(world->fio, SIGKILL);
        for (unsigned i = 0; i < SERVERS; i++)
                if (!isempty(world->volumes[i].server.directory)) {
                        world->volumes[i].server.control = -EBADF;
                        cow_stop(&world->volumes[i].server);
                }
        char *argv[] = { (char *) "rm", (char *) "-rf", world->root, NULL };
        (void) run_command(argv);
}

static void world_begin(void) {
        world = mmap(NULL, sizeof(World), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (world == MAP_FAILED)
                test_die("no memory");
        (void) snprintf(world->root, sizeof(world->root), "%s/bench-create-XXXXXX",
                        getenv("BENCH_DIRECTORY") ?: "/var/tmp");
        if (!mkdtemp(world->root))
                test_die("%s", world->root);
}

int main(int argc, char **argv) {
        int status = 1;
        unsigned rounds = argc > 1 ? (unsigned) atoi(argv[1]) : IDLE_ROUNDS;
        sandbox_enter(1700);
        world_begin();
        setvbuf(stdout, NULL, _IOLBF, 0);
        pid_t pid = fork();
        if (pid == 0) {
                bench_run(MAX_OF(rounds, 1u));
                exit(failed);
        }
        if (pid > 0)
                (void) waitpid(pid, &status, 0);
        clean_up();
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
