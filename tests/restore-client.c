/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A requester of restores by hand, for tests:
 *
 *   restore-client MANIFEST WRITER PATH [KEY=VALUE…] [-- WRITER PATH …]
 *
 * Calls PreRestore, prints "session ID" and a line "component WRITER PATH KEY=VALUE…" for each, then reads one line:
 * "end STATUS" calls PostRestore with that status for every component and prints "ended WRITER NAME MESSAGE"; "check"
 * does so with dry_run, prints "prospect …", and another line is read; anything else ends the process at once, and with
 * it the connection. KEY=VALUE are wishes; true and false are booleans. Exit status: of the error.
 */
#include "protocol/busutil.h"
#include <fcntl.h>
#include <stdio.h>

static int fail(int r, const sd_bus_error *e, const char *what) {
        Failure f = {};
        (void) bus_failure_from_call(r, e, what, &f);
        fprintf(stderr, "restore-client: %s: %s\n", condition_name(f.condition), f.message);
        return condition_exit_code(f.condition);
}

static int manifest_open(const char *path) {
        _cleanup_free_ char *text = calloc(1, LIMIT_MANIFEST_BYTES);
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
        int document;
        ssize_t n = fd >= 0 && text ? read(fd, text, LIMIT_MANIFEST_BYTES) : -1;
        return n < 0 || bus_document_new("manifest", text, (size_t) n, &document) < 0 ? -EIO : document;
}

static int append_wishes(sd_bus_message *m, char ***at) {
        int r = sd_bus_message_open_container(m, 'a', "{sv}");
        for (; r >= 0 && **at && strcmp(**at, "--") != 0; (*at)++) {
                char *equals = strchr(**at, '=');
                if (!equals)
                        return -EINVAL;
                *equals = '\0';
                if (streq(equals + 1, "true") || streq(equals + 1, "false"))
                        r = sd_bus_message_append(m, "{sv}", **at, "b", (int) streq(equals + 1, "true"));
                else
                        r = sd_bus_message_append(m, "{sv}", **at, "s", equals + 1);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_components(sd_bus_message *m, char **at) {
        int r = sd_bus_message_open_container(m, 'a', "(ssa{sv})");
        while (r >= 0 && at[0] && at[1]) {
                r = sd_bus_message_open_container(m, 'r', "ssa{sv}");
                r = r < 0 ? r : sd_bus_message_append(m, "ss", at[0], at[1]);
                at += 2;
                r = r < 0 ? r : append_wishes(m, &at);
                r = r < 0 ? r : sd_bus_message_close_container(m);
                at += *at != NULL;
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int print_facts(sd_bus_message *m) {
        const char *key, *contents, *text;
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                r = sd_bus_message_read(m, "s", &key);
                r = r < 0 ? r : sd_bus_message_peek_type(m, NULL, &contents);
                if (r >= 0 && streq(contents, "s")) {
                        r = sd_bus_message_read(m, "v", "s", &text);
                        printf(" %s=%s", key, r < 0 ? "" : text);
                } else if (r >= 0) {
                        printf(" %s", key);
                        r = sd_bus_message_skip(m, "v");
                }
                r = r < 0 ? r : sd_bus_message_exit_container(m);
        }
        printf("\n");
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int begin(sd_bus *bus, int manifest, char **arguments, char *session, size_t size) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        const char *id, *writer, *path;
        int r = sd_bus_message_new_method_call(bus, &m, VSS_BUS_NAME, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "PreRestore");
        r = r < 0 ? r : sd_bus_message_append(m, "h", manifest);
        r = r < 0 ? r : append_components(m, arguments);
        r = r < 0 ? r : sd_bus_message_append(m, "a{sv}", 0);
        r = r < 0 ? r : sd_bus_call(bus, m, 60 * USEC_PER_SEC, &error, &reply);
        if (r < 0)
                return fail(r, &error, "PreRestore");
        r = sd_bus_message_read(reply, "s", &id);
        (void) snprintf(session, size, "%s", r < 0 ? "" : id);
        printf("session %s\n", session);
        r = sd_bus_message_enter_container(reply, 'a', "(ssa{sv})");
        while (r >= 0 && (r = sd_bus_message_enter_container(reply, 'r', "ssa{sv}")) > 0) {
                r = sd_bus_message_read(reply, "ss", &writer, &path);
                printf("component %s %s", writer, path);
                r = r < 0 ? r : print_facts(reply);
                r = r < 0 ? r : sd_bus_message_exit_container(reply);
        }
        return r < 0 ? fail(r, NULL, "answer") : 0;
}

static int end(sd_bus *bus, char **at, const char *session, const char *status, bool dry_run) {
        _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL, *reply = NULL;
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        const char *writer, *name, *message;
        int r = sd_bus_message_new_method_call(bus, &m, VSS_BUS_NAME, VSS_ROOT_PATH, VSS_IFACE_MANAGER, "PostRestore");
        r = r < 0 ? r : sd_bus_message_append(m, "s", session);
        r = r < 0 ? r : sd_bus_message_open_container(m, 'a', "(ssa{sv})");
        while (r >= 0 && at[0] && at[1]) {
                r = sd_bus_message_append(m, "(ssa{sv})", at[0], at[1], 1, "status", "s", status);
                for (at += 2; *at && strcmp(*at, "--") != 0;)
                        at++;
                at += *at != NULL;
        }
        r = r < 0 ? r : sd_bus_message_close_container(m);
        r = r < 0 ? r : sd_bus_message_append(m, "a{sv}", 1, "dry_run", "b", (int) dry_run);
        r = r < 0 ? r : sd_bus_call(bus, m, 60 * USEC_PER_SEC, &error, &reply);
        r = r < 0 ? r : sd_bus_message_enter_container(reply, 'a', "(sss)");
        if (r < 0)
                return fail(r, &error, "PostRestore");
        while ((r = sd_bus_message_read(reply, "(sss)", &writer, &name, &message)) > 0)
                printf("%s %s %s %s\n", dry_run ? "prospect" : "ended", writer, name[0] ? name : "-", message);
        return r < 0 ? fail(r, NULL, "answer") : 0;
}

int main(int argc, char **argv) {
        sd_bus *bus = NULL;
        char session[64] = "", line[128];
        int r = argc < 4 ? -EINVAL : sd_bus_open_system(&bus);
        if (r < 0)
                return fail(r, NULL, "usage: restore-client MANIFEST WRITER PATH …");
        int manifest = manifest_open(argv[1]);
        (void) setvbuf(stdout, NULL, _IOLBF, 0);
        r = manifest < 0 ? 1 : begin(bus, manifest, argv + 2, session, sizeof(session));
        bool more = true;
        while (r == 0 && more && fgets(line, sizeof(line), stdin)) {
                line[strcspn(line, "\n")] = '\0';
                more = streq(line, "check");
                if (more)
                        r = end(bus, argv + 2, session, "all", true);
                else if (strncmp(line, "end ", 4) == 0)
                        r = end(bus, argv + 2, session, line + 4, false);
        }
        (void) close_fd(manifest);
        sd_bus_flush_close_unref(bus);
        return r;
}
