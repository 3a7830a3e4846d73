/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process that stays when the server dies: it keeps the FUSE mount, the requests under way and the origins'
 * descriptors, and starts the next server at once. It does nothing that can block: whatever opens a file or touches a
 * device is done by a child of its own with a deadline, in the mount namespace the service was started in. It and the
 * server live in an empty one, so that they keep no mount of the host busy and none of theirs can be found (hazards
 * B9).
 */
#include "providers/cow/device.h"
#include "providers/cow/frontend.h"
#include "providers/cow/hidden.h"
#include "providers/cow/origin.h"
#include "providers/cow/scratch.h"
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

enum {
        JOBS_MAX = 8,
        JOB_DEADLINE_MSEC = 20000,
        POLL_MSEC = 1000,
        RESTART_QUICK = 64,                 /* deaths without a pause … */
        RESTART_WINDOW_USEC = 60 * 1000000, /* … within this time; then each waits */
        RESTART_PAUSE_USEC = 200000,
        CLAIM_USEC = 5 * 1000000, /* for the last I/O of one that was killed a moment ago */
};

typedef struct Job { /* a child at work */
        pid_t pid;   /* 0: none */
        int socket;
        uint64_t deadline_usec;
        HolderRequest request;
} Job;

typedef struct Holder {
        const ServeOptions *options;
        SharedMap map;
        int shared, overlays, store, control, host, server_socket, kmsg;
        FrontendFiles files;
        uint8_t uuid[16];
        char label[24]; /* "vss-cow:STORE:" */
        char store_id[40];
        pid_t server;
        Job jobs[JOBS_MAX];
        uint64_t window_usec;
        unsigned deaths; /* in this window */
        bool stopped;
        int ready;
        Hidden hidden;
} Holder;

/* --- children at work --------------------------------------------------------------------------------------------- */

static void label_of(const Holder *h, const Node *n, char ret[static LABEL_MAX]) {
        (void) snprintf(ret, 63, "%s%s", h->label, n->name);
}

static int origin_of(const Holder *h, const Node *n) {
        const Shared *s = h->map.shared;
        for (unsigned disk = DISK_FIRST_ORIGIN; disk < DISK_FIRST_OVERLAY; disk++)
                if (s->origins[disk].fd >= 0 && s->origins[disk].volume == n->volume)
                        return s->origins[disk].fd;
        return -1;
}

static int job_drop(Holder *h, Node *n, HolderReply *p) {
        char label[LABEL_MAX];
        label_of(h, n, label);
        int r = frontend_drop(&h->files, n, label, p->text, sizeof(p->text));
        if (r < 0)
                return r;
        if (n->device[0]) {
                lies_on_remove(h->options->directory, n->device);
                hidden_remove_name(&h->hidden, strrchr(n->device, '/') + 1, h->label);
        }
        if (!isempty(h->options->links))
                device_unlink(h->options->links, n->name);
        return 0;
}

typedef struct JobAdded { /* what is to be said once the device is there */
        const Holder *holder;
        const Node *node;
        int socket;
        uint64_t cookie;
} JobAdded;

static void job_added(void *userdata) {
        const JobAdded *a = userdata;
        HolderReply p = { .cookie = a->cookie, .more = (uint32_t) (a->node - a->holder->map.shared->nodes) + 1 };
        char name[DEVICE_PATH_MAX];
        (void) snprintf(name, sizeof(name), "ublkb%u", a->node->ublk - 1);
        if (a->node->kind != NODE_VOLUME)
                hidden_add_name(&a->holder->hidden, name, a->holder->label);
        (void) message_send(a->socket, &p, sizeof(p), -1);
}

