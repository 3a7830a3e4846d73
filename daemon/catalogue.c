/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vssd's side of vss-store: a queue, because the store may sleep for minutes on a file system that somebody holds, and
 * vssd never waits. At most one request is in flight; what waits behind it is kept as text and made a memfd when its
 * time comes, so the queue costs memory (bounded) and no descriptors. The newest request for an id takes the place of
 * one that is still queued, whatever that was: only the last state of a record matters.
 *
 * A caller's patience and the request are two things: after REQUEST_USEC the caller is told -ETIMEDOUT, but the record
 * is still written when the store gets to it. A store that dies is started again and gets the request in flight a
 * second time (all of them may be repeated); a request that killed it three times is given up.
 */
#include "daemon/catalogue.h"
#include "daemon/store.h"
#include "protocol/base.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/queue.h>

enum {
        QUEUE_MAX = 1024,   /* requests */
        WAITERS_MAX = 4096, /* callbacks, over all requests */
        TRIES_MAX = 3,
};
#define QUEUE_BYTES_MAX (4 * (size_t) LIMIT_MANIFEST_BYTES)
#define REQUEST_USEC (60 * USEC_PER_SEC)
#define RESPAWN_USEC (1 * USEC_PER_SEC)

typedef struct Waiter {
        TAILQ_ENTRY(Waiter) entries;
        CatalogueDone done;
        void *userdata;
        uint64_t deadline_usec;
        int result;
} Waiter;
TAILQ_HEAD(WaiterList, Waiter);

typedef struct Request {
        TAILQ_ENTRY(Request) entries;
        enum StoreOp op;
        char id[VSS_ID_LENGTH + 1]; /* LOAD: the last one heard of */
        char *text;
        size_t size;
        uint64_t serial;
        unsigned tries;
        bool sent;
        CatalogueRecord record; /* LOAD */
        void *record_userdata;
        int n_records;
        struct WaiterList waiters;
} Request;

struct Catalogue {
        sd_event *event;
        char *directory;
        Child child;
        sd_event_source *socket_source, *pidfd_source, *timer;
        TAILQ_HEAD(, Request) queue; /* the head may be in flight */
        struct WaiterList finished;  /* answered, to be told from the loop */
        sd_event_source *finish_source;
        size_t n_requests, n_waiters, n_bytes;
        uint64_t serial, respawn_at_usec, spawned_usec, paused_usec;
        int refused; /* why HELLO said no */
        bool paused;
};

static void catalogue_pump(Catalogue *c);

static void waiter_finish(Catalogue *c, struct WaiterList *from, Waiter *w, int result) {
        TAILQ_REMOVE(from, w, entries);
        w->result = result;
        TAILQ_INSERT_TAIL(&c->finished, w, entries);
        (void) sd_event_source_set_enabled(c->finish_source, SD_EVENT_ON);
}

static void request_finish_waiters(Catalogue *c, Request *q, int result) {
        Waiter *w;

        while ((w = TAILQ_FIRST(&q->waiters)))
                waiter_finish(c, &q->waiters, w, result);
}

static void request_remove(Catalogue *c, Request *q) {
        assert(TAILQ_EMPTY(&q->waiters));
        TAILQ_REMOVE(&c->queue, q, entries);
        c->n_requests--;
        c->n_bytes -= q->size;
        free(q->text);
        free(q);
}

/* Callbacks may queue, forget or be the last anybody hears of us, so each one is taken off its list before it is
 * called. */
static int on_finish(sd_event_source *source, void *userdata) {
        Catalogue *c = userdata;
        Waiter *w = TAILQ_FIRST(&c->finished);

        if (!w)
                return sd_event_source_set_enabled(source, SD_EVENT_OFF);
        TAILQ_REMOVE(&c->finished, w, entries);
        c->n_waiters--;
        if (w->done)
                w->done(w->result, w->userdata);
        free(w);
        return 0;
}

/* The next thing the clock has to do: a respawn or the end of somebody's patience. */
static void catalogue_arm(Catalogue *c) {
        uint64_t next = c->child.pid > 0 || c->paused || TAILQ_EMPTY(&c->queue) ? USEC_INFINITY : c->respawn_at_usec;
        Request *q;
        Waiter *w;

        TAILQ_FOREACH(q, &c->queue, entries)
                TAILQ_FOREACH(w, &q->waiters, entries)
                        next = c->paused ? next : MIN_OF(next, w->deadline_usec);
        (void) sd_event_source_set_time(c->timer, next);
        (void) sd_event_source_set_enabled(c->timer, next == USEC_INFINITY ? SD_EVENT_OFF : SD_EVENT_ONESHOT);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata) {
        Catalogue *c = userdata;
        uint64_t now = now_usec();
        Waiter *w, *next;
        Request *q;

        TAILQ_FOREACH(q, &c->queue, entries)
                for (w = TAILQ_FIRST(&q->waiters); w; w = next) {
                        next = TAILQ_NEXT(w, entries);
                        if (w->deadline_usec <= now && !c->paused)
                                waiter_finish(c, &q->waiters, w, -ETIMEDOUT);
                }
        catalogue_pump(c);
        return 0;
}

