/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guard-world.h"
#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

int fs_open(const LoopFs *fs, dev_t *ret_dev) {
        struct stat st;
        int fd = open(fs->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fstat(fd, &st), 0);
        *ret_dev = st.st_dev;
        return fd;
}

void world_add(World *w, const char *type, const char *levels) {
        unsigned mib = streq(type, "xfs") ? XFS_MIB : streq(type, "btrfs") ? BTRFS_MIB : EXT4_MIB;
        for (; *levels; levels++) {
                dev_t dev;
                LoopFs *fs = w->fs[w->n++] = loop_fs_new(type, mib);
                _cleanup_close_ int fd = fs_open(fs, &dev);
                ck_assert_int_eq(guard_add(w->guard, fd, dev, (unsigned) (*levels - '0'), fs->path), 0);
        }
}

bool world_receive(World *w, uint32_t op, uint64_t timeout_usec) {
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

void world_expect(World *w, uint32_t op, int result) {
        ck_assert_msg(world_receive(w, op, SECONDS(20)), "no answer to %u", op);
        ck_assert_msg(w->reply.result == result, "answer to %u is %d (%s), not %d", op, w->reply.result,
                      w->reply.message, result);
}

void world_init(World *w) {
        memset(w, 0, sizeof(*w));
        ck_assert_int_eq(guard_new(WORLD_SET, sandbox_directory(), &w->guard), 0);
}

void world_armed_on(World *w, const char *type, const char *levels) {
        world_init(w);
        world_add(w, type, levels);
        ck_assert_int_eq(guard_arm(w->guard, GUARD_EXPEDITE), 0);
        world_expect(w, GUARD_ARM, 0);
}

void world_armed(World *w, const char *levels) {
        world_armed_on(w, "ext4", levels);
}

void world_hold(World *w, uint64_t budget_usec) {
        ck_assert_int_eq(guard_hold(w->guard, now_usec() + budget_usec), 0);
        world_expect(w, GUARD_HOLD, 0);
        for (unsigned i = 0; i < w->n; i++)
                ck_assert(loop_fs_is_frozen(w->fs[i]));
        ck_assert(guard_holds(w->guard));
}

bool world_fs_thawed(const World *w) {
        for (unsigned i = 0; i < w->n; i++)
                if (w->fs[i] && loop_fs_is_frozen(w->fs[i]))
                        return false;
        return true;
}

bool world_is_thawed(void *userdata) {
        World *w = userdata;
        return !(w->guard && guard_holds(w->guard)) && world_fs_thawed(w);
}

bool nothing_is_held(void *userdata) {
        World *w = userdata;
        return !guard_holds(w->guard);
}

bool held_list_exists(void) {
        return access("held/" WORLD_SET, F_OK) == 0;
}

static bool held_list_is_gone(void *userdata) {
        return !held_list_exists();
}

bool process_is_gone(void *userdata) {
        struct pollfd p = { .fd = *(int *) userdata, .events = POLLIN };
        return poll(&p, 1, 0) > 0;
}

void world_done(World *w) {
        int first = fcntl(w->guard->child.pidfd, F_DUPFD_CLOEXEC, 3),
            second = fcntl(w->guard->second_pidfd, F_DUPFD_CLOEXEC, 3);
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

void world_expect_thaw(World *w, uint64_t within_usec) {
        ck_assert_msg(wait_until(world_is_thawed, w, within_usec), "still frozen");
}

pid_t second_pid(World *w) {
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

bool rescue_is_through(void *userdata) {
        World *w = userdata;
        int r = guard_rescue(w->guard);
        ck_assert_int_ge(r, 0);
        return r == 1;
}
