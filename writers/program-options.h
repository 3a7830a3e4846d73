/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Options that several writers have. They fill in a WriterOptions, which is the first member of what such a program
 * gives as ProgramOption's target; what a program does not offer stays NULL or as the program set it.
 */
#include "writers/program.h"

typedef struct WriterOptions {
        char *socket, *user, *password; /* how to reach the server */
        char *service;                  /* the unit that a restore stops */
        uint64_t freeze_usec;           /* longest time from Freeze to Thaw */
} WriterOptions;

int option_socket(void *target, const char *value, Failure *reterr);
int option_user(void *target, const char *value, Failure *reterr);
int option_password_file(void *target, const char *value, Failure *reterr);
int option_service(void *target, const char *value, Failure *reterr);
int option_freeze_timeout(void *target, const char *value, Failure *reterr);
void writer_options_done(WriterOptions *o);

/* Replaces *to, which is the caller's, by a copy of value. */
int option_text(char **to, const char *value, Failure *reterr);
