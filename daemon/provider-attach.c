/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/provider-attach.h"
#include "daemon/child.h"
#include "providers/wire.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>

enum { PATIENCE_MSEC = 30000 }; /* what is received here was sent before we were started */

/* Lists are sent as fast as vssd reads them, so sending must wait. */
static int take_socket(int socket) {
        struct ucred peer = {};
        socklen_t size = sizeof(peer);
        int flags = fcntl(socket, F_GETFL);
        if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0 || flags < 0)
                return -errno;
        if (peer.uid != geteuid())
                return -EPERM;
        return fcntl(socket, F_SETFL, flags & ~O_NONBLOCK) < 0 ? -errno : 0;
}

/* Whoever connected to a socket of systemd's does not know who we are. */
static int say_hello(int socket) {
        const struct vss_wire_reply hello = { .op = VSS_WIRE_HELLO };
        _cleanup_close_ int self = (int) syscall(SYS_pidfd_open, getpid(), 0);
        return self < 0 ? -errno : child_send(socket, &hello, sizeof(hello), self);
}

static int receive_fd(int socket, enum vss_wire_op op, struct vss_wire_request *request, int *ret) {
        struct pollfd p = { .fd = socket, .events = POLLIN };
        if (poll(&p, 1, PATIENCE_MSEC) <= 0)
                return -ETIME;
        _cleanup_close_ int fd = -EBADF;
        int r = child_receive(socket, request, sizeof(*request), &fd);
        if (r < 0)
                return r;
        if (r == 0 || request->op != op || fd < 0)
                return -EBADMSG;
        *ret = TAKE_FD(fd);
        return 0;
}

/* It stays open as long as we live. */
static int live_by(int life) {
        struct pollfd p = { .fd = life, .events = POLLIN };
        int flags = fcntl(life, F_GETFL);
        if (flags < 0 || fcntl(life, F_SETSIG, SIGKILL) < 0 || fcntl(life, F_SETOWN, getpid()) < 0 ||
            fcntl(life, F_SETFL, flags | O_ASYNC | O_NONBLOCK) < 0)
                return -errno;
        return poll(&p, 1, 0) == 0 ? 0 : -EPIPE; /* closed before the kernel was told to watch it */
}

/* The text and the list become environ, so neither is ever freed. */
static int take_environment(int fd, size_t size) {
        if (size > VSS_WIRE_ENVIRONMENT_BYTES)
                return -EBADMSG;
        _cleanup_free_ char *text = malloc(size + 1);
        _cleanup_free_ char **list = calloc(VSS_WIRE_ENVIRONMENT_MAX + 1, sizeof(*list));
        if (!text || !list)
                return -ENOMEM;
        ssize_t k = pread(fd, text, size, 0);
        if (k < 0 || (size_t) k != size || (size > 0 && text[size - 1]))
                return k < 0 ? -errno : -EBADMSG;
        size_t n = 0;
        for (char *s = text; s < text + size; s += strlen(s) + 1) {
                if (n == VSS_WIRE_ENVIRONMENT_MAX)
                        return -E2BIG;
                list[n++] = s;
        }
        (void) TAKE_PTR(text);
        environ = TAKE_PTR(list);
        return 0;
}

int provider_attach(int socket) {
        static struct vss_wire_request request;
        _cleanup_close_ int life = -EBADF, environment = -EBADF;
        int r = take_socket(socket);
        if (r >= 0)
                r = say_hello(socket);
        if (r >= 0)
                r = receive_fd(socket, VSS_WIRE_LIFE, &request, &life);
        if (r >= 0)
                r = live_by(life);
        if (r >= 0)
                r = receive_fd(socket, VSS_WIRE_ENVIRONMENT, &request, &environment);
        if (r >= 0)
                r = take_environment(environment, request.size_bytes);
        if (r < 0)
                return r;
        (void) TAKE_FD(life);
        return 0;
}
