/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "providers/cow/holder.h"
#include <sys/socket.h>

typedef union FdSpace { /* aligned as the kernel wants it */
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
} FdSpace;

int message_send(int socket, const void *message, size_t size, int fd) {
        struct iovec v = { .iov_base = (void *) (uintptr_t) message, .iov_len = size };
        FdSpace control = {};
        struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
        if (fd >= 0) {
                m.msg_control = &control;
                m.msg_controllen = sizeof(control);
                struct cmsghdr *c = CMSG_FIRSTHDR(&m);
                *c = (struct cmsghdr) { .cmsg_level = SOL_SOCKET,
                                        .cmsg_type = SCM_RIGHTS,
                                        .cmsg_len = CMSG_LEN(sizeof(int)) };
                memcpy(CMSG_DATA(c), &fd, sizeof(fd));
        }
        ssize_t n;
        do {
                n = sendmsg(socket, &m, MSG_NOSIGNAL);
        } while (n < 0 && errno == EINTR);
        return n < 0 ? -errno : 0;
}

int message_receive(int socket, void *message, size_t size, int *ret_fd) {
        struct iovec v = { .iov_base = message, .iov_len = size };
        FdSpace control = {};
        struct msghdr m = {
                .msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_LEN(sizeof(int))
        };
        ssize_t n;
        int fd = -1;
        do {
                n = recvmsg(socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        } while (n < 0 && errno == EINTR);
        if (n < 0)
                return errno == EAGAIN ? 0 : -EPIPE;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
                if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
                        memcpy(&fd, CMSG_DATA(c), sizeof(fd));
        if ((size_t) n != size) {
                (void) close_fd(fd);
                return -EPIPE;
        }
        if (ret_fd)
                *ret_fd = fd;
        else
                (void) close_fd(fd);
        return 1;
}
