/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The writer metadata document (interfaces 5.1), parsed strictly: what a writer said about itself and its data. Every
 * string has been bounded and checked; roots are absolute, without "." and ".." parts. Owned by whoever holds the
 * Metadata.
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"

typedef enum FileRole { FILE_ROLE_DATA, FILE_ROLE_LOG, FILE_ROLE_FILE, _FILE_ROLE_MAX } FileRole;
DECLARE_WORDS(file_role, FileRole);

typedef struct FileSet {
        char *root, *pattern;
        bool recursive;
} FileSet;

/* Where a file set goes if it cannot go where it was. */
typedef struct AlternateLocation {
        FileSet set;
        char *to;
} AlternateLocation;

typedef struct ComponentFiles {
        FileRole role;
        FileSet set;
        char *source;      /* other place to read from, or NULL */
        uint32_t backup;   /* bit per BackupType in which it must be saved; copy counts as full */
        uint32_t snapshot; /* bit per BackupType in which it must come from the copy */
} ComponentFiles;

typedef struct Dependency {
        char *writer, *path, *host; /* host NULL: here */
} Dependency;

typedef struct Component {
        char *path;    /* "a/b/c" */
        bool database; /* type: database, else file-group */
        char *caption; /* "" if it has none */
        bool selectable, selectable_for_restore, notify_complete, system_state;
        bool recovers_backup, recovers_rollback;
        ComponentFiles *files;
        size_t n_files;
        Dependency *depends;
        size_t n_depends;
} Component;

typedef struct Metadata {
        char *name, *instance, *version; /* the last two "" if absent */
        Level level;
        Usage usage;
        Source source;
        uint64_t freeze_timeout_usec; /* 0: default */
        char **backup_schema;         /* NULL-terminated words */
        char *restore_method, *restore_service, *restore_writer_events;
        bool restore_reboot;
        AlternateLocation *alternates;
        size_t n_alternates;
        Component *components;
        size_t n_components;
        struct PathEntry *by_path; /* of components */
        FileSet *exclude;
        size_t n_exclude;
        FileSet *exclude_from_snapshot;
        size_t n_exclude_from_snapshot;
        char *freeze_unit; /* declarative only: "freeze":{"unit":…} */
} Metadata;

/* text of exactly size bytes (no NUL needed). INVALID_DOCUMENT names the JSON path of what is wrong. */
int metadata_parse(const char *text, size_t size, Failure *reterr, Metadata **ret);
Metadata *metadata_free(Metadata *m);
DEFINE_CLEANUP(Metadata *, metadata_free);
/* Does writer document m agree with what was registered? INVALID_DOCUMENT naming the key if not. */
int metadata_check_identity(const Metadata *m, const char *name, const char *instance, Failure *reterr);
/* VSS rules of component sets (facts/vss.md 1.5): index of the nearest selectable ancestor, or -1. */
int metadata_selectable_ancestor(const Metadata *m, size_t component);
bool file_pattern_is_valid(const char *s); /* of the names in one directory, so it is no path */
struct JsonReader;
int file_set_read(struct JsonReader *r, void *element);           /* a FileSet of another document */
int metadata_find_component(const Metadata *m, const char *path); /* index, or -1 */
/*
 * What the writer does when that is asked for: a type that its backup_schema does not name is a full backup. A copy
 * needs no word: it is a full backup after which the writer changes nothing, so that nothing is lost by taking it for
 * one.
 */
BackupType metadata_backup_type(const Metadata *m, BackupType asked);
bool component_path_is_below(const char *path, const char *ancestor); /* strictly */
