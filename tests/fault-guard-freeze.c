/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A FIFREEZE that does not return: a writer that never leaves the kernel (an ordinary user can do that by accident), or
 * a device that needs seconds for what is dirty. Nothing can cancel the call, and a process killed inside it leaves the
 * file system frozen when it ends; whoever is left has to see that through.
 */
#include "tests/guard-world.h"
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

/* ---- inside FIFREEZE --------------------------------------------------------------------------------------------- */

/* A process of nobody's in splice(empty pipe -> file): FIFREEZE waits until it leaves. */
typedef struct Blocker {
        pid_t pid;
        int pipe; /* a byte into it ends the splice */
} Blocker;

static Blocker blocker_new(const LoopFs *fs) {
        char path[4096];
        int data[2], ready[2];
        snprintf(path, sizeof(path), "%s/spliced", fs->path);
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(pipe2(data, O_CLOEXEC), 0);
        ck_assert_int_eq(pipe2(ready, O_CLOEXEC), 0);
        pid_t pid = fork();
        if (pid == 0) {
                (void) close(data[1]);
                if (setgid(65534) < 0 || setuid(65534) < 0 || write(ready[1], "r", 1) != 1)
                        _exit(1);
                _exit(splice(data[0], NULL, fd, NULL, 4096, 0) == 1 ? 0 : 1);
        }
        char byte;
        ck_assert_int_eq(read(ready[0], &byte, 1), 1);
        nap_msec(50);
        (void) close(fd);
        (void) close(data[0]);
        (void) close(ready[0]);
        (void) close(ready[1]);
        return (Blocker) { .pid = pid, .pipe = data[1] };
}

/* Whatever was done to it: it got its byte into the file. */
static void blocker_end(Blocker *b) {
        int status;
        ck_assert_int_eq(write(b->pipe, "x", 1), 1);
        ck_assert(wait_command(b->pid, SECONDS(10), &status));
        ck_assert(WIFEXITED(status));
        ck_assert_int_eq(WEXITSTATUS(status), 0);
        (void) close(b->pipe);
}

static bool fs0_is_freezing(void *userdata) {
        World *w = userdata;
        return w->guard->shared->fs[0].state == GUARD_FS_FREEZING;
}

/* Two of one level: one is held, the other's FIFREEZE hangs. */
static Blocker world_block(World *w, uint64_t budget_usec) {
        world_armed(w, "00");
        Blocker b = blocker_new(w->fs[0]);
        ck_assert_int_eq(guard_hold(w->guard, now_usec() + budget_usec), 0);
        ck_assert(wait_until(fs0_is_freezing, w, SECONDS(1)));
        nap_msec(100);
        ck_assert_uint_eq(w->guard->shared->fs[0].state, GUARD_FS_FREEZING);
        ck_assert_uint_eq(w->guard->shared->fs[1].state, GUARD_FS_HELD);
        return b;
}

START_TEST(splice_blocker_is_interrupted_and_named) {
        World w;
        char name[64];
        Blocker b = world_block(&w, SECONDS(20));
        world_expect(&w, GUARD_HOLD, 0);
        snprintf(name, sizeof(name), "process %d (", (int) b.pid);
        ck_assert_msg(strstr(w.reply.message, name) && strstr(w.reply.message, "splice"), "message is '%s'",
                      w.reply.message);
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        blocker_end(&b);
        world_done(&w);
}
END_TEST

START_TEST(deadline_inside_freeze_names_the_blocker) {
        World w;
        Blocker b = world_block(&w, SECONDS(0.5));
        world_expect(&w, GUARD_HOLD, -ETIME);
        ck_assert_uint_eq(w.reply.index, 0);
        ck_assert_ptr_nonnull(strstr(w.reply.message, w.fs[0]->path));
        ck_assert_ptr_nonnull(strstr(w.reply.message, "splice"));
        /* not with a freeze of our own: the blocker is back in its splice */
        ck_assert(wait_until(nothing_is_held, &w, SECONDS(1)));
        blocker_end(&b);
        ck_assert(world_fs_thawed(&w));
        world_done(&w);
}
END_TEST

/*
 * The first cannot die before its FIFREEZE returns and then leaves the file system frozen. What it held elsewhere is
 * let go at once, the rest the moment the blocker has gone.
 */
START_TEST(first_killed_inside_freeze) {
        World w;
        Blocker b = world_block(&w, SECONDS(60));
        child_kill(&w.guard->child);
        nap_msec(700);
        ck_assert(!loop_fs_is_frozen(w.fs[1]));
        ck_assert_uint_eq(w.guard->shared->fs[0].state, GUARD_FS_FREEZING);
        blocker_end(&b);
        world_expect_thaw(&w, SECONDS(1));
        world_done(&w);
}
END_TEST

