/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * vss-guard from the inside. Two processes of equal rank: the first talks to vssd, freezes and thaws; the second,
 * forked before the first starts its threads, holds the same descriptors and only ever thaws, when the first is dead or
 * late. Both have one thread per file system, made before the window, because no call into a file system that is being
 * frozen can be bounded: whoever makes one must have nothing else to do.
 */
#include "daemon/guard.h"
#include <pthread.h>
#include <semaphore.h>
#include <sys/types.h>

enum {
        GUARD_STACK_BYTES = 128 * 1024, /* of a thread; locked, so 64 of them are 8 MiB */
        GUARD_RETRY_MSEC = 50,          /* between two FITHAW of what would not thaw */
        GUARD_LATE_MSEC = 1000,         /* a FIFREEZE older than this is looked into */
        GUARD_ANSWER_MSEC = 200,        /* after a deadline: what has not thawed by now is reported as in flight */
        GUARD_SECOND_MSEC = 100,        /* after a deadline: the first is late, the second thaws */
        GUARD_KILL_MSEC = 2000, /* after a deadline, with nothing held: a first that says nothing is stopped for good */
        GUARD_SECOND_READY_MSEC = 2000,
        GUARD_LEVEL_MAX = 1024,
        GUARD_FLUSH_PASSES = 8,
        GUARD_FLUSH_ENOUGH_USEC = 2000, /* a pass as short as this leaves nothing to gain */
};

typedef enum GuardOrder { GUARD_ORDER_NONE, GUARD_ORDER_FLUSH, GUARD_ORDER_FREEZE, GUARD_ORDER_GONE } GuardOrder;

typedef enum GuardPhase {
        GUARD_COLLECTING, /* ADD */
        GUARD_ARMED,
        GUARD_FLUSHING,
        GUARD_HOLDING, /* level by level */
        GUARD_HOLDS,
        GUARD_UNDOING,   /* the hold failed: HELD is owed once everything is thawed again */
        GUARD_RELEASING, /* RELEASED is owed, asked for or not */
        GUARD_DONE,
} GuardPhase;

struct GuardProgram;

typedef struct GuardVolume {
        struct GuardProgram *program;
        uint32_t index, level;
        int fd;
        uint64_t dev;
        uint32_t flags; /* GUARD_MAPPED, GUARD_WATCHED */
        GuardDm dm;
        sem_t go;               /* posted whenever there may be something to do */
        _Atomic uint32_t order; /* set by the main thread, back to NONE by the volume's own thread when done */
        _Atomic int32_t flush_result;
        _Atomic uint64_t last_pass_usec;
        char *held_mark; /* its byte in RUNTIME/held/SET */
        char mount_point[LIMIT_PATH_BYTES];
} GuardVolume;

/* Shared by the first and the second, never with vssd. */
typedef struct GuardPair {
        /*
         * Robust, locked by the first's main thread for as long as it lives. A first killed while one of its threads is
         * inside FIFREEZE is not dead for its pidfd or its sockets, but its main thread is, and this says so.
         */
        pthread_mutex_t alive;
        _Atomic uint64_t
                deadline_boot_usec; /* CLOCK_BOOTTIME: a suspended machine's hold ends when it wakes up; 0: none */
        _Atomic int32_t reason;     /* positive errno: why the hold was cancelled; the first one wins */
        _Atomic uint32_t second_ready;
        _Atomic uint32_t published; /* RUNTIME/held/SET is ours */
} GuardPair;

typedef struct GuardProgram {
        char set[VSS_ID_LENGTH + 1];
        const char *runtime_directory;
        int socket, signals, wake, wake_second, timer, proc, held_dir, held_file, first_pidfd, second_pidfd, dm_control;
        int knob, knob_record; /* guard-expedite.c; -EBADF: not to be used */
        pid_t first_pid, second_pid, vssd_pid;
        bool kill_stuck; /* owners of an io_uring that may keep a freeze waiting */
        struct GuardShared *shared;
        GuardPair *pair;
        GuardPhase phase;
        uint32_t n_volumes, level; /* level: the one being frozen */
        bool leaving;              /* EOF or EXIT */
        bool owes_release;         /* RELEASED is to be sent, asked for or not */
        size_t allocated;          /* bytes of heap when the hold began: not one more when it ends */
        _Atomic uint32_t releasing;
        _Atomic uint32_t first_gone; /* the second's knowledge: no thread of the first exists any more */
        int failure;                 /* first error of ADD, or of the phase that runs */
        uint32_t failure_index;
        uint64_t level_begin_usec, answer_by_usec, flush_deadline_usec;
        sem_t scout; /* posted to have the blockers looked for */
        _Atomic uint32_t scout_asked, scout_done;
        char notes[LIMIT_MESSAGE_BYTES];    /* what could not be prepared; goes into ARMED */
        char blockers[LIMIT_MESSAGE_BYTES]; /* the scout's; read only when scout_done */
        GuardVolume volumes[LIMIT_VOLUMES];
} GuardProgram;

