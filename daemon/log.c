/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "daemon/log.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <syslog.h>
#define SD_JOURNAL_SUPPRESS_LOCATION
#include <systemd/sd-journal.h>

enum {
        LOG_TEXT_BYTES = 800,
        LOG_KEPT_LINES = 128,
        LOG_FILE_BYTES = 4 * 1024 * 1024,
        LOG_PATH_BYTES = 4096,
        LOG_WRITER_BYTES = 256
};

typedef struct LogLine {
        int priority;
        char set[40], writer[LOG_WRITER_BYTES], phase[24], text[LOG_TEXT_BYTES];
} LogLine;

/* One per process, as stderr is. Static, so that a line in the window allocates nothing. */
static struct {
        bool journal, keep;
        unsigned n_kept, n_dropped;
        LogLine kept[LOG_KEPT_LINES];
} log_state;

void log_open(void) {
        unsigned long long dev, ino;
        struct stat st;
        const char *stream = getenv("JOURNAL_STREAM");
        log_state.journal = stream && sscanf(stream, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) >= 0 &&
                            st.st_dev == dev && st.st_ino == ino;
}

void log_to_directory(const char *directory) {
        char path[LOG_PATH_BYTES], old[LOG_PATH_BYTES + 4];
        struct stat st;
        if (log_state.journal || snprintf(path, sizeof(path), "%s/vssd.log", directory) >= (int) sizeof(path))
                return;
        (void) snprintf(old, sizeof(old), "%s.old", path);
        if (lstat(path, &st) >= 0 && st.st_size > LOG_FILE_BYTES)
                (void) rename(path, old);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd >= 0)
                (void) dup2(fd, STDERR_FILENO);
}

/* "KEY=value" into the caller's buffer; an empty value makes no field. */
static int journal_field(struct iovec *iov, int n, char *buffer, size_t size, const char *key, const char *value) {
        if (!value[0])
                return n;
        int length = snprintf(buffer, size, "%s=%s", key, value);
        iov[n] = (struct iovec) { buffer, MIN_OF((size_t) length, size - 1) };
        return n + 1;
}

static void log_to_journal(const LogLine *l) {
        char message[LOG_TEXT_BYTES + 16], priority[16], set[64], writer[LOG_WRITER_BYTES + 16], phase[48],
                digit[2] = {};
        struct iovec iov[5];
        digit[0] = (char) ('0' + (l->priority & LOG_PRIMASK));
        int n = journal_field(iov, 0, message, sizeof(message), "MESSAGE", l->text[0] ? l->text : "-");
        n = journal_field(iov, n, priority, sizeof(priority), "PRIORITY", digit);
        n = journal_field(iov, n, set, sizeof(set), "VSS_SET", l->set);
        n = journal_field(iov, n, writer, sizeof(writer), "VSS_WRITER", l->writer);
        n = journal_field(iov, n, phase, sizeof(phase), "VSS_PHASE", l->phase);
        (void) sd_journal_sendv(iov, n);
}

static void log_to_stderr(const LogLine *l) {
        char line[sizeof(*l) + 64];
        int n = snprintf(line, sizeof(line), "vssd: %s%s%s%s%s%s\n", l->text, l->set[0] ? " [set " : "", l->set,
                         l->phase[0] ? ", " : "", l->phase, l->set[0] ? "]" : "");
        struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
        if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT) || write(STDERR_FILENO, line, (size_t) n) != n)
                log_state.n_dropped++;
}

static void log_write(const LogLine *l) {
        if (log_state.journal)
                log_to_journal(l);
        else
                log_to_stderr(l);
}

/* Peers' words end up here: one line stays one line. */
static void one_line(char *text) {
        for (char *c = text; *c; c++)
                if ((unsigned char) *c < ' ' || *c == 0x7f)
                        *c = ' ';
}

void log_linev(int priority, const char *set, const char *writer, const char *phase, const char *format, va_list ap) {
        LogLine here, *l = &here;
        if (log_state.keep) {
                if (log_state.n_kept == LOG_KEPT_LINES) {
                        log_state.n_dropped++;
                        return;
                }
                l = log_state.kept + log_state.n_kept++;
        }
        l->priority = priority;
        (void) snprintf(l->set, sizeof(l->set), "%s", set ? set : "");
        (void) snprintf(l->writer, sizeof(l->writer), "%s", writer ? writer : "");
        (void) snprintf(l->phase, sizeof(l->phase), "%s", set && phase ? phase : "");
        (void) vsnprintf(l->text, sizeof(l->text), format, ap);
        one_line(l->text);
        one_line(l->writer);
        if (!log_state.keep)
                log_write(l);
}

void log_line(int priority, const char *set, const char *phase, const char *format, ...) {
        va_list ap;
        va_start(ap, format);
        log_linev(priority, set, NULL, phase, format, ap);
        va_end(ap);
}

void log_keep(bool keep) {
        log_state.keep = keep;
        if (keep)
                return;
        for (unsigned i = 0; i < log_state.n_kept; i++)
                log_write(log_state.kept + i);
        log_state.n_kept = 0;
        if (log_state.n_dropped > 0) {
                unsigned n = log_state.n_dropped;
                log_state.n_dropped = 0;
                log_line(LOG_WARNING, NULL, NULL, "%u log lines dropped: the reader of the log did not keep up", n);
        }
}
