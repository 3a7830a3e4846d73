/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The btrfs provider on real file systems: where copies lie and who can see them, how they are mounted, when they can
 * be written, what is refused, and what happens with hostile directories, other processes and a file system that stands
 * still.
 */
#include "providers/vss-provider.h"
#include "tests/support-provider.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>

static LoopFs *fs;          /* its top level is mounted at fs->path */
static char subvolume[256]; /* fs->path/data */
static char elsewhere[256]; /* the same subvolume, mounted by itself */
static char directory[256]; /* empty, to mount copies on */
static ProviderHost *host;
static char set[VSS_WIRE_ID], snapshot[VSS_WIRE_ID];

static void run(const char *command) {
        ck_assert_msg(run_command((char *[]) { (char *) "sh", (char *) "-ec", (char *) command, NULL }) == 0, "%s",
                      command);
}

static void run_format(const char *format, ...) _printf_(1, 2);
static void run_format(const char *format, ...) {
        char text[1024];
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(text, sizeof(text), format, ap);
        va_end(ap);
        run(text);
}

static void setup(void) {
        fs = loop_fs_new("btrfs", 1024);
        (void) snprintf(subvolume, sizeof(subvolume), "%s/data", fs->path);
        (void) snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", sandbox_directory());
        (void) snprintf(directory, sizeof(directory), "%s/copy", sandbox_directory());
        run_format("btrfs subvolume create %s >/dev/null; mkdir -p %s %s; echo text >%s/file", subvolume, elsewhere,
                   directory, subvolume);
        if (mount(fs->device, elsewhere, "btrfs", 0, "subvol=data") < 0)
                test_die("cannot mount the subvolume");
        host = host_new("btrfs");
        id_make(set);
        id_make(snapshot);
}

static void teardown(void) {
        host = provider_host_free(host);
        (void) umount2(directory, MNT_DETACH);
        (void) umount2(elsewhere, MNT_DETACH);
        fs = loop_fs_free(fs);
}

static const Answer *ask_volume(ProviderHost *h, enum vss_wire_op op, const char *path, uint32_t flags) {
        struct stat st;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_eq(fstat(fd, &st), 0);
        struct vss_wire_request *q = request_new(op, set, snapshot);
        q->dev = st.st_dev;
        q->request_flags = flags;
        (void) snprintf(q->volume, sizeof(q->volume), "%s", path);
        return host_ask(h, q, fd);
}

static void steps(enum vss_wire_op last) {
        for (enum vss_wire_op op = VSS_WIRE_END_PREPARE; op <= last; op++)
                if (op != VSS_WIRE_HOLD && op != VSS_WIRE_RELEASE)
                        ck_assert_int_eq(host_step(host, op, set, NULL), 0);
}

static void make_copy(const char *path, uint32_t flags, enum vss_wire_op last) {
        ck_assert_int_eq(ask_volume(host, VSS_WIRE_BEGIN_PREPARE, path, flags)->result, 0);
        steps(last);
}

static void finish(void) {
        ck_assert_int_eq(host_step(host, VSS_WIRE_CLEAR_MARK, set, NULL), 0);
}

static const struct vss_wire_reply *listed(void) {
        const Answer *a = host_ask(host, request_new(VSS_WIRE_LIST, set, NULL), -1);
        ck_assert_int_eq(a->result, 0);
        ck_assert_uint_eq(a->n_listed, 1);
        return &a->listed[0];
}

static int open_copy(void) {
        const Answer *a = host_ask(host, request_new(VSS_WIRE_OPEN, NULL, snapshot), -1);
        ck_assert_int_eq(a->result, 0);
        return a->fd;
}

static int mount_copy(const char *where) {
        struct vss_wire_request *q = request_new(VSS_WIRE_MOUNT, NULL, snapshot);
        (void) snprintf(q->path, sizeof(q->path), "%s", where);
        return host_ask(host, q, -1)->result;
}

static int unmount_copy(const char *where, uint32_t flags) {
        struct vss_wire_request *q = request_new(VSS_WIRE_UNMOUNT, NULL, NULL);
        q->flags = flags;
        (void) snprintf(q->path, sizeof(q->path), "%s", where);
        return host_ask(host, q, -1)->result;
}

static bool exists(const char *parent, const char *name) {
        char path[2048];
        (void) snprintf(path, sizeof(path), "%s/%s", parent, name);
        return access(path, F_OK) == 0;
}

