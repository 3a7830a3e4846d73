/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Between the two halves of the sequence machine: sequence-step.c knows the tables and how a step begins and ends,
 * sequence.c what an event means.
 */
#include "daemon/sequence.h"

typedef enum StepKind {
        STEP_WRITERS,
        STEP_PROVIDERS,
        STEP_GUARD,
        STEP_STORE,
        STEP_WINDOW,
        STEP_THAW,            /* writers of one level that are frozen */
        STEP_THAWED,          /* all Thaws answered; the window is over */
        STEP_ABORT_PROVIDERS, /* unwinding: start their aborts, go on at once */
        STEP_ABORT_WRITERS,   /* unwinding: Abort or BackupShutdown; waits for these and for the provider aborts */
        STEP_END,
} StepKind;

typedef struct Step {
        Phase phase;
        StepKind kind;
        unsigned op;
        int level; /* -1: all */
} Step;

const Step *step_now(const Sequence *s);
/* Has the forward table not yet reached this step? False once it unwinds. */
bool step_before(const Sequence *s, StepKind kind, unsigned op);
void step_begin(Sequence *s, uint64_t now);
void step_advance(Sequence *s, uint64_t now); /* as far as it goes without waiting */

void sequence_push(Sequence *s, SequenceAction a);
void writer_settled(Sequence *s, unsigned i);
/* Abort or BackupShutdown, once, if it saw PrepareBackup; wait: its answer keeps the machine from finishing. */
void writer_end(Sequence *s, unsigned i, uint64_t now, bool wait);
void provider_settled(Sequence *s, unsigned i);
void provider_kill(Sequence *s, unsigned i);
void open_gates(Sequence *s);
void provider_abort(Sequence *s, unsigned i, uint64_t now);
/* The first call decides the cause and turns the machine round; later ones change nothing. failure NULL: condition
 * alone. */
void sequence_fail(Sequence *s, uint64_t now, SequenceActor actor, unsigned index, const Failure *failure,
                   Condition condition);