START_TEST(both_killed_inside_freeze_vssd_thaws) {
        World w;
        Blocker b = world_block(&w, SECONDS(60));
        ck_assert_int_eq(kill(second_pid(&w), SIGKILL), 0);
        child_kill(&w.guard->child);
        /* what can be thawed is, and nobody of us sleeps for the rest */
        uint64_t begin = now_usec();
        for (unsigned i = 0; i < 12; i++) {
                ck_assert_int_eq(guard_rescue(w.guard), 0);
                nap_msec(50);
        }
        ck_assert_uint_lt(now_usec() - begin, SECONDS(5));
        ck_assert(!loop_fs_is_frozen(w.fs[1]));
        blocker_end(&b);
        ck_assert(wait_until(rescue_is_through, &w, SECONDS(1)));
        ck_assert(world_is_thawed(&w));
        ck_assert_int_eq(guard_release_leftovers(sandbox_directory()), 0);
        world_done(&w);
}
END_TEST

/* vssd waits two seconds for the kernel, then the set goes on to its end and takes its descriptors with it. */
START_TEST(both_killed_inside_freeze_thawed_after_the_set) {
        World w;
        Blocker b = world_block(&w, SECONDS(60));
        ck_assert_int_eq(kill(second_pid(&w), SIGKILL), 0);
        ck_assert(wait_until(process_is_gone, &w.guard->second_pidfd, SECONDS(5)));
        child_kill(&w.guard->child);
        nap_msec(400);
        ck_assert_int_eq(guard_rescue(w.guard), 0);
        w.guard = guard_free(w.guard);
        nap_msec(400);
        blocker_end(&b);
        world_expect_thaw(&w, SECONDS(3));
        for (unsigned i = 0; i < 50 && held_list_exists(); i++)
                nap_msec(100);
        ck_assert(!held_list_exists());
        for (unsigned i = 0; i < w.n; i++)
                w.fs[i] = loop_fs_free(w.fs[i]);
}
END_TEST

static void *release_leftovers(void *ret) {
        *(int *) ret = guard_release_leftovers(sandbox_directory());
        return NULL;
}

START_TEST(all_killed_inside_freeze_next_start_thaws) {
        World w;
        pthread_t thread;
        int result = 1;
        Blocker b = world_block(&w, SECONDS(60));
        ck_assert_int_eq(kill(second_pid(&w), SIGKILL), 0);
        ck_assert(wait_until(process_is_gone, &w.guard->second_pidfd, SECONDS(5)));
        child_kill(&w.guard->child);
        nap_msec(100);
        ck_assert(held_list_exists());
        ck_assert_int_eq(pthread_create(&thread, NULL, release_leftovers, &result), 0);
        nap_msec(400);
        ck_assert_msg(!loop_fs_is_frozen(w.fs[1]), "the other one waits for the blocked one");
        blocker_end(&b);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert_int_eq(result, 0);
        ck_assert(world_fs_thawed(&w));
        ck_assert(!held_list_exists());
        world_done(&w);
}
END_TEST

/* ---- a slow device ----------------------------------------------------------------------------------------------- */

#define THROTTLE "/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device"
enum { SLOW_BYTES_PER_SEC = 8 << 20, SLOW_DIRTY_MIB = 16 };

/* Shared with the runner: a rule outlives the test that fails, and the next user of the device would wonder. */
static dev_t *throttled;

static void throttle_clear(void) {
        char line[64];
        snprintf(line, sizeof(line), "%u:%u 0", major(*throttled), minor(*throttled));
        if (*throttled != 0)
                file_write(THROTTLE, line);
}

static void throttle(const char *device, unsigned long bytes_per_sec) {
        struct stat st;
        char line[64];
        ck_assert_int_eq(stat(device, &st), 0);
        snprintf(line, sizeof(line), "%u:%u %lu", major(st.st_rdev), minor(st.st_rdev), bytes_per_sec);
        *throttled = st.st_rdev;
        file_write(THROTTLE, line);
}

static void dirty(const LoopFs *fs) {
        static char block[1 << 20];
        char path[4096];
        snprintf(path, sizeof(path), "%s/dirty", fs->path);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        ck_assert_int_ge(fd, 0);
        for (unsigned i = 0; i < SLOW_DIRTY_MIB; i++)
                ck_assert_int_eq(write(fd, block, sizeof(block)), sizeof(block));
}