static void catalogue_drop_child(Catalogue *c) {
        c->socket_source = sd_event_source_disable_unref(c->socket_source);
        c->pidfd_source = sd_event_source_disable_unref(c->pidfd_source);
        child_done(&c->child);
        c->child = CHILD_NULL;
}

/* The store is gone or does not keep to the wire. Whatever was in flight is sent again to the next one. */
static void catalogue_store_gone(Catalogue *c) {
        Request *q = TAILQ_FIRST(&c->queue);

        child_kill(&c->child);
        catalogue_drop_child(c);
        c->respawn_at_usec = now_usec() < c->spawned_usec + RESPAWN_USEC ? now_usec() + RESPAWN_USEC : 0;
        if (!q)
                return;
        if (c->refused < 0) {
                while ((q = TAILQ_FIRST(&c->queue))) {
                        request_finish_waiters(c, q, c->refused);
                        request_remove(c, q);
                }
                return;
        }
        if (!q->sent)
                return;
        q->sent = false;
        if (++q->tries < TRIES_MAX)
                return;
        request_finish_waiters(c, q, -EIO);
        request_remove(c, q);
}

/* A copy, so that the store cannot change under us what we parse. */
static int read_text(int fd, uint64_t size, char **ret) {
        _cleanup_free_ char *text = NULL;

        if (fd < 0 || size > LIMIT_MANIFEST_BYTES)
                return -EBADMSG;
        text = malloc(size + 1);
        if (!text)
                return -ENOMEM;
        for (uint64_t done = 0; done < size;) {
                ssize_t n = pread(fd, text + done, size - done, (off_t) done);
                if (n <= 0)
                        return -EBADMSG;
                done += (uint64_t) n;
        }
        text[size] = '\0';
        *ret = TAKE_PTR(text);
        return 0;
}

static int catalogue_take_record(Request *q, const struct StoreReply *reply, int fd) {
        _cleanup_free_ char *text = NULL;
        int r = reply->result;

        if (r >= 0) {
                if (!id_is_valid(reply->id))
                        return -EBADMSG;
                r = read_text(fd, reply->size, &text);
                if (r == -EBADMSG)
                        return r;
        }
        if (id_is_valid(reply->id))
                memcpy(q->id, reply->id, sizeof(q->id));
        q->n_records++;
        if (q->record)
                q->record(reply->id, r < 0 ? NULL : text, MIN_OF(r, 0), q->record_userdata);
        return 0;
}

static int catalogue_take_reply(Catalogue *c, const struct StoreReply *reply, int fd) {
        Request *q = TAILQ_FIRST(&c->queue);

        if (reply->op == STORE_HELLO) {
                c->refused = MIN_OF(reply->result, 0);
                return c->refused < 0 ? -EPIPE : 0;
        }
        if (!q || !q->sent || reply->serial != q->serial || reply->op != (uint32_t) q->op)
                return -EBADMSG;
        if (reply->more)
                return q->op == STORE_LOAD ? catalogue_take_record(q, reply, fd) : -EBADMSG;
        request_finish_waiters(c, q,
                               q->op == STORE_LOAD && reply->result >= 0 ? q->n_records : MIN_OF(reply->result, 0));
        request_remove(c, q);
        return 0;
}

/* 1: took one; 0: nothing there; negative: nothing more will come. */
static int catalogue_receive(Catalogue *c) {
        struct StoreReply reply;
        _cleanup_close_ int reply_fd = -EBADF;
        int r = child_receive(c->child.socket, &reply, sizeof(reply), &reply_fd);

        if (r <= 0)
                return r;
        reply.id[sizeof(reply.id) - 1] = '\0';
        r = catalogue_take_reply(c, &reply, reply_fd);
        return r < 0 ? r : 1;
}

static int on_socket(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Catalogue *c = userdata;
        int r = catalogue_receive(c);

        if (r < 0) {
                /* Its exit is the pidfd's to tell: until then it may still hold the lock. */
                child_kill(&c->child);
                c->socket_source = sd_event_source_disable_unref(c->socket_source);
        } else if (r > 0)
                catalogue_pump(c);
        return 0;
}

static int on_pidfd(sd_event_source *source, int fd, uint32_t revents, void *userdata) {
        Catalogue *c = userdata;
        int status;

        if (!child_reap(&c->child, &status))
                return 0;
        while (c->socket_source && catalogue_receive(c) > 0) /* its last words */
                ;
        catalogue_store_gone(c);
        catalogue_pump(c);
        return 0;
}

