/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The promise that nothing stays frozen, with everything that may happen to the guard: killed, stopped, told to go,
 * together with its second and with vssd; and that what somebody else froze is none of its business. Times are
 * generous: they show that somebody acts by himself, not how fast.
 */
#include "tests/guard-world.h"
#include <check.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>

START_TEST(holds_by_level_and_releases) {
        World w;
        world_armed(&w, "0121");
        ck_assert(held_list_exists());
        ck_assert_int_eq(guard_flush(w.guard, now_usec() + SECONDS(10)), 0);
        world_expect(&w, GUARD_FLUSH, 0);
        ck_assert_uint_gt(w.reply.last_pass_usec, 0);
        world_hold(&w, SECONDS(10));
        ck_assert_uint_ge(w.reply.last_hold_usec, w.reply.first_hold_usec);
        /* what lies on something is frozen before it: 2, then both of 1, then 0 */
        typeof(w.guard->shared->fs[0]) *fs = w.guard->shared->fs;
        ck_assert_uint_ge(fs[1].hold_begin_usec, fs[2].hold_end_usec);
        ck_assert_uint_ge(fs[3].hold_begin_usec, fs[2].hold_end_usec);
        ck_assert_uint_ge(fs[0].hold_begin_usec, fs[1].hold_end_usec);
        ck_assert_uint_ge(fs[0].hold_begin_usec, fs[3].hold_end_usec);
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        ck_assert(!guard_holds(w.guard));
        ck_assert(world_is_thawed(&w));
        ck_assert_uint_eq(w.reply.forced, 0);
        ck_assert_uint_ge(w.reply.first_release_usec, w.reply.last_hold_usec);
        world_done(&w);
}
END_TEST

START_TEST(deadline_thaws_unasked) {
        World w;
        world_armed(&w, "01");
        world_hold(&w, SECONDS(0.5));
        world_expect(&w, GUARD_RELEASE, -ETIME);
        ck_assert_uint_eq(w.reply.forced, 1);
        ck_assert(world_is_thawed(&w));
        /* asked afterwards it says so again: the set must not be called good */
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, -ETIME);
        world_done(&w);
}
END_TEST

START_TEST(deadline_already_past_holds_nothing) {
        World w;
        world_armed(&w, "0");
        ck_assert_int_eq(guard_hold(w.guard, now_usec() - 1), 0);
        world_expect(&w, GUARD_HOLD, -ETIME);
        ck_assert(world_is_thawed(&w));
        world_done(&w);
}
END_TEST

START_TEST(eof_thaws) {
        World w;
        world_armed(&w, "01");
        world_hold(&w, SECONDS(60));
        w.guard->child.socket = close_fd(w.guard->child.socket);
        world_expect_thaw(&w, SECONDS(1));
        world_done(&w);
}
END_TEST

START_TEST(second_hold_is_refused) {
        World w;
        world_armed(&w, "0");
        world_hold(&w, SECONDS(10));
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        ck_assert_int_eq(guard_hold(w.guard, now_usec() + SECONDS(10)), 0);
        world_expect(&w, GUARD_HOLD, -EPROTO);
        ck_assert(world_is_thawed(&w));
        world_done(&w);
}
END_TEST

/* ---- somebody dies, or stops ------------------------------------------------------------------------------------- */

START_TEST(first_killed_second_thaws) {
        World w;
        world_armed(&w, "01");
        world_hold(&w, SECONDS(60));
        child_kill(&w.guard->child);
        world_expect_thaw(&w, SECONDS(1));
        ck_assert_uint_eq(w.guard->shared->forced, 1);
        ck_assert_int_eq(guard_receive(w.guard, &w.reply), -EPIPE);
        ck_assert(!guard_holds(w.guard));
        ck_assert_int_eq(guard_rescue(w.guard), 1);
        world_done(&w);
}
END_TEST

