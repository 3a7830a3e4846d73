/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A PostgreSQL server as its writer sees it: one session, of which no call takes longer than it may. A backup belongs
 * to the session, so whatever ends that ends the backup: closing it here, our death, the server's.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include "writers/writer-lib.h"

struct pg_conn;

typedef struct PgServer {
        char *dsn;
        struct pg_conn *session; /* NULL: none now */
        char state[6];           /* SQLSTATE of the last call that failed, or "" */
} PgServer;

/* Only servers of this machine, whose files we see, over a Unix socket; and no password where everybody can read it. */
int server_dsn_check(const char *dsn, Failure *reterr);
int server_connect(PgServer *s, uint64_t until_usec, Failure *reterr);
void server_disconnect(PgServer *s);
/* Called for each row; values are NULL where the column is. */
typedef int (*ServerRow)(void *target, char *const *values, Failure *reterr);
/*
 * One statement, which the server gives up by until_usec, waiting for locks included; if no answer has come a moment
 * after that the session is closed. row may be NULL. At most SERVER_ROWS_MAX rows of SERVER_COLUMNS_MAX columns.
 */
enum { SERVER_ROWS_MAX = 4096, SERVER_COLUMNS_MAX = 8 };
int server_ask(PgServer *s, uint64_t until_usec, const char *statement, ServerRow row, void *target, Failure *reterr);
int server_do(PgServer *s, uint64_t until_usec, const char *statement, Failure *reterr);
enum vss_veto server_veto(const PgServer *s);
