/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/provider-unit.h"
#include "daemon/child.h"
#include "daemon/log.h"
#include "providers/wire.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>

static struct sockaddr_un address = { .sun_family = AF_UNIX };

int provider_unit_set_socket(const char *path) {
        size_t n = strlen(path);
        if (path[0] != '/' || n >= sizeof(address.sun_path))
                return -EINVAL;
        memcpy(address.sun_path, path, n + 1);
        return 0;
}

bool provider_unit_is_used(void) {
        return address.sun_path[0] != '\0';
}

/* Whoever does not take the connection at once is as good as nobody: vssd waits for nobody. */
static int connect_now(int *ret) {
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        if (connect(fd, (const struct sockaddr *) &address, sizeof(address)) < 0) {
                log_line(LOG_ERR, NULL, NULL, "no provider can be started: %s: %s; systemctl start vss-provider.socket",
                         address.sun_path, strerror(errno));
                return -ECONNREFUSED;
        }
        *ret = TAKE_FD(fd);
        return 0;
}

static int environment_write(int fd, size_t *ret_size) {
        size_t size = 0;
        for (char **e = environ; e && *e; e++) {
                size_t n = strlen(*e) + 1;
                size += n;
                if (size > VSS_WIRE_ENVIRONMENT_BYTES)
                        return -E2BIG;
                ssize_t k = write(fd, *e, n);
                if (k < 0 || (size_t) k != n)
                        return k < 0 ? -errno : -ENOSPC;
        }
        *ret_size = size;
        return 0;
}

static int send_fd(int socket, enum vss_wire_op op, size_t size, int fd) {
        static struct vss_wire_request request;
        request = (struct vss_wire_request) { .op = op, .size_bytes = size };
        return child_send(socket, &request, sizeof(request), fd);
}

static int send_environment(int socket) {
        size_t size = 0;
        _cleanup_close_ int fd = memfd_create("vss-environment", MFD_CLOEXEC);
        if (fd < 0)
                return -errno;
        int r = environment_write(fd, &size);
        return r < 0 ? r : send_fd(socket, VSS_WIRE_ENVIRONMENT, size, fd);
}

int provider_unit_connect(int *ret_socket, int *ret_life) {
        assert(provider_unit_is_used());
        int ends[2];
        _cleanup_close_ int socket = -EBADF;
        int r = connect_now(&socket);
        if (r < 0)
                return r;
        if (pipe2(ends, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int theirs = ends[0], ours = ends[1];
        r = send_fd(socket, VSS_WIRE_LIFE, 0, theirs);
        if (r >= 0)
                r = send_environment(socket);
        if (r < 0)
                return r;
        *ret_socket = TAKE_FD(socket);
        *ret_life = TAKE_FD(ours);
        return 0;
}
