/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Where vssd's lines go: the journal with fields if it started us, else stderr. While file systems are held stderr may
 * be a file on one of them, or a pipe whose reader waits for one, so lines then go into a ring in memory and out
 * afterwards. A line that would block is dropped and counted: vssd never waits for whoever reads its log.
 */
#include "protocol/base.h"
#include <stdarg.h>

void log_open(void);
/* For a vssd that dbus-daemon started, whose stderr nobody reads: DIRECTORY/vssd.log, one old one kept. */
void log_to_directory(const char *directory);
/* set, writer and phase may be NULL; in the journal they are the fields VSS_SET, VSS_WRITER and VSS_PHASE. */
void log_line(int priority, const char *set, const char *phase, const char *format, ...) _printf_(4, 5);
void log_linev(int priority, const char *set, const char *writer, const char *phase, const char *format, va_list ap)
        _printf_(5, 0);
/* true: keep lines in memory; false: write what was kept, then lines as they come. */
void log_keep(bool keep);
