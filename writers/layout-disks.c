/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Disks and what lies on them. Which disks there are says the kernel (/sys/block): those with a device behind them, not
 * those that are made of something on them. Partition tables are read by sfdisk, twice: once for the document, and once
 * in the form that sfdisk itself takes back. What is on partitions is lsblk's word, arrays and volume groups are read
 * from their members, which needs no more rights than to read them.
 */
#include "writers/layout.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

#define SYS_BLOCK "/sys/block"
#define LSBLK_COLUMNS \
        "--output=NAME,KNAME,PATH,PKNAME,TYPE,SIZE,RO,FSTYPE,FSVER,LABEL,UUID,PARTTYPE,PARTUUID,PARTLABEL,PARTFLAGS," \
        "PTTYPE,PTUUID,MOUNTPOINTS"

enum { NAME_BYTES = 64 };

/* ---- which ---- */

static char *attribute(const char *disk, const char *name) {
        _cleanup_free_ char *path = NULL;
        return asprintf(&path, SYS_BLOCK "/%s/%s", disk, name) < 0 ? NULL : layout_read_line(path);
}

static uint64_t number(const char *disk, const char *name) {
        _cleanup_free_ char *text = attribute(disk, name);
        return text ? strtoull(text, NULL, 10) : 0;
}

static bool has(const char *disk, const char *name) {
        _cleanup_free_ char *path = NULL;
        return asprintf(&path, SYS_BLOCK "/%s/%s", disk, name) >= 0 && access(path, F_OK) == 0;
}

/* Media that come and go are no part of the machine. */
static bool is_fixed_disk(const char *disk) {
        return has(disk, "device") && number(disk, "size") > 0 && number(disk, "removable") == 0 &&
               number(disk, "hidden") == 0 && strncmp(disk, "sr", 2) != 0;
}

/* The kernel's name of a device that was named by hand: it may be a link. */
static char *name_of(const char *device) {
        _cleanup_free_ char *real = realpath(device, NULL);
        struct stat st;
        if (!real || stat(real, &st) < 0 || !S_ISBLK(st.st_mode) || strncmp(real, "/dev/", 5) != 0)
                return NULL;
        char *name = strdup(real + 5);
        for (char *c = name; c && *c; c++)
                *c = *c == '/' ? '!' : *c; /* as in /sys */
        return name;
}

/* ---- one disk ---- */

static void add_text(json_object *o, const char *key, char *text) {
        json_add_string(o, key, isempty(text) ? NULL : text);
        free(text);
}

static void add_table(Layout *l, json_object *row, const char *name, const char *path, uint64_t until_usec) {
        const char *const as_json[] = { "sfdisk", "--json", path, NULL }, *const as_dump[] = { "sfdisk", "--dump", path,
                                                                                               NULL };
        _cleanup_(json_object_putp) json_object *answer = NULL;
        _cleanup_free_ char *dump = NULL, *file = NULL;
        size_t size;
        Failure f = {};
        int r = layout_tool(as_dump, until_usec, &dump, &size, &f);
        if (r < 0 && strstr(f.message, "does not contain a recognized partition table"))
                return;
        r = r < 0 ? r : layout_tool_json(as_json, until_usec, &answer, &f);
        if (answer) /* the whole answer is the reader's, the table the document's */
                (void) json_object_object_add(row, "table", json_object_get(json_get_object(answer, "partitiontable")));
        if (dump && asprintf(&file, "disks/%s.sfdisk", name) >= 0) {
                json_add_string(row, "dump", file);
                (void) layout_add_file(l, file, TAKE_PTR(dump), size);
        }
        if (r < 0)
                layout_problem(l, "%s: its partition table cannot be read: %.300s", path, f.message);
}

static int add_disk(Layout *l, json_object *disks, const char *name, uint64_t until_usec) {
        char path[NAME_BYTES + 8];
        json_object *row = json_object_new_object();
        if (!row || json_object_array_add(disks, row) < 0)
                return -ENOMEM;
        (void) snprintf(path, sizeof(path), "/dev/%.*s", NAME_BYTES, name);
        for (char *c = path; *c; c++)
                *c = *c == '!' ? '/' : *c;
        json_add_string(row, "name", name);
        json_add_string(row, "path", path);
        json_add_uint(row, "size", number(name, "size") * 512);
        json_add_uint(row, "sector_size", number(name, "queue/logical_block_size"));
        add_text(row, "model", attribute(name, "device/model"));
        add_text(row, "serial", attribute(name, "device/serial"));
        add_text(row, "wwid", attribute(name, has(name, "wwid") ? "wwid" : "device/wwid"));
        (void) json_object_object_add(row, "table", NULL);
        json_add_string(row, "dump", NULL);
        add_table(l, row, name, path, until_usec);
        return 0;
}

static int add_named(Layout *l, json_object *disks, char *const *devices, uint64_t until_usec) {
        int r = 0;
        for (size_t i = 0; r >= 0 && devices[i]; i++) {
                _cleanup_free_ char *name = name_of(devices[i]);
                if (!name || !has(name, "size"))
                        layout_problem(l, "%s is no whole block device", devices[i]);
                else
                        r = add_disk(l, disks, name, until_usec);
        }
        return r;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
        return strverscmp((*a)->d_name, (*b)->d_name);
}

