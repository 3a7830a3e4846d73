/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The promise that nothing stays frozen, with everything that may happen to the guard: killed, stopped, blocked inside
 * FIFREEZE, told to go, together with its second and with vssd. All on real file systems; the sandbox's keeper thaws what a
 * failing test leaves. Times are generous: they show that somebody acts by himself, not how fast.
 */
#include "daemon/guard.h"
#include "tests/support.h"
#include <check.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define SET "01234567-89ab-cdef-0123-456789abcdef"
#define SECONDS(n) ((uint64_t) ((n) * 1e6))
enum { FS_MAX = 64, FS_MIB = 24 };

/* Some file systems and the guard over them. */
typedef struct World {
        LoopFs *fs[FS_MAX];
        unsigned n;
        Guard *guard;
        struct GuardReply reply; /* the last one */
} World;

static int fs_open(const LoopFs *fs, dev_t *ret_dev) {
        struct stat st;
        int fd = open(fs->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fstat(fd, &st), 0);
        *ret_dev = st.st_dev;
        return fd;
}

/* levels: one digit per file system */
static void world_add(World *w, const char *levels) {
        for (; *levels; levels++) {
                dev_t dev;
                LoopFs *fs = w->fs[w->n++] = loop_fs_new("ext4", FS_MIB);
                _cleanup_close_ int fd = fs_open(fs, &dev);
                ck_assert_int_eq(guard_add(w->guard, fd, dev, (unsigned) (*levels - '0'), fs->path), 0);
        }
}

static bool world_receive(World *w, uint32_t op, uint64_t timeout_usec) {
        struct pollfd p = { .fd = w->guard->child.socket, .events = POLLIN };
        uint64_t end = now_usec() + timeout_usec, now;
        while ((now = now_usec()) < end) {
                if (poll(&p, 1, (int) ((end - now) / 1000) + 1) <= 0)
                        continue;
                int r = guard_receive(w->guard, &w->reply);
                ck_assert_int_ge(r, 0);
                if (r == 1) {
                        ck_assert_uint_eq(w->reply.op, op);
                        return true;
                }
        }
        return false;
}

static void world_expect(World *w, uint32_t op, int result) {
        ck_assert_msg(world_receive(w, op, SECONDS(20)), "no answer to %u", op);
        ck_assert_msg(w->reply.result == result, "answer to %u is %d (%s), not %d", op, w->reply.result, w->reply.message, result);
}

static void world_init(World *w) {
        memset(w, 0, sizeof(*w));
        ck_assert_int_eq(guard_new(SET, sandbox_directory(), &w->guard), 0);
}

static void world_armed(World *w, const char *levels) {
        world_init(w);
        world_add(w, levels);
        ck_assert_int_eq(guard_arm(w->guard), 0);
        world_expect(w, GUARD_ARM, 0);
}

static void world_hold(World *w, uint64_t budget_usec) {
        ck_assert_int_eq(guard_hold(w->guard, now_usec() + budget_usec), 0);
        world_expect(w, GUARD_HOLD, 0);
        for (unsigned i = 0; i < w->n; i++)
                ck_assert(loop_fs_is_frozen(w->fs[i]));
        ck_assert(guard_holds(w->guard));
}

/* What the kernel says; the shared page knows nothing of leftovers that were thawed. */
static bool world_fs_thawed(const World *w) {
        for (unsigned i = 0; i < w->n; i++)
                if (w->fs[i] && loop_fs_is_frozen(w->fs[i]))
                        return false;
        return true;
}

static bool world_is_thawed(void *userdata) {
        World *w = userdata;
        return !(w->guard && guard_holds(w->guard)) && world_fs_thawed(w);
}

static bool nothing_is_held(void *userdata) {
        World *w = userdata;
        return !guard_holds(w->guard);
}

static bool held_list_exists(void) {
        return access("held/" SET, F_OK) == 0;
}

static bool held_list_is_gone(void *userdata) {
        return !held_list_exists();
}

static bool process_is_gone(void *userdata) {
        struct pollfd p = { .fd = *(int *) userdata, .events = POLLIN };
        return poll(&p, 1, 0) > 0;
}

/* Both processes of the guard end, its list goes, nothing is frozen, nothing keeps the mounts busy. */
static void world_done(World *w) {
        int first = fcntl(w->guard->child.pidfd, F_DUPFD_CLOEXEC, 3), second = fcntl(w->guard->second_pidfd, F_DUPFD_CLOEXEC, 3);
        w->guard = guard_free(w->guard);
        ck_assert(wait_until(process_is_gone, &first, SECONDS(5)));
        if (second >= 0)
                ck_assert(wait_until(process_is_gone, &second, SECONDS(5)));
        ck_assert(world_is_thawed(w));
        ck_assert(wait_until(held_list_is_gone, NULL, SECONDS(5)));
        (void) close_fd(first);
        (void) close_fd(second);
        (void) waitpid(-1, NULL, WNOHANG);
        for (unsigned i = 0; i < w->n; i++)
                w->fs[i] = loop_fs_free(w->fs[i]);
}

