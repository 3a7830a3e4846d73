/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Asks a vss-cow by hand, for tests. The answer goes to stdout; a refusal to stderr, and its errno is the exit status.
 *
 *   cow-client DIR COMMAND [KEY=VALUE…]
 *       Values that are JSON are taken as such.
 *   cow-client DIR set VOLUME…
 *       Hold, snapshot, release on one connection; prints the set's id, then one id per line.
 *   cow-client DIR gate VOLUME…
 *       The same of volumes whose file systems are not frozen.
 *   cow-client DIR script
 *       Requests from stdin, a line each, on one connection. @token is what the last hold gave, @in(MS) a deadline;
 *       "sleep MS" waits; "close" ends the connection.
 *   cow-client DIR raw
 *       Stdin as one message; prints the answer or "closed".
 *   cow-client DIR crowd N
 *       N connections at once; prints how many of them are answered.
 *   cow-client DIR fuzz SECONDS
 *       Messages that are wrong in every way; prints how many.
 *   cow-client - sweep LABEL
 *       Detaches loop devices whose label begins like this.
 */
#include "providers/cow/control.h"
#include "providers/cow/device.h"
#include "tests/support.h"
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

enum { SECONDS = 30, TOKEN_MAX = 32 };

static int call(int fd, json_object *request, json_object **ret) {
        ControlError error;
        int r = control_call(fd, request, now_usec() + SECONDS * USEC_PER_SEC, ret, &error);
        if (r < 0)
                fprintf(stderr, "refused %d %s: %s\n", -r, strerror(-r), error.message);
        (void) json_object_put(request);
        return r;
}

static void add(json_object *o, const char *text) {
        const char *is = strchr(text, '=');
        if (!is)
                test_die("%s is not KEY=VALUE", text);
        _cleanup_free_ char *key = strndup(text, (size_t) (is - text));
        json_tokener *t = json_tokener_new();
        json_object *value = json_tokener_parse_ex(t, is + 1, (int) strlen(is + 1) + 1);
        bool whole = json_tokener_get_error(t) == json_tokener_success &&
                     json_tokener_get_parse_end(t) == strlen(is + 1);
        if (!whole)
                (void) json_object_put(value);
        json_object_object_add(o, key, whole ? value : json_object_new_string(is + 1));
        json_tokener_free(t);
}

static json_object *request_new(const char *command) {
        json_object *o = json_object_new_object();
        json_object_object_add(o, "command", json_object_new_string(command));
        return o;
}

static void uuid_make(char ret[static 37]) {
        static const char digits[] = "0123456789abcdef";
        uint8_t u[16];
        unsigned at = 0;
        (void) !getrandom(u, sizeof(u), 0);
        for (unsigned i = 0; i < 16; i++) {
                if (i == 4 || i == 6 || i == 8 || i == 10)
                        ret[at++] = '-';
                ret[at++] = digits[u[i] >> 4];
                ret[at++] = digits[u[i] & 15];
        }
        ret[at] = '\0';
}

/* --- a set -------------------------------------------------------------------------------------------------------- */

static json_object *members_new(char **volumes, unsigned n, bool frozen, char ids[][37]) {
        json_object *list = json_object_new_array();
        for (unsigned i = 0; i < n; i++) {
                json_object *m = json_object_new_object();
                uuid_make(ids[i]);
                json_object_object_add(m, "id", json_object_new_string(ids[i]));
                json_object_object_add(m, "volume", json_object_new_string(volumes[i]));
                json_object_object_add(m, "label", json_object_new_string(volumes[i]));
                json_object_object_add(m, "persistent", json_object_new_boolean(true));
                json_object_object_add(m, "frozen", json_object_new_boolean(frozen));
                json_object_object_add(m, "pending", json_object_new_boolean(false));
                (void) json_object_array_add(list, m);
        }
        return list;
}

static int hold(int fd, char **volumes, unsigned n, char ret_token[static TOKEN_MAX]) {
        json_object *request = request_new("hold"), *names = json_object_new_array(), *answer = NULL, *token;
        for (unsigned i = 0; i < n; i++)
                (void) json_object_array_add(names, json_object_new_string(volumes[i]));
        json_object_object_add(request, "volumes", names);
        json_object_object_add(request, "deadline_usec",
                               json_object_new_int64((int64_t) (now_usec() + SECONDS * USEC_PER_SEC)));
        int r = call(fd, request, &answer);
        if (r < 0)
                return r;
        (void) snprintf(ret_token, TOKEN_MAX, "%s",
                        json_object_object_get_ex(answer, "token", &token) ? json_object_get_string(token) : "");
        (void) json_object_put(answer);
        return 0;
}

