/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes any provider fail on purpose: "fault:NAME" behaves like NAME except where VSS_FAULT says otherwise.
 *
 *   VSS_FAULT=RULE[,RULE]…   RULE: CALL:ACTION[:N]
 *   CALL    load probe begin-prepare end-prepare pre-commit hold commit release post-commit pre-final post-final abort
 * list remove mount unmount open diff clear-mark revert ACTION  fail (a veto that may be retried), hang, delay=MSEC
 * (then goes on), die (SIGKILL of the host), garbage (an error the contract does not know, with nonsense as its text) N
 * only the first N times; default always
 *
 * "The first N times" counts over all hosts of one vssd, because most calls get a process of their own; the counters
 * live in a small file on tmpfs named after vssd's process, mapped before the window. Without such a file each process
 * counts for itself.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include "providers/builtin.h"
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { VSSD_SOCKET_FD = 3, RULES_MAX = 32, DELAY_MAX_MSEC = 3600 * 1000, TIMES_MAX = 1000000, GARBAGE_ERRNO = 4711 };

typedef enum FaultCall {
        FAULT_LOAD,
        FAULT_PROBE,
        FAULT_BEGIN_PREPARE,
        FAULT_END_PREPARE,
        FAULT_PRE_COMMIT,
        FAULT_HOLD,
        FAULT_COMMIT,
        FAULT_RELEASE,
        FAULT_POST_COMMIT,
        FAULT_PRE_FINAL,
        FAULT_POST_FINAL,
        FAULT_ABORT,
        FAULT_LIST,
        FAULT_REMOVE,
        FAULT_MOUNT,
        FAULT_UNMOUNT,
        FAULT_OPEN,
        FAULT_DIFF,
        FAULT_CLEAR_MARK,
        FAULT_REVERT,
        _FAULT_CALL_MAX,
} FaultCall;

static const char *const call_names[_FAULT_CALL_MAX] = {
        "load",    "probe",       "begin-prepare", "end-prepare", "pre-commit", "hold",   "commit",
        "release", "post-commit", "pre-final",     "post-final",  "abort",      "list",   "remove",
        "mount",   "unmount",     "open",          "diff",        "clear-mark", "revert",
};

typedef enum FaultAction {
        ACTION_FAIL,
        ACTION_HANG,
        ACTION_DELAY,
        ACTION_DIE,
        ACTION_GARBAGE,
        _ACTION_MAX
} FaultAction;
static const char *const action_names[_ACTION_MAX] = { "fail", "hang", "delay", "die", "garbage" };

typedef struct FaultRule {
        FaultCall call;
        FaultAction action;
        uint64_t delay_usec;
        unsigned long times; /* 0: always */
} FaultRule;

static struct {
        struct vss_provider inner;
        FaultRule rules[RULES_MAX];
        size_t n_rules;
        _Atomic uint32_t own_counters[RULES_MAX];
        _Atomic uint32_t *counters;
} fault;

/* The calls of the vtable are spelt with an underscore there: both spellings are meant. */
static int word_find(const char *const *words, size_t n, const char *s, size_t length) {
        for (size_t i = 0; i < n; i++) {
                size_t k = 0;
                while (k < length && words[i][k] && words[i][k] == (s[k] == '_' ? '-' : s[k]))
                        k++;
                if (k == length && !words[i][k])
                        return (int) i;
        }
        return -EINVAL;
}

/* Digits only, 1 … max. */
static int parse_number(const char *s, unsigned long max, unsigned long *ret) {
        unsigned long n = 0;
        if (isempty(s))
                return -EINVAL;
        for (; *s; s++) {
                if (*s < '0' || *s > '9')
                        return -EINVAL;
                n = n * 10 + (unsigned long) (*s - '0');
                if (n > max)
                        return -ERANGE;
        }
        if (n == 0)
                return -ERANGE;
        *ret = n;
        return 0;
}

