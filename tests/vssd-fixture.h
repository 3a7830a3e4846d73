/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/* A vssd with directories of its own on a private bus, and the ways to ask it. Needs CK_FORK=no: buses do not survive a
 * fork. */
#include "protocol/vocabulary.h"
#include "tests/support.h"

/*
 * A whole hostile suite may cost vssd so much memory, and a large request so much time, of which others may want half.
 * A sanitizer keeps what was freed, and looks at every byte.
 */
#if defined(__SANITIZE_ADDRESS__)
enum { VSSD_GROWTH_MAX_KIB = 1024 * 1024 };
#define VSSD_QUICK_USEC (30 * USEC_PER_SEC)
#else
enum { VSSD_GROWTH_MAX_KIB = 16 * 1024 };
#define VSSD_QUICK_USEC (2 * USEC_PER_SEC)
#endif

typedef struct TestVssd {
        PrivateBus *daemon;
        sd_bus *bus; /* ours */
        char *directory;
        pid_t pid; /* 0: none */
} TestVssd;

void vssd_setup(TestVssd *v);
void vssd_teardown(TestVssd *v); /* it must end with status 0 */
pid_t vssd_start(void);          /* does not wait */
void vssd_start_and_wait(TestVssd *v);
bool vssd_answers(TestVssd *v);
/* DIRECTORY/name becomes the value of an environment variable, for the next vssd. */
void vssd_set_directory(TestVssd *v, const char *variable, const char *name);
long vssd_resident_kib(const TestVssd *v);

sd_bus_message *vssd_call(TestVssd *v, const char *path, const char *interface, const char *member);
sd_bus_message *manager_call(TestVssd *v, const char *member);
/* Takes m and sends it; the error must be of this condition and say this. */
void expect_error(sd_bus_message *m, Condition c, const char *text);
sd_bus_message *registration(sd_bus *who, const char *name, const char *instance); /* object /writer, no options */
int register_writer(sd_bus *who, const char *name, const char *instance,
                    char **ret_entry); /* the lease, the caller's */
