/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The digest covers the text itself, with the value of "digest" empty, and not some normal form of it: a reader needs
 * to know nothing but where that value stands, and any program may reformat a manifest only by making it a new one.
 * Written and read as text, because the documents of a thousand writers would not fit into memory as a tree.
 */
#include <stdio.h>

#include "protocol/jsonutil.h"
#include "protocol/manifest.h"
#include "protocol/sha256.h"
#include "protocol/text.h"

#define DIGEST_PREFIX "sha256:"

int format_timestamp(uint64_t realtime_usec, char *ret, size_t size) {
        time_t seconds = (time_t) (realtime_usec / USEC_PER_SEC);
        struct tm tm;
        char text[64];
        assert(ret);
        if (!gmtime_r(&seconds, &tm) || tm.tm_year > 9999 - 1900)
                return -ERANGE;
        int n = snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%06uZ", tm.tm_year + 1900, tm.tm_mon + 1,
                         tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (unsigned) (realtime_usec % USEC_PER_SEC));
        if ((size_t) n >= size)
                return -ENOBUFS;
        memcpy(ret, text, (size_t) n + 1);
        return 0;
}

/* As format_timestamp() writes it, with any number of decimals. */
static bool timestamp_is_valid(const char *s) {
        static const char form[] = "0000-00-00T00:00:00";
        for (size_t i = 0; i < sizeof form - 1; i++)
                if (form[i] == '0' ? s[i] < '0' || s[i] > '9' : s[i] != form[i])
                        return false;
        s += sizeof form - 1;
        size_t decimals = *s == '.' ? strspn(s + 1, "0123456789") : 0;
        if (*s == '.' && decimals == 0)
                return false;
        return streq(s + decimals + (*s == '.'), "Z");
}

static void component_done(ManifestComponent *c) {
        free(c->path);
        free(c->options);
        free(c->previous_stamp);
        free(c->stamp);
        free(c->metadata);
        free(c->partial_files);
        free(c->differenced_files);
        free(c->restore);
        strings_free(c->implicit);
        strings_free(c->failures);
}

static void writer_done(ManifestWriter *w) {
        free(w->name);
        free(w->instance);
        free(w->metadata_text);
        strings_free(w->options);
        for (size_t i = 0; i < w->n_components; i++)
                component_done(w->components + i);
        free(w->components);
        free(w->by_path);
}

int manifest_writer_index(ManifestWriter *w) {
        free(w->by_path);
        w->by_path = calloc(w->n_components + 1, sizeof *w->by_path);
        if (!w->by_path)
                return -ENOMEM;
        for (size_t i = 0; i < w->n_components; i++)
                w->by_path[i] = (PathEntry) { w->components[i].path, i };
        path_entries_sort(w->by_path, w->n_components);
        return 0;
}

static void snapshot_done(ManifestSnapshot *s) {
        free(s->id);
        free(s->volume);
        free(s->device);
        free(s->filesystem);
        free(s->filesystem_uuid);
        free(s->provider);
        free(s->token);
}

void manifest_done(Manifest *m) {
        free(m->set);
        free(m->created);
        free(m->completed);
        free(m->host_name);
        free(m->machine_id);
        free(m->vss_version);
        free(m->requester);
        free(m->exclude);
        free(m->excluded_from_snapshot);
        for (size_t i = 0; i < m->n_snapshots; i++)
                snapshot_done(m->snapshots + i);
        free(m->snapshots);
        for (size_t i = 0; i < m->n_writers; i++)
                writer_done(m->writers + i);
        free(m->writers);
        *m = (Manifest) { 0 };
}

/* "key":"value" or "key":null, behind what stands before it. */
static void put(FILE *f, const char *before, const char *key, const char *value) {
        fprintf(f, "%s\"%s\":", before, key);
        if (value)
                json_write_string(f, value, strlen(value));
        else
                fputs("null", f);
}

static void put_bool(FILE *f, const char *before, const char *key, bool value) {
        fprintf(f, "%s\"%s\":%s", before, key, value ? "true" : "false");
}