static int job_make(Holder *h, Node *n, int socket, HolderReply *p) {
        const char *links = h->options->links, *what = h->options->directory;
        char label[LABEL_MAX];
        JobAdded a = { .holder = h, .node = n, .socket = socket, .cookie = p->cookie };
        FrontendMake m = { .label = label, .server = h->server, .added = job_added, .userdata = &a };
        if (n->device[0])
                return 0;
        label_of(h, n, label);
        memcpy(m.store, h->uuid, sizeof(m.store));
        int r = frontend_make(&h->files, n, &m, p->text, sizeof(p->text));
        if (r < 0)
                return r;
        r = lies_on_write(what, n->device, h->label, origin_of(h, n), h->store);
        if (r >= 0 && n->kind == NODE_VOLUME && !isempty(links))
                r = device_link(what = links, n->name, n->device, h->label);
        if (r < 0)
                (void) snprintf(p->text, sizeof(p->text), "%s cannot be written: %s", what, strerror(-r));
        return r;
}

static int job_open(const Holder *h, const HolderRequest *q, HolderReply *p, int *ret_fd) {
        OriginInfo info;
        char why[HOLDER_TEXT_MAX];
        uint8_t uuid[16];
        int fd = origin_open(q->path, q->identity, &info, p->text, sizeof(p->text));
        if (fd < 0)
                return fd;
        int r = store_identify(info.path, uuid, why, sizeof(why));
        memcpy(p->identity, info.identity, sizeof(p->identity));
        memcpy(p->path, info.path, sizeof(p->path));
        p->is_store = r == 0 || r == -EPROTONOSUPPORT;
        p->bytes = info.bytes;
        p->block_size = info.block_size;
        hidden_add(&h->hidden, fd, h->label);
        if (!streq(q->path, info.path))
                hidden_reconsider(q->path);
        *ret_fd = fd;
        return 0;
}

static int job_find(const HolderRequest *q, HolderReply *p, int *ret_fd) {
        *ret_fd = open(q->path, O_PATH | O_CLOEXEC);
        if (*ret_fd >= 0)
                return 0;
        int r = -errno;
        (void) snprintf(p->text, sizeof(p->text), "%.300s: %s", q->path, strerror(-r));
        return r;
}

static int job_overlay(const Holder *h, const HolderRequest *q, HolderReply *p, int *ret_fd) {
        int fd = scratch_open(q->path, q->bytes, h->map.shared, h->store, &p->bytes, p->text, sizeof(p->text));
        if (fd < 0)
                return fd;
        *ret_fd = fd;
        return 0;
}

static _Noreturn void job_main(Holder *h, const HolderRequest *q, int socket) {
        HolderReply p = { .cookie = q->cookie };
        int fd = -1;
        if (setns(h->host, CLONE_NEWNS) < 0) {
                p.result = -errno;
                (void) snprintf(p.text, sizeof(p.text), "the mount namespace cannot be entered: %s", strerror(errno));
        } else if (q->op == HOLDER_OPEN_ORIGIN)
                p.result = job_open(h, q, &p, &fd);
        else if (q->op == HOLDER_FIND)
                p.result = job_find(q, &p, &fd);
        else if (q->op == HOLDER_COMPARE)
                p.bytes = origin_compare(q->path, q->identity);
        else if (q->op == HOLDER_OPEN_OVERLAY)
                p.result = job_overlay(h, q, &p, &fd);
        else if (q->op == HOLDER_MAKE_DEVICE)
                p.result = job_make(h, &h->map.shared->nodes[q->node], socket, &p);
        else
                p.result = job_drop(h, &h->map.shared->nodes[q->node], &p);
        (void) message_send(socket, &p, sizeof(p), fd);
        _exit(0);
}

static void refuse(Holder *h, const HolderRequest *q, int result, const char *text) {
        HolderReply p = { .cookie = q->cookie, .result = result };
        (void) snprintf(p.text, sizeof(p.text), "%s", text);
        (void) message_send(h->server_socket, &p, sizeof(p), -1);
}

/* … and the holder keeps it. */
static bool opens_file(const HolderRequest *q) {
        return q->op == HOLDER_OPEN_ORIGIN || q->op == HOLDER_OPEN_OVERLAY;
}

