/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stopping a service, and whose rights files are written with. Which unit is stopped is the administrator's word alone:
 * --service, or service= in writers.d/NAME.conf; a manifest or a writer could name any (hazards C1). A writer's answer
 * and its document decide where files go, so they are written with the rights of its account when it is not root's.
 */
#include "client/restore.h"
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#define SERVICE_USEC (300 * USEC_PER_SEC) /* a database may write for minutes before it stops */

static int read_configured(RestorePart *p, const char *directory) {
        const char *name = p->saved->name;
        _cleanup_free_ char *path = NULL, *line = NULL;
        size_t size = 0;
        struct stat s;
        if (asprintf(&path, "%s/writers.d/%s.conf", directory, name) < 0)
                return -ENOMEM;
        FILE *f = fopen(path, "re");
        if (!f)
                return 0;
        bool trusted = fstat(fileno(f), &s) == 0 && s.st_uid == 0 && !(s.st_mode & (S_IWGRP | S_IWOTH));
        while (trusted && !p->service && getline(&line, &size, f) > 0) {
                line[strcspn(line, "\r\n")] = '\0';
                if (strncmp(line, "service=", 8) == 0 && !check_unit(line + 8) && line[8] != '-')
                        p->service = strdup(line + 8);
        }
        (void) fclose(f);
        return 0;
}

int service_find(RestoreWork *w, RestorePart *p) {
        const char *given = given_value(w->context, "service"), *directory = secure_getenv("CONFIGURATION_DIRECTORY");
        if (given)
                p->service = strdup(given);
        else if (read_configured(p, isempty(directory) ? "/etc/vss" : directory) < 0)
                return part_fail(p, CONDITION_LIMIT_REACHED, "out of memory");
        if (p->service)
                return 0;
        return part_fail(
                p, CONDITION_NOT_SUPPORTED,
                "its service must be stopped: name it with --service=UNIT or as service= in writers.d/%s.conf, "
                "or stop it and say --no-service",
                p->saved->name);
}

static int wait_for(pid_t pid, int *ret_status) {
        _cleanup_close_ int fd = pidfd_open(pid, 0);
        struct pollfd f = { .fd = fd, .events = POLLIN };
        uint64_t end = usec_add(now_usec(), SERVICE_USEC);
        int r = 0;
        while (fd >= 0 && now_usec() < end && (r = poll(&f, 1, (int) ((end - now_usec()) / 1000 + 1))) < 0 &&
               errno == EINTR)
                ;
        if (fd >= 0 && r <= 0)
                (void) kill(pid, SIGKILL);
        while (waitpid(pid, ret_status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        return fd >= 0 && r <= 0 ? -ETIME : 0;
}

int systemctl(const char *verb, const char *unit) {
        char *const argv[] = { (char *) "systemctl", (char *) verb, unit ? (char *) "--" : NULL, (char *) unit, NULL };
        posix_spawn_file_actions_t actions;
        pid_t pid;
        int status = 0;
        (void) posix_spawn_file_actions_init(&actions);
        (void) posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO); /* stdout is the document's */
        int r = -posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
        (void) posix_spawn_file_actions_destroy(&actions);
        r = r < 0 ? r : wait_for(pid, &status);
        return r < 0 ? r : WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 1;
}

int service_call(Context *c, const char *verb, const char *unit) {
        int r = systemctl(verb, unit);
        if (r == 0)
                return 0;
        if (r < 0)
                return context_fail(c, r == -ETIME ? CONDITION_DEADLINE_PASSED : CONDITION_FAILED,
                                    "systemctl %s %s: %s", verb, unit, strerror(-r));
        return context_fail(c, CONDITION_FAILED, "systemctl %s %s failed: `systemctl status %s` tells why", verb, unit,
                            unit);
}

int rights_take(const RestorePart *p) {
        if (geteuid() != 0 || !p->with_writer || p->uid == 0 || !isempty(p->wishes.to))
                return 0;
        const struct passwd *pw = getpwuid(p->uid);
        if (!pw || initgroups(pw->pw_name, pw->pw_gid) < 0 || setegid(pw->pw_gid) < 0 || seteuid(p->uid) < 0)
                return pw ? -errno : -ENOENT;
        return 0;
}

void rights_drop(void) {
        if (getuid() != 0 || (geteuid() == 0 && getegid() == getgid()))
                return;
        if (seteuid(0) < 0 || setegid(getgid()) < 0 || setgroups(0, NULL) < 0)
                abort(); /* neither account's rights for sure: nothing may go on */
}
