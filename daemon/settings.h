/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * vssd.conf (ini; CONFIGURATION_DIRECTORY/vssd.conf, then vssd.conf.d/NAME.conf in order) and the four directories.
 * Read at start and on Reload, never in a window. Unknown sections and keys are warned about, bad values refused with
 * file, line and reason.
 */
#include "protocol/vocabulary.h"

typedef struct Budgets { /* microseconds */
        uint64_t identify, prepare_backup, prepare_snapshot, pre_flush, freeze, hold, provider, provider_step, thaw,
                post_snapshot, backup_complete, abort, restore;
} Budgets;

enum { SETTING_AUTO = 2 };
enum { STUCK_NAME, STUCK_KILL };

typedef struct Settings {
        Budgets budgets;
        uint64_t idle_usec, session_max_usec, window_max_usec;
        unsigned writers_max, sets_max;
        unsigned skip_free;            /* 0 or 1: copies may leave out what the file system has free */
        unsigned lvm_snapshot_percent; /* of its origin: room for changes of a thick copy */
        unsigned lvm_hold; /* 0, 1 or SETTING_AUTO: file systems on logical volumes may be held while they are copied */
        unsigned stuck_freeze; /* STUCK_KILL: whoever keeps a freeze waiting with an io_uring is killed */
        unsigned expedite;     /* 0 or 1: grace periods of RCU are short while file systems are held */
        char *state_directory, *runtime_directory, *configuration_directory, *logs_directory;
} Settings;

int settings_init(Settings *s);                  /* defaults and directories from the environment */
int settings_load(Settings *s, Failure *reterr); /* files; *s unchanged on failure */
/* Into the environment of the providers that are started from now on. */
int settings_export(const Settings *s);
void settings_done(Settings *s);
/* One budget by its vssd.conf name ("hold"); NULL if unknown. */
uint64_t *budgets_find(Budgets *b, const char *name);
/* The names, in the order of the fields of Budgets: NULL after the last. Bounds: what configuration and requests may
 * ask for. */
const char *budget_name(size_t index, uint64_t *ret_min, uint64_t *ret_max);