static bool is_about_device(const HolderRequest *q) {
        return q->op == HOLDER_MAKE_DEVICE || q->op == HOLDER_DROP_DEVICE;
}

static void job_start(Holder *h, const HolderRequest *q) {
        int pair[2];
        Job *j = h->jobs;
        for (const Job *k = h->jobs; k < h->jobs + JOBS_MAX; k++)
                if (k->pid && is_about_device(&k->request) && is_about_device(q) && k->request.node == q->node) {
                        refuse(h, q, -EBUSY, "its device is just being made or taken away: try again");
                        return;
                }
        while (j < h->jobs + JOBS_MAX && j->pid)
                j++;
        if (j == h->jobs + JOBS_MAX ||
            socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0) {
                refuse(h, q, -EBUSY, "too much is being attached and detached at once");
                return;
        }
        pid_t pid = fork();
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                job_main(h, q, pair[1]);
        }
        (void) close_fd(pair[1]);
        if (pid < 0) {
                (void) close_fd(pair[0]);
                refuse(h, q, -ENOMEM, "no process can be started");
                return;
        }
        *j = (Job) { .pid = pid,
                     .socket = pair[0],
                     .deadline_usec = now_usec() + JOB_DEADLINE_MSEC * USEC_PER_MSEC,
                     .request = *q };
}

/* With the last descriptor of an overlay its blocks are freed, which waits where its file system is frozen: not for us.
 */
static void overlay_let_go(int fd) {
        int ends[2];
        char ignored;
        pid_t pid = pipe2(ends, O_CLOEXEC) < 0 ? -1 : fork();
        if (pid == 0) {
                (void) close_fd(ends[1]);
                (void) !read(ends[0], &ignored, 1); /* until it is the last who has it */
                _exit(0);
        }
        (void) close_fd(fd);
        if (pid > 0) {
                (void) close_fd(ends[0]);
                (void) close_fd(ends[1]);
        }
}

static void origin_keep(Holder *h, const HolderRequest *q, int fd) {
        Origin *o = &h->map.shared->origins[q->disk];
        if (fd < 0 && o->fd >= 0)
                hidden_remove(&h->hidden, o->fd, h->label);
        if (q->disk >= DISK_FIRST_OVERLAY && o->fd >= 0)
                overlay_let_go(o->fd);
        else
                (void) close_fd(o->fd);
        o->fd = fd;
}

static void job_end(Holder *h, Job *j) {
        HolderReply p;
        int fd = -1;
        if (message_receive(j->socket, &p, sizeof(p), &fd) != 1) {
                p = (HolderReply) { .cookie = j->request.cookie, .result = -ETIME };
                (void) snprintf(p.text, sizeof(p.text), "the kernel did not answer within %d s",
                                JOB_DEADLINE_MSEC / 1000);
        } else if (p.more) { /* it goes on */
                (void) message_send(h->server_socket, &p, sizeof(p), -1);
                return;
        }
        bool kept = opens_file(&j->request) && p.result == 0 && fd >= 0;
        if (kept) /* the server gets one of its own from this message, later ones inherit it */
                origin_keep(h, &j->request, fd);
        if (j->request.op == HOLDER_DROP_DEVICE && p.result == 0)
                h->map.shared->nodes[j->request.node].device[0] = '\0';
        (void) message_send(h->server_socket, &p, sizeof(p), fd);
        if (!kept)
                (void) close_fd(fd);
        (void) kill(j->pid, SIGKILL);
        (void) close_fd(j->socket);
        j->pid = 0; /* reaped with the others */
}

/* Nobody reads what we say any more, and our descriptors must not keep a terminal or a pipe open. 0 is /dev/null. */
void silence(void) {
        (void) dup2(STDIN_FILENO, STDOUT_FILENO);
        (void) dup2(STDIN_FILENO, STDERR_FILENO);
}

/* --- the server --------------------------------------------------------------------------------------------------- */

