/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* One provider at start-up: what it is, what it has, what must go. */
#include "daemon/manager.h"

typedef struct ProviderRecovery ProviderRecovery;
struct ProviderRecovery {
        LIST_ENTRY(ProviderRecovery) entries;
        Manager *manager;
        Recovery *recovery;
        ProviderEntry *entry;
        ProviderJob *job;
        struct vss_wire_reply *found; /* committed copies the catalogue does not know */
        size_t n_found;
        struct vss_wire_reply *reverting; /* copies to which a volume was being reverted */
        size_t n_reverting;
        char **pending; /* sets with copies that carry the mark */
        size_t at;
};

int provider_recovery_new(Manager *m, Recovery *r, const char *name,
                          ProviderRecovery **ret); /* puts the entry into the manager's list */
void provider_recovery_start(ProviderRecovery *p);
void provider_recovery_free(ProviderRecovery *p); /* leaves the recovery's list */
void recovery_provider_done(Recovery *r);
