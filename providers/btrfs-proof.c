/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commit, and the proof that several copies are one instant.
 *
 * Nothing can hold a btrfs from outside while it is copied, and each ioctl flushes its own subvolume before it joins a
 * transaction, so even copies of one transaction can show B's write without A's that came before it. What can be had is
 * a proof afterwards: take all copies, then syncfs, so that every write that reached a source is in its generation. A
 * source whose generation is still the transaction of its copy has not changed from the moment of its copy to the
 * syncfs. If that holds for all, then at every moment between the last copy and the first syncfs each copy equalled its
 * source: one instant. Sources that did change are taken again, at most BTRFS_TRIES_MAX times; then the set cannot be
 * made (-EXDEV).
 *
 * One thread per copy, because the ioctl returns only after its transaction is on disk: side by side the copies share
 * one. They are made in end_prepare; from then on nothing is allocated.
 *
 * A single copy needs no proof, and nobody has to stand still until it is on disk: in a part of the commit where no
 * other writer is let in, the kernel first copies the root of the subvolume and then makes the name of the copy
 * (create_pending_snapshot()). So once the name can be found in the tree the copy is what it will be, long before the
 * directory shows it: commit returns then. Whether it got onto the disk pre_final asks, before anybody calls it a copy.
 */
#include "protocol/urgency.h"
#include "providers/btrfs.h"
#include <fcntl.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

enum {
        THREAD_STACK_BYTES = 128 * 1024, /* times 64, all of it locked in memory */
        LOOK_NSEC = 20 * 1000,           /* between two looks whether the name is there; each takes some microseconds */
};

typedef enum Round { ROUND_TAKE, ROUND_SYNC, ROUND_QUIT } Round;

static struct {
        pthread_mutex_t mutex;
        pthread_cond_t go, done;
        Round round;
        unsigned number, running; /* of rounds begun; of threads still in this one */
} rounds = { .mutex = PTHREAD_MUTEX_INITIALIZER, .go = PTHREAD_COND_INITIALIZER, .done = PTHREAD_COND_INITIALIZER };

static struct btrfs_ioctl_vol_args_v2 take_arguments[VSS_VOLUMES_MAX], drop_arguments[VSS_VOLUMES_MAX];

static int generation_of(int fd, bool created, uint64_t *ret) {
        struct btrfs_ioctl_get_subvol_info_args info = {};
        if (ioctl(fd, BTRFS_IOC_GET_SUBVOL_INFO, &info) < 0)
                return -errno;
        *ret = created ? info.otransid : info.generation;
        return 0;
}

