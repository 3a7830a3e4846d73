/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * Inside of the requester library: one bus connection that remembers the last failure by name. vssctl links the same
 * objects and uses this header for what the public one does not offer.
 */
#include "client/vss-requester.h"
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <systemd/sd-bus.h>

/* sd-bus's own 25 s are too short for a person at a password prompt; these are ours. */
#define REQUESTER_CALL_USEC (300 * USEC_PER_SEC) /* answers at once, or after a prompt */
#define REQUESTER_LONG_USEC \
        (2 * 3600 * USEC_PER_SEC) /* Complete, Delete, Plan: as long as writers and providers may take */
#define REQUESTER_TICK_USEC (100 * USEC_PER_MSEC) /* between two progress calls while nothing changes */
enum { REQUESTER_ERROR_NAME_BYTES = 256 };

struct vss_requester {
        sd_bus *bus;
        char *name;
        uint64_t call_usec, long_usec; /* own deadlines of calls */
        Condition condition;
        struct vss_error error;
        char error_name[REQUESTER_ERROR_NAME_BYTES];
        char error_message[LIMIT_MESSAGE_BYTES];
};

typedef struct SetText {
        char *key, *value;
} SetText; /* an option, or a volume with its provider, or … */
typedef struct SetPart {
        char *writer, *path, *options;
        bool succeeded;
} SetPart;

struct vss_set {
        struct vss_requester *requester;
        char id[VSS_ID_LENGTH + 1];
        char *path; /* object; NULL before create */
        char *consistency, *state;
        SetText *volumes, *options;
        size_t n_volumes, n_options;
        SetPart *components, *marks, *stamps; /* stamps: of an earlier backup, options is the stamp */
        size_t n_components, n_marks, n_stamps;
        struct SetSnapshot {
                char *object;
                char *text[7]; /* in the order of vss_snapshot_info */
                struct vss_snapshot_info info;
        } * snapshots;
        size_t n_snapshots;
        bool snapshots_known;
};

static inline struct vss_set *set_handle_free(struct vss_set *s) {
        return vss_set_free(s);
}
DEFINE_CLEANUP(struct vss_set *, set_handle_free);

/* Sets the error; returns -errno of the condition. message NULL: the one of the failure is taken from error. */
int requester_fail(struct vss_requester *r, Condition c, const char *format, ...) _printf_(3, 4);
int requester_fail_bus(struct vss_requester *r, const sd_bus_error *e, int error, uint64_t deadline_usec);
int requester_fail_named(struct vss_requester *r, const char *name, const char *message,
                         int retryable); /* retryable -1: the table's */
int requester_new_call(struct vss_requester *r, const char *path, const char *interface, const char *member,
                       sd_bus_message **ret);
/* timeout_usec is a duration; ret_reply may be NULL. */
int requester_call(struct vss_requester *r, sd_bus_message *m, uint64_t timeout_usec, sd_bus_message **ret_reply);
/* r if it failed to build or read a message, as an error of ours; 0 and more is passed on. */
int requester_check(struct vss_requester *r, int error);
/* Bytes that the bus cannot carry, control characters and the backslash as \xHH; and back, for a path that we use
 * ourselves. */
int path_to_bus(const char *path, char **ret);
int path_from_bus(const char *text, char **ret);
/* Only looks, never changes *set_option's* list: is this key and value something CreateSet takes? */
int set_option_check(const char *key, const char *value);
int set_append_arguments(struct vss_set *s, sd_bus_message *m);
struct SetSnapshot *set_find_snapshot(struct vss_set *s, const char *id);
int set_add_stamp(struct vss_set *s, const char *writer, const char *path, const char *stamp);
const char *set_option_last(const struct vss_set *s, const char *key); /* NULL: not given */
void set_forget_snapshots(struct vss_set *s);
int set_load_snapshots(struct vss_set *s);
