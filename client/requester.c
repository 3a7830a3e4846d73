/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connection. Errors are decided by name: sd-bus turns names it does not know into EIO and a missing answer into
 * ETIMEDOUT, so every failure goes through the one table of the vocabulary before anybody sees an errno.
 */
#include "client/requester.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>

static const struct vss_error error_unreachable = {
        .struct_size = sizeof(struct vss_error),
        .name = VSS_BUS_NAME ".Error.Unavailable",
        .message =
                "the system bus cannot be reached; is dbus-daemon running, and DBUS_SYSTEM_BUS_ADDRESS right if it is set?",
        .error = ENOTCONN,
        .retryable = true,
        .exit_code = 13,
};

/* One line, whatever the other side sent. */
static void text_to_line(char *text) {
        for (char *p = text; *p; p++)
                if (iscntrl((unsigned char) *p))
                        *p = ' ';
}

int requester_fail_named(struct vss_requester *r, const char *name, const char *message, int retryable) {
        r->condition = condition_from_name(name);
        /* Names of the table stay as they are, all others become the one they read as. */
        bool ours = strncmp(name, VSS_BUS_NAME ".Error.", strlen(VSS_BUS_NAME ".Error.")) == 0;
        (void) snprintf(r->error_name, sizeof(r->error_name), "%s", ours ? name : condition_name(r->condition));
        (void) snprintf(r->error_message, sizeof(r->error_message), "%s", isempty(message) ? name : message);
        text_to_line(r->error_message);
        r->error = (struct vss_error) {
                .struct_size = sizeof(struct vss_error),
                .name = r->error_name,
                .message = r->error_message,
                .error = condition_errno(r->condition),
                .retryable = retryable >= 0 ? retryable > 0 : condition_retryable(r->condition),
                .exit_code = condition_exit_code(r->condition),
        };
        return -r->error.error;
}

int requester_fail(struct vss_requester *r, Condition c, const char *format, ...) {
        char message[LIMIT_MESSAGE_BYTES];
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(message, sizeof(message), format, ap);
        va_end(ap);
        return requester_fail_named(r, condition_name(c), message, -1);
}

int requester_fail_bus(struct vss_requester *r, const sd_bus_error *e, int error, uint64_t deadline_usec) {
        if (now_usec() >= deadline_usec)
                return requester_fail(r, CONDITION_DEADLINE_PASSED,
                                      "the service did not answer in time; see `vssctl status`");
        if (!e || !sd_bus_error_is_set(e)) {
                Condition c = error == -ENOMEM ? CONDITION_LIMIT_REACHED : CONDITION_UNAVAILABLE;
                return requester_fail(r, c, "the connection to the bus failed: %s", strerror(-error));
        }
        if (condition_from_name(e->name) == CONDITION_UNAVAILABLE)
                return requester_fail(
                        r, CONDITION_UNAVAILABLE,
                        "vssd cannot be reached: %s; start it with `systemctl start vssd` or look at its log",
                        isempty(e->message) ? e->name : e->message);
        return requester_fail_named(r, e->name, e->message, -1);
}

int requester_check(struct vss_requester *r, int error) {
        if (error >= 0)
                return error;
        if (error == -EINVAL)
                return requester_fail(r, CONDITION_INVALID_ARGUMENT, "a text is not UTF-8 or too long for the bus");
        if (error == -ENXIO || error == -EBADMSG)
                return requester_fail(r, CONDITION_NOT_SUPPORTED, "vssd answered in a form this version does not know");
        return requester_fail_bus(r, NULL, error, USEC_INFINITY);
}

_public_ int vss_requester_open(const char *name, struct vss_requester **ret) {
        if (!ret)
                return -EINVAL;
        struct vss_requester *r = calloc(1, sizeof(*r));
        if (!r)
                return -ENOMEM;
        r->call_usec = REQUESTER_CALL_USEC;
        r->long_usec = REQUESTER_LONG_USEC;
        r->error = (struct vss_error) { .struct_size = sizeof(struct vss_error), .name = "", .message = "" };
        r->name = strdup(isempty(name) ? program_invocation_short_name : name);
        int k = r->name ? sd_bus_open_system_with_description(&r->bus, "vss-requester") : -ENOMEM;
        if (k >= 0)
                k = sd_bus_set_method_call_timeout(r->bus, r->call_usec);
        if (k < 0) {
                vss_requester_close(r);
                return k == -ENOMEM ? k : -ENOTCONN;
        }
        *ret = r;
        return 0;
}

_public_ struct vss_requester *vss_requester_close(struct vss_requester *r) {
        if (!r)
                return NULL;
        sd_bus_flush_close_unref(r->bus);
        free(r->name);
        free(r);
        return NULL;
}

_public_ const struct vss_error *vss_requester_error(const struct vss_requester *r) {
        return r ? &r->error : &error_unreachable;
}

int requester_new_call(struct vss_requester *r, const char *path, const char *interface, const char *member,
                       sd_bus_message **ret) {
        return requester_check(r, sd_bus_message_new_method_call(r->bus, ret, VSS_BUS_NAME, path, interface, member));
}

int requester_call(struct vss_requester *r, sd_bus_message *m, uint64_t timeout_usec, sd_bus_message **ret_reply) {
        sd_bus_error e = SD_BUS_ERROR_NULL;
        uint64_t deadline_usec = usec_add(now_usec(), timeout_usec);
        int k = sd_bus_call(r->bus, m, timeout_usec, &e, ret_reply);
        if (k < 0)
                k = requester_fail_bus(r, &e, k, deadline_usec);
        sd_bus_error_free(&e);
        return k < 0 ? k : 0;
}

/* Length of the UTF-8 sequence at p that the bus would accept as it is, else 0. */
static size_t utf8_length(const unsigned char *p) {
        size_t n = p[0] < 0x80                 ? 1 :
                   p[0] >= 0xc2 && p[0] < 0xe0 ? 2 :
                   p[0] >= 0xe0 && p[0] < 0xf0 ? 3 :
                   p[0] >= 0xf0 && p[0] < 0xf5 ? 4 :
                                                 0;
        for (size_t i = 1; i < n; i++)
                if ((p[i] & 0xc0) != 0x80)
                        return 0;
        bool overlong = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
        bool outside = (p[0] == 0xed && p[1] >= 0xa0) || (p[0] == 0xf4 && p[1] >= 0x90);
        return overlong || outside ? 0 : n;
}

int path_to_bus(const char *path, char **ret) {
        char *text = malloc(4 * strlen(path) + 1), *q = text;
        if (!text)
                return -ENOMEM;
        for (const unsigned char *p = (const unsigned char *) path; *p;) {
                size_t n = utf8_length(p);
                if (n == 0 || *p < 0x20 || *p == 0x7f || *p == '\\') {
                        q += sprintf(q, "\\x%02x", *p++);
                        continue;
                }
                memcpy(q, p, n);
                q += n;
                p += n;
        }
        *q = 0;
        *ret = text;
        return 0;
}

int path_from_bus(const char *text, char **ret) {
        char *path = malloc(strlen(text) + 1), *q = path;
        if (!path)
                return -ENOMEM;
        for (const char *p = text; *p;) {
                unsigned byte = 0;
                if (p[0] == '\\' && p[1] == 'x' && isxdigit((unsigned char) p[2]) && isxdigit((unsigned char) p[3]) &&
                    sscanf(p + 2, "%2x", &byte) == 1 && byte != 0) {
                        *q++ = (char) byte;
                        p += 4;
                } else
                        *q++ = *p++;
        }
        *q = 0;
        *ret = path;
        return 0;
}