/* guard.c */
void guard_wake(GuardProgram *p);
/* Everything held is to be thawed now: by the deadline, a signal, EOF, a failure. Callable from any thread. */
void guard_cancel(GuardProgram *p, int reason, bool forced);
static inline bool guard_state_is_busy(uint32_t state) {
        return state == GUARD_FS_FREEZING || state == GUARD_FS_HELD || state == GUARD_FS_THAWING;
}
bool guard_is_busy(const GuardProgram *p);
/* Resumes what is suspended below it, then thaws; 0 or -errno. */
int guard_let_go(const GuardVolume *v);
bool guard_is_through(const GuardProgram *p); /* no order to freeze is open and nothing is held or in flight */
void guard_fail(GuardProgram *p, int error, uint32_t index); /* the first failure is the one reported */

/* guard-hold.c */
void guard_reply(GuardProgram *p, uint32_t op, int result, uint32_t index, int fd);
void hold_flush(GuardProgram *p, uint64_t deadline_usec);
void hold_begin(GuardProgram *p, uint64_t deadline_usec);
void hold_release(GuardProgram *p);
void hold_advance(GuardProgram *p);
uint64_t hold_next_usec(const GuardProgram *p); /* CLOCK_MONOTONIC; USEC_INFINITY: only when woken */

/* guard-cgroup.c: from the first control group that comes, this is all that the program does. */
_Noreturn void guard_cgroups(GuardProgram *p, const struct GuardRequest *first, int fd);

/* guard-prepare.c: memory, priority, mounts, capabilities. What fails is noted, not fatal. */
void guard_note(GuardProgram *p, const char *what, int error);
int guard_open_surroundings(GuardProgram *p);
void guard_prepare(GuardProgram *p);
void guard_lock_memory(GuardProgram *p);

/* guard-expedite.c: grace periods are short while we hold. Begin and end take no time and may be called at any time. */
void guard_expedite_open(GuardProgram *p);
void guard_expedite_begin(GuardProgram *p);
void guard_expedite_end(GuardProgram *p);
void guard_expedite_release_leftovers(const char *runtime_directory);

/* guard-threads.c */
int guard_threads_start(GuardProgram *p);
int guard_thread_new(void *(*run)(void *), void *argument);
void guard_order(GuardVolume *v, GuardOrder order);
void guard_sleep_msec(unsigned msec);

/* guard-second.c */
int guard_second_fork(GuardProgram *p);

/* guard-held.c: RUNTIME/held/SET. Locked while a guard of the set lives; one line per file system, its first byte says
 * held. */
enum { GUARD_MARK_FREE = '-', GUARD_MARK_HELD = 'h', GUARD_MARK_MAPPED = 'm', GUARD_MARK_WATCHED = 'w' };
int guard_held_open(GuardProgram *p);
int guard_held_publish(GuardProgram *p);
void guard_held_remove(GuardProgram *p);
typedef struct HeldEntry {
        uint64_t dev;
        char mount_point[LIMIT_PATH_BYTES];
        bool held, mapped; /* to be thawed; to be resumed before */
} HeldEntry;
typedef struct HeldFile {
        pid_t pids[2];
        uint64_t start_times[2];
        HeldEntry entries[LIMIT_VOLUMES];
        uint32_t n_entries;
} HeldFile;
int held_file_parse(char *text, HeldFile *ret);
void held_path_unescape(char *path); /* in place */
int process_start_time(int proc_fd, pid_t pid, char *ret_state, uint64_t *ret_start_time);

/* guard-leftovers.c: vss-guard --release-leftovers; returns the exit status. */
int guard_leftovers_main(const char *runtime_directory);

/* guard-blockers.c */
void *guard_scout_run(void *program);