static void put_snapshot(FILE *f, const ManifestSnapshot *s) {
        put(f, "{", "id", s->id);
        put(f, ",", "volume", s->volume);
        put(f, ",", "device", s->device);
        put(f, ",", "filesystem", s->filesystem);
        put(f, ",", "filesystem_uuid", s->filesystem_uuid);
        fprintf(f, ",\"size\":%llu", (unsigned long long) s->size_bytes);
        put(f, ",", "provider", s->provider);
        put(f, ",", "token", s->token);
        put(f, ",", "consistency", consistency_to_string(s->consistency));
        put_bool(f, ",", "persistent", s->persistent);
        fputs(",\"provider_data\":{}}", f);
}

/* One failure is "event\nerror\nmessage". */
static void put_failure(FILE *f, const char *failure) {
        const char *error = strchrnul(failure, '\n');
        const char *message = strchrnul(*error ? error + 1 : error, '\n');
        fputs("{\"event\":", f);
        json_write_string(f, failure, (size_t) (error - failure));
        error += *error != '\0';
        fputs(",\"error\":", f);
        json_write_string(f, error, (size_t) (message - error));
        message += *message != '\0';
        fputs(",\"message\":", f);
        json_write_string(f, message, strlen(message));
        fputc('}', f);
}

static void put_strings(FILE *f, const char *before, const char *key, char *const *list) {
        fprintf(f, "%s\"%s\":[", before, key);
        for (size_t i = 0; list && list[i]; i++) {
                fputs(i ? "," : "", f);
                json_write_string(f, list[i], strlen(list[i]));
        }
        fputc(']', f);
}

static void put_component(FILE *f, const ManifestComponent *c) {
        put(f, "{", "path", c->path);
        put_strings(f, ",", "implicit", c->implicit);
        put(f, ",", "options", c->options);
        put(f, ",", "previous_stamp", c->previous_stamp);
        put(f, ",", "stamp", c->stamp);
        put(f, ",", "metadata", c->metadata);
        fprintf(f, ",\"succeeded\":%s,\"failures\":[", c->succeeded < 0 ? "null" : c->succeeded ? "true" : "false");
        for (size_t i = 0; c->failures && c->failures[i]; i++) {
                fputs(i ? "," : "", f);
                put_failure(f, c->failures[i]);
        }
        fprintf(f, "],\"partial_files\":%s,\"differenced_files\":%s,\"restore\":%s}",
                c->partial_files ? c->partial_files : "[]", c->differenced_files ? c->differenced_files : "[]",
                c->restore ? c->restore : "null");
}

static void put_writer(FILE *f, const ManifestWriter *w) {
        put(f, "{", "name", w->name);
        put(f, ",", "instance", w->instance ? w->instance : "");
        put(f, ",", "backup_type", backup_type_to_string(w->type));
        put_strings(f, ",", "options", w->options);
        fprintf(f, ",\"metadata\":%s,\"components\":[", w->metadata_text ? w->metadata_text : "null");
        for (size_t i = 0; i < w->n_components; i++) {
                fputs(i ? "," : "", f);
                put_component(f, w->components + i);
        }
        fputs("]}", f);
}

static void put_head(FILE *f, const Manifest *m) {
        fputs("{\"schema\":1,\"kind\":\"manifest\",\"requires\":[]", f);
        put(f, ",", "set", m->set);
        put(f, ",", "created", m->created);
        put(f, ",", "completed", m->completed);
        put(f, ",\n \"host\":{", "name", m->host_name);
        put(f, ",", "machine_id", m->machine_id);
        put(f, ",", "vss", m->vss_version);
        put(f, "},\n \"backup\":{", "type", backup_type_to_string(m->type));
        put_bool(f, ",", "component_mode", m->component_mode);
        put_bool(f, ",", "bootable_state", m->bootable_state);
        put_bool(f, ",", "partial_files", m->partial_files);
        put(f, ",", "requester", m->requester);
        put(f, ",", "consistency", consistency_to_string(m->consistency));
        put_bool(f, ",", "one_instant", m->one_instant);
}

