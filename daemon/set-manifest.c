/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The manifest of a set: every string is borrowed from the set; only the arrays are made here. */
#include "daemon/manager.h"
#include "protocol/metadata.h"
#include "protocol/text.h"
#include <stdio.h>
#include <systemd/sd-id128.h>
#include <sys/utsname.h>

static char *member(char **list, size_t i) {
        return list && list[i] && list[i][0] ? list[i] : NULL;
}

/* "component\nevent\nerror\nmessage" of those that are about this one, without the component. */
static char **failures_of(const SetWriter *w, const char *component) {
        char **found = NULL;
        size_t n = strlen(component);

        for (char **f = w->failures; f && *f; f++)
                if (strncmp(*f, component, n) == 0 && (*f)[n] == '\n')
                        (void) strings_append(&found, *f + n + 1);
        return found;
}

/* Does this one go with the i-th explicit component? With the nearest above it. */
static bool goes_with(const SetWriter *w, const char *implicit, size_t i) {
        size_t length = strlen(w->components[i]);

        if (!component_path_is_below(implicit, w->components[i]))
                return false;
        for (char **c = w->components; *c; c++)
                if (strlen(*c) > length && component_path_is_below(implicit, *c))
                        return false;
        return true;
}

static char **implicit_of(const SetWriter *w, size_t i) {
        char **found = NULL;

        for (char **p = w->implicit; p && *p; p++)
                if (goes_with(w, *p, i))
                        (void) strings_append(&found, *p);
        return found;
}

static char **options_of(const Set *s, const SetWriter *w) {
        char **found = NULL;

        for (char **o = s->options.writer_options; o && *o; o++) {
                const char *text = set_writer_option(w, *o);
                if (text)
                        (void) strings_append(&found, text);
        }
        return found;
}

static int fill_writer(const Set *s, const SetWriter *w, ManifestWriter *ret) {
        size_t n = w->components ? strings_count(w->components) : 0;

        *ret = (ManifestWriter) { .name = w->name,
                                  .instance = w->instance,
                                  .metadata_text = w->metadata_text,
                                  .type = w->type,
                                  .options = options_of(s, w),
                                  .components = calloc(n + 1, sizeof(ManifestComponent)) };
        if (!ret->components)
                return -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                const SetComponentOption *o = set_component_option(s, w, w->components[i]);
                ret->components[ret->n_components++] = (ManifestComponent) {
                        .path = w->components[i],
                        .implicit = implicit_of(w, i),
                        .options = o ? o->options : NULL,
                        .previous_stamp = (char *) set_previous_stamp(s, w, w->components[i]),
                        .stamp = member(w->stamps, i),
                        .metadata = member(w->private_metadata, i),
                        .partial_files = s->options.partial_files ? member(w->partial_files, i) : NULL,
                        .differenced_files = member(w->differenced_files, i),
                        .succeeded = w->succeeded ? w->succeeded[i] : -1,
                        .failures = failures_of(w, w->components[i]),
                };
        }
        return 0;
}

static void fill_snapshot(const Set *s, const Snapshot *v, ManifestSnapshot *ret) {
        *ret = (ManifestSnapshot) {
                .id = (char *) v->id,
                .volume = v->name,
                .device = v->device,
                .filesystem = v->fs_type,
                .filesystem_uuid = v->fs_uuid,
                .provider = v->provider,
                .token = v->token,
                .size_bytes = v->size_bytes,
                .consistency = v->consistency,
                .persistent = s->options.lifetime == LIFETIME_PERSISTENT,
        };
}

static int fill(const Set *s, Manifest *m) {
        const Snapshot *v;
        int r = 0;

        m->snapshots = calloc(s->n_snapshots + 1, sizeof *m->snapshots);
        m->writers = calloc(s->n_writers + 1, sizeof *m->writers);
        if (!m->snapshots || !m->writers)
                return -ENOMEM;
        LIST_FOREACH(v, &s->snapshots, entries)
                fill_snapshot(s, v, &m->snapshots[m->n_snapshots++]);
        for (size_t i = 0; i < s->n_writers && r >= 0; i++)
                if (!s->writers[i].dropped && s->writers[i].metadata_text)
                        r = fill_writer(s, &s->writers[i], &m->writers[m->n_writers++]);
        return r;
}

/* Only what fill() made: the strings belong to the set. */
static void release(Manifest *m) {
        for (size_t i = 0; i < m->n_writers; i++) {
                for (size_t j = 0; j < m->writers[i].n_components; j++) {
                        strings_free(m->writers[i].components[j].failures);
                        strings_free(m->writers[i].components[j].implicit);
                }
                free(m->writers[i].components);
                strings_free(m->writers[i].options);
        }
        free(m->writers);
        free(m->snapshots);
}

int set_manifest(Set *s, char **ret_json) {
        char created[40] = "", completed[40] = "", machine[SD_ID128_STRING_MAX] = "";
        struct utsname host = { 0 };
        sd_id128_t id;
        Manifest m = { 0 };
        int r;

        if (s->manifest_text && !s->completed_at_usec)
                return (*ret_json = strdup(s->manifest_text)) ? 0 : -ENOMEM;
        (void) uname(&host);
        if (sd_id128_get_machine(&id) >= 0)
                (void) sd_id128_to_string(id, machine);
        (void) format_timestamp(s->created_at_usec, created, sizeof created);
        (void) format_timestamp(s->completed_at_usec, completed, sizeof completed);
        m = (Manifest) {
                .set = s->id,
                .created = created,
                .completed = s->completed_at_usec ? completed : NULL,
                .host_name = host.nodename,
                .machine_id = machine,
                .vss_version = (char *) VSS_VERSION,
                .type = s->options.backup_type,
                .component_mode = s->options.n_components > 0,
                .bootable_state = s->options.bootable_state,
                .partial_files = s->options.partial_files,
                .one_instant = s->one_instant,
                .requester = s->options.requester,
                .exclude = s->exclude_text,
                .excluded_from_snapshot = s->excluded_text,
                .consistency = s->consistency,
        };
        r = fill(s, &m);
        if (r >= 0)
                r = manifest_format(&m, ret_json);
        release(&m);
        return r;
}
