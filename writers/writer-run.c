/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Run mode: the bus on the calling thread, callbacks on one worker, so that a callback may block while the library
 * still sees an Abort, the lease or the clock. Our own abort goes to the head of the queue. What waits behind a
 * callback and is cancelled is not called any more, except for what brings the application back.
 *
 * The worker never touches the bus. What it wants from it is left in a slot and the loop is woken.
 */
#include "writers/writer-lib.h"
#include "writers/writer-worker.h"
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <systemd/sd-daemon.h>

struct Worker {
        Writer *writer;
        sd_event *event;
        sd_event_source *wake;
        int wake_fd;
        pthread_t thread;
        bool started;
        pthread_mutex_t lock; /* of everything below */
        pthread_cond_t changed;
        struct EventList todo, done; /* by Event.queue */
        Event *running;
        bool stop;
        bool progress_new;
        double progress;
        struct CopyRequest { /* one: there is one worker */
                uint64_t id; /* 0: none */
                const char *volume;
                bool sent, over;
                int fd, result;
        } copy;
        uint64_t last_copy;
        sd_bus_slot *copy_slot; /* loop's thread */
        uint64_t copy_asked;    /* loop's thread: the id that copy_slot is for */
};

static bool may_skip(const Event *e) {
        return atomic_load(&e->cancelled) && e->kind != EVENT_ABORT && e->kind != EVENT_THAW &&
               e->kind != EVENT_BACKUP_SHUTDOWN;
}

static void *worker_main(void *userdata) {
        Worker *k = userdata;

        pthread_mutex_lock(&k->lock);
        for (;;) {
                while (!k->stop && TAILQ_EMPTY(&k->todo))
                        pthread_cond_wait(&k->changed, &k->lock);
                Event *e = TAILQ_FIRST(&k->todo);
                if (!e)
                        break;
                TAILQ_REMOVE(&k->todo, e, queue);
                k->running = e;
                pthread_mutex_unlock(&k->lock);

                e->result = may_skip(e) ? -ECANCELED : event_call(e);

                pthread_mutex_lock(&k->lock);
                k->running = NULL;
                TAILQ_INSERT_TAIL(&k->done, e, queue);
                (void) eventfd_write(k->wake_fd, 1);
        }
        pthread_mutex_unlock(&k->lock);
        return NULL;
}

/* done: answers to OpenCopy come while the callback waits for them. */
static int on_copy(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        Worker *k = userdata;
        int fd = -EBADF, r = event_copy_answer(m, &fd);

        k->copy_slot = sd_bus_slot_unref(k->copy_slot);
        pthread_mutex_lock(&k->lock);
        if (k->copy.id == k->copy_asked && !k->copy.over) {
                k->copy.fd = TAKE_FD(fd);
                k->copy.result = r;
                k->copy.over = true;
                pthread_cond_broadcast(&k->changed);
        }
        pthread_mutex_unlock(&k->lock);
        close_fd(fd); /* nobody waits for it any more */
        return 0;
}

/* With the lock held. */
static void send_copy_request(Worker *k) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
        int r;

        if (k->copy.id == 0 || k->copy.sent)
                return;
        k->copy.sent = true;
        k->copy_asked = k->copy.id;
        k->copy_slot = sd_bus_slot_unref(k->copy_slot);
        r = event_copy_call(k->running, k->copy.volume, &m);
        r = r < 0 ? r : sd_bus_call_async(k->writer->link->bus, &k->copy_slot, m, on_copy, k, COPY_TIMEOUT_USEC);
        if (r < 0) {
                k->copy.result = r;
                k->copy.over = true;
                pthread_cond_broadcast(&k->changed);
        }
}

static int on_wake(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Worker *k = userdata;
        eventfd_t n;
        Event *e;

        (void) eventfd_read(fd, &n);
        pthread_mutex_lock(&k->lock);
        if (k->progress_new && k->running)
                link_progress(k->writer, k->running, k->progress);
        k->progress_new = false;
        send_copy_request(k);
        while ((e = TAILQ_FIRST(&k->done))) {
                TAILQ_REMOVE(&k->done, e, queue);
                pthread_mutex_unlock(&k->lock);
                writer_finish(e, e->result);
                pthread_mutex_lock(&k->lock);
        }
        pthread_mutex_unlock(&k->lock);
        worker_settled(k);
        return 0;
}

int worker_new(Writer *w, sd_event *event, Worker **ret) {
        _cleanup_(worker_freep) Worker *k = calloc(1, sizeof(*k));
        pthread_condattr_t attributes;
        int r;

        if (!k)
                return -ENOMEM;
        k->writer = w;
        k->event = event;
        TAILQ_INIT(&k->todo);
        TAILQ_INIT(&k->done);
        k->copy.fd = -EBADF;
        (void) pthread_mutex_init(&k->lock, NULL);
        (void) pthread_condattr_init(&attributes);
        (void) pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        (void) pthread_cond_init(&k->changed, &attributes);
        (void) pthread_condattr_destroy(&attributes);
        k->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (k->wake_fd < 0)
                return -errno;
        r = sd_event_add_io(event, &k->wake, k->wake_fd, EPOLLIN, on_wake, k);
        if (r < 0)
                return r;
        r = pthread_create(&k->thread, NULL, worker_main, k);
        if (r > 0)
                return -r;
        k->started = true;
        *ret = TAKE_PTR(k);
        return 0;
}

