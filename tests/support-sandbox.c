/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sandbox every system test lives in. Tests here freeze file systems and kill the process that would thaw them, on
 * purpose; a process that then touches such a file system sleeps where no signal reaches it, and the test with it. So
 * the one who cleans up must not be part of the test:
 *
 *   outer process (what meson started)     waits; when it dies the keeper sees EOF
 *   └─ keeper (own session, not killable with the test)
 *      ├─ own mount namespace, so that a mount can neither leak nor disturb a test that runs beside
 *      └─ init of an own PID namespace     reaps; when it goes, the kernel kills whatever the test left
 *         └─ the test
 *
 * The keeper never calls into a test's file system itself: a FITHAW sleeps as long as a FIFREEZE is under way, so each
 * is done by a child that may sleep.
 */
#include "tests/support.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define TERM_GRACE_USEC (10 * USEC_PER_SEC) /* what a test has for its own clean-up after SIGTERM */
#define KILL_GRACE_USEC (60 * USEC_PER_SEC) /* until the last sleeper has gone after the thaw */
#define SWEEP_USEC (200 * USEC_PER_MSEC)
#define LEFTOVER_USEC (3 * USEC_PER_SEC) /* loop devices go a moment after their last user */

typedef struct Keeper {
        char directory[256];
        FILE *mountinfo; /* opened before /proc becomes the sandbox's own */
        int life_fd;     /* EOF: the outer process has gone */
        int command_fd;  /* the fifo that carries new deadlines */
        int init_fd;
        pid_t init;
        uint64_t deadline_usec;
} Keeper;

static void say(const char *format, ...) _printf_(1, 2);
static void say(const char *format, ...) {
        va_list args;
        va_start(args, format);
        fputs("sandbox: ", stderr);
        vfprintf(stderr, format, args);
        fputc('\n', stderr);
        va_end(args);
}

/* Undoes the octal escapes of mountinfo in place. */
static void unescape(char *s) {
        char *w = s;
        for (; *s; s++)
                if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
                        *w++ = (char) ((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
                        s += 3;
                } else
                        *w++ = *s;
        *w = 0;
}

/* Calls what() for every mount below the sandbox's directory, returns how often. */
static unsigned for_each_mount(Keeper *k, void (*what)(const char *path)) {
        char line[8192], path[4096];
        unsigned n = 0;
        size_t length = strlen(k->directory);

        rewind(k->mountinfo);
        while (fgets(line, sizeof(line), k->mountinfo)) {
                if (sscanf(line, "%*s %*s %*s %*s %4095s", path) != 1)
                        continue;
                unescape(path);
                if (strncmp(path, k->directory, length) != 0 || path[length] != '/')
                        continue;
                what(path);
                n++;
        }
        return n;
}

static void thaw_in_child(const char *path) {
        if (fork() != 0)
                return;
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0 && ioctl(fd, FITHAW, 0) == 0)
                say("thawed %s", path);
        _exit(0);
}

static void reap_all_but_init(Keeper *k) {
        siginfo_t info = {};
        while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid > 0) {
                if (info.si_pid == k->init)
                        return;
                (void) waitpid(info.si_pid, NULL, WNOHANG);
                info.si_pid = 0;
        }
}

/* One round: true as soon as init has gone. */
static bool sweep(Keeper *k) {
        struct pollfd p = { .fd = k->init_fd, .events = POLLIN };
        (void) for_each_mount(k, thaw_in_child);
        int r = poll(&p, 1, (int) (SWEEP_USEC / USEC_PER_MSEC));
        reap_all_but_init(k);
        return r > 0;
}

static void show_processes(void) {
        pid_t pid = fork();
        if (pid == 0) {
                (void) dup2(STDERR_FILENO, STDOUT_FILENO);
                (void) execlp("ps", "ps", "-eo", "pid,stat,wchan:24,args", NULL);
                _exit(1);
        }
        nap_msec(300);
}

static bool thaw_until_gone(Keeper *k, uint64_t budget_usec) {
        uint64_t end = now_usec() + budget_usec;
        while (now_usec() < end)
                if (sweep(k))
                        return true;
        return false;
}

