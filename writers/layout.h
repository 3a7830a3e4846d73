/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once
/*
 * How the disks of this machine are laid out, as a document and as the files that go with it. What disks say is a
 * stranger's word: their labels may have been written by anybody. So they are read by tools of their own process, whose
 * answers are bounded, and nothing that stands in them becomes a path or a command.
 */
#include "protocol/base.h"
#include "protocol/jsonutil.h"

enum {
        LAYOUT_DEVICES_MAX = 256,                       /* disks of one machine */
        LAYOUT_FILES_MAX = 1024,                        /* to be saved */
        LAYOUT_FILE_BYTES_MAX = 256 * 1024,             /* a configuration file */
        LAYOUT_TOOL_BYTES_MAX = 1024 * 1024,            /* what one tool says */
        LAYOUT_BYTES_MAX = 16 * 1024 * 1024,            /* all of it */
        LAYOUT_PROBLEMS_MAX = 64,                       /* what could not be read, one line each */
        LAYOUT_METADATA_BYTES_MAX = LIMIT_STRING_BYTES, /* of the document in a manifest: vssd takes no more */
};
#define LAYOUT_TOOL_USEC (10 * USEC_PER_SEC) /* for one tool: a disk may take seconds to wake up */

typedef struct LayoutFile {
        char *name; /* below the directory of the writer; made of plain parts */
        char *data;
        size_t size;
} LayoutFile;

typedef struct Layout {
        json_object *document;
        LayoutFile *files;
        size_t n_files, bytes;
        unsigned n_problems;
} Layout;

typedef struct LayoutOptions {
        char **devices;  /* NULL-terminated; NULL: every disk that is part of the machine */
        char *directory; /* where the files go */
} LayoutOptions;

/* layout.c */
void layout_done(Layout *l);
/* Takes data. Too much of it is noted as a problem. */
int layout_add_file(Layout *l, const char *name, char *data, size_t size);
void layout_problem(Layout *l, const char *format, ...) _printf_(2, 3);
/* Everything, as far as it can be read by then. Only memory makes it fail. */
int layout_gather(const LayoutOptions *o, uint64_t until_usec, Layout *ret);
/* The document as it goes into a manifest: without the reports of tools if they make it too long. */
int layout_metadata(const Layout *l, char **ret);

/* layout-disks.c */
int layout_add_disks(Layout *l, const LayoutOptions *o, uint64_t until_usec);

/* layout-tool.c: one line of a small file, or NULL; a whole file, -EFBIG if it is larger than that */
char *layout_read_line(const char *path);
int layout_read_file(const char *path, size_t max, char **ret, size_t *ret_size);
/*
 * What a tool says on its standard output, at most LAYOUT_TOOL_BYTES_MAX. It is killed at the end of its time, and not
 * waited for if it sits in the kernel. reterr: the first line of what it complains about, or why it did not run;
 * -ENOENT: it is not installed.
 */
int layout_tool(const char *const argv[], uint64_t until_usec, char **ret, size_t *ret_size, Failure *reterr);
/* What a tool says as JSON, read strictly. */
int layout_tool_json(const char *const argv[], uint64_t until_usec, json_object **ret, Failure *reterr);

/* layout-save.c: the directory holds these files and nothing else of ours; what did not change is not written. */
int layout_save(const Layout *l, const char *directory, Failure *reterr);
