/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Limits are set twice: in the server, by max_statement_time (MySQL: max_execution_time) and lock_wait_timeout before
 * each statement, so that it gives up and the session lives on; and here, a moment later, for a server that does not
 * run any more. The timeouts of the library are in seconds and cannot be changed once there is a session, so its calls
 * that do not block are used and we wait for the socket ourselves.
 */
#include "writers/mariadb-server.h"
#include <errmsg.h>
#include <mysql.h>
#include <mysqld_error.h>
#include <poll.h>
#include <stdio.h>

enum { ANSWER_SECONDS_MAX = 600 };
#define PACKET_BYTES_MAX (1UL << 20)
#define LOCK_SECONDS_MAX 5U              /* of MySQL, where whoever waits for a lock makes the others wait */
#define GRACE_USEC (150 * USEC_PER_MSEC) /* for a server that gives up by itself to say so */

static unsigned seconds_left(uint64_t until_usec) {
        uint64_t now = now_usec(), usec = until_usec > now ? until_usec - now : 0;
        return (unsigned) MIN_OF((usec + USEC_PER_SEC - 1) / USEC_PER_SEC, (uint64_t) ANSWER_SECONDS_MAX);
}

void server_disconnect(MariadbServer *s) {
        if (s->session)
                mysql_close(s->session);
        s->session = NULL;
}

static int failed(MariadbServer *s, const char *what, Failure *reterr) {
        s->error = mysql_errno(s->session);
        (void) failure_set(reterr, CONDITION_FAILED, "mariadb at %s: %s: %.200s", s->options->socket, what,
                           mysql_error(s->session));
        if (s->error >= CR_MIN_ERROR && s->error <= CR_MAX_ERROR)
                server_disconnect(s); /* what the library says: the session is of no use any more */
        return -EIO;
}

/* Waits for what the library waits for, or until it is too late; what it wants to be told. */
static int wait_for(const MariadbServer *s, int what, uint64_t until_usec) {
        struct pollfd p = { .fd = mysql_get_socket(s->session),
                            .events = (short) ((what & MYSQL_WAIT_READ ? POLLIN : 0) |
                                               (what & MYSQL_WAIT_WRITE ? POLLOUT : 0) |
                                               (what & MYSQL_WAIT_EXCEPT ? POLLPRI : 0)) };
        uint64_t now = now_usec(), end = usec_add(until_usec, GRACE_USEC);
        uint64_t msec = end > now ? MIN_OF((end - now) / USEC_PER_MSEC + 1, ANSWER_SECONDS_MAX * 1000ULL) : 0;
        if (poll(&p, 1, (int) msec) <= 0)
                return MYSQL_WAIT_TIMEOUT;
        return (p.revents & (POLLIN | POLLHUP | POLLERR) ? MYSQL_WAIT_READ : 0) |
               (p.revents & POLLOUT ? MYSQL_WAIT_WRITE : 0) | (p.revents & POLLPRI ? MYSQL_WAIT_EXCEPT : 0);
}

int server_connect(MariadbServer *s, uint64_t until_usec, Failure *reterr) {
        static const unsigned long packet = PACKET_BYTES_MAX;
        MYSQL *connected = NULL;
        if (s->session)
                return 0;
        s->error = 0;
        s->session = mysql_init(NULL);
        if (!s->session)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        (void) mysql_options(s->session, MYSQL_OPT_NONBLOCK, NULL);
        (void) mysql_options(s->session, MYSQL_OPT_MAX_ALLOWED_PACKET, &packet);
        (void) mysql_options(s->session, MYSQL_SET_CHARSET_NAME, "utf8mb4");
        int what = mysql_real_connect_start(&connected, s->session, NULL, s->options->user, s->options->password, NULL,
                                            0, s->options->socket, 0);
        while (what)
                what = mysql_real_connect_cont(&connected, s->session, wait_for(s, what, until_usec));
        if (connected) {
                const char *version = mysql_get_server_info(s->session);
                s->is_mysql = version && !strstr(version, "MariaDB");
                return 0;
        }
        (void) failed(s, "no connection", reterr);
        server_disconnect(s);
        return -ENOTCONN;
}

static int query(MariadbServer *s, uint64_t until_usec, const char *statement, Failure *reterr) {
        int error = 0;
        int what = mysql_real_query_start(&error, s->session, statement, strlen(statement));
        while (what)
                what = mysql_real_query_cont(&error, s->session, wait_for(s, what, until_usec));
        return error ? failed(s, statement, reterr) : 0;
}