static bool can_write(const char *parent) {
        char path[2048];
        (void) snprintf(path, sizeof(path), "%s/written", parent);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        return fd >= 0;
}

START_TEST(copies_are_out_of_sight_where_only_the_subvolume_is_mounted) {
        ck_assert_int_eq(umount2(fs->path, 0), 0);
        make_copy(elsewhere, 0, VSS_WIRE_POST_FINAL);
        finish();
        ck_assert(!exists(elsewhere, ".vss"));
        ck_assert_str_eq(listed()->path, "");
        _cleanup_close_ int dir = open_copy();
        ck_assert_int_eq(faccessat(dir, "file", F_OK, 0), 0);
        ck_assert_int_eq(mount(fs->device, fs->path, "btrfs", 0, NULL), 0);
}
END_TEST

START_TEST(the_path_is_known_where_the_top_level_is_mounted) {
        struct stat st;
        char store[300];
        make_copy(subvolume, VSS_REQUEST_PERSISTENT, VSS_WIRE_POST_FINAL);
        finish();
        const struct vss_wire_reply *s = listed();
        ck_assert(exists(s->path, "file"));
        ck_assert(!can_write(s->path));
        ck_assert_uint_eq(s->snapshot_flags, VSS_REQUEST_PERSISTENT);
        (void) snprintf(store, sizeof(store), "%s/.vss", fs->path);
        ck_assert_int_eq(stat(store, &st), 0);
        ck_assert_uint_eq(st.st_uid, 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0700);
}
END_TEST

START_TEST(a_mounted_copy_is_read_only_and_in_use) {
        make_copy(subvolume, 0, VSS_WIRE_POST_FINAL);
        finish();
        ck_assert_int_eq(mount_copy(directory), 0);
        ck_assert_int_eq(mount_copy(directory), 0);
        ck_assert(exists(directory, "file"));
        ck_assert(!can_write(directory));
        run_format(
                "awk '$5 == \"%s\" && $6 ~ /ro/ && $6 ~ /nosuid/ && $6 ~ /nodev/ { n++ } END { exit n != 1 }' /proc/self/mountinfo",
                directory);
        ck_assert_int_eq(host_step(host, VSS_WIRE_REMOVE, NULL, snapshot), -EBUSY);
        int busy = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_eq(unmount_copy(directory, 0), -EBUSY);
        (void) close_fd(busy);
        ck_assert_int_eq(unmount_copy(directory, 0), 0);
        ck_assert_int_eq(unmount_copy(directory, 0), 0);
        ck_assert_int_eq(host_step(host, VSS_WIRE_REMOVE, NULL, snapshot), 0);
}
END_TEST

START_TEST(other_mounts_and_links_are_left_alone) {
        char link_path[300];
        make_copy(subvolume, 0, VSS_WIRE_POST_FINAL);
        finish();
        ck_assert_int_eq(unmount_copy(elsewhere, 0), -EINVAL);
        ck_assert_int_eq(unmount_copy(sandbox_directory(), 0), 0); /* no btrfs, nothing to do */
        ck_assert(exists(elsewhere, "file"));
        (void) snprintf(link_path, sizeof(link_path), "%s/link", sandbox_directory());
        ck_assert_int_eq(symlink(directory, link_path), 0);
        ck_assert_int_eq(mount_copy(link_path), -EINVAL);
        ck_assert_int_eq(unlink(link_path), 0);
        ck_assert(!exists(directory, "file"));
}
END_TEST

START_TEST(a_writable_copy_can_be_written_until_post_final) {
        make_copy(subvolume, VSS_REQUEST_WRITABLE, VSS_WIRE_PRE_FINAL);
        ck_assert_int_eq(mount_copy(directory), 0);
        ck_assert(can_write(directory));
        ck_assert_int_eq(host_step(host, VSS_WIRE_POST_FINAL, set, NULL), 0);
        ck_assert_int_eq(unlinkat(AT_FDCWD, "written", 0), -1);
        finish();
        _cleanup_close_ int dir = open_copy();
        ck_assert_int_eq(faccessat(dir, "written", F_OK, 0), 0);
        ck_assert_int_lt(openat(dir, "more", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), 0);
        ck_assert_int_eq(errno, EROFS);
        ck_assert(!exists(subvolume, "written"));
}
END_TEST