static int catalogue_spawn(Catalogue *c) {
        char program[LIMIT_PATH_BYTES];
        char *argv[] = { program, c->directory, NULL };
        Child child = CHILD_NULL;
        int r;

        r = child_program_path("vss-store", program, sizeof(program));
        if (r < 0)
                return r;
        c->spawned_usec = now_usec();
        r = child_spawn(argv, 0, &child);
        if (r < 0)
                return r;
        c->child = child;
        c->refused = 0;
        r = sd_event_add_io(c->event, &c->socket_source, c->child.socket, EPOLLIN, on_socket, c);
        if (r >= 0)
                r = sd_event_add_io(c->event, &c->pidfd_source, c->child.pidfd, EPOLLIN, on_pidfd, c);
        if (r < 0) {
                child_kill(&c->child);
                catalogue_drop_child(c);
        }
        return r;
}

static int request_memfd(const Request *q, int *ret) {
        _cleanup_close_ int fd = memfd_create("vss-record", MFD_CLOEXEC);

        if (fd < 0)
                return -errno;
        for (size_t done = 0; done < q->size;) {
                ssize_t n = pwrite(fd, q->text + done, q->size - done, (off_t) done);
                if (n < 0)
                        return -errno;
                done += (size_t) n;
        }
        *ret = TAKE_FD(fd);
        return 0;
}

static int request_send(Catalogue *c, Request *q) {
        struct StoreRequest message = { .op = q->op, .serial = ++c->serial, .size = q->size };
        _cleanup_close_ int fd = -EBADF;
        int r = 0;

        memcpy(message.id, q->id, sizeof(message.id));
        if (q->op == STORE_PUT)
                r = request_memfd(q, &fd);
        if (r >= 0)
                r = child_send(c->child.socket, &message, sizeof(message), fd);
        if (r < 0)
                return r;
        q->serial = message.serial;
        q->sent = true;
        return 0;
}

/* Does whatever can be done now: start a store, send the head of the queue. */
static void catalogue_pump(Catalogue *c) {
        Request *q = TAILQ_FIRST(&c->queue);
        int r;

        if (c->paused)
                q = NULL;
        if (q && c->child.pid == 0 && now_usec() >= c->respawn_at_usec) {
                r = catalogue_spawn(c);
                if (r < 0)
                        c->respawn_at_usec = now_usec() + RESPAWN_USEC;
        }
        if (q && !q->sent && c->child.pid > 0 && c->socket_source) {
                r = request_send(c, q);
                if (r < 0 && r != -EPIPE) { /* EPIPE: the pidfd tells, and it goes to the next store */
                        request_finish_waiters(c, q, r);
                        request_remove(c, q);
                        catalogue_pump(c);
                        return;
                }
        }
        catalogue_arm(c);
}

int catalogue_new(sd_event *event, const char *state_directory, Catalogue **ret) {
        Catalogue *c;
        int r;

        assert(event && state_directory && ret);
        c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;
        c->child = CHILD_NULL;
        TAILQ_INIT(&c->queue);
        TAILQ_INIT(&c->finished);
        c->event = sd_event_ref(event);
        c->directory = strdup(state_directory);
        r = c->directory ? 0 : -ENOMEM;
        if (r >= 0)
                r = sd_event_add_time(event, &c->timer, CLOCK_MONOTONIC, USEC_INFINITY, 0, on_timer, c);
        if (r >= 0)
                r = sd_event_add_defer(event, &c->finish_source, on_finish, c);
        if (r >= 0)
                r = catalogue_spawn(c);
        if (r < 0) {
                (void) catalogue_free(c);
                return r;
        }
        (void) sd_event_source_set_enabled(c->timer, SD_EVENT_OFF);
        *ret = c;
        return 0;
}

static void waiters_free(struct WaiterList *list) {
        Waiter *w;

        while ((w = TAILQ_FIRST(list))) {
                TAILQ_REMOVE(list, w, entries);
                free(w);
        }
}

Catalogue *catalogue_free(Catalogue *c) {
        Request *q;

        if (!c)
                return NULL;
        catalogue_drop_child(c); /* it finishes what it was sent, then reads EOF */
        while ((q = TAILQ_FIRST(&c->queue))) {
                waiters_free(&q->waiters);
                request_remove(c, q);
        }
        waiters_free(&c->finished);
        sd_event_source_disable_unref(c->timer);
        sd_event_source_disable_unref(c->finish_source);
        sd_event_unref(c->event);
        free(c->directory);
        free(c);
        return NULL;
}

