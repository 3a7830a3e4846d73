/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hostile half of vss-testwriter: raw sd-bus, because the library refuses to say such things. Each mode prints what
 * vssd answered, `hostile MODE WHAT RESULT`, and ends with status 0 if it got as far as trying everything: whether vssd
 * answered well is for the test to judge. Modes that have to be asked something print `ready NAME` and serve until
 * SIGTERM.
 */
#include "writers/testwriter.h"
#include <math.h>
#include <signal.h>
#include <stdio.h>

enum { FLOOD_WRITERS = 5000, FLOOD_REPLIES = 2000, HUGE_BYTES = 2 * 1024 * 1024, DEEP = 100000 };

typedef struct Hostile {
        const Test *test;
        sd_bus *bus;
        const char *mode;
} Hostile;

static void say(const Hostile *h, const char *what, int r, const sd_bus_error *error) {
        const char *name = r >= 0 ? "accepted" : error && error->name ? error->name : strerror(-r);

        printf("hostile %s %s %s%s%s\n", h->mode, what, name, r < 0 && error && error->message ? " " : "",
               r < 0 && error && error->message ? error->message : "");
        (void) fflush(stdout);
}

static int try_register(const Hostile *h, const char *what, const char *name, const char *instance, const char *types,
                        ...) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        va_list ap;
        int r;

        r = sd_bus_message_new_method_call(h->bus, &m, VSS_BUS_NAME, VSS_ROOT_PATH, VSS_IFACE_MANAGER,
                                           "RegisterWriter");
        r = r < 0 ? r : sd_bus_message_append(m, "sso", name, instance, "/hostile");
        va_start(ap, types);
        r = r < 0 ? r : sd_bus_message_appendv(m, types, ap);
        va_end(ap);
        r = r < 0 ? r : sd_bus_call(h->bus, m, REGISTER_TIMEOUT_USEC, &error, &reply);
        if (what)
                say(h, what, r, &error);
        return r;
}

static int bad_registrations(const Hostile *h) {
        static const char *const names[] = {
                "",
                "Upper",
                "../../etc/passwd",
                "a/b",
                "-a",
                "a b",
                "uid:root",
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        };
        const char *name = h->test->program.name;

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                (void) try_register(h, "name", names[i], "", "a{sv}", 0);
        (void) try_register(h, "instance", name, "../x", "a{sv}", 0);
        (void) try_register(h, "unknown-option", name, "", "a{sv}", 1, "no_such", "s", "x");
        (void) try_register(h, "option-type", name, "", "a{sv}", 1, "level", "u", 3u);
        (void) try_register(h, "option-twice", name, "", "a{sv}", 2, "version", "s", "1", "version", "s", "2");
        (void) try_register(h, "level", name, "", "a{sv}", 1, "level", "s", "top");
        (void) try_register(h, "events", name, "", "a{sv}", 1, "events", "as", 1, "explode");
        (void) try_register(h, "freeze-timeout", name, "", "a{sv}", 1, "freeze_timeout_usec", "t", (uint64_t) 1);
        (void) try_register(h, "freeze-timeout-max", name, "", "a{sv}", 1, "freeze_timeout_usec", "t", UINT64_MAX);
        (void) try_register(h, "signature", name, "", "u", 7u);
        return 0;
}

/* Until vssd has had enough; all names stay registered until this process ends. */
static int register_flood(const Hostile *h) {
        unsigned accepted = 0, refused = 0;
        int r = 0;

        for (unsigned i = 0; i < FLOOD_WRITERS && refused < 10 && r != -ENOTCONN; i++) {
                char name[64];
                (void) snprintf(name, sizeof(name), "flood-%u", i);
                r = try_register(h, NULL, name, "", "a{sv}", 0);
                r >= 0 ? accepted++ : refused++;
        }
        printf("hostile register-flood accepted %u\n", accepted);
        return 0;
}

/* ---- modes that answer ---- */

