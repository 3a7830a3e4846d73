/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/child.h"
#include "daemon/host-mounts.h"
#include "daemon/log.h"
#include "daemon/manager.h"
#include "daemon/provider-unit.h"
#include "protocol/urgency.h"
#include <getopt.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <syslog.h>
#include <systemd/sd-daemon.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

static void help(void) {
        (void) printf("vssd [OPTION…]\n\n"
                      "Coordinates volume snapshots with the applications that write to the volumes.\n"
                      "Owns " VSS_BUS_NAME " on the system bus; started on demand, exits when idle.\n\n"
                      "  -h --help        show this help\n"
                      "     --version     show the version\n"
                      "     --foreground  stay in the foreground (always so)\n"
                      "     --host-mounts mount and look in the mount namespace of PID 1, not in its own\n"
                      "     --provider-socket=PATH\n"
                      "                   provider hosts are started by whoever listens there, not by vssd\n\n"
                      "DBUS_SYSTEM_BUS_ADDRESS names another bus; STATE_DIRECTORY, RUNTIME_DIRECTORY,\n"
                      "CONFIGURATION_DIRECTORY and LOGS_DIRECTORY move the directories. See vssd(8).\n");
}

/* 1: go on; 0: done; -EINVAL. */
static int parse_arguments(int argc, char *argv[], bool *ret_host_mounts) {
        enum { ARG_VERSION = 256, ARG_FOREGROUND, ARG_HOST_MOUNTS, ARG_PROVIDER_SOCKET };
        static const struct option options[] = {
                { "help", no_argument, NULL, 'h' },
                { "version", no_argument, NULL, ARG_VERSION },
                { "foreground", no_argument, NULL, ARG_FOREGROUND },
                { "host-mounts", no_argument, NULL, ARG_HOST_MOUNTS },
                { "provider-socket", required_argument, NULL, ARG_PROVIDER_SOCKET },
                {},
        };
        for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) >= 0;)
                switch (c) {
                case 'h':
                        help();
                        return 0;
                case ARG_VERSION:
                        (void) printf("vss %s\n", VSS_VERSION);
                        return 0;
                case ARG_FOREGROUND:
                        break;
                case ARG_HOST_MOUNTS:
                        *ret_host_mounts = true;
                        break;
                case ARG_PROVIDER_SOCKET:
                        if (provider_unit_set_socket(optarg) >= 0)
                                break;
                        (void) fprintf(
                                stderr,
                                "vssd: --provider-socket=%s: not the absolute path of a socket; see vssd --help\n",
                                optarg);
                        return -EINVAL;
                default:
                        return -EINVAL;
                }
        if (optind < argc) {
                (void) fprintf(stderr, "vssd: %s: takes no arguments; see vssd --help\n", argv[optind]);
                return -EINVAL;
        }
        return 1;
}

static int run(void) {
        _cleanup_(manager_freep) Manager *m = NULL;
        /* Memory must not be waited for that only a write to what we hold could free (hazards D1). */
        (void) prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
        int r = manager_new(&m);
        if (r >= 0)
                r = manager_start(m);
        urgency_set(URGENCY_LATER); /* not before what a dead vssd left frozen has been thawed */
        if (r >= 0)
                r = manager_run(m);
        (void) sd_notify(0, "STOPPING=1");
        return r;
}

int main(int argc, char *argv[]) {
        bool host_mounts = false;
        int r = parse_arguments(argc, argv, &host_mounts);
        if (r <= 0)
                return r < 0 ? condition_exit_code(CONDITION_INVALID_ARGUMENT) : EXIT_SUCCESS;
        (void) umask(077);
        log_open();
        if (geteuid() != 0) {
                log_line(LOG_ERR, NULL, NULL, "must be run as root");
                return condition_exit_code(CONDITION_NOT_AUTHORIZED);
        }
        if (host_mounts && host_mounts_open() < 0)
                return EXIT_FAILURE;
        child_set_mounts(host_mounts_namespace());
        return run() != 0 ? EXIT_FAILURE : EXIT_SUCCESS; /* positive: the bus went away */
}