static int request_add_waiter(Catalogue *c, Request *q, CatalogueDone done, void *userdata) {
        Waiter *w;

        if (!done)
                return 0;
        if (c->n_waiters >= WAITERS_MAX)
                return -ENOBUFS;
        w = calloc(1, sizeof(*w));
        if (!w)
                return -ENOMEM;
        *w = (Waiter) { .done = done, .userdata = userdata, .deadline_usec = now_usec() + REQUEST_USEC };
        TAILQ_INSERT_TAIL(&q->waiters, w, entries);
        c->n_waiters++;
        return 0;
}

/* The last request about this record, if it is not on its way yet. */
static Request *catalogue_find_queued(Catalogue *c, const char *id) {
        Request *q, *found = NULL;

        TAILQ_FOREACH(q, &c->queue, entries)
                if (q->op != STORE_LOAD && streq(q->id, id))
                        found = q;
        return found && !found->sent ? found : NULL;
}

static int catalogue_append(Catalogue *c, enum StoreOp op, const char *id, Request **ret) {
        Request *q;

        if (c->n_requests >= QUEUE_MAX)
                return -ENOBUFS;
        q = calloc(1, sizeof(*q));
        if (!q)
                return -ENOMEM;
        q->op = op;
        (void) snprintf(q->id, sizeof(q->id), "%s", id);
        TAILQ_INIT(&q->waiters);
        TAILQ_INSERT_TAIL(&c->queue, q, entries);
        c->n_requests++;
        *ret = q;
        return 0;
}

static int catalogue_change(Catalogue *c, enum StoreOp op, const char *id, const char *text, CatalogueDone done,
                            void *userdata) {
        _cleanup_free_ char *copy = text ? strdup(text) : NULL;
        size_t size = text ? strlen(text) : 0;
        bool added = false;
        Request *q;
        int r;

        if (text && !copy)
                return -ENOMEM;
        q = catalogue_find_queued(c, id);
        if (c->n_bytes - (q ? q->size : 0) + size > QUEUE_BYTES_MAX)
                return -ENOBUFS;
        if (!q) {
                r = catalogue_append(c, op, id, &q);
                if (r < 0)
                        return r;
                added = true;
        }
        r = request_add_waiter(c, q, done, userdata);
        if (r < 0) {
                if (added)
                        request_remove(c, q);
                return r;
        }
        q->op = op;
        c->n_bytes = c->n_bytes - q->size + size;
        q->size = size;
        free(q->text);
        q->text = TAKE_PTR(copy);
        catalogue_pump(c);
        return 0;
}

int catalogue_put(Catalogue *c, const char *id, const char *text, CatalogueDone done, void *userdata) {
        if (!id_is_valid(id))
                return -EINVAL;
        if (strlen(text) > LIMIT_MANIFEST_BYTES)
                return -EFBIG;
        return catalogue_change(c, STORE_PUT, id, text, done, userdata);
}

int catalogue_remove(Catalogue *c, const char *id, CatalogueDone done, void *userdata) {
        if (!id_is_valid(id))
                return -EINVAL;
        return catalogue_change(c, STORE_REMOVE, id, NULL, done, userdata);
}

int catalogue_load(Catalogue *c, CatalogueRecord record, CatalogueDone done, void *userdata) {
        Request *q;
        int r = catalogue_append(c, STORE_LOAD, "", &q);

        if (r < 0)
                return r;
        q->record = record;
        q->record_userdata = userdata;
        r = request_add_waiter(c, q, done, userdata);
        if (r < 0) {
                request_remove(c, q);
                return r;
        }
        catalogue_pump(c);
        return 0;
}

static void waiters_forget(struct WaiterList *list, void *userdata) {
        Waiter *w;

        TAILQ_FOREACH(w, list, entries)
                if (w->userdata == userdata)
                        w->done = NULL;
}

void catalogue_forget(Catalogue *c, void *userdata) {
        Request *q;

        TAILQ_FOREACH(q, &c->queue, entries) {
                waiters_forget(&q->waiters, userdata);
                if (q->record_userdata == userdata)
                        q->record = NULL;
        }
        waiters_forget(&c->finished, userdata);
}

/* What stands still on our own account is not the store's delay. */
static void catalogue_extend(Catalogue *c, uint64_t usec) {
        Request *q;
        Waiter *w;

        TAILQ_FOREACH(q, &c->queue, entries)
                TAILQ_FOREACH(w, &q->waiters, entries)
                        w->deadline_usec = usec_add(w->deadline_usec, usec);
}

void catalogue_pause(Catalogue *c, bool paused) {
        if (paused && !c->paused)
                c->paused_usec = now_usec();
        else if (!paused && c->paused)
                catalogue_extend(c, now_usec() - c->paused_usec);
        c->paused = paused;
        if (!paused)
                catalogue_pump(c);
}

bool catalogue_is_idle(const Catalogue *c) {
        return TAILQ_EMPTY(&c->queue) && TAILQ_EMPTY(&c->finished);
}