static int answer_text(sd_bus_message *m, char *text) {
        int r = text ? sd_bus_reply_method_return(m, "s", text) : -ENOMEM;

        free(text);
        return r;
}

static char *repeated(const char *head, const char *part, size_t n, const char *tail) {
        size_t length = strlen(part), at = strlen(head);
        char *text = malloc(at + n * length + strlen(tail) + 1);

        if (!text)
                return NULL;
        memcpy(text, head, at);
        for (size_t i = 0; i < n; i++, at += length)
                memcpy(text + at, part, length);
        memcpy(text + at, tail, strlen(tail) + 1);
        return text;
}

#define HEAD "{\"schema\":1,\"kind\":\"writer-metadata\",\"writer\":{\"name\":\"%s\",\"instance\":\"\"},"

static char *path_tricks(const Hostile *h) {
        static const char *const roots[] = { "/srv/../etc", "srv", "//", "/srv/./x", "/srv/", "/srv\\x00", "" };
        static unsigned next;
        char *text;

        if (asprintf(
                    &text,
                    HEAD
                    "\"components\":[{\"path\":\"a\",\"type\":\"file-group\",\"files\":[{\"role\":\"file\",\"root\":\"%s\","
                    "\"pattern\":\"*\",\"recursive\":true}]}]}",
                    h->test->program.name, roots[next++ % ELEMENTSOF(roots)]) < 0)
                return NULL;
        return text;
}

static char *same_key_twice(const Hostile *h) {
        char *text;

        if (asprintf(&text, HEAD "\"components\":[],\"components\":[]}", h->test->program.name) < 0)
                return NULL;
        return text;
}

/* Nothing wrong with it: the writer takes part, and errs later. */
static char *good_document(const Hostile *h) {
        char *text;

        if (asprintf(&text,
                     HEAD "\"components\":[{\"path\":\"data\",\"type\":\"file-group\",\"files\":[{\"role\":\"file\","
                          "\"root\":\"%s\",\"pattern\":\"*\",\"recursive\":true}]}]}",
                     h->test->program.name, h->test->volume ? h->test->volume : "/srv") < 0)
                return NULL;
        return text;
}

static int on_identify(sd_bus_message *m, const Hostile *h) {
        if (streq(h->mode, "wrong-answers") || streq(h->mode, "reply-flood"))
                return answer_text(m, good_document(h));
        if (streq(h->mode, "huge-document"))
                return answer_text(m, repeated("{\"x\":\"", "a", HUGE_BYTES, "\"}"));
        if (streq(h->mode, "deep-document"))
                return answer_text(m, repeated("", "[", DEEP, ""));
        if (streq(h->mode, "many-components"))
                return answer_text(m, repeated("{\"schema\":1,\"kind\":\"writer-metadata\",\"components\":[", "{},",
                                               300000, "{}]}"));
        if (streq(h->mode, "path-tricks"))
                return answer_text(m, path_tricks(h));
        if (streq(h->mode, "key-twice"))
                return answer_text(m, same_key_twice(h));
        if (streq(h->mode, "not-json"))
                return sd_bus_reply_method_return(m, "s", "{\"schema\":1} trailing");
        return sd_bus_reply_method_return(m, "i", 42); /* wrong-types */
}

static int flood(sd_bus_message *m, const Hostile *h) {
        for (unsigned i = 0; i < FLOOD_REPLIES; i++) {
                _cleanup_(sd_bus_message_unrefp) sd_bus_message *s = NULL;
                (void) sd_bus_reply_method_return(m, "a{sv}", 0);
                if (sd_bus_message_new_signal(h->bus, &s, "/hostile", VSS_IFACE_WRITER, "Progress") >= 0 &&
                    sd_bus_message_append(s, "ssd", "no-set", "explode", (double) NAN) >= 0 &&
                    sd_bus_message_set_destination(s, VSS_BUS_NAME) >= 0)
                        (void) sd_bus_send(h->bus, s, NULL);
        }
        return 1;
}

