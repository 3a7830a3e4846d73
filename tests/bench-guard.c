/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the guard costs in the hold: 64 file systems held by it against the least that any program could do, 64 threads
 * that each make one FIFREEZE and one FITHAW. Runs alternate, so that the drift of the machine hits both; medians.
 */
#include "tests/guard-world.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { RUNS = 25 };

/* The assertions of guard-world.c work only inside a test. */
static void must(bool ok, const char *what) {
        if (!ok)
                test_die("%s", what);
}

static int fs_directory(const LoopFs *fs) {
        int fd = open(fs->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        must(fd >= 0, fs->path);
        return fd;
}

static void await_reply(World *w, uint32_t op) {
        struct pollfd p = { .fd = w->guard->child.socket, .events = POLLIN };
        must(poll(&p, 1, 20000) == 1 && guard_receive(w->guard, &w->reply) == 1, "no answer");
        must(w->reply.op == op && w->reply.result == 0, w->reply.message);
}

typedef struct Bare {
        pthread_barrier_t start, held;
        int fds[WORLD_FS_MAX];
        uint64_t begin_usec[WORLD_FS_MAX], end_usec[WORLD_FS_MAX], release_usec[WORLD_FS_MAX];
} Bare;

typedef struct BareThread {
        Bare *bare;
        unsigned index;
} BareThread;

static void *bare_run(void *argument) {
        BareThread *t = argument;
        Bare *b = t->bare;
        (void) pthread_barrier_wait(&b->start);
        b->begin_usec[t->index] = now_usec();
        if (ioctl(b->fds[t->index], FIFREEZE, 0) < 0)
                test_die("FIFREEZE");
        b->end_usec[t->index] = now_usec();
        (void) pthread_barrier_wait(&b->held);
        if (ioctl(b->fds[t->index], FITHAW, 0) < 0)
                test_die("FITHAW");
        b->release_usec[t->index] = now_usec();
        return NULL;
}

typedef struct Times {
        uint64_t freeze_usec, hold_usec; /* first FIFREEZE begun to last one returned; to last FITHAW returned */
} Times;

static Times bare_measure(const World *w) {
        static Bare b;
        pthread_t threads[WORLD_FS_MAX];
        BareThread arguments[WORLD_FS_MAX];
        (void) pthread_barrier_init(&b.start, NULL, w->n);
        (void) pthread_barrier_init(&b.held, NULL, w->n);
        for (unsigned i = 0; i < w->n; i++) {
                b.fds[i] = fs_directory(w->fs[i]);
                arguments[i] = (BareThread) { &b, i };
                if (pthread_create(&threads[i], NULL, bare_run, &arguments[i]) != 0)
                        test_die("pthread_create");
        }
        uint64_t begin = USEC_INFINITY, end = 0, release = 0;
        for (unsigned i = 0; i < w->n; i++) {
                (void) pthread_join(threads[i], NULL);
                begin = MIN_OF(begin, b.begin_usec[i]);
                end = MAX_OF(end, b.end_usec[i]);
                release = MAX_OF(release, b.release_usec[i]);
                (void) close_fd(b.fds[i]);
        }
        return (Times) { end - begin, release - begin };
}

static Times guard_measure(World *w) {
        must(guard_new(WORLD_SET, sandbox_directory(), &w->guard) == 0, "guard_new");
        for (unsigned i = 0; i < w->n; i++) {
                struct stat st;
                _cleanup_close_ int fd = fs_directory(w->fs[i]);
                must(fstat(fd, &st) == 0 && guard_add(w->guard, fd, st.st_dev, 0, w->fs[i]->path) == 0, "guard_add");
        }
        must(guard_arm(w->guard, GUARD_EXPEDITE) == 0, "guard_arm");
        await_reply(w, GUARD_ARM);
        must(guard_hold(w->guard, now_usec() + SECONDS(30)) == 0, "guard_hold");
        await_reply(w, GUARD_HOLD);
        must(guard_release(w->guard) == 0, "guard_release");
        await_reply(w, GUARD_RELEASE);
        struct GuardReply *r = &w->reply;
        Times t = { r->last_hold_usec - r->first_hold_usec, r->last_release_usec - r->first_hold_usec };
        int pidfd = w->guard->child.pidfd;
        w->guard->child.pidfd = -EBADF;
        w->guard = guard_free(w->guard);
        struct pollfd gone = { .fd = pidfd, .events = POLLIN };
        must(poll(&gone, 1, 5000) == 1, "the guard does not end");
        (void) close_fd(pidfd);
        (void) waitpid(-1, NULL, WNOHANG);
        return t;
}

static void dirty(const World *w) {
        for (unsigned i = 0; i < w->n; i++) {
                char path[512];
                snprintf(path, sizeof(path), "%s/file", w->fs[i]->path);
                file_write(path, "something to write back");
        }
}

static int compare(const void *a, const void *b) {
        uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;
        return x < y ? -1 : x > y;
}

static double median(uint64_t *values) {
        qsort(values, RUNS, sizeof(*values), compare);
        return (double) values[RUNS / 2];
}

int main(void) {
        static World w;
        uint64_t bare_freeze[RUNS], bare_hold[RUNS], guard_freeze[RUNS], guard_hold_usec[RUNS];
        sandbox_enter(120);
        if (chdir(sandbox_directory()) < 0)
                test_die("cannot enter %s", sandbox_directory());
        for (w.n = 0; w.n < WORLD_FS_MAX; w.n++)
                w.fs[w.n] = loop_fs_new("ext4", EXT4_MIB);
        for (unsigned i = 0; i < RUNS; i++) {
                dirty(&w);
                Times t = bare_measure(&w);
                bare_freeze[i] = t.freeze_usec;
                bare_hold[i] = t.hold_usec;
                dirty(&w);
                t = guard_measure(&w);
                guard_freeze[i] = t.freeze_usec;
                guard_hold_usec[i] = t.hold_usec;
        }
        double bf = median(bare_freeze), bh = median(bare_hold), gf = median(guard_freeze),
               gh = median(guard_hold_usec);
        printf("%u ext4, all FIFREEZE: guard %.1f ms, bare %.1f ms, ratio %.2f\n", w.n, gf / 1e3, bf / 1e3, gf / bf);
        printf("%u ext4, hold with release: guard %.1f ms, bare %.1f ms, ratio %.2f\n", w.n, gh / 1e3, bh / 1e3,
               gh / bh);
        for (unsigned i = 0; i < w.n; i++)
                w.fs[i] = loop_fs_free(w.fs[i]);
        return EXIT_SUCCESS;
}
