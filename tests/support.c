/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/support.h"
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define BUS_START_USEC (10 * USEC_PER_SEC)

void test_skip(const char *format, ...) {
        va_list args;
        va_start(args, format);
        fputs("skip: ", stderr);
        vfprintf(stderr, format, args);
        fputc('\n', stderr);
        va_end(args);
        exit(TEST_SKIP);
}

void test_die(const char *format, ...) {
        int saved = errno;
        va_list args;
        va_start(args, format);
        vfprintf(stderr, format, args);
        fprintf(stderr, saved ? ": %s\n" : "\n", strerror(saved));
        va_end(args);
        exit(1);
}

void nap_msec(unsigned msec) {
        struct timespec ts = { .tv_sec = msec / 1000, .tv_nsec = (long) (msec % 1000) * 1000000L };
        (void) nanosleep(&ts, NULL);
}

bool wait_until(bool (*check)(void *userdata), void *userdata, uint64_t timeout_usec) {
        uint64_t end = now_usec() + timeout_usec;
        do {
                if (check(userdata))
                        return true;
                nap_msec(5);
        } while (now_usec() < end);
        return check(userdata);
}

char *temp_dir_new(void) {
        const char *parent = getenv("VSS_TEST_DIR");
        char *path = NULL;
        if (asprintf(&path, "%s/vss-test-XXXXXX", parent ?: "/tmp") < 0 || !mkdtemp(path))
                test_die("cannot make a temporary directory");
        return path;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
        (void) remove(path);
        return 0;
}

char *temp_dir_free(char *path) {
        if (path)
                (void) nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
        free(path);
        return NULL;
}

char *file_read(const char *path) {
        FILE *f = fopen(path, "re");
        char *text = NULL;
        size_t size = 0;
        if (!f)
                test_die("cannot open %s", path);
        if (getdelim(&text, &size, EOF, f) < 0) {
                free(text);
                text = strdup("");
        }
        fclose(f);
        return text;
}

void file_write(const char *path, const char *text) {
        FILE *f = fopen(path, "we");
        if (!f || fputs(text, f) == EOF || fclose(f) == EOF)
                test_die("cannot write %s", path);
}