START_TEST(a_file_that_was_left_open_does_not_reach_the_finished_copy) {
        char text[16] = "";
        make_copy(subvolume, VSS_REQUEST_WRITABLE, VSS_WIRE_PRE_FINAL);
        uint64_t created_at = listed()->created_at;
        ck_assert_int_eq(mount_copy(directory), 0);
        _cleanup_close_ int place = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_close_ int fd = openat(place, "kept-open", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        ck_assert_int_eq(write(fd, "before", 6), 6);
        nap_msec(20);
        ck_assert_int_eq(host_step(host, VSS_WIRE_POST_FINAL, set, NULL), 0);
        (void) !pwrite(fd, "behind", 6, 0);
        (void) fsync(fd);
        ck_assert_int_eq(host_step(host, VSS_WIRE_POST_FINAL, set, NULL), 0);
        finish();
        (void) !pwrite(fd, "behind", 6, 0);
        (void) fsync(fd);
        ck_assert_uint_eq(listed()->created_at, created_at);
        _cleanup_close_ int dir = open_copy();
        _cleanup_close_ int copy = openat(dir, "kept-open", O_RDONLY | O_CLOEXEC);
        ck_assert_int_eq(read(copy, text, sizeof(text)), 6);
        ck_assert_str_eq(text, "before");
        ck_assert_int_lt(openat(dir, "more", O_WRONLY | O_CREAT | O_CLOEXEC, 0600), 0);
        dir = close_fd(dir);
        copy = close_fd(copy);
        place = close_fd(place);
        fd = close_fd(fd);
        ck_assert_int_eq(unmount_copy(directory, 0), 0);
        ck_assert_int_eq(host_step(host, VSS_WIRE_REMOVE, NULL, snapshot), 0);
}
END_TEST

START_TEST(subvolumes_below_are_warned_about) {
        run_format("btrfs subvolume create %s/inner >/dev/null; echo x >%s/inner/x", subvolume, subvolume);
        const Answer *a = ask_volume(host, VSS_WIRE_BEGIN_PREPARE, subvolume, 0);
        ck_assert_int_eq(a->result, 0);
        ck_assert_msg(strstr(a->reply.message, "data/inner"), "no warning: '%s'", a->reply.message);
        steps(VSS_WIRE_POST_FINAL);
        _cleanup_close_ int dir = open_copy();
        ck_assert_int_eq(faccessat(dir, "inner", F_OK, 0), 0);
        ck_assert_int_lt(faccessat(dir, "inner/x", F_OK, 0), 0);
}
END_TEST

START_TEST(the_top_level_is_copied_without_the_store) {
        const Answer *a = ask_volume(host, VSS_WIRE_BEGIN_PREPARE, fs->path, 0);
        ck_assert_int_eq(a->result, 0);
        ck_assert_ptr_nonnull(strstr(a->reply.message, "data"));
        ck_assert_ptr_null(strstr(a->reply.message, ".vss"));
        steps(VSS_WIRE_POST_FINAL);
        finish();
        char inner[80];
        (void) snprintf(inner, sizeof(inner), ".vss/5/%s", snapshot);
        _cleanup_close_ int dir = open_copy();
        ck_assert_int_lt(faccessat(dir, inner, F_OK, 0), 0);
}
END_TEST

static void assert_refused(const char *path, enum vss_wire_op op, int error, const char *text) {
        const Answer *a = ask_volume(host, op, path, 0);
        ck_assert_msg(a->result == error, "%s: %d, %s", path, a->result, a->reply.message);
        ck_assert_msg(strstr(a->reply.message, text), "'%s' does not say '%s'", a->reply.message, text);
}

START_TEST(volumes_that_cannot_be_copied_are_refused) {
        char inside[300];
        (void) snprintf(inside, sizeof(inside), "%s/inside", subvolume);
        ck_assert_int_eq(mkdir(inside, 0755), 0);
        assert_refused(sandbox_directory(), VSS_WIRE_PROBE, -EOPNOTSUPP, "not btrfs");
        assert_refused(inside, VSS_WIRE_PROBE, -EOPNOTSUPP, "inside a subvolume");
        struct vss_wire_request *q = request_new(VSS_WIRE_PROBE, NULL, NULL);
        (void) snprintf(q->volume, sizeof(q->volume), "/dev/null");
        ck_assert_int_eq(host_ask(host, q, -1)->result, -EOPNOTSUPP);
        ck_assert_int_eq(ask_volume(host, VSS_WIRE_PROBE, elsewhere, 0)->result, 0);
        run_format("mount -o remount,bind,ro %s", elsewhere);
        assert_refused(elsewhere, VSS_WIRE_PROBE, -EOPNOTSUPP, "read-only");
}
END_TEST

START_TEST(another_file_system_in_the_same_place_is_noticed) {
        _cleanup_close_ int fd = open(subvolume, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct vss_wire_request *q = request_new(VSS_WIRE_BEGIN_PREPARE, set, snapshot);
        q->dev = 1;
        (void) snprintf(q->volume, sizeof(q->volume), "%s", subvolume);
        ck_assert_int_eq(host_ask(host, q, fd)->result, -EINVAL);
        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
        q = request_new(VSS_WIRE_BEGIN_PREPARE, set, snapshot);
        q->subvolume = 5;
        (void) snprintf(q->volume, sizeof(q->volume), "%s", subvolume);
        ck_assert_int_eq(host_ask(host, q, fd)->result, -EINVAL);
}
END_TEST

START_TEST(a_store_that_is_not_ours_is_refused) {
        static const char *const preparations[] = {
                "mkdir -m 755 %s/.vss",
                "mkdir -m 700 %s/.vss",
                "mkdir -m 700 %s/.vss; chown 65534 %s/.vss",
        };
        for (size_t i = 0; i < ELEMENTSOF(preparations); i++) {
                char command[1024];
                (void) snprintf(command, sizeof(command), preparations[i], fs->path, fs->path);
                run(command);
                assert_refused(subvolume, VSS_WIRE_BEGIN_PREPARE, -EACCES, "not ours");
                ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
                ck_assert_uint_eq(host_ask(host, request_new(VSS_WIRE_LIST, NULL, NULL), -1)->n_listed, 0);
                run_format("rmdir %s/.vss", fs->path);
        }
        run_format("ln -s %s %s/.vss", directory, fs->path);
        ck_assert_int_lt(ask_volume(host, VSS_WIRE_BEGIN_PREPARE, subvolume, 0)->result, 0);
        run_format("test -z \"$(ls -A %s)\"", directory);
}
END_TEST

START_TEST(another_process_cannot_abort_what_is_being_made) {
        make_copy(subvolume, 0, VSS_WIRE_POST_COMMIT);
        ProviderHost *other = host_new("btrfs");
        const Answer *a = host_ask(other, request_new(VSS_WIRE_ABORT, set, NULL), -1);
        ck_assert_int_eq(a->result, -EBUSY);
        ck_assert_ptr_nonnull(strstr(a->reply.message, "another process"));
        (void) listed();
        child_kill(&host->child);
        ck_assert_int_eq(host_step(other, VSS_WIRE_ABORT, set, NULL), 0);
        ck_assert_uint_eq(host_ask(other, request_new(VSS_WIRE_LIST, set, NULL), -1)->n_listed, 0);
        (void) provider_host_free(other);
}
END_TEST

START_TEST(dead_places_without_a_copy_go_with_the_next_set) {
        make_copy(subvolume, 0, VSS_WIRE_END_PREPARE);
        char pending[VSS_WIRE_PATH];
        (void) snprintf(pending, sizeof(pending), "%s/.vss/256/.pending-%s-%s", fs->path, set, snapshot);
        ck_assert_int_eq(access(pending, F_OK), 0);
        child_kill(&host->child);
        host_wait_gone(host);
        host = provider_host_free(host);
        host = host_new("btrfs");
        id_make(set);
        id_make(snapshot);
        make_copy(subvolume, 0, VSS_WIRE_POST_FINAL);
        ck_assert_int_lt(access(pending, F_OK), 0);
        (void) listed();
}
END_TEST

START_TEST(sixty_four_subvolumes_are_one_instant) {
        char path[300], ids[VSS_VOLUMES_MAX][VSS_WIRE_ID];
        run_format("for i in $(seq %d); do btrfs subvolume create %s/s$i >/dev/null; echo $i >%s/s$i/file; done",
                   VSS_VOLUMES_MAX, fs->path, fs->path);
        for (unsigned i = 0; i < VSS_VOLUMES_MAX; i++) {
                id_make(snapshot);
                memcpy(ids[i], snapshot, sizeof(snapshot));
                (void) snprintf(path, sizeof(path), "%s/s%u", fs->path, i + 1);
                ck_assert_int_eq(ask_volume(host, VSS_WIRE_BEGIN_PREPARE, path, 0)->result, 0);
        }
        steps(VSS_WIRE_POST_FINAL);
        const Answer *a = host_ask(host, request_new(VSS_WIRE_LIST, set, NULL), -1);
        ck_assert_uint_eq(a->n_listed, VSS_VOLUMES_MAX);
        for (unsigned i = 0; i < VSS_VOLUMES_MAX; i++) {
                char text[8] = "";
                memcpy(snapshot, ids[i], sizeof(snapshot));
                _cleanup_close_ int dir = open_copy(), fd = openat(dir, "file", O_RDONLY | O_CLOEXEC);
                ck_assert_int_gt(read(fd, text, sizeof(text) - 1), 0);
                ck_assert_int_eq(atoi(text), (int) i + 1);
        }
        ck_assert_int_eq(host_step(host, VSS_WIRE_ABORT, set, NULL), 0);
}
END_TEST

/* Hazard B13: somebody else freezes the file system, the ioctl cannot be killed, and what it makes later is a stray. */
START_TEST(a_host_stuck_in_the_kernel_keeps_its_place_until_it_is_gone) {
        int status;
        ck_assert_int_eq(ask_volume(host, VSS_WIRE_BEGIN_PREPARE, subvolume, 0)->result, 0);
        steps(VSS_WIRE_PRE_COMMIT);
        ck_assert_int_eq(loop_fs_freeze(fs), 0);
        ck_assert_int_eq(provider_host_send(host, request_new(VSS_WIRE_COMMIT, set, NULL), USEC_INFINITY, -1), 0);
        struct pollfd p = { .fd = host->child.socket, .events = POLLIN };
        ck_assert_int_eq(poll(&p, 1, 300), 0);
        child_kill(&host->child);
        nap_msec(200);
        ck_assert(!child_reap(&host->child, &status));
        ProviderHost *other = host_new("btrfs");
        int while_stuck = host_step(other, VSS_WIRE_ABORT, set, NULL);
        ck_assert_int_eq(loop_fs_thaw(fs), 0);
        ck_assert_int_eq(while_stuck, -EBUSY);
        host_wait_gone(host);
        ck_assert_int_eq(host_step(other, VSS_WIRE_ABORT, set, NULL), 0);
        ck_assert_uint_eq(host_ask(other, request_new(VSS_WIRE_LIST, NULL, NULL), -1)->n_listed, 0);
        (void) provider_host_free(other);
}
END_TEST

int main(void) {
        sandbox_enter(280);
        Suite *suite = suite_create("system-btrfs");
        TCase *t = tcase_create("btrfs");
        tcase_set_timeout(t, 60);
        tcase_add_checked_fixture(t, setup, teardown);
        tcase_add_test(t, copies_are_out_of_sight_where_only_the_subvolume_is_mounted);
        tcase_add_test(t, the_path_is_known_where_the_top_level_is_mounted);
        tcase_add_test(t, a_mounted_copy_is_read_only_and_in_use);
        tcase_add_test(t, other_mounts_and_links_are_left_alone);
        tcase_add_test(t, a_writable_copy_can_be_written_until_post_final);
        tcase_add_test(t, a_file_that_was_left_open_does_not_reach_the_finished_copy);
        tcase_add_test(t, subvolumes_below_are_warned_about);
        tcase_add_test(t, the_top_level_is_copied_without_the_store);
        tcase_add_test(t, volumes_that_cannot_be_copied_are_refused);
        tcase_add_test(t, another_file_system_in_the_same_place_is_noticed);
        tcase_add_test(t, a_store_that_is_not_ours_is_refused);
        tcase_add_test(t, another_process_cannot_abort_what_is_being_made);
        tcase_add_test(t, dead_places_without_a_copy_go_with_the_next_set);
        tcase_add_test(t, sixty_four_subvolumes_are_one_instant);
        tcase_add_test(t, a_host_stuck_in_the_kernel_keeps_its_place_until_it_is_gone);
        suite_add_tcase(suite, t);
        SRunner *runner = srunner_create(suite);
        srunner_run_all(runner, CK_NORMAL);
        int failed = srunner_ntests_failed(runner);
        srunner_free(runner);
        return failed > 0;
}