static void world_expect_thaw(World *w, uint64_t within_usec) {
        bool ok = wait_until(world_is_thawed, w, within_usec);
        ck_assert_msg(ok, "still frozen");
}

static pid_t second_pid(World *w) {
        char path[64], line[256];
        int pid = 0;
        snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", w->guard->second_pidfd);
        FILE *f = fopen(path, "re");
        ck_assert_ptr_nonnull(f);
        while (fgets(line, sizeof(line), f))
                if (sscanf(line, "Pid: %d", &pid) == 1)
                        break;
        (void) fclose(f);
        ck_assert_int_gt(pid, 1);
        return pid;
}

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

static bool rescue_is_through(void *userdata) {
        World *w = userdata;
        int r = guard_rescue(w->guard);
        ck_assert_int_ge(r, 0);
        return r == 1;
}

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
        ck_assert_msg(strstr(w.reply.message, name) && strstr(w.reply.message, "splice"), "message is '%s'", w.reply.message);
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
 * The first cannot die before its FIFREEZE returns and then leaves the file system frozen. What it held elsewhere is let
 * go at once, the rest the moment the blocker has gone.
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

static void throttle(const char *device, unsigned long bytes_per_sec) {
        struct stat st;
        char line[64];
        ck_assert_int_eq(stat(device, &st), 0);
        snprintf(line, sizeof(line), "%u:%u %lu", major(st.st_rdev), minor(st.st_rdev), bytes_per_sec);
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
        LoopFs *fs = w.fs[w.n++] = loop_fs_new("ext4", FS_MIB);
        _cleanup_close_ int good = fs_open(fs, &dev);
        ck_assert_int_eq(mount("none", fs->path, "tmpfs", 0, NULL), 0);
        dev_t other;
        int fd = fs_open(fs, &other);
        ck_assert_int_eq(guard_add(w.guard, fd, dev, 0, fs->path), 0);
        (void) close(fd);
        ck_assert_int_eq(guard_arm(w.guard), 0);
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
        world_add(&w, "1");
        ck_assert_int_eq(mkdir("other", 0700), 0);
        ck_assert_int_eq(mount("none", "other", "tmpfs", 0, NULL), 0);
        int fd = open("other", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_eq(fstat(fd, &st), 0);
        ck_assert_int_eq(guard_add(w.guard, fd, st.st_dev, 0, "/the/other"), 0);
        (void) close(fd);
        ck_assert_int_eq(guard_arm(w.guard), 0);
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

/* A private copy of the mount table would keep every device of the host busy. */
START_TEST(other_file_systems_can_go_away) {
        World w;
        _cleanup_(loop_fs_freep) LoopFs *other = loop_fs_new("ext4", FS_MIB);
        _cleanup_free_ char *device = strdup(other->device);
        world_armed(&w, "0");
        world_hold(&w, SECONDS(20));
        other = loop_fs_free(other);
        int fd = -1;
        for (uint64_t end = now_usec() + SECONDS(3); fd < 0 && now_usec() < end; nap_msec(20))
                fd = open(device, O_RDONLY | O_EXCL | O_CLOEXEC);
        ck_assert_msg(fd >= 0, "%s is still busy", device);
        (void) close(fd);
        ck_assert_int_eq(guard_release(w.guard), 0);
        world_expect(&w, GUARD_RELEASE, 0);
        world_done(&w);
}
END_TEST

START_TEST(sixty_four_at_once) {
        World w;
        char levels[FS_MAX + 1] = {};
        memset(levels, '0', FS_MAX);
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

int main(void) {
        sandbox_enter(240);
        if (chdir(sandbox_directory()) < 0)
                test_die("cannot enter %s", sandbox_directory());
        const TTest *const tests[] = {
                holds_by_level_and_releases, deadline_thaws_unasked, deadline_already_past_holds_nothing, eof_thaws,
                second_hold_is_refused, first_killed_second_thaws, second_killed_changes_nothing, both_killed_vssd_thaws,
                all_killed_next_start_thaws, leftovers_leave_foreign_freezes, first_stopped_second_thaws_at_deadline,
                first_stopped_and_continued_admits_it, second_stopped_changes_nothing, both_stopped_vssd_thaws,
                sigterm_to_either_thaws, first_stopped_before_hold_goes, splice_blocker_is_interrupted_and_named,
                deadline_inside_freeze_names_the_blocker, first_killed_inside_freeze, both_killed_inside_freeze_vssd_thaws,
                all_killed_inside_freeze_next_start_thaws, frozen_by_somebody_else_stays_frozen,
                thawed_by_somebody_else_fails_the_set, overmounted_path_is_refused, what_cannot_be_frozen_is_named,
                other_file_systems_can_go_away, sixty_four_at_once,
        };

        const TTest *const slow_tests[] = {
                slow_device_hold_fails_in_time_and_thaws, slow_device_first_killed, slow_device_flush_takes_it,
                slow_device_flush_gives_up_in_time,
        };

        Suite *s = suite_create("guard");
        TCase *t = tcase_create("guard");
        tcase_set_timeout(t, 60);
        for (size_t i = 0; i < ELEMENTSOF(tests); i++)
                tcase_add_test(t, tests[i]);
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
