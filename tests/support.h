/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Fixtures of the C tests: a sandbox that nothing can outlive, temporary directories, a private bus, a bus over a
 * socketpair, and file systems on loop devices that may be frozen. Whatever fails in a fixture ends the test with one
 * line on stderr: a test that cannot set up its world has nothing to report.
 *
 * A test that mounts, freezes or starts processes calls sandbox_enter() first in main(). Everything below works without
 * it too, except loop file systems.
 */
#include "protocol/base.h"
#include <stdio.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

enum {
        TEST_SKIP = 77, /* exit status: skipped, the reason is the last line on stderr */
        SANDBOX_TIMEOUT_STATUS = 124,
};

/* Prints the reason and exits with TEST_SKIP. */
_Noreturn void test_skip(const char *format, ...) _printf_(1, 2);
/* Prints what failed (with errno when it is set) and exits with 1. */
_Noreturn void test_die(const char *format, ...) _printf_(1, 2);

/*
 * Runs the caller in a mount and PID namespace of its own, below a keeper process that stays outside of it. Returns in
 * the inner process; the outer one exits with its status. The keeper thaws every file system mounted below the
 * sandbox's directory and then ends everything when the deadline passes, when the outer process dies, and when the
 * inner one is through. What is left mounted, frozen or attached to a loop device then makes the test fail. Skips if
 * not root. Inside another sandbox it only sets a new deadline.
 */
void sandbox_enter(unsigned timeout_sec);
/* The sandbox's own directory, a tmpfs. */
const char *sandbox_directory(void);
/* Counts from now; the time of sandbox_enter() no longer applies. */
void sandbox_deadline(unsigned timeout_sec);

/* A new directory below the sandbox's or /tmp; free removes it with all that is in it. */
char *temp_dir_new(void);
char *temp_dir_free(char *path);
DEFINE_CLEANUP(char *, temp_dir_free);
/* Whole file; the caller frees. */
char *file_read(const char *path);
void file_write(const char *path, const char *text);

/* A dbus-daemon of our own with the project's bus policy. Sets DBUS_SYSTEM_BUS_ADDRESS. */
typedef struct PrivateBus {
        pid_t pid;
        char *directory;
        char *address;
} PrivateBus;
PrivateBus *private_bus_new(void);
PrivateBus *private_bus_free(PrivateBus *bus);
DEFINE_CLEANUP(PrivateBus *, private_bus_free);
sd_bus *private_bus_connect(PrivateBus *bus);

/* Two ends of one connection without a broker, both started; process them with bus_pair_process(). */
void bus_pair_new(sd_bus **ret_server, sd_bus **ret_client);
/* Processes both until neither has anything to do. */
void bus_pair_process(sd_bus *a, sd_bus *b);

/* type: "ext4", "xfs" (at least 300 MiB) or "btrfs" (at least 128 MiB). Needs the sandbox. */
typedef struct LoopFs {
        char *path;   /* where it is mounted */
        char *device; /* /dev/loopN, goes away with the last mount */
        char *image;
} LoopFs;
LoopFs *loop_fs_new(const char *type, unsigned size_mib);
/* Thaws, unmounts and forgets it. */
LoopFs *loop_fs_free(LoopFs *fs);
DEFINE_CLEANUP(LoopFs *, loop_fs_free);
/* Thaws: 0, or -EINVAL when it was not frozen. */
int loop_fs_thaw(const LoopFs *fs);
int loop_fs_freeze(const LoopFs *fs);
bool loop_fs_is_frozen(const LoopFs *fs);

/* Runs argv to its end with output going to ours; returns its exit status, or 128 + signal. */
int run_command(char *const argv[]);
/* Starts argv; stdout goes to stdout_path if given. */
pid_t start_command(char *const argv[], const char *stdout_path);
/* SIGTERM, then SIGKILL after timeout_usec; returns the wait status. */
int stop_command(pid_t pid, uint64_t timeout_usec);
/* Waits at most timeout_usec for the process; false if it still runs. */
bool wait_command(pid_t pid, uint64_t timeout_usec, int *ret_status);
/* Sleeps for a moment; for loops that wait for something with a deadline of their own. */
void nap_msec(unsigned msec);
/* Calls check(userdata) every 5 ms until it returns true; false after timeout_usec. */
bool wait_until(bool (*check)(void *userdata), void *userdata, uint64_t timeout_usec);
