/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every provider must do, whatever it is made of: the same tests over all of them, through real vss-provider-host
 * processes, so that dying and coming back as another process is part of the contract. Each test ends with nothing left
 * of its sets: in no list, and for btrfs nowhere on the file system either.
 */
#include "providers/vss-provider.h"
#include "tests/support-provider.h"
#include "tests/support.h"
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum { VOLUMES = 3 };

static const char *const built_in[] = { "null", "btrfs", "fault:null", "fault:btrfs", "cow", "fault:cow" };
static const char *const loaded[] = { "example",
                                      "fault:example" }; /* with VSS_CONTRACT=loaded; see contract-example.sh */
static const char *const served[] = { "cow",
                                      "fault:cow" }; /* with VSS_CONTRACT=engine; see vm/guest/engine-contract.sh */
/* with VSS_CONTRACT=lvm, in a virtual machine: mount points of three logical volumes are the arguments; see
 * vm/guest/lvm-contract.sh */
static const char *const logical[] = { "lvm" };
static const char *const *providers = built_in;

/* What vssd asks of a provider that leaves holding to the guard, and of one that holds volumes itself. */
static const enum vss_wire_op steps_plain[] = {
        VSS_WIRE_BEGIN_PREPARE, VSS_WIRE_END_PREPARE, VSS_WIRE_PRE_COMMIT, VSS_WIRE_COMMIT,
        VSS_WIRE_POST_COMMIT,   VSS_WIRE_PRE_FINAL,   VSS_WIRE_POST_FINAL,
};
static const enum vss_wire_op steps_holding[] = {
        VSS_WIRE_BEGIN_PREPARE, VSS_WIRE_END_PREPARE, VSS_WIRE_PRE_COMMIT, VSS_WIRE_HOLD,       VSS_WIRE_COMMIT,
        VSS_WIRE_RELEASE,       VSS_WIRE_POST_COMMIT, VSS_WIRE_PRE_FINAL,  VSS_WIRE_POST_FINAL,
};
static const enum vss_wire_op *steps;
static size_t n_steps, n_to_commit; /* up to commit, that one included */

static char *btrfs_paths[VOLUMES]; /* two subvolumes of one btrfs, and the top level of another */
static EngineVolume engine_volumes[VOLUMES];
static char *logical_paths[VOLUMES], *logical_devices[VOLUMES];
static char *volume_paths[VOLUMES]; /* of this test */
static LoopFs *file_systems[2];

static const char *provider; /* of this test */
static ProviderHost *host;   /* makes the set */
static char set[VSS_WIRE_ID], snapshots[VOLUMES][VSS_WIRE_ID];

static bool is_lvm(const char *name) {
        return streq(name, "lvm");
}

static bool is_engine(const char *name) {
        return strlen(name) >= 3 && streq(name + strlen(name) - 3, "cow");
}

static void test_begin(int i) {
        provider = providers[i];
        bool holds = is_engine(provider);
        steps = holds ? steps_holding : steps_plain;
        n_steps = holds ? ELEMENTSOF(steps_holding) : ELEMENTSOF(steps_plain);
        for (n_to_commit = 0; steps[n_to_commit++] != VSS_WIRE_COMMIT;)
                ;
        for (unsigned k = 0; k < VOLUMES; k++)
                volume_paths[k] = holds ? engine_volumes[k].path : is_lvm(provider) ? logical_paths[k] : btrfs_paths[k];
        id_make(set);
        for (unsigned k = 0; k < VOLUMES; k++)
                id_make(snapshots[k]);
        host = host_new(provider);
}

static char last_message[LIMIT_MESSAGE_BYTES]; /* of begin_prepare */

static int begin_prepare(ProviderHost *h, const char *of_set, unsigned volume, const char *snapshot, uint32_t flags) {
        struct stat st;
        _cleanup_close_ int fd = open(volume_paths[volume], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fstat(fd, &st), 0);
        struct vss_wire_request *q = request_new(VSS_WIRE_BEGIN_PREPARE, of_set, snapshot);
        q->dev = st.st_dev;
        q->size_bytes = 1 << 20;
        q->request_flags = flags;
        (void) snprintf(q->volume, sizeof(q->volume), "%s", volume_paths[volume]);
        (void) snprintf(q->mount_point, sizeof(q->mount_point), "%s", volume_paths[volume]);
        if (is_engine(provider))
                (void) snprintf(q->device, sizeof(q->device), "%s", engine_volumes[volume].device);
        if (is_lvm(provider)) {
                (void) snprintf(q->device, sizeof(q->device), "%s", logical_devices[volume]);
                (void) snprintf(q->fs_type, sizeof(q->fs_type), "ext4");
        }
        const Answer *a = host_ask(h, q, fd);
        memcpy(last_message, a->reply.message, sizeof(last_message));
        return a->result;
}

