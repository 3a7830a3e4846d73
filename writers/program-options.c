/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers/program-options.h"

int option_text(char **to, const char *value, Failure *reterr) {
        free(*to);
        *to = strdup(value);
        return *to ? 0 : failure_set(reterr, CONDITION_FAILED, "out of memory");
}

int option_socket(void *target, const char *value, Failure *reterr) {
        WriterOptions *o = target;
        if (value[0] != '/')
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is no absolute path of a socket", value);
        return option_text(&o->socket, value, reterr);
}

int option_user(void *target, const char *value, Failure *reterr) {
        WriterOptions *o = target;
        return option_text(&o->user, value, reterr);
}

int option_password_file(void *target, const char *value, Failure *reterr) {
        WriterOptions *o = target;
        return password_read(value, &o->password, reterr);
}

int option_service(void *target, const char *value, Failure *reterr) {
        WriterOptions *o = target;
        return option_text(&o->service, value, reterr);
}

int option_freeze_timeout(void *target, const char *value, Failure *reterr) {
        WriterOptions *o = target;
        int r = parse_seconds(value, &o->freeze_usec, reterr);
        if (r >= 0 && o->freeze_usec < BUDGET_MIN_FREEZE_USEC)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "a freeze timeout below 3 seconds is too short");
        return r;
}

void writer_options_done(WriterOptions *o) {
        free(o->socket);
        free(o->user);
        free(o->password);
        free(o->service);
}
