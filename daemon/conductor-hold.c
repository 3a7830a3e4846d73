/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * While file systems are held the event loop stands still: the bus is neither read nor written, so no peer can make
 * vssd allocate or wait, and nothing is opened, started or logged. This loop looks at the guard, the provider hosts and
 * the clock, and at nothing else, until the machine says that everything is released. It allocates nothing; debug
 * builds check that.
 */
#include "daemon/conductor.h"
#include "daemon/manager.h"
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <systemd/sd-daemon.h>

enum {
        POLL_MAX = 2 * PLAN_PROVIDERS_MAX + 2,
        TICK_MSEC = 100,       /* how soon SIGTERM is noticed */
        RESCUE_TICK_MSEC = 20, /* how soon a rescue is */
};

typedef struct PollSet {
        struct pollfd fds[POLL_MAX];
        int provider[POLL_MAX]; /* index, or -1: the guard's socket, -2: the guard's end */
        bool exits[POLL_MAX];   /* it is the pidfd */
        unsigned n;
} PollSet;

static void poll_add(PollSet *p, int fd, int provider, bool exits) {
        if (fd < 0)
                return;
        assert(p->n < POLL_MAX);
        p->fds[p->n] = (struct pollfd) { .fd = fd, .events = POLLIN };
        p->exits[p->n] = exits;
        p->provider[p->n++] = provider;
}

static void poll_fill(PollSet *p, const Conductor *c) {
        p->n = 0;
        if (c->guard && !c->rescuing) {
                poll_add(p, c->guard->child.socket, -1, false);
                poll_add(p, c->guard->child.pidfd, -2, true);
        }
        for (unsigned i = 0; i < c->n_providers; i++) {
                const Host *h = c->providers[i].host;
                if (!h || h->dead)
                        continue;
                poll_add(p, h->process->child.socket, (int) i, false);
                poll_add(p, h->process->child.pidfd, (int) i, true);
        }
}

static int wait_msec(const Conductor *c) {
        uint64_t now = now_usec(), deadline = sequence_deadline(&c->sequence);
        uint64_t limit = c->rescuing ? RESCUE_TICK_MSEC : TICK_MSEC;

        if (deadline <= now)
                return 0;
        return (int) MIN_OF(limit, (deadline - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC);
}

/* SIGTERM waits in the loop's signalfd; what is held must not wait for it. */
static void check_signals(Conductor *c) {
        Failure f = { .condition = CONDITION_CANCELLED, .message = "vssd is being stopped" };
        sigset_t pending;

        if (sigpending(&pending) == 0 && (sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1))
                conductor_feed(c, &(SequenceEvent) { .type = SEQ_EVENT_CANCEL, .now_usec = now_usec(), .forced = true },
                               &f);
}

static void dispatch(Conductor *c, const PollSet *p) {
        for (unsigned i = 0; i < p->n; i++) {
                if (!p->fds[i].revents)
                        continue;
                if (p->provider[i] == -1)
                        conductor_guard_dispatch(c);
                else if (p->provider[i] == -2)
                        conductor_guard_lost(c);
                else if (c->providers[p->provider[i]].host && p->exits[i])
                        host_exited(c->providers[p->provider[i]].host);
                else if (c->providers[p->provider[i]].host)
                        host_dispatch(c->providers[p->provider[i]].host);
        }
}

void conductor_hold(Conductor *c) {
        size_t allocated = mallinfo2().uordblks;
        uint64_t watchdog_usec = 0, fed_usec = now_usec();
        PollSet p;

        (void) sd_watchdog_enabled(0, &watchdog_usec);
        while (sequence_in_hold(&c->sequence)) {
                assert(mallinfo2().uordblks == allocated);
                poll_fill(&p, c);
                if (poll(p.fds, p.n, wait_msec(c)) > 0)
                        dispatch(c, &p);
                if (c->rescuing)
                        conductor_rescue(c);
                if (now_usec() >= sequence_deadline(&c->sequence))
                        conductor_feed(c, &(SequenceEvent) { .type = SEQ_EVENT_TIMER, .now_usec = now_usec() }, NULL);
                check_signals(c);
                if (watchdog_usec && now_usec() - fed_usec > watchdog_usec / 4) {
                        fed_usec = now_usec();
                        (void) sd_notify(0, "WATCHDOG=1");
                }
        }
        (void) allocated;
}
