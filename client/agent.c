/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where polkit wants a password and no desktop asks for it, pkttyagent does, on our terminal. It is ready when it
 * closes the descriptor it was given; it ends with us.
 */
#include "client/verbs.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { AGENT_READY_MSEC = 5000 };

static void agent_exec(int fd, pid_t parent) {
        char notify[16];
        (void) snprintf(notify, sizeof(notify), "%d", fd);
        if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0 || getppid() != parent || fcntl(fd, F_SETFD, 0) < 0)
                _exit(1);
        (void) execlp("pkttyagent", "pkttyagent", "--notify-fd", notify, "--fallback", (char *) NULL);
        _exit(127);
}

void agent_start(Context *c) {
        int fds[2];
        if (c->agent_pid > 0 || c->no_ask_password || !c->verb || !c->verb->changes || geteuid() == 0 ||
            isatty(STDIN_FILENO) <= 0)
                return;
        if (pipe2(fds, O_CLOEXEC) < 0)
                return;
        pid_t parent = getpid(), pid = fork();
        if (pid == 0)
                agent_exec(fds[1], parent);
        (void) close(fds[1]);
        struct pollfd p = { .fd = fds[0], .events = POLLIN };
        if (pid > 0)
                (void) poll(&p, 1, AGENT_READY_MSEC); /* without an agent polkit simply says no */
        (void) close(fds[0]);
        c->agent_pid = pid;
}

void agent_stop(Context *c) {
        if (c->agent_pid <= 0)
                return;
        (void) kill(c->agent_pid, SIGTERM);
        (void) kill(c->agent_pid, SIGCONT);
        while (waitpid(c->agent_pid, NULL, 0) < 0 && errno == EINTR)
                ;
        c->agent_pid = 0;
}
