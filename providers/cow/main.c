/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vss-cow: the commands, and the parent of `serve`, who stays until there is something to say. */
#include "providers/cow/control.h"
#include "providers/cow/frontend.h"
#include "providers/cow/tools.h"
#include "providers/cow/unit.h"
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <sys/wait.h>
#include <systemd/sd-daemon.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2 };
#define STATE_DIRECTORY "/var/lib/vss"
#define NOTIFY_USEC (5 * USEC_PER_SEC)

static int help(void) {
        puts("vss-cow: the copy-on-write engine of vss\n\n"
             "  vss-cow format --store=PATH --size=BYTES [--segment-blocks=N] [--force]\n"
             "  vss-cow serve --store=PATH --directory=DIR [--links=DIR] [--frontend=auto|ublk|fuse] [--foreground]\n"
             "  vss-cow serve --registered=UUID --directory=DIR …\n"
             "  vss-cow stop --directory=DIR [--wait=SEC]\n"
             "  vss-cow attach --all | --store-id=UUID --directory=DIR\n"
             "  vss-cow check STORE [--json] [--volume-data]\n"
             "  vss-cow dump STORE [--json] [PART]\n\n"
             "People use vssctl volume …, which starts and asks it. See vss-cow(8).\n\n"
             "  vss-cow format --store=/var/lib/vss/cow/default.store --size=10737418240\n"
             "  vss-cow check /var/lib/vss/cow/default.store");
        return EXIT_SUCCESS;
}

static int usage(const char *why) {
        fprintf(stderr, "vss-cow: %s; see vss-cow --help\n", why);
        return EXIT_USAGE;
}

/* --- serve -------------------------------------------------------------------------------------------------------- */

/* Waits for what the first server says: "STATUS TEXT". Nothing: the holder has said why itself, and ended. */
static int serve_wait(pid_t pid, int fd) {
        char line[HOLDER_PATH_MAX + 16] = "";
        size_t n = 0;
        for (ssize_t got = 1; got > 0 && n < sizeof(line) - 1 && !memchr(line, '\n', n);
             n += got > 0 ? (size_t) got : 0)
                got = read(fd, line + n, sizeof(line) - 1 - n);
        line[strcspn(line, "\n")] = '\0';
        const char *text = strchr(line, ' ');
        int status;
        if (!text)
                return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) ?
                               WEXITSTATUS(status) :
                               EXIT_FAILED;
        if (line[0] != '0' || line[1] != ' ') {
                fprintf(stderr, "vss-cow: %s\n", text + 1);
                return atoi(line);
        }
        printf("ready%s\n", text);
        return EXIT_SUCCESS;
}

static int serve_start(ServeOptions *o, bool foreground) {
        int ready[2];
        if (pipe2(ready, O_CLOEXEC) < 0)
                return EXIT_FAILED;
        pid_t pid = fork();
        if (pid < 0)
                return EXIT_FAILED;
        if (pid == 0) {
                int null = open("/dev/null", O_RDWR | O_CLOEXEC);
                (void) dup2(null, STDIN_FILENO);
                (void) dup2(null, STDOUT_FILENO);
                (void) close(ready[0]);
                if (!foreground)
                        (void) setsid();
                o->ready = ready[1];
                exit(holder_main(o));
        }
        (void) close(ready[1]);
        int r = serve_wait(pid, ready[0]);
        (void) fflush(stdout);
        int status;
        if (!foreground && r == EXIT_SUCCESS) /* the unit's process is the holder from now on, and we may go */
                if (sd_notifyf(0, "READY=1\nMAINPID=%d", (int) pid) > 0)
                        (void) sd_notify_barrier(0, NOTIFY_USEC);
        if (!foreground || r != EXIT_SUCCESS)
                return r;
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

static int serve_main(int argc, char **argv) {
        static const struct option options[] = { { "store", required_argument, NULL, 's' },
                                                 { "directory", required_argument, NULL, 'd' },
                                                 { "links", required_argument, NULL, 'l' },
                                                 { "foreground", no_argument, NULL, 'f' },
                                                 { "frontend", required_argument, NULL, 'F' },
                                                 { "registered", required_argument, NULL, 'r' },
                                                 {} };
        ServeOptions o = { .links = "" };
        const char *registered = NULL;
        StoreRegistered store = {};
        bool foreground = false;
        for (int c; (c = getopt_long(argc, argv, "", options, NULL)) >= 0;)
                if (c == 's')
                        o.store = optarg;
                else if (c == 'd')
                        o.directory = optarg;
                else if (c == 'l')
                        o.links = optarg;
                else if (c == 'r')
                        registered = optarg;
                else if (c == 'f')
                        foreground = true;
                else if (c == 'F')
                        o.frontend = frontend_by_name(optarg);
                else
                        return usage("serve does not know that option");
        if (registered && store_registered(STATE_DIRECTORY, registered, &store) < 0) {
                fprintf(stderr, "vss-cow: no store %s is registered below " STATE_DIRECTORY "/cow/stores\n",
                        registered);
                return TOOL_NOT_THERE;
        }
        if (registered) {
                o.store = store.path;
                o.frontend = frontend_by_name(isempty(store.frontend) ? "auto" : store.frontend);
        }
        if (!o.store || o.store[0] != '/' || !o.directory || o.directory[0] != '/' || optind < argc ||
            (o.links[0] && o.links[0] != '/'))
                return usage("serve needs --store=PATH or --registered=UUID, and --directory=DIR, paths absolute");
        if (o.frontend == FRONTEND_MAX)
                return usage("--frontend is auto, ublk or fuse");
        return serve_start(&o, foreground);
}

int main(int argc, char **argv) {
        static const struct {
                const char *name;
                int (*main)(int argc, char **argv);
        } verbs[] = { { "format", cow_format_main }, { "serve", serve_main },     { "attach", cow_attach_main },
                      { "stop", cow_stop_main },     { "check", cow_check_main }, { "dump", cow_dump_main } };
        if (argc < 2)
                return usage("what is it to do?");
        if (streq(argv[1], "--help") || streq(argv[1], "-h"))
                return help();
        if (streq(argv[1], "--version")) {
                puts("vss-cow " VSS_VERSION);
                return EXIT_SUCCESS;
        }
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (streq(argv[1], verbs[i].name))
                        return verbs[i].main(argc - 1, argv + 1);
        return usage("there is no such command");
}
