/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* The list of writers: who gets on it, under which name, and when one leaves it. */
#include "daemon/manager.h"

typedef struct Registration { /* arguments of RegisterWriter, checked for syntax; owned */
        char *name, *instance, *object, *version, *reason;
        Level level;
        Usage usage;
        Source source;
        uint32_t events, api;
        uint64_t freeze_timeout_usec;
        bool dry_run;
} Registration;

/* Takes what it needs out of g. *ret is the list's; ret_lease the caller's. */
int writer_register(Manager *m, Registration *g, const AuthorityCaller *caller, const char *sender, Failure *reterr,
                    Writer **ret, int *ret_lease);
void writer_unregister(Writer *w);
Writer *writer_new(Manager *m, WriterKind kind, const char *name, const char *instance); /* NULL: out of memory */
void writer_list(Writer *w);
void writer_unlist(Manager *m, Writer *w);
/* A writer's answer to Identify: parsed, checked against its registration, kept; or INVALID_DOCUMENT and its state says
 * so. */
int writer_take_metadata(Writer *w, sd_bus_message *reply, Failure *reterr);
int id_new(char ret[VSS_ID_LENGTH + 1]); /* a random UUID */