static int on_call(sd_bus_message *m, void *userdata, sd_bus_error *reterr) {
        const Hostile *h = userdata;
        static unsigned turn;

        if (!sd_bus_message_is_method_call(m, VSS_IFACE_WRITER, NULL))
                return 0;
        printf("hostile %s call %s\n", h->mode, sd_bus_message_get_member(m));
        (void) fflush(stdout);
        if (streq_null(sd_bus_message_get_member(m), "Identify"))
                return on_identify(m, h);
        if (streq(h->mode, "reply-flood"))
                return flood(m, h);
        switch (turn++ % 5) {
        case 0:
                return sd_bus_reply_method_return(m, "s", "not a dictionary");
        case 1:
                return sd_bus_reply_method_return(m, "a{sv}", 1, "components", "i", 5);
        case 2:
                return sd_bus_reply_method_return(m, "a{sv}", 2, "message", "u", 7u, "message", "s", "twice");
        case 3:
                return sd_bus_reply_method_errorf(m, "No.Such.Error", "line one\nline two");
        default:
                return sd_bus_reply_method_return(m, "a{sv}", 1, "failures", "a(sss)", 1, "../../x", "Bad.Name",
                                                  "\x01\x02");
        }
}

static int serve_badly(Hostile *h) {
        int r = sd_bus_add_object(h->bus, NULL, "/hostile", on_call, h); /* a vtable would hold us to its signatures */

        r = r < 0 ? r : try_register(h, "register", h->test->program.name, "", "a{sv}", 0);
        if (r < 0)
                return r;
        printf("ready %s\n", h->test->program.name);
        (void) fflush(stdout);
        while (r >= 0) { /* until SIGTERM, or vssd has us thrown off the bus */
                r = sd_bus_process(h->bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(h->bus, UINT64_MAX);
        }
        return 0;
}

static const struct {
        const char *name, *what;
        int (*run)(Hostile *h);
        int (*ask)(const Hostile *h);
} modes[] = {
        { "bad-registrations", "names, instances and options that are not allowed", NULL, bad_registrations },
        { "register-flood", "thousands of writers from one connection", NULL, register_flood },
        { "wrong-types", "a document of another type", serve_badly, NULL },
        { "wrong-answers", "answers to events of other types than the interface has; data on --volume", serve_badly,
          NULL },
        { "huge-document", "a document of 2 MiB", serve_badly, NULL },
        { "deep-document", "a document nested 100000 times", serve_badly, NULL },
        { "many-components", "300000 components", serve_badly, NULL },
        { "path-tricks", "roots that are not clean absolute paths", serve_badly, NULL },
        { "key-twice", "a document with a key given twice", serve_badly, NULL },
        { "not-json", "a document with something behind it", serve_badly, NULL },
        { "reply-flood", "2000 answers and signals for each event; data on --volume", serve_badly, NULL },
};

int hostile_run(const Test *t) {
        Hostile h = { .test = t, .mode = t->hostile };
        int r = -ENOENT;

        for (size_t i = 0; i < ELEMENTSOF(modes); i++)
                if (streq(t->hostile, "help"))
                        printf("%-20s %s\n", modes[i].name, modes[i].what);
        if (streq(t->hostile, "help"))
                return EXIT_SUCCESS;
        for (size_t i = 0; i < ELEMENTSOF(modes); i++) {
                if (!streq(t->hostile, modes[i].name))
                        continue;
                r = sd_bus_open_system(&h.bus);
                if (r >= 0)
                        r = modes[i].run ? modes[i].run(&h) : modes[i].ask(&h);
                break;
        }
        sd_bus_flush_close_unref(h.bus);
        if (r >= 0)
                return EXIT_SUCCESS;
        fprintf(stderr, "vss-testwriter: --hostile=%s: %s\n", t->hostile,
                r == -ENOENT ? "no such mode; see --hostile=help" : strerror(-r));
        return r == -ENOENT ? condition_exit_code(CONDITION_INVALID_ARGUMENT) : EXIT_FAILURE;
}
