/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Limits are set twice: in the server, by statement_timeout and lock_timeout, so that it gives up and the session lives
 * on; and here, a moment later, for a server that does not run any more. libpq waits without end, so its calls that do
 * not block are used and we wait for the socket ourselves. Rows come one at a time: what a server sends without end is
 * not collected.
 */
#include "writers/postgresql-server.h"
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>

enum { WAIT_MSEC_MAX = 600 * 1000 };
#define GRACE_USEC (150 * USEC_PER_MSEC) /* for a server that gives up by itself to say so */

void server_disconnect(PgServer *s) {
        if (s->session)
                PQfinish(s->session);
        s->session = NULL;
}

/* False: out of time. */
static bool wait_for(const PgServer *s, short events, uint64_t until_usec) {
        struct pollfd p = { .fd = PQsocket(s->session), .events = events };
        uint64_t now = now_usec(), end = usec_add(until_usec, GRACE_USEC);
        uint64_t msec = end > now ? MIN_OF((end - now) / USEC_PER_MSEC + 1, (uint64_t) WAIT_MSEC_MAX) : 0;
        return p.fd >= 0 && poll(&p, 1, (int) msec) > 0;
}

/* libpq's texts have several lines and end with one. What is long is our statement, and what tells something its end.
 */
static int fail(PgServer *s, const char *what, const char *text, Failure *reterr) {
        char line[256];
        (void) snprintf(line, sizeof(line), "%s", text);
        line[strcspn(line, "\n")] = '\0';
        return failure_set(reterr, CONDITION_FAILED, "postgresql: %.80s%s: %s", what, strlen(what) > 80 ? "..." : "",
                           line);
}

static int fail_session(PgServer *s, const char *what, const char *text, Failure *reterr) {
        int r = fail(s, what, text, reterr);
        server_disconnect(s);
        return r;
}

/* A refused connection has no SQLSTATE in this library: only its text. */
static void state_from_text(PgServer *s, const char *text) {
        const char *state = strstr(text, "too many clients") || strstr(text, "remaining connection slots") ? "53300" :
                            strstr(text, "authentication failed") || strstr(text, "no password supplied")  ? "28P01" :
                                                                                                             "";
        (void) snprintf(s->state, sizeof(s->state), "%s", state);
}

static const char *option_value(const PQconninfoOption *options, const char *key) {
        for (const PQconninfoOption *o = options; o->keyword; o++)
                if (streq(o->keyword, key))
                        return o->val ?: "";
        return "";
}

int server_dsn_check(const char *dsn, Failure *reterr) {
        char *text = NULL;
        int r = 0;
        PQconninfoOption *options = PQconninfoParse(dsn, &text);
        if (!options) {
                if (text)
                        text[strcspn(text, "\n")] = '\0';
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT, "--dsn: %.200s", text ?: "out of memory");
        } else if (option_value(options, "password")[0])
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                "--dsn has a password: put it into a file that passfile= names");
        else if (option_value(options, "hostaddr")[0] ||
                 (option_value(options, "host")[0] && option_value(options, "host")[0] != '/'))
                r = failure_set(reterr, CONDITION_INVALID_ARGUMENT,
                                "--dsn names a host; host= has to be the directory of the server's socket");
        PQfreemem(text);
        PQconninfoFree(options);
        return r;
}

int server_connect(PgServer *s, uint64_t until_usec, Failure *reterr) {
        if (s->session)
                return 0;
        s->state[0] = '\0';
        s->session = PQconnectStart(s->dsn);
        if (!s->session)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        PostgresPollingStatusType what = PGRES_POLLING_WRITING;
        while (PQstatus(s->session) != CONNECTION_BAD && what != PGRES_POLLING_OK && what != PGRES_POLLING_FAILED) {
                if (!wait_for(s, what == PGRES_POLLING_READING ? POLLIN : POLLOUT, until_usec))
                        return fail_session(s, "no connection", "no answer in time", reterr);
                what = PQconnectPoll(s->session);
        }
        if (PQstatus(s->session) == CONNECTION_OK)
                return PQsetnonblocking(s->session, 1);
        state_from_text(s, PQerrorMessage(s->session));
        return fail_session(s, "no connection", PQerrorMessage(s->session), reterr);
}

static int send_statement(PgServer *s, uint64_t until_usec, const char *statement, Failure *reterr) {
        int more = PQsendQuery(s->session, statement) ? PQflush(s->session) : -1;
        if (more >= 0)
                (void) PQsetSingleRowMode(s->session);
        while (more > 0) {
                if (!wait_for(s, POLLIN | POLLOUT, until_usec))
                        return fail_session(s, statement, "no answer in time", reterr);
                more = PQconsumeInput(s->session) ? PQflush(s->session) : -1;
        }
        return more < 0 ? fail_session(s, statement, PQerrorMessage(s->session), reterr) : 0;
}

