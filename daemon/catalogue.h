/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The catalogue: one JSON record per set in STATE_DIRECTORY/sets/, each file replaced atomically (write, fsync, rename,
 * fsync of the directory) and closed by a SHA-256 line, so that after a power cut a record is the old one or the new
 * one and damage is noticed. vssd itself does no file I/O outside tmpfs (hazards B3: the file system with the state may
 * be held by another set), so a child, vss-store, does it; requests queue in order. The catalogue is a cache of what
 * providers list (hazards B4): a record that is damaged or missing never makes a snapshot go away.
 */
#include "protocol/vocabulary.h"
#include <systemd/sd-event.h>

typedef struct Catalogue Catalogue;

typedef void (*CatalogueDone)(int result, void *userdata); /* 0 or -errno; the record is durable */
/* One per record at load: text is the caller's only during the call; damaged: -EBADMSG with the file name as id. */
typedef void (*CatalogueRecord)(const char *id, const char *text, int result, void *userdata);

int catalogue_new(sd_event *event, const char *state_directory,
                  Catalogue **ret);      /* spawns vss-store, which takes a lock: one vssd per directory */
Catalogue *catalogue_free(Catalogue *c); /* waits for nothing; what was queued but unsent is lost, so flush first */
/* Asynchronous: record per file, then done(number of records or -errno). */
int catalogue_load(Catalogue *c, CatalogueRecord record, CatalogueDone done, void *userdata);
/* Copies text (at most LIMIT_MANIFEST_BYTES). done may be NULL. A later put of the same id replaces a queued one. */
int catalogue_put(Catalogue *c, const char *id, const char *text, CatalogueDone done, void *userdata);
int catalogue_remove(Catalogue *c, const char *id, CatalogueDone done, void *userdata);
void catalogue_forget(Catalogue *c, void *userdata); /* no more callbacks for this userdata */
/* In a window: requests are queued, but nothing is sent and no store is started. */
void catalogue_pause(Catalogue *c, bool paused);
bool catalogue_is_idle(const Catalogue *c); /* nothing queued or in flight */
