/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Finds one provider by name, checks it, and makes a table of it whose members this build knows. Only for
 * vss-provider-host. */
#include "protocol/vocabulary.h"
#include "providers/vss-provider.h"

enum { PROVIDER_API_OLDEST = 1 }; /* oldest api_version that still loads */

typedef struct LoadedProvider {
        struct vss_provider table; /* members an older file does not have are NULL */
        uint64_t capabilities;     /* after provider_start() */
        void *state;               /* of its load() */
        bool builtin, started;
} LoadedProvider;

/*
 * name: as asked for, "fault:" in front wraps it. Nothing of the provider has run yet but its entry function. Failures
 * begin with the name.
 */
int provider_load(const char *name, LoadedProvider *ret, Failure *reterr);
/* Its load() and capabilities(), and whether it has the calls that these need. */
int provider_start(LoadedProvider *p, Failure *reterr);
/* Its unload(), if it was started. The file stays mapped: threads of the provider may still run its code. */
void provider_stop(LoadedProvider *p);
/* The checks of provider_load() on a table that is already there. name: what table->name must be. */
int provider_table_check(const struct vss_provider *table, const char *name, struct vss_provider *ret, Failure *reterr);
