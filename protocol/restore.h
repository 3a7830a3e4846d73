/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * What of a manifest may be restored and how it may be asked for: the rules of selectability for restore and of what a
 * writer said it supports. vssd checks them before it calls a writer, vssctl where no writer is called. Pure.
 */
#include "protocol/manifest.h"
#include "protocol/metadata.h"

typedef enum RestoreMethod {
        RESTORE_IF_NOT_THERE,   /* all or nothing: only if none of the files exists */
        RESTORE_IF_CAN_REPLACE, /* all or nothing: only if each file that exists can be replaced */
        RESTORE_STOP_START,     /* stop the service, restore, start it */
        RESTORE_ALTERNATE,      /* to the alternate location */
        RESTORE_AT_REBOOT,      /* beside the files, swapped early in the next boot */
        RESTORE_AT_REBOOT_IF_BUSY,
        RESTORE_CUSTOM,       /* only the application's own procedure can */
        RESTORE_THEN_RESTART, /* restore, tell the writer, then stop and start the service */
        _RESTORE_METHOD_MAX,
} RestoreMethod;
DECLARE_WORDS(restore_method, RestoreMethod);

typedef enum RestoreTarget {                          /* what a writer answers to PreRestore; beats the method */
                             RESTORE_TARGET_ORIGINAL, /* as the method says */
                             RESTORE_TARGET_ALTERNATE,
                             RESTORE_TARGET_DIRECTED,
                             RESTORE_TARGET_ORIGINAL_LOCATION, /* where it was, whatever the method says */
                             _RESTORE_TARGET_MAX,
} RestoreTarget;
DECLARE_WORDS(restore_target, RestoreTarget);

typedef enum RestoreStatus {
        RESTORE_STATUS_NONE,   /* nothing was written */
        RESTORE_STATUS_ALL,    /* every file is there */
        RESTORE_STATUS_FAILED, /* some files are: the component is not usable */
        _RESTORE_STATUS_MAX,
} RestoreStatus;
DECLARE_WORDS(restore_status, RestoreStatus);

typedef enum RestoreEvents {
        RESTORE_EVENTS_NEVER,
        RESTORE_EVENTS_IF_REPLACE_FAILS, /* PreRestore always, PostRestore only then */
        RESTORE_EVENTS_ALWAYS,
        _RESTORE_EVENTS_MAX,
} RestoreEvents;
DECLARE_WORDS(restore_events, RestoreEvents);

/* What a requester asks for beside the plain restore of a component. Owned. */
typedef struct RestoreWishes {
        char *to;       /* a directory: new target */
        char *rename;   /* the name the component gets */
        char *instance; /* of the writer that takes it over */
        char *until;    /* point up to which logs are applied, in the writer's words */
        char *options;  /* "SUB/PATH":"NAME"="VALUE",… */
        bool authoritative, more_follows;
} RestoreWishes;
void restore_wishes_done(RestoreWishes *w);

/* NAME, or NAME@INSTANCE where several have the name: NOT_FOUND, AMBIGUOUS. */
int restore_find_writer(const Manifest *m, const char *reference, Failure *reterr, const ManifestWriter **ret);
/* The writer's document as the backup keeps it, if it is this writer's: INVALID_DOCUMENT. */
int restore_read_document(const ManifestWriter *w, Failure *reterr, Metadata **ret);
/*
 * The explicit component that path is or is a part of. A part needs selectable_for_restore, or it is NOT_SUPPORTED;
 * what the backup does not hold is NOT_FOUND.
 */
int restore_find_component(const ManifestWriter *w, const Metadata *saved, const char *path, Failure *reterr,
                           const ManifestComponent **ret);
/* Is saved component index i restored when path of this writer is? (itself and what was backed up with it) */
bool restore_includes(const ManifestWriter *w, const Metadata *saved, const char *path, size_t i);
bool restore_supports(const Metadata *saved, const char *schema_word);
/* NOT_SUPPORTED naming the wish that the writer did not say it supports. what: the component, for the message. */
int restore_check_wishes(const Metadata *saved, const char *what, const RestoreWishes *wishes, Failure *reterr);
/* The method and the events of a document; one that names none means if-can-replace and always. */
RestoreMethod restore_method_of(const Metadata *saved);
RestoreEvents restore_events_of(const Metadata *saved);

/*
 * Options in VSS's grammar: "SUB/PATH":"NAME"="VALUE", separated by commas. "" is the component itself; \" and
 * \\ inside the quotes. An option holds for the part it names and everything below it; the nearest one wins, of two
 * equal ones the last. Names are compared without regard to case.
 */
int restore_options_check(const char *text, Failure *reterr);
/* The value for this part ("" or "a/b"), to be freed; -ENXIO: none. text has been checked. */
int restore_options_find(const char *text, const char *part, const char *name, char **ret);
