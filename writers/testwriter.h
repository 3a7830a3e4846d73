/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* Inside of vss-testwriter: what it does wrong, and when. */
#include "writers/program.h"

typedef enum Misdeed {
        MISDEED_NONE,
        MISDEED_FAIL,
        MISDEED_FAIL_COMPONENT,
        MISDEED_HANG,
        MISDEED_DIE,
        MISDEED_LATE,
        MISDEED_TWICE,
        _MISDEED_MAX
} Misdeed;

typedef struct Rule {
        Misdeed misdeed;
        WriterEvent event;
        uint64_t late_usec;
        unsigned times; /* 0: always */
} Rule;

/* What it says of a component in the answer to an event. */
typedef struct Answer {
        WriterEvent event;
        char *component, *key, *value;
} Answer;

enum { RULES_MAX = 64, TESTWRITERS_MAX = 2000, ANSWERS_MAX = 64 };

typedef struct Test Test;

typedef struct TestWriter {
        Test *test;
        char *name;
        struct vss_writer *writer;
        sd_event *loop;           /* its own: one connection per writer */
        sd_event_source *outer;   /* its loop in ours */
        unsigned used[RULES_MAX]; /* how often each rule was */
} TestWriter;

struct Test {
        Program program;
        Rule rules[RULES_MAX];
        size_t n_rules;
        enum vss_veto veto;
        Answer answers[ANSWERS_MAX];
        size_t n_answers;
        char *volume, *hostile, *add, *document;
        uint64_t freeze_usec;
        unsigned count;
        bool delete_originals, run, shared, say;
        TestWriter *writers;
        sd_event *loop;
        unsigned n_refused;
        int status;
};

/* testwriter-words.c: EVENT:COMPONENT:KEY=VALUE; what an event is answered with; what the writer was told, on stdout.
 */
int answer_add(Test *t, const char *value, Failure *reterr);
void answers_put(const Test *t, struct vss_event *e);
void answers_done(Test *t);
void say_session(const TestWriter *t, const struct vss_event *e);
int identify_by_document(const Test *t, struct vss_metadata *m); /* of --document */
/* Removes every regular file below the volume, on that file system only. */
int delete_originals(const char *volume, Failure *reterr);
/* Speaks to vssd in ways the library never would; returns the exit status. */
int hostile_run(const Test *t);
