/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One instant (hazards A6): a process writes n to a file on volume A and then n to a file on volume B, for ever. In a
 * set of both A shows what B does, or one more. File systems are frozen first and the engine's gates closed then; with
 * the gates alone buffered writes and stores through a mapping would be acknowledged behind their back.
 *
 * Where nothing was frozen, only a writer that waits for its fsync has an order at all; with that the gates alone keep
 * it, once the logs of the copies are replayed into overlays.
 *
 * Everything the freezing process touches while they stand still is open, mapped or in memory; a watchdog of its own
 * thaws after FREEZE_SECONDS. On the devices themselves, without file systems, the gates alone must do it.
 */
#include "tests/support-cow.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum {
        SETS = 334,         /* of each kind of writing */
        XFS_SETS = 34,      /* the same with B on XFS */
        GATE_SETS = 100,    /* with nothing frozen */
        XFS_GATE_SETS = 24, /* their logs grow, and so does the replay */
        NAIVE_TRIES = 100,  /* one snapshot after the other: the order must break within these */
        FREEZE_SECONDS = 3, /* longer: the watchdog thaws */
        FILE_BYTES = 4096,
        MIB = 1 << 20,
        VOLUME_MIB = 320, /* XFS does not go below 300 */
        STORE_MIB = 1024,
        SPEED_USEC = 50, /* the writer leaves the processor that long */
};

typedef enum Mode { MODE_FSYNC, MODE_BUFFERED, MODE_MMAP, MODE_DEVICE, _MODE_MAX } Mode;
static const char *const mode_names[_MODE_MAX] = { "fsync", "buffered", "mmap", "device" };

typedef struct Place {           /* one volume */
        const char *name, *type; /* type "": the device itself, direct I/O */
        char *device;
        char path[256], view[256]; /* where it is mounted, and where its snapshot is */
        int directory, file;
        volatile uint64_t *map;
} Place;

/* What outlives a test that dies: the clean-up needs it. */
typedef struct World {
        CowServer server;
        char root[64];
        bool gate_only; /* no file system is frozen */
        volatile pid_t writer, watchdog;
        volatile uint64_t thaw_usec; /* 0: nothing is frozen */
        volatile uint64_t thawed;    /* how often the watchdog had to */
        Place places[2];
} World;

static World *world;

/* --- the writer --------------------------------------------------------------------------------------------------- */

static void store(Place *p, Mode mode, uint64_t n) {
        static uint64_t block[FILE_BYTES / sizeof(uint64_t)] __attribute__((aligned(FILE_BYTES)));
        block[0] = n;
        if (mode == MODE_MMAP)
                *p->map = n;
        else if (mode == MODE_DEVICE && pwrite(p->file, block, FILE_BYTES, 0) != FILE_BYTES)
                test_die("the writer cannot write to %s", p->device);
        else if (mode != MODE_DEVICE &&
                 (pwrite(p->file, &n, sizeof(n), 0) != sizeof(n) || (mode == MODE_FSYNC && fsync(p->file) < 0)))
                test_die("the writer cannot write to %s", p->name);
}

static _Noreturn void writer_main(Mode mode) {
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (uint64_t n = 1;; n++) {
                store(&world->places[0], mode, n);
                store(&world->places[1], mode, n);
                if ((mode == MODE_BUFFERED || mode == MODE_MMAP) && n % 16 == 0)
                        (void) usleep(SPEED_USEC);
        }
}

static void place_open(Place *p) {
        char path[300];
        static const uint8_t zeros[FILE_BYTES] __attribute__((aligned(FILE_BYTES)));
        bool bare = isempty(p->type);
        (void) snprintf(path, sizeof(path), bare ? "%s" : "%s/counter", bare ? p->device : p->path);
        p->directory = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        p->file = open(path, O_RDWR | O_CLOEXEC | (bare ? O_DIRECT : O_CREAT | O_TRUNC), 0600);
        if (p->directory < 0 || p->file < 0 || write(p->file, zeros, FILE_BYTES) != FILE_BYTES || fsync(p->file) < 0)
                test_die("%s cannot be made", path);
        p->map = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, p->file, 0);
        if (p->map == MAP_FAILED)
                test_die("%s cannot be mapped", path);
}