static int release(int fd, const char *token) {
        json_object *request = request_new("release"), *answer = NULL, *held;
        json_object_object_add(request, "token", json_object_new_string(token));
        int r = call(fd, request, &answer);
        bool good = r == 0 && json_object_object_get_ex(answer, "held", &held) && json_object_get_boolean(held);
        (void) json_object_put(answer);
        return r < 0 ? r : good ? 0 : -ESTALE;
}

static int set(int fd, char **volumes, unsigned n, bool frozen) {
        char ids[STORE_VOLUMES_MAX][37], set_id[37];
        char token[TOKEN_MAX];
        if (n > STORE_VOLUMES_MAX)
                return -EINVAL;
        uuid_make(set_id);
        int r = hold(fd, volumes, n, token);
        if (r < 0)
                return r;
        json_object *request = request_new("snapshot");
        json_object_object_add(request, "token", json_object_new_string(token));
        json_object_object_add(request, "set", json_object_new_string(set_id));
        json_object_object_add(request, "created_usec", json_object_new_int64((int64_t) time(NULL) * 1000000));
        json_object_object_add(request, "members", members_new(volumes, n, frozen, ids));
        r = call(fd, request, NULL);
        int x = release(fd, token);
        if (r < 0 || x < 0)
                return r < 0 ? r : x;
        puts(set_id);
        for (unsigned i = 0; i < n; i++)
                puts(ids[i]);
        return 0;
}

/* --- lines -------------------------------------------------------------------------------------------------------- */

/* The line with its @words filled in. */
static void line_expand(const char *line, const char *token, char *ret, size_t n) {
        size_t at = 0;
        while (*line && *line != '\n' && at + 32 < n) {
                int used = 0;
                unsigned msec;
                if (strncmp(line, "@token", 6) == 0) {
                        at += (size_t) snprintf(ret + at, n - at, "\"%s\"", token);
                        line += 6;
                } else if (sscanf(line, "@in(%u)%n", &msec, &used) == 1 && used > 0) {
                        at += (size_t) snprintf(ret + at, n - at, "%lu", now_usec() + msec * 1000UL);
                        line += used;
                } else
                        ret[at++] = *line++;
        }
        ret[at] = '\0';
}

static void line_call(int fd, const char *text, char token[static TOKEN_MAX]) {
        json_object *answer = NULL, *o, *request = json_tokener_parse(text);
        ControlError error;
        if (!request)
                test_die("not JSON: %s", text);
        int r = control_call(fd, request, now_usec() + SECONDS * USEC_PER_SEC, &answer, &error);
        (void) json_object_put(request);
        if (r < 0)
                printf("refused %d %s\n", -r, error.message);
        else
                puts(json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN));
        if (r == 0 && json_object_object_get_ex(answer, "token", &o))
                (void) snprintf(token, TOKEN_MAX, "%s", json_object_get_string(o));
        (void) json_object_put(answer);
        fflush(stdout);
}

static int script(int fd) {
        static char line[CONTROL_MESSAGE_MAX], text[CONTROL_MESSAGE_MAX];
        char token[TOKEN_MAX] = "0";
        unsigned msec;
        while (fgets(line, sizeof(line), stdin)) {
                if (sscanf(line, "sleep %u", &msec) == 1)
                        nap_msec(msec);
                else if (strncmp(line, "close", 5) == 0)
                        return 0;
                else {
                        line_expand(line, token, text, sizeof(text));
                        line_call(fd, text, token);
                }
        }
        return 0;
}

/* --- strangers ---------------------------------------------------------------------------------------------------- */

/* How long the answer is; 0: it hung up; -1: there is none. */
static ssize_t answer_get(int fd, char *buffer, size_t n, int msec) {
        struct pollfd p = { .fd = fd, .events = POLLIN };
        if (poll(&p, 1, msec) <= 0)
                return -1;
        ssize_t got = recv(fd, buffer, n - 1, 0);
        buffer[got > 0 ? got : 0] = '\0';
        return got > 0 ? got : 0;
}

static int raw(int fd) {
        static char in[1024 * 1024], out[CONTROL_MESSAGE_MAX];
        size_t n = fread(in, 1, sizeof(in), stdin);
        int big = (int) sizeof(in);
        (void) setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof(big));
        if (send(fd, in, n, MSG_NOSIGNAL) < 0)
                test_die("send");
        ssize_t got = answer_get(fd, out, sizeof(out), SECONDS * 1000);
        puts(got > 0 ? out : got == 0 ? "closed" : "silent");
        return 0;
}

static int crowd(const char *directory, unsigned n) {
        static const char request[] = "{\"command\":\"status\"}";
        char out[CONTROL_MESSAGE_MAX];
        int fds[256];
        unsigned answered = 0;
        for (unsigned i = 0; i < MIN_OF(n, ELEMENTSOF(fds)); i++) {
                fds[i] = control_connect(directory);
                if (fds[i] >= 0 && send(fds[i], request, strlen(request), MSG_NOSIGNAL) > 0)
                        answered += answer_get(fds[i], out, sizeof(out), 5000) > 0;
        }
        printf("%u\n", answered);
        return 0;
}