static int query_limited(MariadbServer *s, uint64_t until_usec, const char *statement, Failure *reterr) {
        char text[160];
        int r = server_connect(s, until_usec, reterr);
        uint64_t now = now_usec(), usec = until_usec > now ? until_usec - now : 0;
        if (r < 0)
                return r;
        if (usec < USEC_PER_MSEC)
                return failure_set(reterr, CONDITION_FAILED, "mariadb at %s: no time is left", s->options->socket);
        if (s->is_mysql)
                (void) snprintf(text, sizeof(text),
                                "SET SESSION max_execution_time = %u, SESSION lock_wait_timeout = %u",
                                (unsigned) MIN_OF(usec / USEC_PER_MSEC, ANSWER_SECONDS_MAX * 1000ULL),
                                (unsigned) MAX_OF(MIN_OF(usec / USEC_PER_SEC, (uint64_t) LOCK_SECONDS_MAX), 1ULL));
        else
                (void) snprintf(text, sizeof(text),
                                "SET SESSION max_statement_time = %.3f, SESSION lock_wait_timeout = %u",
                                (double) usec / (double) USEC_PER_SEC, seconds_left(until_usec) + 1);
        r = query(s, until_usec, text, reterr);
        return r < 0 ? r : query(s, until_usec, statement, reterr);
}

static MYSQL_ROW next_row(MariadbServer *s, uint64_t until_usec, MYSQL_RES *answer) {
        MYSQL_ROW row = NULL;
        int what = mysql_fetch_row_start(&row, answer);
        while (what)
                what = mysql_fetch_row_cont(&row, answer, wait_for(s, what, until_usec));
        return row;
}

int server_ask(MariadbServer *s, uint64_t until_usec, const char *statement, unsigned max_rows, ServerRow row,
               void *target, Failure *reterr) {
        int r = query_limited(s, until_usec, statement, reterr);
        if (r < 0 || mysql_field_count(s->session) == 0)
                return r;
        MYSQL_RES *answer = mysql_use_result(s->session);
        if (!answer)
                return failed(s, statement, reterr);
        unsigned n = 0;
        MYSQL_ROW values;
        while ((values = next_row(s, until_usec, answer))) /* to its end, or the session cannot be used for the next */
                if (r >= 0 && n++ >= max_rows)
                        r = failure_set(reterr, CONDITION_LIMIT_REACHED, "mariadb at %s: %s: more than %u",
                                        s->options->socket, statement, max_rows);
                else if (r >= 0 && row)
                        r = row(target, values, reterr);
        bool broken = mysql_errno(s->session) != 0;
        mysql_free_result(answer);
        return broken ? failed(s, statement, reterr) : r;
}

int server_do(MariadbServer *s, uint64_t until_usec, const char *statement, Failure *reterr) {
        return server_ask(s, until_usec, statement, 1, NULL, NULL, reterr);
}

typedef struct Wanted {
        unsigned n;
        char *value;
} Wanted;

static int take_value(void *target, char **values, Failure *reterr) {
        Wanted *w = target;
        const char *v = values[w->n] ?: "";
        if (strlen(v) >= MARIADB_VALUE_BYTES)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "mariadb says something of %zu bytes", strlen(v));
        (void) snprintf(w->value, MARIADB_VALUE_BYTES, "%s", v);
        return 0;
}

int server_value(MariadbServer *s, uint64_t until_usec, const char *statement, unsigned n,
                 char value[static MARIADB_VALUE_BYTES], Failure *reterr) {
        Wanted w = { n, value };
        value[0] = '\0';
        return server_ask(s, until_usec, statement, 1, take_value, &w, reterr);
}

enum vss_veto server_veto(const MariadbServer *s) {
        switch (s->error) {
        case ER_ACCESS_DENIED_ERROR:
        case ER_SPECIFIC_ACCESS_DENIED_ERROR:
        case ER_ACCESS_DENIED_NO_PASSWORD_ERROR:
                return VSS_VETO_FATAL;
        case ER_CON_COUNT_ERROR:
        case ER_TOO_MANY_USER_CONNECTIONS:
        case ER_OUTOFMEMORY:
        case ER_DISK_FULL:
                return VSS_VETO_NO_RESOURCES;
        default:
                return VSS_VETO_RETRYABLE;
        }
}