static int is_listed(const struct dirent *e) {
        return e->d_name[0] != '.' && strlen(e->d_name) < NAME_BYTES && is_fixed_disk(e->d_name);
}

static int add_all(Layout *l, json_object *disks, uint64_t until_usec) {
        struct dirent **list;
        int n = scandir(SYS_BLOCK, &list, is_listed, by_name), r = n < 0 ? -errno : 0;
        for (int i = 0; i < n; i++) {
                if (r >= 0 && i < LAYOUT_DEVICES_MAX)
                        r = add_disk(l, disks, list[i]->d_name, until_usec);
                free(list[i]);
        }
        if (n > LAYOUT_DEVICES_MAX)
                layout_problem(l, "more than %d disks: the others are left out", LAYOUT_DEVICES_MAX);
        if (n >= 0)
                free(list);
        return r;
}

/* ---- what is on them ---- */

static json_object *ask_lsblk(Layout *l, json_object *disks, uint64_t until_usec) {
        enum { WORDS = 5 };
        const char *argv[WORDS + LAYOUT_DEVICES_MAX + 1] = { "lsblk", "--json", "--bytes", "--list", LSBLK_COLUMNS };
        _cleanup_(json_object_putp) json_object *answer = NULL;
        size_t n = json_object_array_length(disks);
        Failure f = {};
        for (size_t i = 0; i < n && i < LAYOUT_DEVICES_MAX; i++)
                argv[WORDS + i] = json_get_string(json_object_array_get_idx(disks, i), "path", "");
        if (n == 0)
                return NULL;
        if (layout_tool_json(argv, until_usec, &answer, &f) < 0) {
                layout_problem(l, "what is on the disks cannot be listed: %.300s", f.message);
                return NULL;
        }
        return json_object_get(json_get_array(answer, "blockdevices"));
}

/* KEY=VALUE a line. */
static json_object *parse_export(char *text) {
        json_object *o = json_object_new_object();
        char *state = NULL;
        for (char *line = strtok_r(text, "\n", &state); o && line; line = strtok_r(NULL, "\n", &state)) {
                char *value = strchr(line, '=');
                if (!value)
                        continue;
                *value++ = '\0';
                json_add_string(o, line, value);
        }
        return o;
}

static int add_arrays(Layout *l, json_object *devices, uint64_t until_usec) {
        json_object *rows = json_object_new_array();
        if (!rows || json_object_object_add(l->document, "md", rows) < 0)
                return -ENOMEM;
        for (size_t i = 0; devices && i < json_object_array_length(devices); i++) {
                json_object *device = json_object_array_get_idx(devices, i);
                const char *path = json_get_string(device, "path", "");
                const char *const argv[] = { "mdadm", "--examine", "--export", path, NULL };
                _cleanup_free_ char *text = NULL;
                size_t size;
                Failure f = {};
                if (!streq(json_get_string(device, "fstype", ""), "linux_raid_member") || path[0] != '/')
                        continue;
                if (layout_tool(argv, until_usec, &text, &size, &f) < 0) {
                        layout_problem(l, "%s is of an array that cannot be read: %.300s", path, f.message);
                        continue;
                }
                json_object *row = parse_export(text);
                json_add_string(row, "path", path);
                (void) json_object_array_add(rows, row);
        }
        return 0;
}

static bool any_is(json_object *devices, const char *type) {
        for (size_t i = 0; devices && i < json_object_array_length(devices); i++)
                if (streq(json_get_string(json_object_array_get_idx(devices, i), "fstype", ""), type))
                        return true;
        return false;
}

/* Without the device mapper, which would need more rights, and without locks: as it is on the disks. */
static int add_groups(Layout *l, json_object *devices, uint64_t until_usec) {
        const char *const argv[] = { "lvm",  "fullreport", "--readonly", "--nolocking", "--reportformat",
                                     "json", "--units=b",  "--nosuffix", "--config",    "devices{hints=\"none\"}",
                                     NULL };
        _cleanup_(json_object_putp) json_object *answer = NULL;
        Failure f = {};
        (void) json_object_object_add(l->document, "lvm", NULL);
        int r = layout_tool_json(argv, until_usec, &answer, &f);
        if (r >= 0)
                return json_object_object_add(l->document, "lvm", json_object_get(json_get_array(answer, "report")));
        if (r != -ENOENT || any_is(devices, "LVM2_member"))
                layout_problem(l, "volume groups cannot be listed: %.300s", f.message);
        return 0;
}

int layout_add_disks(Layout *l, const LayoutOptions *o, uint64_t until_usec) {
        json_object *disks = json_object_new_array();
        if (!disks || json_object_object_add(l->document, "disks", disks) < 0)
                return -ENOMEM;
        int r = o->devices ? add_named(l, disks, o->devices, until_usec) : add_all(l, disks, until_usec);
        if (r < 0)
                return r;
        json_object *devices = ask_lsblk(l, disks, until_usec);
        r = json_object_object_add(l->document, "block_devices", devices);
        r = r < 0 ? r : add_arrays(l, devices, until_usec);
        return r < 0 ? r : add_groups(l, devices, until_usec);
}
