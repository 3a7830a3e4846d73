/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * document-check metadata|manifest|backup-test: reads documents from stdin, one per line, and prints for each one line:
 * "ok", or why it is refused. A manifest whose digest is wrong is "ok" here: what is asked is its form.
 */
#include "client/test-backup.h"
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

static int check_selection(const char *text, size_t size, Failure *f) {
        Selection s = {};
        Context c = {};
        int r = selection_parse(&c, "it", text, size, &s);
        if (r < 0)
                (void) failure_set(f, c.condition, "%s", c.error_message);
        selection_done(&s);
        return r;
}

static const struct {
        const char *name;
        int (*check)(const char *text, size_t size, Failure *f);
} kinds[] = { { "metadata", check_metadata }, { "manifest", check_manifest }, { "backup-test", check_selection } };

int main(int argc, char *argv[]) {
        _cleanup_free_ char *line = NULL;
        size_t allocated = 0;
        ssize_t n;
        size_t kind = 0;
        while (argc == 2 && kind < ELEMENTSOF(kinds) && !streq(argv[1], kinds[kind].name))
                kind++;
        if (argc != 2 || kind == ELEMENTSOF(kinds)) {
                fprintf(stderr, "usage: document-check metadata|manifest|backup-test\n");
                return 2;
        }
        while ((n = getline(&line, &allocated, stdin)) > 0) {
                Failure f = { 0 };
                puts(kinds[kind].check(line, (size_t) n, &f) < 0 ? f.message : "ok");
        }
        return 0;
}
