/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * systemd, and the bus it is on, as the writer of units needs them: what a unit is, FreezeUnit and ThawUnit, and who
 * must be running. A connection of its own, used by one thread at a time; no call takes longer than it may.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include "writers/writer-lib.h"

typedef struct UnitFacts {
        char id[256]; /* its real name */
        char control_group[4096];
        char state_directories[4096]; /* their names, one a line */
        uint64_t watchdog_usec;
} UnitFacts;

int manager_open(sd_bus **ret, Failure *reterr);
/* A unit that does not exist is NOT_FOUND. Without systemd: UNAVAILABLE. */
int manager_unit(sd_bus *bus, uint64_t until_usec, const char *name, UnitFacts *ret, Failure *reterr);
/* The unit that a control group belongs to; 0: there is none, or no systemd. 1: found. */
int manager_unit_of(sd_bus *bus, uint64_t until_usec, const char *control_group, UnitFacts *ret, Failure *reterr);
/* verb: "FreezeUnit" or "ThawUnit"; answered when it is done. */
int manager_call(sd_bus *bus, uint64_t until_usec, const char *verb, const char *unit, Failure *reterr);
/* Asks and does not wait: for what has to come after something that was not answered. */
void manager_post(sd_bus *bus, const char *verb, const char *unit);
/* The process that owns a name; 0: nobody does. */
pid_t manager_owner(sd_bus *bus, uint64_t until_usec, const char *name);