static int take_row(const PGresult *answer, ServerRow row, void *target, Failure *reterr) {
        char *values[SERVER_COLUMNS_MAX] = {};
        int columns = PQnfields(answer);
        if (columns > SERVER_COLUMNS_MAX)
                return failure_set(reterr, CONDITION_LIMIT_REACHED, "postgresql answers with %d columns", columns);
        for (int i = 0; i < columns; i++)
                values[i] = PQgetisnull(answer, 0, i) ? NULL : PQgetvalue(answer, 0, i);
        return row ? row(target, values, reterr) : 0;
}

/* 1: that was the last. */
static int next_answer(PgServer *s, uint64_t until_usec, const char *statement, PGresult **ret, Failure *reterr) {
        while (PQisBusy(s->session)) {
                if (!wait_for(s, POLLIN, until_usec))
                        return fail_session(s, statement, "no answer in time", reterr);
                if (!PQconsumeInput(s->session))
                        return fail_session(s, statement, PQerrorMessage(s->session), reterr);
        }
        *ret = PQgetResult(s->session);
        return *ret ? 0 : 1;
}

static int query(PgServer *s, uint64_t until_usec, const char *statement, ServerRow row, void *target,
                 Failure *reterr) {
        unsigned rows = 0;
        int r = send_statement(s, until_usec, statement, reterr), end = 0;
        if (r < 0)
                return r;
        for (PGresult *answer = NULL; (end = next_answer(s, until_usec, statement, &answer, reterr)) == 0;
             PQclear(answer)) {
                ExecStatusType status = PQresultStatus(answer);
                if (r < 0)
                        continue; /* to its end, or the session cannot be used for the next */
                if (status == PGRES_SINGLE_TUPLE && rows++ >= SERVER_ROWS_MAX)
                        r = failure_set(reterr, CONDITION_LIMIT_REACHED, "postgresql answers with more than %d rows",
                                        SERVER_ROWS_MAX);
                else if (status == PGRES_SINGLE_TUPLE)
                        r = take_row(answer, row, target, reterr);
                else if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK) {
                        const char *state = PQresultErrorField(answer, PG_DIAG_SQLSTATE);
                        (void) snprintf(s->state, sizeof(s->state), "%.5s", state ?: "");
                        r = fail(s, statement, PQresultErrorMessage(answer), reterr);
                }
        }
        if (end < 0)
                return end;
        if (PQstatus(s->session) == CONNECTION_BAD)
                server_disconnect(s);
        return r;
}

int server_ask(PgServer *s, uint64_t until_usec, const char *statement, ServerRow row, void *target, Failure *reterr) {
        char limits[128];
        bool kept = s->session;
        int r = server_connect(s, until_usec, reterr);
        uint64_t now = now_usec(), msec = until_usec > now ? (until_usec - now) / USEC_PER_MSEC : 0;
        if (r < 0)
                return r;
        if (msec == 0)
                return failure_set(reterr, CONDITION_FAILED, "postgresql: no time is left");
        msec = MIN_OF(msec, (uint64_t) WAIT_MSEC_MAX);
        (void) snprintf(limits, sizeof(limits), "SET statement_timeout = %u; SET lock_timeout = %u", (unsigned) msec,
                        (unsigned) msec);
        s->state[0] = '\0';
        r = query(s, until_usec, limits, NULL, NULL, reterr);
        /* The server was started anew since: a backup that was being made ended with the session, and says so. */
        if (r < 0 && kept && (!s->session || streq(s->state, "57P01"))) {
                server_disconnect(s);
                r = server_connect(s, until_usec, reterr);
                r = r < 0 ? r : query(s, until_usec, limits, NULL, NULL, reterr);
        }
        return r < 0 ? r : query(s, until_usec, statement, row, target, reterr);
}

int server_do(PgServer *s, uint64_t until_usec, const char *statement, Failure *reterr) {
        return server_ask(s, until_usec, statement, NULL, NULL, reterr);
}

/* Classes of SQLSTATE: 28 authorization, 42501 privilege, 53 resources (too many connections, disk full). */
enum vss_veto server_veto(const PgServer *s) {
        if (strncmp(s->state, "28", 2) == 0 || streq(s->state, "42501"))
                return VSS_VETO_FATAL;
        return strncmp(s->state, "53", 2) == 0 ? VSS_VETO_NO_RESOURCES : VSS_VETO_RETRYABLE;
}