/* What the guard does around a hold. */
static void freeze_volumes(unsigned long request) {
        for (unsigned i = 0; i < VOLUMES && is_engine(provider); i++) {
                _cleanup_close_ int fd = open(volume_paths[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                ck_assert_int_eq(ioctl(fd, request, 0), 0);
        }
}

static void run_step(enum vss_wire_op op) {
        if (op != VSS_WIRE_BEGIN_PREPARE) {
                ck_assert_msg(host_step(host, op, set, NULL) == 0, "%s: step %d failed", provider, (int) op);
                return;
        }
        for (unsigned i = 0; i < VOLUMES; i++)
                ck_assert_int_eq(begin_prepare(host, set, i, snapshots[i], VSS_REQUEST_PERSISTENT), 0);
}

static void run_steps(size_t n) {
        for (size_t i = 0; i < n; i++)
                run_step(steps[i]);
}

static const Answer *list(const char *of_set) {
        ProviderHost *h = host_new(provider);
        const Answer *a = host_ask(h, request_new(VSS_WIRE_LIST, of_set, NULL), -1);
        ck_assert_msg(a->result == 0, "%s: list failed: %d, %s", provider, a->result, a->reply.message);
        (void) provider_host_free(h);
        return a;
}

static void assert_listed(unsigned n, bool pending) {
        const Answer *a = list(set);
        ck_assert_uint_eq(a->n_listed, n);
        for (unsigned i = 0; i < n; i++) {
                const struct vss_wire_reply *s = &a->listed[i];
                unsigned k = 0;
                while (k < VOLUMES && !streq(s->id, snapshots[k]))
                        k++;
                ck_assert_uint_lt(k, VOLUMES);
                ck_assert_str_eq(s->set, set);
                ck_assert_str_eq(s->volume, volume_paths[k]);
                ck_assert_uint_eq(s->pending, pending);
                uint64_t now = clock_usec(CLOCK_REALTIME);
                ck_assert_msg(s->created_at <= now + USEC_PER_SEC && s->created_at + 600 * USEC_PER_SEC > now,
                              "created when?");
        }
}

static unsigned entries(const char *path) {
        unsigned n = 0;
        DIR *d = opendir(path);
        for (struct dirent *e; d && (e = readdir(d));)
                n += e->d_name[0] != '.' || strncmp(e->d_name, ".pending", 8) == 0;
        if (d)
                (void) closedir(d);
        return n;
}

static void assert_stores_clean(void) {
        ProviderHost *h = host_new("cow");
        const Answer *a = host_ask(h, request_new(VSS_WIRE_INVENTORY, NULL, NULL), -1);
        ck_assert_int_eq(a->result, 0);
        for (unsigned i = 0; i < a->n_listed; i++)
                ck_assert_msg(a->listed[i].snapshots == 0, "%s: copies are left of volume %s", provider,
                              a->listed[i].name);
        (void) provider_host_free(h);
}

/* Nothing of any set is left, also where lists do not look. */
static void assert_clean(void) {
        assert_listed(0, false);
        if (is_engine(provider))
                assert_stores_clean();
        for (unsigned i = 0; i < ELEMENTSOF(file_systems) && file_systems[i]; i++) {
                char path[512];
                (void) snprintf(path, sizeof(path), "%s/.vss", file_systems[i]->path);
                DIR *d = opendir(path);
                for (struct dirent *e; d && (e = readdir(d));) {
                        (void) snprintf(path, sizeof(path), "%s/.vss/%.64s", file_systems[i]->path, e->d_name);
                        if (e->d_name[0] != '.')
                                ck_assert_msg(entries(path) == 0, "%s: something is left in %s", provider, path);
                }
                if (d)
                        (void) closedir(d);
        }
}

static void remove_all(void) {
        for (unsigned i = 0; i < VOLUMES; i++)
                ck_assert_int_eq(host_step(host, VSS_WIRE_REMOVE, NULL, snapshots[i]), 0);
}

static void test_end(void) {
        assert_clean();
        host = provider_host_free(host);
}

static void check_files(int dir) {
        char text[8] = "";
        int fd = openat(dir, "file", O_RDONLY | O_CLOEXEC);
        ck_assert_int_ge(read(fd, text, sizeof(text) - 1), 0);
        ck_assert_str_eq(text, "before");
        ck_assert_int_lt(openat(dir, "new", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), 0);
        ck_assert_int_eq(errno, EROFS);
        (void) close_fd(fd);
}

/* A copy that is a device: read-only, and with a file system that can be mounted beside the live one. */
static void check_device(unsigned i) {
        char *directory = temp_dir_new();
        const Answer *a = host_ask(host, request_new(VSS_WIRE_OPEN, NULL, snapshots[i]), -1);
        struct stat st;
        int read_only = 0;
        ck_assert_int_eq(a->result, 0);
        ck_assert_int_eq(fstat(a->fd, &st), 0);
        ck_assert(S_ISBLK(st.st_mode));
        ck_assert_int_eq(ioctl(a->fd, BLKROGET, &read_only), 0);
        ck_assert_int_eq(read_only, 1);
        (void) close_fd(a->fd);
        struct vss_wire_request *q = request_new(VSS_WIRE_MOUNT, NULL, snapshots[i]);
        (void) snprintf(q->path, sizeof(q->path), "%s", directory);
        a = host_ask(host, q, -1);
        ck_assert_msg(a->result == 0, "%s: mount: %s", provider, a->reply.message);
        int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        check_files(dir);
        (void) close_fd(dir);
        ck_assert_int_eq(host_step(host, VSS_WIRE_REMOVE, NULL, snapshots[i]), -EBUSY);
        q = request_new(VSS_WIRE_UNMOUNT, NULL, NULL);
        (void) snprintf(q->path, sizeof(q->path), "%s", directory);
        ck_assert_int_eq(host_ask(host, q, -1)->result, 0);
        (void) temp_dir_free(directory);
}

static void check_content(unsigned i) {
        if (host->capabilities & VSS_CAP_DEVICE) {
                check_device(i);
                return;
        }
        const Answer *a = host_ask(host, request_new(VSS_WIRE_OPEN, NULL, snapshots[i]), -1);
        if (!(host->capabilities & VSS_CAP_DIRECTORY)) {
                ck_assert_int_eq(a->result, -EOPNOTSUPP);
                return;
        }
        int dir = a->fd;
        ck_assert_int_eq(a->result, 0);
        check_files(dir);
        (void) close_fd(dir);
}

static void write_files(const char *text) {
        for (unsigned i = 0; i < VOLUMES; i++) {
                char path[512];
                (void) snprintf(path, sizeof(path), "%s/file", volume_paths[i]);
                file_write(path, text);
        }
}

START_TEST(a_set_lives_from_probe_to_remove) {
        test_begin(_i);
        write_files("before");
        run_steps(1);
        assert_listed(0, false);
        for (size_t i = 1; i < n_steps; i++) {
                if (steps[i] == VSS_WIRE_HOLD)
                        freeze_volumes(FIFREEZE);
                run_step(steps[i]);
                if (steps[i] == VSS_WIRE_RELEASE)
                        freeze_volumes(FITHAW);
                /* from its pre_commit on, lvm is a set's alone: a list would wait for the end of the window */
                if (steps[i] < VSS_WIRE_COMMIT && !(is_lvm(provider) && steps[i] == VSS_WIRE_PRE_COMMIT))
                        assert_listed(0, false);
                if (steps[i] >= VSS_WIRE_POST_COMMIT)
                        assert_listed(VOLUMES, true);
        }
        write_files("after");
        ck_assert_int_eq(host_step(host, VSS_WIRE_CLEAR_MARK, set, NULL), 0);
        ck_assert_int_eq(host_step(host, VSS_WIRE_CLEAR_MARK, set, NULL), 0);
        assert_listed(VOLUMES, false);
        for (unsigned i = 0; i < VOLUMES; i++)
                check_content(i);
        remove_all();
        ck_assert_int_eq(host_step(host, VSS_WIRE_REMOVE, NULL, snapshots[0]), -ENOENT);
        test_end();
}
END_TEST

START_TEST(abort_after_any_step_leaves_nothing) {
        for (size_t n = 0; n <= n_steps; n++) {
                test_begin(_i);
                run_steps(n);
                for (unsigned i = 0; i < 2; i++)
                        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
                test_end();
        }
}
END_TEST

START_TEST(abort_in_a_fresh_process_leaves_nothing) {
        for (size_t n = 0; n <= n_steps; n++) {
                test_begin(_i);
                run_steps(n);
                child_kill(&host->child);
                host = provider_host_free(host);
                host = host_new(provider);
                for (unsigned i = 0; i < 2; i++)
                        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
                test_end();
        }
}
END_TEST

/* The host dies somewhere inside the step: sooner each time, down to before it has begun. */
START_TEST(kill_inside_any_step_leaves_nothing_after_abort) {
        static const useconds_t moments[] = { 3000, 300, 0 };
        for (size_t n = 1; n < n_steps; n++) {
                for (size_t k = 0; k < ELEMENTSOF(moments); k++) {
                        test_begin(_i);
                        run_steps(n);
                        ck_assert_int_eq(provider_host_send(host, request_new(steps[n], set, NULL), USEC_INFINITY, -1),
                                         0);
                        (void) usleep(moments[k]);
                        child_kill(&host->child);
                        host = provider_host_free(host);
                        host = host_new(provider);
                        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
                        test_end();
                }
        }
}
END_TEST

START_TEST(abort_does_not_touch_a_finished_set) {
        test_begin(_i);
        run_steps(n_steps);
        ck_assert_int_eq(host_step(host, VSS_WIRE_CLEAR_MARK, set, NULL), 0);
        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
        assert_listed(VOLUMES, false);
        remove_all();
        test_end();
}
END_TEST

START_TEST(the_mark_can_be_cleared_by_a_fresh_process) {
        test_begin(_i);
        run_steps(n_steps);
        host = provider_host_free(host);
        host = host_new(provider);
        ck_assert_int_eq(host_step(host, VSS_WIRE_CLEAR_MARK, set, NULL), 0);
        assert_listed(VOLUMES, false);
        remove_all();
        test_end();
}
END_TEST

START_TEST(two_sets_do_not_know_each_other) {
        test_begin(_i);
        char other[VSS_WIRE_ID], other_snapshot[VSS_WIRE_ID];
        id_make(other);
        id_make(other_snapshot);
        ProviderHost *second = host_new(provider);
        run_steps(1);
        ck_assert_int_eq(begin_prepare(second, other, 0, other_snapshot, 0), 0);
        for (size_t i = 1; i < n_steps; i++)
                run_step(steps[i]);
        ck_assert_int_eq(host_step(second, VSS_WIRE_ABORT, other, NULL), 0);
        assert_listed(VOLUMES, true);
        ck_assert_int_eq(host_step(second, VSS_WIRE_ABORT, other, NULL), 0);
        second = provider_host_free(second);
        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
        test_end();
}
END_TEST

START_TEST(what_nobody_knows_is_not_found) {
        test_begin(_i);
        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
        int r = host_step(host, VSS_WIRE_REMOVE, NULL, snapshots[0]);
        ck_assert(r == 0 || r == -ENOENT);
        r = host_step(host, VSS_WIRE_OPEN, NULL, snapshots[0]);
        ck_assert(r == -ENOENT || r == -EOPNOTSUPP);
        struct vss_wire_request *q = request_new(VSS_WIRE_MOUNT, NULL, snapshots[0]);
        (void) snprintf(q->path, sizeof(q->path), "%s", sandbox_directory());
        const Answer *a = host_ask(host, q, -1);
        ck_assert(a->result == -ENOENT || a->result == -EOPNOTSUPP);
        ck_assert_str_ne(a->reply.message, "");
        ck_assert_int_eq(host_step(host, VSS_WIRE_CLEAR_MARK, set, NULL), -ENOENT);
        ck_assert_uint_eq(list(set)->n_listed, 0);
        test_end();
}
END_TEST

START_TEST(steps_out_of_order_are_refused) {
        test_begin(_i);
        for (size_t i = 1; i < n_steps; i++)
                ck_assert_int_eq(host_step(host, steps[i], set, NULL), -EINVAL);
        run_steps(n_to_commit);
        ck_assert_int_eq(host_step(host, VSS_WIRE_COMMIT, set, NULL), -EINVAL);
        ck_assert_int_eq(host_step(host, VSS_WIRE_END_PREPARE, set, NULL), -EINVAL);
        char other[VSS_WIRE_ID];
        id_make(other);
        ck_assert_int_eq(host_step(host, VSS_WIRE_POST_COMMIT, other, NULL), -EINVAL);
        ck_assert_int_eq(host_step(host, VSS_WIRE_POST_COMMIT, set, NULL), 0);
        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
        test_end();
}
END_TEST

START_TEST(ids_that_are_none_are_refused) {
        test_begin(_i);
        static const char *const bad[] = { "", "x", "../../../../../../../../etc/passwd-xxxxx",
                                           "00000000-0000-0000-0000-00000000000G" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                const Answer *a = host_ask(host, request_new(VSS_WIRE_ABORT, bad[i], NULL), -1);
                ck_assert_int_eq(a->result, -EINVAL);
                ck_assert_str_ne(a->reply.message, "");
                ck_assert_int_eq(host_step(host, VSS_WIRE_REMOVE, NULL, bad[i]), -EINVAL);
        }
        test_end();
}
END_TEST

START_TEST(one_volume_too_many_is_over_the_limit) {
        test_begin(_i);
        char id[VSS_WIRE_ID];
        for (unsigned i = 0; i < VSS_VOLUMES_MAX; i++) {
                id_make(id);
                ck_assert_int_eq(begin_prepare(host, set, 0, id, 0), 0);
        }
        id_make(id);
        ck_assert_int_eq(begin_prepare(host, set, 0, id, 0), -EDQUOT);
        ck_assert_str_ne(last_message, "");
        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
        test_end();
}
END_TEST

static void make_world(void) {
        for (unsigned i = 0; i < ELEMENTSOF(file_systems); i++)
                file_systems[i] = loop_fs_new("btrfs", 256);
        char *a, *b;
        if (asprintf(&a, "%s/A", file_systems[0]->path) < 0 || asprintf(&b, "%s/B", file_systems[0]->path) < 0)
                test_die("out of memory");
        char *make_a[] = { (char *) "btrfs", (char *) "-q", (char *) "subvolume", (char *) "create", a, NULL };
        char *make_b[] = { (char *) "btrfs", (char *) "-q", (char *) "subvolume", (char *) "create", b, NULL };
        if (run_command(make_a) != 0 || run_command(make_b) != 0)
                test_die("cannot make subvolumes");
        btrfs_paths[0] = a;
        btrfs_paths[1] = b;
        btrfs_paths[2] = strdup(file_systems[1]->path);
}

/* Of a kernel that freezes a file system twice; one that does not takes a single logical volume per set. */
static void find_logical(char *paths[]) {
        for (unsigned i = 0; i < VOLUMES; i++) {
                struct stat st;
                if (!paths[i] || stat(paths[i], &st) < 0)
                        test_die("three mount points are needed");
                logical_paths[i] = paths[i];
                if (asprintf(&logical_devices[i], "/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev)) < 0)
                        test_die("out of memory");
        }
}

static void set_directory(const char *variable) {
        char *path = temp_dir_new();
        if (setenv(variable, path, 1) < 0)
                test_die("no memory for %s", variable);
        free(path);
}

int main(int argc, char *argv[]) {
        const TTest *const tests[] = {
                a_set_lives_from_probe_to_remove,        abort_after_any_step_leaves_nothing,
                abort_in_a_fresh_process_leaves_nothing, kill_inside_any_step_leaves_nothing_after_abort,
                abort_does_not_touch_a_finished_set,     the_mark_can_be_cleared_by_a_fresh_process,
                two_sets_do_not_know_each_other,         what_nobody_knows_is_not_found,
                steps_out_of_order_are_refused,          ids_that_are_none_are_refused,
                one_volume_too_many_is_over_the_limit,
        };
        const char *which = getenv("VSS_CONTRACT");
        bool lvm = streq_null(which, "lvm"), emulated = lvm || streq_null(which, "engine");
        sandbox_enter(emulated ? 1500 : 170);
        if (lvm && argc == VOLUMES + 1)
                find_logical(argv + 1);
        else
                make_world();
        set_directory("STATE_DIRECTORY");
        set_directory("RUNTIME_DIRECTORY");
        Suite *suite = suite_create("contract-provider");
        TCase *t = tcase_create("all");
        tcase_set_timeout(t, emulated ? 900 : 120);
        int n = ELEMENTSOF(built_in);
        bool engine = true;
        if (lvm) {
                providers = logical;
                n = ELEMENTSOF(logical);
                engine = false;
        }
        if (streq_null(which, "engine")) {
                providers = served;
                n = ELEMENTSOF(served);
        }
        if (streq_null(which, "loaded")) {
                providers = loaded;
                n = ELEMENTSOF(loaded);
                engine = false;
        }
        if (engine)
                engine_volumes_new(engine_volumes, VOLUMES);
        for (size_t i = 0; i < ELEMENTSOF(tests); i++)
                tcase_add_loop_test(t, tests[i], 0, n);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        if (engine)
                engine_volumes_free(engine_volumes, VOLUMES);
        for (unsigned i = 0; i < ELEMENTSOF(file_systems) && file_systems[i]; i++)
                file_systems[i] = loop_fs_free(file_systems[i]);
        for (unsigned i = 0; i < VOLUMES; i++) {
                free(btrfs_paths[i]);
                free(logical_devices[i]);
        }
        return failed > 0;
}