pid_t start_command(char *const argv[], const char *stdout_path) {
        sigset_t all, before;
        fflush(NULL);
        /* Check's own handlers must not run in the child: they signal the whole process group */
        (void) sigfillset(&all);
        (void) sigprocmask(SIG_SETMASK, &all, &before);
        pid_t pid = fork();
        if (pid != 0)
                (void) sigprocmask(SIG_SETMASK, &before, NULL);
        if (pid < 0)
                test_die("cannot fork");
        if (pid > 0)
                return pid;
        (void) signal(SIGTERM, SIG_DFL);
        (void) signal(SIGINT, SIG_DFL);
        (void) sigprocmask(SIG_SETMASK, &before, NULL);
        (void) prctl(PR_SET_PDEATHSIG, SIGTERM);
        if (stdout_path) {
                int fd = open(stdout_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
                if (fd < 0 || dup2(fd, STDOUT_FILENO) < 0)
                        _exit(127);
        }
        (void) execvp(argv[0], argv);
        fprintf(stderr, "cannot run %s: %s\n", argv[0], strerror(errno));
        _exit(127);
}

bool wait_command(pid_t pid, uint64_t timeout_usec, int *ret_status) {
        uint64_t end = now_usec() + timeout_usec;
        for (;;) {
                pid_t r = waitpid(pid, ret_status, WNOHANG);
                if (r == pid)
                        return true;
                if (r < 0 && errno != EINTR)
                        test_die("cannot wait for process %d", (int) pid);
                if (now_usec() >= end)
                        return false;
                nap_msec(2);
        }
}

int stop_command(pid_t pid, uint64_t timeout_usec) {
        int status = 0;
        (void) kill(pid, SIGTERM);
        if (wait_command(pid, timeout_usec, &status))
                return status;
        (void) kill(pid, SIGKILL);
        if (!wait_command(pid, timeout_usec + USEC_PER_SEC, &status))
                test_die("process %d does not even end on SIGKILL", (int) pid);
        return status;
}

int run_command(char *const argv[]) {
        int status = 0;
        pid_t pid = start_command(argv, NULL);
        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        test_die("cannot wait for %s", argv[0]);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* In place of every NAME in text; takes text over. */
static char *replace(char *text, const char *name, const char *value) {
        for (char *at; (at = strstr(text, name));) {
                char *grown = NULL;
                if (asprintf(&grown, "%.*s%s%s", (int) (at - text), text, value, at + strlen(name)) < 0)
                        test_die("out of memory");
                free(text);
                text = grown;
        }
        return text;
}

static void write_bus_config(const PrivateBus *bus, const char *path) {
        const char *roots[] = { getenv("VSS_BUILD"), getenv("VSS_SOURCE") };
        char policy[4096], template[4096];
        bool found = false;
        for (size_t i = 0; i < ELEMENTSOF(roots) && !found; i++) {
                snprintf(policy, sizeof(policy), "%s/units/org.vssd.Vss1.conf", roots[i] ?: "");
                found = access(policy, R_OK) == 0;
        }
        snprintf(template, sizeof(template), "%s/tests/private-bus.conf.in", roots[1] ?: ".");
        char *text = replace(file_read(template), "@DIRECTORY@", bus->directory);
        text = replace(text, "@POLICY@", found ? policy : "/nonexistent");
        text = replace(text, "@DEFAULT@", found ? "deny" : "allow");
        file_write(path, text);
        free(text);
}

static bool bus_answers(void *userdata) {
        sd_bus *bus = NULL;
        bool ok = sd_bus_open_system(&bus) >= 0;
        sd_bus_flush_close_unref(bus);
        return ok;
}

PrivateBus *private_bus_new(void) {
        PrivateBus *bus = calloc(1, sizeof(*bus));
        _cleanup_free_ char *config = NULL, *option = NULL;
        if (!bus)
                test_die("out of memory");
        bus->directory = temp_dir_new();
        (void) chmod(bus->directory, 0755);
        if (asprintf(&config, "%s/bus.conf", bus->directory) < 0 || asprintf(&option, "--config-file=%s", config) < 0 ||
            asprintf(&bus->address, "unix:path=%s/bus", bus->directory) < 0)
                test_die("out of memory");
        write_bus_config(bus, config);
        char *argv[] = { (char *) "dbus-daemon", option, (char *) "--nofork", (char *) "--nopidfile",
                         (char *) "--nosyslog",  NULL };
        bus->pid = start_command(argv, NULL);
        setenv("DBUS_SYSTEM_BUS_ADDRESS", bus->address, 1);
        if (!wait_until(bus_answers, NULL, BUS_START_USEC))
                test_die("the private bus did not come up");
        return bus;
}

PrivateBus *private_bus_free(PrivateBus *bus) {
        if (!bus)
                return NULL;
        (void) stop_command(bus->pid, 2 * USEC_PER_SEC);
        unsetenv("DBUS_SYSTEM_BUS_ADDRESS");
        bus->directory = temp_dir_free(bus->directory);
        free(bus->address);
        free(bus);
        return NULL;
}

sd_bus *private_bus_connect(PrivateBus *bus) {
        sd_bus *connection = NULL;
        int r = sd_bus_new(&connection);
        if (r < 0 || (r = sd_bus_set_address(connection, bus->address)) < 0 ||
            (r = sd_bus_set_bus_client(connection, 1)) < 0 || (r = sd_bus_start(connection)) < 0) {
                errno = -r;
                test_die("cannot connect to the private bus");
        }
        return connection;
}

void bus_pair_new(sd_bus **ret_server, sd_bus **ret_client) {
        sd_bus *server = NULL, *client = NULL;
        sd_id128_t id;
        int fds[2], r;
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                test_die("cannot make a socketpair");
        if ((r = sd_id128_randomize(&id)) < 0 || (r = sd_bus_new(&server)) < 0 || (r = sd_bus_new(&client)) < 0 ||
            (r = sd_bus_set_fd(server, fds[0], fds[0])) < 0 || (r = sd_bus_set_server(server, 1, id)) < 0 ||
            (r = sd_bus_set_fd(client, fds[1], fds[1])) < 0 || (r = sd_bus_negotiate_fds(server, 1)) < 0 ||
            (r = sd_bus_negotiate_fds(client, 1)) < 0 ||
            (r = sd_bus_negotiate_creds(server, 1, SD_BUS_CREDS_EUID)) < 0 || (r = sd_bus_start(server)) < 0 ||
            (r = sd_bus_start(client)) < 0) {
                errno = -r;
                test_die("cannot start the bus pair");
        }
        bus_pair_process(server, client);
        *ret_server = server;
        *ret_client = client;
}

void bus_pair_process(sd_bus *a, sd_bus *b) {
        for (int idle = 0; idle < 2;) {
                int r = sd_bus_process(a, NULL), q = sd_bus_process(b, NULL);
                idle = r > 0 || q > 0 ? 0 : idle + 1;
        }
}
