/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * A directory in /tmp for what a server that applies a log needs meanwhile: its socket, the word of the account that it
 * makes for us, what the programs say. It and its files belong to the account of that server, and nobody else may
 * enter.
 *
 * Whoever made it holds a lock on it as long as it lives, so one without a lock is left of a writer that was killed,
 * and the next one removes it.
 */
#include "protocol/vocabulary.h"
#include "writers/program-child.h"

#define PLACE_ACCOUNT "vss-roll-forward"
enum { PLACE_INIT, PLACE_CLIENT, PLACE_SERVER_LOG, PLACE_READER_LOG, PLACE_CLIENT_LOG, PLACE_FILES };

typedef struct Place {
        char path[32]; /* "": there is none */
        char secret[40];
        int dfd; /* holds the lock */
        int files[PLACE_FILES];
} Place;
#define PLACE_NONE ((Place) { .dfd = -EBADF, .files = { -EBADF, -EBADF, -EBADF, -EBADF, -EBADF } })

int place_make(Place *p, const ProgramAccount *account, Failure *reterr);
const char *place_file_name(unsigned file);
void place_remove(Place *p);
/* Removes those of writers that do not live any more, if they belong to us or to owner. */
void place_clean(uid_t owner);
