/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where output goes: the pager, the one document of --json, the one line of an error, progress that vanishes again.
 */
#include "client/verbs.h"
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>

/* A pager could be told to run commands; under sudo or setuid it must not. */
static void pager_exec(void) {
        const char *pager = getenv("VSSCTL_PAGER");
        if (isempty(pager))
                pager = getenv("PAGER");
        if (getenv("SUDO_UID") || getuid() != geteuid())
                (void) setenv("LESSSECURE", "1", 1);
        (void) setenv("LESS", "FRSXMK", 0);
        (void) setenv("LESSCHARSET", "utf-8", 0);
        if (!isempty(pager))
                (void) execlp("sh", "sh", "-c", pager, (char *) NULL);
        (void) execlp("less", "less", (char *) NULL);
        (void) execlp("more", "more", (char *) NULL);
        (void) execlp("cat", "cat", (char *) NULL);
        _exit(127);
}

void output_begin(Context *c) {
        int fds[2];
        c->out = stdout;
        if (c->json || c->no_pager || isatty(STDOUT_FILENO) <= 0 || streq_null(getenv("TERM"), "dumb") ||
            pipe2(fds, O_CLOEXEC) < 0)
                return;
        pid_t pid = fork();
        if (pid == 0) {
                (void) dup2(fds[0], STDIN_FILENO);
                pager_exec();
        }
        (void) close(fds[0]);
        FILE *out = pid > 0 ? fdopen(fds[1], "w") : NULL;
        if (!out) {
                (void) close(fds[1]);
                return;
        }
        (void) signal(SIGPIPE, SIG_IGN); /* quitting the pager is no error */
        c->out = out;
        c->pager_pid = pid;
}

void output_end(Context *c) {
        if (c->out && c->out != stdout) {
                (void) fclose(c->out);
                while (waitpid(c->pager_pid, NULL, 0) < 0 && errno == EINTR)
                        ;
        }
        c->out = stdout;
        (void) fflush(stdout);
}

void output_document(Context *c) {
        if (!c->json || c->printed || !c->document)
                return;
        int flags = isatty(STDOUT_FILENO) > 0 ? JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED :
                                                JSON_C_TO_STRING_PLAIN;
        (void) fputs(json_object_to_json_string_ext(c->document, flags | JSON_C_TO_STRING_NOSLASHESCAPE), stdout);
        (void) fputc('\n', stdout);
        (void) fflush(stdout);
        c->printed = true;
}

static const char *hint(const Context *c) {
        switch (c->condition) {
        case CONDITION_NOT_AUTHORIZED:
                return "; try it as root or ask for the right in polkit";
        case CONDITION_NOT_FOUND:
                return "; `vssctl sets`, `snapshots`, `volumes` and `writers` list what there is";
        case CONDITION_TOO_LATE:
                return "; use `vssctl delete`";
        default:
                return "";
        }
}

/* "vssctl VERB: what, on what, why, what to do", never more than one line. */
void output_error(Context *c) {
        output_progress_end(c);
        _cleanup_free_ char *message = text_visible(c->error_message);
        const char *verb = c->verb ? c->verb->name : NULL;
        (void) fflush(stdout);
        (void) fprintf(stderr, "vssctl%s%s: %s", verb ? " " : "", verb ? verb : "", message ? message : c->error_name);
        if (c->usage && verb)
                (void) fprintf(stderr, "; see `vssctl %s --help`\n", verb);
        else
                (void) fprintf(stderr, "%s\n", message && strchr(message, ';') ? "" : hint(c));
}

void output_note(Context *c, const char *format, ...) {
        char line[LIMIT_STRING_BYTES];
        va_list ap;
        if (c->quiet)
                return;
        va_start(ap, format);
        (void) vsnprintf(line, sizeof(line), format, ap);
        va_end(ap);
        _cleanup_free_ char *visible = text_visible(line);
        output_progress_end(c);
        (void) fprintf(stderr, "%s\n", visible ? visible : "");
}

static bool progress_shown;

void output_progress(Context *c, const char *format, ...) {
        char line[256];
        va_list ap;
        if (c->quiet || isatty(STDERR_FILENO) <= 0 || streq_null(getenv("TERM"), "dumb"))
                return;
        va_start(ap, format);
        (void) vsnprintf(line, sizeof(line), format, ap);
        va_end(ap);
        (void) fprintf(stderr, "\r\033[K%s", line);
        (void) fflush(stderr);
        progress_shown = true;
}

void output_progress_end(Context *c) {
        if (progress_shown)
                (void) fputs("\r\033[K", stderr);
        progress_shown = false;
}