static int parse_rule(char *s, FaultRule *ret) {
        FaultRule rule = {};
        char *action = strchr(s, ':'), *value, *times;
        if (!action)
                return -EINVAL;
        int r = word_find(call_names, _FAULT_CALL_MAX, s, (size_t) (action - s));
        if (r < 0)
                return r;
        rule.call = (FaultCall) r;
        times = strchr(++action, ':');
        if (times) {
                *times++ = '\0';
                r = parse_number(times, TIMES_MAX, &rule.times);
                if (r < 0)
                        return r;
        }
        value = strchr(action, '=');
        size_t length = value ? (size_t) (value - action) : strlen(action);
        r = word_find(action_names, _ACTION_MAX, action, length);
        if (r < 0)
                return r;
        rule.action = (FaultAction) r;
        if ((rule.action == ACTION_DELAY) != !!value)
                return -EINVAL;
        if (value) {
                unsigned long msec = 0;
                r = parse_number(value + 1, DELAY_MAX_MSEC, &msec);
                if (r < 0)
                        return r;
                rule.delay_usec = msec * USEC_PER_MSEC;
        }
        *ret = rule;
        return 0;
}

static int parse_rules(Failure *reterr) {
        const char *e = getenv("VSS_FAULT");
        _cleanup_free_ char *copy = strdup(e ? e : "");
        if (!copy)
                return -ENOMEM;
        char *rest = copy;
        for (char *s; !isempty(copy) && (s = strsep(&rest, ","));) {
                char text[80];
                (void) snprintf(text, sizeof(text), "%s", s);
                if (fault.n_rules == RULES_MAX)
                        return failure_set(reterr, CONDITION_LIMIT_REACHED, "VSS_FAULT has more than %d rules",
                                           (int) RULES_MAX);
                if (parse_rule(s, &fault.rules[fault.n_rules]) < 0)
                        return failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                           "VSS_FAULT: rule '%s' is not CALL:fail|hang|delay=MSEC|die|garbage[:N]",
                                           text);
                fault.n_rules++;
        }
        return 0;
}

/* Of vssd, whether it is our parent or not. */
static pid_t vssd_pid(void) {
        struct ucred peer = {};
        socklen_t size = sizeof(peer);
        return getsockopt(VSSD_SOCKET_FD, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 ? getppid() : peer.pid;
}

/* So that a reused process number starts anew. */
static unsigned long long start_time(pid_t pid) {
        char path[64], text[1024];
        unsigned long long start = 0;
        (void) snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
        if (n <= 0)
                return 0;
        text[n] = '\0';
        char *p = strrchr(text, ')'); /* the name before it may hold anything */
        for (int field = 2; p && field < 22; field++)
                p = strchr(p + 1, ' ');
        if (p)
                start = strtoull(p, NULL, 10);
        return start;
}

static void map_counters(void) {
        const char *runtime = secure_getenv("RUNTIME_DIRECTORY");
        char path[LIMIT_PATH_BYTES];
        pid_t pid = vssd_pid();
        int n = snprintf(path, sizeof(path), "%s/fault-%d-%llu", isempty(runtime) ? "/run/vss" : runtime, (int) pid,
                         start_time(pid));
        if (n < 0 || (size_t) n >= sizeof(path))
                return;
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, sizeof(fault.own_counters)) < 0)
                return;
        void *m = mmap(NULL, sizeof(fault.own_counters), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (m != MAP_FAILED)
                fault.counters = m;
}

static _Noreturn void hang(void) {
        for (;;)
                (void) pause();
}

static void delay(uint64_t usec) {
        struct timespec ts = { .tv_sec = (time_t) (usec / USEC_PER_SEC),
                               .tv_nsec = (long) (usec % USEC_PER_SEC * NSEC_PER_USEC) };
        while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
                ;
}

/* 0: go on with the real call. c may be NULL (load has none). */
static int inject(FaultCall call, struct vss_call *c) {
        for (size_t i = 0; i < fault.n_rules; i++) {
                const FaultRule *rule = &fault.rules[i];
                if (rule->call != call)
                        continue;
                if (rule->times > 0 && atomic_fetch_add(&fault.counters[i], 1) >= rule->times)
                        continue;
                switch (rule->action) {
                case ACTION_FAIL:
                        if (c)
                                (void) snprintf(c->message, sizeof(c->message), "%s fails because VSS_FAULT says so",
                                                call_names[call]);
                        return -EAGAIN;
                case ACTION_GARBAGE:
                        if (c)
                                memset(c->message, 0xff, sizeof(c->message)); /* no UTF-8, no end */
                        return -GARBAGE_ERRNO;
                case ACTION_HANG:
                        hang();
                case ACTION_DIE:
                        (void) raise(SIGKILL);
                        hang();
                case ACTION_DELAY:
                default:
                        delay(rule->delay_usec);
                }
        }
        return 0;
}