START_TEST(second_killed_changes_nothing) {
        World w;
        world_armed(&w, "01");
        world_hold(&w, SECONDS(60));
        ck_assert_int_eq(kill(second_pid(&w), SIGKILL), 0);
        ck_assert(wait_until(process_is_gone, &w.guard->second_pidfd, SECONDS(5)));
        ck_assert(!world_is_thawed(&w));
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        world_done(&w);
}
END_TEST

START_TEST(both_killed_vssd_thaws) {
        World w;
        world_armed(&w, "01");
        world_hold(&w, SECONDS(60));
        ck_assert_int_eq(kill(second_pid(&w), SIGKILL), 0);
        child_kill(&w.guard->child);
        ck_assert(wait_until(rescue_is_through, &w, SECONDS(1)));
        ck_assert(world_is_thawed(&w));
        ck_assert_int_eq(guard_release_leftovers(sandbox_directory()), 0);
        world_done(&w);
}
END_TEST

START_TEST(all_killed_next_start_thaws) {
        World w;
        world_armed(&w, "01");
        world_hold(&w, SECONDS(60));
        /* a list that belongs to living guards is left alone */
        ck_assert_int_eq(guard_release_leftovers(sandbox_directory()), 0);
        ck_assert(!world_fs_thawed(&w));
        ck_assert(held_list_exists());
        ck_assert_int_eq(kill(second_pid(&w), SIGKILL), 0);
        ck_assert(wait_until(process_is_gone, &w.guard->second_pidfd, SECONDS(5)));
        /* the guard alone is alive enough */
        ck_assert_int_eq(guard_release_leftovers(sandbox_directory()), 0);
        ck_assert(!world_fs_thawed(&w));
        child_kill(&w.guard->child);
        ck_assert(wait_until(process_is_gone, &w.guard->child.pidfd, SECONDS(5)));
        ck_assert(!world_fs_thawed(&w));
        ck_assert_int_eq(guard_release_leftovers(sandbox_directory()), 0);
        ck_assert(world_fs_thawed(&w));
        ck_assert(!held_list_exists());
        world_done(&w);
}
END_TEST

/* The list says what is held: a freeze of somebody else's on a file system that is merely listed is not touched. */
START_TEST(leftovers_leave_foreign_freezes) {
        World w;
        world_armed(&w, "0");
        ck_assert_int_eq(kill(second_pid(&w), SIGKILL), 0);
        child_kill(&w.guard->child);
        ck_assert(wait_until(process_is_gone, &w.guard->second_pidfd, SECONDS(5)));
        ck_assert(wait_until(process_is_gone, &w.guard->child.pidfd, SECONDS(5)));
        ck_assert_int_eq(loop_fs_freeze(w.fs[0]), 0);
        ck_assert_int_eq(guard_release_leftovers(sandbox_directory()), 0);
        ck_assert(!held_list_exists());
        ck_assert_int_eq(loop_fs_thaw(w.fs[0]), 0);
        world_done(&w);
}
END_TEST

START_TEST(first_stopped_second_thaws_at_deadline) {
        World w;
        world_armed(&w, "01");
        uint64_t begin = now_usec();
        world_hold(&w, SECONDS(1));
        ck_assert_int_eq(kill(w.guard->child.pid, SIGSTOP), 0);
        ck_assert(!world_is_thawed(&w));
        world_expect_thaw(&w, SECONDS(1.5));
        ck_assert_uint_ge(now_usec(), begin + SECONDS(1));
        ck_assert_uint_eq(w.guard->shared->forced, 1);
        /* and it is not left behind stopped, keeping the mounts busy */
        ck_assert(wait_until(process_is_gone, &w.guard->child.pidfd, SECONDS(5)));
        world_done(&w);
}
END_TEST

START_TEST(first_stopped_and_continued_admits_it) {
        World w;
        world_armed(&w, "0");
        world_hold(&w, SECONDS(0.5));
        ck_assert_int_eq(kill(w.guard->child.pid, SIGSTOP), 0);
        world_expect_thaw(&w, SECONDS(1));
        ck_assert_int_eq(kill(w.guard->child.pid, SIGCONT), 0);
        world_expect(&w, GUARD_RELEASE, -ETIME);
        world_done(&w);
}
END_TEST

