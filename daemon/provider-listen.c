/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/provider-listen.h"
#include "daemon/child.h"
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

enum { TRY_AGAIN_USEC = 20000 };

/* In the child: the connection takes the listener's place. */
static _Noreturn void become_host(int connection, const char *program) {
        char *const argv[] = { (char *) (uintptr_t) program, (char *) "--attach", NULL };
        (void) signal(SIGCHLD, SIG_DFL);
        if (dup2(connection, CHILD_SOCKET_FD) == CHILD_SOCKET_FD && close_range(CHILD_SOCKET_FD + 1, UINT_MAX, 0) >= 0)
                (void) execv(program, argv);
        _exit(EXIT_FAILURE);
}

static bool hosts_are_left(void) {
        return waitpid(-1, NULL, WNOHANG) >= 0;
}

int provider_listen_option(const char *word) {
        char *end;
        if (streq(word, "--listen"))
                return PROVIDER_LISTEN_IDLE_MSEC;
        if (strncmp(word, "--listen=", 9) != 0)
                return 0;
        long msec = strtol(word + 9, &end, 10);
        return *end || end == word + 9 || msec < 1 || msec > PROVIDER_LISTEN_IDLE_MSEC ? 0 : (int) msec;
}

int provider_listen(int socket, const char *program, int idle_msec) {
        assert(socket == CHILD_SOCKET_FD && idle_msec > 0);
        struct pollfd p = { .fd = socket, .events = POLLIN };
        (void) signal(SIGCHLD, SIG_IGN); /* none becomes a zombie */
        for (;;) {
                int n = poll(&p, 1, idle_msec);
                if (n < 0 && errno != EINTR)
                        return -errno;
                if (n == 0 && !hosts_are_left()) /* who connects now waits in the socket, for the next of us */
                        return 0;
                if (n <= 0)
                        continue;
                _cleanup_close_ int connection = accept4(socket, NULL, NULL, SOCK_CLOEXEC);
                if (connection < 0 && errno == EINVAL) /* it does not listen, and never will */
                        return -errno;
                pid_t pid = connection < 0 ? -1 : fork();
                if (pid == 0)
                        become_host(connection, program);
                if (pid < 0) /* out of descriptors or processes: vssd sees a host that died */
                        (void) usleep(TRY_AGAIN_USEC);
        }
}
