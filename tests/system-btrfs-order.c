/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Hazard B2: a writer writes n to A and then n to B, two subvolumes. In copies that are one instant A shows n or B's n
 * + 1. Two plain snapshots side by side break that within a few tries, in one transaction too; what the provider calls
 * a set never may. The writer pauses at times, else no set could be proved; a writer that never pauses must end in
 * -EXDEV.
 */
#include "tests/support-provider.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <linux/btrfs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum {
        FILE_BYTES = 64 * 1024,
        OFFSET = 8192,
        SETS = 40,
        NAIVE_PAIRS_MAX = 500,
        CREATED_MIN = 5,      /* fewer would prove nothing */
        REFUSED_WITHIN = 300, /* sets; on a busy machine the writer may not run at all between copy and sync */
};

typedef enum Mode { MODE_BUFFERED, MODE_MMAP, MODE_FSYNC, _MODE_MAX } Mode;

typedef struct Writer {
        pthread_t thread;
        Mode mode;
        bool pauses;
        _Atomic bool stop;
        int fds[2];
        _Atomic uint64_t *maps[2];
} Writer;

static LoopFs *file_systems[2];
static char directories[3][256]; /* A and B of one file system, B of the other */

static void writer_store(Writer *w, unsigned i, uint64_t n) {
        if (w->mode == MODE_MMAP) {
                atomic_store(w->maps[i], n);
                return;
        }
        if (pwrite(w->fds[i], &n, sizeof(n), OFFSET) != sizeof(n) ||
            (w->mode == MODE_FSYNC && fdatasync(w->fds[i]) < 0))
                test_die("cannot write");
}

static void *writer_run(void *userdata) {
        Writer *w = userdata;
        unsigned seed = 1;
        for (uint64_t n = 1, burst_end = 0; !atomic_load(&w->stop); n++) {
                if (w->pauses && now_usec() > burst_end) {
                        (void) usleep((useconds_t) (rand_r(&seed) % 40000));
                        burst_end = now_usec() + (uint64_t) (rand_r(&seed) % 8000);
                }
                writer_store(w, 0, n);
                writer_store(w, 1, n);
        }
        return NULL;
}

static void writer_start(Writer *w, Mode mode, bool pauses, const char *a, const char *b) {
        *w = (Writer) { .mode = mode, .pauses = pauses };
        for (unsigned i = 0; i < 2; i++) {
                static const char zeros[FILE_BYTES];
                char path[512];
                (void) snprintf(path, sizeof(path), "%s/f", i == 0 ? a : b);
                w->fds[i] = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
                ck_assert_int_eq(pwrite(w->fds[i], zeros, sizeof(zeros), 0), sizeof(zeros));
                void *m = mmap(NULL, FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, w->fds[i], 0);
                ck_assert_ptr_ne(m, MAP_FAILED);
                w->maps[i] = (_Atomic uint64_t *) ((char *) m + OFFSET);
        }
        ck_assert_int_eq(pthread_create(&w->thread, NULL, writer_run, w), 0);
}

static void writer_end(Writer *w) {
        atomic_store(&w->stop, true);
        (void) pthread_join(w->thread, NULL);
        for (unsigned i = 0; i < 2; i++) {
                (void) munmap((char *) w->maps[i] - OFFSET, FILE_BYTES);
                (void) close_fd(w->fds[i]);
        }
}

