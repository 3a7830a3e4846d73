/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What vssd, libvss and vssctl all need on top of sd-bus: object paths, our errors, the trailing options, descriptors
 * and documents in memfds. Nothing here logs or waits. Functions that return a Failure return its negative errno as
 * well.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <sys/stat.h>
#include <systemd/sd-bus.h>

/* Object paths. class_path is VSS_PATH_SETS and so on; ids are opaque outside. */
int bus_path_encode(const char *class_path, const char *id, char **ret);
/* 1: path is that of an object of this class, *ret_id is its id. 0: it is not (also the bare class path, and other
 * spellings). */
int bus_path_decode(const char *class_path, const char *path, char **ret_id);
int bus_path_encode_writer(const char *name, const char *instance, char **ret);
int bus_path_decode_writer(const char *path, char **ret_name, char **ret_instance); /* as above */

/* Errors. Handlers return what these return. */
int bus_error_set(sd_bus_error *error, const Failure *f);
int bus_error_setf(sd_bus_error *error, Condition c, const char *format, ...) _printf_(3, 4);
int bus_reply_failure(sd_bus_message *call, const Failure *f); /* sends; 1 or -errno of sending */
/* By name, never by errno. An error that is not set is CONDITION_NONE. Returns the negative errno of the condition. */
int bus_failure_from_error(const sd_bus_error *error, Failure *ret);
/* For what sd_bus_call() and friends return: the error if it is set, else r itself (local errors: UNAVAILABLE,
 * LIMIT_REACHED, FAILED). */
int bus_failure_from_call(int r, const sd_bus_error *error, const char *what, Failure *ret);

/*
 * The trailing options a{sv}. A row reads "b" into bool, "u" into uint32_t, "t" into uint64_t, "d" into double, "s"
 * into char * (owned, valid text up to LIMIT_STRING_BYTES), "as" into char ** (NULL-terminated, at most LIMIT_LIST
 * entries), "a{ss}" into char ** of "key=value" (at most LIMIT_LABELS); any other type needs read(), which finds m
 * inside the variant.
 */
typedef struct BusOption {
        const char *key, *type;
        size_t offset;
        int (*read)(sd_bus_message *m, void *field, Failure *reterr);
} BusOption;
/* m stands before the a{sv}. Unknown key, wrong type, key given twice: INVALID_ARGUMENT naming the key. On failure
 * target may be half filled: its owner frees it. ret_seen (may be NULL): bit per row. */
int bus_read_options(sd_bus_message *m, const BusOption *options, size_t n_options, void *target, uint64_t *ret_seen,
                     Failure *reterr);
/* Rows that every method that changes something has; Type has bool dry_run and char *reason. */
#define BUS_OPTIONS_COMMON(Type) \
        { "dry_run", "b", offsetof(Type, dry_run), NULL }, { \
                "reason", "s", offsetof(Type, reason), NULL \
        }
/* Any one basic value or list, as above, without variant: for arguments before the options and for dictionaries of
 * peers. */
int bus_read_field(sd_bus_message *m, const char *type, void *field, Failure *reterr);

/* Takes the descriptor argument h at which m stands as our own; format: S_IFREG, S_IFIFO, S_IFSOCK …, 0: any. */
int bus_take_fd(sd_bus_message *m, mode_t format, int *ret_fd, Failure *reterr);
/* Documents too large for a message. A new one is sealed; one that is not sealed is refused, as its owner could change
 * or shorten it while it is read. *ret is NUL-terminated behind its size. */
int bus_document_new(const char *name, const char *text, size_t size, int *ret_fd);
int bus_document_read(int fd, size_t max, char **ret, size_t *ret_size, Failure *reterr);