/* First thaw, then a chance to clean up, then the end for all of it. */
static void end_test(Keeper *k, const char *why) {
        say("%s; what runs:", why);
        show_processes();
        (void) sweep(k);
        /* 1 is init itself, which passes SIGTERM on to the test */
        (void) kill(k->init, SIGTERM);
        if (thaw_until_gone(k, TERM_GRACE_USEC))
                return;
        say("the test does not end, killing it");
        (void) kill(k->init, SIGKILL);
        if (!thaw_until_gone(k, KILL_GRACE_USEC))
                say("something still sleeps in the kernel; giving up on it");
}

static void read_deadline(Keeper *k) {
        char buffer[64];
        ssize_t n = read(k->command_fd, buffer, sizeof(buffer) - 1);
        if (n <= 0)
                return;
        buffer[n] = 0;
        k->deadline_usec = now_usec() + strtoull(buffer, NULL, 10) * USEC_PER_SEC;
}

/* Returns true when the test ended by itself. */
static bool watch(Keeper *k) {
        for (;;) {
                struct pollfd p[] = {
                        { .fd = k->init_fd, .events = POLLIN },
                        { .fd = k->life_fd, .events = POLLIN },
                        { .fd = k->command_fd, .events = POLLIN },
                };
                uint64_t now = now_usec();
                if (now >= k->deadline_usec) {
                        end_test(k, "the deadline of the test has passed");
                        return false;
                }
                if (poll(p, ELEMENTSOF(p), (int) ((k->deadline_usec - now) / USEC_PER_MSEC) + 1) < 0)
                        continue;
                if (p[0].revents)
                        return true;
                if (p[1].revents) {
                        end_test(k, "whoever started the test has gone");
                        return false;
                }
                if (p[2].revents)
                        read_deadline(k);
        }
}

static void report_mount(const char *path) {
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        bool frozen = fd >= 0 && ioctl(fd, FITHAW, 0) == 0;
        (void) close_fd(fd);
        say("left mounted%s: %s", frozen ? " and FROZEN" : "", path);
}

static void unmount_one(const char *path) {
        (void) umount2(path, MNT_DETACH);
}

/* Loop devices over files of ours; only counts, or detaches too. */
static unsigned loop_devices(Keeper *k, bool detach) {
        unsigned n = 0;
        for (unsigned i = 0; i < 512; i++) {
                char path[64];
                struct loop_info64 info;
                snprintf(path, sizeof(path), "/dev/loop%u", i);
                int fd = open(path, O_RDONLY | O_CLOEXEC);
                if (fd < 0)
                        continue;
                if (ioctl(fd, LOOP_GET_STATUS64, &info) == 0 &&
                    strncmp((char *) info.lo_file_name, k->directory, strlen(k->directory)) == 0) {
                        n++;
                        if (detach) {
                                say("left attached: %s (%s)", path, (char *) info.lo_file_name);
                                (void) ioctl(fd, LOOP_CLR_FD, 0);
                        }
                }
                (void) close_fd(fd);
        }
        return n;
}

static bool leftovers(Keeper *k) {
        bool found = for_each_mount(k, report_mount) > 0;
        for (unsigned i = 0; i < 4; i++)
                (void) for_each_mount(k, unmount_one);

        uint64_t end = now_usec() + LEFTOVER_USEC;
        while (loop_devices(k, false) > 0 && now_usec() < end)
                nap_msec(20);
        return loop_devices(k, true) > 0 || found;
}

static volatile sig_atomic_t test_pid;

static void pass_on(int sig) {
        if (test_pid > 0)
                (void) kill(test_pid, sig);
}

/* PID 1 of the sandbox: ends with the test, and with it everything the test started. */
static _Noreturn void be_init(void) {
        int status;
        for (;;) {
                pid_t pid = waitpid(-1, &status, 0);
                if (pid < 0 && errno == EINTR)
                        continue;
                if (pid < 0)
                        _exit(1);
                if (pid == test_pid)
                        _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
        }
}

