/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Each call gets what is left of the time as the timeout of the socket. After one that timed out the connection is
 * closed: its answer might come later and be taken for that of the next.
 */
#include "writers/redis-server.h"
#include <hiredis/hiredis.h>
#include <stdio.h>

enum { ANSWER_BYTES_MAX = 64 * 1024, ARGUMENTS_MAX = 8 };

static struct timeval left(uint64_t until_usec) {
        uint64_t now = now_usec(), usec = until_usec > now ? until_usec - now : 0;
        usec = MIN_OF(MAX_OF(usec, USEC_PER_MSEC), 600 * USEC_PER_SEC);
        return (struct timeval) { .tv_sec = (time_t) (usec / USEC_PER_SEC),
                                  .tv_usec = (suseconds_t) (usec % USEC_PER_SEC) };
}

void redis_disconnect(RedisServer *s) {
        if (s->connection)
                redisFree(s->connection);
        s->connection = NULL;
}

static int not_connected(RedisServer *s, const char *why, Failure *reterr) {
        (void) failure_set(reterr, CONDITION_FAILED, "no connection to redis at %s: %.200s", s->options->socket, why);
        redis_disconnect(s);
        return -ENOTCONN;
}

int redis_connect(RedisServer *s, uint64_t until_usec, Failure *reterr) {
        if (s->connection)
                return 0;
        s->connection = redisConnectUnixWithTimeout(s->options->socket, left(until_usec));
        if (!s->connection)
                return not_connected(s, "out of memory", reterr);
        if (s->connection->err)
                return not_connected(s, s->connection->errstr, reterr);
        if (!s->options->password)
                return 0;
        int r = s->options->user ?
                        REDIS_CALL(s, until_usec, NULL, reterr, "AUTH", s->options->user, s->options->password) :
                        REDIS_CALL(s, until_usec, NULL, reterr, "AUTH", s->options->password);
        if (r < 0)
                redis_disconnect(s);
        return r;
}

/* The errors that tell what to do begin with a word of their own. */
static int refused(RedisServer *s, const char *command, const char *text, Failure *reterr) {
        static const struct {
                const char *word;
                int error;
        } words[] = { { "LOADING ", -EBUSY }, { "BUSY ", -EBUSY },       { "MASTERDOWN ", -EBUSY },
                      { "NOAUTH ", -EACCES }, { "WRONGPASS ", -EACCES }, { "NOPERM ", -EACCES } };
        (void) failure_set(reterr, CONDITION_FAILED, "redis at %s refuses %s: %.200s", s->options->socket, command,
                           text);
        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (strncmp(text, words[i].word, strlen(words[i].word)) == 0)
                        return words[i].error;
        return -EIO;
}

static int take_answer(RedisServer *s, const char *command, const redisReply *a, char **ret, Failure *reterr) {
        if (a->type == REDIS_REPLY_ERROR)
                return refused(s, command, a->str, reterr);
        if (!ret)
                return 0;
        if (a->type == REDIS_REPLY_ARRAY && a->elements == 2) /* CONFIG GET: key and value */
                a = a->element[1];
        if ((a->type != REDIS_REPLY_STRING && a->type != REDIS_REPLY_STATUS) || a->len > ANSWER_BYTES_MAX ||
            strlen(a->str) != a->len)
                return failure_set(reterr, CONDITION_FAILED, "redis at %s answers %s with something else",
                                   s->options->socket, command);
        *ret = strdup(a->str);
        return *ret ? 0 : failure_set(reterr, CONDITION_FAILED, "out of memory");
}

static int send_all(RedisServer *s, const RedisCommand *commands, size_t n) {
        for (size_t i = 0; i < n; i++) {
                const char *arguments[ARGUMENTS_MAX];
                assert(commands[i].n > 0 && commands[i].n <= ARGUMENTS_MAX);
                memcpy(arguments, commands[i].argv, commands[i].n * sizeof(arguments[0]));
                if (redisAppendCommandArgv(s->connection, (int) commands[i].n, arguments, NULL) != REDIS_OK)
                        return -ENOMEM;
        }
        return 0;
}

static int no_answer(RedisServer *s, Failure *reterr) {
        bool late = s->connection->err == REDIS_ERR_IO && (errno == EAGAIN || errno == EWOULDBLOCK);
        (void) not_connected(s, late ? "no answer in time" : s->connection->errstr, reterr);
        return late ? -ETIME : -ENOTCONN;
}

int redis_calls(RedisServer *s, uint64_t until_usec, const RedisCommand *commands, size_t n, Failure *reterr) {
        int first = 0, r = streq(commands[0].argv[0], "AUTH") ? 0 : redis_connect(s, until_usec, reterr);
        if (r < 0)
                return r;
        if (redisSetTimeout(s->connection, left(until_usec)) != REDIS_OK || send_all(s, commands, n) < 0)
                return not_connected(s, s->connection->errstr, reterr);
        for (size_t i = 0; i < n; i++) {
                void *a = NULL;
                if (redisGetReply(s->connection, &a) != REDIS_OK || !a) {
                        r = no_answer(s, first < 0 ? NULL : reterr);
                        return first < 0 ? first : r;
                }
                r = take_answer(s, commands[i].argv[0], a, commands[i].ret, first < 0 ? NULL : reterr);
                freeReplyObject(a);
                first = first < 0 ? first : r;
        }
        return first;
}

int redis_config(RedisServer *s, uint64_t until_usec, const char *key, char **ret, Failure *reterr) {
        return REDIS_CALL(s, until_usec, ret, reterr, "CONFIG", "GET", key);
}

const char *redis_info_value(const char *info, const char *key, char *value, size_t size) {
        size_t n = strlen(key);
        value[0] = '\0';
        for (const char *line = info; line; line = strchr(line, '\n')) {
                line += *line == '\n';
                if (strncmp(line, key, n) == 0 && line[n] == ':') {
                        (void) snprintf(value, size, "%.*s", (int) strcspn(line + n + 1, "\r\n"), line + n + 1);
                        break;
                }
        }
        return value;
}

bool redis_info_is(const char *info, const char *key, const char *value) {
        char have[64];
        return streq(redis_info_value(info, key, have, sizeof(have)), value);
}
