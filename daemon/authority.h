/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * May the sender of this message do this? Asks polkit (CheckAuthorization, subject system-bus-name, details attached)
 * asynchronously; prompts only if the message carries the interactive flag. Where polkit cannot be reached, uid 0 may
 * do everything and everybody else may only inspect (DESIGN.md section 5). register-writer is never prompted for;
 * without polkit a root-owned User= in writers.d/NAME.conf grants it.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <systemd/sd-bus.h>

typedef struct Authority Authority;
typedef struct AuthorityCheck AuthorityCheck;

/* failure NULL: allowed. Called exactly once, never from within authority_check(). */
typedef void (*AuthorityDone)(const Failure *failure, void *userdata);

typedef struct AuthorityCaller {
        uid_t uid;
        pid_t pid;
} AuthorityCaller;

int authority_new(sd_bus *bus, const char *configuration_directory, Authority **ret);
Authority *authority_free(Authority *a);
/* Reads writers.d/NAME.conf again. */
int authority_reload(Authority *a);
/* The account that owns this writer name by a root-owned writers.d/NAME.conf: 0, -ENOENT. */
int authority_writer_owner(const Authority *a, const char *name, uid_t *ret);
/*
 * action NULL: only finds out who the sender is.
 * details: NULL-terminated list key, value, key, value … (copied). The sender's uid is looked up from the bus when
 * needed. The check keeps no reference to the message beyond its sender name and flag.
 */
int authority_check(Authority *a, sd_bus_message *m, const char *action, const char *const *details, AuthorityDone done,
                    void *userdata, AuthorityCheck **ret);
/* Valid in done when failure is NULL or NOT_AUTHORIZED. */
const AuthorityCaller *authority_check_caller(const AuthorityCheck *c);
AuthorityCheck *authority_check_free(AuthorityCheck *c); /* no callback */
DEFINE_CLEANUP(AuthorityCheck *, authority_check_free);
const char *authority_mode(const Authority *a); /* "polkit" or "root-only": Manager.Authorization */
