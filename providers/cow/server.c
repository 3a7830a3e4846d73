/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Beginning: the store and the origins are opened anew and locked, which succeeds when the last write of a dead
 * predecessor has ended (hazards D7, D13); then the log is replayed; then what the predecessor left in the slots is
 * carried out or answered; and only then new requests are taken. So nothing old can land on something newer.
 */
#include "providers/cow/server.h"
#include "providers/cow/origin.h"
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

enum {
        CLAIM_SECONDS = 60, /* a disk that takes longer for a request has other problems */
        EVENTS_MAX = 16,
        BUSY_ROUNDS = 32,        /* of requests before somebody else is looked at */
        HELD_ROUND_MSEC = 250,   /* while a gate is closed, whatever the timer does: nobody else can open it */
        STAMP_DELAY_MSEC = 1000, /* after a write to a superblock */
};

/* epoll data: a pointer to a Connection, or one of these */
enum { EVENT_RING = 1, EVENT_FUSE, EVENT_CONTROL, EVENT_HOLDER, EVENT_TIMER, EVENT_MAX };

/*
 * The first server cannot begin: whoever started it is told. A later one has devices to serve that may be mounted, and
 * what stands in its way (no memory, a disk that is away) may pass: its requests wait for the next one.
 */
static _Noreturn void server_refuse(Server *s, int status, const char *why) {
        HolderRequest q = { .op = HOLDER_READY, .disk = (uint32_t) status };
        if (s->map.shared && s->map.shared->initialized) {
                char line[512];
                int n = snprintf(line, sizeof(line), "<3>vss-cow: volumes stand still: %s\n", why);
                if (s->start->kmsg >= 0)
                        (void) !write(s->start->kmsg, line, (size_t) MIN_OF(n, (int) sizeof(line) - 1));
                _exit(1);
        }
        (void) snprintf(q.path, sizeof(q.path), "%s", why);
        (void) message_send(s->start->holder, &q, sizeof(q), -1);
        _exit(SERVER_REFUSED);
}

/* --- disks -------------------------------------------------------------------------------------------------------- */

static int file_bytes(int fd, uint64_t *ret) {
        struct stat st;
        if (fstat(fd, &st) < 0)
                return -errno;
        *ret = (uint64_t) st.st_size;
        return S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, ret) < 0 ? -errno : 0;
}

int server_claim(Server *s, unsigned disk, int path_fd, uint64_t deadline_usec) {
        int fd = file_claim(path_fd, deadline_usec);
        if (fd < 0)
                return fd;
        int r = ring_set_file(s->ring, disk, fd);
        if (r < 0) {
                (void) close_fd(fd);
                return r;
        }
        s->fds[disk] = fd;
        return 0;
}

void server_let_go(Server *s, unsigned disk) {
        if (disk < DISK_FIRST_ORIGIN)
                return;
        Origin *o = &s->map.shared->origins[disk];
        o->attached = 0;
        (void) ring_set_file(s->ring, disk, -1);
        s->fds[disk] = close_fd(s->fds[disk]);
        HolderRequest q = { .op = HOLDER_CLOSE_ORIGIN, .disk = disk };
        (void) message_send(s->start->holder, &q, sizeof(q), -1);
}

Node *server_node_of(Server *s, const Volume *v) {
        VolumeInfo info;
        engine_volume_info(v, &info);
        Node *n = node_by_name(s->map.shared, info.name);
        return n && n->kind == NODE_VOLUME && n->volume == info.number ? n : NULL;
}

/* --- the holder --------------------------------------------------------------------------------------------------- */