static uint64_t value_in(int dir) {
        uint64_t n = 0;
        _cleanup_close_ int fd = openat(dir, "f", O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(pread(fd, &n, sizeof(n), OFFSET), sizeof(n));
        return n;
}

static bool in_order(uint64_t a, uint64_t b) {
        return a == b || a == b + 1;
}

static void prepare(ProviderHost *h, const char *set, const char *snapshot, const char *path) {
        struct stat st;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_eq(fstat(fd, &st), 0);
        struct vss_wire_request *q = request_new(VSS_WIRE_BEGIN_PREPARE, set, snapshot);
        q->dev = st.st_dev;
        (void) snprintf(q->volume, sizeof(q->volume), "%s", path);
        ck_assert_int_eq(host_ask(h, q, fd)->result, 0);
}

/* One set of both directories: what commit said; the values the copies show. */
static int take_set(const char *a, const char *b, uint64_t ret_values[static 2]) {
        char set[VSS_WIRE_ID], snapshots[2][VSS_WIRE_ID];
        ProviderHost *h = host_new("btrfs");
        id_make(set);
        for (unsigned i = 0; i < 2; i++) {
                id_make(snapshots[i]);
                prepare(h, set, snapshots[i], i == 0 ? a : b);
        }
        ck_assert_int_eq(host_step(h, VSS_WIRE_END_PREPARE, set, NULL), 0);
        ck_assert_int_eq(host_step(h, VSS_WIRE_PRE_COMMIT, set, NULL), 0);
        int committed = host_step(h, VSS_WIRE_COMMIT, set, NULL);
        for (unsigned i = 0; committed == 0 && i < 2; i++) {
                const Answer *answer = host_ask(h, request_new(VSS_WIRE_OPEN, NULL, snapshots[i]), -1);
                ck_assert_int_eq(answer->result, 0);
                _cleanup_close_ int dir = answer->fd;
                ret_values[i] = value_in(dir);
        }
        ck_assert_int_eq(host_step(h, VSS_WIRE_ABORT, set, NULL), 0);
        (void) provider_host_free(h);
        return committed;
}

static void check_sets(Mode mode, const char *a, const char *b) {
        Writer w;
        unsigned created = 0, refused = 0;
        writer_start(&w, mode, true, a, b);
        for (unsigned i = 0; i < SETS; i++) {
                uint64_t values[2] = {};
                int r = take_set(a, b, values);
                ck_assert(r == 0 || r == -EXDEV);
                if (r == 0)
                        ck_assert_msg(in_order(values[0], values[1]), "set %u: A=%llu B=%llu", i,
                                      (unsigned long long) values[0], (unsigned long long) values[1]);
                created += r == 0;
                refused += r != 0;
                nap_msec(1);
        }
        writer_end(&w);
        printf("mode %d: %u sets created, all in order; %u refused\n", (int) mode, created, refused);
        ck_assert_uint_ge(created, CREATED_MIN);
}

START_TEST(sets_of_two_subvolumes_keep_the_order) {
        check_sets((Mode) _i, directories[0], directories[1]);
}
END_TEST

START_TEST(sets_of_two_file_systems_keep_the_order) {
        check_sets((Mode) _i, directories[0], directories[2]);
}
END_TEST

/* Writing without a pause: a set may be had by luck, but only in order; one must be refused. */
START_TEST(a_set_that_cannot_be_proved_is_refused) {
        Writer w;
        unsigned refused = 0;
        writer_start(&w, (Mode) _i, false, directories[0], directories[1]);
        for (unsigned i = 0; i < REFUSED_WITHIN && refused == 0; i++) {
                uint64_t values[2] = {};
                int r = take_set(directories[0], directories[1], values);
                ck_assert(r == -EXDEV || (r == 0 && in_order(values[0], values[1])));
                refused += r == -EXDEV;
        }
        writer_end(&w);
        ck_assert_uint_gt(refused, 0);
}
END_TEST

typedef struct Naive {
        int source, parent;
        pthread_barrier_t *together;
} Naive;

static void *naive_take(void *userdata) {
        Naive *n = userdata;
        struct btrfs_ioctl_vol_args_v2 args = { .fd = n->source, .flags = BTRFS_SUBVOL_RDONLY, .name = "copy" };
        (void) pthread_barrier_wait(n->together);
        if (ioctl(n->parent, BTRFS_IOC_SNAP_CREATE_V2, &args) < 0)
                test_die("cannot take a snapshot");
        return NULL;
}

/* The control: the same two ioctls without the proof. */
static bool naive_pair_keeps_order(void) {
        pthread_barrier_t together;
        pthread_t threads[2];
        Naive naive[2];
        uint64_t values[2];
        (void) pthread_barrier_init(&together, NULL, 2);
        for (unsigned i = 0; i < 2; i++) {
                char parent[300];
                (void) snprintf(parent, sizeof(parent), "%s/naive%u", file_systems[0]->path, i);
                (void) mkdir(parent, 0700);
                naive[i].source = open(directories[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                naive[i].parent = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                naive[i].together = &together;
                ck_assert_int_eq(pthread_create(&threads[i], NULL, naive_take, &naive[i]), 0);
        }
        for (unsigned i = 0; i < 2; i++) {
                (void) pthread_join(threads[i], NULL);
                _cleanup_close_ int dir = openat(naive[i].parent, "copy", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                values[i] = value_in(dir);
                struct btrfs_ioctl_vol_args args = { .name = "copy" };
                ck_assert_int_eq(ioctl(naive[i].parent, BTRFS_IOC_SNAP_DESTROY, &args), 0);
                (void) close_fd(naive[i].source);
                (void) close_fd(naive[i].parent);
        }
        (void) pthread_barrier_destroy(&together);
        return in_order(values[0], values[1]);
}

START_TEST(without_the_proof_the_order_breaks) {
        Writer w;
        unsigned pairs = 0;
        writer_start(&w, MODE_BUFFERED, false, directories[0], directories[1]);
        while (pairs < NAIVE_PAIRS_MAX && naive_pair_keeps_order())
                pairs++;
        writer_end(&w);
        printf("plain snapshots: order broken by pair %u\n", pairs + 1);
        ck_assert_uint_lt(pairs, NAIVE_PAIRS_MAX);
}
END_TEST

static void make_subvolume(unsigned i, const LoopFs *fs, const char *name) {
        (void) snprintf(directories[i], sizeof(directories[i]), "%s/%s", fs->path, name);
        char *argv[] = { (char *) "btrfs", (char *) "subvolume", (char *) "create", directories[i], NULL };
        if (run_command(argv) != 0)
                test_die("cannot make %s", directories[i]);
}

int main(void) {
        sandbox_enter(280);
        file_systems[0] = loop_fs_new("btrfs", 512);
        file_systems[1] = loop_fs_new("btrfs", 512);
        make_subvolume(0, file_systems[0], "A");
        make_subvolume(1, file_systems[0], "B");
        make_subvolume(2, file_systems[1], "B");
        Suite *suite = suite_create("system-btrfs-order");
        TCase *t = tcase_create("order");
        tcase_set_timeout(t, 90);
        tcase_add_test(t, without_the_proof_the_order_breaks);
        tcase_add_loop_test(t, sets_of_two_subvolumes_keep_the_order, 0, _MODE_MAX);
        tcase_add_loop_test(t, sets_of_two_file_systems_keep_the_order, 0, _MODE_MAX);
        tcase_add_loop_test(t, a_set_that_cannot_be_proved_is_refused, 0, _MODE_MAX);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        for (unsigned i = 0; i < ELEMENTSOF(file_systems); i++)
                file_systems[i] = loop_fs_free(file_systems[i]);
        return failed > 0;
}
