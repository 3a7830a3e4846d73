/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The machine does not sleep or go down while something is held (hazards D3): a suspend that begins then fails on the
 * processes that wait for held file systems, and a hold would go on as long as the machine sleeps. logind is asked for
 * two locks, when a set begins to prepare its snapshot and until its last Thaw: one that refuses whoever asks politely,
 * and one that makes those who are above that (root) wait for some seconds. A sleep that begins nevertheless aborts the
 * sets that have the locks. Everything here is asked and not waited for: where there is no logind, or it does not
 * answer, sets go on without.
 */
#include "daemon/set.h"

typedef struct Inhibitor Inhibitor;

int inhibitor_new(Manager *m, Inhibitor **ret);
Inhibitor *inhibitor_free(Inhibitor *i);
/* Each set at most once; every take has its drop. */
void inhibitor_take(Inhibitor *i);
void inhibitor_drop(Inhibitor *i);