START_TEST(second_stopped_changes_nothing) {
        World w;
        world_armed(&w, "01");
        world_hold(&w, SECONDS(60));
        ck_assert_int_eq(kill(second_pid(&w), SIGSTOP), 0);
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        world_done(&w);
}
END_TEST

START_TEST(both_stopped_vssd_thaws) {
        World w;
        world_armed(&w, "01");
        world_hold(&w, SECONDS(60));
        pid_t second = second_pid(&w);
        ck_assert_int_eq(kill(second, SIGSTOP), 0);
        ck_assert_int_eq(kill(w.guard->child.pid, SIGSTOP), 0);
        ck_assert_int_eq(guard_release(w.guard), 0);
        ck_assert(!world_receive(&w, GUARD_RELEASE, SECONDS(0.2)));
        ck_assert(wait_until(rescue_is_through, &w, SECONDS(1.5)));
        ck_assert(world_is_thawed(&w));
        ck_assert_int_eq(kill(second, SIGCONT), 0);
        world_done(&w);
}
END_TEST

START_TEST(sigterm_to_either_thaws) {
        for (unsigned i = 0; i < 2; i++) {
                World w;
                world_armed(&w, "01");
                world_hold(&w, SECONDS(60));
                ck_assert_int_eq(kill(i == 0 ? w.guard->child.pid : second_pid(&w), SIGTERM), 0);
                world_expect(&w, GUARD_RELEASE, -ETIME);
                ck_assert(world_is_thawed(&w));
                world_done(&w);
        }
}
END_TEST

/* Stopped before it is asked for anything: it must go all the same, or it would keep the mounts busy. */
START_TEST(first_stopped_before_hold_goes) {
        World w;
        world_armed(&w, "0");
        ck_assert_int_eq(kill(w.guard->child.pid, SIGSTOP), 0);
        ck_assert_int_eq(guard_flush(w.guard, now_usec() + SECONDS(1)), 0);
        world_done(&w);
}
END_TEST

/* ---- what is not ours -------------------------------------------------------------------------------------------- */

START_TEST(frozen_by_somebody_else_stays_frozen) {
        World w;
        world_armed(&w, "10");
        ck_assert_int_eq(loop_fs_freeze(w.fs[1]), 0);
        ck_assert_int_eq(guard_hold(w.guard, now_usec() + SECONDS(10)), 0);
        world_expect(&w, GUARD_HOLD, -EBUSY);
        ck_assert_uint_eq(w.reply.index, 1);
        ck_assert_ptr_nonnull(strstr(w.reply.message, w.fs[1]->path));
        ck_assert(!guard_holds(w.guard));
        ck_assert(!loop_fs_is_frozen(w.fs[0]));
        /* 0: it was still frozen */
        ck_assert_int_eq(loop_fs_thaw(w.fs[1]), 0);
        world_done(&w);
}
END_TEST

START_TEST(thawed_by_somebody_else_fails_the_set) {
        World w;
        world_armed(&w, "010");
        world_hold(&w, SECONDS(10));
        ck_assert_int_eq(loop_fs_thaw(w.fs[1]), 0);
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, -EINVAL);
        ck_assert_uint_eq(w.reply.index, 1);
        ck_assert_ptr_nonnull(strstr(w.reply.message, w.fs[1]->path));
        ck_assert(world_is_thawed(&w));
        world_done(&w);
}
END_TEST