static void pause_if_dying(Holder *h) {
        uint64_t now = now_usec();
        if (now - h->window_usec > RESTART_WINDOW_USEC) {
                h->window_usec = now;
                h->deaths = 0;
        }
        if (++h->deaths > RESTART_QUICK)
                (void) usleep(RESTART_PAUSE_USEC);
}

static int server_start(Holder *h) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
                return -errno;
        h->map.shared->servers++;
        ServerStart s = {
                .map = h->map,
                .fuse = h->files.fuse,
                .ublk = h->files.ublk,
                .devices = h->files.devices,
                .store = h->store,
                .control = h->control,
                .holder = pair[1],
                .shared = h->shared,
                .overlays = h->overlays,
                .kmsg = h->kmsg,
                .store_path = h->options->store,
        };
        for (unsigned i = 0; i < OVERLAYS; i++)
                s.overlay_files[i] = h->map.shared->origins[DISK_FIRST_OVERLAY + i].fd;
        pid_t pid = fork();
        if (pid == 0) {
                (void) close_fd(pair[0]);
                (void) close_fd(h->files.mount);
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                server_main(&s);
        }
        (void) close_fd(pair[1]);
        if (pid < 0) {
                (void) close_fd(pair[0]);
                return -errno;
        }
        (void) close_fd(h->server_socket);
        h->server_socket = pair[0];
        h->server = pid;
        return 0;
}

static void server_ended(Holder *h, int status) {
        h->server = 0;
        if (WIFEXITED(status) && (WEXITSTATUS(status) == SERVER_STOPPED || WEXITSTATUS(status) == SERVER_REFUSED)) {
                h->stopped = true;
                return;
        }
        pause_if_dying(h);
        while (server_start(h) < 0) /* there is nothing better to do: somebody waits for these devices */
                (void) usleep(RESTART_PAUSE_USEC);
}

static void reap(Holder *h) {
        int status;
        pid_t pid;
        while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
                if (pid == h->server)
                        server_ended(h, status);
}

/* Whoever started us hears of the first server only. */
static void server_ready(Holder *h, const HolderRequest *q) {
        if (h->ready < 0)
                return;
        (void) dprintf(h->ready, "%u %s\n", q->disk, q->path);
        h->ready = close_fd(h->ready);
        if (q->disk == 0)
                silence();
}

static void server_asks(Holder *h) {
        HolderRequest q;
        int r;
        while ((r = message_receive(h->server_socket, &q, sizeof(q), NULL)) == 1) {
                q.path[sizeof(q.path) - 1] = '\0';
                if (q.op >= HOLDER_OP_MAX || q.disk >= DISK_MAX || q.node >= NODES)
                        refuse(h, &q, -EINVAL, "the server asked for something that does not exist");
                else if (q.op == HOLDER_CLOSE_ORIGIN)
                        origin_keep(h, &q, -1);
                else if (q.op == HOLDER_READY)
                        server_ready(h, &q);
                else
                        job_start(h, &q);
        }
        if (r < 0) /* it is dying; watching that would take the processor it needs for it. SIGCHLD says when */
                h->server_socket = close_fd(h->server_socket);
}

static int signal_pipe[2];

static void on_child(int signo) {
        int saved = errno;
        (void) !write(signal_pipe[1], "", 1);
        errno = saved;
}

static void holder_loop(Holder *h) {
        while (!h->stopped) {
                struct pollfd p[2 + JOBS_MAX] = { { .fd = signal_pipe[0], .events = POLLIN },
                                                  { .fd = h->server_socket, .events = POLLIN } };
                char ignored[64];
                for (unsigned i = 0; i < JOBS_MAX; i++)
                        p[2 + i] = (struct pollfd) { .fd = h->jobs[i].pid ? h->jobs[i].socket : -1, .events = POLLIN };
                (void) poll(p, 2 + JOBS_MAX, POLL_MSEC);
                (void) !read(signal_pipe[0], ignored, sizeof(ignored));
                server_asks(h);
                for (unsigned i = 0; i < JOBS_MAX; i++)
                        if (h->jobs[i].pid && (p[2 + i].revents || now_usec() > h->jobs[i].deadline_usec))
                                job_end(h, &h->jobs[i]);
                reap(h);
        }
}