Worker *worker_free(Worker *k) {
        if (!k)
                return NULL;
        if (k->started) {
                pthread_mutex_lock(&k->lock);
                k->stop = true;
                pthread_cond_broadcast(&k->changed);
                pthread_mutex_unlock(&k->lock);
                (void) pthread_join(k->thread, NULL);
        }
        sd_bus_slot_unref(k->copy_slot);
        sd_event_source_disable_unref(k->wake);
        close_fd(k->wake_fd);
        close_fd(k->copy.fd);
        (void) pthread_cond_destroy(&k->changed);
        (void) pthread_mutex_destroy(&k->lock);
        free(k);
        return NULL;
}

void worker_add(Worker *k, Event *e) {
        pthread_mutex_lock(&k->lock);
        if (!e->call) /* our own abort */
                TAILQ_INSERT_HEAD(&k->todo, e, queue);
        else
                TAILQ_INSERT_TAIL(&k->todo, e, queue);
        pthread_cond_broadcast(&k->changed);
        pthread_mutex_unlock(&k->lock);
}

bool worker_is_busy(Worker *k) {
        bool busy;

        pthread_mutex_lock(&k->lock);
        busy = k->running || !TAILQ_EMPTY(&k->todo) || !TAILQ_EMPTY(&k->done);
        pthread_mutex_unlock(&k->lock);
        return busy;
}

void worker_settled(Worker *k) {
        Writer *w = k->writer;

        if (w->stopping && (!w->frozen[0] || w->resume_tries >= RESUME_TRIES_MAX) && !worker_is_busy(k))
                (void) sd_event_exit(k->event, 0);
}

void worker_registered(Worker *k, int error) {
        if (error == 0) {
                k->writer->accepted = true;
                (void) sd_notify(0, "READY=1");
        } else if (!k->writer->accepted && (error == -EACCES || error == -EEXIST || error == -EINVAL))
                (void) sd_event_exit(k->event,
                                     error); /* trying again would not help; later it may: vssd was started anew */
}

void worker_progress(Worker *k, Event *e, double fraction) {
        pthread_mutex_lock(&k->lock);
        k->progress = fraction;
        k->progress_new = true;
        pthread_mutex_unlock(&k->lock);
        (void) eventfd_write(k->wake_fd, 1);
}

int worker_open_copy(Worker *k, Event *e, const char *volume, int *ret_fd) {
        uint64_t until = MIN_OF(e->deadline_usec, usec_add(now_usec(), COPY_TIMEOUT_USEC));
        struct timespec ts = { .tv_sec = (time_t) (until / USEC_PER_SEC),
                               .tv_nsec = (long) (until % USEC_PER_SEC * NSEC_PER_USEC) };
        int r = 0;

        pthread_mutex_lock(&k->lock);
        k->copy = (struct CopyRequest) { .id = ++k->last_copy, .volume = volume, .fd = -EBADF };
        (void) eventfd_write(k->wake_fd, 1);
        while (!k->copy.over && r == 0)
                r = pthread_cond_timedwait(&k->changed, &k->lock, &ts);
        if (k->copy.over)
                r = k->copy.result;
        else
                r = -ETIME;
        if (r >= 0)
                *ret_fd = TAKE_FD(k->copy.fd);
        k->copy = (struct CopyRequest) { .fd = -EBADF };
        pthread_mutex_unlock(&k->lock);
        return r;
}

static void writer_begin_stop(Writer *w) {
        Event *e;

        if (w->stopping)
                return;
        w->stopping = true;
        (void) sd_notify(0, "STOPPING=1");
        writer_resume(w, CONDITION_WRITER_LOST);
        TAILQ_FOREACH(e, &w->events, entries)
                if (e->kind != EVENT_ABORT)
                        event_cancel(e);
        worker_settled(w->worker);
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        writer_begin_stop(userdata);
        return 0;
}

static int on_stop(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        eventfd_t n;

        (void) eventfd_read(fd, &n);
        writer_begin_stop(userdata);
        return 0;
}

static int run_loop(Writer *w) {
        _cleanup_(sd_event_unrefp) sd_event *event = NULL;
        _cleanup_(sd_event_source_disable_unrefp) sd_event_source *term = NULL, *interrupt = NULL, *stop = NULL;
        int r;

        r = sd_event_new(&event);
        r = r < 0 ? r : sd_event_add_signal(event, &term, SIGTERM, on_signal, w);
        r = r < 0 ? r : sd_event_add_signal(event, &interrupt, SIGINT, on_signal, w);
        r = r < 0 ? r : sd_event_add_io(event, &stop, w->stop_fd, EPOLLIN, on_stop, w);
        r = r < 0 ? r : worker_new(w, event, &w->worker);
        r = r < 0 ? r : link_join(event, w);
        r = r < 0 ? r : sd_event_loop(event);

        w->worker = worker_free(w->worker);
        writer_forget_timers(w);
        for (Event *e; (e = TAILQ_FIRST(&w->events));)
                event_free(e);
        if (w->link)
                link_leave(w);
        return r;
}

_public_ int vss_writer_run(struct vss_writer *w) {
        sigset_t ours, before;
        int r;

        if (!w)
                return -EINVAL;
        if (w->link || w->running)
                return -EBUSY;
        (void) sigemptyset(&ours);
        (void) sigaddset(&ours, SIGTERM);
        (void) sigaddset(&ours, SIGINT);
        r = pthread_sigmask(SIG_BLOCK, &ours, &before);
        if (r > 0)
                return -r;
        w->running = true;
        w->stopping = w->accepted = false;
        r = run_loop(w);
        w->running = false;
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
        return r;
}