int manifest_format(const Manifest *m, char **ret_json) {
        static const char tail[] = "\"}\n";
        _cleanup_free_ char *text = NULL;
        char hex[SHA256_HEX + 1];
        size_t size = 0;
        assert(m && ret_json);
        FILE *f = open_memstream(&text, &size);
        if (!f)
                return -ENOMEM;
        put_head(f, m);
        fputs("},\n \"snapshots\":[", f);
        for (size_t i = 0; i < m->n_snapshots; i++) {
                fputs(i ? ",\n  " : "\n  ", f);
                put_snapshot(f, m->snapshots + i);
        }
        fprintf(f, "],\n \"exclude\":%s,\n \"excluded_from_snapshot\":%s,\n \"writers\":[",
                m->exclude ? m->exclude : "[]", m->excluded_from_snapshot ? m->excluded_from_snapshot : "[]");
        for (size_t i = 0; i < m->n_writers; i++) {
                fputs(i ? ",\n  " : "\n  ", f);
                put_writer(f, m->writers + i);
        }
        fputs("],\n \"digest\":\"", f);
        if (fflush(f) == EOF) {
                (void) fclose(f);
                return -ENOMEM;
        }
        Sha256 sha = SHA256_INIT;
        sha256_update(&sha, text, size);
        sha256_update(&sha, tail, sizeof tail - 1);
        sha256_finish(&sha, hex);
        fprintf(f, DIGEST_PREFIX "%s%s", hex, tail);
        bool failed = ferror(f);
        if (fclose(f) == EOF || failed)
                return -ENOMEM;
        *ret_json = TAKE_PTR(text);
        return 0;
}

typedef struct FailureText {
        char *event, *error, *message;
} FailureText;

static void failure_text_done(FailureText *f) {
        free(f->event);
        free(f->error);
        free(f->message);
}

static int read_failure(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                { "event", JSON_STRING, offsetof(FailureText, event), .required = true },
                { "error", JSON_STRING, offsetof(FailureText, error), .required = true },
                { "message", JSON_TEXT, offsetof(FailureText, message) },
        };
        _cleanup_(failure_text_done) FailureText f = { 0 };
        int k = json_read_object(r, fields, ELEMENTSOF(fields), true, &f);
        if (k < 0)
                return k;
        if (asprintf((char **) element, "%s\n%s\n%s", f.event, f.error, f.message ? f.message : "") < 0) {
                *(char **) element = NULL;
                return failure_set(r->failure, CONDITION_LIMIT_REACHED, "no memory to read a document");
        }
        return 0;
}

static int read_failures(JsonReader *r, void *field) {
        ManifestComponent *c = field;
        _cleanup_free_ char **list = NULL;
        size_t n = 0;
        int k = json_read_array(r, LIMIT_LIST, sizeof *list, read_failure, (void **) &list, &n);
        for (size_t i = 0; i < n; i++) {
                if (k >= 0 && strings_append(&c->failures, list[i]) < 0)
                        k = failure_set(r->failure, CONDITION_LIMIT_REACHED, "no memory to read a document");
                free(list[i]);
        }
        return k;
}

static int read_succeeded(JsonReader *r, void *field) {
        bool yes;
        int k = json_read_bool(r, &yes);
        if (k >= 0)
                *(int *) field = yes;
        return k;
}

static int read_component(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                { "path", JSON_STRING, offsetof(ManifestComponent, path), .required = true,
                  .check = component_path_is_valid, .expected = "a component path" },
                { "implicit", JSON_STRINGS, offsetof(ManifestComponent, implicit), .check = component_path_is_valid,
                  .expected = "a component path" },
                { "options", JSON_TEXT, offsetof(ManifestComponent, options), .max = LIMIT_METADATA_BYTES },
                { "previous_stamp", JSON_TEXT, offsetof(ManifestComponent, previous_stamp),
                  .max = LIMIT_METADATA_BYTES },
                { "stamp", JSON_TEXT, offsetof(ManifestComponent, stamp), .max = LIMIT_METADATA_BYTES },
                { "metadata", JSON_TEXT, offsetof(ManifestComponent, metadata), .max = LIMIT_METADATA_BYTES },
                { "succeeded", JSON_CUSTOM, offsetof(ManifestComponent, succeeded), .read = read_succeeded },
                { "failures", JSON_CUSTOM, 0, .read = read_failures },
                { "partial_files", JSON_RAW, offsetof(ManifestComponent, partial_files) },
                { "differenced_files", JSON_RAW, offsetof(ManifestComponent, differenced_files) },
                { "restore", JSON_RAW, offsetof(ManifestComponent, restore) },
        };
        ManifestComponent *c = element;
        c->succeeded = -1;
        return json_read_object(r, fields, ELEMENTSOF(fields), true, c);
}