/* --- beginning ---------------------------------------------------------------------------------------------------- */

static int say(const char *what, int r) {
        fprintf(stderr, "vss-cow: %s: %s\n", what, strerror(-r));
        return r;
}

/* An empty root with nothing but /proc, through which servers reopen origins; everything of the host is let go. */
static int namespace_leave(void) {
        if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
            mount("tmpfs", "/proc", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=0700") < 0 ||
            chdir("/proc") < 0 || mkdir("proc", 0700) < 0 || mkdir("old", 0700) < 0 ||
            mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 ||
            syscall(SYS_pivot_root, ".", "old") < 0 || chdir("/") < 0 || umount2("/old", MNT_DETACH) < 0 ||
            rmdir("/old") < 0)
                return -errno;
        return 0;
}

static int control_listen(const char *directory) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        int n = snprintf(a.sun_path, sizeof(a.sun_path), "%s/control", directory);
        if (n < 0 || (size_t) n >= sizeof(a.sun_path))
                return -ENAMETOOLONG;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        (void) unlink(a.sun_path);
        mode_t mask = umask(0177);
        int r = fd < 0 || bind(fd, (struct sockaddr *) &a, sizeof(a)) < 0 || listen(fd, 64) < 0 ? -errno : 0;
        (void) umask(mask);
        return r < 0 ? r : TAKE_FD(fd);
}

/* One server per store, whoever starts it: the lock of a file of its own, since the store's is taken by servers. */
static int directory_claim(const char *directory) {
        char path[ORIGIN_PATH_MAX];
        if (mkdir(directory, 0700) < 0 && errno != EEXIST)
                return say(directory, -errno);
        (void) snprintf(path, sizeof(path), "%s/lock", directory);
        int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
                return say(path, -errno);
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                fprintf(stderr, "vss-cow: another vss-cow serves %s\n", directory);
                (void) close_fd(fd);
                return -EBUSY;
        }
        (void) !ftruncate(fd, 0);
        (void) dprintf(fd, "%d\n", getpid());
        return fd; /* open for as long as we live */
}

static void hygiene(void) {
        _cleanup_close_ int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
        if (oom < 0 || write(oom, "-1000", 5) < 0)
                fprintf(stderr, "vss-cow: not protected against the OOM killer: %s\n", strerror(errno));
        if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
                fprintf(stderr, "vss-cow: PR_SET_IO_FLUSHER: %s\n", strerror(errno));
        /* the program may lie on what it serves: without a server nobody would answer the page-in of what starts one */
        if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
                fprintf(stderr, "vss-cow: memory is not locked: %s\n", strerror(errno));
}

static void holder_name(Holder *h, const uint8_t uuid[16]) {
        (void) snprintf(h->label, sizeof(h->label), "vss-cow:%02x%02x%02x%02x:", uuid[0], uuid[1], uuid[2], uuid[3]);
}

/*
 * Devices of a holder that died. Only with the store in our hand: one that lives, with another directory, has devices
 * with the same label, and they are in use.
 */
static int leftovers_sweep(Holder *h) {
        int fd = file_claim(h->store, now_usec() + CLAIM_USEC);
        if (fd < 0) {
                fprintf(stderr, "vss-cow: %s cannot be opened: %s\n", h->options->store,
                        fd == -EWOULDBLOCK ? "another vss-cow serves it" : strerror(-fd));
                return fd == -EWOULDBLOCK ? -EBUSY : fd;
        }
        int r = frontend_sweep(&h->files, h->label, h->uuid, h->map.shared->left);
        if (r < 0)
                return say("a child", r);
        if (!isempty(h->options->links))
                device_names_sweep(h->options->links, h->label);
        hidden_begin(&h->hidden, h->options->links);
        hidden_sweep(&h->hidden, h->label);
        (void) close_fd(fd); /* the server takes it */
        return 0;
}

