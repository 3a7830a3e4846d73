/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-guard, main thread of the first: takes the file systems, prepares, and then only moves flags between vssd's
 * socket and the threads (guard-hold.c). It waits in one poll() and never calls into a file system, so that whatever
 * happens down there it still hears EOF and SIGTERM. One process is one set and makes one hold.
 */
#include "daemon/guard-program.h"
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

void guard_wake(GuardProgram *p) {
        uint64_t one = 1;
        (void) !write(p->wake, &one, sizeof(one));
}

void guard_cancel(GuardProgram *p, int reason, bool forced) {
        int none = 0;
        if (!p->pair)
                return;
        (void) atomic_compare_exchange_strong(&p->pair->reason, &none, reason);
        if (forced)
                p->shared->forced = 1;
        p->shared->cancelled = 1;
        for (uint32_t i = 0; i < p->n_volumes; i++)
                (void) sem_post(&p->volumes[i].go);
        guard_wake(p);
}

bool guard_is_busy(const GuardProgram *p) {
        for (uint32_t i = 0; i < p->n_volumes; i++)
                if (guard_state_is_busy(p->shared->fs[i].state))
                        return true;
        return false;
}

bool guard_is_through(const GuardProgram *p) {
        if (!p->shared)
                return true;
        for (uint32_t i = 0; i < p->n_volumes; i++)
                if (p->volumes[i].order == GUARD_ORDER_FREEZE)
                        return false;
        return !guard_is_busy(p);
}

void guard_fail(GuardProgram *p, int error, uint32_t index) {
        assert(error < 0);
        if (p->failure < 0)
                return;
        p->failure = error;
        p->failure_index = index;
}

static void guard_take_volume(GuardProgram *p, struct GuardRequest *q, int fd) {
        uint32_t index = p->n_volumes;
        if (p->phase != GUARD_COLLECTING || q->index != index || index >= LIMIT_VOLUMES || fd < 0 ||
            q->level > GUARD_LEVEL_MAX)
                return guard_fail(p, -EPROTO, UINT32_MAX);
        GuardVolume *v = &p->volumes[index];
        struct stat st;
        v->program = p;
        v->index = index;
        v->level = q->level;
        v->dev = q->dev;
        v->flags = q->flags;
        p->n_volumes++;
        v->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (v->fd < 0 || sem_init(&v->go, 0, 0) < 0 || fstat(v->fd, &st) < 0)
                return guard_fail(p, -errno, index);
        if (st.st_dev != q->dev)
                return guard_fail(p, -ESTALE, index);
        if (!(v->flags & GUARD_MAPPED))
                return;
        if (p->dm_control < 0)
                p->dm_control = guard_dm_open();
        int r = p->dm_control < 0 ? p->dm_control : guard_dm_init(p->dm_control, v->dev, &v->dm);
        if (r < 0)
                return guard_fail(p, r, index);
}

