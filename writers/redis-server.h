/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A Redis server as its writer sees it: one connection over its Unix socket, made anew when it is needed, and calls
 * that never take longer than they may. What the server says is not believed to be of any length or form.
 */
#include "writers/program-options.h"

struct redisContext;

typedef struct RedisServer {
        const WriterOptions *options;    /* socket, user, password */
        struct redisContext *connection; /* NULL: none now */
} RedisServer;

/* Whether there was a connection does not matter; one that fails in the middle of a call is closed. */
int redis_connect(RedisServer *s, uint64_t until_usec, Failure *reterr);
void redis_disconnect(RedisServer *s);
/*
 * A command. ret: its answer as text (of CONFIG GET the value), owned by the caller; NULL: its success is all that
 * counts. -EBUSY: the server said that it is loading or busy, -ETIME: no answer in time, -EACCES: not allowed,
 * -ENOTCONN.
 */
typedef struct RedisCommand {
        const char *const *argv;
        size_t n;
        char **ret;
} RedisCommand;
#define REDIS_COMMAND(ret, ...) \
        (RedisCommand) { \
                (const char *const[]) { __VA_ARGS__ }, sizeof((const char *const[]) { __VA_ARGS__ }) / sizeof(char *), \
                        ret \
        }
/* Several, sent at once and done in their order; of those that fail the first is told, and the others are done all the
 * same. A ret that got no answer is not touched. */
int redis_calls(RedisServer *s, uint64_t until_usec, const RedisCommand *commands, size_t n, Failure *reterr);
#define REDIS_CALL(s, until_usec, ret, reterr, ...) \
        redis_calls(s, until_usec, &REDIS_COMMAND(ret, __VA_ARGS__), 1, reterr)
int redis_config(RedisServer *s, uint64_t until_usec, const char *key, char **ret, Failure *reterr);

/* The value of a line of what INFO printed, at most size - 1 bytes of it; "" if there is none. */
const char *redis_info_value(const char *info, const char *key, char *value, size_t size);
bool redis_info_is(const char *info, const char *key, const char *value);