/* One holder per store on this machine, in whatever directory: a name that goes with us. */
static int store_name_claim(const uint8_t uuid[16]) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        char *at = a.sun_path + 1 + snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "vss-cow:");
        for (unsigned i = 0; i < 16; i++)
                at += snprintf(at, 3, "%02x", uuid[i]);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return say("a socket", -errno);
        if (bind(fd, (struct sockaddr *) &a, (socklen_t) (at - (char *) &a)) == 0)
                return fd; /* for as long as we live */
        fprintf(stderr, "vss-cow: another vss-cow serves this store\n");
        (void) close_fd(fd);
        return -EBUSY;
}

/* What servers and children inherit. */
static int holder_memory(Holder *h) {
        h->host = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        h->kmsg = open("/dev/kmsg", O_WRONLY | O_CLOEXEC | O_NONBLOCK);
        h->shared = shared_create();
        h->overlays = overlays_memory();
        if (h->host < 0 || h->shared < 0 || h->overlays < 0)
                return say("memory for the server", -errno);
        int r = shared_map(h->shared, &h->map);
        if (r < 0)
                return say("shared memory", r);
        for (unsigned i = 0; i < DISK_MAX; i++)
                h->map.shared->origins[i].fd = -1;
        return 0;
}

static int holder_open(Holder *h) {
        const ServeOptions *o = h->options;
        char text[HOLDER_TEXT_MAX];
        h->store = store_open(o->store, text, sizeof(text));
        if (h->store < 0) {
                fprintf(stderr, "vss-cow: %s\n", text);
                return h->store;
        }
        int r = store_identify(o->store, h->uuid, text, sizeof(text));
        if (r < 0) {
                fprintf(stderr, "vss-cow: %s: %s\n", o->store, text);
                return r;
        }
        holder_name(h, h->uuid);
        r = store_name_claim(h->uuid);
        r = r < 0 ? r : directory_claim(o->directory);
        r = r < 0 ? r : frontend_open(o->frontend, &h->files);
        r = r < 0 ? r : holder_memory(h);
        r = r < 0 ? r : leftovers_sweep(h);
        if (r < 0)
                return r;
        lies_on_sweep(o->directory);
        h->control = control_listen(o->directory);
        return h->control < 0 ? say(o->directory, h->control) : 0;
}

static void signals_set(void) {
        struct sigaction child = { .sa_handler = on_child, .sa_flags = SA_RESTART | SA_NOCLDSTOP },
                         ignore = { .sa_handler = SIG_IGN };
        (void) sigaction(SIGCHLD, &child, NULL);
        (void) sigaction(SIGPIPE, &ignore, NULL);
        (void) sigaction(SIGHUP, &ignore, NULL);
        (void) sigaction(SIGINT, &ignore,
                         NULL); /* it ends through its control socket, so that nobody loses a mounted device */
        (void) sigaction(SIGTERM, &ignore, NULL);
}

int holder_main(const ServeOptions *o) {
        Holder h = { .options = o, .server_socket = -1, .window_usec = now_usec(), .ready = o->ready };
        hygiene();
        int r = holder_open(&h);
        if (r < 0)
                return r == -EBUSY                      ? 8 :
                       r == -ENOENT                     ? 4 :
                       r == -EINVAL || r == -EOPNOTSUPP ? 10 :
                       r == -EUCLEAN                    ? 11 :
                                                          1;
        if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) < 0)
                return 1;
        signals_set();
        r = namespace_leave();
        if (r < 0) {
                (void) say("an own mount namespace", r);
                return 1;
        }
        if (server_start(&h) < 0)
                return 1;
        holder_loop(&h);
        return 0;
}
