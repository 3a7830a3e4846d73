/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A MariaDB or MySQL server as its writer sees it: one session over its Unix socket. Locks belong to the session, so
 * whatever ends it lets go of them: closing it here, our death, the server's.
 */
#include "writers/program-options.h"

enum { MARIADB_VALUE_BYTES = 1024 };

struct st_mysql;

typedef struct MariadbServer {
        const WriterOptions *options; /* socket, user, password */
        struct st_mysql *session;     /* NULL: none now */
        bool is_mysql;                /* what it said it is when we connected */
        unsigned error;               /* of the server or its library, of the last call that failed */
} MariadbServer;

int server_connect(MariadbServer *s, uint64_t until_usec, Failure *reterr);
void server_disconnect(MariadbServer *s);
/*
 * One statement, which the server gives up by until_usec, waiting for locks included. If no answer has come a moment
 * after that the session is closed.
 */
int server_do(MariadbServer *s, uint64_t until_usec, const char *statement, Failure *reterr);
/* Calls row for each row of the answer, until it returns a negative errno; at most max_rows of them. */
typedef int (*ServerRow)(void *target, char **values, Failure *reterr);
int server_ask(MariadbServer *s, uint64_t until_usec, const char *statement, unsigned max_rows, ServerRow row,
               void *target, Failure *reterr);
/* The n-th value of the first row; "" if there is none or it is NULL. */
int server_value(MariadbServer *s, uint64_t until_usec, const char *statement, unsigned n,
                 char value[static MARIADB_VALUE_BYTES], Failure *reterr);
enum vss_veto server_veto(const MariadbServer *s);