/* 16 MiB at 8 MiB/s: FIFREEZE takes two seconds and nothing can cut it short. */
static void world_slow(World *w, uint64_t budget_usec) {
        world_armed(w, "00");
        throttle(w->fs[0]->device, SLOW_BYTES_PER_SEC);
        dirty(w->fs[0]);
        ck_assert_int_eq(guard_hold(w->guard, now_usec() + budget_usec), 0);
        ck_assert(wait_until(fs0_is_freezing, w, SECONDS(1)));
}

static void world_slow_done(World *w) {
        throttle(w->fs[0]->device, 0);
        world_done(w);
}

START_TEST(slow_device_hold_fails_in_time_and_thaws) {
        World w;
        world_slow(&w, SECONDS(0.5));
        uint64_t begin = now_usec();
        world_expect(&w, GUARD_HOLD, -ETIME);
        ck_assert_uint_lt(now_usec() - begin, SECONDS(1.2));
        ck_assert(guard_holds(w.guard));
        ck_assert_ptr_nonnull(strstr(w.reply.message, "still freezing"));
        ck_assert(!loop_fs_is_frozen(w.fs[1]));
        world_expect(&w, GUARD_RELEASE, -ETIME);
        ck_assert(!guard_holds(w.guard));
        ck_assert(world_is_thawed(&w));
        world_slow_done(&w);
}
END_TEST

START_TEST(slow_device_first_killed) {
        World w;
        world_slow(&w, SECONDS(60));
        child_kill(&w.guard->child);
        ck_assert(wait_until(process_is_gone, &w.guard->child.pidfd, SECONDS(20)));
        world_expect_thaw(&w, SECONDS(1));
        world_slow_done(&w);
}
END_TEST

START_TEST(slow_device_flush_takes_it) {
        World w;
        world_armed(&w, "00");
        throttle(w.fs[0]->device, SLOW_BYTES_PER_SEC);
        dirty(w.fs[0]);
        uint64_t begin = now_usec();
        ck_assert_int_eq(guard_flush(w.guard, begin + SECONDS(20)), 0);
        world_expect(&w, GUARD_FLUSH, 0);
        uint64_t flush_usec = now_usec() - begin;
        ck_assert_uint_gt(flush_usec, SECONDS(1));
        ck_assert_uint_lt(w.reply.last_pass_usec, flush_usec / 2);
        world_hold(&w, SECONDS(20));
        ck_assert_uint_lt(w.reply.last_hold_usec - w.reply.first_hold_usec, SECONDS(1));
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        world_slow_done(&w);
}
END_TEST

START_TEST(slow_device_flush_gives_up_in_time) {
        World w;
        world_armed(&w, "00");
        throttle(w.fs[0]->device, SLOW_BYTES_PER_SEC);
        dirty(w.fs[0]);
        ck_assert_int_eq(guard_flush(w.guard, now_usec() + SECONDS(0.5)), 0);
        uint64_t begin = now_usec();
        world_expect(&w, GUARD_FLUSH, -ETIME);
        ck_assert_uint_lt(now_usec() - begin, SECONDS(1.2));
        ck_assert_uint_eq(w.reply.index, 0);
        throttle(w.fs[0]->device, 0);
        world_done(&w);
}
END_TEST

int main(void) {
        sandbox_enter(200);
        if (chdir(sandbox_directory()) < 0)
                test_die("cannot enter %s", sandbox_directory());
        const TTest *const tests[] = {
                splice_blocker_is_interrupted_and_named,
                deadline_inside_freeze_names_the_blocker,
                first_killed_inside_freeze,
                both_killed_inside_freeze_vssd_thaws,
                both_killed_inside_freeze_thawed_after_the_set,
                all_killed_inside_freeze_next_start_thaws,
        };
        const TTest *const slow_tests[] = {
                slow_device_hold_fails_in_time_and_thaws,
                slow_device_first_killed,
                slow_device_flush_takes_it,
                slow_device_flush_gives_up_in_time,
        };
        Suite *s = suite_create("guard-freeze");
        TCase *t = tcase_create("guard-freeze");
        tcase_set_timeout(t, 60);
        for (size_t i = 0; i < ELEMENTSOF(tests); i++)
                tcase_add_test(t, tests[i]);
        throttled = mmap(NULL, sizeof(*throttled), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (throttled == MAP_FAILED)
                test_die("mmap");
        tcase_add_unchecked_fixture(t, NULL, throttle_clear);
        if (access(THROTTLE, W_OK) == 0)
                for (size_t i = 0; i < ELEMENTSOF(slow_tests); i++)
                        tcase_add_test(t, slow_tests[i]);
        else
                fprintf(stderr, "not run: the tests with a slow device (%s is missing)\n", THROTTLE);
        suite_add_tcase(s, t);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_ENV);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
