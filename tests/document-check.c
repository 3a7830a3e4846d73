/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * document-check metadata|manifest: reads documents from stdin, one per line, and prints for each one line: "ok", or
 * why it is refused. A manifest whose digest is wrong is "ok" here: what is asked is its form.
 */
#include "protocol/base.h"
#include "protocol/manifest.h"
#include "protocol/metadata.h"
#include <stdio.h>

static int check_metadata(const char *text, size_t size, Failure *f) {
        Metadata *m = NULL;
        int r = metadata_parse(text, size, f, &m);
        metadata_free(m);
        return r;
}

static int check_manifest(const char *text, size_t size, Failure *f) {
        Manifest m = { 0 };
        int r = manifest_parse(text, size, f, &m);
        manifest_done(&m);
        return f->condition == CONDITION_DAMAGED ? 0 : r;
}

int main(int argc, char *argv[]) {
        _cleanup_free_ char *line = NULL;
        size_t allocated = 0;
        ssize_t n;
        if (argc != 2 || (!streq(argv[1], "metadata") && !streq(argv[1], "manifest"))) {
                fprintf(stderr, "usage: document-check metadata|manifest\n");
                return 2;
        }
        while ((n = getline(&line, &allocated, stdin)) > 0) {
                Failure f = { 0 };
                int r = streq(argv[1], "metadata") ? check_metadata(line, (size_t) n, &f) :
                                                     check_manifest(line, (size_t) n, &f);
                puts(r < 0 ? f.message : "ok");
        }
        return 0;
}