void server_ask_holder(Server *s, Call *c, HolderOp op, unsigned disk, unsigned node, const char *path,
                       void (*next)(Call *c, const HolderReply *p, int fd)) {
        HolderRequest q = {
                .op = op, .disk = disk, .node = node, .cookie = ++s->next_cookie, .bytes = c ? c->bytes : 0
        };
        if (path)
                (void) snprintf(q.path, sizeof(q.path), "%s", path);
        if (c && (op == HOLDER_OPEN_ORIGIN || op == HOLDER_COMPARE))
                memcpy(q.identity, c->identity, sizeof(q.identity));
        if (c) {
                c->cookie = q.cookie;
                c->next_holder = next;
        }
        int r = message_send(s->start->holder, &q, sizeof(q), -1);
        if (r < 0 && c) {
                HolderReply p = { .cookie = q.cookie, .result = r };
                (void) snprintf(p.text, sizeof(p.text), "the holder does not listen: %s", strerror(-r));
                c->cookie = 0;
                next(c, &p, -1);
        }
}

/* c: NULL when it was a predecessor who asked. */
static void device_added(Server *s, Call *c, unsigned node) {
        int r = node < NODES ? s->front->serve(s->front, &s->map.shared->nodes[node]) : -EINVAL;
        if (c)
                c->served = r;
}

static void device_made(Call *c, HolderReply *p) {
        if (p->result == 0 && c->served < 0) {
                p->result = c->served;
                (void) snprintf(p->text, sizeof(p->text), "the requests of its ublk device cannot be taken: %s",
                                strerror(-c->served));
        }
        c->served = 0;
}

static void holder_readable(Server *s) {
        HolderReply p;
        int fd = -1, r;
        while ((r = message_receive(s->start->holder, &p, sizeof(p), &fd)) == 1) {
                Call *c;
                p.text[sizeof(p.text) - 1] = '\0';
                LIST_FOREACH(c, &s->calls, link)
                        if (c->cookie && c->cookie == p.cookie)
                                break;
                if (p.more)
                        device_added(s, c, p.more - 1);
                else if (c) {
                        c->cookie = 0;
                        device_made(c, &p);
                        c->next_holder(c, &p, fd);
                } else
                        fd = close_fd(fd);
        }
        if (r < 0)
                _exit(1); /* it cannot be: it outlives us */
}

bool server_asks_for(const Server *s, const Node *n) {
        const Call *c;
        LIST_FOREACH(c, &s->calls, link)
                if (c->cookie && c->node == (unsigned) (n - s->map.shared->nodes))
                        return true;
        return false;
}

void server_sweep_nodes(Server *s) {
        SnapshotInfo info;
        for (unsigned i = 0; i < NODES; i++) {
                Node *n = &s->map.shared->nodes[i];
                if (n->kind == NODE_OVERLAY)
                        server_sweep_overlay(s, n);
                if (n->kind != NODE_COPY || engine_snapshot_info(s->engine, n->snapshot, &info))
                        continue;
                if (node_has_device(n))
                        server_ask_holder(s, NULL, HOLDER_DROP_DEVICE, 0, i, NULL, NULL);
                else if (!server_asks_for(s, n))
                        node_free(n);
        }
}

/* --- events of the engine ----------------------------------------------------------------------------------------- */

static void engine_event(void *userdata, EngineEvent event, const uint8_t id[16], const char *text) {
        static const char *const words[ENGINE_EVENT_MAX] = {
                [ENGINE_STORE_LOST] = "the store is lost, its snapshots are void, volumes go on",
                [ENGINE_SNAPSHOT_DROPPED] = "a snapshot was dropped",
                [ENGINE_SNAPSHOT_DAMAGED] = "a snapshot is damaged",
                [ENGINE_FLUSH_FAILED] = "a volume cannot be flushed",
                [ENGINE_STORE_LOW] = "the store is nearly full",
        };
        char line[512];
        int n = snprintf(line, sizeof(line), "<3>vss-cow: %s: %s\n", words[event] ?: "event", text);
        const Server *s = userdata;
        if (s->start->kmsg >= 0)
                (void) !write(s->start->kmsg, line, (size_t) MIN_OF(n, (int) sizeof(line) - 1));
}

/* --- beginning ---------------------------------------------------------------------------------------------------- */

typedef struct Waiting {
        Reply reply;
        bool came;
        int result;
} Waiting;

static void waiting_came(Reply *r, int result) {
        Waiting *w = r->owner;
        w->came = true;
        w->result = result;
}