/* In the new PID namespace's first process. Returns in the test. */
static void start_test(Keeper *k) {
        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void) close_fd(k->life_fd);
        (void) close_fd(k->command_fd);
        if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
                test_die("cannot mount /proc for the sandbox");

        struct sigaction sa = { .sa_handler = pass_on };
        (void) sigaction(SIGTERM, &sa, NULL);
        pid_t pid = fork();
        if (pid < 0)
                test_die("cannot fork");
        if (pid > 0) {
                test_pid = pid;
                be_init();
        }
        sa.sa_handler = SIG_DFL;
        (void) sigaction(SIGTERM, &sa, NULL);
        fclose(k->mountinfo);
        setenv("VSS_TEST_DIR", k->directory, 1);
}

static void keeper_prepare(Keeper *k) {
        char fifo[300];

        if (setsid() < 0 || unshare(CLONE_NEWNS | CLONE_NEWPID) < 0)
                test_die("cannot make namespaces");
        if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
                test_die("cannot detach the mount namespace");
        if (mount("tmpfs", k->directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=8g") < 0)
                test_die("cannot mount a tmpfs on %s", k->directory);
        /* private, so that a mount made in here can be moved about and reaches nobody */
        if (mount(NULL, k->directory, NULL, MS_PRIVATE, NULL) < 0)
                test_die("cannot make %s private", k->directory);
        snprintf(fifo, sizeof(fifo), "%s/.deadline", k->directory);
        if (mkfifo(fifo, 0600) < 0)
                test_die("cannot make %s", fifo);
        k->command_fd = open(fifo, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        k->mountinfo = fopen("/proc/self/mountinfo", "re");
        if (k->command_fd < 0 || !k->mountinfo)
                test_die("cannot open the sandbox's files");
}

/* Without the leak check of a sanitizer: it needs a /proc that shows the process itself. The test has its own. */
static _Noreturn void leave(int status) {
        fflush(NULL);
        _exit(status);
}

static _Noreturn void keep(Keeper *k) {
        int status = 0;

        k->init_fd = pidfd_open(k->init, 0);
        bool by_itself = watch(k);
        if (waitpid(k->init, &status, WNOHANG) != k->init || !by_itself)
                status = SANDBOX_TIMEOUT_STATUS;
        else
                status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        if (leftovers(k) && (status == 0 || status == TEST_SKIP))
                status = 1;
        (void) umount2(k->directory, MNT_DETACH);
        if (rmdir(k->directory) < 0)
                say("%s: %s", k->directory, strerror(errno));
        leave(status);
}

static _Noreturn void wait_for_keeper(pid_t keeper) {
        int status;
        while (waitpid(keeper, &status, 0) < 0)
                if (errno != EINTR)
                        leave(1);
        leave(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

void sandbox_enter(unsigned timeout_sec) {
        Keeper k = {};
        int life[2];

        if (getenv("VSS_TEST_DIR")) {
                sandbox_deadline(timeout_sec);
                return;
        }
        if (geteuid() != 0)
                test_skip("needs root");
        /* loop devices keep only 63 bytes of a name: a long TMPDIR would hide them from the check at the end */
        snprintf(k.directory, sizeof(k.directory), "%.32s/vss-test-XXXXXX", getenv("TMPDIR") ?: "/tmp");
        if (pipe2(life, O_CLOEXEC) < 0 || !mkdtemp(k.directory))
                test_die("cannot make the sandbox");
        fflush(NULL);
        pid_t keeper = fork();
        if (keeper < 0)
                test_die("cannot fork");
        if (keeper > 0) {
                (void) close_fd(life[0]);
                wait_for_keeper(keeper);
        }
        (void) close_fd(life[1]);
        k.life_fd = life[0];
        k.deadline_usec = now_usec() + timeout_sec * USEC_PER_SEC;
        keeper_prepare(&k);
        k.init = fork();
        if (k.init < 0)
                test_die("cannot fork");
        if (k.init > 0)
                keep(&k);
        start_test(&k);
}

const char *sandbox_directory(void) {
        const char *directory = getenv("VSS_TEST_DIR");
        if (!directory)
                test_die("this test has not entered the sandbox");
        return directory;
}

void sandbox_deadline(unsigned timeout_sec) {
        char path[300];
        snprintf(path, sizeof(path), "%s/.deadline", sandbox_directory());
        int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 || dprintf(fd, "%u\n", timeout_sec) < 0)
                test_die("cannot reach the keeper of the sandbox");
        (void) close_fd(fd);
}
