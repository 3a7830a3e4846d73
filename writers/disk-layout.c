/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * vss-writer-disk-layout: what has to be known to make the disks of this machine again when they are gone. It has one
 * component, whose files tell partition tables, arrays, volume groups, encryption, mounts and how it boots; a backup
 * carries them, and the manifest carries the layout itself, because a backup cannot be read back before there are disks
 * to read it to.
 *
 * Nothing here ever stands still: the files are made when a set is prepared, and lie in a directory of our own, which
 * need not come from a copy, so a set is not widened by it and no level rests on it.
 */
#include "writers/layout.h"
#include "writers/program.h"
#include <stdio.h>
#include <sys/stat.h>

#define COMPONENT "layout"
#define GATHER_USEC (50 * USEC_PER_SEC) /* all tools together; an event without an end gives us a minute */

typedef struct DiskLayout {
        LayoutOptions layout;
        bool show;
} DiskLayout;

static int identify(struct vss_metadata *m, void *userdata) {
        const DiskLayout *d = userdata;
        int r = vss_metadata_set(m, "restore.method", "custom");
        r = r < 0 ? r : vss_metadata_set(m, "restore.writer_events", "never");
        r = r < 0 ? r : vss_metadata_set(m, "backup_schema", "copy");
        r = r < 0 ? r :
                    vss_metadata_component(m, COMPONENT,
                                           VSS_COMPONENT_SELECTABLE | VSS_COMPONENT_SELECTABLE_FOR_RESTORE,
                                           "Layout of the disks");
        r = r < 0 ? r :
                    vss_metadata_files(m, COMPONENT, d->layout.directory, "*",
                                       VSS_FILES_RECURSIVE | VSS_FILES_NO_SNAPSHOT_NEEDED);
        return r < 0 ? r : vss_metadata_exclude(m, d->layout.directory, ".new", VSS_FILES_RECURSIVE);
}

/* The first problem, and how many there are. */
static int put_problems(struct vss_event *e, const Layout *l) {
        char line[LIMIT_MESSAGE_BYTES];
        json_object *list = json_get_array(l->document, "problems");
        if (l->n_problems == 0)
                return 0;
        (void) snprintf(line, sizeof(line), "the layout is not complete: %.400s%s",
                        json_object_get_string(json_object_array_get_idx(list, 0)),
                        l->n_problems > 1 ? " (and more)" : "");
        return vss_event_put(e, NULL, "message", line);
}

static int prepare_backup(struct vss_event *e, void *userdata) {
        const DiskLayout *d = userdata;
        Layout l = {};
        _cleanup_free_ char *text = NULL;
        Failure f = {};
        int r = layout_gather(&d->layout, MIN_OF(program_until(e), usec_add(now_usec(), GATHER_USEC)), &l);
        if (r >= 0 && layout_save(&l, d->layout.directory, &f) < 0)
                r = vss_event_fail_component(e, COMPONENT, VSS_VETO_RETRYABLE, "%s", f.message);
        else if (r >= 0) {
                r = put_problems(e, &l);
                r = r < 0 ? r : layout_metadata(&l, &text);
                r = r < 0 ? r : vss_event_put(e, COMPONENT, "metadata", text);
        }
        layout_done(&l);
        return r;
}

/* ---- the program ---- */

static int set_directory(void *target, const char *value, Failure *reterr) {
        DiskLayout *d = target;
        if (value[0] != '/' || streq(value, "/"))
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s is no absolute path of a directory", value);
        free(d->layout.directory);
        d->layout.directory = strdup(value);
        return d->layout.directory ? 0 : failure_set(reterr, CONDITION_FAILED, "out of memory");
}

static int set_show(void *target, const char *value, Failure *reterr) {
        DiskLayout *d = target;
        (void) value;
        (void) reterr;
        d->show = true;
        return 0;
}

static int add_device(void *target, const char *value, Failure *reterr) {
        DiskLayout *d = target;
        size_t n = 0;
        while (d->layout.devices && d->layout.devices[n])
                n++;
        if (value[0] != '/' || n >= LAYOUT_DEVICES_MAX)
                return failure_set(reterr, CONDITION_INVALID_ARGUMENT, "%s: %s", value,
                                   value[0] == '/' ? "too many devices" : "not the absolute path of a device");
        char **grown = reallocarray(d->layout.devices, n + 2, sizeof(*grown));
        if (!grown)
                return failure_set(reterr, CONDITION_FAILED, "out of memory");
        d->layout.devices = grown;
        grown[n] = strdup(value);
        grown[n + 1] = NULL;
        return grown[n] ? 0 : failure_set(reterr, CONDITION_FAILED, "out of memory");
}

static int show(const DiskLayout *d) {
        Layout l = {};
        if (layout_gather(&d->layout, usec_add(now_usec(), GATHER_USEC), &l) < 0)
                return EXIT_FAILURE;
        (void) fputs(l.files[l.n_files - 1].data, stdout);
        layout_done(&l);
        return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char *argv[]) {
        static const ProgramOption options[] = {
                { "directory", "DIR", "where its files lie (default /var/lib/vss-disk-layout)", set_directory },
                { "show", NULL, "print the layout as JSON, and do nothing else", set_show },
        };
        static DiskLayout d;
        Program p = { .command = "vss-writer-disk-layout",
                      .arguments = "[DEVICE...]",
                      .summary = "Tells backups how the disks of this machine are laid out.",
                      .options = options,
                      .n_options = ELEMENTSOF(options),
                      .argument_key = "device",
                      .argument = add_device,
                      .target = &d,
                      .name = (char *) "disk-layout",
                      .level = LEVEL_SYSTEM };
        static const struct vss_writer_callbacks callbacks = {
                VSS_WRITER_CALLBACKS,       .version = VSS_VERSION, .usage = VSS_USAGE_BOOTABLE_STATE,
                .source = VSS_SOURCE_OTHER, .identify = identify,   .prepare_backup = prepare_backup
        };
        Failure f = {};
        (void) umask(077);
        if (set_directory(&d, "/var/lib/vss-disk-layout", &f) < 0)
                return program_fail(&p, &f);
        if (program_parse(&p, argc, argv) == 0)
                p.status = d.show ? show(&d) : program_run(&p, &callbacks, &d);
        for (size_t i = 0; d.layout.devices && d.layout.devices[i]; i++)
                free(d.layout.devices[i]);
        free(d.layout.devices);
        free(d.layout.directory);
        program_done(&p);
        return p.status;
}
