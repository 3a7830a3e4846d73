/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Where auditd writes. While its file system is held it writes nothing, the kernel's backlog fills, and from then on
 * whoever makes an audited call sleeps in it for up to audit_backlog_wait_time (60 s): whoever is to end the hold, too
 * (hazards D2).
 */
#include "protocol/base.h"
#include <stdio.h>

enum { AUDIT_PATH_MAX = 1024, AUDIT_LINES_MAX = 4096 };

/* log_file of a configuration as auditd reads it, or its default. False: it writes no log. f may be NULL. */
bool audit_log_of(FILE *f, char ret[AUDIT_PATH_MAX]);
/* Of the machine's own configuration. */
bool audit_log_find(char ret[AUDIT_PATH_MAX]);
/* Looks at every process: ask when the answer matters. */
bool auditd_runs(void);
