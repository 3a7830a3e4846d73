/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Files that a writer wants to be saved in part (byte ranges) or by difference (newer than a moment). A backup program
 * that runs as root reads them and a restore writes them, so a writer speaks only of what its document has declared,
 * and that was held against its account when the set was planned.
 */
#include "daemon/conductor.h"
#include "protocol/jsonutil.h"
#include "protocol/metadata.h"
#include "protocol/text.h"
#include <inttypes.h>
#include <stdio.h>

typedef struct FilesReader {
        const Metadata *metadata;
        sd_bus_message *m;
        FILE *f;
        size_t n; /* entries and ranges: LIMIT_FILE_SETS of both together */
} FilesReader;

static bool is_declared(const Metadata *m, const char *path) {
        for (size_t i = 0; i < m->n_components; i++)
                for (size_t k = 0; k < m->components[i].n_files; k++)
                        if (path_is_inside(path, m->components[i].files[k].set.root))
                                return true;
        return false;
}

static int begin_entry(FilesReader *r, const char *key, const char *path) {
        if (r->n++ >= LIMIT_FILE_SETS)
                return -E2BIG;
        if (strnlen(path, LIMIT_PATH_BYTES) >= LIMIT_PATH_BYTES || !path_is_clean(path) ||
            !is_declared(r->metadata, path))
                return -EBADMSG;
        fprintf(r->f, "%s{\"%s\":", ftell(r->f) > 1 ? "," : "", key);
        json_write_string(r->f, path, strlen(path));
        return 0;
}

static int read_ranges(FilesReader *r) {
        uint64_t offset, length;
        int k = sd_bus_message_enter_container(r->m, 'a', "(tt)");

        for (bool first = true; k >= 0 && (k = sd_bus_message_read(r->m, "(tt)", &offset, &length)) > 0;
             first = false) {
                if (r->n++ >= LIMIT_FILE_SETS)
                        return -E2BIG;
                if (length == 0 || offset > INT64_MAX || length > INT64_MAX - offset)
                        return -EBADMSG;
                fprintf(r->f, "%s[%" PRIu64 ",%" PRIu64 "]", first ? "" : ",", offset, length);
        }
        return k < 0 ? k : sd_bus_message_exit_container(r->m);
}

static int read_partial(FilesReader *r) {
        const char *path;
        int k = sd_bus_message_enter_container(r->m, 'a', "(sa(tt))");

        while (k >= 0 && (k = sd_bus_message_enter_container(r->m, 'r', "sa(tt)")) > 0) {
                k = sd_bus_message_read(r->m, "s", &path);
                if (k >= 0)
                        k = begin_entry(r, "path", path);
                fputs(",\"ranges\":[", r->f);
                if (k >= 0)
                        k = read_ranges(r);
                fputs("],\"metadata\":null}", r->f);
                if (k >= 0)
                        k = sd_bus_message_exit_container(r->m);
        }
        return k < 0 ? k : sd_bus_message_exit_container(r->m);
}

static int read_differenced(FilesReader *r) {
        const char *root, *pattern;
        int64_t since;
        int recursive, k = sd_bus_message_enter_container(r->m, 'a', "(ssbx)");

        while (k >= 0 && (k = sd_bus_message_read(r->m, "(ssbx)", &root, &pattern, &recursive, &since)) > 0) {
                k = begin_entry(r, "root", root);
                if (k >= 0 && !file_pattern_is_valid(pattern))
                        k = -EBADMSG;
                if (k < 0)
                        return k;
                fputs(",\"pattern\":", r->f);
                json_write_string(r->f, pattern, strlen(pattern));
                fprintf(r->f, ",\"recursive\":%s,\"since\":%" PRId64 "}", recursive ? "true" : "false", since);
        }
        return k < 0 ? k : sd_bus_message_exit_container(r->m);
}

int session_read_files(const SetWriter *w, bool partial, sd_bus_message *m, char **ret_json) {
        _cleanup_(metadata_freep) Metadata *metadata = NULL;
        _cleanup_free_ char *text = NULL;
        FilesReader r = { .m = m };
        size_t size = 0;
        Failure f;

        int k = w->metadata_text ? metadata_parse(w->metadata_text, strlen(w->metadata_text), &f, &metadata) : -EBADMSG;
        if (k < 0)
                return k;
        r.metadata = metadata;
        r.f = open_memstream(&text, &size);
        if (!r.f)
                return -ENOMEM;
        fputc('[', r.f);
        k = sd_bus_message_enter_container(m, 'v', partial ? "a(sa(tt))" : "a(ssbx)");
        if (k >= 0)
                k = partial ? read_partial(&r) : read_differenced(&r);
        if (k >= 0)
                k = sd_bus_message_exit_container(m);
        fputc(']', r.f);
        if (fclose(r.f) == EOF && k >= 0)
                k = -ENOMEM;
        if (k >= 0)
                *ret_json = TAKE_PTR(text);
        return k < 0 ? k : 0;
}
