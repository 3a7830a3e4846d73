/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The one thread on which callbacks run in run mode. The loop's thread adds events and finishes them; the worker calls
 * the callbacks, one at a time, and asks the loop's thread for what needs the bus.
 */
#include "writers/writer-lib.h"

/* On the loop's thread. */
int worker_new(Writer *w, sd_event *event, Worker **ret);
Worker *worker_free(Worker *k); /* waits for the callback that runs */
DEFINE_CLEANUP(Worker *, worker_free);
void worker_add(Worker *k, Event *e);
bool worker_is_busy(Worker *k);
void worker_settled(Worker *k);               /* nothing is frozen: stop if asked to */
void worker_registered(Worker *k, int error); /* or refused */

/* On the worker's thread, inside a callback. */
void worker_progress(Worker *k, Event *e, double fraction);
int worker_open_copy(Worker *k, Event *e, const char *volume, int *ret_fd);