static void place_close(Place *p) {
        (void) munmap((void *) (uintptr_t) p->map, FILE_BYTES);
        (void) close_fd(p->file);
        (void) close_fd(p->directory);
        p->directory = -1;
}

static void writer_begin(Mode mode) {
        place_open(&world->places[0]);
        place_open(&world->places[1]);
        pid_t pid = fork();
        if (pid == 0)
                writer_main(mode);
        if (pid < 0)
                test_die("no writer");
        world->writer = pid;
}

static void writer_end(void) {
        (void) kill(world->writer, SIGKILL);
        (void) waitpid(world->writer, NULL, 0);
        world->writer = 0;
        place_close(&world->places[0]);
        place_close(&world->places[1]);
}

/* --- freezing ----------------------------------------------------------------------------------------------------- */

static void thaw_path(const char *path) {
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd >= 0)
                (void) ioctl(fd, FITHAW, 0);
}

static _Noreturn void watchdog_main(void) {
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;; nap_msec(50)) {
                uint64_t at = world->thaw_usec;
                if (at == 0 || now_usec() < at)
                        continue;
                world->thawed++;
                world->thaw_usec = 0;
                thaw_path(world->places[0].path);
                thaw_path(world->places[1].path);
        }
}

static void watchdog_begin(void) {
        pid_t pid = fork();
        if (pid == 0)
                watchdog_main();
        if (pid < 0)
                test_die("no watchdog");
        world->watchdog = pid;
}

static void freeze(const Place *p) {
        if (isempty(p->type) || world->gate_only)
                return;
        world->thaw_usec = now_usec() + FREEZE_SECONDS * USEC_PER_SEC;
        if (ioctl(p->directory, FIFREEZE, 0) < 0)
                test_die("%s cannot be frozen", p->name);
}

static void thaw(const Place *p) {
        if (!isempty(p->type) && !world->gate_only && ioctl(p->directory, FITHAW, 0) < 0)
                test_die("%s was not frozen any more", p->name);
}

/* Sets: frozen in either order, because the order must not matter. *ret_nsec: how long the file systems stood still. */
static void set_frozen(unsigned serial, CowId ids[static 2], CowTimes *ret_times, uint64_t *ret_nsec) {
        static const char *const names[] = { "a", "b" };
        uint64_t begin = now_nsec();
        freeze(&world->places[serial % 2]);
        freeze(&world->places[1 - serial % 2]);
        cow_set(&world->server, names, 2, ids, ret_times);
        thaw(&world->places[0]);
        thaw(&world->places[1]);
        world->thaw_usec = 0;
        *ret_nsec = now_nsec() - begin;
}

/* What somebody does who has only snapshots of one volume. The engine alone is done before the writer's next write. */
static void two_alone(CowId ids[static 2], unsigned pause_msec) {
        CowTimes times;
        for (unsigned i = 0; i < 2; i++) {
                freeze(&world->places[i]);
                cow_set(&world->server, &world->places[i].name, 1, &ids[i], &times);
                thaw(&world->places[i]);
                world->thaw_usec = 0;
                nap_msec(pause_msec);
        }
}

/* --- looking ------------------------------------------------------------------------------------------------------ */

static uint64_t value_of_file(const char *path, int flags) {
        static uint64_t block[FILE_BYTES / sizeof(uint64_t)] __attribute__((aligned(FILE_BYTES)));
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
        if (fd < 0 || pread(fd, block, FILE_BYTES, 0) != FILE_BYTES)
                test_die("%s cannot be read", path);
        return block[0];
}

static uint64_t value_in_mount(const Place *p, const char *device) {
        const char *options = !streq(p->type, "xfs") ? "" : world->gate_only ? "nouuid" : "norecovery,nouuid";
        char path[300];
        if (mount(device, p->view, p->type, MS_RDONLY | MS_NOSUID | MS_NODEV, options) < 0)
                test_die("the snapshot of %s on %s cannot be mounted", p->name, device);
        (void) snprintf(path, sizeof(path), "%s/counter", p->view);
        uint64_t value = value_of_file(path, 0);
        if (umount2(p->view, 0) < 0)
                test_die("%s cannot be unmounted", p->view);
        return value;
}