static int read_components(JsonReader *r, void *field) {
        ManifestWriter *w = field;
        int k = json_read_array(r, LIMIT_COMPONENTS, sizeof *w->components, read_component, (void **) &w->components,
                                &w->n_components);
        if (k >= 0 && manifest_writer_index(w) < 0)
                k = failure_set(r->failure, CONDITION_LIMIT_REACHED, "no memory to read a document");
        return k;
}

/* As it was listed: a writer of an account that the name does not belong to is UID:NAME. */
static bool listed_name_is_valid(const char *s) {
        size_t digits = strspn(s, "0123456789");
        return writer_name_is_valid(digits > 0 && s[digits] == ':' ? s + digits + 1 : s);
}

static int read_writer(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                { "name", JSON_STRING, offsetof(ManifestWriter, name), .required = true, .check = listed_name_is_valid,
                  .expected = "a writer name" },
                { "instance", JSON_STRING, offsetof(ManifestWriter, instance), .required = true,
                  .check = writer_instance_is_valid, .expected = "an instance" },
                { "backup_type", JSON_WORD, offsetof(ManifestWriter, type), .word = backup_type_from_string,
                  .expected = "copy, full, incremental, differential or log" },
                { "options", JSON_STRINGS, offsetof(ManifestWriter, options) },
                { "metadata", JSON_RAW, offsetof(ManifestWriter, metadata_text) },
                { "components", JSON_CUSTOM, 0, .read = read_components },
        };
        return json_read_object(r, fields, ELEMENTSOF(fields), true, element);
}

static int read_snapshot(JsonReader *r, void *element) {
        static const JsonField fields[] = {
                { "id", JSON_STRING, offsetof(ManifestSnapshot, id), .required = true, .check = id_is_valid,
                  .expected = "an id" },
                { "volume", JSON_STRING, offsetof(ManifestSnapshot, volume), .required = true },
                { "device", JSON_STRING, offsetof(ManifestSnapshot, device) },
                { "filesystem", JSON_STRING, offsetof(ManifestSnapshot, filesystem) },
                { "filesystem_uuid", JSON_STRING, offsetof(ManifestSnapshot, filesystem_uuid) },
                { "size", JSON_UINT, offsetof(ManifestSnapshot, size_bytes), .max = UINT64_MAX },
                { "provider", JSON_STRING, offsetof(ManifestSnapshot, provider), .required = true,
                  .check = provider_name_is_valid, .expected = "a provider name" },
                { "token", JSON_STRING, offsetof(ManifestSnapshot, token) },
                { "consistency", JSON_WORD, offsetof(ManifestSnapshot, consistency), .required = true,
                  .word = consistency_from_string, .expected = "application, filesystem or crash" },
                { "persistent", JSON_BOOL, offsetof(ManifestSnapshot, persistent) },
        };
        return json_read_object(r, fields, ELEMENTSOF(fields), true, element);
}

static int read_host(JsonReader *r, void *field) {
        static const JsonField fields[] = {
                { "name", JSON_STRING, offsetof(Manifest, host_name) },
                { "machine_id", JSON_STRING, offsetof(Manifest, machine_id) },
                { "vss", JSON_STRING, offsetof(Manifest, vss_version) },
        };
        return json_read_object(r, fields, ELEMENTSOF(fields), true, field);
}

static int read_backup(JsonReader *r, void *field) {
        static const JsonField fields[] = {
                { "type", JSON_WORD, offsetof(Manifest, type), .required = true, .word = backup_type_from_string,
                  .expected = "copy, full, incremental, differential or log" },
                { "component_mode", JSON_BOOL, offsetof(Manifest, component_mode) },
                { "bootable_state", JSON_BOOL, offsetof(Manifest, bootable_state) },
                { "partial_files", JSON_BOOL, offsetof(Manifest, partial_files) },
                { "requester", JSON_STRING, offsetof(Manifest, requester) },
                { "consistency", JSON_WORD, offsetof(Manifest, consistency), .required = true,
                  .word = consistency_from_string, .expected = "application, filesystem or crash" },
                { "one_instant", JSON_BOOL, offsetof(Manifest, one_instant) },
        };
        return json_read_object(r, fields, ELEMENTSOF(fields), true, field);
}

