/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --host: vssctl itself runs on the other host, not only its bus connection, because mounts, directories, descriptors
 * and commands are local matters. "--" stands before the host, so that a name can never be an option of ssh.
 */
#include "client/verbs.h"

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
        (void) execvp("ssh", (char **) (uintptr_t) argv);
        return context_fail(c, CONDITION_UNAVAILABLE, "cannot start ssh to reach %s: %s", given_value(c, "host"),
                            strerror(errno));
}
