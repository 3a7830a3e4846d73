/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --host: vssctl itself runs on the other host, not only its bus connection, because mounts, directories, descriptors
 * and commands are local matters. "--" stands before the host, so that a name can never be an option of ssh.
 */
#include "client/verbs.h"
#include <signal.h>
#include <sys/wait.h>

enum { SSH_FAILED = 255 }; /* what ssh ends with when it is ssh that failed */

/* One word for the shell on the other side. */
static int append_quoted(char **line, const char *word) {
        _cleanup_free_ char *quoted = malloc(4 * strlen(word) + 4);
        char *q = quoted, *longer = NULL;
        if (!quoted)
                return -ENOMEM;
        *q++ = '\'';
        for (const char *p = word; *p; p++)
                q = *p == '\'' ? stpcpy(q, "'\\''") : (*q = *p, q + 1);
        *q++ = '\'';
        *q = 0;
        if (asprintf(&longer, "%s %s", *line, quoted) < 0)
                return -ENOMEM;
        free(*line);
        *line = longer;
        return 0;
}

/* Is argv[i] the host option? Then how many words it takes. */
static size_t host_words(char **argv, size_t i) {
        const char *word = argv[i];
        if (strncmp(word, "--host=", 7) == 0)
                return 1;
        if (streq(word, "--host") || streq(word, "-H"))
                return 2;
        return strncmp(word, "-H", 2) == 0 ? 1 : 0;
}

/* An interrupt is for the other side, which gets it through ssh. */
static int ssh_run(const char *const *argv, int *ret_status) {
        void (*interrupt)(int) = signal(SIGINT, SIG_IGN);
        pid_t pid = fork();
        if (pid == 0) {
                (void) signal(SIGINT, interrupt);
                (void) execvp("ssh", (char **) (uintptr_t) argv);
                (void) fprintf(stderr, "vssctl: cannot start ssh: %s\n", strerror(errno));
                _exit(SSH_FAILED);
        }
        while (pid > 0 && waitpid(pid, ret_status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        (void) signal(SIGINT, interrupt);
        return pid < 0 ? -errno : 0;
}

int host_exec(Context *c) {
        _cleanup_free_ char *line = strdup("vssctl");
        bool behind = false;
        for (size_t i = 1; line && c->arguments[i];) {
                behind = behind || streq(c->arguments[i], "--");
                size_t skip = behind ? 0 : host_words(c->arguments, i);
                if (skip == 0 && append_quoted(&line, c->arguments[i]) < 0)
                        return context_fail(c, CONDITION_LIMIT_REACHED, "out of memory");
                i += MAX_OF(skip, 1u);
        }
        bool terminal = isatty(STDIN_FILENO) > 0 && isatty(STDOUT_FILENO) > 0 && !c->json;
        const char *argv[8] = { "ssh" };
        size_t n = 1;
        if (terminal)
                argv[n++] = "-t"; /* so that an interrupt arrives there */
        argv[n++] = "--";
        argv[n++] = given_value(c, "host");
        argv[n++] = line ? line : "vssctl";
        argv[n] = NULL;
        int status = 0;
        if (ssh_run(argv, &status) < 0)
                return context_fail(c, CONDITION_UNAVAILABLE, "cannot start ssh to reach %s: %s",
                                    given_value(c, "host"), strerror(errno));
        c->exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        c->printed = c->exit_status != SSH_FAILED; /* the other vssctl wrote the document */
        if (c->exit_status != SSH_FAILED || streq(c->verb->name, "run"))
                return 0;
        c->exit_status = -1;
        return context_fail(c, CONDITION_UNAVAILABLE, "ssh cannot reach %s, or cannot find vssctl there",
                            given_value(c, "host"));
}
