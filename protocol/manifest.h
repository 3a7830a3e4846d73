/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * The manifest (backup components document, interfaces 5.2): what a backup must keep beside its data to restore it.
 * Written by vssd, read back by Import, restore and tests. Tolerant reader: unknown keys are ignored, but digest,
 * schema, kind and requires are checked (DAMAGED, INVALID_DOCUMENT).
 */
#include "protocol/base.h"
#include "protocol/vocabulary.h"
#include <json-c/json.h>

typedef struct ManifestComponent {
        char *path, *options, *previous_stamp, *stamp, *metadata;
        char *partial_files, *differenced_files; /* JSON arrays, or NULL */
        char **implicit;                         /* NULL-terminated */
        char *restore;                           /* JSON object: what became of it when it was restored; or NULL */
        int succeeded;                           /* -1 not known yet, 0, 1 */
        char **failures;                         /* "event\nerror\nmessage" each, NULL-terminated */
} ManifestComponent;

typedef struct ManifestWriter {
        char *name, *instance, *metadata_text; /* the whole document as it was */
        char **options;                        /* KEY=VALUE of the requester, NULL-terminated or NULL */
        BackupType type;                       /* what it did of the type that was asked for */
        ManifestComponent *components;
        size_t n_components;
        struct PathEntry *by_path; /* of components, if it was parsed */
} ManifestWriter;

typedef struct ManifestSnapshot {
        char *id, *volume, *device, *filesystem, *filesystem_uuid, *provider, *token;
        uint64_t size_bytes;
        Consistency consistency;
        bool persistent;
} ManifestSnapshot;

typedef struct Manifest {
        char *set, *created, *completed, *host_name, *machine_id, *vss_version;
        BackupType type;
        bool component_mode, bootable_state, partial_files, one_instant;
        char *requester;
        char *exclude;                /* JSON array: files to be kept out of the backup; or NULL */
        char *excluded_from_snapshot; /* likewise: what was removed from the copies */
        Consistency consistency;
        ManifestSnapshot *snapshots;
        size_t n_snapshots;
        ManifestWriter *writers;
        size_t n_writers;
} Manifest;

void manifest_done(Manifest *m);
/* Emits with its digest; caller frees. */
int manifest_format(const Manifest *m, char **ret_json);
int manifest_parse(const char *text, size_t size, Failure *reterr, Manifest *ret);
/* Makes by_path of the components; for a writer that was not parsed. */
int manifest_writer_index(ManifestWriter *w);
/* RFC 3339 UTC with microseconds: "2026-11-22T10:00:02.377800Z" */
int format_timestamp(uint64_t realtime_usec, char *ret, size_t size);
