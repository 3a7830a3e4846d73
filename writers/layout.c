/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The document: what somebody with new, empty disks has to know before files can go back, and in which files it stands.
 * Something that cannot be read is a line under `problems` and not a failure: a copy of the data is worth more than
 * a complete layout.
 */
#include "writers/layout.h"
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/utsname.h>

static const char *const saved_files[] = {
        "/etc/fstab",
        "/etc/crypttab",
        "/etc/mdadm.conf",
        "/etc/mdadm/mdadm.conf",
        "/etc/lvm/backup/*",
        "/etc/lvm/devices/*.devices",
        "/etc/default/grub",
        "/etc/kernel/cmdline",
        "/boot/grub/device.map",
        "/boot/grub/grub.cfg",
        "/boot/grub2/grub.cfg",
        "/boot/loader/loader.conf",
        "/boot/loader/entries/*.conf",
        "/boot/efi/loader/loader.conf",
        "/boot/efi/loader/entries/*.conf",
        "/efi/loader/loader.conf",
        "/efi/loader/entries/*.conf",
        "/proc/cmdline",
        "/proc/mdstat",
        "/sys/firmware/efi/efivars/Boot*-8be4df61-93ca-11d2-aa0d-00e098032b8c", /* the firmware's own menu */
};

void layout_done(Layout *l) {
        for (size_t i = 0; i < l->n_files; i++) {
                free(l->files[i].name);
                free(l->files[i].data);
        }
        free(l->files);
        (void) json_object_put(l->document);
        *l = (Layout) {};
}

void layout_problem(Layout *l, const char *format, ...) {
        char line[LIMIT_MESSAGE_BYTES];
        va_list ap;
        va_start(ap, format);
        (void) vsnprintf(line, sizeof(line), format, ap);
        va_end(ap);
        json_object *list = json_get_array(l->document, "problems");
        if (list && ++l->n_problems <= LAYOUT_PROBLEMS_MAX)
                (void) json_object_array_add(list, json_object_new_string(line));
}

int layout_add_file(Layout *l, const char *name, char *data, size_t size) {
        LayoutFile *grown = NULL;
        char *own = NULL;
        if (l->n_files >= LAYOUT_FILES_MAX || l->bytes + size > LAYOUT_BYTES_MAX)
                layout_problem(l, "%s is left out: there are too many files, or they are too large", name);
        else if ((own = strdup(name)) && (grown = reallocarray(l->files, l->n_files + 1, sizeof(*grown)))) {
                l->files = grown;
                l->files[l->n_files++] = (LayoutFile) { .name = own, .data = data, .size = size };
                l->bytes += size;
                return 0;
        }
        free(own);
        free(data);
        return own ? -ENOMEM : 0;
}

/* ---- configuration ---- */

static void save_file(Layout *l, json_object *rows, const char *path) {
        char *data, name[LIMIT_PATH_BYTES];
        size_t size;
        int r = layout_read_file(path, LAYOUT_FILE_BYTES_MAX, &data, &size), n;
        if (r == -ENOENT || r == -EINVAL)
                return; /* a directory, a socket */
        if (r < 0) {
                layout_problem(l, "%.400s cannot be read: %s", path, strerror(-r));
                return;
        }
        n = snprintf(name, sizeof(name), "files%s", path);
        if (n < 0 || n >= (int) sizeof(name)) {
                free(data);
                return;
        }
        json_object *row = json_object_new_object();
        json_add_string(row, "path", path);
        json_add_string(row, "saved_as", name);
        json_add_uint(row, "size", size);
        (void) json_object_array_add(rows, row);
        (void) layout_add_file(l, name, data, size);
}

static int add_files(Layout *l) {
        json_object *rows = json_object_new_array();
        if (!rows || json_object_object_add(l->document, "files", rows) < 0)
                return -ENOMEM;
        for (size_t i = 0; i < ELEMENTSOF(saved_files); i++) {
                glob_t found = {};
                if (glob(saved_files[i], 0, NULL, &found) == 0)
                        for (size_t k = 0; k < found.gl_pathc && k < LAYOUT_FILES_MAX; k++)
                                save_file(l, rows, found.gl_pathv[k]);
                globfree(&found);
        }
        return 0;
}

static int add_host(Layout *l) {
        json_object *host = json_object_new_object(), *boot = json_object_new_object();
        _cleanup_free_ char *id = layout_read_line("/etc/machine-id"), *cmdline = layout_read_line("/proc/cmdline");
        struct utsname u;
        if (!host || !boot || uname(&u) < 0)
                return -ENOMEM;
        json_add_string(host, "name", u.nodename);
        json_add_string(host, "machine_id", id);
        json_add_string(host, "architecture", u.machine);
        json_add_string(host, "kernel", u.release);
        json_add_string(boot, "firmware", access("/sys/firmware/efi", F_OK) == 0 ? "uefi" : "other");
        json_add_string(boot, "cmdline", cmdline);
        (void) json_object_object_add(l->document, "host", host);
        return json_object_object_add(l->document, "boot", boot);
}

/* ---- the whole ---- */

static int begin(Layout *l) {
        l->document = json_object_new_object();
        if (!l->document)
                return -ENOMEM;
        json_add_uint(l->document, "schema", 1);
        json_add_string(l->document, "kind", "disk-layout");
        json_add_strings(l->document, "requires", NULL);
        (void) json_object_object_add(l->document, "problems", json_object_new_array());
        return add_host(l);
}

int layout_gather(const LayoutOptions *o, uint64_t until_usec, Layout *ret) {
        Layout l = {};
        char *text;
        int r = begin(&l);
        r = r < 0 ? r : layout_add_disks(&l, o, until_usec);
        r = r < 0 ? r : add_files(&l);
        if (r >= 0) {
                const char *pretty = json_object_to_json_string_ext(l.document, JSON_C_TO_STRING_PRETTY |
                                                                                        JSON_C_TO_STRING_NOSLASHESCAPE);
                r = pretty && asprintf(&text, "%s\n", pretty) >= 0 ?
                            layout_add_file(&l, "layout.json", text, strlen(text)) :
                            -ENOMEM;
        }
        if (r < 0)
                layout_done(&l);
        else
                *ret = l;
        return r;
}

int layout_metadata(const Layout *l, char **ret) {
        static const char *const large[] = {
                "block_devices", "lvm", "files", "md", "disks", "problems", "boot", "host"
        };
        int r = json_to_text(l->document, ret);
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(large) && strlen(*ret) > LAYOUT_METADATA_BYTES_MAX; i++) {
                /* a short form: what is missing stands in layout.json */
                free(*ret);
                json_object_object_del(l->document, large[i]);
                json_add_string(l->document, "shortened", "the rest is in layout.json");
                r = json_to_text(l->document, ret);
        }
        return r;
}