static int read_snapshots(JsonReader *r, void *field) {
        Manifest *m = field;
        return json_read_array(r, LIMIT_VOLUMES, sizeof *m->snapshots, read_snapshot, (void **) &m->snapshots,
                               &m->n_snapshots);
}

static int read_writers(JsonReader *r, void *field) {
        Manifest *m = field;
        return json_read_array(r, LIMIT_WRITERS, sizeof *m->writers, read_writer, (void **) &m->writers, &m->n_writers);
}

/* A manifest while it is read, and where the value of "digest" stands in its text. */
typedef struct Reading {
        Manifest manifest;
        const char *digest, *behind;
} Reading;

static void reading_done(Reading *g) {
        manifest_done(&g->manifest);
}

static int read_digest(JsonReader *r, void *field) {
        Reading *g = field;
        _cleanup_free_ char *value = NULL;
        int k = json_read_string(r, LIMIT_STRING_BYTES, &value);
        if (k < 0)
                return k;
        g->behind = r->at - 1; /* the closing quote; the form of the value has neither escapes nor other bytes */
        g->digest = g->behind - strlen(value);
        if (strlen(value) != strlen(DIGEST_PREFIX) + SHA256_HEX ||
            strncmp(value, DIGEST_PREFIX, strlen(DIGEST_PREFIX)) != 0)
                return json_fail(r, "\"%.80s\" is not " DIGEST_PREFIX " and %d digits", value, SHA256_HEX);
        return 0;
}

static int check_digest(const Reading *g, const char *text, size_t size, Failure *reterr) {
        char hex[SHA256_HEX + 1];
        Sha256 sha = SHA256_INIT;
        sha256_update(&sha, text, (size_t) (g->digest - text));
        sha256_update(&sha, g->behind, (size_t) (text + size - g->behind));
        sha256_finish(&sha, hex);
        if (memcmp(g->digest + strlen(DIGEST_PREFIX), hex, SHA256_HEX) == 0)
                return 0;
        return failure_set(reterr, CONDITION_DAMAGED,
                           "the manifest is damaged or was edited: its digest is not that of its text");
}

int manifest_parse(const char *text, size_t size, Failure *reterr, Manifest *ret) {
        static const JsonField fields[] = {
                { "schema", JSON_FREE },
                { "kind", JSON_FREE },
                { "requires", JSON_FREE },
                { "set", JSON_STRING, offsetof(Manifest, set), .required = true, .check = id_is_valid,
                  .expected = "an id" },
                { "created", JSON_STRING, offsetof(Manifest, created), .required = true, .check = timestamp_is_valid,
                  .expected = "a time such as 2026-11-22T10:00:00.000000Z" },
                { "completed", JSON_STRING, offsetof(Manifest, completed), .check = timestamp_is_valid,
                  .expected = "a time such as 2026-11-22T10:00:00.000000Z" },
                { "host", JSON_CUSTOM, 0, .read = read_host },
                { "backup", JSON_CUSTOM, 0, .required = true, .read = read_backup },
                { "snapshots", JSON_CUSTOM, 0, .required = true, .read = read_snapshots },
                { "exclude", JSON_RAW, offsetof(Manifest, exclude) },
                { "excluded_from_snapshot", JSON_RAW, offsetof(Manifest, excluded_from_snapshot) },
                { "writers", JSON_CUSTOM, 0, .read = read_writers },
                { "digest", JSON_CUSTOM, 0, .required = true, .read = read_digest },
        };
        _Static_assert(offsetof(Reading, manifest) == 0, "fields are read into the manifest through its Reading");
        _cleanup_(reading_done) Reading g = { 0 };
        JsonReader r;
        assert(text && ret);
        json_reader_init(&r, text, size, reterr);
        r.depth_max = LIMIT_JSON_DEPTH + JSON_DEPTH_AROUND; /* writers[0].metadata */
        if (size > LIMIT_MANIFEST_BYTES)
                return json_fail(&r, "larger than %d bytes", LIMIT_MANIFEST_BYTES);
        int k = json_check_header(&r, "manifest");
        if (k >= 0)
                k = json_read_object(&r, fields, ELEMENTSOF(fields), true, &g);
        if (k >= 0)
                k = json_end(&r);
        if (k >= 0)
                k = check_digest(&g, text, size, reterr);
        if (k < 0)
                return k;
        *ret = g.manifest;
        g.manifest = (Manifest) { 0 };
        return 0;
}