static Reply *waiting_begin(Waiting *w) {
        *w = (Waiting) { .reply = { .done = waiting_came, .owner = w } };
        return &w->reply;
}

static int waiting_end(Server *s, Waiting *w) {
        while (!w->came) {
                int r = ring_wait(s->ring);
                if (r < 0)
                        return r;
        }
        return w->result;
}

/* Without claiming it: the size of a store does not change while it is served. */
static int store_bytes(Server *s) {
        char proc[32];
        (void) snprintf(proc, sizeof(proc), "/proc/self/fd/%d", s->start->store);
        _cleanup_close_ int fd = open(proc, O_RDONLY | O_CLOEXEC);
        return fd < 0 ? -errno : file_bytes(fd, &s->store_bytes);
}

/* All memory is taken first: meanwhile the kernel ends what the predecessor has left with its disks. */
static void engine_begin(Server *s) {
        EngineOptions o = { .event = engine_event, .userdata = s, .shared = &s->map.shared->engine };
        char why[HOLDER_PATH_MAX];
        Waiting w;
        int r = ring_new(&s->ring);
        r = r < 0 ? r : store_bytes(s);
        if (r == 0) {
                (void) ring_register_memory(s->ring, s->map.areas, (size_t) SLOTS * SLOT_BYTES);
                o.disk = ring_disk(s->ring);
                o.store_bytes = s->store_bytes;
                if (engine_new(&o, &s->engine) < 0)
                        server_refuse(s, 1, "out of memory");
                r = server_claim(s, DISK_STORE, s->start->store, now_usec() + CLAIM_SECONDS * USEC_PER_SEC);
        }
        if (r < 0) {
                (void) snprintf(why, sizeof(why), "the store cannot be opened: %s",
                                r == -EWOULDBLOCK ? "another vss-cow has it" : strerror(-r));
                server_refuse(s, r == -EWOULDBLOCK || r == -EBUSY ? 8 : 1, why);
        }
        engine_open(s->engine, waiting_begin(&w));
        r = waiting_end(s, &w);
        if (r < 0)
                server_refuse(s,
                              r == -EUCLEAN         ? 11 :
                              r == -EPROTONOSUPPORT ? 10 :
                                                      1,
                              w.reply.message[0] ? w.reply.message : strerror(-r));
}

/* Volumes the predecessor had attached; if one of them cannot be had, its requests are answered with EIO. */
static void origins_begin(Server *s) {
        for (unsigned disk = DISK_FIRST_ORIGIN; disk < DISK_FIRST_OVERLAY; disk++) {
                const Origin *o = &s->map.shared->origins[disk];
                Volume *v = o->attached ? engine_volume_by_number(s->engine, o->volume) : NULL;
                Waiting w;
                if (!v)
                        continue;
                int r = server_claim(s, disk, o->fd, now_usec() + CLAIM_SECONDS * USEC_PER_SEC);
                if (r == 0) {
                        engine_attach(s->engine, v, disk, waiting_begin(&w));
                        r = waiting_end(s, &w);
                }
                if (r < 0)
                        engine_event(s, ENGINE_FLUSH_FAILED, s->map.shared->nodes[0].snapshot,
                                     "an origin cannot be opened again");
        }
}

