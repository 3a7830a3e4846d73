/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * As much of logind as vssd asks: Inhibit() hands out a pipe, and "lock MODE WHAT" and "release MODE" on stdout say
 * when it was taken and closed. SIGUSR1: the machine is about to sleep. With "hang" Inhibit() never answers, with
 * "refuse" it is an error.
 */
#include "protocol/base.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#define LOGIN_INTERFACE "org.freedesktop.login1.Manager"
#define LOGIN_PATH "/org/freedesktop/login1"

static struct {
        sd_bus *bus;
        sd_event *event;
        const char *manner;
} login;

static int on_closed(sd_event_source *source, int fd, uint32_t events, void *userdata) {
        char *mode = userdata;
        printf("release %s\n", mode);
        (void) close(fd);
        free(mode);
        sd_event_source_unref(source);
        return 0;
}

static int on_inhibit(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        const char *what, *who, *why, *mode;
        int ends[2];
        int r = sd_bus_message_read(m, "ssss", &what, &who, &why, &mode);
        if (r < 0)
                return r;
        printf("lock %s %s\n", mode, what);
        if (streq(login.manner, "hang"))
                return 1;
        if (streq(login.manner, "refuse"))
                return sd_bus_error_set(reterr, SD_BUS_ERROR_ACCESS_DENIED, "no");
        if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        sd_event_source *source = NULL;
        r = sd_event_add_io(login.event, &source, ends[0], EPOLLIN, on_closed, strdup(mode));
        if (r >= 0)
                r = sd_bus_reply_method_return(m, "h", ends[1]);
        (void) close(ends[1]);
        return r;
}

static int on_signal(sd_event_source *source, const struct signalfd_siginfo *si, void *userdata) {
        return sd_bus_emit_signal(login.bus, LOGIN_PATH, LOGIN_INTERFACE, "PrepareForSleep", "b", 1);
}

static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_METHOD("Inhibit", "ssss", "h", on_inhibit, SD_BUS_VTABLE_UNPRIVILEGED),
        SD_BUS_SIGNAL("PrepareForSleep", "b", 0),
        SD_BUS_VTABLE_END,
};

int main(int argc, char *argv[]) {
        sigset_t mask;
        login.manner = argc > 1 ? argv[1] : "";
        (void) setvbuf(stdout, NULL, _IOLBF, 0);
        (void) sigemptyset(&mask);
        (void) sigaddset(&mask, SIGUSR1);
        (void) sigprocmask(SIG_BLOCK, &mask, NULL);
        int r = sd_event_default(&login.event);
        if (r >= 0)
                r = sd_bus_open_system(&login.bus);
        if (r >= 0)
                r = sd_bus_attach_event(login.bus, login.event, 0);
        if (r >= 0)
                r = sd_bus_add_object_vtable(login.bus, NULL, LOGIN_PATH, LOGIN_INTERFACE, vtable, NULL);
        if (r >= 0)
                r = sd_event_add_signal(login.event, NULL, SIGUSR1, on_signal, NULL);
        if (r >= 0)
                r = sd_bus_request_name(login.bus, "org.freedesktop.login1", 0);
        if (r >= 0)
                puts("ready");
        if (r >= 0)
                r = sd_event_loop(login.event);
        if (r < 0)
                fprintf(stderr, "fake-login: %s\n", strerror(-r));
        return r < 0;
}
