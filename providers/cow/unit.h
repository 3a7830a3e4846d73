/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Where systemd is PID 1, the vss-cow of a store is vss-cow@UUID.service: outside of vssd's control group, stopped
 * after what is mounted from it, started again when it died. What is to be attached then, and when the machine starts,
 * is STATE/cow/attached: a file for each volume, named as it is, with the id of its store and its origin, a line each.
 * A volume is in there from its attach to its detach.
 */
#include "protocol/base.h"

enum { ATTACHED_NAME_MAX = 64, ATTACHED_ID_SIZE = 37, ATTACHED_PATH_MAX = 1024, ATTACHED_MAX = 4096 };

typedef struct Attached {
        char name[ATTACHED_NAME_MAX], store[ATTACHED_ID_SIZE], origin[ATTACHED_PATH_MAX];
} Attached;

/* -ENOENT is no error to the reader: there is none. */
int attached_note(const char *state, const Attached *a);
int attached_forget(const char *state, const char *name);
/* All of them; what makes no sense is left out. *ret is the caller's. */
int attached_read(const char *state, Attached **ret, size_t *ret_n);

/* STATE/cow/stores/ID: where that store lies, and the front end if there is a choice of one. */
typedef struct StoreRegistered {
        char path[ATTACHED_PATH_MAX], frontend[16];
} StoreRegistered;
int store_registered(const char *state, const char *id, StoreRegistered *ret);

/* systemd runs, and this program is the one that its units start. */
bool unit_is_available(void);
/*
 * Starts the units of these stores and waits until they answer. Each needs mounted what its store and the origins of
 * its attached volumes lie on; that is written down for systemd first, below /run. -EIO: systemctl says no.
 */
int units_start(const char *state, const char *const *ids, size_t n, uint64_t deadline_usec);