/* Pieces of good requests, cut, mixed and flipped; and noise. */
static size_t fuzz_make(char *out, size_t n, unsigned seed) {
        static const char *const pieces[] = {
                "{\"command\":",
                "\"status\"",
                "\"hold\"",
                "\"snapshot\"",
                "\"list\"",
                ",\"set\":",
                ",\"from\":",
                "\"\"",
                ",\"volumes\":[",
                "]",
                "\"v\"",
                "}",
                "{",
                ",\"deadline_usec\":",
                "-1",
                "1e99",
                "null",
                ",\"token\":",
                "18446744073709551616",
                ",\"members\":[{",
                "}]",
                ",\"id\":",
                "\"00000000-0000-4000-8000-000000000000\"",
                "\"expose\"",
                "\"delete\"",
                "\"release\"",
                "\"hide\"",
                "\"set-policy\"",
                ",\"policy\":",
                "\\u0000",
                "\xff\xfe",
                "[[[[[[[[[[[[[[[[[[[[",
                "\"volume-attach\"",
                ",\"name\":",
                "\"volume-detach\"",
                ",\"force\":",
                "true",
                "\"../../etc/passwd\"",
                ",\"origin\":",
                "\"volume-create\"",
                "\"/dev/null\"",
                "\"collect\"",
                "\"volume-remove\"",
                "\"clear-mark\"",
                "\"abort\"",
        };
        size_t at = 0;
        if (seed % 16 == 0) {
                at = seed % 3 == 0 ? 0 : 1 + (size_t) (seed / 16) % (n - 1);
                (void) !getrandom(out, MIN_OF(at, 256UL), 0);
                return at;
        }
        srand(seed);
        for (unsigned i = 0, count = 1 + (unsigned) rand() % 14; i < count; i++) {
                const char *p = pieces[i == 0 && rand() % 4 ? 0 : (unsigned) rand() % ELEMENTSOF(pieces)];
                size_t length = strlen(p);
                if (at + length >= n)
                        break;
                memcpy(out + at, p, length);
                at += length;
        }
        if (rand() % 2)
                out[at++] = '}';
        if (rand() % 8 == 0)
                out[(size_t) rand() % at] = (char) rand();
        return at;
}

static int fuzz(const char *directory, unsigned seconds) {
        static char in[CONTROL_MESSAGE_MAX + 4096], out[CONTROL_MESSAGE_MAX];
        uint64_t end = now_usec() + seconds * USEC_PER_SEC;
        unsigned n = 0, answers = 0, closed = 0;
        int fd = -1;
        for (; now_usec() < end; n++) {
                if (fd < 0)
                        fd = control_connect(directory);
                if (fd < 0)
                        test_die("nobody answers after %u messages", n);
                size_t size = fuzz_make(in, n % 64 == 0 ? sizeof(in) : 4096, n);
                bool sent = send(fd, in, size, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
                bool wait = n % 7 != 0; /* sometimes it hangs up without listening */
                ssize_t got = sent && wait ? answer_get(fd, out, sizeof(out), 2000) : 0;
                answers += got > 0;
                closed += got == 0;
                if (got <= 0)
                        fd = close_fd(fd);
        }
        printf("%u messages, %u answers, %u hung up\n", n, answers, closed);
        return 0;
}

int main(int argc, char **argv) {
        if (argc < 3)
                test_die("usage: cow-client DIR COMMAND [KEY=VALUE…]");
        const char *directory = argv[1], *word = argv[2], *first = argc > 3 ? argv[3] : "0";
        if (streq(word, "sweep")) {
                devices_sweep(first);
                return 0;
        }
        if (streq(word, "crowd"))
                return crowd(directory, (unsigned) atoi(first));
        if (streq(word, "fuzz"))
                return fuzz(directory, (unsigned) atoi(first));
        _cleanup_close_ int fd = control_connect(directory);
        if (fd < 0) {
                fprintf(stderr, "refused %d %s\n", -fd, strerror(-fd));
                return -fd;
        }
        if (streq(word, "set") || streq(word, "gate"))
                return -set(fd, argv + 3, (unsigned) argc - 3, streq(word, "set"));
        if (streq(word, "script"))
                return script(fd);
        if (streq(word, "raw"))
                return raw(fd);
        json_object *request = request_new(word), *answer = NULL;
        for (int i = 3; i < argc; i++)
                add(request, argv[i]);
        int r = call(fd, request, &answer);
        if (r == 0)
                puts(json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PLAIN));
        (void) json_object_put(answer);
        return -r;
}