static int copy_take(BtrfsCopy *copy, unsigned i) {
        if (copy->made && ioctl(copy->place.fd, BTRFS_IOC_SNAP_DESTROY_V2, &drop_arguments[i]) < 0)
                return -errno;
        copy->made = false;
        if (ioctl(copy->place.fd, BTRFS_IOC_SNAP_CREATE_V2, &take_arguments[i]) < 0)
                return -errno;
        copy->made = true;
        _cleanup_close_ int fd = openat(copy->place.fd, BTRFS_COPY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        return generation_of(fd, true, &copy->transaction);
}

static void copy_work(unsigned i, Round round) {
        BtrfsCopy *copy = &btrfs_set.copies[i];
        if (round == ROUND_TAKE && copy->wanted) {
                urgency_set(URGENCY_HOLD); /* of this thread; the host's own has it */
                copy->result = copy_take(copy, i);
                urgency_set(URGENCY_USUAL);
        }
        if (round == ROUND_SYNC && copy->syncs)
                copy->result = syncfs(copy->source_fd) < 0 ? -errno : 0;
}

static void *copy_thread(void *userdata) {
        unsigned i = (unsigned) (uintptr_t) userdata, seen = 0;
        for (;;) {
                (void) pthread_mutex_lock(&rounds.mutex);
                while (rounds.number == seen)
                        (void) pthread_cond_wait(&rounds.go, &rounds.mutex);
                seen = rounds.number;
                Round round = rounds.round;
                (void) pthread_mutex_unlock(&rounds.mutex);
                if (round == ROUND_QUIT)
                        return NULL;
                copy_work(i, round);
                (void) pthread_mutex_lock(&rounds.mutex);
                if (--rounds.running == 0)
                        (void) pthread_cond_signal(&rounds.done);
                (void) pthread_mutex_unlock(&rounds.mutex);
        }
}

static void end_round(void) {
        (void) pthread_mutex_lock(&rounds.mutex);
        while (rounds.running > 0)
                (void) pthread_cond_wait(&rounds.done, &rounds.mutex);
        (void) pthread_mutex_unlock(&rounds.mutex);
}

static bool round_runs(void) {
        (void) pthread_mutex_lock(&rounds.mutex);
        bool runs = rounds.running > 0;
        (void) pthread_mutex_unlock(&rounds.mutex);
        return runs;
}

static void begin_round(Round round) {
        end_round(); /* one that commit has left to itself */
        (void) pthread_mutex_lock(&rounds.mutex);
        rounds.round = round;
        rounds.running = round == ROUND_QUIT ? 0 : btrfs_set.n_threads;
        rounds.number++;
        (void) pthread_cond_broadcast(&rounds.go);
        (void) pthread_mutex_unlock(&rounds.mutex);
}

/* All copies side by side. */
static void run_round(Round round) {
        begin_round(round);
        end_round();
}

static int first_failure(struct vss_call *c, const char *what) {
        for (unsigned i = 0; i < btrfs_set.n_copies; i++) {
                const BtrfsCopy *copy = &btrfs_set.copies[i];
                if (copy->result < 0)
                        return btrfs_fail(c, copy->result, "cannot %s %s: %s", what, copy->volume,
                                          strerror(-copy->result));
        }
        return 0;
}

static void arm_copy(unsigned i) {
        BtrfsCopy *copy = &btrfs_set.copies[i];
        take_arguments[i] = (struct btrfs_ioctl_vol_args_v2) {
                .fd = copy->source_fd,
                .flags = copy->flags & VSS_REQUEST_WRITABLE ? 0 : BTRFS_SUBVOL_RDONLY,
                .name = BTRFS_COPY,
        };
        drop_arguments[i] = (struct btrfs_ioctl_vol_args_v2) { .name = BTRFS_COPY };
        copy->wanted = true;
        copy->syncs = true;
        for (unsigned k = 0; k < i; k++) /* one syncfs per file system */
                if (btrfs_set.copies[k].top == copy->top)
                        copy->syncs = false;
}

static int start_threads(void) {
        pthread_attr_t attributes;
        int r = -pthread_attr_init(&attributes);
        if (r < 0)
                return r;
        rounds.number = rounds.running = 0; /* each new thread has seen round 0 */
        r = -pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
        for (unsigned i = 0; r >= 0 && i < btrfs_set.n_copies; i++) {
                r = -pthread_create(&btrfs_set.copies[i].thread, &attributes, copy_thread, (void *) (uintptr_t) i);
                if (r >= 0)
                        btrfs_set.n_threads++;
        }
        (void) pthread_attr_destroy(&attributes);
        return r;
}

int btrfs_arm(struct vss_call *c) {
        for (unsigned i = 0; i < btrfs_set.n_copies; i++)
                arm_copy(i);
        int r = start_threads();
        if (r < 0)
                return btrfs_fail(c, r, "cannot start a thread per copy: %s", strerror(-r));
        /* The guard flushes only what it will hold: what is dirty now need not be written in the window. */
        run_round(ROUND_SYNC);
        return first_failure(c, "sync the file system of");
}

void btrfs_disarm(void) {
        if (btrfs_set.n_threads == 0)
                return;
        run_round(ROUND_QUIT);
        while (btrfs_set.n_threads > 0)
                (void) pthread_join(btrfs_set.copies[--btrfs_set.n_threads].thread, NULL);
}

/* Marks what has to be taken again: 0 nothing, 1 something, *ret_changed is one of them. */
static int compare_generations(struct vss_call *c, const BtrfsCopy **ret_changed) {
        int changed = 0;
        for (unsigned i = 0; i < btrfs_set.n_copies; i++) {
                BtrfsCopy *copy = &btrfs_set.copies[i];
                uint64_t generation = 0;
                int r = generation_of(copy->source_fd, false, &generation);
                if (r < 0)
                        return btrfs_fail(c, r, "cannot ask for the generation of %s: %s", copy->volume, strerror(-r));
                copy->wanted = generation != copy->transaction;
                if (copy->wanted) {
                        *ret_changed = copy;
                        changed = 1;
                }
        }
        return changed;
}

/* 1: the copy is what it will be; 0 not yet. The place has no other name in it. */
static int name_is_in_tree(const BtrfsCopy *copy, ino_t place) {
        static struct btrfs_ioctl_search_args args;
        args.key = (struct btrfs_ioctl_search_key) { /* tree_id 0: the one of the directory */
                                                     .min_objectid = place,
                                                     .max_objectid = place,
                                                     .min_type = BTRFS_DIR_ITEM_KEY,
                                                     .max_type = BTRFS_DIR_ITEM_KEY,
                                                     .max_offset = UINT64_MAX,
                                                     .max_transid = UINT64_MAX,
                                                     .nr_items = 1
        };
        return ioctl(copy->place.fd, BTRFS_IOC_TREE_SEARCH, &args) < 0 ? -errno : args.key.nr_items > 0;
}

/* Who cannot look waits for the end, as for several. */
static int commit_one(struct vss_call *c) {
        const struct timespec pause = { .tv_nsec = LOOK_NSEC };
        const BtrfsCopy *copy = &btrfs_set.copies[0];
        struct stat st;
        if (fstat(copy->place.fd, &st) < 0)
                return btrfs_fail(c, -errno, "cannot look at the place of the copy of %s: %s", copy->volume,
                                  strerror(errno));
        begin_round(ROUND_TAKE);
        while (round_runs()) {
                int r = name_is_in_tree(copy, st.st_ino);
                if (r > 0)
                        return 0;
                if (r < 0)
                        break;
                (void) clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
        }
        return btrfs_settle(c);
}

int btrfs_settle(struct vss_call *c) {
        end_round();
        return first_failure(c, "take a copy of");
}

int btrfs_commit(void *state, struct vss_call *c) {
        const BtrfsCopy *changed = NULL;
        if (btrfs_set.n_copies == 1)
                return commit_one(c);
        for (unsigned try = 0; try < BTRFS_TRIES_MAX; try++) {
                run_round(ROUND_TAKE);
                int r = first_failure(c, "take a copy of");
                if (r < 0)
                        return r;
                run_round(ROUND_SYNC);
                r = first_failure(c, "sync the file system of");
                if (r >= 0)
                        r = compare_generations(c, &changed);
                if (r <= 0)
                        return r;
                if (now_usec() >= c->deadline_usec)
                        return btrfs_fail(c, -ETIME, "no time is left for another try: %s is being written",
                                          changed->volume);
        }
        return btrfs_fail(
                c, -EXDEV,
                "%u subvolumes are no provable instant, %s was written in all of %d tries: freeze what writes to it, "
                "or take fewer subvolumes",
                btrfs_set.n_copies, changed->volume, (int) BTRFS_TRIES_MAX);
}