static uint64_t value_in(const Place *p, const CowId *id) {
        _cleanup_free_ char *device = world->gate_only ? cow_overlay(&world->server, id) :
                                                         cow_expose(&world->server, id);
        uint64_t value = isempty(p->type) ? value_of_file(device, O_DIRECT) : value_in_mount(p, device);
        cow_delete(&world->server, id);
        return value;
}

static void values_of(const CowId ids[static 2], uint64_t ret[static 2]) {
        for (unsigned i = 0; i < 2; i++)
                ret[i] = value_in(&world->places[i], &ids[i]);
}

static bool in_order(const uint64_t v[static 2]) {
        return v[0] == v[1] || v[0] == v[1] + 1;
}

static int compare(const void *a, const void *b) {
        const uint64_t *x = a, *y = b;
        return *x < *y ? -1 : *x > *y;
}

static void figures(const char *what, uint64_t *nsec, unsigned n) {
        qsort(nsec, n, sizeof(*nsec), compare);
        printf("  %-8s median %7.3f ms  max %8.3f ms\n", what, (double) nsec[n / 2] / 1e6, (double) nsec[n - 1] / 1e6);
}

static void sets_keep_the_order(Mode mode, unsigned sets) {
        uint64_t held[SETS], frozen[SETS], v[2] = {}, last = 0, first = 0, apart = 0, start = now_usec();
        writer_begin(mode);
        nap_msec(20);
        for (unsigned i = 0; i < sets; i++) {
                CowId ids[2];
                CowTimes t;
                set_frozen(i, ids, &t, &frozen[i]);
                held[i] = t.released_nsec - t.begin_nsec;
                values_of(ids, v);
                if (!in_order(v))
                        test_die("set %u, %s: A shows %lu, B shows %lu", i + 1, mode_names[mode], v[0], v[1]);
                if (v[0] < last)
                        test_die("set %u, %s: A went from %lu back to %lu", i + 1, mode_names[mode], last, v[0]);
                first = i == 0 ? v[0] : first;
                apart += v[0] != v[1];
                last = v[0];
        }
        writer_end();
        bool bare = isempty(world->places[0].type);
        printf("%-8s A %s, B %s%s: %u sets in order (%u of them with A one ahead), counter from %lu to %lu, %.1f s\n",
               mode_names[mode], bare ? "-" : world->places[0].type, bare ? "-" : world->places[1].type,
               world->gate_only ? ", nothing frozen" : "", sets, (unsigned) apart, first, last,
               (double) (now_usec() - start) / 1e6);
        figures("hold", held, sets);
        if (!world->gate_only)
                figures("frozen", frozen, sets);
        if (last <= first)
                test_die("the writer wrote nothing between the sets");
}

static void gates_keep_the_order(unsigned sets) {
        world->gate_only = true;
        sets_keep_the_order(MODE_FSYNC, sets);
        world->gate_only = false;
}

