/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What the writer programs have in common: options from the command line and from writers.d/NAME.conf, the line `ready
 * NAME`, and failures as one line and an exit status.
 */
#include "writers/writer-lib.h"

typedef struct ProgramOption {
        const char *name, *value; /* value: what stands for it in the help; NULL: a flag */
        const char *help;
        int (*set)(void *target, const char *value,
                   Failure *reterr); /* value NULL for a flag; in a file: "yes" or nothing */
} ProgramOption;

typedef struct Program {
        const char *command, *arguments, *summary; /* for --help */
        const ProgramOption *options;
        size_t n_options;
        const char *argument_key; /* what the file calls a positional argument; NULL: there are none */
        int (*argument)(void *target, const char *value, Failure *reterr);
        void *target;
        char *name, *instance; /* name: the default on entry, not owned then */
        Level level;
        char *own_name;
        int status; /* exit status so far */
} Program;

/* 0: go on. 1: --help or --version has been printed. Negative: said why; Program.status is the exit status. */
int program_parse(Program *p, int argc, char *argv[]);
void program_done(Program *p);
/* Registers, prints `ready NAME` each time vssd takes the writer, serves until the end; returns the exit status. */
int program_run(Program *p, const struct vss_writer_callbacks *callbacks, void *userdata);
/* One line on stderr; returns the exit status that belongs to f. */
int program_fail(const Program *p, const Failure *f);
/*
 * When to give up so that the answer to e still comes in time: PROGRAM_MARGIN_USEC before it is due; in an event
 * without an end a minute from now.
 */
#define PROGRAM_MARGIN_USEC (300 * USEC_PER_MSEC)
uint64_t program_until(const struct vss_event *e);
/* Absolute, symbolic links resolved where the file exists. */
int path_absolute(const char *path, char **ret, Failure *reterr);
/* The first line of a file that nobody else may read. Replaces *ret, which is the caller's. */
int password_read(const char *path, char **ret, Failure *reterr);
int parse_seconds(const char *text, uint64_t *ret_usec, Failure *reterr);
