/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "protocol/exclusions.h"
#include "protocol/jsonutil.h"

static void file_sets_free(FileSet *sets, size_t n) {
        for (size_t i = 0; i < n; i++) {
                free(sets[i].root);
                free(sets[i].pattern);
        }
        free(sets);
}

void exclusions_done(Exclusions *e) {
        file_sets_free(e->backup, e->n_backup);
        file_sets_free(e->snapshot, e->n_snapshot);
        *e = (Exclusions) { 0 };
}

static int read_backup(JsonReader *r, void *field) {
        Exclusions *e = field;
        return json_read_array(r, LIMIT_FILE_SETS, sizeof *e->backup, file_set_read, (void **) &e->backup,
                               &e->n_backup);
}

static int read_snapshot(JsonReader *r, void *field) {
        Exclusions *e = field;
        return json_read_array(r, LIMIT_FILE_SETS, sizeof *e->snapshot, file_set_read, (void **) &e->snapshot,
                               &e->n_snapshot);
}

int exclusions_parse(const char *text, size_t size, Failure *reterr, Exclusions *ret) {
        static const JsonField fields[] = {
                { "schema", JSON_FREE },
                { "kind", JSON_FREE },
                { "requires", JSON_FREE },
                { "exclude", JSON_CUSTOM, 0, .read = read_backup },
                { "exclude_from_snapshot", JSON_CUSTOM, 0, .read = read_snapshot },
                { "x", JSON_FREE },
        };
        _cleanup_(exclusions_done) Exclusions e = { 0 };
        JsonReader r;
        assert(text && ret);
        json_reader_init(&r, text, size, reterr);
        if (size > LIMIT_METADATA_BYTES)
                return json_fail(&r, "larger than %d bytes", LIMIT_METADATA_BYTES);
        int k = json_check_header(&r, "exclusions");
        if (k >= 0)
                k = json_read_object(&r, fields, ELEMENTSOF(fields), false, &e);
        if (k >= 0)
                k = json_end(&r);
        if (k < 0)
                return k;
        *ret = e;
        e = (Exclusions) { 0 };
        return 0;
}
