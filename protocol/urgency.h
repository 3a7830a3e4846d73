/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Who runs first where there are more tasks than processors. A set is mostly preparation, for which nobody waits but
 * who asked for it, and for a moment the hold, for which everybody who writes does. Both are asked of the scheduler by
 * the slice of the task (Linux 6.12: sched(7), EEVDF): one with a shorter slice that wakes up takes the processor from
 * one with a longer one. The share of the processor stays what it is, so nothing starves, unlike with another nice
 * value, and it takes no privilege. Before 6.12 the kernel takes it and does nothing.
 */
typedef enum Urgency {
        URGENCY_USUAL, /* the kernel's own slice, some milliseconds */
        URGENCY_LATER, /* whoever wakes up goes first */
        URGENCY_HOLD,  /* somebody stands still for this */
} Urgency;

/* Of the thread that calls, and of what it starts from now on. A policy other than SCHED_OTHER and SCHED_BATCH was
 * given by somebody who knows better, and stays. */
void urgency_set(Urgency u);
