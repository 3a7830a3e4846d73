/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every parser of text from outside, for libFuzzer (tests/fuzz runs it) and, without it, as a test that replays what is
 * in tests/corpus/document. The first byte chooses the parser. What is taken must also satisfy the rest of the program:
 * json-c reads what we read, a manifest survives being written again, a path survives the wire.
 */
#include "daemon/settings.h"
#include "protocol/base.h"
#include "protocol/exclusions.h"
#include "protocol/jsonutil.h"
#include "protocol/manifest.h"
#include "protocol/metadata.h"
#include "protocol/text.h"
#include "tests/fuzz-target.h"

static void check_failure(int r, const Failure *f) {
        MUST(r == (f->condition ? -condition_errno(f->condition) : 0));
        MUST((r < 0) == (f->message[0] != '\0'));
        MUST(text_is_valid(f->message, sizeof f->message));
}

static size_t strspn_white(const char *text, size_t size) {
        size_t n = 0;
        while (n < size && strchr(" \t\r\n", text[n]) && text[n])
                n++;
        return n;
}

static void fuzz_tree(const char *text, size_t size) {
        _cleanup_(json_object_putp) json_object *tree = NULL, *again = NULL;
        Failure f = { 0 };
        int r = json_tree_parse(text, size, size, &f, &tree);
        JsonReader reader;
        json_reader_init(&reader, text, size, NULL);
        bool ours = json_skip(&reader) == 0 && json_end(&reader) == 0;
        MUST(r == 0 || !ours || text[strspn_white(text, size)] != '{'); /* json-c takes what we take */
        check_failure(r, &f);
        if (r < 0)
                return;
        const char *printed = json_object_to_json_string_ext(tree, JSON_C_TO_STRING_PLAIN);
        r = json_tree_parse(printed, strlen(printed), strlen(printed), &f, &again);
        MUST(r == 0 && json_object_equal(tree, again));
}

static void fuzz_metadata(const char *text, size_t size) {
        _cleanup_(metadata_freep) Metadata *m = NULL;
        Failure f = { 0 };
        check_failure(metadata_parse(text, size, &f, &m), &f);
        if (!m)
                return;
        _cleanup_(json_object_putp) json_object *tree = NULL;
        MUST(json_tree_parse(text, size, size, NULL, &tree) == 0);
        MUST(writer_name_is_valid(m->name) && writer_instance_is_valid(m->instance));
        MUST(streq(m->name, json_get_string(json_get_object(tree, "writer"), "name", "")));
        for (size_t i = 0; i < m->n_components; i++) {
                MUST(component_path_is_valid(m->components[i].path));
                MUST(metadata_selectable_ancestor(m, i) < (int) m->n_components);
                for (size_t k = 0; k < m->components[i].n_files; k++)
                        MUST(path_is_clean(m->components[i].files[k].set.root) &&
                             !strchr(m->components[i].files[k].set.pattern, '/'));
        }
}

static void fuzz_manifest(const char *text, size_t size) {
        _cleanup_(manifest_done) Manifest m = { 0 }, again = { 0 };
        _cleanup_free_ char *once = NULL, *twice = NULL;
        Failure f = { 0 };
        int r = manifest_parse(text, size, &f, &m);
        check_failure(r, &f);
        if (r < 0)
                return;
        MUST(manifest_format(&m, &once) == 0);
        r = manifest_parse(once, strlen(once), &f, &again);
        MUST(r == 0 && manifest_format(&again, &twice) == 0 && streq(once, twice));
}

static void fuzz_exclusions(const char *text, size_t size) {
        _cleanup_(exclusions_done) Exclusions e = { 0 };
        _cleanup_(json_object_putp) json_object *tree = NULL;
        Failure f = { 0 };
        int r = exclusions_parse(text, size, &f, &e);
        check_failure(r, &f);
        if (r < 0)
                return;
        MUST(json_tree_parse(text, size, size, NULL, &tree) == 0);
        for (size_t i = 0; i < e.n_backup + e.n_snapshot; i++) {
                const FileSet *set = i < e.n_backup ? &e.backup[i] : &e.snapshot[i - e.n_backup];
                MUST(path_is_clean(set->root) && !strchr(set->pattern, '/'));
        }
}

/* A reference, a component, a path: as they come in options and on command lines. */
static void fuzz_text(const char *s) {
        _cleanup_free_ char *name = NULL, *instance = NULL, *reference = NULL, *path = NULL, *text = NULL,
                            *bytes = NULL;
        if (writer_reference_parse(s, &name, &instance) == 0) {
                _cleanup_free_ char *again = NULL;
                MUST(writer_reference_format(name, instance, &again) == 0 && streq(again, s));
        }
        if (writer_component_parse(s, &reference, &path) == 0)
                MUST(component_path_is_valid(path) && strlen(reference) + 1 + strlen(path) == strlen(s));
        MUST(path_escape(s, &text) == 0 && text_is_valid(text, SIZE_MAX));
        MUST(path_unescape(text, &bytes) == 0 && streq(bytes, s));
        free(TAKE_PTR(bytes));
        (void) path_unescape(s, &bytes);
        if (path_is_clean(s)) {
                MUST(path_is_inside(s, "/") && path_is_inside(s, s) && bytes);
                MUST(!strstr(bytes, "/../") && !strstr(bytes, "//")); /* also once it is unescaped */
        }
}

static char directory[] = "/tmp/vss-fuzz-XXXXXX";

static void remove_directory(void) {
        (void) rmdir(directory);
}

static void fuzz_settings(const char *text, size_t size) {
        static bool made;
        char file[64];
        Settings s;
        Failure f = { 0 };
        if (!made) {
                MUST(mkdtemp(directory) && setenv("CONFIGURATION_DIRECTORY", directory, 1) == 0);
                MUST(atexit(remove_directory) == 0);
                made = true;
        }
        (void) snprintf(file, sizeof file, "%s/vssd.conf", directory);
        _cleanup_close_ int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        MUST(fd >= 0 && write(fd, text, size) == (ssize_t) size && settings_init(&s) == 0);
        check_failure(settings_load(&s, &f), &f);
        MUST(s.budgets.hold > 0 && s.sets_max > 0);
        settings_done(&s);
        (void) unlink(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
        if (size == 0)
                return 0;
        _cleanup_free_ char *text = malloc(size); /* exactly, so that reading on is found */
        memcpy(text, data + 1, size - 1);
        text[size - 1] = '\0';
        switch (data[0]) {
        case 'm':
                text = realloc(text, MAX_OF(size - 1, 1u));
                fuzz_metadata(text, size - 1);
                break;
        case 'b':
                text = realloc(text, MAX_OF(size - 1, 1u));
                fuzz_manifest(text, size - 1);
                break;
        case 'j':
                text = realloc(text, MAX_OF(size - 1, 1u));
                fuzz_tree(text, size - 1);
                break;
        case 'x':
                text = realloc(text, MAX_OF(size - 1, 1u));
                fuzz_exclusions(text, size - 1);
                break;
        case 't':
                fuzz_text(text);
                break;
        case 'c':
                fuzz_settings(text, size - 1);
                break;
        }
        return 0;
}

#ifndef FUZZING
int main(void) {
        return replay_corpus("document", 40);
}
#endif
