/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/support-cow.h"
#include "protocol/jsonutil.h"
#include "providers/cow/control.h"
#include <fcntl.h>
#include <time.h>

enum { CALL_SECONDS = 60, HOLD_SECONDS = 5, BUSY_TRIES = 400, ANSWER_MAX = 4096 };

static json_object *call(CowServer *s, json_object *request, int *ret_result) {
        ControlError e;
        json_object *answer = NULL;
        int r = control_call(s->control, request, now_usec() + CALL_SECONDS * USEC_PER_SEC, &answer, &e);
        if (r < 0 && (!ret_result || r != -EBUSY))
                test_die("%s: %s (%s)", json_object_to_json_string(request), e.message, strerror(-r));
        if (ret_result)
                *ret_result = r;
        (void) json_object_put(request);
        return answer;
}

static json_object *request_new(const char *command) {
        json_object *o = json_object_new_object();
        json_add_string(o, "command", command);
        return o;
}

void cow_start(CowServer *s, const char *directory, uint64_t store_bytes) {
        char program[4096], store[4096], size[64], serve[4096];
        const char *build = getenv("VSS_BUILD");
        (void) snprintf(s->directory, sizeof(s->directory), "%s", directory);
        (void) snprintf(program, sizeof(program), "%s/providers/cow/vss-cow", build ?: "build");
        (void) snprintf(store, sizeof(store), "--store=%s/store", directory);
        (void) snprintf(size, sizeof(size), "--size=%lu", store_bytes);
        (void) snprintf(serve, sizeof(serve), "--directory=%s/run", directory);
        char *format_argv[] = { program, (char *) "format", store, size, NULL };
        char *serve_argv[] = { program, (char *) "serve", store, serve, NULL };
        if (run_command(format_argv) != 0 || run_command(serve_argv) != 0)
                test_die("vss-cow does not start");
        s->control = control_connect(serve + strlen("--directory="));
        if (s->control < 0)
                test_die("nobody answers in %s", serve);
}

void cow_stop(CowServer *s) {
        char run[300];
        json_object *request = request_new("stop");
        (void) close_fd(s->control); /* with it goes its hold */
        (void) snprintf(run, sizeof(run), "%s/run", s->directory);
        int r = s->control = control_connect(run);
        json_add_bool(request, "force", true);
        if (r >= 0)
                r = control_call(s->control, request, now_usec() + CALL_SECONDS * USEC_PER_SEC, NULL, NULL);
        if (r < 0)
                fprintf(stderr, "vss-cow does not stop: %s\n", strerror(-r));
        (void) json_object_put(request);
        s->control = close_fd(s->control);
}

/* The string behind key; the caller frees. */
static char *take_string(json_object *answer, const char *key) {
        char *text = strdup(json_get_string(answer, key, ""));
        (void) json_object_put(answer);
        if (isempty(text))
                test_die("the answer has no %s", key);
        return text;
}

char *cow_volume(CowServer *s, const char *name, uint64_t bytes) {
        char path[4096];
        (void) snprintf(path, sizeof(path), "%s/%s", s->directory, name);
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, (off_t) bytes) < 0)
                test_die("%s cannot be made %lu bytes long", path, bytes);
        (void) close_fd(fd);
        json_object *request = request_new("volume-create");
        json_add_string(request, "name", name);
        json_add_string(request, "origin", path);
        (void) json_object_put(call(s, request, NULL));
        request = request_new("volume-attach");
        json_add_string(request, "name", name);
        return take_string(call(s, request, NULL), "device");
}

/* --- sets --------------------------------------------------------------------------------------------------------- */

uint64_t now_nsec(void) {
        struct timespec t;
        (void) clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t) t.tv_sec * 1000000000u + (uint64_t) t.tv_nsec;
}

static void id_new(CowId *ret) {
        static uint64_t serial;
        serial++;
        (void) snprintf(ret->text, sizeof(ret->text), "%08lx-%04x-4000-8000-%012lx", now_usec() & 0xffffffff,
                        (unsigned) getpid() & 0xffff, serial);
}

static json_object *snapshot_request(const CowServer *s, const char *token, const char *const *volumes, unsigned n,
                                     CowId *ids) {
        json_object *request = request_new("snapshot"), *members = json_object_new_array();
        CowId set;
        id_new(&set);
        json_add_string(request, "token", token);
        json_add_string(request, "set", set.text);
        json_add_uint(request, "created_usec", 1);
        for (unsigned i = 0; i < n; i++) {
                json_object *m = json_object_new_object();
                id_new(&ids[i]);
                json_add_string(m, "id", ids[i].text);
                json_add_string(m, "volume", volumes[i]);
                json_add_string(m, "label", "test");
                json_add_bool(m, "pending", false);
                if (s->skip_free)
                        json_add_bool(m, "skip_free", true);
                (void) json_object_array_add(members, m);
        }
        json_object_object_add(request, "members", members);
        return request;
}

void cow_set(CowServer *s, const char *const *volumes, unsigned n, CowId *ret_ids, CowTimes *ret_times) {
        json_object *request = request_new("hold"), *names = json_object_new_array();
        for (unsigned i = 0; i < n; i++)
                (void) json_object_array_add(names, json_object_new_string(volumes[i]));
        json_object_object_add(request, "volumes", names);
        json_add_uint(request, "deadline_usec", now_usec() + HOLD_SECONDS * USEC_PER_SEC);
        ret_times->begin_nsec = now_nsec();
        _cleanup_free_ char *token = take_string(call(s, request, NULL), "token");
        ret_times->held_nsec = now_nsec();
        (void) json_object_put(call(s, snapshot_request(s, token, volumes, n, ret_ids), NULL));
        ret_times->made_nsec = now_nsec();
        request = request_new("release");
        json_add_string(request, "token", token);
        json_object *answer = call(s, request, NULL);
        ret_times->released_nsec = now_nsec();
        if (!json_get_bool(answer, "held", false))
                test_die("the hold ended before its release");
        (void) json_object_put(answer);
}

static json_object *id_request(const char *command, const CowId *id) {
        json_object *request = request_new(command);
        json_add_string(request, "id", id->text);
        return request;
}

char *cow_expose(CowServer *s, const CowId *id) {
        return take_string(call(s, id_request("expose", id), NULL), "device");
}

char *cow_overlay(CowServer *s, const CowId *id) {
        json_object *request = id_request("expose", id);
        json_add_string(request, "overlay", "");
        return take_string(call(s, request, NULL), "device");
}

/* Whoever watches devices may have it open for a moment after it was unmounted. */
void cow_delete(CowServer *s, const CowId *id) {
        int r = -EBUSY;
        for (unsigned i = 0; r == -EBUSY; i++) {
                (void) json_object_put(call(s, id_request("hide", id), i < BUSY_TRIES ? &r : NULL));
                if (r == -EBUSY)
                        nap_msec(5);
        }
        (void) json_object_put(call(s, id_request("delete", id), NULL));
}

uint64_t cow_call(CowServer *s, const char *command, const char *members, const char *key) {
        char text[ANSWER_MAX];
        (void) snprintf(text, sizeof(text), "{\"command\": \"%s\"%s%s}", command, isempty(members) ? "" : ", ",
                        members);
        json_object *answer = call(s, json_tokener_parse(text), NULL);
        uint64_t value = key ? json_get_uint(answer, key, 0) : 0;
        (void) json_object_put(answer);
        return value;
}