static void two_alone_break_it(Mode mode) {
        uint64_t v[2];
        unsigned tries = 1;
        writer_begin(mode);
        nap_msec(20);
        for (;; tries++) {
                CowId ids[2];
                two_alone(ids, tries);
                values_of(ids, v);
                if (!in_order(v))
                        break;
                if (tries == NAIVE_TRIES)
                        test_die("two snapshots one after the other were in order %u times: this test sees nothing",
                                 tries);
        }
        writer_end();
        printf("%-8s one after the other: order broken at try %u, %u ms apart (A shows %lu, B shows %lu)\n",
               mode_names[mode], tries, tries, v[0], v[1]);
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static void file_system_begin(unsigned i, const char *type) {
        Place *p = &world->places[i];
        char *ext4[] = { (char *) "mkfs.ext4", (char *) "-q", (char *) "-F", p->device, NULL };
        char *xfs[] = { (char *) "mkfs.xfs", (char *) "-q", (char *) "-f", p->device, NULL };
        p->type = type;
        if (run_command(streq(type, "xfs") ? xfs : ext4) != 0 || mount(p->device, p->path, type, 0, NULL) < 0)
                test_die("no %s on %s", type, p->device);
}

static void file_system_end(unsigned i) {
        if (umount2(world->places[i].path, 0) < 0)
                test_die("%s cannot be unmounted", world->places[i].path);
        world->places[i].type = "";
}

static void test_run(void) {
        static const char *const names[] = { "a", "b" };
        cow_start(&world->server, world->root, (uint64_t) STORE_MIB * MIB);
        watchdog_begin();
        for (unsigned i = 0; i < 2; i++) {
                world->places[i].name = names[i];
                world->places[i].device = cow_volume(&world->server, names[i], (uint64_t) VOLUME_MIB * MIB);
                file_system_begin(i, "ext4");
        }
        two_alone_break_it(MODE_FSYNC);
        for (Mode m = 0; m < MODE_DEVICE; m++)
                sets_keep_the_order(m, SETS);
        gates_keep_the_order(GATE_SETS);
        file_system_end(1);
        file_system_begin(1, "xfs");
        for (Mode m = 0; m < MODE_DEVICE; m++)
                sets_keep_the_order(m, XFS_SETS);
        gates_keep_the_order(XFS_GATE_SETS);
        file_system_end(0);
        file_system_end(1);
        two_alone_break_it(MODE_DEVICE);
        sets_keep_the_order(MODE_DEVICE, SETS);
        if (world->thawed > 0)
                test_die("the watchdog had to thaw %lu times", world->thawed);
}

static void unmount(const char *path) {
        for (unsigned i = 0; umount2(path, 0) < 0 && errno == EBUSY && i < 400; i++)
                nap_msec(5);
}

/* Whatever the test left; nothing here may fail, and nothing is frozen after the first step. */
static void clean_up(void) {
        for (unsigned i = 0; i < 2; i++)
                thaw_path(world->places[i].path);
        for (unsigned i = 0; i < 2; i++) {
                pid_t pid = i == 0 ? world->writer : world->watchdog;
                if (pid > 0)
                        (void) kill(pid, SIGKILL);
        }
        nap_msec(20);
        for (unsigned i = 0; i < 2; i++) {
                unmount(world->places[i].view);
                unmount(world->places[i].path);
        }
        world->server.control = -EBADF;
        if (!isempty(world->server.directory))
                cow_stop(&world->server);
        char *argv[] = { (char *) "rm", (char *) "-rf", world->root, NULL };
        (void) run_command(argv);
}

static void world_begin(void) {
        world = mmap(NULL, sizeof(World), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (world == MAP_FAILED)
                test_die("no memory");
        world->server.control = -EBADF;
        (void) snprintf(world->root, sizeof(world->root), "/var/tmp/cow-instant-XXXXXX");
        if (!mkdtemp(world->root))
                test_die("%s", world->root);
        for (unsigned i = 0; i < 2; i++) {
                Place *p = &world->places[i];
                (void) snprintf(p->path, sizeof(p->path), "%s/fs%u", sandbox_directory(), i);
                (void) snprintf(p->view, sizeof(p->view), "%s/view%u", sandbox_directory(), i);
                if (mkdir(p->path, 0700) < 0 || mkdir(p->view, 0700) < 0)
                        test_die("%s", p->path);
        }
}

int main(void) {
        int status = 1;
        if (run_command((char *[]) { (char *) "mkfs.xfs", (char *) "-V", NULL }) != 0)
                test_skip("mkfs.xfs is not installed");
        sandbox_enter(480);
        world_begin();
        (void) fflush(stdout);
        setvbuf(stdout, NULL, _IOLBF, 0);
        pid_t pid = fork();
        if (pid == 0) {
                test_run();
                exit(0);
        }
        if (pid > 0)
                (void) waitpid(pid, &status, 0);
        clean_up();
        return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
