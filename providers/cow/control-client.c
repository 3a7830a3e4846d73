/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The asking side of control.h. The message buffer is static: between pre_commit and release nothing may be asked of
 * the kernel that could wait for a disk that stands still, memory included.
 */
#include "protocol/base.h"
#include "providers/cow/control.h"
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

static char message_in[CONTROL_MESSAGE_MAX + 1];

int control_connect(const char *directory) {
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/control", directory);
        if (n < 0 || (size_t) n >= sizeof(address.sun_path))
                return -ENAMETOOLONG;
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
                return -errno;
        /* -EAGAIN: its queue of connections is full, which is as good as nobody there */
        if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
                return errno == EAGAIN ? -ECONNREFUSED : -errno;
        return TAKE_FD(fd);
}

static int wait_for(int fd, short events, uint64_t deadline_usec) {
        struct pollfd p = { .fd = fd, .events = events };
        for (;;) {
                uint64_t now = now_usec();
                if (now >= deadline_usec)
                        return -ETIME;
                uint64_t msec = (deadline_usec - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC;
                int n = poll(&p, 1, (int) MIN_OF(msec, 3600000u));
                if (n > 0)
                        return 0;
                if (n < 0 && errno != EINTR)
                        return -errno;
        }
}

static int receive(int fd, uint64_t deadline_usec, size_t *ret_size) {
        for (;;) {
                int r = wait_for(fd, POLLIN, deadline_usec);
                if (r < 0)
                        return r;
                ssize_t n = recv(fd, message_in, sizeof(message_in) - 1, MSG_TRUNC | MSG_DONTWAIT);
                if (n == 0 || (n < 0 && errno == ECONNRESET))
                        return -EPIPE;
                if (n < 0 && errno != EAGAIN && errno != EINTR)
                        return -errno;
                if (n < 0)
                        continue;
                if ((size_t) n >= sizeof(message_in))
                        return -EPROTO;
                message_in[n] = '\0';
                *ret_size = (size_t) n;
                return 0;
        }
}

static int read_answer(json_object *answer, ControlError *reterr) {
        json_object *ok = NULL, *number = NULL, *message = NULL;
        if (!json_object_is_type(answer, json_type_object) || !json_object_object_get_ex(answer, "ok", &ok) ||
            !json_object_is_type(ok, json_type_boolean))
                return -EPROTO;
        if (json_object_get_boolean(ok))
                return 0;
        if (!json_object_object_get_ex(answer, "errno", &number) || !json_object_is_type(number, json_type_int) ||
            json_object_get_int(number) < 1 || json_object_get_int(number) > 4095)
                return -EPROTO;
        if (reterr && json_object_object_get_ex(answer, "message", &message))
                (void) snprintf(reterr->message, sizeof(reterr->message), "%s", json_object_get_string(message));
        return -json_object_get_int(number);
}

static int send_with(int fd, const char *text, size_t size, int passed) {
        union {
                struct cmsghdr align;
                char bytes[CMSG_SPACE(sizeof(int))];
        } control = {};
        struct iovec data = { (char *) (uintptr_t) text, size };
        struct msghdr m = { .msg_iov = &data, .msg_iovlen = 1 };
        if (passed >= 0) {
                m.msg_control = &control;
                m.msg_controllen = sizeof(control);
                *CMSG_FIRSTHDR(&m) = (struct cmsghdr) { .cmsg_level = SOL_SOCKET,
                                                        .cmsg_type = SCM_RIGHTS,
                                                        .cmsg_len = CMSG_LEN(sizeof(int)) };
                memcpy(CMSG_DATA(CMSG_FIRSTHDR(&m)), &passed, sizeof(int));
        }
        if (sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
                return errno == EPIPE || errno == ECONNRESET ? -EPIPE : -errno;
        return 0;
}

int control_call(int fd, json_object *request, uint64_t deadline_usec, json_object **ret, ControlError *reterr) {
        return control_call_with(fd, request, -EBADF, deadline_usec, ret, reterr);
}

int control_call_with(int fd, json_object *request, int passed, uint64_t deadline_usec, json_object **ret,
                      ControlError *reterr) {
        size_t size = 0;
        const char *text = json_object_to_json_string_length(request, JSON_C_TO_STRING_PLAIN, &size);
        if (reterr)
                reterr->message[0] = '\0';
        if (!text)
                return -ENOMEM;
        if (size > CONTROL_MESSAGE_MAX)
                return -EMSGSIZE;
        int r = wait_for(fd, POLLOUT, deadline_usec);
        r = r < 0 ? r : send_with(fd, text, size, passed);
        if (r < 0)
                return r;
        r = receive(fd, deadline_usec, &size);
        if (r < 0)
                return r;
        json_object *answer = json_tokener_parse(message_in);
        r = answer ? read_answer(answer, reterr) : -EPROTO;
        if (r < 0 || !ret)
                (void) json_object_put(answer);
        else
                *ret = answer;
        return r;
}