/* The path leads to something else than what was planned: freezing that could be freezing /. */
START_TEST(overmounted_path_is_refused) {
        World w;
        dev_t dev;
        world_init(&w);
        LoopFs *fs = w.fs[w.n++] = loop_fs_new("ext4", EXT4_MIB);
        _cleanup_close_ int good = fs_open(fs, &dev);
        ck_assert_int_eq(mount("none", fs->path, "tmpfs", 0, NULL), 0);
        dev_t other;
        int fd = fs_open(fs, &other);
        ck_assert_int_eq(guard_add(w.guard, fd, dev, 0, fs->path), 0);
        (void) close(fd);
        ck_assert_int_eq(guard_arm(w.guard, GUARD_EXPEDITE), 0);
        world_expect(&w, GUARD_ARM, -ESTALE);
        ck_assert_uint_eq(w.reply.index, 0);
        ck_assert_ptr_nonnull(strstr(w.reply.message, fs->path));
        ck_assert(wait_until(process_is_gone, &w.guard->child.pidfd, SECONDS(5)));
        w.guard = guard_free(w.guard);
        ck_assert_int_eq(umount(fs->path), 0);
        good = close_fd(good);
        w.fs[0] = loop_fs_free(w.fs[0]);
}
END_TEST

START_TEST(what_cannot_be_frozen_is_named) {
        World w;
        struct stat st;
        world_init(&w);
        world_add(&w, "ext4", "1");
        ck_assert_int_eq(mkdir("other", 0700), 0);
        ck_assert_int_eq(mount("none", "other", "tmpfs", 0, NULL), 0);
        int fd = open("other", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_eq(fstat(fd, &st), 0);
        ck_assert_int_eq(guard_add(w.guard, fd, st.st_dev, 0, "/the/other"), 0);
        (void) close(fd);
        ck_assert_int_eq(guard_arm(w.guard, GUARD_EXPEDITE), 0);
        world_expect(&w, GUARD_ARM, 0);
        ck_assert_int_eq(guard_hold(w.guard, now_usec() + SECONDS(10)), 0);
        world_expect(&w, GUARD_HOLD, -EOPNOTSUPP);
        ck_assert_uint_eq(w.reply.index, 1);
        ck_assert_ptr_nonnull(strstr(w.reply.message, "/the/other"));
        ck_assert(world_is_thawed(&w));
        world_done(&w);
        ck_assert_int_eq(umount("other"), 0);
        ck_assert_int_eq(rmdir("other"), 0);
}
END_TEST

/* Said to be copied by lvm, but on no logical volume: frozen and thawed like any other; one to watch only is not added.
 */
START_TEST(what_is_on_no_logical_volume_needs_no_device_mapper) {
        World w;
        dev_t dev;
        world_init(&w);
        for (unsigned i = 0; i < 2; i++) {
                LoopFs *fs = w.fs[w.n++] = loop_fs_new("ext4", EXT4_MIB);
                _cleanup_close_ int fd = fs_open(fs, &dev);
                ck_assert_int_eq(guard_add_mapped(w.guard, fd, dev, 0, fs->path, i == 1), 0);
        }
        ck_assert_uint_eq(w.guard->n_fds, 1);
        ck_assert_int_eq(guard_arm(w.guard, GUARD_EXPEDITE), 0);
        world_expect(&w, GUARD_ARM, 0);
        ck_assert_int_eq(guard_hold(w.guard, now_usec() + SECONDS(10)), 0);
        world_expect(&w, GUARD_HOLD, 0);
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        world_done(&w);
}
END_TEST

/* A private copy of the mount table would keep every device of the host busy. */
START_TEST(other_file_systems_can_go_away) {
        World w;
        _cleanup_(loop_fs_freep) LoopFs *other = loop_fs_new("ext4", EXT4_MIB);
        world_armed(&w, "0");
        world_hold(&w, SECONDS(20));
        /* not with loop_fs_free(): removing the directory would take the mount out of every name space */
        ck_assert_int_eq(umount(other->path), 0);
        int fd = -1;
        for (uint64_t end = now_usec() + SECONDS(3); fd < 0 && now_usec() < end; nap_msec(20))
                fd = open(other->device, O_RDONLY | O_EXCL | O_CLOEXEC);
        ck_assert_msg(fd >= 0, "%s is still busy", other->device);
        (void) close(fd);
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        world_done(&w);
        ck_assert_int_eq(mount("none", other->path, "tmpfs", 0, NULL), 0);
}
END_TEST

START_TEST(sixty_four_at_once) {
        World w;
        char levels[WORLD_FS_MAX + 1] = {};
        memset(levels, '0', WORLD_FS_MAX);
        world_armed(&w, levels);
        world_hold(&w, SECONDS(10));
        uint64_t sum = 0, hold = w.reply.last_hold_usec - w.reply.first_hold_usec;
        for (unsigned i = 0; i < w.n; i++)
                sum += w.guard->shared->fs[i].hold_end_usec - w.guard->shared->fs[i].hold_begin_usec;
        /* one after the other it would be the sum */
        ck_assert_uint_lt(hold, sum);
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        ck_assert(world_is_thawed(&w));
        world_done(&w);
}
END_TEST

/* Each has its own idea of freezing; btrfs has an st_dev that is in no mount table. */
START_TEST(xfs_and_btrfs_are_held_and_let_go) {
        for (unsigned i = 0; i < 2; i++) {
                World w;
                world_armed_on(&w, i == 0 ? "xfs" : "btrfs", "0");
                world_hold(&w, SECONDS(10));
                ck_assert_int_eq(guard_release(w.guard), 0);
                world_expect(&w, GUARD_RELEASE, 0);
                ck_assert(world_is_thawed(&w));
                world_done(&w);
                world_armed_on(&w, i == 0 ? "xfs" : "btrfs", "0");
                world_hold(&w, SECONDS(60));
                ck_assert_int_eq(kill(second_pid(&w), SIGKILL), 0);
                child_kill(&w.guard->child);
                ck_assert(wait_until(process_is_gone, &w.guard->second_pidfd, SECONDS(5)));
                ck_assert(wait_until(process_is_gone, &w.guard->child.pidfd, SECONDS(5)));
                ck_assert_int_eq(guard_release_leftovers(sandbox_directory()), 0);
                ck_assert(world_fs_thawed(&w));
                world_done(&w);
        }
}
END_TEST

int main(void) {
        sandbox_enter(200);
        if (chdir(sandbox_directory()) < 0)
                test_die("cannot enter %s", sandbox_directory());
        const TTest *const tests[] = {
                holds_by_level_and_releases,
                deadline_thaws_unasked,
                deadline_already_past_holds_nothing,
                eof_thaws,
                second_hold_is_refused,
                first_killed_second_thaws,
                second_killed_changes_nothing,
                both_killed_vssd_thaws,
                all_killed_next_start_thaws,
                leftovers_leave_foreign_freezes,
                first_stopped_second_thaws_at_deadline,
                first_stopped_and_continued_admits_it,
                second_stopped_changes_nothing,
                both_stopped_vssd_thaws,
                sigterm_to_either_thaws,
                first_stopped_before_hold_goes,
                frozen_by_somebody_else_stays_frozen,
                thawed_by_somebody_else_fails_the_set,
                overmounted_path_is_refused,
                what_cannot_be_frozen_is_named,
                other_file_systems_can_go_away,
                what_is_on_no_logical_volume_needs_no_device_mapper,
                xfs_and_btrfs_are_held_and_let_go,
        };
        Suite *s = suite_create("guard");
        TCase *t = tcase_create("guard");
        tcase_set_timeout(t, 60);
        for (size_t i = 0; i < ELEMENTSOF(tests); i++)
                tcase_add_test(t, tests[i]);
        suite_add_tcase(s, t);
        TCase *big = tcase_create("sixty");
        tcase_set_timeout(big, 60);
        tcase_add_test(big, sixty_four_at_once);
        suite_add_tcase(s, big);
        SRunner *r = srunner_create(s);
        srunner_run_all(r, CK_ENV);
        int failed = srunner_ntests_failed(r);
        srunner_free(r);
        return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
