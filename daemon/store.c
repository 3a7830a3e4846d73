/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-store: does the catalogue's file I/O for vssd, which must never sleep on a file system that another set may hold
 * (hazards B3). It may sleep in the kernel for as long as it likes; vssd only queues. One request after the other.
 */
#include "daemon/store.h"
#include "protocol/base.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>

enum { PREDECESSOR_USEC = 5 * USEC_PER_SEC }; /* vssd was killed and its store still finishes a write */

/* The socket is a blocking one, but a full one must not end us: vssd reads when it gets to it. */
static int reply(const struct StoreReply *r, int fd) {
        int result;

        while ((result = child_send(CHILD_SOCKET_FD, r, sizeof(*r), fd)) == -EAGAIN)
                (void) poll(&(struct pollfd) { .fd = CHILD_SOCKET_FD, .events = POLLOUT }, 1, -1);
        return result;
}

static int load_one(StoreDisk *d, const struct StoreRequest *request, const char *name) {
        struct StoreReply answer = { .op = STORE_LOAD, .serial = request->serial, .more = 1 };
        _cleanup_close_ int fd = -EBADF;

        (void) snprintf(answer.id, sizeof(answer.id), "%s", name);
        answer.result = store_disk_get(d, name, &fd, &answer.size);
        if (answer.result < 0)
                (void) fprintf(stderr, "vss-store: record sets/%s cannot be used: %s%s\n", name,
                               strerror(-answer.result), answer.result == -EBADMSG ? "; it was moved to damaged/" : "");
        return reply(&answer, fd);
}

static int load_all(StoreDisk *d, const struct StoreRequest *request) {
        struct StoreReply last = { .op = STORE_LOAD, .serial = request->serial };
        char **names;
        size_t n;
        int r = store_disk_list(d, &names, &n);

        if (r < 0) {
                last.result = r;
                return reply(&last, -1);
        }
        for (size_t i = 0; i < n; i++) {
                if (r >= 0 && names[i][0] != '.' && strcmp(names[i], request->id) > 0) {
                        r = load_one(d, request, names[i]);
                        last.result++;
                }
                free(names[i]);
        }
        free(names);
        return r < 0 ? r : reply(&last, -1);
}

static int handle(StoreDisk *d, const struct StoreRequest *request, int fd) {
        struct StoreReply answer = { .op = request->op, .serial = request->serial };

        if (request->op == STORE_LOAD)
                return load_all(d, request);
        if (!id_is_valid(request->id))
                answer.result = -EINVAL;
        else if (request->op == STORE_PUT && fd >= 0)
                answer.result = store_disk_put(d, request->id, fd, request->size);
        else if (request->op == STORE_REMOVE)
                answer.result = store_disk_remove(d, request->id);
        else
                answer.result = -EINVAL;
        if (answer.result < 0)
                (void) fprintf(stderr, "vss-store: cannot %s record sets/%.36s: %s\n",
                               request->op == STORE_PUT ? "write" : "remove", request->id, strerror(-answer.result));
        return reply(&answer, -1);
}

/* d NULL: was refused. Still reads to the end: closing with requests unread would overtake the HELLO that says why. */
static int serve(StoreDisk *d) {
        for (;;) {
                struct StoreRequest request;
                _cleanup_close_ int fd = -EBADF;
                int r = child_receive(CHILD_SOCKET_FD, &request, sizeof(request), &fd);

                if (r == 0) {
                        (void) poll(&(struct pollfd) { .fd = CHILD_SOCKET_FD, .events = POLLIN }, 1, -1);
                        continue;
                }
                if (r == -EPIPE)
                        return 0;
                if (r < 0)
                        return r;
                if (!d)
                        continue;
                request.id[VSS_ID_LENGTH] = '\0';
                r = handle(d, &request, fd);
                if (r < 0)
                        return r == -EPIPE ? 0 : r;
        }
}

int main(int argc, char *argv[]) {
        StoreDisk disk = STORE_DISK_NULL;
        struct StoreReply hello = { .op = STORE_HELLO };
        pid_t owner = 0;
        int r;

        if (argc != 2 || argv[1][0] != '/' || fcntl(CHILD_SOCKET_FD, F_GETFD) < 0) {
                (void) fprintf(stderr, "vss-store is a part of vssd and is started by it: vss-store DIRECTORY\n");
                return EXIT_FAILURE;
        }
        (void) signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error of one record, not our end */
        (void) umask(077);
        r = store_disk_open(argv[1], PREDECESSOR_USEC, &disk, &owner);
        if (r == -EBUSY)
                (void) fprintf(stderr, "vss-store: state directory %s is in use by process %d; stop that vssd first\n",
                               argv[1], (int) owner);
        else if (r < 0)
                (void) fprintf(stderr, "vss-store: cannot use state directory %s: %s%s\n", argv[1], strerror(-r),
                               r == -EPERM ? "; it must be owned by root and writable by nobody else" : "");
        hello.result = r;
        if (reply(&hello, -1) >= 0)
                r = serve(r < 0 ? NULL : &disk);
        store_disk_close(&disk);
        return r < 0 || hello.result < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