static int guard_map_shared(GuardProgram *p, int fd) {
        struct stat st;
        if (fd < 0 || fstat(fd, &st) < 0 || st.st_size != sizeof(struct GuardShared) ||
            !(fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK))
                return -EPROTO;
        void *shared = mmap(NULL, sizeof(struct GuardShared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (shared == MAP_FAILED)
                return -errno;
        p->shared = shared;
        p->shared->count = p->n_volumes;
        for (uint32_t i = 0; i < p->n_volumes; i++)
                (void) snprintf(p->volumes[i].mount_point, LIMIT_PATH_BYTES, "%.*s", LIMIT_PATH_BYTES - 1,
                                p->shared->mount_points[i]);
        return 0;
}

static int guard_pair_new(GuardPair **ret) {
        GuardPair *pair = mmap(NULL, sizeof(*pair), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (pair == MAP_FAILED)
                return -errno;
        pthread_mutexattr_t attr;
        int r = pthread_mutexattr_init(&attr);
        if (r == 0)
                r = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
        if (r == 0)
                r = pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
        if (r == 0)
                r = pthread_mutex_init(&pair->alive, &attr);
        if (r == 0)
                r = pthread_mutex_lock(&pair->alive);
        *ret = pair;
        return -r;
}

static int guard_arm_set(GuardProgram *p, struct GuardRequest *q, int fd) {
        q->set[VSS_ID_LENGTH] = 0;
        if (p->phase != GUARD_COLLECTING || p->n_volumes == 0 || !id_is_valid(q->set))
                return -EPROTO;
        strcpy(p->set, q->set);
        p->kill_stuck = q->flags & GUARD_KILL_STUCK;
        int r = guard_map_shared(p, fd);
        if (r >= 0 && p->failure < 0)
                return p->failure; /* of an ADD; now it can be named */
        if (r >= 0)
                r = guard_pair_new(&p->pair);
        if (r >= 0)
                r = guard_open_surroundings(p);
        if (r >= 0)
                r = guard_held_open(p);
        if (r < 0)
                return r;
        if (q->flags & GUARD_EXPEDITE)
                guard_expedite_open(p);
        guard_prepare(p);
        r = guard_second_fork(p);
        if (r >= 0)
                r = guard_held_publish(p);
        if (r >= 0)
                r = guard_threads_start(p);
        if (r >= 0)
                p->phase = GUARD_ARMED;
        return r;
}

static void guard_take_arm(GuardProgram *p, struct GuardRequest *q, int fd) {
        int r = guard_arm_set(p, q, fd);
        if (r < 0)
                guard_fail(p, r, UINT32_MAX);
        guard_reply(p, GUARD_ARM, p->failure, p->failure < 0 ? p->failure_index : UINT32_MAX, p->second_pidfd);
        if (p->failure < 0)
                p->leaving = true;
}

static void guard_handle(GuardProgram *p, struct GuardRequest *q, int fd) {
        switch (q->op) {
        case GUARD_CGROUP:
                if (p->phase == GUARD_COLLECTING && p->n_volumes == 0)
                        guard_cgroups(p, q, fd);
                return guard_fail(p, -EPROTO, UINT32_MAX);
        case GUARD_ADD:
                return guard_take_volume(p, q, fd);
        case GUARD_ARM:
                return guard_take_arm(p, q, fd);
        case GUARD_FLUSH:
                return hold_flush(p, q->deadline_usec);
        case GUARD_HOLD:
                return hold_begin(p, q->deadline_usec);
        case GUARD_RELEASE:
                return hold_release(p);
        case GUARD_EXIT:
                p->leaving = true;
        }
}

/* Everything vssd has sent. */
static void guard_listen(GuardProgram *p) {
        static struct GuardRequest q;
        while (!p->leaving) {
                _cleanup_close_ int fd = -EBADF;
                int r = child_receive(p->socket, &q, sizeof(q), &fd);
                if (r == 0)
                        return;
                if (r > 0)
                        guard_handle(p, &q, fd);
                else if (r != -EBADMSG)
                        p->leaving = true;
        }
}

static int guard_timeout_msec(const GuardProgram *p) {
        uint64_t now = now_usec(), next = hold_next_usec(p);
        if (next == USEC_INFINITY)
                return -1;
        return next <= now ? 0 : (int) MIN_OF((next - now) / USEC_PER_MSEC + 1, 60000ULL);
}

static void guard_wait(GuardProgram *p) {
        bool leaving = p->leaving;
        struct pollfd fds[] = {
                { .fd = p->leaving ? -1 : p->socket, .events = POLLIN },
                { .fd = p->signals, .events = POLLIN },
                { .fd = p->wake, .events = POLLIN },
        };
        if (poll(fds, ELEMENTSOF(fds), guard_timeout_msec(p)) < 0)
                return;
        uint64_t count;
        struct signalfd_siginfo si;
        if (fds[2].revents)
                (void) !read(p->wake, &count, sizeof(count));
        if (fds[1].revents && read(p->signals, &si, sizeof(si)) == sizeof(si))
                guard_cancel(p, EINTR, true);
        if (fds[0].revents)
                guard_listen(p);
        if (p->leaving && !leaving)
                guard_cancel(p, EPIPE, false);
}

/* The second has nothing left to watch over; it goes first, so that nobody holds the file systems open after us. */
static _Noreturn void guard_finish(GuardProgram *p) {
        if (p->shared)
                p->shared->released = 1;
        guard_held_remove(p);
        guard_expedite_end(p);
        if (p->phase == GUARD_COLLECTING && p->n_volumes == 0) /* that may be what it was called for */
                guard_expedite_release_leftovers(p->runtime_directory);
        if (p->second_pidfd >= 0)
                (void) syscall(SYS_pidfd_send_signal, p->second_pidfd, SIGKILL, NULL, 0);
        _exit(EXIT_SUCCESS);
}

static int guard_init(GuardProgram *p, int socket, const char *runtime_directory) {
        struct ucred peer = {};
        socklen_t size = sizeof(peer);
        sigset_t all, told;
        if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
                return -errno;
        if (peer.uid != geteuid())
                return -EPERM;
        (void) sigfillset(&all);
        (void) sigprocmask(SIG_SETMASK, &all, NULL);
        (void) sigemptyset(&told);
        (void) sigaddset(&told, SIGTERM);
        (void) sigaddset(&told, SIGINT);
        p->socket = socket;
        p->runtime_directory = runtime_directory;
        p->first_pid = getpid();
        p->vssd_pid = peer.pid;
        p->proc = p->held_dir = p->held_file = p->first_pidfd = p->second_pidfd = p->dm_control = -EBADF;
        p->knob = p->knob_record = -EBADF;
        p->signals = signalfd(-1, &told, SFD_CLOEXEC | SFD_NONBLOCK);
        p->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        p->wake_second = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        p->timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC);
        if (p->signals < 0 || p->wake < 0 || p->wake_second < 0 || p->timer < 0 || sem_init(&p->scout, 0, 0) < 0)
                return -errno;
        return fcntl(socket, F_SETFL, O_NONBLOCK) < 0 ? -errno : 0;
}

/* Whoever connected to a socket of systemd's does not know who we are. */
static int guard_greet(GuardProgram *p) {
        _cleanup_close_ int self = (int) syscall(SYS_pidfd_open, p->first_pid, 0);
        if (self < 0)
                return -errno;
        guard_reply(p, GUARD_HELLO, 0, UINT32_MAX, self);
        return 0;
}

static int guard_main(int socket, const char *runtime_directory) {
        static GuardProgram program;
        GuardProgram *p = &program;
        int r = guard_init(p, socket, runtime_directory);
        if (r >= 0)
                r = guard_greet(p);
        if (r < 0) {
                fprintf(stderr, "vss-guard: cannot start on descriptor %d: %s\n", socket, strerror(-r));
                return EXIT_FAILURE;
        }
        while (!p->leaving || !guard_is_through(p)) {
                guard_wait(p);
                hold_advance(p);
        }
        guard_finish(p);
}

static int help(void) {
        puts("vss-guard --socket-fd=N --runtime-directory=DIR\n"
             "vss-guard --release-leftovers --runtime-directory=DIR\n\n"
             "Freezes and thaws the file systems of one snapshot set for vssd, which starts it;\n"
             "for vss-writer-unit it thaws control groups.\n\n"
             "      --socket-fd=N            descriptor of the socket to vssd\n"
             "      --runtime-directory=DIR  where held/ lies; a tmpfs\n"
             "      --release-leftovers      thaw what guards that died have left frozen, and exit\n"
             "  -h, --help                   show this\n"
             "      --version                show the version");
        return EXIT_SUCCESS;
}

int main(int argc, char *argv[]) {
        enum { OPTION_SOCKET = 256, OPTION_RUNTIME, OPTION_LEFTOVERS, OPTION_VERSION };
        static const struct option options[] = {
                { "socket-fd", required_argument, NULL, OPTION_SOCKET },
                { "runtime-directory", required_argument, NULL, OPTION_RUNTIME },
                { "release-leftovers", no_argument, NULL, OPTION_LEFTOVERS },
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, OPTION_VERSION },
                {},
        };
        const char *runtime_directory = NULL;
        bool leftovers = false;
        int socket = -1, c;
        while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0)
                switch (c) {
                case OPTION_SOCKET:
                        socket = (int) strtol(optarg, NULL, 10);
                        break;
                case OPTION_RUNTIME:
                        runtime_directory = optarg;
                        break;
                case OPTION_LEFTOVERS:
                        leftovers = true;
                        break;
                case 'h':
                        return help();
                case OPTION_VERSION:
                        puts("vss-guard " VSS_VERSION);
                        return EXIT_SUCCESS;
                default:
                        return 2;
                }
        if (optind < argc || !runtime_directory || runtime_directory[0] != '/' || (socket < 3) != leftovers) {
                fputs("vss-guard: give --socket-fd= or --release-leftovers, and --runtime-directory= (absolute); see --help\n",
                      stderr);
                return 2;
        }
        return leftovers ? guard_leftovers_main(runtime_directory) : guard_main(socket, runtime_directory);
}