static int watch(Server *s, int fd, uint32_t events, uint64_t what) {
        struct epoll_event e = { .events = events, .data = { .u64 = what } };
        return epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static int events_begin(Server *s) {
        s->epoll = epoll_create1(EPOLL_CLOEXEC);
        s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (s->epoll < 0 || s->timer < 0)
                return -errno;
        int r = watch(s, ring_eventfd(s->ring), EPOLLIN | EPOLLET, EVENT_RING);
        if (r == 0 && s->start->fuse >= 0)
                r = watch(s, s->start->fuse, EPOLLIN, EVENT_FUSE);
        r = r < 0 ? r : watch(s, s->start->control, EPOLLIN, EVENT_CONTROL);
        r = r < 0 ? r : watch(s, s->start->holder, EPOLLIN, EVENT_HOLDER);
        return r < 0 ? r : watch(s, s->timer, EPOLLIN, EVENT_TIMER);
}

static void server_ready(Server *s) {
        HolderRequest q = { .op = HOLDER_READY };
        EngineStats stats;
        engine_stats(s->engine, &stats);
        const uint8_t *u = stats.uuid;
        (void) snprintf(q.path, sizeof(q.path), "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                        u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13], u[14],
                        u[15]);
        (void) message_send(s->start->holder, &q, sizeof(q), -1);
        silence();
}

static void timer_set(Server *s, uint64_t at_usec) {
        struct itimerspec t = {};
        if (at_usec != USEC_INFINITY) {
                t.it_value.tv_sec = (time_t) (at_usec / USEC_PER_SEC);
                t.it_value.tv_nsec = (long) (at_usec % USEC_PER_SEC * NSEC_PER_USEC) + 1;
        }
        (void) timerfd_settime(s->timer, TFD_TIMER_ABSTIME, &t, NULL);
}

/* --- stamps ------------------------------------------------------------------------------------------------------- */

unsigned server_disk_of(const Server *s, unsigned volume) {
        for (unsigned disk = DISK_FIRST_ORIGIN; disk < DISK_FIRST_OVERLAY; disk++)
                if (s->map.shared->origins[disk].attached && s->map.shared->origins[disk].volume == volume)
                        return disk;
        return 0;
}

/*
 * After an end without order (a power cut) the origin is compared with its last stamp. What we let pass ourselves must
 * not look like somebody else's write: so a second after a superblock was written its stamp is taken again and kept. A
 * cut in that second makes the snapshots unverified, which is wrong on the safe side.
 */
static void head_written(void *userdata, unsigned volume) {
        Server *s = userdata;
        unsigned disk = server_disk_of(s, volume);
        if (!disk || s->stamp_due_usec[disk])
                return;
        s->stamp_due_usec[disk] = now_usec() + STAMP_DELAY_MSEC * USEC_PER_MSEC;
        timer_set(s, MIN_OF(control_expire(s), s->stamp_due_usec[disk]));
}

static void stamps_kept(Reply *r, int result) {
        ((Server *) r->owner)->stamping = false;
}

int server_stamp(const Server *s, unsigned disk, const Volume *v, bool clean, uint8_t *stamp) {
        VolumeInfo info;
        memset(stamp, 0, STAMP_BYTES);
        int r = stamp_of_file(s->fds[disk], clean, stamp);
        engine_volume_info(v, &info);
        stamp_keep_identity(info.stamp, stamp);
        return r;
}

uint64_t server_take_stamps(Server *s) {
        uint64_t now = now_usec(), next = USEC_INFINITY;
        bool taken = false;
        for (unsigned disk = DISK_FIRST_ORIGIN; disk < DISK_FIRST_OVERLAY; disk++) {
                uint8_t stamp[STAMP_BYTES];
                uint64_t due = s->stamp_due_usec[disk];
                if (!due || s->fds[disk] < 0)
                        continue;
                if (due > now || s->stamping) {
                        next = MIN_OF(next, MAX_OF(due, now + STAMP_DELAY_MSEC * USEC_PER_MSEC / 10));
                        continue;
                }
                s->stamp_due_usec[disk] = 0;
                Volume *v = engine_volume_by_number(s->engine, s->map.shared->origins[disk].volume);
                if (v && server_stamp(s, disk, v, false, stamp) == 0) {
                        VolumeInfo info;
                        engine_volume_stamp(s->engine, v, stamp);
                        engine_volume_info(v, &info);
                        taken = taken || info.snapshots > 0;
                }
        }
        if (taken) {
                s->stamping = true;
                s->stamp_reply = (Reply) { .done = stamps_kept, .owner = s };
                engine_checkpoint(s->engine, &s->stamp_reply);
        }
        return next;
}

/* --- the loop ----------------------------------------------------------------------------------------------------- */

static void event_handle(Server *s, uint64_t what) {
        uint64_t ignored;
        switch (what) {
        case EVENT_RING:
        case EVENT_FUSE: /* both are looked at in every round */
                break;
        case EVENT_CONTROL:
                control_accept(s);
                break;
        case EVENT_HOLDER:
                holder_readable(s);
                break;
        case EVENT_TIMER:
                (void) !read(s->timer, &ignored, sizeof(ignored));
                break;
        default:
                control_readable((Connection *) (uintptr_t) what);
        }
}

static void events_handle(Server *s, bool busy) {
        struct epoll_event e[EVENTS_MAX];
        control_bury(s);
        int n = epoll_wait(s->epoll, e, EVENTS_MAX, busy ? 0 : s->holding ? HELD_ROUND_MSEC : -1);
        bool other = n == 0;
        for (int i = 0; i < n; i++) {
                event_handle(s, e[i].data.u64);
                other = other || (e[i].data.u64 != EVENT_RING && e[i].data.u64 != EVENT_FUSE);
        }
        if (other) {
                uint64_t expire = control_expire(s);
                uint64_t stamps = server_take_stamps(s), ends = server_end_overlays(s), left = control_attach_left(s);
                s->holding = expire != USEC_INFINITY;
                timer_set(s, MIN_OF(MIN_OF(expire, left), MIN_OF(stamps, ends)));
        }
}

static void server_loop(Server *s) {
        for (unsigned busy = 0; !s->ended;) {
                int requests = front_dispatch(s->front);
                int ended = ring_dispatch(s->ring);
                if (ended < 0 || (requests < 0 && requests != -ENODEV))
                        _exit(1);
                if (requests + ended > 0 && ++busy < BUSY_ROUNDS)
                        continue;
                busy = 0;
                events_handle(s, requests + ended > 0);
        }
}

/* The front that the holder has opened; with its devices, if there was a server before. */
static void front_begin(Server *s) {
        UblkControl *control = NULL;
        int r = s->start->ublk < 0 ? 0 : ublk_control_new(s->start->ublk, &control);
        s->front_options = (FrontOptions) {
                .fuse = s->start->fuse,
                .control = control,
                .devices = s->start->devices,
                .map = &s->map,
                .ring = s->ring,
                .engine = s->engine,
                .overlays = s->overlays,
                .head_bytes = STAMP_HEAD,
                .head_written = head_written,
                .released = server_overlay_released,
                .userdata = s,
        };
        if (r == 0)
                r = (control ? ublk_front_new : fuse_front_new)(&s->front_options, &s->front);
        if (r < 0) {
                char why[64];
                (void) snprintf(why, sizeof(why), "devices cannot be served: %s", strerror(-r));
                server_refuse(s, 1, why);
        }
}

static void hygiene(void) {
        (void) mlockall(MCL_CURRENT | MCL_FUTURE); /* without it a page-in may wait for what we serve */
        (void) prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
        (void) prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
}

_Noreturn void server_main(const ServerStart *start) {
        static Server s;
        s.start = start;
        LIST_INIT(&s.connections);
        LIST_INIT(&s.closed);
        LIST_INIT(&s.calls);
        for (unsigned i = 0; i < DISK_MAX; i++)
                s.fds[i] = -EBADF;
        shared_unmap(start->map); /* the holder's, inherited: locked with the rest it would be filled twice */
        hygiene();
        if (shared_map(start->shared, &s.map) < 0)
                server_refuse(&s, 1, "no shared memory");
        /* answers to a dead server's questions must not be taken for answers to ours */
        s.next_cookie = (uint64_t) s.map.shared->servers << 32;
        engine_begin(&s);
        origins_begin(&s);
        if (server_overlays_begin(&s, now_usec() + CLAIM_SECONDS * USEC_PER_SEC) < 0)
                server_refuse(&s, 1, "out of memory");
        if (events_begin(&s) < 0)
                server_refuse(&s, 1, "out of memory or descriptors");
        front_begin(&s);
        server_ready(&s);
        server_sweep_nodes(&s);
        uint64_t left = control_attach_left(&s), ends = server_end_overlays(&s);
        timer_set(&s, MIN_OF(left, ends));
        server_loop(&s);
        _exit(SERVER_STOPPED);
}