static int fault_load(void **ret_state) {
        fault.counters = fault.own_counters;
        for (size_t i = 0; i < fault.n_rules; i++)
                if (fault.rules[i].times > 0 && fault.counters == fault.own_counters)
                        map_counters();
        int r = inject(FAULT_LOAD, NULL);
        return r < 0 || !fault.inner.load ? r : fault.inner.load(ret_state);
}

static int fault_probe(void *state, struct vss_call *c, const struct vss_volume *v, struct vss_probe *ret) {
        int r = inject(FAULT_PROBE, c);
        return r < 0 ? r : fault.inner.probe(state, c, v, ret);
}

static int fault_begin_prepare(void *state, struct vss_call *c, const struct vss_volume *v,
                               const struct vss_request *q) {
        int r = inject(FAULT_BEGIN_PREPARE, c);
        return r < 0 ? r : fault.inner.begin_prepare(state, c, v, q);
}

#define DEFINE_STEP(name, CALL) \
        static int fault_##name(void *state, struct vss_call *c) { \
                int r = inject(CALL, c); \
                return r < 0 || !fault.inner.name ? r : fault.inner.name(state, c); \
        } \
        struct base_trailing_semicolon

DEFINE_STEP(end_prepare, FAULT_END_PREPARE);
DEFINE_STEP(pre_commit, FAULT_PRE_COMMIT);
DEFINE_STEP(hold, FAULT_HOLD);
DEFINE_STEP(commit, FAULT_COMMIT);
DEFINE_STEP(release, FAULT_RELEASE);
DEFINE_STEP(post_commit, FAULT_POST_COMMIT);
DEFINE_STEP(pre_final, FAULT_PRE_FINAL);
DEFINE_STEP(post_final, FAULT_POST_FINAL);
DEFINE_STEP(abort, FAULT_ABORT);
DEFINE_STEP(clear_mark, FAULT_CLEAR_MARK);

static int fault_list(void *state, struct vss_call *c, vss_snapshot_fn found, void *userdata) {
        int r = inject(FAULT_LIST, c);
        return r < 0 ? r : fault.inner.list(state, c, found, userdata);
}

static int fault_remove(void *state, struct vss_call *c, const char *snapshot) {
        int r = inject(FAULT_REMOVE, c);
        return r < 0 ? r : fault.inner.remove(state, c, snapshot);
}

static int fault_mount(void *state, struct vss_call *c, const char *snapshot, const char *directory) {
        int r = inject(FAULT_MOUNT, c);
        return r < 0 ? r : fault.inner.mount(state, c, snapshot, directory);
}

static int fault_unmount(void *state, struct vss_call *c, const char *directory) {
        int r = inject(FAULT_UNMOUNT, c);
        return r < 0 ? r : fault.inner.unmount(state, c, directory);
}

static int fault_open(void *state, struct vss_call *c, const char *snapshot) {
        int r = inject(FAULT_OPEN, c);
        return r < 0 ? r : fault.inner.open(state, c, snapshot);
}

static int fault_diff(void *state, struct vss_call *c, const char *since, const char *snapshot, int sink_fd) {
        int r = inject(FAULT_DIFF, c);
        return r < 0 ? r : fault.inner.diff(state, c, since, snapshot, sink_fd);
}

static int fault_revert(void *state, struct vss_call *c, const char *snapshot) {
        int r = inject(FAULT_REVERT, c);
        return r < 0 ? r : fault.inner.revert(state, c, snapshot);
}

int fault_wrap(const struct vss_provider *inner, struct vss_provider *ret, Failure *reterr) {
        int r = parse_rules(reterr);
        if (r < 0)
                return r;
        struct vss_provider p = *inner;
        fault.inner = *inner;
        p.load = fault_load;
        p.probe = fault_probe;
        p.begin_prepare = fault_begin_prepare;
        p.end_prepare = fault_end_prepare;
        p.pre_commit = fault_pre_commit;
        p.hold = fault_hold;
        p.commit = fault_commit;
        p.release = fault_release;
        p.post_commit = fault_post_commit;
        p.pre_final = fault_pre_final;
        p.post_final = fault_post_final;
        p.abort = fault_abort;
        p.list = fault_list;
        p.remove = fault_remove;
        p.mount = inner->mount ? fault_mount : NULL;
        p.unmount = inner->unmount ? fault_unmount : NULL;
        p.open = inner->open ? fault_open : NULL;
        p.diff = inner->diff ? fault_diff : NULL;
        p.clear_mark = fault_clear_mark;
        p.revert = inner->revert ? fault_revert : NULL;
        *ret = p;
        return 0;
}
